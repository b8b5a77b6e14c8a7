//! Models: what is stored, changed, pinned and loaded, by tenant and name.

use super::Deployments;
use super::init::Changed;
use crate::api::{ModelDetail, ModelItem, ModelList, ModelLoaded, ModelPinned, ModelPut, ModelUnloaded, ModelVersions};
use crate::catalog::{At, Catalog, ModelSummary, ModelUpload, PinnedModel, Selector, WholeUpload};
use crate::error::{Error, Result};
use crate::model::{EngineChoice, ModelState, Models, Pin, Residency, Resolved, Staged};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::pin::pin;
use std::sync::Arc;

/// Where the bytes of a model come from.
pub enum ModelSource<S> {
    /// Parts that come now.
    Parts(S),
    /// An upload in parts that is whole, by its id. It goes once the model is stored.
    Upload(String),
}

impl Deployments {
    /// Stores a model, tries it on the engines, runs `init` of the functions that may see it, and makes it live. `engine` is
    /// used where it is given, whatever the model's `model.toml` says. `sha256` is what the bytes must have, in lower-case
    /// hexadecimal.
    ///
    /// Errors: those of `source`; `invalid-argument` where the bytes have another digest or the model is wrong, `unsupported`
    /// where no engine runs it, `conflict` where `init` of a function fails with it, `overloaded`, `storage-full`.
    pub async fn put_model(
        &self,
        tenant: &str,
        name: &str,
        source: ModelSource<impl Stream<Item = Result<Bytes>> + Send>,
        engine: Option<EngineChoice>,
        sha256: Option<String>,
    ) -> Result<ModelPut> {
        let (upload, whole) = self.store(tenant, source, sha256).await?;
        let (signature, checked) = self.0.models.inspect(&upload.package, &upload.digest, engine).await?;
        let model = Resolved {
            name: name.to_owned(),
            version: 0,
            digest: upload.digest.clone(),
            package: upload.package.clone(),
            signature: signature.clone(),
            checked: checked.clone(),
        };
        let (of, digest) = (tenant.to_owned(), upload.digest.clone());
        let put = self.change(async move |this| {
            this.init_dependents(&of, Changed { selector: &model.name, model: &model }).await?;
            let Resolved { name, signature, checked, .. } = &model;
            let put = this.0.catalog.put_model(&of, name, &upload, &json!(signature), checked).await?;
            this.renew_dependents(&of, &model.name);
            if let Some(whole) = whole {
                whole.remove().await;
            }
            Ok(put)
        });
        let put = put.await?;
        tracing::info!(tenant, name, version = put.version, "model {}", if put.created { "added" } else { "is live" });
        Ok(ModelPut {
            name: name.to_owned(),
            version: put.version,
            digest,
            signature,
            runs_on: self.0.models.engine_of(&checked).ok(),
            engine: checked.engine,
            engines: checked.engines,
            created: put.created,
        })
    }

