//! Named tensors of one or several safetensors files, found by path.

use super::error::Error;
use super::file::{Entry, SourceFile, open_file};
use super::index;
use crate::tensor::{Digest, Dtype, Stretch, Tensor, TensorView, digests_of};
use crate::watch::{Event, Watch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named tensors. Opening reads headers only, and each tensor is read once ([`Map`](crate::fsx::Map)).
#[derive(Debug)]
pub struct Source {
    files: Vec<SourceFile>,
    // Name to file.
    home: BTreeMap<String, usize>,
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

    /// Element type and shape of the tensor of that name; reads nothing.
    pub fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let entry = self.entry(name)?.1;
        Some((entry.dtype, &entry.shape))
    }

    /// The shape of the tensor of that name; reads nothing.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(self.describe(name)?.1)
    }

    /// A copy of the tensor of that name, for use once: what is read for it is not kept.
    pub fn read(&self, name: &str) -> Option<Tensor> {
        let (file, entry) = self.entry(name)?;
        let mut data = vec![0; entry.range.len()];
        self.files[file].map.copy_to(entry.range.start, &mut data);
        Some(Tensor {
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            data,
        })
    }

    fn entry(&self, name: &str) -> Option<(usize, &Entry)> {
        let file = *self.home.get(name)?;
        Some((file, self.files[file].entries.get(name)?))
    }

    /// Where the bytes of the tensor of that name are: index of [`Source::files`], and range.
    pub fn stretch(&self, name: &str) -> Option<Stretch> {
        let (file, entry) = self.entry(name)?;
        let range = entry.range.clone();
        Some(Stretch { file, range })
    }

    /// The digests of stretches of the files, on all cores; nothing is kept. `done` is told how many bytes were hashed.
    pub fn hash(&self, stretches: &[Stretch], done: impl Fn(u64) + Sync) -> Vec<Digest> {
        let read = |file: usize, at: usize, into: &mut [u8]| self.files[file].map.copy_to(at, into);
        digests_of(stretches, read, done)
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

fn open_path(path: &Path) -> Result<Vec<SourceFile>, Error> {
    if path.is_dir() {
        let mut files = Vec::new();
        for file in index::in_folder(path)? {
            files.extend(open_path(&file)?);
        }
        return Ok(files);
    }
    if index::is_index(&path.file_name().unwrap_or_default().to_string_lossy()) {
        return index::open(path);
    }
    Ok(vec![open_file(path)?])
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
