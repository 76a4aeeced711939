//! Why a model could not be read or written.

use super::wire::WireFault;
use crate::fault::{Class, Explain};
use crate::fsx;
use crate::tensor::{Dtype, show_shape};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Why a model could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] fsx::Error),
    /// The file is something else.
    #[error("`{path}` is not an ONNX model: it looks like {looks_like}", path = path.display())]
    NotOnnx {
        path: PathBuf,
        /// What it looks like, with its article.
        looks_like: &'static str,
        /// What to do with such a file, if there is something.
        hint: Option<&'static str>,
    },
    /// The bytes are not a well-formed protobuf message, or one that is refused.
    #[error("`{path}` is not a whole ONNX model: {fault} at byte {offset}", path = path.display())]
    Wire {
        path: PathBuf,
        /// Where, from the beginning of the file.
        offset: u64,
        /// What is wrong there.
        fault: WireFault,
    },
    /// The protobuf runtime refused the message.
    #[error("`{path}` cannot be parsed as an ONNX model", path = path.display())]
    Protobuf {
        path: PathBuf,
        source: protobuf::Error,
    },
    /// The message is well-formed, but what it says is not a model that can be used. Everything found
    /// is in `problems`; the text shows the first twenty.
    #[error("`{path}` is not a usable ONNX model: {}", list(.problems), path = path.display())]
    Invalid {
        path: PathBuf,
        /// All that is wrong; never empty.
        problems: Vec<Problem>,
    },
    /// Writing a model failed.
    #[error("cannot write the model")]
    Write(#[from] std::io::Error),
    /// The bytes given for a weight while writing have the wrong length.
    #[error("weight `{name}` was given {found} bytes where {expected} are needed")]
    WrittenLength {
        name: String,
        /// Bytes that its dtype and shape need.
        expected: usize,
        found: usize,
    },
    /// A value was given for a constant that is none of the graph's own.
    #[error("`{name}` is no structural constant of the model")]
    NotStructural { name: String },
    /// A model in one file cannot be this big.
    #[error("the model takes {bytes} bytes; one protobuf file holds at most {limit}")]
    TooBig {
        /// Size that the file would have.
        bytes: u64,
        /// The most that is possible.
        limit: u64,
    },
}

