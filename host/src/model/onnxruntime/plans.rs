//! The sessions of one model on a GPU. cuDNN plans a convolution for one shape of its input. Planning takes far longer than
//! running, and a session forgets the plan at a run with another shape. So there are several sessions over the same weights, each
//! for the shapes of its last run. It never runs a model itself.
//!
//! One more session plans frugally: planning takes less time and memory, but runs take longer. It runs the shapes that were not
//! seen recently, so that guests whose shapes never recur do not take the plans of guests whose shapes do.

use super::glue::RawSession;
use crate::error::{Error, Kind, Result};
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// Shapes that are remembered although there is no plan for them.
const REMEMBERED: usize = 64;
/// A plan that this many runs of the model did not use is given to other shapes. So if more shapes recur than there are plans,
/// the shapes that have a plan keep it. (On an H200 the pages of 04-ocr took up to 6 s when each took another page's plan, and
/// 0.6 to 1.5 s without any plan.)
const IDLE_RUNS: u64 = 256;

/// How convolutions are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planning {
    /// The algorithm that is expected to be the fastest, whatever memory it needs.
    Fast,
    /// Any algorithm that works.
    Frugal,
}

/// Makes another session over the same weights.
pub(super) type Make = Box<dyn Fn(Planning) -> Result<RawSession> + Send + Sync>;

/// Sessions, at least one.
pub(super) struct Plans {
    state: Mutex<State>,
    frugal: Plan,
    make: Option<Make>,
}

struct State {
    /// Ordered by their last run, the most recent last.
    plans: Vec<Entry>,
    most: u64,
    /// The shapes of runs without a plan, the latest last.
    seen: VecDeque<Shapes>,
    /// All runs so far.
    runs: u64,
}

struct Entry {
    plan: Arc<Plan>,
    /// The dimensions of all inputs of its last run; none before its first.
    shapes: Option<Shapes>,
    /// The number of that run.
    last: u64,
}

type Shapes = Vec<Vec<u64>>;

#[derive(Default)]
struct Plan {
    session: OnceLock<Arc<RawSession>>,
    /// A session has one cuDNN handle, through which only one thread at a time may queue work.
    turn: Mutex<()>,
}

impl Plan {
    /// Calls `run` with its session, which is made first if necessary.
    fn run<T>(&self, make: Option<&Make>, planning: Planning, run: impl FnOnce(&Arc<RawSession>) -> T) -> Result<T> {
        let _turn = self.turn.lock();
        if let Some(session) = self.session.get() {
            return Ok(run(session));
        }
        let make = make.ok_or_else(|| Error::new(Kind::Internal, "no further sessions can be made of this model"))?;
        let session = Arc::new(make(planning)?);
        Ok(run(self.session.get_or_init(|| session)))
    }
}

impl Plans {
    /// One session, and up to `most` further ones that `make` makes.
    pub(super) fn new(session: Arc<RawSession>, most: u64, make: Option<Make>) -> Plans {
        let plan = Arc::new(Plan { session: OnceLock::from(session), turn: Mutex::default() });
        let plans = vec![Entry { plan, shapes: None, last: 0 }];
        let state =
            Mutex::new(State { plans, most: if make.is_some() { most } else { 1 }, seen: VecDeque::new(), runs: 0 });
        Plans { state, frugal: Plan::default(), make }
    }

    /// Calls `run` with a session whose last inputs had these shapes. If there is none: for shapes that were seen recently, with
    /// a new session or with one that ran long ago; otherwise with the frugal one. No two calls use a session at the same time.
    pub(super) fn run<T>(&self, shapes: &[&[u64]], run: impl Fn(&Arc<RawSession>) -> T) -> T {
        let mut may_be_frugal = self.make.is_some();
        loop {
            let chosen = self.state().choose(shapes, may_be_frugal);
            let done = match &chosen {
                Some(plan) => plan.run(self.make.as_ref(), Planning::Fast, &run),
                None => self.frugal.run(self.make.as_ref(), Planning::Frugal, &run),
            };
            match (done, chosen) {
                (Ok(done), _) => return done,
                (Err(error), chosen) => {
                    tracing::debug!("no further session of a model: {}", error.chain());
                    // From now on, the existing sessions must suffice.
                    match chosen {
                        Some(plan) => self.state().give_up(&plan),
                        None => may_be_frugal = false,
                    }
                }
            }
        }
    }

