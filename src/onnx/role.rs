//! Tells weights from values that engines bake in.
//!
//! A value is *baked* where an engine reads it while it is built: bounds, targets, axes, zero points. What `TensorRT` bakes was
//! probed with its parser (`markWeightsRefittable` answers no) and read in onnx-tensorrt 10.10 `onnxOpImporters.cpp`.
//! Constants that reach a baked input through value-preserving or arithmetic operators decide it just as much, so they are
//! structural too: claiming too much structure costs a recompile, claiming too little an engine that is silently wrong.

use super::collect::Constant;
use super::net::{Net, Value, ValueId};
use super::{Role, is_default_domain};
use crate::tensor::Dtype;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// The first reason that was found for a value: the operator that reads it, at which input, and why that counts.
type Reason<'a> = (&'a str, usize, &'static str);

/// The role of every constant, by index.
pub(super) fn roles(net: &Net<'_>, constants: &[Constant]) -> Vec<Role> {
    let flow = Flow::of(net);
    let mut value_of: Vec<SmallVec<[ValueId; 2]>> = vec![SmallVec::new(); constants.len()];
    for (id, value) in net.values.iter().enumerate() {
        if let Value::Constant(c) = value {
            value_of[*c].push(id);
        }
    }
    for node in &net.nodes {
        if let (Some(c), Some(Some(id))) = (node.constant, node.outputs.first()) {
            value_of[c].push(*id);
        }
    }
    constants
        .iter()
        .zip(value_of)
        .map(|(constant, ids)| {
            // What nothing reads is in no engine, whatever its type.
            let Some(reader) = first(&ids, &flow.read) else {
                return Role::Unused;
            };
            let structural = |(operator, input, why): Reason<'_>| Role::Structural {
                operator: operator.to_owned(),
                input,
                why,
            };
            // Before the type counts: a float that is a `Clip` bound is read when the engine is
            // built.
            if let Some(reason) = first(&ids, &flow.baked) {
                return structural(reason);
            }
            if is_data(constant.dtype) {
                return Role::Weight;
            }
            // An integer is a weight only where it reaches readers that take it as quantised data, and no others.
            match (first(&ids, &flow.quantised), first(&ids, &flow.plain)) {
                (Some(_), None) => Role::Weight,
                (_, plain) => structural(plain.unwrap_or(reader)),
            }
        })
        .collect()
}

/// The first reason that one of the values has.
fn first<'a>(values: &[ValueId], reasons: &[Option<Reason<'a>>]) -> Option<Reason<'a>> {
    values.iter().find_map(|&v| reasons[v])
}

/// Types whose values are data unless a position says otherwise.
fn is_data(dtype: Dtype) -> bool {
    dtype.is_float() || matches!(dtype, Dtype::C64 | Dtype::C128)
}

/// How values reach the inputs of operators; indexed by value.
struct Flow<'a> {
    /// Read by a node or an output.
    read: Vec<Option<Reason<'a>>>,
    /// Reaches a baked input.
    baked: Vec<Option<Reason<'a>>>,
    /// Reaches an input where an integer is not quantised data.
    plain: Vec<Option<Reason<'a>>>,
    /// Reaches an input where an integer is quantised data.
    quantised: Vec<Option<Reason<'a>>>,
}

/// How much of a value an operator hands on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The elements themselves, perhaps rearranged.
    Elements,
    /// Numbers computed from them, or converted.
    Numbers,
}

struct Builder<'n, 'a> {
    net: &'n Net<'a>,
    flow: Flow<'a>,
    /// A value, one that hands its content on to it, and how much of it; in the order found.
    passed: Vec<(ValueId, ValueId, Pass)>,
}

/// For each value, the values that hand their content on to it.
struct Sources {
    /// Where those of a value begin in `all`, by value; one more for the end.
    starts: Vec<usize>,
    all: Vec<(ValueId, Pass)>,
}

impl Sources {
    /// Those of `count` values; of each in the order of `passed`.
    fn of(count: usize, mut passed: Vec<(ValueId, ValueId, Pass)>) -> Sources {
        passed.sort_by_key(|&(value, ..)| value);
        let mut starts = vec![0; count + 1];
        for &(value, ..) in &passed {
            starts[value + 1] += 1;
        }
        for i in 0..count {
            starts[i + 1] += starts[i];
        }
        let all = passed.into_iter().map(|(_, source, pass)| (source, pass));
        Sources {
            starts,
            all: all.collect(),
        }
    }

    fn of_value(&self, value: ValueId) -> &[(ValueId, Pass)] {
        &self.all[self.starts[value]..self.starts[value + 1]]
    }
}

