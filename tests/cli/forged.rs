//! Names that would forge a line or turn a terminal: nothing that a file says begins a line of a report, a message or the log, in any
//! command.

use crate::hostile::{field, number};
use crate::scene::{Done, Scene};
use std::fs;
use std::path::Path;

/// After the line end stands what would pass for a line of trtmut's own; then a colour, a carriage return and a mark of direction.
fn named(what: &str) -> String {
    format!("{what}\nforged: {what}\u{1b}[31m\r\u{202e}\u{2028}")
}

/// `y = x W + b` for rows of four, with such names for everything that has one.
fn model(weight: &[f32], bias: &[f32]) -> Vec<u8> {
    let value = |name: &str| {
        let row = field(1, &field(2, named("batch").as_bytes()));
        let shape = [row, field(1, &number(1, 4))].concat();
        let tensor_type = [number(1, 1), field(2, &shape)].concat();
        [
            field(1, named(name).as_bytes()),
            field(2, &field(1, &tensor_type)),
        ]
        .concat()
    };
    let tensor = |name: &str, dims: &[u64], values: &[f32]| {
        let dims: Vec<u8> = dims.iter().flat_map(|d| number(1, *d)).collect();
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        [
            dims,
            number(2, 1),
            field(8, named(name).as_bytes()),
            field(9, &data),
        ]
        .concat()
    };
    let node = |inputs: [&str; 2], output: &str, op: &[u8]| {
        let mut node: Vec<u8> = inputs
            .iter()
            .flat_map(|i| field(1, named(i).as_bytes()))
            .collect();
        node.extend(field(2, named(output).as_bytes()));
        node.extend(field(3, named("node").as_bytes()));
        node.extend(field(4, op));
        node
    };
    let graph = [
        field(1, &node(["x", "w"], "h", b"MatMul")),
        field(1, &node(["h", "b"], "y", b"Add")),
        field(2, named("graph").as_bytes()),
        field(5, &tensor("w", &[4, 4], weight)),
        field(5, &tensor("b", &[4], bias)),
        field(11, &value("x")),
        field(12, &value("y")),
    ]
    .concat();
    [
        number(1, 8),
        field(2, named("producer").as_bytes()),
        field(7, &graph),
        field(8, &number(2, 17)),
    ]
    .concat()
}

/// A safetensors file of f32 tensors.
fn weights(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    fs::write(path, file).unwrap();
}

fn ramp(count: usize, from: f32) -> Vec<f32> {
    (0..count).map(|i| from + i as f32 / 8.0).collect()
}

/// No character acts, and no line begins with what a name says.
fn is_harmless(what: &str, text: &str) {
    let acts = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}')
    };
    assert!(!text.contains(acts), "{what}: {text:?}");
    let forged = text.lines().find(|l| l.trim_start().starts_with("forged"));
    assert_eq!(forged, None, "{what}: {text}");
}

fn files(scene: &Scene) {
    let (w, b) = (ramp(16, 0.5), ramp(4, 1.0));
    scene
        .write("m.onnx", model(&w, &b))
        .write("next.onnx", model(&ramp(16, 1.5), &b));
    let tensor =
        |name: &str, shape: &[usize], values: Vec<f32>| (named(name), shape.to_vec(), values);
    let base = [tensor("w", &[4, 4], w), tensor("b", &[4], b.clone())];
    weights(&scene.file("base.safetensors"), &base);
    let new = [
        tensor("w", &[4, 4], ramp(16, 2.0)),
        tensor("b", &[4], ramp(4, 3.0)),
    ];
    weights(&scene.file("new.safetensors"), &new);
    let lost = [
        base[0].clone(),
        tensor("other", &[4], b),
        tensor("third", &[2, 2], ramp(4, 0.0)),
    ];
    weights(&scene.file("lost.safetensors"), &lost);
    let wrong = [tensor("w", &[3, 5], ramp(15, 0.0)), base[1].clone()];
    weights(&scene.file("wrong.safetensors"), &wrong);
    let module = named("w");
    let lora = |module: &str| {
        [
            (
                format!("{module}.lora_down.weight"),
                vec![2, 4],
                ramp(8, 0.25),
            ),
            (format!("{module}.lora_up.weight"), vec![4, 2], ramp(8, 0.5)),
        ]
    };
    weights(&scene.file("lora.safetensors"), &lora(&module));
    weights(&scene.file("stray.safetensors"), &lora(&named("nowhere")));
    weights(
        &scene.file("in.safetensors"),
        &[tensor("x", &[2, 4], ramp(8, 0.0))],
    );
    weights(
        &scene.file("odd.safetensors"),
        &[tensor("z", &[2, 4], ramp(8, 0.0))],
    );
    let spec = |input: &str| serde_json::json!({"dims": {"d": {"min": 1, "opt": 2, "max": 4}}, "inputs": {named(input): {"0": "d"}}});
    scene
        .write("shapes.json", spec("x").to_string())
        .write("bad.json", spec("nothing").to_string());
}

