//! Conditions of the operator table that no list of attributes and types expresses. Their texts say why a node is refused.

use super::facts::Facts;
use super::proto::{attribute, input, int, ints, string};
use super::types::Types;
use crate::tensor::Dtype;
use onnx_protobuf::NodeProto;

/// The window of a convolution or pooling must be known and have one or two axes.
pub fn spatial(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    let axes = match ints(node, "kernel_shape") {
        Some(kernel) => Some(kernel.len()),
        None => facts.input(node, 1).rank().and_then(|r| r.checked_sub(2)),
    };
    match axes {
        Some(1 | 2) => {}
        Some(n) => return Err(format!("over {n} spatial axes")),
        None => return Err("neither `kernel_shape` nor the shape of its weight is stated".into()),
    }
    let kernel_known = attribute(node, "kernel_shape").is_some()
        || facts
            .input(node, 1)
            .shape
            .is_some_and(|s| s.iter().skip(2).all(Option::is_some));
    if !kernel_known {
        return Err("neither `kernel_shape` nor the shape of its weight is stated".into());
    }
    Ok(())
}

/// Without axes of its own.
pub fn pad(node: &NodeProto, _: &Facts<'_>) -> Result<(), String> {
    match input(node, 3) {
        None => Ok(()),
        Some(_) => Err("with the input `axes`".into()),
    }
}

/// Over two spatial axes.
pub fn grid_sample(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    match facts.input(node, 0).rank() {
        Some(4) => Ok(()),
        Some(rank) => Err(format!("over {} spatial axes", rank.saturating_sub(2))),
        None => Err("the rank of its input is not known".into()),
    }
}

/// One scale, or one per slice of an axis that can be told.
pub fn quantize(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    match facts.input(node, 1).rank() {
        Some(0) => Ok(()),
        Some(1) => known_rank(node, facts),
        Some(_) => Err("with one scale per block".into()),
        None => Err("the rank of its scale is not known".into()),
    }
}

/// A rewriting needs the rank.
pub fn known_rank(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    match facts.input(node, 0).rank() {
        Some(_) => Ok(()),
        None => Err("the rank of its input is not known".into()),
    }
}

/// The statistics are computed by other operators, which must be told their axes.
pub fn layer_norm(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    if node.output.iter().skip(1).all(String::is_empty) {
        return Ok(());
    }
    known_rank(node, facts)
}

/// Between types that the engine holds.
pub fn cast(node: &NodeProto, _: &Facts<'_>) -> Result<(), String> {
    let to = int(node, "to").and_then(|code| Dtype::from_onnx(i32::try_from(code).ok()?));
    match to {
        Some(dtype) if Types::held(dtype) => Ok(()),
        Some(dtype) => Err(format!(
            "to `{dtype}`, which the embedded engine does not hold"
        )),
        None => Err("to a type that the embedded engine does not hold".into()),
    }
}

/// To a type that is known.
pub fn cast_like(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    match facts.input(node, 1).dtype {
        Some(_) => Ok(()),
        None => Err("the type that it casts to is not known".into()),
    }
}

pub fn dropout(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    match input(node, 2) {
        None => Ok(()),
        Some(_) if facts.input(node, 2).ints.as_deref() == Some(&[0]) => Ok(()),
        Some(_) => Err("in training mode, or `training_mode` is not a constant".into()),
    }
}

/// But for the combination that comes out differently.
pub fn resize(node: &NodeProto, _: &Facts<'_>) -> Result<(), String> {
    if string(node, "mode").unwrap_or("nearest") == "linear"
        && string(node, "coordinate_transformation_mode") == Some("align_corners")
    {
        return Err("linear with `align_corners`".into());
    }
    Ok(())
}
