//! One decision: `diff`, `refit --dry-run`, `refit` and `run` say the same of the same request, and do what they say.

#![allow(clippy::print_stdout, reason = "a tally is what the long walk is for")]

use crate::scene::{Done, Scene, fixture};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A fixture with a plan that was built with its base.
struct Walk {
    scene: Scene,
    name: String,
}

impl Walk {
    fn of(fixture_name: &str, exporter: &str) -> Walk {
        let scene = Scene::new();
        for file in ["base.safetensors", "fused.safetensors"] {
            scene.bring(&format!("{fixture_name}/{file}"));
        }
        for (from, to) in [("model", "onnx"), ("shapes", "json")] {
            let from = format!("{fixture_name}/{from}.{exporter}.{to}");
            let name = if to == "onnx" {
                "model.onnx"
            } else {
                "shapes.json"
            };
            fs::copy(fixture(&from), scene.file(name)).unwrap();
        }
        let walk = Walk {
            name: format!("{fixture_name}/{exporter}"),
            scene,
        };
        let args =
            "build model.onnx --shapes shapes.json --backend cpu --base-weights base.safetensors";
        let args: Vec<&str> = args.split(' ').collect();
        walk.scene.run(&args).exits(0);
        walk
    }

    fn tensors(&self, file: &str) -> Tensors {
        let bytes = fs::read(self.scene.file(file)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        (file.tensors().into_iter())
            .map(|(n, v)| (n, (v.dtype(), v.shape().to_vec(), v.data().to_vec())))
            .collect()
    }

    fn save(&self, file: &str, tensors: &Tensors) {
        let views =
            (tensors.iter()).map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
        let bytes = safetensors::serialize(views, None).unwrap();
        self.scene.write(file, bytes);
    }

    /// What is laid over the base: checkpoints, and every LoRA that the fixture has.
    fn every_overlay(&self) -> Vec<Vec<String>> {
        let mut all: Vec<Vec<String>> = (self.overlays().into_iter())
            .map(|file| vec![file.to_owned()])
            .collect();
        let fixture_name = self.name.split('/').next().unwrap();
        for lora in [
            "pytorch_lora_weights.safetensors",
            "lora_kohya.safetensors",
            "adapter_model.safetensors",
        ] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fixtures")
                .join(fixture_name);
            if from.join(lora).exists() {
                fs::copy(from.join(lora), self.scene.file(lora)).unwrap();
                if lora.starts_with("adapter") {
                    let config = "adapter_config.json";
                    fs::copy(from.join(config), self.scene.file(config)).unwrap();
                }
                all.push(vec!["--lora".to_owned(), lora.to_owned()]);
            }
        }
        all
    }

    /// The checkpoints that are tried, by file.
    fn overlays(&self) -> Vec<&'static str> {
        let fused = self.tensors("fused.safetensors");
        let half = fused.iter().step_by(2);
        self.save(
            "half.safetensors",
            &half.map(|(n, t)| (n.clone(), t.clone())).collect(),
        );
        let mut more = fused.clone();
        more.insert(
            "extra.weight".into(),
            (Dtype::F32, vec![2], vec![1, 2, 3, 4, 5, 6, 7, 8]),
        );
        self.save("more.safetensors", &more);
        let narrow = |(n, (d, s, b)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| {
            if *d != Dtype::F32 {
                return (n.clone(), (*d, s.clone(), b.clone()));
            }
            let values: Vec<f32> = (b.chunks_exact(4))
                .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
                .collect();
            let half = trtmut::tensor::from_f32(trtmut::tensor::Dtype::F16, &values).unwrap();
            (n.clone(), (Dtype::F16, s.clone(), half))
        };
        self.save("f16.safetensors", &fused.iter().map(narrow).collect());
        let wrapped = |(n, t): (&String, &_)| (format!("model.{n}"), Clone::clone(t));
        self.save("wrapped.safetensors", &fused.iter().map(wrapped).collect());
        let numbered = |(i, (_, t)): (usize, (&String, &_))| (format!("t{i}"), Clone::clone(t));
        self.save(
            "renamed.safetensors",
            &fused.iter().enumerate().map(numbered).collect(),
        );
        let mut reshaped = fused;
        let big = reshaped
            .values_mut()
            .max_by_key(|(_, s, b)| (s.len() > 1, b.len()));
        let (_, shape, bytes) = big.unwrap();
        shape[0] *= 2;
        *bytes = [bytes.clone(), bytes.clone()].concat();
        self.save("reshaped.safetensors", &reshaped);
        vec![
            "base.safetensors",
            "fused.safetensors",
            "half.safetensors",
            "more.safetensors",
            "f16.safetensors",
            "wrapped.safetensors",
            "renamed.safetensors",
            "reshaped.safetensors",
        ]
    }

