//! `trtmut map`: which checkpoint tensor fills which weight, and how that is known.

use crate::exit::Exit;
use crate::mapping::{Grade, Recipe, Row, Step};
use crate::pipeline::Environment;
use crate::plan;
use crate::tensor::show_shape;
use crate::ui::{Align, Report, Table, Ui};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `trtmut map`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Grades: given (by --mapping), proven (equal in value), corroborated (name or path, and closeness or \
    structure), constant (belongs to the graph), ambiguous (several fit), unproven (at most a name).\n\
    A row is proven at build with --weights FILE, or at the first refit from a checkpoint."
)]
pub struct Args {
    /// The plan
    plan: PathBuf,

    /// Only rows of this grade
    #[arg(long, value_name = "GRADE", value_parser = GRADES)]
    grade: Option<String>,
}

/// What [`Grade::name`] gives, best first.
const GRADES: [&str; 6] = [
    "given",
    "proven",
    "corroborated",
    "constant",
    "ambiguous",
    "unproven",
];

#[derive(Debug, Serialize)]
struct MapReport {
    plan: PathBuf,
    grades: BTreeMap<&'static str, usize>,
    rows: Vec<Row>,
}

impl Report for MapReport {
    const SCHEMA: &'static str = "trtmut.map/1";

    fn human(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(&[
            ("weight", Align::Left),
            ("shape", Align::Left),
            ("grade", Align::Left),
            ("source", Align::Left),
        ]);
        for row in &self.rows {
            table.row([
                row.name.clone(),
                show_shape(&row.shape),
                row.grade.name().into(),
                source(row),
            ]);
        }
        table.write(out, 0)?;
        let counts: Vec<String> = self
            .grades
            .iter()
            .map(|(g, n)| format!("{n} {g}"))
            .collect();
        writeln!(out, "\n{}", counts.join(", "))
    }
}

fn step_text(step: &Step) -> String {
    match step {
        Step::Permute { order } if order == &[1, 0] => "transpose".into(),
        Step::Permute { order } => format!("permute {order:?}"),
        Step::Reshape { shape } => format!("reshape {}", show_shape(shape)),
        Step::Cast { dtype } => format!("cast {dtype}"),
        Step::Scale { factor } => format!("scale {}", factor.get()),
        Step::Offset { value } => format!("add {}", value.get()),
        Step::Exp => "exp".into(),
    }
}

fn source(row: &Row) -> String {
    match &row.recipe {
        Some(Recipe::Tensor { source, steps }) => {
            let mut text = source.clone();
            for step in steps {
                text.push_str(" | ");
                text.push_str(&step_text(step));
            }
            text
        }
        Some(recipe @ Recipe::BatchNorm { .. }) => format!("fold({})", recipe.sources().join(", ")),
        Some(Recipe::Rows { runs, .. }) => {
            const SHOWN: usize = 4;
            let shown = runs.iter().take(SHOWN);
            let parts = shown.map(|r| format!("{}[{}:{}]", r.source, r.start, r.start + r.len));
            let mut text = parts.collect::<Vec<_>>().join(" + ");
            if runs.len() > SHOWN {
                text.push_str(" + …");
            }
            text
        }
        None if row.grade == Grade::Constant => "-".into(),
        None => {
            let names: Vec<&str> = row
                .hints
                .iter()
                .flat_map(|h| &h.names)
                .map(String::as_str)
                .collect();
            match names[..] {
                [] => "?".into(),
                [first, ..] => format!("{first} ?"),
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Anything that `commands::explain` knows.
pub fn run(args: &Args, ui: &Ui, _environment: &Environment) -> anyhow::Result<Exit> {
    let manifest = plan::open(&args.plan)?;
    let all: Vec<Row> = manifest
        .weights
        .into_iter()
        .filter_map(|w| w.mapping)
        .collect();
    let mut grades = BTreeMap::new();
    for row in &all {
        *grades.entry(row.grade.name()).or_default() += 1;
    }
    let rows = all
        .into_iter()
        .filter(|r| args.grade.as_deref().is_none_or(|g| r.grade.name() == g))
        .collect();
    ui.result(&MapReport {
        plan: args.plan.clone(),
        grades,
        rows,
    })?;
    Ok(Exit::Done)
}
