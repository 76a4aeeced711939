//! Small graphs, run through build, plan and engine, against values worked out by hand.

use super::proto::{node, set_int, set_ints};
use super::{CPU, Cpu};
use crate::engine::{
    Backend, BuildJob, BuildNotes, Engine, Error, Feed, Refusal, RunOptions, Slot,
};
use crate::onnx::Model;
use crate::shapes::Profile;
use crate::tensor::{Dtype, NamedTensors, Tensor};
use crate::watch::Silent;
use half::{bf16, f16};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::tensor_shape_proto::dimension::Value as Dim;
use onnx_protobuf::type_proto::{Tensor as TensorType, Value as Kind};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};
use std::borrow::Cow;
use std::sync::Arc;

/// `None` leaves an extent open.
fn value(name: &str, dtype: Dtype, dims: Option<&[Option<i64>]>) -> ValueInfoProto {
    let shape = dims.map(|dims| TensorShapeProto {
        dim: dims
            .iter()
            .map(|d| Dimension {
                value: d.map(Dim::DimValue),
                ..Dimension::new()
            })
            .collect(),
        ..TensorShapeProto::new()
    });
    ValueInfoProto {
        name: name.into(),
        type_: Some(TypeProto {
            value: Some(Kind::TensorType(TensorType {
                elem_type: dtype.onnx(),
                shape: shape.into(),
                ..TensorType::new()
            })),
            ..TypeProto::new()
        })
        .into(),
        ..ValueInfoProto::new()
    }
}

fn fixed(name: &str, dtype: Dtype, dims: &[i64]) -> ValueInfoProto {
    let dims: Vec<Option<i64>> = dims.iter().map(|&d| Some(d)).collect();
    value(name, dtype, Some(&dims))
}

fn open(name: &str, dtype: Dtype) -> ValueInfoProto {
    value(name, dtype, None)
}

struct Graph {
    opset: i64,
    proto: GraphProto,
}

impl Graph {
    fn new(opset: i64, inputs: Vec<ValueInfoProto>, outputs: Vec<ValueInfoProto>) -> Graph {
        Graph {
            opset,
            proto: GraphProto {
                name: "g".into(),
                input: inputs,
                output: outputs,
                ..GraphProto::new()
            },
        }
    }

    fn node(mut self, op: &str, inputs: &[&str], outputs: &[&str]) -> Graph {
        self.proto.node.push(node(op, inputs, outputs));
        self
    }

    fn last(&mut self) -> &mut NodeProto {
        self.proto.node.last_mut().unwrap()
    }

    fn int(mut self, name: &str, value: i64) -> Graph {
        set_int(self.last(), name, value);
        self
    }

    fn ints(mut self, name: &str, values: &[i64]) -> Graph {
        set_ints(self.last(), name, values);
        self
    }

    fn constant(mut self, name: &str, tensor: &Tensor) -> Graph {
        self.proto.initializer.push(TensorProto {
            name: name.into(),
            dims: tensor.shape.iter().map(|&d| d as i64).collect(),
            data_type: tensor.dtype.onnx(),
            raw_data: tensor.data.clone(),
            ..TensorProto::new()
        });
        self
    }

    fn model(self) -> Model {
        let model = ModelProto {
            ir_version: 8,
            opset_import: [("", self.opset), ("com.microsoft", 1)]
                .map(|(domain, version)| OperatorSetIdProto {
                    domain: domain.into(),
                    version,
                    ..OperatorSetIdProto::new()
                })
                .into(),
            graph: Some(self.proto).into(),
            ..ModelProto::new()
        };
        let file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
        std::fs::write(file.path(), model.write_to_bytes().unwrap()).unwrap();
        Model::open(file.path()).unwrap()
    }

