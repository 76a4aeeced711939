//! The checkpoint that a model was exported from: every constant with all derivations that reproduce it.
//!
//! Nothing here is a guess: a derivation counts where it gives the bytes (or differs from them by a stated rounding), and all
//! that do are kept, since they have to agree before a refit writes. What readers say narrows them down (`readings`).

use super::case::{Case, Source, Sources};
use super::{folds, readings};
use crate::mapping::derive::{
    OneValue, Relation, RowIndex, Stack, apply_recipe, as_type, batched, common, functions,
    is_flat, is_square, is_typed, parts_of_one_value, presumed_relations,
};
use crate::mapping::hints::{is_anonymous, is_recorded, same_name};
use crate::mapping::types::{
    Checkpoint, Clue, Error, Evidence, Grade, Held, Inventory, Layout, Literal, Mapping, Recipe,
    Rounding, Row, Run, SourceTensor, held_bytes, rounded, squeezed,
};
use crate::tensor::{Digest, Dtype, TensorView, to_f32};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;

/// Part of a half-precision weight that a converter may have clamped: it lifts tiny values and cuts huge ones.
const CLAMPED: f64 = 0.01;
/// Integers up to this many are axes, shapes or bounds.
const SHORT: usize = 16;
/// The usual converter (`onnxconverter-common`) lifts smaller magnitudes to this.
const LIFTED: f32 = 1e-7;
/// And cuts larger ones to this.
const CUT: f32 = 1e4;

/// Explains every row of `mapping` from `checkpoint`, and records the checkpoint.
pub(super) fn resolve(
    mapping: &Mapping,
    held: &dyn Held,
    checkpoint: &dyn Checkpoint,
) -> Result<Mapping, Error> {
    let mut rows = mapping.rows.clone();
    let (case, open) = Case::open(&mut rows, checkpoint, held)?;
    for &r in &open {
        whole_tensors(&case, &mut rows, r);
    }
    folds::explain(&case, &mut rows, &open)?;
    // What is simpler comes first: functions, rows and sums are looked for where no tensor and no
    // fold is the value.
    let unexplained: Vec<usize> = (open.iter().copied())
        .filter(|&r| rows[r].explanations().next().is_none())
        .collect();
    let found = batched(
        &unexplained,
        |&r| 16 * rows[r].count(),
        |&r| Ok::<_, Error>((r, elementwise(&case, &rows[r], r)?)),
    )?;
    for (r, recipes) in found {
        for (recipe, rounding) in recipes {
            rows[r].explain(recipe, rounding);
        }
    }
    for &r in &open {
        rows[r].literal = case.equal.literals[r];
    }
    let recorded = readings::recorded_sources(&case, &rows, &unexplained, mapping.merges);
    from_rows(&case, checkpoint, &mut rows, &unexplained, &recorded)?;
    from_sums(&case, &mut rows, &unexplained)?;
    from_parts(&case, &mut rows, &open, &recorded)?;
    for &r in &open {
        if is_lacking(&rows[r]) {
            rows[r].literal = None;
        }
    }
    readings::narrow(&case, &mut rows, &open, mapping.merges);
    let mut inventory = inventory(&case, &mut rows, &open);
    in_attributes(&case, &rows, &mapping.attributes, &mut inventory);
    for &r in &open {
        grade(&mut rows[r]);
    }
    let unsourced_integers = (rows.iter())
        .filter(|row| row.baked.is_some() && !row.dtype.is_float() && row.count() > SHORT)
        .filter(|row| row.explanations().next().is_none() && row.literal.is_none())
        .map(|row| row.name.clone())
        .collect();
    rows.retain_mut(|row| may_be_of_tensors(&case, row));
    Ok(Mapping {
        against_base: true,
        rows,
        unsourced_integers,
        inventory: Some(inventory),
        ..mapping.clone()
    })
}

/// Whether a value that engines fold in comes from the checkpoint. One that no tensor gives is part of the graph, unless the record says
/// that it was made of tensors (`a > 0`), or there is no record and it is a mask or an index that may have been. Such a row
/// proves nothing and asks for nothing: it is kept to stop a change of what it may be made of.
fn may_be_of_tensors(case: &Case<'_>, row: &mut Row) -> bool {
    if row.baked.is_none() || row.explanations().next().is_some() {
        return true;
    }
    let (is_mask, is_index) = (row.dtype == Dtype::Bool, !row.dtype.is_float());
    let may_be = if row.folded_from.is_empty() {
        // What the older exporter has in a node was typed, or follows from shapes.
        let is_sequence = row.literal.is_some();
        !row.inline
            && (is_mask && row.count() > 1 || is_index && !is_sequence && row.count() > SHORT)
    } else {
        (case.sources.iter()).any(|s| is_recorded(&row.folded_from, s.name))
    };
    row.hints.clear();
    row.literal = None;
    may_be
}

