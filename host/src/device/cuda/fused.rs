//! Operators that wait for the next one, so that one kernel does the work of several; it decides nothing else.
//!
//! The rules, all of them:
//! 1. `normalize` of at most 16 channels is not queued when it is called, but when its result is needed: by another operator,
//!    a model, or a read.
//! 2. A copy with strides (`permute`, a slice that is not a view) of a waiting result waits in its place, once: one kernel
//!    normalises while it moves.
//! 3. A cast to f16 or bf16 of a whole waiting result, which is f32, waits in its place, too.
//!
//! The result is the same bit for bit, since the fused kernels compute in f32 as the separate ones do. A result is charged when
//! the operator is called. Until it is queued it holds the tensor that it is made of.

use super::allocator::Block;
use super::core::blocks_of;
use super::memory::CudaMemory;
use super::parameters::{AXES, Moved, Normalized, axes};
use super::task::{PACK_BYTES, each, lost, normalized, size_of};
use super::units::{Family, Unit};
use crate::device::{DType, Plan, StridedCopy, Tensor, Work};
use crate::error::Result;

/// The most channels whose numbers fit in a kernel's parameters.
const INLINE_CHANNELS: usize = 16;

/// A result that waits.
#[derive(Clone)]
pub(super) struct Fused {
    source: Tensor,
    /// The elements that follow the channel axis of the source.
    inner: u64,
    channels: u64,
    scale: [f32; INLINE_CHANNELS],
    offset: [f32; INLINE_CHANNELS],
    moved: Option<StridedCopy>,
    dtype: DType,
    count: u64,
}

impl Fused {
    /// Planned work as the rules delay it; `None` where it must be queued at once.
    pub(super) fn of(plan: &Plan, inputs: &[&Tensor]) -> Result<Option<Fused>> {
        let (&[input], [(dtype, shape)]) = (inputs, &plan.outputs[..]) else { return Ok(None) };
        let count = shape.elements();
        if count == 0 {
            return Ok(None);
        }
        match &plan.work {
            Work::Normalize { outer: _, inner, scale, offset } if scale.len() <= INLINE_CHANNELS => {
                // Queues the work that the input itself waits for: nothing waits for more than one.
                CudaMemory::address(input)?;
                let inline = |numbers: &[f32]| std::array::from_fn(|at| numbers.get(at).copied().unwrap_or_default());
                Ok(Some(Fused {
                    source: input.clone(),
                    inner: *inner,
                    channels: scale.len() as u64,
                    scale: inline(scale),
                    offset: inline(offset),
                    moved: None,
                    dtype: *dtype,
                    count,
                }))
            }
            Work::Copy(copy) if copy.dims.len() <= AXES => {
                let first = CudaMemory::of(input)?.waiting().filter(|first| first.moved.is_none());
                // A view of a waiting result may start after its first element.
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

    /// Takes memory for the result, which is already charged, and queues the work that makes it.
    pub(super) fn queue(&self) -> Result<Block> {
        let core = &self.source.device().cuda().ok_or_else(lost)?.core;
        core.check()?;
        let block = core.take(self.count * size_of(self.dtype))?;
        let (input, output) = (CudaMemory::address(&self.source)?, block.address());
        let (from, to) = (self.source.dtype(), self.dtype);
        let unit = Unit::of(Family::Cast, from);
        let Fused { inner, channels, scale, offset, count, .. } = *self;
        let Some(StridedCopy { dims, strides, start }) = &self.moved else {
            let plain = normalized((from, input), (to, output), count, inner, channels);
            let name = name_of(to, ["normalize", "normalize_to_f16", "normalize_to_bf16"]);
            let parameters = Normalized { scale, offset, ..plain };
            core.launch(unit, name, blocks_of(count.div_ceil(each(from, to))), &parameters)?;
            return Ok(block);
        };
        let along = strides.last().map_or(0, |stride| stride.unsigned_abs());
        let parameters = Moved {
            count,
            input,
            output,
            start: *start,
            inner,
            channels,
            axes: dims.len() as u32,
            steady: u32::from(along.is_multiple_of(inner * channels)),
            dims: axes(dims.iter().copied()),
            strides: axes(strides.iter().copied()),
            scale,
            offset,
        };
        let name = name_of(to, ["normalize_moved", "normalize_moved_to_f16", "normalize_moved_to_bf16"]);
        core.launch(unit, name, blocks_of(count.div_ceil(PACK_BYTES / size_of(to))), &parameters)?;
        Ok(block)
    }
}

/// One of a kernel's names: the one for a result of f32, f16 or bf16.
fn name_of(to: DType, [f32, f16, bf16]: [&'static str; 3]) -> &'static str {
    match to {
        DType::F16 => f16,
        DType::BF16 => bf16,
        _ => f32,
    }
}
