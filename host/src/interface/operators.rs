//! `operators`: from the guest's calls to the device's operators; never a computation of its own.

use super::bindings::hearth::inference::operators;
use super::bindings::hearth::inference::tensors;
use super::tensors::dtype_of_guest;
use super::{Ctx, Fault, micros_since};
use crate::device::{
    Arithmetic, Coordinates, DType, ImageLayout, Interpolation, Op, PadMode, Resize, Tensor, decode_image,
};
use crate::error::Error;
use std::time::Instant;
use wasmtime::component::Resource;

/// Work of more operations than this leaves the guest's thread, so that others run meanwhile: some 100 µs, which is what
/// handing work to another thread and back costs several times over.
const INLINE_OPERATIONS: u64 = 200_000;

type Handle = Resource<Tensor>;

impl Ctx {
    /// Runs an operator of one result.
    pub(super) async fn operate(&mut self, op: Op, inputs: Vec<Tensor>) -> Result<Handle, Fault> {
        let mut outputs = self.operate_all(op, inputs).await?.into_iter();
        match (outputs.next(), outputs.next()) {
            (Some(output), None) => Ok(output),
            _ => Err(Fault::Trap(wasmtime::Error::msg("an operator of one result gave another number of them"))),
        }
    }

    async fn operate_all(&mut self, op: Op, inputs: Vec<Tensor>) -> Result<Vec<Handle>, Fault> {
        let started = Instant::now();
        let device = self.services.device.clone();
        let borrowed: Vec<&Tensor> = inputs.iter().collect();
        let plan = device.plan(&op, &borrowed, &self.call.limits)?;
        let outputs = if plan.cost.operations <= INLINE_OPERATIONS {
            let outputs = device.perform(&self.account, &plan, &borrowed, &self.call.stop);
            self.usage.inline_us += micros_since(started);
            outputs
        } else {
            let (account, stop) = (self.account.clone(), self.call.stop.clone());
            let perform = move || device.perform(&account, &plan, &inputs.iter().collect::<Vec<_>>(), &stop);
            let task = tokio::task::spawn_blocking(perform).await;
            task.map_err(|error| Error::host("running an operator", error))?
        };
        self.usage.operators_us += micros_since(started);
        outputs?.into_iter().map(|output| Ok(self.table.push(output)?)).collect()
    }

    fn tensor(&self, handle: &Handle) -> Result<Tensor, Fault> {
        Ok(self.table.get(handle)?.clone())
    }

    async fn unary(&mut self, op: Op, input: Handle) -> Result<Handle, Fault> {
        let input = self.tensor(&input)?;
        self.operate(op, vec![input]).await
    }

    async fn binary(&mut self, op: Op, a: Handle, b: Handle) -> Result<Handle, Fault> {
        let inputs = vec![self.tensor(&a)?, self.tensor(&b)?];
        self.operate(op, inputs).await
    }

    async fn joined(&mut self, op: Op, inputs: Vec<Handle>) -> Result<Handle, Fault> {
        let inputs = inputs.iter().map(|input| self.tensor(input)).collect::<Result<Vec<_>, _>>()?;
        self.operate(op, inputs).await
    }
}

fn layout(layout: operators::ImageLayout) -> ImageLayout {
    match layout {
        operators::ImageLayout::Hwc => ImageLayout::Hwc,
        operators::ImageLayout::Chw => ImageLayout::Chw,
    }
}

fn interpolation(interpolation: operators::Interpolation) -> Interpolation {
    match interpolation {
        operators::Interpolation::Nearest => Interpolation::Nearest,
        operators::Interpolation::Bilinear => Interpolation::Bilinear,
        operators::Interpolation::Bicubic => Interpolation::Bicubic,
        operators::Interpolation::Area => Interpolation::Area,
    }
}

fn coordinates(coordinates: operators::Coordinates) -> Coordinates {
    match coordinates {
        operators::Coordinates::HalfPixel => Coordinates::HalfPixel,
        operators::Coordinates::PytorchHalfPixel => Coordinates::PytorchHalfPixel,
        operators::Coordinates::AlignCorners => Coordinates::AlignCorners,
        operators::Coordinates::Asymmetric => Coordinates::Asymmetric,
    }
}

