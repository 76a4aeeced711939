//! Real models refitted from real files: each export of each fixture, built with and without the checkpoint that it was exported
//! from, then refitted from the fused checkpoint and from every LoRA file, against torch's outputs and the exporter's own bytes.

use crate::Trial;
use crate::support::fixtures::{self, Fixture, inputs, with_prefix};
use libtest_mimic::Failed;
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use trtmut::engine::cpu::{Cpu, OnnxRuntime};
use trtmut::engine::{Backend, Options, RunOptions};
use trtmut::fault::Explain;
use trtmut::mapping::Permissions;
use trtmut::onnx::Model;
use trtmut::pipeline::{
    self, BuildRequest, Environment, Error, MappingSource, Opening, OverlayRequest, Prepared,
};
use trtmut::plan::Manifest;
use trtmut::shapes::{Overrides, ShapeSpec};
use trtmut::tensor::{Dtype, Tensor, to_f32};
use trtmut::watch::Silent;

/// Largest relative L2 distance from torch's outputs.
const LIMIT: f64 = 1e-4;

/// Largest distance of a fused value from torch's, relative to the largest value of its tensor: the sum over a LoRA's rank is
/// taken in another order, and rounded once.
const ROUNDING: f32 = 1e-6;

/// LoRA files that a fixture may have.
const LORAS: [&str; 3] = [
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "lora_kohya.safetensors",
];

pub(crate) fn trials() -> Vec<Trial> {
    let runtime = crate::support::onnx_runtime();
    let mut trials = Vec::new();
    for fixture in fixtures::all() {
        let label = fixture.label.clone();
        if fixture.name == "resnet" {
            add(&mut trials, &runtime, &format!("{label}/unproven"), {
                let fixture = fixture.clone();
                move |backend| unproven(backend, &fixture)
            });
        }
        let loras = LORAS.into_iter().filter(|f| fixture.path(f).exists());
        for source in std::iter::once("fused.safetensors").chain(loras) {
            let fixture = fixture.clone();
            add(
                &mut trials,
                &runtime,
                &format!("{label}/{source}"),
                move |backend| refitted(backend, &fixture, source),
            );
        }
    }
    assert!(trials.len() >= 2 * 33, "the fixtures were not found");
    trials
}

/// One trial per backend; those of a library that is not here are ignored, with the reason in the name.
fn add(
    trials: &mut Vec<Trial>,
    runtime: &Result<OnnxRuntime, String>,
    name: &str,
    test: impl Fn(&dyn Backend) -> Result<(), Failed> + Send + Clone + 'static,
) {
    let on_cpu = test.clone();
    trials.push(Trial::test(format!("cpu/{name}"), move || on_cpu(&Cpu)));
    let (label, ignored) = match runtime {
        Ok(_) => (format!("onnxruntime/{name}"), false),
        Err(why) => (format!("onnxruntime/{name} ({why})"), true),
    };
    let runtime = runtime.clone();
    trials.push(Trial::test(label, move || test(&runtime?)).with_ignored_flag(ignored));
}

/// A plan of a fixture in a folder of its own.
struct Built {
    folder: TempDir,
    environment: Environment,
    manifest: Manifest,
}

impl Built {
    fn new(backend: &dyn Backend, fixture: &Fixture, base: &[PathBuf]) -> Result<Built, Failed> {
        let folder = tempfile::tempdir()?;
        let model = Model::open(&fixture.model)?;
        let shapes =
            ShapeSpec::open(&fixture.shapes())?.resolve(model.inputs(), &Overrides::default())?;
        let built = pipeline::build(
            &BuildRequest {
                model: &model,
                model_path: &fixture.model,
                shapes: &shapes,
                mapping: MappingSource::Infer {
                    files: base,
                    partial: false,
                    component: None,
                    probe: None,
                },
                options: &Options::new(),
                backend,
                output: &folder.path().join("engine.plan"),
                force: false,
            },
            &Silent,
        )?;
        let mut environment = Environment::default();
        environment.ort_dylib = Some(crate::support::deps().join("onnxruntime/onnxruntime/capi"));
        Ok(Built {
            folder,
            environment,
            manifest: built.manifest,
        })
    }

    fn plan(&self) -> PathBuf {
        self.folder.path().join("engine.plan")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.plan()).expect("the plan is there")
    }

    fn prepare(&self, request: &OverlayRequest) -> Result<Prepared, Error> {
        pipeline::prepare(
            &self.plan(),
            request,
            Opening::Meanwhile,
            &self.environment,
            &Silent,
        )
    }

    fn refit(&self, request: &OverlayRequest) -> Result<Manifest, Error> {
        let mut prepared = self.prepare(request)?;
        prepared.commit(&self.plan(), false, &self.environment, &Silent)?;
        Ok(prepared.manifest)
    }
}

