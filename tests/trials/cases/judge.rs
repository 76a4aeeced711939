//! What a command said and saved, held against what a case expects. Every error is the text of a failure.

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const VERDICTS: [&str; 4] = ["LIVE", "NEEDS_REFIT", "NEEDS_RECOMPILE", "UNKNOWN"];

/// The JSON document that `out` is.
pub fn document(out: &str) -> Option<Value> {
    serde_json::from_str(out).ok()
}

/// The verdict of `--json`, or the first word of the text.
pub fn verdict(out: &str) -> Option<String> {
    if let Some(Value::Object(document)) = document(out) {
        return document.get("verdict")?.as_str().map(str::to_owned);
    }
    let first = out.split_whitespace().next()?;
    VERDICTS.contains(&first).then(|| first.to_owned())
}

/// What a `diff --exit-code` or a `refit --dry-run` decided, in one word.
pub fn decision(code: i32, out: &str) -> String {
    verdict(out).unwrap_or_else(|| match code {
        10 => "NEEDS_REFIT".to_owned(),
        20 => "NEEDS_RECOMPILE".to_owned(),
        30 | 1 => "UNKNOWN".to_owned(),
        other => format!("exit {other}"),
    })
}

/// All of `has` must be in `text`, in any case, where `a|b` is one of the two; and none of `lacks`.
pub fn message(text: &str, has: &[String], lacks: &[String]) -> Result<(), String> {
    let text = text.to_lowercase();
    for want in has {
        if !want.split('|').any(|w| text.contains(&w.to_lowercase())) {
            return Err(format!("the message does not say `{want}`"));
        }
    }
    for unwanted in lacks {
        if text.contains(&unwanted.to_lowercase()) {
            return Err(format!("the message says `{unwanted}`"));
        }
    }
    Ok(())
}

/// The inputs in `want` must have these `[min, max]` for every axis in the document of `trtmut shapes`.
pub fn ranges(document: Option<&Value>, want: &BTreeMap<String, Value>) -> Result<(), String> {
    let inputs = document.and_then(|d| d["inputs"].as_array());
    for (name, axes) in want {
        let input = inputs.and_then(|all| all.iter().rfind(|i| i["name"] == name.as_str()));
        let got: Value = input
            .and_then(|i| i["axes"].as_array())
            .map(|axes| axes.iter().map(|a| json!([a["min"], a["max"]])).collect())
            .unwrap_or_default();
        if got != *axes {
            return Err(format!("`{name}` has the ranges {got}, should be {axes}"));
        }
    }
    Ok(())
}

/// Largest relative L2 error of the outputs in `saved` to those tensors of `wanted` whose names begin with `prefix`; it is
/// infinite where a value is not finite.
pub fn worst_error(saved: &Path, wanted: &Path, prefix: &str) -> Result<f64, String> {
    let saved = fs::read(saved).map_err(|e| format!("no outputs were saved: {e}"))?;
    let got = SafeTensors::deserialize(&saved).map_err(|e| format!("the saved outputs: {e}"))?;
    let wanted = fs::read(wanted).expect("the expected outputs can be read");
    let wanted = SafeTensors::deserialize(&wanted).expect("the expected outputs are safetensors");
    let mut worst = None;
    for (name, want) in wanted.iter() {
        let Some(name) = name.strip_prefix(prefix) else {
            continue;
        };
        let got = got
            .tensor(name)
            .map_err(|_| format!("output `{name}` is missing, there is {:?}", got.names()))?;
        if got.shape() != want.shape() {
            let (got, want) = (got.shape(), want.shape());
            return Err(format!("output `{name}` is {got:?}, should be {want:?}"));
        }
        let error = relative_l2(&values(&got), &values(&want));
        worst = Some(error.max(worst.unwrap_or(0.0)));
    }
    Ok(worst.unwrap_or_else(|| panic!("no expected output begins with `{prefix}`")))
}

fn relative_l2(got: &[f64], want: &[f64]) -> f64 {
    let norm = |squares: f64| squares.sqrt();
    let apart = norm(got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum());
    let size = norm(want.iter().map(|w| w.powi(2)).sum());
    let error = apart / size.max(1e-30);
    if error.is_finite() {
        error
    } else {
        f64::INFINITY
    }
}

fn values(tensor: &TensorView<'_>) -> Vec<f64> {
    fn each<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks().0.iter().map(|&c| value(c)).collect()
    }
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F64 => each(data, f64::from_le_bytes),
        Dtype::F32 => each(data, |b| f32::from_le_bytes(b).into()),
        Dtype::F16 => each(data, |b| f16::from_le_bytes(b).into()),
        Dtype::BF16 => each(data, |b| bf16::from_le_bytes(b).into()),
        Dtype::I64 => each(data, |b| i64::from_le_bytes(b) as f64),
        Dtype::I32 => each(data, |b| i32::from_le_bytes(b).into()),
        Dtype::U8 | Dtype::BOOL => each(data, |[b]| b.into()),
        other => panic!("outputs of the type {other} are not compared yet"),
    }
}
