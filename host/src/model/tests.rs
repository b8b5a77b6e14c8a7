//! The engine and residency with real libraries and models. Without `HEARTH_ORT_LIB` (and `HEARTH_TEST_MODELS` and
//! `HEARTH_TEST_PYTHON` for the real models) these tests say that they were skipped; `HEARTH_REQUIRE_REFERENCES=1` makes
//! that a failure.

mod checks;
mod faults;
mod graph;
mod on_gpu;
mod on_rten;
mod queue;
mod room;

use super::*;
use crate::config::{Config, Limits, RawConfig};
use crate::confined::Confined;
use crate::device::{Account, Cpu, DType, Device, Ledger, Owner, OwnerKind, Shape, Stop, Tensor};
use crate::error::{Error, Kind, Result};
use graph::{BOOLEAN, F32, Graph, S64, TEXT};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Folders of models by name; the digest is the name. `NAME@rten` runs on rten, every other name on onnxruntime.
#[derive(Default)]
struct Shelf {
    folder: Option<tempfile::TempDir>,
    models: Mutex<BTreeMap<String, PathBuf>>,
    /// How often a package was asked for: once for each load.
    loads: AtomicU64,
    /// How many more loads find no memory.
    refusals: AtomicU64,
}

impl Shelf {
    fn put(&self, name: &str, folder: &Path) -> Package {
        self.models.lock().unwrap().insert(name.to_owned(), folder.to_owned());
        package(folder)
    }

    fn write(&self, name: &str, files: &[(&str, &[u8])]) -> Package {
        let folder = self.folder.as_ref().unwrap().path().join(name);
        for (file, bytes) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        self.put(name, &folder)
    }

    fn folder(&self, digest: &str) -> PathBuf {
        self.models.lock().unwrap()[digest].clone()
    }
}

pub(in crate::model) fn package(folder: &Path) -> Package {
    let mut files = BTreeMap::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                let bytes = entry.metadata().unwrap().len();
                files.insert(name, PackageFile { digest: path.to_str().unwrap().to_owned(), bytes });
            }
        }
    }
    Package { files }
}

impl Blobs for Shelf {
    fn path(&self, digest: &str) -> PathBuf {
        PathBuf::from(digest)
    }

    fn package_folder(&self, digest: &str, _: &Package) -> Result<PathBuf> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let refusal = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if refusal.is_ok() { Err(Error::overloaded("no memory for it")) } else { Ok(self.folder(digest)) }
    }
}

#[async_trait::async_trait]
impl Directory for Shelf {
    async fn resolve(&self, tenant: &str, name: &str) -> Result<Arc<Resolved>> {
        assert_eq!(tenant, "default");
        let (digest, alias) = name.split_once('@').unwrap_or((name, ""));
        let digest = digest.to_owned();
        let choice = if alias == "rten" { EngineChoice::Rten } else { EngineChoice::Onnxruntime };
        if !self.models.lock().unwrap().contains_key(&digest) {
            return Err(Error::not_found(format!("no model is called '{name}'")));
        }
        let package = package(&self.folder(&digest));
        let signature = Signature { inputs: Vec::new(), outputs: Vec::new() };
        let checked = Checked { engine: choice, engines: EngineName::ALL.map(passed).to_vec() };
        Ok(Arc::new(Resolved { name: digest.clone(), version: 1, digest, package, signature, checked }))
    }
}

fn passed(engine: EngineName) -> Verdict {
    Verdict {
        engine,
        version: String::new(),
        passed: true,
        reason: None,
        runs: 1,
        samples: 0,
        compared: 0,
        difference: None,
        fails: 0,
        failure: None,
    }
}

struct House {
    shelf: Arc<Shelf>,
    device: Arc<dyn Device>,
    models: Arc<Models>,
}

impl House {
    fn with(ort_lib: Option<PathBuf>, threads: usize, limits: &[&str]) -> House {
        let folder = tempfile::tempdir().unwrap();
        let raw = RawConfig {
            data: Some(folder.path().join("data")),
            ort_lib,
            model_threads: Some(threads),
            limits: limits.iter().map(|&limit| limit.to_owned()).collect(),
            ..RawConfig::default()
        };
        let config: Config = raw.resolve().unwrap();
        let ledger = Ledger::new(config.limits.device_bytes);
        let device: Arc<dyn Device> = Cpu::new(ledger, config.limits.clone());
        House::on(device, &config, folder)
    }

