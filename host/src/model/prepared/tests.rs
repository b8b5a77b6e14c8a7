//! Prepared forms over restarts, with damage, with real models. Without `HEARTH_ORT_LIB` (and `HEARTH_TEST_MODELS` and
//! `HEARTH_TEST_PYTHON`) these tests say that they were skipped.

use super::*;
use crate::config::RawConfig;
use crate::device::{Cpu, DType, Device, Ledger, Owner, Shape, gpu_if_there};
use crate::model::engines::{EngineName, Engines};
use crate::model::signature::Dim;
use crate::model::tests::{package, wanted};
use crate::signed_cache::tests::damages;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

/// A data folder and an engine.
struct Shop {
    config: Config,
    engine: Arc<dyn Engine>,
    device: Arc<dyn Device>,
    log: Log,
}

/// What was logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shop {
    fn new(data: &Path, limits: &[&str]) -> Option<Shop> {
        let raw = RawConfig {
            data: Some(data.to_owned()),
            ort_lib: Some(wanted("HEARTH_ORT_LIB")?),
            model_threads: Some(2),
            limits: limits.iter().map(|&limit| limit.to_owned()).collect(),
            ..RawConfig::default()
        };
        let config = raw.resolve().unwrap();
        let engine = Engines::new(&config, None).get(EngineName::Onnxruntime).clone();
        let device = Cpu::new(Ledger::new(1 << 30), config.limits.clone());
        Some(Shop { config, engine, device, log: Log::default() })
    }

    /// With GPU 0; none where there is none, unless `HEARTH_REQUIRE_GPU` is 1.
    fn on_gpu(data: &Path) -> Option<Shop> {
        let mut shop = Shop::new(data, &[])?;
        shop.config.nvrtc_lib = std::env::var_os("HEARTH_NVRTC_LIB").map(Into::into);
        let device: Arc<dyn Device> = gpu_if_there(&shop.config)?;
        let engine = Engines::new(&shop.config, Some(&device)).get(EngineName::Onnxruntime).clone();
        assert_eq!(engine.place().device, "cuda:0", "{:?}", engine.place().why);
        Some(Shop { engine, device, ..shop })
    }

    /// As after a start of the process; models of any size are kept.
    fn open(&self) -> Prepared {
        Prepared { smallest_bytes: 0, ..Prepared::open(&self.config).unwrap().unwrap() }
    }

    /// Loads as after a start, runs, and gives the outputs.
    fn outputs(&self, digest: &str, package: &Path) -> Vec<Vec<u8>> {
        self.run(&self.open().load(&*self.engine, digest, package, bytes(package)).unwrap())
    }

    fn without(&self, package: &Path) -> Vec<Vec<u8>> {
        self.run(&self.engine.load(package, bytes(package)).unwrap())
    }

    /// The bytes of all outputs on inputs of two kinds.
    fn run(&self, session: &Arc<dyn Session>) -> Vec<Vec<u8>> {
        let device = &self.device;
        let account = device.ledger().account(Owner::Workspace, u64::MAX, u64::MAX);
        let mut outputs = Vec::new();
        for sign in [1.0, -1.0] {
            let inputs = session.signature().inputs.iter().map(|input| {
                let dims = input.shape.iter().enumerate().map(|(axis, dim)| match (dim, input.name.as_str()) {
                    (Dim::Fixed(length), _) => *length,
                    // silero's: the samples of a clip, and the state of one clip.
                    (_, "input") if axis == 1 => 512,
                    (_, "state") => 1,
                    _ if axis == 0 => 1,
                    _ => 64,
                });
                let shape = Shape::new(&dims.collect::<Vec<_>>(), 8).unwrap();
                let values = 0..shape.elements();
                let whole: i32 = if input.name == "sr" { 16_000 } else { 1 };
                let real = |at: u64| sign * ((at * 7919 % 1013) as f32 / 1013.0 - 0.25);
                let bytes: Vec<u8> = match input.dtype {
                    DType::F32 => values.flat_map(|at| real(at).to_le_bytes()).collect(),
                    DType::S64 => values.flat_map(|_| i64::from(whole).to_le_bytes()).collect(),
                    DType::S32 => values.flat_map(|_| whole.to_le_bytes()).collect(),
                    other => panic!("an input of {other}"),
                };
                device.create(&account, input.dtype, shape, &bytes).unwrap()
            });
            let inputs: Vec<_> = inputs.collect();
            let made = session.clone().begin().unwrap().run(device, &account, &inputs).unwrap();
            outputs.extend(made.iter().map(|tensor| tensor.read(0..tensor.byte_length()).unwrap()));
        }
        assert!(!outputs.is_empty());
        outputs
    }

    /// What `work` logs.
    fn logged<T>(&self, work: impl FnOnce() -> T) -> (T, String) {
        // Where there is only one, threads that log to nobody decide for it whether anybody hears an event.
        static ANOTHER: std::sync::LazyLock<tracing::Dispatch> =
            std::sync::LazyLock::new(|| tracing::Dispatch::new(tracing_subscriber::registry()));
        std::sync::LazyLock::force(&ANOTHER);
        let log = self.log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || log.clone()).with_ansi(false).finish();
        let done = tracing::subscriber::with_default(subscriber, work);
        let text = std::mem::take(&mut *self.log.0.lock());
        (done, String::from_utf8(text).unwrap())
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<_> =
            fs::read_dir(self.config.data.join("prepared")).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        folders
    }
}

