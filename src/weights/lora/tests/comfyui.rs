//! What ComfyUI's LoRA loader reads, branch by branch: the names of `comfy/lora.py` and `comfy/lora_convert.py`, the kinds of
//! `comfy/weight_adapter/`. Numbers are computed here by the formulas there, element by element.

use super::*;

/// A weight of the model, and the name that a file has for its module.
type Spelling = (&'static str, &'static str);

/// Whether a LoRA of this module changes that weight and nothing else.
fn reaches(model: &BTreeMap<String, Vec<usize>>, weight: &str, module: &str) {
    let shape = &model[weight];
    let file = File::new(&pair(module, shape[0], shape[1]));
    let lora = Lora::open(file.path(), model).unwrap_or_else(|e| panic!("{module}: {e}"));
    assert_eq!(lora.targets().collect::<Vec<_>>(), [weight], "{module}");
}

/// `model_lora_keys_clip`.
#[test]
fn every_prefix_of_a_text_encoder_is_read() {
    let clip = "text_model.encoder.layers.0.mlp.fc1.weight";
    let flat = "text_model_encoder_layers_0_mlp_fc1";
    let dotted = "text_model.encoder.layers.0.mlp.fc1";
    let t5 = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight";
    let llm = "model.layers.0.self_attn.q_proj.weight";
    let bert = "encoder.layer.0.attention.self.query.weight";
    for (weight, modules) in [
        (
            clip,
            vec![
                format!("lora_te_{flat}"),
                format!("lora_te1_{flat}"),
                format!("lora_te2_{flat}"),
                format!("lora_prior_te_{flat}"),
                format!("text_encoder.{dotted}"),
                format!("text_encoder_2.{dotted}"),
                format!("text_encoders.clip_l.transformer.{dotted}"),
                format!("text_encoders.clip_g.transformer.{dotted}"),
                format!("text_encoders.clip_h.transformer.{dotted}"),
            ],
        ),
        (
            t5,
            [
                "lora_te2_encoder_block_0_layer_1_DenseReluDense_wi_0",
                "lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0",
                "text_encoders.t5xxl.transformer.encoder.block.0.layer.1.DenseReluDense.wi_0",
                "text_encoders.umt5xxl.transformer.encoder.block.0.layer.1.DenseReluDense.wi_0",
                "text_encoders.transformer.encoder.block.0.layer.1.DenseReluDense.wi_0",
            ]
            .map(ToOwned::to_owned)
            .to_vec(),
        ),
        (
            llm,
            [
                "lora_te_layers_0_self_attn_q_proj",
                "text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.q_proj",
                "text_encoders.llama.transformer.model.layers.0.self_attn.q_proj",
                "text_encoders.transformer.model.layers.0.self_attn.q_proj",
                "text_encoder_4.model.layers.0.self_attn.q_proj",
            ]
            .map(ToOwned::to_owned)
            .to_vec(),
        ),
        (
            bert,
            vec![
                "lora_te1_encoder_layer_0_attention_self_query".into(),
                "text_encoders.hydit_clip.transformer.bert.encoder.layer.0.attention.self.query"
                    .into(),
            ],
        ),
        (
            "text_projection.weight",
            [
                "lora_prior_te_text_projection",
                "lora_te1_text_projection",
                "lora_te2_text_projection",
            ]
            .map(ToOwned::to_owned)
            .to_vec(),
        ),
    ] {
        let model = targets(&[(weight, &[4, 6]), ("other.weight", &[4, 6])]);
        for module in &modules {
            reaches(&model, weight, module);
        }
    }
}

