//! A plan that something else built gets a manifest: what its engine says, held against the model that it is said to be of.
//!
//! An engine does not say what its constants hold, so what the manifest states of them is the model's until a refit has given all of
//! them ([`Manifest::unproven`]).

use super::backends::search;
use super::build::{BuildRequest, MappingSource, describe};
use super::environment::Environment;
use super::error::Error;
use super::facts::note_slots;
use super::feed::slot_bytes;
use crate::engine::tensorrt::{Described, TensorRt, header};
use crate::engine::{self, Options};
use crate::onnx::{Model, Role};
use crate::plan::{self, Manifest};
use crate::shapes::{self, Overrides, Resolved, ShapeSpec};
use crate::tensor::{Digest, Dtype, Extent, TensorDecl, element_count};
use crate::watch::Watch;
use std::path::{Path, PathBuf};

/// What to adopt, and as what.
#[derive(Debug)]
pub struct AdoptRequest<'a> {
    pub plan: &'a Path,
    /// The model that it was built from.
    pub model: &'a Path,
    /// Which sizes it is for, where they are not to be read off the engine.
    pub shapes: Option<(ShapeSpec, Overrides)>,
    /// The checkpoint that the model was exported from; empty where there is none.
    pub base: &'a [PathBuf],
    /// It is known to hold only some of the model's parameters.
    pub partial: bool,
    /// How the engine was built, for when it has to be built again.
    pub options: &'a Options,
    /// Replace a manifest that is there.
    pub force: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct Adopted {
    pub manifest: Manifest,
    /// Weights that the engine lists and the model does not have; they keep what they hold.
    pub unknown: Vec<String>,
}

/// Writes a manifest for the plan of another tool.
///
/// # Errors
/// See [`Error`], [`Error::NotOfModel`] among them; nothing on disk has changed then.
pub fn adopt(
    request: &AdoptRequest<'_>,
    environment: &Environment,
    watch: &dyn Watch,
) -> Result<Adopted, Error> {
    let AdoptRequest {
        plan,
        model: model_path,
        ..
    } = *request;
    let product = header::read(plan)?.product;
    let model = Model::open(model_path)?;
    let mut inputs = vec![model_path.to_owned(), plan.to_owned()];
    inputs.extend(model.files().iter().map(|f| f.path().to_owned()));
    inputs.extend(request.base.iter().cloned());
    // Before a library is looked for and started, which takes seconds.
    plan::claim_manifest(plan, &inputs, request.force)?;
    let mut backend = TensorRt::find(product, &search(environment))?;
    backend.allow_host_code(environment.allow_host_code);
    backend.load_plugins(&environment.plugins)?;
    let of_plan = plan::reference(plan)?;
    let (described, host_code) = open(&backend, plan, &model, environment)?;
    let fail = |problems: Vec<String>| Error::NotOfModel {
        plan: plan.to_owned(),
        model: model_path.to_owned(),
        problems,
    };
    let mut problems = interface(&described.inputs, model.inputs(), "input");
    problems.extend(interface(&described.outputs, model.outputs(), "output"));
    if !problems.is_empty() {
        return Err(fail(problems));
    }
    let built_for = ranges(&described, model.inputs()).map_err(|e| fail(vec![e.to_string()]));
    let shapes = match &request.shapes {
        None => built_for?,
        Some((spec, overrides)) => {
            let wanted = spec.resolve(model.inputs(), overrides)?;
            // Where the engine's own ranges contradict the model's symbols, the spec has to say what is meant.
            within(&wanted, &described).map_err(fail)?;
            wanted
        }
    };
    let unknown = weights(&described, &model).map_err(fail)?;
    let proven = values(&described, &model).map_err(fail)?;
    let options = options(request.options, &described, host_code);
    let mut manifest = describe(
        &BuildRequest {
            model: &model,
            model_path,
            shapes: &shapes,
            mapping: MappingSource::Infer {
                files: request.base,
                partial: request.partial,
                probe: None,
                component: None,
            },
            options: &options,
            backend: &backend,
            output: plan,
            force: true,
        },
        of_plan,
        watch,
    )?;
    manifest.stripped = described.stripped;
    manifest.folds = described.folds;
    manifest.by_parser = described.by_parser;
    manifest.unproven = !proven && !described.stripped;
    manifest.notes = vec![
        "adopted: another tool built the engine; what is built again is built with the options above".into(),
    ];
    note_slots(&mut manifest, &model, described.slots);
    plan::adopt(plan, &manifest)?;
    Ok(Adopted { manifest, unknown })
}

