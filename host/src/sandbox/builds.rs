//! Functions that were compiled, with and without a snapshot, by key, and those that are being built: each is built once for all who ask
//! meanwhile. It never builds anything itself.

use super::Function;
use crate::error::{Error, Kind, Result};
use crate::single_flight::{Failure, Flight, WeakFlight, Work};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a failure is told again before it is tried again: a function that fails must not keep a child busy for everybody
/// who calls it.
const FAILURES_LAST: Duration = Duration::from_secs(5);

/// Whether a build ends with its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It ends when the last caller leaves: for what is not deployed yet.
    Attached,
    /// It goes on to its end: the next caller finds it built.
    Detached,
}

/// The functions of this process.
#[derive(Default)]
pub(super) struct Builds {
    entries: Mutex<HashMap<String, Entry>>,
}

enum Entry {
    Building {
        flight: WeakFlight<Built>,
        /// A share of the table's own, which has the build go on to its end.
        kept: Option<Flight<Built>>,
    },
    Ready(Arc<Function>),
    Failed {
        until: Instant,
        failure: Failure,
    },
}

type Built = Result<Arc<Function>, Failure>;

/// What callers are told of an error; the log gets the cause of the server's own.
fn failure_of(error: &Error) -> Failure {
    if error.kind() == Kind::Internal {
        tracing::error!("{}", error.chain());
    }
    Failure::new(error.kind(), error.message())
}

/// Whether the same work would fail again.
fn would_fail_again(kind: Kind) -> bool {
    match kind {
        Kind::InvalidArgument
        | Kind::Unsupported
        | Kind::NotFound
        | Kind::PermissionDenied
        | Kind::Conflict
        | Kind::TooLarge
        | Kind::LimitExceeded
        | Kind::Malformed
        | Kind::HandlerFailed => true,
        Kind::Overloaded
        | Kind::DeadlineExceeded
        | Kind::Cancelled
        | Kind::Unavailable
        | Kind::Internal
        | Kind::StorageFull => false,
    }
}

impl Builds {
    /// The function of a key where there is one, or else what `build` gives, which is begun once for all who ask meanwhile.
    ///
    /// Errors: those of `build`, also of one that failed a moment ago.
    pub(super) async fn get_or_build(
        self: &Arc<Self>,
        key: &str,
        lifetime: Lifetime,
        build: impl Future<Output = Result<Function>> + Send + 'static,
    ) -> Result<Arc<Function>> {
        let flight = {
            let mut entries = self.entries();
            let (joined, kept) = match entries.get_mut(key) {
                Some(Entry::Ready(function)) => return Ok(function.clone()),
                Some(Entry::Failed { until, failure }) if *until > Instant::now() => {
                    return Err(failure.clone().into());
                }
                Some(Entry::Building { flight, kept }) => (flight.upgrade(), kept.take()),
                Some(Entry::Failed { .. }) | None => (None, None),
            };
            let (flight, kept) = match joined.filter(|flight| !flight.is_over()) {
                Some(flight) => (flight, kept),
                None => (self.begin(key, build), None),
            };
            let kept = match lifetime {
                Lifetime::Attached => kept,
                Lifetime::Detached => Some(flight.clone()),
            };
            entries.insert(key.to_owned(), Entry::Building { flight: flight.downgrade(), kept });
            flight
        };
        let ended_early = || failure_of(&Error::host("making a function ready", "the task that built it is gone"));
        Ok(flight.outcome().await.unwrap_or_else(|| Err(ended_early()))?)
    }

    fn begin(
        self: &Arc<Self>,
        key: &str,
        build: impl Future<Output = Result<Function>> + Send + 'static,
    ) -> Flight<Built> {
        let (flight, work) = Flight::new();
        let (builds, key) = (self.clone(), key.to_owned());
        tokio::spawn(async move {
            if let Some(built) = work.run(build).await {
                let built = built.map(Arc::new).map_err(|error| failure_of(&error));
                builds.remember(key, &work, &built);
                work.finish(built);
            }
        });
        flight
    }

    fn remember(&self, key: String, work: &Work<Built>, built: &Built) {
        let mut entries = self.entries();
        // What was forgotten meanwhile stays so, and what was begun anew has work of its own.
        let remembers_failures = match entries.get(&key) {
            Some(Entry::Building { flight, kept }) if work.is_of(flight) => kept.is_some(),
            _ => return,
        };
        match built {
            Ok(function) => drop(entries.insert(key, Entry::Ready(function.clone()))),
            // Who uploads it again wants it tried again, so it is remembered only where others call it.
            Err(failure) if remembers_failures && would_fail_again(failure.kind()) => {
                let until = Instant::now() + FAILURES_LAST;
                entries.insert(key, Entry::Failed { until, failure: failure.clone() });
            }
            Err(_) => drop(entries.remove(&key)),
        }
    }

    /// Forgets everything whose key begins with a component's digest.
    pub(super) fn forget(&self, digest: &str) {
        self.entries().retain(|key, _| !key.starts_with(digest));
    }

