//! Builds through the engine cache, every one a process of its own: stored, copied, refitted, and compiled again with what earlier
//! builds measured.

use crate::case::{Case, io_tensors, show, within, worst};
use crate::cli::{Done, Workplace, backend};
use crate::{EXACT, Table, record};
use libtest_mimic::Failed;

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
            if done.report["cache"] != outcome {
                return Err(format!("{plan}: not a {outcome}: {}", done.report).into());
            }
            record(table, WHAT, &format!("{plan}: {outcome}"), show(done.time));
            Ok(done)
        };
    let build =
        |plan: &str, more: &[&str], outcome: &str| build_of("model.ts.onnx", plan, more, outcome);
    let equals = |plan: &str, which: &str| {
        let each = (0..3).map(|io| {
            let inputs = format!("io{io}.safetensors:in.");
            let expected = format!("io{io}.safetensors:{which}.");
            let run = ["run", plan, "--inputs", &inputs, "--expect", &expected];
            let done = place.run(&run, &[0, 40])?;
            let outputs = done.report["comparison"]["outputs"].as_array();
            let outputs = outputs.ok_or("no outputs")?;
            if outputs.len() != io_tensors("dit", io, which)?.1.len() {
                return Err(format!("{} outputs", outputs.len()).into());
            }
            let l2 = |o: &serde_json::Value| o["difference"]["relative_l2"].as_f64();
            Ok(worst(outputs.iter().map(|o| l2(o).unwrap_or(f64::NAN))))
        });
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
