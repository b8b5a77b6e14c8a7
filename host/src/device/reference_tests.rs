//! Runs the table of `tests/python/operators.py` on every device that is present, and checks that the table has every dtype and
//! rank of every operator; it never computes expected results itself.

use super::{
    Arithmetic, Comparison, Coordinates, Cpu, DType, Device, ImageLayout, Interpolation, Ledger, Logical, Op, Owner,
    PadMode, Reduction, Resize, Rounding, Shape, SliceRange, Stop, Suppression, Tensor, Unary,
};
use crate::config::Limits;
use crate::error::Error;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

#[derive(Deserialize)]
struct Table {
    seed: u64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    call: Call,
    inputs: Vec<Stored>,
    #[serde(default)]
    outputs: Vec<Expected>,
    error: Option<String>,
    #[serde(default)]
    mentions: String,
}

#[derive(Deserialize)]
struct Stored {
    dtype: String,
    shape: Vec<u64>,
    offset: usize,
}

#[derive(Deserialize)]
struct Expected {
    #[serde(flatten)]
    stored: Stored,
    check: Check,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Check {
    Exact,
    Relative(f64),
    Close(f64),
    Rounded(f64),
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Call {
    Resize {
        height: u32,
        width: u32,
        layout: String,
        interpolation: String,
        rounding: Option<String>,
        coordinates: String,
        antialias: bool,
    },
    Normalize {
        axis: i32,
        scale: Vec<f32>,
        offset: Vec<f32>,
    },
    Cast {
        dtype: String,
    },
    Crop {
        layout: String,
        top: u64,
        left: u64,
        height: u64,
        width: u64,
    },
    Pad {
        before: Vec<u64>,
        after: Vec<u64>,
        mode: String,
        bits: Option<u64>,
    },
    Permute {
        axes: Vec<i32>,
    },
    Slice {
        ranges: Vec<Range>,
    },
    Reshape {
        shape: Vec<i64>,
    },
    Concat {
        axis: i32,
    },
    Stack {
        axis: i32,
    },
    Softmax {
        axis: i32,
    },
    Argmax {
        axis: i32,
        keep_axis: bool,
    },
    TopK {
        k: u64,
        axis: i32,
        largest: bool,
    },
    MaskedMeanPool,
    L2Normalize {
        axis: i32,
        epsilon: f32,
    },
    Add,
    Subtract,
    Multiply,
    Divide,
    Minimum,
    Maximum,
    Power,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    LogicalAnd,
    LogicalOr,
    LogicalNot,
    Select,
    Clamp {
        low: String,
        high: String,
    },
    Abs,
    Negate,
    Sign,
    Relu,
    Exp,
    Log,
    Sqrt,
    Reciprocal,
    Floor,
    Ceil,
    Round,
    Sigmoid,
    Tanh,
    Gelu,
    Erf,
    Split {
        axis: i32,
        lengths: Vec<u64>,
    },
    Gather {
        axis: i32,
    },
    OneHot {
        depth: u64,
        axis: i32,
        dtype: String,
    },
    LogSoftmax {
        axis: i32,
    },
    Argmin {
        axis: i32,
        keep_axis: bool,
    },
    Sort {
        axis: i32,
        descending: bool,
    },
    CumulativeSum {
        axis: i32,
        exclusive: bool,
        reverse: bool,
    },
    ReduceSum {
        axes: Vec<i32>,
        keep_axes: bool,
    },
    ReduceMean {
        axes: Vec<i32>,
        keep_axes: bool,
    },
    ReduceMax {
        axes: Vec<i32>,
        keep_axes: bool,
    },
    ReduceMin {
        axes: Vec<i32>,
        keep_axes: bool,
    },
    ReduceL2 {
        axes: Vec<i32>,
        keep_axes: bool,
    },
    Matmul,
    NonMaximumSuppression {
        iou_threshold: f32,
        score_threshold: String,
        maximum: u64,
    },
}

#[derive(Deserialize)]
struct Range {
    axis: i32,
    start: i64,
    end: i64,
    step: i64,
}

fn layout(word: &str) -> ImageLayout {
    match word {
        "hwc" => ImageLayout::Hwc,
        "chw" => ImageLayout::Chw,
        _ => panic!("no layout is called {word}"),
    }
}

fn nearest(word: &str) -> Rounding {
    match word {
        "prefer-floor" => Rounding::PreferFloor,
        "prefer-ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        _ => panic!("no rounding is called {word}"),
    }
}

const ROUNDINGS: [Rounding; 4] = [Rounding::PreferFloor, Rounding::PreferCeil, Rounding::Floor, Rounding::Ceil];
const COORDINATES: [Coordinates; 4] =
    [Coordinates::HalfPixel, Coordinates::PytorchHalfPixel, Coordinates::AlignCorners, Coordinates::Asymmetric];

/// With `nearest`: the roundings that rows must distinguish, and the same operator with each of the other roundings.
fn other_roundings(op: &Op) -> Vec<(String, Op)> {
    let Op::Resize(resize) = op else { return Vec::new() };
    let Interpolation::Nearest(own) = resize.interpolation else { return Vec::new() };
    let with = |other: Rounding| {
        let resize = Resize { interpolation: Interpolation::Nearest(other), ..*resize };
        (told_apart(resize.coordinates, own, other), Op::Resize(resize))
    };
    ROUNDINGS.into_iter().filter(|other| *other != own).map(with).collect()
}

fn told_apart(coordinates: Coordinates, own: Rounding, other: Rounding) -> String {
    format!("resize with {coordinates:?} whose result is that of {own:?} and not of {other:?}")
}

fn reduce(reduction: Reduction, axes: &[i32], keep_axes: bool) -> Op {
    Op::Reduce { reduction, axes: axes.to_vec(), keep_axes }
}

impl Call {
    /// The operator; none for a reshape, which is a method of tensors.
    fn op(&self) -> Option<Op> {
        Some(match self {
            Call::Resize { height, width, layout: word, interpolation, rounding, coordinates, antialias } => {
                Op::Resize(Resize {
                    height: *height,
                    width: *width,
                    layout: layout(word),
                    interpolation: match (interpolation.as_str(), rounding.as_deref()) {
                        ("nearest", Some(word)) => Interpolation::Nearest(nearest(word)),
                        ("bilinear", None) => Interpolation::Bilinear,
                        ("bicubic", None) => Interpolation::Bicubic,
                        ("area", None) => Interpolation::Area,
                        (word, rounding) => panic!("no interpolation is called {word} with {rounding:?}"),
                    },
                    coordinates: match coordinates.as_str() {
                        "half-pixel" => Coordinates::HalfPixel,
                        "pytorch-half-pixel" => Coordinates::PytorchHalfPixel,
                        "align-corners" => Coordinates::AlignCorners,
                        "asymmetric" => Coordinates::Asymmetric,
                        word => panic!("no coordinates are called {word}"),
                    },
                    antialias: *antialias,
                })
            }
            Call::Normalize { axis, scale, offset } => {
                Op::Normalize { axis: *axis, scale: scale.clone(), offset: offset.clone() }
            }
            Call::Cast { dtype } => Op::Cast { dtype: DType::from_word(dtype).unwrap() },
            Call::Crop { layout: word, top, left, height, width } => {
                Op::Crop { layout: layout(word), top: *top, left: *left, height: *height, width: *width }
            }
            Call::Pad { before, after, mode, bits } => Op::Pad {
                before: before.clone(),
                after: after.clone(),
                mode: match mode.as_str() {
                    "constant" => PadMode::Constant(f64::from_bits(bits.unwrap())),
                    "edge" => PadMode::Edge,
                    "reflect" => PadMode::Reflect,
                    word => panic!("no mode is called {word}"),
                },
            },
            Call::Permute { axes } => Op::Permute { axes: axes.clone() },
            Call::Slice { ranges } => {
                let range = |range: &Range| {
                    let Range { axis, start, end, step } = *range;
                    SliceRange { axis, start, end, step }
                };
                Op::Slice { ranges: ranges.iter().map(range).collect() }
            }
            Call::Reshape { .. } => return None,
            Call::Concat { axis } => Op::Concat { axis: *axis },
            Call::Stack { axis } => Op::Stack { axis: *axis },
            Call::Softmax { axis } => Op::Softmax { axis: *axis },
            Call::Argmax { axis, keep_axis } => Op::Argmax { axis: *axis, keep_axis: *keep_axis },
            Call::TopK { k, axis, largest } => Op::TopK { k: *k, axis: *axis, largest: *largest },
            Call::MaskedMeanPool => Op::MaskedMeanPool,
            Call::L2Normalize { axis, epsilon } => Op::L2Normalize { axis: *axis, epsilon: *epsilon },
            Call::Add => Op::Arithmetic(Arithmetic::Add),
            Call::Subtract => Op::Arithmetic(Arithmetic::Subtract),
            Call::Multiply => Op::Arithmetic(Arithmetic::Multiply),
            Call::Divide => Op::Arithmetic(Arithmetic::Divide),
            Call::Minimum => Op::Arithmetic(Arithmetic::Minimum),
            Call::Maximum => Op::Arithmetic(Arithmetic::Maximum),
            Call::Power => Op::Arithmetic(Arithmetic::Power),
            Call::Modulo => Op::Arithmetic(Arithmetic::Modulo),
            Call::Equal => Op::Compare(Comparison::Equal),
            Call::NotEqual => Op::Compare(Comparison::NotEqual),
            Call::Less => Op::Compare(Comparison::Less),
            Call::LessOrEqual => Op::Compare(Comparison::LessOrEqual),
            Call::Greater => Op::Compare(Comparison::Greater),
            Call::GreaterOrEqual => Op::Compare(Comparison::GreaterOrEqual),
            Call::LogicalAnd => Op::Logical(Logical::And),
            Call::LogicalOr => Op::Logical(Logical::Or),
            Call::LogicalNot => Op::Unary(Unary::Not),
            Call::Select => Op::Select,
            Call::Clamp { low, high } => Op::Clamp { low: low.parse().unwrap(), high: high.parse().unwrap() },
            Call::Abs => Op::Unary(Unary::Abs),
            Call::Negate => Op::Unary(Unary::Negate),
            Call::Sign => Op::Unary(Unary::Sign),
            Call::Relu => Op::Unary(Unary::Relu),
            Call::Exp => Op::Unary(Unary::Exp),
            Call::Log => Op::Unary(Unary::Log),
            Call::Sqrt => Op::Unary(Unary::Sqrt),
            Call::Reciprocal => Op::Unary(Unary::Reciprocal),
            Call::Floor => Op::Unary(Unary::Floor),
            Call::Ceil => Op::Unary(Unary::Ceil),
            Call::Round => Op::Unary(Unary::Round),
            Call::Sigmoid => Op::Unary(Unary::Sigmoid),
            Call::Tanh => Op::Unary(Unary::Tanh),
            Call::Gelu => Op::Unary(Unary::Gelu),
            Call::Erf => Op::Unary(Unary::Erf),
            Call::Split { axis, lengths } => Op::Split { axis: *axis, lengths: lengths.clone() },
            Call::Gather { axis } => Op::Gather { axis: *axis },
            Call::OneHot { depth, axis, dtype } => {
                Op::OneHot { depth: *depth, axis: *axis, dtype: DType::from_word(dtype).unwrap() }
            }
            Call::LogSoftmax { axis } => Op::LogSoftmax { axis: *axis },
            Call::Argmin { axis, keep_axis } => Op::Argmin { axis: *axis, keep_axis: *keep_axis },
            Call::Sort { axis, descending } => Op::Sort { axis: *axis, descending: *descending },
            Call::CumulativeSum { axis, exclusive, reverse } => {
                Op::CumulativeSum { axis: *axis, exclusive: *exclusive, reverse: *reverse }
            }
            Call::ReduceSum { axes, keep_axes } => reduce(Reduction::Sum, axes, *keep_axes),
            Call::ReduceMean { axes, keep_axes } => reduce(Reduction::Mean, axes, *keep_axes),
            Call::ReduceMax { axes, keep_axes } => reduce(Reduction::Max, axes, *keep_axes),
            Call::ReduceMin { axes, keep_axes } => reduce(Reduction::Min, axes, *keep_axes),
            Call::ReduceL2 { axes, keep_axes } => reduce(Reduction::L2, axes, *keep_axes),
            Call::Matmul => Op::Matmul,
            Call::NonMaximumSuppression { iou_threshold, score_threshold, maximum } => {
                Op::NonMaximumSuppression(Suppression {
                    overlap: *iou_threshold,
                    score: score_threshold.parse().unwrap(),
                    maximum: *maximum,
                })
            }
        })
    }
}

impl Stored {
    fn dtype(&self) -> DType {
        DType::from_word(&self.dtype).unwrap()
    }

    fn bytes<'a>(&self, dtype: DType, data: &'a [u8]) -> &'a [u8] {
        let length = Shape::new(&self.shape, 32).unwrap().bytes(dtype).unwrap() as usize;
        &data[self.offset..self.offset + length]
    }
}

