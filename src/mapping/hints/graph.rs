//! What a graph alone says about its weights: presumed source names, orientation, and signs of folded normalisations.
//!
//! Names and paths as torch's two exporters write them: TorchScript keeps parameter names, gives folded constants anonymous
//! ones (`onnx::MatMul_1618`) and writes the module path into node names (`/m/blocks.0/to_q/MatMul`); the dynamo exporter
//! keeps parameter names, calls folded constants `val_167`, and names nodes after operators (`node_linear_3`).

use super::attention;
use super::record::{Exporter, Nodes, Record, Use, all_nodes, exporter, int};
use crate::mapping::types::{
    Clue, FoldSign, Grade, Hint, Layout, Mapping, Meaning, Reading, Row, push_hint,
};
use crate::onnx::{Model, Origin, Role, Weight};
use onnx_protobuf::{AttributeProto, NodeProto};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Whether an exporter made this name up: it says nothing about the source.
pub(in crate::mapping) fn is_anonymous(name: &str) -> bool {
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    // Paths and bare numbers are TorchScript's names of values, `val_` is the dynamo exporter's.
    name.starts_with("onnx::") || name.starts_with('/') || numbered("val_") || numbered("")
}

/// The module path in a TorchScript node name: `/m/layers/layers.0/conv1/Conv` is `m.layers.0.conv1`. A container that is
/// called itself appears twice, once in its child's name.
pub(super) fn module_path(node: &str) -> Option<String> {
    let (path, _operator) = node.strip_prefix('/')?.rsplit_once('/')?;
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        let repeats = parts.last().is_some_and(|last| {
            part.strip_prefix(last)
                .is_some_and(|rest| rest.starts_with('.'))
        });
        if repeats {
            parts.pop();
        }
        parts.push(part);
    }
    Some(parts.join("."))
}

/// The parameter of a module that an operator reads at an input.
fn leaf(operator: &str, input: usize) -> Option<&'static str> {
    Some(match (operator, input) {
        (
            "Conv"
            | "ConvTranspose"
            | "Gemm"
            | "PRelu"
            | "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "RMSNormalization"
            | "BatchNormalization",
            1,
        )
        | ("MatMul" | "Mul", _)
        | ("Gather", 0) => "weight",
        (
            "Conv"
            | "ConvTranspose"
            | "Gemm"
            | "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "BatchNormalization",
            2,
        )
        | ("Add", _) => "bias",
        ("BatchNormalization", 3) => "running_mean",
        ("BatchNormalization", 4) => "running_var",
        _ => return None,
    })
}

/// How a two-dimensional weight stands, as one of its uses sees it.
fn orientation(name: &str, one: Use<'_>) -> Layout {
    let turned = |as_is: bool| {
        if as_is == one.transposed {
            Layout::Transposed
        } else {
            Layout::AsIs
        }
    };
    match (one.node.op_type.as_str(), one.input) {
        ("Gemm", 1) => turned(int(one.node, "transB") != 0),
        // A parameter that keeps its name may be multiplied as it is (`x @ self.projection`) or have been transposed by a
        // rewriter that kept the name: the graph cannot tell these apart.
        ("MatMul", 1) if is_anonymous(name) || one.transposed => turned(false),
        ("MatMul" | "Gemm", _) => Layout::Unknown,
        _ if one.transposed || is_anonymous(name) => Layout::Unknown,
        _ => Layout::AsIs,
    }
}

/// Signs that a normalisation was folded into the convolution (or Gemm) `node`.
fn fold_signs(node: &NodeProto) -> Vec<FoldSign> {
    let convolution = matches!(node.op_type.as_str(), "Conv" | "ConvTranspose");
    let mut signs = Vec::new();
    let (Some(kernel), true) = (node.input.get(1), convolution || node.op_type == "Gemm") else {
        return signs;
    };
    if convolution && is_anonymous(kernel) {
        signs.push(FoldSign::AnonymousKernel);
    }
    if let (Some(bias), false) = (node.input.get(2), is_anonymous(kernel)) {
        let own = kernel.strip_suffix("weight").map(|m| format!("{m}bias"));
        let derived = bias.starts_with(kernel.as_str())
            || (convolution && own.is_some_and(|own| own != *bias) && is_anonymous(bias));
        if derived && !bias.is_empty() {
            signs.push(FoldSign::DerivedBias { bias: bias.clone() });
        }
    }
    if node.name.starts_with(&format!("node_{}_", node.op_type)) && convolution {
        signs.push(FoldSign::RewrittenNode {
            node: node.name.clone(),
        });
    }
    signs
}

