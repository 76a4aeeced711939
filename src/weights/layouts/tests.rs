//! Every recorded row of every public converter is what our tables say, and whole files are read as
//! they are passed around.

mod comfyui;

use super::table::{Hit, Turn};
use super::*;
use crate::fault::Explain;
use crate::tensor::{Dtype, Tensor};
use crate::weights::Source;
use crate::weights::source::tests::write_tensors;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

/// A file of `fixtures/names/recorded.zip` (its README says where the rows come from), by its
/// headings.
pub(crate) fn recorded(file: &str) -> Vec<(String, Vec<String>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/names/recorded.zip");
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut text = String::new();
    zip.by_name(file)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("## ") {
            Some(name) => sections.push((name.to_owned(), Vec::new())),
            None => sections.last_mut().unwrap().1.push(line.to_owned()),
        }
    }
    sections
}

/// A recorded row: target, source, operation.
pub(crate) type Recorded = (String, String, String);

/// `TO = FROM [op] [first..last]` for every index.
pub(crate) fn expand(line: &str) -> Vec<Recorded> {
    let (to, rest) = line.split_once(" = ").unwrap();
    let mut words: Vec<&str> = rest.split(' ').collect();
    let range = words.last().and_then(|w| w.split_once(".."));
    let indices: Vec<Option<u32>> = match range {
        None => vec![None],
        Some((a, b)) => {
            words.pop();
            (a.parse().unwrap()..=b.parse().unwrap())
                .map(Some)
                .collect()
        }
    };
    let (from, op) = (words[0], words[1..].join(" "));
    (indices.into_iter())
        .map(|i| {
            let at = |s: &str| match i {
                None => s.to_owned(),
                Some(i) => s.replace("{i}", &i.to_string()),
            };
            (at(to), at(from), op.clone())
        })
        .collect()
}

/// Rows `p/d..q/d` with the smallest denominator.
fn fraction(p: usize, q: usize, d: usize) -> String {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let g = gcd(gcd(p, q), d);
    format!("rows {} {} {}", p / g, q / g, d / g)
}

fn rows_of(hit: &Hit, from: &str) -> Vec<Recorded> {
    let total = hit.heights.iter().sum();
    let mut first = 0;
    (hit.to.iter().zip(&hit.heights))
        .map(|(to, height)| {
            first += height;
            let op = match hit.turn {
                _ if hit.to.len() > 1 => fraction(first - height, first, total),
                Turn::SwapHalves => "swap".into(),
                Turn::Transpose => "transpose".into(),
                Turn::Linear if to.ends_with("weight") => "reshape".into(),
                _ => String::new(),
            };
            (to.clone(), from.to_owned(), op)
        })
        .collect()
}

