//! Which nodes of a graph compute in half precision, and the graph that does so.
//!
//! A value keeps its name in f32 wherever anything reads it so (an output of the model, a subgraph, a node that stays in f32), and
//! its half has another name then; a value that is read in half precision alone keeps its name in half precision. Weights are
//! converted in place where nothing reads them in f32, and cast otherwise.

use super::types::{Functions, Types, named};
use super::{Converted, Fault, Half, Kept, to_bytes};
use crate::onnx::write::serialise;
use crate::onnx::{Model, Weight, is_default_domain, keep};
use crate::tensor::{Dtype, to_f32};
use glob::Pattern;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::type_proto::Value;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use protobuf::MessageField;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Operators that ONNX defines for half precision. Left out are those that count (`Range`, `CumSum`: no whole number above 2048
/// has an f16 of its own), take coordinates (`GridSample`), quantise (scales are small), draw at random, or have subgraphs.
pub(super) const OPERATORS: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "GRU",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LSTM",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "NonZero",
    "PRelu",
    "Pad",
    "Pow",
    "RMSNormalization",
    "RNN",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "RotaryEmbedding",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
    "Where",
];

/// Operators whose result may be infinite where a vanishing constant was all that kept their argument from zero.
const AFTER_VANISHING: &[&str] = &["Div", "Log", "Pow", "Reciprocal", "Sqrt"];

/// Half of the smallest f16 above zero, 2⁻²⁴: what is less is rounded to zero.
const SMALLEST: f32 = 1.0 / (1u32 << 25) as f32;

/// Whether input `index` is f32 whatever the others are.
fn always_f32(node: &NodeProto, index: usize) -> bool {
    match node.op_type.as_str() {
        // Before opset 11, Resize has its scales where the region of interest is now.
        "Resize" => matches!(index, 1 | 2),
        "Upsample" => index == 1,
        _ => false,
    }
}

/// Whether output `index` is f32 whatever the inputs are.
fn gives_f32(node: &NodeProto, index: usize) -> bool {
    node.op_type == "LayerNormalization" && index > 0
}

/// Whether the node asks for extents alone, and reads whichever there is.
fn reads_extents(node: &NodeProto) -> bool {
    is_default_domain(&node.domain) && matches!(node.op_type.as_str(), "Shape" | "Size")
}

/// The narrowed bytes of a weight.
pub(super) fn narrowed(
    model: &Model,
    weight: &Weight,
    bytes: &[u8],
    half: Half,
) -> Result<Vec<u8>, Fault> {
    to_bytes(bytes, half).map_err(|cause| Fault::Overflow {
        weight: weight.name.clone(),
        cause,
        readers: readers(model, &weight.name),
        half,
    })
}

/// A pattern for the nodes that read `value`.
fn readers(model: &Model, value: &str) -> Option<String> {
    let nodes = model.proto().graph.node.iter();
    let reading = nodes.filter(|n| n.input.iter().any(|i| i == value));
    let names: Option<BTreeSet<String>> = reading
        .map(|n| Some(n.name.as_str()).filter(|n| !n.is_empty()))
        // The comma is between patterns.
        .map(|name| Some(Pattern::escape(name?).replace(',', "?")))
        .collect();
    let names: Vec<String> = names?.into_iter().collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// What is known before anything is rewritten.
struct Survey<'m> {
    model: &'m Model,
    graph: &'m GraphProto,
    types: Types<'static>,
    /// For each node, why it stays in f32; `None` for one that computes in half precision, and for one that f32 does not concern.
    kept: Vec<Option<Kept>>,
    halved: Vec<bool>,
    /// Values of f32 by who reads them how.
    wanted_half: HashSet<&'m str>,
    wanted_f32: HashSet<&'m str>,
}