    /// Stores the files of a model. An upload in parts stays until it is removed.
    async fn store(
        &self,
        tenant: &str,
        source: ModelSource<impl Stream<Item = Result<Bytes>> + Send>,
        sha256: Option<String>,
    ) -> Result<(ModelUpload, Option<WholeUpload>)> {
        let mut hasher = sha256.as_ref().map(|_| Sha256::new());
        let mut writer = self.0.catalog.begin_model();
        let id = match source {
            ModelSource::Parts(parts) => {
                let mut parts = pin!(parts);
                while let Some(part) = parts.next().await {
                    let part = part?;
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&part);
                    }
                    writer.write(&part).await?;
                }
                compare(sha256, hasher)?;
                return Ok((writer.finish().await?, None));
            }
            ModelSource::Upload(id) => id,
        };
        let mut whole = self.uploads().whole(tenant, &id, hasher).await?;
        while let Some(part) = whole.next().await? {
            writer.write(part).await?;
        }
        if let Err(error) = compare(sha256, whole.take_hasher()) {
            whole.remove().await;
            return Err(error);
        }
        Ok((writer.finish().await?, Some(whole)))
    }

    /// The models of a tenant.
    ///
    /// Errors: those of the catalog.
    pub async fn models(&self, tenant: &str) -> Result<ModelList> {
        let (states, staged) = self.model_states().await?;
        let item = |summary: ModelSummary| {
            let runs_on = self.0.models.engine_of(&summary.checked).ok();
            let state = states.iter().find(|state| state.digest == summary.digest && Some(state.engine) == runs_on);
            let Pin { pinned, priority } = self.0.models.pin(&summary.digest);
            ModelItem {
                state: state.map_or_else(|| staged.unloaded(&summary.digest, runs_on), |state| state.state),
                reason: state.map_or("not opened yet", |state| state.reason.as_str()).to_owned(),
                pinned,
                priority,
                runs_on,
                summary,
            }
        };
        Ok(ModelList { models: self.0.catalog.models(tenant).await?.into_iter().map(item).collect() })
    }

    /// One model.
    ///
    /// Errors: `not-found`.
    pub async fn model(&self, tenant: &str, name: &str) -> Result<ModelDetail> {
        self.0.catalog.model(tenant, name).await
    }

    /// The versions of a model.
    ///
    /// Errors: `not-found`.
    pub async fn model_versions(&self, tenant: &str, name: &str) -> Result<ModelVersions> {
        Ok(ModelVersions { versions: self.0.catalog.model(tenant, name).await?.versions })
    }

    /// Deletes a model with all its versions. Runs that have begun end undisturbed.
    ///
    /// Errors: `not-found`.
    pub async fn delete_model(&self, tenant: &str, name: &str) -> Result<()> {
        let versions = self.0.catalog.model(tenant, name).await?.versions;
        let (tenant, name) = (tenant.to_owned(), name.to_owned());
        self.change(async move |this| {
            this.0.catalog.delete_model(&tenant, &name).await?;
            this.renew_dependents(&tenant, &name);
            for version in versions {
                this.forget_model(&version.digest).await;
            }
            Ok(())
        })
        .await
    }

    /// Unloads a model of which a version was deleted, unless another name still means the same bytes.
    async fn forget_model(&self, digest: &str) {
        let elsewhere = self.0.catalog.has_model(digest).await.unwrap_or_else(|error| {
            let what = "the prepared form of a deleted model stays until the next start";
            tracing::warn!(digest, "{what}: {}", error.chain());
            true
        });
        if let Err(error) = self.apply_pin(digest).await {
            tracing::warn!("which other models pin the bytes of a deleted one is not known: {}", error.chain());
        }
        if !elsewhere {
            self.0.models.forget(digest).await;
        }
    }

    /// Lets an alias of a model mean a version, after `init` of the functions that may see it ran with that.
    ///
    /// Errors: `not-found`; `invalid-argument` for the alias; `conflict` where `init` of a function fails with it.
    pub async fn set_model_alias(&self, tenant: &str, name: &str, alias: &str, version: u64) -> Result<()> {
        let to = Selector { name: name.to_owned(), at: At::Version(version) };
        let model = self.0.catalog.resolve_model(tenant, &to).await?;
        let (tenant, alias) = (tenant.to_owned(), alias.to_owned());
        self.change(async move |this| {
            let selector = format!("{}@{alias}", model.name);
            this.init_dependents(&tenant, Changed { selector: &selector, model: &model }).await?;
            this.0.catalog.set_model_alias(&tenant, &model.name, &alias, version).await?;
            this.renew_dependents(&tenant, &model.name);
            Ok(())
        })
        .await
    }

    /// Removes an alias of a model.
    ///
    /// Errors: `not-found`.
    pub async fn delete_model_alias(&self, tenant: &str, name: &str, alias: &str) -> Result<()> {
        let (tenant, name, alias) = (tenant.to_owned(), name.to_owned(), alias.to_owned());
        self.change(async move |this| {
            this.0.catalog.delete_model_alias(&tenant, &name, &alias).await?;
            this.renew_dependents(&tenant, &name);
            Ok(())
        })
        .await
    }

    /// Loads the model that `name[@version|@alias]` means.
    ///
    /// Errors: `not-found`; `unavailable` where it cannot be loaded; `overloaded` where the device has no room.
    pub async fn load(&self, tenant: &str, selector: &str) -> Result<ModelLoaded> {
        let lease = self.0.models.open(tenant, selector).await?;
        Ok(ModelLoaded { name: selector.to_owned(), version: lease.version(), state: Residency::Resident })
    }

    /// Sets the pin of the version that `name[@version|@alias]` means now, until it is set otherwise, unloaded or deleted; and
    /// loads the model where it is pinned.
    ///
    /// Errors: those of [`Deployments::load`].
    pub async fn pin(&self, tenant: &str, selector: &str, pin: Pin) -> Result<ModelPinned> {
        let found = self.0.catalog.resolve_model(tenant, &Selector::parse(selector, self.limits())?).await?;
        // Held until the pin is set, so that it stays.
        let lease = match pin.pinned {
            true => Some(self.0.models.open(tenant, &format!("{}@{}", found.name, found.version)).await?),
            false => None,
        };
        self.set_pin(tenant, &found, pin).await?;
        drop(lease);
        let (states, _) = self.model_states().await?;
        let state = states.iter().filter(|state| state.digest == found.digest).map(|state| state.state);
        let state = state.max_by_key(|state| *state == Residency::Resident).unwrap_or(Residency::Stored);
        let Pin { pinned, priority } = pin;
        Ok(ModelPinned { name: selector.to_owned(), version: found.version, state, pinned, priority })
    }

    /// Removes the pin of the version that `name[@version|@alias]` means now, and unloads the model, unless another name or
    /// tenant pins the same bytes: one copy serves all of them.
    ///
    /// Errors: `not-found`.
    pub async fn unload(&self, tenant: &str, selector: &str) -> Result<ModelUnloaded> {
        let found = self.0.catalog.resolve_model(tenant, &Selector::parse(selector, self.limits())?).await?;
        self.set_pin(tenant, &found, Pin::default()).await?;
        let pinned = self.0.models.pin(&found.digest).pinned;
        let unloaded = !pinned && self.0.models.unload(&found.digest).await;
        Ok(ModelUnloaded { name: selector.to_owned(), version: found.version, unloaded, pinned })
    }

    async fn set_pin(&self, tenant: &str, model: &Arc<Resolved>, pin: Pin) -> Result<()> {
        let (tenant, model) = (tenant.to_owned(), model.clone());
        self.change(async move |this| {
            this.0.catalog.set_pin(&tenant, &model.name, model.version, pin).await?;
            this.apply_pin(&model.digest).await
        })
        .await
    }

    /// Applies what all names of a digest together ask for now.
    async fn apply_pin(&self, digest: &str) -> Result<()> {
        let _applying = self.0.applying_pins.lock().await;
        self.0.models.keep(digest, self.0.catalog.pin_of(digest).await?);
        Ok(())
    }

    /// Where models are. Looks at files, on a thread that may wait for the disk.
    pub(super) async fn model_states(&self) -> Result<(Vec<ModelState>, Staged)> {
        let models = self.0.models.clone();
        let states = tokio::task::spawn_blocking(move || models.states_and_staged());
        states.await.map_err(|error| Error::host("asking where models are", error))
    }
}

