//! Chooses the Rust that builds guests: the active one if it has a target, else Debian's, which builds std from source; it never
//! installs packages.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The target whose modules are made components here.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The target whose linker makes components itself.
pub const WASIP2_TARGET: &str = "wasm32-wasip2";

/// The environment variable that forces one way: `ordinary`, `wasip2` or `debian`.
pub const CHOICE: &str = "HEARTH_GUEST_TOOLCHAIN";

/// Debian's Rust that can build std from source, and the linker of the LLVM that this rustc was made with.
pub const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];

/// How long `rustup target add` may take; without a network it can hang.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(180);

/// A toolchain for guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The active toolchain has std for `wasm32-unknown-unknown`: ordinary cargo.
    Ordinary,
    /// The active toolchain has std for `wasm32-wasip2` only.
    Wasip2,
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

/// Which toolchains are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Those for `wasm32-unknown-unknown`, so that the same sources give the same component on every machine.
    SameEverywhere,
    /// Any that makes components.
    Any,
}

impl Toolchain {
    /// The target that it builds guests for.
    pub fn target(&self) -> &'static str {
        match self {
            Toolchain::Ordinary | Toolchain::Debian { .. } => TARGET,
            Toolchain::Wasip2 => WASIP2_TARGET,
        }
    }

    /// Cargo of this toolchain, to run in `folder`. The caller adds the command, including `--target`.
    ///
    /// Errors: a PATH that cannot be split.
    pub fn cargo(&self, folder: &Path) -> Result<Command> {
        let Toolchain::Debian { cargo, rustc, linker } = self else { return Ok(self::cargo(folder)) };
        let mut command = cargo_at(cargo, folder);
        command
            .args(["-Z", "build-std=std,panic_abort"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", rustc)
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
            .env("PATH", path_without_rustup()?)
            .env_remove("RUSTUP_TOOLCHAIN");
        Ok(command)
    }
}

/// The toolchain for guests in `folder`: the active one if it has an accepted target, else Debian's if it is installed, else the
/// active one after rustup added the target; `adding` is called before that. Installs no packages.
///
/// Errors: if there is none, naming the commands that would help.
pub fn toolchain(folder: &Path, accept: Accept, adding: impl FnOnce()) -> Result<Toolchain> {
    let choice = std::env::var_os(CHOICE);
    let adds = || {
        adding();
        rustup_adds_target(folder)
    };
    choose(
        choice.as_deref().map(|choice| choice.to_string_lossy()).as_deref(),
        accept,
        Machine { has: &|target| has_target(folder, target), debian: &debian, adds },
    )
}

/// What the choice depends on.
struct Machine<'a, Adds> {
    has: &'a dyn Fn(&str) -> bool,
    debian: &'a dyn Fn() -> Result<Toolchain>,
    adds: Adds,
}

fn choose(choice: Option<&str>, accept: Accept, machine: Machine<'_, impl FnOnce() -> bool>) -> Result<Toolchain> {
    let Machine { has, debian, adds } = machine;
    match (choice, accept) {
        (Some("ordinary"), _) => {
            ensure!(has(TARGET) || adds(), "{CHOICE}=ordinary, but the toolchain lacks {TARGET}");
            return Ok(Toolchain::Ordinary);
        }
        (Some("wasip2"), Accept::Any) => {
            ensure!(has(WASIP2_TARGET), "{CHOICE}=wasip2, but the toolchain lacks {WASIP2_TARGET}");
            return Ok(Toolchain::Wasip2);
        }
        (Some("debian"), _) => return debian().context(format!("{CHOICE}=debian")),
        (Some(other), Accept::SameEverywhere) => bail!("{CHOICE} is `ordinary` or `debian`, not `{other}`"),
        (Some(other), Accept::Any) => bail!("{CHOICE} is `ordinary`, `wasip2` or `debian`, not `{other}`"),
        (None, _) => {}
    }
    if has(TARGET) {
        return Ok(Toolchain::Ordinary);
    }
    if accept == Accept::Any && has(WASIP2_TARGET) {
        return Ok(Toolchain::Wasip2);
    }
    let missing = match debian() {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => error,
    };
    if adds() {
        return Ok(Toolchain::Ordinary);
    }
    bail!(
        "no Rust for {TARGET}: use `rustup target add {TARGET}`, or on Debian, as root, `apt-get install \
         --no-install-recommends {}` ({missing:#})",
        DEBIAN_PACKAGES.join(" ")
    )
}

