//! Durable truth: functions, models, their versions and aliases in SQLite, and their bytes as blobs by digest; it never
//! runs or loads any of them.
//!
//! ```text
//! DATA/lock               held by the one process that may use the folder
//! DATA/catalog.sqlite     names, versions, aliases, settings; the schema is in schema.rs
//! DATA/node.key           what this node's secrets are sealed with
//! DATA/blobs/ab/abcd…     bytes by their sha256, read-only
//! DATA/packages/abcd…/    models as folders, hard links to blobs; made when needed
//! DATA/incoming/          uploads until they are whole; emptied at the start
//! DATA/uploads/           uploads that come in parts; they outlive the process
//! ```
//!
//! What was acknowledged lasts: a blob is synced before it gets its name, and a version refers to it only afterwards,
//! in a transaction that is synced too. A process that is killed leaves at most blobs that nothing refers to, which the
//! next one removes.
//!
//! Keys are (tenant, name). Versions count from 1 for each, and a number is never given twice, not even after the name
//! was deleted, so that logs and receipts always mean one thing. The newest put is live.

mod archive;
mod blobs;
mod cache;
mod collect;
mod folder;
mod functions;
mod models;
mod names;
mod package;
mod pins;
mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod unpack;
mod uploads;
mod vault;
mod versions;

pub use blobs::{Blob, BlobWriter};
pub use functions::{FunctionDetail, FunctionSummary, FunctionVersion};
pub use models::{ModelDetail, ModelSummary, ModelVersionDetail};
pub use names::{At, Selector, check_alias, check_key, check_name};
pub use package::{ModelUpload, ModelWriter};
pub use pins::PinnedModel;
pub use settings::{Settings, SettingsChange, check_grants};
pub use unpack::UNPACK;
pub use uploads::{UploadPart, UploadStatus, Uploads, WholeUpload};

use crate::clock::Clock;
use crate::config::Limits;
use crate::confined::Confined;
use crate::detached::detached;
use crate::error::{Error, Kind, Result};
use crate::model::Resolved;
use crate::node_key::NodeKey;
use blobs::{BlobFile, BlobStore, blocking};
use cache::Cache;
use folder::Folder;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Connections to the database. Reads of invocations come from memory, so these serve the control plane.
const CONNECTIONS: u32 = 4;
/// How long one connection waits for another's write.
const BUSY: Duration = Duration::from_secs(10);

/// The catalog. Clones are the same catalog.
#[derive(Clone, Debug)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    confined: Arc<Confined>,
    blobs: Arc<BlobStore>,
    uploads: Uploads,
    _sweeper: AbortOnDropHandle<()>,
    vault: vault::Vault,
    functions: versions::Versions,
    models: versions::Versions,
    function_cache: Cache<FunctionVersion>,
    model_cache: Cache<Resolved>,
    /// Gone after [`Catalog::close`]. Dropping it ends the collector after its current step.
    collector: Mutex<Option<Collector>>,
}

#[derive(Debug)]
struct Collector {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The version, live now.
    pub version: u64,
    /// Whether it is new; else the same digest was there.
    pub created: bool,
}

impl Catalog {
    /// Opens the catalog in a folder, which is made (mode 0700) where it is missing, and holds the folder for this
    /// process. Archives are unpacked by children that `confined` starts; uploads expire by `clock`. Must be called within a
    /// tokio runtime.
    ///
    /// Errors: `permission-denied` where the folder cannot be written, `conflict` where another hearth holds it or a
    /// newer one made it, `storage-full`. These messages name the folder, and are for the person who starts the server.
    pub async fn open(data: &Path, limits: &Limits, confined: Arc<Confined>, clock: Clock) -> Result<Catalog> {
        let (root, its_limits) = (data.to_owned(), limits.clone());
        let opened = move || {
            let folder = Folder::open(&root)?;
            let uploads = Uploads::open(folder.uploads(), &its_limits, clock)?;
            let key = NodeKey::open(&root)?;
            Ok((folder, uploads, key))
        };
        let (folder, uploads, key) = blocking(opened).await?;
        // FULL: with NORMAL the last commits in WAL mode are lost with the power, and a 201 is a promise. It costs a sync
        // for each upload, which has synced its blobs anyway.
        let options = SqliteConnectOptions::new()
            .filename(folder.database())
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .foreign_keys(true);
        let named = |error: Error| error.context(format!("the catalog in {}", data.display()));
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(BUSY)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|error| named(database("opening the catalog", error)))?;
        schema::migrate(&pool).await.map_err(named)?;
        folder::sync_folder(folder.root()).map_err(|error| Error::storage("opening the catalog", error))?;

