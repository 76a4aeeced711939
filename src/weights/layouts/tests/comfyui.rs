//! What ComfyUI's loaders read, branch by branch: names and shapes as `comfy/supported_models.py`, `comfy/sd.py`, `comfy/utils.py`
//! and `comfy/controlnet.py` expect them.

use super::*;

type Shapes = &'static [(&'static str, &'static [usize])];

/// The values of `name` in a file of numbered tensors, read for a model.
fn read(file: Shapes, model: Shapes, name: &str) -> Vec<f32> {
    let view = open_in_layout(numbered(file), &wanted(model), None).unwrap();
    values(&view, name)
}

/// Where a tensor of a numbered file starts.
fn first(file: Shapes, name: &str) -> f32 {
    let before = file.iter().take_while(|(n, _)| *n != name);
    before
        .map(|(_, shape)| shape.iter().product::<usize>() as f32)
        .sum()
}

const FLUX_SAVED: Shapes = &[
    ("img_in.weight", &[2]),
    ("double_blocks.0.img_attn.qkv.weight", &[6, 2]),
    ("double_blocks.0.img_attn.norm.query_norm.weight", &[2]),
    ("double_blocks.0.img_attn.norm.key_norm.weight", &[2]),
    ("single_blocks.0.norm.key_norm.weight", &[2]),
];

const FLUX_WRITTEN: Shapes = &[
    ("img_in.weight", &[2]),
    ("double_blocks.0.img_attn.qkv.weight", &[6, 2]),
    ("double_blocks.0.img_attn.norm.query_norm.scale", &[2]),
    ("double_blocks.0.img_attn.norm.key_norm.scale", &[2]),
    ("single_blocks.0.norm.key_norm.scale", &[2]),
];

const FLUX_DIFFUSERS: Shapes = &[
    ("x_embedder.weight", &[2]),
    ("transformer_blocks.0.attn.to_q.weight", &[2, 2]),
    ("transformer_blocks.0.attn.to_k.weight", &[2, 2]),
    ("transformer_blocks.0.attn.to_v.weight", &[2, 2]),
    ("transformer_blocks.0.attn.norm_q.weight", &[2]),
    ("transformer_blocks.0.attn.norm_k.weight", &[2]),
    ("single_transformer_blocks.0.attn.norm_k.weight", &[2]),
];

/// `Flux.process_unet_state_dict`: `_norm.scale` is `_norm.weight`.
#[test]
fn norms_of_flux_may_be_called_weight() {
    for file in [FLUX_SAVED, FLUX_WRITTEN] {
        for (here, there) in [
            ("transformer_blocks.0.attn.norm_q.weight", 2),
            ("transformer_blocks.0.attn.norm_k.weight", 3),
            ("single_transformer_blocks.0.attn.norm_k.weight", 4),
        ] {
            let at = first(file, file[there].0);
            assert_eq!(read(file, FLUX_DIFFUSERS, here), [at, at + 1.0], "{here}");
        }
    }
    // Between the two spellings of ComfyUI's own models.
    for (file, model) in [(FLUX_SAVED, FLUX_WRITTEN), (FLUX_WRITTEN, FLUX_SAVED)] {
        let view = open_in_layout(numbered(file), &wanted(model), None).unwrap();
        for ((from, _), (to, _)) in file.iter().zip(model) {
            assert_eq!(values(&view, to)[0], first(file, from), "{to}");
        }
        assert_eq!(view.names().count(), model.len());
    }
    // And from diffusers' to what ComfyUI exports.
    for model in [FLUX_SAVED, FLUX_WRITTEN] {
        for (to, from) in [(3, 5), (2, 4), (4, 6)] {
            let at = first(FLUX_DIFFUSERS, FLUX_DIFFUSERS[from].0);
            assert_eq!(
                read(FLUX_DIFFUSERS, model, model[to].0),
                [at, at + 1.0],
                "{}",
                model[to].0
            );
        }
    }
}

/// Two tensors are never one because of that: a scale beside a weight is another thing.
#[test]
fn a_scale_beside_a_weight_is_no_other_name_of_it() {
    let file: Shapes = &[("a.b.weight", &[2]), ("a.b.scale", &[2])];
    let model: Shapes = &[("a.b.weight", &[2])];
    assert_eq!(read(file, model, "a.b.weight"), [0.0, 1.0]);
    let view = open_in_layout(numbered(file), &wanted(model), None).unwrap();
    assert!(view.names().any(|n| n == "a.b.scale"));
}

