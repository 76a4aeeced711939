//! `trtmut shapes`, and shape specs in `build` and `diff`.

use crate::scene::{Scene, fixture};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The ranges of `sd_unet/shapes.ts.json` by ONNX input, by argument and as torch dumps them.
const INPUTS: &str = r#"{
  "dims": {"B": {"min": 1, "max": 3, "opt": 1}, "H": {"min": 8, "max": 32, "opt": 32},
           "W": {"min": 8, "max": 32, "opt": 32}, "T": {"min": 5, "max": 11, "opt": 7}},
  "inputs": {"sample": {"0": "B", "2": "H", "3": "W"}, "timestep": {"0": "B"}, "encoder_hidden_states": ["B", "T", 32]}
}"#;
const ARGS: &str = r#"{
  "kwargs": {"encoder_hidden_states": {"0": "batch", "1": "tokens"}, "return_dict": null},
  "args": [{"0": "batch", "2": "h", "3": "w"}, ["batch"]],
  "dims": {"batch": {"min": 1, "max": 3, "opt": 1}, "h": {"min": 8, "max": 32, "opt": 32},
           "w": {"min": 8, "max": 32, "opt": 32}, "tokens": {"min": 5, "max": 11, "opt": 7}}
}"#;
const TORCH: &str = r#"{
  "dynamic_shapes": [["B", 4, "H", "W"], ["B"], ["B", "T", 32], null],
  "dims": {"B": {"min": 1, "max": 3, "derived": []}, "H": {"min": 8, "max": 32, "derived": []},
           "W": {"min": 8, "max": 32, "derived": []}, "T": {"min": 5, "max": 11, "derived": []}}
}"#;

const MODEL: &str = "model.ts.onnx";

fn sd_unet() -> Scene {
    let scene = Scene::new();
    scene
        .bring("sd_unet/model.ts.onnx")
        .write("inputs.json", INPUTS)
        .write("args.json", ARGS)
        .write("torch.json", TORCH);
    scene
}

/// A spec by input of the unet's three tensors, with `H`'s axis as `axis`.
fn with_height(dims: &str, axis: &str) -> String {
    format!(
        r#"{{"dims": {{"B": {{"max": 3, "min": 1, "opt": 1}}, "W": {{"min": 8, "max": 32, "opt": 32}},
        "T": {{"min": 5, "max": 11, "opt": 7}}, {dims}}}, "inputs": {{"sample": {{"0": "B", "2": {axis}, "3": "W"}},
        "timestep": {{"0": "B"}}, "encoder_hidden_states": {{"0": "B", "1": "T"}}}}}}"#
    )
}

#[test]
fn the_three_forms_build_the_same_plan() {
    let scene = sd_unet();
    let build = |spec: &str, plan: &str, more: &[&str]| {
        let args = ["build", MODEL, "--shapes", spec, "-o", plan];
        scene.run(&[&args[..], more].concat()).exits(0);
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(scene.file(&format!("{plan}.json"))).unwrap())
                .unwrap();
        (std::fs::read(scene.file(plan)).unwrap(), manifest)
    };
    let (plan, manifest) = build("inputs.json", "a.plan", &[]);
    let (by_args, args_manifest) = build("args.json", "b.plan", &[]);
    // Torch has no `opt`: it comes from the command line.
    let opts = ["--opt", "B=1,H=32", "--opt", "W=32,T=7"];
    let (by_torch, torch_manifest) = build("torch.json", "c.plan", &opts);
    assert!(plan == by_args && plan == by_torch, "other plans");
    assert_eq!(manifest["profile"], args_manifest["profile"]);
    assert_eq!(manifest["profile"], torch_manifest["profile"]);
    assert_eq!(manifest["shapes"], torch_manifest["shapes"]);
    let commas = INPUTS.replace("32]}\n}", "32,],},\n}");
    assert_ne!(commas, INPUTS);
    let commented = format!("// what is served\n{commas} /* all of it */\n");
    scene.write("commented.json", &commented);
    for spec in ["inputs.json", "args.json", "commented.json"] {
        let diff = ["diff", "a.plan", "--shapes", spec, "--exit-code", "--json"];
        let report = scene.run(&diff);
        report.exits(0);
        assert_eq!(report.json()["reasons"], json!([]), "{spec} is not equal");
    }
}

