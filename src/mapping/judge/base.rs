//! A new checkpoint against a base that was accepted: every change is accounted for, and every constant is explained.
//!
//! Only what differs from the base by its digest is laid out. A constant gets new bytes where all its explanations give the same
//! ones; a constant without an explanation stops every change that may be in it; a changed tensor that is in no explanation
//! stops unless the model is known not to hold it.

use super::restack::{may_be_stacked, other_order};
use crate::mapping::derive::{apply_once, batched, is_flat, literal};
use crate::mapping::hints::{
    SameNames, Spelled, cores, inner, is_anonymous, is_recorded, same_name, spell,
};
use crate::mapping::types::{
    Accounts, Assessment, Change, Checkpoint, Error, Grade, Held, Inventory, Judged, Leftover,
    Literal, Mapping, Missing, Permissions, Reading, Recipe, Refusal, Row, SourceTensor, Step, Why,
    held_bytes, squeezed,
};
use crate::tensor::{Digest, Dtype, element_count};
use std::collections::{HashMap, HashSet};

/// Changed tensors that one refusal lists.
const LISTED: usize = 8;

/// How a tensor of the base fares in the new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Same,
    /// Other values, or the base value is not known.
    Changed,
    Missing,
}

/// A tied tensor is usually saved under one of its names: one that the file lacks follows those that it was equal to in the base.
/// One of a few equal values says nothing about another. Gives those that follow.
fn follow_twins<'a>(
    inventory: &'a Inventory,
    new: &dyn Checkpoint,
    by_base: &mut HashMap<&'a str, String>,
) -> HashSet<&'a str> {
    let mut followed = HashSet::new();
    let mut equal: HashMap<(&Digest, Dtype, &[usize]), Vec<&str>> = HashMap::new();
    for t in inventory.tensors.iter().filter(|t| !t.flat) {
        let twins = equal.entry((&t.digest, t.dtype, &t.shape)).or_default();
        twins.push(&t.name);
    }
    for twins in equal.into_values().filter(|t| t.len() > 1) {
        let given: Vec<String> = (twins.iter())
            .filter_map(|t| by_base.get(t).cloned())
            .collect();
        let Some(first) = given.first() else { continue };
        let names: Vec<&str> = given.iter().map(String::as_str).collect();
        let types = names
            .iter()
            .map(|n| new.describe(n).map(|(dtype, _)| dtype));
        let values: Vec<_> = types.zip(new.digests(&names)).collect();
        if names.len() > 1 && values[1..].iter().any(|other| *other != values[0]) {
            continue;
        }
        for twin in twins {
            by_base.entry(twin).or_insert_with(|| {
                followed.insert(twin);
                first.clone()
            });
        }
    }
    followed
}

/// Everything that one judgement reads.
struct Books<'a> {
    inventory: &'a Inventory,
    held: &'a dyn Held,
    new: Spelled<'a>,
    states: HashMap<&'a str, State>,
    digests: Digests<'a>,
    /// Changed tensors of a few values that a constant may be made of although another one is explained by them.
    scattered: Vec<Scattered<'a>>,
    /// Tensors that a file which is said to be a part lacks, and that equalled one of its own in the base: it may leave out what does not
    /// change, or save what is tied under one name.
    followed: HashSet<&'a str>,
    permissions: &'a Permissions,
}

/// Digests of the new file's tensors, by their own names, sorted: a file may have millions.
struct Digests<'a>(Vec<(&'a str, Digest)>);

impl<'a> Digests<'a> {
    fn of(new: &'a dyn Checkpoint) -> Digests<'a> {
        let names = new.names();
        let digests = new.digests(&names);
        let known = names.into_iter().zip(digests);
        let mut found: Vec<_> = known.filter_map(|(n, d)| Some((n, d?))).collect();
        found.sort_by_key(|(name, _)| *name);
        Digests(found)
    }

    fn get(&self, name: &str) -> Option<&Digest> {
        let at = self.0.binary_search_by_key(&name, |(n, _)| *n).ok()?;
        Some(&self.0[at].1)
    }
}

/// A changed tensor that had a few values in the base and is in some explanation.
struct Scattered<'a> {
    tensor: &'a SourceTensor,
    /// Every explanation of some constant reads it; otherwise it may be in none of those that it explains.
    placed: bool,
}

impl Books<'_> {
    fn state(&self, name: &str) -> State {
        self.states.get(name).copied().unwrap_or(State::Missing)
    }

    /// Element type and digest of a tensor of the new file.
    fn value(&self, name: &str) -> Option<(Dtype, Digest)> {
        let own = self.new.by_base.get(name)?;
        Some((self.new.describe(name)?.0, *self.digests.get(own)?))
    }

    fn changed(&self) -> impl Iterator<Item = &str> {
        (self.inventory.tensors.iter())
            .map(|t| t.name.as_str())
            .filter(|n| self.state(n) == State::Changed)
    }
}

