//! Which files are watched, what state they are in, and whether somebody is writing them.
//!
//! The states are compared, so a lost event or a file system without events (NFS) costs a moment and no change. Events say at once
//! that something happened, and what is open for writing.
//!
//! Files are called as the user calls them. Events call them by the one path of their folder without links, which is how folders are
//! watched: inotify knows a folder once, and would tell of it by whichever of several paths came last.

use super::WatchError;
use crate::fsx::{self, Stamp};
use crate::ui::Ui;
use crate::watch::{Event, Watch};
use crate::weights::{self, lora};
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
#[derive(Debug)]
pub enum Found {
    /// These are other ones than at the last look, and whole.
    Changed(Vec<String>),
    Same,
}

/// What the user named, a file or a folder.
#[derive(Debug, Clone)]
pub struct Input {
    pub path: PathBuf,
    /// It is read as a LoRA.
    pub lora: bool,
}

impl Input {
    /// What is read of it. What else lies in a folder, logs for one, may change and be open as it likes.
    fn files(&self) -> Vec<PathBuf> {
        if self.lora {
            lora::files_of(&self.path)
        } else {
            weights::files_of(&self.path)
        }
    }
}

/// The files that a plan follows.
pub struct Sources {
    inputs: Vec<Input>,
    /// What the refits themselves write, as events call it.
    ours: BTreeSet<PathBuf>,
    settle: Duration,
    seen: Option<States>,
    watcher: Option<RecommendedWatcher>,
    events: Option<Receiver<notify::Result<notify::Event>>>,
    /// Folders under watch, and which folder each was.
    folders: BTreeMap<PathBuf, (u64, u64)>,
    /// What is read, by what events call it.
    known: BTreeMap<PathBuf, PathBuf>,
    /// Written to and not closed yet, whether it is read or not: a new file may turn out to be a shard.
    open: BTreeSet<PathBuf>,
}

