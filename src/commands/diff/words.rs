//! A reason of a verdict in words.

use crate::diff::Reason;
use crate::mapping::Why;
use crate::pipeline;
use crate::tensor::show_shape;
use crate::ui;

/// What a reason is counted under: reasons of one kind are shown together.
pub(super) fn kind(reason: &Reason) -> &'static str {
    match reason {
        Reason::BytesChanged { .. } => "other bytes",
        Reason::DerivedChanged { .. } => "computed from changed tensors",
        Reason::Stripped => "stripped",
        Reason::Unproven { .. } => "not proven",
        Reason::UnchangedAfterCast { .. } => "the same after a cast",
        Reason::BakedChanged { .. } => "constants folded into the engine",
        Reason::ShapeLikeChanged { .. } => "integer constants that shapes may depend on",
        Reason::FixedChanged { .. } => "weights that this engine cannot change",
        Reason::DtypeChanged { .. } => "other types",
        Reason::ShapeChanged { .. } => "other shapes",
        Reason::WeightAdded { .. } => "new weights",
        Reason::WeightRemoved { .. } => "weights that are gone",
        Reason::WeightRenamed { .. } => "renamed weights",
        Reason::SharingChanged { .. } => "other sharing",
        Reason::Unsure { .. } => "unsure",
        Reason::SourceMissing { .. } => "weights without their source",
        Reason::NotFinite { .. } => "values that are no numbers",
        Reason::NothingFits => "another model",
        Reason::NotInEngine { .. } => "tensors that feed no weight",
        Reason::MetadataChanged => "metadata",
        Reason::TopologyChanged { .. } => "topology",
        Reason::AttributeChanged { .. } => "attributes",
        Reason::OpsetChanged { .. } => "opsets",
        Reason::InterfaceChanged { .. } => "inputs or outputs",
        Reason::StructureChanged => "structure",
        Reason::GraphUnknown => "graph",
        Reason::ShapesInside | Reason::ShapesOutside { .. } | Reason::ShapesUnknown => "shapes",
        Reason::OptionChanged { .. } => "options",
        Reason::BackendChanged { .. } => "backend",
        Reason::LibraryChanged { .. } => "library",
        Reason::DeviceChanged { .. } => "device",
    }
}

