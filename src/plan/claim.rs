//! Whether a plan and its manifest may be written at a path: over a pair of ours, over nothing else unasked, and never over a file
//! that the same command reads.

use super::text::{manifest_path, next_path, parse, read_manifest};
use super::{Error, journal};
use crate::fsx;
use std::path::{Path, PathBuf};

/// Claims `output` and the manifest beside it, before expensive work. `inputs` are files and folders that the command reads. `force`
/// allows to replace files that are no plan of ours. `in_place` is a plan that the command reads and may replace. Returns what is
/// worth saying.
///
/// # Errors
/// [`Error::Occupied`]; [`fsx::Error::IsInput`] and [`fsx::Error::SameOutput`], with `force` or without; what cannot be written.
pub fn claim(
    output: &Path,
    inputs: &[PathBuf],
    in_place: Option<&Path>,
    force: bool,
) -> Result<Vec<String>, Error> {
    journal::settle(output)?;
    let manifest = manifest_path(output);
    let next = next_path(output);
    fsx::claim_apart([output, &manifest, &next])?;
    if next.exists() && output.exists() {
        // It may be the manifest of the plan that is there. What cannot be opened is judged below.
        let _ = super::open(output);
    }
    let mut said = Vec::new();
    for path in [output, &manifest, &next] {
        let claim = fsx::claim_output(path, inputs)?;
        if claim.other_names > 0 {
            said.push(format!(
                "`{}` has {} besides; what they lead to stays as it is, and is another file from now on",
                path.display(),
                match claim.other_names {
                    1 => "another name".to_owned(),
                    n => format!("{n} other names"),
                }
            ));
        }
    }
    let itself = in_place.is_some_and(|plan| fsx::resolve(plan) == fsx::resolve(output));
    if !force && !itself {
        refuse_foreign(output, &manifest, &next)?;
    }
    Ok(said)
}

/// As [`claim`], for one of several plans that change together: the names under which they wait for each other are free as well.
///
/// # Errors
/// As [`claim`].
pub fn claim_together(
    output: &Path,
    inputs: &[PathBuf],
    in_place: Option<&Path>,
    force: bool,
) -> Result<Vec<String>, Error> {
    let said = claim(output, inputs, in_place, force)?;
    let (journal, waiting) = (journal::journal_path(output), journal::waiting_path(output));
    let pair = [manifest_path(output), next_path(output)];
    fsx::claim_apart([output, &journal, &waiting, &pair[0], &pair[1]])?;
    for path in [journal, waiting] {
        fsx::claim_output(&path, inputs)?;
        if !force && path.symlink_metadata().is_ok() {
            return Err(Error::Occupied {
                path,
                what: "exists, and is where plans that change together wait for each other",
            });
        }
    }
    Ok(said)
}

/// Claims the place of the manifest of a plan that has none.
///
/// # Errors
/// [`Error::HasManifest`] unless `force`; [`fsx::Error::IsInput`]; what cannot be written.
pub fn claim_manifest(plan: &Path, inputs: &[PathBuf], force: bool) -> Result<(), Error> {
    let manifest = manifest_path(plan);
    fsx::claim_apart([&manifest, &next_path(plan)])?;
    for path in [&manifest, &next_path(plan)] {
        fsx::claim_output(path, inputs)?;
        if !force && path.exists() {
            return Err(Error::HasManifest {
                plan: plan.to_owned(),
                manifest: path.clone(),
            });
        }
    }
    Ok(())
}

fn refuse_foreign(output: &Path, manifest: &Path, next: &Path) -> Result<(), Error> {
    let occupied = |path: &Path, what| {
        Err(Error::Occupied {
            path: path.to_owned(),
            what,
        })
    };
    if let Ok(meta) = output.metadata() {
        return match read_manifest(output) {
            // Known by its length: a digest would read all of a large plan, to write over it.
            Ok(m) if m.plan.bytes == meta.len() => Ok(()),
            _ => occupied(output, "exists and is not a plan that trtmut made"),
        };
    }
    for path in [manifest, next] {
        if path.exists() && parse(path).is_err() {
            return occupied(path, "exists and is not a manifest that trtmut wrote");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn code(result: Result<Vec<String>, Error>) -> &'static str {
        use crate::fault::Explain;
        result.err().map_or("none", |e| e.code())
    }

    #[test]
    fn only_a_plan_of_ours_is_replaced_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let plan = at("e.plan");
        assert_eq!(code(claim(&plan, &[], None, false)), "none");
        for foreign in ["e.plan", "e.plan.json", "e.plan.json.next"] {
            fs::write(at(foreign), b"mine").unwrap();
            assert_eq!(
                code(claim(&plan, &[], None, false)),
                "output-occupied",
                "{foreign}"
            );
            assert_eq!(code(claim(&plan, &[], None, true)), "none", "{foreign}");
            let inputs = [at(foreign)];
            assert_eq!(code(claim(&plan, &inputs, None, true)), "output-is-input");
            fs::remove_file(at(foreign)).unwrap();
        }
    }

    #[test]
    fn a_plan_and_its_manifest_are_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let plan = dir.path().join("e.plan");
        // Leads to what is not there yet, and would take the plan's place once it is.
        std::os::unix::fs::symlink("e.plan", dir.path().join("e.plan.json")).unwrap();
        assert_eq!(code(claim(&plan, &[], None, true)), "outputs-same");
    }

    #[test]
    fn other_names_of_what_is_replaced_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, b"plan").unwrap();
        fs::hard_link(&a, b).unwrap();
        let said = claim(&a, &[], Some(&a), false).unwrap();
        assert!(
            said.len() == 1 && said[0].contains("another name"),
            "{said:?}"
        );
    }
}
