use super::*;

/// Keys with the module, the part and the format that they name.
const KEYS: &[(&str, &str, Role, Format)] = &[
    (
        "base_model.model.a.to_q.lora_A.weight",
        "base_model.model.a.to_q",
        Role::Down,
        Format::Peft,
    ),
    (
        "base_model.model.a.to_q.lora_B.default.weight",
        "base_model.model.a.to_q",
        Role::Up,
        Format::Peft,
    ),
    (
        "base_model.model.a.lora_B.bias",
        "base_model.model.a",
        Role::UpBias,
        Format::Peft,
    ),
    (
        "base_model.model.a.lora_magnitude_vector",
        "base_model.model.a",
        Role::Magnitude,
        Format::Peft,
    ),
    (
        "base_model.model.a.lora_magnitude_vector.default.weight",
        "base_model.model.a",
        Role::Magnitude,
        Format::Peft,
    ),
    (
        "base_model.model.emb.lora_embedding_A",
        "base_model.model.emb",
        Role::EmbeddingA,
        Format::Peft,
    ),
    (
        "base_model.model.emb.lora_embedding_B.default",
        "base_model.model.emb",
        Role::EmbeddingB,
        Format::Peft,
    ),
    (
        "unet.a.to_q.lora.down.weight",
        "unet.a.to_q",
        Role::Down,
        Format::Diffusers,
    ),
    (
        "unet.a.attn1.processor.to_q_lora.down.weight",
        "unet.a.attn1.to_q",
        Role::Down,
        Format::DiffusersOld,
    ),
    (
        "text_encoder.a.mlp.fc1.lora_linear_layer.up.weight",
        "text_encoder.a.mlp.fc1",
        Role::Up,
        Format::Diffusers,
    ),
    (
        "lora_unet_a_to_q.lora_down.weight",
        "lora_unet_a_to_q",
        Role::Down,
        Format::Kohya,
    ),
    ("lora_te1_a.alpha", "lora_te1_a", Role::Alpha, Format::Kohya),
    (
        "lora_unet_a.dora_scale",
        "lora_unet_a",
        Role::DoraScale,
        Format::Kohya,
    ),
    (
        "lora_unet_a.diff_b",
        "lora_unet_a",
        Role::BiasDifference,
        Format::Kohya,
    ),
    (
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv",
        Role::Down,
        Format::Comfyui,
    ),
    (
        "double_blocks.3.processor.qkv_lora2.up.weight",
        "double_blocks.3.txt_attn.qkv",
        Role::Up,
        Format::Xlabs,
    ),
    (
        "single_blocks.3.processor.proj_lora.down.weight",
        "single_blocks.3.linear2",
        Role::Down,
        Format::Xlabs,
    ),
    (
        "double_blocks.0.img_attn.norm.key_norm.scale",
        "double_blocks.0.img_attn.norm.key_norm",
        Role::Replacement,
        Format::Bare,
    ),
];

#[test]
fn every_way_of_writing_a_key_is_taken_apart() {
    for (key, module, role, format) in KEYS {
        let expected = Key::Part {
            module: (*module).into(),
            role: *role,
        };
        assert_eq!(parse(key), expected, "{key}");
        assert_eq!(Format::of(key), *format, "{key}");
    }
}

#[test]
fn other_adapters_are_refused_by_name_and_plain_parameters_are_told_apart() {
    assert_eq!(parse("a.oft_R"), Key::Refused("OFT of PEFT before 0.14"));
    assert_eq!(parse("a.on_input"), Key::Refused("IA3 of LyCORIS"));
    assert_eq!(parse("a.boft_P"), Key::Implied);
    for (key, role) in [
        ("a.oft_R.weight", Role::OftVectors),
        ("a.oft_R.default.weight", Role::OftVectors),
        ("a.boft_R", Role::BoftBlocks),
        ("a.boft_s.default", Role::BoftScale),
        ("a.ia3_l", Role::Ia3),
        ("a.oft_blocks", Role::OftBlocks),
        ("a.b2.weight", Role::B2),
    ] {
        let module = "a".into();
        assert_eq!(parse(key), Key::Part { module, role }, "{key}");
    }
    assert_eq!(
        parse("a.lora_A.bias"),
        Key::Refused("bias on the down projection")
    );
    assert!(
        matches!(parse("base_model.model.norm.weight"), Key::Plain { module, .. } if module == "base_model.model.norm")
    );
    assert!(
        matches!(parse("a.modules_to_save.default.bias"), Key::Plain { module, role: Role::BiasReplacement } if module == "a")
    );
    assert_eq!(parse("emb_params"), Key::Unknown);
    assert_eq!(parse(".alpha"), Key::Unknown);
}

#[test]
fn components_come_from_prefixes() {
    let of = |m: &str| path(m).component;
    assert_eq!(of("lora_te2_text_model_x"), Component::TextEncoder(2));
    assert_eq!(of("base_model.model.transformer.x"), Component::Denoiser);
    assert_eq!(of("base_model.model.x"), Component::Unnamed);
    assert!(
        path("lora_te_text_model_x")
            .forms
            .contains(&"x".to_string())
    );
    assert!(
        path("text_encoders.clip_l.transformer.text_model.x")
            .forms
            .contains(&"x".to_string())
    );
}
