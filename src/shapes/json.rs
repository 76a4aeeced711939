//! JSON with positions: every value and key knows its line and column.
//!
//! `serde_json` gives neither positions after parsing nor a word about duplicate keys, and a shape spec is written by hand,
//! so both matter. Strict RFC 8259; nesting is limited to [`MAX_DEPTH`], and numbers keep their text.

use super::error::Problems;
use super::faults::SpecFault;
use super::quote::{Pos, shorten};
use std::collections::HashMap;

/// Deepest nesting of lists and objects that is read.
pub(super) const MAX_DEPTH: usize = 64;
/// Longest key, in bytes: with the depth, it limits how long the path of a tensor can be.
const MAX_KEY: usize = 256;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub pos: Pos,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// The number as it is written.
    Number(String),
    String(String),
    List(Vec<Node>),
    /// In the order of the file, keys unique.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub pos: Pos,
    pub name: String,
}

impl Node {
    /// What it is, for a message: the scalar itself, or `a list`, `an object`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "`null`".into(),
            Value::Bool(b) => format!("`{b}`"),
            Value::Number(n) => format!("`{}`", shorten(n)),
            Value::String(s) => format!("`\"{}\"`", shorten(s)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "an object".into(),
        }
    }
}

/// Parses one document. Duplicate keys go to `problems` and parsing goes on; after any other fault it stops (`None`).
pub(super) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    let mut reader = Reader {
        // Editors on Windows write a byte order mark, which RFC 8259 lets a reader ignore.
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        pos: Pos { line: 1, column: 1 },
        problems,
    };
    let read = reader.document();
    match read {
        Ok(node) => Some(node),
        Err((pos, fault)) => {
            problems.push(pos, fault);
            None
        }
    }
}

type Fault = (Pos, SpecFault);

struct Reader<'a, 'p> {
    rest: &'a str,
    pos: Pos,
    problems: &'p mut Problems,
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Result<Node, Fault> {
        self.space();
        if self.rest.is_empty() {
            return self.fault("the file is empty; a shape spec is a JSON object");
        }
        let node = self.value(0)?;
        self.space();
        if !self.rest.is_empty() {
            return self.unexpected("nothing after the end of the document");
        }
        Ok(node)
    }

    fn fault<T>(&self, message: impl Into<String>) -> Result<T, Fault> {
        Err((self.pos, SpecFault::Syntax(message.into())))
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T, Fault> {
        match self.rest.chars().next() {
            None => self.fault(format!("expected {expected}, but the file ends here")),
            Some(c) if c.is_control() => self.fault(format!(
                "expected {expected}, found `{}`",
                c.escape_default()
            )),
            Some(c) => self.fault(format!("expected {expected}, found `{c}`")),
        }
    }

    /// Takes `bytes` bytes, none of which is a line break.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        self.pos.column = self.pos.column.saturating_add(taken.chars().count() as u32);
        taken
    }