#[test]
fn every_family_is_recognised_and_its_rows_are_those_recorded() {
    let sections = recorded("models.txt");
    assert_eq!(sections.len(), 54);
    let mut total = 0;
    for (family, lines) in sections {
        let unused: BTreeSet<&str> = (lines.iter())
            .filter_map(|l| l.strip_prefix("unused "))
            .collect();
        let mut want: BTreeSet<Recorded> = BTreeSet::new();
        let mut identities = BTreeSet::new();
        for line in lines.iter().filter(|l| !l.starts_with("unused ")) {
            for (to, from, op) in expand(line) {
                let op = match op.strip_prefix("rows ") {
                    Some(cut) => {
                        let n: Vec<usize> = cut.split(' ').map(|n| n.parse().unwrap()).collect();
                        fraction(n[0], n[1], n[2])
                    }
                    None => op,
                };
                if op == "identity" {
                    identities.insert(to);
                } else {
                    want.insert((to, from, op));
                }
            }
        }
        let names: BTreeSet<&str> = (want.iter().map(|(_, f, _)| f.as_str()))
            .chain(unused.iter().copied())
            .collect();
        // A record is of diffusers' or transformers' names.
        let fitting: Vec<(&Table, &str)> = (tables().iter())
            .filter(|t| !t.writes.starts_with("ComfyUI"))
            .flat_map(|t| {
                let found = t.prefixes(names.iter().copied(), |n| names.contains(n));
                found.into_iter().map(move |p| (t, p))
            })
            .collect();
        let [(table, prefix)] = fitting[..] else {
            panic!(
                "{family}: {:?}",
                fitting
                    .iter()
                    .map(|(t, p)| (&t.family, p))
                    .collect::<Vec<_>>()
            );
        };
        let own = || names.iter().filter_map(|n| n.strip_prefix(prefix));
        let parameters = table.parameters(&own(), &std::iter::empty());
        let mut have = BTreeSet::new();
        for name in own() {
            let from = format!("{prefix}{name}");
            // Block 23 of OpenCLIP-H, which diffusers leaves out, is read here: ComfyUI keeps it.
            assert!(
                !table.is_unused(name)
                    || unused.contains(from.as_str())
                    || name.ends_with("position_ids")
            );
            if unused.contains(from.as_str()) {
                continue;
            }
            let Some(hit) = table.translate(name, &parameters) else {
                panic!("{family}: nothing for `{from}`");
            };
            have.extend(rows_of(&hit, &from));
        }
        if family.ends_with("_flat") {
            let bare =
                |(to, f, o): Recorded| (to.trim_start_matches("text_model.").to_owned(), f, o);
            have = have.into_iter().map(bare).collect();
        }
        let only = |a: &BTreeSet<Recorded>, b: &BTreeSet<Recorded>| a.difference(b).next().cloned();
        assert_eq!(only(&want, &have), None, "{family}: recorded and not ours");
        assert_eq!(only(&have, &want), None, "{family}: ours and not recorded");
        for to in identities {
            assert!(table.identities().any(|(t, _)| t == to), "{family}: `{to}`");
        }
        total += want.len();
    }
    assert_eq!(total, 39_346);
}

fn source(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Arc<Source> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let owned: Vec<(String, Tensor)> = (tensors.iter())
        .map(|(name, dtype, shape, data)| {
            let (dtype, shape, data) = (*dtype, shape.to_vec(), data.clone());
            ((*name).to_owned(), Tensor { dtype, shape, data })
        })
        .collect();
    write_tensors(&path, &owned);
    Arc::new(Source::open(&path).unwrap())
}

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Tensors of consecutive numbers, each starting where the last ended.
fn numbered(shapes: &[(&'static str, &'static [usize])]) -> Arc<Source> {
    let mut next = 0f32;
    let tensors: Vec<(&str, Dtype, &[usize], Vec<u8>)> = (shapes.iter())
        .map(|(name, shape)| {
            let count = shape.iter().product::<usize>();
            let data = f32s((0..count).map(|i| next + i as f32));
            next += count as f32;
            (*name, Dtype::F32, *shape, data)
        })
        .collect();
    source(&tensors)
}

fn wanted(shapes: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
    let owned = shapes.iter().map(|(n, s)| ((*n).to_owned(), s.to_vec()));
    owned.collect()
}

fn values(view: &View, name: &str) -> Vec<f32> {
    let tensor = view.get(name).unwrap_or_else(|| panic!("{name}"));
    crate::tensor::to_f32(tensor.dtype, tensor.data).unwrap()
}

const BFL: &[(&str, &[usize])] = &[
    ("img_in.weight", &[4, 2]),
    ("double_blocks.0.img_attn.norm.key_norm.scale", &[2]),
    ("double_blocks.0.img_attn.qkv.weight", &[12, 4]),
    ("final_layer.adaLN_modulation.1.bias", &[4]),
    ("single_blocks.0.linear1.weight", &[10, 2]),
];

const DIFFUSERS: &[(&str, &[usize])] = &[
    ("x_embedder.weight", &[4, 2]),
    ("transformer_blocks.0.attn.norm_k.weight", &[2]),
    ("transformer_blocks.0.attn.to_q.weight", &[4, 4]),
    ("transformer_blocks.0.attn.to_k.weight", &[4, 4]),
    ("transformer_blocks.0.attn.to_v.weight", &[4, 4]),
    ("norm_out.linear.bias", &[4]),
    // An MLP that is two times as wide, not four: the model says where to cut.
    ("single_transformer_blocks.0.attn.to_q.weight", &[2, 2]),
    ("single_transformer_blocks.0.attn.to_k.weight", &[2, 2]),
    ("single_transformer_blocks.0.attn.to_v.weight", &[2, 2]),
    ("single_transformer_blocks.0.proj_mlp.weight", &[4, 2]),
];

