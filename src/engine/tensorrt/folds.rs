//! Which of an engine's weights the parser computed from a `BatchNormalization`, told from what its refit observer saw.

use super::api::{Origin, Record};
use crate::engine::{Fold, FoldPart, Slot};
use crate::onnx::{Model, Role};
use crate::tensor::{Dtype, element_count};

/// The normalisations that the parser folded into weights that the engine lets be replaced. One that is not wholly understood
/// is left out: its tensors then count as baked in.
pub(super) fn folds(model: &Model, records: &[Record], slots: &[Slot]) -> Vec<Fold> {
    let refittable = |record: &Record| {
        slots.iter().any(|s| {
            s.name == record.name
                && s.refittable
                && (s.dtype, s.count) == (Dtype::F32, record.count)
        })
    };
    let all: Vec<Fold> = records
        .iter()
        .filter(|r| r.dtype == Some(Dtype::F32) && refittable(r))
        .filter_map(|r| {
            let [scale, bias, mean, variance] = <[String; 4]>::try_from(r.sources.clone()).ok()?;
            Some(Fold {
                slot: r.name.clone(),
                part: match r.origin {
                    Origin::FoldScale => FoldPart::Scale,
                    Origin::FoldShift => FoldPart::Shift,
                    _ => return None,
                },
                scale,
                bias,
                mean,
                variance,
                epsilon: r.epsilon,
            })
        })
        .collect();
    // Both results have to be there, once each, and nothing else may read the tensors.
    let whole = |fold: &Fold| {
        let same = |f: &&Fold| f.sources() == fold.sources() && f.epsilon == fold.epsilon;
        let parts = |part| all.iter().filter(same).filter(|f| f.part == part).count();
        let alone = fold.sources().iter().all(|name| {
            let nodes = model.proto().graph.node.iter();
            nodes.flat_map(|n| &n.input).filter(|i| i == name).count() == 1
                && model.weight(name).is_some_and(|w| {
                    w.role == Role::Weight
                        && w.dtype == Dtype::F32
                        && element_count(&w.shape).is_some_and(|n| n > 0)
                })
        });
        parts(FoldPart::Scale) == 1 && parts(FoldPart::Shift) == 1 && alone
    };
    all.iter().filter(|f| whole(f)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::testing;

    fn record(name: &str, origin: Origin) -> Record {
        Record {
            name: name.into(),
            origin,
            dtype: Some(Dtype::F32),
            count: 2,
            sources: ["g", "b", "m", "v"].map(String::from).into(),
            epsilon: 0.5,
        }
    }

    fn slot(name: &str, refittable: bool) -> Slot {
        Slot {
            name: name.into(),
            dtype: Dtype::F32,
            shape: None,
            count: 2,
            refittable,
        }
    }

    /// A normalisation, and another node that reads `other`.
    fn model(other: &str) -> Model {
        let inputs = ["x", "g", "b", "m", "v"];
        let graph = onnx_protobuf::GraphProto {
            node: vec![
                testing::node("BatchNormalization", &inputs, &["h"]),
                testing::node("Add", &["h", other], &["y"]),
            ],
            initializer: ["g", "b", "m", "v", "w"]
                .map(|n| testing::f32s(n, &[2], &[1.0, 2.0]))
                .into(),
            ..testing::small().graph.unwrap_or_default()
        };
        testing::open(&testing::model(graph)).unwrap()
    }

    #[test]
    fn only_normalisations_that_are_wholly_understood_are_folds() {
        let both = [
            record("s", Origin::FoldScale),
            record("t", Origin::FoldShift),
        ];
        let slots = [slot("s", true), slot("t", true)];
        let found = folds(&model("w"), &both, &slots);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].part, found[1].part),
            (FoldPart::Scale, FoldPart::Shift)
        );
        assert_eq!(found[1].sources(), ["g", "b", "m", "v"]);
        // One result is baked in, or is not there.
        assert!(folds(&model("w"), &both, &[slot("s", true), slot("t", false)]).is_empty());
        assert!(folds(&model("w"), &both[..1], &slots).is_empty());
        // Another node reads one of the tensors.
        assert!(folds(&model("b"), &both, &slots).is_empty());
        // Not enough sources, another type.
        let mut odd = both.clone();
        odd[0].sources.pop();
        assert!(folds(&model("w"), &odd, &slots).is_empty());
        let mut odd = both.clone();
        odd[1].dtype = Some(Dtype::F16);
        assert!(folds(&model("w"), &odd, &slots).is_empty());
    }
}
