//! Where a model's declarations and an engine's differ: types of inputs and outputs.

use super::api::IoTensor;
use crate::tensor::{Dtype, Extent, Tensor, TensorDecl, cast};
use std::borrow::Cow;

/// What the model declares of a tensor, or else what the engine has.
pub(super) fn declaration(io: &IoTensor, declared: &[TensorDecl]) -> TensorDecl {
    declared
        .iter()
        .find(|d| d.name == io.name)
        .cloned()
        .unwrap_or_else(|| TensorDecl {
            name: io.name.clone(),
            dtype: io.dtype,
            dims: Some(
                io.dims
                    .iter()
                    .map(|&e| usize::try_from(e).map_or(Extent::Unknown, Extent::Fixed))
                    .collect(),
            ),
        })
}

/// A caller's tensor in the engine's type. Engines before TensorRT 10 have 32-bit integers where models have 64-bit ones.
pub(super) fn narrow(tensor: &Tensor, to: Dtype) -> Result<Cow<'_, [u8]>, String> {
    match (tensor.dtype, to) {
        (from, to) if from == to => Ok(Cow::Borrowed(&tensor.data)),
        (Dtype::I64, Dtype::I32) => {
            let mut out = Vec::with_capacity(tensor.data.len() / 2);
            for chunk in tensor.data.as_chunks::<8>().0 {
                let value = i64::from_le_bytes(*chunk);
                let value = i32::try_from(value).map_err(|_| {
                    format!("the value {value} does not fit in the 32-bit integers of this engine")
                })?;
                out.extend(value.to_le_bytes());
            }
            Ok(Cow::Owned(out))
        }
        (Dtype::F64, Dtype::F32) => cast(Dtype::F64, to, &tensor.data)
            .map(Cow::Owned)
            .map_err(|e| e.to_string()),
        (from, to) => Err(format!("it is {from}, and the engine takes {to}")),
    }
}

/// The engine's bytes in the type that the model declares.
pub(super) fn widen(data: Vec<u8>, from: Dtype, to: Dtype) -> Result<Vec<u8>, String> {
    match (from, to) {
        (from, to) if from == to => Ok(data),
        (Dtype::I32, Dtype::I64) => Ok(data
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|c| i64::from(i32::from_le_bytes(*c)).to_le_bytes())
            .collect()),
        (from, to) => cast(from, to, &data)
            .map_err(|_| format!("the engine gives {from} where the model declares {to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i64s(values: &[i64]) -> Tensor {
        Tensor {
            dtype: Dtype::I64,
            shape: vec![values.len()],
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    #[test]
    fn wide_integers_are_narrowed_only_where_they_fit() {
        let tensor = i64s(&[1, -2, i64::from(i32::MAX)]);
        let narrowed = narrow(&tensor, Dtype::I32).unwrap();
        assert_eq!(
            widen(narrowed.into_owned(), Dtype::I32, Dtype::I64).unwrap(),
            tensor.data
        );
        let text = narrow(&i64s(&[1 << 31]), Dtype::I32).unwrap_err();
        assert!(text.contains("2147483648"), "{text}");
    }

    #[test]
    fn other_types_are_not_converted_behind_the_callers_back() {
        let text = narrow(&i64s(&[1]), Dtype::F32).unwrap_err();
        assert!(text.contains("i64") && text.contains("f32"), "{text}");
        assert!(widen(vec![0; 4], Dtype::I32, Dtype::F32).is_err());
        assert_eq!(
            widen(vec![0, 0x3c], Dtype::F16, Dtype::F32).unwrap(),
            1.0f32.to_le_bytes()
        );
    }
}
