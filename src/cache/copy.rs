//! Taking a plan out of the cache: shared with it where that is safe and possible, copied otherwise.
//!
//! 1. A **reflink** (btrfs, XFS, …): an independent file that shares its blocks until one of both is written.
//! 2. A **hard link**, where the caller allows it: the same file under a second name. Since writing into it in place
//!    would reach the cache and every other output linked from it, it is made read-only (`0444` less the umask). Tools that
//!    replace files by rename, as this one does, are not hindered; `cp` onto it and `>` are refused, `cp -f` replaces it.
//! 3. A **copy**.
//!
//! All three appear by rename, and none is synced: what a power cut takes of an output is still in the cache, and a plan that is
//! not that of its manifest is refused by whoever opens it. The output's permissions come from the umask, as if it had just
//! been built, not from the cache, whose own files are private; the cache's folders keep it private however an output is linked.
//! A linked or copied output is as new as the copying, so that `make` sees it as up to date.

use super::entry::Check;
use super::folder::{PLAN, is_at};
use super::hash::{self, CopyError, Next};
use super::record::Part;
use super::store::Store;
use super::{CacheFault, Damage, Hit};
use crate::fsx;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;
use tempfile::NamedTempFile;

/// Whether an output may be the cache's own file under a second name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It may; the output is then read-only.
    Allowed,
    /// It may not: the output is written in place later, or has to be writable.
    Never,
}

/// How an output came out of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// An independent file that shares blocks.
    Reflink,
    /// The cache's file under a second name, read-only.
    HardLink,
    Bytes,
}

/// Why a plan did not come out.
enum Trouble {
    /// It is not what was stored.
    Damaged,
    /// It cannot be read.
    Plan(io::Error),
    /// A fault of the output.
    Output(io::Error),
}

impl Store {
    /// Puts the plan of a hit at `path`, whole or not at all, replacing what was there. With [`Check::Full`] its digest is compared,
    /// on the way where it is copied: a lookup with [`Check::Trust`] and this read it once, where a lookup with
    /// [`Check::Full`] and [`Hit::copy_to`] read it twice.
    ///
    /// The inner error is [`fsx::Error::Write`], when `path` cannot be written: a fault of the output, not of the cache.
    ///
    /// # Errors
    /// As [`Store::lookup`]: [`CacheFault::Damaged`] when it is not what was stored, [`CacheFault::Io`] when it cannot be read.
    pub fn take(
        &self,
        hit: &Hit,
        path: impl AsRef<Path>,
        link: Link,
        check: Check,
    ) -> Result<Result<Copied, fsx::Error>, CacheFault> {
        let path = path.as_ref();
        let stored = hit.record.plan;
        let right = |found| match found {
            (bytes, digest) if Part { bytes, digest } == stored => Ok(()),
            _ => Err(Trouble::Damaged),
        };
        let put = match check {
            // Its length was compared when the entry was opened; nothing else is asked for.
            Check::Trust => return Ok(hit.copy_to(path, link)),
            Check::Full => hit.put_at(
                path,
                link,
                Trouble::Output,
                || right(hash::digest(&hit.plan, |_| ()).map_err(Trouble::Plan)?),
                |to| {
                    right(
                        hash::copy(&hit.plan, to, Next::Nothing).map_err(|e| match e {
                            CopyError::Read(e) => Trouble::Plan(e),
                            CopyError::Write(e) => Trouble::Output(e),
                        })?,
                    )
                },
            ),
        };
        match put {
            Ok(copied) => Ok(Ok(copied)),
            Err(Trouble::Output(e)) => Ok(Err(fsx::Error::write(path, e))),
            Err(Trouble::Plan(e)) => Err(CacheFault::io("read", &hit.plan_path())(e)),
            Err(Trouble::Damaged) => Err(self.damaged(hit, Damage::Digest { file: PLAN })),
        }
    }
}

