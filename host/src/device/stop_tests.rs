//! Tests how often operators check whether they should stop, by counting checks; it never measures time. `reference_tests` tests
//! results.

use super::stop::Pace;
use super::{
    Account, Arithmetic, Comparison, Coordinates, Cpu, DType, Device, ImageLayout, Interpolation, Ledger, Op, Owner,
    PadMode, Reduction, Resize, Rounding, Shape, SliceRange, Stop, Suppression, Tensor, Unary,
};
use crate::config::Limits;
use crate::error::Kind;
use std::sync::Arc;

/// Elements of the inputs: many times what may pass between two checks.
const MANY: u64 = 1 << 22;

/// Pseudo-random bits; of floats numbers below 1.
fn tensor(device: &Cpu, account: &Arc<Account>, dtype: DType, dims: &[u64]) -> Tensor {
    let shape = Shape::new(dims, 8).unwrap();
    let count = shape.elements();
    let random = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let bytes: Vec<u8> = match dtype {
        DType::F32 => (0..count).flat_map(|index| (random(index) as f32 / (1u64 << 31) as f32).to_le_bytes()).collect(),
        DType::S64 => (0..count).flat_map(|index| (random(index) as i64 % 1_000).to_le_bytes()).collect(),
        _ => (0..count * dtype.size_bytes().unwrap()).map(|index| random(index) as u8 & 1).collect(),
    };
    device.create(account, dtype, shape, &bytes).unwrap()
}

/// At least one check for this many elements.
const DENSE: u64 = Pace::CHUNK as u64;
const FAR: u64 = Pace::FAR_CHUNK as u64;

