//! Nodes that the embedded engine would compute differently from ONNX, written with operators that it computes right.
//!
//! Definitions: <https://github.com/onnx/onnx/blob/main/docs/Operators.md> and `Changelog.md` beside it.

use super::facts::Facts;
use super::proto::{
    Names, input, int, int_tensor, ints, node, remove, scalar, set_int, set_ints, string,
};
use crate::tensor::Dtype;
use onnx_protobuf::{NodeProto, TensorProto};

/// What a node became: nodes in topological order, and constants that they read.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// The nodes; the last has the outputs of the original.
    pub nodes: Vec<NodeProto>,
    /// New constants.
    pub constants: Vec<TensorProto>,
    /// A value that must have at least two axes when the graph runs.
    pub matrix: Option<String>,
}

/// Where a node is rewritten.
pub struct Site<'a> {
    /// Opset of ONNX's own domain.
    pub opset: i64,
    /// What is known of its inputs.
    pub facts: &'a Facts<'a>,
    /// Source of names.
    pub names: &'a mut Names,
}

impl Site<'_> {
    fn constant(&mut self, out: &mut Rewritten, dims: &[i64], values: &[i64]) -> String {
        let name = self.names.fresh("const");
        out.constants.push(int_tensor(&name, dims, values));
        name
    }

    fn zero(&mut self, out: &mut Rewritten, dtype: Dtype) -> String {
        let name = self.names.fresh("zero");
        out.constants.push(scalar(&name, dtype, 0));
        name
    }
}

/// `original` as the engine computes it right; unchanged where it already does.
pub fn rewrite(original: &NodeProto, site: &mut Site<'_>) -> Rewritten {
    let mut out = Rewritten::default();
    match original.op_type.as_str() {
        "ArgMax" | "ArgMin" => arg_reduce(original, site, &mut out),
        "AveragePool" | "Conv" | "ConvTranspose" | "MaxPool" => window(original, site, &mut out),
        "Cast" | "CastLike" => cast(original, site, &mut out),
        "Dropout" => dropout(original, site, &mut out),
        "LogSoftmax" | "Softmax" if site.opset < 13 => old_softmax(original, site, &mut out),
        "MatMul" => matmul(original, site, &mut out),
        "QuantizeLinear" => quantize(original, site, &mut out),
        "Sign" => sign(original, site, &mut out),
        _ => out.nodes.push(original.clone()),
    }
    out
}

/// ONNX wants the first of equal extremes, the engine gives the last: looked for in the reversed axis,
/// `first = extent - 1 - last_of_reversed`. The same holds for NaN, which both count as the extreme.
fn arg_reduce(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut inner = original.clone();
    remove(&mut inner, "select_last_index");
    if int(original, "select_last_index").unwrap_or(0) != 0 {
        out.nodes.push(inner);
        return;
    }
    let (data, result) = (original.input[0].as_str(), original.output[0].as_str());
    let axis = int(original, "axis").unwrap_or(0);
    let last = site.constant(out, &[1], &[-1]);
    let before_first = site.constant(out, &[1], &[i64::MIN]);
    let axes = site.constant(out, &[1], &[axis]);
    let index = site.constant(out, &[], &[axis]);
    let one = site.constant(out, &[], &[1]);
    let [reversed, found, shape, extent, highest] =
        ["reversed", "found", "shape", "extent", "highest"].map(|s| site.names.fresh(s));
    inner.input = vec![reversed.clone()];
    inner.output = vec![found.clone()];
    out.nodes.extend([
        node(
            "Slice",
            &[data, &last, &before_first, &axes, &last],
            &[&reversed],
        ),
        inner,
        node("Shape", &[data], &[&shape]),
        node("Gather", &[&shape, &index], &[&extent]),
        node("Sub", &[&extent, &one], &[&highest]),
        node("Sub", &[&highest, &found], &[result]),
    ]);
}

/// The engine wants every window attribute spelled out.
fn window(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut node = original.clone();
    let kernel: Option<Vec<i64>> = match ints(original, "kernel_shape") {
        Some(kernel) => Some(kernel.to_vec()),
        None => site.facts.input(original, 1).shape.and_then(|s| {
            s.iter()
                .skip(2)
                .map(|d| d.map(|d| d as i64))
                .collect::<Option<_>>()
        }),
    };
    if let Some(kernel) = kernel {
        let axes = kernel.len();
        set_ints(&mut node, "kernel_shape", &kernel);
        if ints(&node, "strides").is_none() {
            set_ints(&mut node, "strides", &vec![1; axes]);
        }
        let convolution = node.op_type.starts_with("Conv");
        if convolution && ints(&node, "dilations").is_none() {
            set_ints(&mut node, "dilations", &vec![1; axes]);
        }
        let auto = string(&node, "auto_pad").unwrap_or("NOTSET").to_owned();
        if auto == "VALID" || (auto == "NOTSET" && ints(&node, "pads").is_none()) {
            set_ints(&mut node, "pads", &vec![0; 2 * axes]);
        }
        if !auto.starts_with("SAME") {
            remove(&mut node, "auto_pad");
        }
    }
    out.nodes.push(node);
}

