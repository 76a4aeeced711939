//! Constants that are put together from rows of tensors: slices of a stacked q/k/v, joined projections, gates in another order,
//! gathered tables.
//!
//! Every tensor is seen as a matrix of rows; a table of hashes of all rows of one width gives, for each row of a constant, the
//! tensors and places where it stands, and runs of neighbouring rows become one piece.

use super::value::{as_type, common};
use crate::mapping::types::{Recipe, Run, squeezed};
use crate::tensor::{Dtype, TensorView, from_f32, to_f32, transpose};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};

/// Pieces that one constant may be made of; a gathered table of tokens has one a row.
const MOST_RUNS: usize = 4096;
/// Elements of a vector that must stand side by side to count: fewer may be equal by chance.
const SHORTEST: usize = 4;
/// Places that are remembered of one row, beside the first in each tensor; rows of zeros stand everywhere.
const PLACES: usize = 64;
/// How often equal rows are looked for in places that a constant does not use.
const ELSEWHERE: usize = 3;
/// Runs with copies of rows that are looked at one by one: gates and projections are few.
const RUNS: usize = 16;
/// And how often each of them.
const TURNS: usize = 16;
/// Places of a constant of one value in one tensor; more are those of a pruned matrix.
const PARTS: usize = 256;

/// A tensor that rows may come from.
#[derive(Debug, Clone, Copy)]
pub(in crate::mapping) struct Stack<'a> {
    pub name: &'a str,
    pub view: TensorView<'a>,
}

/// Where the rows of all tensors stand, by width and type; made when they are first asked for.
pub(in crate::mapping) struct RowIndex<'a> {
    stacks: Vec<Stack<'a>>,
    tables: HashMap<(usize, Dtype, Dtype), Table>,
}

/// Hash of a row to stack and row number.
type Table = HashMap<u64, Vec<(usize, usize)>>;

fn hash(row: &[u8]) -> u64 {
    let mut h = DefaultHasher::new();
    h.write(row);
    h.finish()
}

/// Widths under which a tensor of `shape` is seen as a matrix: all but the first axis, or the last.
fn widths(shape: &[usize]) -> Vec<usize> {
    let flat = squeezed(shape);
    match flat.len() {
        0 => Vec::new(),
        1 => vec![1],
        2 => vec![flat[1]],
        _ => vec![flat[1..].iter().product(), flat[flat.len() - 1]],
    }
}

impl<'a> RowIndex<'a> {
    pub fn of(stacks: Vec<Stack<'a>>) -> Self {
        RowIndex {
            stacks,
            tables: HashMap::new(),
        }
    }

    fn table(&mut self, width: usize, of: Dtype, to: Dtype) -> &Table {
        let stacks = &self.stacks;
        self.tables.entry((width, of, to)).or_insert_with(|| {
            let mut table = Table::new();
            for (s, stack) in stacks.iter().enumerate() {
                if stack.view.dtype != of || !widths(stack.view.shape).contains(&width) {
                    continue;
                }
                let Ok(bytes) = as_type(of, to, Cow::Borrowed(stack.view.data)) else {
                    continue;
                };
                let stride = width * to.bits() / 8;
                for (r, row) in bytes.chunks_exact(stride.max(1)).enumerate() {
                    let places = table.entry(hash(row)).or_default();
                    let is_first = places.last().is_none_or(|(last, _)| *last != s);
                    if is_first || places.len() < PLACES {
                        places.push((s, r));
                    }
                }
            }
            table
        })
    }

