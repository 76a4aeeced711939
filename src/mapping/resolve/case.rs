//! What all passes of a resolution read: the tensors of a checkpoint, which of them the graph presumes for which row, which rows
//! they equal, and the normalisations among them.
//!
//! Equality: every tensor is fingerprinted once, and the few that agree are compared exactly.

use crate::mapping::derive::{
    Print, Relation, as_type, batched, common, is_square, literal, relations,
};
use crate::mapping::hints::{Prefixes, align};
use crate::mapping::types::{
    Checkpoint, Clue, Error, Evidence, FoldSign, Grade, Held, Literal, Norm, Recipe, Row,
    held_bytes, squeezed,
};
use crate::tensor::{Dtype, TensorView};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

/// A source that the graph presumes for a row.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub source: usize,
    pub clue: Clue,
}

/// Everything that decisions read.
pub(super) struct Case<'a> {
    /// Tensors of the checkpoint, in order of names.
    pub sources: Vec<Source<'a>>,
    pub held: &'a dyn Held,
    /// By row: presumed sources that the checkpoint has with the right element count.
    pub named: Vec<Vec<Named>>,
    /// By row: presumed names that the checkpoint does not have.
    pub absent: Vec<Vec<String>>,
    pub equal: Equalities,
    /// Sources that some row has both by name and by value.
    pub owned: HashSet<usize>,
}

impl<'a> Case<'a> {
    /// Opens a case: forgets what is known of every row but those that were stated, and compares the `open` ones, by index, with
    /// every tensor of `checkpoint`.
    pub fn open(
        rows: &mut [Row],
        checkpoint: &'a dyn Checkpoint,
        held: &'a dyn Held,
    ) -> Result<(Case<'a>, Vec<usize>), Error> {
        let mut names = checkpoint.names();
        names.sort_unstable();
        let sources: Vec<Source<'_>> = (names.into_par_iter())
            .filter_map(|name| checkpoint.get(name).map(|view| Source { name, view }))
            .collect();
        let open: Vec<usize> = (0..rows.len())
            .filter(|&r| rows[r].grade != Grade::Given)
            .collect();
        for &r in &open {
            forget(&mut rows[r]);
        }
        let (named, absent) = presume(rows, &sources);
        let equal = equalities(rows, &open, &sources, held)?;
        let case = Case {
            sources,
            held,
            named,
            absent,
            equal,
            owned: HashSet::new(),
        };
        Ok((case, open))
    }

    /// The index of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.sources.binary_search_by(|s| s.name.cmp(name)).ok()
    }

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
pub(super) struct Sources<'c, 'a>(pub &'c Case<'a>);

impl Checkpoint for Sources<'_, '_> {
    fn names(&self) -> Vec<&str> {
        self.0.sources.iter().map(|s| s.name).collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        Some(self.0.sources[self.0.find(name)?].view)
    }
}

fn forget(row: &mut Row) {
    row.grade = Grade::Unproven;
    row.recipe = None;
    row.rounding = None;
    row.alternatives.clear();
    row.evidence.clear();
    row.literal = None;
    row.pinned = None;
    row.probed = false;
}

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

/// A tensor of the checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub name: &'a str,
    pub view: TensorView<'a>,
}

impl Source<'_> {
    pub fn count(&self) -> usize {
        self.view.shape.iter().product()
    }
}

/// One source whose values are a weight's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Equal {
    pub source: usize,
    /// The type in which they are equal.
    pub dtype: Dtype,
    /// How; more than one when the values do not tell.
    pub relations: Vec<Relation>,
    /// The orientation is against what the consumer says, where the shape leaves the choice.
    pub contrary: bool,
}

/// Fingerprints and equalities of all rows against all sources.
pub(super) struct Equalities {
    /// By row: sources with its values.
    pub of_row: Vec<Vec<Equal>>,
    /// By row: whether equality with it means something.
    pub informative: Vec<bool>,
    /// By row: the bag of its values in its own type, where it was taken.
    bags: Vec<Option<u64>>,
    prints: Prints,
}

impl Equalities {
    /// Whether two rows may hold the same values, in some order.
    pub fn alike(&self, a: usize, b: usize) -> bool {
        self.bags[a].is_some() && self.bags[a] == self.bags[b]
    }

    /// The fingerprint of a source in its own type, where it was taken.
    pub fn print(&self, source: usize, dtype: Dtype) -> Option<&Print> {
        self.prints.get(&(source, dtype))
    }
}

