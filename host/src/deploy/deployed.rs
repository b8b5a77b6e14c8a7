//! Versions of functions that are in use: compiled code, grants, limits and log of each, kept ready for invocations. All of it
//! follows from the catalog; nothing is only here but logs and counts.

use super::Deployments;
use super::function_log::FunctionLog;
use super::metrics::FunctionMetrics;
use crate::catalog::{FunctionVersion, Selector, Settings, check_grants};
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::gate::{Full, Gate, Pass};
use crate::interface::{Grant, GrantNames};
use crate::sandbox::Function;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One version of a function, ready to be called.
pub struct Deployed {
    pub(super) tenant: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    /// What the catalog knows of it.
    pub(super) found: Arc<FunctionVersion>,
    pub(super) function: Arc<Function>,
    pub(super) grant: Arc<Grant>,
    /// The server's limits, with those that the function's settings lower.
    pub(super) limits: Arc<Limits>,
    pub(super) log: Arc<FunctionLog>,
    pub(super) metrics: FunctionMetrics,
    /// [`Models::departures`](crate::model::Models::departures) when its models were fetched last.
    fetched: AtomicU64,
    /// Why it cannot run: a grant that is missing, a secret that cannot be read.
    refusal: Option<String>,
    /// Its own gate, which all its versions share.
    gate: Gate,
}

impl Deployed {
    /// The number of this version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The limits of its invocations: the server's, some of them perhaps lowered.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the function has what it needs to run.
    ///
    /// Errors: `conflict` that says what to set.
    pub(super) fn check(&self) -> Result<()> {
        self.refusal.as_ref().map_or(Ok(()), |refusal| Err(Error::conflict(refusal.clone())))
    }

    /// The function's own leave to run one more invocation at once.
    ///
    /// Errors: `overloaded` when too many wait for it already.
    pub(super) async fn enter(&self) -> Result<Pass> {
        let full = |Full { most, waiting }| {
            Error::overloaded(format!(
                "{most} invocations of '{}' run and {waiting} wait already (function_concurrency, function_queue); try again \
                 later",
                self.name
            ))
        };
        self.gate.enter(self.limits.function_queue).await.map_err(full)
    }
}

/// Versions of one function that are kept ready. Usually one or two are called: the live one and an alias's.
const VERSIONS_IN_USE: usize = 8;

/// A tenant and a function's name.
type Key = (String, String);
type Versions = HashMap<u64, Arc<Deployed>>;

/// The versions that were called so far, by tenant, then name: a look-up allocates nothing. Version numbers are never used
/// twice.
pub(super) struct DeployedFunctions {
    ready: RwLock<Ready>,
    logs: Mutex<HashMap<Key, Arc<FunctionLog>>>,
    /// Bytes of each of these.
    log_bytes: u64,
    gates: Mutex<HashMap<Key, Gate>>,
}

#[derive(Default)]
struct Ready {
    /// Counts changes of settings, so that what was read before a change is not kept after it.
    generation: u64,
    by_tenant: HashMap<String, HashMap<String, Versions>>,
}

impl DeployedFunctions {
    /// None so far, whose logs will keep `log_bytes` bytes each.
    pub(super) fn new(log_bytes: u64) -> DeployedFunctions {
        DeployedFunctions { ready: RwLock::default(), logs: Mutex::default(), log_bytes, gates: Mutex::default() }
    }

    /// The log of a function; it outlives its versions.
    pub(super) fn log(&self, tenant: &str, name: &str, lines: u64) -> Arc<FunctionLog> {
        let mut logs = self.logs.lock();
        let log = logs.entry((tenant.to_owned(), name.to_owned()));
        log.or_insert_with(|| Arc::new(FunctionLog::new(lines, self.log_bytes))).clone()
    }

    /// The versions in use of a tenant's functions, of those that `wanted` picks.
    pub(super) fn of(&self, tenant: &str, wanted: impl Fn(&Deployed) -> bool) -> Vec<Arc<Deployed>> {
        let ready = self.ready.read();
        let versions =
            ready.by_tenant.get(tenant).into_iter().flat_map(|names| names.values()).flat_map(HashMap::values);
        versions.filter(|deployed| wanted(deployed)).cloned().collect()
    }

    /// Makes what is being deployed right now read again what it depends on.
    pub(super) fn read_again(&self) {
        self.ready.write().generation += 1;
    }

    /// One version of a function, if it is in use.
    pub(super) fn version(&self, tenant: &str, name: &str, version: u64) -> Option<Arc<Deployed>> {
        let ready = self.ready.read();
        ready.by_tenant.get(tenant)?.get(name)?.get(&version).cloned()
    }

    /// Makes the next request of a function find its new settings. Invocations that run keep theirs.
    pub(super) fn renew(&self, tenant: &str, name: &str) {
        let mut ready = self.ready.write();
        ready.generation += 1;
        if let Some(names) = ready.by_tenant.get_mut(tenant) {
            names.remove(name);
        }
    }

    /// Forgets a deleted function.
    pub(super) fn forget(&self, tenant: &str, name: &str) {
        self.renew(tenant, name);
        let key = (tenant.to_owned(), name.to_owned());
        if let Some(log) = self.logs.lock().remove(&key) {
            log.close();
        }
        self.gates.lock().remove(&key);
    }

    /// The gate that all versions of a function share, with as many passes as its settings say now. Passes that are taken
    /// count on, so functions that only the pool bounds have a gate too.
    fn gate(&self, tenant: &str, name: &str, limits: &Limits) -> Gate {
        let most = match limits.function_concurrency {
            most if most >= limits.concurrent_invocations => u64::MAX,
            fewer => fewer,
        };
        let mut gates = self.gates.lock();
        let gate = gates.entry((tenant.to_owned(), name.to_owned())).or_insert_with(|| Gate::new(most));
        gate.resize(most);
        gate.clone()
    }
}

