//! The examples of docs/tensorrt.md, line by line as they stand there, on files of the names that they use.

use super::{World, mlp_of, plugin_library, random, safetensors, weights};
use crate::support::net::Weights;

/// The blocks of commands, in order.
fn blocks() -> Vec<Vec<Vec<String>>> {
    let text = std::fs::read_to_string(crate::tensorrt::root().join("docs/tensorrt.md"))
        .expect("it is there");
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, from)) = rest.split_once("```sh\n") {
        let (block, after) = from.split_once("```").expect("it is closed");
        let words = |line: &str| -> Vec<String> {
            let mut words = line.split_whitespace().map(str::to_owned);
            assert_eq!(words.next().as_deref(), Some("trtmut"), "{line}");
            words.collect()
        };
        blocks.push(block.lines().map(words).collect());
        rest = after;
    }
    blocks
}

pub fn examples(w: &World) {
    let base = weights(1);
    let detector = mlp_of("3", &base)
        .output("z", &["3", "4"])
        .node("m/mine", "Twice", &["y"], "t", &[])
        .node("m/last", "Halve_TRT", &["t"], "z", &[]);
    let lora: Weights = [
        ("fc1.lora_A.weight".to_owned(), random(21, &[2, 8])),
        ("fc1.lora_B.weight".to_owned(), random(22, &[16, 2])),
    ]
    .into();
    w.scene
        .write("unet.onnx", mlp_of("3", &base).onnx(""))
        .write("detector.onnx", detector.onnx(""))
        .write("unet.safetensors", safetensors(&base))
        .write("style.safetensors", safetensors(&lora));
    let io = std::fs::read(w.scene.file("in.safetensors")).expect("it is there");
    w.scene.write("io.safetensors", io);
    plugin_library(w, "libmine.so", 1);
    let blocks = blocks();
    let all: Vec<String> = blocks.iter().flatten().map(|line| line.join(" ")).collect();
    for option in [
        "--plugin",
        "--weight-streaming",
        "adopt",
        "--convert",
        "--device",
        "--profile-layers",
        "--streams",
    ] {
        assert!(
            all.iter().any(|l| l.contains(option)),
            "no example of {option}"
        );
    }
    for block in blocks {
        let of_block = block.concat();
        let has = |word: &str| of_block.iter().any(|w| w == word);
        let skip = has("standard") && w.backend() != "tensorrt"
            || has("--convert") && !w.release().since([9, 0, 0])
            || has("--weight-streaming") && !w.release().since([10, 8, 0]);
        if skip {
            continue;
        }
        if has("adopt") {
            let plan = ["build", "unet.onnx", "--force", "-o", "unet.plan"];
            w.run(&plan).exits(0);
            std::fs::remove_file(w.scene.file("unet.plan.json")).expect("it had a manifest");
        }
        for line in &block {
            let args: Vec<&str> = line.iter().map(String::as_str).collect();
            w.run_with(&args, &[("STANDIN_GPUS", "2")]).exits(0);
        }
    }
}
