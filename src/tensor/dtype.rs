//! Element types, and their names in ONNX, in safetensors and in our own files.

use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $bits:literal bits, onnx $onnx:literal, safetensors $st:expr;)*) => {
        /// Element type of a tensor. Numbers in the ONNX column are `TensorProto.DataType`
        /// (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Dtype { $($(#[$doc])* $variant,)* }

        impl Dtype {
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant),*];

            /// Our own lower-case name, used in manifests, reports and messages.
            pub const fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name,)* }
            }

            /// Width of one element in bits; 4 for the packed types.
            pub const fn bits(self) -> usize {
                match self { $(Dtype::$variant => $bits,)* }
            }

            /// Its number in `TensorProto.DataType`, as model files hold it.
            pub const fn onnx(self) -> i32 {
                match self { $(Dtype::$variant => $onnx,)* }
            }

            /// Name in a safetensors header, where the format has one.
            pub const fn safetensors(self) -> Option<&'static str> {
                match self { $(Dtype::$variant => $st,)* }
            }
        }
    };
}

dtypes! {
    F64 = "f64", 64 bits, onnx 11, safetensors Some("F64");
    F32 = "f32", 32 bits, onnx 1, safetensors Some("F32");
    F16 = "f16", 16 bits, onnx 10, safetensors Some("F16");
    Bf16 = "bf16", 16 bits, onnx 16, safetensors Some("BF16");
    /// 8-bit float, 4 exponent bits, no infinities.
    F8E4M3Fn = "f8e4m3fn", 8 bits, onnx 17, safetensors Some("F8_E4M3");
    /// As `F8E4M3Fn` with one zero.
    F8E4M3Fnuz = "f8e4m3fnuz", 8 bits, onnx 18, safetensors Some("F8_E4M3FNUZ");
    /// 8-bit float, 5 exponent bits.
    F8E5M2 = "f8e5m2", 8 bits, onnx 19, safetensors Some("F8_E5M2");
    /// As `F8E5M2` with one zero.
    F8E5M2Fnuz = "f8e5m2fnuz", 8 bits, onnx 20, safetensors Some("F8_E5M2FNUZ");
    /// 8-bit power of two (block scales).
    F8E8M0 = "f8e8m0", 8 bits, onnx 24, safetensors Some("F8_E8M0");
    /// 4-bit float, two to a byte, low nibble first.
    F4E2M1 = "f4e2m1", 4 bits, onnx 23, safetensors Some("F4");
    I64 = "i64", 64 bits, onnx 7, safetensors Some("I64");
    I32 = "i32", 32 bits, onnx 6, safetensors Some("I32");
    I16 = "i16", 16 bits, onnx 5, safetensors Some("I16");
    I8 = "i8", 8 bits, onnx 3, safetensors Some("I8");
    /// Signed 4-bit, two to a byte, low nibble first.
    I4 = "i4", 4 bits, onnx 22, safetensors None;
    U64 = "u64", 64 bits, onnx 13, safetensors Some("U64");
    U32 = "u32", 32 bits, onnx 12, safetensors Some("U32");
    U16 = "u16", 16 bits, onnx 4, safetensors Some("U16");
    U8 = "u8", 8 bits, onnx 2, safetensors Some("U8");
    /// Unsigned 4-bit, two to a byte, low nibble first.
    U4 = "u4", 4 bits, onnx 21, safetensors None;
    /// One byte, 0 or 1.
    Bool = "bool", 8 bits, onnx 9, safetensors Some("BOOL");
    /// Two f32: real, imaginary.
    C64 = "c64", 64 bits, onnx 14, safetensors Some("C64");
    /// Two f64: real, imaginary.
    C128 = "c128", 128 bits, onnx 15, safetensors None;
}

impl Dtype {
    /// The type with this `TensorProto.DataType`; `None` for `UNDEFINED`, `STRING` and unknown numbers.
    pub fn from_onnx(code: i32) -> Option<Dtype> {
        Self::ALL.iter().copied().find(|d| d.onnx() == code)
    }

    /// The type with this safetensors header name.
    pub fn from_safetensors(name: &str) -> Option<Dtype> {
        Self::ALL
            .iter()
            .copied()
            .find(|d| d.safetensors() == Some(name))
    }

    /// The type with our own name ([`Dtype::name`]).
    pub fn from_name(name: &str) -> Option<Dtype> {
        Self::ALL.iter().copied().find(|d| d.name() == name)
    }

    /// Bytes that `count` elements take (4-bit types are packed, the last byte padded); `None` on overflow.
    pub fn bytes_for(self, count: usize) -> Option<usize> {
        if self.bits() == 4 {
            // Halved, and not multiplied by the bits first: no count overflows so.
            Some(count / 2 + count % 2)
        } else {
            count.checked_mul(self.bits() / 8)
        }
    }

    /// Floating-point types, the narrow ones included.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Dtype::F64
                | Dtype::F32
                | Dtype::F16
                | Dtype::Bf16
                | Dtype::F8E4M3Fn
                | Dtype::F8E4M3Fnuz
                | Dtype::F8E5M2
                | Dtype::F8E5M2Fnuz
                | Dtype::F8E8M0
                | Dtype::F4E2M1
        )
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Dtype {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Dtype {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Dtype::from_name(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown element type `{name}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back() {
        for &d in Dtype::ALL {
            assert_eq!(Dtype::from_name(d.name()), Some(d));
            assert_eq!(Dtype::from_onnx(d.onnx()), Some(d));
            if let Some(st) = d.safetensors() {
                assert_eq!(Dtype::from_safetensors(st), Some(d));
            }
        }
        assert_eq!(Dtype::from_onnx(0), None);
        assert_eq!(Dtype::from_onnx(8), None);
    }

    #[test]
    fn packed_types_round_up() {
        assert_eq!(Dtype::I4.bytes_for(3), Some(2));
        assert_eq!(Dtype::I4.bytes_for(usize::MAX), Some(usize::MAX / 2 + 1));
        assert_eq!(Dtype::F32.bytes_for(usize::MAX), None);
    }
}
