//! Reads which artefacts cargo made, and makes components from modules; it never starts a program.

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

/// One target of a package that cargo has built or found up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artefact {
    /// The Cargo.toml of its package.
    pub manifest: PathBuf,
    /// Whether the package is on this machine and not from a registry, so that its sources may change.
    pub local: bool,
    /// Whether it is a C-style dynamic library, as guests are.
    pub cdylib: bool,
    /// The files made.
    pub files: Vec<PathBuf>,
}

impl Artefact {
    /// The files that are WebAssembly.
    pub fn wasm(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "wasm"))
    }
}

/// Reads what cargo printed with `--message-format=json…`, in its order; lines that are not JSON are from other programs.
///
/// Errors: a line that starts like JSON but is not.
pub fn artefacts(stdout: &[u8]) -> Result<Vec<Artefact>> {
    let mut found = Vec::new();
    for line in stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let message: Value = serde_json::from_slice(line).context("reading cargo's messages")?;
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let strings = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        found.push(Artefact {
            manifest: message["manifest_path"].as_str().unwrap_or_default().into(),
            local: message["package_id"].as_str().is_some_and(|id| id.starts_with("path+")),
            cdylib: strings(&message["target"]["crate_types"]).iter().any(|kind| kind == "cdylib"),
            files: strings(&message["filenames"]).into_iter().map(PathBuf::from).collect(),
        });
    }
    Ok(found)
}

/// Makes a core module, built with bindings that describe its world, a component, and validates it. A component is returned
/// unchanged.
///
/// Errors: bytes that are not a module, or a module with imports that no world describes.
pub fn componentise(module: &[u8]) -> Result<Vec<u8>> {
    if wasmparser::Parser::is_component(module) {
        return Ok(module.to_vec());
    }
    wit_component::ComponentEncoder::default().validate(true).module(module)?.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_names_no_world_is_not_made_a_component() {
        let empty = b"\0asm\x01\0\0\0";
        assert!(componentise(b"not wasm").is_err());
        // An empty module is a valid component without imports and exports.
        assert!(componentise(empty).is_ok_and(|bytes| wasmparser::Parser::is_component(&bytes)));
    }

    #[test]
    fn artefacts_are_told_from_other_messages() {
        let said = concat!(
            "a line of a build script\n",
            r#"{"reason":"compiler-artifact","package_id":"registry+index#a@1.0.0","manifest_path":"/r/a/Cargo.toml","#,
            r#""target":{"crate_types":["lib"]},"filenames":["/t/liba.rlib"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p#demo@0.1.0","manifest_path":"/p/Cargo.toml","#,
            r#""target":{"crate_types":["cdylib","rlib"]},"filenames":["/t/demo.wasm","/t/libdemo.rlib"]}"#,
            "\n",
        );
        let found = artefacts(said.as_bytes()).expect("valid messages");
        let facts: Vec<_> = found.iter().map(|one| (one.local, one.cdylib, one.wasm().count())).collect();
        assert_eq!(facts, [(false, false, 0), (true, true, 1)]);
        assert_eq!(found[1].manifest, PathBuf::from("/p/Cargo.toml"));
        assert!(artefacts(b"{ no json\n").is_err());
    }
}
