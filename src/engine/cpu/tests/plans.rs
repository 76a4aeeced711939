//! Refusals, subgraphs, refits and checked inputs.

use super::*;
use crate::engine::cpu::lower::lower;

#[test]
fn every_refusal_is_listed() {
    let graph = Graph::new(13, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
        .node("Hardmax", &["x"], &["a"])
        .node("Relu", &["a"], &["b"])
        .node("LpNormalization", &["x"], &["c"])
        .int("made_up", 1)
        .node("Add", &["b", "c"], &["y"]);
    let mut graph = graph.node("Gelu", &["x"], &["z"]);
    graph.last().domain = "com.microsoft".into();
    let found: Vec<String> = graph.refusals().into_iter().map(|r| r.operator).collect();
    assert_eq!(found, ["Hardmax", "LpNormalization", "com.microsoft.Gelu"]);
    let new = unary(99, "Relu", Dtype::F32, Dtype::F32).refusals();
    assert!(new[0].reason.contains("opset 99"));
    let old = unary(10, "GreaterOrEqual", Dtype::F32, Dtype::Bool).refusals();
    assert!(old[0].reason.contains("opset 10"));
    let other = unary(13, "Relu", Dtype::U32, Dtype::U32).refusals();
    assert!(other[0].reason.contains("`u32`"));
}

#[test]
fn an_operator_of_the_models_own_is_not_taken_for_onnx_s() {
    let mut proto = unary(13, "Relu", Dtype::F32, Dtype::F32)
        .model()
        .proto()
        .clone();
    assert!(lower(&proto).refusals.is_empty());
    proto.functions.push(onnx_protobuf::FunctionProto {
        name: "Relu".into(),
        ..onnx_protobuf::FunctionProto::new()
    });
    assert_eq!(lower(&proto).refusals[0].operator, "Relu");
}

fn branch(name: &str, body: Graph) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::GRAPH.into(),
        g: Some(body.proto).into(),
        ..AttributeProto::new()
    }
}

#[test]
fn branches_are_guarded_and_rewritten_too() {
    let choose = |op: &str| {
        let inner =
            |op: &str| Graph::new(13, vec![], vec![open("r", Dtype::F32)]).node(op, &["x"], &["r"]);
        let mut graph = Graph::new(
            13,
            vec![open("c", Dtype::Bool), open("x", Dtype::F32)],
            vec![open("y", Dtype::F32)],
        )
        .node("If", &["c"], &["y"]);
        graph.last().attribute = vec![
            branch("then_branch", inner(op)),
            branch("else_branch", inner("Neg")),
        ];
        graph
    };
    for (condition, want) in [(true, [0.0, 1.0]), (false, [0.0, -3.0])] {
        let y = choose("Sign").run(&[
            ("c", bools(&[], &[condition])),
            ("x", floats(&[2], &[0.0, 3.0])),
        ]);
        close(&y.unwrap()[0], &floats(&[2], &want));
    }
    assert_eq!(choose("Hardmax").refusals()[0].operator, "Hardmax");
    // What is watched outside of the branches stays watched.
    let mut watched = choose("Sign");
    watched.proto.input.push(open("n", Dtype::I64));
    watched.proto.output.push(open("m", Dtype::I64));
    watched
        .proto
        .node
        .insert(0, node("Mul", &["n", "n"], &["m"]));
    let result = watched.run(&[
        ("c", bools(&[], &[true])),
        ("x", floats(&[1], &[1.0])),
        ("n", longs(&[], &[100_000])),
    ]);
    assert_eq!(refused(result)[0].operator, "Mul");
}

#[test]
fn inputs_and_constants_can_be_outputs() {
    let graph = Graph::new(
        13,
        vec![open("x", Dtype::I64)],
        vec![
            open("x", Dtype::I64),
            open("w", Dtype::F32),
            open("y", Dtype::I64),
        ],
    )
    .constant("w", &floats(&[1], &[4.0]))
    .node("Identity", &["x"], &["y"]);
    let x = longs(&[2], &[-1, 5]);
    let outputs = graph.run(&[("x", x.clone())]).unwrap();
    assert_eq!(outputs, [x.clone(), floats(&[1], &[4.0]), x]);
}

fn scaled() -> Model {
    Graph::new(
        13,
        vec![value("x", Dtype::F32, Some(&[None, Some(2)]))],
        vec![open("y", Dtype::F32)],
    )
    .constant("w", &floats(&[2], &[2.0, 3.0]))
    .node("Mul", &["x", "w"], &["y"])
    .model()
}

struct Always(Vec<u8>);

impl Feed for Always {
    fn bytes(&self, _: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        Ok(Some(Cow::Borrowed(&self.0)))
    }
}

#[test]
fn a_refit_replaces_bytes_of_the_right_length_only() {
    let (mut e, _) = engine(&scaled()).unwrap();
    let x = [("x", floats(&[1, 2], &[1.0, 1.0]))];
    assert_eq!(run(&mut *e, &x).unwrap()[0], floats(&[1, 2], &[2.0, 3.0]));
    let new = floats(&[2], &[5.0, 7.0]).data;
    e.refit(Arc::new(Always(new)), &Silent).unwrap();
    assert_eq!(run(&mut *e, &x).unwrap()[0], floats(&[1, 2], &[5.0, 7.0]));
    let short = e.refit(Arc::new(Always(vec![0; 7])), &Silent);
    assert!(matches!(short, Err(Error::Weight { name, .. }) if name == "w"));
}

#[test]
fn a_model_has_one_plan() {
    assert_eq!(plan(&scaled()).unwrap().0, plan(&scaled()).unwrap().0);
}

#[test]
fn inputs_are_checked() {
    let (mut e, _) = engine(&scaled()).unwrap();
    let x = || floats(&[1, 2], &[1.0, 1.0]);
    let mut reason = |inputs: &[(&str, Tensor)]| match run(&mut *e, inputs) {
        Err(Error::Input { name, reason }) => format!("{name}: {reason}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(&[]), "x: it is not given");
    assert!(reason(&[("x", x()), ("z", x())]).starts_with("z: the model has no such input"));
    assert_eq!(reason(&[("x", x()), ("x", x())]), "x: it is given twice");
    assert!(reason(&[("x", longs(&[1, 2], &[1, 1]))]).contains("wants `f32`"));
    assert!(reason(&[("x", floats(&[2], &[1.0, 1.0]))]).contains("has 1 axes"));
    assert!(reason(&[("x", floats(&[2, 1], &[1.0, 1.0]))]).contains("axis 1 is 1"));
    let mut cut = x();
    cut.data.pop();
    assert!(reason(&[("x", cut)]).contains("do not fit"));
}

#[test]
fn options_are_refused_by_name() {
    let options = [("precision".to_string(), "fp16".to_string())].into();
    let job = BuildJob {
        model: &scaled(),
        profile: &Profile { inputs: Vec::new() },
        options: &options,
        mark: None,
    };
    let refused = Cpu.build(&job, &mut Vec::new(), &Silent);
    assert!(matches!(refused, Err(Error::Option { option, .. }) if option == "precision=fp16"));
}
