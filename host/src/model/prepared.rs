//! The prepared forms of models on disk, so that loading a model again reads its weights once and copies none; it never gives
//! one that this data folder did not write, or whose bytes are not those that were written.
//!
//! A form is what an engine made of a model at its first load: the optimised graph, and the weights as the engine wants them,
//! page-aligned and one after another in one file that every session maps and shares. It lies in a folder of its own below
//! `prepared/`, whose name holds the model's digest and a fingerprint of all else it depends on (engine, version, machine,
//! settings). The manifest beside it holds the digests and is a signed file ([`crate::signed_cache`]). Nothing is synced: what a
//! loss of power leaves behind does not verify, and is made anew. The weights file of another version or machine that holds
//! the same bytes stays, by a link.

mod pages;
mod staged;
#[cfg(test)]
mod tests;
mod weights;

use super::engine::{Engine, GRAPH, Preparing, Session, WEIGHTS, graph_digest};
use super::signature::Signature;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::node_key::NodeKey;
use crate::signed_cache::{self, Signer, private_folder};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use weights::Weights;

pub use staged::Staged;

/// Where a form spares less, loading is as fast without.
const SMALLEST_BYTES: u64 = 16 << 20;
/// Changes when the layout of the files does.
const LAYOUT: u32 = 1;
/// The signed file that says, in JSON, what the others hold.
const MANIFEST: &str = "manifest";
/// How the names of folders begin that are being written.
const UNFINISHED: &str = ".making-";

const KEEPING: &str = "keeping the prepared form of a model";

/// What a form holds.
#[derive(Serialize, Deserialize)]
struct Manifest {
    signature: Signature,
    /// The BLAKE3 of the graph's file, in lower-case hexadecimal.
    graph: String,
    weights: Weights,
}

/// The folder of prepared forms, and what signs their manifests.
pub(super) struct Prepared {
    folder: PathBuf,
    signer: Signer,
    most_bytes: u64,
    smallest_bytes: u64,
    staged_bytes: u64,
    /// Whether a form's last check failed, by its name; locked during a check.
    doubts: Mutex<HashMap<String, Arc<Mutex<bool>>>>,
    /// Held while a form is made or removed: one at a time, so that the forms stay within their limit.
    making: Mutex<()>,
    /// Forms that could not be made since the process started, or whose making the last process did not survive.
    given_up: Mutex<HashSet<String>>,
}

