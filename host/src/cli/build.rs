//! `hearth build`: builds a guest crate with cargo and makes the module a component; it never runs it or contacts a server.

use super::ProgramFailed;
use super::component::Facts;
use super::output::print;
use anyhow::{Context, Result, bail};
use hearth_guest_build::{Accept, Toolchain, artefacts, componentise};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

/// Arguments of `hearth build`.
#[derive(Debug, clap::Args)]
pub struct Build {
    #[command(flatten)]
    source: Source,
}

/// Selects the crate.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Source {
    /// The folder of the crate, or of its workspace
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The package, if the workspace has several functions
    #[arg(short, long, value_name = "PACKAGE")]
    package: Option<String>,
}

/// A guest crate, as cargo sees it.
#[derive(Clone, Debug)]
pub(super) struct Project {
    /// The package's name.
    pub(super) name: String,
    /// The folder of its Cargo.toml.
    pub(super) folder: PathBuf,
    /// The folder of the workspace's Cargo.toml and Cargo.lock.
    pub(super) workspace: PathBuf,
    /// Cargo's target folder.
    pub(super) target: PathBuf,
    manifest: PathBuf,
}

/// The result of a build.
pub(super) struct Built {
    /// The component's file.
    pub(super) path: PathBuf,
    /// The component's bytes.
    pub(super) wasm: Vec<u8>,
    /// What was read from the component.
    pub(super) facts: Facts,
    /// The folders of all local packages that it was built from.
    pub(super) folders: BTreeSet<PathBuf>,
}

impl Build {
    pub(super) async fn run(self) -> Result<()> {
        let toolchain = self.source.toolchain().await?;
        let project = self.source.project(&toolchain).await?;
        let built = project.build(&toolchain).await?;
        print(&built.description())
    }
}

impl Source {
    /// The folder from the command line.
    pub(super) fn folder(&self) -> &Path {
        &self.path
    }

    /// The toolchain for guests in the crate's folder.
    ///
    /// Errors: a path that is not a folder; no toolchain, naming the commands that would help.
    pub(super) async fn toolchain(&self) -> Result<Toolchain> {
        let folder = self.path.clone();
        if !folder.is_dir() {
            bail!("{} is no folder; name the one with the function's Cargo.toml", folder.display());
        }
        let adding = || eprintln!("hearth: no Rust for WebAssembly here; trying `rustup target add`");
        let find = move || hearth_guest_build::toolchain(&folder, Accept::Any, adding);
        tokio::task::spawn_blocking(find).await?
    }

    /// Asks cargo which crate this is.
    ///
    /// Errors: no crate, several crates and none is named, or a crate that makes no WebAssembly module.
    pub(super) async fn project(&self, toolchain: &Toolchain) -> Result<Project> {
        let mut command = toolchain.cargo(&self.path)?;
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = output(command).await?;
        if !output.status.success() {
            return Err(failed("cargo cannot read the project in this folder", output.status));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).context("reading cargo's metadata")?;
        let folder = self.path.canonicalize().with_context(|| format!("cannot read {}", self.path.display()))?;
        chosen(&metadata, &folder, self.package.as_deref())
    }
}

/// The selected package: the named one, or the one that contains the folder, or the only one that could be a function.
fn chosen(metadata: &Value, folder: &Path, package: Option<&str>) -> Result<Project> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let name = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
    let manifest = |package: &Value| PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
    let home = |package: &Value| manifest(package).parent().map(Path::to_path_buf).unwrap_or_default();
    let is_function = |package: &&Value| {
        let targets = package["targets"].as_array().into_iter().flatten();
        let kinds = targets.flat_map(|target| target["crate_types"].as_array().into_iter().flatten());
        kinds.into_iter().any(|kind| kind == "cdylib")
    };
    let named = |names: Vec<String>| names.join(", ");
    let found = if let Some(package) = package {
        packages.iter().find(|candidate| name(candidate) == package).with_context(|| {
            let names = packages.iter().filter(is_function).map(name).collect();
            format!("the workspace has no package {package}; its functions are {}", named(names))
        })?
    } else if let Some(inner) = packages
        .iter()
        .filter(|candidate| folder.starts_with(home(candidate)))
        .max_by_key(|candidate| home(candidate).as_os_str().len())
    {
        inner
    } else {
        let functions: Vec<&Value> = packages.iter().filter(is_function).collect();
        match functions[..] {
            [one] => one,
            [] => bail!("this workspace has no function: no package's library is a cdylib"),
            _ => bail!(
                "this workspace has several functions; choose one with -p: {}",
                named(functions.into_iter().map(name).collect())
            ),
        }
    };
    if !is_function(&found) {
        bail!(
            "the package {} makes no WebAssembly module; its Cargo.toml needs\n\n[lib]\ncrate-type = [\"cdylib\"]\n",
            name(found)
        );
    }
    let path = |key: &str| PathBuf::from(metadata[key].as_str().unwrap_or_default());
    Ok(Project {
        name: name(found),
        folder: home(found),
        workspace: path("workspace_root"),
        target: path("target_directory"),
        manifest: manifest(found),
    })
}