impl<'m> Survey<'m> {
    fn of(model: &'m Model, half: Half, f32_layers: &[Pattern]) -> Result<Survey<'m>, Fault> {
        let proto = model.proto();
        let graph = &proto.graph;
        let functions = Functions::of(proto);
        let types = Types::of(graph, None, &functions);
        let named = keep::named(model, f32_layers).map_err(|pattern| Fault::Pattern {
            pattern: pattern.to_string(),
            reason: keep::no_such_node(model),
        })?;
        let mut arguments = keep::phases(model);
        let whole = |n: &NodeProto| makes_whole(n, &types);
        arguments.extend(keep::arguments(model, whole));
        let vanishing = vanishing(model, half);
        let mut survey = Survey {
            model,
            graph,
            kept: Vec::new(),
            halved: Vec::new(),
            wanted_half: HashSet::new(),
            wanted_f32: HashSet::new(),
            types,
        };
        for node in &graph.node {
            let any = |set: &HashSet<&str>| node.output.iter().any(|o| set.contains(o.as_str()));
            // One reason for a node: what the user said comes before what was found.
            let kept = if !survey.concerns(node) {
                None
            } else if any(&named) {
                Some(Kept::Named)
            } else if any(&arguments) {
                Some(Kept::Argument)
            } else if any(&vanishing) {
                Some(Kept::Vanishes)
            } else if functions.called(node).is_some() || !survey.has_half(node) {
                Some(Kept::Operator)
            } else {
                None
            };
            survey.halved.push(survey.concerns(node) && kept.is_none());
            survey.kept.push(kept);
        }
        survey.want();
        survey.unhalve_sources();
        Ok(survey)
    }

    fn is_f32(&self, name: &str) -> bool {
        !name.is_empty() && self.types.get(name) == Some(Dtype::F32)
    }

    /// Whether the node reads or makes f32, and more than extents of it.
    fn concerns(&self, node: &NodeProto) -> bool {
        let mut all = node.input.iter().chain(&node.output);
        !is_constant(node) && !reads_extents(node) && all.any(|name| self.is_f32(name))
    }

    fn has_half(&self, node: &NodeProto) -> bool {
        // Where a type is not known, a half might go to what needs f32.
        let known = |name: &String| name.is_empty() || self.types.get(name).is_some();
        is_default_domain(&node.domain)
            && OPERATORS.binary_search(&node.op_type.as_str()).is_ok()
            && node.input.iter().chain(&node.output).all(known)
    }

    /// Notes who reads what how.
    fn want(&mut self) {
        self.wanted_f32
            .extend(self.graph.output.iter().map(|o| o.name.as_str()));
        for (node, halved) in self.graph.node.iter().zip(&self.halved) {
            for (index, name) in node.input.iter().enumerate() {
                if !self.is_f32(name) || reads_extents(node) {
                    continue;
                }
                if *halved && !always_f32(node, index) {
                    self.wanted_half.insert(name);
                } else {
                    self.wanted_f32.insert(name);
                }
            }
            // Subgraphs stay in f32, and so does what they read from outside.
            let inner = node
                .attribute
                .iter()
                .flat_map(|a| a.g.iter().chain(&a.graphs));
            inner.for_each(|g| captured(g, &mut self.wanted_f32));
        }
    }

    /// What is made of no f32 (a cast of whole numbers, a filled tensor) is exact in f32, which is cast where both are read.
    fn unhalve_sources(&mut self) {
        for (i, node) in self.graph.node.iter().enumerate() {
            let reads_f32 = node.input.iter().any(|name| self.is_f32(name));
            let read_in_f32 = |o: &String| self.wanted_f32.contains(o.as_str());
            if self.halved[i] && !reads_f32 && node.output.iter().any(read_in_f32) {
                self.halved[i] = false;
            }
        }
    }
}

fn is_constant(node: &NodeProto) -> bool {
    node.op_type == "Constant" && is_default_domain(&node.domain)
}

/// Whether the node makes whole numbers of f32: indices and sizes, of which half precision has few.
fn makes_whole(node: &NodeProto, types: &Types<'_>) -> bool {
    let f32 = node.input.first().and_then(|i| types.get(i)) == Some(Dtype::F32);
    let whole = |d: Dtype| !d.is_float() && d != Dtype::Bool;
    f32 && is_default_domain(&node.domain)
        && node.op_type == "Cast"
        && named(node, "to").is_some_and(whole)
}

/// Names that a subgraph reads from outside, and some of its own.
fn captured<'m>(graph: &'m GraphProto, names: &mut HashSet<&'m str>) {
    names.extend(graph.output.iter().map(|o| o.name.as_str()));
    for node in &graph.node {
        names.extend(node.input.iter().map(String::as_str));
        let inner = node
            .attribute
            .iter()
            .flat_map(|a| a.g.iter().chain(&a.graphs));
        inner.for_each(|g| captured(g, names));
    }
}

