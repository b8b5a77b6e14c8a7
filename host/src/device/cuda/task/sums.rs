//! Launches of reductions and cumulative sums.

use super::super::core::blocks_of;
use super::super::driver::THREADS;
use super::super::parameters::{AXES, Reduced, Scanned, axes};
use super::super::units::{Family, Unit};
use super::lanes::{parts_of_neighbours, parts_of_rows};
use super::{Task, lost, size_of};
use crate::device::Reduction;
use crate::error::Result;

/// The fewest threads that a launch should have.
const ENOUGH_THREADS: u64 = 1 << 18;
/// The fewest elements that a thread adds up before a lane is cut into more segments.
const EACH: u64 = 16;
/// From this many lanes on, a thread scans each; with fewer, a block scans each.
const MANY_LANES: u64 = 4_096;

impl Task<'_> {
    pub(super) fn reduce(&mut self, reduction: Reduction, dims: &[u64], strides: &[u64], count: u64) -> Result<()> {
        let (input, output, results) = (self.input(0)?, self.output(0)?, self.count());
        if dims.len() > AXES || strides.len() != dims.len() {
            return Err(lost());
        }
        let (first, second) = match reduction {
            Reduction::Sum => ("reduce_sum", "join_sum"),
            Reduction::Mean => ("reduce_mean", "join_mean"),
            Reduction::L2 => ("reduce_l2", "join_l2"),
            Reduction::Max => ("reduce_maximum", "join_maximum"),
            Reduction::Min => ("reduce_minimum", "join_minimum"),
        };
        let part_bytes = match reduction {
            Reduction::Sum | Reduction::Mean | Reduction::L2 => 8,
            Reduction::Max | Reduction::Min => size_of(input.dtype),
        };
        let mut own = vec![1u64; dims.len()];
        for axis in (0..dims.len().saturating_sub(1)).rev() {
            own[axis] = own[axis + 1] * dims[axis + 1];
        }
        let chosen = |kept: bool| (0..dims.len()).filter(move |axis| (strides[*axis] != 0) == kept);
        let along = strides.last() == Some(&0);
        let parts = if along { parts_of_rows(count) } else { parts_of_neighbours(results, count) };
        let most = (ENOUGH_THREADS / (results * parts)).max(1);
        let segments = count.div_ceil(parts * EACH).clamp(1, most);
        let unit = Unit::of(Family::Sums, input.dtype);
        let mut parameters = Reduced {
            input: input.address,
            output,
            results,
            count,
            segments,
            run: count.div_ceil(segments),
            parts: parts as u32,
            along: u32::from(along),
            kept_axes: chosen(true).count() as u32,
            reduced_axes: chosen(false).count() as u32,
            kept: axes(chosen(true).map(|axis| dims[axis])),
            kept_strides: axes(chosen(true).map(|axis| own[axis])),
            reduced: axes(chosen(false).map(|axis| dims[axis])),
            reduced_strides: axes(chosen(false).map(|axis| own[axis])),
        };
        let blocks = |lanes: u64, parts: u64| lanes.div_ceil(THREADS / parts);
        if segments == 1 {
            return self.launch(unit, first, blocks(results, parts), &parameters);
        }
        parameters.output = self.scratch(results * segments * part_bytes)?;
        self.launch(unit, first, blocks(results * segments, parts), &parameters)?;
        let parts = parts_of_neighbours(results, segments);
        let joined = Reduced {
            input: parameters.output,
            output,
            results,
            count: segments,
            segments: 1,
            run: count,
            parts: parts as u32,
            ..Reduced::default()
        };
        self.launch(unit, second, blocks(results, parts), &joined)
    }

    pub(super) fn cumulative_sum(&self, sizes: [u64; 3], exclusive: bool, reverse: bool) -> Result<()> {
        let (input, output, [outer, length, inner]) = (self.input(0)?, self.output(0)?, sizes);
        let (exclusive, reverse) = (u32::from(exclusive), u32::from(reverse));
        let parameters = Scanned { input: input.address, output, outer, length, inner, exclusive, reverse };
        let unit = Unit::of(Family::Sums, input.dtype);
        let lanes = outer * inner;
        match lanes >= MANY_LANES || length < THREADS / 8 {
            true => self.launch(unit, "scan_lanes", blocks_of(lanes), &parameters),
            false => self.launch(unit, "scan_rows", lanes, &parameters),
        }
    }
}