#[test]
fn a_file_of_the_first_authors_is_read_in_the_models_names() {
    let view = open_in_layout(numbered(BFL), &wanted(DIFFUSERS), None).unwrap();
    assert_eq!(view.family(), Some("flux"));
    assert_eq!(view.names().count(), DIFFUSERS.len());
    let k = "transformer_blocks.0.attn.to_k.weight";
    assert_eq!(
        values(&view, k),
        (26..42).map(|n| n as f32).collect::<Vec<_>>()
    );
    assert_eq!(view.sources_of(k), ["double_blocks.0.img_attn.qkv.weight"]);
    assert_eq!(view.op_of(k), Some(&Op::Rows { from: 4, to: 8 }));
    assert_eq!(
        values(&view, "norm_out.linear.bias"),
        [60.0, 61.0, 58.0, 59.0]
    );
    let mlp = values(&view, "single_transformer_blocks.0.proj_mlp.weight");
    assert_eq!(mlp, (74..82).map(|n| n as f32).collect::<Vec<_>>());
}

#[test]
fn a_file_of_diffusers_is_read_in_the_first_authors_names() {
    let there = numbered(BFL);
    let file = {
        let view = open_in_layout(there.clone(), &wanted(DIFFUSERS), None).unwrap();
        let tensors: Vec<(&str, Dtype, &[usize], Vec<u8>)> = (DIFFUSERS.iter())
            .map(|(n, shape)| (*n, Dtype::F32, *shape, view.get(n).unwrap().data.to_vec()))
            .collect();
        source(&tensors)
    };
    let wrapped: Vec<(String, Vec<usize>)> = (BFL.iter())
        .map(|(n, s)| (format!("m.{n}"), s.to_vec()))
        .collect();
    let back = open_in_layout(file, &wrapped, None).unwrap();
    for (name, _) in BFL {
        assert_eq!(
            back.get(name).unwrap().data,
            there.get(name).unwrap().data,
            "{name}"
        );
    }
    let qkv = "double_blocks.0.img_attn.qkv.weight";
    assert_eq!(back.op_of(qkv), Some(&Op::Concat));
    assert_eq!(back.sources_of(qkv).len(), 3);
}

#[test]
fn a_whole_pipeline_gives_one_component_and_counts_the_others() {
    let file = numbered(&[
        (
            "model.diffusion_model.input_blocks.0.0.weight",
            &[2, 1, 1, 1],
        ),
        (
            "model.diffusion_model.middle_block.0.in_layers.0.weight",
            &[2],
        ),
        ("model.diffusion_model.strange.weight", &[3]),
        ("first_stage_model.decoder.conv_in.weight", &[2, 1, 1, 1]),
        ("first_stage_model.decoder.up.0.block.0.norm1.weight", &[2]),
        ("model_ema.diffusion_modelinput_blocks00weight", &[2]),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            &[2],
        ),
        ("alphas_cumprod", &[3]),
        ("unheard.of", &[3]),
    ]);
    let unet = wanted(&[
        ("m.conv_in.weight", &[2, 1, 1, 1]),
        ("m.mid_block.resnets.0.norm1.weight", &[2]),
    ]);
    let view = open_in_layout(file, &unet, None).unwrap();
    assert_eq!(view.family(), Some("sd_unet"));
    // What the table does not know is not lost from sight.
    assert_eq!(
        view.names().collect::<Vec<_>>(),
        [
            "conv_in.weight",
            "mid_block.resnets.0.norm1.weight",
            "model.diffusion_model.strange.weight",
            "unheard.of"
        ]
    );
    let counts: BTreeMap<&str, usize> = view
        .components()
        .iter()
        .map(|(c, n)| (c.as_str(), *n))
        .collect();
    let expected = [("ema", 1), ("schedule", 1), ("text-encoder", 1), ("vae", 2)];
    assert_eq!(counts, expected.into_iter().collect());
}

