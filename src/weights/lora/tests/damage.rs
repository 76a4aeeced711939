//! Files that are wrong, and configurations.

use super::*;
use proptest::prelude::*;

/// What is wrong, the file's tensors, and the code of the error.
type Case = (&'static str, Vec<(String, Tensor)>, &'static str);

fn each_is_named(cases: Vec<Case>) {
    let model = targets(&[
        ("a.weight", &[4, 6]),
        ("a.bias", &[4]),
        ("nobias.weight", &[4, 6]),
    ]);
    for (what, tensors, code) in cases {
        let e = Lora::open(File::new(&tensors).path(), &model).expect_err(what);
        assert_eq!(e.code(), code, "{what}: {e}");
        assert!(!e.to_string().is_empty());
    }
}

/// A pair that is right, and more.
fn with(extra: &[(&str, Tensor)]) -> Vec<(String, Tensor)> {
    let mut tensors = pair("lora_unet_a", 4, 6);
    tensors.extend(extra.iter().map(|(k, t)| ((*k).to_owned(), t.clone())));
    tensors
}

#[test]
fn damaged_pairs_are_named() {
    let half = vec![pair("lora_unet_a", 4, 6).remove(0)];
    let eight = Tensor {
        dtype: Dtype::I8,
        shape: vec![2, 6],
        data: vec![0; 12],
    };
    each_is_named(vec![
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
            "integer factors",
            vec![
                ("lora_unet_a.lora_down.weight".into(), eight),
                ("lora_unet_a.lora_up.weight".into(), drawn(&[4, 2], 1)),
            ],
            "lora-value",
        ),
    ]);
}

#[test]
fn what_is_more_or_other_than_a_pair_is_named() {
    each_is_named(vec![
        (
            "DoRA of the wrong length",
            with(&[("lora_unet_a.dora_scale", drawn(&[5, 1], 1))]),
            "lora-factors",
        ),
        (
            "another kind of adapter",
            with(&[("lora_unet_a.oft_diag", drawn(&[4], 1))]),
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
            {
                let mut other = pair("unet.a", 4, 6);
                other[1].1 = drawn(&[4, 2], 77);
                [pair("lora_unet_a", 4, 6), other].concat()
            },
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
    ]);
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
    assert_eq!(scaling(Some(0.0)), 0.0);
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

const SUFFIXES: &[&str] = &[
    "lora_down.weight",
    "lora_up.weight",
    "lora_mid.weight",
    "lora_up.bias",
    "alpha",
    "dora_scale",
    "lora_magnitude_vector",
    "lora_embedding_A",
    "lora_embedding_B",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "diff",
    "diff_b",
    "set_weight",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Any tensors under any keys are an error or can be fused; neither panics.
    #[test]
    fn no_combination_of_tensors_panics(
        family in prop::sample::select(vec![0..9usize, 9..15, 15..22, 22..25, 0..25]),
        picks in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(0usize..4, 0..5)), 1..8),
        weight in prop::collection::vec(0usize..4, 0..5),
        module in prop::sample::select(vec!["lora_unet_a", "lora_unet_double_blocks_0_img_attn_qkv", "single_blocks.0.linear1", "norm_out.linear"]),
        scale in prop::sample::select(vec![1.0, 0.5]),
    ) {
        let tensors: BTreeMap<String, Tensor> = (picks.iter().enumerate())
            .map(|(i, (pick, shape))| {
                let suffix = SUFFIXES[family.clone()][pick.index(family.len())];
                (format!("{module}.{suffix}"), drawn(shape, i as u32 + 1))
            })
            .collect();
        let file = File::new(&tensors.into_iter().collect::<Vec<_>>());
        let bias: Vec<usize> = weight.iter().take(1).copied().collect();
        let q = "transformer_blocks.0.attn.to_";
        let mut model: BTreeMap<String, Vec<usize>> = ["a", "single_blocks.0.linear1", "final_layer.adaLN_modulation.1"]
            .iter()
            .map(|n| (*n).to_owned())
            .chain(["q", "k", "v"].map(|p| format!("{q}{p}")))
            .flat_map(|n| [(format!("{n}.weight"), weight.clone()), (format!("{n}.bias"), bias.clone())])
            .collect();
        model.insert("single_transformer_blocks.0.x.weight".into(), weight.clone());
        if let Ok(lora) = Lora::open(file.path(), &model) {
            let names: Vec<String> = lora.targets().map(ToOwned::to_owned).collect();
            prop_assert!(!names.is_empty());
            for mode in [Fuse::Exact, Fuse::Peft] {
                let lora = Lora::open(file.path(), &model).unwrap();
                let fusion = Fusion::new(vec![(lora, scale)], mode).unwrap();
                for name in &names {
                    let base = drawn(&model[name], 99);
                    if let Ok(bytes) = fusion.fuse(name, base.view()) {
                        prop_assert_eq!(bytes.len(), base.data.len());
                    }
                }
            }
        }
    }
}
