use super::super::tests::{File, drawn, f32s, fixtures, relative, targets};
use super::*;
use crate::fault::Explain;
use crate::tensor::{Tensor, to_f32};
use crate::weights::Source;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A golden case: adapter file, base, expected changes.
fn golden(case: &str, adapter: &str, base: &str, fused: &str) -> (Lora, Source, Source) {
    let dir = fixtures().join("lora");
    let base = Source::open(dir.join(format!("base.{base}.safetensors"))).unwrap();
    let expected = Source::open(dir.join(case).join(format!("fused.{fused}.safetensors"))).unwrap();
    let lora = Lora::open(dir.join(case).join(adapter), &base).unwrap();
    (lora, base, expected)
}

/// The largest relative difference, after checking that exactly the expected weights change.
fn worst(fusion: &Fusion, base: &Source, expected: &Source) -> f64 {
    let changed: Vec<&str> = expected.names().collect();
    assert_eq!(fusion.targets().into_iter().collect::<Vec<_>>(), changed);
    let mut worst = 0f64;
    for name in changed {
        let view = base.get(name).unwrap();
        let actual = Tensor {
            dtype: view.dtype,
            shape: view.shape.to_vec(),
            data: fusion.fuse(name, view).unwrap(),
        };
        let wanted = expected.get(name).unwrap().to_owned();
        assert_eq!((actual.dtype, &actual.shape), (wanted.dtype, &wanted.shape));
        worst = worst.max(relative(&actual, &wanted));
    }
    worst
}

const PEFT: &[&str] = &[
    "peft_plain",
    "peft_rslora",
    "peft_patterns",
    "peft_dora",
    "peft_bias",
    "peft_fan",
    "peft_fan_dora",
    "peft_embedding",
    "peft_embedding_dora",
    "peft_saved",
    "peft_loha",
    "peft_loha_tucker",
    "peft_lokr",
    "peft_lokr_both",
    "peft_lokr_tucker",
    "peft_lokr_full",
];

#[test]
fn every_kind_that_peft_knows_gives_what_peft_gives() {
    for case in PEFT {
        for (dtype, limit) in [("f32", 5e-7), ("bf16", 8e-3)] {
            for mode in [Fuse::Exact, Fuse::Peft] {
                let (lora, base, expected) =
                    golden(case, "adapter_model.safetensors", dtype, dtype);
                let fusion = Fusion::new(vec![(lora, 1.0)], mode).unwrap();
                let worst = worst(&fusion, &base, &expected);
                assert!(worst < limit, "{case} {dtype} {mode:?}: {worst:e}");
            }
        }
    }
}

/// In a half type the order of roundings shows: PEFT's is met bit for bit.
#[test]
fn pefts_roundings_are_met_exactly() {
    for case in PEFT {
        let (lora, base, expected) = golden(case, "adapter_model.safetensors", "bf16", "bf16");
        let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Peft).unwrap();
        assert_eq!(worst(&fusion, &base, &expected), 0.0, "{case}");
    }
    for dtype in ["bf16", "f16"] {
        let (lora, base, expected) = golden(
            "peft_half_adapter",
            "adapter_model.safetensors",
            dtype,
            dtype,
        );
        let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::PeftHalf).unwrap();
        assert_eq!(
            worst(&fusion, &base, &expected),
            0.0,
            "half adapter {dtype}"
        );
        let (lora, ..) = golden(
            "peft_half_adapter",
            "adapter_model.safetensors",
            dtype,
            dtype,
        );
        let exact = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
        assert!(worst(&exact, &base, &expected) > 0.0, "the roundings show");
    }
}

/// Adapters that multiply the weight, and their files.
const PRODUCTS: &[(&str, &str)] = &[
    ("lycoris_oft", "lora.safetensors"),
    ("lycoris_boft", "lora.safetensors"),
    ("lycoris_glora", "lora.safetensors"),
    ("lycoris_glora_old", "lora.safetensors"),
    ("peft_oft", "adapter_model.safetensors"),
    ("peft_oft_cayley", "adapter_model.safetensors"),
    ("peft_boft", "adapter_model.safetensors"),
    ("peft_ia3", "adapter_model.safetensors"),
];

