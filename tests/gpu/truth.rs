//! How exact fp16 is on a model, to tell what a refit adds: engines built from the weights themselves beside refitted ones.

use crate::case::{Case, distance, io_tensors, show, tensorrt, timed, worst};
use crate::{EXACT, HALF, Table, record};
use libtest_mimic::Failed;
use std::sync::Arc;
use trtmut::engine::tensorrt::TensorRtEngine;
use trtmut::engine::{Engine, Feed};
use trtmut::tensor::to_f32;
use trtmut::watch::Silent;

const WHAT: &str = "dit fp16 truth";
/// Engines of each kind, because every build may choose other kernels.
const BUILDS: usize = 2;
/// A refitted engine may be so much further from torch than the worst engine that was built from the same weights.
const SLACK: f64 = 1.5;

/// Distances of engines from torch's outputs for one set of weights.
#[derive(Default)]
struct Seen {
    built: Vec<f64>,
    refitted: Vec<f64>,
}

/// Errors of fp16 engines of `dit`: built from the base weights and from the fused ones, and each refitted to the other's.
pub fn fp16(table: &Table) -> Result<(), Failed> {
    let base = Case::new("dit")?;
    let fused = base.fused()?;
    magnitudes(table)?;
    let to_fused = Side::new(&base, ["base", "fused"], base.feed(true)?, table);
    let to_base = Side::new(&fused, ["fused", "base"], base.feed(false)?, table);
    to_fused.full_precision()?;
    to_base.full_precision()?;
    let (mut of_base, mut of_fused) = (Seen::default(), Seen::default());
    for round in 1..=BUILDS {
        let (built, refitted) = to_fused.half_precision(round)?;
        of_base.built.push(built);
        of_fused.refitted.push(refitted);
        let (built, refitted) = to_base.half_precision(round)?;
        of_fused.built.push(built);
        of_base.refitted.push(refitted);
    }
    // Both, before either fails the trial.
    let verdicts = [("base", &of_base), ("fused", &of_fused)].map(|(which, seen)| {
        let (built, refitted) = (worst(seen.built.clone()), worst(seen.refitted.clone()));
        let limit = HALF.max(SLACK * built);
        let verdict = format!(
            "{refitted:.2e} refitted, {built:.2e} built ({:.2}×; limit {limit:.1e})",
            refitted / built
        );
        record(table, WHAT, &format!("{which}: worst of all"), &verdict);
        (which, refitted <= limit, verdict)
    });
    match verdicts.iter().find(|(_, good, _)| !good) {
        Some((which, _, verdict)) => {
            Err(format!("a refit to {which} adds an error of its own: {verdict}").into())
        }
        None => Ok(()),
    }
}

/// How large torch's outputs are, and how far apart the two models'.
fn magnitudes(table: &Table) -> Result<(), Failed> {
    for io in 0..3 {
        let (_, base) = io_tensors("dit", io, "base")?;
        let (_, fused) = io_tensors("dit", io, "fused")?;
        let apart = distance(&base, &fused)?;
        for (which, outputs) in [("base", base), ("fused", fused)] {
            for (name, tensor) in &outputs {
                let values = to_f32(tensor.dtype, &tensor.data)?;
                let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
                let rms = (squares / values.len() as f64).sqrt();
                let most = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                record(
                    table,
                    WHAT,
                    &format!("{which}.{name} of io{io}"),
                    format_args!(
                        "root mean square {rms:.3}, at most {most:.3}; base and fused are {apart:.2e} apart"
                    ),
                );
            }
        }
    }
    Ok(())
}

/// Engines built from one set of weights, and refitted to the other.
struct Side<'a> {
    case: &'a Case,
    own: &'static str,
    other: &'static str,
    feed: Arc<dyn Feed>,
    table: &'a Table,
}

impl<'a> Side<'a> {
    fn new(
        case: &'a Case,
        [own, other]: [&'static str; 2],
        feed: Arc<dyn Feed>,
        table: &'a Table,
    ) -> Self {
        Side {
            case,
            own,
            other,
            feed,
            table,
        }
    }

    /// Where nothing but the weights can be wrong.
    fn full_precision(&self) -> Result<(), Failed> {
        let (built, refitted) = self.measure("f32", &[])?;
        if built <= EXACT && refitted <= EXACT {
            Ok(())
        } else {
            Err(format!("f32: {built:.2e} built, {refitted:.2e} refitted").into())
        }
    }

    fn half_precision(&self, round: usize) -> Result<(f64, f64), Failed> {
        self.measure(&format!("fp16 ({round})"), &[("precision", "fp16")])
    }

    /// Worst distances of the engine as built and as refitted.
    fn measure(&self, kind: &str, options: &[(&str, &str)]) -> Result<(f64, f64), Failed> {
        let Side { own, other, .. } = self;
        let mut backend = tensorrt()?;
        let (_, time) = timed(|| self.case.build(&mut backend, options))?;
        let mut engine = backend.open_plan(&self.case.plan())?;
        let built = each(&mut engine, own)?;
        engine.refit(Arc::clone(&self.feed), &Silent)?;
        let refitted = each(&mut engine, other)?;
        record(
            self.table,
            WHAT,
            &format!("{kind}, built from {own}"),
            format_args!(
                "{own} {}; refitted to {other} {}; {} layers, built in {}",
                list(&built),
                list(&refitted),
                engine.layer_count()?,
                show(time)
            ),
        );
        Ok((worst(built), worst(refitted)))
    }
}

/// Distance from torch at each of the three sizes.
fn each(engine: &mut TensorRtEngine, which: &str) -> Result<Vec<f64>, Failed> {
    (0..3)
        .map(|io| {
            let (inputs, expected) = io_tensors("dit", io, which)?;
            distance(&engine.run(&inputs)?, &expected)
        })
        .collect()
}

fn list(distances: &[f64]) -> String {
    let each: Vec<String> = distances.iter().map(|d| format!("{d:.2e}")).collect();
    each.join(" ")
}
