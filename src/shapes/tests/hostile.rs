//! Files that nobody means well with: one case per rule of the reader, and random ones.

use super::*;
use crate::fault::Explain;
use proptest::prelude::*;

fn fault(text: &str) -> String {
    let error = ShapeSpec::parse(text, "bad.json").expect_err(text);
    let message = error.to_string();
    assert_eq!(
        (error.code(), message.contains("line 1, column")),
        ("shapes-invalid", true),
        "{message}"
    );
    message
}

fn each_is_reported(cases: &[(String, &str)]) {
    for (text, expected) in cases {
        let message = fault(text);
        assert!(
            message.contains(expected),
            "{text}\n{message}\nexpected: {expected}"
        );
    }
}

#[test]
fn every_rule_of_forms_and_dims_is_reported_with_its_place() {
    let dims = |d: &str| format!(r#"{{"dims": {{"B": {d}}}, "inputs": {{}}}}"#);
    each_is_reported(&[
        (
            "{}".to_owned(),
            "a shape spec needs `inputs`, `args`/`kwargs` or `dynamic_shapes`",
        ),
        ("[]".into(), "a shape spec must be an object, not a list"),
        (
            r#"{"inptus": {}}"#.into(),
            "line 1, column 2: unknown key `inptus` in a shape spec; expected `dims`, `profiles`, `inputs`, `args`, `kwargs`, `dynamic_shapes`; did you mean `inputs`?",
        ),
        (
            r#"{"inputs": {}, "args": []}"#.into(),
            "`inputs` and `args` belong to different forms of a spec; use one",
        ),
        (
            r#"{"args": {}}"#.into(),
            "`args` must be a list, not an object",
        ),
        (
            r#"{"kwargs": []}"#.into(),
            "`kwargs` must be an object, not a list",
        ),
        (
            r#"{"dynamic_shapes": 4}"#.into(),
            "`dynamic_shapes` must be a list, an object or null, not `4`",
        ),
        (
            r#"{"dims": [], "inputs": {}}"#.into(),
            "`dims` must be an object, not a list",
        ),
        (dims("4"), "the dim `B` must be an object, not `4`"),
        (
            dims(r#"{"mni": 4}"#),
            "unknown key `mni` in the dim `B`; expected `min`, `max`, `opt`, `derived`; did you mean `min`?",
        ),
        (
            dims(r#"{"min": -1}"#),
            "`min` of `B` must be an integer from 0 to 9223372036854775807, not `-1`",
        ),
        (dims(r#"{"min": 1.0}"#), "not `1.0`"),
        (dims(r#"{"min": 1e3}"#), "not `1e3`"),
        (dims(r#"{"min": null}"#), "not `null`"),
        (
            dims(r#"{"max": 9223372036854775808}"#),
            "not `9223372036854775808`",
        ),
        (
            dims(&format!(r#"{{"max": {}}}"#, "9".repeat(5000))),
            "not `9999999999999999999999999999999999999999…`",
        ),
        (dims(r#"{"max": NaN}"#), "`NaN` is not a JSON value"),
        (
            dims(r#"{"min": 9, "max": 8}"#),
            "`B` has max 8, which is less than its min 9",
        ),
        (
            dims(r#"{"min": 1, "max": 8, "opt": 9}"#),
            "`B` has opt 9, which is not from 1 to 8",
        ),
        (
            dims(r#"{"derived": "B + 1"}"#),
            "`derived` of `B` must be a list of expressions",
        ),
        (
            dims(r#"{"derived": [1]}"#),
            "an entry of `derived` of `B` must be an expression, not `1`",
        ),
        (
            dims(r#"{"derived": ["C + 1"]}"#),
            "`derived` of `B` lists `C + 1`, whose root is `C`",
        ),
        (
            dims(r#"{"derived": ["B - 1"]}"#),
            "`B - 1` is negative where `B` is 0; give `B` a min of at least 1",
        ),
        (
            r#"{"dims": {"4B": {}}, "inputs": {}}"#.into(),
            "`4B` cannot name a dim",
        ),
        (
            r#"{"dims": {"AUTO": {}}, "inputs": {}}"#.into(),
            "`AUTO` cannot name a dim: it is a hint",
        ),
        (
            r#"{"dims": {"B": {}, "B": {}}, "inputs": {}}"#.into(),
            "the key `B` is here a second time; the first is at line 1, column 11",
        ),
    ]);
}

#[test]
fn every_rule_of_axes_is_reported_with_its_place() {
    let input =
        |e: &str| format!(r#"{{"dims": {{"B": {{"min": 1, "max": 8}}}}, "inputs": {{"x": {e}}}}}"#);
    each_is_reported(&[
        (
            input(r#"{"0": "b"}"#),
            "line 1, column 61: `dims` does not list `b`; did you mean `B`?",
        ),
        (input(r#"{"0": "DYNAMC"}"#), "did you mean `DYNAMIC`?"),
        (input(r#"{"0": "B*B"}"#), "`B*B` is not linear in `B`"),
        (
            input(r#"{"0": "4"}"#),
            "`4` names no dim; write a static size without quotes",
        ),
        (
            input(r#"{"0": "2*B - 3"}"#),
            "`2*B - 3` is negative where `B` is 1; give `B` a min of at least 2",
        ),
        (
            input(r#"{"0": "9223372036854775807*B"}"#),
            "`9223372036854775807*B` is beyond 63 bits where `B` is 8",
        ),
        (
            input(r#"{"0": true}"#),
            "an axis must be a dim, an expression like `4*H`, a size, a hint or null, not `true`",
        ),
        (input(r#"{"0": []}"#), "not a list"),
        (
            input(r#"{"-0": "B"}"#),
            "`-0` is not an axis; axes are numbers in quotes, from 0, or from -1 at the end",
        ),
        (input(r#"{"01": "B"}"#), "`01` is not an axis"),
        (input(r#"{"70000": "B"}"#), "`70000` is not an axis"),
        (input(r#"{"b": "B"}"#), "`b` is not an axis"),
        (
            input("3"),
            "a tensor must be an object of axes, a list of axes or null, not `3`",
        ),
        (
            r#"{"args": [{"0": 1, "x": {}}]}"#.into(),
            "this object has both axes (`0`) and names (`x`)",
        ),
        (
            r#"{"args": [[1, {}]]}"#.into(),
            "this list has both axes and tensors",
        ),
    ]);
}

#[test]
fn all_faults_of_a_file_are_told_and_no_more_than_twenty() {
    let text = "{\"dims\": {\"B\": {\"min\": 3, \"max\": 1}},\n \"inputs\": {\"x\": {\"0\": \"C\",\n  \"1\": 1.5}}}";
    let message = ShapeSpec::parse(text, "bad.json").unwrap_err().to_string();
    assert_eq!(
        message,
        "the shape spec `bad.json` is not valid: 3 problems\n  line 1, column 16: `B` has max 1, which is less than its min 3\n  \
         line 2, column 24: `dims` does not list `C`; did you mean `B`?\n  \
         line 3, column 8: a static size must be an integer from 0 to 9223372036854775807, not `1.5`"
    );
    let many = format!(r#"{{"inputs": {{"x": [{}1]}}}}"#, "true, ".repeat(50_000));
    let message = ShapeSpec::parse(&many, "bad.json").unwrap_err().to_string();
    assert!(
        message.lines().count() == 22 && message.ends_with("and 49980 more"),
        "{message}"
    );
}

#[test]
fn huge_files_are_refused_before_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spaces.json");
    // Sparse: 100 MB that take no space, and no memory unless someone reads them.
    std::fs::File::create(&path)
        .unwrap()
        .set_len(100_000_000)
        .unwrap();
    let error = ShapeSpec::open(&path).unwrap_err();
    assert_eq!(error.code(), "shapes-too-large");
    assert_eq!(
        ShapeSpec::parse(&" ".repeat(2 << 20), "s")
            .unwrap_err()
            .code(),
        "shapes-too-large"
    );
    assert!(fault(&" ".repeat(1 << 20)).contains("the file is empty"));
    assert!(fault(&"[".repeat(1 << 20)).contains("nested more than 64 deep"));
    let missing = ShapeSpec::open(&dir.path().join("none.json")).unwrap_err();
    assert_eq!(missing.code(), "shapes-unreadable");
    std::fs::write(&path, b"{\n \"a\": \"\xff\"}").unwrap();
    let binary = ShapeSpec::open(&path).unwrap_err().to_string();
    assert!(
        binary.contains("line 2, column 8: this is not UTF-8 text"),
        "{binary}"
    );
}

#[test]
fn the_fuzz_corpus_is_replayed() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/shapes");
    let mut texts = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        if let Ok(text) = std::str::from_utf8(&bytes) {
            exercise::exercise(text);
            texts += 1;
        }
    }
    assert!(texts >= 50, "{texts} texts in {corpus}");
}

#[test]
fn a_spec_of_very_many_tensors_is_refused_before_it_is_tied() {
    let many = |n: usize| format!(r#"{{"args": [{}[1]]}}"#, "[1], ".repeat(n));
    assert!(fault(&many(4096)).contains("this is tensor 4097; a spec has at most 4096"));
    let spec = ShapeSpec::parse(&many(4095), "many.json").unwrap();
    // What is left out of an export is told in one line.
    let one = spec.resolve(&[decl("x", "1")], &Overrides::default());
    let warnings = one.unwrap().warnings().to_vec();
    assert!(
        warnings.len() == 1 && warnings[0].contains("and 4083 more"),
        "{warnings:?}"
    );
    let error = spec
        .resolve(&[decl("x", "2")], &Overrides::default())
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.lines().count() == 22 && message.ends_with("and 4076 more"),
        "{message}"
    );
    assert!(
        message.contains("`args[11]`, and 4084 more; left of the model: `x` [2]"),
        "{message}"
    );
    let key = format!(r#"{{"inputs": {{"{}": []}}}}"#, "k".repeat(257));
    assert!(fault(&key).contains("is longer than 256 bytes"));
}

/// Anything that is shaped like a spec, with the words of specs in it.
fn anything() -> impl Strategy<Value = serde_json::Value> {
    let word = prop::sample::select(vec![
        "dims",
        "inputs",
        "args",
        "kwargs",
        "dynamic_shapes",
        "min",
        "max",
        "opt",
        "derived",
        "B",
        "2*B",
        "B - 9",
        "AUTO",
        "_DimHint.STATIC",
        "0",
        "1",
        "-1",
        "x",
        "y",
        "B + 9223372036854775807",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        prop::sample::select(vec![0u64, 1, 2, 7, u64::MAX, i64::MAX as u64]).prop_map(Into::into),
        word.clone().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|pairs| {
                serde_json::Value::Object(
                    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
                )
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn nothing_panics(body in anything(), form in prop::sample::select(vec!["inputs", "args", "kwargs", "dynamic_shapes"]), raw: bool) {
        let inputs = [decl("x", "B ? 4 2*s-1"), decl("y", "B"), decl("z", "*")];
        let whole = if raw { body } else { serde_json::json!({"dims": {"B": {"min": 1}}, form: body}) };
        if let Ok(spec) = ShapeSpec::parse(&whole.to_string(), "random.json") {
            let overrides = Overrides::from_args(&["s=1:2:3"], &[]).unwrap();
            if let Ok(resolved) = spec.resolve(&inputs, &overrides) {
                resolved.profile();
                let _ = resolved.bind(&shapes(&[("x", &[1, 2, 3, usize::MAX]), ("y", &[0]), ("z", &[])]));
            }
            for form in [Form::Torch, Form::Args, Form::Inputs] {
                let _ = spec.convert(&inputs, &Overrides::default(), form);
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,60}") {
        let _ = ShapeSpec::parse(&text, "random.json");
    }
}
