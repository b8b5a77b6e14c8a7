//! `sort`: all elements of each lane with their indices, ordered by value and then by index, and the buffers that `top-k` uses
//! too; it never compares more than a few thousand elements between two checks of a stop.

use super::element::Element;
use super::memory::room;
use crate::device::stop::Pace;
use crate::device::{Account, Charge};
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
        if length == 0 {
            return Ok(());
        }
        let (mut narrow, mut wide) = (Buffers::<u64>::default(), Buffers::<u128>::default());
        let each = 1 + Pace::apart(inner * size_of::<T>());
        for first in starts([outer, length, inner]) {
            let lane = Lane { elements: &input[first..], inner };
            let elements = || lane.elements.iter().step_by(inner).take(length);
            let (mut least, mut most) = (u64::MAX, 0);
            for (index, x) in elements().enumerate() {
                if index % RUN == 0 {
                    pace.spend(each * RUN.min(length) + 8)?;
                }
                (least, most) = (least.min(x.rank()), most.max(x.rank()));
            }
            let place = |x: &T| if self.descending { most - x.rank() } else { x.rank() - least };
            let to = (&mut values[first..], &mut indices[first..]);
            // Most lanes have types, or values, that fit in half the memory.
            match most - least <= u64::from(u32::MAX) && length <= u32::MAX as usize {
                true => narrow.sort(elements().map(place), lane, to, account, pace)?,
                false => wide.sort(elements().map(place), lane, to, account, pace)?,
            }
        }
        Ok(())
    }
}

/// The first element of each lane of [outer, length, inner], in memory's order.
pub(super) fn starts([outer, length, inner]: [usize; 3]) -> impl Iterator<Item = usize> {
    (0..outer).flat_map(move |row| (0..inner).map(move |column| row * length * inner + column))
}

/// A lane from its first element on; every `inner`th element belongs to it.
#[derive(Clone, Copy)]
pub(super) struct Lane<'a, T> {
    /// The memory.
    pub(super) elements: &'a [T],
    /// Elements from one to the next.
    pub(super) inner: usize,
}

/// The items that are sorted, and as much room to merge into; both are charged as long as they exist.
pub(super) struct Buffers<P> {
    /// The items. Their number must not exceed what was reserved.
    pub(super) items: Vec<P>,
    merged: Vec<P>,
    charges: Vec<Charge>,
}

impl<P> Default for Buffers<P> {
    fn default() -> Self {
        Buffers { items: Vec::new(), merged: Vec::new(), charges: Vec::new() }
    }
}

impl<P: Packed> Buffers<P> {
    /// Makes room for `count` items, but not for sorting them, unless there is enough. The contents of the buffers are lost.
    pub(super) fn reserve_items(&mut self, count: usize, account: &Arc<Account>) -> Result<()> {
        self.items.clear();
        if self.items.capacity() < count {
            self.items = charged(count, &mut self.charges, account)?;
        }
        Ok(())
    }

    /// Makes room for `count` items and for sorting them, unless there is enough. The contents of the buffers are lost.
    pub(super) fn reserve(&mut self, count: usize, account: &Arc<Account>) -> Result<()> {
        self.reserve_items(count, account)?;
        if count > RUN && self.merged.capacity() < count {
            self.merged = charged(count, &mut self.charges, account)?;
        }
        Ok(())
    }

    /// Sorts the items.
    pub(super) fn order(&mut self, pace: &mut Pace<'_>) -> Result<()> {
        for run in self.items.chunks_mut(RUN) {
            // A few hundred microseconds.
            pace.spend(run.len() * 64)?;
            run.sort_unstable();
        }
        let mut width = RUN;
        while width < self.items.len() {
            self.merged.clear();
            for pair in self.items.chunks(2 * width) {
                let (a, b) = pair.split_at(width.min(pair.len()));
                merge(a, b, &mut self.merged, pace)?;
            }
            std::mem::swap(&mut self.items, &mut self.merged);
            width *= 2;
        }
        Ok(())
    }

    /// Sorts the elements of a lane by their places.
    fn sort<T: Element>(
        &mut self,
        places: impl ExactSizeIterator<Item = u64>,
        lane: Lane<'_, T>,
        to: (&mut [T], &mut [i64]),
        account: &Arc<Account>,
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        self.reserve(places.len(), account)?;
        let each = 1 + Pace::apart(lane.inner * size_of::<T>());
        for (index, place) in places.enumerate() {
            if index % RUN == 0 {
                pace.spend(RUN * each)?;
            }
            self.items.push(P::pack(place, index));
        }
        self.order(pace)?;
        self.write(lane, to, pace)
    }

    /// Writes the elements of the items, in the items' order, and their indices; both results have the layout of the lane.
    pub(super) fn write<T: Element>(
        &self,
        lane: Lane<'_, T>,
        (values, indices): (&mut [T], &mut [i64]),
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        for (part, items) in self.items.chunks(Pace::FAR_CHUNK).enumerate() {
            // In sorted order, elements are read from all over the lane.
            pace.spend(items.len() * Pace::FAR)?;
            for (place, item) in items.iter().enumerate() {
                let at = (part * Pace::FAR_CHUNK + place) * lane.inner;
                (values[at], indices[at]) = (lane.elements[item.index() * lane.inner], item.index() as i64);
            }
        }
        Ok(())
    }
}

fn charged<P>(count: usize, charges: &mut Vec<Charge>, account: &Arc<Account>) -> Result<Vec<P>> {
    charges.push(account.charge((count as u64).saturating_mul(size_of::<P>() as u64))?);
    room(count)
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
    for part in a.chunks(Pace::CHUNK).chain(b.chunks(Pace::CHUNK)) {
        pace.spend(part.len())?;
        to.extend_from_slice(part);
    }
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
    fn what_is_held_is_charged() {
        let stop = Stop::default();
        let account = Ledger::new(1 << 30).account(Owner::Workspace, 1 << 30, 10);
        // The first lane fits the narrow buffers, the second takes the wide ones.
        let length = RUN + 1;
        let input: Vec<i64> = (0..length as i64).chain((0..length as i64).map(|x| x << 40)).collect();
        let (mut values, mut indices) = (input.clone(), vec![0; input.len()]);
        let sort = Sort { sizes: [2, length as u64, 1], descending: false };
        sort.run(&input, &mut values, &mut indices, &account, &mut Pace::new(&stop)).unwrap();
        assert_eq!((account.peak_bytes(), account.used_bytes()), (2 * length as u64 * (8 + 16), 0));
        let small = Ledger::new(1 << 30).account(Owner::Workspace, 2 * length as u64 * (8 + 16) - 1, 10);
        let error = sort.run(&input, &mut values, &mut indices, &small, &mut Pace::new(&stop)).unwrap_err();
        assert_eq!(error.kind(), Kind::LimitExceeded);
    }

    #[test]
    fn a_stopped_sort_ends() {
        let stop = Stop::default();
        stop.cancel();
        let error = sorted(&vec![1.5f32; 1 << 21], false, &stop).unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled);
    }
}
