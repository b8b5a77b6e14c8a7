//! Shape and cost rules of the operators that move elements without computing; it never touches elements.

use super::image::height_and_width;
use super::{Cost, ImageLayout, PadMode, Plan, SliceRange, StridedCopy, Work};
use crate::device::shape::axis_of;
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn cast(dtype: DType, (_, shape): (DType, &Shape)) -> Result<Plan> {
    if dtype == DType::Text {
        return Err(Error::invalid_argument("dtype: nothing can be cast to text"));
    }
    Ok(Plan::new(vec![(dtype, shape.clone())], shape.elements(), 1, Work::Cast))
}

pub(super) fn crop(
    layout: ImageLayout,
    corner: [u64; 2],
    size: [u64; 2],
    input: (DType, &Shape),
    max_rank: u64,
) -> Result<Plan> {
    let (dtype, shape) = input;
    let axes = height_and_width(layout, shape)?;
    let mut walks = whole(shape);
    for (index, (first, second)) in [("top", "height"), ("left", "width")].into_iter().enumerate() {
        let (axis, start, length) = (axes[index], corner[index], size[index]);
        let side = shape.dims()[axis];
        if start.checked_add(length).is_none_or(|end| end > side) {
            return Err(Error::invalid_argument(format!(
                "{first}, {second}: {start} + {length} is more than the {side} pixels of the image's {second}"
            )));
        }
        walks[axis] = Walk { start, length, step: 1 };
    }
    picked(dtype, shape, &walks, max_rank)
}

pub(super) fn slice(ranges: &[SliceRange], (dtype, shape): (DType, &Shape), max_rank: u64) -> Result<Plan> {
    let mut walks = whole(shape);
    let mut named = vec![false; shape.rank()];
    let mut outermost_step = 1;
    for (index, range) in ranges.iter().enumerate() {
        let axis = shape.axis(&format!("ranges[{index}].axis"), range.axis)?;
        if std::mem::replace(&mut named[axis], true) {
            return Err(Error::invalid_argument(format!("ranges[{index}].axis: axis {axis} has a range already")));
        }
        if range.step == 0 {
            return Err(Error::invalid_argument(format!("ranges[{index}].step: it is 0; take 1 for every element")));
        }
        walks[axis] = walk(range, shape.dims()[axis]);
        if axis == 0 {
            outermost_step = range.step;
        }
    }
    let rest_is_whole = walks.iter().zip(shape.dims()).skip(1).all(|(walk, dim)| walk.is_whole(*dim));
    let (byte_offset, output) = match walks.first() {
        None => (0, shape.clone()),
        Some(first) if rest_is_whole && outermost_step == 1 => {
            let mut dims = shape.dims().to_vec();
            dims[0] = first.length;
            let output = Shape::new(&dims, max_rank)?;
            let start = if output.elements() == 0 { 0 } else { first.start * (shape.elements() / shape.dims()[0]) };
            (start * dtype.size_bytes().unwrap_or(0), output)
        }
        Some(_) => return picked(dtype, shape, &walks, max_rank),
    };
    Ok(Plan { outputs: vec![(dtype, output)], cost: Cost::default(), work: Work::View { byte_offset } })
}

/// The indices of one axis that are kept: `start`, `start + step`, …, `length` of them.
#[derive(Clone, Copy)]
struct Walk {
    start: u64,
    length: u64,
    step: i64,
}

impl Walk {
    fn is_whole(&self, dim: u64) -> bool {
        self.start == 0 && self.length == dim && self.step == 1
    }
}

fn whole(shape: &Shape) -> Vec<Walk> {
    shape.dims().iter().map(|dim| Walk { start: 0, length: *dim, step: 1 }).collect()
}

