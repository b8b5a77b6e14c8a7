//! Tells which parts of a file are in memory already; it never reads one.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::null_mut;

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
        // SAFETY: it takes a number and gives one.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page_bytes = u64::try_from(page_bytes).map_err(|_| io::Error::last_os_error())?;
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let mut held = vec![0u8; length.div_ceil(page_bytes as usize)];
        if length == 0 || file.metadata()?.uid() != rustix::process::geteuid().as_raw() {
            return Ok(Pages { held, page_bytes });
        }
        // SAFETY: a new mapping at an address of the system's choice, of a file that is open; nothing reads through it.
        let start = unsafe { libc::mmap(null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping made above, and there is one byte for each of its pages.
        let asked = unsafe { libc::mincore(start, length, held.as_mut_ptr()) };
        let asked = if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: the mapping made above, to which nothing points.
        unsafe { libc::munmap(start, length) };
        asked.map(|()| Pages { held, page_bytes })
    }

    /// Whether all of a range is in memory.
    pub(super) fn hold(&self, start: u64, end: u64) -> bool {
        let (first, last) = ((start / self.page_bytes) as usize, end.div_ceil(self.page_bytes) as usize);
        // The lowest bit tells; the others are not defined.
        self.held.get(first..last).is_some_and(|pages| pages.iter().all(|page| page & 1 == 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_was_just_written_is_in_memory_and_what_is_beyond_it_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let pages = Pages::of(&file, 10_000).unwrap();
        assert!(pages.hold(0, 10_000) && pages.hold(5_000, 5_001) && pages.hold(4, 4));
        assert!(!pages.hold(0, 100_000));
        assert!(!Pages::of(&file, 1 << 20).unwrap().hold(1 << 19, 1 << 20));
        assert!(Pages::of(&file, 0).unwrap().hold(0, 0));
    }
}
