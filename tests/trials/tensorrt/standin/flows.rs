//! The whole program on the stand-in, one command after the other, as users do: what is computed is compared with the embedded
//! engine.

mod documented;
mod normalised;
mod refused;
pub mod triton;

use super::library::{FACTS, Release, StandIn, cuda, stand_in};
use crate::scene::{Done, Scene};
use crate::support::net::{Net, Weights, random, safetensors};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

/// What [`World::prepare`] gives, made by the first flow.
static FILES: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();

/// A folder with a model, a checkpoint and another one, and what the embedded engine computes with each.
pub struct World {
    scene: Scene,
    stand_in: Arc<StandIn>,
}

/// `y = relu(x·a + b)·c + d`, as the TorchScript exporter writes two linear layers.
fn mlp(w: &Weights) -> Net {
    mlp_of("B", w)
}

/// The same for a batch of this size, or of any where it is a name.
fn mlp_of(batch: &str, w: &Weights) -> Net {
    let turned = |name: &str| {
        let (shape, v) = &w[name];
        let (rows, cols) = (shape[0], shape[1]);
        let values = (0..rows * cols).map(|i| v[i % rows * cols + i / rows]);
        (vec![cols, rows], values.collect())
    };
    Net::default()
        .input("x", &[batch, "8"])
        .output("y", &[batch, "4"])
        .weight("onnx::MatMul_1", &turned("fc1.weight"))
        .weight("m.fc1.bias", &w["fc1.bias"])
        .weight("onnx::MatMul_2", &turned("fc2.weight"))
        .weight("m.fc2.bias", &w["fc2.bias"])
        .node("m/fc1", "MatMul", &["x", "onnx::MatMul_1"], "h0", &[])
        .node("m/fc1", "Add", &["m.fc1.bias", "h0"], "h1", &[])
        .node("m/act", "Relu", &["h1"], "h2", &[])
        .node("m/fc2", "MatMul", &["h2", "onnx::MatMul_2"], "h3", &[])
        .node("m/fc2", "Add", &["m.fc2.bias", "h3"], "y", &[])
}

fn weights(seed: u64) -> Weights {
    let shapes: [(&str, &[usize]); 4] = [
        ("fc1.weight", &[16, 8]),
        ("fc1.bias", &[16]),
        ("fc2.weight", &[4, 16]),
        ("fc2.bias", &[4]),
    ];
    let each = shapes.into_iter().enumerate();
    each.map(|(i, (n, s))| (n.to_owned(), random(seed * 100 + i as u64, s)))
        .collect()
}

const BATCH: &str = r#"{"dims": {"B": {"min": 1, "opt": 2, "max": 8}}, "inputs": {"x": ["B", 8]}}"#;

impl World {
    fn new(release: &Release) -> World {
        let scene = Scene::new();
        let world = World {
            scene,
            stand_in: stand_in(release),
        };
        for (name, bytes) in FILES.get_or_init(|| world.prepare()) {
            world.scene.write(name, bytes);
        }
        world
    }

    /// The files that every flow begins with; what the embedded engine computes is computed once.
    fn prepare(&self) -> Vec<(String, Vec<u8>)> {
        let (base, other) = (weights(1), weights(2));
        // The bias alone, whose matrix the library asks for besides.
        let mut bias = base.clone();
        bias.insert("fc2.bias".into(), other["fc2.bias"].clone());
        self.scene
            .write("model.onnx", mlp(&base).onnx(""))
            .write("other.onnx", mlp(&other).onnx(""))
            .write("shapes.json", BATCH)
            .write("base.safetensors", safetensors(&base))
            .write("other.safetensors", safetensors(&other))
            .write("bias.safetensors", safetensors(&bias))
            .write(
                "in.safetensors",
                safetensors(&[("x".to_owned(), random(9, &[3, 8]))].into()),
            );
        for (name, net) in [("base", &base), ("other", &other), ("bias", &bias)] {
            let model = format!("{name}.ref.onnx");
            self.scene.write(&model, mlp(net).onnx(""));
            self.expected(&model, name, &["--shapes", "shapes.json"]);
        }
        let files = self.scene.files().into_iter().map(|(path, bytes)| {
            let name = path.file_name().expect("a name").to_string_lossy();
            (name.into_owned(), bytes)
        });
        files.filter(|(name, _)| !name.contains(".ref.")).collect()
    }

    /// What the embedded engine computes, in `NAME.out.safetensors`.
    fn expected(&self, model: &str, name: &str, more: &[&str]) {
        let plan = format!("{name}.ref.plan");
        let build = [
            "build",
            model,
            "--backend",
            "cpu",
            "--no-cache",
            "-o",
            plan.as_str(),
        ];
        self.run(&[&build, more].concat()).exits(0);
        let out = format!("{name}.out.safetensors");
        self.run(&["run", &plan, "--inputs", "in.safetensors", "--save", &out])
            .exits(0);
    }

    fn release(&self) -> &Release {
        &self.stand_in.release
    }

