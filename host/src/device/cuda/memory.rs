//! The memory of a CUDA tensor: a block of device memory, or the work to be queued to make it, and the faults that kernels may
//! have recorded while they made it; it never waits.

use super::allocator::Block;
use super::fused::Fused;
use crate::device::op::index_out_of_range;
use crate::device::{Charge, DType, DeviceMemory, Tensor};
use crate::error::{Error, Kind, Result};
use parking_lot::{Mutex, MutexGuard};
use std::any::Any;
use std::sync::{Arc, OnceLock};

/// A tensor's memory.
pub(super) struct CudaMemory {
    /// The block with the bytes, once the work that makes them is queued.
    block: OnceLock<Block>,
    /// The work that makes them, until it is queued.
    waiting: Mutex<Option<Fused>>,
    /// The faults that may affect them. A tensor made of another inherits the other's.
    pub(super) faults: Vec<Arc<Fault>>,
}

impl DeviceMemory for CudaMemory {
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl CudaMemory {
    /// Bytes that exist, or that queued work makes.
    pub(super) fn new(block: Block, faults: Vec<Arc<Fault>>) -> CudaMemory {
        CudaMemory { block: block.into(), waiting: Mutex::default(), faults }
    }

    /// Bytes that are made when they are needed.
    pub(super) fn later(fused: Fused, faults: Vec<Arc<Fault>>) -> CudaMemory {
        CudaMemory { block: OnceLock::new(), waiting: Mutex::new(Some(fused)), faults }
    }

    /// The memory of a tensor of this device.
    pub(super) fn of(tensor: &Tensor) -> Result<&CudaMemory> {
        let memory: &dyn Any = tensor.buffer().memory();
        let elsewhere = || Error::new(Kind::Internal, "the tensor does not lie on the CUDA device");
        memory.downcast_ref().ok_or_else(elsewhere)
    }

    /// The block with the bytes; the work that makes them is queued by then.
    ///
    /// Errors: `overloaded` where there is no memory for them; `unavailable`.
    pub(super) fn block(&self) -> Result<&Block> {
        if let Some(block) = self.block.get() {
            return Ok(block);
        }
        let mut waiting = self.lock();
        if let Some(fused) = &*waiting {
            let block = fused.queue()?;
            // Only the holder of the lock sets it.
            self.block.get_or_init(|| block);
            *waiting = None;
        }
        self.block.get().ok_or_else(|| Error::new(Kind::Internal, "a tensor of the CUDA device has no memory"))
    }

    /// The work that makes the bytes, as long as they were not needed.
    pub(super) fn waiting(&self) -> Option<Fused> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Fused>> {
        self.waiting.lock()
    }

    /// The address of a tensor's first element.
    pub(super) fn address(tensor: &Tensor) -> Result<u64> {
        Ok(CudaMemory::of(tensor)?.block()?.address() + tensor.byte_offset())
    }
}

/// An index out of range that a kernel found: two words on the device, which are read when a tensor that depends on them is
/// read.
pub(super) struct Fault {
    /// The lowest position of a wrong index in the list of indices, or all ones; and that index.
    pub(super) block: Block,
    /// The charge for it.
    pub(super) _charge: Charge,
    /// The operator.
    pub(super) operator: &'static str,
    /// The indices' dtype.
    pub(super) dtype: DType,
    /// The axis' length.
    pub(super) length: u64,
    /// The result, once it was read.
    pub(super) found: OnceLock<Option<(u64, i128)>>,
}

/// Bytes of a fault's words.
pub(super) const FAULT_BYTES: usize = 16;

impl Fault {
    /// Stores the two words.
    pub(super) fn note(&self, bytes: [u8; FAULT_BYTES]) {
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        let (at, bits) = (word(0), word(8));
        let index = if self.dtype == DType::U64 { i128::from(bits) } else { i128::from(bits.cast_signed()) };
        self.found.get_or_init(|| (at != u64::MAX).then_some((at, index)));
    }

    /// The error for the reader of the tensor, if there is one.
    pub(super) fn check(&self) -> Result<()> {
        match self.found.get() {
            Some(Some((at, index))) => Err(index_out_of_range(*at, *index, self.length).context(self.operator)),
            Some(None) | None => Ok(()),
        }
    }
}
