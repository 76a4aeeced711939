//! What all passes of a resolution read: the tensors of a checkpoint, which of them the graph presumes for which row, which rows
//! they equal, and the normalisations among them.
//!
//! Equality: every tensor is fingerprinted once, and the few that agree are compared exactly.

use crate::mapping::derive::{
    Look, Print, Relation, as_type, batched, common, is_flat, is_flat_of, is_square, literal,
    may_be_literal, relations,
};
use crate::mapping::hints::{Prefixes, align};
use crate::mapping::types::{
    Checkpoint, Clue, Error, Evidence, FoldSign, Grade, Held, Layout, Literal, Norm, Recipe, Row,
    held_bytes, squeezed,
};
use crate::tensor::{Digest, Dtype, TensorView, permute};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

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
        let sources: Vec<Source<'_>> = (names.into_iter())
            .filter_map(|name| Source::of(checkpoint, name))
            .collect();
        let open: Vec<usize> = (0..rows.len())
            .filter(|&r| rows[r].grade != Grade::Given)
            .collect();
        for &r in &open {
            forget(&mut rows[r]);
        }
        let (named, absent) = presume(rows, &sources);
        let equal = equalities(rows, &open, &sources, checkpoint, held)?;
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
        let Source { name, shape, .. } = self.sources[source];
        Recipe::Tensor {
            source: name.to_owned(),
            steps: relation.steps(shape, row),
        }
    }

    pub fn name(&self, source: usize) -> String {
        self.sources[source].name.to_owned()
    }

    /// Whether a tensor has so few different values that it equals others by chance.
    pub fn is_flat(&self, source: usize) -> bool {
        match self.equal.known.get(&source) {
            Some(known) => known.is_flat,
            None => is_flat(self.sources[source].dtype, &self.sources[source].data()),
        }
    }

    /// What there is to know of every tensor; what was not compared is read for it.
    pub fn all_known(&self) -> Vec<Known> {
        let known = &self.equal.known;
        let new: Vec<usize> = (0..self.sources.len())
            .filter(|s| !known.contains_key(s))
            .collect();
        let Some(first) = self.sources.first() else {
            return Vec::new();
        };
        let mut new = looks_of_sources(&new, &self.sources, first.checkpoint).into_iter();
        let of = |s| known.get(&s).copied().or_else(|| Some(new.next()?.1));
        (0..self.sources.len()).filter_map(of).collect()
    }
}

/// What is known of a tensor once it was looked at, in its own type.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub print: Print,
    pub is_flat: bool,
    pub literal: Option<Literal>,
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
        self.0.sources[self.0.find(name)?].view()
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

/// Larger tensors are not kept in memory, in bytes: all of them are read, each a few times, and together they are the checkpoint.
const KEPT: usize = 64 << 10;

/// A tensor of the checkpoint.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    checkpoint: &'a dyn Checkpoint,
}