/// Decides for every row of `mapping`, and for every tensor of the new file, what `new` does. `inventory` is the mapping's.
///
/// # Errors
/// [`Error::NotHeld`]; everything about sources is a [`Refusal`].
pub(super) fn judge(
    mut mapping: Mapping,
    inventory: &Inventory,
    held: &dyn Held,
    new: &dyn Checkpoint,
    permissions: &Permissions,
) -> Result<Judged, Error> {
    let mut spelled = spell(inventory, new);
    let mut followed = follow_twins(inventory, new, &mut spelled.by_base);
    if !permissions.partial {
        followed.clear();
    }
    let digests = Digests::of(new);
    let is_same = |t: &SourceTensor| {
        let (dtype, shape) = spelled.describe(&t.name)?;
        let own = &spelled.by_base[t.name.as_str()];
        let digest = *digests.get(own).expect("every tensor was hashed");
        Some(!t.contradicted && t.is_same(dtype, shape, digest, || spelled.read(&t.name)))
    };
    // Only a copy in a wider type is looked at once more.
    let cost = |t: &SourceTensor| match spelled.describe(&t.name) {
        Some((dtype, shape)) if dtype != t.dtype => 16 * shape.iter().product::<usize>(),
        _ => 0,
    };
    let states = batched(&inventory.tensors, cost, |t| {
        let state = match is_same(t) {
            None => State::Missing,
            Some(true) => State::Same,
            Some(false) => State::Changed,
        };
        Ok::<_, Error>(state)
    })?;
    let known = inventory.tensors.iter().map(|t| t.name.as_str());
    let books = Books {
        inventory,
        held,
        new: spelled,
        states: known.zip(states).collect(),
        digests,
        scattered: Vec::new(),
        followed,
        permissions,
    };
    let books = Books {
        scattered: scattered(&books, &mapping),
        ..books
    };
    let changes = batched(
        &mapping.rows,
        |row| 8 * row.count(),
        |row| of_row(&books, &mapping, row),
    )?;
    let accounts = Accounts {
        missing: missing(&books, &mapping, &changes),
        leftovers: leftovers(&books, &mapping, new),
    };
    in_files_names(&books, &mut mapping);
    Ok(Judged {
        mapping,
        accounts,
        assessment: Assessment { changes },
    })
}

/// Gives the mapping's sources the names by which the new file has them, to lay out what changes.
fn in_files_names(books: &Books<'_>, mapping: &mut Mapping) {
    let rename = |name: &str| match books.new.by_base.get(name) {
        Some(new) => new.clone(),
        None => name.to_owned(),
    };
    for row in &mut mapping.rows {
        row.recipe = row.recipe.as_ref().map(|r| r.renamed(rename));
        row.alternatives = row.alternatives.iter().map(|r| r.renamed(rename)).collect();
    }
}

/// Tensors of a few values that changed, and are in some explanation. Those that are in none are lost anyway.
fn scattered<'a>(books: &Books<'a>, mapping: &Mapping) -> Vec<Scattered<'a>> {
    let is_changed = |t: &&SourceTensor| {
        t.flat && books.state(&t.name) == State::Changed && !books.permissions.ignores(&t.name)
    };
    let reads = |recipe: &Recipe, name: &str| recipe.sources().contains(&name);
    let changed = books.inventory.tensors.iter().filter(is_changed);
    let of = |tensor: &'a SourceTensor| {
        let name = tensor.name.as_str();
        let mut taking = (mapping.rows.iter())
            .filter(|row| row.explanations().any(|recipe| reads(recipe, name)))
            .peekable();
        taking.peek()?;
        let placed = taking.any(|row| {
            same_name(&row.name, name) || row.explanations().all(|recipe| reads(recipe, name))
        });
        Some(Scattered { tensor, placed })
    };
    changed.filter_map(of).collect()
}

/// Changed tensors that a blank may be made of. One that certainly gives another constant is in this one too only where the exporter left no
/// record of what it folded.
fn may_fill<'a>(books: &'a Books<'_>, mapping: &Mapping, row: &Row) -> Vec<&'a str> {
    use crate::mapping::types::Meaning;
    let is_recorded = |r: &Reading| matches!(r.meaning, Meaning::Record { .. });
    let recorded = row.readings.iter().any(is_recorded);
    let fits = |s: &&Scattered<'_>| {
        let is_elsewhere = !mapping.merges || recorded || !is_sized_as_of(row, &s.tensor.shape);
        may_hold(row, &s.tensor.name) && !(s.placed && is_elsewhere)
    };
    let all = books.scattered.iter().filter(fits);
    all.map(|s| s.tensor.name.as_str()).collect()
}

