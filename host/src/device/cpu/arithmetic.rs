//! Element-wise operators and comparisons of two tensors that broadcast; it never copies an operand to make it larger, except for
//! short patterns.

use super::element::{Bit, Element, Float, Integer, Number, Wide, unplanned, with_element, with_float};
use super::memory::{Fresh, elements};
use super::strided::Odometer;
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{Arithmetic, Broadcast, Comparison, DType, Tensor};
use crate::error::Result;
use bytemuck::Pod;

/// The loops over the result.
struct Loops {
    outer: Vec<usize>,
    outer_strides: Vec<[isize; 2]>,
    /// The innermost loop, and whether each operand moves along it.
    columns: usize,
    moves: [bool; 2],
    /// The cost of an element, in operations of [`Pace`].
    cost: usize,
}

impl Loops {
    fn new(broadcast: &Broadcast<2>, cost: usize) -> Loops {
        let Broadcast { dims, strides } = broadcast;
        let outer = dims.len().saturating_sub(1);
        Loops {
            outer: dims[..outer].iter().map(|dim| *dim as usize).collect(),
            outer_strides: strides[..outer].iter().map(|strides| strides.map(|stride| stride as isize)).collect(),
            columns: dims.last().map_or(1, |dim| *dim as usize),
            moves: strides.last().map_or([true, true], |strides| strides.map(|stride| stride != 0)),
            cost,
        }
    }

    /// The operand, if any, that is a short run repeated along all of the other one.
    fn pattern(&self) -> Option<usize> {
        let [.., strides] = &self.outer_strides[..] else { return None };
        // The other one also moves along the only outer loop: otherwise there would be no such loop.
        let joined = self.moves == [true, true] && self.outer_strides.len() == 1;
        (0..2).find(|operand| self.columns < 64 && joined && strides[*operand] == 0)
    }
}

/// Computes the result.
pub(super) fn run(
    arithmetic: Arithmetic,
    broadcast: &Broadcast<2>,
    inputs: [&Tensor; 2],
    result: &mut Fresh,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let cost = match arithmetic {
        Arithmetic::Power => 64,
        Arithmetic::Divide | Arithmetic::Modulo => 8,
        Arithmetic::Add | Arithmetic::Subtract | Arithmetic::Multiply | Arithmetic::Minimum | Arithmetic::Maximum => 1,
    };
    let loops = &Loops::new(broadcast, cost);
    macro_rules! number {
        ($type:ty, $minimum:ty, $maximum:ty, $($own:pat => $operator:ty, $other:pat)?) => {{
            let (a, b): (&[$type], &[$type]) = (elements(inputs[0])?, elements(inputs[1])?);
            let result = result.elements_mut()?;
            match arithmetic {
                Arithmetic::Add => each::<$type, Add>(loops, a, b, result, pace),
                Arithmetic::Subtract => each::<$type, Subtract>(loops, a, b, result, pace),
                Arithmetic::Multiply => each::<$type, Multiply>(loops, a, b, result, pace),
                Arithmetic::Divide => each::<$type, Divide>(loops, a, b, result, pace),
                Arithmetic::Minimum => each::<$type, $minimum>(loops, a, b, result, pace),
                Arithmetic::Maximum => each::<$type, $maximum>(loops, a, b, result, pace),
                $($own => each::<$type, $operator>(loops, a, b, result, pace),
                $other => Err(unplanned(inputs[0].dtype())),)?
            }
        }};
    }
    macro_rules! integer {
        ($type:ty) => { number!($type, Smaller, Larger, Arithmetic::Modulo => Modulo, Arithmetic::Power) };
    }
    match inputs[0].dtype() {
        // The minimum of two booleans is `and`, the maximum `or`; planning refuses their other operators.
        DType::Boolean => {
            let (a, b): (&[Bit], &[Bit]) = (elements(inputs[0])?, elements(inputs[1])?);
            let result = result.elements_mut()?;
            match arithmetic {
                Arithmetic::Minimum => each::<Bit, Smaller>(loops, a, b, result, pace),
                Arithmetic::Maximum => each::<Bit, Larger>(loops, a, b, result, pace),
                Arithmetic::Add
                | Arithmetic::Subtract
                | Arithmetic::Multiply
                | Arithmetic::Divide
                | Arithmetic::Power
                | Arithmetic::Modulo => Err(unplanned(DType::Boolean)),
            }
        }
        DType::U8 => integer!(u8),
        DType::S8 => integer!(i8),
        DType::U16 => integer!(u16),
        DType::S16 => integer!(i16),
        DType::U32 => integer!(u32),
        DType::S32 => integer!(i32),
        DType::U64 => integer!(u64),
        DType::S64 => integer!(i64),
        float => with_float!(float, T => {
            number!(T, SmallerOrNan, LargerOrNan, Arithmetic::Power => Power, Arithmetic::Modulo)
        }),
    }
}

