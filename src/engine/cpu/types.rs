//! Sets of the element types that the embedded engine takes.

use crate::tensor::Dtype;

/// A set of element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types(u16);

/// f32, and f16 and bf16 computed as f32.
pub(super) const F: Types = Types(1);
/// f64, computed as f32.
pub(super) const D: Types = Types(2);
pub(super) const I32: Types = Types(4);
/// i64, held in 32 bits; results are checked to fit.
pub(super) const I64: Types = Types(8);
pub(super) const B: Types = Types(16);
pub(super) const I8: Types = Types(32);
pub(super) const U8: Types = Types(64);

pub(super) const REAL: Types = F.or(D);
pub(super) const INT: Types = I32.or(I64);
pub(super) const NUM: Types = REAL.or(INT);
pub(super) const BYTES: Types = I8.or(U8);
pub(super) const ANY: Types = NUM.or(B).or(BYTES);

impl Types {
    pub(super) const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    /// Whether `dtype` is in the set.
    pub fn has(self, dtype: Dtype) -> bool {
        let of = match dtype {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => F,
            Dtype::F64 => D,
            Dtype::I32 => I32,
            Dtype::I64 => I64,
            Dtype::Bool => B,
            Dtype::I8 => I8,
            Dtype::U8 => U8,
            _ => return false,
        };
        self.0 & of.0 != 0
    }

    /// Whether the engine can hold values of `dtype` at all.
    pub fn held(dtype: Dtype) -> bool {
        ANY.has(dtype)
    }
}