    fn run(self, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, Error> {
        Ok(run(&mut *engine(&self.model())?.0, inputs)?)
    }

    fn refusals(self) -> Vec<Refusal> {
        refused(engine(&self.model()).map(|_| Vec::new()))
    }
}

fn plan(model: &Model) -> Result<(Vec<u8>, BuildNotes), Error> {
    let mut bytes = Vec::new();
    let job = BuildJob {
        model,
        profile: &Profile { inputs: Vec::new() },
        options: &std::collections::BTreeMap::new(),
    };
    let notes = Cpu.build(&job, &mut bytes, &Silent)?;
    Ok((bytes, notes))
}

fn engine(model: &Model) -> Result<(Box<dyn Engine>, BuildNotes), Error> {
    let (bytes, notes) = plan(model)?;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut engine = Cpu.open(file.path())?;
    engine.prepare(&RunOptions { threads: Some(1) })?;
    Ok((engine, notes))
}

fn run(engine: &mut dyn Engine, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, Error> {
    let inputs: NamedTensors = inputs
        .iter()
        .map(|(n, t)| ((*n).to_string(), t.clone()))
        .collect();
    Ok(engine.run(&inputs)?.into_iter().map(|(_, t)| t).collect())
}

fn refused(result: Result<Vec<Tensor>, Error>) -> Vec<Refusal> {
    match result {
        Err(Error::Refused { backend, refusals }) => {
            assert_eq!(backend, CPU);
            refusals
        }
        Err(e) => panic!("{e}"),
        Ok(outputs) => panic!("{outputs:?}"),
    }
}

macro_rules! maker {
    ($name:ident, $type:ty, $dtype:expr) => {
        fn $name(shape: &[usize], values: &[$type]) -> Tensor {
            assert_eq!(shape.iter().product::<usize>(), values.len());
            Tensor {
                dtype: $dtype,
                shape: shape.to_vec(),
                data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            }
        }
    };
}

maker!(floats, f32, Dtype::F32);
maker!(doubles, f64, Dtype::F64);
maker!(longs, i64, Dtype::I64);
maker!(halves, f16, Dtype::F16);
maker!(brains, bf16, Dtype::Bf16);
maker!(bytes, u8, Dtype::U8);

fn bools(shape: &[usize], values: &[bool]) -> Tensor {
    let data = values.iter().map(|&b| u8::from(b)).collect();
    Tensor {
        dtype: Dtype::Bool,
        shape: shape.to_vec(),
        data,
    }
}

fn close(got: &Tensor, want: &Tensor) {
    assert_eq!((got.dtype, &got.shape), (want.dtype, &want.shape));
    let difference = crate::tensor::to_f32(got.dtype, &got.data)
        .unwrap()
        .into_iter()
        .zip(crate::tensor::to_f32(want.dtype, &want.data).unwrap())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(difference < 1e-6, "{got:?} is not {want:?}");
}

/// `op` from `x` to `y`, of types and shapes that the graph leaves open.
fn unary(opset: i64, op: &str, from: Dtype, to: Dtype) -> Graph {
    Graph::new(opset, vec![open("x", from)], vec![open("y", to)]).node(op, &["x"], &["y"])
}

#[test]
fn the_first_of_equal_extremes_is_found_on_every_axis() {
    let x = || floats(&[2, 3], &[1.0, 5.0, 5.0, 7.0, 7.0, 2.0]);
    let arg = |op: &str, axis: i64, keep: i64, last: i64| {
        unary(13, op, Dtype::F32, Dtype::I64)
            .int("axis", axis)
            .int("keepdims", keep)
            .int("select_last_index", last)
            .run(&[("x", x())])
            .unwrap()
            .remove(0)
    };
    assert_eq!(arg("ArgMax", 1, 1, 0), longs(&[2, 1], &[1, 0]));
    assert_eq!(arg("ArgMax", -1, 0, 0), longs(&[2], &[1, 0]));
    assert_eq!(arg("ArgMax", -1, 0, 1), longs(&[2], &[2, 1]));
    assert_eq!(arg("ArgMax", 0, 1, 0), longs(&[1, 3], &[1, 1, 0]));
    assert_eq!(arg("ArgMin", -2, 0, 0), longs(&[3], &[0, 0, 1]));
    let ties = longs(&[4], &[3, 3, 3, 3]);
    let all = unary(13, "ArgMin", Dtype::I64, Dtype::I64).run(&[("x", ties)]);
    assert_eq!(all.unwrap()[0], longs(&[1], &[0]));
    // As NumPy has it: NaN is the extreme.
    let nan = floats(&[3], &[1.0, f32::NAN, 9.0]);
    for op in ["ArgMax", "ArgMin"] {
        let found = unary(13, op, Dtype::F32, Dtype::I64).run(&[("x", nan.clone())]);
        assert_eq!(found.unwrap()[0], longs(&[1], &[1]));
    }
}

#[test]
fn softmax_before_opset_13_is_over_all_axes_from_its_own() {
    let x = || floats(&[1, 2, 2], &[0.0, 1.0, 2.0, 3.0]);
    let shares = |values: &[f32]| {
        let sum: f32 = values.iter().map(|v| v.exp()).sum();
        values.iter().map(|v| v.exp() / sum).collect::<Vec<f32>>()
    };
    let whole = shares(&[0.0, 1.0, 2.0, 3.0]);
    let rows = [shares(&[0.0, 1.0]), shares(&[2.0, 3.0])].concat();
    let softmax = |graph: Graph| graph.run(&[("x", x())]).unwrap().remove(0);
    let old = || unary(11, "Softmax", Dtype::F32, Dtype::F32);
    close(&softmax(old()), &floats(&[1, 2, 2], &whole));
    close(&softmax(old().int("axis", 0)), &floats(&[1, 2, 2], &whole));
    close(&softmax(old().int("axis", -2)), &floats(&[1, 2, 2], &whole));
    close(&softmax(old().int("axis", 2)), &floats(&[1, 2, 2], &rows));
    close(&softmax(old().int("axis", -1)), &floats(&[1, 2, 2], &rows));
    let new = unary(13, "Softmax", Dtype::F32, Dtype::F32);
    close(&softmax(new), &floats(&[1, 2, 2], &rows));
    let logs: Vec<f32> = whole.iter().map(|v| v.ln()).collect();
    let log = unary(11, "LogSoftmax", Dtype::F32, Dtype::F32);
    close(&softmax(log), &floats(&[1, 2, 2], &logs));
}

#[test]
fn windows_have_their_defaults() {
    let conv = Graph::new(11, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
        .constant("w", &floats(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]))
        .node("Conv", &["x", "w"], &["y"]);
    let x = floats(&[1, 1, 2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, 0.0]);
    let y = conv.run(&[("x", x.clone())]).unwrap();
    close(&y[0], &floats(&[1, 1, 1, 2], &[5.0, 7.0]));
    let pool = unary(12, "MaxPool", Dtype::F32, Dtype::F32).ints("kernel_shape", &[1, 2]);
    let y = pool.run(&[("x", x)]).unwrap();
    close(&y[0], &floats(&[1, 1, 2, 2], &[1.0, 2.0, 1.0, 1.0]));
    let unknown = Graph::new(
        11,
        vec![open("x", Dtype::F32), open("w", Dtype::F32)],
        vec![open("y", Dtype::F32)],
    )
    .node("Conv", &["x", "w"], &["y"]);
    assert!(unknown.refusals()[0].reason.contains("kernel_shape"));
}

#[test]
fn bool_is_anything_but_zero_and_sign_of_zero_is_zero() {
    let to_bool = || unary(13, "Cast", Dtype::F32, Dtype::Bool).int("to", 9);
    let x = floats(&[5], &[0.5, 0.0, -0.0, -3.0, f32::NAN]);
    let y = to_bool().run(&[("x", x)]).unwrap();
    assert_eq!(y[0], bools(&[5], &[true, false, false, true, true]));
    let sign = unary(13, "Sign", Dtype::F32, Dtype::F32);
    let y = sign.run(&[("x", floats(&[4], &[-2.0, 0.0, -0.0, 0.5]))]);
    assert_eq!(y.unwrap()[0], floats(&[4], &[-1.0, 0.0, 0.0, 1.0]));
    let sign = unary(13, "Sign", Dtype::I64, Dtype::I64);
    let y = sign.run(&[("x", longs(&[3], &[-7, 0, 9]))]);
    assert_eq!(y.unwrap()[0], longs(&[3], &[-1, 0, 1]));
}

#[test]
fn a_product_with_a_vector_has_the_right_shape_or_is_refused_when_it_runs() {
    let graph = |b: ValueInfoProto| {
        Graph::new(
            13,
            vec![open("a", Dtype::F32), b],
            vec![open("y", Dtype::F32)],
        )
        .node("MatMul", &["a", "b"], &["y"])
    };
    let a = || floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let vector = || floats(&[2], &[10.0, 1.0]);
    let y = graph(fixed("b", Dtype::F32, &[2])).run(&[("a", a()), ("b", vector())]);
    assert_eq!(y.unwrap()[0], floats(&[2, 1], &[12.0, 34.0]));
    let blind = graph(open("b", Dtype::F32)).run(&[("a", a()), ("b", vector())]);
    assert!(refused(blind)[0].reason.contains("vector"));
    let matrix = floats(&[2, 1], &[10.0, 1.0]);
    let y = graph(open("b", Dtype::F32)).run(&[("a", a()), ("b", matrix)]);
    assert_eq!(y.unwrap()[0], floats(&[2, 1, 1], &[12.0, 34.0]));
}

#[test]
fn no_i64_wraps() {
    let binary = |op: &str| {
        Graph::new(
            13,
            vec![open("a", Dtype::I64), open("b", Dtype::I64)],
            vec![open("y", Dtype::I64)],
        )
        .node(op, &["a", "b"], &["y"])
    };
    let run = |op: &str, a: i64, b: i64| {
        binary(op).run(&[("a", longs(&[2], &[a, 1])), ("b", longs(&[], &[b]))])
    };
    assert_eq!(run("Mul", -3, 7).unwrap()[0], longs(&[2], &[-21, 7]));
    assert_eq!(
        run("Add", 1_900_000_000, -5).unwrap()[0],
        longs(&[2], &[1_899_999_995, -4])
    );
    for (op, a, b) in [
        ("Mul", 100_000, 100_000),
        ("Add", 2_000_000_000, 2_000_000_000),
        ("Sub", -2_000_000_000, 2_000_000_000),
        ("Pow", 10, 10),
    ] {
        let refusals = refused(run(op, a, b));
        assert_eq!(refusals[0].operator, op);
        assert!(refusals[0].reason.contains("32 bits"));
    }
    let sum = unary(13, "ReduceSum", Dtype::I64, Dtype::I64);
    assert!(!refused(sum.run(&[("x", longs(&[2], &[2_000_000_000, 2_000_000_000]))])).is_empty());
    let cast = || unary(13, "Cast", Dtype::F32, Dtype::I64).int("to", 7);
    assert_eq!(
        cast().run(&[("x", floats(&[2], &[-2.7, 2.7]))]).unwrap()[0],
        longs(&[2], &[-2, 2])
    );
    for bad in [3e9, f32::NAN, f32::NEG_INFINITY] {
        assert!(!refused(cast().run(&[("x", floats(&[1], &[bad]))])).is_empty());
    }
    let given = run("Add", 1 << 40, 0);
    assert!(matches!(given, Err(Error::Input { name, .. }) if name == "a"));
    // Nothing to check in a tensor without elements.
    let empty = binary("Mul").run(&[("a", longs(&[0], &[])), ("b", longs(&[], &[2]))]);
    assert_eq!(empty.unwrap()[0], longs(&[0], &[]));
}

#[test]
fn wide_constants_may_only_end_slices() {
    let slice = |through: bool| {
        let graph = Graph::new(13, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
            .constant("start", &longs(&[1], &[1]))
            .constant("axis", &longs(&[1], &[0]));
        let graph = if through {
            graph
                .constant("max", &longs(&[], &[i64::MAX]))
                .constant("zero", &longs(&[1], &[0]))
                .node("Unsqueeze", &["max", "zero"], &["end"])
        } else {
            graph.constant("end", &longs(&[1], &[i64::MAX]))
        };
        graph.node("Slice", &["x", "start", "end", "axis"], &["y"])
    };
    for through in [false, true] {
        let y = slice(through).run(&[("x", floats(&[3], &[1.0, 2.0, 3.0]))]);
        assert_eq!(y.unwrap()[0], floats(&[2], &[2.0, 3.0]));
    }
    let added = Graph::new(13, vec![open("x", Dtype::I64)], vec![open("y", Dtype::I64)])
        .constant("c", &longs(&[1], &[1 << 33]))
        .node("Mod", &["x", "c"], &["y"]);
    assert!(added.refusals()[0].reason.contains("8589934592"));
}

#[test]
fn division_before_a_step_is_exact() {
    let floor = |divisor: Tensor| {
        Graph::new(13, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
            .constant("d", &divisor)
            .node("Div", &["x", "d"], &["q"])
            .node("Floor", &["q"], &["y"])
    };
    // 41 * (1 / 41) is less than 1 in f32.
    assert!(41.0f32 * (1.0 / 41.0) < 1.0);
    let d = || floats(&[], &[41.0]);
    let y = floor(d()).run(&[("x", floats(&[2, 1], &[41.0, 82.0]))]);
    assert_eq!(y.unwrap()[0], floats(&[2, 1], &[1.0, 2.0]));
    let y = floor(d()).run(&[("x", floats(&[], &[41.0]))]);
    assert_eq!(y.unwrap()[0], floats(&[], &[1.0]));
    let y = floor(d()).run(&[("x", floats(&[0, 3], &[]))]);
    assert_eq!(y.unwrap()[0], floats(&[0, 3], &[]));
}

#[test]
fn quantising_divides_and_rounds_to_even() {
    let graph = Graph::new(
        13,
        vec![fixed("x", Dtype::F32, &[2, 2])],
        vec![open("y", Dtype::U8)],
    )
    .constant("scale", &floats(&[2], &[49.0, 2.0]))
    .constant("zero", &bytes(&[2], &[0, 128]))
    .node("QuantizeLinear", &["x", "scale", "zero"], &["y"]);
    let x = floats(&[2, 2], &[49.0 * 2.5, 3.0, 1e9, -1e9]);
    assert_eq!(
        graph.run(&[("x", x)]).unwrap()[0],
        bytes(&[2, 2], &[2, 130, 255, 0])
    );
}

#[test]
fn narrow_floats_are_computed_in_f32_and_rounded_once() {
    // 1 + 2^-11 is between two f16; in f16 steps the sum would stay 1.
    let small = f16::from_f32(2f32.powi(-11));
    let graph = Graph::new(13, vec![open("x", Dtype::F16)], vec![open("y", Dtype::F16)])
        .constant("w", &halves(&[1], &[small]))
        .node("Add", &["x", "w"], &["a"])
        .node("Add", &["a", "w"], &["y"]);
    let (mut e, notes) = engine(&graph.model()).unwrap();
    assert_eq!(notes.notes, ["f16 computed in f32"]);
    assert_eq!(e.inputs()[0].dtype, Dtype::F16);
    assert_eq!(e.slots().unwrap()[0].dtype, Dtype::F16);
    let y = run(&mut *e, &[("x", halves(&[1], &[f16::ONE]))]).unwrap();
    assert_eq!(y[0], halves(&[1], &[f16::from_f32(1.0 + 2f32.powi(-10))]));

    let graph = Graph::new(
        13,
        vec![open("x", Dtype::Bf16)],
        vec![open("y", Dtype::Bf16)],
    )
    .constant("w", &brains(&[1], &[bf16::from_f32(3.0)]))
    .node("Mul", &["x", "w"], &["y"]);
    let y = graph.run(&[("x", brains(&[2], &[bf16::from_f32(0.5), bf16::INFINITY]))]);
    let want = [bf16::from_f32(1.5), bf16::INFINITY];
    assert_eq!(y.unwrap()[0], brains(&[2], &want));
}

#[test]
fn an_f64_that_no_f32_holds_is_refused() {
    let scaled = |w: f64| {
        Graph::new(13, vec![open("x", Dtype::F64)], vec![open("y", Dtype::F64)])
            .constant("w", &doubles(&[1], &[w]))
            .node("Mul", &["x", "w"], &["y"])
    };
    let y = scaled(2.0).run(&[("x", doubles(&[1], &[1.5]))]);
    assert_eq!(y.unwrap()[0], doubles(&[1], &[3.0]));
    assert!(matches!(
        scaled(2.0).run(&[("x", doubles(&[1], &[1e300]))]),
        Err(Error::Input { .. })
    ));
    assert!(matches!(
        scaled(1e300).run(&[("x", doubles(&[1], &[1.0]))]),
        Err(Error::Weight { name, .. }) if name == "w"
    ));
}

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
    };
    let refused = Cpu.build(&job, &mut Vec::new(), &Silent);
    assert!(matches!(refused, Err(Error::Option { option, .. }) if option == "precision=fp16"));
}
