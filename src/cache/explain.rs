//! Why a lookup hits or misses: field by field against the entries that come nearest.

use super::{CacheFault, Key, KeyFields, Listed, Store};
use serde::Serialize;

/// More than these few are of no help.
const SHOWN: usize = 3;

/// What a key's fields have in common with what is stored.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The key of the fields.
    pub key: Key,
    /// The entry of that key.
    pub hit: Option<Listed>,
    /// On a miss, the entries with the fewest differing fields, fewest first, the more recently used first among equals.
    pub nearest: Vec<Near>,
}

/// An entry that nearly fits.
#[derive(Debug, Clone)]
pub struct Near {
    pub entry: Listed,
    /// All the fields that differ.
    pub differences: Vec<Difference>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub label: String,
    /// The value that was asked for; `None` where it was not asked for.
    pub wanted: Option<String>,
    /// The value that the entry has; `None` where it has no such field.
    pub found: Option<String>,
}

impl Store {
    /// Says why looking these fields up would hit or miss. Does not count as a use, and reads no plan.
    pub fn explain(&self, fields: &KeyFields) -> Result<Explanation, CacheFault> {
        let key = fields.key();
        let mut entries = self.list()?.entries;
        if let Some(at) = entries.iter().position(|e| e.key == key) {
            return Ok(Explanation {
                key,
                hit: Some(entries.swap_remove(at)),
                nearest: Vec::new(),
            });
        }
        let mut nearest: Vec<_> = entries
            .into_iter()
            .map(|entry| Near {
                differences: differences(fields, &entry.record.fields),
                entry,
            })
            .collect();
        // The list comes least recently used first, and the sort is stable.
        nearest.reverse();
        nearest.sort_by_key(|n| n.differences.len());
        nearest.truncate(SHOWN);
        Ok(Explanation {
            key,
            hit: None,
            nearest,
        })
    }
}

fn differences(wanted: &KeyFields, found: &KeyFields) -> Vec<Difference> {
    let extra = found
        .iter()
        .filter(|(label, _)| wanted.get(label).is_none());
    wanted
        .iter()
        .chain(extra)
        .map(|(label, _)| (label, wanted.get(label), found.get(label)))
        .filter(|(_, wanted, found)| wanted != found)
        .map(|(label, wanted, found)| Difference {
            label: label.to_owned(),
            wanted: wanted.map(str::to_owned),
            found: found.map(str::to_owned),
        })
        .collect()
}
