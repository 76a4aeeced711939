//! The ways in which a file may be the checkpoint of a model, and which of them fits best.
//!
//! A candidate is a prefix and a reading: the names as they are, a table forwards (first authors to
//! diffusers), or a table backwards. The one that gives the most of the model's parameters, by name
//! and number of elements, is taken.

use super::components;
use super::error::Error;
use super::storage::Stored;
use super::table::{Hit, Table, Turn};
use super::wanted::{Wanted, endings_of};
use super::{diffusers_halves, tables};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// How a tensor is made of the file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Copy,
    Rows {
        from: usize,
        /// Row after the last.
        to: usize,
    },
    /// Second half of the rows first.
    SwapHalves,
    Transpose,
    /// Another shape, the same elements in the same order.
    Reshape,
    /// Several, one after the other by rows.
    Concat,
    /// No source: the unit matrix.
    Identity,
}

/// A tensor in the model's names.
#[derive(Debug)]
pub(super) struct Translated {
    pub to: String,
    /// Indices into the file's tensors.
    pub from: Vec<usize>,
    pub op: Op,
    pub shape: Vec<usize>,
}

/// One way of reading the file.
#[derive(Debug)]
pub(super) struct Candidate {
    pub prefix: String,
    pub family: Option<String>,
    pub tensors: Vec<Translated>,
    /// Tensors that the layout has and nothing reads.
    pub unused: BTreeSet<usize>,
    pub halves: Vec<(String, Vec<String>)>,
    /// How many of the model's parameters it gives.
    hits: usize,
    /// Why it cannot be read so; counts only if it fits best.
    fault: Option<Error>,
    /// The component that its prefix names.
    pub label: Option<&'static str>,
}

/// The best reading of `stored` for the model, or none where no name fits.
pub(super) fn choose(
    stored: &[Stored],
    wanted: &Wanted<'_>,
    component: Option<&str>,
    path: &Path,
) -> Result<Option<Candidate>, Error> {
    let names: BTreeSet<&str> = stored.iter().map(|s| s.name.as_str()).collect();
    let index: HashMap<&str, usize> = (stored.iter().enumerate())
        .map(|(i, s)| (s.name.as_str(), i))
        .collect();
    let case = Case {
        stored,
        index,
        endings: ends_with(&names),
        names,
        wanted,
        path,
    };
    let mut all = case.as_they_are();
    for table in tables() {
        all.extend(case.forwards(table));
    }
    for table in tables().iter().filter(|t| t.keys().any(|k| wanted.has(k))) {
        all.extend(case.backwards(table));
    }
    all.retain(|c| c.hits > 0 && case.is_likely(c));
    let fitting = |all: &[Candidate]| -> Vec<String> {
        let most = all.iter().map(|c| c.hits).max().unwrap_or(0);
        let mut labels: Vec<String> = (all.iter()).filter(|c| c.hits == most).map(label).collect();
        labels.dedup();
        labels
    };
    if let Some(component) = component {
        let labels = fitting(&all);
        all.retain(|c| label(c) == component || c.prefix.trim_end_matches('.') == component);
        if all.is_empty() {
            return Err(Error::NoComponent {
                path: path.to_owned(),
                component: component.to_owned(),
                fitting: labels,
            });
        }
    // Averaged weights are meant only where they are asked for or are all there is.
    } else if all.iter().any(|c| c.label != Some(components::EMA)) {
        all.retain(|c| c.label != Some(components::EMA));
    }
    let Some(most) = all.iter().map(|c| c.hits).max() else {
        return Ok(None);
    };
    all.retain(|c| c.hits == most);
    // Other readings of the same tensors are no rivals: the first counts, and names as they are
    // come before tables.
    let used: BTreeSet<usize> = all[0].used().collect();
    let others = all[1..]
        .iter()
        .filter(|c| !c.used().any(|i| used.contains(&i)));
    let rivals: Vec<&Candidate> = all[..1].iter().chain(others).collect();
    if rivals.len() > 1 {
        return Err(Error::Components {
            path: path.to_owned(),
            components: called_apart(&rivals),
        });
    }
    let mut best = all.swap_remove(0);
    match best.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(Some(best)),
    }
}

/// Names by which `--component` tells these apart.
fn called_apart(candidates: &[&Candidate]) -> Vec<String> {
    let labels: BTreeSet<String> = candidates.iter().map(|c| label(c)).collect();
    if labels.len() > 1 {
        return labels.into_iter().collect();
    }
    let prefix = |c: &&Candidate| c.prefix.trim_end_matches('.').to_owned();
    let prefixes: BTreeSet<String> = candidates.iter().map(prefix).collect();
    prefixes.into_iter().collect()
}

