use super::*;
use crate::onnx::testing::{self, f32s, node};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto};

/// A graph of `x` and `y`, with these nodes and weights.
fn graph(nodes: Vec<NodeProto>, weights: &[(&str, &[f32])]) -> Model {
    let initializer = weights.iter().map(|(n, v)| f32s(n, &[v.len() as i64], v));
    let graph = GraphProto {
        node: nodes,
        initializer: initializer.collect(),
        ..testing::small().graph.unwrap_or_default()
    };
    testing::open(&testing::model(graph)).unwrap()
}

fn attribute(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.into(),
        type_: AttributeType::INT.into(),
        i,
        ..AttributeProto::default()
    });
    node
}

fn cast(from: &str, to: &str, dtype: Dtype) -> NodeProto {
    attribute(node("Cast", &[from], &[to]), "to", i64::from(dtype.onnx()))
}

/// The converted model as a file that was read again, and what is said of it.
fn halves(model: &Model, half: Half, kept: &[&str]) -> Result<(Model, String), Fault> {
    let kept: Vec<_> = kept.iter().map(|p| Pattern::new(p).unwrap()).collect();
    let converted = model.to_half(half, &kept)?;
    let mut bytes = Vec::new();
    model.write_half(&converted, &mut bytes, None)?;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("half.onnx");
    std::fs::write(&path, bytes).unwrap();
    Ok((Model::open(&path).unwrap(), converted.says()))
}

fn shown(model: &Model) -> Vec<String> {
    let show = |n: &NodeProto| {
        format!(
            "{} {} -> {}",
            n.op_type,
            n.input.join(" "),
            n.output.join(" ")
        )
    };
    model.proto().graph.node.iter().map(show).collect()
}

fn dtype(model: &Model, weight: &str) -> Dtype {
    model.weight(weight).unwrap().dtype
}

#[test]
fn inputs_and_outputs_stay_and_weights_keep_their_names() {
    let nodes = vec![
        node("Mul", &["x", "w"], &["h"]),
        node("Add", &["h", "b"], &["y"]),
    ];
    let model = graph(nodes, &[("w", &[1.0, 0.1]), ("b", &[2.0, 3.0])]);
    for half in [Half::Fp16, Half::Bf16] {
        let (new, says) = halves(&model, half, &[]).unwrap();
        assert_eq!(new.inputs(), model.inputs());
        assert_eq!(new.outputs(), model.outputs());
        let t = half.name();
        let expected = [
            format!("Cast x -> x_{t}"),
            format!("Mul x_{t} w -> h"),
            format!("Add h b -> y_{t}"),
            format!("Cast y_{t} -> y"),
        ];
        assert_eq!(shown(&new), expected);
        let w = new.weight("w").unwrap();
        assert_eq!(w.dtype, half.dtype());
        let rounded = narrow(
            Dtype::F32,
            half.dtype(),
            &model.bytes(model.weight("w").unwrap()),
        );
        assert_eq!(new.bytes(w)[..], rounded.unwrap()[..]);
        assert!(
            says.contains("2 weights,") && says.contains("2 nodes compute in"),
            "{says}"
        );
        // The other direction, too: what is converted is not converted again.
        assert!(matches!(new.to_half(half, &[]), Err(Fault::Already { .. })));
    }
}

#[test]
fn what_f32_reads_stays_f32_and_is_cast_for_the_others() {
    let nodes = vec![
        NodeProto {
            name: "keep/me".into(),
            ..node("Mul", &["x", "w"], &["h"])
        },
        node("Add", &["h", "w"], &["y"]),
    ];
    let model = graph(nodes, &[("w", &[1.0, 0.1])]);
    let (new, says) = halves(&model, Half::Fp16, &["keep*"]).unwrap();
    assert_eq!(dtype(&new, "w"), Dtype::F32);
    assert_eq!(
        shown(&new),
        [
            "Cast w -> w_fp16",
            "Mul x w -> h",
            "Cast h -> h_fp16",
            "Add h_fp16 w_fp16 -> y_fp16",
            "Cast y_fp16 -> y"
        ]
    );
    assert!(
        says.contains("0 weights (1 stay in f32)") && says.contains("1 named"),
        "{says}"
    );
    let none = halves(&model, Half::Fp16, &["nothing"]).err().unwrap();
    assert!(none.to_string().contains("such as `keep/me`"), "{none}");
}

