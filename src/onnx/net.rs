//! The graph with its names resolved: which node produces a value and which read it, across subgraphs and functions.
//!
//! Everything that a runtime would stumble over is found here: names that nothing produces, values produced twice, cycles.

use super::collect::mark;
use super::error::Problem;
use super::is_default_domain;
use crate::maps::{QuickMap, QuickSet};
use onnx_protobuf::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::ops::Range;

/// A value of the model, as an index into [`Net::values`].
pub(super) type ValueId = usize;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Input of a body.
    Input {
        /// Which it is an input of: index into [`Net::bodies`].
        body: usize,
        index: usize,
    },
    /// A constant by its index; also where it is an input with a default.
    Constant(usize),
    /// A tensor of strings: initializer `index` of `body`.
    Text {
        /// Which it is in: index into [`Net::bodies`].
        body: usize,
        /// Index into the graph's initializers.
        index: usize,
    },
    /// Output of a node.
    Output {
        /// Which makes it: index into [`Net::nodes`].
        node: usize,
        index: usize,
    },
}

/// More nodes than these are in no model that an engine takes; functions that call each other twice, thirty deep, are a billion.
const MOST_NODES: u64 = 10_000_000;

/// A node with its values.
pub(super) struct Node<'a> {
    pub proto: &'a NodeProto,
    pub inputs: SmallVec<[Option<ValueId>; 3]>,
    pub outputs: SmallVec<[Option<ValueId>; 1]>,
    /// The constant that it is, for Constant nodes.
    pub constant: Option<usize>,
    /// Bodies of its subgraphs, with the index of the attribute that holds each.
    pub bodies: Vec<(usize, usize)>,
    /// Values of outer graphs that the subgraphs read.
    pub captures: BTreeSet<ValueId>,
    /// The model-local function that it calls: index into [`Net::functions`].
    pub call: Option<usize>,
}

/// A graph, subgraph or function body.
pub(super) struct Body<'a> {
    pub graph: Option<&'a GraphProto>,
    /// Number of bodies around it.
    pub depth: usize,
    /// Inputs in order; one with a default is a [`Value::Constant`].
    pub inputs: Vec<ValueId>,
    /// Outputs in order; `None` only for an output that was reported as a problem.
    pub outputs: Vec<Option<ValueId>>,
    pub initializers: Vec<ValueId>,
    /// Its nodes in a topological order that keeps file order where it can.
    pub order: Vec<usize>,
}

pub(super) struct Net<'a> {
    pub values: Vec<Value>,
    pub nodes: Vec<Node<'a>>,
    pub bodies: Vec<Body<'a>>,
    /// The main graph's body.
    pub main: usize,
    /// Model-local functions with their bodies, in an order in which callees come first.
    pub functions: Vec<(&'a FunctionProto, usize)>,
}

/// Identity of a function: domain, name, overload.
type Key<'a> = (&'a str, &'a str, &'a str);

