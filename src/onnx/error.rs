//! Why a model could not be read or written.

use super::wire::WireFault;
use crate::fault::Explain;
use crate::fsx;
use crate::tensor::{Dtype, show_shape};
use std::fmt::Write as _;
use std::path::PathBuf;

const CUT_SHORT: &str = "the file is cut short or damaged: download or export it again";
const NO_MODEL: &str = "the file is damaged or no ONNX model: download or export it again";
const CHECKER: &str =
    "export the model again; `onnx.checker.check_model` from the Python package onnx says the same";
const TENSOR_DAMAGED: &str = "the tensor is damaged: export or download the model again";

/// Why a model could not be read or written.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    #[explain(transparent)]
    File(#[from] fsx::Error),
    /// The file is something else.
    #[error("`{path}` is not an ONNX model: it looks like {looks_like}", path = path.display())]
    #[explain(code = "onnx-not-a-model", class = Input, hints = *hint)]
    NotOnnx {
        path: PathBuf,
        /// What it looks like, with its article.
        looks_like: &'static str,
        /// What to do with such a file, if there is something.
        hint: Option<&'static str>,
    },
    /// The bytes are not a well-formed protobuf message, or one that is refused.
    #[error("`{path}` is not a whole ONNX model: {fault} at byte {offset}", path = path.display())]
    #[explain(code = "onnx-truncated-or-damaged", class = Input,
        hint("{}", if matches!(fault, WireFault::PastEnd { .. }) { CUT_SHORT } else { NO_MODEL }))]
    Wire {
        path: PathBuf,
        /// Where, from the beginning of the file.
        offset: u64,
        /// What is wrong there.
        fault: WireFault,
    },
    /// The protobuf runtime refused the message.
    #[error("`{path}` cannot be parsed as an ONNX model", path = path.display())]
    #[explain(code = "onnx-protobuf", class = Input, hint("{NO_MODEL}"))]
    Protobuf {
        path: PathBuf,
        source: protobuf::Error,
    },
    /// The message is well-formed, but what it says is not a model that can be used. Everything found
    /// is in `problems`; the text shows the first twenty.
    #[error("`{path}` is not a usable ONNX model: {}", list(.problems), path = path.display())]
    #[explain(code = problems.first().map_or("onnx-invalid", Explain::code), class = Input, hints = each_once(problems))]
    Invalid {
        path: PathBuf,
        /// All that is wrong; never empty.
        problems: Vec<Problem>,
    },
    /// Writing a model failed.
    #[error("cannot write the model")]
    #[explain(code = "onnx-write", class = Environment)]
    Write(#[from] std::io::Error),
    /// The bytes given for a weight while writing have the wrong length.
    #[error("weight `{name}` was given {found} bytes where {expected} are needed")]
    #[explain(code = "onnx-written-length", class = Bug)]
    WrittenLength {
        name: String,
        /// Bytes that its dtype and shape need.
        expected: usize,
        found: usize,
    },
    /// A value was given for a constant that is none of the graph's own.
    #[error("`{name}` is no structural constant of the model")]
    #[explain(code = "onnx-not-structural", class = Bug)]
    NotStructural { name: String },
    /// A model in one file cannot be this big.
    #[error("the model takes {bytes} bytes; one protobuf file holds at most {limit}")]
    #[explain(code = "onnx-too-big", class = Environment, hint("write the weights into an external data file"))]
    TooBig {
        /// Size that the file would have.
        bytes: u64,
        /// The most that is possible.
        limit: u64,
    },
}

