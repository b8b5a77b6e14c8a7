//! Admission: how many callers may enter at once, how many may wait, and how many bytes all of them may take. It never knows
//! what is admitted. It makes no errors either: a refusal is a value, and the caller makes an error of it.
//!
//! A [`Gate`] is for callers that may wait. It gives out a number of [`Pass`]es, and has a queue: first come, first served. A
//! [`Budget`] is for callers that do not wait. It is a sum of bytes, or a count, with a maximum; each caller has a [`Share`], and
//! no lock is taken. Passes and shares are given back when they are dropped.
//!
//! Quotas of tenants belong here: `State::next` in `gate/passes.rs` picks the caller that gets the next pass, and
//! [`Share::try_grow`] decides whether the sum may grow. The device's ledger is not built on this: it can free memory before it
//! refuses.

mod budget;
mod passes;
#[cfg(test)]
mod tests;

/// What `passes` and `budget` are made of. Their tests compile the same source with loom's types in place of these.
mod sync {
    pub(super) use std::sync::atomic::AtomicU64;
    pub(super) use std::sync::{Arc, Mutex};
}

pub use budget::{Budget, Over, Share};
pub use passes::{Full, Gate, Pass};
