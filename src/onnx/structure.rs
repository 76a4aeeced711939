//! The structure digest: one digest of all that an engine depends on except weight bytes.
//!
//! Covered: opset imports, operators with domain and overload, attributes as they are written, edges, subgraphs, model-local
//! functions, names, dtypes and extents of inputs and outputs, [`Weight::name`](super::Weight::name), dtype, shape and role of
//! every initializer, the same for Constant nodes that are weights (engines name them by their output), and the bytes of
//! structural constants.
//!
//! Not covered: bytes of weights and unused constants, IR version, producer, metadata, doc strings, `value_info`,
//! quantization annotations, names of nodes and of values in between, and the order of nodes where the topology is the same.
//!
//! How: every value gets a digest from what produces it (an input's name, a constant's name, or the digest of the node and
//! which output), so a node's digest covers everything above it. A body is the sorted multiset of its nodes' digests, so
//! equal nodes still count. Two equal nodes compute the same, and which of them is read makes no difference; for operators
//! where it does (random ones, and unknown ones that might be), the digest also counts how many equal ones came before.

use super::collect::Constant;
use super::net::{Net, Node, Value, domain};
use super::{Origin, Role, is_default_domain};
use crate::tensor::{Digest, LabelledHasher};
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{
    AttributeProto, ModelProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    type_proto,
};
use std::collections::HashMap;

/// Name of the format: part of the digest, and of the engine keys that are made of it.
const FORMAT: &str = "trtmut.structure/1";

/// The digest of `proto`, which `net` resolves. `bytes` gives the bytes of a constant by its index.
pub(super) fn digest<'b>(
    proto: &ModelProto,
    net: &Net<'_>,
    constants: &[Constant],
    roles: &[Role],
    bytes: impl Fn(usize) -> &'b [u8],
) -> Digest {
    let constant = |i: usize| {
        let (c, role) = (&constants[i], &roles[i]);
        let mut h = LabelledHasher::new("constant");
        // Engines know initializers and weights by name; a structural constant of a node is known
        // by its bytes.
        let named = c.origin == Origin::Initializer || !matches!(role, Role::Structural { .. });
        if named {
            h.field("name", c.name.as_bytes());
        }
        h.field("dtype", c.dtype.name().as_bytes());
        for &d in &c.shape {
            h.field("extent", &(d as u64).to_le_bytes());
        }
        match role {
            Role::Weight => h.field("role", b"weight"),
            Role::Unused => h.field("role", b"unused"),
            Role::Structural { .. } => h
                .field("role", b"structural")
                .field("bytes", &Digest::of(bytes(i)).0),
        };
        h.finish()
    };
    let mut hasher = Structure {
        net,
        constants: (0..constants.len()).map(constant).collect(),
        values: vec![None; net.values.len()],
        random_functions: Vec::new(),
    };
    let mut functions = Vec::new();
    // Callees come first, so that a caller knows whether they are random.
    for &(function, body) in &net.functions {
        let (inner, random) = hasher.body(body);
        hasher.random_functions.push(random);
        let mut h = LabelledHasher::new("function");
        h.field("domain", domain(&function.domain).as_bytes())
            .field("name", function.name.as_bytes())
            .field("overload", function.overload.as_bytes());
        opsets(&mut h, &function.opset_import);
        // Sorted here and below: the order of attributes means nothing, and exporters differ in it.
        let mut attributes: Vec<&String> = function.attribute.iter().collect();
        attributes.sort();
        for name in attributes {
            h.field("attribute", name.as_bytes());
        }
        let mut defaults: Vec<(&str, Digest)> = function
            .attribute_proto
            .iter()
            .map(|a| (a.name.as_str(), attribute(a, &[])))
            .collect();
        defaults.sort();
        for (_, digest) in defaults {
            h.field("default", &digest.0);
        }
        h.field("body", &inner.0);
        functions.push(h.finish());
    }
    // Functions are found by name, in whatever order they stand.
    functions.sort();
    let (main, _) = hasher.body(net.main);
    let mut h = LabelledHasher::new(FORMAT);
    opsets(&mut h, &proto.opset_import);
    for f in functions {
        h.field("function", &f.0);
    }
    h.field("graph", &main.0);
    h.finish()
}

fn opsets(h: &mut LabelledHasher, imports: &[OperatorSetIdProto]) {
    let mut imports: Vec<(&str, i64)> = imports
        .iter()
        .map(|o| (domain(&o.domain), o.version))
        .collect();
    imports.sort_unstable();
    // The default domain has two names, and both may be imported.
    imports.dedup();
    for (domain, version) in imports {
        h.field("opset", domain.as_bytes())
            .field("version", &version.to_le_bytes());
    }
}

