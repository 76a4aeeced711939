//! From an ONNX graph to one that the embedded engine computes right, or the list of reasons why there is none.
//!
//! Functions of the model's own are written out first. Then one walk in topological order: each node is looked up in the operator table, its attributes and element types are checked,
//! it is rewritten where needed, and what is known of its outputs is recorded. Floats of every width become f32. Where
//! something can only be known when the graph runs (an i64 result that must fit 32 bits, the rank of an operand), the graph
//! gets one more output that tells.

use super::checks::guarded;
use super::checks::scatter_accumulates;
use super::facts::{Fact, Facts};
use super::inline::inline;
use super::narrow::narrow_declaration;
use super::proto::{Names, attribute, held, int, is_onnx, node, subgraphs, subgraphs_mut};
use super::rewrite::{rewrite, stepped};
use super::site::{Rewritten, Site};
use super::table::{self, Allowed, Out, Row};
use super::walk::{RunCheck, Walk};
use crate::engine::Refusal;
use crate::tensor::Dtype;
use onnx_protobuf::{AttributeProto, GraphProto, ModelProto, NodeProto};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A graph for the embedded engine.
#[derive(Debug)]
pub struct Lowered {
    /// The graph; the places of weights still carry no bytes.
    pub model: ModelProto,
    /// What was decided on the way.
    pub notes: Vec<String>,
    /// Why it must not run; empty when it may.
    pub refusals: Vec<Refusal>,
    /// The output beyond the model's own, and what its elements must be.
    pub told: Option<(String, Vec<RunCheck>)>,
}

pub fn lower(model: &ModelProto) -> Lowered {
    let mut lowered = model.clone();
    let mut refusals = Vec::new();
    for function in model.functions.iter().filter(|f| is_onnx(&f.domain)) {
        refusals.push(Refusal {
            node: "the model".into(),
            operator: function.name.clone(),
            reason: "the model defines an operator of ONNX's own domain itself".into(),
        });
    }
    let calls = if refusals.is_empty() {
        inline(&mut lowered).unwrap_or_else(|refusal| {
            refusals.push(refusal);
            0
        })
    } else {
        0
    };
    let mut walk = Walk {
        opset: model
            .opset_import
            .iter()
            .find(|o| is_onnx(&o.domain))
            .map_or(1, |o| o.version),
        names: Names::of(&lowered.graph),
        stepped: HashSet::new(),
        refusals,
        told: Vec::new(),
        rewritten: BTreeMap::new(),
        floats: BTreeSet::new(),
    };
    if calls > 0 {
        let what = "the model's own functions written out where they are called";
        walk.rewritten.insert(what, calls);
    }
    if walk.opset > table::NEWEST_OPSET {
        walk.refusals.push(Refusal {
            node: "the model".into(),
            operator: "opset".into(),
            reason: format!(
                "opset {} is newer than the newest that is proven right, {}",
                walk.opset,
                table::NEWEST_OPSET
            ),
        });
    }
    let mut told = None;
    // What is too large when written out is not looked at further.
    if let Some(graph) = lowered.graph.as_mut().filter(|_| walk.refusals.is_empty()) {
        walk.graph(graph, None);
        told = walk.tell_all(graph);
    }
    Lowered {
        model: lowered,
        notes: walk.notes(),
        refusals: walk.refusals,
        told,
    }
}

