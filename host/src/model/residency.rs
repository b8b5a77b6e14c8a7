//! Which models are in memory, and for whom; this file is the facade. It never runs a model.
//!
//! A model is known by the digest of its package: however many names, tenants and functions use it, it is loaded once. A caller
//! that opens a model that is being loaded waits for that load ([`loads`]). Where the device has no room, models that nobody
//! holds leave, the [`policy`] says which; where they do not free enough, a load waits for leases to end ([`room`]).

mod lease;
mod loads;
mod policy;
mod room;
mod state;
mod table;
#[cfg(test)]
pub(super) mod traces;

pub use lease::{Description, Lease};
pub use state::{ModelState, Pin, Residency};

use super::check::check;
use super::engines::{Checked, EngineChoice, EngineName, EngineState, Engines};
use super::package::{Blobs, Directory, Package};
use super::prepared::{Prepared, Staged};
use super::queue::WaitingRun;
use super::signature::Signature;
use crate::config::{Config, Limits};
use crate::confined::Confined;
use crate::device::Device;
use crate::error::{Error, Result};
use loads::Loads;
use room::Room;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use table::{Entry, Table};

/// Every model of this process.
pub struct Models {
    directory: Arc<dyn Directory>,
    blobs: Arc<dyn Blobs>,
    limits: Limits,
    loads: Arc<Loads>,
    table: Arc<Table>,
    /// What checking an upload takes; not there where no model is to be loaded.
    checks: Option<(Config, Arc<Confined>)>,
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
        let table = Arc::new(Table::default());
        let room = Room::new(device, table.clone());
        let loads = Loads::new(engines, prepared, blobs.clone(), room, limits);
        Models { directory, blobs, limits: limits.clone(), loads: Arc::new(loads), table, checks: None }
    }

    /// The engines of this process, those that are not there with what to do about it.
    pub fn engines(&self) -> Vec<EngineState> {
        self.loads.engines.states()
    }

    /// The engine that a model runs on now.
    ///
    /// Errors: `unavailable` where none is there that it may run on.
    pub fn engine_of(&self, checked: &Checked) -> Result<EngineName> {
        self.loads.engines.choose(checked)
    }

    /// Opens a model by `name`, `name@version` or `name@alias`. Loads it where it is not in memory; if someone else's load
    /// is under way, waits for that. A load goes on when the future is dropped.
    ///
    /// Errors: those of the directory (`not-found`); `unavailable` where the model cannot be loaded; `overloaded` where the
    /// device has no room, and none came within `room_wait_ms`: what is there is leased or pinned, or belongs to tensors.
    pub async fn open(&self, tenant: &str, name: &str) -> Result<Lease> {
        let resolved = self.directory.resolve(tenant, name).await?;
        let loaded = self.loads.loaded(&resolved).await?;
        let description = Description::new(resolved, self.blobs.clone());
        Ok(Lease::new(loaded, description, tenant.into(), self.loads.room.clone()))
    }

    /// Begins to load what is not in memory of the models of these names, before somebody opens them and without waiting for it;
    /// only where the device has room as it is, so that no other model leaves and no load that waits for room gets less; what
    /// finds none is read into host memory. Names that mean nothing are passed over. Needs tokio's runtime.
    pub fn prefetch(&self, tenant: Arc<str>, names: Vec<String>) {
        let (directory, loads) = (self.directory.clone(), self.loads.clone());
        tokio::spawn(async move {
            for name in names {
                if let Ok(resolved) = directory.resolve(&tenant, &name).await {
                    loads.expect(&resolved);
                }
            }
        });
    }

    /// How often a model left memory since the process started. As long as it stays the same, what was fetched is there.
    pub fn departures(&self) -> u64 {
        self.table.departures()
    }

    /// The local file with the bytes of a digest, such as an asset's.
    pub fn blob(&self, digest: &str) -> std::path::PathBuf {
        self.blobs.path(digest)
    }

    /// Finds a model by the same names and loads nothing.
    ///
    /// Errors: those of the directory (`not-found`).
    pub async fn describe(&self, tenant: &str, name: &str) -> Result<Description> {
        let resolved = self.directory.resolve(tenant, name).await?;
        Ok(Description::new(resolved, self.blobs.clone()))
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
        package.check_samples(&self.limits)?;
        let weights_bytes = package.weights_bytes();
        let _charge = self.loads.room.charge(digest, weights_bytes)?;
        let (blobs, package, digest) = (self.blobs.clone(), package.clone(), digest.to_owned());
        let work = tokio::task::spawn_blocking(move || blobs.package_folder(&digest, &package));
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
        let mut rows = self.table.rows();
        rows.entries.retain(|_, entry| !entry.forgotten || entry.slot.residency() != Residency::Stored);
        let mut states: Vec<_> = rows
            .entries
            .iter()
            .map(|((digest, engine), entry)| (digest, engine, entry, rows.pin(digest)))
            .map(|(digest, engine, entry, Pin { pinned, priority })| ModelState {
                digest: digest.clone(),
                name: entry.name.clone(),
                engine: *engine,
                state: state(digest, *engine, entry),
                bytes: entry.bytes,
                runs: entry.counts.runs.load(Ordering::Relaxed),
                leases: entry.counts.leases.load(Ordering::Relaxed),
                waiting: entry.counts.queue.waiting_count(),
                reason: entry.reason.clone(),
                pinned,
                priority,
                loads: entry.loads,
                evictions: entry.evictions,
                load_ms: entry.load_ms.unwrap_or_default() as u64,
            })
            .collect();
        drop(rows);
        states.sort_by(|a, b| (&a.name, &a.digest, a.engine).cmp(&(&b.name, &b.digest, b.engine)));
        (states, staged)
    }

    /// The runs that wait for a model, in the order in which they have their turns.
    pub fn waiting_runs(&self, digest: &str) -> Vec<WaitingRun> {
        let rows = self.table.rows();
        let of = |engine| rows.entries.get(&(digest.to_owned(), engine)).map(|entry| entry.counts.queue.waiting());
        EngineName::ALL.into_iter().filter_map(of).flatten().collect()
    }

    /// Unloads a model; a load that is under way is waited for first. Leases on it stay valid: the memory is freed when the
    /// last of them goes. True where the memory is free now.
    pub async fn unload(&self, digest: &str) -> bool {
        let mut free = true;
        for engine in EngineName::ALL {
            free &= self.loads.unload(&(digest.to_owned(), engine)).await;
        }
        free
    }

    /// Keeps a model from making room for others, or lets it; and sets whom it goes before. It counts until the process ends,
    /// whether the model is loaded or not.
    pub fn keep(&self, digest: &str, pin: Pin) {
        self.table.rows().set_pin(digest, pin);
    }

    /// What counts for a model; see [`Models::keep`].
    pub fn pin(&self, digest: &str) -> Pin {
        self.table.rows().pin(digest)
    }

    /// The digests of the models whose prepared forms are on disk.
    ///
    /// Errors: those of the disk.
    pub fn prepared(&self) -> Result<BTreeSet<String>> {
        self.loads.prepared.as_ref().map_or_else(|| Ok(BTreeSet::new()), Prepared::digests)
    }

    /// Which models lie in host memory.
    pub(super) fn staged(&self) -> Staged {
        self.loads.prepared.as_ref().map(Prepared::staged).unwrap_or_default()
    }

    /// Unloads a model that was deleted, removes its prepared form, and drops it from [`Models::states`] once its memory is
    /// free. Leases on it stay valid. Not for one that another name still means.
    pub async fn forget(&self, digest: &str) {
        self.unload(digest).await;
        let (loads, of) = (self.loads.clone(), digest.to_owned());
        let remove = move || loads.prepared.as_ref().map(|prepared| prepared.remove(&of));
        if let Err(error) = tokio::task::spawn_blocking(remove).await {
            tracing::warn!("removing a model's prepared form: {error}");
        }
        for engine in EngineName::ALL {
            if let Some(entry) = self.table.rows().entries.get_mut(&(digest.to_owned(), engine)) {
                entry.forgotten = true;
            }
        }
    }
}
