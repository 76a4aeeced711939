//! What goes wrong says what is wrong, and what only looks wrong goes well.

use crate::case::{Bytes, Case, distance, fixture, io_tensors, tensorrt, within};
use crate::{EXACT, Table, record};
use libtest_mimic::Failed;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use trtmut::engine::{Backend, BuildJob, Engine, Error};
use trtmut::onnx::Model;
use trtmut::watch::Silent;

/// What goes wrong says what is wrong, and the engine goes on where it can.
pub fn errors(table: &Table) -> Result<(), Failed> {
    let case = Case::new("dit")?;
    let mut backend = tensorrt()?;
    case.build(&mut backend, &[("opt-level", "0")])?;
    let mut engine = backend.open_plan(&case.plan())?;
    let (inputs, expected) = io_tensors("dit", 0, "base")?;
    let mut big = inputs.clone();
    for (_, tensor) in &mut big {
        tensor.shape[0] = 64;
        tensor.data = vec![
            0;
            tensor
                .dtype
                .bytes_for(tensor.shape.iter().product())
                .unwrap_or(0)
        ];
    }
    let e = engine
        .run(&big)
        .expect_err("outside the profile")
        .to_string();
    record(table, "errors", "outside the range", &e);
    if !e.contains("outside what the engine was built for") || !e.contains(" to ") {
        return Err(e.into());
    }
    let e = engine
        .run(&inputs[1..].to_vec())
        .expect_err("one input is missing")
        .to_string();
    if !e.contains("not given") {
        return Err(e.into());
    }
    within(
        table,
        "errors",
        "base after them",
        distance(&engine.run(&inputs)?, &expected)?,
        EXACT,
    )?;
    // One weight alone: either it stands alone, or what belongs to it is named.
    let Some(slot) = engine
        .slots()?
        .into_iter()
        .find(|s| s.refittable && s.name.ends_with(".weight"))
    else {
        return Err("no refittable weight".into());
    };
    let weight = case.model.weight(&slot.name).ok_or("it is the model's")?;
    let one = Bytes(HashMap::from([(
        slot.name.clone(),
        case.model.bytes(weight).into_owned(),
    )]));
    match engine.refit(Arc::new(one), &Silent) {
        Ok(_) => record(table, "errors", "one weight alone", "accepted"),
        Err(Error::Weight { name, reason }) => record(
            table,
            "errors",
            "one weight alone",
            format_args!("`{name}`: {reason}"),
        ),
        Err(e) => return Err(e.into()),
    }
    // The dynamo export (opset 20) is beyond TensorRT 8.6's parser.
    if backend.identity().library == "TensorRT 8.6.0" {
        let model = Model::open(fixture("dit").join("model.dynamo.onnx"))?;
        let job = BuildJob {
            model: &model,
            profile: &case.profile,
            options: &BTreeMap::new(),
            mark: None,
        };
        let e = backend
            .build(&job, &mut Vec::new(), &Silent)
            .expect_err("it does not parse");
        record(table, "errors", "an export that does not parse", &e);
        if !matches!(e, Error::Refused { .. }) {
            return Err(e.into());
        }
    }
    Ok(())
}

/// Constants that are no initializers can be given too, and then change nothing.
pub fn constants_too(table: &Table) -> Result<(), Failed> {
    let case = Case::new("dit")?;
    let mut backend = tensorrt()?;
    case.build(&mut backend, &[("opt-level", "0")])?;
    let mut engine = backend.open_plan(&case.plan())?;
    let all = case
        .model
        .weights()
        .iter()
        .map(|w| (w.name.clone(), case.model.bytes(w).into_owned()))
        .collect();
    engine.refit(Arc::new(Bytes(all)), &Silent)?;
    within(
        table,
        "constants too",
        "base after refit",
        case.distance(&mut engine, "base")?,
        EXACT,
    )
}

/// A plan that is cut short does not open.
pub fn half_a_plan(table: &Table) -> Result<(), Failed> {
    let case = Case::new("dit")?;
    let mut backend = tensorrt()?;
    case.build(&mut backend, &[("opt-level", "0")])?;
    let mut plan = std::fs::read(case.plan())?;
    plan.truncate(plan.len() / 2);
    std::fs::write(case.plan(), &plan)?;
    let e = backend
        .open(&case.plan())
        .err()
        .ok_or("half a plan must not open")?;
    record(table, "errors", "half a plan", &e);
    Ok(())
}
