//! Memory that is refused, at every place in turn, while operators and models work through it: each refusal is an error of
//! whoever asked, nothing is left behind, and others notice nothing.

use super::*;
use crate::device::{
    Comparison, Coordinates, ImageLayout, Interpolation, OnCpu, Op, PadMode, Reduction, Resize, SliceRange,
    Suppression, Unary, decode_image,
};
use std::sync::atomic::AtomicBool;

/// At most so many places are tried; the work has to need fewer.
const MOST: u64 = 200;
const LIMITS: [&str; 2] = ["room_wait_ms=0", "device_bytes=67108864"];

/// The bytes of results, in order.
type Results = Vec<Vec<u8>>;

fn picture() -> Vec<u8> {
    let pixels = image::RgbImage::from_fn(24, 20, |x, y| image::Rgb([(x * 10) as u8, (y * 12) as u8, (x * y) as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

/// Operators of every family, on what an image holds; gives three rows of 256 numbers and what was read on the way.
fn operators(house: &House, account: &Arc<Account>) -> Result<(Tensor, Results)> {
    let (device, limits, stop) = (&house.device, Limits::default(), Stop::default());
    let run = |op: Op, inputs: &[&Tensor]| device.run(account, &op, inputs, &limits, &stop);
    let one = |op: Op, inputs: &[&Tensor]| run(op, inputs).map(|mut results| results.swap_remove(0));
    let create = |dtype: DType, dims: &[u64], bytes: Vec<u8>| {
        device.create(account, dtype, Shape::new(dims, limits.tensor_rank)?, &bytes)
    };
    let (shape, pixels) = decode_image(&picture(), account, &limits, &stop)?;
    let image = device.adopt(account, DType::U8, shape, Box::new(pixels))?;
    let resize = Resize {
        height: 16,
        width: 16,
        layout: ImageLayout::Hwc,
        interpolation: Interpolation::Bilinear,
        coordinates: Coordinates::HalfPixel,
        antialias: true,
    };
    let small = one(Op::Resize(resize), &[&image])?;
    drop(image);
    let normal = one(Op::Normalize { axis: -1, scale: vec![0.01, 0.02, 0.03], offset: vec![-0.5] }, &[&small])?;
    let planes = one(Op::Permute { axes: vec![2, 0, 1] }, &[&normal])?.reshape(&[3, 256], &limits)?;
    let padded = one(Op::Pad { before: vec![0, 1], after: vec![1, 0], mode: PadMode::Edge }, &[&planes])?;
    let parts = run(Op::Split { axis: 1, lengths: vec![1, 256] }, &[&padded])?;
    let both = one(Op::Concat { axis: 0 }, &[&planes, &parts[1]])?;
    let rows = both.slice(vec![SliceRange { axis: 0, start: 1, end: 6, step: 2 }], &limits, &stop)?;
    let columns = one(Op::Permute { axes: vec![1, 0] }, &[&both])?;
    let product = one(Op::Matmul, &[&rows, &columns])?;
    let half = one(Op::Cast { dtype: DType::F16 }, &[&product])?;
    let back = one(Op::Cast { dtype: DType::F32 }, &[&half])?;
    let soft = one(Op::Softmax { axis: -1 }, &[&back])?;
    let indices = create(DType::S64, &[2], [5i64, -7].iter().flat_map(|index| index.to_le_bytes()).collect())?;
    let picked = one(Op::Gather { axis: 1 }, &[&product, &indices])?;
    let hot = one(Op::OneHot { depth: 7, axis: -1, dtype: DType::F32 }, &[&indices])?;
    let less = one(Op::Compare(Comparison::Less), &[&soft, &product])?;
    let chosen = one(Op::Select, &[&less, &soft, &back])?;
    let mask = one(Op::Unary(Unary::Not), &[&less])?.slice(
        vec![SliceRange { axis: 0, start: 0, end: 1, step: 1 }],
        &limits,
        &stop,
    )?;
    let tokens = product.reshape(&[1, 7, 3], &limits)?;
    let pooled = one(Op::MaskedMeanPool, &[&tokens, &mask])?;
    let boxes = [[0.0f32, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.5], [9.0, 9.0, 8.0, 8.0]].concat();
    let boxes = create(DType::F32, &[3, 4], boxes.iter().flat_map(|value| value.to_le_bytes()).collect())?;
    let scores = create(DType::F32, &[3], [0.8f32, 0.9, 0.7].iter().flat_map(|value| value.to_le_bytes()).collect())?;
    let kept = Op::NonMaximumSuppression(Suppression { overlap: 0.5, score: 0.1, maximum: 3 });
    let mut results = vec![picked, hot, chosen, pooled];
    results.extend(run(kept, &[&boxes, &scores])?);
    results.extend(run(Op::Sort { axis: 1, descending: true }, &[&product])?);
    results.extend(run(Op::TopK { k: 3, axis: 1, largest: true }, &[&soft])?);
    for op in [
        Op::CumulativeSum { axis: 1, exclusive: false, reverse: true },
        Op::L2Normalize { axis: 1, epsilon: 1e-6 },
        Op::Reduce { reduction: Reduction::Mean, axes: vec![0], keep_axes: false },
        Op::Argmax { axis: 1, keep_axis: false },
        Op::Stack { axis: 0 },
    ] {
        results.push(one(op, &[&product])?);
    }
    let results = results.iter().map(|tensor| tensor.read(0..tensor.byte_length())).collect::<Result<_>>()?;
    Ok((rows, results))
}

/// All of it: operators, text, a model on each engine, outputs that outlive inputs and models.
async fn work(house: &House, account: &Arc<Account>) -> Result<Results> {
    let (rows, mut results) = operators(house, account)?;
    let words = ["a", "", "žluť", "longer than any small string is"].map(str::to_owned).to_vec();
    let text = Tensor::text(&house.device, account, Shape::new(&[4], 8)?, words.clone())?;
    let text = text.reshape(&[2, 2], &Limits::default())?;
    let lease = house.models.open("default", "text").await?;
    let mut outputs = infer(&lease, account, &[("x", &text)]).await?;
    assert_eq!(outputs[0].1.strings()?, words);
    drop((lease, text));
    for name in ["matrix", "matrix@rten"] {
        let lease = house.models.open("default", name).await?;
        outputs.extend(infer(&lease, account, &[("x", &rows)]).await?);
    }
    drop(rows);
    for name in ["text", "matrix"] {
        assert!(house.models.unload(name).await, "{name}");
    }
    for (_, tensor) in &outputs[1..] {
        results.push(tensor.read(0..tensor.byte_length())?);
    }
    Ok(results)
}

/// x of [n, 256] by a matrix, and what follows.
fn matrix() -> Graph {
    let weights: Vec<f32> = (0..256 * 8).map(|at| (at * 7919 % 1013) as f32 / 1013.0 - 0.5).collect();
    let graph = Graph::default().input("x", F32, "n 256").constant("w", &[256, 8], &weights);
    graph.node("MatMul", &["x", "w"], &["a"]).node("Sigmoid", &["a"], &["y"]).output("y", F32, "n 8")
}

fn furnish(house: &House) {
    let text = Graph::default().input("x", TEXT, "n m").output("y", TEXT, "n m");
    house.shelf.write("text", &[("model.onnx", &text.node("Identity", &["x"], &["y"]).model())]);
    for name in ["matrix", "theirs"] {
        house.shelf.write(name, &[("model.onnx", &matrix().model())]);
    }
}

fn owned(house: &House, tenant: &str) -> Arc<Account> {
    house.device.ledger().account(Owner::Invocation { tenant: tenant.into() }, u64::MAX, u64::MAX)
}

/// Nothing is left of what failed: tensors, bytes, models.
async fn nothing_is_left(house: &House, account: &Account, model_bytes: u64, when: &str) {
    for name in ["text", "matrix"] {
        assert!(house.models.unload(name).await, "{when}: {name}");
    }
    assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0), "{when}");
    let ledger = house.device.ledger();
    assert_eq!((ledger.used_by(OwnerKind::Model), ledger.used_by(OwnerKind::Workspace)), (model_bytes, 0), "{when}");
}

/// Refuses each charge of the work in turn, beside a neighbour who works without pause.
async fn each_charge_refused(house: House) {
    furnish(&house);
    let house = Arc::new(house);
    let account = owned(&house, "ours");
    let expected = work(&house, &account).await.unwrap();
    let theirs = owned(&house, "theirs");
    let ledger = house.device.ledger().clone();
    let over = Arc::new(AtomicBool::new(false));
    let lease = house.models.open("default", "theirs").await.unwrap();
    let model_bytes = ledger.used_by(OwnerKind::Model);
    let neighbour = tokio::spawn({
        let (house, theirs, over, expected) = (house.clone(), theirs.clone(), over.clone(), expected.clone());
        async move {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let (rows, results) = operators(&house, &theirs).unwrap();
                assert!(results[..] == expected[..results.len()]);
                let outputs = infer(&lease, &theirs, &[("x", &rows)]).await.unwrap();
                let output = outputs[0].1.read(0..outputs[0].1.byte_length()).unwrap();
                assert!(output == expected[results.len()]);
                rounds += 1;
            }
            rounds
        }
    });
    let mut refused = 0;
    for count in 0..MOST {
        ledger.refuse_after(count, theirs.owner());
        let result = work(&house, &account).await;
        if !ledger.has_refused() {
            assert!(result.unwrap() == expected);
            break;
        }
        refused += 1;
        let error = result.map(drop).expect_err("somebody was refused memory and says nothing");
        assert_eq!(error.kind(), Kind::Overloaded, "charge {count}: {}", error.chain());
        nothing_is_left(&house, &account, model_bytes, &format!("charge {count} refused: {error}")).await;
        let again = work(&house, &account).await.unwrap_or_else(|error| panic!("after charge {count}: {error}"));
        assert!(again == expected, "after charge {count}");
    }
    over.store(true, Ordering::Relaxed);
    let rounds = neighbour.await.unwrap();
    println!("{}: {refused} charges refused in turn, a neighbour's {rounds} rounds beside", house.device.name());
    assert!((50..MOST).contains(&refused) && rounds > 10, "{refused} {rounds}");
    assert!(house.models.unload("theirs").await);
    assert_eq!((ledger.used_bytes(), theirs.tensor_count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_charge_refused_in_turn_is_an_error_of_whoever_asked() {
    let Some(library) = wanted("HEARTH_ORT_LIB") else { return };
    each_charge_refused(House::with(Some(library), 1, &LIMITS)).await;
}

/// A house whose device is a GPU that the CPU plays.
fn emulated(driver: &Arc<OnCpu>) -> Option<House> {
    let folder = tempfile::tempdir().unwrap();
    let raw = RawConfig {
        data: Some(folder.path().join("data")),
        ort_lib: Some(wanted("HEARTH_ORT_LIB")?),
        model_threads: Some(1),
        limits: LIMITS.map(str::to_owned).to_vec(),
        ..RawConfig::default()
    };
    let config = raw.resolve().unwrap();
    Some(House::on(driver.device(config.limits.device_bytes), &config, folder))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_charge_refused_in_turn_is_an_error_on_a_gpu_too() {
    let Some(driver) = OnCpu::where_it_can_be(false) else { return };
    let Some(house) = emulated(&driver) else { return };
    each_charge_refused(house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_whose_memory_ends_at_any_allocation_refuses_and_goes_on() {
    let mut failed = 0;
    for count in 0..MOST {
        // A new one each time: memory that was kept would serve the next.
        let Some(driver) = OnCpu::where_it_can_be(count % 2 == 0) else { return };
        let Some(house) = emulated(&driver) else { return };
        furnish(&house);
        let (account, theirs) = (owned(&house, "ours"), owned(&house, "theirs"));
        let held = house.device.create(&theirs, DType::U8, Shape::new(&[3], 8).unwrap(), &[1, 2, 3]).unwrap();
        driver.fail_after(Some(count));
        let result = work(&house, &account).await;
        let was_refused = driver.has_failed();
        driver.fail_after(None);
        match (result, was_refused) {
            (Ok(_), false) => break,
            // A chunk of pinned memory that is not there is made up for by those that are.
            (Ok(_), true) => {}
            (Err(error), _) => {
                assert_eq!(error.kind(), Kind::Overloaded, "allocation {count}: {}", error.chain());
                failed += 1;
            }
        }
        nothing_is_left(&house, &account, 0, &format!("allocation {count}")).await;
        let first = work(&house, &account).await.unwrap_or_else(|error| panic!("after allocation {count}: {error}"));
        assert!(first == work(&house, &account).await.unwrap(), "after allocation {count}");
        assert_eq!(held.read(0..3).unwrap(), [1, 2, 3]);
        drop(held);
        assert_eq!(house.device.ledger().used_bytes(), 0);
        drop(house);
        let begun = Instant::now();
        while driver.taken() != (0, 0) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?} are left", driver.taken());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    println!("{failed} allocations of the driver failed in turn");
    assert!((20..MOST).contains(&failed), "{failed}");
}

/// Sums of a table's rows; an index beyond its end is found while the model runs.
fn lookup() -> Graph {
    let table: Vec<f32> = (0..64 * 256).map(|at| at as f32).collect();
    let graph = Graph::default().input("ids", S64, "n").constant("t", &[64, 256], &table);
    graph.node("Gather", &["t", "ids"], &["a"]).node("Add", &["a", "a"], &["y"]).output("y", F32, "n 256")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_fail_in_the_middle_fail_alone() {
    let Some(house) = House::new(1) else { return };
    house.shelf.write("lookup", &[("model.onnx", &lookup().model())]);
    let house = Arc::new(house);
    let empty = house.device.ledger().used_bytes();
    for name in ["lookup", "lookup@rten"] {
        let lease = house.models.open("default", name).await.unwrap();
        let loaded = house.device.ledger().used_bytes();
        let runs = (0..64i64).map(|number| {
            let (house, lease) = (house.clone(), lease.clone());
            tokio::spawn(async move {
                // Every fourth asks for a row that is not there, every seventh for more than it may hold.
                let (beyond, poor) = (number % 4 == 3, number % 7 == 6);
                let account = house.device.ledger().account(
                    Owner::Invocation { tenant: "ours".into() },
                    if poor { 3 * 8 + 2 * 3 * 4 } else { u64::MAX },
                    u64::MAX,
                );
                let ids = [number, 0, if beyond { 64 + number } else { 63 - number }];
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                let ids_tensor = house.device.create(&account, DType::S64, Shape::new(&[3], 8)?, &bytes)?;
                let result = infer(&lease, &account, &[("ids", &ids_tensor)]).await;
                drop(ids_tensor);
                match result {
                    Err(error) if beyond => assert_eq!(error.kind(), Kind::InvalidArgument, "{}", error.chain()),
                    Err(error) if poor => assert_eq!(error.kind(), Kind::LimitExceeded, "{}", error.chain()),
                    Err(error) => return Err(error),
                    Ok(_) if beyond || poor => panic!("run {number} gave an answer"),
                    Ok(outputs) => {
                        let expected = ids.iter().flat_map(|id| (0..256).map(move |at| 2.0 * (id * 256 + at) as f32));
                        let expected: Vec<u8> = expected.flat_map(|value| value.to_le_bytes()).collect();
                        assert!(outputs[0].1.host_bytes().unwrap() == expected, "run {number}");
                    }
                }
                assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0), "run {number}");
                Ok(())
            })
        });
        for run in runs.collect::<Vec<_>>() {
            run.await.unwrap().unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
        }
        assert_eq!(house.device.ledger().used_bytes(), loaded, "{name}");
    }
    assert!(house.models.unload("lookup").await);
    assert_eq!(house.device.ledger().used_bytes(), empty);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_are_ended_or_find_no_memory_leave_a_session_that_works() {
    let Some(house) = House::new(1) else { return };
    let lease = house.lease("long", long()).await;
    let account = house.account();
    let loaded = house.device.ledger().used_bytes();
    let large = || house.device.create(&account, DType::F32, Shape::new(&[384, 384], 8).unwrap(), &[0; 384 * 384 * 4]);
    let small = house.floats(&[1, 384], &[1.0; 384]);
    let expected = infer(&lease, &account, &[("x", &small)]).await.unwrap()[0].1.host_bytes().unwrap().to_vec();
    for ending in 0..6 {
        let stop = Stop::default();
        let run = lease.infer(&account, vec![("x".to_owned(), large().unwrap())], &stop);
        let later = Duration::from_millis(20 + 15 * ending);
        match ending % 2 {
            // Its client goes away, or says so.
            0 => drop(tokio::time::timeout(later, run).await.map(drop).unwrap_err()),
            _ => {
                let ended = async {
                    tokio::time::sleep(later).await;
                    stop.cancel();
                };
                let (result, ()) = tokio::join!(run, ended);
                assert_eq!(result.map(drop).unwrap_err().kind(), Kind::Cancelled);
            }
        }
        let again = infer(&lease, &account, &[("x", &small)]).await.unwrap();
        assert!(again[0].1.host_bytes().unwrap() == expected, "{ending}");
    }
    // Runs give back their inputs once they have really ended.
    let begun = Instant::now();
    while account.used_bytes() > 0 {
        assert!(begun.elapsed() < SOON, "{} bytes are left", account.used_bytes());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(small);
    assert_eq!((house.device.ledger().used_bytes(), account.tensor_count()), (loaded, 0));

    let grow = Graph::default().input("a", F32, "1").input("shape", S64, "r").node("Expand", &["a", "shape"], &["b"]);
    let lease = house.lease("grow", grow.node("Exp", &["b"], &["c"]).output("c", F32, "k")).await;
    let sized = |size: u64| {
        let one = house.device.create(&account, DType::F32, Shape::new(&[1], 8).unwrap(), &[0; 4]).unwrap();
        let size = house.device.create(&account, DType::S64, Shape::new(&[1], 8).unwrap(), &size.to_le_bytes());
        (one, size.unwrap())
    };
    for _ in 0..3 {
        let (one, huge) = sized(1 << 45);
        let error = infer(&lease, &account, &[("a", &one), ("shape", &huge)]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Overloaded, "{}", error.chain());
        let (one, few) = sized(3);
        let outputs = infer(&lease, &account, &[("a", &one), ("shape", &few)]).await.unwrap();
        assert_eq!(outputs[0].1.host_bytes().unwrap(), 1f32.to_le_bytes().repeat(3));
    }
    assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_read_are_told_and_read_when_they_can_be_again() {
    let Some(house) = House::new(1) else { return };
    let weights: Vec<u8> = (0..64 * 8).flat_map(|at| (at as f32).to_le_bytes()).collect();
    let graph = || {
        let graph = Graph::default().input("x", F32, "n 64").located("w", &[64, 8], "w.data", 0, 64 * 8 * 4);
        graph.node("MatMul", &["x", "w"], &["y"]).output("y", F32, "n 8").model()
    };
    let place = |name: &str| house.shelf.folder.as_ref().unwrap().path().join("m").join(name);
    let restore = || {
        let _ = std::fs::remove_dir_all(house.shelf.folder.as_ref().unwrap().path().join("m"));
        house.shelf.write("m", &[("model.onnx", &graph()), ("w.data", &weights)])
    };
    let other = house.lease("other", matrix()).await;
    let (account, before) = (house.account(), house.device.ledger().used_bytes());
    let ones = house.floats(&[1, 256], &[1.0; 256]);
    let undisturbed = infer(&other, &account, &[("x", &ones)]).await.unwrap()[0].1.host_bytes().unwrap().to_vec();
    let gone = |name: &str| std::fs::remove_file(place(name)).unwrap();
    let faults: [(&str, &dyn Fn()); 8] = [
        ("the weights are cut off", &|| std::fs::write(place("w.data"), &weights[..weights.len() - 1]).unwrap()),
        ("the weights are empty", &|| std::fs::write(place("w.data"), []).unwrap()),
        ("the weights are gone", &|| gone("w.data")),
        ("the weights are a folder", &|| {
            gone("w.data");
            std::fs::create_dir(place("w.data")).unwrap();
        }),
        ("the weights lead to themselves", &|| {
            gone("w.data");
            std::os::unix::fs::symlink("w.data", place("w.data")).unwrap();
        }),
        ("the model is cut off", &|| std::fs::write(place("model.onnx"), &graph()[..40]).unwrap()),
        ("the model is gone", &|| gone("model.onnx")),
        // A read of it fails, as on a broken disk.
        ("the model is a folder", &|| {
            gone("model.onnx");
            std::fs::create_dir(place("model.onnx")).unwrap();
        }),
    ];
    for (what, fault) in faults {
        for name in ["m", "m@rten"] {
            restore();
            fault();
            let (a, b) = tokio::join!(house.models.open("default", name), house.models.open("default", name));
            for error in [a, b].map(|opened| opened.map(drop).expect_err(what)) {
                assert_eq!(error.kind(), Kind::Unavailable, "{name}: {what}: {}", error.chain());
                let folder = house.shelf.folder.as_ref().unwrap().path().to_str().unwrap();
                assert!(
                    error.message().contains("'m' cannot be loaded") && !error.message().contains(folder),
                    "{error}"
                );
            }
            assert_eq!(house.device.ledger().used_bytes(), before + ones.byte_length(), "{name}: {what}");
            let outputs = infer(&other, &account, &[("x", &ones)]).await.unwrap();
            assert!(outputs[0].1.host_bytes().unwrap() == undisturbed, "{name}: {what}");
            restore();
            let lease =
                house.models.open("default", name).await.unwrap_or_else(|error| panic!("{name}: {what}: {error}"));
            let x = house.floats(&[1, 64], &[1.0; 64]);
            let outputs = infer(&lease, &account, &[("x", &x)]).await.unwrap();
            let sums: Vec<u8> = (0..8)
                .flat_map(|column| (0..64).map(|row| (row * 8 + column) as f32).sum::<f32>().to_le_bytes())
                .collect();
            assert_eq!(outputs[0].1.host_bytes().unwrap(), sums, "{name}: {what}");
            drop((lease, x, outputs));
            assert!(house.models.unload("m").await);
        }
    }
    drop(ones);
    assert_eq!((house.device.ledger().used_bytes(), account.used_bytes()), (before, 0));
}
