//! Indexes of shards: `*.safetensors.index.json`, as `huggingface_hub` writes them
//! (<https://huggingface.co/docs/safetensors/metadata_parsing>), and `*.safetensors.index.VARIANT.json`, as diffusers and
//! transformers do with `variant="fp16"`.

use super::error::{Error, IndexProblem};
use super::file::{SourceFile, open_file};
use crate::fsx;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// No index is longer, in bytes: it has one line for each tensor.
const LONGEST: u64 = 256 << 20;

/// Whether a file of this name is an index.
pub(super) fn is_index(name: &str) -> bool {
    let variant = name.rsplit_once(".safetensors.index.").map(|(_, v)| v);
    // `json` or `fp16.json`.
    variant.is_some_and(|v| {
        v.strip_suffix("json")
            .is_some_and(|v| v.is_empty() || (v.len() > 1 && v.find('.') == Some(v.len() - 1)))
    })
}

#[derive(Deserialize)]
struct Index<'i> {
    #[serde(borrow)]
    weight_map: Pairs<'i>,
}

/// A JSON object of strings with its repetitions, which a map would hide. An index may have millions of tensors, and a few shards.
struct Pairs<'i> {
    tensors: Vec<Placed<'i>>,
    shards: Vec<String>,
}

/// A tensor of an index.
struct Placed<'i> {
    tensor: Cow<'i, str>,
    /// Index of its shard.
    shard: u32,
    /// How many are listed before it.
    nth: u32,
}

/// A string of the index, copied only where it is written with escapes.
#[derive(Deserialize)]
struct Text<'i>(#[serde(borrow)] Cow<'i, str>);

impl<'de: 'i, 'i> Deserialize<'de> for Pairs<'i> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to shard file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut found = Pairs {
                    tensors: Vec::new(),
                    shards: Vec::new(),
                };
                let mut known: HashMap<Cow<'de, str>, u32> = HashMap::new();
                let short = |n: usize| u32::try_from(n).expect("an index is shorter");
                while let Some((Text(tensor), Text(shard))) = map.next_entry()? {
                    let next = short(found.shards.len());
                    let shard = *known.entry(shard).or_insert_with_key(|shard| {
                        found.shards.push(shard.clone().into_owned());
                        next
                    });
                    let nth = short(found.tensors.len());
                    found.tensors.push(Placed { tensor, shard, nth });
                }
                Ok(found)
            }
        }
        d.deserialize_map(V)
    }
}

/// Whether a shard of this name is in the folder of its index.
fn is_inside(shard: &str) -> bool {
    let parts = Path::new(shard).components();
    !shard.is_empty() && parts.into_iter().all(|c| matches!(c, Component::Normal(_)))
}

/// The shards that [`open`] reads for the index at `path`; none where the index cannot be read.
pub(super) fn shards(path: &Path) -> Vec<PathBuf> {
    let bytes = fsx::read_bounded(path, LONGEST).unwrap_or_default();
    let index = serde_json::from_slice::<Index<'_>>(&bytes);
    let mut names = index.map_or_else(|_| Vec::new(), |index| index.weight_map.shards);
    names.retain(|shard| is_inside(shard));
    names.sort_unstable();
    names.dedup();
    let beside = names.iter().map(|shard| path.with_file_name(shard));
    beside.collect()
}

