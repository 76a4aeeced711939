//! Several plans that change together: all of them or none, also where the process is killed between two renames.
//!
//! Beside each plan a journal `engine.plan.journal` says which change it takes part in, and where that change's lead is: the
//! journal of its first plan. The new files wait under `engine.plan.next` and `engine.plan.json.next`. The change is decided at the
//! moment when the lead's journal is replaced by one that lists all plans; until then whoever finds a journal takes it and what
//! waits there away, and from then on whoever finds one finishes all the renames. Who does either holds the locks of all folders
//! that the plans are in, so that nobody takes a living process for a dead one.
//!
//! ```text
//! journals of all plans, each naming the lead     undone from here
//! engine.plan.next, engine.plan.json.next of all
//! the lead's journal lists all plans              finished from here
//! renames, one after the other
//! the lead's journal is removed, then the others
//! ```

use super::text::{manifest_path, next_path, parse, stage_manifest, suffixed};
use super::{Error, Manifest, PlanRef};
use crate::fsx::{self, FolderLock, Staged};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Value of [`Journal::format`] that this version writes and reads.
const FORMAT: &str = "trtmut.journal/1";

/// No journal is longer, in bytes: a plan takes a few hundred of it.
const LONGEST: u64 = 16 << 20;

/// A plan that is written, and its manifest: what [`replace_all`](super::replace_all) puts in place.
#[derive(Debug)]
pub struct Pair {
    /// Where the plan goes.
    pub to: PathBuf,
    /// Its bytes, beside that place.
    pub staged: Staged,
    pub manifest: Manifest,
}

/// What stands beside a plan that is about to change together with others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Journal {
    format: String,
    /// Which change it is of; no two have the same.
    change: String,
    /// The plan that it stands beside, and the lead, as seen from its own folder.
    plan: Name,
    lead: Name,
    /// All plans, as seen from the folder of the lead; only in the lead's, and only once the change is decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    plans: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Member {
    plan: Name,
    becomes: PlanRef,
}

/// A path, which need not be text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Bytes(Vec<u8>),
}

impl Name {
    /// `to` as seen from the folder of `from`. A symbolic link is meant itself, since its manifest stands beside it.
    fn of(from: &Path, to: &Path) -> Name {
        let folder = to.parent().filter(|p| !p.as_os_str().is_empty());
        let mut path = fsx::relative(from, folder.unwrap_or(Path::new(".")));
        path.extend(to.file_name());
        // Names of files are bytes; JSON has text only, so other names are lists of numbers.
        let bytes = path.into_os_string().into_vec();
        String::from_utf8(bytes).map_or_else(|e| Name::Bytes(e.into_bytes()), Name::Text)
    }

    /// The path, from the folder of `from`.
    fn from(&self, from: &Path) -> PathBuf {
        let bytes = match self {
            Name::Text(text) => text.as_bytes(),
            Name::Bytes(bytes) => bytes,
        };
        let folder = from.parent().unwrap_or(Path::new(""));
        folder.join(OsStr::from_bytes(bytes))
    }
}

/// Where the journal of a plan is: beside the file that will be replaced.
pub(super) fn journal_path(plan: &Path) -> PathBuf {
    suffixed(&fsx::resolve(plan), ".journal")
}

/// Where a new plan waits for the others.
pub(super) fn waiting_path(plan: &Path) -> PathBuf {
    suffixed(&fsx::resolve(plan), ".next")
}

/// The journal at a path; nothing where there is none, or a file that is not ours.
fn read(path: &Path) -> Option<Journal> {
    path.symlink_metadata().ok()?;
    let text = fsx::read_bounded(path, LONGEST).ok()?;
    // Ours appear whole, by a rename: what does not parse is somebody else's file.
    let journal: Journal = serde_json::from_slice(&text).ok()?;
    (journal.format == FORMAT).then_some(journal)
}