/// A part for the language model of a pipeline is left out for its CLIP, and the other way round.
#[test]
fn encoders_of_one_file_are_told_apart_by_comfyuis_names() {
    let clip = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1";
    let llama = "text_encoders.llama.transformer.model.layers.0.self_attn.q_proj";
    let mut tensors = pair(clip, 4, 6);
    tensors.extend(pair(llama, 4, 6));
    let file = File::new(&tensors);
    for (weight, other) in [
        ("text_model.encoder.layers.0.mlp.fc1.weight", 4),
        ("model.layers.0.self_attn.q_proj.weight", 1),
    ] {
        let lora = Lora::open(file.path(), &targets(&[(weight, &[4, 6])])).unwrap();
        assert_eq!(lora.targets().collect::<Vec<_>>(), [weight]);
        let skipped: Vec<_> = lora.skipped().collect();
        assert_eq!(skipped, [(Component::TextEncoder(other), 1)]);
    }
    assert_eq!(
        Component::from_name("text-encoder-4"),
        Some(Component::TextEncoder(4))
    );
}

/// Stable Diffusion.
const UNET: &[Spelling] = &[
    (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out",
    ),
    (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q",
    ),
    (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    ),
    (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    ),
    (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    ),
];

/// Stable Diffusion 3.
const SD3: &[Spelling] = &[
    (
        "transformer_blocks.0.attn.to_out.0.weight",
        "transformer.transformer_blocks.0.attn.to_out.0",
    ),
    (
        "transformer_blocks.0.attn.to_out.0.weight",
        "base_model.model.transformer_blocks.0.attn.to_out.0",
    ),
    (
        "transformer_blocks.0.attn.to_out.0.weight",
        "lora_transformer_transformer_blocks_0_attn_to_out_0",
    ),
    (
        "transformer_blocks.0.attn.to_out.0.weight",
        "lycoris_transformer_blocks_0_attn_to_out_0",
    ),
    (
        "transformer_blocks.0.attn.to_out.0.weight",
        "diffusion_model.joint_blocks.0.x_block.attn.proj",
    ),
    (
        "transformer_blocks.0.attn.to_out.0.weight",
        "lora_unet_joint_blocks_0_x_block_attn_proj",
    ),
];

/// `PixArt`.
const PIXART: &[Spelling] = &[
    (
        "transformer_blocks.0.attn1.to_out.0.weight",
        "transformer.transformer_blocks.0.attn1.to_out.0",
    ),
    (
        "transformer_blocks.0.attn1.to_out.0.weight",
        "base_model.model.transformer_blocks.0.attn1.to_out.0",
    ),
    (
        "transformer_blocks.0.attn1.to_out.0.weight",
        "unet.base_model.model.transformer_blocks.0.attn1.to_out.0",
    ),
    (
        "transformer_blocks.0.attn1.to_out.0.weight",
        "diffusion_model.blocks.0.attn.proj",
    ),
];

/// Models in names of their own.
const OWN: &[Spelling] = &[
    // HunyuanDiT, Mochi, ACE-Step, OmniGen2, Kandinsky, ERNIE-Image, LTX, MiniMax: the model's own paths, bare or under a prefix.
    (
        "blocks.0.attn1.q_proj.weight",
        "base_model.model.blocks.0.attn1.q_proj",
    ),
    ("blocks.0.attn1.q_proj.weight", "blocks.0.attn1.q_proj"),
    (
        "blocks.0.attn1.q_proj.weight",
        "transformer.blocks.0.attn1.q_proj",
    ),
    (
        "blocks.0.attn1.q_proj.weight",
        "diffusion_model.blocks.0.attn1.q_proj",
    ),
    (
        "blocks.0.attn1.q_proj.weight",
        "lycoris_blocks_0_attn1_q_proj",
    ),
    (
        "blocks.0.attn1.q_proj.weight",
        "lora_unet_blocks_0_attn1_q_proj",
    ),
    (
        "blocks.0.attn1.q_proj.weight",
        "lora_prior_unet_blocks_0_attn1_q_proj",
    ),
    // HiDream-O1.
    (
        "blocks.0.attn1.q_proj.weight",
        "model.blocks.0.attn1.q_proj",
    ),
    // Wan-Fun (`convert_lora_wan_fun`).
    (
        "blocks.0.attn1.q_proj.weight",
        "lora_unet__blocks_0_attn1_q_proj",
    ),
];

