//! `operators`: turns the guest's calls into the device's operators; it never computes anything itself.

use super::bindings::hearth::inference::operators;
use super::bindings::hearth::inference::tensors;
use super::tensors::dtype_of_guest;
use super::{Ctx, Fault, micros_since};
use crate::device::{
    Arithmetic, Comparison, Coordinates, DType, ImageLayout, Interpolation, Logical, Op, PadMode, Reduction, Resize,
    Rounding, Suppression, Tensor, Unary, decode_image,
};
use crate::error::Error;
use std::time::Instant;
use wasmtime::component::Resource;

/// Work of more operations than this runs on another thread, so that other tasks can use the guest's. It takes some 100 µs,
/// several times what it costs to hand work to another thread and back.
const INLINE_OPERATIONS: u64 = 200_000;

type Handle = Resource<Tensor>;

impl Ctx {
    /// Runs an operator of one result.
    pub(super) async fn operate(&mut self, op: Op, inputs: Vec<Tensor>) -> Result<Handle, Fault> {
        let mut outputs = self.operate_all(op, inputs).await?.into_iter();
        match (outputs.next(), outputs.next()) {
            (Some(output), None) => Ok(output),
            _ => Err(Fault::Trap(wasmtime::Error::msg("an operator did not give one result"))),
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
            let place = self.place.clone();
            let perform = move || {
                let _place = place;
                device.perform(&account, &plan, &inputs.iter().collect::<Vec<_>>(), &stop)
            };
            let task = tokio::task::spawn_blocking(perform).await;
            task.map_err(|error| Error::host("running an operator", error))?
        };
        self.usage.operators_us += micros_since(started);
        outputs?.into_iter().map(|output| Ok(self.table.push(output)?)).collect()
    }

    /// Runs an operator of two results.
    async fn operate_two(&mut self, op: Op, inputs: Vec<Tensor>) -> Result<[Handle; 2], Fault> {
        let outputs = self.operate_all(op, inputs).await?;
        outputs.try_into().map_err(|_| Fault::Trap(wasmtime::Error::msg("an operator did not give two results")))
    }

    async fn function(&mut self, unary: Unary, input: Handle) -> Result<Handle, Fault> {
        self.unary(Op::Unary(unary), input).await
    }

    async fn reduce(
        &mut self,
        reduction: Reduction,
        input: Handle,
        axes: Vec<i32>,
        keep_axes: bool,
    ) -> Result<Handle, Fault> {
        self.unary(Op::Reduce { reduction, axes, keep_axes }, input).await
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
        operators::Interpolation::Nearest(rounding) => Interpolation::Nearest(self::rounding(rounding)),
        operators::Interpolation::Bilinear => Interpolation::Bilinear,
        operators::Interpolation::Bicubic => Interpolation::Bicubic,
        operators::Interpolation::Area => Interpolation::Area,
    }
}