/// NumPy's rule for `start:end:step` on an axis (Python's `slice.indices`).
fn walk(range: &SliceRange, dim: u64) -> Walk {
    let (dim, step) = (i128::from(dim), i128::from(range.step));
    let (least, most) = if step > 0 { (0, dim) } else { (-1, dim - 1) };
    let clamped = |index: i64| {
        let index = i128::from(index);
        (if index < 0 { index + dim } else { index }).clamp(least, most)
    };
    let (start, end) = (clamped(range.start), clamped(range.end));
    let distance = if step > 0 { end - start } else { start - end };
    let length = if distance <= 0 { 0 } else { (distance - 1) / step.abs() + 1 };
    // A single index has no step; a long one could overflow a stride.
    let step = if length <= 1 { 1 } else { range.step };
    Walk { start: u64::try_from(start).unwrap_or(0), length: u64::try_from(length).unwrap_or(0), step }
}

/// A copy of the elements that a walk on each axis visits.
fn picked(dtype: DType, shape: &Shape, walks: &[Walk], max_rank: u64) -> Result<Plan> {
    let dims: Vec<u64> = walks.iter().map(|walk| walk.length).collect();
    let output = Shape::new(&dims, max_rank)?;
    let count = output.elements();
    let mut start = 0;
    let mut loops = Vec::with_capacity(walks.len());
    for (walk, stride) in walks.iter().zip(row_major(shape.dims())) {
        if count > 0 {
            start += walk.start * stride;
        }
        // The product fits: a walk of more than one index stays within the axis.
        loops.push((walk.length, walk.step.saturating_mul(stride as i64)));
    }
    Ok(Plan::new(vec![(dtype, output)], count, 1, Work::Copy(StridedCopy::joined(&loops, start))))
}

fn row_major(dims: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis].max(1);
    }
    strides
}

impl StridedCopy {
    /// Drops axes of length 1 and joins neighbours that are walked as one.
    fn joined(loops: &[(u64, i64)], start: u64) -> StridedCopy {
        let mut joined: Vec<(u64, i64)> = Vec::with_capacity(loops.len());
        for &(dim, stride) in loops.iter().filter(|(dim, _)| *dim != 1) {
            match joined.last_mut() {
                Some((outer, outer_stride)) if stride.checked_mul(dim as i64) == Some(*outer_stride) => {
                    (*outer, *outer_stride) = (*outer * dim, stride);
                }
                _ => joined.push((dim, stride)),
            }
        }
        let (dims, strides) = joined.into_iter().unzip();
        StridedCopy { dims, strides, start }
    }
}

pub(super) fn permute(axes: &[i32], (dtype, shape): (DType, &Shape), max_rank: u64) -> Result<Plan> {
    let rank = shape.rank();
    if axes.len() != rank {
        return Err(Error::invalid_argument(format!(
            "axes: {} entries for the {rank} axes of {shape}; name each axis once",
            axes.len()
        )));
    }
    let strides = row_major(shape.dims());
    let mut named = vec![false; rank];
    let mut dims = Vec::with_capacity(rank);
    let mut loops = Vec::with_capacity(rank);
    for (index, &axis) in axes.iter().enumerate() {
        let axis = axis_of(&format!("axes[{index}]"), axis, rank)?;
        if std::mem::replace(&mut named[axis], true) {
            return Err(Error::invalid_argument(format!(
                "axes[{index}]: axis {axis} is listed already; name each once"
            )));
        }
        dims.push(shape.dims()[axis]);
        loops.push((shape.dims()[axis], strides[axis] as i64));
    }
    let output = Shape::new(&dims, max_rank)?;
    let count = output.elements();
    Ok(Plan::new(vec![(dtype, output)], count, 1, Work::Copy(StridedCopy::joined(&loops, 0))))
}