/// The module whose named bias is added to the product `node`: `x.to_q` for `MatMul` + `Add(x.to_q.bias)`.
fn bias_partner(nodes: &Nodes<'_>, node: &NodeProto, columns: i64) -> Option<(String, String)> {
    let product = node.output.first()?;
    let mut uses = nodes.direct_uses(product);
    let (add, input) = uses.next()?;
    if uses.next().is_some() || add.op_type != "Add" || add.input.len() != 2 {
        return None;
    }
    let bias = &add.input[1 - input];
    let module = bias.strip_suffix(".bias")?;
    (nodes.dims(bias) == Some(&[columns])).then(|| (bias.clone(), format!("{module}.weight")))
}

/// What the graph says of the model as a whole; no rows.
pub(in crate::mapping) fn frame(model: &Model) -> Mapping {
    let graph = model.proto().graph.as_ref();
    let producer = &model.proto().producer_name;
    Mapping {
        merges: graph.is_none_or(|g| exporter(g, producer) == Exporter::Merging),
        attributes: graph.map_or_else(Vec::new, |g| attributes(&all_nodes(g))),
        ..Mapping::default()
    }
}

/// The rows of every weight, and of every value that engines fold in, with what the graph says and nothing more: no recipe yet.
pub(in crate::mapping) fn outline(model: &Model) -> Mapping {
    let mut mapping = frame(model);
    let Some(graph) = model.proto().graph.as_ref() else {
        return mapping;
    };
    let nodes = Nodes::of(graph);
    let record = Record::of(graph, &nodes, &model.proto().producer_name);
    let of_role = |baked: bool| {
        (model.weights().iter()).filter(move |w| match &w.role {
            Role::Weight => !baked,
            Role::Structural { .. } => baked,
            Role::Unused => false,
        })
    };
    let mut rows: Vec<Row> = of_role(false).map(|w| row(&nodes, &record, w)).collect();
    attention::add_roles(&nodes, &mut rows);
    rows.extend(of_role(true).map(|w| row(&nodes, &record, w)));
    mapping.rows = rows;
    mapping
}

fn row(nodes: &Nodes<'_>, record: &Record<'_>, weight: &Weight) -> Row {
    let name = weight.name.as_str();
    let mut row = Row {
        name: name.to_owned(),
        dtype: weight.dtype,
        shape: weight.shape.clone(),
        grade: Grade::Unproven,
        recipe: None,
        alternatives: Vec::new(),
        hints: Vec::new(),
        layout: Layout::Unknown,
        fold_signs: Vec::new(),
        partner: None,
        operators: Vec::new(),
        evidence: Vec::new(),
        rounding: None,
        literal: None,
        pinned: None,
        probed: false,
        inline: weight.origin == Origin::ConstantNode,
        baked: match &weight.role {
            Role::Structural { operator, why, .. } => {
                Some(format!("{why}, folded into {operator}"))
            }
            _ => None,
        },
        readings: Vec::new(),
        folded_from: record.folded_from(name),
    };
    if !is_anonymous(name) {
        row.hints.push(Hint {
            clue: Clue::Name,
            names: vec![name.to_owned()],
        });
    }
    // Which of the two graphs a reader is in, the name does not say.
    if nodes.is_repeated(name) {
        return row;
    }
    row.readings = readings(nodes, record, weight);
    if let Some(source) = folded_from_one(nodes, &row.folded_from) {
        push_hint(&mut row, Clue::FoldedFrom, vec![source]);
    }
    let uses = nodes.uses(name);
    let layouts: HashSet<Layout> = uses.iter().map(|one| orientation(name, *one)).collect();
    for one in uses {
        note_use(nodes, &mut row, one);
    }
    row.layout = match (layouts.len(), layouts.into_iter().next()) {
        (1, Some(layout)) => layout,
        _ => Layout::Unknown,
    };
    row
}

