//! Signals long work to stop, by cancellation or deadline; it never interrupts anything by itself.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A switch that is off until it is cancelled or a deadline passes. Clones share the switch.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    cancelled: Arc<AtomicBool>,
    /// The switch of the whole work, where this is for a part.
    whole: Option<Arc<AtomicBool>>,
    deadline: Option<Instant>,
    /// How often it was checked.
    #[cfg(test)]
    looks: Arc<std::sync::atomic::AtomicUsize>,
    /// The number of the check at which it becomes cancelled.
    #[cfg(test)]
    last: Option<usize>,
}

impl Stop {
    /// A switch with a deadline, if any.
    pub fn new(deadline: Option<Instant>) -> Stop {
        Stop { deadline, ..Stop::default() }
    }

    /// A switch for a part of this work: it is cancelled with the whole, and may be cancelled alone.
    #[must_use]
    pub fn child(&self) -> Stop {
        Stop { whole: Some(self.cancelled.clone()), deadline: self.deadline, ..Stop::default() }
    }

    /// Withdraws the work of all clones.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Stop::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        let on = |switch: &AtomicBool| switch.load(Ordering::Relaxed);
        on(&self.cancelled) || self.whole.as_deref().is_some_and(on)
    }

    /// When work must end.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// A switch that is cancelled when it is checked for the n-th time.
    #[cfg(test)]
    pub(crate) fn at_look(n: usize) -> Stop {
        Stop { last: Some(n), ..Stop::default() }
    }

    /// How often it was checked.
    #[cfg(test)]
    pub(crate) fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// An error once the work should stop: `cancelled` or `deadline-exceeded`.
    pub fn check(&self) -> Result<()> {
        #[cfg(test)]
        if Some(self.looks.fetch_add(1, Ordering::Relaxed) + 1) == self.last {
            self.cancel();
        }
        if self.is_cancelled() {
            return Err(Error::cancelled("the work was withdrawn"));
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => {
                Err(Error::deadline_exceeded("the deadline passed; do less in one invocation or raise its time limit"))
            }
            _ => Ok(()),
        }
    }
}

/// Counts a loop's operations and checks a [`Stop`] about once a millisecond: one operation is about a nanosecond.
#[derive(Debug)]
pub(crate) struct Pace<'a> {
    stop: &'a Stop,
    left: usize,
}

impl<'a> Pace<'a> {
    /// The most operations between two checks, in long runs of elements too.
    pub(crate) const CHUNK: usize = 1 << 20;

    /// The cost, in operations, of an access far from the previous one: its page is not in the TLB, or is touched for the first
    /// time.
    pub(crate) const FAR: usize = 64;

    /// Accesses of that kind between two checks, at most.
    pub(crate) const FAR_CHUNK: usize = Pace::CHUNK / Pace::FAR;

    /// The cost of an element in a loop whose accesses are this many bytes apart.
    pub(crate) fn apart(bytes: usize) -> usize {
        match bytes {
            0..64 => 1,
            64..2_048 => 8,
            _ => Pace::FAR,
        }
    }

    /// A counter whose first check comes after [`Pace::CHUNK`] operations.
    pub(crate) fn new(stop: &'a Stop) -> Pace<'a> {
        Pace { stop, left: Pace::CHUNK }
    }

    /// Must be called before this many operations.
    #[inline]
    pub(crate) fn spend(&mut self, operations: usize) -> Result<()> {
        match self.left.checked_sub(operations) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = Pace::CHUNK;
                self.stop.check()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_clone_sees_the_cancellation_and_the_deadline() {
        let stop = Stop::default();
        let clone = stop.clone();
        assert!(clone.check().is_ok());
        stop.cancel();
        assert_eq!(clone.check().unwrap_err().kind(), Kind::Cancelled);
        let late = Stop::new(Some(Instant::now()));
        assert_eq!(late.check().unwrap_err().kind(), Kind::DeadlineExceeded);
    }

    #[test]
    fn a_part_ends_with_the_whole_but_not_the_other_way() {
        let whole = Stop::default();
        let (a, b) = (whole.child(), whole.child());
        a.cancel();
        assert!(a.is_cancelled() && !b.is_cancelled() && !whole.is_cancelled());
        whole.cancel();
        assert!(b.is_cancelled());
    }

    #[test]
    fn a_loop_notices_within_a_chunk() {
        let stop = Stop::default();
        let mut pace = Pace::new(&stop);
        stop.cancel();
        assert!(pace.spend(Pace::CHUNK).is_ok());
        assert_eq!(pace.spend(1).unwrap_err().kind(), Kind::Cancelled);
        assert!(pace.spend(usize::MAX).is_err());
    }
}
