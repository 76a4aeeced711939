//! The key table: what makes another engine, and what does not, on real models, specs, options and machines.
//!
//! A pair with the same key that needed two engines would be a wrong answer; one with two keys that needed only one engine is a
//! compilation too many.
#![allow(clippy::print_stdout, reason = "figures are read with --nocapture")]

use crate::verdicts::changes::CHANGES;
use crate::verdicts::model::{F16, alter, base, constant, declared, f32s, first_dim, node};
use crate::verdicts::spread;
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{Message, ModelProto, type_proto};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use trtmut::cache::{Key, KeyFields};
use trtmut::engine::{Identity, Options};
use trtmut::onnx::{Error, Model};
use trtmut::pipeline;
use trtmut::shapes::{Overrides, ShapeSpec};
use trtmut::watch::Silent;

const SPEC: &str =
    r#"{"dims": {"N": {"min": 1, "opt": 2, "max": 8}}, "inputs": {"x": {"0": "N"}}}"#;

/// A build, in all that its key may depend on.
struct Case {
    model: ModelProto,
    file: &'static str,
    spec: String,
    dims: Vec<&'static str>,
    options: Vec<(&'static str, &'static str)>,
    backend: &'static str,
    library: &'static str,
    device: Vec<(&'static str, &'static str)>,
}

fn gpu(name: &'static str, capability: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("gpu", name),
        ("compute_capability", capability),
        ("driver", "570.86"),
    ]
}

fn start() -> Case {
    Case {
        model: base(),
        file: "model.onnx",
        spec: SPEC.into(),
        dims: Vec::new(),
        options: Vec::new(),
        backend: "tensorrt",
        library: "TensorRT 10.9.0",
        device: gpu("NVIDIA A10", "8.6"),
    }
}

fn fields_of(
    path: &Path,
    spec: &ShapeSpec,
    dims: &[&str],
    options: &[(&str, &str)],
    backend: &Identity,
) -> KeyFields {
    let model = Model::open(path).unwrap();
    let overrides = Overrides::from_args(dims, &[]).unwrap();
    let shapes = spec.resolve(model.inputs(), &overrides).unwrap();
    let owned = options.iter().map(|(n, v)| ((*n).into(), (*v).into()));
    let options: Options = owned.collect();
    pipeline::key_fields(&model, &shapes.profile(), &options, backend, None, &Silent)
}

impl Case {
    fn backend(&self) -> Identity {
        let device = self.device.iter();
        Identity {
            backend: self.backend.into(),
            library: self.library.into(),
            device: device.map(|(n, v)| ((*n).into(), (*v).into())).collect(),
        }
    }

    fn key(&self) -> Key {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(self.file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, self.model.write_to_bytes().unwrap()).unwrap();
        let spec = ShapeSpec::parse(&self.spec, "spec").unwrap();
        fields_of(&path, &spec, &self.dims, &self.options, &self.backend()).key()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Same,
    Other,
}
use Is::{Other, Same};

/// Compares pairs, and counts them.
#[derive(Default)]
struct Table {
    rows: usize,
    wrong: Vec<String>,
}

impl Table {
    fn row(&mut self, name: &str, expected: Is, a: Key, b: Key) {
        let found = if a == b { Same } else { Other };
        if found != expected {
            self.wrong
                .push(format!("{name}: {found:?}, not {expected:?}"));
        }
        self.rows += 1;
    }

    fn change(&mut self, name: &str, expected: Is, change: impl FnOnce(&mut Case)) {
        let mut case = start();
        change(&mut case);
        self.row(name, expected, start().key(), case.key());
    }

    /// Two changes of the start against each other.
    fn pair(
        &mut self,
        name: &str,
        expected: Is,
        a: impl FnOnce(&mut Case),
        b: impl FnOnce(&mut Case),
    ) {
        let (mut left, mut right) = (start(), start());
        a(&mut left);
        b(&mut right);
        self.row(name, expected, left.key(), right.key());
    }

