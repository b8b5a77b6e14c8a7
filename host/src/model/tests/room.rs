//! More models than memory: no request fails, no byte is over budget, and nothing is left behind.

use super::super::residency::traces::{Item, costs, traces};
use super::*;
use std::sync::atomic::AtomicUsize;

/// Models that set-up takes, with what their free dimensions are here.
const REAL: [(&str, u64); 5] =
    [("magika", 1), ("minilm", 4), ("ocr-detect", 64), ("ocr-recognize", 64), ("ocr-classify", 48)];
const GENERATED: u64 = 7;

impl House {
    /// A model of two nodes that counts as so many bytes: beside it lies a file that nobody reads.
    fn heavy(&self, name: &str, bytes: u64) {
        let graph = Graph::default().input("x", F32, "n").node("Relu", &["x"], &["y"]).output("y", F32, "n");
        self.shelf.write(name, &[("model.onnx", &graph.model())]);
        let file = std::fs::File::create(self.shelf.folder(name).join("weights.bin")).unwrap();
        file.set_len(bytes).unwrap();
    }

    /// Opens a model and runs it on inputs of ones.
    async fn request(&self, name: &str, free: u64) -> Result<()> {
        let lease = self.models.open("default", name).await?;
        let account = self.account();
        let inputs = lease.signature().inputs.iter().map(|input| {
            let first = |index: usize| if index == 0 { 1 } else { free };
            let dims: Vec<u64> = (input.shape.iter().enumerate())
                .map(|(index, dim)| if let Dim::Fixed(size) = dim { *size } else { first(index) })
                .collect();
            let shape = Shape::new(&dims, 8).unwrap();
            let one: &[u8] = match input.dtype {
                DType::F32 => &[0, 0, 128, 63],
                DType::S64 => &[1, 0, 0, 0, 0, 0, 0, 0],
                DType::S32 => &[1, 0, 0, 0],
                other => panic!("{name} takes {other}"),
            };
            let bytes = one.repeat(shape.elements() as usize);
            Ok((input.name.clone(), self.device.create(&account, input.dtype, shape, &bytes)?))
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        lease.infer(&account, inputs, &Stop::default()).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_models_than_memory_simply_work() {
    follow_traces(1_000, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "10,000 requests on each trace take minutes; `cargo xtask soak` runs it"]
async fn more_models_than_memory_simply_work_for_long() {
    follow_traces(10_000, true).await;
}

/// So many requests on each trace, by four clients, with a third of the models' bytes; with lines that tell how far it is.
async fn follow_traces(requests: usize, tells: bool) {
    let (Some(library), Some(real)) = (wanted("HEARTH_ORT_LIB"), wanted("HEARTH_TEST_MODELS")) else { return };
    const BUDGET: u64 = 184 << 20;
    let house = Arc::new(House::with(Some(library), 1, &[&format!("device_bytes={BUDGET}")]));
    let mut names: Vec<(String, u64)> = Vec::new();
    for (name, free) in REAL {
        house.shelf.put(name, &real.join(name));
        names.push((name.to_owned(), free));
    }
    for number in 1..=GENERATED {
        let name = format!("generated-{number}");
        house.heavy(&name, (number * number * 22 / 10 + 15) << 20);
        names.push((name, 3));
    }
    let bytes: Vec<u64> = names.iter().map(|(name, _)| package(&house.shelf.folder(name)).weights_bytes()).collect();
    let total: u64 = bytes.iter().sum();
    assert!((BUDGET * 5 / 2..BUDGET * 7 / 2).contains(&total), "{total} bytes are about three times the budget");
    let ledger = house.device.ledger().clone();
    for (kind, trace) in traces(names.len(), requests, 11) {
        let before: u64 = house.models.states().iter().map(|model| model.loads).sum();
        let begun = Instant::now();
        let (next, trace, names) = (Arc::new(AtomicUsize::new(0)), Arc::new(trace), Arc::new(names.clone()));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (house, next, trace, names) = (house.clone(), next.clone(), trace.clone(), names.clone());
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&model) = trace.get(at) else { return };
                        if tells && at.is_multiple_of(1_000) {
                            let (seconds, used) = (begun.elapsed().as_secs(), ledger.used_bytes() >> 20);
                            println!("{kind}: {at} of {requests} requests after {seconds} s, {used} MiB in use");
                        }
                        let (name, free) = &names[model];
                        house.request(name, *free).await.unwrap_or_else(|error| panic!("{name}: {error}"));
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let states = house.models.states();
        let loads: u64 = states.iter().map(|model| model.loads).sum();
        let items: Vec<Item> = (names.iter().zip(&bytes))
            .map(|((name, _), bytes)| {
                let state = states.iter().find(|state| &state.name == name).unwrap();
                Item { bytes: *bytes, load_ms: state.load_ms.max(1) as f64 }
            })
            .collect();
        let told: Vec<String> =
            costs(&trace, &items, BUDGET).iter().map(|(name, ms)| format!("{name} {ms:.0}")).collect();
        println!(
            "{kind}: {requests} requests, {} loads, {} ms; milliseconds of loading by simulation: {}",
            loads - before,
            begun.elapsed().as_millis(),
            told.join(", ")
        );
        assert!(loads - before > 12, "models had to leave");
        assert!(ledger.peak_bytes() <= BUDGET, "{} bytes", ledger.peak_bytes());
    }
    assert!(ledger.used_bytes() <= BUDGET && ledger.used_by(OwnerKind::Invocation) == 0);
    for (name, _) in &names {
        assert!(house.models.unload(name).await, "{name}");
    }
    assert_eq!(ledger.used_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_waits_for_leases_and_pinned_models_stay() {
    let Some(library) = wanted("HEARTH_ORT_LIB") else { return };
    let house = Arc::new(House::with(Some(library), 1, &["device_bytes=10MiB", "room_wait_ms=400"]));
    for (name, bytes) in [("a", 6 << 20), ("b", 6 << 20), ("c", 3 << 20), ("d", 20 << 20)] {
        house.heavy(name, bytes);
    }
    let state = |name: &str| house.models.states().into_iter().find(|state| state.name == name).unwrap();
    let lease = house.models.open("default", "a").await.unwrap();
    // Leased for longer than a load waits: told, with who holds what.
    let error = house.models.open("default", "b").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded);
    assert!(error.message().contains("device_bytes") && error.message().contains("in use 6"), "{error}");
    // Let go while a load waits: it goes on.
    let waiting = tokio::spawn({
        let house = house.clone();
        async move { house.models.open("default", "b").await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(lease);
    waiting.await.unwrap().unwrap();
    assert_eq!((state("a").state, state("a").evictions), (Residency::Stored, 1));
    assert_eq!(state("a").reason, "made room for others");
    // What is pinned never leaves, and what could never fit makes nobody leave.
    house.models.keep("b", Pin { pinned: true, priority: 0 });
    drop(house.models.open("default", "c").await.unwrap());
    for (name, kind) in [("a", Kind::Overloaded), ("d", Kind::Overloaded)] {
        assert_eq!(house.models.open("default", name).await.map(drop).unwrap_err().kind(), kind);
    }
    assert_eq!((state("b").state, state("c").state), (Residency::Resident, Residency::Resident));
    house.models.keep("b", Pin { pinned: false, priority: 1 });
    // A tensor that needs the room takes the model of the lower priority.
    let tensor = house.tensor(DType::U8, &[2 << 20], &vec![0; 2 << 20]);
    assert_eq!((state("b").state, state("c").state), (Residency::Resident, Residency::Stored));
    drop(tensor);
    // It holds for models that are not there yet, too.
    house.models.keep("a", Pin { pinned: true, priority: 3 });
    drop(house.models.open("default", "a").await.unwrap());
    assert_eq!(
        (state("a").pinned, state("a").priority, house.models.pin("a")),
        (true, 3, Pin { pinned: true, priority: 3 })
    );
    assert!(house.models.unload("a").await, "who asks for it gets it");
    assert!(state("a").pinned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expected_models_are_fetched_where_there_is_room_and_nobody_leaves_for_them() {
    let Some(library) = wanted("HEARTH_ORT_LIB") else { return };
    let house = Arc::new(House::with(Some(library), 1, &["device_bytes=10MiB", "room_wait_ms=5000"]));
    for (name, bytes) in [("a", 4 << 20), ("b", 4 << 20), ("c", 4 << 20), ("small", 1 << 20)] {
        house.heavy(name, bytes);
    }
    let states = || -> BTreeMap<String, ModelState> {
        house.models.states().into_iter().map(|state| (state.name.clone(), state)).collect()
    };
    let fetch =
        |names: &[&str]| house.models.prefetch("default".into(), names.iter().map(|&name| name.into()).collect());
    let settled = async |count: usize| loop {
        let states = states();
        if states.values().filter(|state| state.state == Residency::Resident).count() == count {
            break states;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // There is room for two of three; what means nothing is passed over.
    fetch(&["nothing", "a", "b", "c"]);
    let fetched = settled(2).await;
    assert!(fetched.keys().eq(["a", "b"]), "{fetched:?}");
    assert!(fetched.values().all(|state| state.loads == 1 && state.reason.starts_with("expected")), "{fetched:?}");
    // Whoever opens one takes what was fetched.
    drop(house.models.open("default", "a").await.unwrap());
    assert_eq!((states()["a"].loads, house.models.departures()), (1, 0));
    // What was asked for goes before what was only expected.
    drop(house.models.open("default", "c").await.unwrap());
    let after = states();
    assert_eq!((after["a"].state, after["b"].state, after["b"].evictions), (Residency::Resident, Residency::Stored, 1));
    assert_eq!(house.models.departures(), 1);
    // Nobody leaves for what is fetched, and nothing is fetched while a load waits for room.
    fetch(&["b"]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let leases = [house.models.open("default", "a").await.unwrap(), house.models.open("default", "c").await.unwrap()];
    let waiting = tokio::spawn({
        let house = house.clone();
        async move { house.models.open("default", "b").await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    fetch(&["small"]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(states()["b"].loads == 1 && !states().contains_key("small"));
    drop(leases);
    waiting.await.unwrap().unwrap();
    assert_eq!(states()["b"].loads, 2);
    fetch(&["small"]);
    settled(3).await;
}

/// Has the system drop what it holds in memory of prepared forms.
fn evict(house: &House) {
    let prepared = house.shelf.folder.as_ref().unwrap().path().join("data/prepared");
    for form in std::fs::read_dir(prepared).unwrap() {
        let weights = std::fs::File::open(form.unwrap().path().join("weights.bin")).unwrap();
        weights.sync_all().unwrap();
        rustix::fs::fadvise(&weights, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_is_read_into_host_memory_meanwhile() {
    let Some(library) = wanted("HEARTH_ORT_LIB") else { return };
    for staged_bytes in ["1GiB", "10MiB"] {
        let limits = ["device_bytes=48MiB", "room_wait_ms=20000", &format!("staged_bytes={staged_bytes}")];
        let house = Arc::new(House::with(Some(library.clone()), 1, &limits));
        house.heavy("a", 40 << 20);
        let graph = Graph::default().input("x", F32, "n 1024").constant("w", &[1_024, 5_120], &[0.5; 1_024 * 5_120]);
        let graph = graph.node("MatMul", &["x", "w"], &["y"]).output("y", F32, "n 5120");
        house.shelf.write("wide", &[("model.onnx", &graph.model())]);
        let state = || house.models.states().into_iter().find(|state| state.name == "wide").unwrap().state;
        let is_staged = || house.models.staged().unloaded("wide", Some(EngineName::Onnxruntime)) == Residency::Staged;
        let staged = async || {
            for _ in 0..if staged_bytes == "1GiB" { 1_000 } else { 30 } {
                if is_staged() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            false
        };
        // Its prepared form was written just now.
        drop(house.models.open("default", "wide").await.unwrap());
        assert!(house.models.unload("wide").await);
        assert_eq!(state(), Residency::Staged);
        assert_eq!(house.models.staged().unloaded("wide", Some(EngineName::Rten)), Residency::Stored);
        assert_eq!(house.models.staged().unloaded("a", Some(EngineName::Onnxruntime)), Residency::Stored);
        evict(&house);
        if is_staged() {
            eprintln!("skipped: this file system keeps all in memory");
            return;
        }
        assert_eq!(state(), Residency::Stored);
        // A function was called that may open it.
        let lease = house.models.open("default", "a").await.unwrap();
        house.models.prefetch("default".into(), vec!["wide".into()]);
        assert_eq!(staged().await, staged_bytes == "1GiB");
        evict(&house);
        assert!(!is_staged());
        // It was opened, and waits.
        let waiting = tokio::spawn({
            let house = house.clone();
            async move { house.models.open("default", "wide").await.map(drop) }
        });
        assert_eq!(staged().await, staged_bytes == "1GiB");
        assert_eq!(state(), Residency::Loading);
        drop(lease);
        waiting.await.unwrap().unwrap();
        assert_eq!(state(), Residency::Resident);
    }
}
