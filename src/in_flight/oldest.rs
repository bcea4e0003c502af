//! The oldest of many.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

/// Collects the oldest of many, without sorting all of them: there may be a hundred thousand.
pub(crate) struct Oldest<T> {
    most: usize,
    seen: usize,
    /// The one to give up first is at the top.
    found: BinaryHeap<Found<T>>,
}

struct Found<T> {
    key: Key,
    item: T,
}

/// Smaller for what comes first. The last part is different for each, so that the order is certain.
type Key = (bool, Reverse<Duration>, usize);

// ===== impl Oldest =====

impl<T> Oldest<T> {
    /// Collects at most `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            seen: 0,
            found: BinaryHeap::new(),
        }
    }

    /// Adds one. Those that are `last` come after all others. `item` is called if it is among the oldest so
    /// far.
    pub(crate) fn add(&mut self, last: bool, age: Duration, item: impl FnOnce() -> T) {
        let key = (last, Reverse(age), self.seen);
        self.seen += 1;
        if self.found.len() >= self.most {
            if self.found.peek().is_none_or(|found| found.key < key) {
                return;
            }
            self.found.pop();
        }
        let item = item();
        self.found.push(Found { key, item });
    }

    /// Returns them in order, the oldest first.
    pub(crate) fn into_vec(self) -> Vec<T> {
        let found = self.found.into_sorted_vec().into_iter();
        found.map(|found| found.item).collect()
    }
}

// ===== impl Found =====

impl<T> Ord for Found<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl<T> PartialOrd for Found<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Found<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<T> Eq for Found<T> {}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_come_first_and_equals_in_the_order_in_which_they_were_added() {
        let ages = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];
        for most in 0..=ages.len() + 1 {
            let mut oldest = Oldest::new(most);
            for (at, age) in ages.into_iter().enumerate() {
                oldest.add(age == 6, Duration::from_secs(age), || (age, at));
            }
            let all = [
                (9, 5),
                (5, 4),
                (5, 8),
                (5, 10),
                (4, 2),
                (3, 0),
                (3, 9),
                (2, 6),
                (1, 1),
                (1, 3),
                (6, 7),
            ];
            let expected = &all[..most.min(all.len())];
            assert_eq!(oldest.into_vec(), expected);
        }
    }
}
