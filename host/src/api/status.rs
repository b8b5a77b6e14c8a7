//! The server's status, and errors, as JSON.

use crate::model::{EngineState, ModelState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a server is doing, over all tenants.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// hearth's version.
    pub version: String,
    /// Seconds since the server started.
    pub uptime_s: u64,
    /// The device of tensors and models.
    pub device: DeviceStatus,
    /// The engines, also those that are not there.
    pub engines: Vec<EngineState>,
    /// Whether the kernel keeps children that read uploads from other files (Landlock).
    pub reading_is_confined: bool,
    /// Invocations right now.
    pub invocations: Invocations,
    /// Models that were opened since the start.
    pub models: Vec<ModelState>,
    /// Uploads in parts that are not finished.
    pub uploads: OpenUploads,
    /// Every limit.
    pub limits: Vec<LimitValue>,
}

/// A device's memory, in bytes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceStatus {
    /// `cpu` or `cuda:N`.
    pub name: String,
    /// What may be used.
    pub budget_bytes: u64,
    /// What is used.
    pub used_bytes: u64,
    /// The most that was used.
    pub peak_bytes: u64,
    /// What is used, by kind of owner.
    pub used_by: BTreeMap<String, u64>,
}

/// Counts of invocations.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Invocations {
    /// Those that run.
    pub running: u64,
    /// Those that wait to run.
    pub waiting: u64,
}

/// Counts of uploads in parts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OpenUploads {
    /// How many are open.
    pub open: u64,
    /// The bytes that they are charged: those that came or were announced, whichever is more.
    pub bytes: u64,
}

/// One limit of the server.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LimitValue {
    /// Its name, as `--limit` takes it.
    pub name: String,
    /// Its value.
    pub value: u64,
    /// Its value where nobody sets it.
    pub default: u64,
    /// Whether a function's settings may lower it.
    pub per_function: bool,
    /// What it bounds, and why.
    pub reason: String,
}

/// The body of every error.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// A word for programs, such as `not-found`.
    pub kind: String,
    /// A sentence for people that says what to do.
    pub message: String,
    /// The request, as the server's log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
