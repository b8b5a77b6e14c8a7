//! Tests the check of models and the two engines: real models on both, ONNX's node tests as models, and a server without
//! onnxruntime.

use crate::examples::characters_right;
use crate::harness::{Process, TestServer, command, component, model_folder, model_tar, python, root};
use hearth::config::{Config, RawConfig};
use hearth::confined::Confined;
use hearth::device::{Account, Cpu, DType, Device, Ledger, Owner, Shape, Stop, Tensor};
use hearth::error::{Error, Result};
use hearth::model::{
    Blobs, Checked, Directory, EngineChoice, EngineName, Models, Package, PackageFile, Resolved, Signature,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders of models; the digest is the folder. `NAME@ENGINE` runs on that engine.
#[derive(Default)]
struct Shelf(Mutex<Shelved>);

/// Packages by digest, and the results of their checks.
type Shelved = BTreeMap<String, (Package, Option<(Signature, Checked)>)>;

impl Shelf {
    fn models(&self) -> parking_lot::MutexGuard<'_, Shelved> {
        self.0.lock()
    }
}

impl Blobs for Shelf {
    fn path(&self, digest: &str) -> PathBuf {
        PathBuf::from(digest)
    }

    fn package_folder(&self, digest: &str, _: &Package) -> Result<PathBuf> {
        Ok(PathBuf::from(digest))
    }
}

#[async_trait::async_trait]
impl Directory for Shelf {
    async fn resolve(&self, _: &str, name: &str) -> Result<Arc<Resolved>> {
        let (digest, engine) = name.rsplit_once('@').unwrap();
        let (package, checked) = self.models()[digest].clone();
        let (signature, mut checked) = checked.unwrap();
        checked.engine = EngineChoice::parse(engine)?;
        Ok(Arc::new(Resolved {
            name: name.to_owned(),
            version: 1,
            digest: digest.to_owned(),
            package,
            signature,
            checked,
        }))
    }
}

/// The layer of models as the server has it, with real children.
struct House {
    shelf: Arc<Shelf>,
    device: Arc<dyn Device>,
    models: Models,
}

/// An array as the scripts in tests/python write it.
#[derive(Clone, serde::Deserialize)]
struct Array {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    file: String,
}

#[derive(serde::Deserialize)]
struct Case {
    inputs: Vec<Array>,
    outputs: Vec<Array>,
}

impl House {
    fn new(data: &Path) -> House {
        House::with(data.join("data"), crate::harness::ort_library())
    }

    /// The same without onnxruntime on the machine.
    fn without_onnxruntime(data: &Path) -> House {
        House::with(data.join("alone"), Some(data.join("nowhere/libonnxruntime.so")))
    }

    fn with(data: PathBuf, ort_lib: Option<PathBuf>) -> House {
        let raw = RawConfig {
            data: Some(data),
            ort_lib,
            program: Some(env!("CARGO_BIN_EXE_hearth").into()),
            model_threads: Some(1),
            ..RawConfig::default()
        };
        let config: Config = raw.resolve().unwrap();
        let device: Arc<dyn Device> = Cpu::new(Ledger::new(config.limits.device_bytes), config.limits.clone());
        let shelf = Arc::new(Shelf::default());
        let confined = Arc::new(Confined::new(&config).unwrap());
        let models = Models::new(&config, device.clone(), shelf.clone(), shelf.clone(), confined).unwrap();
        House { shelf, device, models }
    }

    /// Checks the model in a folder, as an upload does.
    async fn check(&self, folder: &Path) -> Result<Checked> {
        let digest = folder.to_str().unwrap();
        let package = package(folder);
        let (signature, checked) = self.models.inspect(&package, digest, None).await?;
        self.shelf.models().insert(digest.to_owned(), (package, Some((signature, checked.clone()))));
        Ok(checked)
    }

    /// Runs a model that was checked on one engine.
    async fn run(
        &self,
        folder: &Path,
        engine: EngineName,
        inputs: &[(String, Tensor)],
    ) -> Result<Vec<(String, Tensor)>> {
        let lease = self.models.open("default", &format!("{}@{engine}", folder.display())).await?;
        let outputs = lease.infer(&self.account(), inputs.to_vec(), &Stop::default()).await?.outputs;
        drop(lease);
        self.models.unload(folder.to_str().unwrap()).await;
        Ok(outputs)
    }

