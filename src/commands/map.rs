//! `trtmut map`: which checkpoint tensor fills which weight, and how that is known.

use crate::exit::Exit;
use crate::mapping::{Grade, Recipe, Row, Step};
use crate::pipeline::Environment;
use crate::plan;
use crate::tensor::show_shape;
use crate::ui::{Align, Report, Screen, Table, Ui};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `trtmut map`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Grades: given (by --mapping), proven (equal in value), corroborated (name or path, and closeness or \
    structure), constant (belongs to the graph), ambiguous (several fit), unproven (at most a name).\n\
    A row is proven at build with --base-weights FILE; \"probed\" says that a second export (build --probe) proves it too."
)]
pub struct Args {
    /// The plan
    #[arg(value_parser = crate::commands::plan_path())]
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
    /// Whether base weights were given, by which rows could be proven.
    #[serde(skip)]
    has_base: bool,
    grades: BTreeMap<&'static str, usize>,
    /// Rows that a second export proves.
    probed: usize,
    rows: Vec<Row>,
}

impl Report for MapReport {
    const SCHEMA: &'static str = "trtmut.map/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
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
                if row.probed {
                    format!("{}, probed", self.grade(row))
                } else {
                    self.grade(row).into()
                },
                self.source(row),
            ]);
        }
        table.write(out, 0)?;
        let counts: Vec<String> = self
            .grades
            .iter()
            .map(|(grade, n)| match *grade {
                "unproven" if !self.has_base => format!("{n} not proven yet"),
                grade => format!("{n} {grade}"),
            })
            .collect();
        let probed = match self.probed {
            0 => String::new(),
            n => format!("; {n} proven by the probe"),
        };
        writeln!(out)?;
        writeln!(out, "{}{probed}", counts.join(", "))?;
        if !self.has_base {
            writeln!(
                out,
                "no base weights were given: the sources are what the graph's names say.\n\
                 `trtmut build MODEL --base-weights BASE.safetensors` proves each by its values"
            )?;
        }
        Ok(())
    }
}

impl MapReport {
    /// Nothing is wrong with a row that nobody could prove yet.
    fn grade(&self, row: &Row) -> &'static str {
        match row.grade {
            Grade::Unproven if !self.has_base && name(row).is_some() => "by name",
            Grade::Unproven if !self.has_base => "open",
            grade => grade.name(),
        }
    }

    fn source(&self, row: &Row) -> String {
        match (source(row), name(row)) {
            (Some(source), _) => source,
            (None, Some(name)) if !self.has_base => name.to_owned(),
            (None, Some(name)) => format!("{name} ?"),
            (None, None) if row.grade == Grade::Constant || !self.has_base => "-".into(),
            (None, None) => "?".into(),
        }
    }
}

/// The first name that speaks for a row.
fn name(row: &Row) -> Option<&str> {
    let names = row.hints.iter().flat_map(|h| &h.names);
    names.map(String::as_str).next()
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

/// A derivation in a line.
fn source(row: &Row) -> Option<String> {
    row.recipe.as_ref().map(derivation)
}

fn after(mut text: String, steps: &[Step]) -> String {
    for step in steps {
        text.push_str(" | ");
        text.push_str(&step_text(step));
    }
    text
}

fn derivation(recipe: &Recipe) -> String {
    match recipe {
        Recipe::Tensor { source, steps } => after(source.clone(), steps),
        Recipe::BatchNorm { .. } => format!("fold({})", recipe.sources().join(", ")),
        Recipe::WeightNorm {
            direction,
            magnitude,
            steps,
            ..
        } => after(format!("weight norm({magnitude}, {direction})"), steps),
        Recipe::Rows { runs, .. } => {
            const SHOWN: usize = 4;
            let shown = runs.iter().take(SHOWN);
            let parts = shown.map(|r| format!("{}[{}:{}]", r.source, r.start, r.start + r.len));
            let mut text = parts.collect::<Vec<_>>().join(", ");
            if runs.len() > SHOWN {
                text.push_str(", …");
            }
            text
        }
        Recipe::Sum { terms } => {
            let terms: Vec<String> = terms.iter().map(derivation).collect();
            terms.join(" + ")
        }
    }
}

pub fn run(args: &Args, ui: &Ui, _environment: &Environment) -> anyhow::Result<Exit> {
    let manifest = plan::open(&args.plan)?;
    let has_base = manifest.base.is_some();
    let all: Vec<Row> = manifest
        .weights
        .into_iter()
        .filter_map(|w| w.mapping.map(|row| *row))
        .collect();
    let mut grades = BTreeMap::new();
    for row in &all {
        *grades.entry(row.grade.name()).or_default() += 1;
    }
    let probed = all.iter().filter(|r| r.probed).count();
    let rows = all
        .into_iter()
        .filter(|r| args.grade.as_deref().is_none_or(|g| r.grade.name() == g))
        .collect();
    ui.result(&MapReport {
        plan: args.plan.clone(),
        has_base,
        grades,
        probed,
        rows,
    })?;
    Ok(Exit::Done)
}
