//! A checkpoint in the names of a model: tensors that are laid out from those of the file when they
//! are asked for.

use super::super::Source;
use super::candidate::{self, Candidate, Op, Translated};
use super::components;
use super::error::Error;
use super::storage::{self, Stored};
use super::wanted::Wanted;
use crate::fsx::Map;
use crate::tensor::{Digest, Dtype, Stretch, Tensor, TensorView, transpose};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A checkpoint in the names of a model.
///
/// What is not in the table of the layout keeps its own name, unless it belongs to another part of
/// a pipeline: then it is only counted.
#[derive(Debug)]
pub struct View {
    source: Arc<Source>,
    stored: Vec<Stored>,
    tensors: BTreeMap<String, Virtual>,
    components: BTreeMap<String, usize>,
    family: Option<String>,
    part: Option<&'static str>,
    notes: Vec<String>,
}

/// A tensor that is laid out from others.
#[derive(Debug)]
struct Virtual {
    /// What it is made of, in the order of its rows: indices of [`View::stored`].
    from: Vec<usize>,
    op: Op,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Filled where its bytes are not a stretch of the file's.
    bytes: OnceLock<Vec<u8>>,
}

/// Opens `source` in the names of a model whose parameters are `wanted`: names, under any wrapper,
/// and shapes (of which only the number of elements is used, because graphs hold matrices turned).
/// `component` chooses where several parts of the file fit: the name of a part, or the prefix of
/// its tensors.
///
/// # Errors
/// [`Error`]; a file of another model is none: its tensors keep their names.
pub fn open_in_layout(
    source: Arc<Source>,
    wanted: &[(String, Vec<usize>)],
    component: Option<&str>,
) -> Result<View, Error> {
    let storage = storage::read(&source)?;
    let wanted = Wanted::new(wanted);
    let path = storage::path_of(&source);
    let chosen = if wanted.is_empty() {
        None
    } else {
        candidate::choose(&storage.tensors, &wanted, component, &path)?
    };
    let mut view = View {
        source,
        stored: storage.tensors,
        tensors: BTreeMap::new(),
        components: BTreeMap::new(),
        family: None,
        part: None,
        notes: storage.notes,
    };
    if storage.side > 0 {
        view.components.insert("quantisation".into(), storage.side);
    }
    match chosen {
        None => view.add_all(),
        Some(candidate) => view.add(candidate, &wanted)?,
    }
    Ok(view)
}

impl View {
    /// Every tensor under its own name.
    fn add_all(&mut self) {
        for i in 0..self.stored.len() {
            self.add_plain(i, self.stored[i].name.clone());
        }
    }

    fn add_plain(&mut self, index: usize, name: String) {
        let Stored { dtype, shape, .. } = &self.stored[index];
        let tensor = Virtual {
            from: vec![index],
            op: Op::Copy,
            dtype: *dtype,
            shape: shape.clone(),
            bytes: OnceLock::new(),
        };
        self.tensors.insert(name, tensor);
    }