#[test]
fn nothing_is_left_out_of_a_file_that_no_table_knows() {
    let file = numbered(&[
        ("transformer.h.0.weight", &[2]),
        ("transformer.h.1.weight", &[2]),
        ("vae.x", &[1]),
    ]);
    let view = open_in_layout(file, &wanted(&[("transformer.h.0.weight", &[2])]), None).unwrap();
    assert_eq!(view.names().count(), 3);
    assert!(view.components().is_empty());
}

#[test]
fn a_coincidence_of_names_renames_nothing() {
    let shapes: Vec<(String, Vec<usize>)> = (0..20)
        .map(|i| (format!("h.{i}.q.weight"), vec![2]))
        .collect();
    let mut model = shapes.clone();
    model.push(("conv_in.weight".into(), vec![1]));
    let mut tensors: Vec<(String, Tensor)> = (0..20)
        .map(|i| {
            let data = f32s([0.0, 1.0]);
            (
                format!("x.{i}.k.weight"),
                Tensor {
                    dtype: Dtype::F32,
                    shape: vec![2],
                    data,
                },
            )
        })
        .collect();
    let data = f32s([0.0]);
    tensors.push((
        "x.conv_in.weight".into(),
        Tensor {
            dtype: Dtype::F32,
            shape: vec![1],
            data,
        },
    ));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write_tensors(&path, &tensors);
    let view = open_in_layout(Arc::new(Source::open(&path).unwrap()), &model, None).unwrap();
    assert!(
        view.names().all(|n| n.starts_with("x.")),
        "{:?}",
        view.names().collect::<Vec<_>>()
    );
    // The same names in a file that is the model's are its own under the prefix.
    let own: Vec<(String, Tensor)> = (tensors.into_iter().zip(&model))
        .map(|((_, t), (name, _))| (format!("x.{name}"), t))
        .collect();
    write_tensors(&path, &own);
    let view = open_in_layout(Arc::new(Source::open(&path).unwrap()), &model, None).unwrap();
    assert_eq!(view.names().count(), 21);
    assert!(view.names().all(|n| !n.starts_with("x.")));
}

#[test]
fn two_parts_that_fit_are_a_question() {
    let file = numbered(&[
        ("text_encoder.text_model.final_layer_norm.weight", &[2]),
        ("text_encoder_2.text_model.final_layer_norm.weight", &[2]),
    ]);
    let te = wanted(&[("text_model.final_layer_norm.weight", &[2])]);
    let error = open_in_layout(file.clone(), &te, None).unwrap_err();
    assert!(
        matches!(&error, Error::Components { components, .. } if components.len() == 2),
        "{error}"
    );
    // The hint leads to an answer.
    assert!(
        error.hints()[0].contains("--component text-encoder`"),
        "{:?}",
        error.hints()
    );
    for (component, first) in [
        ("text-encoder", 0.0),
        ("text-encoder-2", 2.0),
        ("text_encoder_2", 2.0),
    ] {
        let view = open_in_layout(file.clone(), &te, Some(component)).unwrap();
        assert_eq!(
            values(&view, "text_model.final_layer_norm.weight")[0],
            first,
            "{component}"
        );
    }
    let error = open_in_layout(file, &te, Some("vae")).unwrap_err();
    assert!(
        matches!(&error, Error::NoComponent { fitting, .. } if fitting.len() == 2),
        "{error}"
    );
}

#[test]
fn two_of_one_kind_are_called_by_their_prefixes() {
    let file = numbered(&[
        ("a.text_model.x.weight", &[2]),
        ("b.text_model.x.weight", &[2]),
    ]);
    let te = wanted(&[("text_model.x.weight", &[2])]);
    let error = open_in_layout(file.clone(), &te, None).unwrap_err();
    assert!(
        matches!(&error, Error::Components { components, .. } if components == &["a", "b"]),
        "{error}"
    );
    let view = open_in_layout(file, &te, Some("b")).unwrap();
    assert_eq!(values(&view, "text_model.x.weight"), [2.0, 3.0]);
}

