//! Refits through the ONNX parser, for weights that nothing else reaches.
//!
//! The parser makes two weights of its own of the four tensors of a `BatchNormalization`, and before TensorRT 11.4 it does not tell
//! which. Its refitter (`IParserRefitter`, `NvOnnxParser.h`) is handed the whole model, makes them again, and gives every weight
//! that the engine lists or fails. What it gave is read back and held against the model before the engine takes it.

use super::Known;
use super::api::{CudaEngine, ParseError, ParserRefitter, Refitter};
use crate::engine::{Error, Feed, Fold, FoldPart, Slot};
use crate::onnx::{Model, Role};
use crate::tensor::{Dtype, element_count, narrow};
use crate::watch::{Event, Watch};
use std::borrow::Cow;
use std::collections::HashSet;

/// What an engine takes from the parser alone.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Weights of the model that the parser computes with.
    pub weights: Vec<String>,
    /// The engine's weights that it computes.
    pub computed: Vec<String>,
}

/// The two results of a `BatchNormalization`, whose slots nobody names.
type Normalisation = [Fold; 2];

/// Bytes of one of the engine's weights, from the model; `None` where it is none of the model's.
type BytesOf<'a, 'b> = &'a dyn Fn(&Slot) -> Result<Option<Cow<'b, [u8]>>, Error>;

/// Lets the parser give the engine's weights back to it, as a trial that changes nothing: which of the model's it reaches that way.
///
/// # Errors
/// Why that does not work with this model; its normalisations then count as baked in.
pub(super) fn reach(engine: &CudaEngine, model: &Model, folds: &[Fold]) -> Result<Reach, Error> {
    let core = engine.core();
    let known = |n: &Normalisation| folds.iter().any(|f| f.sources() == n[0].sources());
    let mut open = normalisations(model);
    open.retain(|n| !known(n));
    let Some(path) = model.path().filter(|_| !open.is_empty()) else {
        return Ok(Reach::default());
    };
    if !core.takes_models_back() || !engine.is_refittable()? {
        return Ok(Reach::default());
    }
    let refitter = Refitter::new(engine)?;
    let parser = ParserRefitter::new(&refitter)?;
    let given = parser.give(path)?;
    given.map_err(|errors| refused(engine, &errors))?;
    let values = |slot: &Slot| -> Result<Option<Cow<'_, [u8]>>, Error> {
        let Some(weight) = model.weight(&slot.name) else {
            return Ok(None);
        };
        let bytes = model.read(weight);
        if weight.dtype == slot.dtype {
            return Ok(Some(bytes));
        }
        let narrowed = narrow(weight.dtype, slot.dtype, &bytes);
        let narrowed = narrowed.map_err(|e| unfit(&slot.name, e.to_string()))?;
        Ok(Some(Cow::Owned(narrowed)))
    };
    check(&refitter, model, &open, &values)
}

/// Hands the parser the model that `feed` has, checks what it gives, and lets `engine` take it over. After an error the engine must
/// be thrown away.
///
/// # Errors
/// What the parser says against the model; [`Error::Weight`] for a weight that it did not give, or not as the model has it;
/// otherwise with TensorRT's own words.
pub(super) fn refit(
    engine: &CudaEngine,
    known: &Known,
    feed: &dyn Feed,
    threads: usize,
    watch: &dyn Watch,
) -> Result<(), Error> {
    feed.with_model(&mut |model| {
        watch.event(Event::Begin {
            step: "refitting through the parser",
            total: None,
        });
        let path = model.path().ok_or_else(|| Error::Library {
            library: engine.core().loaded().title(),
            message: "its parser takes files, and this model is not one".into(),
        })?;
        let refitter = Refitter::new(engine)?;
        refitter.set_max_threads(threads)?;
        let parser = ParserRefitter::new(&refitter)?;
        let given = parser.give(path)?;
        given.map_err(|errors| refused(engine, &errors))?;
        let reached = check(&refitter, model, &normalisations(model), &|slot| {
            feed.bytes(slot)
        })?;
        let mut wanted = known.by_parser.iter();
        if let Some(name) = wanted.find(|name| !reached.weights.contains(name)) {
            let reason = "what the parser gave has nothing that is computed from it";
            return Err(unfit(name, reason.into()));
        }
        refitter.refit()?;
        // The values are the parser's until they are taken over.
        drop(parser);
        watch.event(Event::End);
        Ok(())
    })
}

/// Weights of the model that its normalisations read, and that neither `folds` nor `reach` reaches. Another node that reads one of
/// them too has it refittable under its name, and what the parser computed of it would stay as it was.
pub(super) fn baked(model: &Model, folds: &[Fold], reach: &Reach) -> HashSet<String> {
    let mut names: HashSet<String> = sources(model).concat().into_iter().collect();
    for name in folds.iter().flat_map(Fold::sources) {
        names.remove(name);
    }
    for name in &reach.weights {
        names.remove(name);
    }
    names
}

