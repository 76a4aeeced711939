//! `trtmut doctor`: what is on this machine, and what each backend can do with it.

use crate::cache::Store;
use crate::engine::Backend;
use crate::engine::cpu::Cpu;
use crate::engine::tensorrt::doctor::{OWN_HEADERS, Survey, look};
use crate::engine::tensorrt::loader::Tried;
use crate::exit::Exit;
use crate::fsx;
use crate::pipeline::{self, Environment};
use crate::ui::{self, Report, Ui};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Arguments of `trtmut doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Libraries are looked for, in this order: --tensorrt or TRTMUT_TENSORRT; python3's packages; the loader's \
    path; the system's folders. ORT_DYLIB_PATH names the onnxruntime library. TRTMUT_ASSUME_TENSORRT=11.4 calls a TensorRT that is \
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
    cpu: String,
    onnxruntime: Runtime,
    #[serde(flatten)]
    tensorrt: Survey,
    cache: Cache,
    current: Current,
    #[serde(skip)]
    all: bool,
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

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let free = self
            .free
            .map_or(String::new(), |n| format!("; {} free there", ui::bytes(n)));
        let folder = self.folder.as_deref().unwrap_or("".as_ref()).display();
        match (&self.problem, self.limit) {
            (Some(why), _) => writeln!(out, "cache        cannot be used: {why}"),
            (None, limit) => writeln!(
                out,
                "cache        {} of {}, {} engine{} ({folder}){free}",
                ui::bytes(self.bytes),
                ui::bytes(limit.unwrap_or(0)),
                self.entries,
                if self.entries == 1 { "" } else { "s" },
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

impl Report for DoctorReport {
    const SCHEMA: &'static str = "trtmut.doctor/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "trtmut       {}", self.version)?;
        match (&self.tensorrt.gpu, &self.tensorrt.gpu_problem) {
            (Some(gpu), _) => writeln!(
                out,
                "GPU          {}, compute capability {}.{}, {}; driver {}, CUDA {}",
                gpu.name,
                gpu.compute_capability.0,
                gpu.compute_capability.1,
                ui::bytes(gpu.memory),
                gpu.driver,
                gpu.cuda
            )?,
            (None, why) => writeln!(
                out,
                "GPU          none: {}",
                why.as_deref().unwrap_or("not looked for")
            )?,
        }
        writeln!(out, "cpu          {}: build, refit, run", self.cpu)?;
        match (&self.onnxruntime.version, &self.onnxruntime.problem) {
            (Some(version), _) => writeln!(
                out,
                "onnxruntime  {version}: build, refit, run ({})",
                self.onnxruntime
                    .path
                    .as_deref()
                    .unwrap_or("".as_ref())
                    .display()
            )?,
            (None, why) => writeln!(
                out,
                "onnxruntime  {}",
                why.as_deref().unwrap_or("not found")
            )?,
        }
        if self.tensorrt.libraries.is_empty() {
            writeln!(out, "TensorRT     not found")?;
        }
        for library in &self.tensorrt.libraries {
            writeln!(
                out,
                "{:<12} {} ({})",
                library.product.title(),
                library.version,
                library.path.display()
            )?;
            if library.known_by != OWN_HEADERS {
                writeln!(out, "  {:<23} {}", "known by", library.known_by)?;
            }
            for ability in &library.can {
                let word = ability
                    .problem
                    .as_deref()
                    .map_or("yes".into(), |p| format!("no: {p}"));
                writeln!(out, "  {:<23} {word}", ability.what)?;
            }
        }
        // What is there and cannot be used is worth knowing without being asked for.
        let there = |t: &&Tried| Path::new(&t.place).exists();
        for tried in self.tensorrt.tried.iter().filter(there) {
            writeln!(out, "{:<12} {}: {}", "unusable", tried.place, tried.reason)?;
        }
        self.cache.human(out)?;
        if let Some(free) = self.current.free {
            writeln!(out, "this folder  {} free", ui::bytes(free))?;
        }
        if self.all {
            writeln!(out, "\ntried in vain:")?;
            for tried in &self.tensorrt.tried {
                writeln!(out, "  {}: {}", tried.place, tried.reason)?;
            }
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// Only where stdout cannot be written.
pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
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
        cpu: Cpu.identity().library,
        onnxruntime,
        tensorrt: look(&pipeline::search(environment)),
        cache: Cache::look(environment),
        current: Current {
            free: free(Path::new(".")),
            folder: std::env::current_dir().unwrap_or_default(),
        },
        all: args.all,
    })?;
    Ok(Exit::Done)
}
