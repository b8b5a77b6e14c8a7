//! The device over the kernels on the CPU: the order of queues, counters and failures; the table tests operators' results.

mod fused;
mod kept;

use super::on_cpu::OnCpu;
use super::*;
use crate::device::{
    Arithmetic, Coordinates, ImageLayout, Interpolation, Op, Owner, OwnerKind, Reduction, Resize, SliceRange, Unary,
};

use std::sync::Mutex;

const BUDGET_BYTES: u64 = 64 << 20;

/// A device and its driver; `None` where kernels cannot be built.
fn device(eager_copies: bool, budget_bytes: u64) -> Option<(Arc<OnCpu>, Arc<Cuda>)> {
    let driver = OnCpu::where_it_can_be(eager_copies)?;
    let device = driver.device(budget_bytes);
    Some((driver, device))
}

fn account(device: &Cuda) -> Arc<Account> {
    device.ledger().account(Owner::Invocation { tenant: "default".into() }, BUDGET_BYTES, 1_000)
}

fn shape(dims: &[u64]) -> Shape {
    Shape::new(dims, 8).unwrap()
}

fn floats(device: &Cuda, account: &Arc<Account>, dims: &[u64], value: f32) -> Tensor {
    let shape = shape(dims);
    let bytes = value.to_le_bytes().repeat(shape.elements() as usize);
    device.create(account, DType::F32, shape, &bytes).unwrap()
}

fn run(device: &Cuda, account: &Arc<Account>, op: &Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    device.run(account, op, inputs, device.limits(), &Stop::default())
}

fn all_are(tensor: &Tensor, value: f32) -> bool {
    let bytes = tensor.read(0..tensor.byte_length()).unwrap();
    !bytes.is_empty() && bytes.chunks_exact(4).all(|bytes| bytes == value.to_le_bytes())
}

#[test]
fn memory_that_is_used_again_never_mixes_tensors() {
    for eager in [false, true] {
        let Some((_, device)) = device(eager, BUDGET_BYTES) else { return };
        let account = account(&device);
        let mut kept: Vec<(Tensor, f32)> = Vec::new();
        for round in 0..60 {
            let value = round as f32;
            let input = floats(&device, &account, &[1_000], value);
            let doubled = run(&device, &account, &Op::Arithmetic(Arithmetic::Add), &[&input, &input]).unwrap();
            // The input's memory is given back while the kernel that reads it is still queued.
            drop(input);
            let negative = run(&device, &account, &Op::Unary(Unary::Negate), &[&doubled[0]]).unwrap();
            kept.push((doubled[0].clone(), 2.0 * value));
            kept.push((negative[0].clone(), -2.0 * value));
            if round % 7 == 6 {
                let (tensor, value) = kept.swap_remove(round % 5);
                assert!(all_are(&tensor, value), "{round}");
            }
        }
        assert!(kept.iter().all(|(tensor, value)| all_are(tensor, *value)));
        assert!(device.memory_use().reused > 30, "{:?}", device.memory_use());
    }
}

#[test]
fn tensors_larger_than_staging_chunks_go_and_come_back() {
    for eager in [false, true] {
        let Some((_, device)) = device(eager, BUDGET_BYTES) else { return };
        let account = account(&device);
        for length in [0usize, 1, 65_536, 65_537, (5 << 20) + 3] {
            let bytes: Vec<u8> = (0..length).map(|index| (index * 31 % 251) as u8).collect();
            let tensor = device.create(&account, DType::U8, shape(&[length as u64]), &bytes).unwrap();
            assert_eq!(tensor.read(0..length as u64).unwrap(), bytes);
            let middle = length as u64 / 2;
            assert_eq!(tensor.read(middle..length as u64).unwrap(), bytes[length / 2..]);
            assert_eq!(tensor.host_bytes(), None);
            let on_host = device.on_host(&account, &tensor).unwrap();
            assert_eq!((on_host.host_bytes().unwrap(), on_host.device().name()), (&bytes[..], "cpu"));
        }
        assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0));
    }
}

