//! Stores a model's upload as blobs, and lays out a package as a folder; it never reads a model or an archive, which a child
//! process does.

use super::blobs::{Blob, BlobFile, BlobStore, BlobWriter, GATHERED_BYTES, blocking};
use super::folder::{Folder, private_folder, sync_folder};
use super::unpack::{self, FIRST_BYTES, Upload};
use crate::config::Limits;
use crate::confined::{Confined, Feed};
use crate::error::{Error, Result};
use crate::model::{Package, PackageFile};
use sha2::{Digest, Sha256};
use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Names of files that an error lists.
const LISTED: usize = 20;

/// A model whose files are stored. They are not collected while this lives; a put in the catalog makes them durable.
#[derive(Debug)]
pub struct ModelUpload {
    /// Its files.
    pub package: Package,
    /// The package's digest: a sha256 over the files' paths, digests and lengths in the order of the paths, so that the same
    /// files give the same digest however they were uploaded.
    pub digest: String,
    /// The length of all files together.
    pub bytes: u64,
    _holds: (Vec<Blob>, super::blobs::Hold),
}

/// A model being uploaded. If it is dropped before `finish`, nothing is stored.
pub struct ModelWriter {
    confined: Arc<Confined>,
    limits: Limits,
    /// None until the first bytes show what it is, and after an error.
    target: Option<Target>,
    files: Option<Files>,
    gathered: Vec<u8>,
    bytes: u64,
}

/// The destination of an upload.
enum Target {
    Onnx(Box<BlobWriter>, Files),
    /// A child; a task stores the parts that it sends.
    Archive(Feed, AbortOnDropHandle<Result<Files>>),
}

impl ModelWriter {
    pub(super) fn new(blobs: Arc<BlobStore>, limits: Limits, confined: Arc<Confined>) -> ModelWriter {
        let (most_bytes, most_files) = (limits.model_bytes, limits.model_files);
        let files = Files { blobs, most_bytes, most_files, files: BTreeMap::new(), holds: Vec::new(), bytes: 0 };
        ModelWriter { confined, limits, target: None, files: Some(files), gathered: Vec::new(), bytes: 0 }
    }

    /// Appends to the upload. After an error, or after the future was dropped, the writer can only be dropped.
    ///
    /// Errors: those of [`ModelWriter::finish`], as soon as they are known.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        self.gathered.extend_from_slice(data);
        let enough = match &self.target {
            None => FIRST_BYTES,
            // A slow client is told at once that its time is over.
            Some(Target::Archive(_, outcome)) if outcome.is_finished() => 0,
            Some(_) => GATHERED_BYTES,
        };
        if self.gathered.len() < enough {
            return Ok(());
        }
        let target = self.pass_on().await?;
        self.target = Some(target);
        Ok(())
    }

    /// Bytes written so far, as received.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stores what was uploaded, and gives its files.
    ///
    /// Errors: `malformed` for anything but a model or a complete tar; `invalid-argument` for names and kinds of entries that are
    /// refused, for a tar without `model.onnx`, and for one that takes longer than `unpack_ms`; `too-large`; `storage-full`;
    /// `internal`.
    pub async fn finish(mut self) -> Result<ModelUpload> {
        match self.pass_on().await? {
            Target::Onnx(writer, mut files) => {
                files.add(Package::MODEL.to_owned(), writer.finish().await?)?;
                files.finish()
            }
            Target::Archive(feed, outcome) => {
                drop(feed);
                unpacked(outcome.await)?.finish()
            }
        }
    }

    /// Sends the gathered bytes to the destination.
    async fn pass_on(&mut self) -> Result<Target> {
        let target = match self.target.take() {
            Some(target) => target,
            None => self.begin().await?,
        };
        let target = match target {
            Target::Onnx(mut writer, mut files) => {
                files.count(self.gathered.len() as u64)?;
                writer.write(&self.gathered).await?;
                Target::Onnx(writer, files)
            }
            Target::Archive(mut feed, outcome) => {
                if feed.write(&self.gathered).await.is_err() {
                    unpacked(outcome.await)?;
                    return Err(Error::host("unpacking a model", "the unpacking ended before the upload"));
                }
                Target::Archive(feed, outcome)
            }
        };
        self.gathered.clear();
        Ok(target)
    }

    async fn begin(&mut self) -> Result<Target> {
        let files = self.files.take().ok_or_else(|| Error::host("storing a model", "the upload failed before"))?;
        let first = &self.gathered[..self.gathered.len().min(FIRST_BYTES)];
        match unpack::tell(first)? {
            Upload::Onnx => Ok(Target::Onnx(Box::new(files.writer().await?), files)),
            Upload::Tar | Upload::Gzip => {
                let (feed, parts) = unpack::start(&self.confined, &self.limits).await?;
                Ok(Target::Archive(feed, AbortOnDropHandle::new(tokio::spawn(unpack::store(parts, files)))))
            }
        }
    }
}

fn unpacked(outcome: Result<Result<Files>, tokio::task::JoinError>) -> Result<Files> {
    outcome.map_err(|error| Error::host("unpacking a model", error))?
}

