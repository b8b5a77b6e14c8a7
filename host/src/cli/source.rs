//! The bytes of an upload: a file, or files packed as a tar while they are read, from any offset; it never sends them.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A tar ends with two blocks of zeros.
const END: usize = 1024;
const BLOCK: u64 = 512;

/// A file to pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// Its name in the archive.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
}

/// A source of an upload: always the same bytes, as long as the files do not change.
#[derive(Debug)]
pub(super) struct Source {
    pieces: Vec<Piece>,
    bytes: u64,
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    File { path: PathBuf, bytes: u64, modified: Option<SystemTime> },
}

impl Source {
    /// One file, unchanged.
    pub(super) fn file(path: &Path) -> Result<Source> {
        let mut source = Source { pieces: Vec::new(), bytes: 0 };
        source.add_file(path)?;
        Ok(source)
    }

    /// Files as a tar, in their order.
    pub(super) fn tar(files: &[Packed]) -> Result<Source> {
        let mut source = Source { pieces: Vec::new(), bytes: 0 };
        for Packed { name, path } in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            let found = metadata(path)?;
            header.set_size(found.len());
            // The data is not given to the builder; it follows as a separate piece.
            let mut builder = tar::Builder::new(Vec::new());
            let added = builder.append_data(&mut header, name, io::empty());
            added.with_context(|| format!("{name} cannot be named in a tar"))?;
            source.add_bytes(builder.get_ref().clone());
            let bytes = source.add_file(path)?;
            source.add_bytes(vec![0; (bytes.next_multiple_of(BLOCK) - bytes) as usize]);
        }
        source.add_bytes(vec![0; END]);
        Ok(source)
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks that its files did not change. Errors: a changed file.
    pub(super) fn check(&self) -> io::Result<()> {
        for piece in &self.pieces {
            if let Piece::File { path, bytes, modified } = piece {
                unchanged(path, *bytes, *modified, 0)?;
            }
        }
        Ok(())
    }

    /// Reads from an offset on.
    pub(super) fn read_from(&self, offset: u64) -> Reader<'_> {
        Reader { pieces: &self.pieces, skip: offset, open: None }
    }

    /// The SHA-256 of all its bytes, in hexadecimal. Reads everything.
    pub(super) fn sha256(&self) -> io::Result<String> {
        let (mut hasher, mut reader, mut part) = (Sha256::new(), self.read_from(0), vec![0; 1 << 20]);
        loop {
            match reader.read(&mut part)? {
                0 => return Ok(hex::encode(hasher.finalize())),
                count => hasher.update(&part[..count]),
            }
        }
    }

    fn add_bytes(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        self.pieces.push(Piece::Bytes(bytes));
    }

    fn add_file(&mut self, path: &Path) -> Result<u64> {
        let found = metadata(path)?;
        if !found.is_file() {
            bail!("{} is no file", path.display());
        }
        self.bytes += found.len();
        let (bytes, modified) = (found.len(), found.modified().ok());
        self.pieces.push(Piece::File { path: path.to_owned(), bytes, modified });
        Ok(bytes)
    }
}

fn metadata(path: &Path) -> Result<Metadata> {
    std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads the rest of a [`Source`].
pub(super) struct Reader<'a> {
    pieces: &'a [Piece],
    /// Bytes of the first piece that were read or skipped.
    skip: u64,
    open: Option<File>,
}

impl Read for Reader<'_> {
    /// Errors: also if a file changed, since the bytes before and after would not belong together.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let [piece, rest @ ..] = self.pieces {
            let length = match piece {
                Piece::Bytes(bytes) => bytes.len() as u64,
                Piece::File { bytes, .. } => *bytes,
            };
            if self.skip >= length {
                (self.pieces, self.skip, self.open) = (rest, self.skip - length, None);
                continue;
            }
            let most = usize::try_from(length - self.skip).unwrap_or(usize::MAX).min(buffer.len());
            let buffer = &mut buffer[..most];
            let count = match piece {
                Piece::Bytes(bytes) => {
                    let from = self.skip as usize;
                    buffer.copy_from_slice(&bytes[from..from + most]);
                    most
                }
                Piece::File { path, bytes, modified } => {
                    let file = match &mut self.open {
                        Some(file) => file,
                        None => self.open.insert(unchanged(path, *bytes, *modified, self.skip)?),
                    };
                    file.read(buffer)?
                }
            };
            if count == 0 && most > 0 {
                return Err(io::Error::other("a file became shorter while it was read"));
            }
            self.skip += count as u64;
            return Ok(count);
        }
        Ok(0)
    }
}

fn unchanged(path: &Path, bytes: u64, modified: Option<SystemTime>, offset: u64) -> io::Result<File> {
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if found.len() != bytes || found.modified().ok() != modified {
        let message = format!("{} changed while it was uploaded; start again", path.display());
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: &Source, offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        source.read_from(offset).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_tar_is_the_same_from_any_offset() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("assets/{}/x", "l".repeat(150));
        let mut files = Vec::new();
        for (name, length) in [("model.onnx", 70_000), (long.as_str(), 4), ("empty", 0), ("block", 512)] {
            let path = folder.path().join(length.to_string());
            std::fs::write(&path, vec![b'x'; length]).unwrap();
            files.push(Packed { name: name.to_owned(), path });
        }
        let source = Source::tar(&files).unwrap();
        let whole = all(&source, 0);
        assert_eq!(whole.len() as u64, source.bytes());
        assert_eq!(hex::encode(Sha256::digest(&whole)), source.sha256().unwrap());
        let mut archive = tar::Archive::new(&whole[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            assert!(data.iter().all(|byte| *byte == b'x'));
            (name, data.len())
        });
        let wanted = [("model.onnx", 70_000), (long.as_str(), 4), ("empty", 0), ("block", 512)];
        assert_eq!(entries.collect::<Vec<_>>(), wanted.map(|(name, length)| (name.to_owned(), length)));
        for offset in [1, 511, 512, 513, 70_512, 70_513, 71_000, whole.len() - 1, whole.len(), whole.len() + 5] {
            assert_eq!(all(&source, offset as u64), whole[offset.min(whole.len())..], "{offset}");
        }
        let one = Source::file(&files[0].path).unwrap();
        assert_eq!((one.bytes(), all(&one, 69_990).len()), (70_000, 10));
    }

    #[test]
    fn a_file_that_changes_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1; 100]).unwrap();
        let source = Source::file(file.path()).unwrap();
        std::fs::write(file.path(), [1; 99]).unwrap();
        let error = source.read_from(0).read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
    }
}
