//! What `diff` says of a plan and a model, against what engines show: every single change of a list and every pair of them.
//!
//! The truth is found without looking at digests, roles or summaries. The old plan is compiled and run, the new model is
//! compiled and run, and the old plan is refitted with the new model's bytes, name by name, and run. What `diff` says must be
//! equal to what that shows. Where it asks for more on purpose, the change says why; it must never ask for less.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trtmut::diff::Verdict;
use trtmut::engine::cpu::Cpu;
use trtmut::engine::{Backend, BuildJob, Engine, Error, Feed, Options, RunOptions, Slot};
use trtmut::onnx::Model;
use trtmut::pipeline::{
    BuildRequest, CompareRequest, Environment, MappingSource, OverlayRequest, build, compare,
};
use trtmut::shapes::{Overrides, Profile, ShapeSpec};
use trtmut::tensor::{Dtype, Extent, NamedTensors, Tensor, TensorDecl};
use trtmut::watch::Silent;

const F32: i32 = 1;
const I64: i32 = 7;
const F16: i32 = 10;

const SHAPES: &str = r#"{"dims": {"N": {"min": 1, "max": 8}}, "inputs": {"x": {"0": "N"}}}"#;

/// One change of the model. `None` where it cannot be made, because another change took away what it is about.
struct Change {
    name: &'static str,
    apply: fn(&mut ModelProto) -> Option<()>,
    /// Why `diff` asks for more than the CPU engine needs; only what says so may.
    careful: Option<&'static str>,
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
const CHANGES: &[Change] = &[
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

#[test]
fn verdicts_equal_what_engines_show() {
    let old = Old::build();
    let mut cases: Vec<Vec<&Change>> = CHANGES.iter().map(|c| vec![c]).collect();
    for (i, first) in CHANGES.iter().enumerate() {
        cases.extend(CHANGES[i + 1..].iter().map(|second| vec![first, second]));
    }
    let mut wrong = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut used = BTreeSet::new();
    // Threads, since a pool that also runs what `compare` asks of it nests one case in another without bound.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = cases.len().div_ceil(threads);
    let outcomes: Vec<Option<Outcome>> = std::thread::scope(|scope| {
        let old = &old;
        let workers: Vec<_> = (cases.chunks(share).enumerate())
            .map(|(i, share)| {
                let file = i.to_string();
                scope.spawn(move || -> Vec<_> {
                    share.iter().map(|case| old.judge(case, &file)).collect()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect()
    });
    for (case, outcome) in cases.iter().zip(outcomes) {
        let name = case.iter().map(|c| c.name).collect::<Vec<_>>().join(" + ");
        let why: Vec<&str> = case.iter().filter_map(|c| c.careful).collect();
        let single = case.len() == 1;
        let Some(Outcome {
            said,
            unaided,
            between,
            truth,
        }) = outcome
        else {
            assert!(!single, "`{name}` alone makes no model that runs");
            continue;
        };
        *counts.entry(truth.name()).or_default() += 1;
        if unaided != said || between != said {
            wrong.push(format!(
                "{name}: {said}, but {unaided} without the old model, {between} between models"
            ));
        }
        if said < truth {
            wrong.push(format!("{name}: {said} is too mild, {truth} is true"));
        } else if said > truth && why.is_empty() {
            wrong.push(format!("{name}: {said}, {truth} is true"));
        } else if said > truth && single {
            used.insert(case[0].name);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let listed = CHANGES
        .iter()
        .filter(|c| c.careful.is_some())
        .map(|c| c.name);
    assert_eq!(
        used,
        listed.collect(),
        "changes that are listed as careful, and that are"
    );
    assert!(
        counts.values().sum::<usize>() >= 500,
        "too few cases: {counts:?}"
    );
    assert!(
        counts.values().all(|&n| n >= 20) && counts.len() == 3,
        "{counts:?}"
    );
}

/// What was found of one case.
struct Outcome {
    /// What `diff` says.
    said: Verdict,
    /// What it says when the model that the plan was compiled from is gone.
    unaided: Verdict,
    /// What it says of the two models.
    between: Verdict,
    /// What engines show.
    truth: Verdict,
}

/// The plan that everything is compared with.
struct Old {
    folder: tempfile::TempDir,
    proto: ModelProto,
    model: Model,
    shown: Shown,
    environment: Environment,
}

/// What an engine shows of itself.
#[derive(PartialEq)]
struct Shown {
    inputs: Vec<TensorDecl>,
    outputs: Vec<TensorDecl>,
    slots: BTreeMap<String, Slot>,
    results: Vec<NamedTensors>,
}

impl Old {
    fn build() -> Old {
        let folder = tempfile::tempdir().unwrap();
        let proto = base();
        let environment = Environment::default();
        for place in ["kept", "gone"] {
            let at = folder.path().join(place);
            fs::create_dir(&at).unwrap();
            let model_path = at.join("model.onnx");
            fs::write(&model_path, proto.write_to_bytes().unwrap()).unwrap();
            let model = Model::open(&model_path).unwrap();
            let spec = ShapeSpec::parse(SHAPES, "shapes.json").unwrap();
            let shapes = spec.resolve(model.inputs(), &Overrides::default());
            let request = BuildRequest {
                model: &model,
                model_path: &model_path,
                shapes: &shapes.unwrap(),
                mapping: MappingSource::Infer(&[]),
                options: &Options::new(),
                backend: &Cpu,
                output: &at.join("engine.plan"),
                force: false,
            };
            build(&request, &Silent).unwrap();
        }
        fs::remove_file(folder.path().join("gone/model.onnx")).unwrap();
        let model = Model::open(folder.path().join("kept/model.onnx")).unwrap();
        let read = readers(&proto);
        let mut engine = Cpu.open(&folder.path().join("kept/engine.plan")).unwrap();
        let shown = show(engine.as_mut(), &read).expect("the old model runs");
        Old {
            folder,
            proto,
            model,
            shown,
            environment,
        }
    }

    fn at(&self, place: &str) -> PathBuf {
        self.folder.path().join(place)
    }

    /// Files are called `file`. `None` where the changes do not go together, or make no model that is valid and runs.
    fn judge(&self, changes: &[&Change], file: &str) -> Option<Outcome> {
        let mut proto = self.proto.clone();
        for change in changes {
            (change.apply)(&mut proto)?;
        }
        let path = self.at(file).with_extension("onnx");
        fs::write(&path, proto.write_to_bytes().unwrap()).unwrap();
        let model = Model::open(&path).ok()?;
        let truth = self.truth(model, &readers(&proto), &self.at(file))?;
        let say = |place| {
            let request = CompareRequest {
                old: self.at(place),
                new: vec![path.clone()],
                overlay: OverlayRequest::default(),
                shapes: None,
                measure: None,
            };
            let found = compare(&request, &self.environment, &Silent);
            found.unwrap().diff.verdict
        };
        Some(Outcome {
            said: say("kept/engine.plan"),
            unaided: say("gone/engine.plan"),
            between: say("kept/model.onnx"),
            truth,
        })
    }

    fn truth(&self, model: Model, read: &BTreeSet<String>, plan: &Path) -> Option<Verdict> {
        compile(&model, plan)?;
        let new = show(Cpu.open(plan).ok()?.as_mut(), read)?;
        let old = &self.shown;
        let same = new.inputs == old.inputs && new.outputs == old.outputs && new.slots == old.slots;
        if !same {
            return Some(Verdict::NeedsRecompile);
        }
        let before = &self.model;
        let bytes =
            |model: &Model, name: &str| model.weight(name).map(|w| model.bytes(w).into_owned());
        let equal = |name: &String| bytes(before, name) == bytes(&model, name);
        if new.results == old.results && new.slots.keys().all(equal) {
            return Some(Verdict::Live);
        }
        let mut engine = Cpu.open(&self.at("kept/engine.plan")).unwrap();
        let feed = Arc::new(ByName(model));
        engine.refit(feed, &Silent).unwrap();
        let names = old.slots.keys().cloned().collect();
        let refitted = show(engine.as_mut(), &names)?;
        Some(if refitted == new {
            Verdict::NeedsRefit
        } else {
            Verdict::NeedsRecompile
        })
    }
}

/// A model's bytes, by name alone.
struct ByName(Model);

impl Feed for ByName {
    fn bytes(&self, slot: &Slot) -> Result<Option<Cow<'_, [u8]>>, Error> {
        Ok(self.0.weight(&slot.name).map(|w| self.0.bytes(w)))
    }
}

fn compile(model: &Model, path: &Path) -> Option<()> {
    let job = BuildJob {
        model,
        profile: &Profile { inputs: Vec::new() },
        options: &Options::new(),
    };
    let mut out = Vec::new();
    Cpu.build(&job, &mut out, &Silent).ok()?;
    fs::File::create(path).unwrap().write_all(&out).unwrap();
    Some(())
}

/// Interface, the slots among `read`, and results; `None` where it does not run.
fn show(engine: &mut dyn Engine, read: &BTreeSet<String>) -> Option<Shown> {
    let slots = engine.slots().unwrap().into_iter();
    let slots = slots.filter(|s| read.contains(&s.name));
    let slots = slots.map(|s| (s.name.clone(), s)).collect();
    engine.prepare(&RunOptions { threads: Some(1) }).ok()?;
    let inputs = engine.inputs().to_vec();
    let mut results = Vec::new();
    for (seed, batch) in [(1, 4), (2, 4), (3, 8)] {
        results.push(engine.run(&seeded(&inputs, seed, batch)).ok()?);
    }
    Some(Shown {
        inputs,
        outputs: engine.outputs().to_vec(),
        slots,
        results,
    })
}

/// Names that some node reads.
fn readers(proto: &ModelProto) -> BTreeSet<String> {
    let nodes = proto.graph.node.iter();
    nodes.flat_map(|n| n.input.iter().cloned()).collect()
}

/// Values between -1 and 1; an extent that is not fixed is `batch`.
fn seeded(inputs: &[TensorDecl], seed: u64, batch: usize) -> NamedTensors {
    let tensor = |decl: &TensorDecl| {
        let extents = decl.dims.iter().flatten().map(|d| match d {
            Extent::Fixed(n) => *n,
            Extent::Symbol(_) | Extent::Unknown => batch,
        });
        let shape: Vec<usize> = extents.collect();
        let values = spread(shape.iter().product(), seed);
        Tensor {
            dtype: Dtype::F32,
            shape,
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    };
    inputs.iter().map(|d| (d.name.clone(), tensor(d))).collect()
}

/// `n` values between -1 and 1 (a linear congruential generator with Knuth's constants).
fn spread(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// A convolution between constants that engines bake in, then a product, from which one output is normalised and the other
/// goes through two products with one matrix.
fn base() -> ModelProto {
    let random = |name: &str, dims: &[i64], seed| {
        f32s(
            name,
            dims,
            &spread(dims.iter().product::<i64>() as usize, seed),
        )
    };
    let node = vec![
        constant_node("shift", random("", &[4], 11)),
        constant_node("high", f32s("", &[], &[1e6])),
        made("Pad", &["x", "pads"], &["p"], Vec::new()),
        made(
            "Conv",
            &["p", "conv.weight", "conv.bias"],
            &["c"],
            vec![ints("kernel_shape", &[3, 3]), ints("strides", &[1, 1])],
        ),
        made("Mul", &["c", "scale"], &["m"], Vec::new()),
        made("Clip", &["m", "low", "high"], &["k"], Vec::new()),
        made("Reshape", &["k", "target"], &["r"], Vec::new()),
        made("MatMul", &["r", "proj.weight"], &["q"], Vec::new()),
        made("Add", &["q", "shift"], &["a"], Vec::new()),
        made("Gather", &["a", "index"], &["g"], vec![int("axis", 1)]),
        made(
            "LayerNormalization",
            &["g", "norm.weight", "norm.bias"],
            &["y"],
            vec![int("axis", -1), float("epsilon", 1e-5)],
        ),
        made("MatMul", &["g", "tied"], &["h"], Vec::new()),
        made("Relu", &["h"], &["s"], Vec::new()),
        made("MatMul", &["s", "tied"], &["t"], Vec::new()),
        made("Softmax", &["t"], &["z"], vec![int("axis", -1)]),
    ];
    let graph = GraphProto {
        name: "g".into(),
        node,
        initializer: vec![
            random("conv.weight", &[3, 2, 3, 3], 12),
            random("conv.bias", &[3], 13),
            f32s("scale", &[], &[0.75]),
            f32s("low", &[], &[-0.8]),
            i64s("pads", &[0, 0, 1, 1, 0, 0, 1, 1]),
            i64s("target", &[-1, 36, 3]),
            i64s("index", &[0, 2, 3]),
            random("proj.weight", &[3, 4], 14),
            random("norm.weight", &[4], 15),
            random("norm.bias", &[4], 16),
            random("tied", &[4, 4], 17),
            random("spare", &[2], 18),
        ],
        input: vec![declared("x", &["N", "2", "6", "6"])],
        output: vec![
            declared("y", &["M", "3", "4"]),
            declared("z", &["M", "3", "4"]),
        ],
        ..GraphProto::new()
    };
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 17,
            ..OperatorSetIdProto::new()
        }],
        graph: Some(graph).into(),
        ..ModelProto::new()
    }
}

fn made(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    NodeProto {
        name: format!("/{op}/{}", outputs[0]),
        op_type: op.into(),
        input: owned(inputs),
        output: owned(outputs),
        attribute,
        ..NodeProto::new()
    }
}

fn constant_node(output: &str, tensor: TensorProto) -> NodeProto {
    let value = AttributeProto {
        name: "value".into(),
        type_: AttributeType::TENSOR.into(),
        t: Some(tensor).into(),
        ..AttributeProto::new()
    };
    made("Constant", &[], &[output], vec![value])
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::INT.into(),
        i,
        ..AttributeProto::new()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..AttributeProto::new()
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::FLOAT.into(),
        f,
        ..AttributeProto::new()
    }
}

fn f32s(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: F32,
        dims: dims.to_vec(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::new()
    }
}

fn i64s(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: I64,
        dims: vec![values.len() as i64],
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ..TensorProto::new()
    }
}

/// A declared f32 tensor; a dim that is no number is a symbol.
fn declared(name: &str, dims: &[&str]) -> ValueInfoProto {
    let dim = dims.iter().map(|d| Dimension {
        value: Some(match d.parse() {
            Ok(n) => dimension::Value::DimValue(n),
            Err(_) => dimension::Value::DimParam((*d).into()),
        }),
        ..Dimension::new()
    });
    let shape = TensorShapeProto {
        dim: dim.collect(),
        ..TensorShapeProto::new()
    };
    let tensor = type_proto::Tensor {
        elem_type: F32,
        shape: Some(shape).into(),
        ..type_proto::Tensor::new()
    };
    let declared = TypeProto {
        value: Some(type_proto::Value::TensorType(tensor)),
        ..TypeProto::new()
    };
    ValueInfoProto {
        name: name.into(),
        type_: Some(declared).into(),
        ..ValueInfoProto::new()
    }
}

/// Where the first node of an operator is.
fn position(m: &ModelProto, op: &str) -> Option<usize> {
    m.graph.node.iter().position(|n| n.op_type == op)
}

fn node<'m>(m: &'m mut ModelProto, op: &str) -> Option<&'m mut NodeProto> {
    let at = position(m, op)?;
    m.graph.mut_or_insert_default().node.get_mut(at)
}

fn attribute<'m>(m: &'m mut ModelProto, op: &str, name: &str) -> Option<&'m mut AttributeProto> {
    node(m, op)?.attribute.iter_mut().find(|a| a.name == name)
}

