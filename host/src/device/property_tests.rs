//! Tests properties that every operator's shape and cost rule has, on generated operators and shapes, valid and invalid; it never
//! checks values, which `reference_tests` does.

use super::{
    Arithmetic, Comparison, Coordinates, Cpu, DType, Device, ImageLayout, Interpolation, Ledger, Logical, Op, Owner,
    PadMode, Reduction, Resize, Rounding, Shape, SliceRange, Stop, Suppression, Tensor, Unary,
};
use crate::config::Limits;
use crate::error::{Kind, Result};
use proptest::prelude::*;
use std::sync::Arc;

/// What an operator and its inputs are made of.
#[derive(Clone, Debug)]
struct Raw {
    which: usize,
    dims: [Vec<u64>; 3],
    /// How the shapes of further inputs follow from the first one's.
    related: [u8; 2],
    dtypes: [usize; 3],
    same_dtype: bool,
    axis: i32,
    numbers: Vec<i64>,
    floats: [f64; 2],
    flags: [bool; 3],
}

/// An operator, and dtype and dimensions of each input.
type Call = (Op, Vec<(DType, Vec<u64>)>);

const UNARY: [Unary; 16] = [
    Unary::Abs,
    Unary::Negate,
    Unary::Sign,
    Unary::Relu,
    Unary::Exp,
    Unary::Log,
    Unary::Sqrt,
    Unary::Reciprocal,
    Unary::Floor,
    Unary::Ceil,
    Unary::Round,
    Unary::Sigmoid,
    Unary::Tanh,
    Unary::Gelu,
    Unary::Erf,
    Unary::Not,
];
const ARITHMETIC: [Arithmetic; 8] = [
    Arithmetic::Add,
    Arithmetic::Subtract,
    Arithmetic::Multiply,
    Arithmetic::Divide,
    Arithmetic::Minimum,
    Arithmetic::Maximum,
    Arithmetic::Power,
    Arithmetic::Modulo,
];
const COMPARISONS: [Comparison; 6] = [
    Comparison::Equal,
    Comparison::NotEqual,
    Comparison::Less,
    Comparison::LessOrEqual,
    Comparison::Greater,
    Comparison::GreaterOrEqual,
];
const REDUCTIONS: [Reduction; 5] = [Reduction::Sum, Reduction::Mean, Reduction::Max, Reduction::Min, Reduction::L2];
const INTERPOLATIONS: [Interpolation; 7] = [
    Interpolation::Nearest(Rounding::PreferFloor),
    Interpolation::Nearest(Rounding::PreferCeil),
    Interpolation::Nearest(Rounding::Floor),
    Interpolation::Nearest(Rounding::Ceil),
    Interpolation::Bilinear,
    Interpolation::Bicubic,
    Interpolation::Area,
];
const COORDINATES: [Coordinates; 4] =
    [Coordinates::HalfPixel, Coordinates::PytorchHalfPixel, Coordinates::AlignCorners, Coordinates::Asymmetric];
/// The kinds of operators that [`Raw::call`] makes.
const OPERATORS: usize = 30;

impl Raw {
    fn number(&self, index: usize) -> i64 {
        self.numbers[index % self.numbers.len()]
    }

    fn unsigned(&self, index: usize) -> u64 {
        self.number(index) as u64
    }

    fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.unsigned(7) as usize % choices.len()]
    }

    fn dtype(&self, input: usize) -> DType {
        DType::ALL[self.dtypes[if self.same_dtype { 0 } else { input }] % DType::ALL.len()]
    }

    /// The dimensions of a further input: those of the first, some of them 1, the last of them, or others.
    fn related(&self, input: usize) -> Vec<u64> {
        let first = &self.dims[0];
        match self.related[input - 1] % 8 {
            0..3 => first.clone(),
            3 => first.iter().enumerate().map(|(axis, dim)| if axis % 2 == 0 { 1 } else { *dim }).collect(),
            4 => first[first.len() / 2..].to_vec(),
            5 => Vec::new(),
            _ => self.dims[input].clone(),
        }
    }

    fn call(&self) -> Call {
        let [layout, keep, other] = self.flags;
        let layout = if layout { ImageLayout::Hwc } else { ImageLayout::Chw };
        let axis = self.axis;
        let rank = self.dims[0].len();
        let axes: Vec<i32> = (0..rank as i32).map(|axis| axis.wrapping_add(self.axis) % (rank as i32).max(1)).collect();
        let per_axis = |from: usize| (0..rank).map(|axis| self.unsigned(from + axis)).collect::<Vec<u64>>();
        let one = vec![(self.dtype(0), self.dims[0].clone())];
        let two = || vec![one[0].clone(), (self.dtype(1), self.related(1))];
        let floats = self.floats.map(|float| float as f32);
        match self.which % OPERATORS {
            0 => {
                let resize = Resize {
                    height: self.number(0) as u32,
                    width: self.number(1) as u32,
                    layout,
                    interpolation: self.pick(&INTERPOLATIONS),
                    coordinates: COORDINATES[self.unsigned(6) as usize % 4],
                    antialias: keep,
                };
                (Op::Resize(resize), one)
            }
            1 => {
                let channels = shape_axis(&self.dims[0], axis).map_or(1, |axis| self.dims[0][axis].min(64) as usize);
                let scale = vec![floats[0]; if keep { channels } else { 1 }];
                (Op::Normalize { axis, scale, offset: vec![floats[1]; if other { channels } else { 1 }] }, one)
            }
            2 => (Op::Cast { dtype: self.dtype(1) }, one),
            3 => {
                let [top, left, height, width] = [0, 1, 2, 3].map(|index| self.unsigned(index));
                (Op::Crop { layout, top, left, height, width }, one)
            }
            4 => {
                let mode = self.pick(&[PadMode::Constant(self.floats[0]), PadMode::Edge, PadMode::Reflect]);
                (Op::Pad { before: per_axis(0), after: per_axis(3), mode }, one)
            }
            5 => (Op::Permute { axes }, one),
            6 => {
                let range = |index: usize| SliceRange {
                    axis: if keep { index as i32 } else { -1 - index as i32 },
                    start: self.number(index),
                    end: self.number(index + 1),
                    step: self.number(index + 2),
                };
                (Op::Slice { ranges: (0..self.unsigned(5) as usize % (rank + 1)).map(range).collect() }, one)
            }
            7 => (Op::Concat { axis }, [two(), vec![(self.dtype(2), self.related(2))]].concat()),
            8 => (Op::Stack { axis }, two()),
            9 => (Op::Softmax { axis }, one),
            10 => (Op::Argmax { axis, keep_axis: keep }, one),
            11 => (Op::TopK { k: self.unsigned(0), axis, largest: keep }, one),
            12 => {
                let mask = self.dims[0].get(..2).unwrap_or_default().to_vec();
                (Op::MaskedMeanPool, vec![one[0].clone(), (self.dtype(1), mask)])
            }
            13 => (Op::L2Normalize { axis, epsilon: floats[0] }, one),
            14 | 15 => (Op::Arithmetic(self.pick(&ARITHMETIC)), two()),
            16 => (Op::Compare(self.pick(&COMPARISONS)), two()),
            17 => (Op::Logical(if keep { Logical::And } else { Logical::Or }), two()),
            18 => {
                let condition = (if other { DType::Boolean } else { self.dtype(2) }, self.related(2));
                (Op::Select, [vec![condition], two()].concat())
            }
            19 => (Op::Unary(self.pick(&UNARY)), one),
            20 => (Op::Clamp { low: self.floats[0], high: self.floats[1] }, one),
            21 => {
                let whole = shape_axis(&self.dims[0], axis).map_or(0, |axis| self.dims[0][axis]);
                let first = self.unsigned(0).min(whole);
                let lengths = if keep { vec![first, whole - first] } else { per_axis(0) };
                (Op::Split { axis, lengths }, one)
            }
            22 => {
                let index = if other { DType::S64 } else { self.dtype(1) };
                (Op::Gather { axis }, vec![one[0].clone(), (index, self.dims[1].clone())])
            }
            23 => {
                let index = if other { DType::U8 } else { self.dtype(0) };
                let op = Op::OneHot { depth: self.unsigned(0), axis, dtype: self.dtype(1) };
                (op, vec![(index, self.dims[0].clone())])
            }
            24 => (Op::LogSoftmax { axis }, one),
            25 => (Op::Argmin { axis, keep_axis: keep }, one),
            26 => (Op::Sort { axis, descending: keep }, one),
            27 => (Op::CumulativeSum { axis, exclusive: keep, reverse: other }, one),
            28 => {
                let some = axes[..self.unsigned(1) as usize % (rank + 1)].to_vec();
                (Op::Reduce { reduction: self.pick(&REDUCTIONS), axes: some, keep_axes: keep }, one)
            }
            29 if keep => {
                let mut b = self.related(1);
                let rank = b.len();
                if other && rank >= 2 {
                    b.swap(rank - 1, rank - 2);
                }
                (Op::Matmul, vec![one[0].clone(), (self.dtype(1), b)])
            }
            _ => {
                let count = self.dims[1].first().copied().unwrap_or(0);
                let suppression = Suppression { overlap: floats[0], score: floats[1], maximum: self.unsigned(0) };
                let boxes = if other { vec![count, 4] } else { self.dims[0].clone() };
                let inputs = vec![(self.dtype(0), boxes), (self.dtype(1), vec![count])];
                (Op::NonMaximumSuppression(suppression), inputs)
            }
        }
    }
}

