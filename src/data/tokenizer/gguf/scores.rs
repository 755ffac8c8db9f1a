//! Merges of a `SentencePiece` vocabulary, which a GGUF file tells by scores alone: two pieces are
//! merged where they make a third one, the one with the highest score first.

use std::collections::HashMap;

/// Maximum size of a piece. Those in use have up to 93 bytes.
const MAX_PIECE_BYTES: usize = 512;
/// Maximum number of merges; Gemma has 580 thousand.
const MAX_MERGES: usize = 1_000_000;

/// A piece of the vocabulary that others may make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    /// Merged before those with a lower score.
    pub score: f32,
}

/// Returns every pair of `ids` that makes one of `pieces`, in the order in which they are merged:
/// by the score of what they make, then by the length of the left part, as `generate_merges` of
/// transformers 5.24 does.
///
/// # Errors
/// The reason why there are too many.
pub(super) fn merges<'a>(
    pieces: &[Piece<'a>],
    ids: &HashMap<&str, u32>,
) -> Result<Vec<[&'a str; 2]>, String> {
    let mut found = Vec::new();
    for piece in pieces {
        let text = piece.text;
        if text.len() > MAX_PIECE_BYTES {
            return Err(format!(
                "one of its pieces has {} bytes, expected at most {MAX_PIECE_BYTES}",
                text.len()
            ));
        }
        let first = found.len();
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if let (Some(of_left), Some(of_right)) = (ids.get(left), ids.get(right)) {
                found.push((piece.score, [left, right], [*of_left, *of_right]));
            }
        }
        found[first..].sort_by_key(|(.., ids)| *ids);
        if found.len() > MAX_MERGES {
            return Err(format!("its pieces make over {MAX_MERGES} merges"));
        }
    }
    let chars = |text: &str| text.chars().count();
    found.sort_by(|(a, left, _), (b, right, _)| {
        b.total_cmp(a)
            .then_with(|| chars(right[0]).cmp(&chars(left[0])))
    });
    Ok(found.into_iter().map(|(_, pair, _)| pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_merged_by_the_score_of_what_they_make() {
        let texts = ["a", "b", "c", "ab", "bc", "abc", "d"];
        let ids = texts
            .iter()
            .zip(0..)
            .map(|(text, id)| (*text, id))
            .collect();
        let pieces: Vec<Piece> = [("ab", -2.0), ("bc", -1.0), ("abc", -3.0), ("d", 0.0)]
            .map(|(text, score)| Piece { text, score })
            .into();
        assert_eq!(
            merges(&pieces, &ids),
            Ok(vec![["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]])
        );
        let long = "x".repeat(MAX_PIECE_BYTES + 1);
        let pieces = [Piece {
            text: &long,
            score: 0.0,
        }];
        assert!(merges(&pieces, &ids).is_err());
    }
}
