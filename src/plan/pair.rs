//! Reading and replacing the two files as one.

use super::journal::{self, Pair};
use super::lines;
use super::text::{manifest_path, next_path, parse, read_manifest, stage_manifest};
use super::{Error, Manifest, PlanRef};
use crate::engine::{self, Written};
use crate::fsx::{self, Map, Staged, Stamp};
use crate::tensor::{Digest, DigestWriter};
use std::fs::File;
use std::io;
use std::path::Path;

/// Reads the manifest of `plan` and checks that it belongs to the plan's bytes (the whole plan is hashed).
/// Finishes an interrupted [`replace`], and an interrupted change of several plans.
///
/// # Errors
/// [`Error`], with the file that is wrong.
pub fn open(plan: &Path) -> Result<Manifest, Error> {
    open_with(plan, engine::digest_of)
}

/// As [`open`], with the digest that `digest` gives of the plan.
///
/// # Errors
/// As [`open`].
pub fn open_with(plan: &Path, digest: impl Fn(&Map) -> Digest) -> Result<Manifest, Error> {
    journal::settle(plan)?;
    let (actual, current, stamp) = look(plan, &digest)?;
    if let Ok(m) = &current
        && m.plan == actual
    {
        fsx::expect_plan(plan, &stamp)?;
        return current;
    }
    // Another process may be between its two renames at this moment; under the lock none is.
    let _alone = fsx::lock_folder_of(plan);
    let (actual, current, stamp) = look(plan, &digest)?;
    fsx::expect_plan(plan, &stamp)?;
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
        fsx::rename(&next, &manifest_path(plan))?;
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
fn look(
    plan: &Path,
    digest: &dyn Fn(&Map) -> Digest,
) -> Result<(PlanRef, Result<Manifest, Error>, Stamp), Error> {
    let file = fsx::open_regular(plan)?;
    let map = Map::of(&file, plan)?;
    let actual = PlanRef {
        bytes: map.len() as u64,
        digest: digest(&map),
    };
    Ok((actual, read_manifest(plan), Stamp::of(map.metadata())))
}

/// Length and digest of a plan, whatever made it.
///
/// # Errors
/// Where it cannot be read.
pub fn reference(plan: &Path) -> Result<PlanRef, Error> {
    Ok(look(plan, &engine::digest_of)?.0)
}

/// Writes the manifest of a plan that stays as it is.
///
/// # Errors
/// [`Error::Mismatch`] where the plan is another one than `manifest` says; a write error.
pub fn adopt(plan: &Path, manifest: &Manifest) -> Result<(), Error> {
    let path = manifest_path(plan);
    // Held until the manifest is there: the plan whose digest it names must not be replaced meanwhile.
    let _alone = fsx::lock_folder_of(plan);
    if reference(plan)? != manifest.plan {
        return Err(Error::Mismatch {
            plan: plan.to_owned(),
            manifest: path,
            reason: "the plan changed while it was read".into(),
        });
    }
    let text = lines::to_vec(manifest).map_err(|e| Error::Manifest {
        path: path.clone(),
        reason: e.to_string(),
    })?;
    fsx::write_atomic(&path, |out| {
        out.write_all(&text)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|e| Error::from(fsx::Error::write(&path, e)))
    })
}

/// Writes a plan beside `to`, and returns what it is, taken while it is written. Nothing is visible under `to` yet. `fill` gets the
/// empty file, and says what it wrote there, or hands back nothing and is followed by `stream`, which writes front to back.
///
/// # Errors
/// Those of `fill` and `stream`, or a write error.
pub fn stage<E: From<fsx::Error>, T>(
    to: &Path,
    fill: impl FnOnce(&File) -> Result<Option<(T, Written)>, E>,
    stream: impl FnOnce(&mut dyn io::Write) -> Result<T, E>,
) -> Result<(Staged, PlanRef, T), E> {
    let mut done = None;
    let staged = Staged::fill(to, |file| {
        done = Some(match fill(file)? {
            Some(filled) => filled,
            None => streamed(to, file, stream)?,
        });
        Ok::<_, E>(())
    })?;
    let (said, Written { bytes, digest }) = done.expect("the file was filled");
    Ok((staged, PlanRef { bytes, digest }, said))
}

fn streamed<E: From<fsx::Error>, T>(
    to: &Path,
    file: &File,
    stream: impl FnOnce(&mut dyn io::Write) -> Result<T, E>,
) -> Result<(T, Written), E> {
    let mut out = io::BufWriter::with_capacity(1 << 20, file);
    let mut hashing = Hashing {
        out: &mut out,
        bytes: 0,
        hasher: DigestWriter::default(),
    };
    let said = stream(&mut hashing)?;
    let (bytes, digest) = (hashing.bytes, hashing.hasher.finish());
    // What is buffered was hashed already. A full disk may show only here, and dropping the buffer would not tell.
    io::Write::flush(&mut out).map_err(|e| fsx::Error::write(to, e))?;
    Ok((said, Written { bytes, digest }))
}

/// Hashes what is written, so that the digest is of what was meant and not of what a disk gives back.
struct Hashing<'a> {
    out: &'a mut dyn io::Write,
    bytes: u64,
    hasher: DigestWriter,
}

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Puts a staged plan and its manifest in the place of what is there, so that a kill at any moment leaves the old pair or
/// the new one.
///
/// # Errors
/// A write error. The old pair is then still there, unless the last rename failed: then the new plan is, and its manifest waits beside it
/// for the next command, which [`open`]s it and does that rename again.
pub fn replace(to: &Path, staged: Staged, manifest: &Manifest) -> Result<(), Error> {
    let next = next_path(to);
    // Written before the lock is taken, for which others wait.
    let waiting = stage_manifest(to, manifest)?;
    let _alone = journal::lock_settled(&[to.to_owned()])?;
    // A signal that ended the process between the renames would leave the last one to the next command.
    let _whole = fsx::uninterrupted();
    waiting.commit()?;
    if let Err(e) = staged.commit() {
        // The old plan is in place, so the new manifest must not wait for it.
        let _ = std::fs::remove_file(&next);
        return Err(e.into());
    }
    fsx::rename(&next, &manifest_path(to))?;
    Ok(())
}

/// As [`replace`] for one plan; of several, a kill at any moment leaves all the old ones or, once the next command has looked at any of
/// them, all the new ones. No two have the same place.
///
/// # Errors
/// What cannot be written. Nothing has changed then, unless the last renames failed, which the next command does again.
pub fn replace_all(pairs: Vec<Pair>) -> Result<(), Error> {
    match <[Pair; 1]>::try_from(pairs) {
        Ok([one]) => replace(&one.to, one.staged, &one.manifest),
        Err(several) => journal::replace_together(several),
    }
}
