//! C++ classes of one release from the recorded signatures, in order of declaration: no slot number goes in, so that where a method
//! lies is the compiler's answer. Every method that nothing overrides ends the process with its name.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const BUILTIN: &[&str] = &[
    "const", "void", "bool", "char", "int", "int32_t", "int64_t", "uint64_t", "uint32_t",
    "uint8_t", "size_t", "std", "float", "double",
];
/// Declared from their recorded fields, or by hand below.
const STRUCTS: &[&str] = &["Dims", "DimsHW", "Weights", "InterfaceInfo", "RefitRecord"];

/// What `groups` has for `release`: `[{"in": "trt-8.5 trt-8.6.0", "is": …}]`.
fn of<'v>(groups: &'v Value, release: &str) -> Option<&'v Value> {
    let mut groups = groups.as_array()?.iter();
    let has = |g: &&Value| {
        g["in"]
            .as_str()
            .is_some_and(|all| all.split(' ').any(|r| r == release))
    };
    Some(&groups.find(has)?["is"])
}

fn strip(text: &str) -> String {
    text.replace("nvinfer1::", "").replace("nvonnxparser::", "")
}

/// What a signature calls the method, and the byte where that begins.
fn method(signature: &str) -> Option<(&str, usize)> {
    let (head, _) = signature.split_once('(')?;
    let start = head
        .rfind(|c: char| !c.is_alphanumeric() && c != '_')
        .map_or(0, |i| i + 1);
    Some((&head[start..], start))
}

/// The types that signatures name: those that are passed by value, and those that are only pointed to.
#[derive(Default)]
struct Types {
    by_value: BTreeSet<String>,
    pointed_to: BTreeSet<String>,
}

impl Types {
    fn collect(&mut self, signature: &str) {
        let Some((name, start)) = method(signature) else {
            return;
        };
        let rest = format!(
            "{},{}",
            &signature[..start],
            &signature[start + name.len()..]
        );
        for part in strip(&rest).split(['(', ')', ',']) {
            let words = part.split(|c: char| !c.is_alphanumeric() && c != '_');
            let words = words
                .filter(|w| w.starts_with(|c: char| c.is_alphabetic()) && !BUILTIN.contains(w));
            let to = if part.contains(['*', '&']) {
                &mut self.pointed_to
            } else {
                &mut self.by_value
            };
            to.extend(words.map(str::to_owned));
        }
    }

    /// A declaration of a type that no fact describes; only its size in a register matters, and that is an integer's or none.
    fn declare(&self, name: &str, classes: &BTreeSet<&str>) -> String {
        match name {
            "AsciiChar" => "typedef char AsciiChar;".into(),
            "cudaStream_t" | "cudaEvent_t" => format!("typedef void *{name};"),
            "TimingCacheValue" => "struct TimingCacheValue { uint64_t v[2]; };".into(),
            _ if classes.contains(name) || !self.by_value.contains(name) => {
                format!("struct {name};")
            }
            // `BuilderFlags` is a word of bits that `BuilderFlag` numbers.
            _ if name.ends_with('s') => format!("typedef uint32_t {name};"),
            _ => format!("enum class {name} : int32_t {{}};"),
        }
    }
}

/// The header of a release, such as `trt-10.8`.
pub fn header(facts: &Value, release: &str) -> String {
    let mut out = String::from(
        "#pragma once\n#include <cstddef>\n#include <cstdint>\n#include <cstdio>\n#include <cstdlib>\n\
         [[noreturn]] void standin_missing(const char *);\n",
    );
    let mut enums = BTreeSet::new();
    for (name, groups) in facts["enums"].as_object().expect("enums") {
        let short = name.rsplit("::").next().expect("a name");
        let Some(values) = of(groups, release).and_then(Value::as_object) else {
            continue;
        };
        // The parser's error codes have the name of the library's.
        if !enums.insert(short) {
            continue;
        }
        let all: Vec<String> = values.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        writeln!(
            out,
            "enum class {short} : int32_t {{ {} }};",
            all.join(", ")
        )
        .expect("text");
        for key in values.keys() {
            writeln!(out, "#define HAS_{short}_{key} 1").expect("text");
        }
    }
    let tables: Vec<(&str, Vec<&str>)> = facts["vtables"]
        .as_object()
        .expect("classes")
        .iter()
        .filter_map(|(class, groups)| {
            let slots = of(groups, release)?.as_array()?;
            Some((
                class.as_str(),
                slots.iter().filter_map(Value::as_str).collect(),
            ))
        })
        .collect();
    let classes: BTreeSet<&str> = tables.iter().map(|(c, _)| *c).collect();
    let mut types = Types::default();
    for signature in tables.iter().flat_map(|(_, t)| t) {
        types.collect(signature);
    }
    for name in types.by_value.union(&types.pointed_to) {
        if !enums.contains(name.as_str()) && !STRUCTS.contains(&name.as_str()) {
            writeln!(out, "{}", types.declare(name, &classes)).expect("text");
        }
    }
    structs(facts, release, &mut out);
    if types.by_value.contains("DimsHW") {
        out.push_str("struct DimsHW : Dims {};\n");
    }
    for (class, table) in &tables {
        class_of(class, table, &mut out);
    }
    out
}

fn structs(facts: &Value, release: &str, out: &mut String) {
    out.push_str("typedef const char *InterfaceKind;\n");
    let mut wide = false;
    for (name, groups) in facts["structs"].as_object().expect("structs") {
        let Some(layout) = of(groups, release) else {
            continue;
        };
        let name = strip(name);
        wide |= name == "Dims64";
        let (mut fields, mut checks) = (
            String::new(),
            format!("static_assert(sizeof({name}) == {});\n", layout["size"]),
        );
        for field in layout["fields"].as_array().expect("fields") {
            let (field_name, kind) = (
                field[0].as_str().expect("a name"),
                strip(field[1].as_str().expect("a type")),
            );
            let (kind, extent) = kind
                .split_once('[')
                .map_or((kind.as_str(), String::new()), |(k, n)| {
                    (k, format!("[{n}"))
                });
            write!(fields, "{kind} {field_name}{extent}; ").expect("text");
            writeln!(
                checks,
                "static_assert(offsetof({name}, {field_name}) == {});",
                field[3]
            )
            .expect("text");
        }
        write!(out, "struct {name} {{ {fields}}};\n{checks}").expect("text");
    }
    out.push_str(if wide {
        "#define WIDE 1\ntypedef Dims64 Dims;\n"
    } else {
        "typedef Dims32 Dims;\n"
    });
}

fn class_of(class: &str, table: &[&str], out: &mut String) {
    writeln!(out, "struct {class} {{").expect("text");
    for signature in table {
        let signature = strip(signature);
        match (signature.as_str(), method(&signature)) {
            // One destructor takes two slots.
            ("deleting dtor", _) => {}
            (_, None) => writeln!(out, "  virtual ~{class}() = default;").expect("text"),
            (_, Some((name, start))) => {
                writeln!(
                    out,
                    "  virtual {signature} {{ standin_missing(\"{class}::{name}\"); }}"
                )
                .expect("text");
                writeln!(out, "#define HAS_{class}_{name} 1").expect("text");
                if name == "setRefitObserver" {
                    writeln!(out, "#define OBSERVER_RESULT {}", signature[..start].trim())
                        .expect("text");
                }
            }
        }
    }
    out.push_str("};\n");
}
