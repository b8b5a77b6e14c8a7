//! Operators that wait for the next one: the result equals that of separate operators, and when it is queued.

use super::super::test_devices;
use super::*;
use proptest::prelude::*;

const CASES: u32 = 400;

/// A tensor to normalise, and the operators that follow.
#[derive(Clone, Debug)]
struct Chain {
    dtype: DType,
    dims: Vec<u64>,
    bytes: Vec<u8>,
    axis: i32,
    scale: Vec<f32>,
    offset: Vec<f32>,
    /// A view of the result: its first index on the outermost axis.
    view: Option<i64>,
    moved: Option<Op>,
    cast: Option<DType>,
    cast_first: bool,
}

fn chains() -> impl Strategy<Value = Chain> {
    let dtypes = DType::ALL.into_iter().filter(|dtype| *dtype != DType::Text).collect::<Vec<_>>();
    let dims = prop_oneof![prop::collection::vec(1u64..=9, 1..=4), prop::collection::vec(16u64..=40, 2..=2)];
    (prop::sample::select(dtypes), dims).prop_flat_map(|(dtype, dims)| {
        let rank = dims.len();
        let count: u64 = dims.iter().product();
        let bytes = prop::collection::vec(any::<u8>(), (count * dtype.size_bytes().unwrap_or(1)) as usize);
        let numbers = prop::collection::vec((-4.0f32..4.0, -4.0f32..4.0), 40);
        let permute = Just((0..rank as i32).collect::<Vec<_>>()).prop_shuffle().prop_map(|axes| Op::Permute { axes });
        let slice = (0..rank as i32, prop::sample::select(vec![-2i64, -1, 2, 3])).prop_map(|(axis, step)| {
            let [start, end] = if step < 0 { [i64::MAX, i64::MIN] } else { [0, i64::MAX] };
            Op::Slice { ranges: vec![SliceRange { axis, start, end, step }] }
        });
        let moved = prop::option::of(prop_oneof![3 => permute, 1 => slice]);
        let cast = prop::option::of(prop::sample::select(vec![DType::F16, DType::BF16, DType::F64, DType::U8]));
        let view = prop::option::weighted(0.3, 0..(dims[0] as i64));
        let raw = (bytes, 0..rank, numbers, moved, cast, any::<bool>(), view);
        raw.prop_map(move |(mut bytes, axis, numbers, moved, cast, cast_first, view)| {
            if dtype == DType::Boolean {
                bytes.iter_mut().for_each(|byte| *byte &= 1);
            }
            let (scale, offset) = numbers.into_iter().take(dims[axis] as usize).unzip();
            Chain { dtype, dims: dims.clone(), bytes, axis: axis as i32, scale, offset, view, moved, cast, cast_first }
        })
    })
}

/// The results of the steps of a chain. With `each`, every step is read before the next one.
fn steps(device: &Arc<dyn Device>, chain: &Chain, each: bool) -> Vec<Vec<u8>> {
    let account = device.ledger().account(Owner::Invocation { tenant: "default".into() }, BUDGET_BYTES, 1_000);
    let limits = device.limits();
    let whole = |tensor: &Tensor| tensor.read(0..tensor.byte_length()).unwrap();
    let input = device.create(&account, chain.dtype, shape(&chain.dims), &chain.bytes).unwrap();
    let normalize = Op::Normalize { axis: chain.axis, scale: chain.scale.clone(), offset: chain.offset.clone() };
    let view =
        chain.view.map(|start| Op::Slice { ranges: vec![SliceRange { axis: 0, start, end: i64::MAX, step: 1 }] });
    let cast = chain.cast.map(|dtype| Op::Cast { dtype });
    let mut rest = [view, chain.moved.clone(), cast];
    if chain.cast_first {
        rest.rotate_right(1);
    }
    let mut tensors = vec![input];
    for op in std::iter::once(normalize).chain(rest.into_iter().flatten()) {
        let next = device.run(&account, &op, &[&tensors[tensors.len() - 1]], limits, &Stop::default()).unwrap();
        if each {
            whole(&next[0]);
        }
        tensors.extend(next);
    }
    // The last one first: the ones before it were not needed.
    let mut made: Vec<Vec<u8>> = tensors.iter().skip(1).rev().map(whole).collect();
    made.reverse();
    drop(tensors);
    assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0));
    made
}

