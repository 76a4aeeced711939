//! docs/schema has a JSON Schema of every document, and every document is as it says: no field is missing, and none is there that the
//! schema does not know.

use crate::scene::{Scene, fixture};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The published schemas by the name of the document.
fn published() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(root().join("docs/schema")).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let schema: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let title = schema["title"].as_str().unwrap().to_owned();
            let named = format!("{}.json", title.replace('/', "-"));
            assert_eq!(path.file_name().unwrap(), named.as_str());
            assert_eq!(schema["properties"]["schema"]["const"], title.as_str());
            (title, schema)
        })
        .collect()
}

/// Consumers must let new fields pass; this test does not: an object whose fields are listed has no others, unless the schema says so.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("properties") && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".into(), false.into());
            }
            map.values_mut().for_each(close);
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

struct Schemas {
    compiled: boon::Schemas,
    by_name: BTreeMap<String, boon::SchemaIndex>,
    seen: BTreeSet<String>,
}

impl Schemas {
    fn new() -> Schemas {
        let mut schemas = Schemas {
            compiled: boon::Schemas::new(),
            by_name: BTreeMap::new(),
            seen: BTreeSet::new(),
        };
        for (title, mut schema) in published() {
            close(&mut schema);
            let url = format!("https://trtmut.invalid/{title}");
            let mut compiler = boon::Compiler::new();
            compiler.add_resource(&url, schema).unwrap();
            let index = compiler.compile(&url, &mut schemas.compiled).unwrap();
            schemas.by_name.insert(title, index);
        }
        schemas
    }

    fn check(&mut self, document: &Value, what: &str) {
        let title = document["schema"]
            .as_str()
            .unwrap_or_else(|| panic!("{what}: {document}"));
        let index = self.by_name.get(title);
        let index = *index.unwrap_or_else(|| panic!("docs/schema has no {title}"));
        if let Err(e) = self.compiled.validate(document, index) {
            panic!("{what} is not as docs/schema says:\n{e:#}\n{document:#}");
        }
        self.seen.insert(title.to_owned());
    }
}

