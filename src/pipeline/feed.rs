//! From a model's weights to what an engine's slot wants: folded where the library folds, in the slot's own type.

use crate::engine::{Error, Fold, Slot};
use crate::onnx::Model;
use crate::tensor::narrow;
use std::borrow::Cow;

/// The fold that fills `slot`, where several weights do.
pub(super) fn fold_of<'f>(folds: &'f [Fold], slot: &Slot) -> Option<&'f Fold> {
    folds.iter().find(|f| f.slot == slot.name)
}

/// The bytes for `slot`; `weight` gives those of `model`'s weights by name, as the model stores them. `None` where the slot holds
/// nothing of the model's.
///
/// # Errors
/// What `weight` fails with; [`Error::Weight`] for a type that cannot be converted, or a fold whose tensors are not all there.
pub(super) fn slot_bytes<'b>(
    slot: &Slot,
    folds: &[Fold],
    model: &Model,
    weight: impl Fn(&str) -> Result<Option<Cow<'b, [u8]>>, Error>,
) -> Result<Option<Cow<'b, [u8]>>, Error> {
    if let Some(fold) = fold_of(folds, slot) {
        let folded = fold.compute(|name| {
            weight(name)?.ok_or_else(|| Error::Weight {
                name: name.to_owned(),
                reason: format!("`{}` is computed from it, and it is not known", fold.slot),
            })
        })?;
        return Ok(Some(Cow::Owned(folded)));
    }
    let Some(bytes) = weight(&slot.name)? else {
        return Ok(None);
    };
    match model.weight(&slot.name).map(|w| w.dtype) {
        Some(dtype) if dtype != slot.dtype => {
            let converted = narrow(dtype, slot.dtype, &bytes).map_err(|e| Error::Weight {
                name: slot.name.clone(),
                reason: e.to_string(),
            })?;
            Ok(Some(Cow::Owned(converted)))
        }
        _ => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::FoldPart;
    use crate::onnx::testing;
    use crate::tensor::Dtype;

    fn slot(name: &str, dtype: Dtype) -> Slot {
        Slot {
            name: name.into(),
            dtype,
            shape: None,
            count: 1,
            refittable: true,
        }
    }

    #[test]
    fn slots_get_folds_and_their_own_type_or_nothing() {
        let graph = onnx_protobuf::GraphProto {
            node: vec![testing::node("Add", &["x", "w"], &["y"])],
            initializer: vec![testing::f32s("w", &[1], &[1.5])],
            ..testing::small().graph.unwrap_or_default()
        };
        let model = testing::open(&testing::model(graph)).unwrap();
        let fold = Fold {
            slot: "folded".into(),
            part: FoldPart::Shift,
            scale: "g".into(),
            bias: "b".into(),
            mean: "m".into(),
            variance: "v".into(),
            epsilon: 0.0,
        };
        let given = |name: &str| {
            let value: f32 = match name {
                "w" => 1.5,
                "g" => 3.0,
                "b" => 1.0,
                "m" => 2.0,
                "v" => 4.0,
                _ => return Ok(None),
            };
            Ok(Some(Cow::Owned(value.to_le_bytes().to_vec())))
        };
        let folds = [fold];
        let bytes = |name, dtype| slot_bytes(&slot(name, dtype), &folds, &model, given).unwrap();
        assert_eq!(
            bytes("w", Dtype::F32).as_deref(),
            Some(&1.5f32.to_le_bytes()[..])
        );
        assert_eq!(bytes("w", Dtype::F16).as_deref(), Some(&[0x00, 0x3e][..]));
        assert_eq!(
            bytes("folded", Dtype::F32).as_deref(),
            Some(&(-2f32).to_le_bytes()[..])
        );
        assert_eq!(bytes("of TensorRT's own", Dtype::F32), None);
        // A fold whose tensors are not all there is an error, not a weight that stays as it was.
        let without = |name: &str| if name == "m" { Ok(None) } else { given(name) };
        let error = slot_bytes(&slot("folded", Dtype::F32), &folds, &model, without).unwrap_err();
        assert!(
            error.to_string().contains("`folded` is computed from it"),
            "{error}"
        );
    }
}
