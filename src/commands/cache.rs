//! `trtmut cache`: see, check and clean the engine cache.

use super::UsageError;
use super::build::{ShapeArgs, read_spec};
use super::engine_args::EngineArgs;
use crate::cache::{
    CacheFault, Difference, Key, Kind, Listed, Pinned, Prune, PruneReport, Store, parse_age,
    parse_size,
};
use crate::exit::Exit;
use crate::fsx;
use crate::onnx::Model;
use crate::pipeline::{self, BackendChoice, Environment};
use crate::tensor::Digest;
use crate::ui::{self, Align, Report, Table, Ui};
use crate::watch::{Event, Watch};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the cache is and how much it may hold.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CacheFolder {
    /// The cache folder (default: `TRTMUT_CACHE_DIR`, `$XDG_CACHE_HOME/trtmut`, `~/.cache/trtmut`)
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// The most that the cache may hold, e.g. 20GiB (default: `TRTMUT_CACHE_SIZE`, 10 GiB, or a tenth of the disk)
    #[arg(long, global = true, value_name = "SIZE")]
    pub cache_size: Option<String>,
}

impl CacheFolder {
    /// Opens the folder, making it where it is missing.
    ///
    /// # Errors
    /// [`UsageError`] where nothing names a folder; [`CacheFault`].
    pub fn open(&self, environment: &Environment) -> anyhow::Result<Store> {
        let (dir, size) = (self.cache_dir.as_deref(), self.cache_size.as_deref());
        Ok(environment.open_cache(dir, size)?.ok_or_else(no_folder)?)
    }

    fn folder(&self, environment: &Environment) -> Result<PathBuf, UsageError> {
        environment
            .cache_folder(self.cache_dir.as_deref())
            .ok_or_else(no_folder)
    }
}

fn no_folder() -> UsageError {
    UsageError::new(
        "there is no cache folder: neither HOME nor XDG_CACHE_HOME is set",
        "name one with --cache-dir or TRTMUT_CACHE_DIR",
    )
}

/// Arguments of `trtmut cache`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    trtmut cache list --sort size\n  \
    trtmut cache prune --to 5GiB --dry-run\n  \
    trtmut cache explain unet.onnx --shapes shapes.json\n  \
    trtmut cache verify --repair")]
pub struct Args {
    #[command(flatten)]
    folder: CacheFolder,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show what is in it
    List {
        /// In which order; the largest, the last used, the newest first
        #[arg(long, value_enum, default_value_t = Sort::Used)]
        sort: Sort,
    },
    /// Show an entry: what its engine depends on
    Info {
        /// Beginning of a key, or a plan file
        entry: String,
    },
    /// Read every entry whole and compare digests
    Verify {
        /// Move damaged entries to quarantine, and remove what dead processes left
        #[arg(long)]
        repair: bool,
    },
    /// Remove what was not used for longest
    Prune {
        /// Until the cache holds so much at most (default: its limit)
        #[arg(long, value_name = "SIZE")]
        to: Option<String>,

        /// Also everything that was not used for so long: 12h, 30d
        #[arg(long, value_name = "AGE")]
        older_than: Option<String>,

        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Keep an entry from being removed to make room
    Pin {
        /// Beginning of a key, or a plan file
        entry: String,
    },
    /// Undo a pin
    Unpin {
        /// Beginning of a key, or a plan file
        entry: String,
    },
    /// Remove everything, pinned entries too
    Clear {
        /// Really
        #[arg(long)]
        yes: bool,
    },
    /// Tell why a build would hit or miss, field by field
    Explain(Box<ExplainArgs>),
    /// Print the cache folder
    Dir,
}

/// `--sort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    Size,
    Used,
    Age,
}

/// Arguments of `trtmut cache explain`: those of the build.
#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// The ONNX model
    model: PathBuf,

    /// Dynamic-shape spec (JSON)
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,

    #[command(flatten)]
    ranges: ShapeArgs,

    /// Who would compile it
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,

    #[command(flatten)]
    engine: EngineArgs,

    /// Read all weights, though the files are as they were when they were last read
    #[arg(long)]
    rehash: bool,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn ago(at: u64) -> String {
    let past = seconds(SystemTime::now()).saturating_sub(at);
    match past {
        0..60 => format!("{past} s ago"),
        60..3600 => format!("{} min ago", past / 60),
        3600..86400 => format!("{} h ago", past / 3600),
        _ => format!("{} d ago", past / 86400),
    }
}

