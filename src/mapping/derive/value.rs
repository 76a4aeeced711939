//! Comparing tensors by value: fingerprints that find equal ones in linear time, and the orders of axes under which a
//! source equals a weight.

use crate::mapping::types::{Layout, Row, Step, squeezed};
use crate::tensor::{ConvertError, Digest, Dtype, cast};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Fewer elements than this, or fewer distinct values than [`DISTINCT`], and equality may be chance.
pub(in crate::mapping) const INFORMATIVE_COUNT: usize = 8;
/// So many different values a tensor needs for its equality to mean something; see
/// [`INFORMATIVE_COUNT`].
const DISTINCT: usize = 4;
/// Bytes that one task sums; a multiple of every element width.
const STRETCH: usize = 1 << 20;
/// Of no more elements every one is hashed for the bag; sums of more are as good.
const FEW: usize = 1 << 12;
/// Axes beyond this are not permuted: 4! orders are tried at most.
const PERMUTED_RANK: usize = 4;

/// What identifies a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mapping) struct Print {
    /// Digest of the bytes, in order.
    pub flat: Digest,
    /// Equal for every order of the same elements, and hardly ever for others.
    pub bag: u64,
    /// Whether equality with another tensor means something.
    pub informative: bool,
}

impl Print {
    /// Fingerprint of little-endian elements.
    pub fn of(dtype: Dtype, data: &[u8]) -> Print {
        let look = Look::new(dtype, data.len() / bytes_of(dtype));
        data.par_chunks(STRETCH).for_each(|part| look.see(part));
        look.print(Digest::of(data))
    }
}

fn bytes_of(dtype: Dtype) -> usize {
    (dtype.bits() / 8).max(1)
}

/// All that is found out about a tensor by looking at its bytes once, part by part, in any order and by several threads.
pub(in crate::mapping) struct Look {
    dtype: Dtype,
    count: usize,
    /// Length of what was seen, in bytes.
    seen: AtomicUsize,
    sums: [AtomicU64; 3],
    /// Different elements that were seen, until there are [`DISTINCT`] of them.
    few: Mutex<Vec<[u8; 16]>>,
    many: AtomicBool,
}

impl Look {
    /// At a tensor of so many elements.
    pub fn new(dtype: Dtype, count: usize) -> Look {
        Look {
            dtype,
            count,
            seen: AtomicUsize::new(0),
            sums: Default::default(),
            few: Mutex::default(),
            many: AtomicBool::new(false),
        }
    }

    /// Takes note of `part`.
    pub fn see(&self, part: &[u8]) {
        self.seen.fetch_add(part.len(), Ordering::Relaxed);
        match bytes_of(self.dtype) {
            2 => self.see_elements::<2>(part, moments_of_2),
            4 => self.see_elements::<4>(part, moments_of_4),
            8 => self.see_elements::<8>(part, mixed),
            16 => self.see_elements::<16>(part, mixed),
            _ => self.see_elements::<1>(part, mixed),
        }
    }

    fn see_elements<const N: usize>(&self, part: &[u8], moments: fn(&[[u8; N]]) -> [u64; 3]) {
        let elements = part.as_chunks::<N>().0;
        // Of few elements a sum tells less.
        let sums = if self.count <= FEW {
            mixed(elements)
        } else {
            moments(elements)
        };
        for (all, sum) in self.sums.iter().zip(sums) {
            all.fetch_add(sum, Ordering::Relaxed);
        }
        if self.many.load(Ordering::Relaxed) {
            return;
        }
        let mut few = self.few.lock().unwrap_or_else(PoisonError::into_inner);
        for element in elements {
            let mut padded = [0; 16];
            padded[..N].copy_from_slice(element);
            if !few.contains(&padded) {
                few.push(padded);
            }
            // More of them decide nothing, and a tensor may have millions.
            if few.len() >= DISTINCT {
                self.many.store(true, Ordering::Relaxed);
                break;
            }
        }
    }

    /// Length of what was seen, in bytes.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// Once all was seen: the fingerprint of what has the digest `flat`.
    pub fn print(&self, flat: Digest) -> Print {
        let [first, second, third] = self.sums.each_ref().map(|s| s.load(Ordering::Relaxed));
        // Those of two bytes are sums of 32 bits, of which what runs over is chance.
        let [second, third] = match bytes_of(self.dtype) {
            2 if self.count > FEW => [second, third].map(|s| s & u64::from(u32::MAX)),
            _ => [second, third],
        };
        Print {
            flat,
            bag: mix(mix(mix(first) ^ second) ^ third),
            informative: self.count >= INFORMATIVE_COUNT && self.many.load(Ordering::Relaxed),
        }
    }

    /// Once all was seen: how many different elements there are, where they are few.
    pub fn few(&self) -> Option<usize> {
        let few = self.few.lock().unwrap_or_else(PoisonError::into_inner);
        (few.len() < DISTINCT).then_some(few.len())
    }
}

