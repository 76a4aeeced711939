//! What an engine that something else built says of itself, and what the parser says of the model that it is said to be of.

use super::api::{Builder, CudaEngine, NetworkTyping, Parser, Refitter, Selector};
use super::by_parser::{self, Reach};
use super::folds::folds;
use super::open::{deserialize, no_gpu};
use super::told::{Described, Ends};
use super::{TensorRt, build, header, list_slots};
use crate::engine::{Error, Fold, Slot};
use crate::fsx::Map;
use crate::onnx::Model;
use crate::tensor::{Digest, Extent, TensorDecl};
use std::collections::BTreeMap;
use std::path::Path;

impl TensorRt {
    /// Opens a plan of any origin and asks it. `host_code`: it may bring code of its own, which then runs.
    ///
    /// # Errors
    /// With TensorRT's own words; [`Error::Refused`] where the parser does not take the model.
    pub fn describe(
        &self,
        path: &Path,
        model: &Model,
        host_code: bool,
    ) -> Result<Described, Error> {
        let loaded = self.loaded();
        let written = header::read(path)?;
        let gpu = self.gpu();
        let gpu = gpu.map_err(|reason| no_gpu(loaded, "opening an engine", reason))?;
        let map = Map::open(path)?;
        let engine = deserialize(&self.core, gpu, &map, host_code).map_err(|e| match e {
            Error::Library { library, message } => Error::Library {
                library,
                message: format!(
                    "`{}` cannot be opened: it was written by {} {}; this is {} on {}: {message}",
                    path.display(),
                    written.product.title(),
                    written.version,
                    loaded.title(),
                    gpu.facts().name,
                ),
            },
            other => other,
        })?;
        let io = engine.io()?;
        let declared = |input: bool| {
            let of_kind = io.iter().filter(|t| t.is_input == input);
            let extent = |e: &i64| usize::try_from(*e).map_or(Extent::Unknown, Extent::Fixed);
            let all = of_kind.map(|t| TensorDecl {
                name: t.name.clone(),
                dtype: t.dtype,
                dims: Some(t.dims.iter().map(extent).collect()),
            });
            all.collect::<Vec<_>>()
        };
        let (inputs, outputs) = (declared(true), declared(false));
        let known = super::Known {
            slots: build::of_model(model, |_| Ok(true))?,
            ..super::Known::default()
        };
        let slots = list_slots(&engine, &known)?;
        let refittable = engine.is_refittable()?;
        let folds = self.folds(model, &slots)?;
        // A library that fails at this has normalisations that are baked in.
        let reach = by_parser::reach(&engine, model, &folds).unwrap_or_default();
        let slots = build::without_baked(slots, model, &folds, &reach);
        let Reach { weights, computed } = reach;
        let mut described = Described {
            profiles: profiles(&engine, &inputs)?,
            by_parser: weights,
            computed,
            folds,
            inputs,
            outputs,
            refittable,
            stripped: false,
            values: BTreeMap::new(),
            slots,
        };
        if refittable {
            let refitter = Refitter::new(&engine)?;
            // Before anything is given, nothing is missing of a plan that holds its weights.
            described.stripped = !refitter.missing()?.is_empty();
            for slot in described.slots.iter().filter(|s| s.refittable) {
                if let Some(bytes) = refitter.value(&slot.name, slot.dtype)? {
                    described
                        .values
                        .insert(slot.name.clone(), Digest::of(bytes));
                }
            }
        }
        Ok(described)
    }

    /// What the parser folds, where it tells: it has to read the model for that.
    fn folds(&self, model: &Model, slots: &[Slot]) -> Result<Vec<Fold>, Error> {
        let core = &self.core;
        let Some(path) = model.path().filter(|_| core.observes_parser()) else {
            return Ok(Vec::new());
        };
        let builder = Builder::new(core)?;
        // Every parser that can be observed is of a release whose networks may be strongly typed.
        let network = builder.network(NetworkTyping::Strong)?;
        let records = Parser::new(&network)?
            .parse_file(path)?
            .map_err(|errors| build::refused(self.loaded().product, model, errors))?;
        Ok(folds(model, &records.unwrap_or_default(), slots))
    }
}

fn profiles(engine: &CudaEngine, inputs: &[TensorDecl]) -> Result<Vec<Vec<Ends>>, Error> {
    let count = i32::try_from(engine.profiles()?).unwrap_or(1).max(1);
    let ends = |input: &TensorDecl, profile: i32| -> Result<Ends, Error> {
        let fixed: Option<Vec<usize>> = input.dims.as_ref().and_then(|dims| {
            let sizes = dims.iter().map(|e| match e {
                Extent::Fixed(n) => Some(*n),
                Extent::Symbol(_) | Extent::Unknown => None,
            });
            sizes.collect()
        });
        if let Some(shape) = fixed {
            return Ok([shape.clone(), shape.clone(), shape]);
        }
        let end = |selector| {
            let shape = engine.profile_shape(&input.name, profile, selector)?;
            let sizes = shape.unwrap_or_else(|| vec![-1]).into_iter();
            let sizes: Option<Vec<usize>> = sizes.map(|e| usize::try_from(e).ok()).collect();
            sizes.ok_or_else(|| Error::Input {
                name: input.name.clone(),
                reason: format!("the engine says no shape of it for profile {}", profile + 1),
            })
        };
        Ok([
            end(Selector::Min)?,
            end(Selector::Opt)?,
            end(Selector::Max)?,
        ])
    };
    (0..count)
        .map(|profile| inputs.iter().map(|input| ends(input, profile)).collect())
        .collect()
}