#[test]
fn what_multiplies_the_weight_gives_what_the_formulas_give() {
    for (case, file) in PRODUCTS {
        let (lora, base, expected) = golden(case, file, "f32", "f32");
        let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
        let worst = worst(&fusion, &base, &expected);
        assert!(worst < 1e-7, "{case}: {worst:e}");
        for mode in [Fuse::Peft, Fuse::PeftHalf] {
            let (lora, base, expected) = golden(case, file, "f32", "f32");
            let name = expected.names().next().unwrap();
            let fusion = Fusion::new(vec![(lora, 1.0)], mode).unwrap();
            let e = fusion.fuse(name, base.get(name).unwrap()).unwrap_err();
            assert_eq!(e.code(), "lora-peft-order", "{case}");
        }
    }
}

/// At half the scale the result is half way, and with an added LoRA the two changes of the base are added.
#[test]
fn scales_of_what_multiplies_are_straight_lines_and_loras_commute() {
    let values = |fusion: &Fusion, base: &Source, name: &str| {
        let view = base.get(name).unwrap();
        to_f32(view.dtype, &fusion.fuse(name, view).unwrap()).unwrap()
    };
    for (case, file) in PRODUCTS {
        let name = "blocks.0.lin.weight";
        let fused = |others: &[(&str, &str, f64)]| {
            let loras = others.iter().map(|(case, file, scale)| {
                let (lora, ..) = golden(case, file, "f32", "f32");
                (lora, *scale)
            });
            let (_, base, _) = golden(case, file, "f32", "f32");
            let fusion = Fusion::new(loras.collect(), Fuse::Exact).unwrap();
            values(&fusion, &base, name)
        };
        let (.., base, _) = golden(case, file, "f32", "f32");
        let own = to_f32(Dtype::F32, base.get(name).unwrap().data).unwrap();
        let plain = ("peft_plain", "adapter_model.safetensors", 1.0);
        let (one, half) = (fused(&[(case, file, 1.0)]), fused(&[(case, file, 0.5)]));
        let (added, both) = (fused(&[plain]), fused(&[plain, (case, file, 1.0)]));
        assert_eq!(both, fused(&[(case, file, 1.0), plain]), "{case}");
        assert_eq!(own, fused(&[(case, file, 0.0)]), "{case}");
        assert!(one != own && both != one, "{case} changes nothing");
        for i in 0..own.len() {
            let near = |a: f32, b: f32| (a - b).abs() <= 2e-6 * (1.0 + b.abs());
            assert!(near(half[i], f32::midpoint(own[i], one[i])), "{case} {i}");
            assert!(near(both[i], one[i] + added[i] - own[i]), "{case} {i}");
        }
    }
}

#[test]
fn two_adapters_are_rounded_one_after_the_other_as_in_peft() {
    let dir = fixtures().join("lora/peft_two");
    let mut differs = false;
    for dtype in ["f32", "bf16", "f16"] {
        let base = Source::open(fixtures().join(format!("lora/base.{dtype}.safetensors"))).unwrap();
        let expected = Source::open(dir.join(format!("fused.{dtype}.safetensors"))).unwrap();
        let open = |part: &str| (Lora::open(dir.join(part), &base).unwrap(), 1.0);
        let peft = Fusion::new(vec![open("a"), open("b")], Fuse::Peft).unwrap();
        let limit = if dtype == "f32" { 5e-7 } else { 0.0 };
        let far = worst(&peft, &base, &expected);
        assert!(far <= limit, "{dtype}: {far:e}");
        let exact = Fusion::new(vec![open("a"), open("b")], Fuse::Exact).unwrap();
        differs |= dtype != "f32" && worst(&exact, &base, &expected) > 0.0;
    }
    assert!(differs, "one rounding instead of two shows somewhere");
}

