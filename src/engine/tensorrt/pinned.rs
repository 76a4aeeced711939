//! What stays in full precision where a build may use half of it: what the user names, and the arguments of sines and cosines.
//!
//! A timestep of 962 times a frequency of 1 is a phase of 962 radians, and half precision has no number between 961.5 and 962.5:
//! the sine of what is left of it is far off. So says the arithmetic, and so it is seen (docs/gpu): TensorRT 8.6, allowed fp16,
//! computes a diffusion transformer's timestep embedding in it whenever that is faster by a hair, and the outputs are wrong by
//! 3 %. Such phases are computed from the model's inputs alone and cost next to nothing, so they are pinned to f32. Sines of
//! activations (whose arguments come out of layers in half precision anyway) are left to the library.

use super::Product;
use super::api::Network;
use crate::engine::Error;
use crate::onnx::Model;
use crate::tensor::Dtype;
use glob::Pattern;
use std::collections::{HashMap, HashSet};

/// Operators through which an argument is followed back to the inputs: they combine, move or look up single elements, or
/// multiply by a matrix of frequencies.
const FOLLOWED: &[&str] = &[
    "Abs",
    "Add",
    "Cast",
    "Ceil",
    "Concat",
    "ConstantOfShape",
    "CumSum",
    "Div",
    "Einsum",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Gemm",
    "Identity",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Pow",
    "Range",
    "Reciprocal",
    "Reshape",
    "Round",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Values of `model` that sines and cosines of the inputs are computed from, with those sines and cosines themselves.
fn phases(model: &Model) -> HashSet<&str> {
    let nodes = &model.proto().graph.node;
    let producers: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(i, n)| n.output.iter().map(move |o| (o.as_str(), i)))
        // An output that is left out has no name, and neither has an input: they are not the same value.
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let mut found = HashSet::new();
    for sine in nodes.iter().filter(|n| is_sine(&n.op_type)) {
        let mut chain: HashSet<&str> = sine.output.iter().map(String::as_str).collect();
        let mut open: Vec<&str> = sine.input.iter().map(String::as_str).collect();
        let mut of_inputs = true;
        while let Some(value) = open.pop() {
            let Some(&producer) = producers.get(value) else {
                continue; // an input, an initializer, or nothing
            };
            let node = &nodes[producer];
            if node.op_type == "Constant" || !chain.insert(value) {
                continue;
            }
            // A sine of a sine is a network of them, not a phase.
            of_inputs &= FOLLOWED.contains(&node.op_type.as_str()) && !is_sine(&node.op_type);
            open.extend(node.input.iter().map(String::as_str));
        }
        if of_inputs {
            found.extend(chain);
        }
    }
    found
}

fn is_sine(operator: &str) -> bool {
    matches!(operator, "Sin" | "Cos")
}

/// What the nodes make whose names match; an error is the first pattern that none does.
fn named<'m, 'p>(
    model: &'m Model,
    patterns: &'p [Pattern],
) -> Result<HashSet<&'m str>, &'p Pattern> {
    let nodes = &model.proto().graph.node;
    let mut found = HashSet::new();
    for pattern in patterns {
        let mut matching = nodes.iter().filter(|n| pattern.matches(&n.name)).peekable();
        if matching.peek().is_none() {
            return Err(pattern);
        }
        found.extend(matching.flat_map(|n| n.output.iter().map(String::as_str)));
    }
    Ok(found)
}

/// Pins to f32 the layers that compute phases, and those of the nodes whose names match `wanted`. Tells how many they are.
///
/// # Errors
/// [`Error::Option`] for a pattern that matches nothing; otherwise only those of a library whose answers are odd.
pub(super) fn pin(network: &Network, model: &Model, wanted: &[Pattern]) -> Result<usize, Error> {
    let mut kept = phases(model);
    kept.extend(named(model, wanted).map_err(|pattern| {
        let first = model.proto().graph.node.first();
        let such = first.map_or(String::new(), |n| format!(", such as `{}`", n.name));
        Error::Option {
            backend: Product::TensorRt.backend().into(),
            option: format!("f32-layers={pattern}"),
            reason: format!("no node has a name like it; names are those of the ONNX file{such}"),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::testing;

    fn of(nodes: Vec<onnx_protobuf::NodeProto>) -> Vec<String> {
        let graph = onnx_protobuf::GraphProto {
            node: nodes,
            initializer: ["w", "f"]
                .map(|n| testing::f32s(n, &[2], &[1.0, 2.0]))
                .into(),
            ..testing::small().graph.unwrap_or_default()
        };
        let model = testing::open(&testing::model(graph)).unwrap();
        let mut found: Vec<_> = phases(&model).into_iter().map(str::to_owned).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn an_argument_is_followed_to_the_inputs() {
        let found = of(vec![
            testing::node("Cast", &["x"], &["t"]),
            testing::node("Mul", &["t", "f"], &["p"]),
            testing::node("Sin", &["p"], &["s"]),
            testing::node("Cos", &["p"], &["c"]),
            testing::node("Conv", &["x", "w"], &["h"]),
            testing::node("Add", &["s", "c"], &["e"]),
            testing::node("Add", &["e", "h"], &["y"]),
        ]);
        assert_eq!(found, ["c", "p", "s", "t"]);
    }

    #[test]
    fn what_is_left_out_connects_nothing() {
        let found = of(vec![
            testing::node("Dropout", &["x"], &["h", ""]),
            testing::node("Slice", &["x", "f", "f", "", ""], &["p"]),
            testing::node("Sin", &["p"], &["s"]),
            testing::node("Add", &["s", "h"], &["y"]),
        ]);
        assert_eq!(found, ["p", "s"]);
    }

    #[test]
    fn nodes_are_named_by_patterns() {
        let node = |name: &str, output| onnx_protobuf::NodeProto {
            name: name.into(),
            ..testing::node("Relu", &["x"], &[output])
        };
        let graph = onnx_protobuf::GraphProto {
            node: vec![
                node("/a/norm1/Relu", "p"),
                node("/a/norm2/Relu", "q"),
                node("out", "y"),
            ],
            ..testing::small().graph.unwrap_or_default()
        };
        let model = testing::open(&testing::model(graph)).unwrap();
        let named = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|p| Pattern::new(p).unwrap()).collect();
            let found = named(&model, &patterns).map_err(ToString::to_string);
            found.map(|found| found.into_iter().collect::<std::collections::BTreeSet<_>>())
        };
        assert_eq!(named(&[]), Ok([].into()));
        assert_eq!(named(&["*norm?*"]), Ok(["p", "q"].into()));
        assert_eq!(named(&["/a/norm1/*", "*norm*"]), Ok(["p", "q"].into()));
        assert_eq!(named(&["out", "norm"]), Err("norm".into()));
    }

    #[test]
    fn sines_of_activations_are_left_alone() {
        let activation = |operator| {
            of(vec![
                testing::node(operator, &["x", "w"], &["h"]),
                testing::node("Mul", &["h", "f"], &["p"]),
                testing::node("Sin", &["p"], &["y"]),
            ])
        };
        assert!(activation("Conv").is_empty());
        assert!(activation("PRelu").is_empty());
        // A multiplication by frequencies, as for random Fourier features.
        assert_eq!(activation("MatMul"), ["h", "p", "y"]);
        let twice = of(vec![
            testing::node("Sin", &["x"], &["s"]),
            testing::node("MatMul", &["s", "w"], &["h"]),
            testing::node("Sin", &["h"], &["y"]),
        ]);
        assert_eq!(twice, ["s"]);
    }
}
