//! Converts tensors from and to arrays of `ndarray`. Both are row-major; an array in another order is first copied. It never
//! converts elements.

use ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};

use crate::{Element, Error, Result, Tensor};

impl Tensor {
    /// A tensor of the elements of an array or a view of one, in the same dimensions; errors as [`Tensor::from_slice`].
    pub fn from_array<T: Element, S: Data<Elem = T>, D: Dimension>(array: &ArrayBase<S, D>) -> Result<Tensor> {
        let standard = array.as_standard_layout();
        let elements = standard.as_slice().ok_or_else(|| Error::internal("an array of standard layout is no slice"))?;
        Tensor::from_slice(array.shape(), elements)
    }

    /// Waits for the device and copies all elements into an array of the same dimensions; `into_dimensionality` then fixes
    /// their number.
    ///
    /// Errors: `invalid-argument` where the tensor's dtype is not that of `T`; those that the device found.
    pub fn to_array<T: Element>(&self) -> Result<ArrayD<T>> {
        Ok(ArrayD::from_shape_vec(IxDyn(&self.shape()), self.to_vec()?)?)
    }
}