/// Cargo, to run in `folder`: the one that runs this program, if that is known.
pub fn cargo(folder: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    cargo_at(Path::new(&program), folder)
}

fn cargo_at(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    // `cargo run` describes its own package in the environment, which would mislead a build script that reads it.
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|text| text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(variable);
        }
    }
    command
}

fn path_without_rustup() -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| !folder.join("rustup").exists());
    std::env::join_paths(folders).context("PATH")
}

fn has_target(folder: &Path, target: &str) -> bool {
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", target])
        .current_dir(folder)
        .stderr(Stdio::null())
        .output();
    let Ok(answer) = asked else { return false };
    let libraries = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    let mut files = fs::read_dir(libraries).into_iter().flatten().flatten();
    answer.status.success() && files.any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

fn rustup_adds_target(folder: &Path) -> bool {
    let child = Command::new("rustup")
        .args(["target", "add", TARGET])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success() && has_target(folder, TARGET),
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
    let sysroot = PathBuf::from(asked(&rustc, &["--print", "sysroot"])?.trim());
    let sources = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    ensure!(sources.exists(), "std's sources are not installed");
    let version = asked(&rustc, &["-vV"])?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).context("rustc names no LLVM")?;
    let linker = PathBuf::from(format!("/usr/bin/wasm-ld-{}", llvm.split('.').next().unwrap_or(llvm)));
    ensure!(linker.exists(), "there is no {}", linker.display());
    Ok(Toolchain::Debian { cargo, rustc, linker })
}

fn asked(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(output.status.success(), "{} {} failed ({})", program.display(), arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    fn chosen(choice: Option<&str>, accept: Accept, targets: &[&str], debian: bool, rustup: bool) -> Result<Toolchain> {
        choose(
            choice,
            accept,
            Machine {
                has: &|target| targets.contains(&target),
                debian: &|| if debian { Ok(some_debian()) } else { Err(anyhow!("there is no /usr/bin/cargo")) },
                adds: || rustup,
            },
        )
    }

    fn some_debian() -> Toolchain {
        Toolchain::Debian { cargo: "cargo".into(), rustc: "rustc".into(), linker: "wasm-ld".into() }
    }

    #[test]
    fn what_is_there_is_taken_before_anything_is_added() {
        use Accept::{Any, SameEverywhere};
        type Case<'a> = (Option<&'a str>, Accept, &'a [&'a str], bool, bool, Toolchain);
        let cases: &[Case<'_>] = &[
            (None, Any, &[TARGET, WASIP2_TARGET], true, true, Toolchain::Ordinary),
            (None, Any, &[WASIP2_TARGET], true, true, Toolchain::Wasip2),
            (None, SameEverywhere, &[WASIP2_TARGET], true, true, some_debian()),
            (None, Any, &[], true, true, some_debian()),
            (None, Any, &[], false, true, Toolchain::Ordinary),
            (Some("debian"), Any, &[TARGET], true, true, some_debian()),
            (Some("wasip2"), Any, &[TARGET, WASIP2_TARGET], false, false, Toolchain::Wasip2),
            (Some("ordinary"), SameEverywhere, &[], true, true, Toolchain::Ordinary),
        ];
        for (choice, accept, targets, debian, rustup, expected) in cases {
            let found = chosen(*choice, *accept, targets, *debian, *rustup).expect("a toolchain");
            assert_eq!(found, *expected, "{choice:?} {accept:?} {targets:?}");
        }
    }

    #[test]
    fn without_a_toolchain_the_error_names_the_commands() {
        for accept in [Accept::Any, Accept::SameEverywhere] {
            let error = format!("{:#}", chosen(None, accept, &[], false, false).expect_err("nothing is there"));
            for part in ["rustup target add wasm32-unknown-unknown", "apt-get install", "rustc-web", "lld-22"] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        for (choice, part) in
            [("gcc", "`wasip2` or `debian`, not `gcc`"), ("wasip2", "lacks"), ("debian", "no /usr/bin/cargo")]
        {
            let error = format!("{:#}", chosen(Some(choice), Accept::Any, &[], false, false).expect_err(choice));
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn the_path_for_debian_has_no_rustup() {
        let path = path_without_rustup().expect("PATH is valid");
        assert!(std::env::split_paths(&path).all(|folder| !folder.join("rustup").exists()));
    }
}
