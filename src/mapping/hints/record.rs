//! The exporter's own record of what each node read before initializers and nodes were merged.
//!
//! torch's dynamo exporter writes `pkg.torch.onnx.fx_node` at every node: the call in the traced graph that it was made for,
//! `%mul : [num_users=1] = call_function[target=…](args = (%linear, %p_g), kwargs = {})`, where `p_` is a parameter, `b_` a buffer
//! and `c_` a lifted constant, with dots as underscores and in lower case; and `pkg.onnxscript.optimizer.folded_from` at every
//! value that its optimizer folded: the names of what it was made from. Afterwards its optimizer merges equal initializers and
//! then equal nodes, so what an initializer is called says nothing about its other readers; the record still does.
//!
//! Both are read through [`Nodes`]: the nodes of a graph and its subgraphs, by the values that they read and write.

use crate::mapping::types::{Meaning, Reading};
use onnx_protobuf::{GraphProto, NodeProto, StringStringEntryProto};
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
        // Without `perm` the axes are reversed, which swaps the two.
        None => true,
    }
}

pub fn int(node: &NodeProto, name: &str) -> i64 {
    (node.attribute.iter().find(|a| a.name == name)).map_or(0, |a| a.i)
}

const NODE: &str = "pkg.torch.onnx.fx_node";
const FOLDED: &str = "pkg.onnxscript.optimizer.folded_from";

/// Who wrote a model, as far as it decides what a name proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mapping) enum Exporter {
    /// torch's older exporter: merges equal parameters, and keeps literals as `Constant` nodes.
    TorchScript,
    /// torch's newer exporter, or an optimizer: merges whatever has equal bytes.
    Merging,
}

/// One call of the traced graph, and the nodes that it became.
struct Call<'a> {
    /// Users of its result in the traced graph.
    users: usize,
    /// Arguments that are values, parameters and buffers among them, as often as they occur.
    args: Vec<&'a str>,
    nodes: Vec<&'a NodeProto>,
}

/// What the exporter recorded of a graph.
pub(in crate::mapping) struct Record<'a> {
    calls: HashMap<&'a str, Call<'a>>,
    /// The call that a node belongs to, by the node's first output.
    call_of: HashMap<&'a str, &'a str>,
    folded: HashMap<&'a str, Vec<String>>,
    /// Calls that stand for a second one that was merged into them.
    merged: HashSet<&'a str>,
    pub exporter: Exporter,
    /// Node names are module paths.
    pub has_paths: bool,
}

fn prop<'a>(props: &'a [StringStringEntryProto], key: &str) -> Option<&'a str> {
    let found = props.iter().find(|p| p.key == key)?;
    Some(&found.value)
}

/// Name, number of users and value arguments of a recorded call.
fn parse(text: &str) -> Option<(&str, usize, Vec<&str>)> {
    let (head, call) = text.split_once(" = ")?;
    let name = head.trim().strip_prefix('%')?.split([' ', ':']).next()?;
    let users = head
        .split_once("num_users=")
        .and_then(|(_, n)| n.split(']').next()?.parse().ok())
        // Zero where it is not said: all users then count as there, which takes more for merged and never less.
        .unwrap_or_default();
    let args = call.split_once("](").map_or(call, |(_, args)| args);
    // Values are written `%name`, numbers and other literals plainly.
    let args = args.split('%').skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
        &rest[..end.unwrap_or(rest.len())]
    });
    Some((name, users, args.collect()))
}

fn is_placeholder(argument: &str) -> bool {
    ["p_", "b_", "c_", "obj_"]
        .iter()
        .any(|p| argument.starts_with(p))
}

