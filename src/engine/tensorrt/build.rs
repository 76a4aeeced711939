//! From an ONNX file to a plan.

use super::api::{
    Builder, Config, Core, CudaEngine, Flag, Network, NetworkInput, NetworkTyping, ParseError,
    Parser, Record, Selector, Severity,
};
use super::by_parser::{self, Reach};
use super::folds::folds;
use super::gpu::Gpu;
use super::open::{default_threads, deserialize, no_gpu};
use super::options::{Choices, NOTHING_REDUCED, Refit};
use super::{Known, Product, Settings, list_slots, pinned};
use crate::engine::{BuildJob, BuildNotes, Error, Fold, Refusal, Slot};
use crate::fsx;
use crate::onnx::{Model, Role};
use crate::shapes::{Profile, ProfileInput};
use crate::tensor::{Dtype, element_count};
use crate::watch::{Event, Watch};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Compiles `job` and writes the plan to `out`. See [`Choices`] for the options.
pub(super) fn build(
    core: &Arc<Core>,
    gpu: Result<&Gpu, &str>,
    settings: &Settings,
    plugins: &[PathBuf],
    job: &BuildJob<'_>,
    out: &mut dyn Write,
    watch: &dyn Watch,
) -> Result<BuildNotes, Error> {
    let loaded = core.loaded();
    let mut choices = Choices::parse(loaded.product, core.version(), loaded.release, job.options)?;
    if choices.compute_capabilities.is_none() && loaded.product == Product::Rtx {
        choices.compute_capabilities = Some(vec![own_capability(gpu)?]);
    }
    require_gpu(core, gpu, &choices)?;
    let path = job.model.path().ok_or_else(|| Error::Option {
        backend: loaded.product.backend().into(),
        option: "model".into(),
        reason: "it parses ONNX files, and this model is not one".into(),
    })?;
    drop(core.take_messages());
    loaded.preload_builder_resources(gpu.ok().map(|g| g.facts().compute_capability));

    let mut notes = Vec::new();
    let builder = Builder::new(core)?;
    // The library's own default is one thread.
    builder.set_max_threads(settings.threads.unwrap_or_else(default_threads))?;
    let network = builder.network(match choices.weak {
        Some(_) => NetworkTyping::Weak,
        None => NetworkTyping::Strong,
    })?;
    let parser = Parser::new(&network)?;
    watch.event(Event::Begin {
        step: "parsing the model",
        total: None,
    });
    let records = parser
        .parse_file(path)?
        .map_err(|errors| refused(loaded.product, job.model, errors))?;
    watch.event(Event::End);
    tell(core, watch);

    let config = builder.config()?;
    set_precision(&network, &config, &choices, job.model, &mut notes)?;
    set_limits(&config, &choices)?;
    if choices.serialize_plugins {
        config.serialize_plugins(plugins)?;
    }
    set_profiles(&builder, &config, &network.inputs()?, job.profile)?;
    // Marks are taken after parsing, which makes the names, and before the build.
    if choices.refit == Refit::Individual {
        mark(&network, job, &mut notes)?;
    }
    let timings = Timings::of(&config, settings, watch);
    // What was said of a timing cache that is not taken is no reason for a failure of the build.
    drop(core.take_messages());

    let records = records.unwrap_or_default();
    let fixed = || -> Result<Listed, Error> { Ok(Listed::of(of_model(job.model, |_| Ok(false))?)) };
    // A refittable plan is opened for the list of its weights, so it has to be whole in memory.
    let listed = if choices.keeps_refit() || !builder.can_stream() {
        let plan = builder.build(&network, &config, watch)?;
        tell(core, watch);
        out.write_all(plan.bytes())?;
        match gpu {
            Ok(gpu) if choices.keeps_refit() => {
                // What the library made a moment ago may bring its own code.
                let opened = deserialize(core, gpu, plan.bytes(), choices.version_compatible);
                listed(opened, &network, job.model, &records, &mut notes)?
            }
            _ => fixed()?,
        }
    } else {
        builder.build_to(&network, &config, out, watch)?;
        tell(core, watch);
        fixed()?
    };
    timings.keep(watch);
    Ok(BuildNotes {
        notes,
        slots: listed.slots,
        folds: listed.folds,
        by_parser: listed.reach.weights,
        stripped: choices.strip,
    })
}