/// A sum of a hash of every element. In an exclusive or, equal elements would cancel.
fn mixed<const N: usize>(elements: &[[u8; N]]) -> [u64; 3] {
    let words = elements.iter().map(word);
    let bag = words.fold(0u64, |bag, word| bag.wrapping_add(mix(word)));
    [bag, 0, 0]
}

/// Elements whose 32-bit sums are added up at a time: short enough for the sum of 16 bits each.
const LANE: usize = 1 << 12;

/// The sum of the elements, of their squares, and of the squares of a permutation of all 16-bit numbers; the last two by 32 bits. For many
/// elements that is as good as a hash of each, and several times as fast.
fn moments_of_2(elements: &[[u8; 2]]) -> [u64; 3] {
    let mut sums = [0u64; 3];
    for lane in elements.chunks(LANE) {
        let (mut first, mut second, mut third) = (0u32, 0u32, 0u32);
        for element in lane {
            let x = u16::from_le_bytes(*element);
            let y = x.wrapping_mul(0x9e35);
            let y = y ^ (y >> 7);
            let square = |v: u16| {
                let v = i32::from(v.cast_signed());
                v.wrapping_mul(v).cast_unsigned()
            };
            first = first.wrapping_add(u32::from(x));
            second = second.wrapping_add(square(x));
            third = third.wrapping_add(square(y));
        }
        for (sum, lane) in sums.iter_mut().zip([first, second, third]) {
            *sum = sum.wrapping_add(u64::from(lane));
        }
    }
    sums
}

/// The sum of the elements and that of their squares, by 64 bits.
fn moments_of_4(elements: &[[u8; 4]]) -> [u64; 3] {
    let (mut first, mut second) = (0u64, 0u64);
    for element in elements {
        let x = u64::from(u32::from_le_bytes(*element));
        first = first.wrapping_add(x);
        second = second.wrapping_add(x.wrapping_mul(x));
    }
    [first, second, 0]
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

/// The relations under which a source of shape `from` has exactly the bytes of a weight of shape `to`, both squeezed and of the same bag.
/// `flat` says whether the bytes are equal in order, and `turned` whether they are with the source's axes in an order.
///
/// Those that fit the layout come first. Where the layout is known, the first that fits ends the search; where it is not,
/// all are found, so that a symmetric matrix shows both.
pub(in crate::mapping) fn relations<E>(
    from: &[usize],
    to: &[usize],
    layout: Layout,
    flat: bool,
    mut turned: impl FnMut(&[usize]) -> Result<bool, E>,
) -> Result<Vec<Relation>, E> {
    let mut candidates: Vec<Relation> = orders(from, to).into_iter().map(Relation::Order).collect();
    if candidates.is_empty() {
        return Ok(if flat {
            vec![Relation::Reshape]
        } else {
            Vec::new()
        });
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
            turned(order)?
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
    Ok(found)
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
    use crate::tensor::{Tensor, TensorView, permute};

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
        let (from, to) = (squeezed(&a.shape), squeezed(&b.shape));
        let turned = |order: &[usize]| {
            let view = TensorView {
                shape: &from,
                ..a.view()
            };
            Ok::<_, ConvertError>(permute(view, order)? == b.data)
        };
        relations(&from, &to, layout, pa.flat == pb.flat, turned).unwrap()
    }

    #[test]
    fn the_bag_of_many_elements_is_that_of_any_order_and_any_parts() {
        let bytes: Vec<u8> = (0..8 * 3 * FEW as u64)
            .map(|i| (i.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u8)
            .collect();
        for dtype in [Dtype::U8, Dtype::F16, Dtype::F32, Dtype::F64] {
            let width = dtype.bits() / 8;
            let whole = Print::of(dtype, &bytes);
            let backwards: Vec<u8> = bytes.chunks(width).rev().flatten().copied().collect();
            assert_eq!(Print::of(dtype, &backwards).bag, whole.bag, "{dtype}");
            // One element by one bit, and two by the same in both directions.
            let mut other = bytes.clone();
            other[width * 5] ^= 1;
            assert_ne!(Print::of(dtype, &other).bag, whole.bag, "{dtype}");
            let mut other = bytes.clone();
            let (a, b) = (width * 7, width * 9);
            (other[a], other[b]) = (other[a].wrapping_add(3), other[b].wrapping_sub(3));
            assert_ne!(Print::of(dtype, &other).bag, whole.bag, "{dtype}");
            let look = Look::new(dtype, bytes.len() / width);
            for part in bytes.chunks(16 * 1000).collect::<Vec<_>>().iter().rev() {
                look.see(part);
            }
            assert_eq!(look.seen(), bytes.len());
            assert_eq!(look.print(whole.flat), whole, "{dtype}");
            assert_eq!(look.few(), None);
        }
        let three = Look::new(Dtype::F16, 4);
        three.see(&[0, 1, 2, 3]);
        three.see(&[0, 1, 1, 0]);
        assert_eq!(three.few(), Some(3));
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
