//! Outputs that appear whole or not at all: written beside their final place, synced, then renamed.

use super::Error;
use super::beside::{PREFIX, claim, folder_of, sweep};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A finished file under a temporary name beside its final place. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    to: PathBuf,
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
        let wrap = |e| E::from(Error::write(path, e));
        let folder = folder_of(path);
        sweep(folder);
        let file = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(".tmp")
            .permissions(permissions())
            .tempfile_in(folder)
            .map_err(wrap)?;
        claim(file.as_file());
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        let file = out.into_inner().map_err(|e| wrap(e.into_error()))?;
        file.as_file().sync_all().map_err(wrap)?;
        Ok(Staged {
            file,
            to: path.to_owned(),
        })
    }

    /// Where the bytes are until [`Staged::commit`].
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Renames it to its final name, replacing what was there.
    ///
    /// # Errors
    /// [`Error::Write`] when the rename fails; the old file is then untouched.
    pub fn commit(self) -> Result<(), Error> {
        let to = self.to;
        self.file
            .persist(&to)
            .map_err(|e| Error::write(&to, e.error))?;
        // The rename itself survives a power cut only once the folder is synced; a file system that cannot do it
        // has still renamed.
        if let Ok(folder) = File::open(folder_of(&to)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

#[cfg(unix)]
fn permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    // What File::create would ask for; the umask takes its share.
    std::fs::Permissions::from_mode(0o666)
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

/// Finds out before expensive work whether `path` can be written: its folder exists and takes files, and it is no folder
/// itself. Leaves nothing behind.
///
/// # Errors
/// [`Error::Write`] with the reason.
pub fn check_output(path: impl AsRef<Path>) -> Result<(), Error> {
    let path = path.as_ref();
    if path.is_dir() {
        return Err(Error::write(path, io::ErrorKind::IsADirectory.into()));
    }
    tempfile::tempfile_in(folder_of(path))
        .map(drop)
        .map_err(|e| Error::write(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_fill_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"old").unwrap();
        let r: Result<(), Error> = write_atomic(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(Error::write("f", io::ErrorKind::StorageFull.into()))
        });
        assert!(r.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn check_output_names_a_missing_folder() {
        let dir = tempfile::tempdir().unwrap();
        let e = check_output(dir.path().join("no/f")).unwrap_err();
        assert!(e.to_string().contains("no/f"));
        assert!(check_output(dir.path()).is_err());
        check_output(dir.path().join("f")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
