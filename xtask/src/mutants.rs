//! `cargo xtask mutants`: breaks the device's operators in one place at a time and reports whether the operator table notices; it
//! never changes a source file.
//!
//! All mutants are compiled into one program (`schema`). An environment variable selects one of them, so that a mutant costs a
//! run of the table and no build.

mod lexer;
mod schema;

use self::schema::{Mutant, Rewritten, Wrap};
use crate::progress::say;
use crate::{process, setup, test};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Mutants {
    /// The number of mutants to try, chosen at random
    #[arg(long, default_value_t = 150)]
    count: usize,
    /// Try all mutants, which takes hours
    #[arg(long, conflicts_with = "count")]
    all: bool,
    /// Seed of the choice and of the operator table [default: a new one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Only mutants of files whose names contain this
    #[arg(long, default_value = "")]
    file: String,
    /// Only the mutant of this number
    #[arg(long)]
    only: Vec<u32>,
    /// Print what would be tried, and end
    #[arg(long)]
    list: bool,
    /// Runs in parallel
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// Where operators are planned and computed. `memory.rs` only allocates and `vectorised.rs` only compiles.
const SOURCES: [&str; 5] = ["op", "cpu", "op.rs", "resample.rs", "shape.rs"];
const LEFT_OUT: [&str; 2] = ["cpu/memory.rs", "cpu/vectorised.rs"];

/// How many times as long as the program without a mutant a run may take.
const PATIENCE: u32 = 6;

const TABLE_TEST: &str = "device::reference_tests::every_operator_gives_the_reference_result_on_every_device";

/// Sizes of the parts that work is cut into, made small, so that the table's small tensors have many parts.
const SHRUNK: [(&str, &str, &str); 5] = [
    ("stop.rs", "CHUNK: usize = 1 << 20", "CHUNK: usize = 1 << 10"),
    ("cpu/sort.rs", "RUN: usize = 1 << 14", "RUN: usize = 1 << 6"),
    ("cpu/top_k.rs", "LARGE: usize = 1 << 14", "LARGE: usize = 1 << 4"),
    ("cpu/matmul.rs", "TILE: [usize; 3] = [256, 256, 1_024]", "TILE: [usize; 3] = [8, 16, 40]"),
    ("cpu/strided.rs", "BLOCK: usize = 1 << 10", "BLOCK: usize = 1 << 3"),
];

/// A mutant that no result can show, from `xtask/mutants.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    exception: Vec<Exception>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    /// A part of the file's name below `host/src/device`.
    file: String,
    /// A part of the line.
    line: String,
    /// The text just before the change in that line; any if absent.
    behind: Option<String>,
    /// The changed text; any if absent, any number if it is "number".
    from: Option<String>,
    /// The new text; any if absent.
    to: Option<String>,
    /// Why no result differs, for readers.
    #[serde(rename = "reason")]
    _reason: String,
}

impl Exceptions {
    fn has(&self, mutant: &Mutant) -> bool {
        self.exception.iter().any(|rule| {
            let from = |from: &String| match from.as_str() {
                "number" => mutant.from.starts_with(|first: char| first.is_ascii_digit()),
                from => mutant.from == from,
            };
            mutant.file.contains(&rule.file)
                && mutant.text.contains(&rule.line)
                && rule.behind.as_ref().is_none_or(|before| mutant.text[..mutant.column].ends_with(before))
                && rule.from.as_ref().is_none_or(from)
                && rule.to.as_ref().is_none_or(|to| *to == mutant.to)
        })
    }
}

/// How a run of the table ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// The table found a wrong result, or the program panicked.
    Caught,
    /// It took so long that a developer would notice.
    Slow,
    /// Nothing was noticed.
    Survived,
}