    fn backend(&self) -> &'static str {
        self.release().product().backend()
    }

    fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Done {
        let mut command = self.scene.command(args);
        command
            .env("TRTMUT_TENSORRT", self.stand_in.path())
            .env("LD_LIBRARY_PATH", cuda())
            .env("STANDIN_CALLS", self.scene.file(".cache/calls"))
            .envs(env.iter().copied());
        std::fs::create_dir_all(self.scene.file(".cache")).expect("a folder");
        let output = command.output().expect("it starts");
        self.scene.done(&command, &output)
    }

    fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, &[])
    }

    fn build(&self, more: &[&str]) -> Done {
        let all = [
            "build",
            "model.onnx",
            "--shapes",
            "shapes.json",
            "--weights",
            "base.safetensors",
            "--backend",
            self.backend(),
            "--force",
            "-o",
            "e.plan",
        ];
        self.run(&[&all, more].concat())
    }

    /// That the plan computes what the embedded engine does with these weights.
    #[track_caller]
    fn computes(&self, plan: &str, weights: &str, more: &[&str]) {
        let expect = format!("{weights}.out.safetensors");
        let run = [
            "run",
            plan,
            "--inputs",
            "in.safetensors",
            "--expect",
            expect.as_str(),
        ];
        self.run(&[&run, more].concat()).exits(0);
    }

    /// That a command is refused with all of `says`, and changes nothing.
    #[track_caller]
    fn refuses(&self, args: &[&str], code: i32, says: &[&str]) {
        let before = self.scene.files();
        let done = self.run(args);
        done.exits(code);
        for text in says {
            assert!(done.stderr.contains(text), "no `{text}` in {}", done.stderr);
        }
        assert!(self.scene.files() == before, "files changed");
    }

    fn has(&self, kind: &str, owner: &str, name: &str) -> bool {
        let groups = FACTS[kind][owner].as_array().expect("groups");
        let mut of = groups.iter();
        let of = of.find(|g| {
            g["in"]
                .as_str()
                .expect("names")
                .split(' ')
                .any(|r| r == self.release().name)
        });
        let method = |signature: &Value| {
            let signature = signature.as_str().unwrap_or_default();
            let head = signature.split('(').next().unwrap_or_default();
            head.rsplit([' ', '*', '&']).next() == Some(name)
        };
        // Enumerators by name; methods in the order of their declaration.
        of.is_some_and(|g| match &g["is"] {
            Value::Array(methods) => methods.iter().any(method),
            values => values.get(name).is_some(),
        })
    }

    /// What the library was called for.
    fn calls(&self) -> BTreeSet<String> {
        let text = std::fs::read_to_string(self.scene.file(".cache/calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A flow of commands.
pub type Flow = fn(&World);

/// All of them; each is skipped by itself where a release has nothing of the kind.
pub const FLOWS: &[(&str, Flow)] = &[
    ("refits", refits),
    ("cache", cache),
    ("not refittable", not_refittable),
    ("stripped", stripped),
    ("identical", identical),
    ("individual", individual),
    ("version-compatible", version_compatible),
    ("data-dependent outputs", data_dependent),
    ("shape inputs", shape_inputs),
    ("half precision", half_precision),
    ("converted", converted),
    ("several profiles", several_profiles),
    ("adopted", adopted),
    ("adopted as it is", adopted_as_it_is),
    ("several GPUs", several_gpus),
    ("layers measured", layers_measured),
    ("several streams", several_streams),
    ("weight streaming", weight_streaming),
    ("plugins", plugins),
    ("failures", failures),
    ("normalised", normalised::normalised),
    ("refused adoptions", refused::adoptions),
    ("outputs that do not grow", refused::outputs_that_grow),
    ("refused plugins", refused::standard_plugins),
    ("documented", documented::examples),
    ("Triton", triton::exported),
];

/// Runs every flow on a release; the methods that were called.
pub fn all(release: &Release) -> BTreeSet<String> {
    let mut called = BTreeSet::new();
    for (name, flow) in FLOWS {
        let world = World::new(release);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| flow(&world)));
        let calls = world.calls();
        if let Err(panic) = done {
            let said = panic.downcast_ref::<String>().map_or("", String::as_str);
            let broken: Vec<_> = calls.iter().filter(|c| c.contains(' ')).collect();
            panic!("{} {name}: {broken:?}: {said}", release.name);
        }
        let broken: Vec<_> = calls.iter().filter(|c| c.contains(' ')).collect();
        assert!(broken.is_empty(), "{} {name}: {broken:?}", release.name);
        called.extend(calls);
    }
    called
}

fn refits(w: &World) {
    let [major, minor, patch] = w.release().version;
    let doctor = w.run(&["doctor"]);
    doctor
        .exits(0)
        .prints(&format!("{major}.{minor}.{patch}"))
        .prints("Stand-in GPU");
    assert!(
        !doctor.stdout.contains("known by") && !doctor.stdout.contains("unusable"),
        "{}",
        doctor.stdout
    );
    w.build(
        &["--no-cache", "--opt-level", "3"][..if w.release().since([8, 6, 0]) { 3 } else { 1 }],
    )
    .exits(0);
    w.computes("e.plan", "base", &["--iters", "2"]);
    w.computes("e.plan", "base", &["--cuda-graph", "--iters", "2"]);
    w.run(&["diff", "e.plan", "base.safetensors", "--exit-code"])
        .exits(0);
    w.run(&["diff", "e.plan", "other.safetensors", "--exit-code"])
        .exits(10)
        .prints("NEEDS_REFIT");
    w.run(&["refit", "e.plan", "other.safetensors", "--verify"])
        .exits(0);
    w.computes("e.plan", "other", &[]);
    w.run(&["refit", "e.plan", "--base"])
        .exits(0)
        .prints("way back: trtmut refit e.plan other.safetensors");
    w.computes("e.plan", "base", &[]);
    w.run(&["refit", "e.plan", "bias.safetensors", "-o", "bias.plan"])
        .exits(0);
    w.computes("bias.plan", "bias", &[]);
    w.computes("e.plan", "other", &["--weights", "other.safetensors"]);
    w.run(&["inspect", "e.plan"]).exits(0);
    let far = safetensors(&[("x".to_owned(), random(9, &[9, 8]))].into());
    w.scene.write("far.safetensors", far);
    let done = w.run(&["run", "e.plan", "--inputs", "far.safetensors"]);
    assert!(
        done.code != 0 && done.stderr.contains('9'),
        "{}",
        done.stderr
    );
}

fn cache(w: &World) {
    let build = |model: &str, out: &str| {
        let args = [
            "build",
            model,
            "--shapes",
            "shapes.json",
            "--backend",
            w.backend(),
            "-o",
            out,
            "--json",
        ];
        let done = w.run(&args);
        done.exits(0);
        done.json()["cache"].to_string()
    };
    let (first, again) = (build("model.onnx", "a.plan"), build("model.onnx", "b.plan"));
    assert_ne!(first, again, "the second time is a hit");
    w.computes("b.plan", "base", &[]);
    build("other.onnx", "c.plan");
    w.computes("c.plan", "other", &[]);
    w.run(&["cache", "verify"]).exits(0);
}

fn not_refittable(w: &World) {
    w.build(&["--no-cache", "--refit", "none"]).exits(0);
    w.computes("e.plan", "base", &[]);
    w.run(&["diff", "e.plan", "other.safetensors", "--exit-code"])
        .exits(20);
    w.run(&["refit", "e.plan", "other.safetensors"]).exits(20);
    w.computes("e.plan", "base", &[]);
}

fn stripped(w: &World) {
    if !w.release().since([10, 0, 0]) {
        w.refuses(
            &[
                "build",
                "model.onnx",
                "--shapes",
                "shapes.json",
                "--backend",
                w.backend(),
                "--strip",
            ],
            1,
            &["stripped plans"],
        );
        return;
    }
    let stays = w.has("enums", "SerializationFlag", "kINCLUDE_REFIT");
    w.build(&["--no-cache"]).exits(0);
    let size = |plan: &str| {
        std::fs::metadata(w.scene.file(plan))
            .expect("it is there")
            .len()
    };
    let full = size("e.plan");
    w.build(&["--no-cache", "--strip"]).exits(0);
    assert!(size("e.plan") < full);
    w.refuses(
        &["run", "e.plan", "--inputs", "in.safetensors"],
        1,
        &["stripped"],
    );
    w.run(&["refit", "e.plan", "other.safetensors", "-o", "full.plan"])
        .exits(0);
    assert!(size("full.plan") > size("e.plan"));
    w.computes("full.plan", "other", &[]);
    w.run(&["refit", "e.plan", "--base", "-o", "base.plan"])
        .exits(0);
    w.computes("base.plan", "base", &[]);
    if stays {
        w.run(&["refit", "full.plan", "--base"]).exits(0);
        w.computes("full.plan", "base", &[]);
        w.run(&["refit", "e.plan", "other.safetensors"]).exits(0);
        w.computes("e.plan", "other", &[]);
    } else {
        // In place it would be the last refit, and the stripped plan would be gone.
        w.refuses(
            &["refit", "e.plan", "other.safetensors"],
            1,
            &["refitted again", "-o"],
        );
        w.run(&["refit", "full.plan", "--base"]).exits(20);
    }
}

fn identical(w: &World) {
    if !w.release().since([10, 0, 0]) {
        return;
    }
    w.build(&["--no-cache", "--strip", "--refit", "identical"])
        .exits(0);
    // The stand-in ends the process when an engine for identical refits is given other bytes.
    let done = w.run(&["refit", "e.plan", "other.safetensors", "-o", "full.plan"]);
    assert!([1, 20].contains(&done.code), "{}", done.stderr);
    w.run(&["refit", "e.plan", "--base", "-o", "full.plan"])
        .exits(0);
    w.computes("full.plan", "base", &[]);
}

fn individual(w: &World) {
    if !w.release().since([10, 2, 0]) {
        w.refuses(
            &[
                "build",
                "model.onnx",
                "--shapes",
                "shapes.json",
                "--backend",
                w.backend(),
                "--refit",
                "individual",
            ],
            1,
            &["refit of single weights"],
        );
        return;
    }
    w.build(&["--no-cache", "--refit", "individual"]).exits(0);
    assert!(
        w.calls()
            .contains("VNetworkDefinition::markWeightsRefittable")
    );
    w.computes("e.plan", "base", &[]);
    w.run(&["refit", "e.plan", "other.safetensors"]).exits(0);
    w.computes("e.plan", "other", &[]);
}

fn version_compatible(w: &World) {
    if !w.has("enums", "BuilderFlag", "kVERSION_COMPATIBLE") {
        return;
    }
    let before_10 = !w.release().since([10, 0, 0]);
    if before_10 {
        let args = [
            "build",
            "model.onnx",
            "--shapes",
            "shapes.json",
            "--backend",
            w.backend(),
            "--version-compatible",
        ];
        w.refuses(&args, 1, &["--refit none"]);
    }
    w.build(&[
        "--no-cache",
        "--version-compatible",
        "--refit",
        if before_10 { "none" } else { "full" },
    ])
    .exits(0);
    w.refuses(
        &["run", "e.plan", "--inputs", "in.safetensors"],
        1,
        &["brings code of its own", "--allow-host-code"],
    );
    w.computes("e.plan", "base", &["--allow-host-code"]);
    if !before_10 {
        w.refuses(
            &["refit", "e.plan", "other.safetensors"],
            1,
            &["--allow-host-code"],
        );
        w.run(&["refit", "e.plan", "other.safetensors", "--allow-host-code"])
            .exits(0);
        w.computes("e.plan", "other", &["--allow-host-code"]);
    }
}

fn data_dependent(w: &World) {
    let net = Net::default()
        .input("x", &["B", "8"])
        .output("h", &["B", "8"])
        .whole("found", &["2", "N"])
        .whole("extents", &["2"])
        .weight("m.shift", &random(5, &[8]))
        .node("m", "Add", &["x", "m.shift"], "s", &[])
        .node("m", "Relu", &["s"], "h", &[])
        .node("m", "NonZero", &["h"], "found", &[])
        .node("m", "Shape", &["h"], "extents", &[]);
    w.scene.write("values.onnx", net.onnx(""));
    w.expected("values.onnx", "values", &["--shapes", "shapes.json"]);
    let args = [
        "build",
        "values.onnx",
        "--shapes",
        "shapes.json",
        "--backend",
        w.backend(),
        "--no-cache",
        "-o",
        "v.plan",
    ];
    w.run(&args).exits(0);
    w.computes("v.plan", "values", &["--iters", "2"]);
    w.computes("v.plan", "values", &["--cuda-graph", "--iters", "3"]);
    if w.release().since([10, 0, 0]) {
        w.computes("v.plan", "values", &["--streams", "2", "--iters", "3"]);
    }
}

fn shape_inputs(w: &World) {
    let net = Net::default()
        .input("x", &["B", "8"])
        .indices("to", &["2"])
        .output("y", &["M", "N"])
        .node("m", "Reshape", &["x", "to"], "y", &[]);
    w.scene.write("shape.onnx", net.onnx(""));
    let spec =
        r#"{"dims": {"B": {"min": 1, "opt": 2, "max": 8}}, "inputs": {"x": ["B", 8], "to": [2]}}"#;
    w.scene.write("shape.json", spec);
    let args = [
        "build",
        "shape.onnx",
        "--shapes",
        "shape.json",
        "--backend",
        w.backend(),
        "--no-cache",
        "-o",
        "s.plan",
    ];
    let done = w.run(&args);
    assert!(
        done.code == 1 && done.stderr.contains("`to`"),
        "{}",
        done.stderr
    );
}

/// The model in half precision: what the library does not choose itself.
fn converted(w: &World) {
    if !w.release().since([9, 0, 0]) {
        let args = ["--no-cache", "--convert", "fp16"];
        let refused = w.build(&args);
        assert!(
            refused.code == 1 && refused.stderr.contains("pass `--fp16` instead"),
            "{}",
            refused.stderr
        );
        w.build(&["--no-cache", "--fp16"]).exits(0);
        return;
    }
    // First, since the cache takes no folder that has other files in it.
    w.build(&[]).exits(0);
    let mut convert = vec!["--convert".to_owned(), "fp16".to_owned()];
    if w.release().since([11, 0, 0]) {
        let refused = w.build(&["--no-cache", "--fp16"]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        let hint = refused
            .stderr
            .split('`')
            .find(|part| part.starts_with("--convert"));
        convert = hint
            .expect("a hint")
            .split(' ')
            .map(str::to_owned)
            .collect();
    }
    let convert: Vec<&str> = convert.iter().map(String::as_str).collect();
    if w.release().since([11, 0, 0]) {
        let refused = w.build(&["--no-cache", "--f32-layers", "*act*"]);
        assert!(
            refused.code == 1 && refused.stderr.contains("`--convert fp16`"),
            "{}",
            refused.stderr
        );
        w.build(&[&convert[..], &["--no-cache", "--f32-layers", "*act*"]].concat())
            .exits(0);
    }
    let near = ["--rtol", "1e-2", "--atol", "1e-2"];
    w.build(&[&convert[..], &["--no-cache"]].concat())
        .exits(0)
        .prints("converted to fp16: 4 weights,");
    let manifest = std::fs::read_to_string(w.scene.file("e.plan.json")).expect("it is there");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["options"]["convert"], "fp16");
    assert!(
        manifest["slots"]
            .as_array()
            .expect("slots")
            .iter()
            .all(|s| s["dtype"] == "f16")
    );
    w.computes("e.plan", "base", &near);
    let is_live = |checkpoint: &str| {
        w.run(&["diff", "e.plan", checkpoint, "--exit-code"])
            .exits(0)
            .prints("LIVE");
    };
    is_live("base.safetensors");
    is_live("model.onnx");
    let before = std::fs::read(w.scene.file("e.plan")).expect("it is there");
    w.run(&["refit", "e.plan", "other.safetensors", "--verify"])
        .exits(0);
    w.computes("e.plan", "other", &near);
    is_live("other.safetensors");
    w.run(&["refit", "e.plan", "bias.safetensors"]).exits(0);
    w.computes("e.plan", "bias", &near);
    w.run(&["refit", "e.plan", "--base"]).exits(0);
    assert!(std::fs::read(w.scene.file("e.plan")).expect("it is there") == before);
    let mut large = weights(1);
    large.get_mut("fc2.bias").expect("it has one").1[0] = 1e6;
    w.scene.write("large.safetensors", safetensors(&large));
    for command in ["diff", "refit"] {
        w.refuses(
            &[command, "e.plan", "large.safetensors"],
            1,
            &[
                "`m.fc2.bias` would become infinite",
                "1e6",
                "--convert bf16",
            ],
        );
    }
    // An engine of the cache is refitted in its own types; that in f32 is another.
    let miss = w.build(&[&convert[..], &["--json"]].concat());
    assert_eq!(miss.exits(0).json()["cache"], "miss");
    let hit = w.run(
        &[
            &[
                "build",
                "other.onnx",
                "--shapes",
                "shapes.json",
                "--backend",
                w.backend(),
                "--force",
                "--json",
                "-o",
                "e.plan",
            ],
            &convert[..],
        ]
        .concat(),
    );
    assert_eq!(hit.exits(0).json()["cache"], "refitted");
    w.computes("e.plan", "other", &near);
    w.build(&["--no-cache", "--convert", "bf16", "--f32-layers", "*act*"])
        .exits(0)
        .prints("1 named");
    w.computes("e.plan", "base", &["--rtol", "5e-2", "--atol", "5e-2"]);
    w.run(&["refit", "e.plan", "large.safetensors"]).exits(0);
}

fn half_precision(w: &World) {
    // Later networks are strongly typed, and so is TensorRT-RTX.
    if w.release().since([11, 0, 0]) {
        return;
    }
    w.build(&["--no-cache", "--fp16", "--f32-layers", "*act*"])
        .exits(0);
    let calls = w.calls();
    assert!(
        calls.contains("VLayer::setPrecision") && calls.contains("VLayer::setOutputType"),
        "{calls:?}"
    );
    w.computes("e.plan", "base", &[]);
}

fn several_profiles(w: &World) {
    const SPEC: &str = r#"{"dims": {"B": {"min": 1, "max": 8}},
        "profiles": [{"B": {"max": 3, "opt": 2}}, {"B": {"min": 6}}], "inputs": {"x": ["B", 8]}}"#;
    w.scene.write("profiles.json", SPEC);
    let x = |rows: usize| safetensors(&[("x".to_owned(), random(9, &[rows, 8]))].into());
    for rows in [5, 7] {
        w.scene.write(&format!("{rows}.safetensors"), x(rows));
    }
    let model = [
        "build",
        "model.onnx",
        "--shapes",
        "profiles.json",
        "--no-cache",
    ];
    let build = |plan: &str, backend: &str, more: &[&str]| {
        let rest = ["--backend", backend, "-o", plan];
        w.run(&[&model[..], &rest, more].concat())
    };
    let joined = build("cpu.plan", "cpu", &[]);
    joined.exits(0);
    assert!(
        joined.stderr.contains("no optimization profiles"),
        "{}",
        joined.stderr
    );
    let seven = [
        "run",
        "cpu.plan",
        "--inputs",
        "7.safetensors",
        "--save",
        "7.out.safetensors",
    ];
    w.run(&seven).exits(0);

    build("p.plan", w.backend(), &["--refit", "none"])
        .exits(0)
        .prints("optimization profile 2");
    assert!(w.calls().contains("VBuilderConfig::addOptimizationProfile"));
    w.computes("p.plan", "base", &["--iters", "2"]);
    let seven = [
        "run",
        "p.plan",
        "--inputs",
        "7.safetensors",
        "--expect",
        "7.out.safetensors",
    ];
    w.run(&[&seven[..], &["--iters", "2"]].concat()).exits(0);
    w.run(&[&seven[..], &["--cuda-graph", "--iters", "3"]].concat())
        .exits(0);
    assert!(
        w.calls()
            .contains("VExecutionContext::setOptimizationProfileAsync")
    );
    let done = w.run_with(&seven, &[("STANDIN_FAULT", "choose profile")]);
    assert!(
        done.code == 3 && done.stderr.contains("no such optimization profile"),
        "{}",
        done.stderr
    );
    w.refuses(
        &["run", "p.plan", "--inputs", "5.safetensors"],
        1,
        &[
            "no optimization profile holds",
            "profile 1 has B 1 to 3",
            "profile 2 has B 6 to 8",
        ],
    );
    w.run(&["inspect", "p.plan"])
        .exits(0)
        .prints("6x8  7x8  8x8");
    w.run(&["diff", "p.plan", "--shapes", "profiles.json", "--exit-code"])
        .exits(0);
    w.run(&["diff", "p.plan", "--shapes", "shapes.json", "--exit-code"])
        .exits(20)
        .prints("axis 0 of `x`");
    // The hint of the refusal is followed: the nearest profile becomes wide enough, the other stays.
    let five = ["run", "p.plan", "--inputs", "5.safetensors"];
    w.run(&[&five[..], &["--on-range", "widen"]].concat())
        .exits(0);
    w.run(&five).exits(0);
    w.run(&seven).exits(0);
    if w.release().since([10, 0, 0]) {
        w.run(&[&seven[..], &["--streams", "2"]].concat()).exits(0);
    }
    w.run(&["inspect", "p.plan"])
        .exits(0)
        .prints("1x8  2x8  5x8");

    let done = build("e.plan", w.backend(), &[]);
    done.exits(0);
    assert!(
        done.stderr.contains("`--refit none` allows several"),
        "{}",
        done.stderr
    );
    w.run(&["run", "e.plan", "--inputs", "5.safetensors"])
        .exits(0);
    w.run(&["diff", "e.plan", "--shapes", "profiles.json", "--exit-code"])
        .exits(0);
    // The cache does not take one for the other.
    let cached = |spec: &str| {
        let args = [
            "build",
            "model.onnx",
            "--shapes",
            spec,
            "--refit",
            "none",
            "--backend",
            w.backend(),
            "--json",
            "-o",
            "c.plan",
            "--force",
            "--cache-dir",
            "kept",
        ];
        let done = w.run(&args);
        done.exits(0);
        done.json()["cache"].to_string()
    };
    let uses = ["shapes.json", "profiles.json", "profiles.json"].map(cached);
    assert_eq!(uses, [r#""miss""#, r#""miss""#, r#""hit""#]);
}

/// Leaves a plan as another tool would.
fn orphan(w: &World, plan: &str) {
    std::fs::remove_file(w.scene.file(&format!("{plan}.json"))).expect("it had a manifest");
}

fn adopt<'a>(plan: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["adopt", plan, "--model", "model.onnx"], more].concat()
}

fn adopted(w: &World) {
    w.build(&["--no-cache"]).exits(0);
    orphan(w, "e.plan");
    // What needs a manifest says how to get one, and that works.
    for args in [
        &["run", "e.plan", "--inputs", "in.safetensors"][..],
        &["refit", "e.plan", "other.safetensors"],
        &["diff", "e.plan", "other.safetensors"],
        &["map", "e.plan"],
        &["export", "triton", "e.plan", "models/m"],
        &[
            "watch",
            "e.plan",
            "--weights",
            "other.safetensors",
            "--once",
        ],
    ] {
        w.refuses(args, 1, &["trtmut adopt e.plan --model MODEL.onnx"]);
    }
    w.run(&["inspect", "e.plan"])
        .exits(0)
        .prints("trtmut adopt e.plan --model MODEL.onnx");
    let narrow = Net::default()
        .input("x", &["B", "7"])
        .output("z", &["B", "7"])
        .node("m", "Relu", &["x"], "z", &[]);
    w.scene.write("narrow.onnx", narrow.onnx(""));
    w.refuses(
        &["adopt", "e.plan", "--model", "narrow.onnx"],
        1,
        &[
            "the engine has no output `z`",
            "the model has no output `y`",
            "the input `x` is",
        ],
    );
    w.scene
        .write("wide.json", BATCH.replace("\"max\": 8", "\"max\": 9"));
    w.refuses(
        &adopt("e.plan", &["--shapes", "wide.json"]),
        1,
        &["axis 0 of `x` is from 1 to 9 in the spec, and from 1 to 8 in the engine"],
    );
    w.refuses(
        &adopt("e.plan", &["--base-weights", "other.safetensors"]),
        1,
        &["other.safetensors"],
    );
    w.run(&adopt("e.plan", &["--base-weights", "base.safetensors"]))
        .exits(0)
        .prints("4 refittable")
        .prints("not proven before the first refit");
    w.refuses(&adopt("e.plan", &[]), 1, &["has a manifest", "--force"]);
    w.computes("e.plan", "base", &[]);
    w.run(&["diff", "e.plan", "base.safetensors", "--exit-code"])
        .exits(10)
        .prints("not proven");
    w.run(&["refit", "e.plan", "other.safetensors", "--verify"])
        .exits(0);
    w.computes("e.plan", "other", &[]);
    w.run(&["diff", "e.plan", "other.safetensors", "--exit-code"])
        .exits(0);
    w.run(&["refit", "e.plan", "--base"]).exits(0);
    w.computes("e.plan", "base", &[]);
    w.run(&adopt("e.plan", &["--force", "--shapes", "shapes.json"]))
        .exits(0);

    // Of a model with other values: the first refit gives it all of them.
    let build = [
        "build",
        "other.onnx",
        "--shapes",
        "shapes.json",
        "--backend",
        w.backend(),
    ];
    w.run(&[&build[..], &["--no-cache", "-o", "o.plan"]].concat())
        .exits(0);
    orphan(w, "o.plan");
    let gives_back = w.has("vtables", "VRefitter", "getNamedWeights");
    w.run(&adopt("o.plan", &[])).exits(0);
    w.computes("o.plan", "other", &[]);
    w.run(&["refit", "o.plan", "--base"]).exits(0);
    w.computes("o.plan", "base", &[]);
    w.run(&["diff", "o.plan", "model.onnx", "--exit-code"])
        .exits(0);
    if !gives_back {
        return;
    }
    // A library that gives values back proves them, or proves them wrong.
    orphan(w, "e.plan");
    let values = |args: &[&str]| w.run_with(args, &[("STANDIN_FAULT", "values")]);
    let done = values(&adopt("e.plan", &[]));
    done.exits(0);
    assert!(!done.stdout.contains("not proven"), "{}", done.stdout);
    let other = values(&["adopt", "e.plan", "--model", "other.onnx", "--force"]);
    assert!(
        other.code == 1 && other.stderr.contains("the engine holds other values of"),
        "{}",
        other.stderr
    );
    w.run_with(
        &adopt("e.plan", &["--force"]),
        &[("STANDIN_FAULT", "values on the device")],
    )
    .exits(0)
    .prints("not proven");
}

/// What of an engine is not as trtmut builds it unasked.
fn adopted_as_it_is(w: &World) {
    const SPEC: &str = r#"{"dims": {"B": {"min": 1, "max": 8}},
        "profiles": [{"B": {"max": 3, "opt": 2}}, {"B": {"min": 6}}], "inputs": {"x": ["B", 8]}}"#;
    w.scene.write("profiles.json", SPEC);
    let plain = [
        "build",
        "model.onnx",
        "--backend",
        w.backend(),
        "--no-cache",
    ];
    let several = [
        "--shapes",
        "profiles.json",
        "--refit",
        "none",
        "-o",
        "p.plan",
    ];
    w.run(&[&plain[..], &several].concat()).exits(0);
    orphan(w, "p.plan");
    w.run(&adopt("p.plan", &["--base-weights", "base.safetensors"]))
        .exits(0)
        .prints("0 refittable")
        .prints("profile 2 B 6 to 8")
        .prints("nothing of it can be replaced");
    w.computes("p.plan", "base", &[]);
    w.run(&["diff", "p.plan", "--shapes", "profiles.json", "--exit-code"])
        .exits(0);
    w.run(&["diff", "p.plan", "model.onnx", "--exit-code"])
        .exits(20);
    w.run(&[
        "refit",
        "p.plan",
        "other.safetensors",
        "--fallback",
        "rebuild",
    ])
    .exits(0);
    w.computes("p.plan", "other", &[]);
    w.run(&["diff", "p.plan", "other.safetensors", "--exit-code"])
        .exits(0);
    if w.release().since([10, 0, 0]) {
        w.build(&["--no-cache", "--strip"]).exits(0);
        orphan(w, "e.plan");
        w.run(&adopt("e.plan", &[]))
            .exits(0)
            .prints("has to be refitted before it runs");
        w.refuses(
            &["run", "e.plan", "--inputs", "in.safetensors"],
            1,
            &["stripped"],
        );
        w.run(&["refit", "e.plan", "--base", "-o", "full.plan"])
            .exits(0);
        w.computes("full.plan", "base", &[]);
        w.build(&["--no-cache", "--version-compatible"]).exits(0);
        orphan(w, "e.plan");
        let done = w.run(&adopt("e.plan", &[]));
        assert!(
            done.code == 3 && done.stderr.contains("host code"),
            "{}",
            done.stderr
        );
        w.run(&adopt("e.plan", &["--allow-host-code"])).exits(0);
        w.computes("e.plan", "base", &["--allow-host-code"]);
    }
    if w.release().name == "trt-8.6.0" {
        by_a_plain_program(w);
    }
}

