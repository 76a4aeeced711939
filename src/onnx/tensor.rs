//! The payload of a `TensorProto`: taken out, decoded to row-major little-endian bytes, and checked against dtype and shape.
//!
//! Which field carries which dtype: comments of `TensorProto` in
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use super::error::Problem;
use super::external::{Files, Place};
use super::wire::{Carrier, PAYLOAD_FIELD, Payload};
use crate::tensor::{Dtype, element_count};
use onnx_protobuf::TensorProto;
use onnx_protobuf::tensor_proto::DataLocation;
use protobuf::UnknownValueRef;

/// `TensorProto.DataType.STRING`.
const STRING: i32 = 8;

/// Key of the entry in `external_data` that marks a tensor whose bytes are held elsewhere; see [`super::weight_name`].
pub(super) const MARK: &str = "trtmut.weight";

/// Where the bytes of a constant are.
#[derive(Debug)]
pub(super) enum Bytes {
    /// In a memory map.
    Mapped(Place),
    /// Decoded from a typed field, or short enough to have been parsed.
    Owned(Vec<u8>),
    /// With the source that [`super::Model::from_graph`] was given.
    Source,
}

/// A tensor whose payload was taken out and checked.
#[derive(Debug)]
pub(super) struct Taken {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Bytes,
}

/// What taking payloads needs beside the tensors.
pub(super) struct Taking<'a> {
    /// Payloads that the wire walk left in the map of the model's file.
    pub payloads: &'a [Payload],
    /// The model's files.
    pub files: &'a mut Files,
    /// Whether marks ([`MARK`]) stand for bytes from a source; otherwise they are entries like any others.
    pub marked: bool,
}

impl Taking<'_> {
    /// Takes the payload out of `tensor`, which is left without data. `None` for strings, which stay where they are.
    pub(super) fn take(
        &mut self,
        name: &str,
        tensor: &mut TensorProto,
    ) -> Result<Option<Taken>, Problem> {
        if tensor.segment.is_some() {
            return Err(Problem::Segment {
                tensor: name.into(),
            });
        }
        let (shape, count) = shape_of(name, &tensor.dims)?;
        if tensor.data_type == STRING {
            strings(name, tensor, count)?;
            tensor.external_data.clear();
            return Ok(None);
        }
        let dtype = Dtype::from_onnx(tensor.data_type).ok_or_else(|| Problem::UnknownDtype {
            tensor: name.into(),
            code: tensor.data_type,
        })?;
        let expected = dtype
            .bytes_for(count)
            .filter(|&n| isize::try_from(n).is_ok())
            .ok_or_else(|| Problem::TooLarge {
                tensor: name.into(),
                dims: tensor.dims.clone(),
            })?;
        let elided = self.elided(tensor);
        let fields = filled(tensor, elided.as_ref());
        let wrong = |fields: Vec<&'static str>| Problem::Carrier {
            tensor: name.into(),
            dtype: dtype.name(),
            fields,
        };
        let bytes = match fields.as_slice() {
            [] => Bytes::Owned(Vec::new()),
            ["external_data"] if self.marked => match tensor.external_data.as_slice() {
                [mark] if mark.key == MARK => Bytes::Source,
                _ => {
                    return Err(Problem::ExternalEntry {
                        tensor: name.into(),
                        reason: "entries where a mark is needed".into(),
                    });
                }
            },
            ["external_data"] => {
                Bytes::Mapped(self.files.find(name, &tensor.external_data, expected)?)
            }
            ["raw_data"] | ["float_data"] | ["double_data"] if elided.is_some() => {
                let payload = elided.expect("checked in the guard");
                if payload.carrier != Carrier::Raw && typed_field(dtype) != fields[0] {
                    return Err(wrong(fields));
                }
                Bytes::Mapped((0, payload.range))
            }
            ["raw_data"] => Bytes::Owned(std::mem::take(&mut tensor.raw_data)),
            [field] if *field == typed_field(dtype) => Bytes::Owned(decode(name, dtype, tensor)?),
            _ => return Err(wrong(fields)),
        };
        let found = match &bytes {
            Bytes::Mapped((_, range)) => range.len(),
            Bytes::Owned(b) => b.len(),
            Bytes::Source => expected,
        };
        if found != expected {
            return Err(Problem::Length {
                tensor: name.into(),
                dtype,
                shape,
                expected,
                found,
            });
        }
        clear(tensor);
        Ok(Some(Taken {
            dtype,
            shape,
            bytes,
        }))
    }

    /// The payload that the wire walk left in the map; never more than one can be meant, see [`filled`].
    fn elided(&self, tensor: &TensorProto) -> Option<Payload> {
        match tensor.special_fields.unknown_fields().get(PAYLOAD_FIELD) {
            Some(UnknownValueRef::Varint(i)) => self.payloads.get(i as usize).cloned(),
            _ => None,
        }
    }
}

fn shape_of(name: &str, dims: &[i64]) -> Result<(Vec<usize>, usize), Problem> {
    let too_large = || Problem::TooLarge {
        tensor: name.into(),
        dims: dims.to_vec(),
    };
    let mut shape = Vec::with_capacity(dims.len());
    for (axis, &extent) in dims.iter().enumerate() {
        if extent < 0 {
            return Err(Problem::NegativeExtent {
                tensor: name.into(),
                axis,
                extent,
            });
        }
        shape.push(usize::try_from(extent).map_err(|_| too_large())?);
    }
    let count = element_count(&shape).ok_or_else(too_large)?;
    Ok((shape, count))
}

