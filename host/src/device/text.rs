//! Text tensors: strings in host memory, whatever device the invocation uses; no operator takes them.

use super::{Account, Buffer, Charge, DType, Device, DeviceMemory, Shape, Tensor};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;

/// What a string costs beyond its bytes: its own fields, and what the allocator adds to them.
const STRING_BYTES: u64 = 64;

/// Claims the memory of `count` strings of `bytes` bytes together; it must be called before they are made.
///
/// Errors: those of [`Account::charge`].
pub(crate) fn charge_strings(account: &Arc<Account>, bytes: u64, count: u64) -> Result<Charge> {
    account.charge(bytes.saturating_add(count.saturating_mul(STRING_BYTES)))
}

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
        let bytes = values.iter().map(|value| value.len() as u64).sum();
        let charge = charge_strings(account, bytes, values.len() as u64)?;
        Tensor::charged_text(device, charge, shape, values)
    }

    /// As [`Tensor::text`], of strings that were charged with [`charge_strings`] before they were made.
    pub(crate) fn charged_text(
        device: &Arc<dyn Device>,
        charge: Charge,
        shape: Shape,
        values: Vec<String>,
    ) -> Result<Tensor> {
        if values.len() as u64 != shape.elements() {
            let (given, wanted) = (values.len(), shape.elements());
            return Err(Error::invalid_argument(format!("values: {given} strings, but text{shape} takes {wanted}")));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::device::{Cpu, Ledger, Op, Owner, SliceRange, Stop, Unary};

    #[test]
    fn text_reshapes_and_nothing_else() {
        let limits = Limits::default();
        let device: Arc<dyn Device> = Cpu::new(Ledger::new(1 << 20), limits.clone());
        let account = device.ledger().account(Owner::Workspace, 1 << 20, 10);
        let values: Vec<String> = ["a", "", "žluť", "d"].map(str::to_owned).to_vec();
        let shape = |dims: &[u64]| Shape::new(dims, 8).unwrap();
        let text = Tensor::text(&device, &account, shape(&[4]), values.clone()).unwrap();
        assert_eq!((text.byte_length(), account.used_bytes()), (8, 8 + 4 * STRING_BYTES));
        let square = text.reshape(&[2, -1], &limits).unwrap();
        assert_eq!((square.shape(), square.strings().unwrap()), (&shape(&[2, 2]), &values[..]));
        assert_eq!(text.reshape(&[3], &limits).unwrap_err().kind(), Kind::InvalidArgument);

        let stop = Stop::default();
        let rows = vec![SliceRange { axis: 0, start: 1, end: 3, step: 1 }];
        let refused = [
            text.slice(rows, &limits, &stop).map(drop),
            text.slice(vec![], &limits, &stop).map(drop),
            device.run(&account, &Op::Split { axis: 0, lengths: vec![2, 2] }, &[&text], &limits, &stop).map(drop),
            device.run(&account, &Op::Unary(Unary::Not), &[&text], &limits, &stop).map(drop),
            device.run(&account, &Op::Concat { axis: 0 }, &[&text, &text], &limits, &stop).map(drop),
        ];
        for result in refused {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument);
            assert!(error.message().contains("text tensors take no operators"), "{error}");
        }
        assert_eq!(text.read(0..1).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(text.host_bytes(), None);
        let wrong = Tensor::text(&device, &account, shape(&[3]), values).unwrap_err();
        assert_eq!(wrong.kind(), Kind::InvalidArgument);
        drop((text, square));
        assert_eq!(account.used_bytes(), 0);
    }
}