        let blobs = BlobStore::new(folder);
        let grace = Duration::from_millis(limits.invocation_ms);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(collect::keep_collecting(Arc::clone(&blobs), pool.clone(), grace, stopped));
        let collector = Mutex::new(Some(Collector { task, stop }));
        let inner = Inner {
            limits: limits.clone(),
            confined,
            blobs,
            _sweeper: AbortOnDropHandle::new(tokio::spawn(uploads.keep_sweeping())),
            uploads,
            vault: vault::Vault::new(&key),
            functions: versions::Versions { pool: pool.clone(), kind: versions::Kind::Function },
            models: versions::Versions { pool, kind: versions::Kind::Model },
            function_cache: Cache::new(),
            model_cache: Cache::new(),
            collector,
        };
        Ok(Catalog { inner: Arc::new(inner) })
    }

    /// Begins a blob.
    ///
    /// Errors: `storage-full`, `internal`.
    pub async fn begin_blob(&self) -> Result<BlobWriter> {
        let blobs = Arc::clone(&self.inner.blobs);
        Ok(BlobWriter::new(blocking(move || BlobFile::create(blobs)).await?))
    }

    /// Begins the upload of a model: an `.onnx` file or a tar. Its first bytes tell which.
    pub fn begin_model(&self) -> ModelWriter {
        let Inner { blobs, limits, confined, .. } = &*self.inner;
        ModelWriter::new(Arc::clone(blobs), limits.clone(), Arc::clone(confined))
    }

    /// Whether the database answers.
    ///
    /// Errors: `overloaded`, `internal`.
    pub async fn check(&self) -> Result<()> {
        let asked = sqlx::query("SELECT 1").execute(&self.inner.functions.pool).await;
        asked.map(drop).map_err(|error| database("asking the catalog", error))
    }

    /// Finishes what is being written and closes the database. The folder is free for another process once every clone
    /// and every upload is dropped. A catalog that is only dropped, or killed, is as whole.
    pub async fn close(self) {
        self.stop_collecting().await;
        self.inner.functions.pool.close().await;
    }

    async fn stop_collecting(&self) {
        let collector = self.inner.collector.lock().take();
        if let Some(Collector { task, stop }) = collector {
            drop(stop);
            if let Err(error) = task.await {
                tracing::warn!(error = %error, "the collector of blobs failed");
            }
        }
    }

    /// Finishes a change even where its caller goes away, so that what is cached always follows what is stored.
    async fn change<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        detached("changing the catalog", work).await
    }

    /// Uploads that come in parts.
    pub fn uploads(&self) -> &Uploads {
        &self.inner.uploads
    }

    /// What a change takes along.
    fn owned(&self, tenant: &str, name: &str) -> (Arc<Inner>, String, String) {
        (Arc::clone(&self.inner), tenant.to_owned(), name.to_owned())
    }
}

fn encode(detail: &impl Serialize) -> Result<String> {
    serde_json::to_string(detail).map_err(|error| Error::host("storing a version", error))
}

fn decode<T: DeserializeOwned>(detail: &str) -> Result<T> {
    serde_json::from_str(detail).map_err(|error| Error::host("reading a version", error))
}

/// The error of a failed statement.
fn database(what: &str, error: sqlx::Error) -> Error {
    // https://sqlite.org/rescode.html: the low byte is the primary code.
    let code = match &error {
        sqlx::Error::Database(inner) => inner.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff),
        sqlx::Error::Io(_) => None,
        sqlx::Error::PoolTimedOut => Some(5),
        _ => None,
    };
    match code {
        Some(5 | 6) => Error::overloaded("the catalog is busy; try again").with_source(error),
        Some(13) => {
            let message = format!("no room left while {what}; free space in the data folder and try again");
            Error::new(Kind::StorageFull, message).with_source(error)
        }
        _ => Error::host(what, error),
    }
}
