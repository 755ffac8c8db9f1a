//! The tables of a decoder that train: copies and rows as they are attached, and the base's own
//! tables in an adapter's file.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::AdapterError;
use super::numbers::Numbers;
use super::tables::{SAVED, TOKENS, TablePart, TableTarget, refused};
use crate::model::{Decoder, LinearSpec, Role};
use crate::nn::table::EmbeddingTable;
use crate::nn::trainable_table::{TokenRows, TrainableTable};

/// Makes copies of tables and of rows that train, with the numbers given or with the base's.
pub(super) fn attach(
    decoder: &mut Decoder,
    targets: &[TableTarget],
    numbers: Option<&Numbers>,
) -> Result<(), AdapterError> {
    let device = decoder.device();
    for TableTarget { module, part } in targets {
        let given = numbers
            .and_then(|numbers| numbers.get(&module.name))
            .map(|[numbers, _]| &numbers[..]);
        let of_embedding = decoder.embedding.own.clone();
        let table = if module.role == Role::Embedding {
            &mut decoder.embedding
        } else {
            &mut decoder.head.table
        };
        match (part, of_embedding) {
            (TablePart::Whole, _) => *table = copied(table, module, given, &device)?,
            (TablePart::Rows(tokens), _) => {
                table.own = Some(TrainableTable::Rows(rows(
                    table, module, tokens, given, &device,
                )?));
            }
            (TablePart::Shared(_), Some(TrainableTable::Rows(rows))) => {
                table.own = Some(TrainableTable::Shared(rows));
            }
            (TablePart::Shared(_), _) => {
                unreachable!("what is shared stands behind the embedding's")
            }
        }
    }
    Ok(())
}

/// Makes a table that trains whole, in f32.
fn copied(
    table: &EmbeddingTable,
    module: &LinearSpec,
    given: Option<&[f32]>,
    device: &Device,
) -> Result<EmbeddingTable, AdapterError> {
    let whole = table
        .whole()
        .filter(|whole| whole.device() == *device)
        .ok_or_else(|| kept_otherwise(SAVED, module))?;
    let numbers = match given {
        Some(given) => matrix(given, module.weight_shape(), device),
        None => whole.clone().cast(DType::F32),
    };
    let mut copy = EmbeddingTable::from(numbers);
    copy.own = Some(TrainableTable::Whole);
    Ok(copy)
}

/// Makes rows that train, in f32.
fn rows(
    table: &EmbeddingTable,
    module: &LinearSpec,
    tokens: &[u32],
    given: Option<&[f32]>,
    device: &Device,
) -> Result<TokenRows, AdapterError> {
    let [vocabulary, width] = module.weight_shape();
    if table.is_packed() {
        return Err(kept_otherwise(TOKENS, module));
    }
    let ids: Vec<i32> = tokens.iter().map(|token| token.cast_signed()).collect();
    let rows = match given {
        Some(given) => matrix(given, [tokens.len(), width], device),
        None => table
            .select(Tensor::<1, Int>::from_data(
                TensorData::from(&ids[..]),
                device,
            ))
            .cast(DType::F32),
    };
    Ok(TokenRows::new(rows, tokens, vocabulary))
}

fn matrix(numbers: &[f32], shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(numbers.to_vec(), shape),
        (device, DType::F32),
    )
}

fn kept_otherwise(key: &'static str, module: &LinearSpec) -> AdapterError {
    let message = format!(
        "`{}` is packed, on another device, or larger than a tensor of the device, and \
        trains as one",
        module.name
    );
    refused(
        key,
        message,
        "remove `quantize_head` or `offload_embedding`, or train it by low-rank \
        matrices with `target_modules`",
    )
}

/// Replaces the base's tables by those in the adapter's file, as PEFT does; most are the same.
///
/// # Errors
/// A table differs from the base's, which is packed or in pieces.
pub(super) fn put_bases(
    decoder: &mut Decoder,
    modules: &[LinearSpec],
    numbers: &Numbers,
) -> Result<(), AdapterError> {
    let is_tied = modules.iter().any(|linear| linear.role == Role::TiedHead);
    for (linear, theirs) in bases(modules, numbers) {
        let table = if linear.role == Role::Embedding {
            &mut decoder.embedding
        } else {
            &mut decoder.head.table
        };
        let Some(theirs) = differing(table, linear, theirs)? else {
            continue;
        };
        *table = EmbeddingTable::from(theirs);
        if is_tied && linear.role == Role::Embedding {
            decoder.head.table = decoder.embedding.clone();
        }
    }
    Ok(())
}

/// Refuses tables in the adapter's file that differ from the base's, where they would not be saved
/// again.
///
/// # Errors
/// There is such a table.
pub fn check_bases(decoder: &Decoder, numbers: &Numbers) -> Result<(), AdapterError> {
    for (linear, theirs) in bases(&decoder.spec.modules(), numbers) {
        let table = if linear.role == Role::Embedding {
            &decoder.embedding
        } else {
            &decoder.head.table
        };
        if differing(table, linear, theirs)?.is_some() {
            return Err(AdapterError::OtherTable {
                module: linear.name.clone(),
            });
        }
    }
    Ok(())
}

/// Returns embedding and head whose base tables are in the adapter's file.
fn bases<'a>(modules: &'a [LinearSpec], numbers: &'a Numbers) -> Vec<(&'a LinearSpec, &'a [f32])> {
    let of = |linear: &'a LinearSpec| {
        let [base, _] = numbers.get(&format!("{}.base_layer", linear.name))?;
        Some((linear, base.as_slice()))
    };
    modules
        .iter()
        .filter(|linear| linear.is_table())
        .filter_map(of)
        .collect()
}

/// Returns a table in the type of the base's, where it differs.
fn differing(
    table: &EmbeddingTable,
    module: &LinearSpec,
    numbers: &[f32],
) -> Result<Option<Tensor<2>>, AdapterError> {
    let whole = table.whole().ok_or_else(|| AdapterError::OtherTable {
        module: module.name.clone(),
    })?;
    let theirs = matrix(numbers, module.weight_shape(), &whole.device()).cast(whole.dtype());
    let read = |tensor: Tensor<2>| {
        tensor
            .cast(DType::F32)
            .into_data()
            .iter::<f32>()
            .collect::<Vec<_>>()
    };
    Ok((read(theirs.clone()) != read(whole.clone())).then_some(theirs))
}
