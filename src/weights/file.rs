//! One safetensors file. Its header is checked once, when it is opened; a tensor's bytes are read when it is asked for.

use super::entries::{self, Entries, Texts};
use super::error::Error;
use crate::fsx::Map;
use crate::tensor::{Digest, Dtype};
use safetensors::{SafeTensorError, SafeTensors};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Longest header that is read, in bytes; the same limit as in the format's reference implementation.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Debug)]
pub struct SourceFile {
    pub(super) map: Map,
    metadata: Texts,
    pub(super) entries: Entries,
}

impl SourceFile {
    /// The path it was opened with; for a shard, the index's folder and the shard's name.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// Its free-form metadata (`__metadata__`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The digest of the whole file, header included; reads all of it.
    pub fn digest(&self) -> Digest {
        Digest::of_length(self.map.len(), |at, into| self.map.copy_to(at, into))
    }

    /// Names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.entries.len()).map(|at| self.entries.name(at))
    }

    /// Element type, shape and digest of the tensor of that name; its bytes are read once and not kept.
    pub(super) fn value(&self, name: &str) -> Option<(Dtype, &[usize], Digest)> {
        let at = self.entries.find(name)?;
        let (dtype, shape) = self.entries.describe(at);
        let range = self.entries.range(at);
        let read = |from: usize, into: &mut [u8]| self.map.copy_to(range.start + from, into);
        Some((dtype, shape, Digest::of_length(range.len(), read)))
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.entries.find(name).is_some()
    }
}

/// Opens one safetensors file and checks its header against its length.
pub(super) fn open_file(path: &Path) -> Result<SourceFile, Error> {
    let map = Map::open(path)?;
    if map.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    let stated = map[..map.len().min(8)]
        .try_into()
        .map_or(0, u64::from_le_bytes);
    // A header that is too long is not looked into, but the first bytes tell what such a file is instead.
    let read = if stated > MAX_HEADER { 64 } else { 8 + stated };
    let start = map.beginning(read as usize)?;
    let header = check_length(path, &start)?;
    let data = 8 + header.len()..map.len();
    let (entries, metadata) = match entries::plain(header, data) {
        Some(read) => read,
        None => by_the_format(path, &start)?,
    };
    Ok(SourceFile {
        map,
        metadata,
        entries,
    })
}

/// What the format's own reader reads, or says is wrong.
fn by_the_format(path: &Path, file: &[u8]) -> Result<(Entries, Texts), Error> {
    let (length, metadata) =
        SafeTensors::read_metadata(file).map_err(|e| header_error(path, file, e))?;
    let names = repeated(&file[8..8 + length]);
    if !names.is_empty() {
        return Err(Error::Repeated {
            path: path.to_owned(),
            names,
        });
    }
    let (mut entries, mut foreign) = (Entries::default(), Vec::new());
    for (name, info) in metadata.tensors() {
        match Dtype::from_safetensors(&info.dtype.to_string()) {
            Some(dtype) => {
                entries.push(&name, dtype, &info.shape, 8 + length + info.data_offsets.0);
            }
            None => foreign.push((name, info.dtype.to_string())),
        }
    }
    if !foreign.is_empty() {
        // The parser keeps tensors in a hash map: sorted, the message is the same in every run.
        foreign.sort_unstable();
        return Err(Error::Dtype {
            path: path.to_owned(),
            tensors: foreign,
        });
    }
    entries.sort();
    let metadata = metadata.metadata().clone().unwrap_or_default();
    Ok((entries, metadata.into_iter().collect()))
}

/// The header's bytes, when the file is long enough to hold a header of the stated length.
fn check_length<'a>(path: &Path, map: &'a [u8]) -> Result<&'a [u8], Error> {
    let refuse = |source| header_error(path, map, source);
    let Some((length, rest)) = map.split_first_chunk::<8>() else {
        return Err(refuse(SafeTensorError::HeaderTooSmall));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(refuse(SafeTensorError::HeaderTooLarge));
    }
    rest.get(..length as usize).ok_or_else(|| {
        let cut = Error::Length {
            path: path.to_owned(),
            expected: 8 + length,
            actual: map.len() as u64,
        };
        // The first bytes of any other format read as a length, mostly as a huge one. Before a file
        // counts as cut short it is asked what it is.
        other_format(path, map).unwrap_or(cut)
    })
}

fn header_error(path: &Path, map: &[u8], source: SafeTensorError) -> Error {
    if let Some(e) = other_format(path, map) {
        return e;
    }
    // The parser says only that the lengths differ; the header is read again for the figures.
    if let SafeTensorError::MetadataIncompleteBuffer = source
        && let Some(expected) = described_length(map)
    {
        return Error::Length {
            path: path.to_owned(),
            expected,
            actual: map.len() as u64,
        };
    }
    Error::Header {
        path: path.to_owned(),
        source,
    }
}

/// How long the file would be if its data ended where the last tensor ends.
fn described_length(map: &[u8]) -> Option<u64> {
    let (length, rest) = map.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let header: safetensors::tensor::Metadata =
        serde_json::from_slice(rest.get(..length as usize)?).ok()?;
    Some(8 + length + header.data_len() as u64)
}

/// Recognises files that are mistaken for safetensors by how they begin.
fn other_format(path: &Path, map: &[u8]) -> Option<Error> {
    const KINDS: [(&[u8], &str); 8] = [
        (b"PK\x03\x04", "a PyTorch pickle (zip)"),
        (b"\x80\x02", "a PyTorch pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"version https://git-lfs", "a Git LFS pointer"),
        (b"GGUF", "a GGUF file"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"{", "a JSON document"),
    ];
    let start = &map[..map.len().min(1024)];
    let text = String::from_utf8_lossy(start)
        .trim_start()
        .to_ascii_lowercase();
    let page = ["<!doctype html", "<html", "<?xml"]
        .iter()
        .any(|t| text.starts_with(t));
    let known = KINDS.iter().find(|(magic, _)| start.starts_with(magic));
    let kind = known
        .map(|(_, kind)| *kind)
        .or(page.then_some("a web page"))?;
    Some(Error::OtherFormat {
        path: path.to_owned(),
        kind,
    })
}

/// Names that stand more than once in a header. The format forbids them, and the parser keeps the last.
fn repeated(header: &[u8]) -> Vec<String> {
    struct V;
    impl<'de> Visitor<'de> for V {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
            let mut names: Vec<String> = Vec::new();
            while let Some((name, IgnoredAny)) = map.next_entry()? {
                names.push(name);
            }
            names.sort_unstable();
            let mut twice: Vec<String> = names
                .windows(2)
                .filter(|w| w[0] == w[1])
                .map(|w| w[0].clone())
                .collect();
            twice.dedup();
            Ok(twice)
        }
    }
    // The header has been parsed already, so this cannot fail on its syntax.
    serde_json::Deserializer::from_slice(header)
        .deserialize_map(V)
        .unwrap_or_default()
}
