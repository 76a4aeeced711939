//! What the readers of a constant say about its derivations: which of several equal tensors is meant, and whether something
//! else was merged into the same initializer.
//!
//! Exporters write one initializer for equal values. Each reader then says in its own way what it read: by the exporter's
//! record, or by the module path in its name. A derivation that no reader means is dropped; those that some reader means must
//! all agree; a reader that means none of them pins the value.

use super::case::{Case, hint_prefixes};
use crate::mapping::derive::{computes, exchanges_axes, is_typed, keep_what_does, may_give};
use crate::mapping::hints::{is_anonymous, is_lifted, same_name, stem};
use crate::mapping::types::{
    Clue, Grade, Literal, Meaning, Reading, Recipe, Row, held_bytes, squeezed,
};
use crate::tensor::to_f32;
use std::collections::{HashMap, HashSet};

/// The spelling of a parameter's name in the exporter's record.
fn sanitized(name: &str) -> String {
    name.replace('.', "_").to_lowercase()
}

/// The name under a placeholder's prefix.
fn bare(placeholder: &str) -> &str {
    placeholder
        .split_once('_')
        .map_or(placeholder, |(_, rest)| rest)
}

/// Names of tensors as the graph spells them.
struct Spelling<'c, 'a> {
    case: &'c Case<'a>,
    graph: String,
    checkpoint: String,
    /// Every tensor of the checkpoint, as the record would spell it.
    known: HashSet<String>,
    /// Equal nodes may have been merged: a path says who reads, not that nobody else does.
    merges: bool,
}

impl<'c, 'a> Spelling<'c, 'a> {
    fn of(case: &'c Case<'a>, rows: &[Row], merges: bool) -> Self {
        let prefixes = hint_prefixes(rows, &case.sources);
        let mut spelling = Spelling {
            case,
            graph: prefixes.graph,
            checkpoint: prefixes.checkpoint,
            known: HashSet::new(),
            merges,
        };
        spelling.known = (case.sources.iter())
            .flat_map(|s| spelling.forms(s.name))
            .map(|n| sanitized(&n))
            .collect();
        spelling
    }

    /// The name with the graph's prefix, and as it is.
    fn forms(&self, name: &str) -> Vec<String> {
        let mut forms = vec![name.to_owned()];
        if let Some(rest) = name.strip_prefix(&self.checkpoint) {
            forms.push(format!("{}{rest}", self.graph));
        }
        forms
    }

    /// Which sources of a recipe a list of placeholders names.
    fn names_any(&self, recipe: &Recipe, placeholders: &[String]) -> bool {
        (recipe.sources().iter()).any(|source| self.is_among(source, placeholders))
    }

    /// Whether a list of placeholders names a tensor.
    fn is_among(&self, source: &str, placeholders: &[String]) -> bool {
        let forms: Vec<String> = self.forms(source).iter().map(|f| sanitized(f)).collect();
        (placeholders.iter().map(|p| bare(p))).any(|p| forms.iter().any(|f| f == p))
    }

    fn in_module(&self, recipe: &Recipe, module: &str) -> bool {
        recipe.sources().iter().any(|source| {
            self.forms(source)
                .iter()
                .any(|f| f.rsplit_once('.').map_or("", |(m, _)| m) == module)
        })
    }
}

/// What one reader leaves of the derivations.
enum Left {
    /// Those that it may have meant, as indices into all of them.
    Some(Vec<usize>),
    /// None: it reads something else.
    Nothing,
}

