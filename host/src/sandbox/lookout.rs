//! Makes sure that a thread polls the network while another runs a guest; it never runs a guest itself.
//!
//! A tokio worker that returns from the network poll with one task runs that task and wakes no other worker. Until that task
//! yields, nobody polls the network; a guest first yields at a tick of the epoch, milliseconds later. Another worker that is
//! woken meanwhile, and finds nothing to do, polls the network. Waking one costs microseconds, so this is done only for functions
//! that run long.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Guests that run shorter than this delay nothing.
const LONG: Duration = Duration::from_micros(150);
/// After this many short runs in a row, a function counts as one of short runs. A function that alternates never does.
const REMEMBERED: u32 = 128;

/// What is known about a function's run times.
#[derive(Debug)]
pub(super) struct Lookout {
    /// Short runs that are left until the function counts as one of short runs.
    expected: AtomicU32,
}

impl Lookout {
    /// For a function that never ran: it may run long.
    pub(super) fn new() -> Lookout {
        Lookout { expected: AtomicU32::new(REMEMBERED) }
    }

    /// A run of the function begins. Must be called within a runtime.
    pub(super) fn begins(&self) {
        if self.expected.load(Ordering::Relaxed) > 0 {
            // A worker keeps the last spawned task for itself, and wakes another worker for the one before.
            tokio::spawn(async {});
            tokio::spawn(async {});
        }
    }

    /// A run took this much processor time.
    pub(super) fn ended(&self, ran: Duration) {
        if ran >= LONG {
            self.expected.store(REMEMBERED, Ordering::Relaxed);
        } else if let left @ 1.. = self.expected.load(Ordering::Relaxed) {
            // Runs that end at the same time may be counted as one.
            self.expected.store(left - 1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_remembered_for_a_while() {
        let lookout = Lookout::new();
        let expects = |lookout: &Lookout| lookout.expected.load(Ordering::Relaxed) > 0;
        for _ in 0..REMEMBERED {
            assert!(expects(&lookout));
            lookout.ended(Duration::from_micros(10));
        }
        assert!(!expects(&lookout));
        lookout.ended(LONG);
        assert!(expects(&lookout));
    }
}