/// What is computed with a single number that f16 would round to zero (the 1e-12 of a normalisation), up to where it keeps a
/// division or a logarithm from infinity.
fn vanishing(model: &Model, half: Half) -> HashSet<&str> {
    // bf16 has the exponents of f32.
    if half == Half::Bf16 {
        return HashSet::new();
    }
    let gone = |w: &&Weight| {
        let single = w.dtype == Dtype::F32 && w.shape.iter().product::<usize>() == 1;
        single
            && to_f32(w.dtype, &model.bytes(w)).is_ok_and(|v| v[0] != 0.0 && v[0].abs() < SMALLEST)
    };
    let constants = model.weights().iter().filter(gone);
    let reached: HashSet<&str> = constants.map(|w| w.name.as_str()).collect();
    let mut found = HashSet::new();
    for node in &model.proto().graph.node {
        let reads = |set: &HashSet<&str>| node.input.iter().any(|i| set.contains(i.as_str()));
        let after = AFTER_VANISHING.contains(&node.op_type.as_str()) && reads(&found);
        if reads(&reached) || after {
            found.extend(node.output.iter().map(String::as_str));
        }
    }
    found
}

/// The model in half precision.
pub(super) fn convert(
    model: &Model,
    half: Half,
    f32_layers: &[Pattern],
) -> Result<Converted, Fault> {
    let proto = model.proto();
    let own = proto
        .opset_import
        .iter()
        .find(|o| is_default_domain(&o.domain));
    let found = own.map_or(1, |o| o.version);
    if found < half.opset() {
        return Err(Fault::Opset {
            half,
            found,
            needed: half.opset(),
        });
    }
    let survey = Survey::of(model, half, f32_layers)?;
    refuse_half(&survey)?;
    let mut new = proto.clone();
    let rewriter = Rewriter::of(&survey, half);
    let graph = new.graph.mut_or_insert_default();
    rewriter.constants(graph)?;
    rewriter.nodes(graph)?;
    rewriter.declarations(graph);
    if rewriter.in_place.is_empty() && !survey.halved.contains(&true) {
        return Err(Fault::Nothing);
    }
    let weights = model.weights().iter();
    let (halved, whole): (Vec<&Weight>, Vec<&Weight>) = weights
        .filter(|w| w.dtype == Dtype::F32)
        .partition(|w| rewriter.in_place.contains(w.name.as_str()));
    let mut kept: BTreeMap<Kept, usize> = BTreeMap::new();
    for why in survey.kept.iter().flatten() {
        *kept.entry(*why).or_default() += 1;
    }
    Ok(Converted {
        graph: serialise(&new),
        half,
        bytes: halved.iter().map(|w| w.byte_length() as u64).sum(),
        halved: halved.iter().map(|w| w.name.clone()).collect(),
        whole: whole.len(),
        nodes: survey.halved.iter().filter(|h| **h).count(),
        kept,
    })
}

fn refuse_half(survey: &Survey<'_>) -> Result<(), Fault> {
    let nodes = survey.graph.node.iter();
    let made = nodes.flat_map(|n| &n.output);
    let weights = survey
        .model
        .weights()
        .iter()
        .map(|w| (&w.name, Some(w.dtype)));
    let inputs = survey.graph.input.iter().map(|i| &i.name);
    let values = inputs
        .chain(made)
        .map(|name| (name, survey.types.get(name)));
    for (value, dtype) in weights.chain(values) {
        if let Some(dtype @ (Dtype::F16 | Dtype::Bf16)) = dtype {
            let value = value.clone();
            return Err(Fault::Already { value, dtype });
        }
    }
    Ok(())
}

struct Rewriter<'s, 'm> {
    survey: &'s Survey<'m>,
    half: Half,
    /// Weights and constants that are converted where they are.
    in_place: HashSet<&'m str>,
    /// Names of halves, by the name of what is in f32.
    aliases: HashMap<&'m str, String>,
    /// Values that nodes make in half precision.
    made_half: HashSet<&'m str>,
}

