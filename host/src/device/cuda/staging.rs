//! Pinned host memory through which all bytes are copied to and from the device, in chunks that are reused; an upload never waits
//! for the device, unless all chunks are in use.

use super::driver::{Driver, Event, Failure, Outcome, Pinned, Stream};
use super::helpers::{Helpers, sections};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sizes of the chunks: for small tensors, whose copies end soon, and for large ones.
const CHUNK_BYTES: [usize; 2] = [64 << 10, 2 << 20];
/// Chunks of one download that are in flight at once.
const AHEAD: usize = 2;

/// Bytes copied between host and device, counted where they are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Of tensors, to the device.
    pub uploaded_bytes: u64,
    /// Of tensors, from the device.
    pub downloaded_bytes: u64,
    /// Of tables that operators need besides tensors (the taps of a resize, factors of many channels), to the device.
    pub table_bytes: u64,
    /// Of models' weights that hearth loads itself, to the device.
    pub weight_bytes: u64,
    /// Of faults that kernels recorded, from the device.
    pub fault_bytes: u64,
}

/// The kind of the bytes, for [`Copied`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Tensor,
    Table,
    Weights,
    Fault,
}

/// Writes a part of the data for the device, from an offset on.
pub(super) type Source<'a> = dyn Fn(usize, &mut [u8]) -> Outcome<()> + Sync + 'a;

/// The chunks.
pub(super) struct Staging {
    driver: Arc<dyn Driver>,
    pools: [Pool; 2],
    uploaded: AtomicU64,
    downloaded: AtomicU64,
    tables: AtomicU64,
    weights: AtomicU64,
    faults: AtomicU64,
}

struct Pool {
    chunk_bytes: usize,
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Pinned>,
    under_way: VecDeque<(Pinned, Event)>,
    /// All chunks that were taken from the driver.
    count: usize,
}

impl Staging {
    /// Staging memory of at most this many bytes, but with at least a few chunks of each size.
    pub(super) fn new(driver: Arc<dyn Driver>, bytes: u64) -> Staging {
        let pool = |chunk_bytes: usize, share: u64| Pool {
            chunk_bytes,
            most: usize::try_from(share).unwrap_or(usize::MAX).checked_div(chunk_bytes).unwrap_or(0).max(2 * AHEAD),
            state: Mutex::default(),
            returned: Condvar::new(),
        };
        let pools = [pool(CHUNK_BYTES[0], bytes / 8), pool(CHUNK_BYTES[1], bytes - bytes / 8)];
        let [uploaded, downloaded, tables, weights, faults] = Default::default();
        Staging { driver, pools, uploaded, downloaded, tables, weights, faults }
    }

    /// The bytes copied so far.
    pub(super) fn copied(&self) -> Copied {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Copied {
            uploaded_bytes: of(&self.uploaded),
            downloaded_bytes: of(&self.downloaded),
            table_bytes: of(&self.tables),
            weight_bytes: of(&self.weights),
            fault_bytes: of(&self.faults),
        }
    }

    /// Queues a copy to the device.
    ///
    /// # Safety
    /// This many bytes of device memory at `to` stay allocated until [`Stream::In`] has done the copy.
    #[allow(unsafe_code)]
    pub(super) unsafe fn upload(&self, to: u64, bytes: &[u8], purpose: Purpose) -> Outcome<()> {
        let source = |at: usize, place: &mut [u8]| {
            place.copy_from_slice(&bytes[at..at + place.len()]);
            Ok(())
        };
        // SAFETY: by this function's contract.
        unsafe { self.upload_from(to, bytes.len(), &source, purpose) }
    }

