//! Launches of elementwise functions, arithmetic, comparisons, conversions and `normalize`.

use super::super::core::blocks_of;
use super::super::parameters::{AXES, Converted, One, Two, axes};
use super::super::units::{Family, Unit};
use super::{PACK_BYTES, Task, each, lost, normalized, size_of};
use crate::device::cpu::bits_of;
use crate::device::{Arithmetic, Broadcast, Comparison, DType, Unary};
use crate::error::Result;

impl Task<'_> {
    pub(super) fn unary(&self, unary: Unary) -> Result<()> {
        let name = match unary {
            Unary::Abs => "absolute",
            Unary::Negate => "negate",
            Unary::Sign => "sign",
            Unary::Relu => "relu",
            Unary::Exp => "exponential",
            Unary::Log => "logarithm",
            Unary::Sqrt => "square_root",
            Unary::Reciprocal => "reciprocal",
            Unary::Floor => "round_down",
            Unary::Ceil => "round_up",
            Unary::Round => "round_even",
            Unary::Sigmoid => "sigmoid",
            Unary::Tanh => "hyperbolic_tangent",
            Unary::Gelu => "gelu",
            Unary::Erf => "error_function",
            Unary::Not => "logical_not",
        };
        self.one(name, [0, 0])
    }

    pub(super) fn clamp(&self, low: f64, high: f64) -> Result<()> {
        let dtype = self.input(0)?.dtype;
        self.one("clamp", [bits_of(low, dtype)?, bits_of(high, dtype)?])
    }

    fn one(&self, name: &'static str, [low, high]: [u64; 2]) -> Result<()> {
        let (input, output, count) = (self.input(0)?, self.output(0)?, self.count());
        let aligned = u32::from(input.address.is_multiple_of(PACK_BYTES));
        let parameters = One { count, input: input.address, output, low, high, aligned, unused: 0 };
        let threads = count.div_ceil(PACK_BYTES / size_of(input.dtype));
        self.launch(Unit::of(Family::Elements, input.dtype), name, blocks_of(threads), &parameters)
    }

    pub(super) fn arithmetic(&self, arithmetic: Arithmetic, broadcast: &Broadcast<2>) -> Result<()> {
        let name = match arithmetic {
            Arithmetic::Add => "add",
            Arithmetic::Subtract => "subtract",
            Arithmetic::Multiply => "multiply",
            Arithmetic::Divide => "divide",
            Arithmetic::Minimum => "minimum",
            Arithmetic::Maximum => "maximum",
            Arithmetic::Power => "power",
            Arithmetic::Modulo => "modulo",
        };
        self.two(name, broadcast)
    }

    pub(super) fn compare(&self, comparison: Comparison, broadcast: &Broadcast<2>) -> Result<()> {
        let name = match comparison {
            Comparison::Equal => "equal",
            Comparison::NotEqual => "not_equal",
            Comparison::Less => "less",
            Comparison::LessOrEqual => "less_or_equal",
            Comparison::Greater => "greater",
            Comparison::GreaterOrEqual => "greater_or_equal",
        };
        self.two(name, broadcast)
    }

    fn two(&self, name: &'static str, Broadcast { dims, strides }: &Broadcast<2>) -> Result<()> {
        let (a, b, output, count) = (self.input(0)?, self.input(1)?, self.output(0)?, self.count());
        if dims.len() > AXES {
            return Err(lost());
        }
        let mode = match &strides[..] {
            [] | [[1, 1]] => 0,
            [[1, 0]] => 1,
            [[0, 1]] => 2,
            _ => 3,
        };
        let moves = |operand: u64, stands: u32| mode == stands || operand.is_multiple_of(PACK_BYTES);
        let parameters = Two {
            count,
            a: a.address,
            b: b.address,
            output,
            mode,
            aligned: u32::from(moves(a.address, 2) && moves(b.address, 1)),
            axes: dims.len() as u32,
            unused: 0,
            dims: axes(dims.iter().copied()),
            a_strides: axes(strides.iter().map(|[a, _]| *a)),
            b_strides: axes(strides.iter().map(|[_, b]| *b)),
        };
        let threads = count.div_ceil(PACK_BYTES / size_of(a.dtype));
        self.launch(Unit::of(Family::Elements, a.dtype), name, blocks_of(threads), &parameters)
    }

    pub(super) fn cast(&self) -> Result<()> {
        let (input, output, count) = (self.input(0)?, self.output(0)?, self.count());
        let to = self.plan.outputs.first().ok_or_else(lost)?.0;
        let name = match to {
            DType::Boolean => "cast_to_boolean",
            DType::U8 => "cast_to_u8",
            DType::S8 => "cast_to_s8",
            DType::U16 => "cast_to_u16",
            DType::S16 => "cast_to_s16",
            DType::U32 => "cast_to_u32",
            DType::S32 => "cast_to_s32",
            DType::U64 => "cast_to_u64",
            DType::S64 => "cast_to_s64",
            DType::F16 => "cast_to_f16",
            DType::BF16 => "cast_to_bf16",
            DType::F32 => "cast_to_f32",
            DType::F64 => "cast_to_f64",
            DType::Text => return Err(lost()),
        };
        let each = each(input.dtype, to);
        let aligned = u32::from(input.address.is_multiple_of(each * size_of(input.dtype)));
        let parameters = Converted { count, input: input.address, output, aligned, unused: 0 };
        self.launch(Unit::of(Family::Cast, input.dtype), name, blocks_of(count.div_ceil(each)), &parameters)
    }

    /// For more channels than fit in the parameters; with fewer it waits, see [`super::super::fused`].
    pub(super) fn normalize(&mut self, inner: u64, scale: &[f32], offset: &[f32]) -> Result<()> {
        let (input, output, count) = (self.input(0)?, self.output(0)?, self.count());
        let (from, to) = (input.dtype, DType::F32);
        let mut parameters = normalized((from, input.address), (to, output), count, inner, scale.len() as u64);
        parameters.scale_table = self.numbers(scale)?;
        parameters.offset_table = self.numbers(offset)?;
        self.launch(Unit::of(Family::Cast, from), "normalize", blocks_of(count.div_ceil(each(from, to))), &parameters)
    }

    fn numbers(&mut self, numbers: &[f32]) -> Result<u64> {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        let address = self.scratch(bytes.len() as u64)?;
        self.upload_scratch(bytes)?;
        Ok(address)
    }
}
