//! Finding a name in a sorted list that is mostly asked for its names in their order.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Remembers where the last name was found: a list of millions of names is walked name by name several times, and a search of it
/// from end to end misses the caches at each of its steps.
#[derive(Debug, Default)]
pub(super) struct Finder(AtomicUsize);

impl Finder {
    /// The index, below `length`, of the entry that is `Equal` by `compare` (an entry with what is looked for).
    pub fn find(&self, length: usize, compare: impl Fn(usize) -> Ordering) -> Option<usize> {
        let last = self.0.load(Relaxed);
        let near = [last, last.saturating_add(1)];
        let found = (near.into_iter())
            .find(|&at| at < length && compare(at) == Ordering::Equal)
            .or_else(|| search(length, compare))?;
        self.0.store(found, Relaxed);
        Some(found)
    }
}

fn search(length: usize, compare: impl Fn(usize) -> Ordering) -> Option<usize> {
    let (mut low, mut high) = (0, length);
    while low < high {
        let middle = usize::midpoint(low, high);
        match compare(middle) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(middle),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_name_is_found_in_any_order(
            names in prop::collection::btree_set(0u8..40, 0..20),
            asked in prop::collection::vec(0u8..40, 0..60),
        ) {
            let (finder, names) = (Finder::default(), Vec::from_iter(names));
            for name in asked.into_iter().chain(names.iter().copied()) {
                let found = finder.find(names.len(), |at| names[at].cmp(&name));
                prop_assert_eq!(found, names.binary_search(&name).ok());
            }
        }
    }
}
