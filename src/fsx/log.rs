//! The log: the one file that is appended to.

use super::{Error, raw};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// How every log begins. A file that begins otherwise is something else, and is left alone.
const MARK: &[u8] = b"# log of trtmut\n";

/// Opens a log for appending, and begins it where it is not there or is empty.
///
/// # Errors
/// [`Error::Write`] where it cannot be opened or is a file of another kind, [`Error::NotRegular`] for what is no file.
pub fn open_log(path: &Path) -> Result<File, Error> {
    let wrap = |e| Error::write(path, e);
    // Without this flag, opening a pipe waits until somebody reads from it.
    let mut file = raw::options()
        .read(true)
        .append(true)
        .create(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(wrap)?;
    let meta = file.metadata().map_err(wrap)?;
    if let Some(what) = super::open::irregular(&meta) {
        return Err(Error::NotRegular {
            path: path.to_owned(),
            what,
        });
    }
    if meta.len() == 0 {
        file.write_all(MARK).map_err(wrap)?;
        return Ok(file);
    }
    let mut beginning = [0; MARK.len()];
    match file.read_exact_at(&mut beginning, 0) {
        Ok(()) if beginning == *MARK => Ok(file),
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(wrap(e)),
        _ => Err(wrap(io::Error::other(
            "it is there, and is no log of trtmut; name another file",
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_grows_and_nothing_else_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        for line in ["one\n", "two\n"] {
            open_log(&log).unwrap().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read(&log).unwrap(), b"# log of trtmut\none\ntwo\n");
        let mine = dir.path().join("mine");
        for contents in [&b"x"[..], b"a file that is longer than the mark of a log"] {
            std::fs::write(&mine, contents).unwrap();
            assert!(matches!(open_log(&mine), Err(Error::Write { .. })));
            assert_eq!(std::fs::read(&mine).unwrap(), contents);
        }
        assert!(open_log(dir.path()).is_err());
    }
}
