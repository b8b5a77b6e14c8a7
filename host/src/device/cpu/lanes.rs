//! Operators along one axis: softmax and its logarithm, argmax, argmin, l2-normalize and the masked mean; it never holds
//! more than a few lanes.
//!
//! The axis is the middle of [outer, length, inner]. Where `inner` is 1 a lane is contiguous and is worked on as a
//! whole; otherwise neighbouring lanes are worked on together, so that the inner loop is contiguous either way.

use super::element::{Element, Float, Sample, Wide};
use super::memory::room;
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::error::Result;

/// Lanes that are worked on together.
const BLOCK: usize = 64;
/// Independent sums of one lane, so that they become one vector.
const SUMS: usize = 16;
/// Elements that are added up in the type itself before their sum is added to an f64.
const RUN: usize = 1_024;
/// Elements of long lanes between two checks.
const PART: usize = Pace::CHUNK / 16;
/// The cost of a power of e, in operations of [`Pace`].
const POWER: usize = 8;

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

/// The rows of `count` neighbouring lanes, in parts of about [`PART`] elements.
fn parts<T>(from: &[T], [length, inner, count]: [usize; 3]) -> std::slice::Chunks<'_, T> {
    let rows = (PART / count).max(1);
    from[..from.len().min(length * inner)].chunks(rows.saturating_mul(inner))
}

/// As [`parts`].
fn parts_mut<T>(to: &mut [T], [length, inner, count]: [usize; 3]) -> std::slice::ChunksMut<'_, T> {
    let (rows, length) = ((PART / count).max(1), to.len().min(length * inner));
    to[..length].chunks_mut(rows.saturating_mul(inner))
}

/// The larger of two; the first where one is NaN, which the sum of a softmax shows anyway.
#[inline(always)]
fn larger<W: Wide>(a: W, b: W) -> W {
    if b > a { b } else { a }
}

/// The largest element of a contiguous lane.
fn most_of_lane<T: Float>(lane: &[T], pace: &mut Pace<'_>) -> Result<T::Wide> {
    lane.chunks(PART).try_fold(T::Wide::NEGATIVE_INFINITY, |most, part| {
        pace.spend(part.len())?;
        Ok(larger(most, largest_of(part)))
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

    /// The largest elements of neighbouring lanes.
    fn most_of_lanes [T] [T: Float]
        (from: &[T], sizes: [usize; 3], pace: &mut Pace<'_>) -> Result<[T::Wide; BLOCK]> {
        let [_, inner, count] = sizes;
        let mut most = [T::Wide::NEGATIVE_INFINITY; BLOCK];
        for part in parts(from, sizes) {
            pace.spend(part.len().div_ceil(inner) * count)?;
            for row in part.chunks(inner) {
                for (most, x) in most[..count].iter_mut().zip(&row[..count]) {
                    *most = larger(*most, x.widen());
                }
            }
        }
        Ok(most)
    }
}

/// exp(x - max) / sum(exp(x - max)).
pub(super) fn softmax<T: Float>(sizes: [u64; 3], input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    let [outer, length, inner] = sizes.map(|size| size as usize);
    if inner == 1 {
        for (from, to) in input.chunks_exact(length).zip(result.chunks_exact_mut(length)) {
            softmax_lane(from, to, pace)?;
        }
        return Ok(());
    }
    blocks([outer, length, inner], pace, |start, count, pace| {
        softmax_lanes(&input[start..], &mut result[start..], [length, inner, count], pace)
    })
}

vectorised! {
    fn softmax_lane [T] [T: Float] (from: &[T], to: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
        let most = most_of_lane(from, pace)?;
        let power = |x: T| (x.widen() - most).exp();
        let mut total = 0.0;
        for (from, to) in from.chunks(RUN).zip(to.chunks_mut(RUN)) {
            pace.spend(from.len() * POWER)?;
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
        for (from, to) in from.chunks(PART).zip(to.chunks_mut(PART)) {
            pace.spend(from.len() * POWER)?;
            for (x, to) in from.iter().zip(to) {
                // A narrow type has already lost digits of the power, so it is computed again.
                *to = T::narrow(if T::IS_WIDE { to.widen() } else { power(*x) } / total);
            }
        }
        Ok(())
    }

    fn softmax_lanes [T] [T: Float] (from: &[T], to: &mut [T], sizes: [usize; 3], pace: &mut Pace<'_>) -> Result<()> {
        let [_, inner, count] = sizes;
        let most = most_of_lanes(from, sizes, pace)?;
        let mut totals = [0.0; BLOCK];
        for (from, to) in parts(from, sizes).zip(parts_mut(to, sizes)) {
            pace.spend(from.len().div_ceil(inner) * count * POWER)?;
            for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)) {
                for (((x, to), most), total) in row[..count].iter().zip(&mut to[..count]).zip(&most).zip(&mut totals) {
                    let power = (x.widen() - *most).exp();
                    *total += power.into_f64();
                    *to = T::narrow(power);
                }
            }
        }
        for (from, to) in parts(from, sizes).zip(parts_mut(to, sizes)) {
            pace.spend(from.len().div_ceil(inner) * count * POWER)?;
            for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)) {
                for (((x, to), most), total) in row[..count].iter().zip(&mut to[..count]).zip(&most).zip(&totals) {
                    let power = if T::IS_WIDE { to.widen() } else { (x.widen() - *most).exp() };
                    *to = T::narrow(power / T::Wide::of_f64(*total));
                }
            }
        }
        Ok(())
    }
}

