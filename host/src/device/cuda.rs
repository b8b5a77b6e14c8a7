//! A CUDA GPU as a device: tensors are in its memory and operators are kernels in its queue; it never waits for the GPU,
//! except to read a tensor.
//!
//! Work is queued in the order of the calls, so a tensor is ready for every operator that is queued after the one that made
//! it. A few operators wait for the next one, which may do the work of both in one kernel ([`fused`]). Memory that is given back
//! is reused after the work that is queued on it. An error that a kernel finds (an index out of range) is returned when a tensor
//! that depends on it is read.

mod allocator;
mod core;
mod cublas;
mod driver;
mod engine;
mod fused;
mod gpu;
mod helpers;
mod libraries;
mod machine_code;
mod memory;
mod nvrtc;
mod parameters;
mod staging;
mod task;
mod units;
mod weights;

#[cfg(test)]
mod on_cpu;
#[cfg(test)]
mod tests;

pub use allocator::MemoryUse;
pub use engine::{Claimed, Lent};
pub use libraries::preload;
#[cfg(test)]
pub(crate) use on_cpu::OnCpu;
pub use staging::Copied;
pub use weights::DeviceWeights;

use self::core::Core;
use self::driver::{Driver, Failure};
use self::fused::Fused;
use self::gpu::Gpu;
use self::memory::CudaMemory;
use self::staging::Purpose;
use self::task::Task;
use super::{Account, Buffer, Cpu, DType, Device, HostMemory, Ledger, Plan, Shape, Stop, Tensor, Work};
use crate::config::{Config, Limits};
use crate::error::{Error, Kind, Result};
use crate::node_key::NodeKey;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// A GPU, `cuda:N`.
pub struct Cuda {
    me: Weak<Cuda>,
    name: String,
    ordinal: u32,
    architecture: u32,
    core: Core,
    ledger: Arc<Ledger>,
    limits: Limits,
    /// The CPU device that holds inputs for engines that run on the CPU; it shares the ledger.
    host: Arc<Cpu>,
}

/// The part of a GPU's free memory that is left to others: contexts, modules and engines take some outside of the ledger.
const LEFT_BYTES: u64 = 512 << 20;

impl Cuda {
    /// Opens the GPU with this number, counted from 0. Compiled kernels are kept in the data folder, signed with its key.
    ///
    /// Errors: `unavailable`, with the part that is missing: the driver, the GPU, or NVRTC.
    pub fn open(ordinal: u32, config: &Config, key: &NodeKey) -> Result<Arc<Cuda>> {
        let name = format!("cuda:{ordinal}");
        let missing = |why: String| Error::unavailable(format!("{name} cannot be used: {why}"));
        let gpu = Gpu::open(ordinal, config, key).map_err(missing)?;
        let told = gpu.describe().map_err(|failure: Failure| missing(failure.to_string()))?;
        let wanted = config.limits.device_bytes;
        let budget = wanted.min(told.free_bytes.saturating_sub(LEFT_BYTES));
        if budget < wanted {
            tracing::warn!(
                "{name} has {} bytes free, so {budget} are used instead of {wanted} (device_bytes)",
                told.free_bytes
            );
        }
        let (major, minor) = told.nvrtc;
        tracing::info!(
            gpu = told.name,
            total_bytes = told.total_bytes,
            architecture = told.architecture,
            nvrtc = format!("{major}.{minor}"),
            cublas = told.has_cublas,
            "tensors lie on {name}"
        );
        let ledger = Ledger::new(budget);
        Cuda::with(Arc::new(gpu), name, (ordinal, told.architecture), ledger, config.limits.clone())
    }

    fn with(
        driver: Arc<dyn Driver>,
        name: String,
        (ordinal, architecture): (u32, u32),
        ledger: Arc<Ledger>,
        limits: Limits,
    ) -> Result<Arc<Cuda>> {
        let core = Core::new(driver, &ledger, limits.staging_bytes)?;
        let host = Cpu::new(Arc::clone(&ledger), limits.clone());
        Ok(Arc::new_cyclic(|me| Cuda { me: Weak::clone(me), name, ordinal, architecture, core, ledger, limits, host }))
    }

