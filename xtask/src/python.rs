//! The Python that set-up and tests use: one environment below target/setup, filled by digest; the server never needs it.

use crate::process;
use crate::stamp;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The versions that `requirements.txt` has wheels for.
const MINORS: std::ops::RangeInclusive<u32> = 11..=14;

/// A Python environment with pip.
pub(crate) struct Python {
    program: PathBuf,
}

/// A Python of this machine that can make environments.
pub(crate) struct Base {
    program: String,
    version: String,
}

/// The Debian packages that this machine needs to make a Python environment.
pub(crate) fn wanted_packages() -> Vec<&'static str> {
    if base().is_ok() { Vec::new() } else { vec!["python3", "python3-venv"] }
}

/// The first Python of a supported version whose `venv` module works.
fn base() -> Result<Base> {
    let mut seen = Vec::new();
    let newest_first = MINORS.rev().map(|minor| format!("python3.{minor}"));
    for program in std::iter::once("python3".to_owned()).chain(newest_first) {
        let probe = "import ensurepip, venv, sys; print(*sys.version_info[:3], sys.prefix)";
        let Ok(text) = process::run(Command::new(&program).args(["-c", probe])) else { continue };
        let numbers: Vec<u32> = text.split_whitespace().take(2).filter_map(|word| word.parse().ok()).collect();
        if let [3, minor] = numbers[..]
            && MINORS.contains(&minor)
        {
            return Ok(Base { program, version: text });
        }
        seen.push(text.split_whitespace().take(3).collect::<Vec<_>>().join("."));
    }
    let seen = if seen.is_empty() { String::new() } else { format!(" (there is {})", seen.join(", ")) };
    bail!("no Python 3.{} to 3.{} with its venv module{seen}", MINORS.start(), MINORS.end())
}

impl Python {
    /// The path of the environment's interpreter.
    pub(crate) fn program(setup: &Path) -> PathBuf {
        setup.join("venv/bin/python")
    }

    /// Makes the environment with pip only, unless it exists.
    pub(crate) fn prepare(setup: &Path) -> Result<Python> {
        let base = base()?;
        let program = Python::program(setup);
        stamp::once(setup, "python environment", &[base.version.as_bytes()], |_| {
            let folder = setup.join("venv");
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            process::run(Command::new(&base.program).args(["-m", "venv"]).arg(&folder))?;
            Ok(vec![folder.join("pyvenv.cfg"), program.clone()])
        })?;
        Ok(Python { program })
    }

    /// A command that runs this Python.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Settings for another Python would lead this one to another's packages.
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Downloads the wheel of one requirement, for any version of Python, into an empty folder; pip checks its digest.
    pub(crate) fn download(&self, requirement: &str, sha256: &str, folder: &Path, fresh: bool) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let list = folder.join("requirements.txt");
        fs::write(&list, format!("{requirement} --hash=sha256:{sha256}\n"))?;
        let mut command = self.command();
        command.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ]);
        command.args([
            "--only-binary=:all:",
            "--implementation=cp",
            "--python-version=311",
            "--abi=cp311",
            "--abi=none",
        ]);
        for platform in ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux_2_12_x86_64", "any"] {
            command.arg(format!("--platform={platform}"));
        }
        if fresh {
            command.arg("--no-cache-dir");
        }
        process::run(command.arg("--dest").arg(folder).arg("--requirement").arg(&list))?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "whl") {
                return Ok(path);
            }
        }
        bail!("pip downloaded no wheel of {requirement}")
    }

    /// Installs the packages in `xtask/requirements.txt`, by digest, unless they are installed.
    pub(crate) fn install(&self, root: &Path, setup: &Path) -> Result<()> {
        let list = root.join("xtask/requirements.txt");
        let text = fs::read(&list).context("cannot read xtask/requirements.txt")?;
        // A new environment is empty again.
        let environment = fs::read(setup.join("stamps/python-environment")).unwrap_or_default();
        stamp::once(setup, "python packages", &[&text, &environment], |step| {
            let lines = String::from_utf8_lossy(&text);
            step.doing(&format!("installing {} packages", lines.lines().filter(|line| line.contains("==")).count()));
            let mut install = self.command();
            install.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--force-reinstall",
                "--disable-pip-version-check",
                "--no-deps",
                "--require-hashes",
            ]);
            // The list is complete and tested with each of these versions, so a package's own requirement of Python's version is
            // ignored.
            install.args(["--only-binary=:all:", "--ignore-requires-python", "--find-links"]).arg(setup.join("wheels"));
            install.arg("--requirement").arg(&list);
            if process::run(&mut install).is_err() {
                step.doing("once more, without pip's cache");
                process::run(install.arg("--no-cache-dir"))?;
            }
            let check =
                "import cv2, magika, numpy, onnx, onnxruntime, PIL, rapidocr_onnxruntime, safetensors, tokenizers";
            process::run(self.command().args(["-c", check])).context("the installed Python packages do not load")?;
            Ok(vec![setup.join("venv/lib")])
        })
    }
}

/// Checks that the pinned wheels are for this machine.
pub(crate) fn check_platform() -> Result<()> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(());
    }
    bail!("set-up has pinned files for x86-64 Linux with glibc only")
}