    fn on(device: Arc<dyn Device>, config: &Config, folder: tempfile::TempDir) -> House {
        let shelf = Arc::new(Shelf { folder: Some(folder), ..Shelf::default() });
        let models = Models::new(config, device.clone(), shelf.clone(), shelf.clone(), Confined::here()).unwrap();
        House { shelf, device, models: Arc::new(models) }
    }

    /// None where there is no library to test with.
    fn new(threads: usize) -> Option<House> {
        Some(House::with(Some(wanted("HEARTH_ORT_LIB")?), threads, &[]))
    }

    fn account(&self) -> Arc<Account> {
        self.device.ledger().account(Owner::Invocation { tenant: "default".into() }, u64::MAX, u64::MAX)
    }

    fn tensor(&self, dtype: DType, dims: &[u64], bytes: &[u8]) -> Tensor {
        self.device.create(&self.account(), dtype, Shape::new(dims, 8).unwrap(), bytes).unwrap()
    }

    fn floats(&self, dims: &[u64], values: &[f32]) -> Tensor {
        self.tensor(DType::F32, dims, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
    }

    async fn lease(&self, name: &str, graph: Graph) -> Lease {
        self.shelf.write(name, &[("model.onnx", &graph.model())]);
        self.models.open("default", name).await.unwrap()
    }

    async fn refused(&self, name: &str, files: &[(&str, &[u8])]) -> Error {
        let package = self.shelf.write(name, files);
        let error = self.models.inspect(&package, name, None).await.unwrap_err();
        let folder = self.shelf.folder.as_ref().unwrap().path().to_str().unwrap();
        assert!(!error.message().contains(folder), "{error}");
        assert!(error.message().len() < 1_200, "{error}");
        error
    }
}

/// What set-up provides and the environment names.
pub(in crate::model) fn wanted(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var_os("HEARTH_REQUIRE_REFERENCES").is_none(), "{variable} must name what set-up made");
        eprintln!("skipped: {variable} names nothing");
    }
    found
}