    fn account(&self) -> Arc<Account> {
        self.device.ledger().account(Owner::Workspace, u64::MAX, u64::MAX)
    }

    fn tensor(&self, folder: &Path, array: &Array) -> (String, Tensor) {
        let shape = Shape::new(&array.shape, 8).unwrap();
        let bytes = std::fs::read(folder.join(&array.file)).unwrap();
        let tensor = match DType::from_word(&array.dtype).unwrap() {
            DType::Text => {
                Tensor::text(&self.device, &self.account(), shape, serde_json::from_slice(&bytes).unwrap()).unwrap()
            }
            dtype => self.device.create(&self.account(), dtype, shape, &bytes).unwrap(),
        };
        (array.name.clone(), tensor)
    }
}

fn package(folder: &Path) -> Package {
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

/// The elements as numbers.
fn numbers(tensor: &Tensor) -> Vec<f64> {
    let bytes = tensor.host_bytes().unwrap();
    macro_rules! all {
        ($kind:ty) => {
            bytes
                .chunks_exact(size_of::<$kind>())
                .map(|chunk| <$kind>::from_le_bytes(chunk.try_into().unwrap()) as f64)
                .collect()
        };
    }
    match tensor.dtype() {
        DType::Boolean | DType::U8 => all!(u8),
        DType::S8 => all!(i8),
        DType::U16 => all!(u16),
        DType::S16 => all!(i16),
        DType::U32 => all!(u32),
        DType::S32 => all!(i32),
        DType::U64 => all!(u64),
        DType::S64 => all!(i64),
        DType::F32 => all!(f32),
        DType::F64 => all!(f64),
        DType::F16 => bytes.as_chunks().0.iter().map(|&chunk| half::f16::from_le_bytes(chunk).to_f64()).collect(),
        DType::BF16 => bytes.as_chunks().0.iter().map(|&chunk| half::bf16::from_le_bytes(chunk).to_f64()).collect(),
        DType::Text => panic!("text has no numbers"),
    }
}

/// A few units in the last place of f32, for whatever an output's largest elements were summed from.
const ROUNDING: f64 = 5e-7;

/// The fault of an output, if any.
fn fault(found: &Tensor, expected: &Tensor, relative: f64, absolute: f64) -> Option<String> {
    if (found.dtype(), found.shape().dims()) != (expected.dtype(), expected.shape().dims()) {
        return Some(format!("{found:?} and not {expected:?}"));
    }
    if found.dtype() == DType::Text {
        return (found.strings().unwrap() != expected.strings().unwrap()).then(|| "other strings".to_owned());
    }
    let exact = !found.dtype().is_float();
    let (a, b) = (numbers(found), numbers(expected));
    // The rounding error of sums of such elements, also if they cancel to 0.
    let magnitude = b.iter().filter(|value| value.is_finite()).fold(0.0f64, |most, value| most.max(value.abs()));
    let absolute = absolute + ROUNDING * magnitude;
    let wrong = a.iter().zip(&b).position(|(a, b)| {
        let same = a == b || (a.is_nan() && b.is_nan());
        !same && (exact || (a - b).abs() > absolute + relative * b.abs() || !a.is_finite() || !b.is_finite())
    });
    wrong.map(|index| format!("element {index} of {} is {} and not {}", a.len(), a[index], b[index]))
}

/// Real models, and how far outputs may be from those of Python's onnxruntime: floats of some hundred layers.
const REAL: [&str; 6] = ["magika", "minilm", "ocr-detect", "ocr-recognize", "ocr-classify", "silero-vad"];

#[tokio::test(flavor = "multi_thread")]
async fn real_models_run_on_both_engines_as_in_python() {
    let data = tempfile::tempdir().unwrap();
    let house = House::new(data.path());
    let (mut present, mut on_rten) = (0, 0);
    for name in REAL {
        let folder = model_folder(name);
        if !folder.exists() {
            assert!(std::env::var_os("HEARTH_REQUIRE_REFERENCES").is_none(), "there is no {}", folder.display());
            println!("skipped: there is no model {name}; `cargo xtask setup` makes it");
            continue;
        }
        present += 1;
        let begun = std::time::Instant::now();
        let checked = house.check(&folder).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: checked in {} ms: {:?}", begun.elapsed().as_millis(), checked.engines);
        assert!(checked.engines.len() == 2 && checked.allows(EngineName::Onnxruntime), "{name}: {checked:?}");
        on_rten += u32::from(checked.allows(EngineName::Rten));
        let Some(mut python) = python() else { continue };
        let out = data.path().join(name);
        python.arg(root().join("tests/python/engine.py")).arg(folder.join("model.onnx")).arg(&out);
        assert!(python.env("PYTHONDONTWRITEBYTECODE", "1").status().unwrap().success(), "{name}");
        let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(out.join("cases.json")).unwrap()).unwrap();
        assert!(!cases.is_empty());
        for case in &cases {
            let inputs: Vec<_> = case.inputs.iter().map(|array| house.tensor(&out, array)).collect();
            for engine in EngineName::ALL.into_iter().filter(|engine| checked.allows(*engine)) {
                let outputs = house.run(&folder, engine, &inputs).await.unwrap();
                assert_eq!(outputs.len(), case.outputs.len());
                for ((output, found), array) in outputs.iter().zip(&case.outputs) {
                    assert_eq!(output, &array.name);
                    let (_, expected) = house.tensor(&out, array);
                    let fault = fault(found, &expected, 1e-3, 1e-4);
                    assert!(fault.is_none(), "{name} on {engine}: '{output}': {}", fault.unwrap_or_default());
                }
            }
        }
    }
    println!("{on_rten} of {present} models run on rten, too");
    assert_eq!(on_rten, present);
}