impl operators::Host for Ctx {
    async fn decode_image(&mut self, data: Vec<u8>) -> Result<Handle, Fault> {
        self.refused_in_init("operators")?;
        let started = Instant::now();
        let (services, limits) = (self.services.clone(), self.call.limits.clone());
        let (account, stop) = (self.account.clone(), self.call.stop.clone());
        let decode = move || {
            let (shape, pixels) = decode_image(&data, &account, &limits, &stop)?;
            services.device.adopt(&account, DType::U8, shape, Box::new(pixels))
        };
        let tensor =
            tokio::task::spawn_blocking(decode).await.map_err(|error| Error::host("decoding an image", error))?;
        self.usage.operators_us += micros_since(started);
        let tensor = tensor?;
        self.usage.uploaded_bytes += tensor.byte_length();
        Ok(self.table.push(tensor)?)
    }

    async fn resize(&mut self, input: Handle, options: operators::ResizeOptions) -> Result<Handle, Fault> {
        let resize = Resize {
            height: options.height,
            width: options.width,
            layout: layout(options.layout),
            interpolation: interpolation(options.interpolation),
            coordinates: coordinates(options.coordinates),
            antialias: options.antialias,
        };
        self.unary(Op::Resize(resize), input).await
    }

    async fn normalize(
        &mut self,
        input: Handle,
        axis: i32,
        scale: Vec<f32>,
        offset: Vec<f32>,
    ) -> Result<Handle, Fault> {
        self.unary(Op::Normalize { axis, scale, offset }, input).await
    }

    async fn cast(&mut self, input: Handle, dtype: tensors::Dtype) -> Result<Handle, Fault> {
        self.unary(Op::Cast { dtype: dtype_of_guest(dtype) }, input).await
    }

    async fn crop(
        &mut self,
        input: Handle,
        image: operators::ImageLayout,
        top: u64,
        left: u64,
        height: u64,
        width: u64,
    ) -> Result<Handle, Fault> {
        self.unary(Op::Crop { layout: layout(image), top, left, height, width }, input).await
    }

    async fn pad(
        &mut self,
        input: Handle,
        before: Vec<u64>,
        after: Vec<u64>,
        mode: operators::PadMode,
    ) -> Result<Handle, Fault> {
        let mode = match mode {
            operators::PadMode::Constant(value) => PadMode::Constant(value),
            operators::PadMode::Edge => PadMode::Edge,
            operators::PadMode::Reflect => PadMode::Reflect,
        };
        self.unary(Op::Pad { before, after, mode }, input).await
    }

    async fn permute(&mut self, input: Handle, axes: Vec<i32>) -> Result<Handle, Fault> {
        self.unary(Op::Permute { axes }, input).await
    }

    async fn concat(&mut self, inputs: Vec<Handle>, axis: i32) -> Result<Handle, Fault> {
        self.joined(Op::Concat { axis }, inputs).await
    }

    async fn stack(&mut self, inputs: Vec<Handle>, axis: i32) -> Result<Handle, Fault> {
        self.joined(Op::Stack { axis }, inputs).await
    }

    async fn softmax(&mut self, input: Handle, axis: i32) -> Result<Handle, Fault> {
        self.unary(Op::Softmax { axis }, input).await
    }

    async fn argmax(&mut self, input: Handle, axis: i32, keep_axis: bool) -> Result<Handle, Fault> {
        self.unary(Op::Argmax { axis, keep_axis }, input).await
    }

    async fn top_k(&mut self, input: Handle, k: u64, axis: i32, largest: bool) -> Result<operators::TopKResult, Fault> {
        let input = self.tensor(&input)?;
        let mut results = self.operate_all(Op::TopK { k, axis, largest }, vec![input]).await?.into_iter();
        match (results.next(), results.next()) {
            (Some(values), Some(indices)) => Ok(operators::TopKResult { values, indices }),
            _ => Err(Fault::Trap(wasmtime::Error::msg("top-k gave other than two results"))),
        }
    }

    async fn masked_mean_pool(&mut self, input: Handle, mask: Handle) -> Result<Handle, Fault> {
        self.binary(Op::MaskedMeanPool, input, mask).await
    }

    async fn l2_normalize(&mut self, input: Handle, axis: i32, epsilon: f32) -> Result<Handle, Fault> {
        self.unary(Op::L2Normalize { axis, epsilon }, input).await
    }

    async fn add(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Add), a, b).await
    }

    async fn subtract(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Subtract), a, b).await
    }

    async fn multiply(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Multiply), a, b).await
    }

    async fn divide(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Divide), a, b).await
    }

    async fn minimum(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Minimum), a, b).await
    }

    async fn maximum(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Maximum), a, b).await
    }
}
