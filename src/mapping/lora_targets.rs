//! Names without values: the modules that a LoRA targets, found by what the mapping knows, or by the graph alone when no
//! checkpoint was ever seen.
//!
//! Without values the graph's structure has to carry the proof: the name or path of the module, the operator that reads the
//! weight, its orientation and shape, and no sign of a fold. What lacks one of these is refused.

use super::derive::{is_square, presumed_relations, squeezed};
use super::hints::{Prefixes, align, wrapper};
use super::ledger;
use super::types::{
    Change, Declined, Error, Evidence, Grade, Layout, Mapping, Part, Recipe, Refusal, Row, Step,
    Target,
};
use std::collections::{BTreeMap, HashMap};

/// A mapping whose rows know the adopted names.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// Rows of adopted names have a recipe that reads exactly that name.
    pub mapping: Mapping,
    /// By adopted name: indices of its rows (more than one for weights that the exporter wrote twice).
    pub rows: BTreeMap<String, Vec<usize>>,
    /// What could not be adopted, all of it.
    pub declined: Vec<Declined>,
}

impl Row {
    /// Shape of the source as torch holds it, as far as the row tells; see [`Target::shape`].
    pub fn source_shape(&self) -> Vec<usize> {
        let steps = match &self.recipe {
            Some(Recipe::Tensor { steps, .. }) => steps,
            None if self.layout == Layout::Transposed && self.shape.len() == 2 => {
                return vec![self.shape[1], self.shape[0]];
            }
            Some(Recipe::BatchNorm { .. } | Recipe::Rows { .. }) | None => {
                return self.shape.clone();
            }
        };
        let mut shape = self.shape.clone();
        for step in steps.iter().rev() {
            match step {
                Step::Permute { order } if order.len() == shape.len() => {
                    let turned = shape.clone();
                    for (i, &a) in order.iter().enumerate() {
                        shape[a] = turned[i];
                    }
                }
                Step::Reshape { .. } => shape = squeezed(&shape),
                _ => {}
            }
        }
        shape
    }
}

impl Mapping {
    /// Every weight that a LoRA may name, with all its spellings.
    pub fn targets(&self) -> Vec<Target> {
        let wrapper = self.wrapper();
        let mut all = Vec::new();
        for (r, row) in self.rows.iter().enumerate() {
            let mut names: Vec<String> = Vec::new();
            let mut add = |name: &str| {
                if !names.iter().any(|n| n == name) {
                    names.push(name.to_owned());
                }
            };
            let mut folded = false;
            for recipe in row.recipe.iter().chain(&row.alternatives) {
                match recipe {
                    Recipe::Tensor { source, .. } => add(source),
                    Recipe::BatchNorm { .. } | Recipe::Rows { .. } => {
                        folded = true;
                        meant(recipe).into_iter().for_each(&mut add);
                    }
                }
            }
            if row.recipe.is_none() && row.grade != Grade::Constant {
                for name in row.hints.iter().flat_map(|h| &h.names) {
                    add(name.strip_prefix(&wrapper).unwrap_or(name));
                    add(name);
                }
            }
            if !names.is_empty() {
                all.push(Target {
                    name: names.remove(0),
                    aliases: names,
                    shape: row.source_shape(),
                    dtype: row.dtype,
                    row: r,
                    folded,
                });
            }
        }
        all
    }

    /// The attribute under which a wrapper module held the exported model, with its dot; empty where there was none.
    pub fn wrapper(&self) -> String {
        let names = self
            .rows
            .iter()
            .flat_map(|r| &r.hints)
            .flat_map(|h| &h.names);
        wrapper(names.map(String::as_str).filter(|n| n.contains('.')))
    }

    /// Makes sure that no constant without a source may hold one of the tensors that a LoRA changes.
    ///
    /// # Errors
    /// [`Error::Unsourced`].
    pub fn holds_all_of(&self, changed: &[String]) -> Result<(), Error> {
        for row in &self.rows {
            // Without a base a name is as much as is known of a source.
            if !self.against_base && !row.hints.is_empty() {
                continue;
            }
            let refused = ledger::unexplained(row, changed.iter().map(String::as_str));
            if let Change::Refused {
                why: Refusal::Unsourced { changed },
            } = refused
            {
                return Err(Error::Unsourced {
                    weight: row.name.clone(),
                    changed: changed.iter().map(|c| format!("`{c}`")).collect(),
                });
            }
        }
        Ok(())
    }

