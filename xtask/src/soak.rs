//! Runs the long tests one after the other, with their measurements; it never runs the other tests.

use crate::{guest, process, setup, test};
use anyhow::Result;
use std::path::Path;

#[derive(clap::Args)]
pub(crate) struct Soak {
    /// Arguments for the test program, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Soak {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        setup::run(root, setup::Need::Tests)?;
        guest::build_all(root)?;
        let mut command = process::cargo(root);
        command.args(["test", "--workspace", "--lib", "--test", "system", "--"]);
        command.args(["--ignored", "--nocapture", "--test-threads=1"]);
        test::with_references(command.args(&self.arguments), root);
        process::show(&mut command)
    }
}