fn request(fixture: &Fixture, source: &str) -> OverlayRequest {
    let file = fixture.path(source);
    if source == "fused.safetensors" {
        OverlayRequest {
            checkpoint: vec![file],
            ..OverlayRequest::default()
        }
    } else {
        OverlayRequest {
            loras: vec![(file, 1.0)],
            ..OverlayRequest::default()
        }
    }
}

/// With and without the base at build: the golden weights change and no others, to the golden bytes, torch's outputs follow, both
/// flows write the same file, and `--base` writes the first one again.
fn refitted(backend: &dyn Backend, fixture: &Fixture, source: &str) -> Result<(), Failed> {
    let base = [fixture.path("base.safetensors")];
    let mut flows = vec![&base[..]];
    if fixture.name != "resnet" {
        // Whose folds nothing but the base proves; see `unproven`.
        flows.push(&[]);
    }
    let mut plans = Vec::new();
    for flow in flows {
        let built = Built::new(backend, fixture, flow)?;
        let first = built.bytes();
        changes(&built, fixture, source)?;
        let manifest = built.refit(&request(fixture, source))?;
        holds(&built, &manifest, fixture, source)?;
        computes(&built, fixture, "fused.")?;
        plans.push(built.bytes());
        let mut again = built.prepare(&request(fixture, source))?;
        if !again.is_live() {
            return Err("refitted once, it is not live".into());
        }
        // Written over itself, it is the same: nothing adds up.
        again.commit(&built.plan(), false, &built.environment, &Silent)?;
        if Some(&built.bytes()) != plans.last() {
            return Err("refitted twice, it is another file".into());
        }
        let back = built.refit(&OverlayRequest::default())?;
        if built.bytes() != first {
            return Err("refitted to the base, it is another file than after the build".into());
        }
        same_manifest(&back, &built.manifest, flow.is_empty())?;
        computes(&built, fixture, "base.")?;
    }
    if plans.windows(2).any(|p| p[0] != p[1]) {
        return Err("with and without the base at build, a refit writes different files".into());
    }
    Ok(())
}

/// What a refit says it would change is what the exporter changes.
fn changes(built: &Built, fixture: &Fixture, source: &str) -> Result<(), Failed> {
    let golden = golden(fixture)?;
    let prepared = built.prepare(&request(fixture, source))?;
    let found: BTreeSet<&str> = prepared
        .decision
        .changes
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    let wanted: BTreeSet<&str> = golden.keys().map(String::as_str).collect();
    if found != wanted {
        return Err(format!(
            "it would change {:?} too many, {:?} too few",
            found.difference(&wanted).collect::<Vec<_>>(),
            wanted.difference(&found).collect::<Vec<_>>()
        )
        .into());
    }
    let info = fixture.info();
    let counted = &info["export"][&fixture.exporter]["refit_initializers"];
    if let Some(n) = counted.as_u64()
        && n != found.len() as u64
    {
        return Err(format!("{} weights change, info.json counts {n}", found.len()).into());
    }
    Ok(())
}

/// The written plan holds the golden bytes: all of them from the fused checkpoint, within one rounding from a LoRA or a fold.
fn holds(
    built: &Built,
    manifest: &Manifest,
    fixture: &Fixture,
    source: &str,
) -> Result<(), Failed> {
    let bytes = built.bytes();
    let held = SafeTensors::deserialize(&bytes)?;
    let exact = source == "fused.safetensors" && fixture.name != "resnet";
    for (name, wanted) in golden(fixture)? {
        let row = manifest
            .weight(&name)
            .ok_or_else(|| format!("the manifest has no `{name}`"))?;
        let data = held.tensor(&name)?.data();
        if trtmut::tensor::Digest::of(data) != row.digest {
            return Err(format!("the manifest's digest of `{name}` is of other bytes").into());
        }
        if row.base.is_none() {
            return Err(format!("the manifest takes `{name}` for a base weight").into());
        }
        if exact && data != wanted.data {
            return Err(format!("`{name}` is not the exporter's, bit for bit").into());
        }
        let (got, want) = (
            to_f32(wanted.dtype, data)?,
            to_f32(wanted.dtype, &wanted.data)?,
        );
        let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let apart = got
            .iter()
            .zip(&want)
            .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        if apart.is_nan() || apart > ROUNDING * scale {
            return Err(format!("`{name}` is {apart:e} off, of {scale:e}").into());
        }
    }
    Ok(())
}