/// Every device of this machine, and the CUDA kernels on the CPU.
fn devices() -> Vec<Arc<dyn Device>> {
    let mut devices: Vec<Arc<dyn Device>> = vec![Cpu::new(Ledger::new(1 << 30), Limits::default())];
    #[cfg(feature = "server")]
    devices.extend(super::cuda::test_devices());
    devices
}

#[test]
fn every_operator_gives_the_reference_result_on_every_device() {
    let Some(folder) = std::env::var_os("HEARTH_OPERATOR_CASES") else {
        let how = "make a table with tests/python/operators.py SEED FOLDER and set HEARTH_OPERATOR_CASES=FOLDER";
        assert!(std::env::var_os("HEARTH_REQUIRE_REFERENCES").is_none_or(|value| value != "1"), "no table: {how}");
        eprintln!("skipped, there is no table of operators: {how}");
        return;
    };
    let folder = Path::new(&folder);
    let table: Table = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let data = std::fs::read(folder.join("data.bin")).unwrap();
    for device in devices() {
        let mut coverage = Coverage::default();
        let mut wrong = Vec::new();
        for (case, within) in table.cases.iter().flat_map(|case| [false, true].map(|within| (case, within))) {
            if let Err(why) = run(&device, case, within, &data, &mut coverage) {
                wrong.push(format!("{}\n  {why}", case.name));
            }
            if wrong.len() == MOST_SHOWN {
                break;
            }
        }
        let (count, name, seed) = (table.cases.len(), device.name(), table.seed);
        eprintln!("{count} cases of seed {seed} on {name}: {} wrong", wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let missing = coverage.missing(&table);
        eprintln!("{} combinations of operator and dtypes, each with a result that matters", coverage.noticed.len());
        assert!(missing.is_empty(), "the table lacks {} rows:\n{}", missing.len(), missing.join("\n"));
    }
}

/// The test prints at most this many wrong results, then ends.
const MOST_SHOWN: usize = 200;

/// A result and its bytes.
type Output = (Tensor, Vec<u8>);

/// What the rows of a table have shown of each operator.
#[derive(Default)]
struct Coverage {
    /// Operators with the dtypes that go in and come out, where a wrong element of each result was noticed.
    noticed: BTreeSet<String>,
    /// The ranks of the first inputs of each operator.
    ranks: BTreeMap<&'static str, BTreeSet<usize>>,
    /// Operators that had an empty input; those that had a NaN, and those that had an infinity, by dtype.
    special: BTreeSet<(&'static str, &'static str, DType)>,
    /// Roundings of `nearest`, with coordinates, that a result distinguished from another.
    told_apart: BTreeSet<String>,
}

/// Operators whose rows need neither NaN nor infinity: what these do is not specified, or they are moved like any other bits.
const PLAIN: [&str; 9] = ["resize", "crop", "pad", "permute", "slice", "concat", "stack", "split", "gather"];

impl Coverage {
    /// Records a row that gave the expected result. A result counts if the comparison would have noticed one wrong element.
    fn note(&mut self, op: &Op, inputs: &[&Tensor], outputs: &[Output], expected: &[Expected], data: &[u8]) {
        let first = inputs[0];
        self.ranks.entry(op.name()).or_default().insert(first.shape().rank());
        if first.shape().elements() == 0 {
            self.special.insert((op.name(), "empty", first.dtype()));
        }
        if first.dtype().is_float() {
            let size = first.dtype().size_bytes().unwrap() as usize;
            let bytes = first.read(0..first.byte_length()).unwrap();
            for number in bytes.chunks_exact(size).map(|bytes| number(first.dtype(), bytes)) {
                if number.is_nan() {
                    self.special.insert((op.name(), "NaN", first.dtype()));
                } else if number.is_infinite() {
                    self.special.insert((op.name(), "infinity", first.dtype()));
                }
            }
        }
        let every_result_matters = outputs.iter().zip(expected).all(|((output, bytes), expected)| {
            let mut bytes = bytes.clone();
            let count = output.shape().elements() as usize;
            if count == 0 {
                return false;
            }
            corrupt(output.dtype(), &mut bytes, count / 2, expected.check);
            compare_bytes(output.dtype(), &bytes, expected, data).is_err()
        });
        if every_result_matters {
            let given = inputs.iter().map(|input| input.dtype());
            self.noticed.insert(path(op, given, outputs.iter().map(|(output, _)| output.dtype())));
        }
    }

    /// What no row covers.
    fn missing(&self, table: &Table) -> Vec<String> {
        let limits = Limits::default();
        let mut missing = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for case in table.cases.iter().filter(|case| case.error.is_none() && (1..=3).contains(&case.inputs.len())) {
            let Some(op) = case.call.op() else { continue };
            if !seen.insert(op.name()) {
                continue;
            }
            // The row with all other dtypes, as far as the operator takes them.
            let shapes: Vec<Shape> = case.inputs.iter().map(|input| Shape::new(&input.shape, 8).unwrap()).collect();
            for dtypes in combinations(shapes.len()) {
                let inputs: Vec<(DType, &Shape)> = dtypes.iter().copied().zip(&shapes).collect();
                for op in with_results(&op) {
                    if let Ok(plan) = op.plan(&inputs, &limits) {
                        let path = path(&op, dtypes.iter().copied(), plan.outputs.iter().map(|(dtype, _)| *dtype));
                        if !self.noticed.contains(&path) {
                            missing.insert(path);
                        }
                    }
                }
            }
            let name = op.name();
            let ranks = match name {
                "resize" | "crop" => 3..=8,
                "masked-mean-pool" => 3..=3,
                "non-maximum-suppression" => 2..=2,
                "normalize" | "concat" | "softmax" | "log-softmax" | "argmax" | "argmin" | "top-k" | "sort"
                | "cumulative-sum" | "l2-normalize" | "split" | "gather" | "matmul" => 1..=8,
                "stack" | "one-hot" => 0..=7,
                _ => 0..=8,
            };
            let found = self.ranks.get(name).cloned().unwrap_or_default();
            missing.extend(ranks.filter(|rank| !found.contains(rank)).map(|rank| format!("{name} of rank {rank}")));
            let has = |what: &'static str, dtype| self.special.contains(&(name, what, dtype));
            if !DType::ALL.into_iter().any(|dtype| has("empty", dtype)) {
                missing.insert(format!("{name} of nothing"));
            }
            let floats = DType::ALL.into_iter().filter(|dtype| dtype.is_float() && !PLAIN.contains(&name));
            for dtype in
                floats.filter(|dtype| self.noticed.iter().any(|path| path.starts_with(&format!("{name} of {dtype}"))))
            {
                let lacks = |what: &'static str| (!has(what, dtype)).then(|| format!("{name} of {dtype} with {what}"));
                missing.extend([lacks("NaN"), lacks("infinity")].into_iter().flatten());
            }
        }
        for coordinates in COORDINATES {
            for (own, other) in ROUNDINGS.into_iter().flat_map(|own| ROUNDINGS.map(|other| (own, other))) {
                let told = told_apart(coordinates, own, other);
                if own != other && !self.told_apart.contains(&told) {
                    missing.insert(told);
                }
            }
        }
        missing.into_iter().collect()
    }
}

/// Every combination of `count` dtypes.
fn combinations(count: usize) -> Vec<Vec<DType>> {
    let longer = |lists: Vec<Vec<DType>>| {
        let with = |list: Vec<DType>| DType::ALL.map(|dtype| [list.clone(), vec![dtype]].concat());
        lists.into_iter().flat_map(with).collect()
    };
    (0..count).fold(vec![vec![]], |lists, _| longer(lists))
}

/// The operator with every dtype of its result, where that is a parameter.
fn with_results(op: &Op) -> Vec<Op> {
    match op {
        Op::Cast { .. } => DType::ALL.map(|dtype| Op::Cast { dtype }).to_vec(),
        Op::OneHot { depth, axis, .. } => {
            DType::ALL.map(|dtype| Op::OneHot { depth: *depth, axis: *axis, dtype }).to_vec()
        }
        other => vec![other.clone()],
    }
}

fn path(op: &Op, given: impl Iterator<Item = DType>, results: impl Iterator<Item = DType>) -> String {
    let words = |dtypes: Vec<DType>| dtypes.iter().map(|dtype| dtype.as_str()).collect::<Vec<_>>().join(" ");
    let mut given: Vec<DType> = given.collect();
    if matches!(op, Op::Concat { .. } | Op::Stack { .. }) {
        given.truncate(1);
    }
    let results: Vec<DType> = results.take(2).collect();
    format!("{} of {} to {}", op.name(), words(given), words(results))
}

/// Makes one element wrong by a little more than is allowed.
fn corrupt(dtype: DType, bytes: &mut [u8], index: usize, check: Check) {
    let size = dtype.size_bytes().unwrap() as usize;
    let element = &mut bytes[index * size..(index + 1) * size];
    let value = number(dtype, element);
    let tolerance = match check {
        Check::Exact | Check::Rounded(_) => 0.0,
        Check::Relative(tolerance) | Check::Close(tolerance) => tolerance,
    };
    let off = if value.is_finite() { value + ((4.0 * tolerance).max(0.05) * value.abs()).max(1.0) } else { 1.0 };
    match dtype {
        DType::F16 => element.copy_from_slice(&half::f16::from_f64(off).to_le_bytes()),
        DType::BF16 => element.copy_from_slice(&half::bf16::from_f64(off).to_le_bytes()),
        DType::F32 => element.copy_from_slice(&(off as f32).to_le_bytes()),
        DType::F64 => element.copy_from_slice(&off.to_le_bytes()),
        DType::U8 if matches!(check, Check::Rounded(_)) => element[0] ^= 2,
        _ => element[0] ^= 1,
    }
}

/// Runs a case, with separate inputs or with inputs that are views within larger buffers.
fn run(
    device: &Arc<dyn Device>,
    case: &Case,
    within: bool,
    data: &[u8],
    coverage: &mut Coverage,
) -> Result<(), String> {
    let account = device.ledger().account(Owner::Invocation { tenant: "default".into() }, 1 << 30, 1_000);
    let (stop, limits) = (Stop::default(), device.limits());
    let place = |stored: &Stored| -> Result<Tensor, Error> {
        let (dtype, shape) = (stored.dtype(), Shape::new(&stored.shape, 8)?);
        let bytes = stored.bytes(dtype, data);
        if !within {
            return device.create(&account, dtype, shape, bytes);
        }
        let size = dtype.size_bytes().unwrap() as usize;
        let more = [&vec![1; 3 * size][..], bytes, &vec![1; size][..]].concat();
        let line = device.create(&account, dtype, Shape::new(&[shape.elements() + 4], 8)?, &more)?;
        let end = shape.elements() as i64 + 3;
        let dims: Vec<i64> = shape.dims().iter().map(|dim| *dim as i64).collect();
        line.slice(vec![SliceRange { axis: 0, start: 3, end, step: 1 }], limits, &stop)?.reshape(&dims, limits)
    };
    let op = case.call.op();
    let inputs: Vec<Tensor> =
        case.inputs.iter().map(place).collect::<Result<_, _>>().map_err(|error| format!("an input: {error}"))?;
    let references: Vec<&Tensor> = inputs.iter().collect();
    // An error that a device finds while it computes is returned by the first read.
    let result = (|| {
        let outputs = match (&case.call, &op) {
            (Call::Reshape { shape }, _) => vec![references[0].reshape(shape, limits)?],
            (_, Some(op)) => device.run(&account, op, &references, limits, &stop)?,
            (_, None) => panic!("{} has no operator", case.name),
        };
        let read = |tensor: Tensor| {
            let bytes = tensor.read(0..tensor.byte_length())?;
            Ok((tensor, bytes))
        };
        outputs.into_iter().map(read).collect::<Result<Vec<_>, Error>>()
    })();
    match (&case.error, result) {
        (Some(kind), Err(error)) if error.kind().as_str() == kind && error.message().contains(&case.mentions) => {}
        (Some(kind), Err(error)) => {
            return Err(format!("expected {kind} with '{}', found {}: {error}", case.mentions, error.kind()));
        }
        (Some(kind), Ok(_)) => return Err(format!("expected {kind}, found a result")),
        (None, Err(error)) => return Err(format!("failed with {}: {error}", error.kind())),
        (None, Ok(outputs)) => {
            if outputs.len() != case.outputs.len() {
                return Err(format!("{} results, expected {}", outputs.len(), case.outputs.len()));
            }
            for ((output, bytes), expected) in outputs.iter().zip(&case.outputs) {
                compare(output, bytes, expected, data)?;
            }
            // Views within larger buffers give the same results.
            if let (Some(op), false) = (&op, within) {
                coverage.note(op, &references, &outputs, &case.outputs, data);
                for (told, other) in other_roundings(op) {
                    let others = device.run(&account, &other, &references, limits, &stop);
                    let bytes = others.and_then(|others| others[0].read(0..others[0].byte_length()));
                    if bytes.map_err(|error| error.to_string())? != outputs[0].1 {
                        coverage.told_apart.insert(told);
                    }
                }
            }
        }
    }
    drop(inputs);
    match (account.used_bytes(), account.tensor_count()) {
        (0, 0) => Ok(()),
        (bytes, count) => Err(format!("{bytes} bytes of {count} tensors were left behind")),
    }
}

fn compare(output: &Tensor, bytes: &[u8], expected: &Expected, data: &[u8]) -> Result<(), String> {
    let (dtype, stored) = (expected.stored.dtype(), &expected.stored);
    if (output.dtype(), output.shape().dims()) != (dtype, &stored.shape[..]) {
        return Err(format!("a result is {}{}, expected {dtype}{:?}", output.dtype(), output.shape(), stored.shape));
    }
    compare_bytes(dtype, bytes, expected, data)
}

fn compare_bytes(dtype: DType, bytes: &[u8], expected: &Expected, data: &[u8]) -> Result<(), String> {
    let stored = &expected.stored;
    let size = dtype.size_bytes().unwrap() as usize;
    let found = bytes.chunks_exact(size);
    match expected.check {
        Check::Exact => {
            for (index, (found, expected)) in found.zip(stored.bytes(dtype, data).chunks_exact(size)).enumerate() {
                let both_nan = dtype.is_float() && number(dtype, found).is_nan() && number(dtype, expected).is_nan();
                if found != expected && !both_nan {
                    let (found, expected) = (number(dtype, found), number(dtype, expected));
                    return Err(format!("element {index} is {found}, expected exactly {expected}"));
                }
            }
        }
        Check::Relative(tolerance) | Check::Close(tolerance) | Check::Rounded(tolerance) => {
            let exact = stored.bytes(DType::F64, data).chunks_exact(8).map(|bytes| number(DType::F64, bytes));
            for (index, (found, exact)) in found.map(|bytes| number(dtype, bytes)).zip(exact).enumerate() {
                let most = match expected.check {
                    Check::Rounded(_) => 0.5 + tolerance,
                    Check::Close(_) => tolerance * exact.abs().max(smallest_normal(dtype)),
                    Check::Exact | Check::Relative(_) => tolerance * exact.abs().max(1.0),
                };
                let near = exact.is_finite() && (found - exact).abs() <= most;
                let agrees = found == exact || (found.is_nan() && exact.is_nan()) || near;
                if !agrees && !overflows(dtype, found, exact) {
                    return Err(format!("element {index} is {found}, expected {exact} within {most:e}"));
                }
            }
        }
    }
    Ok(())
}

/// Whether the exact value is so near the largest of a narrow type that it may be rounded to infinity.
fn overflows(dtype: DType, found: f64, exact: f64) -> bool {
    let largest = match dtype {
        DType::F16 => 65_504.0,
        DType::BF16 | DType::F32 => f64::from(f32::MAX),
        _ => return false,
    };
    found.is_infinite() && found.signum() == exact.signum() && exact.abs() >= largest
}

/// Below this a float has fewer digits.
fn smallest_normal(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => half::f16::MIN_POSITIVE.to_f64(),
        DType::BF16 | DType::F32 => f64::from(f32::MIN_POSITIVE),
        _ => f64::MIN_POSITIVE,
    }
}

fn number(dtype: DType, bytes: &[u8]) -> f64 {
    let bits = bytes.iter().rev().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    match dtype {
        DType::Boolean | DType::U8 | DType::U16 | DType::U32 | DType::U64 => bits as f64,
        DType::S8 => f64::from(bits as i8),
        DType::S16 => f64::from(bits as i16),
        DType::S32 => f64::from(bits as i32),
        DType::S64 => bits as i64 as f64,
        DType::F16 => half::f16::from_bits(bits as u16).to_f64(),
        DType::BF16 => half::bf16::from_bits(bits as u16).to_f64(),
        DType::F32 => f64::from(f32::from_bits(bits as u32)),
        DType::F64 => f64::from_bits(bits),
        DType::Text => panic!("text is no number"),
    }
}
