//! Measures the cost of a call of a function over HTTP, side by side with the same component in bare wasmtime and with bare
//! hyper. It prints tables, and judges only whether its own floor can be trusted.
//!
//! Measurements alternate: each run measures every row once; the tables show medians.

mod attacks;
mod bare_hyper;
mod engines;
mod floor;
mod gpu;
mod in_process;
mod load;
mod neighbours;
mod operators;
mod paced;
mod shelf;
mod snapshots;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use load::{Load, Server};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// The allocator of `hearth`, so that the floor has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A payload, and its microseconds in bare wasmtime on the machine of the first measurements.
struct Row {
    bytes: usize,
    reference_us: f64,
    /// Whether the reference measured the same thing. Its empty call had no data at all; this one has a request with a method and
    /// headers, whose pages alone cost as much as the rest.
    judged: bool,
}

const ROWS: [Row; 4] = [
    Row { bytes: 0, judged: false, reference_us: 5.8 },
    Row { bytes: 1 << 10, judged: true, reference_us: 10.7 },
    Row { bytes: 150 << 10, judged: true, reference_us: 24.8 },
    Row { bytes: 602 << 10, judged: true, reference_us: 74.5 },
];

/// Microseconds of one empty request to bare hyper on the reference machine.
const HYPER_REFERENCE_US: f64 = 7.8;

/// If a floor is further above its reference than this, the comparison is void: the machine differs or is busy.
const LARGEST_RATIO: f64 = 1.2;

#[derive(Parser)]
#[command(name = "hearth-bench")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// The `hearth` program, built in release
    #[arg(long, default_value = "target/release/hearth")]
    server: PathBuf,
    /// The component of 01-echo
    #[arg(long, default_value = "target/guests/components/echo.wasm")]
    component: PathBuf,
    /// Runs of every row; the tables show medians
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of load for each row of each run
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The core that serves and runs the floor
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core that makes the load
    #[arg(long, default_value_t = 1)]
    client_core: usize,
}

