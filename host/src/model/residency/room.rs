//! Room on the device: what loads claim of it, which models leave for others, and how a load waits. It never loads a model, and
//! never unloads one that is leased.

use super::Pin;
use super::policy::{Candidate, leaving};
use super::table::{Entry, Slot, Table};
use crate::device::{Account, Charge, Device, Owner};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long a load that waits for room waits at most before it looks again: tensors tell nobody that they have gone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The device's memory, as far as models take it.
pub(super) struct Room {
    pub(super) device: Arc<dyn Device>,
    pub(super) table: Arc<Table>,
    /// One load after the other gets room, in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    /// Told when a lease has ended.
    freed: Notify,
}

impl Room {
    /// The room of a device. From here on its ledger has models leave before it refuses anybody.
    pub(super) fn new(device: Arc<dyn Device>, table: Arc<Table>) -> Arc<Room> {
        let room = Arc::new(Room { device, table, turn: tokio::sync::Mutex::default(), freed: Notify::new() });
        let weak = Arc::downgrade(&room);
        let reclaim = move |bytes| weak.upgrade().is_some_and(|room| room.reclaim(bytes));
        room.device.ledger().reclaim_with(Box::new(reclaim));
        room
    }

    /// The claim on a model's bytes; models that nobody holds leave for it.
    ///
    /// Errors: `overloaded` where that is not enough.
    pub(super) fn charge(&self, digest: &str, bytes: u64) -> Result<Charge> {
        self.account(digest).charge(bytes)
    }

    /// The claim on a model's bytes, where they are free and no load waits for room.
    pub(super) fn charge_free(&self, digest: &str, bytes: u64) -> Option<Charge> {
        let _turn = self.turn.try_lock().ok()?;
        self.account(digest).charge_free(bytes).ok()
    }

    /// The claim on a model's bytes. Models that nobody holds leave for it; then it waits for leases and tensors to go, and calls
    /// `waits` once, as soon as it does.
    ///
    /// Errors: `overloaded` where there is no room before `end`, or never can be.
    pub(super) async fn claim(
        self: &Arc<Self>,
        digest: &str,
        bytes: u64,
        end: Instant,
        mut waits: impl FnMut(),
    ) -> Result<Charge> {
        let _turn = self.turn.lock().await;
        let possible = bytes <= self.device.ledger().budget_bytes();
        let end = if possible { end } else { Instant::now() };
        let mut tries = 0;
        let charge = || {
            tries += 1;
            if tries == 2 {
                waits();
            }
            // Models may be unloaded for it, which takes its time.
            let (room, of) = (self.clone(), digest.to_owned());
            tokio::task::spawn_blocking(move || room.charge(&of, bytes))
        };
        match self.retry_until(end, charge).await {
            Err(error) if error.kind() == Kind::Overloaded => Err(self.refusal(&error)),
            charged => charged,
        }
    }

    /// Tries, and tries again as long as it is `overloaded`, until `end`.
    pub(super) async fn retry_until<T>(
        &self,
        end: Instant,
        mut work: impl FnMut() -> JoinHandle<Result<T>>,
    ) -> Result<T> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            match work().await.map_err(|error| Error::host("bringing a model into memory", error))? {
                Err(error) if error.kind() == Kind::Overloaded && Instant::now() < end => {
                    let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
                }
                done => return done,
            }
        }
    }

    /// Tells loads that wait that there may be room.
    pub(super) fn note_freed(&self) {
        self.freed.notify_waiters();
    }

    fn refusal(&self, error: &Error) -> Error {
        let rows = self.table.rows();
        let held = |pinned: bool| {
            let held = rows.resident().filter(|(key, _)| rows.pin(&key.0).pinned == pinned);
            held.map(|(_, entry)| entry.bytes).sum::<u64>()
        };
        Error::overloaded(format!(
            "{}; models that are pinned hold {} bytes, models in use {}",
            error.message(),
            held(true),
            held(false)
        ))
    }

    /// Unloads models that nobody holds, so that at least so many bytes are free; none where all of them are not enough.
    fn reclaim(&self, need: u64) -> bool {
        let mut left = Vec::new();
        {
            let mut rows = self.table.rows();
            let idle = |entry: &Entry| match &entry.slot {
                // Every lease, and everyone who waited for the load, has a clone.
                Slot::Resident(loaded) if Arc::strong_count(loaded) == 1 => Some(loaded.weights.bytes()),
                _ => None,
            };
            let candidates = rows.entries.iter().filter_map(|(key, entry)| {
                let (bytes, Pin { pinned, priority }) = (idle(entry)?, rows.pin(&key.0));
                let worth = entry.uses.at(rows.opens) * entry.load_ms();
                (!pinned).then(|| Candidate { key: key.clone(), bytes, priority, worth })
            });
            let Some(keys) = leaving(candidates.collect(), need) else { return false };
            for key in keys {
                let Some(entry) = rows.entries.get_mut(&key) else { continue };
                let slot = std::mem::replace(&mut entry.slot, Slot::Stored);
                "made room for others".clone_into(&mut entry.reason);
                entry.evictions += 1;
                entry.uses.leave();
                self.table.note_departure();
                tracing::info!(model = entry.name, digest = key.0, bytes = entry.bytes, "model makes room");
                left.push(slot);
            }
        }
        // Without the lock: an engine takes its time.
        !left.is_empty()
    }

    fn account(&self, digest: &str) -> Arc<Account> {
        self.device.ledger().account(Owner::Model { name: digest.into() }, u64::MAX, u64::MAX)
    }
}