fn left(spelling: &Spelling<'_, '_>, row: &Row, all: &[Recipe], reading: &Reading) -> Left {
    let every = || Left::Some((0..all.len()).collect());
    let those = |fits: &dyn Fn(&Recipe) -> bool| -> Vec<usize> {
        (0..all.len()).filter(|&i| fits(&all[i])).collect()
    };
    match &reading.meaning {
        Meaning::Record {
            placeholders,
            values,
            complete,
            inputs,
            folded,
        } => {
            // What no node makes any more was folded: `relu(a)` is not `a`, though the base has nothing below 0.
            let is_unseen = |made: &str| exchanges_axes(made) && is_symmetric(spelling.case, row);
            let gives = |r: &Recipe| {
                let mut made = folded.iter().map(|made| stem(made));
                made.any(|made| may_give(r, made) && !is_unseen(made))
            };
            let is_computed = !folded.is_empty() && !all.iter().any(gives);
            let meant = those(&|r| spelling.names_any(r, placeholders));
            if !meant.is_empty() {
                let mentions = (placeholders.iter())
                    .filter(|p| {
                        let one = std::slice::from_ref(*p);
                        all.iter().any(|r| spelling.names_any(r, one))
                    })
                    .count();
                // Two inputs of one node are this constant, and only one of them is named.
                return if mentions < *inputs && (*complete || is_computed) {
                    Left::Nothing
                } else {
                    Left::Some(meant)
                };
            }
            if values.contains(&row.name) {
                return every();
            }
            // Another node calls the value by its name, so this one read a value that was merged into it.
            let calls = |other: &Reading| match &other.meaning {
                Meaning::Record { values, .. } => values.contains(&row.name),
                _ => false,
            };
            if row.readings.iter().any(calls) {
                return Left::Nothing;
            }
            // The record names a parameter that this checkpoint lacks, which may be what was read.
            let foreign = placeholders
                .iter()
                .any(|p| p.starts_with("p_") && !spelling.known.contains(bare(p)));
            if foreign || !(*complete || is_computed) {
                return every();
            }
            Left::Nothing
        }
        Meaning::Path { module } => {
            let meant = those(&|r| spelling.in_module(r, module));
            if meant.is_empty() || spelling.merges {
                every()
            } else {
                Left::Some(meant)
            }
        }
        Meaning::Nothing => every(),
        Meaning::MergedAway => Left::Nothing,
    }
}

/// Whether a row is a square matrix that is the same when it is transposed.
fn is_symmetric(case: &Case<'_>, row: &Row) -> bool {
    let &[n, m] = &squeezed(&row.shape)[..] else {
        return false;
    };
    let values = || to_f32(row.dtype, &held_bytes(row, case.held).ok()?).ok();
    let is_same = |v: Vec<f32>| (0..n * n).all(|i| v[i] == v[i % n * n + i / n]);
    n == m && values().is_some_and(is_same)
}

/// Without a base: takes back what a row was given where its readers say that the initializer stands for something else too.
pub(super) fn veto(case: &Case<'_>, rows: &mut [Row], open: &[usize], merges: bool) {
    let spelling = Spelling::of(case, rows, merges);
    for &r in open {
        by_operations(&spelling, &mut rows[r]);
        let row = &mut rows[r];
        let all: Vec<Recipe> = row.explanations().cloned().collect();
        if all.is_empty() {
            continue;
        }
        for reading in &row.readings {
            // Paths were clues already; only the record speaks against a name.
            let recorded = matches!(
                reading.meaning,
                Meaning::Record { .. } | Meaning::MergedAway
            );
            if recorded && matches!(left(&spelling, row, &all, reading), Left::Nothing) {
                row.pinned = Some(format!("what node `{}` reads", reading.node));
                break;
            }
        }
        if row.pinned.is_none() && is_of_several(row) {
            row.pinned = Some("another tensor that it was folded from".into());
        }
        shared_by_modules(&spelling, row);
        pin_literals(&spelling, rows, r);
    }
}

/// Whether the record lists several tensors, and the row was found to be one: near a direction is what it and its magnitude give.
fn is_of_several(row: &Row) -> bool {
    let recorded = row.folded_from.iter().filter(|name| !is_anonymous(name));
    recorded.count() > 1
        && row
            .explanations()
            .any(|r| matches!(r, Recipe::Tensor { .. }))
}