impl<'a> Net<'a> {
    /// Resolves `proto`, whose constants are marked with their indices.
    pub(super) fn resolve(proto: &'a ModelProto, problems: &mut Vec<Problem>) -> Option<Net<'a>> {
        let before = problems.len();
        let mut functions: HashMap<Key<'a>, usize> = HashMap::new();
        for (i, f) in proto.functions.iter().enumerate() {
            let key = (domain(&f.domain), f.name.as_str(), f.overload.as_str());
            if functions.insert(key, i).is_some() {
                problems.push(Problem::DuplicateFunction {
                    name: format!("{}:{}", f.domain, f.name),
                });
            }
        }
        let mut resolver = Resolver {
            functions,
            domains: HashSet::new(),
            reported: HashSet::new(),
            scopes: Vec::new(),
            values: Vec::new(),
            nodes: Vec::new(),
            bodies: Vec::new(),
            problems,
        };
        // A function imports opsets of its own, so these count for the main graph alone.
        resolver.domains = imports(&proto.opset_import);
        if resolver.domains.is_empty() {
            resolver.problems.push(Problem::NoOpset);
        }
        let (main, _) = resolver.graph(proto.graph.as_ref()?, "the main graph");
        let function_bodies: Vec<usize> = proto
            .functions
            .iter()
            .map(|f| {
                resolver.domains = imports(&f.opset_import);
                resolver.function(f)
            })
            .collect();
        let Resolver {
            values,
            nodes,
            bodies,
            problems,
            ..
        } = resolver;
        let mut net = Net {
            values,
            nodes,
            bodies,
            main,
            functions: proto.functions.iter().zip(function_bodies).collect(),
        };
        net.order_functions(problems);
        (problems.len() == before).then_some(net)
    }

    /// Every node of `body` and of the bodies inside it.
    fn nodes_within(&self, body: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut bodies = vec![body];
        while let Some(b) = bodies.pop() {
            for &n in &self.bodies[b].order {
                found.push(n);
                bodies.extend(self.nodes[n].bodies.iter().map(|&(_, inner)| inner));
            }
        }
        found
    }

    /// How many nodes the graph has with its functions written out, as engines do it; functions are sorted.
    fn expanded(&self) -> u64 {
        let mut of_function: Vec<u64> = Vec::with_capacity(self.functions.len());
        let cost = |body: usize, of_function: &[u64]| {
            let nodes = self.nodes_within(body).into_iter().map(|n| {
                let called = self.nodes[n].call.map_or(0, |f| of_function[f]);
                called.saturating_add(1)
            });
            nodes.fold(0, u64::saturating_add)
        };
        for &(_, body) in &self.functions {
            of_function.push(cost(body, &of_function));
        }
        cost(self.main, &of_function)
    }

    /// Sorts functions so that callees come first, and renumbers the calls.
    fn order_functions(&mut self, problems: &mut Vec<Problem>) {
        let callees: Vec<Vec<usize>> = self
            .functions
            .iter()
            .map(|&(_, body)| {
                self.nodes_within(body)
                    .into_iter()
                    .filter_map(|n| self.nodes[n].call)
                    .collect()
            })
            .collect();
        match topological(&callees) {
            Err(stuck) => problems.extend(stuck.into_iter().map(|i| {
                let f = self.functions[i].0;
                Problem::RecursiveFunction {
                    name: format!("{}:{}", f.domain, f.name),
                }
            })),
            Ok(order) => {
                let mut rank = vec![0; order.len()];
                for (new, &old) in order.iter().enumerate() {
                    rank[old] = new;
                }
                self.functions = order.iter().map(|&old| self.functions[old]).collect();
                for node in &mut self.nodes {
                    // Calls are numbers of functions, which have just moved.
                    node.call = node.call.map(|old| rank[old]);
                }
                // Only once it is certain that no function calls itself: the sum would not end.
                if self.expanded() > MOST_NODES {
                    problems.push(Problem::Expansion { limit: MOST_NODES });
                }
            }
        }
    }
}

/// The subgraphs of an attribute.
pub(super) fn graphs(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.as_ref().into_iter().chain(&attribute.graphs)
}

/// `""` and `ai.onnx` are the same domain.
pub(super) fn domain(domain: &str) -> &str {
    if is_default_domain(domain) {
        ""
    } else {
        domain
    }
}

fn imports(opsets: &[onnx_protobuf::OperatorSetIdProto]) -> HashSet<String> {
    opsets
        .iter()
        .map(|o| domain(&o.domain).to_owned())
        .collect()
}

/// How people find a node: operator and first output.
pub(super) fn show_node(node: &NodeProto) -> String {
    match node.output.iter().find(|o| !o.is_empty()) {
        Some(output) => format!("{} of `{output}`", node.op_type),
        None => format!("{} `{}`", node.op_type, node.name),
    }
}

struct Scope<'a> {
    names: QuickMap<&'a str, ValueId>,
    /// Values of outer scopes that are read here or further inside.
    free: BTreeSet<ValueId>,
}

struct Resolver<'a, 'p> {
    functions: HashMap<Key<'a>, usize>,
    domains: HashSet<String>,
    reported: HashSet<(String, String)>,
    scopes: Vec<Scope<'a>>,
    values: Vec<Value>,
    nodes: Vec<Node<'a>>,
    bodies: Vec<Body<'a>>,
    problems: &'p mut Vec<Problem>,
}