pub(super) fn pad(
    before: &[u64],
    after: &[u64],
    mode: PadMode,
    (dtype, shape): (DType, &Shape),
    max_rank: u64,
) -> Result<Plan> {
    for (name, counts) in [("before", before), ("after", after)] {
        if counts.len() != shape.rank() {
            let message = format!("{name}: {} entries for the {} axes of {shape}", counts.len(), shape.rank());
            return Err(Error::invalid_argument(message));
        }
    }
    let mut dims = Vec::with_capacity(shape.rank());
    for (axis, &dim) in shape.dims().iter().enumerate() {
        let (first, last) = (before[axis], after[axis]);
        let most = first.max(last);
        match mode {
            PadMode::Edge if dim == 0 && most > 0 => {
                let message =
                    format!("mode: axis {axis} of {shape} is empty, so it has no edge; pad it with a constant");
                return Err(Error::invalid_argument(message));
            }
            PadMode::Reflect if most > 0 && most >= dim => {
                return Err(Error::invalid_argument(format!(
                    "before, after: {most} on axis {axis} of {shape}; a mirror image takes less than {dim}"
                )));
            }
            PadMode::Constant(_) | PadMode::Edge | PadMode::Reflect => {}
        }
        let sum = dim.checked_add(first).and_then(|sum| sum.checked_add(last));
        dims.push(
            sum.ok_or_else(|| Error::too_large(format!("before, after: axis {axis} would be too long to address")))?,
        );
    }
    let output = Shape::new(&dims, max_rank)?;
    let count = output.elements();
    let work = Work::Pad { source: shape.dims().to_vec(), before: before.to_vec(), mode };
    Ok(Plan::new(vec![(dtype, output)], count, 1, work))
}

pub(super) fn concat(axis: i32, inputs: &[(DType, &Shape)], max_rank: u64) -> Result<Plan> {
    let (dtype, first) = first_of(inputs)?;
    let axis = first.axis("axis", axis)?;
    let mut dims = first.dims().to_vec();
    let (outer, _, inner) = first.around(axis);
    let mut lengths = Vec::with_capacity(inputs.len());
    let mut sum = 0u64;
    for (index, (_, shape)) in inputs.iter().enumerate() {
        let same = shape.rank() == first.rank()
            && shape.dims().iter().zip(first.dims()).enumerate().all(|(other, (m, n))| other == axis || m == n);
        if !same {
            return Err(Error::invalid_argument(format!(
                "inputs[{index}]: its shape is {shape}, but that of inputs[0] is {first}; they may differ on axis {axis} only"
            )));
        }
        let length = shape.dims()[axis];
        // If another axis is empty, the lengths may be large although there is nothing to copy.
        lengths.push(length.saturating_mul(inner));
        sum = sum.saturating_add(length);
    }
    dims[axis] = sum;
    let output = Shape::new(&dims, max_rank)?;
    let count = output.elements();
    Ok(Plan::new(vec![(dtype, output)], count, 1, Work::Join { outer, lengths }))
}

pub(super) fn stack(axis: i32, inputs: &[(DType, &Shape)], max_rank: u64) -> Result<Plan> {
    let (dtype, first) = first_of(inputs)?;
    let axis = axis_of("axis", axis, first.rank() + 1)?;
    if let Some(index) = inputs.iter().position(|(_, shape)| *shape != first) {
        return Err(Error::invalid_argument(format!(
            "inputs[{index}]: its shape is {}, but that of inputs[0] is {first}; stacked tensors have one shape",
            inputs[index].1
        )));
    }
    let mut dims = first.dims().to_vec();
    dims.insert(axis, inputs.len() as u64);
    let output = Shape::new(&dims, max_rank)?;
    let outer = first.dims()[..axis].iter().product();
    let length = first.dims()[axis..].iter().product();
    let count = output.elements();
    Ok(Plan::new(vec![(dtype, output)], count, 1, Work::Join { outer, lengths: vec![length; inputs.len()] }))
}

