//! Converts the guest's types to those of hearth's device layer. It never computes, which the device does.

use std::sync::Arc;

use hearth::config::Limits;
use hearth::device as host;
use hearth::device::{
    Account, Arithmetic, Comparison, Cpu, Device, Ledger, Logical, Op, Owner, Reduction, Shape, Stop, Suppression,
    Unary,
};
use hearth_guest::testing::{Operator, ResizeOptions};
use hearth_guest::{Coordinates, DType, ImageLayout, Interpolation, PadMode, Result, Rounding, SliceRange};

use crate::to_guest;

/// The CPU device, and the account of the one invocation of a test.
pub(crate) struct Cpus {
    device: Arc<dyn Device>,
    account: Arc<Account>,
    limits: Limits,
    stop: Stop,
}

impl Cpus {
    pub(crate) fn new() -> Cpus {
        let limits = Limits::default();
        let ledger = Ledger::new(limits.device_bytes);
        let owner = Owner::Invocation { tenant: "default".into() };
        let account = ledger.account(owner, limits.tensor_bytes, limits.tensor_count);
        Cpus { device: Cpu::new(ledger, limits.clone()), account, limits, stop: Stop::default() }
    }

    fn shape(&self, dims: &[u64]) -> Result<Shape> {
        Shape::new(dims, self.limits.tensor_rank).map_err(to_guest)
    }

    pub(crate) fn create(&self, dtype: DType, shape: &[u64], bytes: &[u8]) -> Result<host::Tensor> {
        self.device.create(&self.account, to_host(dtype), self.shape(shape)?, bytes).map_err(to_guest)
    }

    pub(crate) fn create_text(&self, shape: &[u64], values: &[&str]) -> Result<host::Tensor> {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        host::Tensor::text(&self.device, &self.account, self.shape(shape)?, values).map_err(to_guest)
    }

    pub(crate) fn decode_image(&self, data: &[u8]) -> Result<host::Tensor> {
        let (shape, pixels) = host::decode_image(data, &self.account, &self.limits, &self.stop).map_err(to_guest)?;
        self.device.adopt(&self.account, host::DType::U8, shape, Box::new(pixels)).map_err(to_guest)
    }

    pub(crate) fn reshape(&self, tensor: &host::Tensor, shape: &[i64]) -> Result<host::Tensor> {
        tensor.reshape(shape, &self.limits).map_err(to_guest)
    }

    pub(crate) fn slice(&self, tensor: &host::Tensor, ranges: &[SliceRange]) -> Result<host::Tensor> {
        let range = |range: &SliceRange| host::SliceRange {
            axis: range.axis,
            start: range.start,
            end: range.end,
            step: range.step,
        };
        tensor.slice(ranges.iter().map(range).collect(), &self.limits, &self.stop).map_err(to_guest)
    }

    pub(crate) fn operate(&self, operator: Operator<'_>, inputs: &[&host::Tensor]) -> Result<Vec<host::Tensor>> {
        self.device.run(&self.account, &op(operator), inputs, &self.limits, &self.stop).map_err(to_guest)
    }
}

