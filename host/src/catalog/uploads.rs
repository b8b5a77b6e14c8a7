//! Uploads that come in parts, over connections that break: a file for each, which outlives the process; it never knows what
//! is in one.
//!
//! ```text
//! DATA/uploads/ID         what came so far; its length is the offset at which the next part goes on
//! DATA/uploads/ID.json    whose it is, and how long it will be
//! ```
//!
//! One request at a time works on an upload. A request that comes while another still writes takes over, since the other may
//! be of a connection that broke without a word; while an upload is being stored, nobody does.

use super::blobs::{GATHERED_BYTES, blocking, last};
use super::folder::{private_folder, sync_folder};
use crate::bulk;
use crate::clock::Clock;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::gate::{Budget, Over, Share};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

const RECEIVING: &str = "receiving an upload";
/// How often idle uploads are looked for, at the least.
const LOOK: Duration = Duration::from_secs(60);

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UploadStatus {
    /// Its name in URLs: 32 hex digits that nobody can guess.
    pub id: String,
    /// How many bytes there are; the next part begins there.
    pub offset: u64,
    /// How many there will be, where that was said.
    pub length: Option<u64>,
    /// Milliseconds since something came for it.
    pub idle_ms: u64,
}

/// The uploads of all tenants.
#[derive(Clone, Debug)]
pub struct Uploads(Arc<UploadFolder>);

/// What all clones of [`Uploads`] share.
#[derive(Debug)]
struct UploadFolder {
    folder: PathBuf,
    clock: Clock,
    /// How many there are.
    count: Budget,
    /// Bytes of all: those that came or were announced, whatever is more.
    bytes: Budget,
    /// Bytes of one upload, at the most.
    longest: u64,
    idle: Duration,
    open: Mutex<HashMap<String, Open>>,
}

/// An upload that is open, and what it counts as.
#[derive(Debug)]
struct Open {
    entry: Arc<Entry>,
    _one: Share,
    bytes: Share,
}

#[derive(Debug)]
struct Entry {
    id: String,
    tenant: String,
    length: Option<u64>,
    turn: Arc<Turn<()>>,
    /// How to ask the request that writes to end. None while nobody writes, or it is being stored.
    writer: Mutex<Option<CancellationToken>>,
}

/// What is kept beside an upload.
#[derive(Serialize, Deserialize)]
struct About {
    tenant: String,
    length: Option<u64>,
}

/// A hold on an upload: nobody else works on it.
#[derive(Debug)]
struct Held {
    entry: Arc<Entry>,
    _turn: OwnedMutexGuard<()>,
}

impl UploadFolder {
    /// Finds what an earlier process left in the folder, and removes what is no upload.
    ///
    /// Errors: those of the disk.
    fn open(folder: PathBuf, limits: &Limits, clock: Clock) -> Result<Arc<UploadFolder>> {
        let failed = |error| Error::storage("opening the folder of uploads", error);
        private_folder(&folder).map_err(failed)?;
        let &Limits { open_uploads, open_uploads_bytes, upload_idle_ms, model_bytes, .. } = limits;
        let (count, bytes) = (Budget::new(open_uploads), Budget::new(open_uploads_bytes));
        let (mut names, mut open) = (Vec::new(), HashMap::new());
        for found in std::fs::read_dir(&folder).map_err(failed)? {
            names.extend(found.map_err(failed)?.file_name().into_string());
        }
        for id in names.iter().filter(|name| is_id(name)) {
            let about = std::fs::read(folder.join(format!("{id}.json"))).ok();
            let about = about.and_then(|bytes| serde_json::from_slice::<About>(&bytes).ok());
            let (Some(About { tenant, length }), Ok(found)) = (about, std::fs::metadata(folder.join(id))) else {
                continue;
            };
            // More than the limits allow, where they were lowered since.
            let (_one, bytes) = (count.take_anyway(1), bytes.take_anyway(found.len().max(length.unwrap_or(0))));
            let entry = Arc::new(Entry::new(id.clone(), tenant, length));
            open.insert(id.clone(), Open { entry, _one, bytes });
        }
        for name in &names {
            if !open.contains_key(name.strip_suffix(".json").unwrap_or(name)) {
                remove(&folder.join(name)).map_err(failed)?;
            }
        }
        let uploads = UploadFolder {
            folder,
            clock,
            count,
            bytes,
            longest: model_bytes,
            idle: Duration::from_millis(upload_idle_ms),
            open: Mutex::new(open),
        };
        uploads.sweep();
        Ok(Arc::new(uploads))
    }

