//! Shape and cost rules of the operators on images; it never touches elements.

use super::{ImageLayout, Plan, Resize, Work, wrong_dtype};
use crate::device::resample::Axis;
use crate::device::{DType, Interpolation, Shape};
use crate::error::{Error, Result};

/// Where height and width are among the axes of an image tensor.
pub(super) fn height_and_width(layout: ImageLayout, shape: &Shape) -> Result<[usize; 2]> {
    match (layout, shape.rank()) {
        (ImageLayout::Hwc, rank @ 3..) => Ok([rank - 3, rank - 2]),
        (ImageLayout::Chw, rank @ 3..) => Ok([rank - 2, rank - 1]),
        (ImageLayout::Hwc, _) => Err(Error::invalid_argument(format!(
            "input: its shape is {shape}, but an image is [.., height, width, channels]; reshape it first"
        ))),
        (ImageLayout::Chw, _) => Err(Error::invalid_argument(format!(
            "input: its shape is {shape}, but an image is [.., channels, height, width]; reshape it first"
        ))),
    }
}

pub(super) fn resize(resize: Resize, (dtype, shape): (DType, &Shape), max_rank: u64) -> Result<Plan> {
    if dtype != DType::U8 && !dtype.is_float() {
        return Err(wrong_dtype("input", dtype, "u8, f16, bf16, f32 or f64"));
    }
    if resize.height == 0 || resize.width == 0 {
        let message = format!("options: height {} and width {} must be at least 1", resize.height, resize.width);
        return Err(Error::invalid_argument(message));
    }
    if resize.antialias && !matches!(resize.interpolation, Interpolation::Bilinear | Interpolation::Bicubic) {
        return Err(Error::invalid_argument("options: antialias is available only with bilinear and bicubic"));
    }
    let axes = height_and_width(resize.layout, shape)?;
    let dims = shape.dims();
    let [source_height, source_width] = axes.map(|axis| dims[axis]);
    for side in [source_height, source_width] {
        if side == 0 {
            return Err(Error::invalid_argument(format!("input: an image of shape {shape} has no pixels to resize")));
        }
        if side > u64::from(u32::MAX) {
            return Err(Error::too_large(format!(
                "input: an image side of {side} pixels; at most {} are taken",
                u32::MAX
            )));
        }
    }
    let (images, channels) = match resize.layout {
        ImageLayout::Hwc => (dims[..axes[0]].iter().product::<u64>(), dims[axes[1] + 1]),
        ImageLayout::Chw => (dims[..axes[0]].iter().product::<u64>(), 1),
    };
    let mut result = dims.to_vec();
    result[axes[0]] = resize.height.into();
    result[axes[1]] = resize.width.into();
    let output = Shape::new(&result, max_rank)?;
    let (rows, columns) = (Axis::rows(&resize, source_height), Axis::columns(&resize, source_width));
    let each =
        u128::from(rows.width()) * u128::from(source_width) + u128::from(columns.width()) * u128::from(resize.width);
    let operations = each * u128::from(resize.height) * (u128::from(images) * u128::from(channels)).max(1);
    let work = Work::Resize { images, source_height, source_width, channels, resize };
    Ok(Plan::new(vec![(dtype, output)], u64::try_from(operations).unwrap_or(u64::MAX), 1, work))
}

