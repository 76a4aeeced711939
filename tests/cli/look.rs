//! What people see: tables within 80 columns, verdicts in colour, counts that read well, hints that name what is meant.

use crate::scene::{Done, Scene, fixture};
use unicode_width::UnicodeWidthStr;

/// Runs trtmut on a screen of 80 columns.
pub fn on_screen(scene: &Scene, args: &[&str]) -> Done {
    let mut command = scene.command(args);
    command.env("COLUMNS", "80");
    let output = command.output().unwrap();
    scene.done(&command, &output)
}

/// Lines that are no part of a table and say one thing: a path, a command or a list that the terminal itself folds.
fn is_prose(line: &str) -> bool {
    [
        "next: ",
        "the report is in ",
        "saved ",
        "built ",
        "refitted ",
        "inputs drawn",
        "latency ",
        "against ",
    ]
    .iter()
    .any(|start| line.starts_with(start))
        || line.contains(" is an ONNX model")
        || line.contains(" of 10.0 GiB")
        || line.contains(" is ") && line.contains(" by trtmut ")
}

/// Fails where a table is wider than that.
#[track_caller]
pub fn fits(done: &Done, what: &str) {
    for line in done.stdout.lines().filter(|line| !is_prose(line)) {
        assert!(
            line.width() <= 80,
            "{what}: {} columns\n{line}\n\n{}",
            line.width(),
            done.stdout
        );
    }
}

fn path(name: &str) -> String {
    fixture(name).display().to_string()
}

/// Every fixture with an exported model, by both exporters.
const MODELS: [&str; 5] = ["clip_text", "dit", "resnet", "sd_unet", "vae_decoder"];

#[test]
fn every_table_of_the_fixtures_fits_80_columns() {
    let scene = Scene::new();
    for name in MODELS {
        for exporter in ["dynamo", "ts"] {
            let model = path(&format!("{name}/model.{exporter}.onnx"));
            let shapes = path(&format!("{name}/shapes.{exporter}.json"));
            let base = path(&format!("{name}/base.safetensors"));
            let fused = path(&format!("{name}/fused.safetensors"));
            let plan = format!("{name}.{exporter}.plan");
            let bare = format!("{name}.{exporter}.bare.plan");
            let commands: Vec<Vec<&str>> = vec![
                vec![
                    "build", &model, "-s", &shapes, "-w", &base, "-b", "cpu", "-o", &plan,
                ],
                vec!["build", &model, "-s", &shapes, "-b", "cpu", "-o", &bare],
                vec!["inspect", &model, "--weights"],
                vec!["inspect", &plan, "--weights"],
                vec!["map", &plan],
                vec!["map", &bare],
                vec!["diff", &plan, &fused, "--top", "1000"],
                vec!["diff", &base, &fused, "--top", "1000"],
                vec!["diff", &model, &fused],
                vec!["run", &plan],
                vec!["run", &plan, "--iters", "3"],
                vec!["shapes", "check", &shapes, &model],
            ];
            for args in commands {
                let done = on_screen(&scene, &args);
                fits(done.exits(0), &args.join(" "));
            }
        }
    }
    // Models that have nothing to do with one another differ in everything.
    let all = [
        vec!["diff", "clip_text.ts.plan", "resnet.ts.plan"],
        vec!["cache", "list"],
        vec!["doctor"],
    ];
    for args in all {
        fits(on_screen(&scene, &args).exits(0), &args.join(" "));
    }
}

#[test]
fn a_pipe_gets_one_line_for_each_row_and_no_colours() {
    let scene = Scene::new();
    let (base, fused) = (
        path("sd_unet/base.safetensors"),
        path("sd_unet/fused.safetensors"),
    );
    let done = scene.run(&["diff", &base, &fused, "--top", "3"]);
    done.exits(0);
    assert!(!done.stdout.contains('\u{1b}'), "{}", done.stdout);
    let longest = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.weight";
    assert!(done.stdout.contains(longest), "{}", done.stdout);
}