const HUNYUAN: Shapes = &[
    (
        "model.model.txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias",
        &[2],
    ),
    (
        "model.model.txt_in.individual_token_refiner.blocks.0.self_attn_qkv.weight",
        &[6, 2],
    ),
    ("model.model.txt_in.t_embedder.mlp.0.weight", &[2, 2]),
    ("model.model.txt_in.c_embedder.linear_2.weight", &[2, 2]),
    ("model.model.time_in.mlp.0.weight", &[2, 2]),
    ("model.model.guidance_in.mlp.2.bias", &[2]),
    ("model.model.double_blocks.0.img_attn_qkv.weight", &[6, 2]),
    ("model.model.double_blocks.0.img_attn_q_norm.weight", &[2]),
    ("model.model.double_blocks.0.img_mod.linear.bias", &[2]),
    ("model.model.double_blocks.0.txt_mlp.fc2.weight", &[2, 2]),
    ("model.model.single_blocks.0.q_norm.weight", &[2]),
    ("model.model.single_blocks.0.modulation.linear.bias", &[2]),
];

const HUNYUAN_COMFYUI: Shapes = &[
    (
        "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias",
        &[2],
    ),
    (
        "txt_in.individual_token_refiner.blocks.0.self_attn.qkv.weight",
        &[6, 2],
    ),
    ("txt_in.t_embedder.in_layer.weight", &[2, 2]),
    ("txt_in.c_embedder.out_layer.weight", &[2, 2]),
    ("time_in.in_layer.weight", &[2, 2]),
    ("guidance_in.out_layer.bias", &[2]),
    ("double_blocks.0.img_attn.qkv.weight", &[6, 2]),
    ("double_blocks.0.img_attn.norm.query_norm.weight", &[2]),
    ("double_blocks.0.img_mod.lin.bias", &[2]),
    ("double_blocks.0.txt_mlp.2.weight", &[2, 2]),
    ("single_blocks.0.norm.query_norm.weight", &[2]),
    ("single_blocks.0.modulation.lin.bias", &[2]),
];

const CASCADE: Shapes = &[
    ("clf.1.weight", &[2, 2]),
    ("embedding.1.weight", &[2, 2]),
    ("clip_txt_mapper.weight", &[2, 2]),
    ("down_blocks.0.2.attention.attn.in_proj_weight", &[6, 2]),
    ("down_blocks.0.2.attention.attn.in_proj_bias", &[6]),
    ("down_blocks.0.2.attention.attn.out_proj.weight", &[2, 2]),
];

const CASCADE_COMFYUI: Shapes = &[
    ("clf.1.weight", &[2, 2]),
    ("embedding.1.weight", &[2, 2]),
    ("clip_txt_mapper.weight", &[2, 2]),
    ("down_blocks.0.2.attention.attn.to_q.weight", &[2, 2]),
    ("down_blocks.0.2.attention.attn.to_k.weight", &[2, 2]),
    ("down_blocks.0.2.attention.attn.to_v.weight", &[2, 2]),
    ("down_blocks.0.2.attention.attn.to_q.bias", &[2]),
    ("down_blocks.0.2.attention.attn.to_k.bias", &[2]),
    ("down_blocks.0.2.attention.attn.to_v.bias", &[2]),
    ("down_blocks.0.2.attention.attn.out_proj.weight", &[2, 2]),
];