/// TensorRT measures on the GPU that it builds for; TensorRT-RTX needs one only to say what of the engine can be refitted.
fn require_gpu(core: &Core, gpu: Result<&Gpu, &str>, choices: &Choices) -> Result<(), Error> {
    let loaded = core.loaded();
    match gpu {
        Ok(gpu) => {
            gpu.context().map_err(super::gpu::cuda)?;
            Ok(())
        }
        Err(reason) if loaded.product == Product::TensorRt => {
            Err(no_gpu(loaded, "building", reason))
        }
        Err(reason) if choices.keeps_refit() => Err(Error::Unavailable {
            backend: loaded.product.backend().into(),
            reason: format!(
                "building a refittable engine with {} needs a CUDA device, and {reason}",
                loaded.title()
            ),
            hints: vec!["pass `--refit none`, or build where there is a GPU".into()],
        }),
        Err(_) => Ok(()),
    }
}

/// What layers may compute in, and what stays in f32.
fn set_precision(
    network: &Network,
    config: &Config,
    choices: &Choices,
    model: &Model,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    if set_flags(config, choices, model, notes)? == Reduced::Allowed {
        let pinned = pinned::pin(network, model, &choices.f32_layers)?;
        if pinned > 0 {
            config.set(Flag::PreferPrecisionConstraints, true)?;
            notes.push(format!("{pinned} layers stay in f32"));
        }
    } else if !choices.f32_layers.is_empty() && !choices.converted {
        // TensorRT 8 looks at the model's tensors, and none of them is shorter.
        return Err(Error::Option {
            backend: network.core().loaded().product.backend().into(),
            option: "f32-layers".into(),
            reason: NOTHING_REDUCED.into(),
        });
    }
    Ok(())
}

/// Compute capability × 10 of the GPU here, for TensorRT-RTX.
fn own_capability(gpu: Result<&Gpu, &str>) -> Result<u32, Error> {
    let refuse = |reason: String| Error::Option {
        backend: Product::Rtx.backend().into(),
        option: "compute-capability".into(),
        reason: format!("{reason}; say which GPUs to compile for, e.g. `--compute-capability 8.9`"),
    };
    let (major, minor) = gpu
        .map_err(|reason| refuse(format!("it is needed here, because {reason}")))?
        .facts()
        .compute_capability;
    let own = major * 10 + minor;
    match own {
        75 | 80 | 86 | 89 | 120 | 121 => Ok(own),
        _ => Err(refuse(format!(
            "TensorRT-RTX does not compile for this GPU's {major}.{minor}"
        ))),
    }
}

/// What the parser could not do, with names from the model where this version of the parser gives none.
pub(super) fn refused(product: Product, model: &Model, errors: Vec<ParseError>) -> Error {
    let nodes = &model.proto().graph.node;
    let refusals = errors
        .into_iter()
        .map(|e| {
            let node = usize::try_from(e.node).ok().and_then(|i| nodes.get(i));
            let name = e.name.or_else(|| {
                let node = node?;
                Some(node.name.clone())
                    .filter(|n| !n.is_empty())
                    .or_else(|| node.output.first().cloned())
            });
            let operator = e.operator.or_else(|| {
                let node = node?;
                Some(match node.domain.as_str() {
                    "" | "ai.onnx" => node.op_type.clone(),
                    domain => format!("{domain}::{}", node.op_type),
                })
            });
            Refusal {
                node: name.unwrap_or_else(|| "(whole model)".into()),
                operator: operator.unwrap_or_else(|| "the parser".into()),
                reason: e.reason,
            }
        })
        .collect();
    Error::Refused {
        backend: product.backend().into(),
        refusals,
    }
}

/// Passes warnings on; they are many and mostly about speed, so only who asks for details sees them.
fn tell(core: &Core, watch: &dyn Watch) {
    for message in core.take_messages() {
        if message.severity <= Severity::Warning {
            watch.event(Event::Note(&message.text));
        }
    }
}

