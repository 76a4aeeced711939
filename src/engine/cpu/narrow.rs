//! The types that the engine computes in, and the rewriting of constants, casts and declarations to them.

use super::facts::Fact;
use super::walk::Walk;
use crate::engine::Refusal;
use crate::onnx::weight_name;
use crate::tensor::{self, Dtype};
use onnx_protobuf::type_proto::Value;
use onnx_protobuf::{NodeProto, TensorProto, ValueInfoProto};

/// The element type that the engine computes a type in.
pub fn computed_in(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::F16 | Dtype::Bf16 | Dtype::F64 => Dtype::F32,
        Dtype::I64 | Dtype::Bool => Dtype::I32,
        other => other,
    }
}

impl Walk {
    pub(super) fn narrow_constant(&mut self, tensor: &mut TensorProto) {
        let Some(dtype @ (Dtype::F16 | Dtype::Bf16 | Dtype::F64)) =
            Dtype::from_onnx(tensor.data_type)
        else {
            return;
        };
        self.see(Some(dtype));
        if weight_name(tensor).is_none() {
            let bytes = raw_bytes(tensor, dtype);
            match tensor::to_f32(dtype, &bytes) {
                Ok(values) => {
                    if dtype == Dtype::F64 && overflows(&bytes, &values) {
                        self.refusals.push(Refusal {
                            node: tensor.name.clone(),
                            operator: "constant".into(),
                            reason: "an f64 in it does not fit f32".into(),
                        });
                    }
                    tensor.raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    tensor.int32_data.clear();
                    tensor.double_data.clear();
                }
                Err(e) => self.refusals.push(Refusal {
                    node: tensor.name.clone(),
                    operator: "constant".into(),
                    reason: e.to_string(),
                }),
            }
        }
        tensor.data_type = Dtype::F32.onnx();
    }

    pub(super) fn narrow_node(&mut self, node: &mut NodeProto) {
        let named = matches!(node.op_type.as_str(), "Cast" | "EyeLike");
        let mut dtypes = Vec::new();
        for attribute in &mut node.attribute {
            if let Some(tensor) = attribute.t.as_mut() {
                if let Some(wide) = Fact::constant(tensor).wide
                    && node.op_type == "ConstantOfShape"
                {
                    dtypes.push(wide);
                }
                self.narrow_constant(tensor);
            }
            if named
                && (attribute.name == "to" || attribute.name == "dtype")
                && let Some(Dtype::F16 | Dtype::Bf16 | Dtype::F64) =
                    Dtype::from_onnx(attribute.i as i32)
            {
                attribute.i = i64::from(Dtype::F32.onnx());
            }
        }
        for wide in dtypes {
            self.refuse(node, format!("its value {wide} does not fit 32 bits"));
        }
    }
}

/// Whether a finite f64 became an infinite f32.
pub fn overflows(wide: &[u8], narrow: &[f32]) -> bool {
    wide.as_chunks::<8>()
        .0
        .iter()
        .zip(narrow)
        .any(|(w, n)| n.is_infinite() && f64::from_le_bytes(*w).is_finite())
}

/// The elements of an inline float constant as raw bytes.
fn raw_bytes(tensor: &TensorProto, dtype: Dtype) -> Vec<u8> {
    if !tensor.raw_data.is_empty() {
        return tensor.raw_data.clone();
    }
    match dtype {
        Dtype::F64 => tensor
            .double_data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        // ONNX keeps each half as its bits in an element of this list.
        _ => tensor
            .int32_data
            .iter()
            .flat_map(|&v| (v as u16).to_le_bytes())
            .collect(),
    }
}

/// A declared type as the engine has it.
pub fn narrow_declaration(value: &mut ValueInfoProto) {
    if let Some(Value::TensorType(tensor)) = value.type_.as_mut().and_then(|t| t.value.as_mut())
        && let Some(Dtype::F16 | Dtype::Bf16 | Dtype::F64) = Dtype::from_onnx(tensor.elem_type)
    {
        tensor.elem_type = Dtype::F32.onnx();
    }
}
