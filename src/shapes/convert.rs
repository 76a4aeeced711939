//! One form of a spec written as another.

use super::args::Overrides;
use super::assign::assign;
use super::compare::Relation;
use super::error::Error;
use super::expr::{Affine, MAX_SIZE};
use super::hint::{Hint, HintKind};
use super::leaves::{Place, tops};
use super::names::default_opt;
use super::resolved::{Axis, Resolved, Root};
use super::spec::{Body, Entry, Leaf, ShapeSpec, Tree, entry_of};
use super::write::{axis_json, dim_json, pretty, sparse};
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
    pub text: String,
    /// What that form cannot say, one sentence each.
    pub lost: Vec<String>,
}

impl ShapeSpec {
    /// This spec for a model with these inputs in another form. A hint stays a hint.
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
        let dims = self.with_overrides(overrides)?;
        let assigned = assign(&self.body, &dims, inputs);
        let writer = Writer {
            spec: self,
            inputs,
            resolved: &resolved,
            overrides,
            form,
            places: assigned.places,
            left_out: assigned.warnings,
        };
        let candidates = match form {
            Form::Inputs => vec![writer.by_input()],
            Form::Args => vec![writer.by_argument()],
            Form::Torch => writer.as_torch(),
        };
        // The text is read back and tied to the same model: a form that cannot say the spec is
        // found by its result and needs no rules of its own.
        let means_the_same = |text: &String| {
            let again = ShapeSpec::parse(text, "converted")
                .and_then(|s| s.resolve(inputs, &Overrides::default()));
            let whole = match form {
                // Torch's dump has no profiles.
                Form::Torch => resolved.joined(),
                Form::Args | Form::Inputs => resolved.clone(),
            };
            again.is_ok_and(|again| {
                let differs = |r: Relation| matches!(r, Relation::Outside { .. });
                !differs(again.compare(&whole)) && !differs(whole.compare(&again))
            })
        };
        match candidates.into_iter().find(means_the_same) {
            Some(text) => Ok(Converted {
                text,
                lost: writer.lost(),
            }),
            None => Err(Error::Form {
                form: form.name(),
                reason: "matched by position, its tensors would be other inputs of the model"
                    .into(),
            }),
        }
    }
}

/// A spec that is being written for a model.
struct Writer<'a> {
    spec: &'a ShapeSpec,
    inputs: &'a [TensorDecl],
    resolved: &'a Resolved,
    overrides: &'a Overrides,
    form: Form,
    /// Where the spec speaks of each input.
    places: Vec<Option<Place<'a>>>,
    /// What the spec says of no input.
    left_out: Vec<String>,
}