fn of_row(books: &Books<'_>, mapping: &Mapping, row: &Row) -> Result<Change, Error> {
    if books.permissions.ignores(&row.name) {
        return Ok(Change::Constant);
    }
    if is_blank(row) {
        let filling = may_fill(books, mapping, row);
        if !filling.is_empty() {
            return Ok(unsourced(filling.into_iter()));
        }
    }
    if row.explanations().next().is_none() {
        // Of what engines fold in the record says which tensors are meant, so that each can be let go by its name.
        let is_let_go = |name: &&str| row.is_folded_in() && books.permissions.ignores(name);
        return Ok(unexplained(row, books.changed().filter(|n| !is_let_go(n))));
    }
    let unread = recorded_beside(books, row);
    if !unread.is_empty() {
        return Ok(unsourced(unread.into_iter()));
    }
    let touched = row
        .explanations()
        .flat_map(Recipe::sources)
        .any(|s| books.state(s) != State::Same);
    if !touched {
        return Ok(Change::Unchanged);
    }
    let any_changed = |r: &&Recipe| r.sources().iter().any(|s| books.state(s) == State::Changed);
    let is_given = |r: &&Recipe| r.sources().iter().all(|s| books.state(s) != State::Missing);
    let given: Vec<&Recipe> = row.explanations().filter(is_given).collect();
    if !given.iter().any(any_changed) {
        // A tensor that is missing leaves the base value; one that changed beside it gives a value that neither file has.
        return Ok(match row.explanations().find(any_changed) {
            Some(part) => refused(Refusal::PartialFold {
                missing: names_where(books, part, State::Missing),
            }),
            None if given.is_empty() => Change::NotGiven,
            None => Change::Unchanged,
        });
    }
    // Where the file has one of several equal tensors only, and they were flat, nobody can say whether the other moved too.
    let twinless = row.explanations().any(|r| !is_given(&r));
    let mut outcomes: Vec<Digest> = Vec::new();
    for recipe in &given {
        let computed = || Ok(Digest::of(&apply_once(row, recipe, &books.new)?));
        match known(books, row, recipe).map_or_else(computed, Ok) {
            Ok(digest) if outcomes.contains(&digest) => {}
            Ok(digest) => outcomes.push(digest),
            Err(error) => return Ok(misfit(books, row, recipe, &error)),
        }
    }
    let parted = (row.explanations().flat_map(Recipe::sources))
        .any(|s| books.followed.contains(s) && books.state(s) == State::Changed);
    if outcomes.len() > 1 || twinless || parted {
        let sources = sources_of(row);
        return Ok(refused(Refusal::Ambiguous { sources }));
    }
    let digest = outcomes[0];
    let held = match books.held.known(&row.name) {
        Some(known) => known,
        None => Digest::of(&held_bytes(row, books.held)?),
    };
    if held == digest {
        return Ok(Change::Unchanged);
    }
    if let Some(why) = in_other_order(books, row, given[0])? {
        return Ok(refused(why));
    }
    if let Some(with) = &row.pinned {
        return Ok(refused(Refusal::Merged {
            sources: names_where(books, given[0], State::Changed),
            with: with.clone(),
        }));
    }
    Ok(Change::Changed { digest })
}

/// Why a changed stack of queries, keys and values is not written: in another order it is clearly nearer to what the model holds.
fn in_other_order(books: &Books<'_>, row: &Row, recipe: &Recipe) -> Result<Option<Refusal>, Error> {
    if !may_be_stacked(recipe) {
        return Ok(None);
    }
    let held = held_bytes(row, books.held)?;
    let new = apply_once(row, recipe, &books.new)?;
    let found = other_order(row, recipe, &held, &new);
    Ok(found.map(|head| Refusal::Stacked {
        source: recipe.sources()[0].to_owned(),
        head,
    }))
}

