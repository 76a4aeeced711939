//! Where values come from: the tensors of a checkpoint, and what the ONNX file holds.

use super::error::Error;
use super::row::{Recipe, Row};
use crate::fsx::Map;
use crate::onnx::{Model, Weight};
use crate::tensor::{Digest, Dtype, Stretch, Tensor, TensorView, digests_seeing, look_at};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// Named tensors of a checkpoint.
pub trait Checkpoint: Sync {
    /// Every name, in any order.
    fn names(&self) -> Vec<&str>;

    fn get(&self, name: &str) -> Option<TensorView<'_>>;

    /// Element type and shape of a tensor, without reading it where that can be told.
    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let view = self.get(name)?;
        Some((view.dtype, view.shape))
    }

    /// A copy of one tensor, for use once: what is read for it need not be kept.
    fn read(&self, name: &str) -> Option<Tensor> {
        self.get(name).map(|view| view.to_owned())
    }

    /// The digest of what a weight gets by a derivation, where it was computed before.
    fn laid_out(&self, _weight: &str, _recipe: &Recipe) -> Option<Digest> {
        None
    }

    /// The digest of every tensor of `names`, on all cores.
    fn digests(&self, names: &[&str]) -> Vec<Option<Digest>> {
        let digest = |name: &&str| Some(Digest::of(self.get(name)?.data));
        names.par_iter().map(digest).collect()
    }

    /// As [`Checkpoint::digests`]; `see` is handed all bytes as well, each once: the index of a name, place in its tensor and bytes, in any
    /// order and by several threads. Nothing but the last part of a tensor ends inside of an element.
    fn digests_seeing(&self, names: &[&str], see: &See<'_>) -> Vec<Option<Digest>> {
        let look = |(i, name): (usize, &&str)| {
            let tensor = self.read(name)?;
            see(i, 0, &tensor.data);
            Some(Digest::of(&tensor.data))
        };
        names.par_iter().enumerate().map(look).collect()
    }
}

/// What is shown the bytes of tensors.
pub type See<'s> = dyn Fn(usize, usize, &[u8]) + Sync + 's;

impl Checkpoint for crate::weights::Source {
    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.get(name)
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.describe(name)
    }

    fn read(&self, name: &str) -> Option<Tensor> {
        self.read(name)
    }

    fn digests(&self, names: &[&str]) -> Vec<Option<Digest>> {
        let stretches: Vec<_> = names.iter().map(|n| self.stretch(n)).collect();
        let known: Vec<_> = stretches.iter().flatten().cloned().collect();
        let mut hashed = self.hash(&known, |_| ()).into_iter();
        let digest = |stretch: &Option<_>| stretch.as_ref().and_then(|_| hashed.next());
        stretches.iter().map(digest).collect()
    }
}

impl Checkpoint for crate::weights::layouts::View {
    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.get(name)
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.describe(name)
    }

    fn read(&self, name: &str) -> Option<Tensor> {
        self.read(name)
    }

    fn digests(&self, names: &[&str]) -> Vec<Option<Digest>> {
        self.digests(names, |_| ())
    }

    fn digests_seeing(&self, names: &[&str], see: &See<'_>) -> Vec<Option<Digest>> {
        self.digests_seeing(names, see)
    }
}

/// Tensors of a checkpoint that were read for one derivation, and go with it.
pub(in crate::mapping) struct Loaded(BTreeMap<String, Tensor>);

impl Loaded {
    /// Reads `names`, as far as `checkpoint` has them.
    pub fn of(checkpoint: &dyn Checkpoint, names: &[&str]) -> Loaded {
        let read = |name: &&str| Some(((*name).to_owned(), checkpoint.read(name)?));
        Loaded(names.iter().filter_map(read).collect())
    }

    /// The bytes of one of them.
    pub fn into_bytes(mut self, name: &str) -> Vec<u8> {
        self.0.remove(name).map_or_else(Vec::new, |t| t.data)
    }
}