/// ONNX's node tests as the script writes them.
#[derive(serde::Deserialize)]
struct NodeTests {
    tests: Vec<NodeTest>,
    left_out: BTreeMap<String, u64>,
}

#[derive(serde::Deserialize)]
struct NodeTest {
    name: String,
    rtol: f64,
    atol: f64,
    cases: Vec<Case>,
}

/// The result of an engine on the data of one test.
#[derive(Clone, Debug, PartialEq)]
enum Ran {
    Right,
    Refused(String),
    Wrong(String),
}

impl House {
    async fn replay(&self, folder: &Path, data: &Path, test: &NodeTest, engine: EngineName) -> Ran {
        for case in &test.cases {
            let inputs: Vec<_> = case.inputs.iter().map(|array| self.tensor(data, array)).collect();
            let outputs = match self.run(folder, engine, &inputs).await {
                Ok(outputs) => outputs,
                Err(error) => return Ran::Refused(error.message().chars().take(200).collect()),
            };
            for ((name, found), array) in outputs.iter().zip(&case.outputs) {
                let (_, expected) = self.tensor(data, array);
                // Half-precision outputs are rounded along the way, by each implementation elsewhere.
                let (relative, absolute) = match found.dtype() {
                    DType::F16 => (test.rtol.max(5e-3), test.atol.max(1e-3)),
                    DType::BF16 => (test.rtol.max(2e-2), test.atol.max(1e-2)),
                    _ => (test.rtol.max(1e-3), test.atol.max(1e-5)),
                };
                if let Some(fault) = fault(found, &expected, relative, absolute) {
                    return Ran::Wrong(format!("'{name}': {fault}"));
                }
            }
        }
        Ran::Right
    }
}

/// The results for a test's model.
struct Became {
    name: String,
    /// Its check without samples, and with the test's data as samples.
    checks: [Result<Checked, String>; 2],
    /// Whether rten passes without samples if there is no onnxruntime to compare it with.
    alone: bool,
    /// The result of each engine on the test's data, whatever the check says.
    ran: [Ran; 2],
}

