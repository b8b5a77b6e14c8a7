//! Conversions between float formats and `exp`, without branches so that loops over them become vector code; it never
//! depends on processor features.

/// f16 bits as f32, exactly.
#[inline(always)]
pub(super) fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    // Read as f32 the exponent is too small by 112; the product is exact and makes subnormals normal.
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let value = if magnitude >= 0x7c00 << 13 { magnitude | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(value | sign)
}

/// The nearest f16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn narrow_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, magnitude) = ((bits >> 16) & 0x8000, bits & 0x7fff_ffff);
    // Adding 0.5 leaves units of 2^-24, those of f16's subnormals, and rounds to even.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let rounded = magnitude.wrapping_add(0xfff + ((magnitude >> 13) & 1));
    let normal = (rounded.wrapping_sub(112 << 23) >> 13).min(0x7c00);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let finite = if magnitude >= 0x4780_0000 { 0x7c00 } else { finite };
    let result = if magnitude > 0x7f80_0000 { 0x7e00 } else { finite };
    (result | sign) as u16
}

/// bf16 bits as f32, exactly.
#[inline(always)]
pub(super) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn narrow_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let result = if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) | 0x40 } else { rounded };
    result as u16
}

/// An f32 from which narrowing rounds as if from `value` itself. It is rounded to odd: where it is inexact, its last bit is set.
/// Rounding to the nearest twice could give another result.
#[inline(always)]
pub(super) fn odd_f32(value: f64) -> f32 {
    let nearest = value as f32;
    let bits = nearest.to_bits();
    let exact = f64::from(nearest) == value || value.is_nan() || bits & 1 == 1;
    let other = if f64::from(nearest).abs() > value.abs() { bits.wrapping_sub(1) } else { bits.wrapping_add(1) };
    if exact { nearest } else { f32::from_bits(other) }
}

/// The same for 64-bit integers.
#[inline(always)]
pub(super) fn odd_f64(negative: bool, magnitude: u64) -> f64 {
    // The upper 53 bits are exact in f64; the lowest of them is set if lower bits were lost.
    let lost = u64::from(magnitude & 0x7ff != 0) << 11;
    let kept = if magnitude >> 53 == 0 { magnitude } else { (magnitude & !0x7ff) | lost };
    if negative { -(kept as f64) } else { kept as f64 }
}

/// e to the power of x, within 2 units of the last place.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r by a polynomial (the coefficients of Cephes' `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_66;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    // 2^n in two steps, because n reaches below the exponents of normal numbers.
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(half) * power(n.wrapping_sub(half))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn sixteen_bits_widen_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (widen_f16(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
            let (ours, theirs) = (widen_bf16(bits), bf16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
        }
    }

    #[test]
    fn f32_narrows_as_the_half_crate_says() {
        // A prime step visits every exponent many times; the neighbours of every 16-bit value and every tie are added.
        let steps = (0..=u32::MAX).step_by(4_099);
        let edges = (0..=u16::MAX).flat_map(|bits| {
            let (a, b) = (f16::from_bits(bits).to_f32().to_bits(), u32::from(bits) << 16);
            [
                a,
                a ^ 1,
                a.wrapping_add(1),
                a.wrapping_sub(1),
                a + 0x1000,
                a + 0xfff,
                a + 0x1001,
                b,
                b + 0x8000,
                b + 0x7fff,
                b + 0x8001,
            ]
        });
        for bits in steps.chain(edges) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (narrow_f16(value), f16::from_f32(value));
            assert!(ours == theirs.to_bits() || (value.is_nan() && f16::from_bits(ours).is_nan()), "{bits:#x}");
            let (ours, theirs) = (narrow_bf16(value), bf16::from_f32(value));
            assert!(ours == theirs.to_bits() || (value.is_nan() && bf16::from_bits(ours).is_nan()), "{bits:#x}");
        }
    }

    #[test]
    fn rounding_twice_is_rounding_once() {
        // 1 + 2^-11 is a tie of f16; a number a little above it rounds up, although f32 cannot distinguish it from the tie.
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        assert_eq!(narrow_f16(above as f32), 0x3c00);
        assert_eq!(narrow_f16(odd_f32(above)), 0x3c01);
        assert_eq!(narrow_f16(odd_f32(1.0 + 2f64.powi(-11))), 0x3c00);
        assert_eq!(narrow_bf16(odd_f32(f64::MAX)), 0x7f80);
        assert_eq!(narrow_bf16(odd_f32(-f64::MAX)), 0xff80);
        assert!(odd_f32(f64::NAN).is_nan());
        assert_eq!(odd_f32(f64::INFINITY), f32::INFINITY);
        let tie = (1u64 << 63) | (1 << 55);
        assert_eq!(narrow_bf16(odd_f32(odd_f64(false, tie))), 0x5f00);
        assert_eq!(narrow_bf16(odd_f32(odd_f64(false, tie + 1))), 0x5f01);
        assert_eq!(odd_f64(true, 5), -5.0);
    }

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0f64;
        for step in -880_000..=887_000 {
            let x = step as f32 / 10_000.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            let relative = (ours - exact).abs() / exact.max(f64::from(f32::MIN_POSITIVE));
            worst = worst.max(relative);
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!((f64::from(exp(-100.0)) - (-100f64).exp()).abs() < 1e-45);
    }
}
