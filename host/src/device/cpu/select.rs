//! `select`: one of two elements by a condition; it never copies an operand to make it larger.

use super::element::{Bit, with_bits};
use super::memory::{Fresh, elements};
use super::strided::Odometer;
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{Broadcast, Tensor};
use crate::error::Result;
use bytemuck::Pod;

/// Picks from `a` where the condition is true, else from `b`.
pub(super) fn run(
    broadcast: &Broadcast<3>,
    [condition, a, b]: [&Tensor; 3],
    result: &mut Fresh,
    pace: &mut Pace<'_>,
) -> Result<()> {
    with_bits!(a.dtype(), T => {
        each::<T>(broadcast, elements(condition)?, [elements(a)?, elements(b)?], result.elements_mut()?, pace)
    })
}

fn each<T: Pod>(
    Broadcast { dims, strides }: &Broadcast<3>,
    condition: &[Bit],
    [a, b]: [&[T]; 2],
    result: &mut [T],
    pace: &mut Pace<'_>,
) -> Result<()> {
    let outer = dims.len().saturating_sub(1);
    let sizes = dims[..outer].iter().map(|dim| *dim as usize).collect();
    let outer_strides = strides[..outer].iter().map(|strides| strides.map(|stride| stride as isize)).collect();
    let columns = dims.last().map_or(1, |dim| *dim as usize);
    let steps = strides.last().map_or([0; 3], |strides| strides.map(|stride| stride as usize));
    let mut rows = Odometer::new(sizes, outer_strides, [0; 3]);
    for row in result.chunks_exact_mut(columns) {
        for (index, to) in row.chunks_mut(Pace::CHUNK).enumerate() {
            pace.spend(to.len() + Pace::FAR)?;
            let at: [usize; 3] =
                std::array::from_fn(|operand| rows.at[operand] as usize + index * Pace::CHUNK * steps[operand]);
            let (condition, a, b) = (&condition[at[0]..], &a[at[1]..], &b[at[2]..]);
            // The innermost steps are 0 or 1: an operand has a row, or one element that is repeated.
            match steps {
                [0, ..] => {
                    let (from, step) = if condition[0].0 != 0 { (a, steps[1]) } else { (b, steps[2]) };
                    if step == 0 { to.fill(from[0]) } else { to.copy_from_slice(&from[..to.len()]) }
                }
                [_, 0, 0] => pick(condition, |_| a[0], |_| b[0], to),
                [_, 0, _] => pick(condition, |_| a[0], |index| b[index], to),
                [_, _, 0] => pick(condition, |index| a[index], |_| b[0], to),
                [_, _, _] => {
                    let (a, b) = (&a[..to.len()], &b[..to.len()]);
                    both(condition, a, b, to);
                }
            }
        }
        rows.step();
    }
    Ok(())
}

vectorised! {
    fn both [T] [T: Pod] (condition: &[Bit], a: &[T], b: &[T], to: &mut [T]) {
        for (((condition, a), b), to) in condition.iter().zip(a).zip(b).zip(to) {
            *to = if condition.0 != 0 { *a } else { *b };
        }
    }

    fn pick [T, A, B] [T: Pod, A: Fn(usize) -> T, B: Fn(usize) -> T]
        (condition: &[Bit], a: A, b: B, to: &mut [T]) {
        for (index, (condition, to)) in condition.iter().zip(to).enumerate() {
            *to = if condition.0 != 0 { a(index) } else { b(index) };
        }
    }
}