impl Walk {
    /// Lowers `graph` in place. Returns what is known of its outputs.
    fn graph(&mut self, graph: &mut GraphProto, outer: Option<&Facts<'_>>) -> Vec<Fact> {
        drop_unread(graph);
        let mut facts = Facts::of(graph, outer);
        for value in &graph.input {
            self.see(facts.get(&value.name).dtype);
        }
        // Both look from the readers back to what is read, so they need the graph before it is
        // taken apart; the readers of what a branch gives are outside of it.
        if outer.is_none() {
            self.stepped = stepped(graph);
        }
        let guarded = guarded(graph);
        let nodes = std::mem::take(&mut graph.node);
        let mut done = Vec::with_capacity(nodes.len());
        for original in nodes {
            if is_onnx(&original.domain) && original.op_type == "Constant" {
                self.constant(&original, &mut facts);
                done.push(original);
                continue;
            }
            let Some(row) = self.accept(&original, &facts) else {
                continue;
            };
            let outputs = if subgraphs(&original).next().is_some() {
                let mut branching = original.clone();
                let outputs = self.branches(&mut branching, &facts);
                done.push(branching);
                outputs
            } else {
                let mut site = Site {
                    opset: self.opset,
                    facts: &facts,
                    stepped: &self.stepped,
                    names: &mut self.names,
                };
                let mut new = rewrite(&original, &mut site);
                self.count(&original, &new.nodes);
                let outputs = self.derive(&original, row, &facts);
                let kept = !guarded.contains(&original.output[0]);
                self.watch(&original, row, &outputs, &mut new, &facts, kept);
                graph.initializer.append(&mut new.constants);
                done.append(&mut new.nodes);
                outputs
            };
            for (name, fact) in original.output.iter().zip(outputs) {
                facts.learn(name, fact);
            }
        }
        graph.node = done;
        let outputs = graph.output.iter().map(|v| facts.get(&v.name)).collect();
        self.own_outputs(graph, &facts, outer.is_none());
        // Last, because until here types are those of the model.
        for tensor in &mut graph.initializer {
            self.narrow_constant(tensor);
        }
        for node in &mut graph.node {
            self.narrow_node(node);
        }
        for value in graph
            .input
            .iter_mut()
            .chain(&mut graph.output)
            .chain(&mut graph.value_info)
        {
            narrow_declaration(value);
        }
        outputs
    }

    /// Lowers the branches of an `If`. What is known of its outputs is what the branches agree on.
    fn branches(&mut self, branching: &mut NodeProto, facts: &Facts<'_>) -> Vec<Fact> {
        // What the branches tell is gathered apart: it leaves them through the `If`.
        let own = std::mem::take(&mut self.told);
        let mut told = Vec::new();
        let mut merged: Option<Vec<Fact>> = None;
        let before = branching.clone();
        for graph in subgraphs_mut(branching) {
            let outputs = self.graph(graph, Some(facts));
            told.push(std::mem::take(&mut self.told));
            merged = Some(match merged {
                None => outputs,
                Some(first) => {
                    if let Some((a, b)) = first
                        .iter()
                        .zip(&outputs)
                        .find_map(|(a, b)| Some((a.dtype?, b.dtype?)).filter(|(a, b)| a != b))
                    {
                        self.refuse(&before, format!("one branch gives `{a}`, another `{b}`"));
                    }
                    first
                        .into_iter()
                        .zip(outputs)
                        .map(|(a, b)| a.or(b))
                        .collect()
                }
            });
        }
        self.told = own;
        self.pass_on(branching, told);
        merged.unwrap_or_default()
    }

    /// Has the graph tell what could only be known when it runs. `kept` is false where what an infinity is cast to is thrown away.
    fn watch(
        &mut self,
        original: &NodeProto,
        row: &Row,
        outputs: &[Fact],
        new: &mut Rewritten,
        facts: &Facts<'_>,
        kept: bool,
    ) {
        if let Some(value) = new.matrix.take() {
            self.watch_rank(original, &value, &mut new.nodes, &mut new.constants);
        }
        let wide = outputs.first().and_then(|f| f.dtype) == Some(Dtype::I64);
        let narrows = original.op_type.starts_with("Cast")
            && facts.input(original, 0).dtype.is_some_and(Dtype::is_float);
        if wide && narrows && !kept {
            self.cast_guarded(original, &mut new.nodes, &mut new.constants);
        } else if wide && (row.grows || narrows || scatter_accumulates(original)) {
            self.watch_range(original, &mut new.nodes, &mut new.constants);
        }
    }

    fn count(&mut self, original: &NodeProto, new: &[NodeProto]) {
        if new.len() == 1 && new[0].op_type == original.op_type {
            return;
        }
        let what = match original.op_type.as_str() {
            "ArgMax" | "ArgMin" => "ArgMax and ArgMin rewritten to take the first of equal values",
            "Softmax" | "LogSoftmax" => "Softmax of an opset before 13 rewritten",
            "MatMul" => "MatMul with a vector rewritten",
            "GroupNormalization" => "GroupNormalization rewritten with InstanceNormalization",
            "GRU" | "LSTM" | "RNN" => "recurrent operators written out",
            "QuantizeLinear" => "QuantizeLinear rewritten to divide by the scale",
            "Sign" => "Sign rewritten",
            _ => return,
        };
        *self.rewritten.entry(what).or_default() += 1;
    }