pub(super) fn normalize(axis: i32, scale: &[f32], offset: &[f32], (_, shape): (DType, &Shape)) -> Result<Plan> {
    let axis = shape.axis("axis", axis)?;
    let (outer, channels, inner) = shape.around(axis);
    for (name, numbers) in [("scale", scale), ("offset", offset)] {
        if numbers.len() != 1 && numbers.len() as u64 != channels {
            return Err(Error::invalid_argument(format!(
                "{name}: {} numbers for the {channels} channels of axis {axis}; give one, or one per channel",
                numbers.len()
            )));
        }
    }
    // Where both have one number the axis does not matter, and the lists never grow beyond what the caller gave.
    let count = scale.len().max(offset.len());
    let spread = |numbers: &[f32]| numbers.iter().copied().cycle().take(count).collect();
    let (outer, inner) = if count == 1 { (1, shape.elements()) } else { (outer, inner) };
    let work = Work::Normalize { outer, inner, scale: spread(scale), offset: spread(offset) };
    Ok(Plan::new(vec![(DType::F32, shape.clone())], shape.elements(), 2, work))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::device::{Coordinates, Op, Rounding};

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims, 8).unwrap()
    }

    fn resize_of(dtype: DType, dims: &[u64], change: impl FnOnce(&mut Resize)) -> Result<Plan> {
        let mut resize = Resize {
            height: 4,
            width: 5,
            layout: ImageLayout::Hwc,
            interpolation: Interpolation::Bilinear,
            coordinates: Coordinates::HalfPixel,
            antialias: false,
        };
        change(&mut resize);
        Op::Resize(resize).plan(&[(dtype, &shape(dims))], &Limits::default())
    }

    #[test]
    fn resize_keeps_batch_channels_and_dtype() {
        let hwc = resize_of(DType::U8, &[2, 9, 8, 3], |_| ()).unwrap();
        assert_eq!(hwc.outputs, [(DType::U8, shape(&[2, 4, 5, 3]))]);
        assert_eq!(hwc.cost.bytes, 120);
        assert_eq!(hwc.cost.operations, (2 * 8 + 2 * 5) * 4 * 6);
        let chw = resize_of(DType::BF16, &[2, 3, 9, 8], |resize| resize.layout = ImageLayout::Chw).unwrap();
        assert_eq!(chw.outputs, [(DType::BF16, shape(&[2, 3, 4, 5]))]);
        assert!(matches!(chw.work, Work::Resize { images: 6, channels: 1, source_height: 9, source_width: 8, .. }));
        assert_eq!(resize_of(DType::F32, &[0, 9, 8, 3], |_| ()).unwrap().outputs[0].1, shape(&[0, 4, 5, 3]));
    }

    #[test]
    fn resize_names_what_it_does_not_take() {
        let check = |result: Result<Plan>, part: &str| {
            let message = result.unwrap_err().message().to_owned();
            assert!(message.starts_with("resize: ") && message.contains(part), "{message}");
        };
        check(resize_of(DType::S8, &[9, 8, 3], |_| ()), "its dtype is s8");
        check(resize_of(DType::U8, &[9, 8], |_| ()), "[.., height, width, channels]");
        check(resize_of(DType::U8, &[0, 8, 3], |_| ()), "no pixels");
        check(resize_of(DType::U8, &[9, 8, 3], |resize| resize.height = 0), "at least 1");
        check(resize_of(DType::U8, &[1 << 33, 1, 1], |_| ()), "side");
        check(resize_of(DType::U8, &[9, 8, 1 << 40], |_| ()), "operator_operations");
        check(
            resize_of(DType::U8, &[9, 8, 3], |resize| (resize.height, resize.width) = (u32::MAX, u32::MAX)),
            "too many",
        );
        let nearest = |resize: &mut Resize| {
            (resize.interpolation, resize.antialias) = (Interpolation::Nearest(Rounding::Floor), true)
        };
        check(resize_of(DType::U8, &[9, 8, 3], nearest), "antialias");
    }

    #[test]
    fn normalize_takes_one_number_or_one_per_channel() {
        let check = |axis: i32, scale: &[f32], offset: &[f32]| {
            let op = Op::Normalize { axis, scale: scale.to_vec(), offset: offset.to_vec() };
            op.plan(&[(DType::U8, &shape(&[2, 4, 3]))], &Limits::default())
        };
        let work = |outer, inner, scale: &[f32], offset: &[f32]| Work::Normalize {
            outer,
            inner,
            scale: scale.to_vec(),
            offset: offset.to_vec(),
        };
        assert_eq!(check(-1, &[2.0], &[1.0, 2.0, 3.0]).unwrap().work, work(8, 1, &[2.0; 3], &[1.0, 2.0, 3.0]));
        assert_eq!(check(1, &[2.0], &[1.0]).unwrap().work, work(1, 24, &[2.0], &[1.0]));
        assert_eq!(check(0, &[2.0, 3.0], &[1.0]).unwrap().outputs, [(DType::F32, shape(&[2, 4, 3]))]);
        assert!(check(0, &[2.0; 3], &[1.0]).unwrap_err().message().contains("scale: 3 numbers for the 2 channels"));
        assert!(check(0, &[2.0], &[]).unwrap_err().message().contains("offset: 0 numbers"));
        assert!(check(3, &[2.0], &[1.0]).unwrap_err().message().contains("axis: 3 is out of range"));
    }
}
