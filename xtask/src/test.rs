//! Runs every check and test, from a clean clone, and prints the time of each stage; it never continues after a stage that
//! failed.

use crate::progress::say;
use crate::python::Python;
use crate::{guest, process, setup};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

#[derive(clap::Args)]
pub(crate) struct Test {
    /// Seed of the generated operator cases [default: a new one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Only the stages whose names contain one of these words; set-up and the guests are always made
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// Arguments for the test programs, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

type Work<'a> = Box<dyn Fn() -> Result<()> + 'a>;

impl Test {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let seed = self.seed.unwrap_or_else(fresh_seed);
        let cases = root.join("target/setup/operator-cases");
        let examples = root.join("examples");
        let cargo = |folder: &Path, arguments: &[&str]| process::show(process::cargo(folder).args(arguments));
        // `--workspace` everywhere: another selection would resolve features differently and compile dependencies twice.
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        let stages: Vec<(&str, Work<'_>)> = vec![
            ("set-up", Box::new(|| setup::run(root, setup::Need::Tests))),
            ("format", Box::new(|| cargo(root, &["fmt", "--all", "--check"]))),
            ("format of guests", Box::new(|| cargo(&examples, &["fmt", "--all", "--check"]))),
            ("guests", Box::new(|| guest::build_all(root).map(drop))),
            ("guests: clippy", Box::new(|| cargo(&examples, &clippy))),
            ("guests: tests", Box::new(|| cargo(&examples, &["test", "--workspace"]))),
            ("clippy", Box::new(|| cargo(root, &clippy))),
            ("operator cases", Box::new(|| operator_cases(root, seed, &cases))),
            ("build of tests", Box::new(|| process::show(&mut self.cargo_test(root, &cases, true)))),
            ("tests", Box::new(|| process::show(&mut self.cargo_test(root, &cases, false)))),
        ];
        let mut times: Vec<(&str, Duration)> = Vec::new();
        let mut result = Ok(());
        for (name, work) in &stages {
            if !self.wants(name) {
                continue;
            }
            say(format!("\n=== {name}"));
            let started = Instant::now();
            result = work().with_context(|| format!("the stage \"{name}\" failed"));
            times.push((name, started.elapsed()));
            if result.is_err() {
                break;
            }
        }
        say("\nminutes of each stage:");
        for (name, time) in &times {
            say(format!("{name:20} {:6.1}", time.as_secs_f64() / 60.0));
        }
        let total: Duration = times.iter().map(|(_, time)| *time).sum();
        say(format!("{:20} {:6.1}", "total", total.as_secs_f64() / 60.0));
        say(format!("operator cases: seed {seed} (again with `cargo xtask test --seed {seed}`)"));
        result
    }

    fn wants(&self, stage: &str) -> bool {
        let always = ["set-up", "guests"].contains(&stage);
        let chosen = |word: &String| stage == word || (stage.contains(word.as_str()) && word != "tests");
        let needed =
            self.only.iter().any(|word| word == "tests") && ["operator cases", "build of tests"].contains(&stage);
        self.only.is_empty() || always || needed || self.only.iter().any(chosen)
    }

    fn cargo_test(&self, root: &Path, cases: &Path, build_only: bool) -> Command {
        let mut command = process::cargo(root);
        command.args(["test", "--workspace"]);
        if build_only {
            command.arg("--no-run");
        } else if !self.arguments.is_empty() {
            command.arg("--").args(&self.arguments);
        }
        with_references(&mut command, root);
        command.env("HEARTH_OPERATOR_CASES", cases);
        command
    }
}

/// Passes the paths of the references from set-up to the tests. A missing reference is then a failure; a bare `cargo test` skips
/// tests that need one.
pub(crate) fn with_references(command: &mut Command, root: &Path) {
    let variables: [(&str, PathBuf); 5] = [
        ("HEARTH_TEST_MODELS", setup::models(root)),
        ("HEARTH_ORT_LIB", setup::ort_library(root)),
        ("HEARTH_NVRTC_LIB", setup::nvrtc_library(root)),
        ("LOCPATH", setup::locales(root)),
        ("HEARTH_TEST_PYTHON", Python::program(&setup::folder(root))),
    ];
    command.envs(variables).env("HEARTH_REQUIRE_REFERENCES", "1");
}

/// Makes a new table of operators.
pub(crate) fn operator_cases(root: &Path, seed: u64, cases: &Path) -> Result<()> {
    if cases.exists() {
        fs::remove_dir_all(cases)?;
    }
    say(format!("seed {seed}"));
    let mut command = Command::new(Python::program(&setup::folder(root)));
    command.arg(root.join("tests/python/operators.py")).arg(seed.to_string()).arg(cases);
    process::show(command.env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// A new seed.
pub(crate) fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() % 1_000_000 * 1_000 + u64::from(now.subsec_millis())
}