impl<'s, 'm> Rewriter<'s, 'm> {
    fn of(survey: &'s Survey<'m>, half: Half) -> Rewriter<'s, 'm> {
        let graph = survey.graph;
        let (only_half, both): (Vec<&str>, Vec<&str>) =
            (survey.wanted_half.iter()).partition(|name| !survey.wanted_f32.contains(**name));
        let mut constants: HashSet<&str> =
            graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let from_nodes = graph.node.iter().filter(|n| is_constant(n));
        constants.extend(from_nodes.flat_map(|n| n.output.iter().map(String::as_str)));
        let mut made_half = HashSet::new();
        for (node, _) in graph
            .node
            .iter()
            .zip(&survey.halved)
            .filter(|(_, halved)| **halved)
        {
            let outputs = node.output.iter().enumerate();
            let mine = outputs.filter(|(i, o)| survey.is_f32(o) && !gives_f32(node, *i));
            made_half.extend(mine.map(|(_, o)| o.as_str()));
        }
        let mut in_place = HashSet::new();
        let mut cast: Vec<&str> = both;
        for name in only_half {
            if constants.contains(name) {
                in_place.insert(name);
            } else if !made_half.contains(name) {
                cast.push(name);
            }
        }
        // Made in half precision, and read in f32 alone.
        cast.extend(made_half.iter().filter(|n| survey.wanted_f32.contains(*n)));
        let mut taken = names(graph);
        let mut aliases = HashMap::new();
        // Sets have no order, and the same model has to give the same file.
        cast.sort_unstable();
        cast.dedup();
        for name in cast {
            let mut alias = format!("{name}_{}", half.name());
            while !taken.insert(alias.clone()) {
                alias.push('_');
            }
            aliases.insert(name, alias);
        }
        Rewriter {
            survey,
            half,
            in_place,
            aliases,
            made_half,
        }
    }

    fn cast(from: &str, to: &str, dtype: Dtype) -> NodeProto {
        NodeProto {
            op_type: "Cast".into(),
            name: format!("{to}/Cast"),
            input: vec![from.into()],
            output: vec![to.into()],
            attribute: vec![AttributeProto {
                name: "to".into(),
                type_: AttributeType::INT.into(),
                i: i64::from(dtype.onnx()),
                ..AttributeProto::default()
            }],
            ..NodeProto::default()
        }
    }

    /// Gives a constant the type of half precision; numbers that stand in the graph are rounded here.
    fn narrow(&self, name: &str, tensor: &mut TensorProto) -> Result<(), Fault> {
        let weight = self.survey.model.weight(name);
        if let Some(weight) = weight.filter(|w| !w.is_elided()) {
            tensor.raw_data = narrowed(self.survey.model, weight, &tensor.raw_data, self.half)?;
        }
        tensor.data_type = self.half.dtype().onnx();
        Ok(())
    }

    fn constants(&self, graph: &mut GraphProto) -> Result<(), Fault> {
        for tensor in &mut graph.initializer {
            let name = tensor.name.clone();
            if self.in_place.contains(name.as_str()) {
                self.narrow(&name, tensor)?;
            }
        }
        Ok(())
    }

    fn nodes(&self, graph: &mut GraphProto) -> Result<(), Fault> {
        let old = std::mem::take(&mut graph.node);
        let initial = graph
            .input
            .iter()
            .map(|i| &i.name)
            .chain(graph.initializer.iter().map(|t| &t.name));
        let initial: BTreeSet<&String> = initial.collect();
        let half = self.half.dtype();
        // Before all nodes, so that the file stays in topological order.
        for name in initial {
            if let Some(alias) = self.aliases.get(name.as_str()) {
                graph.node.push(Self::cast(name, alias, half));
            }
        }
        for ((mut node, original), halved) in old
            .into_iter()
            .zip(&self.survey.graph.node)
            .zip(&self.survey.halved)
        {
            if *halved {
                self.halve(&mut node)?;
            } else if is_constant(&node)
                && node
                    .output
                    .iter()
                    .any(|o| self.in_place.contains(o.as_str()))
            {
                let name = node.output[0].clone();
                if let Some(tensor) = node.attribute.iter_mut().find_map(|a| a.t.as_mut()) {
                    self.narrow(&name, tensor)?;
                }
            }
            graph.node.push(node);
            for output in &original.output {
                let Some(alias) = self.aliases.get(output.as_str()) else {
                    continue;
                };
                let cast = if self.made_half.contains(output.as_str()) {
                    Self::cast(alias, output, Dtype::F32)
                } else {
                    Self::cast(output, alias, half)
                };
                graph.node.push(cast);
            }
        }
        Ok(())
    }

