//! Tests of models that are taken apart and put together again, and of what arbitrary bytes do.

use super::testing::{
    constant, declare, declare_as, f32s, fixtures, graph, ints, model, node, open, open_bytes,
    problem, small, subgraph, tensor_attribute, with,
};
use super::*;
use crate::fault::{Class, Explain};
use crate::tensor::Tensor;
use onnx_protobuf::tensor_proto::DataLocation;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

struct InMemory(BTreeMap<String, Tensor>);

impl WeightBytes for InMemory {
    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.get(name).map(Tensor::view)
    }
}

fn elided(model: &Model) -> BTreeMap<String, Tensor> {
    model
        .weights()
        .iter()
        .filter(|w| w.is_elided())
        .map(|w| {
            let tensor = Tensor {
                dtype: w.dtype,
                shape: w.shape.clone(),
                data: model.bytes(w).into_owned(),
            };
            (w.name.clone(), tensor)
        })
        .collect()
}

/// A model with constants of every role, in a subgraph too, and one that is read by nothing.
fn varied() -> ModelProto {
    let big: Vec<f32> = (0..2000u16).map(f32::from).collect();
    let branch = |op: &str| {
        graph(
            &[],
            vec![f32s("k", &[2000], &big)],
            vec![node(op, &["y", "k"], &["b"])],
            &["b"],
        )
    };
    let mut proto = small();
    let g = proto.graph.as_mut().unwrap();
    g.initializer.push(f32s("unread", &[2000], &big));
    g.node.push(constant("c", f32s("", &[2000], &big)));
    g.node.push(node("Mul", &["y", "c"], &["z"]));
    let conditional = with(
        node("If", &["x"], &["i"]),
        subgraph("then_branch", branch("Mul")),
    );
    g.node
        .push(with(conditional, subgraph("else_branch", branch("Add"))));
    proto
}

#[track_caller]
fn assert_equal(a: &Model, b: &Model) {
    assert_eq!(a.weights(), b.weights());
    for w in a.weights() {
        assert!(a.bytes(w) == b.bytes(w), "{}", w.name);
    }
    assert_eq!(a.inputs(), b.inputs());
    assert_eq!(a.outputs(), b.outputs());
    assert_eq!(a.structure_digest(), b.structure_digest());
    assert_eq!(a.graph_bytes(), b.graph_bytes());
}

/// Everything that is to be put together again.
fn everything() -> Vec<Model> {
    let mut all: Vec<Model> = fixtures().iter().map(|p| Model::open(p).unwrap()).collect();
    all.push(open(&varied()).unwrap());
    all
}

fn written(model: &Model) -> Vec<u8> {
    let mut out = Vec::new();
    model
        .write_onnx::<Error>(&mut out, &|w| Ok(model.bytes(w)))
        .unwrap();
    assert_eq!(out.len() as u64, model.onnx_size());
    out
}

#[test]
fn the_graph_and_the_weights_make_the_model_again() {
    for model in everything() {
        let source = Box::new(InMemory(elided(&model)));
        let again = Model::from_graph(&model.graph_bytes(), source, Path::new("plan")).unwrap();
        assert_equal(&model, &again);
    }
}

#[test]
fn the_graph_holds_no_weights() {
    let model = open(&varied()).unwrap();
    let total: usize = elided(&model).values().map(|t| t.data.len()).sum();
    assert_eq!(total, 4 * (1024 + 256 + 4 * 2000));
    assert!(model.graph_bytes().len() < 2000);
    let marked: Vec<&str> = model
        .proto()
        .graph
        .initializer
        .iter()
        .filter_map(weight_name)
        .collect();
    assert_eq!(marked, ["w", "b", "unread"]);
}

#[test]
fn a_written_model_is_the_model_again() {
    for model in everything() {
        assert_equal(&model, &open_bytes(&written(&model)).unwrap());
    }
}

#[test]
fn a_model_written_with_a_data_file_is_the_model_again() {
    for model in everything() {
        let dir = tempfile::tempdir().unwrap();
        let (mut out, mut data) = (Vec::new(), Vec::new());
        model
            .write_onnx_external::<Error>(&mut out, &mut data, "m.data", &|w| Ok(model.bytes(w)))
            .unwrap();
        std::fs::write(dir.path().join("m.onnx"), &out).unwrap();
        std::fs::write(dir.path().join("m.data"), &data).unwrap();
        assert!(data.len() > out.len() || data.len() < 200_000);
        assert_equal(&model, &Model::open(dir.path().join("m.onnx")).unwrap());
    }
}

