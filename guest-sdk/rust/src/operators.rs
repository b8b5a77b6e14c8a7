//! Pre- and post-processing on the device, as methods of [`Tensor`]. Semantics, shapes and errors are those of
//! `wit/operators.wit`; this module only adds the defaults that most handlers want.

use std::ops::{Bound, RangeBounds};

use crate::contract::operators as host;
use crate::{DType, Error, Result, Tensor};

#[doc(inline)]
pub use host::{Coordinates, ImageLayout, Interpolation, PadMode, Rounding};

/// What [`Tensor::resize_with`] does. Unless said otherwise: channels last, bilinear, half-pixel coordinates, antialiased,
/// which is what Pillow's `resize` with `BILINEAR` does.
#[derive(Clone, Copy)]
pub struct Resize(host::ResizeOptions);

impl Resize {
    /// To a height and width in pixels, each at least 1.
    pub fn new(height: u32, width: u32) -> Resize {
        Resize(host::ResizeOptions {
            height,
            width,
            layout: ImageLayout::Hwc,
            interpolation: Interpolation::Bilinear,
            coordinates: Coordinates::HalfPixel,
            antialias: true,
        })
    }

    /// Where the channels are.
    #[must_use]
    pub fn layout(mut self, layout: ImageLayout) -> Resize {
        self.0.layout = layout;
        self
    }

    /// How samples are computed. Turns antialiasing off if the interpolation does not support it.
    #[must_use]
    pub fn interpolation(mut self, interpolation: Interpolation) -> Resize {
        self.0.interpolation = interpolation;
        self.0.antialias &= matches!(interpolation, Interpolation::Bilinear | Interpolation::Bicubic);
        self
    }

    /// How coordinates are mapped.
    #[must_use]
    pub fn coordinates(mut self, coordinates: Coordinates) -> Resize {
        self.0.coordinates = coordinates;
        self
    }

    /// Whether no source sample may be skipped when shrinking; only for bilinear and bicubic.
    #[must_use]
    pub fn antialias(mut self, antialias: bool) -> Resize {
        self.0.antialias = antialias;
        self
    }
}

/// The last axis.
const LAST: i32 = -1;

fn made(result: std::result::Result<crate::contract::tensors::Tensor, crate::bindings::Error>) -> Result<Tensor> {
    result.map(Tensor).map_err(Error)
}

impl Tensor {
    /// Decodes a JPEG, PNG or WebP image into u8 [height, width, 3], RGB.
    pub fn decode_image(data: &[u8]) -> Result<Tensor> {
        made(host::decode_image(data))
    }

    /// Resizes images whose channels are last: bilinear, half-pixel, antialiased.
    pub fn resize(&self, height: u32, width: u32) -> Result<Tensor> {
        self.resize_with(Resize::new(height, width))
    }

    /// Resizes images.
    pub fn resize_with(&self, options: Resize) -> Result<Tensor> {
        made(host::resize(&self.0, options.0))
    }

    /// `(x / 255 - mean) / deviation` for each channel of the last axis, as f32: the form of u8 pixels that most image models
    /// expect.
    pub fn normalize(&self, mean: &[f32], deviation: &[f32]) -> Result<Tensor> {
        if mean.len() != deviation.len() {
            return Err(Error::invalid_argument("mean and deviation differ in length"));
        }
        let scale: Vec<f32> = deviation.iter().map(|deviation| 1.0 / (255.0 * deviation)).collect();
        let offset: Vec<f32> = mean.iter().zip(deviation).map(|(mean, deviation)| -mean / deviation).collect();
        self.scale_offset(LAST, &scale, &offset)
    }

    /// `x * scale[c] + offset[c]` for each channel c of an axis, as f32; one number each, or one per channel.
    pub fn scale_offset(&self, axis: i32, scale: &[f32], offset: &[f32]) -> Result<Tensor> {
        made(host::normalize(&self.0, axis, scale, offset))
    }

