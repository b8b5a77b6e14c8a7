//! Decides whether two outputs are equal within the error of floating-point arithmetic in another order; it never runs a model.

use crate::device::DType;
use half::{bf16, f16};

/// How far elements may differ: `|a - b| <= absolute * m + relative * |b|`, where `b` is the reference, `m` its largest finite
/// magnitude and the first term at least [`Tolerance::LEAST`]. NaN is equal to NaN, and an infinity to itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::model) struct Tolerance {
    /// Of the output's largest magnitude.
    pub(in crate::model) absolute: f64,
    /// Of the element's own magnitude.
    pub(in crate::model) relative: f64,
}

impl Tolerance {
    /// The rounding error that remains where large numbers cancel.
    const LEAST: f64 = 1e-6;

    /// How far the outputs of engines may differ. Integers, booleans and text must be equal.
    pub(in crate::model) fn of(dtype: DType) -> Tolerance {
        let (absolute, relative) = match dtype {
            DType::F32 | DType::F64 => (1e-4, 1e-3),
            DType::F16 => (1e-2, 1e-2),
            DType::BF16 => (5e-2, 5e-2),
            DType::Boolean
            | DType::U8
            | DType::S8
            | DType::U16
            | DType::S16
            | DType::U32
            | DType::S32
            | DType::U64
            | DType::S64
            | DType::Text => (0.0, 0.0),
        };
        Tolerance { absolute, relative }
    }
}

/// An output as bytes: little-endian elements, or the JSON list of its strings.
#[derive(Clone, Copy)]
pub(in crate::model) struct Output<'a> {
    pub(in crate::model) dtype: DType,
    pub(in crate::model) dims: &'a [u64],
    pub(in crate::model) bytes: &'a [u8],
}

/// How far two outputs differ.
#[derive(Debug, PartialEq)]
pub(in crate::model) struct Difference {
    /// The largest difference of two finite elements, as a part of the reference's largest finite magnitude, or of
    /// [`Difference::LEAST_MAGNITUDE`].
    pub(in crate::model) largest: f64,
    /// The fault, if they differ by more than the tolerance.
    pub(in crate::model) fault: Option<String>,
}

impl Difference {
    /// Outputs below this count as zero: [`Tolerance::LEAST`] is allowed there, whatever part of them it is.
    const LEAST_MAGNITUDE: f64 = 1e-2;
}

/// Compares an output with the reference.
pub(in crate::model) fn compare(found: Output<'_>, reference: Output<'_>, tolerance: Tolerance) -> Difference {
    let wrong = |fault: String| Difference { largest: 0.0, fault: Some(fault) };
    if found.dtype != reference.dtype {
        return wrong(format!("it is {} and not {}", found.dtype, reference.dtype));
    }
    if found.dims != reference.dims {
        return wrong(format!("its shape is {:?} and not {:?}", found.dims, reference.dims));
    }
    let (a, b) = (found.bytes, reference.bytes);
    if a.len() != b.len() && found.dtype != DType::Text {
        return wrong(format!("it has {} bytes and not {}", a.len(), b.len()));
    }
    let whole = |bytes: &[u8], read: fn(&[u8]) -> i128| read(bytes);
    match found.dtype {
        DType::F32 => floats(
            chunks(a, |c: [u8; 4]| f32::from_le_bytes(c).into()),
            chunks(b, |c: [u8; 4]| f32::from_le_bytes(c).into()),
            tolerance,
        ),
        DType::F64 => floats(chunks(a, f64::from_le_bytes), chunks(b, f64::from_le_bytes), tolerance),
        DType::F16 => floats(
            chunks(a, |c: [u8; 2]| f16::from_le_bytes(c).into()),
            chunks(b, |c: [u8; 2]| f16::from_le_bytes(c).into()),
            tolerance,
        ),
        DType::BF16 => floats(
            chunks(a, |c: [u8; 2]| bf16::from_le_bytes(c).into()),
            chunks(b, |c: [u8; 2]| bf16::from_le_bytes(c).into()),
            tolerance,
        ),
        DType::Text | DType::Boolean => equal(a == b),
        DType::U8 => wholes(a, b, 1, |bytes| whole(bytes, |b| b[0].into())),
        DType::S8 => wholes(a, b, 1, |bytes| whole(bytes, |b| (b[0] as i8).into())),
        DType::U16 | DType::S16 | DType::U32 | DType::S32 | DType::U64 | DType::S64 => {
            let size = found.dtype.size_bytes().unwrap_or(1) as usize;
            let signed = found.dtype.is_signed_integer();
            wholes(a, b, size, move |bytes| {
                let mut wide = [if signed && bytes[size - 1] & 0x80 != 0 { 0xff } else { 0 }; 16];
                wide[..size].copy_from_slice(bytes);
                i128::from_le_bytes(wide)
            })
        }
    }
}

fn equal(equal: bool) -> Difference {
    Difference { largest: 0.0, fault: (!equal).then(|| "its elements differ".to_owned()) }
}

