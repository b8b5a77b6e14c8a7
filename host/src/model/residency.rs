//! Which models are in memory, and for whom; it never runs them, and never unloads one that is leased.
//!
//! A model is known by the digest of its package: however many names, tenants and functions use it, it is loaded once.
//! Whoever opens a model that is being loaded waits for that load. Where the device has no room, models that nobody holds
//! leave, the [`policy`] says which; where they do not free enough, a load waits for leases to end.

mod lease;
mod policy;
mod state;
#[cfg(test)]
pub(super) mod traces;

pub use lease::{Description, Lease};
pub use state::{ModelState, Pin, Residency};

use super::check::check;
use super::engine::Session;
use super::engines::{Checked, EngineChoice, EngineName, EngineState, Engines};
use super::package::{Blobs, Directory, Package, Resolved};
use super::prepared::{Prepared, Staged};
use super::signature::Signature;
use crate::config::{Config, Limits};
use crate::confined::Confined;
use crate::device::{Account, Charge, Device, Owner};
use crate::error::{Error, Kind, Result};
use crate::single_flight::{Failure, Flight, Work};
use policy::{Candidate, Uses};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

/// How long whoever waits for memory waits at most before it looks again: tensors tell nobody that they have gone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Every model of this process.
pub struct Models {
    table: Arc<Table>,
    /// What checking an upload takes; not there where no model is to be loaded.
    checks: Option<(Config, Arc<Confined>)>,
}

/// What all leases and loads share.
pub(super) struct Table {
    engines: Engines,
    pub(super) device: Arc<dyn Device>,
    blobs: Arc<dyn Blobs>,
    directory: Arc<dyn Directory>,
    /// Not there where no model is to be loaded, or nothing is to be kept.
    prepared: Option<Prepared>,
    pub(super) limits: Limits,
    /// One permit for each run that may be under way.
    pub(super) runs: Arc<Semaphore>,
    loads: Semaphore,
    /// One load after the other gets room, in the order in which they came.
    room: tokio::sync::Mutex<()>,
    /// One form after the other is read into host memory.
    staging: tokio::sync::Mutex<()>,
    /// The digests of those whose turn is to come.
    to_stage: Mutex<HashSet<String>>,
    /// Told when a lease has ended.
    freed: Notify,
    /// Opens of any model.
    opens: AtomicU64,
    /// How often a model left memory.
    departures: AtomicU64,
    /// By digest and engine.
    entries: Mutex<HashMap<Key, Entry>>,
    /// By digest; the default is not there. Locked last.
    pins: Mutex<HashMap<String, Pin>>,
}

/// A model's digest, and the engine it runs on.
type Key = (String, EngineName);

struct Entry {
    name: String,
    /// Deleted: the entry goes with the last lease, unless the model is opened again.
    forgotten: bool,
    bytes: u64,
    counts: Arc<Counts>,
    slot: Slot,
    reason: String,
    uses: Uses,
    load_ms: Option<f64>,
    loads: u64,
    evictions: u64,
}

impl Entry {
    fn new(resolved: &Resolved) -> Entry {
        Entry {
            name: resolved.name.clone(),
            forgotten: false,
            bytes: resolved.package.weights_bytes(),
            counts: Arc::default(),
            slot: Slot::Stored,
            reason: String::new(),
            uses: Uses::default(),
            load_ms: None,
            loads: 0,
            evictions: 0,
        }
    }

    /// What loading it takes, or would by a rough guess: a gigabyte a second.
    fn load_ms(&self) -> f64 {
        self.load_ms.unwrap_or(1.0 + self.bytes as f64 / 1e6)
    }
}

enum Slot {
    Stored,
    Loading(Flight<Outcome>),
    Resident(Arc<Loaded>),
    /// Unloaded, but there were leases on it. The next open takes it back rather than loading a second copy.
    Leaving(Weak<Loaded>),
}

/// What came of a load.
type Outcome = std::result::Result<Arc<Loaded>, Failure>;

/// What outlives a load.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) runs: AtomicU64,
    /// Runs that wait for their turn.
    pub(super) waiting: AtomicU64,
    leases: AtomicU64,
}