    /// Calls `run` with the frugal session; gives none if there is no such session.
    pub(super) fn run_frugally<T>(&self, run: impl FnOnce(&Arc<RawSession>) -> T) -> Option<T> {
        self.make.as_ref()?;
        self.frugal.run(self.make.as_ref(), Planning::Frugal, run).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// The plan to use; none for the frugal session.
    fn choose(&mut self, shapes: &[&[u64]], may_be_frugal: bool) -> Option<Arc<Plan>> {
        let fits = |entry: &Entry| entry.shapes.as_deref().is_none_or(|of| of == shapes);
        let owned = || shapes.iter().map(|dims| dims.to_vec()).collect();
        let at = self.plans.iter().rposition(fits);
        self.runs += 1;
        if at.is_none() && may_be_frugal {
            let is_idle = |entry: &Entry| self.runs - entry.last > IDLE_RUNS;
            let has_room = (self.plans.len() as u64) < self.most || self.plans.first().is_some_and(is_idle);
            let seen = self.seen.iter().position(|seen| seen == shapes);
            if let Some(at) = seen {
                self.seen.remove(at);
            }
            if seen.is_none() || !has_room {
                if self.seen.len() == REMEMBERED {
                    self.seen.pop_front();
                }
                self.seen.push_back(owned());
                return None;
            }
        }
        let mut entry = match at {
            None if (self.plans.len() as u64) < self.most => Entry { plan: Arc::default(), shapes: None, last: 0 },
            _ => self.plans.remove(at.unwrap_or(0)),
        };
        entry.last = self.runs;
        if entry.shapes.as_deref().is_none_or(|of| of != shapes) {
            entry.shapes = Some(owned());
        }
        let plan = Arc::clone(&entry.plan);
        self.plans.push(entry);
        Some(plan)
    }

    /// Removes a plan whose session could not be made.
    fn give_up(&mut self, plan: &Arc<Plan>) {
        self.plans.retain(|entry| !Arc::ptr_eq(&entry.plan, plan));
        self.most = self.plans.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(most: u64) -> State {
        State {
            plans: vec![Entry { plan: Arc::default(), shapes: None, last: 0 }],
            most,
            seen: VecDeque::new(),
            runs: 0,
        }
    }

    fn chosen(state: &mut State, width: u64, may_be_frugal: bool) -> Option<Arc<Plan>> {
        state.choose(&[&[1, 3, width], &[1]], may_be_frugal)
    }

    #[test]
    fn a_plan_stays_with_its_shapes_and_the_one_unused_for_longest_is_given_away() {
        let mut state = state(3);
        let of = |state: &mut State, width: u64| chosen(state, width, false).unwrap();
        let (first, second, third) = (of(&mut state, 1), of(&mut state, 2), of(&mut state, 3));
        assert!(!Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&second, &third) && !Arc::ptr_eq(&first, &third));
        assert!(Arc::ptr_eq(&of(&mut state, 1), &first) && Arc::ptr_eq(&of(&mut state, 3), &third));
        // The second ran longest ago.
        assert!(Arc::ptr_eq(&of(&mut state, 4), &second) && Arc::ptr_eq(&of(&mut state, 4), &second));
        assert!(Arc::ptr_eq(&of(&mut state, 2), &first));
        // A plan without a session is removed; at least one stays.
        state.give_up(&third);
        assert!(Arc::ptr_eq(&of(&mut state, 3), &second) && state.plans.len() == 2);
    }

    #[test]
    fn shapes_get_a_plan_when_they_come_again() {
        let mut state = state(8);
        let first = chosen(&mut state, 0, true).unwrap();
        assert!(chosen(&mut state, 1, true).is_none());
        let second = chosen(&mut state, 1, true).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        // Any number of other shapes leaves the plans unchanged and is forgotten.
        assert!((2..=REMEMBERED as u64 + 2).all(|width| chosen(&mut state, width, true).is_none()));
        assert!(Arc::ptr_eq(&chosen(&mut state, 0, true).unwrap(), &first));
        assert!(Arc::ptr_eq(&chosen(&mut state, 1, true).unwrap(), &second));
        assert!(chosen(&mut state, 2, true).is_none() && chosen(&mut state, 9, true).is_some());
        assert_eq!((state.plans.len(), state.seen.len()), (3, REMEMBERED - 1));
    }

    #[test]
    fn shapes_that_come_again_keep_their_plans_as_long_as_they_do() {
        let mut state = state(2);
        let first = chosen(&mut state, 0, true).unwrap();
        assert!(chosen(&mut state, 1, true).is_none());
        let second = chosen(&mut state, 1, true).unwrap();
        // Three shapes alternate on two plans.
        for _ in 0..IDLE_RUNS {
            assert!(Arc::ptr_eq(&chosen(&mut state, 0, true).unwrap(), &first));
            assert!(Arc::ptr_eq(&chosen(&mut state, 1, true).unwrap(), &second));
            assert!(chosen(&mut state, 2, true).is_none());
        }
        assert_eq!(state.seen.len(), 1);
        // One of them no longer occurs.
        for _ in 0..IDLE_RUNS / 2 - 1 {
            assert!(chosen(&mut state, 1, true).is_some() && chosen(&mut state, 2, true).is_none());
        }
        assert!(chosen(&mut state, 1, true).is_some());
        assert!(Arc::ptr_eq(&chosen(&mut state, 2, true).unwrap(), &first));
        assert!(chosen(&mut state, 0, true).is_none());
    }
}