fn chunks<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> impl Iterator<Item = f64> + Clone {
    let values: Vec<f64> = bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect();
    values.into_iter()
}

fn floats(
    found: impl Iterator<Item = f64>,
    reference: impl Iterator<Item = f64> + Clone,
    Tolerance { absolute, relative }: Tolerance,
) -> Difference {
    let magnitude =
        reference.clone().filter(|value| value.is_finite()).fold(0.0f64, |most, value| most.max(value.abs()));
    let mut difference = Difference { largest: 0.0, fault: None };
    let mut worst = 0.0;
    for (index, (a, b)) in found.zip(reference).enumerate() {
        if a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        let apart = (a - b).abs();
        let allowed = (absolute * magnitude).max(Tolerance::LEAST) + relative * b.abs();
        if apart.is_finite() {
            difference.largest = difference.largest.max(apart / magnitude.max(Difference::LEAST_MAGNITUDE));
        }
        // Comparing with NaN is false, which is a fault too.
        let within = apart <= allowed && b.is_finite();
        let excess = if apart.is_finite() { apart - allowed } else { f64::INFINITY };
        if !within && (difference.fault.is_none() || excess > worst) {
            worst = excess;
            difference.fault = Some(format!("element {index} is {a:e} and not {b:e}"));
        }
    }
    difference
}

fn wholes(a: &[u8], b: &[u8], size: usize, read: impl Fn(&[u8]) -> i128) -> Difference {
    let mut difference = Difference { largest: 0.0, fault: None };
    let (mut worst, mut magnitude) = (0, 0);
    for (index, (a, b)) in a.chunks_exact(size).zip(b.chunks_exact(size)).enumerate() {
        let (a, b) = (read(a), read(b));
        magnitude = magnitude.max(b.abs());
        if (a - b).abs() > worst {
            worst = (a - b).abs();
            difference.fault = Some(format!("element {index} is {a} and not {b}"));
        }
    }
    difference.largest = worst as f64 / magnitude.max(1) as f64;
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(a: &[f32], b: &[f32]) -> Difference {
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let (a, b) = (bytes(a), bytes(b));
        let dims = [b.len() as u64 / 4];
        let output = |bytes| Output { dtype: DType::F32, dims: &dims, bytes };
        compare(output(&a), output(&b), Tolerance::of(DType::F32))
    }

    #[test]
    fn floats_may_differ_by_little() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let table: [(&[f32], &[f32], bool); 12] = [
            (&[1.0, 2.0], &[1.0, 2.0], true),
            (&[1.0005, 2.0], &[1.0, 2.0], true),
            (&[1.01, 2.0], &[1.0, 2.0], false),
            (&[nan, inf, -inf], &[nan, inf, -inf], true),
            (&[1.0], &[nan], false),
            (&[nan], &[1.0], false),
            (&[inf], &[-inf], false),
            (&[3e38], &[inf], false),
            (&[inf], &[3e38], false),
            // Next to a large number, a small one is only noise.
            (&[1e-3, 100.0], &[0.0, 100.0], true),
            // Small probabilities are not compared as if they were 1.
            (&[1.1e-3, 2e-3], &[1e-3, 2e-3], false),
            (&[1e-7], &[0.0], true),
        ];
        for (a, b, same) in table {
            assert_eq!(of(a, b).fault.is_none(), same, "{a:?} {b:?}");
        }
        let found = of(&[1.5, 4.0, 0.5], &[1.0, 4.0, 0.4]);
        assert_eq!(found.fault.as_deref(), Some("element 0 is 1.5e0 and not 1e0"));
        assert!((found.largest - 0.125).abs() < 1e-9);
    }

    #[test]
    fn integers_booleans_and_text_are_equal_or_not() {
        let output = |dtype, dims: &'static [u64], bytes: &'static [u8]| Output { dtype, dims, bytes };
        let exact = Tolerance::of(DType::S64);
        let same = |a, b| compare(a, b, exact).fault.is_none();
        let s16 = |bytes| output(DType::S16, &[1], bytes);
        assert!(same(s16(&[0xfe, 0xff]), s16(&[0xfe, 0xff])));
        let found = compare(s16(&[0xfe, 0xff]), s16(&[1, 0]), exact);
        assert_eq!(found.fault.as_deref(), Some("element 0 is -2 and not 1"));
        assert!(!same(output(DType::U64, &[1], &[0xff; 8]), output(DType::U64, &[1], &[0; 8])));
        assert!(!same(output(DType::S8, &[1], &[1]), output(DType::S8, &[1], &[2])));
        assert!(!same(output(DType::Boolean, &[1], &[1]), output(DType::Boolean, &[1], &[0])));
        assert!(!same(output(DType::Text, &[1], b"[\"a\"]"), output(DType::Text, &[1], b"[\"b\"]")));
        assert!(!same(output(DType::S8, &[1], &[1]), output(DType::U8, &[1], &[1])));
        assert!(!same(output(DType::S8, &[1], &[1]), output(DType::S8, &[1, 1], &[1])));
    }
}
