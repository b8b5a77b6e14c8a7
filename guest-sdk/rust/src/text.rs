//! Text tensors: strings, which are in host memory whatever the device is. No operator takes them, but models may.

use crate::{Error, Result, Tensor};

impl Tensor {
    /// A text tensor of these elements, row-major: `Tensor::text(&[2], &["one", "two"])`.
    ///
    /// Errors: `invalid-argument` if the number of elements does not match the shape; `too-large`, `limit-exceeded`.
    pub fn text<S: AsRef<str>>(shape: &[usize], values: &[S]) -> Result<Tensor> {
        let shape: Vec<u64> = shape.iter().map(|length| *length as u64).collect();
        let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
        crate::contract::tensors::Tensor::create_text(&shape, &values).map(Tensor).map_err(Error)
    }

    /// The elements of a text tensor, row-major.
    ///
    /// Errors: `invalid-argument` for other dtypes; `too-large`.
    pub fn to_text(&self) -> Result<Vec<String>> {
        self.0.read_text().map_err(Error)
    }
}