/// Whether a parameter of the model has the flat value of an initialiser and the base has no tensor for it: one shard, or another
/// model. A graph's own value is a parameter by nothing.
fn is_lacking(row: &Row) -> bool {
    row.literal == Some(Literal::Flat)
        && row.explanations().next().is_none()
        && row.is_parameter()
        && !row.inline
}

/// Tensors that the row is, as they are or with their axes in another order; the one that a name or path points to first.
fn whole_tensors(case: &Case<'_>, rows: &mut [Row], r: usize) {
    let named: Vec<usize> = case.named[r].iter().map(|n| n.source).collect();
    let mut equal: Vec<_> = case.equal.of_row[r].iter().collect();
    equal.sort_by_key(|e| {
        let rank = named.iter().position(|&s| s == e.source);
        (rank.unwrap_or(usize::MAX), e.source)
    });
    let alone = equal.len() == 1;
    for same in equal {
        let row = &mut rows[r];
        row.evidence.push(Evidence::ValueEqual {
            source: case.sources[same.source].name.to_owned(),
            dtype: same.dtype,
            unique: alone,
        });
        let source = &case.sources[same.source];
        for relation in &same.relations {
            if !may_stand(row, source, named.contains(&same.source), relation) {
                continue;
            }
            let recipe = case.recipe(row, same.source, relation);
            row.explain(recipe, None);
        }
    }
}

/// Whether a square matrix may stand so: a parameter under its own name stands as it is, another as its reader needs it. A base whose
/// matrix was transposed by mistake is no base.
fn may_stand(row: &Row, source: &Source<'_>, named: bool, relation: &Relation) -> bool {
    if !is_square(&row.shape) || !is_square(source.shape) {
        return true;
    }
    let plain = matches!(relation, Relation::Order(o) if o.is_sorted());
    let fits = relation.fits(row.layout);
    if named && same_name(&row.name, source.name) {
        plain || (fits && row.layout != Layout::Unknown)
    } else {
        fits
    }
}

type Explained = Vec<(Recipe, Option<Rounding>)>;

/// Functions of one tensor's elements that give the row, and copies that a converter clamped.
fn elementwise(case: &Case<'_>, row: &Row, r: usize) -> Result<Explained, Error> {
    let mut found = Vec::new();
    if !row.dtype.is_float() || row.count() == 0 {
        return Ok(found);
    }
    let bytes = held_bytes(row, case.held)?;
    let Ok(held) = to_f32(row.dtype, &bytes) else {
        return Ok(found);
    };
    let flat = is_flat(row.dtype, &bytes);
    // Exporters give what they compute another name: a parameter's own name means the parameter, or contradicts the base.
    let own = readings::own_name(case, row, r);
    let named: Vec<usize> = case.named[r].iter().map(|n| n.source).collect();
    for (s, source) in case.sources.iter().enumerate() {
        if source.count() != row.count() || !source.dtype.is_float() {
            continue;
        }
        // Ones are 1 + zeros for every tensor of zeros; only the one that the graph names counts.
        let meant = named.contains(&s) || row.folded_from.iter().any(|f| f == source.name);
        // A scalar that nobody types is one tensor's and no other's.
        let telling = row.count() == 1 && !is_typed(held[0]);
        if !meant && !telling && (flat || case.is_flat(s)) {
            continue;
        }
        let data = source.data();
        let view = TensorView {
            dtype: source.dtype,
            shape: source.shape,
            data: &data,
        };
        for relation in presumed_relations(row, view.shape) {
            let computed = match own {
                None => functions(view, &relation, &held, row.dtype),
                Some(_) => Vec::new(),
            };
            for function in computed {
                let Recipe::Tensor { source, mut steps } = case.recipe(row, s, &relation) else {
                    continue;
                };
                steps.extend(function.steps);
                let recipe = Recipe::Tensor { source, steps };
                let rounding = rounding(case, row, &recipe, function.max_ulp)?;
                found.push((recipe, rounding));
            }
            // Converters clamp for f16 alone: bf16 has the range of f32.
            if named.contains(&s) && row.dtype == Dtype::F16 {
                found.extend(clamped(case, row, s, &relation, &bytes));
            }
        }
    }
    Ok(found)
}

