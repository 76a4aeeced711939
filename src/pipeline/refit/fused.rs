//! The checkpoint that LoRAs make of the one below them: it is judged against the base as any other, so that a change of one tensor is
//! refused where a weight stands for another one, too.

use crate::mapping::{self, Checkpoint, Inventory};
use crate::tensor::{Digest, Dtype, Tensor, TensorView};
use crate::weights::layouts::View;
use crate::weights::lora::Fusion;
use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

/// What reads a tensor.
type Read<'o> = dyn Fn(&str) -> Option<Tensor> + Sync + 'o;

/// Tensors of the base weights, or of the file that the LoRAs are put over, those that they change with their new values.
pub(super) struct Fused<'o> {
    over: Option<&'o View>,
    /// What the base weights hold; their files need not be at hand.
    base: HashMap<&'o str, &'o mapping::SourceTensor>,
    fusion: &'o Fusion,
    /// By name here: what the LoRAs call it.
    changed: BTreeMap<&'o str, &'o str>,
    /// A changed tensor before it changes, by name here.
    before: Box<Read<'o>>,
    /// Weights that were laid out by a derivation, and the digests of what came of it.
    laid_out: HashMap<&'o str, (&'o mapping::Recipe, Digest)>,
    /// Those that were asked for to be kept.
    kept: HashMap<&'o str, OnceLock<Option<Tensor>>>,
}

impl<'o> Fused<'o> {
    pub(super) fn new(
        over: Option<&'o View>,
        inventory: &'o Inventory,
        fusion: &'o Fusion,
        changed: BTreeMap<&'o str, &'o str>,
        before: impl Fn(&str) -> Option<Tensor> + Sync + 'o,
        laid_out: HashMap<&'o str, (&'o mapping::Recipe, Digest)>,
    ) -> Fused<'o> {
        Fused {
            over,
            base: (inventory.tensors.iter())
                .map(|t| (t.name.as_str(), t))
                .collect(),
            fusion,
            kept: changed
                .keys()
                .map(|name| (*name, OnceLock::new()))
                .collect(),
            changed,
            before: Box::new(before),
            laid_out,
        }
    }

    /// A changed tensor with its new values; `None` for any other, and where it cannot be fused.
    fn fuse(&self, name: &str) -> Option<Tensor> {
        let known = self.changed.get(name)?;
        let before = (self.before)(name)?;
        let data = self.fusion.fuse(known, before.view()).ok()?;
        Some(Tensor { data, ..before })
    }
}

impl Checkpoint for Fused<'_> {
    fn names(&self) -> Vec<&str> {
        match self.over {
            Some(over) => over.names().collect(),
            None => self.base.keys().copied().collect(),
        }
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        match self.kept.get(name) {
            Some(kept) => (kept.get_or_init(|| self.fuse(name)).as_ref()).map(Tensor::view),
            None => Checkpoint::get(self.over?, name),
        }
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        match self.over {
            Some(over) => Checkpoint::describe(over, name),
            None => self.base.get(name).map(|t| (t.dtype, t.shape.as_slice())),
        }
    }

    fn read(&self, name: &str) -> Option<Tensor> {
        if self.changed.contains_key(name) {
            self.fuse(name)
        } else {
            Checkpoint::read(self.over?, name)
        }
    }

    /// Of a changed tensor some digest that no other has: what weights get of it is known by [`Checkpoint::laid_out`], and most are laid out
    /// in another way than the tensor.
    fn digests(&self, names: &[&str]) -> Vec<Option<Digest>> {
        let rest: Vec<&str> = (names.iter().copied())
            .filter(|name| !self.changed.contains_key(name))
            .collect();
        let known = |name: &&str| self.base.get(name).map(|t| t.digest);
        let mut rest = match self.over {
            Some(over) => Checkpoint::digests(over, &rest),
            None => rest.iter().map(known).collect(),
        }
        .into_iter();
        let of_name = |name: &str| Digest::of(format!("fused: {name}").as_bytes());
        let digest = |name: &&str| {
            let is_changed = self.changed.contains_key(name);
            if is_changed {
                Some(of_name(name))
            } else {
                rest.next().flatten()
            }
        };
        names.iter().map(digest).collect()
    }

    fn laid_out(&self, weight: &str, recipe: &mapping::Recipe) -> Option<Digest> {
        let (known, digest) = self.laid_out.get(weight)?;
        (*known == recipe).then_some(*digest)
    }
}