    /// Removes idle uploads, again and again.
    async fn keep_sweeping(self: Arc<UploadFolder>) {
        loop {
            self.clock.sleep((self.idle / 4).min(LOOK)).await;
            let uploads = Arc::clone(&self);
            let swept = blocking(move || {
                uploads.sweep();
                Ok(())
            });
            if let Err(error) = swept.await {
                tracing::warn!(error = error.chain(), "cannot remove idle uploads");
            }
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    fn about(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn sweep(&self) {
        let open: Vec<Arc<Entry>> = self.open.lock().values().map(|open| open.entry.clone()).collect();
        let mut removed = 0;
        for entry in open {
            let Ok(turn) = entry.turn.clone().try_lock_owned() else { continue };
            if self.status(&entry).is_ok_and(|status| u128::from(status.idle_ms) < self.idle.as_millis()) {
                continue;
            }
            match self.remove(&Held { entry, _turn: turn }) {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(error = error.chain(), "cannot remove an idle upload"),
            }
        }
        if removed > 0 {
            tracing::info!(removed, "removed uploads that nothing came for (upload_idle_ms)");
        }
    }

    /// How many there are, and the bytes that they count as.
    fn used(&self) -> (usize, u64) {
        let open = self.open.lock();
        (open.len(), self.bytes.used())
    }

    /// Begins an upload.
    fn begin(&self, tenant: &str, length: Option<u64>) -> Result<UploadStatus> {
        let announced = length.unwrap_or(0);
        if announced > self.longest {
            return Err(self.too_long());
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let entry = Arc::new(Entry::new(id.clone(), tenant.to_owned(), length));
        {
            let mut open = self.open.lock();
            let _one = self.count.take(1).map_err(|Over { most, .. }| {
                Error::overloaded(format!(
                    "{most} uploads are open already (open_uploads); finish or delete one, or try again later"
                ))
            })?;
            let bytes = self.bytes.take(announced).map_err(too_many_bytes)?;
            open.insert(id.clone(), Open { entry: entry.clone(), _one, bytes });
        }
        let about = About { tenant: tenant.to_owned(), length };
        let made = serde_json::to_vec(&about).map_err(io::Error::other).and_then(|about| {
            create(&self.path(&id))?;
            // Without this file the other is no upload, so it comes last.
            let partial = self.folder.join(format!("{id}.partial"));
            create(&partial)?.write_all(&about)?;
            std::fs::rename(partial, self.about(&id))?;
            sync_folder(&self.folder)
        });
        if let Err(error) = made {
            self.forget(&entry);
            return Err(Error::storage("beginning an upload", error));
        }
        self.status(&entry)
    }

    fn list(&self, tenant: &str) -> Vec<UploadStatus> {
        let mine = |open: &Open| (open.entry.tenant == tenant).then(|| open.entry.clone());
        let open: Vec<Arc<Entry>> = self.open.lock().values().filter_map(mine).collect();
        let mut all: Vec<UploadStatus> = open.iter().filter_map(|entry| self.status(entry).ok()).collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    fn find(&self, tenant: &str, id: &str) -> Result<Arc<Entry>> {
        let open = self.open.lock();
        let found = open.get(id).filter(|open| open.entry.tenant == tenant);
        found.map(|open| open.entry.clone()).ok_or_else(|| self.not_found(id))
    }

    fn not_found(&self, id: &str) -> Error {
        let id: String = id.chars().take(64).collect();
        Error::not_found(format!(
            "there is no upload '{id}': it was finished, deleted, idle for {} ms (upload_idle_ms), or never begun",
            self.idle.as_millis()
        ))
    }

    fn status(&self, entry: &Entry) -> Result<UploadStatus> {
        let found = std::fs::metadata(self.path(&entry.id)).map_err(|error| Error::storage(RECEIVING, error))?;
        let idle = found.modified().ok().and_then(|at| self.clock.now().duration_since(at).ok()).unwrap_or_default();
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        Ok(UploadStatus { id: entry.id.clone(), offset: found.len(), length: entry.length, idle_ms })
    }

    /// Charges bytes that come to an upload.
    fn charge(&self, entry: &Entry, length: u64) -> Result<()> {
        if length > self.longest {
            return Err(self.too_long());
        }
        let mut open = self.open.lock();
        let Open { bytes, .. } = open.get_mut(&entry.id).ok_or_else(|| self.not_found(&entry.id))?;
        bytes.try_grow(length.saturating_sub(bytes.amount())).map_err(too_many_bytes)
    }

    fn too_long(&self) -> Error {
        Error::too_large(format!("an upload of a model has at most {} bytes (model_bytes)", self.longest))
    }

    /// Removes an upload.
    fn remove(&self, held: &Held) -> Result<()> {
        let id = &held.entry.id;
        let gone = remove(&self.about(id)).and_then(|()| remove(&self.path(id)));
        gone.map_err(|error| Error::storage("removing an upload", error))?;
        self.forget(&held.entry);
        Ok(())
    }

    fn forget(&self, entry: &Entry) {
        self.open.lock().remove(&entry.id);
    }

    /// Has an upload alone, from whoever writes to it.
    ///
    /// Errors: `conflict` while it is being stored; `not-found` where it went meanwhile.
    async fn take(&self, entry: Arc<Entry>) -> Result<Held> {
        let turn = match entry.turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let writer = entry.writer().clone().ok_or_else(|| {
                    Error::conflict("the upload is being stored as a model; wait for the answer to that request")
                })?;
                writer.cancel();
                entry.turn.clone().lock_owned().await
            }
        };
        // It may have been removed between the two.
        self.find(&entry.tenant, &entry.id)?;
        Ok(Held { entry, _turn: turn })
    }
}

impl Entry {
    fn new(id: String, tenant: String, length: Option<u64>) -> Entry {
        Entry { id, tenant, length, turn: Arc::default(), writer: Mutex::default() }
    }

    fn writer(&self) -> MutexGuard<'_, Option<CancellationToken>> {
        self.writer.lock()
    }
}

/// What a client sends for an upload, on its way to the disk. What was written when this is dropped stays.
pub struct UploadPart {
    /// Absent after a write that failed or was cancelled.
    writing: Option<Writing>,
    gathered: Vec<u8>,
    uploads: Arc<UploadFolder>,
    entry: Arc<Entry>,
    /// Bytes there will be with what was gathered.
    offset: u64,
    taken_over: CancellationToken,
}

/// Held until the last write is over, whoever waits for it.
struct Writing {
    file: File,
    held: Held,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.held.entry.writer().take();
    }
}

impl UploadPart {
    /// Ready once another request goes on with this upload: this one must end.
    pub async fn taken_over(&self) {
        self.taken_over.cancelled().await;
    }

