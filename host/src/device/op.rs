//! The operators of `wit/operators.wit` as data, with pure rules for shapes and costs; it never touches elements or
//! memory.
//!
//! [`Op::plan`] checks everything that can be known from dtypes and shapes and lowers the operator to [`Work`]: loops with
//! resolved axes and strides. Devices execute work and never see an [`Op`].

mod boxes;
mod broadcast;
mod image;
mod indexing;
mod lanes;
mod layout;
mod matmul;
mod reduce;
mod unary;
mod work;

pub(super) use indexing::index_out_of_range;
pub use work::{Broadcast, StridedCopy, Work};

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
    /// `equal`, `less`, … of two tensors that broadcast.
    Compare(Comparison),
    /// `logical-and` and `logical-or` of two tensors that broadcast.
    Logical(Logical),
    /// `select` of a condition and two tensors, all of which broadcast.
    Select,
    /// `abs`, `exp`, … of each element.
    Unary(Unary),
    /// `clamp` of each element.
    Clamp {
        /// The least value; negative infinity for none.
        low: f64,
        /// The largest value; infinity for none.
        high: f64,
    },
    /// `split` along one axis; as many results as there are lengths.
    Split {
        /// The axis.
        axis: i32,
        /// The axis' length in each result.
        lengths: Vec<u64>,
    },
    /// `gather` of an input and indices.
    Gather {
        /// The axis of the input that the indices count along.
        axis: i32,
    },
    /// `one-hot` of indices.
    OneHot {
        /// The new axis' length.
        depth: u64,
        /// The new axis, an axis of the result.
        axis: i32,
        /// The dtype of the result.
        dtype: DType,
    },
    /// `log-softmax` along one axis.
    LogSoftmax {
        /// The axis.
        axis: i32,
    },
    /// `argmin` along one axis.
    Argmin {
        /// The axis.
        axis: i32,
        /// Whether the axis stays, with length 1.
        keep_axis: bool,
    },
    /// `sort` along one axis; two results: values and indices.
    Sort {
        /// The axis.
        axis: i32,
        /// The largest first.
        descending: bool,
    },
    /// `cumulative-sum` along one axis.
    CumulativeSum {
        /// The axis.
        axis: i32,
        /// Whether each sum leaves out its own element.
        exclusive: bool,
        /// Whether sums start at the axis' end.
        reverse: bool,
    },
    /// `reduce-sum`, `reduce-max`, … over several axes.
    Reduce {
        /// What is computed.
        reduction: Reduction,
        /// The axes; none means all.
        axes: Vec<i32>,
        /// Whether the axes stay, with length 1.
        keep_axes: bool,
    },
    /// `matmul` of two tensors.
    Matmul,
    /// `non-maximum-suppression` of boxes and scores; two results: indices and their number.
    NonMaximumSuppression(Suppression),
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
    /// The nearest sample.
    Nearest(Rounding),
    /// Linear in both directions.
    Bilinear,
    /// Cubic convolution with a = -0.75.
    Bicubic,
    /// The mean of the covered source area where an axis shrinks, else bilinear.
    Area,
}

/// Which of the two neighbouring samples is the nearest to a source coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// The nearer one; the lower of two equally near ones.
    PreferFloor,
    /// The nearer one; the upper of two equally near ones.
    PreferCeil,
    /// The lower one.
    Floor,
    /// The upper one.
    Ceil,
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
    /// a to the power of b; floats only.
    Power,
    /// The remainder of floored division, with the sign of b; integers only; 0 if b is 0.
    Modulo,
}

/// An element-wise comparison of two tensors. Nothing equals NaN, and nothing is less or greater than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// a == b
    Equal,
    /// a != b
    NotEqual,
    /// a < b
    Less,
    /// a <= b
    LessOrEqual,
    /// a > b
    Greater,
    /// a >= b
    GreaterOrEqual,
}

/// An element-wise operator of two booleans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Logical {
    /// Both.
    And,
    /// At least one.
    Or,
}

/// A function of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// Without its sign; the smallest integer stays. Any number.
    Abs,
    /// -x; the smallest integer stays. Signed integers and floats.
    Negate,
    /// -1, 0 or 1; NaN stays. Any number.
    Sign,
    /// 0 where it is less. Signed integers and floats.
    Relu,
    /// e to the power of x.
    Exp,
    /// The natural logarithm.
    Log,
    /// The square root.
    Sqrt,
    /// 1 / x
    Reciprocal,
    /// The largest whole number that is not larger.
    Floor,
    /// The smallest whole number that is not smaller.
    Ceil,
    /// The nearest whole number, ties to even.
    Round,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// x / 2 * (1 + erf(x / sqrt(2)))
    Gelu,
    /// The error function.
    Erf,
    /// The other boolean.
    Not,
}

/// What a reduction computes from the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Their sum; integers wrap.
    Sum,
    /// Their mean; floats only.
    Mean,
    /// The largest; NaN if any is.
    Max,
    /// The smallest; NaN if any is.
    Min,
    /// The root of the sum of their squares; floats only.
    L2,
}

/// What `non-maximum-suppression` keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suppression {
    /// A box that overlaps a better one by more than this part of their union is dropped; 0 to 1.
    pub overlap: f32,
    /// Boxes whose score is not greater than this are dropped.
    pub score: f32,
    /// The most boxes that are kept.
    pub maximum: u64,
}

