//! External data: tensors whose bytes are in other files of the model's folder.
//!
//! Format: <https://github.com/onnx/onnx/blob/main/docs/ExternalData.md>. `location` must stay inside the model's folder,
//! also after links are resolved. The optional `checksum` (SHA-1) is accepted and not verified: verifying would read every
//! byte at open, and what an engine was built from is pinned by BLAKE3 digests anyway.

use super::error::Problem;
use crate::fsx::Map;
use onnx_protobuf::StringStringEntryProto;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// The files of a model: the model itself first, then each external data file, mapped once.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    maps: Vec<Map>,
    by_location: HashMap<String, Result<usize, Refusal>>,
    by_path: HashMap<PathBuf, usize>,
}

/// Why a location is refused; kept so that each file is looked for once, however many tensors name it.
#[derive(Debug)]
enum Refusal {
    Escape,
    File(io::ErrorKind, String),
}

/// Where the bytes of one tensor are: index into the maps, and range.
pub(super) type Place = (usize, Range<usize>);

impl Files {
    /// The files of the model in `map`.
    pub(super) fn new(map: Map) -> Files {
        let folder = match map.path().parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        Files {
            folder,
            maps: vec![map],
            by_location: HashMap::new(),
            by_path: HashMap::new(),
        }
    }

    /// No files at all, for a model that comes with its own source of bytes.
    pub(super) fn none() -> Files {
        Files {
            folder: PathBuf::new(),
            maps: Vec::new(),
            by_location: HashMap::new(),
            by_path: HashMap::new(),
        }
    }

    /// The model's own file, if it came from one.
    pub(super) fn model(&self) -> Option<&Path> {
        self.maps.first().map(Map::path)
    }

    pub(super) fn maps(&self) -> &[Map] {
        &self.maps
    }

    /// The bytes at `place`.
    pub(super) fn bytes(&self, place: &Place) -> &[u8] {
        &self.maps[place.0][place.1.clone()]
    }

    /// Resolves the `external_data` entries of `tensor`, which needs `expected` bytes.
    /// A length that disagrees comes back as it is, for the caller to report with dtype and shape.
    pub(super) fn find(
        &mut self,
        tensor: &str,
        entries: &[StringStringEntryProto],
        expected: usize,
    ) -> Result<Place, Problem> {
        let entry = |reason: String| Problem::ExternalEntry {
            tensor: tensor.to_owned(),
            reason,
        };
        let (mut location, mut offset, mut length) = (None, None, None);
        for e in entries {
            let number = |old: Option<u64>| {
                if old.is_some() {
                    return Err(entry(format!("a second `{}`", e.key)));
                }
                e.value
                    .parse::<u64>()
                    .map(Some)
                    .map_err(|_| entry(format!("`{}` as its {}", e.value, e.key)))
            };
            match e.key.as_str() {
                "location" if location.is_some() => {
                    return Err(entry("a second `location`".into()));
                }
                "location" => location = Some(e.value.as_str()),
                "offset" => offset = number(offset)?,
                "length" => length = number(length)?,
                // Hints of other tools that do not change which bytes are meant.
                "checksum" | "basepath" => {}
                other if other.starts_with("prepacked") => {}
                other => return Err(entry(format!("the unknown entry `{other}`"))),
            }
        }
        let location = location.ok_or_else(|| entry("no `location`".into()))?;
        let file = self.map(tensor, location)?;
        // Checked against the file that was opened, not against what the model says of it.
        let file_length = self.maps[file].len() as u64;
        // Without a length the data reaches to the end of the file; with an offset, other tensors may follow.
        let length = match (length, offset) {
            (Some(n), _) => n,
            (None, None) => file_length,
            (None, Some(_)) => expected as u64,
        };
        let offset = offset.unwrap_or(0);
        match offset.checked_add(length) {
            // Both fit a usize because the file is mapped.
            Some(end) if end <= file_length => Ok((file, offset as usize..end as usize)),
            _ => Err(Problem::ExternalRange {
                tensor: tensor.to_owned(),
                location: location.to_owned(),
                offset,
                length,
                file_length,
            }),
        }
    }

