//! Outputs that appear whole or not at all: written beside their final place, synced, then renamed.
//!
//! What is replaced keeps its mode and, where this user may give it, its owner. Where a symbolic link is, the file that it leads to is
//! replaced, and the link stays.

use super::beside::{self, Noted, folder_of, sweep};
use super::{Error, raw, resolve, sources};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A finished file under a temporary name beside its final place. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    _noted: Noted,
    /// As it was named, for messages.
    named: PathBuf,
    /// Where it goes: `named`, or where the symbolic link there leads.
    to: PathBuf,
    /// Whose mode and owner it gets.
    like: PathBuf,
}

impl Staged {
    /// Writes a file beside `path` with `fill`, and syncs it to disk.
    ///
    /// # Errors
    /// [`Error::Write`] when the folder cannot be written; `fill`'s own error otherwise. Either way nothing is left behind.
    pub fn write<E: From<Error>>(
        path: impl AsRef<Path>,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<Staged, E> {
        let path = path.as_ref();
        Staged::write_like(path, path, fill)
    }

    /// As [`Staged::write`], with the mode and the owner of `like`, where there is such a file.
    ///
    /// # Errors
    /// As [`Staged::write`].
    pub fn write_like<E: From<Error>>(
        path: &Path,
        like: &Path,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<Staged, E> {
        Staged::fill_like(path, like, |file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            fill(&mut out)?;
            (out.into_inner()).map_err(|e| E::from(Error::write(path, e.into_error())))?;
            Ok(())
        })
    }

    /// As [`Staged::write`], for what is written into the empty file in any order.
    ///
    /// # Errors
    /// As [`Staged::write`].
    pub fn fill<E: From<Error>>(
        path: &Path,
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Staged, E> {
        Staged::fill_like(path, path, fill)
    }

    fn fill_like<E: From<Error>>(
        path: &Path,
        like: &Path,
        fill: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Staged, E> {
        let to = resolve(path);
        let wrap = |e| E::from(Error::write(path, e));
        let folder = folder_of(&to);
        sweep(folder);
        // What replaces a private file is private from its first byte on.
        let mode = if like.exists() { 0o600 } else { 0o666 };
        let file = beside::temporary()
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder)
            .map_err(wrap)?;
        let noted = beside::note_temporary(file.path());
        beside::claim(file.as_file());
        fill(file.as_file())?;
        file.as_file().sync_all().map_err(wrap)?;
        Ok(Staged {
            file,
            _noted: noted,
            named: path.to_owned(),
            to,
            like: like.to_owned(),
        })
    }

    /// Lets `put` place a finished file at the path that it is given, by rename: the way for files that are linked or
    /// cloned instead of written.
    ///
    /// # Errors
    /// As [`Staged::write`].
    pub fn place<E: From<Error>>(
        path: impl AsRef<Path>,
        put: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Staged, E> {
        let staged = Staged::write::<E>(&path, |_| Ok(()))?;
        put(staged.path())?;
        super::open_regular(staged.path())
            .and_then(|file| file.sync_all().map_err(|e| Error::write(&path, e)))?;
        Ok(staged)
    }

    /// Where the bytes are until [`Staged::commit`].
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts it under another name beside its final place, where it outlives this process, with the mode and the owner that it will
    /// have. [`rename`] brings it to its place.
    ///
    /// # Errors
    /// As [`Staged::commit`], and nothing is left under either name.
    pub fn park(self, at: &Path) -> Result<(), Error> {
        sources::check_commit(&self.to, &self.named)?;
        self.rename_to(at)
    }

    /// Renames it to its final name, replacing what was there.
    ///
    /// # Errors
    /// [`Error::Write`] when the rename fails; [`Error::Changed`] when a file that it was made from changed while it was read;
    /// [`Error::IsInput`] when it would replace one. What was there is then untouched.
    pub fn commit(self) -> Result<(), Error> {
        let (to, named) = (self.to.clone(), self.named.clone());
        sources::check_commit(&to, &named)?;
        self.rename_to(&to)?;
        sources::committed(&to, &named);
        Ok(())
    }

    fn rename_to(self, at: &Path) -> Result<(), Error> {
        let wrap = |e| Error::write(&self.named, e);
        if let Ok(meta) = fs::metadata(&self.like) {
            keep_owner_and_mode(self.file.path(), &meta).map_err(wrap)?;
        }
        self.file.persist(at).map_err(|e| wrap(e.error))?;
        // A rename is on the disk only with its folder.
        sync_folder(folder_of(at));
        Ok(())
    }
}

/// Removes a file of ours, where it is there.
///
/// # Errors
/// [`Error::Write`].
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::write(path, e)),
        _ => {
            sync_folder(folder_of(path));
            Ok(())
        }
    }
}

/// Renames a finished file of ours to its place, and syncs the folder.
///
/// # Errors
/// [`Error::Write`].
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let target = resolve(to);
    fs::rename(from, &target).map_err(|e| Error::write(to, e))?;
    sync_folder(folder_of(&target));
    Ok(())
}

