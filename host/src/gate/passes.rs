//! A gate: its passes and the callers that wait for one, under one lock. It knows no runtime: a caller that waits is a future.
//!
//! This is no semaphore of tokio's, because the number of passes also falls while they are taken, and because the order of the
//! queue is decided here.

use super::sync::{Arc, Mutex};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

/// Lets a number of callers in at once. A clone is the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Mutex<State>>);

/// The right to be inside. When it is dropped, the next caller in the queue gets it.
#[derive(Debug)]
pub struct Pass(Gate);

/// A refusal: all passes are taken, and as many callers wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// How many callers may be inside at once.
    pub most: u64,
    /// How many callers wait.
    pub waiting: u64,
}

/// No caller waits while a pass is free.
#[derive(Debug)]
struct State {
    most: u64,
    /// More than `most` where that was lowered and the passes have not come back yet.
    taken: u64,
    /// The callers that wait. A later caller has a higher number. A caller that was given a pass is not in the list any more.
    waiting: BTreeMap<u64, Option<Waker>>,
    next_number: u64,
}

impl State {
    /// Takes a free pass, if there is one.
    fn take(&mut self) -> bool {
        let free = self.taken < self.most;
        self.taken += u64::from(free);
        free
    }

    /// Goes to the end of the queue, under a new number.
    fn join(&mut self) -> u64 {
        self.next_number += 1;
        self.waiting.insert(self.next_number, None);
        self.next_number
    }

    /// Gives a free pass, if there is one, to the caller that has waited longest. Returns how to wake it, where it has said so.
    fn next(&mut self) -> Option<Option<Waker>> {
        if self.taken >= self.most {
            return None;
        }
        let (_, waker) = self.waiting.pop_first()?;
        self.taken += 1;
        Some(waker)
    }

    fn give_back(&mut self) -> Option<Waker> {
        self.taken -= 1;
        self.next().flatten()
    }
}

impl Gate {
    /// A gate with `most` passes, all of them free.
    pub fn new(most: u64) -> Gate {
        Gate(Arc::new(Mutex::new(State { most, taken: 0, waiting: BTreeMap::new(), next_number: 0 })))
    }

    /// A pass. Waits while all are taken.
    ///
    /// Errors: all are taken, and `queue` callers or more wait already.
    pub async fn enter(&self, queue: u64) -> Result<Pass, Full> {
        let number = self.with(|state| {
            if state.take() {
                return Ok(None);
            }
            let (most, waiting) = (state.most, state.waiting.len() as u64);
            if waiting >= queue { Err(Full { most, waiting }) } else { Ok(Some(state.join())) }
        })?;
        Ok(self.pass(number).await)
    }

    /// A pass. Waits while all are taken, and is never refused.
    pub async fn wait(&self) -> Pass {
        let number = self.with(|state| (!state.take()).then(|| state.join()));
        self.pass(number).await
    }

    /// Changes the number of passes. Those that are taken stay taken, and count.
    pub fn resize(&self, most: u64) {
        let woken: Vec<Option<Waker>> = self.with(|state| {
            state.most = most;
            std::iter::from_fn(|| state.next()).collect()
        });
        woken.into_iter().flatten().for_each(Waker::wake);
    }

    /// How many callers are inside, and how many wait, right now.
    pub fn load(&self) -> (u64, u64) {
        self.with(|state| (state.taken, state.waiting.len() as u64))
    }

    async fn pass(&self, number: Option<u64>) -> Pass {
        match number {
            Some(number) => Waiting { gate: self, number, over: false }.await,
            None => Pass(self.clone()),
        }
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        // Here and below, wakers are used and dropped without the lock: they may come back to this gate.
        if let Some(next) = self.0.with(State::give_back) {
            next.wake();
        }
    }
}

/// A caller that waits. When it is dropped before it took its pass, it leaves the queue, and a pass that it was given goes to the
/// next caller.
struct Waiting<'a> {
    gate: &'a Gate,
    number: u64,
    /// The pass was taken from here.
    over: bool,
}

impl Future for Waiting<'_> {
    type Output = Pass;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Pass> {
        let (gate, number) = (self.gate, self.number);
        let waker = context.waker().clone();
        let waits = gate.with(|state| state.waiting.get_mut(&number).map(|kept| kept.replace(waker)));
        match waits {
            Some(_before) => Poll::Pending,
            None => {
                self.over = true;
                Poll::Ready(Pass(gate.clone()))
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (next, _kept) = self.gate.with(|state| match state.waiting.remove(&self.number) {
            Some(kept) => (None, kept),
            None => (state.give_back(), None),
        });
        if let Some(next) = next {
            next.wake();
        }
    }
}
