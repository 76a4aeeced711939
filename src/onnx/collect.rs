//! Takes every constant tensor out of a parsed model, in file order, subgraphs included, and names them.
//!
//! Order: the initializers of a graph, then its nodes; a node with subgraphs gives theirs where it stands.
//! Tensors of model-local functions are not constants of the model (a function may stand in it many times); they and the
//! tensors in other attributes (`ConstantOfShape.value`) stay inline.

use super::error::Problem;
use super::tensor::{Bytes, MARK, Taken, Taking};
use super::{Origin, is_default_domain};
use crate::maps::QuickMap;
use crate::tensor::Dtype;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
};
use protobuf::MessageField;
use std::collections::{HashMap, HashSet};

/// A constant tensor, taken out of the message; its place there is marked with its index.
#[derive(Debug)]
pub(super) struct Constant {
    /// Unique name; see [`super::Weight::name`].
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Bytes,
    pub origin: Origin,
    /// Subgraph that it stands in; empty in the main graph.
    path: String,
}

/// Takes all constants out of `proto`. Problems are added to `problems`.
pub(super) fn take_constants(
    proto: &mut ModelProto,
    taking: &mut Taking<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<Constant> {
    // Training graphs are no part of inference, and their tensors were left in the map.
    proto.training_info.clear();
    let mut collector = Collector {
        taking,
        problems,
        constants: Vec::new(),
    };
    if let Some(graph) = proto.graph.as_mut() {
        collector.graph(graph, Some(""));
    }
    // Without a path: what a function holds is decoded and checked, and stays where it is.
    for function in &mut proto.functions {
        for node in &mut function.node {
            collector.node(node, None);
        }
        for attribute in &mut function.attribute_proto {
            collector.attribute(attribute, &function.name, None);
        }
    }
    let mut constants = collector.constants;
    make_unique(&mut constants);
    constants
}

struct Collector<'a, 'b> {
    taking: &'a mut Taking<'b>,
    problems: &'a mut Vec<Problem>,
    constants: Vec<Constant>,
}

impl Collector<'_, '_> {
    /// `path` is `None` inside functions, where tensors stay inline.
    fn graph(&mut self, graph: &mut GraphProto, path: Option<&str>) {
        // Reported and not skipped: a weight that is not seen is a weight whose change is lost.
        for sparse in &graph.sparse_initializer {
            self.problems.push(Problem::Sparse {
                tensor: sparse.values.name.clone(),
            });
        }
        for (i, tensor) in graph.initializer.iter_mut().enumerate() {
            if tensor.name.is_empty() {
                self.problems.push(Problem::Unnamed {
                    what: format!("initializer {i} of {}", show_graph(path)),
                });
            }
            let name = tensor.name.clone();
            match path {
                Some(path) => self.constant(name, tensor, Origin::Initializer, path),
                None => self.inline(&name, tensor),
            }
        }
        for node in &mut graph.node {
            self.node(node, path);
        }
    }

    fn node(&mut self, node: &mut NodeProto, path: Option<&str>) {
        // An operator of the same name in another domain may mean anything.
        if node.op_type == "Constant" && is_default_domain(&node.domain) {
            match one_value(node) {
                Ok(()) => {}
                Err(reason) => {
                    let output = first_output(&node.output).to_owned();
                    self.problems.push(Problem::Constant { output, reason });
                    return;
                }
            }
            if let (Some(path), Some(tensor)) = (
                path,
                node.attribute
                    .iter_mut()
                    .find(|a| a.name == "value")
                    .and_then(|a| a.t.as_mut()),
            ) {
                let output = first_output(&node.output).to_owned();
                self.constant(output, tensor, Origin::ConstantNode, path);
                return;
            }
        }
        for attribute in &mut node.attribute {
            self.attribute(attribute, first_output(&node.output), path);
        }
    }

    /// `owner` is the node's first output: names of nodes may be missing or equal, and that one is unique in its graph. `path` is that of
    /// the graph.
    fn attribute(&mut self, attribute: &mut AttributeProto, owner: &str, path: Option<&str>) {
        let missing = match attribute.type_.enum_value() {
            Ok(AttributeType::TENSOR) => attribute.t.is_none(),
            Ok(AttributeType::GRAPH) => attribute.g.is_none(),
            Ok(AttributeType::TYPE_PROTO) => attribute.tp.is_none(),
            _ => false,
        };
        // In a function, an attribute may stand for one that the caller gives, and has no value
        // then.
        if missing && attribute.ref_attr_name.is_empty() {
            self.problems.push(Problem::Attribute {
                node: format!("`{owner}`"),
                attribute: attribute.name.clone(),
            });
        }
        if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
            self.problems.push(Problem::Sparse {
                tensor: format!("{owner}.{}", attribute.name),
            });
        }
        let tensors = attribute.t.as_mut().into_iter();
        for tensor in tensors.chain(&mut attribute.tensors) {
            self.inline(&format!("{owner}.{}", attribute.name), tensor);
        }
        let path_of = |name: &str| path.map(|p| join(&join(p, owner), name));
        if let Some(graph) = attribute.g.as_mut() {
            self.graph(graph, path_of(&attribute.name).as_deref());
        }
        for (i, graph) in attribute.graphs.iter_mut().enumerate() {
            let path = path_of(&format!("{}[{i}]", attribute.name));
            self.graph(graph, path.as_deref());
        }
    }

    fn constant(&mut self, name: String, tensor: &mut TensorProto, origin: Origin, path: &str) {
        match self.taking.take(&name, tensor) {
            Ok(Some(Taken {
                dtype,
                shape,
                bytes,
            })) => {
                set_mark(tensor, self.constants.len().to_string());
                self.constants.push(Constant {
                    name,
                    dtype,
                    shape,
                    bytes,
                    origin,
                    path: path.to_owned(),
                });
            }
            Ok(None) => {}
            Err(problem) => self.problems.push(problem),
        }
    }

    /// Leaves the payload inline, as little-endian `raw_data`.
    fn inline(&mut self, name: &str, tensor: &mut TensorProto) {
        match self.taking.take(name, tensor) {
            Ok(Some(taken)) => match taken.bytes {
                Bytes::Owned(bytes) => tensor.raw_data = bytes,
                Bytes::Mapped(place) => tensor.raw_data = self.taking.files.bytes(&place).to_vec(),
                Bytes::Source => self
                    .problems
                    .push(Problem::WeightMissing { name: name.into() }),
            },
            Ok(None) => {}
            Err(problem) => self.problems.push(problem),
        }
    }
}

