//! What `diff` says of a plan and a model, against what engines show: every single change of a list and every pair of them.
//!
//! The truth is found without looking at digests or summaries (which constants are slots of the CPU engine does follow their
//! roles, so whether TensorRT bakes the same ones is not shown here). The old plan is compiled and run, the new model is
//! compiled and run, and the old plan is refitted with the new model's bytes, name by name, and run. What `diff` says must be
//! equal to what that shows. Where it asks for more on purpose, the change says why; it must never ask for less.

pub mod changes;
pub mod model;

use changes::{CHANGES, Change};
use model::base;
use onnx_protobuf::{Message, ModelProto};
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
    BuildRequest, CompareRequest, MappingSource, OverlayRequest, build, compare,
};
use trtmut::shapes::{Overrides, Profile, ShapeSpec};
use trtmut::tensor::{Dtype, Extent, NamedTensors, Tensor, TensorDecl};
use trtmut::watch::Silent;

const SHAPES: &str = r#"{"dims": {"N": {"min": 1, "max": 8}}, "inputs": {"x": {"0": "N"}}}"#;

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
                mapping: MappingSource::Infer {
                    files: &[],
                    partial: false,
                    component: None,
                    probe: None,
                },
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
            let found = compare(&request, &Silent);
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
        profile: &Profile::default(),
        options: &Options::new(),
        mark: None,
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
    engine
        .prepare(&RunOptions {
            threads: Some(1),
            ..RunOptions::default()
        })
        .ok()?;
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
pub fn spread(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}