/// Changed tensors that the exporter's record says `row` was made from, and that none of its explanations reads: they added nothing before.
fn recorded_beside<'a>(books: &'a Books<'_>, row: &Row) -> Vec<&'a str> {
    if row.folded_from.len() < 2 || row.probed || row.grade == Grade::Given {
        return Vec::new();
    }
    let reads = |name: &str| row.explanations().any(|r| r.sources().contains(&name));
    // The graph and the file may each have a wrapper's name in front; what has no dot is a tensor under just this name, or a value.
    let wrapped = |recorded: &str| {
        let plain = inner(recorded);
        let same = |t: &&SourceTensor| [recorded, plain].contains(&inner(&t.name));
        let of_base = || books.inventory.tensors.iter().find(same);
        books.inventory.get(plain).or_else(of_base)
    };
    let of_base = |recorded: &String| {
        let is_path = recorded.contains('.');
        (books.inventory.get(recorded)).or_else(|| is_path.then(|| wrapped(recorded)).flatten())
    };
    let is_lost = |name: &&str| {
        books.state(name) == State::Changed && !reads(name) && !books.permissions.ignores(name)
    };
    let recorded = row.folded_from.iter().filter_map(of_base);
    recorded.map(|t| t.name.as_str()).filter(is_lost).collect()
}

/// Every tensor that an explanation of `row` reads.
fn sources_of(row: &Row) -> Vec<String> {
    let all = row.explanations().flat_map(Recipe::sources);
    let mut sources: Vec<String> = all.map(ToOwned::to_owned).collect();
    sources.sort();
    sources.dedup();
    sources
}

/// The digest of what `row` gets by `recipe`, where it need not be laid out. Where it was before, its tensors were not hashed.
fn known(books: &Books<'_>, row: &Row, recipe: &Recipe) -> Option<Digest> {
    let own = row.recipe.as_ref();
    match own.and_then(|own| books.new.laid_out(&row.name, own)) {
        Some(_) => books.new.laid_out(&row.name, recipe),
        None => as_it_is(books, row, recipe),
    }
}

/// The digest of what `recipe` gives, where that is a tensor as the new file has it, which was hashed already; none where it has to be
/// laid out, or does not fit.
fn as_it_is(books: &Books<'_>, row: &Row, recipe: &Recipe) -> Option<Digest> {
    let Recipe::Tensor { source, steps } = recipe else {
        return None;
    };
    let (dtype, mut shape) = books.new.describe(source)?;
    for step in steps {
        match step {
            Step::Reshape { shape: to } if element_count(to) == element_count(shape) => shape = to,
            _ => return None,
        }
    }
    let digest = books.value(source)?.1;
    (dtype == row.dtype && shape == row.shape).then_some(digest)
}

fn refused(why: Refusal) -> Change {
    Change::Refused { why }
}

fn names_where(books: &Books<'_>, recipe: &Recipe, state: State) -> Vec<String> {
    (recipe.sources().into_iter())
        .filter(|s| books.state(s) == state)
        .map(ToOwned::to_owned)
        .collect()
}

/// Why a recipe could not be computed from the new file.
fn misfit(books: &Books<'_>, row: &Row, recipe: &Recipe, error: &Error) -> Change {
    let first = recipe.sources()[0].to_owned();
    if let Error::Overflow {
        source_name,
        dtype,
        largest,
        ..
    } = error
    {
        return refused(Refusal::Overflow {
            source: source_name.clone(),
            dtype: *dtype,
            largest: format!("{largest:e}"),
        });
    }
    let view = recipe.sources().iter().find_map(|s| {
        let (dtype, shape) = books.new.describe(s)?;
        let base = books.inventory.get(s)?;
        (shape != base.shape).then(|| ((*s).to_owned(), dtype, shape.to_vec()))
    });
    let is_converted = |s: &&str| {
        let (stored, base) = (books.new.describe(s), books.inventory.get(s));
        stored
            .zip(base)
            .is_some_and(|((dtype, _), base)| dtype.is_float() != base.dtype.is_float())
    };
    if let (None, Some(&source)) = (&view, recipe.sources().iter().find(|s| is_converted(s)))
        && let Some((dtype, _)) = books.new.describe(source)
    {
        return refused(Refusal::Storage {
            source: source.to_owned(),
            dtype,
        });
    }
    let (source, dtype, shape) = view.unwrap_or_else(|| {
        let view = books.new.describe(&first);
        let (dtype, shape) = view.map_or((row.dtype, Vec::new()), |(d, s)| (d, s.to_vec()));
        (first, dtype, shape)
    });
    refused(Refusal::Misfit {
        source,
        dtype,
        shape,
    })
}

/// A constant that no tensor explains: it keeps its value, unless a changed tensor may be in it.
pub(super) fn unexplained<'a>(row: &Row, changed: impl Iterator<Item = &'a str>) -> Change {
    if !row.is_unsourced() && !row.is_folded_in() {
        return Change::Constant;
    }
    unsourced(changed.filter(|name| may_hold(row, name)))
}

/// What becomes of a constant that these changed tensors may be in.
fn unsourced<'a>(changed: impl Iterator<Item = &'a str>) -> Change {
    let changed: Vec<String> = changed.take(LISTED).map(ToOwned::to_owned).collect();
    if changed.is_empty() {
        Change::Constant
    } else {
        refused(Refusal::Unsourced { changed })
    }
}

