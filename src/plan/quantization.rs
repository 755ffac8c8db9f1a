//! Quantization of a frozen base: the section `adapter`, checked against the base, which may
//! already be quantized.

use serde_json::{Value, json};

use super::adapter::Trains;
use super::base::Base;
use super::filled::{Filled, Origin};
use crate::adapter::{LoraConfig, TablePart, TableTarget};
use crate::device::HalfPrecision;
use crate::fault::Fault;
use crate::model::{DecoderSpec, Role, Storage};
use crate::quant::{BlockSize, QuantFormat};
use crate::recipe::{self, Location, Said};
use crate::terms::{Initial, ModelDtype, Offload, Quantization, Technique, Term};

/// The quantization and storage of the base that a recipe asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packing {
    form: Option<QuantFormat>,
    packs_head: bool,
    /// `auto` is resolved when the run's memory is known.
    pub offload: Offload,
}

/// The origin of settings that follow from a quantized base.
const STORED: Origin = Origin::Derived("as the base is stored");

/// Fills the settings of quantization; full fine-tuning has none.
pub(super) fn packing(
    recipe: &recipe::Adapter,
    trains: Option<&Trains>,
    base: Option<&Base>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Packing {
    // Of weights that cannot be read, loading tells.
    let kept = base.and_then(|base| {
        base.model
            .kept_in(ModelDtype::Auto, HalfPrecision::Widened)
            .ok()
    });
    let stored = kept.and_then(|kept| kept.form);
    if trains == Some(&Trains::Everything) {
        if let Some(stored) = stored {
            let message = format!(
                "adapter.method: `full` trains every weight, and those of the \
                base are stored in {stored}"
            );
            let fault = recipe
                .method
                .iter()
                .fold(Fault::new(message), |fault, said| fault.at(&said.place));
            faults.push(fault.hint("name the base that it was made of, or train an adapter"));
        }
        return Packing {
            form: None,
            packs_head: false,
            offload: Offload::Never,
        };
    }
    let asked = asked(recipe, stored, filled, faults);
    refuse_other_form(recipe, stored, asked, faults);
    refuse_numbers_as_gguf(recipe, base, stored, faults);
    let form = stored.or(asked);
    let has_packed_head = kept.is_some_and(|kept| kept.packs_head);
    let said = recipe.quantize_head.as_ref();
    let packs_head = match form {
        None => refused_head(said, faults),
        Some(_) if has_packed_head => packed_head(said, filled, faults),
        Some(_) => filled.plain("adapter.quantize_head", said, false),
    };
    let said = recipe.offload_embedding.as_ref();
    let offload = filled.word("adapter.offload_embedding", said, Offload::Auto);
    if base.is_some_and(|base| base.model.spec.tied_head) {
        refuse_tied(recipe, faults);
    }
    refuse_stored_start(recipe, stored, faults);
    let packing = Packing {
        form,
        packs_head,
        offload,
    };
    if let (Some(Trains::Adapter(config)), Some(base)) = (trains, base) {
        check_tables(recipe, config, &base.model.spec, packing, faults);
    }
    packing
}

/// Refuses a quantization that is not the one in which the base is stored.
fn refuse_other_form(
    recipe: &recipe::Adapter,
    stored: Option<QuantFormat>,
    asked: Option<QuantFormat>,
    faults: &mut Vec<Fault>,
) {
    let quantization = recipe.quantization.as_ref();
    let double_quant = recipe.double_quant.as_ref();
    let block_size = recipe.block_size.as_ref();
    let said = [
        quantization.map(|said| ("quantization", &said.place)),
        double_quant.map(|said| ("double_quant", &said.place)),
        block_size.map(|said| ("block_size", &said.place)),
    ];
    let other = stored.filter(|stored| asked != Some(*stored));
    if let (Some(stored), Some((key, place))) = (other, said.into_iter().flatten().next()) {
        let asked = asked.map_or_else(|| "none".to_owned(), |asked| asked.to_string());
        let fault = Fault::new(format!(
            "adapter.{key}: the base is stored in {stored}, the recipe asks for {asked}"
        ))
        .at(place);
        faults.push(fault.hint("remove the key, or name the base that it was made of"));
    }
}

/// Refuses to take plain numbers as they are packed in the base's file.
fn refuse_numbers_as_gguf(
    recipe: &recipe::Adapter,
    base: Option<&Base>,
    stored: Option<QuantFormat>,
    faults: &mut Vec<Fault>,
) {
    let said = recipe.quantization.as_ref();
    let said = said.filter(|said| said.value == Quantization::Gguf);
    if let (Some(said), Some(_), None) = (said, base, stored) {
        let message = "adapter.quantization: `gguf` takes the blocks of a GGUF file, and the base \
            is stored as plain numbers";
        let hint = "remove the key, or write `method: qlora`";
        faults.push(Fault::new(message).at(&said.place).hint(hint));
    }
}

/// Refuses what a base with one table for its embedding and its head cannot have.
fn refuse_tied(recipe: &recipe::Adapter, faults: &mut Vec<Fault>) {
    let head = recipe.quantize_head.as_ref().filter(|said| said.value);
    let offload = recipe.offload_embedding.as_ref();
    let offload = offload.filter(|said| said.value == Offload::Always);
    let keys = [
        head.map(|said| ("quantize_head", &said.place)),
        offload.map(|said| ("offload_embedding", &said.place)),
    ];
    for (key, place) in keys.into_iter().flatten() {
        let message = format!(
            "adapter.{key}: the base has one table for its embedding and its head, which stays as \
            it is"
        );
        let fault = Fault::new(message).at(place);
        faults.push(fault.hint(format!("remove `{key}`")));
    }
}

/// Refuses to start as a part of weights that are stored quantized.
fn refuse_stored_start(
    recipe: &recipe::Adapter,
    stored: Option<QuantFormat>,
    faults: &mut Vec<Fault>,
) {
    let start = recipe.init_lora_weights.as_ref();
    let principal = start.filter(|said| said.value == Initial::Principal);
    if let (Some(said), Some(stored)) = (principal, stored) {
        let message = format!(
            "adapter.init_lora_weights: `pissa` takes a part out of the base's weights, and those \
            are stored in {stored}"
        );
        let hint = "name the base that it was made of, and pack what remains with `method: qlora`";
        faults.push(Fault::new(message).at(&said.place).hint(hint));
    }
}

/// Checks the tables. A table that is trained whole or in rows is not quantized, and is kept where
/// its gradients are.
fn check_tables(
    recipe: &recipe::Adapter,
    config: &LoraConfig,
    spec: &DecoderSpec,
    packing: Packing,
    faults: &mut Vec<Fault>,
) {
    // What does not resolve is a fault already.
    for TableTarget { module, part } in config.table_targets(&spec.modules()).unwrap_or_default() {
        let (is_wrong, key, is_said) = match module.role {
            Role::Embedding => (
                packing.offload == Offload::Always && part == TablePart::Whole,
                "offload_embedding",
                recipe.offload_embedding.is_some(),
            ),
            _ => (
                packing.packs_head && !spec.tied_head,
                "quantize_head",
                recipe.quantize_head.is_some(),
            ),
        };
        if !is_wrong {
            continue;
        }
        let (what, place) = match part {
            TablePart::Whole => (
                "modules_to_save",
                recipe.modules_to_save.as_ref().map(|said| &said.place),
            ),
            _ => (
                "trainable_token_indices",
                recipe
                    .trainable_token_indices
                    .as_ref()
                    .map(|said| &said.place),
            ),
        };
        let message = format!(
            "adapter.{what}: `{}` trains in numbers on the device, and with `{key}` it is \
            kept otherwise",
            module.name
        );
        let hint = if is_said {
            format!("remove `{key}`, or train it by low-rank matrices with `target_modules`")
        } else {
            "train it by low-rank matrices with `target_modules`, or on the base that this one was \
            made of"
                .to_owned()
        };
        faults.push(
            place
                .iter()
                .fold(Fault::new(message).hint(hint), |fault, place| {
                    fault.at(place)
                }),
        );
    }
}

/// Returns the quantization that the recipe asks for. If the base is already quantized, it provides
/// what the recipe does not state.
fn asked(
    recipe: &recipe::Adapter,
    stored: Option<QuantFormat>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<QuantFormat> {
    let word = stored.map(QuantFormat::word);
    let of_blocks = match stored {
        Some(QuantFormat::FourBit {
            block_size,
            double_quant,
            ..
        }) => Some((block_size, double_quant)),
        _ => None,
    };
    let is_qlora = recipe
        .method
        .as_ref()
        .is_some_and(|method| method.value == Technique::Qlora);
    let default = if is_qlora {
        Quantization::Nf4
    } else {
        Quantization::None
    };
    let said = recipe.quantization.as_ref();
    let word = or_stored(
        filled,
        "adapter.quantization",
        said,
        word,
        default,
        |word| json!(word.word()),
    );
    if !matches!(word, Quantization::Nf4 | Quantization::Fp4) {
        refuse_blocks(recipe, word, faults);
        if word == Quantization::Gguf {
            return stored.filter(|stored| stored.word() == word);
        }
        return QuantFormat::of(word, BlockSize::DEFAULT, false);
    }
    let (size, nested) = of_blocks.unzip();
    let said = recipe.double_quant.as_ref();
    let double_quant = or_stored(
        filled,
        "adapter.double_quant",
        said,
        nested,
        is_qlora,
        |nested| json!(nested),
    );
    let (said, default) = (recipe.block_size.as_ref(), BlockSize::DEFAULT);
    let block_size = or_stored(filled, "adapter.block_size", said, size, default, |size| {
        json!(size.numbers())
    });
    QuantFormat::of(word, block_size, double_quant)
}

/// Refuses `double_quant` and `block_size` for formats other than 4 bits.
fn refuse_blocks(recipe: &recipe::Adapter, word: Quantization, faults: &mut Vec<Fault>) {
    let double_quant = recipe
        .double_quant
        .as_ref()
        .filter(|said| said.value)
        .map(|said| ("double_quant", &said.place));
    let block_size = recipe
        .block_size
        .as_ref()
        .map(|said| ("block_size", &said.place));
    for (key, place) in double_quant.into_iter().chain(block_size) {
        let fault = Fault::new(format!(
            "adapter.{key} goes with `quantization: nf4` and `fp4`, it is `{word}`"
        ))
        .at(place);
        faults.push(fault.hint(format!("remove `{key}`, or write `method: qlora`")));
    }
}

/// Returns the given value, the stored one, or the default.
fn or_stored<T: Clone>(
    filled: &mut Filled,
    key: &str,
    said: Option<&Said<T>>,
    stored: Option<T>,
    default: T,
    show: impl Fn(&T) -> Value,
) -> T {
    match stored.filter(|_| said.is_none()) {
        Some(stored) => {
            filled.put(key, show(&stored), STORED);
            stored
        }
        None => filled.fill(key, said, default, show),
    }
}

/// Returns whether the head is quantized, for a base that is stored with a quantized head.
fn packed_head(said: Option<&Said<bool>>, filled: &mut Filled, faults: &mut Vec<Fault>) -> bool {
    if let Some(Said { place, .. }) = said.filter(|said| !said.value) {
        let fault = Fault::new(
            "adapter.quantize_head: the base is stored with its head packed, the recipe \
            asks for one that is not",
        );
        faults.push(
            fault
                .at(place)
                .hint("remove the key, or name the base that it was made of"),
        );
    }
    or_stored(
        filled,
        "adapter.quantize_head",
        said,
        Some(true),
        true,
        |packs| json!(packs),
    )
}

fn refused_head(said: Option<&Said<bool>>, faults: &mut Vec<Fault>) -> bool {
    if let Some(Said { place, .. }) = said.filter(|said| said.value) {
        let fault =
            Fault::new("adapter.quantize_head goes with a `quantization`, and there is none")
                .at(place as &Location);
        faults.push(fault.hint("remove `quantize_head`, or write `method: qlora`"));
    }
    false
}

impl Packing {
    /// Returns the storage of the base in this dtype.
    pub fn storage(self, dtype: ModelDtype) -> Storage {
        let Self {
            form,
            packs_head,
            offload,
        } = self;
        Storage {
            dtype,
            form,
            stored_bytes: None,
            left_dense: 0,
            packs_head,
            offloads_embedding: offload == Offload::Always,
        }
    }
}
