//! Shape and cost rule of `matmul`; it never touches elements.

use super::broadcast::broadcast_dims;
use super::work::Broadcast;
use super::{Plan, Work, wrong_dtype};
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

pub(super) fn plan(inputs: [(DType, &Shape); 2], max_rank: u64) -> Result<Plan> {
    let [(dtype, a), (other, b)] = inputs;
    if dtype != other {
        let message = format!("b: its dtype is {other}, but that of a is {dtype}; cast one of them first");
        return Err(Error::invalid_argument(message));
    }
    if dtype == DType::Boolean {
        return Err(wrong_dtype("a", dtype, "a number"));
    }
    for (name, shape) in [("a", a), ("b", b)] {
        if shape.rank() == 0 {
            return Err(Error::invalid_argument(format!("{name}: a scalar is no matrix; use multiply")));
        }
    }
    // A vector is a matrix of one row or one column; the result then lacks that axis.
    let (a_batch, rows, length) = match a.dims() {
        [batch @ .., rows, length] => (batch, Some(*rows), *length),
        dims => (&[][..], None, dims[0]),
    };
    let (b_batch, b_length, columns) = match b.dims() {
        [batch @ .., length, columns] => (batch, *length, Some(*columns)),
        dims => (&[][..], dims[0], None),
    };
    if length != b_length {
        return Err(Error::invalid_argument(format!(
            "b: its shape is {b}, so it has rows for {b_length} columns of a, but a {a} has {length}"
        )));
    }
    let batch = broadcast_dims(["a", "b"], [a_batch, b_batch], [a, b])?;
    let mut dims = batch.clone();
    dims.extend(rows);
    dims.extend(columns);
    let output = Shape::new(&dims, max_rank)?;
    let mut loops = Broadcast::new(&batch, [a_batch, b_batch]);
    let (mut rows, columns) = (rows.unwrap_or(1), columns.unwrap_or(1));
    // Matrices of `a` that are multiplied by the same matrix of `b` are one tall matrix.
    if loops.strides.last() == Some(&[1, 0]) {
        loops.strides.pop();
        let joined = loops.dims.pop().unwrap_or(1);
        rows *= joined;
        for [a_stride, _] in &mut loops.strides {
            // It divides evenly: the other axes are further out.
            *a_stride /= joined.max(1);
        }
    }
    let matrices = loops.dims.iter().fold(1u64, |product, dim| product.saturating_mul(*dim));
    let products = output.elements().saturating_mul(length);
    // What a vector unit of 256 bits does in a nanosecond, with a margin for slower ones.
    let products = match dtype {
        DType::F16 | DType::BF16 | DType::F32 => products / 16,
        DType::F64 => products / 8,
        _ => products,
    };
    let read = a.elements().saturating_add(b.elements());
    let steps = if output.elements() == 0 { 0 } else { read.saturating_add(matrices.saturating_mul(200)) };
    let steps = steps.saturating_add(products).saturating_add(output.elements());
    Ok(Plan::new(vec![(dtype, output)], steps, 1, Work::Matmul { batch: loops, rows, length, columns }))
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;
    use crate::config::Limits;

    fn matmul(a: (DType, &[u64]), b: (DType, &[u64])) -> Result<Plan> {
        let shapes = [a.1, b.1].map(|dims| Shape::new(dims, 8).unwrap());
        Op::Matmul.plan(&[(a.0, &shapes[0]), (b.0, &shapes[1])], &Limits::default())
    }

    #[test]
    fn shapes_follow_numpy_and_shared_matrices_make_one_tall_one() {
        let check = |a: &[u64], b: &[u64], shape: &str, sizes: [u64; 3], loops: &[[u64; 3]]| {
            let plan = matmul((DType::F32, a), (DType::F32, b)).unwrap();
            assert_eq!(plan.outputs[0].1.to_string(), shape, "{a:?} {b:?}");
            let Work::Matmul { batch, rows, length, columns } = plan.work else { panic!("{:?}", plan.work) };
            assert_eq!([rows, length, columns], sizes, "{a:?} {b:?}");
            let found: Vec<_> = batch.dims.iter().zip(batch.strides).map(|(dim, [a, b])| [*dim, a, b]).collect();
            assert_eq!(found, loops, "{a:?} {b:?}");
        };
        check(&[3], &[3], "[]", [1, 3, 1], &[]);
        check(&[2, 3], &[3], "[2]", [2, 3, 1], &[]);
        check(&[3], &[3, 4], "[4]", [1, 3, 4], &[]);
        check(&[5, 2, 3], &[3, 4], "[5, 2, 4]", [10, 3, 4], &[]);
        check(&[5, 2, 3], &[3], "[5, 2]", [10, 3, 1], &[]);
        check(&[2, 3], &[5, 3, 4], "[5, 2, 4]", [2, 3, 4], &[[5, 0, 1]]);
        check(&[7, 5, 2, 3], &[7, 1, 3, 4], "[7, 5, 2, 4]", [10, 3, 4], &[[7, 1, 1]]);
        check(&[7, 1, 2, 3], &[5, 3, 4], "[7, 5, 2, 4]", [2, 3, 4], &[[7, 1, 0], [5, 0, 1]]);
        check(&[0, 2, 3], &[3, 4], "[0, 2, 4]", [0, 3, 4], &[]);
        check(&[2, 0], &[0, 4], "[2, 4]", [2, 0, 4], &[]);
    }

    #[test]
    fn what_does_not_match_is_named() {
        let check = |a, b, part: &str| {
            let message = matmul(a, b).unwrap_err().message().to_owned();
            assert!(message.starts_with("matmul: ") && message.contains(part), "{message}");
        };
        check((DType::F32, &[2, 3]), (DType::F64, &[3, 2]), "b: its dtype is f64");
        check((DType::Boolean, &[2, 3]), (DType::Boolean, &[3, 2]), "a: its dtype is boolean");
        check((DType::F32, &[]), (DType::F32, &[3, 2]), "a: a scalar");
        check((DType::F32, &[2, 3]), (DType::F32, &[2, 3]), "rows for 2 columns");
        check((DType::F32, &[2, 3, 3]), (DType::F32, &[3, 3, 3]), "b: its shape [3, 3, 3] does not broadcast");
        check((DType::F32, &[1 << 15, 1 << 15]), (DType::F32, &[1 << 15, 1 << 15]), "operator_operations");
        check((DType::U8, &[1 << 40, 1]), (DType::U8, &[1, 1 << 40]), "too many");
    }
}
