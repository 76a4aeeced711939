//! What a spec and a model say of each other: symbols, ranks, static sizes, leaves, the command line.

use super::*;
use crate::fault::Explain;

fn refused(json: &str, inputs: &[TensorDecl]) -> String {
    let error = resolve(json, inputs).expect_err(json);
    // Whatever is wrong, the spec that is offered instead fits the model.
    let Error::Model { suggestion, .. } = &error else {
        panic!("{error}")
    };
    resolve(suggestion, inputs).unwrap_or_else(|e| panic!("{e}\n{suggestion}"));
    assert_eq!(error.code(), "shapes-model-mismatch");
    error.to_string()
}

#[track_caller]
fn assert_refused(json: &str, inputs: &[TensorDecl], expected: &str) {
    let message = refused(json, inputs);
    assert!(
        message.contains(expected),
        "{message}\nexpected: {expected}"
    );
}

#[test]
fn a_static_model_needs_no_spec() {
    let resolved = ShapeSpec::none()
        .resolve(&[decl("x", "1 4"), decl("t", "")], &Overrides::default())
        .unwrap();
    assert_eq!(table(&resolved), "x 1 4\nt ");
    assert_eq!(
        resolved
            .bind(&shapes(&[("x", &[1, 4]), ("t", &[])]))
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn a_dynamic_model_without_a_spec_lists_its_dynamic_axes() {
    let inputs = [decl("x", "B 4 ?"), decl("y", "4")];
    let error = ShapeSpec::none()
        .resolve(&inputs, &Overrides::default())
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("what is given about shapes does not fit the model: 2 problems\n"),
        "{text}"
    );
    assert!(
        text.contains("axis 0 of `x` is dynamic in the model (`B`), but no dim is given for it"),
        "{text}"
    );
    assert!(
        text.contains("axis 2 of `x` is dynamic in the model (`?`)"),
        "{text}"
    );
    let hints = error.hints();
    assert!(
        hints[0].contains("--dim") && hints[1].contains("--print-shapes"),
        "{hints:?}"
    );
    assert!(
        hints[1].contains(r#""x": { "0": "B", "2": "x_2" }"#),
        "{hints:?}"
    );
}

#[test]
fn the_command_line_alone_can_give_all_ranges() {
    let inputs = [decl("x", "B 4 ?"), decl("y", "B 2*seq-len")];
    let overrides =
        Overrides::from_args(&["B=1:2:4", "x_2=3", "d_2_seq_len=5:9"], &["d_2_seq_len=8"]);
    let resolved = ShapeSpec::none()
        .resolve(&inputs, &overrides.unwrap())
        .unwrap();
    assert_eq!(table(&resolved), "x 1:2:4 4 3\ny 1:2:4 5:8:9");
    let bad = Overrides::from_args(
        &["B=1:4", "x_2=3", "seq=2", "d_2_seq_len=5"],
        &["C=1", "B=9"],
    )
    .unwrap();
    let error = ShapeSpec::none().resolve(&inputs, &bad).unwrap_err();
    assert_eq!(error.to_string(), "`--opt B=9` is not from 1 to 4");
    let bad =
        Overrides::from_args(&["B=1:4", "x_2=3", "seq=2", "d_2_seq_len=5"], &["C=1"]).unwrap();
    let text = ShapeSpec::none()
        .resolve(&inputs, &bad)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("`--dim seq` names no dim") && text.contains("`--opt C` names no dim"),
        "{text}"
    );
}

#[test]
fn hints_take_their_range_from_the_symbol_or_the_command_line() {
    let inputs = [decl("x", "B 4 ? 2*s+1"), decl("y", "batch")];
    let text = r#"{"dims": {"B": {"min": 2, "max": 8}}, "inputs": {"x": ["AUTO", "_DimHint.AUTO", "DYNAMIC", "Dim.DYNAMIC"], "y": ["AUTO"]}}"#;
    let overrides = Overrides::from_args(&["batch=1:5:9"], &["s=3"]).unwrap();
    let resolved = spec(text).resolve(&inputs, &overrides).unwrap();
    assert_eq!(table(&resolved), "x 2:5:8 4 0:1: 1:7:\ny 1:5:9");
    assert_eq!(resolved.profile().unbounded(), [("x", 2), ("x", 3)]);
    let error = resolved.require_bounded().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no largest size is given for `s`, `x_2`, and this backend needs one"
    );
    assert!(error.hints()[0].contains("`--dim s=min:opt:max`"));
    assert_refused(
        r#"{"inputs": {"x": {"1": "DYNAMIC"}}}"#,
        &[decl("x", "? 4")],
        "axis 1 of `x` is 4 in the model, but `Dim.DYNAMIC` in the spec",
    );
    // An axis that a hint leaves to the model is what the spec says of the same symbol elsewhere.
    let shared = r#"{"dims": {"N": {"min": 1, "max": 3}, "b": {}}, "inputs": {"x": ["4*N"], "y": ["AUTO", "b"]}}"#;
    let resolved = resolve(shared, &[decl("x", "b"), decl("y", "2*b q")]).unwrap();
    assert_eq!(resolved.inputs()[1].axes[0].to_string(), "8*N");
}