#[test]
fn many_large_copies_at_once_share_few_chunks() {
    if device(false, BUDGET_BYTES).is_none() {
        return;
    }
    // Four chunks of 2 MiB, and eight threads that would each use two.
    let limits = Limits { staging_bytes: 1 << 20, ..Limits::default() };
    let device = Cuda::with(OnCpu::new(true), "cuda:0".to_owned(), (0, 0), Ledger::new(BUDGET_BYTES), limits).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let device = &device;
            scope.spawn(move || {
                let account = account(device);
                let bytes = vec![thread; 5 << 20];
                for _ in 0..3 {
                    let tensor = device.create(&account, DType::U8, shape(&[5 << 20]), &bytes).unwrap();
                    assert!(tensor.read(0..5 << 20).unwrap() == bytes);
                }
            });
        }
    });
    assert_eq!(device.ledger().used_bytes(), 0);
}

#[test]
fn a_chain_uploads_its_image_and_downloads_its_result_and_nothing_else() {
    let Some((_, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let image = device.create(&account, DType::U8, shape(&[48, 64, 3]), &[200; 48 * 64 * 3]).unwrap();
    let resize = Resize {
        height: 16,
        width: 16,
        layout: ImageLayout::Hwc,
        interpolation: Interpolation::Bilinear,
        coordinates: Coordinates::HalfPixel,
        antialias: true,
    };
    let steps = [
        Op::Resize(resize),
        Op::Normalize { axis: -1, scale: vec![0.01; 3], offset: vec![-1.0; 3] },
        Op::Permute { axes: vec![2, 0, 1] },
        Op::Reduce { reduction: Reduction::Mean, axes: vec![1], keep_axes: false },
        Op::Softmax { axis: -1 },
    ];
    let mut tensor = image.clone();
    for step in &steps {
        tensor = run(&device, &account, step, &[&tensor]).unwrap().remove(0);
    }
    let best = run(&device, &account, &Op::TopK { k: 5, axis: -1, largest: true }, &[&tensor]).unwrap();
    assert_eq!(device.copied().downloaded_bytes, 0, "nothing waits before somebody reads");
    let values = best[0].read(0..best[0].byte_length()).unwrap();
    let indices = best[1].read(0..best[1].byte_length()).unwrap();
    assert!(
        values.chunks_exact(4).all(|value| (f32::from_le_bytes(value.try_into().unwrap()) - 1.0 / 16.0).abs() < 1e-6)
    );
    let first: Vec<u8> = (0..3).flat_map(|_| (0..5i64).flat_map(i64::to_le_bytes)).collect();
    assert_eq!(indices, first);
    let copied = device.copied();
    assert_eq!(copied.uploaded_bytes, 48 * 64 * 3);
    assert_eq!(copied.downloaded_bytes, 3 * 5 * (4 + 8));
    assert_eq!(copied.fault_bytes, 0);
    // The taps of both axes: 16 runs each, of weights and two numbers.
    assert!(copied.table_bytes > 0 && copied.table_bytes < 16 * 2 * 80, "{copied:?}");
}

#[test]
fn wrong_indices_are_told_to_whoever_reads_what_was_made_with_them() {
    let Some((_, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let input = floats(&device, &account, &[4, 2], 3.0);
    let indices = |numbers: &[i64]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        device.create(&account, DType::S64, shape(&[numbers.len() as u64]), &bytes).unwrap()
    };
    let (good, bad) = (indices(&[0, -4, 3]), indices(&[1, 2, -5, 9]));
    let gather = Op::Gather { axis: 0 };
    let right = run(&device, &account, &gather, &[&input, &good]).unwrap().remove(0);
    let wrong = run(&device, &account, &gather, &[&input, &bad]).unwrap().remove(0);
    let sum = run(&device, &account, &Op::Arithmetic(Arithmetic::Add), &[&wrong, &wrong]).unwrap().remove(0);
    let view =
        sum.slice(vec![SliceRange { axis: 0, start: 0, end: 1, step: 1 }], device.limits(), &Stop::default()).unwrap();
    assert!(all_are(&right, 3.0) && all_are(&input, 3.0));
    for tensor in [&wrong, &sum, &view] {
        let error = tensor.read(0..4).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert_eq!(error.message(), "gather: indices: element 2 is -5; it takes -4 to 3");
    }
    assert_eq!(device.copied().fault_bytes, 32, "each fault is looked at once");
    drop((input, good, bad, right, wrong, sum, view));
    assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0));
}

#[test]
fn a_failed_allocation_is_a_typed_error_and_leaves_nothing_behind() {
    let Some((driver, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let work = || -> Result<()> {
        let bytes = 1.5f32.to_le_bytes().repeat(3_000);
        let tensor = device.create(&account, DType::F32, shape(&[2, 1_500]), &bytes)?;
        let sorted = run(&device, &account, &Op::Sort { axis: -1, descending: true }, &[&tensor])?;
        let sum = Op::Reduce { reduction: Reduction::Sum, axes: vec![], keep_axes: false };
        let sum = run(&device, &account, &sum, &[&sorted[0]])?;
        assert!(all_are(&sum[0], 4_500.0));
        Ok(())
    };
    let mut failures = 0;
    for count in 0..200 {
        device.core.allocator.trim();
        driver.fail_after(Some(count));
        match work() {
            Ok(()) => break,
            Err(error) => {
                failures += 1;
                assert_eq!(error.kind(), Kind::Overloaded, "{error}");
            }
        }
        assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0), "after allocation {count} failed");
        assert_eq!(device.ledger().used_by(OwnerKind::Invocation), 0);
    }
    assert!((5..200).contains(&failures), "{failures}");
    driver.fail_after(None);
    work().unwrap();
    let held = device.memory_use();
    assert_eq!((held.used_bytes, account.used_bytes()), (0, 0));
    drop(device);
    assert_eq!(driver.taken(), (0, 0), "all memory went back to the driver");
}

#[test]
fn kept_memory_makes_room_before_a_request_is_refused() {
    let Some((_, device)) = device(false, 8 << 20) else { return };
    let account = account(&device);
    let take = |bytes: u64| device.create(&account, DType::U8, shape(&[bytes]), &vec![1; bytes as usize]);
    // Sizes of different classes, so that none is reused as it is.
    for megabytes in [2, 4, 6, 8, 2, 6] {
        take(megabytes << 20).unwrap();
        assert!(device.memory_use().kept_bytes + device.memory_use().used_bytes <= 8 << 20);
    }
    assert!(device.memory_use().peak_bytes <= 8 << 20);
    let (a, b) = (take(4 << 20).unwrap(), take(2 << 20).unwrap());
    assert_eq!(take(3 << 20).unwrap_err().kind(), Kind::Overloaded);
    drop((a, b));
    take(8 << 20).unwrap();
}

#[test]
fn models_leave_for_what_rounding_adds_to_what_the_ledger_knows() {
    let Some((_, device)) = device(false, 12 << 20) else { return };
    let account = account(&device);
    // Blocks of 4 MiB each, charged with little more than half of that.
    let model = || device.create(&account, DType::U8, shape(&[(2 << 20) + 1]), &vec![7; (2 << 20) + 1]).unwrap();
    let models = Arc::new(Mutex::new(vec![model(), model(), model()]));
    assert!(device.ledger().used_bytes() < 7 << 20);
    let resident = Arc::clone(&models);
    device.ledger().reclaim_with(Box::new(move |_| resident.lock().unwrap().pop().is_some()));
    let tensor = floats(&device, &account, &[1 << 18], 3.0);
    assert!(all_are(&tensor, 3.0));
    assert_eq!(models.lock().unwrap().len(), 2);
    // No model is unloaded for a request that can never fit, and a request is refused when no model can be unloaded.
    assert!(device.core.take(13 << 20).is_err());
    assert_eq!(models.lock().unwrap().len(), 2);
    assert!(device.core.take(12 << 20).is_err());
    assert!(models.lock().unwrap().is_empty());
}

#[test]
fn a_lost_device_answers_everything_with_unavailable() {
    let Some((driver, device)) = device(false, BUDGET_BYTES) else { return };
    let account = account(&device);
    let tensor = floats(&device, &account, &[10], 1.0);
    device.health().unwrap();
    driver.lose("it fell off the bus");
    assert_eq!(tensor.read(0..4).unwrap_err().kind(), Kind::Unavailable);
    let error = device.health().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains("it fell off the bus"));
    let failed = run(&device, &account, &Op::Unary(Unary::Exp), &[&tensor]).unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable);
    assert_eq!(device.create(&account, DType::U8, shape(&[1]), &[1]).unwrap_err().kind(), Kind::Unavailable);
    drop(tensor);
    assert_eq!((account.used_bytes(), device.memory_use().used_bytes), (0, 0));
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let data = tempfile::tempdir().unwrap();
    let (key, data) = (NodeKey::open(data.path()).unwrap(), Some(data.path().to_owned()));
    let raw = crate::config::RawConfig { device: Some("cuda:63".to_owned()), data, ..Default::default() };
    let error = crate::device::open(&raw.resolve().unwrap(), &key).err().unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    let named = ["driver", "no GPU of this number", "finds no GPU", "NVRTC"];
    assert!(error.message().starts_with("cuda:63 cannot be used"), "{error}");
    assert!(named.iter().any(|part| error.message().contains(part)), "{error}");
}