fn shape_axis(dims: &[u64], axis: i32) -> Option<usize> {
    let rank = dims.len() as i32;
    (-rank..rank).contains(&axis).then(|| axis.rem_euclid(rank.max(1)) as usize)
}

fn raw(
    dim: impl Strategy<Value = u64> + Clone + 'static,
    number: impl Strategy<Value = i64> + 'static,
    axis: impl Strategy<Value = i32> + 'static,
    most_rank: usize,
) -> impl Strategy<Value = Raw> {
    let dims = || prop::collection::vec(dim.clone(), 0..=most_rank);
    let float = prop_oneof![Just(0.0), Just(0.5), Just(1.0), any::<f64>()];
    (
        0..OPERATORS,
        [dims(), dims(), dims()],
        any::<[u8; 2]>(),
        [0..DType::ALL.len(), 0..DType::ALL.len(), 0..DType::ALL.len()],
        prop::bool::weighted(0.8),
        axis,
        prop::collection::vec(number, 8),
        [float.clone(), float],
        any::<[bool; 3]>(),
    )
        .prop_map(|(which, dims, related, dtypes, same_dtype, axis, numbers, floats, flags)| Raw {
            which,
            dims,
            related,
            dtypes,
            same_dtype,
            axis,
            numbers,
            floats,
            flags,
        })
}

/// Any call that a guest may make.
fn wild() -> impl Strategy<Value = Raw> {
    let dim = prop_oneof![
        4 => 0..6u64,
        2 => prop::sample::select(vec![1 << 16, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 40, 1 << 59, 1 << 63, u64::MAX]),
        1 => any::<u64>(),
    ];
    let number = prop_oneof![
        4 => -3..8i64,
        2 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, i64::MAX, -1, 1 << 31, 1 << 32, 1 << 40, 1 << 61]),
        1 => any::<i64>(),
    ];
    let axis = prop_oneof![6 => -9..9i32, 1 => prop::sample::select(vec![i32::MIN, i32::MAX])];
    raw(dim, number, axis, 9)
}

/// Calls that an operator is likely to accept, small enough to run.
fn small() -> impl Strategy<Value = Raw> {
    let dim = prop_oneof![1 => Just(0u64), 3 => Just(1u64), 8 => 2..6u64];
    raw(dim, prop_oneof![8 => 0..4i64, 1 => -5..9i64], -3..3i32, 4)
}

fn shapes(inputs: &[(DType, Vec<u64>)]) -> Result<Vec<(DType, Shape)>> {
    inputs.iter().map(|(dtype, dims)| Ok((*dtype, Shape::new(dims, 8)?))).collect()
}