    /// Every way to put `held` together from rows; `exact` checks one against the bytes.
    pub fn explain(
        &mut self,
        held: TensorView<'_>,
        exact: impl Fn(&Recipe) -> bool,
    ) -> Vec<Recipe> {
        let shape = squeezed(held.shape);
        let mut found: Vec<Recipe> = Vec::new();
        let types: Vec<Dtype> = {
            let mut all: Vec<Dtype> = self.stacks.iter().map(|s| s.view.dtype).collect();
            all.sort_unstable_by_key(|d| d.name());
            all.dedup();
            all
        };
        for of in types {
            let Some(to) = common(held.dtype, of) else {
                continue;
            };
            let Ok(bytes) = as_type(held.dtype, to, Cow::Borrowed(held.data)) else {
                continue;
            };
            let mut layouts: Vec<(usize, bool, Cow<'_, [u8]>)> = widths(held.shape)
                .into_iter()
                .map(|w| (w, false, bytes.clone()))
                .collect();
            if shape.len() == 2 {
                let view = TensorView {
                    dtype: to,
                    shape: &shape,
                    data: &bytes,
                };
                if let Ok(turned) = transpose(view) {
                    layouts.push((shape[0], true, Cow::Owned(turned)));
                }
            }
            for (width, transposed, data) in layouts {
                let table = self.table(width, of, to);
                let Some(runs) = runs(&data, width * to.bits() / 8, table) else {
                    continue;
                };
                if width == 1 && runs.iter().any(|(_, _, len)| *len < SHORTEST) {
                    continue;
                }
                for chosen in self.spellings(&runs, width, of, to) {
                    let recipe = Recipe::Rows {
                        width,
                        runs: chosen,
                        transposed,
                    };
                    // The table knows hashes only.
                    if !found.contains(&recipe) && exact(&recipe) {
                        found.push(recipe);
                    }
                }
            }
        }
        found
    }

    /// The runs by name; once more for each tensor that holds all that a run takes of another.
    fn spellings(&mut self, runs: &[Piece], width: usize, of: Dtype, to: Dtype) -> Vec<Vec<Run>> {
        let named = |stacks: &[Stack<'_>], runs: &[Piece]| -> Vec<Run> {
            (runs.iter())
                .map(|&(s, start, len)| Run {
                    source: stacks[s].name.to_owned(),
                    start,
                    len,
                })
                .collect()
        };
        let mut all = vec![named(&self.stacks, runs)];
        let used: Vec<usize> = {
            let mut used: Vec<usize> = runs.iter().map(|r| r.0).collect();
            used.sort_unstable();
            used.dedup();
            used
        };
        let stride = width * to.bits() / 8;
        for &own in &used {
            let Ok(bytes) = as_type(of, to, Cow::Borrowed(self.stacks[own].view.data)) else {
                continue;
            };
            let Some(&(_, first, _)) = runs.iter().find(|r| r.0 == own) else {
                continue;
            };
            let row = bytes[first * stride..(first + 1) * stride].to_vec();
            let places = self.table(width, of, to).get(&hash(&row)).cloned();
            for (other, at) in places.into_iter().flatten() {
                if other == own {
                    continue;
                }
                let moved: Option<Vec<Piece>> = runs
                    .iter()
                    .map(|&(s, start, len)| {
                        if s == own {
                            Some((other, (start + at).checked_sub(first)?, len))
                        } else {
                            Some((s, start, len))
                        }
                    })
                    .collect();
                if let Some(moved) = moved {
                    all.push(named(&self.stacks, &moved));
                }
            }
        }
        let others = self.of_equal_rows(runs, &used, width, of, to);
        all.extend(others.iter().map(|other| named(&self.stacks, other)));
        all
    }

    /// Where a tensor is taken apart: the same with its rows that are nothing but copies of one another in another order, and from the
    /// other places where such rows stand. Of gates that are all zeros nobody sees in which order they are.
    fn of_equal_rows(
        &mut self,
        runs: &[Piece],
        used: &[usize],
        width: usize,
        of: Dtype,
        to: Dtype,
    ) -> Vec<Vec<Piece>> {
        let height = |s: usize| self.stacks[s].view.shape.iter().product::<usize>() / width;
        let is_whole = |&(s, start, len): &Piece| start == 0 && len == height(s);
        if runs.iter().all(is_whole) {
            return Vec::new();
        }
        // By stack and row: which of the different rows it is; and where each of those stands.
        let mut kinds: HashMap<Place, u64> = HashMap::new();
        let mut places: HashMap<u64, Vec<Place>> = HashMap::new();
        let stride = width * to.bits() / 8;
        for &s in used {
            let Ok(bytes) = as_type(of, to, Cow::Borrowed(self.stacks[s].view.data)) else {
                return Vec::new();
            };
            for (r, row) in bytes.chunks_exact(stride).enumerate() {
                kinds.insert((s, r), hash(row));
                places.entry(hash(row)).or_default().push((s, r));
            }
        }
        let is_alone = |place: &Place| kinds.get(place).is_some_and(|k| places[k].len() == 1);
        let mut copies = Copies {
            rows: Vec::new(),
            open: Vec::new(),
            places: HashMap::new(),
        };
        for run in runs {
            let &(s, start, len) = run;
            let own: Vec<Place> = (start..start + len).map(|r| (s, r)).collect();
            let (first, last) = (
                own.iter().position(is_alone),
                own.iter().rposition(is_alone),
            );
            let parted = !is_whole(run) && runs.iter().filter(|r| r.0 == s).count() > 1;
            let mut open: HashMap<u64, Vec<usize>> = HashMap::new();
            for (i, place) in own.into_iter().enumerate() {
                // A row that stands alone holds those beside it.
                let held = match (first, last) {
                    (Some(first), Some(last)) => !parted || (first..=last).contains(&i),
                    _ => false,
                };
                if let Some(kind) = kinds.get(&place).filter(|_| !held && !is_alone(&place)) {
                    open.entry(*kind).or_default().push(copies.rows.len());
                }
                copies.rows.push(place);
            }
            copies.open.extend((!open.is_empty()).then_some(open));
        }
        copies.places = places;
        let open: Vec<u64> = copies
            .open
            .iter()
            .flat_map(HashMap::keys)
            .copied()
            .collect();
        let table = self.table(width, of, to);
        for kind in open {
            let own = copies.places.entry(kind).or_default();
            for place in table.get(&kind).into_iter().flatten() {
                if !used.contains(&place.0) && !own.contains(place) {
                    own.push(*place);
                }
            }
        }
        let mut found = copies.all_at_once();
        found.extend(copies.run_by_run());
        found.retain(|other| *other != copies.rows);
        found.iter().map(|other| pieces(other)).collect()
    }
}

/// Stack and row.
type Place = (usize, usize);

/// What a constant takes, row by row, and which of that are copies of other rows.
struct Copies {
    rows: Vec<Place>,
    /// By run that has any, and by kind: those of its rows, as indices into `rows`, that another of the same kind may be in place of.
    open: Vec<HashMap<u64, Vec<usize>>>,
    /// By kind: where such rows stand, in the tensors that the constant takes and in others.
    places: HashMap<u64, Vec<Place>>,
}

impl Copies {
    /// All copies in another order, and all from places that are not taken.
    fn all_at_once(&self) -> Vec<Vec<Place>> {
        let mut open: HashMap<u64, Vec<usize>> = HashMap::new();
        for (kind, at) in self.open.iter().flatten() {
            open.entry(*kind).or_default().extend(at);
        }
        let mut found = vec![self.rows.clone(); 1 + ELSEWHERE];
        for (kind, at) in &open {
            let elsewhere = self.elsewhere(*kind, at);
            for (n, &i) in at.iter().enumerate() {
                // Equal in any order if equal to their next in turn.
                found[0][i] = self.rows[at[(n + 1) % at.len()]];
                for (part, other) in found[1..].iter_mut().enumerate() {
                    if !elsewhere.is_empty() {
                        other[i] = elsewhere[(part * at.len() + n) % elsewhere.len()];
                    }
                }
            }
        }
        found
    }