/// `CastLike` names its type; a cast to bool is `x != 0` (the engine would truncate 0.5 to 0).
fn cast(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let to = if original.op_type == "CastLike" {
        site.facts.input(original, 1).dtype
    } else {
        int(original, "to").and_then(|code| Dtype::from_onnx(code as i32))
    };
    let from = site.facts.input(original, 0).dtype;
    let (data, result) = (original.input[0].as_str(), original.output[0].as_str());
    match (from, to) {
        (Some(Dtype::Bool), Some(Dtype::Bool)) => {
            out.nodes.push(node("Identity", &[data], &[result]));
        }
        (Some(from), Some(Dtype::Bool)) => {
            let zero = site.zero(out, from);
            let is_zero = site.names.fresh("is_zero");
            out.nodes.extend([
                node("Equal", &[data, &zero], &[&is_zero]),
                node("Not", &[&is_zero], &[result]),
            ]);
        }
        (_, Some(to)) => {
            let mut cast = node("Cast", &[data], &[result]);
            set_int(&mut cast, "to", i64::from(to.onnx()));
            cast.name.clone_from(&original.name);
            out.nodes.push(cast);
        }
        (_, None) => out.nodes.push(original.clone()),
    }
}

/// Outside of training it passes its input on; the mask is all true.
fn dropout(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let data = original.input[0].as_str();
    out.nodes
        .push(node("Identity", &[data], &[&original.output[0]]));
    if let Some(mask) = original.output.get(1).filter(|m| !m.is_empty()) {
        let dtype = site.facts.input(original, 0).dtype.unwrap_or(Dtype::F32);
        let zero = site.zero(out, dtype);
        let truth = site.names.fresh("truth");
        let always = site.names.fresh("always");
        let shape = site.names.fresh("shape");
        out.nodes.extend([
            node("Equal", &[&zero, &zero], &[&truth]),
            node("Shape", &[data], &[&shape]),
            node("Identity", &[&truth], &[&always]),
            node("Expand", &[&always, &shape], &[mask]),
        ]);
    }
}

/// Before opset 13 the axes from `axis` on are one: flattened, computed over the last axis, and shaped back.
fn old_softmax(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let axis = int(original, "axis").unwrap_or(1);
    let rank = site.facts.input(original, 0).rank();
    let mut inner = original.clone();
    set_int(&mut inner, "axis", -1);
    if axis == -1 || rank.is_some_and(|r| axis + 1 == r as i64) {
        out.nodes.push(inner);
        return;
    }
    let (data, result) = (original.input[0].as_str(), original.output[0].as_str());
    let [flat, computed, shape] = ["flat", "computed", "shape"].map(|s| site.names.fresh(s));
    let mut flatten = node("Flatten", &[data], &[&flat]);
    set_int(&mut flatten, "axis", axis);
    inner.input = vec![flat];
    inner.output = vec![computed.clone()];
    let mut back = node("Reshape", &[&computed, &shape], &[result]);
    set_int(&mut back, "allowzero", 1);
    out.nodes
        .extend([node("Shape", &[data], &[&shape]), flatten, inner, back]);
}

/// A product with a vector on the right: the engine leaves an axis too many when the left is a batch.
fn matmul(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let left = site.facts.input(original, 0).rank();
    let right = site.facts.input(original, 1).rank();
    match right {
        Some(1) => {
            let axis = site.constant(out, &[1], &[1]);
            let last = site.constant(out, &[1], &[-1]);
            let [column, product] = ["column", "product"].map(|s| site.names.fresh(s));
            out.nodes.extend([
                node("Unsqueeze", &[&original.input[1], &axis], &[&column]),
                node("MatMul", &[&original.input[0], &column], &[&product]),
                node("Squeeze", &[&product, &last], &[&original.output[0]]),
            ]);
        }
        Some(_) => out.nodes.push(original.clone()),
        None => {
            // Only a batch on the left goes wrong.
            if left.is_none_or(|r| r > 2) {
                out.matrix = Some(original.input[1].clone());
            }
            out.nodes.push(original.clone());
        }
    }
}

/// The default axis is 1, where the engine takes the last.
fn quantize(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut node = original.clone();
    let per_axis = input(original, 1).is_some_and(|s| site.facts.get(s).rank() != Some(0));
    if int(original, "axis").is_none() && per_axis {
        set_int(&mut node, "axis", 1);
    }
    out.nodes.push(node);
}

/// `(x > 0) - (x < 0)`: the engine gives 1 for 0.
fn sign(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let (data, result) = (original.input[0].as_str(), original.output[0].as_str());
    let dtype = site.facts.input(original, 0).dtype.unwrap_or(Dtype::F32);
    let zero = site.zero(out, dtype);
    let [above, below, plus, minus] =
        ["above", "below", "plus", "minus"].map(|s| site.names.fresh(s));
    let to = |input: &str, output: &str| {
        let mut cast = node("Cast", &[input], &[output]);
        set_int(&mut cast, "to", i64::from(dtype.onnx()));
        cast
    };
    out.nodes.extend([
        node("Greater", &[data, &zero], &[&above]),
        node("Less", &[data, &zero], &[&below]),
        to(&above, &plus),
        to(&below, &minus),
        node("Sub", &[&plus, &minus], &[result]),
    ]);
}
