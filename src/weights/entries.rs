//! The tensors that one header names: sorted by name, each name and shape once, 32 bytes a tensor beside them. A header may hold a
//! million.

use crate::tensor::{Dtype, element_count};
use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The tensors of a file, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// One after the other.
    names: String,
    shapes: Vec<usize>,
    rows: Vec<Row>,
}

/// One tensor; where its name and its shape begin, and how long they are. Headers are shorter than 4 GiB.
#[derive(Debug)]
struct Row {
    name: u32,
    length: u32,
    shape: u32,
    rank: u32,
    /// Where its bytes begin in the file.
    start: usize,
    dtype: Dtype,
}

impl Row {
    fn name<'n>(&self, names: &'n str) -> &'n str {
        &names[self.name as usize..][..self.length as usize]
    }
}

impl Entries {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn name(&self, at: usize) -> &str {
        self.rows[at].name(&self.names)
    }

    pub fn describe(&self, at: usize) -> (Dtype, &[usize]) {
        let row = &self.rows[at];
        let shape = &self.shapes[row.shape as usize..][..row.rank as usize];
        (row.dtype, shape)
    }

    /// Where its bytes are in the file.
    pub fn range(&self, at: usize) -> Range<usize> {
        let (dtype, shape) = self.describe(at);
        let start = self.rows[at].start;
        let bytes = element_count(shape).and_then(|n| dtype.bytes_for(n));
        start..start + bytes.expect("the length was checked when the header was read")
    }

    /// Where the tensor of that name is.
    pub fn find(&self, name: &str) -> Option<usize> {
        (self.rows)
            .binary_search_by(|row| row.name(&self.names).cmp(name))
            .ok()
    }

    /// `start` is where its bytes begin in the file. [`Entries::sort`] is to follow.
    pub fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], start: usize) {
        let short = |n: usize| u32::try_from(n).expect("a header is shorter than 4 GiB");
        // Neighbours mostly have one shape.
        let last = self.rows.last().map(|r| (r.shape, r.rank as usize));
        let same = last.filter(|&(at, n)| self.shapes[at as usize..][..n] == *shape);
        let at = same.map_or_else(|| short(self.shapes.len()), |(at, _)| at);
        if same.is_none() {
            self.shapes.extend_from_slice(shape);
        }
        self.rows.push(Row {
            name: short(self.names.len()),
            length: short(name.len()),
            shape: at,
            rank: short(shape.len()),
            start,
            dtype,
        });
        self.names.push_str(name);
    }

    /// Brings them into the order of their names; names that stand twice lie beside each other then.
    pub fn sort(&mut self) {
        let Entries { names, rows, .. } = self;
        // Most headers are in order, which this finds out at once.
        rows.sort_by(|a, b| a.name(names).cmp(b.name(names)));
        self.names.shrink_to_fit();
        self.shapes.shrink_to_fit();
        self.rows.shrink_to_fit();
    }

    /// Names that stand more than once.
    pub fn repeated(&self) -> Vec<String> {
        let pairs = (1..self.len()).map(|at| (self.name(at - 1), self.name(at)));
        let mut twice: Vec<String> = (pairs.filter(|(a, b)| a == b))
            .map(|(name, _)| name.to_owned())
            .collect();
        twice.dedup();
        twice
    }

    /// Whether the tensors' bytes lie one after the other from `start` to `end`, without holes.
    fn fill(&self, start: usize, end: usize) -> bool {
        let mut ranges: Vec<Range<usize>> = (0..self.len()).map(|at| self.range(at)).collect();
        ranges.sort_by_key(|r| (r.start, r.end));
        let last = (ranges.iter()).try_fold(start, |at, r| (r.start == at).then_some(r.end));
        last == Some(end)
    }
}

/// Free-form texts of a header.
pub(super) type Texts = BTreeMap<String, String>;

/// The tensors and the texts of a header, the bytes of whose tensors lie in `data` of the file. None where anything is not as writers
/// write it, valid or not: the format's own reader says then what it is, and holds a header several times.
pub(super) fn plain(header: &[u8], data: Range<usize>) -> Option<(Entries, Texts)> {
    let text = std::str::from_utf8(header).ok()?;
    let mut json = serde_json::Deserializer::from_str(text);
    let (mut entries, texts) = json.deserialize_map(Header(data.start)).ok()?;
    json.end().ok()?;
    let filled = entries.fill(data.start, data.end);
    entries.sort();
    (filled && entries.repeated().is_empty()).then_some((entries, texts.unwrap_or_default()))
}

#[derive(PartialEq, Eq, Deserialize)]
struct Name<'h>(#[serde(borrow)] Cow<'h, str>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info<'h> {
    #[serde(borrow)]
    dtype: Name<'h>,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Reads a header whose tensors' bytes begin there in the file.
