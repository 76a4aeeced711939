//! The example workflows do what they say: every step that they run is run here, with a fixture in the place of the user's files.

use crate::scene::{Scene, fixture};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs/examples")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// `NAME: value` lines below `key:`; values that are not ours to know, as `${{ … }}` and `$CI_…`, are left out.
fn variables(text: &str, key: &str) -> BTreeMap<String, String> {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|l| l.trim() == key).unwrap();
    let inner = lines[at + 1..]
        .iter()
        .take_while(|l| indent(l) > indent(lines[at]));
    inner
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(_, value)| !value.starts_with('$'))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// The `run:` of every step of a GitHub workflow, but for the installation.
fn github_steps(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut steps = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(command) = line.trim().strip_prefix("run: ") else {
            continue;
        };
        if command == "|" {
            let block = lines[at + 1..]
                .iter()
                .take_while(|l| indent(l) > indent(line));
            steps.push(block.map(|l| l.trim()).collect::<Vec<_>>().join("\n"));
        } else {
            steps.push(command.to_owned());
        }
    }
    steps.retain(|step| !step.starts_with("cargo install"));
    steps
}

/// The lines of `script:` of a GitLab pipeline.
fn gitlab_steps(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|l| l.trim() == "script:").unwrap();
    let inner = lines[at + 1..]
        .iter()
        .take_while(|l| l.trim().starts_with("- "));
    inner.map(|l| l.trim()[2..].to_owned()).collect()
}

fn runs(steps: &[String], variables: &BTreeMap<String, String>) -> (Scene, String) {
    assert!(steps.len() >= 4, "{steps:?}");
    let scene = Scene::new();
    for (ours, theirs) in [
        ("model.ts.onnx", "MODEL"),
        ("shapes.ts.json", "SHAPES"),
        ("base.safetensors", "BASE"),
        ("fused.safetensors", "WEIGHTS"),
        ("io0.safetensors", "INPUTS"),
    ] {
        std::fs::copy(
            fixture(&format!("resnet/{ours}")),
            scene.file(&variables[theirs]),
        )
        .unwrap();
    }
    let bin = Path::new(env!("CARGO_BIN_EXE_trtmut")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut said = String::new();
    for step in steps {
        // As both of them run a step.
        let mut shell = Command::new("bash");
        shell
            .args(["-e", "-o", "pipefail", "-c", step])
            .current_dir(scene.path())
            .envs(variables)
            .env("PATH", &path)
            .env("TRTMUT_CACHE_DIR", scene.file(".trtmut-cache"))
            .env_remove("COLUMNS");
        let output = shell.output().unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{step}\n{out}\n{err}");
        said.push_str(&out);
    }
    for made in ["new.plan", "new.plan.json", "report.html", "times.csv"] {
        assert!(scene.file(made).is_file(), "{made}");
    }
    (scene, said)
}

#[test]
fn the_github_example_runs() {
    let text = example("github-workflow.yml");
    let (_, said) = runs(&github_steps(&text), &variables(&text, "env:"));
    assert!(
        said.contains("\n::notice title=NEEDS_REFIT engine.plan::"),
        "{said}"
    );
    assert!(!said.contains("::error"), "{said}");
}

#[test]
fn the_gitlab_example_runs() {
    let text = example("gitlab-ci.yml");
    let (scene, _) = runs(&gitlab_steps(&text), &variables(&text, "variables:"));
    let diff: serde_json::Value =
        serde_json::from_slice(&std::fs::read(scene.file("diff.json")).unwrap()).unwrap();
    assert_eq!(diff["verdict"], "NEEDS_REFIT");
}

#[test]
fn what_fails_is_annotated() {
    let scene = Scene::new();
    for args in [&["inspect", "no,such:file.onnx"][..], &["build"]] {
        let done = scene.run(&[args, &["--format", "github"]].concat());
        assert_ne!(done.code, 0);
        let line = done
            .stderr
            .lines()
            .find(|l| l.starts_with("::error title=trtmut%3A "));
        assert!(line.is_some(), "{}", done.stderr);
    }
    // Names of files cannot make annotations of their own.
    let done = scene.run(&["inspect", "a\n::warning::b", "--format=github"]);
    assert!(
        !done.stderr.lines().any(|l| l.starts_with("::warning")),
        "{}",
        done.stderr
    );
    let both = scene.run(&["doctor", "--json", "--format", "text"]);
    both.exits(2);
    let json = scene.run(&["doctor", "--format", "json"]);
    assert_eq!(json.exits(0).json()["schema"], "trtmut.doctor/1");
}
