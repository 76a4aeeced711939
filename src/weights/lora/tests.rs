use super::*;
use crate::fault::Explain;
use crate::tensor::{Dtype, Tensor, difference};
use crate::weights::source::tests::write_tensors;
use std::fs;

pub(super) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A file of f32 tensors: key, shape, values.
pub(super) fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Values that differ from each other and from zero.
pub(super) fn drawn(shape: &[usize], seed: u32) -> Tensor {
    let count = shape.iter().product::<usize>();
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32
        })
        .collect();
    f32s(shape, &values)
}

pub(super) struct File {
    dir: tempfile::TempDir,
}

impl File {
    pub(super) fn new(tensors: &[(String, Tensor)]) -> File {
        let dir = tempfile::tempdir().unwrap();
        write_tensors(&dir.path().join("lora.safetensors"), tensors);
        File { dir }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("lora.safetensors")
    }

    fn config(self, text: &str) -> File {
        fs::write(self.dir.path().join("adapter_config.json"), text).unwrap();
        self
    }
}

pub(super) fn targets(list: &[(&str, &[usize])]) -> BTreeMap<String, Vec<usize>> {
    list.iter()
        .map(|(n, s)| ((*n).to_owned(), s.to_vec()))
        .collect()
}

/// `<module>.lora_down/up` of rank 2 for a weight `[out, in]`.
fn pair(module: &str, out: usize, input: usize) -> Vec<(String, Tensor)> {
    vec![
        (format!("{module}.lora_down.weight"), drawn(&[2, input], 3)),
        (format!("{module}.lora_up.weight"), drawn(&[out, 2], 4)),
    ]
}

fn problems(file: &File, targets: &dyn Targets) -> Vec<Problem> {
    match Lora::open(file.path(), targets) {
        Err(Error::Problems { problems, .. }) => problems,
        other => panic!("{other:?}"),
    }
}

/// Largest |actual - expected| relative to the largest |expected|.
pub(super) fn relative(actual: &Tensor, expected: &Tensor) -> f64 {
    let d = difference(actual.view(), expected.view(), 0.0, 0.0).unwrap();
    let scale = crate::tensor::statistics(expected.view()).unwrap();
    d.max_abs / scale.max.unwrap().abs().max(scale.min.unwrap().abs())
}

fn fused(fusion: &Fusion, base: &Source, name: &str) -> Tensor {
    let view = base.get(name).unwrap();
    Tensor {
        dtype: view.dtype,
        shape: view.shape.to_vec(),
        data: fusion.fuse(name, view).unwrap(),
    }
}

#[test]
fn every_format_of_every_fixture_gives_what_peft_gave() {
    let mut seen = Vec::new();
    for folder in ["sd_unet", "clip_text", "dit", "flux", "vae_decoder"] {
        let dir = fixtures().join(folder);
        let base = Source::open(dir.join("base.safetensors")).unwrap();
        let expected = Source::open(dir.join("fused.safetensors")).unwrap();
        let info: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("info.json")).unwrap()).unwrap();
        for (file, format) in [
            ("adapter_model.safetensors", Format::Peft),
            ("pytorch_lora_weights.safetensors", Format::Diffusers),
            ("lora_kohya.safetensors", Format::Kohya),
        ] {
            let path = dir.join(file);
            if !path.is_file() {
                continue;
            }
            seen.push(format!("{folder}/{file}"));
            let lora = Lora::open(&path, &base).unwrap();
            assert_eq!(lora.formats().collect::<Vec<_>>(), [format]);
            let changed: Vec<String> = lora.targets().map(ToOwned::to_owned).collect();
            assert_eq!(
                changed.len() as u64,
                info["changed_by_lora"].as_u64().unwrap()
            );
            let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
            for name in base.names() {
                let actual = fused(&fusion, &base, name);
                let wanted = expected.get(name).unwrap().to_owned();
                if changed.iter().any(|c| c == name) {
                    let worst = relative(&actual, &wanted);
                    assert!(worst < 1e-6, "{folder}/{file} {name}: {worst:e}");
                } else {
                    assert_eq!(actual, wanted, "{folder}/{file} {name}");
                }
            }
        }
    }
    assert_eq!(seen.len(), 12 - 1, "{seen:?}");
}

