//! The whole flow through the trtmut binary, every step a process of its own: build, run, diff, refit from a checkpoint and from
//! LoRAs, back to the base, and what a refit cannot do. Judged by torch's outputs.

use crate::case::{fixture, show, within, worst};
use crate::cli::{Done, Workplace, backend, expect};
use crate::{EXACT, HALF, Table, record};
use libtest_mimic::Failed;
use safetensors::SafeTensors;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

const PLAN: &str = "p.plan";
const ALL: &[usize] = &[0, 1, 2];
/// The largest sizes, where all have been seen before.
const LAST: &[usize] = &[2];

struct Flow<'t> {
    place: Workplace,
    table: &'t Table,
    name: &'static str,
    what: String,
    limit: f64,
    /// Options of the build that say what is compiled.
    options: &'static [&'static str],
    refits: Vec<Duration>,
}

/// Everything, in full precision.
pub fn exact(name: &'static str, table: &Table) -> Result<(), Failed> {
    let mut flow = Flow::new(name, "flow", EXACT, &[], table)?;
    let build = flow.build(PLAN, &[])?;
    flow.equals("base", ALL, "base after build")?;
    flow.diff()?;
    flow.refit(&["fused.safetensors"], "fused file")?;
    flow.equals("fused", ALL, "fused after refit")?;
    if flow.distance("base", 0)? <= EXACT {
        return Err("the refit changed nothing that the outputs show".into());
    }
    let first = flow.refit(&["--base"], "back")?;
    flow.equals("base", ALL, "base after going back")?;
    let loras = flow.loras()?;
    for lora in &loras {
        // Over another scale of itself, which must leave no trace.
        flow.refit(&["--lora", &format!("{lora}:0.5")], lora)?;
        flow.refit(&["--lora", lora], lora)?;
        flow.equals("fused", LAST, &format!("fused by {lora}"))?;
    }
    let lora = &loras[0];
    flow.refit(&["--base"], "back")?;
    flow.refit(&["fused.safetensors"], "A")?;
    flow.refit(&["--lora", &format!("{lora}:0.5")], "B")?;
    let last = flow.refit(&["--base"], "A again")?;
    flow.equals("base", ALL, "base after A, B, A")?;
    let same = first.report["digest"] == last.report["digest"];
    flow.record(
        "plan after A, B, A",
        if same {
            "the same bytes"
        } else {
            "other bytes"
        },
    );
    let done = flow.refit(&["--lora", lora, "--verify"], "verified")?;
    let (reference, error) = (&done.report["reference"], &done.report["error"]);
    let (Some(reference), Some(error)) = (reference.as_str(), error.as_f64()) else {
        return Err(format!("it was not verified: {}", done.report).into());
    };
    flow.record("--verify", format_args!("{error:.1e} from {reference}"));
    flow.equals("fused", LAST, "fused, verified")?;
    flow.mutable()?;
    if name == "dit" {
        flow.recompiles()?;
    }
    flow.times(build)
}

/// The shorter way, where kernels in half precision are allowed.
pub fn half(name: &'static str, table: &Table) -> Result<(), Failed> {
    let mut flow = Flow::new(name, "flow fp16", HALF, &["--fp16"], table)?;
    let build = flow.build(PLAN, &[])?;
    flow.equals("base", ALL, "base after build")?;
    flow.refit(&["fused.safetensors"], "fused file")?;
    flow.equals("fused", ALL, "fused after refit")?;
    flow.refit(&["--base"], "back")?;
    let lora = flow.loras()?.remove(0);
    flow.refit(&["--lora", &lora], &lora)?;
    flow.equals("fused", ALL, &format!("fused by {lora}"))?;
    flow.refit(&["--base"], "back")?;
    flow.equals("base", ALL, "base after going back")?;
    flow.times(build)
}