struct Header(usize);

impl<'de> Visitor<'de> for Header {
    type Value = (Entries, Option<Texts>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // What it says is never shown: see `plain`.
        let unusual = || A::Error::custom("unusual");
        let (mut entries, mut texts) = (Entries::default(), None);
        while let Some(Name(name)) = map.next_key()? {
            if name == "__metadata__" {
                if texts.replace(map.next_value()?).is_some() {
                    return Err(unusual());
                }
                continue;
            }
            let info: Info<'de> = map.next_value()?;
            let (from, to) = info.data_offsets;
            let length = to.checked_sub(from);
            let start = self.0.checked_add(from);
            let dtype = Dtype::from_safetensors(&info.dtype.0);
            // Halves of bytes are no length of the format.
            let bytes = (dtype.zip(element_count(&info.shape)))
                .and_then(|(dtype, n)| n.checked_mul(dtype.bits()))
                .filter(|bits| bits % 8 == 0)
                .map(|bits| bits / 8);
            match (dtype, start) {
                (Some(dtype), Some(start)) if bytes.is_some() && bytes == length => {
                    entries.push(&name, dtype, &info.shape, start);
                }
                _ => return Err(unusual()),
            }
        }
        Ok((entries, texts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    /// A header as texts: parts that are joined in any way make valid and invalid ones.
    fn headers() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec!["a", "b", "b.c", "\\u0061", "é", "__metadata__"]);
        let dtype = prop::sample::select(vec!["F32", "BF16", "F4", "F6_E2M3", "C64", "BOOL", "X"]);
        let shape = prop::collection::vec(0usize..3, 0..3);
        let extra = prop::sample::select(vec!["", "", "", ",\"x\":[1e999]", ",\"shape\":[1]"]);
        let entry = (name, dtype, shape, 0usize..3, extra, any::<bool>());
        (prop::collection::vec(entry, 0..4), any::<bool>()).prop_map(|(entries, texts)| {
            let mut at = 0;
            let mut parts: Vec<String> = (entries.into_iter())
                .map(|(name, dtype, shape, off, extra, exact)| {
                    let bits = match dtype {
                        "F32" => 32,
                        "BF16" => 16,
                        "F4" => 4,
                        "C64" => 64,
                        _ => 8,
                    };
                    let bytes = shape.iter().product::<usize>() * bits / 8;
                    let length = if exact { bytes } else { off };
                    at += length;
                    let from = at - length;
                    format!(
                        "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{from},{at}]{extra}}}"
                    )
                })
                .collect();
            if texts {
                parts.insert(0, "\"__metadata__\":{\"k\":\"v\"}".into());
            }
            format!("{{{}}}", parts.join(","))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_plain_is_what_the_formats_own_reader_reads(header in headers()) {
            let read = |length: usize| {
                let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
                bytes.extend(header.as_bytes());
                let start = bytes.len();
                bytes.resize(start + length, 0);
                let theirs = SafeTensors::read_metadata(&bytes).ok().map(|(_, m)| m);
                (plain(header.as_bytes(), start..start + length), theirs, start)
            };
            // Of the lengths that the data may have, one at most is right.
            for length in 0..64 {
                let (Some((entries, texts)), theirs, start) = read(length) else { continue };
                let theirs = theirs.expect("nothing is plain that the format's reader refuses");
                let known = theirs.tensors();
                prop_assert_eq!(entries.len(), known.len());
                for at in 0..entries.len() {
                    let info = known[entries.name(at)];
                    let (dtype, shape) = entries.describe(at);
                    prop_assert_eq!(dtype.safetensors().unwrap(), info.dtype.to_string());
                    prop_assert_eq!(shape, &info.shape[..]);
                    let (from, to) = info.data_offsets;
                    prop_assert_eq!(entries.range(at), start + from..start + to);
                    prop_assert_eq!(entries.find(entries.name(at)), Some(at));
                }
                let metadata = theirs.metadata().clone().unwrap_or_default();
                prop_assert_eq!(texts, metadata.into_iter().collect::<Texts>());
            }
        }
    }

    #[test]
    fn an_ordinary_header_is_plain() {
        let header = br#"{"__metadata__":{"k":"v"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  "#;
        let (entries, texts) = plain(header, 100..108).unwrap();
        assert_eq!((entries.name(0), entries.range(0)), ("a", 100..104));
        assert_eq!((entries.name(1), entries.range(1)), ("b", 104..108));
        assert_eq!(texts["k"], "v");
        assert!(plain(header, 100..109).is_none());
    }
}
