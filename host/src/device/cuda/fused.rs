//! Operators that wait for the next one, so that one kernel does what several would; it decides nothing but that.
//!
//! The rules, all of them:
//! 1. `normalize` of at most 16 channels is not queued when it is called, but when somebody needs its result: another operator,
//!    a model, or who reads.
//! 2. A copy with strides (`permute`, a slice that is none of views) of what waits waits in its place, once: one kernel that
//!    normalises as it moves.
//! 3. A cast to f16 or bf16 of all that waits, which is f32, waits in its place, too.
//!
//! What results is the same bit for bit, since the kernels compute in f32 as those of their own would. A result is charged when
//! the operator is called. Until it is queued it holds the tensor that it is made of.

use super::allocator::Block;
use super::core::{Core, blocks_of};
use super::memory::CudaMemory;
use super::parameters::{AXES, Moved, Normalized, axes};
use super::task::{lost, size_of};
use super::units::{Family, Unit};
use crate::device::{DType, Plan, StridedCopy, Tensor, Work};
use crate::error::Result;

/// Channels whose numbers fit in a kernel's parameters.
const INLINE_CHANNELS: usize = 16;

/// Bytes that a thread reads or writes at once.
pub(super) const PACK_BYTES: u64 = 16;

/// A result that waits.
#[derive(Clone)]
pub(super) struct Fused {
    source: Tensor,
    /// Elements behind a channel of the source.
    inner: u64,
    scale: Vec<f32>,
    offset: Vec<f32>,
    moved: Option<StridedCopy>,
    dtype: DType,
    count: u64,
}

impl Fused {
    /// What planned work is by the rules; none where it is to be queued at once.
    pub(super) fn of(plan: &Plan, inputs: &[&Tensor]) -> Result<Option<Fused>> {
        let (&[input], [(dtype, shape)]) = (inputs, &plan.outputs[..]) else { return Ok(None) };
        if shape.elements() == 0 || input.dtype() == DType::Text {
            return Ok(None);
        }
        let count = shape.elements();
        match &plan.work {
            Work::Normalize { outer: _, inner, scale, offset } if scale.len() <= INLINE_CHANNELS => {
                // Queues what the input itself waits for: nothing waits for more than one.
                CudaMemory::address(input)?;
                let (scale, offset) = (scale.clone(), offset.clone());
                Ok(Some(Fused {
                    source: input.clone(),
                    inner: *inner,
                    scale,
                    offset,
                    moved: None,
                    dtype: *dtype,
                    count,
                }))
            }
            Work::Copy(copy) if copy.dims.len() <= AXES => {
                let first = CudaMemory::of(input)?.waiting().filter(|first| first.moved.is_none());
                // A view of what waits starts behind its first element.
                let start = copy.start + input.byte_offset() / size_of(input.dtype());
                Ok(first.map(|first| Fused { moved: Some(StridedCopy { start, ..copy.clone() }), count, ..first }))
            }
            Work::Cast if matches!(dtype, DType::F16 | DType::BF16) => {
                let first = CudaMemory::of(input)?.waiting();
                let whole = |first: &Fused| first.count == count && first.dtype == DType::F32;
                Ok(first.filter(whole).map(|first| Fused { dtype: *dtype, ..first }))
            }
            _ => Ok(None),
        }
    }

    /// Takes memory for the result, which is charged already, and queues what makes it.
    pub(super) fn queue(&self, core: &Core) -> Result<Block> {
        core.check()?;
        let block = core.take(self.count * size_of(self.dtype))?;
        let (input, output) = (CudaMemory::address(&self.source)?, block.address());
        let unit = Unit::of(Family::Cast, self.source.dtype());
        let Some(StridedCopy { dims, strides, start }) = &self.moved else {
            let name = match self.dtype {
                DType::F16 => "normalize_to_f16",
                DType::BF16 => "normalize_to_bf16",
                _ => "normalize",
            };
            let (from, to) = (self.source.dtype(), self.dtype);
            let mut parameters = normalized((from, input), (to, output), self.count, self.inner, self.scale.len());
            inline(&self.scale, &self.offset, &mut parameters.scale, &mut parameters.offset);
            core.launch(unit, name, blocks_of(self.count.div_ceil(each(from, to))), &parameters)?;
            return Ok(block);
        };
        let name = match self.dtype {
            DType::F16 => "normalize_moved_to_f16",
            DType::BF16 => "normalize_moved_to_bf16",
            _ => "normalize_moved",
        };
        let channels = self.scale.len() as u64;
        let period = self.inner.saturating_mul(channels).max(1);
        let along = strides.last().copied().unwrap_or(0);
        let mut parameters = Moved {
            count: self.count,
            input,
            output,
            start: *start,
            inner: self.inner,
            channels,
            axes: dims.len() as u32,
            steady: u32::from(along.unsigned_abs().is_multiple_of(period)),
            dims: axes(dims.iter().copied()),
            strides: axes(strides.iter().copied()),
            ..Moved::default()
        };
        inline(&self.scale, &self.offset, &mut parameters.scale, &mut parameters.offset);
        let threads = self.count.div_ceil(PACK_BYTES / size_of(self.dtype));
        core.launch(unit, name, blocks_of(threads), &parameters)?;
        Ok(block)
    }

    /// The device whose queue it goes to.
    pub(super) fn core(&self) -> Result<&Core> {
        self.source.device().cuda().map(|device| &device.core).ok_or_else(lost)
    }
}

/// The parameters of `normalize` without factors and summands.
pub(super) fn normalized(
    (from, input): (DType, u64),
    (to, output): (DType, u64),
    count: u64,
    inner: u64,
    channels: usize,
) -> Normalized {
    let aligned = u32::from(input.is_multiple_of(each(from, to) * size_of(from)));
    Normalized { count, input, output, inner, channels: channels as u64, aligned, ..Normalized::default() }
}

/// Elements of a thread that converts.
pub(super) fn each(from: DType, to: DType) -> u64 {
    PACK_BYTES / size_of(from).max(size_of(to))
}

fn inline(scale: &[f32], offset: &[f32], scales: &mut [f32], offsets: &mut [f32]) {
    scales.iter_mut().zip(scale).for_each(|(to, from)| *to = *from);
    offsets.iter_mut().zip(offset).for_each(|(to, from)| *to = *from);
}
