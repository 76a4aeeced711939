//! `run --export-times`: the time of every run, for plots and statistics of one's own.

use super::report::Latency;
use crate::commands::UsageError;
use crate::fsx;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// First line of the CSV form.
const HEAD: &str = "run,latency_ns,gpu_ns";
const SCHEMA: &str = "trtmut.times/1";

fn is_json(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("json"))
}

/// Claims the file before anything runs: none that is read, and none that holds something else.
///
/// # Errors
/// [`fsx::Error`]; [`UsageError`] where something else is there.
pub(super) fn claim(path: &Path, inputs: &[PathBuf]) -> anyhow::Result<()> {
    // Both forms say what they are at once: the CSV by its head, the JSON by its first key.
    const BEGINNING: usize = 100;
    fsx::claim_output(path, inputs)?;
    if !path.exists() {
        return Ok(());
    }
    let map = fsx::Map::of(&fsx::open_regular(path)?, path)?;
    let beginning = map.beginning(map.len().min(BEGINNING))?;
    let beginning = String::from_utf8_lossy(&beginning).into_owned();
    // In an empty file there is nothing to lose.
    if map.is_empty() || beginning.starts_with(HEAD) || beginning.contains(SCHEMA) {
        return Ok(());
    }
    Err(UsageError::new(
        format!(
            "`{}` is there, and holds no times of trtmut",
            path.display()
        ),
        "give --export-times another name, or remove the file",
    )
    .into())
}

/// Writes the times: of each run by the clock, and of the GPU alone where it was measured.
///
/// # Errors
/// [`fsx::Error`] where it cannot be written.
pub(super) fn write(
    path: &Path,
    latency: &Latency,
    gpu: Option<&Latency>,
) -> Result<(), fsx::Error> {
    let on_gpu = gpu.map(|g| &g.times_ns[..]);
    let text = if is_json(path) {
        let document = json!({
            "schema": SCHEMA,
            "warmup": latency.warmup,
            "latency_ns": latency.times_ns,
            "gpu_ns": on_gpu,
        });
        format!("{document}\n")
    } else {
        let mut text = format!("{HEAD}\n");
        for (at, ns) in latency.times_ns.iter().enumerate() {
            let gpu = on_gpu.and_then(|times| times.get(at));
            let gpu = gpu.map_or(String::new(), ToString::to_string);
            let _ = writeln!(text, "{},{ns},{gpu}", at + 1);
        }
        text
    };
    fsx::write_atomic::<fsx::Error>(path, |out| {
        out.write_all(text.as_bytes())
            .map_err(|e| fsx::Error::write(path, e))
    })
}