/// `model_lora_keys_unet`, on models in the names of diffusers and in those that `ComfyUI` runs.
#[test]
fn every_prefix_of_a_denoiser_is_read() {
    for list in [UNET, SD3, PIXART, OWN] {
        let mut model: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (weight, _) in list {
            model.insert((*weight).to_owned(), vec![4, 6]);
        }
        // So that the number of resnets in a block shows.
        model.insert(
            "down_blocks.0.resnets.1.conv1.weight".into(),
            vec![4, 6, 3, 3],
        );
        for (weight, module) in list {
            reaches(&model, weight, module);
        }
    }
}

/// `HunyuanVideo`: Tencent's names on the model as ComfyUI runs and exports it, and ComfyUI's on a model of Tencent's.
#[test]
fn hunyuan_video_is_read_across_its_three_spellings() {
    let comfyui = [
        "double_blocks.0.img_attn.qkv",
        "double_blocks.0.img_mlp.0",
        "single_blocks.0.modulation.lin",
        "txt_in.individual_token_refiner.blocks.0.self_attn.qkv",
    ];
    let tencent = [
        "double_blocks.0.img_attn_qkv",
        "double_blocks.0.img_mlp.fc1",
        "single_blocks.0.modulation.linear",
        "txt_in.individual_token_refiner.blocks.0.self_attn_qkv",
    ];
    for (model, file) in [(comfyui, tencent), (tencent, comfyui)] {
        let owned: Vec<String> = model.iter().map(|m| format!("{m}.weight")).collect();
        let list: Vec<(&str, &[usize])> = owned.iter().map(|n| (n.as_str(), &[6, 4][..])).collect();
        let all = targets(&list);
        for (weight, module) in owned.iter().zip(file) {
            reaches(&all, weight, &format!("transformer.{module}"));
            reaches(&all, weight, &format!("diffusion_model.{module}"));
            reaches(
                &all,
                weight,
                &format!("lora_unet_{}", module.replace('.', "_")),
            );
        }
    }
}

/// The new values of a weight.
fn new_values(tensors: &[(String, Tensor)], name: &str, base: &Tensor) -> Vec<f64> {
    let model = BTreeMap::from([(name.to_owned(), base.shape.clone())]);
    let lora = Lora::open(File::new(tensors).path(), &model).unwrap();
    let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    let bytes = fusion.fuse(name, base.view()).unwrap();
    floats(&Tensor {
        data: bytes,
        ..base.clone()
    })
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    let values = crate::tensor::to_f32(tensor.dtype, &tensor.data).unwrap();
    values.into_iter().map(f64::from).collect()
}

fn close(actual: &[f64], expected: &[f64], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (a, e) in actual.iter().zip(expected) {
        assert!(
            (a - e).abs() < 1e-5 * (1.0 + e.abs()),
            "{what}: {a} is not {e}"
        );
    }
}

fn named(module: &str, tensors: Vec<(&str, Tensor)>) -> Vec<(String, Tensor)> {
    let name = |(part, t): (&str, Tensor)| (format!("{module}.{part}"), t);
    tensors.into_iter().map(name).collect()
}

