//! Where values come from: the tensors of a checkpoint, and what the ONNX file holds.

use super::error::Error;
use super::row::Row;
use crate::onnx::{Model, Weight};
use crate::tensor::TensorView;
use std::borrow::Cow;
use std::collections::HashMap;

/// Named tensors of a checkpoint.
pub trait Checkpoint: Sync {
    /// Every name, in any order.
    fn names(&self) -> Vec<&str>;
    /// One tensor.
    fn get(&self, name: &str) -> Option<TensorView<'_>>;
}

impl Checkpoint for crate::weights::Source {
    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.get(name)
    }
}

impl Checkpoint for crate::weights::layouts::View {
    fn names(&self) -> Vec<&str> {
        self.names().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.get(name)
    }
}

/// The values that an ONNX file (or an unrefitted plan) holds.
pub trait Held: Sync {
    /// The bytes of the weight with this ONNX name.
    fn held(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// A model's own values, by name.
pub struct ModelValues<'a> {
    model: &'a Model,
    index: HashMap<&'a str, &'a Weight>,
}

impl<'a> ModelValues<'a> {
    /// Indexes the weights of `model`.
    pub fn of(model: &'a Model) -> Self {
        let index = model.weights().iter().map(|w| (w.name.as_str(), w));
        ModelValues {
            model,
            index: index.collect(),
        }
    }
}

impl Held for ModelValues<'_> {
    fn held(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        Some(self.model.bytes(self.index.get(name)?))
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