impl Candidate {
    /// The file's tensors that it uses.
    fn used(&self) -> impl Iterator<Item = usize> {
        self.tensors.iter().flat_map(|t| t.from.iter().copied())
    }
}

/// What `--component` calls a candidate.
fn label(candidate: &Candidate) -> String {
    match candidate.label {
        Some(label) => label.to_owned(),
        None if candidate.prefix.is_empty() => "bare".to_owned(),
        None => candidate.prefix.trim_end_matches('.').to_owned(),
    }
}

struct Case<'a, 'w> {
    stored: &'a [Stored],
    index: HashMap<&'a str, usize>,
    names: BTreeSet<&'a str>,
    /// The prefixes under which the file has a name.
    endings: HashMap<&'a str, Vec<&'a str>>,
    wanted: &'w Wanted<'w>,
    path: &'w Path,
}

impl Case<'_, '_> {
    /// Names as they are, without one prefix that most of them have in front of the model's.
    fn as_they_are(&self) -> Vec<Candidate> {
        // The names without a prefix are tried in any case, also where none of them is the model's.
        let mut votes: BTreeMap<&str, usize> = BTreeMap::from([("", 0)]);
        for stored in self.stored {
            if let Some(ending) = endings_of(&stored.name).find(|e| self.wanted.has(e)) {
                let prefix = &stored.name[..stored.name.len() - ending.len()];
                *votes.entry(prefix).or_default() += 1;
            }
        }
        let mut prefixes: Vec<(&str, usize)> = votes.into_iter().collect();
        prefixes.sort_by_key(|(p, n)| (std::cmp::Reverse(*n), p.len()));
        prefixes.truncate(PREFIXES);
        (prefixes.into_iter())
            .map(|(prefix, _)| {
                let own = |s: &&Stored| Some(self.respelt(s.name.strip_prefix(prefix)?, prefix));
                let tensors: Vec<Translated> = (self.stored.iter().enumerate())
                    .filter(|(_, s)| !prefix.is_empty() || self.is_own(&s.name))
                    .filter_map(|(i, s)| {
                        Some(Translated {
                            to: own(&s)?,
                            from: vec![i],
                            op: Op::Copy,
                            shape: s.shape.clone(),
                        })
                    })
                    .collect();
                self.candidate(prefix, None, tensors)
            })
            .collect()
    }

    /// ComfyUI calls the norms' `scale` of FLUX, Chroma and `Hunyuan3D` `weight`, in its exports and in what it saves
    /// (`process_unet_state_dict` of these).
    fn respelt(&self, name: &str, prefix: &str) -> String {
        let other = match (name.strip_suffix(".scale"), name.strip_suffix(".weight")) {
            (Some(module), _) => format!("{module}.weight"),
            (_, Some(module)) => format!("{module}.scale"),
            _ => return name.to_owned(),
        };
        let taken = self.index.contains_key(format!("{prefix}{other}").as_str());
        if taken || self.wanted.has(name) || !self.wanted.has(&other) {
            return name.to_owned();
        }
        other
    }

    /// Whether a name without a prefix is not plainly another component's.
    fn is_own(&self, name: &str) -> bool {
        components::of(name).is_none() || self.wanted.has(name)
    }

    fn candidate(
        &self,
        prefix: &str,
        family: Option<&Table>,
        tensors: Vec<Translated>,
    ) -> Candidate {
        let hits = self.hits(&tensors);
        let first = tensors.iter().find_map(|t| t.from.first());
        let halves = match family {
            Some(table) => table.halves.clone(),
            None => diffusers_halves(|n| tensors.iter().any(|t| t.to == n)),
        };
        Candidate {
            prefix: prefix.to_owned(),
            family: family.map(|t| t.family.clone()),
            label: first
                .filter(|_| !prefix.is_empty())
                .and_then(|&i| components::of(&self.stored[i].name)),
            tensors,
            unused: BTreeSet::new(),
            halves,
            hits,
            fault: None,
        }
    }

    /// Whether a reading that renames is more than a coincidence of a few names (`proj_out.weight`,
    /// `conv_in.weight`): it gives a quarter of what there is to give.
    fn is_likely(&self, candidate: &Candidate) -> bool {
        let plain = candidate.prefix.is_empty() && candidate.family.is_none();
        let possible = candidate.tensors.len().min(self.wanted.len());
        plain || candidate.hits * 4 >= possible
    }

    /// How many of the model's parameters these tensors give.
    fn hits(&self, tensors: &[Translated]) -> usize {
        let fitting = |t: &Translated| self.wanted.fitting(&t.to, t.shape.iter().product());
        let given: BTreeSet<usize> = tensors.iter().filter_map(fitting).collect();
        given.len()
    }

