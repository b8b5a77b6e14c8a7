//! Which models are in memory, and for whom; it never runs them, and never unloads one that is leased.
//!
//! A model is known by the digest of its package: however many names, tenants and functions use it, it is loaded once.
//! Whoever opens a model that is being loaded waits for that load.

use super::check::check;
use super::engine::Session;
use super::engines::{Checked, EngineChoice, EngineName, EngineState, Engines};
use super::package::{Blobs, Directory, Package, Resolved};
use super::signature::Signature;
use crate::config::{Config, Limits};
use crate::confined::Confined;
use crate::device::{Charge, Device, Owner};
use crate::error::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::{Semaphore, watch};

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// On disk only.
    Stored,
    /// On its way into memory.
    Loading,
    /// In the device's memory, ready to run.
    Resident,
}

impl Residency {
    /// The word for it in JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Residency::Stored => "stored",
            Residency::Loading => "loading",
            Residency::Resident => "resident",
        }
    }
}

/// A model that was opened since the process started, for status pages.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelState {
    /// The digest of its package.
    pub digest: String,
    /// The name by which it was opened last.
    pub name: String,
    /// The engine that it runs on.
    pub engine: EngineName,
    /// Where it is.
    pub state: Residency,
    /// The bytes of its weights.
    pub bytes: u64,
    /// Its runs since the process started.
    pub runs: u64,
    /// Leases that keep it in memory.
    pub leases: u64,
}

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
    pub(super) limits: Limits,
    /// One permit for each run that may be under way.
    pub(super) runs: Arc<Semaphore>,
    loads: Semaphore,
    /// By digest and engine.
    entries: Mutex<HashMap<(String, EngineName), Entry>>,
}

struct Entry {
    name: String,
    /// Deleted: the entry goes with the last lease, unless the model is opened again.
    forgotten: bool,
    bytes: u64,
    counts: Arc<Counts>,
    slot: Slot,
}

enum Slot {
    Stored,
    Loading(watch::Receiver<Outcome>),
    Resident(Arc<Loaded>),
    /// Unloaded, but there were leases on it. The next open takes it back rather than loading a second copy.
    Leaving(Weak<Loaded>),
}

#[derive(Clone)]
enum Outcome {
    Pending,
    Ready(Arc<Loaded>),
    Failed(Kind, String),
}

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
    _weights: Charge,
}

impl Models {
    /// No model loaded yet. Looks for onnxruntime's library; where there is none this succeeds all the same, models run on rten,
    /// and `open` looks again. Models are checked by children that `confined` starts.
    ///
    /// Errors: none at present.
    pub fn new(
        config: &Config,
        device: Arc<dyn Device>,
        blobs: Arc<dyn Blobs>,
        directory: Arc<dyn Directory>,
        confined: Arc<Confined>,
    ) -> Result<Models> {
        let engines = Engines::new(config);
        if let Err(error) = engines.get(EngineName::Onnxruntime).version() {
            tracing::warn!("models run on rten only: {}", error.chain());
        }
        let checks = Some((config.clone(), confined));
        Ok(Models { checks, ..Models::with(engines, &config.limits, device, blobs, directory) })
    }

    /// Models that can be found and described, and never loaded.
    pub fn without_engine(
        limits: &Limits,
        device: Arc<dyn Device>,
        blobs: Arc<dyn Blobs>,
        directory: Arc<dyn Directory>,
    ) -> Models {
        Models::with(Engines::none(), limits, device, blobs, directory)
    }

