//! The engine on a GPU, with real models. Where there is no GPU these tests say that they were skipped, unless
//! `HEARTH_REQUIRE_GPU` is 1; they take the models of `HEARTH_TEST_MODELS` that are there.

use super::*;
use crate::device::{Copied, Cuda, gpu_if_there};
use crate::model::check::compare::{Output, Tolerance, compare};

/// A house whose device is GPU 0, and the GPU.
fn house(limits: &[&str]) -> Option<(House, Arc<Cuda>)> {
    let folder = tempfile::tempdir().unwrap();
    let raw = RawConfig {
        data: Some(folder.path().join("data")),
        ort_lib: wanted("HEARTH_ORT_LIB"),
        nvrtc_lib: std::env::var_os("HEARTH_NVRTC_LIB").map(Into::into),
        limits: limits.iter().map(|&limit| limit.to_owned()).collect(),
        ..RawConfig::default()
    };
    let config = raw.resolve().unwrap();
    let device = gpu_if_there(&config)?;
    let house = House::on(device.clone(), &config, folder);
    let engines = house.models.engines();
    let engine = engines.iter().find(|engine| engine.name == EngineName::Onnxruntime).unwrap();
    assert_eq!(engine.device.as_deref(), Some("cuda:0"), "{:?}", engine.reason);
    Some((house, device))
}

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    tensor.read(0..tensor.byte_length()).unwrap()
}

fn differs(dtype: DType, dims: &[u64], found: &[u8], reference: &[u8]) -> (f64, Option<String>) {
    let output = |bytes| Output { dtype, dims, bytes };
    let difference = compare(output(found), output(reference), Tolerance::of(dtype));
    (difference.largest, difference.fault)
}

