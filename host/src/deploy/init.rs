//! When `init` of a function runs: before the function is live, when its settings change, and before a model that `init` may
//! see changes its version. How it runs is the sandbox's.

use super::Deployments;
use super::deployed::{Deployed, granted, requested};
use crate::catalog::{FunctionVersion, Selector, Settings};
use crate::error::{Error, Kind, Result};
use crate::interface::{GrantNames, LogLine};
use crate::model::{Blobs, Resolved};
use crate::sandbox::{Function, InitInputs, Lifetime};
use parking_lot::Mutex;
use std::sync::Arc;

/// A model that is about to mean another version: the selector that will, and what it will mean.
pub(super) struct Changed<'a> {
    pub(super) selector: &'a str,
    pub(super) model: &'a Resolved,
}

impl Deployments {
    /// The function of a version. Where it has `init` and every grant, `init` ran with its settings.
    ///
    /// Errors: those of compiling; `handler-failed` where init fails.
    pub(super) async fn function_of(&self, found: &FunctionVersion, settings: &Settings) -> Result<Arc<Function>> {
        let plain =
            self.0.runtime.function(&found.digest, self.0.catalog.path(&found.digest), Lifetime::Detached).await?;
        let log = self.init_log(&found.tenant, &found.name, found.version);
        self.initialised(found, plain, settings, None, Lifetime::Detached, log).await.map_err(|error| {
            match error.kind() {
                // The caller of the function can change nothing about it.
                Kind::InvalidArgument | Kind::TooLarge => Error::handler_failed(error.message()),
                _ => error,
            }
        })
    }

    /// Runs `init` of what was uploaded before it is live, so that one that fails refuses the upload; and gives what it
    /// logged.
    ///
    /// Errors: those of init.
    pub(super) async fn init_of_upload(
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
            // It has none before it is live, and `init` does not see it.
            version: 0,
            digest: digest.to_owned(),
            bytes: 0,
            world: function.world().to_owned(),
            manifest: function.manifest.clone(),
        };
        let logged = Arc::new(Mutex::new(Vec::new()));
        let log = {
            let logged = logged.clone();
            move |lines| *logged.lock() = lines
        };
        let initialised = self.initialised(&found, function.clone(), &settings, None, Lifetime::Attached, log).await?;
        let lines = std::mem::take(&mut *logged.lock());
        Ok((initialised, lines))
    }

    /// Runs `init` of versions with their new settings, which count already. A failure is logged here, and told to the next
    /// call.
    pub(super) async fn init_for_settings(&self, versions: Vec<Arc<Deployed>>, settings: &Settings) {
        for deployed in versions {
            let (found, function) = (&deployed.found, deployed.function.clone());
            let log = self.init_log(&found.tenant, &found.name, found.version);
            if let Err(error) = self.initialised(found, function, settings, None, Lifetime::Detached, log).await {
                let (tenant, name, version) = (&deployed.tenant, &deployed.name, deployed.version);
                tracing::warn!(%tenant, %name, version, "init fails with the new settings: {}", error.message());
            }
        }
    }

    /// Runs `init` of every function in use that may see a model which is about to mean another version.
    ///
    /// Errors: `conflict` naming a function whose init fails with it.
    pub(super) async fn init_dependents(&self, tenant: &str, changed: Changed<'_>) -> Result<()> {
        for deployed in self.dependents(tenant, changed.selector) {
            let settings = self.0.catalog.settings(tenant, &deployed.name).await?;
            let function = deployed.function.clone();
            let log = self.init_log(&deployed.tenant, &deployed.name, deployed.version);
            let initialised =
                self.initialised(&deployed.found, function, &settings, Some(&changed), Lifetime::Detached, log);
            initialised.await.map_err(|error| {
                let message = format!(
                    "init of function '{}' fails with model '{}' as it would be: {}; nothing was changed",
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
        // One whose `init` runs for the first time is not in use yet.
        self.0.functions.read_again();
    }

    fn dependents(&self, tenant: &str, selector: &str) -> Vec<Arc<Deployed>> {
        let uses = |function: &Deployed| function.function.has_init() && function.grant.models.contains(selector);
        self.0.functions.of(tenant, uses)
    }

    async fn initialised(
        &self,
        found: &FunctionVersion,
        function: Arc<Function>,
        settings: &Settings,
        changed: Option<&Changed<'_>>,
        lifetime: Lifetime,
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
        let inputs = self.init_inputs(found, &granted, settings, changed).await?;
        let path = self.0.catalog.path(&found.digest);
        self.0.runtime.initialised(&found.digest, path, inputs, lifetime, log).await
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

    async fn init_inputs(
        &self,
        found: &FunctionVersion,
        granted: &GrantNames,
        settings: &Settings,
        changed: Option<&Changed<'_>>,
    ) -> Result<InitInputs> {
        let mut inputs = InitInputs {
            tenant: found.tenant.clone(),
            function: found.name.clone(),
            config: settings.config.clone(),
            limits: settings.limits.clone(),
            ..InitInputs::default()
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
            inputs.models.insert(name.clone(), model);
        }
        Ok(inputs)
    }
}