/// A model in memory.
pub(super) struct Loaded {
    pub(super) session: Arc<dyn Session>,
    pub(super) counts: Arc<Counts>,
    weights: Charge,
}

impl Models {
    /// No model loaded yet. Looks for onnxruntime's library; where there is none this succeeds all the same, models run on rten,
    /// and `open` looks again. Models are checked by children that `confined` starts.
    ///
    /// Errors: those of the disk, where prepared forms are kept.
    pub fn new(
        config: &Config,
        device: Arc<dyn Device>,
        blobs: Arc<dyn Blobs>,
        directory: Arc<dyn Directory>,
        confined: Arc<Confined>,
    ) -> Result<Models> {
        let engines = Engines::new(config, Some(&device));
        if let Err(error) = engines.get(EngineName::Onnxruntime).version() {
            tracing::warn!("models run on rten only: {}", error.chain());
        }
        let checks = Some((config.clone(), confined));
        let prepared = Prepared::open(config)?;
        Ok(Models { checks, ..Models::with(engines, prepared, &config.limits, device, blobs, directory) })
    }

    /// Models that can be found and described, and never loaded.
    pub fn without_engine(
        limits: &Limits,
        device: Arc<dyn Device>,
        blobs: Arc<dyn Blobs>,
        directory: Arc<dyn Directory>,
    ) -> Models {
        Models::with(Engines::none(), None, limits, device, blobs, directory)
    }

    fn with(
        engines: Engines,
        prepared: Option<Prepared>,
        limits: &Limits,
        device: Arc<dyn Device>,
        blobs: Arc<dyn Blobs>,
        directory: Arc<dyn Directory>,
    ) -> Models {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let table = Arc::new(Table {
            engines,
            device,
            blobs,
            directory,
            prepared,
            limits: limits.clone(),
            runs: Arc::new(Semaphore::new(cores)),
            loads: Semaphore::new(cores),
            room: tokio::sync::Mutex::default(),
            staging: tokio::sync::Mutex::default(),
            to_stage: Mutex::default(),
            freed: Notify::new(),
            opens: AtomicU64::new(0),
            departures: AtomicU64::new(0),
            entries: Mutex::default(),
            pins: Mutex::default(),
        });
        let weak = Arc::downgrade(&table);
        let reclaim = move |bytes| weak.upgrade().is_some_and(|table| table.make_room(bytes));
        table.device.ledger().reclaim_with(Box::new(reclaim));
        Models { table, checks: None }
    }

    /// The engines of this process, those that are not there with what to do about it.
    pub fn engines(&self) -> Vec<EngineState> {
        self.table.engines.states()
    }

    /// The engine that a model runs on now.
    ///
    /// Errors: `unavailable` where none is there that it may run on.
    pub fn engine_of(&self, checked: &Checked) -> Result<EngineName> {
        self.table.engines.choose(checked)
    }

    /// Opens a model by `name`, `name@version` or `name@alias`. Loads it where it is not in memory; if someone else's load
    /// is under way, waits for that. A load goes on when the future is dropped.
    ///
    /// Errors: those of the directory (`not-found`); `unavailable` where the model cannot be loaded; `overloaded` where the
    /// device has no room, and none came within `room_wait_ms`: what is there is leased or pinned, or belongs to tensors.
    pub async fn open(&self, tenant: &str, name: &str) -> Result<Lease> {
        self.lease(self.table.directory.resolve(tenant, name).await?).await
    }

    /// Begins to load what is not in memory of the models of these names, before somebody opens them and without waiting for it;
    /// only where the device has room as it is, so that no other model leaves and no load that waits for room gets less; what
    /// finds none is read into host memory. Names that mean nothing are passed over. Needs tokio's runtime.
    pub fn prefetch(&self, tenant: Arc<str>, names: Vec<String>) {
        let table = self.table.clone();
        tokio::spawn(async move {
            for name in names {
                let Ok(resolved) = table.directory.resolve(&tenant, &name).await else { continue };
                let Ok(key) = table.key(&resolved) else { continue };
                if !table.is_away(&key) {
                    continue;
                }
                match table.free_room_for(&resolved) {
                    Some(weights) => drop(table.begin(&resolved, key, Some(weights))),
                    None => table.stage(&resolved.digest),
                }
            }
        });
    }