fn rounding(
    case: &Case<'_>,
    row: &Row,
    recipe: &Recipe,
    max_ulp: u32,
) -> Result<Option<Rounding>, Error> {
    if max_ulp == 0 {
        return Ok(None);
    }
    let sources = Sources(case);
    let bytes = apply_recipe(row, recipe, &sources)?;
    Ok(Some(Rounding {
        max_ulp,
        recomputed: Digest::of(&bytes),
    }))
}

/// The named tensor rounded to half precision, where all that differs was lifted or cut by a converter.
fn clamped(
    case: &Case<'_>,
    row: &Row,
    s: usize,
    relation: &Relation,
    held: &[u8],
) -> Option<(Recipe, Option<Rounding>)> {
    let recipe = case.recipe(row, s, relation);
    let sources = Sources(case);
    let Ok(computed) = apply_recipe(row, &recipe, &sources) else {
        return None;
    };
    let (Ok(plain), Ok(own)) = (to_f32(row.dtype, &computed), to_f32(row.dtype, held)) else {
        return None;
    };
    let mut differ = 0usize;
    for (p, h) in plain.iter().zip(&own) {
        if p == h {
            continue;
        }
        // With room for what f16 makes of these limits: it has no 1e-7.
        let lifted = p.abs() <= 2.0 * LIFTED && h.abs() <= 2.0 * LIFTED;
        let cut = p.abs() >= CUT && h.abs() >= 0.99 * CUT;
        if !lifted && !cut {
            return None;
        }
        differ += 1;
    }
    if differ as f64 > (CLAMPED * own.len() as f64).max(1.0) {
        return None;
    }
    let recomputed = Digest::of(&computed);
    Some((
        recipe,
        Some(Rounding {
            max_ulp: 0,
            recomputed,
        }),
    ))
}

/// Rows that are put together from rows of tensors; only where nothing simpler explains them. What the record names comes first.
fn from_rows(
    case: &Case<'_>,
    checkpoint: &dyn Checkpoint,
    rows: &mut [Row],
    unexplained: &[usize],
    recorded: &HashMap<usize, Vec<Vec<usize>>>,
) -> Result<(), Error> {
    let open: Vec<usize> = (unexplained.iter().copied())
        .filter(|&r| rows[r].explanations().next().is_none() && rows[r].literal.is_none())
        .filter(|&r| rows[r].count() > 1)
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let mut index = RowIndex::of(case.sources.iter().filter_map(stack).collect());
    for r in open {
        for list in recorded.get(&r).into_iter().flatten() {
            let few = list.iter().filter_map(|&s| stack(&case.sources[s]));
            let few = few.collect();
            put_together(case, checkpoint, &mut rows[r], &mut RowIndex::of(few))?;
        }
        // Of what else there is, the record would leave nothing.
        if rows[r].explanations().next().is_none() {
            put_together(case, checkpoint, &mut rows[r], &mut index)?;
        }
    }
    Ok(())
}

fn stack<'s>(source: &Source<'s>) -> Option<Stack<'s>> {
    Some(Stack {
        name: source.name,
        view: source.view()?,
    })
}

/// Adds every way to put a row together from what `index` has.
fn put_together<'s>(
    case: &Case<'s>,
    checkpoint: &dyn Checkpoint,
    row: &mut Row,
    index: &mut RowIndex<'s>,
) -> Result<(), Error> {
    let bytes = held_bytes(row, case.held)?;
    let view = TensorView {
        dtype: row.dtype,
        shape: &row.shape,
        data: &bytes,
    };
    // A square matrix as a whole was looked at before, and how it may stand.
    let whole = |recipe: &Recipe| match recipe {
        Recipe::Rows { runs, .. } => {
            is_square(&row.shape)
                && runs.len() == 1
                && checkpoint
                    .get(&runs[0].source)
                    .is_some_and(|v| v.shape.iter().product::<usize>() == row.count())
        }
        _ => false,
    };
    let exact = |recipe: &Recipe| !whole(recipe) && gives(row, recipe, checkpoint, &bytes);
    let found = index.explain(view, exact);
    for recipe in found {
        row.explain(recipe, None);
    }
    Ok(())
}