/// The first of at least one input, all of one dtype.
fn first_of<'a>(inputs: &[(DType, &'a Shape)]) -> Result<(DType, &'a Shape)> {
    let Some(&(dtype, first)) = inputs.first() else {
        return Err(Error::invalid_argument("inputs: there are none; give at least one tensor"));
    };
    if let Some(index) = inputs.iter().position(|(other, _)| *other != dtype) {
        let other = inputs[index].0;
        let message = format!("inputs[{index}]: its dtype is {other}, but that of inputs[0] is {dtype}; cast it first");
        return Err(Error::invalid_argument(message));
    }
    Ok((dtype, first))
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;
    use crate::config::Limits;

    fn plan(op: &Op, inputs: &[(DType, &[u64])]) -> Result<Plan> {
        let shapes: Vec<_> = inputs.iter().map(|(dtype, dims)| (*dtype, Shape::new(dims, 32).unwrap())).collect();
        let inputs: Vec<_> = shapes.iter().map(|(dtype, shape)| (*dtype, shape)).collect();
        op.plan(&inputs, &Limits::default())
    }

    fn range(axis: i32, start: i64, end: i64, step: i64) -> SliceRange {
        SliceRange { axis, start, end, step }
    }

    fn sliced(dims: &[u64], ranges: &[SliceRange]) -> (String, Work) {
        let plan = plan(&Op::Slice { ranges: ranges.to_vec() }, &[(DType::F32, dims)]).unwrap();
        (plan.outputs[0].1.to_string(), plan.work)
    }

    fn copy(dims: &[u64], strides: &[i64], start: u64) -> Work {
        Work::Copy(StridedCopy { dims: dims.to_vec(), strides: strides.to_vec(), start })
    }

    #[test]
    fn slices_follow_numpy_and_the_outermost_copies_nothing() {
        let view = |byte_offset| Work::View { byte_offset };
        for (dims, ranges, shape, work) in [
            (&[5, 4][..], vec![range(0, 1, 3, 1)], "[2, 4]", view(16)),
            (&[5, 4], vec![range(0, -2, i64::MAX, 1)], "[2, 4]", view(48)),
            (&[5, 4], vec![range(0, 9, 12, 1)], "[0, 4]", view(0)),
            (&[], vec![], "[]", view(0)),
            (&[5, 4], vec![range(1, 1, 3, 1)], "[5, 2]", copy(&[5, 2], &[4, 1], 1)),
            (&[5, 4], vec![range(-2, -1, i64::MIN, -2)], "[3, 4]", copy(&[3, 4], &[-8, 1], 16)),
            (&[5], vec![range(0, 4, -6, -1)], "[5]", copy(&[5], &[-1], 4)),
            (&[5], vec![range(0, 4, 0, i64::MIN)], "[1]", copy(&[], &[], 4)),
            (&[5], vec![range(0, 0, 5, i64::MAX)], "[1]", copy(&[], &[], 0)),
            (&[5], vec![range(0, 3, 3, -1)], "[0]", copy(&[0], &[1], 0)),
            (&[0, 3], vec![range(1, 0, 2, 1)], "[0, 2]", copy(&[0, 2], &[3, 1], 0)),
        ] {
            assert_eq!(sliced(dims, &ranges), (shape.to_owned(), work), "{dims:?} {ranges:?}");
        }
    }

    #[test]
    fn permuted_axes_join_where_they_stay_neighbours() {
        let check = |dims: &[u64], axes: &[i32], work: Work| {
            let plan = plan(&Op::Permute { axes: axes.to_vec() }, &[(DType::U8, dims)]).unwrap();
            assert_eq!(plan.work, work, "{dims:?} {axes:?}");
        };
        check(&[7, 8, 3], &[2, 0, 1], copy(&[3, 56], &[1, 3], 0));
        check(&[1, 7, 8, 3], &[0, -1, 1, 2], copy(&[3, 56], &[1, 3], 0));
        check(&[7, 8, 3], &[0, 1, 2], copy(&[168], &[1], 0));
        check(&[], &[], copy(&[], &[], 0));
    }

    #[test]
    fn joined_and_padded_shapes() {
        let check = |op: &Op, inputs: &[(DType, &[u64])], shape: &str| {
            assert_eq!(plan(op, inputs).unwrap().outputs[0].1.to_string(), shape);
        };
        let u8s = |dims: &'static [u64]| (DType::U8, dims);
        check(&Op::Concat { axis: -1 }, &[u8s(&[2, 3]), u8s(&[2, 0]), u8s(&[2, 1])], "[2, 4]");
        check(&Op::Stack { axis: -1 }, &[u8s(&[2, 3]), u8s(&[2, 3])], "[2, 3, 2]");
        check(&Op::Stack { axis: 0 }, &[u8s(&[])], "[1]");
        let pad = Op::Pad { before: vec![1, 0], after: vec![0, 2], mode: PadMode::Constant(0.0) };
        check(&pad, &[u8s(&[0, 3])], "[1, 5]");
        let crop = Op::Crop { layout: ImageLayout::Chw, top: 2, left: 0, height: 0, width: 4 };
        check(&crop, &[u8s(&[3, 2, 4])], "[3, 0, 4]");
    }

    #[test]
    fn what_is_not_taken_is_named() {
        let u8s = |dims: &'static [u64]| (DType::U8, dims);
        let pad =
            |before: &[u64], after: &[u64], mode| Op::Pad { before: before.to_vec(), after: after.to_vec(), mode };
        let crop = |top, height| Op::Crop { layout: ImageLayout::Hwc, top, left: 0, height, width: 1 };
        for (op, inputs, part) in [
            (Op::Cast { dtype: DType::Text }, &[u8s(&[1])][..], "text"),
            (Op::Slice { ranges: vec![range(2, 0, 1, 1)] }, &[u8s(&[5, 4])], "ranges[0].axis: 2 is out of range"),
            (Op::Slice { ranges: vec![range(0, 0, 1, 0)] }, &[u8s(&[5])], "ranges[0].step"),
            (Op::Slice { ranges: vec![range(0, 0, 1, 1), range(-1, 0, 1, 1)] }, &[u8s(&[5])], "has a range already"),
            (Op::Permute { axes: vec![0, 0] }, &[u8s(&[1, 2])], "axes[1]"),
            (Op::Permute { axes: vec![0] }, &[u8s(&[1, 2])], "axes: 1 entries"),
            (Op::Concat { axis: 0 }, &[], "inputs"),
            (Op::Concat { axis: 0 }, &[u8s(&[])], "a scalar has no axes"),
            (Op::Concat { axis: 0 }, &[u8s(&[1, 2]), u8s(&[1, 3])], "inputs[1]: its shape"),
            (Op::Concat { axis: 0 }, &[u8s(&[1]), u8s(&[1, 1])], "inputs[1]: its shape"),
            (Op::Stack { axis: 0 }, &[u8s(&[1]), (DType::S8, &[1])], "inputs[1]: its dtype is s8"),
            (Op::Stack { axis: 0 }, &[u8s(&[1; 8])], "tensor_rank"),
            (Op::Stack { axis: 2 }, &[u8s(&[1])], "axis: 2"),
            (crop(1, 1), &[u8s(&[1, 1, 3])], "top, height: 1 + 1 is more than the 1 pixels"),
            (crop(u64::MAX, 1), &[u8s(&[1, 1, 3])], "top, height"),
            (pad(&[1], &[0], PadMode::Edge), &[u8s(&[0])], "has no edge"),
            (pad(&[3], &[0], PadMode::Reflect), &[u8s(&[3])], "less than 3"),
            (pad(&[u64::MAX], &[1], PadMode::Edge), &[u8s(&[3])], "too long"),
            (pad(&[1 << 61], &[1], PadMode::Edge), &[u8s(&[3])], "too many elements"),
            (pad(&[], &[1], PadMode::Edge), &[u8s(&[3])], "before: 0 entries"),
        ] {
            let message = plan(&op, inputs).unwrap_err().message().to_owned();
            assert!(message.starts_with(op.name()) && message.contains(part), "{message}");
        }
    }
}