/// The files of an upload, in the order in which they arrive.
pub(super) struct Files {
    blobs: Arc<BlobStore>,
    most_bytes: u64,
    most_files: u64,
    files: BTreeMap<String, PackageFile>,
    holds: Vec<Blob>,
    bytes: u64,
}

impl Files {
    /// Begins a file.
    pub(super) async fn writer(&self) -> Result<BlobWriter> {
        let blobs = Arc::clone(&self.blobs);
        Ok(BlobWriter::new(blocking(move || BlobFile::create(blobs)).await?))
    }

    /// Counts bytes before they arrive. Errors: `too-large`.
    pub(super) fn count(&mut self, bytes: u64) -> Result<()> {
        let most = self.most_bytes;
        match self.bytes.checked_add(bytes).filter(|bytes| *bytes <= most) {
            Some(bytes) => self.bytes = bytes,
            None => {
                return Err(Error::too_large(format!(
                    "the model's files have more than {most} bytes (limit model_bytes)"
                )));
            }
        }
        Ok(())
    }

    /// Checks that one more file may arrive. Errors: `too-large`.
    pub(super) fn count_file(&self) -> Result<()> {
        let most = self.most_files;
        if self.holds.len() as u64 >= most {
            return Err(Error::too_large(format!("the archive has more than {most} files (limit model_files)")));
        }
        Ok(())
    }

    /// Adds a stored file. Errors: `invalid-argument` if there is one of that name.
    pub(super) fn add(&mut self, path: String, blob: Blob) -> Result<()> {
        match self.files.entry(path) {
            Place::Occupied(there) => {
                return Err(Error::invalid_argument(format!("the archive has the file '{}' twice", there.key())));
            }
            Place::Vacant(place) => {
                place.insert(PackageFile { digest: blob.digest.clone(), bytes: blob.bytes });
            }
        }
        self.holds.push(blob);
        Ok(())
    }

    fn finish(self) -> Result<ModelUpload> {
        if !self.files.contains_key(Package::MODEL) {
            return Err(Error::invalid_argument(without_model(&self.files)));
        }
        for (folder, _) in self.files.keys().flat_map(|path| path.match_indices('/').map(|(at, _)| path.split_at(at))) {
            if self.files.contains_key(folder) {
                return Err(Error::invalid_argument(format!("the archive has '{folder}' as a file and as a folder")));
            }
        }
        let package = Package { files: self.files };
        let digest = package_digest(&package);
        let hold = self.blobs.hold(&digest);
        Ok(ModelUpload { package, digest, bytes: self.bytes, _holds: (self.holds, hold) })
    }
}

fn without_model(files: &BTreeMap<String, PackageFile>) -> String {
    if files.is_empty() {
        return "the archive has no files; it needs model.onnx at its top".to_owned();
    }
    let found: Vec<&str> = files.keys().take(LISTED).map(String::as_str).collect();
    let more = files.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "the archive has no model.onnx at its top, but {}{more}; pack the folder's contents, as `tar -C FOLDER -c .` does",
        found.join(", ")
    )
}

fn package_digest(package: &Package) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"hearth package 1\0");
    for (path, file) in &package.files {
        hasher.update(format!("{path}\0{}\0{}\0", file.digest, file.bytes));
    }
    hex::encode(hasher.finalize())
}

/// Lays out a package as a folder of hard links to its blobs, and gives its path. It is made once, by an atomic rename.
pub(super) fn link(folder: &Folder, digest: &str, package: &Package) -> Result<PathBuf> {
    const MAKING: &str = "laying out a model";
    let target = folder.package(digest);
    if target.is_dir() {
        return Ok(target);
    }
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => Error::not_found("the model was deleted meanwhile").with_source(error),
        _ => Error::storage(MAKING, error),
    };
    let making = tempfile::tempdir_in(folder.incoming()).map_err(|error| Error::storage(MAKING, error))?;
    let mut folders = BTreeSet::from([making.path().to_owned()]);
    for (path, file) in &package.files {
        if Path::new(path).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(Error::host(MAKING, format!("a stored package has the path '{path}'")));
        }
        let place = making.path().join(path);
        if let Some(parent) = place.parent().filter(|parent| !folders.contains(*parent)) {
            private_folder(parent).map_err(failed)?;
            folders.extend(parent.ancestors().take_while(|above| *above != making.path()).map(Path::to_owned));
        }
        let blob = folder.blob(&file.digest);
        // Some file systems have no hard links, and all limit their number for each file.
        if let Err(error) = std::fs::hard_link(&blob, &place) {
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::StorageFull | ErrorKind::QuotaExceeded => return Err(failed(error)),
                _ => std::fs::copy(&blob, &place).map(drop).map_err(failed)?,
            }
        }
    }
    for made in &folders {
        sync_folder(made).map_err(failed)?;
    }
    match std::fs::rename(making.path(), &target) {
        Ok(()) => {}
        // Another task was faster.
        Err(_) if target.is_dir() => return Ok(target),
        Err(error) => return Err(Error::storage(MAKING, error)),
    }
    // The folder was renamed, so the guard has nothing to remove.
    let _ = making.keep();
    sync_folder(&folder.packages()).map_err(failed)?;
    Ok(target)
}
