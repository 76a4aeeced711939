//! Named tensors of one or several memory-mapped safetensors files; checked once, then views cannot fail.

use super::error::Error;
use super::index;
use crate::fsx::Map;
use crate::tensor::{Digest, Dtype, TensorView};
use crate::watch::{Event, Watch};
use rayon::prelude::*;
use safetensors::{SafeTensorError, SafeTensors};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Longest header that is read, in bytes; the same limit as in the format's reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// Named tensors. Every tensor is a view into a memory map: opening reads headers only.
#[derive(Debug)]
pub struct Source {
    files: Vec<SourceFile>,
    // Name to file.
    home: BTreeMap<String, usize>,
}

/// One safetensors file.
#[derive(Debug)]
pub struct SourceFile {
    map: Map,
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Source {
    /// Opens `path`: a safetensors file, an index of shards (`*.safetensors.index.json`), or a folder that holds exactly one
    /// index or, without an index, exactly one safetensors file.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(path: impl AsRef<Path>) -> Result<Source, Error> {
        Self::open_all(&[path.as_ref()])
    }

    /// Opens several paths as one source, each as [`Source::open`] does.
    ///
    /// # Errors
    /// [`Error::Duplicate`] when two of them hold the same name, and see [`Error`].
    pub fn open_all<P: AsRef<Path>>(paths: &[P]) -> Result<Source, Error> {
        if paths.is_empty() {
            return Err(Error::None);
        }
        let mut files = Vec::new();
        for path in paths {
            files.extend(open_path(path.as_ref())?);
        }
        let mut home: BTreeMap<String, usize> = BTreeMap::new();
        let mut twice = Vec::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(&first) = home.get(name) {
                    let path = |i: usize| files[i].path().to_owned();
                    twice.push((name.to_owned(), path(first), path(i)));
                } else {
                    home.insert(name.to_owned(), i);
                }
            }
        }
        if !twice.is_empty() {
            return Err(Error::Duplicate { names: twice });
        }
        Ok(Source { files, home })
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.home.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.home.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.home.is_empty()
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.files[*self.home.get(name)?].get(name)
    }

    /// The files, in the order given; shards of an index sorted by name.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The file that holds `name`.
    pub fn file_of(&self, name: &str) -> Option<&SourceFile> {
        self.home.get(name).map(|&i| &self.files[i])
    }

    /// The digest of every tensor's bytes, computed on all cores. Events are in bytes.
    pub fn digests(&self, watch: &dyn Watch) -> BTreeMap<String, Digest> {
        // In file order, so that a cold disk is read forwards.
        let mut order: Vec<(usize, usize, &str)> = Vec::with_capacity(self.len());
        for (name, &file) in &self.home {
            order.push((file, self.files[file].entries[name].range.start, name));
        }
        order.sort_unstable();
        let views: Vec<(&str, TensorView<'_>)> = order
            .into_iter()
            .filter_map(|(_, _, name)| Some((name, self.get(name)?)))
            .collect();
        let total = views.iter().map(|(_, v)| v.data.len() as u64).sum();
        watch.event(Event::Begin {
            step: "hashing weights",
            total: Some(total),
        });
        let digests = views
            .par_iter()
            .map(|(name, view)| {
                let digest = Digest::of(view.data);
                watch.event(Event::Advance(view.data.len() as u64));
                ((*name).to_owned(), digest)
            })
            .collect();
        watch.event(Event::End);
        digests
    }
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

    /// Its length in bytes.
    pub fn byte_len(&self) -> u64 {
        self.map.len() as u64
    }

    /// The digest of the whole file, header included; reads all of it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.map)
    }

    /// Names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let e = self.entries.get(name)?;
        Some(TensorView {
            dtype: e.dtype,
            shape: &e.shape,
            data: &self.map[e.range.clone()],
        })
    }
}

fn open_path(path: &Path) -> Result<Vec<SourceFile>, Error> {
    if path.is_dir() {
        return open_path(&index::in_folder(path)?);
    }
    if path.to_string_lossy().ends_with(index::SUFFIX) {
        return index::open(path);
    }
    Ok(vec![open_file(path)?])
}

