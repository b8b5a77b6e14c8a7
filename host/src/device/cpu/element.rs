//! What loops need to know about an element's type, and dispatch on dtypes; it never dispatches inside a loop.

use super::float::{self, narrow_bf16, narrow_f16, widen_bf16, widen_f16};
use super::functions;
use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

/// A boolean as it is stored: 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Bit(pub(super) u8);

/// An element of any dtype but text.
pub(super) trait Element: Pod {
    /// A number in the order of the elements: NaN above all, the two zeros equal.
    type Key: Copy + Ord;
    fn key(self) -> Self::Key;
    /// The key as an unsigned number in the same order.
    fn rank(self) -> u64;
    /// The nearest f32.
    fn to_f32(self) -> f32;
    /// The nearest f64.
    fn to_f64(self) -> f64;
    /// A number in the reverse order of the elements: NaN above all here too.
    fn reversed_key(self) -> Self::Key;
    /// A type that compares like IEEE 754: nothing equals NaN, and nothing is less or greater than it.
    type Plain: Copy + PartialOrd;
    fn plain(self) -> Self::Plain;
    /// The least element.
    const LEAST: Self;
    /// The greatest element except NaN.
    const GREATEST: Self;
}

/// Arithmetic of one dtype, as `wit/operators.wit` has it.
pub(super) trait Number: Element {
    fn add(self, other: Self) -> Self;
    fn subtract(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    fn divide(self, other: Self) -> Self;
    fn abs(self) -> Self;
    /// -1, 0 or 1; NaN stays.
    fn sign(self) -> Self;
    /// The type of sums: the type itself for integers, which wrap, and f64 for floats.
    type Sum: Copy;
    const NO_SUM: Self::Sum;
    fn add_to(self, sum: Self::Sum) -> Self::Sum;
    fn add_sums(a: Self::Sum, b: Self::Sum) -> Self::Sum;
    fn of_sum(sum: Self::Sum) -> Self;
}

/// A number that may be less than 0.
pub(super) trait Signed: Number {
    fn negate(self) -> Self;
    fn relu(self) -> Self;
}

/// An integer dtype.
pub(super) trait Integer: Number + Into<i128> {
    /// The remainder of floored division; 0 of a division by 0.
    fn modulo(self, other: Self) -> Self;
}

/// An element that is computed on in another type.
pub(super) trait Sample: Element {
    /// f64 for f64, f32 for the others.
    type Wide: Wide;
    fn widen(self) -> Self::Wide;
    /// The nearest element, ties to even, saturated.
    fn narrow(wide: Self::Wide) -> Self;
}

/// A float dtype.
pub(super) trait Float: Sample {
    /// Whether `Wide` is the type itself.
    const IS_WIDE: bool;
}

/// A type to compute in.
pub(super) trait Wide:
    Pod
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::AddAssign
{
    const ZERO: Self;
    const NEGATIVE_INFINITY: Self;
    const ONE: Self;
    const HALF: Self;
    const ROOT_HALF: Self;
    fn exp(self) -> Self;
    fn log(self) -> Self;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn round(self) -> Self;
    fn tanh(self) -> Self;
    fn erf(self) -> Self;
    fn power(self, exponent: Self) -> Self;
    fn into_f64(self) -> f64;
    fn of_f64(value: f64) -> Self;
}

macro_rules! integers {
    ($($type:ident $flip:expr, $abs:expr, $sign:expr;)*) => {$(
        impl Element for $type {
            type Key = $type;
            #[inline(always)]
            fn key(self) -> $type { self }
            #[inline(always)]
            fn rank(self) -> u64 { (self as u64) ^ $flip }
            #[inline(always)]
            fn to_f32(self) -> f32 { self as f32 }
            #[inline(always)]
            fn to_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn reversed_key(self) -> $type { !self }
            type Plain = $type;
            #[inline(always)]
            fn plain(self) -> $type { self }
            const LEAST: $type = $type::MIN;
            const GREATEST: $type = $type::MAX;
        }
        impl Integer for $type {
            #[inline(always)]
            fn modulo(self, other: $type) -> $type {
                if other == 0 { return 0; }
                let rest = self.wrapping_rem(other);
                // The signs can differ only if the type is signed.
                if rest != 0 && (rest ^ other) < 0 as $type { rest.wrapping_add(other) } else { rest }
            }
        }
        impl Number for $type {
            #[inline(always)]
            fn abs(self) -> $type { $abs(self) }
            #[inline(always)]
            fn sign(self) -> $type { $sign(self) }
            type Sum = $type;
            const NO_SUM: $type = 0;
            #[inline(always)]
            fn add_to(self, sum: $type) -> $type { sum.wrapping_add(self) }
            #[inline(always)]
            fn add_sums(a: $type, b: $type) -> $type { a.wrapping_add(b) }
            #[inline(always)]
            fn of_sum(sum: $type) -> $type { sum }
            #[inline(always)]
            fn add(self, other: $type) -> $type { self.wrapping_add(other) }
            #[inline(always)]
            fn subtract(self, other: $type) -> $type { self.wrapping_sub(other) }
            #[inline(always)]
            fn multiply(self, other: $type) -> $type { self.wrapping_mul(other) }
            #[inline(always)]
            fn divide(self, other: $type) -> $type { if other == 0 { 0 } else { self.wrapping_div(other) } }
        }
    )*};
}

integers! {
    u8 0, |x: u8| x, |x: u8| x.min(1);
    u16 0, |x: u16| x, |x: u16| x.min(1);
    u32 0, |x: u32| x, |x: u32| x.min(1);
    u64 0, |x: u64| x, |x: u64| x.min(1);
    i8 1 << 63, i8::wrapping_abs, i8::signum;
    i16 1 << 63, i16::wrapping_abs, i16::signum;
    i32 1 << 63, i32::wrapping_abs, i32::signum;
    i64 1 << 63, i64::wrapping_abs, i64::signum;
}

macro_rules! signed {
    ($($type:ident)*) => {$(
        impl Signed for $type {
            #[inline(always)]
            fn negate(self) -> $type { self.wrapping_neg() }
            #[inline(always)]
            fn relu(self) -> $type { self.max(0) }
        }
    )*};
}

signed! { i8 i16 i32 i64 }

impl Element for Bit {
    type Key = u8;
    #[inline(always)]
    fn key(self) -> u8 {
        self.0
    }
    #[inline(always)]
    fn rank(self) -> u64 {
        self.0.into()
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.0.into()
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.0.into()
    }
    #[inline(always)]
    fn reversed_key(self) -> u8 {
        !self.0
    }
    type Plain = u8;
    #[inline(always)]
    fn plain(self) -> u8 {
        self.0
    }
    const LEAST: Bit = Bit(0);
    const GREATEST: Bit = Bit(1);
}

macro_rules! floats {
    ($($type:ident $bits:ident $key:ident $wide:ident $is_wide:literal $widen:expr, $narrow:expr;)*) => {$(
        impl Element for $type {
            type Key = $key;
            #[inline(always)]
            fn key(self) -> $key {
                let bits = self.to_bits();
                let magnitude = (bits & ($bits::MAX >> 1)) as $key;
                let ordered = if bits > $bits::MAX >> 1 { -magnitude } else { magnitude };
                if magnitude > $type::INFINITY.to_bits() as $key { $key::MAX } else { ordered }
            }
            #[inline(always)]
            fn rank(self) -> u64 { (self.key() as u64) ^ (1 << 63) }
            #[inline(always)]
            fn to_f32(self) -> f32 { $widen(self) as f32 }
            #[inline(always)]
            fn to_f64(self) -> f64 { $widen(self) as f64 }
            #[inline(always)]
            fn reversed_key(self) -> $key {
                let key = self.key();
                if key == $key::MAX { key } else { -key }
            }
            type Plain = $wide;
            #[inline(always)]
            fn plain(self) -> $wide { $widen(self) }
            const LEAST: $type = $type::NEG_INFINITY;
            const GREATEST: $type = $type::INFINITY;
        }
        impl Signed for $type {
            #[inline(always)]
            fn negate(self) -> $type { $type::from_bits(self.to_bits() ^ (1 << ($bits::BITS - 1))) }
            #[inline(always)]
            fn relu(self) -> $type {
                let x = $widen(self);
                $narrow(if x < 0.0 { 0.0 } else { x })
            }
        }
        impl Number for $type {
            #[inline(always)]
            fn abs(self) -> $type { $type::from_bits(self.to_bits() & ($bits::MAX >> 1)) }
            #[inline(always)]
            fn sign(self) -> $type {
                let x = $widen(self);
                let signed = if x < 0.0 { -1.0 } else { x };
                $narrow(if x > 0.0 { 1.0 } else { signed })
            }
            type Sum = f64;
            const NO_SUM: f64 = 0.0;
            #[inline(always)]
            fn add_to(self, sum: f64) -> f64 { sum + $widen(self) as f64 }
            #[inline(always)]
            fn add_sums(a: f64, b: f64) -> f64 { a + b }
            #[inline(always)]
            fn of_sum(sum: f64) -> $type { $narrow(sum as $wide) }
            #[inline(always)]
            fn add(self, other: $type) -> $type { $narrow($widen(self) + $widen(other)) }
            #[inline(always)]
            fn subtract(self, other: $type) -> $type { $narrow($widen(self) - $widen(other)) }
            #[inline(always)]
            fn multiply(self, other: $type) -> $type { $narrow($widen(self) * $widen(other)) }
            #[inline(always)]
            fn divide(self, other: $type) -> $type { $narrow($widen(self) / $widen(other)) }
        }
        impl Sample for $type {
            type Wide = $wide;
            #[inline(always)]
            fn widen(self) -> $wide { $widen(self) }
            #[inline(always)]
            fn narrow(wide: $wide) -> $type { $narrow(wide) }
        }
        impl Float for $type {
            const IS_WIDE: bool = $is_wide;
        }
    )*};
}

floats! {
    f16 u16 i16 f32 false |x: f16| widen_f16(x.to_bits()), |x: f32| f16::from_bits(narrow_f16(x));
    bf16 u16 i16 f32 false |x: bf16| widen_bf16(x.to_bits()), |x: f32| bf16::from_bits(narrow_bf16(x));
    f32 u32 i32 f32 true std::convert::identity::<f32>, std::convert::identity::<f32>;
    f64 u64 i64 f64 true std::convert::identity::<f64>, std::convert::identity::<f64>;
}

impl Sample for u8 {
    type Wide = f32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self.into()
    }
    #[inline(always)]
    fn narrow(wide: f32) -> u8 {
        // Beyond 2^23 an f32 has no fraction: the sum is rounded half to even and its last bits are the result.
        const MAGIC: f32 = 8_388_608.0;
        let low = if wide > 0.0 { wide } else { 0.0 };
        let clamped = if low < 255.0 { low } else { 255.0 };
        (clamped + MAGIC).to_bits() as u8
    }
}

