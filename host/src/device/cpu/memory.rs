//! Aligned host memory behind CPU tensors; it never hands out memory that holds another tensor's bytes.

use crate::device::stop::Pace;
use crate::device::{Account, Buffer, Charge, DType, Device, DeviceMemory, HostMemory, Shape, Tensor};
use crate::error::{Error, Kind, Result};
use bytemuck::Pod;
use std::sync::Arc;

/// Where tensors start: a cache line, which is aligned for every element and every vector instruction.
const ALIGNMENT: usize = 64;

/// Memory of this device: aligned, zeroed when it is made. It is allocated as bytes, a few more than are used, because the system
/// zeroes only memory without an alignment lazily, page by page as it is touched. Other memory would be zeroed here at once, for
/// tens of milliseconds without a check of a stop.
struct Zeroed {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Zeroed {
    fn new(length: usize) -> Result<Zeroed> {
        let missing = || no_memory(length as u64);
        let bytes: Vec<u8> = bytemuck::allocation::try_zeroed_vec(length.checked_add(ALIGNMENT).ok_or_else(missing)?)
            .map_err(|()| missing())?;
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        if start >= ALIGNMENT {
            return Err(Error::new(Kind::Internal, "memory of the CPU device cannot be aligned"));
        }
        Ok(Zeroed { bytes, start, length })
    }
}

impl DeviceMemory for Zeroed {
    fn host_bytes(&self) -> Option<&[u8]> {
        self.bytes.get(self.start..self.start + self.length)
    }
}

/// Memory that was allocated elsewhere and is used in place.
struct Adopted(Box<dyn HostMemory>);

impl DeviceMemory for Adopted {
    fn host_bytes(&self) -> Option<&[u8]> {
        Some(self.0.bytes())
    }
}

/// Memory that is still being written.
pub(super) struct Fresh {
    memory: Zeroed,
    charge: Charge,
}

impl Fresh {
    /// Zeroed memory, charged before it is allocated.
    pub(super) fn new(account: &Arc<Account>, bytes: u64) -> Result<Fresh> {
        let charge = account.charge(bytes)?;
        Ok(Fresh { memory: Zeroed::new(bytes as usize)?, charge })
    }

    /// The bytes.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let Zeroed { bytes, start, length } = &mut self.memory;
        &mut bytes[*start..*start + *length]
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

/// An empty list with room for `count` elements, for an operator's own use; the caller charges it first.
///
/// Errors: `overloaded` when there is no memory.
pub(super) fn room<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| no_memory((count as u64).saturating_mul(size_of::<T>() as u64)))?;
    Ok(list)
}

/// `count` copies of one element; see [`room`].
pub(super) fn filled<T: Copy>(element: T, count: usize, pace: &mut Pace<'_>) -> Result<Vec<T>> {
    let mut list = room(count)?;
    while list.len() < count {
        let length = count.min(list.len() + Pace::CHUNK);
        pace.spend(length - list.len())?;
        list.resize(length, element);
    }
    Ok(list)
}

fn no_memory(bytes: u64) -> Error {
    Error::overloaded(format!("no memory for {bytes} bytes; try again later"))
}

/// A tensor over memory that was allocated elsewhere and is aligned for its elements.
pub(super) fn adopted(
    device: Arc<dyn Device>,
    memory: Box<dyn HostMemory>,
    charge: Charge,
    dtype: DType,
    shape: Shape,
) -> Result<Tensor> {
    Tensor::new(dtype, shape, Buffer::new(device, Box::new(Adopted(memory)), charge))
}

/// A tensor's elements in the type in which they are stored.
pub(super) fn elements<T: Pod>(tensor: &Tensor) -> Result<&[T]> {
    let elsewhere = || Error::new(Kind::Internal, "the tensor is not on the CPU device");
    bytemuck::try_cast_slice(tensor.host_bytes().ok_or_else(elsewhere)?).map_err(misread)
}

fn misread(error: bytemuck::PodCastError) -> Error {
    Error::host("reading a tensor's elements", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        let error = room::<u128>(usize::MAX / 64).unwrap_err();
        assert_eq!(error.kind(), Kind::Overloaded);
        assert_eq!(room::<u128>(usize::MAX).unwrap_err().kind(), Kind::Overloaded);
        let stop = crate::device::Stop::default();
        let count = 2 * Pace::CHUNK + 3;
        assert_eq!(filled(7u8, count, &mut Pace::new(&stop)).unwrap(), vec![7; count]);
        stop.cancel();
        assert_eq!(filled(7u8, count, &mut Pace::new(&stop)).unwrap_err().kind(), Kind::Cancelled);
    }
}
