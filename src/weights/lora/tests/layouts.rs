//! Every layout of the public converters means what was recorded there, and what readers disagree
//! on is settled as the docs say.

use super::*;
use crate::weights::layouts::tests::{expand, recorded};
use resolve::Index;

/// Component and module of a recorded target, and what the tensor may be there; `None` for
/// magnitudes, whose recorded names are those of no module.
fn target(to: &str) -> Option<(&str, &str, &'static [Role])> {
    let kinds: [(&str, &[Role]); 4] = [
        (".lora_B.weight", &[Role::Up]),
        (".lora_A.weight", &[Role::Down]),
        (".lora_B.bias", &[Role::UpBias, Role::BiasDifference]),
        (".weight", &[Role::Replacement]),
    ];
    if to.contains("magnitude") {
        return None;
    }
    let found = kinds
        .iter()
        .find_map(|(suffix, roles)| Some((to.strip_suffix(suffix)?, *roles)));
    let (module, up) = found?;
    for component in ["transformer", "unet", "text_encoder_2", "text_encoder"] {
        if let Some(rest) = module
            .strip_prefix(component)
            .and_then(|m| m.strip_prefix('.'))
        {
            return Some((component, rest, up));
        }
    }
    Some(("transformer", module, up))
}

/// What our answer does to the rows that go to `module`: as it is recorded.
fn op_of(index: &Index, found: &Found, module: &str) -> Option<String> {
    let pieces = match found {
        Found::Whole(i) => return (index.module(*i).name == module).then(String::new),
        Found::Stacked { pieces, swapped } if *swapped => {
            return (index.module(pieces[0].module).name == module).then(|| "swap".to_owned());
        }
        Found::Stacked { pieces, .. } => pieces,
        Found::Ambiguous(_) | Found::Nothing => return None,
    };
    let at = pieces
        .iter()
        .position(|p| index.module(p.module).name == module)?;
    Some(format!("part {at} of {}", pieces.len()))
}

#[test]
fn every_recorded_layout_is_read_as_recorded() {
    let sections = recorded("loras.txt");
    assert_eq!(sections.len(), 39);
    let (mut compared, mut skipped, mut better) = (0, 0, 0);
    for (layout, lines) in sections {
        let rows: Vec<_> = (lines.iter().filter(|l| !l.starts_with("dropped ")))
            .flat_map(|l| expand(l))
            .collect();
        let mut models: BTreeMap<&str, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
        for (component, module, _) in rows.iter().filter_map(|(to, ..)| target(to)) {
            let model = models.entry(component).or_default();
            model.insert(format!("{module}.weight"), vec![2, 2]);
            model.insert(format!("{module}.bias"), vec![2]);
        }
        let models: BTreeMap<&str, Index> =
            models.iter().map(|(c, m)| (*c, Index::new(m))).collect();
        for (to, from, op) in &rows {
            let Some((component, module, roles)) = target(to) else {
                skipped += 1;
                continue;
            };
            let Key::Part { module: key, role } = key_layouts::parse(from) else {
                panic!("{layout}: `{from}`");
            };
            assert!(roles.contains(&role), "{layout}: `{from}` is {role:?}");
            let index = &models[component];
            let found = index.find(&key_layouts::path(&key));
            let ours = op_of(index, &found, module);
            let ours =
                ours.unwrap_or_else(|| panic!("{layout}: `{from}` is {found:?}, not `{module}`"));
            compared += 1;
            if role == Role::Down || op.starts_with("block") {
                continue;
            }
            let part: Vec<usize> = (op.strip_prefix("rows ").into_iter())
                .flat_map(|r| r.split(' ').map(|n| n.parse().unwrap()))
                .collect();
            match (&part[..], ours.as_str()) {
                ([], "swap") if op.is_empty() => {
                    // FLUX.2's converter copies what it swaps in the weight: here the LoRA is cut
                    // as the weight is.
                    assert_eq!(layout, "flux2", "{to}");
                    better += 1;
                }
                ([], same) => assert_eq!(same, op, "{layout}: `{to}`"),
                ([first, end, of], ours) => {
                    let parts: usize = ours.rsplit(' ').next().unwrap().parse().unwrap();
                    let at = match (*first, *end) {
                        (0, _) => 0,
                        (_, end) if end == *of => parts - 1,
                        (_, end) => {
                            assert!(end < *of);
                            if parts == 3 { 1 } else { *first }
                        }
                    };
                    assert_eq!(ours, format!("part {at} of {parts}"), "{layout}: `{to}`");
                }
                _ => panic!("{layout}: {op}"),
            }
        }
        // Differences of norms, which converters throw away and ComfyUI applies; FLUX.2's
        // modulation likewise.
        for from in lines.iter().filter_map(|l| l.strip_prefix("dropped ")) {
            assert!(
                matches!(key_layouts::parse(from), Key::Part { .. }),
                "{layout}: `{from}`"
            );
        }
    }
    assert_eq!((compared, skipped, better), (31_430, 34, 1));
}