/// Scale, bias, mean and variance of every `BatchNormalization` of the main graph that reads constants only.
fn sources(model: &Model) -> Vec<[String; 4]> {
    let nodes = model.proto().graph.node.iter();
    let of_kind = nodes.filter(|n| n.op_type == "BatchNormalization");
    let all = of_kind.filter_map(|n| <[String; 4]>::try_from(n.input.get(1..)?.to_vec()).ok());
    let constant = |all: &[String; 4]| all.iter().all(|name| model.weight(name).is_some());
    all.filter(constant).collect()
}

/// Those of them whose tensors are in f32, with what is computed of them.
fn normalisations(model: &Model) -> Vec<Normalisation> {
    let count = |name: &String| {
        let weight = model.weight(name)?;
        let plain = weight.role == Role::Weight && weight.dtype == Dtype::F32;
        element_count(&weight.shape).filter(|&n| plain && n > 0)
    };
    let nodes = model.proto().graph.node.iter();
    let of_kind = nodes.filter(|n| n.op_type == "BatchNormalization" && n.domain.is_empty());
    let found = of_kind.filter_map(|node| {
        let [_, scale, bias, mean, variance] = &node.input[..] else {
            return None;
        };
        let counts = [scale, bias, mean, variance].map(count);
        if counts[0].is_none() || counts.iter().any(|c| *c != counts[0]) {
            return None;
        }
        let epsilon = node.attribute.iter().find(|a| a.name == "epsilon");
        let fold = |part| Fold {
            slot: String::new(),
            part,
            scale: scale.clone(),
            bias: bias.clone(),
            mean: mean.clone(),
            variance: variance.clone(),
            // ONNX's own default.
            epsilon: epsilon.map_or(1e-5, |a| a.f),
        };
        Some([fold(FoldPart::Scale), fold(FoldPart::Shift)])
    });
    found.collect()
}

/// Holds what the parser gave against the model: every weight that the engine lists is there, in its type and count; those of the
/// model have the model's bytes; and both results of each normalisation are among the others. Which of `open` that holds for.
fn check(
    refitter: &Refitter<'_, '_>,
    model: &Model,
    open: &[Normalisation],
    bytes_of: BytesOf<'_, '_>,
) -> Result<Reach, Error> {
    if let Some(name) = refitter.missing()?.into_iter().next() {
        let name = name.unwrap_or_else(|| "(without a name)".into());
        return Err(unfit(&name, "the parser gave no bytes for it".into()));
    }
    let mut computed: Vec<(String, Vec<f32>)> = Vec::new();
    for name in refitter.names()? {
        let name = name.ok_or_else(|| {
            let reason = "the engine lists a weight without a name, so what the parser gave cannot be checked";
            unfit("(without a name)", reason.into())
        })?;
        let wants = refitter.prototype(&name)?;
        let wants = wants.ok_or_else(|| unfit(&name, "the engine tells no type of it".into()))?;
        let given = refitter.value(&name, wants.dtype)?;
        let given = given.filter(|g| wants.dtype.bytes_for(wants.count) == Some(g.len()));
        let given = given.ok_or_else(|| {
            let reason = format!(
                "the parser did not give it {} elements of {}",
                wants.count, wants.dtype
            );
            unfit(&name, reason)
        })?;
        let slot = Slot {
            name,
            dtype: wants.dtype,
            shape: None,
            count: wants.count,
            refittable: true,
        };
        match bytes_of(&slot)? {
            Some(own) if own[..] == *given => {}
            Some(_) => {
                let reason = "the parser gave it other values than the model has";
                return Err(unfit(&slot.name, reason.into()));
            }
            None if slot.dtype == Dtype::F32 => computed.push((slot.name, floats(given))),
            None => {}
        }
    }
    placed(model, open, computed)
}

