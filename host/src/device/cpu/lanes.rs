//! Operators along one axis: softmax and its logarithm, argmax, argmin, l2-normalize and the masked mean; it never holds
//! more than a few lanes.
//!
//! The axis is the middle of [outer, length, inner]. Where `inner` is 1 a lane is contiguous and is worked on as a
//! whole; otherwise neighbouring lanes are worked on together, so that the inner loop is contiguous either way.

use super::element::{Element, Float, Sample, Wide};
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::error::Result;

/// Lanes that are worked on together.
const BLOCK: usize = 64;
/// Independent sums of one lane, so that they become one vector.
const SUMS: usize = 16;
/// Elements that are added up in the type itself before their sum is added to one in f64.
const RUN: usize = 1_024;

/// Calls `work` with the first element and the number of neighbouring lanes of each block, in a tensor whose lanes are
/// `length` long.
fn blocks(
    [outer, length, inner]: [usize; 3],
    pace: &mut Pace<'_>,
    mut work: impl FnMut(usize, usize, &mut Pace<'_>) -> Result<()>,
) -> Result<()> {
    for row in 0..outer {
        for column in (0..inner).step_by(BLOCK) {
            work(row * length * inner + column, BLOCK.min(inner - column), pace)?;
        }
    }
    Ok(())
}

/// The larger of two; the first where one is NaN, which the sum of a softmax shows anyway.
#[inline(always)]
fn larger<W: Wide>(a: W, b: W) -> W {
    if b > a { b } else { a }
}

/// exp(x - max) / sum(exp(x - max)).
pub(super) fn softmax<T: Float>(sizes: [u64; 3], input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    let [outer, length, inner] = sizes.map(|size| size as usize);
    if inner == 1 {
        for (from, to) in input.chunks_exact(length).zip(result.chunks_exact_mut(length)) {
            pace.spend(length * 4)?;
            softmax_lane(from, to);
        }
        return Ok(());
    }
    blocks([outer, length, inner], pace, |start, count, pace| {
        pace.spend(length * count * 4)?;
        softmax_lanes(&input[start..], &mut result[start..], [length, inner, count]);
        Ok(())
    })
}

vectorised! {
    fn softmax_lane [T] [T: Float] (from: &[T], to: &mut [T]) {
        let mut most = [T::Wide::NEGATIVE_INFINITY; SUMS];
        let (blocks, rest) = from.as_chunks::<SUMS>();
        for block in blocks {
            most = std::array::from_fn(|index| larger(most[index], block[index].widen()));
        }
        let most = most.into_iter().chain(rest.iter().map(|x| x.widen()));
        let most = most.fold(T::Wide::NEGATIVE_INFINITY, larger);
        let power = |x: T| (x.widen() - most).exp();
        let mut total = 0.0;
        for (from, to) in from.chunks(RUN).zip(to.chunks_mut(RUN)) {
            let mut sums = [T::Wide::ZERO; SUMS];
            let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<SUMS>(), to.as_chunks_mut::<SUMS>());
            for (from, to) in from.iter().zip(to) {
                let powers: [T::Wide; SUMS] = std::array::from_fn(|index| power(from[index]));
                sums = std::array::from_fn(|index| sums[index] + powers[index]);
                *to = powers.map(T::narrow);
            }
            for ((from, to), sum) in from_rest.iter().zip(to_rest).zip(&mut sums) {
                let power = power(*from);
                *sum += power;
                *to = T::narrow(power);
            }
            total += sums.iter().map(|sum| sum.into_f64()).sum::<f64>();
        }
        let total = T::Wide::of_f64(total);
        for (x, to) in from.iter().zip(to) {
            // A narrow type has lost digits of the power already.
            *to = T::narrow(if T::IS_WIDE { to.widen() } else { power(*x) } / total);
        }
    }

    fn softmax_lanes [T] [T: Float] (from: &[T], to: &mut [T], sizes: [usize; 3]) {
        let [length, inner, count] = sizes;
        let mut most = [T::Wide::NEGATIVE_INFINITY; BLOCK];
        for row in from.chunks(inner).take(length) {
            for (most, x) in most[..count].iter_mut().zip(&row[..count]) {
                *most = larger(*most, x.widen());
            }
        }
        let mut totals = [0.0; BLOCK];
        for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)).take(length) {
            for (((x, to), most), total) in row[..count].iter().zip(&mut to[..count]).zip(&most).zip(&mut totals) {
                let power = (x.widen() - *most).exp();
                *total += power.into_f64();
                *to = T::narrow(power);
            }
        }
        for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)).take(length) {
            for (((x, to), most), total) in row[..count].iter().zip(&mut to[..count]).zip(&most).zip(&totals) {
                let power = if T::IS_WIDE { to.widen() } else { (x.widen() - *most).exp() };
                *to = T::narrow(power / T::Wide::of_f64(*total));
            }
        }
    }
}