#[test]
fn an_odd_stack_matters_only_where_it_is_meant() {
    let file = numbered(&[
        ("model.diffusion_model.img_in.weight", &[2]),
        (
            "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale",
            &[2],
        ),
        (
            "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
            &[4, 2],
        ),
        ("vae.decoder.conv_in.weight", &[2]),
        ("vae.decoder.up.0.block.0.norm1.weight", &[2]),
    ]);
    let vae = wanted(&[
        ("decoder.conv_in.weight", &[2]),
        ("decoder.up_blocks.0.resnets.0.norm1.weight", &[2]),
    ]);
    assert_eq!(
        open_in_layout(file.clone(), &vae, None).unwrap().family(),
        Some("vae")
    );
    let flux = wanted(&[
        ("x_embedder.weight", &[2]),
        ("transformer_blocks.0.attn.norm_k.weight", &[2]),
    ]);
    let error = open_in_layout(file, &flux, None).unwrap_err();
    assert!(matches!(&error, Error::Uncut { parts: 3, .. }), "{error}");
}

#[test]
fn widths_tell_two_text_encoders_apart() {
    let file = numbered(&[
        (
            "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
            &[4, 2],
        ),
        (
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
            &[2],
        ),
        (
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
            &[9, 3],
        ),
        ("conditioner.embedders.1.model.ln_final.weight", &[3]),
        ("conditioner.embedders.1.model.text_projection", &[3, 5]),
        ("conditioner.embedders.1.model.logit_scale", &[]),
    ]);
    let first = wanted(&[
        ("embeddings.position_embedding.weight", &[4, 2]),
        ("final_layer_norm.weight", &[2]),
    ]);
    let view = open_in_layout(file.clone(), &first, None).unwrap();
    assert_eq!(values(&view, "final_layer_norm.weight"), [8.0, 9.0]);
    assert_eq!(view.components()["text-encoder-2"], 4);
    let second = wanted(&[
        ("text_model.final_layer_norm.weight", &[3]),
        (
            "text_model.encoder.layers.0.self_attn.k_proj.weight",
            &[3, 3],
        ),
        ("text_projection.weight", &[5, 3]),
    ]);
    let view = open_in_layout(file, &second, None).unwrap();
    assert_eq!(view.family(), Some("openclip"));
    assert_eq!(view.describe("text_projection.weight").unwrap().1, [5, 3]);
    let p = values(&view, "text_projection.weight");
    assert_eq!(&p[..4], [40.0, 45.0, 50.0, 41.0]);
    assert_eq!(view.components()["unused by this layout"], 1);
}

#[test]
fn half_an_autoencoder_is_enough() {
    let file = numbered(&[
        ("vae.encoder.conv_in.weight", &[2, 1, 1, 1]),
        ("vae.decoder.conv_in.weight", &[2, 1, 1, 1]),
        ("vae.decoder.up.0.block.0.norm1.weight", &[2]),
        ("vae.decoder.up.1.block.0.norm1.weight", &[3]),
        ("vae.decoder.mid.attn_1.q.weight", &[2, 2, 1, 1]),
        ("vae.quant_conv.bias", &[1]),
        ("vae.post_quant_conv.bias", &[1]),
    ]);
    let decoder = wanted(&[
        ("m.decoder.conv_in.weight", &[2, 1, 1, 1]),
        ("m.decoder.up_blocks.0.resnets.0.norm1.weight", &[3]),
        ("m.decoder.mid_block.attentions.0.to_q.weight", &[2, 2]),
        ("m.post_quant_conv.bias", &[1]),
    ]);
    let view = open_in_layout(file.clone(), &decoder, None).unwrap();
    assert_eq!(view.components()["encoder"], 2);
    assert_eq!(
        view.describe("decoder.mid_block.attentions.0.to_q.weight")
            .unwrap()
            .1,
        [2, 2]
    );
    assert_eq!(
        values(&view, "decoder.up_blocks.0.resnets.0.norm1.weight"),
        [6.0, 7.0, 8.0]
    );
    assert_eq!(view.names().count(), 5);
    // The decoder exported as a module of its own.
    let alone = wanted(&[
        ("conv_in.weight", &[2, 1, 1, 1]),
        ("up_blocks.0.resnets.0.norm1.weight", &[3]),
        ("up_blocks.1.resnets.0.norm1.weight", &[2]),
    ]);
    let view = open_in_layout(file, &alone, None).unwrap();
    assert_eq!(
        values(&view, "up_blocks.0.resnets.0.norm1.weight"),
        [6.0, 7.0, 8.0]
    );
    assert_eq!(values(&view, "conv_in.weight"), [2.0, 3.0]);
}