#[test]
fn arguments_of_sines_and_whole_numbers_stay_f32() {
    let nodes = vec![
        node("Mul", &["x", "f"], &["p"]),
        node("Sin", &["p"], &["s"]),
        node("Mul", &["x", "scale"], &["i"]),
        cast("i", "whole", Dtype::I64),
        node("Gather", &["table", "whole"], &["g"]),
        node("Add", &["s", "g"], &["y"]),
    ];
    let model = graph(
        nodes,
        &[
            ("f", &[1.0, 2.0]),
            ("scale", &[0.5]),
            ("table", &[1.0, 2.0, 3.0]),
        ],
    );
    let (new, says) = halves(&model, Half::Fp16, &[]).unwrap();
    assert_eq!([dtype(&new, "f"), dtype(&new, "scale")], [Dtype::F32; 2]);
    assert_eq!(dtype(&new, "table"), Dtype::F16);
    let shown = shown(&new);
    assert!(shown.contains(&"Mul x f -> p".to_owned()), "{shown:?}");
    assert!(shown.contains(&"Cast s -> s_fp16".to_owned()), "{shown:?}");
    assert!(shown.contains(&"Cast i -> whole".to_owned()), "{shown:?}");
    assert!(says.contains("4 between the inputs"), "{says}");
}

#[test]
fn a_constant_that_would_vanish_keeps_its_readers() {
    let nodes = || {
        vec![
            node("Add", &["x", "eps"], &["v"]),
            node("Sqrt", &["v"], &["d"]),
            node("Div", &["x", "d"], &["q"]),
            node("Mul", &["q", "w"], &["y"]),
        ]
    };
    let model = graph(nodes(), &[("eps", &[1e-12]), ("w", &[1.0, 1e-12])]);
    let (new, says) = halves(&model, Half::Fp16, &[]).unwrap();
    let shown_new = shown(&new);
    assert!(
        shown_new.contains(&"Div x d -> q".to_owned()),
        "{shown_new:?}"
    );
    assert!(
        shown_new.contains(&"Mul q_fp16 w -> y_fp16".to_owned()),
        "{shown_new:?}"
    );
    assert!(
        says.contains("3 with a constant that would become zero"),
        "{says}"
    );
    let (new, _) = halves(&model, Half::Bf16, &[]).unwrap();
    assert!(shown(&new).contains(&"Div x_bf16 d -> q".to_owned()));
    let model = graph(nodes(), &[("eps", &[1e-6]), ("w", &[1.0, 2.0])]);
    let (new, _) = halves(&model, Half::Fp16, &[]).unwrap();
    assert_eq!(dtype(&new, "eps"), Dtype::F16);
}

#[test]
fn whole_numbers_are_exact_in_f32_where_that_is_read() {
    let nodes = vec![
        cast("x", "i", Dtype::I64),
        cast("i", "f", Dtype::F32),
        node("Mul", &["f", "w"], &["h"]),
        node("Identity", &["f"], &["y"]),
    ];
    let model = graph(nodes, &[("w", &[1.0, 2.0])]);
    let (new, _) = halves(&model, Half::Fp16, &[]).unwrap();
    let shown = shown(&new);
    assert!(
        shown.contains(&"Cast i -> f".to_owned()) || shown.contains(&"Cast i -> f_fp16".to_owned())
    );
    let to = |output: &str| {
        let mut nodes = new.proto().graph.node.iter();
        let node = nodes.find(|n| n.output[0] == output).unwrap();
        node.attribute[0].i as i32
    };
    // Read in half precision alone here.
    assert_eq!(to("f"), Dtype::F16.onnx());
    let nodes = vec![
        cast("x", "i", Dtype::I64),
        cast("i", "y", Dtype::F32),
        node("Mul", &["y", "w"], &["h"]),
    ];
    let model = graph(nodes, &[("w", &[1.0, 2.0])]);
    let (new, _) = halves(&model, Half::Fp16, &[]).unwrap();
    let of = |output: &str| {
        let mut nodes = new.proto().graph.node.iter();
        nodes.find(|n| n.output[0] == output).unwrap().attribute[0].i as i32
    };
    assert_eq!(
        (of("y"), of("y_fp16")),
        (Dtype::F32.onnx(), Dtype::F16.onnx())
    );
}

