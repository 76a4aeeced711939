//! A checkpoint in the names of a model: tensors that are laid out from those of the file when they
//! are asked for.

use super::super::finder::Finder;
use super::super::source::{AT_ONCE, Source};
use super::candidate::{self, Chosen, Op, Translated};
use super::components;
use super::error::Error;
use super::storage::{self, Storage};
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
    stored: Storage,
    /// Tensors that are as they are in the file, also by name: their indices, in the order of names.
    own: Vec<u32>,
    finder: Finder,
    /// All others; no name is in both.
    laid: BTreeMap<String, Virtual>,
    components: BTreeMap<String, usize>,
    family: Option<String>,
    part: Option<&'static str>,
}

/// A tensor of a view.
enum Found<'a> {
    /// As it is in the file.
    Own(usize),
    Laid(&'a Virtual),
    /// It is not in the view, and in the file by this name.
    Apart,
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
    let stored = storage::read(source)?;
    let wanted = Wanted::new(wanted);
    let path = storage::path_of(&stored.source);
    let chosen = if wanted.is_empty() {
        None
    } else {
        candidate::choose(&stored, &wanted, component, &path)?
    };
    let mut view = View {
        stored,
        own: Vec::new(),
        finder: Finder::default(),
        laid: BTreeMap::new(),
        components: BTreeMap::new(),
        family: None,
        part: None,
    };
    if view.stored.side > 0 {
        let side = view.stored.side;
        view.components.insert("quantisation".into(), side);
    }
    match chosen {
        None => (0..view.stored.len()).for_each(|i| view.add_own(i)),
        Some(chosen) => view.add(chosen, &wanted)?,
    }
    let View { stored, own, .. } = &mut view;
    own.shrink_to_fit();
    own.sort_by(|&a, &b| stored.name(a as usize).cmp(stored.name(b as usize)));
    Ok(view)
}

impl View {
    /// One of the file's tensors under its own name.
    fn add_own(&mut self, i: usize) {
        if self.stored.is_plain(i) {
            // No file has as many as that.
            self.own.push(u32::try_from(i).unwrap_or(u32::MAX));
            return;
        }
        let tensor = Virtual {
            from: vec![i],
            op: Op::Copy,
            dtype: self.stored.dtype(i),
            shape: self.stored.shape(i).to_vec(),
            bytes: OnceLock::new(),
        };
        self.laid.insert(self.stored.name(i).to_owned(), tensor);
    }

    fn add(&mut self, chosen: Chosen, wanted: &Wanted<'_>) -> Result<(), Error> {
        let mut used = vec![false; self.stored.len()];
        for i in chosen.own {
            used[i as usize] = true;
            self.add_own(i as usize);
        }
        for tensor in chosen.laid {
            for &i in &tensor.from {
                used[i] = true;
            }
            self.add_laid(tensor)?;
        }
        // A file that no table and no prefix of a pipeline knows has no other parts.
        let known = chosen.family.is_some() || chosen.label.is_some();
        // A component that the layout took something of is the model's, and what is left of it is
        // not counted away.
        let own: BTreeSet<&'static str> = (0..self.stored.len())
            .filter(|&i| known && used[i])
            .filter_map(|i| components::of(self.stored.name(i)))
            .collect();
        self.family = chosen.family;
        self.part = chosen.label;
        for i in (0..self.stored.len()).filter(|&i| !used[i]) {
            let name = self.stored.name(i);
            let other = if chosen.unused.contains(&i) {
                Some("unused by this layout")
            } else {
                let no_weight = components::no_weight(name);
                let component = || components::of(name).filter(|c| !own.contains(c));
                (known.then(component).flatten())
                    .or(no_weight)
                    .filter(|_| !wanted.has(name))
            };
            if let Some(component) = other {
                *self.components.entry(component.to_owned()).or_default() += 1;
                continue;
            }
            // Two tensors would be one weight's, and nothing says which where they differ.
            if let Some(other) = self.laid.get(name) {
                if self.is_same(other, i) {
                    continue;
                }
                return Err(self.twice(name.to_owned(), &other.from, &[i]));
            }
            self.add_own(i);
        }
        self.leave_out_halves(&chosen.halves, wanted);
        Ok(())
    }

