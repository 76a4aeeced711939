//! The changes.

use super::model::{
    F16, F32, alter, attribute, constant, constant_node, declared, drop_initializer, f32s,
    first_dim, floats, insert_before, int, integers, made, node, position, replace_readers,
};
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{ModelProto, StringStringEntryProto, TensorProto};

/// One change of the model. `None` where it cannot be made, because another change took away what it is about.
pub struct Change {
    /// Its name in messages.
    pub name: &'static str,
    /// Makes it.
    pub apply: fn(&mut ModelProto) -> Option<()>,
    /// Why `diff` asks for more than the CPU engine needs; only what says so may.
    pub careful: Option<&'static str>,
}

const fn change(name: &'static str, apply: fn(&mut ModelProto) -> Option<()>) -> Change {
    Change {
        name,
        apply,
        careful: None,
    }
}

const fn careful(
    name: &'static str,
    why: &'static str,
    apply: fn(&mut ModelProto) -> Option<()>,
) -> Change {
    Change {
        name,
        apply,
        careful: Some(why),
    }
}

/// Changes of values come first: later ones rename, move or retype what they look for.
pub const CHANGES: &[Change] = &[
    change("kernel bytes", |m| {
        alter(m, "conv.weight", |_, v| v * 1.25 + 0.1)
    }),
    change("bias bytes", |m| alter(m, "conv.bias", |_, v| v - 0.5)),
    change("scalar bytes", |m| alter(m, "scale", |_, v| v * 0.5)),
    change("one bit of a matrix", |m| {
        alter(m, "proj.weight", |i, v| {
            f32::from_bits(v.to_bits() ^ u32::from(i == 5))
        })
    }),
    change("bytes in a Constant node", |m| {
        alter(m, "shift", |_, v| v + 0.25)
    }),
    change("norm bytes", |m| alter(m, "norm.weight", |_, v| -v)),
    change("shared matrix bytes", |m| {
        alter(m, "tied", |_, v| v * 2.0 - 0.1)
    }),
    change("two weights exchange their bytes", |m| {
        let bytes = constant(m, "norm.weight")?.raw_data.clone();
        let other = std::mem::replace(&mut constant(m, "norm.bias")?.raw_data, bytes);
        constant(m, "norm.weight")?.raw_data = other;
        Some(())
    }),
    change("bytes of an unused constant", |m| {
        alter(m, "spare", |_, v| v + 1.0)
    }),
    change("Reshape target", |m| integers(m, "target", &[-1, 12, 3])),
    careful(
        "Reshape target of equal meaning",
        "TensorRT folds the target when it builds; that two targets mean the same depends on all shapes before them",
        |m| integers(m, "target", &[0, 36, 3]),
    ),
    change("Clip bound", |m| alter(m, "low", |_, v| v + 0.3)),
    careful(
        "Clip bound that nothing reaches",
        "TensorRT bakes bounds in; whether a value reaches one depends on the inputs",
        |m| alter(m, "high", |_, v| v * 2.0),
    ),
    change("Pad widths", |m| {
        integers(m, "pads", &[0, 0, 2, 0, 0, 0, 0, 2])
    }),
    change("Gather index", |m| integers(m, "index", &[1, 2, 3])),
    change("strides", |m| {
        attribute(m, "Conv", "strides")?.ints = vec![2, 2];
        Some(())
    }),
    change("axis", |m| {
        attribute(m, "Softmax", "axis")?.i = 1;
        Some(())
    }),
    change("epsilon", |m| {
        attribute(m, "LayerNormalization", "epsilon")?.f = 0.05;
        Some(())
    }),
    careful(
        "default left out",
        "defaults belong to versions of operators, and the digest covers attributes as they are written",
        |m| {
            let node = node(m, "LayerNormalization")?;
            node.attribute.retain(|a| a.name != "axis");
            Some(())
        },
    ),
    change("a Relu more", |m| {
        insert_before(m, "Softmax", "Relu", "rectified")
    }),
    careful(
        "a Relu after a Relu",
        "an engine is keyed by its nodes; that two of them equal one is the optimiser's knowledge",
        |m| {
            let at = position(m, "Relu")?;
            let input = m.graph.node[at].input[0].clone();
            m.graph.mut_or_insert_default().node[at].input = vec!["early".into()];
            let more = made("Relu", &[&input], &["early"], Vec::new());
            m.graph.mut_or_insert_default().node.insert(at, more);
            Some(())
        },
    ),
    careful(
        "an Identity more",
        "a node more can change what TensorRT fuses, so timings and roundings",
        |m| insert_before(m, "Add", "Identity", "same"),
    ),
    change("an edge leads elsewhere", |m| {
        node(m, "Softmax")?.input[0] = "h".into();
        Some(())
    }),
    careful(
        "operands exchanged",
        "the order of inputs is structure; which operators commute is not asked",
        |m| {
            node(m, "Add")?.input.reverse();
            Some(())
        },
    ),
    change("another operator", |m| {
        node(m, "Relu")?.op_type = "Tanh".into();
        Some(())
    }),
    change("two weights exchange their places", |m| {
        node(m, "LayerNormalization")?.input.swap(1, 2);
        Some(())
    }),
    careful(
        "operator set",
        "versions of an operator set may differ in meaning, and TensorRT's parser treats them apart",
        |m| {
            m.opset_import[0].version = 18;
            Some(())
        },
    ),
    change("input renamed", |m| {
        m.graph.mut_or_insert_default().input[0].name = "picture".into();
        replace_readers(m, "x", "picture");
        Some(())
    }),
    change("output renamed", |m| {
        node(m, "Softmax")?.output[0] = "weights".into();
        let output = m.graph.mut_or_insert_default().output.iter_mut();
        output
            .filter(|o| o.name == "z")
            .for_each(|o| o.name = "weights".into());
        Some(())
    }),
    change("outputs in another order", |m| {
        m.graph.mut_or_insert_default().output.reverse();
        Some(())
    }),
    change("dim renamed", |m| {
        first_dim(m, dimension::Value::DimParam("BATCH".into()))
    }),
    change("dim fixed", |m| first_dim(m, dimension::Value::DimValue(4))),
    change("one constant for two", |m| {
        replace_readers(m, "norm.bias", "norm.weight");
        drop_initializer(m, "norm.bias")
    }),
    change("two constants for one", |m| {
        let copy = TensorProto {
            name: "tied.copy".into(),
            ..constant(m, "tied")?.clone()
        };
        let graph = m.graph.mut_or_insert_default();
        graph.initializer.push(copy);
        let last = graph
            .node
            .iter_mut()
            .rfind(|n| n.input.iter().any(|i| i == "tied"))?;
        last.input[1] = "tied.copy".into();
        Some(())
    }),
    change("weight in half precision", |m| {
        let tensor = constant(m, "proj.weight").filter(|t| t.data_type == F32)?;
        let halves = floats(tensor).into_iter().map(half::f16::from_f32);
        tensor.raw_data = halves.flat_map(half::f16::to_le_bytes).collect();
        tensor.float_data.clear();
        tensor.data_type = F16;
        replace_readers(m, "proj.weight", "proj.wide");
        let cast = made(
            "Cast",
            &["proj.weight"],
            &["proj.wide"],
            vec![int("to", i64::from(F32))],
        );
        m.graph.mut_or_insert_default().node.insert(0, cast);
        Some(())
    }),
    change("weight with an axis more", |m| {
        constant(m, "proj.weight")?.dims.insert(0, 1);
        Some(())
    }),
    change("initializer renamed", |m| {
        constant(m, "conv.bias")?.name = "conv.offset".into();
        replace_readers(m, "conv.bias", "conv.offset");
        Some(())
    }),
    careful(
        "initializer becomes a Constant node",
        "TensorRT takes the name of a Constant node's weights from another place than that of an initializer",
        |m| {
            let tensor = constant(m, "conv.weight")?.clone();
            drop_initializer(m, "conv.weight")?;
            let value = constant_node("conv.weight", tensor);
            m.graph.mut_or_insert_default().node.insert(0, value);
            Some(())
        },
    ),
    careful(
        "initializer is listed as an input too",
        "it is a default then, which callers may override; parsers differ in whether it stays a constant",
        |m| {
            let listed = declared("norm.weight", &["4"]);
            constant(m, "norm.weight")?;
            m.graph.mut_or_insert_default().input.push(listed);
            Some(())
        },
    ),
    careful(
        "an unused constant more",
        "the plan lists every initializer, and a refit can add none",
        |m| {
            let tensor = f32s("more", &[2], &[1.0, 2.0]);
            m.graph.mut_or_insert_default().initializer.push(tensor);
            Some(())
        },
    ),
    change("documentation", |m| {
        m.doc_string = "a model".into();
        let graph = m.graph.mut_or_insert_default();
        graph.doc_string = "a graph".into();
        graph.node[3].doc_string = "a node".into();
        graph.initializer[0].doc_string = "a constant".into();
        graph.input[0].doc_string = "an input".into();
        Some(())
    }),
    change("node names", |m| {
        let nodes = &mut m.graph.mut_or_insert_default().node;
        for (i, node) in nodes.iter_mut().enumerate() {
            node.name = format!("/other/{i}");
        }
        Some(())
    }),
    change("producer", |m| {
        m.producer_name = "another exporter".into();
        m.producer_version = "9".into();
        m.ir_version += 1;
        Some(())
    }),
    change("metadata", |m| {
        m.metadata_props.push(StringStringEntryProto {
            key: "author".into(),
            value: "someone".into(),
            ..StringStringEntryProto::new()
        });
        Some(())
    }),
    change("nodes in another order", |m| {
        let norm = position(m, "LayerNormalization")?;
        let nodes = &mut m.graph.mut_or_insert_default().node;
        let norm = nodes.remove(norm);
        nodes.push(norm);
        Some(())
    }),
    change("value_info", |m| {
        let value = declared("g", &["M", "3", "4"]);
        m.graph.mut_or_insert_default().value_info.push(value);
        Some(())
    }),
    change("numbers written another way", |m| {
        let tensor = constant(m, "tied")?;
        tensor.float_data = floats(tensor);
        tensor.raw_data.clear();
        Some(())
    }),
    change("a value in between renamed", |m| {
        node(m, "Conv")?.output[0] = "convolved".into();
        replace_readers(m, "c", "convolved");
        Some(())
    }),
    change("a baked Constant node renamed", |m| {
        let nodes = &mut m.graph.mut_or_insert_default().node;
        nodes.iter_mut().find(|n| n.output[0] == "high")?.output[0] = "ceiling".into();
        replace_readers(m, "high", "ceiling");
        Some(())
    }),
    change("initializers in another order", |m| {
        m.graph.mut_or_insert_default().initializer.reverse();
        Some(())
    }),
    change("attributes in another order", |m| {
        node(m, "Conv")?.attribute.reverse();
        Some(())
    }),
];
