//! Moving bytes: a plan of several gigabytes goes through in blocks, never as a whole.

use crate::cache::record::Part;
use crate::fsx::Map;
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

/// One part of an upload, unless there would be too many: S3 takes ten thousand.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 9_000;

/// Parts on the way at once. They are views of the mapped file, so they cost no memory of their own.
const AT_ONCE: usize = 4;

/// What is read before it is hashed and written: small enough to stay in the processor's cache.
const BLOCK: usize = 1 << 20;

/// Why a transfer stopped.
#[derive(Debug)]
pub(super) enum Trouble {
    Store(object_store::Error),
    TimedOut(Duration),
    /// The object has another length than it should, namely this one at least.
    Length(u64),
    /// The local file could not be written.
    Disk(io::Error),
}

impl From<object_store::Error> for Trouble {
    fn from(e: object_store::Error) -> Trouble {
        Trouble::Store(e)
    }
}

impl Trouble {
    /// Whether the object is simply not there. A bucket that is not there is another matter: it is a wrong name.
    pub fn is_absence(&self) -> bool {
        match self {
            Trouble::Store(e @ object_store::Error::NotFound { .. }) => {
                let text = e.to_string();
                // A bucket that is not there is a mistake in the URL and no miss; the crate has one
                // error for both.
                !["NoSuchBucket", "ContainerNotFound"]
                    .iter()
                    .any(|t| text.contains(t))
            }
            _ => false,
        }
    }
}

/// Reads a small object of at most so many bytes.
pub(super) async fn read(
    objects: &dyn ObjectStore,
    path: &Path,
    longest: u64,
) -> Result<Vec<u8>, Trouble> {
    let found = objects.get(path).await?;
    // Checked twice: by what the server says, and by what it sends.
    if found.meta.size > longest {
        return Err(Trouble::Length(found.meta.size));
    }
    let mut bytes = Vec::new();
    let mut stream = found.into_stream();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > longest {
            return Err(Trouble::Length(bytes.len() as u64));
        }
    }
    Ok(bytes)
}

/// Writes an object of so many bytes into a file, and says what was written.
pub(super) async fn download(
    objects: &dyn ObjectStore,
    path: &Path,
    expected: u64,
    out: &File,
    watch: &dyn Watch,
) -> Result<Part, Trouble> {
    let found = objects.get(path).await?;
    if found.meta.size != expected {
        return Err(Trouble::Length(found.meta.size));
    }
    let mut sink = Sink {
        out,
        hasher: blake3::Hasher::new(),
        bytes: 0,
        watch,
    };
    let mut block = Vec::with_capacity(BLOCK);
    match found.payload {
        // Read here rather than through the crate, which hands every 8 KiB from thread to thread.
        GetResultPayload::File(file, _) => loop {
            block.clear();
            let read = (&file).take(BLOCK as u64).read_to_end(&mut block);
            let read = read.map_err(|e| object_store::Error::Generic {
                store: "LocalFileSystem",
                source: e.into(),
            })?;
            if read == 0 {
                break;
            }
            sink.take(&block, expected)?;
        },
        GetResultPayload::Stream(mut stream) => {
            while let Some(chunk) = stream.next().await {
                block.extend_from_slice(&chunk?);
                if block.len() >= BLOCK {
                    sink.take(&block, expected)?;
                    block.clear();
                }
            }
            sink.take(&block, expected)?;
        }
    }
    Ok(Part {
        bytes: sink.bytes,
        digest: Digest(*sink.hasher.finalize().as_bytes()),
    })
}

struct Sink<'a> {
    out: &'a File,
    hasher: blake3::Hasher,
    bytes: u64,
    watch: &'a dyn Watch,
}

impl Sink<'_> {
    fn take(&mut self, block: &[u8], expected: u64) -> Result<(), Trouble> {
        self.bytes += block.len() as u64;
        // Whatever the server said before: room was made for so much and no more.
        if self.bytes > expected {
            return Err(Trouble::Length(self.bytes));
        }
        self.hasher.update(block);
        self.out.write_all(block).map_err(Trouble::Disk)?;
        self.watch.event(Event::Advance(block.len() as u64));
        Ok(())
    }
}

/// How many bytes one request of an upload holds.
pub(super) fn part_size(length: u64) -> u64 {
    PART.max(length.div_ceil(MOST_PARTS))
}

/// Writes an object, in requests of at most `request` bytes.
pub(super) async fn upload(
    objects: &dyn ObjectStore,
    path: &Path,
    bytes: Bytes,
    request: u64,
    watch: &dyn Watch,
) -> Result<(), Trouble> {
    let length = bytes.len() as u64;
    if length <= request {
        objects.put(path, PutPayload::from_bytes(bytes)).await?;
        watch.event(Event::Advance(length));
        return Ok(());
    }
    let request = request as usize;
    let upload = objects.put_multipart(path).await?;
    let mut write = WriteMultipart::new_with_chunk_size(upload, request);
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Err(e) = write.wait_for_capacity(AT_ONCE).await {
            // What was sent would be kept, and paid for.
            let _ = write.abort().await;
            return Err(e.into());
        }
        let part = rest.split_to(request.min(rest.len()));
        watch.event(Event::Advance(part.len() as u64));
        write.put(part);
    }
    write.finish().await?;
    Ok(())
}

/// A mapped file as bytes that can be sent.
pub(super) fn mapped(map: Map) -> Bytes {
    struct Owner(Map);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_few_enough_parts_however_long_it_is() {
        for length in [0, 1, PART, PART + 1, 80 << 30, 5 << 40] {
            let part = part_size(length);
            assert!(
                part >= PART && length.div_ceil(part) <= MOST_PARTS,
                "{length}"
            );
        }
    }
}