impl<'a> Source<'a> {
    pub fn of(checkpoint: &'a dyn Checkpoint, name: &'a str) -> Option<Source<'a>> {
        let (dtype, shape) = checkpoint.describe(name)?;
        Some(Source {
            name,
            dtype,
            shape,
            checkpoint,
        })
    }

    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// What [`Source::data`] allocates, in bytes.
    pub fn cost(&self) -> usize {
        let length = self.dtype.bytes_for(self.count()).unwrap_or(usize::MAX);
        if length > KEPT { length } else { 0 }
    }

    /// Its bytes, for use once.
    pub fn data(&self) -> Cow<'a, [u8]> {
        let read = (self.cost() > 0).then(|| self.checkpoint.read(self.name));
        match read.flatten() {
            Some(tensor) => Cow::Owned(tensor.data),
            None => Cow::Borrowed(self.view().map_or(&[], |view| view.data)),
        }
    }

    /// All of it, which stays in memory.
    pub fn view(&self) -> Option<TensorView<'a>> {
        self.checkpoint.get(self.name)
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
    /// By row: why its value may need no tensor.
    pub literals: Vec<Option<Literal>>,
    /// By source: what is known of it, where it was looked at.
    known: HashMap<usize, Known>,
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
                all.insert(source.dtype);
                of_sources.insert((s, source.dtype));
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
                if count == source.count() && kind == source.dtype {
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

/// Reads so many tensors at a time and keeps nothing of them: what is known of each in its own type, by index.
fn looks_of_sources(
    wanted: &[usize],
    sources: &[Source<'_>],
    checkpoint: &dyn Checkpoint,
) -> Vec<(usize, Known)> {
    let names: Vec<&str> = wanted.iter().map(|&s| sources[s].name).collect();
    let looks: Vec<Seen<'_>> = (wanted.iter())
        .map(|&s| Seen::of(sources[s].dtype, sources[s].shape))
        .collect();
    let digests = checkpoint.digests_seeing(&names, &|i, offset, part| looks[i].see(offset, part));
    let found = (wanted.iter().zip(&looks)).zip(digests);
    let found = found.map(|((&s, look), digest)| {
        let source = &sources[s];
        // A tensor that is described is there.
        let digest = digest.unwrap_or_else(|| Digest::of(&[]));
        let whole = || {
            literal(TensorView {
                dtype: source.dtype,
                shape: source.shape,
                data: &source.data(),
            })
        };
        (s, look.known(digest, whole))
    });
    found.collect()
}

/// A tensor that is looked at.
struct Seen<'s> {
    look: Look,
    dtype: Dtype,
    shape: &'s [usize],
    may_be_literal: AtomicBool,
}

impl<'s> Seen<'s> {
    fn of(dtype: Dtype, shape: &'s [usize]) -> Seen<'s> {
        Seen {
            look: Look::new(dtype, shape.iter().product()),
            dtype,
            shape,
            may_be_literal: AtomicBool::new(true),
        }
    }

    /// Takes note of `part`, which begins so many bytes after the beginning.
    fn see(&self, offset: usize, part: &[u8]) {
        self.look.see(part);
        if offset == 0 && !may_be_literal(self.dtype, self.shape, part) {
            self.may_be_literal.store(false, Ordering::Relaxed);
        }
    }

    /// Once all was seen. `whole` reads the tensor once more, for the few that may be a literal.
    fn known(&self, digest: Digest, whole: impl FnOnce() -> Option<Literal>) -> Known {
        let count = self.shape.iter().product();
        let is_flat = (self.look.few()).is_some_and(|different| is_flat_of(different, count));
        let literal = if is_flat && count > 1 {
            Some(Literal::Flat)
        } else if is_flat || self.may_be_literal.load(Ordering::Relaxed) {
            whole()
        } else {
            None
        };
        Known {
            print: self.look.print(digest),
            is_flat,
            literal,
        }
    }
}

/// As [`looks_of_sources`], of rows.
fn looks_of_rows(
    open: &[usize],
    rows: &[Row],
    held: &dyn Held,
) -> Result<Vec<(usize, Known)>, Error> {
    let names: Vec<&str> = open.iter().map(|&r| rows[r].name.as_str()).collect();
    let looks: Vec<Seen<'_>> = (open.iter())
        .map(|&r| Seen::of(rows[r].dtype, &rows[r].shape))
        .collect();
    let digests = held.digests_seeing(&names, &|i, offset, part| looks[i].see(offset, part));
    let mut found = Vec::with_capacity(open.len());
    for ((&r, look), digest) in open.iter().zip(&looks).zip(digests) {
        let row = &rows[r];
        let digest = digest.ok_or_else(|| Error::NotHeld {
            weight: row.name.clone(),
        })?;
        if row.dtype.bytes_for(row.count()) != Some(look.look.seen()) {
            return Err(Error::length(row, row.dtype, &[look.look.seen()]));
        }
        let mut error = None;
        let whole = || {
            let literal = literal_of(held, row);
            literal.unwrap_or_else(|e| {
                error = Some(e);
                None
            })
        };
        found.push((r, look.known(digest, whole)));
        if let Some(error) = error {
            return Err(error);
        }
    }
    Ok(found)
}

fn prints_of_sources(
    wanted: &[(usize, Dtype)],
    sources: &[Source<'_>],
    known: &HashMap<usize, Known>,
) -> Result<Prints, Error> {
    let cost = |&(s, dtype): &(usize, Dtype)| {
        let source = &sources[s];
        source.cost() + cast_cost(source.dtype, dtype, source.count())
    };
    let own = |&(s, dtype): &(usize, Dtype)| sources[s].dtype == dtype;
    let others: Vec<(usize, Dtype)> = wanted.iter().filter(|w| !own(w)).copied().collect();
    let prints = batched(&others, cost, |&(s, dtype)| {
        let source = &sources[s];
        // What does not convert is equal to nothing.
        let bytes = as_type(source.dtype, dtype, source.data()).ok();
        Ok::<_, Error>(bytes.map(|b| ((s, dtype), Print::of(dtype, &b))))
    })?;
    let of_own = wanted.iter().filter(|w| own(w));
    let of_own = of_own.map(|&(s, dtype)| ((s, dtype), known[&s].print));
    Ok(prints.into_iter().flatten().chain(of_own).collect())
}

fn prints_of_rows(
    wanted: &[(usize, Dtype)],
    rows: &[Row],
    held: &dyn Held,
    known: &HashMap<usize, Known>,
) -> Result<Prints, Error> {
    let cost = |&(r, dtype): &(usize, Dtype)| {
        row_cost(&rows[r]) + cast_cost(rows[r].dtype, dtype, rows[r].count())
    };
    let own = |&(r, dtype): &(usize, Dtype)| rows[r].dtype == dtype;
    let others: Vec<(usize, Dtype)> = wanted.iter().filter(|w| !own(w)).copied().collect();
    let prints = batched(&others, cost, |&(r, dtype)| {
        let bytes = as_type(rows[r].dtype, dtype, held_bytes(&rows[r], held)?)
            .map_err(|cause| Error::convert(&rows[r], cause))?;
        Ok::<_, Error>(((r, dtype), Print::of(dtype, &bytes)))
    })?;
    let of_own = wanted.iter().filter(|w| own(w));
    let of_own = of_own.map(|&(r, dtype)| ((r, dtype), known[&r].print));
    Ok(prints.into_iter().chain(of_own).collect())
}

/// Bytes that a row's value takes while it is read.
fn row_cost(row: &Row) -> usize {
    row.dtype.bytes_for(row.count()).unwrap_or(usize::MAX / 4)
}

/// Compares `rows` (those in `open`) with every source.
fn equalities(
    rows: &[Row],
    open: &[usize],
    sources: &[Source<'_>],
    checkpoint: &dyn Checkpoint,
    held: &dyn Held,
) -> Result<Equalities, Error> {
    let meetings = Meetings::of(rows, open, sources);
    let mut met: Vec<usize> = meetings.sources.iter().map(|(s, _)| *s).collect();
    met.dedup();
    let looks = looks_of_sources(&met, sources, checkpoint).into_iter();
    let known: HashMap<usize, Known> = looks.collect();
    let looks = looks_of_rows(open, rows, held)?.into_iter();
    let of_rows: HashMap<usize, Known> = looks.collect();
    let prints = prints_of_sources(&meetings.sources, sources, &known)?;
    let row_prints = prints_of_rows(&meetings.rows, rows, held, &of_rows)?;
    let mut buckets: HashMap<(usize, Dtype, u64), Vec<usize>> = HashMap::new();
    for (&(s, dtype), print) in &prints {
        let key = (sources[s].count(), dtype, print.bag);
        buckets.entry(key).or_default().push(s);
    }
    // A map has no order, and candidates are to come in that of their names.
    for bucket in buckets.values_mut() {
        bucket.sort_unstable();
    }
    // The source as it is, cast and turned; nothing where the digests say it all.
    let compare_cost = |&r: &usize| {
        let row = &rows[r];
        if is_told_by_digests(row, &row_prints[&(r, row.dtype)], &buckets, &prints) {
            return 0;
        }
        let widest = (meetings.kinds.get(&row.count()).into_iter().flatten())
            .map(|kind| kind.bits() / 8 + cast_cost(*kind, row.dtype, 1))
            .max();
        row_cost(row) + widest.unwrap_or(0) * row.count()
    };
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
                if common(row.dtype, sources[s].dtype) == Some(dtype) {
                    equal.extend(compare(row, print, sources, s, &prints, dtype)?);
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
    let literals = (0..rows.len()).map(|r| of_rows.get(&r)?.literal).collect();
    Ok(Equalities {
        of_row,
        informative,
        literals,
        known,
        bags,
        prints,
    })
}

/// Whether all that a row may be equal to is equal to it byte by byte, in its own type, and no other order of axes is tried then: as
/// [`relations`] tries them.
fn is_told_by_digests(
    row: &Row,
    print: &Print,
    buckets: &HashMap<(usize, Dtype, u64), Vec<usize>>,
    prints: &Prints,
) -> bool {
    let rank = squeezed(&row.shape).len();
    let may_be = buckets.get(&(row.count(), row.dtype, print.bag));
    let is_flat = |s: &usize| prints[&(*s, row.dtype)].flat == print.flat;
    let plain = rank > 2 || row.layout == Layout::AsIs;
    rank < 2 || (plain && may_be.is_some_and(|all| all.iter().all(is_flat)))
}

fn compare(
    row: &Row,
    row_print: &Print,
    sources: &[Source<'_>],
    s: usize,
    prints: &Prints,
    dtype: Dtype,
) -> Result<Option<Equal>, Error> {
    let shape = sources[s].shape;
    let print = &prints[&(s, dtype)];
    let (from, to) = (squeezed(shape), squeezed(&row.shape));
    let flat = print.flat == row_print.flat;
    let found = if from.len() < 2 && to.len() < 2 {
        // Vectors: the digests say it all.
        let order = Relation::Order((0..from.len()).collect());
        if flat { vec![order] } else { Vec::new() }
    } else {
        // Read where digests do not say it.
        let mut read = None;
        let turned = |order: &[usize]| {
            let source = match read.take() {
                Some(source) => source,
                None => as_type(sources[s].dtype, dtype, sources[s].data())
                    .map_err(|cause| Error::convert(row, cause))?,
            };
            let view = TensorView {
                dtype,
                shape: &from,
                data: &source,
            };
            // The row's own bytes have been hashed already.
            let equal = permute(view, order).is_ok_and(|b| Digest::of(&b) == row_print.flat);
            read = Some(source);
            Ok::<_, Error>(equal)
        };
        relations(&from, &to, row.layout, flat, turned)?
    };
    if found.is_empty() {
        return Ok(None);
    }
    let free = is_square(&row.shape) && is_square(shape);
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
