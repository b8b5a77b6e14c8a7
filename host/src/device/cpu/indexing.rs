//! `gather`, `one-hot` and `split`: moves elements to and from the places that indices or lengths give; it never uses an
//! unchecked index.

use super::cast::bits_of;
use super::element::{with_bits, with_integer};
use super::memory::{Fresh, elements, room};
use crate::device::op::index_out_of_range;
use crate::device::stop::Pace;
use crate::device::{Account, Charge, DType, Tensor};
use crate::error::Result;
use bytemuck::Pod;
use std::sync::Arc;

/// Indices from the start of an axis, and the charge for them.
fn places(
    name: &str,
    indices: &Tensor,
    length: u64,
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<(Vec<usize>, Charge)> {
    let charge = account.charge(indices.shape().elements().saturating_mul(size_of::<usize>() as u64))?;
    let places = with_integer!(indices.dtype(), I => checked::<I>(elements(indices)?, length, pace));
    Ok((places.map_err(|error| error.context(name))?, charge))
}

fn checked<I: Pod + Into<i128>>(indices: &[I], length: u64, pace: &mut Pace<'_>) -> Result<Vec<usize>> {
    let mut places = room(indices.len())?;
    for part in indices.chunks(Pace::CHUNK / 4) {
        pace.spend(part.len() * 4)?;
        for &index in part {
            let index: i128 = index.into();
            let from_start = if index < 0 { index + i128::from(length) } else { index };
            match usize::try_from(from_start) {
                Ok(place) if (place as u64) < length => places.push(place),
                _ => {
                    return Err(index_out_of_range(places.len() as u64, index, length));
                }
            }
        }
    }
    Ok(places)
}

/// Copies the runs of [outer, length, inner] that indices name.
pub(super) fn gather(
    [outer, length, inner]: [u64; 3],
    input: &Tensor,
    indices: &Tensor,
    result: &mut Fresh,
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let (places, _charge) = places("gather", indices, length, account, pace)?;
    if result.bytes_mut().is_empty() {
        return Ok(());
    }
    let sizes = [outer, length, inner].map(|size| size as usize);
    with_bits!(input.dtype(), T => runs::<T>(sizes, &places, elements(input)?, result.elements_mut()?, pace))
}

fn runs<T: Pod>(
    [outer, length, inner]: [usize; 3],
    places: &[usize],
    input: &[T],
    result: &mut [T],
    pace: &mut Pace<'_>,
) -> Result<()> {
    let rows = result.chunks_exact_mut(places.len() * inner);
    for (row, to) in (0..outer).zip(rows) {
        let from = &input[row * length * inner..(row + 1) * length * inner];
        if inner == 1 {
            for (places, to) in places.chunks(Pace::FAR_CHUNK).zip(to.chunks_mut(Pace::FAR_CHUNK)) {
                pace.spend(to.len() * Pace::FAR)?;
                for (place, to) in places.iter().zip(to) {
                    *to = from[*place];
                }
            }
            continue;
        }
        for (place, to) in places.iter().zip(to.chunks_exact_mut(inner)) {
            copied(&from[place * inner..(place + 1) * inner], to, pace)?;
        }
    }
    Ok(())
}

fn copied<T: Pod>(from: &[T], to: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    for (from, to) in from.chunks(Pace::CHUNK).zip(to.chunks_mut(Pace::CHUNK)) {
        pace.spend(from.len() + Pace::FAR)?;
        to.copy_from_slice(from);
    }
    Ok(())
}

/// Writes a 1 where each index says, into zeroed memory.
pub(super) fn one_hot(
    [outer, depth, inner]: [u64; 3],
    dtype: DType,
    indices: &Tensor,
    result: &mut Fresh,
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let (places, _charge) = places("one-hot", indices, depth, account, pace)?;
    if result.bytes_mut().is_empty() {
        return Ok(());
    }
    let one = bits_of(1.0, dtype)?;
    let [outer, depth, inner] = [outer, depth, inner].map(|size| size as usize);
    with_bits!(dtype, T => {
        let result: &mut [T] = result.elements_mut()?;
        for (row, places) in (0..outer).zip(places.chunks_exact(inner)) {
            for (column, place) in places.iter().enumerate() {
                // Most of them touch a page for the first time.
                pace.spend(4 * Pace::FAR)?;
                result[(row * depth + place) * inner + column] = one as T;
            }
        }
        Ok(())
    })
}

/// Cuts rows into runs, one for each result.
pub(super) fn split<'a>(
    outer: u64,
    lengths: &[u64],
    input: &Tensor,
    results: impl Iterator<Item = &'a mut Fresh>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let size = input.dtype().size_bytes().unwrap_or(1);
    let row: usize = lengths.iter().map(|length| (length * size) as usize).sum();
    let from: &[u8] = elements(input)?;
    let mut start = 0;
    for (length, result) in lengths.iter().zip(results) {
        let run = (length * size) as usize;
        if run > 0 {
            for (index, to) in (0..outer as usize).zip(result.bytes_mut().chunks_exact_mut(run)) {
                copied(&from[index * row + start..index * row + start + run], to, pace)?;
            }
        }
        start += run;
    }
    Ok(())
}