    /// The file is in the first authors' names.
    fn forwards(&self, table: &Table) -> Vec<Candidate> {
        let mut found = Vec::new();
        for prefix in table.prefixes(&self.names) {
            let own: Vec<(usize, &str)> = (self.stored.iter().enumerate())
                .filter_map(|(i, s)| Some((i, within(prefix, &s.name)?)))
                .collect();
            let parameters = table.parameters(&own.iter().map(|(_, n)| *n), &std::iter::empty());
            let hits: Vec<(usize, Hit)> = (own.iter())
                .filter_map(|(i, name)| Some((*i, *name, table.translate(name, &parameters)?)))
                .filter(|(_, name, hit)| !table.is_unused(name) || self.wanted.has(&hit.to[0]))
                .map(|(i, _, hit)| (i, hit))
                .collect();
            let read = |left_out: &str| -> Candidate {
                let (mut tensors, mut fault) = (Vec::new(), None);
                for (i, hit) in &hits {
                    match self.laid_out(*i, hit, left_out) {
                        Ok(several) => tensors.extend(several),
                        Err(e) => fault = fault.or(Some(e)),
                    }
                }
                let mut candidate = self.candidate(prefix, Some(table), tensors);
                candidate.fault = fault;
                candidate
            };
            let mut candidate = read("");
            for left_out in &table.optional {
                let without = read(left_out);
                if without.hits > candidate.hits {
                    candidate = without;
                }
            }
            self.add_identities(table, prefix, &mut candidate);
            let unused = own.iter().filter(|(_, n)| table.is_unused(n));
            // Those that the model has after all are used before this is asked.
            candidate.unused = unused.map(|(i, _)| *i).collect();
            found.push(candidate);
        }
        found
    }

    /// The tensors that one of the file's tensors is.
    fn laid_out(&self, i: usize, hit: &Hit, left_out: &str) -> Result<Vec<Translated>, Error> {
        let stored = &self.stored[i];
        let name = |to: &String| to.strip_prefix(left_out).unwrap_or(to).to_owned();
        let to: Vec<String> = hit.to.iter().map(name).collect();
        let one = |op: Op, shape: Vec<usize>| {
            vec![Translated {
                to: to[0].clone(),
                from: vec![i],
                op,
                shape,
            }]
        };
        if to.len() == 1 {
            return Ok(match (hit.turn, &stored.shape[..]) {
                (Turn::SwapHalves, [rows, ..]) if rows % 2 == 0 => {
                    one(Op::SwapHalves, stored.shape.clone())
                }
                (Turn::SwapHalves, _) => return Err(self.uncut(stored, 2)),
                (Turn::Transpose, &[a, b]) => one(Op::Transpose, vec![b, a]),
                (Turn::Linear, &[out, input, 1, 1]) => one(Op::Reshape, vec![out, input]),
                _ => one(Op::Copy, stored.shape.clone()),
            });
        }
        let rows = stored.shape.first().copied().unwrap_or(0);
        let inner = stored.shape.get(1..).unwrap_or(&[]);
        let heights = self.heights(&to, inner.iter().product(), rows);
        let parts: usize = hit.heights.iter().sum();
        // The model's heights count before the table's proportions: an MLP may have any width.
        let heights = match heights {
            Some(heights) => heights,
            None if rows % parts == 0 => hit.heights.iter().map(|h| h * (rows / parts)).collect(),
            None => return Err(self.uncut(stored, parts)),
        };
        let mut from = 0;
        Ok((to.into_iter().zip(heights))
            .map(|(to, height)| {
                from += height;
                Translated {
                    to,
                    from: vec![i],
                    op: Op::Rows {
                        from: from - height,
                        to: from,
                    },
                    shape: [&[height], inner].concat(),
                }
            })
            .collect())
    }

    /// Heights of stacked parts as the model has them, where it has them all and they come to
    /// `rows`.
    fn heights(&self, to: &[String], row: usize, rows: usize) -> Option<Vec<usize>> {
        let heights: Vec<usize> = (to.iter())
            .map(|name| {
                let elements = self.wanted.elements(name)?;
                (row > 0 && elements % row == 0).then(|| elements / row)
            })
            .collect::<Option<_>>()?;
        (heights.iter().sum::<usize>() == rows).then_some(heights)
    }

    fn uncut(&self, stored: &Stored, parts: usize) -> Error {
        Error::Uncut {
            path: self.path.to_owned(),
            tensor: stored.source.clone(),
            shape: stored.shape.clone(),
            parts,
        }
    }

