//! The manifest's file: where it is, and its text read and written.

use super::manifest::{FORMAT, FORMAT_1};
use super::{Error, Manifest};
use crate::engine;
use crate::fsx::{self, Staged};
use std::io;
use std::path::{Path, PathBuf};

/// No manifest is longer, in bytes: a weight takes about a kilobyte of it.
const LONGEST: u64 = 512 << 20;

/// With `.json` after the whole name: `engine.plan` → `engine.plan.json`.
pub fn manifest_path(plan: &Path) -> PathBuf {
    suffixed(plan, ".json")
}

/// Where a new manifest waits for its plan: beside the file that it will replace.
pub(super) fn next_path(plan: &Path) -> PathBuf {
    suffixed(&fsx::resolve(&manifest_path(plan)), ".next")
}

pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads the manifest of `plan` without looking at the plan.
///
/// # Errors
/// [`Error::NoManifest`], [`Error::Manifest`], or a read error.
pub fn read_manifest(plan: &Path) -> Result<Manifest, Error> {
    let path = manifest_path(plan);
    match parse(&path) {
        Err(Error::File(fsx::Error::Read { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Err(Error::NoManifest {
                plan: plan.to_owned(),
                manifest: path,
            })
        }
        other => other,
    }
}

/// What made a plan.
#[derive(Debug, serde::Deserialize)]
pub struct Maker {
    /// The backend, its library and its GPU.
    pub backend: engine::Identity,
    /// What it was given.
    pub options: engine::Options,
}

/// What made `plan`, as its manifest says, of which nothing else is kept.
///
/// # Errors
/// [`Error::Manifest`], or a read error.
pub fn read_maker(plan: &Path) -> Result<Maker, Error> {
    let path = manifest_path(plan);
    let text = fsx::read_bounded(&path, LONGEST)?;
    serde_json::from_slice(&text).map_err(|e| Error::Manifest {
        path,
        reason: e.to_string(),
    })
}

/// All that is read of a manifest before its version is known.
#[derive(serde::Deserialize)]
struct Head {
    format: Option<serde_json::Value>,
}

pub(super) fn parse(path: &Path) -> Result<Manifest, Error> {
    let text = fsx::read_bounded(path, LONGEST)?;
    let wrong = |reason: String| Error::Manifest {
        path: path.to_owned(),
        reason,
    };
    // The version is looked at first: a newer format may not parse at all.
    let is_object = text.trim_ascii_start().starts_with(b"{");
    let format = match serde_json::from_slice::<Head>(&text) {
        Ok(head) if is_object => head.format,
        Err(e) if !e.is_data() => return Err(wrong(e.to_string())),
        // Another kind of JSON, whose error would be of our own types.
        _ => None,
    };
    match format.as_ref().and_then(serde_json::Value::as_str) {
        Some(FORMAT | FORMAT_1) => {}
        Some(other) => return Err(wrong(format!("its format is `{other}`, not `{FORMAT}`"))),
        None => {
            return Err(wrong(format!(
                "it has no `format`, which should be `{FORMAT}`"
            )));
        }
    }
    let mut manifest: Manifest = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    drop(text);
    if manifest.format == FORMAT_1 {
        FORMAT.clone_into(&mut manifest.format);
        manifest.base = None;
        for row in &mut manifest.weights {
            row.mapping = None;
        }
    }
    manifest.mark_unread();
    Ok(manifest)
}

/// Writes the manifest of a plan that goes to `to`, beside the place where it waits for that.
pub(super) fn stage_manifest(to: &Path, manifest: &Manifest) -> Result<Staged, Error> {
    let (next, place) = (next_path(to), manifest_path(to));
    let text = serde_json::to_vec_pretty(manifest).map_err(|e| Error::Manifest {
        path: place.clone(),
        reason: e.to_string(),
    })?;
    Ok(Staged::write_like(&next, &place, |out| {
        out.write_all(&text)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|e| fsx::Error::write(&next, e))
    })?)
}
