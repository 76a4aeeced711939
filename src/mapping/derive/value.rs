//! Comparing tensors by value: fingerprints that find equal ones in linear time, and the orders of axes under which a
//! source equals a weight.

use crate::mapping::types::{Layout, Row, Step, squeezed};
use crate::tensor::{ConvertError, Digest, Dtype, TensorView, cast, permute};
use rayon::prelude::*;
use std::borrow::Cow;

/// Fewer elements than this, or fewer distinct values than [`DISTINCT`], and equality may be chance.
pub(in crate::mapping) const INFORMATIVE_COUNT: usize = 8;
/// So many different values a tensor needs for its equality to mean something; see
/// [`INFORMATIVE_COUNT`].
const DISTINCT: usize = 4;
/// Bytes that one task sums; a multiple of every element width.
const STRETCH: usize = 1 << 20;
/// Axes beyond this are not permuted: 4! orders are tried at most.
const PERMUTED_RANK: usize = 4;

/// What identifies a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mapping) struct Print {
    /// Digest of the bytes, in order.
    pub flat: Digest,
    /// Sum of a hash of every element: equal for every order of the same elements.
    pub bag: u64,
    /// Whether equality with another tensor means something.
    pub informative: bool,
}

impl Print {
    /// Fingerprint of little-endian elements.
    pub fn of(dtype: Dtype, data: &[u8]) -> Print {
        match dtype.bits() / 8 {
            2 => Print::of_width::<2>(data),
            4 => Print::of_width::<4>(data),
            8 => Print::of_width::<8>(data),
            16 => Print::of_width::<16>(data),
            _ => Print::of_width::<1>(data),
        }
    }

    fn of_width<const N: usize>(data: &[u8]) -> Print {
        let elements = data.as_chunks::<N>().0;
        let mut seen: Vec<u64> = Vec::with_capacity(DISTINCT);
        for word in elements.iter().map(word) {
            if !seen.contains(&word) {
                seen.push(word);
            }
            // More of them decide nothing, and a tensor may have millions.
            if seen.len() == DISTINCT {
                break;
            }
        }
        // A sum: in an exclusive or, equal elements would cancel.
        let sum = |part: &[[u8; N]]| {
            let words = part.iter().map(word);
            words.fold(0u64, |bag, word| bag.wrapping_add(mix(word)))
        };
        let bag = elements.par_chunks(STRETCH / N).map(sum);
        Print {
            flat: Digest::of(data),
            bag: bag.reduce(|| 0, u64::wrapping_add),
            informative: elements.len() >= INFORMATIVE_COUNT && seen.len() >= DISTINCT,
        }
    }
}

/// The first 8 bytes of an element.
fn word<const N: usize>(element: &[u8; N]) -> u64 {
    let mut word = [0u8; 8];
    let kept = N.min(8);
    word[..kept].copy_from_slice(&element[..kept]);
    u64::from_le_bytes(word)
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn is_plain_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// The type in which a weight and a source are compared: the narrower of the two, the weight's where both are as wide.
/// None where one cannot become the other.
pub(in crate::mapping) fn common(weight: Dtype, source: Dtype) -> Option<Dtype> {
    if weight == source {
        return Some(weight);
    }
    if !(is_plain_float(weight) && is_plain_float(source)) {
        return None;
    }
    // A copy was rounded into the narrower type, which no widening takes back.
    Some(if source.bits() < weight.bits() {
        source
    } else {
        weight
    })
}

/// `data` as `to`, without copying when it is that already.
pub(in crate::mapping) fn as_type(
    from: Dtype,
    to: Dtype,
    data: Cow<'_, [u8]>,
) -> Result<Cow<'_, [u8]>, ConvertError> {
    if from == to {
        return Ok(data);
    }
    Ok(Cow::Owned(cast(from, to, &data)?))
}

/// Whether a shape is a square matrix once extents of one are dropped: its orientation cannot be read off.
pub(in crate::mapping) fn is_square(shape: &[usize]) -> bool {
    let s = squeezed(shape);
    s.len() == 2 && s[0] == s[1]
}

