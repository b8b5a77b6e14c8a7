//! The parts of the device that an engine on this GPU uses: memory, each block charged before it is taken; the queue; the
//! addresses of tensors; and its outputs as tensors. It never runs a model.
//!
//! An engine's interface passes no context with a request for memory, so a thread's requests are charged to the account that the
//! thread was [lent](Cuda::lend). Memory may be given back on any thread.

use super::Cuda;
use super::allocator::Block;
use super::memory::CudaMemory;
use super::staging::Source;
use crate::device::{Account, Buffer, Charge, DType, Shape, Tensor};
use crate::error::{Error, Result};
use parking_lot::{Mutex, MutexGuard};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// The state of what a thread was lent.
#[derive(Clone)]
struct Lending {
    number: u64,
    device: Arc<Cuda>,
    account: Arc<Account>,
    /// Bytes left of those that are already charged elsewhere.
    covered: Arc<AtomicU64>,
    refusal: Arc<Mutex<Option<Error>>>,
}

thread_local! {
    static LENDING: RefCell<Option<Lending>> = const { RefCell::new(None) };
}

/// The blocks that engines hold, by address.
static TAKEN: LazyLock<Mutex<HashMap<usize, Taken>>> = LazyLock::new(Mutex::default);

static NUMBERS: AtomicU64 = AtomicU64::new(0);

struct Taken {
    block: Block,
    paid: Paid,
    /// The lending under which it was taken.
    number: u64,
}

/// The charge for a block; it ends when this is dropped.
struct Paid {
    covered_by: Arc<AtomicU64>,
    covered_bytes: u64,
    _charge: Option<Charge>,
}

impl Drop for Paid {
    fn drop(&mut self) {
        self.covered_by.fetch_add(self.covered_bytes, Ordering::Relaxed);
    }
}

impl Lending {
    /// The covered bytes are used first, then the account.
    fn take(&self, bytes: u64) -> Result<Taken> {
        let mut covered_bytes = 0;
        let cover = |left: u64| {
            covered_bytes = left.min(bytes);
            Some(left - covered_bytes)
        };
        // It never fails, because the closure always returns a number.
        let _ = self.covered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, cover);
        let mut paid = Paid { covered_by: Arc::clone(&self.covered), covered_bytes, _charge: None };
        if covered_bytes < bytes {
            paid._charge = Some(self.account.charge(bytes - covered_bytes)?);
        }
        Ok(Taken { block: self.device.core.take(bytes)?, paid, number: self.number })
    }
}

fn taken() -> MutexGuard<'static, HashMap<usize, Taken>> {
    TAKEN.lock()
}

impl Cuda {
    /// Takes device memory for the calling thread's engine: its address, or null where the thread was lent nothing or there is no
    /// room; [`Lent::refusal`] gives the reason.
    pub fn engine_allocate(bytes: usize) -> *mut c_void {
        // A clone: charging may unload models, whose memory is given back on this thread.
        let Ok(Some(lending)) = LENDING.try_with(|lending| lending.borrow().clone()) else {
            tracing::warn!("an engine asked for {bytes} bytes of device memory on a thread that was lent none");
            return std::ptr::null_mut();
        };
        match lending.take(bytes as u64) {
            Ok(block) => {
                let address = block.block.address() as usize;
                taken().insert(address, block);
                address as *mut c_void
            }
            Err(error) => {
                lending.refusal.lock().get_or_insert(error);
                std::ptr::null_mut()
            }
        }
    }

    /// Takes memory back from an engine, on any thread. A block that has become a tensor stays allocated.
    pub fn engine_free(address: *mut c_void) {
        let block = taken().remove(&address.addr());
        // It is dropped outside of the lock.
        drop(block);
    }

    /// The address of the queue in which operators run; an engine runs in it too.
    pub fn queue(&self) -> u64 {
        self.core.driver.queue()
    }

    /// The GPU's number.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Lends memory to the calling thread's engine, until the result is dropped: the first `covered_bytes` of what it holds at
    /// once are already charged, the rest is charged to `account`.
    ///
    /// Errors: `unavailable` once the device is lost.
    pub fn lend(&self, account: &Arc<Account>, covered_bytes: u64) -> Result<Lent<'_>> {
        self.core.check()?;
        let refusal = Arc::default();
        let lending = Lending {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            device: self.itself()?,
            account: Arc::clone(account),
            covered: Arc::new(AtomicU64::new(covered_bytes)),
            refusal: Arc::clone(&refusal),
        };
        let number = lending.number;
        let before = LENDING.with(|current| current.replace(Some(lending)));
        Ok(Lent { device: self, number, refusal, before, _thread: PhantomData })
    }

    /// The address of a tensor of this device; the work that makes it is queued by then.
    ///
    /// Errors: `internal` for a tensor elsewhere; `overloaded` for a tensor that was not yet made, if there is no memory.
    pub fn address(tensor: &Tensor) -> Result<u64> {
        CudaMemory::address(tensor)
    }
}