#[test]
fn an_engine_is_charged_for_what_it_takes_and_refused_what_does_not_fit() {
    let Some((_, device)) = device(false, BUDGET_BYTES) else { return };
    let ledger = device.ledger();
    assert!(Cuda::engine_allocate(64).is_null(), "nothing was lent");
    let workspace = ledger.account(Owner::Workspace, u64::MAX, 0);
    let lent = device.lend(&workspace, 1_000).unwrap();
    // Covered bytes are charged elsewhere, and may pay for a part of a block; bytes given back are covered again.
    let covered = Cuda::engine_allocate(900);
    assert!(!covered.is_null());
    assert_eq!(ledger.used_bytes(), 0);
    let charged = Cuda::engine_allocate(200);
    assert_eq!((ledger.used_bytes(), ledger.used_by(OwnerKind::Workspace)), (100, 100));
    Cuda::engine_free(covered);
    let covered = Cuda::engine_allocate(800);
    assert_eq!(ledger.used_bytes(), 100);
    // A refusal leaves the covered bytes unchanged.
    assert!(lent.take(BUDGET_BYTES).is_err());
    assert!(!Cuda::engine_allocate(100).is_null());
    assert_eq!(ledger.used_bytes(), 100);
    assert!(lent.refusal().is_none());
    assert!(Cuda::engine_allocate(BUDGET_BYTES as usize).is_null());
    assert_eq!(lent.refusal().unwrap().kind(), crate::error::Kind::Overloaded);
    // Another lending does not end the one before, and memory may be given back on any thread.
    let other = device.lend(&account(&device), 0).unwrap();
    let of_other = Cuda::engine_allocate(300);
    assert_eq!(ledger.used_by(OwnerKind::Invocation), 300);
    drop(other);
    assert!(!Cuda::engine_allocate(8).is_null());
    assert_eq!(ledger.used_by(OwnerKind::Workspace), 108);
    drop(lent);
    assert!(Cuda::engine_allocate(8).is_null());
    let addresses = [covered, charged, of_other].map(|address| address as usize);
    std::thread::scope(|scope| {
        scope.spawn(|| addresses.map(|address| Cuda::engine_free(address as *mut std::ffi::c_void)));
    });
    assert_eq!(ledger.used_bytes(), 8);
}