impl Mutants {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        setup::run(root, setup::Need::Tests)?;
        let seed = self.seed.unwrap_or_else(test::fresh_seed);
        let folder = root.join("target/mutants");
        let text = fs::read_to_string(root.join("xtask/mutants.toml")).context("reading xtask/mutants.toml")?;
        let exceptions: Exceptions = toml::from_str(&text).context("xtask/mutants.toml")?;
        make_crate(root, &folder)?;
        let (mutants, dropped) = self.viable(root, &folder, &exceptions)?;
        let (left_out, tried): (Vec<&Mutant>, Vec<&Mutant>) = mutants.iter().partition(|mutant| exceptions.has(mutant));
        let viable: Vec<&Mutant> = tried.into_iter().filter(|mutant| !dropped.contains(&mutant.id)).collect();
        say(format!(
            "{} places; {} are no program there, {} decide about no result (xtask/mutants.toml); {} mutants are left",
            mutants.len(),
            dropped.len(),
            left_out.len(),
            viable.len()
        ));
        let chosen = self.choose(viable, seed);
        if self.list {
            chosen.iter().for_each(|mutant| say(described(mutant)));
            return Ok(());
        }
        let program = build(&folder)?;
        let cases = folder.join("cases");
        test::operator_cases(root, seed, &cases)?;
        self.try_all(&program, &cases, &chosen, seed)
    }

    /// All mutants, and the numbers of those that do not compile.
    fn viable(&self, root: &Path, folder: &Path, exceptions: &Exceptions) -> Result<(Vec<Mutant>, BTreeSet<u32>)> {
        let device = root.join("host/src/device");
        let mut files = Vec::new();
        for source in SOURCES {
            let place = device.join(source);
            match place.is_dir() {
                true => files.extend(fs::read_dir(place)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?),
                false => files.push(place),
            }
        }
        files.sort();
        // Mutants that did not compile the last time do not compile now, unless a source has changed.
        let memory = folder.join("dropped.json");
        let mut sources = BTreeMap::new();
        for file in &files {
            let name = file.strip_prefix(&device)?.display().to_string();
            if !LEFT_OUT.contains(&name.as_str()) {
                let text = shrunk(&name, fs::read_to_string(file)?)?;
                sources.insert(name, text);
            }
        }
        let stamp = crate::stamp::sha256(sources.values().cloned().collect::<String>().as_bytes());
        let known: Option<(String, BTreeSet<u32>)> =
            fs::read(&memory).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut dropped = known.filter(|(digest, _)| *digest == stamp).map(|(_, ids)| ids).unwrap_or_default();
        for round in 1..=60 {
            let mut all = Vec::new();
            let mut written: BTreeMap<PathBuf, Rewritten> = BTreeMap::new();
            for (name, text) in &sources {
                let first = all.len() as u32;
                let wanted = |mutant: &Mutant| !dropped.contains(&mutant.id) && !exceptions.has(mutant);
                let (rewritten, mutants) = schema::rewrite(name, text, first, &wanted);
                all.extend(mutants);
                let place = folder.join("src/device").join(name);
                if fs::read_to_string(&place).ok().as_ref() != Some(&rewritten.text) {
                    fs::write(&place, &rewritten.text)?;
                }
                written.insert(place, rewritten);
            }
            let errors = errors(folder)?;
            if errors.is_empty() {
                fs::write(&memory, serde_json::to_vec(&(stamp, &dropped))?)?;
                return Ok((all, dropped));
            }
            let mut found = BTreeSet::new();
            for error in &errors {
                let guilty = error.places.iter().find_map(|(file, place)| {
                    written.get(&folder.join(file)).and_then(|text| guilty(&text.wraps, *place))
                });
                match guilty {
                    Some(ids) => found.extend(ids),
                    None if errors.len() == 1 => bail!("the mutated program does not compile: {}", error.message),
                    None => {}
                }
            }
            if found.is_empty() {
                bail!("the mutated program does not compile: {}", errors[0].message);
            }
            say(format!("round {round}: {} errors, {} mutants are no program", errors.len(), found.len()));
            dropped.extend(found);
        }
        bail!("the mutated program still does not compile")
    }

    fn choose<'a>(&self, mut mutants: Vec<&'a Mutant>, seed: u64) -> Vec<&'a Mutant> {
        mutants.retain(|mutant| mutant.file.contains(&self.file));
        if !self.only.is_empty() {
            mutants.retain(|mutant| self.only.contains(&mutant.id));
            return mutants;
        }
        if self.all {
            return mutants;
        }
        // Fisher and Yates' shuffle, with the generator of Steele, Lea and Flood (SplitMix64).
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        for index in (1..mutants.len()).rev() {
            mutants.swap(index, (random() % (index as u64 + 1)) as usize);
        }
        mutants.truncate(self.count);
        mutants
    }

    fn try_all(&self, program: &Path, cases: &Path, chosen: &[&Mutant], seed: u64) -> Result<()> {
        let started = Instant::now();
        let longest = Duration::from_secs(600);
        if table(program, cases, None, longest)? != Verdict::Survived {
            bail!("the operator table fails without any mutant");
        }
        let whole = started.elapsed();
        say(format!("seed {seed}: {} mutants; the table alone takes {:.1} s", chosen.len(), whole.as_secs_f64()));
        let patience = whole * PATIENCE + Duration::from_secs(10);
        let next = Mutex::new(chosen.iter());
        let verdicts: Mutex<Vec<(&Mutant, Verdict)>> = Mutex::default();
        let work = || -> Result<()> {
            loop {
                let Some(mutant) = locked(&next).next() else { return Ok(()) };
                let verdict = table(program, cases, Some(mutant.id), patience)?;
                let mut verdicts = locked(&verdicts);
                verdicts.push((mutant, verdict));
                let word = match verdict {
                    Verdict::Caught => "caught  ",
                    Verdict::Slow => "slow    ",
                    Verdict::Survived => "SURVIVED",
                };
                say(format!("{:4}/{} {word} {}", verdicts.len(), chosen.len(), described(mutant)));
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
        })?;
        let verdicts = locked(&verdicts);
        let mut files: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for (mutant, verdict) in verdicts.iter() {
            let counts = files.entry(&mutant.file).or_default();
            counts[usize::from(*verdict == Verdict::Survived)] += 1;
        }
        say("\nfile                 caught survived");
        for (file, [caught, survived]) in &files {
            say(format!("{file:20} {caught:6} {survived:8}"));
        }
        let survived: Vec<_> = verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Survived).collect();
        say("\nsurvivors:");
        survived.iter().for_each(|(mutant, _)| say(described(mutant)));
        let caught = verdicts.len() - survived.len();
        let slow = verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Slow).count();
        say(format!(
            "\nseed {seed}: {caught} of {} caught ({:.1} %), {slow} of them because the run did not end; {:.1} min",
            verdicts.len(),
            100.0 * caught as f64 / verdicts.len().max(1) as f64,
            started.elapsed().as_secs_f64() / 60.0
        ));
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn described(mutant: &Mutant) -> String {
    let Mutant { id, file, line, text, column: _, from, to } = mutant;
    format!("{id}: {file}:{line}: `{from}` -> `{to}` in `{text}`")
}

