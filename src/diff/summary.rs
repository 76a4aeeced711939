//! What a graph is, in few words: enough to say what changed when its structure digest did.
//!
//! Names of values and nodes, documentation and the order of nodes do not count. The topology is a digest of how nodes are
//! connected that leaves attributes out; attributes are digested beside it, node by node, in the same canonical order.

use crate::maps::QuickMap;
use crate::onnx::{Model, Role};
use crate::tensor::{Digest, Dtype, LabelledHasher, TensorDecl};
use onnx_protobuf::{AttributeProto, GraphProto, Message, NodeProto};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One node: what it does and with which attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFact {
    /// `domain::Operator`, without the domain for ONNX's own.
    pub operator: Arc<str>,
    /// Its name, for messages.
    pub name: String,
    /// Digest of where its inputs come from, attributes left out; it orders nodes.
    pub place: Digest,
    /// By attribute name, in the order of the names: digest of the value.
    pub attributes: Vec<(Arc<str>, Digest)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// [`Model::structure_digest`]: decides whether anything changed.
    pub structure: Digest,
    /// Says what changed; none where the model itself is not at hand.
    pub summary: Option<Summary>,
}

/// What a graph consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Versions of operator sets by domain; empty domain for ONNX's own.
    pub opsets: BTreeMap<String, i64>,
    /// Inputs, in graph order.
    pub inputs: Vec<TensorDecl>,
    /// Outputs, in graph order.
    pub outputs: Vec<TensorDecl>,
    /// Nodes of the graph and its subgraphs, ordered by place and operator; none after [`Graph::beside`] one of the same structure.
    pub nodes: Vec<NodeFact>,
    /// Digest of names and documentation.
    pub metadata: Digest,
}

/// How a constant tensor may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A refit can change it.
    Weight,
    /// Part of the structure.
    Baked {
        /// Which operator's input, and why.
        why: String,
    },
    /// A weight that this engine does not let change.
    Fixed { why: String },
    /// No node reads it.
    Unused,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightFact {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Digest of its bytes.
    pub digest: Digest,
    /// How it may change.
    pub kind: Kind,
    /// How many nodes read it; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<usize>,
    /// Checkpoint tensors that it is computed from, when there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derived_from: Vec<String>,
}

impl Graph {
    pub fn of(model: &Model) -> Graph {
        Graph::summed_up(model, true)
    }

    /// As [`Graph::of`], to be compared with one of the structure `other`: of the same, nobody asks for the nodes.
    pub fn beside(model: &Model, other: Digest) -> Graph {
        Graph::summed_up(model, model.structure_digest() != other)
    }

    fn summed_up(model: &Model, with_nodes: bool) -> Graph {
        let proto = model.proto();
        let opsets = (proto.opset_import.iter())
            .map(|o| (domain(&o.domain).to_owned(), o.version))
            .collect();
        let mut nodes = Vec::new();
        let mut metadata = LabelledHasher::new("trtmut.metadata/1");
        metadata.field("producer", proto.producer_name.as_bytes());
        metadata.field("version", proto.producer_version.as_bytes());
        metadata.field("doc", proto.doc_string.as_bytes());
        for p in &proto.metadata_props {
            metadata.field(&p.key, p.value.as_bytes());
        }
        if let Some(graph) = proto.graph.as_ref() {
            names(graph, &mut metadata);
            if with_nodes {
                nodes.reserve(graph.node.len());
                Walk::default().graph(graph, &mut nodes);
            }
        }
        nodes.sort_by(|a, b| (a.place, &a.operator).cmp(&(b.place, &b.operator)));
        Graph {
            structure: model.structure_digest(),
            summary: Some(Summary {
                opsets,
                inputs: model.inputs().to_vec(),
                outputs: model.outputs().to_vec(),
                nodes,
                metadata: metadata.finish(),
            }),
        }
    }
}

/// Names and documentation of a graph and of those within.
fn names(graph: &GraphProto, metadata: &mut LabelledHasher) {
    metadata.field("graph", graph.name.as_bytes());
    metadata.field("doc", graph.doc_string.as_bytes());
    for tensor in &graph.initializer {
        metadata.field("initializer", tensor.name.as_bytes());
    }
    for node in &graph.node {
        metadata.field("node", node.name.as_bytes());
        metadata.field("doc", node.doc_string.as_bytes());
        if node.op_type != "Constant" {
            subgraphs(node).for_each(|inner| names(inner, metadata));
        }
    }
}

/// The constant tensors of a model, with the digests that `digest` gives for each of [`Model::weights`].
pub fn weight_facts(model: &Model, digest: impl Fn(&str) -> Option<Digest>) -> Vec<WeightFact> {
    let mut uses: QuickMap<&str, usize> = (model.weights().iter())
        .map(|w| (w.name.as_str(), 0))
        .collect();
    if let Some(graph) = model.proto().graph.as_ref() {
        count_uses(graph, &mut uses);
    }
    (model.weights().iter())
        .filter_map(|w| {
            Some(WeightFact {
                name: w.name.clone(),
                dtype: w.dtype,
                shape: w.shape.clone(),
                digest: digest(&w.name)?,
                kind: kind(&w.role),
                uses: Some(uses[w.name.as_str()]),
                derived_from: Vec::new(),
            })
        })
        .collect()
}