/// Compares, to booleans.
pub(super) fn compare(
    comparison: Comparison,
    broadcast: &Broadcast<2>,
    inputs: [&Tensor; 2],
    result: &mut Fresh,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let loops = &Loops::new(broadcast, 1);
    with_element!(inputs[0].dtype(), T => {
        let (a, b): (&[T], &[T]) = (elements(inputs[0])?, elements(inputs[1])?);
        let result = result.elements_mut()?;
        match comparison {
            Comparison::Equal => each::<T, Equal>(loops, a, b, result, pace),
            Comparison::NotEqual => each::<T, NotEqual>(loops, a, b, result, pace),
            Comparison::Less => each::<T, Less>(loops, a, b, result, pace),
            Comparison::LessOrEqual => each::<T, LessOrEqual>(loops, a, b, result, pace),
            Comparison::Greater => each::<T, Greater>(loops, a, b, result, pace),
            Comparison::GreaterOrEqual => each::<T, GreaterOrEqual>(loops, a, b, result, pace),
        }
    })
}

/// An operator of two elements.
trait Pairwise<T> {
    type Result: Pod;
    fn apply(a: T, b: T) -> Self::Result;
}

macro_rules! pairwise {
    ($($name:ident: $bound:ident, |$a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl<T: $bound> Pairwise<T> for $name {
            type Result = T;
            #[inline(always)]
            fn apply($a: T, $b: T) -> T { $body }
        }
    )*};
}

macro_rules! comparisons {
    ($($name:ident: |$a:ident, $b:ident| $body:expr;)*) => {$(
        struct $name;
        impl<T: Element> Pairwise<T> for $name {
            type Result = Bit;
            #[inline(always)]
            fn apply(a: T, b: T) -> Bit {
                let ($a, $b) = (a.plain(), b.plain());
                Bit(u8::from($body))
            }
        }
    )*};
}

comparisons! {
    Equal: |a, b| a == b;
    NotEqual: |a, b| a != b;
    Less: |a, b| a < b;
    LessOrEqual: |a, b| a <= b;
    Greater: |a, b| a > b;
    GreaterOrEqual: |a, b| a >= b;
}

pairwise! {
    Add: Number, |a, b| a.add(b);
    Subtract: Number, |a, b| a.subtract(b);
    Multiply: Number, |a, b| a.multiply(b);
    Divide: Number, |a, b| a.divide(b);
    Smaller: Element, |a, b| if b.key() < a.key() { b } else { a };
    Larger: Element, |a, b| if b.key() > a.key() { b } else { a };
    SmallerOrNan: Float, |a, b| if choose_first(a, b, a.widen() <= b.widen()) { a } else { b };
    LargerOrNan: Float, |a, b| if choose_first(a, b, a.widen() >= b.widen()) { a } else { b };
    Power: Float, |a, b| T::narrow(a.widen().power(b.widen()));
    Modulo: Integer, |a, b| a.modulo(b);
}

/// The first where it is NaN, else the second where that is NaN, else as compared.
#[inline(always)]
#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
fn choose_first<T: Float>(a: T, b: T, compared: bool) -> bool {
    let (a, b) = (a.widen(), b.widen());
    (a != a) | (compared & (b == b))
}

fn each<T: Pod, O: Pairwise<T>>(
    loops: &Loops,
    a: &[T],
    b: &[T],
    result: &mut [O::Result],
    pace: &mut Pace<'_>,
) -> Result<()> {
    if let Some(operand) = loops.pattern() {
        let (short, long) = if operand == 0 { (a, b) } else { (b, a) };
        let run: Vec<T> = short.iter().copied().cycle().take(short.len() * 64_usize.div_ceil(short.len())).collect();
        for (long, to) in long.chunks(run.len()).zip(result.chunks_mut(run.len())) {
            pace.spend(to.len() * loops.cost)?;
            let run = &run[..to.len()];
            if operand == 0 { both::<T, O>(run, long, to) } else { both::<T, O>(long, run, to) }
        }
        return Ok(());
    }
    let mut rows = Odometer::new(loops.outer.clone(), loops.outer_strides.clone(), [0, 0]);
    let length = Pace::CHUNK / loops.cost;
    for row in result.chunks_exact_mut(loops.columns) {
        let [a_at, b_at] = rows.at.map(|at| at as usize);
        for (index, to) in row.chunks_mut(length).enumerate() {
            pace.spend(to.len() * loops.cost + Pace::FAR)?;
            let part = |operand: &'_ [T], at: usize| (at + index * length).min(operand.len());
            match loops.moves {
                [true, true] => both::<T, O>(&a[part(a, a_at)..], &b[part(b, b_at)..], to),
                [true, false] => right::<T, O>(&a[part(a, a_at)..], b[b_at], to),
                [false, true] => left::<T, O>(a[a_at], &b[part(b, b_at)..], to),
                [false, false] => to.fill(O::apply(a[a_at], b[b_at])),
            }
        }
        rows.step();
    }
    Ok(())
}

vectorised! {
    fn both [T, O] [T: Pod, O: Pairwise<T>] (a: &[T], b: &[T], to: &mut [O::Result]) {
        for ((a, b), to) in a.iter().zip(b).zip(to) {
            *to = O::apply(*a, *b);
        }
    }

    fn right [T, O] [T: Pod, O: Pairwise<T>] (a: &[T], b: T, to: &mut [O::Result]) {
        for (a, to) in a.iter().zip(to) {
            *to = O::apply(*a, b);
        }
    }

    fn left [T, O] [T: Pod, O: Pairwise<T>] (a: T, b: &[T], to: &mut [O::Result]) {
        for (b, to) in b.iter().zip(to) {
            *to = O::apply(a, *b);
        }
    }
}