/// What one use says of a row: its operator, the other constant beside it, signs of a fold, and presumed names.
fn note_use(nodes: &Nodes<'_>, row: &mut Row, one: Use<'_>) {
    let operator = one.node.op_type.as_str();
    if !row.operators.iter().any(|o| o == operator) {
        row.operators.push(operator.to_owned());
    }
    let pairs = matches!(operator, "Conv" | "ConvTranspose" | "Gemm");
    if let (true, 1 | 2) = (pairs, one.input) {
        let other = one.node.input.get(3 - one.input);
        row.partner = other.filter(|o| nodes.is_constant(o)).cloned();
    }
    if matches!(one.input, 1 | 2) {
        for sign in fold_signs(one.node) {
            if !row.fold_signs.contains(&sign) {
                row.fold_signs.push(sign);
            }
        }
    }
    let by_path = module_path(&one.node.name).zip(leaf(operator, one.input));
    if let Some((module, leaf)) = by_path {
        let clue = Clue::NodePath {
            node: one.node.name.clone(),
        };
        push_hint(row, clue, vec![format!("{module}.{leaf}")]);
    }
    let columns = row.shape.get(1).and_then(|&c| i64::try_from(c).ok());
    if let (true, 1, Some(columns)) = (
        operator == "MatMul" && row.shape.len() == 2,
        one.input,
        columns,
    ) && let Some((bias, source)) = bias_partner(nodes, one.node, columns)
    {
        push_hint(row, Clue::BiasPartner { bias }, vec![source]);
    }
}

/// Floating-point attributes of all nodes: a value that was a parameter may stand in one.
fn attributes(nodes: &[&NodeProto]) -> Vec<(String, Vec<f32>)> {
    let all = nodes.iter().copied().flat_map(|node| {
        node.attribute
            .iter()
            .map(move |attribute| (node, attribute))
    });
    all.filter_map(|(node, attribute)| Some((place(node, attribute), numbers_in(attribute)?)))
        .collect()
}

/// Two exports of one model, laid side by side.
#[derive(Debug, Default)]
pub(in crate::mapping) struct Pairs {
    /// By constant of the first: the constants of the second that its readers read. Several where values were merged in the first.
    pub constants: BTreeMap<String, BTreeSet<String>>,
    /// Places of attributes that hold numbers, with their values on both sides.
    pub attributes: Vec<(String, Vec<f32>, Vec<f32>)>,
}

/// Pairs the constants of two exports by the nodes that read them.
///
/// # Errors
/// Where the two graphs are not the same but for the values of constants and of numbers in attributes.
pub(in crate::mapping) fn pairs(a: &Model, b: &Model) -> Result<Pairs, String> {
    let (Some(left), Some(right)) = (a.proto().graph.as_ref(), b.proto().graph.as_ref()) else {
        return Err("one of them has no graph".into());
    };
    let functions = |m: &Model| {
        let all = m.proto().functions.iter();
        all.map(|f| (f.name.clone(), f.node.len()))
            .collect::<Vec<_>>()
    };
    if functions(a) != functions(b) {
        return Err("their functions differ".into());
    }
    let (one, other) = (Nodes::of(left), Nodes::of(right));
    // Whether a constant is a node or an initializer makes no difference here.
    let is_node =
        |n: &&NodeProto| n.op_type != "Constant" || n.attribute.iter().all(|a| a.t.is_none());
    let nodes: Vec<_> = one.iter().filter(is_node).collect();
    let others: Vec<_> = other.iter().filter(is_node).collect();
    let mut walk = PairWalk {
        one: &one,
        other: &other,
        values: HashMap::new(),
        pairs: Pairs::default(),
    };
    // By place: a probe may call its inputs otherwise.
    for (x, y) in left.input.iter().zip(&right.input) {
        walk.values.insert(y.name.clone(), x.name.clone());
    }
    for (x, y) in side_by_side(&nodes, &others)? {
        let done = match x {
            Some(x) => walk.pair(x, y).map_err(|what| (x, what)),
            None => walk.merged(&nodes, y).map_err(|what| (y, what)),
        };
        done.map_err(|(n, what)| format!("{} `{}` {what}", n.op_type, n.name))?;
    }
    for (x, y) in left.output.iter().zip(&right.output) {
        walk.read(&x.name, &y.name)
            .map_err(|what| format!("output `{}` {what}", x.name))?;
    }
    Ok(walk.pairs)
}