/// Maps one safetensors file and checks its header against its length.
pub(super) fn open_file(path: &Path) -> Result<SourceFile, Error> {
    let map = Map::open(path)?;
    if map.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    let header = check_length(path, &map)?;
    let (length, metadata) =
        SafeTensors::read_metadata(&map).map_err(|e| header_error(path, &map, e))?;
    let names = repeated(header);
    if !names.is_empty() {
        return Err(Error::Repeated {
            path: path.to_owned(),
            names,
        });
    }
    let start = 8 + length;
    let (mut entries, mut foreign) = (BTreeMap::new(), Vec::new());
    for (name, info) in metadata.tensors() {
        let Some(dtype) = Dtype::from_safetensors(&info.dtype.to_string()) else {
            foreign.push((name, info.dtype.to_string()));
            continue;
        };
        let (from, to) = info.data_offsets;
        let entry = Entry {
            dtype,
            shape: info.shape.clone(),
            range: start + from..start + to,
        };
        entries.insert(name, entry);
    }
    if !foreign.is_empty() {
        foreign.sort_unstable();
        return Err(Error::Dtype {
            path: path.to_owned(),
            tensors: foreign,
        });
    }
    let metadata = metadata.metadata().clone().unwrap_or_default();
    Ok(SourceFile {
        map,
        metadata: metadata.into_iter().collect(),
        entries,
    })
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
        other_format(path, map).unwrap_or(cut)
    })
}

