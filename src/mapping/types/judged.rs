//! What a new checkpoint does to a model, decided.

use super::change::Assessment;
use super::coverage::Accounts;
use super::mapping::Mapping;

/// The judgement of a whole checkpoint.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The rows, with source names as this checkpoint spells them.
    pub mapping: Mapping,
    /// Checkpoint tensors that no weight takes, weights whose source is not there.
    pub accounts: Accounts,
    /// What happens to every row.
    pub assessment: Assessment,
}