/// An engine that a C++ program built, without trtmut.
fn by_a_plain_program(w: &World) {
    let program = w.scene.file(".cache/build");
    let compiled = std::process::Command::new("g++")
        .args(["-std=c++17", "-w", "-o"])
        .arg(&program)
        .arg(crate::tensorrt::root().join("benches/gpu/build.cpp"))
        .arg("-ldl")
        .output()
        .expect("the compiler starts");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let built = std::process::Command::new(&program)
        .arg(w.stand_in.path())
        .args([w.scene.file("model.onnx"), w.scene.file("c.plan")])
        .arg("x:1x8:2x8:8x8")
        .env("LD_LIBRARY_PATH", cuda())
        .output()
        .expect("it starts");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    w.run(&adopt("c.plan", &["--base-weights", "base.safetensors"]))
        .exits(0)
        .prints("4 refittable");
    w.computes("c.plan", "base", &[]);
    w.run(&["refit", "c.plan", "other.safetensors"]).exits(0);
    w.computes("c.plan", "other", &[]);
}

fn several_gpus(w: &World) {
    // The first and the second have one compute capability, the third another.
    let with = |args: &[&str], n: &str| {
        let env = [("STANDIN_GPUS", "3"), ("STANDIN_DEVICE", n)];
        w.run_with(&[args, &["--device", n]].concat(), &env)
    };
    with(&["doctor"], "1")
        .exits(0)
        .prints("--device 0: Stand-in GPU, compute capability 8.9")
        .prints("--device 2: Stand-in Large, compute capability 9.0");
    let build = [
        "build",
        "model.onnx",
        "--shapes",
        "shapes.json",
        "--backend",
        w.backend(),
        "--no-cache",
        "--refit",
        "none",
        "-o",
        "e.plan",
    ];
    with(&build, "1").exits(0);
    let manifest = std::fs::read_to_string(w.scene.file("e.plan.json")).expect("it is there");
    assert!(manifest.contains("Stand-in GPU Ti"));
    let run = [
        "run",
        "e.plan",
        "--inputs",
        "in.safetensors",
        "--expect",
        "base.out.safetensors",
    ];
    let here = with(&run, "1");
    here.exits(0);
    assert!(!here.stderr.contains("was built on"), "{}", here.stderr);
    let twin = with(&run, "0");
    twin.exits(0);
    assert!(
        twin.stderr.contains(
            "built on Stand-in GPU Ti (compute capability 8.9), and this is Stand-in GPU"
        ),
        "{}",
        twin.stderr
    );
    let other = with(&run, "2");
    other.exits(1);
    for says in [
        "was built on Stand-in GPU Ti",
        "this is Stand-in Large",
        "`--device 0` is a GPU that it runs on",
    ] {
        assert!(
            other.stderr.contains(says),
            "no `{says}` in {}",
            other.stderr
        );
    }
    let diff = ["diff", "e.plan", "other.safetensors"];
    let told = with(&diff, "2");
    told.exits(0);
    assert!(
        told.stderr.contains("was built on Stand-in GPU Ti"),
        "{}",
        told.stderr
    );
    // A plan that can be refitted is not, there: nothing is read and nothing written.
    let whole = [
        "build",
        "model.onnx",
        "--shapes",
        "shapes.json",
        "--no-cache",
        "--base-weights",
        "base.safetensors",
        "-o",
        "f.plan",
    ];
    with(&[&whole[..], &["--backend", w.backend()]].concat(), "1").exits(0);
    let before = w.scene.files();
    let refit = ["refit", "f.plan", "other.safetensors"];
    let other = with(&refit, "2");
    assert!(
        other.code == 1 && other.stderr.contains("was built on Stand-in GPU Ti"),
        "{}",
        other.stderr
    );
    assert!(before == w.scene.files(), "files changed");
    let hint = other.stderr.split("`--device ").nth(1).expect("a hint");
    let there = hint.split('`').next().expect("a number");
    with(&refit, there).exits(0);
    let none = w.run_with(
        &[&run[..], &["--device", "3"]].concat(),
        &[("STANDIN_GPUS", "3")],
    );
    assert!(
        none.code == 3
            && none
                .stderr
                .contains("there is no GPU 3: the driver finds 3, GPU 0 to 2"),
        "{}",
        none.stderr
    );
    let gone = w.run_with(&run, &[("STANDIN_GPUS", "0")]);
    assert!(
        gone.code == 3 && gone.stderr.contains("finds no GPU"),
        "{}",
        gone.stderr
    );
}