/// x - max - ln(sum(exp(x - max))).
pub(super) fn log_softmax<T: Float>(sizes: [u64; 3], input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    /// Elements of one long lane between two checks.
    const PART: usize = Pace::CHUNK / 4;
    let [outer, length, inner] = sizes.map(|size| size as usize);
    if inner == 1 {
        for (from, to) in input.chunks_exact(length).zip(result.chunks_exact_mut(length)) {
            let mut most = T::Wide::NEGATIVE_INFINITY;
            let mut total = 0.0;
            for part in from.chunks(PART) {
                pace.spend(part.len())?;
                most = larger(most, largest_of(part));
            }
            for part in from.chunks(PART) {
                pace.spend(part.len() * 2)?;
                total += sum_of_powers(part, most);
            }
            for (from, to) in from.chunks(PART).zip(to.chunks_mut(PART)) {
                pace.spend(from.len())?;
                less(from, to, most, T::Wide::of_f64(total.ln()));
            }
        }
        return Ok(());
    }
    blocks([outer, length, inner], pace, |start, count, pace| {
        pace.spend(length * count * 4)?;
        log_softmax_lanes(&input[start..], &mut result[start..], [length, inner, count]);
        Ok(())
    })
}

vectorised! {
    fn largest_of [T] [T: Float] (from: &[T]) -> T::Wide {
        let mut most = [T::Wide::NEGATIVE_INFINITY; SUMS];
        let (blocks, rest) = from.as_chunks::<SUMS>();
        for block in blocks {
            most = std::array::from_fn(|index| larger(most[index], block[index].widen()));
        }
        most.into_iter().chain(rest.iter().map(|x| x.widen())).fold(T::Wide::NEGATIVE_INFINITY, larger)
    }

    fn sum_of_powers [T] [T: Float] (from: &[T], most: T::Wide) -> f64 {
        let mut total = 0.0;
        for from in from.chunks(RUN) {
            let mut sums = [T::Wide::ZERO; SUMS];
            let (blocks, rest) = from.as_chunks::<SUMS>();
            for block in blocks {
                sums = std::array::from_fn(|index| sums[index] + (block[index].widen() - most).exp());
            }
            for (x, sum) in rest.iter().zip(&mut sums) {
                *sum += (x.widen() - most).exp();
            }
            total += sums.iter().map(|sum| sum.into_f64()).sum::<f64>();
        }
        total
    }

    fn less [T] [T: Float] (from: &[T], to: &mut [T], most: T::Wide, log: T::Wide) {
        for (x, to) in from.iter().zip(to) {
            *to = T::narrow(x.widen() - most - log);
        }
    }

    fn log_softmax_lanes [T] [T: Float] (from: &[T], to: &mut [T], sizes: [usize; 3]) {
        let [length, inner, count] = sizes;
        let mut most = [T::Wide::NEGATIVE_INFINITY; BLOCK];
        for row in from.chunks(inner).take(length) {
            for (most, x) in most[..count].iter_mut().zip(&row[..count]) {
                *most = larger(*most, x.widen());
            }
        }
        let mut totals = [0.0; BLOCK];
        for row in from.chunks(inner).take(length) {
            for ((x, most), total) in row[..count].iter().zip(&most).zip(&mut totals) {
                *total += (x.widen() - *most).exp().into_f64();
            }
        }
        let logs = totals.map(|total| T::Wide::of_f64(total.ln()));
        for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)).take(length) {
            for (((x, to), most), log) in row[..count].iter().zip(&mut to[..count]).zip(&most).zip(&logs) {
                *to = T::narrow(x.widen() - *most - *log);
            }
        }
    }
}

