//! Nodes that the embedded engine would compute differently from ONNX, written with operators that it computes right.
//!
//! Definitions: <https://github.com/onnx/onnx/blob/main/docs/Operators.md> and `Changelog.md` beside it.

use super::proto::{
    Names, attribute, float_scalar, input, int, ints, node, remove, set_int, set_ints, string,
    subgraphs,
};
use super::recurrent::recurrent;
use super::site::{Rewritten, Site};
use crate::tensor::Dtype;
use onnx_protobuf::{GraphProto, NodeProto};
use std::collections::HashSet;

/// `original` as the engine computes it right; unchanged where it already does.
pub fn rewrite(original: &NodeProto, site: &mut Site<'_>) -> Rewritten {
    let mut out = Rewritten::default();
    match original.op_type.as_str() {
        "ArgMax" | "ArgMin" => arg_reduce(original, site, &mut out),
        "AveragePool" | "Conv" | "ConvTranspose" | "MaxPool" => window(original, site, &mut out),
        "Cast" | "CastLike" => cast(original, site, &mut out),
        "Div" => div(original, site, &mut out),
        "Dropout" => dropout(original, site, &mut out),
        "GRU" | "LSTM" | "RNN" => recurrent(original, site, &mut out),
        "GroupNormalization" => group_norm(original, site, &mut out),
        "LayerNormalization" => layer_norm(original, site, &mut out),
        "LogSoftmax" | "Softmax" if site.opset < 13 => old_softmax(original, site, &mut out),
        "MatMul" => matmul(original, site, &mut out),
        "Pow" => pow(original, site, &mut out),
        "QuantizeLinear" => quantize(original, site, &mut out),
        "Sign" => sign(original, site, &mut out),
        "Squeeze" | "Unsqueeze" => axes(original, site, &mut out),
        _ => out.nodes.push(original.clone()),
    }
    out
}

