//! Work on many tensors at once, in bounded memory: small ones on all cores, large ones a few at a time.
//!
//! A step holds up to four copies of its tensor (as stored, as floats, the other side, their difference), so that what is under way
//! at a time stays at 256 MiB, or four times the largest tensor.

use rayon::prelude::*;

/// Bytes of tensors under way at a time, unless one alone is larger.
const AT_ONCE: usize = 64 << 20;

/// `f` of every item, in their order. `bytes` is how large a tensor is that `f` copies; 0 where it copies none.
pub(super) fn each<T: Sync, R: Send, E: Send>(
    items: &[T],
    bytes: impl Fn(&T) -> usize,
    f: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let mut all = Vec::with_capacity(items.len());
    let mut rest = items;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = |item: &&T| {
            let first = sum == 0;
            sum += bytes(item);
            first || sum <= AT_ONCE
        };
        let (now, later) = rest.split_at(rest.iter().take_while(fits).count());
        all.extend(now.par_iter().map(&f).collect::<Result<Vec<R>, E>>()?);
        rest = later;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn large_items_wait_and_order_stays() {
        let sizes = [
            AT_ONCE / 2,
            AT_ONCE / 2,
            0,
            AT_ONCE,
            3 * AT_ONCE,
            1,
            0,
            2,
            AT_ONCE,
        ];
        let (now, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done = each(
            &sizes,
            |s| *s,
            |&s| {
                peak.fetch_max(now.fetch_add(s, SeqCst) + s, SeqCst);
                std::thread::yield_now();
                now.fetch_sub(s, SeqCst);
                Ok::<_, ()>(s)
            },
        );
        assert_eq!(done.unwrap(), sizes);
        assert_eq!(peak.load(SeqCst), 3 * AT_ONCE);
        assert_eq!(
            each(&sizes, |s| *s, |&s| if s == 1 { Err(s) } else { Ok(s) }),
            Err(1)
        );
    }
}
