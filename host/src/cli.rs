//! The commands that talk to a server, over the same HTTP that anybody can use; they never open the data folder.

mod client;
mod deploy;
mod invoke;
mod list;
mod model;
mod output;
mod settings;
mod upload;

use clap::{Args, Subcommand};

/// The commands that need a running server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Upload a component; it is live at once
    Deploy(deploy::Deploy),
    /// Call a function and print what it answers
    Invoke(invoke::Invoke),
    /// Add and list models
    #[command(subcommand)]
    Model(model::Model),
    /// List the functions
    Functions(list::Functions),
    /// Show or change what a function may use: grants, configuration, secrets, limits
    Settings(settings::Settings),
    /// Show what the server is doing, and its limits
    Status(list::Status),
}

/// Which server, whose functions, and how to print.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Where the server listens
    #[arg(long, env = "HEARTH_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    server: String,
    /// Whose functions and models
    #[arg(long, value_name = "TENANT", default_value = client::DEFAULT_TENANT)]
    tenant: String,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Command {
    /// Runs the command to its end. What was asked for goes to stdout, all else to stderr.
    ///
    /// Errors: a sentence for a person. The command has failed then, also where the server answered with an error.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Deploy(command) => command.run().await,
            Command::Invoke(command) => command.run().await,
            Command::Model(command) => command.run().await,
            Command::Functions(command) => command.run().await,
            Command::Settings(command) => command.run().await,
            Command::Status(command) => command.run().await,
        }
    }
}