impl Hit {
    /// Puts the plan at `path`, whole or not at all, replacing what was there.
    ///
    /// # Errors
    /// [`fsx::Error::Write`] when `path` cannot be written: a fault of the output, not of the cache.
    pub fn copy_to(&self, path: impl AsRef<Path>, link: Link) -> Result<Copied, fsx::Error> {
        let path = path.as_ref();
        let copy = |to: &File| {
            if hash::copy_unseen(&self.plan, to)? == self.record.plan.bytes {
                Ok(())
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        };
        self.put_at(path, link, |e| e, || Ok(()), copy)
            .map_err(|e| fsx::Error::write(path, e))
    }

    /// `shared` has the last word before a link or a reflink appears at `path`; `copy` fills the file where there can be neither.
    fn put_at<E>(
        &self,
        path: &Path,
        link: Link,
        wrap: impl Fn(io::Error) -> E + Copy,
        shared: impl FnOnce() -> Result<(), E>,
        copy: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Copied, E> {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let mut beside = fsx::temporary();
        let fresh = beside
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(wrap)?;
        if reflink(&self.plan, fresh.as_file()).is_ok() {
            shared()?;
            return finish(fresh, path, Copied::Reflink).map_err(wrap);
        }
        if link == Link::Allowed {
            // The umask can only be seen by what it leaves.
            let meta = fresh.as_file().metadata().map_err(wrap)?;
            let mode = meta.permissions().mode() & 0o444;
            let linked = beside.make_in(folder, |name| std::fs::hard_link(self.plan_path(), name));
            // Another disk, a file system without links or too many of them: no matter. Nor is it if the folder was
            // replaced meanwhile: then the link is to a file that was not checked.
            if let Ok(linked) = linked
                && is_at(&self.plan, linked.path())
                && self
                    .plan
                    .set_permissions(Permissions::from_mode(mode))
                    .is_ok()
            {
                shared()?;
                let _ = self.plan.set_modified(SystemTime::now());
                return finish(linked, path, Copied::HardLink).map_err(wrap);
            }
        }
        copy(fresh.as_file())?;
        finish(fresh, path, Copied::Bytes).map_err(wrap)
    }
}

fn finish<F>(file: NamedTempFile<F>, path: &Path, how: Copied) -> io::Result<Copied> {
    let beside = file.path().to_owned();
    file.persist(path).map_err(|e| e.error)?;
    if how == Copied::HardLink {
        // rename(2) of one name of a file onto another name of the same file does nothing, and leaves both.
        let _ = std::fs::remove_file(beside);
    }
    Ok(how)
}

/// Makes `to` share the blocks of `from`.
pub(super) fn reflink(from: &File, to: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::ioctl_ficlone(to, from)?);
    #[cfg(not(target_os = "linux"))]
    return Err(io::ErrorKind::Unsupported.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{KeyFields, Plan};
    use crate::watch::Silent;
    use std::fs;
    use std::path::PathBuf;

    fn scene() -> (tempfile::TempDir, Hit, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path().join("c"), 1 << 20).unwrap();
        let fields = KeyFields::new().with("a", "1");
        let lock = store.lock(&fields, &Silent).unwrap();
        lock.put(Plan::Bytes(b"plan"), b"{}").unwrap();
        let hit = store.lookup(&fields.key(), Check::Full).unwrap().unwrap();
        let output = temp.path().join("out/engine.plan");
        fs::create_dir(output.parent().unwrap()).unwrap();
        (temp, hit, output)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    /// What the umask leaves of a new file's permissions.
    fn new_file_mode(beside: &Path) -> u32 {
        let probe = beside.with_extension("probe");
        fs::write(&probe, b"").unwrap();
        let mode = mode(&probe);
        fs::remove_file(probe).unwrap();
        mode
    }

    #[test]
    fn an_independent_output_is_like_any_new_file() {
        let (_temp, hit, output) = scene();
        fs::write(&output, b"old").unwrap();
        // Twice, because the open file has a position.
        for _ in 0..2 {
            let how = hit.copy_to(&output, Link::Never).unwrap();
            assert_ne!(how, Copied::HardLink);
            assert_eq!(fs::read(&output).unwrap(), b"plan");
        }
        assert_eq!(mode(&output), new_file_mode(&output));
        fs::write(&output, b"mine").unwrap();
        assert_eq!(&hit.plan().unwrap()[..], b"plan");
        assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_linked_output_is_read_only_and_can_be_linked_again() {
        let (_temp, hit, output) = scene();
        // The second time, it is a name of the same file already.
        for _ in 0..2 {
            let how = hit.copy_to(&output, Link::Allowed).unwrap();
            assert_ne!(
                how,
                Copied::Bytes,
                "the folder of temporary files has neither reflinks nor hard links"
            );
            if how == Copied::HardLink {
                assert_eq!(mode(&output), new_file_mode(&output) & 0o444);
            }
            assert_eq!(fs::read(&output).unwrap(), b"plan");
            assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_link_is_never_to_a_file_that_was_not_checked() {
        let (_temp, hit, output) = scene();
        let other = hit.plan_path().with_extension("other");
        fs::write(&other, b"evil").unwrap();
        fs::rename(other, hit.plan_path()).unwrap();
        assert_ne!(
            hit.copy_to(&output, Link::Allowed).unwrap(),
            Copied::HardLink
        );
        assert_eq!(fs::read(&output).unwrap(), b"plan");
        fs::remove_file(hit.plan_path()).unwrap();
        hit.copy_to(&output, Link::Allowed).unwrap();
        assert_eq!(fs::read(&output).unwrap(), b"plan");
        assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn damage_is_found_on_the_way_out() {
        for link in [Link::Never, Link::Allowed] {
            let (temp, hit, output) = scene();
            let store = Store::open(temp.path().join("c"), 1 << 20).unwrap();
            fs::write(&output, b"old").unwrap();
            assert!(
                store
                    .take(&hit, &output, link, Check::Full)
                    .unwrap()
                    .is_ok()
            );
            assert_eq!(fs::read(&output).unwrap(), b"plan");
            fs::remove_file(&output).unwrap();
            fs::write(&output, b"old").unwrap();
            // As a disk does it: in place.
            let place = hit.plan_path();
            fs::set_permissions(&place, Permissions::from_mode(0o600)).unwrap();
            fs::write(&place, b"plaN").unwrap();
            let fault = store.take(&hit, &output, link, Check::Full).unwrap_err();
            let CacheFault::Damaged { quarantine, .. } = fault else {
                panic!("{fault}")
            };
            assert!(quarantine.unwrap().exists());
            assert_eq!(fs::read(&output).unwrap(), b"old");
            assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 1);
            assert!(store.lookup(&hit.key(), Check::Full).unwrap().is_none());
            // Who has it open may say so again; what stands in its place by now is not touched.
            let lock = store.lock(hit.fields(), &Silent).unwrap();
            lock.put(Plan::Bytes(b"plan"), b"{}").unwrap();
            assert!(store.take(&hit, &output, link, Check::Full).is_err());
            assert!(store.lookup(&hit.key(), Check::Full).unwrap().is_some());
        }
    }

    #[test]
    fn an_output_that_cannot_be_written_is_the_outputs_fault() {
        let (_temp, hit, output) = scene();
        let fault = hit
            .copy_to(output.join("below"), Link::Allowed)
            .unwrap_err();
        assert!(fault.to_string().starts_with("cannot write"), "{fault}");
        fs::create_dir(&output).unwrap();
        assert!(hit.copy_to(&output, Link::Allowed).is_err());
        assert_eq!(fs::read_dir(output.parent().unwrap()).unwrap().count(), 1);
    }
}
