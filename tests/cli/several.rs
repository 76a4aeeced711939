//! `trtmut refit` of several plans: one file, each plan its part, all of them or none.

use crate::look::{fits, on_screen};
use crate::scene::{Done, Scene, fixture};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(name: &str) -> Tensors {
    let bytes = fs::read(fixture(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    (file.tensors().into_iter())
        .map(|(n, v)| (n, (v.dtype(), v.shape().to_vec(), v.data().to_vec())))
        .collect()
}

fn prefixed(prefix: &str, tensors: Tensors) -> Tensors {
    let renamed = tensors
        .into_iter()
        .map(|(n, t)| (format!("{prefix}{n}"), t));
    renamed.collect()
}

fn save(scene: &Scene, name: &str, parts: impl IntoIterator<Item = Tensors>) {
    let all: Tensors = parts.into_iter().flatten().collect();
    let views = all
        .iter()
        .map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    scene.write(name, safetensors::serialize(views, None).unwrap());
}

/// A UNet and a text encoder, each in a folder with its files, and what one file has for both.
fn built() -> Scene {
    let scene = Scene::new();
    for part in ["sd_unet", "clip_text"] {
        fs::create_dir(scene.file(part)).unwrap();
        for file in [
            "model.ts.onnx",
            "shapes.ts.json",
            "fused.safetensors",
            "lora_kohya.safetensors",
        ] {
            fs::copy(
                fixture(&format!("{part}/{file}")),
                scene.file(&format!("{part}/{file}")),
            )
            .unwrap();
        }
        let model = format!("{part}/model.ts.onnx");
        let shapes = format!("{part}/shapes.ts.json");
        let plan = format!("{part}.plan");
        scene
            .run(&["build", &model, "--shapes", &shapes, "-o", &plan])
            .exits(0);
    }
    let kohya = ["sd_unet", "clip_text"].map(|p| tensors(&format!("{p}/lora_kohya.safetensors")));
    save(&scene, "style.safetensors", kohya);
    let whole = [("sd_unet", "unet."), ("clip_text", "text_encoder.")];
    let whole =
        whole.map(|(p, prefix)| prefixed(prefix, tensors(&format!("{p}/fused.safetensors"))));
    save(&scene, "whole.safetensors", whole);
    scene
}

const BOTH: [&str; 2] = ["sd_unet.plan", "clip_text.plan"];

fn refit(scene: &Scene, args: &[&str]) -> Done {
    scene.run(&[&["refit", BOTH[0], BOTH[1]], args].concat())
}

fn plans(scene: &Scene) -> [Vec<u8>; 2] {
    BOTH.map(|p| fs::read(scene.file(p)).unwrap())
}

/// What each plan becomes when it is refitted by itself.
fn alone(scene: &Scene, file: &str, lora: bool) -> [Vec<u8>; 2] {
    ["sd_unet", "clip_text"].map(|part| {
        let (plan, file) = (format!("{part}.plan"), format!("{part}/{file}"));
        let mut args = vec!["refit", &plan];
        args.extend(lora.then_some("--lora"));
        args.extend([file.as_str(), "-o", "alone.plan"]);
        scene.run(&args).exits(0);
        let bytes = fs::read(scene.file("alone.plan")).unwrap();
        for file in ["alone.plan", "alone.plan.json"] {
            fs::remove_file(scene.file(file)).unwrap();
        }
        bytes
    })
}

#[test]
fn one_lora_gives_each_plan_its_part() {
    let scene = built();
    let first = plans(&scene);
    let wanted = alone(&scene, "lora_kohya.safetensors", true);
    assert!(first != wanted);
    let before = scene.files();
    let done = refit(&scene, &["--lora", "style.safetensors", "--dry-run"]);
    done.exits(0)
        .prints("`sd_unet.plan` takes denoiser")
        .prints("`clip_text.plan` takes text-encoder")
        .prints("nothing was written");
    let loras = [
        "--lora",
        "style.safetensors",
        "--lora",
        "style.safetensors:-0.5",
        "-n",
    ];
    let both = on_screen(&scene, &[&["refit", BOTH[0], BOTH[1]], &loras[..]].concat());
    fits(both.exits(0), "refit of two plans with two LoRAs");
    assert!(scene.files() == before);
    let report = refit(&scene, &["--lora", "style.safetensors", "--json"])
        .exits(0)
        .json();
    assert_eq!(report["schema"], "trtmut.refit-several/1");
    assert_eq!(report["written"], true);
    let parts: Vec<&Value> = report["plans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["parts"][0])
        .collect();
    assert_eq!(parts, ["denoiser", "text-encoder"]);
    assert!(plans(&scene) == wanted);
    for (plan, one) in BOTH.iter().zip(report["plans"].as_array().unwrap()) {
        let manifest: Value =
            serde_json::from_slice(&fs::read(scene.file(&format!("{plan}.json"))).unwrap())
                .unwrap();
        assert_eq!(manifest["plan"]["digest"], one["digest"]);
        assert_eq!(
            manifest["recipe"]["ingredients"][0]["file"]["path"],
            "style.safetensors"
        );
        // What its manifest says is enough to put the same together again: `diff` does.
        scene
            .run(&["diff", plan, "--lora", "style.safetensors"])
            .exits(0)
            .prints("LIVE");
    }
    let live = scene.files();
    let report = refit(&scene, &["--lora", "style.safetensors", "--json"])
        .exits(0)
        .json();
    assert_eq!(report["written"], false);
    assert!(scene.files() == live);
    refit(&scene, &["--base"]).exits(0);
    assert!(plans(&scene) == first);
    refit(&scene, &["--lora", "style.safetensors:0.5", "--verify"])
        .exits(0)
        .prints("verified against");
    assert!(plans(&scene) != wanted);
}

#[test]
fn one_checkpoint_gives_each_plan_its_part() {
    let scene = built();
    let wanted = alone(&scene, "fused.safetensors", false);
    refit(&scene, &["whole.safetensors"])
        .exits(0)
        .prints("`clip_text.plan` takes text-encoder");
    assert!(plans(&scene) == wanted);
    // Another part, which none of them takes.
    let mut all = tensors("sd_unet/base.safetensors");
    all.truncate_to(3);
    save(
        &scene,
        "more.safetensors",
        [
            prefixed("unet.", tensors("sd_unet/fused.safetensors")),
            prefixed("text_encoder.", tensors("clip_text/fused.safetensors")),
            prefixed("vae.", all),
        ],
    );
    let args = ["refit", BOTH[0], BOTH[1], "more.safetensors"];
    // Without its notes, so that the error comes first.
    scene.refuses(
        &[&args[..], &["-q"]].concat(),
        1,
        &[
            "the part `vae` of `more.safetensors` (3 tensors)",
            "--ignore vae",
        ],
    );
    scene
        .run(&[&args[..], &["--ignore", "vae"]].concat())
        .exits(0);
}

trait Truncate {
    fn truncate_to(&mut self, n: usize);
}

impl Truncate for Tensors {
    fn truncate_to(&mut self, n: usize) {
        while self.len() > n {
            self.pop_last();
        }
    }
}

#[test]
fn a_part_that_no_plan_takes_is_refused_unless_it_is_let_go() {
    let scene = built();
    let before = scene.files();
    let other = prefixed("x", tensors("clip_text/lora_kohya.safetensors"));
    let second: Tensors = (other.into_iter())
        .map(|(n, t)| {
            (
                n.replace("xlora_te_", "lora_te2_")
                    .replace("xlora_te1_", "lora_te2_"),
                t,
            )
        })
        .map(|(n, (d, mut s, mut b))| {
            // Another encoder of the same names, twice as wide: the same modules and no shape that fits.
            if let [rows, columns] = s[..] {
                s = vec![rows * 2, columns];
                b = [b.clone(), b].concat();
            }
            (n, (d, s, b))
        })
        .collect();
    assert!(second.keys().all(|n| n.starts_with("lora_te2_")));
    save(
        &scene,
        "three.safetensors",
        [
            tensors("sd_unet/lora_kohya.safetensors"),
            tensors("clip_text/lora_kohya.safetensors"),
            second,
        ],
    );
    let args = ["refit", BOTH[0], BOTH[1], "--lora", "three.safetensors"];
    scene.refuses(
        &args,
        1,
        &[
            "the part `text-encoder-2` of `three.safetensors`",
            "--ignore text-encoder-2",
        ],
    );
    scene
        .run(&[&args[..], &["--ignore", "text-encoder-2"]].concat())
        .exits(0);
    let with_three = plans(&scene);
    refit(&scene, &["--lora", "style.safetensors"]).exits(0);
    assert!(plans(&scene) == with_three);
    refit(&scene, &["--base"]).exits(0);
    fs::remove_file(scene.file("three.safetensors")).unwrap();
    assert!(scene.files() == before);
    // A plan that nothing is for: it would lose what it holds.
    let only = "sd_unet/lora_kohya.safetensors";
    scene.refuses(
        &["refit", BOTH[0], BOTH[1], "--lora", only],
        1,
        &[
            "nothing of what is given is for `clip_text.plan`",
            "leave `clip_text.plan` out",
        ],
    );
    // Two files, each for one.
    let te = "clip_text/lora_kohya.safetensors";
    refit(&scene, &["--lora", only, "--lora", te]).exits(0);
    assert!(plans(&scene) == with_three);
    for plan in BOTH {
        let manifest: Value =
            serde_json::from_slice(&fs::read(scene.file(&format!("{plan}.json"))).unwrap())
                .unwrap();
        assert_eq!(
            manifest["recipe"]["ingredients"].as_array().unwrap().len(),
            1
        );
    }
}

#[test]
fn a_folder_takes_all_and_the_plans_stay() {
    let scene = built();
    let before = plans(&scene);
    fs::create_dir(scene.file("out")).unwrap();
    refit(&scene, &["--lora", "style.safetensors", "-o", "out"]).exits(0);
    assert!(plans(&scene) == before);
    let wanted = alone(&scene, "lora_kohya.safetensors", true);
    let written = BOTH.map(|p| fs::read(scene.file(&format!("out/{p}"))).unwrap());
    assert!(written == wanted);
    let names: Vec<_> = fs::read_dir(scene.file("out")).unwrap().collect();
    assert_eq!(names.len(), 4);
    // Plans of ours are written over, other files are not; nor are those that the command reads.
    refit(&scene, &["--base", "-o", "out"]).exits(0);
    scene.write("out/clip_text.plan.journal", "mine");
    scene.refuses(
        &["refit", BOTH[0], BOTH[1], "--base", "-o", "out"],
        1,
        &["out/clip_text.plan.journal", "--force"],
    );
    refit(&scene, &["--base", "-o", "out", "--force"]).exits(0);
}

#[test]
fn command_lines_that_say_two_things_are_refused() {
    let scene = built();
    fs::hard_link(scene.file(BOTH[0]), scene.file("same.plan")).unwrap();
    fs::copy(
        scene.file("sd_unet.plan.json"),
        scene.file("same.plan.json"),
    )
    .unwrap();
    fs::create_dir(scene.file("out")).unwrap();
    fs::create_dir(scene.file("in")).unwrap();
    for file in ["sd_unet.plan", "sd_unet.plan.json"] {
        fs::copy(scene.file(file), scene.file(&format!("in/{file}"))).unwrap();
    }
    let lora = ["--lora", "style.safetensors"];
    let refused = |args: &[&str], says: &str| {
        scene.refuses(&[&["refit"], args].concat(), 2, &[says]);
    };
    refused(
        &[BOTH[0], "whole.safetensors", BOTH[1]],
        "name the plans first",
    );
    refused(&[&[BOTH[0], BOTH[0]], &lora[..]].concat(), "are one plan");
    refused(
        &[&[BOTH[0], "same.plan"], &lora[..]].concat(),
        "are one plan",
    );
    refused(
        &[&BOTH[..], &lora, &["-o", "new.plan"]].concat(),
        "is no folder",
    );
    refused(
        &[&[BOTH[0], "in/sd_unet.plan", "-o", "out"], &lora[..]].concat(),
        "two plans would go to",
    );
    for option in ["--component", "--mapping", "--model"] {
        refused(&[&BOTH[..], &lora, &[option, "x"]].concat(), option);
    }
    refused(&BOTH, "nothing says which weights to take");
    fs::remove_file(scene.file("same.plan")).unwrap();
    // A plan that is not there, and one that a file does not fit.
    scene.refuses(&["refit", BOTH[0], "no.plan", "--base"], 1, &["no.plan"]);
    scene.refuses(
        &["refit", BOTH[0], BOTH[1], "sd_unet/fused.safetensors"],
        1,
        &["`clip_text.plan` cannot be refitted, so none of the plans was changed"],
    );
}

#[test]
fn of_two_equal_parts_the_one_that_is_named_is_taken() {
    let scene = built();
    let part = |prefix: &str, file: &str| prefixed(prefix, tensors(&format!("clip_text/{file}")));
    save(
        &scene,
        "two.safetensors",
        [
            part("text_encoder.", "base.safetensors"),
            part("text_encoder_2.", "fused.safetensors"),
        ],
    );
    let build = [
        "build",
        "clip_text/model.ts.onnx",
        "--shapes",
        "clip_text/shapes.ts.json",
        "--base-weights",
        "two.safetensors",
        "-o",
        "te.plan",
    ];
    scene.refuses(&build, 1, &["--component text-encoder`"]);
    let named = |part| [&build[..], &["--component", part]].concat();
    scene.refuses(
        &named("vae"),
        1,
        &["no part `vae`", "--component text-encoder"],
    );
    // The other one is another model's.
    scene.refuses(
        &named("text-encoder-2"),
        1,
        &["is not what the model was exported from"],
    );
    scene.refuses(
        &[&build[..4], &["--component", "vae"]].concat(),
        2,
        &["--base-weights"],
    );
    scene.run(&named("text-encoder")).exits(0).prints("proven");
    let refit = ["refit", "te.plan", "two.safetensors"];
    scene.refuses(&refit, 1, &["--component text-encoder`"]);
    scene
        .run(&[&refit[..], &["--component", "text-encoder-2"]].concat())
        .exits(0);
    assert!(
        fs::read(scene.file("te.plan")).unwrap() == alone(&scene, "fused.safetensors", false)[1]
    );
    scene
        .run(&[&refit[..], &["--component", "text-encoder"]].concat())
        .exits(0);
    let te = fs::read(scene.file("te.plan")).unwrap();
    assert!(te == fs::read(scene.file("clip_text.plan")).unwrap());
    scene
        .run(&[
            "diff",
            "te.plan",
            "two.safetensors",
            "--component",
            "text-encoder-2",
        ])
        .exits(0)
        .prints("NEEDS_REFIT");
    // Several plans cannot say it each; the message says how it is said.
    scene.refuses(
        &["refit", "te.plan", "sd_unet.plan", "two.safetensors"],
        1,
        &["`te.plan` cannot be refitted", "refit `te.plan` by itself"],
    );
}

/// A table of indices that engines fold in changes with the checkpoint, in both plans.
#[test]
fn what_one_plan_needs_compiled_is_compiled_for_all_or_nothing_is_changed() {
    let scene = crate::onnx_weights::scene(&crate::onnx_weights::NEW);
    for file in ["engine.plan", "engine.plan.json"] {
        let other = file.replace("engine", "other");
        fs::copy(scene.file(file), scene.file(&other)).unwrap();
    }
    let refit = ["refit", "other.plan", "engine.plan", "new.safetensors"];
    scene.refuses(
        &refit,
        20,
        &[
            "a refit is not enough for `other.plan`",
            "--fallback rebuild",
        ],
    );
    scene.run(&[&refit[..], &["--dry-run"]].concat()).exits(20);
    let report = scene
        .run(&[&refit[..], &["--fallback", "rebuild", "--json"]].concat())
        .exits(0)
        .json();
    for one in report["plans"].as_array().unwrap() {
        assert_eq!(
            (&one["rebuilt"], &one["written"]),
            (&Value::Bool(true), &Value::Bool(true))
        );
    }
    let io = "io.safetensors";
    for plan in ["engine.plan", "other.plan"] {
        scene
            .run(&["run", plan, "--inputs", io, "--expect", io])
            .exits(0)
            .prints("equal");
        assert!(
            fs::read(scene.file(plan)).unwrap() == fs::read(scene.file("engine.plan")).unwrap()
        );
    }
}
