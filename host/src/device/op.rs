//! The operators of `wit/operators.wit` as data, with pure rules for shapes and costs; it never touches elements or
//! memory.
//!
//! [`Op::plan`] checks everything that can be known from dtypes and shapes and lowers the operator to [`Work`]: loops
//! with resolved axes and strides. Devices execute work and never look at an [`Op`] again.

mod arithmetic;
mod image;
mod lanes;
mod layout;

use super::{DType, Shape};
use crate::config::Limits;
use crate::error::{Error, Result};

/// An operator and its parameters. The meaning of each is that of its WIT item.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `resize` of one image tensor.
    Resize(Resize),
    /// `normalize`: input * scale + offset, as f32.
    Normalize {
        /// The axis of the channels.
        axis: i32,
        /// One number, or one per channel.
        scale: Vec<f32>,
        /// One number, or one per channel.
        offset: Vec<f32>,
    },
    /// `cast` to another dtype.
    Cast {
        /// The dtype of the result.
        dtype: DType,
    },
    /// `crop`: a window of an image.
    Crop {
        /// Where the channels are.
        layout: ImageLayout,
        /// The first row.
        top: u64,
        /// The first column.
        left: u64,
        /// Rows.
        height: u64,
        /// Columns.
        width: u64,
    },
    /// `pad` on every axis.
    Pad {
        /// Elements before each axis.
        before: Vec<u64>,
        /// Elements after each axis.
        after: Vec<u64>,
        /// What to fill with.
        mode: PadMode,
    },
    /// `permute`: axis i of the result is axis `axes[i]` of the input.
    Permute {
        /// Each axis once.
        axes: Vec<i32>,
    },
    /// `tensor.slice`.
    Slice {
        /// At most one range per axis.
        ranges: Vec<SliceRange>,
    },
    /// `concat` of at least one tensor along an existing axis.
    Concat {
        /// The axis.
        axis: i32,
    },
    /// `stack` of at least one tensor along a new axis.
    Stack {
        /// The new axis, an axis of the result.
        axis: i32,
    },
    /// `softmax` along one axis.
    Softmax {
        /// The axis.
        axis: i32,
    },
    /// `argmax` along one axis.
    Argmax {
        /// The axis.
        axis: i32,
        /// Whether the axis stays, with length 1.
        keep_axis: bool,
    },
    /// `top-k` along one axis; two results: values and indices.
    TopK {
        /// How many.
        k: u64,
        /// The axis.
        axis: i32,
        /// The largest ones, or else the smallest.
        largest: bool,
    },
    /// `masked-mean-pool` of an input and a mask.
    MaskedMeanPool,
    /// `l2-normalize` along one axis.
    L2Normalize {
        /// The axis.
        axis: i32,
        /// The least divisor.
        epsilon: f32,
    },
    /// `add`, `subtract`, … of two tensors that broadcast.
    Arithmetic(Arithmetic),
}

/// What `resize` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resize {
    /// Target height in pixels.
    pub height: u32,
    /// Target width in pixels.
    pub width: u32,
    /// Where the channels are.
    pub layout: ImageLayout,
    /// How samples are computed.
    pub interpolation: Interpolation,
    /// How coordinates are mapped.
    pub coordinates: Coordinates,
    /// Whether the filter widens when shrinking.
    pub antialias: bool,
}

/// How `resize` computes a new sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interpolation {
    /// The nearest sample; ties go down.
    Nearest,
    /// Linear in both directions.
    Bilinear,
    /// Cubic convolution with a = -0.75.
    Bicubic,
    /// The mean of the covered source area where an axis shrinks, else bilinear.
    Area,
}

/// How `resize` maps a target coordinate to a source coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coordinates {
    /// (x + 0.5) / scale - 0.5
    HalfPixel,
    /// As `HalfPixel`, but 0 where the target length is 1.
    PytorchHalfPixel,
    /// x * (source length - 1) / (target length - 1), and 0 where the target length is 1.
    AlignCorners,
    /// x / scale
    Asymmetric,
}

/// Where an image's channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageLayout {
    /// Height, width, channels.
    Hwc,
    /// Channels, height, width.
    Chw,
}

/// What `pad` fills with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// A number, cast to the tensor's dtype.
    Constant(f64),
    /// The value at the nearest edge.
    Edge,
    /// A mirror image that does not repeat the edge.
    Reflect,
}

/// A part of one axis: NumPy's `start:end:step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SliceRange {
    /// The axis; negative counts from the last one.
    pub axis: i32,
    /// The first index.
    pub start: i64,
    /// One past the last index.
    pub end: i64,
    /// The distance between two indices; not 0.
    pub step: i64,
}

