//! How the token cache stores a row: its form, its labels and its numbers; see
//! [`super::token_cache`].

use crate::terms::RowForm;

/// Returns a hash of ids, labels and form. Rows of one sequence have the hash of their ids and
/// labels alone.
pub(super) fn content(ids: &[u8], bits: &[u8], form: RowForm, values: &[f32]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(ids).update(bits);
    if form != RowForm::Single {
        for number in numbers_of(form) {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&bytes_of(values));
    }
    u64_at(hasher.finalize().as_bytes(), 0)
}

/// Returns the form as it is stored: its kind and its numbers.
pub(super) fn numbers_of(form: RowForm) -> [u32; 3] {
    match form {
        RowForm::Single => [0, 0, 0],
        RowForm::Pair {
            chosen,
            has_margin: false,
        } => [1, chosen, 0],
        RowForm::Rated { desirable } => [2, u32::from(desirable), 0],
        RowForm::Weighted { bits } => [3, bits, 0],
        RowForm::Pair {
            chosen,
            has_margin: true,
        } => [4, chosen, 0],
        RowForm::Tagged { values } => [5, values, 0],
        RowForm::Labeled { values, second } => [6, values, second],
        RowForm::Texts => [8, 0, 0],
    }
}

/// Returns how many numbers follow the labels of a row.
pub(super) fn values_of(form: RowForm) -> usize {
    match form {
        RowForm::Single | RowForm::Weighted { .. } | RowForm::Rated { .. } | RowForm::Texts => 0,
        RowForm::Pair { has_margin, .. } => usize::from(has_margin),
        RowForm::Labeled { values, .. } | RowForm::Tagged { values } => values as usize,
    }
}

/// Returns the numbers of a form as they are stored.
pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Returns the form of its kind and its numbers.
pub(super) fn form_of([kind, number, other]: [u32; 3]) -> RowForm {
    match kind {
        1 | 4 => RowForm::Pair {
            chosen: number,
            has_margin: kind == 4,
        },
        6 => RowForm::Labeled {
            values: number,
            second: other,
        },
        5 => RowForm::Tagged { values: number },
        2 => RowForm::Rated {
            desirable: number == 1,
        },
        3 => RowForm::Weighted { bits: number },
        8 => RowForm::Texts,
        _ => RowForm::Single,
    }
}

/// Returns labels as bits, the first token in the lowest.
pub(super) fn pack(trained: &[bool]) -> Vec<u8> {
    trained
        .chunks(8)
        .map(|eight| {
            eight
                .iter()
                .rev()
                .fold(0, |byte, trained| byte << 1 | u8::from(*trained))
        })
        .collect()
}

/// Returns the label of a token.
pub(super) fn bit(bits: &[u8], token: usize) -> bool {
    bits[token / 8] >> (token % 8) & 1 == 1
}

/// Returns the number of 8 bytes at a place.
pub(super) fn u64_at(bytes: &[u8], start: usize) -> u64 {
    u64::from_le_bytes(
        *bytes[start..]
            .first_chunk()
            .expect("headers and entries have a fixed length"),
    )
}
