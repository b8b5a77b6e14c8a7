//! Tensors, the operators on them and the memory they take, behind one `Device` trait; it never knows guests, HTTP or
//! models.

mod cpu;
#[cfg(feature = "server")]
mod cuda;
mod decode;
mod dtype;
mod ledger;
mod op;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod reference_tests;
mod resample;
mod shape;
mod stop;
#[cfg(test)]
mod stop_tests;
mod tensor;
mod text;

pub use cpu::Cpu;
#[cfg(feature = "server")]
pub use cuda::{Claimed, Copied, Cuda, DeviceWeights, Lent, MemoryUse, preload};
#[cfg(all(test, feature = "server"))]
pub(crate) use cuda::{OnCpu, gpu_if_there};
pub use decode::decode_image;
pub use dtype::DType;
pub use ledger::{Account, Charge, Ledger, Owner, OwnerKind, Reclaim};
pub use op::{
    Arithmetic, Broadcast, Comparison, Coordinates, Cost, ImageLayout, Interpolation, Logical, Op, PadMode, Plan,
    Reduction, Resize, Rounding, SliceRange, StridedCopy, Suppression, Unary, Work,
};
pub use shape::Shape;
pub use stop::Stop;
pub use tensor::{Buffer, DeviceMemory, HostMemory, Tensor};
#[cfg(feature = "server")]
pub(crate) use text::charge_strings;

use crate::config::Limits;
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

// Sizes are u64 in plans and usize in host memory; a shape that was checked fits both.
const _: () = assert!(usize::BITS == 64, "hearth needs a 64-bit host");

/// Opens the device that the configuration asks for, with a ledger of its own. `key` is that of the data folder, with which the
/// kernels of a GPU are signed.
///
/// With `auto` the first GPU is taken where there is one that works, and otherwise the CPU.
///
/// Errors: `unavailable` when a GPU was asked for by name and something is missing; the message says what.
#[cfg(feature = "server")]
pub fn open(config: &crate::config::Config, key: &crate::node_key::NodeKey) -> Result<Arc<dyn Device>> {
    use crate::config::DeviceChoice;
    let cpu = || Cpu::new(Ledger::new(config.limits.device_bytes), config.limits.clone()) as Arc<dyn Device>;
    match config.device {
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Cuda(ordinal) => Ok(Cuda::open(ordinal, config, key)?),
        DeviceChoice::Auto => match Cuda::open(0, config, key) {
            Ok(cuda) => Ok(cuda),
            Err(error) => {
                tracing::info!("tensors lie in host memory: {}", error.message());
                Ok(cpu())
            }
        },
    }
}

/// Memory and operators. Callers hold it as `Arc<dyn Device>` and know nothing else about it.
///
/// Every method that makes a tensor charges the account before it allocates, and fails with `limit-exceeded` (the
/// account) or `overloaded` (the device) when the bytes do not fit.
pub trait Device: Send + Sync {
    /// The device's name: `cpu`, `cuda:0`, …
    fn name(&self) -> &str;

    /// Who owns which bytes of this device.
    fn ledger(&self) -> &Arc<Ledger>;

    /// The server's limits, for what no invocation's own limits bound.
    fn limits(&self) -> &Limits;

    /// The GPU that this device is, for an engine that runs on it.
    #[cfg(feature = "server")]
    fn cuda(&self) -> Option<&Cuda> {
        None
    }

    /// Whether the device can be used; what reads `/readyz` asks.
    ///
    /// Errors: `unavailable` with the reason once it is lost.
    fn health(&self) -> Result<()> {
        Ok(())
    }

    /// Makes a tensor from row-major little-endian bytes.
    ///
    /// Errors: `invalid-argument` when `bytes` is not exactly as long as dtype and shape say, when a boolean is neither
    /// 0 nor 1, or when dtype is text.
    fn create(&self, account: &Arc<Account>, dtype: DType, shape: Shape, bytes: &[u8]) -> Result<Tensor>;

    /// Makes a tensor from host memory that someone else allocated, such as an engine's output, without a copy where
    /// the device can use it in place. Its length must be that of dtype and shape; booleans must be 0 or 1.
    fn adopt(&self, account: &Arc<Account>, dtype: DType, shape: Shape, memory: Box<dyn HostMemory>) -> Result<Tensor>;

    /// The tensor in host memory, for engines that run there: the tensor itself where it lies there, else a copy that the
    /// account pays for.
    ///
    /// Errors: those of [`Device::read`] and [`Device::adopt`].
    fn on_host(&self, _account: &Arc<Account>, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    /// Waits for the tensor and copies a range of its bytes to the host.
    ///
    /// Errors: `invalid-argument` when the range does not lie within the tensor; what the device found while computing
    /// it.
    fn read(&self, tensor: &Tensor, range: Range<u64>) -> Result<Vec<u8>>;

    /// Does planned work; `inputs` are those that were planned for. Callers use [`Device::perform`] or [`Device::run`].
    fn execute(&self, account: &Arc<Account>, plan: &Plan, inputs: &[&Tensor], stop: &Stop) -> Result<Vec<Tensor>>;

    /// Plans an operator for these inputs and checks it against the caller's limits; allocates nothing.
    ///
    /// Errors: those of [`Op::plan`]; `unsupported` when an input lies on another device.
    fn plan(&self, op: &Op, inputs: &[&Tensor], limits: &Limits) -> Result<Plan> {
        for tensor in inputs {
            if !std::ptr::addr_eq(Arc::as_ptr(tensor.device()), self) {
                let (there, here) = (tensor.device().name(), self.name());
                return Err(Error::unsupported(format!("an input lies on {there}, but the operator runs on {here}")));
            }
        }
        let described: Vec<_> = inputs.iter().map(|tensor| (tensor.dtype(), tensor.shape())).collect();
        op.plan(&described, limits)
    }

    /// Enqueues what was planned for these inputs. A device of host memory computes at once.
    ///
    /// Errors: `limit-exceeded` and `overloaded`; `deadline-exceeded` and `cancelled` from `stop`.
    fn perform(&self, account: &Arc<Account>, plan: &Plan, inputs: &[&Tensor], stop: &Stop) -> Result<Vec<Tensor>> {
        stop.check()?;
        let (offsets, Some(tensor)) = (plan.work.views(), inputs.first()) else {
            return self.execute(account, plan, inputs, stop);
        };
        match offsets {
            [] => self.execute(account, plan, inputs, stop),
            offsets => {
                let views = offsets.iter().zip(&plan.outputs);
                views.map(|(offset, (_, shape))| tensor.view(*offset, shape.clone())).collect()
            }
        }
    }

    /// Plans and performs an operator under the caller's limits.
    fn run(
        &self,
        account: &Arc<Account>,
        op: &Op,
        inputs: &[&Tensor],
        limits: &Limits,
        stop: &Stop,
    ) -> Result<Vec<Tensor>> {
        self.perform(account, &self.plan(op, inputs, limits)?, inputs, stop)
    }
}
