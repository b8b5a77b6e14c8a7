//! Measures the time from the start of a process to the first answer of a large model: from the model's prepared form, without
//! one, and compared with a plain read of the same bytes. It prints tables, and fails only on a wrong answer.
//!
//! Each measurement is a separate process. "Cold" means that nothing of the files is in the page cache before.

use crate::shelf::{self, noise};
use anyhow::{Context, Result, ensure};
use hearth::config::RawConfig;
use hearth::device::{DType, Owner, Shape, Stop};
use hearth::model::EngineName;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Rows and columns of each weight.
const WIDTH: u64 = 1_152;
/// Successive matrix products; each has a large initialiser and a small one.
const LAYERS: u64 = 204;
/// Rows of the input in the measurements of loading.
const ROWS: u64 = 4;
/// Rows of the input in the measurements of running.
const MANY_ROWS: [u64; 5] = [1, 4, 16, 64, 256];
/// Repetitions of a run, of which the fastest counts.
const REPEATS: usize = 5;

/// The limit with which onnxruntime packs this model.
const PACKED: &str = "packed_model_bytes=4000000000";

/// Two ways of storing the weights.
const KINDS: [&str; 2] =
    ["inside the model's file", "in a file next to it, of which no prepared form is kept on the CPU"];

/// Arguments of the measured process.
#[derive(clap::Args)]
pub(crate) struct Here {
    model: PathBuf,
    data: PathBuf,
    library: PathBuf,
    /// Rows of each run after the first two
    rows: u64,
    /// Limits, as of `hearth serve`
    limits: Vec<String>,
    /// The GPU's number, instead of the CPU
    #[arg(long)]
    gpu: Option<u32>,
}

/// Its results, printed as one line of numbers.
#[derive(Clone, Copy)]
struct Found {
    /// From the start of the process to the first answer.
    first_ms: f64,
    /// The part of that for loading the model.
    load_ms: f64,
    /// Private memory added by the model and two runs.
    anonymous_mib: f64,
    mapped_mib: f64,
    /// The fastest run of [`ROWS`].
    run_ms: f64,
    /// A hash of the first answer's bytes.
    answer: u64,
}

/// Writes the models into `folder`, measures, and removes them.
pub(crate) fn compare(library: &Path, folder: Option<&Path>, runs: usize, gpu: Option<u32>) -> Result<()> {
    let here = |paths: [&Path; 3], rows: u64, limits: &[&str]| measured(paths, rows, limits, gpu);
    let folder = match folder {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let gigabytes = (LAYERS * (WIDTH * WIDTH + WIDTH) * 4) as f64 / 1e9;
    println!("{LAYERS} layers of {WIDTH} x {WIDTH} f32: {} initialisers, {gigabytes:.2} GB; {ROWS} rows", 2 * LAYERS);
    for (number, kind) in KINDS.into_iter().enumerate() {
        let [model, data, bare] = ["model", "data", "bare"].map(|name| folder.path().join(name));
        write_model(&model, number == 1)?;
        let with = || here([&model, &data, library], ROWS, &[]);
        let without = || here([&model, &bare, library], ROWS, &["model_snapshot_bytes=0"]);
        // The files exist and are on disk before anything is measured.
        let first = with()?;
        // No prepared form of external data is kept: it is mapped unchanged, in both columns.
        let weights = if number == 0 || gpu.is_some() { single(&data.join("prepared"))? } else { model.clone() }
            .join("weights.bin");
        let right = without()?.answer;
        ensure!(first.answer == right, "the first answer differs with a prepared form");
        println!("\nweights {kind}; milliseconds to the first answer, cold, and of a run in the same process");
        println!(
            "{:>4} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "read", "run", "prepared", "without", "/ read+run", "/ without"
        );
        let mut rows = Vec::new();
        for run in 0..runs {
            evict(&[&model, &data])?;
            let read = read_ms(&weights)?;
            evict(&[&model, &data])?;
            let prepared = with()?;
            evict(&[&model, &data])?;
            let plain = without()?;
            ensure!(prepared.answer == right && plain.answer == right, "an answer differs");
            let row = [read, prepared.run_ms, prepared.first_ms, plain.first_ms];
            print(&format!("{}", run + 1), row);
            rows.push(row);
        }
        print("med", std::array::from_fn(|column| median(rows.iter().map(|row| row[column]).collect())));
        let warm = median_found((0..runs).map(|_| with()).collect::<Result<_>>()?);
        let plain = median_found((0..runs).map(|_| without()).collect::<Result<_>>()?);
        println!(
            "page cache warm: prepared {:.0} ms, {:.0} of them loading; without {:.0} ms, {:.0} of them loading",
            warm.first_ms, warm.load_ms, plain.first_ms, plain.load_ms
        );
        println!(
            "memory that came with the model, MiB: prepared {:.0} private and {:.0} mapped, without {:.0} and {:.0}",
            warm.anonymous_mib, warm.mapped_mib, plain.anonymous_mib, plain.mapped_mib
        );
        // A GPU has no packed copies.
        if number == 0 && gpu.is_none() {
            println!("\nmilliseconds of a run by rows, as it is mapped and with packed copies (packed_model_bytes)");
            for rows in MANY_ROWS {
                let mapped = here([&model, &data, library], rows, &[])?;
                let packed = here([&model, &bare, library], rows, &[PACKED, "model_snapshot_bytes=0"])?;
                println!("{rows:>4} {:9.0} {:9.0}", mapped.run_ms, packed.run_ms);
            }
            let kept = here([&model, &bare, library], ROWS, &[PACKED])?;
            let packed = here([&model, &bare, library], ROWS, &[PACKED])?;
            ensure!(kept.answer == packed.answer, "an answer differs");
            println!(
                "packed and prepared, warm: {:.0} ms to the first answer, {:.0} of them loading; {:.0} MiB private",
                packed.first_ms, packed.load_ms, packed.anonymous_mib
            );
        }
        fs::remove_dir_all(&bare)?;
        fs::remove_dir_all(&data)?;
        fs::remove_dir_all(&model)?;
    }
    Ok(())
}

fn print(name: &str, [read, run, prepared, without]: [f64; 4]) {
    let (to_read, to_plain) = (prepared / (read + run), prepared / without);
    println!("{name:>4} {read:9.0} {run:9.0} {prepared:9.0} {without:9.0} {to_read:10.2} {to_plain:9.2}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The measurement with the median time.
fn median_found(mut all: Vec<Found>) -> Found {
    all.sort_by(|a, b| a.first_ms.total_cmp(&b.first_ms));
    all[all.len() / 2]
}

fn single(folder: &Path) -> Result<PathBuf> {
    let entry = fs::read_dir(folder)?.next().context("no prepared form was kept")?;
    Ok(entry?.path())
}

/// Takes all files below some folders out of the page cache.
fn evict(folders: &[&Path]) -> Result<()> {
    let mut pending: Vec<PathBuf> = folders.iter().map(|&folder| folder.to_owned()).collect();
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let file = File::open(path)?;
                // Only what is on disk can be evicted.
                file.sync_all()?;
                fadvise(&file, 0, None, Advice::DontNeed)?;
            }
        }
    }
    Ok(())
}

