//! A number of places and the queue for them: of the pool of instances, and of one function; it never runs anything.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// So many invocations at once; others wait, first come, first served.
pub struct Places(Arc<Counted>);

struct Counted {
    free: Semaphore,
    all: AtomicU64,
    /// Places that are taken and go when they are given back: there are fewer now.
    owed: AtomicU64,
    waiting: AtomicU64,
    /// Held while the number changes.
    changing: Mutex<()>,
}

/// One of the places; given back when dropped.
pub struct Slot(Arc<Counted>);

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.pay(1) == 0 {
            self.0.free.add_permits(1);
        }
    }
}

impl Counted {
    /// Takes up to `most` off what is owed, and says how many.
    fn pay(&self, most: u64) -> u64 {
        let less = |owed: u64| (owed > 0).then(|| owed.saturating_sub(most));
        self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).map_or(0, |owed| owed.min(most))
    }
}

impl Places {
    /// The most places there can be: nobody ever waits for one.
    pub const MOST: u64 = Semaphore::MAX_PERMITS as u64;

    /// `all` places, every one free; no more than [`Places::MOST`].
    pub fn new(all: u64) -> Places {
        let all = all.min(Places::MOST);
        Places(Arc::new(Counted {
            free: Semaphore::new(all as usize),
            all: AtomicU64::new(all),
            owed: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            changing: Mutex::new(()),
        }))
    }

    /// How many places there are.
    pub fn all(&self) -> u64 {
        self.0.all.load(Ordering::Relaxed)
    }

    /// Changes how many places there are. Those that are taken stay taken, and count.
    pub fn resize(&self, all: u64) {
        let Counted { free, owed, changing, .. } = &*self.0;
        let _changing = changing.lock();
        let all = all.min(Places::MOST);
        let before = self.0.all.swap(all, Ordering::Relaxed);
        if all > before {
            let more = all - before;
            free.add_permits((more - self.0.pay(more)) as usize);
        } else {
            let less = before - all;
            owed.fetch_add(less - free.forget_permits(less as usize) as u64, Ordering::AcqRel);
        }
    }

    /// How many are taken, and how many wait for one, right now.
    pub fn load_now(&self) -> (u64, u64) {
        let there = self.all() + self.0.owed.load(Ordering::Acquire);
        let taken = there.saturating_sub(self.0.free.available_permits() as u64);
        (taken, self.0.waiting.load(Ordering::Relaxed))
    }

    /// A place. Waits while all are taken.
    ///
    /// Errors: that of `full`, which gets how many wait, when `queue` wait already.
    pub async fn take(&self, queue: u64, full: impl FnOnce(u64) -> Error) -> Result<Slot> {
        let slot = |permit: SemaphorePermit<'_>| {
            // The slot gives it back.
            permit.forget();
            Slot(self.0.clone())
        };
        if let Ok(permit) = self.0.free.try_acquire() {
            return Ok(slot(permit));
        }
        let before = self.0.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.0.waiting);
        if before >= queue {
            return Err(full(before));
        }
        self.0.free.acquire().await.map(slot).map_err(|error| Error::host("waiting for a place", error))
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

    #[tokio::test]
    async fn places_change_their_number_while_some_are_taken() {
        let places = Places::new(Places::MOST);
        let full = |_| Error::overloaded("full");
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(places.take(0, full).await.ok().unwrap());
        }
        places.resize(2);
        assert_eq!((places.all(), places.load_now()), (2, (3, 0)));
        assert!(places.take(0, full).await.is_err());
        taken.pop();
        assert_eq!(places.load_now(), (2, 0));
        assert!(places.take(0, full).await.is_err(), "two of two are taken still");
        taken.pop();
        taken.push(places.take(0, full).await.ok().unwrap());
        // Down to one with two taken, and up again before either is back.
        places.resize(1);
        places.resize(3);
        taken.push(places.take(0, full).await.ok().unwrap());
        assert!(places.take(0, full).await.is_err());
        taken.clear();
        assert_eq!(places.load_now(), (0, 0));
        places.resize(Places::MOST);
        assert_eq!((places.all(), places.load_now()), (Places::MOST, (0, 0)));
    }
}
