//! Gates and their queues, by hand, in every order of threads by loom, and on tokio; budgets, by hand and by loom.

mod sync {
    pub(super) use loom::sync::atomic::AtomicU64;
    pub(super) use loom::sync::{Arc, Mutex};
}
#[path = "budget.rs"]
#[allow(dead_code, unreachable_pub, clippy::duplicate_mod, reason = "the same source on loom's types")]
mod budget_on_loom;
#[path = "passes.rs"]
#[allow(dead_code, unreachable_pub, clippy::duplicate_mod, reason = "the same source on loom's types")]
mod passes_on_loom;

use super::{Budget, Full, Gate, Over, Pass};
use crate::interleaving::{block_on, every_order};
use futures_util::FutureExt;
use loom::thread;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

/// What `enter` gives without waiting.
fn enter_now(gate: &Gate, queue: u64) -> Option<Result<Pass, Full>> {
    gate.enter(queue).now_or_never()
}

#[tokio::test]
async fn passes_are_taken_waited_for_and_refused() {
    let gate = Gate::new(1);
    let first = gate.enter(1).await.unwrap();
    let second = tokio::spawn({
        let gate = gate.clone();
        async move { gate.enter(1).await.is_ok() }
    });
    while gate.load() != (1, 1) {
        tokio::task::yield_now().await;
    }
    assert_eq!(gate.enter(1).await.unwrap_err(), Full { most: 1, waiting: 1 });
    assert_eq!(gate.load(), (1, 1), "a refusal leaves no trace");
    drop(first);
    assert!(second.await.unwrap());
    assert_eq!(gate.load(), (0, 0));
}

#[test]
fn callers_that_wait_enter_in_order_and_one_that_gives_up_leaves_its_place_to_the_next() {
    let gate = Gate::new(1);
    let first = enter_now(&gate, 0).unwrap().unwrap();
    // Each caller brings the number of callers that it may find waiting.
    let (mut second, mut third, mut fourth) = (Box::pin(gate.enter(1)), Box::pin(gate.wait()), Box::pin(gate.enter(3)));
    assert!((&mut second).now_or_never().is_none());
    assert!((&mut third).now_or_never().is_none());
    assert!((&mut fourth).now_or_never().is_none());
    assert_eq!(enter_now(&gate, 3).unwrap().unwrap_err(), Full { most: 1, waiting: 3 });
    drop(second);
    assert_eq!(gate.load(), (1, 2));
    let mut fifth = Box::pin(gate.enter(3));
    assert!((&mut fifth).now_or_never().is_none());
    drop(first);
    assert_eq!(gate.load(), (1, 2));
    assert!((&mut fourth).now_or_never().is_none() && (&mut fifth).now_or_never().is_none());
    // The third was given the pass and did not take it: when it goes, the fourth gets the pass.
    drop(third);
    assert!((&mut fifth).now_or_never().is_none());
    let fourth = fourth.now_or_never().unwrap().unwrap();
    assert!((&mut fifth).now_or_never().is_none());
    drop(fourth);
    let fifth = fifth.now_or_never().unwrap().unwrap();
    assert!(enter_now(&gate, 0).unwrap().is_err());
    drop(fifth);
    assert_eq!(gate.load(), (0, 0));
}

#[test]
fn a_gate_changes_its_width_while_some_are_inside() {
    let gate = Gate::new(u64::MAX);
    let mut inside: Vec<Pass> = (0..3).map(|_| enter_now(&gate, 0).unwrap().unwrap()).collect();
    gate.resize(2);
    assert_eq!(gate.load(), (3, 0));
    assert_eq!(enter_now(&gate, 0).unwrap().unwrap_err(), Full { most: 2, waiting: 0 });
    inside.pop();
    assert_eq!(gate.load(), (2, 0));
    assert!(enter_now(&gate, 0).unwrap().is_err(), "two of two are inside still");
    inside.pop();
    inside.push(enter_now(&gate, 0).unwrap().unwrap());
    // Down to one with two inside, and up again before either is back.
    gate.resize(1);
    gate.resize(3);
    inside.push(enter_now(&gate, 0).unwrap().unwrap());
    assert!(enter_now(&gate, 0).unwrap().is_err());
    inside.clear();
    assert_eq!(gate.load(), (0, 0));
    gate.resize(0);
    assert!(enter_now(&gate, 0).unwrap().is_err());
}

