//! The parts of CUDA that the device needs, behind one small trait: the real driver and, in tests, the kernels on the CPU; it
//! never decides when work is done.

use super::units::Unit;
use crate::error::{Error, Kind};
use std::fmt;
use std::sync::Arc;

/// Threads of every block; kernels are written for this number.
pub(super) const THREADS: u64 = 256;

/// Why a call to the driver failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is not enough device memory or pinned host memory.
    OutOfMemory,
    /// The device or its context is broken: no call works until the process is restarted.
    Lost(String),
    /// A file whose bytes were to be copied to the device could not be read.
    Unread(std::io::ErrorKind, String),
    /// Any other failure.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::OutOfMemory => f.write_str("out of memory"),
            Failure::Lost(why) => write!(f, "the device is lost: {why}"),
            Failure::Unread(_, why) | Failure::Failed(why) => f.write_str(why),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match &failure {
            Failure::OutOfMemory => Error::overloaded("the device has no memory left; try again later"),
            Failure::Lost(_) => Error::unavailable(failure.to_string()),
            Failure::Unread(kind, why) => {
                Error::storage("reading a model's weights", std::io::Error::new(*kind, why.clone()))
            }
            Failure::Failed(_) => Error::new(Kind::Internal, format!("CUDA: {failure}")),
        }
    }
}

/// The result of the driver's calls.
pub(super) type Outcome<T> = Result<T, Failure>;

/// A queue of work on the device. Work in one queue is done in order; work in two queues is ordered only by events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Kernels.
    Compute,
    /// Copies from the host.
    In,
    /// Copies to the host.
    Out,
}

/// Host memory that the device reads and writes directly.
#[derive(Debug)]
pub(super) struct Pinned {
    /// The first byte's address.
    pub(super) address: usize,
}

/// One product of matrices for a library: `matrices` of [rows, length] by [length, columns], row-major, with a given number of
/// elements from one matrix to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Multiplication {
    /// The element type's name.
    pub(super) element: &'static str,
    /// Addresses of a, b and the result.
    pub(super) addresses: [u64; 3],
    /// Rows, length and columns.
    pub(super) sizes: [u64; 3],
    /// The number of matrices.
    pub(super) matrices: u64,
    /// Elements between neighbouring matrices of a, b and the result.
    pub(super) strides: [u64; 3],
}

/// The calls of CUDA that the device makes. Any thread may make them. All except `allocate`, `load` and `synchronize` only
/// put work into a queue.
#[allow(unsafe_code)]
pub(super) trait Driver: Send + Sync {
    /// Takes device memory, aligned to 256 bytes, with undefined contents.
    fn allocate(&self, bytes: u64) -> Outcome<u64>;

    /// Gives device memory back.
    ///
    /// # Safety
    /// `address` came from [`Driver::allocate`], was not given back yet, and no queued work touches it.
    unsafe fn free(&self, address: u64) -> Outcome<()>;

    /// Takes pinned host memory.
    fn allocate_pinned(&self, bytes: usize) -> Outcome<Pinned>;

    /// Gives pinned memory back.
    ///
    /// # Safety
    /// No queued work touches it.
    unsafe fn free_pinned(&self, pinned: Pinned) -> Outcome<()>;

    /// Compiles a unit, or reads it from the kept code, and loads it.
    fn load(&self, unit: Unit) -> Outcome<u64>;

    /// A kernel of a loaded unit.
    fn function(&self, module: u64, name: &str) -> Outcome<u64>;

    /// Queues a kernel on [`Stream::Compute`]: blocks of [`THREADS`] threads, with the bytes of its one parameter.
    ///
    /// # Safety
    /// `parameters` are those of the kernel, and all memory it touches stays allocated until it has run.
    unsafe fn launch(&self, function: u64, blocks: u32, parameters: &[u8]) -> Outcome<()>;

    /// Queues on [`Stream::Compute`] that `bytes` bytes are set to `byte`.
    ///
    /// # Safety
    /// They are within memory that stays allocated until then.
    unsafe fn fill(&self, address: u64, byte: u8, bytes: u64) -> Outcome<()>;

    /// Queues a copy within the device on [`Stream::Compute`].
    ///
    /// # Safety
    /// Both sides hold this many bytes, do not overlap, and stay allocated until the copy is done.
    unsafe fn copy_within(&self, from: u64, to: u64, bytes: u64) -> Outcome<()>;

    /// Queues a copy to the device on [`Stream::In`].
    ///
    /// # Safety
    /// Both sides hold this many bytes and stay allocated until the copy is done; the host's side is not changed until then.
    unsafe fn copy_in(&self, to: u64, from: usize, bytes: usize) -> Outcome<()>;

    /// Queues a copy to the host on [`Stream::Out`].
    ///
    /// # Safety
    /// Both sides hold this many bytes and stay allocated until the copy is done; the host's side is not touched until then.
    unsafe fn copy_out(&self, from: u64, to: usize, bytes: usize) -> Outcome<()>;

    /// Records an event at the current end of a queue.
    fn record(&self, stream: Stream) -> Outcome<u64>;

    /// Makes a queue wait until the work before an event is done.
    fn wait(&self, stream: Stream, event: u64) -> Outcome<()>;

    /// Whether the work before an event is done.
    fn is_done(&self, event: u64) -> Outcome<bool>;

    /// Waits until the work before an event is done, and reports earlier failures on the device.
    fn synchronize(&self, event: u64) -> Outcome<()>;

    /// Drops an event.
    fn forget(&self, event: u64);

    /// The address of [`Stream::Compute`] for other libraries that queue work there; 0 where it has none.
    fn queue(&self) -> u64 {
        0
    }

    /// The size of the device memory that a library for matrix products needs.
    fn workspace_bytes(&self) -> u64 {
        0
    }

    /// Gives it that memory.
    ///
    /// # Safety
    /// The memory stays allocated as long as the driver is used.
    unsafe fn use_workspace(&self, _address: u64, _bytes: u64) -> Outcome<()> {
        Ok(())
    }

    /// Queues products of matrices on [`Stream::Compute`] where a library supports them; `false` where no library supports this
    /// element type.
    ///
    /// # Safety
    /// As for [`Driver::launch`].
    unsafe fn multiply(&self, product: &Multiplication) -> Outcome<bool>;
}

/// A mark in a queue.
pub(super) struct Event {
    driver: Arc<dyn Driver>,
    id: u64,
}

impl Event {
    /// Records a mark at the current end of a queue.
    pub(super) fn record(driver: &Arc<dyn Driver>, stream: Stream) -> Outcome<Event> {
        let id = driver.record(stream)?;
        Ok(Event { driver: Arc::clone(driver), id })
    }

    /// Makes a queue wait for this mark.
    pub(super) fn hold(&self, stream: Stream) -> Outcome<()> {
        self.driver.wait(stream, self.id)
    }

    /// Whether everything before the mark is done.
    pub(super) fn is_done(&self) -> Outcome<bool> {
        self.driver.is_done(self.id)
    }

    /// Waits until everything before the mark is done.
    pub(super) fn synchronize(&self) -> Outcome<()> {
        self.driver.synchronize(self.id)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.driver.forget(self.id);
    }
}