    /// Appends to the upload. After an error, or when the future was dropped, only dropping is left.
    ///
    /// Errors: `too-large` beyond `model_bytes`; `invalid-argument` beyond the announced length; `overloaded` beyond
    /// `open_uploads_bytes`; `storage-full`.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        let offset = self.offset.saturating_add(data.len() as u64);
        if let Some(length) = self.entry.length.filter(|length| offset > *length) {
            let message = format!("the upload was announced to have {length} bytes, and more than that came");
            return Err(Error::invalid_argument(message));
        }
        self.uploads.charge(&self.entry, offset)?;
        self.offset = offset;
        self.gathered.extend_from_slice(data);
        if self.gathered.len() >= GATHERED_BYTES { self.flush(false).await } else { Ok(()) }
    }

    /// Makes what came last, also where nothing more comes because of an error.
    ///
    /// Errors: `storage-full`, `internal`.
    pub async fn finish(mut self) -> Result<UploadStatus> {
        self.flush(true).await?;
        let (uploads, entry) = (self.uploads.clone(), self.entry.clone());
        blocking(move || uploads.status(&entry)).await
    }

    async fn flush(&mut self, sync: bool) -> Result<()> {
        let mut writing = self.writing.take().ok_or_else(|| Error::host(RECEIVING, "a write failed before"))?;
        let mut data = std::mem::take(&mut self.gathered);
        let work = move || {
            let written = bulk::write(&mut writing.file, &data);
            let written = if sync { written.and_then(|()| writing.file.sync_data()) } else { written };
            written.map_err(|error| Error::storage(RECEIVING, error))?;
            data.clear();
            Ok((writing, data))
        };
        // A disk takes long, and does it by itself.
        let (writing, data) = if sync { blocking(work).await? } else { last(work).await? };
        (self.writing, self.gathered) = (Some(writing), data);
        Ok(())
    }
}