/// x - max - ln(sum(exp(x - max))).
pub(super) fn log_softmax<T: Float>(sizes: [u64; 3], input: &[T], result: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    let [outer, length, inner] = sizes.map(|size| size as usize);
    if inner == 1 {
        for (from, to) in input.chunks_exact(length).zip(result.chunks_exact_mut(length)) {
            let most = most_of_lane(from, pace)?;
            let mut total = 0.0;
            for part in from.chunks(PART) {
                pace.spend(part.len() * POWER)?;
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
        log_softmax_lanes(&input[start..], &mut result[start..], [length, inner, count], pace)
    })
}

vectorised! {
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

    fn log_softmax_lanes [T] [T: Float] (from: &[T], to: &mut [T], sizes: [usize; 3], pace: &mut Pace<'_>) -> Result<()> {
        let [_, inner, count] = sizes;
        let most = most_of_lanes(from, sizes, pace)?;
        let mut totals = [0.0; BLOCK];
        for part in parts(from, sizes) {
            pace.spend(part.len().div_ceil(inner) * count * POWER)?;
            for row in part.chunks(inner) {
                for ((x, most), total) in row[..count].iter().zip(&most).zip(&mut totals) {
                    *total += (x.widen() - *most).exp().into_f64();
                }
            }
        }
        let logs = totals.map(|total| T::Wide::of_f64(total.ln()));
        for (from, to) in parts(from, sizes).zip(parts_mut(to, sizes)) {
            pace.spend(from.len().div_ceil(inner) * count)?;
            for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)) {
                for (((x, to), most), log) in row[..count].iter().zip(&mut to[..count]).zip(&most).zip(&logs) {
                    *to = T::narrow(x.widen() - *most - *log);
                }
            }
        }
        Ok(())
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
            l2_lane(from, to, epsilon, pace)?;
        }
        return Ok(());
    }
    blocks([outer, length, inner], pace, |start, count, pace| {
        l2_lanes(&input[start..], &mut result[start..], [length, inner, count], epsilon, pace)
    })
}

/// The larger of both, and NaN where the length is NaN.
#[inline(always)]
fn divisor(sum: f64, epsilon: f64) -> f64 {
    let length = sum.sqrt();
    if length < epsilon { epsilon } else { length }
}

