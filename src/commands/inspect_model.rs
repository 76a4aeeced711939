//! What an ONNX model is, for `trtmut inspect`: interface, opsets, counts, structure.

use super::tables;
use crate::onnx::{Model, Role};
use crate::tensor::{Digest, Extent, TensorDecl};
use crate::ui::{self, Align, Report, Screen, Table};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
pub(super) struct ModelReport {
    model: PathBuf,
    producer: String,
    structure: Digest,
    /// Version of every operator set, by domain; the standard one is `ai.onnx`.
    opsets: BTreeMap<String, i64>,
    /// Nodes of the main graph.
    nodes: usize,
    functions: usize,
    constants: Counts,
    inputs: Vec<TensorDecl>,
    outputs: Vec<TensorDecl>,
    /// Where the inputs vary.
    dynamic: Vec<DynamicAxis>,
    #[serde(skip)]
    list: Vec<Constant>,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    weights: usize,
    weight_bytes: u64,
    structural: usize,
    unused: usize,
}

/// An axis of an input without a fixed size.
#[derive(Debug, Serialize)]
struct DynamicAxis {
    input: String,
    axis: usize,
    /// The model's `dim_param`, where it has one.
    symbol: Option<String>,
}

impl ModelReport {
    fn facts(&self) -> Table {
        let mut table = Table::list(&[Align::Left, Align::Left]);
        let mut row = |label: &str, text: String| table.row([label.to_owned(), text]);
        row("structure", self.structure.to_string());
        let opsets: Vec<String> = (self.opsets.iter())
            .map(|(domain, version)| format!("{domain} {version}"))
            .collect();
        row("opset", opsets.join(", "));
        let mut graph = ui::count(self.nodes, "node");
        if self.functions > 0 {
            graph = format!("{graph}, {}", ui::count(self.functions, "function"));
        }
        row("graph", graph);
        let c = &self.constants;
        row(
            "constants",
            format!(
                "{}, {}; {} structural, {} unused",
                ui::count(c.weights, "weight"),
                ui::bytes(c.weight_bytes),
                c.structural,
                c.unused
            ),
        );
        row(
            "shapes",
            match self.dynamic.len() {
                0 => "static".to_owned(),
                1 => "1 axis of the inputs is dynamic".into(),
                n => format!("{n} axes of the inputs are dynamic"),
            },
        );
        table
    }
}

/// A constant as `--weights` lists it.
#[derive(Debug)]
struct Constant {
    name: String,
    dtype: String,
    shape: String,
    role: String,
}

impl ModelReport {
    pub fn new(path: &Path, model: &Model, list: bool) -> ModelReport {
        let proto = model.proto();
        let opsets = proto.opset_import.iter().map(|o| {
            // ONNX writes the standard domain as an empty text.
            let domain = if o.domain.is_empty() {
                "ai.onnx"
            } else {
                &o.domain
            };
            (domain.to_owned(), o.version)
        });
        let mut constants = Counts::default();
        for weight in model.weights() {
            match weight.role {
                Role::Weight => {
                    constants.weights += 1;
                    constants.weight_bytes += weight.byte_length() as u64;
                }
                Role::Structural { .. } => constants.structural += 1,
                Role::Unused => constants.unused += 1,
            }
        }
        let rows = model.weights().iter().filter(|_| list);
        ModelReport {
            model: path.to_owned(),
            producer: format!("{} {}", proto.producer_name, proto.producer_version)
                .trim()
                .to_owned(),
            structure: model.structure_digest(),
            opsets: opsets.collect(),
            nodes: proto.graph.as_ref().map_or(0, |g| g.node.len()),
            functions: proto.functions.len(),
            constants,
            inputs: model.inputs().to_vec(),
            outputs: model.outputs().to_vec(),
            dynamic: dynamic(model.inputs()),
            list: rows
                .map(|w| Constant {
                    name: w.name.clone(),
                    dtype: w.dtype.to_string(),
                    shape: crate::tensor::show_shape(&w.shape),
                    role: match &w.role {
                        Role::Weight => String::new(),
                        Role::Structural { why, .. } => (*why).into(),
                        Role::Unused => "unused".into(),
                    },
                })
                .collect(),
        }
    }
}

fn dynamic(inputs: &[TensorDecl]) -> Vec<DynamicAxis> {
    let axes = inputs.iter().flat_map(|input| {
        let extents = input.dims.iter().flatten().enumerate();
        extents.map(|(axis, extent)| (input.name.clone(), axis, extent))
    });
    axes.filter_map(|(input, axis, extent)| match extent {
        Extent::Fixed(_) => None,
        Extent::Symbol(s) => Some((input, axis, Some(s.clone()))),
        Extent::Unknown => Some((input, axis, None)),
    })
    .map(|(input, axis, symbol)| DynamicAxis {
        input,
        axis,
        symbol,
    })
    .collect()
}

impl Report for ModelReport {
    const SCHEMA: &'static str = "trtmut.inspect-model/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        write!(out, "{} is an ONNX model", ui::path(&self.model))?;
        if !self.producer.is_empty() {
            write!(out, " by {}", self.producer)?;
        }
        writeln!(out)?;
        self.facts().write(out, 2)?;
        writeln!(out)?;
        tables::tensors(&self.inputs, &self.outputs).write(out, 2)?;
        if !self.list.is_empty() {
            writeln!(out)?;
            let mut table = Table::new(&[
                ("constant", Align::Left),
                ("type", Align::Left),
                ("shape", Align::Left),
                ("", Align::Left),
            ]);
            for c in &self.list {
                table.row([
                    c.name.clone(),
                    c.dtype.clone(),
                    c.shape.clone(),
                    c.role.clone(),
                ]);
            }
            table.write(out, 2)?;
        }
        Ok(())
    }
}