fn header_error(path: &Path, map: &[u8], source: SafeTensorError) -> Error {
    if let Some(e) = other_format(path, map) {
        return e;
    }
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

/// Recognises files that are mistaken for safetensors by their first bytes.
fn other_format(path: &Path, map: &[u8]) -> Option<Error> {
    let kinds: [(&[u8], &str); 6] = [
        (b"PK\x03\x04", "a PyTorch pickle (zip)"),
        (b"\x80\x02", "a PyTorch pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"GGUF", "a GGUF file"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
    ];
    let (_, kind) = kinds
        .into_iter()
        .find(|(magic, _)| map.starts_with(magic))?;
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fault::Explain;
    use crate::watch::Silent;
    use proptest::prelude::*;
    use std::fs;
    use std::sync::Mutex;

    /// Writes f32 tensors: name, shape, values.
    pub(crate) fn write_safetensors(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
        let data: Vec<Vec<u8>> = (tensors.iter())
            .map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&data).map(|((name, shape, _), bytes)| {
            let view = safetensors::tensor::TensorView::new(
                safetensors::Dtype::F32,
                shape.to_vec(),
                bytes,
            );
            (*name, view.unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Writes tensors of any type that the format has.
    pub(crate) fn write_tensors(path: &Path, tensors: &[(String, crate::tensor::Tensor)]) {
        let views = tensors.iter().map(|(name, t)| {
            let text = format!("\"{}\"", t.dtype.safetensors().unwrap());
            let dtype = serde_json::from_str(&text).unwrap();
            let view = safetensors::tensor::TensorView::new(dtype, t.shape.clone(), &t.data);
            (name.as_str(), view.unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn open_bytes(bytes: &[u8]) -> Result<Source, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        fs::write(&path, bytes).unwrap();
        Source::open(path)
    }

    #[test]
    fn views_have_the_bytes_of_the_file() {
        let s = open_bytes(&raw(
            r#"{"__metadata__":{"k":"v"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F16","shape":[0,3],"data_offsets":[8,8]}}"#,
            &[1, 2, 3, 4, 5, 6, 7, 8],
        ))
        .unwrap();
        assert_eq!(s.names().collect::<Vec<_>>(), ["a", "b", "e"]);
        let b = s.get("b").unwrap();
        assert_eq!(
            (b.dtype, b.shape, b.data),
            (Dtype::Bf16, &[2][..], &[5, 6, 7, 8][..])
        );
        assert!(s.get("e").unwrap().data.is_empty());
        assert!(s.get("c").is_none());
        assert_eq!(s.files()[0].metadata()["k"], "v");
    }

    #[test]
    fn digests_are_of_the_tensors_bytes_and_progress_adds_up() {
        struct Sum(Mutex<(u64, u64)>);
        impl Watch for Sum {
            fn event(&self, event: Event<'_>) {
                let mut sum = self.0.lock().unwrap();
                match event {
                    Event::Begin { total, .. } => sum.0 = total.unwrap(),
                    Event::Advance(n) => sum.1 += n,
                    _ => {}
                }
            }
        }
        let s = open_bytes(&raw(
            r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#,
            &[1, 2, 3, 4],
        ))
        .unwrap();
        let sum = Sum(Mutex::new((0, 0)));
        let digests = s.digests(&sum);
        assert_eq!(digests["a"], Digest::of(&[1, 2, 3]));
        assert_eq!(digests, s.digests(&Silent));
        assert_eq!(*sum.0.lock().unwrap(), (4, 4));
    }

    #[test]
    fn hostile_files_are_refused_with_their_code() {
        let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("zero length", vec![], "weights-empty"),
            ("shorter than a length", vec![1, 0, 0], "weights-header"),
            ("data cut", raw(one, &[0; 7]), "weights-length"),
            ("data too long", raw(one, &[0; 9]), "weights-length"),
            (
                "header cut",
                raw(one, &[0; 8])[..20].to_vec(),
                "weights-length",
            ),
            (
                "header beyond the limit",
                u64::MAX.to_le_bytes().to_vec(),
                "weights-header",
            ),
            (
                "header not UTF-8",
                [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat(),
                "weights-header",
            ),
            ("header no JSON", raw("{]", &[]), "weights-header"),
            ("header no object", raw("[]", &[]), "weights-header"),
            (
                "hole",
                raw(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                    &[0; 8],
                ),
                "weights-header",
            ),
            (
                "overlap",
                raw(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#,
                    &[0; 6],
                ),
                "weights-header",
            ),
            (
                "backwards",
                raw(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
                    &[0; 4],
                ),
                "weights-header",
            ),
            (
                "shape does not fit",
                raw(
                    r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
                    &[0; 8],
                ),
                "weights-header",
            ),
            (
                "shape overflows",
                raw(
                    r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                    &[0; 8],
                ),
                "weights-header",
            ),
            (
                "negative extent",
                raw(
                    r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#,
                    &[0; 8],
                ),
                "weights-header",
            ),
            (
                "unknown type",
                raw(
                    r#"{"a":{"dtype":"F128","shape":[1],"data_offsets":[0,8]}}"#,
                    &[0; 8],
                ),
                "weights-header",
            ),
            (
                "6-bit floats",
                raw(
                    r#"{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}"#,
                    &[0; 3],
                ),
                "weights-dtype",
            ),
            (
                "repeated name",
                raw(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#,
                    &[0; 4],
                ),
                "weights-repeated-name",
            ),
            (
                "zip pickle",
                b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00".to_vec(),
                "weights-format",
            ),
            (
                "zip pickle with plain flags",
                b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00".to_vec(),
                "weights-format",
            ),
            (
                "old pickle",
                b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(),
                "weights-format",
            ),
            (
                "gguf",
                b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00".to_vec(),
                "weights-format",
            ),
        ];
        for (what, bytes, code) in cases {
            let e = open_bytes(bytes).expect_err(what);
            assert_eq!(e.code(), *code, "{what}: {e}");
            assert!(e.to_string().contains("x.safetensors"), "{what}: {e}");
            assert!(!e.hints().is_empty(), "{what}");
        }
    }

    #[test]
    fn a_cut_file_says_by_how_much() {
        let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let whole = raw(one, &[0; 8]);
        match open_bytes(&whole[..whole.len() - 3]) {
            Err(Error::Length {
                expected, actual, ..
            }) => {
                assert_eq!(
                    (expected, actual),
                    (whole.len() as u64, whole.len() as u64 - 3)
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pickle_hint_converts_it() {
        let e = open_bytes(b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00").unwrap_err();
        assert!(e.hints()[0].contains("save_file"));
    }

    #[test]
    fn a_name_in_two_files_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (
            dir.path().join("a.safetensors"),
            dir.path().join("b.safetensors"),
        );
        write_safetensors(&a, &[("x", &[1], &[1.0]), ("y", &[1], &[1.0])]);
        write_safetensors(&b, &[("y", &[1], &[1.0]), ("z", &[1], &[1.0])]);
        match Source::open_all(&[&a, &b]) {
            Err(Error::Duplicate { names }) => assert_eq!(names, [("y".into(), a, b)]),
            other => panic!("{other:?}"),
        }
        assert!(matches!(Source::open_all::<&Path>(&[]), Err(Error::None)));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = open_bytes(&bytes);
        }

        #[test]
        fn random_headers_never_panic(
            dtype in prop::sample::select(vec!["F32", "BF16", "F4", "F6_E3M2", "I64", "BOOL"]),
            shape in prop::collection::vec(any::<u64>().prop_map(|n| if n % 2 == 0 { n % 9 } else { n }), 0..4),
            from in any::<u64>().prop_map(|n| if n % 3 == 0 { n } else { 0 }),
            to in any::<u64>().prop_map(|n| if n % 3 == 0 { n } else { n % 64 }),
            data in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}}}"#);
            if let Ok(s) = open_bytes(&raw(&header, &data)) {
                prop_assert_eq!(s.get("a").unwrap().data, &data[..]);
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0usize..70, bit in 0u8..8) {
            let mut bytes = raw(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = open_bytes(&bytes);
        }
    }
}
