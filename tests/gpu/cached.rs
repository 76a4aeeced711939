//! Builds through the engine cache, every one a process of its own: stored, copied, refitted, and compiled again with what earlier
//! builds measured.

use crate::case::{Case, show, within, worst};
use crate::cli::{Done, Workplace, backend, expect};
use crate::{EXACT, Table, record};
use libtest_mimic::Failed;
use serde_json::json;

const WHAT: &str = "dit cache";

pub fn cached(table: &Table) -> Result<(), Failed> {
    let place = Workplace::new("dit")?;
    let fused = Case::new("dit")?.fused()?;
    let fused = fused.model.path().ok_or("it was written to a file")?;
    std::fs::copy(fused, place.file("fused.onnx"))?;
    let build_of =
        |model: &str, plan: &str, more: &[&str], outcome: &str| -> Result<Done, Failed> {
            let backend = backend();
            let arguments = [
                &["build", model, "--shapes", "shapes.ts.json"][..],
                &["-o", plan, "--backend", &backend, "--cache-dir", "cache"],
                more,
            ]
            .concat();
            let done = place.run(&arguments, &[0])?;
            expect(&done.report, "cache", &json!(outcome))?;
            record(table, WHAT, &format!("{plan}: {outcome}"), show(done.time));
            Ok(done)
        };
    let build =
        |plan: &str, more: &[&str], outcome: &str| build_of("model.ts.onnx", plan, more, outcome);
    let equals = |plan: &str, which: &str| {
        let each = (0..3).map(|io| Ok(place.distance(plan, &[], which, io)?.0));
        let away = worst(each.collect::<Result<Vec<_>, Failed>>()?);
        within(table, WHAT, &format!("{plan}: {which}"), away, EXACT)
    };
    build("first.plan", &[], "miss")?;
    equals("first.plan", "base")?;
    let tensorrt = backend() == "tensorrt";
    // The default, said.
    let default: &[&str] = if tensorrt { &["--refit", "full"] } else { &[] };
    let same = build("same.plan", default, "hit")?;
    let first = std::fs::read(place.file("first.plan"))?;
    if std::fs::read(place.file("same.plan"))? != first {
        return Err(format!("a hit is another plan: {}", same.report).into());
    }
    build_of("fused.onnx", "fused.plan", &[], "refitted")?;
    equals("fused.plan", "fused")?;
    build("again.plan", &[], "hit")?;
    equals("again.plan", "base")?;
    if !tensorrt {
        return Ok(());
    }
    let timings = std::fs::read_dir(place.file("cache/timing"))?.count();
    if timings != 1 {
        return Err(format!("{timings} timing caches").into());
    }
    // Another key, of which most kernels are timed already.
    let other = ["--workspace", "4G"];
    build("other.plan", &other, "miss")?;
    equals("other.plan", "base")
}
