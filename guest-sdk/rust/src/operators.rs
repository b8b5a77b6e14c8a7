//! Pre- and post-processing on the device, as methods of [`Tensor`]. Semantics, shapes and errors are those of
//! `wit/operators.wit`; here are only the defaults that most handlers want.

use crate::contract::operators as host;
use crate::{DType, Error, Result, Tensor};

#[doc(inline)]
pub use host::{Coordinates, ImageLayout, Interpolation, PadMode};

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

    /// How samples are computed. Takes antialiasing away where the interpolation has none.
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

    /// `(x / 255 - mean) / deviation` for each channel of the last axis, as f32: what most image models want of u8 pixels.
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

    /// The index of the largest element along an axis, s64; the axis goes, or stays with length 1.
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

    /// The mean over the tokens of [batch, tokens, features] that `mask` [batch, tokens] counts.
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

    /// This + other. As all operators of two tensors, it broadcasts; both are of one dtype.
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
}
