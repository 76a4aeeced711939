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

/// Tools' wrappers around a name: in front of it, or inside of it.
const WRAPPERS: [&str; 7] = [
    "model.",
    "module.",
    "base_model.model.",
    "module._orig_mod.",
    "_orig_mod.",
    "base_layer",
    "_orig_mod.model.",
];

fn wrapped(wrapper: &str, name: &str) -> String {
    match (wrapper, name.rsplit_once('.')) {
        ("base_layer", Some((module, last))) => format!("{module}.base_layer.{last}"),
        ("base_layer", None) => format!("base_layer.{name}"),
        _ => format!("{wrapper}{name}"),
    }
}

fn any_matrix(tensors: &Tensors) -> String {
    let is_query = |n: &&String| n.ends_with("layers.0.self_attn.q_proj.weight");
    tensors.keys().find(is_query).unwrap().clone()
}

/// Whether a hint names an option.
fn hinted_options(done: &crate::scene::Done) -> bool {
    let hints = done.json()["hints"].to_string();
    hints.contains("--partial") || hints.contains("--ignore")
}

#[test]
fn a_tensor_that_is_given_twice_says_the_same_or_is_refused() {
    let (scene, base) = text_encoder();
    let new = larger(&base);
    let q = any_matrix(&base);
    save(&scene, "plain.safetensors", &new);
    let refit = |file: &'static str, out: &'static str| {
        let args = ["refit", "engine.plan", file, "-o", out, "--force", "--json"];
        scene.run(&args)
    };
    refit("plain.safetensors", "plain.plan").exits(0);
    let plan = |name: &str| fs::read(scene.file(name)).unwrap();
    for wrapper in WRAPPERS {
        let whole = |tensors: &Tensors| -> Tensors {
            let named = |(n, t): (&String, &_)| (wrapped(wrapper, n), Clone::clone(t));
            tensors.iter().map(named).collect()
        };
        let one = |tensors: &Tensors| Tensors::from([(wrapped(wrapper, &q), tensors[&q].clone())]);
        for (plain, again) in [
            (&base, whole(&new)),
            (&new, whole(&base)),
            (&base, one(&new)),
            (&new, one(&base)),
        ] {
            let mut both = plain.clone();
            both.extend(again);
            save(&scene, "both.safetensors", &both);
            let done = refit("both.safetensors", "both.plan");
            done.exits(1);
            // What `torch.compile` and PEFT put into a name is not shown.
            let shown = |name: &str| name.replace("_orig_mod.", "");
            for name in [shown(&wrapped(wrapper, &q)), q.clone()] {
                let listed = done.stdout.contains(&format!("`{name}`"));
                // Of many, the first few are named.
                assert!(
                    listed || both.len() > base.len() + 1,
                    "{wrapper}: {}",
                    done.stdout
                );
            }
            assert!(done.stdout.contains("with one of them"), "{}", done.stdout);
            assert!(!hinted_options(&done), "{wrapper}: {}", done.stdout);
            let diff = ["diff", "engine.plan", "both.safetensors", "--exit-code"];
            assert_ne!(scene.run(&diff).code, 0, "{wrapper}");
        }
        for again in [whole(&new), one(&new)] {
            let mut both = new.clone();
            both.extend(again);
            save(&scene, "both.safetensors", &both);
            refit("both.safetensors", "both.plan").exits(0);
            assert!(plan("both.plan") == plan("plain.plan"), "{wrapper}");
        }
        // The wrapper is around most names, and one is there without it as well.
        let mut both = whole(&new);
        both.insert(q.clone(), new[&q].clone());
        save(&scene, "both.safetensors", &both);
        refit("both.safetensors", "both.plan").exits(0);
        assert!(plan("both.plan") == plan("plain.plan"), "{wrapper}");
        both.insert(q.clone(), base[&q].clone());
        save(&scene, "both.safetensors", &both);
        let done = refit("both.safetensors", "both.plan");
        done.exits(1).prints(&format!("`{q}`"));
    }
}