/// The blocks of LTX-Video, `PixArt` and Sana have the same modules in the names of diffusers.
#[test]
fn a_whole_model_is_taken_for_its_own_family() {
    let blocks = ["pixart_alpha", "pixart_sigma", "sana_1600m"];
    for (family, lines) in recorded("models.txt") {
        if !blocks.contains(&family.as_str()) {
            continue;
        }
        let rows = lines.iter().filter(|l| !l.starts_with("unused "));
        let model: BTreeMap<String, Vec<usize>> = rows
            .flat_map(|l| expand(l))
            .map(|(to, ..)| (to, vec![2, 2]))
            .collect();
        let found = Index::new(&model).find(&key_layouts::path("lora_unet_blocks_0_attn_qkv"));
        let cut = matches!(&found, Found::Stacked { pieces, .. } if pieces.len() == 3);
        assert!(cut, "{family}: {found:?}");
    }
}

fn peft(module: &str, out: usize, input: usize) -> Vec<(String, Tensor)> {
    vec![
        (
            format!("base_model.model.{module}.lora_A.weight"),
            drawn(&[2, input], 3),
        ),
        (
            format!("base_model.model.{module}.lora_B.weight"),
            drawn(&[out, 2], 4),
        ),
    ]
}

#[test]
fn without_a_configuration_alpha_is_the_rank_and_said_so() {
    let model = targets(&[("a.weight", &[4, 6])]);
    let file = File::new(&peft("a", 4, 6));
    let lora = Lora::open(file.path(), &model).unwrap();
    assert_eq!(
        (lora.scaling("a.weight"), lora.alpha("a.weight")),
        (Some(1.0), None)
    );
    assert!(
        lora.notes()[0].contains("--lora-alpha"),
        "{:?}",
        lora.notes()
    );
    let options = Options {
        component: None,
        alpha: Some(1.0),
        shared: false,
    };
    let lora = Lora::open_with(file.path(), &model, &options).unwrap();
    assert_eq!(lora.scaling("a.weight"), Some(0.5));
    // What the file says itself is not overruled.
    let mut stated = pair("lora_unet_a", 4, 6);
    stated.push(("lora_unet_a.alpha".into(), f32s(&[], &[4.0])));
    let lora = Lora::open_with(File::new(&stated).path(), &model, &options).unwrap();
    assert_eq!(lora.scaling("a.weight"), Some(2.0));
}

#[test]
fn an_alpha_may_be_an_integer_and_zero_is_no_change() {
    let model = targets(&[("a.weight", &[4, 6])]);
    let with = |alpha: Tensor| {
        let mut tensors = pair("lora_unet_a", 4, 6);
        tensors.push(("lora_unet_a.alpha".into(), alpha));
        Lora::open(File::new(&tensors).path(), &model)
    };
    let integer = |dtype, data: &[u8]| Tensor {
        dtype,
        shape: vec![],
        data: data.to_vec(),
    };
    for alpha in [
        integer(Dtype::I64, &1i64.to_le_bytes()),
        integer(Dtype::I32, &1i32.to_le_bytes()),
        integer(Dtype::U8, &[1]),
    ] {
        assert_eq!(with(alpha).unwrap().scaling("a.weight"), Some(0.5));
    }
    let nothing = with(f32s(&[], &[0.0])).unwrap();
    assert!(
        nothing.notes()[0].contains("alpha of 0"),
        "{:?}",
        nothing.notes()
    );
    // Not even the sign of a zero changes.
    let base = f32s(&[4, 6], &[-0.0; 24]);
    let fusion = Fusion::new(vec![(nothing, 1.0)], Fuse::Exact).unwrap();
    assert_eq!(fusion.fuse("a.weight", base.view()).unwrap(), base.data);
}

