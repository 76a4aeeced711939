//! Walks an ONNX file at protobuf wire level before the protobuf runtime sees it.
//!
//! Two purposes. It makes a *slim* copy of the message without big tensor payloads (they stay in the memory map, the copy
//! refers to them), so that weights are never copied by parsing. And it refuses what the protobuf runtime is weak at:
//! groups (unbounded recursion, RUSTSEC-2024-0437), deep nesting, lengths past the end, malformed varints.
//!
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>; field numbers:
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

use crate::fsx::Map;
use onnx_protobuf::{Message, NodeProto};
use std::ops::Range;

/// Messages nested deeper than this are refused. A Loop in a Loop takes three levels each; real models stay under 20.
const DEPTH_LIMIT: usize = 64;

/// Private field of `TensorProto` in the slim copy: index into [`Slim::payloads`]. The largest number that protobuf allows,
/// which ONNX does not use; a field of this number in the file itself is dropped, so it cannot be forged.
pub(super) const PAYLOAD_FIELD: u32 = (1 << 29) - 1;

/// Why bytes are not a well-formed ONNX protobuf message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// A varint is cut short or longer than ten bytes.
    #[error("a malformed varint")]
    Varint,
    /// A field reaches past the end of its message: `needed` bytes, `left` are there.
    #[error("a field of {needed} bytes where {left} are left")]
    PastEnd {
        /// Bytes that the field claims.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// A protobuf group, which ONNX never uses.
    #[error("a protobuf group, which ONNX does not use")]
    Group,
    /// A wire type that does not exist.
    #[error("the unknown wire type {0}")]
    WireType(u8),
    /// Field number 0, or above the limit of protobuf.
    #[error("the impossible field number {0}")]
    FieldNumber(u64),
    /// Messages nested too deeply.
    #[error("messages nested more than {limit} deep")]
    Depth {
        /// The most that is read.
        limit: usize,
    },
    /// A field that may stand once stands twice.
    #[error("a second `{field}`")]
    Repeated {
        /// As `Message.field`, in the names of `onnx.proto`.
        field: &'static str,
    },
}

/// A fault and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    pub offset: u64,
    pub fault: WireFault,
}

/// Which field of `TensorProto` a payload was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Raw,
    Floats,
    Doubles,
}

/// A payload that was left out of the slim copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    pub carrier: Carrier,
    pub range: Range<usize>,
}

/// The message without its big payloads.
#[derive(Debug)]
pub(super) struct Slim {
    /// Without the nodes of the graph.
    pub message: Vec<u8>,
    /// The nodes of the graph, in order, parsed one by one: the runtime keeps room for four of whatever may be repeated, which would be most of
    /// the memory of a graph of many nodes. Or why the first of them that cannot be parsed cannot.
    pub nodes: protobuf::Result<Vec<NodeProto>>,
    pub payloads: Vec<Payload>,
}

/// Bytes of which only what is looked at need be read.
pub(super) trait Data {
    /// How many there are.
    fn length(&self) -> usize;
    /// Those of a range inside of them.
    fn part(&self, range: Range<usize>) -> &[u8];
}

impl Data for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn part(&self, range: Range<usize>) -> &[u8] {
        &self[range]
    }
}

impl Data for Map {
    fn length(&self) -> usize {
        self.len()
    }

    fn part(&self, range: Range<usize>) -> &[u8] {
        &self[range]
    }
}

/// Walks `data`, a `ModelProto`, and leaves payloads of more than `inline_limit` bytes out of the copy; they are not read.
pub(super) fn slim<D: Data + ?Sized>(data: &D, inline_limit: usize) -> Result<Slim, At> {
    let mut walker = Walker {
        data,
        inline_limit,
        nodes: Ok(Vec::new()),
        node: Vec::new(),
        payloads: Vec::new(),
    };
    let mut message = Vec::new();
    walker.copy(Kind::Model, 0..data.length(), MODEL, &mut message)?;
    Ok(Slim {
        message,
        nodes: walker.nodes,
        payloads: walker.payloads,
    })
}