#[test]
fn names_of_which_some_are_in_a_wrapper_are_read() {
    let (scene, base) = text_encoder();
    let new = larger(&base);
    save(&scene, "plain.safetensors", &new);
    let refit = |file: &'static str, out: &'static str| {
        scene.run(&["refit", "engine.plan", file, "-o", out, "--force"])
    };
    refit("plain.safetensors", "plain.plan").exits(0);
    for wrapper in WRAPPERS {
        for every in [2, new.len()] {
            let some = new.iter().enumerate().map(|(i, (n, t))| {
                let is_wrapped = i % every == 1;
                let name = if is_wrapped {
                    wrapped(wrapper, n)
                } else {
                    n.clone()
                };
                (name, t.clone())
            });
            save(&scene, "some.safetensors", &some.collect());
            refit("some.safetensors", "some.plan").exits(0);
            let plan = |name: &str| fs::read(scene.file(name)).unwrap();
            assert!(plan("some.plan") == plan("plain.plan"), "{wrapper} {every}");
        }
    }
}

#[test]
fn what_may_be_a_missing_tensor_under_another_name_is_not_unused() {
    let (scene, base) = text_encoder();
    let new = larger(&base);
    let q = any_matrix(&base);
    let renamed = |how: &dyn Fn(&str) -> String| -> Tensors {
        new.iter().map(|(n, t)| (how(n), t.clone())).collect()
    };
    let layer = q.split("self_attn").next().unwrap().to_owned();
    let stacked = {
        let mut stacked = new.clone();
        for last in ["weight", "bias"] {
            let parts = ["q", "k", "v"].map(|p| format!("{layer}self_attn.{p}_proj.{last}"));
            let parts = parts.map(|name| stacked.remove(&name).unwrap());
            let mut shape = parts[0].1.clone();
            shape[0] *= 3;
            let bytes = parts.iter().flat_map(|(.., b)| b.clone()).collect();
            let name = format!("{layer}self_attn.in_proj_{last}");
            stacked.insert(name, (Dtype::F32, shape, bytes));
        }
        stacked
    };
    let other_part = renamed(&|n| {
        if n == q {
            format!("text_encoder_2.{n}")
        } else {
            n.to_owned()
        }
    });
    for (what, file) in [
        ("another word", renamed(&|n| n.replace("q_proj", "to_q"))),
        (
            "capitals",
            renamed(&|n| {
                if n.starts_with(&layer) {
                    n.to_uppercase()
                } else {
                    n.to_owned()
                }
            }),
        ),
        (
            "another path",
            renamed(&|n| n.replace(&layer, "transformer.resblocks.0.")),
        ),
        ("stacked", stacked),
        ("another part", other_part),
    ] {
        save(&scene, "other.safetensors", &file);
        for flags in [&[][..], &["--partial"]] {
            let args = ["refit", "engine.plan", "other.safetensors", "--json"];
            let done = scene.run(&[&args[..], flags].concat());
            done.exits(1).prints("under another name");
            assert!(!hinted_options(&done), "{what}: {}", done.stdout);
        }
    }
    // A part of the checkpoint alone, and what is of another size than all that is missing.
    let mut part = new.clone();
    part.remove(&q);
    part.insert("head.weight".into(), (Dtype::F32, vec![7, 5], vec![1; 140]));
    save(&scene, "part.safetensors", &part);
    let done = scene.run(&["refit", "engine.plan", "part.safetensors"]);
    done.exits(1);
    assert!(done.stderr.contains("--partial"), "{}", done.stderr);
    let args = ["refit", "engine.plan", "part.safetensors", "--partial"];
    scene
        .run(&args)
        .exits(0)
        .prints("not used by the model: `head.weight`");
}

#[test]
fn a_layer_more_than_the_model_has_is_not_unused() {
    let (scene, base) = text_encoder();
    let mut deeper = larger(&base);
    let has = |i: &usize| base.keys().any(|n| n.contains(&format!("layers.{i}.")));
    let last = (0..base.len()).rfind(has).unwrap();
    let (last, next) = (format!("layers.{last}."), format!("layers.{}.", last + 1));
    let more = base.iter().filter(|(n, _)| n.contains(&last));
    deeper.extend(more.map(|(n, t)| (n.replace(&last, &next), t.clone())));
    // Other values than those of the layer before, which would be the same tensor twice.
    let own = larger(&larger(&deeper));
    deeper.extend(own.into_iter().filter(|(n, _)| n.contains(&next)));
    save(&scene, "deeper.safetensors", &deeper);
    scene.refuses(
        &["refit", "engine.plan", "deeper.safetensors"],
        1,
        &["map to no weight", &next],
    );
}