fn read_ms(path: &Path) -> Result<f64> {
    let mut buffer = vec![0u8; 1 << 20];
    let begun = Instant::now();
    let mut file = File::open(path)?;
    while file.read(&mut buffer)? > 0 {}
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Measures in a new process that loads and runs the model.
fn measured([model, data, library]: [&Path; 3], rows: u64, limits: &[&str], gpu: Option<u32>) -> Result<Found> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("snapshot-here").args([model, data, library]).arg(rows.to_string()).args(limits);
    if let Some(ordinal) = gpu {
        command.args(["--gpu", &ordinal.to_string()]);
    }
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the measured process failed");
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let &[first_ms, load_ms, anonymous_mib, mapped_mib, run_ms, answer] = numbers.as_slice() else {
        anyhow::bail!("the measured process printed {text}");
    };
    Ok(Found { first_ms, load_ms, anonymous_mib, mapped_mib, run_ms, answer: answer as u64 })
}

/// The measured process: loads the model as a server does, runs it, and prints its results.
pub(crate) fn measure(begun: Instant, here: &Here) -> Result<()> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    threads.block_on(async {
        let raw = RawConfig {
            data: Some(here.data.clone()),
            ort_lib: Some(here.library.clone()),
            nvrtc_lib: std::env::var_os("HEARTH_NVRTC_LIB").map(Into::into),
            limits: here.limits.clone(),
            ..RawConfig::default()
        };
        let config = raw.resolve()?;
        fs::create_dir_all(&config.data)?;
        let shelf = here.model.parent().context("the model's folder has no parent")?;
        let (models, device) = shelf::models(&config, shelf, EngineName::Onnxruntime, here.gpu)?;
        let name = here.model.file_name().unwrap_or_default().to_string_lossy();
        let (before, started_ms) = (memory()?, begun.elapsed().as_secs_f64() * 1e3);
        let account = device.ledger().account(Owner::Workspace, u64::MAX, u64::MAX);
        let lease = models.open("default", &name).await?;
        let load_ms = begun.elapsed().as_secs_f64() * 1e3 - started_ms;
        let run = async |rows: u64| -> Result<(Vec<u8>, f64)> {
            let bytes = (0..rows * WIDTH).flat_map(|at| (noise(at) as f32).to_le_bytes()).collect::<Vec<_>>();
            let input = device.create(&account, DType::F32, Shape::new(&[rows, WIDTH], 8)?, &bytes)?;
            let started = Instant::now();
            let run = lease.infer(&account, vec![("x".to_owned(), input)], &Stop::default()).await?;
            let took = started.elapsed().as_secs_f64() * 1e3;
            let (_, output) = run.outputs.first().context("an answer")?;
            Ok((output.read(0..output.byte_length())?, took))
        };
        let (answer, _) = run(ROWS).await?;
        let first_ms = begun.elapsed().as_secs_f64() * 1e3;
        run(ROWS).await?;
        let after = memory()?;
        let told = answer
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        // Halved, so that an f64 holds it exactly.
        let mut best = f64::INFINITY;
        for _ in 0..REPEATS {
            best = best.min(run(here.rows).await?.1);
        }
        println!("{first_ms} {load_ms} {} {} {best} {}", after.0 - before.0, after.1 - before.1, told >> 12);
        Ok(())
    })
}