impl Sources {
    /// Over `inputs`; what is in `ours` is never a change.
    pub fn new(inputs: Vec<Input>, ours: &[PathBuf], settle: Duration) -> Sources {
        Sources {
            inputs,
            ours: ours
                .iter()
                .flat_map(|path| [as_told(path), as_told(&fsx::resolve(path))])
                .collect(),
            settle,
            seen: None,
            watcher: None,
            events: None,
            folders: BTreeMap::new(),
            known: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }

    /// The inputs, for a message.
    pub fn shown(&self) -> String {
        let names = self
            .inputs
            .iter()
            .map(|input| input.path.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Watches every folder that something read is in or leads to; again where a folder was replaced by another of its name.
    fn watch(&mut self) -> Result<(), WatchError> {
        let begun = self.watcher.is_some();
        let failed = |path: &Path, source| WatchError::Watch {
            path: path.to_owned(),
            source,
        };
        if !begun {
            let (sender, events) = channel();
            let watcher =
                notify::recommended_watcher(sender).map_err(|e| failed(&self.inputs[0].path, e))?;
            (self.watcher, self.events) = (Some(watcher), Some(events));
        }
        let wanted = self.around();
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        for (named, needed) in wanted {
            let there = named
                .canonicalize()
                .and_then(|folder| Ok((folder.metadata()?, folder)));
            let (meta, folder) = match there {
                Ok(there) => there,
                // One that went away may come back; at the start it is a mistake.
                Err(e) if needed && !begun => return Err(failed(&named, notify::Error::io(e))),
                Err(_) => continue,
            };
            let which = Stamp::of(&meta).file();
            if self.folders.get(&folder) == Some(&which) {
                continue;
            }
            // An error says that nothing was watched there, or that it is gone: both are as wanted.
            let _ = watcher.unwatch(&folder);
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {}
                // It went away at this moment.
                Err(_) if begun && !folder.exists() => continue,
                Err(e) => return Err(failed(&named, e)),
            }
            // What was open was in the folder that had this name before.
            self.open.retain(|file| file.parent() != Some(&folder));
            self.folders.insert(folder, which);
        }
        Ok(())
    }

    /// Folders to watch, and whether they have to be there at the start.
    fn around(&self) -> Vec<(PathBuf, bool)> {
        let mut found = Vec::new();
        for input in &self.inputs {
            // What is replaced by a rename is another file, and only the folder around it tells of that.
            found.push((folder_of(&input.path), true));
            if input.path.is_dir() {
                found.push((input.path.clone(), false));
            }
            for path in input.files().iter().chain([&input.path]) {
                found.push((folder_of(path), false));
                if let Some(target) = target_of(path) {
                    found.push((folder_of(&target), false));
                }
            }
        }
        found
    }

    /// Waits until every input is there, closed, and was left alone for a while; tells then what is other than at the last look. At the
    /// first look everything is.
    ///
    /// # Errors
    /// Where the system lets a folder not be watched, or one is not there at the start.
    pub fn whole(&mut self, ui: &Ui) -> Result<Found, WatchError> {
        // Watches first: what changes after the states were taken is told of.
        self.watch()?;
        let mut states = self.states();
        if self.seen.as_ref() == Some(&states) && self.unfinished().is_none() {
            return Ok(Found::Same);
        }
        let (mut since, begun, mut told) = (Instant::now(), Instant::now(), false);
        // What was there before the watch began was not written just now, as far as anybody knows.
        if self.seen.is_none() && states.values().all(Option::is_some) {
            since = since.checked_sub(self.settle).unwrap_or(since);
        }
        loop {
            let missing = states.iter().find(|(_, state)| state.is_none());
            let awaited = (self.unfinished().map(|path| (path, "is being written")))
                .or(missing.map(|(path, _)| (path, "is not there")));
            if let Some((path, why)) = awaited {
                since = Instant::now();
                if !told && begun.elapsed() >= PATIENCE {
                    told = true;
                    let text = format!("waiting for `{}`, which {why}", path.display());
                    ui.event(Event::Status(&text));
                }
            } else if since.elapsed() >= self.settle {
                break;
            }
            let left = self.settle.saturating_sub(since.elapsed());
            // At least a moment, or `--settle 0s` would never rest; at most a look, since events may be lost.
            self.hear(left.clamp(Duration::from_millis(1), LOOK));
            // A folder that is there again is watched before what is written into it is believed to be whole.
            self.watch()?;
            let now = self.states();
            if now != states {
                states = now;
                since = Instant::now();
            }
        }
        let changed = self.changed(&states);
        let first = self.seen.replace(states).is_none();
        if changed.is_empty() && !first {
            Ok(Found::Same)
        } else {
            Ok(Found::Changed(changed))
        }
    }

    /// Waits for an event or a look.
    pub fn wait(&mut self) {
        self.hear(LOOK);
    }

    /// Takes in events for at most `time`, and returns after the first that may concern the inputs, with all that came along with it.
    fn hear(&mut self, time: Duration) {
        let mut until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = match &self.events {
                Some(events) => events.recv_timeout(left),
                None => Err(RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Ok(event)) => {
                    if self.concerns(&event) {
                        until = Instant::now();
                    }
                }
                // The states tell.
                Ok(Err(_)) | Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(left);
                    return;
                }
            }
        }
    }