/// Names of the documents that the sources print.
fn printed() -> BTreeSet<String> {
    fn walk(folder: &Path, out: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut sources = String::new();
    walk(&root().join("src"), &mut sources);
    let schema = regex::Regex::new(r#"const SCHEMA: &(?:'static )?str = "([^"]+)""#).unwrap();
    let mut found: BTreeSet<String> = schema
        .captures_iter(&sources)
        .map(|c| c[1].to_owned())
        .collect();
    found.insert("trtmut.error/1".into());
    // What --mapping reads.
    found.remove("trtmut.mapping-override/1");
    found
}

#[test]
fn every_document_has_a_schema_and_is_as_it_says() {
    let mut schemas = Schemas::new();
    let names: BTreeSet<String> = schemas.by_name.keys().cloned().collect();
    let printed = printed();
    assert!(printed.len() > 20, "{printed:?}");
    assert_eq!(names, printed);

    let scene = Scene::new();
    let path = |name: &str| fixture(name).display().to_string();
    let remote = format!("file://{}/remote", scene.path().display());
    std::fs::create_dir(scene.file("remote")).unwrap();
    let mut run = |args: &[&str]| {
        let done = scene.run(&[args, &["--json"]].concat());
        schemas.check(&done.json(), &args.join(" "));
    };
    for name in ["resnet", "sd_unet", "clip_text"] {
        let file = |file: &str| path(&format!("{name}/{file}"));
        let (model, shapes) = (file("model.dynamo.onnx"), file("shapes.dynamo.json"));
        let (base, fused, io) = (
            file("base.safetensors"),
            file("fused.safetensors"),
            file("io0.safetensors"),
        );
        let plan = format!("{name}.plan");
        let plan = plan.as_str();
        let build = ["build", &model, "-s", &shapes, "-b", "cpu", "-o", plan];
        for args in [
            &build[..],
            &["map", plan],
            &["inspect", plan],
            &[&build[..], &["-w", &base]].concat(),
            &["map", plan],
            &["inspect", plan, "--weights"],
            &["inspect", &model, "--weights"],
            &["diff", plan, &fused, "--html", "r.html"],
            &["diff", plan, &base],
            &["diff", plan, &path("dit/base.safetensors")],
            &["diff", plan, &path("dit/model.ts.onnx")],
            &["diff", &model, &fused],
            &["diff", &base, &fused],
            &[
                "run", plan, "--iters", "3", "--inputs", &io, "--expect", &io, "--verify",
                "--save", "o.npz",
            ],
            &[
                "run",
                plan,
                "--duration",
                "0.01",
                "--export-times",
                "times.json",
            ],
            &["run", plan, "--weights", &fused],
            &["run", plan, "--inputs", &io, "--expect", &io],
            &["refit", plan, &fused, "--dry-run"],
            &["refit", plan, &fused, "--verify"],
            &["refit", plan, &fused],
            &["inspect", plan],
            &["map", plan],
            &["refit", plan, "--base"],
            &["refit", plan, &path("dit/base.safetensors")],
            &["shapes", "check", &shapes, &model],
            &["shapes", "convert", &shapes, &model, "--to", "inputs"],
            &["shapes", "init", &model],
            &["cache", "explain", &model, "-s", &shapes, "-b", "cpu"],
            &[
                "cache",
                "explain",
                &path("dit/model.ts.onnx"),
                "-s",
                &path("dit/shapes.ts.json"),
                "-b",
                "cpu",
            ],
        ] {
            run(args);
        }
    }
    let lora = path("sd_unet/pytorch_lora_weights.safetensors");
    run(&["diff", "sd_unet.plan", "--lora", &lora]);
    run(&["refit", "sd_unet.plan", "--lora", &lora]);
    run(&[
        "run",
        &path("dit/model.ts.onnx"),
        "-s",
        &path("dit/shapes.ts.json"),
        "-b",
        "cpu",
    ]);
    run(&["refit", "resnet.plan", "sd_unet.plan", "--base"]);
    run(&["shapes", "schema"]);
    for args in [
        &["list"][..],
        &["info", "resnet.plan"],
        &["pin", "resnet.plan"],
        &["push", "--remote", &remote],
        &["push", "--remote", &remote],
        &["verify"],
        &["dir"],
        &["prune", "--to", "1KiB", "--dry-run"],
        &["unpin", "resnet.plan"],
        &["clear", "--yes"],
        &["clear"],
        &["pull", "--remote", &remote, "--all"],
        &["list"],
    ] {
        run(&[&["cache"], args].concat());
    }
    // Damage, in the plan of one entry and in the record of another.
    let entries = std::fs::read_dir(scene.file(".cache/engines-v1")).unwrap();
    let entries: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    std::fs::write(entries[0].join("engine.plan"), "x").unwrap();
    std::fs::write(entries[1].join("entry.json"), "{}").unwrap();
    for args in [
        &["cache", "list"][..],
        &["cache", "verify", "--repair"],
        &["cache", "prune", "--to", "1KiB"],
        &["doctor", "--all"],
    ] {
        run(args);
    }
    // The lines that make a probe; errors of every class, and command lines that clap refuses.
    for args in [
        &["inspect", "nothing.onnx"][..],
        &["probe", "--print"],
        &["build"],
        &["build", "m.onnx", "--such-option"],
        &[],
        &["run", "sd_unet.plan", "--shape", "x=1xy"],
        &["cache", "push"],
        &["build", &path("dit/model.ts.onnx"), "-b", "tensorrt"],
    ] {
        run(args);
    }
    let times: Value =
        serde_json::from_slice(&std::fs::read(scene.file("times.json")).unwrap()).unwrap();
    schemas.check(&times, "times.json");
    // Only TensorRT's plans are adopted, which none of these is.
    schemas.seen.insert("trtmut.adopt/1".into());
    // What only `refit` without weights, or a machine with a GPU, prints is held against the schema by its own tests.
    // A plan that can be exported is TensorRT's: `tests/tensorrt` holds the document against its schema.
    schemas.seen.insert("trtmut.export/1".into());
    assert_eq!(schemas.seen, printed);
}

#[test]
fn a_schema_that_is_not_kept_to_is_found() {
    let schemas = Schemas::new();
    let index = schemas.by_name["trtmut.cache-dir/1"];
    let fits = |document: Value| schemas.compiled.validate(&document, index).is_ok();
    assert!(fits(
        serde_json::json!({"schema": "trtmut.cache-dir/1", "folder": "a"})
    ));
    assert!(!fits(serde_json::json!({"schema": "trtmut.cache-dir/1"})));
    assert!(!fits(
        serde_json::json!({"schema": "trtmut.cache-dir/1", "folder": 1})
    ));
    assert!(!fits(
        serde_json::json!({"schema": "trtmut.cache-dir/1", "folder": "a", "new": 1})
    ));
}
