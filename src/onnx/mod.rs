//! ONNX models: reading them without copying their weights, and telling structure from weight bytes.
//!
//! | file | purpose |
//! |---|---|
//! | `wire` | walk the file at protobuf wire level: refuse what is dangerous, leave payloads in the memory map |
//! | `tensor`, `external` | payloads: decoded, checked, also from other files |
//! | `collect` | take every constant out of the message and name it |
//! | `net` | resolve names across subgraphs and functions |
//! | `role` | tell weights from values that engines bake in |
//! | `structure` | the structure digest |
//! | `interface` | declared inputs and outputs |
//! | `write` | a whole ONNX file again, with given weights |
//! | [`keep`] | what stays in f32 where less may be computed in |
//! | [`half`] | a model in half precision |
//! | `error` | all that can be wrong |
//! | `sniff` | what a file that is no model looks like |

#[cfg(test)]
mod big;
mod collect;
mod error;
mod external;
pub mod half;
mod interface;
pub mod keep;
mod net;
mod role;
#[cfg(test)]
mod roundtrip;
mod sniff;
mod structure;
mod tensor;
#[cfg(test)]
pub(crate) mod testing;
mod wire;
mod write;

pub use error::{Error, Problem};
pub use wire::WireFault;
pub use write::BytesOf;

use crate::fsx::Map;
use crate::maps::QuickMap;
use crate::tensor::{
    Digest, Dtype, Stretch, TensorDecl, TensorView, digests_of, element_count, show_shape,
};
use collect::Constant;
use external::Files;
use net::Net;
use onnx_protobuf::{Message, ModelProto, TensorProto};
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use tensor::{Bytes, Taking};

/// Payloads up to this many bytes are parsed with the message; bigger ones stay in the memory map.
const INLINE_LIMIT: usize = 1024;

/// An ONNX model. Opening validates every tensor once; later access to weight bytes cannot fail.
pub struct Model {
    /// `None` where it is not needed any more.
    proto: Option<ModelProto>,
    weights: Vec<Weight>,
    /// Where the bytes of each weight are.
    bytes: Vec<Bytes>,
    by_name: QuickMap<String, usize>,
    files: Files,
    source: Option<Box<dyn WeightBytes>>,
    inputs: Vec<TensorDecl>,
    outputs: Vec<TensorDecl>,
    structure: Digest,
}

/// A source of weight bytes by [`Weight::name`], for [`Model::from_graph`]. It must keep giving what it gave.
pub trait WeightBytes: Send + Sync {
    /// Dtype, shape and row-major little-endian bytes of the weight `name`.
    fn get(&self, name: &str) -> Option<TensorView<'_>>;

    /// Dtype, shape and number of bytes of the weight `name`, without reading it where that can be told.
    fn describe(&self, name: &str) -> Option<(Dtype, &[usize], usize)> {
        let view = self.get(name)?;
        Some((view.dtype, view.shape, view.data.len()))
    }
}

/// What a constant tensor is to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Data that a refit may change: floating-point or quantised values that only reach data inputs.
    Weight,
    /// A value that engines fold into the network when it is built; a change of it is a change of structure.
    Structural {
        /// Operator that reads it.
        operator: String,
        /// Which of its inputs.
        input: usize,
        /// Why, e.g. `integer constant`, `Clip bound`, `Reshape target`.
        why: &'static str,
    },
    /// No node reads it.
    Unused,
}

/// Where a constant tensor stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In a graph's `initializer` list.
    Initializer,
    /// The `value` of a `Constant` node.
    ConstantNode,
}

/// A constant tensor of a model: an initializer, or the value of a Constant node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// Initializer name, or the Constant node's output name. Unique in the model: where graphs share a
    /// name, those inside subgraphs are written `path/of/subgraph::name`, the path being first outputs of nodes and
    /// attribute names.
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub origin: Origin,
    pub role: Role,
}

impl Weight {
    /// Number of bytes that it takes.
    ///
    /// # Panics
    /// When dtype and shape were changed to something that cannot be addressed.
    pub fn byte_length(&self) -> usize {
        element_count(&self.shape)
            .and_then(|n| self.dtype.bytes_for(n))
            .expect("checked when the model was opened")
    }

    /// Whether its bytes are not in [`Model::proto`]: all but structural constants.
    pub fn is_elided(&self) -> bool {
        !matches!(self.role, Role::Structural { .. })
    }
}

/// The [`Weight::name`] of a tensor in [`Model::proto`] whose bytes are not there.
pub fn weight_name(tensor: &TensorProto) -> Option<&str> {
    collect::mark(tensor)
}

