//! Handles on tensors: making, reading, slicing and reshaping them. The elements stay on the device.

use std::ops::{Bound, Range, RangeBounds};

use crate::contract::tensors as host;
use crate::{Error, Result};

#[doc(inline)]
pub use host::{Dtype as DType, SliceRange};

/// A handle on an immutable, typed, shaped, row-major array on a device.
///
/// Calls that make tensors only enqueue work; reading waits for it, and returns an error that the device found meanwhile.
pub struct Tensor(pub(crate) host::Tensor);

impl Tensor {
    /// A tensor of the elements of a slice, row-major: `Tensor::from_slice(&[1, 3], &[0.5f32, 1.0, 1.5])`. A shape of no
    /// dimensions is a scalar.
    ///
    /// Errors: `invalid-argument` if the number of elements does not match the shape; `too-large`, `limit-exceeded`.
    pub fn from_slice<T: Element>(shape: &[usize], elements: &[T]) -> Result<Tensor> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A tensor of row-major little-endian bytes; errors as [`Tensor::from_slice`].
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor> {
        let shape: Vec<u64> = shape.iter().map(|length| *length as u64).collect();
        host::Tensor::create(dtype, &shape, bytes).map(Tensor).map_err(Error)
    }

    /// The dimensions, outermost first; empty for a scalar. A length beyond the guest's address space is given as the largest
    /// `usize`.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().into_iter().map(|length| usize::try_from(length).unwrap_or(usize::MAX)).collect()
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// The device that holds the elements: `cpu`, `cuda:0`, …
    pub fn device(&self) -> String {
        self.0.device()
    }

    /// The number of bytes of the elements.
    pub fn byte_length(&self) -> u64 {
        self.0.byte_length()
    }

    /// Waits for the device and copies all elements, row-major.
    ///
    /// Errors: `invalid-argument` where the tensor's dtype is not that of `T`; those that the device found.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype(T::DTYPE)?;
        Ok(T::elements(self.to_bytes()?))
    }

    /// The same for a range of the elements, counted row-major.
    ///
    /// Errors: also `invalid-argument` if the range is not within the tensor.
    pub fn to_vec_range<T: Element>(&self, range: Range<usize>) -> Result<Vec<T>> {
        self.expect_dtype(T::DTYPE)?;
        let size = size_of::<T>() as u64;
        let offset = (range.start as u64).saturating_mul(size);
        let length = (range.len() as u64).saturating_mul(size);
        self.0.read_range(offset, length).map(T::elements).map_err(Error)
    }

    /// Waits for the device and copies all elements as row-major little-endian bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.0.read().map_err(Error)
    }

    /// The same for `length` bytes from byte `offset` on.
    pub fn to_bytes_range(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.0.read_range(offset, length).map_err(Error)
    }

    /// The same elements under another shape; copies nothing. One dimension may be -1 (inferred).
    ///
    /// Errors: `invalid-argument` where the number of elements would differ.
    pub fn reshape(&self, shape: &[i64]) -> Result<Tensor> {
        self.0.reshape(shape).map(Tensor).map_err(Error)
    }

    /// A part of one axis: `image.slice(0, 10..20)`, `scores.slice(-1, ..-1)`. Negative numbers count from the end, as in
    /// Python; the range is clamped to the axis.
    ///
    /// Errors: `invalid-argument` for an axis out of range.
    pub fn slice(&self, axis: i32, range: impl RangeBounds<i64>) -> Result<Tensor> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            // `..=-1` means "to the end", which no negative exclusive end can express.
            Bound::Included(-1) | Bound::Unbounded => i64::MAX,
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
        };
        self.slice_with(&[SliceRange { axis, start, end, step: 1 }])
    }

    /// A part of several axes, with steps; at most one range for each axis.
    ///
    /// Errors: `invalid-argument` for an axis out of range or named twice, or a step of 0.
    pub fn slice_with(&self, ranges: &[SliceRange]) -> Result<Tensor> {
        self.0.slice(ranges).map(Tensor).map_err(Error)
    }

    pub(crate) fn expect_dtype(&self, expected: DType) -> Result<()> {
        let dtype = self.dtype();
        if dtype == expected {
            return Ok(());
        }
        let (there, asked) = (name(dtype), name(expected));
        Err(Error::invalid_argument(format!("the tensor holds {there}, not {asked}; cast it first")))
    }
}

/// The word for a dtype in WIT and JSON.
fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::Boolean => "boolean",
        DType::U8 => "u8",
        DType::S8 => "s8",
        DType::U16 => "u16",
        DType::S16 => "s16",
        DType::U32 => "u32",
        DType::S32 => "s32",
        DType::U64 => "u64",
        DType::S64 => "s64",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
        DType::F32 => "f32",
        DType::F64 => "f64",
        DType::Text => "text",
    }
}

/// A Rust type for elements of tensors: `bool`, the integers and floats, and with the feature `half` also `half::f16` and
/// `half::bf16`. Sealed.
pub trait Element: bytemuck::NoUninit + sealed::Sealed {
    /// The dtype of such elements.
    const DTYPE: DType;

    /// Elements from their little-endian bytes; an incomplete one at the end is dropped.
    #[doc(hidden)]
    fn elements(bytes: Vec<u8>) -> Vec<Self>;
}

mod sealed {
    pub trait Sealed {}
}

// A guest is little-endian (WebAssembly is), so elements in memory are the contract's bytes.
const _: () = assert!(cfg!(target_endian = "little"));

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(
            impl sealed::Sealed for $rust {}
            impl Element for $rust {
                const DTYPE: DType = DType::$dtype;

                fn elements(mut bytes: Vec<u8>) -> Vec<$rust> {
                    bytes.truncate(bytes.len() / size_of::<$rust>() * size_of::<$rust>());
                    bytemuck::pod_collect_to_vec(&bytes)
                }
            }
        )*
    };
}

elements! {
    i8 => S8, u16 => U16, i16 => S16, u32 => U32, i32 => S32, u64 => U64, i64 => S64, f32 => F32, f64 => F64,
}

#[cfg(feature = "half")]
elements! { half::f16 => F16, half::bf16 => Bf16 }

impl sealed::Sealed for u8 {}
impl Element for u8 {
    const DTYPE: DType = DType::U8;

    fn elements(bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

impl sealed::Sealed for bool {}
impl Element for bool {
    const DTYPE: DType = DType::Boolean;

    fn elements(bytes: Vec<u8>) -> Vec<bool> {
        bytes.into_iter().map(|byte| byte != 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_elements_and_a_rest_is_left_out() {
        assert_eq!(i16::elements(vec![1, 0, 255, 255, 7]), [1, -1]);
        assert_eq!(f32::elements(1.5f32.to_le_bytes().to_vec()), [1.5]);
        assert_eq!(bool::elements(vec![0, 1, 2]), [false, true, true]);
        assert_eq!(u64::elements(vec![1; 7]), [0u64; 0]);
    }
}