impl Deployments {
    /// The function that `name[@version|@alias]` of a tenant means now.
    pub(super) async fn deployed(&self, tenant: &str, selector: &str) -> Result<Arc<Deployed>> {
        let selector = Selector::parse(selector, &self.0.config.limits)?;
        loop {
            let found = self.0.catalog.resolve_function(tenant, &selector).await?;
            let generation = {
                let ready = self.0.functions.ready.read();
                let versions = ready.by_tenant.get(tenant).and_then(|names| names.get(&selector.name));
                if let Some(deployed) = versions.and_then(|versions| versions.get(&found.version)) {
                    return Ok(deployed.clone());
                }
                ready.generation
            };
            let settings = self.0.catalog.settings(tenant, &found.name).await?;
            let function = self.function_of(&found, &settings).await?;
            let mut ready = self.0.functions.ready.write();
            // Settings that changed since they were read are read again.
            if ready.generation == generation {
                let deployed = Arc::new(self.deploy(found.clone(), function, settings)?);
                let names = ready.by_tenant.entry(tenant.to_owned()).or_default();
                let versions = names.entry(selector.name).or_default();
                versions.insert(found.version, deployed.clone());
                if versions.len() > VERSIONS_IN_USE {
                    // An old one that is called after all is found on disk.
                    let oldest = versions.keys().copied().filter(|version| *version != found.version).min();
                    oldest.and_then(|oldest| versions.remove(&oldest));
                    drop(ready);
                    self.0.runtime.sweep();
                }
                return Ok(deployed);
            }
        }
    }

    /// Begins to load the models that a function may open, all at once, where one may have left since this was done last.
    pub(super) fn fetch_models(&self, deployed: &Deployed) {
        let models = &self.0.runtime.services().models;
        let departures = models.departures();
        if !deployed.grant.models.is_empty() && deployed.fetched.swap(departures, Ordering::Relaxed) != departures {
            models.prefetch(deployed.tenant.clone(), deployed.grant.models.iter().cloned().collect());
        }
    }

    fn deploy(&self, found: Arc<FunctionVersion>, function: Arc<Function>, settings: Settings) -> Result<Deployed> {
        let FunctionVersion { tenant, name, version, .. } = &*found;
        let server = &self.0.runtime.services().limits;
        let requested = requested(&function.manifest, server)?;
        let granted = granted(&self.0.config, &settings, &requested);
        let limits = match settings.limits.is_empty() {
            true => server.clone(),
            false => Arc::new(server.lowered(&settings.limits)),
        };
        Ok(Deployed {
            tenant: tenant.as_str().into(),
            name: name.as_str().into(),
            version: *version,
            function,
            log: self.0.functions.log(tenant, name, server.log_lines),
            metrics: self.0.metrics.function(tenant, name),
            refusal: refusal(tenant, name, &requested.missing_from(&granted), &settings),
            fetched: AtomicU64::new(u64::MAX),
            gate: self.0.functions.gate(tenant, name, &limits),
            grant: Arc::new(grant(granted, settings)),
            limits,
            found,
        })
    }
}

/// What a component asks for.
///
/// Errors: `invalid-argument` and `too-large` where its manifest is wrong.
pub(super) fn requested(manifest: &serde_json::Value, limits: &Limits) -> Result<GrantNames> {
    let requested = GrantNames::of_manifest(manifest)?;
    check_grants("the section hearth:manifest", &requested, limits)?;
    Ok(requested)
}

/// What a function that asks for something is granted here.
pub(super) fn granted(config: &Config, settings: &Settings, requested: &GrantNames) -> GrantNames {
    let mut granted = settings.granted();
    if config.grants_are_automatic() {
        granted.add(requested);
    }
    granted
}

/// The names that are granted, with the values they have.
fn grant(granted: GrantNames, settings: Settings) -> Grant {
    let GrantNames { models, secrets, hosts, .. } = granted;
    let Settings { config, secrets: mut values, .. } = settings;
    let secrets = secrets.into_iter().map(|name| {
        let value = values.remove(&name).flatten();
        (name, value)
    });
    Grant { models, config, secrets: secrets.collect(), hosts }
}

/// Why a function cannot run, where it cannot, and the request that changes it.
fn refusal(tenant: &str, name: &str, missing: &GrantNames, settings: &Settings) -> Option<String> {
    let tenant = if tenant == "default" { String::new() } else { format!("/t/{tenant}") };
    let path = format!("{tenant}/v1/functions/{name}/settings");
    let unreadable = settings.unreadable_secrets();
    if !unreadable.is_empty() {
        let names = unreadable.join(", ");
        return Some(format!(
            "the secrets {names} of function '{name}' cannot be read: they were stored with another node key, or are \
             damaged; set them again with PATCH {path} {{\"secrets\": {{\"{}\": \"…\"}}}}, or remove them with null",
            unreadable[0]
        ));
    }
    if missing.is_empty() {
        return None;
    }
    const SPELLED_OUT: usize = 20;
    let body = match missing.count() {
        ..=SPELLED_OUT => serde_json::json!({ "grants": missing }).to_string(),
        _ => "{\"grants\": …} and the missing_grants that GET shows there".to_owned(),
    };
    Some(format!("function '{name}' asks for what it was not granted: {missing}; grant it with PATCH {path} {body}"))
}
