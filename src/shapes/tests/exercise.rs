//! Everything that can be done with a text that may be a spec, and what must hold whatever it is. The fuzz
//! target `shapes`, the replay of its corpus and the property tests share it.

use crate::shapes::{Form, Overrides, Relation, Resolved, ShapeSpec};
use crate::tensor::{Dtype, Extent, TensorDecl};

/// Reads `text`, ties it to models, lowers, binds, widens and converts it.
///
/// # Panics
/// Where something of that is wrong.
pub fn exercise(text: &str) {
    // A manifest's record is as hostile.
    if let Ok(record) = serde_json::from_str::<Resolved>(text) {
        use_it(&record);
    }
    let Ok(spec) = ShapeSpec::parse(text, "fuzz.json") else {
        return;
    };
    for inputs in models() {
        let Ok(resolved) = spec.resolve(&inputs, &Overrides::default()) else {
            continue;
        };
        use_it(&resolved);
        for form in [Form::Torch, Form::Args, Form::Inputs] {
            let Ok(converted) = spec.convert(&inputs, &Overrides::default(), form) else {
                continue;
            };
            let again = ShapeSpec::parse(&converted.text, "converted.json")
                .and_then(|s| s.resolve(&inputs, &Overrides::default()))
                .expect("what is converted can be read");
            assert!(!matches!(
                again.compare(&resolved),
                Relation::Outside { .. }
            ));
        }
    }
}

fn use_it(resolved: &Resolved) {
    for axis in resolved.profile().inputs.iter().flat_map(|i| &i.axes) {
        assert!(axis.min <= axis.opt && axis.max.is_none_or(|max| axis.opt <= max));
    }
    assert_eq!(resolved.compare(resolved), Relation::Equal);
    let shapes = resolved
        .shapes_for(&std::collections::BTreeMap::new())
        .expect("the sizes to optimise for are in range");
    resolved.bind(&shapes).expect("and bind");
    let odd = resolved
        .inputs()
        .iter()
        .map(|i| (i.name.clone(), vec![7; i.axes.len()]))
        .collect();
    if resolved.bind(&odd).is_err()
        && let Ok(wide) = resolved.widen(&odd)
    {
        wide.bind(&odd)
            .expect("a widened range holds what it was widened for");
    }
}

/// The inputs of the samples' models.
fn models() -> [Vec<TensorDecl>; 3] {
    let decl = |name: &str, dims: &str| TensorDecl {
        name: name.into(),
        dtype: Dtype::F32,
        dims: (dims != "*").then(|| {
            let extents = dims.split_whitespace().map(|d| match d {
                "?" => Extent::Unknown,
                d => d
                    .parse()
                    .map_or_else(|_| Extent::Symbol(d.into()), Extent::Fixed),
            });
            extents.collect()
        }),
    };
    [
        vec![
            decl("sample", "BATCH 4 4*_H 4*_W"),
            decl("timestep", "1"),
            decl("encoder_hidden_states", "BATCH 77 768"),
            decl("text_embeds", "BATCH 1280"),
            decl("time_ids", "BATCH 6"),
        ],
        vec![
            decl("x", "dx 4"),
            decl("y", "dx+1 s7"),
            decl("z_0", "2*dx-1"),
            decl("z_1", "s9 5"),
        ],
        vec![decl("x", "? 4"), decl("y", "2 ?"), decl("z", "*")],
    ]
}
