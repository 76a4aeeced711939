//! Specs against models, as a whole.

mod binding;
mod forms;
mod hostile;
mod models;
mod oracle;
mod profiles;
mod trees;

use super::*;
use crate::tensor::{Dtype, Extent, TensorDecl};

/// `decl("x", "B 4 ? 4*h")`; the empty text is a scalar, `*` an unknown rank. A symbol with spaces is written with `_`s
/// replaced by nothing else than itself, so expressions here have no spaces.
pub fn decl(name: &str, dims: &str) -> TensorDecl {
    let extent = |d: &str| match d {
        "?" => Extent::Unknown,
        d => d
            .parse()
            .map_or_else(|_| Extent::Symbol(d.to_owned()), Extent::Fixed),
    };
    let dims = (dims != "*").then(|| dims.split_whitespace().map(extent).collect());
    TensorDecl {
        name: name.to_owned(),
        dtype: Dtype::F32,
        dims,
    }
}

pub fn spec(json: &str) -> ShapeSpec {
    ShapeSpec::parse(json, "shapes.json").unwrap_or_else(|e| panic!("{e}\n{json}"))
}

pub fn resolve(json: &str, inputs: &[TensorDecl]) -> Result<Resolved, Error> {
    spec(json).resolve(inputs, &Overrides::default())
}

/// `min:opt:max` of every axis, one line per input.
pub fn table(resolved: &Resolved) -> String {
    let line = |i: &ProfileInput| {
        let axes = i.axes.iter().map(|a| match a.max {
            Some(max) if max == a.min => a.min.to_string(),
            max => format!(
                "{}:{}:{}",
                a.min,
                a.opt,
                max.map_or_else(String::new, |m| m.to_string())
            ),
        });
        format!("{} {}", i.name, axes.collect::<Vec<_>>().join(" "))
    };
    resolved
        .profile()
        .inputs
        .iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

pub fn shapes(text: &[(&str, &[usize])]) -> InputShapes {
    text.iter()
        .map(|(n, s)| ((*n).to_owned(), s.to_vec()))
        .collect()
}
