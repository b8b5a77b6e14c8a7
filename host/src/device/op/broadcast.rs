//! Broadcasting: the shape and cost rules of the operators of two and three tensors; it never touches elements.

use super::work::Broadcast;
use super::{Arithmetic, Comparison, Logical, Plan, Work, wrong_dtype};
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn arithmetic(arithmetic: Arithmetic, inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    let dtype = same_dtype(["a", "b"], inputs)?;
    let (taken, takes, each) = match arithmetic {
        Arithmetic::Add | Arithmetic::Subtract | Arithmetic::Multiply | Arithmetic::Divide => {
            (dtype != DType::Boolean, "a number", 1)
        }
        Arithmetic::Minimum | Arithmetic::Maximum => (true, "", 1),
        Arithmetic::Power => (dtype.is_float(), super::FLOATS, 32),
        Arithmetic::Modulo => (dtype.is_integer(), "an integer", 4),
    };
    if !taken {
        return Err(wrong_dtype("a", dtype, takes));
    }
    let (output, broadcast) = together(["a", "b"], inputs.map(|(_, shape)| shape), max_rank)?;
    let count = output.elements();
    Ok(Plan::new(vec![(dtype, output)], count, each, Work::Arithmetic { arithmetic, broadcast }))
}

pub(super) fn compare(comparison: Comparison, inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    same_dtype(["a", "b"], inputs)?;
    let (output, broadcast) = together(["a", "b"], inputs.map(|(_, shape)| shape), max_rank)?;
    let count = output.elements();
    Ok(Plan::new(vec![(DType::Boolean, output)], count, 1, Work::Compare { comparison, broadcast }))
}

pub(super) fn logical(logical: Logical, inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    if inputs[0].0 != DType::Boolean {
        return Err(wrong_dtype("a", inputs[0].0, "boolean"));
    }
    // The minimum of two booleans is true where both are true, the maximum where one is.
    match logical {
        Logical::And => arithmetic(Arithmetic::Minimum, inputs, max_rank),
        Logical::Or => arithmetic(Arithmetic::Maximum, inputs, max_rank),
    }
}

pub(super) fn select(inputs: [(DType, &Shape); 3], max_rank: u64) -> Result<Plan> {
    let [condition, a, b] = inputs;
    if condition.0 != DType::Boolean {
        return Err(wrong_dtype("condition", condition.0, "boolean"));
    }
    let dtype = same_dtype(["a", "b"], [a, b])?;
    let (output, broadcast) = together(["condition", "a", "b"], inputs.map(|(_, shape)| shape), max_rank)?;
    let count = output.elements();
    Ok(Plan::new(vec![(dtype, output)], count, 1, Work::Select(broadcast)))
}

fn same_dtype(names: [&str; 2], [(dtype, _), (other, _)]: [(DType, &Shape); 2]) -> Result<DType> {
    if dtype != other {
        let [a, b] = names;
        let message = format!("{b}: its dtype is {other}, but that of {a} is {dtype}; cast one of them first");
        return Err(Error::invalid_argument(message));
    }
    Ok(dtype)
}

/// The shape that all broadcast to, and the loops over it.
fn together<const N: usize>(names: [&str; N], shapes: [&Shape; N], max_rank: u64) -> Result<(Shape, Broadcast<N>)> {
    let dims = broadcast_dims(names, shapes.map(Shape::dims), shapes)?;
    let output = Shape::new(&dims, max_rank)?;
    Ok((output, Broadcast::new(&dims, shapes.map(Shape::dims))))
}

