//! Lets so many children run at once and so many more wait; it never starts or ends one.

use crate::error::{Error, Result};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one queue.
#[derive(Debug)]
pub(super) struct Places {
    running: Arc<Semaphore>,
    waiting: Semaphore,
    most_waiting: u64,
}

impl Places {
    pub(super) fn new(running: u64, waiting: u64) -> Places {
        let places = |count: u64| Semaphore::new(count as usize);
        Places { running: Arc::new(places(running)), waiting: places(waiting), most_waiting: waiting }
    }

    /// A place for `what`, which is free again when it is dropped. Waits while all are taken.
    ///
    /// Errors: `overloaded` where too many wait already.
    pub(super) async fn take(&self, what: &str) -> Result<OwnedSemaphorePermit> {
        // Whoever waits gets a place that becomes free, so this passes nobody.
        if let Ok(place) = self.running.clone().try_acquire_owned() {
            return Ok(place);
        }
        let Ok(_waits) = self.waiting.try_acquire() else {
            let most = self.most_waiting;
            let message =
                format!("{what} cannot wait: {most} others do already (limit queued_processes); try again later");
            return Err(Error::overloaded(message));
        };
        let place = self.running.clone().acquire_owned().await;
        place.map_err(|error| Error::host("waiting for a child's place", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use futures_util::poll;
    use std::pin::pin;

    #[tokio::test]
    async fn so_many_run_so_many_wait_and_more_are_overloaded() {
        let places = Places::new(1, 1);
        let first = places.take("a").await.unwrap();
        let mut second = pin!(places.take("b"));
        assert!(poll!(&mut second).is_pending());
        let error = places.take("the model's check").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Overloaded);
        assert!(
            error.message().contains("the model's check") && error.message().contains("queued_processes"),
            "{error}"
        );
        drop(first);
        let second = second.await.unwrap();
        // Nobody waits any more, so one may.
        let mut third = Box::pin(places.take("c"));
        assert!(poll!(&mut third).is_pending());
        // Who gives up waiting leaves the place to the next.
        drop(third);
        assert!(poll!(pin!(places.take("d"))).is_pending());
        drop(second);
        drop(places.take("e").await.unwrap());
    }
}
