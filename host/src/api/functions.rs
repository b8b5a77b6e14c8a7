//! Functions: their versions, aliases, settings and logs, as JSON.

use crate::catalog::{FunctionDetail, FunctionSummary};
use crate::interface::GrantNames;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The functions of a tenant.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionList {
    /// Each with its live version, by name.
    pub functions: Vec<FunctionItem>,
}

/// One line of the list of functions.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionItem {
    /// What the catalog knows of it.
    #[serde(flatten)]
    pub summary: FunctionSummary,
    /// Why `init` of the live version runs for each request; not there where it does not, or the version was not called yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_snapshot: Option<String>,
}

/// Everything about one function.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Function {
    /// What the catalog knows of it.
    #[serde(flatten)]
    pub detail: FunctionDetail,
    /// What the live version asks for and was not granted. While there is any, calls answer 409.
    pub missing_grants: GrantNames,
    /// Why `init` of the live version runs for each request; not there where it does not, or the version was not called yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_snapshot: Option<String>,
}

/// The versions of a function.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionVersions {
    /// Oldest first.
    pub versions: Vec<FunctionSummary>,
}

/// A component that was stored and is live.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionPut {
    /// The function's name.
    pub name: String,
    /// The version that is live now.
    pub version: u64,
    /// The SHA-256 of the component, in lower-case hexadecimal.
    pub digest: String,
    /// The component's world.
    pub world: String,
    /// What it asks for.
    pub grants_requested: GrantNames,
    /// What it was not granted. While there is any, calls answer 409.
    pub missing_grants: GrantNames,
    /// Why `init` runs for each request, where it does.
    pub without_snapshot: Option<String>,
    /// Whether the version is new; else the same component was stored before, and is live again.
    #[serde(skip)]
    pub created: bool,
}

/// A function or model that was deleted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// Its name.
    pub name: String,
    /// Always true.
    pub deleted: bool,
}

/// The body that sets an alias.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutAlias {
    /// The version that the alias is to mean.
    pub version: u64,
}

/// An alias that was set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AliasPut {
    /// The function or model.
    pub name: String,
    /// The alias.
    pub alias: String,
    /// The version that it means now.
    pub version: u64,
}

/// An alias that was removed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AliasRemoved {
    /// The function or model.
    pub name: String,
    /// The alias.
    pub alias: String,
    /// Always true.
    pub deleted: bool,
}

/// What was set for a function, for all its versions. The values of secrets are never shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// What it may use, besides the keys and secrets that have a value below.
    pub grants: GrantNames,
    /// Its configuration.
    pub config: BTreeMap<String, String>,
    /// The names of its secrets.
    pub secrets: Vec<String>,
    /// Those of these secrets that must be set again: they were sealed with another node key, or are damaged.
    pub unreadable_secrets: Vec<String>,
    /// The limits that it lowers.
    pub limits: BTreeMap<String, u64>,
    /// What the live version asks for.
    pub grants_requested: GrantNames,
    /// What the live version was not granted. While there is any, calls answer 409.
    pub missing_grants: GrantNames,
}

/// A change of settings. `PATCH` adds to what is there, and null removes a key; `PUT` replaces grants, config and limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsPatch {
    /// What to grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<GrantNames>,
    /// Grants to take back; not with `PUT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoke: Option<GrantNames>,
    /// Configuration to set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, Option<String>>>,
    /// Secrets to set; those that are not named stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<BTreeMap<String, Option<String>>>,
    /// Limits to lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, Option<u64>>>,
}

/// The lines of a function's log that are kept.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogLines {
    /// Oldest first.
    pub lines: Vec<LoggedLine>,
}

/// One line of a log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LoggedLine {
    /// When it was written, in milliseconds since 1970; null for notes about the stream itself.
    pub at_ms: Option<u64>,
    /// What the function added to it, by key.
    pub fields: BTreeMap<String, String>,
    /// `trace`, `debug`, `info`, `warn`, `error`, `stdout` or `stderr`.
    pub level: String,
    /// The text.
    pub message: String,
    /// The request that logged it, or `init`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The function's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}