/// x / max(sqrt(sum(x * x)), epsilon).
pub(super) fn l2_normalize<T: Float>(
    sizes: [u64; 3],
    epsilon: f64,
    input: &[T],
    result: &mut [T],
    pace: &mut Pace<'_>,
) -> Result<()> {
    let [outer, length, inner] = sizes.map(|size| size as usize);
    if inner == 1 {
        for (from, to) in input.chunks_exact(length).zip(result.chunks_exact_mut(length)) {
            pace.spend(length * 2)?;
            l2_lane(from, to, epsilon);
        }
        return Ok(());
    }
    blocks([outer, length, inner], pace, |start, count, pace| {
        pace.spend(length * count * 2)?;
        l2_lanes(&input[start..], &mut result[start..], [length, inner, count], epsilon);
        Ok(())
    })
}

/// The larger of both, and NaN where the length is NaN.
#[inline(always)]
fn divisor(sum: f64, epsilon: f64) -> f64 {
    let length = sum.sqrt();
    if length < epsilon { epsilon } else { length }
}

vectorised! {
    fn l2_lane [T] [T: Float] (from: &[T], to: &mut [T], epsilon: f64) {
        // In f64, so that the squares of large and small numbers stay numbers.
        let square = |x: &T| x.widen().into_f64() * x.widen().into_f64();
        let mut sums = [0.0; SUMS];
        let (blocks, rest) = from.as_chunks::<SUMS>();
        for block in blocks {
            sums = std::array::from_fn(|index| sums[index] + square(&block[index]));
        }
        let divisor = divisor(sums.into_iter().chain(rest.iter().map(square)).sum(), epsilon);
        for (x, to) in from.iter().zip(to) {
            *to = T::narrow(T::Wide::of_f64(x.widen().into_f64() / divisor));
        }
    }

    fn l2_lanes [T] [T: Float] (from: &[T], to: &mut [T], sizes: [usize; 3], epsilon: f64) {
        let [length, inner, count] = sizes;
        let mut sums = [0.0; BLOCK];
        for row in from.chunks(inner).take(length) {
            for (sum, x) in sums.iter_mut().zip(&row[..count]) {
                let x = x.widen().into_f64();
                *sum += x * x;
            }
        }
        let divisors = sums.map(|sum| divisor(sum, epsilon));
        for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)).take(length) {
            for ((x, to), divisor) in row[..count].iter().zip(&mut to[..count]).zip(&divisors) {
                *to = T::narrow(T::Wide::of_f64(x.widen().into_f64() / divisor));
            }
        }
    }
}

/// The first index of the largest, or with `LARGEST` false of the smallest; of a NaN where there is one.
pub(super) fn extreme<T: Element, const LARGEST: bool>(
    sizes: [u64; 3],
    input: &[T],
    result: &mut [i64],
    pace: &mut Pace<'_>,
) -> Result<()> {
    let [outer, length, inner] = sizes.map(|size| size as usize);
    if inner == 1 {
        for (lane, to) in input.chunks_exact(length).zip(result) {
            pace.spend(length)?;
            *to = extreme_lane::<T, LARGEST>(lane) as i64;
        }
        return Ok(());
    }
    blocks([outer, length, inner], pace, |start, count, pace| {
        pace.spend(length * count)?;
        let to = start / (length * inner) * inner + start % inner;
        extreme_lanes::<T, LARGEST>(&input[start..], &mut result[to..to + count], [length, inner, count]);
        Ok(())
    })
}