/// A message type of ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Training,
    Function,
    ValueInfo,
    Type,
    TensorType,
    ElementType,
    MapType,
    Shape,
    Annotation,
    Flat,
}

impl Kind {
    /// The message type of a length-delimited field; `None` for strings, bytes, packed numbers and unknown fields.
    pub(super) fn child(self, field: u64) -> Option<Kind> {
        use Kind::{
            Annotation, Attribute, ElementType, Flat, Function, Graph, MapType, Model, Node, Shape,
            SparseTensor, Tensor, TensorType, Training, Type, ValueInfo,
        };
        Some(match (self, field) {
            (Model, 7) | (Attribute, 6 | 11) | (Training, 1 | 2) => Graph,
            (Model, 20) => Training,
            (Model, 25) => Function,
            (Graph, 1) | (Function, 7) => Node,
            (Graph, 5) | (Attribute, 5 | 10) | (SparseTensor, 1 | 2) => Tensor,
            (Graph, 15) | (Attribute, 22 | 23) => SparseTensor,
            (Graph, 11..=13) | (Function, 12) => ValueInfo,
            (Graph, 14) => Annotation,
            (Node, 5) | (Function, 11) => Attribute,
            (Attribute, 14 | 15) | (ValueInfo | MapType, 2) | (ElementType, 1) => Type,
            (Type, 1 | 8) => TensorType,
            (Type, 4 | 9) => ElementType,
            (Type, 5) => MapType,
            (TensorType, 2) => Shape,
            // Opset imports, string pairs, segments, extents: no messages inside.
            (Model, 8 | 14)
            | (Function, 9 | 14)
            | (Tensor, 3 | 13 | 16)
            | (Graph, 16)
            | (Node, 9)
            | (ValueInfo, 4)
            | (Annotation, 2)
            | (Training, 3 | 4)
            | (Shape, 1) => Flat,
            _ => return None,
        })
    }

    /// Whether a tensor can be inside, so that the copy has to be rewritten.
    pub(super) fn holds_tensors(self) -> bool {
        matches!(
            self,
            Kind::Model
                | Kind::Graph
                | Kind::Node
                | Kind::Attribute
                | Kind::Tensor
                | Kind::SparseTensor
                | Kind::Training
                | Kind::Function
        )
    }

    /// Fields that protobuf would merge when they stand twice. Merging could mix references with inline data, and no
    /// writer does it.
    fn singular(self, field: u64) -> Option<&'static str> {
        Some(match (self, field) {
            (Kind::Model, 7) => "ModelProto.graph",
            (Kind::Attribute, 5) => "AttributeProto.t",
            (Kind::Attribute, 6) => "AttributeProto.g",
            (Kind::Attribute, 22) => "AttributeProto.sparse_tensor",
            (Kind::Tensor, 9) => "TensorProto.raw_data",
            (Kind::SparseTensor, 1) => "SparseTensorProto.values",
            (Kind::SparseTensor, 2) => "SparseTensorProto.indices",
            (Kind::Training, 1) => "TrainingInfoProto.initialization",
            (Kind::Training, 2) => "TrainingInfoProto.algorithm",
            _ => return None,
        })
    }
}

/// One field: its number, where it starts, and the payload of a length-delimited one.
pub(super) struct Field {
    pub number: u64,
    pub start: usize,
    pub end: usize,
    pub bytes: Option<Range<usize>>,
}

/// How deep the message of the model lies, and its graph.
const MODEL: usize = 1;
const GRAPH: usize = 2;

struct Walker<'a, D: ?Sized> {
    data: &'a D,
    inline_limit: usize,
    nodes: protobuf::Result<Vec<NodeProto>>,
    /// The node that is copied, and what is taken of the last one's memory.
    node: Vec<u8>,
    payloads: Vec<Payload>,
}