/// `mul_1` and `mul` are calls of one operator.
pub(in crate::mapping) fn stem(name: &str) -> &str {
    match name.rsplit_once('_') {
        Some((stem, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => stem,
        _ => name,
    }
}

/// Whether a recorded value is a tensor that stands in the code, which torch lifts under names of its own.
pub(in crate::mapping) fn is_lifted(name: &str) -> bool {
    ["lifted_tensor", "c_lifted_tensor", "_tensor_constant"]
        .iter()
        .any(|lifted| name.starts_with(lifted))
}

/// Whether the names of nodes are the paths of modules.
fn has_paths(graph: &GraphProto, producer: &str) -> bool {
    // Tools that drop the record mostly keep the names, which say that it was there.
    let dynamo = (graph.node.iter())
        .any(|n| n.name.starts_with("node_") || prop(&n.metadata_props, NODE).is_some());
    producer == "pytorch" && !dynamo
}

/// Who wrote a graph.
pub fn exporter(graph: &GraphProto, producer: &str) -> Exporter {
    if has_paths(graph, producer) && keeps_literals_apart(graph) {
        Exporter::TorchScript
    } else {
        Exporter::Merging
    }
}

/// Every node of a graph and of its subgraphs, in the order of [`Nodes::iter`].
pub fn all_nodes(graph: &GraphProto) -> Vec<&NodeProto> {
    let mut found = Vec::with_capacity(graph.node.len());
    for node in &graph.node {
        found.push(node);
        let inner = node
            .attribute
            .iter()
            .flat_map(|a| a.g.as_ref().into_iter().chain(&a.graphs));
        found.extend(inner.flat_map(all_nodes));
    }
    found
}

impl<'a> Record<'a> {
    pub fn of(graph: &'a GraphProto, nodes: &Nodes<'a>, producer: &str) -> Record<'a> {
        let mut record = Record {
            calls: HashMap::new(),
            call_of: HashMap::new(),
            folded: HashMap::new(),
            merged: HashSet::new(),
            exporter: Exporter::Merging,
            has_paths: false,
        };
        record.has_paths = has_paths(graph, producer);
        record.exporter = exporter(graph, producer);
        for node in nodes.iter() {
            let Some((name, users, args)) = prop(&node.metadata_props, NODE).and_then(parse) else {
                continue;
            };
            let call = record.calls.entry(name).or_insert(Call {
                users,
                args,
                nodes: Vec::new(),
            });
            call.nodes.push(node);
            if let Some(output) = node.output.first() {
                record.call_of.insert(output, name);
            }
        }
        for value in &graph.value_info {
            if let Some(text) = prop(&value.metadata_props, FOLDED) {
                // A list as Python writes it: every second piece between quotes is a name.
                let names = text.split('\'').skip(1).step_by(2);
                record
                    .folded
                    .insert(&value.name, names.map(ToOwned::to_owned).collect());
            }
        }
        record.find_merged(nodes);
        record
    }

    /// What `name` was folded from, where that is recorded.
    pub fn folded_from(&self, name: &str) -> Vec<String> {
        self.folded.get(name).cloned().unwrap_or_default()
    }

    /// What the node `node` says about the constant `name`, which it reads.
    pub fn reading(&self, nodes: &Nodes<'_>, node: &NodeProto, name: &str) -> Option<Reading> {
        let call = *self.call_of.get(node.output.first()?.as_str())?;
        let found = &self.calls[call];
        let meaning = if self.merged.contains(call) {
            Meaning::MergedAway
        } else {
            let (placeholders, values): (Vec<&str>, Vec<&str>) =
                found.args.iter().partition(|a| is_placeholder(a));
            let folded = self.unaccounted(nodes, found).0;
            Meaning::Record {
                placeholders: placeholders.into_iter().map(ToOwned::to_owned).collect(),
                complete: folded.is_empty(),
                folded: folded.into_iter().map(ToOwned::to_owned).collect(),
                values: values.into_iter().map(ToOwned::to_owned).collect(),
                inputs: node.input.iter().filter(|i| *i == name).count(),
            }
        };
        Some(Reading {
            node: node.name.clone(),
            meaning,
        })
    }

    /// Arguments of a call that nothing in the graph makes, where its other inputs do not stand for all of them; and pairs of an
    /// argument and the call whose result took its place.
    fn unaccounted(
        &self,
        nodes: &Nodes<'_>,
        call: &Call<'a>,
    ) -> (Vec<&'a str>, Vec<(&'a str, &'a str)>) {
        let mut open: Vec<&str> = (call.args.iter().copied())
            .filter(|a| !is_placeholder(a) && !self.calls.contains_key(a) && !nodes.is_constant(a))
            .collect();
        open.dedup();
        // Inputs of the nodes that come from elsewhere: graph inputs have other names in the traced graph.
        let mut inputs: Vec<&str> = Vec::new();
        let mut owners: Vec<&'a str> = Vec::new();
        // Arguments that a node reads more often than the call names them.
        let mut repeated: Vec<&'a str> = Vec::new();
        for input in call.nodes.iter().flat_map(|n| &n.input) {
            if input.is_empty() || nodes.is_constant(input) {
                continue;
            }
            match self.owner(nodes, input) {
                None if nodes.producer(input).is_none() && !inputs.contains(&input.as_str()) => {
                    inputs.push(input);
                }
                None => {}
                Some(owner) => {
                    let own = call.nodes.iter().any(|n| n.output.contains(input));
                    let twice = |n: &&NodeProto| {
                        n.input.iter().filter(|i| *i == input).count()
                            > call.args.iter().filter(|a| **a == owner).count()
                    };
                    if own {
                        continue;
                    }
                    let named = call.args.contains(&owner);
                    if named && call.nodes.iter().any(twice) && !repeated.contains(&owner) {
                        repeated.push(owner);
                    } else if !named && !owners.contains(&owner) {
                        owners.push(owner);
                    }
                }
            }
        }
        // A value that took the place of an argument of the same operator is what it was merged with.
        let mut merged = Vec::new();
        open.retain(|argument| {
            let twin = owners.iter().position(|o| stem(o) == stem(argument));
            if let Some(at) = twin {
                merged.push((*argument, owners.remove(at)));
                return false;
            }
            let same = repeated.iter().find(|o| stem(o) == stem(argument));
            if let Some(owner) = same {
                merged.push((*argument, owner));
            }
            same.is_none()
        });
        // An input that is called as its argument is that one.
        let is_input = |argument: &str| {
            inputs
                .iter()
                .any(|i| *i == argument || *i == stem(argument))
        };
        let before = open.len();
        open.retain(|argument| !is_input(argument));
        // Each of the others stands for one argument, whichever it is: as long as there are more arguments, any may be the one too many.
        let stand_ins = (inputs.len() + owners.len()).saturating_sub(before - open.len());
        if open.len() <= stand_ins {
            open.clear();
        }
        (open, merged)
    }

    /// The call that a value of the graph is the result of, through nodes without a record.
    fn owner(&self, nodes: &Nodes<'_>, value: &str) -> Option<&'a str> {
        let mut at = value.to_owned();
        for _ in 0..4 {
            if let Some(call) = self.call_of.get(at.as_str()) {
                return Some(call);
            }
            at = nodes.producer(&at)?.input.first()?.clone();
        }
        None
    }

    /// Finds the calls that a second one was merged into. Where all users of an argument are still there, the second one
    /// read something else, which was merged too.
    fn find_merged(&mut self, nodes: &Nodes<'a>) {
        let mut users: HashMap<&str, usize> = HashMap::new();
        for call in self.calls.values() {
            let mut distinct = call.args.clone();
            distinct.sort_unstable();
            distinct.dedup();
            for argument in distinct {
                *users.entry(argument).or_default() += 1;
            }
        }
        let mut open: Vec<&'a str> = Vec::new();
        for call in self.calls.values() {
            open.extend(
                self.unaccounted(nodes, call)
                    .1
                    .into_iter()
                    .map(|(_, twin)| twin),
            );
        }
        let mut merged = HashSet::new();
        while let Some(name) = open.pop() {
            let Some(call) = self.calls.get(name) else {
                continue;
            };
            if !merged.insert(name) {
                continue;
            }
            for argument in &call.args {
                let Some(made) = self.calls.get(argument) else {
                    continue;
                };
                if made.users <= users.get(argument).copied().unwrap_or_default() {
                    open.push(argument);
                }
            }
        }
        self.merged = merged;
    }
}

/// Whether the file is as torch's older exporter wrote it. Optimizers keep its producer and its paths; they make initializers of
/// its `Constant` nodes, under the nodes' names, and merge them with parameters of the same value.
fn keeps_literals_apart(graph: &GraphProto) -> bool {
    let lifted = |name: &str| name.starts_with('/') || name.contains("_output_");
    graph.node.iter().any(|n| n.op_type == "Constant")
        && !graph.initializer.iter().any(|t| lifted(&t.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_call_is_read() {
        let text = "%linear : [num_users=2] = call_function[target=torch.ops.aten.linear.default](args = (%x, [None, %p_fc_weight], 0.5), kwargs = {out: %b_y})";
        let (name, users, args) = parse(text).unwrap();
        assert_eq!((name, users), ("linear", 2));
        assert_eq!(args, ["x", "p_fc_weight", "b_y"]);
        assert_eq!(parse("nothing"), None);
        assert_eq!(
            (stem("mul_12"), stem("layer_norm"), stem("p_1x")),
            ("mul", "layer_norm", "p_1x")
        );
    }
}
