//! `trtmut cache`: see, check, clean and share the engine cache. Arguments are here, each group of commands has a file.

mod entries;
mod explain;
mod remote;
mod upkeep;

use super::UsageError;
use crate::cache::{CacheFault, Key, Prune, Store, parse_age, parse_size};
use crate::exit::Exit;
use crate::fsx;
use crate::pipeline::Environment;
use crate::tensor::Digest;
use crate::ui::{self, Report, Screen, Ui};
use entries::Sort;
use explain::ExplainArgs;
pub(super) use remote::RemoteArgs;
use remote::{PullArgs, PushArgs};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use upkeep::PruneOutcome;

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
    trtmut cache verify --repair\n  \
    trtmut cache push --remote s3://bucket/engines\n  \
    trtmut cache pull --remote s3://bucket/engines 3f9a0c")]
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
    /// Copy entries to the remote cache
    Push(PushArgs),
    /// Bring entries from the remote cache
    Pull(PullArgs),
    /// Print the cache folder
    Dir,
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

#[derive(Debug, Serialize)]
struct DirReport {
    folder: PathBuf,
}

impl Report for DirReport {
    const SCHEMA: &'static str = "trtmut.cache-dir/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        writeln!(out, "{}", ui::path(&self.folder))
    }
}

/// The entry that `text` means: the beginning of its key, or a plan that it holds.
fn find(store: &Store, text: &str) -> anyhow::Result<Key> {
    let path = Path::new(text);
    if !path.is_file() {
        return Ok(store.resolve(text)?);
    }
    // Of the bytes: the cache knows every plan so, also where its manifest goes by the digests of tensors.
    let digest = Digest::of(&fsx::Map::open(path)?);
    let found = store.find_plan(&digest)?;
    let unknown = || CacheFault::UnknownKey { text: text.into() };
    Ok(found.ok_or_else(unknown)?.key)
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    // Told without the folder being made.
    if let What::Dir = args.what {
        let folder = args.folder.folder(environment)?;
        ui.result(&DirReport { folder })?;
        return Ok(Exit::Done);
    }
    let store = args.folder.open(environment)?;
    match &args.what {
        What::Dir => {}
        What::List { sort } => entries::list(&store, *sort, ui)?,
        What::Info { entry } => {
            entries::info(&store, entry, ui)?;
        }
        What::Verify { repair } => return upkeep::verify(&store, *repair, ui),
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
        What::Pin { entry } => entries::pin(&store, entry, true, ui)?,
        What::Unpin { entry } => entries::pin(&store, entry, false, ui)?,
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
        What::Push(asked) => return remote::push(&store, asked, ui, environment),
        What::Pull(asked) => return remote::pull(&store, asked, ui, environment),
        What::Explain(asked) => explain::explain(&store, asked, ui, environment)?,
    }
    Ok(Exit::Done)
}
