//! What a check of an engine against a reference engine found.

use crate::tensor::Difference;

/// How far one output of an engine is from the reference.
#[derive(Debug, Clone)]
pub struct Verified {
    pub output: String,
    pub difference: Difference,
    /// Whether it is within tolerance.
    pub equal: bool,
}

/// A check of an engine's outputs against those of a reference engine.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Library of the reference engine.
    pub reference: String,
    pub outputs: Vec<Verified>,
}

impl Verification {
    /// Whether every output is within tolerance.
    pub fn is_equal(&self) -> bool {
        self.outputs.iter().all(|o| o.equal)
    }

    /// Largest relative L2 error of an output.
    pub fn largest_error(&self) -> f64 {
        let errors = self.outputs.iter().map(|o| o.difference.relative_l2);
        // A NaN is larger than anything.
        errors.fold(
            0.0,
            |worst, e| if e.is_nan() || e > worst { e } else { worst },
        )
    }
}