/// One thing that is wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("it does not say which operator set it uses (no opset_import)")]
    NoOpset,
    /// An operator's domain is not imported.
    #[error("operator `{operator}` is of domain `{domain}`, which the model does not import")]
    DomainNotImported { operator: String, domain: String },
    /// An initializer, node or function lacks a name that it needs.
    #[error("{what} has no name")]
    Unnamed {
        /// What it is, and where.
        what: String,
    },
    /// `TensorProto.data_type` is none that is known.
    #[error("tensor `{tensor}` has the unknown element type {code}")]
    UnknownDtype {
        tensor: String,
        /// What the file says, meant as a `TensorProto.DataType`.
        code: i32,
    },
    #[error("tensor `{tensor}` has extent {extent} on axis {axis}")]
    NegativeExtent {
        tensor: String,
        axis: usize,
        extent: i64,
    },
    /// The number of elements or bytes does not fit into memory addresses.
    #[error("tensor `{tensor}` has more elements than can be addressed: {}", show_dims(.dims))]
    TooLarge { tensor: String, dims: Vec<i64> },
    /// Data that is longer or shorter than dtype and shape say.
    #[error("tensor `{tensor}` ({dtype}, {}) has {found} bytes of data where {expected} are needed", show_shape(.shape))]
    Length {
        tensor: String,
        dtype: Dtype,
        shape: Vec<usize>,
        expected: usize,
        found: usize,
    },
    /// Strings whose number disagrees with the shape.
    #[error("tensor `{tensor}` has {found} strings where {expected} are needed")]
    StringCount {
        tensor: String,
        expected: usize,
        found: usize,
    },
    /// Data in more than one field, or in one that is not for this dtype.
    #[error("tensor `{tensor}` ({dtype}) has its data in {}", .fields.join(" and "))]
    Carrier {
        tensor: String,
        /// Its element type, or `string`.
        dtype: &'static str,
        /// The fields of `TensorProto` that are filled.
        fields: Vec<&'static str>,
    },
    /// An element of a typed field that its dtype cannot hold.
    #[error("tensor `{tensor}` ({dtype}) holds {value}, which does not fit its type")]
    ValueRange {
        tensor: String,
        dtype: Dtype,
        value: i64,
    },
    /// A tensor in segments.
    #[error("tensor `{tensor}` is one segment of a bigger tensor, which is not supported")]
    Segment { tensor: String },
    #[error("`{tensor}` is a sparse tensor, which is not supported")]
    Sparse { tensor: String },
    /// An entry of `external_data` that is missing, unknown, doubled or no number.
    #[error("tensor `{tensor}` has external data with {reason}")]
    ExternalEntry { tensor: String, reason: String },
    /// External data outside of the model's folder.
    #[error(
        "tensor `{tensor}` has its data in `{location}`, which is not inside the model's folder"
    )]
    ExternalEscape {
        tensor: String,
        /// The location as the model writes it.
        location: String,
    },
    /// The file with external data cannot be read.
    #[error("tensor `{tensor}` has its data in `{location}`, which cannot be read: {source}")]
    ExternalFile {
        tensor: String,
        /// The location as the model writes it.
        location: String,
        source: std::io::Error,
    },
    /// External data past the end of its file.
    #[error(
        "tensor `{tensor}` has its data at bytes {offset}..{} of `{location}`, which has {file_length} bytes",
        .offset.saturating_add(*.length)
    )]
    ExternalRange {
        tensor: String,
        /// The location as the model writes it.
        location: String,
        offset: u64,
        length: u64,
        /// Length of the file.
        file_length: u64,
    },
    /// Two initializers of one name in one graph.
    #[error("{graph} has two initializers named `{name}`")]
    DuplicateInitializer { graph: String, name: String },
    /// A value that two nodes, or a node and an input or initializer, produce.
    #[error("{graph} produces the value `{name}` twice")]
    ProducedTwice { graph: String, name: String },
    /// A value that is read and that nothing produces.
    #[error("in {graph}, {reader} reads `{name}`, which nothing produces")]
    NotProduced {
        graph: String,
        name: String,
        reader: String,
    },
    /// Nodes that wait for each other.
    #[error("{graph} has a cycle through {}", show_names(.nodes))]
    Cycle {
        graph: String,
        /// The nodes on or behind the cycle, as `operator output`.
        nodes: Vec<String>,
    },
    /// A model-local function that calls itself.
    #[error("the function `{name}` calls itself")]
    RecursiveFunction {
        /// As `domain:name`; nothing before the colon for the default domain.
        name: String,
    },
    /// Model-local functions that call others so often that the graph without them would have no end in practice.
    #[error("with its functions written out, it has more than {limit} nodes")]
    Expansion {
        /// The most that is allowed.
        limit: u64,
    },
    /// Two model-local functions of one domain, name and overload.
    #[error("the function `{name}` is defined twice")]
    DuplicateFunction {
        /// As `domain:name`; nothing before the colon for the default domain.
        name: String,
    },
    /// A Constant node without exactly one output or value.
    #[error("the Constant node of `{output}` has {reason}")]
    Constant { output: String, reason: String },
    /// An attribute whose value is not there.
    #[error("attribute `{attribute}` of {node} has no value")]
    Attribute { node: String, attribute: String },
    /// An input or output that is no tensor of a known type.
    #[error("{what} `{name}` is {found}; only tensors of numbers are supported")]
    Interface {
        /// Which side of the model it is on: `input` or `output`.
        what: &'static str,
        name: String,
        /// What the model declares it as.
        found: String,
    },
    /// A graph without weights needs one that its source does not have.
    #[error("the weight `{name}` is missing")]
    WeightMissing { name: String },
    /// The source of weights has another dtype or shape than the graph says.
    #[error("the weight `{name}` is {found} where the graph says {expected}")]
    WeightDiffers {
        name: String,
        /// Type and shape by the graph, as in `f32 2x4`.
        expected: String,
        /// `f16 2x4`, or the number of bytes.
        found: String,
    },
}

fn show_dims(dims: &[i64]) -> String {
    dims.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("x")
}

