//! Finds missing Debian packages and installs them if this user may; it never asks for a password.

use crate::process;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// Whether a package is installed, according to Debian's package manager.
pub(crate) fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Abbrev}", package]).output();
    query.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"ii"))
}

/// Whether a program of this name is in the search path.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Installs packages if this user is root, else fails with the apt-get command to run. `why` completes "needed for".
pub(crate) fn require(packages: &[&str], why: &str) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !has_program("apt-get") {
        bail!(
            "needed for {why}: the Debian packages {list}; install their like with your package manager and run this again"
        );
    }
    if !root() {
        bail!(
            "needed for {why}, and only root may install it:\n  apt-get update && apt-get install --yes --no-install-recommends {list}"
        );
    }
    let install = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        process::run(command.args(["install", "--yes", "--no-install-recommends"]).args(&missing))
    };
    // An old list of packages may name files that no longer exist; one refresh rules this out.
    if install().is_err() {
        process::run(Command::new("apt-get").arg("update"))?;
        install()?;
    }
    Ok(())
}

/// Whether this user may install packages.
pub(crate) fn root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata(Path::new("/proc/self")) {
        Ok(metadata) => metadata,
        Err(_) => return false,
    }) == 0
}
