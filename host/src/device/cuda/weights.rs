//! Weights that hearth loads for an engine: ranges of a file, which several threads read into pinned memory and copy to one block
//! of the device; it never knows what they mean.

use super::driver::{Failure, Outcome};
use super::engine::{Claimed, Lent};
use crate::error::{Error, Result};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The alignment of each range on the device: `cudaMalloc` guarantees it, and kernels of libraries expect it.
const ALIGNMENT: u64 = 256;

/// Weights on the device, for as long as this lives.
pub struct DeviceWeights {
    /// The address of each range, in their order.
    pub addresses: Vec<u64>,
    _memory: Claimed,
}

impl Lent<'_> {
    /// Reads ranges of a file into device memory, charged like the engine's memory, and waits until all are there.
    ///
    /// Errors: `overloaded`; those of the file; failures of the device.
    pub fn load(&self, file: &File, ranges: &[Range<u64>]) -> Result<DeviceWeights> {
        let layout = Layout::of(ranges).ok_or_else(|| Error::too_large("weights that no memory holds"))?;
        let memory = self.take(layout.bytes)?;
        let source = |at: usize, place: &mut [u8]| layout.read(file, at as u64, place);
        self.fill(&memory, layout.bytes as usize, &source)?;
        let start = memory.address();
        let addresses = layout.pieces.iter().map(|piece| start + piece.at).collect();
        Ok(DeviceWeights { addresses, _memory: memory })
    }
}

/// Ranges of a file, one after another with gaps.
struct Layout {
    pieces: Vec<Piece>,
    bytes: u64,
}

struct Piece {
    /// Its offset on the device.
    at: u64,
    /// Its offset in the file.
    from: Range<u64>,
}

impl Layout {
    fn of(ranges: &[Range<u64>]) -> Option<Layout> {
        let mut bytes = 0u64;
        let mut pieces = Vec::with_capacity(ranges.len());
        for from in ranges {
            pieces.push(Piece { at: bytes, from: from.clone() });
            let length = from.end.checked_sub(from.start)?;
            bytes = bytes.checked_add(length)?.checked_next_multiple_of(ALIGNMENT)?;
        }
        isize::try_from(bytes).ok().map(|_| Layout { pieces, bytes })
    }

    /// Writes the part that begins at `at`; gaps are zeros.
    fn read(&self, file: &File, at: u64, place: &mut [u8]) -> Outcome<()> {
        let unread = |error: std::io::Error| Failure::Unread(error.kind(), error.to_string());
        let (mut at, mut left) = (at, place);
        // The last piece that begins at or before it.
        let first = self.pieces.partition_point(|piece| piece.at <= at).saturating_sub(1);
        for (index, piece) in self.pieces.iter().enumerate().skip(first) {
            if left.is_empty() {
                break;
            }
            let (passed, length) = (at - piece.at, piece.from.end - piece.from.start);
            let wanted = length.saturating_sub(passed).min(left.len() as u64);
            let (bytes, rest) = left.split_at_mut(wanted as usize);
            file.read_exact_at(bytes, piece.from.start + passed.min(length)).map_err(unread)?;
            at += wanted;
            let end = self.pieces.get(index + 1).map_or(self.bytes, |next| next.at);
            let gap = (end - at).min(rest.len() as u64);
            let (zeros, rest) = rest.split_at_mut(gap as usize);
            zeros.fill(0);
            at += gap;
            left = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn parts_of_any_length_hold_what_the_ranges_do() {
        let bytes: Vec<u8> = (0..5_000u32).map(|at| (at * 7 % 251 + 1) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let ranges = [100..100, 3..4, 1_000..1_256, 0..700, 4_999..5_000, 20..20];
        let layout = Layout::of(&ranges).unwrap();
        assert_eq!(layout.pieces.iter().map(|piece| piece.at).collect::<Vec<_>>(), [0, 0, 256, 512, 1_280, 1_536]);
        let mut whole = vec![0u8; layout.bytes as usize];
        for piece in &layout.pieces {
            let content = &bytes[piece.from.start as usize..piece.from.end as usize];
            whole[piece.at as usize..][..content.len()].copy_from_slice(content);
        }
        for length in [1, 7, 255, 256, 257, 1_536] {
            for start in (0..whole.len()).step_by(length) {
                let mut part = vec![9u8; length.min(whole.len() - start)];
                layout.read(&file, start as u64, &mut part).unwrap();
                assert_eq!(part, whole[start..start + part.len()], "{start} {length}");
            }
        }
        file.set_len(4_999).unwrap();
        let failed = layout.read(&file, 0, &mut whole).unwrap_err();
        assert!(matches!(failed, Failure::Unread(std::io::ErrorKind::UnexpectedEof, _)), "{failed:?}");
        let backwards = Range { start: 5, end: 4 };
        assert!(Layout::of(&[0..1, 0..u64::MAX]).is_none() && Layout::of(&[0..1, backwards]).is_none());
    }
}