/// Every order of `from`'s axes that gives `to`, both squeezed, the identity first where it is one.
pub(in crate::mapping) fn orders(from: &[usize], to: &[usize]) -> Vec<Vec<usize>> {
    let mut found = Vec::new();
    if from.len() != to.len() {
        return found;
    }
    if from == to {
        found.push((0..from.len()).collect());
    }
    if from.len() > PERMUTED_RANK {
        return found;
    }
    let mut order = Vec::new();
    extend(from, to, &mut order, &mut found);
    found
}

fn extend(from: &[usize], to: &[usize], order: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
    if order.len() == from.len() {
        if order.iter().enumerate().any(|(i, &a)| i != a) {
            found.push(order.clone());
        }
        return;
    }
    for axis in 0..from.len() {
        if !order.contains(&axis) && from[axis] == to[order.len()] {
            order.push(axis);
            extend(from, to, order, found);
            order.pop();
        }
    }
}

/// One way in which a source becomes a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mapping) enum Relation {
    /// An order of the source's squeezed axes.
    Order(Vec<usize>),
    /// The same bytes under a shape that no order of axes gives.
    Reshape,
}

impl Relation {
    /// Whether this is what a consumer's orientation asks for; any order fits where the graph does not say.
    pub fn fits(&self, layout: Layout) -> bool {
        match (self, layout) {
            (_, Layout::Unknown) | (Relation::Reshape, _) => true,
            (Relation::Order(o), Layout::AsIs) => o.is_sorted(),
            (Relation::Order(o), Layout::Transposed) => o[..] == [1, 0] || o.len() < 2,
        }
    }

    /// The steps from a source of `shape` to the weight. A cast is none: it depends on the type of the file that is read.
    pub fn steps(&self, shape: &[usize], weight: &Row) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut now = shape.to_vec();
        if let Relation::Order(order) = self
            && !order.is_sorted()
        {
            let flat = squeezed(&now);
            if flat != now {
                now.clone_from(&flat);
                steps.push(Step::Reshape { shape: flat });
            }
            now = order.iter().map(|&a| now[a]).collect();
            steps.push(Step::Permute {
                order: order.clone(),
            });
        }
        if now != weight.shape {
            steps.push(Step::Reshape {
                shape: weight.shape.clone(),
            });
        }
        steps
    }
}

/// The relations under which `source` has exactly the bytes of `held`, both of one element type and of the same bag.
///
/// Those that fit the layout come first. Where the layout is known, the first that fits ends the search; where it is not,
/// all are found, so that a symmetric matrix shows both.
pub(in crate::mapping) fn relations(
    source: TensorView<'_>,
    source_print: &Print,
    held: TensorView<'_>,
    held_print: &Print,
    layout: Layout,
) -> Vec<Relation> {
    let (from, to) = (squeezed(source.shape), squeezed(held.shape));
    let flat = source_print.flat == held_print.flat;
    let mut candidates: Vec<Relation> = orders(&from, &to)
        .into_iter()
        .map(Relation::Order)
        .collect();
    if candidates.is_empty() {
        return if flat {
            vec![Relation::Reshape]
        } else {
            Vec::new()
        };
    }
    candidates.sort_by_key(|r| !r.fits(layout));
    let mut found = Vec::new();
    for candidate in candidates {
        let Relation::Order(order) = &candidate else {
            continue;
        };
        let equal = if order.is_sorted() {
            flat
        } else {
            let view = TensorView {
                dtype: source.dtype,
                shape: &from,
                data: source.data,
            };
            permute(view, order).is_ok_and(|bytes| bytes == held.data)
        };
        if equal {
            let settles = layout != Layout::Unknown && candidate.fits(layout);
            // Kernels have many orders; the first that holds is the plain one and the rest tell nothing.
            let done = settles || from.len() != 2;
            found.push(candidate);
            if done {
                break;
            }
        }
    }
    found
}