    fn add_laid(&mut self, tensor: Translated) -> Result<(), Error> {
        let Translated {
            to,
            from,
            op,
            shape,
        } = tensor;
        if let Some(other) = self.laid.get(&to) {
            return Err(self.twice(to, &other.from, &from));
        }
        // A unit matrix has no tensor to take a type from.
        let dtype = from.first().map_or(Dtype::F32, |&i| self.stored.dtype(i));
        let bytes = OnceLock::new();
        let tensor = Virtual {
            from,
            op,
            dtype,
            shape,
            bytes,
        };
        self.laid.insert(to, tensor);
        Ok(())
    }

    /// Whether a tensor of the file is what was laid out of others.
    fn is_same(&self, laid: &Virtual, i: usize) -> bool {
        (laid.dtype, &laid.shape[..]) == (self.stored.dtype(i), self.stored.shape(i))
            && self.computed(laid) == self.stored.bytes(i)
    }

    /// Two tensors of the file that are one.
    fn twice(&self, to: String, first: &[usize], second: &[usize]) -> Error {
        let name = |from: &[usize]| {
            let first = from.first().map(|&i| self.stored.source_name(i).to_owned());
            first.unwrap_or_default()
        };
        Error::Twice {
            path: storage::path_of(&self.stored.source),
            first: name(first),
            second: name(second),
            to,
        }
    }

    /// Leaves out a part that is exported on its own (an autoencoder's encoder) where the model has
    /// none of it.
    fn leave_out_halves(&mut self, halves: &[(String, Vec<String>)], wanted: &Wanted<'_>) {
        for (half, prefixes) in halves {
            let of_half = |name: &str| prefixes.iter().any(|p| name.starts_with(p.as_str()));
            let View {
                stored, own, laid, ..
            } = self;
            let mut names = (laid.keys().map(String::as_str))
                .chain(own.iter().map(|&i| stored.name(i as usize)))
                .filter(|n| of_half(n))
                .peekable();
            if names.peek().is_none() || names.any(|n| wanted.has(n)) {
                continue;
            }
            let before = own.len() + laid.len();
            own.retain(|&i| !of_half(stored.name(i as usize)));
            laid.retain(|name, _| !of_half(name));
            let left_out = before - own.len() - laid.len();
            self.components.insert(half.clone(), left_out);
        }
    }

