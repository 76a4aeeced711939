//! Imports point down, the map shows every module, unsafe code has its homes, and only `ui` prints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import from this crate. A module may always import itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("fault", &[]),
    ("watch", &[]),
    ("memory", &[]),
    ("fsx", &["fault", "memory"]),
    ("shapes", &["tensor", "fsx", "fault"]),
    ("onnx", &["tensor", "fsx", "fault", "watch"]),
    ("weights", &["tensor", "fsx", "fault", "watch"]),
    ("cache", &["tensor", "fsx", "fault", "watch"]),
    ("arrays", &["tensor", "fsx", "fault"]),
    (
        "reading",
        &["tensor", "fault", "watch", "onnx", "weights", "arrays"],
    ),
    (
        "mapping",
        &["tensor", "fsx", "fault", "watch", "onnx", "weights"],
    ),
    (
        "engine",
        &["tensor", "fsx", "fault", "watch", "onnx", "shapes"],
    ),
    (
        "plan",
        &["tensor", "fsx", "fault", "shapes", "mapping", "engine"],
    ),
    (
        "diff",
        &[
            "tensor", "fault", "shapes", "onnx", "mapping", "engine", "plan",
        ],
    ),
    (
        "pipeline",
        &[
            "tensor", "fsx", "fault", "watch", "shapes", "onnx", "weights", "cache", "arrays",
            "mapping", "engine", "plan", "diff",
        ],
    ),
    ("exit", &["fault"]),
    ("ui", &["fault", "fsx", "watch", "exit"]),
    ("process", &["commands", "exit", "fsx", "memory", "ui"]),
    (
        "commands",
        &[
            "tensor", "fsx", "fault", "watch", "shapes", "onnx", "weights", "cache", "arrays",
            "mapping", "engine", "plan", "diff", "pipeline", "ui", "exit", "cli",
        ],
    ),
    ("cli", &["commands", "ui", "exit"]),
    (
        "main",
        &["cli", "commands", "fsx", "memory", "process", "ui", "exit"],
    ),
    ("lib", &[]),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                out.push((path, text));
            }
        }
    }
    let mut out = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    assert!(out.len() > 20, "the sources were not found");
    out
}

/// `src/onnx/wire.rs` is in `onnx`, `src/exit.rs` in `exit`.
fn module(path: &Path) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first
        .as_os_str()
        .to_str()
        .unwrap()
        .trim_end_matches(".rs")
        .to_owned()
}

/// Names of top-level modules that a line refers to: `crate::x`, `trtmut::x`, and the members of `use crate::{x, y::Z}`.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate::", "trtmut::"] {
        for (at, _) in text.match_indices(root) {
            let line_start = text[..at].rfind('\n').map_or(0, |i| i + 1);
            if text[line_start..at].trim_start().starts_with("//") {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            let rest = &text[at + root.len()..];
            let word = |s: &str| -> String {
                s.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect()
            };
            if let Some(group) = rest.strip_prefix('{') {
                let (mut depth, mut start) = (0, true);
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if c.is_whitespace() => {}
                        _ => {
                            if start && depth == 0 {
                                found.push((line, word(&group[i..])));
                            }
                            start = false;
                        }
                    }
                }
            } else {
                found.push((line, word(rest)));
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let me = module(&path);
        let allowed = table
            .get(me.as_str())
            .unwrap_or_else(|| panic!("`{me}` has no place in the table of layers"));
        for (line, other) in imports(&text) {
            if other != me
                && table.contains_key(other.as_str())
                && !allowed.contains(&other.as_str())
            {
                wrong.push(format!("{}:{line}: {me} -> {other}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that do not point down:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_table_of_layers_has_no_cycle() {
    fn visit<'a>(at: &'a str, table: &BTreeMap<&'a str, &'a [&'a str]>, path: &mut Vec<&'a str>) {
        // `cli` names the arguments of the commands, and `commands` dispatches on them: one layer in two files.
        if at == "cli" {
            return;
        }
        assert!(!path.contains(&at), "{path:?} -> {at}");
        path.push(at);
        for next in table[at] {
            visit(next, table, path);
        }
        path.pop();
    }
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    for (module, _) in MAY_IMPORT {
        visit(module, &table, &mut Vec::new());
    }
}

#[test]
fn the_map_shows_every_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(root).unwrap();
    let map: Vec<&str> = text.lines().filter(|l| l.starts_with("//! |")).collect();
    for (path, _) in sources() {
        let me = module(&path);
        let shown = format!("`{me}`");
        assert!(
            me == "lib" || map.iter().any(|row| row.contains(&shown)),
            "`{me}` is not in the map at the top of `src/lib.rs`"
        );
    }
}

#[test]
fn unsafe_code_has_its_homes() {
    for (path, text) in sources() {
        let shown = path.to_str().unwrap();
        let home = [
            "src/fsx/map.rs",
            "src/memory.rs",
            "src/process.rs",
            "src/ui/bare.rs",
            "src/engine/tensorrt/",
            "src/engine/cpu/ort.rs",
        ]
        .iter()
        .any(|h| shown.contains(h));
        assert!(
            home || !text.contains("allow(unsafe_code"),
            "{shown} allows unsafe code"
        );
    }
}

#[test]
fn only_ui_writes_to_the_streams() {
    for (path, text) in sources() {
        if module(&path) == "ui" {
            continue;
        }
        // Tests may show what they measure.
        let shipped = text.split("#[cfg(test)]").next().unwrap();
        for stream in ["stdout()", "stderr()", "println!", "eprintln!"] {
            let hit = shipped
                .lines()
                .any(|l| !l.trim_start().starts_with("//") && l.contains(stream));
            assert!(!hit, "{} uses {stream}", path.display());
        }
    }
}

#[test]
fn the_import_finder_finds_groups_and_paths() {
    let text = "use crate::{a::B, c, d::{e, f}};\nlet x = crate::g::h();\n// crate::not_me\n";
    let names: Vec<String> = imports(text).into_iter().map(|(_, n)| n).collect();
    assert_eq!(names, ["a", "c", "d", "g"]);
}