/// Whether the tensor `name` may be in an unsourced constant: by the exporter's record, where there is one.
pub(super) fn may_hold(row: &Row, name: &str) -> bool {
    use crate::mapping::types::Meaning;
    if !row.folded_from.is_empty() {
        return is_recorded(&row.folded_from, name);
    }
    // The graph and the file may each have a wrapper's name in front.
    let spelled = |name: &str| name.replace('.', "_").to_lowercase();
    let (bare, inner) = (spelled(name), spelled(inner(name)));
    let mut recorded = row.readings.iter().peekable();
    if recorded.peek().is_none() {
        return true;
    }
    recorded.any(|reading| match &reading.meaning {
        Meaning::Record {
            placeholders,
            values,
            complete: true,
            ..
        } if !values.contains(&row.name) => placeholders
            .iter()
            .any(|p| p.ends_with(&inner) || bare.ends_with(p.split_once('_').map_or("", |x| x.1))),
        _ => true,
    })
}

/// Whether an exporter may have made `row` of a tensor of a few values: its name is no parameter's, and nothing shows the opposite. That a
/// part of a larger tensor has the same values shows nothing.
pub(super) fn is_blank(row: &Row) -> bool {
    row.literal == Some(Literal::Flat)
        && row.count() > 1
        && (row.explanations()).all(|recipe| matches!(recipe, Recipe::Rows { .. }))
        && !(row.inline || row.probed)
        && (is_anonymous(&row.name) || !row.name.contains('.'))
}

/// Whether `row` may be made of a tensor of `shape`, by its size: functions keep the number of elements, slices and resized tables keep an
/// extent, and slices of a vector are parts of it.
pub(super) fn is_sized_as_of(row: &Row, shape: &[usize]) -> bool {
    let (own, other) = (squeezed(&row.shape), squeezed(shape));
    let count: usize = other.iter().product();
    own.iter().any(|extent| other.contains(extent)) || count.is_multiple_of(row.count())
}

/// Rows whose sources the new file does not hold, with the names that were looked for.
fn missing(books: &Books<'_>, mapping: &Mapping, changes: &[Change]) -> Vec<Missing> {
    let mut found = Vec::new();
    for (row, change) in mapping.rows.iter().zip(changes) {
        let names: Vec<String> = if *change == Change::NotGiven {
            (row.explanations())
                .flat_map(|r| names_where(books, r, State::Missing))
                .collect()
        } else if row.is_unsourced() && row.is_parameter() && *change == Change::Constant {
            // A base that lacks a parameter does not make it a constant of the graph.
            row.hints.iter().flat_map(|h| h.names.clone()).collect()
        } else {
            continue;
        };
        if !books.permissions.ignores(&row.name) {
            found.push(Missing {
                weight: row.name.clone(),
                names,
            });
        }
    }
    found
}

/// What becomes of every tensor of the new file that no constant takes, or that an attribute holds too.
fn leftovers(books: &Books<'_>, mapping: &Mapping, new: &dyn Checkpoint) -> Vec<Leftover> {
    let used: HashSet<&str> = mapping
        .rows
        .iter()
        .flat_map(Row::explanations)
        .flat_map(Recipe::sources)
        .collect();
    let unused = Unused::of(books, mapping, &used);
    let mut found = Vec::new();
    let mut taken: HashSet<&str> = HashSet::new();
    for tensor in &books.inventory.tensors {
        let Some(name) = books.new.by_base.get(tensor.name.as_str()) else {
            continue;
        };
        taken.insert(name);
        let state = books.state(&tensor.name);
        let in_attribute = tensor
            .attribute
            .as_ref()
            .filter(|_| state == State::Changed);
        let why = if books.permissions.ignores(name)
            && (!used.contains(tensor.name.as_str()) || in_attribute.is_some())
        {
            Some(Why::Ignored)
        } else if let Some(attribute) = in_attribute {
            Some(Why::InAttribute {
                attribute: attribute.clone(),
            })
        } else if used.contains(tensor.name.as_str()) {
            None
        } else if is_counter(&tensor.name) {
            Some(Why::Counter)
        } else if let Some(parted) = unused.twin(books, tensor) {
            Some(parted)
        } else if state == State::Same {
            Some(Why::Unchanged)
        } else {
            let in_table = tensor.regular && unused.has_tables;
            let count = element_count(&tensor.shape);
            let in_mask = count.is_some_and(|n| unused.masks.contains(&n));
            let safe = !(tensor.flat || tensor.contradicted || in_table || in_mask);
            Some(unused.judge(&tensor.name, tensor.dtype, safe))
        };
        if let Some(why) = why {
            found.push(Leftover {
                name: name.clone(),
                why,
            });
        }
    }
    let mut extra: Vec<&str> = new.names();
    extra.retain(|name| !taken.contains(name));
    extra.sort_unstable();
    // A second name of a used tensor is used, for what stands beside it.
    let is_copy = |name: &&&str| unused.duplicate_of(books.digests.get(name)).is_some();
    let copies = extra.iter().filter(is_copy);
    let module = |name: &str| module_of(&books.new.in_base(name)).to_owned();
    let beside_copies: HashSet<String> = copies.map(|name| module(name)).collect();
    let described = (extra.into_iter()).filter_map(|name| Some((name, new.describe(name)?)));
    found.extend(described.map(|(name, what)| {
        let is_beside_copy = !beside_copies.is_empty() && beside_copies.contains(&module(name));
        extra_tensor(books, &unused, new, (name, is_beside_copy), what)
    }));
    found
}