/// Names of other modules' parameters, where nodes of several modules read one initializer: they have to agree.
fn shared_by_modules(spelling: &Spelling<'_, '_>, row: &mut Row) {
    let Some(Recipe::Tensor { source, steps }) = row.recipe.clone() else {
        return;
    };
    let Some((own, leaf)) = source.rsplit_once('.') else {
        return;
    };
    let own_is_read = row.readings.iter().any(|reading| match &reading.meaning {
        Meaning::Path { module } => spelling.forms(own).iter().any(|f| f == module),
        _ => false,
    });
    if !own_is_read {
        return;
    }
    for reading in row.readings.clone() {
        let Meaning::Path { module } = reading.meaning else {
            continue;
        };
        let other = spelling.case.sources.iter().find(|s| {
            s.name
                .rsplit_once('.')
                .is_some_and(|(m, l)| l == leaf && m != own && spelling.forms(m).contains(&module))
        });
        if let Some(other) = other.filter(|o| o.count() == row.count()) {
            let recipe = Recipe::Tensor {
                source: other.name.to_owned(),
                steps: steps.clone(),
            };
            if !row.alternatives.contains(&recipe) {
                row.alternatives.push(recipe);
            }
        }
    }
}

/// Drops derivations that the record or the readers rule out, and pins rows that stand for something else as well.
pub(super) fn narrow(case: &Case<'_>, rows: &mut [Row], open: &[usize], merges: bool) {
    let spelling = Spelling::of(case, rows, merges);
    for &r in open {
        by_record(&spelling, &mut rows[r]);
        by_operations(&spelling, &mut rows[r]);
        by_readers(&spelling, &mut rows[r]);
    }
    one_each(case, rows, open);
    if !merges {
        keep_literals(rows, open);
        doubt_folded(case, rows, open);
    }
    for &r in open {
        no_parameter(&spelling, &mut rows[r]);
        if rows[r].pinned.is_none() && is_read_in_part(&spelling, &rows[r]) {
            rows[r].pinned = Some("another tensor that it was folded from".into());
        }
        pin_literals(&spelling, rows, r);
    }
}

/// Whether the record lists tensors that no derivation reads beside the others: those that fit leave out what happens to add nothing, as a
/// kernel of zeros does with the scale of a normalisation. Integers are indices and masks, which a derivation has in itself.
fn is_read_in_part(spelling: &Spelling<'_, '_>, row: &Row) -> bool {
    if row.folded_from.len() < 2 || row.explanations().next().is_none() {
        return false;
    }
    let case = spelling.case;
    let is_float = |name: &str| (case.find(name)).is_some_and(|i| case.sources[i].dtype.is_float());
    let mut listed = made_from(spelling, row);
    listed.retain(|name| is_float(name));
    let reads_all = |r: &Recipe| listed.iter().all(|name| r.sources().contains(name));
    // One of a few values shows nothing, and so nothing of a tensor that the base lacks.
    let is_lacking = |recorded: &String| {
        let mut known = case.sources.iter().flat_map(|s| spelling.forms(s.name));
        is_path(recorded) && !known.any(|form| form == *recorded)
    };
    !row.explanations().any(reads_all)
        || (row.literal == Some(Literal::Flat) && row.folded_from.iter().any(is_lacking))
}

/// Whether a recorded name is that of a module's tensor: values of the traced graph have no dots.
fn is_path(name: &str) -> bool {
    name.contains('.') && !is_anonymous(name)
}

/// Whether the record names tensors that the value was folded from: then it is no literal, however few values it has.
pub(super) fn is_made_of_tensors(row: &Row) -> bool {
    row.folded_from.iter().any(|name| !is_anonymous(name))
}

