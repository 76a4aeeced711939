//! Concrete shapes against ranges, ranges against ranges; properties.

use super::forms::{SDXL, sdxl};
use super::*;
use crate::fault::Explain;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn dims(values: &[(&str, u64)]) -> BTreeMap<String, u64> {
    values.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
}

/// SDXL's shapes for a batch and a latent of `h`×`w`.
fn sizes(b: usize, h: usize, w: usize) -> InputShapes {
    shapes(&[
        ("sample", &[b, 4, h, w]),
        ("timestep", &[1]),
        ("encoder_hidden_states", &[b, 77, 768]),
        ("text_embeds", &[b, 1280]),
        ("time_ids", &[b, 6]),
    ])
}

#[test]
fn binding_solves_all_roots() {
    let resolved = resolve(SDXL, &sdxl()).unwrap();
    assert_eq!(
        resolved.bind(&sizes(2, 64, 128)).unwrap(),
        dims(&[("BATCH", 2), ("_H", 16), ("_W", 32)])
    );
    let mut turned = sizes(3, 100, 96);
    turned.reverse();
    assert_eq!(
        resolved.bind(&turned).unwrap(),
        dims(&[("BATCH", 3), ("_H", 25), ("_W", 24)])
    );
}

#[test]
fn conflicts_are_told_together_with_the_nearest_sizes() {
    let resolved = resolve(SDXL, &sdxl()).unwrap();
    let mut wrong = sizes(2, 102, 140);
    wrong[0].1[1] = 3;
    wrong[3].1[0] = 4;
    wrong[4] = ("time_idss".into(), vec![2, 6]);
    wrong.push(("timestep".into(), vec![1]));
    wrong[2].1.push(1);
    let error = resolved.bind(&wrong).unwrap_err();
    let text = error.to_string();
    for expected in [
        "`time_idss` is not an input; did you mean `time_ids`?",
        "the input `timestep` is given twice",
        "axis 1 of `sample` is 3, but is fixed at 4",
        "axis 2 of `sample` is 102, but `4*_H` needs a multiple of 4 from 64 to 128; nearest: 100, 104",
        "axis 3 of `sample` is 140, but `4*_W` needs a multiple of 4 from 64 to 128; nearest: 128",
        "`encoder_hidden_states` has 4 axes, but needs 3: [BATCH, 77, 768]",
        "axis 0 of `sample` is 2, which makes `BATCH` 2, but axis 0 of `text_embeds` is 4, which makes it 4; nearest: 2 for the latter",
        "no shape is given for the input `time_ids`",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(text.starts_with("8 problems\n"), "{text}");
    assert_eq!(error.code(), "shape-out-of-range");
    assert!(error.hints()[0].contains("--on-range widen"));
    // Where a minimum is 2, 1 is not in it.
    let one = resolved.bind(&sizes(1, 64, 64)).unwrap_err().to_string();
    assert!(
        one.contains("axis 0 of `sample` is 1, but `BATCH` needs from 2 to 24; nearest: 2"),
        "{one}"
    );
}

#[test]
fn a_range_says_what_its_derived_dims_need() {
    let one = |expr: &str, range: &str, size: usize| {
        let text = format!(r#"{{"dims": {{"x": {range}}}, "inputs": {{"i": ["{expr}"]}}}}"#);
        resolve(&text, &[decl("i", "?")])
            .unwrap()
            .bind(&shapes(&[("i", &[size])]))
            .unwrap_err()
            .to_string()
    };
    let told = "axis 0 of `i` is";
    assert_eq!(
        one("2*x - 1", r#"{"min": 4, "max": 16}"#, 8),
        format!("{told} 8, but `2*x - 1` needs one of 7, 9, ... 31; nearest: 7, 9")
    );
    assert_eq!(
        one("2*x - 1", r#"{"min": 4, "max": 5}"#, 8),
        format!("{told} 8, but `2*x - 1` needs 7 or 9; nearest: 7, 9")
    );
    assert_eq!(
        one("3*x + 1", r#"{"min": 4}"#, 2),
        format!("{told} 2, but `3*x + 1` needs one of 13, 16, ...; nearest: 13")
    );
    assert_eq!(
        one("4*x", r#"{"min": 1}"#, 9),
        format!("{told} 9, but `4*x` needs a multiple of 4 at least 4; nearest: 8, 12")
    );
    assert_eq!(
        one("x + 1", r#"{"min": 3, "max": 3}"#, 9),
        format!("{told} 9, but `x + 1` needs 4; nearest: 4")
    );
    assert_eq!(
        one("x", "{}", usize::MAX),
        format!(
            "{told} {}, but `x` needs at least 0; nearest: {}",
            usize::MAX,
            i64::MAX
        )
    );
}

#[test]
fn shapes_for_takes_opt_where_nothing_is_given() {
    let resolved = resolve(SDXL, &sdxl()).unwrap();
    assert_eq!(
        resolved.shapes_for(&BTreeMap::new()).unwrap(),
        sizes(2, 96, 96)
    );
    assert_eq!(
        resolved
            .shapes_for(&dims(&[("_W", 32), ("BATCH", 24)]))
            .unwrap(),
        sizes(24, 96, 128)
    );
    let wrong = |given: &[(&str, u64)]| resolved.shapes_for(&dims(given)).unwrap_err();
    assert_eq!(
        wrong(&[("_W", 33), ("W", 20), ("BATCH", 1)]).to_string(),
        "`--dim W` names no dim of this model and spec; did you mean `_W`?"
    );
    // Outside of a range is what shapes with these sizes are.
    let outside = wrong(&[("_W", 33), ("BATCH", 1)]);
    assert_eq!(
        outside.to_string(),
        "2 problems\n  `BATCH` is 1, but needs from 2 to 24\n  `_W` is 33, but needs from 16 to 32"
    );
    assert_eq!(outside.code(), "shape-out-of-range");
    assert!(outside.hints()[0].contains("--on-range"));
}

#[test]
fn widening_covers_old_and_new_and_no_more() {
    let resolved = resolve(SDXL, &sdxl()).unwrap();
    let wide = resolved.widen(&sizes(1, 160, 96)).unwrap();
    let range = |r: &Resolved, n: &str| (r.dims()[n].min, r.dims()[n].max, r.dims()[n].opt);
    assert_eq!(
        (range(&wide, "BATCH"), range(&wide, "_H")),
        ((1, Some(24), 2), (16, Some(40), 24))
    );
    assert_eq!(wide.dims()["_W"], resolved.dims()["_W"]);
    let moved = resolved.move_to(&sizes(1, 160, 96)).unwrap();
    assert_eq!(
        (range(&moved, "BATCH"), range(&moved, "_H")),
        ((1, Some(1), 1), (40, Some(40), 40))
    );
    assert_eq!(moved.dims()["_W"], resolved.dims()["_W"]);
    assert_eq!(resolved.widen(&sizes(2, 64, 64)).unwrap(), resolved);
    // What no wider range covers.
    for (shapes, expected) in [
        (
            sizes(2, 202, 64),
            "axis 2 of `sample` is 202: no range of `_H` covers it, since `4*_H` has steps of 4",
        ),
        (
            {
                let mut s = sizes(2, 64, 64);
                s[3].1[0] = 30;
                s
            },
            "which makes `BATCH` 2",
        ),
        (
            {
                let mut s = sizes(2, 64, 64);
                s[0].1[1] = 5;
                s
            },
            "is fixed at 4",
        ),
    ] {
        let error = resolved.widen(&shapes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn comparison_is_by_meaning() {
    let model = [decl("x", "? ?"), decl("y", "?")];
    let r = |dims: &str, x: &str, y: &str| {
        resolve(
            &format!(r#"{{"dims": {{{dims}}}, "inputs": {{"x": {x}, "y": {y}}}}}"#),
            &model,
        )
        .unwrap()
    };
    let base = r(
        r#""B": {"min": 1, "max": 9}, "H": {"min": 2, "max": 4}"#,
        r#"["B", "4*H"]"#,
        r#"["B"]"#,
    );
    let renamed = r(
        r#""h": {"max": 4, "min": 2}, "n": {"max": 9, "min": 1}"#,
        r#"{"1": "4*h", "0": "n"}"#,
        r#"{"0": "n"}"#,
    );
    assert_eq!(base.compare(&renamed), Relation::Equal);
    // The same sizes by another expression.
    let shifted = r(
        r#""h": {"min": 1, "max": 3}, "n": {"min": 0, "max": 8}"#,
        r#"["n + 1", "4*h + 4"]"#,
        r#"["n + 1"]"#,
    );
    assert_eq!(base.compare(&shifted), Relation::Equal);
    let narrow = r(
        r#""B": {"min": 2, "max": 9}, "H": {"min": 1, "max": 2}"#,
        r#"["B", "8*H"]"#,
        r#"["B"]"#,
    );
    assert_eq!(
        (
            narrow.compare(&base),
            matches!(base.compare(&narrow), Relation::Outside { .. })
        ),
        (Relation::Inside, true)
    );
    assert_eq!(
        r(r#""B": {"min": 3, "max": 3}"#, r#"["B", 12]"#, "[3]").compare(&base),
        Relation::Inside
    );
    let opt = r(
        r#""B": {"min": 1, "max": 9, "opt": 1}, "H": {"min": 2, "max": 4}"#,
        r#"["B", "4*H"]"#,
        r#"["B"]"#,
    );
    assert_eq!(opt.compare(&base), Relation::Inside);
    let outside = |asked: &Resolved| match asked.compare(&base) {
        Relation::Outside { reasons } => reasons.join("; "),
        other => panic!("{other:?}"),
    };
    let wide = r(
        r#""B": {"min": 1, "max": 10}, "H": {"min": 2}"#,
        r#"["B", "4*H"]"#,
        r#"["B"]"#,
    );
    assert_eq!(
        outside(&wide),
        "axis 0 of `x` is asked to be `B` from 1 to 10, and was built for `B` from 1 to 9; \
         axis 1 of `x` is asked to be `4*H` at least 8, and was built for `4*H` from 8 to 16; \
         axis 0 of `y` is asked to be `B` from 1 to 10, and was built for `B` from 1 to 9"
    );
    let steps = r(
        r#""B": {"min": 1, "max": 9}, "H": {"min": 8, "max": 16}"#,
        r#"["B", "H"]"#,
        r#"["B"]"#,
    );
    assert!(outside(&steps).contains("axis 1 of `x` is asked to be `H` from 8 to 16"));
    let untied = r(
        r#""B": {"min": 1, "max": 9}, "C": {"min": 1, "max": 9}, "H": {"min": 2, "max": 4}"#,
        r#"["B", "4*H"]"#,
        r#"["C"]"#,
    );
    assert_eq!(
        outside(&untied),
        "axis 0 of `y` and axis 0 of `x` were built to be tied by `B`, and now are not"
    );
    assert!(outside(&r(r#""B": {"min": 1, "max": 9}"#, r#"["B", 8]"#, "[3]")).contains("tied"));
    let other = resolve(r#"{"inputs": {}}"#, &[decl("z", "4")]).unwrap();
    assert_eq!(
        outside(&other),
        "the input `z` is new; the input `x` is gone; the input `y` is gone"
    );
}

#[test]
fn a_record_reads_back_and_is_checked() {
    let resolved = resolve(SDXL, &sdxl()).unwrap();
    let text = serde_json::to_string(&resolved).unwrap();
    assert!(
        text.starts_with(
            r#"{"format":"trtmut.shapes/1","dims":{"BATCH":{"min":2,"max":24,"opt":2},"#
        ),
        "{text}"
    );
    assert!(
        text.contains(r#""axes":["BATCH",4,"4*_H","4*_W"]"#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Resolved>(&text).unwrap(), resolved);
    for (from, to, reason) in [
        (
            "shapes/1",
            "shapes/2",
            "its format is `trtmut.shapes/2`, this version reads `trtmut.shapes/1`",
        ),
        (
            r#""opt":2"#,
            r#""opt":1"#,
            "`BATCH` has opt 1 outside of its range",
        ),
        ("4*_H", "4*_X", "`4*_X` has no dim `_X`"),
        ("4*_H", "4*_W", "no axis uses the dim `_H`"),
        (
            "4*_H",
            "4**_H",
            "the axis `4**_H` has an unexpected `*` at character 3",
        ),
        (
            "4*_H",
            "_H - 20",
            "`_H - 20` has no size everywhere in the range of `_H`",
        ),
        ("time_ids", "sample", "the input `sample` is there twice"),
        (r#""max":24"#, r#""mx":24"#, "unknown field"),
    ] {
        let damaged = text.replace(from, to);
        let error = serde_json::from_str::<Resolved>(&damaged)
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// A model and a spec for it: one to three inputs, roots with ranges, derived and static axes.
fn problem() -> impl Strategy<Value = (Vec<TensorDecl>, String)> {
    let roots = prop::collection::vec((0u64..20, prop::option::of(0u64..40)), 3);
    let axis = (0usize..4, 1i64..5, 0i64..6);
    let inputs = prop::collection::vec(prop::collection::vec(axis, 0..5), 1..4);
    (roots, inputs).prop_map(|(roots, inputs)| {
        let mut used = std::collections::BTreeSet::new();
        let mut json = serde_json::Map::new();
        let mut decls = Vec::new();
        for (i, axes) in inputs.iter().enumerate() {
            let entries: Vec<serde_json::Value> = (axes.iter())
                .map(|&(root, scale, offset)| {
                    if root == 3 {
                        return (scale + offset).into();
                    }
                    used.insert(root);
                    Affine {
                        root: format!("r{root}"),
                        scale,
                        offset,
                    }
                    .to_string()
                    .into()
                })
                .collect();
            json.insert(format!("in{i}"), entries.into());
            decls.push(decl(&format!("in{i}"), &"? ".repeat(axes.len())));
        }
        let dims = roots.iter().enumerate().filter(|(r, _)| used.contains(r));
        let dims: serde_json::Map<String, serde_json::Value> = dims
            .map(|(r, (min, span))| {
                (
                    format!("r{r}"),
                    serde_json::json!({"min": min, "max": span.map(|s| min + s)}),
                )
            })
            .collect();
        (
            decls,
            serde_json::json!({"dims": dims, "inputs": json}).to_string(),
        )
    })
}

/// A value of every root within its range, or up to 30 beyond it.
fn values(resolved: &Resolved, seeds: &[u64], beyond: u64) -> BTreeMap<String, u64> {
    let roots = resolved.dims().iter().zip(seeds.iter().cycle());
    roots
        .map(|((name, r), seed)| {
            (
                name.clone(),
                r.min + seed % (r.max.map_or(30, |m| m - r.min) + 1 + beyond),
            )
        })
        .collect()
}

fn unchecked(resolved: &Resolved, values: &BTreeMap<String, u64>) -> InputShapes {
    let size = |a: &Axis| match a {
        Axis::Fixed(n) => *n,
        Axis::Dim(e) => e.eval(values[&e.root]).unwrap() as usize,
    };
    resolved
        .inputs()
        .iter()
        .map(|i| (i.name.clone(), i.axes.iter().map(size).collect()))
        .collect()
}

proptest! {
    #[test]
    fn bind_undoes_eval((model, json) in problem(), seeds in prop::collection::vec(0u64..1000, 3)) {
        let resolved = resolve(&json, &model).unwrap();
        let values = values(&resolved, &seeds, 0);
        let shapes = resolved.shapes_for(&values).unwrap();
        prop_assert_eq!(resolved.bind(&shapes).unwrap(), values);
    }

    #[test]
    fn profiles_are_ordered_and_hold_what_binds((model, json) in problem(), seeds in prop::collection::vec(0u64..1000, 3)) {
        let resolved = resolve(&json, &model).unwrap();
        let shapes = resolved.shapes_for(&values(&resolved, &seeds, 0)).unwrap();
        for (input, (_, shape)) in resolved.profile().inputs.iter().zip(&shapes) {
            for (axis, &size) in input.axes.iter().zip(shape) {
                prop_assert!(axis.min <= axis.opt && axis.max.is_none_or(|max| axis.opt <= max));
                prop_assert!(axis.min <= size && axis.max.is_none_or(|max| size <= max));
            }
        }
        // The profile's opt is one set of shapes that binds.
        let opt = resolved.profile().inputs.into_iter().map(|i| (i.name, i.axes.iter().map(|a| a.opt).collect()));
        prop_assert!(resolved.bind(&opt.collect()).is_ok());
    }

    #[test]
    fn widening_is_the_least_cover((model, json) in problem(), seeds in prop::collection::vec(0u64..1000, 6)) {
        let resolved = resolve(&json, &model).unwrap();
        let asked = values(&resolved, &seeds, 25);
        let shapes = unchecked(&resolved, &asked);
        let wide = resolved.widen(&shapes).unwrap();
        prop_assert_eq!(wide.bind(&shapes).unwrap(), asked.clone());
        let inside = !matches!(resolved.compare(&wide), Relation::Outside { .. });
        prop_assert!(inside);
        for (name, root) in wide.dims() {
            let old = resolved.dims()[name];
            prop_assert!(root.min == old.min || root.min == asked[name]);
            prop_assert!(root.max == old.max || root.max == Some(asked[name]));
        }
        if resolved.bind(&shapes).is_ok() {
            prop_assert_eq!(&wide, &resolved);
        }
    }

    #[test]
    fn narrower_ranges_are_inside_and_lower_to_narrower_profiles((model, json) in problem(), seeds in prop::collection::vec(0u64..1000, 3)) {
        let resolved = resolve(&json, &model).unwrap();
        let values = values(&resolved, &seeds, 0);
        let overrides = Overrides {
            dims: values.iter().map(|(n, v)| (n.clone(), match resolved.dims()[n].max {
                Some(max) => format!("{v}:{max}"),
                None => format!("{v}:"),
            })).collect(),
            ..Overrides::default()
        };
        let narrow = spec(&json).resolve(&model, &overrides).unwrap();
        let inside = !matches!(narrow.compare(&resolved), Relation::Outside { .. });
        prop_assert!(inside);
        for (a, b) in narrow.profile().inputs.iter().flat_map(|i| &i.axes).zip(resolved.profile().inputs.iter().flat_map(|i| &i.axes)) {
            prop_assert!(a.min >= b.min && a.max == b.max);
        }
        prop_assert_eq!(resolved.compare(&resolved), Relation::Equal);
    }

    #[test]
    fn containment_is_what_binding_says((model, json) in problem(), (_, other) in problem(), seeds in prop::collection::vec(0u64..1000, 3)) {
        let a = resolve(&json, &model).unwrap();
        if let Ok(b) = resolve(&other, &model)
            && !matches!(a.compare(&b), Relation::Outside { .. })
        {
            let shapes = a.shapes_for(&values(&a, &seeds, 0)).unwrap();
            prop_assert!(b.bind(&shapes).is_ok());
        }
    }

    #[test]
    fn records_and_specs_round_trip((model, json) in problem()) {
        let resolved = resolve(&json, &model).unwrap();
        let record = serde_json::to_string(&resolved).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Resolved>(&record).unwrap(), &resolved);
        prop_assert_eq!(&resolve(&resolved.to_spec(), &model).unwrap(), &resolved);
    }
}
