//! Shape and cost rules of the operators that work along one axis; it never touches elements.

use super::{FLOATS, Plan, Work, wrong_dtype};
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn softmax(axis: i32, (dtype, shape): (DType, &Shape)) -> Result<Plan> {
    if !dtype.is_float() {
        return Err(wrong_dtype("input", dtype, FLOATS));
    }
    let (outer, length, inner) = shape.around(shape.axis("axis", axis)?);
    let work = Work::Softmax { outer, length, inner };
    Ok(Plan::new(vec![(dtype, shape.clone())], shape.elements(), 8, work))
}

pub(super) fn log_softmax(axis: i32, (dtype, shape): (DType, &Shape)) -> Result<Plan> {
    if !dtype.is_float() {
        return Err(wrong_dtype("input", dtype, FLOATS));
    }
    let (outer, length, inner) = shape.around(shape.axis("axis", axis)?);
    let work = Work::LogSoftmax { outer, length, inner };
    Ok(Plan::new(vec![(dtype, shape.clone())], shape.elements(), 8, work))
}

pub(super) fn extreme(
    largest: bool,
    axis: i32,
    keep_axis: bool,
    (_, shape): (DType, &Shape),
    max_rank: u64,
) -> Result<Plan> {
    let axis = shape.axis("axis", axis)?;
    let (outer, length, inner) = shape.around(axis);
    if length == 0 {
        let what = if largest { "largest" } else { "smallest" };
        return Err(Error::invalid_argument(format!("axis: {axis} of {shape} is empty, so it has no {what} element")));
    }
    let mut dims = shape.dims().to_vec();
    if keep_axis {
        dims[axis] = 1;
    } else {
        dims.remove(axis);
    }
    let work = Work::Extreme { largest, outer, length, inner };
    Ok(Plan::new(vec![(DType::S64, Shape::new(&dims, max_rank)?)], shape.elements(), 2, work))
}

pub(super) fn top_k(k: u64, axis: i32, largest: bool, (dtype, shape): (DType, &Shape), max_rank: u64) -> Result<Plan> {
    let axis = shape.axis("axis", axis)?;
    let (outer, length, inner) = shape.around(axis);
    if k > length {
        let message = format!("k: {k} is more than the {length} elements on axis {axis} of {shape}");
        return Err(Error::invalid_argument(message));
    }
    let mut dims = shape.dims().to_vec();
    dims[axis] = k;
    let result = Shape::new(&dims, max_rank)?;
    let each = 4 + u64::from(k.max(1).ilog2());
    let work = Work::TopK { outer, length, inner, k, largest };
    Ok(Plan::new(vec![(dtype, result.clone()), (DType::S64, result)], shape.elements(), each, work))
}

pub(super) fn sort(axis: i32, descending: bool, (dtype, shape): (DType, &Shape)) -> Result<Plan> {
    let (outer, length, inner) = shape.around(shape.axis("axis", axis)?);
    let each = 8 + 2 * u64::from(length.max(1).ilog2());
    let work = Work::Sort { outer, length, inner, descending };
    Ok(Plan::new(vec![(dtype, shape.clone()), (DType::S64, shape.clone())], shape.elements(), each, work))
}

pub(super) fn cumulative_sum(
    axis: i32,
    exclusive: bool,
    reverse: bool,
    (dtype, shape): (DType, &Shape),
) -> Result<Plan> {
    if dtype == DType::Boolean {
        return Err(wrong_dtype("input", dtype, "a number"));
    }
    let (outer, length, inner) = shape.around(shape.axis("axis", axis)?);
    let work = Work::CumulativeSum { outer, length, inner, exclusive, reverse };
    Ok(Plan::new(vec![(dtype, shape.clone())], shape.elements(), 2, work))
}

pub(super) fn masked_mean_pool(inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    let [(dtype, shape), (_, mask)] = inputs;
    if !dtype.is_float() {
        return Err(wrong_dtype("input", dtype, FLOATS));
    }
    let &[batch, tokens, features] = shape.dims() else {
        return Err(Error::invalid_argument(format!(
            "input: its shape is {shape}; [batch, tokens, features] is taken"
        )));
    };
    if mask.dims() != [batch, tokens] {
        return Err(Error::invalid_argument(format!(
            "mask: its shape is {mask}; [{batch}, {tokens}] is taken, the batch and tokens of the input"
        )));
    }
    let output = Shape::new(&[batch, features], max_rank)?;
    let steps = shape.elements().saturating_add(mask.elements()).saturating_add(output.elements());
    Ok(Plan::new(vec![(dtype, output)], steps, 2, Work::MaskedMeanPool { batch, tokens, features }))
}

