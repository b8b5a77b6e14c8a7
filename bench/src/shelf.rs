//! Gives models from folders to the model layer, in place of the catalog; it never checks a model.

use hearth::config::{Config, Limits};
use hearth::confined::Confined;
use hearth::device::{Cpu, Cuda, Device, Ledger};
use hearth::error::{Error, Result};
use hearth::model::{
    Blobs, Checked, Directory, EngineChoice, EngineName, Models, Package, PackageFile, Resolved, Signature, Verdict,
};
use hearth::node_key::NodeKey;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folders that each have a `model.onnx` and the name of their model. All models run on one engine.
struct Shelf {
    folder: PathBuf,
    engine: EngineName,
}

/// The models below a folder on one engine, and the device that they run on: the CPU, or a GPU by its number.
pub(crate) fn models(
    config: &Config,
    folder: &Path,
    engine: EngineName,
    gpu: Option<u32>,
) -> Result<(Models, Arc<dyn Device>)> {
    let limits: &Limits = &config.limits;
    let device: Arc<dyn Device> = match gpu {
        None => Cpu::new(Ledger::new(limits.device_bytes), limits.clone()),
        Some(ordinal) => Cuda::open(ordinal, config, &NodeKey::open(&config.data)?)?,
    };
    let shelf = Arc::new(Shelf { folder: folder.to_owned(), engine });
    let confined = Arc::new(Confined::new(config)?);
    Ok((Models::new(config, device.clone(), shelf.clone(), shelf, confined)?, device))
}

impl Shelf {
    fn package(&self, name: &str) -> std::io::Result<Package> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.folder.join(name))? {
            let entry = entry?;
            let file = PackageFile { digest: String::new(), bytes: entry.metadata()?.len() };
            files.insert(entry.file_name().to_string_lossy().into_owned(), file);
        }
        Ok(Package { files })
    }
}

impl Blobs for Shelf {
    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(digest)
    }

    fn package_folder(&self, digest: &str, _: &Package) -> Result<PathBuf> {
        Ok(self.path(digest))
    }
}

#[async_trait::async_trait]
impl Directory for Shelf {
    async fn resolve(&self, _: &str, name: &str) -> Result<Arc<Resolved>> {
        let package = self.package(name).map_err(|error| Error::storage("reading the model", error))?;
        let verdict = Verdict {
            engine: self.engine,
            version: String::new(),
            passed: true,
            reason: None,
            runs: 1,
            samples: 0,
            compared: 0,
            difference: None,
            fails: 0,
            failure: None,
        };
        Ok(Arc::new(Resolved {
            name: name.to_owned(),
            version: 1,
            digest: name.to_owned(),
            package,
            signature: Signature { inputs: Vec::new(), outputs: Vec::new() },
            checked: Checked { engine: EngineChoice::Auto, engines: vec![verdict] },
        }))
    }
}

/// Pseudo-random numbers between -1 and 1 (SplitMix64).
pub(crate) fn noise(at: u64) -> f64 {
    let mut z = at.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}