/// The engine's own description. A plan that brings code is opened again with it, where the user trusts it.
fn open(
    backend: &TensorRt,
    plan: &Path,
    model: &Model,
    environment: &Environment,
) -> Result<(Described, bool), Error> {
    match backend.describe(plan, model, false) {
        Err(engine::Error::Library { .. }) if environment.allow_host_code => {
            Ok((backend.describe(plan, model, true)?, true))
        }
        described => Ok((described?, false)),
    }
}

/// What differs between the engine's inputs or outputs and the model's.
fn interface(engine: &[TensorDecl], model: &[TensorDecl], kind: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for wanted in model {
        if !engine.iter().any(|t| t.name == wanted.name) {
            problems.push(format!("the engine has no {kind} `{}`", wanted.name));
        }
    }
    for has in engine {
        let name = &has.name;
        let Some(wanted) = model.iter().find(|t| t.name == *name) else {
            problems.push(format!("the model has no {kind} `{name}`"));
            continue;
        };
        // The parser narrows what an engine does not have.
        let narrowed = [(Dtype::I64, Dtype::I32), (Dtype::F64, Dtype::F32)];
        if wanted.dtype != has.dtype && !narrowed.contains(&(wanted.dtype, has.dtype)) {
            problems.push(format!(
                "the {kind} `{name}` is {} in the engine and {} in the model",
                has.dtype, wanted.dtype
            ));
        }
        let (Some(dims), Some(extents)) = (&has.dims, &wanted.dims) else {
            continue;
        };
        let differ = |(has, wanted): (&Extent, &Extent)| match (has, wanted) {
            (Extent::Fixed(a), Extent::Fixed(b)) => a != b,
            // An engine says so of what depends on values, and of what is dynamic.
            _ => false,
        };
        if dims.len() != extents.len() || dims.iter().zip(extents).any(differ) {
            problems.push(format!(
                "the {kind} `{name}` is {} in the engine and {} in the model",
                has.show_dims(),
                wanted.show_dims()
            ));
        }
    }
    problems
}

/// The ranges that the engine says that it was built for.
fn ranges(described: &Described, inputs: &[TensorDecl]) -> Result<Resolved, shapes::Error> {
    let tie = |ends: &[[Vec<usize>; 3]]| {
        let named = described.inputs.iter().map(|i| i.name.clone());
        let named: Vec<_> = named.zip(ends.iter().cloned()).collect();
        ShapeSpec::of_engine(&named, inputs)?.resolve(inputs, &Overrides::default())
    };
    if let [only] = &described.profiles[..] {
        return tie(only);
    }
    // One range that holds all profiles, as a spec with several of them has it.
    let mut whole = described.profiles[0].clone();
    for profile in &described.profiles[1..] {
        for (all, one) in whole.iter_mut().zip(profile) {
            for (axis, size) in one[0].iter().enumerate() {
                all[0][axis] = all[0][axis].min(*size);
            }
            for (axis, size) in one[2].iter().enumerate() {
                all[2][axis] = all[2][axis].max(*size);
            }
        }
    }
    let each = described.profiles.iter().map(|ends| tie(ends));
    tie(&whole)?.with_profiles(&each.collect::<Result<Vec<_>, _>>()?)
}

