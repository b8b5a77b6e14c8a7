//! Reads an untrusted tar as a stream; it never writes a file.
//!
//! The `tar` crate's own reader reads long names of any length into memory, and gives no error where an archive is cut off. So
//! the loop over blocks is here, and the crate reads only the header's fields.

use crate::error::{Error, Result};
use std::io::{ErrorKind, Read};
use tar::{EntryType, Header, PaxExtensions};

const BLOCK: usize = 512;
/// Bytes of one extended header. It holds one or two paths and some timestamps.
const EXTENDED_BYTES: u64 = 64 << 10;
/// Bytes of a file's path: twice what one path component may have on Linux.
const PATH_BYTES: usize = 512;

/// A file in a tar.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Entry {
    /// Its path: relative, `/` between components, none of them empty, `.` or `..`.
    pub(super) path: String,
    /// Its length.
    pub(super) bytes: u64,
}

/// A tar that is being read.
pub(super) struct Archive<R> {
    source: R,
    /// Bytes that may still come, files and headers together.
    left: u64,
}

/// What extended headers say about the entry after them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    bytes: Option<u64>,
}

impl<R: Read> Archive<R> {
    /// Reads a tar of at most `most` bytes, including headers and padding.
    pub(super) fn new(source: R, most: u64) -> Archive<R> {
        Archive { source, left: most }
    }

    /// The next file, or none at the archive's end. The last one's data must have been read.
    ///
    /// Errors: `malformed`, `invalid-argument` for a kind or path that is refused, `too-large`.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                self.drain()?;
                return Ok(None);
            };
            let bytes = header.entry_size().map_err(|_| malformed("a size is no number"))?;
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.extended(bytes)?;
                    name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
                    extended.path = Some(name);
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => drop(self.extended(bytes)?),
                EntryType::XHeader => {
                    let records = self.extended(bytes)?;
                    extended.take(&records)?;
                }
                _ => {
                    let raw = extended.path.take().unwrap_or_else(|| header.path_bytes().into_owned());
                    let bytes = extended.bytes.take().unwrap_or(bytes);
                    // Archives older than POSIX mark a folder only by a slash at the end of its name.
                    let folder = kind == EntryType::Directory || (kind == EntryType::Regular && raw.ends_with(b"/"));
                    if folder {
                        path(&raw)?;
                        self.data(bytes, |_| Ok(()))?;
                        extended = Extended::default();
                        continue;
                    }
                    refuse(kind, &raw)?;
                    let path = path(&raw)?.ok_or_else(|| malformed("a file has no name"))?;
                    return Ok(Some(Entry { path, bytes }));
                }
            }
        }
    }

    /// Reads the data of an entry, in parts.
    pub(super) fn data(&mut self, bytes: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; 128 << 10];
        let mut left = bytes;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = &mut buffer[..part];
            self.exact(part)?;
            take(part)?;
            left -= part.len() as u64;
        }
        let padding = (BLOCK as u64 - bytes % BLOCK as u64) % BLOCK as u64;
        self.exact(&mut buffer[..padding as usize])
    }

    /// The next header, or none at the block of zeros that ends an archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if !is_header(header.as_bytes()) {
            return Err(malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn extended(&mut self, bytes: u64) -> Result<Vec<u8>> {
        if bytes > EXTENDED_BYTES {
            return Err(malformed(format!("an extended header has {bytes} bytes, and may have {EXTENDED_BYTES}")));
        }
        let mut all = Vec::new();
        self.data(bytes, |part| {
            all.extend_from_slice(part);
            Ok(())
        })?;
        Ok(all)
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.spend(buffer.len() as u64)?;
        self.source.read_exact(buffer).map_err(unreadable)
    }

    /// Reads what follows the end, so that a compressed archive's checksum is checked and all of the upload is consumed.
    fn drain(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.spend(count as u64)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        let left = self.left.checked_sub(bytes);
        self.left =
            left.ok_or_else(|| Error::too_large("the archive unpacks to more than limit model_bytes allows"))?;
        Ok(())
    }
}

impl Extended {
    fn take(&mut self, records: &[u8]) -> Result<()> {
        for record in PaxExtensions::new(records) {
            let record = record.map_err(|_| malformed("an extended header is no list of records"))?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_owned()),
                b"size" => {
                    let bytes = record.value().ok().and_then(|value| value.parse().ok());
                    self.bytes = Some(bytes.ok_or_else(|| malformed("a size is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(Error::invalid_argument("the archive has a sparse file; make it without --sparse"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether a block is a tar header: its checksum is right.
pub(super) fn is_header(block: &[u8]) -> bool {
    if block.len() != BLOCK {
        return false;
    }
    let sum: u32 =
        block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) }).sum();
    Header::from_byte_slice(block).cksum().is_ok_and(|stated| stated == sum)
}

fn refuse(kind: EntryType, raw: &[u8]) -> Result<()> {
    let what = match kind {
        EntryType::Regular | EntryType::Continuous => return Ok(()),
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::GNUSparse => "a sparse file (make the archive without --sparse)",
        _ => "of an unknown kind",
    };
    Err(Error::invalid_argument(format!("{} in the archive is {what}; only files and folders are taken", shown(raw))))
}

/// The path of an entry without `.` components, or none for the archive's own folder.
pub(super) fn path(raw: &[u8]) -> Result<Option<String>> {
    let refused = |why: &str| Error::invalid_argument(format!("the archive's name {} {why}", shown(raw)));
    let text = std::str::from_utf8(raw).map_err(|_| refused("is not UTF-8"))?;
    if text.starts_with('/') {
        return Err(refused("is absolute; names must be relative to the model's folder"));
    }
    if text.chars().any(|character| character.is_control() || character == '\\') {
        return Err(refused("has a control character or a backslash"));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(refused("leaves the model's folder by '..'"));
    }
    let joined = parts.join("/");
    if joined.len() > PATH_BYTES || parts.iter().any(|part| part.len() > 255) {
        return Err(refused("is too long: at most 512 bytes, and 255 between slashes, are allowed"));
    }
    Ok(Some(joined).filter(|joined| !joined.is_empty()))
}

fn shown(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    format!("'{}'", text.chars().take(80).flat_map(char::escape_debug).collect::<String>())
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::malformed(format!("the archive is no proper tar: {why}"))
}

fn unreadable(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::malformed("the archive ends early: it was cut off").with_source(error),
        _ => Error::malformed(format!("the archive cannot be read: {error}")).with_source(error),
    }
}