/// An engine that has no memory to load a prepared form.
struct Full(Arc<dyn Engine>);

impl Engine for Full {
    fn version(&self) -> Result<String> {
        self.0.version()
    }

    fn load(&self, folder: &Path, weights_bytes: u64) -> Result<Arc<dyn Session>> {
        self.0.load(folder, weights_bytes)
    }

    fn preparing(&self) -> Option<&dyn Preparing> {
        Some(self)
    }
}

impl Preparing for Full {
    fn depends_on(&self, weights_bytes: u64) -> Result<String> {
        self.0.preparing().unwrap().depends_on(weights_bytes)
    }

    fn spared_bytes(&self, folder: &Path, weights_bytes: u64) -> u64 {
        self.0.preparing().unwrap().spared_bytes(folder, weights_bytes)
    }

    fn prepare(&self, folder: &Path, weights_bytes: u64, into: &Path) -> Result<Signature> {
        self.0.preparing().unwrap().prepare(folder, weights_bytes, into)
    }

    fn load_prepared(&self, _: &Path, _: u64, _: Signature) -> Result<Arc<dyn Session>> {
        Err(Error::overloaded("not enough memory"))
    }
}

fn bytes(folder: &Path) -> u64 {
    package(folder).weights_bytes()
}

/// Makes models of several kinds, into a folder.
fn generated(into: &Path) -> Option<Vec<PathBuf>> {
    let python = wanted("HEARTH_TEST_PYTHON")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python/prepared_models.py");
    let mut command = std::process::Command::new(python);
    assert!(command.arg(script).arg(into).env("PYTHONDONTWRITEBYTECODE", "1").status().unwrap().success());
    let mut folders: Vec<_> = fs::read_dir(into).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    Some(folders)
}

/// A copy of a model's folder that may be spoilt.
fn copied(folder: &Path, to: &Path) -> PathBuf {
    let to = to.join(folder.file_name().unwrap());
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    to
}

/// A file of a form, which nobody should write to.
fn writable(path: &Path) -> File {
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o077, 0);
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

fn spoil(package: &Path) {
    fs::write(package.join("model.onnx"), b"no model").unwrap();
}

#[test]
fn outputs_from_the_prepared_form_are_those_of_the_model_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut models) = generated(&folder.path().join("models")) else { return };
    let real = wanted("HEARTH_TEST_MODELS").into_iter().flat_map(|real| fs::read_dir(real).unwrap());
    models.extend(real.map(|entry| entry.unwrap().path()).filter(|path| path.join("model.onnx").exists()));
    for packed in [0, 1 << 30] {
        let limit = format!("packed_model_bytes={packed}");
        let Some(shop) = Shop::new(&folder.path().join(format!("data{packed}")), &[&limit]) else { return };
        for model in &models {
            let name = model.file_name().unwrap().to_str().unwrap();
            let package = copied(model, folder.path());
            let (signature, expected) = {
                let session = shop.engine.load(&package, bytes(&package)).unwrap();
                (session.signature().clone(), shop.without(&package))
            };
            let weights = bytes(&package);
            let (first, log) = shop.logged(|| shop.outputs(name, &package));
            assert!(log.contains("is kept") && !log.contains("WARN"), "{name}: {log}");
            assert!(first == expected, "{name} differs when it is made");
            spoil(&package);
            let (session, log) = shop.logged(|| shop.open().load(&*shop.engine, name, &package, weights).unwrap());
            assert_eq!(log, "", "{name}");
            assert_eq!(session.signature(), &signature, "{name}");
            assert!(shop.run(&session) == expected, "{name} differs after a restart");
            let form =
                shop.folders().into_iter().find(|form| form.display().to_string().contains(&format!("/{name}-")));
            let weights = form.unwrap().join(WEIGHTS);
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            let maps: Vec<_> = maps.lines().filter(|line| line.ends_with(weights.to_str().unwrap())).collect();
            // Private to whoever writes: the file is the same for all.
            let kept_from_writing =
                |line: &&str| line.split(' ').nth(1).is_some_and(|how| !how.ends_with('s') || !how.contains('w'));
            assert!(!maps.is_empty() && maps.iter().all(kept_from_writing), "{name}: {maps:?}");
        }
        assert_eq!(shop.open().digests().unwrap().len(), shop.folders().len());
        assert!(shop.folders().len() >= 6);
    }
}

