//! Writes a whole ONNX model back, with given weight bytes, without holding them.
//!
//! The message without weights is small and serialised first; walking it gives a list of pieces in which each elided tensor
//! is the place where its bytes go, and the lengths of all messages around it. Then the pieces are written one by one.

use super::collect::{for_each_constant, mark};
use super::wire::{Kind, field, put_varint};
use super::{Error, INLINE_LIMIT, Model, Weight};
use crate::tensor::{Dtype, element_count};
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{Message, StringStringEntryProto, TensorProto};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::ops::Range;

/// The most that a protobuf message can take: implementations hold its size in an `int`.
const PROTOBUF_LIMIT: u64 = i32::MAX as u64;

/// Where tensors begin in a data file, so that they can be mapped one by one
/// (<https://github.com/onnx/onnx/blob/main/docs/ExternalData.md>).
const ALIGNMENT: u64 = 4096;

/// Field numbers of `TensorProto`.
const RAW_DATA: u64 = 9;
const EXTERNAL_DATA: u64 = 13;
const DATA_LOCATION: u64 = 14;

/// Gives the bytes of a weight, in its own dtype and shape, row-major and little-endian.
pub type BytesOf<'f, 'b, E> = dyn Fn(&Weight) -> Result<Cow<'b, [u8]>, E> + 'f;

/// Part of the file to write.
enum Piece {
    /// A part of the message without weights.
    Kept(Range<usize>),
    /// Tags, lengths and references.
    New(Vec<u8>),
    /// The bytes of a weight: its index, and how many there are in the type that the graph gives it.
    Weight(usize, u64),
}

/// Pieces and their length together.
#[derive(Default)]
struct Rope {
    pieces: Vec<Piece>,
    length: u64,
}

impl Rope {
    fn add(&mut self, bytes: Vec<u8>) {
        self.length += bytes.len() as u64;
        self.pieces.push(Piece::New(bytes));
    }

    fn keep(&mut self, range: Range<usize>) {
        self.length += range.len() as u64;
        match self.pieces.last_mut() {
            // What stands together is written together: one call, not one a field.
            Some(Piece::Kept(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Kept(range)),
        }
    }

    /// A length-delimited field with `inner` in it.
    fn nest(&mut self, number: u64, mut inner: Rope) {
        self.add(header(number, inner.length));
        self.length += inner.length;
        self.pieces.append(&mut inner.pieces);
    }
}

/// Tag and length of a length-delimited field.
fn header(number: u64, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | 2);
    put_varint(&mut out, length);
    out
}

/// Where bigger weights go.
struct DataFile<'a> {
    name: &'a str,
    /// Index, offset and length of each weight in the data file.
    placed: Vec<(usize, u64, u64)>,
}

impl DataFile<'_> {
    fn end(&self) -> u64 {
        self.placed
            .last()
            .map_or(0, |(_, offset, length)| offset + length)
    }
}

impl Model {
    /// Size in bytes of what [`Model::write_onnx`] writes.
    pub fn onnx_size(&self) -> u64 {
        self.rope(&self.graph_bytes(), &mut None).length
    }

    /// Writes the model as one ONNX file. `bytes_of` gives the bytes of every weight with [`Weight::is_elided`]; it is asked
    /// once for each, in the order of the file.
    ///
    /// # Errors
    /// [`Error::TooBig`] when one file cannot hold the model ([`Model::onnx_size`] tells before;
    /// [`Model::write_onnx_external`] has no such limit), [`Error::WrittenLength`], [`Error::Write`], and those of `bytes_of`.
    pub fn write_onnx<E: From<Error>>(
        &self,
        out: &mut dyn Write,
        bytes_of: &BytesOf<'_, '_, E>,
    ) -> Result<(), E> {
        self.write_graph(&self.graph_bytes(), out, None, bytes_of)
    }

