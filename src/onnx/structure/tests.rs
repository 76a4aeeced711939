//! Tests of `structure`.

use super::*;
use crate::onnx::testing::{
    constant, declare, declare_as, f32s, graph, i64s, ints, model, node, open, small, subgraph,
    tensor_attribute, with,
};
use onnx_protobuf::{GraphProto, NodeProto};
use protobuf::MessageField;

fn of(proto: &ModelProto) -> Digest {
    open(proto).unwrap().structure_digest()
}

/// A convolution, a reshape, a mask in an If, and constants of every role.
fn base() -> ModelProto {
    let branch = |op: &str| {
        graph(
            &[],
            vec![f32s("k", &[], &[1.0])],
            vec![node(op, &["r", "k"], &["b"])],
            &["b"],
        )
    };
    model(graph(
        &["x", "flag"],
        vec![
            f32s("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
            f32s("unread", &[1], &[7.0]),
            i64s("target", &[2], &[0, -1]),
        ],
        vec![
            constant("scale", f32s("", &[], &[0.5])),
            constant("low", f32s("", &[], &[0.0])),
            with(node("Conv", &["x", "w"], &["c"]), ints("strides", &[1, 1])),
            node("Mul", &["c", "scale"], &["m"]),
            node("Clip", &["m", "low"], &["d"]),
            node("Reshape", &["d", "target"], &["r"]),
            with(
                with(
                    node("If", &["flag"], &["y"]),
                    subgraph("then_branch", branch("Mul")),
                ),
                subgraph("else_branch", branch("Add")),
            ),
        ],
        &["y"],
    ))
}

fn changed(f: impl FnOnce(&mut ModelProto, &mut GraphProto)) -> ModelProto {
    let mut proto = base();
    let mut g = proto.graph.take().unwrap();
    f(&mut proto, &mut g);
    proto.graph = MessageField::some(g);
    proto
}

#[track_caller]
fn same(f: impl FnOnce(&mut ModelProto, &mut GraphProto)) {
    assert_eq!(of(&changed(f)), of(&base()));
}

#[track_caller]
fn differs(f: impl FnOnce(&mut ModelProto, &mut GraphProto)) {
    assert_ne!(of(&changed(f)), of(&base()));
}

/// Renames a value wherever it is read or produced in the main graph and its branches.
fn rename(g: &mut GraphProto, old: &str, new: &str) {
    for n in &mut g.node {
        for name in n.input.iter_mut().chain(&mut n.output) {
            if name == old {
                *name = new.into();
            }
        }
        for inner in n.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
            rename(inner, old, new);
        }
    }
    for declared in g.input.iter_mut().chain(&mut g.output) {
        if declared.name == old {
            declared.name = new.into();
        }
    }
    for tensor in g.initializer.iter_mut().filter(|t| t.name == old) {
        tensor.name = new.into();
    }
}

#[test]
fn what_does_not_matter() {
    same(|_, g| g.node.reverse());
    same(|_, g| g.initializer.reverse());
    same(|_, g| rename(g, "m", "elsewhere"));
    same(|_, g| rename(g, "low", "lower"));
    same(|_, g| g.node[2].name = "a name".into());
    same(|_, g| g.node[2].doc_string = "why".into());
    same(|_, g| g.value_info.push(declare("m", &["1"])));
    same(|_, g| g.name = "another".into());
    same(|p, _| p.producer_name = "another".into());
    same(|p, _| p.ir_version = 10);
    same(|p, _| p.doc_string = "text".into());
    same(|p, _| p.opset_import[0].domain = "ai.onnx".into());
    same(|_, g| g.node[2].domain = "ai.onnx".into());
    same(|_, g| g.node[4].input.push(String::new()));
    same(|_, g| g.node[6].attribute.reverse());
    // Bytes of weights, also of Constant nodes and in subgraphs, and of what nothing reads.
    same(|_, g| g.initializer[0] = f32s("w", &[2, 2], &[9.0, 2.0, 3.0, 4.0]));
    same(|_, g| g.initializer[1] = f32s("unread", &[1], &[8.0]));
    same(|_, g| g.node[0] = constant("scale", f32s("", &[], &[0.25])));
    same(|_, g| {
        g.node[6].attribute[0].g.as_mut().unwrap().initializer[0] = f32s("k", &[], &[5.0]);
    });
}

