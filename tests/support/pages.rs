//! The README and the documentation as pages: links lead somewhere, commands and options exist, every page is in the book, and code is
//! that of the file which is run elsewhere.

use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, by its path.
fn pages() -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, deep: bool, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && deep {
                walk(&path, deep, found);
            } else if path.extension().is_some_and(|e| e == "md") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path, text);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root(), false, &mut found);
    for folder in ["docs", "fixtures"] {
        walk(&root().join(folder), true, &mut found);
    }
    assert!(found.len() > 20, "the pages were not found");
    found
}

/// The text outside of fences, and the text inside of them.
fn parts(text: &str) -> (String, String) {
    let mut fenced = false;
    let (mut prose, mut code) = (String::new(), String::new());
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else {
            let to = if fenced { &mut code } else { &mut prose };
            to.push_str(line);
            to.push('\n');
        }
    }
    (prose, code)
}

fn prose(text: &str) -> String {
    parts(text).0
}

/// Anchors as GitHub and mdBook make them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let link = Regex::new(r"\[([^\]]*)\]\([^)]*\)").unwrap();
    let mut found = BTreeSet::new();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for line in prose(text).lines().filter(|l| l.starts_with('#')) {
        let title = link.replace_all(line.trim_start_matches('#').trim(), "$1");
        let slug: String = (title.to_lowercase().chars())
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let before = count.entry(slug.clone()).or_default();
        *before += 1;
        found.insert(match *before {
            1 => slug,
            n => format!("{slug}-{}", n - 1),
        });
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let span = Regex::new(r"`[^`]*`").unwrap();
    let pages = pages();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (path, text) in &pages {
        let text_of_page = prose(text);
        let prose = span.replace_all(&text_of_page, "");
        for target in link.captures_iter(&prose).map(|c| c[1].to_owned()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (file, anchor) = match target.split_once('#') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (&*target, None),
            };
            let to = if file.is_empty() {
                path.clone()
            } else {
                path.parent().unwrap().join(file)
            };
            let there = to.canonicalize().is_ok_and(|to| to.starts_with(root()));
            let named = anchor.is_none_or(|anchor| {
                let text = fs::read_to_string(&to).unwrap_or_default();
                anchors(&text).contains(anchor)
            });
            if !there || !named {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(checked > 50, "only {checked} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_book() {
    let folder = root().join("docs");
    let summary = fs::read_to_string(folder.join("SUMMARY.md")).unwrap();
    for path in pages().keys() {
        let Ok(page) = path.strip_prefix(&folder) else {
            continue;
        };
        let page = page.to_str().unwrap();
        assert!(
            page == "SUMMARY.md" || summary.contains(&format!("]({page})")),
            "{page} is not in docs/SUMMARY.md"
        );
    }
}

/// What `--help` of a command says, by its words (`cache list`).
fn help(words: &[&str]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trtmut"));
    let output = command.args(words).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then_some(text)
}

#[test]
fn commands_and_options_exist() {
    let span = Regex::new(r"`(trtmut [^`\n]+)`").unwrap();
    let option = Regex::new(r"(?:^|\s)(--[a-zA-Z][a-zA-Z0-9-]*)").unwrap();
    let mut helps: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (path, text) in pages() {
        // What was there once, and what is not there yet.
        if ["CHANGELOG.md", "ARCHITECTURE.md"]
            .iter()
            .any(|f| path.ends_with(f))
        {
            continue;
        }
        let (text_of_page, code) = parts(&text);
        let spans = span.captures_iter(&text_of_page).map(|c| c[1].to_owned());
        let lines = code.lines().map(|l| l.trim_start_matches("$ "));
        let shown = lines
            .filter(|l| l.starts_with("trtmut "))
            .map(str::to_owned);
        for line in spans.chain(shown) {
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let known = |words: &[&str], helps: &mut BTreeMap<String, Option<String>>| {
                let entry = helps.entry(words.join(" "));
                entry.or_insert_with(|| help(words)).clone()
            };
            let Some(first) = words.first().filter(|w| !w.starts_with('-')) else {
                continue;
            };
            // Prose goes on behind a name that is no command: `trtmut 0.1.0`.
            if !first.chars().all(|c| c.is_ascii_lowercase()) {
                continue;
            }
            let Some(mut text) = known(&[*first], &mut helps) else {
                wrong.push(format!("{}: {line}", path.display()));
                continue;
            };
            if let Some(second) = words.get(1)
                && ["cache", "shapes", "export"].contains(first)
                && !second.starts_with('-')
            {
                match known(&[*first, *second], &mut helps) {
                    Some(more) => text = more,
                    None => wrong.push(format!("{}: {line}", path.display())),
                }
            }
            checked += 1;
            let own = line
                .split(" -- ")
                .next()
                .unwrap()
                .split(" | ")
                .next()
                .unwrap();
            for name in option.captures_iter(own).map(|c| c[1].to_owned()) {
                let shown = Regex::new(&format!(r"(?m)(^|\s){name}([\s=]|$)")).unwrap();
                if !shown.is_match(&text) {
                    wrong.push(format!("{}: {name} of {line}", path.display()));
                }
            }
        }
    }
    assert!(checked > 60, "only {checked} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_diffusers_page_shows_the_file_that_is_run() {
    let folder = root().join("docs");
    let page = fs::read_to_string(folder.join("from-diffusers.md")).unwrap();
    let file = fs::read_to_string(folder.join("from_diffusers.py")).unwrap();
    let blocks: Vec<&str> = (page.split("```python\n").skip(1))
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 4);
    for block in blocks {
        assert!(file.contains(block), "not in from_diffusers.py:\n{block}");
    }
}
