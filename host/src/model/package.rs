//! The files of a model, and the two traits through which `model` finds and reads stored models; it never stores anything itself.

use super::engines::Checked;
use super::signature::Signature;
use crate::config::Limits;
use crate::error::{Error, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct PackageFile {
    /// The SHA-256 of its bytes, in lower-case hexadecimal.
    pub digest: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The files of a model, by their names: always `model.onnx`; next to it external data, and below `assets/` the files that guests
/// read.
///
/// Names are relative, with `/` between folders; all other names are refused before a package is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Package {
    /// Each file by its name.
    pub files: BTreeMap<String, PackageFile>,
}

impl Package {
    /// The name of the file that holds the graph.
    pub const MODEL: &str = "model.onnx";
    /// What the names of assets begin with.
    pub const ASSETS: &str = "assets/";
    /// What the names of samples begin with: inputs and outputs that the check replays.
    pub const SAMPLES: &str = "samples/";
    /// The name of the file with settings: `engine = "auto"`.
    pub const SETTINGS: &str = "model.toml";

    /// The bytes that are read to load the model: its graph and external data, without assets, samples and settings.
    pub fn weights_bytes(&self) -> u64 {
        let weighs =
            |name: &str| !name.starts_with(Self::ASSETS) && !name.starts_with(Self::SAMPLES) && name != Self::SETTINGS;
        let sizes = self.files.iter().filter(|(name, _)| weighs(name)).map(|(_, file)| file.bytes);
        sizes.fold(0, u64::saturating_add)
    }

    /// The asset of a name, which is its path below `assets/`.
    pub fn asset(&self, name: &str) -> Option<&PackageFile> {
        self.files.get(&format!("{}{name}", Self::ASSETS))
    }

    /// The files of all assets.
    pub fn assets(&self) -> impl Iterator<Item = &PackageFile> {
        self.files.iter().filter(|(name, _)| name.starts_with(Self::ASSETS)).map(|(_, file)| file)
    }

    /// Checks the samples against the limits, before anything reads them.
    ///
    /// Errors: `too-large`.
    pub(super) fn check_samples(&self, limits: &Limits) -> Result<()> {
        let samples = || self.files.iter().filter(|(name, _)| name.starts_with(Self::SAMPLES));
        let bytes = samples().fold(0u64, |sum, (_, file)| sum.saturating_add(file.bytes));
        if bytes > limits.sample_bytes {
            let most = limits.sample_bytes;
            return Err(Error::too_large(format!("the samples have {bytes} bytes; the limit sample_bytes is {most}")));
        }
        let count = samples().filter(|(name, _)| name.ends_with(".json")).count() as u64;
        if count > limits.samples {
            let most = limits.samples;
            return Err(Error::too_large(format!("there are {count} samples; the limit samples is {most}")));
        }
        Ok(())
    }

    /// The names of all assets, sorted.
    pub fn asset_names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().filter_map(|name| name.strip_prefix(Self::ASSETS))
    }
}

/// Finds stored files. `catalog` implements it.
pub trait Blobs: Send + Sync {
    /// The local file with the bytes of this digest.
    fn path(&self, digest: &str) -> PathBuf;

    /// A local folder that holds the package's files under their names. `digest` is the package's. May copy or link, so it is
    /// called on a blocking thread. The files must be ordinary files: onnxruntime refuses external data that is reached through a
    /// link out of the folder.
    ///
    /// Errors: those of the disk.
    fn package_folder(&self, digest: &str, package: &Package) -> Result<PathBuf>;
}

/// Resolves names of models. `catalog` implements it.
#[async_trait]
pub trait Directory: Send + Sync {
    /// The model that a tenant means by `name`, `name@version` or `name@alias`.
    ///
    /// Errors: `not-found`, whose message names what is missing.
    async fn resolve(&self, tenant: &str, name: &str) -> Result<Arc<Resolved>>;
}

/// A model that was found by name.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Resolved {
    /// The name without version or alias.
    pub name: String,
    /// The version.
    pub version: u64,
    /// The digest of the package: models of one digest are loaded once.
    pub digest: String,
    /// The package's files.
    pub package: Package,
    /// The inputs and outputs, as found at the upload.
    pub signature: Signature,
    /// The engines on which it may run.
    pub checked: Checked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_are_found_by_their_path_below_assets_and_do_not_weigh() {
        let names =
            [("model.onnx", 10), ("weights.bin", 5), ("assets/vocab.txt", 7), ("samples/1.json", 3), ("model.toml", 2)];
        let file = |bytes| PackageFile { digest: String::new(), bytes };
        let package = Package { files: names.iter().map(|&(name, bytes)| (name.to_owned(), file(bytes))).collect() };
        assert_eq!(package.weights_bytes(), 15);
        assert_eq!(package.asset_names().collect::<Vec<_>>(), ["vocab.txt"]);
        assert_eq!(package.asset("vocab.txt").map(|file| file.bytes), Some(7));
        assert!(package.asset("../model.onnx").is_none());
    }
}