/// An element-wise operator of two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// a + b
    Add,
    /// a - b
    Subtract,
    /// a * b
    Multiply,
    /// a / b; an integer divided by 0 is 0.
    Divide,
    /// The smaller; NaN if either is.
    Minimum,
    /// The larger; NaN if either is.
    Maximum,
}

/// What an operator will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the results that are allocated. What a device needs beside them for a while, it charges by itself.
    pub bytes: u64,
    /// Arithmetic operations and moved elements, where a transcendental function counts as several: about a nanosecond
    /// each on one core. Saturates.
    pub operations: u64,
}

/// What an operator gives, takes and does, for inputs of known dtypes and shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Dtype and shape of each result.
    pub outputs: Vec<(DType, Shape)>,
    /// What it takes.
    pub cost: Cost,
    /// What a device has to do.
    pub work: Work,
}

/// An operator lowered to loops. Sizes are elements; every product of them was checked to be addressable. Unless a
/// variant says otherwise there is one input and one result, both row-major and contiguous.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// The result is a part of the input's own bytes.
    View {
        /// Where it starts.
        byte_offset: u64,
    },
    /// Every image is resized: [images, source height, source width, channels] → [images, height, width, channels].
    /// The taps of both axes come from `resample`, and u8 results are accumulated in f32, rows first, tap by tap, so
    /// that devices agree exactly.
    Resize {
        /// Images, with the channels among them where they are planes.
        images: u64,
        /// Source height.
        source_height: u64,
        /// Source width.
        source_width: u64,
        /// Interleaved channels.
        channels: u64,
        /// Target size and filter.
        resize: Resize,
    },
    /// [outer, channels, inner] → the same as f32; `scale` and `offset` have one number per channel.
    Normalize {
        /// Elements before the axis.
        outer: u64,
        /// Elements after the axis.
        inner: u64,
        /// A factor per channel; the channels are as many as there are numbers.
        scale: Vec<f32>,
        /// A summand per channel.
        offset: Vec<f32>,
    },
    /// Each element is converted.
    Cast,
    /// Elements are picked by strides.
    Copy(StridedCopy),
    /// The input lies within the result, `before[i]` elements from the start of axis i; the rest is filled.
    Pad {
        /// The input's dimensions.
        source: Vec<u64>,
        /// Elements before each axis.
        before: Vec<u64>,
        /// What to fill with.
        mode: PadMode,
    },
    /// Any number of inputs: each of `outer` rows of the result is, for each input i, `lengths[i]` elements of it.
    Join {
        /// Rows.
        outer: u64,
        /// Elements of each input in a row.
        lengths: Vec<u64>,
    },
    /// Softmax along the middle of [outer, length, inner].
    Softmax {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
    },
    /// The index of the largest along the middle of [outer, length, inner], which is not empty.
    Argmax {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
    },
    /// The `k` largest or smallest along the middle of [outer, length, inner]. Two results: values and s64 indices,
    /// both [outer, k, inner].
    TopK {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
        /// At most `length`.
        k: u64,
        /// The largest ones, or else the smallest.
        largest: bool,
    },
    /// Two inputs: [batch, tokens, features] and the mask [batch, tokens] → [batch, features].
    MaskedMeanPool {
        /// Rows.
        batch: u64,
        /// Tokens of a row.
        tokens: u64,
        /// Numbers of a token.
        features: u64,
    },
    /// Division by the length along the middle of [outer, length, inner].
    L2Normalize {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
        /// The least divisor.
        epsilon: f32,
    },
    /// Two inputs of one dtype, read by strides.
    Arithmetic {
        /// What is computed.
        arithmetic: Arithmetic,
        /// The result's dimensions, adjacent ones joined where both inputs allow it.
        dims: Vec<u64>,
        /// Elements between neighbours of `a` along each axis: 0 where it broadcasts.
        a_strides: Vec<u64>,
        /// The same of `b`.
        b_strides: Vec<u64>,
    },
}

/// Element (i, j, …) of the result is element `start + i * strides[0] + j * strides[1] + …` of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StridedCopy {
    /// The result's dimensions without those of length 1, adjacent ones joined where the strides allow it.
    pub dims: Vec<u64>,
    /// Elements between neighbours in the input; may be negative.
    pub strides: Vec<i64>,
    /// The input's element that comes first.
    pub start: u64,
}

