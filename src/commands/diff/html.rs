//! `diff --html`: the comparison as one file that a browser shows, with every tensor in it and nothing that it would have to fetch.
//!
//! Names come from files. In the markup they are escaped, in the data they are JSON without a character that ends a script, and the
//! page's script sets them as text; its policy lets no other script run.

use super::report::DiffReport;
use super::words::describe;
use crate::commands::UsageError;
use crate::diff::{self, Reason, TensorChange, Verdict};
use crate::fsx;
use crate::pipeline::{Measured, ThingKind, kind_of};
use crate::plan::{self, Manifest};
use crate::tensor::{Digest, show_shape};
use crate::ui;
use crate::weights::Source;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");
/// How a report of ours begins; another file is not written over.
const MARK: &str = "content=\"trtmut diff --html\"";
/// Reasons that are listed; the rest is a number. Changed weights are in the table, not among them.
const REASONS: usize = 200;

/// Where the graph's own constants stand, after all blocks.
const CONSTANTS: &str = "constants of the graph";

/// One comparison in the report: the changes of all that was asked for, or of one LoRA alone.
pub(super) struct Column {
    /// What it is called.
    pub name: String,
    pub changed: Vec<Measured>,
}

/// One tensor, in the model's order.
struct Row {
    name: String,
    block: String,
    shape: String,
}

/// Claims the file before expensive work.
///
/// # Errors
/// [`fsx::Error`] where it cannot be written or is read; [`UsageError`] where it is there and no report.
pub(super) fn claim(path: &Path, inputs: &[PathBuf]) -> anyhow::Result<()> {
    const BEGINNING: u64 = 4096;
    fsx::claim_output(path, inputs)?;
    if path.exists() {
        // The mark stands in the page's head, before all that grows with what was compared.
        let map = fsx::Map::of(&fsx::open_regular(path)?, path)?;
        let beginning = map.beginning(map.len().min(BEGINNING as usize))?;
        let ours = String::from_utf8_lossy(&beginning).contains(MARK);
        if !ours && !map.is_empty() {
            return Err(UsageError::new(
                format!("`{}` is there, and is no report of trtmut", path.display()),
                "give --html another name, or remove the file",
            )
            .into());
        }
    }
    Ok(())
}

/// Writes the report.
///
/// # Errors
/// What cannot be read again, or written.
pub(super) fn write(path: &Path, report: &DiffReport, columns: &[Column]) -> anyhow::Result<()> {
    let rows = rows(report, columns)?;
    let page = page(report, columns, &rows);
    fsx::write_atomic::<fsx::Error>(path, |out| {
        out.write_all(page.as_bytes())
            .map_err(|e| fsx::Error::write(path, e))
    })?;
    Ok(())
}

/// Every tensor of the old side in the model's order; of a checkpoint, numbers in names count as numbers.
fn rows(report: &DiffReport, columns: &[Column]) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = match kind_of(&report.old) {
        ThingKind::Plan => of_plan(&plan::read_manifest(&report.old)?, columns),
        ThingKind::Weights => {
            let source = Source::open(&report.old)?;
            let mut names: Vec<&str> = source.names().collect();
            names.sort_by_cached_key(|name| natural(name));
            let row = |name: &str| Row {
                name: name.to_owned(),
                block: diff::block(name).to_owned(),
                shape: source
                    .get(name)
                    .map_or(String::new(), |view| show_shape(view.shape)),
            };
            names.into_iter().map(row).collect()
        }
        // Nothing is measured between models, so that there is no table to fill.
        ThingKind::Model => Vec::new(),
    };
    // What has no place in the old side's list comes last: nothing that changed is left out.
    let known: std::collections::HashSet<&str> = rows.iter().map(|r| r.name.as_str()).collect();
    let changed = columns.iter().flat_map(|c| &c.changed);
    let mut more: BTreeMap<&str, Row> = BTreeMap::new();
    for m in changed.filter(|m| !known.contains(m.name.as_str())) {
        let row = || Row {
            name: m.name.clone(),
            block: diff::block(&m.source).to_owned(),
            shape: show_shape(&m.shape),
        };
        more.entry(&m.name).or_insert_with(row);
    }
    let more: Vec<Row> = more.into_values().collect();
    rows.extend(more);
    Ok(rows)
}