fn op(operator: Operator<'_>) -> Op {
    match operator {
        Operator::Resize { options } => Op::Resize(resize(options)),
        Operator::Normalize { axis, scale, offset } => {
            Op::Normalize { axis, scale: scale.to_vec(), offset: offset.to_vec() }
        }
        Operator::Cast { dtype } => Op::Cast { dtype: to_host(dtype) },
        Operator::Crop { layout, top, left, height, width } => {
            Op::Crop { layout: image_layout(layout), top, left, height, width }
        }
        Operator::Pad { before, after, mode } => {
            Op::Pad { before: before.to_vec(), after: after.to_vec(), mode: pad_mode(mode) }
        }
        Operator::Permute { axes } => Op::Permute { axes: axes.to_vec() },
        Operator::Concat { axis } => Op::Concat { axis },
        Operator::Stack { axis } => Op::Stack { axis },
        Operator::Softmax { axis } => Op::Softmax { axis },
        Operator::Argmax { axis, keep_axis } => Op::Argmax { axis, keep_axis },
        Operator::TopK { k, axis, largest } => Op::TopK { k, axis, largest },
        Operator::MaskedMeanPool {} => Op::MaskedMeanPool,
        Operator::L2Normalize { axis, epsilon } => Op::L2Normalize { axis, epsilon },
        Operator::Add {} => Op::Arithmetic(Arithmetic::Add),
        Operator::Subtract {} => Op::Arithmetic(Arithmetic::Subtract),
        Operator::Multiply {} => Op::Arithmetic(Arithmetic::Multiply),
        Operator::Divide {} => Op::Arithmetic(Arithmetic::Divide),
        Operator::Minimum {} => Op::Arithmetic(Arithmetic::Minimum),
        Operator::Maximum {} => Op::Arithmetic(Arithmetic::Maximum),
        Operator::Split { axis, lengths } => Op::Split { axis, lengths: lengths.to_vec() },
        Operator::Gather { axis } => Op::Gather { axis },
        Operator::OneHot { depth, axis, dtype } => Op::OneHot { depth, axis, dtype: to_host(dtype) },
        Operator::LogSoftmax { axis } => Op::LogSoftmax { axis },
        Operator::Argmin { axis, keep_axis } => Op::Argmin { axis, keep_axis },
        Operator::Sort { axis, descending } => Op::Sort { axis, descending },
        Operator::CumulativeSum { axis, exclusive, reverse } => Op::CumulativeSum { axis, exclusive, reverse },
        Operator::ReduceSum { axes, keep_axes } => reduce(Reduction::Sum, axes, keep_axes),
        Operator::ReduceMean { axes, keep_axes } => reduce(Reduction::Mean, axes, keep_axes),
        Operator::ReduceMax { axes, keep_axes } => reduce(Reduction::Max, axes, keep_axes),
        Operator::ReduceMin { axes, keep_axes } => reduce(Reduction::Min, axes, keep_axes),
        Operator::ReduceL2 { axes, keep_axes } => reduce(Reduction::L2, axes, keep_axes),
        Operator::Matmul {} => Op::Matmul,
        Operator::NonMaximumSuppression { iou_threshold, score_threshold, maximum } => {
            Op::NonMaximumSuppression(Suppression { overlap: iou_threshold, score: score_threshold, maximum })
        }
        Operator::Power {} => Op::Arithmetic(Arithmetic::Power),
        Operator::Modulo {} => Op::Arithmetic(Arithmetic::Modulo),
        Operator::Equal {} => Op::Compare(Comparison::Equal),
        Operator::NotEqual {} => Op::Compare(Comparison::NotEqual),
        Operator::Less {} => Op::Compare(Comparison::Less),
        Operator::LessOrEqual {} => Op::Compare(Comparison::LessOrEqual),
        Operator::Greater {} => Op::Compare(Comparison::Greater),
        Operator::GreaterOrEqual {} => Op::Compare(Comparison::GreaterOrEqual),
        Operator::LogicalAnd {} => Op::Logical(Logical::And),
        Operator::LogicalOr {} => Op::Logical(Logical::Or),
        Operator::LogicalNot {} => Op::Unary(Unary::Not),
        Operator::Select {} => Op::Select,
        Operator::Clamp { low, high } => Op::Clamp { low, high },
        Operator::Abs {} => Op::Unary(Unary::Abs),
        Operator::Negate {} => Op::Unary(Unary::Negate),
        Operator::Sign {} => Op::Unary(Unary::Sign),
        Operator::Relu {} => Op::Unary(Unary::Relu),
        Operator::Exp {} => Op::Unary(Unary::Exp),
        Operator::Log {} => Op::Unary(Unary::Log),
        Operator::Sqrt {} => Op::Unary(Unary::Sqrt),
        Operator::Reciprocal {} => Op::Unary(Unary::Reciprocal),
        Operator::Floor {} => Op::Unary(Unary::Floor),
        Operator::Ceil {} => Op::Unary(Unary::Ceil),
        Operator::Round {} => Op::Unary(Unary::Round),
        Operator::Sigmoid {} => Op::Unary(Unary::Sigmoid),
        Operator::Tanh {} => Op::Unary(Unary::Tanh),
        Operator::Gelu {} => Op::Unary(Unary::Gelu),
        Operator::Erf {} => Op::Unary(Unary::Erf),
    }
}

