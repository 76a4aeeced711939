//! What `trtmut run` reports: outputs, latencies, and how the plan got to where it ran.

use super::compare::{Comparison, Verification};
use crate::diff::Verdict;
use crate::tensor::{Dtype, Statistics, show_shape};
use crate::ui::{self, Align, Annotation, Level, Report, Screen, Table};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Serialize)]
pub struct RunReport {
    pub plan: PathBuf,
    pub backend: String,
    /// What was done to the plan before it ran, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<Transition>,
    pub dims: BTreeMap<String, u64>,
    pub inputs: Vec<TensorLine>,
    pub outputs: Vec<OutputLine>,
    pub prepare_ns: u64,
    pub latency: Latency,
    /// Time of the GPU alone, copies not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Latency>,
    /// Of several runs at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput: Option<Throughput>,
    /// Each layer, in the order of execution.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<PathBuf>,
    /// Where the time of every run was written (`--export-times`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<PathBuf>,
}

/// One step of the state machine.
#[derive(Debug, Serialize)]
pub struct Transition {
    pub state: Verdict,
    /// What was done: `run`, `refit`, `recompile`, and of a model `compile` or `copy`.
    pub action: &'static str,
    pub reason: String,
    pub ns: u64,
}

impl Transition {
    pub fn new(state: Verdict, action: &'static str, reason: String, time: Duration) -> Self {
        Transition {
            state,
            action,
            reason,
            ns: time.as_nanos() as u64,
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = ui::duration(Duration::from_nanos(self.ns));
        let (state, action, reason) = (self.state, self.action, &self.reason);
        write!(f, "{state}: {action} in {shown} ({reason})")
    }
}

#[derive(Debug, Serialize)]
pub struct TensorLine {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub random: bool,
}

#[derive(Debug, Serialize)]
pub struct OutputLine {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Absent for types that have no numbers to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Statistics>,
}

/// What one layer took on the GPU in the timed runs.
#[derive(Debug, Serialize)]
pub struct LayerLine {
    pub name: String,
    pub median_ns: u64,
    pub mean_ns: u64,
}

impl LayerLine {
    /// The first `warmup` times are not counted, as far as there are others.
    pub fn new(name: String, mut times: Vec<Duration>, warmup: u32) -> LayerLine {
        let first = (warmup as usize).min(times.len().saturating_sub(1));
        times.drain(..first);
        // No duration can be divided by no runs.
        let mean = times.iter().sum::<Duration>() / times.len().max(1) as u32;
        times.sort();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        LayerLine {
            name,
            median_ns: median.as_nanos() as u64,
            mean_ns: mean.as_nanos() as u64,
        }
    }
}

/// What several runs at a time came to.
#[derive(Debug, Serialize)]
pub struct Throughput {
    streams: usize,
    runs: usize,
    /// From handing over the first run to having the outputs of the last.
    elapsed_ns: u64,
    pub runs_per_second: f64,
}

impl Throughput {
    pub fn of(streams: usize, runs: usize, elapsed: Duration) -> Throughput {
        Throughput {
            streams,
            runs,
            elapsed_ns: elapsed.as_nanos() as u64,
            runs_per_second: runs as f64 / elapsed.as_secs_f64().max(1e-12),
        }
    }
}

/// Latency of the timed runs, in nanoseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub iters: u32,
    pub warmup: u32,
    pub min_ns: u64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    pub mean_ns: u64,
    pub runs_per_second: f64,
    /// Whether the spread makes the figures worth little.
    pub noisy: bool,
    /// Every timed run, in the order of the runs.
    pub times_ns: Vec<u64>,
}

impl Latency {
    /// Percentiles are of the nearest rank: the smallest run that at least so many percent do not exceed.
    pub fn of(mut runs: Vec<Duration>, warmup: u32) -> Latency {
        let times_ns = runs.iter().map(|run| run.as_nanos() as u64).collect();
        runs.sort();
        let rank = |p: f64| {
            let at = (p * runs.len() as f64).ceil() as usize;
            runs[at.clamp(1, runs.len()) - 1].as_nanos() as u64
        };
        let total: Duration = runs.iter().sum();
        let mean = total / runs.len() as u32;
        let (min, p50, p90) = (rank(0.0), rank(0.5), rank(0.9));
        Latency {
            iters: runs.len() as u32,
            warmup,
            min_ns: min,
            p50_ns: p50,
            p90_ns: p90,
            p99_ns: rank(0.99),
            mean_ns: mean.as_nanos() as u64,
            // The clock may be too coarse for a very short run.
            runs_per_second: 1.0 / mean.as_secs_f64().max(1e-12),
            noisy: runs.len() >= 5 && (p90 - min) as f64 > 0.3 * p50 as f64,
            times_ns,
        }
    }

    /// With the rate as it was measured: a mean says nothing of it where runs overlap.
    #[must_use]
    pub fn at(self, runs_per_second: f64) -> Latency {
        Latency {
            runs_per_second,
            ..self
        }
    }
}