fn rounding(rounding: operators::Rounding) -> Rounding {
    match rounding {
        operators::Rounding::PreferFloor => Rounding::PreferFloor,
        operators::Rounding::PreferCeil => Rounding::PreferCeil,
        operators::Rounding::Floor => Rounding::Floor,
        operators::Rounding::Ceil => Rounding::Ceil,
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
        let place = self.place.clone();
        let decode = move || {
            let _place = place;
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
        let [values, indices] = self.operate_two(Op::TopK { k, axis, largest }, vec![input]).await?;
        Ok(operators::TopKResult { values, indices })
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

    async fn split(&mut self, input: Handle, axis: i32, lengths: Vec<u64>) -> Result<Vec<Handle>, Fault> {
        let input = self.tensor(&input)?;
        self.operate_all(Op::Split { axis, lengths }, vec![input]).await
    }

    async fn gather(&mut self, input: Handle, indices: Handle, axis: i32) -> Result<Handle, Fault> {
        self.binary(Op::Gather { axis }, input, indices).await
    }

    async fn one_hot(
        &mut self,
        indices: Handle,
        depth: u64,
        axis: i32,
        dtype: tensors::Dtype,
    ) -> Result<Handle, Fault> {
        self.unary(Op::OneHot { depth, axis, dtype: dtype_of_guest(dtype) }, indices).await
    }

    async fn log_softmax(&mut self, input: Handle, axis: i32) -> Result<Handle, Fault> {
        self.unary(Op::LogSoftmax { axis }, input).await
    }

    async fn argmin(&mut self, input: Handle, axis: i32, keep_axis: bool) -> Result<Handle, Fault> {
        self.unary(Op::Argmin { axis, keep_axis }, input).await
    }

    async fn sort(&mut self, input: Handle, axis: i32, descending: bool) -> Result<operators::SortResult, Fault> {
        let input = self.tensor(&input)?;
        let [values, indices] = self.operate_two(Op::Sort { axis, descending }, vec![input]).await?;
        Ok(operators::SortResult { values, indices })
    }

    async fn cumulative_sum(
        &mut self,
        input: Handle,
        axis: i32,
        exclusive: bool,
        reverse: bool,
    ) -> Result<Handle, Fault> {
        self.unary(Op::CumulativeSum { axis, exclusive, reverse }, input).await
    }

    async fn matmul(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Matmul, a, b).await
    }

    async fn non_maximum_suppression(
        &mut self,
        boxes: Handle,
        scores: Handle,
        iou_threshold: f32,
        score_threshold: f32,
        maximum: u64,
    ) -> Result<operators::SuppressionResult, Fault> {
        let inputs = vec![self.tensor(&boxes)?, self.tensor(&scores)?];
        let suppression = Suppression { overlap: iou_threshold, score: score_threshold, maximum };
        let [indices, count] = self.operate_two(Op::NonMaximumSuppression(suppression), inputs).await?;
        Ok(operators::SuppressionResult { indices, count })
    }

    async fn select(&mut self, condition: Handle, a: Handle, b: Handle) -> Result<Handle, Fault> {
        let inputs = vec![self.tensor(&condition)?, self.tensor(&a)?, self.tensor(&b)?];
        self.operate(Op::Select, inputs).await
    }

    async fn clamp(&mut self, input: Handle, low: f64, high: f64) -> Result<Handle, Fault> {
        self.unary(Op::Clamp { low, high }, input).await
    }

    async fn reduce_sum(&mut self, input: Handle, axes: Vec<i32>, keep_axes: bool) -> Result<Handle, Fault> {
        self.reduce(Reduction::Sum, input, axes, keep_axes).await
    }

    async fn reduce_mean(&mut self, input: Handle, axes: Vec<i32>, keep_axes: bool) -> Result<Handle, Fault> {
        self.reduce(Reduction::Mean, input, axes, keep_axes).await
    }

    async fn reduce_max(&mut self, input: Handle, axes: Vec<i32>, keep_axes: bool) -> Result<Handle, Fault> {
        self.reduce(Reduction::Max, input, axes, keep_axes).await
    }

    async fn reduce_min(&mut self, input: Handle, axes: Vec<i32>, keep_axes: bool) -> Result<Handle, Fault> {
        self.reduce(Reduction::Min, input, axes, keep_axes).await
    }

    async fn reduce_l2(&mut self, input: Handle, axes: Vec<i32>, keep_axes: bool) -> Result<Handle, Fault> {
        self.reduce(Reduction::L2, input, axes, keep_axes).await
    }

    async fn power(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Power), a, b).await
    }

    async fn modulo(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Arithmetic(Arithmetic::Modulo), a, b).await
    }

    async fn equal(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Compare(Comparison::Equal), a, b).await
    }

    async fn not_equal(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Compare(Comparison::NotEqual), a, b).await
    }

    async fn less(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Compare(Comparison::Less), a, b).await
    }

    async fn less_or_equal(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Compare(Comparison::LessOrEqual), a, b).await
    }

    async fn greater(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Compare(Comparison::Greater), a, b).await
    }

    async fn greater_or_equal(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Compare(Comparison::GreaterOrEqual), a, b).await
    }

    async fn logical_and(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Logical(Logical::And), a, b).await
    }

    async fn logical_or(&mut self, a: Handle, b: Handle) -> Result<Handle, Fault> {
        self.binary(Op::Logical(Logical::Or), a, b).await
    }

    async fn logical_not(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Not, input).await
    }

    async fn abs(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Abs, input).await
    }

    async fn negate(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Negate, input).await
    }

    async fn sign(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Sign, input).await
    }

    async fn relu(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Relu, input).await
    }

    async fn exp(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Exp, input).await
    }

    async fn log(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Log, input).await
    }

    async fn sqrt(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Sqrt, input).await
    }

    async fn reciprocal(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Reciprocal, input).await
    }

    async fn floor(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Floor, input).await
    }

    async fn ceil(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Ceil, input).await
    }

    async fn round(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Round, input).await
    }

    async fn sigmoid(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Sigmoid, input).await
    }

    async fn tanh(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Tanh, input).await
    }

    async fn gelu(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Gelu, input).await
    }

    async fn erf(&mut self, input: Handle) -> Result<Handle, Fault> {
        self.function(Unary::Erf, input).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::device::{Cpu, Device, Ledger, Shape, Stop};
    use crate::error::Kind;
    use crate::interface::bindings::hearth::inference::tensors::HostTensor;
    use crate::interface::{Call, Grant, Log, Phase, Services};
    use crate::model::{Blobs, Directory, Models, Package, Resolved};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    struct Nothing;

    #[async_trait::async_trait]
    impl Directory for Nothing {
        async fn resolve(&self, _: &str, name: &str) -> crate::error::Result<Arc<Resolved>> {
            Err(Error::not_found(name.to_owned()))
        }
    }

    impl Blobs for Nothing {
        fn path(&self, _: &str) -> PathBuf {
            PathBuf::new()
        }

        fn package_folder(&self, _: &str, _: &Package) -> crate::error::Result<PathBuf> {
            Err(Error::not_found("there are no packages"))
        }
    }

    fn ctx(limits: Limits) -> Ctx {
        let device: Arc<dyn Device> = Cpu::new(Ledger::new(1 << 30), limits.clone());
        let models = Models::without_engine(&limits, device.clone(), Arc::new(Nothing), Arc::new(Nothing));
        let limits = Arc::new(limits);
        let deadline = Instant::now() + Duration::from_secs(600);
        let call = Call {
            request_id: "1".into(),
            tenant: "default".into(),
            function: "f".into(),
            grant: Arc::new(Grant::default()),
            phase: Phase::Serving,
            limits: limits.clone(),
            deadline,
            stop: Stop::new(Some(deadline)),
            log: Log::new(limits.log_bytes),
        };
        Ctx::new(Arc::new(Services { device, models: Arc::new(models), limits }), call)
    }

    #[tokio::test]
    async fn work_keeps_its_place_until_it_has_ended() {
        let mut ctx = ctx(Limits::default());
        let place = Arc::new(());
        let (taken, stop) = (Arc::downgrade(&place), ctx.call.stop.clone());
        ctx.hold(Some(place));
        let count = 1 << 22;
        let shape = Shape::new(&[count], 8).unwrap();
        let bytes: Vec<u8> = (0..count as u32).flat_map(|x| x.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let input = ctx.services.device.create(&ctx.account, DType::U32, shape, &bytes).unwrap();
        let sort = Op::Sort { axis: 0, descending: false };
        let early = tokio::time::timeout(Duration::ZERO, ctx.operate_all(sort, vec![input])).await;
        assert!(early.is_err(), "the sort is long and runs elsewhere");
        drop(ctx);
        assert!(taken.upgrade().is_some());
        stop.cancel();
        let ended = async {
            while taken.upgrade().is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
    }

    #[test]
    fn strings_are_read_within_the_limits() {
        let limits = Limits { hostcall_bytes: 10, tensor_bytes: 2 * (10 + 2 * 64), ..Limits::default() };
        let mut ctx = ctx(limits);
        let values = |first: &str| vec![first.to_owned(), "67890".to_owned()];
        let text = ctx.create_text(vec![2], values("12345")).ok().unwrap();
        let again = Handle::new_own(text.rep());
        assert_eq!(ctx.read_text(again).ok().unwrap(), values("12345"));
        assert_eq!((ctx.usage.downloaded_bytes, ctx.account.used_bytes()), (10, 138));
        let kind = |fault: Fault| match fault {
            Fault::Error(error) => error.kind(),
            Fault::Trap(trap) => panic!("{trap}"),
        };
        let longer = ctx.create_text(vec![2], values("123456")).err().unwrap();
        assert_eq!(kind(longer), Kind::LimitExceeded);
        let other = ctx.create_text(vec![], vec!["1".to_owned()]).ok().unwrap();
        let again = Handle::new_own(text.rep());
        assert_eq!(kind(ctx.read_text(again).err().unwrap()), Kind::LimitExceeded);
        HostTensor::drop(&mut ctx, other).unwrap();
        HostTensor::drop(&mut ctx, text).unwrap();
        let long = ctx.create_text(vec![2], values("123456")).ok().unwrap();
        assert_eq!(kind(ctx.read_text(long).err().unwrap()), Kind::TooLarge);
    }
}
