//! The samples and the documentation's examples, in all forms.

use super::*;

/// The inputs of the `SDXL` denoiser exported with the documentation's shapes.
pub fn sdxl() -> Vec<TensorDecl> {
    vec![
        decl("sample", "BATCH 4 4*_H 4*_W"),
        decl("timestep", "1"),
        decl("encoder_hidden_states", "BATCH 77 768"),
        decl("text_embeds", "BATCH 1280"),
        decl("time_ids", "BATCH 6"),
    ]
}

pub const SDXL: &str = r#"{
  "dims": {
    "BATCH": { "min": 2, "max": 24, "opt": 2 },
    "_H": { "min": 16, "max": 32 },
    "_W": { "min": 16, "max": 32 }
  },
  "args": [{ "0": "BATCH", "2": "4*_H", "3": "4*_W" }, {}],
  "kwargs": {
    "encoder_hidden_states": { "0": "BATCH" },
    "added_cond_kwargs": { "text_embeds": { "0": "BATCH" }, "time_ids": { "0": "BATCH" } },
    "return_dict": null
  }
}"#;

const SDXL_TORCH: &str = r#"{
  "dynamic_shapes": [
    ["BATCH", 4, "4*_H", "4*_W"], [1], ["BATCH", 77, 768],
    { "text_embeds": ["BATCH", 1280], "time_ids": ["BATCH", 6] }, null
  ],
  "dims": {
    "BATCH": { "min": 2, "max": 24, "derived": [] },
    "_H": { "min": 16, "max": 32, "derived": ["4*_H"] },
    "_W": { "min": 16, "max": 32, "derived": ["4*_W"] }
  }
}"#;

#[test]
fn sdxl_lowers_to_its_profile_from_every_form() {
    let readable = resolve(SDXL, &sdxl()).unwrap();
    assert_eq!(
        table(&readable),
        "sample 2:2:24 4 64:96:128 64:96:128\ntimestep 1\nencoder_hidden_states 2:2:24 77 768\n\
         text_embeds 2:2:24 1280\ntime_ids 2:2:24 6"
    );
    assert!(readable.warnings().is_empty());
    // Torch's dump has no place for `opt`, so that one differs.
    let torch = resolve(SDXL_TORCH, &sdxl()).unwrap();
    assert_eq!(torch.dims()["BATCH"].opt, 13);
    assert_eq!(torch.compare(&readable), Relation::Inside);
    assert_eq!(readable.compare(&torch), Relation::Inside);
    let overrides = Overrides::from_args(&[], &["BATCH=2"]).unwrap();
    let torch = spec(SDXL_TORCH).resolve(&sdxl(), &overrides).unwrap();
    assert_eq!(torch, readable);
}

