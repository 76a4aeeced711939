//! Real models of both exporters: mapping with and without the base, changed weights bit for bit as the exporter writes them.

use crate::mapping::*;
use crate::onnx::Model;
use crate::tensor::TensorView;
use crate::tensor::{Dtype, Tensor, to_f32};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub(super) struct File(pub BTreeMap<String, Tensor>);

impl Checkpoint for File {
    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.0.get(name).map(Tensor::view)
    }
}

pub(super) fn path(fixture: &str, file: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("fixtures").join(fixture).join(file)
}

pub(super) fn read(fixture: &str, file: &str) -> File {
    let bytes = std::fs::read(path(fixture, file)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let dtype = Dtype::from_safetensors(&view.dtype().to_string()).unwrap();
        let tensor = Tensor {
            dtype,
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        (name, tensor)
    });
    File(tensors.collect())
}

const CASES: [(&str, &str); 11] = [
    ("sd_unet", "ts"),
    ("sd_unet", "dynamo"),
    ("clip_text", "ts"),
    ("clip_text", "dynamo"),
    ("vae_decoder", "ts"),
    ("vae_decoder", "dynamo"),
    ("dit", "ts"),
    ("dit", "dynamo"),
    ("flux", "dynamo"),
    ("resnet", "ts"),
    ("resnet", "dynamo"),
];

struct Fixture {
    label: String,
    model: Model,
    base: File,
    fused: File,
    golden: File,
}

fn fixtures(with_resnet: bool) -> impl Iterator<Item = Fixture> {
    CASES
        .into_iter()
        .filter(move |(name, _)| with_resnet || *name != "resnet")
        .map(|(name, exporter)| Fixture {
            label: format!("{name} {exporter}"),
            model: Model::open(path(name, &format!("model.{exporter}.onnx"))).unwrap(),
            base: read(name, "base.safetensors"),
            fused: read(name, "fused.safetensors"),
            golden: read(name, &format!("refit.{exporter}.safetensors")),
        })
}

fn describe(mapping: &Mapping, rows: impl Iterator<Item = usize>) -> String {
    let all: Vec<String> = rows.map(|r| format!("{:?}", mapping.rows[r])).collect();
    all.join("\n  ")
}

/// What `new` does, with no permission.
pub(super) fn decide(mapping: &Mapping, held: &dyn Held, new: &File) -> Judged {
    judge(mapping, held, new, &Permissions::default()).unwrap()
}

/// Changed weights are exactly the golden ones, and their bytes too (folds: within their rounding).
fn check_golden(f: &Fixture, mapping: &Mapping, new: &File) {
    let Judged {
        mapping,
        accounts,
        assessment,
    } = decide(mapping, &ModelValues::of(&f.model), new);
    assert!(accounts.is_complete(), "{} {accounts:?}", f.label);
    let refused: Vec<usize> = assessment.refused().map(|(r, _)| r).collect();
    assert!(
        refused.is_empty(),
        "{}: {}",
        f.label,
        describe(&mapping, refused.into_iter())
    );
    let changed: BTreeSet<&str> = assessment
        .changed()
        .map(|r| mapping.rows[r].name.as_str())
        .collect();
    let golden: BTreeSet<&str> = f.golden.0.keys().map(String::as_str).collect();
    assert_eq!(changed, golden, "{}", f.label);
    for r in assessment.changed() {
        let row = &mapping.rows[r];
        is_golden(f, row, &bytes_of(row, new).unwrap());
    }
}

fn is_golden(f: &Fixture, row: &Row, bytes: &[u8]) {
    let wanted = &f.golden.0[&row.name];
    assert_eq!((row.dtype, &row.shape), (wanted.dtype, &wanted.shape));
    if row.rounding.as_ref().is_some_and(|x| x.max_ulp > 0) || f.label == "resnet ts" {
        let (a, b) = (
            to_f32(row.dtype, bytes).unwrap(),
            to_f32(row.dtype, &wanted.data).unwrap(),
        );
        let scale = b.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (x, y) in a.iter().zip(&b) {
            assert!(
                (x - y).abs() <= 4.0 * f32::EPSILON * scale,
                "{} {} {x} {y}",
                f.label,
                row.name
            );
        }
    } else {
        assert!(*bytes == wanted.data, "{} {}", f.label, row.name);
    }
}

#[test]
fn with_the_base_every_row_is_proven_and_the_refit_is_golden() {
    for f in fixtures(true) {
        let proven = infer(&f.model, Some(&f.base)).unwrap();
        let unsure = (0..proven.rows.len())
            .filter(|&r| !matches!(proven.rows[r].grade, Grade::Proven | Grade::Constant));
        let unsure: Vec<usize> = unsure.collect();
        assert!(
            unsure.is_empty(),
            "{}{}",
            f.label,
            describe(&proven, unsure.into_iter())
        );
        let proof = proven.proof().unwrap();
        assert!(
            proof.is_whole() && proof.is_closed(),
            "{} {proof:?}",
            f.label
        );
        // Through the manifest's form.
        let text = serde_json::to_string(&proven).unwrap();
        let read: Mapping = serde_json::from_str(&text).unwrap();
        let written = Mapping {
            attributes: Vec::new(),
            ..proven
        };
        assert_eq!(read, written, "{}", f.label);
        let same = decide(&read, &ModelValues::of(&f.model), &f.base);
        assert!(
            same.assessment
                .changes
                .iter()
                .all(|c| matches!(c, Change::Unchanged | Change::Constant)),
            "{}",
            f.label
        );
        assert!(
            same.accounts.is_complete(),
            "{} {:?}",
            f.label,
            same.accounts
        );
        check_golden(&f, &read, &f.fused);
    }
}

