//! The same rows give the same loss and gradients however they are batched, packed, padded or
//! recomputed, with dropout too.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::*;
use rankine::adapter::{LoraConfig, attach};
use rankine::data::{Batch, Packs, TokenRow, Visit};
use rankine::model::{Decoder, Folder, Storage};
use rankine::quant::QuantFormat;
use rankine::terms::{AdapterVector, ModelDtype};
use rankine::train::{Gradients, Memory, StepConfig, forward_backward, score};

const LOSS: f32 = 1e-5;
const GRADIENTS: f32 = 1e-4;

/// Eight rows of different lengths with prompts of different lengths.
fn rows(vocabulary: u32) -> Vec<TokenRow> {
    let row = |index: u32| {
        let length = 5 + (index * 7) % 12;
        let ids = (0..length)
            .map(|place| (index * 131 + place * 37 + 11) % vocabulary)
            .collect();
        TokenRow {
            ids,
            trained: (0..length).map(|place| place > index % 4).collect(),
        }
    };
    (0..8).map(row).collect()
}

/// Every family as it is, and two packed.
fn models() -> impl Iterator<Item = (String, Decoder)> {
    // Its rotation depends on the longest row of a micro-batch, as in transformers.
    let families = FAMILIES
        .into_iter()
        .filter(|family| *family != "phi3_longrope");
    let plain = families.map(|family| (family.to_owned(), model(family, None)));
    let packed = [("llama", QuantFormat::QLORA), ("qwen3", QuantFormat::Int8)];
    let packed =
        packed.map(|(family, form)| (format!("{family}, {form}"), model(family, Some(form))));
    // With what trains of embedding and head, one base packed.
    let tables = TABLES.map(|(family, variant)| {
        let form = (family == "llama").then_some(QuantFormat::QLORA);
        let mut decoder = base(family, form);
        attach_peft(
            &mut decoder,
            &golden(&format!("archs/{family}/variants/{variant}/adapter")),
        );
        (format!("{variant} on {family}"), decoder)
    });
    // With vectors: a family with biases of its own, one whose projections are fused, and one that
    // is packed.
    let vectors = [
        ("qwen2", None),
        ("phi3", None),
        ("llama", Some(QuantFormat::QLORA)),
    ]
    .into_iter()
    .flat_map(|(family, form)| {
        [AdapterVector::Bias, AdapterVector::Magnitude].map(|vector| {
            (
                format!("{family}, {vector:?}"),
                model_with(family, form, Some(vector)),
            )
        })
    });
    plain.chain(packed).chain(tables).chain(vectors)
}

fn base(family: &str, form: Option<QuantFormat>) -> Decoder {
    let folder = Folder::open(&golden(&format!("archs/{family}/model"))).unwrap();
    let storage = Storage {
        form,
        ..ModelDtype::Auto.into()
    };
    folder.load(storage, &Device::flex(), &|_| {}).unwrap()
}

/// A model with an adapter whose B is not zero, so that every gradient flows.
fn model(family: &str, form: Option<QuantFormat>) -> Decoder {
    model_with(family, form, None)
}

fn model_with(family: &str, form: Option<QuantFormat>, vector: Option<AdapterVector>) -> Decoder {
    let mut decoder = base(family, form);
    let config = LoraConfig {
        vector,
        ..lora(4, 8.0)
    };
    attach(&mut decoder, &config, 7, None).unwrap();
    for lora in decoder.adapters_mut() {
        let [rank, outputs] = lora.b.dims();
        let values: Vec<f32> = (0..rank * outputs)
            .map(|index| 0.1 * ((index as f32) * 0.7).sin())
            .collect();
        lora.b = Tensor::from_data(TensorData::new(values, [rank, outputs]), &Device::flex());
    }
    decoder
}

/// The eight rows in micro-batches of `size`.
fn in_order(rows: &[TokenRow], size: usize) -> Vec<Batch> {
    let places: Vec<usize> = (0..rows.len()).collect();
    places
        .chunks(size)
        .map(|places| of_places(rows, places))
        .collect()
}

fn of_places(rows: &[TokenRow], places: &[usize]) -> Batch {
    Batch::new(
        places
            .iter()
            .map(|place| (*place as u64, rows[*place].clone())),
    )
}