    /// What the allocator holds.
    pub fn memory_use(&self) -> MemoryUse {
        self.core.allocator.counts()
    }

    /// Bytes copied between host and device so far.
    pub fn copied(&self) -> Copied {
        self.core.staging.copied()
    }

    /// The GPU's compute capability as one number: 90 for 9.0.
    pub fn architecture(&self) -> u32 {
        self.architecture
    }

    fn itself(&self) -> Result<Arc<Cuda>> {
        self.me.upgrade().ok_or_else(|| Error::new(Kind::Internal, "the CUDA device is shutting down"))
    }

    fn device(&self) -> Result<Arc<dyn Device>> {
        self.itself().map(|me| me as Arc<dyn Device>)
    }

    /// The faults that tensors made of these inherit, except faults that were already read and found empty.
    fn faults_of<'a>(inputs: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<Arc<memory::Fault>>> {
        let mut faults: Vec<Arc<memory::Fault>> = Vec::new();
        // Text is in host memory, and no kernel made it.
        for input in inputs.into_iter().filter(|input| input.dtype() != DType::Text) {
            for fault in &CudaMemory::of(input)?.faults {
                let settled = matches!(fault.found.get(), Some(None));
                if !settled && !faults.iter().any(|known| Arc::ptr_eq(known, fault)) {
                    faults.push(Arc::clone(fault));
                }
            }
        }
        Ok(faults)
    }
}

