//! Builds the programs that the bench needs, in release, and starts it; it never measures, which the crate `hearth-bench` does.

use crate::python::Python;
use crate::{guest, process, setup};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Bench {
    /// `calls`; or `operators`: side by side with NumPy and OpenCV; or `snapshots`: the first answer of a large model after a
    /// start; or `engines`: real models on each; or `neighbours`: how hostile guests delay others
    #[arg(value_parser = ["calls", "operators", "engines", "snapshots", "neighbours"], default_value = "calls")]
    what: String,
    /// Arguments for the bench program; `cargo xtask bench -- --help` lists them
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Bench {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        match self.what.as_str() {
            "operators" => return self.operators(root),
            "engines" => return self.engines(root),
            "snapshots" => return self.snapshots(root),
            _ => {}
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
        let components = root.join("target/guests/components");
        let mut command = Command::new(root.join("target/release/hearth-bench"));
        command.current_dir(root);
        match self.what.as_str() {
            "neighbours" => command.arg("neighbours").arg("--components").arg(components),
            _ => command.arg("--component").arg(components.join("echo.wasm")),
        };
        command.arg("--server").arg(root.join("target/release/hearth")).args(&self.arguments);
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

    fn engines(&self, root: &Path) -> Result<()> {
        setup::run(root, setup::Need::Tests)?;
        process::show(process::cargo(root).args(["build", "--release", "--package", "hearth-bench"]))?;
        let mut command = Command::new(root.join("target/release/hearth-bench"));
        command.arg("engines").arg("--library").arg(setup::ort_library(root));
        command.arg("--models").arg(setup::models(root)).args(&self.arguments);
        process::show(&mut command)
    }

    fn snapshots(&self, root: &Path) -> Result<()> {
        setup::run(root, setup::Need::Demo)?;
        process::show(process::cargo(root).args(["build", "--release", "--package", "hearth-bench"]))?;
        let mut command = Command::new(root.join("target/release/hearth-bench"));
        command.arg("snapshots").arg("--library").arg(setup::ort_library(root));
        command.arg("--folder").arg(root.join("target")).args(&self.arguments);
        process::show(&mut command)
    }
}
