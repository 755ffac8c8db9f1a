//! The tables of embedding and head that train whole or by rows, as PEFT resolves `modules_to_save`
//! and `trainable_token_indices` (`set_additional_trainable_modules` of
//! <https://github.com/huggingface/peft>).

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::attach::Numbers;
use super::target::named;
use super::{AdapterError, LoraConfig};
use crate::model::{Decoder, LinearSpec, Role};
use crate::nn::table::EmbeddingTable;
use crate::nn::trainable_table::{TokenRows, TrainableTable};
use crate::terms::TokenIndices;

/// Keys of a recipe, and of PEFT's config.
pub(super) const SAVED: &str = "modules_to_save";
pub(super) const TOKENS: &str = "trainable_token_indices";

/// The parts of embedding and head that train in addition to low-rank matrices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// Modules that train and are saved whole.
    pub saved: Vec<String>,
    /// Tokens whose rows train.
    pub tokens: Option<TokenIndices>,
}

/// A table with a part that trains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableTarget {
    /// The module.
    pub module: LinearSpec,
    /// The part that trains.
    pub part: TablePart,
}

/// A part of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TablePart {
    /// The whole table.
    Whole,
    /// The rows of these tokens.
    Rows(Vec<u32>),
    /// The rows of these tokens, shared with the embedding: nothing more is saved.
    Shared(Vec<u32>),
}

impl TableTarget {
    /// Returns the shape of the saved tensor; `None` where nothing is saved.
    pub fn shape(&self) -> Option<[usize; 2]> {
        let [rows, width] = self.module.weight_shape();
        match &self.part {
            TablePart::Whole => Some([rows, width]),
            TablePart::Rows(tokens) => Some([tokens.len(), width]),
            TablePart::Shared(_) => None,
        }
    }

    /// Returns the name of the saved tensor, below `base_model.model.`.
    pub fn tensor(&self) -> String {
        match self.part {
            TablePart::Whole => self.module.weight(),
            TablePart::Rows(_) | TablePart::Shared(_) => {
                format!("{}.token_adapter.trainable_tokens_delta", self.module.name)
            }
        }
    }
}

impl Tables {
    /// Low-rank matrices only.
    pub const NONE: Self = Self {
        saved: Vec::new(),
        tokens: None,
    };

    /// Whether no table trains whole or by rows.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }
}

impl LoraConfig {
    /// Returns the tables that train whole or by rows, for a model with these modules; the
    /// embedding first.
    ///
    /// # Errors
    /// A name belongs to no table, a token to no row, or a table is trained in two ways.
    pub fn table_targets(&self, modules: &[LinearSpec]) -> Result<Vec<TableTarget>, AdapterError> {
        if self.tables.is_empty() {
            return Ok(Vec::new());
        }
        let mut targets = Vec::new();
        for name in &self.tables.saved {
            let module = find(SAVED, name, modules)?.clone();
            if module.bias {
                return Err(AdapterError::Config {
                    place: SAVED.to_owned(),
                    message: format!(
                        "`{name}` has a bias, which PEFT would train along, known is a table \
                        without"
                    ),
                });
            }
            add(
                &mut targets,
                TableTarget {
                    module,
                    part: TablePart::Whole,
                },
                SAVED,
            )?;
        }
        for (module, tokens) in self
            .tables
            .tokens
            .iter()
            .flat_map(|tokens| of_tokens(tokens, modules))
        {
            let module = module?;
            check_tokens(tokens, module)?;
            add(
                &mut targets,
                TableTarget {
                    module: module.clone(),
                    part: TablePart::Rows(tokens.clone()),
                },
                TOKENS,
            )?;
        }
        share(&mut targets, modules)?;
        self.check_matrices(&targets, modules)?;
        targets.sort_by_key(|target| target.module.role != Role::Embedding);
        Ok(targets)
    }

    /// Whether tied embedding and head become two tables, because something is added to only one of
    /// them.
    pub fn unties(&self, modules: &[LinearSpec]) -> bool {
        let names: Vec<String> = modules
            .iter()
            .filter(|module| module.is_table())
            .map(|module| module.name.clone())
            .collect();
        let has_matrices = self
            .resolve(&names)
            .is_ok_and(|targets| !targets.is_empty());
        let targets = self.table_targets(modules).unwrap_or_default();
        let is_shared = targets
            .iter()
            .any(|target| matches!(target.part, TablePart::Shared(_)));
        modules.iter().any(|module| module.role == Role::TiedHead)
            && (has_matrices || (!targets.is_empty() && !is_shared))
    }

