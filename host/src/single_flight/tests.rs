//! Every order in which callers and the task of a flight can meet, by loom; and flights on tokio.

mod sync {
    pub(super) use loom::sync::{Arc, Mutex};
}
#[path = "flight.rs"]
#[allow(dead_code, clippy::duplicate_mod, reason = "the same source on loom's types")]
mod on_loom;

use crate::interleaving::{block_on, every_order};
use loom::thread;
use on_loom::{Flight, WeakFlight, Work};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;

/// Work that waits once, as for a thread elsewhere.
async fn two_steps() -> u32 {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(7);
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// What a task does with its work. Gives whether it came to an end.
fn work_through(work: Work<u32>) -> bool {
    let output = block_on(work.run(two_steps()));
    output.map(|output| work.finish(output)).is_some()
}

#[test]
fn every_caller_gets_the_outcome() {
    every_order(4, || {
        let (first, work) = Flight::new();
        let second = first.clone();
        let worker = thread::spawn(move || work_through(work));
        let other = thread::spawn(move || block_on(second.outcome()));
        assert_eq!(block_on(first.outcome()), Some(7));
        assert_eq!(other.join().unwrap(), Some(7));
        assert!(worker.join().unwrap() && first.is_over());
    });
}

#[test]
fn work_ends_with_its_last_share_and_a_caller_that_joined_gets_the_outcome() {
    let join = |flight: &WeakFlight<u32>| flight.upgrade().map(|flight| block_on(flight.outcome()));
    every_order(4, move || {
        let (first, work) = Flight::new();
        let weak = first.downgrade();
        let worker = thread::spawn(move || work_through(work));
        let leaves = thread::spawn(move || drop(first));
        // It came in time, or finds nothing to join. In between there is nothing.
        let joined = join(&weak);
        assert!(matches!(joined, None | Some(Some(7))), "{joined:?}");
        leaves.join().unwrap();
        let finished = worker.join().unwrap();
        assert!(finished || joined.is_none());
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn work_that_would_never_end_is_dropped_with_the_last_share() {
    every_order(4, || {
        let (first, work) = Flight::<u32>::new();
        let weak = first.downgrade();
        let worker = thread::spawn(move || block_on(work.run(pending::<()>())));
        let joins = thread::spawn(move || drop(weak.upgrade()));
        drop(first);
        assert_eq!(worker.join().unwrap(), None);
        joins.join().unwrap();
    });
}

#[test]
fn callers_of_work_that_is_gone_are_told() {
    every_order(4, || {
        let (first, work) = Flight::<u32>::new();
        let second = first.clone();
        let worker = thread::spawn(move || drop(work));
        let other = thread::spawn(move || block_on(second.outcome()));
        assert_eq!(block_on(first.outcome()), None);
        assert_eq!(other.join().unwrap(), None);
        worker.join().unwrap();
    });
}

#[test]
fn nobody_but_the_table_and_the_callers_holds_an_outcome() {
    every_order(4, || {
        let (first, work) = Flight::new();
        let worker = thread::spawn(move || {
            let outcome = Arc::new(());
            let in_the_table = outcome.clone();
            work.finish(outcome);
            in_the_table
        });
        let outcome = block_on(first.outcome()).unwrap();
        drop(first);
        assert_eq!(Arc::strong_count(&outcome), 2);
        worker.join().unwrap();
        assert_eq!(Arc::strong_count(&outcome), 1);
    });
}

#[test]
fn a_caller_that_stops_waiting_stops_nobody_else() {
    every_order(4, || {
        let (first, work) = Flight::<u32>::new();
        let second = first.clone();
        let leaves = thread::spawn(move || {
            let mut outcome = Box::pin(second.outcome());
            block_on(poll_fn(|context| Poll::Ready(outcome.as_mut().poll(context).is_ready())))
        });
        let worker = thread::spawn(move || work.finish(7));
        assert_eq!(block_on(first.outcome()), Some(7));
        leaves.join().unwrap();
        worker.join().unwrap();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_on_tokio_share_one_flight_until_they_leave() {
    use super::Flight;
    use std::time::Duration;

    for leave in [false, true] {
        let (first, work) = Flight::new();
        let begun = Arc::new(tokio::sync::Notify::new());
        let (go, wait) = (begun.clone(), begun.clone());
        let worker = tokio::spawn(async move {
            let output = work.run(async move { wait.notified().await }).await;
            output.map(|()| work.finish("done")).is_some()
        });
        let callers: Vec<_> = (0..1_000)
            .map(|_| {
                let share = first.clone();
                tokio::spawn(async move { share.outcome().await })
            })
            .collect();
        let weak = first.downgrade();
        drop(first);
        tokio::time::sleep(Duration::from_millis(5)).await;
        if leave {
            callers.iter().for_each(tokio::task::JoinHandle::abort);
            for caller in callers {
                caller.await.unwrap_err();
            }
            assert!(weak.upgrade().is_none());
        } else {
            go.notify_one();
            for caller in callers {
                assert_eq!(caller.await.unwrap(), Some("done"));
            }
        }
        assert_eq!(worker.await.unwrap(), !leave);
    }
}