#[test]
fn colours_come_when_they_are_asked_for() {
    let scene = Scene::new();
    let base = path("resnet/base.safetensors");
    let fused = path("resnet/fused.safetensors");
    let bytes = |more: &[&str], variables: &[(&str, &str)]| {
        let mut command = scene.command(&[&["diff", &base, &fused], more].concat());
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command.envs(variables.iter().copied());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let yellow = "\u{1b}[1m\u{1b}[33mNEEDS_REFIT\u{1b}[0m";
    assert!(bytes(&["--color", "always"], &[]).starts_with(yellow));
    assert!(bytes(&["--color=always"], &[("NO_COLOR", "1")]).starts_with(yellow));
    assert!(bytes(&[], &[("CLICOLOR_FORCE", "1")]).starts_with(yellow));
    for (more, variables) in [
        (&[][..], &[][..]),
        (&["--color", "never"], &[("CLICOLOR_FORCE", "1")]),
        (&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]),
        (&["--color", "always", "--json"], &[]),
    ] {
        assert!(
            !bytes(more, variables).contains('\u{1b}'),
            "{more:?} {variables:?}"
        );
    }
    let wrong = scene.run(&["diff", "--color", "often"]);
    assert!(
        wrong
            .exits(2)
            .stderr
            .contains("[possible values: auto, always, never]")
    );
}

#[test]
fn options_of_trtexec_get_ours_named() {
    let scene = Scene::new();
    let cases = [
        (
            &["--onnx=m.onnx", "--saveEngine=m.plan"][..],
            "trtmut build MODEL.onnx",
        ),
        (&["build", "--onnx=m.onnx"], "trtmut build MODEL.onnx"),
        (&["build", "m.onnx", "--saveEngine=m.plan"], "-o PLAN"),
        (&["run", "--loadEngine=m.plan"], "trtmut run PLAN"),
        (&["run", "m.plan", "--exportTimes=t.json"], "--export-times"),
        (
            &["build", "m.onnx", "--memPoolSize=workspace:4096"],
            "--workspace SIZE",
        ),
    ];
    for (args, says) in cases {
        let done = scene.run(args);
        assert!(
            done.exits(2).stderr.contains(says),
            "{args:?}\n{}",
            done.stderr
        );
        let json = scene.run(&[args, &["--json"]].concat());
        let document = json.exits(2).json();
        assert!(
            document["hints"][0].as_str().unwrap().contains(says),
            "{document}"
        );
    }
    // An option that is misspelled still gets clap's own guess.
    let done = scene.run(&["build", "m.onnx", "--shape=x"]);
    assert!(done.exits(2).stderr.contains("--shapes"), "{}", done.stderr);
}

#[test]
fn backends_go_by_their_short_names_and_documents_have_the_long_ones() {
    let scene = Scene::new();
    let model = path("resnet/model.ts.onnx");
    let shapes = path("resnet/shapes.ts.json");
    for (short, long) in [
        ("trt", "tensorrt"),
        ("rtx", "tensorrt-rtx"),
        ("ort", "onnxruntime"),
    ] {
        let done = scene.run(&[
            "build", &model, "-s", &shapes, "-b", short, "-o", "x.plan", "--json",
        ]);
        let document = done.json();
        let named = match done.code {
            0 => document["backend"]["backend"] == long,
            _ => document["message"]
                .as_str()
                .unwrap()
                .contains(&format!("`{long}`")),
        };
        assert!(named, "{document}");
    }
}

