//! Specs as text: a template for a model, a repaired spec for a message, the JSON of a range.

use super::args::Overrides;
use super::assign::assign;
use super::bind::InputShapes;
use super::error::Error;
use super::expr::Affine;
use super::names::{axis_name, identifier, model_symbol};
use super::resolved::{Axis, Resolved};
use super::spec::{DimDecl, Entry, ShapeSpec, entry_of};
use crate::tensor::{Extent, TensorDecl};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The JSON Schema of all three forms, for editors.
pub fn schema() -> &'static str {
    include_str!("schema.json")
}

/// A `shapes.json` to fill in for a model with these inputs (the form that names ONNX inputs). It is valid as it is:
/// every dynamic axis is there, unbounded. An input whose rank the model does not state cannot be in it.
pub fn template(inputs: &[TensorDecl]) -> String {
    let mut draft = Draft::default();
    for input in inputs {
        let axes = input.dims.iter().flatten().enumerate();
        let entries: Vec<(usize, Value)> = axes
            .filter_map(|(axis, extent)| Some((axis, draft.entry(&input.name, axis, extent)?)))
            .collect();
        if !entries.is_empty() {
            draft.inputs.insert(input.name.clone(), sparse(entries));
        }
    }
    draft.text()
}

/// As [`template`], with the sizes of example inputs as the sizes to optimise for.
///
/// # Errors
/// Sizes that contradict the model; see [`Error::Sizes`].
pub fn template_from(inputs: &[TensorDecl], call: &InputShapes) -> Result<String, Error> {
    let text = template(inputs);
    let resolved = ShapeSpec::parse(&text, "template")?.resolve(inputs, &Overrides::default())?;
    let sizes = resolved.unbounded().sizes_of_call(call)?;
    let mut spec: Value = serde_json::from_str(&text).expect("a template is JSON");
    for (name, opt) in sizes {
        // The template starts at 1, and an example may have an empty axis.
        let min = resolved.dims[&name].min.min(opt);
        spec["dims"][&name] = dim_json(min, None, Some(opt));
    }
    Ok(pretty(&spec))
}

/// A spec by input name that keeps what `spec` says where it fits and fills in the rest.
pub(super) fn suggestion(spec: &ShapeSpec, inputs: &[TensorDecl]) -> String {
    let assigned = assign(&spec.body, &spec.dims, inputs);
    // What contradicts the model may be another input's.
    let places = if assigned.agrees {
        assigned.places
    } else {
        inputs.iter().map(|_| None).collect()
    };
    let mut draft = Draft {
        dims: spec.dims.clone(),
        ..Draft::default()
    };
    for (input, place) in inputs.iter().zip(&places) {
        for (axis, extent) in input.dims.iter().flatten().enumerate() {
            let leaf = place.as_ref().map(|p| p.leaf);
            if let (Extent::Symbol(s), Some(Entry::Dim(e))) =
                (extent, entry_of(leaf, axis, rank_of(input)))
                && let Some(meaning) = e.divide(&model_symbol(s))
            {
                draft.symbols.entry(model_symbol(s).root).or_insert(meaning);
            }
        }
    }
    for (input, place) in inputs.iter().zip(&places) {
        let mut entries = Vec::new();
        for (axis, extent) in input.dims.iter().flatten().enumerate() {
            let leaf = place.as_ref().map(|p| p.leaf);
            let given = match (extent, entry_of(leaf, axis, rank_of(input))) {
                (Extent::Fixed(_), _) => continue,
                (_, Some(Entry::Size(n))) => Some(json!(n)),
                (Extent::Unknown, Some(Entry::Dim(e))) => {
                    draft.used.insert(e.root.clone());
                    Some(json!(e.to_string()))
                }
                _ => draft.entry(&input.name, axis, extent),
            };
            entries.extend(given.map(|g| (axis, g)));
        }
        if !entries.is_empty() {
            draft.inputs.insert(input.name.clone(), sparse(entries));
        }
    }
    let text = draft.text();
    // A hint that leads to the next error is worse than a plain template.
    let fits = ShapeSpec::parse(&text, "suggestion").is_ok_and(|s| s.fits(inputs));
    let spec = if fits { text } else { template(inputs) };
    // It ends a message, which shows line ends that are not its own.
    spec.trim_end().to_owned()
}

fn rank_of(input: &TensorDecl) -> usize {
    input.dims.as_ref().map_or(0, Vec::len)
}

/// A spec by input name that is being written.
#[derive(Default)]
struct Draft {
    /// Ranges that are known.
    dims: BTreeMap<String, DimDecl>,
    /// What a symbol of the model is.
    symbols: BTreeMap<String, Affine>,
    used: BTreeSet<String>,
    inputs: Map<String, Value>,
}

