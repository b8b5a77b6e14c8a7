//! Shape and cost rule of the reductions over several axes; it never touches elements.

use super::{FLOATS, Plan, Reduction, Work, wrong_dtype};
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn plan(
    reduction: Reduction,
    axes: &[i32],
    keep_axes: bool,
    (dtype, shape): (DType, &Shape),
    max_rank: u64,
) -> Result<Plan> {
    let (taken, takes) = match reduction {
        Reduction::Sum => (dtype != DType::Boolean, "a number"),
        Reduction::Mean | Reduction::L2 => (dtype.is_float(), FLOATS),
        Reduction::Max | Reduction::Min => (true, ""),
    };
    if !taken {
        return Err(wrong_dtype("input", dtype, takes));
    }
    let mut reduced = vec![axes.is_empty(); shape.rank()];
    for (index, &axis) in axes.iter().enumerate() {
        let axis = shape.axis(&format!("axes[{index}]"), axis)?;
        if std::mem::replace(&mut reduced[axis], true) {
            let message = format!("axes[{index}]: axis {axis} is listed already; name each once");
            return Err(Error::invalid_argument(message));
        }
    }
    let axes = || shape.dims().iter().copied().zip(&reduced);
    let count = axes().filter(|(_, reduced)| **reduced).map(|(dim, _)| dim).product();
    if count == 0 && matches!(reduction, Reduction::Max | Reduction::Min) {
        let message = format!("axes: a reduced axis is empty in {shape}, so it has no largest or smallest element");
        return Err(Error::invalid_argument(message));
    }
    let dims: Vec<u64> = match keep_axes {
        true => axes().map(|(dim, reduced)| if *reduced { 1 } else { dim }).collect(),
        false => axes().filter(|(_, reduced)| !**reduced).map(|(dim, _)| dim).collect(),
    };
    let output = Shape::new(&dims, max_rank)?;
    let (dims, strides) = loops(shape.dims(), &reduced);
    let rows = shape.elements() / dims.last().copied().unwrap_or(1).max(1);
    let steps = shape.elements().saturating_mul(2).saturating_add(rows.saturating_mul(8));
    let steps = steps.saturating_add(output.elements().saturating_mul(2));
    Ok(Plan::new(vec![(dtype, output)], steps, 1, Work::Reduce { reduction, dims, strides, count }))
}

/// The input's axes with their strides in the result.
fn loops(dims: &[u64], reduced: &[bool]) -> (Vec<u64>, Vec<u64>) {
    let mut joined: Vec<(u64, bool)> = Vec::with_capacity(dims.len());
    for (&dim, &reduced) in dims.iter().zip(reduced).filter(|(dim, _)| **dim != 1) {
        match joined.last_mut() {
            Some((outer, same)) if *same == reduced => *outer *= dim,
            _ => joined.push((dim, reduced)),
        }
    }
    let mut strides = vec![0; joined.len()];
    let mut stride = 1u64;
    for (to, (dim, reduced)) in strides.iter_mut().zip(&joined).rev() {
        if !reduced {
            *to = stride;
            stride *= *dim;
        }
    }
    (joined.into_iter().map(|(dim, _)| dim).collect(), strides)
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;
    use crate::config::Limits;

    fn plan(reduction: Reduction, axes: &[i32], keep_axes: bool, dtype: DType, dims: &[u64]) -> Result<Plan> {
        let op = Op::Reduce { reduction, axes: axes.to_vec(), keep_axes };
        op.plan(&[(dtype, &Shape::new(dims, 8).unwrap())], &Limits::default())
    }

    #[test]
    fn axes_go_or_stay_and_loops_join() {
        let check = |axes: &[i32], dims: &[u64], shapes: [&str; 2], loops: &[[u64; 2]]| {
            for (keep_axes, shape) in [false, true].into_iter().zip(shapes) {
                let plan = plan(Reduction::Sum, axes, keep_axes, DType::F32, dims).unwrap();
                assert_eq!(plan.outputs[0].1.to_string(), shape);
                let Work::Reduce { dims, strides, .. } = plan.work else { panic!("{:?}", plan.work) };
                let found: Vec<_> = dims.into_iter().zip(strides).map(|(dim, stride)| [dim, stride]).collect();
                assert_eq!(found, loops);
            }
        };
        check(&[], &[2, 3, 4], ["[]", "[1, 1, 1]"], &[[24, 0]]);
        check(&[-1], &[2, 3, 4], ["[2, 3]", "[2, 3, 1]"], &[[6, 1], [4, 0]]);
        check(&[0, 2], &[2, 3, 4], ["[3]", "[1, 3, 1]"], &[[2, 0], [3, 1], [4, 0]]);
        check(&[1], &[2, 3, 4], ["[2, 4]", "[2, 1, 4]"], &[[2, 4], [3, 0], [4, 1]]);
        check(&[1], &[2, 1, 4], ["[2, 4]", "[2, 1, 4]"], &[[8, 1]]);
        check(&[], &[], ["[]", "[]"], &[]);
        check(&[1], &[2, 0], ["[2]", "[2, 1]"], &[[2, 1], [0, 0]]);
    }

    #[test]
    fn what_is_not_taken_is_named() {
        for (result, part) in [
            (plan(Reduction::Sum, &[], true, DType::Boolean, &[2]), "reduce-sum: input: its dtype is boolean"),
            (plan(Reduction::Mean, &[], true, DType::S32, &[2]), "reduce-mean: input: its dtype is s32"),
            (plan(Reduction::L2, &[], true, DType::S32, &[2]), "reduce-l2: input"),
            (plan(Reduction::Max, &[0], true, DType::S32, &[0, 2]), "it has no largest"),
            (plan(Reduction::Max, &[0, -2], true, DType::S32, &[2, 2]), "axes[1]: axis 0 is listed already"),
            (plan(Reduction::Min, &[2], true, DType::S32, &[2, 2]), "axes[0]: 2 is out of range"),
        ] {
            let message = result.unwrap_err().message().to_owned();
            assert!(message.contains(part), "{message}");
        }
    }
}