/// Bytes of tensors up and down since `before`.
fn moved(device: &Cuda, before: Copied) -> (u64, u64) {
    let now = device.copied();
    (now.uploaded_bytes - before.uploaded_bytes, now.downloaded_bytes - before.downloaded_bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_models_on_a_gpu_give_what_python_gives_on_the_cpu_and_nothing_is_copied_but_what_goes_in_and_out() {
    let Some((house, device)) = house(&[]) else { return };
    let (Some(models), Some(python)) = (wanted("HEARTH_TEST_MODELS"), wanted("HEARTH_TEST_PYTHON")) else { return };
    let ledger = Arc::clone(device.ledger());
    let (empty, folder) = (ledger.used_bytes(), tempfile::tempdir().unwrap());
    let mut tried = 0;
    for name in REAL.into_iter().chain(["silero-vad"]).filter(|name| models.join(name).exists()) {
        tried += 1;
        let out = folder.path().join(name);
        let cases = cases_of_python(&python, &models.join(name), &out);
        let package = house.shelf.put(name, &models.join(name));
        let begun = Instant::now();
        let lease = house.models.open("default", name).await.unwrap();
        let load_ms = begun.elapsed().as_millis();
        assert_eq!(ledger.used_by(OwnerKind::Model), package.weights_bytes(), "{name}");
        let beyond = ledger.used_bytes() - empty - package.weights_bytes();
        let held = device.memory_use().used_bytes - empty;
        let read = |array: &Array| std::fs::read(out.join(&array.file)).unwrap();
        let (account, stop) = (house.account(), Stop::default());
        let (mut largest, mut times) = (0f64, Vec::new());
        for case in &cases {
            let before = device.copied();
            let tensor = |array: &Array| {
                let (dtype, shape) = (DType::from_word(&array.dtype).unwrap(), Shape::new(&array.shape, 8).unwrap());
                house.device.create(&account, dtype, shape, &read(array)).unwrap()
            };
            let inputs: Vec<_> = case.inputs.iter().map(|array| (array.name.clone(), tensor(array))).collect();
            let (up, _) = moved(&device, before);
            assert_eq!(up, inputs.iter().map(|(_, tensor)| tensor.byte_length()).sum::<u64>());
            for round in 0..5 {
                let before = device.copied();
                let begun = Instant::now();
                let run = lease.infer(&account, inputs.clone(), &stop).await.unwrap();
                assert_eq!(moved(&device, before), (0, 0), "{name}");
                for ((output, tensor), expected) in run.outputs.iter().zip(&case.outputs) {
                    assert_eq!((output, tensor.shape().dims()), (&expected.name, &expected.shape[..]), "{name}");
                    let (difference, fault) =
                        differs(tensor.dtype(), tensor.shape().dims(), &bytes_of(tensor), &read(expected));
                    assert_eq!(fault, None, "{name}: {output}, run {round}");
                    largest = largest.max(difference);
                }
                let down: u64 = run.outputs.iter().map(|(_, tensor)| tensor.byte_length()).sum();
                assert_eq!(moved(&device, before), (0, down), "{name}");
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        // Many at once, in one queue.
        let together = || cases.iter().cycle().take(cases.len() * 4);
        let runs: Vec<_> = together()
            .map(|case| {
                let tensor = |array: &Array| {
                    let shape = Shape::new(&array.shape, 8).unwrap();
                    let dtype = DType::from_word(&array.dtype).unwrap();
                    house.device.create(&account, dtype, shape, &read(array)).unwrap()
                };
                let inputs: Vec<_> = case.inputs.iter().map(|array| (array.name.clone(), tensor(array))).collect();
                let (lease, account, stop) = (lease.clone(), account.clone(), stop.clone());
                tokio::spawn(async move { lease.infer(&account, inputs, &stop).await })
            })
            .collect();
        for (case, run) in together().zip(runs) {
            for ((_, tensor), expected) in run.await.unwrap().unwrap().outputs.iter().zip(&case.outputs) {
                let (_, fault) = differs(tensor.dtype(), tensor.shape().dims(), &bytes_of(tensor), &read(expected));
                assert_eq!(fault, None, "{name}, together");
            }
        }
        assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0), "{name}");
        times.sort_by(f64::total_cmp);
        eprintln!(
            "on {}: {name}: largest difference {largest:.1e}; loaded in {load_ms} ms; weights {} bytes, beyond them {beyond}, \
             blocks {held}; a run with its outputs read, median {:.2} ms, least {:.2} ms",
            device.name(),
            package.weights_bytes(),
            times[times.len() / 2],
            times[0]
        );
        drop(lease);
        assert!(house.models.unload(name).await);
        assert_eq!(ledger.used_bytes(), empty, "{name}");
    }
    assert!(tried > 0, "{} holds none of the models", models.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_operators_a_model_and_operators_copies_the_request_in_and_the_result_out() {
    let Some((house, device)) = house(&[]) else { return };
    let graph = Graph::default()
        .input("x", F32, "n 512")
        .constant("w", &[512, 256], &[0.01; 512 * 256])
        .node("MatMul", &["x", "w"], &["y"])
        .output("y", F32, "n 256");
    let lease = house.lease("matrix", graph).await;
    let (account, stop, limits) = (house.account(), Stop::default(), Limits::default());
    let run = |op: &crate::device::Op, inputs: &[&Tensor]| device.run(&account, op, inputs, &limits, &stop).unwrap();
    use crate::device::Op;
    let before = device.copied();
    let image = house.tensor(DType::U8, &[4, 512], &[100; 4 * 512]);
    let scaled = run(&Op::Normalize { axis: 0, scale: vec![0.5; 4], offset: vec![0.0; 4] }, &[&image]);
    let outputs = infer(&lease, &account, &[("x", &scaled[0])]).await.unwrap();
    let softmax = run(&Op::Softmax { axis: -1 }, &[&outputs[0].1]);
    let best = run(&Op::TopK { k: 3, axis: -1, largest: true }, &[&softmax[0]]);
    assert_eq!(moved(&device, before), (4 * 512, 0));
    let values: Vec<f32> =
        bytes_of(&best[0]).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert!(values.len() == 12 && values.iter().all(|value| (value - 1.0 / 256.0).abs() < 1e-6), "{values:?}");
    assert_eq!(moved(&device, before), (4 * 512, 4 * 3 * 4));
    // The model gave the inputs' own wrong index on to whoever reads its output.
    let indices = house.tensor(DType::S64, &[1], &9i64.to_le_bytes());
    let wrong = run(&Op::Gather { axis: 0 }, &[&scaled[0], &indices]);
    let outputs = infer(&lease, &account, &[("x", &wrong[0])]).await.unwrap();
    let error = outputs[0].1.read(0..4).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_needs_more_memory_than_there_is_fails_alone() {
    // An output of 512 MiB and more in between on a budget of 640 MiB, of which some is taken.
    let Some((house, device)) = house(&["device_bytes=671088640", "tensor_bytes=671088640"]) else { return };
    let graph = Graph::default()
        .input("x", F32, "n 64")
        .constant("w", &[64, 8_192], &[0.5; 64 * 8_192])
        .node("MatMul", &["x", "w"], &["a"])
        .node("Relu", &["a"], &["b"])
        .node("Exp", &["b"], &["y"])
        .output("y", F32, "n 8192");
    let lease = house.lease("wide", graph).await;
    let account = house.account();
    let empty = device.ledger().used_bytes();
    for _ in 0..3 {
        let large = house.tensor(DType::F32, &[16_384, 64], &vec![0; 16_384 * 64 * 4]);
        let error = infer(&lease, &account, &[("x", &large)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Overloaded, "{}", error.chain());
        drop(large);
        device.health().unwrap();
        let small = house.tensor(DType::F32, &[2, 64], &[0; 2 * 64 * 4]);
        let outputs = infer(&lease, &account, &[("x", &small)]).await.unwrap();
        assert!(bytes_of(&outputs[0].1).chunks_exact(4).all(|bytes| bytes == 1f32.to_le_bytes()));
    }
    assert_eq!(device.ledger().used_bytes(), empty);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_models_than_memory_simply_work_on_a_gpu() {
    const BUDGET: u64 = 112 << 20;
    const WIDTH: usize = 256;
    let Some((house, device)) = house(&[&format!("device_bytes={BUDGET}")]) else { return };
    let ledger = Arc::clone(device.ledger());
    let (empty, held) = (ledger.used_bytes(), device.memory_use().used_bytes);
    let house = Arc::new(house);
    // Each multiplies by ones times its number, so that an answer tells whose weights it was made with.
    let columns = |number: usize| 2_048 * (number + 1);
    let mut total = 0;
    for number in 0..12usize {
        let graph = Graph::default()
            .input("x", F32, "n 256")
            .constant("w", &[WIDTH as i64, columns(number) as i64], &vec![number as f32; WIDTH * columns(number)])
            .node("MatMul", &["x", "w"], &["y"])
            .output("y", F32, &format!("n {}", columns(number)));
        total += house.shelf.write(&format!("m{number}"), &[("model.onnx", &graph.model())]).weights_bytes();
    }
    let budget_left = BUDGET - empty;
    assert!(total > budget_left * 3 / 2, "{total} bytes of models in {budget_left}");
    for (kind, trace) in crate::model::residency::traces::traces(12, 300, 23) {
        let (begun, next, trace) = (Instant::now(), Arc::new(std::sync::atomic::AtomicUsize::new(0)), Arc::new(trace));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (house, next, trace) = (house.clone(), next.clone(), trace.clone());
                tokio::spawn(async move {
                    while let Some(&number) = trace.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let lease = house.models.open("default", &format!("m{number}")).await.unwrap();
                        let account = house.account();
                        let x = house.floats(&[1, WIDTH as u64], &[1.0; WIDTH]);
                        let outputs = infer(&lease, &account, &[("x", &x)]).await.unwrap();
                        let right = (number as f32 * WIDTH as f32).to_le_bytes();
                        let bytes = bytes_of(&outputs[0].1);
                        assert!(
                            bytes.len() == columns(number) * 4 && bytes.chunks_exact(4).all(|bytes| bytes == right)
                        );
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let loads: u64 = house.models.states().iter().map(|model| model.loads).sum();
        eprintln!(
            "on {}: {kind}: 300 requests of 12 models in {} ms, {loads} loads so far, at most {} of {BUDGET} bytes at once",
            device.name(),
            begun.elapsed().as_millis(),
            ledger.peak_bytes().max(device.memory_use().peak_bytes)
        );
    }
    assert!(ledger.peak_bytes() <= BUDGET && device.memory_use().peak_bytes <= BUDGET);
    assert_eq!(ledger.used_by(OwnerKind::Invocation), 0);
    for number in 0..12 {
        house.models.unload(&format!("m{number}")).await;
    }
    assert_eq!((ledger.used_bytes(), device.memory_use().used_bytes), (empty, held));
}
