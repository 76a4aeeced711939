//! The program that refits are timed against (`benches/gpu/peer.cpp`) calls the slots of 8.5 and 8.6, and says what goes wrong.

use crate::Trial;
use crate::tensorrt::root;
use crate::tensorrt::standin::faults;
use crate::tensorrt::standin::library::{Release, stand_in};
use libtest_mimic::Failed;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const RELEASES: &[&str] = &["trt-8.5", "trt-8.6.0", "trt-8.6"];

pub(crate) fn trials() -> Vec<Trial> {
    let here = Command::new("c++")
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success());
    let why = if here {
        ""
    } else {
        " (there is no `c++` on the path)"
    };
    let name = format!("peer/refits_a_plan_or_says_why_not{why}");
    vec![Trial::test(name, refits).with_ignored_flag(!here)]
}

fn compile(folder: &Path) -> Result<PathBuf, Failed> {
    let binary = folder.join("peer");
    let done = Command::new("c++")
        .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&binary)
        .arg(root().join("benches/gpu/peer.cpp"))
        .args(["-ldl", "-lpthread"])
        .output()?;
    if done.status.success() {
        Ok(binary)
    } else {
        Err(String::from_utf8_lossy(&done.stderr).as_ref().into())
    }
}

/// Weights that the stand-in's engine takes: sevens.
fn weights(folder: &Path, file: &str, names: &[&str]) -> Result<PathBuf, Failed> {
    let sevens = 7f32.to_le_bytes().repeat(16);
    let views = names
        .iter()
        .map(|&n| {
            let (shape, bytes) = if n == "w" {
                (vec![4, 4], &sevens[..])
            } else {
                (vec![4], &sevens[..16])
            };
            Ok((n, TensorView::new(Dtype::F32, shape, bytes)?))
        })
        .collect::<Result<Vec<_>, Failed>>()?;
    let path = folder.join(file);
    let about = [("made by".to_owned(), "a \"test\"".to_owned())];
    std::fs::write(
        &path,
        safetensors::serialize(views, Some(about.into_iter().collect()))?,
    )?;
    Ok(path)
}

fn refits() -> Result<(), Failed> {
    let scratch = TempDir::new()?;
    let peer = compile(scratch.path())?;
    let plan = scratch.path().join("p.plan");
    let run = |release: &str, changed: &Path, rest: &Path, fault: &str| -> Result<Output, Failed> {
        let library = stand_in(&Release::named(release));
        std::fs::write(&plan, faults::plan(&library)?)?;
        let before = std::fs::read(&plan)?;
        let output = Command::new(&peer)
            .args([library.path(), &plan, changed, rest])
            .env("STANDIN_FAULT", fault)
            .output()?;
        assert_eq!(std::fs::read(&plan)? == before, !output.status.success());
        Ok(output)
    };
    let says = |output: &Output, text: &str| {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(1) && stderr.contains(text),
            "{}: {stderr}",
            output.status
        );
    };
    let file = |name, names| weights(scratch.path(), name, names);
    // `b` belongs to `w`, and nobody asks for `c`.
    let changed = file("changed.safetensors", &["w"])?;
    let rest = file("rest.safetensors", &["b", "c", "not the engine's"])?;
    for release in RELEASES {
        let done = run(release, &changed, &rest, "")?;
        let line = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success() && done.stderr.is_empty(),
            "{}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(
            line.starts_with("load ") && line.ends_with(" changed 1 given 2\n"),
            "{line}"
        );
        let done = run(release, &changed, &rest, "refit")?;
        says(&done, "TensorRT: refit went wrong");
        says(&done, "peer: refitCudaEngine failed");
    }
    let refuses = |changed: &Path, rest: &Path, text: &str| -> Result<(), Failed> {
        says(&run(RELEASES[1], changed, rest, "")?, text);
        Ok(())
    };
    let little = file("little.safetensors", &["c"])?;
    refuses(&changed, &little, "`b` is asked for too, and in neither")?;
    let other = file("other.safetensors", &["w", "nobody's"])?;
    refuses(
        &other,
        &rest,
        "`nobody's` is no weight that the engine lists",
    )?;
    std::fs::write(&other, "junk")?;
    refuses(&other, &rest, "other.safetensors is no safetensors file")?;
    let mut cut = std::fs::read(&changed)?;
    cut.truncate(cut.len() - 1);
    std::fs::write(&other, cut)?;
    refuses(&other, &rest, "`w` of ")?;
    let newer = stand_in(&Release::named("trt-10.16"));
    let library = newer.path().join("libnvinfer.so.10");
    let done = Command::new(&peer)
        .args([&library, &plan, &changed, &rest])
        .output()?;
    says(&done, "version 101600, not 8.5 or 8.6");
    Ok(())
}
