//! A planned operator: loops with resolved axes and strides; it never checks anything.

use super::{Arithmetic, Comparison, PadMode, Reduction, Resize, Suppression, Unary};

/// An operator lowered to loops. Sizes are elements; every product of them was checked to be addressable. Unless a
/// variant says otherwise there is one input and one result, both row-major and contiguous.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// The result is a part of the input's own bytes.
    View {
        /// Where it starts.
        byte_offset: u64,
    },
    /// Each result is a part of the input's own bytes.
    Views {
        /// Where each starts.
        byte_offsets: Vec<u64>,
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
    /// The input is placed within the result, `before[i]` elements from the start of axis i; the rest is filled.
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
    /// Logarithm of the softmax along the middle of [outer, length, inner].
    LogSoftmax {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
    },
    /// The index of the first NaN or else of the largest or smallest along the middle of [outer, length, inner], which is
    /// not empty.
    Extreme {
        /// The largest, or else the smallest.
        largest: bool,
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
    /// All elements along the middle of [outer, length, inner], sorted. Two results: values and s64 indices.
    Sort {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
        /// The largest first.
        descending: bool,
    },
    /// Sums of the elements before (or, in reverse, after) each element along the middle of [outer, length, inner]. Floats are
    /// added up in f64.
    CumulativeSum {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
        /// Whether each sum leaves out its own element.
        exclusive: bool,
        /// Whether sums start at the axis' end.
        reverse: bool,
    },
    /// Each element (i, j, …) of the input, in order, is reduced into element `i * strides[0] + j * strides[1] + …` of the
    /// result. Floats are added up in f64.
    Reduce {
        /// What is computed.
        reduction: Reduction,
        /// The input's dimensions without those of length 1, adjacent ones joined where both or neither are reduced.
        dims: Vec<u64>,
        /// Elements between neighbours in the result: 0 where an axis is reduced.
        strides: Vec<u64>,
        /// Elements of the input for each of the result.
        count: u64,
    },
    /// Two inputs: [outer, length, inner] and indices → [outer, indices, inner]. Each index is -length to length - 1.
    Gather {
        /// Elements before the axis.
        outer: u64,
        /// The axis' length.
        length: u64,
        /// Elements after the axis.
        inner: u64,
    },
    /// Each of `outer` rows of the input is cut into runs: result i has `lengths[i]` elements of each.
    Split {
        /// Rows.
        outer: u64,
        /// Elements of a row in each result.
        lengths: Vec<u64>,
    },
    /// Indices [outer, inner] → [outer, depth, inner] of 1 where the index is, else 0. Each index is -depth to depth - 1.
    OneHot {
        /// Elements before the new axis.
        outer: u64,
        /// The new axis' length.
        depth: u64,
        /// Elements after the new axis.
        inner: u64,
    },
    /// Two inputs: [.., rows, length] and [.., length, columns] → [.., rows, columns]. Products of f16, bf16 and f32 are
    /// added up in f32.
    Matmul {
        /// How the axes before the matrices are read, in matrices instead of elements.
        batch: Broadcast<2>,
        /// Rows of `a`.
        rows: u64,
        /// Columns of `a`, rows of `b`.
        length: u64,
        /// Columns of `b`.
        columns: u64,
    },
    /// Two inputs: boxes [count, 4] and scores [count]. Two results: s64 indices [maximum], filled with -1 after the last, and
    /// s64 [].
    NonMaximumSuppression {
        /// Boxes.
        count: u64,
        /// What is kept.
        suppression: Suppression,
    },
    /// A function of each element.
    Unary(Unary),
    /// Each element within bounds, which are numbers cast to its dtype.
    Clamp {
        /// The least value.
        low: f64,
        /// The largest value.
        high: f64,
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
    /// Two inputs of one dtype.
    Arithmetic {
        /// What is computed.
        arithmetic: Arithmetic,
        /// How the inputs are read.
        broadcast: Broadcast<2>,
    },
    /// Two inputs of one dtype; the result is boolean.
    Compare {
        /// The comparison.
        comparison: Comparison,
        /// How the inputs are read.
        broadcast: Broadcast<2>,
    },
    /// Three inputs: a condition and two of one dtype, the first is taken where it is true, the second where it is false.
    Select(Broadcast<3>),
}

impl Work {
    /// Where each result starts within the input, if all are parts of it; otherwise empty.
    pub(in crate::device) fn views(&self) -> &[u64] {
        match self {
            Work::View { byte_offset } => std::slice::from_ref(byte_offset),
            Work::Views { byte_offsets } => byte_offsets,
            _ => &[],
        }
    }
}

/// Element (i, j, …) of the result is computed from element `i * strides[0] + j * strides[1] + …` of each input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast<const N: usize> {
    /// The result's dimensions without those of length 1, adjacent ones joined where all inputs allow it.
    pub dims: Vec<u64>,
    /// Elements between neighbours of each input along each axis: 0 where it broadcasts.
    pub strides: Vec<[u64; N]>,
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
