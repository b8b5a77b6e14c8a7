//! Builds the guests of this repository: runs cargo in the guest workspace and makes components from the modules. It never runs a
//! guest.

use crate::packages;
use anyhow::{Context, Result, ensure};
use hearth_guest_build::{Accept, DEBIAN_PACKAGES, artefacts, componentise};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) use hearth_guest_build::Toolchain;

/// The toolchain for guests of the repository at `root`. Installs no packages: the error names the packages that are needed.
pub(crate) fn toolchain(root: &Path) -> Result<Toolchain> {
    hearth_guest_build::toolchain(root, Accept::SameEverywhere, || {})
}

/// The same, but if there is none, root installs Debian's packages.
pub(crate) fn install_toolchain(root: &Path) -> Result<Toolchain> {
    match toolchain(root) {
        Err(_) if packages::root() && packages::has_program("apt-get") => {
            packages::require(&DEBIAN_PACKAGES, "building guests")?;
            toolchain(root)
        }
        answer => answer,
    }
}

/// The missing Debian packages, if guests cannot be built without them.
pub(crate) fn wanted_packages(root: &Path) -> Vec<&'static str> {
    match toolchain(root) {
        Ok(_) => Vec::new(),
        Err(_) => DEBIAN_PACKAGES.into_iter().filter(|package| !packages::installed(package)).collect(),
    }
}

/// Builds every guest of the workspace `examples/` and gives the components, `target/guests/components/<name>.wasm`, in the order
/// of their names. Components that are up to date are not changed.
pub(crate) fn build_all(root: &Path) -> Result<Vec<PathBuf>> {
    let toolchain = toolchain(root)?;
    let folder = root.join("target/guests/components");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut components = Vec::new();
    for module in build_modules(root, &toolchain)? {
        let name = module.file_stem().context("cargo named an artefact without a name")?;
        let component = folder.join(name.to_string_lossy().replace('_', "-")).with_extension("wasm");
        let bytes = fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
        let bytes = componentise(&bytes).with_context(|| format!("making {} a component", module.display()))?;
        if fs::read(&component).ok().as_ref() != Some(&bytes) {
            fs::write(&component, bytes).with_context(|| format!("writing {}", component.display()))?;
        }
        components.push(component);
    }
    components.sort();
    Ok(components)
}

fn build_modules(root: &Path, toolchain: &Toolchain) -> Result<Vec<PathBuf>> {
    let mut command = cargo(root, toolchain)?;
    command
        .args(["build", "--release", "--workspace", "--target", toolchain.target()])
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_TARGET_DIR", root.join("target/guests"))
        .stdout(Stdio::piped());
    let output = command.spawn().and_then(|child| child.wait_with_output()).context("running cargo for the guests")?;
    ensure!(output.status.success(), "the guests do not build");
    Ok(artefacts(&output.stdout)?.iter().flat_map(|artefact| artefact.wasm().cloned()).collect())
}

/// Cargo for the guests, without flags meant for other builds. The components contain no path of this machine, so that the same
/// sources give the same digests elsewhere.
fn cargo(root: &Path, toolchain: &Toolchain) -> Result<Command> {
    let mut command = toolchain.cargo(&root.join("examples"))?;
    for name in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    let mut flags = vec![format!("--remap-path-prefix={}/=", root.display())];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    // Paths may contain spaces, so they are joined in cargo's encoding.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    Ok(command)
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// The interfaces that a component imports and the functions that it exports, each sorted.
    fn world(component: &[u8]) -> (Vec<String>, Vec<String>) {
        let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0);
        for payload in wasmparser::Parser::new(0).parse_all(component) {
            match payload.expect("the component is valid") {
                wasmparser::Payload::Version { .. } => depth += 1,
                wasmparser::Payload::End(_) => depth -= 1,
                wasmparser::Payload::ComponentImportSection(section) if depth == 1 => {
                    imports.extend(section.into_iter().map(|import| import.expect("it is valid").name.name.to_owned()));
                }
                wasmparser::Payload::ComponentExportSection(section) if depth == 1 => {
                    exports.extend(section.into_iter().map(|export| export.expect("it is valid").name.name.to_owned()));
                }
                _ => {}
            }
        }
        // Types are imported if exports name them; only the interfaces determine the world.
        imports.retain(|name| name.contains(':'));
        imports.sort();
        exports.sort();
        (imports, exports)
    }

    #[test]
    fn components_have_the_worlds_of_their_attributes() {
        const PURE: &[&str] = &["context", "errors", "http-types"];
        const HANDLER: &[&str] = &["context", "errors", "http-types", "models", "operators", "tensors"];
        const PIPELINE: &[&str] = &["context", "errors", "http-types", "models", "operators", "pipelines", "tensors"];
        for (name, imports, exports) in [
            ("echo", PURE, &["handle"][..]),
            ("file-type", HANDLER, &["handle"]),
            ("probe", HANDLER, &["handle"]),
            ("speech", HANDLER, &["handle"]),
            ("vocabulary-each-time", PURE, &["handle"]),
            ("vocabulary", PURE, &["handle", "init"]),
            ("init-probe", HANDLER, &["handle", "init"]),
            ("embed-pipeline", PIPELINE, &["init", "postprocess", "preprocess"]),
        ] {
            let path = crate::root().join("target/guests/components").join(format!("{name}.wasm"));
            let component = match fs::read(&path) {
                Ok(component) => component,
                // `cargo xtask test` builds the guests first; a bare `cargo test` may come before that.
                Err(_) if std::env::var_os("HEARTH_REQUIRE_REFERENCES").is_none() => {
                    println!("{name} was not checked: it is not built; `cargo xtask guests` builds it");
                    continue;
                }
                Err(error) => panic!("{}: {error}; run `cargo xtask guests`", path.display()),
            };
            let wanted = imports.iter().map(|name| format!("hearth:inference/{name}@0.2.0")).collect();
            let exports = exports.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(world(&component), (wanted, exports), "{name}");
        }
    }
}