#[test]
fn on_gpu_outputs_from_the_prepared_form_are_those_of_the_model_and_its_weights_are_copied_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut models) = generated(&folder.path().join("models")) else { return };
    let real = wanted("HEARTH_TEST_MODELS").into_iter().flat_map(|real| fs::read_dir(real).unwrap());
    models.extend(real.map(|entry| entry.unwrap().path()).filter(|path| path.join("model.onnx").exists()));
    let Some(shop) = Shop::on_gpu(&folder.path().join("data")) else { return };
    let gpu = shop.device.cuda().unwrap();
    let empty = (shop.device.ledger().used_bytes(), gpu.memory_use().used_bytes);
    let prepared = shop.open();
    for model in &models {
        let name = model.file_name().unwrap().to_str().unwrap();
        let expected = shop.without(model);
        let (first, log) = shop.logged(|| shop.outputs(name, model));
        assert!(log.contains("is kept") && !log.contains("WARN"), "{name}: {log}");
        let (before, begun) = (gpu.copied().weight_bytes, std::time::Instant::now());
        let (session, log) = shop.logged(|| prepared.load(&*shop.engine, name, model, bytes(model)).unwrap());
        assert_eq!(log, "", "{name}");
        let load_ms = begun.elapsed().as_millis();
        let outputs = shop.run(&session);
        let copied = gpu.copied().weight_bytes - before;
        let form = shop.folders().into_iter().find(|form| form.display().to_string().contains(&format!("/{name}-")));
        let kept = fs::metadata(form.unwrap().join(WEIGHTS)).unwrap().len();
        eprintln!("on cuda:0: {name} from its prepared form in {load_ms} ms: {copied} of {kept} bytes copied");
        assert!(first == expected && outputs == expected, "{name} differs");
        // Weights within branches and loops the engine loads by itself.
        assert!(copied * 2 > kept || ["branches", "silero-vad"].contains(&name), "{name}");
        drop(session);
        assert_eq!((shop.device.ledger().used_bytes(), gpu.memory_use().used_bytes), empty, "{name}");
    }
}

#[test]
fn a_manifest_that_was_not_signed_for_its_form_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let open = |data: &str| {
        let data = Some(folder.path().join(data));
        fs::create_dir_all(data.as_ref().unwrap()).unwrap();
        Prepared::open(&RawConfig { data, ..RawConfig::default() }.resolve().unwrap()).unwrap().unwrap()
    };
    let (prepared, stranger) = (open("data"), open("stranger"));
    let weights = folder.path().join("weights");
    fs::write(&weights, b"weights").unwrap();
    let signature = Signature { inputs: Vec::new(), outputs: Vec::new() };
    let manifest = Manifest { signature, graph: "0f".repeat(32), weights: Weights::of(&weights).unwrap() };
    let write = |prepared: &Prepared, name: &str| {
        let form = prepared.folder.join(name);
        fs::create_dir_all(&form).unwrap();
        prepared.write(name, &form, &manifest).unwrap();
        form.join(MANIFEST)
    };
    let whole = write(&prepared, "m-0123456789abcdef");
    let read = |path: &Path| fs::read(path).unwrap();
    let others =
        [write(&prepared, "n-0123456789abcdef"), write(&stranger, "m-0123456789abcdef")].map(|path| read(&path));
    for (what, damaged) in damages(&read(&whole), &others[0], &others[1]) {
        fs::write(&whole, damaged).unwrap();
        let error = prepared.read("m-0123456789abcdef").map(drop).unwrap_err();
        assert!(error.message().starts_with("the manifest is not the one that was written: it "), "{what}: {error}");
        write(&prepared, "m-0123456789abcdef");
        prepared.read("m-0123456789abcdef").unwrap();
    }
    let modes =
        [prepared.folder.as_path(), &whole].map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
    assert_eq!(modes, [0o700, 0o600]);
}

