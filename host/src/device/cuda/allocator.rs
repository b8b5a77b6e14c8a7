//! Device memory: every block is taken and given back here, and free blocks are kept for later requests; it never hands out
//! memory that work in another queue may still read.
//!
//! Sizes are rounded up to classes, so that a block that came back fits the next request of about that size. The bytes taken
//! from the driver, in use and kept, never exceed the ledger's budget. A block that comes back is free for kernels at once,
//! because they run in one queue; a copy from the host into it waits for an event that was recorded after it came back. An engine
//! gives back a block for each step of a model, so an event is recorded only when a copy needs it, or for many blocks at once.

use super::driver::{Driver, Event, Failure, Outcome, Stream};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The smallest block, which is also the alignment of blocks.
const LEAST_BYTES: u64 = 512;
/// Above this size, block sizes are multiples of it.
const LARGE_BYTES: u64 = 2 << 20;
/// The most blocks that share an event; with a small number, a copy that waits for it waits for little unrelated work.
const SHARED: u32 = 32;

/// What an allocator holds, for status and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of blocks in use, after rounding.
    pub used_bytes: u64,
    /// Bytes of blocks that are kept for later.
    pub kept_bytes: u64,
    /// The most bytes that were held from the driver at one time.
    pub peak_bytes: u64,
    /// Requests that were served by a kept block.
    pub reused: u64,
    /// Requests that were passed to the driver.
    pub taken: u64,
}

/// Takes, keeps and gives device memory.
pub(super) struct Allocator {
    driver: Arc<dyn Driver>,
    budget_bytes: u64,
    state: Mutex<State>,
    /// Whether the device is lost; if so, nothing is given back to it.
    lost: AtomicBool,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<u64, Vec<Kept>>,
    counts: MemoryUse,
    /// The mark of blocks that come back now, and the number of blocks that have it.
    open: Arc<Mark>,
    marked: u32,
}

struct Kept {
    address: u64,
    free_after: Arc<Mark>,
}

/// A position in the queue of kernels, after those that used the blocks with this mark. It is recorded with the state locked, so
/// that no block gets it later.
#[derive(Default)]
struct Mark(OnceLock<Event>);

/// A block in use. It comes back when it is dropped.
pub(super) struct Block {
    allocator: Arc<Allocator>,
    address: u64,
    bytes: u64,
    /// When the kernels that used it before are done; `None` for memory that no queue has used.
    free_after: Option<Arc<Mark>>,
}

impl Allocator {
    /// An allocator that takes at most `budget_bytes` from the driver.
    pub(super) fn new(driver: Arc<dyn Driver>, budget_bytes: u64) -> Arc<Allocator> {
        Arc::new(Allocator { driver, budget_bytes, state: Mutex::default(), lost: AtomicBool::new(false) })
    }

    /// A block of at least this many bytes, with undefined contents.
    ///
    /// Errors: [`Failure::OutOfMemory`] when the budget or the device has no room even after all kept blocks were freed.
    pub(super) fn take(self: &Arc<Allocator>, bytes: u64) -> Outcome<Block> {
        let size = class_of(bytes).ok_or(Failure::OutOfMemory)?;
        let mut state = self.state();
        // A larger block serves too, as long as it wastes little: a quarter of a large block would be much, and the ledger does
        // not count the waste.
        let largest = if size > LARGE_BYTES { size } else { size + size / 4 };
        let fitting = state.kept.range(size..=largest).next().map(|(size, _)| *size);
        if let Some(size) = fitting
            && let Some(kept) = state.pop(size)
        {
            state.counts.kept_bytes -= size;
            state.counts.used_bytes += size;
            state.counts.reused += 1;
            return Ok(self.block(kept.address, size, Some(kept.free_after)));
        }
        let held = state.counts.used_bytes + state.counts.kept_bytes;
        if held.saturating_add(size) > self.budget_bytes {
            self.give_back(&mut state, held.saturating_add(size) - self.budget_bytes);
            if (state.counts.used_bytes + state.counts.kept_bytes).saturating_add(size) > self.budget_bytes {
                return Err(Failure::OutOfMemory);
            }
        }
        let address = match self.driver.allocate(size) {
            Err(Failure::OutOfMemory) => {
                self.give_back(&mut state, u64::MAX);
                self.driver.allocate(size)?
            }
            other => other?,
        };
        state.counts.taken += 1;
        state.counts.used_bytes += size;
        state.counts.peak_bytes = state.counts.peak_bytes.max(state.counts.used_bytes + state.counts.kept_bytes);
        Ok(self.block(address, size, None))
    }