/// What becomes of a tensor that the base does not have.
fn extra_tensor(
    books: &Books<'_>,
    unused: &Unused<'_>,
    new: &dyn Checkpoint,
    (name, is_beside_copy): (&str, bool),
    (dtype, shape): (Dtype, &[usize]),
) -> Leftover {
    let spelled = books.new.in_base(name);
    // Two tensors of zeros are not one.
    let is_flat = || (new.read(name)).is_some_and(|t| is_flat(t.dtype, &t.data));
    let why = if books.permissions.ignores(name) {
        Why::Ignored
    } else if is_counter(name) {
        Why::Counter
    } else if let Some(why) = unused.restated(books, new, name, (dtype, shape)) {
        why
    } else if unused.is_further(&books.new.core(name)) {
        // The checkpoint is of a model with more layers.
        Why::Unreached
    } else if unused.is_unproven(&spelled) {
        // A constant is called so, or was folded from it, and nothing says what it is made of: whatever the tensor equals now, the
        // constant keeps its value.
        Why::Unreached
    } else if let (Some(of), false) = (unused.duplicate_of(books.digests.get(name)), is_flat()) {
        Why::Duplicate { of }
    } else if !dtype.is_float() && new.read(name).is_some_and(|t| literal(t.view()).is_some()) {
        Why::NotFloat
    } else if unused.shared.contains(&extents(shape)) {
        // The base may have saved a tied tensor under one of its names; this may be the other, untied.
        Why::Unreached
    } else {
        let count = shape.iter().product();
        let is_beside = is_beside_copy || unused.absorbed.contains(module_of(&spelled));
        let safe =
            !is_beside && !unused.blanks.contains(&count) && !unused.may_be_absent(&spelled, shape);
        unused.judge(&spelled, dtype, safe)
    };
    Leftover {
        name: name.to_owned(),
        why,
    }
}

fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(module, _)| module)
}

/// A counter of training steps: inference does not read it.
fn is_counter(name: &str) -> bool {
    name.rsplit('.').next() == Some("num_batches_tracked")
}

/// What decides whether a tensor that no constant takes may be let go.
struct Unused<'b> {
    /// Modules that hold a used tensor of their own, without what all names begin with.
    modules: HashSet<&'b str>,
    /// No constant of the model lacks an explanation.
    closed: bool,
    /// No table of integers lacks one.
    closed_integers: bool,
    /// Modules of tensors that another constant or tensor of the same value may stand for.
    absorbed: HashSet<&'b str>,
    /// Element counts of constants of a few values that no tensor explains: a tensor that the base lacks may have been one of them.
    blanks: HashSet<usize>,
    /// Element counts of masks and indices that engines fold in, of which neither a tensor nor a record says what they were made from.
    masks: HashSet<usize>,
    /// Some constant is a sequence or a sine table that no tensor explains: one that is such a thing, too, may have made it.
    has_tables: bool,
    /// What constants are called.
    rows: SameNames<'b>,
    /// What those are called that no tensor explains, and what the record says that they were folded from.
    unproven: SameNames<'b>,
    /// Digests of the used tensors in the new file.
    given: HashMap<Digest, String>,
    /// Used tensors by their digest in the base, but for flat ones.
    tied: HashMap<&'b Digest, Vec<&'b str>>,
    /// Extents, sorted, of tensors that several constants or readers share.
    shared: HashSet<Vec<usize>>,
    root: &'b str,
    /// The base's used tensors by their names without what tools wrap modules in.
    cores: HashMap<String, Vec<&'b SourceTensor>>,
    /// The same without the numbers in them, where there are some.
    numbered: HashSet<String>,
    /// Names of the base's tensors that the file gives.
    present: HashSet<&'b str>,
    /// Shapes of the used ones that it does not.
    absent: Vec<&'b [usize]>,
}

