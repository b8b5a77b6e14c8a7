//! The trait that every engine implements; it never decides when a model is loaded or which run is next.

use super::signature::Signature;
use crate::device::{Account, Device, Tensor};
use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A library that runs models.
pub(super) trait Engine: Send + Sync {
    /// The engine's version, for status pages.
    ///
    /// Errors: `unavailable` where the engine's library is missing or cannot be used; the message says how to get it.
    fn version(&self) -> Result<String>;

    /// Loads `model.onnx` from a folder, with external data from the same folder. `weights_bytes` are those of its package.
    /// Blocks until it is done.
    ///
    /// Errors: `unavailable` where the engine cannot be used at all; `unsupported` where the model is valid but asks for
    /// something hearth or the engine lacks; `invalid-argument` with the engine's reason where the model is wrong.
    fn load(&self, folder: &Path, weights_bytes: u64) -> Result<Arc<dyn Session>>;

    /// Where models run.
    fn place(&self) -> Place {
        Place::cpu()
    }

    /// How it prepares models, if it can.
    fn preparing(&self) -> Option<&dyn Preparing> {
        None
    }
}

/// Where an engine runs models.
pub(super) struct Place {
    /// The device's name.
    pub(super) device: String,
    /// Why not on the GPU that holds the tensors, and what to do.
    pub(super) why: Option<String>,
}

impl Place {
    /// On the CPU, as configured.
    pub(super) fn cpu() -> Place {
        Place { device: "cpu".to_owned(), why: None }
    }
}

/// An engine that can write the results of loading a model to files, as a prepared form for later loads. A session from a
/// prepared form gives the same outputs, bit for bit, as one from [`Engine::load`].
pub(super) trait Preparing: Send + Sync {
    /// What the form depends on besides the model: the engine and its version, the machine, settings.
    ///
    /// Errors: `unavailable` as for [`Engine::version`].
    fn depends_on(&self, weights_bytes: u64) -> Result<String>;

    /// Bytes of the model in `folder` that a load without the form copies or rearranges, and a load from the form does not.
    fn spared_bytes(&self, folder: &Path, weights_bytes: u64) -> u64;

    /// Writes the form of the model in `folder` into the empty folder `into`: [`GRAPH`], and [`WEIGHTS`] unless the weights are
    /// negligible. Gives the model's signature. Blocks until it is done.
    ///
    /// Errors: those of [`Engine::load`] and of the disk.
    fn prepare(&self, folder: &Path, weights_bytes: u64, into: &Path) -> Result<Signature>;

    /// Loads a form from its folder; the weights stay in the file, mapped, or are copied to a GPU once. `signature` is the result
    /// of [`Preparing::prepare`].
    ///
    /// Errors: those of [`Engine::load`]; `internal` where the form is not of a model with this signature.
    fn load_prepared(&self, form: &Path, weights_bytes: u64, signature: Signature) -> Result<Arc<dyn Session>>;
}

/// The file of a prepared form that holds the graph.
pub(super) const GRAPH: &str = "graph.onnx";
/// The file of a prepared form that holds the weights.
pub(super) const WEIGHTS: &str = "weights.bin";

/// The BLAKE3 of a graph's file, in lower-case hexadecimal.
pub(super) fn graph_digest(path: &Path) -> std::io::Result<String> {
    Ok(blake3::Hasher::new().update_reader(File::open(path)?)?.finalize().to_hex().to_string())
}

/// For processes that run no models.
pub(super) struct NoEngine;

impl Engine for NoEngine {
    fn version(&self) -> Result<String> {
        Err(Error::unavailable("no engine runs models here"))
    }

    fn load(&self, _: &Path, _: u64) -> Result<Arc<dyn Session>> {
        Err(Error::unavailable("no engine runs models here"))
    }
}

/// A loaded model. One session holds one copy of the weights; any number of executions run on it at once.
pub(super) trait Session: Send + Sync {
    /// The model's inputs and outputs.
    fn signature(&self) -> &Signature;

    /// Begins one run.
    ///
    /// Errors: failures of the engine.
    fn begin(self: Arc<Self>) -> Result<Arc<dyn Execution>>;

    /// Whether inputs must be in host memory; otherwise they must be on the device.
    fn takes_host_memory(&self) -> bool {
        true
    }
}

/// One run of a model: `run` is called once, `terminate` by any thread at any time.
pub(super) trait Execution: Send + Sync {
    /// Runs on inputs in the signature's order, which the signature has checked, and gives the outputs in its order.
    /// They belong to `account`. Blocks until it is done or terminated; on a GPU, until all of it is queued.
    ///
    /// Errors: `invalid-argument` where the model refuses the inputs; those of `account`; failures of the engine; any
    /// kind after `terminate`.
    fn run(&self, device: &Arc<dyn Device>, account: &Arc<Account>, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// Ends the run at the next point where the engine checks for it, or as soon as it starts.
    fn terminate(&self);
}
