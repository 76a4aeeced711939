//! Work on many tensors in parallel within a bound on memory: as many at once as their buffers fit, one at a time where one
//! alone is larger.

use rayon::prelude::*;

/// Bytes of buffers that may be alive at once, unless one item alone needs more.
const AT_ONCE: usize = 96 << 20;

/// `work` on every item, in order of `items`; of several errors, the first. `cost` is the bytes of buffers that it takes. Waiting inside of a thread pool
/// could deadlock, so items are cut into runs instead, each run in parallel.
pub(crate) fn batched<T: Sync, R: Send, E: Send>(
    items: &[T],
    cost: impl Fn(&T) -> usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let mut done = Vec::with_capacity(items.len());
    let mut rest = items;
    while !rest.is_empty() {
        let mut sum = 0usize;
        let fit = rest
            .iter()
            .take_while(|item| {
                sum = sum.saturating_add(cost(item));
                sum <= AT_ONCE
            })
            .count();
        let (run, later) = rest.split_at(fit.max(1));
        // A parallel collection into one result would keep any of several errors, another one each time.
        let results: Vec<Result<R, E>> = run.par_iter().map(&work).collect();
        for result in results {
            done.push(result?);
        }
        rest = later;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_run_costs_more_than_the_bound_and_order_is_kept() {
        let (alive, worst) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let items: Vec<usize> = (0..200).map(|i| (i % 7) * (10 << 20)).collect();
        let done = batched(
            &items,
            |&bytes| bytes,
            |&bytes| {
                let now = alive.fetch_add(bytes, Ordering::SeqCst) + bytes;
                worst.fetch_max(now, Ordering::SeqCst);
                alive.fetch_sub(bytes, Ordering::SeqCst);
                Ok::<_, ()>(bytes)
            },
        );
        assert_eq!(done.unwrap(), items);
        assert!(worst.into_inner() <= AT_ONCE);
        let huge = batched(&[usize::MAX, 1], |&b| b, |&b| Ok::<_, ()>(b));
        assert_eq!(huge.unwrap(), [usize::MAX, 1]);
        for _ in 0..200 {
            assert_eq!(batched(&[1, 2], |_| 1, |&b| Err::<(), _>(b)), Err(1));
        }
    }
}
