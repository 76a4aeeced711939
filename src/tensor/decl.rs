//! What a model declares of an input or output: name, element type, extents.

use super::Dtype;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One declared extent of an input or output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Extent {
    Fixed(usize),
    /// ONNX `dim_param`: equal names are equal sizes.
    Symbol(String),
    /// Neither a size nor a name.
    Unknown,
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Fixed(n) => write!(f, "{n}"),
            Extent::Symbol(s) => f.write_str(s),
            Extent::Unknown => f.write_str("?"),
        }
    }
}

/// A declared input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorDecl {
    /// Name in the graph.
    pub name: String,
    pub dtype: Dtype,
    /// Extents, outermost first; `None` where the model does not even state a rank.
    pub dims: Option<Vec<Extent>>,
}

impl TensorDecl {
    /// Whether some extent is not fixed (or the rank is not stated).
    pub fn is_dynamic(&self) -> bool {
        self.dims
            .as_ref()
            .is_none_or(|d| d.iter().any(|e| !matches!(e, Extent::Fixed(_))))
    }

    /// Extents as reports show them: `[BATCH, 4, ?]`.
    pub fn show_dims(&self) -> String {
        match &self.dims {
            None => "[unknown rank]".into(),
            Some(d) => format!(
                "[{}]",
                d.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }
}
