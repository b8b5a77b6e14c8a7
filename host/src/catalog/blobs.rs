//! Stores blobs by their sha256, each completely or not at all; it never knows what they are for.

use super::folder::{Folder, sync_folder};
use crate::bulk;
use crate::error::{Error, Result};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tempfile::NamedTempFile;
use tokio::sync::Notify;

const WRITING: &str = "storing an upload";
const WORKING: &str = "working on the data folder";
/// Chunks are gathered to this size before they are passed to a thread that writes and hashes them, or to a process. Passing
/// costs some 10 µs, and larger pieces would occupy a core for longer while requests wait for it.
pub(super) const GATHERED_BYTES: usize = 128 << 10;

/// The folder of blobs, and the digests that uploads hold.
#[derive(Debug)]
pub(super) struct BlobStore {
    pub(super) folder: Folder,
    state: Mutex<State>,
    /// Notified when there is something to collect.
    pub(super) released: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many uploads hold a digest.
    held: HashMap<String, usize>,
    /// Digests that no upload held when a collection began; an upload of such a digest removes it from this set.
    doomed: HashSet<String>,
    /// Digests that may have lost their last reference since the last collection.
    loose: HashSet<String>,
}

impl BlobStore {
    pub(super) fn new(folder: Folder) -> Arc<BlobStore> {
        Arc::new(BlobStore { folder, state: Mutex::default(), released: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Keeps a digest (of a blob or a package) from being collected.
    pub(super) fn hold(self: &Arc<Self>, digest: &str) -> Hold {
        let mut state = self.state();
        state.doomed.remove(digest);
        *state.held.entry(digest.to_owned()).or_insert(0) += 1;
        drop(state);
        Hold { blobs: Arc::clone(self), digest: digest.to_owned() }
    }

    /// Records that these digests may have lost their last reference.
    pub(super) fn loosen(&self, digests: impl IntoIterator<Item = String>) {
        self.state().loose.extend(digests);
        self.released.notify_one();
    }

    /// Takes the digests that may have lost their last reference since the last call.
    pub(super) fn take_loose(&self) -> Vec<String> {
        self.state().loose.drain().collect()
    }

    /// Begins a collection: marks those of `candidates` that no upload holds, and gives them. A digest that gets a reference from
    /// now on was held after this call, which removes the mark.
    pub(super) fn doom(&self, candidates: Vec<String>) -> Vec<String> {
        let mut state = self.state();
        let doomed: Vec<String> =
            candidates.into_iter().filter(|digest| !state.held.contains_key(digest.as_str())).collect();
        state.doomed.extend(doomed.iter().cloned());
        doomed
    }

    /// Removes the blob or package of this digest if it is still marked. Gives true if something was removed.
    pub(super) fn remove_doomed(&self, digest: &str) -> Result<bool> {
        // The lock is held while the files are removed, so that an upload sees either the complete blob or none.
        let mut state = self.state();
        if !state.doomed.remove(digest) {
            return Ok(false);
        }
        let blob = found(std::fs::remove_file(self.folder.blob(digest)))?;
        let package = found(std::fs::remove_dir_all(self.folder.package(digest)))?;
        Ok(blob || package)
    }

    /// Removes the marks of digests that turned out to be referenced.
    pub(super) fn spare(&self, digests: &[String]) {
        let mut state = self.state();
        for digest in digests {
            state.doomed.remove(digest);
        }
    }

    /// Whether no upload holds anything.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.state().held.is_empty()
    }

    /// Moves a complete, synced file to its place. Idempotent; the digest is held on return.
    fn adopt(self: &Arc<Self>, file: NamedTempFile, digest: &str, bytes: u64) -> Result<Hold> {
        let hold = self.hold(digest);
        let target = self.folder.blob(digest);
        let place = |error| Error::storage(WRITING, error);
        {
            let _state = self.state();
            let there = std::fs::symlink_metadata(&target).is_ok_and(|found| found.is_file() && found.len() == bytes);
            if !there {
                file.persist(&target).map_err(|error| place(error.error))?;
            }
        }
        if let Some(parent) = target.parent() {
            sync_folder(parent).map_err(place)?;
        }
        Ok(hold)
    }
}

fn found(removed: std::io::Result<()>) -> Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::storage("removing what nothing refers to", error)),
    }
}