impl Project {
    /// Builds the crate and writes the component, `NAME.wasm` in cargo's target folder. Cargo prints its progress and errors
    /// itself.
    ///
    /// Errors: a failed build, as `ProgramFailed` with cargo's exit status; a module that is not a guest.
    pub(super) async fn build(&self, toolchain: &Toolchain) -> Result<Built> {
        let mut command = toolchain.cargo(&self.folder)?;
        command
            .args(["build", "--release", "--target", toolchain.target()])
            .arg("--message-format=json-render-diagnostics");
        let output = output(command).await?;
        if !output.status.success() {
            return Err(failed("the build failed", output.status));
        }
        let artefacts = artefacts(&output.stdout)?;
        let own = artefacts.iter().find(|artefact| artefact.cdylib && artefact.manifest == self.manifest);
        let module = own.and_then(|artefact| artefact.wasm().next());
        let module = module.with_context(|| format!("cargo made no WebAssembly module from {}", self.name))?.clone();
        let folders = artefacts.iter().filter(|artefact| artefact.local);
        let folders = folders.filter_map(|artefact| Some(artefact.manifest.parent()?.to_path_buf())).collect();
        let path = self.target.join(&self.name).with_added_extension("wasm");
        let (wasm, facts) = tokio::task::spawn_blocking({
            let path = path.clone();
            move || component(&module, &path)
        })
        .await??;
        Ok(Built { path, wasm, facts, folders })
    }
}

fn component(module: &Path, path: &Path) -> Result<(Vec<u8>, Facts)> {
    let wasm = super::inspect::read(module)?;
    let wasm = componentise(&wasm).with_context(|| {
        format!(
            "{} cannot be made a component; does it use hearth-guest, or another crate with bindings?",
            module.display()
        )
    })?;
    let facts = Facts::read(&wasm)?;
    if std::fs::read(path).ok().as_ref() != Some(&wasm) {
        std::fs::write(path, &wasm).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok((wasm, facts))
}

impl Built {
    /// Its path, size, world and requested grants.
    fn description(&self) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let path = self.path.strip_prefix(&here).unwrap_or(&self.path);
        let mut text = format!("{}: {}\n", path.display(), self.facts.summary());
        let wishes = self.facts.wishes();
        if !wishes.is_empty() {
            text.push_str(&format!("it asks for {wishes}\n"));
        }
        text
    }
}

/// Runs cargo to its end, or until the future is dropped. Its messages go to the terminal as they arrive.
async fn output(command: std::process::Command) -> Result<Output> {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let child = command.spawn().context("cannot start cargo; it comes with Rust")?;
    child.wait_with_output().await.context("cannot read cargo's output")
}

fn failed(what: &str, status: ExitStatus) -> anyhow::Error {
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    ProgramFailed { message: what.to_owned(), code }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, kind: &str) -> Value {
        json!({"name": name, "manifest_path": format!("/w/{name}/Cargo.toml"), "targets": [{"crate_types": [kind]}]})
    }

    #[test]
    fn the_package_is_the_one_named_or_around_or_the_only_one() {
        let of = |packages: Vec<Value>, folder: &str, package: Option<&str>| {
            let metadata = json!({"packages": packages, "workspace_root": "/w", "target_directory": "/w/target"});
            chosen(&metadata, Path::new(folder), package).map(|project| project.name)
        };
        let all = || vec![package("echo", "cdylib"), package("echo/deep", "cdylib"), package("sdk", "lib")];
        assert_eq!(of(all(), "/w/echo/src", None).unwrap(), "echo");
        assert_eq!(of(all(), "/w/echo/deep", None).unwrap(), "echo/deep");
        assert_eq!(of(all(), "/w", Some("echo")).unwrap(), "echo");
        assert_eq!(of(vec![package("echo", "cdylib"), package("sdk", "lib")], "/w", None).unwrap(), "echo");
        for (packages, folder, package, part) in [
            (all(), "/w", None, "-p: echo, echo/deep"),
            (all(), "/w", Some("other"), "no package other; its functions are echo"),
            (all(), "/w/sdk", None, "crate-type"),
            (vec![], "/w", None, "no function"),
        ] {
            let error = of(packages, folder, package).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
