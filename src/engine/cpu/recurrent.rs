//! GRU, LSTM and RNN, as <https://github.com/onnx/onnx/blob/main/docs/Operators.md> defines them.
//!
//! The engine has LSTM, and GRU with `linear_before_reset`, over whole sequences and time first. Every other form becomes a loop
//! over time with the equations written out.

use super::facts::Facts;
use super::proto::{
    attribute, float_scalar, input, int, int_tensor, node, remove, set_graph, set_int, set_ints,
    string,
};
use super::site::{Rewritten, Site};
use onnx_protobuf::{GraphProto, NodeProto, ValueInfoProto};

/// The activations that the rewriting knows.
const ACTIVATIONS: &[&str] = &["Relu", "Sigmoid", "Tanh"];

/// The forms that can be computed; otherwise why not.
pub fn accepts(node: &NodeProto, facts: &Facts<'_>) -> Result<(), String> {
    if hidden_size(node, facts).is_none() {
        return Err("its hidden size is not known".into());
    }
    let activations = activations(node);
    if let Some(unknown) = activations
        .iter()
        .find(|a| !ACTIVATIONS.contains(&a.as_str()))
    {
        return Err(format!("with the activation `{unknown}`"));
    }
    if activations.len() != default_activations(&node.op_type).len() * directions(node).len() {
        return Err(format!("with {} activations", activations.len()));
    }
    Ok(())
}

fn hidden_size(node: &NodeProto, facts: &Facts<'_>) -> Option<i64> {
    int(node, "hidden_size").or_else(|| Some((*facts.input(node, 2).shape?.get(2)?)? as i64))
}

/// How many matrices of weights lie in one.
fn gates(op: &str) -> i64 {
    match op {
        "GRU" => 3,
        "LSTM" => 4,
        _ => 1,
    }
}

fn default_activations(op: &str) -> &'static [&'static str] {
    match op {
        "GRU" => &["Sigmoid", "Tanh"],
        "LSTM" => &["Sigmoid", "Tanh", "Tanh"],
        _ => &["Tanh"],
    }
}

fn directions(node: &NodeProto) -> &'static [bool] {
    match string(node, "direction") {
        Some("reverse") => &[true],
        Some("bidirectional") => &[false, true],
        _ => &[false],
    }
}

/// Those of all directions, one after the other.
fn activations(node: &NodeProto) -> Vec<String> {
    let given: Vec<String> = attribute(node, "activations")
        .map(|a| {
            a.strings
                .iter()
                .map(|s| String::from_utf8_lossy(s).into_owned())
                .collect()
        })
        .unwrap_or_default();
    let default = default_activations(&node.op_type);
    if !given.is_empty() {
        return given;
    }
    let all = default.iter().map(ToString::to_string);
    all.cycle()
        .take(default.len() * directions(node).len())
        .collect()
}

/// Whether the engine computes this form itself, but for the layout.
fn native(node: &NodeProto) -> bool {
    // Input 4 holds the lengths of sequences, 7 the peepholes: the engine knows neither.
    let plain = input(node, 4).is_none() && input(node, 7).is_none();
    let default = default_activations(&node.op_type);
    let usual = activations(node)
        .iter()
        .zip(default.iter().cycle())
        .all(|(a, b)| a == b);
    let has = match node.op_type.as_str() {
        "GRU" => int(node, "linear_before_reset").unwrap_or(0) != 0,
        "LSTM" => true,
        _ => false,
    };
    plain && usual && has
}

/// Writes `original` with what the engine computes right.
pub fn recurrent(original: &NodeProto, site: &mut Site<'_>, out: &mut Rewritten) {
    let mut inputs: Vec<String> = original.input.clone();
    inputs.resize(8, String::new());
    let batch_first = int(original, "layout").unwrap_or(0) != 0;
    let states = if original.op_type == "LSTM" { 2 } else { 1 };
    if batch_first {
        // The data and the states before the first step are what `layout` is about.
        for i in [0, 5, 6].into_iter().take(1 + states) {
            if !inputs[i].is_empty() {
                inputs[i] = transpose(&inputs[i], &[1, 0, 2], site, out);
            }
        }
    }
    let named = |i: usize, site: &mut Site<'_>| match original.output.get(i) {
        Some(name) if !name.is_empty() && !batch_first => name.clone(),
        _ => site.names.fresh("result"),
    };
    let results: Vec<String> = (0..=states).map(|i| named(i, site)).collect();
    if native(original) {
        let mut plain = original.clone();
        for name in ["layout", "activations"] {
            remove(&mut plain, name);
        }
        plain.input = inputs[..5 + states].to_vec();
        plain.output.clone_from(&results);
        out.nodes.push(plain);
    } else {
        let hidden = hidden_size(original, site.facts).unwrap_or(0);
        Loops::new(original, &inputs, hidden, site, out).write(&results);
    }
    if batch_first {
        let order: [&[i64]; 2] = [&[2, 0, 1, 3], &[1, 0, 2]];
        for (i, result) in original
            .output
            .iter()
            .enumerate()
            .filter(|(_, r)| !r.is_empty())
        {
            let mut back = node("Transpose", &[&results[i]], &[result]);
            set_ints(&mut back, "perm", order[i.min(1)]);
            out.nodes.push(back);
        }
    }
}