/// Whether layers may compute in less than f32.
#[derive(PartialEq, Eq)]
enum Reduced {
    Allowed,
    No,
}

fn set_flags(
    config: &Config,
    choices: &Choices,
    model: &Model,
    notes: &mut Vec<String>,
) -> Result<Reduced, Error> {
    // TensorRT allows it where nothing is said.
    config.set(Flag::Tf32, choices.tf32)?;
    match choices.refit {
        Refit::Full => config.set(Flag::Refit, true)?,
        Refit::Identical => config.set(Flag::RefitIdentical, true)?,
        Refit::Individual => config.set(Flag::RefitIndividual, true)?,
        Refit::None => {}
    }
    for (on, flag) in [
        (choices.strip, Flag::StripPlan),
        (choices.sparsity, Flag::SparseWeights),
        (choices.version_compatible, Flag::VersionCompatible),
        (choices.weight_streaming, Flag::WeightStreaming),
    ] {
        if on {
            config.set(flag, true)?;
        }
    }
    let Some(weak) = choices.weak else {
        return Ok(Reduced::No);
    };
    let mut reduced = Reduced::No;
    let holds = |dtype| {
        model.weights().iter().any(|w| w.dtype == dtype)
            || model.inputs().iter().any(|i| i.dtype == dtype)
    };
    let mut allow = |on: bool, dtype: Dtype, flag: Flag| -> Result<(), Error> {
        if on || weak.by_model && holds(dtype) && config.has(flag) {
            config.set(flag, true)?;
            reduced = Reduced::Allowed;
            if !on {
                notes.push(format!(
                    "{dtype} is allowed because the model holds {dtype} tensors"
                ));
            }
        }
        Ok(())
    };
    allow(weak.fp16, Dtype::F16, Flag::Fp16)?;
    allow(weak.bf16, Dtype::Bf16, Flag::Bf16)?;
    if weak.int8 {
        config.set(Flag::Int8, true)?;
        reduced = Reduced::Allowed;
    }
    Ok(reduced)
}

fn set_limits(config: &Config, choices: &Choices) -> Result<(), Error> {
    if let Some(bytes) = choices.workspace {
        config.set_workspace(bytes)?;
    }
    if let Some(level) = choices.opt_level {
        config.set_optimization_level(level)?;
    }
    if let Some(level) = choices.hardware {
        config.set_hardware_level(level)?;
    }
    if let Some(verbosity) = choices.verbosity {
        config.set_verbosity(verbosity)?;
    }
    if let Some(all) = &choices.compute_capabilities {
        config.set_compute_capabilities(all)?;
    }
    Ok(())
}

/// The profiles, of all dynamic inputs; a network without any needs none.
fn set_profiles(
    builder: &Rc<Builder>,
    config: &Config,
    inputs: &[NetworkInput],
    ranges: &Profile,
) -> Result<(), Error> {
    if let Some(input) = inputs.iter().find(|i| i.shape_tensor) {
        return Err(Error::Input {
            name: input.name.clone(),
            reason:
                "its values decide shapes inside the model, and a shape spec has no values for it; \
                     make them constants of the model"
                    .into(),
        });
    }
    let dynamic = |i: &&NetworkInput| (i.dims.as_ref()).is_none_or(|d| d.iter().any(|&e| e < 0));
    let dynamic: Vec<&NetworkInput> = inputs.iter().filter(dynamic).collect();
    if dynamic.is_empty() {
        return Ok(());
    }
    if ranges.several.is_empty() {
        return set_profile(builder, config, &dynamic, &ranges.inputs);
    }
    // Only in an engine that cannot be refitted: another one may have a single profile.
    let mut each = ranges.several.iter();
    each.try_for_each(|ranges| set_profile(builder, config, &dynamic, ranges))
}