/// Types in which rows and sources meet, each pair once.
struct Meetings {
    /// By element count: the types of sources that have as many.
    kinds: HashMap<usize, BTreeSet<Dtype>>,
    /// Rows, with the types that their values are wanted in.
    rows: Vec<(usize, Dtype)>,
    /// As `rows`, of sources.
    sources: Vec<(usize, Dtype)>,
}

impl Meetings {
    fn of(rows: &[Row], open: &[usize], sources: &[Source<'_>]) -> Meetings {
        let counts: HashSet<usize> = open.iter().map(|&r| rows[r].count()).collect();
        let mut kinds: HashMap<usize, BTreeSet<Dtype>> = HashMap::new();
        let mut of_sources: BTreeSet<(usize, Dtype)> = BTreeSet::new();
        for (s, source) in sources.iter().enumerate() {
            if counts.contains(&source.count()) {
                let all = kinds.entry(source.count()).or_default();
                all.insert(source.view.dtype);
                of_sources.insert((s, source.view.dtype));
            }
        }
        let mut of_rows: BTreeSet<(usize, Dtype)> = BTreeSet::new();
        let mut wanted: HashSet<(usize, Dtype, Dtype)> = HashSet::new();
        for &r in open {
            let (count, own) = (rows[r].count(), rows[r].dtype);
            of_rows.insert((r, own));
            for &kind in kinds.get(&count).into_iter().flatten() {
                if let Some(dtype) = common(own, kind) {
                    of_rows.insert((r, dtype));
                    wanted.insert((count, kind, dtype));
                }
            }
        }
        for (s, source) in sources.iter().enumerate() {
            for &(count, kind, dtype) in &wanted {
                if count == source.count() && kind == source.view.dtype {
                    of_sources.insert((s, dtype));
                }
            }
        }
        Meetings {
            kinds,
            rows: of_rows.into_iter().collect(),
            sources: of_sources.into_iter().collect(),
        }
    }
}

type Prints = HashMap<(usize, Dtype), Print>;

fn cast_cost(from: Dtype, to: Dtype, count: usize) -> usize {
    if from == to { 0 } else { 4 * count }
}

fn prints_of_sources(wanted: &[(usize, Dtype)], sources: &[Source<'_>]) -> Result<Prints, Error> {
    let cost =
        |&(s, dtype): &(usize, Dtype)| cast_cost(sources[s].view.dtype, dtype, sources[s].count());
    let prints = batched(wanted, cost, |&(s, dtype)| {
        let view = sources[s].view;
        // What does not convert is equal to nothing.
        let bytes = as_type(view.dtype, dtype, Cow::Borrowed(view.data)).ok();
        Ok::<_, Error>(bytes.map(|b| ((s, dtype), Print::of(dtype, &b))))
    })?;
    Ok(prints.into_iter().flatten().collect())
}

fn prints_of_rows(
    wanted: &[(usize, Dtype)],
    rows: &[Row],
    held: &dyn Held,
) -> Result<Prints, Error> {
    let cost = |&(r, dtype): &(usize, Dtype)| cast_cost(rows[r].dtype, dtype, rows[r].count());
    let prints = batched(wanted, cost, |&(r, dtype)| {
        let bytes = as_type(rows[r].dtype, dtype, held_bytes(&rows[r], held)?)
            .map_err(|cause| Error::convert(&rows[r], cause))?;
        Ok::<_, Error>(((r, dtype), Print::of(dtype, &bytes)))
    })?;
    Ok(prints.into_iter().collect())
}

/// Compares `rows` (those in `open`) with every source.
fn equalities(
    rows: &[Row],
    open: &[usize],
    sources: &[Source<'_>],
    held: &dyn Held,
) -> Result<Equalities, Error> {
    let meetings = Meetings::of(rows, open, sources);
    let prints = prints_of_sources(&meetings.sources, sources)?;
    let row_prints = prints_of_rows(&meetings.rows, rows, held)?;
    let mut buckets: HashMap<(usize, Dtype, u64), Vec<usize>> = HashMap::new();
    for (&(s, dtype), print) in &prints {
        let key = (sources[s].count(), dtype, print.bag);
        buckets.entry(key).or_default().push(s);
    }
    // A map has no order, and candidates are to come in that of their names.
    for bucket in buckets.values_mut() {
        bucket.sort_unstable();
    }
    // Both sides cast, and the source permuted: four bytes an element each.
    let compare_cost = |&r: &usize| 12 * rows[r].count();
    let found = batched(open, compare_cost, |&r| {
        let row = &rows[r];
        let mut equal = Vec::new();
        let types: BTreeSet<Dtype> = (meetings.kinds.get(&row.count()).into_iter().flatten())
            .filter_map(|&kind| common(row.dtype, kind))
            .collect();
        for dtype in types {
            let print = &row_prints[&(r, dtype)];
            let key = (row.count(), dtype, print.bag);
            for &s in buckets.get(&key).map_or(&[][..], Vec::as_slice) {
                if common(row.dtype, sources[s].view.dtype) == Some(dtype) {
                    equal.extend(compare(row, print, sources, s, &prints, dtype, held)?);
                }
            }
        }
        equal.sort_by_key(|e: &Equal| e.source);
        Ok::<_, Error>((r, equal))
    })?;
    let mut of_row = vec![Vec::new(); rows.len()];
    for (r, equal) in found {
        of_row[r] = equal;
    }
    let own = |r: usize| row_prints.get(&(r, rows[r].dtype));
    let informative = (0..rows.len())
        .map(|r| own(r).is_some_and(|p| p.informative))
        .collect();
    let bags = (0..rows.len()).map(|r| own(r).map(|p| p.bag)).collect();
    Ok(Equalities {
        of_row,
        informative,
        bags,
        prints,
    })
}

fn compare(
    row: &Row,
    row_print: &Print,
    sources: &[Source<'_>],
    s: usize,
    prints: &Prints,
    dtype: Dtype,
    held: &dyn Held,
) -> Result<Option<Equal>, Error> {
    let view = sources[s].view;
    let print = &prints[&(s, dtype)];
    let (from, to) = (squeezed(view.shape), squeezed(&row.shape));
    let found = if from.len() < 2 && to.len() < 2 {
        // Vectors: the digests say it all.
        let order = Relation::Order((0..from.len()).collect());
        if print.flat == row_print.flat {
            vec![order]
        } else {
            Vec::new()
        }
    } else {
        let source = as_type(view.dtype, dtype, Cow::Borrowed(view.data))
            .map_err(|cause| Error::convert(row, cause))?;
        let own = as_type(row.dtype, dtype, held_bytes(row, held)?)
            .map_err(|cause| Error::convert(row, cause))?;
        let of = |shape, data| TensorView { dtype, shape, data };
        relations(
            of(view.shape, &source),
            print,
            of(&row.shape, &own),
            row_print,
            row.layout,
        )
    };
    if found.is_empty() {
        return Ok(None);
    }
    let free = is_square(&row.shape) && is_square(view.shape);
    let contrary = free && !found.iter().any(|relation| relation.fits(row.layout));
    Ok(Some(Equal {
        source: s,
        dtype,
        relations: found,
        contrary,
    }))
}

/// A normalisation of the checkpoint with its four tensors.
pub(super) struct NormModule {
    pub module: String,
    pub norm: Norm,
    pub channels: usize,
    /// Index of the running mean among the sources.
    pub mean: usize,
}

/// Every `BatchNorm` module of the checkpoint, with or without affine parameters.
pub(super) fn norms(case: &Case<'_>) -> Vec<NormModule> {
    let has = |name: &str, count: usize| {
        case.find(name)
            .is_some_and(|i| case.sources[i].count() == count)
    };
    (case.sources.iter().enumerate())
        .filter_map(|(mean, source)| {
            let module = source.name.strip_suffix("running_mean")?;
            let channels = source.count();
            let of = |leaf: &str| Some(format!("{module}{leaf}")).filter(|n| has(n, channels));
            let (scale, shift) = (of("weight"), of("bias"));
            // torch has both of the affine parameters or neither.
            if scale.is_some() != shift.is_some() {
                return None;
            }
            Some(NormModule {
                module: module.trim_end_matches('.').to_owned(),
                norm: Norm {
                    scale,
                    shift,
                    mean: source.name.to_owned(),
                    variance: of("running_var")?,
                },
                channels,
                mean,
            })
        })
        .collect()
}

/// The axis of a kernel that holds output channels.
pub(super) fn channel_axis(row: &Row) -> Option<usize> {
    let mut axes = (row.operators.iter()).map(|o| match o.as_str() {
        "Conv" | "Gemm" => Some(0),
        "ConvTranspose" => Some(1),
        _ => None,
    });
    let first = axes.next()??;
    axes.all(|a| a == Some(first)).then_some(first)
}

/// Why the value of a row may need no tensor.
pub(super) fn literal_of(held: &dyn Held, row: &Row) -> Result<Option<Literal>, Error> {
    let bytes = held_bytes(row, held)?;
    Ok(literal(TensorView {
        dtype: row.dtype,
        shape: &row.shape,
        data: &bytes,
    }))
}
