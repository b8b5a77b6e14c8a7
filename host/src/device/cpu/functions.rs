//! Logarithm, hyperbolic tangent and error function, without branches for f32 so that loops over them become vector code;
//! it never depends on processor features.

/// The natural logarithm, within 2 units of the last place.
///
/// x = 2^n * m with m between the root of one half and that of two, and ln m by a polynomial (the coefficients of Cephes'
/// `logf`).
#[inline(always)]
pub(super) fn log(x: f32) -> f32 {
    const ROOT_HALF_BITS: u32 = 0x3f35_04f3;
    let small = x < f32::MIN_POSITIVE;
    // Subnormal numbers are made normal ones.
    let bits = (if small { x * 8_388_608.0 } else { x }).to_bits();
    let shifted = bits.wrapping_sub(ROOT_HALF_BITS);
    let n = (shifted as i32 >> 23) as f32 - if small { 23.0 } else { 0.0 };
    let m = f32::from_bits((shifted & 0x007f_ffff) + ROOT_HALF_BITS) - 1.0;
    let z = m * m;
    let mut p = 7.037_683_6e-2;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_9e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_8e-1;
    p = p * m + 2.000_071_5e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333e-1;
    let y = p * m * z - n * 2.121_944_4e-4 - 0.5 * z;
    let finite = m + y + n * 0.693_359_4;
    let result = if x < f32::INFINITY { finite } else { x };
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    if x < 0.0 { f32::NAN } else { result }
}

/// The hyperbolic tangent, within a few units of the last place.
///
/// An odd polynomial by an even one (the coefficients of Eigen's `ptanh`).
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    const MOST: f32 = 7.905_311;
    let low = if x < -MOST { -MOST } else { x };
    let t = if low > MOST { MOST } else { low };
    let z = t * t;
    let mut p = -2.760_768_5e-16;
    p = p * z + 2.000_188e-13;
    p = p * z - 8.604_672e-11;
    p = p * z + 5.122_297e-8;
    p = p * z + 1.485_722_4e-5;
    p = p * z + 6.372_619_3e-4;
    p = p * z + 4.893_525e-3;
    let mut q = 1.198_258_4e-6;
    q = q * z + 1.185_347_1e-4;
    q = q * z + 2.268_434_7e-3;
    q = q * z + 4.893_525e-3;
    t * p / q
}

/// The error function, within some units of the last place.
///
/// An odd polynomial by an even one (the coefficients of Eigen's `perf`).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let low = if x < -4.0 { -4.0 } else { x };
    let t = if low > 4.0 { 4.0 } else { low };
    let z = t * t;
    let mut p = -2.726_142_3e-10;
    p = p * z + 2.770_681_4e-8;
    p = p * z - 2.101_024e-6;
    p = p * z - 5.692_506_4e-5;
    p = p * z - 7.349_906_3e-4;
    p = p * z - 2.954_6e-3;
    p = p * z - 1.609_603_3e-2;
    let mut q = -1.456_607_2e-5;
    q = q * z - 2.133_740_6e-4;
    q = q * z - 1.682_827e-3;
    q = q * z - 7.373_329e-3;
    q = q * z - 1.426_474e-2;
    // Beyond 4 it is exactly 1, so that adding it to -1 or subtracting it from 1 gives 0.
    let result = if x >= 4.0 { 1.0 } else { t * p / q };
    if x <= -4.0 { -1.0 } else { result }
}

/// The error function in f64: a series of positive terms near 0, a continued fraction beyond.
pub(super) fn erf_f64(x: f64) -> f64 {
    let (size, square) = (x.abs(), x * x);
    if size >= 6.0 {
        return x.signum();
    }
    if size < 2.0 {
        // 2 / sqrt(pi) * e^-x² * sum of 2^n x^(2n+1) / (1 * 3 * … * (2n+1))
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term.abs() > 1e-17 * sum.abs() {
            odd += 2.0;
            term *= 2.0 * square / odd;
            sum += term;
        }
        return std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum;
    }
    // erfc x = e^-x² / sqrt(pi) / (x + 1/2 / (x + 2/2 / (x + 3/2 / (x + …))))
    let fraction = (1..=60).rev().fold(size, |rest, n| size + f64::from(n) / 2.0 / rest);
    let beyond = std::f64::consts::FRAC_2_SQRT_PI / 2.0 * (-square).exp() / fraction;
    (1.0 - beyond).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_close_everywhere() {
        for bits in (1..0x7f80_0000).step_by(997) {
            let x = f32::from_bits(bits);
            let exact = f64::from(x).ln();
            let most = exact.abs().max(1e-3) * 2.5e-7;
            assert!((f64::from(log(x)) - exact).abs() < most, "{x:e}: {} {exact}", log(x));
        }
        assert_eq!((log(0.0), log(-0.0), log(1.0)), (f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0));
        assert_eq!(log(f32::INFINITY), f32::INFINITY);
        assert!(log(-1e-45).is_nan() && log(f32::NEG_INFINITY).is_nan() && log(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_and_erf_are_close_everywhere() {
        for step in -100_000..=100_000 {
            let x = step as f32 / 9_973.0;
            let exact = f64::from(x).tanh();
            assert!((f64::from(tanh(x)) - exact).abs() <= exact.abs() * 4e-7, "{x}: {} {exact}", tanh(x));
            let exact = erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - exact).abs() <= exact.abs() * 6e-7, "{x}: {} {exact}", erf(x));
        }
        for function in [tanh, erf] {
            assert_eq!((function(0.0), function(f32::INFINITY)), (0.0, function(9.0)));
            assert!((function(f32::INFINITY) - 1.0).abs() < 2e-7 && (function(f32::NEG_INFINITY) + 1.0).abs() < 2e-7);
            assert!(function(f32::NAN).is_nan());
        }
    }

    #[test]
    fn the_error_function_has_its_known_values() {
        // Abramowitz and Stegun, table 7.1, with more digits.
        for (x, value) in [
            (0.0, 0.0),
            (1e-300, 1.1283791670955126e-300),
            (0.1, 0.1124629160182849),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (1.999, 0.9953015566513705),
            (2.0, 0.9953222650189527),
            (3.0, 0.9999779095030014),
            (5.5, 0.9999999999999927),
            (f64::INFINITY, 1.0),
        ] {
            assert!((erf_f64(x) - value).abs() <= 1e-15 * value, "{x}: {} {value}", erf_f64(x));
            assert_eq!(erf_f64(-x), -erf_f64(x));
        }
        assert!(erf_f64(f64::NAN).is_nan());
    }
}