#[tokio::test(flavor = "multi_thread")]
async fn node_tests_of_onnx_get_no_wrong_answer_from_a_model_that_the_check_lets_through() {
    let Some(mut python) = python() else { return };
    let data = tempfile::tempdir().unwrap();
    let out = data.path().join("node");
    std::fs::create_dir(&out).unwrap();
    let script = python.arg(root().join("tests/python/node_tests.py")).arg(&out).env("PYTHONDONTWRITEBYTECODE", "1");
    assert!(script.status().unwrap().success());
    let index: NodeTests = serde_json::from_slice(&std::fs::read(out.join("index.json")).unwrap()).unwrap();
    let only = std::env::var("HEARTH_NODE_TESTS").ok();
    let tests: Vec<NodeTest> =
        index.tests.into_iter().filter(|test| only.as_ref().is_none_or(|part| test.name.contains(part))).collect();
    let house = Arc::new([House::new(data.path()), House::without_onnxruntime(data.path())]);
    let tests = Arc::new(Mutex::new(tests));
    let workers = (0..2).map(|_| {
        let (house, tests, out) = (house.clone(), tests.clone(), out.clone());
        tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                let Some(test) = tests.lock().pop() else { return seen };
                seen.push(became(&house, &out, &test).await);
            }
        })
    });
    let mut all = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        all.extend(worker.await.unwrap());
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    report(&all, &index.left_out);
    if only.is_some() {
        return;
    }
    let right = all.iter().filter(|test| test.ran[0] == Ran::Right).count();
    assert!(all.len() > 1_000, "{} tests", all.len());
    assert!(right * 100 >= all.len() * 95, "onnxruntime gives what ONNX says on {right} of {}", all.len());
    let alone: Vec<_> = all.iter().filter(|test| test.is_wrong_alone()).map(|test| &test.name).collect();
    assert!(alone.is_empty(), "without onnxruntime rten passes and is wrong: {alone:?}");
    let alone = all.iter().filter(|test| test.alone).count();
    assert!(alone > 800, "without onnxruntime rten passes only {alone}");
    let wrong = |engine, with_samples| -> Vec<_> {
        let accepted = |test: &&Became| matches!(test.of(engine), Ran::Wrong(_)) && test.lets(with_samples, engine);
        all.iter().filter(accepted).map(|test| &test.name).collect()
    };
    for engine in EngineName::ALL {
        let wrong = wrong(engine, 1);
        assert!(wrong.is_empty(), "{engine} passed by samples and is wrong: {wrong:?}");
    }
    let unsampled = wrong(EngineName::Rten, 0);
    assert!(unsampled.is_empty(), "rten passed without samples and is wrong: {unsampled:?}");
    let passed = all.iter().filter(|test| test.lets(1, EngineName::Rten)).count();
    assert!(passed > 300, "rten passes only on {passed}");
}

/// Checks and runs a test's model with both engines, and without onnxruntime.
async fn became([both, bare]: &[House; 2], out: &Path, test: &NodeTest) -> Became {
    let told = |error: Error| error.message().chars().take(300).collect::<String>();
    let data = out.join(&test.name);
    // The same model in two folders, of which one has samples.
    let plain = out.join(format!("{}.plain", test.name));
    std::fs::create_dir(&plain).unwrap();
    std::fs::copy(data.join("model.onnx"), plain.join("model.onnx")).unwrap();
    let checks = [both.check(&plain).await.map_err(told), both.check(&data).await.map_err(told)];
    let alone = bare.check(&plain).await.is_ok_and(|checked| checked.allows(EngineName::Rten));
    let mut ran = [Ran::Right, Ran::Right];
    for (engine, ran) in EngineName::ALL.into_iter().zip(&mut ran) {
        both.force(&data, engine);
        *ran = both.replay(&data, &data, test, engine).await;
    }
    Became { name: test.name.clone(), checks, alone, ran }
}

impl House {
    /// Marks a model as passed on an engine, whatever its check found.
    fn force(&self, folder: &Path, engine: EngineName) {
        let verdict = serde_json::json!({
            "engine": engine, "version": "", "passed": true, "runs": 0, "samples": 0, "compared": 0,
        });
        let checked = serde_json::json!({ "engine": "auto", "engines": [verdict] });
        let signature = Signature { inputs: Vec::new(), outputs: Vec::new() };
        let forced = (package(folder), Some((signature, serde_json::from_value(checked).unwrap())));
        self.shelf.models().insert(folder.to_str().unwrap().to_owned(), forced);
    }
}