fn transpose(data: &str, order: &[i64], site: &mut Site<'_>, out: &mut Rewritten) -> String {
    let result = site.names.fresh("transposed");
    let mut transpose = node("Transpose", &[data], &[&result]);
    set_ints(&mut transpose, "perm", order);
    out.nodes.push(transpose);
    result
}

/// One loop over time for each direction.
struct Loops<'o, 's, 'f> {
    original: &'o NodeProto,
    /// Time first; empty where left out.
    inputs: &'o [String],
    hidden: i64,
    gates: i64,
    site: &'s mut Site<'f>,
    out: &'s mut Rewritten,
    /// The body of the loop that is being written, if one is.
    body: Option<GraphProto>,
}

impl<'o, 's, 'f> Loops<'o, 's, 'f> {
    fn new(
        original: &'o NodeProto,
        inputs: &'o [String],
        hidden: i64,
        site: &'s mut Site<'f>,
        out: &'s mut Rewritten,
    ) -> Self {
        Loops {
            original,
            inputs,
            hidden,
            gates: gates(&original.op_type),
            site,
            out,
            body: None,
        }
    }

    /// A node with one result, in the body where there is one.
    fn emit(&mut self, op: &str, inputs: &[&str]) -> String {
        let result = self.site.names.fresh(&op.to_lowercase());
        self.push(node(op, inputs, &[&result]));
        result
    }

    fn push(&mut self, node: NodeProto) {
        match &mut self.body {
            Some(body) => body.node.push(node),
            None => self.out.nodes.push(node),
        }
    }

    fn ints(&mut self, dims: &[i64], values: &[i64]) -> String {
        let name = self.site.names.fresh("const");
        self.out.constants.push(int_tensor(&name, dims, values));
        name
    }

    fn float(&mut self, value: f32) -> String {
        let name = self.site.names.fresh("const");
        self.out.constants.push(float_scalar(&name, value));
        name
    }

    fn slice(&mut self, data: &str, from: i64, to: i64, axis: i64) -> String {
        let [from, to, axis] = [from, to, axis].map(|v| self.ints(&[1], &[v]));
        self.emit("Slice", &[data, &from, &to, &axis])
    }

    /// Gate `index` of a value whose last axis holds all of them.
    fn gate(&mut self, all: &str, index: i64, axis: i64) -> String {
        self.slice(all, index * self.hidden, (index + 1) * self.hidden, axis)
    }

    fn of_direction(&mut self, data: &str, direction: i64) -> String {
        let index = self.ints(&[], &[direction]);
        self.emit("Gather", &[data, &index])
    }

    fn matrix(&mut self, data: &str, direction: i64) -> String {
        let one = self.of_direction(data, direction);
        let result = self.site.names.fresh("matrix");
        let mut transpose = node("Transpose", &[&one], &[&result]);
        set_ints(&mut transpose, "perm", &[1, 0]);
        self.push(transpose);
        result
    }

    fn unsqueeze(&mut self, data: &str, axis: i64) -> String {
        let axis = self.ints(&[1], &[axis]);
        self.emit("Unsqueeze", &[data, &axis])
    }

    /// `data`, time first, from its end to its beginning; per sequence where they have lengths.
    fn reverse(&mut self, data: &str) -> String {
        if self.inputs[4].is_empty() {
            // No index is before the first one, so the end is one that is clipped.
            let [last, before, axis] = [-1, i64::MIN, 0].map(|v| self.ints(&[1], &[v]));
            return self.emit("Slice", &[data, &last, &before, &axis, &last]);
        }
        let result = self.site.names.fresh("reversed");
        let mut reverse = node("ReverseSequence", &[data, &self.inputs[4]], &[&result]);
        set_int(&mut reverse, "time_axis", 0);
        set_int(&mut reverse, "batch_axis", 1);
        self.push(reverse);
        result
    }

    fn write(&mut self, results: &[String]) {
        let shape = self.emit("Shape", &[&self.inputs[0].clone()]);
        let mut parts: Vec<Vec<String>> = vec![Vec::new(); results.len()];
        for (i, &reversed) in directions(self.original).iter().enumerate() {
            let of_direction = self.direction(i as i64, reversed, &shape);
            for (parts, part) in parts.iter_mut().zip(of_direction) {
                parts.push(part);
            }
        }
        for (i, (parts, result)) in parts.iter().zip(results).enumerate() {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let mut concat = node("Concat", &parts, &[result]);
            // Directions are the second axis of all states, and the first of the last ones.
            set_int(&mut concat, "axis", i64::from(i == 0));
            self.push(concat);
        }
    }