#[test]
fn every_operator_looks_at_its_stop_again_and_again() {
    let device = Cpu::new(Ledger::new(1 << 31), Limits::default());
    let account = device.ledger().account(Owner::Invocation { tenant: "default".into() }, 1 << 31, 100);
    let make = |dtype, dims: &[u64]| tensor(&device, &account, dtype, dims);
    let line = make(DType::F32, &[MANY]);
    let (tall, wide) = (make(DType::F32, &[MANY / 4, 4]), make(DType::F32, &[4, MANY / 4]));
    let square = make(DType::F32, &[2_048, MANY / 2_048]);
    let places = make(DType::S64, &[MANY / 2]);
    let flags = make(DType::Boolean, &[MANY]);
    let resize = |width, height, layout, interpolation| {
        let coordinates = Coordinates::HalfPixel;
        Op::Resize(Resize { height, width, layout, interpolation, coordinates, antialias: false })
    };
    let reduce = |reduction, axes: &[i32]| Op::Reduce { reduction, axes: axes.to_vec(), keep_axes: false };
    let step = |axis, step| {
        let (start, end) = if step > 0 { (0, i64::MAX) } else { (i64::MAX, i64::MIN) };
        Op::Slice { ranges: vec![SliceRange { axis, start, end, step }] }
    };
    let image = make(DType::U8, &[2, MANY / 2, 1]);
    let pool = make(DType::F32, &[2, MANY / 8, 4]);
    let mask = make(DType::U8, &[2, MANY / 8]);
    let factor = make(DType::F32, &[2_048, 2_048]);
    let boxes = make(DType::F32, &[MANY / 16, 4]);
    let scores = make(DType::F32, &[MANY / 16]);
    let few = make(DType::S64, &[1 << 17]);
    let narrow = make(DType::U8, &[1, 1 << 19, 8]);
    let whole = make(DType::S64, &[256, 256]);
    let (chw, hwc) = (ImageLayout::Chw, ImageLayout::Hwc);
    // An operator, its inputs, and how many elements may pass between two checks.
    let rows: Vec<(Op, Vec<&Tensor>, u64)> = vec![
        (Op::Sort { axis: 0, descending: true }, vec![&line], FAR),
        (Op::Sort { axis: 0, descending: false }, vec![&square], FAR),
        (Op::Sort { axis: 1, descending: false }, vec![&square], FAR),
        (Op::TopK { k: MANY / 2, axis: 0, largest: true }, vec![&line], FAR * 2),
        (Op::TopK { k: 5, axis: 0, largest: true }, vec![&line], DENSE),
        (Op::TopK { k: 5, axis: 0, largest: true }, vec![&square], FAR * 2),
        (Op::Gather { axis: 0 }, vec![&line, &places], DENSE / 8),
        (Op::Gather { axis: 0 }, vec![&tall, &places], DENSE / 8),
        (Op::OneHot { depth: 1_000, axis: 0, dtype: DType::U8 }, vec![&few], DENSE * 4),
        (Op::Permute { axes: vec![1, 0] }, vec![&square], DENSE),
        (Op::Permute { axes: vec![1, 0] }, vec![&tall], DENSE),
        (Op::Permute { axes: vec![1, 0] }, vec![&wide], DENSE),
        (step(1, 2), vec![&square], DENSE),
        (step(0, -1), vec![&line], DENSE),
        (Op::Concat { axis: 1 }, vec![&tall, &tall], FAR * 16),
        (Op::Concat { axis: 0 }, vec![&line, &line], DENSE * 4),
        (Op::Split { axis: 1, lengths: vec![1, 3] }, vec![&tall], FAR * 16),
        (Op::Pad { before: vec![3], after: vec![MANY], mode: PadMode::Constant(1.0) }, vec![&line], DENSE),
        (Op::Pad { before: vec![MANY - 1], after: vec![3], mode: PadMode::Reflect }, vec![&line], DENSE),
        (Op::Pad { before: vec![0, 1], after: vec![0, 1], mode: PadMode::Edge }, vec![&tall], FAR * 16),
        (Op::Cast { dtype: DType::U8 }, vec![&line], DENSE),
        (Op::Normalize { axis: 0, scale: vec![2.0], offset: vec![1.0] }, vec![&line], DENSE),
        (Op::Normalize { axis: 1, scale: vec![2.0; 4], offset: vec![1.0] }, vec![&tall], DENSE),
        (Op::Normalize { axis: 0, scale: vec![2.0; MANY as usize], offset: vec![1.0] }, vec![&line], DENSE),
        (Op::Softmax { axis: 0 }, vec![&line], DENSE / 4),
        (Op::Softmax { axis: 0 }, vec![&square], DENSE / 4),
        (Op::LogSoftmax { axis: 0 }, vec![&line], DENSE / 4),
        (Op::LogSoftmax { axis: 0 }, vec![&square], DENSE / 4),
        (Op::L2Normalize { axis: 0, epsilon: 0.0 }, vec![&line], DENSE),
        (Op::L2Normalize { axis: 0, epsilon: 0.0 }, vec![&square], DENSE),
        (Op::Argmax { axis: 0, keep_axis: false }, vec![&line], DENSE),
        (Op::Argmin { axis: 0, keep_axis: false }, vec![&square], DENSE),
        (Op::CumulativeSum { axis: 0, exclusive: false, reverse: true }, vec![&line], DENSE),
        (Op::CumulativeSum { axis: 0, exclusive: false, reverse: true }, vec![&square], DENSE),
        (reduce(Reduction::Sum, &[]), vec![&line], DENSE),
        (reduce(Reduction::Max, &[0]), vec![&square], DENSE),
        (reduce(Reduction::Mean, &[1]), vec![&tall], FAR * 16),
        (Op::Arithmetic(Arithmetic::Add), vec![&line, &line], DENSE * 2),
        (Op::Arithmetic(Arithmetic::Power), vec![&line, &line], FAR * 2),
        (Op::Compare(Comparison::Less), vec![&line, &line], DENSE * 2),
        (Op::Select, vec![&flags, &line, &line], DENSE * 4),
        (Op::Unary(Unary::Abs), vec![&line], DENSE),
        (Op::Unary(Unary::Exp), vec![&line], DENSE / 8),
        (Op::Unary(Unary::Gelu), vec![&line], DENSE / 64),
        (Op::Clamp { low: 0.1, high: 0.2 }, vec![&line], DENSE),
        (resize(1 << 21, 2, hwc, Interpolation::Bilinear), vec![&image], DENSE),
        (resize(1 << 21, 2, hwc, Interpolation::Nearest(Rounding::Floor)), vec![&image], DENSE),
        (resize(8, 1 << 19, chw, Interpolation::Bicubic), vec![&narrow], DENSE),
        (Op::MaskedMeanPool, vec![&pool, &mask], DENSE),
        (Op::Matmul, vec![&factor, &factor], 1 << 18),
        (Op::Matmul, vec![&whole, &whole], 1 << 13),
        (
            Op::NonMaximumSuppression(Suppression { overlap: 1.0, score: 0.0, maximum: 1 << 12 }),
            vec![&boxes, &scores],
            DENSE,
        ),
    ];
    let mut rare = Vec::new();
    for (op, inputs, between) in rows {
        let name = format!("{} of {inputs:?}", op.name());
        let stop = Stop::default();
        let outputs = device.run(&account, &op, &inputs, device.limits(), &stop).expect(&name);
        let results: u64 = outputs.iter().map(|output| output.shape().elements()).sum();
        let given: u64 = inputs.iter().map(|input| input.shape().elements()).sum();
        // The count restarts at each check, so checks are a little rarer than the operations suggest.
        let least = (results.max(given) / between * 3 / 4).max(2);
        if (stop.looks() as u64) < least {
            rare.push(format!("{name}: {} checks, at least {least}", stop.looks()));
        }
        drop(outputs);
        let before = account.used_bytes();
        for last in [1, 2] {
            let stop = Stop::at_look(last);
            let error = device.run(&account, &op, &inputs, device.limits(), &stop).expect_err(&name);
            assert_eq!((error.kind(), stop.looks()), (Kind::Cancelled, last), "{name}");
            assert_eq!(account.used_bytes(), before, "{name}");
        }
    }
    assert!(rare.is_empty(), "{}", rare.join("\n"));
}
