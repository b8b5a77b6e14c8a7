//! A hold on a model in memory, and what is known of one that is not; neither decides what is loaded.

use super::super::package::{Blobs, Resolved};
use super::super::signature::Signature;
use super::room::Room;
use super::table::Loaded;
use crate::device::Device;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A hold on a model in memory: it stays there at least until the last clone is dropped.
#[derive(Clone)]
pub struct Lease(Arc<Held>);

struct Held {
    loaded: Arc<Loaded>,
    description: Description,
    tenant: Arc<str>,
    // After the model: whoever is woken finds it free.
    room: Freeing,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.loaded.counts.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells whoever waits for room that there may be some.
struct Freeing(Arc<Room>);

impl Drop for Freeing {
    fn drop(&mut self) {
        self.0.note_freed();
    }
}

impl Lease {
    pub(super) fn new(loaded: Arc<Loaded>, description: Description, tenant: Arc<str>, room: Arc<Room>) -> Lease {
        loaded.counts.leases.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::new(Held { loaded, description, tenant, room: Freeing(room) }))
    }

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

    /// The tenant for whom the model was opened.
    pub fn tenant(&self) -> &Arc<str> {
        &self.0.tenant
    }

    /// What the model takes and gives, as the engine that loaded it says.
    pub fn signature(&self) -> &Signature {
        self.0.loaded.session.signature()
    }

    pub(in crate::model) fn loaded(&self) -> &Arc<Loaded> {
        &self.0.loaded
    }

    pub(in crate::model) fn device(&self) -> &Arc<dyn Device> {
        &self.0.room.0.device
    }
}

/// A model that was found: its signature and its assets. It keeps nothing in memory but itself.
#[derive(Clone)]
pub struct Description {
    resolved: Arc<Resolved>,
    blobs: Arc<dyn Blobs>,
}

impl Description {
    pub(super) fn new(resolved: Arc<Resolved>, blobs: Arc<dyn Blobs>) -> Description {
        Description { resolved, blobs }
    }

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