#[test]
fn a_damaged_form_is_told_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let Some(models) = generated(&folder.path().join("models")) else { return };
    let Some(shop) = Shop::new(&folder.path().join("data"), &[]) else { return };
    let package = models.iter().find(|model| model.ends_with("inside")).unwrap();
    let expected = shop.without(package);
    assert!(shop.outputs("other", &models[0]) != expected);
    let other = shop.folders().remove(0);
    assert!(shop.outputs("inside", package) == expected);
    let form = shop.folders().remove(0);
    assert!(form.file_name().unwrap().to_str().unwrap().starts_with("inside-"));
    let files = || -> Vec<_> { [GRAPH, WEIGHTS, MANIFEST].map(|file| fs::read(form.join(file)).unwrap()).to_vec() };
    let whole = files();

    let lengths = [GRAPH, WEIGHTS, MANIFEST].map(|file| (file, fs::metadata(form.join(file)).unwrap().len()));
    let mut damages: Vec<(String, Box<dyn Fn()>)> = Vec::new();
    for (file, length) in lengths {
        let path = form.join(file);
        let places = [0, 31, 32, length / 3, length / 2, length - 1];
        for at in places {
            let path = path.clone();
            let flip = move || {
                let file = writable(&path);
                let mut byte = [0];
                // Of the manifest, which holds times, another one may be shorter.
                let at = at.min(file.metadata().unwrap().len() - 1);
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            };
            damages.push((format!("byte {at} of {file}"), Box::new(flip)));
        }
        for keep in [0, 7, length - 1] {
            let path = path.clone();
            let cut = move || writable(&path).set_len(keep).unwrap();
            damages.push((format!("{file} cut to {keep}"), Box::new(cut)));
        }
        // Reads of these fail, as on a broken disk.
        let folder = path.clone();
        let turn = move || fs::remove_file(&folder).and_then(|()| fs::create_dir(&folder)).unwrap();
        damages.push((format!("{file} is a folder"), Box::new(turn)));
        let link = path.clone();
        let lead = move || fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(&link, &link)).unwrap();
        damages.push((format!("{file} leads to itself"), Box::new(lead)));
        let gone = path.clone();
        damages.push((format!("{file} is gone"), Box::new(move || fs::remove_file(&gone).unwrap())));
        let (from, to) = (other.join(file), path);
        let exchange = move || {
            writable(&to);
            assert!(fs::copy(&from, &to).unwrap() > 0);
        };
        damages.push((format!("{file} of another model"), Box::new(exchange)));
    }
    for (what, damage) in damages {
        damage();
        let (outputs, log) = shop.logged(|| shop.outputs("inside", package));
        assert!(log.contains("WARN") && log.contains("damaged") && log.contains("is kept"), "{what}: {log}");
        assert!(outputs == expected, "{what}");
        assert!(files()[..2] == whole[..2], "{what}: it is whole again");
        let (outputs, log) = shop.logged(|| shop.outputs("inside", package));
        assert!(outputs == expected && log.is_empty(), "{what}: {log}");
        assert_eq!(shop.folders().len(), 2, "{what}: nothing else is left");
    }
}