/// By row, where there is a record of a fold: lists of the tensors that the value may be made of, which are those that it was folded from
/// and, for each reader that reads none of these, what that one reads. What is looked for among all tensors finds the first of equal ones,
/// which the record may rule out together with everything that is derived from it.
pub(super) fn recorded_sources(
    case: &Case<'_>,
    rows: &[Row],
    open: &[usize],
    merges: bool,
) -> HashMap<usize, Vec<Vec<usize>>> {
    let spelling = Spelling::of(case, rows, merges);
    let lists = |row: &Row| -> Vec<Vec<usize>> {
        let made_from = made_from(&spelling, row);
        let readers = foreign_readers(&spelling, row, &made_from).into_iter();
        let mut lists: Vec<Vec<usize>> =
            vec![made_from.iter().filter_map(|n| case.find(n)).collect()];
        lists.extend(readers.map(|read| {
            let all = case.sources.iter().enumerate();
            all.filter(|(_, s)| spelling.is_among(s.name, read))
                .map(|(i, _)| i)
                .collect()
        }));
        lists.retain(|list| !list.is_empty());
        lists.dedup();
        lists
    };
    let folded = open.iter().filter(|&&r| !rows[r].folded_from.is_empty());
    folded.map(|&r| (r, lists(&rows[r]))).collect()
}

/// Tensors of the checkpoint that the record says the value was folded from.
fn made_from<'a>(spelling: &Spelling<'_, 'a>, row: &Row) -> Vec<&'a str> {
    let recorded: HashSet<&str> = row.folded_from.iter().map(String::as_str).collect();
    let known = |name: &str| {
        let forms = spelling.forms(name);
        forms.iter().any(|f| recorded.contains(f.as_str()))
    };
    let names = spelling.case.sources.iter().map(|s| s.name);
    names.filter(|name| known(name)).collect()
}

/// What those readers of the value read, by the record, that read none of what it was folded from: equal values were one.
fn foreign_readers<'r>(
    spelling: &Spelling<'_, '_>,
    row: &'r Row,
    made_from: &[&str],
) -> Vec<&'r [String]> {
    let placeholders = row
        .readings
        .iter()
        .filter_map(|reading| match &reading.meaning {
            Meaning::Record { placeholders, .. } => Some(placeholders.as_slice()),
            _ => None,
        });
    placeholders
        .filter(|read| !made_from.iter().any(|name| spelling.is_among(name, read)))
        .collect()
}

/// Keeps derivations whose sources are all among those that the record says the value was folded from.
fn by_record(spelling: &Spelling<'_, '_>, row: &mut Row) {
    if row.folded_from.is_empty() {
        return;
    }
    let made_from = made_from(spelling, row);
    let known = |name: &str| made_from.contains(&name);
    let any_known = !made_from.is_empty();
    let mut kept: Vec<Recipe> = (row.explanations())
        .filter(|r| r.sources().into_iter().all(known))
        .cloned()
        .collect();
    // The record lists every tensor: where a derivation reads them all, one that reads fewer gives the value by chance, as the direction
    // of a weight norm does before the first step of training.
    let reads_all = |r: &Recipe| made_from.iter().all(|name| r.sources().contains(name));
    if kept.iter().any(reads_all) {
        kept.retain(reads_all);
    }
    kept.extend(merged_into(spelling, row, &made_from, &kept));
    // A checkpoint in another spelling is not contradicted by names that it does not have.
    if kept.is_empty() && !any_known {
        return;
    }
    if kept.is_empty() {
        // Made from a tensor in a way that is not known: no literal, however few values it has.
        row.literal = None;
    }
    put(row, kept);
}

/// Keeps derivations that do what the record says was done. Without any the value is a function of its tensors that is not known.
fn by_operations(spelling: &Spelling<'_, '_>, row: &mut Row) {
    // What engines fold in is compiled anew for any change, whatever it is of the tensor.
    if row.folded_from.is_empty() || row.baked.is_some() || row.explanations().next().is_none() {
        return;
    }
    let kept = keep_what_does(row, &operators(spelling, row));
    if kept.is_empty() {
        row.literal = None;
        row.grade = Grade::Unproven;
    }
    put(row, kept);
}

