//! `cumulative-sum`: sums of all elements before an element; it never adds floats up in less than f64.

use super::element::Number;
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::error::Result;

/// Lanes that are worked on together.
const BLOCK: usize = 64;

/// Sums along the middle of [outer, length, inner].
pub(super) struct Scan {
    /// Outer, length, inner.
    pub(super) sizes: [u64; 3],
    /// Whether each sum leaves out its own element.
    pub(super) exclusive: bool,
    /// Whether sums start at the axis' end.
    pub(super) reverse: bool,
}

impl Scan {
    /// Writes the sums.
    pub(super) fn run<T: Number>(&self, input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
        let [outer, length, inner] = self.sizes.map(|size| size as usize);
        let far = if inner == 1 { 4 } else { Pace::FAR };
        for row in 0..outer {
            for column in (0..inner).step_by(BLOCK) {
                let count = BLOCK.min(inner - column);
                let mut sums = [T::NO_SUM; BLOCK];
                for step in 0..length {
                    pace.spend(count + far)?;
                    let step = if self.reverse { length - 1 - step } else { step };
                    let at = (row * length + step) * inner + column;
                    let (from, to) = (&input[at..at + count], &mut result[at..at + count]);
                    if count == 1 {
                        let sum = from[0].add_to(sums[0]);
                        to[0] = T::of_sum(if self.exclusive { sums[0] } else { sum });
                        sums[0] = sum;
                    } else {
                        add::<T>(from, to, &mut sums[..count], self.exclusive);
                    }
                }
            }
        }
        Ok(())
    }
}

vectorised! {
    fn add [T] [T: Number] (from: &[T], to: &mut [T], sums: &mut [T::Sum], exclusive: bool) {
        for ((x, to), sum) in from.iter().zip(to).zip(sums) {
            let next = x.add_to(*sum);
            *to = T::of_sum(if exclusive { *sum } else { next });
            *sum = next;
        }
    }
}