#[test]
fn other_bytes_can_be_written() {
    let model = open(&varied()).unwrap();
    let mut out = Vec::new();
    model
        .write_onnx::<Error>(&mut out, &|w| Ok(Cow::Owned(vec![1; w.byte_length()])))
        .unwrap();
    let other = open_bytes(&out).unwrap();
    assert_eq!(other.structure_digest(), model.structure_digest());
    for w in other.weights() {
        let ones = other.bytes(w).iter().all(|&b| b == 1);
        assert_eq!(ones, w.is_elided(), "{}", w.name);
    }
}

#[test]
fn structural_constants_can_be_given_other_values() {
    let mut seen = 0;
    for model in everything() {
        let other = |w: &Weight| {
            let mut bytes = model.bytes(w).into_owned();
            bytes.iter_mut().take(1).for_each(|b| *b ^= 1);
            bytes
        };
        let structural = model.weights().iter().filter(|w| !w.is_elided());
        let values: HashMap<String, Vec<u8>> =
            structural.map(|w| (w.name.clone(), other(w))).collect();
        seen += values.len();
        let graph = model.graph_with(&values).unwrap();
        let mut out = Vec::new();
        model
            .write_graph::<Error>(&graph, &mut out, None, &|w| Ok(model.bytes(w)))
            .unwrap();
        let written = open_bytes(&out).unwrap();
        assert_eq!(written.weights().len(), model.weights().len());
        for w in written.weights() {
            let want = values.get(&w.name).cloned();
            let want = want.unwrap_or_else(|| model.bytes(&w.clone()).into_owned());
            assert!(*written.bytes(w) == want[..], "{}", w.name);
        }
        let elided = model.weights().iter().find(|w| w.is_elided()).unwrap();
        let wrong = HashMap::from([(elided.name.clone(), other(elided))]);
        assert!(matches!(
            model.graph_with(&wrong),
            Err(Error::NotStructural { .. })
        ));
    }
    assert!(seen > 100);
}

/// A disk without space.
struct Full;
impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn wrong_lengths_and_failing_sources_stop_the_writing() {
    let model = open(&small()).unwrap();
    let short = model.write_onnx::<Error>(&mut Vec::new(), &|_| Ok(Cow::Owned(vec![0; 3])));
    assert!(matches!(
        short,
        Err(Error::WrittenLength {
            expected: 4096,
            found: 3,
            ..
        })
    ));
    let full = model.write_onnx::<Error>(&mut Full, &|w| Ok(model.bytes(w)));
    assert!(matches!(full, Err(Error::Write(_))));
}

#[test]
fn a_source_that_lacks_weights_or_has_others_is_refused() {
    let model = open(&small()).unwrap();
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut weights = elided(&model);
        change(&mut weights);
        let source = Box::new(InMemory(weights));
        match Model::from_graph(&model.graph_bytes(), source, Path::new("plan")) {
            Err(Error::Invalid { problems, .. }) => problems,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was taken"),
        }
    };
    let missing = refused(&|w| w.clear());
    assert!(matches!(
        &missing[..],
        [Problem::WeightMissing { .. }, Problem::WeightMissing { .. }]
    ));
    for change in [
        (&|t: &mut Tensor| t.dtype = Dtype::I32) as &dyn Fn(&mut Tensor),
        &|t| t.shape = vec![1024],
        &|t| t.data.truncate(8),
    ] {
        let differs = refused(&|w| change(w.get_mut("w").unwrap()));
        assert!(matches!(&differs[..], [Problem::WeightDiffers { name, .. }] if name == "w"));
    }
}

#[test]
fn a_graph_reads_no_files() {
    // A plan whose graph points to a file beside it.
    let mut proto = small();
    let tensor = &mut proto.graph.as_mut().unwrap().initializer[0];
    tensor.raw_data.clear();
    collect::set_mark(tensor, "w".into());
    tensor.external_data[0].key = "location".into();
    let source = Box::new(InMemory(BTreeMap::new()));
    let graph = proto.write_to_bytes().unwrap();
    let Err(Error::Invalid { problems, .. }) = Model::from_graph(&graph, source, Path::new("p"))
    else {
        panic!("it was taken")
    };
    assert!(matches!(&problems[..], [Problem::ExternalEntry { .. }]));
}