    fn space(&mut self) {
        while let Some(&b) = self.rest.as_bytes().first() {
            match b {
                b'\n' => {
                    self.rest = &self.rest[1..];
                    self.pos.line = self.pos.line.saturating_add(1);
                    self.pos.column = 1;
                }
                b' ' | b'\t' | b'\r' => {
                    self.take(1);
                }
                _ => return,
            }
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.as_bytes().first() == Some(&byte);
        if found {
            self.take(1);
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        let pos = self.pos;
        let value = match self.rest.as_bytes().first() {
            // Checked before the next level is read: the reader recurses, and a hostile file would
            // end the process.
            Some(b'{' | b'[') if depth == MAX_DEPTH => {
                return Err((pos, SpecFault::Depth { limit: MAX_DEPTH }));
            }
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            Some(b'a'..=b'z' | b'A'..=b'Z') => self.word()?,
            _ => return self.unexpected("a value"),
        };
        Ok(Node { pos, value })
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let length =
            (self.rest.find(|c: char| !c.is_ascii_alphanumeric())).unwrap_or(self.rest.len());
        let value = match &self.rest[..length] {
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "None" => return self.fault("`None` is Python; JSON writes `null`"),
            other => {
                return self.fault(format!("`{}` is not a JSON value", shorten(other)));
            }
        };
        self.take(length);
        Ok(value)
    }

    fn number(&mut self) -> Result<String, Fault> {
        let bytes = self.rest.as_bytes();
        let digits = |mut at: usize| {
            let from = at;
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            (at > from).then_some(at)
        };
        let start = usize::from(bytes[0] == b'-');
        let mut end = digits(start);
        // Some readers take such a number for octal, so it is refused as the RFC says.
        if end.is_some_and(|e| e > start + 1) && bytes[start] == b'0' {
            return self.fault("a number does not begin with `0`");
        }
        if let Some(e) = end.filter(|&e| bytes.get(e) == Some(&b'.')) {
            end = digits(e + 1);
        }
        if let Some(e) = end.filter(|&e| matches!(bytes.get(e), Some(b'e' | b'E'))) {
            let sign = usize::from(matches!(bytes.get(e + 1), Some(b'+' | b'-')));
            end = digits(e + 1 + sign);
        }
        match end {
            Some(end) => Ok(self.take(end).to_owned()),
            None => self.fault("this number is cut short"),
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let opened = self.pos;
        self.take(1);
        let mut out = String::new();
        loop {
            let plain = self.rest.find(|c| matches!(c, '"' | '\\' | '\0'..='\x1f'));
            let Some(plain) = plain else {
                return Err((
                    opened,
                    SpecFault::Syntax("this string is not closed".into()),
                ));
            };
            out.push_str(self.take(plain));
            match self.rest.as_bytes()[0] {
                b'"' => {
                    self.take(1);
                    return Ok(out);
                }
                b'\\' => self.escape(&mut out)?,
                b'\n' | b'\r' => {
                    return Err((
                        opened,
                        SpecFault::Syntax("this string is not closed on its line".into()),
                    ));
                }
                _ => return self.fault("a control character in a string must be escaped"),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), Fault> {
        let plain = match self.rest.as_bytes().get(1) {
            Some(&c @ (b'"' | b'\\' | b'/')) => c as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(out),
            _ => return self.fault("this escape is not one of JSON's"),
        };
        self.take(2);
        out.push(plain);
        Ok(())
    }

    fn unicode(&mut self, out: &mut String) -> Result<(), Fault> {
        let unit = |at: usize| -> Option<u16> {
            let bytes = self.rest.as_bytes();
            let hex = bytes.get(at + 2..at + 6)?;
            if bytes.get(at) != Some(&b'\\')
                || bytes.get(at + 1) != Some(&b'u')
                || !hex.iter().all(u8::is_ascii_hexdigit)
            {
                return None;
            }
            u16::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()
        };
        let read = match unit(0) {
            Some(high @ 0xd800..=0xdbff) => unit(6)
                .and_then(|low| char::decode_utf16([high, low]).next()?.ok())
                .map(|c| (c, 12)),
            Some(one) => char::from_u32(u32::from(one)).map(|c| (c, 6)),
            None => None,
        };
        let Some((c, length)) = read else {
            return self.fault("this `\\u` escape is not a character");
        };
        self.take(length);
        out.push(c);
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        self.take(1);
        let mut items = Vec::new();
        self.space();
        if self.eat(b']') {
            return Ok(Value::List(items));
        }
        loop {
            self.space();
            items.push(self.value(depth + 1)?);
            self.space();
            if self.eat(b']') {
                return Ok(Value::List(items));
            }
            if !self.eat(b',') {
                return self.unexpected("`,` or `]`");
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Fault> {
        self.take(1);
        let mut items: Vec<(Key, Node)> = Vec::new();
        let mut seen: HashMap<String, Pos> = HashMap::new();
        self.space();
        if self.eat(b'}') {
            return Ok(Value::Map(items));
        }
        loop {
            self.space();
            let pos = self.pos;
            if !self.rest.starts_with('"') {
                return self.unexpected("a key in quotes");
            }
            let name = self.string()?;
            if name.len() > MAX_KEY {
                let text = format!(
                    "the key `{}` is longer than {MAX_KEY} bytes",
                    shorten(&name)
                );
                self.problems.push(pos, SpecFault::Syntax(text));
            }
            self.space();
            if !self.eat(b':') {
                return self.unexpected("`:`");
            }
            self.space();
            let node = self.value(depth + 1)?;
            // Readers of JSON differ in which of two equal keys counts, so neither does.
            if let Some(&first) = seen.get(&name) {
                self.problems.push(
                    pos,
                    SpecFault::DuplicateKey {
                        key: shorten(&name),
                        first,
                    },
                );
            } else {
                seen.insert(name.clone(), pos);
                items.push((Key { pos, name }, node));
            }
            self.space();
            if self.eat(b'}') {
                return Ok(Value::Map(items));
            }
            if !self.eat(b',') {
                return self.unexpected("`,` or `}`");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Node, String> {
        let mut problems = Problems::default();
        let node = parse(text, &mut problems);
        match node {
            Some(node) if problems.is_empty() => Ok(node),
            _ => Err(problems.to_string()),
        }
    }

    fn plain(node: &Node) -> serde_json::Value {
        match &node.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => serde_json::from_str(n).unwrap(),
            Value::String(s) => s.clone().into(),
            Value::List(items) => items.iter().map(plain).collect(),
            Value::Map(items) => {
                let pairs = items.iter().map(|(k, v)| (k.name.clone(), plain(v)));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }

    #[test]
    fn positions_count_lines_and_characters() {
        let node = read("{\n  \"é\": [1,\n 22]}").unwrap();
        let Value::Map(items) = node.value else {
            panic!()
        };
        assert_eq!(items[0].0.pos, Pos { line: 2, column: 3 });
        assert_eq!(items[0].1.pos, Pos { line: 2, column: 8 });
        let Value::List(list) = &items[0].1.value else {
            panic!()
        };
        assert_eq!(list[1].pos, Pos { line: 3, column: 2 });
    }

    #[test]
    fn faults_say_where() {
        for (text, expected) in [
            (
                "",
                "line 1, column 1: the file is empty; a shape spec is a JSON object",
            ),
            (
                "{\"a\": 1,\n \"a\": 2}",
                "line 2, column 2: the key `a` is here a second time; the first is at line 1, column 2",
            ),
            ("{\"a\" 1}", "line 1, column 6: expected `:`, found `1`"),
            ("[1,]", "line 1, column 4: expected a value, found `]`"),
            ("[NaN]", "line 1, column 2: `NaN` is not a JSON value"),
            (
                "[None]",
                "line 1, column 2: `None` is Python; JSON writes `null`",
            ),
            ("[01]", "line 1, column 2: a number does not begin with `0`"),
            ("[1.]", "line 1, column 2: this number is cut short"),
            ("[-]", "line 1, column 2: this number is cut short"),
            (
                "[1] 2",
                "line 1, column 5: expected nothing after the end of the document, found `2`",
            ),
            ("[\"a", "line 1, column 2: this string is not closed"),
            (
                "[\"a\n\"]",
                "line 1, column 2: this string is not closed on its line",
            ),
            (
                r#"["\x"]"#,
                "line 1, column 3: this escape is not one of JSON's",
            ),
            (
                r#"["\ud800"]"#,
                "line 1, column 3: this `\\u` escape is not a character",
            ),
            (
                "{1: 2}",
                "line 1, column 2: expected a key in quotes, found `1`",
            ),
            (
                "{'a': 2}",
                "line 1, column 2: expected a key in quotes, found `'`",
            ),
            (
                "[1",
                "line 1, column 3: expected `,` or `]`, but the file ends here",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_recursing() {
        for open in ["[", "{\"a\":"] {
            let message = read(&open.repeat(10_000)).unwrap_err();
            assert!(message.contains("nested more than 64 deep"), "{message}");
        }
        assert!(read(&format!("{}{}", "[".repeat(64), "]".repeat(64))).is_ok());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1_000_000i32..1_000_000).prop_map(|n| (f64::from(n) / 8.0).into()),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_what_serde_json_writes(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let node = read(&text.unwrap()).unwrap();
            prop_assert_eq!(plain(&node), value);
        }

        #[test]
        fn accepts_nothing_that_serde_json_refuses(text in "[\\[\\]{}:,\"a\\\\u0-9eE.+\\- \\nntrul]{0,24}") {
            if read(&text).is_ok() {
                // Only the size of a float may differ: this parser keeps numbers as text.
                let oracle = serde_json::from_str::<serde_json::Value>(&text);
                prop_assert!(oracle.as_ref().is_ok_and(|_| true) || oracle.unwrap_err().to_string().contains("out of range"));
            }
        }
    }
}
