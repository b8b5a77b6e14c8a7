//! Stores functions in the catalog; it never reads a component.

use super::blobs::Blob;
use super::names::{Selector, check_alias, check_name};
use super::versions::{New, Row};
use super::{Catalog, Put, decode, encode};
use crate::error::Result;
use crate::interface::GrantNames;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One version of a function, as an invocation needs it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FunctionVersion {
    /// Its tenant.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// The version.
    pub version: u64,
    /// The component's digest; [`Catalog::path`](crate::model::Blobs::path) gives the path of its bytes.
    pub digest: String,
    /// The component's length.
    pub bytes: u64,
    /// The component's WIT world, as determined at the upload.
    pub world: String,
    /// The component's requested grants, as in its manifest.
    pub manifest: Value,
}

/// One line of the list of functions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FunctionSummary {
    /// Its name.
    pub name: String,
    /// The live version.
    pub version: u64,
    /// That version's digest.
    pub digest: String,
    /// That version's world.
    pub world: String,
    /// The length of that version's component.
    pub bytes: u64,
    /// When that version was first stored, in UTC: `2026-01-31T12:00:00Z`.
    pub created_at: String,
}

/// Everything about one function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FunctionDetail {
    /// Its name.
    pub name: String,
    /// The live version.
    pub live: u64,
    /// Where the aliases point.
    pub aliases: BTreeMap<String, u64>,
    /// The requested grants of the live version.
    pub grants_requested: GrantNames,
    /// Every version, oldest first.
    pub versions: Vec<FunctionSummary>,
}

#[derive(Serialize, Deserialize)]
struct Detail {
    world: String,
    manifest: Value,
}

impl Catalog {
    /// Stores a version of a function and makes it live. If the same component was stored before, its old version becomes live
    /// again, with the world and manifest of this call. On return it is durable, even if the process or the machine stops.
    ///
    /// Errors: `invalid-argument` for the name, `storage-full`, `internal`.
    pub async fn put_function(
        &self,
        tenant: &str,
        name: &str,
        blob: &Blob,
        world: &str,
        manifest: &Value,
    ) -> Result<Put> {
        check_name("name", name, &self.inner.limits)?;
        let detail = encode(&Detail { world: world.to_owned(), manifest: manifest.clone() })?;
        let (digest, bytes) = (blob.digest.clone(), blob.bytes);
        let new = New { blobs: vec![digest.clone()], digest, bytes, detail };
        let hold = self.inner.blobs.hold(&blob.digest);
        let (inner, tenant, name) = self.owned(tenant, name);
        self.change(async move {
            let put = inner.functions.put(&tenant, &name, &new).await;
            inner.function_cache.forget(&tenant, &name);
            drop(hold);
            put
        })
        .await
    }

    /// The functions of a tenant, by name.
    pub async fn functions(&self, tenant: &str) -> Result<Vec<FunctionSummary>> {
        self.inner.functions.list(tenant).await?.into_iter().map(summary).collect()
    }

    /// One function. Errors: `not-found`.
    pub async fn function(&self, tenant: &str, name: &str) -> Result<FunctionDetail> {
        let (rows, live, aliases) = self.inner.functions.detail(tenant, name).await?;
        let manifest = match rows.iter().find(|row| row.version == live) {
            Some(row) => decode::<Detail>(&row.detail)?.manifest,
            None => Value::Null,
        };
        // A wrong manifest was refused at the upload.
        let grants_requested = GrantNames::of_manifest(&manifest).unwrap_or_default();
        let versions = rows.into_iter().map(summary).collect::<Result<_>>()?;
        Ok(FunctionDetail { name: name.to_owned(), live, aliases, grants_requested, versions })
    }

    /// Deletes a function with all its versions and aliases. A later function of this name continues its version numbers.
    ///
    /// Errors: `not-found`.
    pub async fn delete_function(&self, tenant: &str, name: &str) -> Result<()> {
        let (inner, tenant, name) = self.owned(tenant, name);
        self.change(async move {
            let deleted = inner.functions.delete(&tenant, &name).await;
            inner.function_cache.forget(&tenant, &name);
            inner.blobs.loosen(deleted?);
            Ok(())
        })
        .await
    }

    /// Creates an alias, or points it to another version. Errors: `invalid-argument` for the alias, `not-found`.
    pub async fn set_function_alias(&self, tenant: &str, name: &str, alias: &str, version: u64) -> Result<()> {
        check_alias(alias, &self.inner.limits)?;
        let (inner, tenant, name) = self.owned(tenant, name);
        let alias = alias.to_owned();
        self.change(async move {
            let done = inner.functions.set_alias(&tenant, &name, &alias, version).await;
            inner.function_cache.forget(&tenant, &name);
            done
        })
        .await
    }

    /// Removes an alias. Errors: `not-found`.
    pub async fn delete_function_alias(&self, tenant: &str, name: &str, alias: &str) -> Result<()> {
        let (inner, tenant, name) = self.owned(tenant, name);
        let alias = alias.to_owned();
        self.change(async move {
            let done = inner.functions.delete_alias(&tenant, &name, &alias).await;
            inner.function_cache.forget(&tenant, &name);
            done
        })
        .await
    }

    /// Whether any function, of any tenant, has a version of this digest.
    pub async fn has_function(&self, digest: &str) -> Result<bool> {
        self.inner.functions.has(digest).await
    }

    /// The version that a selector currently means. Recent results come from memory.
    ///
    /// Errors: `not-found`, listing what exists.
    pub async fn resolve_function(&self, tenant: &str, selector: &Selector) -> Result<Arc<FunctionVersion>> {
        let generation = match self.inner.function_cache.get(tenant, selector) {
            Ok(version) => return Ok(version),
            Err(generation) => generation,
        };
        let row = self.inner.functions.resolve(tenant, selector).await?;
        let Detail { world, manifest } = decode(&row.detail)?;
        let Row { name, version, digest, bytes, .. } = row;
        let found =
            Arc::new(FunctionVersion { tenant: tenant.to_owned(), name, version, digest, bytes, world, manifest });
        self.inner.function_cache.insert(generation, tenant, selector, &found);
        Ok(found)
    }
}

fn summary(row: Row) -> Result<FunctionSummary> {
    let Detail { world, .. } = decode(&row.detail)?;
    let Row { name, version, digest, bytes, created_at, .. } = row;
    Ok(FunctionSummary { name, version, digest, world, bytes, created_at })
}
