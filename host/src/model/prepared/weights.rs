//! The digests of a file of weights, in parts, so that several threads read and check it at once; it never keeps the bytes.
//!
//! A part that is not in memory is always checked. A part that the page cache holds is checked unless the file was checked
//! whole before, and neither was it touched nor did the machine start since then: so a gigabyte that was loaded lately is
//! loaded again at once. Whoever writes to the file is noticed, and so is what a disk gives wrong. Not noticed is what changes
//! in memory, and what the disk gives wrong to another program or to a mapping that is in use, since it is in memory then.

use super::pages::Pages;
use crate::error::{Error, Kind, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of one part.
const PART_BYTES: u64 = 4 << 20;
/// Bytes that are read at once: they stay in the processor's cache until they are digested.
const READ_BYTES: usize = 256 << 10;
/// Threads for each core: some digest while others wait for the disk.
const THREADS_PER_CORE: usize = 4;
/// Threads at most; disks give no more to further ones.
const MOST_THREADS: usize = 8;
/// How long a file must have been left alone before its times tell it from one that is written later: the kernel's clock for
/// files goes in steps, of up to 10 ms.
const SETTLED: Duration = Duration::from_millis(20);

const CHECKING: &str = "checking a model's weights";

/// What a file of weights holds.
#[derive(Serialize, Deserialize)]
pub(super) struct Weights {
    pub(super) bytes: u64,
    /// The BLAKE3 of each part, in lower-case hexadecimal. It takes a third of the time of SHA-256, which would be longer than
    /// the disk takes.
    pub(super) parts: Vec<String>,
    /// The file whose every part was checked last.
    checked: Identity,
}

/// By what a file that nobody touched is known.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// What the kernel calls this start of the machine; empty where it does not say. Before a start nothing was in memory.
    boot: String,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> io::Result<Identity> {
        let about = file.metadata()?;
        Ok(Identity {
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            device: about.dev(),
            inode: about.ino(),
            bytes: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        })
    }

    /// That of a file of which all will be checked. Waits until a later write would change it.
    fn settled(file: &File) -> io::Result<Identity> {
        let found = Identity::of(file)?;
        let (seconds, nanos) = found.changed;
        let changed = Duration::new(seconds.try_into().unwrap_or(0), nanos.try_into().unwrap_or(0));
        if UNIX_EPOCH.elapsed().is_ok_and(|now| now >= changed + SETTLED) {
            return Ok(found);
        }
        std::thread::sleep(SETTLED);
        Identity::of(file)
    }
}

impl Weights {
    /// Reads a file that was just written.
    ///
    /// Errors: those of the disk.
    pub(super) fn of(path: &Path) -> Result<Weights> {
        let failed = |error| Error::storage(CHECKING, error);
        let file = File::open(path).map_err(failed)?;
        let checked = Identity::settled(&file).map_err(failed)?;
        let bytes = checked.bytes;
        let parts = Mutex::new(vec![String::new(); bytes.div_ceil(PART_BYTES) as usize]);
        each_part(path, bytes, &|_| true, &|part, digest| {
            if let Some(place) = parts.lock().get_mut(part) {
                *place = digest;
            }
            true
        })
        .map_err(failed)?;
        Ok(Weights { bytes, parts: parts.into_inner(), checked })
    }

    /// Checks a file, `all` of it or what may be otherwise than before. True where it is right although it was touched, or the
    /// machine started, since it was checked last; that is noted.
    ///
    /// Errors: `internal` where it holds something else; those of the disk. What the disk gave wrong lies in memory then, so that
    /// only a check of all finds it again.
    pub(super) fn check(&mut self, path: &Path, all: bool) -> Result<bool> {
        let failed = |error| Error::storage(CHECKING, error);
        let file = File::open(path).map_err(failed)?;
        let mut found = Identity::of(&file).map_err(failed)?;
        let wrong =
            |what: String| Error::new(Kind::Internal, format!("the weights are not those that were written: {what}"));
        if found.bytes != self.bytes || self.parts.len() as u64 != self.bytes.div_ceil(PART_BYTES) {
            return Err(wrong(format!("{} bytes instead of {}", found.bytes, self.bytes)));
        }
        let touched = found != self.checked || found.boot.is_empty();
        if touched {
            found = Identity::settled(&file).map_err(failed)?;
        }
        let pages = if touched || all { None } else { Some(Pages::of(&file, self.bytes).map_err(failed)?) };
        let due = |part: usize| {
            let (start, end) = range(part, self.bytes);
            !pages.as_ref().is_some_and(|pages| pages.hold(start, end))
        };
        let right = |part: usize, digest: String| self.parts.get(part) == Some(&digest);
        if !each_part(path, self.bytes, &due, &right).map_err(failed)? {
            return Err(wrong("a digest differs".to_owned()));
        }
        self.checked = found;
        Ok(touched)
    }
}