/// A tensor of pseudo-random bytes, which are 0 or 1 for booleans.
fn tensor(device: &Cpu, account: &Arc<super::Account>, dtype: DType, shape: &Shape, seed: u64) -> Result<Tensor> {
    let length = shape.bytes(dtype).unwrap_or(0);
    let byte = |index: u64| (index.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 7) as u8;
    let bytes: Vec<u8> = match dtype {
        DType::Boolean => (0..length).map(|index| byte(index) & 1).collect(),
        // So that most of them are valid indices.
        dtype if dtype.is_integer() && seed.is_multiple_of(2) => vec![0; length as usize],
        _ => (0..length).map(byte).collect(),
    };
    device.create(account, dtype, shape.clone(), &bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_rule_panics_and_what_it_allows_is_within_the_limits(raw in wild()) {
        let (op, inputs) = raw.call();
        let Ok(inputs) = shapes(&inputs) else { return Ok(()) };
        let limits = Limits::default();
        let described: Vec<_> = inputs.iter().map(|(dtype, shape)| (*dtype, shape)).collect();
        let Ok(plan) = op.plan(&described, &limits) else { return Ok(()) };
        let bytes = |(dtype, shape): &(DType, Shape)| shape.bytes(*dtype).unwrap_or(0);
        prop_assert!(!plan.outputs.is_empty());
        prop_assert!(plan.outputs.iter().all(|(dtype, shape)| {
            *dtype != DType::Text && shape.rank() as u64 <= limits.tensor_rank
        }), "{:?}", plan.outputs);
        prop_assert!(inputs.iter().all(|(dtype, _)| *dtype != DType::Text));
        prop_assert!(plan.cost.operations <= limits.operator_operations);
        if plan.work.views().is_empty() {
            let written = plan.outputs.iter().map(bytes).fold(0, u64::saturating_add);
            prop_assert_eq!(plan.cost.bytes, written);
            let most = plan.outputs.iter().map(|(_, shape)| shape.elements()).max().unwrap_or(0);
            prop_assert!(plan.cost.operations >= most, "{:?} writes {most} elements", plan.cost);
        } else {
            let whole = bytes(&inputs[0]);
            for (offset, output) in plan.work.views().iter().zip(&plan.outputs) {
                prop_assert!(offset + bytes(output) <= whole, "a view is within its tensor");
            }
            prop_assert_eq!(plan.cost.bytes, 0);
        }
    }

    #[test]
    fn a_device_returns_what_was_planned_and_charges_what_it_costs(raw in small(), seed in any::<u64>()) {
        let (op, inputs) = raw.call();
        let inputs = shapes(&inputs).unwrap();
        let described: Vec<_> = inputs.iter().map(|(dtype, shape)| (*dtype, shape)).collect();
        let limits = Limits::default();
        let plan = op.plan(&described, &limits);
        if inputs.iter().any(|(dtype, _)| *dtype == DType::Text) {
            prop_assert_eq!(plan.unwrap_err().kind(), Kind::InvalidArgument);
            return Ok(());
        }
        let memory = 1 << 26;
        let device = Cpu::new(Ledger::new(memory), Limits::default());
        let account = device.ledger().account(Owner::Invocation { tenant: "default".into() }, memory, 100);
        let stop = Stop::default();
        let tensors: Vec<Tensor> = inputs
            .iter()
            .map(|(dtype, shape)| tensor(&device, &account, *dtype, shape, seed))
            .collect::<Result<_>>()
            .unwrap();
        let tensors: Vec<&Tensor> = tensors.iter().collect();
        let before = account.used_bytes();
        let result = device.run(&account, &op, &tensors, &limits, &stop);
        match (plan, result) {
            (Err(planned), Err(ran)) => {
                prop_assert_eq!(planned.message(), ran.message());
                prop_assert_eq!(account.peak_bytes(), before, "refused before anything was allocated");
            }
            (Err(planned), Ok(_)) => prop_assert!(false, "{planned} but it ran"),
            (Ok(plan), Err(ran)) if before + plan.cost.bytes > memory => {
                prop_assert_eq!(ran.kind(), Kind::LimitExceeded);
                prop_assert_eq!(account.peak_bytes(), before, "refused before anything was allocated");
            }
            // Now only the values of the tensors can be wrong.
            (Ok(_), Err(ran)) => {
                prop_assert!(matches!(op, Op::Gather { .. } | Op::OneHot { .. }), "{ran}");
                prop_assert_eq!(ran.kind(), Kind::InvalidArgument);
                prop_assert!(ran.message().contains("indices"), "{}", ran);
            }
            (Ok(plan), Ok(outputs)) => {
                let found: Vec<_> = outputs.iter().map(|output| (output.dtype(), output.shape().clone())).collect();
                prop_assert_eq!(&found, &plan.outputs);
                prop_assert_eq!(account.used_bytes() - before, plan.cost.bytes);
                for output in &outputs {
                    let bytes = output.read(0..output.byte_length()).unwrap();
                    let boolean = output.dtype() == DType::Boolean;
                    prop_assert!(!boolean || bytes.iter().all(|byte| *byte <= 1), "a boolean is 0 or 1");
                }
                drop(outputs);
                // With one byte less than the results take, nothing is computed.
                if plan.cost.bytes > 0 {
                    let short = device.ledger().account(Owner::Workspace, plan.cost.bytes - 1, 100);
                    let error = device.perform(&short, &plan, &tensors, &stop).unwrap_err();
                    prop_assert_eq!(error.kind(), Kind::LimitExceeded);
                    prop_assert_eq!(short.used_bytes(), 0);
                    prop_assert!(short.peak_bytes() < plan.cost.bytes);
                }
            }
        }
        prop_assert_eq!(account.used_bytes(), before, "nothing was left behind");
    }

    #[test]
    fn dimensions_never_overflow(dims in prop::collection::vec(prop_oneof![any::<u64>(), 0..9u64, Just(1u64 << 32)], 0..12)) {
        match Shape::new(&dims, 8) {
            Err(error) => prop_assert_eq!(error.kind(), Kind::TooLarge),
            Ok(shape) => {
                let exact = dims.iter().map(|dim| u128::from(*dim)).product::<u128>();
                prop_assert_eq!(u128::from(shape.elements()), exact);
                let bytes = shape.bytes(DType::F64).unwrap();
                prop_assert!(bytes <= isize::MAX as u64 && dims.len() <= 8);
                let all: Vec<i64> = dims.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect();
                if all.iter().all(|dim| *dim < i64::MAX) {
                    prop_assert_eq!(shape.reshaped(&all, 8).unwrap(), shape);
                }
            }
        }
    }
}