impl Writer<'_> {
    fn by_input(&self) -> String {
        let inputs: Map<String, Value> = (self.inputs.iter().enumerate())
            .map(|(i, decl)| (decl.name.clone(), self.full(i)))
            .collect();
        self.text(json!({ "dims": self.dims(), "inputs": inputs }))
    }

    fn by_argument(&self) -> String {
        // Static axes need no entry, and without them the spec reads as it is written by hand.
        let leaf = |i: usize| {
            let Some(extents) = &self.inputs[i].dims else {
                return self.full(i);
            };
            let dynamic = (extents.iter().enumerate())
                .filter(|(_, extent)| !matches!(extent, Extent::Fixed(_)));
            sparse(
                dynamic
                    .map(|(axis, _)| (axis, self.entry(i, axis)))
                    .collect(),
            )
        };
        let dims = self.dims();
        let Body::Tree { args, kwargs, .. } = &self.spec.body else {
            let named: Map<String, Value> = (self.inputs.iter().enumerate())
                .map(|(i, d)| (d.name.clone(), leaf(i)))
                .collect();
            return self.text(json!({ "dims": dims, "kwargs": named }));
        };
        let mut trees = self.rewrite(leaf).into_iter();
        let args: Vec<Value> = trees.by_ref().take(args.len()).collect();
        let kwargs: Map<String, Value> =
            (kwargs.iter().map(|(name, _)| name.clone()).zip(trees)).collect();
        self.text(json!({ "dims": dims, "args": args, "kwargs": kwargs }))
    }

    /// A spec with the profiles that this one has.
    fn text(&self, mut spec: Value) -> String {
        let written = self.dims();
        let profiles = self.resolved.profiles.iter().map(|dims| {
            let dims = dims.iter().filter(|(name, _)| written.contains_key(*name));
            let dims = dims.map(|(name, r)| (name.clone(), dim_json(r.min, r.max, Some(r.opt))));
            Value::Object(dims.collect())
        });
        let profiles: Vec<Value> = profiles.collect();
        if !profiles.is_empty() {
            spec["profiles"] = profiles.into();
        }
        pretty(&spec)
    }

    /// As torch dumps it, with everything positional; and with names, where nothing is positional.
    fn as_torch(&self) -> Vec<String> {
        let write =
            |shapes: Value| pretty(&json!({ "dynamic_shapes": shapes, "dims": self.dims() }));
        let Body::Tree { args, kwargs, .. } = &self.spec.body else {
            return vec![write(
                (0..self.inputs.len()).map(|i| self.full(i)).collect(),
            )];
        };
        let trees = self.rewrite(|i| self.full(i));
        // Torch reads a list as the tuple of all arguments, positional first; a dict has no place
        // for positional ones.
        let mut texts = vec![write(Value::Array(trees.clone()))];
        if args.is_empty() {
            let named: Map<String, Value> =
                (kwargs.iter().map(|(name, _)| name.clone()).zip(trees)).collect();
            texts.push(write(Value::Object(named)));
        }
        texts
    }

    /// One entry per axis.
    fn full(&self, i: usize) -> Value {
        let axes = 0..self.resolved.inputs[i].axes.len();
        Value::Array(axes.map(|axis| self.entry(i, axis)).collect())
    }

    /// The spec's trees, args before kwargs, with `leaf(input)` for every leaf that is an input of the model.
    fn rewrite(&self, leaf: impl Fn(usize) -> Value) -> Vec<Value> {
        let of: BTreeMap<String, usize> = (self.places.iter().enumerate())
            .filter_map(|(i, p)| Some((p.as_ref()?.describe(), i)))
            .collect();
        let Body::Tree {
            args,
            kwargs,
            torch,
        } = &self.spec.body
        else {
            return Vec::new();
        };
        let (args_top, kwargs_top) = tops(*torch);
        let args = (args.iter().enumerate())
            .map(|(i, t)| rewrite(t, &format!("{args_top}[{i}]"), &of, &leaf));
        let kwargs = (kwargs.iter())
            .map(|(name, t)| rewrite(t, &format!("{kwargs_top}.{name}"), &of, &leaf));
        args.chain(kwargs).collect()
    }

    /// The hint that the spec has for an axis, unless the command line gives its dim a range.
    fn hint(&self, i: usize, axis: usize) -> Option<Hint> {
        let axes = &self.resolved.inputs[i].axes;
        let leaf = self.places[i].as_ref().map(|p| p.leaf);
        let Some(Entry::Hint(hint)) = entry_of(leaf, axis, axes.len()) else {
            return None;
        };
        let replaced = match &axes[axis] {
            Axis::Dim(e) => {
                let given = self.overrides.dims.contains_key(&e.root)
                    || self.overrides.opt.contains_key(&e.root);
                given && !self.spec.dims.contains_key(&e.root)
            }
            Axis::Fixed(_) => false,
        };
        (!replaced).then_some(*hint)
    }

    fn entry(&self, i: usize, axis: usize) -> Value {
        match (self.hint(i, axis), self.form) {
            (Some(hint), Form::Torch) if hint.kind == HintKind::Static || !hint.is_bounded() => {
                json!(format!("_DimHint.{}", hint.kind.name()))
            }
            (Some(hint), Form::Args | Form::Inputs) if hint.is_bounded() => json!(hint.to_string()),
            (Some(hint), Form::Args | Form::Inputs) => json!(hint.kind.name()),
            _ => self.plain(i, axis),
        }
    }

    /// A dim, an expression or a size. Torch has no dims of one value.
    fn plain(&self, i: usize, axis: usize) -> Value {
        let axis = &self.resolved.inputs[i].axes[axis];
        let range = self.resolved.range(axis);
        match axis {
            _ if self.form != Form::Torch => axis_json(axis),
            _ if range.max == Some(range.min) => json!(range.min),
            Axis::Fixed(n) => json!(n),
            Axis::Dim(e) => {
                let root = self.torch_name(&e.root);
                json!(Affine { root, ..e.clone() }.to_string())
            }
        }
    }

    /// The dims that are written, by name; for torch with every derived dim.
    fn dims(&self) -> Map<String, Value> {
        let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (i, input) in self.resolved.inputs.iter().enumerate() {
            for (axis, expr) in input.axes.iter().enumerate() {
                let (Axis::Dim(e), written) = (expr, self.entry(i, axis)) else {
                    continue;
                };
                // A hint is written as a hint, and then the dim that it became need not be listed.
                if written == self.plain(i, axis) && !written.is_number() {
                    let derived = used.entry(&e.root).or_default();
                    derived.extend((!e.is_root()).then(|| written.as_str().unwrap_or("").into()));
                }
            }
        }
        let dims = used.into_iter().map(|(name, derived)| {
            let Root { min, max, opt } = self.resolved.dims[name];
            if self.form == Form::Torch {
                // Its loader has no other word for no bound.
                let max = max.unwrap_or(MAX_SIZE);
                let dim = json!({ "min": min, "max": max, "derived": derived });
                (self.torch_name(name), dim)
            } else {
                (name.to_owned(), dim_json(min, max, Some(opt)))
            }
        });
        dims.collect()
    }

    /// A name that torch's loader takes for a symbol: it lets sympy read it, to which `N` is a function.
    fn torch_name(&self, name: &str) -> String {
        let taken = |name: &str| SYMPY_NAMES.lines().any(|n| n == name);
        let mut free = name.to_owned();
        while taken(&free) || (free != name && self.resolved.dims.contains_key(&free)) {
            free.push('_');
        }
        free
    }

    /// What the form cannot say.
    fn lost(&self) -> Vec<String> {
        let mut lost = Vec::new();
        if self.form == Form::Torch && self.resolved.profile_count() > 1 {
            lost.push(
                "torch's dump has one range for each dim: the profiles are joined into one"
                    .to_owned(),
            );
        }
        lost.extend(
            self.left_out
                .iter()
                .map(|w| format!("{w}; they are null here")),
        );
        if self.form != Form::Torch {
            return lost;
        }
        let written = self.dims();
        for (name, root) in &self.resolved.dims {
            let torch_name = self.torch_name(name);
            if root.opt != default_opt(root.min, root.max) {
                lost.push(format!(
                    "torch's dump has no place for the opt {} of `{name}`",
                    root.opt
                ));
            }
            if written.contains_key(&torch_name) && torch_name != *name {
                lost.push(format!(
                    "torch cannot load a dim called `{name}`, so it is `{torch_name}` there"
                ));
            }
        }
        for (i, input) in self.resolved.inputs.iter().enumerate() {
            for (axis, resolved) in input.axes.iter().enumerate() {
                let hint = self.hint(i, axis).filter(Hint::is_bounded);
                if let (Some(hint), Axis::Dim(e)) = (hint, resolved) {
                    lost.push(format!(
                        "torch's dump has no place for the bounds of `{hint}`: axis {axis} of `{}` is the dim `{}` there",
                        input.name,
                        self.torch_name(&e.root)
                    ));
                }
            }
        }
        lost
    }
}

const SYMPY_NAMES: &str = include_str!("sympy_names.txt");

fn rewrite(
    tree: &Tree,
    path: &str,
    of: &BTreeMap<String, usize>,
    leaf: &impl Fn(usize) -> Value,
) -> Value {
    match tree {
        Tree::Leaf(given) => match (of.get(path), given) {
            (Some(&i), _) => leaf(i),
            // What is no input keeps its form, so that the tree stays that of the call.
            (None, Leaf::Nulls(n)) => vec![Value::Null; *n].into(),
            (None, Leaf::Sparse(axes)) if axes.is_empty() => json!({}),
            (None, _) => Value::Null,
        },
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
