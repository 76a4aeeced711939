//! `trtmut build`: compile an ONNX model into a plan.

use super::UsageError;
use super::cache::{CacheFolder, RemoteArgs};
use super::tables;
use super::wanted::WantedArgs;
use crate::cache::{self, Check};
use crate::engine::{Backend, Identity, Options};
use crate::exit::Exit;
use crate::fsx;
use crate::mapping::Proof;
use crate::onnx::Model;
use crate::pipeline::{self, BuildRequest, CacheRequest, CacheUse, Environment};
use crate::plan;
use crate::shapes::{self, Profile};
use crate::tensor::{Digest, TensorDecl};
use crate::ui::{self, Align, Report, Screen, Table, Ui};
use crate::watch::{Event, Watch};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `trtmut build`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    trtmut build unet.onnx --shapes shapes.json\n  \
    trtmut build unet.onnx --print-shapes > shapes.json\n  \
    trtmut build clip.onnx --shapes clip.json --dim BATCH=1:2:8 -o clip.plan")]
pub struct Args {
    /// Where the plan goes; its manifest goes beside it, as PLAN.json
    #[arg(short, long, value_name = "PLAN", default_value = "engine.plan", value_parser = crate::commands::plan_path())]
    output: PathBuf,

    /// Overwrite a plan of another model, or a file that is no plan
    #[arg(short, long)]
    force: bool,

    /// Threads for hashing and compiling (default: all cores)
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    /// Print a shape spec to fill in for this model, and stop
    #[arg(long, help_heading = "Shapes")]
    print_shapes: bool,

    #[command(flatten)]
    wanted: WantedArgs,

    #[command(flatten)]
    cache: CacheArgs,
}

/// How the engine cache is used.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Cache")]
pub(super) struct CacheArgs {
    /// Compile, whatever the cache has, and store nothing
    #[arg(long, conflicts_with_all = ["remote", "push"])]
    no_cache: bool,

    #[command(flatten)]
    folder: CacheFolder,

    /// Do not read a cached plan to check its digest
    #[arg(long)]
    trust_cache: bool,

    /// Read all weights, though the files are as they were when they were last read
    #[arg(long)]
    pub(super) rehash: bool,

    #[command(flatten)]
    remote: RemoteArgs,

    /// Give the remote cache the engine, where it has none
    #[arg(long)]
    push: bool,
}

impl CacheArgs {
    /// The cache, unless it is not to be used, or cannot be. For the CPU backends it has to be asked for.
    pub(super) fn request(
        &self,
        backend: &dyn Backend,
        environment: &Environment,
        watch: &dyn Watch,
    ) -> anyhow::Result<Option<CacheRequest>> {
        let asked = self.folder.cache_dir.is_some()
            || environment.cache_dir.is_some()
            || self.remote.remote.is_some()
            || self.push;
        if self.no_cache || !(asked || pipeline::worth_caching(&backend.identity())) {
            return Ok(None);
        }
        // Before the remote cache is asked: a wrong size is the command line's fault, and opening
        // the folder only warns.
        if let Some(size) = &self.folder.cache_size {
            cache::parse_size(size)?;
        }
        let remote = match self.remote.open(environment) {
            // What the command line says wrong is an error; what the environment says, a warning.
            Err(e) if self.remote.remote.is_some() => return Err(e),
            Err(e) => {
                watch.event(Event::Warn(&format!("the remote cache is not used: {e:#}")));
                None
            }
            Ok(None) if self.push => {
                return Err(UsageError::new(
                    "--push needs a remote cache",
                    "name one with --remote or TRTMUT_CACHE_REMOTE",
                )
                .into());
            }
            Ok(remote) => remote,
        };
        match self.folder.open(environment) {
            Ok(store) => Ok(Some(CacheRequest {
                memo: store.memo().rehash(self.rehash),
                store,
                remote,
                push: self.push,
                check: if self.trust_cache {
                    Check::Trust
                } else {
                    Check::Full
                },
            })),
            // A cache only saves time: one that cannot be used stops no build.
            Err(e) => {
                watch.event(Event::Warn(&format!("the cache is not used: {e:#}")));
                Ok(None)
            }
        }
    }
}

/// An argument of the form `NAME=VALUE`; neither side may be empty.
pub(super) fn name_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("write it as NAME=VALUE".into()),
    }
}

/// What a build did.
#[derive(Debug, Serialize)]
struct BuildReport {
    plan: PathBuf,
    manifest: PathBuf,
    bytes: u64,
    digest: Digest,
    backend: Identity,
    structure: Digest,
    profile: Profile,
    options: Options,
    inputs: Vec<TensorDecl>,
    outputs: Vec<TensorDecl>,
    weights: Counts,
    /// What the base weights prove; absent where none were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    notes: Vec<String>,
    cache: CacheUse,
    compile_ns: u64,
    /// The whole command: reading, hashing and proving as well.
    total_ns: u64,
}

