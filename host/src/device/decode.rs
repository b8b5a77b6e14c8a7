//! Decodes JPEG, PNG and WebP images on the host; it never uploads anything.

use super::{Account, Shape, Stop};
use crate::config::Limits;
use crate::error::{Error, Result};
use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat};
use std::io::Cursor;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Decodes an image into u8 [height, width, 3]: RGB, with its EXIF orientation applied. An alpha channel is dropped, grey
/// becomes RGB, 16 bits become 8, an animation is its first picture, and colour profiles are ignored. The account is
/// charged for what decoding takes while it goes on; the result is not charged, so adopt it at once.
///
/// Errors: `invalid-argument` when the bytes are no such image or it is damaged; `too-large` when the header tells of more
/// than `image_pixels`, which is known before any pixel is decoded; `limit-exceeded` and `overloaded` when there is no room
/// to decode it; those of `stop`, which is looked at before and after a decoder's work, not while it goes on.
pub fn decode_image(data: &[u8], account: &Arc<Account>, limits: &Limits, stop: &Stop) -> Result<(Shape, Vec<u8>)> {
    stop.check()?;
    let format = match image::guess_format(data) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => format,
        _ => return Err(Error::invalid_argument("data: it is no JPEG, PNG or WebP image")),
    };
    // The decoders are not ours and the bytes are a stranger's: a panic of theirs is a damaged image.
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(|| decode(data, format, account, limits, stop)));
    decoded.unwrap_or_else(|_| Err(damaged(format, "the decoder gave up")))
}

fn decode(
    data: &[u8],
    format: ImageFormat,
    account: &Arc<Account>,
    limits: &Limits,
    stop: &Stop,
) -> Result<(Shape, Vec<u8>)> {
    let unreadable = |error: ImageError| damaged(format, error);
    let pages = if format == ImageFormat::Jpeg { Jpeg::read(data)?.pages() } else { 1 };
    let mut allocations = image::Limits::no_limits();
    allocations.max_alloc = Some(limits.image_pixels.saturating_mul(8).max(1 << 20));
    let mut decoder: Box<dyn ImageDecoder + '_> = match format {
        ImageFormat::Jpeg => Box::new(JpegDecoder::new(Cursor::new(data)).map_err(unreadable)?),
        ImageFormat::Png => Box::new(PngDecoder::with_limits(Cursor::new(data), allocations).map_err(unreadable)?),
        _ => Box::new(WebPDecoder::new(Cursor::new(data)).map_err(unreadable)?),
    };
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.image_pixels {
        return Err(Error::too_large(format!(
            "data: an image of {width} x {height} pixels; at most {} are allowed (image_pixels)",
            limits.image_pixels
        )));
    }
    if pixels == 0 {
        return Err(damaged(format, "it has no pixels"));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    // What the decoder holds beside its output, the output, and then two pictures while one is made from the other.
    let decoded = decoder.total_bytes();
    let working = match format {
        ImageFormat::Jpeg => data.len() as u64 + pixels.saturating_mul(pages),
        _ => pixels.saturating_mul(4),
    };
    let most = decoded.saturating_add(working.max(pixels.saturating_mul(3)));
    let _charge = account.charge(most)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    stop.check()?;
    if orientation != Orientation::NoTransforms {
        image = DynamicImage::ImageRgb8(image.into_rgb8());
        image.apply_orientation(orientation);
    }
    let image = image.into_rgb8();
    let shape = Shape::new(&[image.height().into(), image.width().into(), 3], limits.tensor_rank)?;
    stop.check()?;
    Ok((shape, image.into_raw()))
}

fn damaged(format: ImageFormat, reason: impl std::fmt::Display) -> Error {
    let name = match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        _ => "WebP",
    };
    Error::invalid_argument(format!("data: the {name} image is damaged or of an unknown kind: {reason}"))
}

/// What a JPEG's markers tell before its pixels are decoded.
struct Jpeg {
    /// Whether all coefficients are kept until the last scan.
    progressive: bool,
}

impl Jpeg {
    /// Walks the segments up to the first scan and looks for the end marker behind it, because the decoder fills what is
    /// missing with grey.
    fn read(data: &[u8]) -> Result<Jpeg> {
        let short = || damaged(ImageFormat::Jpeg, "it ends too early");
        let mut progressive = false;
        let mut at = 2;
        loop {
            let rest = data.get(at..).ok_or_else(short)?;
            let skipped = rest.iter().position(|byte| *byte == 0xff).ok_or_else(short)?;
            let marker = *rest.get(skipped + 1).ok_or_else(short)?;
            let length = match rest.get(skipped + 2..skipped + 4) {
                Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
                _ => return Err(short()),
            };
            match marker {
                // A fill byte, a stuffed one, or a marker without a length.
                0xff => at += skipped + 1,
                0x00 | 0x01 | 0xd0..=0xd8 => at += skipped + 2,
                0xda => {
                    let scan = rest.get(skipped + 2 + length..).ok_or_else(short)?;
                    let ends = scan.windows(2).rev().any(|pair| pair == [0xff, 0xd9]);
                    return if ends { Ok(Jpeg { progressive }) } else { Err(short()) };
                }
                marker => {
                    progressive |= marker == 0xc2;
                    at += skipped + 2 + length;
                }
            }
        }
    }

    /// Bytes for each pixel beside the output.
    fn pages(&self) -> u64 {
        // Three components of 16-bit coefficients; a baseline image needs a few rows only.
        if self.progressive { 6 } else { 1 }
    }
}
