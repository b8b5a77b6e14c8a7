//! Bodies of uploads, with a progress bar; it never sends them.

use super::client::Body;
use super::source::Source;
use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

/// Bytes that are read from a file at once.
const CHUNK: usize = 256 << 10;
/// Chunks of a source that may wait for the network.
const WAITING: usize = 4;

/// Something to upload.
pub(super) struct Upload {
    /// The body.
    pub(super) body: Body,
    /// Its length, where it is known.
    pub(super) bytes: Option<u64>,
    /// The progress bar.
    pub(super) progress: ProgressBar,
}

/// The bytes of one file. The bar ends when everything is read; then the server's work is shown, which `then` names.
pub(super) async fn file(path: &Path, then: &'static str) -> Result<Upload> {
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
    let found = file.metadata().await.with_context(|| format!("cannot read {}", path.display()))?;
    if found.is_dir() {
        bail!("{} is a folder", path.display());
    }
    let bytes = found.is_file().then_some(found.len());
    let progress = bar(bytes.unwrap_or(0));
    let stream = ReaderStream::with_capacity(file, CHUNK);
    Ok(Upload { body: streamed(stream, progress.clone(), Some(then)), bytes, progress })
}

/// The rest of a source from an offset on. If `then` names what the server does next, the bar ends when everything is read.
pub(super) fn rest(source: &Arc<Source>, offset: u64, progress: &ProgressBar, then: Option<&'static str>) -> Body {
    progress.set_position(offset);
    let (sender, receiver) = mpsc::channel(WAITING);
    let source = source.clone();
    tokio::task::spawn_blocking(move || {
        let mut reader = source.read_from(offset);
        loop {
            let mut chunk = BytesMut::zeroed(CHUNK);
            let read = reader.read(&mut chunk);
            let (over, failed) = (matches!(read, Ok(0)), read.is_err());
            let chunk = read.map(|count| {
                chunk.truncate(count);
                chunk.freeze()
            });
            // The receiver is gone if the upload has ended.
            if over || sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    streamed(chunks, progress.clone(), then)
}

/// The name for a file or folder: its own without extensions, in the form that hearth allows. cargo makes `file_type.wasm` from a
/// package `file-type`, so `_` becomes `-` again.
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
        bail!("{} suggests no name; give one with --name NAME", path.display());
    }
    Ok(name)
}

fn streamed(
    chunks: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static,
    progress: ProgressBar,
    then: Option<&'static str>,
) -> Body {
    let end = progress.clone();
    let chunks = chunks.map(move |chunk| {
        let chunk = chunk?;
        progress.inc(chunk.len() as u64);
        Ok(Frame::data(chunk))
    });
    let end = stream::poll_fn(move |_| {
        if let Some(then) = then {
            waiting(&end, then);
        }
        std::task::Poll::Ready(None)
    });
    StreamBody::new(chunks.chain(end)).boxed_unsync()
}

/// A progress bar on stderr, if that is a terminal.
pub(super) fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("uploading [{bar:30}] {binary_bytes} of {binary_total_bytes}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Shows that the server is working.
pub(super) fn waiting(bar: &ProgressBar, what: &'static str) {
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(120));
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
    async fn the_rest_of_a_source_is_streamed_and_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let source = Arc::new(Source::file(file.path()).unwrap());
        for offset in [0, 123_456, 1_000_000] {
            let progress = bar(source.bytes());
            let body = rest(&source, offset, &progress, None).collect().await.unwrap().to_bytes();
            assert_eq!((&body[..], progress.position()), (&bytes[offset as usize..], 1_000_000));
        }
        std::fs::write(file.path(), b"other").unwrap();
        let failed = rest(&source, 0, &bar(0), None).collect().await.unwrap_err();
        assert!(failed.to_string().contains("changed"), "{failed}");
    }
}
