//! Which sources equal which weights: fingerprints of every tensor once, then exact comparison of the few that agree.

use crate::mapping::derive::{
    Print, Relation, as_type, batched, common, is_square, relations, squeezed,
};
use crate::mapping::types::{Error, Held, Row, held_bytes};
use crate::tensor::{Dtype, TensorView};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

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
    prints: HashMap<(usize, Dtype), Print>,
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

/// Compares `rows` (those in `open`) with every source.
pub(super) fn equalities(
    rows: &[Row],
    open: &[usize],
    sources: &[Source<'_>],
    held: &dyn Held,
) -> Result<Equalities, Error> {
    let counts: HashSet<usize> = open.iter().map(|&r| rows[r].count()).collect();
    let mut row_types: BTreeSet<(usize, Dtype)> = BTreeSet::new();
    let mut source_types: BTreeSet<(usize, Dtype)> = BTreeSet::new();
    let mut kinds: HashMap<usize, BTreeSet<Dtype>> = HashMap::new();
    for (s, source) in sources.iter().enumerate() {
        if counts.contains(&source.count()) {
            kinds
                .entry(source.count())
                .or_default()
                .insert(source.view.dtype);
            source_types.insert((s, source.view.dtype));
        }
    }
    for &r in open {
        row_types.insert((r, rows[r].dtype));
        for &kind in kinds.get(&rows[r].count()).into_iter().flatten() {
            if let Some(dtype) = common(rows[r].dtype, kind) {
                row_types.insert((r, dtype));
            }
        }
    }
    let wanted: HashSet<(usize, Dtype, Dtype)> = open
        .iter()
        .flat_map(|&r| {
            let row = &rows[r];
            kinds
                .get(&row.count())
                .into_iter()
                .flatten()
                .filter_map(|&kind| Some((row.count(), kind, common(row.dtype, kind)?)))
        })
        .collect();
    for (s, source) in sources.iter().enumerate() {
        for &(count, kind, dtype) in &wanted {
            if count == source.count() && kind == source.view.dtype {
                source_types.insert((s, dtype));
            }
        }
    }
    let source_types: Vec<(usize, Dtype)> = source_types.into_iter().collect();
    let cast_cost = |from: Dtype, to: Dtype, count: usize| if from == to { 0 } else { 4 * count };
    let print = |&(s, dtype): &(usize, Dtype)| {
        let view = sources[s].view;
        // What does not convert is equal to nothing.
        let bytes = as_type(view.dtype, dtype, Cow::Borrowed(view.data)).ok();
        Ok(bytes.map(|b| ((s, dtype), Print::of(dtype, &b))))
    };
    let source_cost =
        |&(s, dtype): &(usize, Dtype)| cast_cost(sources[s].view.dtype, dtype, sources[s].count());
    let prints: HashMap<_, _> = (batched(&source_types, source_cost, print)?.into_iter())
        .flatten()
        .collect();
    let row_types: Vec<(usize, Dtype)> = row_types.into_iter().collect();
    let row_cost = |&(r, dtype): &(usize, Dtype)| cast_cost(rows[r].dtype, dtype, rows[r].count());
    let row_prints: HashMap<(usize, Dtype), Print> =
        batched(&row_types, row_cost, |&(r, dtype)| {
            let bytes = as_type(rows[r].dtype, dtype, held_bytes(&rows[r], held)?)
                .map_err(|cause| Error::convert(&rows[r], cause))?;
            Ok::<_, Error>(((r, dtype), Print::of(dtype, &bytes)))
        })?
        .into_iter()
        .collect();
    let mut buckets: HashMap<(usize, Dtype, u64), Vec<usize>> = HashMap::new();
    for (&(s, dtype), print) in &prints {
        let key = (sources[s].count(), dtype, print.bag);
        buckets.entry(key).or_default().push(s);
    }
    for bucket in buckets.values_mut() {
        bucket.sort_unstable();
    }
    let compare_cost = |&r: &usize| 12 * rows[r].count();
    let found = batched(open, compare_cost, |&r| {
        let row = &rows[r];
        let mut equal = Vec::new();
        let types: BTreeSet<Dtype> = (kinds.get(&row.count()).into_iter().flatten())
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
    prints: &HashMap<(usize, Dtype), Print>,
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