/// `LoRAAdapter.load`: each pair of names; `calculate_weight`: alpha by the rank of the down projection, 1 without one.
#[test]
fn every_pair_of_names_gives_the_product_by_its_scale() {
    let (out, input, rank) = (3, 4, 2);
    let base = drawn(&[out, input], 1);
    let (up, down) = (drawn(&[out, rank], 2), drawn(&[rank, input], 3));
    let (w, u, d) = (floats(&base), floats(&up), floats(&down));
    for (ups, downs) in [
        (".lora_up.weight", ".lora_down.weight"),
        ("_lora.up.weight", "_lora.down.weight"),
        (".lora_B.weight", ".lora_A.weight"),
        (".lora.up.weight", ".lora.down.weight"),
        (".lora_B", ".lora_A"),
        (
            ".lora_linear_layer.up.weight",
            ".lora_linear_layer.down.weight",
        ),
        (".lora_B.default.weight", ".lora_A.default.weight"),
    ] {
        for alpha in [None, Some(3.0f32), Some(0.0)] {
            let mut tensors = vec![
                (format!("unet.a.to_q{ups}"), up.clone()),
                (format!("unet.a.to_q{downs}"), down.clone()),
            ];
            tensors.extend(alpha.map(|a| ("unet.a.to_q.alpha".to_owned(), f32s(&[], &[a]))));
            let scale = alpha.map_or(1.0, |a| f64::from(a) / rank as f64);
            let expected: Vec<f64> = (0..out * input)
                .map(|at| {
                    let (o, i) = (at / input, at % input);
                    w[at]
                        + scale
                            * (0..rank)
                                .map(|r| u[o * rank + r] * d[r * input + i])
                                .sum::<f64>()
                })
                .collect();
            let what = format!("{ups} {alpha:?}");
            close(
                &new_values(&tensors, "a.to_q.weight", &base),
                &expected,
                &what,
            );
        }
    }
}

/// `LoRAAdapter.calculate_weight` with a core; the product is given the weight's shape, whichever of the two is flat.
#[test]
fn cores_and_kernels_are_laid_out_as_there() {
    let (o, i, k, r, s) = (3, 2, 2, 2, 3);
    let base = drawn(&[o, i, k, k], 1);
    let (up, mid, down) = (
        drawn(&[o, r, 1, 1], 2),
        drawn(&[r, s, k, k], 3),
        drawn(&[s, i, 1, 1], 4),
    );
    let (w, u, m, d) = (floats(&base), floats(&up), floats(&mid), floats(&down));
    let alpha = 1.5;
    let expected: Vec<f64> = (0..w.len())
        .map(|at| {
            let (row, column, cell) = (at / (i * k * k), at / (k * k) % i, at % (k * k));
            let sum: f64 = (0..r)
                .flat_map(|a| (0..s).map(move |b| (a, b)))
                .map(|(a, b)| m[(a * s + b) * k * k + cell] * u[row * r + a] * d[b * i + column])
                .sum();
            w[at] + alpha / s as f64 * sum
        })
        .collect();
    let tensors = named(
        "lora_unet_a",
        vec![
            ("lora_up.weight", up),
            ("lora_mid.weight", mid),
            ("lora_down.weight", down),
            ("alpha", f32s(&[], &[alpha as f32])),
        ],
    );
    close(&new_values(&tensors, "a.weight", &base), &expected, "core");
    // A kernel there, one row here, and the other way round.
    let flat = Tensor {
        shape: vec![o, i * k * k],
        ..base.clone()
    };
    close(
        &new_values(&tensors, "a.weight", &flat),
        &expected,
        "a flat weight",
    );
    let (up, kernels) = (drawn(&[o, r], 5), drawn(&[r, i, k, k], 6));
    let rows = Tensor {
        shape: vec![r, i * k * k],
        ..kernels.clone()
    };
    let of = |down: Tensor, base: &Tensor| {
        let tensors = named(
            "lora_unet_a",
            vec![("lora_up.weight", up.clone()), ("lora_down.weight", down)],
        );
        new_values(&tensors, "a.weight", base)
    };
    close(
        &of(kernels.clone(), &flat),
        &of(rows.clone(), &base),
        "flattened",
    );
    close(&of(kernels, &base), &of(rows, &flat), "either way");
}

