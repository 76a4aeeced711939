//! Which files are watched, what state they are in, and whether somebody is writing them.
//!
//! The states are compared, so a lost event or a file system without events (NFS) costs a moment and no change. Events say at once
//! that something happened, and what is open for writing.

use super::WatchError;
use crate::fsx::Stamp;
use crate::ui::Ui;
use crate::watch::{Event, Watch};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often the states are looked at where no event comes.
const LOOK: Duration = Duration::from_secs(2);
/// After so long a wait for a file, the user is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// Files by path, as they were; `None` for one that is named and not there.
type States = BTreeMap<PathBuf, Option<Stamp>>;

/// What a look at the files found.
pub enum Found {
    /// These are other ones than at the last look, and whole.
    Changed(Vec<String>),
    Same,
}

/// The files that a plan follows.
pub struct Sources {
    inputs: Vec<PathBuf>,
    /// What the refits themselves write.
    ours: BTreeSet<PathBuf>,
    settle: Duration,
    seen: Option<States>,
    watcher: Option<RecommendedWatcher>,
    events: Option<Receiver<notify::Result<notify::Event>>>,
    /// Folders under watch, and which folder each was.
    folders: BTreeMap<PathBuf, (u64, u64)>,
    /// Written to, and not closed yet.
    open: BTreeSet<PathBuf>,
}

impl Sources {
    /// Over `inputs`, files and folders; what is in `ours` is never a change.
    pub fn new(inputs: Vec<PathBuf>, ours: &[PathBuf], settle: Duration) -> Sources {
        Sources {
            inputs,
            ours: ours.iter().map(|path| spelled(path)).collect(),
            settle,
            seen: None,
            watcher: None,
            events: None,
            folders: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }

    /// The inputs, for a message.
    pub fn shown(&self) -> String {
        let names = self.inputs.iter().map(|path| path.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Watches every folder that an input is in or leads to; again where a folder was replaced by another of its name.
    ///
    /// # Errors
    /// Where the system refuses, or a folder is not there.
    pub fn watch(&mut self) -> Result<(), WatchError> {
        let failed = |path: &Path| {
            let path = as_named(path).to_owned();
            move |source| WatchError::Watch { path, source }
        };
        if self.watcher.is_none() {
            let (sender, events) = channel();
            let watcher = notify::recommended_watcher(sender).map_err(failed(&self.inputs[0]))?;
            (self.watcher, self.events) = (Some(watcher), Some(events));
        }
        let (Some(watcher), begun) = (&mut self.watcher, self.seen.is_some()) else {
            return Ok(());
        };
        for (folder, mode) in folders(&self.inputs) {
            let Ok(meta) = folder.metadata() else {
                // One that went away may come back; at the start it is a mistake.
                if begun || mode == RecursiveMode::Recursive {
                    self.folders.remove(&folder);
                    continue;
                }
                let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(failed(&folder)(notify::Error::io(gone)));
            };
            let which = Stamp::of(&meta).file();
            if self.folders.get(&folder) == Some(&which) {
                continue;
            }
            // An error says that nothing was watched there, or that it is gone: both are as wanted.
            let _ = watcher.unwatch(&folder);
            watcher.watch(&folder, mode).map_err(failed(&folder))?;
            self.folders.insert(folder, which);
        }
        Ok(())
    }

    /// Waits until every input is there, closed, and was left alone for a while; tells then what is other than at the last look.
    pub fn whole(&mut self, ui: &Ui) -> Found {
        let mut states = self.states();
        if self.seen.as_ref() == Some(&states) && self.open.is_empty() {
            return Found::Same;
        }
        let (mut since, begun, mut told) = (Instant::now(), Instant::now(), false);
        // What was there before the watch began was not written just now, as far as anybody knows.
        if self.seen.is_none() && states.values().all(Option::is_some) {
            since = since.checked_sub(self.settle).unwrap_or(since);
        }
        loop {
            let missing = states.iter().find(|(_, state)| state.is_none());
            let awaited = (self
                .open
                .iter()
                .next()
                .map(|path| (path, "is being written")))
            .or(missing.map(|(path, _)| (path, "is not there")));
            if let Some((path, why)) = awaited {
                since = Instant::now();
                if !told && begun.elapsed() >= PATIENCE {
                    told = true;
                    let text = format!("waiting for `{}`, which {why}", as_named(path).display());
                    ui.event(Event::Status(&text));
                }
            } else if since.elapsed() >= self.settle {
                break;
            }
            let left = self.settle.saturating_sub(since.elapsed());
            // At least a moment, or `--settle 0s` would never rest; at most a look, since events may be lost.
            self.hear(left.clamp(Duration::from_millis(1), LOOK));
            let now = self.states();
            if now != states {
                states = now;
                since = Instant::now();
            }
        }
        let changed = self.changed(&states);
        self.seen = Some(states);
        if changed.is_empty() {
            Found::Same
        } else {
            Found::Changed(changed)
        }
    }

    /// Waits for an event or a look.
    pub fn wait(&mut self) {
        self.hear(LOOK);
    }

    /// Takes in events for at most `time`, and returns after the first one that concerns the inputs.
    fn hear(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = match &self.events {
                Some(events) => events.recv_timeout(left),
                None => Err(RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Ok(event)) => {
                    if self.concerns(&event) {
                        return;
                    }
                }
                // An error is an overflow, for one: the states tell.
                Ok(Err(_)) | Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(left);
                    return;
                }
            }
        }
    }

    /// Notes what an event says, and whether it is of the inputs.
    fn concerns(&mut self, event: &notify::Event) -> bool {
        let mut any = event.need_rescan();
        for path in &event.paths {
            if self.ours.contains(path) || !is_watched(path, &self.inputs) {
                continue;
            }
            match event.kind {
                // What went away, or has another name now, is not being written under this one.
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Remove(_)
                | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.open.remove(path);
                }
                EventKind::Modify(ModifyKind::Data(_)) => {
                    self.open.insert(path.clone());
                }
                // Opening for reading, which refits do themselves.
                EventKind::Access(_) => continue,
                _ => {}
            }
            any = true;
        }
        any
    }