fn computes(built: &Built, fixture: &Fixture, prefix: &str) -> Result<(), Failed> {
    let model = Model::open(&fixture.model)?;
    let mut engine = pipeline::open(&built.plan(), &built.environment)?.engine;
    engine.prepare(&RunOptions {
        threads: Some(1),
        ..RunOptions::default()
    })?;
    for io in 0..3 {
        let bytes = fs::read(fixture.path(&format!("io{io}.safetensors")))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let outputs = engine.run(&inputs(&model, &file))?;
        for (name, want) in with_prefix(&file, prefix) {
            let got = outputs
                .iter()
                .find(|(n, _)| *n == name)
                .ok_or_else(|| format!("there is no output `{name}`"))?;
            if got.1.shape != want.shape {
                return Err(format!("`{name}` is {:?}", got.1.shape).into());
            }
            let distance = fixtures::relative_l2(
                &to_f32(got.1.dtype, &got.1.data)?,
                &to_f32(want.dtype, &want.data)?,
            );
            // Not `distance > LIMIT`, so that NaN fails.
            if distance.is_nan() || distance > LIMIT {
                return Err(format!("`{prefix}{name}` is {distance:.3e} away, io{io}").into());
            }
        }
    }
    Ok(())
}

/// Equal but for what a checkpoint has taught about the mapping, where nothing had proven it before.
fn same_manifest(back: &Manifest, first: &Manifest, learnt: bool) -> Result<(), Failed> {
    let plain = |m: &Manifest| {
        let mut m = m.clone();
        if learnt {
            m.base = None;
            m.weights.iter_mut().for_each(|w| w.mapping = None);
        }
        m
    };
    if plain(back) == plain(first) {
        Ok(())
    } else {
        Err("refitted to the base, the manifest is another than after the build".into())
    }
}

/// Another checkpoint of a model with folded normalisations: without the base nothing tells which tensors a kernel comes from.
fn unproven(backend: &dyn Backend, fixture: &Fixture) -> Result<(), Failed> {
    let built = Built::new(backend, fixture, &[])?;
    let first = built.bytes();
    let plain = request(fixture, "fused.safetensors");
    let trusting = OverlayRequest {
        permissions: Permissions {
            trust_names: true,
            ..Permissions::default()
        },
        ..plain.clone()
    };
    let partial = OverlayRequest {
        permissions: Permissions {
            partial: true,
            ..trusting.permissions.clone()
        },
        ..trusting.clone()
    };
    for refused in [&plain, &trusting, &partial] {
        let Err(error) = built.refit(refused) else {
            return Err("another checkpoint was taken without proof".into());
        };
        if !error.hints().iter().any(|h| h.contains("--base-weights")) {
            return Err(format!("no hint says how to prove it: {:?}", error.hints()).into());
        }
    }
    if built.bytes() != first {
        return Err("a refused refit has changed the plan".into());
    }
    let proving = OverlayRequest {
        base_weights: vec![fixture.path("base.safetensors")],
        ..plain.clone()
    };
    built.refit(&proving)?;
    computes(&built, fixture, "fused.")?;
    let late = built.bytes();
    let early = Built::new(backend, fixture, &proving.base_weights)?;
    early.refit(&plain)?;
    if early.bytes() != late {
        return Err("proven at build and proven at refit, it is another file".into());
    }
    // The proof stays with the plan.
    built.refit(&OverlayRequest::default())?;
    if built.bytes() != first {
        return Err("refitted to the base, it is another file than after the build".into());
    }
    built.refit(&plain)?;
    if built.bytes() != late {
        return Err("refitted again, it is another file".into());
    }
    Ok(())
}

/// ONNX name and bytes of every weight that the fused model's own export holds otherwise than the base model's.
fn golden(fixture: &Fixture) -> Result<BTreeMap<String, Tensor>, Failed> {
    let file = format!("refit.{}.safetensors", fixture.exporter);
    let bytes = fs::read(fixture.path(&file))?;
    SafeTensors::deserialize(&bytes)?
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let dtype = Dtype::from_safetensors(&view.dtype().to_string())
                .ok_or_else(|| format!("`{name}` has no known type"))?;
            let tensor = Tensor {
                dtype,
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            };
            Ok((name, tensor))
        })
        .collect()
}