impl Op {
    /// The operator's name in WIT.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Resize(_) => "resize",
            Op::Normalize { .. } => "normalize",
            Op::Cast { .. } => "cast",
            Op::Crop { .. } => "crop",
            Op::Pad { .. } => "pad",
            Op::Permute { .. } => "permute",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Stack { .. } => "stack",
            Op::Softmax { .. } => "softmax",
            Op::Argmax { .. } => "argmax",
            Op::TopK { .. } => "top-k",
            Op::MaskedMeanPool => "masked-mean-pool",
            Op::L2Normalize { .. } => "l2-normalize",
            Op::Arithmetic(Arithmetic::Add) => "add",
            Op::Arithmetic(Arithmetic::Subtract) => "subtract",
            Op::Arithmetic(Arithmetic::Multiply) => "multiply",
            Op::Arithmetic(Arithmetic::Divide) => "divide",
            Op::Arithmetic(Arithmetic::Minimum) => "minimum",
            Op::Arithmetic(Arithmetic::Maximum) => "maximum",
        }
    }

    /// What this operator gives, takes and does for inputs of these dtypes and shapes.
    ///
    /// Errors: `invalid-argument` naming the argument and what it takes; `too-large` when a result has more dimensions
    /// than `tensor_rank` or cannot be addressed, or the operator takes more than `operator_operations`.
    pub fn plan(&self, inputs: &[(DType, &Shape)], limits: &Limits) -> Result<Plan> {
        self.lower(inputs, limits).map_err(|error| error.context(self.name()))
    }

    fn lower(&self, inputs: &[(DType, &Shape)], limits: &Limits) -> Result<Plan> {
        if inputs.iter().any(|(dtype, _)| *dtype == DType::Text) {
            return Err(Error::invalid_argument("input: text tensors take no operators; read them as strings"));
        }
        let rank = limits.tensor_rank;
        let plan = match self {
            Op::Resize(resize) => image::resize(*resize, one(inputs)?, rank),
            Op::Normalize { axis, scale, offset } => image::normalize(*axis, scale, offset, one(inputs)?),
            Op::Cast { dtype } => layout::cast(*dtype, one(inputs)?),
            Op::Crop { layout, top, left, height, width } => {
                layout::crop(*layout, [*top, *left], [*height, *width], one(inputs)?, rank)
            }
            Op::Pad { before, after, mode } => layout::pad(before, after, *mode, one(inputs)?, rank),
            Op::Permute { axes } => layout::permute(axes, one(inputs)?, rank),
            Op::Slice { ranges } => layout::slice(ranges, one(inputs)?, rank),
            Op::Concat { axis } => layout::concat(*axis, inputs, rank),
            Op::Stack { axis } => layout::stack(*axis, inputs, rank),
            Op::Softmax { axis } => lanes::softmax(*axis, one(inputs)?),
            Op::Argmax { axis, keep_axis } => lanes::argmax(*axis, *keep_axis, one(inputs)?, rank),
            Op::TopK { k, axis, largest } => lanes::top_k(*k, *axis, *largest, one(inputs)?, rank),
            Op::MaskedMeanPool => lanes::masked_mean_pool(two(inputs)?, rank),
            Op::L2Normalize { axis, epsilon } => lanes::l2_normalize(*axis, *epsilon, one(inputs)?),
            Op::Arithmetic(arithmetic) => arithmetic::plan(*arithmetic, two(inputs)?, rank),
        }?;
        if plan.cost.operations > limits.operator_operations {
            return Err(Error::too_large(format!(
                "it would take {} operations; at most {} are allowed at once (operator_operations)",
                plan.cost.operations, limits.operator_operations
            )));
        }
        Ok(plan)
    }
}

impl Plan {
    /// A plan whose results are all allocated, with `each` operations for each of `count` steps.
    fn new(outputs: Vec<(DType, Shape)>, count: u64, each: u64, work: Work) -> Plan {
        let bytes = outputs.iter().map(|(dtype, shape)| shape.bytes(*dtype).unwrap_or(0)).fold(0, u64::saturating_add);
        Plan { outputs, cost: Cost { bytes, operations: count.saturating_mul(each) }, work }
    }
}

fn one<'a>(inputs: &[(DType, &'a Shape)]) -> Result<(DType, &'a Shape)> {
    match inputs {
        [input] => Ok(*input),
        _ => Err(Error::invalid_argument(format!("it takes one tensor, not {}", inputs.len()))),
    }
}

fn two<'a>(inputs: &[(DType, &'a Shape)]) -> Result<[(DType, &'a Shape); 2]> {
    match inputs {
        [a, b] => Ok([*a, *b]),
        _ => Err(Error::invalid_argument(format!("it takes two tensors, not {}", inputs.len()))),
    }
}

/// An error that names the argument `name` and its dtype, and says which ones are taken.
fn wrong_dtype(name: &str, dtype: DType, takes: &str) -> Error {
    Error::invalid_argument(format!("{name}: its dtype is {dtype}, but {takes} is taken; cast it first"))
}