#[test]
fn every_kind_that_lycoris_knows_gives_what_lycoris_gives() {
    for (case, half) in [
        ("lycoris_locon", true),
        ("lycoris_rs", true),
        ("lycoris_tucker", true),
        ("lycoris_dora_out", false),
        ("lycoris_dora_in", false),
        ("lycoris_loha", true),
        ("lycoris_loha_tucker", true),
        ("lycoris_doha", false),
        ("lycoris_lokr", true),
        ("lycoris_lokr_both", true),
        ("lycoris_lokr_tucker", true),
        ("lycoris_lokr_full", true),
        ("lycoris_loha_forward", true),
        ("lycoris_lokr_forward", true),
        ("lycoris_full", true),
        ("lycoris_norm", true),
    ] {
        for (scale, fused) in [(1.0, "f32"), (0.5, "half.f32")] {
            if scale != 1.0 && !half {
                continue;
            }
            let (lora, base, expected) = golden(case, "lora.safetensors", "f32", fused);
            let fusion = Fusion::new(vec![(lora, scale)], Fuse::Exact).unwrap();
            let worst = worst(&fusion, &base, &expected);
            assert!(worst < 5e-7, "{case} at {scale}: {worst:e}");
        }
    }
}

/// DoRA between 0 and 1 is the straight line between the base and the full change.
#[test]
fn dora_scales_on_a_straight_line() {
    let at = |scale: f64| {
        let (lora, base, _) = golden("lycoris_dora_in", "lora.safetensors", "f32", "f32");
        let fusion = Fusion::new(vec![(lora, scale)], Fuse::Exact).unwrap();
        let name = "blocks.0.conv.weight";
        let base = base.get(name).unwrap().to_owned();
        to_f32(base.dtype, &fusion.fuse(name, base.view()).unwrap()).unwrap()
    };
    let (none, half, full) = (at(0.0), at(0.5), at(1.0));
    for ((n, h), f) in none.iter().zip(&half).zip(&full) {
        assert!((h - (n + f) / 2.0).abs() < 1e-6);
    }
}

