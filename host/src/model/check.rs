//! Loads a model that nobody knows yet in a child process, to see whether it works; it never keeps it.

use super::engine::Engine;
use super::onnxruntime::OnnxRuntime;
use super::signature::Signature;
use crate::config::{Config, RawConfig};
use crate::confined::{self, Cap, Caps, Confined, Job, Queue, Work};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// The job of the child.
pub const CHECK: Job = Job { name: "check", work };

#[derive(Serialize, Deserialize)]
struct Request {
    /// The folder of the package.
    folder: PathBuf,
    /// The engine's library; none where the loader finds it.
    library: Option<PathBuf>,
    model_threads: usize,
}

/// Loads the model in a folder and gives its signature.
///
/// Errors: those of [`Engine::load`]; `overloaded` where too many checks wait; `invalid-argument` where the model makes the engine crash, or takes more than
/// `check_ms` or `check_memory_bytes`.
pub(super) async fn check(confined: &Confined, config: &Config, folder: PathBuf) -> Result<Signature> {
    const FINDING: &str = "finding the engine's library";
    let limits = &config.limits;
    let this = config.clone();
    let library = tokio::task::spawn_blocking(move || OnnxRuntime::new(&this).library());
    let library = library.await.map_err(|error| Error::host(FINDING, error))??;
    let mut reads = library.files;
    reads.push(folder.clone());
    let caps = Caps {
        what: "the model's check",
        queue: Queue::Checks,
        wall_ms: Cap { value: limits.check_ms, limit: "check_ms" },
        memory_bytes: Cap { value: limits.check_memory_bytes, limit: "check_memory_bytes" },
        // It has no file to write to.
        file_bytes: Cap { value: 0, limit: "check_memory_bytes" },
        threads: config.model_threads,
        reads,
    };
    let request = Request { folder, library: library.path, model_threads: config.model_threads };
    let signature = confined.run(&CHECK, &request, None, caps).await?;
    serde_json::from_value(signature).map_err(|error| Error::host("reading a model's signature", error))
}

fn work(work: &mut Work) -> Result<Value> {
    let Request { folder, library, model_threads } = work.request()?;
    let raw = RawConfig { ort_lib: library, model_threads: Some(model_threads), ..RawConfig::default() };
    let session = OnnxRuntime::new(&raw.resolve()?).load(&folder).map_err(|error| {
        // The engine had this process to itself.
        if error.kind() == Kind::Overloaded { confined::out_of_memory(error.chain()) } else { error }
    })?;
    serde_json::to_value(session.signature()).map_err(|error| Error::host("checking a model", error))
}
