//! The parameters of kernels, with the layout of the structs of the same names in `kernels/`; it never computes them.

use crate::device::DType;
use bytemuck::{Pod, Zeroable};

/// Axes of a parameter; also the highest rank that the limit `tensor_rank` can allow.
pub(super) const AXES: usize = 32;

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        #[repr(C)]
        pub(super) struct $name { $(pub(super) $field: $type),* }

        impl Default for $name {
            fn default() -> $name { Zeroable::zeroed() }
        }
    )*};
}

parameters! {
    /// elements.cu
    One { count: u64, input: u64, output: u64, low: u64, high: u64, aligned: u32, unused: u32 }
    /// elements.cu
    Two {
        count: u64, a: u64, b: u64, output: u64, mode: u32, aligned: u32, axes: u32, unused: u32,
        dims: [u64; AXES], a_strides: [u64; AXES], b_strides: [u64; AXES],
    }
    /// cast.cu
    Converted { count: u64, input: u64, output: u64, aligned: u32, unused: u32 }
    /// cast.cu
    Normalized {
        count: u64, input: u64, output: u64, inner: u64, channels: u64, scale_table: u64, offset_table: u64,
        aligned: u32, unused: u32, scale: [f32; 16], offset: [f32; 16],
    }
    /// cast.cu
    Moved {
        count: u64, input: u64, output: u64, start: u64, inner: u64, channels: u64, axes: u32, steady: u32,
        dims: [u64; AXES], strides: [i64; AXES], scale: [f32; 16], offset: [f32; 16],
    }
    /// moves.cu
    Strided {
        count: u64, input: u64, output: u64, start: u64, axes: u32, unused: u32,
        dims: [u64; AXES], strides: [i64; AXES],
    }
    /// moves.cu
    Transposed {
        input: u64, output: u64, rows: u64, columns: u64, source_step: i64, target_step: i64, planes: u64, start: u64,
        axes: u32, unused: u32, dims: [u64; AXES], source_strides: [i64; AXES], target_strides: [i64; AXES],
    }
    /// moves.cu
    Padded {
        count: u64, input: u64, output: u64, block: u64, constant: u64, mode: u32, axes: u32,
        source: [u64; AXES], before: [u64; AXES], target: [u64; AXES],
    }
    /// moves.cu
    Rows { count: u64, input: u64, output: u64, length: u64, input_row: u64, output_row: u64 }
    /// moves.cu
    Gathered {
        count: u64, input: u64, output: u64, indices: u64, places: u64, length: u64, inner: u64,
        index_type: u32, unused: u32,
    }
    /// moves.cu
    OneHot {
        count: u64, indices: u64, output: u64, depth: u64, inner: u64, one: u64, index_type: u32, unused: u32,
    }
    /// moves.cu
    Selected {
        count: u64, condition: u64, a: u64, b: u64, output: u64, axes: u32, unused: u32,
        dims: [u64; AXES], condition_strides: [u64; AXES], a_strides: [u64; AXES], b_strides: [u64; AXES],
    }
    /// moves.cu
    Checked { count: u64, indices: u64, length: u64, fault: u64, index_type: u32, unused: u32 }
    /// lanes.cu
    Lanes {
        input: u64, output: u64, lanes: u64, length: u64, inner: u64, parts: u32, along: u32, packed: u32,
        largest: u32, mask: u64, epsilon: f64, mask_type: u32, unused: u32,
    }
    /// sums.cu
    Reduced {
        input: u64, output: u64, results: u64, count: u64, segments: u64, run: u64, parts: u32, along: u32,
        kept_axes: u32, reduced_axes: u32, kept: [u64; AXES], kept_strides: [u64; AXES], reduced: [u64; AXES],
        reduced_strides: [u64; AXES],
    }
    /// sums.cu
    Scanned { input: u64, output: u64, outer: u64, length: u64, inner: u64, exclusive: u32, reverse: u32 }
    /// orders.cu
    Ordered {
        input: u64, items: u64, output: u64, values: u64, indices: u64, lanes: u64, inner: u64, source_length: u64,
        length: u64, output_length: u64, tile: u64, keep: u64, run: u64, descending: u32, last: u32,
    }
    /// orders.cu
    Scored { scores: u64, output: u64, count: u64, least: f64 }
    /// orders.cu
    Suppressed {
        items: u64, boxes: u64, kept: u64, indices: u64, kept_count: u64, count: u64, most: u64, maximum: u64,
        overlap: f64,
    }
    /// image.cu
    Taps { starts: u64, counts: u64, weights: u64, width: u64 }
    /// image.cu
    Resized {
        count: u64, input: u64, output: u64, source_height: u64, source_width: u64, height: u64, width: u64,
        channels: u64, together: u64, rows: Taps, columns: Taps,
    }
    /// matmul.cu
    Product {
        a: u64, b: u64, output: u64, rows: u64, length: u64, columns: u64, axes: u32, unused: u32,
        dims: [u64; AXES], a_strides: [u64; AXES], b_strides: [u64; AXES],
    }
}

/// The first [`AXES`] numbers, the rest 0.
pub(super) fn axes<T: Copy + Default>(numbers: impl IntoIterator<Item = T>) -> [T; AXES] {
    let mut filled = [T::default(); AXES];
    filled.iter_mut().zip(numbers).for_each(|(to, number)| *to = number);
    filled
}

/// The code of a dtype in `load_f64` and `load_place`.
pub(super) fn dtype_code(dtype: DType) -> u32 {
    match dtype {
        DType::Boolean => 0,
        DType::U8 => 1,
        DType::S8 => 2,
        DType::U16 => 3,
        DType::S16 => 4,
        DType::U32 => 5,
        DType::S32 => 6,
        DType::U64 => 7,
        DType::S64 => 8,
        DType::F16 => 9,
        DType::BF16 => 10,
        DType::F32 => 11,
        DType::F64 | DType::Text => 12,
    }
}
