//! The state that all work on the device shares: the driver, its memory, the loaded units, and whether the device is lost; it
//! never knows an operator.

use super::allocator::{Allocator, Block};
use super::driver::{Driver, Event, Failure, Outcome, Stream, THREADS};
use super::memory::{FAULT_BYTES, Fault};
use super::staging::{Purpose, Source, Staging};
use super::units::Unit;
use crate::device::{Charge, Ledger, Owner};
use crate::error::{Error, Result};
use bytemuck::Pod;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

/// A device that is in use.
pub(super) struct Core {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) allocator: Arc<Allocator>,
    pub(super) staging: Staging,
    ledger: Arc<Ledger>,
    units: Mutex<HashMap<Unit, Arc<Loaded>>>,
    lost: OnceLock<String>,
    /// The memory in which the library for matrix products works.
    _workspace: Option<(Block, Charge)>,
}

/// A unit that is loaded, or is being loaded by the thread that holds the lock.
#[derive(Default)]
struct Loaded {
    module: Mutex<Option<u64>>,
    functions: Mutex<HashMap<&'static str, u64>>,
}

/// The most blocks in a launch.
const MOST_BLOCKS: u64 = i32::MAX as u64;

impl Core {
    /// A device with the ledger's budget of memory, and pinned memory for copies.
    pub(super) fn new(driver: Arc<dyn Driver>, ledger: &Arc<Ledger>, staging_bytes: u64) -> Result<Core> {
        let allocator = Allocator::new(Arc::clone(&driver), ledger.budget_bytes());
        let staging = Staging::new(Arc::clone(&driver), staging_bytes);
        let bytes = driver.workspace_bytes();
        let workspace = match bytes {
            0 => None,
            _ => {
                let charge = ledger.account(Owner::Workspace, bytes, 0).charge(bytes)?;
                let block = allocator.take(bytes)?;
                // SAFETY: the block is kept as long as the core, through which all work is queued.
                #[allow(unsafe_code)]
                unsafe { driver.use_workspace(block.address(), bytes) }?;
                Some((block, charge))
            }
        };
        let (ledger, units, lost) = (Arc::clone(ledger), Mutex::default(), OnceLock::new());
        Ok(Core { driver, allocator, staging, ledger, units, lost, _workspace: workspace })
    }

    /// Checks that the device is not lost.
    ///
    /// Errors: `unavailable` with the reason once it is lost.
    pub(super) fn check(&self) -> Result<()> {
        match self.lost.get() {
            Some(why) => Err(Failure::Lost(why.clone()).into()),
            None => Ok(()),
        }
    }

    /// The error for the caller; records that the device is lost, if it is.
    pub(super) fn told<T>(&self, outcome: Outcome<T>) -> Result<T> {
        outcome.map_err(|failure| {
            if let Failure::Lost(why) = &failure
                && self.lost.set(why.clone()).is_ok()
            {
                self.allocator.lose();
                tracing::error!("the CUDA device is lost: {why}; restart the server");
            }
            Error::from(failure)
        })
    }

    /// Device memory of at least this many bytes. The caller charges it first.
    pub(super) fn take(&self, bytes: u64) -> Result<Block> {
        loop {
            match self.allocator.take(bytes) {
                // The ledger has room, but not for the bytes that rounding to block sizes adds.
                Err(Failure::OutOfMemory) if bytes <= self.ledger.budget_bytes() && self.ledger.make_room(bytes) => {}
                taken => return self.told(taken),
            }
        }
    }

    /// Queues a copy into a block, before all kernels that are queued from now on.
    pub(super) fn upload(&self, block: &Block, bytes: &[u8], purpose: Purpose) -> Result<()> {
        // SAFETY: the block is as long as what was asked for when it was taken. Dropping it only lets memory be used again by
        // kernels, which wait for the copy by the event of `queued_in`, or by copies, which come after it.
        #[allow(unsafe_code)]
        self.queued_in(block, || unsafe { self.staging.upload(block.address(), bytes, purpose) })
    }