#[test]
fn the_order_on_the_command_line_does_not_matter() {
    let dir = fixtures().join("lora");
    for dtype in ["f32", "bf16", "f16"] {
        let base = Source::open(dir.join(format!("base.{dtype}.safetensors"))).unwrap();
        let paths = [
            ("peft_plain", 0.8),
            ("peft_dora", 0.3),
            ("peft_loha", -0.7),
            ("peft_saved", 0.5),
            ("peft_plain", 0.1),
        ];
        let fuse = |order: &[usize]| {
            let loras = (order.iter())
                .map(|&i| (Lora::open(dir.join(paths[i].0), &base).unwrap(), paths[i].1))
                .collect();
            let fusion = Fusion::new(loras, Fuse::Exact).unwrap();
            let all = base
                .names()
                .map(|n| fusion.fuse(n, base.get(n).unwrap()).unwrap());
            all.collect::<Vec<_>>()
        };
        let first = fuse(&[0, 1, 2, 3, 4]);
        for order in [[4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [1, 4, 0, 3, 2]] {
            assert!(fuse(&order) == first, "{dtype} {order:?}");
        }
    }
}

#[test]
fn scale_0_and_untouched_weights_keep_their_bytes() {
    for case in PEFT {
        let (lora, base, _) = golden(case, "adapter_model.safetensors", "bf16", "bf16");
        let fusion = Fusion::new(vec![(lora, 0.0)], Fuse::Exact).unwrap();
        assert!(fusion.targets().is_empty());
        for name in base.names() {
            let view = base.get(name).unwrap();
            assert_eq!(fusion.fuse(name, view).unwrap(), view.data, "{case} {name}");
        }
    }
    let (lora, base, _) = golden("peft_plain", "adapter_model.safetensors", "f32", "f32");
    let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    let view = base.get("emb.weight").unwrap();
    assert_eq!(fusion.fuse("emb.weight", view).unwrap(), view.data);
}

#[test]
fn a_replacement_at_full_strength_is_exact() {
    let model = targets(&[("a.weight", &[3])]);
    let file = File::new(&[("unet.a.set_weight".into(), f32s(&[3], &[1e-20, 3.0, -7e30]))]);
    let base = f32s(&[3], &[1e20, 1.0, 1.0]);
    let fused = |scale| {
        let lora = Lora::open(file.path(), &model).unwrap();
        let fusion = Fusion::new(vec![(lora, scale)], Fuse::Exact).unwrap();
        to_f32(Dtype::F32, &fusion.fuse("a.weight", base.view()).unwrap()).unwrap()
    };
    assert_eq!(fused(1.0), [1e-20, 3.0, -7e30]);
    assert_eq!(fused(0.5)[1], 2.0);
}

#[test]
fn what_cannot_be_fused_is_refused() {
    let model = targets(&[("a.weight", &[2, 2])]);
    let tensors = [
        (
            "unet.a.lora_A.weight".to_owned(),
            f32s(&[1, 2], &[300.0, 1.0]),
        ),
        (
            "unet.a.lora_B.weight".to_owned(),
            f32s(&[2, 1], &[300.0, 1.0]),
        ),
    ];
    let file = File::new(&tensors);
    let fusion = |mode| {
        let lora = Lora::open(file.path(), &model).unwrap();
        Fusion::new(vec![(lora, 1.0)], mode).unwrap()
    };
    let zeros = |dtype: Dtype, shape: &[usize]| {
        let count: usize = shape.iter().product();
        Tensor {
            dtype,
            shape: shape.to_vec(),
            data: vec![0; count * dtype.bits() / 8],
        }
    };
    let code = |mode, base: Tensor| {
        fusion(mode)
            .fuse("a.weight", base.view())
            .map_err(|e| e.code())
    };
    assert_eq!(
        code(Fuse::Exact, zeros(Dtype::I8, &[2, 2])),
        Err("lora-base-dtype")
    );
    assert_eq!(
        code(Fuse::Exact, zeros(Dtype::F8E5M2, &[2, 2])),
        Err("lora-base-dtype")
    );
    assert_eq!(
        code(Fuse::Exact, zeros(Dtype::F32, &[4])),
        Err("lora-base-shape")
    );
    // 300 · 300 does not fit into f16, and does into bf16.
    for mode in [Fuse::Exact, Fuse::Peft, Fuse::PeftHalf] {
        assert_eq!(
            code(mode, zeros(Dtype::F16, &[2, 2])),
            Err("lora-not-finite")
        );
        assert!(code(mode, zeros(Dtype::Bf16, &[2, 2])).is_ok());
        assert!(code(mode, zeros(Dtype::F64, &[2, 2])).is_ok());
    }
    let lora = Lora::open(file.path(), &model).unwrap();
    let e = Fusion::new(vec![(lora, f64::NAN)], Fuse::Exact).unwrap_err();
    assert_eq!(e.code(), "lora-scale");

    let (dora, base, _) = golden("peft_dora", "adapter_model.safetensors", "bf16", "bf16");
    let (plain, ..) = golden("peft_plain", "adapter_model.safetensors", "bf16", "bf16");
    let both = Fusion::new(vec![(plain, 1.0), (dora, 1.0)], Fuse::Peft).unwrap();
    let name = "blocks.0.lin.weight";
    let e = both.fuse(name, base.get(name).unwrap()).unwrap_err();
    assert_eq!(e.code(), "lora-peft-order");
    let (loha, ..) = golden("peft_loha", "adapter_model.safetensors", "bf16", "bf16");
    let half = Fusion::new(vec![(loha, 1.0)], Fuse::PeftHalf).unwrap();
    assert_eq!(
        half.fuse(name, base.get(name).unwrap()).unwrap_err().code(),
        "lora-peft-order"
    );
}

#[test]
fn the_recipe_says_what_was_done() {
    let (lora, ..) = golden("peft_plain", "adapter_model.safetensors", "f32", "f32");
    let (path, digest) = (lora.path().to_owned(), lora.digest());
    assert_eq!(digest, Digest::of(&std::fs::read(&path).unwrap()));
    let fusion = Fusion::new(vec![(lora, 0.25)], Fuse::Exact).unwrap();
    let expected = Recipe {
        file: path,
        digest,
        formats: vec!["peft"],
        scale: 0.25,
        targets: 4,
        skipped: vec![],
    };
    assert_eq!(fusion.recipe(), [expected]);
}

/// A weight of more than one block, so that rows are joined right and column norms cross blocks.
#[test]
fn large_weights_are_fused_in_blocks() {
    let (rows, columns, rank) = (300, 1200, 5);
    let model = targets(&[("a.weight", &[rows, columns])]);
    let (down, up) = (drawn(&[rank, columns], 1), drawn(&[rows, rank], 2));
    let magnitude = drawn(&[1, columns], 3);
    let file = File::new(&[
        ("lora_unet_a.lora_down.weight".into(), down.clone()),
        ("lora_unet_a.lora_up.weight".into(), up.clone()),
        ("lora_unet_a.dora_scale".into(), magnitude.clone()),
        ("lora_unet_a.alpha".into(), f32s(&[], &[2.0])),
    ]);
    let base = drawn(&[rows, columns], 4);
    let lora = Lora::open(file.path(), &model).unwrap();
    let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    let bytes = fusion.fuse("a.weight", base.view()).unwrap();
    let f = |t: &Tensor| {
        to_f32(t.dtype, &t.data)
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect::<Vec<_>>()
    };
    let (a, b, m, w) = (f(&down), f(&up), f(&magnitude), f(&base));
    let mut v = w;
    for r in 0..rows {
        for c in 0..columns {
            v[r * columns + c] += 2.0 / 5.0
                * (0..rank)
                    .map(|k| b[r * rank + k] * a[k * columns + c])
                    .sum::<f64>();
        }
    }
    for c in 0..columns {
        let norm = (0..rows)
            .map(|r| v[r * columns + c].powi(2))
            .sum::<f64>()
            .sqrt()
            + f64::from(f32::EPSILON);
        for r in 0..rows {
            v[r * columns + c] *= m[c] / norm;
        }
    }
    let expected: Vec<f32> = v.into_iter().map(|x| x as f32).collect();
    let actual = Tensor {
        data: bytes,
        ..base
    };
    assert!(relative(&actual, &f32s(&[rows, columns], &expected)) < 1e-7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any LoRA at `s` and again at `-s` is the base again, and both orders agree.
    #[test]
    fn opposite_scales_cancel(rows in 1usize..9, columns in 1usize..9, rank in 1usize..4, scale in -2.0f64..2.0, seed in 1u32..1000) {
        let model: BTreeMap<String, Vec<usize>> = targets(&[("a.weight", &[rows, columns])]);
        let file = File::new(&[
            ("lora_unet_a.lora_down.weight".into(), drawn(&[rank, columns], seed)),
            ("lora_unet_a.lora_up.weight".into(), drawn(&[rows, rank], seed + 1)),
        ]);
        let base = drawn(&[rows, columns], seed + 2);
        let fuse = |scales: [f64; 2]| {
            let loras = scales.map(|s| (Lora::open(file.path(), &model).unwrap(), s)).into();
            Fusion::new(loras, Fuse::Exact).unwrap().fuse("a.weight", base.view()).unwrap()
        };
        prop_assert_eq!(&fuse([scale, -scale]), &base.data);
        prop_assert_eq!(fuse([scale, 0.5]), fuse([0.5, scale]));
    }
}