#[test]
fn unmatched_modules_are_all_listed_with_the_nearest_names() {
    let model = targets(&[
        ("blocks.0.to_q.weight", &[4, 4]),
        ("blocks.0.to_k.weight", &[4, 4]),
    ]);
    let mut tensors = pair("lora_unet_blocks_0_to_q", 4, 4);
    tensors.extend(pair("lora_unet_blocks_1_to_q", 4, 4));
    tensors.extend(pair("lora_unet_other", 4, 4));
    let file = File::new(&tensors);
    let found = problems(&file, &model);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(matches!(&found[0], Problem::Unmatched { module, nearest }
        if module == "lora_unet_blocks_1_to_q" && nearest[0] == "blocks.0.to_q"));
    let e = Lora::open(file.path(), &model).unwrap_err();
    assert_eq!(e.code(), "lora-unmatched");
    assert!(e.hints().iter().any(|h| h.contains("lora_unet_other")));
}

#[test]
fn parts_for_other_components_are_left_out_and_named() {
    let model = targets(&[("blocks.0.to_q.weight", &[4, 4])]);
    let mut tensors = pair("lora_unet_blocks_0_to_q", 4, 4);
    tensors.extend(pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 8, 4));
    let lora = Lora::open(File::new(&tensors).path(), &model).unwrap();
    assert_eq!(
        lora.skipped().collect::<Vec<_>>(),
        [(Component::TextEncoder(1), 1)]
    );
    assert_eq!(lora.targets().collect::<Vec<_>>(), ["blocks.0.to_q.weight"]);
}

#[test]
fn two_text_encoders_are_told_apart_by_shape_or_by_the_user() {
    let model = targets(&[("text_model.encoder.layers.0.mlp.fc1.weight", &[8, 4])]);
    let module = |n: u8| format!("lora_te{n}_text_model_encoder_layers_0_mlp_fc1");
    let mut tensors = pair(&module(1), 8, 4);
    tensors.extend(pair(&module(2), 16, 6));
    let lora = Lora::open(File::new(&tensors).path(), &model).unwrap();
    assert_eq!(
        lora.skipped().collect::<Vec<_>>(),
        [(Component::TextEncoder(2), 1)]
    );

    tensors.truncate(2);
    tensors.extend(pair(&module(2), 8, 4));
    let file = File::new(&tensors);
    let e = Lora::open(file.path(), &model).unwrap_err();
    assert_eq!(e.code(), "lora-components");
    let second = Lora::open_component(file.path(), &model, Some(Component::TextEncoder(2)));
    assert_eq!(second.unwrap().targets().len(), 1);
    let none = Lora::open_component(file.path(), &model, Some(Component::Vae));
    assert_eq!(none.unwrap_err().code(), "lora-none");
}