#[test]
fn too_large_values_name_the_weight_and_a_way_that_works() {
    let add = NodeProto {
        name: "mask[0]/Add,1".into(),
        ..node("Add", &["x", "m"], &["h"])
    };
    let nodes = vec![add, node("Mul", &["h", "w"], &["y"])];
    let model = graph(nodes, &[("m", &[0.0, -1e9]), ("w", &[1.0, 2.0])]);
    let error = halves(&model, Half::Fp16, &[]).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("weight `m`") && text.contains("1e9"),
        "{text}"
    );
    assert_eq!(error.code(), "weight-overflow");
    let hints = error.hints();
    let pattern = hints[0].split('\'').nth(1).unwrap();
    assert!(
        hints[0].contains(&format!("--f32-layers '{pattern}'")),
        "{hints:?}"
    );
    let patterns: Vec<String> = (crate::onnx::keep::patterns(pattern).unwrap().iter())
        .map(ToString::to_string)
        .collect();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let (new, _) = halves(&model, Half::Fp16, &patterns).unwrap();
    assert_eq!(
        (dtype(&new, "m"), dtype(&new, "w")),
        (Dtype::F32, Dtype::F16)
    );
    assert!(hints[1].contains("--convert bf16"), "{hints:?}");
    halves(&model, Half::Bf16, &[]).unwrap();
}

#[test]
fn the_lowest_f32_becomes_the_lowest_half() {
    let nodes = vec![node("Add", &["x", "m"], &["y"])];
    let model = graph(nodes, &[("m", &[0.0, f32::MIN])]);
    let (new, _) = halves(&model, Half::Fp16, &[]).unwrap();
    let bytes = new.bytes(new.weight("m").unwrap()).into_owned();
    let values = crate::tensor::to_f32(Dtype::F16, &bytes).unwrap();
    assert_eq!(values, [0.0, -65504.0]);
}

#[test]
fn what_a_subgraph_reads_keeps_its_name_and_type() {
    let branch = |scale: &str| GraphProto {
        name: "branch".into(),
        node: vec![node("Mul", &["h", scale], &["out"])],
        output: testing::small()
            .graph
            .unwrap_or_default()
            .output
            .into_iter()
            .map(|mut o| {
                o.name = "out".into();
                o
            })
            .collect(),
        ..GraphProto::default()
    };
    let graph_attribute = |name: &str, scale: &str| AttributeProto {
        name: name.into(),
        type_: AttributeType::GRAPH.into(),
        g: protobuf::MessageField::some(branch(scale)),
        ..AttributeProto::default()
    };
    let mut branching = node("If", &["c"], &["z"]);
    branching.attribute = vec![
        graph_attribute("then_branch", "v"),
        graph_attribute("else_branch", "w"),
    ];
    let nodes = vec![
        node("Relu", &["x"], &["h"]),
        node("ReduceMax", &["h"], &["m"]),
        cast("m", "c", Dtype::Bool),
        branching,
        node("Mul", &["z", "v"], &["y"]),
    ];
    let model = graph(nodes, &[("v", &[1.0, 2.0]), ("w", &[3.0, 4.0])]);
    let (new, says) = halves(&model, Half::Fp16, &[]).unwrap();
    assert_eq!([dtype(&new, "v"), dtype(&new, "w")], [Dtype::F32; 2]);
    let shown = shown(&new);
    assert!(
        shown.contains(&"Relu x_fp16 -> h_fp16".to_owned()),
        "{shown:?}"
    );
    assert!(shown.contains(&"Cast h_fp16 -> h".to_owned()), "{shown:?}");
    assert!(
        shown.contains(&"Mul z_fp16 v_fp16 -> y_fp16".to_owned()),
        "{shown:?}"
    );
    assert!(
        says.contains("1 of operators that have no half precision"),
        "{says}"
    );
}

#[test]
fn what_cannot_be_converted_is_told() {
    let model = graph(vec![node("Neg", &["x"], &["y"])], &[]);
    let old = GraphProto {
        node: vec![node("Neg", &["x"], &["y"])],
        ..testing::small().graph.unwrap_or_default()
    };
    let mut proto = testing::model(old);
    proto.opset_import[0].version = 12;
    let old = testing::open(&proto).unwrap();
    let error = old.to_half(Half::Bf16, &[]).err().unwrap();
    assert!(
        error.to_string().contains("opset 12 is older than 13"),
        "{error}"
    );
    assert!(old.to_half(Half::Fp16, &[]).is_ok() && model.to_half(Half::Bf16, &[]).is_ok());
    let kept = [Pattern::new("*").unwrap()];
    let error = model.to_half(Half::Fp16, &kept).err().unwrap();
    assert!(matches!(error, Fault::Nothing), "{error}");
    assert!(error.hints()[0].contains("leave `--convert` out"));
}

#[test]
fn operators_are_in_order() {
    assert!(rewrite::OPERATORS.windows(2).all(|w| w[0] < w[1]));
}
