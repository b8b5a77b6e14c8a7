//! Reductions over several axes in one walk through the input; it never adds floats up in less than f64.

use super::element::{Element, Float, Number, Wide, with_element, with_float, with_number};
use super::memory::{Fresh, elements, filled};
use super::strided::Odometer;
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{Account, DType, Reduction, Tensor};
use crate::error::Result;
use std::sync::Arc;

/// Independent parts of one run, so that they become one vector.
const PARTS: usize = 16;

/// The loops over the input.
pub(super) struct Loops<'a> {
    /// The input's dimensions.
    pub(super) dims: &'a [u64],
    /// Elements between neighbours in the result.
    pub(super) strides: &'a [u64],
    /// Elements of the input for each of the result.
    pub(super) count: u64,
}

/// A reduction of elements, one after the other.
trait Fold<T> {
    type Part: Copy;
    const START: Self::Part;
    fn put(part: Self::Part, x: T) -> Self::Part;
    fn join(a: Self::Part, b: Self::Part) -> Self::Part;
    fn finish(part: Self::Part, count: u64) -> T;
}

macro_rules! folds {
    ($($name:ident: $bound:ident, $part:ty, $start:expr,
        |$part_name:ident, $x:ident| $put:expr, |$a:ident, $b:ident| $join:expr,
        |$last:ident, $count:ident| $finish:expr;)*) => {$(
        struct $name;
        impl<T: $bound> Fold<T> for $name {
            type Part = $part;
            const START: $part = $start;
            #[inline(always)]
            fn put($part_name: $part, $x: T) -> $part { $put }
            #[inline(always)]
            fn join($a: $part, $b: $part) -> $part { $join }
            #[inline(always)]
            fn finish($last: $part, $count: u64) -> T { $finish }
        }
    )*};
}

folds! {
    Sum: Number, T::Sum, T::NO_SUM, |sum, x| x.add_to(sum), |a, b| T::add_sums(a, b), |sum, _count| T::of_sum(sum);
    Mean: Float, f64, 0.0, |sum, x| sum + x.widen().into_f64(), |a, b| a + b,
        |sum, count| T::narrow(T::Wide::of_f64(sum / count as f64));
    L2: Float, f64, 0.0, |sum, x| sum + x.widen().into_f64() * x.widen().into_f64(), |a, b| a + b,
        |sum, _count| T::narrow(T::Wide::of_f64(sum.sqrt()));
    Max: Element, T, T::LEAST, |most, x| larger(most, x), |a, b| larger(a, b), |most, _count| most;
    Min: Element, T, T::GREATEST, |least, x| smaller(least, x), |a, b| smaller(a, b), |least, _count| least;
}

/// The larger; NaN if either is.
#[inline(always)]
#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
fn larger<T: Element>(a: T, b: T) -> T {
    let (x, y) = (a.plain(), b.plain());
    if (x != x) | (x >= y) { a } else { b }
}

/// The smaller; NaN if either is.
#[inline(always)]
#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
fn smaller<T: Element>(a: T, b: T) -> T {
    let (x, y) = (a.plain(), b.plain());
    if (x != x) | (x <= y) { a } else { b }
}

/// Computes the result.
pub(super) fn run(
    reduction: Reduction,
    loops: &Loops<'_>,
    input: &Tensor,
    result: &mut Fresh,
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    macro_rules! fold {
        ($with:ident, $fold:ident) => {
            $with!(input.dtype(), T => {
                folded::<T, $fold>(loops, elements(input)?, result.elements_mut()?, account, pace)
            })
        };
    }
    match reduction {
        Reduction::Sum => fold!(with_number, Sum),
        Reduction::Mean => fold!(with_float, Mean),
        Reduction::L2 => fold!(with_float, L2),
        Reduction::Max => fold!(with_element, Max),
        Reduction::Min => fold!(with_element, Min),
    }
}

fn folded<T: Element, F: Fold<T>>(
    loops: &Loops<'_>,
    input: &[T],
    result: &mut [T],
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let _scratch = account.charge((result.len() * size_of::<F::Part>()) as u64)?;
    let mut parts = filled(F::START, result.len(), pace)?;
    let (outer, columns) = match loops.dims.split_last() {
        Some((columns, outer)) => (outer, *columns as usize),
        None => (&[][..], 1),
    };
    let kept = loops.strides.last().is_some_and(|stride| *stride != 0);
    if !input.is_empty() {
        let strides = loops.strides[..outer.len()].iter().map(|stride| [*stride as isize]).collect();
        let mut rows = Odometer::new(outer.iter().map(|dim| *dim as usize).collect(), strides, [0]);
        for row in input.chunks_exact(columns) {
            let at = rows.at[0] as usize;
            for (index, run) in row.chunks(Pace::CHUNK).enumerate() {
                pace.spend(run.len() + Pace::FAR)?;
                match kept {
                    true => put_each::<T, F>(run, &mut parts[at + index * Pace::CHUNK..]),
                    false => parts[at] = F::join(parts[at], fold_run::<T, F>(run)),
                }
            }
            rows.step();
        }
    }
    for (parts, to) in parts.chunks(Pace::CHUNK).zip(result.chunks_mut(Pace::CHUNK)) {
        pace.spend(to.len())?;
        for (part, to) in parts.iter().zip(to) {
            *to = F::finish(*part, loops.count);
        }
    }
    Ok(())
}

vectorised! {
    fn put_each [T, F] [T: Element, F: Fold<T>] (run: &[T], parts: &mut [F::Part]) {
        for (x, part) in run.iter().zip(parts) {
            *part = F::put(*part, *x);
        }
    }

    fn fold_run [T, F] [T: Element, F: Fold<T>] (run: &[T]) -> F::Part {
        let (blocks, rest) = run.as_chunks::<PARTS>();
        let mut whole = F::START;
        if !blocks.is_empty() {
            let mut parts = [F::START; PARTS];
            for block in blocks {
                parts = std::array::from_fn(|index| F::put(parts[index], block[index]));
            }
            whole = parts.into_iter().fold(whole, F::join);
        }
        rest.iter().fold(whole, |part, x| F::put(part, *x))
    }
}
