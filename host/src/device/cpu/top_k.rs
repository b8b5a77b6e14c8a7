//! `top-k`: the k largest or smallest of each lane, sorted; it holds about 2 k candidates at a time (4 k of a large k),
//! however long a lane is.

use super::element::Element;
use super::sort::{Buffers, Lane, Packed, starts};
use crate::device::Account;
use crate::device::stop::Pace;
use crate::error::Result;
use std::sync::Arc;

/// Candidates are sorted in one go up to this k, which takes about a millisecond; more of them step by step.
const LARGE: usize = 1 << 14;
/// Elements that are examined between two checks of a stop.
const PART: usize = Pace::FAR_CHUNK;

/// A search along the middle of [outer, length, inner].
pub(super) struct Search {
    /// Outer, length, inner.
    pub(super) sizes: [u64; 3],
    /// How many.
    pub(super) k: u64,
    /// The largest ones, or else the smallest.
    pub(super) largest: bool,
}

/// The candidates of one lane: an element's place in the upper bits, its index in the lower ones. Smaller is better.
struct Best {
    buffers: Buffers<u128>,
    /// The most candidates at once: more than k, or the whole lane.
    room: usize,
    k: usize,
    /// Turns a rank into a place.
    flip: u64,
}

impl Search {
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
        let k = self.k as usize;
        let flip = if self.largest { u64::MAX } else { 0 };
        let mut best = Best { buffers: Buffers::default(), room: (2 * k + 64).min(length), k, flip };
        if k == 0 {
            return Ok(());
        }
        for (from, to) in starts([outer, length, inner]).zip(starts([outer, k, inner])) {
            let lane = Lane { elements: &input[from..], inner };
            best.search(lane, length, account, pace)?;
            best.buffers.write(lane, (&mut values[to..], &mut indices[to..]), pace)?;
        }
        Ok(())
    }
}

impl Best {
    /// Leaves the best k of a lane in the buffers, the best one first.
    fn search<T: Element>(
        &mut self,
        Lane { elements, inner }: Lane<'_, T>,
        length: usize,
        account: &Arc<Account>,
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        match self.k > LARGE {
            true => self.buffers.reserve(self.room, account)?,
            false => self.buffers.reserve_items(self.room, account)?,
        }
        // Later elements have larger indices, so one matters only if it is better than the worst kept one.
        let mut worst = u64::MAX;
        let mut full = false;
        for start in (0..length).step_by(PART) {
            let count = PART.min(length - start);
            pace.spend(count * (1 + Pace::apart(inner * size_of::<T>())))?;
            let part = elements[start * inner..].iter().step_by(inner).take(count);
            for (offset, element) in part.enumerate() {
                let place = element.rank() ^ self.flip;
                if full && place >= worst {
                    continue;
                }
                if self.buffers.items.len() == self.room {
                    self.keep(pace)?;
                    full = true;
                    worst = self.buffers.items.last().map_or(u64::MAX, |item| (item >> 64) as u64);
                    if place >= worst {
                        continue;
                    }
                }
                self.buffers.items.push(u128::pack(place, start + offset));
            }
        }
        self.keep(pace)?;
        if self.k <= LARGE {
            pace.spend(self.k * 16)?;
            self.buffers.items.sort_unstable();
        }
        Ok(())
    }

    /// Drops all but the best k, and leaves the worst of these at the end.
    fn keep(&mut self, pace: &mut Pace<'_>) -> Result<()> {
        if self.k > LARGE {
            self.buffers.order(pace)?;
        } else if self.buffers.items.len() > self.k {
            pace.spend(self.buffers.items.len() * 4)?;
            self.buffers.items.select_nth_unstable(self.k - 1);
        }
        self.buffers.items.truncate(self.k);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Ledger, Owner, Stop};
    use crate::error::Kind;

    fn found(input: &[i32], sizes: [u64; 3], k: usize, largest: bool, stop: &Stop) -> Result<(Vec<i32>, Vec<i64>)> {
        let account = Ledger::new(1 << 30).account(Owner::Workspace, 1 << 30, 10);
        let lanes = (sizes[0] * sizes[2]) as usize;
        let (mut values, mut indices) = (vec![0; lanes * k], vec![0; lanes * k]);
        let search = Search { sizes, k: k as u64, largest };
        search.run(input, &mut values, &mut indices, &account, &mut Pace::new(stop))?;
        let held = (2 * k + 64).min(sizes[1] as usize) as u64 * 16 * if k > LARGE { 2 } else { 1 };
        assert_eq!((account.peak_bytes(), account.used_bytes()), (held, 0));
        Ok((values, indices))
    }

    #[test]
    fn every_k_gives_the_start_of_a_sort() {
        let stop = Stop::default();
        let length = PART + 3 * LARGE;
        let scrambled: Vec<i32> = (0..length as u64).map(|x| (x * 2_654_435_761 % 100_003) as i32 - 50_000).collect();
        let rising: Vec<i32> = (0..length as i32).collect();
        for input in [scrambled, rising] {
            for largest in [false, true] {
                let mut order: Vec<usize> = (0..length).collect();
                let key = |index: usize| if largest { -i64::from(input[index]) } else { i64::from(input[index]) };
                order.sort_by_key(|index| key(*index));
                for k in [1, 1_000, LARGE, LARGE + 1, length - 1, length] {
                    let (values, indices) = found(&input, [1, length as u64, 1], k, largest, &stop).unwrap();
                    assert!(
                        indices.iter().zip(&order).all(|(index, wanted)| *index == *wanted as i64),
                        "{k} {largest}"
                    );
                    assert!(values.iter().zip(&order).all(|(value, wanted)| *value == input[*wanted]), "{k} {largest}");
                }
            }
        }
    }

    #[test]
    fn lanes_lie_apart() {
        let input = [5, 1, 4, 2, 3, 3, 6, 0, 7, 9, 8, 8];
        let (values, indices) = found(&input, [2, 3, 2], 2, true, &Stop::default()).unwrap();
        assert_eq!((values, indices), (vec![5, 3, 4, 2, 8, 9, 7, 8], vec![0, 2, 1, 1, 2, 1, 1, 2]));
    }

    #[test]
    fn a_stopped_search_ends() {
        let stop = Stop::default();
        stop.cancel();
        let length = 1 << 22;
        let input: Vec<i32> = (0..length).collect();
        for k in [1, 1 << 21] {
            let error = found(&input, [1, length as u64, 1], k, true, &stop).unwrap_err();
            assert_eq!(error.kind(), Kind::Cancelled);
        }
    }
}