    /// Writes the model as an ONNX file (`out`) and a data file (`data`, whose name beside the model is `data_name`), which
    /// holds every weight of more than a kilobyte. `bytes_of` as for [`Model::write_onnx`].
    ///
    /// # Errors
    /// As [`Model::write_onnx`].
    pub fn write_onnx_external<E: From<Error>>(
        &self,
        out: &mut dyn Write,
        data: &mut dyn Write,
        data_name: &str,
        bytes_of: &BytesOf<'_, '_, E>,
    ) -> Result<(), E> {
        self.write_graph(&self.graph_bytes(), out, Some((data, data_name)), bytes_of)
    }

    /// As [`Model::write_onnx`], or as [`Model::write_onnx_external`] where there is a data file, for `graph`: this model's, or
    /// what [`Model::graph_with`] made of it.
    ///
    /// # Errors
    /// As [`Model::write_onnx`].
    pub fn write_graph<E: From<Error>>(
        &self,
        graph: &[u8],
        out: &mut dyn Write,
        data: Option<(&mut dyn Write, &str)>,
        bytes_of: &BytesOf<'_, '_, E>,
    ) -> Result<(), E> {
        let mut file = data.as_ref().map(|(_, name)| DataFile {
            name,
            placed: Vec::new(),
        });
        let rope = self.rope(graph, &mut file);
        self.write_rope(&rope, graph, out, bytes_of)?;
        let (Some(file), Some((data, _))) = (file, data) else {
            return Ok(());
        };
        let mut end = 0u64;
        for (index, offset, length) in file.placed {
            let bytes = self.checked(index, length, bytes_of)?;
            let gap = vec![0u8; (offset - end) as usize];
            data.write_all(&gap).map_err(Error::Write)?;
            data.write_all(&bytes).map_err(Error::Write)?;
            end = offset + length;
        }
        Ok(())
    }

    /// The graph as [`Model::graph_bytes`] gives it, with other values of structural constants, by [`Weight::name`]. What it
    /// describes is another structure.
    ///
    /// # Errors
    /// [`Error::WrittenLength`]; [`Error::NotStructural`] for a name that is none of theirs.
    pub fn graph_with(&self, values: &HashMap<String, Vec<u8>>) -> Result<Vec<u8>, Error> {
        if values.is_empty() {
            return Ok(self.graph_bytes());
        }
        let mut proto = self.proto().clone();
        let mut weights = self.weights.iter();
        let mut left: HashSet<&str> = values.keys().map(String::as_str).collect();
        let mut wrong = None;
        for_each_constant(&mut proto, &mut |tensor| {
            // The walk has the order in which they were collected.
            let Some(weight) = weights.next() else { return };
            let Some(bytes) = values.get(&weight.name).filter(|_| !weight.is_elided()) else {
                return;
            };
            left.remove(weight.name.as_str());
            if bytes.len() == weight.byte_length() {
                tensor.raw_data.clone_from(bytes);
            } else {
                wrong = Some(Error::WrittenLength {
                    name: weight.name.clone(),
                    expected: weight.byte_length(),
                    found: bytes.len(),
                });
            }
        });
        match (wrong, left.into_iter().next()) {
            (Some(error), _) => Err(error),
            (None, Some(name)) => Err(Error::NotStructural { name: name.into() }),
            (None, None) => Ok(serialise(&proto)),
        }
    }

    fn write_rope<E: From<Error>>(
        &self,
        rope: &Rope,
        message: &[u8],
        out: &mut dyn Write,
        bytes_of: &BytesOf<'_, '_, E>,
    ) -> Result<(), E> {
        // Said before the first byte is written: no reader of protobuf takes a longer message.
        if rope.length > PROTOBUF_LIMIT {
            return Err(E::from(Error::TooBig {
                bytes: rope.length,
                limit: PROTOBUF_LIMIT,
            }));
        }
        for piece in &rope.pieces {
            match piece {
                Piece::Kept(range) => out.write_all(&message[range.clone()]),
                Piece::New(bytes) => out.write_all(bytes),
                Piece::Weight(index, length) => {
                    out.write_all(&self.checked(*index, *length, bytes_of)?)
                }
            }
            .map_err(Error::Write)?;
        }
        Ok(())
    }

