//! Tests of `role`.

use super::*;
use crate::onnx::testing::{
    constant, f32s, graph, i64s, model, node, open, raw, small, subgraph, with,
};
use onnx_protobuf::{GraphProto, NodeProto, TensorProto};

/// The role of `w` in a graph with these nodes, which read it.
fn role(w: TensorProto, nodes: Vec<NodeProto>) -> Role {
    let others = vec![f32s("one", &[], &[1.0]), i64s("zero", &[1], &[0])];
    role_in(
        graph(&["x"], [vec![w], others].concat(), nodes, &["x"]),
        "w",
    )
}

fn role_in(graph: GraphProto, name: &str) -> Role {
    open(&model(graph))
        .unwrap()
        .weight(name)
        .unwrap()
        .role
        .clone()
}

fn float() -> TensorProto {
    f32s("w", &[1], &[1.0])
}

fn why(role: Role) -> &'static str {
    match role {
        Role::Structural { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn data_inputs_are_weights() {
    for inputs in [
        ("MatMul", ["x", "w"]),
        ("Conv", ["x", "w"]),
        ("Mul", ["x", "w"]),
        ("Pow", ["x", "w"]),
        ("BatchNormalization", ["x", "w"]),
        ("Resize", ["w", ""]),
        ("QuantizeLinear", ["x", "w"]),
        ("PRelu", ["x", "w"]),
    ] {
        let (op, inputs) = inputs;
        assert_eq!(
            role(float(), vec![node(op, &inputs, &["y"])]),
            Role::Weight,
            "{op}"
        );
    }
    let kept = vec![
        node("Transpose", &["w"], &["t"]),
        node("MatMul", &["x", "t"], &["y"]),
    ];
    assert_eq!(role(float(), kept), Role::Weight);
    let constants = graph(
        &["x"],
        vec![],
        vec![constant("c", float()), node("Mul", &["x", "c"], &["y"])],
        &["y"],
    );
    assert_eq!(role_in(constants, "c"), Role::Weight);
}

#[test]
fn baked_inputs_are_structural() {
    for (op, inputs, expected) in [
        ("Clip", &["x", "w"][..], "Clip bound"),
        ("Clip", &["x", "", "w"], "Clip bound"),
        ("Pad", &["x", "zero", "w"], "Pad widths, value or axes"),
        ("Resize", &["x", "", "w"], "Resize region, scales or sizes"),
        ("Range", &["w", "one", "one"], "Range bound or step"),
        ("Dropout", &["x", "w"], "Dropout ratio or mode"),
        ("OneHot", &["x", "zero", "w"], "OneHot depth or values"),
        ("DequantizeLinear", &["x", "one", "w"], "zero point"),
    ] {
        let found = role(float(), vec![node(op, inputs, &["y"])]);
        let input = inputs.iter().position(|i| *i == "w").unwrap();
        let expected = Role::Structural {
            operator: op.into(),
            input,
            why: expected,
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn one_baked_use_is_enough() {
    let nodes = vec![
        node("Mul", &["x", "w"], &["a"]),
        node("Clip", &["x", "w"], &["b"]),
    ];
    assert_eq!(why(role(float(), nodes)), "Clip bound");
}

#[test]
fn values_that_lead_to_a_baked_input_are_structural() {
    // As an exporter writes interpolate(scale_factor=1.5).
    let scaled = vec![
        node("Shape", &["x"], &["s"]),
        node("Cast", &["s"], &["f"]),
        node("Mul", &["f", "w"], &["m"]),
        node("Floor", &["m"], &["r"]),
        node("Cast", &["r"], &["i"]),
        node("Concat", &["i", "zero"], &["sizes"]),
        node("Resize", &["x", "", "", "sizes"], &["y"]),
    ];
    assert_eq!(why(role(float(), scaled)), "Resize region, scales or sizes");
    // Behind Shape only the extents count.
    let shape_of = vec![
        node("Shape", &["w"], &["s"]),
        node("Reshape", &["x", "s"], &["y"]),
    ];
    assert_eq!(role(float(), shape_of), Role::Weight);
}

#[test]
fn integers_are_structural_unless_they_are_quantised_data() {
    let int8 = || raw("w", 3, &[4], vec![1, 2, 3, 4]);
    let quantised = |op: &str, inputs: &[&str]| role(int8(), vec![node(op, inputs, &["y"])]);
    assert_eq!(quantised("DequantizeLinear", &["w", "one"]), Role::Weight);
    assert_eq!(quantised("MatMulInteger", &["x", "w"]), Role::Weight);
    let linear = ["x", "one", "zero", "w", "one", "zero", "one", "zero"];
    assert_eq!(quantised("QLinearConv", &linear), Role::Weight);
    assert_eq!(
        why(quantised("MatMulInteger", &["x", "x", "w"])),
        "zero point"
    );
    assert_eq!(why(quantised("Add", &["x", "w"])), INTEGER);
    let transposed =
        |reader: NodeProto| role(int8(), vec![node("Transpose", &["w"], &["t"]), reader]);
    let dequantise = node("DequantizeLinear", &["t", "one"], &["y"]);
    assert_eq!(transposed(dequantise), Role::Weight);
    assert_eq!(why(transposed(node("Add", &["x", "t"], &["y"]))), INTEGER);
    let mixed = vec![
        node("DequantizeLinear", &["w", "one"], &["y"]),
        node("Add", &["x", "w"], &["z"]),
    ];
    assert_eq!(why(role(int8(), mixed)), INTEGER);
    assert_eq!(
        why(role(
            i64s("w", &[1], &[4]),
            vec![node("Gather", &["x", "w"], &["y"])]
        )),
        INTEGER
    );
    let reshape = vec![node("Reshape", &["x", "w"], &["y"])];
    assert_eq!(why(role(i64s("w", &[1], &[4]), reshape)), "Reshape target");
}

#[test]
fn what_nothing_reads_is_unused() {
    assert_eq!(role(float(), vec![]), Role::Unused);
    let output = graph(&["x"], vec![float()], vec![], &["w"]);
    assert_eq!(role_in(output, "w"), Role::Weight);
    let integers = graph(&["x"], vec![i64s("w", &[1], &[1])], vec![], &["w"]);
    assert_eq!(why(role_in(integers, "w")), INTEGER);
}

#[test]
fn roles_are_followed_into_subgraphs() {
    let branch = |reader: NodeProto| graph(&[], vec![], vec![reader], &["b"]);
    let conditional = |reader: NodeProto| {
        let node = with(
            node("If", &["x"], &["y"]),
            subgraph("then_branch", branch(reader)),
        );
        role(float(), vec![node])
    };
    assert_eq!(conditional(node("Mul", &["x", "w"], &["b"])), Role::Weight);
    assert_eq!(
        why(conditional(node("Clip", &["x", "w"], &["b"]))),
        "Clip bound"
    );

    // w is the state of a loop, and becomes the bound of a Clip in the second iteration, through another state.
    let body = graph(
        &["i", "c", "first", "second"],
        vec![],
        vec![
            node("Clip", &["x", "second"], &["z"]),
            node("Identity", &["c"], &["more"]),
            node("Identity", &["first"], &["next"]),
        ],
        &["more", "first", "next", "z"],
    );
    let looped = with(
        node("Loop", &["", "x", "w", "one"], &["l1", "l2", "l3"]),
        subgraph("body", body),
    );
    assert_eq!(why(role(float(), vec![looped])), "Clip bound");
}

#[test]
fn names_inside_subgraphs_are_unique() {
    let branch = |op: &str| {
        graph(
            &[],
            vec![
                f32s("k", &[], &[1.0]),
                f32s(&format!("only{op}"), &[], &[1.0]),
            ],
            vec![node(op, &["x", "k"], &["b"])],
            &["b"],
        )
    };
    let conditional = with(
        with(
            node("If", &["x"], &["y"]),
            subgraph("then_branch", branch("Mul")),
        ),
        subgraph("else_branch", branch("Clip")),
    );
    let m = open(&model(graph(
        &["x"],
        vec![f32s("k", &[], &[2.0])],
        vec![node("Mul", &["x", "k"], &["z"]), conditional],
        &["y"],
    )))
    .unwrap();
    let found: Vec<&str> = m.weights().iter().map(|w| w.name.as_str()).collect();
    assert_eq!(
        found,
        [
            "k",
            "y/then_branch::k",
            "onlyMul",
            "y/else_branch::k",
            "onlyClip"
        ]
    );
    assert_eq!(m.weights()[1].role, Role::Weight);
    assert_eq!(why(m.weights()[3].role.clone()), "Clip bound");
}

#[test]
fn the_small_model() {
    let m = open(&small()).unwrap();
    let roles: Vec<(&str, bool)> = m
        .weights()
        .iter()
        .map(|w| (w.name.as_str(), w.role == Role::Weight))
        .collect();
    assert_eq!(
        roles,
        [("w", true), ("b", true), ("low", false), ("high", false)]
    );
}
