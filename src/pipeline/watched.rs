//! A checkpoint that says how far its reading has come.

use crate::mapping::Checkpoint;
use crate::tensor::{Digest, Dtype, Tensor, TensorView};
use crate::watch::{Event, Watch};
use crate::weights::layouts::View;

/// A view whose digests are reported as they are computed.
pub(super) struct Watched<'a> {
    view: &'a View,
    watch: &'a dyn Watch,
}

impl<'a> Watched<'a> {
    /// Begins the step `step`, which ends with [`Event::End`].
    pub fn begin(view: &'a View, step: &str, watch: &'a dyn Watch) -> Watched<'a> {
        let length = |name| {
            let (dtype, shape) = view.describe(name)?;
            dtype.bytes_for(shape.iter().product())
        };
        watch.event(Event::BeginBytes {
            step,
            bytes: view.names().filter_map(length).map(|n| n as u64).sum(),
        });
        Watched { view, watch }
    }
}

impl Checkpoint for Watched<'_> {
    fn names(&self) -> Vec<&str> {
        self.view.names().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.view.get(name)
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.view.describe(name)
    }

    fn read(&self, name: &str) -> Option<Tensor> {
        self.view.read(name)
    }

    fn digests(&self, names: &[&str]) -> Vec<Option<Digest>> {
        let advance = |bytes| self.watch.event(Event::Advance(bytes));
        self.view.digests(names, advance)
    }
}