/// One thing that is wrong with a model.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Problem {
    #[error("it does not say which operator set it uses (no opset_import)")]
    #[explain(code = "onnx-opset", class = Input, hint("{CHECKER}"))]
    NoOpset,
    /// An operator's domain is not imported.
    #[error("operator `{operator}` is of domain `{domain}`, which the model does not import")]
    #[explain(code = "onnx-opset", class = Input, hint("{CHECKER}"))]
    DomainNotImported { operator: String, domain: String },
    /// An initializer, node or function lacks a name that it needs.
    #[error("{what} has no name")]
    #[explain(code = "onnx-unnamed", class = Input, hint("{CHECKER}"))]
    Unnamed {
        /// What it is, and where.
        what: String,
    },
    /// `TensorProto.data_type` is none that is known.
    #[error("tensor `{tensor}` has the unknown element type {code}")]
    #[explain(code = "onnx-dtype", class = Input,
        hint("export the model with element types that are known here: floats, complex numbers and integers of 4 to 64 bits"))]
    UnknownDtype {
        tensor: String,
        /// What the file says, meant as a `TensorProto.DataType`.
        code: i32,
    },
    #[error("tensor `{tensor}` has extent {extent} on axis {axis}")]
    #[explain(code = "onnx-shape", class = Input, hint("{TENSOR_DAMAGED}"))]
    NegativeExtent {
        tensor: String,
        axis: usize,
        extent: i64,
    },
    /// The number of elements or bytes does not fit into memory addresses.
    #[error("tensor `{tensor}` has more elements than can be addressed: {}", show_dims(.dims))]
    #[explain(code = "onnx-shape", class = Input, hint("{TENSOR_DAMAGED}"))]
    TooLarge { tensor: String, dims: Vec<i64> },
    /// Data that is longer or shorter than dtype and shape say.
    #[error("tensor `{tensor}` ({dtype}, {}) has {found} bytes of data where {expected} are needed", show_shape(.shape))]
    #[explain(code = "onnx-data-length", class = Input, hint("{TENSOR_DAMAGED}"))]
    Length {
        tensor: String,
        dtype: Dtype,
        shape: Vec<usize>,
        expected: usize,
        found: usize,
    },
    /// Strings whose number disagrees with the shape.
    #[error("tensor `{tensor}` has {found} strings where {expected} are needed")]
    #[explain(code = "onnx-data-length", class = Input, hint("{TENSOR_DAMAGED}"))]
    StringCount {
        tensor: String,
        expected: usize,
        found: usize,
    },
    /// Data in more than one field, or in one that is not for this dtype.
    #[error("tensor `{tensor}` ({dtype}) has its data in {}", .fields.join(" and "))]
    #[explain(code = "onnx-data", class = Input, hint("{TENSOR_DAMAGED}"))]
    Carrier {
        tensor: String,
        /// Its element type, or `string`.
        dtype: &'static str,
        /// The fields of `TensorProto` that are filled.
        fields: Vec<&'static str>,
    },
    /// An element of a typed field that its dtype cannot hold.
    #[error("tensor `{tensor}` ({dtype}) holds {value}, which does not fit its type")]
    #[explain(code = "onnx-data", class = Input, hint("{TENSOR_DAMAGED}"))]
    ValueRange {
        tensor: String,
        dtype: Dtype,
        value: i64,
    },
    /// A tensor in segments.
    #[error("tensor `{tensor}` is one segment of a bigger tensor, which is not supported")]
    #[explain(code = "onnx-unsupported", class = Input, hint("store the tensor whole"))]
    Segment { tensor: String },
    #[error("`{tensor}` is a sparse tensor, which is not supported")]
    #[explain(code = "onnx-unsupported", class = Input, hint("store the tensor dense before exporting"))]
    Sparse { tensor: String },
    /// An entry of `external_data` that is missing, unknown, doubled or no number.
    #[error("tensor `{tensor}` has external data with {reason}")]
    #[explain(code = "onnx-external-data", class = Input, hint("write the external data again: `onnx.save(model, path, save_as_external_data=True)`"))]
    ExternalEntry { tensor: String, reason: String },
    /// External data outside of the model's folder.
    #[error(
        "tensor `{tensor}` has its data in `{location}`, which is not inside the model's folder"
    )]
    #[explain(code = "onnx-external-escape", class = Input,
        hint("put the data file into the model's folder, as a file and not as a link out of it (`cp -L`, or `hf download --local-dir`), and let `location` be relative"))]
    ExternalEscape {
        tensor: String,
        /// The location as the model writes it.
        location: String,
    },
    /// The file with external data cannot be read.
    #[error("tensor `{tensor}` has its data in `{location}`, which cannot be read: {source}")]
    #[explain(code = "onnx-external-file", class = Input,
        hint("put the data file beside the model: a model with external data is more than its .onnx file"))]
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
    #[explain(code = "onnx-external-data", class = Input, hint("the data file is cut short or belongs to another model: download or export both again"))]
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
    #[explain(code = "onnx-duplicate", class = Input, hint("{CHECKER}"))]
    DuplicateInitializer { graph: String, name: String },
    /// A value that two nodes, or a node and an input or initializer, produce.
    #[error("{graph} produces the value `{name}` twice")]
    #[explain(code = "onnx-duplicate", class = Input, hint("{CHECKER}"))]
    ProducedTwice { graph: String, name: String },
    /// A value that is read and that nothing produces.
    #[error("in {graph}, {reader} reads `{name}`, which nothing produces")]
    #[explain(code = "onnx-not-produced", class = Input, hint("{CHECKER}"))]
    NotProduced {
        graph: String,
        name: String,
        reader: String,
    },
    /// Nodes that wait for each other.
    #[error("{graph} has a cycle through {}", show_names(.nodes))]
    #[explain(code = "onnx-cycle", class = Input, hint("{CHECKER}"))]
    Cycle {
        graph: String,
        /// The nodes on or behind the cycle, as `operator output`.
        nodes: Vec<String>,
    },
    /// A model-local function that calls itself.
    #[error("the function `{name}` calls itself")]
    #[explain(code = "onnx-cycle", class = Input, hint("{CHECKER}"))]
    RecursiveFunction {
        /// As `domain:name`; nothing before the colon for the default domain.
        name: String,
    },
    /// Model-local functions that call others so often that the graph without them would have no end in practice.
    #[error("with its functions written out, it has more than {limit} nodes")]
    #[explain(code = "onnx-functions", class = Input, hint("export the model again, with its functions inlined"))]
    Expansion {
        /// The most that is allowed.
        limit: u64,
    },
    /// Two model-local functions of one domain, name and overload.
    #[error("the function `{name}` is defined twice")]
    #[explain(code = "onnx-duplicate", class = Input, hint("{CHECKER}"))]
    DuplicateFunction {
        /// As `domain:name`; nothing before the colon for the default domain.
        name: String,
    },
    /// A Constant node without exactly one output or value.
    #[error("the Constant node of `{output}` has {reason}")]
    #[explain(code = "onnx-attribute", class = Input, hint("{CHECKER}"))]
    Constant { output: String, reason: String },
    /// An attribute whose value is not there.
    #[error("attribute `{attribute}` of {node} has no value")]
    #[explain(code = "onnx-attribute", class = Input, hint("{CHECKER}"))]
    Attribute { node: String, attribute: String },
    /// An input or output that is no tensor of a known type.
    #[error("{what} `{name}` is {found}; only tensors of numbers are supported")]
    #[explain(code = "onnx-interface", class = Input,
        hint("export the model with tensors as inputs and outputs, and with their types (`onnx.shape_inference.infer_shapes` fills them in)"))]
    Interface {
        /// Which side of the model it is on: `input` or `output`.
        what: &'static str,
        name: String,
        /// What the model declares it as.
        found: String,
    },
    /// A graph without weights needs one that its source does not have.
    #[error("the weight `{name}` is missing")]
    #[explain(code = "onnx-weights", class = Input, hint("the file is damaged: build it again"))]
    WeightMissing { name: String },
    /// The source of weights has another dtype or shape than the graph says.
    #[error("the weight `{name}` is {found} where the graph says {expected}")]
    #[explain(code = "onnx-weights", class = Input, hint("the file is damaged: build it again"))]
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

fn each_once(problems: &[Problem]) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    for hint in problems.iter().flat_map(Explain::hints) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints
}
