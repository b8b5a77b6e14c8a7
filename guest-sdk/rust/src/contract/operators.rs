//! `operators` over the host of this thread: one table with one row for each operator. A row generates the function that the rest
//! of the crate calls and the variant of [`Operator`] that a host matches on.

#![allow(
    hidden_glob_reexports,
    reason = "of the glob only plain types are wanted; what has tensors is this module's own"
)]

use super::tensors::{Dtype, Tensor, given};
use crate::bindings::Error;
pub use crate::bindings::hearth::inference::operators::*;
use crate::testing::{Object, host};

/// The results of an operator.
trait Results: Sized {
    /// `None` if the number of results is wrong.
    fn of(results: Vec<Tensor>) -> Option<Self>;
}

impl Results for Tensor {
    fn of(mut results: Vec<Tensor>) -> Option<Tensor> {
        (results.len() == 1).then(|| results.remove(0))
    }
}

impl Results for Vec<Tensor> {
    fn of(results: Vec<Tensor>) -> Option<Vec<Tensor>> {
        Some(results)
    }
}

fn operate<R: Results>(operator: Operator<'_>, inputs: &[&Tensor]) -> Result<R, Error> {
    let objects: Vec<&Object> = inputs.iter().map(|tensor| &tensor.0).collect();
    let results = given(host().operate(operator, &objects))?;
    let results = R::of(results.into_iter().map(Tensor).collect());
    given(results.ok_or_else(|| crate::Error::internal("an operator gave a wrong number of results")))
}

pub(crate) fn decode_image(data: &[u8]) -> Result<Tensor, Error> {
    given(host().decode_image(data)).map(Tensor)
}

/// Records of several results: their fields, in the order in which the device gives them.
macro_rules! records {
    ($($record:ident { $($field:ident),* })*) => {
        $(
            pub(crate) struct $record {
                $(pub(crate) $field: Tensor,)*
            }

            impl Results for $record {
                fn of(results: Vec<Tensor>) -> Option<$record> {
                    let mut results = results.into_iter();
                    let record = $record { $($field: results.next()?,)* };
                    results.next().is_none().then_some(record)
                }
            }
        )*
    };
}

/// Rows of `function = Variant (inputs) { arguments } -> results;`, with `[inputs]` if their number is not fixed.
macro_rules! operators {
    ($(
        $name:ident = $variant:ident $(($($input:ident),+))? $([$list:ident])? { $($argument:ident: $type:ty),* } -> $results:ty;
    )*) => {
        /// An operator of `wit/operators.wit` with its arguments, without its tensors.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, reason = "the contract has them")]
        pub enum Operator<'a> {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                $variant { $($argument: $type),* },
            )*
        }

        $(
            #[allow(clippy::extra_unused_lifetimes, reason = "most operators take no list")]
            pub(crate) fn $name<'a>(
                $($($input: &Tensor,)+)?
                $($list: &[&Tensor],)?
                $($argument: $type),*
            ) -> Result<$results, Error> {
                let inputs: &[&Tensor] = $(&[$($input),+])? $($list)?;
                operate(Operator::$variant { $($argument),* }, inputs)
            }
        )*
    };
}

records! {
    TopKResult { values, indices }
    SortResult { values, indices }
    SuppressionResult { indices, count }
}