#[test]
fn a_wider_gate_lets_waiting_callers_in_and_a_narrower_one_does_not() {
    let gate = Gate::new(2);
    let inside: Vec<Pass> = (0..2).map(|_| enter_now(&gate, 0).unwrap().unwrap()).collect();
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(gate.enter(3))).collect();
    assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
    gate.resize(1);
    drop(inside);
    assert_eq!(gate.load(), (1, 2), "two came back, and one of those was owed");
    gate.resize(3);
    assert_eq!(gate.load(), (3, 0));
    assert!(waiting.into_iter().all(|waits| waits.now_or_never().is_some()));
    assert_eq!(gate.load(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_and_a_gate_that_changes_come_to_an_end() {
    let gate = Gate::new(3);
    let caller = |number: u64| {
        let gate = gate.clone();
        async move {
            for round in 0..200 {
                let patience = Duration::from_micros((number * 7 + round) % 50);
                let entered = tokio::time::timeout(patience, gate.enter(number % 8)).await;
                tokio::task::yield_now().await;
                drop(entered);
            }
            drop(gate.wait().await);
        }
    };
    let callers: Vec<_> = (0..16).map(|number| tokio::spawn(caller(number))).collect();
    for round in 0..500 {
        gate.resize(1 + round % 4);
        tokio::task::yield_now().await;
    }
    for caller in callers {
        tokio::time::timeout(Duration::from_secs(60), caller).await.expect("no caller waits for ever").unwrap();
    }
    assert_eq!(gate.load(), (0, 0));
}

#[test]
fn every_caller_enters_and_never_two_at_once_in_every_order() {
    every_order(3, || {
        let gate = passes_on_loom::Gate::new(1);
        let inside = std::sync::Arc::new(AtomicU64::new(0));
        let caller = || {
            let (gate, inside) = (gate.clone(), inside.clone());
            move || {
                let pass = block_on(gate.wait());
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                thread::yield_now();
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(pass);
            }
        };
        let others = [thread::spawn(caller()), thread::spawn(caller())];
        caller()();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(gate.load(), (0, 0));
    });
}

/// Waits for a pass, and gives up after so many looks.
async fn try_so_often(gate: &passes_on_loom::Gate, looks: u32) -> bool {
    let (mut entering, mut left) = (pin!(gate.wait()), looks);
    poll_fn(|context| match entering.as_mut().poll(context) {
        Poll::Ready(_pass) => Poll::Ready(true),
        Poll::Pending if left == 0 => Poll::Ready(false),
        Poll::Pending => {
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

#[test]
fn a_caller_that_gives_up_as_its_pass_comes_hands_it_on_in_every_order() {
    every_order(3, || {
        let gate = passes_on_loom::Gate::new(1);
        let first = block_on(gate.wait());
        let gives_up = thread::spawn({
            let gate = gate.clone();
            move || block_on(try_so_often(&gate, 1))
        });
        let waits = thread::spawn({
            let gate = gate.clone();
            move || drop(block_on(gate.wait()))
        });
        drop(first);
        gives_up.join().unwrap();
        waits.join().unwrap();
        assert_eq!(gate.load(), (0, 0));
    });
}

#[test]
fn a_gate_that_is_narrowed_as_passes_come_back_is_as_narrow_as_it_says_in_every_order() {
    every_order(3, || {
        let gate = passes_on_loom::Gate::new(2);
        let inside = [block_on(gate.wait()), block_on(gate.wait())];
        let leaves = inside.map(|pass| thread::spawn(move || drop(pass)));
        gate.resize(1);
        let pass = block_on(gate.wait());
        assert_eq!(gate.load(), (1, 0));
        for leaves in leaves {
            leaves.join().unwrap();
        }
        assert!(block_on(gate.enter(0)).is_err());
        drop(pass);
        assert_eq!(gate.load(), (0, 0));
    });
}

#[test]
fn a_gate_that_opens_wakes_the_callers_that_wait_in_every_order() {
    every_order(3, || {
        let gate = passes_on_loom::Gate::new(0);
        let waits = [(); 2].map(|()| {
            let gate = gate.clone();
            thread::spawn(move || block_on(gate.wait()))
        });
        gate.resize(2);
        let inside = waits.map(|waits| waits.join().unwrap());
        assert_eq!(gate.load(), (2, 0));
        drop(inside);
    });
}

#[test]
fn shares_give_back_what_they_took_and_a_refusal_takes_nothing() {
    let budget = Budget::new(10);
    let (mut first, mut second) = (budget.share(), budget.take(3).unwrap());
    first.try_grow(4).unwrap();
    first.try_grow(2).unwrap();
    assert_eq!((first.amount(), second.amount(), budget.used()), (6, 3, 9));
    assert_eq!(second.try_grow(2).unwrap_err(), Over { used: 9, most: 10 });
    assert_eq!(second.try_grow(u64::MAX).unwrap_err(), Over { used: 9, most: 10 });
    assert_eq!(budget.take(2).unwrap_err(), Over { used: 9, most: 10 });
    assert_eq!((second.amount(), budget.used()), (3, 9));
    second.try_grow(1).unwrap();
    drop(first);
    assert_eq!(budget.used(), 4);
    drop(second);
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_exists_already_counts_beyond_the_maximum() {
    let budget = Budget::new(10);
    let (one, other) = (budget.take_anyway(11), budget.take_anyway(2));
    assert_eq!(budget.take(0).unwrap_err(), Over { used: 13, most: 10 });
    let largest = budget.take_anyway(u64::MAX);
    assert_eq!((budget.used(), largest.amount()), (u64::MAX, u64::MAX - 13));
    drop((largest, one));
    assert_eq!(budget.used(), 2);
    assert_eq!(budget.take(8).unwrap().amount(), 8);
    drop(other);
    assert_eq!(budget.used(), 0);
}

#[test]
fn shares_that_grow_at_once_stay_below_the_maximum_in_every_order() {
    every_order(3, || {
        let budget = budget_on_loom::Budget::new(3);
        let grow = || {
            let budget = budget.clone();
            move || {
                let mut share = budget.share();
                let grown = (0..2).filter(|_| share.try_grow(1).is_ok()).count() as u64;
                assert!(grown == share.amount() && grown <= budget.used() && budget.used() <= 3);
                share
            }
        };
        let other = thread::spawn(grow());
        let (one, other) = (grow()(), other.join().unwrap());
        assert_eq!((one.amount() + other.amount(), budget.used()), (3, 3));
        let leaves = thread::spawn(move || drop(other));
        drop(one);
        leaves.join().unwrap();
        assert_eq!(budget.used(), 0);
    });
}