    /// Forgets what nobody uses, but for `kept`, and failures that are over. It is found on disk should it come back.
    pub(super) fn sweep(&self, kept: &str) {
        let now = Instant::now();
        self.entries().retain(|key, entry| match entry {
            Entry::Building { flight, .. } => flight.upgrade().is_some_and(|flight| !flight.is_over()),
            Entry::Ready(function) => key == kept || Arc::strong_count(function) > 1,
            Entry::Failed { until, .. } => *until > now,
        });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::sync::Semaphore;

    /// Builds of one key that wait to be let on, and then fail.
    #[derive(Clone, Default)]
    struct Site {
        builds: Arc<Builds>,
        begun: Arc<AtomicU64>,
        ended: Arc<AtomicU64>,
        go: Arc<Mutex<Option<Arc<Semaphore>>>>,
    }

    struct CountsEnd(Arc<AtomicU64>);

    impl Drop for CountsEnd {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Site {
        fn ask(&self, lifetime: Lifetime, error: fn() -> Error) -> tokio::task::JoinHandle<Kind> {
            let site = self.clone();
            let go = self.go.lock().get_or_insert_with(|| Arc::new(Semaphore::new(0))).clone();
            tokio::spawn(async move {
                let build = {
                    let site = site.clone();
                    async move {
                        site.begun.fetch_add(1, Ordering::Relaxed);
                        let _end = CountsEnd(site.ended.clone());
                        go.acquire().await.unwrap().forget();
                        Err(error())
                    }
                };
                site.builds.get_or_build("key", lifetime, build).await.map(drop).unwrap_err().kind()
            })
        }

        fn let_on(&self) {
            self.go.lock().as_ref().unwrap().add_permits(1);
        }

        async fn until(&self, begun: u64, ended: u64) {
            let now = || (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
            let all = tokio::time::timeout(Duration::from_secs(10), async {
                while now() != (begun, ended) {
                    tokio::task::yield_now().await;
                }
            });
            all.await.unwrap_or_else(|_| panic!("{:?} instead of {:?}", now(), (begun, ended)));
        }
    }

    fn wrong() -> Error {
        Error::invalid_argument("wrong")
    }

    #[tokio::test]
    async fn a_failure_is_remembered_where_the_build_was_to_go_on_and_would_fail_again() {
        for (lifetime, error, again) in [
            (Lifetime::Detached, wrong as fn() -> Error, 1),
            (Lifetime::Attached, wrong, 2),
            (Lifetime::Detached, || Error::overloaded("full"), 2),
        ] {
            let site = Site::default();
            let callers: Vec<_> = (0..10).map(|_| site.ask(lifetime, error)).collect();
            site.until(1, 0).await;
            site.let_on();
            for caller in callers {
                assert_eq!(caller.await.unwrap(), error().kind());
            }
            site.let_on();
            assert_eq!(site.ask(lifetime, error).await.unwrap(), error().kind());
            site.until(again, again).await;
        }
    }

    #[tokio::test]
    async fn a_build_ends_with_its_last_caller_unless_one_of_them_has_it_go_on() {
        let site = Site::default();
        let leave = async |callers: Vec<tokio::task::JoinHandle<Kind>>| {
            for caller in callers {
                caller.abort();
                caller.await.unwrap_err();
            }
        };
        let first = site.ask(Lifetime::Attached, wrong);
        site.until(1, 0).await;
        let second = site.ask(Lifetime::Attached, wrong);
        leave(vec![first]).await;
        site.until(1, 0).await;
        leave(vec![second]).await;
        site.until(1, 1).await;

        let callers = [Lifetime::Attached, Lifetime::Detached, Lifetime::Attached];
        let callers = callers.map(|lifetime| site.ask(lifetime, wrong)).into();
        site.until(2, 1).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        leave(callers).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        site.until(2, 1).await;
        // What is forgotten goes on for its callers alone; there are none.
        site.builds.sweep("");
        site.until(2, 1).await;
        site.builds.forget("key");
        site.until(2, 2).await;
    }

    #[tokio::test]
    async fn a_build_that_panics_is_an_error_and_is_tried_again() {
        let site = Site::default();
        for number in 1..=2 {
            let asked = site.ask(Lifetime::Detached, || panic!("on purpose"));
            site.let_on();
            assert_eq!(asked.await.unwrap(), Kind::Internal);
            site.until(number, number).await;
        }
    }

    #[tokio::test]
    async fn what_was_forgotten_and_begun_anew_is_not_taken_for_the_new() {
        let site = Site::default();
        let old = site.ask(Lifetime::Detached, wrong);
        site.until(1, 0).await;
        site.builds.forget("key");
        let old_go = site.go.lock().take().unwrap();
        let new = site.ask(Lifetime::Detached, || Error::unsupported("new"));
        site.until(2, 0).await;
        old_go.add_permits(1);
        assert_eq!(old.await.unwrap(), Kind::InvalidArgument);
        site.let_on();
        assert_eq!(new.await.unwrap(), Kind::Unsupported);
        assert_eq!(site.ask(Lifetime::Detached, wrong).await.unwrap(), Kind::Unsupported);
        site.until(2, 2).await;
    }
}
