//! Sees to it that some thread looks for new requests while another runs a guest; it never runs one itself.
//!
//! A worker of tokio that comes from its wait for the network with one task runs that task, and wakes no other worker: nobody
//! waits for the network until the task yields, which a guest does at the first tick of the epoch, milliseconds later. A
//! worker that is woken meanwhile, and finds nothing to do, waits for the network in its stead. Waking one costs microseconds,
//! so it is done for guests that take long only.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Guests that run shorter than this keep nobody waiting.
const LONG: Duration = Duration::from_micros(150);
/// So many short runs in a row make a function one of short runs: whoever alternates gains nothing.
const REMEMBERED: u32 = 128;

/// What is known of how long a function runs.
#[derive(Debug)]
pub(super) struct Lookout {
    /// Runs until it is taken for one of short runs.
    expected: AtomicU32,
}

impl Lookout {
    /// Of a function that never ran: it may take long.
    pub(super) fn new() -> Lookout {
        Lookout { expected: AtomicU32::new(REMEMBERED) }
    }

    /// A run of the function begins. Must be called within a runtime.
    pub(super) fn begins(&self) {
        if self.expected.load(Ordering::Relaxed) > 0 {
            // A worker keeps the task that was spawned last for itself; for the one before it wakes another worker.
            tokio::spawn(async {});
            tokio::spawn(async {});
        }
    }

    /// A run had the processor for so long.
    pub(super) fn ended(&self, ran: Duration) {
        if ran >= LONG {
            self.expected.store(REMEMBERED, Ordering::Relaxed);
        } else if let left @ 1.. = self.expected.load(Ordering::Relaxed) {
            // Runs that end at the same time may count as one.
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
