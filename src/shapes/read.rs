//! A spec from its file or text.

use super::error::{Error, Problems};
use super::faults::SpecFault;
use super::quote::Pos;
use super::spec::ShapeSpec;
use super::{json, wire};
use crate::fsx;
use std::path::Path;

/// Largest spec that is read, in bytes. Real ones have a few thousand.
const MAX_BYTES: u64 = 1 << 20;
impl ShapeSpec {
    /// Reads a spec. `origin` is its file name, for messages.
    ///
    /// # Errors
    /// All that is wrong with it, each with line and column; see [`Error`].
    pub fn parse(json: &str, origin: &str) -> Result<ShapeSpec, Error> {
        if json.len() as u64 > MAX_BYTES {
            return Err(Error::TooLarge {
                origin: origin.to_owned(),
                limit: MAX_BYTES,
            });
        }
        let mut problems = Problems::default();
        let root = json::parse(json, &mut problems);
        let read = root.and_then(|root| wire::read(&root, origin, &mut problems));
        match read {
            // A spec that could be read in part is not used in part.
            Some(spec) if problems.is_empty() => Ok(spec),
            _ => {
                problems.sort();
                Err(Error::Spec {
                    origin: origin.to_owned(),
                    problems,
                })
            }
        }
    }

    /// Reads the spec in the file at `path`, without reading more than a spec can be.
    ///
    /// # Errors
    /// As [`ShapeSpec::parse`]; and when the file cannot be read.
    pub fn open(path: &Path) -> Result<ShapeSpec, Error> {
        let origin = path.display().to_string();
        let unreadable = |source| Error::Read {
            path: origin.clone(),
            source,
        };
        let bytes = fsx::read_stream(path, MAX_BYTES).map_err(|e| match e {
            fsx::Error::TooLong { limit, .. } => Error::TooLarge {
                origin: origin.clone(),
                limit,
            },
            fsx::Error::Read { source, .. } => unreadable(source),
            other => unreadable(std::io::Error::other(other)),
        })?;
        match String::from_utf8(bytes) {
            Ok(text) => ShapeSpec::parse(&text, &origin),
            Err(e) => Err(not_text(
                origin.clone(),
                e.as_bytes(),
                e.utf8_error().valid_up_to(),
            )),
        }
    }
}

fn not_text(origin: String, bytes: &[u8], valid: usize) -> Error {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() as u32 + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) as u32 + 1;
    let mut problems = Problems::default();
    problems.push(
        Pos { line, column },
        SpecFault::Syntax("this is not UTF-8 text".into()),
    );
    Error::Spec { origin, problems }
}