/// Every command, what goes well and what is refused.
const RUNS: &[&[&str]] = &[
    &["inspect", "m.onnx"],
    &["inspect", "m.onnx", "--weights"],
    &["build", "m.onnx"],
    &["build", "m.onnx", "--print-shapes"],
    &["build", "m.onnx", "--shapes", "bad.json"],
    &[
        "build",
        "m.onnx",
        "--backend",
        "cpu",
        "--shapes",
        "shapes.json",
        "--base-weights",
        "wrong.safetensors",
        "-o",
        "q.plan",
    ],
    &[
        "build",
        "m.onnx",
        "--backend",
        "cpu",
        "--shapes",
        "shapes.json",
        "--base-weights",
        "lost.safetensors",
        "-o",
        "q.plan",
    ],
    &[
        "build",
        "m.onnx",
        "--backend",
        "cpu",
        "--shapes",
        "shapes.json",
        "--base-weights",
        "base.safetensors",
        "-o",
        "p.plan",
    ],
    &["shapes", "init", "m.onnx"],
    &["shapes", "check", "shapes.json", "m.onnx"],
    &["shapes", "check", "bad.json", "m.onnx"],
    &["inspect", "p.plan"],
    &["inspect", "p.plan", "--weights"],
    &["map", "p.plan"],
    &["probe", "--print"],
    &["diff", "p.plan", "new.safetensors"],
    &["diff", "p.plan", "new.safetensors", "--html", "d.html"],
    &["diff", "p.plan", "lost.safetensors"],
    &["diff", "p.plan", "wrong.safetensors"],
    &["diff", "p.plan", "next.onnx"],
    &["diff", "p.plan", "--lora", "lora.safetensors"],
    &["diff", "p.plan", "--lora", "stray.safetensors"],
    &["run", "p.plan"],
    &[
        "run",
        "p.plan",
        "--inputs",
        "in.safetensors",
        "--save",
        "out.safetensors",
    ],
    &[
        "run",
        "p.plan",
        "--inputs",
        "in.safetensors",
        "--expect",
        "out.safetensors",
    ],
    &["run", "p.plan", "--inputs", "odd.safetensors"],
    &["refit", "p.plan", "new.safetensors", "--dry-run"],
    &["refit", "p.plan", "lost.safetensors"],
    &["refit", "p.plan", "wrong.safetensors"],
    &["refit", "p.plan", "--lora", "stray.safetensors"],
    &["refit", "p.plan", "new.safetensors", "--verify"],
    &["refit", "p.plan", "--lora", "lora.safetensors"],
    &["refit", "p.plan", "--base"],
    &["export", "triton", "p.plan", "models/m"],
    &["adopt", "p.plan", "--model", "m.onnx"],
    &["cache", "list"],
    &["cache", "explain", "m.onnx", "--shapes", "shapes.json"],
    &["cache", "verify"],
    &["doctor"],
];

#[test]
fn a_name_begins_no_line_anywhere() {
    let scene = Scene::new();
    files(&scene);
    let mut codes = std::collections::BTreeMap::<i32, usize>::new();
    for args in RUNS {
        for json in [false, true] {
            let mut words = args.to_vec();
            words.extend(["-vv", "--log-file", "log"]);
            if json {
                words.push("--json");
            }
            let done: Done = scene.run(&words);
            let what = format!("{words:?}");
            *codes.entry(done.code).or_default() += 1;
            assert!(!matches!(done.code, 2 | 70), "{what}: {}", done.stderr);
            // A document's own line ends are no text of a file's.
            is_harmless(&what, &done.stdout);
            is_harmless(&what, &done.stderr);
        }
    }
    // A warning that names a file, which the log has as well.
    let saved = format!("{}.safetensors", named("out"));
    let words = [
        "run",
        "p.plan",
        "--save",
        &saved,
        "-vv",
        "--log-file",
        "log",
    ];
    scene.run(&words).exits(0);
    fs::hard_link(scene.file(&saved), scene.file("second")).unwrap();
    let done = scene.run(&words);
    done.exits(0);
    assert!(done.stderr.contains("has other names"), "{}", done.stderr);
    is_harmless("a warning", &done.stderr);
    let log = fs::read_to_string(scene.file("log")).unwrap();
    assert!(log.lines().count() > RUNS.len(), "{log}");
    is_harmless("the log", &log);
    // They were shown, not left out.
    let done = scene.run(&["map", "p.plan"]);
    assert!(
        done.stdout.contains(r"w\nforged: w\u{1b}[31m\r\u{202e}"),
        "{}",
        done.stdout
    );
    assert!(
        log.contains(r"WARN trtmut::said: `out\nforged: out"),
        "{log}"
    );
    assert!(codes[&0] >= 50 && codes[&1] >= 20, "{codes:?}");
}

#[test]
fn a_refused_argument_is_shown_and_not_obeyed() {
    let scene = Scene::new();
    let hostile = named("x");
    for args in [
        vec![
            "build".to_owned(),
            "m.onnx".into(),
            format!("--nope={hostile}"),
        ],
        vec![
            "build".into(),
            "m.onnx".into(),
            format!("--backend={hostile}"),
        ],
        vec![
            "build".into(),
            "m.onnx".into(),
            "--backend".into(),
            hostile.clone(),
        ],
        vec![hostile.clone()],
        vec!["cache".into(), hostile.clone()],
    ] {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let done = scene.run(&words);
        done.exits(2);
        is_harmless(&format!("{args:?}"), &done.stderr);
        assert!(done.stderr.starts_with("error: "), "{}", done.stderr);
    }
}
