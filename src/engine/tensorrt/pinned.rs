//! What stays in f32 where a build may use half precision ([`crate::onnx::keep`] says why), told to TensorRT layer by layer.

use super::Product;
use super::api::Network;
use crate::engine::Error;
use crate::onnx::{Model, keep};
use crate::tensor::Dtype;
use glob::Pattern;
use std::collections::{HashMap, HashSet};

/// Pins to f32 the layers that compute phases, and those of the nodes whose names match `wanted`. Tells how many they are.
///
/// # Errors
/// [`Error::Option`] for a pattern that matches nothing; otherwise only those of a library whose answers are odd.
pub(super) fn pin(network: &Network, model: &Model, wanted: &[Pattern]) -> Result<usize, Error> {
    let mut kept = keep::phases(model);
    kept.extend(keep::named(model, wanted).map_err(|pattern| Error::Option {
        backend: Product::TensorRt.backend().into(),
        option: format!("f32-layers={pattern}"),
        reason: keep::no_such_node(model),
    })?);
    if kept.is_empty() || !network.can_pin() {
        return Ok(0);
    }
    let nodes = &model.proto().graph.node;
    let values: HashMap<&str, &str> = nodes
        .iter()
        .flat_map(|n| n.output.iter().map(|o| (o.as_str(), n.op_type.as_str())))
        .collect();
    let layers = (0..network.layers()?)
        .map(|i| network.layer(i))
        .collect::<Result<Vec<_>, _>>()?;
    let makers: HashMap<&str, usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(i, l)| l.outputs.iter().map(move |o| (o.name.as_str(), i)))
        .collect();
    let mut open: Vec<usize> = kept.iter().filter_map(|v| makers.get(v).copied()).collect();
    let (mut seen, mut pinned) = (HashSet::new(), 0);
    while let Some(index) = open.pop() {
        if !seen.insert(index) {
            continue;
        }
        let layer = &layers[index];
        // One node may be several layers; those between have names of the library's own.
        let inner = layer.inputs.iter().map(|t| t.name.as_str());
        let inner = inner.filter(|name| !values.contains_key(name));
        open.extend(inner.filter_map(|name| makers.get(name).copied()));
        let Some(output) = layer.outputs.first() else {
            continue;
        };
        // What has no inputs is a constant, and whole numbers are exact.
        if output.dtype != Dtype::F32 || layer.inputs.is_empty() {
            continue;
        }
        let casts = values.get(output.name.as_str()) == Some(&"Cast");
        layer.pin(Dtype::F32, !casts)?;
        pinned += 1;
    }
    Ok(pinned)
}
