//! Reads an archive in a child process, which sends its files; the child never writes a file, and the server never reads an
//! archive.
//!
//! For each file, the child sends its entry as JSON, then its bytes. The server stores the files and computes their digests
//! itself.

use super::archive::{self, Archive, Entry, is_header};
use super::package::Files;
use crate::config::Limits;
use crate::confined::{Cap, Caps, Confined, Feed, Job, Parts, Queue, Work};
use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use std::io::{self, Cursor, ErrorKind, Read};

/// The job of the child.
pub const UNPACK: Job = Job { name: "unpack", work };

/// Bytes that are needed to recognise what an upload is.
pub(super) const FIRST_BYTES: usize = 512;

const UNPACKING: &str = "unpacking a model";

/// Starts a child that reads an archive and sends its files.
///
/// Errors: those of [`Confined::stream`].
pub(super) async fn start(confined: &Confined, limits: &Limits) -> Result<(Feed, Parts)> {
    let caps = Caps {
        what: "the archive's unpacking",
        queue: Queue::Streaming,
        wall_ms: Cap { value: limits.unpack_ms, limit: "unpack_ms" },
        memory_bytes: Cap { value: limits.unpack_memory_bytes, limit: "unpack_memory_bytes" },
        // The child writes no file.
        file_bytes: Cap { value: 0, limit: "unpack_memory_bytes" },
        threads: 1,
        reads: Vec::new(),
    };
    // Files may take model_bytes; each has a header, a name and padding too.
    let overhead = limits.model_files.saturating_mul(4 << 10).saturating_add(1 << 20);
    confined.stream(&UNPACK, &limits.model_bytes.saturating_add(overhead), caps).await
}

/// Stores the files that a child finds in an archive.
///
/// Errors: the child's; `too-large`; those of the disk.
pub(super) async fn store(mut parts: Parts, mut files: Files) -> Result<Files> {
    let wrong = |what: &str| Error::host(UNPACKING, format!("the child sent {what}"));
    while let Some(part) = parts.next().await? {
        let Entry { path, bytes } = serde_json::from_slice(part).map_err(|error| Error::host(UNPACKING, error))?;
        // Checked again: what the child sends is untrusted, too.
        if archive::path(path.as_bytes())?.as_ref() != Some(&path) {
            return Err(wrong("a path that is not plain"));
        }
        files.count(bytes)?;
        files.count_file()?;
        let mut writer = files.writer().await?;
        let mut left = bytes;
        while left > 0 {
            let part = parts.next().await?.ok_or_else(|| wrong("less than it announced"))?;
            left = left.checked_sub(part.len() as u64).ok_or_else(|| wrong("more than it announced"))?;
            writer.write(part).await?;
        }
        files.add(path, writer.finish().await?)?;
    }
    Ok(files)
}

/// The work in the child. The request is the number of bytes that the archive may have when it is decompressed.
fn work(work: &mut Work) -> Result<Value> {
    let most: u64 = work.request()?;
    let Work { input, parts, .. } = work;
    let mut send = |part: &[u8]| parts.send(part);
    let first = first(input)?;
    match tell(&first)? {
        Upload::Onnx => Err(Error::host(UNPACKING, "it is no archive"))?,
        Upload::Tar => tar(Cursor::new(first).chain(input), most, &mut send)?,
        Upload::Gzip => {
            let mut source = MultiGzDecoder::new(Cursor::new(first).chain(input));
            let first = self::first(&mut source)?;
            if !matches!(tell(&first)?, Upload::Tar) {
                return Err(Error::malformed(
                    "the upload is a gzip file that contains no tar; send a .onnx, .tar or .tar.gz",
                ));
            }
            tar(Cursor::new(first).chain(source), most, &mut send)?;
        }
    }
    Ok(Value::Null)
}

fn tar(source: impl Read, most: u64, send: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut archive = Archive::new(source, most);
    while let Some(entry) = archive.next()? {
        send(&serde_json::to_vec(&entry).map_err(|error| Error::host(UNPACKING, error))?)?;
        archive.data(entry.bytes, &mut *send)?;
    }
    Ok(())
}

/// The kind of an upload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Upload {
    Onnx,
    Tar,
    Gzip,
}

/// Recognises the kind of an upload by its first bytes.
pub(super) fn tell(first: &[u8]) -> Result<Upload> {
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