    fn constant(&mut self, node: &NodeProto, facts: &mut Facts<'_>) {
        let (Some(attribute), Some(output)) = (node.attribute.first(), node.output.first()) else {
            return self.refuse(node, "it has no value");
        };
        let list = |values: &[i64], shape: Vec<Option<usize>>| Fact {
            dtype: Some(Dtype::I64),
            shape: Some(shape),
            wide: values.iter().copied().find(|&v| held(v).is_none()),
            ints: Some(values.to_vec()),
        };
        let fact = match attribute.name.as_str() {
            "value" => Fact::constant(&attribute.t),
            "value_int" => list(&[attribute.i], vec![]),
            "value_ints" => list(&attribute.ints, vec![Some(attribute.ints.len())]),
            "value_float" => Fact::new(Some(Dtype::F32), Some(vec![])),
            "value_floats" => Fact::new(Some(Dtype::F32), Some(vec![Some(attribute.floats.len())])),
            other => return self.refuse(node, format!("its value is of the kind `{other}`")),
        };
        facts.learn(output, fact);
    }

    /// The row of a node that may run, `None` when it was refused.
    fn accept(&mut self, node: &NodeProto, facts: &Facts<'_>) -> Option<&'static Row> {
        if !is_onnx(&node.domain) {
            self.refuse(node, "it is not an operator of ONNX's own domain");
            return None;
        }
        let Some(row) = table::find(&node.op_type) else {
            self.refuse(node, table::why_refused(&node.op_type));
            return None;
        };
        let before = self.refusals.len();
        if self.opset < row.since {
            let reason = format!(
                "opset {} defines it differently from opset {}, the oldest that is proven right",
                self.opset, row.since
            );
            self.refuse(node, reason);
        }
        for attribute in &node.attribute {
            if let Err(reason) = allowed(row, attribute) {
                self.refuse(node, reason);
            }
        }
        self.accept_inputs(node, row, facts);
        if node.output.len() > row.outputs.len()
            && !row.variadic_outputs()
            && node.output[row.outputs.len()..]
                .iter()
                .any(|o| !o.is_empty())
        {
            let reason = format!("more than {} outputs", row.outputs.len());
            self.refuse(node, reason);
        }
        if let Some(check) = row.check
            && let Err(reason) = check(node, facts)
        {
            self.refuse(node, reason);
        }
        (self.refusals.len() == before).then_some(row)
    }

    fn accept_inputs(&mut self, node: &NodeProto, row: &Row, facts: &Facts<'_>) {
        for (i, name) in node.input.iter().enumerate() {
            if name.is_empty() {
                continue;
            }
            let types = row.inputs.get(i).or(row.inputs.last());
            let fact = facts.get(name);
            match (fact.dtype, types) {
                (Some(dtype), Some(types)) if types.has(dtype) => self.see(Some(dtype)),
                (Some(dtype), _) => {
                    self.refuse(node, format!("input {i} (`{name}`) is `{dtype}`"));
                }
                // What a refused node would have given is not refused once more.
                (None, _) if !self.refusals.is_empty() => {}
                (None, _) => {
                    self.refuse(
                        node,
                        format!("the element type of input {i} (`{name}`) is not known"),
                    );
                }
            }
            let passes = matches!(
                node.op_type.as_str(),
                "Concat" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze"
            ) && (i == 0 || node.op_type == "Concat");
            // Exporters write the greatest i64 for the end of a `Slice` that goes to the end.
            let bound = node.op_type == "Slice" && (i == 1 || i == 2);
            if let Some(value) = fact.wide
                && !passes
                && !bound
            {
                self.refuse(
                    node,
                    format!("input {i} (`{name}`) holds {value}, which does not fit 32 bits"),
                );
            }
        }
    }

    fn derive(&mut self, node: &NodeProto, row: &Row, facts: &Facts<'_>) -> Vec<Fact> {
        let named = |attribute: &str| {
            int(node, attribute).and_then(|code| Dtype::from_onnx(i32::try_from(code).ok()?))
        };
        // The bounds of a `Slice` are not in its result, and wide data of one is refused.
        let wide = (0..node.input.len())
            .find_map(|i| facts.input(node, i).wide)
            .filter(|_| node.op_type != "Slice");
        (0..node.output.len())
            .map(|i| {
                let like = |index| facts.input(node, index).dtype;
                let dtype = match row.outputs.get(i).or(row.outputs.last()) {
                    None => None,
                    Some(Out::Like(index)) => like(*index),
                    Some(Out::Is(dtype)) => Some(*dtype),
                    Some(Out::Named(name, default)) => named(name).or(Some(*default)),
                    Some(Out::NamedOrLike(name, index)) => named(name).or_else(|| like(*index)),
                    Some(Out::LikeOr(index, default)) => Some(like(*index).unwrap_or(*default)),
                    Some(Out::Value) => Some(
                        attribute(node, "value")
                            .and_then(|a| Dtype::from_onnx(a.t.data_type))
                            .unwrap_or(Dtype::F32),
                    ),
                };
                self.see(dtype);
                Fact {
                    dtype,
                    shape: row
                        .shape
                        .apply(node, i, facts)
                        // The keys and values that it passes on have ranks of their own.
                        .filter(|_| i == 0 || node.op_type != "Attention"),
                    ints: None,
                    wide,
                }
            })
            .collect()
    }

    /// Gives every output of the graph a node of its own: an input or a constant is copied.
    fn own_outputs(&mut self, graph: &mut GraphProto, facts: &Facts<'_>, top: bool) {
        let made: HashSet<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
        let constants: HashSet<String> = graph
            .node
            .iter()
            .filter(|n| n.op_type == "Constant")
            .flat_map(|n| n.output.clone())
            .collect();
        for value in &mut graph.output {
            let fact = facts.get(&value.name);
            if let Some(wide) = fact.wide {
                self.refusals.push(Refusal {
                    node: value.name.clone(),
                    operator: "output".into(),
                    reason: format!("it holds {wide}, which does not fit 32 bits"),
                });
            }
            if !top || (made.contains(&value.name) && !constants.contains(&value.name)) {
                continue;
            }
            let copy = self.names.fresh("output");
            graph.node.push(node("Identity", &[&value.name], &[&copy]));
            value.name = copy;
        }
    }
}

fn allowed(row: &Row, attribute: &AttributeProto) -> Result<(), String> {
    let name = attribute.name.as_str();
    let Some((_, allowed)) = row.attributes.iter().find(|(n, _)| *n == name) else {
        return Err(format!("with the attribute `{name}`"));
    };
    let text = || String::from_utf8_lossy(&attribute.s).into_owned();
    match allowed {
        Allowed::Any => Ok(()),
        Allowed::Int(v) if attribute.i == *v => Ok(()),
        Allowed::Int(_) => Err(format!("with `{name}` = {}", attribute.i)),
        Allowed::OneOf(values) if values.contains(&text().as_str()) => Ok(()),
        Allowed::OneOf(_) => Err(format!("with `{name}` = `{}`", text())),
        Allowed::Ones if attribute.ints.iter().all(|&v| v == 1) => Ok(()),
        Allowed::Ones => Err(format!("with `{name}` = {:?}", attribute.ints)),
    }
}

/// Drops initializers that nothing reads: they may be of types that the engine does not hold.
fn drop_unread(graph: &mut GraphProto) {
    fn read(graph: &GraphProto, names: &mut HashSet<String>) {
        names.extend(graph.output.iter().map(|v| v.name.clone()));
        for node in &graph.node {
            names.extend(node.input.iter().cloned());
            subgraphs(node).for_each(|g| read(g, names));
        }
    }
    let mut names = HashSet::new();
    read(graph, &mut names);
    graph.initializer.retain(|t| names.contains(&t.name));
    let kept: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.retain(|v| !kept.contains(v.name.as_str()));
}