impl<'a> Resolver<'a, '_> {
    /// The body, and the values of outer graphs that it reads.
    fn graph(&mut self, graph: &'a GraphProto, label: &str) -> (usize, BTreeSet<ValueId>) {
        let body = self.begin(Some(graph));
        let mut initializers = Vec::with_capacity(graph.initializer.len());
        self.scope().names.reserve(graph.initializer.len());
        for (index, tensor) in graph.initializer.iter().enumerate() {
            let value = match mark(tensor).and_then(|m| m.parse().ok()) {
                Some(constant) => Value::Constant(constant),
                None => Value::Text { body, index },
            };
            let id = self.value(value);
            initializers.push(id);
            if self.scope().names.insert(&tensor.name, id).is_some() {
                self.problems.push(Problem::DuplicateInitializer {
                    graph: label.into(),
                    name: tensor.name.clone(),
                });
            }
        }
        let mut declared = QuickSet::default();
        let inputs = graph
            .input
            .iter()
            .enumerate()
            .map(|(index, input)| {
                if !declared.insert(&input.name) {
                    self.twice(label, &input.name);
                }
                match self.scope().names.get(input.name.as_str()) {
                    // An input with an initializer of its name is that initializer unless the
                    // caller gives another.
                    Some(&default) => default,
                    None => self.name(&input.name, Value::Input { body, index }, label),
                }
            })
            .collect();
        self.bodies[body].inputs = inputs;
        self.bodies[body].initializers = initializers;
        let outputs = graph.output.iter().map(|o| o.name.as_str());
        let free = self.nodes(body, &graph.node, outputs, label);
        (body, free)
    }

    fn function(&mut self, function: &'a FunctionProto) -> usize {
        let label = format!("the function `{}:{}`", function.domain, function.name);
        let body = self.begin(None);
        let inputs = function
            .input
            .iter()
            .enumerate()
            .map(|(index, name)| self.name(name, Value::Input { body, index }, &label))
            .collect();
        self.bodies[body].inputs = inputs;
        let outputs = function.output.iter().map(String::as_str);
        self.nodes(body, &function.node, outputs, &label);
        body
    }

    fn begin(&mut self, graph: Option<&'a GraphProto>) -> usize {
        self.bodies.push(Body {
            graph,
            depth: self.scopes.len(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: Vec::new(),
            order: Vec::new(),
        });
        self.scopes.push(Scope {
            names: QuickMap::default(),
            free: BTreeSet::new(),
        });
        self.bodies.len() - 1
    }

    /// Resolves the nodes and outputs of `body`, and ends its scope. Gives the values of outer scopes that are read.
    fn nodes(
        &mut self,
        body: usize,
        protos: &'a [NodeProto],
        outputs: impl Iterator<Item = &'a str>,
        label: &str,
    ) -> BTreeSet<ValueId> {
        // All names first: nodes may stand in any order.
        let first = self.nodes.len();
        self.nodes.reserve(protos.len());
        let made = protos.iter().map(|p| p.output.len()).sum();
        self.values.reserve(made);
        self.scope().names.reserve(made);
        for proto in protos {
            let node = self.nodes.len();
            let outputs = proto
                .output
                .iter()
                .enumerate()
                .map(|(index, name)| {
                    (!name.is_empty())
                        .then(|| self.name(name, Value::Output { node, index }, label))
                })
                .collect();
            self.nodes.push(Node {
                proto,
                inputs: SmallVec::new(),
                outputs,
                constant: None,
                bodies: Vec::new(),
                captures: BTreeSet::new(),
                call: None,
            });
        }
        for (i, proto) in protos.iter().enumerate() {
            self.node(first + i, proto, label);
        }
        let last = first + protos.len();
        self.bodies[body].outputs = outputs
            .map(|name| self.read(name, label, || "the list of outputs".into()))
            .collect();
        // Nearly all files have their nodes in the order in which they can be computed, and that is the order then.
        let in_order = (first..last).all(|n| self.needs(n, first..last).all(|needed| needed < n));
        if in_order {
            self.bodies[body].order = (first..last).collect();
            return self.scopes.pop().map(|s| s.free).unwrap_or_default();
        }
        let dependencies: Vec<Vec<usize>> = (first..last)
            .map(|n| self.needs(n, first..last).map(|d| d - first).collect())
            .collect();
        match topological(&dependencies) {
            Ok(order) => self.bodies[body].order = order.into_iter().map(|n| n + first).collect(),
            Err(stuck) => self.problems.push(Problem::Cycle {
                graph: label.into(),
                nodes: stuck.into_iter().map(|n| show_node(&protos[n])).collect(),
            }),
        }
        self.scopes.pop().map(|s| s.free).unwrap_or_default()
    }

    /// Those of the nodes `among` whose outputs `node` reads.
    fn needs(&self, node: usize, among: Range<usize>) -> impl Iterator<Item = usize> {
        let node = &self.nodes[node];
        let read = node.inputs.iter().flatten().chain(&node.captures);
        read.filter_map(move |&v| match self.values[v] {
            Value::Output { node, .. } if among.contains(&node) => Some(node),
            _ => None,
        })
    }

    fn node(&mut self, id: usize, proto: &'a NodeProto, label: &str) {
        let inputs = proto
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => None,
                name => self.read(name, label, || show_node(proto)),
            })
            .collect();
        let key = (
            domain(&proto.domain),
            proto.op_type.as_str(),
            proto.overload.as_str(),
        );
        let call = self.functions.get(&key).copied();
        if call.is_none()
            && !self.domains.is_empty()
            && !self.domains.contains(key.0)
            // Once for each operator: a model may have thousands of nodes of it.
            && self.reported.insert((key.0.to_owned(), key.1.to_owned()))
        {
            self.problems.push(Problem::DomainNotImported {
                operator: proto.op_type.clone(),
                domain: if key.0.is_empty() { "ai.onnx" } else { key.0 }.into(),
            });
        }
        if proto.op_type.is_empty() {
            let made = proto.output.first().map_or("nothing", String::as_str);
            self.problems.push(Problem::Unnamed {
                what: format!("the operator of the node that makes `{made}`"),
            });
        }
        let mut bodies = Vec::new();
        let mut captures = BTreeSet::new();
        let mut constant = None;
        for (a, attribute) in proto.attribute.iter().enumerate() {
            if let Some(index) = attribute.t.as_ref().and_then(mark) {
                constant = index.parse().ok();
            }
            for graph in graphs(attribute) {
                let label = format!("`{}` of {}", attribute.name, show_node(proto));
                let (body, mut free) = self.graph(graph, &label);
                bodies.push((a, body));
                captures.append(&mut free);
            }
        }
        let node = &mut self.nodes[id];
        node.inputs = inputs;
        node.call = call;
        node.bodies = bodies;
        node.captures = captures;
        node.constant = constant;
    }

    fn scope(&mut self) -> &mut Scope<'a> {
        self.scopes.last_mut().expect("a body is open")
    }

    fn value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        self.values.len() - 1
    }

    /// Gives `value` a name in the innermost scope.
    fn name(&mut self, name: &'a str, value: Value, label: &str) -> ValueId {
        let id = self.value(value);
        if self.scope().names.insert(name, id).is_some() {
            self.twice(label, name);
        }
        id
    }

    fn twice(&mut self, label: &str, name: &str) {
        self.problems.push(Problem::ProducedTwice {
            graph: label.into(),
            name: name.into(),
        });
    }

    /// Looks `name` up from the innermost scope outwards.
    fn read(&mut self, name: &str, label: &str, reader: impl Fn() -> String) -> Option<ValueId> {
        let found = self
            .scopes
            .iter()
            .enumerate()
            .rev()
            .find_map(|(level, scope)| Some((level, *scope.names.get(name)?)));
        let Some((level, id)) = found else {
            self.problems.push(Problem::NotProduced {
                graph: label.into(),
                name: name.into(),
                reader: reader(),
            });
            return None;
        };
        // Every body between the reader and the place where the name is made captures it.
        for scope in &mut self.scopes[level + 1..] {
            scope.free.insert(id);
        }
        Some(id)
    }
}

/// An order in which everything comes after what it depends on, otherwise by index; or what is left when there is none.
pub(super) fn topological(dependencies: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let n = dependencies.len();
    let mut waiting = vec![0usize; n];
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (i, needs) in dependencies.iter().enumerate() {
        for &d in needs {
            waiting[i] += 1;
            dependents[d].push(i);
        }
    }
    // The smallest number first, so that nodes stay in the order of the file wherever that is one.
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..n).filter(|&i| waiting[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(n);
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &d in &dependents[i] {
            waiting[d] -= 1;
            if waiting[d] == 0 {
                ready.push(Reverse(d));
            }
        }
    }
    if order.len() == n {
        Ok(order)
    } else {
        Err((0..n).filter(|&i| waiting[i] > 0).collect())
    }
}

#[cfg(test)]
mod tests;
