//! `trtmut cache explain`: why a build would hit or miss.

use super::entries::{Entry, as_map};
use super::short;
use crate::cache::{Difference, KeyFields, Store};
use crate::commands::wanted::WantedArgs;
use crate::onnx::Model;
use crate::pipeline::{self, Environment};
use crate::shapes::{Axis, ProfileInput, Resolved};
use crate::ui::{Report, Screen, Ui};
use serde::Serialize;
use std::io::{self, Write};

/// Arguments of `trtmut cache explain`: those of the build.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// Read all weights, though the files are as they were when they were last read
    #[arg(long)]
    rehash: bool,

    #[command(flatten)]
    wanted: WantedArgs,
}

#[derive(Debug, Serialize)]
struct NearEntry<'l> {
    entry: Entry<'l>,
    differences: &'l [Difference],
    /// The same for people: `BATCH max 8 -> 9`.
    changes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ExplainReport<'l> {
    key: String,
    hit: bool,
    #[serde(serialize_with = "as_map")]
    fields: &'l KeyFields,
    nearest: Vec<NearEntry<'l>>,
}

impl Report for ExplainReport<'_> {
    const SCHEMA: &'static str = "trtmut.cache-explain/1";

    fn human(&self, out: &mut Screen<'_>) -> io::Result<()> {
        let key = short(&self.key);
        if self.hit {
            return writeln!(
                out,
                "hit: the engine {key} is there; it is copied, or refitted where the weights differ"
            );
        }
        writeln!(out, "miss: there is no engine {key}")?;
        if let Some(near) = self.nearest.first() {
            writeln!(
                out,
                "nearest is {}, which differs in",
                short(&near.entry.key)
            )?;
            for change in &near.changes {
                writeln!(out, "  {change}")?;
            }
        }
        Ok(())
    }
}

/// What differs, from what is there to what is wanted; a dim of several axes once.
fn changes(wanted: &Resolved, differences: &[Difference]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for difference in differences {
        for line in change(wanted, difference) {
            if !all.contains(&line) {
                all.push(line);
            }
        }
    }
    all
}

fn change(wanted: &Resolved, difference: &Difference) -> Vec<String> {
    let Difference {
        label,
        wanted: is,
        found: was,
    } = difference;
    let input = |text: &Option<String>| -> Option<ProfileInput> {
        serde_json::from_str(text.as_deref()?).ok()
    };
    if label.starts_with("profile of input ") {
        return match (input(was), input(is)) {
            (Some(was), Some(is)) => ranges(wanted, &was, &is),
            (Some(was), None) => vec![format!("input `{}` is not wanted", was.name)],
            (None, Some(is)) => vec![format!("input `{}` is not there", is.name)],
            (None, None) => Vec::new(),
        };
    }
    // Those of single inputs, which begin likewise, came before.
    if let Some(number) = label.strip_prefix("profile ") {
        let all = |text: &Option<String>| -> Option<Vec<ProfileInput>> {
            serde_json::from_str(text.as_deref()?).ok()
        };
        let lines = match (all(was), all(is)) {
            (Some(was), Some(is)) => {
                let pairs = was.iter().zip(&is);
                pairs
                    .flat_map(|(was, is)| ranges(wanted, was, is))
                    .collect()
            }
            (Some(_), None) => vec!["not wanted".to_owned()],
            (None, _) => vec!["not there".to_owned()],
        };
        let named = lines.into_iter();
        return named
            .map(|line| format!("optimization profile {number}: {line}"))
            .collect();
    }
    let show = |text: &Option<String>| match text {
        None => "not set".to_owned(),
        // Digests are told apart by their beginning.
        Some(text) => match text.split_once(':') {
            Some(("blake3", digits)) => short(digits).to_owned(),
            _ => text.clone(),
        },
    };
    vec![format!("{label} {} -> {}", show(was), show(is))]
}

/// Where two ranges of an input differ, by the names that the wanted spec has for its axes.
fn ranges(wanted: &Resolved, was: &ProfileInput, is: &ProfileInput) -> Vec<String> {
    if was.name != is.name || was.axes.len() != is.axes.len() || was.dtype != is.dtype {
        return vec![format!(
            "input `{}` {} of rank {} -> `{}` {} of rank {}",
            was.name,
            was.dtype,
            was.axes.len(),
            is.name,
            is.dtype,
            is.axes.len()
        )];
    }
    let axes = wanted.inputs().iter().find(|i| i.name == is.name);
    let input_name = &is.name;
    let mut lines = Vec::new();
    for (at, (was, is)) in was.axes.iter().zip(&is.axes).enumerate() {
        let axis = axes.and_then(|input| input.axes.get(at));
        let name = match axis {
            Some(Axis::Dim(expr)) => expr.to_string(),
            _ => format!("axis {at} of `{input_name}`"),
        };
        let bound = |b: Option<usize>| b.map_or("any".to_owned(), |b| b.to_string());
        for (what, was, is) in [
            ("min", Some(was.min), Some(is.min)),
            ("opt", Some(was.opt), Some(is.opt)),
            ("max", was.max, is.max),
        ] {
            if was != is {
                lines.push(format!("{name} {what} {} -> {}", bound(was), bound(is)));
            }
        }
    }
    lines
}

pub(super) fn explain(
    store: &Store,
    asked: &ExplainArgs,
    ui: &Ui,
    environment: &Environment,
) -> anyhow::Result<()> {
    let wanted = &asked.wanted;
    let model = Model::open(&wanted.model)?;
    let resolved = wanted.resolve(&model)?;
    let settings = wanted.engine.settings(None);
    let backend = pipeline::choose(wanted.backend, &model, &settings, environment, ui)?;
    let identity = backend.identity();
    let (options, memo) = (
        pipeline::with_plugins(wanted.engine.options(), environment)?,
        store.memo().rehash(asked.rehash),
    );
    // As in a build: profiles are joined before the key is made, where the engine can have but one.
    let (shapes, _) = pipeline::shapes_of_engine(&identity.backend, &options, &resolved);
    let fields = pipeline::key_fields(
        &model,
        &shapes.profile(),
        &options,
        &identity,
        Some(&memo),
        ui,
    );
    let probe = wanted.probe();
    let fields = pipeline::with_checkpoint(
        fields,
        &model,
        &options,
        wanted.mapping(probe.as_ref()),
        Some(&memo),
        ui,
    )?;
    let found = store.explain(&fields)?;
    let nearest = found.nearest.iter().map(|n| NearEntry {
        entry: Entry::new(store, &n.entry),
        changes: changes(&resolved, &n.differences),
        differences: &n.differences,
    });
    ui.result(&ExplainReport {
        key: found.key.to_string(),
        hit: found.hit.is_some(),
        fields: &fields,
        nearest: nearest.collect(),
    })?;
    Ok(())
}
