//! The manifest's file: where it is, and its text read and written.

use super::lines;
use super::manifest::{FORMAT, FORMAT_1, FileRef, Ingredient, ModelRef, Recipe};
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

/// The plan that a path means. A symbolic link whose plan has its manifest beside it, and not beside the link, is that plan: paths in
/// the manifest count from there, and what is written goes there.
pub fn behind_link(path: PathBuf) -> PathBuf {
    let target = fsx::resolve(&path);
    let is_elsewhere =
        target != path && !manifest_path(&path).exists() && manifest_path(&target).exists();
    if is_elsewhere { target } else { path }
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
    parse(&manifest_path(plan)).map_err(|e| missing(e, plan))
}

/// Says of a manifest that is not there whose it would be.
fn missing(e: Error, plan: &Path) -> Error {
    match e {
        Error::File(fsx::Error::Read { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Error::NoManifest {
                plan: plan.to_owned(),
                manifest: manifest_path(plan),
            }
        }
        other => other,
    }
}

/// What of a manifest names files.
#[derive(serde::Deserialize)]
struct Sources {
    model: ModelRef,
    base: Option<BaseFiles>,
    #[serde(default)]
    recipe: Recipe,
}

#[derive(serde::Deserialize)]
struct BaseFiles {
    files: Vec<FileRef>,
}

/// The files that a plan was made from, as its manifest names them: what a refit reads besides what it is given. The weights are passed
/// over.
///
/// # Errors
/// As [`read_manifest`].
pub fn read_sources(plan: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = manifest_path(plan);
    let text = text(&path).map_err(|e| missing(e, plan))?;
    let sources: Sources = serde_json::from_slice(&text).map_err(|e| Error::Manifest {
        path,
        reason: e.to_string(),
    })?;
    let folder = plan.parent().unwrap_or(Path::new("."));
    let mut paths = vec![sources.model.path];
    let base = sources.base.into_iter().flat_map(|b| b.files);
    paths.extend(base.map(|f| f.path));
    for ingredient in sources.recipe.ingredients {
        let (Ingredient::Checkpoint { file } | Ingredient::Lora { file, .. }) = ingredient;
        paths.push(file.path);
    }
    Ok(paths.into_iter().map(|p| folder.join(p)).collect())
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
    let mut made = Made::default();
    let mut reader = serde_json::Deserializer::from_slice(&text);
    // What follows is left over, which is an error to the reader and none here.
    let _ = serde::Deserializer::deserialize_map(&mut reader, &mut made);
    if let (Some(backend), Some(options)) = (made.backend, made.options) {
        return Ok(Maker { backend, options });
    }
    serde_json::from_slice(&text).map_err(|e| Error::Manifest {
        path,
        reason: e.to_string(),
    })
}

/// What made a plan, which all that is written here says before the weights; reads no further.
#[derive(Default)]
struct Made {
    backend: Option<engine::Identity>,
    options: Option<engine::Options>,
}

impl<'de> serde::de::Visitor<'de> for &mut Made {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "backend" => self.backend = Some(map.next_value()?),
                "options" => self.options = Some(map.next_value()?),
                "weights" => break,
                _ => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
            if self.backend.is_some() && self.options.is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// All that is read of a manifest before its version is known.
#[derive(serde::Deserialize)]
struct Head {
    format: Option<serde_json::Value>,
}

/// Takes the value of `format` where that is the first key, as in all that is written here, and reads no further.
struct First<'f>(&'f mut Option<String>);

impl<'de> serde::de::Visitor<'de> for First<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if map.next_key::<String>()?.as_deref() == Some("format") {
            *self.0 = Some(map.next_value()?);
        }
        Ok(())
    }
}

/// The text of a manifest of a version that is read here.
fn text(path: &Path) -> Result<Vec<u8>, Error> {
    let text = fsx::read_bounded(path, LONGEST)?;
    let mut first = None;
    let mut reader = serde_json::Deserializer::from_slice(&text);
    // What follows the first key is left over, which is an error to the reader and none here.
    let _ = serde::Deserializer::deserialize_map(&mut reader, First(&mut first));
    if matches!(first.as_deref(), Some(FORMAT | FORMAT_1)) {
        return Ok(text);
    }
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
        Some(FORMAT | FORMAT_1) => Ok(text),
        Some(other) => Err(wrong(format!("its format is `{other}`, not `{FORMAT}`"))),
        None => Err(wrong(format!(
            "it has no `format`, which should be `{FORMAT}`"
        ))),
    }
}

pub(super) fn parse(path: &Path) -> Result<Manifest, Error> {
    let text = text(path)?;
    let mut manifest: Manifest = serde_json::from_slice(&text).map_err(|e| Error::Manifest {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    // Of many weights it is tens of megabytes, which nobody needs beside what was read off it.
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
    let text = lines::to_vec(manifest).map_err(|e| Error::Manifest {
        path: place.clone(),
        reason: e.to_string(),
    })?;
    Ok(Staged::write_like(&next, &place, |out| {
        out.write_all(&text)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|e| fsx::Error::write(&next, e))
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_is_read_wherever_it_stands_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let plan = folder.path().join("engine.plan");
        let read = |text: &str| {
            std::fs::write(manifest_path(&plan), text).unwrap();
            read_maker(&plan)
        };
        let maker =
            r#""options":{"refit":"all"},"backend":{"backend":"cpu","library":"rten 0.27.0"}"#;
        let cut = format!(r#"{{"format":"{FORMAT}","notes":["x"],{maker},"weights":[{{"na"#);
        for text in [cut, format!(r#"{{"weights":[],{maker}}}"#)] {
            let made = read(&text).unwrap();
            assert_eq!(made.backend.library, "rten 0.27.0");
            assert_eq!(made.options["refit"], "all");
        }
        assert!(matches!(read("{}"), Err(Error::Manifest { .. })));
    }
}