fn layers_measured(w: &World) {
    w.build(&["--no-cache"]).exits(0);
    let run = [
        "run",
        "e.plan",
        "--inputs",
        "in.safetensors",
        "--profile-layers",
    ];
    w.run(&[&run[..], &["--iters", "3", "--warmup", "1"]].concat())
        .exits(0)
        .prints("layer")
        .prints("h0")
        .prints("33.3 %");
    let done = w.run(&[&run[..], &["--json"]].concat());
    done.exits(0);
    let layers = done.json()["layers"]
        .as_array()
        .expect("they are told")
        .clone();
    let times: Vec<_> = layers.iter().map(|l| l["mean_ns"].as_u64()).collect();
    assert_eq!(times[..2], [Some(500_000), Some(1_000_000)], "{layers:?}");
    w.refuses(
        &[&run[..], &["--cuda-graph"]].concat(),
        1,
        &["profile-layers", "--cuda-graph"],
    );
}

fn several_streams(w: &World) {
    let run = ["run", "e.plan", "--inputs", "in.safetensors"];
    let three = [&run[..], &["--streams", "3"]].concat();
    w.build(&["--no-cache"]).exits(0);
    if w.release().since([10, 0, 0]) {
        w.computes(
            "e.plan",
            "base",
            &["--streams", "3", "--iters", "4", "--warmup", "2"],
        );
        w.computes("e.plan", "base", &["--streams", "2", "--cuda-graph"]);
        w.run(&[&three[..], &["--weights", "other.safetensors"]].concat())
            .exits(0)
            .prints("throughput");
        w.computes("e.plan", "other", &["--streams", "2", "--duration", "0.05"]);
    } else {
        // A context there takes a profile of its own. The hint is followed: a plan for one size.
        w.refuses(
            &three,
            1,
            &[
                "streams=3",
                "before TensorRT 10",
                "export the model for one size",
            ],
        );
        w.scene
            .write("fixed.onnx", mlp_of("3", &weights(1)).onnx(""));
        let build = [
            "build",
            "fixed.onnx",
            "--no-cache",
            "--force",
            "-o",
            "e.plan",
        ];
        w.run(&[&build[..], &["--backend", w.backend()]].concat())
            .exits(0);
        w.computes("e.plan", "base", &["--streams", "2", "--iters", "3"]);
    }
    let done = w.run(&[&three[..], &["--iters", "4", "--warmup", "2", "--json"]].concat());
    let report = done.exits(0).json();
    assert_eq!(report["throughput"]["streams"], 3);
    assert_eq!(report["throughput"]["runs"], 12);
    assert_eq!(report["latency"]["iters"], 12);
    for times in [&report["latency"], &report["gpu"]] {
        assert_eq!(
            times["runs_per_second"],
            report["throughput"]["runs_per_second"]
        );
    }
    w.run(&[&three[..], &["--iters", "4"]].concat())
        .exits(0)
        .prints("12 runs on 3 streams at once");
    let done = w.run_with(&three, &[("STANDIN_FAULT", "another context")]);
    assert!(
        done.code == 3 && done.stderr.contains("for stream 2: createExecutionContext"),
        "{}",
        done.stderr
    );
    w.run_with(&run, &[("STANDIN_FAULT", "another context")])
        .exits(0);
    let done = w.run_with(&three, &[("STANDIN_FAULT", "enqueue")]);
    assert!(
        done.code == 3 && done.stderr.contains("illegal memory access"),
        "{}",
        done.stderr
    );
    w.refuses(
        &[&three[..], &["--profile-layers"]].concat(),
        1,
        &["profile-layers", "leave `--streams` out"],
    );
    // What differs on a stream is a difference.
    let wrong = [&three[..], &["--expect", "bias.out.safetensors"]].concat();
    w.run(&wrong).exits(40);
}

