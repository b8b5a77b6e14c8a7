//! What is known of each model that was opened, under one lock: where it is, how often it is used, what was asked for it. It loads
//! and unloads nothing.

use super::policy::Uses;
use super::{Pin, Residency};
use crate::device::Charge;
use crate::model::engine::Session;
use crate::model::queue::Queue;
use crate::model::{EngineName, Resolved};
use crate::single_flight::{Failure, Flight};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// A model's digest, and the engine it runs on.
pub(super) type Key = (String, EngineName);

/// What came of a load.
pub(super) type Outcome = Result<Arc<Loaded>, Failure>;

/// What loads, leases and the search for room all look at.
#[derive(Default)]
pub(super) struct Table {
    rows: Mutex<Rows>,
    departures: AtomicU64,
}

#[derive(Default)]
pub(super) struct Rows {
    pub(super) entries: HashMap<Key, Entry>,
    /// By digest; the default is not there.
    pins: HashMap<String, Pin>,
    /// Opens of any model.
    pub(super) opens: u64,
}

impl Table {
    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock()
    }

    /// How often a model left memory.
    pub(super) fn departures(&self) -> u64 {
        self.departures.load(Ordering::Relaxed)
    }

    /// Counts a model that leaves memory.
    pub(super) fn note_departure(&self) {
        self.departures.fetch_add(1, Ordering::Relaxed);
    }
}

impl Rows {
    pub(super) fn pin(&self, digest: &str) -> Pin {
        self.pins.get(digest).copied().unwrap_or_default()
    }

    pub(super) fn set_pin(&mut self, digest: &str, pin: Pin) {
        match pin == Pin::default() {
            true => drop(self.pins.remove(digest)),
            false => drop(self.pins.insert(digest.to_owned(), pin)),
        }
    }

    /// The entries of the models that are in memory.
    pub(super) fn resident(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.slot.residency() == Residency::Resident)
    }
}

pub(super) struct Entry {
    pub(super) name: String,
    /// Deleted: the entry goes with the last lease, unless the model is opened again.
    pub(super) forgotten: bool,
    pub(super) bytes: u64,
    pub(super) counts: Arc<Counts>,
    pub(super) slot: Slot,
    pub(super) reason: String,
    pub(super) uses: Uses,
    pub(super) load_ms: Option<f64>,
    pub(super) loads: u64,
    pub(super) evictions: u64,
}

impl Entry {
    pub(super) fn new(resolved: &Resolved, queue: Queue) -> Entry {
        Entry {
            name: resolved.name.clone(),
            forgotten: false,
            bytes: resolved.package.weights_bytes(),
            counts: Arc::new(Counts { runs: AtomicU64::new(0), leases: AtomicU64::new(0), queue }),
            slot: Slot::Stored,
            reason: String::new(),
            uses: Uses::default(),
            load_ms: None,
            loads: 0,
            evictions: 0,
        }
    }

    /// What loading it takes, or would by a rough guess: a gigabyte a second.
    pub(super) fn load_ms(&self) -> f64 {
        self.load_ms.unwrap_or(1.0 + self.bytes as f64 / 1e6)
    }
}

pub(super) enum Slot {
    Stored,
    Loading(Flight<Outcome>),
    Resident(Arc<Loaded>),
    /// Unloaded, but there were leases on it. The next open takes it back rather than loading a second copy.
    Leaving(Weak<Loaded>),
}

pub(super) enum Now {
    Here(Arc<Loaded>),
    Loading(Flight<Outcome>),
    Away,
}

impl Slot {
    pub(super) fn now(&self) -> Now {
        match self {
            Slot::Stored => Now::Away,
            Slot::Resident(loaded) => Now::Here(loaded.clone()),
            Slot::Leaving(left) => left.upgrade().map_or(Now::Away, Now::Here),
            // Its task is gone without an outcome: nobody may wait for it.
            Slot::Loading(flight) if flight.is_over() => Now::Away,
            Slot::Loading(flight) => Now::Loading(flight.clone()),
        }
    }

    pub(super) fn residency(&self) -> Residency {
        match self {
            Slot::Stored => Residency::Stored,
            Slot::Loading(_) => Residency::Loading,
            Slot::Resident(_) => Residency::Resident,
            Slot::Leaving(left) if left.strong_count() == 0 => Residency::Stored,
            Slot::Leaving(_) => Residency::Resident,
        }
    }
}

/// What outlives a load.
pub(in crate::model) struct Counts {
    pub(in crate::model) runs: AtomicU64,
    pub(super) leases: AtomicU64,
    pub(in crate::model) queue: Queue,
}

/// A model in memory.
pub(in crate::model) struct Loaded {
    pub(in crate::model) session: Arc<dyn Session>,
    pub(in crate::model) counts: Arc<Counts>,
    pub(super) weights: Charge,
}
