//! The engines, what the check of an upload found on each, and the choice of the engine for a model; it never runs a model.

use super::engine::{Engine, NoEngine, Place};
use super::onnxruntime::OnnxRuntime;
use super::rten::Rten;
use super::signature::Signature;
use crate::config::Config;
use crate::device::Device;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An engine.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::EnumCount,
    strum::Display,
)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// The library ONNX Runtime, where it is installed.
    Onnxruntime,
    /// rten, which is part of this program.
    Rten,
}

impl EngineName {
    /// Every engine, in the order in which `auto` prefers them.
    pub const ALL: [EngineName; <EngineName as strum::EnumCount>::COUNT] =
        *<EngineName as strum::VariantArray>::VARIANTS.first_chunk().unwrap();

    /// The word for it in JSON and settings.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The engine that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// onnxruntime if it is installed and the model passed its check on it, else rten.
    #[default]
    Auto,
    /// onnxruntime and nothing else.
    Onnxruntime,
    /// rten and nothing else.
    Rten,
}

impl EngineChoice {
    /// The choice that a word names.
    ///
    /// Errors: `invalid-argument`, listing the words.
    pub fn parse(word: &str) -> Result<EngineChoice> {
        match word {
            "auto" => Ok(EngineChoice::Auto),
            "onnxruntime" => Ok(EngineChoice::Onnxruntime),
            "rten" => Ok(EngineChoice::Rten),
            _ => {
                let word: String = word.chars().take(64).collect();
                let message = format!("engine is '{word}', but takes auto, onnxruntime or rten");
                Err(Error::invalid_argument(message))
            }
        }
    }

    /// Whether it lets a model run on an engine.
    pub const fn allows(self, engine: EngineName) -> bool {
        match (self, engine) {
            (EngineChoice::Auto, _)
            | (EngineChoice::Onnxruntime, EngineName::Onnxruntime)
            | (EngineChoice::Rten, EngineName::Rten) => true,
            (EngineChoice::Onnxruntime, EngineName::Rten) | (EngineChoice::Rten, EngineName::Onnxruntime) => false,
        }
    }
}

/// What the check of a model found on one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Verdict {
    /// The engine.
    pub engine: EngineName,
    /// Its version at the check.
    pub version: String,
    /// Whether the model may run on it.
    pub passed: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Runs on generated inputs that succeeded.
    pub runs: u64,
    /// Samples whose outputs it reproduced.
    pub samples: u64,
    /// Runs whose outputs were compared with onnxruntime's on the same inputs; 0 where there was none to compare with.
    pub compared: u64,
    /// The largest difference of two finite elements found in these, as a part of the largest finite magnitude of onnxruntime's
    /// output, or of 0.01 where that is less. None where nothing was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// Runs that failed where onnxruntime's did not. Requests with such inputs fail, too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fails: u64,
    /// The error of the first of these runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What the check of a model found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Checked {
    /// The engine that its upload asked for.
    pub engine: EngineChoice,
    /// One verdict for each engine that was available.
    pub engines: Vec<Verdict>,
}

impl Checked {
    /// Whether the model may run on an engine.
    pub fn allows(&self, engine: EngineName) -> bool {
        self.engine.allows(engine) && self.engines.iter().any(|verdict| verdict.engine == engine && verdict.passed)
    }
}

/// An engine of this process, for status pages.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EngineState {
    /// Its name.
    pub name: EngineName,
    /// Whether it runs models.
    pub available: bool,
    /// Its version, where it is available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The device that it runs models on, where it is available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why it is not available, or does not run models on the GPU that holds the tensors, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The engines of a process.
pub(super) struct Engines {
    onnxruntime: Arc<dyn Engine>,
    rten: Arc<dyn Engine>,
}

impl Engines {
    /// The engines, which run models on the CPU, or on `device` where that is a GPU and the engine can.
    pub(super) fn new(config: &Config, device: Option<&Arc<dyn Device>>) -> Engines {
        Engines { onnxruntime: Arc::new(OnnxRuntime::new(config, device)), rten: Arc::new(Rten::new(config)) }
    }

    /// For processes that run no models.
    pub(super) fn none() -> Engines {
        Engines { onnxruntime: Arc::new(NoEngine), rten: Arc::new(NoEngine) }
    }

    pub(super) fn get(&self, name: EngineName) -> &Arc<dyn Engine> {
        match name {
            EngineName::Onnxruntime => &self.onnxruntime,
            EngineName::Rten => &self.rten,
        }
    }

    pub(super) fn states(&self) -> Vec<EngineState> {
        let state = |name| {
            let engine = self.get(name);
            match engine.version() {
                Ok(version) => {
                    let Place { device, why } = engine.place();
                    let (version, device) = (Some(version), Some(device));
                    EngineState { name, available: true, version, device, reason: why }
                }
                Err(error) => {
                    let reason = Some(error.message().to_owned());
                    EngineState { name, available: false, version: None, device: None, reason }
                }
            }
        };
        EngineName::ALL.into_iter().map(state).collect()
    }

    /// The engine that a checked model runs on now.
    ///
    /// Errors: `unavailable` where no engine that it may run on is available.
    pub(super) fn choose(&self, checked: &Checked) -> Result<EngineName> {
        let mut missing = None;
        for name in EngineName::ALL.into_iter().filter(|name| checked.allows(*name)) {
            match self.get(name).version() {
                Ok(_) => return Ok(name),
                Err(error) => missing = Some(error),
            }
        }
        Err(missing.unwrap_or_else(|| {
            Error::unavailable("the model passed its check on no engine that is available here; upload the model again")
        }))
    }
}

/// Whether two engines agree on a model's inputs and outputs. They may differ in how much they know about an output's dimensions.
pub(super) fn alike(one: &Signature, other: &Signature) -> bool {
    let outputs = |signature: &Signature| -> Vec<_> {
        signature.outputs.iter().map(|output| (output.name.clone(), output.dtype, output.shape.len())).collect()
    };
    let inputs = |signature: &Signature| -> Vec<_> {
        signature.inputs.iter().map(|input| (input.name.clone(), input.dtype, input.shape.clone())).collect()
    };
    inputs(one) == inputs(other) && outputs(one) == outputs(other)
}
