//! Several optimization profiles: each by itself, all joined, and what runs on which.

use super::*;

const TEXT: &str = r#"{"dims": {"B": {"min": 1, "max": 4, "opt": 2}, "H": {"min": 8, "max": 64}, "W": {"min": 3, "max": 9}},
    "profiles": [{"B": {"max": 1}, "H": {"min": 16, "opt": 20}}, {"B": {"min": 3, "max": 8}, "H": {"max": 32}}],
    "inputs": {"x": ["B", "4*H", "W"]}}"#;

fn inputs() -> [TensorDecl; 1] {
    [decl("x", "? ? ?")]
}

fn several() -> Resolved {
    resolve(TEXT, &inputs()).unwrap()
}

fn tables(resolved: &Resolved) -> Vec<String> {
    resolved.each_profile().iter().map(table).collect()
}

#[test]
fn each_profile_is_a_range_and_all_are_joined_into_the_smallest_that_holds_them() {
    let resolved = several();
    assert_eq!(table(&resolved), "x 1:1:8 32:80:256 3:6:9");
    assert_eq!(
        tables(&resolved),
        ["x 1 64:80:256 3:6:9", "x 3:5:8 32:80:128 3:6:9"]
    );
    assert_eq!(resolved.profile().several.len(), 2);
    let joined = resolved.joined();
    assert_eq!(joined.profile().inputs, resolved.profile().inputs);
    assert!(joined.profile().several.is_empty());
    assert_eq!(
        resolved.show_profiles(),
        ["B 1, H 16 to 64, W 3 to 9", "B 3 to 8, H 8 to 32, W 3 to 9"]
    );
    // Alone, or twice the same, it is one range.
    for profiles in [
        r#"[{"B": {"max": 2}}]"#,
        r#"[{"B": {"max": 2}}, {"B": {"max": 2}}]"#,
    ] {
        let text = format!(
            r#"{{"dims": {{"B": {{"min": 1, "max": 4}}}}, "profiles": {profiles}, "inputs": {{"x": ["B"]}}}}"#
        );
        let one = resolve(&text, &[decl("x", "?")]).unwrap();
        assert_eq!((table(&one).as_str(), one.profile_count()), ("x 1:1:2", 1));
    }
}

#[test]
fn the_command_line_speaks_of_all_profiles() {
    let with = |dims: &[&str], opts: &[&str]| {
        let overrides = Overrides::from_args(dims, opts)?;
        spec(TEXT).resolve(&inputs(), &overrides)
    };
    assert_eq!(
        tables(&with(&["W=5"], &[]).unwrap()),
        ["x 1 64:80:256 5", "x 3:5:8 32:80:128 5"]
    );
    // A size to optimise for is the profile's that holds it, and the joined range's.
    let optimised = with(&[], &["B=7,H=30"]).unwrap();
    assert_eq!(
        tables(&optimised),
        ["x 1 64:120:256 3:6:9", "x 3:7:8 32:120:128 3:6:9"]
    );
    assert_eq!(table(&optimised), "x 1:7:8 32:120:256 3:6:9");
    let error = with(&[], &["B=9"]).unwrap_err().to_string();
    assert!(error.contains("--opt"), "{error}");
}

#[test]
fn sizes_run_where_one_profile_holds_them_all() {
    let resolved = several();
    let bind = |x: [usize; 3]| resolved.bind(&shapes(&[("x", &x)]));
    assert_eq!(bind([1, 256, 9]).unwrap()["H"], 64);
    assert_eq!(bind([8, 32, 9]).unwrap()["B"], 8);
    // Each axis is in some profile, and no profile has both.
    for far in [[8, 256, 9], [2, 64, 9], [9, 64, 9]] {
        let error = bind(far).unwrap_err();
        assert_eq!(crate::fault::Explain::code(&error), "shape-out-of-range");
        let text = error.to_string();
        for says in [
            "no optimization profile holds these sizes",
            "profile 1 has B 1, H 16 to 64, W 3 to 9",
            "profile 2 has B 3 to 8, H 8 to 32, W 3 to 9",
        ] {
            assert!(text.contains(says), "{text}");
        }
    }
    // What no range would hold is said as ever.
    let error = bind([1, 30, 9]).unwrap_err().to_string();
    assert!(error.contains("30"), "{error}");
    let error = resolved.bind(&shapes(&[])).unwrap_err().to_string();
    assert!(error.contains("no shape is given"), "{error}");
    // A size that is not given is one of a profile that holds what is.
    let given = |dims: &[(&str, u64)]| {
        let dims = dims.iter().map(|(n, v)| ((*n).to_owned(), *v));
        resolved.shapes_for(&dims.collect()).unwrap()
    };
    assert_eq!(given(&[("B", 8)])[0].1, [8, 80, 6]);
    assert_eq!(given(&[("H", 60)])[0].1, [1, 240, 6]);
}

#[test]
fn the_nearest_profile_becomes_wider_and_the_others_stay() {
    let resolved = several();
    let far = shapes(&[("x", &[12, 48, 9])]);
    let wider = resolved.widen(&far).unwrap();
    assert_eq!(
        tables(&wider),
        ["x 1 64:80:256 3:6:9", "x 3:5:12 32:80:128 3:6:9"]
    );
    assert_eq!(table(&wider), "x 1:1:12 32:80:256 3:6:9");
    assert!(wider.bind(&far).is_ok());
    let moved = resolved.move_to(&far).unwrap();
    assert_eq!(
        tables(&moved),
        ["x 1 64:80:256 3:6:9", "x 12 32:80:128 3:6:9"]
    );
    assert!(moved.bind(&far).is_ok() && resolved.unbounded().bind(&far).is_ok());
}