/// While it lives, the calling thread's engine may take memory of the device.
pub struct Lent<'a> {
    device: &'a Cuda,
    number: u64,
    refusal: Arc<Mutex<Option<Error>>>,
    before: Option<Lending>,
    // It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let before = self.before.take();
        let _ = LENDING.try_with(|current| current.replace(before));
    }
}

impl Lent<'_> {
    /// Memory for the engine, with undefined contents.
    pub(super) fn take(&self, bytes: u64) -> Result<Claimed> {
        let lending = LENDING.with(|current| current.borrow().clone());
        let lending = lending.ok_or_else(|| Error::new(crate::error::Kind::Internal, "nothing is lent"))?;
        let Taken { block, paid, .. } = lending.take(bytes)?;
        Ok(Claimed { block, _paid: Some(paid) })
    }

    /// Copies the data that `source` gives into memory of this many bytes, and waits until the copy is done.
    pub(super) fn fill(&self, memory: &Claimed, bytes: usize, source: &Source<'_>) -> Result<()> {
        self.device.core.load_in(&memory.block, bytes, source)
    }

    /// Why the engine was refused memory, if it was; given once.
    pub fn refusal(&self) -> Option<Error> {
        self.refusal.lock().take()
    }

    /// Takes over the data that the engine left at an address: the engine's own block where it was taken under this lending,
    /// else a copy, because the address may be that of an input tensor or a weight. The engine gives the address back
    /// afterwards, and before the result is dropped.
    ///
    /// Errors: `overloaded`; failures of the device.
    ///
    /// # Safety
    /// `address` is one of this device's, with this many bytes, which queued work writes and which stay until this returns.
    #[allow(unsafe_code)]
    pub unsafe fn claim(&self, address: u64, bytes: u64) -> Result<Claimed> {
        let own = {
            let mut taken = taken();
            let is_own = |found: &Taken| found.number == self.number && found.block.bytes() >= bytes;
            let key = address as usize;
            if bytes > 0 && taken.get(&key).is_some_and(is_own) { taken.remove(&key) } else { None }
        };
        if let Some(Taken { block, paid, .. }) = own {
            return Ok(Claimed { block, _paid: Some(paid) });
        }
        let block = self.device.core.take(bytes)?;
        if bytes > 0 {
            // SAFETY: the caller vouches for the source, which work in the same queue writes; the block has the same length.
            let copied = unsafe { self.device.core.driver.copy_within(address, block.address(), bytes) };
            self.device.core.told(copied)?;
        }
        Ok(Claimed { block, _paid: None })
    }

    /// A tensor of claimed memory. It inherits the faults of the inputs that it was made of.
    ///
    /// Errors: those of `account`; `internal` where `claimed` is shorter than dtype and shape require.
    pub fn tensor<'t>(
        &self,
        account: &Arc<Account>,
        dtype: DType,
        shape: Shape,
        claimed: Claimed,
        inputs: impl IntoIterator<Item = &'t Tensor>,
    ) -> Result<Tensor> {
        let bytes = shape.bytes(dtype).unwrap_or(u64::MAX);
        let Claimed { block, _paid: paid } = claimed;
        if bytes > block.bytes() {
            let message = format!("an engine left {} bytes for {dtype}{shape}", block.bytes());
            return Err(Error::new(crate::error::Kind::Internal, message));
        }
        drop(paid);
        let charge = account.charge(bytes)?;
        let memory = CudaMemory::new(block, Cuda::faults_of(inputs)?);
        Tensor::new(dtype, shape, Buffer::new(self.device.device()?, Box::new(memory), charge))
    }
}

/// Memory that an engine left, or that was taken for one.
pub struct Claimed {
    block: Block,
    _paid: Option<Paid>,
}

impl Claimed {
    /// The first byte's address.
    pub(super) fn address(&self) -> u64 {
        self.block.address()
    }
}
