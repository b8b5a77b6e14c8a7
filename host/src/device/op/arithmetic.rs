//! Broadcasting: the shape and cost rule of the operators of two tensors.

use super::{Arithmetic, Plan, Work, wrong_dtype};
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn plan(arithmetic: Arithmetic, inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    let [(dtype, a), (b_dtype, b)] = inputs;
    if dtype != b_dtype {
        let message = format!("b: its dtype is {b_dtype}, but that of a is {dtype}; cast one of them first");
        return Err(Error::invalid_argument(message));
    }
    let chooses = matches!(arithmetic, Arithmetic::Minimum | Arithmetic::Maximum);
    if dtype == DType::Boolean && !chooses {
        return Err(wrong_dtype("a", dtype, "a number"));
    }
    let rank = a.rank().max(b.rank());
    let (a_dims, b_dims) = (aligned(a, rank), aligned(b, rank));
    let mut dims = Vec::with_capacity(rank);
    for (&m, &n) in a_dims.iter().zip(&b_dims) {
        dims.push(match (m, n) {
            (1, n) => n,
            (m, 1) => m,
            (m, n) if m == n => m,
            _ => return Err(Error::invalid_argument(format!("b: its shape {b} does not broadcast with {a} of a"))),
        });
    }
    let output = Shape::new(&dims, max_rank)?;
    let (a_strides, b_strides) = (strides(&a_dims, &dims), strides(&b_dims, &dims));
    let count = output.elements();
    let work = joined(arithmetic, &dims, &a_strides, &b_strides);
    Ok(Plan::new(vec![(dtype, output)], count, 1, work))
}

/// Dimensions with 1s before them up to a rank.
fn aligned(shape: &Shape, rank: usize) -> Vec<u64> {
    let mut dims = vec![1; rank - shape.rank()];
    dims.extend_from_slice(shape.dims());
    dims
}

/// Row-major strides, but 0 where a dimension of 1 repeats.
fn strides(own: &[u64], result: &[u64]) -> Vec<u64> {
    let mut strides = vec![0; own.len()];
    let mut stride = 1u64;
    for axis in (0..own.len()).rev() {
        if own[axis] == result[axis] {
            strides[axis] = stride;
        }
        stride *= own[axis].max(1);
    }
    strides
}

/// Drops axes of length 1 and joins neighbours that both inputs walk as one.
fn joined(arithmetic: Arithmetic, dims: &[u64], a: &[u64], b: &[u64]) -> Work {
    let mut result: Vec<[u64; 3]> = Vec::with_capacity(dims.len());
    for axis in (0..dims.len()).filter(|axis| dims[*axis] != 1) {
        let [dim, a, b] = [dims[axis], a[axis], b[axis]];
        match result.last_mut() {
            Some([outer, outer_a, outer_b]) if *outer_a == a * dim && *outer_b == b * dim => {
                (*outer, *outer_a, *outer_b) = (*outer * dim, a, b);
            }
            _ => result.push([dim, a, b]),
        }
    }
    let column = |index: usize| result.iter().map(|row| row[index]).collect();
    Work::Arithmetic { arithmetic, dims: column(0), a_strides: column(1), b_strides: column(2) }
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;
    use crate::config::Limits;

    fn add(a: (DType, &[u64]), b: (DType, &[u64])) -> Result<Plan> {
        let shapes = [a.1, b.1].map(|dims| Shape::new(dims, 8).unwrap());
        Op::Arithmetic(Arithmetic::Add).plan(&[(a.0, &shapes[0]), (b.0, &shapes[1])], &Limits::default())
    }

    #[test]
    fn shapes_broadcast_and_axes_join() {
        let check = |a: &[u64], b: &[u64], result: &str, loops: &[[u64; 3]]| {
            let plan = add((DType::U8, a), (DType::U8, b)).unwrap();
            assert_eq!(plan.outputs[0].1.to_string(), result);
            let Work::Arithmetic { dims, a_strides, b_strides, .. } = plan.work else { panic!("{:?}", plan.work) };
            let found: Vec<_> = (0..dims.len()).map(|axis| [dims[axis], a_strides[axis], b_strides[axis]]).collect();
            assert_eq!(found, loops, "{a:?} {b:?}");
        };
        check(&[], &[], "[]", &[]);
        check(&[2, 3, 4], &[2, 3, 4], "[2, 3, 4]", &[[24, 1, 1]]);
        check(&[2, 3, 4], &[], "[2, 3, 4]", &[[24, 1, 0]]);
        check(&[2, 3, 4], &[4], "[2, 3, 4]", &[[6, 4, 0], [4, 1, 1]]);
        check(&[2, 3, 1], &[4], "[2, 3, 4]", &[[6, 1, 0], [4, 0, 1]]);
        check(&[3, 1, 5], &[1, 4, 5], "[3, 4, 5]", &[[3, 5, 0], [4, 0, 5], [5, 1, 1]]);
        check(&[1, 0], &[3, 1], "[3, 0]", &[[3, 0, 1], [0, 1, 0]]);
        check(&[1, 1, 7], &[1, 7], "[1, 1, 7]", &[[7, 1, 1]]);
    }

    #[test]
    fn what_does_not_match_is_named() {
        let check = |a, b, part: &str| {
            let message = add(a, b).unwrap_err().message().to_owned();
            assert!(message.contains(part), "{message}");
        };
        check((DType::U8, &[2, 3]), (DType::U8, &[2]), "b: its shape [2] does not broadcast with [2, 3]");
        check((DType::U8, &[0]), (DType::U8, &[2]), "does not broadcast");
        check((DType::U8, &[2]), (DType::S8, &[2]), "b: its dtype is s8");
        check((DType::Boolean, &[2]), (DType::Boolean, &[2]), "a: its dtype is boolean");
        check((DType::U8, &[1 << 30, 1]), (DType::U8, &[1, 1 << 31]), "too many elements");
    }
}