fn kind(role: &Role) -> Kind {
    match role {
        Role::Weight => Kind::Weight,
        Role::Structural {
            operator,
            input,
            why,
        } => Kind::Baked {
            why: format!("input {input} of {operator}: {why}"),
        },
        Role::Unused => Kind::Unused,
    }
}

fn count_uses(graph: &GraphProto, uses: &mut QuickMap<&str, usize>) {
    for node in &graph.node {
        for input in &node.input {
            if let Some(count) = uses.get_mut(input.as_str()) {
                *count += 1;
            }
        }
        for inner in subgraphs(node) {
            count_uses(inner, uses);
        }
    }
}

fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    (node.attribute.iter()).flat_map(|a| a.g.as_ref().into_iter().chain(&a.graphs))
}

fn domain(name: &str) -> &str {
    // ONNX's own domain has two spellings.
    if name == "ai.onnx" { "" } else { name }
}

/// Walks nodes in file order (which is topological) and gives every value a digest of how it is computed.
#[derive(Default)]
struct Walk<'a> {
    values: QuickMap<&'a str, Digest>,
    /// Operators and names of attributes, each once.
    words: QuickMap<&'a str, Arc<str>>,
    /// By type, as ONNX numbers it.
    constants: QuickMap<i32, Digest>,
}

impl<'a> Walk<'a> {
    fn word(&mut self, word: &'a str) -> Arc<str> {
        Arc::clone(self.words.entry(word).or_insert_with(|| word.into()))
    }

    /// A constant of that type: neither shape nor values, which are compared with the weights.
    fn constant(&mut self, dtype: i32) -> Digest {
        *self.constants.entry(dtype).or_insert_with(|| {
            let mut h = LabelledHasher::new("constant");
            h.field("dtype", &dtype.to_le_bytes());
            h.finish()
        })
    }

    fn graph(&mut self, graph: &'a GraphProto, nodes: &mut Vec<NodeFact>) {
        let outputs: usize = graph.node.iter().map(|n| n.output.len()).sum();
        (self.values).reserve(graph.input.len() + graph.initializer.len() + outputs);
        for (i, input) in graph.input.iter().enumerate() {
            // By its place: what inputs are called is compared with the interface.
            let mut h = LabelledHasher::new("input");
            h.field("index", &i.to_le_bytes());
            self.values.insert(&input.name, h.finish());
        }
        for tensor in &graph.initializer {
            let constant = self.constant(tensor.data_type);
            self.values.insert(&tensor.name, constant);
        }
        for node in &graph.node {
            self.node(node, nodes);
        }
    }

    fn node(&mut self, node: &'a NodeProto, nodes: &mut Vec<NodeFact>) {
        if node.op_type == "Constant" {
            // A constant is a constant, whether a node or an initializer holds it; its value is the weights' affair.
            let value = node.attribute.iter().find(|a| a.name == "value");
            let dtype = value.and_then(|a| a.t.as_ref()).map_or(0, |t| t.data_type);
            let constant = self.constant(dtype);
            for output in &node.output {
                self.values.insert(output, constant);
            }
            return;
        }
        let operator = match domain(&node.domain) {
            "" => self.word(&node.op_type),
            other => format!("{other}::{}", node.op_type).into(),
        };
        let mut h = LabelledHasher::new("node");
        h.field("operator", operator.as_bytes());
        for input in &node.input {
            let from = self
                .values
                .get(input.as_str())
                .map_or(&[][..], |d| &d.0[..]);
            h.field("input", from);
        }
        for inner in subgraphs(node) {
            self.graph(inner, nodes);
            for output in &inner.output {
                let from = self
                    .values
                    .get(output.name.as_str())
                    .map_or(&[][..], |d| &d.0[..]);
                h.field("inner", from);
            }
        }
        let place = h.finish();
        for (i, output) in node.output.iter().enumerate() {
            let mut h = LabelledHasher::new("value");
            h.field("node", &place.0).field("index", &i.to_le_bytes());
            self.values.insert(output, h.finish());
        }
        let mut attributes: Vec<_> = (node.attribute.iter())
            // Subgraphs are compared node by node.
            .filter(|a| a.g.is_none() && a.graphs.is_empty())
            .map(|a| (self.word(&a.name), attribute(a)))
            .collect();
        attributes.sort_by(|a, b| a.0.cmp(&b.0));
        // The last of a name counts.
        attributes.dedup_by(|later, earlier| {
            let again = later.0 == earlier.0;
            if again {
                earlier.1 = later.1;
            }
            again
        });
        nodes.push(NodeFact {
            operator,
            name: node.name.clone(),
            place,
            attributes,
        });
    }
}

fn attribute(a: &AttributeProto) -> Digest {
    let plain = AttributeProto {
        name: String::new(),
        doc_string: String::new(),
        ..a.clone()
    };
    // Writing to memory fails only for a message that lacks required fields; proto3 has none.
    Digest::of(&plain.write_to_bytes().unwrap_or_default())
}
