//! The device of a run, and how it keeps the base.

use super::adapter::Trains;
use super::training::Training;
use crate::device::{self, Choice, FoundDevice, HalfPrecision};
use crate::fault::Fault;
use crate::files::{cache_folder, guarded};
use crate::model::{self, Storage};
use crate::proof::{self, ProbeModel, Products};
use crate::terms::{Device, ModelDtype};
use crate::{panics, recipe};

/// Returns the device that was named, or the best one on which training is proven, and how the base
/// is stored there.
pub(super) fn device_and_storage(
    said: Device,
    base: &model::Folder,
    trains: &Trains,
    asked: Storage,
    training: &Training,
) -> (Choice, Storage) {
    let storage_with = |halves: HalfPrecision| storage(base, trains, asked, halves);
    let tiny = |found: &FoundDevice| {
        ProbeModel::of(&base.spec, storage_with(found.halves()), trains.method())
    };
    let choice = choose_device(said, training, &tiny);
    let storage = storage_with(device::halves(choice.device));
    (choice, storage)
}

/// Returns the device that was named, or the best one on which training is proven.
fn choose_device(
    said: Device,
    training: &Training,
    tiny: &dyn Fn(&FoundDevice) -> ProbeModel,
) -> Choice {
    // A device is opened for its proof already.
    device::allow_tf32(training.allow_tf32);
    let proven = |found: &FoundDevice| {
        let products = Products::new(training.allow_tf32 && found.has_tf32());
        is_proven(found, &tiny(found), products)
    };
    device::choose(said, &|found| {
        found.takes(training.model_dtype) && proven(found)
    })
}

/// Returns the fault if the recipe asks for a dtype, or for TF32, that the device does not have. A
/// device that is not listed is checked when it is opened.
pub(super) fn refused_by_device(training: &recipe::Training, device: Device) -> Option<Fault> {
    let found = device::find(device)?;
    let dtype = training
        .model_dtype
        .as_ref()
        .and_then(|said| Some((said, found.refusal(said.value)?)));
    if let Some((said, refusal)) = dtype {
        let hint = "choose another type or device; a run goes on where its type is taken";
        return Some(
            Fault::new(format!("training.model_dtype: {refusal}"))
                .at(&said.place)
                .hint(hint),
        );
    }
    let said = training.allow_tf32.as_ref().filter(|said| said.value)?;
    let fault =
        Fault::new(format!("training.allow_tf32: {}", found.tf32_refusal()?)).at(&said.place);
    Some(fault.hint("remove `allow_tf32`, or name such a GPU, such as `device: cuda`"))
}

/// Returns how the base is stored on a device. Trained weights are f32.
fn storage(
    base: &model::Folder,
    trains: &Trains,
    asked: Storage,
    halves: HalfPrecision,
) -> Storage {
    match trains {
        Trains::Everything => ModelDtype::Float32.into(),
        // Of weights that cannot be read, loading tells.
        Trains::Adapter(_) => base.kept_in(asked, halves).unwrap_or(Storage {
            dtype: ModelDtype::Float32,
            ..asked
        }),
    }
}

/// Returns whether training is proven on a GPU, so that `auto` may choose it. If it has not been
/// proven yet, it is proven now. A GPU that fails is passed over, and later errors are not blamed
/// on it.
fn is_proven(found: &FoundDevice, tiny: &ProbeModel, products: Products) -> bool {
    let prove = || {
        device::open(found.device).is_ok_and(|device| {
            proof::prove_once(found, tiny, &device, products, &cache_folder()).is_ok()
        })
    };
    let is_proven = guarded(prove).unwrap_or(false);
    if !is_proven {
        panics::forget();
    }
    is_proven
}