#[test]
fn what_is_asked_for_is_inside_where_each_profile_is_inside_of_one() {
    let (all, joined) = (several(), several().joined());
    assert_eq!(all.compare(&several()), Relation::Equal);
    assert_eq!(all.compare(&joined), Relation::Inside);
    let one = &all.each_profile()[1];
    assert_eq!(one.compare(&all), Relation::Inside);
    let Relation::Outside { reasons } = joined.compare(&all) else {
        panic!("no profile holds the joined range");
    };
    assert!(reasons[0].contains("`x`"), "{reasons:?}");
    let other = TEXT.replace(r#""max": 8}, "H""#, r#""max": 80}, "H""#);
    let Relation::Outside { reasons } = resolve(&other, &inputs()).unwrap().compare(&all) else {
        panic!("one of its profiles is wider");
    };
    assert!(
        reasons[0].starts_with("in profile 2, axis 0 of `x`"),
        "{reasons:?}"
    );
}

#[test]
fn profiles_are_recorded_and_read_back() {
    let resolved = several();
    let json = serde_json::to_value(&resolved).unwrap();
    assert_eq!(json["profiles"][0]["B"]["max"], 1);
    let again: Resolved = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(again, resolved);
    assert!(
        serde_json::to_value(resolved.joined())
            .unwrap()
            .get("profiles")
            .is_none()
    );
    for (path, value) in [
        ("/profiles/0/B/max", serde_json::json!(99)),
        ("/profiles/0/B/opt", serde_json::json!(0)),
        ("/profiles/0/B", serde_json::Value::Null),
    ] {
        let mut damaged = json.clone();
        *damaged.pointer_mut(path).unwrap() = value;
        assert!(
            serde_json::from_value::<Resolved>(damaged).is_err(),
            "{path}"
        );
    }
    let mut damaged = json.clone();
    damaged["profiles"].as_array_mut().unwrap().truncate(1);
    assert!(serde_json::from_value::<Resolved>(damaged).is_err());
}

#[test]
fn other_forms_have_the_profiles_too_but_for_torchs() {
    for form in [Form::Inputs, Form::Args] {
        let converted = spec(TEXT)
            .convert(&inputs(), &Overrides::default(), form)
            .unwrap();
        assert!(converted.lost.is_empty(), "{:?}", converted.lost);
        let again = resolve(&converted.text, &inputs()).unwrap();
        assert_eq!(tables(&again), tables(&several()), "{}", converted.text);
    }
    let torch = spec(TEXT)
        .convert(&inputs(), &Overrides::default(), Form::Torch)
        .unwrap();
    assert!(
        torch.lost[0].contains("the profiles are joined into one"),
        "{:?}",
        torch.lost
    );
}

#[test]
fn example_inputs_are_the_sizes_of_the_profile_that_holds_them() {
    let optimised = several()
        .optimised_for(&shapes(&[("x", &[6, 40, 4])]), &Overrides::default())
        .unwrap();
    assert_eq!(
        tables(&optimised),
        ["x 1 64:80:256 3:4:9", "x 3:6:8 32:40:128 3:4:9"]
    );
    let error = several()
        .optimised_for(&shapes(&[("x", &[2, 40, 4])]), &Overrides::default())
        .unwrap_err();
    assert!(matches!(error, Error::Call(_)), "{error}");
}

#[test]
fn a_profile_that_contradicts_the_model_is_named() {
    // B and C are one symbol: where they have nothing in common in a profile, that profile is wrong.
    let text = r#"{"dims": {"B": {"min": 1, "max": 8}, "C": {"min": 1, "max": 8}},
        "profiles": [{"B": {"max": 4}}, {"B": {"min": 5}, "C": {"max": 4}}],
        "inputs": {"x": ["B"], "y": ["C"]}}"#;
    let error = resolve(text, &[decl("x", "s"), decl("y", "s")]).unwrap_err();
    assert!(error.to_string().contains("profile 2"), "{error}");
    // Where a profile pins one of them, both are that size there.
    let text = text.replace(
        r#"{"B": {"min": 5}, "C": {"max": 4}}"#,
        r#"{"B": {"min": 3, "max": 3}}"#,
    );
    let resolved = resolve(&text, &[decl("x", "s"), decl("y", "s")]).unwrap();
    assert_eq!(tables(&resolved), ["x 1:2:4\ny 1:2:4", "x 3\ny 3"]);
    for (profiles, says) in [
        (r#"[{"C": {}}]"#, "`dims` does not list `C`"),
        (
            r#"[{"B": {"min": 9}}]"#,
            "`B` has max 4, which is less than its min 9",
        ),
        ("{}", "`profiles` must be a list of objects"),
        (
            r#"[{"B": {"mn": 1}}]"#,
            "unknown key `mn` in `B` of a profile",
        ),
    ] {
        let text = format!(
            r#"{{"dims": {{"B": {{"min": 1, "max": 4}}}}, "profiles": {profiles}, "inputs": {{}}}}"#
        );
        let error = ShapeSpec::parse(&text, "s").unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let many = vec![r#"{"B": {"max": 4}}"#; 65].join(",");
    let text = format!(
        r#"{{"dims": {{"B": {{"min": 1, "max": 4}}}}, "profiles": [{many}], "inputs": {{}}}}"#
    );
    let error = ShapeSpec::parse(&text, "s").unwrap_err().to_string();
    assert!(error.contains("64 objects or less"), "{error}");
}