fn write(path: &Path, journal: &Journal) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(journal).map_err(|e| Error::Manifest {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    fsx::write_atomic::<fsx::Error>(path, |out| {
        out.write_all(&text).map_err(|e| fsx::Error::write(path, e))
    })?;
    Ok(())
}

/// Finishes or undoes a change of several plans that a killed process left, where `plan` takes part in one.
///
/// # Errors
/// What cannot be read or written, and then the next call goes on from there; [`Error::Unfinished`].
pub fn settle(plan: &Path) -> Result<(), Error> {
    let path = journal_path(plan);
    while let Some(journal) = read(&path) {
        let lead = journal.lead.from(&path);
        let found = decided(&path, &lead, &journal.change)?;
        let mut touched = vec![path.clone(), lead.clone()];
        let plans = found.iter().flat_map(|j| &j.plans);
        touched.extend(plans.map(|m| m.plan.from(&lead)));
        let _alone = fsx::lock_folders_of(&touched);
        // While this one waited another may have done it, or begun a change of its own.
        if read(&path).as_ref() != Some(&journal) {
            continue;
        }
        match (decided(&path, &lead, &journal.change)?, found) {
            (Some(now), Some(before)) if now == before => finish(&lead, &now)?,
            (None, None) => undo(&path, &journal)?,
            _ => {}
        }
    }
    Ok(())
}

/// The journal of the lead, where the change is decided.
fn decided(path: &Path, lead: &Path, change: &str) -> Result<Option<Journal>, Error> {
    // A folder that was taken away or is not mounted says nothing; its plan may be the new one already.
    let folder = lead.parent().unwrap_or(Path::new(""));
    if !folder.as_os_str().is_empty() && !folder.is_dir() {
        return Err(Error::Unfinished {
            journal: path.to_owned(),
            folder: folder.to_owned(),
        });
    }
    match lead.symlink_metadata() {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fsx::Error::read(lead, e).into()),
        _ => Ok(read(lead).filter(|j| j.change == change && !j.plans.is_empty())),
    }
}

/// The renames that are left of a change, and then its journals. The lead's goes first: none of a change that is through can
/// then be taken for one to finish.
fn finish(lead: &Path, journal: &Journal) -> Result<(), Error> {
    let plans = journal.plans.iter();
    let plans: Vec<(PathBuf, &PlanRef)> = plans.map(|m| (m.plan.from(lead), &m.becomes)).collect();
    for (plan, becomes) in &plans {
        let waiting = waiting_path(plan);
        // One that is not there has its name already, or its folder was taken away.
        if waiting.metadata().is_ok_and(|m| m.len() == becomes.bytes) {
            fsx::rename(&waiting, plan)?;
        }
        let next = next_path(plan);
        if parse(&next).is_ok_and(|m| m.plan == **becomes) {
            fsx::rename(&next, &manifest_path(plan))?;
        }
    }
    fsx::remove(lead)?;
    for (plan, _) in &plans {
        let path = journal_path(plan);
        if read(&path).is_some_and(|j| j.change == journal.change) {
            fsx::remove(&path)?;
        }
    }
    Ok(())
}

/// Takes away what waits beside one plan for a change that was never decided, and its journal.
fn undo(path: &Path, journal: &Journal) -> Result<(), Error> {
    let plan = journal.plan.from(path);
    fsx::remove(&waiting_path(&plan))?;
    fsx::remove(&next_path(&plan))?;
    Ok(fsx::remove(path)?)
}

/// Takes the lock of the folders of all `plans`, once no change of theirs is unfinished.
pub(super) fn lock_settled(plans: &[PathBuf]) -> Result<Vec<FolderLock>, Error> {
    loop {
        for plan in plans {
            settle(plan)?;
        }
        let locks = fsx::lock_folders_of(plans);
        if plans.iter().all(|p| read(&journal_path(p)).is_none()) {
            return Ok(locks);
        }
    }
}

