//! Functions: what is deployed, read and changed, by tenant and name.

use super::deployed::{granted, requested};
use super::{Deployments, FunctionLog};
use crate::api::{Function, FunctionItem, FunctionList, FunctionPut, FunctionVersions, Settings};
use crate::catalog::{self, Blob, Catalog, SettingsChange};
use crate::error::Result;
use crate::interface::GrantNames;
use crate::model::Blobs;
use crate::sandbox::{Lifetime, Runtime};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::pin::pin;
use std::sync::Arc;

impl Deployments {
    /// Stores a component, compiles and checks it, runs its `init`, and makes it live. Until it is compiled and checked, the
    /// work ends when the caller leaves.
    ///
    /// Errors: those of `parts`; `invalid-argument` and `unsupported` where the component is wrong or its `init` fails;
    /// `overloaded` where too many uploads are under way; `storage-full`.
    pub async fn put_function(
        &self,
        tenant: &str,
        name: &str,
        parts: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<FunctionPut> {
        let mut writer = self.0.catalog.begin_blob().await?;
        let mut parts = pin!(parts);
        while let Some(part) = parts.next().await {
            writer.write(&part?).await?;
        }
        let blob = writer.finish().await?;
        match self.put_blob(tenant, name, &blob).await {
            Ok(put) => Ok(put),
            Err(error) => {
                if !self.0.catalog.has_function(&blob.digest).await? {
                    self.0.runtime.forget_code(&blob.digest);
                }
                Err(error)
            }
        }
    }

    async fn put_blob(&self, tenant: &str, name: &str, blob: &Blob) -> Result<FunctionPut> {
        let path = self.0.catalog.path(&blob.digest);
        let function = self.0.runtime.function(&blob.digest, path, Lifetime::Attached).await?;
        let requested = requested(&function.manifest, self.limits())?;
        let (function, logged) = self.init_of_upload(tenant, name, &blob.digest, &function).await?;
        let put = self.0.catalog.put_function(tenant, name, blob, function.world(), &function.manifest).await?;
        self.init_log(tenant, name, put.version)(logged);
        let missing_grants = self.missing_grants(tenant, name, &requested).await?;
        tracing::info!(
            tenant,
            name,
            version = put.version,
            "function {}",
            if put.created { "added" } else { "is live" }
        );
        Ok(FunctionPut {
            name: name.to_owned(),
            version: put.version,
            digest: blob.digest.clone(),
            world: function.world().to_owned(),
            grants_requested: requested,
            missing_grants,
            without_snapshot: function.without_snapshot().map(str::to_owned),
            created: put.created,
        })
    }

    /// The functions of a tenant.
    ///
    /// Errors: those of the catalog.
    pub async fn functions(&self, tenant: &str) -> Result<FunctionList> {
        let functions = self.0.catalog.functions(tenant).await?.into_iter().map(|summary| FunctionItem {
            without_snapshot: self.without_snapshot(tenant, &summary.name, summary.version),
            summary,
        });
        Ok(FunctionList { functions: functions.collect() })
    }

    /// One function.
    ///
    /// Errors: `not-found`.
    pub async fn function(&self, tenant: &str, name: &str) -> Result<Function> {
        let detail = self.0.catalog.function(tenant, name).await?;
        let missing_grants = self.missing_grants(tenant, name, &detail.grants_requested).await?;
        let without_snapshot = self.without_snapshot(tenant, name, detail.live);
        Ok(Function { detail, missing_grants, without_snapshot })
    }

    /// The versions of a function.
    ///
    /// Errors: `not-found`.
    pub async fn function_versions(&self, tenant: &str, name: &str) -> Result<FunctionVersions> {
        Ok(FunctionVersions { versions: self.0.catalog.function(tenant, name).await?.versions })
    }

    /// Deletes a function with all its versions.
    ///
    /// Errors: `not-found`.
    pub async fn delete_function(&self, tenant: &str, name: &str) -> Result<()> {
        let versions = self.0.catalog.function(tenant, name).await?.versions;
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.change(async move |this| {
            this.0.catalog.delete_function(&tenant, &name).await?;
            this.0.functions.forget(&tenant, &name);
            for version in versions {
                // Compiled code is a cache: another function of the same digest compiles it anew.
                this.0.runtime.forget(&version.digest);
            }
            Ok(())
        })
        .await
    }

    /// Lets an alias of a function mean a version.
    ///
    /// Errors: `not-found`; `invalid-argument` for the alias.
    pub async fn set_function_alias(&self, tenant: &str, name: &str, alias: &str, version: u64) -> Result<()> {
        self.0.catalog.set_function_alias(tenant, name, alias, version).await
    }

    /// Removes an alias of a function.
    ///
    /// Errors: `not-found`.
    pub async fn delete_function_alias(&self, tenant: &str, name: &str, alias: &str) -> Result<()> {
        self.0.catalog.delete_function_alias(tenant, name, alias).await
    }

    /// The settings of a function.
    ///
    /// Errors: `not-found`.
    pub async fn settings(&self, tenant: &str, name: &str) -> Result<Settings> {
        let settings = self.0.catalog.settings(tenant, name).await?;
        self.shown(tenant, name, settings).await
    }

    /// Changes the settings of a function. They take effect at once: from here on, nothing that was revoked is granted. Then
    /// `init` of the versions in use runs with them; a failure of it is told to the next call.
    ///
    /// Errors: `not-found`; `invalid-argument` and `too-large` for what is set.
    pub async fn change_settings(&self, tenant: &str, name: &str, change: SettingsChange) -> Result<Settings> {
        let (of, function) = (tenant.to_owned(), name.to_owned());
        let settings = self.change(async move |this| {
            let settings = this.0.catalog.change_settings(&of, &function, change).await?;
            let versions = this.0.functions.of(&of, |deployed| *deployed.name == *function);
            this.0.functions.renew(&of, &function);
            tracing::info!(tenant = of, name = function, "settings changed");
            this.init_for_settings(versions, &settings).await;
            Ok(settings)
        });
        let settings = settings.await?;
        self.shown(tenant, name, settings).await
    }

    /// The log of a function.
    ///
    /// Errors: `not-found`.
    pub async fn function_log(&self, tenant: &str, name: &str) -> Result<Arc<FunctionLog>> {
        self.0.catalog.function(tenant, name).await?;
        Ok(self.0.functions.log(tenant, name, self.limits().log_lines))
    }

    async fn shown(&self, tenant: &str, name: &str, settings: catalog::Settings) -> Result<Settings> {
        let requested = self.0.catalog.function(tenant, name).await?.grants_requested;
        let granted = granted(&self.0.config, &settings, &requested);
        Ok(Settings {
            missing_grants: requested.missing_from(&granted),
            grants_requested: requested,
            secrets: settings.secrets.keys().cloned().collect(),
            unreadable_secrets: settings.unreadable_secrets().into_iter().map(str::to_owned).collect(),
            grants: settings.grants,
            config: settings.config,
            limits: settings.limits,
        })
    }

    /// What a function lacks of what one of its versions asks for.
    async fn missing_grants(&self, tenant: &str, name: &str, requested: &GrantNames) -> Result<GrantNames> {
        let settings = self.0.catalog.settings(tenant, name).await?;
        Ok(requested.missing_from(&granted(&self.0.config, &settings, requested)))
    }

    /// Why `init` of a version runs for each request, where that is known: the version is in use.
    fn without_snapshot(&self, tenant: &str, name: &str, version: u64) -> Option<String> {
        let deployed = self.0.functions.version(tenant, name, version)?;
        deployed.function.without_snapshot().map(str::to_owned)
    }
}

/// Removes compiled code of components that no function is: of an upload that was refused while its client left, or of a function
/// deleted just before the process ended.
pub(super) async fn remove_leftovers(catalog: &Catalog, runtime: &Runtime) -> Result<()> {
    for digest in runtime.compiled()? {
        if !catalog.has_function(&digest).await? {
            runtime.forget_code(&digest);
        }
    }
    Ok(())
}