pub(super) fn l2_normalize(axis: i32, epsilon: f32, (dtype, shape): (DType, &Shape)) -> Result<Plan> {
    if !dtype.is_float() {
        return Err(wrong_dtype("input", dtype, FLOATS));
    }
    if !(epsilon >= 0.0 && epsilon.is_finite()) {
        return Err(Error::invalid_argument(format!("epsilon: {epsilon}; a finite number of at least 0 is taken")));
    }
    let (outer, length, inner) = shape.around(shape.axis("axis", axis)?);
    let work = Work::L2Normalize { outer, length, inner, epsilon };
    Ok(Plan::new(vec![(dtype, shape.clone())], shape.elements(), 3, work))
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;
    use crate::config::Limits;

    fn plan(op: &Op, inputs: &[(DType, &[u64])]) -> Result<Plan> {
        let shapes: Vec<_> = inputs.iter().map(|(dtype, dims)| (*dtype, Shape::new(dims, 8).unwrap())).collect();
        let inputs: Vec<_> = shapes.iter().map(|(dtype, shape)| (*dtype, shape)).collect();
        op.plan(&inputs, &Limits::default())
    }

    fn outputs(op: &Op, inputs: &[(DType, &[u64])]) -> String {
        let outputs = plan(op, inputs).unwrap().outputs;
        outputs.iter().map(|(dtype, shape)| format!("{dtype}{shape}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_axis_goes_stays_or_shrinks() {
        let input = [(DType::U8, &[2, 3, 4][..])];
        assert_eq!(outputs(&Op::Argmax { axis: -2, keep_axis: false }, &input), "s64[2, 4]");
        assert_eq!(outputs(&Op::Argmax { axis: 1, keep_axis: true }, &input), "s64[2, 1, 4]");
        assert_eq!(outputs(&Op::TopK { k: 0, axis: 2, largest: true }, &input), "u8[2, 3, 0] s64[2, 3, 0]");
        let pool = [(DType::F16, &[2, 0, 5][..]), (DType::Boolean, &[2, 0])];
        assert_eq!(outputs(&Op::MaskedMeanPool, &pool), "f16[2, 5]");
        assert_eq!(outputs(&Op::Softmax { axis: 0 }, &[(DType::F64, &[0])]), "f64[0]");
    }

    #[test]
    fn what_is_not_taken_is_named() {
        for (op, inputs, part) in [
            (Op::Softmax { axis: 0 }, &[(DType::S32, &[2][..])][..], "input: its dtype is s32"),
            (Op::Softmax { axis: 0 }, &[(DType::F32, &[])], "a scalar has no axes"),
            (Op::Softmax { axis: 0 }, &[], "one tensor"),
            (Op::Argmax { axis: 0, keep_axis: true }, &[(DType::F32, &[0])], "is empty"),
            (Op::Argmax { axis: 0, keep_axis: true }, &[(DType::Text, &[1])], "text"),
            (Op::Argmin { axis: 0, keep_axis: true }, &[(DType::F32, &[0])], "it has no smallest"),
            (Op::Sort { axis: 1, descending: true }, &[(DType::F32, &[0])], "axis: 1 is out of range"),
            (Op::LogSoftmax { axis: 0 }, &[(DType::U8, &[1])], "its dtype is u8"),
            (
                Op::CumulativeSum { axis: 0, exclusive: false, reverse: false },
                &[(DType::Boolean, &[1])],
                "its dtype is boolean",
            ),
            (Op::TopK { k: 3, axis: 0, largest: true }, &[(DType::F32, &[2])], "k: 3 is more than"),
            (Op::MaskedMeanPool, &[(DType::F32, &[2, 3]), (DType::U8, &[2, 3])], "[batch, tokens, features]"),
            (
                Op::MaskedMeanPool,
                &[(DType::F32, &[2, 3, 4]), (DType::U8, &[3, 2])],
                "mask: its shape is [3, 2]; [2, 3]",
            ),
            (Op::MaskedMeanPool, &[(DType::F32, &[2, 3, 4])], "two tensors"),
            (Op::L2Normalize { axis: 0, epsilon: -1.0 }, &[(DType::F32, &[2])], "epsilon"),
            (Op::L2Normalize { axis: 0, epsilon: f32::NAN }, &[(DType::F32, &[2])], "epsilon"),
        ] {
            let message = plan(&op, inputs).unwrap_err().message().to_owned();
            assert!(message.starts_with(op.name()) && message.contains(part), "{message}");
        }
    }
}
