//! What may be written over: never a file that the same command reads, whatever its name, nor one that it writes as well.

use super::beside::folder_of;
use super::open::Stamp;
use super::{Error, check_output, resolve};
use std::path::{Path, PathBuf};

/// What is there already where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Other names of the file that is replaced: they keep the old contents.
    pub other_names: u64,
}

/// Claims `output` for writing, before expensive work: it can be written, and it is none of `inputs`, by device and inode. An
/// input that is a folder stands for the files in it.
///
/// # Errors
/// [`Error::IsInput`]; otherwise as [`check_output`].
pub fn claim_output<P: AsRef<Path>>(
    output: &Path,
    inputs: impl IntoIterator<Item = P>,
) -> Result<Claim, Error> {
    check_output(output)?;
    let Ok(there) = resolve(output).symlink_metadata() else {
        return Ok(Claim { other_names: 0 });
    };
    let file = Stamp::of(&there).file();
    let is_it = |path: &Path| path.metadata().is_ok_and(|m| Stamp::of(&m).file() == file);
    for input in inputs {
        let input = input.as_ref();
        let within = || -> Option<PathBuf> {
            let entries = std::fs::read_dir(input).ok()?;
            entries.flatten().map(|e| e.path()).find(|p| is_it(p))
        };
        let found = if is_it(input) {
            Some(input.to_owned())
        } else {
            within()
        };
        if let Some(input) = found {
            return Err(Error::IsInput {
                path: output.to_owned(),
                input,
            });
        }
    }
    Ok(Claim {
        other_names: std::os::unix::fs::MetadataExt::nlink(&there).saturating_sub(1),
    })
}

/// Makes sure that the files which one command writes are as many as their names, before anything is read: of two that are one, also
/// through links, the second would replace the first.
///
/// # Errors
/// [`Error::SameOutput`].
pub fn claim_apart<P: AsRef<Path>>(outputs: impl IntoIterator<Item = P>) -> Result<(), Error> {
    let mut taken: Vec<(PathBuf, PathBuf)> = Vec::new();
    for output in outputs {
        let output = output.as_ref();
        let place = place(output);
        if let Some((_, other)) = taken.iter().find(|(taken, _)| *taken == place) {
            return Err(Error::SameOutput {
                path: output.to_owned(),
                other: other.clone(),
            });
        }
        taken.push((place, output.to_owned()));
    }
    Ok(())
}

/// The one name of what is written at `path`. Not by inode: what is written is often not there yet, and of two hard links each becomes a
/// file of its own.
fn place(path: &Path) -> PathBuf {
    let to = resolve(path);
    let folder = std::fs::canonicalize(folder_of(&to));
    match (folder, to.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn two_outputs_are_two_files_by_whatever_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("there"), b"x").unwrap();
        fs::hard_link(at("there"), at("hard")).unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        link("there", "to there");
        link("d/new", "to new");
        link("d", "to d");
        for (a, b) in [
            ("there", "there"),
            ("d/new", "d/../d/new"),
            ("there", "to there"),
            // Neither is there yet.
            ("to new", "d/new"),
            ("to d/new", "d/new"),
            ("to d/new", "to new"),
        ] {
            let e = claim_apart([at("other"), at(a), at(b)]).unwrap_err();
            let Error::SameOutput { path, other } = &e else {
                panic!("{e:?}")
            };
            assert_eq!((other, path), (&at(a), &at(b)));
        }
        claim_apart([at("there"), at("hard"), at("d/there"), at("to new")]).unwrap();
    }

    #[test]
    fn an_input_is_no_output_by_whatever_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/in"), b"in").unwrap();
        fs::hard_link(at("d/in"), at("hard")).unwrap();
        std::os::unix::fs::symlink("d/in", at("soft")).unwrap();
        for output in ["d/in", "hard", "soft", "d/../d/in"] {
            for input in ["d/in", "hard", "soft", "d"] {
                let e = claim_output(&at(output), [at(input)]).unwrap_err();
                assert!(matches!(e, Error::IsInput { .. }), "{output} {input} {e:?}");
            }
        }
        fs::write(at("other"), b"in").unwrap();
        assert_eq!(
            claim_output(&at("other"), [at("d")]).unwrap().other_names,
            0
        );
        assert_eq!(
            claim_output(&at("hard"), [at("other")])
                .unwrap()
                .other_names,
            1
        );
        claim_output(&at("new"), [at("d/in"), at("absent")]).unwrap();
    }
}
