//! A tensor whose dtype is known to the compiler. It never converts elements.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::{Element, Error, Result, Tensor};

/// A [`Tensor`] of elements of type `T`: checked once, when it is made, and then part of function signatures. It derefs to
/// `Tensor`.
///
/// ```
/// use hearth_guest::{Result, Typed};
///
/// fn best(scores: &Typed<f32>) -> Result<f32> {
///     Ok(scores.to_vec()?.into_iter().fold(f32::MIN, f32::max))
/// }
/// ```
pub struct Typed<T: Element> {
    tensor: Tensor,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> Typed<T> {
    /// A tensor of the elements of a slice; errors as [`Tensor::from_slice`].
    pub fn from_slice(shape: &[usize], elements: &[T]) -> Result<Typed<T>> {
        let tensor = Tensor::from_slice(shape, elements)?;
        Ok(Typed { tensor, element: PhantomData })
    }

    /// Waits for the device and copies all elements, row-major.
    ///
    /// Errors: those that the device found.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.tensor.to_vec()
    }

    /// The tensor itself.
    pub fn into_inner(self) -> Tensor {
        self.tensor
    }
}

impl<T: Element> TryFrom<Tensor> for Typed<T> {
    type Error = Error;

    /// Errors: `invalid-argument` where the tensor's dtype is not that of `T`.
    fn try_from(tensor: Tensor) -> Result<Typed<T>> {
        tensor.expect_dtype(T::DTYPE)?;
        Ok(Typed { tensor, element: PhantomData })
    }
}

impl<T: Element> From<Typed<T>> for Tensor {
    fn from(typed: Typed<T>) -> Tensor {
        typed.tensor
    }
}

impl<T: Element> Deref for Typed<T> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

impl<T: Element> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", T::DTYPE, self.tensor.shape())
    }
}