impl<'b> Unused<'b> {
    fn of(books: &'b Books<'_>, mapping: &'b Mapping, used: &HashSet<&'b str>) -> Unused<'b> {
        let names: Vec<&str> = books
            .inventory
            .tensors
            .iter()
            .map(|t| t.name.as_str())
            .collect();
        let root = common_root(&names);
        let cores = cores(books.inventory, |t| used.contains(t.name.as_str()));
        let modules = used.iter().map(|n| module_of(n));
        let mut tied: HashMap<&Digest, Vec<&str>> = HashMap::new();
        for tensor in used.iter().filter_map(|name| books.inventory.get(name)) {
            if !tensor.flat {
                tied.entry(&tensor.digest).or_default().push(&tensor.name);
            }
        }
        let given = used.iter().filter_map(|name| {
            let tensor = books.inventory.get(name)?;
            let own = books.new.by_base.get(*name)?;
            let digest = books.digests.get(own)?;
            (!tensor.flat).then(|| (*digest, (*name).to_owned()))
        });
        let has_tables = (mapping.rows.iter())
            .filter(|r| r.literal.is_some_and(Literal::is_table))
            .any(|r| r.explanations().next().is_none() && !r.inline && !r.probed);
        Unused {
            modules: modules.collect(),
            closed: !mapping
                .rows
                .iter()
                .any(|r| r.is_unsourced() && !books.permissions.ignores(&r.name)),
            closed_integers: mapping.unsourced_integers.is_empty(),
            absorbed: (books.inventory.tensors.iter())
                .filter(|t| !used.contains(t.name.as_str()) && !is_counter(&t.name))
                .filter(|t| t.flat || (t.regular && has_tables) || tied.contains_key(&t.digest))
                .map(|t| module_of(&t.name))
                .collect(),
            blanks: (mapping.rows.iter())
                .filter(|r| r.literal == Some(Literal::Flat) && r.count() > 1)
                .filter(|r| r.explanations().next().is_none() && !r.inline && !r.probed)
                .map(Row::count)
                .collect(),
            masks: (mapping.rows.iter())
                .filter(|r| r.baked.is_some() && r.folded_from.is_empty())
                .filter(|r| r.explanations().next().is_none() && r.grade != Grade::Given)
                .filter(|r| !books.permissions.ignores(&r.name))
                .map(Row::count)
                .collect(),
            has_tables,
            rows: mapping.rows.iter().map(|r| r.name.as_str()).collect(),
            unproven: (mapping.rows.iter())
                .filter(|r| r.is_unsourced())
                .flat_map(|r| std::iter::once(&r.name).chain(&r.folded_from))
                .map(String::as_str)
                .collect(),
            given: given.collect(),
            tied,
            shared: shared(books, mapping),
            root,
            numbered: cores.keys().filter_map(|c| without_numbers(c)).collect(),
            cores,
            present: books.new.by_base.keys().copied().collect(),
            absent: (books.inventory.tensors.iter())
                .filter(|t| used.contains(t.name.as_str()))
                .filter(|t| books.state(&t.name) == State::Missing)
                .map(|t| t.shape.as_slice())
                .collect(),
        }
    }

    /// What becomes of a tensor that is a used one's in a wrapper: said twice, it has to say the same.
    fn restated(
        &self,
        books: &Books<'_>,
        new: &dyn Checkpoint,
        name: &str,
        (dtype, shape): (Dtype, &[usize]),
    ) -> Option<Why> {
        let digest = *books.digests.get(name)?;
        let mut why = None;
        for tensor in self.cores.get(&books.new.core(name))? {
            let Some(own) = books.new.by_base.get(tensor.name.as_str()) else {
                why = Some(Why::Unreached);
                continue;
            };
            // A copy in another type says the same of a tensor that did not change.
            let is_base = || {
                books.state(&tensor.name) == State::Same
                    && tensor.is_same(dtype, shape, digest, || new.read(name))
            };
            if books.value(&tensor.name) == Some((dtype, digest)) || is_base() {
                return Some(Why::Duplicate { of: own.clone() });
            }
            why.get_or_insert_with(|| Why::Restated { of: own.clone() });
        }
        why
    }

    /// Whether a tensor that the base does not have is called as a used one, but for a number: that of a layer.
    fn is_further(&self, core: &str) -> bool {
        without_numbers(core).is_some_and(|pattern| self.numbered.contains(&pattern))
    }

    /// Whether a tensor that the base does not have may be one that the file lacks, or a part or a stack of such, under another name. One whose name ends in
    /// that of a tensor that the file gives is a copy of that (an average), or another model's.
    fn may_be_absent(&self, name: &str, shape: &[usize]) -> bool {
        let mut endings = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let mut is_copy = || endings.any(|e| e.contains('.') && self.present.contains(e));
        let is_sized = |absent: &&[usize]| {
            let (a, b) = (squeezed(absent), squeezed(shape));
            let (m, n) = (a.iter().product::<usize>(), b.iter().product::<usize>());
            a.iter().any(|extent| b.contains(extent)) || m.is_multiple_of(n) || n.is_multiple_of(m)
        };
        self.absent.iter().any(is_sized) && !is_copy()
    }

    /// What becomes of a tensor that a used one equalled in the base: the same parameter under another name, or one that the exporter
    /// merged with it. Either way the two have to stay equal. None where nothing equalled it.
    fn twin(&self, books: &Books<'_>, tensor: &SourceTensor) -> Option<Why> {
        let known = !tensor.flat && !tensor.contradicted;
        let twins = self.tied.get(&tensor.digest).filter(|_| known)?;
        let own = books.value(&tensor.name)?;
        let follows = |twin: &&str| {
            let (state, own_state) = (books.state(twin), books.state(&tensor.name));
            // What the file leaves out keeps its base value.
            let kept = |s: State| matches!(s, State::Same | State::Missing);
            (kept(state) && kept(own_state)) || books.value(twin) == Some(own)
        };
        Some(match twins.iter().all(follows) {
            true if books.state(&tensor.name) == State::Same => Why::Unchanged,
            true => Why::Duplicate {
                of: twins[0].to_owned(),
            },
            false => Why::Unreached,
        })
    }

    /// Whether a constant that nothing explains is called `name` or was folded from it.
    fn is_unproven(&self, name: &str) -> bool {
        self.unproven.have(name)
    }

    fn duplicate_of(&self, digest: Option<&Digest>) -> Option<String> {
        self.given.get(digest?).cloned()
    }

    /// `safe`: the base value is known and tells the tensor from others.
    fn judge(&self, name: &str, dtype: Dtype, safe: bool) -> Why {
        let closed = self.closed && (dtype.is_float() || self.closed_integers);
        let is_called = self.rows.have(name);
        if closed && safe && !is_called && !self.has_used_neighbour(name) {
            Why::Unused
        } else {
            Why::Unreached
        }
    }

    /// Whether a tensor of the same or an enclosing module is used: a scale or an adapter beside a weight changes what it means.
    fn has_used_neighbour(&self, name: &str) -> bool {
        let mut module = module_of(name);
        loop {
            if module.is_empty() || module == self.root {
                // Of the outermost module only what stands in it itself counts.
                return module_of(name) == module && self.modules.contains(module);
            }
            if self.modules.contains(module) {
                return true;
            }
            module = module.rsplit_once('.').map_or("", |(m, _)| m);
        }
    }
}

