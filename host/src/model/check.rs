//! Tries an uploaded model on each engine, each in a child process, and decides which engines it may run on; it never stores the
//! model.
//!
//! Each child loads the model, runs it on generated inputs of several sizes and kinds, and on its samples (`samples`). Every
//! engine gets the same inputs, and the server compares the outputs. The rules:
//!
//! - An engine is refused for a model if it cannot load it, crashes, takes too much time or memory, gives other outputs than a
//!   sample says, or if no run on it succeeded. An engine is not refused for sizes that the model does not take.
//! - onnxruntime is the reference. If rten gives other outputs (`compare`), it is refused, even if it gives the outputs of the
//!   samples, because samples are few. If it fails on inputs on which onnxruntime does not, the verdict says so, and a request
//!   with such inputs gets an error. It is refused if hardly any run can be compared.
//! - rten refuses to load a model with an operator that it is known to interpret differently from ONNX (`rten::misread`), because
//!   generated inputs may not show the difference.
//! - If onnxruntime fails a sample, or is not on the machine, there is no reference, and rten is judged by the samples alone. If
//!   there are no samples either, a model with an operator that rten rounds differently (`rten::doubt`) is refused.

mod child;
pub(super) mod compare;
mod decide;
mod inputs;
mod samples;

use super::engine::Engine;
use super::engines::{Checked, EngineChoice, EngineName};
use super::onnxruntime::{LibraryFiles, OnnxRuntime};
use super::rten;
use super::signature::Signature;
use crate::config::Config;
use crate::confined::{Cap, Caps, Confined, Job, Parts, Queue};
use crate::device::DType;
use crate::error::{Error, Kind, Result};
use child::{Made, Outcome, Request, Told, Tried};
use decide::{Array, Finding, Ran};
use std::path::{Path, PathBuf};

/// The job of the child.
pub const CHECK: Job = Job { name: "check", work: child::work };

/// Characters of a child's message that are kept.
const MESSAGE_CHARS: usize = 1_000;

/// Tries the model in a folder, whose weights have this many bytes. `asked` is the engine that the upload names; without one,
/// `model.toml` names it.
///
/// Errors: `invalid-argument` and `unsupported` where no engine runs the model, with the reason of each, and where `model.toml`
/// or a sample is wrong; `unavailable` where the requested engine is not available; `overloaded` where too many checks wait.
pub(super) async fn check(
    confined: &Confined,
    config: &Config,
    folder: PathBuf,
    weights_bytes: u64,
    asked: Option<EngineChoice>,
) -> Result<(Signature, Checked)> {
    let this = config.clone();
    let library = tokio::task::spawn_blocking(move || {
        let engine = OnnxRuntime::new(&this, None);
        Ok((engine.library()?, engine.version()?))
    });
    let library: Result<_> = library.await.map_err(|error| Error::host("finding the engine's library", error))?;
    // One after the other, so that an upload never waits for its own second child.
    let mut findings = Vec::new();
    let mut choice = asked;
    if let Ok((files, version)) = &library {
        let finding =
            try_on(confined, config, (&folder, weights_bytes), EngineName::Onnxruntime, version, files).await?;
        choice = choice.or(finding.setting.clone().map_err(Error::invalid_argument)?);
        findings.push(finding);
    }
    if choice != Some(EngineChoice::Onnxruntime) {
        let none = LibraryFiles { path: None, files: Vec::new() };
        let finding =
            try_on(confined, config, (&folder, weights_bytes), EngineName::Rten, rten::VERSION, &none).await?;
        choice = choice.or(finding.setting.clone().map_err(Error::invalid_argument)?);
        findings.push(finding);
    }
    let choice = choice.unwrap_or_default();
    let absent = library.err();
    if let (EngineChoice::Onnxruntime, Some(error)) = (choice, absent.as_ref()) {
        return Err(Error::unavailable(error.message()).with_source(error.chain()));
    }
    let absent = absent.is_some();
    let decided = tokio::task::spawn_blocking(move || decide::decide(findings, choice, absent));
    decided.await.map_err(|error| Error::host("comparing engines", error))?
}

