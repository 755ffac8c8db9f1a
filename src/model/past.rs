//! What a block keeps of tokens that it has read.

use std::ops::Range;

use burn::tensor::Tensor;

/// What the next token needs of those before it.
#[derive(Debug, Clone, Default)]
pub(super) enum Past {
    /// No token was read.
    #[default]
    Nothing,
    /// Keys and values, [1, tokens, kv heads, d] each, as far as the next token sees them.
    Keys([Tensor<4>; 2]),
    /// What was carried on to here, which nothing takes back.
    Carried {
        /// The tokens that a convolution sees, [tokens, channels].
        window: Tensor<2>,
        /// States, [heads, features of a key, features of a value], where there are states.
        state: Option<Tensor<3>>,
        /// The number of tokens that were read.
        tokens: usize,
    },
}

impl Past {
    /// Appends keys and values of further tokens; returns all.
    pub(super) fn extend(&mut self, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let all = match std::mem::take(self) {
            Self::Keys([keys, values]) => {
                let [key, value] = new;
                [
                    Tensor::cat(vec![keys, key], 1),
                    Tensor::cat(vec![values, value], 1),
                ]
            }
            _ => new,
        };
        *self = Self::Keys(all.clone());
        all
    }

    /// Returns the window and the states.
    pub(super) fn carried(&self) -> (Option<Tensor<2>>, Option<Tensor<3>>) {
        if let Self::Carried { window, state, .. } = self {
            (Some(window.clone()), state.clone())
        } else {
            (None, None)
        }
    }

    /// Returns the tokens that a convolution sees.
    pub(super) fn window(&self) -> Option<Tensor<2>> {
        self.carried().0
    }

    /// Replaces window and states by those after so many further tokens.
    pub(super) fn carry(&mut self, window: Tensor<2>, state: Option<Tensor<3>>, tokens: usize) {
        let tokens = self.tokens() + tokens;
        *self = Self::Carried {
            window,
            state,
            tokens,
        };
    }

    /// Returns the number of tokens.
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Keys([keys, _]) => keys.dims()[1],
            Self::Carried { tokens, .. } => *tokens,
        }
    }

    /// Whether the last tokens can be taken back, of the `read` that there were.
    pub(super) fn goes_back(&self, read: usize) -> bool {
        !matches!(self, Self::Carried { .. }) && self.tokens() == read
    }

    /// Keeps only some tokens, counted from the first that is there; of what is carried all, or
    /// nothing where the last is taken back.
    pub(super) fn keep(&mut self, tokens: Range<usize>) {
        if tokens.len() >= self.tokens() {
            return;
        }
        *self = match std::mem::take(self) {
            Self::Keys(both) if !tokens.is_empty() => {
                Self::Keys(both.map(|of| of.narrow(1, tokens.start, tokens.len())))
            }
            carried @ Self::Carried { .. } if tokens.end == carried.tokens() => carried,
            _ => Self::Nothing,
        };
    }
}