struct Structure<'n, 'a> {
    net: &'n Net<'a>,
    constants: Vec<Digest>,
    values: Vec<Option<Digest>>,
    /// For each function, whether two calls with equal inputs may differ.
    random_functions: Vec<bool>,
}

impl Structure<'_, '_> {
    /// The digest of a body, and whether something in it is random. Its inputs are known by their place; those of the main
    /// graph by their names.
    fn body(&mut self, id: usize) -> (Digest, bool) {
        let net = self.net;
        let body = &net.bodies[id];
        let is_main = id == net.main;
        let mut h = LabelledHasher::new("body");
        for (i, &value) in body.inputs.iter().enumerate() {
            let declared = body.graph.map(|g| &g.input[i]);
            let mut input = LabelledHasher::new("input");
            match declared {
                // Callers bind the model's inputs by name; those of a body are bound by place.
                Some(declared) if is_main => input.field("name", declared.name.as_bytes()),
                _ => input
                    .field("depth", &(body.depth as u64).to_le_bytes())
                    .field("index", &(i as u64).to_le_bytes()),
            };
            let digest = input.finish();
            // An input with a default stays the constant that it is by default.
            if let Value::Constant(c) = net.values[value] {
                h.field("default", &self.constants[c].0);
            } else {
                self.values[value] = Some(digest);
                h.field("input", &digest.0);
            }
            if let Some(declared) = declared {
                h.field("type", &type_(declared.type_.as_ref()).0);
            }
        }
        let mut initializers = Vec::new();
        for &value in &body.initializers {
            let digest = match (net.values[value], body.graph) {
                (Value::Constant(c), _) => self.constants[c],
                (Value::Text { index, .. }, Some(graph)) => {
                    let t = &graph.initializer[index];
                    let mut text = LabelledHasher::new("text");
                    text.field("name", t.name.as_bytes())
                        .field("tensor", &tensor(t).0);
                    text.finish()
                }
                _ => unreachable!("initializers are constants or strings"),
            };
            self.values[value] = Some(digest);
            initializers.push(digest);
        }
        // They are named, so the order in which a file lists them means nothing.
        initializers.sort_unstable();
        let mut any_random = false;
        let mut nodes = Vec::with_capacity(body.order.len());
        let mut equal: HashMap<Digest, u64> = HashMap::new();
        for &n in &body.order {
            let (mut digest, random) = self.node(n);
            if random {
                any_random = true;
                let before = equal.entry(digest).or_default();
                digest = LabelledHasher::new("random")
                    .field("node", &digest.0)
                    .field("before", &before.to_le_bytes())
                    .finish();
                *before += 1;
            }
            nodes.push(digest);
            for (i, value) in net.nodes[n].outputs.iter().enumerate() {
                if let Some(value) = *value {
                    let output = LabelledHasher::new("output")
                        .field("node", &digest.0)
                        .field("index", &(i as u64).to_le_bytes())
                        .finish();
                    self.values[value] = Some(output);
                }
            }
        }
        // Each digest has what is above the node in it, so any order of the same topology gives the
        // same list.
        nodes.sort_unstable();
        for (i, &value) in body.outputs.iter().enumerate() {
            if let Some(declared) = body.graph.map(|g| &g.output[i]) {
                if is_main {
                    h.field("output", declared.name.as_bytes());
                }
                h.field("type", &type_(declared.type_.as_ref()).0);
            }
            h.field("value", &self.value(value).0);
        }
        for digest in initializers {
            h.field("initializer", &digest.0);
        }
        for digest in nodes {
            h.field("node", &digest.0);
        }
        (h.finish(), any_random)
    }

    /// A node's digest, and whether two such nodes with equal inputs may differ.
    fn node(&mut self, id: usize) -> (Digest, bool) {
        let net = self.net;
        let node = &net.nodes[id];
        let proto = node.proto;
        if let Some(c) = node.constant {
            return (self.constants[c], false);
        }
        let mut random = match node.call {
            Some(function) => self.random_functions[function],
            None => may_be_random(node),
        };
        let mut h = LabelledHasher::new("node");
        h.field("operator", proto.op_type.as_bytes())
            .field("domain", domain(&proto.domain).as_bytes())
            .field("overload", proto.overload.as_bytes());
        // An optional input that is left out at the end may be written as an empty name, or not at
        // all.
        for value in trimmed(&node.inputs) {
            h.field("input", &self.value(*value).0);
        }
        for value in trimmed(&node.outputs) {
            h.field("output", &[u8::from(value.is_some())]);
        }
        let mut inner: Vec<Vec<Digest>> = vec![Vec::new(); proto.attribute.len()];
        for &(attribute, body) in &node.bodies {
            let (digest, random_inside) = self.body(body);
            inner[attribute].push(digest);
            random |= random_inside;
        }
        let mut attributes: Vec<(&str, Digest)> = proto
            .attribute
            .iter()
            .zip(&inner)
            .map(|(a, graphs)| (a.name.as_str(), attribute(a, graphs)))
            .collect();
        attributes.sort_unstable();
        for (_, digest) in attributes {
            h.field("attribute", &digest.0);
        }
        (h.finish(), random)
    }