/// Constants of one value that are a part of a tensor of many. Such a constant is a literal as far as its value tells, and the part an
/// explanation all the same, so that a refit in which it is no longer that value is refused. A tensor that is flat as a whole may be in
/// any constant of its values, so it explains none.
fn from_parts(
    case: &Case<'_>,
    rows: &mut [Row],
    open: &[usize],
    recorded: &HashMap<usize, Vec<Vec<usize>>>,
) -> Result<(), Error> {
    let mut all: Vec<(usize, OneValue, Option<Vec<usize>>)> = Vec::new();
    for &r in open {
        let row = &rows[r];
        let among = recorded.get(&r).map(|lists| lists.concat());
        let may_be_part = match row.explanations().next() {
            // A parameter that the base lacks is a part of no other tensor, unless the record says that it is.
            None => among.is_some() || !row.is_parameter(),
            // What an exporter computed has the values of another tensor by chance.
            Some(_) => is_anonymous(&row.name) && row.folded_from.is_empty(),
        };
        if row.literal != Some(Literal::Flat) || row.inline || !may_be_part {
            continue;
        }
        let bytes = held_bytes(row, case.held)?;
        let one = OneValue::of(TensorView {
            dtype: row.dtype,
            shape: &row.shape,
            data: &bytes,
        });
        all.extend(one.map(|one| (r, one, among)));
    }
    if all.is_empty() {
        return Ok(());
    }
    let wanted = |s: usize| {
        let may_be =
            move |among: &Option<Vec<usize>>| among.as_ref().is_none_or(|a| a.contains(&s));
        let shape = case.sources[s].shape;
        (all.iter()).filter(move |(_, one, among)| may_be(among) && one.may_be_part_of(shape))
    };
    let floats: Vec<usize> = (0..case.sources.len())
        .filter(|&s| case.sources[s].dtype.is_float() && wanted(s).next().is_some())
        .filter(|&s| !case.is_flat(s))
        .collect();
    let cost = |&s: &usize| case.sources[s].cost();
    let found = batched(&floats, cost, |&s| {
        let source = &case.sources[s];
        let data = source.data();
        let view = TensorView {
            dtype: source.dtype,
            shape: source.shape,
            data: &data,
        };
        let name = source.name;
        let parts =
            parts_of_one_value(Stack { name, view }, wanted(s).map(|(r, one, _)| (*r, one)));
        Ok::<_, Error>(parts)
    })?;
    for (r, recipe) in found.into_iter().flatten() {
        rows[r].explain(recipe, None);
    }
    Ok(())
}

/// Tables that are the sum of two: a position table and a row of a type table, which exporters add up where both are read by constant
/// indices. Only where nothing simpler explains them.
fn from_sums(case: &Case<'_>, rows: &mut [Row], unexplained: &[usize]) -> Result<(), Error> {
    for &r in unexplained {
        let row = &rows[r];
        let shape = squeezed(&row.shape);
        let known = row.explanations().next().is_some() || row.literal.is_some();
        let (false, true, &[height, width]) = (known, row.dtype.is_float(), &shape[..]) else {
            continue;
        };
        let bytes = held_bytes(row, case.held)?;
        let Ok(held) = to_f32(row.dtype, &bytes) else {
            continue;
        };
        let parts = summands(case, row, height, width);
        let found = sums(row, &parts, &held, &Sources(case));
        for recipe in found {
            rows[r].explain(recipe, None);
        }
    }
    Ok(())
}

/// A table's first rows, or one row of it for every row, as a term of a sum.
struct Summand {
    recipe: Recipe,
    /// Its first and its last row, in the type of the constant.
    ends: [Vec<f32>; 2],
}

/// One row of a small table may be added to every row; of a larger one it would be found by chance.
const TYPES: usize = 8;

