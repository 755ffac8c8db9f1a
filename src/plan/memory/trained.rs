//! The trained parameters of a model, as sizes.

use crate::adapter::{AdapterError, LoraConfig, TablePart};
use crate::model::{DecoderSpec, LinearSpec, Role};
use crate::terms::{AdapterVector, Method};

/// The trained parameters of a model, as sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trained {
    pub(super) method: Method,
    /// Rank of the adapter of each projection in checkpoint order; 0 for none.
    pub(super) ranks: Vec<usize>,
    /// Outputs of each projection.
    pub(super) outputs: Vec<usize>,
    /// What each adapter has in addition to A and B.
    pub(super) vector: Option<AdapterVector>,
    /// Whether the initial matrices of adapters are kept beside them.
    pub(super) keeps_initial: bool,
    /// The trained parts of the embedding and of the head.
    pub(super) tables: [OfTable; 2],
}

/// The trained part of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfTable {
    /// Matrices of this rank; 0 for none.
    Rank(usize),
    /// This many rows. A head that shares those of the embedding needs no memory for them.
    Rows(usize),
    /// A copy of the table.
    Whole,
}

impl OfTable {
    /// Returns the trained parameters for a table of this vocabulary and width.
    pub(super) fn numbers(self, [vocabulary, width]: [usize; 2]) -> u64 {
        let numbers = match self {
            Self::Rank(rank) => rank * (vocabulary + width),
            Self::Rows(rows) => rows * width,
            Self::Whole => vocabulary * width,
        };
        numbers as u64
    }

    /// Returns the shapes of its tensors.
    pub(super) fn shapes(self, [vocabulary, width]: [usize; 2]) -> Vec<Vec<usize>> {
        match self {
            Self::Rank(0) | Self::Rows(0) => Vec::new(),
            Self::Rank(rank) => vec![vec![rank, vocabulary], vec![width, rank]],
            Self::Rows(rows) => vec![vec![rows, width]],
            Self::Whole => vec![vec![vocabulary, width]],
        }
    }

    /// Returns the size of its largest tensor.
    pub(super) fn largest(self, [vocabulary, width]: [usize; 2]) -> u64 {
        if let Self::Rank(rank) = self {
            (rank * vocabulary) as u64
        } else {
            self.numbers([vocabulary, width])
        }
    }

    fn of(
        config: &LoraConfig,
        modules: &[LinearSpec],
        is_it: impl Fn(&LinearSpec) -> bool,
    ) -> Result<Self, AdapterError> {
        let names: Vec<String> = modules.iter().map(|module| module.name.clone()).collect();
        let target = config
            .table_targets(modules)?
            .into_iter()
            .find(|target| is_it(&target.module));
        let matrices = |name: &String| {
            modules
                .iter()
                .any(|module| module.name == *name && is_it(module))
        };
        let rank = config
            .resolve(&names)?
            .iter()
            .find(|target| matrices(&target.module))
            .map_or(0, |target| target.rank);
        Ok(match target.map(|target| target.part) {
            Some(TablePart::Whole) => Self::Whole,
            Some(TablePart::Rows(tokens)) => Self::Rows(tokens.len()),
            Some(TablePart::Shared(_)) => Self::Rows(0),
            None => Self::Rank(rank),
        })
    }
}

impl Trained {
    /// Returns the sizes of an adapter.
    ///
    /// # Errors
    /// See [`LoraConfig::resolve`].
    pub fn adapter(config: &LoraConfig, spec: &DecoderSpec) -> Result<Self, AdapterError> {
        let modules = spec.modules();
        let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
        let targets = config.resolve(&names)?;
        let rank = |linear: &LinearSpec| {
            targets
                .iter()
                .find(|target| target.module == linear.name)
                .map_or(0, |target| target.rank)
        };
        let embedding = OfTable::of(config, &modules, |module| module.role == Role::Embedding)?;
        let head = OfTable::of(config, &modules, |module| {
            matches!(module.role, Role::Head | Role::TiedHead)
        })?;
        let projections = || modules.iter().filter(|module| !module.is_table());
        let (ranks, outputs) = (
            projections().map(rank).collect(),
            projections().map(|linear| linear.outputs).collect(),
        );
        Ok(Self {
            method: Method::Lora,
            ranks,
            outputs,
            vector: config.vector,
            keeps_initial: config.is_principal,
            tables: [embedding, head],
        })
    }

    /// Returns whether no row of the head itself is trained. A quantized head could not be.
    pub(super) fn trains_no_row_of_head(&self) -> bool {
        matches!(self.tables[1], OfTable::Rank(_))
    }

    /// Returns the sizes of a model that trains nothing.
    pub fn nothing(spec: &DecoderSpec) -> Self {
        Self {
            method: Method::Lora,
            ..Self::everything(spec)
        }
    }

    /// Returns the sizes of full fine-tuning.
    pub fn everything(spec: &DecoderSpec) -> Self {
        let outputs: Vec<usize> = spec
            .projections()
            .iter()
            .map(|linear| linear.outputs)
            .collect();
        let ranks = vec![0; outputs.len()];
        Self {
            method: Method::Full,
            ranks,
            outputs,
            vector: None,
            keeps_initial: false,
            tables: [OfTable::Rank(0); 2],
        }
    }
}
