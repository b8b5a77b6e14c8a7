//! Threads that help one copy between a program's memory and pinned memory, because one core copies more slowly than the bus;
//! the process never runs more of them than the machine has cores.

use super::driver::{Failure, Outcome};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes per thread that justify its start, which takes some 50 microseconds.
const WORTH_BYTES: usize = 4 << 20;
/// Threads of one copy, the caller's own included.
const MOST: usize = 8;

/// Threads that help at present.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// Permission to start this many threads, until it is dropped.
pub(super) struct Helpers(usize);

impl Helpers {
    /// As many threads as a copy of this many bytes needs and the machine can spare; none for a small copy.
    pub(super) fn of(bytes: usize) -> Helpers {
        let wanted = (bytes / WORTH_BYTES).min(MOST).saturating_sub(1);
        if wanted == 0 {
            return Helpers(0);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut granted = 0;
        let grant = |busy: usize| {
            granted = wanted.min(cores.saturating_sub(busy + 1));
            Some(busy + granted)
        };
        // It never fails, because the closure always returns a number.
        let _ = BUSY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grant);
        Helpers(granted)
    }

    /// The number of threads, including the caller's.
    pub(super) fn lanes(&self) -> usize {
        self.0 + 1
    }

    /// Does all parts; each part is done by the next free lane.
    ///
    /// Errors: one of any part; parts that were not begun by then are skipped.
    pub(super) fn share<T: Send>(&self, parts: Vec<T>, work: &(dyn Fn(T) -> Outcome<()> + Sync)) -> Outcome<()> {
        let parts = Mutex::new(parts.into_iter());
        let next = || parts.lock().next();
        let lane = || std::iter::from_fn(next).try_for_each(work);
        if self.0 == 0 {
            return lane();
        }
        let panicked = || Err(Failure::Failed("a copying thread panicked".to_owned()));
        std::thread::scope(|scope| {
            let lane = &lane;
            // Where the system cannot start a thread, the others do its part.
            let started: Vec<_> =
                (0..self.0).filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, lane).ok()).collect();
            let mut outcome = lane();
            for thread in started {
                outcome = outcome.and(thread.join().unwrap_or_else(|_| panicked()));
            }
            outcome
        })
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        BUSY.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// At most `lanes` ranges that together cover `0..bytes`, whose starts are multiples of `unit`.
pub(super) fn sections(bytes: usize, lanes: usize, unit: usize) -> Vec<Range<usize>> {
    let length = bytes.div_ceil(lanes.max(1)).next_multiple_of(unit);
    (0..bytes).step_by(length.max(1)).map(|start| start..(start + length).min(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_cover_all_once() {
        for bytes in [0, 1, 63, 64, 65, 1_000, 4_096] {
            for lanes in [1, 2, 3, 8] {
                let sections = sections(bytes, lanes, 64);
                assert!(sections.len() <= lanes && sections.iter().all(|range| range.start % 64 == 0));
                let covered: Vec<usize> = sections.into_iter().flatten().collect();
                assert!(covered.into_iter().eq(0..bytes), "{bytes} {lanes}");
            }
        }
    }

    #[test]
    fn a_failure_of_any_part_is_told_once_all_lanes_have_ended() {
        let begun = AtomicUsize::new(0);
        let helpers = Helpers(3);
        BUSY.fetch_add(3, Ordering::Relaxed);
        let fails_at = |wrong: usize| {
            let work = |part| {
                begun.fetch_add(1, Ordering::Relaxed);
                if part == wrong { Err(Failure::OutOfMemory) } else { Ok(()) }
            };
            helpers.share((0..100).collect(), &work)
        };
        assert_eq!(fails_at(42), Err(Failure::OutOfMemory));
        assert!(begun.swap(0, Ordering::Relaxed) > 42);
        assert_eq!((fails_at(100), begun.into_inner()), (Ok(()), 100));
    }
}
