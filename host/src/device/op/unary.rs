//! Shape and cost rules of the functions of one element; it never touches elements.

use super::{FLOATS, Plan, Unary, Work, wrong_dtype};
use crate::device::{DType, Shape};
use crate::error::{Error, Result};

impl Unary {
    /// The operator's name in WIT.
    pub(super) fn name(self) -> &'static str {
        match self {
            Unary::Abs => "abs",
            Unary::Negate => "negate",
            Unary::Sign => "sign",
            Unary::Relu => "relu",
            Unary::Exp => "exp",
            Unary::Log => "log",
            Unary::Sqrt => "sqrt",
            Unary::Reciprocal => "reciprocal",
            Unary::Floor => "floor",
            Unary::Ceil => "ceil",
            Unary::Round => "round",
            Unary::Sigmoid => "sigmoid",
            Unary::Tanh => "tanh",
            Unary::Gelu => "gelu",
            Unary::Erf => "erf",
            Unary::Not => "logical-not",
        }
    }
}

pub(super) fn plan(unary: Unary, (dtype, shape): (DType, &Shape)) -> Result<Plan> {
    let signed = dtype.is_float() || dtype.is_signed_integer();
    // f64 has no vectorised functions here; its error function is a long sum.
    let double = dtype == DType::F64;
    let (taken, takes, each) = match unary {
        Unary::Abs | Unary::Sign => (dtype != DType::Boolean, "a number", 1),
        Unary::Negate | Unary::Relu => (signed, "a signed integer or a float", 1),
        Unary::Sqrt | Unary::Reciprocal | Unary::Floor | Unary::Ceil | Unary::Round => (dtype.is_float(), FLOATS, 2),
        Unary::Exp | Unary::Log | Unary::Sigmoid | Unary::Tanh => {
            (dtype.is_float(), FLOATS, if double { 24 } else { 4 })
        }
        Unary::Gelu | Unary::Erf => (dtype.is_float(), FLOATS, if double { 200 } else { 6 }),
        Unary::Not => (dtype == DType::Boolean, "boolean", 1),
    };
    if !taken {
        return Err(wrong_dtype("input", dtype, takes));
    }
    Ok(Plan::new(vec![(dtype, shape.clone())], shape.elements(), each, Work::Unary(unary)))
}

pub(super) fn clamp(low: f64, high: f64, (dtype, shape): (DType, &Shape)) -> Result<Plan> {
    if dtype == DType::Boolean {
        return Err(wrong_dtype("input", dtype, "a number"));
    }
    if low.is_nan() || high.is_nan() || low > high {
        return Err(Error::invalid_argument(format!("low, high: {low} and {high}; low must not be greater than high")));
    }
    Ok(Plan::new(vec![(dtype, shape.clone())], shape.elements(), 1, Work::Clamp { low, high }))
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::*;
    use crate::config::Limits;

    #[test]
    fn dtypes_that_a_function_lacks_are_named() {
        let shape = Shape::new(&[2], 8).unwrap();
        for (op, dtype, part) in [
            (Op::Unary(Unary::Abs), DType::Boolean, "abs: input: its dtype is boolean"),
            (Op::Unary(Unary::Negate), DType::U8, "a signed integer or a float"),
            (Op::Unary(Unary::Relu), DType::U64, "a signed integer or a float"),
            (Op::Unary(Unary::Exp), DType::S32, "f16, bf16, f32 or f64"),
            (Op::Unary(Unary::Not), DType::U8, "logical-not: input: its dtype is u8"),
            (Op::Unary(Unary::Not), DType::Text, "text"),
            (Op::Clamp { low: 0.0, high: 1.0 }, DType::Boolean, "its dtype is boolean"),
            (Op::Clamp { low: 1.0, high: 0.0 }, DType::F32, "low, high: 1 and 0"),
            (Op::Clamp { low: f64::NAN, high: 0.0 }, DType::F32, "low, high: NaN and 0"),
        ] {
            let message = op.plan(&[(dtype, &shape)], &Limits::default()).unwrap_err().message().to_owned();
            assert!(message.contains(part), "{message}");
        }
        let bounds = Op::Clamp { low: f64::NEG_INFINITY, high: f64::INFINITY };
        assert!(bounds.plan(&[(DType::U8, &shape)], &Limits::default()).is_ok());
    }
}