    /// Copies the data that `source` gives into a block of this many bytes, and waits until the copy is done.
    pub(super) fn load_in(&self, block: &Block, bytes: usize, source: &Source<'_>) -> Result<()> {
        // SAFETY: as for `upload`.
        #[allow(unsafe_code)]
        self.queued_in(block, || unsafe {
            self.staging.upload_from(block.address(), bytes, source, Purpose::Weights)
        })?;
        self.told(Event::record(&self.driver, Stream::In).and_then(|event| event.synchronize()))
    }

    /// Queues copies into a block between the kernels that used it before and those that are queued from now on.
    fn queued_in(&self, block: &Block, queue: impl FnOnce() -> Outcome<()>) -> Result<()> {
        let queued = block.hold_copies().and_then(|()| queue());
        let held = Event::record(&self.driver, Stream::In).and_then(|event| event.hold(Stream::Compute));
        if held.is_err() {
            // Nothing orders the copy and later work any more.
            self.told(held.map_err(|failure| Failure::Lost(failure.to_string())))?;
        }
        self.told(queued)
    }

    /// Waits for all kernels queued so far, and copies their result from the device.
    /// All of `bytes` is written, unless it fails.
    pub(super) fn download(&self, from: u64, bytes: &mut [MaybeUninit<u8>], purpose: Purpose) -> Result<()> {
        let held = Event::record(&self.driver, Stream::Compute).and_then(|event| event.hold(Stream::Out));
        self.told(held)?;
        // SAFETY: callers hold a tensor or a fault with these bytes until this returns; the queue waits for the kernels.
        #[allow(unsafe_code)]
        let copied = unsafe { self.staging.download(from, bytes, purpose) };
        self.told(copied)
    }

    /// Reads the faults that kernels recorded, unless they were read before.
    ///
    /// Errors: `invalid-argument` for a wrong index.
    pub(super) fn settle(&self, fault: &Fault) -> Result<()> {
        if fault.found.get().is_none() {
            let mut words = [MaybeUninit::new(0); FAULT_BYTES];
            self.download(fault.block.address(), &mut words, Purpose::Fault)?;
            // SAFETY: they were zeros, and now hold the device's data.
            #[allow(unsafe_code)]
            fault.note(words.map(|word| unsafe { word.assume_init() }));
        }
        fault.check()
    }

    /// Queues a kernel.
    pub(super) fn launch<P: Pod>(&self, unit: Unit, name: &'static str, blocks: u64, parameters: &P) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        if blocks > MOST_BLOCKS {
            return Err(Error::too_large(format!(
                "{name}: it takes {blocks} blocks of threads at once; split the work"
            )));
        }
        let function = self.function(unit, name)?;
        // SAFETY: `parameters` has the layout of the kernel's own (the tests compare the sizes), and the memory it names
        // belongs to tensors and scratch. It returns to the allocator before it is freed, and is handed only to work that
        // is queued after this.
        #[allow(unsafe_code)]
        let queued = unsafe { self.driver.launch(function, blocks as u32, bytemuck::bytes_of(parameters)) };
        self.told(queued)
    }

    fn function(&self, unit: Unit, name: &'static str) -> Result<u64> {
        let loaded = Arc::clone(lock(&self.units).entry(unit).or_default());
        if let Some(function) = lock(&loaded.functions).get(name) {
            return Ok(*function);
        }
        // One caller compiles; others that need the same unit wait for it.
        let mut module = lock(&loaded.module);
        let handle = match *module {
            Some(handle) => handle,
            None => *module.insert(self.told(self.driver.load(unit))?),
        };
        drop(module);
        let function = self.told(self.driver.function(handle, name))?;
        lock(&loaded.functions).insert(name, function);
        Ok(function)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
    mutex.lock()
}

/// The number of blocks for this many threads.
pub(super) fn blocks_of(threads: u64) -> u64 {
    threads.div_ceil(THREADS)
}
