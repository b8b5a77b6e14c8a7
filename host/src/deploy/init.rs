//! When `init` of a function runs: before the function is live, when its settings change, and before a model that `init` may
//! see changes its version. How it runs is the sandbox's.

use super::Deployments;
use super::deployed::{Deployed, granted, requested};
use crate::catalog::{FunctionVersion, Selector, Settings};
use crate::error::{Error, Kind, Result};
use crate::interface::{GrantNames, LogLine};
use crate::model::{Blobs, Resolved};
use crate::sandbox::{Function, Making, Preparation};
use std::sync::{Arc, Mutex, PoisonError};

/// A model that is about to mean another version: the selector that will, and what it will mean.
pub(super) struct Changed<'a> {
    pub(super) selector: &'a str,
    pub(super) model: &'a Resolved,
}

impl Deployments {
    /// The function of a version, prepared under its settings where it has `init` and every grant.
    ///
    /// Errors: those of compiling; `handler-failed` where init fails.
    pub(super) async fn function_of(&self, found: &FunctionVersion, settings: &Settings) -> Result<Arc<Function>> {
        let plain =
            self.0.runtime.function(&found.digest, self.0.catalog.path(&found.digest), Making::ToTheEnd).await?;
        let log = self.init_log(&found.tenant, &found.name, found.version);
        self.prepared(found, plain, settings, None, Making::ToTheEnd, log).await.map_err(|error| match error.kind() {
            // Whoever calls the function can change nothing about it.
            Kind::InvalidArgument | Kind::TooLarge => Error::handler_failed(error.message()),
            _ => error,
        })
    }

    /// Prepares what was uploaded before it is live, so that an `init` that fails refuses the upload; and gives what init
    /// logged.
    ///
    /// Errors: those of init.
    pub(super) async fn prepare_upload(
        &self,
        tenant: &str,
        name: &str,
        digest: &str,
        function: &Arc<Function>,
    ) -> Result<(Arc<Function>, Vec<LogLine>)> {
        let settings = match self.0.catalog.settings(tenant, name).await {
            Err(error) if error.kind() == Kind::NotFound => Settings::default(),
            settings => settings?,
        };
        let found = FunctionVersion {
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            // It has none before it is live, and preparing looks at none.
            version: 0,
            digest: digest.to_owned(),
            bytes: 0,
            world: function.world().to_owned(),
            manifest: function.manifest.clone(),
        };
        let logged = Arc::new(Mutex::new(Vec::new()));
        let log = {
            let logged = logged.clone();
            move |lines| *logged.lock().unwrap_or_else(PoisonError::into_inner) = lines
        };
        let prepared = self.prepared(&found, function.clone(), &settings, None, Making::WhileAwaited, log).await?;
        let lines = std::mem::take(&mut *logged.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((prepared, lines))
    }

    /// Prepares versions of a function for its new settings, which count already. A failure is told to whoever calls the
    /// function, and logged here.
    pub(super) async fn prepare_for_settings(&self, versions: Vec<Arc<Deployed>>, settings: &Settings) {
        for deployed in versions {
            let (found, function) = (&deployed.found, deployed.function.clone());
            let log = self.init_log(&found.tenant, &found.name, found.version);
            if let Err(error) = self.prepared(found, function, settings, None, Making::ToTheEnd, log).await {
                let (tenant, name, version) = (&deployed.tenant, &deployed.name, deployed.version);
                tracing::warn!(%tenant, %name, version, "cannot be prepared: {}", error.message());
            }
        }
    }

    /// Prepares every function in use whose `init` may see a model that is about to mean another version.
    ///
    /// Errors: `conflict` naming a function whose init fails with it.
    pub(super) async fn prepare_dependents(&self, tenant: &str, changed: Changed<'_>) -> Result<()> {
        for deployed in self.dependents(tenant, changed.selector) {
            let settings = self.0.catalog.settings(tenant, &deployed.name).await?;
            let function = deployed.function.clone();
            let log = self.init_log(&deployed.tenant, &deployed.name, deployed.version);
            let prepared = self.prepared(&deployed.found, function, &settings, Some(&changed), Making::ToTheEnd, log);
            prepared.await.map_err(|error| {
                let message = format!(
                    "function '{}' cannot be prepared with model '{}' as it would be: {}; nothing was changed",
                    deployed.name,
                    changed.selector,
                    error.message()
                );
                Error::conflict(message)
            })?;
        }
        Ok(())
    }

    /// Makes the functions whose `init` may see a model find out what it means now.
    pub(super) fn renew_dependents(&self, tenant: &str, model: &str) {
        let of_model = |selector: &str| selector.split('@').next() == Some(model);
        let uses = |function: &Deployed| {
            function.function.has_init() && function.grant.models.iter().any(|selector| of_model(selector))
        };
        for deployed in self.0.functions.of(tenant, uses) {
            self.0.functions.renew(tenant, &deployed.name);
        }
        // One that is being prepared for the first time is not in use yet.
        self.0.functions.read_again();
    }

    fn dependents(&self, tenant: &str, selector: &str) -> Vec<Arc<Deployed>> {
        let uses = |function: &Deployed| function.function.has_init() && function.grant.models.contains(selector);
        self.0.functions.of(tenant, uses)
    }

    async fn prepared(
        &self,
        found: &FunctionVersion,
        function: Arc<Function>,
        settings: &Settings,
        changed: Option<&Changed<'_>>,
        how_long: Making,
        log: impl FnOnce(Vec<LogLine>) + Send + 'static,
    ) -> Result<Arc<Function>> {
        if !function.has_init() {
            return Ok(function);
        }
        let requested = requested(&function.manifest, &self.0.config.limits)?;
        let granted = granted(&self.0.config, settings, &requested);
        if !requested.missing_from(&granted).is_empty() {
            // It is not called before the grants are there.
            return Ok(function);
        }
        let preparation = self.preparation(found, &granted, settings, changed).await?;
        let path = self.0.catalog.path(&found.digest);
        self.0.runtime.prepared(&found.digest, path, preparation, how_long, log).await
    }

    /// Keeps what `init` of a version logs.
    pub(super) fn init_log(&self, tenant: &str, name: &str, version: u64) -> impl FnOnce(Vec<LogLine>) + Send + use<> {
        let kept = self.0.functions.log(tenant, name, self.0.config.limits.log_lines);
        move |lines| {
            if !lines.is_empty() {
                kept.extend("init", version, lines, 0);
            }
        }
    }

    async fn preparation(
        &self,
        found: &FunctionVersion,
        granted: &GrantNames,
        settings: &Settings,
        changed: Option<&Changed<'_>>,
    ) -> Result<Preparation> {
        let mut preparation = Preparation {
            tenant: found.tenant.clone(),
            function: found.name.clone(),
            config: settings.config.clone(),
            limits: settings.limits.clone(),
            ..Preparation::default()
        };
        for name in &granted.models {
            let model = match changed.filter(|changed| changed.selector == name) {
                Some(changed) => changed.model.clone(),
                None => {
                    let Ok(selector) = Selector::parse(name, &self.0.config.limits) else { continue };
                    match self.0.catalog.resolve_model(&found.tenant, &selector).await {
                        Ok(model) => Resolved::clone(&model),
                        // Init may do without it; if it asks, it hears that there is none.
                        Err(error) if error.kind() == Kind::NotFound => continue,
                        Err(error) => return Err(error),
                    }
                }
            };
            preparation.models.insert(name.clone(), model);
        }
        Ok(preparation)
    }
}
