//! Environment variables, the log, and the times of runs.

use crate::scene::Scene;
use std::collections::BTreeSet;
use std::path::Path;
use trtmut::pipeline::VARIABLES;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, out: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("variables.rs") {
            out.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_variable_has_a_row_in_the_page_and_in_the_code() {
    let listed: BTreeSet<&str> = VARIABLES.iter().map(|v| v.name).collect();
    assert_eq!(listed.len(), VARIABLES.len());
    let page = std::fs::read_to_string(root().join("docs/environment.md")).unwrap();
    let row = regex::Regex::new(r"(?m)^\| `([A-Z0-9_]+)` \|").unwrap();
    let rows: Vec<&str> = row
        .captures_iter(&page)
        .map(|c| c.get(1).unwrap().as_str())
        .collect();
    assert_eq!(
        rows,
        VARIABLES.iter().map(|v| v.name).collect::<Vec<_>>(),
        "docs/environment.md"
    );
    for variable in VARIABLES.iter().filter(|v| v.secret) {
        let line = page
            .lines()
            .find(|l| l.contains(&format!("`{}`", variable.name)))
            .unwrap();
        assert!(line.contains("secret"), "{line}");
    }
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    // What the code asks for: by `std::env`, by the closures of `Environment::from_process`, by name in a constant.
    let asked = regex::Regex::new(
        r#"(?:env::var(?:_os)?|remove_var|set_var|\bpath|\btext)\(\s*"([A-Z][A-Z0-9_]+)"|const VARIABLE: &str = "([A-Z0-9_]+)"|\b(TRTMUT_[A-Z_]*[A-Z])\b|\("([A-Z0-9_]+)", (?:"1"|OTHER_STACKS)\)"#,
    )
    .unwrap();
    // Of tests, and what `watch --exec` gives to its command.
    let others = [
        "TORCH_DUMPS_TO",
        "TRTMUT_PLAN",
        "TRTMUT_MANIFEST",
        "TRTMUT_DIGEST",
    ];
    let mut count = 0;
    for found in asked.captures_iter(&code) {
        let name = (1..5).find_map(|i| found.get(i)).unwrap().as_str();
        assert!(
            listed.contains(name) || others.contains(&name),
            "{name} is in no row of docs/environment.md"
        );
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn doctor_shows_what_is_set_and_nothing_secret() {
    let scene = Scene::new();
    let mut command = scene.command(&["doctor"]);
    command
        .env(
            "TRTMUT_CACHE_REMOTE",
            "https://me:hunter2@host/a?sig=hunter2",
        )
        .env("TRTMUT_CACHE_AUTHORIZATION", "Bearer hunter2")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .env("RUST_LOG", "off");
    let output = command.output().unwrap();
    let shown = scene.done(&command, &output);
    shown
        .exits(0)
        .prints("https://host/a")
        .prints("TRTMUT_CACHE_AUTHORIZATION")
        .prints("RUST_LOG");
    assert!(!shown.stdout.contains("hunter2"), "{}", shown.stdout);
    assert!(!shown.stdout.contains("AWS_REGION"), "{}", shown.stdout);
    scene
        .run(&["doctor", "--all"])
        .exits(0)
        .prints("AWS_REGION");
}

fn built() -> Scene {
    let scene = Scene::new();
    scene
        .bring("resnet/model.ts.onnx")
        .bring("resnet/shapes.ts.json");
    let build = [
        "build",
        "model.ts.onnx",
        "-s",
        "shapes.ts.json",
        "-b",
        "cpu",
        "-o",
        "r.plan",
    ];
    scene
        .run(&[&build[..], &["--log-file", "a.log", "-q"]].concat())
        .exits(0);
    scene
}

#[test]
fn a_log_says_what_was_done_and_is_appended_to() {
    let scene = built();
    let log = || std::fs::read_to_string(scene.file("a.log")).unwrap();
    let first = log();
    assert!(first.starts_with("# log of trtmut\n"), "{first}");
    for says in ["started", "model.ts.onnx", "opened", "compile", "time.busy"] {
        assert!(first.contains(says), "no `{says}` in\n{first}");
    }
    // It is refused, and logged without the password.
    let remote = "https://me:hunter2@host/a";
    let push = scene.run(&["cache", "push", "--log-file", "a.log", "--remote", remote]);
    push.exits(if cfg!(feature = "remote") { 2 } else { 3 });
    scene
        .run(&["run", "r.plan", "--log-file", "a.log"])
        .exits(0);
    let both = log();
    assert!(both.starts_with(&first) && both.len() > first.len());
    assert!(
        !both.contains("hunter2") && !both.contains('\u{1b}'),
        "{both}"
    );
    scene.write("mine.txt", "mine");
    scene.refuses(
        &["run", "r.plan", "--log-file", "mine.txt"],
        3,
        &["no log of trtmut"],
    );
    scene.refuses(
        &["run", "r.plan", "--log-file", "r.plan"],
        3,
        &["no log of trtmut"],
    );
}

#[test]
fn stderr_says_more_with_v_and_as_rust_log_wants_it() {
    let scene = built();
    let stderr = |more: &[&str], log: Option<&str>| {
        let mut command = scene.command(&[&["run", "r.plan"], more].concat());
        command.envs(log.map(|l| ("RUST_LOG", l)));
        let output = command.output().unwrap();
        scene.done(&command, &output).exits(0).stderr.clone()
    };
    assert_eq!(stderr(&[], None), "");
    assert!(!stderr(&["-v"], None).contains("opened"));
    let more = stderr(&["-vv"], None);
    assert!(more.contains("opened") && more.contains("r.plan"), "{more}");
    let chosen = stderr(&[], Some("trtmut::fsx=debug"));
    assert!(chosen.contains("opened"), "{chosen}");
    assert_eq!(stderr(&["-q"], Some("trtmut=debug")), "");
    assert_eq!(stderr(&[], Some("off")), "");
}

#[test]
fn runs_go_on_for_as_long_as_they_are_asked_to_and_every_time_is_kept() {
    let scene = built();
    let run = |more: &[&str]| scene.run(&[&["run", "r.plan", "--json"], more].concat());
    let report = run(&["--iters", "3"]).exits(0).json();
    let times = report["latency"]["times_ns"].as_array().unwrap();
    assert_eq!(times.len(), 3);
    let least = times.iter().map(|t| t.as_u64().unwrap()).min().unwrap();
    assert_eq!(report["latency"]["min_ns"], least);

    let report = run(&["--duration", "0.3", "--export-times", "t.csv"])
        .exits(0)
        .json();
    let times: Vec<u64> = (report["latency"]["times_ns"].as_array().unwrap().iter())
        .map(|t| t.as_u64().unwrap())
        .collect();
    assert_eq!(
        times.len() as u64,
        report["latency"]["iters"].as_u64().unwrap()
    );
    // Between runs hardly anything happens: they fill the time that was asked for, and stop then.
    let total: u64 = times.iter().sum();
    assert!(total - times.last().unwrap() <= 300_000_000, "{total}");
    assert!(total > 100_000_000, "{total}");
    let csv = std::fs::read_to_string(scene.file("t.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "run,latency_ns,gpu_ns");
    assert_eq!(lines.len(), times.len() + 1);
    assert_eq!(lines[1], format!("1,{},", times[0]));
    run(&["--iters", "2", "--export-times", "t.json"]).exits(0);
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(scene.file("t.json")).unwrap()).unwrap();
    assert_eq!(json["latency_ns"].as_array().unwrap().len(), 2);
    // Over times, and over nothing else.
    run(&["--export-times", "t.csv"]).exits(0);
    scene.write("mine.csv", "a,b\n");
    scene.refuses(
        &["run", "r.plan", "--export-times", "mine.csv"],
        2,
        &["no times of trtmut"],
    );
    scene.refuses(
        &["run", "r.plan", "--export-times", "r.plan"],
        1,
        &["r.plan"],
    );
    for wrong in ["0", "-1", "soon", "1e9"] {
        assert_eq!(run(&["--duration", wrong]).code, 2, "{wrong}");
    }
}

#[cfg(feature = "remote")]
#[test]
fn two_outputs_are_two_files() {
    let scene = built();
    let one = "are both to be written, and are the same file";
    std::os::unix::fs::symlink("x.npz", scene.file("link.csv")).unwrap();
    std::os::unix::fs::symlink(".", scene.file("here")).unwrap();
    for times in ["x.npz", "link.csv", "here/x.npz", "./x.npz"] {
        let args = ["run", "r.plan", "--save", "x.npz", "--export-times", times];
        scene.refuses(&args, 1, &[times, "x.npz", one]);
    }
    // Before anything is read: this plan is not there.
    let args = [
        "run",
        "none.plan",
        "--save",
        "x.npz",
        "--export-times",
        "x.npz",
    ];
    scene.refuses(&args, 1, &[one]);
    let build = [
        "build",
        "model.ts.onnx",
        "-s",
        "shapes.ts.json",
        "-b",
        "cpu",
        "-o",
        "new.plan",
    ];
    for timings in ["new.plan", "new.plan.json"] {
        let args = [&build[..], &["--timing-cache", timings]].concat();
        scene.refuses(&args, 1, &[timings, one]);
    }
    // Nor is it a file that is read.
    scene.refuses(
        &[&build[..], &["--timing-cache", "shapes.ts.json"]].concat(),
        1,
        &["which is read"],
    );
    let args = ["run", "r.plan", "--timing-cache", "r.plan"];
    scene.refuses(&args, 1, &["which is read"]);
    std::os::unix::fs::symlink("new.plan", scene.file("new.plan.json")).unwrap();
    scene.refuses(&build, 1, &["new.plan.json", one]);
}

#[test]
fn a_time_limit_without_a_unit_is_in_seconds() {
    let scene = built();
    let seconds = |limit: &str| {
        let mut command = scene.command(&["cache", "push", "--remote", "http://192.0.2.1/a"]);
        command
            .env("TRTMUT_CACHE_REMOTE_TIMEOUT", limit)
            .env("AWS_ALLOW_HTTP", "true");
        command.output().unwrap()
    };
    for limit in ["1", "1s", " 1 "] {
        let output = seconds(limit);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
    }
    let text = String::from_utf8_lossy(&seconds("soon").stderr).into_owned();
    assert!(text.contains("TRTMUT_CACHE_REMOTE_TIMEOUT"), "{text}");
}