    fn map(&mut self, tensor: &str, location: &str) -> Result<usize, Problem> {
        // A failure is kept too: a model has thousands of tensors in one file, and each names the
        // same reason.
        if !self.by_location.contains_key(location) {
            let found = self.open(location);
            self.by_location.insert(location.to_owned(), found);
        }
        match &self.by_location[location] {
            Ok(file) => Ok(*file),
            Err(Refusal::Escape) => Err(Problem::ExternalEscape {
                tensor: tensor.to_owned(),
                location: location.to_owned(),
            }),
            Err(Refusal::File(kind, text)) => Err(Problem::ExternalFile {
                tensor: tensor.to_owned(),
                location: location.to_owned(),
                source: io::Error::new(*kind, text.clone()),
            }),
        }
    }

    fn open(&mut self, location: &str) -> Result<usize, Refusal> {
        if !stays_inside(Path::new(location)) {
            return Err(Refusal::Escape);
        }
        let failed = |e: io::Error| Refusal::File(e.kind(), e.to_string());
        let folder = self.folder.canonicalize().map_err(failed)?;
        // After links are resolved: a link in the model's folder may lead anywhere.
        let path = folder.join(location).canonicalize().map_err(failed)?;
        if !path.starts_with(&folder) {
            return Err(Refusal::Escape);
        }
        // Two spellings of one file are read once.
        if let Some(&file) = self.by_path.get(&path) {
            return Ok(file);
        }
        let map = Map::open(&path).map_err(|e| match e {
            crate::fsx::Error::Read { source, .. } => failed(source),
            crate::fsx::Error::NotRegular { .. } => {
                Refusal::File(io::ErrorKind::InvalidInput, "not a regular file".into())
            }
            other => Refusal::File(io::ErrorKind::Other, other.to_string()),
        })?;
        self.maps.push(map);
        let file = self.maps.len() - 1;
        self.by_path.insert(path, file);
        Ok(file)
    }
}