/// The first output that has a name, or an empty one.
fn first_output(outputs: &[String]) -> &str {
    outputs
        .iter()
        .find(|o| !o.is_empty())
        .map_or("", String::as_str)
}

/// Checks that a Constant node has one output and one value, and turns numbers in attributes of their own
/// (`value_float`, `value_ints`, …) into the tensor `value` that they stand for.
fn one_value(node: &mut NodeProto) -> Result<(), String> {
    if node.output.len() != 1 || node.output[0].is_empty() {
        return Err(format!("{} outputs where one is needed", node.output.len()));
    }
    let mut values = node
        .attribute
        .iter_mut()
        .filter(|a| a.name == "sparse_value" || a.name.starts_with("value"));
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err("not exactly one value".into());
    };
    if !value.ref_attr_name.is_empty() {
        return Ok(());
    }
    let (dtype, dims, bytes): (Dtype, Vec<i64>, Vec<u8>) = match value.name.as_str() {
        "value_float" => (Dtype::F32, vec![], value.f.to_le_bytes().to_vec()),
        "value_int" => (Dtype::I64, vec![], value.i.to_le_bytes().to_vec()),
        "value_floats" => (
            Dtype::F32,
            vec![value.floats.len() as i64],
            value.floats.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        "value_ints" => (
            Dtype::I64,
            vec![value.ints.len() as i64],
            value.ints.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        "value" if value.t.is_none() => return Err("a `value` without a tensor".into()),
        // Strings are no numbers and stay as they are.
        "value" | "value_string" | "value_strings" => return Ok(()),
        "sparse_value" => return Err("a sparse value, which is not supported".into()),
        other => return Err(format!("the unknown attribute `{other}`")),
    };
    // Every constant has one form from here on, whichever attribute the exporter
    // took.
    *value = AttributeProto {
        name: "value".into(),
        type_: AttributeType::TENSOR.into(),
        t: MessageField::some(TensorProto {
            data_type: dtype.onnx(),
            dims,
            raw_data: bytes,
            ..TensorProto::default()
        }),
        ..AttributeProto::default()
    };
    Ok(())
}

/// Gives each constant of a subgraph whose plain name stands in another graph too a name with its path.
/// All of them, so that names do not depend on the order of nodes.
fn make_unique(constants: &mut [Constant]) {
    // Names at the top stay as the exporter wrote them, as do those that occur once: checkpoints and users know those.
    if constants.iter().all(|c| c.path.is_empty()) {
        return;
    }
    let mut count: QuickMap<&str, usize> = QuickMap::default();
    for c in constants.iter() {
        *count.entry(&c.name).or_default() += 1;
    }
    let stays = |c: &Constant| c.path.is_empty() || count[c.name.as_str()] == 1;
    let stay: Vec<bool> = constants.iter().map(stays).collect();
    let mut taken: HashSet<String> = (constants.iter().zip(&stay))
        .filter(|(_, stays)| **stays)
        .map(|(c, _)| c.name.clone())
        .collect();
    let mut suffix: HashMap<String, usize> = HashMap::new();
    for (c, _) in constants.iter_mut().zip(stay).filter(|(_, stays)| !stays) {
        let base = format!("{}::{}", c.path, c.name);
        let mut name = base.clone();
        // A plain name may look like a path; counting on from the last suffix keeps this linear.
        while !taken.insert(name.clone()) {
            let n = suffix.entry(base.clone()).or_insert(1);
            *n += 1;
            name = format!("{base}#{n}");
        }
        c.name = name;
    }
}

/// Calls `f` with every tensor that [`take_constants`] took, in its order. For a model that was assembled.
pub(super) fn for_each_constant(proto: &mut ModelProto, f: &mut impl FnMut(&mut TensorProto)) {
    fn graph(g: &mut GraphProto, f: &mut impl FnMut(&mut TensorProto)) {
        for tensor in g.initializer.iter_mut().filter(|t| holds_numbers(t)) {
            f(tensor);
        }
        for node in &mut g.node {
            let constant = node.op_type == "Constant" && is_default_domain(&node.domain);
            for attribute in &mut node.attribute {
                if constant && let Some(tensor) = attribute.t.as_mut().filter(|t| holds_numbers(t))
                {
                    f(tensor);
                }
                let inner = attribute.g.as_mut().into_iter();
                inner
                    .chain(&mut attribute.graphs)
                    .for_each(|inner| graph(inner, f));
            }
        }
    }
    if let Some(g) = proto.graph.as_mut() {
        graph(g, f);
    }
}

/// Strings are no constants of ours: they stay where they are.
fn holds_numbers(tensor: &TensorProto) -> bool {
    tensor.data_type != onnx_protobuf::tensor_proto::DataType::STRING as i32
}

/// Calls `f` with every marked tensor of the model and the value of its mark.
pub(super) fn for_each_marked(proto: &mut ModelProto, f: &mut impl FnMut(&mut TensorProto, &str)) {
    fn graph(g: &mut GraphProto, f: &mut impl FnMut(&mut TensorProto, &str)) {
        for tensor in &mut g.initializer {
            marked(tensor, f);
        }
        for attribute in g.node.iter_mut().flat_map(|n| &mut n.attribute) {
            if let Some(tensor) = attribute.t.as_mut() {
                marked(tensor, f);
            }
            for inner in attribute
                .g
                .as_mut()
                .into_iter()
                .chain(&mut attribute.graphs)
            {
                graph(inner, f);
            }
        }
    }
    fn marked(tensor: &mut TensorProto, f: &mut impl FnMut(&mut TensorProto, &str)) {
        if let Some(value) = mark(tensor).map(str::to_owned) {
            f(tensor, &value);
        }
    }
    if let Some(g) = proto.graph.as_mut() {
        graph(g, f);
    }
}

/// The value of the mark of a tensor whose bytes are held elsewhere.
pub(super) fn mark(tensor: &TensorProto) -> Option<&str> {
    match tensor.external_data.as_slice() {
        [entry] if entry.key == MARK => Some(&entry.value),
        _ => None,
    }
}

/// Marks `tensor`, which has no data, with `value`.
pub(super) fn set_mark(tensor: &mut TensorProto, value: String) {
    if let [entry] = tensor.external_data.as_mut_slice()
        && entry.key == MARK
    {
        entry.value = value;
        return;
    }
    tensor.data_location = DataLocation::EXTERNAL.into();
    tensor.external_data = vec![StringStringEntryProto {
        key: MARK.into(),
        value,
        ..StringStringEntryProto::default()
    }];
}

/// Puts `bytes` into `tensor`, and takes its mark away.
pub(super) fn set_bytes(tensor: &mut TensorProto, bytes: Vec<u8>) {
    tensor.data_location = DataLocation::DEFAULT.into();
    tensor.external_data.clear();
    tensor.raw_data = bytes;
}

fn join(path: &str, part: &str) -> String {
    if path.is_empty() {
        part.to_owned()
    } else {
        format!("{path}/{part}")
    }
}

fn show_graph(path: Option<&str>) -> String {
    match path {
        Some("") => "the main graph".into(),
        Some(path) => format!("the subgraph `{path}`"),
        None => "a subgraph of a function".into(),
    }
}