/// An initializer, or the value of a Constant node by its output.
fn constant<'m>(m: &'m mut ModelProto, name: &str) -> Option<&'m mut TensorProto> {
    let graph = m.graph.mut_or_insert_default();
    let held = graph.initializer.iter_mut().find(|t| t.name == name);
    held.or_else(|| {
        let made = graph
            .node
            .iter_mut()
            .find(|n| n.op_type == "Constant" && n.output[0] == name)?;
        made.attribute.first_mut()?.t.as_mut()
    })
}

fn drop_initializer(m: &mut ModelProto, name: &str) -> Option<()> {
    let all = &mut m.graph.mut_or_insert_default().initializer;
    let at = all.iter().position(|t| t.name == name)?;
    all.remove(at);
    Some(())
}

fn floats(tensor: &TensorProto) -> Vec<f32> {
    let raw = tensor.raw_data.as_chunks::<4>().0.iter();
    let raw = raw.map(|b| f32::from_le_bytes(*b));
    raw.chain(tensor.float_data.iter().copied()).collect()
}

/// Puts `f(index, value)` in the place of every value.
fn alter(m: &mut ModelProto, name: &str, f: impl Fn(usize, f32) -> f32) -> Option<()> {
    let tensor = constant(m, name).filter(|t| t.data_type == F32)?;
    let values = floats(tensor).into_iter().enumerate();
    tensor.raw_data = values.flat_map(|(i, v)| f(i, v).to_le_bytes()).collect();
    tensor.float_data.clear();
    Some(())
}