#[test]
fn each_kind_of_damage_is_named() {
    let model = targets(&[
        ("a.weight", &[4, 6]),
        ("a.bias", &[4]),
        ("nobias.weight", &[4, 6]),
    ]);
    let with = |extra: &[(&str, Tensor)]| {
        let mut tensors = pair("lora_unet_a", 4, 6);
        tensors.extend(extra.iter().map(|(k, t)| ((*k).to_owned(), t.clone())));
        tensors
    };
    let half = vec![pair("lora_unet_a", 4, 6).remove(0)];
    let eight = Tensor {
        dtype: Dtype::F8E4M3Fn,
        shape: vec![2, 6],
        data: vec![0; 12],
    };
    let cases: Vec<(&str, Vec<(String, Tensor)>, &str)> = vec![
        ("no up projection", half, "lora-incomplete"),
        (
            "alpha alone",
            vec![("lora_unet_a.alpha".into(), f32s(&[], &[1.0]))],
            "lora-incomplete",
        ),
        (
            "two kinds",
            with(&[("lora_unet_a.diff", drawn(&[4, 6], 1))]),
            "lora-incomplete",
        ),
        ("wrong shape", pair("lora_unet_a", 5, 6), "lora-shape"),
        ("transposed", pair("lora_unet_a", 6, 4), "lora-shape"),
        (
            "ranks differ",
            vec![
                ("lora_unet_a.lora_down.weight".into(), drawn(&[3, 6], 1)),
                ("lora_unet_a.lora_up.weight".into(), drawn(&[4, 2], 1)),
            ],
            "lora-factors",
        ),
        (
            "rank 0",
            vec![
                ("lora_unet_a.lora_down.weight".into(), f32s(&[0, 6], &[])),
                ("lora_unet_a.lora_up.weight".into(), f32s(&[4, 0], &[])),
            ],
            "lora-incomplete",
        ),
        (
            "vector factors",
            vec![
                ("lora_unet_a.lora_down.weight".into(), drawn(&[6], 1)),
                ("lora_unet_a.lora_up.weight".into(), drawn(&[4], 1)),
            ],
            "lora-factors",
        ),
        (
            "alpha of two values",
            with(&[("lora_unet_a.alpha", drawn(&[2], 1))]),
            "lora-value",
        ),
        (
            "alpha not a number",
            with(&[("lora_unet_a.alpha", f32s(&[], &[f32::NAN]))]),
            "lora-value",
        ),
        (
            "8-bit factors",
            vec![
                ("lora_unet_a.lora_down.weight".into(), eight),
                ("lora_unet_a.lora_up.weight".into(), drawn(&[4, 2], 1)),
            ],
            "lora-value",
        ),
        (
            "DoRA of the wrong length",
            with(&[("lora_unet_a.dora_scale", drawn(&[5, 1], 1))]),
            "lora-factors",
        ),
        (
            "another kind of adapter",
            with(&[("lora_unet_a.oft_blocks", drawn(&[4], 1))]),
            "lora-unsupported",
        ),
        (
            "a key that means nothing",
            with(&[("sigma", drawn(&[4], 1))]),
            "lora-unknown-key",
        ),
        (
            "an undeclared weight",
            with(&[("a.weight", drawn(&[4, 6], 1))]),
            "lora-unknown-key",
        ),
        (
            "the same twice",
            with(&[("lora_unet_a.lora.down.weight", drawn(&[2, 6], 1))]),
            "lora-value",
        ),
        (
            "two modules for one weight",
            [pair("lora_unet_a", 4, 6), pair("unet.a", 4, 6)].concat(),
            "lora-overlap",
        ),
        (
            "a bias that the model has not",
            vec![("lora_unet_nobias.diff_b".into(), drawn(&[4], 1))],
            "lora-unmatched",
        ),
        (
            "half a LoKr",
            vec![("lora_unet_a.lokr_w1".into(), drawn(&[2, 2], 1))],
            "lora-incomplete",
        ),
        (
            "LoKr of the wrong product",
            vec![
                ("lora_unet_a.lokr_w1".into(), drawn(&[2, 2], 1)),
                ("lora_unet_a.lokr_w2".into(), drawn(&[2, 2], 1)),
            ],
            "lora-shape",
        ),
        (
            "LoHa with one core",
            vec![
                ("lora_unet_a.hada_w1_a".into(), drawn(&[2, 4], 1)),
                ("lora_unet_a.hada_w1_b".into(), drawn(&[2, 6], 1)),
                ("lora_unet_a.hada_w2_a".into(), drawn(&[2, 4], 1)),
                ("lora_unet_a.hada_w2_b".into(), drawn(&[2, 6], 1)),
                ("lora_unet_a.hada_t1".into(), drawn(&[2, 2], 1)),
            ],
            "lora-incomplete",
        ),
        (
            "no LoRA at all",
            vec![("a.weight".into(), drawn(&[4, 6], 1))],
            "lora-none",
        ),
        (
            "PEFT without its configuration",
            vec![
                ("base_model.model.a.lora_A.weight".into(), drawn(&[2, 6], 1)),
                ("base_model.model.a.lora_B.weight".into(), drawn(&[4, 2], 1)),
            ],
            "lora-no-config",
        ),
    ];
    for (what, tensors, code) in cases {
        let e = Lora::open(File::new(&tensors).path(), &model).expect_err(what);
        assert_eq!(e.code(), code, "{what}: {e}");
        assert!(!e.to_string().is_empty());
    }
}