/// `einsum("i j k l, j r, i p -> p r k l", t, b, a)` for cores of rank 2 and kernels of 2 by 2: `[p, r]` with its kernels.
fn rebuilt(t: &Tensor, a: &Tensor, b: &Tensor) -> Vec<f64> {
    let (p, q) = (a.shape[1], b.shape[1]);
    let (t, a, b) = (floats(t), floats(a), floats(b));
    let one = |at: usize| {
        let (row, column, c) = (at / (q * 4), at / 4 % q, at % 4);
        let term = |x: usize, y: usize| t[(x * 2 + y) * 4 + c] * b[y * q + column] * a[x * p + row];
        term(0, 0) + term(0, 1) + term(1, 0) + term(1, 1)
    };
    (0..p * q * 4).map(one).collect()
}

/// `LoHaAdapter.calculate_weight`: with cores, and by the rank of the first product.
#[test]
fn hadamard_products_with_cores_are_scaled_as_there() {
    let (o, i) = (4, 6);
    let base = drawn(&[o, i, 2, 2], 1);
    let w = floats(&base);
    let shapes: [&[usize]; 6] = [
        &[2, o],
        &[2, i],
        &[2, 2, 2, 2],
        &[2, o],
        &[2, i],
        &[2, 2, 2, 2],
    ];
    let all: Vec<Tensor> = shapes
        .iter()
        .zip(2..)
        .map(|(s, seed)| drawn(s, seed))
        .collect();
    let (m1, m2) = (
        rebuilt(&all[2], &all[0], &all[1]),
        rebuilt(&all[5], &all[3], &all[4]),
    );
    let changed = |at: usize| w[at] + 3.0 / 2.0 * m1[at] * m2[at];
    let expected: Vec<f64> = (0..w.len()).map(changed).collect();
    let names = [
        "hada_w1_a",
        "hada_w1_b",
        "hada_t1",
        "hada_w2_a",
        "hada_w2_b",
        "hada_t2",
    ];
    let mut parts: Vec<(&str, Tensor)> = names.into_iter().zip(all).collect();
    parts.push(("alpha", f32s(&[], &[3.0])));
    close(
        &new_values(&named("lora_unet_a", parts), "a.weight", &base),
        &expected,
        "LoHa",
    );
}

/// The product of `[rows, 2]` and `[2, …]`.
fn product(x: &Tensor, y: &Tensor) -> Vec<f64> {
    let columns: usize = y.shape[1..].iter().product();
    let (rows, x, y) = (x.shape[0], floats(x), floats(y));
    let one = |at: usize| {
        let (r, c) = (at / columns, at % columns);
        x[r * 2] * y[c] + x[r * 2 + 1] * y[columns + c]
    };
    (0..rows * columns).map(one).collect()
}

/// `LoKrAdapter.calculate_weight`: each factor whole, a product, or a product with a core; alpha counts by the rank of what is a
/// product, and not at all where both are whole.
#[test]
fn kronecker_products_are_scaled_as_there() {
    // `w1` is [2, 3], `w2` [2, 2, kernel].
    let base = drawn(&[4, 6, 2, 2], 1);
    let w = floats(&base);
    let t = |shape: &[usize], seed| drawn(shape, seed);
    let (whole1, whole2) = (t(&[2, 3], 8), t(&[2, 2, 2, 2], 11));
    let (left1, right1) = (t(&[2, 2], 9), t(&[2, 3], 10));
    let (left2, right2) = (t(&[2, 2], 12), t(&[2, 2, 2, 2], 13));
    let (core, left3, right3) = (t(&[2, 2, 2, 2], 14), t(&[2, 2], 15), t(&[2, 2], 16));
    let firsts = [
        (floats(&whole1), vec![("lokr_w1", whole1)]),
        (
            product(&left1, &right1),
            vec![("lokr_w1_a", left1), ("lokr_w1_b", right1)],
        ),
    ];
    let seconds = [
        (floats(&whole2), vec![("lokr_w2", whole2)]),
        (
            product(&left2, &right2),
            vec![("lokr_w2_a", left2), ("lokr_w2_b", right2)],
        ),
        (
            rebuilt(&core, &left3, &right3),
            vec![
                ("lokr_w2_a", left3),
                ("lokr_w2_b", right3),
                ("lokr_t2", core),
            ],
        ),
    ];
    for (w1, first) in &firsts {
        for (w2, second) in &seconds {
            let count = first.len() + second.len();
            let scale = if count == 2 { 1.0 } else { 3.0 / 2.0 };
            let changed = |at: usize| {
                let (row, column, c) = (at / 24, at / 4 % 6, at % 4);
                let outer = w1[row / 2 * 3 + column / 2];
                w[at] + scale * outer * w2[(row % 2 * 2 + column % 2) * 4 + c]
            };
            let expected: Vec<f64> = (0..w.len()).map(changed).collect();
            let mut parts: Vec<(&str, Tensor)> = first.iter().chain(second).cloned().collect();
            parts.push(("alpha", f32s(&[], &[3.0])));
            let what = format!("LoKr of {count} tensors");
            close(
                &new_values(&named("lycoris_a", parts), "a.weight", &base),
                &expected,
                &what,
            );
        }
    }
}

