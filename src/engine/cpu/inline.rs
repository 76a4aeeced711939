//! Model-local functions, written out where they are called: the embedded engine knows none.
//!
//! Definition: <https://github.com/onnx/onnx/blob/main/docs/IR.md#functions>. What a model would grow to is reckoned before
//! anything is copied, so that functions which call each other twice, thirty deep, are refused at once.

use super::proto::{Names, is_onnx, label, node, subgraphs, subgraphs_mut};
use crate::engine::Refusal;
use onnx_protobuf::{AttributeProto, FunctionProto, Message, ModelProto, NodeProto};
use std::collections::HashMap;

/// Nodes that a model may have when its functions are written out; large exports have some tens of thousands.
const MOST_NODES: u64 = 500_000;
/// Bytes that its nodes may take then; the constants of a function stand in every call of it.
const MOST_BYTES: u64 = 1 << 29;
const DEEPEST_CALLS: usize = 128;
/// Subgraphs within subgraphs, which the engine reads by recursion.
const DEEPEST_GRAPHS: usize = 32;

/// Domain, name and overload.
type Key<'a> = (&'a str, &'a str, &'a str);

fn key<'a>(domain: &'a str, name: &'a str, overload: &'a str) -> Key<'a> {
    (if is_onnx(domain) { "" } else { domain }, name, overload)
}

/// Writes out every call in `model`, whose functions are acyclic (see [`crate::onnx::Model::open`]), and drops the functions.
/// Returns how many calls there were.
///
/// # Errors
/// Where the model would become too large or too deep, or where a function means its operators by another opset than the model.
pub fn inline(model: &mut ModelProto) -> Result<usize, Refusal> {
    let functions = std::mem::take(&mut model.functions);
    let Some(graph) = model.graph.as_mut().filter(|_| !functions.is_empty()) else {
        return Ok(0);
    };
    let opset = model
        .opset_import
        .iter()
        .find(|o| is_onnx(&o.domain))
        .map(|o| o.version);
    let by_key: HashMap<Key<'_>, usize> = functions
        .iter()
        .enumerate()
        .map(|(i, f)| (key(&f.domain, &f.name, &f.overload), i))
        .collect();
    let mut sizes = Sizes {
        functions: &functions,
        by_key: &by_key,
        opset,
        known: vec![None; functions.len()],
    };
    let size = sizes.of_nodes(&graph.node, 0)?;
    size.check(longest_name(&graph.node, &functions))?;
    let mut writer = Writer {
        functions: &functions,
        by_key: &by_key,
        names: Names::of(graph),
        calls: 0,
    };
    let nodes = std::mem::take(&mut graph.node);
    writer.nodes(nodes, &mut Scope::Main, &mut graph.node);
    Ok(writer.calls)
}

fn refusal(function: &str, reason: String) -> Refusal {
    Refusal {
        node: "the model".into(),
        operator: function.into(),
        reason,
    }
}

/// What nodes grow to.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: u64,
    bytes: u64,
    calls: usize,
    graphs: usize,
}

impl Size {
    /// `longest` is the length of a name that may come to stand in every node.
    fn check(self, longest: u64) -> Result<(), Refusal> {
        let too = |what: String| {
            Err(refusal(
                "model-local functions",
                format!("written out where they are called, they make {what}"),
            ))
        };
        if self.nodes > MOST_NODES {
            return too(format!("more than {MOST_NODES} nodes"));
        }
        if self.bytes.max(self.nodes.saturating_mul(longest)) > MOST_BYTES {
            return too(format!("a graph of more than {} MiB", MOST_BYTES >> 20));
        }
        if self.calls > DEEPEST_CALLS {
            return too(format!("calls nested more than {DEEPEST_CALLS} deep"));
        }
        if self.graphs > DEEPEST_GRAPHS {
            return too(format!("graphs nested more than {DEEPEST_GRAPHS} deep"));
        }
        Ok(())
    }
}

fn longest_name(nodes: &[NodeProto], functions: &[FunctionProto]) -> u64 {
    nodes
        .iter()
        .chain(functions.iter().flat_map(|f| &f.node))
        .flat_map(|n| n.input.iter().chain(&n.output).chain([&n.name]))
        .map(String::len)
        .max()
        .unwrap_or(0) as u64
}

struct Sizes<'a> {
    functions: &'a [FunctionProto],
    by_key: &'a HashMap<Key<'a>, usize>,
    opset: Option<i64>,
    known: Vec<Option<Size>>,
}