/// [`replace_all`](super::replace_all) for several plans.
pub(super) fn replace_together(pairs: Vec<Pair>) -> Result<(), Error> {
    let places: Vec<PathBuf> = pairs.iter().map(|p| p.to.clone()).collect();
    let Some(lead) = places.first().map(|p| journal_path(p)) else {
        return Ok(());
    };
    let _alone = lock_settled(&places)?;
    let _whole = fsx::uninterrupted();
    match decide(&lead, pairs) {
        Ok(journal) => {
            finish(&lead, &journal)?;
            for place in &places {
                fsx::note_replaced(place);
            }
            Ok(())
        }
        Err(e) => {
            for place in &places {
                let path = journal_path(place);
                if let Some(journal) = read(&path) {
                    // Whoever looks at the plan next does it, where it cannot be done now.
                    let _ = undo(&path, &journal);
                }
            }
            Err(e)
        }
    }
}

/// All that comes before the moment of decision, and the decision.
fn decide(lead: &Path, pairs: Vec<Pair>) -> Result<Journal, Error> {
    let change = format!(
        "{:032x}{:032x}",
        rand::random::<u128>(),
        rand::random::<u128>()
    );
    let mut first = None;
    for pair in &pairs {
        let path = journal_path(&pair.to);
        let journal = Journal {
            format: FORMAT.to_owned(),
            change: change.clone(),
            plan: Name::of(&path, &pair.to),
            lead: Name::of(&path, lead),
            plans: Vec::new(),
        };
        // Before anything waits for the change: the next command looks for what to take away only where a journal is.
        write(&path, &journal)?;
        first.get_or_insert(journal);
    }
    let mut plans = Vec::new();
    for Pair {
        to,
        staged,
        manifest,
    } in pairs
    {
        let becomes = manifest.plan.clone();
        stage_manifest(&to, &manifest)?.park(&next_path(&to))?;
        staged.park(&waiting_path(&to))?;
        plans.push(Member {
            plan: Name::of(lead, &to),
            becomes,
        });
    }
    let journal = Journal {
        plans,
        ..first.expect("there is more than one")
    };
    write(lead, &journal)?;
    Ok(journal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Explain;
    use std::fs;

    fn pending(plan: &Path, lead: &Path) -> Journal {
        let path = journal_path(plan);
        let journal = Journal {
            format: FORMAT.into(),
            change: "1".into(),
            plan: Name::of(&path, plan),
            lead: Name::of(&path, lead),
            plans: Vec::new(),
        };
        write(&path, &journal).unwrap();
        journal
    }

    #[test]
    fn a_file_that_is_no_journal_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let plan = dir.path().join("e.plan");
        for text in ["mine", "{}", r#"{"format":"trtmut.journal/9"}"#] {
            fs::write(journal_path(&plan), text).unwrap();
            settle(&plan).unwrap();
            assert_eq!(fs::read(journal_path(&plan)).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn what_was_never_decided_is_taken_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [&b"e.plan"[..], b"\xff\n.plan"] {
            let plan = dir.path().join(OsStr::from_bytes(name));
            let lead = dir.path().join("lead.plan.journal");
            pending(&plan, &lead);
            fs::write(waiting_path(&plan), "new").unwrap();
            fs::write(&plan, "old").unwrap();
            settle(&plan).unwrap();
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
            assert_eq!(left.len(), 1);
            assert_eq!(fs::read(&plan).unwrap(), b"old");
            fs::remove_file(&plan).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_known_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (plan, away) = (dir.path().join("e.plan"), dir.path().join("away"));
        fs::create_dir(&away).unwrap();
        pending(&plan, &away.join("lead.plan.journal"));
        fs::write(waiting_path(&plan), "new").unwrap();
        fs::remove_dir(&away).unwrap();
        let error = settle(&plan).unwrap_err();
        assert_eq!(error.code(), "change-unfinished");
        assert!(waiting_path(&plan).exists() && journal_path(&plan).exists());
        // Both ways out that the message names.
        fs::create_dir(&away).unwrap();
        settle(&plan).unwrap();
        assert!(!waiting_path(&plan).exists() && !journal_path(&plan).exists());
        pending(&plan, &away.join("lead.plan.journal"));
        fs::remove_dir(&away).unwrap();
        fs::remove_file(journal_path(&plan)).unwrap();
        settle(&plan).unwrap();
    }
}