operators! {
    resize = Resize(input) { options: ResizeOptions } -> Tensor;
    normalize = Normalize(input) { axis: i32, scale: &'a [f32], offset: &'a [f32] } -> Tensor;
    cast = Cast(input) { dtype: Dtype } -> Tensor;
    crop = Crop(input) { layout: ImageLayout, top: u64, left: u64, height: u64, width: u64 } -> Tensor;
    pad = Pad(input) { before: &'a [u64], after: &'a [u64], mode: PadMode } -> Tensor;
    permute = Permute(input) { axes: &'a [i32] } -> Tensor;
    concat = Concat[inputs] { axis: i32 } -> Tensor;
    stack = Stack[inputs] { axis: i32 } -> Tensor;
    split = Split(input) { axis: i32, lengths: &'a [u64] } -> Vec<Tensor>;
    gather = Gather(input, indices) { axis: i32 } -> Tensor;
    one_hot = OneHot(indices) { depth: u64, axis: i32, dtype: Dtype } -> Tensor;
    softmax = Softmax(input) { axis: i32 } -> Tensor;
    log_softmax = LogSoftmax(input) { axis: i32 } -> Tensor;
    argmax = Argmax(input) { axis: i32, keep_axis: bool } -> Tensor;
    argmin = Argmin(input) { axis: i32, keep_axis: bool } -> Tensor;
    top_k = TopK(input) { k: u64, axis: i32, largest: bool } -> TopKResult;
    sort = Sort(input) { axis: i32, descending: bool } -> SortResult;
    cumulative_sum = CumulativeSum(input) { axis: i32, exclusive: bool, reverse: bool } -> Tensor;
    reduce_sum = ReduceSum(input) { axes: &'a [i32], keep_axes: bool } -> Tensor;
    reduce_mean = ReduceMean(input) { axes: &'a [i32], keep_axes: bool } -> Tensor;
    reduce_max = ReduceMax(input) { axes: &'a [i32], keep_axes: bool } -> Tensor;
    reduce_min = ReduceMin(input) { axes: &'a [i32], keep_axes: bool } -> Tensor;
    reduce_l2 = ReduceL2(input) { axes: &'a [i32], keep_axes: bool } -> Tensor;
    matmul = Matmul(a, b) {} -> Tensor;
    non_maximum_suppression = NonMaximumSuppression(boxes, scores) {
        iou_threshold: f32, score_threshold: f32, maximum: u64
    } -> SuppressionResult;
    masked_mean_pool = MaskedMeanPool(input, mask) {} -> Tensor;
    l2_normalize = L2Normalize(input) { axis: i32, epsilon: f32 } -> Tensor;
    add = Add(a, b) {} -> Tensor;
    subtract = Subtract(a, b) {} -> Tensor;
    multiply = Multiply(a, b) {} -> Tensor;
    divide = Divide(a, b) {} -> Tensor;
    minimum = Minimum(a, b) {} -> Tensor;
    maximum = Maximum(a, b) {} -> Tensor;
    power = Power(a, b) {} -> Tensor;
    modulo = Modulo(a, b) {} -> Tensor;
    equal = Equal(a, b) {} -> Tensor;
    not_equal = NotEqual(a, b) {} -> Tensor;
    less = Less(a, b) {} -> Tensor;
    less_or_equal = LessOrEqual(a, b) {} -> Tensor;
    greater = Greater(a, b) {} -> Tensor;
    greater_or_equal = GreaterOrEqual(a, b) {} -> Tensor;
    logical_and = LogicalAnd(a, b) {} -> Tensor;
    logical_or = LogicalOr(a, b) {} -> Tensor;
    logical_not = LogicalNot(input) {} -> Tensor;
    select = Select(condition, a, b) {} -> Tensor;
    clamp = Clamp(input) { low: f64, high: f64 } -> Tensor;
    abs = Abs(input) {} -> Tensor;
    negate = Negate(input) {} -> Tensor;
    sign = Sign(input) {} -> Tensor;
    relu = Relu(input) {} -> Tensor;
    exp = Exp(input) {} -> Tensor;
    log = Log(input) {} -> Tensor;
    sqrt = Sqrt(input) {} -> Tensor;
    reciprocal = Reciprocal(input) {} -> Tensor;
    floor = Floor(input) {} -> Tensor;
    ceil = Ceil(input) {} -> Tensor;
    round = Round(input) {} -> Tensor;
    sigmoid = Sigmoid(input) {} -> Tensor;
    tanh = Tanh(input) {} -> Tensor;
    gelu = Gelu(input) {} -> Tensor;
    erf = Erf(input) {} -> Tensor;
}
