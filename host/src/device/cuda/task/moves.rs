//! Launches of kernels that move elements, in units as wide as sizes and addresses allow.

use super::super::core::blocks_of;
use super::super::memory::{FAULT_BYTES, Fault};
use super::super::parameters::{
    AXES, Checked, Gathered, OneHot, Padded, Rows, Selected, Strided, Transposed, axes, dtype_code,
};
use super::super::units::Unit;
use super::{Operand, Task, lost, size_of};
use crate::device::cpu::bits_of;
use crate::device::{Broadcast, DType, PadMode, StridedCopy};
use crate::error::Result;
use std::sync::{Arc, OnceLock};

/// Planes with sides of at least this many elements are transposed in tiles.
const TILED: u64 = 16;

/// The number of elements of `size` bytes that can move as one: `counts` and all addresses are multiples of it.
fn together(size: u64, counts: &[u64], addresses: &[u64]) -> u64 {
    let fits = |each: &u64| {
        let width = each * size;
        let whole = counts.iter().all(|count| count.is_multiple_of(*each));
        width <= 16 && whole && addresses.iter().all(|address| address.is_multiple_of(width))
    };
    [16, 8, 4, 2, 1].into_iter().find(fits).unwrap_or(1)
}

impl Task<'_> {
    pub(super) fn copy(&self, StridedCopy { dims, strides, start }: &StridedCopy) -> Result<()> {
        let (input, output, count) = (self.input(0)?, self.output(0)?, self.count());
        let size = size_of(input.dtype);
        if dims.len() > AXES {
            return Err(lost());
        }
        let contiguous = strides.last().is_none_or(|stride| *stride == 1);
        if let Some(&columns) = dims.last()
            && !contiguous
            && let Some(axis) = strides.iter().position(|stride| *stride == 1)
            && dims[axis] >= TILED
            && columns >= TILED
        {
            return self.transpose(axis, dims, strides, *start);
        }
        let mut each = 1;
        if contiguous {
            let outer = strides.iter().rev().skip(1).map(|stride| stride.unsigned_abs());
            let counts: Vec<u64> = outer.chain([dims.last().copied().unwrap_or(1), *start]).collect();
            each = together(size, &counts, &[input.address, output]);
        }
        let last = dims.len().saturating_sub(1);
        let shrunk = |axis: usize, dim: u64| if axis == last { dim / each } else { dim };
        let stepped = |axis: usize, stride: i64| if axis == last { stride } else { stride / each.cast_signed() };
        let parameters = Strided {
            count: count / each,
            input: input.address,
            output,
            start: start / each,
            axes: dims.len() as u32,
            unused: 0,
            dims: axes(dims.iter().enumerate().map(|(axis, dim)| shrunk(axis, *dim))),
            strides: axes(strides.iter().enumerate().map(|(axis, stride)| stepped(axis, *stride))),
        };
        // Every thread writes 16 bytes.
        let threads = parameters.count.div_ceil(16 / (size * each));
        self.launch(Unit::moves(size * each), "strided_copy", blocks_of(threads), &parameters)
    }

    /// Copies where axis `axis` is contiguous in the input and the last axis is contiguous in the result.
    fn transpose(&self, axis: usize, dims: &[u64], strides: &[i64], start: u64) -> Result<()> {
        let (input, output) = (self.input(0)?, self.output(0)?);
        let last = dims.len() - 1;
        let mut own = vec![1i64; dims.len()];
        for axis in (0..last).rev() {
            own[axis] = own[axis + 1] * dims[axis + 1].cast_signed();
        }
        let others: Vec<usize> = (0..last).filter(|other| *other != axis).collect();
        let planes: u64 = others.iter().map(|axis| dims[*axis]).product();
        let parameters = Transposed {
            input: input.address,
            output,
            rows: dims[axis],
            columns: dims[last],
            source_step: strides[last],
            target_step: own[axis],
            planes,
            start,
            axes: others.len() as u32,
            unused: 0,
            dims: axes(others.iter().map(|axis| dims[*axis])),
            source_strides: axes(others.iter().map(|axis| strides[*axis])),
            target_strides: axes(others.iter().map(|axis| own[*axis])),
        };
        let tiles = dims[axis].div_ceil(32) * dims[last].div_ceil(32);
        self.launch(Unit::moves(size_of(input.dtype)), "transpose", planes * tiles, &parameters)
    }

    pub(super) fn pad(&self, source: &[u64], before: &[u64], mode: PadMode) -> Result<()> {
        let (input, output, count) = (self.input(0)?, self.output(0)?, self.count());
        let target = self.plan.outputs.first().ok_or_else(lost)?.1.dims();
        if target.len() > AXES || source.len() != target.len() || before.len() != target.len() {
            return Err(lost());
        }
        // Trailing axes that are not padded move as one block.
        let padded = (0..source.len()).rev().find(|axis| source[*axis] != target[*axis]).map_or(0, |axis| axis + 1);
        let block: u64 = target[padded..].iter().product();
        let (mode, constant) = match mode {
            PadMode::Constant(number) => (0, bits_of(number, input.dtype)?),
            PadMode::Edge => (1, 0),
            PadMode::Reflect => (2, 0),
        };
        let size = size_of(input.dtype);
        let each = together(size, &[block], &[input.address, output]);
        let parameters = Padded {
            count: count / each,
            input: input.address,
            output,
            block: block / each,
            constant: (0..8 / size).fold(0, |bits, part| bits | constant << (8 * size * part)),
            mode,
            axes: padded as u32,
            source: axes(source[..padded].iter().copied()),
            before: axes(before[..padded].iter().copied()),
            target: axes(target[..padded].iter().copied()),
        };
        self.launch(Unit::moves(size * each), "pad", blocks_of(parameters.count), &parameters)
    }

    pub(super) fn join(&self, outer: u64, lengths: &[u64]) -> Result<()> {
        let output = self.output(0)?;
        let whole: u64 = lengths.iter().sum();
        let mut start = 0;
        for (index, &length) in lengths.iter().enumerate() {
            let input = self.input(index)?;
            let to = output + start * size_of(input.dtype);
            self.rows(input.dtype, outer, length, [(input.address, length), (to, whole)])?;
            start += length;
        }
        Ok(())
    }

    pub(super) fn split(&self, outer: u64, lengths: &[u64]) -> Result<()> {
        let input = self.input(0)?;
        let whole: u64 = lengths.iter().sum();
        let mut start = 0;
        for (index, &length) in lengths.iter().enumerate() {
            let from = input.address + start * size_of(input.dtype);
            self.rows(input.dtype, outer, length, [(from, whole), (self.output(index)?, length)])?;
            start += length;
        }
        Ok(())
    }

    /// Copies rows of `length` elements, with a given distance between rows on either side.
    fn rows(&self, dtype: DType, outer: u64, length: u64, [from, to]: [(u64, u64); 2]) -> Result<()> {
        if outer * length == 0 {
            return Ok(());
        }
        let size = size_of(dtype);
        if outer == 1 {
            self.stop.check()?;
            // SAFETY: a row is within the tensor on either side, and a result is never one of its inputs.
            #[allow(unsafe_code)]
            let queued = unsafe { self.core.driver.copy_within(from.0, to.0, length * size) };
            return self.core.told(queued);
        }
        let each = together(size, &[length, from.1, to.1], &[from.0, to.0]);
        let parameters = Rows {
            count: outer * length / each,
            input: from.0,
            output: to.0,
            length: length / each,
            input_row: from.1 / each,
            output_row: to.1 / each,
        };
        self.launch(Unit::moves(size * each), "copy_rows", blocks_of(parameters.count), &parameters)
    }

    pub(super) fn gather(&mut self, [_, length, inner]: [u64; 3]) -> Result<()> {
        let (input, indices, output, count) = (self.input(0)?, self.input(1)?, self.output(0)?, self.count());
        self.check_indices("gather", indices, length)?;
        if count == 0 {
            return Ok(());
        }
        let size = size_of(input.dtype);
        let each = together(size, &[inner], &[input.address, output]);
        let parameters = Gathered {
            count: count / each,
            input: input.address,
            output,
            indices: indices.address,
            places: indices.shape.elements(),
            length,
            inner: inner / each,
            index_type: dtype_code(indices.dtype),
            unused: 0,
        };
        self.launch(Unit::moves(size * each), "gather", blocks_of(parameters.count), &parameters)
    }

    pub(super) fn one_hot(&mut self, depth: u64, inner: u64) -> Result<()> {
        let (indices, output, count) = (self.input(0)?, self.output(0)?, self.count());
        let dtype = self.plan.outputs.first().ok_or_else(lost)?.0;
        self.check_indices("one-hot", indices, depth)?;
        let parameters = OneHot {
            count,
            indices: indices.address,
            output,
            depth,
            inner,
            one: bits_of(1.0, dtype)?,
            index_type: dtype_code(indices.dtype),
            unused: 0,
        };
        self.launch(Unit::moves(size_of(dtype)), "one_hot", blocks_of(count), &parameters)
    }

    /// Queues a check of all indices; a wrong index is reported when the result is read.
    fn check_indices(&mut self, operator: &'static str, indices: Operand<'_>, length: u64) -> Result<()> {
        let count = indices.shape.elements();
        if count == 0 {
            return Ok(());
        }
        let charge = self.account.charge(FAULT_BYTES as u64)?;
        let block = self.core.take(FAULT_BYTES as u64)?;
        let (fault, index_type) = (block.address(), dtype_code(indices.dtype));
        // SAFETY: the block holds the words, and returns to the allocator at the earliest.
        #[allow(unsafe_code)]
        let filled = unsafe { self.core.driver.fill(fault, 0xff, FAULT_BYTES as u64) };
        self.core.told(filled)?;
        let parameters = Checked { count, indices: indices.address, length, fault, index_type, unused: 0 };
        self.launch(Unit::moves(1), "check_indices", blocks_of(count), &parameters)?;
        self.launch(Unit::moves(1), "read_fault", 1, &parameters)?;
        let found = OnceLock::new();
        self.faults.push(Arc::new(Fault { block, _charge: charge, operator, dtype: indices.dtype, length, found }));
        Ok(())
    }

    pub(super) fn select(&self, Broadcast { dims, strides }: &Broadcast<3>) -> Result<()> {
        let [condition, a, b] = [self.input(0)?, self.input(1)?, self.input(2)?];
        if dims.len() > AXES {
            return Err(lost());
        }
        let count = self.count();
        let strides_of = |operand: usize| axes(strides.iter().map(|strides| strides[operand]));
        let parameters = Selected {
            count,
            condition: condition.address,
            a: a.address,
            b: b.address,
            output: self.output(0)?,
            axes: dims.len() as u32,
            unused: 0,
            dims: axes(dims.iter().copied()),
            condition_strides: strides_of(0),
            a_strides: strides_of(1),
            b_strides: strides_of(2),
        };
        self.launch(Unit::moves(size_of(a.dtype)), "choose", blocks_of(count), &parameters)
    }
}
