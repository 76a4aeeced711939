//! Weights that a library computes from several of the model's before it keeps them.

use super::Error;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What TensorRT's parser makes of a `BatchNormalization` whose four tensors are f32 initializers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    /// The slot that holds the result, f32, one element per channel.
    pub slot: String,
    /// Which of the two results.
    pub part: FoldPart,
    /// Name of the initializer γ.
    pub scale: String,
    /// Name of the initializer β.
    pub bias: String,
    /// Name of the initializer μ.
    pub mean: String,
    /// Name of the initializer σ².
    pub variance: String,
    /// ε, an attribute of the node.
    pub epsilon: f32,
}

/// The two results of a fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoldPart {
    /// `γ / √(σ² + ε)`, by which a channel is multiplied.
    Scale,
    /// `β − μ · γ / √(σ² + ε)`.
    Shift,
}

impl Fold {
    /// The model's weights that it is computed from.
    pub fn sources(&self) -> [&str; 4] {
        [&self.scale, &self.bias, &self.mean, &self.variance].map(String::as_str)
    }

    /// The slot's bytes, in f32 as the parser computes them (`NvOnnxParser.h`, `RefitTransformKind`). `bytes` gives the model's
    /// weights by name.
    ///
    /// # Errors
    /// What `bytes` fails with; [`Error::Weight`] where lengths do not agree.
    pub fn compute<'b>(
        &self,
        bytes: impl Fn(&str) -> Result<Cow<'b, [u8]>, Error>,
    ) -> Result<Vec<u8>, Error> {
        let read = |name: &str| -> Result<Vec<f32>, Error> {
            let bytes = bytes(name)?;
            let (values, rest) = bytes.as_chunks::<4>();
            if rest.is_empty() {
                return Ok(values.iter().map(|v| f32::from_le_bytes(*v)).collect());
            }
            Err(self.unequal())
        };
        let scale = read(&self.scale)?;
        let variance = read(&self.variance)?;
        let (bias, mean) = (read(&self.bias)?, read(&self.mean)?);
        if [&variance, &bias, &mean]
            .iter()
            .any(|v| v.len() != scale.len())
        {
            return Err(self.unequal());
        }
        let combined = scale
            .iter()
            .zip(&variance)
            .map(|(s, v)| s / (v + self.epsilon).sqrt());
        Ok(match self.part {
            FoldPart::Scale => combined.flat_map(f32::to_le_bytes).collect(),
            FoldPart::Shift => combined
                .zip(bias.iter().zip(&mean))
                .flat_map(|(c, (b, m))| (b - m * c).to_le_bytes())
                .collect(),
        })
    }

    fn unequal(&self) -> Error {
        Error::Weight {
            name: self.slot.clone(),
            reason: format!(
                "the tensors of its normalisation (`{}`) are not of one length",
                self.sources().join("`, `")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(part: FoldPart) -> Fold {
        let name = |n: &str| n.to_owned();
        Fold {
            slot: name("folded"),
            part,
            scale: name("g"),
            bias: name("b"),
            mean: name("m"),
            variance: name("v"),
            epsilon: 1.0,
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "what reads weights can fail")]
    fn given(name: &str) -> Result<Cow<'static, [u8]>, Error> {
        let values: &[f32] = match name {
            "g" => &[6.0, -4.0],
            "b" => &[1.0, 2.0],
            "m" => &[10.0, 0.5],
            _ => &[8.0, 3.0],
        };
        Ok(values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<_>>()
            .into())
    }

    #[test]
    fn both_parts_are_what_the_header_says() {
        let bytes = |values: [f32; 2]| values.map(f32::to_le_bytes).concat();
        assert_eq!(
            fold(FoldPart::Scale).compute(given).unwrap(),
            bytes([2.0, -2.0])
        );
        assert_eq!(
            fold(FoldPart::Shift).compute(given).unwrap(),
            bytes([-19.0, 3.0])
        );
        let short = |name: &str| match name {
            "m" => Ok(Cow::Owned(vec![0; 4])),
            other => given(other),
        };
        let error = fold(FoldPart::Shift)
            .compute(short)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`m`") && error.contains("one length"),
            "{error}"
        );
    }
}