/// The dimensions that `parts`, the broadcasting ones of `shapes`, broadcast to.
pub(super) fn broadcast_dims<const N: usize>(
    names: [&str; N],
    parts: [&[u64]; N],
    shapes: [&Shape; N],
) -> Result<Vec<u64>> {
    let rank = parts.iter().map(|dims| dims.len()).max().unwrap_or(0);
    let mut result = vec![1; rank];
    for (index, dims) in parts.iter().enumerate() {
        for (to, &dim) in result[rank - dims.len()..].iter_mut().zip(*dims) {
            *to = match (*to, dim) {
                (1, dim) => dim,
                (found, 1) => found,
                (found, dim) if found == dim => found,
                _ => {
                    let (name, shape) = (names[index], shapes[index]);
                    let before: Vec<_> = names
                        .iter()
                        .zip(shapes)
                        .take(index)
                        .map(|(name, shape)| format!("{shape} of {name}"))
                        .collect();
                    return Err(Error::invalid_argument(format!(
                        "{name}: its shape {shape} does not broadcast with {}",
                        before.join(" and ")
                    )));
                }
            };
        }
    }
    Ok(result)
}

impl<const N: usize> Broadcast<N> {
    /// Loops over `dims`, to which each of `inputs` broadcasts. Drops axes of length 1 and joins neighbours that all
    /// inputs walk as one.
    pub(super) fn new(dims: &[u64], inputs: [&[u64]; N]) -> Broadcast<N> {
        let strides = inputs.map(|own| strides(own, dims));
        let mut joined: Broadcast<N> = Broadcast { dims: Vec::new(), strides: Vec::new() };
        for axis in (0..dims.len()).filter(|axis| dims[*axis] != 1) {
            let (dim, own): (u64, [u64; N]) = (dims[axis], std::array::from_fn(|input| strides[input][axis]));
            match (joined.dims.last_mut(), joined.strides.last_mut()) {
                (Some(outer), Some(outer_strides)) if *outer_strides == own.map(|stride| stride * dim) => {
                    (*outer, *outer_strides) = (*outer * dim, own);
                }
                _ => {
                    joined.dims.push(dim);
                    joined.strides.push(own);
                }
            }
        }
        joined
    }
}

/// Row-major strides along the axes of the result, but 0 where a dimension of 1 repeats or is missing.
fn strides(own: &[u64], result: &[u64]) -> Vec<u64> {
    let mut strides = vec![0; result.len()];
    let missing = result.len() - own.len();
    let mut stride = 1u64;
    for axis in (0..own.len()).rev() {
        if own[axis] == result[missing + axis] {
            strides[missing + axis] = stride;
        }
        stride *= own[axis].max(1);
    }
    strides
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
            let Work::Arithmetic { broadcast: Broadcast { dims, strides }, .. } = plan.work else {
                panic!("{:?}", plan.work)
            };
            let found: Vec<_> = dims.iter().zip(strides).map(|(dim, [a, b])| [*dim, a, b]).collect();
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

    #[test]
    fn three_tensors_broadcast_too() {
        let plan = |inputs: [(DType, &[u64]); 3]| {
            let shapes = inputs.map(|(_, dims)| Shape::new(dims, 8).unwrap());
            let inputs: Vec<_> = inputs.iter().zip(&shapes).map(|((dtype, _), shape)| (*dtype, shape)).collect();
            Op::Select.plan(&inputs, &Limits::default())
        };
        let planned = plan([(DType::Boolean, &[3, 1]), (DType::U8, &[1, 4]), (DType::U8, &[])]).unwrap();
        assert_eq!(planned.outputs[0].1.to_string(), "[3, 4]");
        assert_eq!(planned.work, Work::Select(Broadcast { dims: vec![3, 4], strides: vec![[1, 0, 0], [0, 1, 0]] }));
        for (inputs, part) in [
            ([(DType::U8, &[2][..]), (DType::U8, &[2]), (DType::U8, &[2])], "condition: its dtype is u8"),
            ([(DType::Boolean, &[2]), (DType::U8, &[2]), (DType::S8, &[2])], "b: its dtype is s8"),
            ([(DType::Boolean, &[2]), (DType::U8, &[1]), (DType::U8, &[3])], "[2] of condition and [1] of a"),
        ] {
            let message = plan(inputs).unwrap_err().message().to_owned();
            assert!(message.contains(part), "{message}");
        }
    }
}