fn integers(m: &mut ModelProto, name: &str, values: &[i64]) -> Option<()> {
    constant(m, name)?.raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Some(())
}

fn replace_readers(m: &mut ModelProto, from: &str, to: &str) {
    let nodes = m.graph.mut_or_insert_default().node.iter_mut();
    let inputs = nodes.flat_map(|n| n.input.iter_mut());
    inputs.filter(|i| *i == from).for_each(|i| *i = to.into());
}

/// Puts a node between the first node of `op` and what it reads first.
fn insert_before(m: &mut ModelProto, op: &str, more: &str, output: &str) -> Option<()> {
    let at = position(m, op)?;
    let nodes = &mut m.graph.mut_or_insert_default().node;
    let input = std::mem::replace(&mut nodes[at].input[0], output.into());
    nodes.insert(at, made(more, &[&input], &[output], Vec::new()));
    Some(())
}

/// The first extent of the input.
fn first_dim(m: &mut ModelProto, value: dimension::Value) -> Option<()> {
    let input = m.graph.mut_or_insert_default().input.first_mut()?;
    let Some(type_proto::Value::TensorType(tensor)) = &mut input.type_.as_mut()?.value else {
        return None;
    };
    tensor.shape.as_mut()?.dim.first_mut()?.value = Some(value);
    Some(())
}
