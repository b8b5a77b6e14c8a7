//! The flight itself: a lock, a count of shares, an outcome, and who is to be woken; it never starts a task.

use super::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

/// One caller's share in work that is done once. A clone is another share. When the last one is dropped, the work ends and its
/// outcome is dropped.
pub(crate) struct Flight<T>(Shared<T>);

/// A way to join work that ends with its last share: it is no share itself.
pub(crate) struct WeakFlight<T>(Shared<T>);

/// The side of a flight that does the work. Dropped before [`Work::finish`], it tells all callers that there is no outcome.
pub(crate) struct Work<T>(Shared<T>);

struct Shared<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    /// Once this is 0 it stays so.
    shares: usize,
    progress: Progress<T>,
    /// Wakes the task that does the work when the last share has gone.
    worker: Option<Waker>,
    /// Callers that wait for the outcome, by a number of their own.
    waiting: BTreeMap<u64, Waker>,
    next_number: u64,
}

enum Progress<T> {
    UnderWay,
    Finished(T),
    /// There is no outcome: the task that did the work ended without one, or nobody is there to take it.
    Gone,
}

impl<T> Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(self.0.clone())
    }

    fn with<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Flight<T> {
    /// A flight with one share, and the work for the task that does it.
    pub(crate) fn new() -> (Flight<T>, Work<T>) {
        let shared = Shared(Arc::new(Mutex::new(State {
            shares: 1,
            progress: Progress::UnderWay,
            worker: None,
            waiting: BTreeMap::new(),
            next_number: 0,
        })));
        (Flight(shared.clone()), Work(shared))
    }

    /// Whether the work has ended, with an outcome or without one.
    pub(crate) fn is_over(&self) -> bool {
        self.0.with(|state| !matches!(state.progress, Progress::UnderWay))
    }

    /// What can be kept to let others join without keeping the work going.
    pub(crate) fn downgrade(&self) -> WeakFlight<T> {
        WeakFlight(self.0.clone())
    }
}

impl<T: Clone> Flight<T> {
    /// Waits for the outcome. `None` where the task that did the work ended without one: it panicked, or its runtime shut down.
    pub(crate) async fn outcome(&self) -> Option<T> {
        Waiting { shared: &self.0, number: None }.await
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Flight<T> {
        self.0.with(|state| state.shares += 1);
        Flight(self.0.clone())
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        let left = self.0.with(|state| {
            state.shares -= 1;
            let last = state.shares == 0;
            // Where the work still goes on, its task finds out and ends.
            let over = !matches!(state.progress, Progress::UnderWay);
            let outcome = (last && over).then(|| std::mem::replace(&mut state.progress, Progress::Gone));
            (outcome, if last { state.worker.take() } else { None })
        });
        // Here and below, outcomes and wakers are dropped and used without the lock: they may come back to this flight.
        if let (_, Some(worker)) = left {
            worker.wake();
        }
    }
}

impl<T> WeakFlight<T> {
    /// A share, where another one is left.
    pub(crate) fn upgrade(&self) -> Option<Flight<T>> {
        let joined = self.0.with(|state| {
            let live = state.shares > 0;
            state.shares += usize::from(live);
            live
        });
        joined.then(|| Flight(self.0.clone()))
    }
}

impl<T> Work<T> {
    /// Does the work. `None` where the last share was dropped first; the work is dropped then, wherever it waits.
    pub(crate) async fn run<O>(&self, work: impl Future<Output = O>) -> Option<O> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(output) = work.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            let waker = context.waker().clone();
            let (wanted, _before) = self.0.with(|state| (state.shares > 0, state.worker.replace(waker)));
            if wanted { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }

    /// Whether this is the work of that flight.
    pub(crate) fn is_of(&self, flight: &WeakFlight<T>) -> bool {
        Arc::ptr_eq(&self.0.0, &flight.0.0)
    }

    /// Gives every caller the outcome. It lies in the flight as long as a share is left, and nowhere else.
    pub(crate) fn finish(self, outcome: T) {
        self.end(Progress::Finished(outcome));
    }

    fn end(&self, progress: Progress<T>) {
        let (_unwanted, _worker, waiting) = self.0.with(|state| {
            if !matches!(state.progress, Progress::UnderWay) {
                return (Some(progress), None, BTreeMap::new());
            }
            let unwanted = match state.shares {
                0 => {
                    state.progress = Progress::Gone;
                    Some(progress)
                }
                _ => {
                    state.progress = progress;
                    None
                }
            };
            (unwanted, state.worker.take(), std::mem::take(&mut state.waiting))
        });
        waiting.into_values().for_each(Waker::wake);
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.end(Progress::Gone);
    }
}

/// A caller that waits for the outcome.
struct Waiting<'a, T> {
    shared: &'a Shared<T>,
    /// Its number in the list of those that wait, where it stands there.
    number: Option<u64>,
}

impl<T: Clone> Future for Waiting<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let shared = self.shared;
        let waker = context.waker().clone();
        let number = &mut self.number;
        let (poll, _before) = shared.with(|state| match &state.progress {
            Progress::Finished(outcome) => (Poll::Ready(Some(outcome.clone())), None),
            Progress::Gone => (Poll::Ready(None), None),
            Progress::UnderWay => {
                let number = *number.get_or_insert_with(|| {
                    state.next_number += 1;
                    state.next_number
                });
                (Poll::Pending, state.waiting.insert(number, waker))
            }
        });
        poll
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        let number = self.number;
        let _waker = number.and_then(|number| self.shared.with(|state| state.waiting.remove(&number)));
    }
}
