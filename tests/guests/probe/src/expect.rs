//! What is compared with what, and how a difference is told.

use hearth_guest::{Element, Error, Result, Tensor};

/// The same value.
pub fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<()> {
    if found == wanted { Ok(()) } else { Err(Error::internal(format!("{what}: {found:?}, not {wanted:?}"))) }
}

/// A tensor of this shape and these elements.
pub fn exactly<T: Element + PartialEq + std::fmt::Debug>(
    what: &str,
    found: &Tensor,
    shape: &[usize],
    wanted: &[T],
) -> Result<()> {
    expect(what, (found.shape(), found.to_vec::<T>()?), (shape.to_vec(), wanted.to_vec()))
}

/// A tensor of this shape and, but for what a device may round, of these numbers.
pub fn nearly(what: &str, found: &Tensor, shape: &[usize], wanted: &[f32]) -> Result<()> {
    let numbers = found.to_vec::<f32>()?;
    if found.shape() == shape && alike(&numbers, wanted) {
        return Ok(());
    }
    Err(Error::internal(format!("{what}: {:?} {numbers:?}, not {shape:?} {wanted:?}", found.shape())))
}

/// What the contract grants f32: 1e-5, relative to the larger of 1 and the magnitude.
pub fn alike(found: &[f32], wanted: &[f32]) -> bool {
    let same = |(a, b): (&f32, &f32)| {
        let room = 1e-5 * f32::max(1.0, f32::abs(*b));
        a == b || (f32::is_nan(*a) && f32::is_nan(*b)) || f32::abs(a - b) <= room
    };
    found.len() == wanted.len() && found.iter().zip(wanted).all(same)
}
