//! Imports point down, the map shows every module, unsafe code has its homes, and only `ui` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import from this crate. A module may always import itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tensor", &[]),
    ("fault", &[]),
    ("watch", &[]),
    ("maps", &[]),
    ("memory", &[]),
    ("children", &[]),
    ("fsx", &["fault", "memory"]),
    ("shapes", &["tensor", "fsx", "fault"]),
    ("onnx", &["tensor", "fsx", "fault", "maps", "watch"]),
    ("weights", &["tensor", "fsx", "fault", "watch"]),
    ("cache", &["tensor", "fsx", "fault", "watch"]),
    ("arrays", &["tensor", "fsx", "fault"]),
    (
        "reading",
        &[
            "tensor", "fault", "watch", "onnx", "weights", "arrays", "cache", "mapping", "engine",
            "plan", "shapes",
        ],
    ),
    (
        "mapping",
        &["tensor", "fsx", "fault", "watch", "onnx", "weights"],
    ),
    (
        "engine",
        &[
            "tensor", "fsx", "fault", "watch", "memory", "onnx", "shapes",
        ],
    ),
    (
        "plan",
        &["tensor", "fsx", "fault", "shapes", "mapping", "engine"],
    ),
    (
        "diff",
        &[
            "tensor", "fault", "maps", "shapes", "onnx", "mapping", "engine", "plan",
        ],
    ),
    (
        "pipeline",
        &[
            "tensor", "fsx", "maps", "memory", "fault", "watch", "shapes", "onnx", "weights",
            "cache", "arrays", "mapping", "engine", "plan", "diff",
        ],
    ),
    ("exit", &["fault"]),
    ("ui", &["fault", "fsx", "watch", "exit"]),
    (
        "process",
        &["children", "commands", "exit", "fsx", "memory", "ui"],
    ),
    (
        "commands",
        &[
            "tensor", "fsx", "fault", "watch", "children", "shapes", "onnx", "weights", "cache",
            "arrays", "mapping", "engine", "plan", "diff", "pipeline", "ui", "exit",
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
        // A unit test may ask a layer above for what users type.
        let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (line, other) in imports(shipped) {
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

/// The files of the module `room` that each of its files imports from, tests apart; of the whole crate where `room` is empty. Where a
/// name comes through a `mod.rs` that hands it on, the file that defines it counts.
fn arrows(room: &str) -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: BTreeMap<String, (bool, String)> = BTreeMap::new();
    for (path, text) in sources() {
        let name = path.strip_prefix(&root).unwrap().with_extension("");
        let name = name.to_str().unwrap().replace('/', "::");
        let is_test = name
            .split("::")
            .any(|p| p == "tests" || p.ends_with("_test"));
        let inside = room.is_empty() || name == room || name.starts_with(&format!("{room}::"));
        if !is_test && inside {
            let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code: String = (shipped.lines())
                .filter(|l| !l.trim_start().starts_with("//"))
                .fold(String::new(), |all, l| all + l + "\n");
            let (name, facade) = match name.strip_suffix("::mod") {
                Some(folder) => (folder.to_owned(), true),
                None => (name, false),
            };
            files.insert(name, (facade, code));
        }
    }
    let handed_on: BTreeMap<String, String> = (files.iter().filter(|(_, (facade, _))| *facade))
        .flat_map(|(name, (_, code))| {
            let all = uses(code).into_iter().filter(|(public, _)| *public);
            all.map(move |(_, path)| {
                let last = path.rsplit("::").next().unwrap_or_default();
                (format!("{name}::{last}"), format!("{name}::{path}"))
            })
        })
        .collect();
    let mut found = BTreeMap::new();
    for (name, (facade, code)) in &files {
        let targets = uses(code)
            .into_iter()
            .map(|(_, path)| absolute(name, &path));
        let owners = targets.filter_map(|path| defined_in(path, &files, &handed_on));
        let own =
            |other: &String| other == name || (*facade && other.starts_with(&format!("{name}::")));
        found.insert(name.clone(), owners.filter(|o| !own(o)).collect());
    }
    found
}

/// Every path of the `use` items of `code`, groups taken apart, and whether it is public; and paths in the code itself.
fn uses(code: &str) -> Vec<(bool, String)> {
    fn expand(prefix: &str, text: &str, found: &mut Vec<String>) {
        let text = text.trim();
        let Some(open) = text.find('{') else {
            let path = format!("{prefix}{}", text.split(" as ").next().unwrap_or(text));
            found.push(path.trim_end_matches("::self").to_owned());
            return;
        };
        let prefix = format!("{prefix}{}", &text[..open]);
        let (mut depth, mut from) = (0, open + 1);
        for (i, c) in text.char_indices().skip(open + 1) {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    expand(&prefix, &text[from..i], found);
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&prefix, &text[from..i], found);
                    from = i + 1;
                }
                _ => {}
            }
        }
    }
    let item = regex::Regex::new(r"(?m)^\s*(pub(?:\([^)]*\))? )?use ([^;]+);").unwrap();
    let mut found = Vec::new();
    for parts in item.captures_iter(code) {
        let mut paths = Vec::new();
        expand(
            "",
            &parts[2].split_whitespace().collect::<Vec<_>>().join(" "),
            &mut paths,
        );
        paths.retain(|p| !p.is_empty());
        found.extend(paths.into_iter().map(|p| (parts.get(1).is_some(), p)));
    }
    let inline = regex::Regex::new(r"\b(?:super|crate)(?:::\w+)+").unwrap();
    let rest = item.replace_all(code, "");
    let rest = regex::Regex::new(r"pub\(in [^)]*\)")
        .unwrap()
        .replace_all(&rest, "")
        .into_owned();
    found.extend(
        inline
            .find_iter(&rest)
            .map(|m| (false, m.as_str().to_owned())),
    );
    found
}