fn of_plan(manifest: &Manifest, columns: &[Column]) -> Vec<Row> {
    let changed = columns.iter().flat_map(|c| &c.changed);
    let sources: HashMap<&str, &str> = changed
        .filter(|m| m.source != m.name)
        .map(|m| (m.name.as_str(), m.source.as_str()))
        .collect();
    let named = |w: &plan::WeightRow| -> String {
        let mapping = w.mapping.as_ref();
        let hint = mapping.and_then(|row| row.hints.iter().flat_map(|h| &h.names).next());
        hint.unwrap_or(&w.name).clone()
    };
    let known = |w: &plan::WeightRow| -> Option<String> {
        let recipe = w.mapping.as_ref().and_then(|row| row.recipe.as_ref());
        let own = recipe.and_then(|r| r.sources().first().map(|s| (*s).to_owned()));
        own.or_else(|| sources.get(w.name.as_str()).map(|s| (*s).to_owned()))
    };
    // An exporter may wrap the model: what it puts before the names is learned where both are known.
    let mut prefixes: BTreeMap<String, usize> = BTreeMap::new();
    for w in &manifest.weights {
        if let Some(source) = known(w)
            && let Some(prefix) = named(w).strip_suffix(&source)
        {
            *prefixes.entry(prefix.to_owned()).or_default() += 1;
        }
    }
    let prefix = prefixes.into_iter().max_by_key(|(_, n)| *n);
    let prefix = prefix.map_or(String::new(), |(prefix, _)| prefix);
    let row = |w: &plan::WeightRow| {
        let hints = w.mapping.iter().flat_map(|row| &row.hints);
        let is_own = known(w).is_none() && hints.flat_map(|h| &h.names).next().is_none();
        let told = known(w).unwrap_or_else(|| {
            let named = named(w);
            named.strip_prefix(&prefix).unwrap_or(&named).to_owned()
        });
        Row {
            name: w.name.clone(),
            block: if is_own {
                CONSTANTS
            } else {
                diff::block(&told)
            }
            .to_owned(),
            shape: show_shape(&w.shape),
        }
    };
    let mut rows: Vec<Row> = manifest.weights.iter().map(row).collect();
    rows.sort_by_key(|row| row.block == CONSTANTS);
    rows
}

/// Digits as numbers, so that `layers.10` comes after `layers.9`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let parts = name.split('.');
    parts
        .map(|part| match part.parse() {
            Ok(number) => (String::new(), number),
            Err(_) => (part.to_owned(), 0),
        })
        .collect()
}

fn page(report: &DiffReport, columns: &[Column], rows: &[Row]) -> String {
    let data = script_safe(&data(columns, rows).to_string());
    let old = file_name(&report.old);
    let title = match &report.new[..] {
        // The first column of several is all of them together.
        [] => {
            let each = &columns[usize::from(columns.len() > 1)..];
            let names: Vec<&str> = each.iter().map(|c| c.name.as_str()).collect();
            format!("{old} with {}", names.join(" and "))
        }
        [one] => format!("{old} against {}", file_name(one)),
        [first, rest @ ..] => {
            format!("{old} against {} and {} more", file_name(first), rest.len())
        }
    };
    // Whoever makes the files that are compared cannot know it: it depends on all of the page.
    let nonce = Digest::of(data.as_bytes()).hex();
    let parts = [
        ("@NONCE@", nonce),
        ("@TITLE@", escape(&title)),
        ("@CSS@", STYLE.to_owned()),
        ("@HEAD@", head(report)),
        ("@VERSION@", env!("CARGO_PKG_VERSION").to_owned()),
        ("@DATA@", data),
        ("@JS@", SCRIPT.to_owned()),
    ];
    fill(PAGE, &parts)
}