#[derive(Debug, Serialize)]
struct Counts {
    total: usize,
    refittable: usize,
    bytes: u64,
}

impl Report for BuildReport {
    const SCHEMA: &'static str = "trtmut.build/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        writeln!(
            out,
            "built {} ({}, {}) in {}",
            ui::path(&self.plan),
            ui::bytes(self.bytes),
            self.backend.library,
            ui::duration(Duration::from_nanos(self.total_ns))
        )?;
        let mut table = Table::list(&[Align::Left, Align::Left]);
        let mut row = |label: &str, text: String| table.row([label.to_owned(), text]);
        row(
            "weights",
            format!(
                "{}, {} refittable, {}",
                self.weights.total,
                self.weights.refittable,
                ui::bytes(self.weights.bytes)
            ),
        );
        if let Some(proof) = &self.proof {
            row("base", proven(proof));
            if proof.probed > 0 {
                let rest = match proof.parameters.saturating_sub(proof.probed) {
                    0 => "all parameters".to_owned(),
                    n => format!("{} parameters, not {n}", proof.probed),
                };
                row("probe", format!("proves {rest}"));
            }
        }
        row("manifest", self.manifest.display().to_string());
        let cache = match self.cache {
            CacheUse::Off => "off",
            CacheUse::Miss => "miss",
            CacheUse::Hit => "hit",
            CacheUse::Refitted => "refitted",
        };
        row("cache", cache.into());
        for note in &self.notes {
            row("note", note.clone());
        }
        table.write(out, 2)?;
        writeln!(out)?;
        tables::write_ranges(out, &self.profile)
    }
}

pub fn run(args: &Args, ui: &Ui, environment: &Environment) -> anyhow::Result<Exit> {
    let start = Instant::now();
    pipeline::limit_threads(args.threads.map(usize::from));
    let wanted = &args.wanted;
    let model = Model::open(&wanted.model)?;
    // Before the spec is read: who asks for a template has none yet.
    if args.print_shapes {
        ui.text(&shapes::template(model.inputs()))?;
        return Ok(Exit::Done);
    }
    let resolved = wanted.resolve(&model)?;
    for warning in resolved.warnings() {
        ui.event(Event::Warn(warning));
    }
    let (inputs, probe) = (wanted.inputs(&model), wanted.probe());
    let manifest = plan::manifest_path(&args.output);
    let outputs = [&args.output, &manifest].into_iter();
    fsx::claim_apart(outputs.chain(wanted.engine.timing_cache()))?;
    wanted.engine.claim(&inputs)?;
    // Claimed before a library is loaded, which takes seconds, and before the lock, which may be
    // waited for.
    // What it would say is left to the build, which claims once more under the lock.
    plan::claim(&args.output, &inputs, None, args.force)?;
    let _alone = super::lock_plan(&args.output, ui);
    let options = pipeline::with_plugins(wanted.engine.options(), environment)?;
    let settings = wanted.engine.settings(args.threads.map(usize::from));
    // After everything that can be wrong with the files: starting a library takes seconds.
    let mut backend = pipeline::choose(wanted.backend, &model, &settings, environment, ui)?;
    let cache = args.cache.request(backend.as_ref(), environment, ui)?;
    if let Some(cache) = &cache {
        pipeline::keep_timings(backend.as_mut(), &cache.store);
    }
    let built = pipeline::build_cached(
        &BuildRequest {
            model: &model,
            model_path: &wanted.model,
            shapes: &resolved,
            mapping: wanted.mapping(probe.as_ref()),
            options: &options,
            backend: backend.as_ref(),
            output: &args.output,
            force: args.force,
        },
        cache.as_ref(),
        environment,
        ui,
    )?;
    let m = built.manifest;
    let proof = m.proof();
    let report = BuildReport {
        plan: args.output.clone(),
        manifest: plan::manifest_path(&args.output),
        bytes: m.plan.bytes,
        digest: m.plan.digest,
        backend: m.backend,
        structure: m.model.structure,
        profile: m.profile,
        options: m.options,
        inputs: m.inputs,
        outputs: m.outputs,
        proof,
        weights: Counts {
            total: m.weights.len(),
            refittable: m.weights.iter().filter(|w| w.fixed.is_none()).count(),
            bytes: model.weights().iter().map(|w| w.byte_length() as u64).sum(),
        },
        notes: m.notes,
        cache: built.cache,
        compile_ns: built.compile.as_nanos() as u64,
        total_ns: start.elapsed().as_nanos() as u64,
    };
    ui.result(&report)?;
    Ok(Exit::Done)
}

fn proven(proof: &Proof) -> String {
    let of = format!(
        "{} of {} proven",
        proof.proven,
        ui::count(proof.parameters, "parameter")
    );
    match &proof.unsourced[..] {
        [] => format!("{of}, every constant explained"),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            format!(
                "{of}; nothing explains `{first}`{more}: a refit stops where a changed tensor may be in it"
            )
        }
    }
}