#[test]
fn what_a_disk_gives_wrong_is_not_believed_once_it_lies_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let Some(models) = generated(&folder.path().join("models")) else { return };
    let Some(shop) = Shop::new(&folder.path().join("data"), &[]) else { return };
    let package = models.iter().find(|model| model.ends_with("inside")).unwrap();
    let expected = shop.outputs("inside", package);
    let form = shop.folders().remove(0);
    let (name, weights) = (form.file_name().unwrap().to_str().unwrap(), form.join(WEIGHTS));
    for staged_first in [false, true] {
        let file = writable(&weights);
        let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        // As if the disk gave another byte than was written, to a file that nobody touched.
        let prepared = shop.open();
        let mut manifest = prepared.read(name).unwrap();
        manifest.weights.trust(&weights);
        prepared.write(name, &form, &manifest).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        if pages::is_held(&file).unwrap() {
            eprintln!("skipped: this file system keeps all in memory");
            return;
        }
        if staged_first {
            let ((), log) = shop.logged(|| prepared.stage("inside", &HashSet::new()));
            assert!(log.contains("damaged") && !form.exists(), "{log}");
            assert!(shop.outputs("inside", package) == expected);
        } else {
            let (outputs, log) = shop.logged(|| shop.outputs("inside", package));
            assert!(log.contains("damaged") && log.contains("is kept"), "{log}");
            assert!(outputs == expected);
        }
    }
}

#[test]
fn a_form_stays_where_the_engine_has_no_memory_to_load_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(models) = generated(&folder.path().join("models")) else { return };
    let Some(shop) = Shop::new(&folder.path().join("data"), &[]) else { return };
    let expected = shop.outputs("m", &models[0]);
    let inode = || fs::metadata(shop.folders()[0].join(WEIGHTS)).unwrap().ino();
    let kept = inode();
    let full = Full(shop.engine.clone());
    let loaded = shop.open().load(&full, "m", &models[0], bytes(&models[0])).map(drop);
    assert_eq!(loaded.unwrap_err().kind(), Kind::Overloaded);
    let (outputs, log) = shop.logged(|| shop.outputs("m", &models[0]));
    assert!(outputs == expected && inode() == kept && log.is_empty(), "{log}");
}

#[test]
fn a_form_of_another_version_is_not_used_and_its_weights_stay() {
    let folder = tempfile::tempdir().unwrap();
    let Some(models) = generated(&folder.path().join("models")) else { return };
    let Some(shop) = Shop::new(&folder.path().join("data"), &[]) else { return };
    let package = models.iter().find(|model| model.ends_with("outside")).unwrap();
    let expected = shop.outputs("m", package);
    let current = shop.folders().remove(0);
    let inode = |folder: &Path| fs::metadata(folder.join(WEIGHTS)).unwrap().ino();
    let first = inode(&current);
    // What an older version wrote: authentic, but under another fingerprint.
    let prepared = shop.open();
    let old = prepared.folder.join("m-0123456789abcdef");
    fs::rename(&current, &old).unwrap();
    let name = current.file_name().unwrap().to_str().unwrap().to_owned();
    let manifest = prepared.signer.read(&old.join(MANIFEST), &name).unwrap();
    let manifest: Manifest = serde_json::from_slice(manifest.content()).unwrap();
    prepared.write("m-0123456789abcdef", &old, &manifest).unwrap();
    let (outputs, log) = shop.logged(|| shop.outputs("m", package));
    assert!(outputs == expected);
    assert!(log.contains("another version") && log.contains("is kept"), "{log}");
    assert_eq!(shop.folders(), [prepared.folder.join(&name)]);
    assert_eq!(inode(&current), first, "the same bytes are not written twice");
    // Where it is not authentic, nothing of it is taken.
    fs::rename(&current, &old).unwrap();
    let (outputs, _) = shop.logged(|| shop.outputs("m", package));
    assert!(outputs == expected && inode(&current) != first);
    assert!(shop.logged(|| shop.outputs("m", package)).1.is_empty());
}