/// What an operator will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the results that are allocated. A device charges further temporary memory by itself.
    pub bytes: u64,
    /// Arithmetic operations and moved elements, where a transcendental function counts as several: about a nanosecond
    /// each on one core. Saturates.
    pub operations: u64,
}

/// The results, the cost and the work of an operator, for inputs of known dtypes and shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Dtype and shape of each result.
    pub outputs: Vec<(DType, Shape)>,
    /// What it takes.
    pub cost: Cost,
    /// What a device has to do.
    pub work: Work,
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
            Op::Arithmetic(Arithmetic::Power) => "power",
            Op::Arithmetic(Arithmetic::Modulo) => "modulo",
            Op::Compare(Comparison::Equal) => "equal",
            Op::Compare(Comparison::NotEqual) => "not-equal",
            Op::Compare(Comparison::Less) => "less",
            Op::Compare(Comparison::LessOrEqual) => "less-or-equal",
            Op::Compare(Comparison::Greater) => "greater",
            Op::Compare(Comparison::GreaterOrEqual) => "greater-or-equal",
            Op::Logical(Logical::And) => "logical-and",
            Op::Logical(Logical::Or) => "logical-or",
            Op::Select => "select",
            Op::Unary(unary) => unary.name(),
            Op::Clamp { .. } => "clamp",
            Op::Split { .. } => "split",
            Op::Gather { .. } => "gather",
            Op::OneHot { .. } => "one-hot",
            Op::LogSoftmax { .. } => "log-softmax",
            Op::Argmin { .. } => "argmin",
            Op::Sort { .. } => "sort",
            Op::CumulativeSum { .. } => "cumulative-sum",
            Op::Reduce { reduction: Reduction::Sum, .. } => "reduce-sum",
            Op::Reduce { reduction: Reduction::Mean, .. } => "reduce-mean",
            Op::Reduce { reduction: Reduction::Max, .. } => "reduce-max",
            Op::Reduce { reduction: Reduction::Min, .. } => "reduce-min",
            Op::Reduce { reduction: Reduction::L2, .. } => "reduce-l2",
            Op::Matmul => "matmul",
            Op::NonMaximumSuppression(_) => "non-maximum-suppression",
        }
    }

    /// The results, the cost and the work of this operator for inputs of these dtypes and shapes.
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
            Op::Argmax { axis, keep_axis } => lanes::extreme(true, *axis, *keep_axis, one(inputs)?, rank),
            Op::TopK { k, axis, largest } => lanes::top_k(*k, *axis, *largest, one(inputs)?, rank),
            Op::MaskedMeanPool => lanes::masked_mean_pool(two(inputs)?, rank),
            Op::L2Normalize { axis, epsilon } => lanes::l2_normalize(*axis, *epsilon, one(inputs)?),
            Op::Arithmetic(arithmetic) => broadcast::arithmetic(*arithmetic, two(inputs)?, rank),
            Op::Compare(comparison) => broadcast::compare(*comparison, two(inputs)?, rank),
            Op::Logical(logical) => broadcast::logical(*logical, two(inputs)?, rank),
            Op::Select => broadcast::select(three(inputs)?, rank),
            Op::Unary(unary) => unary::plan(*unary, one(inputs)?),
            Op::Clamp { low, high } => unary::clamp(*low, *high, one(inputs)?),
            Op::Split { axis, lengths } => indexing::split(*axis, lengths, one(inputs)?, limits),
            Op::Gather { axis } => indexing::gather(*axis, two(inputs)?, rank),
            Op::OneHot { depth, axis, dtype } => indexing::one_hot(*depth, *axis, *dtype, one(inputs)?, rank),
            Op::LogSoftmax { axis } => lanes::log_softmax(*axis, one(inputs)?),
            Op::Argmin { axis, keep_axis } => lanes::extreme(false, *axis, *keep_axis, one(inputs)?, rank),
            Op::Sort { axis, descending } => lanes::sort(*axis, *descending, one(inputs)?),
            Op::CumulativeSum { axis, exclusive, reverse } => {
                lanes::cumulative_sum(*axis, *exclusive, *reverse, one(inputs)?)
            }
            Op::Reduce { reduction, axes, keep_axes } => reduce::plan(*reduction, axes, *keep_axes, one(inputs)?, rank),
            Op::Matmul => matmul::plan(two(inputs)?, rank),
            Op::NonMaximumSuppression(suppression) => boxes::plan(*suppression, two(inputs)?, rank),
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

fn three<'a>(inputs: &[(DType, &'a Shape)]) -> Result<[(DType, &'a Shape); 3]> {
    match inputs {
        [a, b, c] => Ok([*a, *b, *c]),
        _ => Err(Error::invalid_argument(format!("it takes three tensors, not {}", inputs.len()))),
    }
}

/// The dtypes that most functions of floats take, for messages.
const FLOATS: &str = "f16, bf16, f32 or f64";

/// An error that names the argument `name` and its dtype, and says which ones are taken.
fn wrong_dtype(name: &str, dtype: DType, takes: &str) -> Error {
    Error::invalid_argument(format!("{name}: its dtype is {dtype}, but {takes} is taken; cast it first"))
}