    fn add(&mut self, candidate: Candidate, wanted: &Wanted<'_>) -> Result<(), Error> {
        let mut used: BTreeSet<usize> = BTreeSet::new();
        for Translated {
            to,
            from,
            op,
            shape,
        } in candidate.tensors
        {
            used.extend(&from);
            // A unit matrix has no tensor to take a type from.
            let dtype = from.first().map_or(Dtype::F32, |&i| self.stored[i].dtype);
            if let Some(other) = self.tensors.get(&to) {
                let name = |from: &[usize]| {
                    from.first()
                        .map_or_else(String::new, |&i| self.stored[i].source.clone())
                };
                return Err(Error::Twice {
                    path: storage::path_of(&self.source),
                    first: name(&other.from),
                    second: name(&from),
                    to,
                });
            }
            let bytes = OnceLock::new();
            self.tensors.insert(
                to,
                Virtual {
                    from,
                    op,
                    dtype,
                    shape,
                    bytes,
                },
            );
        }
        // A file that no table and no prefix of a pipeline knows has no other parts.
        let known = candidate.family.is_some() || candidate.label.is_some();
        // A component that the layout took something of is the model's, and what is left of it is
        // not counted away.
        let own: BTreeSet<&'static str> = (used.iter())
            .filter_map(|&i| components::of(&self.stored[i].name))
            .collect();
        self.family = candidate.family;
        self.part = candidate.label;
        for i in 0..self.stored.len() {
            if used.contains(&i) {
                continue;
            }
            let name = self.stored[i].name.clone();
            let other = if candidate.unused.contains(&i) {
                Some("unused by this layout")
            } else {
                let no_weight = components::no_weight(&name);
                components::of(&name)
                    .filter(|c| known && !own.contains(c))
                    .or(no_weight)
                    .filter(|_| !wanted.has(&name))
            };
            if let Some(component) = other {
                *self.components.entry(component.to_owned()).or_default() += 1;
                continue;
            }
            // Two tensors would be one weight's, and nothing says which.
            if let Some(other) = self.tensors.get(&name) {
                let first = other.from.first();
                return Err(Error::Twice {
                    path: storage::path_of(&self.source),
                    first: first.map_or_else(String::new, |&i| self.stored[i].source.clone()),
                    second: self.stored[i].source.clone(),
                    to: name,
                });
            }
            self.add_plain(i, name);
        }
        self.leave_out_halves(&candidate.halves, wanted);
        Ok(())
    }

    /// Leaves out a part that is exported on its own (an autoencoder's encoder) where the model has
    /// none of it.
    fn leave_out_halves(&mut self, halves: &[(String, Vec<String>)], wanted: &Wanted<'_>) {
        for (half, prefixes) in halves {
            let of_half = |name: &str| prefixes.iter().any(|p| name.starts_with(p.as_str()));
            let names: Vec<String> = (self.tensors.keys())
                .filter(|n| of_half(n))
                .cloned()
                .collect();
            if names.iter().any(|n| wanted.has(n)) {
                continue;
            }
            for name in &names {
                self.tensors.remove(name);
            }
            if !names.is_empty() {
                self.components.insert(half.clone(), names.len());
            }
        }
    }

