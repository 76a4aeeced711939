//! What differs between two graphs. The structure digests decide; the summaries say what it was.

use super::{Graph, NodeFact, Port, Reason, Side, Summary};
use crate::maps::QuickMap;
use crate::tensor::{Digest, TensorDecl};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// At most so many nodes are listed.
const LISTED: usize = 64;

/// Adds the differences of `built` and `wanted` to `reasons`, which hold those of the weights already.
pub(super) fn compare(built: &Graph, wanted: &Graph, reasons: &mut Vec<Reason>) {
    let (Some(old), Some(new)) = (&built.summary, &wanted.summary) else {
        // Without both models only the digests are there, and what the weights explain needs no
        // further reason.
        let explained = reasons.iter().any(explains);
        if built.structure != wanted.structure && !explained {
            reasons.push(Reason::StructureChanged);
        }
        return;
    };
    if built.structure == wanted.structure {
        if old.metadata != new.metadata {
            reasons.push(Reason::MetadataChanged);
        }
        return;
    }
    let before = reasons.len();
    opsets(old, new, reasons);
    interface(Port::Inputs, &old.inputs, &new.inputs, reasons);
    interface(Port::Outputs, &old.outputs, &new.outputs, reasons);
    nodes(&old.nodes, &new.nodes, reasons);
    // The digest is of more than the summaries: of names of initializers, and of functions of the model's own.
    if reasons.len() == before && !reasons.iter().any(explains) {
        reasons.push(Reason::StructureChanged);
    }
}

/// Differences of weights that change the structure digest by themselves.
fn explains(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::BakedChanged { .. }
            | Reason::ShapeLikeChanged { .. }
            | Reason::DtypeChanged { .. }
            | Reason::ShapeChanged { .. }
            | Reason::WeightAdded { .. }
            | Reason::WeightRemoved { .. }
    )
}

fn opsets(old: &Summary, new: &Summary, reasons: &mut Vec<Reason>) {
    let domains: BTreeSet<&String> = old.opsets.keys().chain(new.opsets.keys()).collect();
    for domain in domains {
        let (was, is) = (old.opsets.get(domain), new.opsets.get(domain));
        if was != is {
            reasons.push(Reason::OpsetChanged {
                domain: domain.clone(),
                old: was.copied(),
                new: is.copied(),
            });
        }
    }
}

fn show(decl: &TensorDecl) -> String {
    format!("`{}` {} {}", decl.name, decl.dtype, decl.show_dims())
}

fn interface(port: Port, old: &[TensorDecl], new: &[TensorDecl], reasons: &mut Vec<Reason>) {
    if old == new {
        return;
    }
    let mut details = Vec::new();
    for was in old {
        match new.iter().find(|d| d.name == was.name) {
            None => details.push(format!("{} is gone", show(was))),
            Some(is) if is != was => {
                details.push(format!(
                    "{} is {} {} now",
                    show(was),
                    is.dtype,
                    is.show_dims()
                ));
            }
            Some(_) => {}
        }
    }
    for is in new {
        if !old.iter().any(|d| d.name == is.name) {
            details.push(format!("{} is new", show(is)));
        }
    }
    if details.is_empty() {
        details.push("the order differs".into());
    }
    reasons.push(Reason::InterfaceChanged { port, details });
}

/// Nodes in one place that do the same, of nodes in their order.
fn places(nodes: &[NodeFact]) -> impl Iterator<Item = &[NodeFact]> {
    nodes.chunk_by(|a, b| a.place == b.place && a.operator == b.operator)
}

fn nodes(old: &[NodeFact], new: &[NodeFact], reasons: &mut Vec<Reason>) {
    // An attribute is told of one node, and a node has its pair only in the same arrangement.
    let same = old.len() == new.len()
        && (old.iter().zip(new)).all(|(a, b)| a.place == b.place && a.operator == b.operator);
    if same {
        for (before, after) in places(old).zip(places(new)) {
            attributes(before, after, reasons);
        }
        return;
    }
    let count = |nodes: &[NodeFact]| {
        let mut counts: QuickMap<&str, usize> = QuickMap::default();
        for node in nodes {
            *counts.entry(&node.operator).or_default() += 1;
        }
        let counts = counts.into_iter().map(|(op, n)| (op.to_owned(), n));
        counts.collect::<BTreeMap<String, usize>>()
    };
    let (before, after) = (count(old), count(new));
    let more = |a: &BTreeMap<String, usize>, b: &BTreeMap<String, usize>| {
        (a.iter())
            .filter_map(|(op, n)| {
                let extra = n.saturating_sub(b.get(op).copied().unwrap_or_default());
                (extra > 0).then(|| (op.clone(), extra))
            })
            .collect()
    };
    reasons.push(Reason::TopologyChanged {
        added: more(&after, &before),
        removed: more(&before, &after),
    });
}

/// Compares nodes in the same place: those with equal attributes pair up, the rest are reported.
fn attributes(before: &[NodeFact], after: &[NodeFact], reasons: &mut Vec<Reason>) {
    if let ([was], [is]) = (before, after)
        && was.attributes == is.attributes
    {
        return;
    }
    let mut equal: HashMap<&[(Arc<str>, Digest)], usize> = HashMap::new();
    for node in before {
        *equal.entry(&node.attributes).or_default() += 1;
    }
    let mut left = Vec::new();
    for node in after {
        match equal.get_mut(&node.attributes[..]) {
            Some(count) if *count > 0 => *count -= 1,
            _ => left.push(node),
        }
    }
    // What is still counted found no equal node.
    let mut changed = Vec::new();
    for node in before.iter().rev() {
        let count = equal.get_mut(&node.attributes[..]);
        if let Some(count) = count.filter(|count| **count > 0) {
            *count -= 1;
            changed.push(node);
        }
    }
    changed.reverse();
    for (was, is) in changed.into_iter().zip(left).take(LISTED) {
        let value = |node: &NodeFact, name: &str| {
            let found = node.attributes.iter().find(|(n, _)| **n == *name);
            found.map(|(_, digest)| *digest)
        };
        let both = was.attributes.iter().chain(&is.attributes);
        let names: BTreeSet<&str> = both.map(|(name, _)| &**name).collect();
        reasons.push(Reason::AttributeChanged {
            operator: was.operator.to_string(),
            node: is.name.clone(),
            attributes: (names.into_iter())
                .filter(|n| value(was, n) != value(is, n))
                .map(ToOwned::to_owned)
                .collect(),
        });
    }
}

/// Constants that have other numbers of readers in what is otherwise the same arrangement of nodes.
pub(super) fn sharing(old: &Side, new: &Side, reasons: &mut Vec<Reason>) {
    let rearranged = |r: &Reason| matches!(r, Reason::TopologyChanged { .. });
    if reasons.iter().any(rearranged) {
        return;
    }
    let uses: QuickMap<&str, usize> = new
        .weights
        .iter()
        .filter_map(|w| Some((w.name.as_str(), w.uses?)))
        .collect();
    for was in &old.weights {
        let is = uses.get(was.name.as_str()).copied();
        if let Some((before, after)) = was.uses.zip(is)
            && before != after
        {
            reasons.push(Reason::SharingChanged {
                weight: was.name.clone(),
                old: before,
                new: after,
            });
        }
    }
}
