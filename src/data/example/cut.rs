//! Cutting of texts that are too long. What the tokenizer puts at the end of a text stays there, as
//! by transformers.

use std::ops::Range;

/// Places that a cut keeps, as at most three runs in order.
pub type Kept = [Range<usize>; 3];

/// Returns the first tokens of a sequence of `len` and its last `closing` ones, `limit` together.
pub fn of_text(len: usize, closing: usize, limit: usize) -> Kept {
    let closing = if limit > closing { closing } else { 0 };
    if len <= limit {
        return [0..len, len..len, len..len];
    }
    [0..limit - closing, len - closing..len, len..len]
}

/// Returns the kept tokens of two texts. Of the longer one more is cut, as `longest_first` of
/// transformers does, and all tokens that the tokenizer put around the texts stay, if they are
/// fewer than `limit`.
///
/// `is_own` tells of each token whether it belongs to a text, and `second` is the first token of
/// the second type, or the number of tokens where there is one type.
pub fn of_pair(is_own: impl Fn(usize) -> bool, len: usize, second: usize, limit: usize) -> Kept {
    let own: Vec<usize> = (0..len).filter(|place| is_own(*place)).collect();
    let around = len - own.len();
    if len <= limit || around >= limit {
        return of_text(len, 0, limit);
    }
    let is_of_second = |index: &usize| {
        let place = own[*index];
        if second < len {
            place >= second
        } else {
            *index > 0 && place > own[*index - 1] + 1
        }
    };
    let border = (0..own.len()).find(is_of_second).unwrap_or(own.len());
    let [of_first, of_second] = shares([border, own.len() - border], limit - around);
    let start = own[0] + of_first;
    let between = if border > 0 {
        own[border - 1] + 1
    } else {
        start
    };
    let second = own.get(border).map_or(between, |start| start + of_second);
    [0..start, between..second, own[own.len() - 1] + 1..len]
}

/// Returns how many tokens of two texts are kept, `limit` together at most: the longer one is cut
/// down to the shorter first, and then both; an odd token is of the longer one.
fn shares([first, second]: [usize; 2], limit: usize) -> [usize; 2] {
    if first + second <= limit {
        return [first, second];
    }
    let short = first.min(second).min(limit / 2);
    if first > second {
        [limit - short, short]
    } else {
        [short, limit - short]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(kept: Kept) -> Vec<usize> {
        kept.into_iter().flatten().collect()
    }

    #[test]
    fn the_end_of_a_text_stays() {
        assert_eq!(kept(of_text(5, 1, 9)), [0, 1, 2, 3, 4]);
        assert_eq!(kept(of_text(6, 1, 4)), [0, 1, 2, 5]);
        assert_eq!(kept(of_text(6, 0, 4)), [0, 1, 2, 3]);
        assert_eq!(kept(of_text(6, 2, 2)), [0, 1], "no room for a text");
    }

    /// transformers with `truncation=True` (a tokenizer of BERT, one of `RoBERTa`, and one without
    /// special tokens): `max_length` and the texts that are left.
    #[test]
    fn the_longer_of_two_texts_is_cut_first() {
        for (lengths, limit, left) in [
            ([6, 3], 10, [4, 3]),
            ([6, 3], 9, [3, 3]),
            ([6, 3], 8, [3, 2]),
            ([3, 6], 8, [2, 3]),
            ([4, 4], 8, [2, 3]),
            ([4, 4], 7, [2, 2]),
            ([9, 1], 7, [3, 1]),
            ([1, 9], 5, [1, 1]),
        ] {
            let [first, second] = lengths;
            for (form, typed) in [("cAAsBBs", true), ("cAAssBBs", false), ("AABB", true)] {
                // The special tokens before, between and after the texts.
                let own = form.find("AA").expect("a text");
                let [before, rest] = [&form[..own], &form[own + 2..]];
                let other = rest.find("BB").expect("a text");
                let [between, after] = [&rest[..other], &rest[other + 2..]];
                let around = before.len() + between.len() + after.len();
                let limit = limit - 3 + around;
                let start = before.len() + first + between.len();
                let len = start + second + after.len();
                let is_own = |place: usize| {
                    (before.len()..before.len() + first).contains(&place)
                        || (start..start + second).contains(&place)
                };
                let found = kept(of_pair(is_own, len, if typed { start } else { len }, limit));
                let expected: Vec<usize> = (0..before.len() + left[0])
                    .chain(before.len() + first..start + left[1])
                    .chain(start + second..len)
                    .collect();
                assert_eq!(found, expected, "{form}, {lengths:?} in {limit}");
            }
        }
        assert_eq!(kept(of_pair(|_| true, 4, 4, 3)), [0, 1, 2]);
    }
}
