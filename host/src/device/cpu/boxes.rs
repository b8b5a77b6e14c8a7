//! `non-maximum-suppression`: boxes by decreasing score, without those that overlap a better one; it never compares a box with a
//! dropped one.

use super::element::{Float, Wide};
use super::memory::room;
use super::sort::{Buffers, Packed};
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{Account, Suppression};
use crate::error::Result;
use std::sync::Arc;

/// Kept boxes that are compared at once.
const BLOCK: usize = 64;

/// Boxes by columns: left, top, right, bottom (or the same with the axes swapped) and area.
struct Kept<W>([Vec<W>; 5]);

/// Writes the indices of the boxes that are kept, followed by -1, and gives their number.
pub(super) fn run<T: Float>(
    suppression: Suppression,
    boxes: &[T],
    scores: &[T],
    indices: &mut [i64],
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<i64> {
    for part in indices.chunks_mut(Pace::CHUNK) {
        pace.spend(part.len())?;
        part.fill(-1);
    }
    let most = indices.len().min(scores.len());
    let mut order = Buffers::<u128>::default();
    order.reserve(scores.len(), account)?;
    let _scratch = account.charge((most * size_of::<[T::Wide; 5]>()) as u64)?;
    let least = T::Wide::of_f64(suppression.score.into());
    for (index, score) in scores.iter().enumerate() {
        pace.spend(1)?;
        if score.widen() > least {
            order.items.push(u128::pack(u64::MAX - score.rank(), index));
        }
    }
    order.order(pace)?;
    let overlap = T::Wide::of_f64(suppression.overlap.into());
    let mut kept = Kept([room(most)?, room(most)?, room(most)?, room(most)?, room(most)?]);
    let mut count = 0;
    for index in order.items.iter().map(|item| item.index()) {
        if count == most {
            break;
        }
        pace.spend(count + 16)?;
        let [a, b, c, d] = [0, 1, 2, 3].map(|corner| boxes[index * 4 + corner].widen());
        let [left, right] = if c < a { [c, a] } else { [a, c] };
        let [top, bottom] = if d < b { [d, b] } else { [b, d] };
        let candidate = [left, top, right, bottom, (right - left) * (bottom - top)];
        if kept.overlaps(candidate, overlap) {
            continue;
        }
        for (column, value) in kept.0.iter_mut().zip(candidate) {
            column.push(value);
        }
        indices[count] = index as i64;
        count += 1;
    }
    Ok(count as i64)
}

impl<W: Wide> Kept<W> {
    /// Whether one of the boxes overlaps the candidate by more than `most` of their union.
    fn overlaps(&self, candidate: [W; 5], most: W) -> bool {
        let [left, top, right, bottom, area] = &self.0;
        (0..left.len()).step_by(BLOCK).any(|at| {
            let part = at..(at + BLOCK).min(left.len());
            let columns = [left, top, right, bottom, area].map(|column| &column[part.clone()]);
            any_overlap::<W>(columns, candidate, most)
        })
    }
}

vectorised! {
    fn any_overlap [W] [W: Wide] (kept: [&[W]; 5], candidate: [W; 5], most: W) -> bool {
        let count = kept[0].len();
        let [left, top, right, bottom, area] = kept.map(|column| &column[..count]);
        let mut found = false;
        for index in 0..count {
            let width = smaller(right[index], candidate[2]) - larger(left[index], candidate[0]);
            let height = smaller(bottom[index], candidate[3]) - larger(top[index], candidate[1]);
            let both = larger(width, W::ZERO) * larger(height, W::ZERO);
            found |= both / (area[index] + candidate[4] - both) > most;
        }
        found
    }
}

#[inline(always)]
fn larger<W: Wide>(a: W, b: W) -> W {
    if b > a { b } else { a }
}

#[inline(always)]
fn smaller<W: Wide>(a: W, b: W) -> W {
    if b < a { b } else { a }
}