/// Parts of the bench that run in separate processes, each on its core.
#[derive(Subcommand)]
enum Part {
    /// Prints the microseconds of one call in bare wasmtime
    #[command(hide = true)]
    Floor { component: PathBuf, bytes: usize },
    /// Prints the microseconds of one invocation in this process
    #[command(hide = true)]
    InProcess { program: PathBuf, component: PathBuf, bytes: usize },
    /// Measures copies and operators on a GPU, compared with its hardware
    Gpu {
        /// The GPU's number
        #[arg(long, default_value_t = 0)]
        ordinal: u32,
        /// Size of the tensors
        #[arg(long, default_value_t = 256)]
        megabytes: u64,
    },
    /// Requests a path repeatedly, and prints when each request began and ended
    #[command(hide = true)]
    Paced(paced::Caller),
    /// Repeats an attack
    #[command(hide = true)]
    Attack {
        address: std::net::SocketAddr,
        name: String,
        /// How long
        seconds: u64,
        /// The component of 01-echo
        echo: PathBuf,
    },
    /// Prints when the cores stood still
    #[command(hide = true)]
    Watch(paced::Watcher),
    /// Serves an echo with hyper alone
    #[command(hide = true)]
    Hyper { port: u16 },
    /// Measures operators side by side with NumPy and OpenCV
    Operators {
        /// A Python with the wheels of set-up
        #[arg(long)]
        python: PathBuf,
        /// `tests/python/operator_bench.py`
        #[arg(long)]
        script: PathBuf,
        /// Runs of both programs; the table shows medians
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Measures real models on each engine
    Engines {
        /// The onnxruntime library
        #[arg(long)]
        library: PathBuf,
        /// The folder of models
        #[arg(long)]
        models: PathBuf,
        /// Runs of each row; the table shows medians
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Measures how hostile guests delay others
    Neighbours {
        /// The program; the runs of several alternate
        #[arg(long, required = true)]
        server: Vec<PathBuf>,
        /// The folder of components
        #[arg(long)]
        components: PathBuf,
        /// Parts of the names of attacks [default: all attacks]
        #[arg(long)]
        only: Vec<String>,
        /// Runs of each row; the table shows medians
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// Measures the time from the start of a process to the first answer of a model of a gigabyte
    Snapshots {
        /// The onnxruntime library
        #[arg(long)]
        library: PathBuf,
        /// Where to write some 5 GB temporarily [default: the system's temporary folder]
        #[arg(long)]
        folder: Option<PathBuf>,
        /// Runs of each row; the tables show medians
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// The GPU of this number runs the model, instead of the CPU
        #[arg(long)]
        gpu: Option<u32>,
    },
    /// Loads a model in this process and prints the results
    #[command(hide = true)]
    SnapshotHere(snapshots::Here),
    /// Prints the microseconds of each operator in this process
    #[command(hide = true)]
    OperatorsHere { folder: PathBuf },
}

fn main() -> ExitCode {
    let begun = Instant::now();
    match run(begun, &Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(begun: Instant, arguments: &Arguments) -> Result<()> {
    match &arguments.part {
        Some(Part::Floor { component, bytes }) => {
            println!("{}", floor::microseconds(component, *bytes)?);
            Ok(())
        }
        Some(Part::InProcess { program, component, bytes }) => {
            println!("{}", in_process::microseconds(program, component, *bytes)?);
            Ok(())
        }
        Some(Part::Gpu { ordinal, megabytes }) => gpu::run(*ordinal, *megabytes, tempfile::tempdir()?.path()),
        Some(Part::Paced(caller)) => paced::ask(caller),
        Some(Part::Attack { address, name, seconds, echo }) => {
            let named = attacks::ATTACKS.iter().find(|attack| attack.name == name);
            let material = std::sync::Arc::new(attacks::Material::new(std::fs::read(echo)?)?);
            let attacker = attacks::Attacker::start(*address, named.context("no attack has that name")?, material);
            std::thread::sleep(std::time::Duration::from_secs(*seconds));
            attacker.end()
        }
        Some(Part::Watch(watcher)) => paced::watch(watcher),
        Some(Part::Hyper { port }) => bare_hyper::serve(*port),
        Some(Part::Operators { python, script, runs }) => operators::compare(python, script, *runs),
        Some(Part::Engines { library, models, runs }) => engines::compare(library, models, *runs),
        Some(Part::Neighbours { server, components, only, runs }) => {
            neighbours::print(server, components, tempfile::tempdir()?.path(), only, *runs)
        }
        Some(Part::Snapshots { library, folder, runs, gpu }) => {
            snapshots::compare(library, folder.as_deref(), *runs, *gpu)
        }
        Some(Part::SnapshotHere(here)) => snapshots::measure(begun, here),
        Some(Part::OperatorsHere { folder }) => operators::here(folder),
        None => bench(arguments),
    }
}

/// The measurements of one payload, one entry for each run, in microseconds per call.
#[derive(Default)]
struct Measured {
    floor: Vec<f64>,
    in_process: Vec<f64>,
    hyper: Vec<f64>,
    hearth: Vec<f64>,
}

fn bench(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.runs > 0 && arguments.seconds > 0, "runs and seconds must be at least 1");
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "the bench needs two cores: one for the server and one for the load");
    // Other programs take a core from one side, which the reader should know.
    let load_before = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let itself = std::env::current_exe()?;
    let folder = tempfile::tempdir()?;
    let hyper = Server::bare_hyper(&itself, arguments.server_core)?;
    let hearth =
        Server::hearth(&arguments.server, &arguments.component, &folder.path().join("data"), arguments.server_core)?;
    let load = Load::new(folder.path(), arguments.client_core, arguments.seconds);

    let mut measured: Vec<Measured> = ROWS.iter().map(|_| Measured::default()).collect();
    for run in 1..=arguments.runs {
        for (row, measured) in ROWS.iter().zip(&mut measured) {
            eprintln!("run {run} of {}: {}", arguments.runs, size(row.bytes));
            let core = arguments.server_core;
            let (component, bytes) = (arguments.component.as_os_str(), row.bytes.to_string());
            measured.floor.push(on_core(core, &itself, &["floor".as_ref(), component, bytes.as_ref()])?);
            let inside = ["in-process".as_ref(), arguments.server.as_os_str(), component, bytes.as_ref()];
            measured.in_process.push(on_core(core, &itself, &inside)?);
            measured.hyper.push(load.microseconds(&hyper, row.bytes)?);
            measured.hearth.push(load.microseconds(&hearth, row.bytes)?);
        }
    }
    print(&measured, arguments);
    drop((hyper, hearth));
    prepared(&itself, arguments)?;
    let components = arguments.component.parent().unwrap_or(Path::new("."));
    neighbours::print(std::slice::from_ref(&arguments.server), components, folder.path(), &[], arguments.runs)?;
    println!("load average before the first run: {}", load_before.split(' ').next().unwrap_or("unknown"));
    Ok(())
}

/// The number that a part of this program prints when it runs on one core.
fn on_core(core: usize, itself: &Path, arguments: &[&OsStr]) -> Result<f64> {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(itself).args(arguments);
    let output = command.output().context("cannot start taskset (Debian: util-linux)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed ({}): {said}", arguments[0].display(), output.status);
    String::from_utf8(output.stdout)?.trim().parse().context("a part of the bench printed no number")
}

/// Measures what `init` saves: a vocabulary of 500 KB that was parsed once, compared with one that is parsed for each request.
fn prepared(itself: &Path, arguments: &Arguments) -> Result<()> {
    let folder = arguments.component.parent().unwrap_or(Path::new("."));
    let mut medians = Vec::new();
    for name in ["vocabulary.wasm", "vocabulary-each-time.wasm"] {
        let component = folder.join(name);
        let part = ["in-process".as_ref(), arguments.server.as_os_str(), component.as_os_str(), "0".as_ref()];
        let runs = (0..arguments.runs).map(|_| on_core(arguments.server_core, itself, &part));
        medians.push(median(&runs.collect::<Result<Vec<_>>>()?));
    }
    println!(
        "\na vocabulary of 500 KB, in process: {:.1} µs from init's snapshot, {:.0} µs parsed each time ({:.0}x)",
        medians[0],
        medians[1],
        medians[1] / medians[0]
    );
    Ok(())
}

fn print(measured: &[Measured], arguments: &Arguments) {
    println!(
        "\nMicroseconds a call, medians of {} runs. Server and floor on core {}, wrk -t1 -c16 on core {}, {} s each.\n\
         floor: the same component in bare wasmtime, fresh instance, no HTTP. inside: the same through hearth's sandbox, with \
         limits,\n\
         deadline, receipt and log, no HTTP; its bar is the larger of 1.5 x floor and floor + 5. hyper: an echo without wasm.\n",
        arguments.runs, arguments.server_core, arguments.client_core, arguments.seconds
    );
    println!(
        "{:>8} | {:>8} {:>9} {:>9} | {:>8} {:>8} {:>6} | {:>8} {:>8} {:>10} | {:>12} {:>14}",
        "payload",
        "floor",
        "reference",
        "ratio",
        "inside",
        "bar",
        "held",
        "hyper",
        "hearth",
        "requests/s",
        "hearth/floor",
        "hearth/(both)"
    );
    let mut void = Vec::new();
    for (row, measured) in ROWS.iter().zip(measured) {
        let (floor, hyper, hearth) = (median(&measured.floor), median(&measured.hyper), median(&measured.hearth));
        let ratio = floor / row.reference_us;
        let (inside, bar) = (median(&measured.in_process), (1.5 * floor).max(floor + 5.0));
        let held = if inside <= bar { "yes" } else { "no" };
        if row.judged && ratio > LARGEST_RATIO {
            void.push(format!("{} ({ratio:.2}x)", size(row.bytes)));
        }
        println!(
            "{:>8} | {floor:>8.1} {:>9.1} {ratio:>8.2}x | {inside:>8.1} {bar:>8.1} {held:>6} | {hyper:>8.1} {hearth:>8.1} \
             {:>10.0} | {:>11.2}x {:>13.2}x",
            size(row.bytes),
            row.reference_us,
            1e6 / hearth,
            hearth / floor,
            hearth / (floor + hyper),
        );
    }
    let hyper = measured.first().map_or(f64::NAN, |first| median(&first.hyper));
    println!(
        "\nbare hyper, empty request: {hyper:.1} µs; the reference machine takes {HYPER_REFERENCE_US} ({:.2}x)",
        hyper / HYPER_REFERENCE_US
    );
    println!("spread of hearth over the runs: {}", spreads(measured));
    if void.is_empty() {
        println!(
            "the floor is within {LARGEST_RATIO}x of its reference wherever there is a payload: the comparison holds"
        );
    } else {
        println!("void: the floor is more than {LARGEST_RATIO}x its reference at {}", void.join(", "));
    }
}

fn spreads(measured: &[Measured]) -> String {
    let spread = |values: &[f64]| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        format!("{least:.1} to {most:.1}")
    };
    let rows = ROWS.iter().zip(measured);
    rows.map(|(row, measured)| format!("{} {}", size(row.bytes), spread(&measured.hearth)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

fn size(bytes: usize) -> String {
    if bytes == 0 { "0 B".to_owned() } else { format!("{} KB", bytes >> 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