    /// One direction: all hidden states `[time, 1, batch, hidden]`, and the last states `[1, batch, hidden]`.
    fn direction(&mut self, index: i64, reversed: bool, shape: &str) -> Vec<String> {
        let mut data = self.inputs[0].clone();
        if reversed {
            data = self.reverse(&data);
        }
        let weights = self.matrix(&self.inputs[1].clone(), index);
        let recurrence = self.matrix(&self.inputs[2].clone(), index);
        let mut projected = self.emit("MatMul", &[&data, &weights]);
        let mut bias = None;
        if !self.inputs[3].is_empty() {
            // ONNX lays the recurrence's bias behind that of the inputs.
            let both = self.of_direction(&self.inputs[3].clone(), index);
            let count = self.gates * self.hidden;
            let input_bias = self.slice(&both, 0, count, 0);
            projected = self.emit("Add", &[&projected, &input_bias]);
            bias = Some(self.slice(&both, count, 2 * count, 0));
        }
        let peepholes = (self.original.op_type == "LSTM" && !self.inputs[7].is_empty())
            .then(|| self.of_direction(&self.inputs[7].clone(), index));
        let initial: Vec<String> = (0..self.states())
            .map(|i| self.initial(i, index, shape))
            .collect();
        let zero = self.ints(&[], &[0]);
        let trips = self.emit("Gather", &[shape, &zero]);

        let names: Vec<String> = ["time", "go", "h", "c"][..2 + self.states()]
            .iter()
            .map(|s| self.site.names.fresh(s))
            .collect();
        self.body = Some(GraphProto {
            name: self.site.names.fresh("body"),
            ..GraphProto::new()
        });
        let step = Step {
            index,
            projected,
            recurrence,
            bias,
            peepholes,
            time: names[0].clone(),
            hidden: names[2].clone(),
            cell: names.get(3).cloned().unwrap_or_default(),
        };
        let mut states = match self.original.op_type.as_str() {
            "GRU" => vec![self.gru(&step)],
            "LSTM" => self.lstm(&step),
            _ => vec![self.rnn(&step)],
        };
        let told = self.masked(&mut states, &step);
        // The loop ends by its count alone.
        let go = self.emit("Identity", &[&names[1]]);
        let mut body = self.body.take().unwrap_or_default();
        let declare = |name: &String| ValueInfoProto {
            name: name.clone(),
            ..ValueInfoProto::new()
        };
        body.input = names.iter().map(declare).collect();
        body.output = std::iter::once(&go)
            .chain(&states)
            .chain([&told])
            .map(declare)
            .collect();
        self.run(body, &trips, &initial, reversed)
    }

    fn states(&self) -> usize {
        if self.original.op_type == "LSTM" {
            2
        } else {
            1
        }
    }

    /// The state before the first step: `[batch, hidden]`.
    fn initial(&mut self, state: usize, direction: i64, shape: &str) -> String {
        let given = self.inputs[5 + state].clone();
        if !given.is_empty() {
            return self.of_direction(&given, direction);
        }
        let batch = self.slice(shape, 1, 2, 0);
        let hidden = self.ints(&[1], &[self.hidden]);
        let wanted = self.site.names.fresh("shape");
        let mut concat = node("Concat", &[&batch, &hidden], &[&wanted]);
        set_int(&mut concat, "axis", 0);
        self.push(concat);
        let zero = self.float(0.0);
        self.emit("Expand", &[&zero, &wanted])
    }

    /// After the end of a sequence its states stay and what it puts out is zero. Returns what it puts out: not the state itself,
    /// because the engine takes no value for two outputs.
    fn masked(&mut self, states: &mut [String], step: &Step) -> String {
        let lengths = self.inputs[4].clone();
        if lengths.is_empty() {
            return self.unsqueeze(&states[0], 0);
        }
        let inside = self.emit("Less", &[&step.time, &lengths]);
        let inside = self.unsqueeze(&inside, 1);
        let zero = self.float(0.0);
        let told = self.emit("Where", &[&inside, &states[0], &zero]);
        for (state, before) in states.iter_mut().zip([&step.hidden, &step.cell]) {
            *state = self.emit("Where", &[&inside, state, before]);
        }
        told
    }

