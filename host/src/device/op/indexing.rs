//! Shape and cost rules of the operators that cut a tensor or use one as indices; it never touches elements.

use super::{Cost, Plan, Work, wrong_dtype};
use crate::config::Limits;
use crate::device::shape::axis_of;
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn split(axis: i32, lengths: &[u64], (dtype, shape): (DType, &Shape), limits: &Limits) -> Result<Plan> {
    let axis = shape.axis("axis", axis)?;
    if lengths.is_empty() {
        return Err(Error::invalid_argument("lengths: there are none; give at least one"));
    }
    if lengths.len() as u64 > limits.tensor_count {
        let (count, most) = (lengths.len(), limits.tensor_count);
        return Err(Error::too_large(format!("lengths: {count} of them; at most {most} are taken (tensor_count)")));
    }
    let dim = shape.dims()[axis];
    let sum = lengths.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
    if sum != dim {
        let message = format!("lengths: their sum is {sum}, but axis {axis} of {shape} has {dim} elements");
        return Err(Error::invalid_argument(message));
    }
    let (outer, _, inner) = shape.around(axis);
    let mut dims = shape.dims().to_vec();
    let mut outputs = Vec::with_capacity(lengths.len());
    for length in lengths {
        dims[axis] = *length;
        outputs.push((dtype, Shape::new(&dims, limits.tensor_rank)?));
    }
    if outer == 1 && shape.elements() > 0 {
        let size = inner * dtype.size_bytes().unwrap_or(0);
        let starts = lengths.iter().scan(0, |start, length| Some(std::mem::replace(start, *start + length) * size));
        let work = Work::Views { byte_offsets: starts.collect() };
        let operations = lengths.len() as u64;
        return Ok(Plan { outputs, cost: Cost { bytes: 0, operations }, work });
    }
    // If another axis is empty, the lengths may be large although there is nothing to copy.
    let runs: Vec<u64> = lengths.iter().map(|length| length.saturating_mul(inner)).collect();
    // Each result is walked row by row.
    let walks = if shape.elements() == 0 { 0 } else { outer.saturating_mul(lengths.len() as u64).saturating_mul(4) };
    let steps = shape.elements().saturating_add(walks).saturating_add(lengths.len() as u64);
    Ok(Plan::new(outputs, steps, 1, Work::Split { outer, lengths: runs }))
}

pub(super) fn gather(axis: i32, inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    let [(dtype, shape), (index, indices)] = inputs;
    if !index.is_integer() {
        return Err(wrong_dtype("indices", index, "an integer"));
    }
    let axis = shape.axis("axis", axis)?;
    let (outer, length, inner) = shape.around(axis);
    let dims = [&shape.dims()[..axis], indices.dims(), &shape.dims()[axis + 1..]].concat();
    let output = Shape::new(&dims, max_rank)?;
    // Every run that is copied costs, and so does every index that is only checked.
    let runs = if output.elements() == 0 { 0 } else { outer.saturating_mul(indices.elements()) };
    let steps = output.elements().saturating_add(runs.saturating_mul(4)).saturating_add(indices.elements());
    Ok(Plan::new(vec![(dtype, output)], steps, 1, Work::Gather { outer, length, inner }))
}

pub(super) fn one_hot(
    depth: u64,
    axis: i32,
    dtype: DType,
    (index, indices): (DType, &Shape),
    max_rank: u64,
) -> Result<Plan> {
    if !index.is_integer() {
        return Err(wrong_dtype("indices", index, "an integer"));
    }
    if dtype == DType::Text {
        return Err(Error::invalid_argument("dtype: text has no 0 and 1; take another one"));
    }
    let axis = axis_of("axis", axis, indices.rank() + 1)?;
    let mut dims = indices.dims().to_vec();
    dims.insert(axis, depth);
    let output = Shape::new(&dims, max_rank)?;
    let outer = dims[..axis].iter().product();
    let inner = dims[axis + 1..].iter().product();
    let steps = output.elements().saturating_add(indices.elements().saturating_mul(4));
    Ok(Plan::new(vec![(dtype, output)], steps, 1, Work::OneHot { outer, depth, inner }))
}

