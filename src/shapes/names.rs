//! Names and values that are chosen where a spec gives none.

use super::expr::{Affine, is_identifier};

/// The model's symbol as `A·symbol+B`; what is no such expression is a symbol as a whole.
pub(super) fn model_symbol(symbol: &str) -> Affine {
    symbol.parse().unwrap_or_else(|_| Affine::root(symbol))
}

/// The size to optimise for where none is given: the midpoint rounded down; without a max the min, and at least 1.
pub(super) fn default_opt(min: u64, max: Option<u64>) -> u64 {
    max.map_or(min.max(1), |max| min + (max - min) / 2)
}

/// `sample_2` for axis 2 of `sample`.
pub(super) fn axis_name(input: &str, axis: usize) -> String {
    format!("{}_{axis}", identifier(input))
}

/// `symbol` as a name that a dim can have.
pub(super) fn identifier(symbol: &str) -> String {
    let mut name: String = symbol
        .chars()
        .map(|c| {
            if c == '_' || c.is_alphanumeric() {
                c
            } else {
                '_'
            }
        })
        .collect();
    // Read back from a spec, these three would be hints.
    if !is_identifier(&name) || matches!(name.as_str(), "AUTO" | "DYNAMIC" | "STATIC") {
        name.insert_str(0, "d_");
    }
    name
}