#[test]
fn a_storage_type_is_named_and_is_no_other_architecture() {
    let (scene, base) = text_encoder();
    let q = any_matrix(&base);
    for build in [&["--weights", "base.safetensors"][..], &[]] {
        let args = [
            "build",
            "model.ts.onnx",
            "-s",
            "shapes.ts.json",
            "-o",
            "p.plan",
            "--force",
        ];
        scene.run(&[&args[..], build].concat()).exits(0);
        for (dtype, width) in [(Dtype::I8, 1), (Dtype::I32, 4), (Dtype::I64, 8)] {
            let mut integers = base.clone();
            let (_, shape, bytes) = &base[&q];
            let some = bytes.iter().copied().cycle().take(bytes.len() / 4 * width);
            integers.insert(q.clone(), (dtype, shape.clone(), some.collect()));
            save(&scene, "integers.safetensors", &integers);
            let done = scene.run(&["refit", "p.plan", "integers.safetensors"]);
            done.exits(1);
            let name = format!("{dtype:?}").to_lowercase();
            for said in [&*q, &format!("stored as {name}"), "f32, f16 or bf16"] {
                assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
            }
            assert!(!done.stderr.contains("architecture"), "{}", done.stderr);
            let diff = ["diff", "p.plan", "integers.safetensors", "--exit-code"];
            scene.run(&diff).exits(30);
        }
    }
}

#[test]
fn values_that_are_no_numbers_are_told() {
    let (scene, base) = text_encoder();
    let new = larger(&base);
    let q = any_matrix(&base);
    let spoilt = |values: &[f32]| {
        let mut spoilt = new.clone();
        let (_, _, bytes) = spoilt.get_mut(&q).unwrap();
        for (i, value) in values.iter().enumerate() {
            bytes[20 * i..20 * i + 4].copy_from_slice(&value.to_le_bytes());
        }
        spoilt
    };
    for (values, nan, infinite) in [
        (&[f32::NAN][..], 1, 0),
        (&[f32::INFINITY, f32::NEG_INFINITY], 0, 2),
        (&[f32::NAN, -f32::NAN, f32::INFINITY], 2, 1),
    ] {
        save(&scene, "spoilt.safetensors", &spoilt(values));
        for command in ["refit", "diff"] {
            let args: &[&str] = match command {
                "refit" => &["-o", "out.plan", "--force", "--json"],
                _ => &["--json"],
            };
            let done = scene.run(&[&[command, "engine.plan", "spoilt.safetensors"], args].concat());
            done.exits(0);
            let reasons = done.json()["reasons"].as_array().unwrap().clone();
            let told: Vec<_> = reasons
                .iter()
                .filter(|r| r["reason"] == "not-finite")
                .collect();
            assert_eq!(told.len(), 1, "{reasons:#?}");
            assert_eq!(told[0]["tensor"], q.as_str());
            assert_eq!(
                (told[0]["nan"].as_u64(), told[0]["infinite"].as_u64()),
                (Some(nan), Some(infinite))
            );
        }
        let done = scene.run(&["refit", "engine.plan", "spoilt.safetensors", "--dry-run"]);
        done.exits(0);
        assert!(done.stderr.contains(&format!("`{q}` (")), "{}", done.stderr);
    }
    save(&scene, "sound.safetensors", &new);
    let done = scene.run(&["refit", "engine.plan", "sound.safetensors", "--dry-run"]);
    assert!(!done.stderr.contains("NaN"), "{}", done.stderr);
}

#[test]
fn where_everything_is_let_go_nothing_is_asked_for() {
    let (scene, base) = text_encoder();
    save(&scene, "new.safetensors", &larger(&base));
    let refit = ["refit", "engine.plan", "new.safetensors", "--ignore", "*"];
    scene.run(&refit).exits(0).prints("LIVE");
}