fn show_names(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(|n| format!("`{n}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

/// A damaged model can have a problem for every node; nobody reads more than these.
const LISTED: usize = 20;

fn list(problems: &[Problem]) -> String {
    let mut text = problems
        .iter()
        .take(LISTED)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if problems.len() > LISTED {
        let _ = write!(text, "; and {} more", problems.len() - LISTED);
    }
    text
}

impl Problem {
    fn code(&self) -> &'static str {
        match self {
            Problem::NoOpset | Problem::DomainNotImported { .. } => "onnx-opset",
            Problem::Unnamed { .. } => "onnx-unnamed",
            Problem::UnknownDtype { .. } => "onnx-dtype",
            Problem::Expansion { .. } => "onnx-functions",
            Problem::NegativeExtent { .. } | Problem::TooLarge { .. } => "onnx-shape",
            Problem::Length { .. } | Problem::StringCount { .. } => "onnx-data-length",
            Problem::Carrier { .. } | Problem::ValueRange { .. } => "onnx-data",
            Problem::Segment { .. } | Problem::Sparse { .. } => "onnx-unsupported",
            Problem::ExternalEntry { .. } | Problem::ExternalRange { .. } => "onnx-external-data",
            Problem::ExternalEscape { .. } => "onnx-external-escape",
            Problem::ExternalFile { .. } => "onnx-external-file",
            Problem::DuplicateInitializer { .. }
            | Problem::ProducedTwice { .. }
            | Problem::DuplicateFunction { .. } => "onnx-duplicate",
            Problem::NotProduced { .. } => "onnx-not-produced",
            Problem::Cycle { .. } | Problem::RecursiveFunction { .. } => "onnx-cycle",
            Problem::Constant { .. } | Problem::Attribute { .. } => "onnx-attribute",
            Problem::Interface { .. } => "onnx-interface",
            Problem::WeightMissing { .. } | Problem::WeightDiffers { .. } => "onnx-weights",
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Problem::NoOpset
            | Problem::DomainNotImported { .. }
            | Problem::Unnamed { .. }
            | Problem::DuplicateInitializer { .. }
            | Problem::ProducedTwice { .. }
            | Problem::DuplicateFunction { .. }
            | Problem::NotProduced { .. }
            | Problem::Cycle { .. }
            | Problem::RecursiveFunction { .. }
            | Problem::Constant { .. }
            | Problem::Attribute { .. } => {
                "export the model again; `onnx.checker.check_model` from the Python package onnx says the same"
            }
            Problem::Expansion { .. } => "export the model again, with its functions inlined",
            Problem::UnknownDtype { .. } => {
                "export the model with element types that are known here: floats, complex numbers and integers of 4 to 64 bits"
            }
            Problem::NegativeExtent { .. }
            | Problem::TooLarge { .. }
            | Problem::Length { .. }
            | Problem::StringCount { .. }
            | Problem::Carrier { .. }
            | Problem::ValueRange { .. } => {
                "the tensor is damaged: export or download the model again"
            }
            Problem::Segment { .. } => "store the tensor whole",
            Problem::Sparse { .. } => "store the tensor dense before exporting",
            Problem::ExternalEntry { .. } => {
                "write the external data again: `onnx.save(model, path, save_as_external_data=True)`"
            }
            Problem::ExternalEscape { .. } => {
                "put the data file into the model's folder, as a file and not as a link out of it (`cp -L`, or `hf download --local-dir`), and let `location` be relative"
            }
            Problem::ExternalFile { .. } => {
                "put the data file beside the model: a model with external data is more than its .onnx file"
            }
            Problem::ExternalRange { .. } => {
                "the data file is cut short or belongs to another model: download or export both again"
            }
            Problem::Interface { .. } => {
                "export the model with tensors as inputs and outputs, and with their types (`onnx.shape_inference.infer_shapes` fills them in)"
            }
            Problem::WeightMissing { .. } | Problem::WeightDiffers { .. } => {
                "the file is damaged: build it again"
            }
        }
    }
}

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::File(e) => e.code(),
            Error::NotOnnx { .. } => "onnx-not-a-model",
            Error::Wire { .. } => "onnx-truncated-or-damaged",
            Error::Protobuf { .. } => "onnx-protobuf",
            Error::Invalid { problems, .. } => {
                problems.first().map_or("onnx-invalid", Problem::code)
            }
            Error::Write(_) => "onnx-write",
            Error::WrittenLength { .. } => "onnx-written-length",
            Error::NotStructural { .. } => "onnx-not-structural",
            Error::TooBig { .. } => "onnx-too-big",
        }
    }

    fn class(&self) -> Class {
        match self {
            Error::File(e) => e.class(),
            Error::NotOnnx { .. }
            | Error::Wire { .. }
            | Error::Protobuf { .. }
            | Error::Invalid { .. } => Class::Input,
            Error::Write(_) | Error::TooBig { .. } => Class::Environment,
            Error::WrittenLength { .. } | Error::NotStructural { .. } => Class::Bug,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Error::File(e) => e.hints(),
            Error::NotOnnx { hint, .. } => hint.iter().map(ToString::to_string).collect(),
            Error::Wire { fault, .. } => vec![match fault {
                WireFault::PastEnd { .. } => {
                    "the file is cut short or damaged: download or export it again".into()
                }
                _ => "the file is damaged or no ONNX model: download or export it again".into(),
            }],
            Error::Protobuf { .. } => {
                vec!["the file is damaged or no ONNX model: download or export it again".into()]
            }
            Error::Invalid { problems, .. } => {
                let mut hints: Vec<String> = Vec::new();
                for problem in problems {
                    let hint = problem.hint();
                    if !hints.iter().any(|h| h == hint) {
                        hints.push(hint.into());
                    }
                }
                hints
            }
            Error::Write(_) | Error::WrittenLength { .. } | Error::NotStructural { .. } => {
                Vec::new()
            }
            Error::TooBig { .. } => vec!["write the weights into an external data file".into()],
        }
    }
}