fn summands(case: &Case<'_>, row: &Row, height: usize, width: usize) -> Vec<Summand> {
    let mut found = Vec::new();
    for source in &case.sources {
        let shape = squeezed(source.shape);
        let tall = match shape[..] {
            [tall, wide] if wide == width => tall,
            [wide] if wide == width => 1,
            _ => continue,
        };
        let recorded = row.folded_from.iter().any(|f| same_name(f, source.name));
        if !source.dtype.is_float() || !(row.folded_from.is_empty() || recorded) {
            continue;
        }
        let Ok(bytes) = as_type(source.dtype, row.dtype, source.data()) else {
            continue;
        };
        let stride = width * row.dtype.bits() / 8;
        let at = |i: usize| to_f32(row.dtype, &bytes[i * stride..(i + 1) * stride]).ok();
        let mut add = |first: usize, last: usize, runs: Vec<Run>| {
            let (Some(first), Some(last)) = (at(first), at(last)) else {
                return;
            };
            // Zeros add nothing and equal values nearly nothing: such a sum would explain what its other term explains.
            let flat = |row: &[f32]| row.windows(2).all(|w| w[0] == w[1]);
            if flat(&first) && flat(&last) {
                return;
            }
            let recipe = Recipe::Rows {
                width,
                runs,
                transposed: false,
            };
            let ends = [first, last];
            found.push(Summand { recipe, ends });
        };
        let run = |start: usize, len: usize| Run {
            source: source.name.to_owned(),
            start,
            len,
        };
        if tall >= height {
            add(0, height - 1, vec![run(0, height)]);
        }
        for each in (0..tall).take_while(|_| tall <= TYPES) {
            add(each, each, vec![run(each, 1); height]);
        }
    }
    found
}

/// The sums of two of `parts` that give `held`, the values of `row`.
fn sums(row: &Row, parts: &[Summand], held: &[f32], sources: &dyn Checkpoint) -> Vec<Recipe> {
    let mut found = Vec::new();
    let width = parts.first().map_or(0, |p| p.ends[0].len());
    let Some(last) = held.len().checked_sub(width) else {
        return found;
    };
    let wanted = [&held[..width], &held[last..]];
    for (i, a) in parts.iter().enumerate() {
        for b in &parts[i + 1..] {
            // Near enough to be computed, which decides.
            let near = (0..2).all(|end| {
                (a.ends[end].iter().zip(&b.ends[end]).zip(wanted[end]))
                    .all(|((x, y), sum)| (x + y - sum).abs() <= 1e-2 * sum.abs().max(1e-3))
            });
            if !near {
                continue;
            }
            let recipe = Recipe::Sum {
                terms: vec![a.recipe.clone(), b.recipe.clone()],
            };
            let computed = apply_recipe(row, &recipe, sources);
            let values = computed.ok().and_then(|c| to_f32(row.dtype, &c).ok());
            if values.is_some_and(|v| v == held) {
                found.push(recipe);
            }
        }
    }
    found
}

/// Whether a recipe gives the bytes, in the narrower of the two types.
fn gives(row: &Row, recipe: &Recipe, checkpoint: &dyn Checkpoint, bytes: &[u8]) -> bool {
    let Ok(computed) = apply_recipe(row, recipe, checkpoint) else {
        return false;
    };
    if *computed == *bytes {
        return true;
    }
    let stored = recipe.sources().iter().find_map(|s| checkpoint.get(s));
    let Some(to) = stored.and_then(|v| common(row.dtype, v.dtype)) else {
        return false;
    };
    let narrow = |data| as_type(row.dtype, to, Cow::Borrowed(data)).ok();
    to != row.dtype && narrow(&computed).is_some_and(|a| Some(a) == narrow(bytes))
}

/// Records the checkpoint, and what of it the model contradicts: a parameter that stands in the graph under its own name with
/// another value.
fn inventory(case: &Case<'_>, rows: &mut [Row], open: &[usize]) -> Inventory {
    let known = case.all_known();
    let all: Vec<usize> = (0..known.len()).collect();
    // Where it is rounded, a copy beside the tensor.
    let cost = |&s: &usize| 2 * case.sources[s].cost();
    let recorded = batched(&all, cost, |&s| {
        let (source, known) = (&case.sources[s], &known[s]);
        let of_type = |dtype| Some(case.equal.print(s, dtype)?.flat);
        let rounded = rounded(source.dtype, of_type, || source.data());
        let of = (source.dtype, source.shape);
        let is_table = known.literal.is_some_and(Literal::is_table);
        Ok::<_, Infallible>(SourceTensor {
            flat: known.is_flat,
            regular: source.dtype.is_float() && is_table,
            ..SourceTensor::of(source.name, of, known.print.flat, rounded)
        })
    });
    let Ok(mut tensors) = recorded;
    let at: HashMap<String, usize> = (tensors.iter().enumerate())
        .map(|(i, t)| (t.name.clone(), i))
        .collect();
    for &r in open {
        let own = readings::own_name(case, &rows[r], r).filter(|name| {
            !(rows[r].explanations()).any(|recipe| recipe.sources().contains(&name.as_str()))
        });
        for name in own.into_iter().chain(strangers(case, &mut rows[r], r)) {
            tensors[at[&name]].contradicted = true;
            rows[r].evidence.push(Evidence::NotClose {
                source: name,
                relative: f64::INFINITY,
                cosine: 0.0,
            });
        }
    }
    for i in counterparts(rows, open, &tensors) {
        tensors[i].contradicted = true;
    }
    Inventory { tensors }
}