#[test]
fn f8_factors_are_what_they_say() {
    let model = targets(&[("a.weight", &[2, 2])]);
    let f8 = |shape: [usize; 2], data: &[u8]| Tensor {
        dtype: Dtype::F8E4M3Fn,
        shape: shape.to_vec(),
        data: data.to_vec(),
    };
    // 2 x [1, -0.5], with 1 as 0x38, 2 as 0x40 and 0.5 as 0x30.
    let file = File::new(&[
        (
            "lora_unet_a.lora_down.weight".into(),
            f8([1, 2], &[0x38, 0xb0]),
        ),
        (
            "lora_unet_a.lora_up.weight".into(),
            f8([2, 1], &[0x40, 0x38]),
        ),
    ]);
    let lora = Lora::open(file.path(), &model).unwrap();
    assert!(lora.notes()[0].contains("f8"), "{:?}", lora.notes());
    let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    let zero = f32s(&[2, 2], &[0.0; 4]);
    let bytes = fusion.fuse("a.weight", zero.view()).unwrap();
    assert_eq!(bytes, f32s(&[2, 2], &[2.0, -1.0, 1.0, -0.5]).data);
}

/// Three equal tensors in the same order make another delta where another of the two factors is the product.
#[test]
fn equal_tensors_in_another_formula_are_not_the_same_statement() {
    let model = targets(&[("a.weight", &[4, 4])]);
    let [a, b, c] = [1, 2, 3].map(|seed| drawn(&[2, 2], seed));
    let tensors = [
        ("lora_unet_a.lokr_w1_a", &a),
        ("lora_unet_a.lokr_w1_b", &b),
        ("lora_unet_a.lokr_w2", &c),
        ("transformer.a.lokr_w1", &a),
        ("transformer.a.lokr_w2_a", &b),
        ("transformer.a.lokr_w2_b", &c),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    let refused = Lora::open(File::new(&tensors).path(), &model).unwrap_err();
    assert_eq!(refused.code(), "lora-overlap");
}

#[test]
fn the_same_layer_counts_once_and_two_statements_are_refused() {
    let model = targets(&[("a.weight", &[4, 6])]);
    let mut tensors = pair("lora_unet_a", 4, 6);
    tensors.extend(pair("transformer.a", 4, 6));
    let lora = Lora::open(File::new(&tensors).path(), &model).unwrap();
    assert!(
        lora.notes()[0].contains("stated twice"),
        "{:?}",
        lora.notes()
    );
    let alone = Lora::open(File::new(&pair("lora_unet_a", 4, 6)).path(), &model).unwrap();
    let zero = f32s(&[4, 6], &[0.0; 24]);
    let fused = |lora| {
        Fusion::new(vec![(lora, 1.0)], Fuse::Exact)
            .unwrap()
            .fuse("a.weight", zero.view())
            .unwrap()
    };
    assert_eq!(fused(lora), fused(alone));
    for other in [
        ("transformer.a.lora_up.weight", drawn(&[4, 2], 99)),
        ("transformer.a.alpha", f32s(&[], &[1.0])),
    ] {
        let mut contrary = tensors.clone();
        contrary.retain(|(n, _)| n != other.0);
        contrary.push((other.0.to_owned(), other.1));
        let e = Lora::open(File::new(&contrary).path(), &model).unwrap_err();
        assert_eq!(e.code(), "lora-overlap", "{e}");
    }
}

#[test]
fn embeddings_in_the_file_are_left_out_with_a_note() {
    let model = targets(&[("a.weight", &[4, 6])]);
    let mut tensors = pair("lora_unet_a", 4, 6);
    tensors.push(("bundle_emb.some one.clip_g".into(), drawn(&[2, 3], 1)));
    let lora = Lora::open(File::new(&tensors).path(), &model).unwrap();
    assert!(
        lora.notes()[0].contains("bundle_emb.some one.clip_g"),
        "{:?}",
        lora.notes()
    );
    assert_eq!(lora.targets().len(), 1);
}

#[test]
fn other_kinds_of_adapter_are_refused_by_name() {
    let model = targets(&[("a.weight", &[4, 6])]);
    let file = |tensors: &[(&str, Tensor)]| {
        let owned: Vec<(String, Tensor)> = tensors
            .iter()
            .map(|(n, t)| ((*n).to_owned(), t.clone()))
            .collect();
        Lora::open(File::new(&owned).path(), &model)
            .unwrap_err()
            .to_string()
    };
    let flag = Tensor {
        dtype: Dtype::Bool,
        shape: vec![],
        data: vec![0],
    };
    let text = file(&[
        ("lora_unet_a.weight", drawn(&[1, 4], 1)),
        ("lora_unet_a.on_input", flag),
    ]);
    assert!(text.contains("IA3"), "{text}");
    for (key, kind) in [
        ("lora_unet_a.oft_diag", "OFT"),
        ("a.oft_R", "OFT of PEFT before 0.14"),
        ("a.oft_embedding_R.weight", "OFT of an embedding"),
        ("lora_unet_a.bm.weight", "GLoRA with a Tucker core"),
        ("a.vera_lambda_b", "VeRA"),
    ] {
        let text = file(&[(key, drawn(&[2, 2], 1))]);
        assert!(text.contains(kind), "{key}: {text}");
    }
}

#[test]
fn what_multiplies_a_weight_is_refused_where_it_does_not_fit_or_is_not_all_there() {
    let model = targets(&[
        ("a.weight", &[4, 6]),
        ("q.weight", &[4, 4]),
        ("double_blocks.0.img_attn.qkv.weight", &[6, 2]),
        ("single_blocks.0.linear2.weight", &[2, 2]),
    ]);
    let refused = |tensors: &[(&str, &[usize])]| {
        let all = tensors.iter().enumerate();
        let owned: Vec<(String, Tensor)> = all
            .map(|(i, (n, s))| {
                let alpha = s.is_empty();
                let tensor = if alpha {
                    f32s(&[], &[0.01])
                } else {
                    drawn(s, i as u32)
                };
                ((*n).to_owned(), tensor)
            })
            .collect();
        Lora::open(File::new(&owned).path(), &model)
            .unwrap_err()
            .to_string()
    };
    let oft = "lora_unet_a.oft_blocks";
    for (tensors, says) in [
        // Blocks that do not come to the rows, that are no squares, or that cannot be mixed so often.
        (
            vec![(oft, &[3, 2, 2][..])],
            "extents than `a.weight`, which is 4x6",
        ),
        (vec![(oft, &[2, 2, 3])], "do not fit"),
        (
            vec![(oft, &[3, 2, 2, 2])],
            "extents than `a.weight`, which is 4x6",
        ),
        (
            vec![(oft, &[2, 2, 2]), ("lora_unet_a.rescale", &[3, 1])],
            "extents than `a.weight`, which is 4x6",
        ),
        (
            vec![(oft, &[2, 2, 2]), ("lora_unet_a.dora_scale", &[4, 1])],
            "`dora_scale` as well",
        ),
        (
            vec![(oft, &[2, 2, 2]), ("lora_unet_a.lora_up.weight", &[4, 1])],
            "at once",
        ),
        (
            vec![("lora_unet_a.rescale", &[4, 1])],
            "has no `oft_blocks`",
        ),
        // Readers differ on what the constraint is.
        (
            vec![(oft, &[2, 2, 2]), ("lora_unet_a.alpha", &[])],
            "in different ways",
        ),
        (vec![("a.oft_R.weight", &[2, 3])], "no configuration"),
        (vec![("a.boft_R", &[1, 3, 2, 2])], "has no `boft_s`"),
        (
            vec![("a.boft_R", &[1, 2, 2, 2]), ("a.boft_s", &[4, 1])],
            "extents than `a.weight`, which is 4x6",
        ),
        (
            vec![("a.ia3_l", &[1, 4])],
            "extents than `a.weight`, which is 4x6",
        ),
        (vec![("a.ia3_l", &[1, 6, 1, 1])], "do not fit"),
        (vec![("lora_unet_a.a1.weight", &[6, 2])], "has no `a2`"),
        (
            vec![
                ("lora_unet_q.a1.weight", &[4, 4]),
                ("lora_unet_q.a2.weight", &[4, 4]),
                ("lora_unet_q.b1.weight", &[4, 4]),
                ("lora_unet_q.b2.weight", &[4, 4]),
            ],
            "of full rank",
        ),
        // A part of a stacked weight.
        (
            vec![
                (
                    "transformer.transformer_blocks.0.attn.to_q.boft_R",
                    &[1, 1, 2, 2],
                ),
                ("transformer.transformer_blocks.0.attn.to_q.boft_s", &[2, 1]),
            ],
            "multiplies the whole weight",
        ),
    ] {
        let text = refused(&tensors);
        assert!(text.contains(says), "{tensors:?}: {text}");
    }
}