    /// Notes what an event says, and whether it is a reason to look at the states.
    fn concerns(&mut self, event: &notify::Event) -> bool {
        if event.need_rescan() {
            // Events were lost, and among them perhaps that a file was closed, or a folder replaced.
            self.open.clear();
            self.folders.clear();
            return true;
        }
        let mut any = false;
        for path in &event.paths {
            if self.ours.contains(path) {
                continue;
            }
            let news = match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    self.open.remove(path);
                    true
                }
                // What went away, or has another name now, is not being written under this one; nor is what was in it.
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.open.retain(|file| !file.starts_with(path));
                    self.folders.remove(path);
                    true
                }
                // Each further piece of a file that is being written says nothing new.
                EventKind::Modify(ModifyKind::Data(_)) => self.open.insert(path.clone()),
                // Opening for reading, which refits do themselves.
                EventKind::Access(_) => false,
                _ => true,
            };
            any |= news && self.may_be_read(path);
        }
        any
    }

    /// Whether what is at `path` is read, or would be if it had come just now.
    fn may_be_read(&self, path: &Path) -> bool {
        let extension = path.extension();
        self.known.contains_key(path)
            || extension.is_some_and(|e| e == "safetensors" || e == "json")
    }

    /// A file that is read, and that somebody is writing.
    fn unfinished(&self) -> Option<&PathBuf> {
        self.open.iter().find_map(|path| self.known.get(path))
    }

    /// The state of every file as it is now.
    fn states(&mut self) -> States {
        let mut states = States::new();
        self.known.clear();
        for input in &self.inputs {
            self.known.insert(as_told(&input.path), input.path.clone());
            if !input.path.exists() {
                states.insert(input.path.clone(), None);
            }
            for file in input.files() {
                let told = as_told(&file);
                if self.ours.contains(&told) {
                    continue;
                }
                if let Ok(meta) = file.metadata() {
                    states.insert(file.clone(), Some(Stamp::of(&meta)));
                }
                if let Some(target) = target_of(&file) {
                    self.known.insert(target, file.clone());
                }
                self.known.insert(told, file);
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
            .map(|path| path.display().to_string())
            .collect()
    }
}

/// As events call it.
fn as_told(path: &Path) -> PathBuf {
    let folder = folder_of(path);
    let folder = folder
        .canonicalize()
        .or_else(|_| std::path::absolute(&folder));
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
    }
}