/// Opens every shard of the index at `path` and proves that index and shards say the same. A shard's name must not lead out of the
/// folder: it would have another file read. Shards that are missing are reported together, since broken downloads lack several.
pub(super) fn open(path: &Path) -> Result<Vec<SourceFile>, Error> {
    let bytes = fsx::read_bounded(path, LONGEST)?;
    let index: Index<'_> = serde_json::from_slice(&bytes).map_err(|source| Error::IndexSyntax {
        path: path.to_owned(),
        source,
    })?;
    let mut problems = Vec::new();
    let Pairs { tensors, shards } = index.weight_map;
    let placed = placed(tensors, &mut problems);
    let home = |placed: &Placed<'_>| shards[placed.shard as usize].as_str();
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files: BTreeMap<&str, SourceFile> = BTreeMap::new();
    let mut named = vec![false; shards.len()];
    for at in &placed {
        named[at.shard as usize] = true;
    }
    let mut names: Vec<&str> = (shards.iter().zip(named))
        .filter_map(|(shard, named)| named.then_some(shard.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup();
    for shard in names {
        if !is_inside(shard) {
            problems.push(IndexProblem::Escapes {
                shard: shard.into(),
            });
            continue;
        }
        match open_file(&folder.join(shard)) {
            Ok(file) => {
                files.insert(shard, file);
            }
            Err(Error::File(fsx::Error::Read { source, .. }))
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                problems.push(IndexProblem::Missing {
                    shard: shard.into(),
                });
            }
            Err(e) => return Err(e),
        }
    }
    for at in &placed {
        let (tensor, shard) = (&at.tensor, home(at));
        if files.get(shard).is_some_and(|f| !f.holds(tensor)) {
            problems.push(IndexProblem::Absent {
                tensor: tensor.clone().into_owned(),
                shard: shard.into(),
            });
        }
    }
    for (&shard, file) in &files {
        for tensor in file.names() {
            let at = placed.binary_search_by(|p| p.tensor.as_ref().cmp(tensor));
            match at.ok().map(|at| home(&placed[at])) {
                Some(home) if home == shard => {}
                Some(home) => problems.push(IndexProblem::Twice {
                    tensor: tensor.into(),
                    shard: home.into(),
                    other: shard.into(),
                }),
                None => problems.push(IndexProblem::Unlisted {
                    tensor: tensor.into(),
                    shard: shard.into(),
                }),
            }
        }
    }
    if problems.is_empty() {
        Ok(files.into_values().collect())
    } else {
        Err(Error::Index {
            path: path.to_owned(),
            problems,
        })
    }
}

/// `tensors` sorted by name; of a name that is listed again, which is a problem, the last.
fn placed<'i>(mut tensors: Vec<Placed<'i>>, problems: &mut Vec<IndexProblem>) -> Vec<Placed<'i>> {
    // The last comes first: it is the one that stays.
    let order = |a: &Placed<'i>, b: &Placed<'i>| a.tensor.cmp(&b.tensor).then(b.nth.cmp(&a.nth));
    tensors.sort_unstable_by(order);
    let mut again: Vec<&Placed<'i>> = (tensors.windows(2))
        .filter(|pair| pair[0].tensor == pair[1].tensor)
        .map(|pair| &pair[0])
        .collect();
    again.sort_unstable_by_key(|placed| placed.nth);
    problems.extend(again.iter().map(|placed| IndexProblem::Repeated {
        tensor: placed.tensor.clone().into_owned(),
    }));
    tensors.dedup_by(|a, b| a.tensor == b.tensor);
    tensors
}

/// The files of the one checkpoint that `folder` holds: an index, or else one safetensors file or one complete set of shards.
pub(super) fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let (mut indexes, mut files) = (Vec::new(), Vec::new());
    for name in names_in(folder)? {
        if is_index(&name) {
            indexes.push(name);
        } else if is_safetensors(&name) {
            files.push(name);
        }
    }
    // Beside an index its shards are safetensors files too; the index says which of them count.
    let found = if indexes.is_empty() { files } else { indexes };
    let beside = |names: &[String]| names.iter().map(|n| folder.join(n)).collect();
    match (found.as_slice(), lacking(&found)) {
        ([], _) => Err(Error::NothingInFolder {
            path: folder.to_owned(),
        }),
        (set, Some(missing)) if missing.is_empty() => Ok(beside(set)),
        ([first, ..], Some(missing)) => Err(Error::ShardsMissing {
            path: folder.to_owned(),
            shard: first.clone(),
            missing,
        }),
        ([one], None) => Ok(vec![folder.join(one)]),
        (_, None) => Err(Error::SeveralInFolder {
            path: folder.to_owned(),
            found,
        }),
    }
}

/// The file that has the same weights whole, beside an index of that name: `model.safetensors` for `model.safetensors.index.json`,
/// `model.fp16.safetensors` for `model.safetensors.index.fp16.json`. A copy in another precision is another variant.
pub(super) fn whole(index: &str) -> Option<String> {
    let (stem, rest) = index.split_once(".safetensors.index.")?;
    let variant = rest.strip_suffix("json")?;
    Some(format!("{stem}.{variant}safetensors"))
}

fn is_safetensors(name: &str) -> bool {
    (Path::new(name).extension()).is_some_and(|e| e == "safetensors")
}