/// A path as seen from the file `name`, from the root of the crate.
fn absolute(name: &str, path: &str) -> String {
    if let Some(rest) = path.strip_prefix("crate::") {
        return rest.to_owned();
    }
    let (mut at, mut rest) = (name.to_owned(), path);
    let mut climbed = false;
    while let Some(up) = rest.strip_prefix("super::") {
        at = at
            .rsplit_once("::")
            .map_or(String::new(), |(p, _)| p.to_owned());
        (rest, climbed) = (up, true);
    }
    if climbed || !at.is_empty() {
        format!("{at}::{rest}")
    } else {
        rest.to_owned()
    }
}

/// The file that defines what `path` names; none outside of the room.
fn defined_in(
    mut path: String,
    files: &BTreeMap<String, (bool, String)>,
    handed_on: &BTreeMap<String, String>,
) -> Option<String> {
    for _ in 0..4 {
        let parts: Vec<&str> = path.split("::").collect();
        let known = (1..=parts.len()).rev().map(|n| (n, parts[..n].join("::")));
        let (n, file) = known.into_iter().find(|(_, f)| files.contains_key(f))?;
        let next = parts.get(n).map(|p| format!("{file}::{p}"));
        match next.and_then(|key| handed_on.get(&key)) {
            Some(other) if *other != path => path.clone_from(other),
            _ => return Some(file),
        }
    }
    None
}

/// One file of a circle of imports and the way around.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        arrows: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if path.iter().any(|p| p == at) {
            path.push(at.to_owned());
            return true;
        }
        if !done.insert(at.to_owned()) {
            return false;
        }
        path.push(at.to_owned());
        if arrows
            .get(at)
            .into_iter()
            .flatten()
            .any(|next| visit(next, arrows, path, done))
        {
            return true;
        }
        path.pop();
        false
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|file| {
        let mut path = Vec::new();
        visit(file, arrows, &mut path, &mut done).then_some(path)
    })
}

#[test]
fn files_import_in_no_circle() {
    let arrows = arrows("");
    assert!(arrows.len() > 250, "the files were not found");
    assert!(
        arrows.values().map(BTreeSet::len).sum::<usize>() > 1200,
        "the imports were not found"
    );
    assert_eq!(circle(&arrows), None);
}