    /// Sorted. Where neither a table nor a prefix applies, a name is the file's own.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of that name, or else the file's own tensor of that name. Stacked rows are views
    /// into the file; what has to be computed is kept for the next time.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let Some(tensor) = self.tensors.get(name) else {
            return self.source.get(name);
        };
        let data = match self.borrowed(tensor) {
            Some(data) => data,
            None => tensor
                .bytes
                .get_or_init(|| self.computed(tensor).into_owned()),
        };
        Some(TensorView {
            dtype: tensor.dtype,
            shape: &tensor.shape,
            data,
        })
    }

    /// As [`View::get`], as a copy for use once: neither what is computed nor what is read for it is kept, but for f8 tensors and
    /// what is put together from several.
    pub fn read(&self, name: &str) -> Option<Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            return self.source.read(name);
        };
        let data = match self.stretch(tensor) {
            Some(stretch) => {
                let mut data = vec![0; stretch.range.len()];
                let file = &self.source.files()[stretch.file];
                file.map().copy_to(stretch.range.start, &mut data);
                data
            }
            None => match tensor.bytes.get() {
                Some(kept) => kept.clone(),
                None => self.computed(tensor).into_owned(),
            },
        };
        Some(Tensor {
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            data,
        })
    }

    /// Where the bytes of a tensor are, where the file holds them as they are.
    pub fn place(&self, name: &str) -> Option<(&Map, Range<usize>)> {
        let stretch = match self.tensors.get(name) {
            Some(tensor) => self.stretch(tensor),
            None => self.source.stretch(name),
        }?;
        Some((self.source.files()[stretch.file].map(), stretch.range))
    }

    /// The digest of every tensor of `names`, on all cores; `None` for unknown names. What the file holds as it is, is read past
    /// once and not kept. `done` is told how many bytes were hashed.
    pub fn digests(&self, names: &[&str], done: impl Fn(u64) + Sync) -> Vec<Option<Digest>> {
        let stretch = |name: &&str| match self.tensors.get(*name) {
            Some(tensor) => self.stretch(tensor),
            None => self.source.stretch(name),
        };
        let stretches: Vec<Option<Stretch>> = names.iter().map(stretch).collect();
        let plain: Vec<Stretch> = stretches.iter().flatten().cloned().collect();
        let mut hashed = self.source.hash(&plain, &done).into_iter();
        (names.iter().zip(&stretches))
            .map(|(name, stretch)| match stretch {
                Some(_) => hashed.next(),
                None => self.read(name).map(|tensor| {
                    done(tensor.data.len() as u64);
                    Digest::of(&tensor.data)
                }),
            })
            .collect()
    }

    /// Element type and shape of a tensor, without laying it out.
    pub fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let Some(tensor) = self.tensors.get(name) else {
            return self.source.describe(name);
        };
        Some((tensor.dtype, &tensor.shape))
    }

    /// The file's tensors that a tensor is made of, scales included; empty for a unit matrix and
    /// for an unknown name.
    pub fn sources_of(&self, name: &str) -> Vec<&str> {
        let from = self.tensors.get(name).map_or(&[][..], |t| &t.from);
        (from.iter().map(|&i| &self.stored[i]))
            .flat_map(|s| std::iter::once(&s.source).chain(&s.scale))
            .map(String::as_str)
            .collect()
    }

    /// How a tensor is made of the file's.
    pub fn op_of(&self, name: &str) -> Option<&Op> {
        self.tensors.get(name).map(|t| &t.op)
    }

    /// Numbers of tensors that belong to other parts of a pipeline, by part.
    pub fn components(&self) -> &BTreeMap<String, usize> {
        &self.components
    }

    /// The part of a pipeline that was taken, where the names say which.
    pub fn part(&self) -> Option<&'static str> {
        self.part
    }

    /// The family whose table translated the names, if one did.
    pub fn family(&self) -> Option<&str> {
        self.family.as_deref()
    }

    /// What is to be said about the file.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Where the bytes are, where they are a stretch of the file's.
    fn stretch(&self, tensor: &Virtual) -> Option<Stretch> {
        let [from] = tensor.from[..] else {
            return None;
        };
        let stored = &self.stored[from];
        if !stored.is_plain(&self.source) {
            return None;
        }
        let mut stretch = self.source.stretch(&stored.source)?;
        match &tensor.op {
            Op::Copy | Op::Reshape => {}
            // Rows lie one after the other: a part of a stack is a stretch too.
            Op::Rows { from, to } => {
                let total = stored.shape.first().copied().unwrap_or(1).max(1);
                let row = stretch.range.len() / total;
                let start = stretch.range.start;
                stretch.range = start + from * row..start + to * row;
            }
            _ => return None,
        }
        Some(stretch)
    }

    /// The bytes where they are a stretch of the file's.
    fn borrowed(&self, tensor: &Virtual) -> Option<&[u8]> {
        let Stretch { file, range } = self.stretch(tensor)?;
        Some(&self.source.files()[file].map()[range])
    }

    fn computed(&self, tensor: &Virtual) -> Cow<'_, [u8]> {
        let stored = |i: usize| &self.stored[tensor.from[i]];
        match &tensor.op {
            Op::Copy | Op::Reshape => stored(0).bytes(&self.source),
            Op::Rows { from, to } => stored(0).rows(&self.source, *from, *to),
            Op::SwapHalves => {
                let rows = stored(0).shape.first().copied().unwrap_or(0);
                let mut bytes = stored(0).rows(&self.source, rows / 2, rows).into_owned();
                bytes.extend_from_slice(&stored(0).rows(&self.source, 0, rows / 2));
                Cow::Owned(bytes)
            }
            Op::Transpose => {
                let bytes = stored(0).bytes(&self.source);
                let view = TensorView {
                    dtype: stored(0).dtype,
                    shape: &stored(0).shape,
                    data: &bytes,
                };
                Cow::Owned(transpose(view).expect("only matrices of whole bytes are turned"))
            }
            Op::Concat => {
                let mut bytes = Vec::new();
                for i in 0..tensor.from.len() {
                    bytes.extend_from_slice(&stored(i).bytes(&self.source));
                }
                Cow::Owned(bytes)
            }
            Op::Identity => {
                let n = tensor.shape[0];
                let mut values = vec![0f32; n * n];
                for i in 0..n {
                    values[i * n + i] = 1.0;
                }
                Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
        }
    }
}