#[test]
fn a_mark_in_a_model_file_is_no_mark() {
    // Strings have no data that could be taken out, so a mark could survive there.
    let mut text = testing::raw("s", 8, &[1], Vec::new());
    text.string_data = vec![b"a".to_vec()];
    collect::set_mark(&mut text, "0".into());
    text.data_location = DataLocation::DEFAULT.into();
    let mut proto = small();
    proto.graph.as_mut().unwrap().initializer.push(text);
    let model = open(&proto).unwrap();
    assert!(model.weight("s").is_none());
    assert_eq!(weight_name(&model.proto().graph.initializer[3]), None);
    // In a function there are no weights, so a mark in the graph of a plan has nothing to stand for.
    let mut inside = constant("k", f32s("", &[], &[]));
    collect::set_mark(inside.attribute[0].t.as_mut().unwrap(), "w".into());
    let mut proto = small();
    proto.functions = vec![onnx_protobuf::FunctionProto {
        name: "F".into(),
        domain: "local".into(),
        output: vec!["k".into()],
        node: vec![inside],
        opset_import: proto.opset_import.clone(),
        ..onnx_protobuf::FunctionProto::default()
    }];
    let graph = proto.write_to_bytes().unwrap();
    let source = Box::new(InMemory(BTreeMap::new()));
    let Err(Error::Invalid { problems, .. }) = Model::from_graph(&graph, source, Path::new("p"))
    else {
        panic!("it was taken")
    };
    assert!(matches!(&problems[..], [Problem::WeightMissing { .. }]));
}

#[test]
fn what_is_no_model_is_told_with_what_it_looks_like() {
    for (bytes, text) in [
        (&b""[..], "an empty file"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":1}        ", "a safetensors file"),
        (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid x",
            "a Git LFS pointer",
        ),
        (b"hello, this is text\n", "text"),
        (b"\x08\x07\x12\x00", "a protobuf message without a graph"),
    ] {
        let e = open_bytes(bytes).err().unwrap();
        assert!(matches!(e, Error::NotOnnx { .. }), "{e}");
        assert!(e.to_string().contains(text), "{e}");
    }
}

#[test]
fn every_cut_of_a_model_is_refused_or_harmless() {
    let whole = written(&open(&varied()).unwrap());
    for end in (0..whole.len()).step_by(whole.len() / 300 + 1) {
        let e = open_bytes(&whole[..end]);
        assert!(e.is_err(), "cut at {end}");
    }
}

#[test]
fn names_that_are_not_utf8_are_refused_by_the_parser() {
    let mut bytes = small().write_to_bytes().unwrap();
    let at = bytes.windows(6).position(|w| w == b"MatMul").unwrap();
    bytes[at] = 0xff;
    assert!(matches!(open_bytes(&bytes), Err(Error::Protobuf { .. })));
}

#[test]
fn inputs_and_outputs_must_be_tensors_of_numbers() {
    let mut proto = model(graph(
        &["x"],
        vec![],
        vec![node("Relu", &["x"], &["y"])],
        &["y"],
    ));
    let g = proto.graph.as_mut().unwrap();
    g.input[0] = declare_as("x", 8, &["N"]);
    g.output[0].type_.clear();
    let Err(Error::Invalid { problems, .. }) = open(&proto) else {
        panic!("it was opened")
    };
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "input `x` is a tensor of strings; only tensors of numbers are supported",
            "output `y` is of no declared type; only tensors of numbers are supported",
        ]
    );
}

#[test]
fn inputs_with_defaults_are_no_inputs() {
    let mut proto = small();
    let g = proto.graph.as_mut().unwrap();
    g.input.push(declare("b", &["256"]));
    let model = open(&proto).unwrap();
    let names: Vec<&str> = model.inputs().iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["x"]);
    assert_ne!(
        model.structure_digest(),
        open(&small()).unwrap().structure_digest()
    );
}