/// What goes to the thread that reads, and comes back.
struct Reading {
    file: File,
    hasher: Option<Sha256>,
    /// The same memory for each part: freed on another thread than it was taken on, it would stay with that thread.
    part: Vec<u8>,
}

/// A whole upload that is being stored as something that lasts.
pub struct WholeUpload {
    reading: Option<Reading>,
    uploads: Arc<UploadFolder>,
    held: Held,
}

impl WholeUpload {
    /// The next part of it, or none at its end.
    ///
    /// Errors: those of the disk.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        let failed = || Error::host("reading an upload", "a read failed before");
        let mut reading = self.reading.take().ok_or_else(failed)?;
        let reading = last(move || {
            reading.part.clear();
            let read = Read::by_ref(&mut reading.file).take(GATHERED_BYTES as u64).read_to_end(&mut reading.part);
            read.map_err(|error| Error::storage("reading an upload", error))?;
            if let Some(hasher) = &mut reading.hasher {
                hasher.update(&reading.part);
            }
            Ok(reading)
        })
        .await?;
        let part = &self.reading.insert(reading).part;
        Ok((!part.is_empty()).then_some(part))
    }

    /// The hasher that was given, after all that was read.
    pub fn take_hasher(&mut self) -> Option<Sha256> {
        self.reading.as_mut()?.hasher.take()
    }

    /// Removes it: what it was is stored. A failure goes to the log, since the upload is removed later when it is idle.
    pub async fn remove(self) {
        let WholeUpload { uploads, held, .. } = self;
        if let Err(error) = blocking(move || uploads.remove(&held)).await {
            tracing::warn!(error = error.chain(), "cannot remove an upload that was stored");
        }
    }
}

impl Uploads {
    /// Those that an earlier process left in the folder. `clock` says when idle ones go, once [`Uploads::keep_sweeping`] runs.
    ///
    /// Errors: those of the disk.
    pub(super) fn open(folder: PathBuf, limits: &Limits, clock: Clock) -> Result<Uploads> {
        UploadFolder::open(folder, limits, clock).map(Uploads)
    }

    /// Removes idle uploads, again and again.
    pub(super) fn keep_sweeping(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.clone().keep_sweeping()
    }