/// Whether a relative path never climbs above where it starts, links left aside.
fn stays_inside(location: &Path) -> bool {
    let mut depth = 0usize;
    for part in location.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            // Counted on the way, so that `a/../../b` is refused although it might lead back
            // inside.
            Component::ParentDir => match depth.checked_sub(1) {
                Some(d) => depth = d,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    depth > 0
}

#[cfg(test)]
mod tests {
    use super::super::testing::{graph, model, node, raw};
    use super::*;
    use crate::onnx::{Error, Model};
    use onnx_protobuf::tensor_proto::DataLocation;
    use onnx_protobuf::{Message, TensorProto};

    fn external(name: &str, entries: &[(&str, &str)]) -> TensorProto {
        let mut t = raw(name, 1, &[4], Vec::new());
        t.data_location = DataLocation::EXTERNAL.into();
        t.external_data = entries
            .iter()
            .map(|(key, value)| StringStringEntryProto {
                key: (*key).into(),
                value: (*value).into(),
                ..StringStringEntryProto::default()
            })
            .collect();
        t
    }

    /// A folder with a model of these tensors, and 64 bytes of data.
    fn folder(tensors: Vec<TensorProto>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m/model.onnx");
        std::fs::create_dir(dir.path().join("m")).unwrap();
        let readers = tensors
            .iter()
            .map(|t| node("Add", &["x", &t.name], &[&format!("y{}", t.name)]))
            .collect();
        let proto = model(graph(&["x"], tensors, readers, &["x"]));
        std::fs::write(&path, proto.write_to_bytes().unwrap()).unwrap();
        let data: Vec<u8> = (0..64).collect();
        std::fs::write(dir.path().join("m/data"), &data).unwrap();
        std::fs::write(dir.path().join("outside"), &data).unwrap();
        (dir, path)
    }

    fn problem(entries: &[(&str, &str)]) -> Problem {
        let (_dir, path) = folder(vec![external("w", entries)]);
        match Model::open(path) {
            Err(Error::Invalid { mut problems, .. }) if problems.len() == 1 => problems.remove(0),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was opened"),
        }
    }

    #[test]
    fn offsets_lengths_and_shared_files() {
        let (_dir, path) = folder(vec![
            external(
                "a",
                &[("location", "data"), ("offset", "16"), ("length", "16")],
            ),
            external(
                "b",
                &[("location", "./data"), ("offset", "48"), ("checksum", "ab")],
            ),
        ]);
        let m = Model::open(path).unwrap();
        assert_eq!(&*m.bytes(&m.weights()[0]), (16..32).collect::<Vec<u8>>());
        assert_eq!(&*m.bytes(&m.weights()[1]), (48..64).collect::<Vec<u8>>());
        assert_eq!(m.files.maps.len(), 2, "the model and one data file");
    }

    #[test]
    fn locations_outside_are_refused() {
        for location in [
            "../outside",
            "sub/../../outside",
            "/etc/passwd",
            "",
            ".",
            "x/..",
        ] {
            let p = problem(&[("location", location)]);
            assert!(
                matches!(p, Problem::ExternalEscape { .. }),
                "{location}: {p}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_folder_are_refused_and_links_inside_are_not() {
        let entries = [("location", "link"), ("length", "16")];
        let (dir, path) = folder(vec![external("w", &entries)]);
        let link = dir.path().join("m/link");
        std::os::unix::fs::symlink("../outside", &link).unwrap();
        let Err(Error::Invalid { problems, .. }) = Model::open(&path) else {
            panic!("it was opened")
        };
        assert!(matches!(&problems[..], [Problem::ExternalEscape { .. }]));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("data", &link).unwrap();
        Model::open(&path).unwrap();
    }

    #[test]
    fn missing_files_and_folders_are_named() {
        let p = problem(&[("location", "nothing.data")]);
        assert!(p.to_string().contains("`nothing.data`"), "{p}");
        assert!(
            matches!(p, Problem::ExternalFile { source, .. } if source.kind() == io::ErrorKind::NotFound)
        );
        let (dir, path) = folder(vec![external("w", &[("location", "data")])]);
        std::fs::remove_file(dir.path().join("m/data")).unwrap();
        std::fs::create_dir(dir.path().join("m/data")).unwrap();
        let e = Model::open(path).err().unwrap();
        assert!(e.to_string().contains("is a directory"), "{e}");
    }

    #[test]
    fn ranges_past_the_end_and_wrong_lengths_are_refused() {
        let range = |offset, length| {
            problem(&[("location", "data"), ("offset", offset), ("length", length)])
        };
        assert!(matches!(
            range("56", "16"),
            Problem::ExternalRange {
                file_length: 64,
                ..
            }
        ));
        let most = u64::MAX.to_string();
        assert!(matches!(range(&most, "16"), Problem::ExternalRange { .. }));
        assert!(matches!(
            range("0", "12"),
            Problem::Length {
                expected: 16,
                found: 12,
                ..
            }
        ));
        let rest = problem(&[("location", "data"), ("offset", "56")]);
        assert!(matches!(rest, Problem::ExternalRange { length: 16, .. }));
        // Without offset and length the tensor is the whole file.
        let whole = problem(&[("location", "data")]);
        assert!(matches!(
            whole,
            Problem::Length {
                expected: 16,
                found: 64,
                ..
            }
        ));
    }

    #[test]
    fn odd_entries_are_refused() {
        for entries in [
            &[("offset", "0")][..],
            &[("location", "data"), ("offset", "-1")],
            &[("location", "data"), ("length", "many")],
            &[("location", "data"), ("location", "data")],
            &[("location", "data"), ("offset", "0"), ("offset", "0")],
            &[("location", "data"), ("encryption", "rot13")],
            // What marks weights in a plan is an entry like any other in a model.
            &[("trtmut.weight", "w")],
        ] {
            let p = problem(entries);
            assert!(matches!(p, Problem::ExternalEntry { .. }), "{p}");
        }
    }
}
