//! Checked dimensions; it never holds a shape whose bytes could not be addressed.

use super::DType;
use crate::error::{Error, Result};
use smallvec::SmallVec;
use std::fmt;

/// The dimensions of a tensor, outermost first. Empty for a scalar; a dimension may be 0.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: SmallVec<[u64; 6]>,
    elements: u64,
}

/// The most elements of a shape: with eight bytes each, they can still be addressed. Dimensions of 0 count as 1, so that no
/// product of some of the dimensions overflows either.
const MOST_ELEMENTS: u64 = isize::MAX as u64 / 8;

impl Shape {
    /// A shape of at most `max_rank` dimensions.
    ///
    /// Errors: `too-large` when there are more dimensions, or more elements than a machine can address.
    pub fn new(dims: &[u64], max_rank: u64) -> Result<Shape> {
        check_rank(dims.len(), max_rank)?;
        let mut span = 1u64;
        for &dim in dims {
            span = match span.checked_mul(dim.max(1)) {
                Some(product) if product <= MOST_ELEMENTS => product,
                _ => {
                    return Err(Error::too_large(format!(
                        "a tensor of shape {dims:?} has too many elements to address"
                    )));
                }
            };
        }
        let elements = if dims.contains(&0) { 0 } else { span };
        Ok(Shape { dims: SmallVec::from_slice(dims), elements })
    }