impl Became {
    /// Whether an engine passed a check, without samples (0) or with them (1).
    fn lets(&self, check: usize, engine: EngineName) -> bool {
        self.checks[check].as_ref().is_ok_and(|checked| checked.allows(engine))
    }

    fn of(&self, engine: EngineName) -> &Ran {
        match engine {
            EngineName::Onnxruntime => &self.ran[0],
            EngineName::Rten => &self.ran[1],
        }
    }

    /// Whether rten passes without onnxruntime, and is wrong.
    fn is_wrong_alone(&self) -> bool {
        self.alone && matches!(self.of(EngineName::Rten), Ran::Wrong(_))
    }
}

/// A failure's reason, as one of a few kinds.
fn kind_of(refusal: &str) -> &'static str {
    const NO_KERNEL: &str = "it has no kernel of the operator for these types or this version";
    let kinds = [
        ("Could not find an implementation", NO_KERNEL),
        ("Failed to find kernel", NO_KERNEL),
        ("is not a registered function/op", "it does not know the operator (a preview of ONNX)"),
        ("layout_ == 0 was false", "it has no recurrent operator in batchwise layout"),
        ("the model refuses these inputs", "its kernel refuses the inputs"),
    ];
    kinds.iter().find(|(sign, _)| refusal.contains(sign)).map_or("otherwise", |(_, kind)| kind)
}