    fn with(
        engines: Engines,
        limits: &Limits,
        device: Arc<dyn Device>,
        blobs: Arc<dyn Blobs>,
        directory: Arc<dyn Directory>,
    ) -> Models {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let table = Table {
            engines,
            device,
            blobs,
            directory,
            limits: limits.clone(),
            runs: Arc::new(Semaphore::new(cores)),
            loads: Semaphore::new(cores),
            entries: Mutex::default(),
        };
        Models { table: Arc::new(table), checks: None }
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
    /// device has no room.
    pub async fn open(&self, tenant: &str, name: &str) -> Result<Lease> {
        let resolved = self.table.directory.resolve(tenant, name).await?;
        let loaded = self.table.loaded(&resolved).await?;
        loaded.counts.leases.fetch_add(1, Ordering::Relaxed);
        let description = Description { resolved, blobs: self.table.blobs.clone() };
        Ok(Lease(Arc::new(Held { loaded, description, table: self.table.clone() })))
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
        Ok(Description { resolved, blobs: self.table.blobs.clone() })
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
        let work = tokio::task::spawn_blocking(move || table.blobs.package_folder(&digest, &package));
        let folder = work.await.map_err(|error| Error::host("checking a model", error))??;
        match &self.checks {
            Some((config, confined)) => check(confined, config, folder, asked).await,
            None => Err(Error::unavailable("no engine runs models here")),
        }
    }

    /// Every model that was opened since the process started and not forgotten, sorted by name and digest. One that was
    /// opened on two engines is there twice.
    pub fn states(&self) -> Vec<ModelState> {
        let mut entries = self.table.entries();
        entries.retain(|_, entry| !entry.forgotten || entry.slot.residency() != Residency::Stored);
        let mut states: Vec<_> = entries
            .iter()
            .map(|((digest, engine), entry)| ModelState {
                digest: digest.clone(),
                name: entry.name.clone(),
                engine: *engine,
                state: entry.slot.residency(),
                bytes: entry.bytes,
                runs: entry.counts.runs.load(Ordering::Relaxed),
                leases: entry.counts.leases.load(Ordering::Relaxed),
            })
            .collect();
        drop(entries);
        states.sort_by(|a, b| (&a.name, &a.digest, a.engine).cmp(&(&b.name, &b.digest, b.engine)));
        states
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

    async fn unload_from(&self, key: &(String, EngineName)) -> bool {
        loop {
            let mut pending = {
                let mut entries = self.table.entries();
                let Some(entry) = entries.get_mut(key) else { return true };
                match std::mem::replace(&mut entry.slot, Slot::Stored) {
                    Slot::Stored => return true,
                    Slot::Resident(loaded) => {
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
                    Slot::Loading(outcome) => {
                        entry.slot = Slot::Loading(outcome.clone());
                        outcome
                    }
                }
            };
            if pending.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await.is_err() {
                return true;
            }
        }
    }

    /// Unloads a model that was deleted, and drops it from [`Models::states`] once its memory is free. Leases on it stay
    /// valid. Where another name still means this digest, the next open brings it back.
    pub async fn forget(&self, digest: &str) {
        self.unload(digest).await;
        for engine in EngineName::ALL {
            if let Some(entry) = self.table.entries().get_mut(&(digest.to_owned(), engine)) {
                entry.forgotten = true;
            }
        }
    }
}

impl Table {
    fn entries(&self) -> MutexGuard<'_, HashMap<(String, EngineName), Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn loaded(self: &Arc<Self>, resolved: &Arc<Resolved>) -> Result<Arc<Loaded>> {
        let key = (resolved.digest.clone(), self.engines.choose(&resolved.checked)?);
        let mut pending = {
            let mut entries = self.entries();
            let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
                name: String::new(),
                forgotten: false,
                bytes: resolved.package.weights_bytes(),
                counts: Arc::default(),
                slot: Slot::Stored,
            });
            entry.forgotten = false;
            if entry.name != resolved.name {
                entry.name.clone_from(&resolved.name);
            }
            match entry.slot.now() {
                Now::Here(loaded) => {
                    entry.slot = Slot::Resident(loaded.clone());
                    return Ok(loaded);
                }
                Now::Coming(outcome) => outcome,
                Now::Away => {
                    let (sender, outcome) = watch::channel(Outcome::Pending);
                    entry.slot = Slot::Loading(outcome.clone());
                    tokio::spawn(self.clone().bring(resolved.clone(), key.1, entry.counts.clone(), sender));
                    outcome
                }
            }
        };
        let outcome = match pending.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => Outcome::Pending,
        };
        match outcome {
            Outcome::Ready(loaded) => Ok(loaded),
            Outcome::Failed(kind, message) => Err(Error::new(kind, message)),
            Outcome::Pending => Err(Error::unavailable(format!("loading model '{}' was given up", resolved.name))),
        }
    }

    async fn bring(
        self: Arc<Self>,
        resolved: Arc<Resolved>,
        engine: EngineName,
        counts: Arc<Counts>,
        sender: watch::Sender<Outcome>,
    ) {
        let Resolved { name, version, digest, package, .. } = &*resolved;
        let begun = Instant::now();
        let outcome = match self.bring_in_turn(digest, package.clone(), engine, counts).await {
            Ok(loaded) => {
                let ms = begun.elapsed().as_millis() as u64;
                tracing::info!(model = name, version, digest, %engine, ms, "model is resident");
                Outcome::Ready(loaded)
            }
            Err(error) => {
                tracing::warn!(model = name, version, digest, %engine, "model cannot be loaded: {}", error.chain());
                // What was accepted once and fails now is not the caller's mistake.
                let kind = match error.kind() {
                    Kind::InvalidArgument | Kind::Unsupported => Kind::Unavailable,
                    kind => kind,
                };
                Outcome::Failed(kind, format!("model '{name}' cannot be loaded: {}", error.message()))
            }
        };
        if let Some(entry) = self.entries().get_mut(&(digest.clone(), engine)) {
            entry.slot = match &outcome {
                Outcome::Ready(loaded) => Slot::Resident(loaded.clone()),
                Outcome::Failed(..) | Outcome::Pending => Slot::Stored,
            };
        }
        sender.send_replace(outcome);
    }

    async fn bring_in_turn(
        self: &Arc<Self>,
        digest: &str,
        package: Package,
        engine: EngineName,
        counts: Arc<Counts>,
    ) -> Result<Arc<Loaded>> {
        let _turn = self.loads.acquire().await.map_err(|error| Error::host("waiting to load", error))?;
        let (table, digest) = (self.clone(), digest.to_owned());
        let work = tokio::task::spawn_blocking(move || table.load(&digest, &package, engine));
        let (session, weights) = work.await.map_err(|error| Error::host("loading a model", error))??;
        Ok(Arc::new(Loaded { session, counts, _weights: weights }))
    }

    fn load(&self, digest: &str, package: &Package, engine: EngineName) -> Result<(Arc<dyn Session>, Charge)> {
        let charge = self.charge(digest, package)?;
        let folder = self.blobs.package_folder(digest, package)?;
        Ok((self.engines.get(engine).load(&folder)?, charge))
    }

    fn charge(&self, digest: &str, package: &Package) -> Result<Charge> {
        let owner = Owner::Model { name: digest.into() };
        self.device.ledger().account(owner, u64::MAX, u64::MAX).charge(package.weights_bytes())
    }
}

