//! Agreement with torch itself: `fixtures/shapes/torch_oracle.json`, made by `make_oracle.py` beside it.

use super::*;
use serde_json::Value;
use std::collections::BTreeMap;

fn table() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/shapes/torch_oracle.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn sizes(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap() as usize)
        .collect()
}

#[test]
fn the_binder_accepts_what_torch_export_accepts() {
    let table = table();
    let (mut specs, mut cases) = (0, 0);
    let mut wrong = Vec::new();
    let mut differences: BTreeMap<&str, usize> = BTreeMap::new();
    for record in table["exported"].as_array().unwrap() {
        let text = record["dump"].to_string();
        let spec = spec(&text);
        specs += 1;
        if let Some(message) = record.get("refused") {
            // A KeyError within torch, for `x - 1` without a max; the spec is sound.
            assert_eq!(message, "'max'", "{text}");
            *differences.entry("unbounded").or_insert(0) += 1;
            continue;
        }
        let inputs: Vec<TensorDecl> = (record["inputs"].as_array().unwrap().iter().enumerate())
            .map(|(i, axes)| TensorDecl {
                name: format!("in{i}"),
                dtype: Dtype::F32,
                dims: Some(
                    (axes.as_array().unwrap().iter())
                        .map(|n| {
                            n.as_u64()
                                .map_or(Extent::Unknown, |n| Extent::Fixed(n as usize))
                        })
                        .collect(),
                ),
            })
            .collect();
        let resolved = spec
            .resolve(&inputs, &Overrides::default())
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
        for case in record["cases"].as_array().unwrap() {
            let shapes: InputShapes = (case[0].as_array().unwrap().iter().enumerate())
                .map(|(i, s)| (format!("in{i}"), sizes(s)))
                .collect();
            let ours = resolved.bind(&shapes);
            cases += 1;
            let why = match (case[1].as_bool().unwrap(), &ours) {
                (true, Ok(_)) | (false, Err(_)) => continue,
                (true, Err(Error::Sizes(conflicts))) => stricter(conflicts, &resolved),
                (true, Err(_)) => None,
                (false, Ok(_)) => rounded_by_torch(&resolved),
            };
            match why {
                Some(why) => *differences.entry(why).or_insert(0) += 1,
                None => wrong.push(format!(
                    "{text}\n{shapes:?}: torch {}, here {ours:?}",
                    case[1]
                )),
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {cases}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // As `fixtures/shapes/README.md` lists them.
    let expected = [
        ("rounding", 41),
        ("small", 22),
        ("step", 36),
        ("unbounded", 12),
        ("untied", 4),
    ];
    assert_eq!(differences, BTreeMap::from(expected));
    assert!(
        specs >= 200 && cases >= 2000,
        "{specs} specs, {cases} cases"
    );
}

/// Axes of a root, in order.
fn axes_of<'r>(resolved: &'r Resolved, root: &str) -> Vec<&'r Affine> {
    let axes = resolved.inputs().iter().flat_map(|i| &i.axes);
    axes.filter_map(|a| match a {
        Axis::Dim(e) if e.root == root => Some(e),
        _ => None,
    })
    .collect()
}

/// Why torch may accept what has these conflicts: it checks neither a minimum of 2 or less, nor steps, nor that the axes
/// of one root agree where one of them is `x - n`.
fn stricter(conflicts: &[Conflict], resolved: &Resolved) -> Option<&'static str> {
    let why = |c: &Conflict| match c {
        Conflict::Outside { size, min, .. } if *size < 2 && *min <= 2 => Some("small"),
        Conflict::Outside {
            size,
            expr,
            min,
            max,
            ..
        } => {
            let size = *size as u64;
            let in_range = size >= *min && max.is_none_or(|max| size <= max);
            (in_range && expr.solve(size).is_none()).then_some("step")
        }
        Conflict::Disagree { dim, .. } => {
            let untied = |e: &&Affine| e.scale == 1 && e.offset < 0;
            axes_of(resolved, dim)
                .iter()
                .any(untied)
                .then_some("untied")
        }
        _ => None,
    };
    let all: Option<Vec<_>> = conflicts.iter().map(why).collect();
    all?.first().copied()
}

/// Whether torch's guard for some root is computed in floating point with thirds: `7/3 + 1/3*a == b`.
fn rounded_by_torch(resolved: &Resolved) -> Option<&'static str> {
    let by_thirds = resolved.dims().keys().any(|root| {
        let axes = axes_of(resolved, root);
        axes[0].scale == 3 && axes.len() > 1
    });
    by_thirds.then_some("rounding")
}

#[test]
fn the_parser_takes_what_torch_loads() {
    let (mut loads, mut one_value) = (0, 0);
    for record in table()["loaded"].as_array().unwrap() {
        let text = record["dump"].to_string();
        let ours = ShapeSpec::parse(&text, "dump");
        let range = &record["dump"]["dims"]["x"];
        let torch_loads = record["loads"].as_bool().unwrap();
        // Here a dim may have one value only; torch wants a number instead, and says so before it reads the expression.
        if range["min"] == range["max"] {
            assert!(
                record["message"].as_str().unwrap().contains("inconsistent"),
                "{record}"
            );
            one_value += usize::from(ours.is_ok());
            continue;
        }
        assert_eq!(ours.is_ok(), torch_loads, "{text}: {ours:?}");
        loads += usize::from(torch_loads);
    }
    assert_eq!((loads, one_value), (22, 9));
}
