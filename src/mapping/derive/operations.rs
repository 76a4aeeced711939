//! Whether a derivation does all that the exporter's record says was done.
//!
//! Derivations are found by values: `clamp(a)` is `a` where the base has nothing to clamp, `relu(a)` where nothing is negative, and
//! `tanh(gate)` where the gate still is zero. torch's dynamo exporter lists by name what a folded value was made from, the calls that it
//! went through among them (`folded_from`), and calls the value after the last one. A call is named after its operator in `ATen`
//! (`clamp_2` is a second `clamp`). A derivation without a step for one of them gives the base's value by chance.

use crate::mapping::types::{Recipe, Row, Step};

/// Operators that hand the elements of their first argument on, those that make values of nothing, and views that only torch has.
const MOVING: &str = "_reshape_alias _reshape_copy _to_copy _unsafe_view adjoint alias alias_copy arange as_strided atleast_1d atleast_2d \
    atleast_3d bfloat16 broadcast_to cat chunk clone column_stack concat concatenate contiguous detach detach_ diagonal double dropout \
    embedding empty expand expand_as expand_copy eye feature_dropout flatten flip float full full_like gather getitem half hstack \
    identity index index_select lift lift_fresh lift_fresh_copy linspace mH mT matrix_H moveaxis movedim narrow narrow_copy new_full \
    new_ones new_zeros numpy_T ones ones_like permute permute_copy repeat repeat_interleave reshape resolve_conj resolve_neg roll rot90 \
    scalar_tensor scalar_tensor_default select select_copy slice slice_copy split split_copy split_with_sizes split_with_sizes_copy \
    squeeze squeeze_copy stack swapaxes swapdims sym_size t t_copy take take_along_dim tensor_split tile to transpose transpose_copy \
    type_as unbind unbind_copy unflatten unfold unsqueeze unsqueeze_copy view view_as view_as_complex view_as_real view_copy vstack \
    zeros zeros_like";

/// Operators of a scale or an offset.
const LINEAR: &str = "add div divide mul multiply neg rsub sub subtract true_divide";

/// Operators that hand every element on, at most with axes exchanged.
const TURNING: &str = "_reshape_alias _unsafe_view alias alias_copy atleast_1d atleast_2d atleast_3d clone contiguous detach detach_ dropout \
    expand expand_as expand_copy feature_dropout flatten identity lift lift_fresh lift_fresh_copy mT matrix_H moveaxis movedim numpy_T \
    permute permute_copy positive reshape resolve_conj resolve_neg squeeze squeeze_copy swapaxes swapdims t t_copy to transpose \
    transpose_copy type_as unflatten unsqueeze unsqueeze_copy view view_as view_copy";

/// Those of them that exchange axes.
const EXCHANGING: &str = "adjoint mH mT matrix_H moveaxis movedim numpy_T permute permute_copy swapaxes swapdims t t_copy transpose \
    transpose_copy";

/// Operators that convert, and with that may round.
const CONVERTING: &str = "_to_copy bfloat16 double float half";

fn is_in(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace()
        .any(|operator| operator.eq_ignore_ascii_case(name))
}

/// Whether `recipe` does what the operator `name` does. A product or a sum of a tensor with itself can be the tensor, too: ones times ones,
/// the half of a symmetric matrix and of the same turned.
fn does(recipe: &Recipe, name: &str) -> bool {
    if is_in(MOVING, name) {
        return true;
    }
    let steps = match recipe {
        Recipe::Tensor { steps, .. } => &steps[..],
        Recipe::Rows { .. } => &[],
        // They are known by formulas of many operators, which exporters write in several ways.
        Recipe::BatchNorm { .. } | Recipe::WeightNorm { .. } | Recipe::Sum { .. } => return true,
    };
    let has = |kind: fn(&Step) -> bool| steps.iter().any(kind);
    if is_in(LINEAR, name) {
        return has(|step| matches!(step, Step::Scale { .. } | Step::Offset { .. }));
    }
    is_in("exp", name) && has(|step| matches!(step, Step::Exp))
}

/// Whether what the operator `name` gave may be what `recipe` gives. Values that were only moved are equal by accident where they were not
/// in the order of the derivation; those that were converted, and are in the same type again, may have been rounded.
pub(in crate::mapping) fn may_give(recipe: &Recipe, name: &str) -> bool {
    let casts = |step: &Step| matches!(step, Step::Cast { .. });
    match recipe {
        Recipe::Tensor { steps, .. } if is_in(CONVERTING, name) => steps.iter().any(casts),
        _ => does(recipe, name),
    }
}

/// Whether the operator `name` exchanges axes: of a symmetric matrix nobody sees that.
pub(in crate::mapping) fn exchanges_axes(name: &str) -> bool {
    is_in(EXCHANGING, name)
}

/// Whether the operator `name` leaves all elements of its operand, in an order that shape and reader tell.
pub(in crate::mapping) fn keeps_elements(name: &str) -> bool {
    is_in(TURNING, name) || is_in(CONVERTING, name)
}

/// Whether the operator gives values that its operands do not have: what it gave is no sign of other weights.
pub(in crate::mapping) fn computes(name: &str) -> bool {
    !is_in(MOVING, name) && !is_in(LINEAR, name)
}

/// Keeps derivations of `row` that do all of `operators`.
pub(in crate::mapping) fn keep_what_does(row: &Row, operators: &[&str]) -> Vec<Recipe> {
    (row.explanations())
        .filter(|recipe| operators.iter().all(|name| does(recipe, name)))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(steps: Vec<Step>) -> Recipe {
        Recipe::Tensor {
            source: "a".into(),
            steps,
        }
    }

    #[test]
    fn a_derivation_needs_a_step_for_each_operator_that_computes() {
        let plain = tensor(vec![Step::Permute { order: vec![1, 0] }]);
        for name in ["permute", "_to_copy", "numpy_t", "scalar_tensor_default"] {
            assert!(does(&plain, name), "{name}");
        }
        for name in [
            "clamp",
            "relu",
            "tanh",
            "pow",
            "reciprocal",
            "exp",
            "an_operator_of_tomorrow",
        ] {
            assert!(!does(&plain, name), "{name}");
        }
        assert!(!does(&plain, "mul"), "1 times 1 is 1");
        let exp = tensor(vec![Step::Exp]);
        assert!(does(&exp, "exp") && !does(&exp, "clamp"));
    }

    #[test]
    fn an_operator_that_only_turns_or_converts_is_one_that_moves() {
        let all = format!("{TURNING} {CONVERTING}");
        let known = |name: &&str| is_in(MOVING, name) || *name == "positive";
        assert!(all.split_ascii_whitespace().all(|name| known(&name)));
        assert!(keeps_elements("t") && keeps_elements("_to_copy"));
        assert!(may_give(&tensor(Vec::new()), "t") && !may_give(&tensor(Vec::new()), "_to_copy"));
        assert!(!may_give(&tensor(Vec::new()), "relu") && !may_give(&tensor(Vec::new()), "x"));
        for name in ["flip", "roll", "relu", "add", "slice", "triu"] {
            assert!(!keeps_elements(name), "{name}");
        }
    }
}