#[test]
fn fused_operators_make_the_bits_that_each_makes_alone() {
    let cpu = Cpu::new(Ledger::new(BUDGET_BYTES), Limits::default()) as Arc<dyn Device>;
    let devices = test_devices();
    let names: Vec<&str> = devices.iter().map(|device| device.name()).collect();
    println!("{CASES} chains of operators on {}", names.join(", "));
    proptest!(ProptestConfig::with_cases(CASES), |(chain in chains())| {
        let expected = steps(&cpu, &chain, false);
        for device in &devices {
            let alone = steps(device, &chain, true);
            prop_assert_eq!(&steps(device, &chain, false), &alone);
            prop_assert_eq!(&alone, &expected);
        }
    });
}

fn normalize() -> Op {
    Op::Normalize { axis: -1, scale: vec![2.0; 3], offset: vec![-1.0; 3] }
}

const MOVED: [i32; 3] = [2, 0, 1];

/// A picture of threes, and its normalised form.
fn picture(device: &Cuda, account: &Arc<Account>) -> (Tensor, Tensor) {
    let image = device.create(account, DType::U8, shape(&[8, 8, 3]), &[3; 192]).unwrap();
    let normal = run(device, account, &normalize(), &[&image]).unwrap().remove(0);
    (image, normal)
}

#[test]
fn a_chain_is_one_launch_and_is_queued_when_somebody_needs_it() {
    let Some((driver, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let (image, normal) = picture(&device, &account);
    let moved = run(&device, &account, &Op::Permute { axes: MOVED.to_vec() }, &[&normal]).unwrap().remove(0);
    let half = run(&device, &account, &Op::Cast { dtype: DType::F16 }, &[&moved]).unwrap().remove(0);
    assert_eq!((driver.launches(), account.used_bytes()), (0, 192 * (1 + 4 + 4 + 2)));
    // These are not needed any more, but the image, which the last one is made of, still exists.
    drop((image, normal, moved));
    assert_eq!(account.used_bytes(), 192 * (1 + 2));
    assert_eq!(half.read(0..4).unwrap(), [0, 0x45, 0, 0x45], "3 * 2 - 1 as f16");
    assert_eq!((driver.launches(), account.used_bytes()), (1, 192 * 2));
    half.read(0..384).unwrap();
    assert_eq!(driver.launches(), 1);

    // A result that was needed on its own is not made a second time for the next one.
    let (_image, normal) = picture(&device, &account);
    let sum = run(&device, &account, &Op::Arithmetic(Arithmetic::Add), &[&normal, &normal]).unwrap().remove(0);
    assert!(all_are(&sum, 10.0) && all_are(&normal, 5.0));
    run(&device, &account, &Op::Permute { axes: MOVED.to_vec() }, &[&normal]).unwrap();
    assert_eq!(driver.launches(), 4);
}

#[test]
fn nothing_waits_for_more_than_one_tensor() {
    let Some((driver, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let mut tensor = floats(&device, &account, &[4, 3], 1.0);
    for _ in 0..2_000 {
        // 1 again: a fixed point.
        tensor = run(&device, &account, &normalize(), &[&tensor]).unwrap().remove(0);
    }
    assert_eq!((driver.launches(), account.tensor_count()), (1_999, 2));
    assert!(all_are(&tensor, 1.0));
}

#[test]
fn what_finds_no_memory_when_it_is_needed_fails_and_may_be_tried_again() {
    let Some((driver, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let image = device.create(&account, DType::U8, shape(&[1_000, 1_000, 3]), &[3; 3_000_000]).unwrap();
    let normal = run(&device, &account, &normalize(), &[&image]).unwrap().remove(0);
    driver.fail_after(Some(0));
    let error = normal.read(0..4).unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    let error = run(&device, &account, &Op::Unary(Unary::Negate), &[&normal]).unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
    driver.fail_after(None);
    assert!(all_are(&normal, 5.0));
    drop((image, normal));
    assert_eq!(device.ledger().used_bytes(), 0);
}

#[test]
fn threads_that_need_one_result_queue_it_once() {
    let Some((driver, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let input = floats(&device, &account, &[100, 3], 3.0);
    let normal = run(&device, &account, &normalize(), &[&input]).unwrap().remove(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert!(all_are(&normal, 5.0)));
        }
    });
    assert_eq!(driver.launches(), 1);
}