#[test]
fn numbers_in_attributes_of_constant_nodes_are_tensors() {
    use onnx_protobuf::attribute_proto::AttributeType;
    let mut floats = ints("value_floats", &[]);
    floats.type_ = AttributeType::FLOATS.into();
    floats.floats = vec![1.0, 2.0];
    let target = ints("value_ints", &[0, -1]);
    let proto = model(graph(
        &["x"],
        vec![],
        vec![
            with(node("Constant", &[], &["c"]), floats),
            with(node("Constant", &[], &["t"]), target),
            node("Mul", &["x", "c"], &["m"]),
            node("Reshape", &["m", "t"], &["y"]),
        ],
        &["y"],
    ));
    let model = open(&proto).unwrap();
    let [c, t] = model.weights() else { panic!() };
    assert_eq!(
        (c.dtype, &c.shape[..], &c.role),
        (Dtype::F32, &[2][..], &Role::Weight)
    );
    assert_eq!(&*model.bytes(c), [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
    assert_eq!((t.dtype, &t.shape[..]), (Dtype::I64, &[2][..]));
    assert!(matches!(
        &t.role,
        Role::Structural {
            why: "Reshape target",
            ..
        }
    ));
    assert!(
        model.proto().graph.node[..2]
            .iter()
            .all(|n| n.attribute[0].name == "value")
    );
}

#[test]
fn what_is_not_supported_is_named() {
    let one = |f: &dyn Fn(&mut onnx_protobuf::GraphProto)| {
        let mut proto = small();
        f(proto.graph.as_mut().unwrap());
        problem(&proto)
    };
    assert!(matches!(
        one(&|g| g
            .sparse_initializer
            .push(onnx_protobuf::SparseTensorProto::default())),
        Problem::Sparse { .. }
    ));
    assert!(matches!(
        one(&|g| g.node[0].attribute.clear()),
        Problem::Constant { .. }
    ));
    assert!(matches!(
        one(&|g| g.node[0].output.push("again".into())),
        Problem::Constant { .. }
    ));
    assert!(matches!(
        one(&|g| g.node[2].attribute.push({
            let mut a = tensor_attribute("t", f32s("", &[], &[0.0]));
            a.t.clear();
            a
        })),
        Problem::Attribute { attribute, .. } if attribute == "t"
    ));
    assert!(matches!(
        one(&|g| g.initializer.push(f32s("", &[], &[0.0]))),
        Problem::Unnamed { .. }
    ));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = open_bytes(&bytes);
        let nothing = Box::new(InMemory(BTreeMap::new()));
        let _ = Model::from_graph(&bytes, nothing, Path::new("plan"));
    }

    #[test]
    fn mutated_models_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        swap in any::<prop::sample::Index>(),
    ) {
        let mut bytes = varied().write_to_bytes().unwrap();
        // Most of the file is payload; edits there test nothing, so half go to the structure at its ends.
        for (at, value) in edits {
            let n = bytes.len();
            let i = at.index(n);
            bytes[if value & 1 == 0 { i } else { i % 600.min(n) }] = value;
        }
        let n = bytes.len();
        bytes.swap(swap.index(n), swap.index(600.min(n)));
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(n));
        }
        if let Ok(model) = open_bytes(&bytes) {
            // What is opened can be used.
            for w in model.weights() {
                prop_assert_eq!(model.bytes(w).len(), w.byte_length());
            }
            prop_assert_eq!(written(&model).len() as u64, model.onnx_size());
            let source = Box::new(InMemory(elided(&model)));
            let again = Model::from_graph(&model.graph_bytes(), source, Path::new("p")).unwrap();
            assert_equal(&model, &again);
        }
    }
}

#[test]
fn all_that_a_fused_lora_changes_are_weights() {
    for path in fixtures() {
        let model = Model::open(&path).unwrap();
        let exporter = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .replace("model", "refit");
        let golden = std::fs::read(path.with_file_name(exporter.replace("onnx", "safetensors")));
        let golden = golden.unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&golden).unwrap();
        assert!(!tensors.is_empty());
        for (name, tensor) in tensors.tensors() {
            let weight = model.weight(&name).unwrap();
            assert_eq!(weight.role, Role::Weight, "{name}");
            assert_eq!(weight.shape, tensor.shape(), "{name}");
        }
    }
}

#[test]
fn a_thousand_problems_are_counted_and_not_printed() {
    let lost: Vec<onnx_protobuf::NodeProto> = (0..1000)
        .map(|i| node("Relu", &["lost"], &[&format!("y{i}")]))
        .collect();
    let e = open(&model(graph(&["x"], vec![], lost, &["x"])))
        .err()
        .unwrap();
    assert!(e.to_string().ends_with("; and 980 more"), "{e}");
    assert_eq!(e.code(), "onnx-not-produced");
    assert_eq!(e.class(), Class::Input);
    assert_eq!(e.hints().len(), 1, "equal hints are given once");
}