#[cfg(test)]
impl Weights {
    /// Has a file count as the one that was checked, whatever it holds.
    pub(super) fn trust(&mut self, path: &Path) {
        self.checked = Identity::settled(&File::open(path).unwrap()).unwrap();
    }
}

fn range(part: usize, bytes: u64) -> (u64, u64) {
    let start = part as u64 * PART_BYTES;
    (start, (start + PART_BYTES).min(bytes))
}

/// Digests the parts that are `due`, several threads at once. Ends early, with false, where `take` gives false.
///
/// Each thread reads a stretch of the file from its beginning to its end, which is what the system reads ahead best: taking
/// turns, or asking for parts before their turn, took longer.
fn each_part(
    path: &Path,
    bytes: u64,
    due: &(dyn Fn(usize) -> bool + Sync),
    take: &(dyn Fn(usize, String) -> bool + Sync),
) -> io::Result<bool> {
    let parts: Vec<usize> = (0..bytes.div_ceil(PART_BYTES) as usize).filter(|part| due(*part)).collect();
    let taken = AtomicBool::new(true);
    let work = |parts: &[usize]| -> io::Result<()> {
        let file = File::open(path)?;
        let mut buffer = vec![0u8; READ_BYTES];
        for &part in parts {
            let (mut at, end) = range(part, bytes);
            let mut hasher = blake3::Hasher::new();
            while at < end {
                let wanted = (end - at).min(READ_BYTES as u64) as usize;
                let Some(piece) = buffer.get_mut(..wanted) else { break };
                file.read_exact_at(piece, at)?;
                hasher.update(piece);
                at += wanted as u64;
            }
            if !take(part, hasher.finalize().to_hex().to_string()) {
                taken.store(false, Ordering::Relaxed);
            }
            if !taken.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.saturating_mul(THREADS_PER_CORE).min(MOST_THREADS);
    let stretch = parts.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let started: Vec<_> = parts
            .chunks(stretch)
            .map(|parts| std::thread::Builder::new().spawn_scoped(scope, move || work(parts)).map_err(|_| parts))
            .collect();
        // All of them, since one that panicked and was not waited for panics here.
        let ended: Vec<_> = started
            .into_iter()
            .map(|thread| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err(io::Error::other("a reading thread panicked"))),
                // The system gives no more threads.
                Err(parts) => work(parts),
            })
            .collect();
        ended.into_iter().collect::<io::Result<()>>()
    })?;
    Ok(taken.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_changed_byte_anywhere_is_noticed_and_untouched_files_in_memory_are_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.bin");
        let bytes = PART_BYTES * 3 + 17;
        let content: Vec<u8> = (0..bytes).map(|at| (at * 31 / 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let mut weights = Weights::of(&path).unwrap();
        assert_eq!(weights.parts.len(), 4);
        assert_eq!(weights.parts[3], blake3::hash(&content[PART_BYTES as usize * 3..]).to_hex().to_string());
        assert!(!weights.check(&path, false).unwrap());
        let file = File::options().write(true).open(&path).unwrap();
        for at in [0, PART_BYTES - 1, PART_BYTES, bytes - 1] {
            let right = content[at as usize];
            file.write_all_at(&[right ^ 1], at).unwrap();
            assert!(weights.check(&path, false).unwrap_err().message().contains("digest"), "{at}");
            file.write_all_at(&[right], at).unwrap();
            file.set_modified(SystemTime::now() + Duration::from_secs(at)).unwrap();
            assert!(weights.check(&path, false).unwrap(), "touched, and right");
            assert!(!weights.check(&path, false).unwrap());
        }
        // As after a start of the machine.
        weights.checked.boot = "another".to_owned();
        assert!(weights.check(&path, false).unwrap() && !weights.check(&path, false).unwrap());
        // Written right after it was checked, and with the old time of change.
        let about = file.metadata().unwrap();
        file.write_all_at(&[content[0] ^ 1], 0).unwrap();
        file.set_modified(about.modified().unwrap()).unwrap();
        assert!(weights.check(&path, false).unwrap_err().message().contains("digest"));
        file.set_len(bytes - 1).unwrap();
        assert!(weights.check(&path, false).unwrap_err().message().contains("bytes"));
        std::fs::remove_file(&path).unwrap();
        weights.check(&path, false).unwrap_err();

        std::fs::write(&path, []).unwrap();
        let mut empty = Weights::of(&path).unwrap();
        assert!(empty.parts.is_empty() && !empty.check(&path, false).unwrap());
    }
}