/// The rename itself survives a power cut only once the folder is synced; a file system that cannot do it has still renamed.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = raw::open_folder(folder) {
        let _ = folder.sync_all();
    }
}

/// Gives `path` the permissions of what it replaces. Where the group cannot be given, its members may do no more than all others.
fn keep_owner_and_mode(path: &Path, like: &Metadata) -> io::Result<()> {
    let file = raw::options().read(true).open(path)?;
    let is = file.metadata()?;
    let mut mode = like.permissions().mode() & 0o777;
    if (is.uid(), is.gid()) != (like.uid(), like.gid()) {
        let owner = rustix::fs::Uid::from_raw(like.uid());
        let group = rustix::fs::Gid::from_raw(like.gid());
        let given = rustix::fs::fchown(&file, Some(owner), Some(group)).is_ok()
            || is.gid() == like.gid()
            // Who is not root cannot give a file away, but may give it to a group of their own.
            || rustix::fs::fchown(&file, None, Some(group)).is_ok();
        if !given {
            // The group that had rights is not this file's, so this one's gets what everybody has.
            mode = mode & !0o070 | (mode & 0o007) << 3;
        }
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Writes `path` whole or not at all.
///
/// # Errors
/// As [`Staged::write`] and [`Staged::commit`].
pub fn write_atomic<E: From<Error>>(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    Staged::write(path, fill)?.commit().map_err(E::from)
}

/// A new file in a [`super::Scratch`] folder.
///
/// # Errors
/// [`Error::Write`] when it cannot be made.
pub fn create_in_scratch(path: &Path) -> Result<File, Error> {
    raw::options()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|e| Error::write(path, e))
}

/// Finds out before expensive work whether `path` can be written: its folder exists and takes files, and it is no folder and no
/// device itself. Leaves nothing behind.
///
/// # Errors
/// [`Error::Write`] with the reason; [`Error::NotRegular`].
pub fn check_output(path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    let to = resolve(path);
    match to.symlink_metadata() {
        Ok(meta) if meta.is_dir() => {
            return Err(Error::write(path, io::ErrorKind::IsADirectory.into()));
        }
        Ok(meta) if meta.is_symlink() => {
            return Err(Error::write(
                path,
                io::Error::other("its links go round in a circle"),
            ));
        }
        Ok(meta) => {
            if let Some(what) = super::open::irregular(&meta) {
                return Err(Error::NotRegular {
                    path: path.to_owned(),
                    what,
                });
            }
        }
        Err(_) => {}
    }
    // Asked of the file system and not read off the mode bits: only writing says whether one can.
    tempfile::tempfile_in(folder_of(&to))
        .map(drop)
        .map_err(|e| Error::write(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, text: &str) -> Result<(), Error> {
        write_atomic(path, |out| {
            out.write_all(text.as_bytes())
                .map_err(|e| Error::write(path, e))
        })
    }

    fn count(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_failed_fill_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"old").unwrap();
        let r: Result<(), Error> = write_atomic(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(Error::write("f", io::ErrorKind::StorageFull.into()))
        });
        assert!(r.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(count(dir.path()), 1);
    }

    #[test]
    fn check_output_names_a_missing_folder() {
        let dir = tempfile::tempdir().unwrap();
        let e = check_output(dir.path().join("no/f")).unwrap_err();
        assert!(e.to_string().contains("no/f"));
        assert!(check_output(dir.path()).is_err());
        assert!(check_output("/dev/null").is_err());
        std::os::unix::fs::symlink("round", dir.path().join("round")).unwrap();
        assert!(check_output(dir.path().join("round")).is_err());
        check_output(dir.path().join("f")).unwrap();
        assert_eq!(count(dir.path()), 1);
    }

    #[test]
    fn a_private_file_stays_private_and_an_open_one_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for mode in [0o600, 0o640, 0o664, 0o400] {
            let _ = fs::remove_file(&path);
            fs::write(&path, b"old").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            put(&path, "new").unwrap();
            let now = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(now, mode);
            assert_eq!(fs::read(&path).unwrap(), b"new");
        }
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("store")).unwrap();
        fs::write(at("store/real"), b"old").unwrap();
        std::os::unix::fs::symlink("store/real", at("first")).unwrap();
        std::os::unix::fs::symlink(at("first"), at("second")).unwrap();
        put(&at("second"), "new").unwrap();
        assert_eq!(fs::read(at("store/real")).unwrap(), b"new");
        assert!(at("first").is_symlink() && at("second").is_symlink());
        std::os::unix::fs::symlink("store/not yet", at("third")).unwrap();
        put(&at("third"), "made").unwrap();
        assert_eq!(fs::read(at("store/not yet")).unwrap(), b"made");
        assert_eq!((count(dir.path()), count(&at("store"))), (4, 2));
    }

    #[test]
    fn hard_links_part() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, b"old").unwrap();
        fs::hard_link(&a, &b).unwrap();
        put(&a, "new").unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"old");
    }
}