fn strings(name: &str, tensor: &TensorProto, expected: usize) -> Result<(), Problem> {
    let mut fields = filled(tensor, None);
    fields.retain(|f| *f != "string_data");
    let elided = tensor
        .special_fields
        .unknown_fields()
        .get(PAYLOAD_FIELD)
        .is_some();
    if elided || !fields.is_empty() {
        if elided {
            fields.push("raw_data");
        }
        return Err(Problem::Carrier {
            tensor: name.into(),
            dtype: "string",
            fields,
        });
    }
    if tensor.string_data.len() != expected {
        return Err(Problem::StringCount {
            tensor: name.into(),
            expected,
            found: tensor.string_data.len(),
        });
    }
    Ok(())
}

/// The fields of `tensor` that carry data. Names repeat where two elided payloads are there, so that it is refused.
fn filled(tensor: &TensorProto, elided: Option<&Payload>) -> Vec<&'static str> {
    let external = tensor.data_location.enum_value() != Ok(DataLocation::DEFAULT);
    let mut fields: Vec<&'static str> = [
        ("raw_data", !tensor.raw_data.is_empty()),
        ("float_data", !tensor.float_data.is_empty()),
        ("int32_data", !tensor.int32_data.is_empty()),
        ("string_data", !tensor.string_data.is_empty()),
        ("int64_data", !tensor.int64_data.is_empty()),
        ("double_data", !tensor.double_data.is_empty()),
        ("uint64_data", !tensor.uint64_data.is_empty()),
        ("external_data", external),
    ]
    .into_iter()
    .filter_map(|(field, there)| there.then_some(field))
    .collect();
    if let Some(payload) = elided {
        fields.push(match payload.carrier {
            Carrier::Raw => "raw_data",
            Carrier::Floats => "float_data",
            Carrier::Doubles => "double_data",
        });
        let references = tensor
            .special_fields
            .unknown_fields()
            .iter()
            .filter(|(number, _)| *number == PAYLOAD_FIELD)
            .count();
        fields.extend(std::iter::repeat_n("another field", references - 1));
    }
    fields
}

/// The typed field that carries `dtype`.
fn typed_field(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 | Dtype::C64 => "float_data",
        Dtype::F64 | Dtype::C128 => "double_data",
        Dtype::I64 => "int64_data",
        Dtype::U32 | Dtype::U64 => "uint64_data",
        _ => "int32_data",
    }
}

/// The elements of the typed field of `tensor`.
fn decode(name: &str, dtype: Dtype, tensor: &TensorProto) -> Result<Vec<u8>, Problem> {
    fn le<T: Copy, const N: usize>(data: &[T], f: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        data.iter().flat_map(|&v| f(v)).collect()
    }
    let misfit = |value: i64| Problem::ValueRange {
        tensor: name.into(),
        dtype,
        value,
    };
    Ok(match dtype {
        Dtype::F32 | Dtype::C64 => le(&tensor.float_data, f32::to_le_bytes),
        Dtype::F64 | Dtype::C128 => le(&tensor.double_data, f64::to_le_bytes),
        Dtype::I64 => le(&tensor.int64_data, i64::to_le_bytes),
        Dtype::U64 => le(&tensor.uint64_data, u64::to_le_bytes),
        Dtype::I32 => le(&tensor.int32_data, i32::to_le_bytes),
        Dtype::U32 => {
            let mut out = Vec::with_capacity(tensor.uint64_data.len() * 4);
            for &v in &tensor.uint64_data {
                let v = u32::try_from(v).map_err(|_| misfit(v as i64))?;
                out.extend(v.to_le_bytes());
            }
            out
        }
        // The rest is in int32_data: numbers as numbers, 16- and 8-bit floats as their bits, two 4-bit values to an entry.
        // Writers disagree on whether narrow entries are sign-extended, so both readings of the same bits are taken.
        _ => {
            let (low, high) = match dtype {
                Dtype::Bool => (0, 1),
                Dtype::I8 => (-128, 127),
                Dtype::U8 => (0, 255),
                Dtype::I16 => (-32768, 32767),
                Dtype::U16 => (0, 65535),
                _ if dtype.bits() == 16 => (-32768, 65535),
                _ => (-128, 255),
            };
            let mut out = Vec::with_capacity(tensor.int32_data.len() * 2);
            for &v in &tensor.int32_data {
                if !(low..=high).contains(&v) {
                    return Err(misfit(v.into()));
                }
                let [a, b, ..] = v.to_le_bytes();
                out.push(a);
                if dtype.bits() == 16 {
                    out.push(b);
                }
            }
            out
        }
    })
}

/// Leaves name, dtype, dims and doc string, but no data.
fn clear(tensor: &mut TensorProto) {
    tensor.raw_data = Vec::new();
    tensor.float_data = Vec::new();
    tensor.int32_data = Vec::new();
    tensor.int64_data = Vec::new();
    tensor.double_data = Vec::new();
    tensor.uint64_data = Vec::new();
    tensor.external_data.clear();
    tensor.data_location = DataLocation::DEFAULT.into();
    tensor
        .special_fields
        .mut_unknown_fields()
        .remove(PAYLOAD_FIELD);
}