/// The normalisations whose results are among the computed weights, each of which serves once: equal ones prove nothing of one another.
/// A weight is reached where every normalisation that reads it is.
fn placed(
    model: &Model,
    open: &[Normalisation],
    mut computed: Vec<(String, Vec<f32>)>,
) -> Result<Reach, Error> {
    let read = |name: &str| -> Result<Cow<'_, [u8]>, Error> {
        let weight = model.weight(name);
        let weight = weight.ok_or_else(|| unfit(name, "the model does not have it".into()))?;
        Ok(model.read(weight))
    };
    let mut reach = Reach::default();
    let mut others = sources(model);
    for normalisation in open {
        let mut taken = Vec::new();
        for fold in normalisation {
            let wanted = floats(&fold.compute(read)?);
            let bias = match fold.part {
                FoldPart::Scale => vec![0.0; wanted.len()],
                FoldPart::Shift => floats(&read(&fold.bias)?),
            };
            let at = computed.iter().position(|(_, v)| near(v, &wanted, &bias));
            taken.extend(at.map(|at| computed.remove(at)));
        }
        if taken.len() == 2 {
            let sources = normalisation[0].sources();
            reach.weights.extend(sources.map(str::to_owned));
            let node = others.iter().position(|o| o == &sources);
            node.map(|at| others.swap_remove(at));
            reach.computed.extend(taken.into_iter().map(|(n, _)| n));
        } else {
            computed.extend(taken);
        }
    }
    (reach.weights).retain(|name| !others.iter().flatten().any(|other| other == name));
    reach.weights.sort_unstable();
    reach.weights.dedup();
    Ok(reach)
}

/// Equal but for the rounding of one division, one root, one product and one sum.
fn near(given: &[f32], wanted: &[f32], bias: &[f32]) -> bool {
    // A few units in the last place; `bias` since a difference of large numbers has their rounding.
    const ROUNDING: f32 = 4.0 * f32::EPSILON;
    let close = |(g, (w, b)): (&f32, (&f32, &f32))| {
        g.to_bits() == w.to_bits() || (g - w).abs() <= ROUNDING * (w.abs() + 2.0 * b.abs())
    };
    given.len() == wanted.len() && given.iter().zip(wanted.iter().zip(bias)).all(close)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

fn unfit(name: &str, reason: String) -> Error {
    Error::Weight {
        name: name.into(),
        reason,
    }
}

fn refused(engine: &CudaEngine, errors: &[ParseError]) -> Error {
    const SHOWN: usize = 3;
    let said = errors.iter().take(SHOWN).map(|e| match &e.name {
        Some(node) => format!("node `{node}`: {}", e.reason),
        None => e.reason.clone(),
    });
    Error::Library {
        library: engine.core().loaded().title(),
        message: format!(
            "its parser does not take the model back: {}",
            said.collect::<Vec<_>>().join("; ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::testing;

    /// Two normalisations of equal values.
    fn model() -> Model {
        let node = |out: &str, b: &str| {
            let inputs = ["x", "g", b, "m", "v"];
            testing::node("BatchNormalization", &inputs, &[out])
        };
        let value = |name, v| testing::f32s(name, &[2], &[v, v + 1.0]);
        let graph = onnx_protobuf::GraphProto {
            node: vec![node("h", "b"), node("y", "c")],
            initializer: vec![
                value("g", 3.0),
                value("b", 0.5),
                value("c", 0.5),
                value("m", 2.0),
                value("v", 4.0),
            ],
            ..testing::small().graph.unwrap_or_default()
        };
        testing::open(&testing::model(graph)).unwrap()
    }

    #[test]
    fn what_the_parser_computed_has_to_be_there_as_often_as_it_is_used() {
        let model = model();
        let open = normalisations(&model);
        assert_eq!(open.len(), 2);
        assert!((open[0][0].epsilon - 1e-5).abs() < 1e-12);
        let results = |n: &Normalisation| {
            let read = |name: &str| Ok(model.read(model.weight(name).unwrap()));
            let both = n.each_ref().map(|f| floats(&f.compute(read).unwrap()));
            both.map(|values| ("t".to_owned(), values))
        };
        let weights = |computed: &[(String, Vec<f32>)]| {
            placed(&model, &open, computed.to_vec()).unwrap().weights
        };
        let (first, second) = (results(&open[0]), results(&open[1]));
        let all = [first.clone(), second].concat();
        assert_eq!(weights(&all), ["b", "c", "g", "m", "v"]);
        // Of the second only one result is there: that the first has the same values is no proof. What both read stays baked in.
        assert_eq!(weights(&all[..3]), ["b"]);
        assert!(weights(&all[..1]).is_empty());
        // Rounded otherwise is near; another value is not.
        let moved = |by: f32| {
            let mut other = first.clone();
            other[1].1[0] *= 1.0 + by;
            weights(&other).len()
        };
        assert_eq!((moved(2e-7), moved(1e-4)), (1, 0));
        let nothing = baked(&model, &[], &Reach::default());
        assert_eq!(nothing.len(), 5);
        let reach = placed(&model, &open, all[..2].to_vec()).unwrap();
        let mut left: Vec<_> = baked(&model, &[], &reach).into_iter().collect();
        left.sort_unstable();
        assert_eq!(left, ["c", "g", "m", "v"]);
    }
}