/// `weight_decompose`: per input the norm is of the changed weight, over outputs and kernels. Per output ComfyUI divides by the norm of
/// the weight before the change; the trainers (LyCORIS, PEFT) by that of the changed weight, which is taken here.
#[test]
fn magnitudes_are_of_the_changed_weight() {
    let (o, i, k, r) = (3, 2, 2, 2);
    let base = drawn(&[o, i, k, k], 1);
    let (up, down) = (drawn(&[o, r, 1, 1], 2), drawn(&[r, i, k, k], 3));
    let (w, u, d) = (floats(&base), floats(&up), floats(&down));
    let width = i * k * k;
    let v: Vec<f64> = (0..w.len())
        .map(|at| {
            w[at]
                + 0.5
                    * (0..r)
                        .map(|n| u[at / width * r + n] * d[n * width + at % width])
                        .sum::<f64>()
        })
        .collect();
    for (shape, group) in [(vec![1, i, 1, 1], false), (vec![o, 1, 1, 1], true)] {
        let scales = drawn(&shape, 4);
        let m = floats(&scales);
        let of = |at: usize| if group { at / width } else { at / (k * k) % i };
        let mut squares = vec![0.0; m.len()];
        for (at, x) in v.iter().enumerate() {
            squares[of(at)] += x * x;
        }
        let eps = f64::from(f32::EPSILON);
        let expected: Vec<f64> = (v.iter().enumerate())
            .map(|(at, x)| x * m[of(at)] / (squares[of(at)].sqrt() + eps))
            .collect();
        let tensors = named(
            "lora_unet_a",
            vec![
                ("lora_up.weight", up.clone()),
                ("lora_down.weight", down.clone()),
                ("alpha", f32s(&[], &[1.0])),
                ("dora_scale", scales),
            ],
        );
        close(
            &new_values(&tensors, "a.weight", &base),
            &expected,
            &format!("{shape:?}"),
        );
    }
}