#[test]
fn forms_stay_within_their_limit_and_go_with_their_model() {
    let folder = tempfile::tempdir().unwrap();
    let Some(models) = generated(&folder.path().join("models")) else { return };
    // `inside` takes 2.1 MB, the weights twice: as they are and packed.
    let Some(shop) = Shop::new(&folder.path().join("data"), &["model_snapshot_bytes=5000000"]) else { return };
    let package = models.iter().find(|model| model.ends_with("inside")).unwrap();
    let expected = shop.outputs("a", package);
    let names = |shop: &Shop| shop.open().digests().unwrap().into_iter().collect::<Vec<_>>();
    shop.outputs("b", package);
    assert_eq!(names(&shop), ["a", "b"]);
    // `a` was used last.
    shop.outputs("a", package);
    shop.outputs("c", package);
    assert_eq!(names(&shop), ["a", "c"]);
    shop.open().remove("a");
    assert_eq!(names(&shop), ["c"]);

    // As where the process was killed, or killed by it, while it made the form.
    let form = shop.folders().remove(0);
    let left = form.with_file_name(format!("{UNFINISHED}{}", form.file_name().unwrap().to_str().unwrap()));
    fs::rename(&form, &left).unwrap();
    let (outputs, log) = shop.logged(|| shop.outputs("c", package));
    assert!(outputs == expected && log.contains("the last process ended"), "{log}");
    assert!(shop.folders().is_empty(), "it is not tried again at once");
    assert!(shop.outputs("c", package) == expected);
    assert_eq!(names(&shop), ["c"], "the process after that one tries");

    let small = Shop::new(&folder.path().join("small"), &["model_snapshot_bytes=1000"]).unwrap();
    let (outputs, log) = small.logged(|| small.outputs("a", package));
    assert!(outputs == expected && log.contains("model_snapshot_bytes"), "{log}");
    assert!(small.folders().is_empty());
    let prepared = small.open();
    let load = || drop(prepared.load(&*small.engine, "a", package, bytes(package)).unwrap());
    assert!(small.logged(load).1.contains("without a prepared form"));
    assert_eq!(small.logged(load).1, "", "it is tried once");
    prepared.remove("a");
    assert!(small.logged(load).1.contains("without a prepared form"), "a model that was deleted is a new one");

    let none = Shop::new(&folder.path().join("none"), &["model_snapshot_bytes=0"]).unwrap();
    assert!(Prepared::open(&none.config).unwrap().is_none() && !none.config.data.exists());
    let off = Shop { config: Config { limits: none.config.limits, ..shop.config.clone() }, ..shop };
    assert!(Prepared::open(&off.config).unwrap().is_none() && !off.config.data.join("prepared").exists());
}

#[test]
fn forms_are_kept_where_they_spare_something() {
    let folder = tempfile::tempdir().unwrap();
    let Some(models) = generated(&folder.path().join("models")) else { return };
    let padded = |name: &str, file: &str, bytes: u64| {
        let package = copied(models.iter().find(|model| model.ends_with(name)).unwrap(), &folder.path().join(file));
        let file = File::options().create(true).append(true).open(package.join(file)).unwrap();
        file.set_len(bytes).unwrap();
        package
    };
    // The weights of one lie beside its file; the other one's are too few.
    let (large, small) = (padded("outside", "weights.bin", SMALLEST_BYTES), padded("inside", "x", SMALLEST_BYTES / 2));
    for (packed, kept) in [(1 << 30, 1), (0, 0)] {
        let limit = format!("packed_model_bytes={packed}");
        let Some(shop) = Shop::new(&folder.path().join(format!("data{packed}")), &[&limit]) else { return };
        let prepared = Prepared::open(&shop.config).unwrap().unwrap();
        for package in [&large, &small] {
            let name = package.file_name().unwrap().to_str().unwrap();
            prepared.load(&*shop.engine, name, package, bytes(package)).unwrap();
        }
        assert_eq!(shop.folders().len(), kept, "{packed}");
    }
}

#[test]
fn loads_and_deletes_at_once_give_right_answers_and_leave_no_more_than_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(models) = generated(&folder.path().join("models")) else { return };
    // Two forms of `inside` have room.
    let most = 5_000_000;
    let Some(shop) = Shop::new(&folder.path().join("data"), &[&format!("model_snapshot_bytes={most}")]) else { return };
    let package = models.iter().find(|model| model.ends_with("inside")).unwrap();
    let expected = shop.without(package);
    let prepared = shop.open();
    let kept = || -> u64 { prepared.forms().unwrap().iter().map(|form| form.bytes).sum() };
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (prepared, shop, expected, kept) = (&prepared, &shop, &expected, &kept);
            scope.spawn(move || {
                for turn in 0..8 {
                    let digest = ["a", "b", "c"][(first + turn) % 3];
                    let session = prepared.load(&*shop.engine, digest, package, bytes(package)).unwrap();
                    if (first + turn) % 4 == 3 {
                        prepared.remove(digest);
                    }
                    assert!(shop.run(&session) == *expected, "{digest}");
                    assert!(kept() <= most);
                }
            });
        }
    });
    assert!(shop.folders().iter().all(|folder| !folder.to_str().unwrap().contains(UNFINISHED)));
    drop(prepared);
    assert!(shop.outputs("a", package) == expected);
    assert_eq!(shop.logged(|| shop.outputs("a", package)).1, "");
}
