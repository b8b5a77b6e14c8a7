//! Takes a model's upload apart into blobs, and puts a package together as a folder; it never reads a model.

use super::archive::{Archive, is_header};
use super::blobs::{Blob, BlobFile, BlobStore};
use super::folder::{Folder, private_folder, sync_folder};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::model::{Package, PackageFile};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Chunks are gathered to this size before they are passed on, since each passing wakes a thread.
const GATHERED_BYTES: usize = 256 << 10;
/// Gathered chunks that may wait for the disk.
const WAITING: usize = 4;
/// Bytes that tell what an upload is.
const FIRST_BYTES: usize = 512;
/// Names of files that an error lists.
const LISTED: usize = 20;

/// A model whose files are stored. They are not collected while this lives; a put in the catalog makes them last.
#[derive(Debug)]
pub struct ModelUpload {
    /// Its files.
    pub package: Package,
    /// The package's digest: a sha256 over the files' paths, digests and lengths in the order of the paths, so that the
    /// same files give the same digest however they came.
    pub digest: String,
    /// The length of all files together.
    pub bytes: u64,
    _holds: (Vec<Blob>, super::blobs::Hold),
}

enum Part {
    Data(Vec<u8>),
    End,
}

/// A model being uploaded. Dropped before `finish`, it leaves nothing that lasts.
pub struct ModelWriter {
    parts: mpsc::Sender<Part>,
    outcome: oneshot::Receiver<Result<ModelUpload>>,
    gathered: Vec<u8>,
    bytes: u64,
}

impl ModelWriter {
    pub(super) fn begin(blobs: Arc<BlobStore>, limits: Limits) -> Result<ModelWriter> {
        let (parts, receiver) = mpsc::channel(WAITING);
        let (sender, outcome) = oneshot::channel();
        let work = move || {
            let source = Parts { receiver, part: Cursor::default(), ended: false };
            // The receiver is gone where the upload was given up.
            let _ = sender.send(unpack(source, &blobs, &limits));
        };
        // A thread of its own: a slow sender would hold one of tokio's for as long as it likes.
        std::thread::Builder::new().name("unpack".to_owned()).spawn(work).map_err(|error| {
            Error::overloaded("no thread is free to unpack the model; try again").with_source(error)
        })?;
        Ok(ModelWriter { parts, outcome, gathered: Vec::new(), bytes: 0 })
    }

    /// Appends to the upload. After an error only dropping the writer is left.
    ///
    /// Errors: those of [`ModelWriter::finish`], as soon as they are known.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        self.gathered.extend_from_slice(data);
        if self.gathered.len() < GATHERED_BYTES {
            return Ok(());
        }
        let gathered = std::mem::take(&mut self.gathered);
        self.send(Part::Data(gathered)).await
    }

    /// Bytes written so far, as they came.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stores what was uploaded, and gives its files.
    ///
    /// Errors: `malformed` for what is neither a model nor a whole tar; `invalid-argument` for names and kinds of
    /// entries that are refused and for a tar without `model.onnx`; `too-large`; `storage-full`; `internal`.
    pub async fn finish(mut self) -> Result<ModelUpload> {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            self.send(Part::Data(gathered)).await?;
        }
        self.send(Part::End).await?;
        (&mut self.outcome).await.unwrap_or_else(|error| Err(Error::host("unpacking a model", error)))
    }

    async fn send(&mut self, part: Part) -> Result<()> {
        if self.parts.send(part).await.is_ok() {
            return Ok(());
        }
        match (&mut self.outcome).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) => Err(Error::host("unpacking a model", "the unpacking ended before the upload")),
            Err(error) => Err(Error::host("unpacking a model", error)),
        }
    }
}

/// The parts of an upload as one stream, for the thread that unpacks.
struct Parts {
    receiver: mpsc::Receiver<Part>,
    part: Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.part.read(buffer)?;
            if count > 0 || self.ended || buffer.is_empty() {
                return Ok(count);
            }
            match self.receiver.blocking_recv() {
                Some(Part::Data(data)) => self.part = Cursor::new(data),
                Some(Part::End) => self.ended = true,
                None => return Err(io::Error::new(ErrorKind::ConnectionAborted, "the upload was given up")),
            }
        }
    }
}

/// Stores the files of an upload, in the order in which they come.
struct Unpacking<'a> {
    blobs: &'a Arc<BlobStore>,
    limits: &'a Limits,
    files: BTreeMap<String, PackageFile>,
    holds: Vec<Blob>,
    bytes: u64,
}