    /// How often a model left memory since the process started. As long as it stays the same, what was fetched is there.
    pub fn departures(&self) -> u64 {
        self.table.departures.load(Ordering::Relaxed)
    }

    async fn lease(&self, resolved: Arc<Resolved>) -> Result<Lease> {
        let loaded = self.table.loaded(&resolved).await?;
        let description = Description::new(resolved, self.table.blobs.clone());
        Ok(Lease::new(loaded, description, self.table.clone()))
    }

    /// The local file with the bytes of a digest, such as an asset's.
    pub fn blob(&self, digest: &str) -> std::path::PathBuf {
        self.table.blobs.path(digest)
    }

    /// Finds a model by the same names and loads nothing.
    ///
    /// Errors: those of the directory (`not-found`).
    pub async fn describe(&self, tenant: &str, name: &str) -> Result<Description> {
        let resolved = self.table.directory.resolve(tenant, name).await?;
        Ok(Description::new(resolved, self.table.blobs.clone()))
    }

    /// Tries a model that is not known yet on each engine, in child processes. The device's memory is charged for it
    /// meanwhile. `asked` is the engine that the upload asks for, where it asks; else `model.toml` says.
    ///
    /// Errors: `invalid-argument` and `unsupported` with the engines' reasons where none runs it: it is wrong, makes them crash,
    /// runs on no inputs that were tried, differs from its samples, or takes more than `check_ms` or `check_memory_bytes`;
    /// `too-large` where its samples are; `unavailable` where the engine that was asked for is not there; `overloaded` where the
    /// device has no room.
    pub async fn inspect(
        &self,
        package: &Package,
        digest: &str,
        asked: Option<EngineChoice>,
    ) -> Result<(Signature, Checked)> {
        package.check_samples(&self.table.limits)?;
        let _charge = self.table.charge(digest, package)?;
        let (table, package, digest) = (self.table.clone(), package.clone(), digest.to_owned());
        let weights_bytes = package.weights_bytes();
        let work = tokio::task::spawn_blocking(move || table.blobs.package_folder(&digest, &package));
        let folder = work.await.map_err(|error| Error::host("checking a model", error))??;
        match &self.checks {
            Some((config, confined)) => check(confined, config, folder, weights_bytes, asked).await,
            None => Err(Error::unavailable("no engine runs models here")),
        }
    }

    /// Every model that was opened since the process started and not forgotten, sorted by name and digest. One that was
    /// opened on two engines is there twice.
    /// It looks at the files of all prepared forms, so it is for threads that may wait.
    pub fn states(&self) -> Vec<ModelState> {
        self.states_and_staged().0
    }

    /// [`Models::states`], and where models are that were not opened.
    pub fn states_and_staged(&self) -> (Vec<ModelState>, Staged) {
        let staged = self.staged();
        let state = |digest: &str, engine: EngineName, entry: &Entry| match entry.slot.residency() {
            Residency::Stored => staged.unloaded(digest, Some(engine)),
            state => state,
        };
        let mut entries = self.table.entries();
        entries.retain(|_, entry| !entry.forgotten || entry.slot.residency() != Residency::Stored);
        let mut states: Vec<_> = entries
            .iter()
            .map(|((digest, engine), entry)| (digest, engine, entry, self.table.pin(digest)))
            .map(|(digest, engine, entry, Pin { pinned, priority })| ModelState {
                digest: digest.clone(),
                name: entry.name.clone(),
                engine: *engine,
                state: state(digest, *engine, entry),
                bytes: entry.bytes,
                runs: entry.counts.runs.load(Ordering::Relaxed),
                leases: entry.counts.leases.load(Ordering::Relaxed),
                reason: entry.reason.clone(),
                pinned,
                priority,
                loads: entry.loads,
                evictions: entry.evictions,
                load_ms: entry.load_ms.unwrap_or_default() as u64,
            })
            .collect();
        drop(entries);
        states.sort_by(|a, b| (&a.name, &a.digest, a.engine).cmp(&(&b.name, &b.digest, b.engine)));
        (states, staged)
    }

