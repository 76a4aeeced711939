//! A model that is written for a library to read, beside where its plan goes, and removed afterwards.

use super::error::Error;
use crate::fsx;
use crate::onnx::Model;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A model file that is removed when it is dropped.
pub(super) struct Written {
    pub(super) model: Model,
    _folder: fsx::Scratch,
}

/// Above this many bytes the weights go into a file beside the model: protobuf messages end at 2 GiB.
const INLINE_LIMIT: u64 = 1 << 30;

/// Where to write: the model, and the file for weights with its name where there is one.
type Writing<'w> =
    dyn FnOnce(&mut dyn Write, Option<(&mut dyn Write, &str)>) -> Result<(), Error> + 'w;

impl Written {
    /// What `write` writes of about `size` bytes, opened, in a folder beside `beside`.
    ///
    /// # Errors
    /// Those of `write`, of the disk, and of reading the model.
    pub(super) fn by(beside: &Path, size: u64, write: Box<Writing<'_>>) -> Result<Written, Error> {
        let folder = fsx::Scratch::beside(beside)?;
        let path = folder.path().join("model.onnx");
        let create = |p: &Path| -> Result<BufWriter<File>, Error> {
            Ok(BufWriter::with_capacity(
                1 << 20,
                fsx::create_in_scratch(p)?,
            ))
        };
        let finish = |file: BufWriter<File>, p: &Path| {
            let done = file.into_inner().map(drop);
            done.map_err(|e| fsx::Error::write(p, e.into_error()))
        };
        let mut out = create(&path)?;
        if size <= INLINE_LIMIT {
            write(&mut out, None)?;
        } else {
            let name = "model.onnx.data";
            let data_path = folder.path().join(name);
            let mut data = create(&data_path)?;
            write(&mut out, Some((&mut data, name)))?;
            finish(data, &data_path)?;
        }
        finish(out, &path)?;
        Ok(Written {
            model: Model::open(&path)?,
            _folder: folder,
        })
    }
}
