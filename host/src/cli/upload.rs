//! Bodies of uploads: a file, or a folder packed as a tar on the way, with a progress bar; it never sends them.

use super::client::Body;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

/// Bytes that are read from a file at once.
const CHUNK: usize = 256 << 10;
/// Chunks of a tar that may wait for the network.
const WAITING: usize = 4;
/// Folders within folders. Deeper ones are a loop of links.
const DEPTH: usize = 32;

/// Something to upload.
pub(super) struct Upload {
    /// What is sent.
    pub(super) body: Body,
    /// Its length, where it is known.
    pub(super) bytes: Option<u64>,
    /// What shows how far it is.
    pub(super) progress: ProgressBar,
}

/// The bytes of one file. Reading ends the bar; what follows is the server's work, which `then` names.
pub(super) async fn file(path: &Path, then: &'static str) -> Result<Upload> {
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
    let found = file.metadata().await.with_context(|| format!("cannot read {}", path.display()))?;
    if found.is_dir() {
        bail!("{} is a folder", path.display());
    }
    let bytes = found.is_file().then_some(found.len());
    let progress = bar(bytes.unwrap_or(0));
    let stream = ReaderStream::with_capacity(file, CHUNK);
    Ok(Upload { body: streamed(stream, progress.clone(), then), bytes, progress })
}

/// Everything in a model's folder, as a tar in the order of the names, so that the same files are the same bytes. Files
/// and folders whose names begin with a dot are left out; links to files are followed.
pub(super) async fn folder(path: &Path, then: &'static str) -> Result<Upload> {
    let root = path.to_owned();
    let files = tokio::task::spawn_blocking(move || {
        let mut files = Vec::new();
        walk(&root, "", 0, &mut files)?;
        Ok::<_, anyhow::Error>(files)
    });
    let files = files.await??;
    if !files.iter().any(|file| file.name == "model.onnx") {
        let names: Vec<_> = files.iter().take(20).map(|file| file.name.as_str()).collect();
        bail!(
            "{} has no model.onnx, but {}",
            path.display(),
            if names.is_empty() { "no files".to_owned() } else { names.join(", ") }
        );
    }
    let progress = bar(files.iter().map(|file| file.bytes).sum());
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let failed = sender.clone();
        if let Err(error) = pack(&files, Chunks { sender, chunk: Vec::new() }) {
            // Nobody listens where the upload has ended.
            let _ = failed.blocking_send(Err(error));
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    Ok(Upload { body: streamed(chunks, progress.clone(), then), bytes: None, progress })
}

/// The name that a file or folder suggests: its own without extensions, as hearth allows it. cargo makes
/// `file_type.wasm` of a package `file-type`, so `_` is taken back to `-`.
pub(super) fn suggested_name(path: &Path) -> Result<String> {
    let path = std::path::absolute(path).context("the current folder is gone")?;
    let path = if path.is_dir() { path.canonicalize().unwrap_or(path) } else { path };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
    let mut stem = name.as_str();
    for extension in [".gz", ".tgz", ".tar", ".onnx", ".wasm"] {
        stem = stem.strip_suffix(extension).unwrap_or(stem);
    }
    let name: String = stem.replace('_', "-").trim_matches(|at: char| !at.is_ascii_alphanumeric()).to_owned();
    if name.is_empty() {
        bail!("{} suggests no name; say --name NAME", path.display());
    }
    Ok(name)
}

fn streamed(
    chunks: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static,
    progress: ProgressBar,
    then: &'static str,
) -> Body {
    let end = progress.clone();
    let chunks = chunks.map(move |chunk| {
        let chunk = chunk?;
        progress.inc(chunk.len() as u64);
        Ok(Frame::data(chunk))
    });
    let end = stream::poll_fn(move |_| {
        waiting(&end, then);
        std::task::Poll::Ready(None)
    });
    StreamBody::new(chunks.chain(end)).boxed_unsync()
}

/// A bar on stderr, where that is a terminal.
fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("uploading [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn waiting(bar: &ProgressBar, what: &'static str) {
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(120));
}

struct Packed {
    name: String,
    path: PathBuf,
    bytes: u64,
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Packed>) -> Result<()> {
    if depth > DEPTH {
        bail!("{} is {DEPTH} folders deep; is it a loop of links?", folder.display());
    }
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.with_context(|| format!("cannot read {}", folder.display()))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            bail!("the name of {} is not UTF-8", path.display());
        };
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        let found = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match (found.is_dir(), found.is_file()) {
            (true, _) => walk(&path, &format!("{name}/"), depth + 1, files)?,
            (_, true) => files.push(Packed { name, path, bytes: found.len() }),
            _ => bail!("{} is neither a file nor a folder", path.display()),
        }
    }
    Ok(())
}

fn pack(files: &[Packed], chunks: Chunks) -> io::Result<()> {
    let mut tar = tar::Builder::new(chunks);
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(file.bytes);
        let source = std::fs::File::open(&file.path)?;
        if source.metadata()?.len() != file.bytes {
            return Err(io::Error::other(format!("{} changed while it was read", file.path.display())));
        }
        tar.append_data(&mut header, &file.name, io::Read::take(source, file.bytes))?;
    }
    tar.into_inner()?.flush()
}

/// Passes what is written to the network, in chunks.
struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(data);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_suggested_by_files_and_folders() {
        for (path, name) in [
            ("target/wasm32-wasip2/release/file_type.wasm", "file-type"),
            ("models/Magika.onnx", "magika"),
            ("all-minilm-l6-v2.tar.gz", "all-minilm-l6-v2"),
            ("m.tgz", "m"),
            ("_x_.wasm", "x"),
            ("m.v2.onnx", "m.v2"),
        ] {
            assert_eq!(suggested_name(Path::new(path)).unwrap(), name);
        }
        assert!(suggested_name(Path::new("/")).unwrap_err().to_string().contains("--name"));
    }

    #[tokio::test]
    async fn a_folder_is_packed_whole_and_always_alike() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let long = "l".repeat(150);
        std::fs::create_dir_all(root.join("assets/deep")).unwrap();
        std::fs::write(root.join("model.onnx"), vec![7; 600_000]).unwrap();
        std::fs::write(root.join("assets/deep").join(&long), b"long").unwrap();
        std::fs::write(root.join("assets/.DS_Store"), b"x").unwrap();
        std::os::unix::fs::symlink(root.join("model.onnx"), root.join("assets/linked")).unwrap();
        let read = async || {
            let upload = super::folder(root, "").await.unwrap();
            upload.body.collect().await.unwrap().to_bytes()
        };
        let first = read().await;
        let mut archive = tar::Archive::new(&first[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), entry.size())
        });
        let expected = [
            (format!("assets/deep/{long}"), 4),
            ("assets/linked".to_owned(), 600_000),
            ("model.onnx".to_owned(), 600_000),
        ];
        assert_eq!(entries.collect::<Vec<_>>(), expected);
        assert_eq!(first, read().await);
    }

    #[tokio::test]
    async fn a_folder_without_a_model_is_named_with_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("net.onnx"), b"x").unwrap();
        let error = super::folder(folder.path(), "").await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("no model.onnx, but net.onnx"), "{error}");
    }
}