    /// Begins an upload that comes in parts; `length` is what the client says it will have.
    ///
    /// Errors: `overloaded` beyond `open_uploads` or `open_uploads_bytes`; `too-large` beyond `model_bytes`; `storage-full`.
    pub async fn begin(&self, tenant: &str, length: Option<u64>) -> Result<UploadStatus> {
        let (uploads, tenant) = (self.0.clone(), tenant.to_owned());
        blocking(move || uploads.begin(&tenant, length)).await
    }

    /// The open uploads of a tenant.
    pub async fn list(&self, tenant: &str) -> Result<Vec<UploadStatus>> {
        let (uploads, tenant) = (self.0.clone(), tenant.to_owned());
        blocking(move || Ok(uploads.list(&tenant))).await
    }

    /// How many uploads of all tenants are open, and the bytes that they count as.
    pub fn used(&self) -> (usize, u64) {
        self.0.used()
    }

    /// Where an upload stands. Errors: `not-found`.
    pub async fn status(&self, tenant: &str, id: &str) -> Result<UploadStatus> {
        let uploads = self.0.clone();
        let entry = uploads.find(tenant, id)?;
        blocking(move || uploads.status(&entry)).await
    }

    /// Goes on with an upload. A request that still writes to it is asked to end, and waited for.
    ///
    /// Errors: `not-found`; `conflict` where `offset` is not where it stands, or it is being stored.
    pub async fn append(&self, tenant: &str, id: &str, offset: u64) -> Result<UploadPart> {
        let uploads = self.0.clone();
        let held = uploads.take(uploads.find(tenant, id)?).await?;
        let taken_over = CancellationToken::new();
        *held.entry.writer() = Some(taken_over.clone());
        let (entry, path) = (held.entry.clone(), uploads.path(&held.entry.id));
        let opened = blocking(move || {
            let failed = |error| Error::storage(RECEIVING, error);
            let writing = Writing { file: OpenOptions::new().append(true).open(path).map_err(failed)?, held };
            let there = writing.file.metadata().map_err(failed)?.len();
            Ok((writing, there))
        });
        let (writing, there) = opened.await?;
        if there != offset {
            return Err(Error::conflict(format!("the upload stands at {there}, not at {offset}; go on from there")));
        }
        Ok(UploadPart { writing: Some(writing), gathered: Vec::new(), uploads, entry, offset, taken_over })
    }

    /// Takes a whole upload to store it. It stays, for another try, unless [`WholeUpload::remove`] is called. What is read of
    /// it goes through the hasher.
    ///
    /// Errors: `not-found`; `conflict` where less came than was announced, or it is being stored already.
    pub async fn whole(&self, tenant: &str, id: &str, hasher: Option<Sha256>) -> Result<WholeUpload> {
        let uploads = self.0.clone();
        let held = uploads.take(uploads.find(tenant, id)?).await?;
        blocking(move || {
            let failed = |error| Error::storage("reading an upload", error);
            let file = File::open(uploads.path(&held.entry.id)).map_err(failed)?;
            let there = file.metadata().map_err(failed)?.len();
            if let Some(length) = held.entry.length.filter(|length| *length != there) {
                return Err(Error::conflict(format!(
                    "the upload has {there} of {length} bytes; send the rest with PATCH first"
                )));
            }
            let reading = Reading { file, hasher, part: Vec::with_capacity(GATHERED_BYTES) };
            Ok(WholeUpload { reading: Some(reading), uploads, held })
        })
        .await
    }

    /// Removes an upload. Errors: `not-found`; `conflict` while it is being stored.
    pub async fn delete(&self, tenant: &str, id: &str) -> Result<()> {
        let uploads = self.0.clone();
        let held = uploads.take(uploads.find(tenant, id)?).await?;
        blocking(move || uploads.remove(&held)).await
    }
}

fn too_many_bytes(over: Over) -> Error {
    let Over { used, most } = over;
    Error::overloaded(format!(
        "open uploads have {used} bytes and {most} are allowed (open_uploads_bytes); finish or delete one, or try again later"
    ))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
