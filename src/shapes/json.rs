//! JSON with positions: every value and key knows its line and column.
//!
//! `serde_json` gives neither positions after parsing nor a word about duplicate keys, and a shape spec is written by hand,
//! so both matter. RFC 8259 with comments and trailing commas; nesting is limited to [`MAX_DEPTH`], and numbers keep their text.

use super::error::Problems;
use super::faults::SpecFault;
use super::quote::{Pos, shorten};
use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::tokens::Token;
use jsonc_parser::{CollectOptions, ParseOptions, ParseStringErrorKind, Scanner, ScannerOptions};
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

/// Parses one document. Duplicate and long keys go to `problems` and parsing goes on; after any other fault it stops (`None`).
pub(super) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    // Editors on Windows write a byte order mark, which RFC 8259 lets a reader ignore.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // What people write into such files, and nothing in which readers differ.
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = match let_through(text) {
        Some(fault) => Err(fault),
        None => match jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &options) {
            Ok(parsed) => parsed.value.ok_or_else(|| {
                let fault = "the file is empty; a shape spec is a JSON object";
                (text.len(), SpecFault::Syntax(fault.into()))
            }),
            Err(e) => Err((e.range().start, SpecFault::Syntax(in_words(&e, text)))),
        },
    };
    let mut places = Places::of(text);
    match parsed {
        Ok(value) => Some(node(value, &mut places, problems)),
        Err((at, fault)) => {
            problems.push(places.at(at), fault);
            None
        }
    }
}

/// The first fault that the parser would let through, and the byte where it is.
fn let_through(text: &str) -> Option<(usize, SpecFault)> {
    let mut depth = 0;
    let mut scanner = Scanner::new(text, &ScannerOptions::default());
    // What cannot be scanned, the parser says better.
    while let Ok(Some(token)) = scanner.scan() {
        let at = scanner.token_start();
        match token {
            // Found before the parser recurses: a hostile file would end the process.
            Token::OpenBrace | Token::OpenBracket if depth == MAX_DEPTH => {
                return Some((at, SpecFault::Depth { limit: MAX_DEPTH }));
            }
            Token::OpenBrace | Token::OpenBracket => depth += 1,
            Token::CloseBrace | Token::CloseBracket => depth = depth.saturating_sub(1),
            // Where a quote is forgotten, the string goes on to the next one, and the parser would find fault with what follows.
            Token::String(_) => {
                let raw = &text[at..scanner.token_end()];
                let (at, fault) = match raw.find(|c| c < ' ') {
                    None => continue,
                    Some(n) if raw[n..].starts_with(['\n', '\r']) => {
                        (at, "this string is not closed on its line")
                    }
                    Some(n) => (at + n, "a control character in a string must be escaped"),
                };
                return Some((at, SpecFault::Syntax(fault.into())));
            }
            _ => {}
        }
    }
    None
}

/// What the parser found, with what to write instead.
fn in_words(error: &ParseError, text: &str) -> String {
    use ParseErrorKind as Kind;
    use ParseStringErrorKind as InString;
    let rest = text.get(error.range().start..).unwrap_or_default();
    let found = match rest.chars().next() {
        None => ", but the file ends here".into(),
        Some(c) if c.is_control() => format!(", found `{}`", c.escape_default()),
        Some(c) => format!(", found `{c}`"),
    };
    let fault = match error.kind() {
        // The parser ends a number after a zero in front. Some readers take such a number for octal.
        Kind::ExpectedComma if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            "a number does not begin with `0`"
        }
        Kind::BareDecimalPointNumbersNotAllowed
        | Kind::ExpectedDigit
        | Kind::ExpectedDigitFollowingNegativeSign
        | Kind::ExpectedPlusMinusOrDigitInNumberLiteral => "this number is cut short",
        Kind::ExpectedComma => "this value ends without a `,`",
        Kind::UnterminatedArray => "this list is not closed with `]`",
        Kind::UnterminatedObject => "this object is not closed with `}`",
        Kind::UnterminatedCommentBlock => "this comment is not closed with `*/`",
        Kind::String(InString::UnterminatedStringLiteral) => "this string is not closed",
        Kind::String(
            InString::InvalidUnicodeEscapeSequence(_) | InString::ExpectedFourHexDigits,
        ) => "this `\\u` escape is not a character",
        Kind::String(_) => "this escape is not one of JSON's",
        Kind::ExpectedStringObjectProperty => return format!("expected a key in quotes{found}"),
        Kind::UnexpectedTokenInObject => {
            return format!("expected `,`, `}}` or a key in quotes{found}");
        }
        Kind::UnexpectedCloseBrace => {
            return format!("expected a value, or `]` after a list{found}");
        }
        Kind::ExpectedColonAfterObjectKey => return format!("expected `:`{found}"),
        Kind::SingleQuotedStringsNotAllowed => return format!("expected `\"`{found}"),
        Kind::MultipleRootJsonValues => {
            return format!("expected nothing after the end of the document{found}");
        }
        _ => match rest.split(|c: char| !c.is_alphanumeric()).next() {
            None | Some("") => return format!("expected a value{found}"),
            Some("None") => "`None` is Python; JSON writes `null`",
            Some(word) => return format!("`{}` is not a JSON value", shorten(word)),
        },
    };
    fault.into()
}

