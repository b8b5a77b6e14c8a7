//! Tells which parts of a file are in memory already; it never reads one.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::null_mut;

/// How many pages of a file stand for all of it where it is only to be shown.
const SAMPLES: u64 = 64;

/// Which pages of a file the system holds in memory, at the moment of asking.
pub(super) struct Pages {
    held: Vec<u8>,
    page_bytes: u64,
}

impl Pages {
    /// Asks for the first `bytes` of a file, which need not all be there. Of another user's file it tells that none is held:
    /// for such a one the system does not say, and `mincore` gives that all is.
    ///
    /// Errors: those of the system.
    pub(super) fn of(file: &File, bytes: u64) -> io::Result<Pages> {
        let page_bytes = page_bytes()?;
        let mut held = vec![0u8; usize::try_from(bytes.div_ceil(page_bytes)).map_err(io::Error::other)?];
        if let Some(mapping) = Mapping::of(file, bytes)? {
            mapping.ask(0, &mut held)?;
        }
        Ok(Pages { held, page_bytes })
    }

    /// Whether all of a range is in memory.
    pub(super) fn hold(&self, start: u64, end: u64) -> bool {
        let (first, last) = ((start / self.page_bytes) as usize, end.div_ceil(self.page_bytes) as usize);
        // The lowest bit tells; the others are not defined.
        self.held.get(first..last).is_some_and(|pages| pages.iter().all(|page| page & 1 == 1))
    }
}

/// Whether the system holds a file in memory, as far as some of its pages tell, which takes microseconds for files of any size.
/// Never of an empty file, or another user's.
///
/// Errors: those of the system.
pub(super) fn is_held(file: &File) -> io::Result<bool> {
    let bytes = file.metadata()?.len();
    let Some(mapping) = Mapping::of(file, bytes)? else { return Ok(false) };
    let pages = bytes.div_ceil(mapping.page_bytes);
    let samples = pages.min(SAMPLES);
    for sample in 0..samples {
        let mut held = [0u8];
        // The first and the last one are among them.
        mapping.ask(sample * (pages - 1) / (samples - 1).max(1), &mut held)?;
        if held[0] & 1 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn page_bytes() -> io::Result<u64> {
    // SAFETY: it takes a number and gives one.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

/// The beginning of a file, mapped to ask about; nothing reads through it.
struct Mapping {
    start: *mut c_void,
    length: usize,
    page_bytes: u64,
}

impl Mapping {
    /// None of no bytes, or another user's file.
    fn of(file: &File, bytes: u64) -> io::Result<Option<Mapping>> {
        let (length, page_bytes) = (usize::try_from(bytes).map_err(io::Error::other)?, page_bytes()?);
        if length == 0 || file.metadata()?.uid() != rustix::process::geteuid().as_raw() {
            return Ok(None);
        }
        // SAFETY: a new mapping at an address of the system's choice, of a file that is open.
        let start = unsafe { libc::mmap(null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Mapping { start, length, page_bytes }))
    }

    /// Writes for each page, from number `first` on, whether it is held.
    fn ask(&self, first: u64, held: &mut [u8]) -> io::Result<()> {
        let (from, wanted) = (first as usize * self.page_bytes as usize, held.len() * self.page_bytes as usize);
        assert!(from < self.length && wanted < self.length - from + self.page_bytes as usize, "pages of the mapping");
        let length = wanted.min(self.length - from);
        // SAFETY: the range lies in the mapping, at the start of a page, and there is one byte for each of its pages.
        let asked = unsafe { libc::mincore(self.start.byte_add(from), length, held.as_mut_ptr()) };
        if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and nothing points to it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_was_just_written_is_in_memory_and_what_is_beyond_it_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(!is_held(&file).unwrap(), "there is nothing");
        file.write_all(&[7; 10_000]).unwrap();
        let pages = Pages::of(&file, 10_000).unwrap();
        assert!(pages.hold(0, 10_000) && pages.hold(5_000, 5_001) && pages.hold(4, 4));
        assert!(!pages.hold(0, 100_000));
        assert!(!Pages::of(&file, 1 << 20).unwrap().hold(1 << 19, 1 << 20));
        assert!(Pages::of(&file, 0).unwrap().hold(0, 0));
        assert!(is_held(&file).unwrap());
        // Pages that nobody wrote are nowhere.
        file.set_len(1 << 20).unwrap();
        assert!(!is_held(&file).unwrap());
        file.write_all(&vec![7; (1 << 20) - 10_000]).unwrap();
        assert!(is_held(&file).unwrap());
    }
}