/// `HunyuanVideo.process_unet_state_dict`, `Stable_Cascade_C.process_unet_state_dict`: an export of ComfyUI's has these names, and the
/// authors' file has others.
#[test]
fn what_comfyui_renames_on_loading_is_renamed_for_its_exports() {
    for (file, model) in [
        (HUNYUAN, HUNYUAN_COMFYUI),
        (CASCADE, CASCADE_COMFYUI),
        // What ComfyUI saves, for an export of the authors'.
        (CASCADE_COMFYUI, CASCADE),
    ] {
        let view = open_in_layout(numbered(file), &wanted(model), None).unwrap();
        for (name, shape) in model {
            assert_eq!(view.describe(name).unwrap().1, *shape, "{name}");
        }
        let count: usize = model.iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        let mut all: Vec<f32> = model.iter().flat_map(|(n, _)| values(&view, n)).collect();
        all.sort_by(f32::total_cmp);
        let every: Vec<f32> = (0..count).map(|i| i as f32).collect();
        assert_eq!(all, every);
    }
    for (to, (from, _)) in HUNYUAN_COMFYUI.iter().zip(HUNYUAN) {
        assert_eq!(
            read(HUNYUAN, HUNYUAN_COMFYUI, to.0)[0],
            first(HUNYUAN, from),
            "{}",
            to.0
        );
    }
    let stack = first(CASCADE, "down_blocks.0.2.attention.attn.in_proj_weight");
    for (name, row) in [("to_q", 0.0), ("to_k", 2.0), ("to_v", 4.0)] {
        let name = format!("down_blocks.0.2.attention.attn.{name}.weight");
        assert_eq!(
            read(CASCADE, CASCADE_COMFYUI, &name)[0],
            stack + 2.0 * row,
            "{name}"
        );
    }
    // And what ComfyUI saves of Stable Cascade, for an export of diffusers'.
    let diffusers: Shapes = &[
        ("clip_txt_mapper.weight", &[2, 2]),
        ("down_blocks.0.2.attention.to_k.weight", &[2, 2]),
        ("down_blocks.0.2.attention.to_out.0.weight", &[2, 2]),
    ];
    for (to, from) in [
        ("down_blocks.0.2.attention.to_k.weight", "to_k.weight"),
        (
            "down_blocks.0.2.attention.to_out.0.weight",
            "out_proj.weight",
        ),
    ] {
        let from = format!("down_blocks.0.2.attention.attn.{from}");
        assert_eq!(
            read(CASCADE_COMFYUI, diffusers, to)[0],
            first(CASCADE_COMFYUI, &from),
            "{to}"
        );
    }
}

/// `load_text_encoder_state_dicts`: `text_projection` is the projection turned.
#[test]
fn a_bare_projection_is_turned() {
    let file: Shapes = &[
        ("text_model.embeddings.position_embedding.weight", &[1, 2]),
        ("text_model.final_layer_norm.weight", &[2]),
        ("text_projection", &[2, 3]),
    ];
    let model: Shapes = &[
        ("text_model.embeddings.position_embedding.weight", &[1, 2]),
        ("text_model.final_layer_norm.weight", &[2]),
        ("text_projection.weight", &[3, 2]),
    ];
    let at = first(file, "text_projection");
    assert_eq!(
        read(file, model, "text_projection.weight"),
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0].map(|v| v + at)
    );
}

/// `Stable_Cascade_C.process_clip_state_dict`: there it stands beside the encoder.
#[test]
fn a_projection_beside_the_encoder_is_its_own() {
    let file: Shapes = &[
        (
            "text_encoder.clip_g.transformer.text_model.embeddings.position_embedding.weight",
            &[1, 2],
        ),
        (
            "text_encoder.clip_g.transformer.text_model.final_layer_norm.weight",
            &[2],
        ),
        ("text_encoder.clip_g.text_projection", &[2, 2]),
    ];
    let model: Shapes = &[
        ("text_model.final_layer_norm.weight", &[2]),
        ("text_projection.weight", &[2, 2]),
    ];
    let at = first(file, "text_encoder.clip_g.text_projection");
    assert_eq!(
        read(file, model, "text_projection.weight"),
        [0.0, 2.0, 1.0, 3.0].map(|v| v + at)
    );
}

/// `load_text_encoder_state_dicts`: transformers puts Qwen-VL's language model under a name of its own since 4.52.
#[test]
fn the_language_model_of_qwen_vl_is_read_under_both_names() {
    let old: Shapes = &[
        ("model.layers.0.self_attn.q_proj.weight", &[2, 2]),
        ("model.norm.weight", &[2]),
        ("visual.blocks.0.attn.qkv.weight", &[3]),
    ];
    let new: Shapes = &[
        (
            "model.language_model.layers.0.self_attn.q_proj.weight",
            &[2, 2],
        ),
        ("model.language_model.norm.weight", &[2]),
        ("model.visual.blocks.0.attn.qkv.weight", &[3]),
    ];
    for (file, model) in [(old, new), (new, old)] {
        let view = open_in_layout(numbered(file), &wanted(&model[..2]), None).unwrap();
        let names: Vec<&str> = view.names().collect();
        assert!(
            names.contains(&"layers.0.self_attn.q_proj.weight"),
            "{names:?}"
        );
    }
}