/// The host's device layer as a separate crate, with only what it needs.
fn make_crate(root: &Path, folder: &Path) -> Result<()> {
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(root.join("host/Cargo.toml"))?)?;
    let workspace: toml::Table = toml::from_str(&fs::read_to_string(root.join("Cargo.toml"))?)?;
    let shared = |key: &str| workspace.get("workspace")?.get(key).cloned();
    let mut dependencies: toml::Table = manifest
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .context("host/Cargo.toml has no dependencies")?
        .clone();
    // The dependencies of the feature `server` are optional; the table's test needs JSON and generated shapes.
    let kept = ["serde_json"];
    dependencies.retain(|name, value| kept.contains(&name) || value.get("optional").is_none());
    let versions = shared("dependencies").context("Cargo.toml has no dependencies")?;
    let develop = manifest.get("dev-dependencies").and_then(toml::Value::as_table);
    let develop = develop.into_iter().flatten().filter(|(name, _)| *name == "proptest");
    let names: Vec<String> = dependencies.keys().chain(develop.map(|(name, _)| name)).cloned().collect();
    let mut own = toml::Table::new();
    for name in names {
        let version = versions.get(&name).cloned().with_context(|| format!("{name} has no version"))?;
        own.insert(name, version);
    }
    let profile: toml::Table =
        toml::from_str("[dev]\nopt-level = 1\ndebug = false\n[dev.package.\"*\"]\nopt-level = 3\n")?;
    let mut package = toml::Table::new();
    for (key, value) in [("name", "hearth"), ("version", "0.0.0"), ("edition", "2024")] {
        package.insert(key.into(), value.into());
    }
    let mut whole = toml::Table::new();
    whole.insert("package".into(), package.into());
    whole.insert("workspace".into(), toml::Table::new().into());
    whole.insert("dependencies".into(), own.into());
    whole.insert("profile".into(), profile.into());
    let source = folder.join("src");
    if source.exists() {
        fs::remove_dir_all(&source)?;
    }
    fs::create_dir_all(source.join("config"))?;
    fs::write(folder.join("Cargo.toml"), toml::to_string(&whole)?)?;
    if !folder.join("Cargo.lock").exists() {
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    }
    let host = root.join("host/src");
    for name in ["error.rs", "device.rs", "config/limits.rs"] {
        fs::copy(host.join(name), source.join(name)).with_context(|| format!("copying {name}"))?;
    }
    copy_folder(&host.join("device"), &source.join("device"))?;
    for (name, ..) in SHRUNK {
        let place = source.join("device").join(name);
        fs::write(&place, shrunk(name, fs::read_to_string(&place)?)?)?;
    }
    fs::write(source.join("mutants.rs"), include_str!("mutants/hook.rs"))?;
    let library = "pub mod config {\n    mod limits;\n    pub use limits::{LIMITS, Limit, Limits};\n}\npub mod device;\npub mod error;\npub mod mutants;\n";
    fs::write(source.join("lib.rs"), library)?;
    Ok(())
}