    /// Queues a copy to the device of the data that `source` gives: it gets the offset of a part and writes all of that part.
    /// Several threads call it.
    ///
    /// Errors: those of `source`; some parts may be queued by then.
    ///
    /// # Safety
    /// As for [`Staging::upload`].
    #[allow(unsafe_code)]
    pub(super) unsafe fn upload_from(
        &self,
        to: u64,
        bytes: usize,
        source: &Source<'_>,
        purpose: Purpose,
    ) -> Outcome<()> {
        let pool = self.pool(bytes);
        let section = |range: Range<usize>| -> Outcome<()> {
            for start in range.clone().step_by(pool.chunk_bytes) {
                let length = (range.end - start).min(pool.chunk_bytes);
                let chunk = pool.take(&*self.driver)?;
                // SAFETY: only this call uses the chunk, it is long enough, and at least the system's zeros initialise it.
                let place = unsafe { std::slice::from_raw_parts_mut(chunk.address as *mut u8, length) };
                if let Err(failure) = source(start, place) {
                    chunk.put();
                    return Err(failure);
                }
                // SAFETY: the caller's memory holds the part; the chunk is reused only after an event that follows the copy.
                let queued = unsafe { self.driver.copy_in(to + start as u64, chunk.address, length) };
                let event = queued.and_then(|()| Event::record(&self.driver, Stream::In))?;
                chunk.send(event);
            }
            Ok(())
        };
        let helpers = Helpers::of(bytes);
        helpers.share(sections(bytes, helpers.lanes(), pool.chunk_bytes), &section)?;
        let counter = match purpose {
            Purpose::Tensor => &self.uploaded,
            Purpose::Weights => &self.weights,
            Purpose::Table | Purpose::Fault => &self.tables,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Copies from the device and waits for it. All of `bytes` is written, unless it fails.
    ///
    /// # Safety
    /// This many bytes of device memory at `from` are allocated, and work that [`Stream::Out`] waits for has written them.
    #[allow(unsafe_code)]
    pub(super) unsafe fn download(&self, from: u64, bytes: &mut [MaybeUninit<u8>], purpose: Purpose) -> Outcome<()> {
        let (length, pool) = (bytes.len(), self.pool(bytes.len()));
        let helpers = Helpers::of(length);
        let mut parts = Vec::with_capacity(helpers.lanes());
        let mut rest = bytes;
        for range in sections(length, helpers.lanes(), pool.chunk_bytes) {
            let (part, others) = rest.split_at_mut(range.len());
            parts.push((from + range.start as u64, part));
            rest = others;
        }
        // SAFETY: by this function's contract; each part is within the range.
        helpers.share(parts, &|(from, part)| unsafe { self.download_part(pool, from, part) })?;
        let counter = if purpose == Purpose::Tensor { &self.downloaded } else { &self.faults };
        counter.fetch_add(length as u64, Ordering::Relaxed);
        Ok(())
    }

    /// # Safety
    /// As for [`Staging::download`].
    #[allow(unsafe_code)]
    unsafe fn download_part(&self, pool: &Pool, from: u64, bytes: &mut [MaybeUninit<u8>]) -> Outcome<()> {
        let mut under_way: VecDeque<(&mut [MaybeUninit<u8>], Chunk<'_>, Event)> = VecDeque::new();
        let arrive = |(to, chunk, event): (&mut [MaybeUninit<u8>], Chunk<'_>, Event)| -> Outcome<()> {
            event.synchronize()?;
            // SAFETY: the copy into the chunk is done, and the chunk is at least as long as the part.
            unsafe {
                std::ptr::copy_nonoverlapping(chunk.address as *const u8, to.as_mut_ptr().cast(), to.len());
            }
            chunk.put();
            Ok(())
        };
        for (index, part) in bytes.chunks_mut(pool.chunk_bytes).enumerate() {
            // No thread waits for a chunk while it holds one.
            let chunk = match under_way.pop_front() {
                None => pool.take(&*self.driver)?,
                Some(first) => match pool.try_take(&*self.driver)? {
                    Some(chunk) => {
                        under_way.push_front(first);
                        chunk
                    }
                    None => {
                        arrive(first)?;
                        pool.take(&*self.driver)?
                    }
                },
            };
            let start = (index * pool.chunk_bytes) as u64;
            // SAFETY: the caller's memory holds the part; the chunk is kept until the event that follows the copy.
            unsafe {
                self.driver.copy_out(from + start, chunk.address, part.len())?;
            }
            let event = Event::record(&self.driver, Stream::Out)?;
            under_way.push_back((part, chunk, event));
            if under_way.len() == AHEAD
                && let Some(first) = under_way.pop_front()
            {
                arrive(first)?;
            }
        }
        under_way.into_iter().try_for_each(arrive)
    }

    fn pool(&self, bytes: usize) -> &Pool {
        &self.pools[usize::from(bytes > CHUNK_BYTES[0])]
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A free chunk; waits for one.
    fn take(&self, driver: &dyn Driver) -> Outcome<Chunk<'_>> {
        loop {
            if let Some(chunk) = self.try_take(driver)? {
                return Ok(chunk);
            }
            let mut state = self.state();
            // A thread that holds a chunk gives it back without taking another, so one becomes free.
            if state.free.is_empty() && state.under_way.is_empty() {
                // Checked again from time to time: memory for another chunk may be freed elsewhere.
                let patience = std::time::Duration::from_millis(50);
                self.returned.wait_for(&mut state, patience);
            }
        }
    }

    /// A chunk that is free, or is in use by a copy to the device until that ends; none where downloads hold all of them.
    fn try_take(&self, driver: &dyn Driver) -> Outcome<Option<Chunk<'_>>> {
        let chunk = |pinned: Pinned| Some(Chunk { pool: self, address: pinned.address, is_over: false });
        let mut state = self.state();
        if let Some(pinned) = state.free.pop() {
            return Ok(chunk(pinned));
        }
        let arrived = match state.under_way.front() {
            Some((_, event)) => event.is_done()?,
            None => false,
        };
        if !arrived && state.count < self.most {
            match driver.allocate_pinned(self.chunk_bytes) {
                Ok(pinned) => {
                    state.count += 1;
                    return Ok(chunk(pinned));
                }
                // The existing chunks must suffice.
                Err(Failure::OutOfMemory) if state.count > 0 => {}
                Err(failure) => return Err(failure),
            }
        }
        let Some((pinned, event)) = state.under_way.pop_front() else { return Ok(None) };
        drop(state);
        let taken = chunk(pinned);
        event.synchronize()?;
        Ok(taken)
    }
}

/// A chunk in use. One that is dropped without [`Chunk::put`] or [`Chunk::send`] is never used again, because a copy may still
/// run; another may then take its place.
struct Chunk<'a> {
    pool: &'a Pool,
    address: usize,
    is_over: bool,
}

impl Chunk<'_> {
    /// Gives it back: nothing uses it any more.
    fn put(mut self) {
        self.is_over = true;
        self.pool.state().free.push(Pinned { address: self.address });
        self.pool.returned.notify_one();
    }

    /// Gives it back: nothing uses it once the event's work is done.
    fn send(mut self, event: Event) {
        self.is_over = true;
        self.pool.state().under_way.push_back((Pinned { address: self.address }, event));
        self.pool.returned.notify_one();
    }
}

impl Drop for Chunk<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.pool.state().count -= 1;
            self.pool.returned.notify_all();
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for pool in &mut self.pools {
            let state = std::mem::take(pool.state.get_mut());
            let under_way =
                state.under_way.into_iter().filter_map(|(chunk, event)| event.synchronize().ok().map(|()| chunk));
            for chunk in state.free.into_iter().chain(under_way) {
                // SAFETY: nothing is queued for it any more.
                #[allow(unsafe_code)]
                let freed = unsafe { self.driver.free_pinned(chunk) };
                if let Err(failure) = freed {
                    tracing::warn!("pinned memory could not be given back: {failure}");
                }
            }
        }
    }
}