    /// Stable Diffusion 3's CLIP-L has no projection in the file: readers put the unit matrix
    /// there.
    fn add_identities(&self, table: &Table, prefix: &str, candidate: &mut Candidate) {
        for (to, like) in table.identities() {
            let there = candidate.tensors.iter().any(|t| t.to == to);
            let width = (self.index.get(format!("{prefix}{like}").as_str()))
                .and_then(|&i| self.stored[i].shape.first().copied());
            let Some(n) = width.filter(|_| !there && prefix.contains("clip_l.")) else {
                continue;
            };
            if self.wanted.fitting(&to, n * n).is_some() {
                candidate.tensors.push(Translated {
                    to,
                    from: Vec::new(),
                    op: Op::Identity,
                    shape: vec![n, n],
                });
            }
        }
        candidate.hits = self.hits(&candidate.tensors);
    }

    /// The model is in the first authors' names and the file in diffusers'.
    fn backwards(&self, table: &Table) -> Vec<Candidate> {
        let theirs = self.wanted.names().flat_map(endings_of).collect::<Vec<_>>();
        let ours = self
            .names
            .iter()
            .copied()
            .flat_map(endings_of)
            .collect::<Vec<_>>();
        let parameters = table.parameters(&theirs.into_iter(), &ours.into_iter());
        let mut best: BTreeMap<&str, Vec<Translated>> = BTreeMap::new();
        for name in self.wanted.names() {
            for ending in endings_of(name) {
                let Some(hit) = table.translate(ending, &parameters) else {
                    continue;
                };
                for &prefix in self.endings.get(hit.to[0].as_str()).into_iter().flatten() {
                    let from: Option<Vec<usize>> = (hit.to.iter())
                        .map(|to| self.index.get(format!("{prefix}{to}").as_str()).copied())
                        .collect();
                    if let Some(from) = from {
                        let one = self.put_together(ending, from, &hit);
                        best.entry(prefix).or_default().extend(one);
                    }
                }
                // The longest ending that the table knows is the parameter; a shorter one may be a
                // module inside another.
                break;
            }
        }
        // Presumed names of one parameter differ by their wrappers, and end the same.
        let candidates = best.into_iter().map(|(prefix, mut tensors)| {
            tensors.sort_by(|a, b| a.to.cmp(&b.to));
            tensors.dedup_by(|a, b| a.to == b.to);
            self.candidate(prefix, Some(table), tensors)
        });
        candidates.collect()
    }

    fn put_together(&self, to: &str, from: Vec<usize>, hit: &Hit) -> Option<Translated> {
        let shape = &self.stored[from[0]].shape;
        let (op, shape) = match (from.len(), hit.turn, &shape[..]) {
            (1, Turn::SwapHalves, [rows, ..]) if rows % 2 == 0 => (Op::SwapHalves, shape.clone()),
            (1, Turn::SwapHalves, _) => return None,
            (1, Turn::Transpose, &[a, b]) => (Op::Transpose, vec![b, a]),
            (1, Turn::Linear, &[out, input]) => (Op::Reshape, vec![out, input, 1, 1]),
            (1, ..) => (Op::Copy, shape.clone()),
            (_, _, [_, inner @ ..]) => {
                let parts: Vec<&Stored> = from.iter().map(|&i| &self.stored[i]).collect();
                let alike =
                    |s: &&Stored| s.dtype == parts[0].dtype && s.shape.get(1..) == Some(inner);
                if !parts.iter().all(alike) {
                    return None;
                }
                let rows = parts.iter().map(|s| s.shape[0]).sum();
                (Op::Concat, [&[rows], inner].concat())
            }
            _ => return None,
        };
        Some(Translated {
            to: to.to_owned(),
            from,
            op,
            shape,
        })
    }
}

/// A name under a prefix. Stable Cascade's file has the projection of its text encoder beside the encoder's `transformer.`
/// (`Stable_Cascade_C.process_clip_state_dict`).
fn within<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    let beside = || {
        let around = prefix.strip_suffix("transformer.")?;
        (name.strip_prefix(around)).filter(|rest| *rest == "text_projection")
    };
    name.strip_prefix(prefix).or_else(beside)
}

/// Every ending of every name, with what stands before it.
fn ends_with<'a>(names: &BTreeSet<&'a str>) -> HashMap<&'a str, Vec<&'a str>> {
    let mut found: HashMap<&str, Vec<&str>> = HashMap::new();
    for name in names {
        for ending in endings_of(name) {
            let prefix = &name[..name.len() - ending.len()];
            found.entry(ending).or_default().push(prefix);
        }
    }
    found
}

/// How many prefixes of names as they are are tried.
const PREFIXES: usize = 12;