/// The key whose largest is looked for.
#[inline(always)]
fn best_key<T: Element, const LARGEST: bool>(x: T) -> T::Key {
    if LARGEST { x.key() } else { x.reversed_key() }
}

vectorised! {
    fn extreme_lane [T, LARGEST] [T: Element, const LARGEST: bool] (lane: &[T]) -> usize {
        let Some(first) = lane.first() else { return 0 };
        let mut most = [best_key::<T, LARGEST>(*first); SUMS];
        let (blocks, rest) = lane.as_chunks::<SUMS>();
        for block in blocks {
            most = std::array::from_fn(|index| most[index].max(best_key::<T, LARGEST>(block[index])));
        }
        let most = most.into_iter().chain(rest.iter().map(|x| best_key::<T, LARGEST>(*x)));
        let most = most.fold(best_key::<T, LARGEST>(*first), Ord::max);
        lane.iter().position(|x| best_key::<T, LARGEST>(*x) == most).unwrap_or(0)
    }

    fn extreme_lanes [T, LARGEST] [T: Element, const LARGEST: bool] (from: &[T], to: &mut [i64], sizes: [usize; 3]) {
        let [length, inner, count] = sizes;
        let Some(first) = from.first() else { return };
        let mut most = [best_key::<T, LARGEST>(*first); BLOCK];
        for (most, x) in most[..count].iter_mut().zip(from) {
            *most = best_key::<T, LARGEST>(*x);
        }
        to.fill(0);
        for (index, row) in from.chunks(inner).take(length).enumerate() {
            for ((most, to), x) in most[..count].iter_mut().zip(to.iter_mut()).zip(&row[..count]) {
                let key = best_key::<T, LARGEST>(*x);
                *to = if key > *most { index as i64 } else { *to };
                *most = if key > *most { key } else { *most };
            }
        }
    }
}

/// A mask as weights.
pub(super) fn weights<T: Element>(mask: &[T], pace: &mut Pace<'_>) -> Result<Vec<f64>> {
    pace.spend(mask.len())?;
    Ok(mask.iter().map(|weight| weight.to_f64()).collect())
}

/// sum(x * mask) / max(sum(mask), 1e-9) over the tokens of [batch, tokens, features]; tokens of weight 0 are passed
/// over.
pub(super) fn masked_mean_pool<T: Float>(
    [batch, tokens, features]: [u64; 3],
    weights: &[f64],
    input: &[T],
    result: &mut [T],
    pace: &mut Pace<'_>,
) -> Result<()> {
    const FEATURES: usize = 256;
    let [batch, tokens, features] = [batch, tokens, features].map(|size| size as usize);
    for (row, to) in (0..batch).zip(result.chunks_exact_mut(features)) {
        let weights = &weights[row * tokens..(row + 1) * tokens];
        let sum: f64 = weights.iter().sum();
        let sum = if sum < 1e-9 { 1e-9 } else { sum };
        for (index, to) in to.chunks_mut(FEATURES).enumerate() {
            let mut sums = [0.0; FEATURES];
            let sums = &mut sums[..to.len()];
            for (token, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
                pace.spend(to.len())?;
                let start = (row * tokens + token) * features + index * FEATURES;
                add_weighted(&input[start..start + to.len()], *weight, sums);
            }
            for (sum_of_feature, to) in sums.iter().zip(to) {
                *to = T::narrow(T::Wide::of_f64(*sum_of_feature / sum));
            }
        }
    }
    Ok(())
}

vectorised! {
    fn add_weighted [T] [T: Sample] (from: &[T], weight: f64, sums: &mut [f64]) {
        for (x, sum) in from.iter().zip(sums) {
            *sum += x.widen().into_f64() * weight;
        }
    }
}