impl Device for Cuda {
    fn name(&self) -> &str {
        &self.name
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn cuda(&self) -> Option<&Cuda> {
        Some(self)
    }

    fn health(&self) -> Result<()> {
        self.core.check()
    }

    fn create(&self, account: &Arc<Account>, dtype: DType, shape: Shape, bytes: &[u8]) -> Result<Tensor> {
        self.core.check()?;
        super::cpu::check(dtype, &shape, bytes)?;
        let charge = account.charge(bytes.len() as u64)?;
        let block = self.core.take(bytes.len() as u64)?;
        if !bytes.is_empty() {
            self.core.upload(&block, bytes, Purpose::Tensor)?;
        }
        let memory = CudaMemory::new(block, Vec::new());
        Tensor::new(dtype, shape, Buffer::new(self.device()?, Box::new(memory), charge))
    }

    fn adopt(&self, account: &Arc<Account>, dtype: DType, shape: Shape, memory: Box<dyn HostMemory>) -> Result<Tensor> {
        self.create(account, dtype, shape, memory.bytes())
    }

    fn on_host(&self, account: &Arc<Account>, tensor: &Tensor) -> Result<Tensor> {
        if tensor.dtype() == DType::Text {
            return Ok(tensor.clone());
        }
        let bytes = self.read(tensor, 0..tensor.byte_length())?;
        self.host.adopt(account, tensor.dtype(), tensor.shape().clone(), Box::new(bytes))
    }

    fn read(&self, tensor: &Tensor, range: Range<u64>) -> Result<Vec<u8>> {
        if tensor.dtype() == DType::Text {
            return Err(Error::unsupported("a tensor of text has no bytes; read its strings"));
        }
        let range = tensor.buffer_range(range)?;
        self.core.check()?;
        let memory = CudaMemory::of(tensor)?;
        memory.faults.iter().try_for_each(|fault| self.core.settle(fault))?;
        let length = (range.end - range.start) as usize;
        let mut bytes: Vec<u8> = Vec::new();
        bytes
            .try_reserve_exact(length)
            .map_err(|_| Error::overloaded(format!("no memory for {length} bytes; try again later")))?;
        if length > 0 {
            let room = &mut bytes.spare_capacity_mut()[..length];
            self.core.download(memory.block()?.address() + range.start, room, Purpose::Tensor)?;
        }
        // SAFETY: the download wrote all of them.
        #[allow(unsafe_code)]
        unsafe {
            bytes.set_len(length);
        }
        Ok(bytes)
    }

    fn execute(&self, account: &Arc<Account>, plan: &Plan, inputs: &[&Tensor], stop: &Stop) -> Result<Vec<Tensor>> {
        self.core.check()?;
        let device = self.device()?;
        let mut faults = Cuda::faults_of(inputs.iter().copied())?;
        if let Some(fused) = Fused::of(plan, inputs)?
            && let Some((dtype, shape)) = plan.outputs.first()
        {
            let charge = account.charge(shape.bytes(*dtype).unwrap_or(0))?;
            let memory = CudaMemory::later(fused, faults);
            return Ok(vec![Tensor::new(*dtype, shape.clone(), Buffer::new(device, Box::new(memory), charge))?]);
        }
        let mut results = Vec::with_capacity(plan.outputs.len());
        for (dtype, shape) in &plan.outputs {
            let bytes = shape.bytes(*dtype).unwrap_or(0);
            let charge = account.charge(bytes)?;
            results.push((self.core.take(bytes)?, charge));
        }
        let addresses: Vec<u64> = results.iter().map(|(block, _)| block.address()).collect();
        let mut task = Task::new(&self.core, account, stop, plan, inputs, &addresses)?;
        // Indices are checked even where there is nothing to gather.
        let checks = matches!(plan.work, Work::Gather { .. } | Work::OneHot { .. });
        if checks || plan.outputs.iter().any(|(_, shape)| shape.elements() > 0) {
            task.queue()?;
        }
        faults.extend(task.into_faults());
        let outputs = plan.outputs.iter().zip(results);
        outputs
            .map(|((dtype, shape), (block, charge))| {
                let memory = CudaMemory::new(block, faults.clone());
                Tensor::new(*dtype, shape.clone(), Buffer::new(Arc::clone(&device), Box::new(memory), charge))
            })
            .collect()
    }
}

/// The devices that the table of operators runs on besides the CPU: the kernels built for the CPU, and GPU 0 where there is
/// one. Without a C++ compiler the kernels are skipped, unless `HEARTH_REQUIRE_REFERENCES` is 1; without a GPU the GPU is
/// skipped, unless `HEARTH_REQUIRE_GPU` is 1.
#[cfg(test)]
pub(super) fn test_devices() -> Vec<Arc<dyn Device>> {
    let required = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();
    match on_cpu::build_all() {
        Ok(()) => devices.push(on_cpu::OnCpu::new(false).device(1 << 30)),
        Err(why) if !on_cpu::has_compiler() && !required("HEARTH_REQUIRE_REFERENCES") => {
            eprintln!("skipped, kernels were not built for the CPU: {why}");
        }
        Err(why) => panic!("{why}"),
    }
    let data = std::env::temp_dir().join("hearth-kernels");
    let raw = crate::config::RawConfig {
        data: Some(data),
        nvrtc_lib: std::env::var_os("HEARTH_NVRTC_LIB").map(Into::into),
        ..Default::default()
    };
    devices.extend(gpu_if_there(&raw.resolve().unwrap()).map(|gpu| gpu as Arc<dyn Device>));
    devices
}

/// GPU 0; `None` where there is none, unless `HEARTH_REQUIRE_GPU` is 1.
#[cfg(test)]
pub(crate) fn gpu_if_there(config: &Config) -> Option<Arc<Cuda>> {
    let tell = |error: &Error| {
        assert!(std::env::var_os("HEARTH_REQUIRE_GPU").is_none_or(|value| value != "1"), "{error}");
        eprintln!("skipped, no GPU: {error}");
    };
    // Tests share a folder, and the first of them makes its key.
    static OPENING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _opening = OPENING.lock();
    let made = std::fs::create_dir_all(&config.data).map_err(|error| Error::storage("making a data folder", error));
    let key = made.and_then(|()| NodeKey::open(&config.data));
    key.and_then(|key| Cuda::open(0, config, &key)).inspect_err(tell).ok()
}