macro_rules! wide {
    ($($type:ident $exp:expr, $log:expr, $tanh:expr, $erf:expr, $root_half:expr;)*) => {$(
        impl Wide for $type {
            const ONE: $type = 1.0;
            const HALF: $type = 0.5;
            const ROOT_HALF: $type = $root_half;
            #[inline(always)]
            fn log(self) -> $type { $log(self) }
            #[inline(always)]
            fn sqrt(self) -> $type { $type::sqrt(self) }
            #[inline(always)]
            fn floor(self) -> $type { $type::floor(self) }
            #[inline(always)]
            fn ceil(self) -> $type { $type::ceil(self) }
            #[inline(always)]
            fn round(self) -> $type { $type::round_ties_even(self) }
            #[inline(always)]
            fn tanh(self) -> $type { $tanh(self) }
            #[inline(always)]
            fn erf(self) -> $type { $erf(self) }
            #[inline(always)]
            fn power(self, exponent: $type) -> $type { $type::powf(self, exponent) }
            const ZERO: $type = 0.0;
            const NEGATIVE_INFINITY: $type = $type::NEG_INFINITY;
            #[inline(always)]
            fn exp(self) -> $type { $exp(self) }
            #[inline(always)]
            fn into_f64(self) -> f64 { self as f64 }
            #[inline(always)]
            fn of_f64(value: f64) -> $type { value as $type }
        }
    )*};
}