    /// Unloads a model; a load that is under way is waited for first. Leases on it stay valid: the memory is freed when the
    /// last of them goes. True where the memory is free now.
    pub async fn unload(&self, digest: &str) -> bool {
        let mut free = true;
        for engine in EngineName::ALL {
            free &= self.unload_from(&(digest.to_owned(), engine)).await;
        }
        free
    }

    /// Keeps a model from making room for others, or lets it; and sets whom it goes before. It counts until the process ends,
    /// whether the model is loaded or not.
    pub fn keep(&self, digest: &str, pin: Pin) {
        let mut pins = self.table.pins.lock().unwrap_or_else(PoisonError::into_inner);
        match pin == Pin::default() {
            true => drop(pins.remove(digest)),
            false => drop(pins.insert(digest.to_owned(), pin)),
        }
    }

    /// What counts for a model; see [`Models::keep`].
    pub fn pin(&self, digest: &str) -> Pin {
        self.table.pin(digest)
    }

    /// The digests of the models whose prepared forms are on disk.
    ///
    /// Errors: those of the disk.
    pub fn prepared(&self) -> Result<BTreeSet<String>> {
        self.table.prepared.as_ref().map_or_else(|| Ok(BTreeSet::new()), Prepared::digests)
    }

    /// Which models lie in host memory.
    pub(super) fn staged(&self) -> Staged {
        self.table.prepared.as_ref().map(Prepared::staged).unwrap_or_default()
    }

