//! Reading and replacing the two files as one.

use super::{Error, FORMAT, FORMAT_1, Manifest, PlanRef};
use crate::fsx::{self, Map, Staged};
use crate::tensor::Digest;
use std::io;
use std::path::{Path, PathBuf};

/// `engine.plan` → `engine.plan.json`.
pub fn manifest_path(plan: &Path) -> PathBuf {
    suffixed(plan, ".json")
}

fn next_path(plan: &Path) -> PathBuf {
    suffixed(plan, ".json.next")
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads the manifest of `plan` and checks that it belongs to the plan's bytes (the whole plan is hashed).
/// Finishes an interrupted [`replace`].
///
/// # Errors
/// [`Error`], with the file that is wrong.
pub fn open(plan: &Path) -> Result<Manifest, Error> {
    let (actual, current) = look(plan)?;
    if let Ok(m) = &current
        && m.plan == actual
    {
        return current;
    }
    // Another process may be between its two renames at this moment; under the lock none is.
    let _alone = fsx::lock_folder_of(plan);
    let (actual, current) = look(plan)?;
    if let Ok(m) = &current
        && m.plan == actual
    {
        return current;
    }
    // A process that was killed between its two renames leaves the right manifest under this name.
    let next = next_path(plan);
    if let Ok(m) = parse(&next)
        && m.plan == actual
    {
        let to = manifest_path(plan);
        std::fs::rename(&next, &to).map_err(|e| fsx::Error::write(&to, e))?;
        return Ok(m);
    }
    let manifest = current?;
    let reason = if manifest.plan.bytes == actual.bytes {
        format!(
            "the plan's digest is {}, the manifest was written for {}",
            actual.digest.short(),
            manifest.plan.digest.short()
        )
    } else {
        format!(
            "the plan is {} bytes long, the manifest was written for {}",
            actual.bytes, manifest.plan.bytes
        )
    };
    Err(Error::Mismatch {
        plan: plan.to_owned(),
        manifest: manifest_path(plan),
        reason,
    })
}

/// What the plan is now, and the manifest that stands beside it.
fn look(plan: &Path) -> Result<(PlanRef, Result<Manifest, Error>), Error> {
    let bytes = Map::open(plan)?;
    let actual = PlanRef {
        bytes: bytes.len() as u64,
        digest: Digest::of(&bytes),
    };
    Ok((actual, read_manifest(plan)))
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

fn parse(path: &Path) -> Result<Manifest, Error> {
    let text = std::fs::read(path).map_err(|e| fsx::Error::read(path, e))?;
    let wrong = |reason: String| Error::Manifest {
        path: path.to_owned(),
        reason,
    };
    // The version is looked at first: a newer format may not parse at all.
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_str) {
        Some(FORMAT | FORMAT_1) => {}
        Some(other) => return Err(wrong(format!("its format is `{other}`, not `{FORMAT}`"))),
        None => {
            return Err(wrong(format!(
                "it has no `format`, which should be `{FORMAT}`"
            )));
        }
    }
    let mut manifest: Manifest = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
    if manifest.format == FORMAT_1 {
        FORMAT.clone_into(&mut manifest.format);
        manifest.base = None;
        for row in &mut manifest.weights {
            row.mapping = None;
        }
    }
    Ok(manifest)
}

/// Writes a plan beside `to` with `fill`, and tells its length and digest. Nothing is visible under `to` yet.
///
/// # Errors
/// `fill`'s own error, or a write error.
pub fn stage<E: From<fsx::Error>>(
    to: &Path,
    fill: impl FnOnce(&mut dyn io::Write) -> Result<(), E>,
) -> Result<(Staged, PlanRef), E> {
    let staged = Staged::write(to, fill)?;
    let bytes = Map::open(staged.path())?;
    let plan = PlanRef {
        bytes: bytes.len() as u64,
        digest: Digest::of(&bytes),
    };
    Ok((staged, plan))
}

/// Puts a staged plan and its manifest in the place of what is there, so that a kill at any moment leaves the old pair or
/// the new one.
///
/// # Errors
/// A write error; the old pair is then still there.
pub fn replace(to: &Path, staged: Staged, manifest: &Manifest) -> Result<(), Error> {
    let next = next_path(to);
    let text = serde_json::to_vec_pretty(manifest).map_err(|e| Error::Manifest {
        path: manifest_path(to),
        reason: e.to_string(),
    })?;
    let _alone = fsx::lock_folder_of(to);
    fsx::write_atomic(&next, |out| {
        out.write_all(&text)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|e| fsx::Error::write(&next, e))
    })?;
    if let Err(e) = staged.commit() {
        // The old plan is in place, so the new manifest must not wait for it.
        let _ = std::fs::remove_file(&next);
        return Err(e.into());
    }
    let manifest = manifest_path(to);
    std::fs::rename(&next, &manifest).map_err(|e| fsx::Error::write(&manifest, e))?;
    Ok(())
}
