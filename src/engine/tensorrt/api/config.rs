//! The builder's configuration, and the timing cache that it can be given.

use super::builder::{Builder, HostMemory, Profile};
use super::monitor::Monitor;
use super::{Core, Owned, c_path, call};
use crate::engine::Error;
use crate::engine::tensorrt::options::{HardwareLevel, Verbosity};
use crate::engine::tensorrt::releases::Entry;
use crate::watch::Watch;
use std::ffi::{c_char, c_void};
use std::rc::Rc;
use std::sync::Arc;

/// A yes-or-no choice of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// fp16 kernels are allowed.
    Fp16,
    /// bf16 kernels are allowed.
    Bf16,
    /// int8 kernels are allowed.
    Int8,
    /// Matrix products may round their operands to TF32.
    Tf32,
    /// Every weight can be refitted.
    Refit,
    /// Weights can be refitted, with the build's own values only.
    RefitIdentical,
    /// Marked weights can be refitted.
    RefitIndividual,
    /// Refittable weights are left out of the plan.
    StripPlan,
    /// 2:4 sparse weights are looked for.
    SparseWeights,
    /// The plan runs in later versions too.
    VersionCompatible,
    /// A layer's own precision comes before speed.
    PreferPrecisionConstraints,
    /// Weights may stay in host memory at run time.
    WeightStreaming,
}

/// `nvinfer1::IBuilderConfig` of one build.
pub struct Config {
    owned: Owned,
    _builder: Rc<Builder>,
}

impl Builder {
    /// An empty configuration.
    ///
    /// # Errors
    /// When the library makes none.
    pub fn config(self: &Rc<Self>) -> Result<Config, Error> {
        let core = self.core();
        let ptr = call!(
            core,
            self.owned.this(),
            builder.create_builder_config as fn() -> *mut c_void
        )?;
        Ok(Config::new(
            Owned::handle(core, ptr, "createBuilderConfig")?,
            self,
        ))
    }
}

impl Config {
    fn new(owned: Owned, builder: &Rc<Builder>) -> Config {
        Config {
            owned,
            _builder: Rc::clone(builder),
        }
    }

    fn core(&self) -> &Arc<Core> {
        &self.owned.core
    }

    pub(super) fn ptr(&self) -> *mut c_void {
        self.owned.ptr.as_ptr()
    }

    fn flag(&self, flag: Flag) -> (&'static Entry, &'static str) {
        let f = &self.core().table().flag;
        match flag {
            Flag::Fp16 => (&f.fp16, "fp16 builder flag"),
            Flag::Bf16 => (&f.bf16, "bf16 builder flag"),
            Flag::Int8 => (&f.int8, "int8 builder flag"),
            Flag::Tf32 => (&f.tf32, "TF32 builder flag"),
            Flag::Refit => (&f.refit, "refit builder flag"),
            Flag::RefitIdentical => (&f.refit_identical, "builder flag for identical refits"),
            Flag::RefitIndividual => (&f.refit_individual, "builder flag for individual refits"),
            Flag::StripPlan => (&f.strip_plan, "builder flag for stripped plans"),
            Flag::SparseWeights => (&f.sparse_weights, "sparsity builder flag"),
            Flag::WeightStreaming => (&f.weight_streaming, "weight streaming"),
            Flag::VersionCompatible => (&f.version_compatible, "version compatibility"),
            Flag::PreferPrecisionConstraints => {
                (&f.prefer_precision_constraints, "precision constraints")
            }
        }
    }

    /// Whether this version has the flag.
    pub fn has(&self, flag: Flag) -> bool {
        self.core().has(self.flag(flag).0)
    }

    /// Sets or clears a flag.
    ///
    /// # Errors
    /// When this version does not have it.
    pub fn set(&self, flag: Flag, on: bool) -> Result<(), Error> {
        let core = self.core();
        let (entry, what) = self.flag(flag);
        let number = i32::from(core.number(entry, what)?);
        if on {
            call!(core, self.owned.this(), config.set_flag as fn(number => i32))
        } else {
            call!(core, self.owned.this(), config.clear_flag as fn(number => i32))
        }
    }

    /// Adds a profile.
    ///
    /// # Errors
    /// When the profile is not complete.
    pub fn add_profile(&self, profile: &Profile) -> Result<(), Error> {
        let core = self.core();
        let index = call!(core, self.owned.this(), config.add_optimization_profile as fn(profile.ptr => *mut c_void) -> i32)?;
        core.check(index >= 0, "addOptimizationProfile failed")
    }

    /// Has plugin libraries written into the plan.
    ///
    /// # Errors
    /// For a path with a zero in it; when this version has no such call.
    pub fn serialize_plugins(&self, libraries: &[std::path::PathBuf]) -> Result<(), Error> {
        let core = self.core();
        let names = libraries.iter().map(|p| c_path(core, p));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = names.iter().map(|n| n.as_ptr()).collect();
        let count = i32::try_from(pointers.len()).unwrap_or(i32::MAX);
        call!(core, self.owned.this(), config.set_plugins_to_serialize as
            fn(pointers.as_ptr() => *const *const c_char, count => i32))
    }

