//! `pad`: copies rows of the input and fills the rest; it never interprets elements.

use super::cast::bits_of;
use super::element::with_bits;
use super::memory::{Fresh, elements};
use super::strided::Odometer;
use crate::device::stop::Pace;
use crate::device::{PadMode, Tensor};
use crate::error::Result;
use bytemuck::Pod;

/// Copies the input into the result and fills the rest.
pub(super) fn run(
    source: &[u64],
    before: &[u64],
    mode: PadMode,
    target: &[u64],
    input: &Tensor,
    result: &mut Fresh,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let dtype = input.dtype();
    let constant = match mode {
        PadMode::Constant(number) => bits_of(number, dtype)?,
        PadMode::Edge | PadMode::Reflect => 0,
    };
    // Axes at the end that are not padded move as one block.
    let sizes = |dims: &[u64]| dims.iter().map(|dim| *dim as usize).collect::<Vec<_>>();
    let (source, before, target) = (sizes(source), sizes(before), sizes(target));
    let padded = (0..source.len()).rev().find(|axis| source[*axis] != target[*axis]).map_or(0, |axis| axis + 1);
    let block = target[padded..].iter().product();
    let pad = Pad { source: &source[..padded], before: &before[..padded], target: &target[..padded], mode, block };
    with_bits!(dtype, T => pad.run::<T>(elements(input)?, constant as T, result.elements_mut()?, pace))
}

struct Pad<'a> {
    source: &'a [usize],
    before: &'a [usize],
    target: &'a [usize],
    mode: PadMode,
    block: usize,
}

impl Pad<'_> {
    fn run<T: Pod>(&self, input: &[T], constant: T, result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
        let (Some((&length, outer)), Some((&before, _)), Some((&columns, rows))) =
            (self.source.split_last(), self.before.split_last(), self.target.split_last())
        else {
            return copied(input, result, pace);
        };
        let block = self.block;
        let mut row = Odometer::<0>::new(rows.to_vec(), vec![[]; rows.len()], []);
        for to in result.chunks_exact_mut(columns * block) {
            pace.spend(Pace::FAR)?;
            match self.source_row(row.index(), outer) {
                None => filled_with(constant, to, pace)?,
                Some(source) => {
                    let from = &input[source * length * block..(source + 1) * length * block];
                    let (head, rest) = to.split_at_mut(before * block);
                    let (middle, tail) = rest.split_at_mut(from.len());
                    copied(from, middle, pace)?;
                    for (index, to) in head.chunks_exact_mut(block).enumerate() {
                        self.fill(index, [before, length], from, constant, to, pace)?;
                    }
                    for (index, to) in tail.chunks_exact_mut(block).enumerate() {
                        self.fill(before + length + index, [before, length], from, constant, to, pace)?;
                    }
                }
            }
            row.step();
        }
        Ok(())
    }

    fn fill<T: Pod>(
        &self,
        index: usize,
        [before, length]: [usize; 2],
        from: &[T],
        constant: T,
        to: &mut [T],
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        match mirrored(self.mode, index, before, length) {
            None => filled_with(constant, to, pace),
            Some(source) => copied(&from[source * self.block..(source + 1) * self.block], to, pace),
        }
    }

    /// The row of the input that a row of the result repeats.
    fn source_row(&self, index: &[usize], outer: &[usize]) -> Option<usize> {
        let mut row = 0;
        for ((&index, &before), &length) in index.iter().zip(self.before).zip(outer) {
            row = row * length + mirrored(self.mode, index, before, length)?;
        }
        Some(row)
    }
}

fn copied<T: Pod>(from: &[T], to: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    for (from, to) in from.chunks(Pace::CHUNK).zip(to.chunks_mut(Pace::CHUNK)) {
        pace.spend(to.len() + 2)?;
        to.copy_from_slice(from);
    }
    Ok(())
}

fn filled_with<T: Pod>(constant: T, to: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    for to in to.chunks_mut(Pace::CHUNK) {
        pace.spend(to.len() + 2)?;
        to.fill(constant);
    }
    Ok(())
}

/// The index on the input's axis that an index of the result repeats; none where a constant is.
fn mirrored(mode: PadMode, index: usize, before: usize, length: usize) -> Option<usize> {
    match (index.checked_sub(before), mode) {
        (Some(inside), _) if inside < length => Some(inside),
        (_, PadMode::Constant(_)) => None,
        (None, PadMode::Edge) => Some(0),
        (Some(_), PadMode::Edge) => length.checked_sub(1),
        (None, PadMode::Reflect) => Some(before - index),
        (Some(inside), PadMode::Reflect) => (2 * length).checked_sub(inside + 2),
    }
}