    /// The shape of a scalar.
    pub fn scalar() -> Shape {
        Shape { dims: SmallVec::new(), elements: 1 }
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The number of elements: 1 for a scalar, 0 where a dimension is 0.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Bytes of a tensor of this shape; `None` for text.
    pub fn bytes(&self, dtype: DType) -> Option<u64> {
        dtype.size_bytes().map(|size| size * self.elements)
    }

    /// The index of an axis that may count from the last one (-1).
    ///
    /// Errors: `invalid-argument` naming the argument `name` when there is no such axis.
    pub fn axis(&self, name: &str, axis: i32) -> Result<usize> {
        axis_of(name, axis, self.rank())
    }

    /// Elements before, on and after an axis: the sizes of the three loops of an operator along it.
    pub(crate) fn around(&self, axis: usize) -> (u64, u64, u64) {
        let (before, rest) = self.dims.split_at(axis.min(self.dims.len()));
        let (on, after) = rest.split_first().map_or((1, &[][..]), |(on, after)| (*on, after));
        (before.iter().product(), on, after.iter().product())
    }

    /// The same elements in other dimensions, of which one may be -1 (inferred).
    ///
    /// Errors: `too-large` when there are more than `max_rank` dimensions; `invalid-argument` when the number of elements
    /// would differ or cannot be inferred.
    pub(crate) fn reshaped(&self, dims: &[i64], max_rank: u64) -> Result<Shape> {
        check_rank(dims.len(), max_rank)?;
        let mut known = 1u64;
        let mut inferred = None;
        let mut result: SmallVec<[u64; 6]> = SmallVec::new();
        for (index, &dim) in dims.iter().enumerate() {
            match u64::try_from(dim) {
                Ok(dim) => {
                    known = known.saturating_mul(dim);
                    result.push(dim);
                }
                Err(_) if dim == -1 && inferred.is_none() => {
                    inferred = Some(index);
                    result.push(0);
                }
                Err(_) if dim == -1 => {
                    return Err(Error::invalid_argument(format!("shape: {dims:?} has -1 more than once; infer one")));
                }
                Err(_) => {
                    return Err(Error::invalid_argument(format!(
                        "shape: dimension {index} is {dim}; it takes 0 or more, or -1 once"
                    )));
                }
            }
        }
        if let Some(index) = inferred {
            if known == 0 || !self.elements.is_multiple_of(known) {
                return Err(Error::invalid_argument(format!(
                    "shape: cannot infer dimension {index} of {dims:?} from the {} elements of {self}",
                    self.elements
                )));
            }
            result[index] = self.elements / known;
        }
        let shape = Shape::new(&result, max_rank)?;
        if shape.elements != self.elements {
            return Err(Error::invalid_argument(format!(
                "shape: {dims:?} has {} elements, but the tensor {self} has {}",
                shape.elements, self.elements
            )));
        }
        Ok(shape)
    }
}

/// Must be checked before the dimensions are read or put into a message.
fn check_rank(rank: usize, max_rank: u64) -> Result<()> {
    if rank as u64 <= max_rank {
        return Ok(());
    }
    Err(Error::too_large(format!("a tensor of {rank} dimensions; at most {max_rank} are allowed (tensor_rank)")))
}

/// The index of an axis among `rank` ones, where a negative one counts from the last.
pub(crate) fn axis_of(name: &str, axis: i32, rank: usize) -> Result<usize> {
    let index = if axis < 0 { i64::from(axis) + rank as i64 } else { i64::from(axis) };
    match usize::try_from(index) {
        Ok(index) if index < rank => Ok(index),
        _ if rank == 0 => Err(Error::invalid_argument(format!("{name}: {axis}, but a scalar has no axes"))),
        _ => Err(Error::invalid_argument(format!(
            "{name}: {axis} is out of range; it takes {} to {}",
            -(rank as i64),
            rank - 1
        ))),
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.dims).finish()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_shape_that_cannot_be_addressed_is_refused() {
        for dims in [&[u64::MAX][..], &[1 << 31, 1 << 31], &[0, u64::MAX, 2], &[u64::MAX, u64::MAX, 0], &[1 << 60]] {
            assert_eq!(Shape::new(dims, 8).unwrap_err().kind(), Kind::TooLarge, "{dims:?}");
        }
        assert_eq!(Shape::new(&[1; 9], 8).unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(Shape::new(&[1; 8], 8).unwrap().elements(), 1);
        assert_eq!(Shape::new(&[], 8).unwrap(), Shape::scalar());
        assert_eq!(Shape::new(&[3, 0, 5], 8).unwrap().elements(), 0);
    }

    #[test]
    fn reshape_infers_one_dimension_and_keeps_the_elements() {
        let check =
            |from: &[u64], to: &[i64]| Shape::new(from, 8).unwrap().reshaped(to, 8).map(|shape| shape.to_string());
        assert_eq!(check(&[2, 3, 4], &[4, -1]).unwrap(), "[4, 6]");
        assert_eq!(check(&[], &[1, 1]).unwrap(), "[1, 1]");
        assert_eq!(check(&[1], &[]).unwrap(), "[]");
        assert_eq!(check(&[0, 3], &[7, 0]).unwrap(), "[7, 0]");
        assert_eq!(check(&[0, 3], &[-1, 3]).unwrap(), "[0, 3]");
        for (from, to) in [
            (&[2, 3][..], &[-1, -1][..]),
            (&[2, 3], &[-2, 3]),
            (&[2, 3], &[5]),
            (&[2, 3], &[-1, 4]),
            (&[0, 3], &[-1, 0]),
            (&[2], &[i64::MAX, i64::MAX, 0]),
            (&[2], &[i64::MAX, i64::MAX, i64::MAX, -1]),
        ] {
            assert!(check(from, to).is_err(), "{from:?} -> {to:?}");
        }
        for long in [&[1; 9][..], &[-1; 100_000], &[i64::MIN; 9]] {
            let error = check(&[1], long).unwrap_err();
            assert_eq!(error.kind(), Kind::TooLarge);
            assert!(error.message().len() < 100, "{error}");
        }
    }

    #[test]
    fn an_axis_counts_from_either_end() {
        let shape = Shape::new(&[2, 3, 4], 8).unwrap();
        assert_eq!(shape.axis("axis", -1).unwrap(), 2);
        assert_eq!(shape.axis("axis", 0).unwrap(), 0);
        assert!(shape.axis("axis", 3).unwrap_err().message().contains("axis: 3 is out of range; it takes -3 to 2"));
        assert!(shape.axis("axis", i32::MIN).is_err());
        assert!(Shape::scalar().axis("axis", 0).is_err());
        assert_eq!(shape.around(1), (2, 3, 4));
    }
}