vectorised! {
    fn l2_lane [T] [T: Float] (from: &[T], to: &mut [T], epsilon: f64, pace: &mut Pace<'_>) -> Result<()> {
        // In f64, so that the squares of large and small numbers neither overflow nor vanish.
        let square = |x: &T| x.widen().into_f64() * x.widen().into_f64();
        let mut sums = [0.0; SUMS];
        let (blocks, rest) = from.as_chunks::<SUMS>();
        for blocks in blocks.chunks(PART / SUMS) {
            pace.spend(blocks.len() * SUMS)?;
            for block in blocks {
                sums = std::array::from_fn(|index| sums[index] + square(&block[index]));
            }
        }
        let divisor = divisor(sums.into_iter().chain(rest.iter().map(square)).sum(), epsilon);
        for (from, to) in from.chunks(PART).zip(to.chunks_mut(PART)) {
            pace.spend(from.len())?;
            for (x, to) in from.iter().zip(to) {
                *to = T::narrow(T::Wide::of_f64(x.widen().into_f64() / divisor));
            }
        }
        Ok(())
    }

    fn l2_lanes [T] [T: Float]
        (from: &[T], to: &mut [T], sizes: [usize; 3], epsilon: f64, pace: &mut Pace<'_>) -> Result<()> {
        let [_, inner, count] = sizes;
        let mut sums = [0.0; BLOCK];
        for part in parts(from, sizes) {
            pace.spend(part.len().div_ceil(inner) * count)?;
            for row in part.chunks(inner) {
                for (sum, x) in sums.iter_mut().zip(&row[..count]) {
                    let x = x.widen().into_f64();
                    *sum += x * x;
                }
            }
        }
        let divisors = sums.map(|sum| divisor(sum, epsilon));
        for (from, to) in parts(from, sizes).zip(parts_mut(to, sizes)) {
            pace.spend(from.len().div_ceil(inner) * count)?;
            for (row, to) in from.chunks(inner).zip(to.chunks_mut(inner)) {
                for ((x, to), divisor) in row[..count].iter().zip(&mut to[..count]).zip(&divisors) {
                    *to = T::narrow(T::Wide::of_f64(x.widen().into_f64() / divisor));
                }
            }
        }
        Ok(())
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
            *to = extreme_lane::<T, LARGEST>(lane, pace)? as i64;
        }
        return Ok(());
    }
    blocks([outer, length, inner], pace, |start, count, pace| {
        let to = start / (length * inner) * inner + start % inner;
        extreme_lanes::<T, LARGEST>(&input[start..], &mut result[to..to + count], [length, inner, count], pace)
    })
}

/// The key whose maximum is searched.
#[inline(always)]
fn best_key<T: Element, const LARGEST: bool>(x: T) -> T::Key {
    if LARGEST { x.key() } else { x.reversed_key() }
}

vectorised! {
    fn extreme_lane [T, LARGEST] [T: Element, const LARGEST: bool] (lane: &[T], pace: &mut Pace<'_>) -> Result<usize> {
        let Some(first) = lane.first() else { return Ok(0) };
        let mut most = [best_key::<T, LARGEST>(*first); SUMS];
        let (blocks, rest) = lane.as_chunks::<SUMS>();
        for blocks in blocks.chunks(PART / SUMS) {
            pace.spend(blocks.len() * SUMS)?;
            for block in blocks {
                most = std::array::from_fn(|index| most[index].max(best_key::<T, LARGEST>(block[index])));
            }
        }
        let most = most.into_iter().chain(rest.iter().map(|x| best_key::<T, LARGEST>(*x)));
        let most = most.fold(best_key::<T, LARGEST>(*first), Ord::max);
        for (part, lane) in lane.chunks(PART).enumerate() {
            pace.spend(lane.len())?;
            if let Some(place) = lane.iter().position(|x| best_key::<T, LARGEST>(*x) == most) {
                return Ok(part * PART + place);
            }
        }
        Ok(0)
    }

    fn extreme_lanes [T, LARGEST] [T: Element, const LARGEST: bool]
        (from: &[T], to: &mut [i64], sizes: [usize; 3], pace: &mut Pace<'_>) -> Result<()> {
        let [_, inner, count] = sizes;
        let Some(first) = from.first() else { return Ok(()) };
        let mut most = [best_key::<T, LARGEST>(*first); BLOCK];
        for (most, x) in most[..count].iter_mut().zip(from) {
            *most = best_key::<T, LARGEST>(*x);
        }
        to.fill(0);
        let mut index = 0;
        for part in parts(from, sizes) {
            pace.spend(part.len().div_ceil(inner) * count)?;
            for row in part.chunks(inner) {
                for ((most, to), x) in most[..count].iter_mut().zip(to.iter_mut()).zip(&row[..count]) {
                    let key = best_key::<T, LARGEST>(*x);
                    *to = if key > *most { index } else { *to };
                    *most = if key > *most { key } else { *most };
                }
                index += 1;
            }
        }
        Ok(())
    }
}

/// A mask as weights.
pub(super) fn weights<T: Element>(mask: &[T], pace: &mut Pace<'_>) -> Result<Vec<f64>> {
    let mut weights = room(mask.len())?;
    for part in mask.chunks(PART) {
        pace.spend(part.len())?;
        weights.extend(part.iter().map(|weight| weight.to_f64()));
    }
    Ok(weights)
}