/// Tries the model on one engine.
///
/// Errors: those that do not concern the model.
async fn try_on(
    confined: &Confined,
    config: &Config,
    (folder, weights_bytes): (&Path, u64),
    engine: EngineName,
    version: &str,
    library: &LibraryFiles,
) -> Result<Finding> {
    let limits = &config.limits;
    let caps = Caps {
        what: match engine {
            EngineName::Onnxruntime => "the model's check on onnxruntime",
            EngineName::Rten => "the model's check on rten",
        },
        queue: Queue::Checks,
        wall_ms: Cap { value: limits.check_ms, limit: "check_ms" },
        memory_bytes: Cap { value: limits.check_memory_bytes, limit: "check_memory_bytes" },
        // The child writes no file.
        file_bytes: Cap { value: 0, limit: "check_memory_bytes" },
        threads: config.model_threads,
        reads: library.files.iter().cloned().chain([folder.to_owned()]).collect(),
    };
    let request = Request {
        engine,
        folder: folder.to_owned(),
        weights_bytes,
        library: library.path.clone(),
        model_threads: config.model_threads,
        limits: limits.clone(),
    };
    let (feed, mut parts) = confined.stream(&CHECK, &request, caps).await?;
    drop(feed);
    let mut finding = Finding::new(engine, version);
    match listen(&mut parts, &mut finding, limits.check_output_bytes).await {
        Ok(()) if finding.setting.is_ok() => {
            let signature = serde_json::from_value(parts.reply());
            finding.signature = Some(signature.map_err(|error| Error::host("reading a model's signature", error))?);
        }
        Ok(()) => {}
        Err(error) => match error.kind() {
            Kind::InvalidArgument | Kind::Unsupported | Kind::TooLarge | Kind::Malformed | Kind::Unavailable => {
                tracing::info!(%engine, "a model is refused: {}", error.chain());
                finding.refusal = Some((error.kind(), error.message().to_owned()));
            }
            Kind::NotFound
            | Kind::PermissionDenied
            | Kind::Conflict
            | Kind::LimitExceeded
            | Kind::Overloaded
            | Kind::DeadlineExceeded
            | Kind::Cancelled
            | Kind::Internal
            | Kind::HandlerFailed
            | Kind::StorageFull => return Err(error),
        },
    }
    Ok(finding)
}

/// Reads all that a child sends. It is as untrusted as the model.
async fn listen(parts: &mut Parts, finding: &mut Finding, mut room: u64) -> Result<()> {
    let wrong = |what: &str| Error::host("checking a model", format!("the child sent {what}"));
    while let Some(part) = parts.next().await? {
        let told: Told = serde_json::from_slice(part).map_err(|error| Error::host("checking a model", error))?;
        match told {
            Told::Setting(setting) => finding.setting = setting.map_err(|message| shortened(&message)),
            Told::Doubt(doubt) => finding.doubt = Some(shortened(&doubt)),
            Told::Sample(None) => finding.samples += 1,
            Told::Sample(Some(fault)) => finding.fault = finding.fault.take().or_else(|| Some(shortened(&fault))),
            Told::Trial(Tried { trial, shapes, outcome }) => {
                let ran = match outcome {
                    Outcome::Failed(message) => Ran::Failed(shortened(&message)),
                    Outcome::Unsent => Ran::Unsent,
                    Outcome::Done(made) => {
                        let mut outputs = Vec::new();
                        let mut pending = Vec::new();
                        for Made { dtype, dims, bytes } in made {
                            room = room.checked_sub(bytes).ok_or_else(|| wrong("more than it may"))?;
                            while (pending.len() as u64) < bytes {
                                let part = parts.next().await?.ok_or_else(|| wrong("less than it announced"))?;
                                if part.is_empty() || part.len() as u64 > bytes - pending.len() as u64 {
                                    return Err(wrong("more than it announced"));
                                }
                                pending.extend_from_slice(part);
                            }
                            let dtype = DType::from_word(&dtype).ok_or_else(|| wrong("an unknown dtype"))?;
                            outputs.push(Array { dtype, dims, bytes: std::mem::take(&mut pending) });
                        }
                        Ran::Done(outputs)
                    }
                };
                finding.trials.push((trial, shortened(&shapes), ran));
            }
        }
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS).collect()
}