    /// The state of every file as it is now.
    fn states(&self) -> States {
        let mut states = States::new();
        for input in &self.inputs {
            if input.is_dir() {
                walk(&spelled(input), &mut |file, stamp| {
                    if !self.ours.contains(&file) {
                        states.insert(file, Some(stamp));
                    }
                });
            } else {
                let stamp = |path: &Path| path.metadata().ok().map(|meta| Stamp::of(&meta));
                states.insert(spelled(input), stamp(input));
                for beside in companions(input) {
                    if let Some(found) = stamp(&beside) {
                        states.insert(beside, Some(found));
                    }
                }
            }
        }
        states
    }

    /// Names of the files that are other ones than at the last look.
    fn changed(&self, now: &States) -> Vec<String> {
        let none = States::new();
        let before = self.seen.as_ref().unwrap_or(&none);
        let all: BTreeSet<&PathBuf> = before.keys().chain(now.keys()).collect();
        all.into_iter()
            .filter(|path| before.get(*path) != now.get(*path))
            .map(|path| as_named(path).display().to_string())
            .collect()
    }
}

/// As events spell it: with the folder that is watched.
fn spelled(path: &Path) -> PathBuf {
    if path
        .components()
        .next()
        .is_some_and(|first| matches!(first, std::path::Component::Normal(_)))
    {
        return Path::new(".").join(path);
    }
    path.to_owned()
}

/// As the user spells it.
fn as_named(path: &Path) -> &Path {
    match path.strip_prefix(".") {
        Ok(rest) if rest.as_os_str().is_empty() => path,
        Ok(rest) => rest,
        Err(_) => path,
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Folders to watch: that of each input, and of what it leads to by symbolic links; a folder also from within.
fn folders(inputs: &[PathBuf]) -> Vec<(PathBuf, RecursiveMode)> {
    let mut found = Vec::new();
    for input in inputs {
        let input = spelled(input);
        // What is replaced by a rename is another file, and only the folder around it tells of that.
        found.push((folder_of(&input), RecursiveMode::NonRecursive));
        if input.is_dir() {
            found.push((input.clone(), RecursiveMode::Recursive));
        }
        if let Ok(target) = input.canonicalize()
            && input.is_symlink()
        {
            found.push((folder_of(&target), RecursiveMode::NonRecursive));
        }
    }
    found
}

/// Whether a path is an input, what an input leads to, in a folder that is one, or beside one and belongs to it.
fn is_watched(path: &Path, inputs: &[PathBuf]) -> bool {
    inputs.iter().any(|input| {
        let spelled = spelled(input);
        path.starts_with(&spelled)
            || companions(input).iter().any(|beside| path == beside)
            || (input.is_symlink()
                && input
                    .canonicalize()
                    .is_ok_and(|target| path.starts_with(target)))
    })
}

/// What is read along with a file: the configuration of a LoRA, the shards of an index.
fn companions(input: &Path) -> Vec<PathBuf> {
    let input = spelled(input);
    let mut found = vec![input.with_file_name("adapter_config.json")];
    if input.extension().is_some_and(|e| e == "json") {
        let beside = std::fs::read_dir(folder_of(&input)).into_iter().flatten();
        let files = beside.flatten().map(|entry| entry.path());
        found.extend(files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")));
    }
    found
}

/// Every regular file under `folder`, also those that links lead to.
fn walk(folder: &Path, take: &mut impl FnMut(PathBuf, Stamp)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.metadata() else { continue };
        // Links between folders may go in a circle.
        if meta.is_dir() && !path.is_symlink() {
            walk(&path, take);
        } else if meta.is_file() && !is_hidden(&path) {
            take(path, Stamp::of(&meta));
        }
    }
}

/// Temporary files are hidden ones, ours and those of others.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes);
    name.is_some_and(|name| name.starts_with(b"."))
}
