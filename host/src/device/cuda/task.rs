//! One operator on the device: turns its work into launches with their parameters; it never waits for them.

mod elements;
mod image;
mod lanes;
mod matmul;
mod moves;
mod orders;
mod sums;

use super::allocator::Block;
use super::core::Core;
use super::memory::{CudaMemory, Fault};
use super::parameters::Normalized;
use super::staging::Purpose;
use super::units::Unit;
use crate::device::{Account, Charge, DType, Plan, Shape, Stop, Tensor, Work};
use crate::error::{Error, Kind, Result};
use bytemuck::Pod;
use std::sync::Arc;

/// An operator that is being queued.
pub(super) struct Task<'a> {
    core: &'a Core,
    account: &'a Arc<Account>,
    stop: &'a Stop,
    plan: &'a Plan,
    inputs: Vec<Operand<'a>>,
    outputs: &'a [u64],
    /// Memory that the launches use besides inputs and results. It is freed once all are queued.
    scratch: Vec<(Block, Charge)>,
    faults: Vec<Arc<Fault>>,
}

/// An input: the address of its first element, and its description.
#[derive(Clone, Copy)]
struct Operand<'a> {
    address: u64,
    dtype: DType,
    shape: &'a Shape,
}

/// The error for an operator that runs with other tensors than it was planned for.
pub(super) fn lost() -> Error {
    Error::new(Kind::Internal, "an operator was run with other tensors than it was planned for")
}

/// Bytes that a thread reads or writes at once.
pub(super) const PACK_BYTES: u64 = 16;

/// Elements per thread of a conversion: the wider side is read or written at once.
pub(super) fn each(from: DType, to: DType) -> u64 {
    PACK_BYTES / size_of(from).max(size_of(to))
}

/// The parameters of `normalize` without factors and summands.
pub(super) fn normalized(
    (from, input): (DType, u64),
    (to, output): (DType, u64),
    count: u64,
    inner: u64,
    channels: u64,
) -> Normalized {
    let aligned = u32::from(input.is_multiple_of(each(from, to) * size_of(from)));
    Normalized { count, input, output, inner, channels, aligned, ..Normalized::default() }
}

/// Bytes of an element.
pub(super) fn size_of(dtype: DType) -> u64 {
    dtype.size_bytes().unwrap_or(1)
}

impl<'a> Task<'a> {
    /// A task for planned work, with the addresses of its results.
    pub(super) fn new(
        core: &'a Core,
        account: &'a Arc<Account>,
        stop: &'a Stop,
        plan: &'a Plan,
        inputs: &[&'a Tensor],
        outputs: &'a [u64],
    ) -> Result<Task<'a>> {
        let operand = |tensor: &&'a Tensor| {
            Ok(Operand { address: CudaMemory::address(tensor)?, dtype: tensor.dtype(), shape: tensor.shape() })
        };
        let inputs = inputs.iter().map(operand).collect::<Result<_>>()?;
        Ok(Task { core, account, stop, plan, inputs, outputs, scratch: Vec::new(), faults: Vec::new() })
    }

    /// The faults that the launches may record.
    pub(super) fn into_faults(self) -> Vec<Arc<Fault>> {
        self.faults
    }

    /// Queues the launches.
    pub(super) fn queue(&mut self) -> Result<()> {
        match &self.plan.work {
            Work::View { .. } | Work::Views { .. } => Err(lost()),
            Work::Unary(unary) => self.unary(*unary),
            Work::Clamp { low, high } => self.clamp(*low, *high),
            Work::Arithmetic { arithmetic, broadcast } => self.arithmetic(*arithmetic, broadcast),
            Work::Compare { comparison, broadcast } => self.compare(*comparison, broadcast),
            Work::Cast => self.cast(),
            Work::Normalize { outer: _, inner, scale, offset } => self.normalize(*inner, scale, offset),
            Work::Select(broadcast) => self.select(broadcast),
            Work::Copy(copy) => self.copy(copy),
            Work::Pad { source, before, mode } => self.pad(source, before, *mode),
            Work::Join { outer, lengths } => self.join(*outer, lengths),
            Work::Split { outer, lengths } => self.split(*outer, lengths),
            Work::Gather { outer, length, inner } => self.gather([*outer, *length, *inner]),
            Work::OneHot { outer: _, depth, inner } => self.one_hot(*depth, *inner),
            Work::Softmax { outer, length, inner } => self.lanes("softmax", [*outer, *length, *inner], 0.0),
            Work::LogSoftmax { outer, length, inner } => self.lanes("log_softmax", [*outer, *length, *inner], 0.0),
            Work::L2Normalize { outer, length, inner, epsilon } => {
                self.lanes("l2_normalize", [*outer, *length, *inner], f64::from(*epsilon))
            }
            Work::MaskedMeanPool { batch, tokens, features } => self.masked_mean_pool([*batch, *tokens, *features]),
            Work::Extreme { largest, outer, length, inner } => self.extreme(*largest, [*outer, *length, *inner]),
            Work::Reduce { reduction, dims, strides, count } => self.reduce(*reduction, dims, strides, *count),
            Work::CumulativeSum { outer, length, inner, exclusive, reverse } => {
                self.cumulative_sum([*outer, *length, *inner], *exclusive, *reverse)
            }
            Work::Sort { outer, length, inner, descending } => {
                self.order([*outer, *length, *inner], *length, *descending)
            }
            Work::TopK { outer, length, inner, k, largest } => self.order([*outer, *length, *inner], *k, *largest),
            Work::NonMaximumSuppression { count, suppression } => self.suppress(*count, *suppression),
            Work::Resize { images: _, source_height, source_width, channels, resize } => {
                self.resize([*source_height, *source_width], *channels, resize)
            }
            Work::Matmul { batch, rows, length, columns } => self.matmul(batch, [*rows, *length, *columns]),
        }
    }

    fn input(&self, index: usize) -> Result<Operand<'a>> {
        self.inputs.get(index).copied().ok_or_else(lost)
    }

    fn output(&self, index: usize) -> Result<u64> {
        self.outputs.get(index).copied().ok_or_else(lost)
    }

    /// Elements of the first result.
    fn count(&self) -> u64 {
        self.plan.outputs.first().map_or(0, |(_, shape)| shape.elements())
    }

    /// Queues a kernel, unless the work was cancelled.
    fn launch<P: Pod>(&self, unit: Unit, name: &'static str, blocks: u64, parameters: &P) -> Result<()> {
        self.stop.check()?;
        self.core.launch(unit, name, blocks, parameters)
    }

    /// Memory for the launches of this task, charged before it is taken.
    fn scratch(&mut self, bytes: u64) -> Result<u64> {
        let charge = self.account.charge(bytes)?;
        let block = self.core.take(bytes)?;
        let address = block.address();
        self.scratch.push((block, charge));
        Ok(address)
    }

    /// A copy of host bytes in scratch memory.
    fn upload_scratch(&self, bytes: &[u8]) -> Result<()> {
        let (block, _) = self.scratch.last().ok_or_else(lost)?;
        self.core.upload(block, bytes, Purpose::Table)
    }
}