    /// Converts the elements.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        made(host::cast(&self.0, dtype))
    }

    /// A window of images whose channels are last.
    pub fn crop(&self, top: usize, left: usize, height: usize, width: usize) -> Result<Tensor> {
        self.crop_with(ImageLayout::Hwc, top, left, height, width)
    }

    /// A window of images.
    pub fn crop_with(
        &self,
        layout: ImageLayout,
        top: usize,
        left: usize,
        height: usize,
        width: usize,
    ) -> Result<Tensor> {
        made(host::crop(&self.0, layout, top as u64, left as u64, height as u64, width as u64))
    }

    /// Adds elements before and after each axis, one entry per axis.
    pub fn pad(&self, before: &[usize], after: &[usize], mode: PadMode) -> Result<Tensor> {
        let wide = |counts: &[usize]| counts.iter().map(|count| *count as u64).collect::<Vec<u64>>();
        made(host::pad(&self.0, &wide(before), &wide(after), mode))
    }

    /// Reorders axes: axis i of the result is axis `axes[i]` of this one.
    pub fn permute(&self, axes: &[i32]) -> Result<Tensor> {
        made(host::permute(&self.0, axes))
    }

    /// Joins tensors along an existing axis.
    pub fn concat(inputs: &[&Tensor], axis: i32) -> Result<Tensor> {
        let inputs: Vec<_> = inputs.iter().map(|tensor| &tensor.0).collect();
        made(host::concat(&inputs, axis))
    }

    /// Joins tensors of one shape along a new axis.
    pub fn stack(inputs: &[&Tensor], axis: i32) -> Result<Tensor> {
        let inputs: Vec<_> = inputs.iter().map(|tensor| &tensor.0).collect();
        made(host::stack(&inputs, axis))
    }

    /// The softmax along an axis.
    pub fn softmax(&self, axis: i32) -> Result<Tensor> {
        made(host::softmax(&self.0, axis))
    }

    /// The index of the largest element along an axis, s64; the axis is removed, or kept with length 1.
    pub fn argmax(&self, axis: i32, keep_axis: bool) -> Result<Tensor> {
        made(host::argmax(&self.0, axis, keep_axis))
    }

    /// The k largest elements along the last axis, largest first, and their indices (s64).
    pub fn top_k(&self, k: usize) -> Result<(Tensor, Tensor)> {
        self.top_k_with(k, LAST, true)
    }

    /// The k largest or smallest elements along an axis, sorted, and their indices (s64).
    pub fn top_k_with(&self, k: usize, axis: i32, largest: bool) -> Result<(Tensor, Tensor)> {
        let found = host::top_k(&self.0, k as u64, axis, largest).map_err(Error)?;
        Ok((Tensor(found.values), Tensor(found.indices)))
    }

    /// The mean over the tokens of [batch, tokens, features], weighted by `mask` [batch, tokens].
    pub fn masked_mean_pool(&self, mask: &Tensor) -> Result<Tensor> {
        made(host::masked_mean_pool(&self.0, &mask.0))
    }

    /// `x / max(norm, 1e-12)` with the Euclidean norm along an axis, as PyTorch's `normalize`.
    pub fn l2_normalize(&self, axis: i32) -> Result<Tensor> {
        self.l2_normalize_with(axis, 1e-12)
    }

    /// `x / max(norm, epsilon)` with the Euclidean norm along an axis.
    pub fn l2_normalize_with(&self, axis: i32, epsilon: f32) -> Result<Tensor> {
        made(host::l2_normalize(&self.0, axis, epsilon))
    }

    /// This + other. Like all operators of two tensors, it broadcasts; both must have the same dtype.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        made(host::add(&self.0, &other.0))
    }

    /// This - other.
    pub fn subtract(&self, other: &Tensor) -> Result<Tensor> {
        made(host::subtract(&self.0, &other.0))
    }

    /// This * other.
    pub fn multiply(&self, other: &Tensor) -> Result<Tensor> {
        made(host::multiply(&self.0, &other.0))
    }

    /// This / other; an integer divided by 0 is 0.
    pub fn divide(&self, other: &Tensor) -> Result<Tensor> {
        made(host::divide(&self.0, &other.0))
    }

    /// The smaller of each two elements.
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        made(host::minimum(&self.0, &other.0))
    }

    /// The larger of each two elements.
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor> {
        made(host::maximum(&self.0, &other.0))
    }

    /// This to the power of other; floats only.
    pub fn power(&self, other: &Tensor) -> Result<Tensor> {
        made(host::power(&self.0, &other.0))
    }

    /// The remainder of this / other with the sign of other; integers only; by 0 it is 0.
    pub fn modulo(&self, other: &Tensor) -> Result<Tensor> {
        made(host::modulo(&self.0, &other.0))
    }

    /// Whether this equals other, as booleans; nothing equals NaN.
    pub fn equal(&self, other: &Tensor) -> Result<Tensor> {
        made(host::equal(&self.0, &other.0))
    }

    /// Whether this differs from other.
    pub fn not_equal(&self, other: &Tensor) -> Result<Tensor> {
        made(host::not_equal(&self.0, &other.0))
    }

    /// Whether this is less than other.
    pub fn less(&self, other: &Tensor) -> Result<Tensor> {
        made(host::less(&self.0, &other.0))
    }

    /// Whether this is less than other or equals it.
    pub fn less_or_equal(&self, other: &Tensor) -> Result<Tensor> {
        made(host::less_or_equal(&self.0, &other.0))
    }

    /// Whether this is greater than other.
    pub fn greater(&self, other: &Tensor) -> Result<Tensor> {
        made(host::greater(&self.0, &other.0))
    }

    /// Whether this is greater than other or equals it.
    pub fn greater_or_equal(&self, other: &Tensor) -> Result<Tensor> {
        made(host::greater_or_equal(&self.0, &other.0))
    }

    /// Whether both are true; booleans only.
    pub fn logical_and(&self, other: &Tensor) -> Result<Tensor> {
        made(host::logical_and(&self.0, &other.0))
    }

    /// Whether at least one is true; booleans only.
    pub fn logical_or(&self, other: &Tensor) -> Result<Tensor> {
        made(host::logical_or(&self.0, &other.0))
    }

    /// The opposite of each boolean.
    pub fn logical_not(&self) -> Result<Tensor> {
        made(host::logical_not(&self.0))
    }

    /// An element of `a` where this boolean tensor is true, else one of `b`; all three broadcast.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        made(host::select(&self.0, &a.0, &b.0))
    }

    /// Each element within bounds: `clamp(0.0..=1.0)`, `clamp(..=6.0)`. NaN stays.
    ///
    /// Errors: `invalid-argument` for a bound that is NaN or excluded from its range (`..6.0`), or if the bounds are reversed.
    pub fn clamp(&self, range: impl RangeBounds<f64>) -> Result<Tensor> {
        let low = match range.start_bound() {
            Bound::Included(low) => *low,
            Bound::Excluded(_) => return Err(Error::invalid_argument("a range to clamp to starts at its bound")),
            Bound::Unbounded => f64::NEG_INFINITY,
        };
        let high = match range.end_bound() {
            Bound::Included(high) => *high,
            Bound::Excluded(_) => return Err(Error::invalid_argument("a range to clamp to includes its end; use ..=")),
            Bound::Unbounded => f64::INFINITY,
        };
        made(host::clamp(&self.0, low, high))
    }

    /// Cuts an axis into parts of these lengths; their sum must be the length of the axis.
    pub fn split(&self, axis: i32, lengths: &[usize]) -> Result<Vec<Tensor>> {
        let lengths: Vec<u64> = lengths.iter().map(|length| *length as u64).collect();
        let parts = host::split(&self.0, axis, &lengths).map_err(Error)?;
        Ok(parts.into_iter().map(Tensor).collect())
    }

    /// The elements of an axis at `indices` (of any integer dtype), whose shape replaces the axis. An index out of range is an
    /// error.
    pub fn gather(&self, indices: &Tensor, axis: i32) -> Result<Tensor> {
        made(host::gather(&self.0, &indices.0, axis))
    }

    /// For each of these indices, `depth` numbers along a new last axis, f32: 1 at the index, 0 elsewhere.
    pub fn one_hot(&self, depth: usize) -> Result<Tensor> {
        self.one_hot_with(depth, LAST, DType::F32)
    }

    /// The same along any axis of the result and of any dtype but text.
    pub fn one_hot_with(&self, depth: usize, axis: i32, dtype: DType) -> Result<Tensor> {
        made(host::one_hot(&self.0, depth as u64, axis, dtype))
    }

    /// The logarithm of the softmax along an axis.
    pub fn log_softmax(&self, axis: i32) -> Result<Tensor> {
        made(host::log_softmax(&self.0, axis))
    }

    /// The index of the smallest element along an axis, s64; the axis is removed, or kept with length 1.
    pub fn argmin(&self, axis: i32, keep_axis: bool) -> Result<Tensor> {
        made(host::argmin(&self.0, axis, keep_axis))
    }

    /// All elements along an axis in order, and their indices (s64); equal ones stay in order.
    pub fn sort(&self, axis: i32, descending: bool) -> Result<(Tensor, Tensor)> {
        let sorted = host::sort(&self.0, axis, descending).map_err(Error)?;
        Ok((Tensor(sorted.values), Tensor(sorted.indices)))
    }

    /// The sum of each element and all before it along an axis.
    pub fn cumulative_sum(&self, axis: i32) -> Result<Tensor> {
        self.cumulative_sum_with(axis, false, false)
    }

    /// The same, without the element itself if `exclusive`, and from the axis' end if `reverse`.
    pub fn cumulative_sum_with(&self, axis: i32, exclusive: bool, reverse: bool) -> Result<Tensor> {
        made(host::cumulative_sum(&self.0, axis, exclusive, reverse))
    }

    /// The sum over some axes, or over all if none are named; the axes are removed, or kept with length 1.
    pub fn reduce_sum(&self, axes: &[i32], keep_axes: bool) -> Result<Tensor> {
        made(host::reduce_sum(&self.0, axes, keep_axes))
    }

    /// The mean over some axes, or over all if none are named; floats only.
    pub fn reduce_mean(&self, axes: &[i32], keep_axes: bool) -> Result<Tensor> {
        made(host::reduce_mean(&self.0, axes, keep_axes))
    }

    /// The largest over some axes, or over all if none are named; NaN if any is.
    pub fn reduce_max(&self, axes: &[i32], keep_axes: bool) -> Result<Tensor> {
        made(host::reduce_max(&self.0, axes, keep_axes))
    }

    /// The smallest over some axes, or over all if none are named; NaN if any is.
    pub fn reduce_min(&self, axes: &[i32], keep_axes: bool) -> Result<Tensor> {
        made(host::reduce_min(&self.0, axes, keep_axes))
    }

    /// The Euclidean norm over some axes, or over all if none are named; floats only.
    pub fn reduce_l2(&self, axes: &[i32], keep_axes: bool) -> Result<Tensor> {
        made(host::reduce_l2(&self.0, axes, keep_axes))
    }

    /// The matrix product of the last two axes; those before them broadcast, as NumPy's `matmul`.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        made(host::matmul(&self.0, &other.0))
    }

    /// Of these boxes [n, 4], each given by two opposite corners, those that overlap no better one: their indices (s64 [maximum],
    /// best first, filled with -1 after the last) and their number (s64, a scalar). Boxes whose score [n] is not greater than
    /// `score_threshold` do not count; two overlap where their intersection is more than `iou_threshold` of their union.
    pub fn non_maximum_suppression(
        &self,
        scores: &Tensor,
        iou_threshold: f32,
        score_threshold: f32,
        maximum: usize,
    ) -> Result<(Tensor, Tensor)> {
        let found = host::non_maximum_suppression(&self.0, &scores.0, iou_threshold, score_threshold, maximum as u64);
        let found = found.map_err(Error)?;
        Ok((Tensor(found.indices), Tensor(found.count)))
    }

    /// The magnitude of each element.
    pub fn abs(&self) -> Result<Tensor> {
        made(host::abs(&self.0))
    }

    /// Each element with the other sign; signed integers and floats.
    pub fn negate(&self) -> Result<Tensor> {
        made(host::negate(&self.0))
    }

    /// -1, 0 or 1 for each element.
    pub fn sign(&self) -> Result<Tensor> {
        made(host::sign(&self.0))
    }

    /// 0 where an element is less than 0; signed integers and floats.
    pub fn relu(&self) -> Result<Tensor> {
        made(host::relu(&self.0))
    }

    /// e to the power of each element; floats only, as all that follow.
    pub fn exp(&self) -> Result<Tensor> {
        made(host::exp(&self.0))
    }

    /// The natural logarithm of each element.
    pub fn log(&self) -> Result<Tensor> {
        made(host::log(&self.0))
    }

    /// The square root of each element.
    pub fn sqrt(&self) -> Result<Tensor> {
        made(host::sqrt(&self.0))
    }

    /// 1 / x for each element.
    pub fn reciprocal(&self) -> Result<Tensor> {
        made(host::reciprocal(&self.0))
    }

    /// The largest whole number that is not larger.
    pub fn floor(&self) -> Result<Tensor> {
        made(host::floor(&self.0))
    }

    /// The smallest whole number that is not smaller.
    pub fn ceil(&self) -> Result<Tensor> {
        made(host::ceil(&self.0))
    }

    /// The nearest whole number, ties to even.
    pub fn round(&self) -> Result<Tensor> {
        made(host::round(&self.0))
    }

    /// 1 / (1 + exp(-x)) for each element.
    pub fn sigmoid(&self) -> Result<Tensor> {
        made(host::sigmoid(&self.0))
    }

    /// The hyperbolic tangent of each element.
    pub fn tanh(&self) -> Result<Tensor> {
        made(host::tanh(&self.0))
    }

    /// x / 2 * (1 + erf(x / sqrt(2))) for each element.
    pub fn gelu(&self) -> Result<Tensor> {
        made(host::gelu(&self.0))
    }

    /// The error function of each element.
    pub fn erf(&self) -> Result<Tensor> {
        made(host::erf(&self.0))
    }
}
