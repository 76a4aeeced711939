//! The nodes of a graph and its subgraphs, by the values that they read and write.

use onnx_protobuf::{GraphProto, NodeProto};
use std::collections::{HashMap, HashSet};

/// One use of a value: which node, which of its inputs, and what stands between.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    pub node: &'a NodeProto,
    pub input: usize,
    /// A `Transpose` of the two axes stands between.
    pub transposed: bool,
}

/// The nodes of a graph and of its subgraphs, indexed by the values they read and write.
pub struct Nodes<'a> {
    all: Vec<&'a NodeProto>,
    uses: HashMap<&'a str, Vec<(usize, usize)>>,
    producer: HashMap<&'a str, usize>,
    /// Initializers and outputs of `Constant` nodes, with their dims.
    constants: HashMap<&'a str, &'a [i64]>,
    /// Names that more than one graph defines: nothing is concluded from them.
    repeated: HashSet<&'a str>,
}

/// Operators that pass a value on, element by element, in the same order.
const PASSING: [&str; 5] = ["Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

impl<'a> Nodes<'a> {
    pub fn of(graph: &'a GraphProto) -> Nodes<'a> {
        let mut all = Nodes {
            all: Vec::new(),
            uses: HashMap::new(),
            producer: HashMap::new(),
            constants: HashMap::new(),
            repeated: HashSet::new(),
        };
        all.add(graph);
        all
    }

    fn add(&mut self, graph: &'a GraphProto) {
        for tensor in &graph.initializer {
            if self.constants.insert(&tensor.name, &tensor.dims).is_some() {
                self.repeated.insert(&tensor.name);
            }
        }
        for node in &graph.node {
            let at = self.all.len();
            self.all.push(node);
            for (i, name) in node.input.iter().enumerate() {
                if !name.is_empty() {
                    self.uses.entry(name).or_default().push((at, i));
                }
            }
            for name in &node.output {
                if self.producer.insert(name, at).is_some() {
                    self.repeated.insert(name);
                }
            }
            for attribute in &node.attribute {
                if let (true, Some(value), Some(output)) = (
                    node.op_type == "Constant",
                    attribute.t.as_ref(),
                    node.output.first(),
                ) && self.constants.insert(output, &value.dims).is_some()
                {
                    self.repeated.insert(output);
                }
                if let Some(inner) = attribute.g.as_ref() {
                    self.add(inner);
                }
                for inner in &attribute.graphs {
                    self.add(inner);
                }
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a NodeProto> + '_ {
        self.all.iter().copied()
    }

    pub fn is_constant(&self, name: &str) -> bool {
        self.constants.contains_key(name)
    }

    pub fn dims(&self, name: &str) -> Option<&'a [i64]> {
        self.constants.get(name).copied()
    }

    /// Whether several graphs define `name`.
    pub fn is_repeated(&self, name: &str) -> bool {
        self.repeated.contains(name)
    }

    /// The node that computes `name`; none for graph inputs, constants and names that several graphs define.
    pub fn producer(&self, name: &str) -> Option<&'a NodeProto> {
        if self.is_constant(name) || self.repeated.contains(name) {
            return None;
        }
        self.producer.get(name).map(|&at| self.all[at])
    }

    pub fn direct_uses(&self, name: &str) -> impl Iterator<Item = (&'a NodeProto, usize)> + '_ {
        let at = self.uses.get(name).map_or(&[][..], Vec::as_slice);
        at.iter().map(|&(node, input)| (self.all[node], input))
    }

    /// The uses of `name` that compute something, through transposes and operators that only pass the value on.
    pub fn uses(&self, name: &str) -> Vec<Use<'a>> {
        let mut found = Vec::new();
        let mut open = vec![(name.to_owned(), false, 0)];
        while let Some((name, transposed, depth)) = open.pop() {
            for (node, input) in self.direct_uses(&name) {
                let passes = input == 0 && depth < 8;
                let swaps = node.op_type == "Transpose" && swaps_two_axes(node);
                let next = match node.op_type.as_str() {
                    op if passes && (PASSING.contains(&op) || op == "DequantizeLinear") => {
                        Some(transposed)
                    }
                    "Transpose" if passes && swaps => Some(!transposed),
                    _ => None,
                };
                match (next, node.output.first()) {
                    (Some(turned), Some(output)) => {
                        open.push((output.clone(), turned, depth + 1));
                    }
                    _ => found.push(Use {
                        node,
                        input,
                        transposed,
                    }),
                }
            }
        }
        found
    }
}

fn swaps_two_axes(node: &NodeProto) -> bool {
    match node.attribute.iter().find(|a| a.name == "perm") {
        Some(perm) => perm.ints == [1, 0],
        None => true,
    }
}

pub fn int(node: &NodeProto, name: &str) -> i64 {
    (node.attribute.iter().find(|a| a.name == name)).map_or(0, |a| a.i)
}