/// Rows as long as the longest: behind their own tokens come some that carry no loss.
fn padded(rows: &[TokenRow]) -> Vec<TokenRow> {
    let longest = rows.iter().map(|row| row.ids.len()).max().unwrap();
    let pad = |row: &TokenRow| {
        let behind = longest - row.ids.len();
        TokenRow {
            ids: [&row.ids[..], &vec![0; behind]].concat(),
            trained: [&row.trained[..], &vec![false; behind]].concat(),
        }
    };
    rows.iter().map(pad).collect()
}

/// Mean loss and gradients of the eight rows in these micro-batches.
fn step(decoder: &Decoder, batches: &[Batch], config: StepConfig) -> (f64, Vec<f32>) {
    let (mut gradients, mut sum, mut trained) = (Gradients::default(), 0.0, 0);
    for batch in batches {
        let loss = forward_backward(decoder, batch, config, [42, 3], &mut gradients);
        (sum, trained) = (sum + loss.sum, trained + loss.trained_tokens);
    }
    let mean = 1.0 / trained as f64;
    let gradients = gradients.scaled(mean);
    (
        sum * mean,
        gradients
            .all()
            .iter()
            .flat_map(|gradient| gradient.to_data().iter::<f32>().collect::<Vec<_>>())
            .collect(),
    )
}

#[test]
fn micro_batches_and_recomputation_change_nothing() {
    for (family, decoder) in models() {
        let rows = rows(decoder.spec.vocabulary as u32);
        for dropout in [0.0, 0.1] {
            let config = |memory, head_chunk_rows| StepConfig {
                memory,
                head_chunk_rows,
                dropout,
            };
            let (loss, gradients) = step(
                &decoder,
                &in_order(&rows, 8),
                config(Memory::RECOMPUTE, 256),
            );
            let mut differences: Vec<(f32, f32)> = Vec::new();
            for memory in [Memory::RECOMPUTE, Memory::KEEP] {
                for (size, chunk) in [(8, 256), (1, 256), (2, 3), (4, 1)] {
                    let (other_loss, other) =
                        step(&decoder, &in_order(&rows, size), config(memory, chunk));
                    differences.push((
                        (loss - other_loss).abs() as f32,
                        difference(&gradients, &other),
                    ));
                }
            }
            let (losses, gradients): (Vec<f32>, Vec<f32>) = differences.into_iter().unzip();
            let (loss, gradient) = (largest(losses.into_iter()), largest(gradients.into_iter()));
            println!("{family}, dropout {dropout}: loss {loss:.1e} gradients {gradient:.1e}");
            assert!(
                loss <= LOSS && gradient <= GRADIENTS,
                "{family}, dropout {dropout}: {loss}, {gradient}"
            );
        }
    }
}

/// Packed, padded and alone: the same losses of the same tokens, and the same gradients.
#[test]
fn packs_change_nothing() {
    for (family, decoder) in models() {
        let rows = rows(decoder.spec.vocabulary as u32);
        let lengths: Vec<u32> = rows.iter().map(|row| row.ids.len() as u32).collect();
        let packs = Packs::best_fit(&lengths, 32, Visit::Shuffled { seed: 42, epoch: 3 });
        assert!(packs.len() < 6, "several rows a pack: {packs:?}");
        let of_packs = |size: usize| -> Vec<Batch> {
            let batch = |first: usize| {
                packs
                    .rows(first..packs.len().min(first + size))
                    .iter()
                    .map(|row| *row as usize)
            };
            (0..packs.len())
                .step_by(size)
                .map(|first| of_places(&rows, &batch(first).collect::<Vec<_>>()))
                .collect()
        };
        for dropout in [0.0, 0.1] {
            let config = StepConfig {
                memory: Memory::RECOMPUTE,
                head_chunk_rows: 256,
                dropout,
            };
            let (loss, gradients) = step(&decoder, &in_order(&rows, 1), config);
            let layouts = [
                ("packs", of_packs(1)),
                ("two packs at a time", of_packs(2)),
                ("rows of a micro-batch", in_order(&rows, 8)),
                ("padded rows", in_order(&padded(&rows), 1)),
                ("padded rows of a micro-batch", in_order(&padded(&rows), 4)),
            ];
            for (layout, batches) in layouts {
                let (other_loss, other) = step(&decoder, &batches, config);
                let (loss, gradient) = (
                    (loss - other_loss).abs() as f32,
                    difference(&gradients, &other),
                );
                println!(
                    "{family}, dropout {dropout}, {layout}: loss {loss:.1e} gradients \
                    {gradient:.1e}"
                );
                assert!(
                    loss <= LOSS && gradient <= GRADIENTS,
                    "{family}, dropout {dropout}, {layout}: {loss}, {gradient}"
                );
            }
        }
    }
}

