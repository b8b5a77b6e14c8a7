//! From the guest's words to those of hearth's device layer. It never computes: the device does.

use std::sync::Arc;

use hearth::config::Limits;
use hearth::device as host;
use hearth::device::{Account, Arithmetic, Cpu, Device, Ledger, Op, Owner, Shape, Stop};
use hearth_guest::testing::{Operator, ResizeOptions};
use hearth_guest::{Coordinates, DType, ImageLayout, Interpolation, PadMode, Result, SliceRange};

use crate::to_guest;

/// The CPU device and the account of the one invocation that tests are.
pub(crate) struct Cpus {
    device: Arc<dyn Device>,
    account: Arc<Account>,
    stop: Stop,
}

impl Cpus {
    pub(crate) fn new() -> Cpus {
        let limits = Limits::default();
        let ledger = Ledger::new(limits.device_bytes);
        let owner = Owner::Invocation { tenant: "default".into() };
        let account = ledger.account(owner, limits.tensor_bytes, limits.tensor_count);
        Cpus { device: Cpu::new(ledger, limits), account, stop: Stop::default() }
    }

    fn shape(&self, dims: &[u64]) -> Result<Shape> {
        Shape::new(dims, self.device.limits().tensor_rank).map_err(to_guest)
    }

    pub(crate) fn create(&self, dtype: DType, shape: &[u64], bytes: &[u8]) -> Result<host::Tensor> {
        self.device.create(&self.account, to_host(dtype), self.shape(shape)?, bytes).map_err(to_guest)
    }

    pub(crate) fn create_text(&self, shape: &[u64], values: &[&str]) -> Result<host::Tensor> {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        host::Tensor::text(&self.device, &self.account, self.shape(shape)?, values).map_err(to_guest)
    }

    pub(crate) fn decode_image(&self, data: &[u8]) -> Result<host::Tensor> {
        let (shape, pixels) =
            host::decode_image(data, &self.account, self.device.limits(), &self.stop).map_err(to_guest)?;
        self.device.adopt(&self.account, host::DType::U8, shape, Box::new(pixels)).map_err(to_guest)
    }

    pub(crate) fn slice(&self, tensor: &host::Tensor, ranges: &[SliceRange]) -> Result<host::Tensor> {
        let range = |range: &SliceRange| host::SliceRange {
            axis: range.axis,
            start: range.start,
            end: range.end,
            step: range.step,
        };
        tensor.slice(ranges.iter().map(range).collect(), &self.stop).map_err(to_guest)
    }

    pub(crate) fn operate(&self, operator: Operator<'_>, inputs: &[&host::Tensor]) -> Result<Vec<host::Tensor>> {
        self.device.run(&self.account, &op(operator), inputs, &self.stop).map_err(to_guest)
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
    }
}

fn resize(options: ResizeOptions) -> host::Resize {
    host::Resize {
        height: options.height,
        width: options.width,
        layout: image_layout(options.layout),
        interpolation: match options.interpolation {
            Interpolation::Nearest => host::Interpolation::Nearest,
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

/// The device layer's word for a dtype.
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

/// The contract's word for a dtype.
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
