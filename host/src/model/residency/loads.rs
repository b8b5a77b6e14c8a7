//! Brings models into memory, each once for all who ask meanwhile, and takes them out again on request. It never decides which
//! models leave for others.

use super::room::Room;
use super::table::{Counts, Entry, Key, Loaded, Now, Outcome, Slot, Table};
use crate::config::Limits;
use crate::device::Charge;
use crate::error::{Error, Kind, Result};
use crate::model::engines::{EngineName, Engines};
use crate::model::package::{Blobs, Package, Resolved};
use crate::model::prepared::Prepared;
use crate::model::queue::Lanes;
use crate::single_flight::{Failure, Flight, Work};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What brings models into memory.
pub(super) struct Loads {
    pub(super) engines: Engines,
    pub(super) blobs: Arc<dyn Blobs>,
    /// Not there where no model is to be loaded, or nothing is to be kept.
    pub(super) prepared: Option<Prepared>,
    table: Arc<Table>,
    pub(super) room: Arc<Room>,
    /// How long a load waits for room.
    room_wait: Duration,
    /// One permit for each load that may be under way.
    permits: Semaphore,
    staging: Staging,
    /// What the models' queues stand in front of.
    lanes: Lanes,
    queued_model_runs: u64,
}

/// Forms that are to be read into host memory.
#[derive(Default)]
struct Staging {
    /// One after the other is read.
    turn: tokio::sync::Mutex<()>,
    /// The digests of those whose turn is to come.
    waiting: Mutex<HashSet<String>>,
}

impl Staging {
    fn waiting(&self) -> MutexGuard<'_, HashSet<String>> {
        self.waiting.lock()
    }
}

impl Loads {
    /// No model loaded yet. As many loads, and as many runs, at once as there are cores.
    pub(super) fn new(
        engines: Engines,
        prepared: Option<Prepared>,
        blobs: Arc<dyn Blobs>,
        room: Arc<Room>,
        limits: &Limits,
    ) -> Loads {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Loads {
            engines,
            blobs,
            prepared,
            table: room.table.clone(),
            room,
            room_wait: Duration::from_millis(limits.room_wait_ms),
            permits: Semaphore::new(cores),
            staging: Staging::default(),
            lanes: Lanes::new(cores),
            queued_model_runs: limits.queued_model_runs,
        }
    }

    fn key(&self, resolved: &Resolved) -> Result<Key> {
        Ok((resolved.digest.clone(), self.engines.choose(&resolved.checked)?))
    }

    /// The model in memory. Loads it where it is not there, or waits for the load that is under way; that goes on when the future
    /// is dropped.
    ///
    /// Errors: `unavailable` where the model cannot be loaded; `overloaded` where the device has no room.
    pub(super) async fn loaded(self: &Arc<Self>, resolved: &Arc<Resolved>) -> Result<Arc<Loaded>> {
        let flight = match self.begin(resolved, self.key(resolved)?, None) {
            Ok(loaded) => return Ok(loaded),
            Err(flight) => flight,
        };
        let given_up = || Error::unavailable(format!("loading model '{}' was given up; open it again", resolved.name));
        Ok(flight.outcome().await.ok_or_else(given_up)??)
    }

    /// Begins to load a model that nobody asked for yet, where it is not in memory and there is free room; where there is none,
    /// it is read into host memory.
    pub(super) fn expect(self: &Arc<Self>, resolved: &Arc<Resolved>) {
        let Ok(key) = self.key(resolved) else { return };
        let is_away = self.table.rows().entries.get(&key).is_none_or(|entry| matches!(entry.slot.now(), Now::Away));
        if !is_away {
            return;
        }
        match self.room.charge_free(&resolved.digest, resolved.package.weights_bytes()) {
            Some(weights) => drop(self.begin(resolved, key, Some(weights))),
            None => self.stage(&resolved.digest),
        }
    }

    /// Unloads a model; a load that is under way is waited for first. True where the memory is free now.
    pub(super) async fn unload(&self, key: &Key) -> bool {
        loop {
            let flight = {
                let mut rows = self.table.rows();
                let Some(entry) = rows.entries.get_mut(key) else { return true };
                match std::mem::replace(&mut entry.slot, Slot::Stored) {
                    Slot::Stored => return true,
                    Slot::Resident(loaded) => {
                        self.table.note_departure();
                        "unloaded on request".clone_into(&mut entry.reason);
                        let left = Arc::downgrade(&loaded);
                        entry.slot = Slot::Leaving(left.clone());
                        drop(rows);
                        drop(loaded);
                        return left.strong_count() == 0;
                    }
                    Slot::Leaving(left) => {
                        let free = left.strong_count() == 0;
                        entry.slot = Slot::Leaving(left);
                        return free;
                    }
                    Slot::Loading(flight) => {
                        entry.slot = Slot::Loading(flight.clone());
                        flight
                    }
                }
            };
            if flight.outcome().await.is_none() {
                return true;
            }
        }
    }