    fn plan(&self, name: &str) -> (Vec<u8>, Value) {
        let read = |n: &str| fs::read(self.scene.file(n)).unwrap();
        let manifest = read(&format!("{name}.json"));
        (read(name), serde_json::from_slice(&manifest).unwrap())
    }

    /// Whether `refit`, its dry run and `run` end as `diff` did, and leave the plan.
    fn all_refuse(&self, diff: &Done, request: &[&str], what: &str) {
        let before = self.plan("engine.plan");
        let (files, options): (Vec<&str>, Vec<&str>) = match request {
            [file, rest @ ..] if !file.starts_with("--") => {
                (vec!["--weights", file], rest.to_vec())
            }
            all => (Vec::new(), all.to_vec()),
        };
        let dry = [&["refit", "engine.plan"], request, &["--dry-run", "--json"]].concat();
        let refit = [
            &["refit", "engine.plan"],
            request,
            &["-o", "out.plan", "--json"],
        ]
        .concat();
        let run = [&["run", "engine.plan", "--json"], &files[..], &options].concat();
        for args in [dry, refit, run] {
            let done = self.scene.run(&args);
            assert_eq!(done.code, diff.code, "{what}: {args:?}\n{}", done.stdout);
            assert_eq!(done.json()["code"], diff.json()["code"], "{what}: {args:?}");
        }
        assert!(
            self.plan("engine.plan") == before,
            "{what}: the plan changed"
        );
        assert!(
            !self.scene.file("out.plan").exists(),
            "{what}: a plan was written"
        );
    }

    /// Asks the same of all four, and returns the verdict.
    fn ask(&self, overlay: &[&str], permissions: &[&str]) -> String {
        let what = format!("{} {overlay:?} {permissions:?}", self.name);
        let request = [overlay, permissions].concat();
        let run =
            |head: &[&str], tail: &[&str]| self.scene.run(&[head, &request[..], tail].concat());
        let before = self.plan("engine.plan");
        let asked = run(&["diff", "engine.plan"], &["--json"]);
        if asked.code != 0 {
            // Files that cannot be read together are refused by all four, for the same reason.
            self.all_refuse(&asked, &request, &what);
            return format!("exit {}", asked.code);
        }
        let diff = asked.json();
        let verdict = diff["verdict"].as_str().unwrap().to_owned();
        let reshaped = (diff["reasons"].as_array().unwrap().iter())
            .any(|r| r["reason"] == "unsure" && r["refusal"] == "misfit" || r["why"] == "misfit");
        let code = match verdict.as_str() {
            "LIVE" | "NEEDS_REFIT" => 0,
            "NEEDS_RECOMPILE" => 20,
            _ => 1,
        };
        let dry = run(&["refit", "engine.plan"], &["--dry-run", "--json"]);
        assert_eq!(
            dry.code, code,
            "{what}: {verdict}\n{}{}",
            dry.stdout, dry.stderr
        );
        let refit = run(&["refit", "engine.plan"], &["-o", "out.plan", "--json"]);
        assert_eq!(
            refit.code, code,
            "{what}: {verdict}\n{}{}",
            refit.stdout, refit.stderr
        );
        assert!(
            self.plan("engine.plan") == before,
            "{what}: the plan changed"
        );
        for name in ["", ".json"] {
            let (from, to) = (format!("engine.plan{name}"), format!("run.plan{name}"));
            fs::copy(self.scene.file(&from), self.scene.file(&to)).unwrap();
        }
        let (files, options): (Vec<&str>, Vec<&str>) = match overlay {
            [option, ..] if option.starts_with("--") => (Vec::new(), request.clone()),
            [file, ..] => (vec!["--weights", file], permissions.to_vec()),
            [] => unreachable!(),
        };
        let ran = self
            .scene
            .run(&[&["run", "run.plan", "--json"], &files[..], &options].concat());
        if code == 0 {
            let report = dry.json();
            for field in ["reasons", "unused", "ignored", "missing"] {
                assert_eq!(report[field], diff[field], "{what}: {field}");
                assert_eq!(refit.json()[field], diff[field], "{what}: {field}");
            }
            assert_eq!(report["verdict"], diff["verdict"], "{what}");
            assert_eq!(changed(&diff), names(&report["changed"]), "{what}");
            let step = ran.exits(0).json()["transitions"][0].clone();
            assert_eq!(step["state"], diff["verdict"], "{what}");
            assert!(
                self.plan("run.plan") == self.plan("out.plan"),
                "{what}: other plans"
            );
            let again = [&["diff", "out.plan"], &request[..], &["--json"]].concat();
            let again = self.scene.run(&again).exits(0).json();
            assert_eq!(again["verdict"], "LIVE", "{what}: {again}");
        } else {
            let fixed = verdict == "NEEDS_RECOMPILE" && !reshaped && ran.code == 0;
            if !fixed {
                assert_eq!(ran.code, code, "{what}\n{}{}", ran.stdout, ran.stderr);
                assert!(
                    self.plan("run.plan") == before,
                    "{what}: run changed the plan"
                );
            }
            assert!(
                !self.scene.file("out.plan").exists(),
                "{what}: a plan was written"
            );
            for command in [&dry, &refit, &ran] {
                if command.code == 0 {
                    continue;
                }
                let decision = command.json()["decision"].clone();
                let fields = ["verdict", "reasons", "unused", "lost", "ignored", "missing"];
                for field in fields {
                    assert_eq!(decision[field], diff[field], "{what}: {field}");
                }
            }
            let said = refit.json().to_string();
            let lost = names(&diff["lost"]);
            let missing = names(&diff["missing"]);
            for (kind, all) in [("lost", lost), ("missing", missing)] {
                if kind == "missing" && permissions.contains(&"--partial") {
                    continue;
                }
                let named = all
                    .iter()
                    .filter(|n| said.contains(&format!("`{n}`")))
                    .count();
                assert!(
                    named >= all.len().min(8) || said.contains("another model") || reshaped,
                    "{what}: {kind} {all:?} are not named in {said}"
                );
            }
        }
        for name in ["out.plan", "out.plan.json", "run.plan", "run.plan.json"] {
            let _ = fs::remove_file(self.scene.file(name));
        }
        verdict
    }
}

