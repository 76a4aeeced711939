//! Weighing the evidence: names and paths, values, folds and closeness give each row its recipe and its grade.

use super::accounts;
use super::equal::{Equal, Equalities, Source, equalities};
use super::names::{Prefixes, align};
use super::row::{Clue, Evidence, FoldSign, Grade, Layout, Recipe, Row};
use super::value::{Relation, is_square, orders, squeezed};
use super::{Against, Checkpoint, Error, Held, Mapping, Resolved, changed, doubt, folds};
use std::collections::{HashMap, HashSet};

/// At most so many names are listed in one piece of evidence.
const LISTED: usize = 8;

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
    pub against: Against,
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
            steps: relation.steps(view.shape, view.dtype, row),
        }
    }

    fn name(&self, source: usize) -> String {
        self.sources[source].name.to_owned()
    }
}

/// The ways in which a source of `shape` can stand in `row`, by shape and layout alone; kernels only as they are.
pub(super) fn presumed_relations(row: &Row, shape: &[usize]) -> Vec<Relation> {
    let (from, to) = (squeezed(shape), squeezed(&row.shape));
    orders(&from, &to)
        .into_iter()
        .filter(|o| o.len() == 2 || o.is_sorted())
        .map(Relation::Order)
        .filter(|r| !is_square(shape) || r.fits(row.layout))
        .collect()
}

/// Resolves every open row of `mapping` against a checkpoint.
pub(super) fn resolve(
    mapping: &Mapping,
    held: &dyn Held,
    checkpoint: &dyn Checkpoint,
    against: Against,
) -> Result<Resolved, Error> {
    let mut rows = mapping.rows.clone();
    let mut names = checkpoint.names();
    names.sort_unstable();
    let sources: Vec<Source<'_>> = (names.into_iter())
        .filter_map(|name| checkpoint.get(name).map(|view| Source { name, view }))
        .collect();
    let open: Vec<usize> = (0..rows.len())
        .filter(|&r| match against {
            Against::Base => rows[r].grade != Grade::Given,
            Against::New => {
                !mapping.against_base
                    && !matches!(
                        rows[r].grade,
                        Grade::Given | Grade::Proven | Grade::Corroborated
                    )
            }
        })
        .collect();
    for &r in &open {
        let row = &mut rows[r];
        row.grade = Grade::Unproven;
        row.recipe = None;
        row.rounding = None;
        row.alternatives.clear();
        row.evidence.clear();
    }
    let missing_settled = settle_names(&mut rows, &open, &sources);
    let (named, absent) = presume(&rows, &sources);
    let equal = equalities(&rows, &open, &sources, held)?;
    let owned = open
        .iter()
        .flat_map(|&r| by_both(&named[r], &equal.of_row[r]).map(|(n, _)| n.source))
        .collect();
    let case = Case {
        sources: &sources,
        held,
        against,
        named,
        equal,
        owned,
    };
    let mut pending = Vec::new();
    for &r in &open {
        if !by_value(&case, &mut rows, r, &open, false) {
            pending.push(r);
        }
    }
    let mut pending = folds::resolve(&case, &mut rows, &pending)?;
    pending.retain(|&r| !by_value(&case, &mut rows, r, &open, true));
    match against {
        Against::Base => {
            for r in pending {
                unmatched_in_base(&case, &mut rows[r], r);
            }
        }
        Against::New => {
            changed::recheck(&case, &mut rows, &open)?;
            changed::resolve(&case, &mut rows, &pending, &absent)?;
        }
    }
    for &r in &open {
        orientation_evidence(&mut rows[r]);
    }
    let accounts = accounts::of(&rows, &case, missing_settled);
    if against == Against::New {
        doubt::add(&case, &mut rows, &open);
    }
    Ok(Resolved {
        mapping: Mapping {
            against_base: mapping.against_base || against == Against::Base,
            rows,
        },
        accounts,
    })
}