fn set_profile(
    builder: &Rc<Builder>,
    config: &Config,
    inputs: &[&NetworkInput],
    ranges: &[ProfileInput],
) -> Result<(), Error> {
    let profile = builder.profile()?;
    for input in inputs {
        let range = ranges.iter().find(|r| r.name == input.name);
        let range = range.ok_or_else(|| Error::Input {
            name: input.name.clone(),
            reason: "the shape profile does not have it".into(),
        })?;
        check_range(input, range)?;
        for selector in Selector::ALL {
            let axes = range.axes.iter().map(|a| match selector {
                Selector::Min => a.min,
                Selector::Opt => a.opt,
                // `check_range` found every axis bounded.
                Selector::Max => a.max.unwrap_or(a.opt),
            });
            profile.set(&input.name, selector, &axes.collect::<Vec<_>>())?;
        }
    }
    config.add_profile(&profile)
}

fn check_range(input: &NetworkInput, range: &ProfileInput) -> Result<(), Error> {
    let fail = |reason| {
        Err(Error::Input {
            name: input.name.clone(),
            reason,
        })
    };
    let unbounded: Vec<_> = range
        .axes
        .iter()
        .enumerate()
        .filter(|(_, a)| a.max.is_none())
        .map(|(i, _)| i.to_string())
        .collect();
    if !unbounded.is_empty() {
        return fail(format!(
            "axis {} has no upper bound, and TensorRT needs one; give it with `--dim NAME=min:opt:max`",
            unbounded.join(", ")
        ));
    }
    let Some(dims) = &input.dims else {
        return Ok(());
    };
    if dims.len() != range.axes.len() {
        return fail(format!(
            "the network has {} axes, and the shape profile {}",
            dims.len(),
            range.axes.len()
        ));
    }
    let fixed = dims
        .iter()
        .zip(&range.axes)
        .enumerate()
        // A dynamic axis is -1, which is no size.
        .find(|(_, (d, a))| usize::try_from(**d).is_ok_and(|d| (a.min, a.max) != (d, Some(d))));
    match fixed {
        Some((axis, (d, a))) => fail(format!(
            "axis {axis} is {d} in the network, and the shape profile has {} to {}",
            a.min,
            a.max.unwrap_or(a.min)
        )),
        None => Ok(()),
    }
}

/// Marks weights for `refit=individual`.
fn mark(network: &Network, job: &BuildJob<'_>, notes: &mut Vec<String>) -> Result<(), Error> {
    // A build fails where a constant is marked that a shape is computed from.
    let wanted =
        job.model.weights().iter().filter(|w| {
            w.role == Role::Weight && job.mark.is_none_or(|names| names.contains(&w.name))
        });
    let (mut marked, mut baked) = (0, 0);
    for weight in wanted {
        if network.mark_refittable(&weight.name)? {
            marked += 1;
        } else {
            baked += 1;
        }
    }
    notes.push(format!(
        "{marked} weights are marked refittable; {baked} are baked in by the parser"
    ));
    Ok(())
}

fn is_missing(e: &fsx::Error) -> bool {
    matches!(e, fsx::Error::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// Timing caches have a few MiB; no longer file is taken for one. In bytes.
const LONGEST_TIMINGS: u64 = 1 << 30;

/// The timing cache of a build, and the file that it is kept in. Without either, nothing is kept.
struct Timings<'c>(Option<(super::api::TimingCache<'c>, &'c Path)>);

impl<'c> Timings<'c> {
    /// A build goes on without what cannot be had.
    fn of(config: &'c Config, settings: &'c Settings, watch: &dyn Watch) -> Timings<'c> {
        let path = settings.timing_cache.as_deref();
        let cache = path.map(|path| Timings::open(config, path, settings.owns_timing_cache, watch));
        Timings(match cache.transpose() {
            Ok(cache) => cache.flatten().zip(path),
            Err(e) => {
                watch.event(Event::Warn(&format!(
                    "building without a timing cache: {e}"
                )));
                None
            }
        })
    }

    /// The timing cache of `path`, or an empty one where there is none yet. A file that the library does not take stays as it is, unless
    /// it is `own`, in the engine cache: whatever else a user has there would be lost. What is said of it is said now and not noted in
    /// the manifest, which has no absolute paths.
    fn open(
        config: &'c Config,
        path: &Path,
        own: bool,
        watch: &dyn Watch,
    ) -> Result<Option<super::api::TimingCache<'c>>, Error> {
        let kept = match fsx::read_bounded(path, LONGEST_TIMINGS) {
            Ok(bytes) => {
                if let Some(cache) = config.set_timing_cache(&bytes)? {
                    return Ok(Some(cache));
                }
                "it is no timing cache of this library and this GPU".to_owned()
            }
            Err(e) if is_missing(&e) => return config.set_timing_cache(&[]),
            Err(e) => e.to_string(),
        };
        if own {
            return config.set_timing_cache(&[]);
        }
        watch.event(Event::Warn(&format!(
            "`{}` stays as it is, and what this build measures is not kept: {kept}; name another file with --timing-cache",
            path.display()
        )));
        Ok(None)
    }

    /// By rename: of several builds at the same time, the last one's is kept, and what the others measured is measured again.
    fn keep(self, watch: &dyn Watch) {
        let Some((cache, path)) = self.0 else { return };
        let kept = cache.serialize().and_then(|bytes| {
            fsx::write_atomic(path, |out| {
                out.write_all(bytes.bytes()).map_err(Error::Write)
            })
        });
        if let Err(e) = kept {
            watch.event(Event::Warn(&format!("the timing cache was not kept: {e}")));
        }
    }
}

