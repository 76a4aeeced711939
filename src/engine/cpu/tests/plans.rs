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
    proto.functions.push(FunctionProto {
        name: "Relu".into(),
        ..FunctionProto::new()
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
fn a_division_in_a_branch_before_a_step_outside_is_exact() {
    let inner = || {
        Graph::new(13, vec![], vec![open("r", Dtype::F32)])
            .constant("d", &floats(&[], &[41.0]))
            .node("Div", &["x", "d"], &["r"])
    };
    let mut graph = Graph::new(
        13,
        vec![open("c", Dtype::Bool), open("x", Dtype::F32)],
        vec![open("y", Dtype::F32)],
    )
    .node("If", &["c"], &["q"]);
    graph.last().attribute = vec![
        branch("then_branch", inner()),
        branch("else_branch", inner()),
    ];
    let y = graph.node("Floor", &["q"], &["y"]).run(&[
        ("c", bools(&[], &[true])),
        ("x", floats(&[2], &[41.0, 82.0])),
    ]);
    assert_eq!(y.unwrap()[0], floats(&[2], &[1.0, 2.0]));
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
        profile: &Profile::default(),
        options: &options,
        mark: None,
    };
    let refused = Cpu.build(&job, &mut Vec::new(), &Silent);
    assert!(matches!(refused, Err(Error::Option { option, .. }) if option == "precision=fp16"));
}

#[test]
fn an_if_has_the_types_of_its_branches() {
    let after = |then: Dtype, other: Dtype| {
        let inner = |to: Dtype| {
            let untyped = ValueInfoProto {
                name: "r".into(),
                ..ValueInfoProto::new()
            };
            Graph::new(13, vec![], vec![untyped])
                .node("Cast", &["x"], &["r"])
                .int("to", to.onnx().into())
        };
        let mut graph = Graph::new(
            13,
            vec![open("c", Dtype::Bool), open("x", Dtype::F32)],
            vec![open("y", then)],
        )
        .node("If", &["c"], &["z"]);
        graph.last().attribute = vec![
            branch("then_branch", inner(then)),
            branch("else_branch", inner(other)),
        ];
        graph.node("Neg", &["z"], &["y"])
    };
    for condition in [true, false] {
        let given = [
            ("c", bools(&[], &[condition])),
            ("x", floats(&[2], &[1.0, -2.0])),
        ];
        let y = after(Dtype::F32, Dtype::F32).run(&given).unwrap();
        close(&y[0], &floats(&[2], &[-1.0, 2.0]));
        // A cast to i64 is watched inside of a branch too, in the one that is taken.
        let y = after(Dtype::I64, Dtype::I64).run(&given).unwrap();
        assert_eq!(y[0], longs(&[2], &[-1, 2]));
        let wide = [given[0].clone(), ("x", floats(&[1], &[1e12]))];
        let result = after(Dtype::I64, Dtype::I64).run(&wide);
        assert_eq!(refused(result)[0].operator, "Cast");
    }
    let refused = after(Dtype::F32, Dtype::I64).refusals();
    assert!(refused[0].reason.contains("branch"), "{refused:?}");
}

#[test]
fn values_that_the_engine_finds_to_be_equal_can_all_be_outputs() {
    // Static shapes: the engine knows both results, and what the checks of the sums tell, before it runs.
    let graph = Graph::new(
        13,
        vec![
            fixed("a", Dtype::F32, &[2, 3]),
            fixed("b", Dtype::F32, &[2, 3]),
        ],
        vec![
            open("m", Dtype::I64),
            open("n", Dtype::I64),
            open("s", Dtype::I64),
            open("t", Dtype::I64),
        ],
    )
    .node("Shape", &["a"], &["m"])
    .node("Shape", &["b"], &["n"])
    .node("Add", &["m", "n"], &["s"])
    .node("Add", &["n", "m"], &["t"]);
    let x = floats(&[2, 3], &[0.0; 6]);
    let got = graph.run(&[("a", x.clone()), ("b", x)]).unwrap();
    let (shape, sum) = (longs(&[2], &[2, 3]), longs(&[2], &[4, 6]));
    assert_eq!(got, [shape.clone(), shape, sum.clone(), sum]);
}

/// A function of the domain `own`.
fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "own".into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        node: nodes,
        opset_import: ["", "own"]
            .map(|domain| OperatorSetIdProto {
                domain: domain.into(),
                version: 13,
                ..OperatorSetIdProto::new()
            })
            .into(),
        ..FunctionProto::new()
    }
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        domain: "own".into(),
        ..node(name, inputs, outputs)
    }
}