/// sum(x * mask) / max(sum(mask), 1e-9) over the tokens of [batch, tokens, features]; tokens of weight 0 are skipped.
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
        let mut sum = 0.0;
        for part in weights.chunks(PART) {
            pace.spend(part.len())?;
            sum += part.iter().sum::<f64>();
        }
        let sum = if sum < 1e-9 { 1e-9 } else { sum };
        for (index, to) in to.chunks_mut(FEATURES).enumerate() {
            let mut sums = [0.0; FEATURES];
            let sums = &mut sums[..to.len()];
            for (token, weight) in weights.iter().enumerate() {
                if token % RUN == 0 {
                    pace.spend(RUN.min(weights.len() - token))?;
                }
                if *weight == 0.0 {
                    continue;
                }
                pace.spend(to.len() + 4)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Stop;
    use crate::error::Kind;

    type Run = fn([u64; 3], &[f32], &mut [f32], &mut Pace<'_>) -> Result<()>;
    const NORMS: [Run; 3] =
        [softmax, log_softmax, |sizes, input, result, pace| l2_normalize(sizes, 1e-12, input, result, pace)];

    fn reference(which: usize, lane: &[f64]) -> Vec<f64> {
        let most = lane.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = lane.iter().map(|x| (x - most).exp()).sum();
        let length = lane.iter().map(|x| x * x).sum::<f64>().sqrt();
        let one = |x: &f64| [(x - most).exp() / total, x - most - total.ln(), x / length][which];
        lane.iter().map(one).collect()
    }

    #[test]
    fn lanes_of_many_parts_are_as_short_ones() {
        let stop = Stop::default();
        let long = PART + RUN + 5;
        for sizes in [[1, long, 1], [2, long / 2, 3], [1, long / 32, 65], [3, 4, 2], [2, 1, 66], [3, 17, 1]] {
            let [outer, length, inner] = sizes;
            let at = |row: usize, step: usize, column: usize| (row * length + step) * inner + column;
            let value = |index: usize| (index * 7_919 % 10_007) as f32 / 1_000.0 - 5.0;
            let input: Vec<f32> = (0..outer * length * inner).map(value).collect();
            let sizes = sizes.map(|size| size as u64);
            let lanes = || (0..outer).flat_map(|row| (0..inner).map(move |column| (row, column)));
            for (which, run) in NORMS.into_iter().enumerate() {
                let mut result = vec![9.0; input.len()];
                run(sizes, &input, &mut result, &mut Pace::new(&stop)).unwrap();
                for (row, column) in lanes() {
                    let lane: Vec<f64> = (0..length).map(|step| input[at(row, step, column)].into()).collect();
                    for (step, wanted) in reference(which, &lane).into_iter().enumerate() {
                        let found = f64::from(result[at(row, step, column)]);
                        assert!(
                            (found - wanted).abs() <= 1e-5 * wanted.abs() + 1e-12,
                            "{which} {sizes:?} {found} {wanted}"
                        );
                    }
                }
            }
            let mut best = vec![-1; outer * inner];
            extreme::<f32, true>(sizes, &input, &mut best, &mut Pace::new(&stop)).unwrap();
            for (row, column) in lanes() {
                let key = |step: &usize| input[at(row, *step, column)];
                let first = (0..length).reduce(|a, b| if key(&b) > key(&a) { b } else { a }).unwrap();
                assert_eq!(best[row * inner + column], first as i64, "{sizes:?}");
            }
        }
    }

    #[test]
    fn a_stopped_lane_ends_early() {
        let stop = Stop::default();
        stop.cancel();
        let length = 8 * Pace::CHUNK;
        let input = vec![1f32; length];
        for sizes in [[1, length as u64, 1], [1, length as u64 / 2, 2]] {
            for run in NORMS {
                let mut result = vec![0f32; length];
                let error = run(sizes, &input, &mut result, &mut Pace::new(&stop)).unwrap_err();
                assert_eq!(error.kind(), Kind::Cancelled);
                assert!(result.iter().all(|x| *x == 0.0), "it ended before it wrote anything");
            }
            let error = extreme::<f32, false>(sizes, &input, &mut [0; 2], &mut Pace::new(&stop)).unwrap_err();
            assert_eq!(error.kind(), Kind::Cancelled);
        }
        assert_eq!(weights(&input, &mut Pace::new(&stop)).unwrap_err().kind(), Kind::Cancelled);
        let (mut result, zeros) = ([0f32], vec![0.0; length]);
        let error = masked_mean_pool([1, length as u64, 1], &zeros, &input, &mut result, &mut Pace::new(&stop));
        assert_eq!(error.unwrap_err().kind(), Kind::Cancelled);
    }
}