/// The reason in one line.
pub(super) fn describe(reason: &Reason) -> String {
    match reason {
        Reason::BytesChanged { weight, .. } => format!("`{weight}` has other bytes"),
        Reason::DerivedChanged { weight, sources } => {
            format!("`{weight}` is computed from {}", list(sources))
        }
        Reason::Stripped => "the plan is stripped: it holds none of its refittable weights".into(),
        Reason::Unproven { .. } => {
            "another tool built the plan, and that it holds the model's weights is not proven"
                .into()
        }
        Reason::UnchangedAfterCast { weight } => {
            format!("`{weight}` is the same in the checkpoint's narrower type")
        }
        Reason::BakedChanged { weight, why } => {
            format!("`{weight}` is folded into the engine ({why})")
        }
        Reason::ShapeLikeChanged { weight, why } => format!("`{weight}` may decide shapes ({why})"),
        Reason::FixedChanged { weight, why } => format!("`{weight}` cannot be refitted ({why})"),
        Reason::DtypeChanged { weight, old, new } => {
            format!("`{weight}` is {new} instead of {old}")
        }
        Reason::ShapeChanged { weight, old, new } => {
            let [old, new] = [old, new].map(|shape| show_shape(shape));
            format!("`{weight}` is {new} instead of {old}")
        }
        Reason::WeightAdded { weight } => format!("`{weight}` is new"),
        Reason::WeightRemoved { weight } => format!("`{weight}` is gone"),
        Reason::WeightRenamed { old, new } => format!("`{old}` is called `{new}` now"),
        Reason::SharingChanged { weight, old, new } => {
            let nodes = ui::count(*new, "node");
            format!("`{weight}` feeds {nodes} instead of {old}")
        }
        // In the words in which a refit refuses it.
        Reason::Unsure { weight, why } => pipeline::refusal(weight, why),
        Reason::SourceMissing { weight, names } if names[..] == [weight.clone()] => {
            format!("the checkpoint has no `{weight}`")
        }
        Reason::SourceMissing { weight, names } => {
            let names = list(names);
            format!("the checkpoint has nothing for `{weight}` (looked for {names})")
        }
        Reason::NotFinite {
            tensor,
            nan,
            infinite,
            ..
        } => format!(
            "`{tensor}` has {}, where the base has numbers",
            pipeline::counted(*nan, *infinite)
        ),
        Reason::NothingFits => "no tensor of the checkpoint belongs to a weight".into(),
        Reason::NotInEngine { tensor, why } => {
            format!("`{tensor}` feeds no weight ({})", leftover(why))
        }
        Reason::MetadataChanged => "names or documentation differ".into(),
        Reason::TopologyChanged { added, removed } => topology(added, removed),
        Reason::AttributeChanged {
            operator,
            node,
            attributes,
        } => format!("{operator} `{node}` has other {}", list(attributes)),
        Reason::OpsetChanged { domain, old, new } => opset(domain, *old, *new),
        Reason::InterfaceChanged { details, .. } | Reason::ShapesOutside { details } => {
            details.join("; ")
        }
        Reason::StructureChanged => "the graph's structure differs".into(),
        Reason::GraphUnknown => "nothing is known of the old graph".into(),
        Reason::ShapesInside => "the shapes are within what was built".into(),
        Reason::ShapesUnknown => "the old shapes are not known".into(),
        Reason::OptionChanged { option, old, new } => {
            format!(
                "option `{option}` is {} instead of {}",
                or_unset(new.as_ref()),
                or_unset(old.as_ref())
            )
        }
        Reason::BackendChanged { old, new } => format!("the backend is {new} instead of {old}"),
        Reason::LibraryChanged { old, new } => format!("the library is {new} instead of {old}"),
        Reason::DeviceChanged { property, old, new } => {
            format!(
                "{property} is {} instead of {}",
                or_unset(new.as_ref()),
                or_unset(old.as_ref())
            )
        }
    }
}

fn or_unset(value: Option<&String>) -> &str {
    value.map_or("unset", String::as_str)
}

fn list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    names.join(", ")
}

/// Operators that came and went, by name, with how many of each.
fn topology(added: &[(String, usize)], removed: &[(String, usize)]) -> String {
    let side = |items: &[(String, usize)], sign: &str| -> Vec<String> {
        items
            .iter()
            .map(|(op, n)| format!("{sign}{n} {op}"))
            .collect()
    };
    let all = [side(added, "+"), side(removed, "-")].concat();
    // The same operators, tied in another way.
    let what = if all.is_empty() {
        "connections differ".into()
    } else {
        all.join(", ")
    };
    format!("the graph differs: {what}")
}

fn opset(domain: &str, old: Option<i64>, new: Option<i64>) -> String {
    // ONNX's own domain is written as nothing.
    let name = if domain.is_empty() { "ai.onnx" } else { domain };
    let version = |v: Option<i64>| v.map_or("none".into(), |v| v.to_string());
    format!(
        "opset of {name} is {} instead of {}",
        version(new),
        version(old)
    )
}

/// Why a tensor of a checkpoint is in no weight of the plan.
fn leftover(why: &Why) -> String {
    match why {
        Why::Counter => "a training counter".into(),
        Why::NotFloat => "no floating-point data".into(),
        Why::Duplicate { of } => format!("the same as `{of}`"),
        Why::Unchanged => "as in the base weights, and not used by the model".into(),
        Why::Unused => "not used by the model".into(),
        Why::Component { component } => format!("part of {component}"),
        Why::Ignored => "let go by --ignore".into(),
        Why::InAttribute { attribute } => format!("its value stands in {attribute}"),
        Why::Restated { of } => format!("`{of}` once more, with other values"),
        Why::Unreached => "nothing in the engine is known to take it".into(),
    }
}