    /// Refuses low-rank matrices on a saved module: PEFT wraps no module twice.
    fn check_matrices(
        &self,
        targets: &[TableTarget],
        modules: &[LinearSpec],
    ) -> Result<(), AdapterError> {
        let names: Vec<String> = modules.iter().map(|module| module.name.clone()).collect();
        let with_matrices = self.resolve(&names)?;
        let Some(twice) = targets.iter().find(|table| {
            with_matrices
                .iter()
                .any(|target| target.module == table.module.name)
        }) else {
            return Ok(());
        };
        let key = if twice.part == TablePart::Whole {
            SAVED
        } else {
            TOKENS
        };
        Err(refused(
            key,
            format!("`{}` is among the `target_modules` too", twice.module.name),
            "name it in one of the two",
        ))
    }
}

/// Gives a tied head the rows of the embedding, as PEFT does, unless the config names others for
/// it.
fn share(targets: &mut Vec<TableTarget>, modules: &[LinearSpec]) -> Result<(), AdapterError> {
    let Some(head) = modules.iter().find(|module| module.role == Role::TiedHead) else {
        return Ok(());
    };
    let of_embedding = targets.iter().find_map(|target| match &target.part {
        TablePart::Rows(tokens) if target.module.role == Role::Embedding => Some(tokens.clone()),
        _ => None,
    });
    let Some(tokens) = of_embedding else {
        return Ok(());
    };
    match targets.iter_mut().find(|target| target.module == *head) {
        None => targets.push(TableTarget {
            module: head.clone(),
            part: TablePart::Shared(tokens),
        }),
        Some(target) if target.part == TablePart::Rows(tokens.clone()) => {
            target.part = TablePart::Shared(tokens);
        }
        Some(target) if target.part == TablePart::Whole => {
            let message = format!(
                "the rows of the embedding are those of `{}` too, which is among the `{SAVED}`",
                head.name
            );
            return Err(refused(TOKENS, message, "remove one of the two"));
        }
        Some(_) => {}
    }
    Ok(())
}

fn add(
    targets: &mut Vec<TableTarget>,
    target: TableTarget,
    key: &'static str,
) -> Result<(), AdapterError> {
    if targets.iter().any(|other| other.module == target.module) {
        let message = format!(
            "`{}` is named twice, here and in `{SAVED}` or `{TOKENS}`",
            target.module.name
        );
        return Err(refused(key, message, "name it once"));
    }
    targets.push(target);
    Ok(())
}

/// Returns the modules and their tokens.
fn of_tokens<'a>(
    tokens: &'a TokenIndices,
    modules: &'a [LinearSpec],
) -> Vec<(Result<&'a LinearSpec, AdapterError>, &'a Vec<u32>)> {
    match tokens {
        TokenIndices::Embedding(tokens) => {
            let embedding = modules.iter().find(|module| module.role == Role::Embedding);
            let missing = || {
                refused(
                    TOKENS,
                    "the model has no embedding".to_owned(),
                    "name a module",
                )
            };
            vec![(embedding.ok_or_else(missing), tokens)]
        }
        TokenIndices::Modules(named) => named
            .iter()
            .map(|(name, tokens)| (find(TOKENS, name, modules), tokens))
            .collect(),
    }
}

/// Finds the table with a name.
fn find<'a>(
    key: &'static str,
    name: &str,
    modules: &'a [LinearSpec],
) -> Result<&'a LinearSpec, AdapterError> {
    modules
        .iter()
        .find(|module| module.is_table() && named(&module.name, name))
        .ok_or_else(|| {
            let known: Vec<String> = modules
                .iter()
                .filter(|module| module.is_table())
                .map(|module| format!("`{}`", module.name))
                .collect();
            let is_projection = modules.iter().any(|module| named(&module.name, name));
            let hint = if is_projection {
                "give it an adapter with `target_modules`, or train all weights with `method: full`"
            } else {
                "other modules train with `method: full`"
            };
            refused(
                key,
                format!(
                    "`{name}` is neither the embedding nor the head, which are {}",
                    known.join(" and ")
                ),
                hint,
            )
        })
}

/// Checks that each token is there once and has a row.
fn check_tokens(tokens: &[u32], module: &LinearSpec) -> Result<(), AdapterError> {
    let [vocabulary, _] = module.weight_shape();
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    if let Some(beyond) = sorted.last().filter(|token| **token as usize >= vocabulary) {
        let message = format!(
            "token {beyond} has no row in `{}`, which has {vocabulary}",
            module.name
        );
        return Err(refused(
            TOKENS,
            message,
            "use ids of the base's tokens, or add tokens by name with `tokens.add`",
        ));
    }
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(refused(
            TOKENS,
            format!("token {} is named twice for `{}`", pair[0], module.name),
            "name it once",
        )),
        None if tokens.is_empty() => Err(refused(
            TOKENS,
            format!("no tokens are named for `{}`", module.name),
            "name some, or remove it",
        )),
        None => Ok(()),
    }
}

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

pub(super) fn refused(key: &'static str, message: String, hint: &'static str) -> AdapterError {
    AdapterError::Table { key, message, hint }
}