fn weight_streaming(w: &World) {
    let build = [
        "build",
        "model.onnx",
        "--shapes",
        "shapes.json",
        "--backend",
        w.backend(),
        "--weight-streaming",
        "-o",
        "e.plan",
    ];
    let run = [
        "run",
        "e.plan",
        "--inputs",
        "in.safetensors",
        "--weight-budget",
        "1K",
    ];
    if !w.has("vtables", "VCudaEngine", "setWeightStreamingBudgetV2") {
        w.refuses(&build, 1, &["weight streaming with a budget"]);
        w.build(&["--no-cache"]).exits(0);
        w.refuses(&run, 1, &["weight-budget=1024", "10.1"]);
        return;
    }
    let refits = w.release().since([10, 8, 0]);
    let refit = if refits { "full" } else { "none" };
    if !refits {
        w.refuses(&build, 1, &["before TensorRT 10.8", "--refit none"]);
    }
    if !w.release().since([11, 0, 0]) {
        w.refuses(
            &[&build[..], &["--refit", refit, "--fp16"]].concat(),
            1,
            &["the model's own types"],
        );
    }
    w.build(&["--no-cache", "--weight-streaming", "--refit", refit])
        .exits(0);
    w.computes("e.plan", "base", &["--weight-budget", "1K", "--iters", "2"]);
    w.computes("e.plan", "base", &["--weight-budget", "0"]);
    w.computes(
        "e.plan",
        "base",
        &["--weight-budget", "1K", "--streams", "2"],
    );
    let done = w.run_with(&run, &[("STANDIN_FAULT", "budget")]);
    assert!(
        done.code == 3 && done.stderr.contains("the budget is too small"),
        "{}",
        done.stderr
    );
    if refits {
        w.run(&["refit", "e.plan", "other.safetensors"]).exits(0);
        w.computes("e.plan", "other", &["--weight-budget", "1K"]);
    }
    w.build(&["--no-cache"]).exits(0);
    w.refuses(&run, 1, &["was not built with `--weight-streaming`"]);
}

