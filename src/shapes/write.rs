//! Specs as text: a template for a model, a repaired spec for a message, and one form written as another.

use super::args::Overrides;
use super::compare::Relation;
use super::draft::entry_of;
use super::error::Error;
use super::expr::Affine;
use super::leaves::assign;
use super::names::{axis_name, default_opt, identifier, model_symbol};
use super::resolved::{Axis, Resolved};
use super::spec::{Body, DimDecl, Entry, ShapeSpec, Tree};
use crate::tensor::{Extent, TensorDecl};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A form of spec to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Torch's own dump, as `torch._export.serde.dynamic_shapes._load_dynamic_shapes` reads it.
    Torch,
    /// `dims`, `args` and `kwargs`.
    Args,
    /// `dims` and `inputs`.
    Inputs,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Torch => "torch",
            Form::Args => "args",
            Form::Inputs => "inputs",
        }
    }
}

/// A spec in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The JSON text.
    pub text: String,
    /// What that form cannot say, one sentence each.
    pub lost: Vec<String>,
}

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

/// A spec by input name that keeps what `spec` says where it fits and fills in the rest.
pub(super) fn suggestion(spec: &ShapeSpec, inputs: &[TensorDecl]) -> String {
    let places = assign(&spec.body, inputs, &mut Vec::new());
    let mut draft = Draft {
        dims: spec.dims.clone(),
        ..Draft::default()
    };
    for (input, place) in inputs.iter().zip(&places) {
        for (axis, extent) in input.dims.iter().flatten().enumerate() {
            if let (Extent::Symbol(s), Some(Entry::Dim(e))) =
                (extent, entry_of(place.as_ref().map(|p| p.leaf), axis))
                && let Some(meaning) = e.divide(&model_symbol(s))
            {
                draft.symbols.entry(model_symbol(s).root).or_insert(meaning);
            }
        }
    }
    for (input, place) in inputs.iter().zip(&places) {
        let mut entries = Vec::new();
        for (axis, extent) in input.dims.iter().flatten().enumerate() {
            let given = match (extent, entry_of(place.as_ref().map(|p| p.leaf), axis)) {
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
    let fits = ShapeSpec::parse(&text, "suggestion").is_ok_and(|s| s.fits(inputs));
    if fits { text } else { template(inputs) }
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

fn dim_json(min: u64, max: Option<u64>, opt: Option<u64>) -> Value {
    match opt {
        Some(opt) => json!({ "min": min, "opt": opt, "max": max }),
        None => json!({ "min": min, "max": max }),
    }
}

fn sparse(entries: Vec<(usize, Value)>) -> Value {
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

    /// Torch's dims: `min`, `max` and every derived dim in use; without those of one value, which torch does not have.
    fn torch_dims(&self) -> Map<String, Value> {
        let derived = |name: &str| -> BTreeSet<String> {
            let axes = self.inputs.iter().flat_map(|i| &i.axes);
            axes.filter_map(|a| match a {
                Axis::Dim(e) if e.root == name && !e.is_root() => Some(e.to_string()),
                _ => None,
            })
            .collect()
        };
        let dims = self.dims.iter().filter(|(_, r)| r.max != Some(r.min));
        dims.map(|(name, r)| {
            (
                name.clone(),
                json!({ "min": r.min, "max": r.max, "derived": derived(name) }),
            )
        })
        .collect()
    }

    fn torch_axis(&self, axis: &Axis) -> Value {
        let range = self.range(axis);
        if range.max == Some(range.min) {
            json!(range.min)
        } else {
            axis_json(axis)
        }
    }
}

fn axis_json(axis: &Axis) -> Value {
    match axis {
        Axis::Fixed(n) => json!(n),
        Axis::Dim(e) => json!(e.to_string()),
    }
}

impl ShapeSpec {
    /// This spec for a model with these inputs in another form.
    ///
    /// # Errors
    /// As [`ShapeSpec::resolve`]; and [`Error::Form`] where the other form would mean something else, since torch's dump
    /// has no names for what is positional.
    pub fn convert(
        &self,
        inputs: &[TensorDecl],
        overrides: &Overrides,
        form: Form,
    ) -> Result<Converted, Error> {
        let resolved = self.resolve(inputs, overrides)?;
        let mut lost = Vec::new();
        let candidates = match form {
            Form::Inputs => vec![resolved.to_spec()],
            Form::Args => vec![self.as_args(inputs, &resolved)],
            Form::Torch => {
                for (name, root) in &resolved.dims {
                    if root.opt != default_opt(root.min, root.max) {
                        lost.push(format!(
                            "torch's dump has no place for the opt {} of `{name}`",
                            root.opt
                        ));
                    }
                }
                self.as_torch(inputs, &resolved)
            }
        };
        let means_the_same = |text: &String| {
            let again = ShapeSpec::parse(text, "converted")
                .and_then(|s| s.resolve(inputs, &Overrides::default()));
            again.is_ok_and(|again| {
                let differs = |r: Relation| matches!(r, Relation::Outside { .. });
                !differs(again.compare(&resolved)) && !differs(resolved.compare(&again))
            })
        };
        match candidates.into_iter().find(means_the_same) {
            Some(text) => Ok(Converted { text, lost }),
            None => Err(Error::Form {
                form: form.name(),
                reason: "matched by position, its tensors would be other inputs of the model"
                    .into(),
            }),
        }
    }

    fn as_args(&self, inputs: &[TensorDecl], resolved: &Resolved) -> String {
        let leaf = |i: usize| {
            let axes = resolved.inputs[i].axes.iter();
            let Some(extents) = &inputs[i].dims else {
                return Value::Array(axes.map(axis_json).collect());
            };
            let dynamic = axes
                .zip(extents)
                .enumerate()
                .filter(|(_, (_, e))| !matches!(e, Extent::Fixed(_)));
            sparse(dynamic.map(|(axis, (a, _))| (axis, axis_json(a))).collect())
        };
        let dims = resolved.dims_json();
        let Body::Tree { args, kwargs, .. } = &self.body else {
            let named: Map<String, Value> = inputs
                .iter()
                .enumerate()
                .map(|(i, d)| (d.name.clone(), leaf(i)))
                .collect();
            return pretty(&json!({ "dims": dims, "kwargs": named }));
        };
        let mut trees = self.rewrite(inputs, leaf).into_iter();
        let args: Vec<Value> = trees.by_ref().take(args.len()).collect();
        let kwargs: Map<String, Value> = kwargs
            .iter()
            .map(|(name, _)| name.clone())
            .zip(trees)
            .collect();
        pretty(&json!({ "dims": dims, "args": args, "kwargs": kwargs }))
    }

    /// As torch dumps it, with everything positional; and with names, where nothing is positional.
    fn as_torch(&self, inputs: &[TensorDecl], resolved: &Resolved) -> Vec<String> {
        let leaf = |i: usize| {
            Value::Array(
                resolved.inputs[i]
                    .axes
                    .iter()
                    .map(|a| resolved.torch_axis(a))
                    .collect(),
            )
        };
        let write = |shapes: Value| {
            pretty(&json!({ "dynamic_shapes": shapes, "dims": resolved.torch_dims() }))
        };
        let Body::Tree { args, kwargs, .. } = &self.body else {
            return vec![write((0..inputs.len()).map(leaf).collect())];
        };
        let trees = self.rewrite(inputs, leaf);
        let mut texts = vec![write(Value::Array(trees.clone()))];
        if args.is_empty() {
            let named: Map<String, Value> = kwargs
                .iter()
                .map(|(name, _)| name.clone())
                .zip(trees)
                .collect();
            texts.push(write(Value::Object(named)));
        }
        texts
    }

    /// The spec's trees, args before kwargs, with `leaf(input)` for every leaf that is an input of the model.
    fn rewrite(&self, inputs: &[TensorDecl], leaf: impl Fn(usize) -> Value) -> Vec<Value> {
        let places = assign(&self.body, inputs, &mut Vec::new());
        let of: BTreeMap<String, usize> = places
            .iter()
            .enumerate()
            .filter_map(|(i, p)| Some((p.as_ref()?.describe(), i)))
            .collect();
        let Body::Tree {
            args,
            kwargs,
            torch,
        } = &self.body
        else {
            return Vec::new();
        };
        let (args_top, kwargs_top) = if *torch {
            ("dynamic_shapes", "dynamic_shapes")
        } else {
            ("args", "kwargs")
        };
        let args = args
            .iter()
            .enumerate()
            .map(|(i, t)| rewrite(t, &format!("{args_top}[{i}]"), &of, &leaf));
        let kwargs = kwargs
            .iter()
            .map(|(name, t)| rewrite(t, &format!("{kwargs_top}.{name}"), &of, &leaf));
        args.chain(kwargs).collect()
    }
}

fn rewrite(
    tree: &Tree,
    path: &str,
    of: &BTreeMap<String, usize>,
    leaf: &impl Fn(usize) -> Value,
) -> Value {
    match tree {
        Tree::Leaf(_) => of.get(path).map_or(Value::Null, |&i| leaf(i)),
        Tree::List(items) => {
            let items = items.iter().enumerate();
            items
                .map(|(i, t)| rewrite(t, &format!("{path}[{i}]"), of, leaf))
                .collect()
        }
        Tree::Dict(items) => {
            let items = items
                .iter()
                .map(|(k, t)| (k.clone(), rewrite(t, &format!("{path}.{k}"), of, leaf)));
            Value::Object(items.collect())
        }
    }
}