/// `load_lora`: differences and replacements, of weights, biases, norms and of parameters that are neither.
#[test]
fn differences_and_replacements_reach_every_parameter() {
    let model = targets(&[
        ("a.weight", &[2, 3]),
        ("a.bias", &[2]),
        ("norm.weight", &[3]),
        ("norm.bias", &[3]),
        ("blocks.0.modulation", &[1, 6, 2]),
    ]);
    for (key, shape, weight) in [
        ("diffusion_model.a.diff", &[2, 3][..], "a.weight"),
        ("diffusion_model.a.diff_b", &[2], "a.bias"),
        ("diffusion_model.a.bias.diff", &[2], "a.bias"),
        ("diffusion_model.norm.w_norm", &[3], "norm.weight"),
        ("diffusion_model.norm.b_norm", &[3], "norm.bias"),
        ("diffusion_model.norm.diff", &[3], "norm.weight"),
        (
            "diffusion_model.blocks.0.modulation.diff",
            &[1, 6, 2],
            "blocks.0.modulation",
        ),
        ("diffusion_model.a.set_weight", &[2, 3], "a.weight"),
        ("diffusion_model.a.bias.set_weight", &[2], "a.bias"),
        (
            "diffusion_model.blocks.0.modulation.set_weight",
            &[1, 6, 2],
            "blocks.0.modulation",
        ),
    ] {
        let (base, given) = (drawn(shape, 1), drawn(shape, 2));
        let lora =
            Lora::open(File::new(&[(key.to_owned(), given.clone())]).path(), &model).unwrap();
        assert_eq!(lora.targets().collect::<Vec<_>>(), [weight], "{key}");
        let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
        let new = fusion.fuse(weight, base.view()).unwrap();
        let new = floats(&Tensor {
            data: new,
            ..base.clone()
        });
        let sums = floats(&base).into_iter().zip(floats(&given));
        let expected: Vec<f64> = sums
            .map(|(w, d)| {
                if key.ends_with("set_weight") {
                    d
                } else {
                    w + d
                }
            })
            .collect();
        close(&new, &expected, key);
    }
    // ComfyUI takes the replacement and drops the rest: neither is lost here.
    let mut both = pair("diffusion_model.a", 2, 3);
    both.push(("diffusion_model.a.set_weight".into(), drawn(&[2, 3], 5)));
    let e = Lora::open(File::new(&both).path(), &model).unwrap_err();
    assert!(e.to_string().contains("changed as well"), "{e}");
}

/// `convert_uso_lora` and `model_lora_keys_unet`'s `linear1_qkv`: XLabs' attention of a single block is the first three parts of
/// `linear1`, on a model in Black Forest Labs' names.
#[test]
fn xlabs_single_blocks_go_to_the_first_rows_of_linear1() {
    let (hidden, mlp, rank) = (2, 6, 2);
    let model = targets(&[
        ("double_blocks.0.img_attn.qkv.weight", &[3 * hidden, hidden]),
        ("double_blocks.0.img_attn.proj.weight", &[hidden, hidden]),
        (
            "single_blocks.0.linear1.weight",
            &[3 * hidden + mlp, hidden],
        ),
        ("single_blocks.0.linear2.weight", &[hidden, hidden + mlp]),
    ]);
    let (up, down) = (drawn(&[3 * hidden, rank], 1), drawn(&[rank, hidden], 2));
    let tensors = [
        (
            "single_blocks.0.processor.qkv_lora.up.weight".to_owned(),
            up.clone(),
        ),
        (
            "single_blocks.0.processor.qkv_lora.down.weight".to_owned(),
            down.clone(),
        ),
    ];
    let lora = Lora::open(File::new(&tensors).path(), &model).unwrap();
    assert_eq!(
        lora.targets().collect::<Vec<_>>(),
        ["single_blocks.0.linear1.weight"]
    );
    let base = drawn(&[3 * hidden + mlp, hidden], 3);
    let fusion = Fusion::new(vec![(lora, 1.0)], Fuse::Exact).unwrap();
    let new = fusion
        .fuse("single_blocks.0.linear1.weight", base.view())
        .unwrap();
    let new = floats(&Tensor {
        data: new,
        ..base.clone()
    });
    let (w, u, d) = (floats(&base), floats(&up), floats(&down));
    let expected: Vec<f64> = (0..w.len())
        .map(|at| {
            let (o, i) = (at / hidden, at % hidden);
            let sum = |o: usize| {
                (0..rank)
                    .map(|r| u[o * rank + r] * d[r * hidden + i])
                    .sum::<f64>()
            };
            w[at] + if o < 3 * hidden { sum(o) } else { 0.0 }
        })
        .collect();
    close(&new, &expected, "linear1");
    // Another height is no attention of this model.
    let wrong = [
        (
            "single_blocks.0.processor.qkv_lora.up.weight".to_owned(),
            drawn(&[3 * hidden + 3, rank], 1),
        ),
        (
            "single_blocks.0.processor.qkv_lora.down.weight".to_owned(),
            down,
        ),
    ];
    let e = Lora::open(File::new(&wrong).path(), &model).unwrap_err();
    assert_eq!(e.code(), "lora-shape", "{e}");
    for (module, weight) in [
        (
            "double_blocks.0.processor.qkv_lora1",
            "double_blocks.0.img_attn.qkv.weight",
        ),
        (
            "double_blocks.0.processor.proj_lora1",
            "double_blocks.0.img_attn.proj.weight",
        ),
        (
            "single_blocks.0.processor.proj_lora",
            "single_blocks.0.linear2.weight",
        ),
    ] {
        let shape = &model[weight];
        let tensors = [
            (format!("{module}.up.weight"), drawn(&[shape[0], rank], 1)),
            (format!("{module}.down.weight"), drawn(&[rank, shape[1]], 2)),
        ];
        let lora = Lora::open(File::new(&tensors).path(), &model).unwrap();
        assert_eq!(lora.targets().collect::<Vec<_>>(), [weight]);
    }
}