fn with_functions(
    graph: Graph,
    functions: Vec<FunctionProto>,
) -> Result<Model, crate::onnx::Error> {
    let proto = ModelProto {
        functions,
        ..graph.model().proto().clone()
    };
    let file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
    std::fs::write(file.path(), proto.write_to_bytes().unwrap()).unwrap();
    Model::open(file.path())
}

fn one_call(name: &str) -> Graph {
    let mut graph = Graph::new(13, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)]);
    graph.proto.node.push(call(name, &["x"], &["y"]));
    graph
}

#[test]
fn functions_of_the_models_own_are_written_out() {
    // `t` is a name of the function, of its subgraph and of the model; `slope` comes from the call or from the default.
    let mut leaky = node("LeakyRelu", &["a"], &["t"]);
    leaky.attribute.push(AttributeProto {
        name: "alpha".into(),
        ref_attr_name: "slope".into(),
        type_: AttributeType::FLOAT.into(),
        ..AttributeProto::new()
    });
    let mut choose = node("If", &["positive"], &["o"]);
    let inner =
        |op: &str| Graph::new(13, vec![], vec![open("r", Dtype::F32)]).node(op, &["t"], &["r"]);
    choose.attribute = vec![
        branch("then_branch", inner("Identity")),
        branch("else_branch", inner("Neg")),
    ];
    let nodes = vec![
        leaky,
        node("ReduceSum", &["a"], &["sum"]),
        node("ReduceMin", &["a"], &["least"]),
        node("Less", &["least", "sum"], &["some"]),
        node("Squeeze", &["some"], &["positive"]),
        choose,
    ];
    let mut slope = function("Slope", &["a"], &["o", "a"], nodes);
    slope.attribute_proto.push(AttributeProto {
        name: "slope".into(),
        type_: AttributeType::FLOAT.into(),
        f: 0.5,
        ..AttributeProto::new()
    });
    let twice = function(
        "Twice",
        &["a"],
        &["o"],
        vec![call("Slope", &["a"], &["t", ""]), {
            let mut second = call("Slope", &["t"], &["o"]);
            second.attribute.push(AttributeProto {
                name: "slope".into(),
                type_: AttributeType::FLOAT.into(),
                f: 10.0,
                ..AttributeProto::new()
            });
            second
        }],
    );
    let mut graph = Graph::new(
        13,
        vec![open("x", Dtype::F32)],
        vec![
            open("y", Dtype::F32),
            open("z", Dtype::F32),
            open("same", Dtype::F32),
        ],
    );
    graph.proto.node = vec![
        node("Relu", &["x"], &["t"]),
        call("Twice", &["x"], &["y"]),
        call("Slope", &["t"], &["z", "same"]),
    ];
    let model = with_functions(graph, vec![twice, slope]).unwrap();
    let (mut engine, notes) = engine(&model).unwrap();
    let x = floats(&[3], &[-2.0, 1.0, 4.0]);
    let got = run(&mut *engine, &[("x", x)]).unwrap();
    close(&got[0], &floats(&[3], &[-10.0, 1.0, 4.0]));
    close(&got[1], &floats(&[3], &[0.0, 1.0, 4.0]));
    close(&got[2], &floats(&[3], &[0.0, 1.0, 4.0]));
    assert!(
        notes.notes.iter().any(|n| n.contains("(4 nodes)")),
        "{notes:?}"
    );
}