#[test]
fn what_the_graph_says_of_the_whole_is_that_without_the_rows() {
    for f in fixtures(true) {
        let rows = Vec::new();
        let whole = infer(&f.model, None).unwrap();
        assert!(!whole.rows.is_empty());
        assert_eq!(frame(&f.model), Mapping { rows, ..whole });
    }
}

#[test]
fn without_a_base_the_refit_is_the_same() {
    for f in fixtures(false) {
        let outline = infer(&f.model, None).unwrap();
        assert!(
            outline
                .rows
                .iter()
                .all(|r| r.grade == Grade::Unproven && r.recipe.is_none())
        );
        check_golden(&f, &outline, &f.fused);
    }
}

#[test]
fn names_of_a_lora_without_any_values_find_the_same_weights() {
    for f in fixtures(false) {
        let outline = infer(&f.model, None).unwrap();
        let changed: Vec<(String, Vec<usize>)> = (f.fused.0.iter())
            .filter(|(name, t)| f.base.0[*name] != **t)
            .map(|(name, t)| (name.clone(), t.shape.clone()))
            .collect();
        let adopted = outline.adopt(&changed, false);
        assert!(
            adopted.declined.is_empty(),
            "{} {:?}",
            f.label,
            adopted.declined
        );
        let mapping = adopted.all().unwrap();
        let overlay: BTreeMap<String, Tensor> = (changed.iter())
            .map(|(n, _)| (n.clone(), f.fused.0[n].clone()))
            .collect();
        let overlay = File(overlay);
        let touched: Vec<&Row> = (mapping.rows.iter())
            .filter(|row| {
                row.explanations()
                    .any(|r| r.sources().iter().any(|s| overlay.0.contains_key(*s)))
            })
            .collect();
        let names: BTreeSet<&str> = touched.iter().map(|row| row.name.as_str()).collect();
        let golden: BTreeSet<&str> = f.golden.0.keys().map(String::as_str).collect();
        assert_eq!(names, golden, "{}", f.label);
        for row in touched {
            is_golden(&f, row, &apply(row, &overlay).unwrap());
        }
        // What the LoRA is fused onto: the base, from the ONNX file's own values.
        let held = ModelValues::of(&f.model);
        for (name, shape) in &changed {
            let row = (mapping.rows.iter())
                .find(|r| {
                    r.recipe
                        .as_ref()
                        .is_some_and(|x| x.sources() == [name.as_str()])
                })
                .unwrap();
            let back = inverse(row, &held.held(&row.name).unwrap(), shape).unwrap();
            assert_eq!(back, f.base.0[name], "{} {name}", f.label);
        }
    }
}

#[test]
fn another_checkpoint_of_a_folded_model_is_refused_without_the_base() {
    for f in fixtures(true).filter(|f| f.label.starts_with("resnet")) {
        let outline = infer(&f.model, None).unwrap();
        let held = ModelValues::of(&f.model);
        let refused = decide(&outline, &held, &f.fused);
        assert!(!refused.accounts.is_complete(), "{}", f.label);
        assert_eq!(refused.assessment.changed().count(), 0, "{}", f.label);
        let names: Vec<_> = (refused.assessment.refused())
            .map(|(r, _)| refused.mapping.rows[r].name.clone())
            .collect();
        assert!(
            names.contains(&"fc.weight".to_owned()),
            "{} {names:?}",
            f.label
        );
        // Trusting names is not enough for folded kernels, which keep the name of the parameter.
        let trust = Permissions {
            trust_names: true,
            ..Permissions::default()
        };
        let trusting = judge(&outline, &held, &f.fused, &trust).unwrap();
        let written: Vec<&str> = (trusting.assessment.changed())
            .map(|r| trusting.mapping.rows[r].name.as_str())
            .collect();
        assert_eq!(written, ["fc.weight", "fc.bias"], "{}", f.label);
        // The very checkpoint proves even the folds.
        let same = decide(&outline, &held, &f.base);
        assert!(
            same.accounts.is_complete(),
            "{} {:?}",
            f.label,
            same.accounts
        );
        assert!(
            same.mapping
                .rows
                .iter()
                .all(|r| matches!(r.grade, Grade::Proven | Grade::Constant))
        );
        // A LoRA on a folded convolution.
        let adopted = outline.adopt(&[("conv1.weight".into(), vec![8, 3, 3, 3])], false);
        assert!(
            matches!(&adopted.declined[..], [Declined::FoldSuspected { .. }]),
            "{} {:?}",
            f.label,
            adopted.declined
        );
        let proven = infer(&f.model, Some(&f.base)).unwrap();
        let adopted = proven.adopt(&[("conv1.weight".into(), vec![8, 3, 3, 3])], false);
        assert!(matches!(&adopted.declined[..], [Declined::Folded { .. }]));
        assert!(
            proven
                .adopt(&[("conv1.weight".into(), vec![8, 3, 3, 3])], true)
                .declined
                .is_empty()
        );
    }
}