/// `convert_lora_bfl_control`: biases are added, norms replaced; the shape of `img_in` is the widened model's.
#[test]
fn control_loras_of_flux_are_read_where_nothing_is_widened() {
    let model = targets(&[
        ("img_in.weight", &[4, 6]),
        ("img_in.bias", &[4]),
        ("single_blocks.0.norm.key_norm.weight", &[2]),
    ]);
    let file = |input: usize| {
        File::new(&[
            ("img_in.lora_A.weight".to_owned(), drawn(&[2, input], 1)),
            ("img_in.lora_B.weight".to_owned(), drawn(&[4, 2], 2)),
            ("img_in.lora_B.bias".to_owned(), drawn(&[4], 3)),
            (
                "single_blocks.0.norm.key_norm.scale".to_owned(),
                drawn(&[2], 4),
            ),
        ])
    };
    let lora = Lora::open(file(6).path(), &model).unwrap();
    assert_eq!(lora.targets().len(), 3);
    let e = Lora::open(file(8).path(), &model).unwrap_err();
    assert_eq!(e.code(), "lora-shape", "{e}");
    let mut tensors = pair("diffusion_model.img_in", 4, 8);
    let shape = Tensor {
        dtype: Dtype::I64,
        shape: vec![2],
        data: [4i64, 8].iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    tensors.push(("diffusion_model.img_in.reshape_weight".into(), shape));
    let e = Lora::open(File::new(&tensors).path(), &model).unwrap_err();
    assert!(e.to_string().contains("reshaped weight"), "{e}");
}

/// What is no LoRA, and LoRAs in names of authors that no table knows, are refused in one message.
#[test]
fn what_is_not_read_is_refused() {
    let model = targets(&[
        ("transformer_blocks.0.attn.to_q.weight", &[4, 6]),
        ("transformer_blocks.0.ff.gate.weight", &[4, 6]),
    ]);
    for module in [
        "diffusion_model.pieces.0.attn.wq",
        "base_model.model.pieces.0.mlp.gate",
    ] {
        let e = Lora::open(File::new(&pair(module, 4, 6)).path(), &model).unwrap_err();
        assert_eq!(e.code(), "lora-unmatched", "{e}");
    }
    for (what, key) in [
        (
            "Custom Diffusion",
            "unet.transformer_blocks.0.attn.processor.to_k_custom_diffusion.weight",
        ),
        ("IP-Adapter", "ip_adapter.1.to_k_ip.weight"),
        ("textual inversion", "emb_params"),
        ("Control-LoRA", "time_embed.0.up"),
    ] {
        let e = Lora::open(
            File::new(&[(key.to_owned(), drawn(&[4, 6], 1))]).path(),
            &model,
        )
        .unwrap_err();
        assert_eq!(e.code(), "lora-none", "{what}: {e}");
    }
}
