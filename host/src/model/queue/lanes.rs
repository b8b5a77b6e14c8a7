//! Lanes and the runs that wait for one, under one lock. It knows no runtime: a run that waits is a future.

use super::WaitingRun;
use super::sync::{Arc, Mutex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

/// The lanes of this process.
#[derive(Clone)]
pub(in crate::model) struct Lanes(Arc<Mutex<State>>);

/// The queue in front of one model.
pub(in crate::model) struct Queue {
    lanes: Lanes,
    number: u64,
    /// How many runs may wait in it.
    most: u64,
}

/// A lane that is taken. When it is dropped, the next run has it.
pub(in crate::model) struct Lane(Lanes);

/// A run's place in a queue, and the lane once it is the run's turn. When it is dropped before, the run leaves the queue, and a
/// lane that it was given goes to the next.
pub(in crate::model) struct Place<'a> {
    queue: &'a Queue,
    number: u64,
    /// The lane was taken from here.
    over: bool,
}

/// So many runs wait in a queue already.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::model) struct Full(pub(in crate::model) u64);

/// Where a lane is free, no run waits.
struct State {
    free: usize,
    /// The queues in which runs wait, by their numbers; the runs in the order in which they came.
    queues: BTreeMap<u64, VecDeque<Waiting>>,
    /// The numbers of runs that were given a lane and have not taken it yet.
    given: BTreeSet<u64>,
    next_queue: u64,
    next_run: u64,
}

struct Waiting {
    /// Numbers rise: a later run has a higher one.
    number: u64,
    run: WaitingRun,
    waker: Option<Waker>,
}

impl Lanes {
    /// So many lanes, all of them free.
    pub(in crate::model) fn new(count: usize) -> Lanes {
        Lanes(Arc::new(Mutex::new(State {
            free: count,
            queues: BTreeMap::new(),
            given: BTreeSet::new(),
            next_queue: 0,
            next_run: 0,
        })))
    }

    /// A queue in front of these lanes, in which up to `most` runs may wait.
    pub(in crate::model) fn queue(&self, most: u64) -> Queue {
        let number = self.with(|state| {
            state.next_queue += 1;
            state.next_queue
        });
        Queue { lanes: self.clone(), number, most }
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lanes that are free, and those that were given to a run and not taken yet.
    #[cfg(test)]
    pub(super) fn free_and_given(&self) -> (usize, usize) {
        self.with(|state| (state.free, state.given.len()))
    }
}

impl Queue {
    /// A lane, where one is free.
    pub(in crate::model) fn try_lane(&self) -> Option<Lane> {
        let taken = self.lanes.with(|state| {
            let free = state.free > 0;
            state.free -= usize::from(free);
            free
        });
        taken.then(|| Lane(self.lanes.clone()))
    }

    /// A place for a run, which has its lane at once where one is free.
    ///
    /// Errors: as many runs wait as may.
    pub(in crate::model) fn join(&self, run: WaitingRun) -> Result<Place<'_>, Full> {
        let number = self.lanes.with(|state| state.join(self.number, run, self.most))?;
        Ok(Place { queue: self, number, over: false })
    }

    /// The runs that wait, in their order.
    pub(in crate::model) fn waiting(&self) -> Vec<WaitingRun> {
        let of = |queue: &VecDeque<Waiting>| queue.iter().map(|waiting| waiting.run.clone()).collect();
        self.lanes.with(|state| state.queues.get(&self.number).map(of).unwrap_or_default())
    }

    /// How many runs wait.
    pub(in crate::model) fn waiting_count(&self) -> u64 {
        self.lanes.with(|state| state.queues.get(&self.number).map_or(0, VecDeque::len) as u64)
    }
}

impl State {
    /// Has a run wait, or gives it a lane where one is free. Gives the run's number.
    fn join(&mut self, queue: u64, run: WaitingRun, most: u64) -> Result<u64, Full> {
        let waiting = self.queues.get(&queue).map_or(0, VecDeque::len) as u64;
        if self.free == 0 && waiting >= most {
            return Err(Full(waiting));
        }
        self.next_run += 1;
        let number = self.next_run;
        if self.free > 0 {
            self.free -= 1;
            self.given.insert(number);
        } else {
            self.queues.entry(queue).or_default().push_back(Waiting { number, run, waker: None });
        }
        Ok(number)
    }

    /// Takes a run that has its turn off the list of those that wait. Runs of the same model that can join it are to be taken here
    /// with it.
    fn next(&mut self) -> Option<Waiting> {
        // Runs without a deadline come last; of those that are due at the same time, the one that came first.
        let due = |head: &Waiting| (head.run.deadline.is_none(), head.run.deadline, head.number);
        let heads = self.queues.iter().filter_map(|(queue, runs)| Some((due(runs.front()?), *queue)));
        let (_, queue) = heads.min()?;
        self.take(queue, 0)
    }

    fn take(&mut self, queue: u64, index: usize) -> Option<Waiting> {
        let runs = self.queues.get_mut(&queue)?;
        let taken = runs.remove(index);
        if runs.is_empty() {
            self.queues.remove(&queue);
        }
        taken
    }

    fn position(&self, queue: u64, number: u64) -> Option<usize> {
        self.queues.get(&queue)?.binary_search_by_key(&number, |waiting| waiting.number).ok()
    }

    /// Gives a lane that became free to the next run, which is to be woken.
    fn give_back(&mut self) -> Option<Waker> {
        match self.next() {
            Some(next) => {
                self.given.insert(next.number);
                next.waker
            }
            None => {
                self.free += 1;
                None
            }
        }
    }

    /// Whether the run has its lane, which it takes; else `waker` is kept for it. Gives the one that was kept before.
    fn poll(&mut self, queue: u64, number: u64, waker: Waker) -> (bool, Option<Waker>) {
        if self.given.remove(&number) {
            return (true, None);
        }
        let index = self.position(queue, number);
        let waiting = index.and_then(|index| self.queues.get_mut(&queue)?.get_mut(index));
        (false, waiting.and_then(|waiting| waiting.waker.replace(waker)))
    }

    /// Takes a run off the list, or the lane that it was given away from it. Gives wakers: the one of the next run, which is to be
    /// woken, and the one that was kept.
    fn leave(&mut self, queue: u64, number: u64) -> (Option<Waker>, Option<Waker>) {
        if self.given.remove(&number) {
            return (self.give_back(), None);
        }
        let left = self.position(queue, number).and_then(|index| self.take(queue, index));
        (None, left.and_then(|left| left.waker))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Here and below, wakers are used and dropped without the lock: they may come back to these lanes.
        if let Some(next) = self.0.with(State::give_back) {
            next.wake();
        }
    }
}

impl Future for Place<'_> {
    type Output = Lane;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Lane> {
        let (lanes, queue, number) = (&self.queue.lanes, self.queue.number, self.number);
        let waker = context.waker().clone();
        let (given, _before) = lanes.with(|state| state.poll(queue, number, waker));
        match given {
            true => {
                let lane = Lane(lanes.clone());
                self.over = true;
                Poll::Ready(lane)
            }
            false => Poll::Pending,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (lanes, queue, number) = (&self.queue.lanes, self.queue.number, self.number);
        let (next, _kept) = lanes.with(|state| state.leave(queue, number));
        if let Some(next) = next {
            next.wake();
        }
    }
}
