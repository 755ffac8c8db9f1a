//! The tables of embedding and head that train whole or by rows, as PEFT resolves `modules_to_save`
//! and `trainable_token_indices` (`set_additional_trainable_modules` of
//! <https://github.com/huggingface/peft>).

use super::module_names::named;
use super::{AdapterError, LoraConfig};
use crate::model::{LinearSpec, Role};
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

pub(super) fn refused(key: &'static str, message: String, hint: &'static str) -> AdapterError {
    AdapterError::Table { key, message, hint }
}