/// The operators of the calls that the record says the value went through.
fn operators<'r>(spelling: &Spelling<'_, '_>, row: &'r Row) -> Vec<&'r str> {
    let is_call = |name: &&String| {
        !(name.contains('.')
            || is_anonymous(name)
            || spelling.known.contains(&sanitized(name))
            || is_lifted(name))
    };
    let names = row.folded_from.iter().chain([&row.name]);
    names.filter(is_call).map(|name| stem(name)).collect()
}

/// A function that is not known, of tensors that the base has, is no parameter that the base gives another value of: an interpolated
/// position table.
fn no_parameter(spelling: &Spelling<'_, '_>, row: &mut Row) {
    let is_unknown = row.explanations().next().is_none() && !made_from(spelling, row).is_empty();
    if is_unknown && operators(spelling, row).iter().any(|op| computes(op)) {
        row.hints.retain(|hint| hint.clue != Clue::FoldedFrom);
    }
}

/// Derivations from tensors that only a reader of the row names. Of equal values that were folded one is left, and the record of that one
/// says nothing of the others; a node that reads none of what it lists read another.
fn merged_into(
    spelling: &Spelling<'_, '_>,
    row: &Row,
    made_from: &[&str],
    kept: &[Recipe],
) -> Vec<Recipe> {
    let foreign = foreign_readers(spelling, row, made_from);
    let is_read = |recipe: &Recipe| {
        let all = |read: &&[String]| (recipe.sources().iter()).all(|s| spelling.is_among(s, read));
        foreign.iter().any(all)
    };
    (row.explanations())
        .filter(|recipe| !kept.contains(recipe) && is_read(recipe))
        .cloned()
        .collect()
}

/// The older exporter keeps a literal apart from a parameter of the same value: a `Constant` node is a literal where every tensor
/// that it equals has an initializer.
fn keep_literals(rows: &mut [Row], open: &[usize]) {
    let stored: HashSet<String> = (rows.iter())
        .filter(|row| !row.inline)
        .flat_map(Row::explanations)
        .flat_map(Recipe::sources)
        .map(ToOwned::to_owned)
        .collect();
    for &r in open {
        let row = &mut rows[r];
        let apart = (row.explanations().flat_map(Recipe::sources)).all(|s| stored.contains(s));
        if row.inline && row.literal.is_some() && apart {
            put(row, Vec::new());
        }
    }
}

/// The older exporter folds nothing that reads no parameter: a few equal values under a made-up name that no tensor gives were made of one
/// in a way that is not known. A tensor of many values hardly gives them, so one of a few has to be there.
fn doubt_folded(case: &Case<'_>, rows: &mut [Row], open: &[usize]) {
    let is_doubtful = |row: &Row| {
        row.literal == Some(Literal::Flat)
            && row.explanations().next().is_none()
            && is_anonymous(&row.name)
            && !row.inline
    };
    let doubtful: Vec<usize> = (open.iter().copied())
        .filter(|&r| is_doubtful(&rows[r]))
        .collect();
    let is_origin = |s: usize| case.sources[s].dtype.is_float() && case.is_flat(s);
    if doubtful.is_empty() || !(0..case.sources.len()).any(is_origin) {
        return;
    }
    for r in doubtful {
        rows[r].literal = None;
    }
}

fn put(row: &mut Row, recipes: Vec<Recipe>) {
    let mut recipes = recipes.into_iter();
    row.recipe = recipes.next();
    row.alternatives = recipes.collect();
}