/// `VAE.__init__`: FLUX.2's file has the convolutions around the latents under the halves, and the statistics of a batch norm.
#[test]
fn the_autoencoder_of_flux_2_is_read() {
    let file: Shapes = &[
        ("encoder.conv_in.weight", &[2, 1, 1, 1]),
        ("encoder.quant_conv.weight", &[2, 2, 1, 1]),
        ("decoder.post_quant_conv.bias", &[2]),
        ("decoder.conv_in.weight", &[2, 1, 1, 1]),
        ("decoder.up.0.block.0.norm1.weight", &[2]),
        ("bn.running_mean", &[3]),
        ("bn.running_var", &[3]),
    ];
    let diffusers: Shapes = &[
        ("encoder.conv_in.weight", &[2, 1, 1, 1]),
        ("quant_conv.weight", &[2, 2, 1, 1]),
        ("post_quant_conv.bias", &[2]),
        ("decoder.conv_in.weight", &[2, 1, 1, 1]),
        ("decoder.up_blocks.0.resnets.0.norm1.weight", &[2]),
        ("bn.running_mean", &[3]),
        ("bn.running_var", &[3]),
    ];
    for ((to, _), (from, _)) in diffusers.iter().zip(file) {
        assert_eq!(read(file, diffusers, to)[0], first(file, from), "{to}");
        assert_eq!(
            read(diffusers, file, from)[0],
            first(diffusers, to),
            "{from}"
        );
    }
}

/// Tokenizers beside text encoders, and tensors whose presence says how a model is sampled, are no lost weights; nor are they taken away
/// from a model that has such a name.
#[test]
fn what_is_no_weight_is_counted_apart() {
    let file: Shapes = &[
        ("encoder.block.0.layer.0.SelfAttention.q.weight", &[2, 2]),
        ("spiece_model", &[5]),
        ("v_pred", &[]),
        ("__index_timestep_zero__", &[]),
        ("other", &[1]),
    ];
    let model: Shapes = &[("encoder.block.0.layer.0.SelfAttention.q.weight", &[2, 2])];
    let view = open_in_layout(numbered(file), &wanted(model), None).unwrap();
    assert_eq!(view.components()["tokenizer"], 1);
    assert_eq!(view.components()["settings"], 2);
    assert_eq!(
        view.names().collect::<Vec<_>>(),
        ["encoder.block.0.layer.0.SelfAttention.q.weight", "other"]
    );
    let model: Shapes = &[("other", &[1]), ("v_pred", &[])];
    assert_eq!(read(file, model, "v_pred"), [first(file, "v_pred")]);
}

/// `convert_old_quants`: the mark of a file of scaled f8 weights is f32 in some.
#[test]
fn the_mark_of_scaled_f8_may_be_of_any_type() {
    let model = wanted(&[("a.weight", &[2, 2])]);
    for (dtype, data) in [
        (Dtype::F8E4M3Fn, vec![0; 2]),
        (Dtype::F32, f32s([0.0, 0.0])),
    ] {
        let file = source(&[
            ("a.weight", Dtype::F8E4M3Fn, &[2, 2], vec![0x38; 4]),
            ("a.scale_weight", Dtype::F32, &[], f32s([2.0])),
            ("scaled_fp8", dtype, &[2], data),
        ]);
        let view = open_in_layout(file, &model, None).unwrap();
        assert_eq!(view.names().collect::<Vec<_>>(), ["a.weight"], "{dtype}");
        assert_eq!(values(&view, "a.weight"), [2.0; 4]);
    }
}

