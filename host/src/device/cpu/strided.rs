//! Moves elements by strides: crop, slice, permute, concat and stack; it never interprets elements.

use super::element::with_bits;
use super::memory::{Fresh, elements};
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{DType, StridedCopy, Tensor};
use crate::error::Result;
use bytemuck::Pod;

/// Counts through nested loops, outermost first, and keeps where each of `N` tensors is.
pub(super) struct Odometer<const N: usize> {
    dims: Vec<usize>,
    strides: Vec<[isize; N]>,
    index: Vec<usize>,
    /// The element that each tensor is at.
    pub(super) at: [isize; N],
}

impl<const N: usize> Odometer<N> {
    /// Starts at the first element of the loops.
    pub(super) fn new(dims: Vec<usize>, strides: Vec<[isize; N]>, at: [isize; N]) -> Odometer<N> {
        Odometer { index: vec![0; dims.len()], dims, strides, at }
    }

    /// How often the loops' body runs.
    pub(super) fn steps(&self) -> usize {
        self.dims.iter().product()
    }

    /// How far each axis is.
    pub(super) fn index(&self) -> &[usize] {
        &self.index
    }

    /// Goes to the next element, or past the last one back to the first.
    pub(super) fn step(&mut self) {
        for axis in (0..self.dims.len()).rev() {
            self.index[axis] += 1;
            let wraps = self.index[axis] == self.dims[axis];
            let back = if wraps { self.dims[axis] as isize - 1 } else { -1 };
            for (at, stride) in self.at.iter_mut().zip(&self.strides[axis]) {
                *at -= stride * back;
            }
            if !wraps {
                return;
            }
            self.index[axis] = 0;
        }
    }
}

/// Copies the elements that a plan picks.
pub(super) fn run(
    copy: &StridedCopy,
    dtype: DType,
    input: &Tensor,
    result: &mut Fresh,
    pace: &mut Pace<'_>,
) -> Result<()> {
    with_bits!(dtype, T => pick::<T>(copy, elements(input)?, result.elements_mut()?, pace))
}

fn pick<T: Pod>(copy: &StridedCopy, input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    let dims: Vec<usize> = copy.dims.iter().map(|dim| *dim as usize).collect();
    let strides: Vec<isize> = copy.strides.iter().map(|stride| *stride as isize).collect();
    let start = copy.start as isize;
    let (Some((&columns, outer)), Some(&stride)) = (dims.split_last(), strides.last()) else {
        result.copy_from_slice(&input[start as usize..start as usize + 1]);
        return Ok(());
    };
    if stride > 1
        && let Some(axis) = strides.iter().position(|stride| *stride == 1)
    {
        return transpose(&dims, &strides, axis, start, (input, result), pace);
    }
    let outer_strides = strides[..outer.len()].iter().map(|stride| [*stride]).collect();
    let mut rows = Odometer::new(outer.to_vec(), outer_strides, [start]);
    let each = Pace::apart(stride.unsigned_abs().saturating_mul(size_of::<T>()));
    let length = Pace::CHUNK / each;
    for row in result.chunks_exact_mut(columns) {
        let first = rows.at[0];
        for (index, part) in row.chunks_mut(length).enumerate() {
            pace.spend(part.len() * each + Pace::FAR)?;
            let from = first + (index * length) as isize * stride;
            gather(input, from, stride, part);
        }
        rows.step();
    }
    Ok(())
}