    fn checked<'b, E: From<Error>>(
        &self,
        index: usize,
        length: u64,
        bytes_of: &BytesOf<'_, 'b, E>,
    ) -> Result<Cow<'b, [u8]>, E> {
        let weight = &self.weights[index];
        let bytes = bytes_of(weight)?;
        if bytes.len() as u64 != length {
            return Err(E::from(Error::WrittenLength {
                name: weight.name.clone(),
                expected: length as usize,
                found: bytes.len(),
            }));
        }
        Ok(bytes)
    }

    fn rope(&self, message: &[u8], file: &mut Option<DataFile<'_>>) -> Rope {
        self.rewrite(message, Kind::Model, 0..message.len(), file)
    }

    /// The message at `range` with weights in their places.
    fn rewrite(
        &self,
        message: &[u8],
        kind: Kind,
        range: Range<usize>,
        file: &mut Option<DataFile<'_>>,
    ) -> Rope {
        let weight = match kind {
            Kind::Tensor => self.marked(message, range.clone()),
            _ => None,
        };
        let mut rope = Rope::default();
        let mut pos = range.start;
        while pos < range.end {
            let f = field(message, pos, range.end).expect("protobuf wrote it");
            pos = f.end;
            match (kind.child(f.number), f.bytes) {
                _ if weight.is_some() && matches!(f.number, EXTERNAL_DATA | DATA_LOCATION) => {}
                (Some(child), Some(bytes)) if child.holds_tensors() => {
                    rope.nest(f.number, self.rewrite(message, child, bytes, file));
                }
                _ => rope.keep(f.start..f.end),
            }
        }
        if let Some((index, length)) = weight {
            place(index, length, &mut rope, file);
        }
        rope
    }

    /// The weight whose place the tensor at `range` is, and how many bytes it takes in the tensor's type.
    fn marked(&self, message: &[u8], range: Range<usize>) -> Option<(usize, u64)> {
        let mut pos = range.start;
        let mut external = false;
        while pos < range.end {
            let f = field(message, pos, range.end).expect("protobuf wrote it");
            pos = f.end;
            external |= f.number == EXTERNAL_DATA;
        }
        // Only marked tensors have the field, and they carry no data that parsing could copy.
        let tensor = external
            .then(|| TensorProto::parse_from_bytes(&message[range]).expect("protobuf wrote it"))?;
        let index = *self.by_name.get(mark(&tensor)?)?;
        let count = element_count(&self.weights[index].shape)?;
        let dtype = Dtype::from_onnx(tensor.data_type)?;
        Some((index, dtype.bytes_for(count)? as u64))
    }
}

/// Adds weight `index`, of `length` bytes, to the fields of its tensor: its bytes, or where they are in the data file.
fn place(index: usize, length: u64, rope: &mut Rope, file: &mut Option<DataFile<'_>>) {
    match file {
        Some(file) if length > INLINE_LIMIT as u64 => {
            let offset = file.end().next_multiple_of(ALIGNMENT);
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: key.into(),
                value,
                ..StringStringEntryProto::default()
            };
            let reference = TensorProto {
                data_location: DataLocation::EXTERNAL.into(),
                external_data: vec![
                    entry("location", file.name.into()),
                    entry("offset", offset.to_string()),
                    entry("length", length.to_string()),
                ],
                ..TensorProto::default()
            };
            file.placed.push((index, offset, length));
            rope.add(serialise(&reference));
        }
        _ => {
            rope.add(header(RAW_DATA, length));
            rope.length += length;
            rope.pieces.push(Piece::Weight(index, length));
        }
    }
}

/// The message as bytes.
pub(super) fn serialise(message: &impl Message) -> Vec<u8> {
    message
        .write_to_bytes()
        .expect("writing to memory fails only on missing proto2 fields, and ONNX is proto3")
}