impl Model {
    /// Reads the model at `path`; weights stay in the memory map. Tensors of model-local functions are no weights but part
    /// of the graph; training graphs are dropped.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        let map = Map::open(path)?;
        let path = map.path().to_owned();
        let slim = wire::slim(&map, INLINE_LIMIT);
        let (proto, payloads) = match parse(slim, map.is_empty(), &path) {
            Ok(parsed) => parsed,
            Err(e) => {
                return Err(match sniff::guess(&map) {
                    Some((looks_like, hint)) => Error::NotOnnx {
                        path,
                        looks_like,
                        hint,
                    },
                    None => e,
                });
            }
        };
        Model::assemble(proto, &payloads, Files::new(map), None, &path)
    }

    /// Rebuilds a model from a graph without weights (as [`Model::graph_bytes`] gives it) and a source of weight bytes.
    /// `origin` is the file that both come from, for messages.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn from_graph(
        graph: &[u8],
        weights: Box<dyn WeightBytes>,
        origin: &Path,
    ) -> Result<Model, Error> {
        // All of it is in memory already, so nothing is put aside.
        let slim = wire::slim(graph, usize::MAX);
        let (proto, payloads) = parse(slim, graph.is_empty(), origin)?;
        Model::assemble(proto, &payloads, Files::none(), Some(weights), origin)
    }

    fn assemble(
        mut proto: ModelProto,
        payloads: &[wire::Payload],
        mut files: Files,
        source: Option<Box<dyn WeightBytes>>,
        path: &Path,
    ) -> Result<Model, Error> {
        let mut problems = Vec::new();
        let mut taking = Taking {
            payloads,
            files: &mut files,
            marked: source.is_some(),
        };
        let constants = collect::take_constants(&mut proto, &mut taking, &mut problems);
        if let Some(source) = &source {
            check_source(&constants, source.as_ref(), &mut problems);
        }
        // Before the digest is made: `?` and no text at all are one structure.
        interface::clear_placeholders(&mut proto);
        let (inputs, outputs) = interface::declared(&proto, &mut problems);
        let resolved = Net::resolve(&proto, &mut problems);
        let Some(net) = resolved.filter(|_| problems.is_empty()) else {
            return Err(Error::Invalid {
                path: path.to_owned(),
                problems,
            });
        };
        let roles = role::roles(&net, &constants);
        let structure = structure::digest(&proto, &net, &constants, &roles, |i| {
            held(
                &constants[i].bytes,
                &constants[i].name,
                &files,
                source.as_deref(),
            )
        });
        let (weights, bytes): (Vec<Weight>, Vec<Bytes>) = constants
            .into_iter()
            .zip(roles)
            .map(|(c, role)| {
                let weight = Weight {
                    name: c.name,
                    dtype: c.dtype,
                    shape: c.shape,
                    origin: c.origin,
                    role,
                };
                (weight, c.bytes)
            })
            .unzip();
        let mut model = Model {
            proto: None,
            by_name: weights
                .iter()
                .enumerate()
                .map(|(i, w)| (w.name.clone(), i))
                .collect(),
            weights,
            bytes,
            files,
            source,
            inputs,
            outputs,
            structure,
        };
        // Marks are indices up to here, which the steps above need; from now on they are names, by
        // which others ask for weights.
        collect::for_each_marked(&mut proto, &mut |tensor, index| {
            let weight = &model.weights[index.parse::<usize>().expect("marked with its index")];
            if weight.is_elided() {
                collect::set_mark(tensor, weight.name.clone());
            } else {
                collect::set_bytes(tensor, model.bytes(weight).into_owned());
            }
        });
        model.proto = Some(proto);
        Ok(model)
    }

    /// The file that it was read from; `None` for one made by [`Model::from_graph`].
    pub fn path(&self) -> Option<&Path> {
        self.files.model()
    }

    /// The files that it consists of: its own first, then those with external data; none for one made by [`Model::from_graph`].
    pub fn files(&self) -> &[Map] {
        self.files.maps()
    }

    /// Gives back the memory of the graph, which [`Model::proto`] must not be asked for any more: of a graph of many small nodes it is more
    /// than all else that is known of the model.
    pub fn forget_graph(&mut self) {
        self.proto = None;
    }

    /// The graph as protobuf bytes: [`Model::proto`] as it is.
    pub fn graph_bytes(&self) -> Vec<u8> {
        write::serialise(self.proto())
    }

    /// The parsed model. Tensors with [`Weight::is_elided`] carry no bytes here ([`weight_name`] says which they are); all
    /// others are inline in `raw_data`, strings in `string_data`. Numbers in Constant nodes are always in `value`.
    ///
    /// # Panics
    /// After [`Model::forget_graph`].
    pub fn proto(&self) -> &ModelProto {
        self.proto.as_ref().expect("nobody forgot the graph")
    }

    /// Every constant tensor, in file order, subgraphs included.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The constant tensor `name`.
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.by_name.get(name).map(|&i| &self.weights[i])
    }

    /// The bytes of one of [`Model::weights`]: row-major, little-endian.
    ///
    /// # Panics
    /// When `weight` is not one of this model's.
    pub fn bytes(&self, weight: &Weight) -> Cow<'_, [u8]> {
        let bytes = &self.bytes[self.by_name[&weight.name]];
        Cow::Borrowed(held(
            bytes,
            &weight.name,
            &self.files,
            self.source.as_deref(),
        ))
    }

    /// As [`Model::bytes`], for use once: what is read for it is not kept.
    ///
    /// # Panics
    /// As [`Model::bytes`].
    pub fn read(&self, weight: &Weight) -> Cow<'_, [u8]> {
        match &self.bytes[self.by_name[&weight.name]] {
            Bytes::Mapped((file, range)) => {
                Cow::Owned(self.files.maps()[*file].read(range.clone()))
            }
            _ => self.bytes(weight),
        }
    }

    /// Where the bytes of a weight are in one of [`Model::files`]; `None` where they are not there as they are.
    pub fn place_of(&self, weight: &Weight) -> Option<(&Map, Range<usize>)> {
        match &self.bytes[*self.by_name.get(&weight.name)?] {
            Bytes::Mapped((file, range)) => Some((&self.files.maps()[*file], range.clone())),
            _ => None,
        }
    }

    /// The digest of every one of [`Model::weights`], in their order, on all cores; nothing of it is kept. `done` is told how many
    /// bytes were hashed.
    pub fn digests(&self, done: impl Fn(u64) + Sync) -> Vec<Digest> {
        let stretch = |bytes: &Bytes| match bytes {
            Bytes::Mapped((file, range)) => Some(Stretch {
                file: *file,
                range: range.clone(),
            }),
            _ => None,
        };
        let stretches: Vec<Stretch> = self.bytes.iter().filter_map(stretch).collect();
        let read = |file: usize, at: usize, into: &mut [u8]| {
            self.files.maps()[file].copy_to(at, into);
        };
        let mut hashed = digests_of(&stretches, read, &done).into_iter();
        (self.weights.iter().zip(&self.bytes))
            .map(|(weight, bytes)| {
                if matches!(bytes, Bytes::Mapped(_)) {
                    return hashed.next().expect("there is one for every stretch");
                }
                let bytes = self.bytes(weight);
                done(bytes.len() as u64);
                Digest::of(&bytes)
            })
            .collect()
    }

    /// Inputs that are not initializers, in graph order.
    pub fn inputs(&self) -> &[TensorDecl] {
        &self.inputs
    }

    /// Outputs, in graph order.
    pub fn outputs(&self) -> &[TensorDecl] {
        &self.outputs
    }

    /// Digest of all that an engine depends on except weight bytes.
    pub fn structure_digest(&self) -> Digest {
        self.structure
    }
}