/// A name with every number in it replaced; none where there is none.
fn without_numbers(name: &str) -> Option<String> {
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    name.split('.').any(|part| is_number(&part)).then(|| {
        let parts = name.split('.');
        let parts = parts.map(|part| if is_number(&part) { "#" } else { part });
        parts.collect::<Vec<_>>().join(".")
    })
}

fn extents(shape: &[usize]) -> Vec<usize> {
    let mut extents: Vec<usize> = shape.iter().copied().filter(|&d| d != 1).collect();
    extents.sort_unstable();
    extents
}

/// Extents of the tensors that more than one constant is made of, or more than one kind of node reads.
fn shared(books: &Books<'_>, mapping: &Mapping) -> HashSet<Vec<usize>> {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for row in &mapping.rows {
        let readers = row.operators.len().max(1);
        let mut sources: Vec<&str> = row.explanations().flat_map(Recipe::sources).collect();
        sources.sort_unstable();
        sources.dedup();
        for source in sources {
            *uses.entry(source).or_default() += readers;
        }
    }
    (uses.into_iter())
        .filter(|(_, n)| *n > 1)
        .filter_map(|(source, _)| Some(extents(&books.inventory.get(source)?.shape)))
        .filter(|extents| extents.len() > 1)
        .collect()
}

/// The leading components that all names share.
fn common_root<'n>(names: &[&'n str]) -> &'n str {
    let Some(first) = names.first() else {
        return "";
    };
    let mut root = first.rsplit_once('.').map_or("", |(m, _)| m);
    while !root.is_empty()
        && !names
            .iter()
            .all(|n| n.strip_prefix(root).is_some_and(|r| r.starts_with('.')))
    {
        root = root.rsplit_once('.').map_or("", |(m, _)| m);
    }
    root
}