fn by_readers(spelling: &Spelling<'_, '_>, row: &mut Row) {
    let all: Vec<Recipe> = row.explanations().cloned().collect();
    if all.is_empty() || row.readings.is_empty() {
        return;
    }
    let mut meant = vec![false; all.len()];
    for reading in &row.readings {
        match left(spelling, row, &all, reading) {
            Left::Some(which) => which.into_iter().for_each(|i| meant[i] = true),
            Left::Nothing => {
                // Which of the equal tensors the merged node read is not known.
                if reading.meaning == Meaning::MergedAway {
                    meant.fill(true);
                }
                row.pinned
                    .get_or_insert_with(|| format!("what node `{}` reads", reading.node));
            }
        }
    }
    let mut kept: Vec<Recipe> = Vec::new();
    for (recipe, keep) in all.iter().zip(&meant) {
        if *keep {
            kept.push(recipe.clone());
        }
    }
    if kept.is_empty() {
        // Every reader reads something else: the value is the graph's own, whatever it equals.
        if row
            .readings
            .iter()
            .any(|r| r.meaning == Meaning::MergedAway)
        {
            return;
        }
        row.pinned = None;
        if row.literal.is_none() && row.readings.iter().all(reads_a_literal) {
            row.literal = Some(Literal::Flat);
        }
    }
    put(row, kept);
}

/// Whether a node reads a tensor that stood in the code, by the exporter's record.
fn reads_a_literal(reading: &Reading) -> bool {
    match &reading.meaning {
        Meaning::Record { placeholders, .. } => {
            (placeholders.iter()).any(|p| p.starts_with("c_") || p.starts_with("obj_"))
        }
        _ => false,
    }
}

/// Of equal tensors and as many equal constants, each constant is the tensor that its name or path says: an exporter that
/// merges would have left one.
fn one_each(case: &Case<'_>, rows: &mut [Row], open: &[usize]) {
    let mut groups: HashMap<Vec<String>, Vec<usize>> = HashMap::new();
    for &r in open {
        let row = &rows[r];
        let plain = row
            .explanations()
            .all(|recipe| matches!(recipe, Recipe::Tensor { .. }));
        if row.alternatives.is_empty() || !plain {
            continue;
        }
        let mut sources: Vec<String> = row
            .explanations()
            .flat_map(Recipe::sources)
            .map(ToOwned::to_owned)
            .collect();
        sources.sort();
        sources.dedup();
        groups.entry(sources).or_default().push(r);
    }
    for (sources, members) in groups {
        let alike = |r: &usize| {
            let (row, first) = (&rows[*r], &rows[members[0]]);
            (row.dtype, &row.shape) == (first.dtype, &first.shape)
        };
        if sources.len() != members.len() || !members.iter().all(alike) {
            continue;
        }
        let own: Vec<Option<String>> = (members.iter())
            .map(|&r| {
                let mut named = (case.named[r].iter())
                    .map(|n| case.sources[n.source].name.to_owned())
                    .filter(|n| sources.contains(n));
                named.next().filter(|_| named.next().is_none())
            })
            .collect();
        let distinct: HashSet<&String> = own.iter().flatten().collect();
        if distinct.len() != members.len() {
            continue;
        }
        for (&r, own) in members.iter().zip(&own) {
            let Some(own) = own else { continue };
            let kept: Vec<Recipe> = (rows[r].explanations())
                .filter(|recipe| recipe.sources().contains(&own.as_str()))
                .cloned()
                .collect();
            put(&mut rows[r], kept);
        }
    }
}

/// The tensor that a row is called by, where the checkpoint has it with as many elements.
pub(super) fn own_name(case: &Case<'_>, row: &Row, r: usize) -> Option<String> {
    let named = case.named[r].iter().find(|n| n.clue == Clue::Name)?;
    let source = &case.sources[named.source];
    let same = squeezed(source.shape) == squeezed(&row.shape);
    same.then(|| source.name.to_owned())
}

