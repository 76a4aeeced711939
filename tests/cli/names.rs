//! Checkpoints and LoRAs as they are passed around: parts of a pipeline, wrappers, storage that is not read.

use crate::scene::{Scene, fixture};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs;

/// Tensors by name: element type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A plan of the small text encoder, and its checkpoint.
fn text_encoder() -> (Scene, Tensors) {
    let scene = Scene::new();
    scene
        .bring("clip_text/model.ts.onnx")
        .bring("clip_text/shapes.ts.json")
        .bring("clip_text/base.safetensors");
    let build = ["build", "model.ts.onnx", "--shapes", "shapes.ts.json"];
    scene
        .run(&[&build[..], &["--weights", "base.safetensors"]].concat())
        .exits(0);
    let bytes = fs::read(scene.file("base.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    let tensors = tensors.map(|(n, v)| (n, (v.dtype(), v.shape().to_vec(), v.data().to_vec())));
    let tensors: Tensors = tensors.collect();
    (scene, tensors)
}

fn save(scene: &Scene, name: &str, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    scene.write(name, safetensors::serialize(views, None).unwrap());
}

fn under(prefix: &str, tensors: &Tensors) -> Tensors {
    let text_model = |n: &str| {
        if n.starts_with("text_model.") || n.starts_with("text_projection") {
            n.to_owned()
        } else {
            format!("text_model.{n}")
        }
    };
    (tensors.iter())
        .map(|(n, t)| (format!("{prefix}{}", text_model(n)), t.clone()))
        .collect()
}

/// The same with every float a quarter larger.
fn larger(tensors: &Tensors) -> Tensors {
    let scaled = |bytes: &[u8]| -> Vec<u8> {
        let words = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        words.flat_map(|v| (v * 1.25).to_le_bytes()).collect()
    };
    (tensors.iter())
        .map(|(n, (d, s, b))| {
            let bytes = if *d == Dtype::F32 {
                scaled(b)
            } else {
                b.clone()
            };
            (n.clone(), (*d, s.clone(), bytes))
        })
        .collect()
}

#[test]
fn of_a_whole_pipeline_the_models_part_is_taken_and_the_rest_is_counted() {
    let (scene, tensors) = text_encoder();
    let mut whole = under("conditioner.embedders.0.transformer.", &tensors);
    let scalar = (Dtype::F32, vec![1], 1f32.to_le_bytes().to_vec());
    for other in [
        "first_stage_model.decoder.conv_in.bias",
        "alphas_cumprod",
        "model_ema.decay",
    ] {
        whole.insert(other.to_owned(), scalar.clone());
    }
    save(&scene, "whole.safetensors", &whole);
    let done = scene.run(&["refit", "engine.plan", "whole.safetensors"]);
    done.exits(0).prints("LIVE");
    for part in ["vae (1)", "schedule (1)", "ema (1)"] {
        assert!(done.stderr.contains(part), "no `{part}` in {}", done.stderr);
    }
    // What is of no known part is not taken for one. The base explains every constant, so that the model cannot hold it.
    whole.insert("mystery.weight".to_owned(), scalar);
    save(&scene, "more.safetensors", &whole);
    let done = scene.run(&["refit", "engine.plan", "more.safetensors"]);
    done.exits(0)
        .prints("not used by the model: `mystery.weight`");
}

#[test]
fn where_two_parts_fit_the_user_says_which() {
    let (scene, tensors) = text_encoder();
    let mut two = under("text_encoder.", &tensors);
    two.extend(under("text_encoder_2.", &larger(&tensors)));
    save(&scene, "two.safetensors", &two);
    let refit =
        |part: &[&'static str]| [&["refit", "engine.plan", "two.safetensors"], part].concat();
    scene.refuses(
        &refit(&[]),
        1,
        &["each of them fits", "--component text-encoder"],
    );
    scene
        .run(&refit(&["--component", "text-encoder"]))
        .exits(0)
        .prints("LIVE");
    scene
        .run(&refit(&["--component", "text-encoder-2"]))
        .exits(0)
        .prints("refitted");
    scene.refuses(
        &refit(&["--component", "vae"]),
        1,
        &["no part `vae`", "--component text-encoder"],
    );
}

#[test]
fn what_is_no_checkpoint_of_this_kind_is_named_with_the_way_out() {
    let (scene, mut tensors) = text_encoder();
    let refit = |file: &'static str| ["refit", "engine.plan", file];
    for (file, contents, says) in [
        (
            "pointer.safetensors",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            ["Git LFS pointer", "git lfs pull"],
        ),
        (
            "page.safetensors",
            "<!DOCTYPE html><html><body>Log in</body></html>",
            ["a web page", "download the file again"],
        ),
        (
            "blocks.safetensors",
            "GGUF\u{3}\0\0\0\0\0\0\0\0\0\0\0",
            ["a GGUF file", "checkpoint that it was made from"],
        ),
    ] {
        scene.write(file, contents);
        scene.refuses(&refit(file), 1, &says);
    }
    let (name, weight) = (tensors.iter())
        .find(|(n, (_, s, _))| n.ends_with("q_proj.weight") && s.len() == 2)
        .map(|(n, t)| (n.clone(), t.clone()))
        .unwrap();
    let module = name.strip_suffix(".weight").unwrap();
    tensors.remove(&name);
    tensors.insert(format!("{module}.base_layer.weight"), weight.clone());
    save(&scene, "merged.safetensors", &tensors);
    scene
        .run(&refit("merged.safetensors"))
        .exits(0)
        .prints("LIVE");
    tensors.insert(format!("{module}.lora_A.default.weight"), weight.clone());
    save(&scene, "unmerged.safetensors", &tensors);
    scene.refuses(
        &refit("unmerged.safetensors"),
        1,
        &["unmerged PEFT model", "merge_and_unload"],
    );
    tensors.remove(&format!("{module}.lora_A.default.weight"));
    tensors.insert(format!("{module}.weight.absmax"), weight);
    save(&scene, "four_bits.safetensors", &tensors);
    scene.refuses(
        &refit("four_bits.safetensors"),
        1,
        &["bitsandbytes", "f32, f16 or bf16"],
    );
}

#[test]
fn a_lora_without_a_configuration_takes_alpha_for_the_rank_unless_told() {
    let (scene, _) = text_encoder();
    scene.bring("clip_text/adapter_model.safetensors");
    let lora = |output: &'static str, more: &[&'static str]| {
        let args = [
            "refit",
            "engine.plan",
            "--lora",
            "adapter_model.safetensors",
            "-o",
            output,
        ];
        scene.run(&[&args[..], more].concat())
    };
    let done = lora("rank.plan", &[]);
    done.exits(0).prints("refitted");
    assert!(done.stderr.contains("--lora-alpha"), "{}", done.stderr);
    lora("other.plan", &["--lora-alpha", "1"]).exits(0);
    // With its configuration beside it, nothing has to be said.
    let config = fs::read_to_string(fixture("clip_text/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    scene.write("adapter_config.json", config.to_string());
    let done = lora("stated.plan", &[]);
    done.exits(0);
    assert!(!done.stderr.contains("--lora-alpha"), "{}", done.stderr);
    let alpha = config["lora_alpha"].as_f64().unwrap().to_string();
    fs::remove_file(scene.file("adapter_config.json")).unwrap();
    scene
        .run(&[
            "refit",
            "engine.plan",
            "--lora",
            "adapter_model.safetensors",
            "-o",
            "said.plan",
            "--lora-alpha",
            &alpha,
        ])
        .exits(0);
    let plan = |name: &str| fs::read(scene.file(name)).unwrap();
    assert!(plan("said.plan") == plan("stated.plan"));
    assert!(plan("other.plan") != plan("rank.plan"));
}