async fn infer(lease: &Lease, account: &Arc<Account>, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
    let inputs = inputs.iter().map(|&(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    lease.infer(account, inputs, &Stop::default()).await.map(|run| run.outputs)
}

/// What "soon" means on a busy machine: a run that is not ended takes several times as long. Measured are some 10 ms.
const SOON: Duration = Duration::from_millis(1_500);

/// Matrix products that take seconds, each some milliseconds.
fn long() -> Graph {
    const SIDE: i64 = 384;
    let mut graph =
        Graph::default().input("x", F32, "n 384").constant("w", &[SIDE, SIDE], &[1e-3; (SIDE * SIDE) as usize]);
    let names: Vec<_> = (0..6_000).map(|i| format!("t{i}")).collect();
    let mut last = "x";
    for name in &names {
        graph = graph.node("MatMul", &[last, "w"], &[name]);
        last = name;
    }
    graph.node("Relu", &[last], &["y"]).output("y", F32, "n 384")
}

#[tokio::test]
async fn every_dtype_goes_in_and_out_empty_and_scalar_too() {
    let Some(house) = House::new(1) else { return };
    let elements = [
        (DType::F32, 1),
        (DType::U8, 2),
        (DType::S8, 3),
        (DType::U16, 4),
        (DType::S16, 5),
        (DType::S32, 6),
        (DType::S64, 7),
        (DType::Boolean, 9),
        (DType::F16, 10),
        (DType::F64, 11),
        (DType::U32, 12),
        (DType::U64, 13),
        (DType::BF16, 16),
    ];
    assert_eq!(elements.len() + 1, DType::ALL.len());
    for (dtype, element) in elements {
        for (shape, dims) in [("n m", &[2, 3][..]), ("n m", &[0, 3]), ("n m", &[0, 1 << 50]), ("", &[]), ("1", &[1])] {
            let name = format!("identity-{dtype}-{}", shape.len());
            let graph = Graph::default().input("x", element, shape).output("y", element, shape).node(
                "Identity",
                &["x"],
                &["y"],
            );
            let lease = house.lease(&name, graph).await;
            assert_eq!(lease.signature().inputs[0].dtype, dtype);
            let elements: u64 = dims.iter().product();
            let bytes: Vec<u8> = (0..elements * dtype.size_bytes().unwrap()).map(|i| (i % 2) as u8).collect();
            let x = house.tensor(dtype, dims, &bytes);
            let outputs = infer(&lease, &house.account(), &[("x", &x)]).await.unwrap();
            assert_eq!((outputs.len(), outputs[0].0.as_str(), outputs[0].1.dtype()), (1, "y", dtype));
            assert_eq!(outputs[0].1.shape().dims(), dims);
            assert_eq!(outputs[0].1.host_bytes().unwrap(), bytes, "{dtype} {dims:?}");
        }
    }
}

#[tokio::test]
async fn text_goes_in_and_out() {
    let Some(house) = House::new(1) else { return };
    let text = |account: &Arc<Account>, dims: &[u64], values: &[&str]| {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        Tensor::text(&house.device, account, Shape::new(dims, 8).unwrap(), values)
    };
    let account = house.account();
    let identity = Graph::default().input("x", TEXT, "n m").output("y", TEXT, "n m");
    let lease = house.lease("text", identity.node("Identity", &["x"], &["y"])).await;
    assert_eq!(lease.signature().inputs[0].dtype, DType::Text);
    for (dims, values) in [
        (
            &[2, 3][..],
            &["", "a", "nul \0 within", "žluťoučký", "🦀", "the last one is longer than any small string"][..],
        ),
        (&[0, 3], &[]),
        (&[0, 1 << 50], &[]),
        (&[1, 1], &[""]),
    ] {
        let same: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let x = text(&account, dims, values).unwrap().reshape(&same, &Limits::default());
        let outputs = infer(&lease, &account, &[("x", &x.unwrap())]).await.unwrap();
        assert_eq!((outputs[0].1.dtype(), outputs[0].1.shape().dims()), (DType::Text, dims));
        assert_eq!(outputs[0].1.strings().unwrap(), values);
    }
    assert_eq!(account.used_bytes(), 0);

    let both = Graph::default().input("a", TEXT, "n").input("b", TEXT, "").output("same", BOOLEAN, "n");
    let both = both.node("StringConcat", &["a", "b"], &["joined"]).node("Equal", &["a", "b"], &["same"]);
    let lease = house.lease("join", both.output("joined", TEXT, "n")).await;
    let (a, b) = (text(&account, &[2], &["é", "x"]).unwrap(), text(&account, &[], &["x"]).unwrap());
    let outputs = infer(&lease, &account, &[("a", &a), ("b", &b)]).await.unwrap();
    assert_eq!(outputs[0].1.host_bytes().unwrap(), [0, 1]);
    assert_eq!(outputs[1].1.strings().unwrap(), ["éx", "xx"]);
    let number = house.floats(&[2], &[1.0, 2.0]);
    let error = infer(&lease, &account, &[("a", &number), ("b", &b)]).await.unwrap_err();
    assert!(error.message().contains("'a' is f32"), "{error}");

    // Two strings are there, and their copies do not fit.
    let small = house.device.ledger().account(Owner::Workspace, 200, 10);
    let a = text(&small, &[2], &["é", "x"]).unwrap();
    let error = infer(&lease, &small, &[("a", &a), ("b", &b)]).await.unwrap_err();
    assert_eq!((error.kind(), small.used_bytes()), (Kind::LimitExceeded, 131));
}

#[tokio::test]
async fn outputs_outlive_inputs_leases_and_the_model() {
    let Some(house) = House::new(1) else { return };
    // One output is an input, one a constant of the model's, one computed.
    let graph = Graph::default()
        .input("x", F32, "n")
        .constant("w", &[2], &[5.0, 6.0])
        .node("Add", &["x", "x"], &["y"])
        .output("x", F32, "n")
        .output("w", F32, "2")
        .output("y", F32, "n");
    let lease = house.lease("passes", graph).await;
    let x = house.floats(&[3], &[1.0, 2.0, 3.0]);
    let view = x.reshape(&[3], &Limits::default()).unwrap();
    let account = house.account();
    let outputs = infer(&lease, &account, &[("x", &view)]).await.unwrap();
    drop((x, view, lease));
    assert!(house.models.unload("passes").await);
    let noise = house.floats(&[3], &[9.0; 3]);
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    for ((name, tensor), values) in outputs.iter().zip([&[1.0, 2.0, 3.0][..], &[5.0, 6.0], &[2.0, 4.0, 6.0]]) {
        assert_eq!(tensor.host_bytes().unwrap(), bytes(values), "{name}");
    }
    assert_eq!(account.used_bytes(), 12 + 8 + 12);
    drop((outputs, noise));
    assert_eq!(account.used_bytes(), 0);
}

#[tokio::test]
async fn wrong_models_are_refused_with_the_reason() {
    let Some(house) = House::new(1) else { return };
    let add = |graph: Graph| graph.node("Add", &["a", "b"], &["c"]).output("c", F32, "n");
    let plain = add(Graph::default().input("a", F32, "n").input("b", F32, "n")).model();
    let copy = |graph: Graph| graph.node("Identity", &["a"], &["c"]);
    let escape = |place| add(Graph::default().input("a", F32, "n").external("b", &[1], place)).model();
    std::fs::write(house.shelf.folder.as_ref().unwrap().path().join("secret"), [0; 4]).unwrap();
    let table: Vec<(Vec<u8>, Kind, &str)> = vec![
        (b"garbage".repeat(100), Kind::InvalidArgument, "Protobuf parsing failed"),
        (plain[..plain.len() - 9].to_vec(), Kind::InvalidArgument, "Protobuf parsing failed"),
        (vec![], Kind::InvalidArgument, "No graph"),
        (add(Graph::default().input("a", F32, "n")).model(), Kind::InvalidArgument, "'b' is not a graph input"),
        (
            Graph::default().input("a", F32, "n").node("Nonsense", &["a"], &["c"]).output("c", F32, "n").model(),
            Kind::InvalidArgument,
            "No Op registered for Nonsense",
        ),
        (escape("../secret"), Kind::InvalidArgument, "escapes model directory"),
        (escape("/etc/passwd"), Kind::InvalidArgument, "Absolute path not allowed"),
        (escape("missing.bin"), Kind::InvalidArgument, "does not exist: \"missing.bin\""),
        (
            copy(Graph::default().unranked_input("a", F32).output("c", F32, "n")).model(),
            Kind::Unsupported,
            "'a' does not declare how many dimensions",
        ),
        (
            Graph::default()
                .sequence_input("a", F32)
                .node("SequenceLength", &["a"], &["c"])
                .output("c", S64, "")
                .model(),
            Kind::Unsupported,
            "'a' is no tensor",
        ),
        // Element 17 is f8e4m3fn.
        (copy(Graph::default().input("a", 17, "n").output("c", 17, "n")).model(), Kind::Unsupported, "element type"),
    ];
    for (index, (model, kind, part)) in table.into_iter().enumerate() {
        let error = house.refused(&format!("wrong-{index}"), &[("model.onnx", &model)]).await;
        assert!(error.kind() == kind && error.message().contains(part), "{part}: {:?} {error}", error.kind());
    }
    let error = house.refused("none", &[("other", b"")]).await;
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    assert_eq!(house.device.ledger().used_bytes(), 0);
}

#[tokio::test]
async fn external_data_is_read_from_the_package() {
    let Some(house) = House::new(1) else { return };
    let graph = Graph::default().input("x", F32, "n").external("w", &[1], "data/w.bin");
    let graph = graph.node("Add", &["x", "w"], &["y"]).output("y", F32, "n");
    let files =
        [("model.onnx", &graph.model()[..]), ("data/w.bin", &2.5f32.to_le_bytes()), ("assets/a/b.txt", b"text")];
    let package = house.shelf.write("external", &files);
    let (signature, _) = house.models.inspect(&package, "external", None).await.unwrap();
    assert_eq!(signature.inputs[0].batch_axis, Some(0));
    let lease = house.models.open("default", "external").await.unwrap();
    let x = house.floats(&[2], &[1.0, -1.0]);
    let outputs = infer(&lease, &house.account(), &[("x", &x)]).await.unwrap();
    let expected: Vec<u8> = [3.5f32, 1.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(outputs[0].1.host_bytes().unwrap(), expected);

    let description = lease.description();
    assert_eq!(description.asset_names(), ["a/b.txt"]);
    assert_eq!(description.asset("a/b.txt", 4).unwrap(), b"text");
    let large = description.asset("a/b.txt", 3).unwrap_err();
    assert!(large.kind() == Kind::TooLarge && large.message().contains("asset_bytes is 3"), "{large}");
    let missing = description.asset("../model.onnx", 4).unwrap_err();
    assert!(missing.kind() == Kind::NotFound && missing.message().contains("there are a/b.txt"), "{missing}");
}

#[tokio::test]
async fn a_graph_that_refuses_its_inputs_says_why() {
    let Some(house) = House::new(1) else { return };
    let graph = Graph::default().input("a", F32, "n").input("b", F32, "m");
    let lease = house.lease("add", graph.node("Add", &["a", "b"], &["c"]).output("c", F32, "k")).await;
    let (two, three) = (house.floats(&[2], &[0.0; 2]), house.floats(&[3], &[0.0; 3]));
    let account = house.account();
    let error = infer(&lease, &account, &[("a", &two), ("b", &three)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.message().starts_with("model 'add': the model refuses these inputs"), "{error}");
    assert!(error.message().contains("2 by 3") && !error.message().contains("onnxruntime_src"), "{error}");
    let error = infer(&lease, &account, &[("a", &two)]).await.unwrap_err();
    assert!(error.message().contains("'b' is missing"), "{error}");

    let small = house.device.ledger().account(Owner::Workspace, 4, 10);
    let error = infer(&lease, &small, &[("a", &two), ("b", &two)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LimitExceeded, "{error}");
    assert_eq!((small.used_bytes(), account.used_bytes()), (0, 0));

    let grow = Graph::default().input("a", F32, "1").input("shape", S64, "r").node("Expand", &["a", "shape"], &["c"]);
    let lease = house.lease("grow", grow.output("c", F32, "k")).await;
    let (one, huge) = (house.floats(&[1], &[0.0]), house.tensor(DType::S64, &[1], &(1u64 << 45).to_le_bytes()));
    let error = infer(&lease, &account, &[("a", &one), ("shape", &huge)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_soon_after_its_deadline_its_stop_and_its_future() {
    let Some(house) = House::new(2) else { return };
    let lease = house.lease("long", long()).await;
    let x = house.floats(&[384, 384], &[1.0; 384 * 384]);
    let account = house.account();
    let inputs = || vec![("x".to_owned(), x.clone())];

    let late = Stop::new(Some(Instant::now() + Duration::from_millis(100)));
    let begun = Instant::now();
    let error = lease.infer(&account, inputs(), &late).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    let stop = Stop::default();
    let (cancelled, _) = tokio::join!(lease.infer(&account, inputs(), &stop), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.cancel();
    });
    assert_eq!(cancelled.map(drop).unwrap_err().kind(), Kind::Cancelled);

    let begun = Instant::now();
    let dropped =
        tokio::time::timeout(Duration::from_millis(50), lease.infer(&account, inputs(), &Stop::default())).await;
    assert!(dropped.is_err());
    // Every run gives back its clone of the input once it has really ended.
    let copies = house.account();
    let small = house.floats(&[1, 384], &[1.0; 384]);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let never = Stop::default();
    let runs = (0..cores).map(|_| lease.infer(&copies, vec![("x".to_owned(), small.clone())], &never));
    for run in futures(runs).await {
        assert!(u128::from(run.unwrap().queue_us) < SOON.as_micros(), "the ended runs still hold their turns");
    }
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
    let counted = house.models.states()[0].runs;
    assert_eq!(counted, 3 + cores as u64);
}

async fn futures<F: Future<Output: Send + 'static> + Send>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut results = Vec::new();
    let mut pending: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_waiting_runs_than_allowed_are_overloaded() {
    let Some(library) = wanted("HEARTH_ORT_LIB") else { return };
    let house = House::with(Some(library), 1, &["queued_model_runs=2"]);
    let lease = house.lease("long", long()).await;
    let x = house.floats(&[384, 384], &[1.0; 384 * 384]);
    let account = house.account();
    let stop = Stop::new(Some(Instant::now() + Duration::from_millis(300)));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runs = (0..cores + 5).map(|_| lease.infer(&account, vec![("x".to_owned(), x.clone())], &stop));
    let kinds: Vec<_> = futures(runs).await.into_iter().map(|run| run.map(drop).unwrap_err().kind()).collect();
    let count = |kind| kinds.iter().filter(|&&found| found == kind).count();
    assert_eq!((count(Kind::Overloaded), count(Kind::DeadlineExceeded)), (3, cores + 2), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_loaded_once_and_unloaded_when_its_leases_are_gone() {
    let Some(house) = House::new(1) else { return };
    let graph = Graph::default().input("x", F32, "n").node("Relu", &["x"], &["y"]).output("y", F32, "n");
    let package = house.shelf.write("one", &[("model.onnx", &graph.model())]);
    let bytes = package.weights_bytes();
    let opens = (0..50).map(|i| {
        let models = house.models.clone();
        tokio::spawn(async move { models.open("default", if i % 2 == 0 { "one" } else { "one@1" }).await })
    });
    let mut leases: Vec<_> = futures(opens).await.into_iter().map(|opened| opened.unwrap().unwrap()).collect();
    assert_eq!(house.shelf.loads.load(Ordering::Relaxed), 1);
    let ledger = house.device.ledger();
    assert_eq!((ledger.used_by(OwnerKind::Model), bytes), (bytes, ledger.used_bytes()));
    let state = |leases| (Residency::Resident, leases, bytes);
    let now = || house.models.states().into_iter().map(|m| (m.state, m.leases, m.bytes)).next().unwrap();
    assert_eq!(now(), state(50));

    leases.truncate(1);
    assert!(!house.models.unload("one").await, "a lease is left");
    assert_eq!(now(), state(1));
    let again = house.models.open("default", "one").await.unwrap();
    assert_eq!(house.shelf.loads.load(Ordering::Relaxed), 1, "one copy, even after unload");
    assert!(!house.models.unload("one").await);
    drop((leases, again));
    assert_eq!((now(), ledger.used_bytes()), ((Residency::Stored, 0, bytes), 0));

    let lease = house.models.open("default", "one").await.unwrap();
    assert_eq!(house.shelf.loads.load(Ordering::Relaxed), 2);
    house.models.forget("one").await;
    assert_eq!(now(), state(1));
    let x = house.floats(&[1], &[-1.0]);
    assert!(infer(&lease, &house.account(), &[("x", &x)]).await.is_ok(), "a lease outlives the model's deletion");
    drop(lease);
    assert!(house.models.states().is_empty());
    assert_eq!(house.models.open("default", "two").await.map(drop).unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_failed_load_is_told_to_all_and_tried_again() {
    let Some(house) = House::new(1) else { return };
    house.shelf.write("late", &[("model.onnx", b"garbage")]);
    let (a, b) = tokio::join!(house.models.open("default", "late"), house.models.open("default", "late"));
    for error in [a, b].map(|opened| opened.map(drop).unwrap_err()) {
        assert!(error.kind() == Kind::Unavailable && error.message().contains("'late' cannot be loaded"), "{error}");
    }
    assert_eq!(house.models.states()[0].state, Residency::Stored);
    assert_eq!(house.device.ledger().used_bytes(), 0);
    let graph = Graph::default().input("x", F32, "n").node("Relu", &["x"], &["y"]).output("y", F32, "n");
    drop(house.lease("late", graph).await);
    assert_eq!(house.shelf.loads.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_load_for_which_the_engine_finds_no_memory_waits_for_it() {
    let Some(library) = wanted("HEARTH_ORT_LIB") else { return };
    let house = House::with(Some(library), 1, &["room_wait_ms=300"]);
    let graph = Graph::default().input("x", F32, "n").node("Relu", &["x"], &["y"]).output("y", F32, "n");
    house.shelf.refusals.store(3, Ordering::Relaxed);
    drop(house.lease("late", graph).await);
    assert_eq!(house.shelf.loads.load(Ordering::Relaxed), 4);
    assert!(house.models.unload("late").await);
    house.shelf.refusals.store(u64::MAX, Ordering::Relaxed);
    let begun = Instant::now();
    let error = house.models.open("default", "late").await.map(drop).unwrap_err();
    assert!(error.kind() == Kind::Overloaded && begun.elapsed() >= Duration::from_millis(300), "{error}");
    assert_eq!(house.device.ledger().used_bytes(), 0);
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_overloaded() {
    let Some(library) = wanted("HEARTH_ORT_LIB") else { return };
    let house = House::with(Some(library), 1, &["device_bytes=1MiB"]);
    house.shelf.write("big", &[("model.onnx", &vec![0; 2 << 20])]);
    let error = house.models.open("default", "big").await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Overloaded, "{error}");
}

#[tokio::test]
async fn without_a_library_models_say_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("libonnxruntime.so");
    std::fs::write(&wrong, b"not a library").unwrap();
    for library in [folder.path().join("none.so"), wrong] {
        let house = House::with(Some(library), 1, &[]);
        let package = house.shelf.write("any", &[("model.onnx", b"")]);
        let opened = house.models.open("default", "any").await.map(drop);
        let inspected = house.models.inspect(&package, "any", Some(EngineChoice::Onnxruntime)).await.map(drop);
        let states = house.models.engines();
        assert_eq!(states.iter().map(|state| state.available).collect::<Vec<_>>(), [false, true]);
        assert!(states[0].reason.as_ref().is_some_and(|reason| reason.contains("HEARTH_ORT_LIB")));
        for error in [opened.unwrap_err(), inspected.unwrap_err()] {
            assert_eq!(error.kind(), Kind::Unavailable);
            for part in ["cargo xtask setup", "HEARTH_ORT_LIB"] {
                assert!(error.message().contains(part), "{error}");
            }
            assert!(!error.message().contains(folder.path().to_str().unwrap()), "{error}");
        }
    }
}

/// A case that the Python script wrote.
/// A model of a few steps: x of [n, 64] by a matrix, and what follows.
pub(in crate::model) fn gelu_graph() -> Vec<u8> {
    let graph = Graph::default()
        .input("x", F32, "n 64")
        .constant("w", &[64, 256], &[0.01; 64 * 256])
        .node("MatMul", &["x", "w"], &["a"])
        .node("Sigmoid", &["a"], &["b"])
        .node("Mul", &["a", "b"], &["c"])
        .node("Exp", &["c"], &["y"])
        .output("y", F32, "n 256");
    graph.model()
}

/// What Python's onnxruntime gives for a model, on the CPU: inputs and outputs, whose files are in `out`.
fn cases_of_python(python: &Path, model: &Path, out: &Path) -> Vec<Case> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/engine.py");
    let script = std::env::var_os("HEARTH_TEST_SCRIPTS").map_or(script, |folder| Path::new(&folder).join("engine.py"));
    let mut command = std::process::Command::new(python);
    command.arg(&script).arg(model.join("model.onnx")).arg(out).args(["--threads", "2"]);
    assert!(command.env("PYTHONDONTWRITEBYTECODE", "1").status().unwrap().success(), "{}", model.display());
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(out.join("cases.json")).unwrap()).unwrap();
    assert!(!cases.is_empty());
    cases
}

#[derive(serde::Deserialize)]
struct Case {
    inputs: Vec<Array>,
    outputs: Vec<Array>,
}

#[derive(serde::Deserialize)]
struct Array {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    file: String,
}

/// The models that set-up makes, and how many runs of each are compared.
const REAL: [&str; 5] = ["magika", "minilm", "ocr-detect", "ocr-recognize", "ocr-classify"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_of_real_models_equal_pythons_bit_for_bit_alone_and_together() {
    let (Some(models), Some(python)) = (wanted("HEARTH_TEST_MODELS"), wanted("HEARTH_TEST_PYTHON")) else { return };
    let Some(house) = House::new(2) else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in REAL {
        let out = folder.path().join(name);
        let cases = cases_of_python(&python, &models.join(name), &out);
        house.shelf.put(name, &models.join(name));
        let lease = house.models.open("default", name).await.unwrap();
        let read = |array: &Array| std::fs::read(out.join(&array.file)).unwrap();
        let given = |case: &Case| -> Vec<(String, Tensor)> {
            let tensor =
                |array: &Array| house.tensor(DType::from_word(&array.dtype).unwrap(), &array.shape, &read(array));
            case.inputs.iter().map(|array| (array.name.clone(), tensor(array))).collect()
        };
        let compare = |case: &Case, run: Run| {
            assert_eq!(run.outputs.len(), case.outputs.len());
            for ((output, tensor), expected) in run.outputs.iter().zip(&case.outputs) {
                assert_eq!((output, tensor.shape().dims()), (&expected.name, &expected.shape[..]), "{name}");
                assert_eq!(tensor.dtype().as_str(), expected.dtype);
                assert!(tensor.host_bytes().unwrap() == read(expected), "{name}: '{output}' differs from Python's");
            }
        };
        let (account, stop) = (house.account(), Stop::default());
        for case in &cases {
            compare(case, lease.infer(&account, given(case), &stop).await.unwrap());
        }
        let together = || cases.iter().cycle().take(cases.len() * 3);
        let runs = together().map(|case| {
            let (lease, account, inputs, stop) = (lease.clone(), account.clone(), given(case), stop.clone());
            tokio::spawn(async move { lease.infer(&account, inputs, &stop).await })
        });
        let runs: Vec<_> = runs.collect();
        for (case, run) in together().zip(runs) {
            compare(case, run.await.unwrap().unwrap());
        }
        assert_eq!(account.used_bytes(), 0);
    }
}