#[test]
fn a_range_inside_of_the_built_one_is_live_and_any_other_is_not() {
    let scene = sd_unet();
    scene
        .run(&["build", MODEL, "--shapes", "inputs.json"])
        .exits(0);
    let diff = |dims: &str, axis: &str, more: &[&str]| {
        scene.write("other.json", with_height(dims, axis));
        let args = [
            "diff",
            "engine.plan",
            "--shapes",
            "other.json",
            "--exit-code",
        ];
        scene.run(&[&args[..], more].concat())
    };
    // Narrower, derived, fixed, the torch form: all inside.
    let narrower = diff(r#""H": {"min": 8, "max": 16}"#, r#""H""#, &[]);
    narrower.exits(0).prints("LIVE").prints("within");
    diff(r#""q": {"min": 2, "max": 8}"#, r#""4*q""#, &[])
        .exits(0)
        .prints("LIVE");
    diff(r#""unused": {}"#, "24", &[]).exits(0).prints("LIVE");
    let torch = ["diff", "engine.plan", "--shapes", "torch.json"];
    scene
        .run(&[&torch[..], &["--exit-code"]].concat())
        .exits(0)
        .prints("LIVE");
    // Wider, beyond, unbounded: outside.
    let wider = diff(r#""H": {"min": 8, "max": 40}"#, r#""H""#, &[]);
    wider.exits(20).prints("NEEDS_RECOMPILE").prints(
        "axis 2 of `sample` is asked to be `H` from 8 to 40, and was built for `H` from 8 to 32",
    );
    diff(r#""H": {"min": 4, "max": 16}"#, r#""H""#, &[]).exits(20);
    diff(r#""H": {"min": 8}"#, r#""H""#, &[]).exits(20);
    // The command line narrows it again.
    diff(
        r#""H": {"min": 8}"#,
        r#""H""#,
        &["--dim", "H=8:32", "--opt", "H=16"],
    )
    .exits(0)
    .prints("LIVE");
    // The model ties both axes of `B`, so that a second dim on one of them becomes the same.
    let untied = with_height(r#""H": {"min": 8, "max": 32}, "C": {"max": 3}"#, r#""H""#)
        .replace(r#""timestep": {"0": "B"}"#, r#""timestep": {"0": "C"}"#);
    scene.write("untied.json", untied);
    let untied = ["diff", "engine.plan", "--shapes", "untied.json"];
    scene
        .run(&[&untied[..], &["--exit-code"]].concat())
        .exits(0);
}

#[test]
fn check_shows_every_axis() {
    let scene = sd_unet();
    scene.write(
        "derived.json",
        with_height(r#""q": {"min": 2, "max": 8}"#, r#""4*q""#),
    );
    let done = scene.run(&["shapes", "check", "derived.json", MODEL]);
    done.exits(0);
    let expected = "\
input                  axis  dim     min  opt  max
sample                    0  B         1    1    3
                          1  static    4    4    4
                          2  4*q       8   20   32
                          3  W         8   32   32
timestep                  0  B         1    1    3
encoder_hidden_states     0  B         1    1    3
                          1  T         5    7   11
                          2  static   32   32   32
";
    assert_eq!(done.stdout, expected);
    let args = [
        "shapes",
        "check",
        "derived.json",
        MODEL,
        "--opt=q=3",
        "--json",
    ];
    let report = scene.run(&args).exits(0).json();
    assert_eq!(report["schema"], "trtmut.shapes-check/1");
    assert_eq!(report["dims"]["q"], json!({"min": 2, "opt": 3, "max": 8}));
    assert_eq!(
        report["inputs"][0]["axes"][2],
        json!({"dim": "4*q", "min": 8, "opt": 12, "max": 32})
    );
    assert_eq!(report["inputs"][0]["axes"][1]["dim"], Value::Null);
}

#[test]
fn a_dim_without_a_max_is_told_and_refused_where_one_is_needed() {
    let scene = sd_unet();
    scene.write("open.json", with_height(r#""H": {"min": 8}"#, r#""H""#));
    let check = ["shapes", "check", "open.json", MODEL];
    scene
        .run(&check)
        .exits(0)
        .prints("any")
        .prints("no max for `H`");
    let bounded = [&check[..], &["--bounded"]].concat();
    scene.refuses(
        &bounded,
        1,
        &["no largest size is given for `H`", "--dim H=min:opt:max"],
    );
    scene
        .run(&[&bounded[..], &["--dim", "H=8::32"]].concat())
        .exits(0);
}

#[test]
fn what_does_not_fit_the_model_is_told_with_a_spec_that_does() {
    let scene = sd_unet();
    let check = |text: &str, says: &[&str]| {
        scene.write("bad.json", text);
        let args = ["shapes", "check", "bad.json", MODEL];
        scene.refuses(&args, 1, says);
        // The hint's spec can be used as it is.
        let failure = scene
            .run(&[&args[..], &["--json"]].concat())
            .exits(1)
            .json();
        assert_eq!(failure["code"], "shapes-model-mismatch", "{failure}");
        let hint = failure["hints"][0].as_str().unwrap();
        scene.write("good.json", &hint[hint.find("\n{").unwrap()..]);
        scene.run(&["shapes", "check", "good.json", MODEL]).exits(0);
    };
    let dims = r#""dims": {"B": {"max": 3}, "H": {"max": 32}, "W": {"max": 32}, "T": {"max": 11}}"#;
    // A null leaf that is dynamic.
    check(
        &format!(
            r#"{{{dims}, "args": [["B", 4, "H", "W"], null], "kwargs": {{"encoder_hidden_states": ["B", "T", 32]}}}}"#
        ),
        &["`args[1]` is null in the spec, but `timestep` is a dynamic input of the model"],
    );
    // A leaf without an input: both sides are shown.
    check(
        &format!(
            r#"{{{dims}, "args": [["B", 4, "H", "W"], ["B"]], "kwargs": {{"text": ["B", "T", 32]}}}}"#
        ),
        &[
            "`kwargs.text` of the spec has no input in the model",
            "left of the spec: `kwargs.text`",
            "left of the model: `encoder_hidden_states`",
            "\"inputs\"",
        ],
    );
    // A symbol that the spec gives steps that do not meet, a size that the model contradicts, a rank: all at once.
    check(
        &format!(
            r#"{{{dims}, "inputs": {{"sample": ["2*B", 5, "H", "W"], "timestep": ["2*B + 1"], "encoder_hidden_states": ["B"]}}}}"#
        ),
        &[
            "problems",
            "axis 1 of `sample` is 4 in the model, but 5 in the spec",
            "`encoder_hidden_states` has 3 in the model",
        ],
    );
}

#[test]
fn a_leaf_that_could_be_several_inputs_is_refused() {
    let scene = sd_unet();
    let dims = r#""dims": {"B": {"max": 3}, "P": {"max": 32}, "Q": {"max": 64}, "T": {"max": 11}}"#;
    scene.write(
        "twice.json",
        format!(r#"{{{dims}, "kwargs": {{"a": {{"sample": ["B", 4, "P", "P"]}}, "b": {{"sample": ["B", 4, "Q", "Q"]}},
            "timestep": ["B"], "encoder_hidden_states": ["B", "T", 32]}}}}"#),
    );
    scene.refuses(
        &["shapes", "check", "twice.json", MODEL],
        1,
        &[
            "`kwargs.a.sample`",
            "`kwargs.b.sample`",
            "`sample`",
            "\"inputs\"",
        ],
    );
}

#[test]
fn sizes_at_run_time_are_solved_and_all_conflicts_told() {
    let scene = sd_unet();
    scene.write(
        "derived.json",
        with_height(r#""q": {"min": 2, "max": 8}"#, r#""4*q""#),
    );
    scene
        .run(&["build", MODEL, "--shapes", "derived.json"])
        .exits(0);
    scene.refuses(
        &[
            "run",
            "engine.plan",
            "--shape",
            "sample=1x4x22x40",
            "--shape",
            "timestep=2",
            "--shape",
            "encoder_hidden_states=1x5x32",
        ],
        1,
        &[
            "axis 2 of `sample` is 22, but `4*q` needs a multiple of 4 from 8 to 32; nearest: 20, 24",
            "axis 3 of `sample` is 40, but `W` needs from 8 to 32; nearest: 32",
            "axis 0 of `sample` is 1, which makes `B` 1, but axis 0 of `timestep` is 2, which makes it 2",
        ],
    );
    // No range of the same dims has a size between the steps, so that widening is neither done nor advised.
    let between = ["run", "engine.plan", "--shape", "sample=1x4x22x8"];
    for policy in ["error", "widen", "recompile"] {
        let args = [&between[..], &["--on-range", policy]].concat();
        scene.refuses(&args, 1, &["needs a multiple of 4", "nearest: 20, 24"]);
        let failure = scene.run(&[&args[..], &["--json"]].concat()).json();
        assert_eq!(failure["hints"], json!([]), "{policy}");
    }
    let beyond = ["run", "engine.plan", "--shape", "sample=1x4x40x8"];
    scene.refuses(&beyond, 1, &["--on-range widen"]);
}

#[test]
fn a_spec_converts_to_every_form_and_back() {
    let scene = sd_unet();
    let convert = |from: &str, to: &str| {
        let done = scene.run(&["shapes", "convert", from, MODEL, "--to", to]);
        done.exits(0);
        scene.write(&format!("{to}.out.json"), &done.stdout);
        done
    };
    let table = |spec: &str| {
        let args = ["shapes", "check", spec, MODEL];
        scene.run(&args).exits(0).stdout.clone()
    };
    let original = table("args.json");
    for (to, key) in [
        ("inputs", "inputs"),
        ("args", "kwargs"),
        ("torch", "dynamic_shapes"),
    ] {
        let done = convert("args.json", to);
        assert!(done.json().get(key).is_some(), "{}", done.stdout);
        if to == "torch" {
            // Four dims with an `opt` of their own, and no word for it.
            assert_eq!(
                done.stderr.matches("has no place for the opt").count(),
                4,
                "{}",
                done.stderr
            );
        } else {
            assert_eq!(table(&format!("{to}.out.json")), original, "{to}");
            assert_eq!(done.stderr, "");
        }
    }
    // The dump has no names, and its dims have no opt: what else it says is what it said.
    let json = scene
        .run(&[
            "shapes",
            "convert",
            "torch.out.json",
            MODEL,
            "--to",
            "inputs",
            "--opt",
            "batch=1,h=32,w=32,tokens=7",
            "--json",
        ])
        .exits(0)
        .json();
    assert_eq!(
        (json["schema"].as_str(), &json["lost"]),
        (Some("trtmut.shapes-spec/1"), &json!([]))
    );
    scene.write("back.json", json["spec"].to_string());
    assert_eq!(table("back.json"), original);
}

#[test]
fn every_fixtures_spec_fits_its_model_and_converts_without_loss() {
    let scene = Scene::new();
    let mut models = 0;
    for name in [
        "clip_text",
        "dit",
        "flux",
        "resnet",
        "sd_unet",
        "vae_decoder",
    ] {
        for exporter in ["ts", "dynamo"] {
            let folder = fixture(name);
            let model = folder.join(format!("model.{exporter}.onnx"));
            if !model.exists() {
                continue;
            }
            models += 1;
            let spec = folder.join(format!("shapes.{exporter}.json"));
            let (model, spec) = (model.to_str().unwrap(), spec.to_str().unwrap());
            let check = |spec: &str| {
                let done = scene.run(&["shapes", "check", spec, model, "--bounded", "--json"]);
                done.exits(0);
                assert_eq!(done.stderr, "", "{model}");
                done.json()
            };
            let resolved = check(spec);
            let text: Value = serde_json::from_slice(&std::fs::read(spec).unwrap()).unwrap();
            // What the file says of a dim is what every axis of that dim has.
            let mut axes = 0;
            for input in resolved["inputs"].as_array().unwrap() {
                for (i, axis) in input["axes"].as_array().unwrap().iter().enumerate() {
                    let said = &text["inputs"][input["name"].as_str().unwrap()][i.to_string()];
                    assert_eq!(&axis["dim"], said, "{model}: axis {i} of {}", input["name"]);
                    for side in ["min", "opt", "max"].iter().filter(|_| !said.is_null()) {
                        assert_eq!(axis[side], text["dims"][said.as_str().unwrap()][side]);
                        axes += 1;
                    }
                }
            }
            assert!(axes > 0, "{model} has no dynamic axis");
            for form in ["inputs", "args", "torch"] {
                let args = ["shapes", "convert", spec, model, "--to", form];
                let converted = scene.run(&args);
                converted.exits(0);
                scene.write("converted.json", &converted.stdout);
                let again = check("converted.json");
                if form == "torch" {
                    let ranges = |r: &Value| -> Vec<Value> {
                        let dims = r["dims"].as_object().unwrap().values();
                        dims.map(|d| json!([d["min"], d["max"]])).collect()
                    };
                    assert_eq!(ranges(&again), ranges(&resolved), "{model}");
                } else {
                    assert_eq!(again["inputs"], resolved["inputs"], "{model} as {form}");
                }
            }
        }
    }
    assert_eq!(models, 11);
}

#[test]
fn a_begun_spec_fits_and_is_valid_for_the_schema() {
    let scene = sd_unet();
    let done = scene.run(&["shapes", "init", MODEL]);
    done.exits(0);
    let printed = scene.run(&["build", MODEL, "--print-shapes"]);
    assert_eq!(done.stdout, printed.stdout);
    scene.write("begun.json", &done.stdout);
    scene
        .run(&["shapes", "check", "begun.json", MODEL])
        .exits(0)
        .prints("any");
    let schema = scene.run(&["shapes", "schema"]);
    schema.exits(0);
    assert_eq!(
        schema.json()["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let wrapped = scene.run(&["shapes", "schema", "--json"]).exits(0).json();
    assert_eq!(wrapped["schema"], "trtmut.shapes-schema/1");
    assert_eq!(wrapped["json_schema"], schema.json());
}

#[test]
fn ranges_on_the_command_line_are_all_checked_before_anything_else() {
    let scene = sd_unet();
    let args = [
        "shapes",
        "check",
        "inputs.json",
        MODEL,
        "--dim",
        "H=9:1",
        "--opt",
        "B=x,T=7",
    ];
    scene.refuses(
        &args,
        2,
        &["2 problems", "max 1 is less than min 9", "`--opt B=x`"],
    );
    scene.refuses(
        &["build", MODEL, "--shapes", "inputs.json", "--dim", "h=8:16"],
        2,
        &["`--dim h` names no dim", "did you mean `H`?"],
    );
    scene.refuses(
        &["build", MODEL, "--shapes", "inputs.json", "--opt", "H=99"],
        2,
        &["`--opt H=99` is not from 8 to 32"],
    );
    scene.refuses(
        &["diff", MODEL, MODEL, "--dim", "H"],
        2,
        &["`--dim H`: expected NAME=min:opt:max"],
    );
}

/// Peak resident memory of a running process, in bytes; none once it is gone.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[test]
fn hostile_specs_are_refused_in_little_memory() {
    let scene = sd_unet();
    let spaces = scene.file("spaces.json");
    // 100 MB that take no space on disk.
    let file = std::fs::File::create(&spaces).unwrap();
    file.set_len(100_000_000).unwrap();
    let dims: Vec<String> = (0..20_000)
        .map(|n| format!(r#""dim{n}": {{}}, "#))
        .collect();
    let dims = dims.concat();
    let nested = |open: &str, n: usize| format!(r#"{{"args": [{}"#, open.repeat(n));
    let cases = [
        ("spaces.json", None, "is larger than 1048576 bytes"),
        (
            "lists.json",
            Some(nested("[", 10_000)),
            "line 1, column 73: nested more than 64 deep",
        ),
        (
            "objects.json",
            Some(nested(r#"{"a":"#, 10_000)),
            "nested more than 64 deep",
        ),
        (
            "parentheses.json",
            Some(format!(
                r#"{{"dims": {{"B": {{}}}}, "inputs": {{"x": ["{}B"]}}}}"#,
                "(".repeat(100_000)
            )),
            "line 1, column",
        ),
        (
            "digits.json",
            Some(format!(
                r#"{{"dims": {{"B": {{"max": {}}}}}, "inputs": {{}}}}"#,
                "9".repeat(1_000_000)
            )),
            "must be an integer from 0 to 9223372036854775807",
        ),
        (
            "keys.json",
            Some(format!(
                r#"{{"inputs": {{{}"x": []}}}}"#,
                r#""x": [], "#.repeat(100_000)
            )),
            "is here a second time; the first is at line 1, column 13",
        ),
        (
            "names.json",
            Some(format!(
                r#"{{"dims": {{{}"z": {{}}}}, "inputs": {{"x": [{}"y"]}}}}"#,
                dims,
                r#""dmi", "#.repeat(20_000)
            )),
            "`dims` does not list `dmi`",
        ),
        (
            "tensors.json",
            Some(format!(
                r#"{{"kwargs": {}[{}[1]]{}}}"#,
                r#"{"a": "#.repeat(60),
                "[1], ".repeat(190_000),
                "}".repeat(60)
            )),
            "this is tensor 4097; a spec has at most 4096",
        ),
        (
            "leaves.json",
            Some(format!(
                r#"{{"kwargs": {{"{}": [{}[1]]}}}}"#,
                "k".repeat(256),
                "[1], ".repeat(4000)
            )),
            "4007 problems",
        ),
        (
            "key.json",
            Some(format!(r#"{{"inputs": {{"{}": []}}}}"#, "k".repeat(257))),
            "line 1, column 13: the key `kkkk",
        ),
    ];
    for (name, text, says) in cases {
        if let Some(text) = text {
            assert!(text.len() < 1 << 20, "{name} is refused for its size alone");
            scene.write(name, text);
        }
        // Ten seconds of processor time are far more than any of them takes unoptimised, and far less than what a reader
        // takes that is quadratic in something: the shell's limit kills it then.
        let mut command = Command::new("sh");
        let trtmut = env!("CARGO_BIN_EXE_trtmut");
        command
            .args(["-c", "ulimit -t 10; exec \"$@\"", "sh", trtmut])
            .args(["shapes", "check", name, MODEL])
            .current_dir(scene.path());
        // Into files: nobody reads a pipe here before the end.
        let log = |name| std::fs::File::create(scene.file(name)).unwrap();
        command.stdout(log("stdout")).stderr(log("stderr"));
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut most = 0;
        let status = loop {
            most = most.max(peak(child.id()).unwrap_or(0));
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let text = |name| std::fs::read_to_string(scene.file(name)).unwrap();
        let stderr = text("stderr");
        assert_eq!(status.code(), Some(1), "{name}: {status}: {stderr}");
        assert!(stderr.contains(says), "{name}: {stderr}");
        assert_eq!(text("stdout"), "", "{name}");
        assert!(most < 100_000_000, "{name} took {most} bytes");
    }
}

#[test]
fn a_model_is_inspected() {
    let scene = sd_unet();
    let done = scene.run(&["inspect", MODEL]);
    done.exits(0)
        .prints("model.ts.onnx is an ONNX model by pytorch")
        .prints("opset      ai.onnx")
        .prints("sample                 f32   [B, 4, H, W]");
    let report = scene.run(&["inspect", MODEL, "--json"]).exits(0).json();
    assert_eq!(report["schema"], "trtmut.inspect-model/1");
    assert_eq!(
        report["dynamic"][1],
        json!({"input": "sample", "axis": 2, "symbol": "H"})
    );
    let model = fixture("sd_unet/model.dynamo.onnx");
    let other = scene
        .run(&["inspect", model.to_str().unwrap(), "--json"])
        .exits(0)
        .json();
    assert_ne!(other["structure"], report["structure"]);
    scene.refuses(&["inspect", "inputs.json"], 1, &["inputs.json", "text"]);
    scene.refuses(&["inspect", "none.plan"], 1, &["none.plan"]);
}

/// The case `name` of `fixtures/shapes/cases`, with its model.
fn case(spec: &str, model: &str) -> [String; 2] {
    [spec, model].map(|f| fixture(&format!("shapes/cases/{f}")).display().to_string())
}

#[test]
fn specs_as_they_are_dumped_and_written_have_the_ranges_that_they_mean() {
    let scene = Scene::new();
    let fixed = |n: u64| json!([n, n]);
    for (spec, model, ranges) in [
        (
            "nested_kw_same.json",
            "nested_kw_same.onnx",
            json!({"a_b": [[1, 8], fixed(4)], "b": [[16, 512], fixed(4)]}),
        ),
        (
            "nested_args.json",
            "nested_args.onnx",
            json!({"a": [[1, 8], fixed(4)], "c_a": [[16, 512], fixed(4)]}),
        ),
        (
            "trt_complex.json",
            "trt_complex.onnx",
            json!({"a": [fixed(10), [1, 50]], "b": [[1, 50], fixed(30)], "c_a": [fixed(10), fixed(30)],
                "c_b_0": [fixed(10), fixed(30)], "c_b_1": [fixed(5), [1, 50]]}),
        ),
        (
            "seed_sdxl.json",
            "seed_sdxl.onnx",
            json!({"sample": [[2, 24], fixed(4), [64, 128], [64, 128]], "timestep": [],
                "encoder_hidden_states": [[2, 24], fixed(77), fixed(64)],
                "added_cond_kwargs_text_embeds": [[2, 24], fixed(32)],
                "added_cond_kwargs_time_ids": [[2, 24], fixed(6)]}),
        ),
        (
            "bounded_auto.json",
            "hint_AUTO.onnx",
            json!({"x": [[2, 8], fixed(4)]}),
        ),
        (
            "bounded_dynamic.json",
            "hint_AUTO.onnx",
            json!({"x": [[3, 9], fixed(4)]}),
        ),
    ] {
        let [spec, model] = case(spec, model);
        let report = scene
            .run(&["shapes", "check", &spec, &model, "--json"])
            .exits(0)
            .json();
        let got: serde_json::Map<String, Value> = (report["inputs"].as_array().unwrap().iter())
            .map(|i| {
                let axes = i["axes"].as_array().unwrap().iter();
                let axes: Vec<Value> = axes.map(|a| json!([a["min"], a["max"]])).collect();
                (i["name"].as_str().unwrap().to_owned(), json!(axes))
            })
            .collect();
        assert_eq!(Value::Object(got), ranges, "{spec}");
    }
}

#[test]
fn a_hint_stays_a_hint_in_torchs_form() {
    let scene = Scene::new();
    for name in ["hint_AUTO", "mixed_hint_dim_one_tensor"] {
        let [spec, model] = case(&format!("{name}.json"), &format!("{name}.onnx"));
        let done = scene.run(&["shapes", "convert", &spec, &model, "--to", "torch"]);
        let own: Value = serde_json::from_slice(&std::fs::read(&spec).unwrap()).unwrap();
        assert_eq!(done.exits(0).json(), own);
    }
    let [spec, model] = case("bounded_auto.json", "hint_AUTO.onnx");
    let convert = |to: &str| scene.run(&["shapes", "convert", &spec, &model, "--to", to]);
    assert_eq!(
        convert("args").exits(0).json()["kwargs"]["x"]["0"],
        "Dim.AUTO(min=2, max=8)"
    );
    // Torch's dump forgets bounds, so that they are a dim's there.
    let torch = convert("torch");
    let dims = torch.exits(0).json()["dims"].clone();
    let (_, dim) = dims.as_object().unwrap().iter().next().unwrap();
    assert_eq!(dim, &json!({"min": 2, "max": 8, "derived": []}));
    assert!(
        torch.stderr.contains("no place for the bounds"),
        "{}",
        torch.stderr
    );
}

#[test]
fn nested_tensors_keep_their_ranges_through_build_and_run() {
    let scene = Scene::new();
    let [spec, model] = case("nested_kw_same.json", "nested_kw_same.onnx");
    scene
        .run(&["build", &model, "--backend", "cpu", "--shapes", &spec])
        .exits(0);
    let run = |a: &str, b: &str| scene.run(&["run", "engine.plan", "--shape", a, "--shape", b]);
    run("a_b=3x4", "b=50x4").exits(0);
    run("a_b=50x4", "b=3x4").exits(1);
}

#[test]
fn two_unknown_sizes_are_not_one_size() {
    let scene = Scene::new();
    let [spec, model] = case("question_mark_shapes.json", "question_mark_m.onnx");
    let io = fixture("shapes/cases/question_mark_io.safetensors")
        .display()
        .to_string();
    scene
        .run(&["build", &model, "--backend", "cpu", "--shapes", &spec])
        .exits(0);
    let inputs = format!("{io}:in.");
    let expect = format!("{io}:base.");
    scene
        .run(&[
            "run",
            "engine.plan",
            "--inputs",
            &inputs,
            "--expect",
            &expect,
        ])
        .exits(0);
}

#[test]
fn a_dim_outside_of_its_range_is_what_a_shape_outside_of_it_is() {
    let scene = sd_unet();
    scene
        .run(&["build", MODEL, "--shapes", "inputs.json"])
        .exits(0);
    for size in [["--dim", "B=9"], ["--shape", "timestep=9"]] {
        let run = [&["run", "engine.plan", "--json"][..], &size].concat();
        let failure = scene.run(&run).exits(1).json();
        assert_eq!(failure["code"], "shape-out-of-range", "{failure}");
        assert!(
            failure["hints"][0]
                .as_str()
                .unwrap()
                .contains("--on-range widen")
        );
    }
    // The hint leads on.
    let wide = ["run", "engine.plan", "--dim", "B=4", "--on-range", "widen"];
    scene.run(&wide).exits(0);
}

#[test]
fn a_call_gives_the_sizes_to_optimise_for() {
    let scene = sd_unet();
    scene.bring("sd_unet/io0.safetensors");
    let init = ["shapes", "init", MODEL, "--from", "io0.safetensors"];
    let spec = scene.run(&init).exits(0).json();
    let sizes: Vec<u64> = ["B", "H", "T", "W"]
        .map(|d| spec["dims"][d]["opt"].as_u64().unwrap())
        .to_vec();
    assert_eq!(sizes, [1, 32, 7, 32]);
    scene.write("call.json", spec.to_string());
    scene.run(&["shapes", "check", "call.json", MODEL]).exits(0);
    // The midpoint of 1 to 3 is 2; the call has 1. What --opt says goes before.
    let build = [
        "build",
        MODEL,
        "--shapes",
        "torch.json",
        "--opt-from",
        "io0.safetensors",
        "--json",
    ];
    let report = scene
        .run(&[&build[..], &["--opt", "W=16"]].concat())
        .exits(0)
        .json();
    let opts: Vec<u64> = (report["profile"]["inputs"][0]["axes"]
        .as_array()
        .unwrap()
        .iter())
    .map(|a| a["opt"].as_u64().unwrap())
    .collect();
    assert_eq!(opts, [1, 4, 32, 16]);
    let small = [&build[..6], &["--dim", "H=8:16", "-o", "small.plan"]].concat();
    scene.refuses(
        &small,
        1,
        &[
            "the example inputs do not fit",
            "`H` needs from 8 to 16",
            "give the dim a range",
        ],
    );
}

#[test]
fn trtexecs_options_are_the_profile_that_the_spec_would_be() {
    let scene = sd_unet();
    let build = |more: &[&str], plan: &str| {
        let args = [&["build", MODEL, "--json", "-o", plan][..], more].concat();
        scene.run(&args).exits(0).json()["profile"].clone()
    };
    let by_spec = build(&["--shapes", "inputs.json"], "a.plan");
    let by_options = build(
        &[
            "--minShapes",
            "sample:1x4x8x8,timestep:1,encoder_hidden_states:1x5x32",
            "--optShapes",
            "sample:1x4x32x32,timestep:1,encoder_hidden_states:1x7x32",
            "--maxShapes=sample:3x4x32x32,timestep:3,encoder_hidden_states:3x11x32",
        ],
        "b.plan",
    );
    assert_eq!(by_spec, by_options);
    let one = [
        "build",
        MODEL,
        "--minShapes",
        "sample:1x4x8x8",
        "-o",
        "c.plan",
    ];
    scene.refuses(&one, 2, &["--optShapes sample", "all three options"]);
}