impl Sizes<'_> {
    /// `depth` calls are around these nodes.
    fn of_nodes(&mut self, nodes: &[NodeProto], depth: usize) -> Result<Size, Refusal> {
        let mut total = Size::default();
        for node in nodes {
            total.nodes = total.nodes.saturating_add(1);
            total.bytes = total.bytes.saturating_add(node.compute_size());
            if let Some(&index) = self
                .by_key
                .get(&key(&node.domain, &node.op_type, &node.overload))
            {
                let callee = self.of_function(index, depth + 1)?;
                total.nodes = total.nodes.saturating_add(callee.nodes);
                total.bytes = total.bytes.saturating_add(callee.bytes);
                total.calls = total.calls.max(callee.calls + 1);
                total.graphs = total.graphs.max(callee.graphs);
            }
            for graph in subgraphs(node) {
                let inner = self.of_nodes(&graph.node, depth)?;
                total.nodes = total.nodes.saturating_add(inner.nodes);
                // Their own bytes are counted with the node; what calls in them add is not.
                total.bytes = total.bytes.saturating_add(inner.bytes);
                total.calls = total.calls.max(inner.calls);
                total.graphs = total.graphs.max(inner.graphs + 1);
            }
        }
        Ok(total)
    }

    fn of_function(&mut self, index: usize, depth: usize) -> Result<Size, Refusal> {
        if let Some(size) = self.known[index] {
            return Ok(size);
        }
        // Here and not at the end only, because this recursion takes stack.
        if depth > DEEPEST_CALLS {
            Size {
                calls: depth,
                ..Size::default()
            }
            .check(0)?;
        }
        let function = &self.functions[index];
        let own = function
            .opset_import
            .iter()
            .find(|o| is_onnx(&o.domain))
            .map(|o| o.version);
        if let (Some(own), Some(model)) = (own, self.opset)
            && own != model
        {
            return Err(refusal(
                &function.name,
                format!("the function is of opset {own}, the model of opset {model}"),
            ));
        }
        let size = self.of_nodes(&function.node, depth)?;
        self.known[index] = Some(size);
        Ok(size)
    }
}

/// What names and attributes mean where a node stands.
enum Scope {
    /// In the model's own graphs: themselves.
    Main,
    /// In a call: values of the function by their new names, and the attributes that the call gives.
    Call {
        values: HashMap<String, String>,
        attributes: HashMap<String, AttributeProto>,
        label: String,
    },
}

struct Writer<'a> {
    functions: &'a [FunctionProto],
    by_key: &'a HashMap<Key<'a>, usize>,
    names: Names,
    calls: usize,
}

impl Writer<'_> {
    fn nodes(&mut self, nodes: Vec<NodeProto>, scope: &mut Scope, out: &mut Vec<NodeProto>) {
        for mut node in nodes {
            self.place(&mut node, scope);
            let callee = key(&node.domain, &node.op_type, &node.overload);
            match self.by_key.get(&callee) {
                Some(&index) => self.call(&node, index, out),
                None => out.push(node),
            }
        }
    }

    /// Gives `node` the names and attributes that it has where it stands, and writes out what its subgraphs call.
    fn place(&mut self, node: &mut NodeProto, scope: &mut Scope) {
        if let Scope::Call {
            attributes, label, ..
        } = scope
        {
            node.attribute = std::mem::take(&mut node.attribute)
                .into_iter()
                .filter_map(|a| substitute(a, attributes))
                .collect();
            if !node.name.is_empty() {
                node.name = format!("{label}/{}", node.name);
            }
        }
        for name in node.input.iter_mut().chain(&mut node.output) {
            self.rename(name, scope);
        }
        for graph in subgraphs_mut(node) {
            for value in graph
                .input
                .iter_mut()
                .chain(&mut graph.output)
                .chain(&mut graph.value_info)
            {
                self.rename(&mut value.name, scope);
            }
            for tensor in &mut graph.initializer {
                self.rename(&mut tensor.name, scope);
            }
            let nodes = std::mem::take(&mut graph.node);
            self.nodes(nodes, scope, &mut graph.node);
        }
    }

    fn rename(&mut self, name: &mut String, scope: &mut Scope) {
        if let Scope::Call { values, .. } = scope
            && !name.is_empty()
        {
            *name = values
                .entry(name.clone())
                .or_insert_with(|| self.names.fresh(name))
                .clone();
        }
    }

    fn call(&mut self, call: &NodeProto, index: usize, out: &mut Vec<NodeProto>) {
        self.calls += 1;
        let function = &self.functions[index];
        let given = |i: usize| call.input.get(i).cloned().unwrap_or_default();
        let mut values: HashMap<String, String> = function
            .input
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), given(i)))
            .collect();
        // An output that is an input, or stands twice, is copied.
        let mut copies = Vec::new();
        for (name, result) in function.output.iter().zip(&call.output) {
            if result.is_empty() {
                continue;
            }
            match values.get(name) {
                Some(held) => copies.push(node("Identity", &[held], &[result])),
                None => {
                    values.insert(name.clone(), result.clone());
                }
            }
        }
        let attributes = function
            .attribute_proto
            .iter()
            .chain(&call.attribute)
            .map(|a| (a.name.clone(), a.clone()))
            .collect();
        let mut scope = Scope::Call {
            values,
            attributes,
            label: label(call),
        };
        self.nodes(function.node.clone(), &mut scope, out);
        out.append(&mut copies);
    }
}

/// An attribute that refers to one of the call is that one; where the call has none, there is none.
fn substitute(
    attribute: AttributeProto,
    given: &HashMap<String, AttributeProto>,
) -> Option<AttributeProto> {
    if attribute.ref_attr_name.is_empty() {
        return Some(attribute);
    }
    let mut value = given.get(&attribute.ref_attr_name)?.clone();
    value.name = attribute.name;
    Some(value)
}