    /// Sorted. Where neither a table nor a prefix applies, a name is the file's own.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        Names {
            left: self.own.len() + self.laid.len(),
            own: self.own.iter().map(|&i| self.stored.name(i as usize)),
            laid: self.laid.keys().map(String::as_str),
            next: (None, None),
        }
    }

    fn find(&self, name: &str) -> Found<'_> {
        if let Some(tensor) = self.laid.get(name) {
            return Found::Laid(tensor);
        }
        let stored = |at: usize| self.stored.name(self.own[at] as usize);
        let found = self.finder.find(self.own.len(), |at| stored(at).cmp(name));
        found.map_or(Found::Apart, |at| Found::Own(self.own[at] as usize))
    }

    /// Where the bytes of a tensor are, where they are a stretch of the file's.
    fn stretch_of(&self, name: &str) -> Option<Stretch> {
        match self.find(name) {
            Found::Own(i) => Some(self.stored.stretch(i)),
            Found::Laid(tensor) => self.stretch(tensor),
            Found::Apart => self.source().stretch(name),
        }
    }

    /// The tensor of that name, or else the file's own tensor of that name. Stacked rows are views
    /// into the file; what has to be computed is kept for the next time.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let tensor = match self.find(name) {
            Found::Laid(tensor) => tensor,
            Found::Apart => return self.source().get(name),
            Found::Own(i) => {
                return Some(TensorView {
                    dtype: self.stored.dtype(i),
                    shape: self.stored.shape(i),
                    data: self.bytes_at(self.stored.stretch(i)),
                });
            }
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
        let (dtype, shape) = self.describe(name)?;
        let data = match (self.stretch_of(name), self.find(name)) {
            (Some(stretch), _) => {
                let file = &self.source().files()[stretch.file];
                file.map().read(stretch.range)
            }
            (None, Found::Laid(tensor)) => match tensor.bytes.get() {
                Some(kept) => kept.clone(),
                None => self.computed(tensor).into_owned(),
            },
            (None, _) => return None,
        };
        Some(Tensor {
            dtype,
            shape: shape.to_vec(),
            data,
        })
    }

    /// Where the bytes of a tensor are, where the file holds them as they are.
    pub fn place(&self, name: &str) -> Option<(&Map, Range<usize>)> {
        let stretch = self.stretch_of(name)?;
        Some((self.source().files()[stretch.file].map(), stretch.range))
    }

    /// The digest of every tensor of `names`, on all cores; `None` for unknown names. What the file holds as it is, is read past
    /// once and not kept. `done` is told how many bytes were hashed.
    pub fn digests(&self, names: &[&str], done: impl Fn(u64) + Sync) -> Vec<Option<Digest>> {
        let mut digests = Vec::with_capacity(names.len());
        // A place for each of them is more than a digest.
        for names in names.chunks(AT_ONCE) {
            let stretches: Vec<Option<Stretch>> =
                names.iter().map(|name| self.stretch_of(name)).collect();
            let plain: Vec<Stretch> = stretches.iter().flatten().cloned().collect();
            let mut hashed = self.source().hash(&plain, &done).into_iter();
            digests.extend(
                (names.iter().zip(&stretches)).map(|(name, stretch)| match stretch {
                    Some(_) => hashed.next(),
                    None => self.read(name).map(|tensor| {
                        done(tensor.data.len() as u64);
                        Digest::of(&tensor.data)
                    }),
                }),
            );
        }
        digests
    }

    /// As [`View::digests`]; `see` is handed all bytes as well, as [`digests_seeing`] hands them: the index of a name, place and bytes.
    ///
    /// [`digests_seeing`]: crate::tensor::digests_seeing
    pub fn digests_seeing(
        &self,
        names: &[&str],
        see: &(dyn Fn(usize, usize, &[u8]) + Sync),
    ) -> Vec<Option<Digest>> {
        let (mut at, mut plain) = (Vec::new(), Vec::new());
        for (i, name) in names.iter().enumerate() {
            if let Some(stretch) = self.stretch_of(name) {
                at.push(i);
                plain.push(stretch);
            }
        }
        let see_plain = |i: usize, offset: usize, data: &[u8]| see(at[i], offset, data);
        let hashed = self.source().hash_seeing(&plain, see_plain);
        let mut digests: Vec<Option<Digest>> = vec![None; names.len()];
        for (i, digest) in at.iter().zip(hashed) {
            digests[*i] = Some(digest);
        }
        for (i, name) in names.iter().enumerate() {
            if digests[i].is_none()
                && let Some(tensor) = self.read(name)
            {
                see(i, 0, &tensor.data);
                digests[i] = Some(Digest::of(&tensor.data));
            }
        }
        digests
    }

    /// Element type and shape of a tensor, without laying it out.
    pub fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        match self.find(name) {
            Found::Own(i) => Some((self.stored.dtype(i), self.stored.shape(i))),
            Found::Laid(tensor) => Some((tensor.dtype, &tensor.shape)),
            Found::Apart => self.source().describe(name),
        }
    }

    /// The file's tensors that a tensor is made of, scales included; empty for a unit matrix and
    /// for an unknown name.
    pub fn sources_of(&self, name: &str) -> Vec<&str> {
        let own;
        let from = match self.find(name) {
            Found::Own(i) => {
                own = [i];
                &own[..]
            }
            Found::Laid(tensor) => &tensor.from,
            Found::Apart => &[],
        };
        (from.iter())
            .flat_map(|&i| std::iter::once(self.stored.source_name(i)).chain(self.stored.scale(i)))
            .collect()
    }

    /// How a tensor is made of the file's.
    pub fn op_of(&self, name: &str) -> Option<&Op> {
        match self.find(name) {
            Found::Own(_) => Some(&Op::Copy),
            Found::Laid(tensor) => Some(&tensor.op),
            Found::Apart => None,
        }
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
        &self.stored.notes
    }

    pub fn source(&self) -> &Arc<Source> {
        &self.stored.source
    }

    /// Where the bytes are, where they are a stretch of the file's.
    fn stretch(&self, tensor: &Virtual) -> Option<Stretch> {
        let [first] = tensor.from[..] else {
            return None;
        };
        if !self.stored.is_plain(first) {
            return None;
        }
        let mut stretch = self.stored.stretch(first);
        match &tensor.op {
            Op::Copy | Op::Reshape => {}
            // Rows lie one after the other: a part of a stack is a stretch too.
            Op::Rows { from, to } => {
                let total = self
                    .stored
                    .shape(first)
                    .first()
                    .copied()
                    .unwrap_or(1)
                    .max(1);
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
        Some(self.bytes_at(self.stretch(tensor)?))
    }

    fn bytes_at(&self, stretch: Stretch) -> &[u8] {
        &self.source().files()[stretch.file].map()[stretch.range]
    }

    fn computed(&self, tensor: &Virtual) -> Cow<'_, [u8]> {
        let stored = &self.stored;
        let bytes = |i: usize| stored.bytes(tensor.from[i]);
        match &tensor.op {
            Op::Copy | Op::Reshape => bytes(0),
            Op::Rows { from, to } => stored.rows(tensor.from[0], *from, *to),
            Op::SwapHalves => {
                let first = tensor.from[0];
                let rows = stored.shape(first).first().copied().unwrap_or(0);
                let mut bytes = stored.rows(first, rows / 2, rows).into_owned();
                bytes.extend_from_slice(&stored.rows(first, 0, rows / 2));
                Cow::Owned(bytes)
            }
            Op::Transpose => {
                let data = bytes(0);
                let view = TensorView {
                    dtype: stored.dtype(tensor.from[0]),
                    shape: stored.shape(tensor.from[0]),
                    data: &data,
                };
                Cow::Owned(transpose(view).expect("only matrices of whole bytes are turned"))
            }
            Op::Concat => {
                let mut all = Vec::new();
                for i in 0..tensor.from.len() {
                    all.extend_from_slice(&bytes(i));
                }
                Cow::Owned(all)
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

/// Two sorted lists as one.
struct Names<'a, A, B> {
    own: A,
    laid: B,
    /// What was taken off each and not given out yet.
    next: (Option<&'a str>, Option<&'a str>),
    left: usize,
}

impl<'a, A: Iterator<Item = &'a str>, B: Iterator<Item = &'a str>> Iterator for Names<'a, A, B> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let (own, laid) = (
            self.next.0.take().or_else(|| self.own.next()),
            self.next.1.take().or_else(|| self.laid.next()),
        );
        self.left = self.left.saturating_sub(1);
        match (own, laid) {
            (Some(own), Some(laid)) if laid < own => {
                self.next.0 = Some(own);
                Some(laid)
            }
            (Some(own), later) => {
                self.next.1 = later;
                Some(own)
            }
            (None, laid) => laid,
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<'a, A: Iterator<Item = &'a str>, B: Iterator<Item = &'a str>> ExactSizeIterator
    for Names<'a, A, B>
{
}