fn report(all: &[Became], left_out: &BTreeMap<String, u64>) {
    println!("{} node tests; left out: {left_out:?}", all.len());
    for engine in EngineName::ALL {
        let count = |which: &dyn Fn(&Became) -> bool| all.iter().filter(|test| which(test)).count();
        println!(
            "{engine}: right on {}, wrong on {}, refuses {}; passed {} without samples (of these right {}, wrong {}, \
             refusing the test's inputs {}) and {} with the test's data as samples (wrong {})",
            count(&|test| *test.of(engine) == Ran::Right),
            count(&|test| matches!(test.of(engine), Ran::Wrong(_))),
            count(&|test| matches!(test.of(engine), Ran::Refused(_))),
            count(&|test| test.lets(0, engine)),
            count(&|test| test.lets(0, engine) && *test.of(engine) == Ran::Right),
            count(&|test| test.lets(0, engine) && matches!(test.of(engine), Ran::Wrong(_))),
            count(&|test| test.lets(0, engine) && matches!(test.of(engine), Ran::Refused(_))),
            count(&|test| test.lets(1, engine)),
            count(&|test| test.lets(1, engine) && matches!(test.of(engine), Ran::Wrong(_))),
        );
    }
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for test in all {
        match test.of(EngineName::Onnxruntime) {
            Ran::Refused(reason) => *kinds.entry(kind_of(reason)).or_default() += 1,
            Ran::Wrong(_) => *kinds.entry("it gives something else").or_default() += 1,
            Ran::Right => {}
        }
    }
    println!("what onnxruntime fails of, by reason: {kinds:#?}");
    let alone: Vec<_> = all.iter().filter(|test| test.alone).collect();
    let wrong: Vec<_> = alone.iter().filter(|test| test.is_wrong_alone()).collect();
    let names: Vec<_> = wrong.iter().map(|test| &test.name).collect();
    println!("without onnxruntime, rten passes {} and is wrong on {} of these: {names:?}", alone.len(), wrong.len());
    for test in all {
        for engine in EngineName::ALL {
            let told = match (engine, test.of(engine)) {
                (_, Ran::Wrong(fault)) => format!("wrong: {fault}"),
                (EngineName::Onnxruntime, Ran::Refused(reason)) => format!("refused: {reason}"),
                (_, Ran::Right | Ran::Refused(_)) => continue,
            };
            println!("  {} on {engine} (passed: {} {}): {told}", test.name, test.lets(0, engine), test.lets(1, engine));
        }
        for (check, outcome) in test.checks.iter().enumerate() {
            if let (Err(reason), Ran::Right) = (outcome, test.of(EngineName::Onnxruntime)) {
                println!("  {} is refused {}: {reason}", test.name, ["without samples", "with samples"][check]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_onnxruntime_rten_serves() {
    let data = tempfile::tempdir().unwrap();
    let mut command = command();
    command.env("HEARTH_ORT_LIB", "/nowhere/libonnxruntime.so");
    let server = Process::start_as(command, &data.path().join("data"));
    let status = server.client.get("/v1/status").await.expect(200).json();
    let engines: Vec<_> = status["engines"].as_array().unwrap().iter().map(|engine| &engine["available"]).collect();
    assert_eq!(engines, [false, true], "{status}");
    for (model, function) in [("magika", "file-type"), ("ocr-detect", ""), ("ocr-recognize", "ocr")] {
        let put = server.client.put(&format!("/v1/models/{model}"), model_tar(model)).await.expect(201).json();
        assert_eq!((&put["runs_on"], put["engines"].as_array().unwrap().len()), (&"rten".into(), 1), "{put}");
        if !function.is_empty() {
            server.client.put(&format!("/v1/functions/{function}"), component(function)).await.expect(201);
        }
    }
    let json = br#"{"name": "x", "items": [1, 2, 3], "nested": {"a": true, "b": null}}"#;
    let answer = server.client.post("/fn/file-type", json.to_vec()).await.expect(200).json();
    assert_eq!(answer["label"], "json", "{answer}");
    let folder = root().join("examples/04-ocr");
    let page = std::fs::read(folder.join("page.png")).unwrap();
    let truth = std::fs::read_to_string(folder.join("page.txt")).unwrap();
    let answer = server.client.post("/fn/ocr", page).await.expect(200).json();
    let right = characters_right(&truth, answer["text"].as_str().unwrap());
    println!("{right} of the page's characters are right on rten");
    assert!(right >= 0.98, "{right}: {}", answer["text"]);
    let refused = server.client.put("/v1/models/m?engine=onnxruntime", model_tar("magika")).await;
    refused.expect_error(503, "unavailable", "HEARTH_ORT_LIB");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_of_an_upload_is_told_and_used() {
    let server = TestServer::start().await;
    let put = server.client.put("/v1/models/magika?engine=rten", model_tar("magika")).await.expect(201).json();
    assert_eq!((&put["engine"], &put["runs_on"]), (&"rten".into(), &"rten".into()), "{put}");
    let verdicts = put["engines"].as_array().unwrap();
    assert_eq!(verdicts.iter().map(|verdict| &verdict["engine"]).collect::<Vec<_>>(), ["onnxruntime", "rten"]);
    assert!(verdicts[1]["difference"].as_f64().is_some_and(|difference| difference < 1e-3), "{put}");
    server.deploy("file-type", "file-type").await;
    server.client.post("/fn/file-type", "hello").await.expect(200);
    let loaded = async || {
        let status = server.client.get("/v1/status").await.expect(200).json();
        let models = status["models"].as_array().unwrap().clone();
        models.iter().map(|model| (model["engine"].clone(), model["state"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(loaded().await, [("rten".into(), "resident".into())]);
    let listed = server.client.get("/v1/models").await.expect(200).json()["models"][0].clone();
    assert_eq!((&listed["runs_on"], &listed["state"]), (&"rten".into(), &"resident".into()), "{listed}");
    let told = server.client.get("/v1/models/magika").await.expect(200).json()["versions"][0].clone();
    assert_eq!((&told["engine"], &told["engines"]), (&put["engine"], &put["engines"]));

    // The same files for another engine are the same version.
    let again = server.client.put("/v1/models/magika?engine=auto", model_tar("magika")).await.expect(200).json();
    assert_eq!((&again["version"], &again["runs_on"]), (&1.into(), &"onnxruntime".into()), "{again}");
    server.client.post("/fn/file-type", "hello").await.expect(200);
    assert_eq!(loaded().await.len(), 2);
    server.client.put("/v1/models/m?engine=tract", "x").await.expect_error(422, "invalid-argument", "rten");
    server.client.put("/v1/models/m?motor=rten", "x").await.expect_error(422, "invalid-argument", "engine=auto");
}
