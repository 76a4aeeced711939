//! Opening LoRAs.

mod comfyui;
mod damage;
mod layouts;
mod names;

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
    // Keys that name no component are never taken for another model's.
    tensors.extend(pair("time_in", 4, 4));
    let found = problems(&File::new(&tensors), &model);
    assert!(matches!(&found[..], [Problem::Unmatched { module, .. }] if module == "time_in"));
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
    // The hint leads to an answer.
    assert_eq!(
        e.hints(),
        ["say which one is meant: `--component text-encoder`"]
    );
    let part = |name: &str| {
        let component = Component::from_name(name);
        Lora::open_with(
            file.path(),
            &model,
            &Options {
                component,
                alpha: None,
                shared: false,
            },
        )
    };
    assert_eq!(part("text-encoder").unwrap().targets().len(), 1);
    assert_eq!(part("text-encoder-2").unwrap().targets().len(), 1);
    let none = part("vae");
    assert_eq!(none.unwrap_err().code(), "lora-none");
}