/// Pins a row whose value somebody may have typed, or an exporter computed, unless the record or the exporter's habits say that it
/// is the tensor and nothing else.
fn pin_literals(spelling: &Spelling<'_, '_>, rows: &mut [Row], r: usize) {
    let case = spelling.case;
    let row = &rows[r];
    if row.pinned.is_some() || row.explanations().next().is_none() {
        return;
    }
    let Some(literal) = row.literal else { return };
    let is_part = |recipe: &Recipe| matches!(recipe, Recipe::Rows { .. });
    if literal == Literal::Flat && (is_folded_flat(row) || row.explanations().any(is_part)) {
        rows[r].pinned = Some("a function of it that gives the same few values".into());
        return;
    }
    if literal == Literal::Scalar && !is_typed_scalar(case, row) {
        return;
    }
    // One call may have read the tensor and another what it computed from it, where both have the same few values.
    let one_reader = row.readings.len() == 1 || literal != Literal::Flat;
    let recorded = one_reader
        && !row.readings.is_empty()
        && (row.readings.iter())
            .all(|r| matches!(&r.meaning, Meaning::Record { complete: true, .. }));
    // The older exporter keeps literals apart from parameters, as nodes; an initializer of a parameter's name is that.
    let own = own_name(case, row, r).filter(|own| {
        row.explanations()
            .any(|recipe| recipe.sources().contains(&own.as_str()))
    });
    let module = own.as_deref().and_then(|own| own.rsplit_once('.'));
    let only_its_module_reads = is_one_node(rows, row)
        && row.readings.iter().all(|reading| match &reading.meaning {
            Meaning::Path { module: path } => {
                module.is_some_and(|(m, _)| spelling.forms(m).contains(path))
            }
            _ => false,
        });
    let twin = || {
        let has = |other: usize| {
            other != r
                && case.equal.alike(r, other)
                && rows[other].shape == row.shape
                && rows[other].dtype == row.dtype
        };
        (0..rows.len()).any(has)
    };
    // Nodes of several kinds may read a tensor and a function of it, which this exporter merges too.
    let apart = !spelling.merges && row.operators.len() < 2;
    if recorded || (own.is_some() && (apart || only_its_module_reads || twin())) {
        return;
    }
    rows[r].pinned = Some(match literal {
        Literal::Flat => "a constant of the graph with the same few values".into(),
        Literal::Scalar => "a number of the graph with the same value".into(),
        _ => "a table that the exporter computes".into(),
    });
}

/// Whether the one node that reads `row` is that of one call: an optimizer merges nodes whose constants are all equal, and another
/// constant of many values beside this one is another call's only if both calls had the same parameters.
fn is_one_node(rows: &[Row], row: &Row) -> bool {
    let beside = (row.partner.as_deref())
        .and_then(|partner| rows.iter().find(|other| other.name == partner));
    row.readings.len() == 1
        && beside
            .is_some_and(|other| other.literal.is_none() && other.explanations().next().is_some())
}

/// Whether an exporter computed the value element by element: ones are the square of ones, too.
fn is_folded_flat(row: &Row) -> bool {
    let plain = |recipe: &Recipe| match recipe {
        Recipe::Tensor { source, .. } => !same_name(&row.name, source),
        _ => false,
    };
    is_anonymous_or_folded(row) && row.explanations().any(plain)
}

fn is_anonymous_or_folded(row: &Row) -> bool {
    is_anonymous(&row.name) || !row.folded_from.is_empty()
}

/// Whether a number looks as if somebody had typed it.
fn is_typed_scalar(case: &Case<'_>, row: &Row) -> bool {
    let value = held_bytes(row, case.held)
        .ok()
        .and_then(|b| to_f32(row.dtype, &b).ok())
        .and_then(|v| v.first().copied());
    value.is_none_or(is_typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_as_in_the_record() {
        assert_eq!(sanitized("m.LayerNorm.weight"), "m_layernorm_weight");
        assert_eq!(bare("p_m_layernorm_weight"), "m_layernorm_weight");
    }
}