/// A library that registers its plugin when it is opened.
fn plugin_library(w: &World, name: &str, salt: u32) {
    let source = format!(
        "#include <stdlib.h>\nint salt = {salt};\n__attribute__((constructor)) static void f(void) {{ setenv(\"STANDIN_PLUGIN\", \"1\", 1); }}\n"
    );
    w.scene.write("plugin.c", source);
    let compiled = std::process::Command::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .args([w.scene.file(name), w.scene.file("plugin.c")])
        .output()
        .expect("the compiler starts");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
}

fn plugins(w: &World) {
    let net = |op: &str| {
        mlp(&weights(1))
            .output("z", &["B", "4"])
            .node("m/last", op, &["y"], "z", &[])
    };
    w.scene.write("twice.onnx", net("Twice").onnx(""));
    w.scene.write("halve.onnx", net("Halve_TRT").onnx(""));
    plugin_library(w, "libtwice.so", 1);
    let build = |model: &str, more: &[&str]| {
        let args = [
            "build",
            model,
            "--shapes",
            "shapes.json",
            "--backend",
            w.backend(),
            "--no-cache",
            "--force",
            "--base-weights",
            "base.safetensors",
            "-o",
            "e.plan",
        ];
        [
            &args.map(str::to_owned)[..],
            &more.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>(),
        ]
        .concat()
    };
    let words = |args: &[String]| args.to_vec();
    let run_all = |args: Vec<String>| w.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let unknown = run_all(words(&build("twice.onnx", &[])));
    assert!(
        unknown.code == 1 && unknown.stderr.contains("Twice"),
        "{}",
        unknown.stderr
    );
    let gone = run_all(build("twice.onnx", &["--plugin", "gone.so"]));
    assert!(
        gone.code == 1 && gone.stderr.contains("gone.so"),
        "{}",
        gone.stderr
    );
    let no_library = run_all(build("twice.onnx", &["--plugin", "model.onnx"]));
    assert!(
        no_library.code == 1
            && no_library
                .stderr
                .contains("the plugin library `model.onnx`"),
        "{}",
        no_library.stderr
    );
    run_all(build("twice.onnx", &["--plugin", "./libtwice.so"])).exits(0);
    let manifest = std::fs::read_to_string(w.scene.file("e.plan.json")).expect("it is there");
    assert!(manifest.contains("libtwice.so@"), "it is recorded");
    let run = ["run", "e.plan", "--inputs", "in.safetensors"];
    w.refuses(
        &run,
        1,
        &["the plan needs it; pass `--plugin PATH/libtwice.so`"],
    );
    let done = w.run(
        &[
            &run[..],
            &["--plugin", "libtwice.so", "--save", "twice.safetensors"],
        ]
        .concat(),
    );
    done.exits(0);
    w.refuses(
        &["refit", "e.plan", "other.safetensors"],
        1,
        &["--plugin PATH/libtwice.so"],
    );
    w.run(&[
        "refit",
        "e.plan",
        "other.safetensors",
        "--plugin",
        "libtwice.so",
    ])
    .exits(0);
    plugin_library(w, "libtwice.so", 2);
    w.refuses(
        &[&run[..], &["--plugin", "libtwice.so"]].concat(),
        1,
        &["it is not the one that the plan was built with"],
    );
    let cpu = w.run(&[
        "build",
        "model.onnx",
        "--shapes",
        "shapes.json",
        "--backend",
        "cpu",
        "--plugin",
        "libtwice.so",
        "-o",
        "c.plan",
    ]);
    assert!(
        cpu.code == 1 && cpu.stderr.contains("only TensorRT has plugins"),
        "{}",
        cpu.stderr
    );

    if w.backend() == "tensorrt" {
        let unknown = run_all(build("halve.onnx", &[]));
        assert!(
            unknown.code == 1 && unknown.stderr.contains("Halve_TRT"),
            "{}",
            unknown.stderr
        );
        run_all(build("halve.onnx", &["--plugin", "standard"])).exits(0);
        // Those that come with TensorRT are there wherever it is.
        w.run(&run).exits(0);
    } else {
        let none = run_all(build("halve.onnx", &["--plugin", "standard"]));
        assert!(
            none.code == 1 && none.stderr.contains("libnvinfer_plugin.so"),
            "{}",
            none.stderr
        );
    }
    let inside = ["--plugin", "libtwice.so", "--serialize-plugins"];
    if !w.has("vtables", "VBuilderConfig", "setPluginsToSerialize") {
        let refused = run_all(build("twice.onnx", &inside));
        assert!(
            refused.code == 1 && refused.stderr.contains("plugin libraries in plans"),
            "{}",
            refused.stderr
        );
        return;
    }
    let refused = run_all(build("twice.onnx", &inside));
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    // What it hints at is done as it stands.
    let hint = refused
        .stderr
        .split('`')
        .find(|part| part.starts_with("--version-compatible"));
    let hint: Vec<&str> = hint.expect("a hint").split(' ').collect();
    let whole = [&inside[..], &hint].concat();
    run_all(build("twice.onnx", &whole)).exits(0);
    w.run(&[&run[..], &["--allow-host-code"]].concat()).exits(0);
}

fn failures(w: &World) {
    let args = [
        "build",
        "model.onnx",
        "--shapes",
        "shapes.json",
        "--backend",
        w.backend(),
        "--no-cache",
        "-o",
        "e.plan",
    ];
    let done = w.run_with(&args, &[("STANDIN_FAULT", "build")]);
    assert!(
        done.code == 3 && done.stderr.contains("node conv_17"),
        "{}",
        done.stderr
    );
    w.build(&["--no-cache"]).exits(0);
    let before = w.scene.files();
    let done = w.run_with(
        &["refit", "e.plan", "other.safetensors"],
        &[("STANDIN_FAULT", "refit")],
    );
    assert!(
        done.code != 0 && done.stderr.contains("refit went wrong"),
        "{}",
        done.stderr
    );
    assert!(before == w.scene.files(), "files changed");
    let odd = w.run_with(&["doctor"], &[("STANDIN_VERSION", "990000")]);
    odd.exits(0)
        .prints("unusable")
        .prints("TRTMUT_ASSUME_TENSORRT=");
}