impl<'t> Flow<'t> {
    fn new(
        name: &'static str,
        kind: &str,
        limit: f64,
        options: &'static [&'static str],
        table: &'t Table,
    ) -> Result<Self, Failed> {
        // The CPU engine always computes in full precision.
        let options = if backend() == "tensorrt" {
            options
        } else {
            &[]
        };
        Ok(Flow {
            place: Workplace::new(name)?,
            table,
            name,
            what: format!("{name} {kind}"),
            limit,
            options,
            refits: Vec::new(),
        })
    }

    fn record(&self, figure: &str, value: impl std::fmt::Display) {
        record(self.table, &self.what, figure, value);
    }

    fn build(&self, plan: &str, more: &[&str]) -> Result<Duration, Failed> {
        let backend = backend();
        let arguments = [
            &["build", "model.ts.onnx", "--shapes", "shapes.ts.json"][..],
            &["-o", plan, "--backend", &backend, "--no-cache"],
            &["--timing-cache", "timing.cache"],
            self.options,
            more,
        ]
        .concat();
        let done = self.place.run(&arguments, &[0])?;
        expect(&done.report, "schema", &json!("trtmut.build/1"))?;
        expect(&done.report["backend"], "backend", &json!(backend))?;
        self.record(&format!("build of {plan}"), show(done.time));
        let weights = &done.report["weights"];
        self.record(
            &format!("weights of {plan}"),
            format_args!("{}, {} refittable", weights["total"], weights["refittable"]),
        );
        Ok(done.time)
    }

    /// Relative L2 distance from torch at one of the sizes, the largest over all outputs.
    fn distance(&self, which: &str, io: usize) -> Result<f64, Failed> {
        self.distance_after(PLAN, &[], which, io).map(|(d, _)| d)
    }

    fn distance_after(
        &self,
        plan: &str,
        more: &[&str],
        which: &str,
        io: usize,
    ) -> Result<(f64, Done), Failed> {
        self.place.distance(plan, more, which, io)
    }

    fn equals(&self, which: &str, sizes: &[usize], figure: &str) -> Result<(), Failed> {
        self.plan_equals(PLAN, which, sizes, figure)
    }

    fn plan_equals(
        &self,
        plan: &str,
        which: &str,
        sizes: &[usize],
        figure: &str,
    ) -> Result<(), Failed> {
        let each = sizes
            .iter()
            .map(|&io| Ok(self.distance_after(plan, &[], which, io)?.0))
            .collect::<Result<Vec<_>, Failed>>()?;
        within(self.table, &self.what, figure, worst(each), self.limit)
    }

    /// `diff` names what the LoRA changed, and nothing else.
    fn diff(&self) -> Result<(), Failed> {
        let arguments = ["diff", PLAN, "fused.safetensors", "--exit-code"];
        let done = self.place.run(&arguments, &[10])?;
        expect(&done.report, "schema", &json!("trtmut.diff/2"))?;
        expect(&done.report, "verdict", &json!("NEEDS_REFIT"))?;
        let changed = done.report["changed"].as_array().ok_or("nothing changed")?;
        let named: BTreeSet<String> = changed
            .iter()
            .filter_map(|c| Some(c["name"].as_str()?.to_owned()))
            .collect();
        let file = std::fs::read(fixture(self.name).join("refit.ts.safetensors"))?;
        let changed = SafeTensors::deserialize(&file)?;
        let expected: BTreeSet<String> = changed.names().iter().map(ToString::to_string).collect();
        if named != expected {
            return Err(format!("diff names {named:?}, not {expected:?}").into());
        }
        self.record(
            "diff",
            format_args!("NEEDS_REFIT, {} weights, all of them right", named.len()),
        );
        Ok(())
    }

    fn refit(&mut self, more: &[&str], figure: &str) -> Result<Done, Failed> {
        let done = self
            .place
            .run(&[&["refit", PLAN][..], more].concat(), &[0])?;
        expect(&done.report, "schema", &json!("trtmut.refit/2"))?;
        expect(&done.report, "verdict", &json!("NEEDS_REFIT"))
            .and_then(|()| expect(&done.report, "written", &json!(true)))
            .and_then(|()| expect(&done.report, "rebuilt", &json!(false)))
            .map_err(|e| {
                format!(
                    "refit {} ({figure}): {}",
                    more.join(" "),
                    e.message().unwrap_or_default()
                )
            })?;
        if !more.contains(&"--verify") {
            self.refits.push(done.time);
        }
        Ok(done)
    }

    /// LoRA files of the fixture, in the formats that it has.
    fn loras(&self) -> Result<Vec<String>, Failed> {
        let known = [
            "lora_kohya.safetensors",
            "pytorch_lora_weights.safetensors",
            "adapter_model.safetensors",
        ];
        let found: Vec<String> = known
            .into_iter()
            .filter(|f| self.place.has(f))
            .map(String::from)
            .collect();
        if found.is_empty() {
            return Err(format!("`{}` has no LoRA file", self.name).into());
        }
        self.record("LoRA files", found.join(", "));
        Ok(found)
    }

    /// `run --weights` brings the plan to the weights, and only where it holds others.
    fn mutable(&self) -> Result<(), Failed> {
        for (file, which, state, action) in [
            ("base.safetensors", "base", "NEEDS_REFIT", "refit"),
            ("fused.safetensors", "fused", "NEEDS_REFIT", "refit"),
            ("fused.safetensors", "fused", "LIVE", "run"),
        ] {
            let (distance, done) =
                self.distance_after(PLAN, &["--weights", file], which, LAST[0])?;
            let step = &done.report["transitions"][0];
            expect(step, "state", &json!(state))?;
            expect(step, "action", &json!(action))?;
            let figure = format!("run --weights {file}: {state}");
            within(self.table, &self.what, &figure, distance, self.limit)?;
        }
        Ok(())
    }

    /// What a refit is not enough for. The plan holds the fused weights.
    fn recompiles(&self) -> Result<(), Failed> {
        let other = ["diff", PLAN, "model.dynamo.onnx", "--exit-code"];
        let done = self.place.run(&other, &[20])?;
        expect(&done.report, "verdict", &json!("NEEDS_RECOMPILE"))?;
        self.widen()?;
        if backend() == "tensorrt" {
            self.baked_in()
        } else {
            self.record(
                "weights that are baked in",
                "left out: this backend bakes in none",
            );
            Ok(())
        }
    }

    /// Sizes outside of the range are refused, or recompiled for with the weights that the plan holds.
    fn widen(&self) -> Result<(), Failed> {
        let outside = ["run", PLAN, "--dim", "B=6"];
        self.place.run(&outside, &[1, 2])?;
        let wide = [&outside[..], &["--on-range", "widen"]].concat();
        let done = self.place.run(&wide, &[0])?;
        expect(&done.report["dims"], "B", &json!(6))?;
        self.record("run --on-range widen", show(done.time));
        self.equals("fused", ALL, "fused after widening")?;
        self.place.run(&outside, &[0])?;
        Ok(())
    }

    /// A plan that was not built to be refitted has its weights baked in.
    fn baked_in(&self) -> Result<(), Failed> {
        const FIXED: &str = "fixed.plan";
        self.build(FIXED, &["--refit", "none"])?;
        let before = std::fs::read(self.place.file(FIXED))?;
        let diff = ["diff", FIXED, "fused.safetensors", "--exit-code"];
        let done = self.place.run(&diff, &[20])?;
        expect(&done.report, "verdict", &json!("NEEDS_RECOMPILE"))?;
        let refit = ["refit", FIXED, "fused.safetensors"];
        let done = self.place.run(&refit, &[20])?;
        expect(&done.report, "code", &json!("needs-recompile"))?;
        if std::fs::read(self.place.file(FIXED))? != before {
            return Err("a refused refit changed the plan".into());
        }
        let rebuild = [&refit[..], &["--fallback", "rebuild"]].concat();
        let done = self.place.run(&rebuild, &[0])?;
        expect(&done.report, "rebuilt", &json!(true))?;
        expect(&done.report, "verdict", &json!("NEEDS_RECOMPILE"))?;
        self.record("refit --fallback rebuild", show(done.time));
        self.plan_equals(FIXED, "fused", ALL, "fused after the rebuild")
    }

    fn times(mut self, build: Duration) -> Result<(), Failed> {
        self.refits.sort_unstable();
        let (Some(least), median) = (self.refits.first(), self.refits[self.refits.len() / 2])
        else {
            return Err("nothing was refitted".into());
        };
        self.record(
            "refit process",
            format_args!(
                "{}, the shortest of {}; median {}",
                show(*least),
                self.refits.len(),
                show(median)
            ),
        );
        self.record(
            "build / refit",
            format_args!("{:.1}×", build.as_secs_f64() / median.as_secs_f64()),
        );
        Ok(())
    }
}
