//! Whether a plan is for the GPU that is used, told before TensorRT reads it: what it says of a plan for another one is long and names
//! neither.

use super::build::key;
use super::error::Error;
use crate::engine::tensorrt::{Facts, gpu};
use crate::engine::{Identity, Options};
use std::collections::BTreeMap;
use std::path::Path;

/// The GPU as a manifest names it.
fn device(facts: &Facts) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("gpu".into(), facts.name.clone()),
        ("compute_capability".into(), facts.capability()),
    ])
}

/// Whether a plan runs on a GPU, as far as names and numbers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Same,
    /// Another model of the same compute capability: TensorRT runs it, and may be slow.
    Like,
    No,
}

fn fit(backend: &Identity, options: &Options, facts: &Facts) -> Fit {
    let built = key::hardware(backend, options);
    let here = Identity {
        device: device(facts),
        ..backend.clone()
    };
    let here = key::hardware(&here, options);
    let capability = |of: &[(&str, &str)]| {
        let found = of.iter().find(|(name, _)| *name == "compute_capability");
        found.map(|(_, value)| (*value).to_owned())
    };
    match () {
        // Of a plan that was compiled for what it was told no GPU is recorded.
        () if built.is_empty() || built == here => Fit::Same,
        () if capability(&built).is_some() && capability(&built) == capability(&here) => Fit::Like,
        () => Fit::No,
    }
}

fn named(device: &BTreeMap<String, String>) -> String {
    let of = |name: &str| device.get(name).map_or("unknown", String::as_str);
    format!(
        "{} (compute capability {})",
        of("gpu"),
        of("compute_capability")
    )
}

/// That the plan is for the GPU that is used. What is worth saying where it is for one that is like it.
///
/// # Errors
/// [`Error::OtherGpu`].
pub fn check_gpu(
    plan: &Path,
    backend: &Identity,
    options: &Options,
) -> Result<Option<String>, Error> {
    if !backend.backend.starts_with("tensorrt") {
        return Ok(None);
    }
    // Where there is none, opening the plan says so.
    let Ok(here) = &gpu::chosen() else {
        return Ok(None);
    };
    match fit(backend, options, here) {
        Fit::Same => Ok(None),
        Fit::Like => Ok(Some(format!(
            "`{}` was built on {}, and this is {}: it runs, and may be slower than one that is built here",
            plan.display(),
            named(&backend.device),
            named(&device(here))
        ))),
        Fit::No => {
            let all = gpu::all().unwrap_or_default();
            Err(Error::OtherGpu {
                plan: plan.to_owned(),
                built: named(&backend.device),
                here: named(&device(here)),
                device: all.iter().position(|f| fit(backend, options, f) != Fit::No),
            })
        }
    }
}
