//! The trait that every engine fulfils; it never decides when a model is loaded or whose turn it is.

use super::signature::Signature;
use crate::device::{Account, Device, Tensor};
use crate::error::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// A library that runs models.
pub(super) trait Engine: Send + Sync {
    /// The engine's version, for status pages.
    ///
    /// Errors: `unavailable` where the engine's library is missing or cannot be used; the message says how to get it.
    fn version(&self) -> Result<String>;

    /// Loads `model.onnx` from a folder, with external data from the same folder. Blocks until it is done.
    ///
    /// Errors: `unavailable` where the engine cannot be used at all; `unsupported` where the model is valid but asks for
    /// something hearth or the engine lacks; `invalid-argument` with the engine's reason where the model is wrong.
    fn load(&self, folder: &Path) -> Result<Arc<dyn Session>>;
}

/// Where no model is to be run.
pub(super) struct NoEngine;

impl Engine for NoEngine {
    fn version(&self) -> Result<String> {
        Err(Error::unavailable("no engine runs models here"))
    }

    fn load(&self, _: &Path) -> Result<Arc<dyn Session>> {
        Err(Error::unavailable("no engine runs models here"))
    }
}

/// A loaded model. One session holds one copy of the weights; any number of executions run on it at once.
pub(super) trait Session: Send + Sync {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// Prepares one run.
    ///
    /// Errors: failures of the engine.
    fn begin(self: Arc<Self>) -> Result<Arc<dyn Execution>>;
}

/// One run of a model: `run` is called once, `terminate` by any thread at any time.
pub(super) trait Execution: Send + Sync {
    /// Runs on inputs in the signature's order, which the signature has checked, and gives the outputs in its order.
    /// They belong to `account`. Blocks until it is done or terminated.
    ///
    /// Errors: `invalid-argument` where the model refuses the inputs; those of `account`; failures of the engine; any
    /// kind after `terminate`.
    fn run(&self, device: &Arc<dyn Device>, account: &Arc<Account>, inputs: &[Tensor]) -> Result<Vec<Tensor>>;

    /// Ends the run at the next point where the engine looks, or as soon as it starts.
    fn terminate(&self);
}