fn names(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().into_iter().flatten();
    list.map(|n| n.as_str().unwrap().to_owned()).collect()
}

/// Weights that a comparison says would change.
fn changed(diff: &Value) -> BTreeSet<String> {
    let kinds = [
        json!("bytes-changed"),
        json!("derived-changed"),
        json!("fixed-changed"),
    ];
    let reasons = diff["reasons"].as_array().unwrap().iter();
    let changed = reasons.filter(|r| kinds.contains(&r["reason"]));
    changed
        .map(|r| r["weight"].as_str().unwrap().to_owned())
        .collect()
}

const PERMISSIONS: [&[&str]; 4] = [&[], &["--partial"], &["--ignore", "*"], &["--trust-names"]];

#[test]
fn a_small_model_with_every_overlay_and_permission() {
    let walk = Walk::of("resnet", "ts");
    let overlays = walk.overlays();
    let mut verdicts = BTreeMap::new();
    for overlay in overlays {
        for permissions in PERMISSIONS {
            let verdict = walk.ask(&[overlay], permissions);
            verdicts.insert((overlay, permissions.first().copied()), verdict);
        }
    }
    let of = |overlay, permission| verdicts[&(overlay, permission)].as_str();
    assert_eq!(of("base.safetensors", None), "LIVE");
    assert_eq!(of("fused.safetensors", None), "NEEDS_REFIT");
    assert_eq!(of("half.safetensors", None), "UNKNOWN");
    assert_eq!(of("wrapped.safetensors", None), "NEEDS_REFIT");
    assert_eq!(of("renamed.safetensors", None), "UNKNOWN");
    assert_eq!(of("reshaped.safetensors", None), "NEEDS_RECOMPILE");
}

/// Every fixture, by the exporters that wrote it.
const MODELS: [(&str, &str); 11] = [
    ("resnet", "ts"),
    ("resnet", "dynamo"),
    ("dit", "ts"),
    ("dit", "dynamo"),
    ("clip_text", "ts"),
    ("clip_text", "dynamo"),
    ("sd_unet", "ts"),
    ("sd_unet", "dynamo"),
    ("vae_decoder", "ts"),
    ("vae_decoder", "dynamo"),
    ("flux", "dynamo"),
];