    async fn unload_from(&self, key: &Key) -> bool {
        loop {
            let flight = {
                let mut entries = self.table.entries();
                let Some(entry) = entries.get_mut(key) else { return true };
                match std::mem::replace(&mut entry.slot, Slot::Stored) {
                    Slot::Stored => return true,
                    Slot::Resident(loaded) => {
                        self.table.departures.fetch_add(1, Ordering::Relaxed);
                        "unloaded on request".clone_into(&mut entry.reason);
                        let left = Arc::downgrade(&loaded);
                        entry.slot = Slot::Leaving(left.clone());
                        drop(entries);
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

    /// Unloads a model that was deleted, removes its prepared form, and drops it from [`Models::states`] once its memory is
    /// free. Leases on it stay valid. Not for one that another name still means.
    pub async fn forget(&self, digest: &str) {
        self.unload(digest).await;
        let (table, of) = (self.table.clone(), digest.to_owned());
        let remove = move || table.prepared.as_ref().map(|prepared| prepared.remove(&of));
        if let Err(error) = tokio::task::spawn_blocking(remove).await {
            tracing::warn!("removing a model's prepared form: {error}");
        }
        for engine in EngineName::ALL {
            if let Some(entry) = self.table.entries().get_mut(&(digest.to_owned(), engine)) {
                entry.forgotten = true;
            }
        }
    }
}

impl Table {
    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_stage(&self) -> MutexGuard<'_, HashSet<String>> {
        self.to_stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pin(&self, digest: &str) -> Pin {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).get(digest).copied().unwrap_or_default()
    }

    fn key(&self, resolved: &Resolved) -> Result<Key> {
        Ok((resolved.digest.clone(), self.engines.choose(&resolved.checked)?))
    }

    async fn loaded(self: &Arc<Self>, resolved: &Arc<Resolved>) -> Result<Arc<Loaded>> {
        let flight = match self.begin(resolved, self.key(resolved)?, None) {
            Ok(loaded) => return Ok(loaded),
            Err(flight) => flight,
        };
        let given_up = || Error::unavailable(format!("loading model '{}' was given up; open it again", resolved.name));
        Ok(flight.outcome().await.ok_or_else(given_up)??)
    }

    /// The model if it is in memory, else the load that is under way, which begins here if there is none. A load that nobody
    /// asked for yet comes with the claim on its bytes, and is no use of the model.
    fn begin(
        self: &Arc<Self>,
        resolved: &Arc<Resolved>,
        key: Key,
        unasked: Option<Charge>,
    ) -> std::result::Result<Arc<Loaded>, Flight<Outcome>> {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry::new(resolved));
        entry.forgotten = false;
        if unasked.is_none() {
            entry.uses.note(self.opens.fetch_add(1, Ordering::Relaxed));
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
                entry.slot = Slot::Loading(flight.clone());
                let reason = if unasked.is_some() { "expected by a function that was called" } else { "opened" };
                reason.clone_into(&mut entry.reason);
                let counts = entry.counts.clone();
                tokio::spawn(self.clone().bring(resolved.clone(), key.1, unasked, counts, work));
                Err(flight)
            }
        }
    }

    fn is_away(&self, key: &Key) -> bool {
        self.entries().get(key).is_none_or(|entry| matches!(entry.slot.now(), Now::Away))
    }

    /// Begins to read the prepared form of a model into host memory, after those that came before it; once for all who ask before
    /// its turn has come.
    fn stage(self: &Arc<Self>, digest: &str) {
        if self.prepared.is_none() || !self.to_stage().insert(digest.to_owned()) {
            return;
        }
        let (table, digest) = (self.clone(), digest.to_owned());
        tokio::spawn(async move {
            let _turn = table.staging.lock().await;
            table.to_stage().remove(&digest);
            let reading = table.clone();
            let read = move || {
                let Some(prepared) = &reading.prepared else { return };
                let is_resident = |entry: &Entry| entry.slot.residency() == Residency::Resident;
                let entries = reading.entries();
                let resident = entries.iter().filter(|(_, entry)| is_resident(entry));
                let resident = resident.map(|((digest, _), _)| digest.clone()).collect();
                drop(entries);
                prepared.stage(&digest, &resident);
            };
            // Nobody waits for it, and it tells what it cannot read.
            let _ = tokio::task::spawn_blocking(read).await;
        });
    }

    /// The claim on a model's bytes, where they are free and no load waits for room.
    fn free_room_for(&self, resolved: &Resolved) -> Option<Charge> {
        let _turn = self.room.try_lock().ok()?;
        self.account(&resolved.digest).charge_free(resolved.package.weights_bytes()).ok()
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
        if let Some(entry) = self.entries().get_mut(&(digest.clone(), engine)) {
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
        let end = Instant::now() + Duration::from_millis(self.limits.room_wait_ms);
        let weights = match weights {
            Some(weights) => weights,
            None => self.room_for(digest, &package, end).await?,
        };
        let _turn = self.loads.acquire().await.map_err(|error| Error::host("waiting to load", error))?;
        let load = || {
            let (table, digest, package) = (self.clone(), digest.to_owned(), package.clone());
            tokio::task::spawn_blocking(move || {
                let begun = Instant::now();
                let folder = table.blobs.package_folder(&digest, &package)?;
                let (engine, bytes) = (&**table.engines.get(engine), package.weights_bytes());
                let session = match &table.prepared {
                    Some(prepared) => prepared.load(engine, &digest, &folder, bytes),
                    None => engine.load(&folder, bytes),
                };
                Ok((session?, begun.elapsed()))
            })
        };
        // What an engine takes beside the weights, too, may have to wait for leases and tensors to go.
        let (session, took) = self.when_there_is_room(end, load).await?;
        Ok((Arc::new(Loaded { session, counts, weights }), took))
    }

    /// The claim on a model's bytes. Models that nobody holds leave for it; then it waits for leases and tensors to go.
    ///
    /// Errors: `overloaded` where there is no room before `end`, or never can be.
    async fn room_for(self: &Arc<Self>, digest: &str, package: &Package, end: Instant) -> Result<Charge> {
        let _turn = self.room.lock().await;
        let possible = package.weights_bytes() <= self.device.ledger().budget_bytes();
        let end = if possible { end } else { Instant::now() };
        let mut tries = 0;
        let charge = || {
            tries += 1;
            if tries == 2 {
                // While it waits.
                self.stage(digest);
            }
            // Models may be unloaded for it, which takes its time.
            let (table, of, wanted) = (self.clone(), digest.to_owned(), package.clone());
            tokio::task::spawn_blocking(move || table.charge(&of, &wanted))
        };
        match self.when_there_is_room(end, charge).await {
            Err(error) if error.kind() == Kind::Overloaded => Err(self.no_room(&error)),
            charged => charged,
        }
    }

    /// Tries, and tries again as long as it is `overloaded`, until `end`.
    async fn when_there_is_room<T>(&self, end: Instant, mut work: impl FnMut() -> JoinHandle<Result<T>>) -> Result<T> {
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

    fn no_room(&self, error: &Error) -> Error {
        let entries = self.entries();
        let held = |pinned: bool| {
            let resident = entries.iter().filter(|(_, entry)| entry.slot.residency() == Residency::Resident);
            resident.filter(|(key, _)| self.pin(&key.0).pinned == pinned).map(|(_, entry)| entry.bytes).sum::<u64>()
        };
        Error::overloaded(format!(
            "{}; models that are pinned hold {} bytes, models in use {}",
            error.message(),
            held(true),
            held(false)
        ))
    }

    /// Unloads models that nobody holds, so that at least so many bytes are free; none where all of them are not enough.
    fn make_room(&self, need: u64) -> bool {
        let mut left = Vec::new();
        {
            let mut entries = self.entries();
            let clock = self.opens.load(Ordering::Relaxed);
            let idle = |entry: &Entry| match &entry.slot {
                // Every lease, and everyone who waited for the load, has a clone.
                Slot::Resident(loaded) if Arc::strong_count(loaded) == 1 => Some(loaded.weights.bytes()),
                _ => None,
            };
            let candidates = entries.iter().filter_map(|(key, entry)| {
                let (bytes, Pin { pinned, priority }) = (idle(entry)?, self.pin(&key.0));
                let worth = entry.uses.at(clock) * entry.load_ms();
                (!pinned).then(|| Candidate { key: key.clone(), bytes, priority, worth })
            });
            let Some(keys) = policy::leaving(candidates.collect(), need) else { return false };
            for key in keys {
                let Some(entry) = entries.get_mut(&key) else { continue };
                let slot = std::mem::replace(&mut entry.slot, Slot::Stored);
                "made room for others".clone_into(&mut entry.reason);
                entry.evictions += 1;
                entry.uses.leave();
                self.departures.fetch_add(1, Ordering::Relaxed);
                tracing::info!(model = entry.name, digest = key.0, bytes = entry.bytes, "model makes room");
                left.push(slot);
            }
        }
        // Without the lock: an engine takes its time.
        !left.is_empty()
    }

    fn charge(&self, digest: &str, package: &Package) -> Result<Charge> {
        self.account(digest).charge(package.weights_bytes())
    }

    fn account(&self, digest: &str) -> Arc<Account> {
        self.device.ledger().account(Owner::Model { name: digest.into() }, u64::MAX, u64::MAX)
    }
}

enum Now {
    Here(Arc<Loaded>),
    Loading(Flight<Outcome>),
    Away,
}

impl Slot {
    fn now(&self) -> Now {
        match self {
            Slot::Stored => Now::Away,
            Slot::Resident(loaded) => Now::Here(loaded.clone()),
            Slot::Leaving(left) => left.upgrade().map_or(Now::Away, Now::Here),
            // Its task is gone without an outcome: nobody may wait for it.
            Slot::Loading(flight) if flight.is_over() => Now::Away,
            Slot::Loading(flight) => Now::Loading(flight.clone()),
        }
    }

    fn residency(&self) -> Residency {
        match self {
            Slot::Stored => Residency::Stored,
            Slot::Loading(_) => Residency::Loading,
            Slot::Resident(_) => Residency::Resident,
            Slot::Leaving(left) if left.strong_count() == 0 => Residency::Stored,
            Slot::Leaving(_) => Residency::Resident,
        }
    }
}
