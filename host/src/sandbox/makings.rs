//! What was compiled or prepared, by key: each made once, whoever asks and whoever stops waiting; it never makes anything
//! itself.

use super::Function;
use crate::error::{Error, Kind, Result};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How long a failure is told again before it is tried again: a function that fails must not keep a child busy for everybody
/// who calls it.
const FAILURES_LAST: Duration = Duration::from_secs(5);

/// How long something is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// As long as somebody waits for it: what nobody has deployed yet.
    WhileAwaited,
    /// To the end: whoever calls next finds it.
    ToTheEnd,
}

/// The functions of this process.
#[derive(Default)]
pub(super) struct Makings {
    entries: Mutex<HashMap<String, Entry>>,
}

enum Entry {
    Making(Shared<BoxFuture<'static, Made>>),
    /// It ends when the last who waits for it leaves.
    Awaited(WeakShared<BoxFuture<'static, Made>>),
    Ready(Arc<Function>),
    Failed {
        until: Instant,
        failure: Failure,
    },
}

type Made = Result<Arc<Function>, Failure>;

/// A task that ends when nobody holds it.
struct AbortOnDrop(JoinHandle<Made>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An error that several callers get.
#[derive(Clone)]
struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    fn of(error: &Error) -> Failure {
        if error.kind() == Kind::Internal {
            tracing::error!("{}", error.chain());
        }
        Failure { kind: error.kind(), message: error.message().to_owned() }
    }

    fn error(self) -> Error {
        Error::new(self.kind, self.message)
    }

    /// Whether the same work would fail again.
    fn lasts(&self) -> bool {
        match self.kind {
            Kind::InvalidArgument
            | Kind::Unsupported
            | Kind::NotFound
            | Kind::PermissionDenied
            | Kind::Conflict
            | Kind::TooLarge
            | Kind::LimitExceeded
            | Kind::Malformed
            | Kind::Unauthenticated
            | Kind::HandlerFailed => true,
            Kind::Overloaded
            | Kind::DeadlineExceeded
            | Kind::Cancelled
            | Kind::Unavailable
            | Kind::Internal
            | Kind::StorageFull => false,
        }
    }
}

impl Makings {
    /// What there is for a key, or else what `make` gives; it is begun once for all who ask meanwhile.
    ///
    /// Errors: those of `make`, also of one that failed a moment ago.
    pub(super) async fn get_or_make(
        self: &Arc<Self>,
        key: &str,
        how_long: Making,
        make: impl Future<Output = Result<Function>> + Send + 'static,
    ) -> Result<Arc<Function>> {
        let making = {
            let mut entries = self.entries();
            let awaited = match entries.get(key) {
                Some(Entry::Awaited(making)) => making.upgrade(),
                _ => None,
            };
            match entries.get(key) {
                Some(Entry::Ready(function)) => return Ok(function.clone()),
                Some(Entry::Failed { until, failure }) if *until > Instant::now() => {
                    return Err(failure.clone().error());
                }
                Some(Entry::Making(making)) => making.clone(),
                Some(Entry::Failed { .. } | Entry::Awaited(_)) | None => {
                    let making = awaited.unwrap_or_else(|| self.begin(key, make));
                    let weak = match how_long {
                        Making::WhileAwaited => making.downgrade(),
                        Making::ToTheEnd => None,
                    };
                    entries.insert(key.to_owned(), weak.map_or(Entry::Making(making.clone()), Entry::Awaited));
                    making
                }
            }
        };
        making.await.map_err(Failure::error)
    }

    fn begin(
        self: &Arc<Self>,
        key: &str,
        make: impl Future<Output = Result<Function>> + Send + 'static,
    ) -> Shared<BoxFuture<'static, Made>> {
        let (makings, key) = (self.clone(), key.to_owned());
        let task = tokio::spawn(async move {
            let made = make.await.map(Arc::new).map_err(|error| Failure::of(&error));
            makings.finish(key, &made);
            made
        });
        let task = AbortOnDrop(task);
        let ended = async move {
            let mut task = task;
            (&mut task.0).await.unwrap_or_else(|error| Err(Failure::of(&Error::host("making a function ready", error))))
        };
        ended.boxed().shared()
    }

    fn finish(&self, key: String, made: &Made) {
        let mut entries = self.entries();
        // What was forgotten meanwhile stays so.
        let remembered = match entries.get(&key) {
            Some(Entry::Making(_)) => true,
            // Whoever uploads it again wants it tried again.
            Some(Entry::Awaited(_)) => false,
            _ => return,
        };
        match made {
            Ok(function) => drop(entries.insert(key, Entry::Ready(function.clone()))),
            Err(failure) if remembered && failure.lasts() => {
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
            Entry::Making(_) => true,
            Entry::Awaited(making) => making.upgrade().is_some(),
            Entry::Ready(function) => key == kept || Arc::strong_count(function) > 1,
            Entry::Failed { until, .. } => *until > now,
        });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
