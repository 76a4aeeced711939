//! The steps that are not the program's: files that a user has, made before or between its commands.

use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Does `@copy FROM TO`, `@write TO TEXT`, `@old PATH`, `@chmod MODE PATH`, `@mkdir PATH` or `@remove PATH`; panics where it cannot.
pub fn prepare(step: &[String]) {
    let words: Vec<&str> = step.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["@copy", from, to] => in_folder(to).and_then(|()| copy(from.as_ref(), to.as_ref())),
        ["@write", to, text] => in_folder(to).and_then(|()| fs::write(to, text)),
        ["@old", path] => age(path.as_ref(), SystemTime::now() - Duration::from_hours(1)),
        ["@chmod", mode, path] => fs::set_permissions(path, Permissions::from_mode(octal(mode))),
        ["@mkdir", path] => fs::create_dir_all(path),
        ["@remove", path] if Path::new(path).is_dir() => fs::remove_dir_all(path),
        ["@remove", path] => fs::remove_file(path),
        _ => panic!("there is no step {words:?}"),
    };
    done.unwrap_or_else(|e| panic!("{words:?}: {e}"));
}

/// A mode as `chmod` takes it.
pub fn octal(mode: &str) -> u32 {
    u32::from_str_radix(mode, 8).unwrap_or_else(|e| panic!("mode {mode}: {e}"))
}

fn in_folder(file: &str) -> io::Result<()> {
    Path::new(file).parent().map_or(Ok(()), fs::create_dir_all)
}

/// Copies bytes alone: the copy is the user's to write, whatever mode the checkout has.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::write(to, fs::read(from)?);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Sets the times of a file or folder, and of all that is in it first, because that changes no time of the folder any more.
fn age(path: &Path, then: SystemTime) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            age(&entry?.path(), then)?;
        }
    }
    let times = FileTimes::new().set_accessed(then).set_modified(then);
    File::open(path)?.set_times(times)
}