impl<'a> Flow<'a> {
    fn of(net: &Net<'a>) -> Flow<'a> {
        let n = net.values.len();
        let mut builder = Builder {
            net,
            flow: Flow {
                read: vec![None; n],
                baked: vec![None; n],
                plain: vec![None; n],
                quantised: vec![None; n],
            },
            passed: Vec::with_capacity(n),
        };
        for (b, body) in net.bodies.iter().enumerate() {
            for (i, &value) in body.outputs.iter().enumerate() {
                let Some(value) = value else { continue };
                let reason = || ("graph output", i, INTEGER);
                builder.flow.read[value].get_or_insert_with(reason);
                // A caller may do anything with an output of the model; what leaves an inner body
                // is followed further.
                if b == net.main {
                    builder.flow.plain[value].get_or_insert_with(reason);
                }
            }
        }
        for node in 0..net.nodes.len() {
            builder.node(node);
        }
        let Builder {
            mut flow, passed, ..
        } = builder;
        let sources = Sources::of(n, passed);
        spread(&mut flow.baked, &sources, |_| true);
        // Arithmetic ends these two: what it gives is no quantised value any more. What bakes goes
        // on, since a bound may be computed.
        spread(&mut flow.plain, &sources, |pass| pass == Pass::Elements);
        spread(&mut flow.quantised, &sources, |pass| pass == Pass::Elements);
        flow
    }
}

/// Carries reasons from values to those that their content comes from.
fn spread(reasons: &mut [Option<Reason<'_>>], sources: &Sources, through: impl Fn(Pass) -> bool) {
    let mut queue: VecDeque<ValueId> = (0..reasons.len())
        .filter(|&v| reasons[v].is_some())
        .collect();
    while let Some(value) = queue.pop_front() {
        for &(source, pass) in sources.of_value(value) {
            // The first reason is kept, and each value is queued once, so that loops end.
            if through(pass) && reasons[source].is_none() {
                reasons[source] = reasons[value];
                queue.push_back(source);
            }
        }
    }
}

impl Builder<'_, '_> {
    fn node(&mut self, id: usize) {
        let net = self.net;
        let node = &net.nodes[id];
        let op = node.proto.op_type.as_str();
        // Of operators of other domains and of the model's own functions the tables below say
        // nothing.
        let known = is_default_domain(&node.proto.domain) && node.call.is_none();
        for (i, value) in node.inputs.iter().enumerate() {
            let Some(value) = *value else { continue };
            let reason = |why| move || (op, i, why);
            self.flow.read[value].get_or_insert_with(reason(INTEGER));
            let why = if known { baked(op, i) } else { None };
            let pass = if known { passes(op, i) } else { None };
            if let Some(why) = why {
                self.flow.baked[value].get_or_insert_with(reason(why));
            } else if known && quantised_data(op, i) {
                self.flow.quantised[value].get_or_insert_with(reason(INTEGER));
            } else if pass != Some(Pass::Elements) && node.bodies.is_empty() && node.call.is_none()
            {
                // Elements that are handed on count where they are read, also within bodies and
                // functions.
                self.flow.plain[value].get_or_insert_with(reason(INTEGER));
            }
            if let (None, Some(pass)) = (why, pass) {
                for &output in node.outputs.iter().flatten() {
                    self.passed.push((output, value, pass));
                }
            }
        }
        if let Some(function) = node.call {
            self.connect(id, self.net.functions[function].1, 0, 0);
        }
        for &(_, body) in &node.bodies {
            match op {
                // Loop(M, cond, v…) with body(iteration, cond, v…) -> (cond, v…, scan…).
                "Loop" if known => {
                    self.connect(id, body, 0, 1);
                    self.carry(body, 1);
                }
                // Scan before opset 9 has an input for sequence lengths before the states.
                "Scan" if known => {
                    let extra = node
                        .inputs
                        .len()
                        .saturating_sub(self.net.bodies[body].inputs.len());
                    self.connect(id, body, extra, 0);
                    self.carry(body, 0);
                }
                // The branches of an If have no inputs.
                _ => self.connect(id, body, 0, 0),
            }
        }
    }

    /// Connects the inputs of a node from `first` on to those of a body, and the body's outputs from `skip` on to the
    /// node's.
    fn connect(&mut self, node: usize, body: usize, first: usize, skip: usize) {
        let net = self.net;
        let (node, body) = (&net.nodes[node], &net.bodies[body]);
        for (outer, &inner) in node.inputs.iter().skip(first).zip(&body.inputs) {
            if let Some(outer) = *outer {
                self.passed.push((inner, outer, Pass::Elements));
            }
        }
        for (inner, outer) in body.outputs.iter().skip(skip).zip(&node.outputs) {
            if let (Some(inner), Some(outer)) = (*inner, *outer) {
                self.passed.push((outer, inner, Pass::Elements));
            }
        }
    }

    /// Connects a body's outputs to its inputs of the next iteration.
    fn carry(&mut self, body: usize, first_input: usize) {
        let body = &self.net.bodies[body];
        for (output, &input) in body
            .outputs
            .iter()
            .zip(body.inputs.iter().skip(first_input))
        {
            if let Some(output) = *output {
                self.passed.push((input, output, Pass::Elements));
            }
        }
    }
}

/// Why integers are structural unless they are quantised data.
const INTEGER: &str = "integer constant";

/// Why input `input` of `op` is baked when an engine is built; `None` where it is data.
fn baked(op: &str, input: usize) -> Option<&'static str> {
    Some(match (op, input) {
        ("Clip", 1 | 2) => "Clip bound",
        ("Reshape", 1) => "Reshape target",
        ("Expand", 1) => "Expand target",
        ("Slice", 1..=4) => "Slice bounds, axes or steps",
        ("Tile", 1 | 2) => "Tile repeats",
        ("Resize", 1..=3) | ("Upsample", 1) => "Resize region, scales or sizes",
        ("Pad", 1..=3) => "Pad widths, value or axes",
        ("Split" | "SplitToSequence", 1) => "Split sizes",
        ("Squeeze" | "Unsqueeze" | "CumSum", 1) => "axes",
        ("QuantizeLinear" | "DequantizeLinear", 2)
        | ("QLinearConv" | "QLinearMatMul", 2 | 5 | 7)
        | ("ConvInteger" | "MatMulInteger", 2 | 3) => "zero point",
        ("TopK", 1) => "TopK count",
        ("OneHot", 1 | 2) => "OneHot depth or values",
        ("Dropout", 1 | 2) => "Dropout ratio or mode",
        ("Range", 0..=2) => "Range bound or step",
        ("If", 0) => "If condition",
        ("Loop", 0) => "Loop trip count",
        ("ConstantOfShape", 0) => "shape",
        ("CenterCropPad" | "AffineGrid" | "Trilu", 1) | ("Col2Im", 1 | 2) | ("MaxUnpool", 2) => {
            "sizes"
        }
        ("NonMaxSuppression", 2..=4) => "NonMaxSuppression limit",
        ("STFT", 1 | 3) | ("DFT", 1 | 2) => "frame length, step or axis",
        ("HannWindow" | "HammingWindow" | "BlackmanWindow", 0) | ("MelWeightMatrix", 0..=4) => {
            "window parameter"
        }
        (op, 1) if op.starts_with("Reduce") => "reduced axes",
        _ => return None,
    })
}

/// Inputs where quantised integers are data: the activations and weights of quantised operators, and their biases.
fn quantised_data(op: &str, input: usize) -> bool {
    matches!(
        (op, input),
        ("DequantizeLinear", 0)
            | ("QLinearConv", 0 | 3 | 8)
            | ("QLinearMatMul", 0 | 3)
            | ("ConvInteger" | "MatMulInteger", 0 | 1)
    )
}

/// Whether, and how, the content of input `input` reaches the outputs of a node. Shape and Size hand nothing on.
fn passes(op: &str, input: usize) -> Option<Pass> {
    let elements = match op {
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Expand"
        | "Slice" | "Gather" | "GatherElements" | "GatherND" | "Split" | "Tile" | "Pad"
        | "Trilu" | "SplitToSequence" | "SequenceAt" | "ConcatFromSequence" | "Optional"
        | "OptionalGetElement" => input == 0,
        "Concat" | "SequenceConstruct" => true,
        "SequenceInsert" => input < 2,
        "Where" => input > 0,
        _ => false,
    };
    if elements {
        return Some(Pass::Elements);
    }
    let numbers = match op {
        "Cast" | "CastLike" | "Clip" | "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin"
        | "ReduceMean" | "CumSum" | "TopK" | "Range" => input == 0,
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Neg" | "Abs" | "Floor" | "Ceil"
        | "Round" | "Sqrt" | "Reciprocal" | "Exp" | "Log" | "Sign" | "Min" | "Max" | "Sum"
        | "Mean" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And"
        | "Or" | "Not" | "Xor" | "Where" | "BitShift" => true,
        "ScatterND" | "ScatterElements" | "Scatter" => input != 1,
        "OneHot" => input == 2,
        _ => false,
    };
    numbers.then_some(Pass::Numbers)
}

#[cfg(test)]
mod tests;
