//! `top-k`: the k largest or smallest of each lane, sorted; it holds about 2 k candidates at a time, however long a
//! lane is.

use super::element::Element;
use crate::device::Account;
use crate::device::stop::Pace;
use crate::error::Result;
use std::sync::Arc;

/// A search along the middle of [outer, length, inner].
pub(super) struct Search {
    /// Outer, length, inner.
    pub(super) sizes: [u64; 3],
    /// How many.
    pub(super) k: u64,
    /// The largest ones, or else the smallest.
    pub(super) largest: bool,
}

/// An element's rank, larger is better, then its index, smaller is better.
type Candidate = (u64, std::cmp::Reverse<u64>);

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
        let room = (2 * k + 64).min(length);
        let _scratch = account.charge((room * size_of::<Candidate>()) as u64)?;
        let mut best: Vec<Candidate> = Vec::with_capacity(room);
        for row in 0..outer {
            for column in 0..inner {
                pace.spend(length + 4 * k)?;
                let lane = input[row * length * inner + column..].iter().step_by(inner).take(length);
                self.search(lane, k, room, &mut best);
                best.sort_unstable_by(|a, b| b.cmp(a));
                for (place, (_, index)) in best.drain(..).enumerate() {
                    let to = (row * k + place) * inner + column;
                    values[to] = input[(row * length + index.0 as usize) * inner + column];
                    indices[to] = index.0 as i64;
                }
            }
        }
        Ok(())
    }

    fn search<'a, T: Element>(
        &self,
        lane: impl Iterator<Item = &'a T>,
        k: usize,
        room: usize,
        best: &mut Vec<Candidate>,
    ) {
        // Later elements have larger indices, so one must be better than the worst kept to matter.
        let mut worst = None;
        let flip = if self.largest { 0 } else { u64::MAX };
        for (index, element) in lane.enumerate() {
            let rank = element.rank() ^ flip;
            if worst.is_some_and(|worst| rank <= worst) {
                continue;
            }
            if best.len() == room {
                let (_, last, _) = best.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
                let last = last.0;
                worst = Some(last);
                best.truncate(k);
                if rank <= last {
                    continue;
                }
            }
            best.push((rank, std::cmp::Reverse(index as u64)));
        }
        if best.len() > k {
            best.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            best.truncate(k);
        }
    }
}