    /// The copies of one run from other places, with the other runs as they are: of what reads fewer tensors than the exporter recorded
    /// nothing is left.
    fn run_by_run(&self) -> Vec<Vec<Place>> {
        let mut found = Vec::new();
        for open in self.open.iter().filter(|_| self.open.len() <= RUNS) {
            let mut variants: Vec<Vec<Place>> = Vec::new();
            for (kind, at) in open {
                let mut elsewhere = self.elsewhere(*kind, at);
                // One of each other tensor first.
                let mut seen = HashSet::from([self.rows[at[0]].0]);
                elsewhere.sort_by_cached_key(|place| !seen.insert(place.0));
                for (turn, part) in elsewhere.chunks(at.len()).take(TURNS).enumerate() {
                    if variants.len() == turn {
                        variants.push(self.rows.clone());
                    }
                    for (&i, place) in at.iter().zip(part) {
                        variants[turn][i] = *place;
                    }
                }
            }
            found.extend(variants);
        }
        found
    }

    /// Where rows of one kind stand that the rows `at` are not taken from.
    fn elsewhere(&self, kind: u64, at: &[usize]) -> Vec<Place> {
        let taken: HashSet<Place> = at.iter().map(|&i| self.rows[i]).collect();
        let all = self.places[&kind].iter().copied();
        all.filter(|place| !taken.contains(place)).collect()
    }
}

/// Stack, first row, number of rows.
type Piece = (usize, usize, usize);

fn pieces(rows: &[(usize, usize)]) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    for &(s, r) in rows {
        match found.last_mut() {
            Some(last) if (last.0, last.1 + last.2) == (s, r) => last.2 += 1,
            _ => found.push((s, r, 1)),
        }
    }
    found
}

/// Runs of neighbouring rows (stack, first row, rows) that give `data`, or none where some row stands nowhere.
fn runs(data: &[u8], stride: usize, table: &Table) -> Option<Vec<Piece>> {
    if stride == 0 || data.is_empty() || table.is_empty() {
        return None;
    }
    let mut runs: Vec<Piece> = Vec::new();
    for row in data.chunks_exact(stride) {
        let places = table.get(&hash(row))?;
        // A run that goes on comes first: equal rows stand in many places, and a piece was cut from one.
        if let Some(last) = runs.last_mut()
            && places.contains(&(last.0, last.1 + last.2))
        {
            last.2 += 1;
            continue;
        }
        // A tensor that is in use already comes before others: rows of zeros stand in many.
        let known = places.iter().find(|p| runs.iter().any(|r| r.0 == p.0));
        let (stack, start) = *known.or_else(|| places.first())?;
        runs.push((stack, start, 1));
        if runs.len() > MOST_RUNS {
            return None;
        }
    }
    Some(runs)
}