enum Now {
    Here(Arc<Loaded>),
    Coming(watch::Receiver<Outcome>),
    Away,
}

impl Slot {
    fn now(&self) -> Now {
        match self {
            Slot::Stored => Now::Away,
            Slot::Resident(loaded) => Now::Here(loaded.clone()),
            Slot::Leaving(left) => left.upgrade().map_or(Now::Away, Now::Here),
            // A load whose task is gone without an outcome (a runtime that shut down) must not be waited for.
            Slot::Loading(outcome) if outcome.has_changed().is_err() => match &*outcome.borrow() {
                Outcome::Ready(loaded) => Now::Here(loaded.clone()),
                Outcome::Failed(..) | Outcome::Pending => Now::Away,
            },
            Slot::Loading(outcome) => Now::Coming(outcome.clone()),
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

/// A hold on a model in memory: it stays there at least until the last clone is dropped.
#[derive(Clone)]
pub struct Lease(Arc<Held>);

struct Held {
    loaded: Arc<Loaded>,
    description: Description,
    table: Arc<Table>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.loaded.counts.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// What the model is, apart from being loaded.
    pub fn description(&self) -> &Description {
        &self.0.description
    }

    /// The model's name, without version or alias.
    pub fn name(&self) -> &str {
        self.0.description.name()
    }

    /// The version that the name meant when it was opened.
    pub fn version(&self) -> u64 {
        self.0.description.resolved.version
    }

    /// What the model takes and gives, as the engine that loaded it says.
    pub fn signature(&self) -> &Signature {
        self.0.loaded.session.signature()
    }

    pub(super) fn loaded(&self) -> &Arc<Loaded> {
        &self.0.loaded
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.0.table
    }
}

/// A model that was found: its signature and its assets. It keeps nothing in memory but itself.
#[derive(Clone)]
pub struct Description {
    resolved: Arc<Resolved>,
    blobs: Arc<dyn Blobs>,
}

impl Description {
    /// The model's name, without version or alias.
    pub fn name(&self) -> &str {
        &self.resolved.name
    }

    /// What the model takes and gives, as it was found at the upload.
    pub fn signature(&self) -> &Signature {
        &self.resolved.signature
    }

    /// The names of the model's assets, sorted: paths below `assets/`.
    pub fn asset_names(&self) -> Vec<String> {
        self.resolved.package.asset_names().map(str::to_owned).collect()
    }

    /// The bytes of an asset, which is its path below `assets/`. Blocks on the disk.
    ///
    /// Errors: `not-found`, listing the names there are; `too-large` where it exceeds `limit_bytes`, the caller's
    /// `asset_bytes`; those of the disk.
    pub fn asset(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>> {
        let Some(file) = self.resolved.package.asset(name) else {
            return Err(self.no_asset(name));
        };
        if file.bytes > limit_bytes {
            let message = format!("asset '{name}' has {} bytes; the limit asset_bytes is {limit_bytes}", file.bytes);
            return Err(Error::too_large(message));
        }
        std::fs::read(self.blobs.path(&file.digest)).map_err(|error| Error::storage("reading an asset", error))
    }

    fn no_asset(&self, name: &str) -> Error {
        let names: Vec<_> = self.resolved.package.asset_names().take(32).collect();
        let name: String = name.chars().take(64).collect();
        Error::not_found(match names.as_slice() {
            [] => format!("model '{}' has no assets, so none is called '{name}'", self.name()),
            names => format!("model '{}' has no asset '{name}'; there are {}", self.name(), names.join(", ")),
        })
    }
}