/// Places of bytes that are asked for in the order of the text.
struct Places<'a> {
    text: &'a str,
    read: usize,
    pos: Pos,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        let pos = Pos { line: 1, column: 1 };
        Places { text, read: 0, pos }
    }

    fn at(&mut self, byte: usize) -> Pos {
        for c in self.text[self.read..byte].chars() {
            self.pos = match c {
                '\n' => Pos {
                    line: self.pos.line + 1,
                    column: 1,
                },
                _ => Pos {
                    column: self.pos.column + 1,
                    ..self.pos
                },
            };
        }
        self.read = byte;
        self.pos
    }
}

fn node(value: ast::Value<'_>, places: &mut Places<'_>, problems: &mut Problems) -> Node {
    let pos = places.at(value.start());
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(b) => Value::Bool(b.value),
        ast::Value::NumberLit(n) => Value::Number(n.value.to_owned()),
        ast::Value::StringLit(s) => Value::String(s.value.into_owned()),
        ast::Value::Array(list) => {
            let items = list.elements.into_iter();
            Value::List(items.map(|item| node(item, places, problems)).collect())
        }
        ast::Value::Object(map) => Value::Map(entries(map, places, problems)),
    };
    Node { pos, value }
}

fn entries(
    map: ast::Object<'_>,
    places: &mut Places<'_>,
    problems: &mut Problems,
) -> Vec<(Key, Node)> {
    let mut items = Vec::with_capacity(map.properties.len());
    let mut seen: HashMap<String, Pos> = HashMap::new();
    for property in map.properties {
        let pos = places.at(property.start());
        let name = property.name.as_str().to_owned();
        if name.len() > MAX_KEY {
            let key = shorten(&name);
            let fault = format!("the key `{key}` is longer than {MAX_KEY} bytes");
            problems.push(pos, SpecFault::Syntax(fault));
        }
        let node = node(property.value, places, problems);
        // Readers of JSON differ in which of two equal keys counts, so neither does.
        if let Some(&first) = seen.get(&name) {
            let key = shorten(&name);
            problems.push(pos, SpecFault::DuplicateKey { key, first });
        } else {
            seen.insert(name.clone(), pos);
            items.push((Key { pos, name }, node));
        }
    }
    items
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
            ("[,]", "line 1, column 2: expected a value, found `,`"),
            (
                "{\"a\": 1,, }",
                "line 1, column 9: expected `,`, `}` or a key in quotes, found `,`",
            ),
            ("[1 2]", "line 1, column 3: this value ends without a `,`"),
            ("[1 [2]]", "line 1, column 3: this value ends without a `,`"),
            (
                "{\"a\": 1\n\"b\": 2}",
                "line 1, column 8: this value ends without a `,`",
            ),
            (
                "{\"a\": }",
                "line 1, column 7: expected a value, or `]` after a list, found `}`",
            ),
            (
                "{\"a\":",
                "line 1, column 6: expected a value, but the file ends here",
            ),
            (
                "[1] /*",
                "line 1, column 5: this comment is not closed with `*/`",
            ),
            ("[NaN]", "line 1, column 2: `NaN` is not a JSON value"),
            (
                "[None]",
                "line 1, column 2: `None` is Python; JSON writes `null`",
            ),
            ("[01]", "line 1, column 3: a number does not begin with `0`"),
            ("[0x1]", "line 1, column 2: `0x1` is not a JSON value"),
            ("[+1]", "line 1, column 2: expected a value, found `+`"),
            (
                "[-Infinity]",
                "line 1, column 2: expected a value, found `-`",
            ),
            ("[1.]", "line 1, column 2: this number is cut short"),
            ("[-]", "line 1, column 3: this number is cut short"),
            ("[1e]", "line 1, column 4: this number is cut short"),
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
            ("{'a': 2}", "line 1, column 2: expected `\"`, found `'`"),
            ("[1", "line 1, column 1: this list is not closed with `]`"),
            (
                "{\"a\": [1}",
                "line 1, column 9: expected a value, or `]` after a list, found `}`",
            ),
            (
                "{\"a\": 1",
                "line 1, column 1: this object is not closed with `}`",
            ),
            ("['1']", "line 1, column 2: expected `\"`, found `'`"),
            (
                "[\"a\tb\"]",
                "line 1, column 4: a control character in a string must be escaped",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn comments_and_trailing_commas_are_passed_over() {
        let commented = "// é\r\n{ /* two\nlines */ \"a\": [1, // one, [\n 2,],\n}\n/* \" */";
        let node = read(commented).unwrap();
        assert_eq!(plain(&node), serde_json::json!({"a": [1, 2]}));
        let Value::Map(items) = &node.value else {
            panic!()
        };
        let [(key, list)] = &items[..] else { panic!() };
        assert_eq!(
            (node.pos, key.pos, list.pos),
            (
                Pos { line: 2, column: 1 },
                Pos {
                    line: 3,
                    column: 10
                },
                Pos {
                    line: 3,
                    column: 15
                }
            )
        );
        assert_eq!(read("\u{feff}// mark\n[]").unwrap().pos.line, 2);
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
                let text = regex::Regex::new(r",(\s*[\]}])").unwrap().replace_all(&text, "$1");
                // Only the size of a float may differ: this parser keeps numbers as text.
                let oracle = serde_json::from_str::<serde_json::Value>(&text);
                prop_assert!(oracle.as_ref().is_ok_and(|_| true) || oracle.unwrap_err().to_string().contains("out of range"));
            }
        }
    }
}
