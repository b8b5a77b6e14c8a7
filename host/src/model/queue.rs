//! The queue in front of each model: runs wait here for a lane, and can be seen while they do. It never runs a model.
//!
//! A lane is the right to run one model at a time; there are as many as cores, for all models together. A run takes a free lane at
//! once. Where there is none, it waits in its model's queue, first come, first served. A lane that becomes free goes to the queue
//! whose first run is due first, so one model may hold several lanes.

mod lanes;
#[cfg(test)]
mod tests;

/// What `lanes` is made of. Its tests compile the same source with loom's types in place of these.
mod sync {
    pub(super) use std::sync::{Arc, Mutex};
}

pub(super) use lanes::{Full, Lane, Lanes, Queue};

use std::sync::Arc;
use std::time::Instant;

/// A run that waits for a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRun {
    /// When it must have ended, if ever.
    pub deadline: Option<Instant>,
    /// The tenant for whom the model was opened.
    pub tenant: Arc<str>,
    /// How many rows it has: the length of its inputs along the batch axis, 1 where the model has none.
    pub rows: u64,
    /// When it began to wait.
    pub since: Instant,
}