/// `comfy/quant_ops.py`: what says another format than an 8-bit float, and integers with scales, are refused by kind.
#[test]
fn other_quantisations_of_comfyui_are_refused() {
    let model = wanted(&[("a.weight", &[2, 2])]);
    let open = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| {
        open_in_layout(source(tensors), &model, None)
    };
    let says = |format: &str| {
        let text = format!("{{\"format\": \"{format}\"}}").into_bytes();
        ("a.comfy_quant", Dtype::U8, vec![text.len()], text)
    };
    for format in [
        "int8_tensorwise",
        "convrot_w4a4",
        "asym_w4a8_int8",
        "awq_w4a16",
    ] {
        let (name, dtype, shape, text) = says(format);
        let e = open(&[
            ("a.weight", Dtype::I8, &[2, 2], vec![1; 4]),
            ("a.weight_scale", Dtype::F32, &[], f32s([0.5])),
            (name, dtype, &shape, text),
        ])
        .unwrap_err();
        assert_eq!(e.code(), "weights-quantised", "{format}: {e}");
        assert!(e.to_string().contains("integers with scales"), "{e}");
    }
    let (name, dtype, shape, text) = says("mxfp8");
    let e = open(&[
        ("a.weight", Dtype::F8E4M3Fn, &[2, 2], vec![0x38; 4]),
        ("a.weight_scale", Dtype::U8, &[2, 1], vec![127; 2]),
        (name, dtype, &shape, text),
    ])
    .unwrap_err();
    assert_eq!(e.code(), "weights-scale", "{e}");
    assert!(e.to_string().contains("mxfp8"), "{e}");
    for format in ["float8_e4m3fn", "float8_e5m2"] {
        let (name, dtype, shape, text) = says(format);
        let file = [
            ("a.weight", Dtype::F8E4M3Fn, &[2, 2][..], vec![0x38; 4]),
            ("a.weight_scale", Dtype::F32, &[], f32s([0.5])),
            (name, dtype, &shape, text),
        ];
        assert_eq!(
            values(&open(&file).unwrap(), "a.weight"),
            [0.5; 4],
            "{format}"
        );
    }
}

/// `load_controlnet_state_dict`: with a tensor `difference` the UNet's weights are to be added, which this file does not hold.
#[test]
fn a_controlnet_of_differences_is_refused() {
    let file: Shapes = &[
        ("difference", &[]),
        ("control_model.zero_convs.0.0.weight", &[1]),
        ("control_model.input_hint_block.0.weight", &[1]),
        ("control_model.time_embed.0.weight", &[2, 2]),
    ];
    let model: Shapes = &[
        ("controlnet_down_blocks.0.weight", &[1]),
        ("time_embedding.linear_1.weight", &[2, 2]),
    ];
    let e = open_in_layout(numbered(file), &wanted(model), None).unwrap_err();
    assert_eq!(e.code(), "weights-difference");
    let view = open_in_layout(numbered(&file[1..]), &wanted(model), None).unwrap();
    assert_eq!(view.family(), Some("sd_controlnet"));
}

/// `ControlLora`: factors of what is added to the UNet, beside whole weights.
#[test]
fn a_control_lora_is_refused() {
    let file: Shapes = &[
        ("lora_controlnet", &[0]),
        ("input_hint_block.0.weight", &[1]),
        ("zero_convs.0.0.weight", &[1]),
        ("time_embed.0.up", &[2, 1]),
        ("time_embed.0.down", &[1, 2]),
    ];
    let model: Shapes = &[("controlnet_down_blocks.0.weight", &[1])];
    let e = open_in_layout(numbered(file), &wanted(model), None).unwrap_err();
    assert_eq!(e.code(), "weights-difference");
    assert!(e.to_string().contains("`lora_controlnet`"), "{e}");
    assert!(e.hints()[0].contains("`X.up`"), "{:?}", e.hints());
}

/// Names that no table knows stay as they are and give the model nothing, so that a refit refuses them as tensors without a weight.
#[test]
fn what_no_table_knows_gives_nothing() {
    let krea: Shapes = &[
        ("blocks.0.attn.wq.weight", &[2, 2]),
        ("blocks.0.attn.wk.weight", &[2, 2]),
    ];
    let model: Shapes = &[
        ("transformer_blocks.0.attn.to_q.weight", &[2, 2]),
        ("text_fusion.projector.weight", &[2, 2]),
    ];
    let adapter: Shapes = &[
        ("image_proj.proj.weight", &[2, 2]),
        ("ip_adapter.1.to_k_ip.weight", &[2, 2]),
    ];
    for file in [krea, adapter] {
        let view = open_in_layout(numbered(file), &wanted(model), None).unwrap();
        let names: BTreeSet<&str> = view.names().collect();
        assert_eq!(names, file.iter().map(|(n, _)| *n).collect());
        assert_eq!(view.family(), None);
    }
}