#[test]
fn the_unit_matrix_is_put_where_readers_put_it() {
    let names: &[(&str, &[usize])] = &[
        (
            "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding.weight",
            &[1, 2],
        ),
        (
            "text_encoders.clip_l.transformer.text_model.final_layer_norm.weight",
            &[2],
        ),
    ];
    let te = wanted(&[
        ("text_model.final_layer_norm.weight", &[2]),
        ("text_projection.weight", &[2, 2]),
    ]);
    let view = open_in_layout(numbered(names), &te, None).unwrap();
    assert_eq!(
        values(&view, "text_projection.weight"),
        [1.0, 0.0, 0.0, 1.0]
    );
    assert!(view.sources_of("text_projection.weight").is_empty());
}

#[test]
fn complex_numbers_are_pairs_of_real_ones() {
    let numbers = |n: u8| -> Vec<u8> { (0..n).flat_map(|i| f32::from(i).to_le_bytes()).collect() };
    let file = [
        ("freqs", Dtype::C64, &[2usize, 3][..], numbers(12)),
        ("phase", Dtype::C64, &[], numbers(2)),
    ];
    let model = wanted(&[("freqs", &[2, 3, 2]), ("phase", &[2])]);
    let view = open_in_layout(source(&file), &model, None).unwrap();
    assert_eq!(view.describe("freqs"), Some((Dtype::F32, &[2, 3, 2][..])));
    assert_eq!(view.describe("phase"), Some((Dtype::F32, &[2][..])));
    assert_eq!(values(&view, "freqs")[..4], [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(values(&view, "phase"), [0.0, 1.0]);
}

#[test]
fn f8_is_decoded_with_its_scales() {
    let f8 = |name: &'static str| {
        (
            name,
            Dtype::F8E4M3Fn,
            &[2usize, 2][..],
            vec![0x38, 0x40, 0x44, 0xb8],
        )
    };
    let plain = [1.0, 2.0, 3.0, -1.0];
    let model = wanted(&[("a.weight", &[2, 2])]);
    let view = open_in_layout(source(&[f8("a.weight")]), &model, None).unwrap();
    assert_eq!(values(&view, "a.weight"), plain);
    assert!(view.notes()[0].contains("no scales"), "{:?}", view.notes());
    for (scale, shape, data, want) in [
        ("a.scale_weight", &[][..], vec![0.5], [0.5, 1.0, 1.5, -0.5]),
        ("a.weight_scale", &[1], vec![2.0], [2.0, 4.0, 6.0, -2.0]),
        ("a.scale", &[2], vec![2.0, 4.0], [2.0, 4.0, 12.0, -4.0]),
        (
            "a.weight_scale",
            &[2, 1],
            vec![2.0, 4.0],
            [2.0, 4.0, 12.0, -4.0],
        ),
    ] {
        let file = source(&[
            f8("a.weight"),
            (scale, Dtype::F32, shape, f32s(data)),
            ("a.scale_input", Dtype::F32, &[], f32s([9.0])),
        ]);
        let view = open_in_layout(file, &model, None).unwrap();
        assert_eq!(values(&view, "a.weight"), want, "{scale} {shape:?}");
        assert_eq!(view.names().collect::<Vec<_>>(), ["a.weight"]);
        assert_eq!(view.sources_of("a.weight"), ["a.weight", scale]);
    }
    let refused = |tensors: &[(&str, Dtype, &[usize], Vec<u8>)]| {
        open_in_layout(source(tensors), &model, None).unwrap_err()
    };
    let one = || ("a.scale_weight", Dtype::F32, &[][..], f32s([1.0]));
    let partly = refused(&[f8("a.weight"), f8("b.weight"), one()]);
    assert!(
        matches!(&partly, Error::PartlyScaled { bare, .. } if bare == &["b.weight"]),
        "{partly}"
    );
    for (name, shape) in [
        ("a.scale_of_mine", &[][..]),
        ("a.scale_weight", &[3]),
        ("a.scale_weight", &[1, 2]),
    ] {
        let count = shape.iter().product();
        let e = refused(&[
            f8("a.weight"),
            (name, Dtype::F32, shape, f32s(vec![1.0; count])),
        ]);
        assert!(
            matches!(&e, Error::Scale { scale, .. } if scale == name),
            "{e}"
        );
    }
    let twice = refused(&[
        f8("a.weight"),
        one(),
        ("a.weight_scale", Dtype::F32, &[], f32s([1.0])),
    ]);
    assert!(matches!(twice, Error::Scale { .. }), "{twice}");
}

#[test]
fn rows_of_a_scaled_stack_take_their_own_scales() {
    let file = source(&[
        ("img_in.weight", Dtype::F32, &[1], f32s([0.0])),
        (
            "double_blocks.0.img_attn.norm.key_norm.scale",
            Dtype::F32,
            &[1],
            f32s([0.0]),
        ),
        (
            "double_blocks.0.img_attn.qkv.weight",
            Dtype::F8E4M3Fn,
            &[3, 1],
            vec![0x38; 3],
        ),
        (
            "double_blocks.0.img_attn.qkv.scale_weight",
            Dtype::F32,
            &[3, 1],
            f32s([2.0, 3.0, 4.0]),
        ),
    ]);
    let names = ["to_q", "to_k", "to_v"].map(|n| format!("transformer_blocks.0.attn.{n}.weight"));
    let model: Vec<(String, Vec<usize>)> = names.iter().map(|n| (n.clone(), vec![1, 1])).collect();
    let view = open_in_layout(file, &model, None).unwrap();
    assert_eq!(names.map(|n| values(&view, &n)[0]), [2.0, 3.0, 4.0]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let model = wanted(&[("a.weight", &[1])]);
    let with = |names: &[&str]| {
        let tensors: Vec<(&str, Dtype, &[usize], Vec<u8>)> = names
            .iter()
            .map(|n| (*n, Dtype::F32, &[1usize][..], f32s([1.0])))
            .collect();
        open_in_layout(source(&tensors), &model, None)
    };
    for (name, kind) in [
        ("a.weight.absmax", "bitsandbytes"),
        ("a.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("a.SCB", "8 bits"),
        ("a.qzeros", "GPTQ"),
        ("a.wscales", "nunchaku"),
        ("a.weight_scale_inv", "weight_scale_inv"),
    ] {
        let e = with(&["a.weight", name]).unwrap_err();
        assert!(
            matches!(&e, Error::Quantised { kind: k, .. } if k.contains(kind)),
            "{name}: {e}"
        );
    }
    let e = with(&["a.base_layer.weight", "a.lora_A.default.weight", "b.weight"]).unwrap_err();
    assert!(
        matches!(&e, Error::Unmerged { first, layers: 1, .. } if first == "a"),
        "{e}"
    );
    let e = with(&[
        "a.original_module.weight",
        "a.modules_to_save.default.weight",
    ])
    .unwrap_err();
    assert!(matches!(&e, Error::Unmerged { .. }), "{e}");
    // Both hold the same, and count once.
    let view = with(&["a.base_layer.weight", "a.weight"]).unwrap();
    assert_eq!(view.names().collect::<Vec<_>>(), ["a.weight"]);
    let view = with(&["_orig_mod.a.base_layer.weight"]).unwrap();
    assert_eq!(
        view.sources_of("a.weight"),
        ["_orig_mod.a.base_layer.weight"]
    );
}

/// A name, its shape, and what it is in the other spelling with the shapes of that.
type Pair = (String, Vec<usize>, Vec<(String, Vec<usize>)>);

/// Small shapes that the rows of a table fit, for the names of a recorded family.
fn shaped(table: &Table, prefix: &str, names: &BTreeSet<&str>) -> Vec<Pair> {
    let own = || names.iter().filter_map(|n| n.strip_prefix(prefix));
    let parameters = table.parameters(&own(), &std::iter::empty());
    let translated = own()
        .filter(|n| !table.is_unused(n))
        .filter_map(|n| Some((n, table.translate(n, &parameters)?)));
    let shapes = translated.map(|(name, hit)| {
        let (there, here): (Vec<usize>, Vec<Vec<usize>>) = match hit.turn {
            _ if hit.to.len() > 1 => (
                vec![hit.heights.iter().sum(), 2],
                hit.heights.iter().map(|h| vec![*h, 2]).collect(),
            ),
            Turn::SwapHalves => (vec![4, 2], vec![vec![4, 2]]),
            Turn::Transpose => (vec![2, 3], vec![vec![3, 2]]),
            Turn::Linear if name.ends_with("weight") => (vec![2, 3, 1, 1], vec![vec![2, 3]]),
            _ => (vec![2], vec![vec![2]]),
        };
        (
            name.to_owned(),
            there,
            hit.to.into_iter().zip(here).collect(),
        )
    });
    shapes.collect()
}

#[test]
fn every_family_survives_the_way_there_and_back() {
    for (family, lines) in recorded("models.txt") {
        let all: Vec<String> = (lines.iter())
            .flat_map(|l| match l.strip_prefix("unused ") {
                Some(name) => vec![name.to_owned()],
                None => expand(l)
                    .into_iter()
                    .map(|(_, from, _)| from)
                    .filter(|f| f != "-")
                    .collect(),
            })
            .collect();
        let names: BTreeSet<&str> = all.iter().map(String::as_str).collect();
        let fitting = tables().iter().find_map(|t| {
            let found = t.prefixes(names.iter().copied(), |n| names.contains(n));
            Some((t, *found.first()?))
        });
        let (table, prefix) = fitting.unwrap();
        let pairs = shaped(table, prefix, &names);
        let mut next = 0f32;
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for (name, shape, _) in &pairs {
            let count = shape.iter().product::<usize>();
            let data = f32s((0..count).map(|i| next + i as f32));
            next += count as f32;
            tensors.push((
                format!("{prefix}{name}"),
                Tensor {
                    dtype: Dtype::F32,
                    shape: shape.clone(),
                    data,
                },
            ));
        }
        let dir = tempfile::tempdir().unwrap();
        let (there, here) = (
            dir.path().join("there.safetensors"),
            dir.path().join("here.safetensors"),
        );
        write_tensors(&there, &tensors);
        let wanted: Vec<(String, Vec<usize>)> =
            pairs.iter().flat_map(|(.., to)| to.clone()).collect();
        let source = Arc::new(Source::open(&there).unwrap());
        let view =
            open_in_layout(source, &wanted, None).unwrap_or_else(|e| panic!("{family}: {e}"));
        let mut translated = Vec::new();
        for (name, shape) in &wanted {
            let tensor = view
                .get(name)
                .unwrap_or_else(|| panic!("{family}: `{name}`"));
            assert_eq!(tensor.shape, shape, "{family}: `{name}`");
            assert!(!view.sources_of(name).is_empty());
            translated.push((name.clone(), tensor.to_owned()));
        }
        write_tensors(&here, &translated);
        // ComfyUI exports its models under a wrapper of its own.
        let wanted: Vec<(String, Vec<usize>)> = (pairs.iter())
            .map(|(name, shape, _)| (format!("m.{prefix}{name}"), shape.clone()))
            .collect();
        let source = Arc::new(Source::open(&here).unwrap());
        let back =
            open_in_layout(source, &wanted, None).unwrap_or_else(|e| panic!("{family}: {e}"));
        for ((name, ..), (_, tensor)) in pairs.iter().zip(&tensors) {
            let mut endings = wanted::endings_of(name)
                .map(ToOwned::to_owned)
                .collect::<Vec<_>>();
            endings.push(format!("{prefix}{name}"));
            let found = endings.iter().find_map(|n| back.get(n));
            let found = found.unwrap_or_else(|| panic!("{family}: `{name}` is not given back"));
            assert_eq!(found.data, tensor.data, "{family}: `{name}`");
        }
    }
}