/// The arrows that a reader of a room has to follow. From outside a folder is one thing, its `mod.rs` is its door, and whatever its
/// files import of another folder is one arrow between the two; inside of a folder an arrow leads from each file to each other that it
/// imports from. So each arrow is counted in the folder that both ends are in, and in a room without folders this is the number of
/// pairs of files.
fn lifted(arrows: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<(String, String)> {
    let ends = |from: &str, to: &str| {
        let (a, b): (Vec<&str>, Vec<&str>) = (from.split("::").collect(), to.split("::").collect());
        let shared = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        let end = |of: &[&str]| of[..of.len().min(shared + 1)].join("::");
        (end(&a), end(&b))
    };
    (arrows.iter())
        .flat_map(|(from, all)| all.iter().map(move |to| ends(from, to)))
        .collect()
}

/// Half of the 72 that were counted when the room was one folder of 21 files; this way of counting finds 69 there.
const MOST_ARROWS: usize = 37;

#[test]
fn the_mapping_has_few_arrows() {
    let arrows = lifted(&arrows("mapping"));
    assert!(
        (20..=MOST_ARROWS).contains(&arrows.len()),
        "{}: {arrows:#?}",
        arrows.len()
    );
    let mut between: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in arrows {
        between.entry(from).or_default().insert(to);
    }
    assert_eq!(circle(&between), None);
}

#[test]
fn arrows_are_counted_between_folders_and_within() {
    let to = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let arrows = BTreeMap::from([
        ("m::a::x".to_owned(), to(&["m::a::y", "m::b::z"])),
        ("m::a::y".to_owned(), to(&["m::b::z", "m::b"])),
        ("m::c".to_owned(), to(&["m::a"])),
    ]);
    let found = lifted(&arrows);
    let pairs: Vec<(&str, &str)> = found.iter().map(|(a, b)| (&**a, &**b)).collect();
    assert_eq!(
        pairs,
        [("m::a", "m::b"), ("m::a::x", "m::a::y"), ("m::c", "m::a")]
    );
}

/// Functions of a file, as rustfmt lays them out, with their lines from `fn` to the closing brace.
fn functions(text: &str) -> Vec<(String, usize)> {
    let head = regex::Regex::new(
        r"^( *)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe |extern )*fn (\w+)",
    )
    .unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(parts) = head.captures(line) else {
            continue;
        };
        // A declaration without a body ends with a semicolon, at the same depth.
        let (close, declared) = (format!("{}}}", &parts[1]), format!("{})", &parts[1]));
        let end = lines[at..].iter().position(|l| {
            *l == close
                || (l.starts_with(&declared) && l.ends_with(';'))
                || (*l == *line && (l.ends_with('}') || l.ends_with(';')))
        });
        let length = end.expect("a function ends") + 1;
        found.push((parts[2].to_owned(), length));
    }
    found
}

/// Longer functions do more than one thing.
const LONGEST_FUNCTION: usize = 100;

/// The same where it is decided what happens to weights.
const LONGEST_DECISION: usize = 80;

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        let decides = ["mapping", "pipeline"].contains(&module(&path).as_str());
        let (text, longest) = if decides {
            (text.as_str(), LONGEST_DECISION)
        } else {
            // What a table of cases needs is no function that does too much.
            let shipped = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            (shipped, LONGEST_FUNCTION)
        };
        for (name, lines) in functions(text) {
            seen += 1;
            if lines > longest {
                long.push(format!("{}: {name}, {lines} lines", path.display()));
            }
        }
    }
    assert!(seen > 3000, "the functions were not found");
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn lines_of_functions_are_counted() {
    let text = "fn a() {}\n\nimpl B {\n    pub(super) fn c(\n        d: u8,\n    ) -> u8 {\n        d\n    }\n\n    fn e(\n        f: u8,\n    );\n}\n";
    let found = functions(text);
    let found: Vec<(&str, usize)> = found.iter().map(|(n, l)| (&**n, *l)).collect();
    assert_eq!(found, [("a", 1), ("c", 5), ("e", 3)]);
}

#[test]
fn a_circle_of_imports_is_found() {
    let to = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let mut arrows = BTreeMap::from([("a".to_owned(), to(&["b"])), ("b".to_owned(), to(&["c"]))]);
    assert_eq!(circle(&arrows), None);
    arrows.insert("c".to_owned(), to(&["b"]));
    assert!(circle(&arrows).is_some());
    let code =
        "use super::a::{B, c::{D, self}};\npub(super) use e::F as G;\nlet x = crate::g::h();\n";
    let paths: Vec<String> = uses(code).into_iter().map(|(_, p)| p).collect();
    assert_eq!(
        paths,
        [
            "super::a::B",
            "super::a::c::D",
            "super::a::c",
            "e::F",
            "crate::g::h"
        ]
    );
}
