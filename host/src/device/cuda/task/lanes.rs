//! Launches of operators along one axis.

use super::super::driver::THREADS;
use super::super::parameters::{Lanes, dtype_code};
use super::super::units::{Family, Unit};
use super::{Task, size_of};
use crate::error::Result;

/// The fewest threads that a launch should have where there are few lanes.
const ENOUGH_THREADS: u64 = 1 << 16;
/// The fewest neighbouring lanes of a block where they are contiguous, so that they are read together.
const NEIGHBOURS: u64 = 8;

/// How the threads of a block share lanes that are contiguous with one another: the number of parts of each.
pub(super) fn parts_of_neighbours(lanes: u64, length: u64) -> u64 {
    let wanted = (ENOUGH_THREADS / lanes.max(1)).clamp(1, THREADS / NEIGHBOURS);
    let wanted = 1 << wanted.ilog2();
    wanted.min(length.max(1).next_power_of_two())
}

/// How they share lanes whose elements are contiguous.
pub(super) fn parts_of_rows(steps: u64) -> u64 {
    steps.clamp(1, THREADS).next_power_of_two()
}

impl Task<'_> {
    /// The parameters of [outer, length, inner] whose results have the lanes' length, or one element for each lane.
    fn lanes_of(&self, [outer, length, inner]: [u64; 3], whole: bool) -> Result<Lanes> {
        let (input, output) = (self.input(0)?, self.output(0)?);
        let each = 16 / size_of(input.dtype);
        let along = inner == 1;
        let packed = along && whole && length.is_multiple_of(each) && input.address.is_multiple_of(16);
        let parts = match (along, packed) {
            (true, true) => parts_of_rows(length / each),
            (true, false) => parts_of_rows(length),
            (false, _) => parts_of_neighbours(outer * inner, length),
        };
        Ok(Lanes {
            input: input.address,
            output,
            lanes: outer * inner,
            length,
            inner,
            parts: parts as u32,
            along: u32::from(along),
            packed: u32::from(packed),
            ..Lanes::default()
        })
    }

    fn launch_lanes(&self, name: &'static str, parameters: &Lanes) -> Result<()> {
        let together = THREADS / u64::from(parameters.parts);
        let unit = Unit::of(Family::Lanes, self.input(0)?.dtype);
        self.launch(unit, name, parameters.lanes.div_ceil(together), parameters)
    }

    pub(super) fn lanes(&self, name: &'static str, sizes: [u64; 3], epsilon: f64) -> Result<()> {
        let parameters = Lanes { epsilon, ..self.lanes_of(sizes, true)? };
        self.launch_lanes(name, &parameters)
    }

    pub(super) fn extreme(&self, largest: bool, sizes: [u64; 3]) -> Result<()> {
        let parameters = Lanes { largest: u32::from(largest), ..self.lanes_of(sizes, false)? };
        self.launch_lanes("extreme", &parameters)
    }

    pub(super) fn masked_mean_pool(&self, [batch, tokens, features]: [u64; 3]) -> Result<()> {
        let mask = self.input(1)?;
        let mut parameters = self.lanes_of([batch, tokens, features], false)?;
        parameters.mask = mask.address;
        parameters.mask_type = dtype_code(mask.dtype);
        self.launch_lanes("masked_mean_pool", &parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_whole_lanes() {
        for (lanes, length) in [(1, 1), (1, 1_000_000), (3, 7), (100, 100), (1 << 20, 9), (5, 0)] {
            let parts = parts_of_neighbours(lanes, length);
            assert!(parts.is_power_of_two() && parts <= THREADS / NEIGHBOURS, "{lanes} {length}: {parts}");
            assert!(parts <= length.max(1).next_power_of_two());
        }
        assert_eq!((parts_of_rows(0), parts_of_rows(5), parts_of_rows(1 << 30)), (1, 8, 256));
    }
}