    #[track_caller]
    fn holds(&self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        assert!(self.rows >= at_least, "{} rows", self.rows);
        println!("{} pairs", self.rows);
    }
}

/// Changes of the model after which the engine serves as it is, or with a refit. All others make another engine: whatever is part
/// of what an engine is asked by (names of inputs and outputs, also of dims, which TensorRT keeps), or of what it computes.
const SERVES: &[&str] = &[
    "kernel bytes",
    "bias bytes",
    "scalar bytes",
    "one bit of a matrix",
    "bytes in a Constant node",
    "norm bytes",
    "shared matrix bytes",
    "two weights exchange their bytes",
    "bytes of an unused constant",
    "documentation",
    "node names",
    "producer",
    "metadata",
    "nodes in another order",
    "value_info",
    "numbers written another way",
    "a value in between renamed",
    "a baked Constant node renamed",
    "initializers in another order",
    "attributes in another order",
];

#[test]
fn models() {
    let mut table = Table::default();
    for change in CHANGES {
        let is = if SERVES.contains(&change.name) {
            Same
        } else {
            Other
        };
        table.change(change.name, is, |c| {
            (change.apply)(&mut c.model).unwrap();
            match change.name {
                "input renamed" => c.spec = SPEC.replace("\"x\"", "\"picture\""),
                "dim fixed" => c.spec = r#"{"dims": {}, "inputs": {}}"#.into(),
                _ => {}
            }
        });
    }
    assert!(SERVES.iter().all(|n| CHANGES.iter().any(|c| c.name == *n)));
    table.change("a weight of another shape", Other, |c| {
        let weight = f32s("proj.weight", &[3, 5], &spread(15, 14));
        *constant(&mut c.model, "proj.weight").unwrap() = weight;
    });
    table.change("a weight with its extents exchanged", Other, |c| {
        constant(&mut c.model, "proj.weight")
            .unwrap()
            .dims
            .reverse();
    });
    table.change("a tensor's declared type", Other, |c| {
        let input = &mut c.model.graph.mut_or_insert_default().input[0];
        let value = &mut input.type_.as_mut().unwrap().value;
        let Some(type_proto::Value::TensorType(tensor)) = value else {
            unreachable!()
        };
        tensor.elem_type = F16;
    });
    table.change("an input more", Other, |c| {
        let more = declared("mask", &["4"]);
        c.model.graph.mut_or_insert_default().input.push(more);
        node(&mut c.model, "Relu").unwrap().op_type = "Add".into();
        node(&mut c.model, "Add").unwrap().input[1] = "mask".into();
    });
    table.change("an output less", Other, |c| {
        c.model.graph.mut_or_insert_default().output.pop();
    });
    table.change("another dim renamed", Other, |c| {
        first_dim(&mut c.model, dimension::Value::DimParam("B".into())).unwrap();
    });
    table.holds(50);
}

#[test]
fn files() {
    let mut table = Table::default();
    table.change("the file's name", Same, |c| {
        c.file = "other.onnx";
    });
    table.change("the file's folder", Same, |c| {
        c.file = "some/where/model.onnx";
    });
    let dir = tempfile::tempdir().unwrap();
    let spec = ShapeSpec::parse(SPEC, "spec").unwrap();
    let key = |path: &Path| fields_of(path, &spec, &[], &[], &start().backend()).key();
    let path = dir.path().join("model.onnx");
    fs::write(&path, base().write_to_bytes().unwrap()).unwrap();
    let first = key(&path);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    table.row("its time", Same, first, key(&path));
    table.holds(3);
}

#[test]
fn exports_of_the_fixtures() {
    let mut table = Table::default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut found: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .flat_map(|d| {
            let folder = d.unwrap().path();
            ["model.ts.onnx", "model.dynamo.onnx"].map(|f| folder.join(f))
        })
        .filter(|p| p.exists())
        .collect();
    found.sort();
    // Only the models differ.
    let key = |path: &Path| {
        let model = Model::open(path).unwrap();
        let profile = trtmut::shapes::Profile::default();
        let backend = start().backend();
        let none = Options::new();
        pipeline::key_fields(&model, &profile, &none, &backend, None, &Silent).key()
    };
    let keys: Vec<Key> = found.iter().map(|p| key(p)).collect();
    for (i, a) in found.iter().enumerate() {
        for (j, b) in found[..i].iter().enumerate() {
            let name = format!("{} and {}", a.display(), b.display());
            table.row(&name, Other, keys[i], keys[j]);
        }
        let dir = tempfile::tempdir().unwrap();
        let model = Model::open(a).unwrap();
        let create = |name: &str| File::create(dir.path().join(name)).unwrap();
        let bytes_of = |w: &trtmut::onnx::Weight| Ok(model.bytes(w));
        model
            .write_onnx::<Error>(&mut create("inline.onnx"), &bytes_of)
            .unwrap();
        let (mut out, mut data) = (create("external.onnx"), create("data"));
        model
            .write_onnx_external::<Error>(&mut out, &mut data, "data", &bytes_of)
            .unwrap();
        for again in ["inline.onnx", "external.onnx"] {
            let name = format!("{} written as {again}", a.display());
            table.row(&name, Same, keys[i], key(&dir.path().join(again)));
        }
    }
    table.holds(70);
}

#[test]
fn shapes() {
    let mut table = Table::default();
    for (name, dim) in [
        ("smallest", "N=2:2:8"),
        ("optimised for", "N=1:4:8"),
        ("largest", "N=1:2:16"),
        ("fixed", "N=2"),
        ("all three", "N=3:4:5"),
    ] {
        table.change(name, Other, |c| c.dims = vec![dim]);
    }
    table.change("the same range by hand", Same, |c| c.dims = vec!["N=1:2:8"]);
    table.change("keys of the spec in another order", Same, |c| {
        c.spec = r#"{"inputs":{"x":{"0":"N"}},"dims":{"N":{"max":8,"opt":2,"min":1}}}"#.into();
    });
    table.change("another name in the spec", Same, |c| {
        c.spec = SPEC.replace("\"N\"", "\"Batch\"");
    });
    table.change("a size that is fixed anyway", Same, |c| {
        c.spec = SPEC.replace("{\"0\": \"N\"}", "{\"0\": \"N\", \"1\": 2}");
    });
    table.holds(9);
}

#[test]
fn options() {
    let mut table = Table::default();
    let all = [
        ("precision", "fp16"),
        ("precision", "bf16"),
        ("precision", "fp16,int8"),
        ("tf32", "true"),
        ("opt-level", "3"),
        ("opt-level", "5"),
        ("workspace", "1G"),
        ("sparsity", "true"),
        ("strip", "true"),
        ("refit", "none"),
        ("refit", "identical"),
        ("refit", "individual"),
        ("version-compatible", "true"),
        ("hardware-compat", "ampere-plus"),
        ("hardware-compat", "same-compute-capability"),
        ("profiling-verbosity", "detailed"),
        ("f32-layers", "*norm*"),
    ];
    for (i, option) in all.into_iter().enumerate() {
        let name = format!("{option:?}");
        table.change(&name, Other, |c| c.options = vec![option]);
        for other in &all[..i] {
            let name = format!("{option:?} and {other:?}");
            table.pair(
                &name,
                Other,
                |c| c.options = vec![option],
                |c| c.options = vec![*other],
            );
        }
    }
    for default in [
        ("refit", "full"),
        ("tf32", "false"),
        ("hardware-compat", "none"),
        ("precision", "model"),
    ] {
        table.change(&format!("the default, {default:?}"), Same, |c| {
            c.options = vec![default];
        });
    }
    table.pair(
        "one size in two spellings",
        Same,
        |c| c.options = vec![("workspace", "1G")],
        |c| c.options = vec![("workspace", "1024M")],
    );
    table.pair(
        "options in another order",
        Same,
        |c| c.options = vec![("tf32", "true"), ("sparsity", "true")],
        |c| c.options = vec![("sparsity", "true"), ("tf32", "true")],
    );
    let other_weights = |c: &mut Case| alter(&mut c.model, "proj.weight", |_, v| v + 1.0).unwrap();
    for (option, is) in [
        (("refit", "full"), Same),
        (("refit", "individual"), Same),
        (("refit", "none"), Other),
        (("refit", "identical"), Other),
        (("strip", "true"), Other),
        (("strip", "false"), Same),
    ] {
        table.pair(
            &format!("other weights with {option:?}"),
            is,
            |c| c.options = vec![option],
            |c| {
                c.options = vec![option];
                other_weights(c);
            },
        );
    }
    table.holds(100);
}

#[test]
fn libraries_and_machines() {
    let mut table = Table::default();
    table.change("library", Other, |c| c.library = "TensorRT 10.9.1");
    table.change("backend", Other, |c| c.backend = "tensorrt-rtx");
    table.change("GPU", Other, |c| c.device = gpu("NVIDIA A40", "8.6"));
    table.change("capability", Other, |c| c.device = gpu("NVIDIA A10", "8.9"));
    table.change("no GPU", Other, |c| c.device = Vec::new());
    table.change("driver", Same, |c| c.device[2].1 = "580.82");
    table.change("no driver version", Same, |c| {
        c.device.pop();
    });
    let (a10, a40, l4) = (
        gpu("NVIDIA A10", "8.6"),
        gpu("NVIDIA A40", "8.6"),
        gpu("NVIDIA L4", "8.9"),
    );
    let (t4, rtx2080) = (
        gpu("Tesla T4", "7.5"),
        gpu("NVIDIA GeForce RTX 2080", "7.5"),
    );
    let rtx = |capability| ("tensorrt-rtx", ("compute-capability", capability));
    let trt = |level| ("tensorrt", ("hardware-compat", level));
    for ((backend, option), left, right, is) in [
        (trt("none"), &a10, &a40, Other),
        (trt("none"), &a10, &l4, Other),
        (trt("ampere-plus"), &a10, &a40, Same),
        (trt("ampere-plus"), &a10, &l4, Same),
        // Older than Ampere: no part of the promise.
        (trt("ampere-plus"), &a10, &t4, Other),
        (trt("ampere-plus"), &rtx2080, &t4, Other),
        (trt("same-compute-capability"), &a10, &a40, Same),
        (trt("same-compute-capability"), &t4, &rtx2080, Same),
        (trt("same-compute-capability"), &a10, &l4, Other),
        (rtx("8.9"), &a10, &l4, Same),
        (rtx("8.9"), &a10, &Vec::new(), Same),
        (rtx("8.6,8.9"), &t4, &l4, Same),
        // Where it is not said, TensorRT-RTX compiles for the GPU here.
        (("tensorrt-rtx", ("tf32", "true")), &a10, &l4, Other),
        // An option of the other product promises nothing.
        (
            ("tensorrt", ("compute-capability", "8.9")),
            &a10,
            &l4,
            Other,
        ),
        (
            ("tensorrt-rtx", ("hardware-compat", "ampere-plus")),
            &a10,
            &l4,
            Other,
        ),
    ] {
        let on = |device: &[(&'static str, &'static str)]| {
            let device = device.to_vec();
            move |c: &mut Case| {
                c.backend = backend;
                c.options = vec![option];
                c.device = device;
            }
        };
        let name = format!("{backend} {option:?}: {left:?} and {right:?}");
        table.pair(&name, is, on(left), on(right));
    }
    table.pair(
        "compiled for two lists of GPUs",
        Other,
        |c| (c.backend, c.options) = ("tensorrt-rtx", vec![("compute-capability", "8.9")]),
        |c| (c.backend, c.options) = ("tensorrt-rtx", vec![("compute-capability", "8.6,8.9")]),
    );
    table.holds(23);
}

#[test]
fn what_a_checkpoint_marks() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dit");
    let model = Model::open(fixture.join("model.ts.onnx")).unwrap();
    let profile = trtmut::shapes::Profile::default();
    let key = |option: (&str, &str), files: &[PathBuf]| {
        let options: Options = [(option.0.into(), option.1.into())].into();
        let backend = start().backend();
        let fields = pipeline::key_fields(&model, &profile, &options, &backend, None, &Silent);
        let from = pipeline::MappingSource::Infer {
            files,
            partial: false,
            component: None,
            probe: None,
        };
        let fields = pipeline::with_checkpoint(fields, &model, &options, from, None, &Silent);
        fields.unwrap().key()
    };
    let base = [fixture.join("base.safetensors")];
    let mut table = Table::default();
    for (option, is) in [
        (("refit", "individual"), Other),
        (("refit", "full"), Same),
        (("refit", "none"), Same),
    ] {
        table.row(
            &format!("a checkpoint with {option:?}"),
            is,
            key(option, &base),
            key(option, &[]),
        );
    }
    table.holds(3);
}
