//! The sessions of one model on a GPU. cuDNN plans a convolution for one shape of its input, and a session forgets the plan when
//! a run has another; so there are several, each for the shapes of its last run, over the same weights. It never runs one.

use super::glue::RawSession;
use crate::error::Result;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Makes another session over the same weights; so many bytes of what it takes beside them are charged already.
pub(super) type Make = Box<dyn Fn(u64) -> Result<RawSession> + Send + Sync>;

/// Sessions, at least one.
pub(super) struct Plans {
    state: Mutex<State>,
    make: Option<Make>,
}

struct State {
    /// The one that ran last is last.
    plans: Vec<Entry>,
    most: u64,
}

struct Entry {
    plan: Arc<Plan>,
    /// The dimensions of all inputs of its last run; none before its first.
    shapes: Option<Shapes>,
}

type Shapes = Vec<Vec<u64>>;

#[derive(Default)]
struct Plan {
    session: OnceLock<Arc<RawSession>>,
    /// A session has one handle of cuDNN, which one thread at a time may queue work by.
    turn: Mutex<()>,
}

impl Plans {
    /// One session, with up to `most` that `make` makes.
    pub(super) fn new(session: Arc<RawSession>, most: u64, make: Option<Make>) -> Plans {
        let plan = Arc::new(Plan { session: OnceLock::from(session), turn: Mutex::default() });
        Plans { state: Mutex::new(State { plans: vec![Entry { plan, shapes: None }], most }), make }
    }

    /// Calls `run` with a session that ran inputs of these shapes last; where there is none with a new one, or else with that
    /// which ran longest ago. No two calls have the same session at a time.
    pub(super) fn run<T>(&self, shapes: &[Vec<u64>], run: impl FnOnce(&Arc<RawSession>) -> T) -> T {
        loop {
            let plan = self.state().plan_of(shapes, self.make.is_some());
            let turn = plan.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(session) = plan.session.get() {
                return run(session);
            }
            match self.make.as_ref().map(|make| make(0)) {
                Some(Ok(session)) => return run(plan.session.get_or_init(|| Arc::new(session))),
                Some(Err(error)) => tracing::debug!("no further session of a model: {}", error.chain()),
                None => {}
            }
            drop(turn);
            // Those that there are do, from now on.
            self.state().give_up(&plan);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn plan_of(&mut self, shapes: &[Vec<u64>], may_add: bool) -> Arc<Plan> {
        let fits = |entry: &Entry| entry.shapes.as_deref().is_none_or(|of| of == shapes);
        let at = self.plans.iter().rposition(fits);
        let mut entry = match at {
            None if may_add && (self.plans.len() as u64) < self.most => Entry { plan: Arc::default(), shapes: None },
            _ => self.plans.remove(at.unwrap_or(0)),
        };
        entry.shapes = Some(shapes.to_vec());
        let plan = Arc::clone(&entry.plan);
        self.plans.push(entry);
        plan
    }

    /// A plan of which there is no session.
    fn give_up(&mut self, plan: &Arc<Plan>) {
        self.plans.retain(|entry| !Arc::ptr_eq(&entry.plan, plan));
        self.most = self.plans.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_stays_with_its_shapes_and_the_one_unused_for_longest_is_given_away() {
        let mut state = State { plans: vec![Entry { plan: Arc::default(), shapes: None }], most: 3 };
        let shapes = |width: u64| vec![vec![1, 3, width], vec![1]];
        let first = state.plan_of(&shapes(1), true);
        let of = |state: &mut State, width: u64| state.plan_of(&shapes(width), true);
        let (second, third) = (of(&mut state, 2), of(&mut state, 3));
        assert!(!Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&second, &third) && !Arc::ptr_eq(&first, &third));
        assert!(Arc::ptr_eq(&of(&mut state, 1), &first) && Arc::ptr_eq(&of(&mut state, 3), &third));
        // The second ran longest ago.
        assert!(Arc::ptr_eq(&of(&mut state, 4), &second) && Arc::ptr_eq(&of(&mut state, 4), &second));
        assert!(Arc::ptr_eq(&of(&mut state, 2), &first));
        // What has no session leaves the others, one at least.
        state.give_up(&third);
        assert!(Arc::ptr_eq(&of(&mut state, 3), &second) && state.plans.len() == 2);
        let mut alone = State { plans: vec![Entry { plan: Arc::default(), shapes: None }], most: 8 };
        let only = alone.plan_of(&shapes(1), false);
        assert!(Arc::ptr_eq(&alone.plan_of(&shapes(2), false), &only));
    }
}
