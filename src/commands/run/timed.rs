//! Timed runs, one after the other or several at a time.

use super::Args;
use super::report::{Latency, Throughput};
use crate::engine::{self, AtOnce, Engine};
use crate::tensor::NamedTensors;
use crate::ui::Ui;
use crate::watch::{Event, Watch};
use std::time::{Duration, Instant};

/// More runs than these are not kept: their times would take a gigabyte.
const MOST_RUNS: usize = 50_000_000;

/// What timed runs gave.
pub(super) struct Measured {
    /// Of the last run of each stream; one, where there is one.
    pub outputs: Vec<NamedTensors>,
    pub latency: Latency,
    /// Of the GPU alone, where there is one.
    pub gpu: Option<Latency>,
    /// Of several streams.
    pub throughput: Option<Throughput>,
}

/// Runs as often and as long as `args` say, the untimed runs first.
///
/// # Errors
/// What the engine fails with.
pub(super) fn measure(
    engine: &mut dyn Engine,
    inputs: &NamedTensors,
    args: &Args,
    ui: &Ui,
) -> anyhow::Result<Measured> {
    let streams = usize::from(args.streams);
    ui.event(Event::Begin {
        step: "running",
        // With a duration, nobody knows how many there will be.
        total: (args.duration.is_none())
            .then_some(streams as u64 * (u64::from(args.warmup) + u64::from(args.iters))),
    });
    let measured = if streams > 1 {
        at_once(engine, inputs, args, ui)?
    } else {
        one_by_one(engine, inputs, args, ui)?
    };
    ui.event(Event::End);
    Ok(measured)
}

fn one_by_one(
    engine: &mut dyn Engine,
    inputs: &NamedTensors,
    args: &Args,
    ui: &Ui,
) -> anyhow::Result<Measured> {
    for _ in 0..args.warmup {
        engine.run(inputs)?;
        ui.event(Event::Advance(1));
    }
    let mut runs = Vec::new();
    let mut on_gpu = Vec::new();
    let mut outputs = NamedTensors::new();
    let begun = Instant::now();
    let wanted = args.duration.unwrap_or_default();
    // At least so many runs, and at least so long.
    while runs.len() < args.iters as usize || begun.elapsed() < wanted && runs.len() < MOST_RUNS {
        let start = Instant::now();
        outputs = engine.run(inputs)?;
        runs.push(start.elapsed());
        on_gpu.extend(engine.device_time());
        ui.event(Event::Advance(1));
    }
    Ok(Measured {
        outputs: vec![outputs],
        gpu: (!on_gpu.is_empty()).then(|| Latency::of(on_gpu, args.warmup)),
        latency: Latency::of(runs, args.warmup),
        throughput: None,
    })
}

fn at_once(
    engine: &mut dyn Engine,
    inputs: &NamedTensors,
    args: &Args,
    ui: &Ui,
) -> anyhow::Result<Measured> {
    let streams = usize::from(args.streams);
    let mut run = |least: usize, wanted: Duration| -> Result<AtOnce, engine::Error> {
        let start = Instant::now();
        engine.run_at_once(inputs, &mut |begun| {
            let more = begun < least || start.elapsed() < wanted && begun < MOST_RUNS;
            if more {
                ui.event(Event::Advance(1));
            }
            more
        })
    };
    // In a call of their own, since the throughput is over all the time of a call.
    if args.warmup > 0 {
        run(streams * args.warmup as usize, Duration::ZERO)?;
    }
    let least = streams * args.iters as usize;
    let done = run(least, args.duration.unwrap_or_default())?;
    let throughput = Throughput::of(streams, done.latencies.len(), done.elapsed);
    let latency = |times| Latency::of(times, args.warmup).at(throughput.runs_per_second);
    Ok(Measured {
        outputs: done.outputs,
        latency: latency(done.latencies),
        gpu: Some(latency(done.on_gpu)),
        throughput: Some(throughput),
    })
}
