//! Named tensors of one or several safetensors files, found by path.

use super::error::Error;
use super::file::{SourceFile, open_file};
use super::finder::Finder;
use super::index;
use crate::tensor::{Digest, Dtype, Stretch, Tensor, TensorView, digests_of, digests_seeing};
use crate::watch::{Event, Watch};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Named tensors. Opening reads headers only, and each tensor is read once ([`Map`](crate::fsx::Map)).
#[derive(Debug)]
pub struct Source {
    files: Vec<SourceFile>,
    /// Every tensor, in the order of the names.
    places: Vec<Place>,
    finder: Finder,
}

/// Where a tensor is: index of a file, and of one of its entries.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: u32,
    entry: u32,
}

impl Place {
    fn name(self, files: &[SourceFile]) -> &str {
        files[self.file as usize].entries.name(self.entry as usize)
    }
}

impl Source {
    /// Opens `path`: a safetensors file, an index of shards (`*.safetensors.index.json`, `*.safetensors.index.fp16.json`), or a
    /// folder that holds exactly one index or, without an index, one safetensors file or one complete set of shards.
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
        let short = |n: usize| u32::try_from(n).expect("a header names fewer tensors");
        let mut places: Vec<Place> = Vec::new();
        for (i, file) in files.iter().enumerate() {
            let of = |entry| Place {
                file: short(i),
                entry: short(entry),
            };
            places.extend((0..file.entries.len()).map(of));
        }
        // Each file is in order, which the sort makes use of; of one name the first file comes first.
        places.sort_by(|a, b| a.name(&files).cmp(b.name(&files)));
        let twice = twice(&files, &places);
        if !twice.is_empty() {
            return Err(Error::Duplicate { names: twice });
        }
        let finder = Finder::default();
        Ok(Source {
            files,
            places,
            finder,
        })
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.places.iter().map(|place| place.name(&self.files))
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The index of the tensor of that name in the order of the names.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let compare = |at: usize| self.name_at(at).cmp(name);
        self.finder.find(self.len(), compare)
    }

    /// Indices of the tensors whose names begin so.
    pub(super) fn under(&self, prefix: &str) -> Range<usize> {
        let before = |p: &Place| p.name(&self.files) < prefix;
        let start = self.places.partition_point(before);
        let within = |p: &Place| p.name(&self.files).starts_with(prefix);
        start..start + self.places[start..].partition_point(within)
    }

    /// The name of a tensor by its index.
    pub(super) fn name_at(&self, at: usize) -> &str {
        self.places[at].name(&self.files)
    }

    /// Element type and shape of a tensor by its index; reads nothing.
    pub(super) fn describe_at(&self, at: usize) -> (Dtype, &[usize]) {
        let Place { file, entry } = self.places[at];
        self.files[file as usize].entries.describe(entry as usize)
    }

    /// Where the bytes of a tensor are, by its index.
    pub(super) fn stretch_at(&self, at: usize) -> Stretch {
        let Place { file, entry } = self.places[at];
        let file = file as usize;
        let range = self.files[file].entries.range(entry as usize);
        Stretch { file, range }
    }

    /// A tensor by its index.
    pub(super) fn get_at(&self, at: usize) -> TensorView<'_> {
        let (dtype, shape) = self.describe_at(at);
        let Stretch { file, range } = self.stretch_at(at);
        TensorView {
            dtype,
            shape,
            data: &self.files[file].map[range],
        }
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        Some(self.get_at(self.find(name)?))
    }

    /// Element type and shape of the tensor of that name; reads nothing.
    pub fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        Some(self.describe_at(self.find(name)?))
    }

    /// The shape of the tensor of that name; reads nothing.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(self.describe(name)?.1)
    }

    /// A copy of the tensor of that name, for use once: what is read for it is not kept.
    pub fn read(&self, name: &str) -> Option<Tensor> {
        let at = self.find(name)?;
        let (dtype, shape) = self.describe_at(at);
        let Stretch { file, range } = self.stretch_at(at);
        Some(Tensor {
            dtype,
            shape: shape.to_vec(),
            data: self.files[file].map.read(range),
        })
    }

    /// Where the bytes of the tensor of that name are: index of [`Source::files`], and range.
    pub fn stretch(&self, name: &str) -> Option<Stretch> {
        Some(self.stretch_at(self.find(name)?))
    }

    /// The digests of stretches of the files, on all cores; nothing is kept. `done` is told how many bytes were hashed.
    pub fn hash(&self, stretches: &[Stretch], done: impl Fn(u64) + Sync) -> Vec<Digest> {
        let read = |file: usize, at: usize, into: &mut [u8]| self.files[file].map.copy_to(at, into);
        // Hashing takes some hundred bytes of memory for each of them.
        (stretches.chunks(AT_ONCE))
            .flat_map(|some| digests_of(some, read, &done))
            .collect()
    }

    /// As [`Source::hash`]; `see` is handed the bytes as [`digests_seeing`] hands them.
    pub fn hash_seeing(
        &self,
        stretches: &[Stretch],
        see: impl Fn(usize, usize, &[u8]) + Sync,
    ) -> Vec<Digest> {
        let read = |file: usize, at: usize, into: &mut [u8]| self.files[file].map.copy_to(at, into);
        digests_seeing(stretches, read, see)
    }

    /// The files, in the order given; shards of an index sorted by name.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The digest of every tensor's bytes, computed on all cores. Events are in bytes.
    pub fn digests(&self, watch: &dyn Watch) -> BTreeMap<String, Digest> {
        let stretches: Vec<Stretch> = self.names().filter_map(|n| self.stretch(n)).collect();
        watch.event(Event::BeginBytes {
            step: "hashing weights",
            bytes: stretches.iter().map(|s| s.range.len() as u64).sum(),
        });
        let digests = self.hash(&stretches, |n| watch.event(Event::Advance(n)));
        watch.event(Event::End);
        self.names().map(ToOwned::to_owned).zip(digests).collect()
    }
}

