//! Checkpoints that mislead, one by one, over a real model: nothing is written from the wrong tensor, nothing is lost
//! without a word.

use super::fixtures::{File, decide, path, read};
use crate::mapping::*;
use crate::onnx::Model;
use crate::tensor::{Dtype, Tensor, cast, transpose};
use std::borrow::Cow;
use std::collections::BTreeMap;

const QUERY: &str = "encoder.layers.0.self_attn.q_proj.weight";
const KEY: &str = "encoder.layers.0.self_attn.k_proj.weight";
const BIAS: &str = "encoder.layers.0.self_attn.q_proj.bias";

fn models() -> impl Iterator<Item = Model> {
    ["ts", "dynamo"]
        .into_iter()
        .map(|e| Model::open(path("clip_text", &format!("model.{e}.onnx"))).unwrap())
}

fn base() -> BTreeMap<String, Tensor> {
    read("clip_text", "base.safetensors").0
}

fn fused() -> BTreeMap<String, Tensor> {
    read("clip_text", "fused.safetensors").0
}

/// Values of a model, some of them replaced: another base without another export.
struct Patched<'a> {
    model: ModelValues<'a>,
    patches: BTreeMap<String, Vec<u8>>,
}

impl Held for Patched<'_> {
    fn held(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match self.patches.get(name) {
            Some(bytes) => Some(Cow::Borrowed(bytes)),
            None => self.model.held(name),
        }
    }
}

/// The model as if it had been exported from `base`.
fn exported<'a>(model: &'a Model, original: &BTreeMap<String, Tensor>, base: &File) -> Patched<'a> {
    let proven = infer(model, Some(&File(original.clone()))).unwrap();
    let patches = (proven.rows.iter())
        .filter(|row| row.recipe.is_some())
        .map(|row| (row.name.clone(), apply(row, base).unwrap().into_owned()));
    Patched {
        model: ModelValues::of(model),
        patches: patches.collect(),
    }
}

/// Judges `new`; every changed row gets the bytes that `truth` gives. How many rows change, and how many are refused.
fn is_from(judged: &Judged, new: &File, truth: &Mapping) -> (usize, usize) {
    let (mapping, found) = (&judged.mapping, &judged.assessment);
    for r in found.changed() {
        let row = &mapping.rows[r];
        let right = apply(truth.row(&row.name).unwrap(), new).unwrap();
        assert!(*bytes_of(row, new).unwrap() == *right, "{row:?}");
    }
    (found.changed().count(), found.refused().count())
}

/// All biases zero, all norms one, in the base: values say nothing of them, names do.
#[test]
fn zeros_and_ones_are_told_apart_by_name() {
    for model in models() {
        let mut start = base();
        for (name, t) in &mut start {
            let constant = if name.rsplit('.').next() == Some("bias") {
                0.0f32
            } else if name.contains("norm") {
                1.0
            } else {
                continue;
            };
            let count = t.data.len() / 4;
            t.data = std::iter::repeat_n(constant.to_le_bytes(), count)
                .flatten()
                .collect();
        }
        let start = File(start);
        let truth = infer(&model, Some(&File(base()))).unwrap();
        let held = exported(&model, &base(), &start);
        let proven = prove(&infer(&model, None).unwrap(), &held, &start).unwrap();
        assert!(proven.proof().unwrap().is_whole(), "{:?}", proven.proof());
        for (row, right) in proven.rows.iter().zip(&truth.rows) {
            if row.recipe.is_some() {
                assert_eq!(row.recipe, right.recipe);
            }
        }
        // One of the equal ones changes: it and no other is written.
        let mut new = start.0.clone();
        new.insert(BIAS.into(), base()[BIAS].clone());
        let new = File(new);
        let judged = decide(&proven, &held, &new);
        assert_eq!(is_from(&judged, &new, &truth), (1, 0));
    }
}

/// Two layers with the same weights in the base, different in the new checkpoint.
#[test]
fn equal_layers_part_rightly_or_not_at_all() {
    for model in models() {
        let mut start = base();
        start.insert(KEY.into(), start[QUERY].clone());
        let start = File(start);
        let truth = infer(&model, Some(&File(base()))).unwrap();
        let held = exported(&model, &base(), &start);
        let outline = infer(&model, None).unwrap();
        let mut new = start.0.clone();
        new.insert(QUERY.into(), fused()[QUERY].clone());
        let new = File(new);
        for mapping in [outline.clone(), prove(&outline, &held, &start).unwrap()] {
            let judged = decide(&mapping, &held, &new);
            assert_eq!(is_from(&judged, &new, &truth), (1, 0));
        }
    }
}

#[test]
fn a_missing_and_an_extra_tensor_are_reported() {
    for model in models() {
        let held = ModelValues::of(&model);
        let outline = infer(&model, None).unwrap();
        let truth = infer(&model, Some(&File(base()))).unwrap();
        let mut less = fused();
        less.remove(QUERY);
        let mut more = fused();
        more.insert("encoder.layers.9.extra.weight".into(), more[KEY].clone());
        let changed = {
            let t = more.get_mut("encoder.layers.9.extra.weight").unwrap();
            t.data.reverse();
            t.clone()
        };
        more.insert("other.weight".into(), changed);
        for mapping in [outline.clone(), truth.clone()] {
            let less = File(less.clone());
            let judged = decide(&mapping, &held, &less);
            let looked: Vec<&String> = judged
                .accounts
                .missing
                .iter()
                .flat_map(|m| &m.names)
                .collect();
            assert!(
                looked.iter().any(|n| n.ends_with(QUERY)),
                "{:?}",
                judged.accounts
            );
            let (written, refused) = is_from(&judged, &less, &truth);
            assert_eq!((written, refused), (17, 0));
            let more = File(more.clone());
            let judged = decide(&mapping, &held, &more);
            // Where every constant is explained without it, a tensor that is new is not used.
            let other = (judged.accounts.leftovers.iter())
                .find(|l| l.name == "other.weight")
                .unwrap();
            let closed = mapping.proof().is_some_and(|p| p.is_closed());
            let expected = if closed { Why::Unused } else { Why::Unreached };
            assert_eq!(other.why, expected);
            assert!(is_from(&judged, &more, &truth).0 <= 18);
        }
    }
}

