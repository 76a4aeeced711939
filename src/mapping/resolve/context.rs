//! What all passes of a resolution read: the sources, what is presumed and what is equal.

use super::equal::{Equalities, Source};
use crate::mapping::derive::Relation;
use crate::mapping::types::{Checkpoint, Clue, Evidence, FoldSign, Held, Recipe, Row};
use crate::tensor::TensorView;
use std::collections::HashSet;

/// A source that the graph presumes for a row.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub source: usize,
    pub clue: Clue,
}

/// Everything that decisions read.
pub(super) struct Case<'a> {
    pub sources: &'a [Source<'a>],
    pub held: &'a dyn Held,
    /// By row: presumed sources that the checkpoint has with the right element count.
    pub named: Vec<Vec<Named>>,
    pub equal: Equalities,
    /// Sources that some row has both by name and by value.
    pub owned: HashSet<usize>,
}

impl Case<'_> {
    pub fn recipe(&self, row: &Row, source: usize, relation: &Relation) -> Recipe {
        let Source { name, view } = self.sources[source];
        Recipe::Tensor {
            source: name.to_owned(),
            steps: relation.steps(view.shape, row),
        }
    }

    pub fn name(&self, source: usize) -> String {
        self.sources[source].name.to_owned()
    }
}

/// Reports the graph's signs of a fold against a row.
pub(super) fn add_fold_evidence(row: &mut Row) {
    let signs: Vec<FoldSign> = row.fold_signs.clone();
    for sign in signs {
        row.evidence.push(Evidence::FoldSuspected { sign });
    }
}

/// Every checkpoint tensor that a row reads or might read.
pub(super) fn names_of(row: &Row) -> impl Iterator<Item = &str> {
    (row.recipe.iter().chain(&row.alternatives)).flat_map(Recipe::sources)
}

/// The case's sources as a checkpoint.
pub(super) struct Sources<'c>(pub &'c Case<'c>);

impl Checkpoint for Sources<'_> {
    fn names(&self) -> Vec<&str> {
        self.0.sources.iter().map(|s| s.name).collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let at = self.0.sources.binary_search_by(|s| s.name.cmp(name)).ok()?;
        Some(self.0.sources[at].view)
    }
}
