//! Builds the guests: finds a toolchain for wasm32, runs cargo in the guest workspace and makes the modules components. It
//! never runs a guest.

use crate::{packages, process};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TARGET: &str = "wasm32-unknown-unknown";

/// Forces one way, to try it: `ordinary` or `debian`.
const CHOICE: &str = "HEARTH_GUEST_TOOLCHAIN";

/// Debian's Rust that can build std from source, and the linker of the LLVM that this rustc was made with.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];

/// How long `rustup target add` may take; without a network it can hang.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(180);

/// What builds guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The active toolchain has std for wasm32: ordinary cargo.
    Ordinary,
    /// Debian's rustc and cargo, which build std from source.
    Debian {
        /// Debian's cargo.
        cargo: PathBuf,
        /// Debian's rustc.
        rustc: PathBuf,
        /// LLVM's linker for WebAssembly.
        linker: PathBuf,
    },
}

/// The toolchain for guests of the repository at `root`: the active one where it has the target, else Debian's where it is
/// installed, else the active one after rustup added the target. Installs no packages: the error names those that would do.
pub(crate) fn toolchain(root: &Path) -> Result<Toolchain> {
    match std::env::var(CHOICE).as_deref() {
        Ok("ordinary") => {
            ensure!(
                has_target(root) || rustup_adds_target(root),
                "{CHOICE}=ordinary, but the toolchain lacks {TARGET}"
            );
            return Ok(Toolchain::Ordinary);
        }
        Ok("debian") => return debian().context(format!("{CHOICE}=debian")),
        Ok(other) => bail!("{CHOICE} is `ordinary` or `debian`, not `{other}`"),
        Err(_) => {}
    }
    if has_target(root) {
        return Ok(Toolchain::Ordinary);
    }
    let missing = match debian() {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => error,
    };
    if rustup_adds_target(root) {
        return Ok(Toolchain::Ordinary);
    }
    bail!(
        "no Rust for {TARGET}: use `rustup target add {TARGET}`, or on Debian, as root, `apt-get install \
         --no-install-recommends {}` ({missing:#})",
        DEBIAN_PACKAGES.join(" ")
    )
}

/// The same, but where there is none, root installs Debian's packages.
pub(crate) fn install_toolchain(root: &Path) -> Result<Toolchain> {
    match toolchain(root) {
        Err(_) if packages::root() && packages::has_program("apt-get") => {
            packages::require(&DEBIAN_PACKAGES, "building guests")?;
            toolchain(root)
        }
        answer => answer,
    }
}

/// The Debian packages that are missing, where guests cannot be built without them.
pub(crate) fn wanted_packages(root: &Path) -> Vec<&'static str> {
    match toolchain(root) {
        Ok(_) => Vec::new(),
        Err(_) => DEBIAN_PACKAGES.into_iter().filter(|package| !packages::installed(package)).collect(),
    }
}

/// Builds every guest of the workspace `examples/` and gives the components, `target/guests/components/<name>.wasm`, in the
/// order of their names. What is up to date stays untouched.
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

/// Makes a core module, built with bindings that describe its world, a component, and validates it. A component is given
/// back as it is.
pub(crate) fn componentise(module: &[u8]) -> Result<Vec<u8>> {
    if wasmparser::Parser::is_component(module) {
        return Ok(module.to_vec());
    }
    wit_component::ComponentEncoder::default().validate(true).module(module)?.encode()
}

fn build_modules(root: &Path, toolchain: &Toolchain) -> Result<Vec<PathBuf>> {
    let mut command = cargo(root, toolchain)?;
    command
        .args(["build", "--release", "--workspace", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .current_dir(root.join("examples"))
        .env("CARGO_TARGET_DIR", root.join("target/guests"))
        .stdout(Stdio::piped());
    let output = command.spawn().and_then(|child| child.wait_with_output()).context("running cargo for the guests")?;
    ensure!(output.status.success(), "the guests do not build");
    let mut modules = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")) {
        let message: serde_json::Value = serde_json::from_slice(line).context("reading cargo's messages")?;
        let made = message["filenames"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
        modules.extend(made.filter(|name| name.ends_with(".wasm")).map(PathBuf::from));
    }
    Ok(modules)
}

/// Cargo for the guests, free of flags meant for other builds. No path of this machine gets into the components, so that the
/// same sources give the same digests elsewhere.
fn cargo(root: &Path, toolchain: &Toolchain) -> Result<Command> {
    let mut command = process::cargo(root);
    if let Toolchain::Debian { cargo, rustc, linker } = toolchain {
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(OsString::from))).collect();
        command = Command::new(cargo);
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .args(["-Z", "build-std=std,panic_abort"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", rustc)
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
            .env("PATH", path_without_rustup()?)
            .env_remove("RUSTUP_TOOLCHAIN");
    }
    for name in ["RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    let mut flags = vec![format!("--remap-path-prefix={}/=", root.display())];
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    // Paths may hold spaces, so they are joined as cargo's own encoding wants.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    Ok(command)
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

fn path_without_rustup() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| !folder.join("rustup").exists());
    std::env::join_paths(folders).context("PATH")
}

fn has_target(root: &Path) -> bool {
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(root)
        .stderr(Stdio::null())
        .output();
    let Ok(answer) = asked else { return false };
    let folder = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    let mut files = fs::read_dir(folder).into_iter().flatten().flatten();
    answer.status.success() && files.any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

fn rustup_adds_target(root: &Path) -> bool {
    let child = Command::new("rustup")
        .args(["target", "add", TARGET])
        .current_dir(root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success() && has_target(root),
            Ok(None) if start.elapsed() < RUSTUP_PATIENCE => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) | Err(_) => {
                // It may have ended meanwhile; either way the target was not added in time.
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

fn debian() -> Result<Toolchain> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    for program in [&cargo, &rustc] {
        ensure!(program.exists(), "there is no {}", program.display());
    }
    let sysroot = PathBuf::from(process::run(Command::new(&rustc).args(["--print", "sysroot"]))?.trim());
    let sources = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    ensure!(sources.exists(), "std's sources are not installed");
    let version = process::run(Command::new(&rustc).arg("-vV"))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).context("rustc names no LLVM")?;
    let linker = PathBuf::from(format!("/usr/bin/wasm-ld-{}", llvm.split('.').next().unwrap_or(llvm)));
    ensure!(linker.exists(), "there is no {}", linker.display());
    Ok(Toolchain::Debian { cargo, rustc, linker })
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
        // Types are imported where exports name them; the interfaces are what a world is told by.
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
                    println!("{name} was not looked at: it is not built; `cargo xtask guests` builds it");
                    continue;
                }
                Err(error) => panic!("{}: {error}; run `cargo xtask guests`", path.display()),
            };
            let wanted = imports.iter().map(|name| format!("hearth:inference/{name}@0.1.0")).collect();
            let exports = exports.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(world(&component), (wanted, exports), "{name}");
        }
    }

    #[test]
    fn the_path_for_debian_has_no_rustup() {
        let path = path_without_rustup().expect("PATH is valid");
        assert!(std::env::split_paths(&path).all(|folder| !folder.join("rustup").exists()));
    }
}