/// Keeps one digest from being collected.
#[derive(Debug)]
pub(super) struct Hold {
    blobs: Arc<BlobStore>,
    digest: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.blobs.state();
        match state.held.get_mut(&self.digest) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                state.held.remove(&self.digest);
                state.loose.insert(std::mem::take(&mut self.digest));
                drop(state);
                self.blobs.released.notify_one();
            }
        }
    }
}

/// A stored blob. It is not collected while this lives; a put in the catalog makes it durable.
#[derive(Debug)]
pub struct Blob {
    /// The sha256 of its bytes, as 64 lowercase hex digits.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
    _hold: Hold,
}

/// A blob being written, from a thread that may block. If it is dropped, nothing is stored.
pub(super) struct BlobFile {
    blobs: Arc<BlobStore>,
    file: NamedTempFile,
    hasher: Sha256,
    bytes: u64,
}

impl BlobFile {
    pub(super) fn create(blobs: Arc<BlobStore>) -> Result<BlobFile> {
        let file = NamedTempFile::new_in(blobs.folder.incoming()).map_err(|error| Error::storage(WRITING, error))?;
        Ok(BlobFile { blobs, file, hasher: Sha256::new(), bytes: 0 })
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<()> {
        self.hasher.update(data);
        bulk::write(self.file.as_file_mut(), data).map_err(|error| Error::storage(WRITING, error))?;
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Blob> {
        let file = self.file;
        // Read-only, since packages share the file by hard links.
        let made =
            file.as_file().set_permissions(Permissions::from_mode(0o400)).and_then(|()| file.as_file().sync_all());
        made.map_err(|error| Error::storage(WRITING, error))?;
        let digest = hex::encode(self.hasher.finalize());
        let hold = self.blobs.adopt(file, &digest, self.bytes)?;
        Ok(Blob { digest, bytes: self.bytes, _hold: hold })
    }
}

/// A blob being uploaded. If it is dropped before `finish`, nothing is stored.
pub struct BlobWriter {
    /// Absent after a write that failed or was cancelled.
    file: Option<BlobFile>,
    gathered: Vec<u8>,
    bytes: u64,
}

impl BlobWriter {
    pub(super) fn new(file: BlobFile) -> BlobWriter {
        BlobWriter { file: Some(file), gathered: Vec::new(), bytes: 0 }
    }

    /// Appends to the blob. After an error, or after the future was dropped, the writer can only be dropped.
    ///
    /// Errors: `storage-full`, `internal`.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        self.gathered.extend_from_slice(data);
        if self.gathered.len() >= GATHERED_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the blob durable under its digest. The same bytes again give the same blob.
    ///
    /// Errors: `storage-full`, `internal`.
    pub async fn finish(mut self) -> Result<Blob> {
        self.flush().await?;
        let file = self.file.take().ok_or_else(broken)?;
        blocking(move || file.finish()).await
    }

    async fn flush(&mut self) -> Result<()> {
        let mut file = self.file.take().ok_or_else(broken)?;
        let mut data = std::mem::take(&mut self.gathered);
        let (file, data) = last(move || {
            file.write(&data)?;
            data.clear();
            Ok((file, data))
        })
        .await?;
        self.file = Some(file);
        self.gathered = data;
        Ok(())
    }
}

fn broken() -> Error {
    Error::host(WRITING, "the upload failed before")
}

/// Runs work that waits for the disk on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::host(WORKING, error)),
    }
}

/// Runs one piece of an upload's work at idle priority.
pub(super) async fn last<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match bulk::last(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::host(WORKING, error)),
    }
}