/// The ways in which a source of `shape` can stand in `row`, by shape and layout alone; kernels only as they are.
pub(in crate::mapping) fn presumed_relations(row: &Row, shape: &[usize]) -> Vec<Relation> {
    let (from, to) = (squeezed(shape), squeezed(&row.shape));
    orders(&from, &to)
        .into_iter()
        .filter(|o| o.len() == 2 || o.is_sorted())
        .map(Relation::Order)
        .filter(|r| !is_square(shape) || r.fits(row.layout))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    fn related(a: &Tensor, b: &Tensor, layout: Layout) -> Vec<Relation> {
        let (pa, pb) = (Print::of(a.dtype, &a.data), Print::of(b.dtype, &b.data));
        assert_eq!(pa.bag, pb.bag);
        relations(a.view(), &pa, b.view(), &pb, layout)
    }

    #[test]
    fn the_bag_ignores_order_and_the_flat_digest_does_not() {
        let a = Print::of(Dtype::F32, &f32s(&[4], &[1.0, 2.0, 3.0, 4.0]).data);
        let b = Print::of(Dtype::F32, &f32s(&[4], &[4.0, 2.0, 3.0, 1.0]).data);
        assert_eq!(a.bag, b.bag);
        assert_ne!(a.flat, b.flat);
    }

    #[test]
    fn constant_and_tiny_tensors_are_not_informative() {
        assert!(!Print::of(Dtype::F32, &f32s(&[64], &[0.0; 64]).data).informative);
        assert!(!Print::of(Dtype::F32, &f32s(&[4], &[1.0, 2.0, 3.0, 4.0]).data).informative);
        let ramp: Vec<f32> = (0u8..8).map(f32::from).collect();
        assert!(Print::of(Dtype::F32, &f32s(&[8], &ramp).data).informative);
    }

    #[test]
    fn a_symmetric_matrix_shows_both_orders_unless_the_layout_decides() {
        let s = f32s(&[2, 2], &[1.0, 2.0, 2.0, 1.0]);
        assert_eq!(related(&s, &s, Layout::Unknown).len(), 2);
        assert_eq!(
            related(&s, &s, Layout::Transposed),
            [Relation::Order(vec![1, 0])]
        );
        assert_eq!(related(&s, &s, Layout::AsIs), [Relation::Order(vec![0, 1])]);
    }

    #[test]
    fn extents_of_one_do_not_matter() {
        let a = f32s(&[3], &[1.0, 2.0, 3.0]);
        let b = f32s(&[3, 1, 1], &[1.0, 2.0, 3.0]);
        assert_eq!(related(&a, &b, Layout::Unknown), [Relation::Order(vec![0])]);
        let kernel = f32s(&[2, 3, 1, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let matrix = f32s(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(
            related(&kernel, &matrix, Layout::Transposed),
            [Relation::Order(vec![1, 0])]
        );
    }

    #[test]
    fn a_kernel_in_another_order_of_axes_is_found() {
        let values: Vec<f32> = (0u8..24).map(f32::from).collect();
        let a = f32s(&[2, 3, 4], &values);
        let b = Tensor {
            dtype: Dtype::F32,
            shape: vec![4, 2, 3],
            data: permute(a.view(), &[2, 0, 1]).unwrap(),
        };
        assert_eq!(
            related(&a, &b, Layout::Unknown),
            [Relation::Order(vec![2, 0, 1])]
        );
    }

    #[test]
    fn types_meet_in_the_narrower() {
        assert_eq!(common(Dtype::F32, Dtype::F16), Some(Dtype::F16));
        assert_eq!(common(Dtype::F16, Dtype::F32), Some(Dtype::F16));
        assert_eq!(common(Dtype::F16, Dtype::Bf16), Some(Dtype::F16));
        assert_eq!(common(Dtype::F32, Dtype::I8), None);
        assert_eq!(common(Dtype::I8, Dtype::I8), Some(Dtype::I8));
    }
}
