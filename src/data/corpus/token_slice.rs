//! A row of the token cache, cut to a length.

use std::ops::Range;

use super::token_record::{bit, content, pack};
use crate::data::example::cut::{self, Kept};
use crate::data::example::token_row::{RatedRow, ScoredRow, TokenRow};
use crate::terms::RowForm;

/// The tokens of one row, borrowed from the cache. A pair has those of both sequences, the chosen
/// one first.
#[derive(Debug, Clone, Copy)]
pub struct TokenSlice<'a> {
    pub(super) ids: &'a [[u8; 4]],
    pub(super) bits: &'a [u8],
    pub(super) form: RowForm,
    /// The numbers of the form.
    pub(super) values: &'a [[u8; 4]],
    /// Tokens that close a text.
    pub(super) closing: usize,
    /// Tokens that are kept of each sequence at most.
    pub(super) limit: usize,
    pub(super) trained_tokens: usize,
    /// Hash of ids, labels and form from the cache; `None` for a row that was cut.
    pub(super) content: Option<u64>,
}

impl TokenSlice<'_> {
    /// Returns the places of the tokens of each sequence; the second is empty but for pairs. Of
    /// texts both are empty.
    fn sequences(&self) -> [Range<usize>; 2] {
        let all = self.ids.len();
        let first = match self.form {
            RowForm::Pair { chosen, .. } => (chosen as usize).min(all),
            RowForm::Texts => return [0..0, 0..0],
            _ => all,
        };
        [0..first, first..all]
    }

    /// Returns the places of the tokens of each text.
    fn text_places(&self) -> Vec<Range<usize>> {
        if self.form != RowForm::Texts {
            return Vec::new();
        }
        let all = self.ids.len();
        let starts: Vec<usize> = (0..all).filter(|place| !bit(self.bits, *place)).collect();
        let ends = starts.iter().skip(1).copied().chain([all]);
        starts
            .iter()
            .zip(ends)
            .map(|(start, end)| *start..end)
            .collect()
    }

    /// Returns the places of the kept tokens of a sequence. Completions are cut at their end; what
    /// is read as a whole keeps the tokens that close it.
    fn kept(&self, sequence: &Range<usize>) -> Kept {
        match self.form {
            RowForm::Labeled { second, .. } => {
                let is_own = |place: usize| bit(self.bits, place);
                let second = second as usize;
                if second >= sequence.len() && sequence.clone().all(is_own) {
                    self.kept_as_text(sequence)
                } else {
                    cut::of_pair(is_own, sequence.len(), second, self.limit)
                }
            }
            RowForm::Texts | RowForm::Tagged { .. } => self.kept_as_text(sequence),
            RowForm::Single
            | RowForm::Weighted { .. }
            | RowForm::Pair { .. }
            | RowForm::Rated { .. } => {
                moved(cut::of_text(sequence.len(), 0, self.limit), sequence.start)
            }
        }
    }

    fn kept_as_text(&self, sequence: &Range<usize>) -> Kept {
        let kept = cut::of_text(sequence.len(), self.closing, self.limit);
        moved(kept, sequence.start)
    }

    /// Returns the places of the kept tokens of all sequences; some may be empty.
    fn all_sequences(&self) -> impl Iterator<Item = Kept> {
        let sequences = self.text_places().into_iter().chain(self.sequences());
        sequences.map(|sequence| self.kept(&sequence))
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        self.all_sequences().flatten().flatten()
    }

    fn id(&self, place: usize) -> u32 {
        u32::from_le_bytes(self.ids[place])
    }

    fn sequence(&self, places: Kept) -> TokenRow {
        let places = places.into_iter().flatten();
        TokenRow {
            ids: places.clone().map(|place| self.id(place)).collect(),
            trained: places.map(|place| bit(self.bits, place)).collect(),
        }
    }

    /// Returns the form of the row.
    pub fn form(&self) -> RowForm {
        self.form
    }

    /// Returns the number of tokens in the row.
    pub fn len(&self) -> usize {
        self.all_sequences().map(|of| length(&of)).sum()
    }

    /// Returns the number of tokens in its longest sequence.
    pub fn longest(&self) -> usize {
        let lengths = self.all_sequences().map(|of| length(&of));
        lengths.fold(0, usize::max)
    }

    /// Whether there was nothing to learn in the row.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the token ids.
    pub fn ids(&self) -> Vec<u32> {
        self.places().map(|place| self.id(place)).collect()
    }

    /// Returns whether each token is a target; the first of a sequence never is.
    pub fn trained(&self) -> Vec<bool> {
        self.places().map(|place| bit(self.bits, place)).collect()
    }

    /// Returns the tokens of a row of preferences; `None` of any other.
    pub fn rated(&self) -> Option<RatedRow> {
        let [first, second] = self.sequences().map(|sequence| self.kept(&sequence));
        match self.form {
            RowForm::Single
            | RowForm::Weighted { .. }
            | RowForm::Texts
            | RowForm::Labeled { .. }
            | RowForm::Tagged { .. } => None,
            RowForm::Pair { .. } => Some(RatedRow::Pair(
                [first, second].map(|places| self.sequence(places)),
            )),
            RowForm::Rated { desirable } => Some(RatedRow::Rated(self.sequence(first), desirable)),
        }
    }

    /// Returns the tokens of each text; none of a row of any other form.
    pub fn texts(&self) -> Vec<Vec<u32>> {
        let texts = self.text_places().into_iter();
        texts
            .map(|text| self.sequence(self.kept(&text)).ids)
            .collect()
    }

    /// Returns a row to score; `None` of any that has neither labels nor two sequences.
    pub fn scored(&self) -> Option<ScoredRow> {
        let values = self.values();
        let sequences = self.sequences();
        match self.form {
            RowForm::Single | RowForm::Weighted { .. } | RowForm::Rated { .. } | RowForm::Texts => {
                None
            }
            RowForm::Pair { .. } => Some(ScoredRow::Pair(
                sequences.map(|sequence| self.sequence(self.kept_as_text(&sequence))),
                values.first().copied().map_or(0.0, f64::from),
            )),
            RowForm::Labeled { .. } => Some(ScoredRow::Text {
                row: self.sequence(self.kept(&sequences[0])),
                second: self.kept_of_first_type(),
                values,
            }),
            RowForm::Tagged { .. } => Some(ScoredRow::Tokens(
                self.sequence(self.kept(&sequences[0])),
                values,
            )),
        }
    }

    /// Returns the number of kept tokens before those of the second type.
    fn kept_of_first_type(&self) -> usize {
        let second = match self.form {
            RowForm::Labeled { second, .. } => second as usize,
            _ => usize::MAX,
        };
        self.places().filter(|place| *place < second).count()
    }

    /// Returns the numbers of the form, those of tokens that were cut off left out.
    pub fn values(&self) -> Vec<f32> {
        let kept = match self.form {
            RowForm::Tagged { .. } => self.trained_tokens,
            _ => self.values.len(),
        };
        self.values[..kept]
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect()
    }

    /// Returns the number of tokens that are targets.
    pub fn trained_tokens(&self) -> usize {
        self.trained_tokens
    }

    /// Returns the number of targets of the first sequence.
    pub fn first_trained_tokens(&self) -> usize {
        let [first, _] = self.sequences();
        let places = self.kept(&first).into_iter().flatten();
        places.filter(|place| bit(self.bits, *place)).count()
    }

    /// Returns the number of tokens of the first sequence.
    pub fn first_len(&self) -> usize {
        length(&self.kept(&self.sequences()[0]))
    }

    /// Whether a sequence of the row has no target.
    pub fn has_untrained_sequence(&self) -> bool {
        match self.form {
            RowForm::Pair { .. } => {
                let of_chosen = self.first_trained_tokens();
                of_chosen == 0 || of_chosen == self.trained_tokens
            }
            RowForm::Texts => false,
            _ => self.trained_tokens == 0,
        }
    }

    /// Whether both sequences of a pair are the same.
    pub fn has_equal_halves(&self) -> bool {
        let ids = |sequence: &Range<usize>| self.sequence(self.kept(sequence)).ids;
        let [chosen, rejected] = self.sequences();
        matches!(self.form, RowForm::Pair { .. }) && ids(&chosen) == ids(&rejected)
    }

    /// Returns the highest id.
    pub fn highest_id(&self) -> Option<u32> {
        self.places().map(|place| self.id(place)).max()
    }

    /// Whether a token is a target somewhere in the row.
    pub fn trains(&self, id: u32) -> bool {
        self.places()
            .any(|place| self.id(place) == id && bit(self.bits, place))
    }

    /// Whether a token is somewhere in the row.
    pub fn has(&self, id: u32) -> bool {
        self.places().any(|place| self.id(place) == id)
    }

    /// Returns a hash of ids, labels and form; equal for equal rows.
    pub fn content(&self) -> u64 {
        self.content.unwrap_or_else(|| {
            let form = match self.form {
                RowForm::Pair { has_margin, .. } => RowForm::Pair {
                    chosen: self.first_len() as u32,
                    has_margin,
                },
                RowForm::Tagged { .. } => RowForm::Tagged {
                    values: self.trained_tokens as u32,
                },
                RowForm::Labeled { values, .. } => RowForm::Labeled {
                    values,
                    second: self.kept_of_first_type() as u32,
                },
                other => other,
            };
            let values = self.values();
            content(&self.id_bytes(), &pack(&self.trained()), form, &values)
        })
    }

    /// Returns a hash of the ids alone; equal for rows with the same tokens, whichever are trained.
    pub fn text(&self) -> u64 {
        content(&self.id_bytes(), &[], RowForm::Single, &[])
    }

    fn id_bytes(&self) -> Vec<u8> {
        self.places().flat_map(|place| self.ids[place]).collect()
    }

    /// Returns the row with each sequence cut to its first `len` tokens.
    #[must_use]
    pub fn first(self, len: usize) -> Self {
        if len >= self.longest() {
            return self;
        }
        let cut = Self {
            limit: len,
            content: None,
            ..self
        };
        let trained_tokens = cut.places().filter(|place| bit(cut.bits, *place)).count();
        Self {
            trained_tokens,
            ..cut
        }
    }
}

/// Returns kept places of a sequence that begins at a place.
fn moved(kept: Kept, start: usize) -> Kept {
    kept.map(|run| run.start + start..run.end + start)
}

fn length(kept: &Kept) -> usize {
    kept.iter().map(ExactSizeIterator::len).sum()
}
