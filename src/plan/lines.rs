//! How a manifest is laid out as text: a line for each weight and for each tensor of the base, so that a text of many thousands of them
//! stays short, and can still be read and compared line by line.

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};

/// Objects that lie in no more others are spread over lines.
const SPREAD: usize = 2;

/// `value` as JSON.
pub(super) fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut text, Lines::default()))?;
    Ok(text)
}

/// Spreads what holds others over lines, down to objects that lie in several.
#[derive(Default)]
struct Lines {
    depth: usize,
    /// How deep the object is that stands on one line with all that is in it.
    line: Option<usize>,
    has_value: bool,
}

impl Lines {
    fn begin<W: ?Sized + Write>(&mut self, out: &mut W, with: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        out.write_all(with)
    }

    fn end<W: ?Sized + Write>(&mut self, out: &mut W, with: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.new_line(out)?;
        }
        if self.line == Some(self.depth) {
            self.line = None;
        }
        out.write_all(with)
    }

    fn next<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        self.new_line(out)
    }

    fn new_line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        if self.line.is_some() {
            return Ok(());
        }
        out.write_all(b"\n")?;
        for _ in 0..self.depth {
            out.write_all(b"  ")?;
        }
        Ok(())
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        if self.depth >= SPREAD && self.line.is_none() {
            self.line = Some(self.depth);
        }
        self.begin(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(if self.line.is_some() { b":" } else { b": " })
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_line_and_the_value_stays_the_same() {
        let value = serde_json::json!({
            "format": "x",
            "empty": {},
            "none": [],
            "model": {"path": "m.onnx", "digests": ["a", "b"]},
            "weights": [
                {"name": "a \"quoted\"\nname", "shape": [2, 3], "mapping": {"steps": [{"step": "exp"}]}},
                {"name": "b", "shape": []},
            ],
            "base": {"files": [{"path": "w"}], "inventory": [{"name": "t", "shape": [1]}]},
        });
        let text = String::from_utf8(to_vec(&value).unwrap()).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
        let expected = r#"{
  "format": "x",
  "empty": {},
  "none": [],
  "model": {
    "path": "m.onnx",
    "digests": [
      "a",
      "b"
    ]
  },
  "weights": [
    {"name":"a \"quoted\"\nname","shape":[2,3],"mapping":{"steps":[{"step":"exp"}]}},
    {"name":"b","shape":[]}
  ],
  "base": {
    "files": [
      {"path":"w"}
    ],
    "inventory": [
      {"name":"t","shape":[1]}
    ]
  }
}"#;
        assert_eq!(text, expected);
    }
}
