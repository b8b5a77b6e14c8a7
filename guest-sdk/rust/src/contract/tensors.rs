//! `tensors` over the host of this thread.

use crate::bindings::Error;
pub use crate::bindings::hearth::inference::tensors::{Dtype, SliceRange};
use crate::testing::{Object, host};

/// A handle; only the host that made it knows the object behind it.
pub struct Tensor(pub(crate) Object);

fn made(result: crate::Result<Object>) -> Result<Tensor, Error> {
    given(result).map(Tensor)
}

/// A result in the form of the bindings.
pub(super) fn given<T>(result: crate::Result<T>) -> Result<T, Error> {
    result.map_err(|error| error.0)
}

impl Tensor {
    pub(crate) fn create(dtype: Dtype, shape: &[u64], data: &[u8]) -> Result<Tensor, Error> {
        made(host().create(dtype, shape, data))
    }

    pub(crate) fn create_text(shape: &[u64], values: &[&str]) -> Result<Tensor, Error> {
        made(host().create_text(shape, values))
    }

    pub(crate) fn shape(&self) -> Vec<u64> {
        host().shape(&self.0)
    }

    pub(crate) fn dtype(&self) -> Dtype {
        host().dtype(&self.0)
    }

    pub(crate) fn device(&self) -> String {
        host().device(&self.0)
    }

    pub(crate) fn byte_length(&self) -> u64 {
        host().byte_length(&self.0)
    }

    pub(crate) fn read(&self) -> Result<Vec<u8>, Error> {
        given(host().read(&self.0))
    }

    pub(crate) fn read_text(&self) -> Result<Vec<String>, Error> {
        given(host().read_text(&self.0))
    }

    pub(crate) fn read_range(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        given(host().read_range(&self.0, offset, length))
    }

    pub(crate) fn reshape(&self, shape: &[i64]) -> Result<Tensor, Error> {
        made(host().reshape(&self.0, shape))
    }

    pub(crate) fn slice(&self, ranges: &[SliceRange]) -> Result<Tensor, Error> {
        made(host().slice(&self.0, ranges))
    }
}