    /// A node that computes in half precision: it reads and makes halves, and says so where an attribute names a type.
    fn halve(&self, node: &mut NodeProto) -> Result<(), Fault> {
        for index in 0..node.input.len() {
            if !always_f32(node, index)
                && let Some(alias) = self.aliases.get(node.input[index].as_str())
            {
                node.input[index].clone_from(alias);
            }
        }
        let makes = node
            .output
            .iter()
            .any(|o| self.made_half.contains(o.as_str()));
        let label = node.output.first().cloned().unwrap_or_default();
        for output in &mut node.output {
            if self.made_half.contains(output.as_str())
                && let Some(alias) = self.aliases.get(output.as_str())
            {
                output.clone_from(alias);
            }
        }
        let dtype = self.half.dtype();
        // These two name the type that they make; all others give that of what they read.
        match node.op_type.as_str() {
            "Cast" if makes => {
                for to in node.attribute.iter_mut().filter(|a| a.name == "to") {
                    to.i = i64::from(dtype.onnx());
                }
            }
            "ConstantOfShape" if makes => {
                let value = node.attribute.iter_mut().find(|a| a.name == "value");
                let Some(tensor) = value.and_then(|a| a.t.as_mut()) else {
                    node.attribute = vec![zero(dtype)];
                    return Ok(());
                };
                let bytes = to_bytes(&tensor.raw_data, self.half);
                tensor.raw_data = bytes.map_err(|cause| Fault::Overflow {
                    weight: label,
                    cause,
                    readers: Some(Pattern::escape(&node.name)).filter(|n| !n.is_empty()),
                    half: self.half,
                })?;
                tensor.data_type = dtype.onnx();
            }
            _ => {}
        }
        Ok(())
    }

    /// What the file declares of values whose names now stand for halves.
    fn declarations(&self, graph: &mut GraphProto) {
        let halved = |name: &str| {
            self.in_place.contains(name)
                || self.made_half.contains(name) && !self.aliases.contains_key(name)
        };
        // Initializers of files before IR version 4 are inputs as well.
        for value in graph.value_info.iter_mut().chain(&mut graph.input) {
            if halved(&value.name) {
                declare(value, self.half.dtype());
            }
        }
    }
}

fn declare(value: &mut ValueInfoProto, dtype: Dtype) {
    if let Some(Value::TensorType(tensor)) = value.type_.as_mut().and_then(|t| t.value.as_mut()) {
        tensor.elem_type = dtype.onnx();
    }
}

/// `ConstantOfShape` fills with an f32 zero where it is not told otherwise.
fn zero(dtype: Dtype) -> AttributeProto {
    AttributeProto {
        name: "value".into(),
        type_: AttributeType::TENSOR.into(),
        t: MessageField::some(TensorProto {
            dims: vec![1],
            data_type: dtype.onnx(),
            raw_data: vec![0, 0],
            ..TensorProto::default()
        }),
        ..AttributeProto::default()
    }
}

/// Every name of a value in `graph` and inside it.
fn names(graph: &GraphProto) -> HashSet<String> {
    fn add(graph: &GraphProto, all: &mut HashSet<String>) {
        let declared = graph.input.iter().chain(&graph.output).map(|v| &v.name);
        all.extend(
            declared
                .chain(graph.initializer.iter().map(|t| &t.name))
                .cloned(),
        );
        for node in &graph.node {
            all.extend(node.input.iter().chain(&node.output).cloned());
            let inner = node
                .attribute
                .iter()
                .flat_map(|a| a.g.iter().chain(&a.graphs));
            inner.for_each(|g| add(g, all));
        }
    }
    let mut all = HashSet::new();
    add(graph, &mut all);
    all
}
