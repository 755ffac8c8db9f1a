//! The gradient proof on a GPU of this machine, where there is one, a software one included: of
//! wgpu, or with `RANKINE_TEST_DEVICE=cuda` of CUDA.
#![cfg(any(feature = "wgpu", feature = "cuda"))]

mod common;

use burn::tensor::{Device, Tensor};
use common::{golden, tested_families, tested_gpu};
use rankine::device::{self, FoundDevice, HalfPrecision};
use rankine::model::{DecoderSpec, Storage};
use rankine::proof::{ProbeModel, prove};
use rankine::quant::QuantFormat;
use rankine::terms::{Method, ModelDtype};

/// The GPU, if a product of it comes back.
fn adapter() -> Option<Device> {
    let device = device::open(tested_gpu()?.device).unwrap();
    let ones = Tensor::<2>::ones([2, 2], &device);
    assert_eq!(
        ones.clone()
            .matmul(ones)
            .into_data()
            .iter::<f32>()
            .collect::<Vec<_>>(),
        [2.0; 4]
    );
    Some(device)
}

#[test]
fn training_on_an_adapter_is_that_on_the_cpu() {
    let Some(device) = adapter() else { return };
    for trained in [Method::Lora, Method::Full] {
        let verdict = prove(
            &ProbeModel::of_all_mechanisms(ModelDtype::Auto, trained),
            &device,
        )
        .unwrap();
        println!("all mechanisms, {trained}: {verdict}");
        assert!(verdict.is_proven(), "{trained}: {verdict}");
    }
}

/// Packed projections and head, and an embedding on the host.
#[test]
fn training_on_packed_bases_is_that_on_the_cpu() {
    let Some(device) = adapter() else { return };
    for form in [QuantFormat::QLORA, QuantFormat::Int8] {
        let storage = Storage {
            form: Some(form),
            packs_head: true,
            offloads_embedding: true,
            ..ModelDtype::Auto.into()
        };
        let verdict = prove(
            &ProbeModel::of_all_mechanisms(storage, Method::Lora),
            &device,
        )
        .unwrap();
        println!("all mechanisms, {form}: {verdict}");
        assert!(verdict.is_proven(), "{form}: {verdict}");
    }
}

#[test]
fn every_family_is_proven_on_an_adapter() {
    let Some(device) = adapter() else { return };
    for family in tested_families() {
        let spec =
            DecoderSpec::read(&golden(&format!("archs/{family}/model/config.json"))).unwrap();
        let verdict = prove(
            &ProbeModel::of(&spec, ModelDtype::Auto, Method::Lora),
            &device,
        )
        .unwrap();
        println!("{family}: {verdict}");
        assert!(verdict.is_proven(), "{family}: {verdict}");
    }
}

#[test]
fn training_in_16_bits_is_that_on_the_cpu_but_for_rounding() {
    let Some(device) = adapter() else { return };
    let found = tested_gpu().map(FoundDevice::halves);
    let Some(HalfPrecision::Computed(Some(half))) = found else {
        println!("skipped: the adapter computes in 32 bits only");
        return;
    };
    let verdict = prove(&ProbeModel::of_all_mechanisms(half, Method::Lora), &device).unwrap();
    println!("all mechanisms, {half}: {verdict}");
    assert!(verdict.is_proven(), "{half}: {verdict}");
    for family in tested_families() {
        let spec =
            DecoderSpec::read(&golden(&format!("archs/{family}/model/config.json"))).unwrap();
        let verdict = prove(&ProbeModel::of(&spec, half, Method::Lora), &device).unwrap();
        println!("{family}, {half}: {verdict}");
        assert!(verdict.is_proven(), "{family}: {verdict}");
    }
}