/// A square matrix transposed by mistake, unchanged or changed, in the new checkpoint or in the base.
#[test]
fn a_square_matrix_turned_by_mistake_is_refused() {
    for model in models() {
        let held = ModelValues::of(&model);
        let outline = infer(&model, None).unwrap();
        let truth = infer(&model, Some(&File(base()))).unwrap();
        for source in [base(), fused()] {
            let mut new = source;
            let turned = transpose(new[QUERY].view()).unwrap();
            new.get_mut(QUERY).unwrap().data = turned;
            let new = File(new);
            let judged = decide(&outline, &held, &new);
            let refused: Vec<&Row> = (judged.assessment.refused())
                .map(|(r, _)| &judged.mapping.rows[r])
                .collect();
            assert_eq!(refused.len(), 1, "{refused:?}");
            assert!(refused[0].evidence.iter().any(|e| matches!(
                e,
                Evidence::OtherCloser {
                    transposed: true,
                    ..
                }
            )));
            // Where the row is proven, the file says what the matrix is.
            let judged = decide(&truth, &held, &new);
            let (written, refused) = is_from(&judged, &new, &truth);
            assert!(written >= 1 && refused == 0, "{written} {refused}");
        }
        let mut wrong = base();
        let turned = transpose(wrong[QUERY].view()).unwrap();
        wrong.get_mut(QUERY).unwrap().data = turned;
        let proven = infer(&model, Some(&File(wrong))).unwrap();
        let judged = decide(&proven, &held, &File(fused()));
        assert!(proven.proof().is_some_and(|p| !p.is_whole()));
        let (written, refused) = is_from(&judged, &File(fused()), &truth);
        assert_eq!((written, refused), (17, 1));
    }
}

#[test]
fn a_checkpoint_in_half_precision_says_the_same() {
    let narrow = |checkpoint: BTreeMap<String, Tensor>| {
        let halves = checkpoint.into_iter().map(|(name, mut t)| {
            if t.dtype == Dtype::F32 {
                t.data = cast(t.dtype, Dtype::F16, &t.data).unwrap();
                t.dtype = Dtype::F16;
            }
            (name, t)
        });
        File(halves.collect())
    };
    for model in models() {
        let held = ModelValues::of(&model);
        let outline = infer(&model, None).unwrap();
        let same = narrow(base());
        let judged = decide(&outline, &held, &same);
        assert!(judged.accounts.is_complete());
        assert!(judged.assessment.changes.iter().all(|c| !matches!(
            c,
            Change::Changed { .. } | Change::Refused { .. } | Change::NotGiven
        )));
        let new = narrow(fused());
        let judged = decide(&outline, &held, &new);
        let truth = judged.mapping.clone();
        assert_eq!(is_from(&judged, &new, &truth), (18, 0));
    }
}

#[test]
fn names_of_another_model_are_declined() {
    for model in models() {
        let outline = infer(&model, None).unwrap();
        let truth = infer(&model, Some(&File(base()))).unwrap();
        for mapping in [outline, truth] {
            let foreign = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight";
            let adopted = mapping.adopt(&[(foreign.into(), vec![12, 12])], false);
            assert!(matches!(&adopted.declined[..], [Declined::Unknown { .. }]));
            // The same architecture in another size.
            let adopted = mapping.adopt(&[(QUERY.into(), vec![768, 768])], false);
            assert!(matches!(&adopted.declined[..], [Declined::Misfit { .. }]));
            // A decoder's names are not an encoder's.
            let decoder = QUERY.replace("encoder", "decoder");
            let adopted = mapping.adopt(&[(decoder, vec![48, 48])], false);
            assert!(matches!(&adopted.declined[..], [Declined::Unknown { .. }]));
        }
    }
}

#[test]
fn a_mapping_by_hand_is_used_as_it_stands() {
    let model = models().next().unwrap();
    let mut mapping = infer(&model, None).unwrap();
    let weight = (mapping.rows.iter())
        .find(|r| {
            r.hints
                .iter()
                .any(|h| h.names.iter().any(|n| n.ends_with(QUERY)))
        })
        .unwrap()
        .name
        .clone();
    let text = format!(
        r#"{{"schema":"{SCHEMA}","weights":{{"{weight}":{{"kind":"tensor","source":"{QUERY}","steps":[{{"step":"permute","order":[1,0]}}]}}}}}}"#
    );
    mapping
        .override_with(&Override::parse(&text).unwrap())
        .unwrap();
    let held = ModelValues::of(&model);
    let new = File(fused());
    let judged = decide(&mapping, &held, &new);
    assert_eq!(judged.mapping.row(&weight).unwrap().grade, Grade::Given);
    let truth = infer(&model, Some(&File(base()))).unwrap();
    assert_eq!(is_from(&judged, &new, &truth), (18, 0));
    let wrong = text.replace(&weight, "no such weight");
    let unknown = mapping
        .override_with(&Override::parse(&wrong).unwrap())
        .unwrap_err();
    assert!(matches!(unknown, Error::UnknownWeights { .. }));
    assert!(matches!(Override::parse("{}"), Err(Error::Document(_))));
    let other = text.replace(SCHEMA, "x/1");
    assert!(matches!(Override::parse(&other), Err(Error::Schema { .. })));
}
