//! Stores models in the catalog, and implements what the model layer needs of it; it never loads a model.

use super::names::{Selector, check_alias, check_name};
use super::package::{ModelUpload, link};
use super::versions::{New, Row};
use super::{Catalog, Put, decode, encode};
use crate::error::{Error, Result};
use crate::model::{Blobs, Checked, Directory, Package, Resolved};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One line of the list of models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelSummary {
    /// Its name.
    pub name: String,
    /// The live version.
    pub version: u64,
    /// That version's package digest.
    pub digest: String,
    /// The length of all files of that version together.
    pub bytes: u64,
    /// The engine that it was uploaded for, and what its check found.
    #[serde(flatten)]
    pub checked: Checked,
    /// When that version was first stored, in UTC: `2026-01-31T12:00:00Z`.
    pub created_at: String,
}

/// One version in [`ModelDetail`].
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelVersionDetail {
    /// The version.
    pub version: u64,
    /// The package's digest.
    pub digest: String,
    /// The length of all its files together.
    pub bytes: u64,
    /// Its files.
    pub package: Package,
    /// Its inputs and outputs.
    #[schema(value_type = crate::model::Signature)]
    pub signature: Value,
    /// The engine that it was uploaded for, and what its check found.
    #[serde(flatten)]
    pub checked: Checked,
    /// When it was first stored, in UTC.
    pub created_at: String,
}

/// Everything about one model.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ModelDetail {
    /// Its name.
    pub name: String,
    /// The live version.
    pub live: u64,
    /// Where the aliases point.
    pub aliases: BTreeMap<String, u64>,
    /// Every version, oldest first.
    pub versions: Vec<ModelVersionDetail>,
}

#[derive(Serialize, Deserialize)]
struct Detail {
    package: Package,
    signature: Value,
    checked: Checked,
}

impl Catalog {
    /// Stores a version of a model and makes it live. If the same package was stored before, its old version becomes live again,
    /// with the signature and the engines of this call. On return it is durable, even if the process or the machine stops.
    ///
    /// Errors: `invalid-argument` for the name, `storage-full`, `internal`.
    pub async fn put_model(
        &self,
        tenant: &str,
        name: &str,
        upload: &ModelUpload,
        signature: &Value,
        checked: &Checked,
    ) -> Result<Put> {
        check_name("name", name, &self.inner.limits)?;
        let detail = Detail { package: upload.package.clone(), signature: signature.clone(), checked: checked.clone() };
        let detail = encode(&detail)?;
        let blobs: Vec<String> = upload.package.files.values().map(|file| file.digest.clone()).collect();
        let mut holds: Vec<_> = blobs.iter().map(|digest| self.inner.blobs.hold(digest)).collect();
        holds.push(self.inner.blobs.hold(&upload.digest));
        let new = New { digest: upload.digest.clone(), bytes: upload.bytes, detail, blobs };
        let (inner, tenant, name) = self.owned(tenant, name);
        self.change(async move {
            let put = inner.models.put(&tenant, &name, &new).await;
            inner.model_cache.forget(&tenant, &name);
            drop(holds);
            put
        })
        .await
    }

    /// The models of a tenant, by name.
    pub async fn models(&self, tenant: &str) -> Result<Vec<ModelSummary>> {
        let rows = self.inner.models.list(tenant).await?;
        let summary = |row: Row| {
            let Detail { checked, .. } = decode(&row.detail)?;
            let Row { name, version, digest, bytes, created_at, .. } = row;
            Ok(ModelSummary { name, version, digest, bytes, checked, created_at })
        };
        rows.into_iter().map(summary).collect()
    }

    /// One model. Errors: `not-found`.
    pub async fn model(&self, tenant: &str, name: &str) -> Result<ModelDetail> {
        let (rows, live, aliases) = self.inner.models.detail(tenant, name).await?;
        let version = |row: Row| {
            let Detail { package, signature, checked } = decode(&row.detail)?;
            let Row { version, digest, bytes, created_at, .. } = row;
            Ok(ModelVersionDetail { version, digest, bytes, package, signature, checked, created_at })
        };
        let versions = rows.into_iter().map(version).collect::<Result<_>>()?;
        Ok(ModelDetail { name: name.to_owned(), live, aliases, versions })
    }

    /// Deletes a model with all its versions and aliases. A later model of this name continues its version numbers.
    ///
    /// Errors: `not-found`.
    pub async fn delete_model(&self, tenant: &str, name: &str) -> Result<()> {
        let (inner, tenant, name) = self.owned(tenant, name);
        self.change(async move {
            let deleted = inner.models.delete(&tenant, &name).await;
            inner.model_cache.forget(&tenant, &name);
            inner.blobs.loosen(deleted?);
            Ok(())
        })
        .await
    }

    /// Creates an alias, or points it to another version. Errors: `invalid-argument` for the alias, `not-found`.
    pub async fn set_model_alias(&self, tenant: &str, name: &str, alias: &str, version: u64) -> Result<()> {
        check_alias(alias, &self.inner.limits)?;
        let (inner, tenant, name) = self.owned(tenant, name);
        let alias = alias.to_owned();
        self.change(async move {
            let done = inner.models.set_alias(&tenant, &name, &alias, version).await;
            inner.model_cache.forget(&tenant, &name);
            done
        })
        .await
    }

    /// Removes an alias. Errors: `not-found`.
    pub async fn delete_model_alias(&self, tenant: &str, name: &str, alias: &str) -> Result<()> {
        let (inner, tenant, name) = self.owned(tenant, name);
        let alias = alias.to_owned();
        self.change(async move {
            let done = inner.models.delete_alias(&tenant, &name, &alias).await;
            inner.model_cache.forget(&tenant, &name);
            done
        })
        .await
    }

    /// Whether any model, of any tenant, has a version of this digest.
    pub async fn has_model(&self, digest: &str) -> Result<bool> {
        self.inner.models.has(digest).await
    }

    /// The version that a selector currently means. Recent results come from memory.
    ///
    /// Errors: `not-found`, listing what exists.
    pub async fn resolve_model(&self, tenant: &str, selector: &Selector) -> Result<Arc<Resolved>> {
        let generation = match self.inner.model_cache.get(tenant, selector) {
            Ok(version) => return Ok(version),
            Err(generation) => generation,
        };
        let row = self.inner.models.resolve(tenant, selector).await?;
        let Detail { package, signature, checked } = decode(&row.detail)?;
        let signature = serde_json::from_value(signature).map_err(|error| Error::host("reading a signature", error))?;
        let Row { name, version, digest, .. } = row;
        let found = Arc::new(Resolved { name, version, digest, package, signature, checked });
        self.inner.model_cache.insert(generation, tenant, selector, &found);
        Ok(found)
    }
}

#[async_trait]
impl Directory for Catalog {
    async fn resolve(&self, tenant: &str, name: &str) -> Result<Arc<Resolved>> {
        let selector = Selector::parse(name, &self.inner.limits)?;
        self.resolve_model(tenant, &selector).await
    }
}

impl Blobs for Catalog {
    fn path(&self, digest: &str) -> PathBuf {
        self.inner.blobs.folder.blob(digest)
    }

    fn package_folder(&self, digest: &str, package: &Package) -> Result<PathBuf> {
        link(&self.inner.blobs.folder, digest, package)
    }
}