/// A constant of one value, which may be a part of a larger tensor: a bias that has zeros for its keys only, sliced.
pub(in crate::mapping) struct OneValue {
    dtype: Dtype,
    value: f32,
    /// Width and number of rows, and whether rows and columns are exchanged then.
    layouts: Vec<(usize, usize, bool)>,
}

impl OneValue {
    /// None where `held` has several values, or so few elements that a trained vector has them side by side by chance.
    pub fn of(held: TensorView<'_>) -> Option<OneValue> {
        let values = to_f32(held.dtype, held.data).ok()?;
        let same = values.windows(2).all(|w| w[0].to_bits() == w[1].to_bits());
        if !same || values.len() < SHORTEST || !held.dtype.is_float() {
            return None;
        }
        let mut layouts: Vec<(usize, usize, bool)> = (widths(held.shape).into_iter())
            .map(|width| (width, values.len() / width, false))
            .collect();
        if let [height, width] = squeezed(held.shape)[..] {
            layouts.push((height, width, true));
        }
        Some(OneValue {
            dtype: held.dtype,
            value: values[0],
            layouts,
        })
    }

    /// Whether a tensor of `shape` is large enough, in its rows.
    pub fn may_be_part_of(&self, shape: &[usize]) -> bool {
        let (known, count) = (widths(shape), shape.iter().product::<usize>());
        let fits = |&(width, height, _): &(usize, usize, bool)| {
            known.contains(&width) && width * height < count
        };
        self.layouts.iter().any(fits)
    }

    /// The value as `dtype` has it; none where that type does not have it.
    fn stored_in(&self, dtype: Dtype) -> Option<Vec<u8>> {
        let stored = from_f32(dtype, &[self.value]).ok()?;
        let back = *to_f32(dtype, &stored).ok()?.first()?;
        let own = |v: f32| from_f32(self.dtype, &[v]).ok();
        (own(back)? == own(self.value)?).then_some(stored)
    }
}

/// The parts of `stack`, a tensor of many values, that `constants` may be: every row of such values is in one of them.
pub(in crate::mapping) fn parts_of_one_value<'c>(
    stack: Stack<'_>,
    constants: impl Iterator<Item = (usize, &'c OneValue)>,
) -> Vec<(usize, Recipe)> {
    let view = stack.view;
    let (known, count) = (widths(view.shape), view.shape.iter().product::<usize>());
    let mut seen: HashMap<(usize, Vec<u8>), Vec<Stretch>> = HashMap::new();
    let mut found = Vec::new();
    for (at, one) in constants {
        let Some(value) = one.stored_in(view.dtype) else {
            continue;
        };
        for &(width, height, transposed) in &one.layouts {
            if !known.contains(&width) || width * height >= count {
                continue;
            }
            let stretches = (seen.entry((width, value.clone())))
                .or_insert_with(|| stretches(view.data, width, &value));
            let starts = stretches.iter().flat_map(|of| starts(*of, height));
            found.extend(starts.take(PARTS).map(|start| {
                let runs = vec![Run {
                    source: stack.name.to_owned(),
                    start,
                    len: height,
                }];
                let recipe = Recipe::Rows {
                    width,
                    runs,
                    transposed,
                };
                (at, recipe)
            }));
        }
    }
    found
}

/// Rows that are nothing but one value: the first, and how many.
type Stretch = (usize, usize);

fn stretches(data: &[u8], width: usize, value: &[u8]) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for (r, row) in data.chunks_exact(width * value.len()).enumerate() {
        if row
            .chunks_exact(value.len())
            .any(|element| element != value)
        {
            continue;
        }
        match found.last_mut() {
            Some((start, len)) if *start + *len == r => *len += 1,
            _ => found.push((r, 1)),
        }
    }
    found
}

/// Where parts of `height` rows begin, so that every row of the stretch is in one.
fn starts((start, len): Stretch, height: usize) -> impl Iterator<Item = usize> {
    let last = len.checked_sub(height).map(|rest| start + rest);
    let all = (start..).step_by(height.max(1));
    let within = all.take_while(move |at| last.is_some_and(|last| *at < last));
    within.chain(last)
}
