//! `trtmut doctor`: what is on this machine, and what each backend can do with it.

use crate::cache::Store;
use crate::engine::Backend;
use crate::engine::cpu::Cpu;
use crate::engine::tensorrt::{Facts, OWN_HEADERS, Survey, Tried, doctor};
use crate::exit::Exit;
use crate::fsx;
use crate::pipeline::{self, Environment, VARIABLES};
use crate::ui::{self, Align, Report, Screen, Table, Ui};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `trtmut doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Libraries are looked for, in this order: --tensorrt or TRTMUT_TENSORRT, which then is the only place; the loader's \
    path; python3's packages; the system's folders. ORT_DYLIB_PATH names the onnxruntime library. TRTMUT_ASSUME_TENSORRT=11.4 calls a TensorRT that is \
    newer than every known release as that one is called."
)]
pub struct Args {
    /// Also list every place that was tried in vain
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct DoctorReport {
    version: &'static str,
    /// Whether this build has each part that one may leave out.
    features: BTreeMap<&'static str, bool>,
    cpu: String,
    onnxruntime: Runtime,
    #[serde(flatten)]
    tensorrt: Survey,
    cache: Cache,
    current: Current,
    /// Variables that are set, in the order of docs/environment.md; secrets have no value here.
    environment: Vec<Set>,
    #[serde(skip)]
    all: bool,
}

/// The parts that a build may leave out; their names are those of the features in Cargo.toml.
const FEATURES: [(&str, bool); 4] = [
    ("embedded", cfg!(feature = "embedded")),
    ("onnxruntime", cfg!(feature = "onnxruntime")),
    ("remote", cfg!(feature = "remote")),
    ("tensorrt", cfg!(feature = "tensorrt")),
];

/// An environment variable that is set.
#[derive(Debug, Serialize)]
struct Set {
    name: &'static str,
    value: String,
}

/// The engine cache, in bytes.
#[derive(Debug, Default, Serialize)]
struct Cache {
    folder: Option<PathBuf>,
    bytes: u64,
    limit: Option<u64>,
    entries: usize,
    free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The folder that outputs go to unless another is named.
#[derive(Debug, Serialize)]
struct Current {
    folder: PathBuf,
    free: Option<u64>,
}

fn free(folder: &Path) -> Option<u64> {
    fsx::disk(folder).ok().map(|disk| disk.free)
}

impl Cache {
    /// Looks at it without making anything.
    fn look(environment: &Environment) -> Cache {
        let Some(folder) = environment.cache_folder(None) else {
            let problem = Some("neither TRTMUT_CACHE_DIR nor HOME is set".into());
            return Cache {
                problem,
                ..Cache::default()
            };
        };
        let mut cache = Cache {
            free: free(&folder),
            ..Cache::default()
        };
        let looked = environment.cache_limit(&folder, None).and_then(|limit| {
            cache.limit = Some(limit);
            // Opening a store makes its folder, and a look shall leave no trace.
            if folder.exists() {
                let listing = Store::open(&folder, limit)?.list()?;
                cache.bytes = listing.total_bytes();
                cache.entries = listing.entries.len();
            }
            Ok(())
        });
        cache.problem = looked.err().map(|e| format!("{:#}", anyhow::Error::new(e)));
        cache.folder = Some(folder);
        cache
    }

    fn shown(&self) -> String {
        let free = self
            .free
            .map_or(String::new(), |n| format!("; {} free there", ui::bytes(n)));
        let folder = self.folder.as_deref().unwrap_or("".as_ref()).display();
        match &self.problem {
            Some(why) => format!("cannot be used: {why}"),
            None => format!(
                "{} of {}, {} ({folder}){free}",
                ui::bytes(self.bytes),
                ui::bytes(self.limit.unwrap_or(0)),
                ui::count(self.entries, "engine"),
            ),
        }
    }
}

#[derive(Debug, Serialize)]
struct Runtime {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn of_gpu(gpu: &Facts) -> String {
    format!(
        "{}, compute capability {}, {}",
        gpu.name,
        gpu.capability(),
        ui::bytes(gpu.memory)
    )
}

impl Report for DoctorReport {
    const SCHEMA: &'static str = "trtmut.doctor/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        self.machine().write(out, 0)?;
        self.variables(out)?;
        if self.all {
            writeln!(out)?;
            writeln!(out, "tried in vain:")?;
            let mut table = Table::list(&[Align::Left]);
            for tried in &self.tensorrt.tried {
                table.row([format!("{}: {}", tried.place, tried.reason)]);
            }
            table.write(out, 2)?;
        }
        Ok(())
    }
}

/// Variables of everybody's shell, which are shown with `--all` only.
const USUAL: [&str; 4] = ["HOME", "PATH", "TERM", "COLUMNS"];

impl DoctorReport {
    /// What is here, label by label.
    fn machine(&self) -> Table {
        let mut table = Table::list(&[Align::Left, Align::Left]);
        let mut row = |label: &str, text: String| table.row([label.to_owned(), text]);
        row("trtmut", self.version.to_owned());
        for (name, _) in self.features.iter().filter(|(_, built)| !**built) {
            row("", format!("built without the feature `{name}`"));
        }
        row(
            "GPU",
            match (&self.tensorrt.gpu, &self.tensorrt.gpu_problem) {
                (Some(gpu), _) => {
                    format!("{}; driver {}, CUDA {}", of_gpu(gpu), gpu.driver, gpu.cuda)
                }
                (None, why) => format!("none: {}", why.as_deref().unwrap_or("not looked for")),
            },
        );
        for (i, gpu) in self.tensorrt.gpus.iter().enumerate() {
            row("", format!("--device {i}: {}", of_gpu(gpu)));
        }
        let computes = cfg!(feature = "embedded");
        let can = if computes {
            "build, refit, run"
        } else {
            "refit"
        };
        row("cpu", format!("{}: {can}", self.cpu));
        let runtime = &self.onnxruntime;
        row(
            "onnxruntime",
            match (&runtime.version, &runtime.problem) {
                (Some(version), _) => format!(
                    "{version}: build, refit, run ({})",
                    runtime.path.as_deref().unwrap_or("".as_ref()).display()
                ),
                (None, why) => why.clone().unwrap_or_else(|| "not found".into()),
            },
        );
        if self.tensorrt.libraries.is_empty() {
            row("TensorRT", "not found".into());
        }
        for library in &self.tensorrt.libraries {
            row(
                library.product.title(),
                format!("{} ({})", library.version, library.path.display()),
            );
            if library.known_by != OWN_HEADERS {
                row("", format!("known by {}", library.known_by));
            }
            for ability in &library.can {
                let word = ability
                    .problem
                    .as_deref()
                    .map_or("yes".into(), |p| format!("no: {p}"));
                row("", format!("{:<23} {word}", ability.what));
            }
        }
        // What is there and cannot be used is worth knowing without being asked for.
        let there = |t: &&Tried| Path::new(&t.place).exists();
        for tried in self.tensorrt.tried.iter().filter(there) {
            row("unusable", format!("{}: {}", tried.place, tried.reason));
        }
        row("cache", self.cache.shown());
        if let Some(free) = self.current.free {
            row("this folder", format!("{} free", ui::bytes(free)));
        }
        table
    }

    fn variables(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let mut table = Table::list(&[Align::Left, Align::Left]);
        let mut rows = 0;
        for variable in VARIABLES {
            let set = self.environment.iter().find(|s| s.name == variable.name);
            let shown = match set {
                Some(set) if self.all || !USUAL.contains(&set.name) => set.value.clone(),
                None if self.all => "not set".into(),
                _ => continue,
            };
            rows += 1;
            table.row([variable.name.to_owned(), shown]);
        }
        if rows == 0 {
            return Ok(());
        }
        writeln!(out, "environment")?;
        table.write(out, 2)
    }
}

/// Runs the command.
///
/// # Errors
/// Only where stdout cannot be written.
pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    // What is missing is what the command is asked for, so nothing of it is an error.
    let onnxruntime = match pipeline::onnxruntime(environment) {
        Ok(found) => Runtime {
            version: Some(found.version().to_owned()),
            path: Some(found.library().to_owned()),
            problem: None,
        },
        Err(e) => Runtime {
            version: None,
            path: None,
            problem: Some(e.to_string()),
        },
    };
    ui.result(&DoctorReport {
        version: env!("CARGO_PKG_VERSION"),
        features: FEATURES.into(),
        cpu: Cpu.identity().library,
        onnxruntime,
        tensorrt: doctor::look(&pipeline::search(environment)),
        cache: Cache::look(environment),
        current: Current {
            free: free(Path::new(".")),
            folder: std::env::current_dir().unwrap_or_default(),
        },
        environment: (VARIABLES.iter())
            .filter_map(|variable| {
                Some(Set {
                    name: variable.name,
                    value: variable.shown()?,
                })
            })
            .collect(),
        all: args.all,
    })?;
    Ok(Exit::Done)
}
