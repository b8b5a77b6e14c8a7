//! Builds what the bench measures, in release, and starts it; the measuring is in the crate `hearth-bench`.

use crate::python::Python;
use crate::{guest, process, setup};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Bench {
    /// `calls`, or `operators`: beside NumPy and OpenCV
    #[arg(value_parser = ["calls", "operators"], default_value = "calls")]
    what: String,
    /// Arguments for the bench program; `cargo xtask bench -- --help` lists them
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Bench {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        if self.what == "operators" {
            return self.operators(root);
        }
        setup::run(root, setup::Need::Bench)?;
        guest::build_all(root)?;
        process::show(process::cargo(root).args([
            "build",
            "--release",
            "--package",
            "hearth",
            "--package",
            "hearth-bench",
        ]))?;
        let mut command = Command::new(root.join("target/release/hearth-bench"));
        command.current_dir(root).arg("--server").arg(root.join("target/release/hearth"));
        command.arg("--component").arg(root.join("target/guests/components/echo.wasm")).args(&self.arguments);
        process::show(&mut command)
    }

    fn operators(&self, root: &Path) -> Result<()> {
        setup::run(root, setup::Need::Tests)?;
        process::show(process::cargo(root).args(["build", "--release", "--package", "hearth-bench"]))?;
        let mut command = Command::new(root.join("target/release/hearth-bench"));
        command.arg("operators").arg("--python").arg(Python::program(&setup::folder(root)));
        command.arg("--script").arg(root.join("tests/python/operator_bench.py")).args(&self.arguments);
        process::show(&mut command)
    }
}