fn gather<T: Pod>(input: &[T], first: isize, stride: isize, row: &mut [T]) {
    match stride {
        1 => row.copy_from_slice(&input[first as usize..first as usize + row.len()]),
        2.. => {
            let picked = input[first as usize..].iter().step_by(stride as usize);
            row.iter_mut().zip(picked).for_each(|(to, from)| *to = *from);
        }
        _ => {
            let picked = input[..=first as usize].iter().rev().step_by(stride.unsigned_abs());
            row.iter_mut().zip(picked).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Copies where an axis other than the last one, with a positive stride, is contiguous in the input.
fn transpose<T: Pod>(
    dims: &[usize],
    strides: &[isize],
    axis: usize,
    start: isize,
    (input, result): (&[T], &mut [T]),
    pace: &mut Pace<'_>,
) -> Result<()> {
    let last = dims.len() - 1;
    let mut own = vec![1isize; dims.len()];
    for axis in (0..last).rev() {
        own[axis] = own[axis + 1] * dims[axis + 1] as isize;
    }
    let others = || (0..last).filter(|other| *other != axis);
    let outer_strides = others().map(|axis| [strides[axis], own[axis]]).collect();
    let mut planes = Odometer::new(others().map(|axis| dims[axis]).collect(), outer_strides, [start, 0]);
    let (source_step, target_step) = (strides[last] as usize, own[axis] as usize);
    let plane = Plane { rows: dims[axis], columns: dims[last], source_step, target_step };
    for _ in 0..planes.steps() {
        let [from, to] = planes.at;
        plane.copy(&input[from as usize..], &mut result[to as usize..], pace)?;
        planes.step();
    }
    Ok(())
}

/// Element (row, column) of the result is at `row * target_step + column` and comes from `row + column * source_step`.
struct Plane {
    rows: usize,
    columns: usize,
    source_step: usize,
    target_step: usize,
}

impl Plane {
    fn copy<T: Pod>(&self, input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
        match (self.rows, self.columns) {
            (2, _) if self.source_step == 2 => self.split::<T, 2>(input, result, pace),
            (3, _) if self.source_step == 3 => self.split::<T, 3>(input, result, pace),
            (4, _) if self.source_step == 4 => self.split::<T, 4>(input, result, pace),
            (_, 2) if self.target_step == 2 => self.merge::<T, 2>(input, result, pace),
            (_, 3) if self.target_step == 3 => self.merge::<T, 3>(input, result, pace),
            (_, 4) if self.target_step == 4 => self.merge::<T, 4>(input, result, pace),
            _ => self.tiled(input, result, pace),
        }
    }

    /// Interleaved to planes, such as [height, width, channels] to [channels, height, width].
    fn split<T: Pod, const N: usize>(&self, input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
        const BLOCK: usize = 1 << 10;
        let (pixels, _) = input[..self.columns * N].as_chunks::<N>();
        for (index, block) in pixels.chunks(BLOCK).enumerate() {
            pace.spend(block.len() * N)?;
            for channel in 0..N {
                let to = channel * self.target_step + index * BLOCK;
                channel_of::<T, N>(block, channel, &mut result[to..to + block.len()]);
            }
        }
        Ok(())
    }

    /// Planes to interleaved.
    fn merge<T: Pod, const N: usize>(&self, input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
        const BLOCK: usize = 1 << 10;
        let planes: [&[T]; N] = std::array::from_fn(|plane| &input[plane * self.source_step..][..self.rows]);
        let (pixels, _) = result[..self.rows * N].as_chunks_mut::<N>();
        for (index, block) in pixels.chunks_mut(BLOCK).enumerate() {
            pace.spend(block.len() * N)?;
            let from = index * BLOCK;
            interleave(planes.map(|plane| &plane[from..from + block.len()]), block);
        }
        Ok(())
    }

    /// In tiles whose rows and columns stay in the first-level cache.
    fn tiled<T: Pod>(&self, input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
        const TILE: usize = 32;
        for top in (0..self.rows).step_by(TILE) {
            let height = TILE.min(self.rows - top);
            for left in (0..self.columns).step_by(TILE) {
                let width = TILE.min(self.columns - left);
                pace.spend(height * width * 2 + Pace::FAR)?;
                let from = &input[top + left * self.source_step..];
                let to = &mut result[top * self.target_step + left..];
                tile(from, self.source_step, to, self.target_step, [height, width]);
            }
        }
        Ok(())
    }
}

vectorised! {
    fn channel_of [T, N] [T: Pod, const N: usize] (pixels: &[[T; N]], channel: usize, plane: &mut [T]) {
        if channel < N {
            for (to, pixel) in plane.iter_mut().zip(pixels) {
                *to = pixel[channel];
            }
        }
    }

    fn interleave [T, N] [T: Pod, const N: usize] (planes: [&[T]; N], pixels: &mut [[T; N]]) {
        let planes = planes.map(|plane| &plane[..pixels.len()]);
        for (index, pixel) in pixels.iter_mut().enumerate() {
            for channel in 0..N {
                pixel[channel] = planes[channel][index];
            }
        }
    }

    fn tile [T] [T: Pod] (input: &[T], source_step: usize, result: &mut [T], target_step: usize, size: [usize; 2]) {
        const SIDE: usize = 8;
        let [height, width] = size;
        let (whole_height, whole_width) = (height - height % SIDE, width - width % SIDE);
        for top in (0..whole_height).step_by(SIDE) {
            for left in (0..whole_width).step_by(SIDE) {
                // Through a small array both memories are read and written in contiguous runs.
                let mut block = [[T::zeroed(); SIDE]; SIDE];
                for (column, run) in block.iter_mut().enumerate() {
                    run.copy_from_slice(&input[(left + column) * source_step + top..][..SIDE]);
                }
                for row in 0..SIDE {
                    let run: [T; SIDE] = std::array::from_fn(|column| block[column][row]);
                    result[(top + row) * target_step + left..][..SIDE].copy_from_slice(&run);
                }
            }
        }
        for row in 0..height {
            let rest = if row < whole_height { whole_width } else { 0 };
            for column in rest..width {
                result[row * target_step + column] = input[column * source_step + row];
            }
        }
    }
}

/// Joins inputs: each row of the result is a run of each input.
pub(super) fn join(
    outer: u64,
    lengths: &[u64],
    dtype: DType,
    inputs: &[&Tensor],
    result: &mut Fresh,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let size = dtype.size_bytes().unwrap_or(1);
    let runs: Vec<usize> = lengths.iter().map(|length| (length * size) as usize).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(|input| elements(input)).collect::<Result<_>>()?;
    let mut rest = result.bytes_mut();
    for row in 0..outer as usize {
        for (run, input) in runs.iter().zip(&inputs) {
            let (to, behind) = rest.split_at_mut(*run);
            let from = &input[row * run..row * run + run];
            for (from, to) in from.chunks(Pace::CHUNK).zip(to.chunks_mut(Pace::CHUNK)) {
                pace.spend(from.len() / 8 + Pace::FAR)?;
                to.copy_from_slice(from);
            }
            rest = behind;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Stop;

    fn picked(dims: &[u64], strides: &[i64], start: u64, input: &[u16]) -> Vec<u16> {
        let copy = StridedCopy { dims: dims.to_vec(), strides: strides.to_vec(), start };
        let mut result = vec![0; dims.iter().product::<u64>() as usize];
        pick(&copy, input, &mut result, &mut Pace::new(&Stop::default())).unwrap();
        result
    }

    #[test]
    fn every_path_picks_what_the_strides_say() {
        let input: Vec<u16> = (0..40_000).collect();
        for (dims, strides, start) in [
            (&[][..], &[][..], 7),
            (&[40][..], &[1][..], 3),
            (&[40], &[-3], 200),
            (&[5, 7], &[100, 9], 1),
            (&[2, 1_500], &[1, 2], 0),
            (&[3, 2_000], &[1, 3], 5),
            (&[4, 33], &[1, 4], 0),
            (&[1_500, 3], &[1, 1_500], 2),
            (&[70, 4], &[1, 70], 0),
            (&[70, 65], &[1, 70], 0),
            (&[65, 33], &[1, -70], 70 * 40),
            (&[3, 4, 70, 33], &[7, 1, 300, 4], 11),
            (&[5, 3, 6, 4], &[72, 1, 12, 3], 0),
            (&[2, 5, 3], &[1, 6, 2], 0),
        ] {
            let mut expected = Vec::new();
            let sizes = dims.iter().map(|dim| *dim as usize).collect();
            let mut odometer = Odometer::new(sizes, strides.iter().map(|s| [*s as isize]).collect(), [start as isize]);
            for _ in 0..odometer.steps() {
                expected.push(input[odometer.at[0] as usize]);
                odometer.step();
            }
            assert_eq!(picked(dims, strides, start, &input), expected, "{dims:?} {strides:?}");
        }
    }
}