/// The first 12 digits of a key, for people.
fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

/// An entry; times are seconds since 1970.
#[derive(Debug, Serialize)]
struct Entry {
    key: String,
    bytes: u64,
    used: u64,
    created: u64,
    pinned: bool,
    plan: Digest,
    fields: BTreeMap<String, String>,
}

impl From<&Listed> for Entry {
    fn from(listed: &Listed) -> Entry {
        let fields = listed.record.fields.iter();
        Entry {
            key: listed.key.to_string(),
            bytes: listed.bytes,
            used: seconds(listed.used),
            created: listed.record.created_ns / 1_000_000_000,
            pinned: listed.pinned,
            plan: listed.record.plan.digest,
            fields: fields.map(|(l, v)| (l.to_owned(), v.to_owned())).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Damaged {
    entry: String,
    damage: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct ListReport {
    folder: PathBuf,
    limit: u64,
    bytes: u64,
    entries: Vec<Entry>,
    damaged: Vec<Damaged>,
}

impl Report for ListReport {
    const SCHEMA: &'static str = "trtmut.cache-list/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.entries.is_empty() {
            let mut table = Table::new(&[
                ("key", Align::Left),
                ("size", Align::Right),
                ("used", Align::Right),
                ("built", Align::Right),
                ("library", Align::Left),
                ("", Align::Left),
            ]);
            for e in &self.entries {
                table.row([
                    short(&e.key).to_owned(),
                    ui::bytes(e.bytes),
                    ago(e.used),
                    ago(e.created),
                    e.fields.get("library").cloned().unwrap_or_default(),
                    if e.pinned { "pinned" } else { "" }.into(),
                ]);
            }
            table.write(out, 0)?;
        }
        for d in &self.damaged {
            writeln!(out, "{}  damaged: {}", d.entry, d.damage)?;
        }
        writeln!(
            out,
            "{} of {} in {}",
            ui::bytes(self.bytes),
            ui::bytes(self.limit),
            self.folder.display()
        )
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct InfoReport(Entry);

impl Report for InfoReport {
    const SCHEMA: &'static str = "trtmut.cache-info/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let e = &self.0;
        let pinned = if e.pinned { ", pinned" } else { "" };
        writeln!(out, "{}\n  {}{pinned}", e.key, ui::bytes(e.bytes))?;
        writeln!(out, "  used {}, built {}", ago(e.used), ago(e.created))?;
        writeln!(out, "  plan {}\n", e.plan)?;
        for (label, value) in &e.fields {
            writeln!(out, "  {label}: {value}")?;
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct VerifyOutcome {
    whole: usize,
    bytes: u64,
    damaged: Vec<Damaged>,
    quarantined: Vec<PathBuf>,
    faults: Vec<String>,
    swept: usize,
}

impl Report for VerifyOutcome {
    const SCHEMA: &'static str = "trtmut.cache-verify/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        for d in &self.damaged {
            writeln!(out, "{}  damaged: {}", d.entry, d.damage)?;
        }
        for fault in &self.faults {
            writeln!(out, "unreadable: {fault}")?;
        }
        for path in &self.quarantined {
            writeln!(out, "moved to {}", path.display())?;
        }
        writeln!(
            out,
            "{} whole, {} damaged; {} read",
            self.whole,
            self.damaged.len(),
            ui::bytes(self.bytes)
        )
    }
}

#[derive(Debug, Serialize)]
struct RemovedItem {
    kind: &'static str,
    name: String,
    bytes: u64,
    used: u64,
}

#[derive(Debug, Serialize)]
struct PruneOutcome {
    dry_run: bool,
    removed: Vec<RemovedItem>,
    bytes_before: u64,
    bytes_after: u64,
    in_use: Vec<String>,
    pinned: Vec<String>,
    swept: usize,
}

impl PruneOutcome {
    fn new(report: PruneReport, dry_run: bool) -> PruneOutcome {
        let removed = report.removed.into_iter().map(|r| RemovedItem {
            kind: match r.kind {
                Kind::Quarantine => "quarantine",
                Kind::Engine => "engine",
                Kind::Timing => "timing",
                Kind::Runtime => "runtime",
            },
            name: r.name,
            bytes: r.bytes,
            used: seconds(r.used),
        });
        PruneOutcome {
            dry_run,
            removed: removed.collect(),
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
            in_use: report.in_use,
            pinned: report.pinned,
            swept: report.swept,
        }
    }
}

impl Report for PruneOutcome {
    const SCHEMA: &'static str = "trtmut.cache-prune/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let verb = if self.dry_run {
            "would remove"
        } else {
            "removed"
        };
        for r in &self.removed {
            let (name, size) = (short(&r.name), ui::bytes(r.bytes));
            writeln!(
                out,
                "{verb} {} {name}, {size}, used {}",
                r.kind,
                ago(r.used)
            )?;
        }
        for (keys, why) in [(&self.in_use, "in use"), (&self.pinned, "pinned")] {
            for key in keys {
                writeln!(out, "kept {}: {why}", short(key))?;
            }
        }
        let (before, after) = (ui::bytes(self.bytes_before), ui::bytes(self.bytes_after));
        writeln!(out, "{before} before, {after} after")
    }
}

#[derive(Debug, Serialize)]
struct PinReport {
    key: String,
    pinned: bool,
    changed: bool,
}

impl Report for PinReport {
    const SCHEMA: &'static str = "trtmut.cache-pin/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let state = if self.pinned { "pinned" } else { "not pinned" };
        let already = if self.changed { "" } else { " already" };
        writeln!(out, "{} is{already} {state}", short(&self.key))
    }
}

#[derive(Debug, Serialize)]
struct NearEntry {
    entry: Entry,
    differences: Vec<Difference>,
}

#[derive(Debug, Serialize)]
struct ExplainReport {
    key: String,
    hit: bool,
    fields: BTreeMap<String, String>,
    nearest: Vec<NearEntry>,
}

impl Report for ExplainReport {
    const SCHEMA: &'static str = "trtmut.cache-explain/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let key = short(&self.key);
        if self.hit {
            return writeln!(
                out,
                "hit: the engine {key} is there; it is copied, or refitted where the weights differ"
            );
        }
        writeln!(out, "miss: there is no engine {key}")?;
        for near in &self.nearest {
            writeln!(out, "\n{} differs in", short(&near.entry.key))?;
            for d in &near.differences {
                let show = |v: &Option<String>| v.clone().unwrap_or_else(|| "nothing".into());
                writeln!(out, "  {}", d.label)?;
                writeln!(out, "    wanted  {}", show(&d.wanted))?;
                writeln!(out, "    there   {}", show(&d.found))?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct DirReport {
    folder: PathBuf,
}

impl Report for DirReport {
    const SCHEMA: &'static str = "trtmut.cache-dir/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.folder.display())
    }
}

/// The entry that `text` means: the beginning of its key, or a plan that it holds.
fn find(store: &Store, text: &str) -> anyhow::Result<Key> {
    let path = Path::new(text);
    if !path.is_file() {
        return Ok(store.resolve(text)?);
    }
    let digest = Digest::of(&fsx::Map::open(path)?);
    let found = store.find_plan(&digest)?;
    let unknown = || CacheFault::UnknownKey { text: text.into() };
    Ok(found.ok_or_else(unknown)?.key)
}

/// Runs the command.
///
/// # Errors
/// Anything that `commands::explain` knows.
pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    if let What::Dir = args.what {
        let folder = args.folder.folder(environment)?;
        ui.result(&DirReport { folder })?;
        return Ok(Exit::Done);
    }
    let store = args.folder.open(environment)?;
    match &args.what {
        What::Dir => {}
        What::List { sort } => list(&store, *sort, ui)?,
        What::Info { entry } => {
            let listed = store.info(&find(&store, entry)?)?;
            ui.result(&InfoReport(Entry::from(&listed)))?;
        }
        What::Verify { repair } => return verify(&store, *repair, ui),
        What::Prune {
            to,
            older_than,
            dry_run,
        } => {
            let prune = Prune {
                to: to.as_deref().map(parse_size).transpose()?,
                older_than: older_than.as_deref().map(parse_age).transpose()?,
                dry_run: *dry_run,
            };
            ui.result(&PruneOutcome::new(store.prune(prune)?, *dry_run))?;
        }
        What::Pin { entry } => pin(&store, entry, true, ui)?,
        What::Unpin { entry } => pin(&store, entry, false, ui)?,
        What::Clear { yes } => {
            if !yes {
                return Err(UsageError::new(
                    format!("everything in `{}` would be removed", store.dir().display()),
                    "say --yes",
                )
                .into());
            }
            ui.result(&PruneOutcome::new(store.clear()?, false))?;
        }
        What::Explain(asked) => explain(&store, asked, ui, environment)?,
    }
    Ok(Exit::Done)
}

fn list(store: &Store, sort: Sort, ui: &Ui) -> anyhow::Result<()> {
    let mut listing = store.list()?;
    for fault in &listing.faults {
        ui.event(Event::Warn(&fault.to_string()));
    }
    let bytes = listing.total_bytes();
    // They come least recently used first, and the sorts are stable.
    listing.entries.reverse();
    match sort {
        Sort::Used => {}
        Sort::Size => listing.entries.sort_by_key(|e| std::cmp::Reverse(e.bytes)),
        Sort::Age => {
            let newest = |e: &Listed| std::cmp::Reverse(e.record.created_ns);
            listing.entries.sort_by_key(newest);
        }
    }
    ui.result(&ListReport {
        folder: store.dir().to_owned(),
        limit: store.limit(),
        bytes,
        entries: listing.entries.iter().map(Entry::from).collect(),
        damaged: damaged(listing.broken),
    })?;
    Ok(())
}

fn damaged(broken: Vec<crate::cache::Broken>) -> Vec<Damaged> {
    let all = broken.into_iter().map(|b| Damaged {
        entry: b.entry,
        damage: b.damage.to_string(),
        bytes: b.bytes,
    });
    all.collect()
}

fn verify(store: &Store, repair: bool, ui: &Ui) -> anyhow::Result<Exit> {
    let report = store.verify(repair, ui)?;
    let clean = report.is_clean();
    ui.result(&VerifyOutcome {
        whole: report.whole,
        bytes: report.bytes,
        damaged: damaged(report.broken),
        quarantined: report.quarantined,
        faults: report.faults.iter().map(ToString::to_string).collect(),
        swept: report.swept,
    })?;
    Ok(if clean { Exit::Done } else { Exit::Environment })
}

fn pin(store: &Store, entry: &str, pinned: bool, ui: &Ui) -> anyhow::Result<()> {
    let key = find(store, entry)?;
    let done = if pinned {
        store.pin(&key)?
    } else {
        store.unpin(&key)?
    };
    ui.result(&PinReport {
        key: key.to_string(),
        pinned,
        changed: done == Pinned::Changed,
    })?;
    Ok(())
}

fn explain(
    store: &Store,
    asked: &ExplainArgs,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<()> {
    let model = Model::open(&asked.model)?;
    let spec = read_spec(asked.shapes.as_deref())?;
    let resolved = spec.resolve(model.inputs(), &asked.ranges.overrides()?)?;
    let settings = asked.engine.settings(None);
    let backend = pipeline::choose(asked.backend, &model, &settings, environment, ui)?;
    let fields = pipeline::key_fields(
        &model,
        &resolved.profile(),
        &asked.engine.options(),
        &backend.identity(),
        Some(&store.memo().rehash(asked.rehash)),
        ui,
    );
    let found = store.explain(&fields)?;
    let nearest = found.nearest.into_iter().map(|n| NearEntry {
        entry: Entry::from(&n.entry),
        differences: n.differences,
    });
    ui.result(&ExplainReport {
        key: found.key.to_string(),
        hit: found.hit.is_some(),
        fields: fields
            .iter()
            .map(|(l, v)| (l.to_owned(), v.to_owned()))
            .collect(),
        nearest: nearest.collect(),
    })?;
    Ok(())
}
