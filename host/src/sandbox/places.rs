//! A number of places and the queue for them: of the pool of instances, and of one function; it never runs anything.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many invocations at once; others wait, first come, first served.
pub struct Places {
    free: Arc<Semaphore>,
    all: u64,
    waiting: AtomicU64,
}

/// One of the places; given back when dropped.
pub struct Slot(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Places {
    /// `all` places, every one free.
    pub fn new(all: u64) -> Places {
        let most = Semaphore::MAX_PERMITS as u64;
        let all = all.min(most);
        Places { free: Arc::new(Semaphore::new(all as usize)), all, waiting: AtomicU64::new(0) }
    }

    /// How many places there are.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// How many are taken, and how many wait for one, right now.
    pub fn load_now(&self) -> (u64, u64) {
        (self.all - self.free.available_permits() as u64, self.waiting.load(Ordering::Relaxed))
    }

    /// A place. Waits while all are taken.
    ///
    /// Errors: that of `full`, which gets how many wait, when `queue` wait already.
    pub async fn take(&self, queue: u64, full: impl FnOnce(u64) -> Error) -> Result<Slot> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Ok(Slot(permit));
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= queue {
            return Err(full(before));
        }
        let permit = self.free.clone().acquire_owned().await;
        permit.map(Slot).map_err(|error| Error::host("waiting for a place", error))
    }
}

struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn places_are_taken_waited_for_and_refused() {
        let places = Arc::new(Places::new(1));
        let full = |waiting| Error::overloaded(format!("{waiting} wait"));
        let first = places.take(1, full).await.ok().unwrap();
        let second = tokio::spawn({
            let places = places.clone();
            async move { places.take(1, full).await.is_ok() }
        });
        while places.load_now() != (1, 1) {
            tokio::task::yield_now().await;
        }
        let refused = places.take(1, full).await.err().unwrap();
        assert_eq!((refused.kind(), refused.message()), (Kind::Overloaded, "1 wait"));
        drop(first);
        assert!(second.await.unwrap());
        assert_eq!(places.load_now(), (0, 0));
    }
}
