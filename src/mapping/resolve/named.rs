//! Bringing the graph's hints and the checkpoint's names together: which tensors are presumed for which row.

use super::context::Named;
use super::equal::Source;
use crate::mapping::hints::{Prefixes, align};
use crate::mapping::types::Row;
use std::collections::HashMap;

/// The presumed sources of every row, and by row those names that the checkpoint does not have.
pub(super) fn presume(rows: &[Row], sources: &[Source<'_>]) -> (Vec<Vec<Named>>, Vec<Vec<String>>) {
    let prefixes = hint_prefixes(rows, sources);
    let index: HashMap<&str, usize> = (sources.iter().enumerate())
        .map(|(i, s)| (s.name, i))
        .collect();
    let mut named = vec![Vec::new(); rows.len()];
    let mut absent = vec![Vec::new(); rows.len()];
    for r in 0..rows.len() {
        for hint in &rows[r].hints {
            for name in &hint.names {
                let translated = prefixes.translate(name);
                let found = (translated.as_deref().and_then(|n| index.get(n)))
                    .or_else(|| index.get(name.as_str()));
                match found {
                    Some(&source) if sources[source].count() == rows[r].count() => {
                        if !named[r].iter().any(|n: &Named| n.source == source) {
                            let clue = hint.clue.clone();
                            named[r].push(Named { source, clue });
                        }
                    }
                    _ => absent[r].push(translated.unwrap_or_else(|| name.clone())),
                }
            }
        }
    }
    (named, absent)
}

/// The pair of prefixes under which most hints are names of the checkpoint.
pub(super) fn hint_prefixes(rows: &[Row], sources: &[Source<'_>]) -> Prefixes {
    let presumed = rows.iter().flat_map(|row| {
        let count = row.count();
        (row.hints.iter().flat_map(|h| &h.names)).map(move |n| (n.as_str(), Some(count)))
    });
    align(presumed, sources.iter().map(|s| (s.name, Some(s.count()))))
}