#[test]
fn configuration_and_file_have_to_agree() {
    let model = targets(&[("a.weight", &[4, 6])]);
    let tensors = vec![
        (
            "base_model.model.a.lora_A.weight".to_owned(),
            drawn(&[2, 6], 1),
        ),
        (
            "base_model.model.a.lora_B.weight".to_owned(),
            drawn(&[4, 2], 2),
        ),
    ];
    let code = |config: &str| {
        let file = File::new(&tensors).config(config);
        Lora::open(file.path(), &model)
            .map(|l| l.scaling("a.weight"))
            .map_err(|e| e.code())
    };
    assert_eq!(code(r#"{"r":2,"lora_alpha":3}"#), Ok(Some(1.5)));
    assert_eq!(code(r#"{"r":2,"lora_alpha":0}"#), Ok(Some(0.0)));
    assert_eq!(code(r#"{"r":3,"lora_alpha":3}"#), Err("lora-config"));
    assert_eq!(
        code(r#"{"r":2,"lora_alpha":3,"use_dora":true}"#),
        Err("lora-incomplete")
    );
    assert_eq!(code("{"), Err("lora-config"));
}

#[test]
fn alpha_rules_without_a_configuration() {
    let model = targets(&[("a.weight", &[4, 6])]);
    let scaling = |alpha: Option<f32>| {
        let mut tensors = pair("lora_unet_a", 4, 6);
        tensors.extend(alpha.map(|a| ("lora_unet_a.alpha".to_owned(), f32s(&[], &[a]))));
        let lora = Lora::open(File::new(&tensors).path(), &model).unwrap();
        assert_eq!(lora.rank("a.weight"), Some(2));
        assert_eq!(lora.alpha("a.weight"), alpha.map(f64::from));
        lora.scaling("a.weight").unwrap()
    };
    assert_eq!(scaling(None), 1.0);
    assert_eq!(scaling(Some(0.0)), 1.0);
    assert_eq!(scaling(Some(1.0)), 0.5);
    assert_eq!(scaling(Some(2.0)), 1.0);
    assert_eq!(scaling(Some(-1.0)), -0.5);
}

#[test]
fn fan_in_fan_out_is_ignored_where_only_the_straight_weight_fits() {
    let model = targets(&[("a.weight", &[4, 6]), ("b.weight", &[6, 4])]);
    for (module, fits) in [("a", true), ("b", true)] {
        let tensors = vec![
            (
                format!("base_model.model.{module}.lora_A.weight"),
                drawn(&[2, 6], 1),
            ),
            (
                format!("base_model.model.{module}.lora_B.weight"),
                drawn(&[4, 2], 2),
            ),
        ];
        let file = File::new(&tensors).config(r#"{"r":2,"lora_alpha":3,"fan_in_fan_out":true}"#);
        assert_eq!(Lora::open(file.path(), &model).is_ok(), fits);
        let file = File::new(&tensors).config(r#"{"r":2,"lora_alpha":3}"#);
        assert_eq!(Lora::open(file.path(), &model).is_ok(), module == "a");
    }
}

/// The tensors of a file under other names.
fn renamed(path: &Path, name: impl Fn(&str) -> Option<String>) -> Vec<(String, Tensor)> {
    let source = Source::open(path).unwrap();
    let kept = source
        .names()
        .filter_map(|n| Some((name(n)?, source.get(n)?.to_owned())));
    kept.collect()
}

#[test]
fn decorations_of_every_tool_mean_the_same() {
    let dir = fixtures().join("sd_unet");
    let base = Source::open(dir.join("base.safetensors")).unwrap();
    let kohya = dir.join("lora_kohya.safetensors");
    let bytes = |path: &Path| {
        let lora = Lora::open(path, &base).unwrap();
        let fusion = Fusion::new(vec![(lora, 0.7)], Fuse::Exact).unwrap();
        base.names()
            .map(|n| fused(&fusion, &base, n))
            .collect::<Vec<_>>()
    };
    let expected = bytes(&kohya);
    // Dotted names, so that the module's own name is known.
    let dotted: BTreeMap<String, String> = (base.names())
        .filter_map(|n| n.strip_suffix(".weight"))
        .map(|m| (format!("lora_unet_{}", m.replace('.', "_")), m.to_owned()))
        .collect();
    let split = |key: &str| {
        let (module, part) = key.split_once('.').unwrap();
        (dotted[module].clone(), part.to_owned())
    };
    type Rename<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;
    let styles: Vec<(&str, Rename<'_>)> = vec![
        (
            "ComfyUI",
            Box::new(|k| {
                let (m, p) = split(k);
                Some(format!("diffusion_model.{m}.{p}"))
            }),
        ),
        (
            "lora_A and lora_B",
            Box::new(|k| {
                let (m, p) = split(k);
                Some(format!(
                    "unet.{m}.{}",
                    p.replace("lora_down", "lora_A")
                        .replace("lora_up", "lora_B")
                ))
            }),
        ),
        (
            "lora.down and lora.up",
            Box::new(|k| {
                let (m, p) = split(k);
                Some(format!("unet.{m}.{}", p.replace("lora_", "lora.")))
            }),
        ),
        (
            "processors",
            Box::new(|k| {
                let (m, p) = split(k);
                let m = m.replace(".to_out.0", ".to_out");
                Some(match m.rsplit_once('.') {
                    Some((block, to)) if to.starts_with("to_") => {
                        let p = p.replace("lora_", "");
                        format!("unet.{block}.processor.{to}_lora.{p}")
                    }
                    _ => format!("unet.{m}.{p}"),
                })
            }),
        ),
        (
            "LyCORIS",
            Box::new(|k| Some(k.replace("lora_unet_", "lycoris_"))),
        ),
        (
            "a wrapped model",
            Box::new(|k| {
                let (m, p) = split(k);
                Some(format!("module._orig_mod.unet.{m}.{p}"))
            }),
        ),
    ];
    for (what, rename) in styles {
        let file = File::new(&renamed(&kohya, rename));
        assert!(bytes(&file.path()) == expected, "{what}");
    }
}

#[test]
fn flux_in_black_forest_labs_names_is_split_by_rows() {
    let dir = fixtures().join("flux");
    let base = Source::open(dir.join("base.safetensors")).unwrap();
    let shape = |n: &str| base.get(n).unwrap().shape.to_vec();
    let q = shape("transformer_blocks.0.attn.to_q.weight");
    let (d, mlp) = (
        q[0],
        shape("single_transformer_blocks.0.proj_mlp.weight")[0],
    );
    let norm = shape("norm_out.linear.weight");
    let stacked: Vec<(&str, usize, usize)> = vec![
        ("double_blocks_0_img_attn_qkv", 3 * d, d),
        ("double_blocks_0_txt_attn_qkv", 3 * d, d),
        ("single_blocks_0_linear1", 3 * d + mlp, d),
        (
            "double_blocks_0_img_mlp_0",
            shape("transformer_blocks.0.ff.net.0.proj.weight")[0],
            d,
        ),
        ("final_layer_adaLN_modulation_1", norm[0], norm[1]),
    ];
    let mut kohya = Vec::new();
    for (i, (module, out, input)) in stacked.iter().enumerate() {
        kohya.push((
            format!("lora_unet_{module}.lora_down.weight"),
            drawn(&[3, *input], i as u32 + 1),
        ));
        kohya.push((
            format!("lora_unet_{module}.lora_up.weight"),
            drawn(&[*out, 3], i as u32 + 50),
        ));
    }
    let lora = Lora::open(File::new(&kohya).path(), &base).unwrap();
    assert_eq!(lora.targets().len(), 3 + 3 + 4 + 1 + 1);
    let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    // A slow product of the rows that belong to `name`.
    let check = |name: &str, i: usize, rows: &dyn Fn(usize) -> usize| {
        let (down, up) = (&kohya[2 * i].1, &kohya[2 * i + 1].1);
        let (a, b) = (
            crate::tensor::to_f32(Dtype::F32, &down.data).unwrap(),
            crate::tensor::to_f32(Dtype::F32, &up.data).unwrap(),
        );
        let w = base.get(name).unwrap();
        let old = crate::tensor::to_f32(w.dtype, w.data).unwrap();
        let columns = w.shape[1];
        let new: Vec<f32> = (0..old.len())
            .map(|at| {
                let (r, c) = (at / columns, at % columns);
                let sum: f64 = (0..3)
                    .map(|k| f64::from(b[rows(r) * 3 + k]) * f64::from(a[k * columns + c]))
                    .sum();
                (f64::from(old[at]) + sum) as f32
            })
            .collect();
        let worst = relative(&fused(&fusion, &base, name), &f32s(w.shape, &new));
        assert!(worst < 1e-7, "{name}: {worst:e}");
    };
    for (part, to) in ["to_q", "to_k", "to_v"].iter().enumerate() {
        check(&format!("transformer_blocks.0.attn.{to}.weight"), 0, &|r| {
            part * d + r
        });
        check(
            &format!("single_transformer_blocks.0.attn.{to}.weight"),
            2,
            &|r| part * d + r,
        );
    }
    for (part, to) in ["add_q_proj", "add_k_proj", "add_v_proj"]
        .iter()
        .enumerate()
    {
        check(&format!("transformer_blocks.0.attn.{to}.weight"), 1, &|r| {
            part * d + r
        });
    }
    check("single_transformer_blocks.0.proj_mlp.weight", 2, &|r| {
        3 * d + r
    });
    check("transformer_blocks.0.ff.net.0.proj.weight", 3, &|r| r);
    // [shift, scale] there is [scale, shift] here.
    let half = norm[0] / 2;
    check("norm_out.linear.weight", 4, &|r| (r + half) % norm[0]);

    // XLabs' names for the same rows, and the other direction: a model whose qkv is one weight.
    let xlabs: Vec<(String, Tensor)> = (kohya[..2].iter().zip(["down", "up"]))
        .map(|((_, t), way)| {
            (
                format!("double_blocks.0.processor.qkv_lora1.{way}.weight"),
                t.clone(),
            )
        })
        .collect();
    let lora = Lora::open(File::new(&xlabs).path(), &base).unwrap();
    let again = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    let name = "transformer_blocks.0.attn.to_k.weight";
    assert_eq!(fused(&again, &base, name), fused(&fusion, &base, name));

    let model = targets(&[
        ("double_blocks.0.img_attn.qkv.weight", &[3 * d, d]),
        ("single_blocks.0.linear1.weight", &[3 * d + mlp, d]),
        ("final_layer.adaLN_modulation.1.weight", &norm),
    ]);
    let names = [
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_k",
        "transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.0.proj_mlp",
        "norm_out.linear",
    ];
    let diffusers: Vec<(String, Tensor)> = (names.iter().enumerate())
        .flat_map(|(i, n)| {
            let rows = match *n {
                "norm_out.linear" => norm[0],
                n if n.ends_with("proj_mlp") => mlp,
                _ => d,
            };
            let input = if *n == "norm_out.linear" { norm[1] } else { d };
            [
                (
                    format!("transformer.{n}.lora_A.weight"),
                    drawn(&[1, input], 7),
                ),
                (
                    format!("transformer.{n}.lora_B.weight"),
                    f32s(&[rows, 1], &vec![(i + 1) as f32; rows]),
                ),
            ]
        })
        .collect();
    let lora = Lora::open(File::new(&diffusers).path(), &model).unwrap();
    let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    let zero = |n: &str| f32s(&model[n], &vec![0.0; model[n].iter().product()]);
    let rows_of = |n: &str| {
        let bytes = fusion.fuse(n, zero(n).view()).unwrap();
        let values = crate::tensor::to_f32(Dtype::F32, &bytes).unwrap();
        let first =
            crate::tensor::to_f32(Dtype::F32, &drawn(&[1, model[n][1]], 7).data).unwrap()[0];
        let columns = model[n][1];
        (0..model[n][0])
            .map(|r| (values[r * columns] / first).round() as usize)
            .collect::<Vec<_>>()
    };
    let qkv = rows_of("double_blocks.0.img_attn.qkv.weight");
    assert!((0..3 * d).all(|r| qkv[r] == r / d + 1));
    let linear1 = rows_of("single_blocks.0.linear1.weight");
    assert!((0..3 * d + mlp).all(|r| linear1[r] == [0, 0, 4, 5][(r / d).min(3)]));
}

#[test]
fn a_stacked_lora_of_the_wrong_height_is_refused() {
    let base = Source::open(fixtures().join("flux/base.safetensors")).unwrap();
    let d = base
        .get("transformer_blocks.0.attn.to_q.weight")
        .unwrap()
        .shape[0];
    for (out, input) in [(3 * d + 1, d), (2 * d, d), (3 * d, d + 1)] {
        let file = File::new(&pair("lora_unet_double_blocks_0_img_attn_qkv", out, input));
        assert!(matches!(problems(&file, &base)[0], Problem::Shape { .. }));
    }
    let mut tensors = pair("lora_unet_double_blocks_0_img_attn_qkv", 3 * d, d);
    tensors.push((
        "lora_unet_double_blocks_0_img_attn_qkv.dora_scale".into(),
        drawn(&[1, d], 1),
    ));
    let found = problems(&File::new(&tensors), &base);
    assert!(matches!(found[0], Problem::Incomplete { .. }), "{found:?}");
}