impl Prepared {
    /// Opens `prepared` below the data folder, makes it where it is missing, and removes what a process that was killed had
    /// not finished; this process does not try the same form again, for it may be what ended the last one. Only one process
    /// uses a data folder. Where `model_snapshot_bytes` is 0, all goes, and this gives none.
    ///
    /// Errors: those of the disk.
    pub(super) fn open(config: &Config) -> Result<Option<Prepared>> {
        let most_bytes = config.limits.model_snapshot_bytes;
        let failed = |error| Error::storage("making the folder for prepared models", error);
        let folder = config.data.join("prepared");
        if most_bytes == 0 {
            return match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(None),
            };
        }
        private_folder(&folder).map_err(failed)?;
        let mut given_up = HashSet::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(name) = file.strip_prefix(UNFINISHED) else { continue };
            fs::remove_dir_all(entry.path()).map_err(failed)?;
            tracing::warn!(form = name, "the last process ended while it made a prepared form; this one does without");
            given_up.insert(name.to_owned());
        }
        let signer = Signer::new(&NodeKey::open(&config.data)?, signed_cache::Kind::Prepared);
        let (smallest_bytes, making, given_up) = (SMALLEST_BYTES, Mutex::default(), Mutex::new(given_up));
        let staged_bytes = config.limits.staged_bytes;
        let doubts = Mutex::default();
        Ok(Some(Prepared { folder, signer, most_bytes, smallest_bytes, staged_bytes, doubts, making, given_up }))
    }

    /// Loads a model on an engine: from its prepared form where there is one that is whole; else from its package in
    /// `folder`, whose prepared form is kept then. What is wrong with a form is logged and costs nothing but time.
    ///
    /// Errors: those of [`Engine::load`].
    pub(super) fn load(
        &self,
        engine: &dyn Engine,
        digest: &str,
        folder: &Path,
        weights_bytes: u64,
    ) -> Result<Arc<dyn Session>> {
        let is_plain = digest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let preparing = match engine.preparing() {
            Some(preparing) if is_plain && preparing.spared_bytes(folder, weights_bytes) >= self.smallest_bytes => {
                preparing
            }
            _ => return engine.load(folder, weights_bytes),
        };
        let name = format!("{digest}-{}", fingerprint(&preparing.depends_on(weights_bytes)?));
        if let Some(session) = self.found_or_removed(preparing, &name, weights_bytes)? {
            return Ok(session);
        }
        if !self.given_up().contains(&name) {
            match self.made(preparing, digest, &name, (folder, weights_bytes)) {
                Ok(()) => match self.found(preparing, &name, weights_bytes) {
                    Ok(Some(session)) => return Ok(session),
                    // Its model was deleted, or it made room for others.
                    Ok(None) => {}
                    Err(error) => self.give_up(digest, name, &error),
                },
                Err(error) => self.give_up(digest, name, &error),
            }
        }
        engine.load(folder, weights_bytes)
    }

    /// A session from a form that is there; one that is damaged is removed.
    ///
    /// Errors: those of the engine that have nothing to do with the form: no memory, no library.
    fn found_or_removed(
        &self,
        preparing: &dyn Preparing,
        name: &str,
        weights_bytes: u64,
    ) -> Result<Option<Arc<dyn Session>>> {
        if let Ok(found) = self.found(preparing, name, weights_bytes) {
            return Ok(found);
        }
        // Once more, now that no other thread removes it meanwhile.
        let _making = self.making();
        match self.found(preparing, name, weights_bytes) {
            Err(error) if matches!(error.kind(), Kind::Overloaded | Kind::Unavailable) => Err(error),
            Err(error) => {
                self.discard(name, &error);
                Ok(None)
            }
            found => found,
        }
    }

    fn discard(&self, name: &str, error: &Error) {
        tracing::warn!(form = name, "a prepared form is damaged and made anew: {}", error.chain());
        remove(&self.folder.join(name));
    }

    fn give_up(&self, digest: &str, name: String, error: &Error) {
        tracing::warn!(digest, "the model is loaded without a prepared form: {}", error.chain());
        let _making = self.making();
        remove(&self.folder.join(&name));
        // There may be room on the disk or in memory later.
        if !matches!(error.kind(), Kind::StorageFull | Kind::Overloaded) {
            self.given_up().insert(name);
        }
    }

    /// The digests of the models whose forms are here.
    ///
    /// Errors: those of the disk.
    pub(super) fn digests(&self) -> Result<BTreeSet<String>> {
        let forms = self.forms().map_err(|error| Error::storage("listing prepared models", error))?;
        Ok(forms.into_iter().map(|form| form.digest).collect())
    }

    /// Removes all forms of a model. Sessions that use them go on undisturbed.
    pub(super) fn remove(&self, digest: &str) {
        let _making = self.making();
        for form in self.forms().unwrap_or_default() {
            if form.digest == digest {
                remove(&form.path);
            }
        }
        let beginning = format!("{digest}-");
        self.given_up().retain(|name| !name.starts_with(&beginning));
        self.doubts().retain(|name, _| !name.starts_with(&beginning));
    }

    /// A session from a form that is there and whole; none where there is no form.
    fn found(&self, preparing: &dyn Preparing, name: &str, weights_bytes: u64) -> Result<Option<Arc<dyn Session>>> {
        let folder = self.folder.join(name);
        if !folder.exists() {
            return Ok(None);
        }
        let manifest = self.checked(name)?;
        let session = preparing.load_prepared(&folder, weights_bytes, manifest.signature)?;
        // What is unused for longest goes first.
        let used = File::open(folder.join(MANIFEST)).and_then(|file| file.set_modified(SystemTime::now()));
        used.map_err(unread)?;
        Ok(Some(session))
    }

    /// The manifest of a form whose files are those that were written; they were read, where they did not lie in memory. One
    /// thread at a time looks at a form. After a check that failed, all is compared: what the disk gave wrong lies in memory by
    /// then, where it would be passed over.
    fn checked(&self, name: &str) -> Result<Manifest> {
        let doubt = self.doubts().entry(name.to_owned()).or_default().clone();
        let mut doubt = doubt.lock();
        let doubtful = std::mem::replace(&mut *doubt, true);
        let folder = self.folder.join(name);
        let mut manifest = self.read(name)?;
        if graph_digest(&folder.join(GRAPH)).map_err(unread)? != manifest.graph {
            return Err(Error::new(Kind::Internal, "the graph is not the one that was written"));
        }
        // Before the file is mapped: where the disk fails, reading is an error, and touching a mapping the end of the process.
        if manifest.weights.check(&folder.join(WEIGHTS), doubtful)? {
            self.write(name, &folder, &manifest)?;
        }
        *doubt = false;
        Ok(manifest)
    }

    /// Makes the form of a model, where no other load has meanwhile.
    fn made(
        &self,
        preparing: &dyn Preparing,
        digest: &str,
        name: &str,
        (package, weights_bytes): (&Path, u64),
    ) -> Result<()> {
        let failed = |error| Error::storage(KEEPING, error);
        let _making = self.making();
        let folder = self.folder.join(name);
        if folder.exists() {
            return Ok(());
        }
        self.make_room(weights_bytes)?;
        self.check_disk(weights_bytes)?;
        let unfinished = Unfinished::new(self.folder.join(format!("{UNFINISHED}{name}"))).map_err(failed)?;
        let signature = preparing.prepare(package, weights_bytes, &unfinished.0)?;
        let (graph, weights) = (unfinished.0.join(GRAPH), unfinished.0.join(WEIGHTS));
        if !weights.exists() {
            File::create(&weights).map_err(failed)?;
        }
        for file in [&graph, &weights] {
            // Cutting a file that is mapped would end the process.
            fs::set_permissions(file, Permissions::from_mode(0o400)).map_err(failed)?;
        }
        let graph_bytes = fs::metadata(&graph).map_err(failed)?.len();
        let graph = graph_digest(&graph).map_err(failed)?;
        let mut manifest = Manifest { signature, graph, weights: Weights::of(&weights)? };
        self.make_room(manifest.weights.bytes + graph_bytes)?;
        for stale in self.forms().map_err(failed)?.into_iter().filter(|form| form.digest == digest) {
            tracing::info!(digest, "the model's prepared form is of another version or machine, and made anew");
            let old = stale.path.join(WEIGHTS);
            let same = self.read(&stale.name).is_ok_and(|form| form.weights.parts == manifest.weights.parts);
            if same && self.checked(&stale.name).is_ok() {
                fs::remove_file(&weights).and_then(|()| fs::hard_link(&old, &weights)).map_err(failed)?;
            }
            remove(&stale.path);
        }
        // Also where the file is another one now.
        manifest.weights.check(&weights, false)?;
        self.write(name, &unfinished.0, &manifest)?;
        fs::rename(&unfinished.0, &folder).map_err(failed)?;
        tracing::info!(digest, bytes = manifest.weights.bytes, "the model's prepared form is kept");
        Ok(())
    }

    /// Removes forms, those unused for longest first, until there is room for one more.
    ///
    /// Errors: `too-large` where there cannot be; those of the disk.
    fn make_room(&self, bytes: u64) -> Result<()> {
        let failed = |error| Error::storage(KEEPING, error);
        if bytes > self.most_bytes {
            let most = self.most_bytes;
            let message =
                format!("its prepared form has {bytes} bytes or more; the limit model_snapshot_bytes is {most}");
            return Err(Error::too_large(message));
        }
        let mut forms = self.forms().map_err(failed)?;
        forms.sort_by_key(|form| form.used);
        let mut total: u64 = forms.iter().map(|form| form.bytes).sum();
        for form in forms {
            if total + bytes <= self.most_bytes {
                break;
            }
            remove(&form.path);
            total -= form.bytes;
        }
        Ok(())
    }

    /// Whether the disk has room for the form of a model with so many bytes of weights: twice as much where they are packed,
    /// and as much again for all else that the server stores.
    ///
    /// Errors: `storage-full` where it has not.
    fn check_disk(&self, weights_bytes: u64) -> Result<()> {
        let disk = rustix::fs::statvfs(&self.folder).map_err(|error| Error::storage(KEEPING, error.into()))?;
        let (free, needed) = (disk.f_bavail.saturating_mul(disk.f_frsize), weights_bytes.saturating_mul(3));
        if free >= needed {
            return Ok(());
        }
        let message = format!(
            "its prepared form wants {needed} bytes free on the disk of the data folder, which has {free}: free some, or lower \
             model_snapshot_bytes"
        );
        Err(Error::new(Kind::StorageFull, message))
    }

    fn forms(&self) -> std::io::Result<Vec<Form>> {
        let mut forms = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((digest, _)) = name.rsplit_once('-').filter(|_| !name.starts_with(UNFINISHED)) else { continue };
            let about = |file: &str| fs::metadata(entry.path().join(file));
            let bytes = [GRAPH, WEIGHTS, MANIFEST].iter().filter_map(|file| Some(about(file).ok()?.len())).sum();
            let used = about(MANIFEST).and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            forms.push(Form { digest: digest.to_owned(), path: entry.path(), bytes, used, name });
        }
        Ok(forms)
    }

    /// The manifest of a form, where this data folder wrote it.
    fn read(&self, name: &str) -> Result<Manifest> {
        let wrong =
            |what: String| Error::new(Kind::Internal, format!("the manifest is not the one that was written: {what}"));
        let verified = self.signer.read(&self.folder.join(name).join(MANIFEST), name).map_err(|error| {
            if error.kind() == ErrorKind::InvalidData { wrong(error.to_string()) } else { unread(error) }
        })?;
        serde_json::from_slice(verified.content()).map_err(|error| wrong(error.to_string()))
    }

    fn write(&self, name: &str, folder: &Path, manifest: &Manifest) -> Result<()> {
        let json = serde_json::to_vec(manifest).map_err(|error| Error::host(KEEPING, error))?;
        let written = self.signer.write(&folder.join(MANIFEST), name, &[&json]);
        written.map_err(|error| Error::storage(KEEPING, error))
    }

    fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock()
    }

    fn doubts(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<bool>>>> {
        self.doubts.lock()
    }

    fn given_up(&self) -> MutexGuard<'_, HashSet<String>> {
        self.given_up.lock()
    }
}

fn unread(error: std::io::Error) -> Error {
    Error::storage("reading a prepared form", error)
}

/// A folder that goes when this does, unless it has another name by then.
struct Unfinished(PathBuf);

impl Unfinished {
    fn new(path: PathBuf) -> std::io::Result<Unfinished> {
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Unfinished(path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// A form on disk.
struct Form {
    name: String,
    digest: String,
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn fingerprint(depends_on: &str) -> String {
    let digest = Sha256::new().chain_update(LAYOUT.to_le_bytes()).chain_update(depends_on).finalize();
    let mut name = hex::encode(digest);
    name.truncate(16);
    name
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!("{} could not be removed whole; remove it by hand: {error}", folder.display());
        }
        _ => {}
    }
}