/// What a symbolic link leads to.
fn target_of(path: &Path) -> Option<PathBuf> {
    path.is_symlink().then(|| path.canonicalize().ok())?
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Verbosity;
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::FileExt;

    /// Longer than an event takes on a busy machine.
    const LONG: Duration = Duration::from_secs(30);

    struct Place {
        dir: tempfile::TempDir,
        ui: Ui,
    }

    impl Place {
        fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("d")).unwrap();
            Place {
                dir,
                ui: Ui::new(false, Verbosity::Quiet, false),
            }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, contents: &str) {
            fs::write(self.at(name), contents).unwrap();
        }

        fn link(&self, to: &str, name: &str) {
            std::os::unix::fs::symlink(to, self.at(name)).unwrap();
        }

        /// Sources that were looked at once.
        fn sources(&self, path: &Path) -> Sources {
            let input = Input {
                path: path.to_owned(),
                lora: false,
            };
            let mut sources = Sources::new(vec![input], &[], Duration::ZERO);
            assert!(matches!(sources.whole(&self.ui), Ok(Found::Changed(_))));
            sources
        }
    }

    /// Takes in events until `done`, which no look at the states brings about.
    #[track_caller]
    fn hear(sources: &mut Sources, done: impl Fn(&Sources) -> bool) {
        let begun = Instant::now();
        while !done(sources) {
            assert!(begun.elapsed() < LONG, "no event: {:?}", sources.open);
            sources.hear(Duration::from_millis(20));
            sources.watch().unwrap();
            sources.states();
        }
    }

    /// Writes on until it is known that somebody does.
    #[track_caller]
    fn is_awaited(sources: &mut Sources, file: &File, named: &Path) {
        hear(sources, |s| {
            file.write_all_at(b"2", 0).unwrap();
            s.unfinished().is_some_and(|path| path == named)
        });
    }

    #[track_caller]
    fn nothing_is_awaited(sources: &mut Sources) {
        hear(sources, |s| s.unfinished().is_none());
    }

    #[test]
    fn what_is_being_written_is_known_however_it_is_called() {
        let place = Place::new();
        place.write("d/w.safetensors", "1234");
        place.link("d", "to d");
        place.link("to d/w.safetensors", "to w.safetensors");
        let from_here = |name: &str| {
            let here = std::env::current_dir().unwrap();
            fsx::relative(&here.join("file"), &place.at(name))
        };
        let relative = from_here("d/w.safetensors");
        assert!(relative.is_relative() && relative.exists(), "{relative:?}");
        for named in [
            place.at("d/w.safetensors"),
            relative,
            from_here("d").join("../d/w.safetensors"),
            place.at("to d/w.safetensors"),
            place.at("to w.safetensors"),
        ] {
            let mut sources = place.sources(&named);
            // In place, and no longer than it was: the states alone do not show that more is to come.
            let file = OpenOptions::new()
                .write(true)
                .open(place.at("d/w.safetensors"));
            let file = file.unwrap();
            is_awaited(&mut sources, &file, &named);
            drop(file);
            nothing_is_awaited(&mut sources);
        }
    }

    #[test]
    fn only_what_is_read_is_waited_for() {
        let place = Place::new();
        place.write("d/model.safetensors", "1");
        place.write("e.safetensors", "1");
        let folder = place.at("d");
        let mut sources = place.sources(&folder);
        let mut open = Vec::new();
        for name in ["d/train.log", "d/.hidden", "e.safetensors", "d/notes.json"] {
            let file = File::create(place.at(name)).unwrap();
            file.write_all_at(b"more", 0).unwrap();
            open.push(file);
        }
        let log = as_told(&place.at("d/notes.json"));
        hear(&mut sources, |s| s.open.contains(&log));
        assert_eq!(sources.unfinished(), None);
        assert!(matches!(sources.whole(&place.ui), Ok(Found::Same)));
        // One that is new and read is waited for.
        place.write(
            "d/model.safetensors.index.json",
            "{\"weight_map\": {\"a\": \"2.safetensors\"}}",
        );
        let shard = File::create(place.at("d/2.safetensors")).unwrap();
        is_awaited(&mut sources, &shard, &folder.join("2.safetensors"));
        drop(shard);
        let Ok(Found::Changed(names)) = sources.whole(&place.ui) else {
            panic!("nothing changed")
        };
        let expected = [
            "2.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
        ];
        let expected = expected.map(|name| folder.join(name).display().to_string());
        assert_eq!(names, expected);
        // What the index does not name is no longer read.
        let file = File::create(place.at("d/model.safetensors")).unwrap();
        file.write_all_at(b"2", 0).unwrap();
        let other = as_told(&place.at("d/model.safetensors"));
        hear(&mut sources, |s| s.open.contains(&other));
        assert_eq!(sources.unfinished(), None);
    }

    #[test]
    fn a_folder_in_the_place_of_another_is_watched() {
        let place = Place::new();
        place.write("d/model.safetensors", "1");
        let folder = place.at("d");
        let mut sources = place.sources(&folder);
        let model = folder.join("model.safetensors");
        let first = File::create(&model).unwrap();
        is_awaited(&mut sources, &first, &model);
        // What is open goes away with the folder.
        fs::rename(&folder, place.at("old")).unwrap();
        fs::create_dir(&folder).unwrap();
        nothing_is_awaited(&mut sources);
        let second = File::create(&model).unwrap();
        is_awaited(&mut sources, &second, &model);
        drop(second);
        nothing_is_awaited(&mut sources);
        // The same folder again, which its number does not tell.
        fs::rename(&folder, place.at("away")).unwrap();
        fs::rename(place.at("away"), &folder).unwrap();
        let (begun, told) = (Instant::now(), as_told(&folder));
        while sources.folders.contains_key(&told) {
            assert!(begun.elapsed() < LONG, "no event");
            sources.hear(Duration::from_millis(20));
        }
        let third = OpenOptions::new().write(true).open(&model).unwrap();
        is_awaited(&mut sources, &third, &model);
        drop((first, third));
    }

    #[test]
    fn a_lora_is_read_with_its_configuration_and_a_checkpoint_without() {
        let place = Place::new();
        place.write("d/adapter_model.safetensors", "1");
        place.write("d/adapter_config.json", "{}");
        let names = |lora| {
            let path = place.at("d");
            let mut sources = Sources::new(vec![Input { path, lora }], &[], Duration::ZERO);
            let states = sources.states();
            let names = states
                .keys()
                .map(|path| path.file_name().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            names(true),
            ["adapter_config.json", "adapter_model.safetensors"]
        );
        assert_eq!(names(false), ["adapter_model.safetensors"]);
    }
}
