//! `cast`: every dtype to every other; it never checks values.

use super::element::{Bit, Element, with_element};
use super::float::{narrow_bf16, narrow_f16, odd_f32, odd_f64};
use super::memory::{Fresh, elements};
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{DType, Tensor};
use crate::error::Result;
use half::{bf16, f16};

/// Converts as `cast` in `wit/operators.wit` does.
pub(super) trait Cast<B> {
    fn cast(self) -> B;
}

/// A value from which f16 and bf16 round once; see [`odd_f32`].
trait Odd {
    fn odd(self) -> f32;
}

macro_rules! casts {
    ($($from:ident $odd:expr;)*) => {$(
        impl Odd for $from {
            #[inline(always)]
            fn odd(self) -> f32 { $odd(self) }
        }
        casts! { $from => u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }
        impl Cast<$from> for Bit {
            #[inline(always)]
            fn cast(self) -> $from { self.0 as $from }
        }
        impl Cast<$from> for f16 {
            #[inline(always)]
            fn cast(self) -> $from { Element::to_f32(self) as $from }
        }
        impl Cast<$from> for bf16 {
            #[inline(always)]
            fn cast(self) -> $from { Element::to_f32(self) as $from }
        }
    )*};
    ($from:ident => $($to:ident)*) => {$(
        impl Cast<$to> for $from {
            #[inline(always)]
            fn cast(self) -> $to { self as $to }
        }
    )*};
}

casts! {
    u8 |x: u8| f32::from(x);
    i8 |x: i8| f32::from(x);
    u16 |x: u16| f32::from(x);
    i16 |x: i16| f32::from(x);
    u32 |x: u32| odd_f32(f64::from(x));
    i32 |x: i32| odd_f32(f64::from(x));
    u64 |x: u64| odd_f32(odd_f64(false, x));
    i64 |x: i64| odd_f32(odd_f64(x < 0, x.unsigned_abs()));
    f32 |x: f32| x;
    f64 |x: f64| odd_f32(x);
}

macro_rules! casts_by_trait {
    ($($from:ident $odd:expr, $is_true:expr;)*) => {$(
        impl Cast<f16> for $from {
            #[inline(always)]
            fn cast(self) -> f16 { f16::from_bits(narrow_f16($odd(self))) }
        }
        impl Cast<bf16> for $from {
            #[inline(always)]
            fn cast(self) -> bf16 { bf16::from_bits(narrow_bf16($odd(self))) }
        }
        impl Cast<Bit> for $from {
            #[inline(always)]
            fn cast(self) -> Bit { Bit(u8::from($is_true(self))) }
        }
    )*};
}

casts_by_trait! {
    Bit |x: Bit| f32::from(x.0), |x: Bit| x.0 != 0;
    u8 Odd::odd, |x| x != 0;
    i8 Odd::odd, |x| x != 0;
    u16 Odd::odd, |x| x != 0;
    i16 Odd::odd, |x| x != 0;
    u32 Odd::odd, |x| x != 0;
    i32 Odd::odd, |x| x != 0;
    u64 Odd::odd, |x| x != 0;
    i64 Odd::odd, |x| x != 0;
    f16 Element::to_f32, |x: f16| x.to_bits() << 1 != 0;
    bf16 Element::to_f32, |x: bf16| x.to_bits() << 1 != 0;
    f32 Odd::odd, |x| x != 0.0;
    f64 Odd::odd, |x| x != 0.0;
}

vectorised! {
    fn convert [A, B] [A: Element + Cast<B>, B: Element] (from: &[A], to: &mut [B]) {
        for (from, to) in from.iter().zip(to) {
            *to = from.cast();
        }
    }
}

/// Converts all elements.
pub(super) fn run(from: DType, to: DType, input: &Tensor, result: &mut Fresh, pace: &mut Pace<'_>) -> Result<()> {
    with_element!(from, A => with_element!(to, B => {
        each::<A, B>(elements(input)?, result.elements_mut()?, pace)
    }))
}

fn each<A: Element + Cast<B>, B: Element>(input: &[A], result: &mut [B], pace: &mut Pace<'_>) -> Result<()> {
    for (from, to) in input.chunks(Pace::CHUNK).zip(result.chunks_mut(Pace::CHUNK)) {
        pace.spend(from.len())?;
        convert(from, to);
    }
    Ok(())
}

/// A number cast to a dtype, as the bits of the unsigned integer of its width.
pub(in crate::device) fn bits_of(number: f64, dtype: DType) -> Result<u64> {
    with_element!(dtype, T => {
        let value: T = number.cast();
        let mut bytes = [0; 8];
        let own = bytemuck::bytes_of(&value);
        bytes[..own.len()].copy_from_slice(own);
        Ok(u64::from_le_bytes(bytes))
    })
}