/// ONNX wants the first of equal extremes, the engine gives the last: looked for in the reversed axis,
/// `first = extent - 1 - last_of_reversed`. (A NaN counts as the extreme, as in `NumPy`; which one of several is not defined.)
fn arg_reduce(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut inner = original.clone();
    remove(&mut inner, "select_last_index");
    if int(original, "select_last_index").unwrap_or(0) != 0 {
        out.nodes.push(inner);
        return;
    }
    let (data, result) = (original.input[0].as_str(), original.output[0].as_str());
    let axis = int(original, "axis").unwrap_or(0);
    // Ties are the rule where CLIP looks for the end of its text: tokenizers pad with that very
    // token.
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

/// The engine divides by a single float by multiplying with its reciprocal, so that 41 / 41 is a little less than 1. That is
/// a rounding error like others, except before a step function.
fn div(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let divisor = site.facts.input(original, 1);
    let many = divisor
        .shape
        .is_some_and(|s| s.iter().any(|d| d.is_some_and(|d| d > 1)));
    let float = divisor.dtype.is_some_and(Dtype::is_float);
    if !float || many || !site.stepped.contains(&original.output[0]) {
        out.nodes.push(original.clone());
        return;
    }
    let [a, b] = [0, 1].map(|i| original.input[i].clone());
    divide_exactly(&a, &b, &original.output[0], site, out);
}

/// A division whose divisor never has a single element: both sides are laid flat with a 1 behind.
fn divide_exactly(a: &str, b: &str, result: &str, site: &mut Site<'_>, out: &mut Rewritten) {
    let flat = site.constant(out, &[1], &[-1]);
    let first = site.constant(out, &[1], &[0]);
    let [one, sum, shape, quotients, wanted] =
        ["one", "sum", "shape", "quotients", "wanted"].map(|s| site.names.fresh(s));
    let mut constant = float_scalar(&one, 1.0);
    constant.dims = vec![1];
    out.constants.push(constant);
    out.nodes.extend([
        node("Add", &[a, b], &[&sum]),
        node("Shape", &[&sum], &[&shape]),
    ]);
    let [a, b] = [a, b].map(|side| {
        let [wide, line, longer] = ["wide", "line", "longer"].map(|s| site.names.fresh(s));
        let mut concat = node("Concat", &[&line, &one], &[&longer]);
        set_int(&mut concat, "axis", 0);
        out.nodes.extend([
            node("Expand", &[side, &shape], &[&wide]),
            node("Reshape", &[&wide, &flat], &[&line]),
            concat,
        ]);
        longer
    });
    let mut back = node("Reshape", &[&wanted, &shape], &[result]);
    // In a shape that was read off a tensor 0 means 0, not the extent of the input.
    set_int(&mut back, "allowzero", 1);
    out.nodes.extend([
        node("Div", &[&a, &b], &[&quotients]),
        node("Slice", &[&quotients, &first, &flat, &first], &[&wanted]),
        back,
    ]);
}

/// The values of `graph` that reach a step function (rounding, comparison, cast) by way of nothing but moves, sums, products
/// and choices: an error in their last bit can become a whole step.
pub fn stepped(graph: &GraphProto) -> HashSet<String> {
    stepped_from(graph, HashSet::new())
}

/// The same for a body of which those in `found` are known to reach one outside.
fn stepped_from(graph: &GraphProto, mut found: HashSet<String>) -> HashSet<String> {
    // Nodes are in the order of computing: who reads a value is seen before who makes it.
    for node in graph.node.iter().rev() {
        let reaches = node.output.iter().any(|o| found.contains(o));
        for inner in subgraphs(node) {
            // Which output of a body becomes which of its node differs by operator; all of them is never too few.
            let results = inner.output.iter().filter(|_| reaches);
            found.extend(stepped_from(
                inner,
                results.map(|o| o.name.clone()).collect(),
            ));
            // What a body is handed is named anew inside.
            if inner.input.iter().any(|i| found.contains(&i.name)) {
                found.extend(node.input.iter().cloned());
            }
        }
        let step = matches!(
            node.op_type.as_str(),
            "Cast"
                | "CastLike"
                | "Ceil"
                | "Equal"
                | "Floor"
                | "Greater"
                | "GreaterOrEqual"
                | "Less"
                | "LessOrEqual"
                | "Mod"
                | "QuantizeLinear"
                | "Round"
                | "Sign"
        );
        let passes = matches!(
            node.op_type.as_str(),
            "Abs"
                | "Add"
                | "Clip"
                | "Concat"
                | "Expand"
                | "Flatten"
                | "Gather"
                | "Identity"
                | "Max"
                | "Min"
                | "Mul"
                | "Neg"
                | "Reshape"
                | "Slice"
                | "Split"
                | "Squeeze"
                | "Sub"
                | "Tile"
                | "Transpose"
                | "Unsqueeze"
                | "Where"
        );
        if step || (passes && reaches) {
            found.extend(node.input.iter().cloned());
        }
    }
    found
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
    // The engine computes what opset 13 says, whatever the model's is.
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

/// Exporters and onnxruntime let a single axis be a scalar, the engine wants a list.
fn axes(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut node_of_list = original.clone();
    if let Some(axes) = input(original, 1)
        && site.facts.get(axes).rank() != Some(1)
    {
        let flat = site.constant(out, &[1], &[-1]);
        let list = site.names.fresh("axes");
        out.nodes.push(node("Reshape", &[axes, &flat], &[&list]));
        node_of_list.input[1] = list;
    }
    out.nodes.push(node_of_list);
}

/// A float to an integer power: the engine wants both of one type.
fn pow(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut power = original.clone();
    let base = site.facts.input(original, 0).dtype;
    let exponent = site.facts.input(original, 1).dtype;
    if let (Some(base), Some(Dtype::I32 | Dtype::I64)) = (base, exponent)
        && base.is_float()
    {
        let float = site.names.fresh("exponent");
        let mut cast = node("Cast", &[&original.input[1]], &[&float]);
        set_int(&mut cast, "to", i64::from(base.onnx()));
        out.nodes.push(cast);
        power.input[1] = float;
    }
    out.nodes.push(power);
}

/// Mean and inverse deviation, where they are wanted, are computed beside it.
fn layer_norm(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut inner = original.clone();
    inner.output.truncate(1);
    out.nodes.push(inner);
    let wanted = |i: usize| original.output.get(i).filter(|o| !o.is_empty());
    let (mean_name, deviation_name) = (wanted(1), wanted(2));
    let Some(rank) = site.facts.input(original, 0).rank() else {
        return;
    };
    if mean_name.is_none() && deviation_name.is_none() {
        return;
    }
    let axis = int(original, "axis").unwrap_or(-1);
    let first = if axis < 0 { axis + rank as i64 } else { axis };
    let axes: Vec<i64> = (first..rank as i64).collect();
    let data = original.input[0].as_str();
    let mean = mean_name
        .cloned()
        .unwrap_or_else(|| site.names.fresh("mean"));
    let reduce = |from: &str, to: &str| {
        let mut reduce = node("ReduceMean", &[from], &[to]);
        set_ints(&mut reduce, "axes", &axes);
        set_int(&mut reduce, "keepdims", 1);
        reduce
    };
    out.nodes.push(reduce(data, &mean));
    if let Some(result) = deviation_name {
        let epsilon = site.names.fresh("epsilon");
        let value = attribute(original, "epsilon").map_or(1e-5, |a| a.f);
        out.constants.push(float_scalar(&epsilon, value));
        let [centred, squares, variance, shifted, deviation] =
            ["centred", "squares", "variance", "shifted", "deviation"].map(|s| site.names.fresh(s));
        out.nodes.extend([
            node("Sub", &[data, &mean], &[&centred]),
            node("Mul", &[&centred, &centred], &[&squares]),
            reduce(&squares, &variance),
            node("Add", &[&variance, &epsilon], &[&shifted]),
            node("Sqrt", &[&shifted], &[&deviation]),
            node("Reciprocal", &[&deviation], &[result]),
        ]);
    }
}

/// Groups become the channels of an instance normalisation; scale and bias are per channel, as opset 21 has them.
fn group_norm(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let groups = int(original, "num_groups").unwrap_or(1).max(1);
    let rank = site.facts.input(original, 0).rank().unwrap_or(3);
    let (data, result) = (original.input[0].as_str(), original.output[0].as_str());
    // A 0 keeps the batch.
    let grouped_shape = site.constant(out, &[3], &[0, groups, -1]);
    let per_channel: Vec<i64> = std::iter::once(-1)
        .chain(std::iter::repeat_n(1, rank.saturating_sub(2)))
        .collect();
    let channel_shape = site.constant(out, &[per_channel.len() as i64], &per_channel);
    let [
        ones,
        zeros,
        shape,
        grouped,
        normal,
        plain,
        scale,
        bias,
        scaled,
    ] = [
        "ones", "zeros", "shape", "grouped", "normal", "plain", "scale", "bias", "scaled",
    ]
    .map(|s| site.names.fresh(s));
    // The operator wants a scale and a bias per channel, which here is a group.
    for (name, value) in [(&ones, 1.0), (&zeros, 0.0)] {
        let mut constant = float_scalar(name, value);
        constant.dims = vec![groups];
        constant.raw_data = constant
            .raw_data
            .repeat(usize::try_from(groups).unwrap_or(1));
        out.constants.push(constant);
    }
    let mut instance = node(
        "InstanceNormalization",
        &[&grouped, &ones, &zeros],
        &[&normal],
    );
    instance
        .attribute
        .extend(attribute(original, "epsilon").cloned());
    out.nodes.extend([
        node("Shape", &[data], &[&shape]),
        node("Reshape", &[data, &grouped_shape], &[&grouped]),
        instance,
        node("Reshape", &[&normal, &shape], &[&plain]),
        node("Reshape", &[&original.input[1], &channel_shape], &[&scale]),
        node("Reshape", &[&original.input[2], &channel_shape], &[&bias]),
        node("Mul", &[&plain, &scale], &[&scaled]),
        node("Add", &[&scaled, &bias], &[result]),
    ]);
}

/// `saturate(round(x / scale) + zero_point)`: the engine multiplies by the reciprocal of the scale, which now and then lands
/// on the other side of a tie.
fn quantize(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let zero_point = input(original, 2);
    let to = zero_point
        .and_then(|z| site.facts.get(z).dtype)
        .unwrap_or(Dtype::U8);
    let shape = along_axis(original, site).map(|dims| {
        let count = dims.len() as i64;
        site.constant(out, &[count], &dims)
    });
    let aligned = |name: &str, nodes: &mut Vec<NodeProto>, names: &mut Names| match &shape {
        None => name.to_owned(),
        Some(shape) => {
            let result = names.fresh("aligned");
            nodes.push(node("Reshape", &[name, shape], &[&result]));
            result
        }
    };
    let scale = aligned(&original.input[1], &mut out.nodes, site.names);
    let [quotient, rounded, clipped] =
        ["quotient", "rounded", "clipped"].map(|s| site.names.fresh(s));
    divide_exactly(&original.input[0], &scale, &quotient, site, out);
    out.nodes.push(node("Round", &[&quotient], &[&rounded]));
    let shifted = match zero_point {
        None => rounded,
        Some(zero_point) => {
            let [float, shifted] = ["float", "shifted"].map(|s| site.names.fresh(s));
            let mut cast = node("Cast", &[zero_point], &[&float]);
            set_int(&mut cast, "to", i64::from(Dtype::F32.onnx()));
            out.nodes.push(cast);
            let float = aligned(&float, &mut out.nodes, site.names);
            out.nodes
                .push(node("Add", &[&rounded, &float], &[&shifted]));
            shifted
        }
    };
    // ONNX saturates here, and says nothing of a `Cast` of what does not fit.
    let (low, high) = if to == Dtype::I8 {
        (-128.0, 127.0)
    } else {
        (0.0, 255.0)
    };
    let [least, most] = ["least", "most"].map(|s| site.names.fresh(s));
    out.constants.push(float_scalar(&least, low));
    out.constants.push(float_scalar(&most, high));
    let mut cast = node("Cast", &[&clipped], &[&original.output[0]]);
    set_int(&mut cast, "to", i64::from(to.onnx()));
    out.nodes
        .extend([node("Clip", &[&shifted, &least, &most], &[&clipped]), cast]);
}

/// The shape that lays one scale per slice along the axis (1 by default); `None` for a scale of the whole tensor.
fn along_axis(original: &NodeProto, site: &Site<'_>) -> Option<Vec<i64>> {
    if let Some([] | [Some(1)]) = site.facts.input(original, 1).shape.as_deref() {
        return None;
    }
    let rank = site.facts.input(original, 0).rank()? as i64;
    let axis = int(original, "axis").unwrap_or(1);
    let axis = if axis < 0 { axis + rank } else { axis };
    let after = usize::try_from(rank - 1 - axis).unwrap_or(0);
    let dims = std::iter::once(-1).chain(std::iter::repeat_n(1, after));
    Some(dims.collect())
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