fn reduce(reduction: Reduction, axes: &[i32], keep_axes: bool) -> Op {
    Op::Reduce { reduction, axes: axes.to_vec(), keep_axes }
}

fn resize(options: ResizeOptions) -> host::Resize {
    host::Resize {
        height: options.height,
        width: options.width,
        layout: image_layout(options.layout),
        interpolation: match options.interpolation {
            Interpolation::Nearest(rounding) => host::Interpolation::Nearest(self::rounding(rounding)),
            Interpolation::Bilinear => host::Interpolation::Bilinear,
            Interpolation::Bicubic => host::Interpolation::Bicubic,
            Interpolation::Area => host::Interpolation::Area,
        },
        coordinates: match options.coordinates {
            Coordinates::HalfPixel => host::Coordinates::HalfPixel,
            Coordinates::PytorchHalfPixel => host::Coordinates::PytorchHalfPixel,
            Coordinates::AlignCorners => host::Coordinates::AlignCorners,
            Coordinates::Asymmetric => host::Coordinates::Asymmetric,
        },
        antialias: options.antialias,
    }
}

fn rounding(rounding: Rounding) -> host::Rounding {
    match rounding {
        Rounding::PreferFloor => host::Rounding::PreferFloor,
        Rounding::PreferCeil => host::Rounding::PreferCeil,
        Rounding::Floor => host::Rounding::Floor,
        Rounding::Ceil => host::Rounding::Ceil,
    }
}

fn image_layout(layout: ImageLayout) -> host::ImageLayout {
    match layout {
        ImageLayout::Hwc => host::ImageLayout::Hwc,
        ImageLayout::Chw => host::ImageLayout::Chw,
    }
}

fn pad_mode(mode: PadMode) -> host::PadMode {
    match mode {
        PadMode::Constant(value) => host::PadMode::Constant(value),
        PadMode::Edge => host::PadMode::Edge,
        PadMode::Reflect => host::PadMode::Reflect,
    }
}

/// The device layer's name for a dtype.
pub(crate) fn to_host(dtype: DType) -> host::DType {
    match dtype {
        DType::Boolean => host::DType::Boolean,
        DType::U8 => host::DType::U8,
        DType::S8 => host::DType::S8,
        DType::U16 => host::DType::U16,
        DType::S16 => host::DType::S16,
        DType::U32 => host::DType::U32,
        DType::S32 => host::DType::S32,
        DType::U64 => host::DType::U64,
        DType::S64 => host::DType::S64,
        DType::F16 => host::DType::F16,
        DType::Bf16 => host::DType::BF16,
        DType::F32 => host::DType::F32,
        DType::F64 => host::DType::F64,
        DType::Text => host::DType::Text,
    }
}

/// The contract's name for a dtype.
pub(crate) fn from_host(dtype: host::DType) -> DType {
    match dtype {
        host::DType::Boolean => DType::Boolean,
        host::DType::U8 => DType::U8,
        host::DType::S8 => DType::S8,
        host::DType::U16 => DType::U16,
        host::DType::S16 => DType::S16,
        host::DType::U32 => DType::U32,
        host::DType::S32 => DType::S32,
        host::DType::U64 => DType::U64,
        host::DType::S64 => DType::S64,
        host::DType::F16 => DType::F16,
        host::DType::BF16 => DType::Bf16,
        host::DType::F32 => DType::F32,
        host::DType::F64 => DType::F64,
        host::DType::Text => DType::Text,
    }
}