#[test]
fn what_the_model_fixes_cannot_be_otherwise() {
    let x = [decl("x", "B 4")];
    let with = |entry: &str| {
        format!(
            r#"{{"dims": {{"B": {{"min": 1, "max": 8}}, "F": {{"min": 4, "max": 4}}}}, "inputs": {{"x": {entry}}}}}"#
        )
    };
    assert_refused(
        &with(r#"["B", 5]"#),
        &x,
        "axis 1 of `x` is 4 in the model, but 5 in the spec",
    );
    assert_refused(
        &with(r#"["B", "B"]"#),
        &x,
        "axis 1 of `x` is 4 in the model, but `B` in the spec",
    );
    assert!(resolve(&with(r#"["B", "F"]"#), &x).is_ok());
    assert_refused(
        &with(r#"["B", 4, 4]"#),
        &x,
        "`inputs.x` of the spec has 3 axes, but `x` has 2 in the model: [B, 4]",
    );
    assert_refused(
        &with(r#"{"0": "B", "7": 1}"#),
        &x,
        "axis 7 of `x` is in the spec, but the model gives it 2 axes: [B, 4]",
    );
    assert_refused(
        &with(r#"{"0": null}"#),
        &x,
        "the spec makes it static without a size",
    );
    assert_refused(
        &with("null"),
        &x,
        "`inputs.x` is null in the spec, but `x` is a dynamic input of the model: [B, 4]",
    );
    assert_refused(&with("{}"), &x, "no dim is given for it");
    let resolved = resolve(&with("[3, 4]"), &x).unwrap();
    assert_eq!(table(&resolved), "x 3 4");
}

#[test]
fn an_input_without_a_rank_needs_a_whole_list() {
    let x = [decl("x", "*")];
    let with = |entry: &str| {
        format!(r#"{{"dims": {{"B": {{"min": 1, "max": 8}}}}, "inputs": {{"x": {entry}}}}}"#)
    };
    assert_eq!(
        table(&resolve(&with(r#"["B", 4]"#), &x).unwrap()),
        "x 1:4:8 4"
    );
    let error = resolve(&with(r#"{"0": "B"}"#), &x).unwrap_err().to_string();
    assert!(
        error.contains("the model does not state the rank of `x`; give it a list"),
        "{error}"
    );
}

#[test]
fn all_contradictions_are_told_together() {
    let text = r#"{"dims": {"B": {"min": 1, "max": 8}}, "inputs": {"x": ["B", 5, 7], "z": {}, "yy": {"0": "B"}}}"#;
    let message = refused(
        text,
        &[decl("x", "B 4 s"), decl("y", "B"), decl("z", "q 3")],
    );
    for part in [
        "axis 1 of `x`",
        "axis 0 of `z`",
        "no input `yy`; did you mean `y`?",
        "axis 0 of `y`",
        "elsewhere `B` is `B`",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn one_symbol_is_one_size() {
    let dims = r#""dims": {"B": {"min": 2, "max": 24}, "C": {"min": 1, "max": 10, "opt": 4}, "H": {"min": 1, "max": 6}, "K": {"max": 50}}"#;
    let two = |a: &str, b: &str| {
        format!(r#"{{{dims}, "inputs": {{"x": ["{a}"], "y": ["{b}"]}}}}"#).replace("\"7\"", "7")
    };
    let model = [decl("x", "s"), decl("y", "s")];
    let tied = resolve(&two("B", "C"), &model).unwrap();
    assert_eq!(table(&tied), "x 2:4:10\ny 2:4:10");
    assert_eq!(
        tied.warnings(),
        [
            "axis 0 of `x` and axis 0 of `y` share `s` in the model, so `B` is taken to be `C`",
            "nothing uses the dim `H` of the spec",
            "nothing uses the dim `K` of the spec",
        ]
    );
    assert!(tied.bind(&shapes(&[("x", &[3]), ("y", &[4])])).is_err());
    // 4*H = K: K is what can be expressed by the other.
    assert_eq!(
        table(&resolve(&two("4*H", "K"), &model).unwrap()),
        "x 4:12:24\ny 4:12:24"
    );
    assert_eq!(table(&resolve(&two("B", "7"), &model).unwrap()), "x 7\ny 7");
    assert_eq!(
        table(&resolve(&two("2*B - 2", "B + 3"), &model).unwrap()),
        "x 8\ny 8"
    );
    assert_refused(
        &two("B", "B + 1"),
        &model,
        "but `B` and `B + 1` are never equal",
    );
    assert_refused(
        &two("4*H", "6*K"),
        &model,
        "have steps that do not divide each other; write both with one dim",
    );
    assert_refused(
        &two("4*H", "7"),
        &model,
        "share `s` in the model, but `4*H` and `7` cannot both hold",
    );
    assert_refused(&two("B", "C + 40"), &model, "have no size in common");
    // A chain: the third axis sees what the first two became.
    let three = format!(r#"{{{dims}, "inputs": {{"x": ["B"], "y": ["C"], "z": ["H"]}}}}"#);
    let chain = resolve(
        &three,
        &[model[0].clone(), model[1].clone(), decl("z", "s")],
    )
    .unwrap();
    assert_eq!(
        (table(&chain).lines().next(), chain.warnings().len()),
        (Some("x 2:4:6"), 3)
    );
}

#[test]
fn the_models_expressions_are_understood() {
    let dims = r#""dims": {"_H": {"min": 16, "max": 32}, "S": {"min": 64, "max": 128}}"#;
    let x = [decl("x", "4*s5"), decl("y", "s5")];
    let with =
        |a: &str, b: &str| format!(r#"{{{dims}, "inputs": {{"x": ["{a}"], "y": ["{b}"]}}}}"#);
    let fits = resolve(&with("4*_H", "_H"), &x).unwrap();
    assert_eq!(fits.warnings(), ["nothing uses the dim `S` of the spec"]);
    assert_refused(
        &with("S", "_H"),
        &x,
        "axis 0 of `x` is `4*s5` in the model, which `S` does not always fit",
    );
    assert_refused(&with("4*_H", "_H + 1"), &x, "are never equal");
    // What is no A·x+B is a symbol as a whole.
    let opaque = [decl("x", "floor(h/2)"), decl("y", "floor(h/2)")];
    let text = r#"{"inputs": {"x": ["AUTO"], "y": ["AUTO"]}}"#;
    let resolved = resolve(text, &opaque).unwrap();
    assert_eq!(resolved.dims().keys().collect::<Vec<_>>(), ["floor_h_2_"]);
}

#[test]
fn one_dim_may_be_on_axes_with_different_symbols() {
    let text = r#"{"dims": {"B": {"min": 1, "max": 4}}, "inputs": {"x": ["B"], "y": ["B"]}}"#;
    let resolved = resolve(text, &[decl("x", "s1"), decl("y", "s2")]).unwrap();
    assert!(resolved.warnings().is_empty());
    assert!(resolved.bind(&shapes(&[("x", &[1]), ("y", &[2])])).is_err());
}

#[test]
fn leaves_are_matched_by_name_then_path_then_last_key_then_position() {
    let dims = r#""dims": {"A": {"min": 1, "max": 1}, "B": {"min": 2, "max": 2}, "C": {"min": 3, "max": 3}, "D": {"min": 4, "max": 4}}"#;
    let json = |rest: &str| format!("{{{dims}, {rest}}}");
    let got = |rest: &str, names: &[&str]| {
        let inputs: Vec<TensorDecl> = names.iter().map(|n| decl(n, "?")).collect();
        resolve(&json(rest), &inputs)
            .map(|r| table(&r))
            .map_err(|e| e.to_string())
    };
    let nested = r#""args": [["A"], ["B"]], "kwargs": {"c": {"t": ["C"], "u": ["D"]}}"#;
    for names in [
        ["x", "y", "c_t", "c_u"],
        ["x", "y", "c.t", "u"],
        ["x", "y", "t", "u"],
    ] {
        assert_eq!(
            got(nested, &names).unwrap(),
            format!("x 1\ny 2\n{} 3\n{} 4", names[2], names[3])
        );
    }
    // Names first, so that what is positional fills the gaps in order.
    assert_eq!(
        got(nested, &["u", "x", "t", "y"]).unwrap(),
        "u 4\nx 1\nt 3\ny 2"
    );
    // Nested in a positional argument: its own name is not in the spec.
    let inner = r#""args": [["A"], {"t": ["C"], "u": ["D"]}]"#;
    assert_eq!(
        got(inner, &["x", "cond_t", "cond_u"]).unwrap(),
        "x 1\ncond_t 3\ncond_u 4"
    );
    assert_eq!(got(inner, &["a", "b", "c"]).unwrap(), "a 1\nb 3\nc 4");
    assert_eq!(
        got(r#""args": [[["A"], ["B"]], null, ["C"]]"#, &["a", "b", "c"]).unwrap(),
        "a 1\nb 2\nc 3"
    );
    // A last key that two leaves have decides nothing.
    let twice = r#""kwargs": {"c": {"t": ["C"]}, "d": {"t": ["D"]}}"#;
    assert_eq!(got(twice, &["d_t", "c_t"]).unwrap(), "d_t 4\nc_t 3");
    let message = got(twice, &["t", "v"]).unwrap_err();
    assert!(
        message.contains("`kwargs.d.t` of the spec could be any of `t`, which another tensor"),
        "{message}"
    );
    let message = got(twice, &["u", "v"]).unwrap_err();
    assert!(
        message.contains(
            "left of the spec: `kwargs.c.t`, `kwargs.d.t`; left of the model: `u` [?], `v` [?]"
        ),
        "{message}"
    );
    // Keyword arguments are never positional.
    let message = got(r#""kwargs": {"smaple": ["A"]}"#, &["sample"]).unwrap_err();
    assert!(
        message.contains("`kwargs.smaple` of the spec has no input in the model: is it `sample`?"),
        "{message}"
    );
    // One null more than inputs: which of the two is the input is not decided.
    let message = got(r#""args": [null, ["A"], null]"#, &["x", "y"]).unwrap_err();
    assert!(
        message.contains("`args[1]` of the spec could be any of `x`, `y`"),
        "{message}"
    );
    // An input that two leaves fit.
    let message = got(
        r#""kwargs": {"c": {"d_t": ["C"]}, "c_d": {"t": ["D"]}}"#,
        &["c_d_t"],
    )
    .unwrap_err();
    assert!(
        message.contains("`c_d_t`, which another tensor of the spec fits as well"),
        "{message}"
    );
    let message = got(r#""args": [{"t": ["C"]}]"#, &["a_t", "b_t"]).unwrap_err();
    assert!(
        message.contains("left of the model: `a_t` [?], `b_t` [?]"),
        "{message}"
    );
}

#[test]
fn null_leaves_may_be_missing_or_static() {
    let text = r#"{"dims": {"B": {"max": 4}}, "args": [["B"], null], "kwargs": {"flag": null, "mask": null}}"#;
    assert!(resolve(text, &[decl("x", "b")]).is_ok());
    assert!(resolve(text, &[decl("x", "b"), decl("mask", "3 3")]).is_ok());
    assert_refused(
        text,
        &[decl("x", "b"), decl("mask", "b 3")],
        "`kwargs.mask` is null in the spec, but `mask` is a dynamic input",
    );
    // `[]` is a scalar tensor or nothing.
    let scalar = r#"{"dims": {"B": {"max": 4}}, "dynamic_shapes": [["B"], [], [null, null]]}"#;
    assert!(resolve(scalar, &[decl("x", "b"), decl("t", ""), decl("y", "2 2")]).is_ok());
    assert!(resolve(scalar, &[decl("x", "b")]).is_ok());
}

#[test]
fn a_derived_dim_has_a_size_wherever_the_model_narrows_it() {
    let text = r#"{"inputs": {"x": ["AUTO"]}}"#;
    assert_refused(
        text,
        &[decl("x", "2*s-3")],
        "axis 0 of `x` (`2*s - 3`): is negative where `s` is 0",
    );
}

#[test]
fn templates_are_valid_for_their_models() {
    let inputs = [
        decl("x", "B 4 ? 2*s-3"),
        decl("y", "seq-len seq_len"),
        decl("z", "3"),
    ];
    let text = template(&inputs);
    let resolved = resolve(&text, &inputs).unwrap();
    assert_eq!(resolved.dims().len(), 5, "{text}");
    let expected = r#"{
  "dims": {
    "B": { "min": 1, "max": null },
    "H": { "min": 1, "max": null }
  },
  "inputs": {
    "x": { "0": "B", "2": "4*H" }
  }
}
"#;
    assert_eq!(template(&[decl("x", "B 3 4*H")]), expected);
}

#[test]
fn hints_have_bounds_and_axes_may_count_from_the_end() {
    let inputs = [decl("x", "B 4 ? 2*s+1"), decl("y", "B s 4")];
    let text = r#"{"dims": {"N": {"min": 1, "max": 9}}, "inputs": {
        "x": {"0": "Dim.AUTO(min=2, max=8)", "-2": "DimHint(DYNAMIC, max=5)", "-1": "_DimHint.AUTO(6, None)"},
        "y": {"0": "N", "-2": "Dim.AUTO(max=4)", "2": "Dim.STATIC(max=4)"}}}"#;
    assert_eq!(
        table(&resolve(text, &inputs).unwrap()),
        "x 2:5:8 4 0:2:5 7:7:9\ny 2:5:8 3:3:4 4"
    );
    let with =
        |x: &str| format!(r#"{{"dims": {{"N": {{"min": 1, "max": 9}}}}, "inputs": {{"x": {x}}}}}"#);
    for (x, model, says) in [
        (
            r#"["N", "Dim.AUTO(min=10)"]"#,
            "s s",
            "axis 1 of `x` is `Dim.AUTO(min=10)` in the spec, which leaves no size where `N` is from 1 to 9",
        ),
        (
            r#"[3, "Dim.AUTO(min=10)"]"#,
            "s s",
            "axis 1 of `x` is `Dim.AUTO(min=10)` in the spec, but 3 elsewhere",
        ),
        (
            r#"["N", "Dim.AUTO(min=10)"]"#,
            "s 4",
            "axis 1 of `x` is 4 in the model, but `Dim.AUTO(min=10)` in the spec",
        ),
        (
            r#"{"0": "N", "-2": "N"}"#,
            "s 4",
            "`inputs.x` of the spec has axis 0 of `x` twice",
        ),
        (
            r#"{"-3": "N"}"#,
            "s 4",
            "axis -3 of `x` is in the spec, but the model gives it 2 axes",
        ),
    ] {
        assert_refused(&with(x), &[decl("x", model)], says);
    }
    for (entry, says) in [
        (
            "Dim.AUTO(mn=2)",
            "`Dim.AUTO(mn=2)` is no hint: expected bounds like `(min=2, max=8)`",
        ),
        ("Dim.AUTO(min=9, max=8)", "max 8 is less than min 9"),
        ("AUTO(min=-1)", "expected bounds"),
        ("AUTO(min=2", "expected bounds"),
    ] {
        let text = with(&format!(r#"["{entry}"]"#));
        let error = ShapeSpec::parse(&text, "s").unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // What Python has for no bound is none.
    let open = r#"{"dims": {"N": {"max": 9223372036854775807}}, "inputs": {"x": ["N"]}}"#;
    assert_eq!(
        resolve(open, &[decl("x", "?")]).unwrap().dims()["N"].max,
        None
    );
}

#[test]
fn what_an_exporter_left_out_is_found_by_name_and_rank_or_refused() {
    let dims = r#""dims": {"A": {"min": 1, "max": 2}, "B": {"min": 3, "max": 4}, "C": {"min": 5, "max": 6}}"#;
    let got = |rest: &str, inputs: &[TensorDecl]| {
        resolve(&format!("{{{dims}, {rest}}}"), inputs)
            .map(|r| table(&r))
            .map_err(|e| e.to_string())
    };
    let ranks = r#""args": [["A"], ["B", 4], ["C"]]"#;
    // By rank, and never by chance.
    assert_eq!(
        got(ranks, &[decl("x", "? 4"), decl("y", "?")]).unwrap(),
        "x 3:3:4 4\ny 5:5:6"
    );
    assert_eq!(
        got(ranks, &[decl("x", "?"), decl("y", "? 4")]).unwrap(),
        "x 1:1:2\ny 3:3:4 4"
    );
    let message = got(ranks, &[decl("x", "?")]).unwrap_err();
    assert!(
        message.contains("`args[0]` of the spec could be any of `x`, or none"),
        "{message}"
    );
    // By name.
    let nested = r#""args": [{"t": ["A"], "u": ["B"]}, ["C"]]"#;
    assert_eq!(
        got(nested, &[decl("c_u", "?"), decl("y", "?")]).unwrap(),
        "c_u 3:3:4\ny 5:5:6"
    );
    // Names that the spec and the model both know are not given to each other's axes.
    let message = got(
        r#""args": [["A"], ["B"]]"#,
        &[decl("x", "B"), decl("y", "A")],
    )
    .unwrap_err();
    assert!(
        message.contains("axis 0 of `x` is `B` in the model, but `A` in the spec (`args[0]`)"),
        "{message}"
    );
    // What is offered instead does not repeat it.
    let crossed = r#"{"dims": {"A": {"max": 2}, "B": {"max": 4}}, "args": [["A"], ["B"]]}"#;
    let error = resolve(crossed, &[decl("x", "B"), decl("y", "A")]).unwrap_err();
    let Error::Model { suggestion, .. } = error else {
        panic!("{error}")
    };
    assert!(suggestion.contains(r#""x": { "0": "B" }"#), "{suggestion}");
}