/// Asks for every overlay of a model under those permissions that `picks` by the overlay's number, and counts verdicts.
fn walk(model: usize, picks: &dyn Fn(usize) -> Vec<usize>) -> BTreeMap<String, usize> {
    let (name, exporter) = MODELS[model];
    let walk = Walk::of(name, exporter);
    let mut verdicts = BTreeMap::new();
    for (o, overlay) in walk.every_overlay().iter().enumerate() {
        let overlay: Vec<&str> = overlay.iter().map(String::as_str).collect();
        for p in picks(o) {
            let verdict = walk.ask(&overlay, PERMISSIONS[p]);
            // `--ignore *` lets everything go, so that nothing is left to fit.
            if overlay == ["base.safetensors"] && PERMISSIONS[p] != ["--ignore", "*"] {
                assert_eq!(verdict, "LIVE", "{name}/{exporter} {:?}", PERMISSIONS[p]);
            }
            if overlay == ["fused.safetensors"] && p < 2 {
                assert_eq!(
                    verdict, "NEEDS_REFIT",
                    "{name}/{exporter} {:?}",
                    PERMISSIONS[p]
                );
            }
            *verdicts.entry(verdict).or_default() += 1;
        }
    }
    verdicts
}

/// Of every model each third overlay, each under another permission; all of them together are walked below.
#[test]
fn some_of_everything_on_every_model() {
    let mut seen = BTreeSet::new();
    for model in 0..MODELS.len() {
        let picks = |o: usize| {
            if o % 3 == model % 3 {
                vec![(o / 3 + model) % PERMISSIONS.len()]
            } else {
                Vec::new()
            }
        };
        seen.extend(walk(model, &picks).into_keys());
    }
    for verdict in ["LIVE", "NEEDS_REFIT", "NEEDS_RECOMPILE", "UNKNOWN"] {
        assert!(seen.contains(verdict), "{verdict} is not among {seen:?}");
    }
}

#[test]
#[ignore = "every fixture with every overlay under every permission: some 400 requests to six commands each"]
fn everything_on_every_model() {
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for (model, name) in MODELS.iter().enumerate() {
        let verdicts = walk(model, &|_| (0..PERMISSIONS.len()).collect());
        println!("{name:?}: {verdicts:?}");
        for (verdict, n) in verdicts {
            *all.entry(verdict).or_default() += n;
        }
    }
    println!("{} requests: {all:?}", all.values().sum::<usize>());
}

/// What the hints of a refusal say to let go or to keep, as far as they say it.
fn hinted(done: &Done) -> Vec<String> {
    let report = done.json();
    let hints = report["hints"].to_string();
    let mut flags = Vec::new();
    if hints.contains("--partial") {
        flags.push("--partial".to_owned());
    }
    if hints.contains("--ignore") {
        for name in names(&report["decision"]["lost"]) {
            flags.extend(["--ignore".to_owned(), name]);
        }
    }
    flags
}

#[test]
fn hints_mix_no_other_model_in() {
    let walk = Walk::of("dit", "ts");
    let own = walk.tensors("fused.safetensors");
    let other = fs::read(fixture("sd_unet/fused.safetensors")).unwrap();
    walk.scene.write("other.safetensors", other);
    let foreign = walk.tensors("other.safetensors");
    let some = |share: usize| -> Tensors {
        let picked = own.iter().enumerate().filter(|(i, _)| i % 10 < share);
        picked.map(|(_, (n, t))| (n.clone(), t.clone())).collect()
    };
    let refit = |flags: &[String]| {
        let head = [
            "refit",
            "engine.plan",
            "mixed.safetensors",
            "-o",
            "out.plan",
            "--json",
        ];
        let tail = flags.iter().map(String::as_str);
        walk.scene
            .run(&head.into_iter().chain(tail).collect::<Vec<_>>())
    };
    for share in [1, 3, 7, 8] {
        let mut mixed = foreign.clone();
        mixed.extend(some(share));
        walk.save("mixed.safetensors", &mixed);
        let done = refit(&[]);
        done.exits(1);
        let flags = hinted(&done);
        assert!(flags.is_empty(), "{share}: {flags:?}");
        let hints = done.json()["hints"].to_string();
        if share < 5 {
            assert!(hints.contains("another model"));
            continue;
        }
        // The other model's tensors may be what is missing.
        assert!(hints.contains("under another name"), "{share}");
        let done = refit(&["--partial".to_owned()]);
        done.exits(1);
        assert!(hinted(&done).is_empty(), "{share}");
    }
}
