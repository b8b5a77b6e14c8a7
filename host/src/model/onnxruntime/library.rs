//! Finds and loads onnxruntime's library, once for the process; its absence is an error value, never a panic.

use super::{LibraryFiles, glue};
use crate::config::Config;
use crate::error::{Error, Result};
use ort::environment::Environment;
use ort::logging::LogLevel;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file's name, which may be followed by a version on Linux.
const NAME: &str = "libonnxruntime.so";

/// The oldest version that has what hearth calls; the feature `api-24` of `ort`.
const OLDEST: &str = "1.24";

/// The library in use. `ort` and the library itself allow only one for each process: the first that works is kept.
static LOADED: Mutex<Option<Library>> = Mutex::new(None);

/// A library that works, and its environment.
#[derive(Clone)]
pub(super) struct Library {
    /// Its version.
    pub(super) version: String,
    path: PathBuf,
    /// The environment in which sessions are made.
    pub(super) environment: Environment,
}

impl Library {
    /// The library that `config` names; if it names none, the one in the data folder, next to the executable, or in the loader's
    /// path, in that order. A failure is not remembered, so a library that is installed later is found.
    ///
    /// Errors: `unavailable` where there is none that works; its source says what was tried.
    pub(super) fn get(config: &Config) -> Result<Library> {
        let mut loaded = LOADED.lock();
        if let Some(library) = &*loaded {
            return match &config.ort_lib {
                Some(named) if named.canonicalize().ok() != library.path.canonicalize().ok() => match version(named) {
                    Err(reason) => Err(unavailable(&[format!("{}: {reason}", named.display())])),
                    Ok(_) => Ok(library.clone()),
                },
                Some(_) | None => Ok(library.clone()),
            };
        }
        let mut failures = Vec::new();
        for path in candidates(config) {
            match load(&path) {
                Ok(library) => return Ok(loaded.insert(library).clone()),
                Err(reason) => failures.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(unavailable(&failures))
    }

    /// The folder it is in, if that is known.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.is_absolute().then(|| self.path.parent()).flatten()
    }

    /// The files that are needed to load it, besides the system's libraries.
    pub(super) fn files(&self) -> LibraryFiles {
        if !self.path.is_absolute() {
            return LibraryFiles { path: None, files: Vec::new() };
        }
        let resolved = self.path.canonicalize().ok();
        let mut files = vec![self.path.clone()];
        for folder in [Some(&self.path), resolved.as_ref()].into_iter().flatten().filter_map(|path| path.parent()) {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let is_library = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.ends_with(".so") || name.contains(".so.")
            };
            files.extend(entries.filter(is_library));
        }
        files.sort();
        files.dedup();
        LibraryFiles { path: Some(self.path.clone()), files }
    }
}

fn unavailable(failures: &[String]) -> Error {
    let message = format!(
        "there is no onnxruntime library that works here; `cargo xtask setup` fetches one, or set HEARTH_ORT_LIB to a {NAME} \
         of version {OLDEST} or later and restart the server"
    );
    let tried = if failures.is_empty() { "found none".to_owned() } else { format!("tried {}", failures.join("; ")) };
    Error::unavailable(message).with_source(tried)
}

fn candidates(config: &Config) -> Vec<PathBuf> {
    if let Some(named) = &config.ort_lib {
        return vec![std::path::absolute(named).unwrap_or_else(|_| named.clone())];
    }
    let mut found = libraries_in(&config.data.join("lib"));
    let executable = std::env::current_exe().ok();
    if let Some(folder) = executable.as_deref().and_then(Path::parent) {
        found.extend(libraries_in(folder));
        // `ort` first looks for a bare name next to the executable, and panics if there is no such folder.
        found.push(PathBuf::from(NAME));
        found.push(PathBuf::from(format!("{NAME}.1")));
    }
    found
}

/// The libraries in a folder, those with the highest version in their name first.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let version = |path: &PathBuf| -> Option<Vec<u32>> {
        let rest = path.file_name()?.to_str()?.strip_prefix(NAME)?;
        match rest.strip_prefix('.') {
            None if rest.is_empty() => Some(Vec::new()),
            None => None,
            Some(version) => version.split('.').map(|part| part.parse().ok()).collect(),
        }
    };
    let mut found: Vec<_> =
        entries.flatten().filter_map(|entry| Some((version(&entry.path())?, entry.path()))).collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The version of a library that is new enough.
fn version(path: &Path) -> Result<String, String> {
    let version = glue::version(path)?;
    let number = |text: &str| -> Vec<u32> { text.split('.').map_while(|part| part.parse().ok()).collect() };
    if number(&version) < number(OLDEST) {
        return Err(format!("its version is {version}, but {OLDEST} or later is needed"));
    }
    Ok(version)
}

fn load(path: &Path) -> Result<Library, String> {
    let version = version(path)?;
    let builder = ort::init_from(path).map_err(|error| error.to_string())?;
    // Models choose the names in the engine's messages, and failures are returned as errors anyway, so everything is logged at
    // level debug.
    let log = |_: LogLevel, category: &str, _: &str, place: &str, message: &str| {
        tracing::debug!(target: "onnxruntime", category, place, "{message}");
    };
    let builder = builder.with_name("hearth").with_telemetry(false).with_logger(Arc::new(log));
    let environment = builder.build().map_err(|error| error.to_string())?;
    environment.set_log_level(LogLevel::Warning);
    tracing::info!(path = %path.display(), version, "onnxruntime is loaded");
    Ok(Library { version, path: path.to_owned(), environment })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_tried_newest_first_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["", ".1", ".1.9.0", ".1.32.0", "x", ".old"] {
            std::fs::write(folder.path().join(format!("{NAME}{name}")), b"").unwrap();
        }
        std::fs::write(folder.path().join("libonnxruntime_providers_shared.so"), b"").unwrap();
        let found = libraries_in(folder.path());
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()?.strip_prefix(NAME)).collect();
        assert_eq!(names, [".1.32.0", ".1.9.0", ".1", ""]);
        assert!(libraries_in(&folder.path().join("none")).is_empty());
    }
}
