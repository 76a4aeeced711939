//! What stays in f32 where less may be computed in: what the user names, and the arguments of sines and cosines.
//!
//! A timestep of 962 times a frequency of 1 is a phase of 962 radians, and half precision has no number between 961.5 and 962.5:
//! the sine of what is left of it is far off. So says the arithmetic, and so it is seen (docs/gpu): TensorRT 8.6, allowed fp16,
//! computes a diffusion transformer's timestep embedding in it whenever that is faster by a hair, and the outputs are wrong by
//! 3 %. Such phases are computed from the model's inputs alone and cost next to nothing. Sines of activations (whose arguments
//! come out of layers in half precision anyway) are left to the library.

use super::Model;
use glob::Pattern;
use onnx_protobuf::NodeProto;
use std::collections::{HashMap, HashSet};

/// Operators through which an argument is followed back to the inputs: they combine, move or look up single elements, or
/// multiply by a matrix of frequencies.
const FOLLOWED: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "Cast",
    "Ceil",
    "Concat",
    "ConstantOfShape",
    "CumSum",
    "Div",
    "Einsum",
    "Equal",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Gemm",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
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
    "Xor",
];

/// Values of `model` that sines and cosines of the inputs are computed from, with those sines and cosines themselves.
pub fn phases(model: &Model) -> HashSet<&str> {
    arguments(model, |node| is_sine(&node.op_type))
}

/// Values of `model` from which nodes for which `ends` holds are computed, with what those give: where they come from the
/// inputs, or from extents, by [`FOLLOWED`] alone.
pub(super) fn arguments(model: &Model, ends: impl Fn(&NodeProto) -> bool) -> HashSet<&str> {
    let nodes = &model.proto().graph.node;
    let producers: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(i, n)| n.output.iter().map(move |o| (o.as_str(), i)))
        // An output that is left out has no name, and neither has an input: they are not the same value.
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let mut found = HashSet::new();
    for end in nodes.iter().filter(|n| ends(n)) {
        let mut chain: HashSet<&str> = end.output.iter().map(String::as_str).collect();
        let mut open: Vec<&str> = end.input.iter().map(String::as_str).collect();
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
            // Extents do not depend on the numbers in a tensor.
            if !matches!(node.op_type.as_str(), "Shape" | "Size") {
                open.extend(node.input.iter().map(String::as_str));
            }
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

/// Reads a list of patterns with `*` and `?`, with commas between them.
///
/// # Errors
/// What is wrong with it, in one fragment.
pub fn patterns(list: &str) -> Result<Vec<Pattern>, String> {
    let all = list.split(',').map(|p| {
        let p = p.trim();
        match Pattern::new(p) {
            Ok(pattern) if !p.is_empty() => Ok(pattern),
            Ok(_) => Err("one of its patterns is empty".to_owned()),
            Err(e) => Err(format!("`{p}` is no pattern: {}", e.msg)),
        }
    });
    all.collect()
}

/// What the nodes make whose names match.
///
/// # Errors
/// The first pattern that no node matches.
pub fn named<'m, 'p>(
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

/// Why a pattern that matches nothing is refused.
pub fn no_such_node(model: &Model) -> String {
    let first = model.proto().graph.node.first();
    let such = first.map_or(String::new(), |n| format!(", such as `{}`", n.name));
    format!("no node has a name like it; names are those of the ONNX file{such}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::testing;

    fn of(nodes: Vec<NodeProto>) -> Vec<String> {
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
    fn extents_do_not_depend_on_what_is_in_a_tensor() {
        let found = of(vec![
            testing::node("Conv", &["x", "w"], &["h"]),
            testing::node("Shape", &["h"], &["n"]),
            testing::node("Cast", &["n"], &["t"]),
            testing::node("Mul", &["t", "f"], &["p"]),
            testing::node("Sin", &["p"], &["y"]),
        ]);
        assert_eq!(found, ["n", "p", "t", "y"]);
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
        let node = |name: &str, output| NodeProto {
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