/// Names of the entries of a folder, sorted; those that are no text are of no file that is read.
fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
    let read = |e| fsx::Error::read(folder, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        names.extend(entry.map_err(read)?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// More shards than these have no names here: the number is the file's.
const MOST_SHARDS: usize = 100_000;

/// Of names that are all `X-0000M-of-0000N.safetensors` of one X and one N: those that are not there. None where they are no such set.
fn lacking(names: &[String]) -> Option<Vec<String>> {
    let part = |name: &str| -> Option<(String, usize, String)> {
        let stem = name.strip_suffix(".safetensors")?;
        let (rest, of) = stem.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        Some((stem.to_owned(), number.parse().ok()?, of.to_owned()))
    };
    let parts: Option<Vec<_>> = names.iter().map(|n| part(n)).collect();
    let parts = parts?;
    let (stem, _, of) = parts.first()?;
    let count: usize = of.parse().ok().filter(|n| *n <= MOST_SHARDS)?;
    let mut there = vec![false; count];
    for (own, number, total) in &parts {
        let place = number.checked_sub(1).and_then(|at| there.get_mut(at))?;
        if own != stem || total != of || std::mem::replace(place, true) {
            return None;
        }
    }
    let width = of.len();
    let missing = (1..=count).filter(|n| !there[n - 1]);
    Some(
        missing
            .map(|n| format!("{stem}-{n:0width$}-of-{of}.safetensors"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;
    use crate::weights::source::tests::write_safetensors;
    use std::fs;

    fn index(dir: &Path, map: &str) -> PathBuf {
        let path = dir.join("model.safetensors.index.json");
        fs::write(
            &path,
            format!("{{\"metadata\": {{}}, \"weight_map\": {map}}}"),
        )
        .unwrap();
        path
    }

    fn problems(path: &Path) -> Vec<IndexProblem> {
        match Source::open(path) {
            Err(Error::Index { problems, .. }) => problems,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shards_join_into_one_source() {
        let dir = tempfile::tempdir().unwrap();
        write_safetensors(
            &dir.path().join("1.safetensors"),
            &[("a", &[2], &[1.0, 2.0])],
        );
        write_safetensors(&dir.path().join("2.safetensors"), &[("b", &[1], &[3.0])]);
        let path = index(
            dir.path(),
            r#"{"a": "1.safetensors", "b": "2.safetensors"}"#,
        );
        for given in [path.as_path(), dir.path()] {
            let source = Source::open(given).unwrap();
            assert_eq!(source.names().collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!(source.files().len(), 2);
            assert_eq!(source.get("b").unwrap().data, 3f32.to_le_bytes());
        }
    }

    #[test]
    fn every_contradiction_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write_safetensors(
            &dir.path().join("1.safetensors"),
            &[
                ("a", &[1], &[1.0]),
                ("c", &[1], &[1.0]),
                ("d", &[1], &[1.0]),
            ],
        );
        write_safetensors(&dir.path().join("2.safetensors"), &[("a", &[1], &[3.0])]);
        let path = index(
            dir.path(),
            r#"{"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors", "c": "1.safetensors",
                "e": "3.safetensors", "f": "../1.safetensors", "g": "/etc/x.safetensors", "h": ""}"#,
        );
        let found = problems(&path);
        let s = |x: &str| x.to_string();
        for expected in [
            IndexProblem::Repeated { tensor: s("c") },
            IndexProblem::Escapes {
                shard: s("../1.safetensors"),
            },
            IndexProblem::Escapes {
                shard: s("/etc/x.safetensors"),
            },
            IndexProblem::Escapes { shard: s("") },
            IndexProblem::Missing {
                shard: s("3.safetensors"),
            },
            IndexProblem::Absent {
                tensor: s("b"),
                shard: s("2.safetensors"),
            },
            IndexProblem::Twice {
                tensor: s("a"),
                shard: s("1.safetensors"),
                other: s("2.safetensors"),
            },
            IndexProblem::Unlisted {
                tensor: s("d"),
                shard: s("1.safetensors"),
            },
        ] {
            assert!(found.contains(&expected), "{expected} not in {found:?}");
        }
        assert_eq!(found.len(), 8);
    }

    #[test]
    fn what_is_no_index_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for map in ["[]", "{\"a\": 1}", "null"] {
            let path = index(dir.path(), map);
            assert!(matches!(Source::open(path), Err(Error::IndexSyntax { .. })));
        }
    }

    #[test]
    fn every_spelling_of_an_index_is_one() {
        for name in [
            "model.safetensors.index.json",
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16.safetensors.index.json",
            ".safetensors.index.json",
        ] {
            assert!(is_index(name), "{name}");
        }
        for name in [
            "model.safetensors",
            "index.json",
            "m.safetensors.index.a.b.json",
            "m.safetensors.index..json",
            "m.safetensors.index.json.bak",
        ] {
            assert!(!is_index(name), "{name}");
        }
    }

    #[test]
    fn a_complete_set_of_shards_needs_no_index() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, tensor: &str| {
            write_safetensors(&dir.path().join(name), &[(tensor, &[1], &[1.0])]);
        };
        write("model.fp16-00001-of-00002.safetensors", "a");
        match Source::open(dir.path()) {
            Err(Error::ShardsMissing { shard, missing, .. }) => {
                assert_eq!(shard, "model.fp16-00001-of-00002.safetensors");
                assert_eq!(missing, ["model.fp16-00002-of-00002.safetensors"]);
            }
            other => panic!("{other:?}"),
        }
        write("model.fp16-00002-of-00002.safetensors", "b");
        assert_eq!(Source::open(dir.path()).unwrap().len(), 2);
        write("other-00001-of-00002.safetensors", "c");
        let e = Source::open(dir.path()).unwrap_err();
        assert!(
            matches!(&e, Error::SeveralInFolder { found, .. } if found.len() == 3),
            "{e}"
        );
        let lacking =
            |names: &[&str]| lacking(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let some = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
        for (names, missing) in [
            (
                &[
                    "m-00001-of-00003.safetensors",
                    "m-00003-of-00003.safetensors",
                ][..],
                some(&["m-00002-of-00003.safetensors"]),
            ),
            (
                &[
                    "m-00001-of-00002.safetensors",
                    "m-00002-of-00002.safetensors",
                ],
                some(&[]),
            ),
            (
                &[
                    "m-00001-of-00002.safetensors",
                    "n-00002-of-00002.safetensors",
                ],
                None,
            ),
            (
                &[
                    "m-00001-of-00002.safetensors",
                    "m-00002-of-00003.safetensors",
                ],
                None,
            ),
            (&["m-00003-of-00002.safetensors"], None),
            (&["m-00001-of-99999999999.safetensors"], None),
            (&["m.safetensors"], None),
        ] {
            assert_eq!(lacking(names), missing, "{names:?}");
        }
    }

    #[test]
    fn an_index_beside_the_same_weights_in_one_file_has_to_say_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, tensors: &[(&str, &[usize], &[f32])]| {
            write_safetensors(&dir.path().join(name), tensors);
        };
        write("1.safetensors", &[("a", &[2], &[1.0, 2.0])]);
        write("2.safetensors", &[("b", &[1], &[3.0])]);
        index(
            dir.path(),
            r#"{"a": "1.safetensors", "b": "2.safetensors"}"#,
        );
        // The same, a part of it, and what has nothing to do with it.
        for tensors in [
            &[
                ("a", &[2usize][..], &[1.0f32, 2.0][..]),
                ("b", &[1], &[3.0]),
            ][..],
            &[("b", &[1], &[3.0])],
            &[("lora", &[1], &[9.0])],
        ] {
            write("model.safetensors", tensors);
            assert_eq!(Source::open(dir.path()).unwrap().len(), 2);
        }
        // Another variant is not what libraries take instead.
        write("model.fp16.safetensors", &[("b", &[1], &[4.0])]);
        assert_eq!(Source::open(dir.path()).unwrap().len(), 2);
        assert_eq!(
            whole("x.safetensors.index.fp16.json").as_deref(),
            Some("x.fp16.safetensors")
        );
        assert_eq!(whole("x.safetensors"), None);
        for tensors in [
            &[
                ("a", &[2usize][..], &[1.0f32, 2.0][..]),
                ("b", &[1], &[4.0]),
            ][..],
            &[("a", &[1, 2], &[1.0, 2.0])],
        ] {
            write("model.safetensors", tensors);
            match Source::open(dir.path()) {
                Err(Error::SeveralInFolder { found, .. }) => {
                    assert_eq!(found, ["model.safetensors.index.json", "model.safetensors"]);
                }
                other => panic!("{other:?}"),
            }
            // Each of them can be named.
            for (name, len) in [
                ("model.safetensors.index.json", 2),
                ("model.safetensors", tensors.len()),
            ] {
                assert_eq!(Source::open(dir.path().join(name)).unwrap().len(), len);
            }
        }
    }

    #[test]
    fn a_folder_must_be_clear() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Source::open(dir.path());
        assert!(matches!(open(), Err(Error::NothingInFolder { .. })));
        write_safetensors(&dir.path().join("1.safetensors"), &[("a", &[1], &[1.0])]);
        assert_eq!(open().unwrap().len(), 1);
        write_safetensors(&dir.path().join("2.safetensors"), &[("b", &[1], &[1.0])]);
        assert!(matches!(open(), Err(Error::SeveralInFolder { found, .. }) if found.len() == 2));
        index(dir.path(), r#"{"a": "1.safetensors"}"#);
        assert_eq!(open().unwrap().len(), 1);
    }
}
