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

/// The code of strings in `TensorProto.DataType`, for which there is no [`Dtype`].
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
        // A tensor in segments has its values in several messages; what is read here would be a
        // part.
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
            // No allocation is larger, and what asks for one ends the process.
            .filter(|&n| isize::try_from(n).is_ok())
            .ok_or_else(|| Problem::TooLarge {
                tensor: name.into(),
                dims: tensor.dims.clone(),
            })?;
        let elided = self.elided(tensor);
        // All fields that hold something: with two of them, readers differ in which one counts.
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
            ["raw_data" | "float_data" | "double_data"] if elided.is_some() => {
                let payload = elided.expect("checked in the guard");
                // Only floats and doubles lie in their field as they lie in memory.
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
        // From here on the values are in one place alone.
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

#[cfg(test)]
mod tests {
    use super::super::testing::{graph, model, open, problem, raw};
    use super::*;
    use crate::onnx::Role;
    use onnx_protobuf::tensor_proto::Segment;
    use protobuf::MessageField;

    fn typed(dtype: Dtype, dims: &[i64], fill: impl FnOnce(&mut TensorProto)) -> TensorProto {
        let mut t = raw("w", dtype.onnx(), dims, Vec::new());
        fill(&mut t);
        t
    }

    fn opened(tensor: TensorProto) -> Vec<u8> {
        let m = open(&model(graph(&["x"], vec![tensor], vec![], &["x"]))).unwrap();
        assert_eq!(m.weights()[0].role, Role::Unused);
        m.bytes(&m.weights()[0]).into_owned()
    }

    fn refused(tensor: TensorProto) -> Problem {
        problem(&model(graph(&["x"], vec![tensor], vec![], &["x"])))
    }

    #[test]
    fn typed_fields_become_little_endian_bytes() {
        let floats = typed(Dtype::F32, &[2], |t| t.float_data = vec![1.0, -2.0]);
        assert_eq!(opened(floats), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        let complex = typed(Dtype::C64, &[1], |t| t.float_data = vec![1.0, -2.0]);
        assert_eq!(opened(complex), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        let doubles = typed(Dtype::F64, &[1], |t| t.double_data = vec![1.0]);
        assert_eq!(opened(doubles), 1f64.to_le_bytes());
        let longs = typed(Dtype::I64, &[1], |t| t.int64_data = vec![-2]);
        assert_eq!(opened(longs), (-2i64).to_le_bytes());
        let unsigned = typed(Dtype::U64, &[1], |t| t.uint64_data = vec![u64::MAX]);
        assert_eq!(opened(unsigned), [0xff; 8]);
        let u32s = typed(Dtype::U32, &[1], |t| t.uint64_data = vec![7]);
        assert_eq!(opened(u32s), [7, 0, 0, 0]);
        let i32s = typed(Dtype::I32, &[1], |t| t.int32_data = vec![-1]);
        assert_eq!(opened(i32s), [0xff; 4]);
    }

    #[test]
    fn narrow_types_are_in_int32_data() {
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::U16] {
            let t = typed(dtype, &[2], |t| t.int32_data = vec![0x3c00, 0xfc01]);
            assert_eq!(opened(t), [0x00, 0x3c, 0x01, 0xfc], "{dtype}");
        }
        let t = typed(Dtype::I16, &[1], |t| t.int32_data = vec![-2]);
        assert_eq!(opened(t), [0xfe, 0xff]);
        for (dtype, value) in [
            (Dtype::I8, -1),
            (Dtype::U8, 255),
            (Dtype::F8E4M3Fn, 255),
            (Dtype::F8E5M2, -1),
        ] {
            let t = typed(dtype, &[1], |t| t.int32_data = vec![value]);
            assert_eq!(opened(t), [0xff], "{dtype}");
        }
        // Three 4-bit elements in two entries.
        for dtype in [Dtype::I4, Dtype::U4, Dtype::F4E2M1] {
            let t = typed(dtype, &[3], |t| t.int32_data = vec![0x21, 0x03]);
            assert_eq!(opened(t), [0x21, 0x03], "{dtype}");
        }
        let t = typed(Dtype::Bool, &[2], |t| t.int32_data = vec![1, 0]);
        assert_eq!(opened(t), [1, 0]);
    }

    #[test]
    fn big_packed_floats_stay_in_the_map() {
        let data: Vec<f32> = (0..1000u16).map(f32::from).collect();
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        let t = typed(Dtype::F32, &[1000], |t| t.float_data = data.clone());
        let m = open(&model(graph(&["x"], vec![t], vec![], &["x"]))).unwrap();
        assert!(matches!(m.bytes[0], Bytes::Mapped(_)));
        assert_eq!(&*m.bytes(&m.weights()[0]), bytes);
        // The same bytes are no i32.
        let wrong = typed(Dtype::I32, &[1000], |t| t.float_data = data);
        assert!(matches!(refused(wrong), Problem::Carrier { .. }));
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        for (dtype, value) in [
            (Dtype::Bool, 2),
            (Dtype::I8, 128),
            (Dtype::U8, -1),
            (Dtype::U16, -1),
            (Dtype::I16, 32768),
            (Dtype::F16, 65536),
            (Dtype::I4, 256),
        ] {
            let t = typed(dtype, &[1], |t| t.int32_data = vec![value]);
            assert!(matches!(refused(t), Problem::ValueRange { .. }), "{dtype}");
        }
        let t = typed(Dtype::U32, &[1], |t| t.uint64_data = vec![1 << 32]);
        assert!(matches!(refused(t), Problem::ValueRange { .. }));
    }

    #[test]
    fn wrong_lengths_shapes_and_types_are_refused() {
        let length = |dims: &[i64], n| refused(raw("w", 1, dims, vec![0; n]));
        assert!(matches!(
            length(&[2, 2], 12),
            Problem::Length {
                expected: 16,
                found: 12,
                ..
            }
        ));
        assert!(matches!(length(&[2], 0), Problem::Length { found: 0, .. }));
        assert!(matches!(
            length(&[0], 4),
            Problem::Length { expected: 0, .. }
        ));
        assert!(matches!(
            length(&[2, -1], 8),
            Problem::NegativeExtent {
                axis: 1,
                extent: -1,
                ..
            }
        ));
        let huge = 1 << 40;
        assert!(matches!(length(&[huge, huge], 8), Problem::TooLarge { .. }));
        assert!(matches!(length(&[1 << 62], 8), Problem::TooLarge { .. }));
        let unknown = refused(raw("w", 99, &[1], vec![0]));
        assert!(matches!(unknown, Problem::UnknownDtype { code: 99, .. }));
        let undefined = refused(raw("w", 0, &[1], vec![0]));
        assert!(matches!(undefined, Problem::UnknownDtype { code: 0, .. }));
    }

    #[test]
    fn data_in_two_or_wrong_fields_is_refused() {
        let two = typed(Dtype::F32, &[1], |t| {
            t.float_data = vec![1.0];
            t.raw_data = vec![0; 4];
        });
        assert!(matches!(refused(two), Problem::Carrier { fields, .. } if fields.len() == 2));
        let two_big = typed(Dtype::F32, &[500], |t| {
            t.float_data = vec![1.0; 500];
            t.raw_data = vec![0; 2000];
        });
        assert!(matches!(refused(two_big), Problem::Carrier { fields, .. } if fields.len() == 2));
        let wrong = typed(Dtype::F32, &[1], |t| t.int64_data = vec![1]);
        assert!(matches!(refused(wrong), Problem::Carrier { .. }));
        let segment = typed(Dtype::F32, &[1], |t| {
            t.segment = MessageField::some(Segment::default());
        });
        assert!(matches!(refused(segment), Problem::Segment { .. }));
    }

    #[test]
    fn strings_stay_and_are_counted() {
        let mut t = raw("s", STRING, &[2], Vec::new());
        t.string_data = vec![b"a".to_vec(), b"b".to_vec()];
        let m = open(&model(graph(&["x"], vec![t.clone()], vec![], &["x"]))).unwrap();
        assert!(m.weights().is_empty());
        assert_eq!(m.proto().graph.initializer[0].string_data.len(), 2);
        t.string_data.pop();
        assert!(matches!(
            refused(t.clone()),
            Problem::StringCount {
                expected: 2,
                found: 1,
                ..
            }
        ));
        t.raw_data = vec![0; 2000];
        assert!(matches!(
            refused(t),
            Problem::Carrier {
                dtype: "string",
                ..
            }
        ));
    }
}