/// MiB of this process that are private, and that are mapped from files.
fn memory() -> Result<(f64, f64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("the system reports no memory")?;
        Ok(line.split_whitespace().next().context("a number")?.parse::<f64>()? / 1024.0)
    };
    Ok((of("RssAnon:")?, of("RssFile:")?))
}

/// A message of protocol buffers.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Message {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn int(self, field: u64, value: u64) -> Message {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, value: impl AsRef<[u8]>) -> Message {
        let value = value.as_ref();
        let mut message = self.varint(field << 3 | 2).varint(value.len() as u64);
        message.0.extend_from_slice(value);
        message
    }
}

/// Writes the model (onnx.proto3, fields by number): x → tanh(x · w + b), once for each layer.
fn write_model(folder: &Path, beside: bool) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut data = if beside { Some(BufWriter::new(File::create(folder.join("weights.bin"))?)) } else { None };
    let mut offset = 0u64;
    let mut graph = Message::default();
    let mut last = "x".to_owned();
    let scale = (3.0 / WIDTH as f64).sqrt();
    for layer in 0..LAYERS {
        for (name, dims, scale) in [("w", vec![WIDTH, WIDTH], scale), ("b", vec![WIDTH], 0.1)] {
            let (count, seed) = (dims.iter().product::<u64>(), (layer * 2 + u64::from(name == "b")) << 32);
            let bytes: Vec<u8> = (0..count).flat_map(|at| ((noise(seed + at) * scale) as f32).to_le_bytes()).collect();
            let tensor = dims.iter().fold(Message::default(), |tensor, dim| tensor.int(1, *dim));
            let mut tensor = tensor.int(2, 1).bytes(8, format!("{name}{layer}"));
            if let Some(data) = &mut data {
                let length = bytes.len() as u64;
                for (key, value) in
                    [("location", "weights.bin"), ("offset", &offset.to_string()), ("length", &length.to_string())]
                {
                    tensor = tensor.bytes(13, Message::default().bytes(1, key).bytes(2, value).0);
                }
                tensor = tensor.int(14, 1);
                data.write_all(&bytes)?;
                offset += length;
            } else {
                tensor = tensor.bytes(9, bytes);
            }
            graph = graph.bytes(5, tensor.0);
        }
        let output = if layer + 1 == LAYERS { "y".to_owned() } else { format!("t{layer}") };
        let (product, sum) = (format!("m{layer}"), format!("a{layer}"));
        for (operator, inputs, output) in [
            ("MatMul", vec![last.as_str(), &format!("w{layer}")], &product),
            ("Add", vec![product.as_str(), &format!("b{layer}")], &sum),
            ("Tanh", vec![sum.as_str()], &output),
        ] {
            let node = inputs.into_iter().fold(Message::default(), |node, input| node.bytes(1, input));
            graph = graph.bytes(1, node.bytes(2, output).bytes(4, operator).0);
        }
        last = output;
    }
    let dims = [Message::default().bytes(2, "n"), Message::default().int(1, WIDTH)];
    let shape = dims.into_iter().fold(Message::default(), |shape, dim| shape.bytes(1, dim.0));
    let kind = Message::default().bytes(1, Message::default().int(1, 1).bytes(2, shape.0).0);
    for (field, name) in [(11, "x"), (12, "y")] {
        graph = graph.bytes(field, Message::default().bytes(1, name).bytes(2, &kind.0).0);
    }
    let graph = graph.bytes(2, "g").0;
    // The graph is not copied into the model's message, because it is nearly all of it.
    let opset = Message::default().bytes(8, Message::default().int(2, 17).0);
    let before = Message::default().int(1, 8).varint(7 << 3 | 2).varint(graph.len() as u64);
    let mut file = BufWriter::new(File::create(folder.join("model.onnx"))?);
    for piece in [before.0, graph, opset.0] {
        file.write_all(&piece)?;
    }
    file.flush()?;
    data.map_or(Ok(()), |mut data| data.flush())?;
    Ok(())
}