#[test]
fn what_matters() {
    differs(|_, g| g.node[2].attribute[0].ints[0] = 2);
    differs(|_, g| g.node[2].attribute.clear());
    differs(|_, g| g.node[2].attribute[0].name = "dilations".into());
    differs(|_, g| g.node[3].op_type = "Div".into());
    differs(|_, g| g.node[3].input.swap(0, 1));
    differs(|_, g| g.node[5].input[0] = "m".into());
    differs(|_, g| g.node.push(node("Relu", &["m"], &["more"])));
    differs(|_, g| g.node[2].output.push("second".into()));
    differs(|p, _| p.opset_import[0].version = 18);
    // Weights: name, dtype, shape, there at all.
    differs(|_, g| rename(g, "w", "v"));
    differs(|_, g| rename(g, "scale", "factor"));
    differs(|_, g| g.initializer[0].dims = vec![4]);
    differs(|_, g| {
        g.initializer[0].data_type = 10;
        g.initializer[0].raw_data.truncate(8);
    });
    differs(|_, g| {
        g.initializer.remove(1);
    });
    // Values that are baked.
    differs(|_, g| g.initializer[2] = i64s("target", &[2], &[1, -1]));
    differs(|_, g| g.node[1] = constant("low", f32s("", &[], &[-1.0])));
    // Inputs and outputs: name, dtype, dims.
    differs(|_, g| rename(g, "x", "image"));
    differs(|_, g| rename(g, "y", "result"));
    differs(|_, g| g.input[0] = declare("x", &["M", "4"]));
    differs(|_, g| g.input[0] = declare("x", &["N", "8"]));
    differs(|_, g| g.input[0] = declare_as("x", 10, &["N", "4"]));
    differs(|_, g| g.output[0] = declare("y", &["N", "4", "1"]));
    differs(|_, g| g.output.push(declare("m", &["N"])));
    differs(|_, g| g.input.push(declare("another", &["N"])));
    // Subgraphs.
    differs(|_, g| {
        g.node[6].attribute[0].g.as_mut().unwrap().node[0].op_type = "Sub".into();
    });
    differs(|_, g| {
        g.node[6].attribute[0].g.as_mut().unwrap().node[0].input[0] = "d".into();
    });
}

#[test]
fn equal_nodes_count() {
    let twice = |second: &str| {
        let nodes = vec![
            node("Relu", &["x"], &["a"]),
            node("Relu", &["x"], &["b"]),
            node("Add", &["a", second], &["y"]),
        ];
        of(&model(graph(&["x"], vec![], nodes, &["y"])))
    };
    // Both Relus compute the same, so it makes no difference which is read, but there are two.
    assert_eq!(twice("a"), twice("b"));
    let once = model(graph(
        &["x"],
        vec![],
        vec![
            node("Relu", &["x"], &["a"]),
            node("Add", &["a", "a"], &["y"]),
        ],
        &["y"],
    ));
    assert_ne!(twice("a"), of(&once));
}

#[test]
fn random_nodes_are_told_apart() {
    let graph_of = |first: [&str; 2], second: [&str; 2]| {
        let nodes = vec![
            node("RandomNormalLike", &["x"], &["a"]),
            node("RandomNormalLike", &["x"], &["b"]),
            node("Sub", &first, &["c"]),
            node("Mul", &second, &["d"]),
        ];
        of(&model(graph(&["x"], vec![], nodes, &["c", "d"])))
    };
    assert_ne!(
        graph_of(["a", "b"], ["a", "a"]),
        graph_of(["a", "a"], ["a", "b"])
    );
    assert_ne!(
        graph_of(["a", "b"], ["a", "b"]),
        graph_of(["a", "b"], ["b", "a"])
    );
}

fn attributed(nodes: Vec<NodeProto>) -> Digest {
    of(&model(graph(&["x"], vec![], nodes, &["y"])))
}

#[test]
fn tensors_in_attributes_count_whole() {
    let fill = |v: f32, dims: &[i64]| {
        attributed(vec![with(
            node("ConstantOfShape", &["x"], &["y"]),
            tensor_attribute("value", f32s("t", dims, &[v])),
        )])
    };
    assert_eq!(fill(1.0, &[1]), fill(1.0, &[1]));
    assert_ne!(fill(1.0, &[1]), fill(2.0, &[1]));
    assert_ne!(fill(1.0, &[1]), fill(1.0, &[1, 1]));
}

#[test]
fn functions_count_with_their_bodies() {
    let with_function = |inner: &str, value: f32| {
        let mut proto = model(graph(
            &["x"],
            vec![],
            vec![NodeProto {
                domain: "local".into(),
                ..node("F", &["x"], &["y"])
            }],
            &["y"],
        ));
        proto.functions = vec![onnx_protobuf::FunctionProto {
            name: "F".into(),
            domain: "local".into(),
            input: vec!["a".into()],
            output: vec!["b".into()],
            node: vec![
                constant("k", f32s("", &[], &[value])),
                node(inner, &["a", "k"], &["b"]),
            ],
            opset_import: proto.opset_import.clone(),
            ..onnx_protobuf::FunctionProto::default()
        }];
        of(&proto)
    };
    assert_eq!(with_function("Add", 1.0), with_function("Add", 1.0));
    assert_ne!(with_function("Add", 1.0), with_function("Mul", 1.0));
    // A function may stand in many places, so its constants are no weights.
    assert_ne!(with_function("Add", 1.0), with_function("Add", 2.0));
}

#[test]
fn the_format_is_stable() {
    // A change of this value makes every cached engine unfindable: then FORMAT needs a new number.
    assert_eq!(of(&small()).short(), "2a4df8a7862c");
}