/// The error for an index that is outside an axis: its position in the list, and its value.
pub(in crate::device) fn index_out_of_range(at: u64, index: i128, length: u64) -> Error {
    let takes = match length {
        0 => "nothing, because the axis is empty".to_owned(),
        _ => format!("-{length} to {}", length - 1),
    };
    Error::invalid_argument(format!("indices: element {at} is {index}; it takes {takes}"))
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;

    fn plan(op: &Op, inputs: &[(DType, &[u64])]) -> Result<Plan> {
        let shapes: Vec<_> = inputs.iter().map(|(dtype, dims)| (*dtype, Shape::new(dims, 32).unwrap())).collect();
        let inputs: Vec<_> = shapes.iter().map(|(dtype, shape)| (*dtype, shape)).collect();
        op.plan(&inputs, &Limits::default())
    }

    fn outputs(op: &Op, inputs: &[(DType, &[u64])]) -> String {
        let outputs = plan(op, inputs).unwrap().outputs;
        outputs.iter().map(|(dtype, shape)| format!("{dtype}{shape}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn shapes_follow_onnx() {
        let split = |axis, lengths: &[u64]| Op::Split { axis, lengths: lengths.to_vec() };
        assert_eq!(outputs(&split(-1, &[1, 0, 2]), &[(DType::U8, &[2, 3])]), "u8[2, 1] u8[2, 0] u8[2, 2]");
        let gather = |axis| Op::Gather { axis };
        assert_eq!(outputs(&gather(1), &[(DType::F16, &[2, 3, 4]), (DType::S64, &[5, 6])]), "f16[2, 5, 6, 4]");
        assert_eq!(outputs(&gather(0), &[(DType::F16, &[3]), (DType::U8, &[])]), "f16[]");
        let one_hot = |axis| Op::OneHot { depth: 7, axis, dtype: DType::Boolean };
        assert_eq!(outputs(&one_hot(-1), &[(DType::S32, &[2, 3])]), "boolean[2, 3, 7]");
        assert_eq!(outputs(&one_hot(0), &[(DType::S32, &[])]), "boolean[7]");
    }

    #[test]
    fn splits_of_the_outermost_axis_copy_nothing() {
        let op = Op::Split { axis: 1, lengths: vec![1, 0, 2] };
        let views = plan(&op, &[(DType::F32, &[1, 3, 5])]).unwrap();
        assert_eq!((views.cost.bytes, views.work), (0, Work::Views { byte_offsets: vec![0, 20, 20] }));
        let copies = plan(&op, &[(DType::F32, &[2, 3, 5])]).unwrap();
        assert_eq!((copies.cost.bytes, copies.work), (120, Work::Split { outer: 2, lengths: vec![5, 0, 10] }));
    }

    #[test]
    fn what_is_not_taken_is_named() {
        let split = |lengths: &[u64]| Op::Split { axis: 0, lengths: lengths.to_vec() };
        for (op, inputs, part) in [
            (split(&[]), &[(DType::U8, &[0][..])][..], "lengths: there are none"),
            (split(&[1, 3]), &[(DType::U8, &[3])], "their sum is 4"),
            (split(&[u64::MAX, 2]), &[(DType::U8, &[1])], "their sum is"),
            (split(&[0; 10_001]), &[(DType::U8, &[0])], "tensor_count"),
            (Op::Gather { axis: 0 }, &[(DType::U8, &[3]), (DType::F32, &[3])], "indices: its dtype is f32"),
            (Op::Gather { axis: 0 }, &[(DType::U8, &[]), (DType::S64, &[3])], "a scalar has no axes"),
            (Op::Gather { axis: 0 }, &[(DType::U8, &[3, 1 << 40]), (DType::S64, &[1 << 40])], "too many"),
            (Op::OneHot { depth: 2, axis: 2, dtype: DType::U8 }, &[(DType::S64, &[3])], "axis: 2 is out of range"),
            (Op::OneHot { depth: 2, axis: 0, dtype: DType::Text }, &[(DType::S64, &[3])], "dtype: text"),
            (Op::OneHot { depth: u64::MAX, axis: 0, dtype: DType::U8 }, &[(DType::S64, &[3])], "too many"),
            (Op::OneHot { depth: 2, axis: 0, dtype: DType::U8 }, &[(DType::Boolean, &[3])], "an integer"),
        ] {
            let message = plan(&op, inputs).unwrap_err().message().to_owned();
            assert!(message.starts_with(op.name()) && message.contains(part), "{message}");
        }
    }
}