#[test]
fn functions_that_grow_without_end_are_refused_at_once() {
    let refusals = |functions: Vec<FunctionProto>, name: &str| {
        refused(plan(&with_functions(one_call(name), functions).unwrap()).map(|_| Vec::new()))
    };
    // Each calls the one before twice: 2^40 nodes.
    let mut doubling = vec![function(
        "F0",
        &["a"],
        &["o"],
        vec![node("Neg", &["a"], &["o"])],
    )];
    for i in 1..=40 {
        let before = format!("F{}", i - 1);
        let nodes = vec![call(&before, &["a"], &["t"]), call(&before, &["t"], &["o"])];
        doubling.push(function(&format!("F{i}"), &["a"], &["o"], nodes));
    }
    let told = with_functions(one_call("F40"), doubling)
        .err()
        .map(|e| e.to_string());
    assert!(
        told.as_ref().is_some_and(|t| t.contains("nodes")),
        "{told:?}"
    );
    // A thousand calls within each other.
    let mut chain = vec![function(
        "F0",
        &["a"],
        &["o"],
        vec![node("Neg", &["a"], &["o"])],
    )];
    for i in 1..=1000 {
        let before = format!("F{}", i - 1);
        chain.push(function(
            &format!("F{i}"),
            &["a"],
            &["o"],
            vec![call(&before, &["a"], &["o"])],
        ));
    }
    let told = refusals(chain, "F1000");
    assert!(told[0].reason.contains("deep"), "{told:?}");
    // An operator may have meant something else in another opset.
    let mut old = function("Old", &["a"], &["o"], vec![node("Softmax", &["a"], &["o"])]);
    old.opset_import[0].version = 11;
    let told = refusals(vec![old], "Old");
    assert!(told[0].reason.contains("opset 11"), "{told:?}");
    // What nothing calls does no harm.
    let unused = function("Unused", &["a"], &["o"], vec![node("Neg", &["a"], &["o"])]);
    let used = function("Used", &["a"], &["o"], vec![node("Neg", &["a"], &["o"])]);
    assert!(plan(&with_functions(one_call("Used"), vec![unused, used]).unwrap()).is_ok());
}

#[test]
fn an_infinity_may_be_cast_where_it_is_thrown_away() {
    // Buckets of distances as T5 has them: the logarithm of 0 is cast, and not looked at.
    let buckets = |kept: bool| {
        let mut outputs = vec![open("y", Dtype::F32)];
        if kept {
            outputs.push(open("cast", Dtype::I64));
        }
        Graph::new(13, vec![open("n", Dtype::I64)], outputs)
            .constant("table", &floats(&[6], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
            .constant("two", &longs(&[], &[2]))
            .constant("most", &longs(&[], &[5]))
            .node("Cast", &["n"], &["float"])
            .int("to", Dtype::F32.onnx().into())
            .node("Log", &["float"], &["log"])
            .node("Cast", &["log"], &["cast"])
            .int("to", Dtype::I64.onnx().into())
            .node("Add", &["cast", "two"], &["far"])
            .node("Min", &["far", "most"], &["bounded"])
            .node("Less", &["n", "two"], &["near"])
            .node("Where", &["near", "n", "bounded"], &["index"])
            .node("Gather", &["table", "index"], &["y"])
    };
    let n = || longs(&[5], &[0, 1, 2, 8, 1_000_000]);
    let y = buckets(false).run(&[("n", n())]).unwrap();
    close(&y[0], &floats(&[5], &[0.0, 1.0, 2.0, 4.0, 5.0]));
    // Where it could be seen it is refused when the model runs.
    assert_eq!(
        refused(buckets(true).run(&[("n", n())]))[0].operator,
        "Cast"
    );
    let plain = |x: f32| {
        Graph::new(13, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
            .constant("table", &floats(&[2], &[7.0, 8.0]))
            .node("Cast", &["x"], &["i"])
            .int("to", Dtype::I64.onnx().into())
            .node("Gather", &["table", "i"], &["y"])
            .run(&[("x", floats(&[1], &[x]))])
    };
    close(&plain(1.0).unwrap()[0], &floats(&[1], &[8.0]));
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e9, -3e9] {
        assert!(plain(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_the_engine_does_not_load_is_refused_when_it_is_built() {
    // The engine wants the operands of a concatenation to be of one rank, and knows both here.
    let graph = Graph::new(
        13,
        vec![fixed("x", Dtype::F32, &[2])],
        vec![open("y", Dtype::F32)],
    )
    .constant("a", &floats(&[2], &[1.0, 2.0]))
    .constant("b", &floats(&[1, 2], &[1.0, 2.0]))
    .node("Concat", &["a", "b"], &["c"])
    .int("axis", 0)
    .node("Add", &["x", "c"], &["y"]);
    let told = graph.refusals();
    assert_eq!(told[0].operator, "loading", "{told:?}");
}
