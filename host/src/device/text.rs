//! Text tensors: strings on the host, whatever the device of an invocation is; no operator takes them.

use super::{Account, Buffer, DType, Device, DeviceMemory, Shape, Tensor};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;

/// What a string costs beyond its bytes: a string's own fields, rounded.
const STRING_BYTES: u64 = 16;

/// The elements of a text tensor, row-major.
struct Strings(Vec<String>);

impl DeviceMemory for Strings {
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }
}

impl Tensor {
    /// Makes a text tensor from its elements, row-major.
    ///
    /// Errors: `invalid-argument` when there are not as many as the shape says; `limit-exceeded` and `overloaded` by the
    /// account and the device.
    pub fn text(device: &Arc<dyn Device>, account: &Arc<Account>, shape: Shape, values: Vec<String>) -> Result<Tensor> {
        if values.len() as u64 != shape.elements() {
            let (given, wanted) = (values.len(), shape.elements());
            return Err(Error::invalid_argument(format!("values: {given} strings, but text{shape} takes {wanted}")));
        }
        let bytes = values.iter().map(|value| value.len() as u64 + STRING_BYTES).sum();
        let charge = account.charge(bytes)?;
        Tensor::new(DType::Text, shape, Buffer::new(Arc::clone(device), Box::new(Strings(values)), charge))
    }

    /// The elements of a text tensor, row-major.
    ///
    /// Errors: `invalid-argument` for other dtypes.
    pub fn strings(&self) -> Result<&[String]> {
        if self.dtype() != DType::Text {
            let message = format!("this is a tensor of {}, not of text; read its bytes", self.dtype());
            return Err(Error::invalid_argument(message));
        }
        let memory: &dyn std::any::Any = self.buffer().memory();
        let lost = || Error::new(Kind::Internal, "a text tensor has no strings");
        memory.downcast_ref::<Strings>().map(|strings| strings.0.as_slice()).ok_or_else(lost)
    }
}