/// Every token's loss, and not their sum alone.
#[test]
fn a_row_scores_the_same_wherever_it_stands() {
    for (family, decoder) in models() {
        let rows = rows(decoder.spec.vocabulary as u32);
        let alone: Vec<Vec<f32>> = in_order(&rows, 1)
            .iter()
            .map(|batch| score(&decoder, batch, 256))
            .collect();
        for places in [
            [0, 1, 2, 3, 4, 5, 6, 7],
            [7, 6, 5, 4, 3, 2, 1, 0],
            [3, 0, 6, 1, 7, 2, 5, 4],
        ] {
            let expected: Vec<f32> = places
                .iter()
                .flat_map(|place| alone[*place].clone())
                .collect();
            let difference =
                difference(&score(&decoder, &of_places(&rows, &places), 256), &expected);
            println!("{family}, {places:?}: {difference:.1e}");
            assert!(difference <= LOSS, "{family}, {places:?}: {difference}");
        }
    }
}

/// What is computed again is computed the same: not a bit of the result tells which blocks it was.
#[test]
fn any_number_of_blocks_can_recompute() {
    for (family, decoder) in models() {
        let batches = in_order(&rows(decoder.spec.vocabulary as u32), 4);
        let of = |recomputed| {
            step(
                &decoder,
                &batches,
                StepConfig {
                    memory: Memory { recomputed },
                    head_chunk_rows: 7,
                    dropout: 0.1,
                },
            )
        };
        let kept = of(0);
        for recomputed in 1..=decoder.blocks.len() {
            assert_eq!(of(recomputed), kept, "{family}, {recomputed} blocks");
        }
    }
}

#[test]
fn dropout_changes_the_loss_and_its_mask_depends_on_the_epoch() {
    let decoder = model("llama", None);
    let batch = batch(rows(decoder.spec.vocabulary as u32));
    let loss = |dropout, epoch| {
        let config = StepConfig {
            memory: Memory::RECOMPUTE,
            head_chunk_rows: 256,
            dropout,
        };
        forward_backward(
            &decoder,
            &batch,
            config,
            [42, epoch],
            &mut Gradients::default(),
        )
        .sum
    };
    assert_ne!(loss(0.0, 0), loss(0.5, 0));
    assert_ne!(loss(0.5, 0), loss(0.5, 1));
    assert_eq!(loss(0.5, 1), loss(0.5, 1));
}

#[test]
fn a_number_that_is_not_one_is_within_no_bound() {
    assert!(largest([0.0, f32::NAN, 1.0].into_iter()).is_nan());
    assert!(difference(&[f32::NAN], &[0.0]).is_nan());
}

#[test]
fn a_base_that_is_kept_as_it_is_stored_gives_the_same_bits() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    let of = |dtype| {
        let mut decoder = Folder::open(&folder)
            .unwrap()
            .load(dtype, &Device::flex(), &|_| {})
            .unwrap();
        attach(&mut decoder, &lora(4, 8.0), 7, None).unwrap();
        let kept_in = decoder
            .projections()
            .map(|projection| projection.weight.dense().expect("not packed").dtype())
            .collect::<Vec<_>>();
        let batches = in_order(&rows(decoder.spec.vocabulary as u32), 8);
        (
            kept_in[0],
            step(
                &decoder,
                &batches,
                StepConfig {
                    memory: Memory::KEEP,
                    head_chunk_rows: 64,
                    dropout: 0.0,
                },
            ),
        )
    };
    let [(auto, as_stored), (wide, widened)] = [ModelDtype::Auto, ModelDtype::Float32].map(of);
    assert_eq!((auto, wide), (DType::BF16, DType::F32));
    assert_eq!(as_stored, widened);
}