/// More stretches than these are not hashed at once; models have fewer.
pub(super) const AT_ONCE: usize = 1 << 16;

/// Names that several files hold, each with the first file and with another; in the order of the files.
fn twice(files: &[SourceFile], places: &[Place]) -> Vec<(String, PathBuf, PathBuf)> {
    let path = |place: &Place| files[place.file as usize].path().to_owned();
    let mut found: Vec<(&Place, &Place)> = Vec::new();
    for same in places.chunk_by(|a, b| a.name(files) == b.name(files)) {
        found.extend(same[1..].iter().map(|other| (&same[0], other)));
    }
    found.sort_by_key(|(_, other)| (other.file, other.entry));
    (found.into_iter())
        .map(|(first, other)| (first.name(files).to_owned(), path(first), path(other)))
        .collect()
}

fn open_path(path: &Path) -> Result<Vec<SourceFile>, Error> {
    if path.is_dir() {
        let found = index::in_folder(path)?;
        let mut files = Vec::new();
        for file in &found {
            files.extend(open_path(file)?);
        }
        require_one_set(path, &found[0], &files)?;
        return Ok(files);
    }
    if index::is_index(&path.file_name().unwrap_or_default().to_string_lossy()) {
        return index::open(path);
    }
    Ok(vec![open_file(path)?])
}

/// Beside an index and its shards, `files`, a folder may have the same weights once more, in the one file that libraries take where it is
/// there. Where that says something else of a tensor, nobody can say which is meant.
fn require_one_set(folder: &Path, index: &Path, files: &[SourceFile]) -> Result<(), Error> {
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let Some(path) = index::whole(&name(index)).map(|whole| folder.join(whole)) else {
        return Ok(());
    };
    // A file that cannot be read is in nobody's way: the index does not name it.
    let Ok(other) = open_file(&path) else {
        return Ok(());
    };
    let differs = |tensor: &str| {
        let shard = files.iter().find(|shard| shard.holds(tensor));
        shard.is_some_and(|shard| shard.value(tensor) != other.value(tensor))
    };
    if files.iter().all(|shard| shard.path() != path) && other.names().any(differs) {
        return Err(Error::SeveralInFolder {
            path: folder.to_owned(),
            found: vec![name(index), name(&path)],
        });
    }
    Ok(())
}

/// The files that [`Source::open`] reads at `path`, by their names: of a folder that holds no one checkpoint, all that keep it from being
/// clear. Not all of them have to be there.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        let found = match index::in_folder(path) {
            Ok(files) => files,
            Err(Error::SeveralInFolder { found, .. }) => {
                found.iter().map(|name| path.join(name)).collect()
            }
            Err(_) => Vec::new(),
        };
        return found.into_iter().flat_map(with_shards).collect();
    }
    with_shards(path.to_owned())
}

fn with_shards(file: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if index::is_index(&file.file_name().unwrap_or_default().to_string_lossy()) {
        files = index::shards(&file);
    }
    files.push(file);
    files
}

#[cfg(test)]
pub(super) mod tests;