    /// The model if it is in memory, else the load that is under way, which begins here if there is none. A load that nobody
    /// asked for yet comes with the claim on its bytes, and is no use of the model.
    fn begin(
        self: &Arc<Self>,
        resolved: &Arc<Resolved>,
        key: Key,
        unasked: Option<Charge>,
    ) -> std::result::Result<Arc<Loaded>, Flight<Outcome>> {
        let mut rows = self.table.rows();
        let clock = rows.opens;
        rows.opens += u64::from(unasked.is_none());
        let entry = rows
            .entries
            .entry(key.clone())
            .or_insert_with(|| Entry::new(resolved, self.lanes.queue(self.queued_model_runs)));
        entry.forgotten = false;
        if unasked.is_none() {
            entry.uses.note(clock);
            if entry.name != resolved.name {
                entry.name.clone_from(&resolved.name);
            }
        }
        match entry.slot.now() {
            Now::Here(loaded) => {
                entry.slot = Slot::Resident(loaded.clone());
                Ok(loaded)
            }
            Now::Loading(flight) => Err(flight),
            Now::Away => {
                let (flight, work) = Flight::new();
                // This share has the load go on when nobody waits for it.
                entry.slot = Slot::Loading(flight.clone());
                let reason = if unasked.is_some() { "expected by a function that was called" } else { "opened" };
                reason.clone_into(&mut entry.reason);
                let counts = entry.counts.clone();
                tokio::spawn(self.clone().bring(resolved.clone(), key.1, unasked, counts, work));
                Err(flight)
            }
        }
    }

    /// Begins to read the prepared form of a model into host memory, after those that came before it; once for all who ask before
    /// its turn has come.
    fn stage(self: &Arc<Self>, digest: &str) {
        if self.prepared.is_none() || !self.staging.waiting().insert(digest.to_owned()) {
            return;
        }
        let (loads, digest) = (self.clone(), digest.to_owned());
        tokio::spawn(async move {
            let _turn = loads.staging.turn.lock().await;
            loads.staging.waiting().remove(&digest);
            let reading = loads.clone();
            let read = move || {
                let Some(prepared) = &reading.prepared else { return };
                let resident = reading.table.rows().resident().map(|((digest, _), _)| digest.clone()).collect();
                prepared.stage(&digest, &resident);
            };
            // Nobody waits for it, and it tells what it cannot read.
            let _ = tokio::task::spawn_blocking(read).await;
        });
    }

    async fn bring(
        self: Arc<Self>,
        resolved: Arc<Resolved>,
        engine: EngineName,
        weights: Option<Charge>,
        counts: Arc<Counts>,
        work: Work<Outcome>,
    ) {
        let Resolved { name, version, digest, package, .. } = &*resolved;
        let mut took = None;
        let outcome = match self.bring_in_turn(digest, package.clone(), engine, weights, counts).await {
            Ok((loaded, time)) => {
                let ms = time.as_millis() as u64;
                tracing::info!(model = name, version, digest, %engine, ms, "model is resident");
                took = Some(time);
                Ok(loaded)
            }
            Err(error) => {
                tracing::warn!(model = name, version, digest, %engine, "model cannot be loaded: {}", error.chain());
                // What was accepted once and fails now is neither the caller's mistake nor for every caller to look into: the
                // log has it.
                let kind = match error.kind() {
                    kind @ (Kind::Overloaded | Kind::StorageFull) => kind,
                    _ => Kind::Unavailable,
                };
                Err(Failure::new(kind, format!("model '{name}' cannot be loaded: {}", error.message())))
            }
        };
        if let Some(entry) = self.table.rows().entries.get_mut(&(digest.clone(), engine)) {
            if let Some(took) = took {
                let ms = took.as_secs_f64() * 1e3;
                // The first load also makes the prepared form, so it tells little of the next.
                entry.load_ms = Some(match entry.load_ms {
                    Some(before) if entry.loads > 1 => f64::midpoint(before, ms),
                    _ => ms,
                });
                entry.loads += 1;
            }
            entry.slot = match &outcome {
                Ok(loaded) => Slot::Resident(loaded.clone()),
                Err(failure) => {
                    failure.message().clone_into(&mut entry.reason);
                    Slot::Stored
                }
            };
        }
        // From here on only the entry and those who waited hold the model.
        work.finish(outcome);
    }

    async fn bring_in_turn(
        self: &Arc<Self>,
        digest: &str,
        package: Package,
        engine: EngineName,
        weights: Option<Charge>,
        counts: Arc<Counts>,
    ) -> Result<(Arc<Loaded>, Duration)> {
        let end = Instant::now() + self.room_wait;
        let weights = match weights {
            Some(weights) => weights,
            None => self.room.claim(digest, package.weights_bytes(), end, || self.stage(digest)).await?,
        };
        let _permit = self.permits.acquire().await.map_err(|error| Error::host("waiting to load", error))?;
        let load = || {
            let (loads, digest, package) = (self.clone(), digest.to_owned(), package.clone());
            tokio::task::spawn_blocking(move || {
                let begun = Instant::now();
                let folder = loads.blobs.package_folder(&digest, &package)?;
                let (engine, bytes) = (&**loads.engines.get(engine), package.weights_bytes());
                let session = match &loads.prepared {
                    Some(prepared) => prepared.load(engine, &digest, &folder, bytes),
                    None => engine.load(&folder, bytes),
                };
                Ok((session?, begun.elapsed()))
            })
        };
        // What an engine takes beside the weights, too, may have to wait for leases and tensors to go.
        let (session, took) = self.room.retry_until(end, load).await?;
        Ok((Arc::new(Loaded { session, counts, weights }), took))
    }
}
