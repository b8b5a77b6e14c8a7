//! The commands that build functions and talk to a server over its public HTTP API; they never open the data folder.

mod build;
mod client;
mod component;
mod deploy;
mod dev;
mod inspect;
mod invoke;
mod list;
mod logs;
mod model;
mod model_files;
mod new;
mod onnx;
mod output;
mod residency;
mod resume;
mod settings;
mod source;
mod upload;

pub use dev::{Dev, Started};

use clap::{Args, Subcommand};

/// The commands that start no server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a folder with a small function to start from
    New(new::New),
    /// Build a function's crate into a component
    Build(build::Build),
    /// Show a component's world, imports, exports and requested grants
    Inspect(inspect::Inspect),
    /// Upload a component; it is live at once
    Deploy(deploy::Deploy),
    /// Call a function and print its answer
    Invoke(invoke::Invoke),
    /// Add and list models
    #[command(subcommand)]
    Model(model::Model),
    /// List the functions
    Functions(list::Functions),
    /// Show or change what a function may use: grants, configuration, secrets, limits
    Settings(settings::Settings),
    /// Print what a function logged
    Logs(logs::Logs),
    /// Show what the server is doing, and its limits
    Status(list::Status),
}

/// The server, the tenant, and the form of the output.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Where the server listens
    #[arg(long, env = "HEARTH_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// The tenant whose functions and models are used
    #[arg(long, value_name = "TENANT", default_value = client::DEFAULT_TENANT)]
    tenant: String,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Target {
    /// The default tenant of a server, for a command that prints text.
    fn of(server: String) -> Target {
        Target { server, tenant: client::DEFAULT_TENANT.to_owned(), json: false }
    }
}

impl Command {
    /// Runs the command to its end. The result goes to stdout, everything else to stderr.
    ///
    /// Errors: a sentence for the user. The command then has failed, also if the server answered with an error.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Command::New(command) => command.run(),
            Command::Build(command) => command.run().await,
            Command::Inspect(command) => command.run(),
            Command::Deploy(command) => command.run().await,
            Command::Invoke(command) => command.run().await,
            Command::Model(command) => command.run().await,
            Command::Functions(command) => command.run().await,
            Command::Settings(command) => command.run().await,
            Command::Logs(command) => command.run().await,
            Command::Status(command) => command.run().await,
        }
    }
}

/// The failure of another program, whose exit status is passed on.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ProgramFailed {
    message: String,
    /// Its exit status.
    pub code: u8,
}