/// Renames the sources of settled rows as this checkpoint spells them; gives back what it does not hold, by row.
fn settle_names(rows: &mut [Row], open: &[usize], sources: &[Source<'_>]) -> Vec<usize> {
    let open: HashSet<usize> = open.iter().copied().collect();
    let known: HashSet<&str> = sources.iter().map(|s| s.name).collect();
    let settled: Vec<usize> = (0..rows.len()).filter(|r| !open.contains(r)).collect();
    let all = |row: &Row| -> Vec<String> {
        (row.recipe.iter().chain(&row.alternatives))
            .flat_map(|r| r.sources().into_iter().map(ToOwned::to_owned))
            .collect()
    };
    let used: Vec<String> = settled.iter().flat_map(|&r| all(&rows[r])).collect();
    if !used.iter().all(|n| known.contains(n.as_str())) {
        let prefixes = align(
            used.iter().map(|n| (n.as_str(), None)),
            sources.iter().map(|s| (s.name, None)),
        );
        let rename = |name: &str| match prefixes.translate(name) {
            Some(new) if !known.contains(name) && known.contains(new.as_str()) => new,
            _ => name.to_owned(),
        };
        for &r in &settled {
            let row = &mut rows[r];
            row.recipe = row.recipe.as_ref().map(|x| x.renamed(rename));
            row.alternatives = row.alternatives.iter().map(|x| x.renamed(rename)).collect();
        }
    }
    (settled.into_iter())
        .filter(|&r| all(&rows[r]).iter().any(|n| !known.contains(n.as_str())))
        .collect()
}

/// The presumed sources of every row, and by row those names that the checkpoint does not have.
fn presume(rows: &[Row], sources: &[Source<'_>]) -> (Vec<Vec<Named>>, Vec<Vec<String>>) {
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

fn hint_prefixes(rows: &[Row], sources: &[Source<'_>]) -> Prefixes {
    let presumed = rows.iter().flat_map(|row| {
        let count = row.count();
        (row.hints.iter().flat_map(|h| &h.names)).map(move |n| (n.as_str(), Some(count)))
    });
    align(presumed, sources.iter().map(|s| (s.name, Some(s.count()))))
}

/// Pairs of a name and an equality that point to the same source, in the order of names.
fn by_both<'a>(
    named: &'a [Named],
    equal: &'a [Equal],
) -> impl Iterator<Item = (&'a Named, &'a Equal)> {
    named.iter().filter_map(|n| {
        (equal.iter())
            .find(|e| e.source == n.source && !e.contrary)
            .map(|e| (n, e))
    })
}

/// Decides a row by its equalities; false when they do not decide it. Where the graph shows signs of a fold, a value alone
/// decides only when no fold was found (`unfolded`): β is a fold's bias where the mean is zero.
fn by_value(case: &Case<'_>, rows: &mut [Row], r: usize, open: &[usize], unfolded: bool) -> bool {
    let named = &case.named[r];
    let equal: Vec<&Equal> = case.equal.of_row[r]
        .iter()
        .filter(|e| !e.contrary)
        .collect();
    let agreed: Vec<(&Named, &Equal)> = by_both(named, &case.equal.of_row[r]).collect();
    if !rows[r].fold_signs.is_empty() {
        // A factor near 1 is lost in a half type, and zeros stay zeros.
        let narrow = equal.iter().any(|e| e.dtype != rows[r].dtype);
        let tells = case.equal.informative[r] && !narrow;
        if !tells || (!unfolded && agreed.is_empty()) {
            return false;
        }
    }
    if let Some(&(first, same)) = agreed.first() {
        let row = &mut rows[r];
        row.evidence.push(Evidence::Hinted {
            source: case.name(first.source),
            clue: first.clue.clone(),
        });
        take(case, row, same, equal.len());
        // A tied pair: both names lead here and both have the value. Should they part, nobody can say which is meant.
        for (other, also) in &agreed[1..] {
            if other.source != first.source {
                let recipe = case.recipe(row, also.source, &also.relations[0]);
                row.alternatives.push(recipe);
            }
        }
        return true;
    }
    if !rows[r].fold_signs.is_empty() && rows[r].shape.len() == 1 && !beside_plain(case, rows, r) {
        return false;
    }
    // Sources that their own row has claimed by name are not free for others, unless the values could not be chance.
    let informative = case.equal.informative[r];
    let free: Vec<&Equal> = (equal.iter().copied())
        .filter(|e| !case.owned.contains(&e.source))
        .collect();
    if let Some(first) = named.first() {
        if informative && let Some(other) = free.first() {
            let row = &mut rows[r];
            row.evidence.push(Evidence::Disagree {
                named: case.name(first.source),
                valued: case.name(other.source),
            });
            ambiguous(case, row, &equal);
            return true;
        }
        return false;
    }
    if equal.is_empty() {
        return false;
    }
    if let ([only], true) = (&equal[..], informative) {
        let claimants: Vec<usize> = (open.iter().copied())
            .filter(|&o| {
                (case.equal.of_row[o].iter()).any(|e| e.source == only.source && !e.contrary)
            })
            .collect();
        if claimants.len() == 1 || is_tied_embedding(rows, &claimants) {
            take(case, &mut rows[r], only, 1);
            return true;
        }
        ambiguous(case, &mut rows[r], &equal);
        return true;
    }
    if !informative && free.is_empty() && rows[r].hints.is_empty() && !rows[r].is_parameter() {
        // Every tensor of these values has its own weight; this one is the exporter's (ones, zeros, a scalar).
        rows[r].grade = Grade::Constant;
        rows[r].evidence.push(Evidence::NoCandidate);
        return true;
    }
    if !informative && free.is_empty() && !rows[r].is_parameter() {
        return false;
    }
    ambiguous(case, &mut rows[r], &equal);
    true
}

/// Whether the kernel that a bias belongs to is a tensor of the checkpoint as it is, so that the bias is none of a fold.
fn beside_plain(case: &Case<'_>, rows: &[Row], r: usize) -> bool {
    let partner = rows[r].partner.as_deref();
    (rows.iter().position(|k| Some(k.name.as_str()) == partner)).is_some_and(|k| {
        let exact = |e: &Equal| e.dtype == rows[k].dtype;
        case.equal.informative[k] && case.equal.of_row[k].iter().any(exact)
    })
}

/// An embedding and the projection that shares its weights, which exporters write twice: one is gathered, the other
/// multiplied.
fn is_tied_embedding(rows: &[Row], claimants: &[usize]) -> bool {
    let gathers = |r: &usize| rows[*r].operators.iter().any(|o| o == "Gather");
    let multiplies =
        |r: &usize| (rows[*r].operators.iter()).all(|o| matches!(o.as_str(), "MatMul" | "Gemm"));
    match claimants {
        [a, b] => (gathers(a) && multiplies(b)) || (gathers(b) && multiplies(a)),
        _ => false,
    }
}

/// Gives a row the source that it equals.
fn take(case: &Case<'_>, row: &mut Row, same: &Equal, equal: usize) {
    row.evidence.push(Evidence::ValueEqual {
        source: case.name(same.source),
        dtype: same.dtype,
        unique: equal == 1,
    });
    let chosen = same.relations.iter().find(|x| x.fits(row.layout));
    let shape = case.sources[same.source].view.shape;
    let plain = (same.relations.iter()).all(|x| matches!(x, Relation::Order(o) if o.is_sorted()));
    if row.layout == Layout::Unknown && is_square(shape) && is_square(&row.shape) && !plain {
        // A symmetric matrix, or one that is equal only transposed, and no consumer to say how it should stand: the
        // exporter may have turned it, or somebody the checkpoint's.
        row.grade = Grade::Ambiguous;
        row.alternatives = presumed_relations(row, shape)
            .iter()
            .map(|relation| case.recipe(row, same.source, relation))
            .collect();
        return;
    }
    row.grade = Grade::Proven;
    let relation = chosen.unwrap_or(&same.relations[0]);
    row.recipe = Some(case.recipe(row, same.source, relation));
}

fn ambiguous(case: &Case<'_>, row: &mut Row, equal: &[&Equal]) {
    row.grade = Grade::Ambiguous;
    row.evidence.push(Evidence::SharedValue {
        sources: (equal.iter().take(LISTED))
            .map(|e| case.name(e.source))
            .collect(),
    });
    let mut all = Vec::new();
    for same in equal {
        for relation in &same.relations {
            all.push(case.recipe(row, same.source, relation));
        }
    }
    row.alternatives.extend(all);
}

/// A weight that equals nothing in the checkpoint that the model came from.
fn unmatched_in_base(case: &Case<'_>, row: &mut Row, r: usize) {
    let contrary = case.equal.of_row[r].iter().find(|e| e.contrary);
    if let Some(turned) = contrary {
        row.evidence.push(Evidence::OtherCloser {
            source: case.name(turned.source),
            transposed: true,
            cosine: 1.0,
        });
        return;
    }
    let Some(first) = case.named[r].first() else {
        row.evidence.push(Evidence::NoCandidate);
        add_fold_evidence(row);
        if row.fold_signs.is_empty() {
            row.grade = Grade::Constant;
        }
        return;
    };
    let shape = case.sources[first.source].view.shape;
    row.evidence.push(Evidence::Hinted {
        source: case.name(first.source),
        clue: first.clue.clone(),
    });
    add_fold_evidence(row);
    let relations = presumed_relations(row, shape);
    match &relations[..] {
        [one] if row.fold_signs.is_empty() => {
            row.recipe = Some(case.recipe(row, first.source, one));
        }
        [] => row.evidence.push(Evidence::ShapeMisfit {
            source: case.name(first.source),
            shape: shape.to_vec(),
        }),
        _ => {}
    }
}

/// Reports the graph's signs of a fold against a row.
pub(super) fn add_fold_evidence(row: &mut Row) {
    let signs: Vec<FoldSign> = row.fold_signs.clone();
    for sign in signs {
        row.evidence.push(Evidence::FoldSuspected { sign });
    }
}

/// Notes the consumer's orientation where it supports the recipe of a matrix.
fn orientation_evidence(row: &mut Row) {
    if row.recipe.is_some() && row.layout != Layout::Unknown && squeezed(&row.shape).len() == 2 {
        let layout = row.layout;
        row.evidence.push(Evidence::Orientation { layout });
    }
}

/// Every checkpoint tensor that a row reads or might read.
pub(super) fn names_of(row: &Row) -> impl Iterator<Item = &str> {
    (row.recipe.iter().chain(&row.alternatives)).flat_map(Recipe::sources)
}