    /// What is known of a value; an omitted optional input has a digest of its own.
    fn value(&self, value: Option<usize>) -> Digest {
        match value {
            Some(v) => self.values[v].expect("producers come first"),
            None => LabelledHasher::new("omitted").finish(),
        }
    }
}

/// Without omitted values at the end, which mean the same as none.
fn trimmed(values: &[Option<usize>]) -> &[Option<usize>] {
    let n = values
        .iter()
        .rposition(Option::is_some)
        .map_or(0, |i| i + 1);
    &values[..n]
}

/// Operators whose result is not a function of their inputs; unknown ones are taken for such.
fn may_be_random(node: &Node<'_>) -> bool {
    // What an unknown operator does is not known, so it is taken for the harder case.
    !is_default_domain(&node.proto.domain)
        || node.proto.op_type.starts_with("Random")
        || matches!(
            node.proto.op_type.as_str(),
            "Multinomial" | "Bernoulli" | "Dropout"
        )
}

/// An attribute, with the digests of its subgraphs.
fn attribute(a: &AttributeProto, graphs: &[Digest]) -> Digest {
    let mut h = LabelledHasher::new("attribute");
    h.field("name", a.name.as_bytes())
        .field("type", &a.type_.value().to_le_bytes())
        .field("reference", a.ref_attr_name.as_bytes())
        .field("f", &a.f.to_le_bytes())
        .field("i", &a.i.to_le_bytes())
        .field("s", &a.s);
    for v in &a.floats {
        h.field("floats", &v.to_le_bytes());
    }
    for v in &a.ints {
        h.field("ints", &v.to_le_bytes());
    }
    for v in &a.strings {
        h.field("strings", v);
    }
    for t in &a.t {
        h.field("t", &tensor(t).0);
    }
    for t in &a.tensors {
        h.field("tensors", &tensor(t).0);
    }
    for g in graphs {
        h.field("graph", &g.0);
    }
    for t in &a.tp {
        h.field("tp", &type_(Some(t)).0);
    }
    for t in &a.type_protos {
        h.field("type_protos", &type_(Some(t)).0);
    }
    h.finish()
}

/// A tensor whose data is inline.
fn tensor(t: &TensorProto) -> Digest {
    let mut h = LabelledHasher::new("tensor");
    h.field("dtype", &t.data_type.to_le_bytes());
    for d in &t.dims {
        h.field("extent", &d.to_le_bytes());
    }
    h.field("bytes", &Digest::of(&t.raw_data).0);
    for s in &t.string_data {
        h.field("string", s);
    }
    h.finish()
}

fn type_(t: Option<&TypeProto>) -> Digest {
    let mut h = LabelledHasher::new("type");
    match t.and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => {
            h.field("tensor", &t.elem_type.to_le_bytes());
            shape(&mut h, t.shape.as_ref());
        }
        Some(type_proto::Value::SparseTensorType(t)) => {
            h.field("sparse", &t.elem_type.to_le_bytes());
            shape(&mut h, t.shape.as_ref());
        }
        Some(type_proto::Value::SequenceType(s)) => {
            h.field("sequence", &type_(s.elem_type.as_ref()).0);
        }
        Some(type_proto::Value::OptionalType(o)) => {
            h.field("optional", &type_(o.elem_type.as_ref()).0);
        }
        Some(type_proto::Value::MapType(m)) => {
            h.field("map", &m.key_type.to_le_bytes())
                .field("value", &type_(m.value_type.as_ref()).0);
        }
        Some(_) | None => {}
    }
    h.finish()
}

/// A stated shape, also an empty one, is not the same as none; a negative extent is an unknown one.
fn shape(h: &mut LabelledHasher, shape: Option<&TensorShapeProto>) {
    let Some(shape) = shape else { return };
    h.field("rank", &(shape.dim.len() as u64).to_le_bytes());
    for d in &shape.dim {
        match &d.value {
            Some(dimension::Value::DimValue(n)) if *n >= 0 => h.field("size", &n.to_le_bytes()),
            Some(dimension::Value::DimParam(p)) if !p.is_empty() => h.field("symbol", p.as_bytes()),
            _ => h.field("unknown", b""),
        };
    }
}

#[cfg(test)]
mod tests;
