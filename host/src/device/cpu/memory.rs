//! Aligned host memory behind CPU tensors; it never hands out memory that holds another tensor's bytes.

use crate::device::{Account, Buffer, Charge, DType, Device, DeviceMemory, HostMemory, Shape, Tensor};
use crate::error::{Error, Kind, Result};
use bytemuck::{Pod, Zeroable};
use std::sync::Arc;

/// A cache line, so that vectors of them are aligned for every element and every vector instruction.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Memory of this device: 64-byte aligned, zeroed when it is made.
struct Lines {
    lines: Vec<Line>,
    length: usize,
}

impl DeviceMemory for Lines {
    fn host_bytes(&self) -> Option<&[u8]> {
        bytemuck::cast_slice(&self.lines).get(..self.length)
    }
}

/// Memory of someone else, in use as it is.
struct Adopted(Box<dyn HostMemory>);

impl DeviceMemory for Adopted {
    fn host_bytes(&self) -> Option<&[u8]> {
        Some(self.0.bytes())
    }
}

/// Memory that is still being written.
pub(super) struct Fresh {
    memory: Lines,
    charge: Charge,
}

impl Fresh {
    /// Zeroed memory, charged before it is allocated.
    pub(super) fn new(account: &Arc<Account>, bytes: u64) -> Result<Fresh> {
        let charge = account.charge(bytes)?;
        let length = bytes as usize;
        let lines = bytemuck::allocation::try_zeroed_vec(length.div_ceil(size_of::<Line>()));
        let lines = lines.map_err(|()| Error::overloaded(format!("no memory for {bytes} bytes; try again later")))?;
        Ok(Fresh { memory: Lines { lines, length }, charge })
    }

    /// The bytes.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.memory.lines)[..self.memory.length]
    }

    /// The elements.
    pub(super) fn elements_mut<T: Pod>(&mut self) -> Result<&mut [T]> {
        bytemuck::try_cast_slice_mut(self.bytes_mut()).map_err(misread)
    }

    /// The finished tensor.
    pub(super) fn into_tensor(self, device: Arc<dyn Device>, dtype: DType, shape: Shape) -> Result<Tensor> {
        Tensor::new(dtype, shape, Buffer::new(device, Box::new(self.memory), self.charge))
    }
}

/// A tensor over memory that someone else made and that is aligned for its elements.
pub(super) fn adopted(
    device: Arc<dyn Device>,
    memory: Box<dyn HostMemory>,
    charge: Charge,
    dtype: DType,
    shape: Shape,
) -> Result<Tensor> {
    Tensor::new(dtype, shape, Buffer::new(device, Box::new(Adopted(memory)), charge))
}

/// A tensor's elements as what they are stored as.
pub(super) fn elements<T: Pod>(tensor: &Tensor) -> Result<&[T]> {
    let elsewhere = || Error::new(Kind::Internal, "the tensor does not lie on the CPU device");
    bytemuck::try_cast_slice(tensor.host_bytes().ok_or_else(elsewhere)?).map_err(misread)
}

fn misread(error: bytemuck::PodCastError) -> Error {
    Error::host("reading a tensor's elements", error.to_string())
}