    /// Limits scratch memory, in bytes.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn set_workspace(&self, bytes: usize) -> Result<(), Error> {
        let core = self.core();
        let pool = i32::from(core.number(&core.table().pool.workspace, "workspace pool")?);
        call!(core, self.owned.this(), config.set_memory_pool_limit as fn(pool => i32, bytes => usize))
    }

    /// How hard to search for kernels, 0 to 5.
    ///
    /// # Errors
    /// When this version has no such choice.
    pub fn set_optimization_level(&self, level: i32) -> Result<(), Error> {
        call!(self.core(), self.owned.this(), config.set_builder_optimization_level as fn(level => i32))
    }

    /// How far the plan runs on other GPUs.
    ///
    /// # Errors
    /// When this version has no such choice.
    pub fn set_hardware_level(&self, level: HardwareLevel) -> Result<(), Error> {
        let core = self.core();
        let values = &core.table().hardware;
        let entry = match level {
            HardwareLevel::AmperePlus => &values.ampere_plus,
            HardwareLevel::SameComputeCapability => &values.same_compute_capability,
        };
        let number = i32::from(core.number(entry, "such hardware compatibility level")?);
        call!(core, self.owned.this(), config.set_hardware_compatibility_level as fn(number => i32))
    }

    /// How much the plan says of its layers.
    ///
    /// # Errors
    /// Never for supported versions.
    pub fn set_verbosity(&self, verbosity: Verbosity) -> Result<(), Error> {
        let core = self.core();
        let values = &core.table().verbosity;
        let entry = match verbosity {
            Verbosity::None => &values.none,
            Verbosity::LayerNames => &values.layer_names_only,
            Verbosity::Detailed => &values.detailed,
        };
        let number = i32::from(core.number(entry, "such profiling verbosity")?);
        call!(core, self.owned.this(), config.set_profiling_verbosity as fn(number => i32))
    }

    /// The GPUs to compile for, as compute capability × 10 (TensorRT-RTX).
    ///
    /// # Errors
    /// When the library refuses one.
    pub fn set_compute_capabilities(&self, all: &[u32]) -> Result<(), Error> {
        let core = self.core();
        let n = all.len() as i32;
        let ok = call!(core, self.owned.this(), config.set_nb_compute_capabilities as fn(n => i32) -> bool)?;
        core.check(ok, format_args!("setNbComputeCapabilities({n}) failed"))?;
        for (&cc, index) in all.iter().zip(0i32..) {
            let number = compute_capability(core, cc).ok_or_else(|| Error::Library {
                library: core.loaded.title(),
                message: "this version has no such compute capability".into(),
            })?;
            let number = i32::from(core.number(number, "such compute capability")?);
            let ok = call!(core, self.owned.this(), config.set_compute_capability as fn(number => i32, index => i32) -> bool)?;
            core.check(
                ok,
                format_args!("setComputeCapability({}.{}) failed", cc / 10, cc % 10),
            )?;
        }
        Ok(())
    }

    /// Gives the build what earlier builds measured. `false`: these bytes are of another library or GPU.
    ///
    /// # Errors
    /// When the library makes no cache at all.
    pub fn set_timing_cache<'c>(&'c self, bytes: &[u8]) -> Result<Option<TimingCache<'c>>, Error> {
        let core = self.core();
        let ptr = call!(core, self.owned.this(), config.create_timing_cache as
            fn(bytes.as_ptr().cast() => *const c_void, bytes.len() => usize) -> *mut c_void)?;
        if ptr.is_null() {
            return Ok(None);
        }
        let cache = TimingCache {
            owned: Owned::handle(core, ptr, "createTimingCache")?,
            _config: self,
        };
        // `ignoreMismatch` is false: what was measured elsewhere holds for no other GPU.
        let ok = call!(core, self.owned.this(), config.set_timing_cache as
            fn(cache.owned.ptr.as_ptr() => *mut c_void, false => bool) -> bool)?;
        Ok(ok.then_some(cache))
    }

    /// Runs `build` with `watch` as its progress monitor, where this version has them.
    pub(super) fn monitored<T>(
        &self,
        watch: &dyn Watch,
        build: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let core = self.core();
        if !core.has(&core.table().config.set_progress_monitor) {
            return build();
        }
        let monitor = Monitor::new(watch, core.form().monitor);
        let set = |ptr: *mut c_void| call!(core, self.owned.this(), config.set_progress_monitor as fn(ptr => *mut c_void));
        set(monitor.as_ptr())?;
        let result = build();
        // The monitor ends here, so the config must forget it.
        set(std::ptr::null_mut())?;
        result
    }
}

/// The `ComputeCapability` enumerator of a capability × 10.
fn compute_capability(core: &Core, cc: u32) -> Option<&'static Entry> {
    let values = &core.table().compute_capability;
    Some(match cc {
        75 => &values.sm75,
        80 => &values.sm80,
        86 => &values.sm86,
        89 => &values.sm89,
        120 => &values.sm120,
        121 => &values.sm121,
        _ => return None,
    })
}

/// `nvinfer1::ITimingCache`, in use by a configuration.
pub struct TimingCache<'c> {
    owned: Owned,
    _config: &'c Config,
}

impl TimingCache<'_> {
    /// Its bytes, for the next build.
    ///
    /// # Errors
    /// When the library gives none.
    pub fn serialize(&self) -> Result<HostMemory, Error> {
        let core = &self.owned.core;
        let ptr = call!(
            core,
            self.owned.this(),
            timing_cache.serialize as fn() -> *mut c_void
        )?;
        HostMemory::new(core, ptr, "ITimingCache::serialize")
    }
}