    /// What it holds at present.
    pub(super) fn counts(&self) -> MemoryUse {
        self.state().counts
    }

    /// Gives all kept blocks back to the driver.
    #[cfg(test)]
    pub(super) fn trim(&self) {
        self.give_back(&mut self.state(), u64::MAX);
    }

    /// Records that the device is lost, and its memory with it.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    fn block(self: &Arc<Allocator>, address: u64, bytes: u64, free_after: Option<Arc<Mark>>) -> Block {
        Block { allocator: Arc::clone(self), address, bytes, free_after }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Gives kept blocks back, the largest first, until at least this many bytes are freed.
    fn give_back(&self, state: &mut State, bytes: u64) {
        let mut given = 0;
        while given < bytes {
            let Some(size) = state.kept.last_key_value().map(|(size, _)| *size) else { return };
            let Some(kept) = state.pop(size) else { continue };
            state.counts.kept_bytes -= size;
            given += size;
            // Work in the queues may still use it; freeing waits for that anyway.
            let done = self.recorded(state, &kept.free_after).and_then(|event| event.synchronize());
            // SAFETY: the block was not in use, and the queued work that used it is done, or the device is lost.
            #[allow(unsafe_code)]
            let freed = done.and_then(|()| unsafe { self.driver.free(kept.address) });
            if let Err(failure) = freed {
                tracing::warn!("{size} bytes of device memory could not be given back: {failure}");
            }
        }
    }

    /// A mark's event; records it now if it was not recorded.
    fn recorded<'a>(&self, state: &mut State, mark: &'a Arc<Mark>) -> Outcome<&'a Event> {
        if let Some(event) = mark.0.get() {
            return Ok(event);
        }
        // Only the open mark has no event.
        (state.open, state.marked) = (Arc::default(), 0);
        let event = Event::record(&self.driver, Stream::Compute)?;
        Ok(mark.0.get_or_init(|| event))
    }

    fn keep(&self, block: &mut Block) {
        let mut state = self.state();
        state.counts.used_bytes -= block.bytes;
        if self.lost.load(Ordering::Relaxed) {
            return;
        }
        let open = Arc::clone(&state.open);
        state.marked += 1;
        // A device that records nothing is lost, and its memory with it; otherwise the mark is recorded when it is needed.
        if state.marked >= SHARED && self.recorded(&mut state, &open).is_err() {
            return;
        }
        state.counts.kept_bytes += block.bytes;
        state.kept.entry(block.bytes).or_default().push(Kept { address: block.address, free_after: open });
    }
}

impl State {
    fn pop(&mut self, size: u64) -> Option<Kept> {
        let list = self.kept.get_mut(&size)?;
        let kept = list.pop();
        if list.is_empty() {
            self.kept.remove(&size);
        }
        kept
    }
}

impl Drop for Allocator {
    fn drop(&mut self) {
        if !*self.lost.get_mut() {
            let mut state = std::mem::take(self.state.get_mut());
            self.give_back(&mut state, u64::MAX);
        }
    }
}

impl Block {
    /// The first byte's address on the device.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The number of bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes copies from the host wait until kernels that used this memory before are done.
    pub(super) fn hold_copies(&self) -> Outcome<()> {
        let Some(mark) = &self.free_after else { return Ok(()) };
        let allocator = &self.allocator;
        allocator.recorded(&mut allocator.state(), mark)?.hold(Stream::In)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let allocator = Arc::clone(&self.allocator);
        allocator.keep(self);
    }
}

/// The size of the block for this many bytes: a power of two, or 1.5 times one, up to 2 MiB; above that, multiples of 2 MiB.
fn class_of(bytes: u64) -> Option<u64> {
    if bytes > LARGE_BYTES {
        return bytes.checked_next_multiple_of(LARGE_BYTES);
    }
    let power = bytes.max(LEAST_BYTES).next_power_of_two();
    let less = power / 4 * 3;
    Some(if less >= bytes.max(LEAST_BYTES) { less } else { power })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_less_than_half() {
        for (bytes, class) in [(0, 512), (1, 512), (513, 768), (769, 1_024), (1_025, 1_536), (2 << 20, 2 << 20)] {
            assert_eq!(class_of(bytes), Some(class));
        }
        assert_eq!(class_of((2 << 20) + 1), Some(4 << 20));
        assert_eq!(class_of(u64::MAX), None);
        for bytes in (512..4_000_000).step_by(4_099) {
            let class = class_of(bytes).unwrap();
            assert!(
                class >= bytes && class.is_multiple_of(256) && (class - bytes) * 2 <= class + 1_024,
                "{bytes} {class}"
            );
        }
    }
}