#[test]
fn weights_go_from_a_file_to_the_device_and_a_failure_leaves_nothing() {
    use std::io::Write;
    for eager in [false, true] {
        let Some((_, device)) = device(eager, BUDGET_BYTES) else { return };
        let (ledger, account) = (device.ledger(), account(&device));
        let bytes: Vec<u8> = (0..(9 << 20) + 5).map(|at: u64| (at * 31 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let ranges = [3..(6 << 20) + 4, (6 << 20) + 4..(6 << 20) + 4, 0..3, (6 << 20) + 5..(9 << 20) + 5];
        let total: u64 = (6 << 20) + 256 + 256 + (3 << 20);
        let workspace = ledger.account(Owner::Workspace, u64::MAX, 0);
        let lent = device.lend(&workspace, 9 << 20).unwrap();
        let before = device.copied();
        let weights = lent.load(&file, &ranges).unwrap();
        assert_eq!(ledger.used_by(OwnerKind::Workspace), total - (9 << 20));
        assert_eq!(device.copied(), Copied { weight_bytes: before.weight_bytes + total, ..before });
        for (range, address) in ranges.iter().zip(&weights.addresses) {
            let length = range.end - range.start;
            assert_eq!(address % 256, 0);
            // SAFETY: the weights stay there as long as they live.
            #[allow(unsafe_code)]
            let claimed = unsafe { lent.claim(*address, length) }.unwrap();
            let tensor = lent.tensor(&account, DType::U8, shape(&[length]), claimed, []).unwrap();
            assert!(tensor.read(0..length).unwrap() == bytes[range.start as usize..range.end as usize]);
        }
        drop(weights);
        assert_eq!(ledger.used_bytes(), 0);
        file.set_len(9 << 20).unwrap();
        let error = lent.load(&file, &ranges).map(drop).unwrap_err();
        assert!(error.chain().contains("reading a model's weights"), "{}", error.chain());
        assert_eq!(lent.load(&file, &[0..1, 0..BUDGET_BYTES * 2]).map(drop).unwrap_err().kind(), Kind::Overloaded);
        assert_eq!((ledger.used_bytes(), account.tensor_count()), (0, 0));
        // Chunks of failed reads are still used.
        file.set_len(bytes.len() as u64).unwrap();
        lent.load(&file, &ranges[2..3]).unwrap();
    }
}

#[test]
fn what_an_engine_leaves_becomes_tensors() {
    let Some((_, device)) = device(false, BUDGET_BYTES) else { return };
    let (workspace, account) = (device.ledger().account(Owner::Workspace, u64::MAX, 0), account(&device));
    let input = floats(&device, &account, &[1_000], 2.0);
    let lent = device.lend(&workspace, 0).unwrap();
    let address = Cuda::engine_allocate(4_000);
    let from = Cuda::address(&input).unwrap();
    // SAFETY: both hold 4,000 bytes until the end.
    #[allow(unsafe_code)]
    unsafe { device.core.driver.copy_within(from, address as u64, 4_000) }.unwrap();
    // SAFETY: as above.
    #[allow(unsafe_code)]
    let claimed =
        unsafe { [lent.claim(address as u64, 4_000), lent.claim(address as u64, 4_000), lent.claim(from, 4_000)] };
    let of_nothing = {
        // SAFETY: the range is empty.
        #[allow(unsafe_code)]
        unsafe {
            lent.claim(0, 0)
        }
    };
    // The engine gives back memory that is now a tensor's.
    Cuda::engine_free(address);
    let [own, copy, of_input] =
        claimed.map(|claimed| lent.tensor(&account, DType::F32, shape(&[1_000]), claimed.unwrap(), [&input]).unwrap());
    assert_eq!(Cuda::address(&own).unwrap(), address as u64);
    assert_ne!(Cuda::address(&of_input).unwrap(), from);
    let taken = Cuda::engine_allocate(4_000);
    assert_ne!(taken, address);
    for tensor in [&own, &copy, &of_input] {
        assert!(all_are(tensor, 2.0));
    }
    let nothing = lent.tensor(&account, DType::F32, shape(&[0]), of_nothing.unwrap(), []).unwrap();
    assert!(nothing.read(0..0).unwrap().is_empty());
    // SAFETY: as above.
    #[allow(unsafe_code)]
    let short = unsafe { lent.claim(from, 8) }.unwrap();
    assert!(lent.tensor(&account, DType::F32, shape(&[1_000]), short, []).is_err());
    Cuda::engine_free(taken);
    drop((own, copy, of_input, nothing, input));
    assert_eq!((device.ledger().used_bytes(), account.tensor_count()), (0, 0));
}

/// No operator's result shows what another tenant left in memory of any class: the results equal those of the CPU device, whose
/// memory is always zeroed.
#[test]
fn memory_that_changes_tenant_shows_nothing_of_the_one_before() {
    const SECRET: u8 = 0xc7;
    // The classes of small and medium blocks, on both sides of their bounds, and two large ones.
    let edges = (9..20).flat_map(|power| [1u64 << power, (1 << power) / 2 * 3]).chain([2 << 20, 4 << 20]);
    let sizes: Vec<u64> = edges.flat_map(|edge| [edge - 1, edge, edge + 1]).collect();
    for eager in [false, true] {
        let Some((_, device)) = device(eager, BUDGET_BYTES) else { return };
        let cpu = Cpu::new(Ledger::new(1 << 30), Limits::default());
        let of =
            |tenant: &str| device.ledger().account(Owner::Invocation { tenant: tenant.into() }, BUDGET_BYTES, 1_000);
        let (first, second) = (of("first"), of("second"));
        let on_cpu = cpu.ledger().account(Owner::Workspace, u64::MAX, u64::MAX);
        let stop = Stop::default();
        for &size in &sizes {
            let kept: Vec<Tensor> = (0..4)
                .map(|_| device.create(&first, DType::U8, shape(&[size]), &vec![SECRET; size as usize]).unwrap())
                .collect();
            let doubled = run(&device, &first, &Op::Arithmetic(Arithmetic::Maximum), &[&kept[0], &kept[1]]).unwrap();
            assert!(doubled[0].read(0..size).unwrap().iter().all(|byte| *byte == SECRET));
            drop((kept, doubled));
            let resize = Resize {
                height: 2,
                width: (size / 2).max(1) as u32,
                layout: ImageLayout::Chw,
                interpolation: Interpolation::Bilinear,
                coordinates: Coordinates::HalfPixel,
                antialias: false,
            };
            let before = device.memory_use().reused;
            let one = |dtype: DType, dims: &[u64], bytes: &[u8]| {
                let there = device.create(&second, dtype, shape(dims), bytes).unwrap();
                (there, cpu.create(&on_cpu, dtype, shape(dims), bytes).unwrap())
            };
            let (small, large) = (one(DType::U8, &[1, 2], &[1, 2]), one(DType::U8, &[size], &vec![3; size as usize]));
            let picture = one(DType::U8, &[1, 1, 2], &[7, 9]);
            let index = one(DType::S64, &[], &0i64.to_le_bytes());
            let boxes = one(DType::F32, &[1, 4], &[0f32, 0.0, 1.0, 1.0].map(f32::to_le_bytes).concat());
            let score = one(DType::F32, &[1], &0.5f32.to_le_bytes());
            let suppression = crate::device::Suppression { overlap: 0.5, score: 0.0, maximum: size.div_ceil(8) };
            let mut cases = vec![
                (
                    Op::Pad {
                        before: vec![0, 0],
                        after: vec![0, size - 1],
                        mode: crate::device::PadMode::Constant(0.0),
                    },
                    vec![&small],
                ),
                (Op::OneHot { depth: size, axis: -1, dtype: DType::U8 }, vec![&index]),
                (Op::NonMaximumSuppression(suppression), vec![&boxes, &score]),
                (Op::Resize(resize), vec![&picture]),
                (Op::Concat { axis: 0 }, vec![&large]),
                (Op::Sort { axis: 0, descending: false }, vec![&large]),
                (Op::TopK { k: size, axis: 0, largest: true }, vec![&large]),
                (Op::CumulativeSum { axis: 0, exclusive: true, reverse: false }, vec![&large]),
                (Op::Reduce { reduction: Reduction::Sum, axes: vec![0], keep_axes: true }, vec![&large]),
                (Op::Cast { dtype: DType::S8 }, vec![&large]),
            ];
            // Sorts of megabytes take seconds on this machine.
            cases.retain(|(op, _)| {
                size < 70_000 || matches!(op, Op::Pad { .. } | Op::OneHot { .. } | Op::Concat { .. })
            });
            let count = cases.len() as u64;
            for (op, inputs) in cases {
                let (there, here): (Vec<_>, Vec<_>) = inputs.iter().map(|(there, here)| (there, here)).unzip();
                let there = run(&device, &second, &op, &there).unwrap();
                let here = cpu.run(&on_cpu, &op, &here, device.limits(), &stop).unwrap();
                for (there, here) in there.iter().zip(&here) {
                    assert_eq!(there.shape(), here.shape());
                    let bytes = there.read(0..there.byte_length()).unwrap();
                    assert!(bytes == here.host_bytes().unwrap(), "{op:?} on {size} bytes");
                    assert_eq!(there.read(0..there.byte_length() + 1).unwrap_err().kind(), Kind::InvalidArgument);
                }
            }
            assert!(device.memory_use().reused >= before + count, "memory of the other tenant is used again");
        }
        assert_eq!((first.used_bytes(), second.used_bytes()), (0, 0));
    }
}
