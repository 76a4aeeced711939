//! The command that does what a comparison asks for, as a shell takes it.

use super::refit::{OverlayRequest, Stated};
use crate::engine::Options;
use crate::onnx::Model;
use crate::plan::{self, Manifest};
use crate::shapes::{Overrides, ShapeSpec};
use crate::weights::lora::Fuse;
use std::path::{Path, PathBuf};

/// Where the ONNX model of a plan is said to be.
pub fn model_of(plan: &Path, manifest: &Manifest) -> PathBuf {
    let folder = plan.parent().unwrap_or(Path::new(""));
    folder.join(&manifest.model.path)
}

/// `trtmut build` of `model` into `plan`, for the backend, the options and the profile that the plan has.
pub fn build(plan: &Path, model: &Path) -> String {
    let manifest = plan::read_manifest(plan).ok();
    let ranges = manifest.as_ref().map(|m| ranges(m, model));
    build_for(plan, model, manifest.as_ref(), &ranges.unwrap_or_default())
}

/// As [`build`], with the arguments that give another profile.
pub fn build_for(
    plan: &Path,
    model: &Path,
    manifest: Option<&Manifest>,
    ranges: &[String],
) -> String {
    let mut words = vec!["trtmut".to_owned(), "build".into(), text(model)];
    words.extend(["-o".into(), text(plan)]);
    if let Some(manifest) = manifest {
        words.extend(["--backend".into(), manifest.backend.backend.clone()]);
        words.extend(flags(&manifest.options));
        let same =
            Model::open(model).is_ok_and(|m| m.structure_digest() == manifest.model.structure);
        // A plan of another model is not written over unasked.
        if !same {
            words.push("--force".into());
        } else if model_of(plan, manifest).canonicalize().ok() == model.canonicalize().ok() {
            words.extend(proofs(plan, manifest));
        }
    }
    words.extend(ranges.iter().cloned());
    shell(&words)
}

/// What proved the mapping of a plan's model, as arguments that prove it again.
fn proofs(plan: &Path, manifest: &Manifest) -> Vec<String> {
    let Some(base) = &manifest.base else {
        return Vec::new();
    };
    let folder = plan.parent().unwrap_or(Path::new(""));
    let mut words = Vec::new();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    for file in &base.files {
        option("--base-weights", text(&folder.join(&file.path)));
    }
    if let Some(component) = &base.component {
        option("--component", component.clone());
    }
    if let Some(probe) = &base.probe {
        option("--probe", text(&folder.join(&probe.model.path)));
        for file in &probe.weights {
            option("--probe-weights", text(&folder.join(&file.path)));
        }
    }
    // Without it a base that gives some of the parameters only is refused, as it was the first time.
    if manifest.proof().is_some_and(|proof| !proof.is_whole()) {
        words.push("--partial".into());
    }
    words
}

/// `trtmut refit` of `plan` with what `request` names.
pub fn refit(plan: &Path, request: &OverlayRequest, rebuild: bool) -> String {
    let mut words = vec!["trtmut".to_owned(), "refit".into(), text(plan)];
    words.extend(request.checkpoint.iter().map(|f| text(f)));
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    for (file, scale) in &request.loras {
        let file = text(file);
        // What follows the last colon of a name would be taken for a scale.
        let ends_in_number = (file.rsplit_once(':')).is_some_and(|(_, s)| s.parse::<f64>().is_ok());
        let scaled = *scale != 1.0 || ends_in_number;
        option(
            "--lora",
            if scaled {
                format!("{file}:{scale}")
            } else {
                file
            },
        );
    }
    match request.fuse {
        Fuse::Exact => {}
        Fuse::Peft => option("--fuse", "peft".into()),
        Fuse::PeftHalf => option("--fuse", "peft-half".into()),
    }
    for file in &request.base_weights {
        option("--base-weights", text(file));
    }
    if let Some(component) = &request.component {
        option("--component", component.clone());
    }
    if let Some(alpha) = request.lora_alpha {
        option("--lora-alpha", alpha.to_string());
    }
    if let Some(Stated::File(file)) = &request.mapping {
        option("--mapping", text(file));
    }
    if let Some(file) = &request.model {
        option("--model", text(file));
    }
    let permissions = &request.permissions;
    for pattern in &permissions.ignore {
        option("--ignore", pattern.as_str().to_owned());
    }
    for (given, flag) in [
        (permissions.partial, "--partial"),
        (permissions.trust_names, "--trust-names"),
    ] {
        if given {
            words.push(flag.into());
        }
    }
    if rebuild {
        words.extend(["--fallback".into(), "rebuild".into()]);
    }
    shell(&words)
}

