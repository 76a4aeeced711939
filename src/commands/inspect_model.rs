//! What an ONNX model is, for `trtmut inspect`: interface, opsets, counts, structure.

use crate::onnx::{Model, Role};
use crate::tensor::{Digest, Extent, TensorDecl};
use crate::ui::{self, Align, Report, Table};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A model.
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

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{} is an ONNX model", self.model.display())?;
        if !self.producer.is_empty() {
            write!(out, " by {}", self.producer)?;
        }
        writeln!(out, "\n  structure  {}", self.structure)?;
        let opsets: Vec<String> = (self.opsets.iter())
            .map(|(domain, version)| format!("{domain} {version}"))
            .collect();
        writeln!(out, "  opset      {}", opsets.join(", "))?;
        write!(out, "  graph      {}", ui::count(self.nodes, "node"))?;
        if self.functions > 0 {
            write!(out, ", {}", ui::count(self.functions, "function"))?;
        }
        let c = &self.constants;
        writeln!(
            out,
            "\n  constants  {}, {}; {} structural, {} unused",
            ui::count(c.weights, "weight"),
            ui::bytes(c.weight_bytes),
            c.structural,
            c.unused
        )?;
        let shapes = match self.dynamic.len() {
            0 => "static".to_owned(),
            1 => "1 axis of the inputs is dynamic".into(),
            n => format!("{n} axes of the inputs are dynamic"),
        };
        writeln!(out, "  shapes     {shapes}")?;
        writeln!(out)?;
        tensors(out, &self.inputs, &self.outputs)?;
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

/// The table of inputs and outputs.
pub(super) fn tensors(
    out: &mut dyn Write,
    inputs: &[TensorDecl],
    outputs: &[TensorDecl],
) -> io::Result<()> {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("name", Align::Left),
        ("type", Align::Left),
        ("dims", Align::Left),
    ]);
    for (side, all) in [("input", inputs), ("output", outputs)] {
        for t in all {
            table.row([
                side.into(),
                t.name.clone(),
                t.dtype.to_string(),
                t.show_dims(),
            ]);
        }
    }
    table.write(out, 2)
}