/// The nodes of two exports, in order; none of the first where it lacks one of the second. Exporters merge nodes that compute the same, and
/// tensors that were equal by chance are not in the second: nodes of other names are those that were merged.
fn side_by_side<'n>(
    nodes: &[&'n NodeProto],
    others: &[&'n NodeProto],
) -> Result<Vec<(Option<&'n NodeProto>, &'n NodeProto)>, String> {
    if nodes.len() == others.len() {
        let pairs = nodes.iter().zip(others);
        return Ok(pairs.map(|(x, y)| (Some(*x), *y)).collect());
    }
    let mut rest = nodes.iter().peekable();
    let found = others.iter().map(|y| {
        let same = rest.next_if(|x| !x.name.is_empty() && x.name == y.name);
        (same.copied(), *y)
    });
    let found = found.collect();
    match rest.next() {
        None => Ok(found),
        Some(_) => Err(format!(
            "one has {} nodes and the other {}",
            nodes.len(),
            others.len()
        )),
    }
}

struct PairWalk<'n, 'a> {
    one: &'n Nodes<'a>,
    other: &'n Nodes<'a>,
    /// What values of the second graph are called in the first, where several of them may be one.
    values: HashMap<String, String>,
    pairs: Pairs,
}

impl PairWalk<'_, '_> {
    fn pair(&mut self, x: &NodeProto, y: &NodeProto) -> Result<(), &'static str> {
        let kind = |n: &NodeProto| (n.op_type.clone(), n.domain.clone());
        if kind(x) != kind(y) {
            return Err("is another operator in the probe");
        }
        if x.input.len() != y.input.len() || x.output.len() != y.output.len() {
            return Err("has other inputs or outputs in the probe");
        }
        for (a, b) in x.input.iter().zip(&y.input) {
            self.read(a, b)?;
        }
        for (a, b) in x.output.iter().zip(&y.output) {
            self.values.insert(b.clone(), a.clone());
        }
        self.attributes(x, y)
    }

    /// Pairs a node that the first graph lacks with the one that it was merged into there: the only one that computes the same of the same
    /// values, but for constants.
    fn merged(&mut self, nodes: &[&NodeProto], y: &NodeProto) -> Result<(), &'static str> {
        let does_the_same = |x: &&&NodeProto| {
            let same = |(a, b): (&String, &String)| {
                let constants = (self.one.is_constant(a), self.other.is_constant(b));
                match constants {
                    (true, true) => self.one.dims(a) == self.other.dims(b),
                    (false, false) => self.values.get(b).is_some_and(|known| known == a),
                    _ => false,
                }
            };
            (&x.op_type, &x.domain) == (&y.op_type, &y.domain)
                && x.input.len() == y.input.len()
                && x.input.iter().zip(&y.input).all(same)
        };
        let mut found = nodes.iter().filter(does_the_same);
        match (found.next(), found.next()) {
            (Some(x), None) => self.pair(x, y),
            (None, _) => Err("is not in the first export"),
            (Some(_), Some(_)) => Err("is one of several in the first export"),
        }
    }

    fn read(&mut self, a: &str, b: &str) -> Result<(), &'static str> {
        const OTHER: &str = "reads another value in the probe";
        match (self.one.is_constant(a), self.other.is_constant(b)) {
            (true, true) => {
                let all = self.pairs.constants.entry(a.to_owned()).or_default();
                all.insert(b.to_owned());
                Ok(())
            }
            (false, false) => {
                // Inputs of subgraphs are met where they are read first.
                let known = self
                    .values
                    .entry(b.to_owned())
                    .or_insert_with(|| a.to_owned());
                if known == a { Ok(()) } else { Err(OTHER) }
            }
            _ => Err(OTHER),
        }
    }

    fn attributes(&mut self, x: &NodeProto, y: &NodeProto) -> Result<(), &'static str> {
        const OTHER: &str = "has other attributes in the probe";
        if x.attribute.len() != y.attribute.len() {
            return Err(OTHER);
        }
        for a in &x.attribute {
            let b = y.attribute.iter().find(|b| b.name == a.name);
            let Some(b) = b.filter(|b| b.type_ == a.type_) else {
                return Err(OTHER);
            };
            if let (Some(own), Some(moved)) = (numbers_in(a), numbers_in(b)) {
                self.pairs.attributes.push((place(x, a), own, moved));
            // Nodes of graphs within are walked with the others.
            } else if a.g.is_none() && a.graphs.is_empty() {
                let plain = |a: &AttributeProto| AttributeProto {
                    doc_string: String::new(),
                    ..a.clone()
                };
                if plain(a) != plain(b) {
                    return Err(OTHER);
                }
            }
        }
        Ok(())
    }
}