/// What a plan that was just built says of its weights.
struct Listed {
    slots: Vec<Slot>,
    folds: Vec<Fold>,
    reach: Reach,
}

impl Listed {
    /// Of an engine that is not asked.
    fn of(slots: Vec<Slot>) -> Listed {
        Listed {
            slots,
            folds: Vec::new(),
            reach: Reach::default(),
        }
    }
}

/// The slots of a plan that was just built, by opening it, and what the parser makes of several of the model's weights.
fn listed(
    opened: Result<CudaEngine, Error>,
    network: &Network,
    model: &Model,
    records: &[Record],
    notes: &mut Vec<String>,
) -> Result<Listed, Error> {
    let known = Known {
        slots: of_model(model, |_| Ok(true))?,
        ..Known::default()
    };
    match opened {
        Ok(engine) => {
            let slots = list_slots(&engine, &known)?;
            let folds = folds(model, records, &slots);
            let reach = by_parser::reach(&engine, model, &folds);
            let reach = reach.unwrap_or_else(|e| {
                notes.push(format!("normalisations stay baked in: {e}"));
                Reach::default()
            });
            Ok(Listed {
                slots: without_baked(slots, model, &folds, &reach),
                folds,
                reach,
            })
        }
        // Compiled for other GPUs. The network still tells which names it has weights for.
        Err(e) if network.can_mark() => {
            notes.push(format!("the engine cannot be opened here, so its weights are listed as the network has them ({e})"));
            let slots = of_model(model, |name| network.mark_refittable(name))?;
            let (folds, reach) = (folds(model, records, &slots), Reach::default());
            Ok(Listed {
                slots: without_baked(slots, model, &folds, &reach),
                folds,
                reach,
            })
        }
        Err(e) => Err(e),
    }
}

/// The slots, of which those do not count as refittable that hold only a part of what the engine made of a weight.
pub(super) fn without_baked(
    mut slots: Vec<Slot>,
    model: &Model,
    folds: &[Fold],
    reach: &Reach,
) -> Vec<Slot> {
    let baked = by_parser::baked(model, folds, reach);
    for slot in &mut slots {
        slot.refittable &= !baked.contains(&slot.name);
    }
    slots
}

/// The model's constants as slots; `refittable` is asked for those that are weights. No version has f64: the parser narrows it.
pub(super) fn of_model(
    model: &Model,
    refittable: impl Fn(&str) -> Result<bool, Error>,
) -> Result<Vec<Slot>, Error> {
    model
        .weights()
        .iter()
        .filter(|w| w.role != Role::Unused)
        .map(|w| {
            let can = w.role == Role::Weight && refittable(&w.name)?;
            let dtype = if w.dtype == Dtype::F64 {
                Dtype::F32
            } else {
                w.dtype
            };
            Ok(Slot {
                name: w.name.clone(),
                dtype,
                count: element_count(&w.shape).unwrap_or(0),
                shape: Some(w.shape.clone()),
                refittable: can,
            })
        })
        .collect()
}
