//! Maps and sets that are asked more often than anything else: names of many thousands of nodes and weights.

use std::collections::{HashMap, HashSet};

/// Hashes a short name in a few steps. Its seed is of the process, as that of the standard library's, which takes several times as long and
/// withstands whoever sees the order of what it hashes; nobody sees that of names here.
pub type Quick = foldhash::fast::RandomState;

/// A [`HashMap`] by names or numbers.
pub type QuickMap<K, V> = HashMap<K, V, Quick>;

/// A [`HashSet`] of names or numbers.
pub type QuickSet<K> = HashSet<K, Quick>;
