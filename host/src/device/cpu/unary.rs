//! Functions of one element; it never reads another element.

use super::cast::Cast;
use super::element::{Bit, Element, Float, Number, Signed, Wide, with_float, with_number, with_signed};
use super::memory::{Fresh, elements};
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{DType, Tensor, Unary};
use crate::error::Result;
use bytemuck::Pod;

/// A function of an element.
trait Pointwise<T> {
    fn apply(x: T) -> T;
}

macro_rules! pointwise {
    ($($name:ident: $bound:ident, |$x:ident| $body:expr;)*) => {$(
        struct $name;
        impl<T: $bound> Pointwise<T> for $name {
            #[inline(always)]
            fn apply($x: T) -> T { $body }
        }
    )*};
    ($($name:ident = |$x:ident| $body:expr;)*) => {
        pointwise! { $($name: Float, |x| {
            let $x = x.widen();
            T::narrow($body)
        };)* }
    };
}

pointwise! {
    Abs: Number, |x| x.abs();
    Sign: Number, |x| x.sign();
    Negate: Signed, |x| x.negate();
    Relu: Signed, |x| x.relu();
}

pointwise! {
    Exp = |x| x.exp();
    Log = |x| x.log();
    Sqrt = |x| x.sqrt();
    Reciprocal = |x| T::Wide::ONE / x;
    Floor = |x| x.floor();
    Ceil = |x| x.ceil();
    Round = |x| x.round();
    Sigmoid = |x| {
        // exp(-x) can be infinite where the result is not 0 yet.
        let negative = x < T::Wide::ZERO;
        let power = (if negative { x } else { T::Wide::ZERO - x }).exp();
        (if negative { power } else { T::Wide::ONE }) / (T::Wide::ONE + power)
    };
    Tanh = |x| x.tanh();
    Gelu = |x| x * T::Wide::HALF * (T::Wide::ONE + (x * T::Wide::ROOT_HALF).erf());
    Erf = |x| x.erf();
}

struct Not;
impl Pointwise<Bit> for Not {
    #[inline(always)]
    fn apply(x: Bit) -> Bit {
        Bit(x.0 ^ 1)
    }
}

/// Computes a function of each element.
pub(super) fn run(unary: Unary, input: &Tensor, result: &mut Fresh, pace: &mut Pace<'_>) -> Result<()> {
    let dtype = input.dtype();
    macro_rules! float {
        ($function:ty, $cost:expr) => {
            with_float!(dtype, T => each::<T, $function>(input, result, $cost, pace))
        };
    }
    match unary {
        Unary::Abs => with_number!(dtype, T => each::<T, Abs>(input, result, 1, pace)),
        Unary::Sign => with_number!(dtype, T => each::<T, Sign>(input, result, 1, pace)),
        Unary::Negate => with_signed!(dtype, T => each::<T, Negate>(input, result, 1, pace)),
        Unary::Relu => with_signed!(dtype, T => each::<T, Relu>(input, result, 1, pace)),
        Unary::Exp => float!(Exp, 16),
        Unary::Log => float!(Log, 16),
        Unary::Sqrt => float!(Sqrt, 2),
        Unary::Reciprocal => float!(Reciprocal, 2),
        Unary::Floor => float!(Floor, 2),
        Unary::Ceil => float!(Ceil, 2),
        Unary::Round => float!(Round, 2),
        Unary::Sigmoid => float!(Sigmoid, 16),
        Unary::Tanh => float!(Tanh, 16),
        Unary::Gelu => float!(Gelu, 128),
        Unary::Erf => float!(Erf, 128),
        Unary::Not => each::<Bit, Not>(input, result, 1, pace),
    }
}

fn each<T: Pod, F: Pointwise<T>>(input: &Tensor, result: &mut Fresh, cost: usize, pace: &mut Pace<'_>) -> Result<()> {
    let part = Pace::CHUNK / cost;
    for (from, to) in elements(input)?.chunks(part).zip(result.elements_mut()?.chunks_mut(part)) {
        pace.spend(from.len() * cost)?;
        apply::<T, F>(from, to);
    }
    Ok(())
}

/// Keeps each element within bounds; NaN stays.
pub(super) fn clamp(low: f64, high: f64, input: &Tensor, result: &mut Fresh, pace: &mut Pace<'_>) -> Result<()> {
    with_number!(input.dtype(), T => {
        let (low, high): (T, T) = (low.cast(), high.cast());
        for (from, to) in elements(input)?.chunks(Pace::CHUNK).zip(result.elements_mut()?.chunks_mut(Pace::CHUNK)) {
            pace.spend(from.len())?;
            within::<T>(from, to, low, high);
        }
        Ok(())
    })
}

vectorised! {
    fn apply [T, F] [T: Pod, F: Pointwise<T>] (from: &[T], to: &mut [T]) {
        for (from, to) in from.iter().zip(to) {
            *to = F::apply(*from);
        }
    }

    fn within [T] [T: Element] (from: &[T], to: &mut [T], low: T, high: T) {
        for (x, to) in from.iter().zip(to) {
            let raised = if x.plain() < low.plain() { low } else { *x };
            *to = if raised.plain() > high.plain() { high } else { raised };
        }
    }
}