fn unpack(mut source: impl Read, blobs: &Arc<BlobStore>, limits: &Limits) -> Result<ModelUpload> {
    let mut unpacking = Unpacking { blobs, limits, files: BTreeMap::new(), holds: Vec::new(), bytes: 0 };
    let first = first(&mut source)?;
    match tell(&first)? {
        Upload::Onnx => unpacking.onnx(Cursor::new(first).chain(source))?,
        Upload::Tar => unpacking.tar(Cursor::new(first).chain(source))?,
        Upload::Gzip => {
            let mut source = MultiGzDecoder::new(Cursor::new(first).chain(source));
            let first = self::first(&mut source)?;
            if !matches!(tell(&first)?, Upload::Tar) {
                return Err(Error::malformed(
                    "the upload is a gzip of something that is no tar; send a .onnx, .tar or .tar.gz",
                ));
            }
            unpacking.tar(Cursor::new(first).chain(source))?;
        }
    }
    unpacking.finish()
}

impl Unpacking<'_> {
    fn onnx(&mut self, mut source: impl Read) -> Result<()> {
        let mut file = BlobFile::create(Arc::clone(self.blobs))?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.count(count as u64)?;
                    file.write(&buffer[..count])?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        self.add(Package::MODEL.to_owned(), file.finish()?)
    }

    fn tar(&mut self, source: impl Read) -> Result<()> {
        // Files may take model_bytes; each has a header, a name and padding too.
        let overhead = self.limits.model_files.saturating_mul(4 << 10).saturating_add(1 << 20);
        let mut archive = Archive::new(source, self.limits.model_bytes.saturating_add(overhead));
        while let Some(entry) = archive.next()? {
            self.count(entry.bytes)?;
            if self.holds.len() as u64 >= self.limits.model_files {
                return Err(Error::too_large(format!(
                    "the archive has more than {} files (limit model_files)",
                    self.limits.model_files
                )));
            }
            let mut file = BlobFile::create(Arc::clone(self.blobs))?;
            archive.data(entry.bytes, |part| file.write(part))?;
            self.add(entry.path, file.finish()?)?;
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<()> {
        let most = self.limits.model_bytes;
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

    fn add(&mut self, path: String, blob: Blob) -> Result<()> {
        match self.files.entry(path) {
            Place::Occupied(there) => {
                return Err(Error::invalid_argument(format!("the archive has '{}' twice", there.key())));
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

/// What an upload is.
#[derive(Debug, PartialEq, Eq)]
enum Upload {
    Onnx,
    Tar,
    Gzip,
}

/// Tells what an upload is from its first bytes.
fn tell(first: &[u8]) -> Result<Upload> {
    let others: [(&[u8], &str); 5] = [
        (b"PK\x03\x04", "a zip"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (b"BZh", "compressed by bzip2"),
        (b"<", "a page of HTML or XML"),
    ];
    if first.is_empty() {
        return Err(Error::malformed("the upload is empty; send a .onnx, .tar or .tar.gz"));
    }
    if let Some((_, what)) = others.iter().find(|(magic, _)| first.starts_with(magic)) {
        return Err(Error::malformed(format!("the upload is {what}; send a .onnx, .tar or .tar.gz")));
    }
    if first.starts_with(&[0x1f, 0x8b]) {
        return Ok(Upload::Gzip);
    }
    let zeros = first.len() == FIRST_BYTES && first.iter().all(|&byte| byte == 0);
    if zeros || is_header(first) { Ok(Upload::Tar) } else { Ok(Upload::Onnx) }
}

fn first(source: &mut impl Read) -> Result<Vec<u8>> {
    let mut first = Vec::with_capacity(FIRST_BYTES);
    source.take(FIRST_BYTES as u64).read_to_end(&mut first).map_err(unreadable)?;
    Ok(first)
}

fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::malformed("the upload ends early: it was cut off").with_source(error),
        _ => Error::malformed(format!("the upload cannot be read: {error}")).with_source(error),
    }
}

/// Puts a package together as a folder of hard links to its blobs, and gives its path. Made once, at one stroke.
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
        // Some file systems have no hard links, and all bound how many a file may have.
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
        // Somebody else was faster.
        Err(_) if target.is_dir() => return Ok(target),
        Err(error) => return Err(Error::storage(MAKING, error)),
    }
    // It has moved away; what the guard would remove is gone.
    let _ = making.keep();
    sync_folder(&folder.packages()).map_err(failed)?;
    Ok(target)
}
