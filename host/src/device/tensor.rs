//! Immutable, typed, shaped data on a device; it never computes.

use super::ledger::{Account, Charge, Slot};
use super::{DType, Device, Op, Shape, SliceRange, Stop};
use crate::config::Limits;
use crate::error::{Error, Result};
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Host memory that was allocated elsewhere and that a device may keep.
pub trait HostMemory: Send + Sync {
    /// The bytes, which never change.
    fn bytes(&self) -> &[u8];
}

impl HostMemory for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A device's own memory. Only the device that made it knows the concrete type.
pub trait DeviceMemory: Any + Send + Sync {
    /// The bytes, if they are in host memory.
    fn host_bytes(&self) -> Option<&[u8]>;
}

/// Memory of a device, that device, and the charge for the memory.
pub struct Buffer {
    memory: Box<dyn DeviceMemory>,
    device: Arc<dyn Device>,
    charge: Charge,
}

impl Buffer {
    /// Memory that was charged before it was allocated.
    pub fn new(device: Arc<dyn Device>, memory: Box<dyn DeviceMemory>, charge: Charge) -> Buffer {
        Buffer { memory, device, charge }
    }

    /// The memory, for the device that made it.
    pub fn memory(&self) -> &dyn DeviceMemory {
        &*self.memory
    }
}

/// Immutable, row-major data. Clones share everything and count as one tensor.
#[derive(Clone)]
pub struct Tensor(Arc<Handle>);

struct Handle {
    dtype: DType,
    shape: Shape,
    byte_offset: u64,
    buffer: Arc<Buffer>,
    _slot: Slot,
}

impl Tensor {
    /// A tensor that starts at the first byte of a buffer, for devices.
    ///
    /// Errors: `limit-exceeded` when the account has its most tensors already.
    pub fn new(dtype: DType, shape: Shape, buffer: Buffer) -> Result<Tensor> {
        let slot = buffer.charge.account().slot()?;
        Ok(Tensor(Arc::new(Handle { dtype, shape, byte_offset: 0, buffer: Arc::new(buffer), _slot: slot })))
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The dimensions.
    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// The device that holds the elements.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.0.buffer.device
    }

    /// The account that is charged for the bytes.
    pub fn account(&self) -> &Arc<Account> {
        self.0.buffer.charge.account()
    }

    /// The number of bytes of the elements, for text those of the strings. The buffer of a view may be larger.
    pub fn byte_length(&self) -> u64 {
        let strings = || self.strings().unwrap_or_default().iter().map(|value| value.len() as u64).sum();
        self.0.shape.bytes(self.0.dtype).unwrap_or_else(strings)
    }

    /// Where the first element is in the buffer, in bytes.
    pub fn byte_offset(&self) -> u64 {
        self.0.byte_offset
    }

    /// The buffer that holds the elements.
    pub fn buffer(&self) -> &Buffer {
        &self.0.buffer
    }

    /// The bytes of the elements where the device is host memory.
    pub fn host_bytes(&self) -> Option<&[u8]> {
        let range = self.0.byte_offset as usize..(self.0.byte_offset + self.byte_length()) as usize;
        self.0.buffer.memory.host_bytes()?.get(range)
    }

    /// The same elements in other dimensions, of which one may be -1 (inferred). Copies nothing.
    ///
    /// Errors: `invalid-argument` when the number of elements would differ; `limit-exceeded` when the account has its
    /// most tensors already.
    pub fn reshape(&self, dims: &[i64], limits: &Limits) -> Result<Tensor> {
        let shape = self.0.shape.reshaped(dims, limits.tensor_rank)?;
        self.view(0, shape)
    }

    /// A part of the tensor; see `slice` in `wit/tensors.wit`.
    pub fn slice(&self, ranges: Vec<SliceRange>, limits: &Limits, stop: &Stop) -> Result<Tensor> {
        one(self.device().run(self.account(), &Op::Slice { ranges }, &[self], limits, stop)?)
    }

    /// Waits for the device and copies a range of the bytes to the host; see [`Device::read`].
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.device().read(self, range)
    }

    /// Elements starting at a byte offset within this tensor; they must exist.
    pub(super) fn view(&self, byte_offset: u64, shape: Shape) -> Result<Tensor> {
        let length = shape.bytes(self.0.dtype).unwrap_or(0);
        debug_assert!(byte_offset + length <= self.byte_length());
        Ok(Tensor(Arc::new(Handle {
            dtype: self.0.dtype,
            shape,
            byte_offset: self.0.byte_offset + byte_offset,
            buffer: Arc::clone(&self.0.buffer),
            _slot: self.account().slot()?,
        })))
    }

    /// The range of bytes within the buffer for `range` of this tensor, checked; for devices.
    ///
    /// Errors: `invalid-argument` when it is not within the tensor.
    pub fn buffer_range(&self, range: Range<u64>) -> Result<Range<u64>> {
        let length = self.byte_length();
        if range.start > range.end || range.end > length {
            let message = format!("bytes {} to {} are not within the tensor's {length} bytes", range.start, range.end);
            return Err(Error::invalid_argument(message));
        }
        Ok(self.0.byte_offset + range.start..self.0.byte_offset + range.end)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} on {}", self.dtype(), self.shape(), self.device().name())
    }
}

/// The only result of an operator that has one.
fn one(outputs: Vec<Tensor>) -> Result<Tensor> {
    let missing = || Error::new(crate::error::Kind::Internal, "an operator gave no result");
    outputs.into_iter().next().ok_or_else(missing)
}
