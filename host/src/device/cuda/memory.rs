//! What lies behind a CUDA tensor: a block of device memory, or what is to be queued to make it, and what kernels may have found
//! wrong while they made it; it never waits.

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
    /// The bytes, once what makes them is queued.
    block: OnceLock<Block>,
    /// What makes them, until then.
    waiting: Mutex<Option<Fused>>,
    /// What may be wrong with them. A tensor made of another has the other's too.
    pub(super) faults: Vec<Arc<Fault>>,
}

impl DeviceMemory for CudaMemory {
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl CudaMemory {
    /// Bytes that are there, or that queued work makes.
    pub(super) fn new(block: Block, faults: Vec<Arc<Fault>>) -> CudaMemory {
        CudaMemory { block: block.into(), waiting: Mutex::default(), faults }
    }

    /// Bytes that are made when somebody needs them.
    pub(super) fn later(fused: Fused, faults: Vec<Arc<Fault>>) -> CudaMemory {
        CudaMemory { block: OnceLock::new(), waiting: Mutex::new(Some(fused)), faults }
    }

    /// The memory of a tensor of this device.
    pub(super) fn of(tensor: &Tensor) -> Result<&CudaMemory> {
        let memory: &dyn Any = tensor.buffer().memory();
        let elsewhere = || Error::new(Kind::Internal, "the tensor does not lie on the CUDA device");
        memory.downcast_ref().ok_or_else(elsewhere)
    }

    /// The block with the bytes; what makes them is queued by now.
    ///
    /// Errors: `overloaded` where there is no memory for them; `unavailable`.
    pub(super) fn block(&self) -> Result<&Block> {
        if let Some(block) = self.block.get() {
            return Ok(block);
        }
        let mut waiting = self.lock();
        if let Some(fused) = &*waiting {
            let block = fused.queue()?;
            // Whoever sets it holds the lock.
            self.block.get_or_init(|| block);
            *waiting = None;
        }
        self.block.get().ok_or_else(|| Error::new(Kind::Internal, "a tensor of the CUDA device has no memory"))
    }

    /// What makes the bytes, while nobody has needed them.
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

/// An index that a kernel found to mean no place: two words on the device, which are looked at when someone reads a tensor
/// that was made with it.
pub(super) struct Fault {
    /// The least place in the list of indices that is wrong, or all ones, and what the index there is.
    pub(super) block: Block,
    /// Who pays for it.
    pub(super) _charge: Charge,
    /// The operator.
    pub(super) operator: &'static str,
    /// The indices' dtype.
    pub(super) dtype: DType,
    /// The axis' length.
    pub(super) length: u64,
    /// What was found, once somebody looked.
    pub(super) found: OnceLock<Option<(u64, i128)>>,
}

/// Bytes of a fault's words.
pub(super) const FAULT_BYTES: usize = 16;

impl Fault {
    /// Notes the two words.
    pub(super) fn note(&self, bytes: [u8; FAULT_BYTES]) {
        let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        let (at, bits) = (word(0), word(8));
        let index = if self.dtype == DType::U64 { i128::from(bits) } else { i128::from(bits.cast_signed()) };
        self.found.get_or_init(|| (at != u64::MAX).then_some((at, index)));
    }

    /// The error for whoever reads the tensor, if there is one.
    pub(super) fn check(&self) -> Result<()> {
        match self.found.get() {
            Some(Some((at, index))) => Err(index_out_of_range(*at, *index, self.length).context(self.operator)),
            Some(None) | None => Ok(()),
        }
    }
}