impl<D: Data + ?Sized> Walker<'_, D> {
    /// Copies the message at `range` to `out`, without big payloads.
    fn copy(
        &mut self,
        kind: Kind,
        range: Range<usize>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), At> {
        check_depth(depth, range.start)?;
        let elidable = if kind == Kind::Tensor && self.inline_limit != usize::MAX {
            self.elidable(range.clone())?
        } else {
            Vec::new()
        };
        let mut seen = Vec::new();
        let mut pos = range.start;
        while pos < range.end {
            let field = field(self.data, pos, range.end)?;
            pos = field.end;
            // Our own mark in a file that comes from outside would point at another tensor's
            // payload.
            if kind == Kind::Tensor && field.number == u64::from(PAYLOAD_FIELD) {
                continue;
            }
            let Some(bytes) = field.bytes else {
                out.extend_from_slice(self.data.part(field.start..field.end));
                continue;
            };
            if let Some(name) = kind.singular(field.number) {
                // Protobuf merges a second one into the first, or lets the last win; the payload
                // that was put aside would be the wrong one.
                if seen.contains(&field.number) {
                    return Err(At {
                        offset: field.start as u64,
                        fault: WireFault::Repeated { field: name },
                    });
                }
                seen.push(field.number);
            }
            if let Some((_, carrier)) = elidable
                .iter()
                .find(|(start, _)| *start == field.start)
                .copied()
            {
                put_varint(out, u64::from(PAYLOAD_FIELD) << 3);
                put_varint(out, self.payloads.len() as u64);
                self.payloads.push(Payload {
                    carrier,
                    range: bytes,
                });
                continue;
            }
            match kind.child(field.number) {
                // Only what can hold tensors is taken apart and written anew; everything else is
                // copied as it is.
                Some(Kind::Node) if kind == Kind::Graph && depth == GRAPH => {
                    self.node(bytes, depth + 1)?;
                }
                Some(child) if child.holds_tensors() => {
                    put_varint(out, field.number << 3 | 2);
                    self.copy_within(child, bytes, depth + 1, out)?;
                }
                Some(child) => {
                    self.check(child, bytes, depth + 1)?;
                    out.extend_from_slice(self.data.part(field.start..field.end));
                }
                None => out.extend_from_slice(self.data.part(field.start..field.end)),
            }
        }
        Ok(())
    }

    /// Copies the message at `range` to `out`, its new length before it.
    fn copy_within(
        &mut self,
        kind: Kind,
        range: Range<usize>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), At> {
        // A reference is shorter than a payload that is left out, so that the copy's length needs no more room than that of what is copied.
        let (at, most) = (out.len(), varint_length(range.len() as u64));
        out.resize(at + most, 0);
        self.copy_all(kind, range, depth, out)?;
        let length = (out.len() - at - most) as u64;
        let needed = varint_length(length);
        if needed < most {
            out.drain(at..at + most - needed);
        }
        let mut rest = length;
        for byte in &mut out[at..at + needed] {
            *byte = (rest & 0x7f) as u8 | 0x80;
            rest >>= 7;
        }
        out[at + needed - 1] &= 0x7f;
        Ok(())
    }

    /// As [`Walker::copy`], of bytes at hand where the message is too short to have a big payload.
    fn copy_all(
        &mut self,
        kind: Kind,
        range: Range<usize>,
        depth: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), At> {
        let short = range.len() <= self.inline_limit && self.inline_limit != usize::MAX;
        // Nodes of the graph are put aside here and nowhere else.
        if !short || depth <= GRAPH {
            return self.copy(kind, range, depth, out);
        }
        let start = range.start as u64;
        let data = self.data.part(range);
        let mut walker = Walker {
            data,
            inline_limit: usize::MAX,
            nodes: Ok(Vec::new()),
            node: Vec::new(),
            payloads: Vec::new(),
        };
        let copied = walker.copy(kind, 0..data.len(), depth, out);
        copied.map_err(|at| At {
            offset: at.offset + start,
            ..at
        })
    }

    /// Parses the node of the graph at `range`.
    fn node(&mut self, range: Range<usize>, depth: usize) -> Result<(), At> {
        let mut copied = std::mem::take(&mut self.node);
        copied.clear();
        self.copy_all(Kind::Node, range, depth, &mut copied)?;
        if let Ok(nodes) = &mut self.nodes {
            match NodeProto::parse_from_bytes(&copied) {
                Ok(mut node) => {
                    node.input.shrink_to_fit();
                    node.output.shrink_to_fit();
                    node.attribute.shrink_to_fit();
                    nodes.push(node);
                }
                Err(e) => self.nodes = Err(e),
            }
        }
        self.node = copied;
        Ok(())
    }

    /// Checks a message that is copied as it is.
    fn check(&self, kind: Kind, range: Range<usize>, depth: usize) -> Result<(), At> {
        check_depth(depth, range.start)?;
        let mut pos = range.start;
        while pos < range.end {
            let field = field(self.data, pos, range.end)?;
            pos = field.end;
            if let (Some(bytes), Some(child)) = (field.bytes, kind.child(field.number)) {
                self.check(child, bytes, depth + 1)?;
            }
        }
        Ok(())
    }

    /// The fields of a tensor that can stay in the map: start offset and carrier. Packed floats are, byte for byte,
    /// little-endian row-major data; in several chunks they would not be contiguous.
    fn elidable(&self, range: Range<usize>) -> Result<Vec<(usize, Carrier)>, At> {
        let mut found: Vec<(usize, Carrier)> = Vec::new();
        let mut chunks = [0usize; 2];
        let mut pos = range.start;
        while pos < range.end {
            let field = field(self.data, pos, range.end)?;
            pos = field.end;
            let carrier = match field.number {
                9 => Carrier::Raw,
                4 => Carrier::Floats,
                10 => Carrier::Doubles,
                _ => continue,
            };
            if carrier != Carrier::Raw {
                chunks[usize::from(carrier == Carrier::Doubles)] += 1;
            }
            if field.bytes.is_some_and(|b| b.len() > self.inline_limit) {
                found.push((field.start, carrier));
            }
        }
        // A packed field may come in several chunks, which the runtime joins; only one whole chunk
        // can be put aside.
        found.retain(|(_, carrier)| match carrier {
            Carrier::Raw => true,
            Carrier::Floats => chunks[0] == 1,
            Carrier::Doubles => chunks[1] == 1,
        });
        Ok(found)
    }
}

