//! Development commands of hearth, from set-up to soak. They start the real programs and never contain logic of the product.

mod bench;
mod client;
#[cfg(test)]
mod contract;
mod demo;
mod guest;
mod mutants;
mod packages;
mod pins;
mod process;
mod progress;
mod python;
mod setup;
mod soak;
mod stamp;
mod test;
#[cfg(test)]
mod tidy;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development commands of hearth", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get everything that the other commands need into target/setup; existing files are kept
    Setup,
    /// Build the guests: target/guests/components/*.wasm
    Guests,
    /// From a clean clone to text read off a page: set-up, build, serve, upload, call
    Demo(demo::Demo),
    /// Set-up, then every check and test, with the minutes of each stage
    Test(test::Test),
    /// The long tests: large models
    Soak(soak::Soak),
    /// Tables of what calls cost, side by side with the same component in bare wasmtime
    Bench(bench::Bench),
    /// Break the operators in one place at a time and report whether the operator table notices; takes a while
    Mutants(mutants::Mutants),
}

fn main() -> ExitCode {
    let root = root();
    let result = match Arguments::parse().command {
        Command::Setup => setup::run(&root, setup::Need::Everything),
        Command::Guests => guests(&root),
        Command::Demo(demo) => demo.run(&root),
        Command::Test(test) => test.run(&root),
        Command::Soak(soak) => soak.run(&root),
        Command::Bench(bench) => bench.run(&root),
        Command::Mutants(mutants) => mutants.run(&root),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn guests(root: &Path) -> anyhow::Result<()> {
    setup::run(root, setup::Need::Guests)?;
    for component in guest::build_all(root)? {
        progress::say(component.strip_prefix(root).unwrap_or(&component).display().to_string());
    }
    Ok(())
}

/// The repository's root. Cargo gives the path of this crate's manifest when it builds and when it runs a program; the latter is
/// correct if the program was moved with its repository.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