/// The tensors of a module that reads a row by its path, where the row is none of them and equals a tensor of another module by
/// chance: what equals it is then no explanation, and the base is not that of the export.
fn strangers(case: &Case<'_>, row: &mut Row, r: usize) -> Vec<String> {
    let presumed: Vec<&str> = (case.named[r].iter())
        .filter(|n| n.clue != Clue::Name)
        .map(|n| case.sources[n.source].name)
        .collect();
    let module = |name: &str| name.rsplit_once('.').map_or("", |(m, _)| m).to_owned();
    let modules: HashSet<String> = presumed.iter().map(|n| module(n)).collect();
    let elsewhere = (row.explanations().flat_map(Recipe::sources))
        .all(|source| !presumed.contains(&source) && !modules.contains(&module(source)));
    if row.explanations().next().is_none() || !elsewhere {
        return Vec::new();
    }
    let presumed: Vec<String> = presumed.into_iter().map(ToOwned::to_owned).collect();
    if !presumed.is_empty() {
        row.recipe = None;
        row.alternatives.clear();
    }
    presumed
}

/// Tensors that no constant gives, of as many elements as a parameter that no tensor gives: each may be another training of it, so
/// what the model holds of it is not known.
fn counterparts(rows: &[Row], open: &[usize], tensors: &[SourceTensor]) -> Vec<usize> {
    let used: HashSet<&str> = (rows.iter().flat_map(Row::explanations))
        .flat_map(Recipe::sources)
        .collect();
    let unproven: HashSet<usize> = (open.iter().map(|&r| &rows[r]))
        .filter(|row| row.is_unsourced() && row.is_parameter())
        .map(Row::count)
        .collect();
    let fits = |t: &SourceTensor| unproven.contains(&t.shape.iter().product());
    (0..tensors.len())
        .filter(|&i| fits(&tensors[i]) && !used.contains(tensors[i].name.as_str()))
        .collect()
}

/// Notes tensors whose value stands in an attribute of the graph, which no refit changes. A number that somebody may have typed
/// is one where the tensor has an initializer of its own and the exporter keeps the two apart.
fn in_attributes(
    case: &Case<'_>,
    rows: &[Row],
    attributes: &[(String, Vec<f32>)],
    inventory: &mut Inventory,
) {
    if attributes.is_empty() {
        return;
    }
    for tensor in &mut inventory.tensors {
        let count: usize = tensor.shape.iter().product();
        let Some(at) = case.find(&tensor.name) else {
            continue;
        };
        let source = &case.sources[at];
        if count == 0 || count > SHORT || !source.dtype.is_float() {
            continue;
        }
        let Ok(values) = to_f32(source.dtype, &source.data()) else {
            continue;
        };
        let found = attributes.iter().find(|(_, held)| *held == values);
        let Some((attribute, _)) = found else {
            continue;
        };
        let typed = values.iter().all(|v| is_typed(*v));
        let apart = rows.iter().any(|row| {
            let recorded = row
                .readings
                .iter()
                .any(|r| !matches!(r.meaning, crate::mapping::types::Meaning::Nothing));
            recorded
                && row
                    .explanations()
                    .any(|r| r.sources().contains(&tensor.name.as_str()))
        });
        if !(typed && apart) {
            tensor.attribute = Some(attribute.clone());
        }
    }
}

fn grade(row: &mut Row) {
    row.grade = if row.explanations().next().is_some() {
        Grade::Proven
    } else if row.literal.is_some() || (row.baked.is_some() && !row.dtype.is_float()) {
        row.evidence.push(Evidence::NoCandidate);
        Grade::Constant
    } else {
        row.evidence.push(Evidence::NoCandidate);
        Grade::Unproven
    };
}