/// The field of the message in `data` that starts at `start`; the message ends at `end`.
pub(super) fn field<D: Data + ?Sized>(data: &D, start: usize, end: usize) -> Result<Field, At> {
    let at = |fault| At {
        offset: start as u64,
        fault,
    };
    let mut pos = start;
    let tag = varint(data, &mut pos, end).ok_or(at(WireFault::Varint))?;
    let number = tag >> 3;
    // Protobuf has 29 bits for it, from 1 on.
    if number == 0 || number > u64::from(PAYLOAD_FIELD) {
        return Err(at(WireFault::FieldNumber(number)));
    }
    let needed = match tag & 7 {
        0 => {
            varint(data, &mut pos, end).ok_or(at(WireFault::Varint))?;
            0
        }
        1 => 8,
        2 => varint(data, &mut pos, end).ok_or(at(WireFault::Varint))?,
        5 => 4,
        // The runtime recurses on groups without a bound.
        3 | 4 => return Err(at(WireFault::Group)),
        other => return Err(at(WireFault::WireType(other as u8))),
    };
    let left = (end - pos) as u64;
    if needed > left {
        return Err(at(WireFault::PastEnd { needed, left }));
    }
    let bytes = pos..pos + needed as usize;
    Ok(Field {
        number,
        start,
        end: bytes.end,
        bytes: (tag & 7 == 2).then_some(bytes),
    })
}

/// At most ten bytes, of which the last holds one bit; `None` when cut short or too long.
fn varint<D: Data + ?Sized>(data: &D, pos: &mut usize, end: usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        if *pos >= end {
            return None;
        }
        let byte = data.part(*pos..*pos + 1)[0];
        *pos += 1;
        // The tenth byte has room for one bit of 64.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn check_depth(depth: usize, offset: usize) -> Result<(), At> {
    if depth > DEPTH_LIMIT {
        return Err(At {
            offset: offset as u64,
            fault: WireFault::Depth { limit: DEPTH_LIMIT },
        });
    }
    Ok(())
}

/// How many bytes `value` takes as a varint.
fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `value` as a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests;
