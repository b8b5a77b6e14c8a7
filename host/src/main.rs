//! Turns arguments into a configuration, runs the server or a command, and gives the exit code; it never decides anything else.

mod allocator;

use anyhow::Context;
use clap::{Parser, Subcommand};
use hearth::config::RawConfig;
use hearth::http::Server;
use hearth::{catalog, cli, confined, model, sandbox};
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

/// Runs inference handlers, uploaded as WebAssembly components, next to models that stay loaded.
#[derive(Parser)]
#[command(name = "hearth", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(#[command(flatten)] RawConfig),
    /// Work on untrusted input, for a server that starts this program again
    #[command(hide = true)]
    Confined { job: String },
    /// Build a function and serve it, again at every change of its sources
    Dev(cli::Dev),
    #[command(flatten)]
    Client(cli::Command),
}

/// The work that a server does in child processes.
const JOBS: [confined::Job; 4] = [sandbox::COMPILE, sandbox::SNAPSHOT, model::CHECK, catalog::UNPACK];

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    // `dev` prints what it does by itself.
    let default = if matches!(command, Command::Dev(_)) { "warn" } else { "warn,hearth=info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HEARTH_LOG").unwrap_or_else(|_| default.into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    if matches!(command, Command::Serve(_) | Command::Dev(_)) {
        allocator::keep_for_a_while();
    }
    let outcome = match command {
        // Before other threads start.
        Command::Confined { job } => return confined::enter(&JOBS, &job),
        Command::Client(command) => run(command.run()),
        Command::Dev(command) => run(async { command.run(stop_signal()?, start).await }),
        Command::Serve(raw) => run(serve(raw)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearth: {error:#}");
            let code = error.downcast_ref::<cli::ProgramFailed>().map(|failed| failed.code);
            code.map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the threads")?;
    runtime.block_on(work)
}

async fn serve(raw: RawConfig) -> anyhow::Result<()> {
    let server = Server::bind(raw.resolve()?).await?;
    println!("hearth listens on http://{}", server.address());
    server.serve(stop_signal()?).await?;
    Ok(())
}

/// Starts a server that serves until `end` is cancelled.
async fn start(settings: RawConfig, end: CancellationToken) -> anyhow::Result<cli::Started> {
    let server = Server::bind(settings.resolve()?).await?;
    let address = server.address();
    let serving = tokio::spawn(async move { Ok(server.serve(end.cancelled_owned()).await?) });
    Ok((address, serving))
}

/// Completes when the process is asked to end: by ctrl-c, or by the signal that service supervisors send.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
