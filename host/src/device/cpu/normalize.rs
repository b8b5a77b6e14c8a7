//! `normalize`: a factor and a summand per channel; it always gives f32.

use super::element::Element;
use super::memory::room;
use super::vectorised::vectorised;
use crate::device::Account;
use crate::device::stop::Pace;
use crate::error::Result;
use std::sync::Arc;

/// [outer, channels, inner] of any dtype to f32.
pub(super) fn run<T: Element>(
    [outer, inner]: [usize; 2],
    scale: &[f32],
    offset: &[f32],
    input: &[T],
    result: &mut [f32],
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    if inner >= LONG || scale.len() == 1 {
        let mut channels = (0..outer).flat_map(|_| scale.iter().zip(offset));
        for (from, to) in input.chunks_exact(inner).zip(result.chunks_exact_mut(inner)) {
            let Some((&scale, &offset)) = channels.next() else { break };
            for (from, to) in from.chunks(Pace::CHUNK).zip(to.chunks_mut(Pace::CHUNK)) {
                pace.spend(from.len())?;
                plane(from, to, scale, offset);
            }
        }
        return Ok(());
    }
    // Short runs of channels: the numbers are repeated until the loops over them are long.
    let period = scale.len() * inner;
    let repeats = LONG.div_ceil(period);
    let _scratch = account.charge((2 * period * repeats * size_of::<f32>()) as u64)?;
    let mut spread = |numbers: &[f32]| -> Result<Vec<f32>> {
        let mut long = room(period * repeats)?;
        for numbers in std::iter::repeat_n(numbers, repeats).flat_map(|numbers| numbers.chunks(Pace::CHUNK / LONG)) {
            pace.spend(numbers.len() * inner)?;
            long.extend(numbers.iter().flat_map(|number| std::iter::repeat_n(*number, inner)));
        }
        Ok(long)
    };
    let (scale, offset) = (spread(scale)?, spread(offset)?);
    for (from, to) in input.chunks(scale.len()).zip(result.chunks_mut(scale.len())) {
        let parts = from.chunks(Pace::CHUNK).zip(to.chunks_mut(Pace::CHUNK));
        for ((from, to), (scale, offset)) in parts.zip(scale.chunks(Pace::CHUNK).zip(offset.chunks(Pace::CHUNK))) {
            pace.spend(from.len())?;
            pattern(from, to, scale, offset);
        }
    }
    Ok(())
}

/// Runs of at least this many elements are worth their own loop.
const LONG: usize = 96;

vectorised! {
    fn plane [T] [T: Element] (from: &[T], to: &mut [f32], scale: f32, offset: f32) {
        for (from, to) in from.iter().zip(to) {
            *to = from.to_f32() * scale + offset;
        }
    }

    fn pattern [T] [T: Element] (from: &[T], to: &mut [f32], scale: &[f32], offset: &[f32]) {
        for (((from, to), scale), offset) in from.iter().zip(to).zip(scale).zip(offset) {
            *to = from.to_f32() * scale + offset;
        }
    }
}
