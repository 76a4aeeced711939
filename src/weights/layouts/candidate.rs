//! The ways in which a file may be the checkpoint of a model, and which of them fits best.
//!
//! A candidate is a prefix and a reading: the names as they are, a table forwards (first authors to
//! diffusers), or a table backwards. The one that gives the most of the model's parameters, by name
//! and number of elements, is taken.

use super::components;
use super::error::Error;
use super::storage::Storage;
use super::table::{Hit, Table, Turn};
use super::wanted::{Wanted, endings_of};
use super::{diffusers_halves, tables};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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

/// The reading of the file that was chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    pub family: Option<String>,
    /// Tensors that are as they are in the file, also by name: their indices.
    pub own: Vec<u32>,
    /// All others.
    pub laid: Vec<Translated>,
    /// Tensors that the layout has and nothing reads.
    pub unused: BTreeSet<usize>,
    pub halves: Vec<(String, Vec<String>)>,
    /// The component that its prefix names.
    pub label: Option<&'static str>,
}

/// One way of reading the file.
struct Candidate<'a> {
    prefix: &'a str,
    table: Option<&'static Table>,
    tensors: Tensors,
    unused: BTreeSet<usize>,
    /// How many of the model's parameters it gives.
    hits: usize,
    /// Why it cannot be read so; counts only if it fits best.
    fault: Option<Error>,
    label: Option<&'static str>,
}

/// What a candidate is made of.
enum Tensors {
    /// Tensors of the file that only lose the prefix: their indices. Nothing is laid out of them before the candidate is chosen.
    Own(Vec<u32>),
    Laid(Vec<Translated>),
}