#[test]
fn help_groups_options_by_what_they_are_for() {
    let scene = Scene::new();
    let groups = [
        ("build", "Options:", &["--force", "--threads"][..]),
        ("build", "Shapes:", &["--dim ", "--minShapes"]),
        ("build", "TensorRT", &["--fp16"]),
        ("build", "Cache:", &["--no-cache"]),
        ("build", "Global:", &["--json", "--device", "--plugin"]),
        (
            "adopt",
            "Options:",
            &["--model", "--base-weights", "--force"],
        ),
        ("adopt", "Shapes:", &["--shapes", "--dim "]),
        ("watch", "Options:", &["--output", "--exec", "--once"]),
        ("watch", "Weights:", &["--weights", "--lora ", "--partial"]),
    ];
    for (command, heading, options) in groups {
        let help = scene.run(&[command, "--help"]).exits(0).stdout.clone();
        for option in options {
            // Where it is described, not where another text names it.
            let described = |l: &str| {
                l.starts_with(' ') && l.split_whitespace().take(2).any(|w| w == option.trim())
            };
            let at = help.lines().position(described);
            let at = at.unwrap_or_else(|| panic!("no {option} in\n{help}"));
            let above: Vec<&str> = help.lines().take(at).collect();
            let found = above
                .iter()
                .rfind(|l| l.ends_with(':') && !l.starts_with(' '));
            let found = found.unwrap();
            assert!(found.starts_with(heading), "{command} {option}: {found}");
        }
    }
}

#[test]
fn a_map_without_base_weights_says_what_is_known_and_how_to_know_more() {
    let scene = Scene::new();
    let (model, shapes) = (path("resnet/model.ts.onnx"), path("resnet/shapes.ts.json"));
    let base = path("resnet/base.safetensors");
    let build = ["build", &model, "-s", &shapes, "-b", "cpu", "-o", "r.plan"];
    scene.run(&build).exits(0);
    let map = scene.run(&["map", "r.plan"]);
    map.exits(0)
        .prints("by name")
        .prints("--base-weights BASE.safetensors");
    assert!(!map.stdout.contains(" ?"), "{}", map.stdout);
    // What it says to do does it.
    scene
        .run(&[&build[..], &["--base-weights", &base]].concat())
        .exits(0);
    let map = scene.run(&["map", "r.plan"]);
    map.exits(0).prints("proven");
    assert!(!map.stdout.contains("by name"), "{}", map.stdout);
}

#[test]
fn inspect_shows_ranges_options_and_what_can_be_refitted() {
    let scene = Scene::new();
    let (model, shapes) = (
        path("resnet/model.dynamo.onnx"),
        path("resnet/shapes.dynamo.json"),
    );
    scene
        .run(&["build", &model, "-s", &shapes, "-b", "cpu", "-o", "r.plan"])
        .exits(0);
    let shown = scene.run(&["inspect", "r.plan"]);
    shown
        .exits(0)
        .prints("1x3x16x16")
        .prints("3x3x32x40")
        .prints("as by default")
        .prints("21 constants")
        .prints("20 of them")
        .prints("those of the base weights");
}

#[test]
fn a_miss_is_explained_by_the_dim_that_differs() {
    let scene = Scene::new();
    let (model, shapes) = (path("dit/model.ts.onnx"), path("dit/shapes.ts.json"));
    let spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("dit/shapes.ts.json")).unwrap()).unwrap();
    let (dim, range) = spec["dims"].as_object().unwrap().iter().next().unwrap();
    let (min, max) = (
        range["min"].as_u64().unwrap(),
        range["max"].as_u64().unwrap(),
    );
    scene
        .run(&["build", &model, "-s", &shapes, "-b", "cpu", "-o", "d.plan"])
        .exits(0);
    let explain = |more: &[&str]| {
        let done = scene.run(
            &[
                &["cache", "explain", &model, "-s", &shapes, "-b", "cpu"],
                more,
            ]
            .concat(),
        );
        done.exits(0);
        done
    };
    assert!(explain(&[]).stdout.starts_with("hit: "));
    let wider = format!("{dim}={min}:{}", max + 1);
    let miss = explain(&["--dim", &wider]);
    let says = format!("  {dim} max {max} -> {}\n", max + 1);
    miss.prints(&says);
    assert_eq!(
        miss.stdout.matches("differs in").count(),
        1,
        "{}",
        miss.stdout
    );
    assert_eq!(miss.stdout.matches(" max ").count(), 1, "{}", miss.stdout);
    // The list names what people know: the model's file, its shapes, who runs it.
    let list = scene.run(&["cache", "list"]);
    list.exits(0)
        .prints("model.ts.onnx")
        .prints(&format!("{min}..{max}"))
        .prints("rten");
}