fn compare(wanted: Option<String>, hasher: Option<Sha256>) -> Result<()> {
    let (Some(wanted), Some(hasher)) = (wanted, hasher) else { return Ok(()) };
    let found = hex::encode(hasher.finalize());
    if found == wanted {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "the SHA-256 of what came is {found}, and was said to be {wanted}: it was damaged on the way; send it again"
    )))
}

/// Removes prepared forms that no model has: of one deleted just before the process ended, or loaded while it was deleted.
pub(super) async fn remove_leftovers(catalog: &Catalog, models: &Models) -> Result<()> {
    for digest in models.prepared()? {
        if !catalog.has_model(&digest).await? {
            models.forget(&digest).await;
        }
    }
    Ok(())
}

/// Applies every pin in the catalog.
pub(super) async fn apply_all_pins(catalog: &Catalog, models: &Models) -> Result<Vec<PinnedModel>> {
    let pins = catalog.pins().await?;
    for PinnedModel { digest, pin, .. } in &pins {
        models.keep(digest, *pin);
    }
    Ok(pins)
}

/// Loads the models that are pinned, one after the other, those of the highest priority first. A failure goes to the log, and
/// the model stays pinned: the next open tries again.
pub(super) async fn load_pinned(models: Arc<Models>, pins: Vec<PinnedModel>) {
    for PinnedModel { tenant, name, version, pin, .. } in pins.into_iter().filter(|model| model.pin.pinned) {
        if let Err(error) = models.open(&tenant, &format!("{name}@{version}")).await {
            tracing::warn!(tenant, name, version, pin.priority, "a pinned model is not loaded: {}", error.chain());
        }
    }
}