/// The numbers of a floating-point attribute.
fn numbers_in(attribute: &AttributeProto) -> Option<Vec<f32>> {
    use onnx_protobuf::attribute_proto::AttributeType;
    match attribute.type_.enum_value() {
        Ok(AttributeType::FLOAT) => Some(vec![attribute.f]),
        Ok(AttributeType::FLOATS) => Some(attribute.floats.clone()),
        _ => None,
    }
}

fn place(node: &NodeProto, attribute: &AttributeProto) -> String {
    format!(
        "attribute `{}` of {} `{}`",
        attribute.name, node.op_type, node.name
    )
}

/// What each node that reads the weight says of it; nothing where it says nothing.
fn readings(nodes: &Nodes<'_>, record: &Record<'_>, weight: &Weight) -> Vec<Reading> {
    let name = weight.name.as_str();
    let mut found = Vec::new();
    for (node, _) in nodes.direct_uses(name) {
        let by_path = || {
            let module = module_path(&node.name).filter(|_| record.has_paths)?;
            Some(Reading {
                node: node.name.clone(),
                meaning: Meaning::Path { module },
            })
        };
        let reading = record.reading(nodes, node, name).or_else(by_path);
        let reading = reading.unwrap_or_else(|| Reading {
            node: node.name.clone(),
            meaning: Meaning::Nothing,
        });
        if !found.contains(&reading) {
            found.push(reading);
        }
    }
    // A reader that says nothing tells only beside one that does.
    if found.iter().all(|r| r.meaning == Meaning::Nothing) {
        found.clear();
    }
    found
}

/// The one parameter that the record says a value was folded from; values of other nodes have no dot in their names.
fn folded_from_one(nodes: &Nodes<'_>, recorded: &[String]) -> Option<String> {
    let mut parameters = (recorded.iter()).filter(|n| n.contains('.') && !nodes.is_constant(n));
    let one = parameters.next()?;
    parameters.next().is_none().then(|| one.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_is_called_appears_once() {
        let path = |s: &str| module_path(s);
        assert_eq!(
            path("/m/down_blocks.0/ff/net.0/proj/MatMul").as_deref(),
            Some("m.down_blocks.0.ff.net.0.proj")
        );
        assert_eq!(
            path("/layers/layers.0/downsample/downsample.1/Conv").as_deref(),
            Some("layers.0.downsample.1")
        );
        assert_eq!(path("/a/a.0/a.0.1/Conv").as_deref(), Some("a.0.1"));
        assert_eq!(path("Conv_12"), None);
        assert_eq!(path("/Add"), None);
    }

    #[test]
    fn made_up_names_are_told_from_parameters() {
        for name in ["onnx::MatMul_1618", "val_9", "/m/Constant_output_0", "271"] {
            assert!(is_anonymous(name), "{name}");
        }
        for name in ["m.conv1.weight", "val_norm.weight", "pos_embed", "val_"] {
            assert!(!is_anonymous(name), "{name}");
        }
    }
}
