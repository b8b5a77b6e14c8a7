//! Makes the table of the SDK's files that `hearth new` writes, from the folders themselves, so that it cannot go stale; it
//! never changes a file of the repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What the program carries, below the repository's root.
const CARRIED: [&str; 4] = ["guest-sdk/rust", "wit", "examples/Cargo.toml", "examples/Cargo.lock"];

fn main() -> io::Result<()> {
    if std::env::var_os("CARGO_FEATURE_SERVER").is_none() {
        // The device layer alone carries nothing, and need not be built anew when the SDK changes.
        println!("cargo::rerun-if-changed=build.rs");
        return Ok(());
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(io::ErrorKind::NotFound);
    let root = variable("CARGO_MANIFEST_DIR")?.join("..").canonicalize()?;
    let mut names = Vec::new();
    for carried in CARRIED {
        // Cargo looks into a folder for what is newer, so that a new file is seen too.
        println!("cargo::rerun-if-changed={}", root.join(carried).display());
        walk(&root, carried, &mut names)?;
    }
    let mut table = String::from("&[\n");
    for name in names {
        table.push_str(&format!("    ({name:?}, include_str!({:?})),\n", root.join(&name)));
    }
    table.push_str("]\n");
    fs::write(variable("OUT_DIR")?.join("sdk.rs"), table)
}

/// The files at or below a name, in the order of names, without what builds leave there.
fn walk(root: &Path, name: &str, names: &mut Vec<String>) -> io::Result<()> {
    if !root.join(name).is_dir() {
        names.push(name.to_owned());
        return Ok(());
    }
    let mut entries = fs::read_dir(root.join(name))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(file) = entry.file_name().into_string() else { continue };
        if !file.starts_with('.') && file != "target" {
            walk(root, &format!("{name}/{file}"), names)?;
        }
    }
    Ok(())
}
