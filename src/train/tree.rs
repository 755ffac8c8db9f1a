//! Sums whose order of addition does not depend on who adds.
//!
//! The micro-batches of a step are the leaves of a binary tree that their number fixes: 0+1, 2+3,
//! .., then pairs of pairs. Neighboring leaves make whole subtrees, so that ranks, devices or
//! threads that hold some of them each reach the same bits as one that holds all.

/// A binary counter of partial sums: two of equal height become one. For n leaves it holds at most
/// log2(n) + 1 numbers at a time.
#[derive(Debug, Clone)]
pub(super) struct TreeSum<T> {
    add: fn(T, T) -> T,
    /// Sums of whole subtrees with their heights, in descending order; `None` is the sum of absent
    /// leaves.
    partial: Vec<(u32, Option<T>)>,
}

impl<T> TreeSum<T> {
    /// Makes a sum without leaves; `add` gets the lower leaves first.
    pub fn new(add: fn(T, T) -> T) -> Self {
        Self {
            add,
            partial: Vec::new(),
        }
    }

    /// Adds the next leaf. An absent leaf has a place in the tree and adds nothing.
    pub fn push(&mut self, leaf: Option<T>) {
        let (mut height, mut sum) = (0, leaf);
        while let Some((_, lower)) = self.partial.pop_if(|(other, _)| *other == height) {
            (height, sum) = (height + 1, self.both(lower, sum));
        }
        self.partial.push((height, sum));
    }

    /// Returns the sum of all leaves, as if absent leaves filled up the tree; `None` where there is
    /// no leaf.
    pub fn total(mut self) -> Option<T> {
        let (_, mut sum) = self.partial.pop()?;
        while let Some((_, lower)) = self.partial.pop() {
            sum = self.both(lower, sum);
        }
        sum
    }

    fn both(&self, lower: Option<T>, upper: Option<T>) -> Option<T> {
        match (lower, upper) {
            (Some(lower), Some(upper)) => Some((self.add)(lower, upper)),
            (lower, upper) => lower.or(upper),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Add;

    use super::*;

    /// Returns the sum of a subtree of 2^height leaves from `first` on.
    fn explicit(leaves: &[Option<f32>], first: usize, height: u32) -> Option<f32> {
        if height == 0 {
            return leaves.get(first).copied().flatten();
        }
        let lower = explicit(leaves, first, height - 1);
        let upper = explicit(leaves, first + (1 << (height - 1)), height - 1);
        match (lower, upper) {
            (Some(lower), Some(upper)) => Some(lower + upper),
            (lower, upper) => lower.or(upper),
        }
    }

    fn total(leaves: &[Option<f32>]) -> Option<f32> {
        let mut sum = TreeSum::new(f32::add);
        for leaf in leaves {
            sum.push(*leaf);
        }
        sum.total()
    }

    /// Returns leaves of such different sizes that every order of addition rounds differently.
    fn leaf(index: usize) -> f32 {
        (0.7 * index as f32 + 0.3).sin() * 10f32.powi([0, 6, -3, 7, 2, 5, 1, 4][index % 8])
    }

    #[test]
    fn one_to_eight_leaves_are_added_as_by_the_tree() {
        assert_eq!(total(&[]), None);
        for count in 1..=8_usize {
            let leaves: Vec<Option<f32>> = (0..count).map(|index| Some(leaf(index))).collect();
            let height = count.next_power_of_two().ilog2();
            assert_eq!(
                total(&leaves).map(f32::to_bits),
                explicit(&leaves, 0, height).map(f32::to_bits),
                "{count}"
            );
        }
        let all: Vec<f32> = (0..8).map(leaf).collect();
        let in_turn = all.iter().copied().reduce(f32::add);
        assert_ne!(
            total(&all.into_iter().map(Some).collect::<Vec<_>>()),
            in_turn,
            "the order counts"
        );
    }

    #[test]
    fn absent_leaves_have_places_and_add_nothing() {
        for absent in 0..256_usize {
            let leaves: Vec<Option<f32>> = (0..8)
                .map(|index| (absent >> index & 1 == 0).then(|| leaf(index)))
                .collect();
            assert_eq!(
                total(&leaves).map(f32::to_bits),
                explicit(&leaves, 0, 3).map(f32::to_bits),
                "{absent:08b}"
            );
        }
    }

    /// Neighboring leaves of several holders, whose sums are added by the same tree.
    #[test]
    fn any_number_of_holders_that_cut_the_tree_come_to_the_same_bits() {
        let leaves: Vec<Option<f32>> = (0..8).map(|index| Some(leaf(index))).collect();
        for holders in [1, 2, 4, 8] {
            let sums: Vec<Option<f32>> = leaves.chunks(8 / holders).map(total).collect();
            assert_eq!(
                total(&sums).map(f32::to_bits),
                total(&leaves).map(f32::to_bits),
                "{holders}"
            );
        }
    }

    #[test]
    fn no_more_partial_sums_are_held_than_planned() {
        for count in 1..=64_usize {
            let mut sum = TreeSum::new(f32::add);
            let held = (0..count).map(|index| {
                let beside = sum.partial.len() + 1;
                sum.push(Some(leaf(index)));
                beside
            });
            assert_eq!(held.max(), Some(count.ilog2() as usize + 1), "{count}");
        }
    }
}