/// Puts each part in its places; what a part itself holds is not looked at.
fn fill(page: &str, parts: &[(&str, String)]) -> String {
    let mut out =
        String::with_capacity(page.len() + parts.iter().map(|(_, p)| p.len()).sum::<usize>());
    let mut rest = page;
    while let Some(at) = rest.find('@') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some((mark, part)) = parts.iter().find(|(mark, _)| rest.starts_with(mark)) {
            out.push_str(part);
            rest = &rest[mark.len()..];
        } else {
            out.push('@');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// What stands above the pictures, without a script.
fn head(report: &DiffReport) -> String {
    let mut out = String::new();
    let verdict = report.verdict.name();
    let _ = writeln!(out, "<p class=\"verdict {verdict}\">{verdict}</p>");
    let _ = writeln!(out, "<p>{}.</p>", report.how_many());
    let _ = writeln!(
        out,
        "<p class=\"soft\">old <code>{}</code></p>",
        escape(&report.old.display().to_string())
    );
    for new in &report.new {
        let _ = writeln!(
            out,
            "<p class=\"soft\">new <code>{}</code></p>",
            escape(&new.display().to_string())
        );
    }
    let reasons = report
        .reasons
        .iter()
        .filter(|r| !matches!(r, Reason::BytesChanged { .. }));
    let reasons: Vec<&Reason> = reasons.collect();
    if !reasons.is_empty() {
        out.push_str("<ul class=\"reasons\">\n");
        for reason in reasons.iter().take(REASONS) {
            let verdict: Verdict = reason.verdict();
            let verdict = verdict.name();
            let text = escape(&describe(reason));
            let _ = writeln!(out, "<li><b class=\"{verdict}\">{verdict}</b> {text}</li>");
        }
        if reasons.len() > REASONS {
            let _ = writeln!(out, "<li>… and {} more</li>", reasons.len() - REASONS);
        }
        out.push_str("</ul>\n");
    }
    for command in &report.next {
        let _ = writeln!(
            out,
            "<p>next: <code>{}</code><button class=\"copy\" type=\"button\" hidden>copy</button></p>",
            escape(command)
        );
    }
    out
}

fn data(columns: &[Column], rows: &[Row]) -> Value {
    let mut blocks: Vec<Cow<'_, str>> = Vec::new();
    let mut at: HashMap<&str, usize> = HashMap::new();
    let changes: Vec<HashMap<&str, &Measured>> = (columns.iter())
        .map(|c| c.changed.iter().map(|m| (m.name.as_str(), m)).collect())
        .collect();
    for row in rows {
        at.entry(&row.block).or_insert_with(|| {
            blocks.push(ui::shown(&row.block));
            blocks.len() - 1
        });
    }
    // By block, and within one as the model has them.
    let mut ordered: Vec<&Row> = rows.iter().collect();
    ordered.sort_by_key(|row| at[row.block.as_str()]);
    let tensors: Vec<Value> = (ordered.iter())
        .map(|row| {
            let cells: Vec<Value> = (changes.iter())
                .map(|of| {
                    of.get(row.name.as_str())
                        .map_or(Value::Null, |m| cell(m.moved.change.as_ref()))
                })
                .collect();
            // A source's name says more than that of a constant, and the name says which constant.
            let source = changes.iter().find_map(|of| of.get(row.name.as_str()));
            let name = match source {
                Some(m) if m.source != row.name => format!("{} ({})", m.source, row.name),
                _ => row.name.clone(),
            };
            json!([ui::shown(&name), at[row.block.as_str()], row.shape, cells])
        })
        .collect();
    let columns: Vec<_> = columns.iter().map(|c| ui::shown(&c.name)).collect();
    json!({ "columns": columns, "blocks": blocks, "tensors": tensors })
}

fn cell(change: Option<&TensorChange>) -> Value {
    // JSON has no infinity; the page takes the largest number for it.
    let finite = |v: f64| if v.is_finite() { v } else { f64::MAX };
    match change {
        None => json!([null, null, null, null]),
        Some(c) => json!([finite(c.relative), finite(c.max_abs), c.rank, c.full_rank]),
    }
}

/// Text in markup: nothing in it ends an element or an attribute, and nothing turns the direction of writing around.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in ui::shown(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// JSON inside of a script element: the same value, and no character that could end the element.
fn script_safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in ui::shown_json(json).chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_text() {
        let hostile = "</script><img src=x onerror=alert(1)>&\"'\u{2028}\u{202e}";
        let shown = escape(hostile);
        assert!(
            !shown.contains(['<', '>', '"', '\'', '\u{2028}', '\u{202e}']),
            "{shown}"
        );
        let json = script_safe(&json!([hostile]).to_string());
        assert!(
            !json.contains(['<', '>', '&', '\u{2028}', '\u{202e}']),
            "{json}"
        );
        let back: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(back[0], hostile);
    }

    #[test]
    fn parts_are_filled_in_once() {
        let parts = [("@A@", "x @B@ y".to_owned()), ("@B@", "b".to_owned())];
        assert_eq!(fill("1@A@2@B@3@C@ @", &parts), "1x @B@ y2b3@C@ @");
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["l.10.w", "l.9.w", "l.w", "a"];
        names.sort_by_key(|n| natural(n));
        assert_eq!(names, ["a", "l.9.w", "l.10.w", "l.w"].map(|n| n));
    }

    #[test]
    fn every_mark_of_the_page_has_its_part() {
        for mark in [
            "@NONCE@",
            "@TITLE@",
            "@CSS@",
            "@HEAD@",
            "@VERSION@",
            "@DATA@",
            "@JS@",
        ] {
            assert!(PAGE.contains(mark), "{mark}");
        }
        assert!(PAGE.find(MARK).unwrap() < 4096);
    }
}