#[test]
fn what_asks_for_nothing_is_told_in_one_line() {
    let scene = Scene::new();
    let (model, shapes) = (path("resnet/model.ts.onnx"), path("resnet/shapes.ts.json"));
    let base = path("resnet/base.safetensors");
    scene
        .run(&["build", &model, "-s", &shapes, "-b", "cpu", "-o", "r.plan"])
        .exits(0);
    let same = scene.run(&["diff", "r.plan", &base]);
    same.exits(0)
        .prints("LIVE  0 of")
        .prints("a training counter");
    assert_eq!(same.stdout.lines().count(), 2, "{}", same.stdout);
    let other = scene.run(&["diff", "r.plan", &path("clip_text/base.safetensors")]);
    other
        .exits(0)
        .prints("no tensor of the checkpoint belongs to a weight");
    assert!(other.stdout.lines().count() <= 3, "{}", other.stdout);
}

#[test]
fn an_option_that_a_backend_does_not_take_is_named_in_the_hint() {
    let scene = Scene::new();
    let (model, shapes) = (path("resnet/model.ts.onnx"), path("resnet/shapes.ts.json"));
    let build = ["build", &model, "-s", &shapes, "-b", "cpu", "-o", "r.plan"];
    scene.refuses(
        &[&build[..], &["--fp16"]].concat(),
        1,
        &["pass `--convert fp16` instead"],
    );
    scene
        .run(&[&build[..], &["--convert", "fp16"]].concat())
        .exits(0);
    scene.refuses(
        &[&build[..], &["--opt-level", "3"]].concat(),
        1,
        &["leave `--opt-level` out"],
    );
    scene.run(&[&build[..], &["--force"]].concat()).exits(0);
    scene.refuses(
        &["run", "r.plan", "--cuda-graph"],
        1,
        &["hint: leave `--cuda-graph` out\n"],
    );
    scene.run(&["run", "r.plan"]).exits(0);
}

#[test]
fn a_report_for_a_browser_holds_every_tensor_and_writes_over_nothing_else() {
    let scene = Scene::new();
    let unet = |name: &str| path(&format!("sd_unet/{name}"));
    let (model, shapes, base) = (
        unet("model.ts.onnx"),
        unet("shapes.ts.json"),
        unet("base.safetensors"),
    );
    scene
        .run(&[
            "build", &model, "-s", &shapes, "-w", &base, "-b", "cpu", "-o", "u.plan",
        ])
        .exits(0);
    let (a, b) = (
        unet("pytorch_lora_weights.safetensors"),
        unet("lora_kohya.safetensors"),
    );
    let two = [
        "diff", "u.plan", "-l", &a, "-l", &b, "--html", "r.html", "--json",
    ];
    let document = scene.run(&two).exits(0).json();
    assert_eq!(document["html"], "r.html");
    let page = std::fs::read_to_string(scene.file("r.html")).unwrap();
    let data = page
        .split("id=\"data\">")
        .nth(1)
        .unwrap()
        .split("</script>")
        .next()
        .unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let names: Vec<&str> = data["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "all together",
            "pytorch_lora_weights.safetensors at 1",
            "lora_kohya.safetensors at 1"
        ]
    );
    let tensors = data["tensors"].as_array().unwrap();
    let compared = document["compared"].as_u64().unwrap();
    assert_eq!(tensors.len() as u64, compared);
    let changed = tensors.iter().filter(|t| !t[3][0].is_null()).count();
    assert_eq!(changed, document["changed"].as_array().unwrap().len());
    assert!(
        tensors
            .iter()
            .all(|t| t[3][0].is_null() || t[3][0][0].is_number()),
        "all are measured"
    );
    // Again over itself, and over nothing else.
    scene.run(&two).exits(0);
    scene.write("mine.html", "<p>mine</p>");
    scene.refuses(
        &["diff", "u.plan", &base, "--html", "mine.html"],
        2,
        &["no report of trtmut"],
    );
    scene.refuses(
        &["diff", "u.plan", &base, "--html", "u.plan"],
        1,
        &["u.plan"],
    );
}
