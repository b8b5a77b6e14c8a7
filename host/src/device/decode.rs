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

/// Decodes an image into u8 [height, width, 3]: RGB, with its EXIF orientation applied. An alpha channel is dropped, grey becomes
/// RGB, 16 bits are rounded to 8, an animation is its first picture, and colour profiles are ignored. The account is charged for
/// the memory of decoding until it ends; the result is not charged, so adopt it at once.
///
/// Errors: `invalid-argument` when the bytes are no such image or it is damaged; `too-large` when the header declares more than
/// `image_pixels`, which is known before any pixel is decoded; `limit-exceeded` and `overloaded` when there is no room to decode
/// it; those of `stop`, which is checked before and after the decoder runs, but not during it.
pub fn decode_image(data: &[u8], account: &Arc<Account>, limits: &Limits, stop: &Stop) -> Result<(Shape, Vec<u8>)> {
    stop.check()?;
    let format = match image::guess_format(data) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => format,
        _ => return Err(Error::invalid_argument("data: it is no JPEG, PNG or WebP image")),
    };
    // The decoders are libraries and the bytes are untrusted: a panic of a decoder means a damaged image.
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
    // The decoder's own memory, its output, and then two pictures while one is made from the other.
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

/// What a JPEG's markers say before its pixels are decoded.
struct Jpeg {
    /// Whether all coefficients are kept until the last scan.
    progressive: bool,
}

impl Jpeg {
    /// Walks the segments up to the first scan and looks for the end marker after it, because the decoder fills missing parts
    /// with grey.
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

    /// Bytes for each pixel besides the output.
    fn pages(&self) -> u64 {
        // Three components of 16-bit coefficients; a baseline image needs a few rows only.
        if self.progressive { 6 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Ledger, Owner};
    use crate::error::Kind;
    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
    use image::{ExtendedColorType, ImageEncoder};

    fn decoded(data: &[u8], limits: &Limits) -> Result<(Shape, Vec<u8>)> {
        let account = Ledger::new(1 << 20).account(Owner::Workspace, 1 << 20, 1);
        let result = decode_image(data, &account, limits, &Stop::default());
        assert_eq!(account.used_bytes(), 0);
        result
    }

    fn png(pixels: &[u8], width: u32, height: u32, color: ExtendedColorType, exif: Option<u16>) -> Vec<u8> {
        let mut data = Vec::new();
        let mut encoder = PngEncoder::new(&mut data);
        if let Some(orientation) = exif {
            encoder.set_exif_metadata(exif_of(orientation)).unwrap();
        }
        encoder.write_image(pixels, width, height, color).unwrap();
        data
    }

    fn jpeg(pixels: &[u8], width: u32, height: u32, exif: Option<u16>) -> Vec<u8> {
        let mut data = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut data, 100);
        if let Some(orientation) = exif {
            encoder.set_exif_metadata(exif_of(orientation)).unwrap();
        }
        encoder.write_image(pixels, width, height, ExtendedColorType::Rgb8).unwrap();
        data
    }

    /// A little-endian TIFF header and one entry: orientation, short, one of them.
    fn exif_of(orientation: u16) -> Vec<u8> {
        let mut data = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        data.extend(orientation.to_le_bytes());
        data.extend([0; 6]);
        data
    }

