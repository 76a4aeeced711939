//! Names without values: the modules that a LoRA targets, found by what the mapping knows, or by the graph alone when no
//! checkpoint was ever seen.
//!
//! Without values the graph's structure has to carry the proof: the name or path of the module, the operator that reads the
//! weight, its orientation and shape, and no sign of a fold. What lacks one of these is refused.

use super::base::unexplained;
use crate::mapping::derive::{
    cosine, is_square, keeps_elements, orders, presumed_relations, sample,
};
use crate::mapping::hints::{Prefixes, align, is_anonymous, is_lifted, stem, wrapper};
use crate::mapping::types::{
    Change, Clue, Declined, Error, Evidence, Grade, Held, Layout, Mapping, Meaning, Part, Recipe,
    Refusal, Row, Step, Target, held_bytes, squeezed,
};
use crate::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};

/// Cosine from which two tensors may have to do with each other; that of independent ones is about 1/√n.
const RESEMBLES: f64 = 0.3;
/// Of fewer elements a cosine says nothing.
const FEWEST_TO_COMPARE: usize = 128;

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
            Some(_) | None => {
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
                folded |= recipe.is_computed();
                meant(recipe).into_iter().for_each(&mut add);
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
    /// [`Error::Unsourced`], [`Error::NotHeld`].
    pub fn holds_all_of(&self, changed: &[String], held: &dyn Held) -> Result<(), Error> {
        for row in &self.rows {
            // Without a base a name is as much as is known of a source.
            if !self.against_base && !row.hints.is_empty() && !row.is_folded_in() {
                continue;
            }
            let refused = unexplained(row, changed.iter().map(String::as_str));
            let Change::Refused {
                why: Refusal::Unsourced { changed: may },
            } = refused
            else {
                continue;
            };
            // A vector, or a matrix that a product reads, is a parameter of its own, unless its values are those of a tensor that
            // changes. A table of rows may be a part of one.
            let own = !row.is_folded_in() && (row.is_parameter() || squeezed(&row.shape).len() < 2);
            if !self.against_base && own && !self.resembles(row, changed, held)? {
                continue;
            }
            return Err(Error::Unsourced {
                weight: row.name.clone(),
                changed: may.iter().map(|c| format!("`{c}`")).collect(),
            });
        }
        Ok(())
    }

    /// Whether a constant looks like a function of one of the tensors `changed`: independent tensors have cosines near 0.
    fn resembles(&self, row: &Row, changed: &[String], held: &dyn Held) -> Result<bool, Error> {
        let plain = |row: &Row| -> Result<Option<Vec<f32>>, Error> {
            let bytes = held_bytes(row, held)?;
            let view = TensorView {
                dtype: row.dtype,
                shape: &row.shape,
                data: &bytes,
            };
            let order: Vec<usize> = (0..squeezed(&row.shape).len()).collect();
            Ok(sample(view, &order))
        };
        let Some(own) = plain(row)? else {
            return Ok(true);
        };
        for other in &self.rows {
            let is_changed = |n: &&str| {
                let own = |c: &String| n.strip_suffix(c.as_str());
                let ends = |rest: &str| rest.is_empty() || rest.ends_with('.');
                changed.iter().filter_map(own).any(ends)
            };
            let named = known_names(other).iter().any(is_changed);
            if !named || other.count() != row.count() || other.name == row.name {
                continue;
            }
            let bytes = held_bytes(other, held)?;
            let view = TensorView {
                dtype: other.dtype,
                shape: &other.shape,
                data: &bytes,
            };
            for order in orders(&squeezed(&other.shape), &squeezed(&row.shape)) {
                let Some(values) = sample(view, &order) else {
                    return Ok(true);
                };
                if cosine(&own, &values).abs() >= RESEMBLES || own.len() < FEWEST_TO_COMPARE {
                    return Ok(true);
                }
            }
        }
        Ok(false)
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
                // Of two adopted names for one weight nothing tells which is meant.
                let outcome = match tied.insert(r, name) {
                    Some(other) if other != name => Err(Declined::Unsure {
                        name: name.clone(),
                        weight: row.name.clone(),
                        grade: Grade::Ambiguous,
                    }),
                    _ => {
                        let named = Named {
                            name,
                            known: &known,
                            shape,
                        };
                        tie(row, named, base)
                    }
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
        // What a LoRA adds to the product of both is in neither tensor.
        Recipe::WeightNorm { .. } | Recipe::Sum { .. } => None,
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

/// A name that a LoRA targets, and its shape as torch holds it.
#[derive(Clone, Copy)]
struct Named<'n> {
    name: &'n str,
    /// As the mapping knows it.
    known: &'n str,
    shape: &'n [usize],
}

impl Named<'_> {
    fn misfit(self, row: &Row) -> Declined {
        Declined::Misfit {
            name: self.name.to_owned(),
            shape: self.shape.to_vec(),
            weight: row.name.clone(),
            expected: row.shape.clone(),
        }
    }

    fn unsure(self, row: &Row, grade: Grade) -> Declined {
        Declined::Unsure {
            name: self.name.to_owned(),
            weight: row.name.clone(),
            grade,
        }
    }
}

/// Ties one row to a name.
fn tie(row: &Row, named: Named<'_>, base: bool) -> Result<Row, Declined> {
    if row.pinned.is_some() {
        return Err(named.unsure(row, Grade::Ambiguous));
    }
    if let Some(with) = merged_with(row, named.known) {
        return Err(Declined::Merged {
            name: named.name.to_owned(),
            weight: row.name.clone(),
            with,
        });
    }
    match &row.recipe {
        Some(recipe) => tie_known(row, recipe, named, base),
        None => tie_by_graph(row, named),
    }
}

/// What a row stands for beside the tensor `known`: exporters write equal values once, and only one of the tensors changes.
fn merged_with(row: &Row, known: &str) -> Option<String> {
    if row.recipe.is_some() {
        // All that reproduces the value reads the tensor, or some of it does not change with it.
        let other = row.explanations().find(|r| !r.sources().contains(&known))?;
        let sources = other.sources().into_iter().map(|s| format!("`{s}`"));
        return Some(sources.collect::<Vec<_>>().join(", "));
    }
    let by_path = row.hints.iter().find_map(|hint| match &hint.clue {
        Clue::NodePath { node } if !hint.names.iter().any(|n| shares_module(n, known)) => {
            Some(node)
        }
        _ => None,
    });
    let by_record = row.readings.iter().find_map(|reading| {
        let reads_another = match &reading.meaning {
            Meaning::Record {
                placeholders,
                values,
                complete,
                folded,
                ..
            } => {
                // Of what was folded, an operator that computes gave something else than the tensor.
                let is_known = *complete || folded.iter().any(|f| !keeps_elements(stem(f)));
                let mut read = placeholders
                    .iter()
                    .filter_map(|p| Some(p.split_once('_')?.1));
                is_known && !values.contains(&row.name) && !read.any(|p| recorded_as(p, known))
            }
            Meaning::MergedAway => true,
            Meaning::Path { .. } | Meaning::Nothing => false,
        };
        reads_another.then_some(&reading.node)
    });
    let node = by_path.or(by_record)?;
    Some(format!("what node `{node}` reads"))
}

/// Whether a node may read `known` as the tensor that it was taken to read by its path: both are in one module, or one's module is
/// in the other's, which reads what its children hold. A wrapper's name may be in front of either.
fn shares_module(by_path: &str, known: &str) -> bool {
    let module = |name: &str| -> Vec<String> {
        let path = name.rsplit_once('.').map_or("", |(module, _)| module);
        path.split('.').map(ToOwned::to_owned).collect()
    };
    let (a, b) = (module(by_path), module(known));
    // The model itself reads what any module holds.
    if [&a, &b].iter().any(|path| path[0].is_empty()) {
        return true;
    }
    let (short, long) = if a.len() < b.len() {
        (&a, &b)
    } else {
        (&b, &a)
    };
    (0..=long.len() - short.len()).any(|at| long[at..].starts_with(short))
}

/// Whether the record's spelling of a parameter is that of `known`, a wrapper's name in front of either apart.
fn recorded_as(recorded: &str, known: &str) -> bool {
    let known = known.replace('.', "_").to_lowercase();
    let ends = |long: &str, short: &str| {
        let front = long.strip_suffix(short);
        front.is_some_and(|f| f.is_empty() || f.ends_with('_'))
    };
    ends(recorded, &known) || ends(&known, recorded)
}

/// Ties a row whose derivation is known.
fn tie_known(row: &Row, recipe: &Recipe, named: Named<'_>, base: bool) -> Result<Row, Declined> {
    if !row.grade.is_writable() {
        return Err(named.unsure(row, row.grade));
    }
    match recipe {
        recipe if recipe.is_computed() && !base => {
            let sources = recipe.sources().into_iter().map(ToOwned::to_owned);
            return Err(Declined::Folded {
                name: named.name.to_owned(),
                weight: row.name.clone(),
                sources: sources.collect(),
            });
        }
        Recipe::Tensor { .. } if squeezed(&row.source_shape()) != squeezed(named.shape) => {
            return Err(named.misfit(row));
        }
        _ => {}
    }
    let rename = |source: &str| {
        let own = source == named.known;
        if own { named.name } else { source }.to_owned()
    };
    let mut new = row.clone();
    new.recipe = Some(recipe.renamed(rename));
    new.alternatives = row.alternatives.iter().map(|a| a.renamed(rename)).collect();
    Ok(new)
}

/// Ties a row of which only the graph says anything.
fn tie_by_graph(row: &Row, named: Named<'_>) -> Result<Row, Declined> {
    let (name, weight) = (named.name.to_owned(), row.name.clone());
    if !row.alternatives.is_empty() {
        return Err(named.unsure(row, row.grade));
    }
    if !row.fold_signs.is_empty() {
        let signs = row.fold_signs.clone();
        return Err(Declined::FoldSuspected {
            name,
            weight,
            signs,
        });
    }
    if is_computed(row, named.known) {
        return Err(Declined::Computed { name, weight });
    }
    if named.shape.iter().product::<usize>() != row.count() {
        return Err(named.misfit(row));
    }
    let relations = presumed_relations(row, named.shape);
    let relation = match &relations[..] {
        [one] => one,
        [] => return Err(named.misfit(row)),
        _ => return Err(Declined::Orientation { name, weight }),
    };
    if is_square(named.shape) && row.layout == Layout::Unknown {
        return Err(Declined::Orientation { name, weight });
    }
    let clue = (row.hints.iter())
        .find(|h| h.names.iter().any(|n| n == named.known))
        .map(|h| h.clue.clone());
    let mut new = row.clone();
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
        steps: relation.steps(named.shape, row),
    });
    Ok(new)
}

/// Whether the record says that a value was computed of its tensor (`1 + w`): a change of one is not the same change of the other, and
/// no value of one is a value of the other.
fn is_computed(row: &Row, tensor: &str) -> bool {
    // Calls of the traced graph have names without dots.
    let is_call = |name: &&String| {
        !(name.contains('.') || *name == tensor || is_anonymous(name) || is_lifted(name))
    };
    let mut calls = (row.folded_from.iter().chain([&row.name])).filter(is_call);
    !row.folded_from.is_empty() && calls.any(|name| !keeps_elements(stem(name)))
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