wide! {
    f32 float::exp, functions::log, functions::tanh, functions::erf, std::f32::consts::FRAC_1_SQRT_2;
    f64 f64::exp, f64::ln, f64::tanh, functions::erf_f64, std::f64::consts::FRAC_1_SQRT_2;
}

/// Runs an expression with `$type` as the element type of a dtype; text, which no plan contains, is an error.
macro_rules! with_element {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            DType::Boolean => {
                type $type = $crate::device::cpu::element::Bit;
                $body
            }
            DType::U8 => {
                type $type = u8;
                $body
            }
            DType::S8 => {
                type $type = i8;
                $body
            }
            DType::U16 => {
                type $type = u16;
                $body
            }
            DType::S16 => {
                type $type = i16;
                $body
            }
            DType::U32 => {
                type $type = u32;
                $body
            }
            DType::S32 => {
                type $type = i32;
                $body
            }
            DType::U64 => {
                type $type = u64;
                $body
            }
            DType::S64 => {
                type $type = i64;
                $body
            }
            DType::F16 => {
                type $type = half::f16;
                $body
            }
            DType::BF16 => {
                type $type = half::bf16;
                $body
            }
            DType::F32 => {
                type $type = f32;
                $body
            }
            DType::F64 => {
                type $type = f64;
                $body
            }
            DType::Text => Err($crate::device::cpu::element::unplanned(DType::Text)),
        }
    };
}