    #[test]
    fn every_format_and_colour_becomes_rgb() {
        let limits = Limits::default();
        let rgb: Vec<u8> = (0..24).collect();
        let shape = Shape::new(&[2, 4, 3], 8).unwrap();
        let mut webp = Vec::new();
        WebPEncoder::new_lossless(&mut webp).write_image(&rgb, 4, 2, ExtendedColorType::Rgb8).unwrap();
        assert_eq!(decoded(&webp, &limits).unwrap(), (shape.clone(), rgb.clone()));
        assert_eq!(
            decoded(&png(&rgb, 4, 2, ExtendedColorType::Rgb8, None), &limits).unwrap(),
            (shape.clone(), rgb.clone())
        );
        let rgba: Vec<u8> = rgb.chunks(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 7]).collect();
        assert_eq!(decoded(&png(&rgba, 4, 2, ExtendedColorType::Rgba8, None), &limits).unwrap().1, rgb);
        let grey: Vec<u8> = (0..8).collect();
        let expected: Vec<u8> = grey.iter().flat_map(|value| [*value; 3]).collect();
        assert_eq!(decoded(&png(&grey, 4, 2, ExtendedColorType::L8, None), &limits).unwrap().1, expected);
        let deep: Vec<u8> = grey.iter().flat_map(|value| (u16::from(*value) * 257).to_ne_bytes()).collect();
        assert_eq!(decoded(&png(&deep, 4, 2, ExtendedColorType::L16, None), &limits).unwrap().1, expected);
        let (jpeg_shape, pixels) = decoded(&jpeg(&[90; 24], 4, 2, None), &limits).unwrap();
        assert!(jpeg_shape == shape && pixels.iter().all(|value| value.abs_diff(90) <= 2), "{pixels:?}");
    }

    #[test]
    fn every_orientation_is_applied() {
        // Red channel of a 3 x 2 image, and how it looks after each EXIF orientation.
        let pixels: Vec<u8> = (0..6).flat_map(|value| [value, 0, 0]).collect();
        for (orientation, dims, expected) in [
            (1, [2, 3], [0, 1, 2, 3, 4, 5]),
            (2, [2, 3], [2, 1, 0, 5, 4, 3]),
            (3, [2, 3], [5, 4, 3, 2, 1, 0]),
            (4, [2, 3], [3, 4, 5, 0, 1, 2]),
            (5, [3, 2], [0, 3, 1, 4, 2, 5]),
            (6, [3, 2], [3, 0, 4, 1, 5, 2]),
            (7, [3, 2], [5, 2, 4, 1, 3, 0]),
            (8, [3, 2], [2, 5, 1, 4, 0, 3]),
            (9, [2, 3], [0, 1, 2, 3, 4, 5]),
        ] {
            let data = png(&pixels, 3, 2, ExtendedColorType::Rgb8, Some(orientation));
            let (shape, found) = decoded(&data, &Limits::default()).unwrap();
            let red: Vec<u8> = found.chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!(
                (shape.dims(), &red[..]),
                (&[dims[0], dims[1], 3][..], &expected[..]),
                "orientation {orientation}"
            );
            let turned = decoded(&jpeg(&pixels, 3, 2, Some(orientation)), &Limits::default()).unwrap().0;
            assert_eq!(turned, shape, "orientation {orientation}");
        }
    }

    #[test]
    fn what_is_no_image_or_damaged_is_an_invalid_argument() {
        let pixels: Vec<u8> = (0..64 * 64 * 3).map(|index| (index * 7 % 251) as u8).collect();
        let mut webp = Vec::new();
        WebPEncoder::new_lossless(&mut webp).write_image(&pixels, 64, 64, ExtendedColorType::Rgb8).unwrap();
        let whole = [jpeg(&pixels, 64, 64, Some(6)), png(&pixels, 64, 64, ExtendedColorType::Rgb8, Some(6)), webp];
        for data in &whole {
            assert!(decoded(data, &Limits::default()).is_ok());
            for length in (0..data.len() - 12).step_by(97).chain(0..40) {
                let error = decoded(&data[..length], &Limits::default()).unwrap_err();
                assert_eq!(error.kind(), Kind::InvalidArgument, "{length} of {}: {error}", data.len());
            }
            // Changed bytes may still be an image; the result is an image or an error, never a panic.
            for index in (0..data.len()).step_by(13).chain(0..60) {
                let mut data = data.clone();
                data[index] ^= 0xa5;
                let _ = decoded(&data, &Limits::default());
            }
        }
        for data in [&b""[..], b"GIF89a", b"hello", b"\xff\xd8", b"RIFF\0\0\0\0WEBP"] {
            assert_eq!(decoded(data, &Limits::default()).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn limits_are_checked_before_pixels_are_decoded() {
        let pixels = vec![0; 40 * 30 * 3];
        let limits = Limits { image_pixels: 40 * 30 - 1, ..Limits::default() };
        for data in [jpeg(&pixels, 40, 30, None), png(&pixels, 40, 30, ExtendedColorType::Rgb8, None)] {
            let error = decoded(&data, &limits).unwrap_err();
            assert_eq!(error.kind(), Kind::TooLarge);
            assert!(error.message().contains("40 x 30") && error.message().contains("image_pixels"), "{error}");
            let account = Ledger::new(1 << 20).account(Owner::Workspace, 40 * 30 * 3, 1);
            let error = decode_image(&data, &account, &Limits::default(), &Stop::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::LimitExceeded);
            let stop = Stop::default();
            stop.cancel();
            let error = decode_image(&data, &account, &Limits::default(), &stop).unwrap_err();
            assert_eq!(error.kind(), Kind::Cancelled);
        }
        // A header that declares far more than the file has: 60000 x 60000 pixels.
        let mut data = jpeg(&pixels, 40, 30, None);
        let header = data.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        data[header + 5..header + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
        assert_eq!(decoded(&data, &Limits::default()).unwrap_err().kind(), Kind::TooLarge);
    }
}