/// A source text with small parts.
fn shrunk(name: &str, text: String) -> Result<String> {
    SHRUNK.iter().filter(|(file, ..)| *file == name).try_fold(text, |text, (_, from, to)| {
        if !text.contains(from) {
            bail!("{name} has no `{from}` to make smaller");
        }
        Ok(text.replace(from, to))
    })
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

fn cargo(folder: &Path) -> Command {
    let mut command = process::cargo(folder);
    // Warnings about unnecessary brackets would hide the errors.
    command.env("RUSTFLAGS", "-Awarnings").env("CARGO_TARGET_DIR", folder.join("target"));
    command
}

/// A compiler's message and its places, the most exact first.
struct Fault {
    message: String,
    places: Vec<(PathBuf, usize)>,
}

/// The errors of the crate as it is now.
fn errors(folder: &Path) -> Result<Vec<Fault>> {
    let mut command = cargo(folder);
    command.args(["check", "--tests", "--message-format=json", "--quiet"]).current_dir(folder);
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().context("cannot start cargo")?;
    let mut faults = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let message = &value["message"];
        if value["reason"] != "compiler-message" || message["level"] != "error" {
            continue;
        }
        let mut places = Vec::new();
        for span in message["spans"].as_array().into_iter().flatten() {
            if span["is_primary"] == true {
                trail(span, &mut places);
            }
        }
        if !places.is_empty() {
            let text = message["rendered"].as_str().unwrap_or_default().to_owned();
            faults.push(Fault { message: text, places });
        }
    }
    if faults.is_empty() && !output.status.success() {
        bail!("cargo check failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(faults)
}

/// Where a span is, and where the macros that it comes from were called.
fn trail(span: &serde_json::Value, places: &mut Vec<(PathBuf, usize)>) {
    if let (Some(file), Some(start)) = (span["file_name"].as_str(), span["byte_start"].as_u64()) {
        places.push((file.into(), start as usize));
    }
    if span["expansion"].is_object() {
        trail(&span["expansion"]["span"], places);
    }
}

/// The mutants that cause an error at this byte.
fn guilty(wraps: &[Wrap], place: usize) -> Option<Vec<u32>> {
    let innermost = wraps.iter().filter(|wrap| wrap.place.contains(&place)).min_by_key(|wrap| wrap.place.len())?;
    let own = innermost.variants.iter().find(|(range, _)| range.contains(&place));
    Some(own.map_or_else(|| innermost.variants.iter().map(|(_, id)| *id).collect(), |(_, id)| vec![*id]))
}

/// Builds the test program and gives its path.
fn build(folder: &Path) -> Result<PathBuf> {
    let started = Instant::now();
    let mut command = cargo(folder);
    command.args(["test", "--lib", "--no-run", "--message-format=json", "--quiet"]).current_dir(folder);
    let text = process::run(&mut command)?;
    let executable = text.lines().rev().find_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        value["executable"].as_str().map(PathBuf::from)
    });
    say(format!("built in {:.0} s", started.elapsed().as_secs_f64()));
    executable.context("cargo named no test program")
}

/// Runs the operator table in the program with a mutant, if any.
fn table(program: &Path, cases: &Path, mutant: Option<u32>, patience: Duration) -> Result<Verdict> {
    let mut command = Command::new("sh");
    // A mutant that allocates without end must not take the machine's memory.
    command.args(["-c", "ulimit -v 8000000; exec \"$0\" \"$@\""]).arg(program).args(["--exact", TABLE_TEST]);
    command.env("HEARTH_OPERATOR_CASES", cases).env("HEARTH_REQUIRE_REFERENCES", "1").env("RUST_BACKTRACE", "0");
    match mutant {
        Some(id) => command.env("HEARTH_MUTANT", id.to_string()),
        None => command.env_remove("HEARTH_MUTANT"),
    };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { Verdict::Survived } else { Verdict::Caught });
        }
        if started.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(Verdict::Slow);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
