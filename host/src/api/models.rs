//! Models: their versions, places in memory and uploads, as JSON.

use crate::catalog::{ModelSummary, ModelVersionDetail, UploadStatus};
use crate::model::{EngineChoice, EngineName, Residency, Signature, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The models of a tenant.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Each with its live version, by name.
    pub models: Vec<ModelItem>,
}

/// One line of the list of models.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelItem {
    /// What the catalog knows of it.
    #[serde(flatten)]
    pub summary: ModelSummary,
    /// Where it is.
    pub state: Residency,
    /// How it came to be there.
    pub reason: String,
    /// Whether it never makes room for others.
    pub pinned: bool,
    /// From 0 to 255: models of a lower priority make room first.
    pub priority: u8,
    /// The engine that it runs on now; null where none is there that it may run on.
    pub runs_on: Option<EngineName>,
}

/// The versions of a model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelVersions {
    /// Oldest first.
    pub versions: Vec<ModelVersionDetail>,
}

/// A model that was stored, tried on the engines, and is live.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelPut {
    /// Its name.
    pub name: String,
    /// The version that is live now.
    pub version: u64,
    /// The digest of its package.
    pub digest: String,
    /// What it takes and gives.
    pub signature: Signature,
    /// The engine that was asked for.
    pub engine: EngineChoice,
    /// What the check found on each engine that was there.
    pub engines: Vec<Verdict>,
    /// The engine that it runs on now; null where none is there that it may run on.
    pub runs_on: Option<EngineName>,
    /// Whether the version is new; else the same package was stored before, and is live again.
    #[serde(skip)]
    pub created: bool,
}

/// A model that is in memory.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelLoaded {
    /// As the request named it.
    pub name: String,
    /// The version that the name means.
    pub version: u64,
    /// Always `resident`.
    pub state: Residency,
}

/// A model that is to leave memory.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelUnloaded {
    /// As the request named it.
    pub name: String,
    /// The version that the name means.
    pub version: u64,
    /// Whether its memory is free now; else it is as soon as the calls that use it have ended, unless it is pinned.
    pub unloaded: bool,
    /// Whether a model of the same bytes, of another name or tenant, is pinned.
    pub pinned: bool,
}

/// The body that pins a model. Without a body, the model is pinned.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PinModel {
    /// Whether it never makes room for others.
    pub pinned: bool,
    /// From 0 to 255: models of a lower priority make room first.
    pub priority: u8,
}

impl Default for PinModel {
    fn default() -> PinModel {
        PinModel { pinned: true, priority: 0 }
    }
}

/// A model whose pin was set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelPinned {
    /// As the request named it.
    pub name: String,
    /// The version that the name means; the pin is this version's.
    pub version: u64,
    /// Where the model is.
    pub state: Residency,
    /// What was asked for.
    pub pinned: bool,
    /// What was asked for.
    pub priority: u8,
}

/// Uploads in parts that are not finished.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadList {
    /// By id.
    pub uploads: Vec<UploadStatus>,
}
