//! The same LoRA under the names of other tools, and FLUX's stacked weights.

use super::*;

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
    type Rename<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;
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

    // XLabs' names for the same rows.
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
}

#[test]
fn flux_in_diffusers_names_is_joined_where_qkv_is_one_weight() {
    let dir = fixtures().join("flux");
    let base = Source::open(dir.join("base.safetensors")).unwrap();
    let shape = |n: &str| base.get(n).unwrap().shape.to_vec();
    let d = shape("transformer_blocks.0.attn.to_q.weight")[0];
    let mlp = shape("single_transformer_blocks.0.proj_mlp.weight")[0];
    let norm = shape("norm_out.linear.weight");
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