/// The same for float dtypes.
macro_rules! with_float {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            DType::F16 => {
                type $type = half::f16;
                $body
            }
            DType::BF16 => {
                type $type = half::bf16;
                $body
            }
            DType::F32 => {
                type $type = f32;
                $body
            }
            DType::F64 => {
                type $type = f64;
                $body
            }
            other => Err($crate::device::cpu::element::unplanned(other)),
        }
    };
}

/// The same for integer dtypes.
macro_rules! with_integer {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            DType::U8 => {
                type $type = u8;
                $body
            }
            DType::U16 => {
                type $type = u16;
                $body
            }
            DType::U32 => {
                type $type = u32;
                $body
            }
            DType::U64 => {
                type $type = u64;
                $body
            }
            other => $crate::device::cpu::element::with_signed_integer!(other, $type => $body),
        }
    };
}

/// The same for signed integer dtypes.
macro_rules! with_signed_integer {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            DType::S8 => {
                type $type = i8;
                $body
            }
            DType::S16 => {
                type $type = i16;
                $body
            }
            DType::S32 => {
                type $type = i32;
                $body
            }
            DType::S64 => {
                type $type = i64;
                $body
            }
            other => Err($crate::device::cpu::element::unplanned(other)),
        }
    };
}

/// The same for all dtypes but boolean and text.
macro_rules! with_number {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            float if float.is_float() => $crate::device::cpu::element::with_float!(float, $type => $body),
            other => $crate::device::cpu::element::with_integer!(other, $type => $body),
        }
    };
}

/// The same for signed integers and floats.
macro_rules! with_signed {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            float if float.is_float() => $crate::device::cpu::element::with_float!(float, $type => $body),
            other => $crate::device::cpu::element::with_signed_integer!(other, $type => $body),
        }
    };
}

/// The same for the unsigned integer that is as wide as the dtype: enough to move elements.
macro_rules! with_bits {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype.size_bytes() {
            Some(1) => {
                type $type = u8;
                $body
            }
            Some(2) => {
                type $type = u16;
                $body
            }
            Some(4) => {
                type $type = u32;
                $body
            }
            Some(8) => {
                type $type = u64;
                $body
            }
            _ => Err($crate::device::cpu::element::unplanned($dtype)),
        }
    };
}

pub(super) use {with_bits, with_element, with_float, with_integer, with_number, with_signed, with_signed_integer};

/// The error of a plan that contains a dtype which its rule refuses.
pub(super) fn unplanned(dtype: crate::device::DType) -> crate::error::Error {
    crate::error::Error::new(crate::error::Kind::Internal, format!("an operator was planned with {dtype}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_the_elements() {
        let check = |values: &[f32]| {
            for pair in values.windows(2) {
                assert!(pair[0].key() < pair[1].key() && pair[0].rank() < pair[1].rank(), "{pair:?}");
                let [a, b] = [f64::from(pair[0]), f64::from(pair[1])];
                assert!(a.key() < b.key(), "{pair:?}");
                assert!(f16::from_f32(pair[0]).key() <= f16::from_f32(pair[1]).key(), "{pair:?}");
            }
        };
        check(&[f32::NEG_INFINITY, f32::MIN, -1.5, -1e-45, 0.0, 1e-45, 1.0, f32::MAX, f32::INFINITY, f32::NAN]);
        assert_eq!((-0f32).key(), 0f32.key());
        assert!(1f32.reversed_key() < 0f32.reversed_key() && 0f32.reversed_key() < f32::NAN.reversed_key());
        assert!(i8::MIN.reversed_key() > i8::MAX.reversed_key() && 0u8.reversed_key() > 1u8.reversed_key());
        assert_eq!((-f32::NAN).key(), f32::NAN.key());
        assert!((-1i8).rank() < 0i8.rank() && 0u8.rank() < 255u8.rank());
    }

    #[test]
    fn remainders_have_the_sign_of_the_divisor() {
        for (a, b, rest) in
            [(7i32, 3, 1), (-7, 3, 2), (7, -3, -2), (-7, -3, -1), (6, -3, 0), (5, 0, 0), (i32::MIN, -1, 0)]
        {
            assert_eq!(a.modulo(b), rest, "{a} {b}");
        }
        assert_eq!((200u8.modulo(77), i8::MIN.modulo(127)), (46, 126));
    }

    #[test]
    fn samples_round_half_to_even_and_saturate() {
        for (wide, narrow) in
            [(0.5, 0), (1.5, 2), (2.5, 2), (254.5, 254), (255.5, 255), (1e9, 255), (-0.6, 0), (0.51, 1)]
        {
            assert_eq!(u8::narrow(wide), narrow, "{wide}");
        }
    }
}