/// That each profile of `wanted` is within one of the engine's.
fn within(wanted: &Resolved, described: &Described) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    for one in wanted.each_profile() {
        let ranges = one.profile().inputs;
        let outside = |ends: &Vec<[Vec<usize>; 3]>| {
            let mut found = Vec::new();
            for (input, [min, _, max]) in described.inputs.iter().zip(ends) {
                let Some(range) = ranges.iter().find(|r| r.name == input.name) else {
                    continue;
                };
                for (axis, r) in range.axes.iter().enumerate() {
                    let (low, high) = (min[axis], max[axis]);
                    if r.min < low || r.max.is_none_or(|max| max > high) {
                        let asked = r.max.map_or("any size".into(), |max| max.to_string());
                        found.push(format!(
                            "axis {axis} of `{}` is from {} to {asked} in the spec, and from {low} to {high} in the engine",
                            input.name, r.min
                        ));
                    }
                }
            }
            found
        };
        // A profile of the spec needs one of the engine's; that with the fewest faults says best
        // what is wrong.
        let nearest = described.profiles.iter().map(outside).min_by_key(Vec::len);
        problems.extend(nearest.unwrap_or_default());
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// The weights that the engine lists and the model does not have.
fn weights(described: &Described, model: &Model) -> Result<Vec<String>, Vec<String>> {
    let mut problems = Vec::new();
    let (mut known, mut unknown) = (0, Vec::new());
    let of_fold = |name: &str| {
        described.folds.iter().any(|f| f.slot == name)
            || described.computed.iter().any(|c| c == name)
    };
    for slot in &described.slots {
        match model.weight(&slot.name) {
            _ if of_fold(&slot.name) => known += usize::from(slot.refittable),
            None => unknown.push(slot.name.clone()),
            Some(weight) if slot.refittable => {
                known += 1;
                let count = element_count(&weight.shape).unwrap_or(0);
                if slot.count != count {
                    problems.push(format!(
                        "the weight `{}` has {} elements in the engine and {count} in the model",
                        slot.name, slot.count
                    ));
                }
            }
            Some(_) => {}
        }
    }
    let constants = model.weights().iter().any(|w| w.role == Role::Weight);
    // Names that only the engine has may be the parser's own; where none is the model's, it is
    // another model.
    if described.refittable && constants && known == 0 {
        problems.push(format!(
            "none of the engine's {} refittable weights has the name of a constant of the model",
            unknown.len()
        ));
    }
    if problems.is_empty() {
        Ok(unknown)
    } else {
        Err(problems)
    }
}

/// Whether the engine gave all its refittable weights back, and they are the model's.
fn values(described: &Described, model: &Model) -> Result<bool, Vec<String>> {
    let mut problems = Vec::new();
    // What cannot be replaced cannot be asked for either.
    let mut all = described.refittable || !model.weights().iter().any(|w| w.role == Role::Weight);
    for slot in described.slots.iter().filter(|s| s.refittable) {
        let Some(held) = described.values.get(&slot.name) else {
            all = false;
            continue;
        };
        let bytes = slot_bytes(slot, &described.folds, model, |name| {
            Ok(model.weight(name).map(|w| model.bytes(w)))
        });
        match bytes {
            Ok(Some(bytes)) if Digest::of(&bytes) == *held => {}
            Ok(Some(_)) => problems.push(format!(
                "the engine holds other values of `{}` than the model",
                slot.name
            )),
            Ok(None) | Err(_) => all = false,
        }
    }
    if problems.is_empty() {
        Ok(all)
    } else {
        Err(problems)
    }
}

/// How it was built, as far as the engine says; the rest is what the user says.
fn options(stated: &Options, described: &Described, host_code: bool) -> Options {
    let mut options = stated.clone();
    if !described.refittable {
        options.insert("refit".into(), "none".into());
    }
    if described.stripped {
        options.insert("strip".into(), "true".into());
    }
    if host_code {
        options.insert("version-compatible".into(), "true".into());
    }
    options
}