impl Draft {
    /// The entry for a dynamic axis, after the model's own symbol.
    fn entry(&mut self, input: &str, axis: usize, extent: &Extent) -> Option<Value> {
        let expr = match extent {
            Extent::Fixed(_) => return None,
            Extent::Unknown => Affine::root(self.fresh(&axis_name(input, axis))),
            Extent::Symbol(s) => {
                let symbol = model_symbol(s);
                let meaning = match self.symbols.get(&symbol.root) {
                    Some(meaning) => meaning.clone(),
                    None => Affine::root(self.fresh(&identifier(&symbol.root))),
                };
                self.symbols.insert(symbol.root.clone(), meaning.clone());
                symbol.compose(&meaning)?
            }
        };
        let dim = self.dims.entry(expr.root.clone()).or_insert(DimDecl {
            min: 1,
            max: None,
            opt: None,
        });
        // A model's symbol may be like `2*s - 3`: its least value is the first that gives a size.
        let least = u64::try_from(expr.offset.saturating_neg())
            .unwrap_or(0)
            .div_ceil(expr.scale as u64);
        // Several axes may be expressions of one symbol: the least value has to give all of them a
        // size.
        dim.min = dim.min.max(least);
        self.used.insert(expr.root.clone());
        Some(json!(expr.to_string()))
    }

    fn fresh(&self, wanted: &str) -> String {
        let numbered = (2u64..).map(|n| format!("{wanted}_{n}"));
        let mut names = std::iter::once(wanted.to_owned()).chain(numbered);
        let taken =
            |n: &String| self.used.contains(n) || self.symbols.values().any(|e| e.root == *n);
        names
            .find(|n| !taken(n))
            .expect("one of endlessly many names is free")
    }

    fn text(&self) -> String {
        let dims = self.used.iter().map(|name| {
            let DimDecl { min, max, opt } = self.dims.get(name).copied().unwrap_or(DimDecl {
                min: 1,
                max: None,
                opt: None,
            });
            (name.clone(), dim_json(min, max, opt))
        });
        let dims: Map<String, Value> = dims.collect();
        pretty(&json!({ "dims": dims, "inputs": self.inputs }))
    }
}

pub(super) fn dim_json(min: u64, max: Option<u64>, opt: Option<u64>) -> Value {
    match opt {
        Some(opt) => json!({ "min": min, "opt": opt, "max": max }),
        None => json!({ "min": min, "max": max }),
    }
}

pub(super) fn sparse(entries: Vec<(usize, Value)>) -> Value {
    Value::Object(
        entries
            .into_iter()
            .map(|(axis, v)| (axis.to_string(), v))
            .collect(),
    )
}

/// JSON with one line per innermost list or object.
pub(super) fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write_pretty(value, 0, &mut out);
    out.push('\n');
    out
}

fn write_pretty(value: &Value, depth: usize, out: &mut String) {
    let is_container = |v: &Value| v.is_object() || v.is_array();
    let (open, close, items): (_, _, Vec<(Option<&String>, &Value)>) = match value {
        Value::Object(map) => ("{", "}", map.iter().map(|(k, v)| (Some(k), v)).collect()),
        Value::Array(list) => ("[", "]", list.iter().map(|v| (None, v)).collect()),
        scalar => return out.push_str(&scalar.to_string()),
    };
    // The axes of one tensor are read together; a line for each would hide the tensors.
    let inline = !items.iter().any(|(_, v)| is_container(v)) && depth > 0;
    out.push_str(open);
    for (i, (key, item)) in items.iter().enumerate() {
        match (i, inline) {
            (0, true) if value.is_object() => out.push(' '),
            (0, _) => {}
            (_, true) => out.push_str(", "),
            (_, false) => out.push(','),
        }
        if !inline {
            out.push('\n');
            out.push_str(&"  ".repeat(depth + 1));
        }
        if let Some(key) = key {
            out.push_str(&Value::String((*key).clone()).to_string());
            out.push_str(": ");
        }
        write_pretty(item, depth + 1, out);
    }
    if inline && value.is_object() && !items.is_empty() {
        out.push(' ');
    }
    if !inline && !items.is_empty() {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    }
    out.push_str(close);
}

impl Resolved {
    /// The range as a spec by input name, which gives this range again for the same model.
    pub fn to_spec(&self) -> String {
        let inputs: Map<String, Value> = (self.inputs.iter())
            .map(|input| {
                (
                    input.name.clone(),
                    Value::Array(input.axes.iter().map(axis_json).collect()),
                )
            })
            .collect();
        pretty(&json!({ "dims": self.dims_json(), "inputs": inputs }))
    }

    fn dims_json(&self) -> Map<String, Value> {
        self.dims
            .iter()
            .map(|(name, r)| (name.clone(), dim_json(r.min, r.max, Some(r.opt))))
            .collect()
    }
}

pub(super) fn axis_json(axis: &Axis) -> Value {
    match axis {
        Axis::Fixed(n) => json!(n),
        Axis::Dim(e) => json!(e.to_string()),
    }
}