/// The bytes of the constant `name`.
fn held<'a>(
    bytes: &'a Bytes,
    name: &str,
    files: &'a Files,
    source: Option<&'a dyn WeightBytes>,
) -> &'a [u8] {
    match bytes {
        Bytes::Mapped(place) => files.bytes(place),
        Bytes::Owned(bytes) => bytes,
        Bytes::Source => {
            source
                .and_then(|s| s.get(name))
                .expect("the source had it when the model was opened")
                .data
        }
    }
}

/// Parses the slim copy, and checks that there is a graph at all.
fn parse(
    slim: Result<wire::Slim, wire::At>,
    is_empty: bool,
    path: &Path,
) -> Result<(ModelProto, Vec<wire::Payload>), Error> {
    let slim = slim.map_err(|at| Error::Wire {
        path: path.to_owned(),
        offset: at.offset,
        fault: at.fault,
    })?;
    let broken = |source| Error::Protobuf {
        path: path.to_owned(),
        source,
    };
    let nodes = slim.nodes.map_err(broken)?;
    let mut proto = ModelProto::parse_from_bytes(&slim.message).map_err(broken)?;
    if let Some(graph) = proto.graph.as_mut() {
        graph.node = nodes;
    } else {
        return Err(Error::NotOnnx {
            path: path.to_owned(),
            looks_like: if is_empty {
                "an empty file"
            } else {
                "a protobuf message without a graph"
            },
            hint: Some("export or download the model again"),
        });
    }
    Ok((proto, slim.payloads))
}

/// Checks once that `source` has every constant whose bytes it must give.
fn check_source(constants: &[Constant], source: &dyn WeightBytes, problems: &mut Vec<Problem>) {
    let show = |dtype: Dtype, shape: &[usize]| format!("{dtype} {}", show_shape(shape));
    for c in constants
        .iter()
        .filter(|c| matches!(c.bytes, Bytes::Source))
    {
        let Some((dtype, shape, length)) = source.describe(&c.name) else {
            problems.push(Problem::WeightMissing {
                name: c.name.clone(),
            });
            continue;
        };
        let expected = element_count(&c.shape).and_then(|n| c.dtype.bytes_for(n));
        let found = if dtype != c.dtype || shape != c.shape {
            show(dtype, shape)
        } else if expected != Some(length) {
            format!("{} of {length} bytes", show(dtype, shape))
        } else {
            continue;
        };
        problems.push(Problem::WeightDiffers {
            name: c.name.clone(),
            expected: show(c.dtype, &c.shape),
            found,
        });
    }
}

/// `""` and `ai.onnx` name the same operators.
fn is_default_domain(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}
