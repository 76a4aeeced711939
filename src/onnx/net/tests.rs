//! Tests of `net`.

use super::*;
use crate::onnx::testing::{
    constant, f32s, graph, model, node, open, problem, problems, small, subgraph, with,
};
use onnx_protobuf::OperatorSetIdProto;

fn of(nodes: Vec<NodeProto>) -> ModelProto {
    model(graph(&["x"], vec![], nodes, &["y"]))
}

#[test]
fn nodes_may_stand_in_any_order() {
    let mut proto = small();
    proto.graph.as_mut().unwrap().node.reverse();
    open(&proto).unwrap();
}

#[test]
fn names_that_nothing_produces_are_all_listed_with_their_readers() {
    let proto = model(graph(
        &["x"],
        vec![],
        vec![node("Add", &["x", "lost"], &["y"])],
        &["y", "gone"],
    ));
    let found: Vec<String> = problems(&proto).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "in the main graph, Add of `y` reads `lost`, which nothing produces",
            "in the main graph, the list of outputs reads `gone`, which nothing produces",
        ]
    );
}

#[test]
fn values_of_a_subgraph_are_not_visible_outside() {
    let branch = || graph(&[], vec![f32s("in", &[], &[1.0])], vec![], &["in"]);
    let nodes = vec![
        with(
            with(
                node("If", &["x"], &["z"]),
                subgraph("then_branch", branch()),
            ),
            subgraph("else_branch", branch()),
        ),
        node("Add", &["z", "in"], &["y"]),
    ];
    assert!(matches!(problem(&of(nodes)), Problem::NotProduced { name, .. } if name == "in"));
}

#[test]
fn cycles_are_found_also_through_subgraphs() {
    let nodes = vec![
        node("Add", &["x", "y"], &["a"]),
        node("Relu", &["a"], &["y"]),
    ];
    assert!(matches!(problem(&of(nodes)), Problem::Cycle { nodes, .. } if nodes.len() == 2));
    let body = graph(&[], vec![], vec![node("Relu", &["y"], &["b"])], &["b"]);
    let nodes = vec![with(
        node("If", &["x"], &["y"]),
        subgraph("then_branch", body),
    )];
    assert!(matches!(problem(&of(nodes)), Problem::Cycle { nodes, .. } if nodes == ["If of `y`"]));
}

#[test]
fn values_produced_twice_are_refused() {
    let relu = || node("Relu", &["x"], &["y"]);
    assert!(
        matches!(problem(&of(vec![relu(), relu()])), Problem::ProducedTwice { name, .. } if name == "y")
    );
    let over_input = vec![relu(), node("Relu", &["y"], &["x"])];
    assert!(
        problems(&of(over_input))
            .iter()
            .any(|p| matches!(p, Problem::ProducedTwice { name, .. } if name == "x"))
    );
    let twins = model(graph(&["x", "x"], vec![], vec![relu()], &["y"]));
    assert!(matches!(problem(&twins), Problem::ProducedTwice { .. }));
    let doubled = model(graph(
        &["x"],
        vec![f32s("w", &[], &[1.0]), f32s("w", &[], &[2.0])],
        vec![relu()],
        &["y"],
    ));
    assert!(matches!(problem(&doubled), Problem::DuplicateInitializer { name, .. } if name == "w"));
    let over_constant = model(graph(
        &["x"],
        vec![f32s("w", &[], &[1.0])],
        vec![relu(), constant("w", f32s("", &[], &[1.0]))],
        &["y"],
    ));
    assert!(matches!(problem(&over_constant), Problem::ProducedTwice { name, .. } if name == "w"));
}

#[test]
fn a_node_without_an_operator_is_refused() {
    let nodes = vec![node("", &["x"], &["y"])];
    let graph = model(graph(&["x"], vec![], nodes, &["y"]));
    assert!(matches!(problem(&graph), Problem::Unnamed { what } if what.contains("`y`")));
}

#[test]
fn functions_that_double_have_an_end() {
    use onnx_protobuf::FunctionProto;
    let function = |depth: usize| {
        let (name, inner) = (format!("f{depth}"), format!("f{}", depth - 1));
        let call = |input: &str, output: &str| {
            let mut call = node(
                if depth == 1 { "Relu" } else { &inner },
                &[input],
                &[output],
            );
            if depth > 1 {
                call.domain = "d".into();
            }
            call
        };
        FunctionProto {
            name,
            domain: "d".into(),
            input: vec!["a".into()],
            output: vec!["c".into()],
            node: vec![call("a", "b"), call("b", "c")],
            ..FunctionProto::default()
        }
    };
    let of = |depth: usize| {
        let mut call = node(&format!("f{depth}"), &["x"], &["y"]);
        call.domain = "d".into();
        let mut proto = model(graph(&["x"], vec![], vec![call], &["y"]));
        proto.functions = (1..=depth).map(function).collect();
        proto
    };
    let refused = |depth| match open(&of(depth)) {
        Err(crate::onnx::Error::Invalid { problems, .. }) => problems
            .iter()
            .any(|p| matches!(p, Problem::Expansion { .. })),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => false,
    };
    assert!(!refused(20) && refused(30) && refused(200));
}

#[test]
fn operator_sets_must_be_imported() {
    let mut proto = small();
    proto.opset_import.clear();
    assert!(matches!(problem(&proto), Problem::NoOpset));
    let mut custom = node("Gelu", &["x"], &["y"]);
    custom.domain = "com.example".into();
    let mut proto = of(vec![custom]);
    assert!(
        matches!(problem(&proto), Problem::DomainNotImported { domain, .. } if domain == "com.example")
    );
    proto.opset_import.push(OperatorSetIdProto {
        domain: "com.example".into(),
        version: 1,
        ..OperatorSetIdProto::default()
    });
    open(&proto).unwrap();
}

fn function(name: &str, inner: NodeProto) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![inner],
        opset_import: vec![
            OperatorSetIdProto {
                version: 17,
                ..OperatorSetIdProto::default()
            },
            OperatorSetIdProto {
                domain: "local".into(),
                version: 1,
                ..OperatorSetIdProto::default()
            },
        ],
        ..FunctionProto::default()
    }
}

fn call(name: &str, input: &str, output: &str) -> NodeProto {
    NodeProto {
        domain: "local".into(),
        ..node(name, &[input], &[output])
    }
}

#[test]
fn functions_are_resolved_in_any_order_and_must_not_call_themselves() {
    let mut proto = of(vec![call("Outer", "x", "y")]);
    proto.functions = vec![
        function("Outer", call("Inner", "a", "b")),
        function("Inner", node("Relu", &["a"], &["b"])),
    ];
    open(&proto).unwrap();
    proto.functions[1] = function("Inner", call("Outer", "a", "b"));
    let found = problems(&proto);
    assert_eq!(found.len(), 2);
    assert!(matches!(&found[0], Problem::RecursiveFunction { name } if name == "local:Outer"));
    proto.functions[1] = function("Outer", node("Relu", &["a"], &["b"]));
    assert!(
        problems(&proto)
            .iter()
            .any(|p| matches!(p, Problem::DuplicateFunction { .. }))
    );
}

#[test]
fn long_chains_do_not_exhaust_the_stack() {
    let n = 50_000;
    let name = |i: usize| {
        if i == 0 {
            "x".to_owned()
        } else {
            format!("v{i}")
        }
    };
    let mut nodes: Vec<NodeProto> = (0..n)
        .map(|i| node("Relu", &[&name(i)], &[&name(i + 1)]))
        .collect();
    nodes.reverse();
    open(&model(graph(&["x"], vec![], nodes, &[&name(n)]))).unwrap();
}
