//! `sort`: all elements of each lane with their indices, in the order of values and then of indices; it never compares more
//! than a few thousand elements between two checks of a stop.

use super::element::Element;
use crate::device::Account;
use crate::device::stop::Pace;
use crate::error::Result;
use std::sync::Arc;

/// Elements that are sorted at once; longer runs are merged.
const RUN: usize = 1 << 14;

/// A sort along the middle of [outer, length, inner].
pub(super) struct Sort {
    /// Outer, length, inner.
    pub(super) sizes: [u64; 3],
    /// The largest first.
    pub(super) descending: bool,
}

/// An element's place in the order above its index, in one number.
pub(super) trait Packed: Copy + Ord {
    fn pack(place: u64, index: usize) -> Self;
    fn index(self) -> usize;
}

impl Packed for u64 {
    #[inline(always)]
    fn pack(place: u64, index: usize) -> u64 {
        place << 32 | index as u64
    }
    #[inline(always)]
    fn index(self) -> usize {
        self as u32 as usize
    }
}

impl Packed for u128 {
    #[inline(always)]
    fn pack(place: u64, index: usize) -> u128 {
        u128::from(place) << 64 | index as u128
    }
    #[inline(always)]
    fn index(self) -> usize {
        self as u64 as usize
    }
}

impl Sort {
    /// Writes values and indices.
    pub(super) fn run<T: Element>(
        &self,
        input: &[T],
        values: &mut [T],
        indices: &mut [i64],
        account: &Arc<Account>,
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        let [outer, length, inner] = self.sizes.map(|size| size as usize);
        let item = if size_of::<T>() <= 4 { size_of::<u64>() } else { size_of::<u128>() };
        let _scratch = account.charge((length as u64).saturating_mul(2 * item as u64))?;
        if length == 0 {
            return Ok(());
        }
        let (mut narrow, mut wide) = (Buffers::<u64>::default(), Buffers::<u128>::default());
        for row in 0..outer {
            for column in 0..inner {
                let first = row * length * inner + column;
                let lane = || input[first..].iter().step_by(inner).take(length);
                let (mut least, mut most) = (u64::MAX, 0);
                for (index, x) in lane().enumerate() {
                    if index % RUN == 0 {
                        pace.spend(2 * RUN.min(length) + 8)?;
                    }
                    (least, most) = (least.min(x.rank()), most.max(x.rank()));
                }
                let place = |x: T| if self.descending { most - x.rank() } else { x.rank() - least };
                let mut to = |index: usize, from: usize| {
                    let at = first + index * inner;
                    (values[at], indices[at]) = (input[first + from * inner], from as i64);
                };
                // Most lanes are of types, or of values, that fit in half the memory.
                match most - least <= u64::from(u32::MAX) && length <= u32::MAX as usize {
                    true => narrow.sort(lane().map(|x| place(*x)), &mut to, pace)?,
                    false => wide.sort(lane().map(|x| place(*x)), &mut to, pace)?,
                }
            }
        }
        Ok(())
    }
}

/// What is sorted, and as much room to merge into.
#[derive(Default)]
pub(super) struct Buffers<P> {
    items: Vec<P>,
    merged: Vec<P>,
}

impl<P: Packed> Buffers<P> {
    /// Sorts places and calls `to` with each position and the index of what belongs there.
    pub(super) fn sort(
        &mut self,
        places: impl Iterator<Item = u64>,
        mut to: impl FnMut(usize, usize),
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        self.items.clear();
        self.items.reserve_exact(places.size_hint().0);
        for (index, place) in places.enumerate() {
            if index % RUN == 0 {
                pace.spend(RUN * 2)?;
            }
            self.items.push(P::pack(place, index));
        }
        for run in self.items.chunks_mut(RUN) {
            // A few hundred microseconds.
            pace.spend(run.len() * 64)?;
            run.sort_unstable();
        }
        let mut width = RUN;
        self.merged.reserve_exact(if self.items.len() > RUN { self.items.len() } else { 0 });
        while width < self.items.len() {
            self.merged.clear();
            for pair in self.items.chunks(2 * width) {
                let (a, b) = pair.split_at(width.min(pair.len()));
                merge(a, b, &mut self.merged, pace)?;
            }
            std::mem::swap(&mut self.items, &mut self.merged);
            width *= 2;
        }
        for (part, items) in self.items.chunks(RUN).enumerate() {
            pace.spend(items.len() * 4)?;
            for (index, item) in items.iter().enumerate() {
                to(part * RUN + index, item.index());
            }
        }
        Ok(())
    }
}

fn merge<P: Packed>(mut a: &[P], mut b: &[P], to: &mut Vec<P>, pace: &mut Pace<'_>) -> Result<()> {
    while let ([_, ..], [_, ..]) = (a, b) {
        let steps = RUN.min(a.len()).min(b.len());
        pace.spend(steps * 6)?;
        let (mut i, mut j) = (0, 0);
        for _ in 0..steps {
            let first = a[i] < b[j];
            to.push(if first { a[i] } else { b[j] });
            i += usize::from(first);
            j += usize::from(!first);
        }
        (a, b) = (&a[i..], &b[j..]);
    }
    to.extend_from_slice(a);
    to.extend_from_slice(b);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Ledger, Owner, Stop};
    use crate::error::Kind;

    fn sorted<T: Element>(input: &[T], descending: bool, stop: &Stop) -> Result<(Vec<T>, Vec<i64>)> {
        let account = Ledger::new(1 << 30).account(Owner::Workspace, 1 << 30, 10);
        let (mut values, mut indices) = (input.to_vec(), vec![0; input.len()]);
        let sort = Sort { sizes: [1, input.len() as u64, 1], descending };
        sort.run(input, &mut values, &mut indices, &account, &mut Pace::new(stop))?;
        Ok((values, indices))
    }

    #[test]
    fn long_lanes_are_merged_and_equal_elements_keep_their_order() {
        let stop = Stop::default();
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        };
        for length in [0, 1, RUN, RUN + 1, 5 * RUN + 3] {
            let narrow: Vec<i32> = (0..length).map(|_| random() as i32 % 1_000 - 500).collect();
            let wide: Vec<i64> = (0..length).map(|_| (random() << 40) as i64 | random() as i64 & 1).collect();
            for descending in [false, true] {
                let order = |key: &dyn Fn(usize) -> i64| {
                    let mut order: Vec<usize> = (0..length).collect();
                    order.sort_by_key(|index| if descending { -i128::from(key(*index)) } else { key(*index).into() });
                    order.into_iter().map(|index| index as i64).collect::<Vec<_>>()
                };
                let (values, indices) = sorted(&narrow, descending, &stop).unwrap();
                assert_eq!(indices, order(&|index| narrow[index].into()));
                assert!(values.iter().zip(&indices).all(|(value, index)| *value == narrow[*index as usize]));
                let (values, indices) = sorted(&wide, descending, &stop).unwrap();
                assert_eq!(indices, order(&|index| wide[index]));
                assert!(values.iter().zip(&indices).all(|(value, index)| *value == wide[*index as usize]));
            }
        }
    }

    #[test]
    fn a_stopped_sort_ends() {
        let stop = Stop::default();
        stop.cancel();
        let error = sorted(&vec![1.5f32; 1 << 21], false, &stop).unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled);
    }
}