fn fixture(path: &str) -> String {
    let path = format!("{}/fixtures/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every sample with the inputs of a model that it is for.
fn samples() -> Vec<(String, Vec<TensorDecl>)> {
    let model =
        |inputs: &[(&str, &str)]| inputs.iter().map(|(n, d)| decl(n, d)).collect::<Vec<_>>();
    let sd_unet = |b, h, w, t| {
        vec![
            decl("sample", &format!("{b} 4 {h} {w}")),
            decl("timestep", b),
            decl("encoder_hidden_states", &format!("{b} {t} 32")),
        ]
    };
    let dit = |b: &str| {
        model(&[
            ("hidden_states", &format!("{b} 4 16 16")),
            ("timestep", b),
            ("class_labels", b),
        ])
    };
    let flux = model(&[
        ("hidden_states", "s10 s21 16"),
        ("encoder_hidden_states", "s10 s12 32"),
        ("pooled_projections", "s10 32"),
        ("timestep", "s10"),
        ("img_ids", "s46 3"),
        ("txt_ids", "s24 3"),
    ]);
    [
        ("shapes/sdxl_unet.json", sdxl()),
        ("shapes/sdxl_unet.torch.json", sdxl()),
        (
            "shapes/two_args.torch.json",
            model(&[("x", "dim_0 4"), ("y", "2 dim_1")]),
        ),
        (
            "shapes/derived_and_hints.torch.json",
            model(&[
                ("x", "dx 4"),
                ("y", "dx+1 s7"),
                ("z_0", "2*dx-1"),
                ("z_1", "s9 5"),
            ]),
        ),
        (
            "clip_text/shapes.dynamo.json",
            model(&[("input_ids", "s10 s21")]),
        ),
        ("clip_text/shapes.ts.json", model(&[("input_ids", "B T")])),
        ("dit/shapes.dynamo.json", dit("s10")),
        ("dit/shapes.ts.json", dit("B")),
        ("flux/shapes.dynamo.json", flux),
        ("resnet/shapes.dynamo.json", model(&[("image", "B 3 H W")])),
        ("resnet/shapes.ts.json", model(&[("image", "B 3 H W")])),
        (
            "sd_unet/shapes.dynamo.json",
            sd_unet("s10", "s25", "s63", "s11"),
        ),
        ("sd_unet/shapes.ts.json", sd_unet("B", "H", "W", "T")),
        (
            "vae_decoder/shapes.dynamo.json",
            model(&[("latent", "s81 4 s73 s15")]),
        ),
        (
            "vae_decoder/shapes.ts.json",
            model(&[("latent", "B 4 H W")]),
        ),
    ]
    .into_iter()
    .map(|(path, inputs)| (fixture(path), inputs))
    .collect()
}

#[test]
fn every_sample_fits_its_model_silently_and_converts_to_every_form() {
    for (text, inputs) in samples() {
        let resolved = resolve(&text, &inputs).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(resolved.warnings().is_empty(), "{:?}", resolved.warnings());
        for form in [Form::Torch, Form::Args, Form::Inputs] {
            let converted = spec(&text)
                .convert(&inputs, &Overrides::default(), form)
                .unwrap();
            let again = resolve(&converted.text, &inputs)
                .unwrap_or_else(|e| panic!("{e}\n{}", converted.text));
            if converted.lost.is_empty() {
                assert_eq!(again, resolved, "{}", converted.text);
            } else {
                assert_eq!(form, Form::Torch);
                assert_eq!(
                    (again.compare(&resolved), resolved.compare(&again)),
                    (Relation::Inside, Relation::Inside)
                );
            }
            // And from that form to every other.
            for next in [Form::Torch, Form::Args, Form::Inputs] {
                let twice = spec(&converted.text)
                    .convert(&inputs, &Overrides::default(), next)
                    .unwrap();
                let last = resolve(&twice.text, &inputs).unwrap();
                if twice.lost.is_empty() {
                    assert_eq!(last, again, "{}", twice.text);
                } else {
                    assert_eq!(
                        (next, last.compare(&again)),
                        (Form::Torch, Relation::Inside)
                    );
                }
            }
        }
    }
}

#[test]
fn conversion_keeps_the_tree_and_writes_what_torch_dumps() {
    let convert = |text: &str, form| {
        spec(text)
            .convert(&sdxl(), &Overrides::default(), form)
            .unwrap()
    };
    let torch = convert(SDXL, Form::Torch);
    assert_eq!(
        torch.lost,
        ["torch's dump has no place for the opt 2 of `BATCH`"]
    );
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&torch.text), json(SDXL_TORCH));
    let args = json(&convert(SDXL, Form::Args).text);
    assert_eq!(args["args"], json(SDXL)["args"]);
    assert_eq!(args["kwargs"], json(SDXL)["kwargs"]);
    let inputs = convert(SDXL, Form::Inputs).text;
    assert!(
        inputs.contains(r#"    "sample": ["BATCH", 4, "4*_H", "4*_W"],"#),
        "{inputs}"
    );
    assert!(
        inputs.contains(r#"    "BATCH": { "min": 2, "opt": 2, "max": 24 },"#),
        "{inputs}"
    );
}

#[test]
fn a_form_that_would_mean_other_inputs_is_refused() {
    let inputs = [decl("a", "?"), decl("b", "?")];
    // Torch's dump is positional, and these come in another order than the model's inputs; a dict has the names.
    let text =
        r#"{"dims": {"p": {"max": 3}, "q": {"max": 4}}, "kwargs": {"b": ["p"], "a": ["q"]}}"#;
    let torch = spec(text)
        .convert(&inputs, &Overrides::default(), Form::Torch)
        .unwrap();
    assert!(torch.text.contains(r#""b": ["p"]"#), "{}", torch.text);
    let mixed =
        r#"{"dims": {"p": {"max": 3}, "q": {"max": 4}}, "args": [["p"]], "kwargs": {"a": ["q"]}}"#;
    let error = spec(mixed)
        .convert(&inputs, &Overrides::default(), Form::Torch)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot write this spec in the form `torch`"),
        "{error}"
    );
}

#[test]
fn what_torch_does_not_have_is_a_size_in_its_dump() {
    let text =
        r#"{"dims": {"p": {"min": 3, "max": 3}, "q": {"min": 1}}, "inputs": {"a": ["p", "2*q"]}}"#;
    let torch = spec(text)
        .convert(&[decl("a", "? ?")], &Overrides::default(), Form::Torch)
        .unwrap();
    let expected = "{\n  \"dynamic_shapes\": [\n    [3, \"2*q\"]\n  ],\n  \"dims\": {\n    \"q\": {\n      \"min\": 1,\n      \
                    \"max\": 9223372036854775807,\n      \"derived\": [\"2*q\"]\n    }\n  }\n}\n";
    assert_eq!(torch.text, expected);
}

#[test]
fn a_dump_of_none_is_no_spec() {
    let resolved = resolve(r#"{"dynamic_shapes": null, "dims": {}}"#, &[decl("x", "4")]).unwrap();
    assert_eq!(table(&resolved), "x 4");
}

/// Whether `schema` takes `value`: the part of JSON Schema 2020-12 that ours uses; another keyword is a panic.
fn takes(root: &serde_json::Value, schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    use serde_json::Value;
    let Value::Object(keywords) = schema else {
        return schema.as_bool().unwrap();
    };
    let all = |v: &Value| {
        v.as_array()
            .unwrap()
            .iter()
            .map(|s| takes(root, s, value))
            .collect::<Vec<_>>()
    };
    let object = value.as_object();
    keywords
        .iter()
        .all(|(keyword, rule)| match keyword.as_str() {
            "$schema"
            | "$defs"
            | "title"
            | "description"
            | "allowComments"
            | "allowTrailingCommas" => true,
            "$ref" => takes(
                root,
                root.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap())
                    .unwrap(),
                value,
            ),
            "anyOf" => all(rule).contains(&true),
            "oneOf" => all(rule).iter().filter(|ok| **ok).count() == 1,
            "not" => !takes(root, rule, value),
            "enum" => rule.as_array().unwrap().contains(value),
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "null" => value.is_null(),
                "integer" => value.is_u64() || value.is_i64(),
                other => panic!("{other}"),
            },
            "minimum" => value.as_i64().is_none_or(|n| n >= rule.as_i64().unwrap()),
            "maximum" => {
                !value.is_u64() || value.as_i64().is_some_and(|n| n <= rule.as_i64().unwrap())
            }
            "minLength" => value
                .as_str()
                .is_none_or(|s| s.len() >= rule.as_u64().unwrap() as usize),
            "required" => object.is_none_or(|o| {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .all(|k| o.contains_key(k.as_str().unwrap()))
            }),
            "properties" => object.is_none_or(|o| {
                let rules = rule.as_object().unwrap();
                rules
                    .iter()
                    .all(|(k, r)| o.get(k).is_none_or(|v| takes(root, r, v)))
            }),
            "additionalProperties" => object.is_none_or(|o| {
                let known = keywords.get("properties").and_then(Value::as_object);
                o.iter()
                    .filter(|(k, _)| known.is_none_or(|p| !p.contains_key(*k)))
                    .all(|(_, v)| takes(root, rule, v))
            }),
            "propertyNames" => object.is_none_or(|o| {
                o.keys()
                    .all(|k| takes(root, rule, &Value::String(k.clone())))
            }),
            "items" => value
                .as_array()
                .is_none_or(|a| a.iter().all(|v| takes(root, rule, v))),
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                match rule.as_str().unwrap() {
                    "^(0|-?[1-9][0-9]{0,4})$" => text
                        .parse::<i32>()
                        .is_ok_and(|n| n.abs() < 100_000 && n.to_string() == text),
                    r"^[0-9]|[\u0000-/:-@\[-^`{-\u007f]" => {
                        let other =
                            |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_';
                        text.starts_with(|c: char| c.is_ascii_digit()) || text.contains(other)
                    }
                    other => panic!("{other}"),
                }
            }
            other => panic!("{other}"),
        })
}

#[test]
fn the_schema_takes_every_sample_and_refuses_what_is_none() {
    let schema: serde_json::Value = serde_json::from_str(schema()).unwrap();
    let takes = |text: &str| takes(&schema, &schema, &serde_json::from_str(text).unwrap());
    for (text, inputs) in samples() {
        assert!(takes(&text), "{text}");
        for form in [Form::Torch, Form::Args, Form::Inputs] {
            let converted = spec(&text)
                .convert(&inputs, &Overrides::default(), form)
                .unwrap()
                .text;
            assert!(takes(&converted), "{converted}");
        }
        assert!(takes(&template(&inputs)));
    }
    for text in [
        "{}",
        "[]",
        r#"{"inputs": {}, "args": []}"#,
        r#"{"inputs": {}, "more": 1}"#,
        r#"{"inputs": {"x": {"a": "B"}}}"#,
        r#"{"inputs": {"x": {"0": 1.5}}}"#,
        r#"{"inputs": {"x": {"-0": 2}}}"#,
        r#"{"dims": {"B": {"mn": 1}}, "inputs": {}}"#,
        r#"{"dims": {"4B": {}}, "inputs": {}}"#,
        r#"{"dims": {"AUTO": {}}, "inputs": {}}"#,
        r#"{"dims": {"B": {"min": null}}, "inputs": {}}"#,
        r#"{"args": {}}"#,
    ] {
        assert!(!takes(text), "{text}");
        assert!(ShapeSpec::parse(text, "s").is_err(), "{text}");
    }
}