    /// The loop itself, and its results in the shape that they are put together in.
    fn run(
        &mut self,
        body: GraphProto,
        trips: &str,
        initial: &[String],
        reversed: bool,
    ) -> Vec<String> {
        let last: Vec<String> = initial
            .iter()
            .map(|_| self.site.names.fresh("last"))
            .collect();
        let all = self.site.names.fresh("all");
        let inputs: Vec<&str> = [trips, ""]
            .into_iter()
            .chain(initial.iter().map(String::as_str))
            .collect();
        let outputs: Vec<&str> = last.iter().chain([&all]).map(String::as_str).collect();
        let mut over_time = node("Loop", &inputs, &outputs);
        over_time.name.clone_from(&self.original.name);
        set_graph(&mut over_time, "body", body);
        self.push(over_time);
        let mut all = all;
        if reversed {
            all = self.reverse(&all);
        }
        // Only now, because a reversal by lengths wants batches as the second axis.
        if !self.inputs[4].is_empty() {
            all = self.unsqueeze(&all, 1);
        }
        let mut results = vec![all];
        for last in &last {
            results.push(self.unsqueeze(last, 0));
        }
        results
    }

    fn activate(&mut self, step: &Step, which: usize, value: &str) -> String {
        let each = default_activations(&self.original.op_type).len();
        let all = activations(self.original);
        let at = usize::try_from(step.index).unwrap_or(0) * each + which;
        let op = all.get(at).map_or("Tanh", String::as_str).to_owned();
        self.emit(&op, &[value])
    }

    /// `H · R^T`, with its bias.
    fn recur(&mut self, step: &Step, hidden: &str) -> String {
        let product = self.emit("MatMul", &[hidden, &step.recurrence]);
        match &step.bias {
            Some(bias) => self.emit("Add", &[&product, bias]),
            None => product,
        }
    }

    fn rnn(&mut self, step: &Step) -> String {
        let given = self.emit("Gather", &[&step.projected, &step.time]);
        let recurred = self.recur(step, &step.hidden);
        let sum = self.emit("Add", &[&given, &recurred]);
        self.activate(step, 0, &sum)
    }

    /// Update, reset and hidden gate.
    fn gru(&mut self, step: &Step) -> String {
        let given = self.emit("Gather", &[&step.projected, &step.time]);
        let recurred = self.recur(step, &step.hidden);
        let [update, reset] = [0, 1].map(|i| {
            let (a, b) = (self.gate(&given, i, 1), self.gate(&recurred, i, 1));
            let sum = self.emit("Add", &[&a, &b]);
            self.activate(step, 0, &sum)
        });
        let given = self.gate(&given, 2, 1);
        let recurred = if int(self.original, "linear_before_reset").unwrap_or(0) != 0 {
            let recurred = self.gate(&recurred, 2, 1);
            self.emit("Mul", &[&reset, &recurred])
        } else {
            let kept = self.emit("Mul", &[&reset, &step.hidden]);
            let recurred = self.recur(step, &kept);
            self.gate(&recurred, 2, 1)
        };
        let sum = self.emit("Add", &[&given, &recurred]);
        let new = self.activate(step, 1, &sum);
        let one = self.float(1.0);
        let rest = self.emit("Sub", &[&one, &update]);
        let new = self.emit("Mul", &[&rest, &new]);
        let kept = self.emit("Mul", &[&update, &step.hidden]);
        self.emit("Add", &[&new, &kept])
    }

    /// Input, output, forget and cell gate; the states are hidden and cell.
    fn lstm(&mut self, step: &Step) -> Vec<String> {
        let given = self.emit("Gather", &[&step.projected, &step.time]);
        let recurred = self.recur(step, &step.hidden);
        let sums = self.emit("Add", &[&given, &recurred]);
        let gate = |this: &mut Self, index: i64, peephole: i64, cell: &str| {
            let mut sum = this.gate(&sums, index, 1);
            if let Some(all) = &step.peepholes {
                let weight = this.gate(all, peephole, 0);
                let seen = this.emit("Mul", &[&weight, cell]);
                sum = this.emit("Add", &[&sum, &seen]);
            }
            this.activate(step, 0, &sum)
        };
        let input = gate(self, 0, 0, &step.cell);
        let forget = gate(self, 2, 2, &step.cell);
        let sum = self.gate(&sums, 3, 1);
        let new = self.activate(step, 1, &sum);
        let kept = self.emit("Mul", &[&forget, &step.cell]);
        let new = self.emit("Mul", &[&input, &new]);
        let cell = self.emit("Add", &[&kept, &new]);
        // This one sees the new state of the cell.
        let output = gate(self, 1, 1, &cell);
        let shown = self.activate(step, 2, &cell);
        let hidden = self.emit("Mul", &[&output, &shown]);
        vec![hidden, cell]
    }
}

/// What one step of a direction reads.
struct Step {
    index: i64,
    /// The inputs times their weights: `[time, batch, gates * hidden]`.
    projected: String,
    /// Shape `[hidden, gates * hidden]`, of one direction.
    recurrence: String,
    bias: Option<String>,
    peepholes: Option<String>,
    /// Values of the loop's body.
    time: String,
    hidden: String,
    cell: String,
}