impl Checkpoint for Loaded {
    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.get(name).map(Tensor::view)
    }
}

/// The values that an ONNX file (or an unrefitted plan) holds.
pub trait Held: Sync {
    /// The bytes of the weight with this ONNX name.
    fn held(&self, name: &str) -> Option<Cow<'_, [u8]>>;

    /// The digest of those bytes, where it is known without reading them.
    fn known(&self, name: &str) -> Option<Digest> {
        let _ = name;
        None
    }

    /// As [`Checkpoint::digests_seeing`]; what is [known](Held::known) is not hashed.
    fn digests_seeing(&self, names: &[&str], see: &See<'_>) -> Vec<Option<Digest>> {
        let look = |(i, name): (usize, &&str)| {
            let bytes = self.held(name)?;
            see(i, 0, &bytes);
            Some(self.known(name).unwrap_or_else(|| Digest::of(&bytes)))
        };
        names.par_iter().enumerate().map(look).collect()
    }
}

/// A model's own values, by name.
pub struct ModelValues<'a> {
    model: &'a Model,
    index: HashMap<&'a str, &'a Weight>,
    digests: HashMap<&'a str, Digest>,
}

impl<'a> ModelValues<'a> {
    /// Indexes the weights of `model`.
    pub fn of(model: &'a Model) -> Self {
        ModelValues::knowing(model, HashMap::new())
    }

    /// As [`ModelValues::of`], with the digests of weights by name.
    pub fn knowing(model: &'a Model, digests: HashMap<&'a str, Digest>) -> Self {
        let index = model.weights().iter().map(|w| (w.name.as_str(), w));
        ModelValues {
            model,
            index: index.collect(),
            digests,
        }
    }
}

impl Held for ModelValues<'_> {
    fn held(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        // Large models: what was compared once is not needed again.
        Some(self.model.read(self.index.get(name)?))
    }

    fn known(&self, name: &str) -> Option<Digest> {
        self.digests.get(name).copied()
    }

    fn digests_seeing(&self, names: &[&str], see: &See<'_>) -> Vec<Option<Digest>> {
        let mut files: Vec<&Map> = Vec::new();
        let mut known_files: HashMap<*const Map, usize> = HashMap::new();
        // What lies in a file as it is, by whether its digest is known.
        let (mut at, mut places) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut digests: Vec<Option<Digest>> = vec![None; names.len()];
        for (i, name) in names.iter().enumerate() {
            let Some(weight) = self.index.get(name) else {
                continue;
            };
            digests[i] = self.known(name);
            if let Some((map, range)) = self.model.place_of(weight) {
                let file = *known_files.entry(map).or_insert_with(|| {
                    files.push(map);
                    files.len() - 1
                });
                let known = usize::from(digests[i].is_some());
                at[known].push(i);
                places[known].push(Stretch { file, range });
                continue;
            }
            let bytes = self.model.read(weight);
            see(i, 0, &bytes);
            digests[i] = digests[i].or_else(|| Some(Digest::of(&bytes)));
        }
        let read = |file: usize, at: usize, into: &mut [u8]| files[file].copy_to(at, into);
        let [new, known] = &at;
        look_at(&places[1], read, |i, offset, data| {
            see(known[i], offset, data);
        });
        let hashed = digests_seeing(&places[0], read, |i, offset, data| {
            see(new[i], offset, data);
        });
        for (i, digest) in new.iter().zip(hashed) {
            digests[*i] = Some(digest);
        }
        digests
    }
}

/// What the ONNX file holds for `row`.
pub(in crate::mapping) fn held_bytes<'h>(
    row: &Row,
    held: &'h dyn Held,
) -> Result<Cow<'h, [u8]>, Error> {
    let bytes = held.held(&row.name).ok_or_else(|| Error::NotHeld {
        weight: row.name.clone(),
    })?;
    if row.dtype.bytes_for(row.count()) != Some(bytes.len()) {
        return Err(Error::length(row, row.dtype, &[bytes.len()]));
    }
    Ok(bytes)
}
