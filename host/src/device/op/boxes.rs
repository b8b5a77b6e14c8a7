//! Shape and cost rule of `non-maximum-suppression`; it never touches elements.

use super::{FLOATS, Plan, Suppression, Work, wrong_dtype};
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn plan(suppression: Suppression, inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    let [(dtype, boxes), (other, scores)] = inputs;
    if !dtype.is_float() {
        return Err(wrong_dtype("boxes", dtype, FLOATS));
    }
    if dtype != other {
        let message = format!("scores: their dtype is {other}, but that of boxes is {dtype}; cast one of them first");
        return Err(Error::invalid_argument(message));
    }
    let &[count, 4] = boxes.dims() else {
        return Err(Error::invalid_argument(format!("boxes: their shape is {boxes}; [boxes, 4] is taken")));
    };
    if scores.dims() != [count] {
        let message = format!("scores: their shape is {scores}; [{count}] is taken, one for each box");
        return Err(Error::invalid_argument(message));
    }
    let Suppression { overlap, score, maximum } = suppression;
    if !(0.0..=1.0).contains(&overlap) {
        return Err(Error::invalid_argument(format!("iou-threshold: {overlap}; 0 to 1 is taken")));
    }
    if score.is_nan() {
        return Err(Error::invalid_argument("score-threshold: it is NaN; take -infinity to keep every score"));
    }
    let indices = Shape::new(&[maximum], max_rank)?;
    // Each box is compared with those kept before it, a few at a time.
    let each = maximum.min(count).saturating_mul(2).saturating_add(32);
    let steps = count.saturating_mul(each).saturating_add(maximum).saturating_add(1);
    let outputs = vec![(DType::S64, indices), (DType::S64, Shape::scalar())];
    Ok(Plan::new(outputs, steps, 1, Work::NonMaximumSuppression { count, suppression }))
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;
    use crate::config::Limits;

    #[test]
    fn shapes_are_fixed_and_what_is_not_taken_is_named() {
        let plan = |boxes: (DType, &[u64]), scores: (DType, &[u64]), overlap, score, maximum| {
            let shapes = [boxes.1, scores.1].map(|dims| Shape::new(dims, 8).unwrap());
            let op = Op::NonMaximumSuppression(Suppression { overlap, score, maximum });
            op.plan(&[(boxes.0, &shapes[0]), (scores.0, &shapes[1])], &Limits::default())
        };
        let planned = plan((DType::F32, &[9, 4]), (DType::F32, &[9]), 0.5, f32::NEG_INFINITY, 20).unwrap();
        let shapes: Vec<_> = planned.outputs.iter().map(|(dtype, shape)| format!("{dtype}{shape}")).collect();
        assert_eq!(shapes, ["s64[20]", "s64[]"]);
        for (result, part) in [
            (plan((DType::S32, &[9, 4]), (DType::F32, &[9]), 0.5, 0.0, 1), "boxes: its dtype is s32"),
            (plan((DType::F32, &[9, 4]), (DType::F64, &[9]), 0.5, 0.0, 1), "scores: their dtype is f64"),
            (plan((DType::F32, &[9, 5]), (DType::F32, &[9]), 0.5, 0.0, 1), "[boxes, 4]"),
            (plan((DType::F32, &[9, 4]), (DType::F32, &[9, 1]), 0.5, 0.0, 1), "[9] is taken"),
            (plan((DType::F32, &[9, 4]), (DType::F32, &[9]), 1.5, 0.0, 1), "iou-threshold: 1.5"),
            (plan((DType::F32, &[9, 4]), (DType::F32, &[9]), f32::NAN, 0.0, 1), "iou-threshold: NaN"),
            (plan((DType::F32, &[9, 4]), (DType::F32, &[9]), 0.5, f32::NAN, 1), "score-threshold"),
            (plan((DType::F32, &[9, 4]), (DType::F32, &[9]), 0.5, 0.0, u64::MAX), "too many"),
            (plan((DType::F32, &[1 << 30, 4]), (DType::F32, &[1 << 30]), 0.5, 0.0, 1 << 30), "operator_operations"),
        ] {
            let message = result.unwrap_err().message().to_owned();
            assert!(message.starts_with("non-maximum-suppression: ") && message.contains(part), "{message}");
        }
    }
}
