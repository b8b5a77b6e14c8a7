//! What is told of where models are; it decides nothing.

use crate::model::EngineName;

/// Where a model is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema, strum::IntoStaticStr,
)]
#[strum(serialize_all = "kebab-case")]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// On disk only.
    Stored,
    /// Its prepared form lies in host memory, too, from where the next load takes it.
    Staged,
    /// On its way into memory.
    Loading,
    /// In the device's memory, ready to run.
    Resident,
}

impl Residency {
    /// The word for it in JSON and tables.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A model that was opened since the process started, for status pages.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ModelState {
    /// The digest of its package.
    pub digest: String,
    /// The name by which it was opened last.
    pub name: String,
    /// The engine that it runs on.
    pub engine: EngineName,
    /// Where it is.
    pub state: Residency,
    /// The bytes of its weights.
    pub bytes: u64,
    /// Its runs since the process started.
    pub runs: u64,
    /// Leases that keep it in memory.
    pub leases: u64,
    /// Runs that wait for a lane.
    pub waiting: u64,
    /// How it came to be where it is.
    pub reason: String,
    /// It never makes room for others.
    pub pinned: bool,
    /// Models of a lower priority make room first.
    pub priority: u8,
    /// How often it was loaded since the process started.
    pub loads: u64,
    /// How often it made room for others.
    pub evictions: u64,
    /// What loading it took, in milliseconds: the mean of the last time and the mean before. The first time, which may have
    /// made its prepared form, counts only as long as there is no other.
    pub load_ms: u64,
}

/// What was asked for a model's place in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// It never makes room for others.
    pub pinned: bool,
    /// Models of a lower priority make room first.
    pub priority: u8,
}