    /// Ties names and torch shapes (LoRA targets) to rows. With `base`, the sources of folds are at hand and folded rows
    /// are adopted too.
    pub fn adopt(&self, wanted: &[(String, Vec<usize>)], base: bool) -> Adopted {
        let mut adopted = Adopted {
            mapping: self.clone(),
            rows: BTreeMap::new(),
            declined: Vec::new(),
        };
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (r, row) in self.rows.iter().enumerate() {
            for name in known_names(row) {
                let rows = by_name.entry(name).or_default();
                if !rows.contains(&r) {
                    rows.push(r);
                }
            }
        }
        let prefixes = align(
            wanted.iter().map(|(n, _)| (n.as_str(), None)),
            by_name.keys().map(|n| (*n, None)),
        );
        // Without values nothing would notice that the encoder's names were taken for the decoder's: only a prefix that one
        // side has and the other lacks is bridged.
        let prefixes = if prefixes.graph.is_empty() || prefixes.checkpoint.is_empty() {
            prefixes
        } else {
            Prefixes::default()
        };
        let mut tied: HashMap<usize, &str> = HashMap::new();
        for (name, shape) in wanted {
            let known = prefixes
                .translate(name)
                .filter(|n| by_name.contains_key(n.as_str()));
            let known = known.unwrap_or_else(|| name.clone());
            let Some(rows) = by_name.get(known.as_str()) else {
                adopted
                    .declined
                    .push(Declined::Unknown { name: name.clone() });
                continue;
            };
            for &r in rows {
                let row = &self.rows[r];
                let outcome = match tied.insert(r, name) {
                    Some(other) if other != name => Err(Declined::Unsure {
                        name: name.clone(),
                        weight: row.name.clone(),
                        grade: Grade::Ambiguous,
                    }),
                    _ => tie(row, &known, name, shape, base),
                };
                match outcome {
                    Ok(new) => {
                        adopted.mapping.rows[r] = new;
                        adopted.rows.entry(name.clone()).or_default().push(r);
                    }
                    Err(why) => adopted.declined.push(why),
                }
            }
        }
        adopted
    }
}

/// The tensor of a recipe that a LoRA changes: of a fold, the convolution's own.
fn meant(recipe: &Recipe) -> Option<&str> {
    match recipe {
        Recipe::Tensor { source, .. } => Some(source),
        Recipe::BatchNorm {
            part: Part::Kernel,
            kernel,
            ..
        } => Some(kernel),
        Recipe::BatchNorm { bias, .. } => bias.as_deref(),
        Recipe::Rows { runs, .. } => runs.first().map(|r| r.source.as_str()),
    }
}

/// Names under which a row may be meant: its sources, or what the graph presumes.
fn known_names(row: &Row) -> Vec<&str> {
    let recipes = row.recipe.iter().chain(&row.alternatives);
    let mut names: Vec<&str> = recipes.filter_map(meant).collect();
    if names.is_empty() && !matches!(row.grade, Grade::Constant | Grade::Given) {
        names.extend(row.hints.iter().flat_map(|h| &h.names).map(String::as_str));
    }
    names
}

/// Ties one row to `name`, known to the mapping as `known`.
fn tie(row: &Row, known: &str, name: &str, shape: &[usize], base: bool) -> Result<Row, Declined> {
    let weight = row.name.clone();
    let name = name.to_owned();
    let misfit = || Declined::Misfit {
        name: name.clone(),
        shape: shape.to_vec(),
        weight: weight.clone(),
        expected: row.shape.clone(),
    };
    if row.pinned.is_some() {
        return Err(Declined::Unsure {
            name,
            weight,
            grade: Grade::Ambiguous,
        });
    }
    let mut new = row.clone();
    let rename = |source: &str| {
        if source == known {
            name.clone()
        } else {
            source.to_owned()
        }
    };
    if let Some(recipe) = &row.recipe {
        if !row.grade.is_writable() {
            let grade = row.grade;
            return Err(Declined::Unsure {
                name,
                weight,
                grade,
            });
        }
        match recipe {
            Recipe::BatchNorm { .. } | Recipe::Rows { .. } if !base => {
                let sources = recipe
                    .sources()
                    .into_iter()
                    .map(ToOwned::to_owned)
                    .collect();
                return Err(Declined::Folded {
                    name,
                    weight,
                    sources,
                });
            }
            Recipe::Tensor { .. } if squeezed(&row.source_shape()) != squeezed(shape) => {
                return Err(misfit());
            }
            _ => {}
        }
        new.recipe = Some(recipe.renamed(rename));
        new.alternatives = row.alternatives.iter().map(|a| a.renamed(rename)).collect();
        return Ok(new);
    }
    if !row.alternatives.is_empty() {
        let grade = row.grade;
        return Err(Declined::Unsure {
            name,
            weight,
            grade,
        });
    }
    if !row.fold_signs.is_empty() {
        let signs = row.fold_signs.clone();
        return Err(Declined::FoldSuspected {
            name,
            weight,
            signs,
        });
    }
    if shape.iter().product::<usize>() != row.count() {
        return Err(misfit());
    }
    let relations = presumed_relations(row, shape);
    let relation = match &relations[..] {
        [one] => one,
        [] => return Err(misfit()),
        _ => return Err(Declined::Orientation { name, weight }),
    };
    if is_square(shape) && row.layout == Layout::Unknown {
        return Err(Declined::Orientation { name, weight });
    }
    let clue = (row.hints.iter())
        .find(|h| h.names.iter().any(|n| n == known))
        .map(|h| h.clue.clone());
    new.evidence = clue
        .map(|clue| Evidence::Hinted {
            source: name.clone(),
            clue,
        })
        .into_iter()
        .collect();
    new.evidence
        .push(Evidence::Orientation { layout: row.layout });
    new.grade = Grade::Corroborated;
    new.recipe = Some(Recipe::Tensor {
        source: name,
        steps: relation.steps(shape, row),
    });
    Ok(new)
}

impl Adopted {
    /// The mapping, when every name was adopted.
    ///
    /// # Errors
    /// [`Error::Targets`] with all that were declined.
    pub fn all(self) -> Result<Mapping, Error> {
        if self.declined.is_empty() {
            return Ok(self.mapping);
        }
        Err(Error::Targets {
            declined: self.declined,
        })
    }
}
