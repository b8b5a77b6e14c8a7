//! What the device needs of CUDA, behind one small trait: the real driver and, in tests, the kernels on the CPU; it never
//! decides when work is done.

use super::units::Unit;
use crate::error::{Error, Kind};
use std::fmt;
use std::sync::Arc;

/// Threads of every block; kernels are written for it.
pub(super) const THREADS: u64 = 256;

/// Why a call of the driver failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no device memory, or no pinned host memory, of that size.
    OutOfMemory,
    /// The device or its context is broken: nothing works any more until the process starts anew.
    Lost(String),
    /// A file whose bytes were to go to the device could not be read.
    Unread(std::io::ErrorKind, String),
    /// Anything else.
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

/// What the driver's calls give.
pub(super) type Outcome<T> = Result<T, Failure>;

/// A queue of work on the device; work of one queue is done in order, that of two only where an event says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Kernels.
    Compute,
    /// Copies from the host.
    In,
    /// Copies to the host.
    Out,
}

/// Host memory that the device reads and writes by itself.
#[derive(Debug)]
pub(super) struct Pinned {
    /// The first byte's address.
    pub(super) address: usize,
}

/// One product of matrices for a library: `matrices` of [rows, length] by [length, columns], row-major, with so many
/// elements from one matrix to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Multiplication {
    /// The element type's name.
    pub(super) element: &'static str,
    /// Addresses of a, b and the result.
    pub(super) addresses: [u64; 3],
    /// Rows, length and columns.
    pub(super) sizes: [u64; 3],
    /// How many matrices.
    pub(super) matrices: u64,
    /// Elements between neighbouring matrices of a, b and the result.
    pub(super) strides: [u64; 3],
}

/// The calls of CUDA that the device makes. Any thread may make them. All but `allocate`, `load` and `synchronize` only
/// put work into a queue.
#[allow(unsafe_code)]
pub(super) trait Driver: Send + Sync {
    /// Takes device memory, aligned to 256 bytes, with anything in it.
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

    /// Compiles a unit, or takes it from where it was kept, and loads it.
    fn load(&self, unit: Unit) -> Outcome<u64>;

    /// A kernel of a loaded unit.
    fn function(&self, module: u64, name: &str) -> Outcome<u64>;

    /// Queues a kernel on [`Stream::Compute`]: blocks of [`THREADS`] threads, with the bytes of its one parameter.
    ///
    /// # Safety
    /// `parameters` are those of the kernel, and all memory it touches stays taken until it ran.
    unsafe fn launch(&self, function: u64, blocks: u32, parameters: &[u8]) -> Outcome<()>;

    /// Queues on [`Stream::Compute`] that `bytes` bytes become `byte`.
    ///
    /// # Safety
    /// They lie within memory that stays taken until then.
    unsafe fn fill(&self, address: u64, byte: u8, bytes: u64) -> Outcome<()>;

    /// Queues a copy within the device on [`Stream::Compute`].
    ///
    /// # Safety
    /// Both sides hold so many bytes, do not overlap, and stay taken until it ran.
    unsafe fn copy_within(&self, from: u64, to: u64, bytes: u64) -> Outcome<()>;

    /// Queues a copy to the device on [`Stream::In`].
    ///
    /// # Safety
    /// Both sides hold so many bytes, and stay taken and (the host's) unchanged until it ran.
    unsafe fn copy_in(&self, to: u64, from: usize, bytes: usize) -> Outcome<()>;

    /// Queues a copy to the host on [`Stream::Out`].
    ///
    /// # Safety
    /// Both sides hold so many bytes, and stay taken and (the host's) untouched until it ran.
    unsafe fn copy_out(&self, from: u64, to: usize, bytes: usize) -> Outcome<()>;

    /// Marks the end of what a queue holds now.
    fn record(&self, stream: Stream) -> Outcome<u64>;

    /// Lets a queue go on only after what an event marks is done.
    fn wait(&self, stream: Stream, event: u64) -> Outcome<()>;

    /// Whether what an event marks is done.
    fn is_done(&self, event: u64) -> Outcome<bool>;

    /// Waits until what an event marks is done, and tells what went wrong on the device before.
    fn synchronize(&self, event: u64) -> Outcome<()>;

    /// Drops an event.
    fn forget(&self, event: u64);

    /// The address of [`Stream::Compute`] for others that queue work there; 0 where it has none.
    fn queue(&self) -> u64 {
        0
    }

    /// Device memory that a library of products wants to work in.
    fn workspace_bytes(&self) -> u64 {
        0
    }

    /// Gives it that memory.
    ///
    /// # Safety
    /// The memory stays taken as long as the driver is used.
    unsafe fn use_workspace(&self, _address: u64, _bytes: u64) -> Outcome<()> {
        Ok(())
    }

    /// Queues products of matrices on [`Stream::Compute`] where a library does them; `false` where there is none for this
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
    /// Marks the end of what a queue holds now.
    pub(super) fn record(driver: &Arc<dyn Driver>, stream: Stream) -> Outcome<Event> {
        let id = driver.record(stream)?;
        Ok(Event { driver: Arc::clone(driver), id })
    }

    /// Lets a queue go on only after this mark.
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
