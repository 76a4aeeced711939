//! Which plugin libraries an engine needs: recorded by name and digest, and asked for again when it is opened.

use super::environment::Environment;
use super::error::Error;
use crate::engine::tensorrt::{STANDARD, TensorRt};
use crate::engine::{self, Options};
use crate::fsx::Map;
use crate::plan::Manifest;
use crate::tensor::Digest;
use std::path::{Path, PathBuf};

/// The option that records them.
const OPTION: &str = "plugins";

fn refuse(library: &str, reason: String) -> Error {
    engine::Error::Plugin {
        library: library.to_owned(),
        reason,
    }
    .into()
}

fn digest(path: &Path) -> Result<String, Error> {
    let map = Map::open(path)?;
    Ok(Digest::of_length(map.len(), |at, into| map.copy_to(at, into)).short())
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// `options` with the plugin libraries that were given.
///
/// # Errors
/// One that cannot be read, or has a name that cannot be recorded.
pub fn with_plugins(mut options: Options, environment: &Environment) -> Result<Options, Error> {
    if environment.plugins.is_empty() {
        return Ok(options);
    }
    let mut all = Vec::new();
    for path in &environment.plugins {
        if path.as_os_str() == STANDARD {
            all.push(STANDARD.to_owned());
            continue;
        }
        let name = name(path);
        // The two that the recorded list is made with.
        if name.contains([',', '@']) {
            return Err(refuse(
                &name,
                "its name has a `,` or an `@`; give it another".into(),
            ));
        }
        all.push(format!("{name}@{}", digest(path)?));
    }
    // In one order, so that the same libraries give the same cache key.
    all.sort();
    all.dedup();
    options.insert(OPTION.into(), all.join(","));
    Ok(options)
}

/// Loads what a plan needs, and what was given besides.
///
/// # Errors
/// [`engine::Error::Plugin`] for one that the plan needs and that was not given, or is another one.
pub(super) fn load(
    backend: &mut TensorRt,
    manifest: &Manifest,
    environment: &Environment,
) -> Result<(), Error> {
    let option = |name: &str| manifest.options.get(name).map(String::as_str);
    let inside = option("serialize-plugins") == Some("true");
    let mut plugins: Vec<PathBuf> = environment.plugins.clone();
    for needed in option(OPTION)
        .unwrap_or_default()
        .split(',')
        .filter(|n| !n.is_empty())
    {
        let (file, expected) = needed.split_once('@').unwrap_or((needed, ""));
        let given = plugins.iter().find(|p| name(p) == file);
        match given {
            Some(_) if file == STANDARD => {}
            Some(path) if digest(path)? == expected => {}
            Some(_) => {
                return Err(refuse(
                    file,
                    format!(
                        "it is not the one that the plan was built with (digest {expected}); build the plan again"
                    ),
                ));
            }
            None if file == STANDARD => plugins.push(STANDARD.into()),
            // The plan brings it.
            None if inside => {}
            None => {
                return Err(refuse(
                    file,
                    format!("the plan needs it; pass `--plugin PATH/{file}`"),
                ));
            }
        }
    }
    Ok(backend.load_plugins(&plugins)?)
}