/// The refit that gives `plan` the weights that it has by its `manifest`; `None` where no command line says it.
pub fn back(plan: &Path, manifest: &Manifest) -> Option<String> {
    if manifest.recipe.ingredients.is_empty() {
        let words = ["trtmut", "refit", &text(plan), "--base"].map(str::to_owned);
        return Some(shell(&words));
    }
    Some(refit(plan, &asked_of(plan, manifest)?, false))
}

/// What `plan` was refitted with by its `manifest`, and how; `None` where no command line says it.
pub fn asked_of(plan: &Path, manifest: &Manifest) -> Option<OverlayRequest> {
    // A stated mapping was a file, of which the manifest has the contents and not the name.
    let is_said = manifest.recipe.asked.mapping.is_none();
    is_said.then(|| OverlayRequest::of_recipe(plan, manifest))
}

/// `trtmut run` of `plan`.
pub fn run(plan: &Path) -> String {
    shell(&["trtmut".into(), "run".into(), text(plan)])
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A NUL cannot be part of an argument of this process either.
fn shell(words: &[String]) -> String {
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

/// Arguments that give `model` the profile of `manifest`: its dims, where they are all that there is to it, else a shape spec,
/// which the user has.
fn ranges(manifest: &Manifest, model: &Path) -> Vec<String> {
    let dims: Vec<String> = (manifest.shapes.dims().iter())
        .map(|(name, r)| {
            let max = r.max.map_or(String::new(), |m| m.to_string());
            format!("{name}={}:{}:{max}", r.min, r.opt)
        })
        .collect();
    let same = || {
        let model = Model::open(model).ok()?;
        let overrides = Overrides::from_args(&dims, &[]).ok()?;
        let resolved = ShapeSpec::none().resolve(model.inputs(), &overrides).ok()?;
        Some(resolved.profile() == manifest.profile)
    };
    if dims.is_empty() || same() == Some(true) {
        dims.into_iter().flat_map(|d| ["--dim".into(), d]).collect()
    } else {
        vec!["--shapes".into(), "SHAPES.json".into()]
    }
}

/// Build options as the command line spells them.
fn flags(options: &Options) -> Vec<String> {
    let mut words = Vec::new();
    for (name, value) in options {
        match (name.as_str(), value.as_str()) {
            // Recorded by name and digest; where they are only the user knows.
            ("plugins", recorded) => {
                for plugin in recorded.split(',') {
                    let given = plugin
                        .split_once('@')
                        .map(|(file, _)| format!("PATH/{file}"));
                    let given = given.unwrap_or_else(|| plugin.to_owned());
                    words.extend(["--plugin".to_owned(), given]);
                }
            }
            ("precision", kinds) => words.extend(kinds.split(',').map(|k| format!("--{k}"))),
            (name, "true") => words.push(format!("--{name}")),
            (name, value) => words.extend([format!("--{name}"), value.to_owned()]),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_plugins_are_options_of_the_command_line() {
        let options = [("plugins", "libmine.so@1f2e,standard"), ("tf32", "true")];
        let options = options.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let words = flags(&options.into_iter().collect());
        let expected = [
            "--plugin",
            "PATH/libmine.so",
            "--plugin",
            "standard",
            "--tf32",
        ];
        assert_eq!(words, expected);
    }
}