impl Report for RunReport {
    const SCHEMA: &'static str = "trtmut.run/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let mut table = Table::new(&[
            ("output", Align::Left),
            ("type", Align::Left),
            ("shape", Align::Left),
            ("min", Align::Right),
            ("max", Align::Right),
            ("mean", Align::Right),
            ("NaN", Align::Right),
            ("inf", Align::Right),
        ]);
        for o in &self.outputs {
            let number = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.5}"));
            let s = o.statistics.as_ref();
            table.row([
                o.name.clone(),
                o.dtype.to_string(),
                show_shape(&o.shape),
                number(s.and_then(|s| s.min)),
                number(s.and_then(|s| s.max)),
                number(s.and_then(|s| s.mean)),
                s.map_or("-".into(), |s| s.nan.to_string()),
                s.map_or("-".into(), |s| s.inf.to_string()),
            ]);
        }
        table.write(out, 0)?;
        let drawn: Vec<&str> = self
            .inputs
            .iter()
            .filter(|i| i.random)
            .map(|i| i.name.as_str())
            .collect();
        if !drawn.is_empty() {
            let what = if drawn.len() == 1 { "input" } else { "inputs" };
            writeln!(out)?;
            writeln!(out, "{what} drawn from the seed: {}", drawn.join(", "))?;
        }
        writeln!(out)?;
        self.latency.human(out, "latency")?;
        if let Some(gpu) = &self.gpu {
            gpu.human(out, "of it GPU")?;
        }
        if let Some(t) = &self.throughput {
            writeln!(
                out,
                "throughput {:.1}/s  {} on {} at once, in {}",
                t.runs_per_second,
                ui::count(t.runs, "run"),
                ui::count(t.streams, "stream"),
                ui::duration(Duration::from_nanos(t.elapsed_ns))
            )?;
        }
        self.layers(out)?;
        if let Some(c) = &self.comparison {
            c.human(out)?;
        }
        if let Some(v) = &self.verification {
            v.human(out)?;
        }
        if let Some(path) = &self.saved {
            writeln!(out)?;
            writeln!(out, "saved {}", ui::path(path))?;
        }
        if let Some(path) = &self.times {
            writeln!(out)?;
            writeln!(out, "the times are in {}", ui::path(path))?;
        }
        Ok(())
    }

    fn annotations(&self) -> Vec<Annotation> {
        let title = |what: &str| format!("{}: {what}", self.plan.display());
        let mut all = Vec::new();
        for c in self.comparison.iter().filter(|c| !c.equal) {
            let differ = c.outputs.iter().filter(|o| !o.equal);
            let names: Vec<&str> = differ.map(|o| o.name.as_str()).collect();
            all.push(Annotation {
                level: Level::Error,
                title: title("outputs differ"),
                message: format!("not as in {}: {}", c.file.display(), names.join(", ")),
            });
        }
        for v in self.verification.iter().filter(|v| !v.equal) {
            all.push(Annotation {
                level: Level::Error,
                title: title("outputs differ"),
                message: format!(
                    "not as {} computes: relative L2 error {:.1e}",
                    v.reference, v.error
                ),
            });
        }
        all.push(Annotation {
            level: Level::Notice,
            title: title("latency"),
            message: format!(
                "p50 {}, mean {} of {}",
                ui::duration(Duration::from_nanos(self.latency.p50_ns)),
                ui::duration(Duration::from_nanos(self.latency.mean_ns)),
                ui::count(self.latency.iters as usize, "run")
            ),
        });
        all
    }
}

impl RunReport {
    fn layers(&self, out: &mut Screen<'_>) -> io::Result<()> {
        if self.layers.is_empty() {
            return Ok(());
        }
        let total: u64 = self.layers.iter().map(|l| l.mean_ns).sum();
        let mut table = Table::new(&[
            ("layer", Align::Left),
            ("median", Align::Right),
            ("mean", Align::Right),
            ("share", Align::Right),
        ]);
        for layer in &self.layers {
            let show = |ns| ui::duration(Duration::from_nanos(ns));
            let share = 100.0 * layer.mean_ns as f64 / total.max(1) as f64;
            table.row([
                layer.name.clone(),
                show(layer.median_ns),
                show(layer.mean_ns),
                format!("{share:.1} %"),
            ]);
        }
        writeln!(out)?;
        table.write(out, 0)
    }
}

impl Latency {
    fn human(&self, out: &mut Screen<'_>, what: &str) -> io::Result<()> {
        let show = |ns| ui::duration(Duration::from_nanos(ns));
        if self.iters == 1 {
            return writeln!(out, "{what:<9}  {} (one run)", show(self.mean_ns));
        }
        writeln!(
            out,
            "{what:<9}  min {}  p50 {}  p90 {}  p99 {}  mean {}",
            show(self.min_ns),
            show(self.p50_ns),
            show(self.p90_ns),
            show(self.p99_ns),
            show(self.mean_ns)
        )?;
        writeln!(
            out,
            "{:<9}  {}, {:.1}/s",
            "",
            ui::count(self.iters as usize, "run"),
            self.runs_per_second
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let runs = (1..=100).map(Duration::from_millis).collect();
        let l = Latency::of(runs, 0);
        assert_eq!(l.min_ns, 1_000_000);
        assert_eq!(l.p50_ns, 50_000_000);
        assert_eq!(l.p90_ns, 90_000_000);
        assert_eq!(l.p99_ns, 99_000_000);
        assert!(l.noisy);
        let one = Latency::of(vec![Duration::from_millis(7)], 0);
        assert_eq!((one.min_ns, one.p99_ns), (7_000_000, 7_000_000));
    }
}