/// The best reading of `stored` for the model, or none where no name fits.
pub(super) fn choose(
    stored: &Storage,
    wanted: &Wanted<'_>,
    component: Option<&str>,
    path: &Path,
) -> Result<Option<Chosen>, Error> {
    let case = Case {
        stored,
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
    let fitting = |all: &[Candidate<'_>]| -> Vec<String> {
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
    let used: HashSet<usize> = all[0].used().collect();
    let others = all[1..]
        .iter()
        .filter(|c| !c.used().any(|i| used.contains(&i)));
    let rivals: Vec<&Candidate<'_>> = all[..1].iter().chain(others).collect();
    if rivals.len() > 1 {
        return Err(Error::Components {
            path: path.to_owned(),
            components: called_apart(&rivals),
        });
    }
    let mut best = all.swap_remove(0);
    match best.fault.take() {
        Some(fault) => Err(fault),
        None => Ok(Some(case.laid_open(best))),
    }
}

/// Names by which `--component` tells these apart.
fn called_apart(candidates: &[&Candidate<'_>]) -> Vec<String> {
    let labels: BTreeSet<String> = candidates.iter().map(|c| label(c)).collect();
    if labels.len() > 1 {
        return labels.into_iter().collect();
    }
    let prefix = |c: &&Candidate<'_>| c.prefix.trim_end_matches('.').to_owned();
    let prefixes: BTreeSet<String> = candidates.iter().map(prefix).collect();
    prefixes.into_iter().collect()
}

impl Candidate<'_> {
    /// The file's tensors that it uses.
    fn used(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match &self.tensors {
            Tensors::Own(own) => Box::new(own.iter().map(|&i| i as usize)),
            Tensors::Laid(laid) => Box::new(laid.iter().flat_map(|t| t.from.iter().copied())),
        }
    }

    /// How many tensors it gives.
    fn len(&self) -> usize {
        match &self.tensors {
            Tensors::Own(own) => own.len(),
            Tensors::Laid(laid) => laid.len(),
        }
    }
}

/// What `--component` calls a candidate.
fn label(candidate: &Candidate<'_>) -> String {
    match candidate.label {
        Some(label) => label.to_owned(),
        None if candidate.prefix.is_empty() => "bare".to_owned(),
        None => candidate.prefix.trim_end_matches('.').to_owned(),
    }
}

struct Case<'a> {
    stored: &'a Storage,
    wanted: &'a Wanted<'a>,
    path: &'a Path,
}

impl<'a> Case<'a> {
    /// Names as they are, without one prefix that most of them have in front of the model's.
    fn as_they_are(&self) -> Vec<Candidate<'a>> {
        // The names without a prefix are tried in any case, also where none of them is the model's.
        let mut votes: BTreeMap<&str, usize> = BTreeMap::from([("", 0)]);
        for name in self.stored.names() {
            if let Some(ending) = endings_of(name).find(|e| self.wanted.has(e)) {
                let prefix = &name[..name.len() - ending.len()];
                *votes.entry(prefix).or_default() += 1;
            }
        }
        let mut prefixes: Vec<(&str, usize)> = votes.into_iter().collect();
        prefixes.sort_by_key(|(p, n)| (std::cmp::Reverse(*n), p.len()));
        prefixes.truncate(PREFIXES);
        (prefixes.into_iter())
            .map(|(prefix, _)| {
                let is_of = |at: &u32| {
                    let name = self.stored.name(*at as usize);
                    name.starts_with(prefix) && (!prefix.is_empty() || self.is_own(name))
                };
                let own = (0..).take(self.stored.len()).filter(is_of).collect();
                self.candidate(prefix, None, Tensors::Own(own))
            })
            .collect()
    }

    /// What one of the file's tensors is called in a reading that only takes the prefix off.
    fn own_name(&self, prefix: &str, at: u32) -> Cow<'a, str> {
        let name = self.stored.name(at as usize);
        self.respelt(name.strip_prefix(prefix).unwrap_or(name), prefix)
    }

    /// ComfyUI calls the norms' `scale` of FLUX, Chroma and `Hunyuan3D` `weight`, in its exports and in what it saves
    /// (`process_unet_state_dict` of these).
    fn respelt(&self, name: &'a str, prefix: &str) -> Cow<'a, str> {
        let (module, other) = match (name.strip_suffix(".scale"), name.strip_suffix(".weight")) {
            (Some(module), _) => (module, "weight"),
            (_, Some(module)) => (module, "scale"),
            _ => return Cow::Borrowed(name),
        };
        if !self.wanted.has_module(module) || self.wanted.has(name) {
            return Cow::Borrowed(name);
        }
        let other = format!("{module}.{other}");
        let taken = || self.stored.find(&format!("{prefix}{other}")).is_some();
        if !self.wanted.has(&other) || taken() {
            return Cow::Borrowed(name);
        }
        Cow::Owned(other)
    }

    /// Whether a name without a prefix is not plainly another component's.
    fn is_own(&self, name: &str) -> bool {
        components::of(name).is_none() || self.wanted.has(name)
    }

    fn candidate(
        &self,
        prefix: &'a str,
        table: Option<&'static Table>,
        tensors: Tensors,
    ) -> Candidate<'a> {
        let mut candidate = Candidate {
            prefix,
            table,
            tensors,
            unused: BTreeSet::new(),
            hits: 0,
            fault: None,
            label: None,
        };
        let first = candidate.used().next().filter(|_| !prefix.is_empty());
        let label = first.and_then(|i| components::of(self.stored.name(i)));
        candidate.label = label;
        candidate.hits = self.hits(&candidate);
        candidate
    }

    /// What was chosen, with the names of all its tensors.
    fn laid_open(&self, candidate: Candidate<'_>) -> Chosen {
        let (mut own, mut laid) = (Vec::new(), Vec::new());
        match candidate.tensors {
            Tensors::Laid(tensors) => laid = tensors,
            Tensors::Own(tensors) => {
                for at in tensors {
                    let to = self.own_name(candidate.prefix, at);
                    let i = at as usize;
                    if to == self.stored.name(i) {
                        own.push(at);
                        continue;
                    }
                    laid.push(Translated {
                        to: to.into_owned(),
                        from: vec![i],
                        op: Op::Copy,
                        shape: self.stored.shape(i).to_vec(),
                    });
                }
            }
        }
        let halves = match candidate.table {
            Some(table) => table.halves.clone(),
            None => diffusers_halves(|n| {
                laid.iter().any(|t| t.to == n)
                    || own.iter().any(|&i| self.stored.name(i as usize) == n)
            }),
        };
        Chosen {
            family: candidate.table.map(|t| t.family.clone()),
            own,
            laid,
            unused: candidate.unused,
            halves,
            label: candidate.label,
        }
    }

    /// Whether a reading that renames is more than a coincidence of a few names (`proj_out.weight`,
    /// `conv_in.weight`): it gives a quarter of what there is to give.
    fn is_likely(&self, candidate: &Candidate<'_>) -> bool {
        let plain = candidate.prefix.is_empty() && candidate.table.is_none();
        let possible = candidate.len().min(self.wanted.len());
        plain || candidate.hits * 4 >= possible
    }

    /// How many of the model's parameters a candidate gives.
    fn hits(&self, candidate: &Candidate<'_>) -> usize {
        let given: BTreeSet<usize> = match &candidate.tensors {
            Tensors::Own(own) => (own.iter())
                .filter_map(|&i| {
                    let count = self.stored.shape(i as usize).iter().product();
                    (self.wanted).fitting(&self.own_name(candidate.prefix, i), count)
                })
                .collect(),
            Tensors::Laid(laid) => (laid.iter())
                .filter_map(|t| self.wanted.fitting(&t.to, t.shape.iter().product()))
                .collect(),
        };
        given.len()
    }

    /// The file is in the first authors' names.
    fn forwards(&self, table: &'static Table) -> Vec<Candidate<'a>> {
        let mut found = Vec::new();
        let is_there = |name: &str| self.stored.find(name).is_some();
        for prefix in table.prefixes(self.stored.names(), is_there) {
            let own: Vec<(usize, &str)> = (0..self.stored.len())
                .filter_map(|i| Some((i, within(prefix, self.stored.name(i))?)))
                .collect();
            let parameters = table.parameters(&own.iter().map(|(_, n)| *n), &std::iter::empty());
            let hits: Vec<(usize, Hit)> = (own.iter())
                .filter_map(|(i, name)| Some((*i, *name, table.translate(name, &parameters)?)))
                .filter(|(_, name, hit)| !table.is_unused(name) || self.wanted.has(&hit.to[0]))
                .map(|(i, _, hit)| (i, hit))
                .collect();
            let read = |left_out: &str| -> Candidate<'a> {
                let (mut tensors, mut fault) = (Vec::new(), None);
                for (i, hit) in &hits {
                    match self.laid_out(*i, hit, left_out) {
                        Ok(several) => tensors.extend(several),
                        Err(e) => fault = fault.or(Some(e)),
                    }
                }
                let mut candidate = self.candidate(prefix, Some(table), Tensors::Laid(tensors));
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
        let own = self.stored.shape(i);
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
            return Ok(match (hit.turn, own) {
                (Turn::SwapHalves, [rows, ..]) if rows % 2 == 0 => {
                    one(Op::SwapHalves, own.to_vec())
                }
                (Turn::SwapHalves, _) => return Err(self.uncut(i, 2)),
                (Turn::Transpose, &[a, b]) => one(Op::Transpose, vec![b, a]),
                (Turn::Linear, &[out, input, 1, 1]) => one(Op::Reshape, vec![out, input]),
                _ => one(Op::Copy, own.to_vec()),
            });
        }
        let rows = own.first().copied().unwrap_or(0);
        let inner = own.get(1..).unwrap_or(&[]);
        let heights = self.heights(&to, inner.iter().product(), rows);
        let parts: usize = hit.heights.iter().sum();
        // The model's heights count before the table's proportions: an MLP may have any width.
        let heights = match heights {
            Some(heights) => heights,
            None if rows % parts == 0 => hit.heights.iter().map(|h| h * (rows / parts)).collect(),
            None => return Err(self.uncut(i, parts)),
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

    fn uncut(&self, i: usize, parts: usize) -> Error {
        Error::Uncut {
            path: self.path.to_owned(),
            tensor: self.stored.source_name(i).to_owned(),
            shape: self.stored.shape(i).to_vec(),
            parts,
        }
    }

    /// Stable Diffusion 3's CLIP-L has no projection in the file: readers put the unit matrix
    /// there.
    fn add_identities(&self, table: &Table, prefix: &str, candidate: &mut Candidate<'_>) {
        let Tensors::Laid(tensors) = &mut candidate.tensors else {
            return;
        };
        for (to, like) in table.identities() {
            let there = tensors.iter().any(|t| t.to == to);
            let width = (self.stored.find(&format!("{prefix}{like}")))
                .and_then(|i| self.stored.shape(i).first().copied());
            let Some(n) = width.filter(|_| !there && prefix.contains("clip_l.")) else {
                continue;
            };
            if self.wanted.fitting(&to, n * n).is_some() {
                tensors.push(Translated {
                    to,
                    from: Vec::new(),
                    op: Op::Identity,
                    shape: vec![n, n],
                });
            }
        }
        candidate.hits = self.hits(candidate);
    }

    /// The model is in the first authors' names and the file in diffusers'.
    fn backwards(&self, table: &'static Table) -> Vec<Candidate<'a>> {
        let theirs = self.wanted.names().flat_map(endings_of).collect::<Vec<_>>();
        let ours = self.stored.names().flat_map(endings_of);
        let parameters = table.parameters(&theirs.into_iter(), &ours);
        // The longest ending that the table knows is the parameter; a shorter one may be a module inside another.
        let known = |name| {
            let mut endings = endings_of(name);
            endings.find_map(|ending| Some((ending, table.translate(ending, &parameters)?)))
        };
        let hits: Vec<(&str, Hit)> = self.wanted.names().filter_map(known).collect();
        let under = self.ending_with(hits.iter().map(|(_, hit)| hit.to[0].as_str()));
        let mut best: BTreeMap<&str, Vec<Translated>> = BTreeMap::new();
        for (ending, hit) in &hits {
            for &prefix in under.get(hit.to[0].as_str()).into_iter().flatten() {
                let from: Option<Vec<usize>> = (hit.to.iter())
                    .map(|to| self.stored.find(&format!("{prefix}{to}")))
                    .collect();
                if let Some(from) = from {
                    let one = self.put_together(ending, from, hit);
                    best.entry(prefix).or_default().extend(one);
                }
            }
        }
        // Presumed names of one parameter differ by their wrappers, and end the same.
        let candidates = best.into_iter().map(|(prefix, mut tensors)| {
            tensors.sort_by(|a, b| a.to.cmp(&b.to));
            tensors.dedup_by(|a, b| a.to == b.to);
            self.candidate(prefix, Some(table), Tensors::Laid(tensors))
        });
        candidates.collect()
    }

    /// The prefixes under which the file has names that end so.
    fn ending_with<'n>(
        &self,
        endings: impl Iterator<Item = &'n str>,
    ) -> HashMap<&'n str, Vec<&'a str>> {
        let mut found: HashMap<&str, Vec<&str>> = endings.map(|e| (e, Vec::new())).collect();
        for name in self.stored.names() {
            for ending in endings_of(name) {
                if let Some(prefixes) = found.get_mut(ending) {
                    prefixes.push(&name[..name.len() - ending.len()]);
                }
            }
        }
        found
    }

    fn put_together(&self, to: &str, from: Vec<usize>, hit: &Hit) -> Option<Translated> {
        let shape = self.stored.shape(from[0]);
        let (op, shape) = match (from.len(), hit.turn, shape) {
            (1, Turn::SwapHalves, [rows, ..]) if rows % 2 == 0 => (Op::SwapHalves, shape.to_vec()),
            (1, Turn::SwapHalves, _) => return None,
            (1, Turn::Transpose, &[a, b]) => (Op::Transpose, vec![b, a]),
            (1, Turn::Linear, &[out, input]) => (Op::Reshape, vec![out, input, 1, 1]),
            (1, ..) => (Op::Copy, shape.to_vec()),
            (_, _, [_, inner @ ..]) => {
                let first = self.stored.dtype(from[0]);
                let alike = |&i: &usize| {
                    self.stored.dtype(i) == first && self.stored.shape(i).get(1..) == Some(inner)
                };
                if !from.iter().all(alike) {
                    return None;
                }
                let rows = from.iter().map(|&i| self.stored.shape(i)[0]).sum();
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

/// How many prefixes of names as they are are tried.
const PREFIXES: usize = 12;
