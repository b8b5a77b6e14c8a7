//! Functions as requests find them: a version with its compiled code, grants, limits and log; never a truth of its own,
//! which is the catalog's.

use super::App;
use super::metrics::FunctionMetrics;
use crate::catalog::{FunctionVersion, Selector, Settings, check_grants};
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::interface::{Grant, GrantNames, LogLine};
use crate::sandbox::{Function, Places, Slot};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// One version of a function, ready to be called.
pub(super) struct Deployed {
    pub(super) tenant: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    /// What the catalog knows of it.
    pub(super) found: Arc<FunctionVersion>,
    pub(super) function: Arc<Function>,
    pub(super) grant: Arc<Grant>,
    /// The server's, where the function's settings lower none.
    pub(super) limits: Arc<Limits>,
    pub(super) log: Arc<FunctionLog>,
    pub(super) metrics: FunctionMetrics,
    /// Why it cannot run: a grant that is missing, a secret that cannot be read.
    refusal: Option<String>,
    /// Its own places, where they are fewer than the pool's.
    places: Option<Arc<Places>>,
}

impl Deployed {
    /// Whether the function has what it needs to run.
    ///
    /// Errors: `conflict` that says what to set.
    pub(super) fn check(&self) -> Result<()> {
        self.refusal.as_ref().map_or(Ok(()), |refusal| Err(Error::conflict(refusal.clone())))
    }

    /// The function's own leave to run one more invocation at once.
    ///
    /// Errors: `overloaded` when too many wait for it already.
    pub(super) async fn turn(&self) -> Result<Option<Slot>> {
        let Some(places) = &self.places else { return Ok(None) };
        let full = |waiting| {
            Error::overloaded(format!(
                "{} invocations of '{}' run and {waiting} wait already (function_concurrency, function_queue); try again \
                 later",
                places.all(),
                self.name
            ))
        };
        places.take(self.limits.function_queue, full).await.map(Some)
    }
}

/// Versions of one function that are kept ready. Usually one or two are called: the live one and an alias's.
const VERSIONS_IN_USE: usize = 8;

/// A tenant and a function's name.
type Key = (String, String);
type Versions = HashMap<u64, Arc<Deployed>>;

/// The versions that were called so far, by tenant, then name: a look-up allocates nothing. Version numbers are never used
/// twice.
#[derive(Default)]
pub(super) struct DeployedFunctions {
    ready: RwLock<Ready>,
    logs: Mutex<HashMap<Key, Arc<FunctionLog>>>,
    /// The places of functions that have fewer than the pool, as they were counted last.
    places: Mutex<HashMap<Key, Arc<Places>>>,
}

#[derive(Default)]
struct Ready {
    /// Counts changes of settings, so that what was read before a change is not kept after it.
    generation: u64,
    by_tenant: HashMap<String, HashMap<String, Versions>>,
}

impl DeployedFunctions {
    /// The log of a function; it outlives its versions.
    pub(super) fn log(&self, tenant: &str, name: &str, lines: u64) -> Arc<FunctionLog> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = logs.entry((tenant.to_owned(), name.to_owned()));
        log.or_insert_with(|| Arc::new(FunctionLog::new(lines))).clone()
    }

    /// The versions in use of a tenant's functions, of those that `wanted` picks.
    pub(super) fn of(&self, tenant: &str, wanted: impl Fn(&Deployed) -> bool) -> Vec<Arc<Deployed>> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        let versions =
            ready.by_tenant.get(tenant).into_iter().flat_map(|names| names.values()).flat_map(HashMap::values);
        versions.filter(|deployed| wanted(deployed)).cloned().collect()
    }

    /// Makes what is being deployed right now read again what it depends on.
    pub(super) fn read_again(&self) {
        self.ready.write().unwrap_or_else(PoisonError::into_inner).generation += 1;
    }

    /// One version of a function, if it is in use.
    pub(super) fn version(&self, tenant: &str, name: &str, version: u64) -> Option<Arc<Deployed>> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.by_tenant.get(tenant)?.get(name)?.get(&version).cloned()
    }

    /// Makes the next request of a function find its new settings. Invocations that run keep theirs.
    pub(super) fn renew(&self, tenant: &str, name: &str) {
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        ready.generation += 1;
        if let Some(names) = ready.by_tenant.get_mut(tenant) {
            names.remove(name);
        }
    }

    /// Forgets a deleted function.
    pub(super) fn forget(&self, tenant: &str, name: &str) {
        self.renew(tenant, name);
        let key = (tenant.to_owned(), name.to_owned());
        if let Some(log) = self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(&key) {
            log.close();
        }
        self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// The places that all versions of a function share; new ones where their number changed.
    fn places(&self, tenant: &str, name: &str, limits: &Limits) -> Option<Arc<Places>> {
        let most = limits.function_concurrency;
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.to_owned(), name.to_owned());
        if most >= limits.concurrent_invocations {
            all.remove(&key);
            return None;
        }
        let places = all.entry(key).or_insert_with(|| Arc::new(Places::new(most)));
        if places.all() != most {
            *places = Arc::new(Places::new(most));
        }
        Some(places.clone())
    }
}

impl App {
    /// The function that `name[@version|@alias]` of a tenant means now.
    pub(super) async fn deployed(&self, tenant: &str, selector: &str) -> Result<Arc<Deployed>> {
        let selector = Selector::parse(selector, &self.config.limits)?;
        loop {
            let found = self.catalog.resolve_function(tenant, &selector).await?;
            let generation = {
                let ready = self.deployed.ready.read().unwrap_or_else(PoisonError::into_inner);
                let versions = ready.by_tenant.get(tenant).and_then(|names| names.get(&selector.name));
                if let Some(deployed) = versions.and_then(|versions| versions.get(&found.version)) {
                    return Ok(deployed.clone());
                }
                ready.generation
            };
            let settings = self.catalog.settings(tenant, &found.name).await?;
            let function = self.function_of(&found, &settings).await?;
            let mut ready = self.deployed.ready.write().unwrap_or_else(PoisonError::into_inner);
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
                    self.runtime.sweep();
                }
                return Ok(deployed);
            }
        }
    }

    fn deploy(&self, found: Arc<FunctionVersion>, function: Arc<Function>, settings: Settings) -> Result<Deployed> {
        let FunctionVersion { tenant, name, version, .. } = &*found;
        let server = &self.runtime.services().limits;
        let requested = requested(&function.manifest, server)?;
        let granted = granted(&self.config, &settings, &requested);
        let limits = match settings.limits.is_empty() {
            true => server.clone(),
            false => Arc::new(server.lowered(&settings.limits)),
        };
        Ok(Deployed {
            tenant: tenant.as_str().into(),
            name: name.as_str().into(),
            version: *version,
            function,
            log: self.deployed.log(tenant, name, server.log_lines),
            metrics: self.metrics.function(tenant, name),
            refusal: refusal(tenant, name, &requested.missing_from(&granted), &settings),
            places: self.deployed.places(tenant, name, &limits),
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

/// The newest log lines of a function, numbered from 0 since the server started.
pub(super) struct FunctionLog {
    kept: Mutex<Kept>,
    most: usize,
    changed: Notify,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<serde_json::Value>,
    /// The number of the oldest line kept.
    first: u64,
    /// The function was deleted.
    closed: bool,
}

/// Lines of a log from some number on.
pub(super) struct LogPart {
    pub(super) lines: Vec<serde_json::Value>,
    /// Lines that came before these and are kept no longer.
    pub(super) missed: u64,
    /// The number of the line that will follow.
    pub(super) next: u64,
    /// No line will follow.
    pub(super) closed: bool,
}

impl FunctionLog {
    pub(super) fn new(most: u64) -> FunctionLog {
        FunctionLog { kept: Mutex::default(), most: most as usize, changed: Notify::new() }
    }

    /// Adds what one invocation logged.
    pub(super) fn extend(&self, request_id: &str, version: u64, lines: Vec<LogLine>, dropped: u64) {
        let millis = |at: SystemTime| at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let entry = |line: LogLine| {
            let fields: serde_json::Map<_, _> = line.fields.into_iter().map(|(k, v)| (k, v.into())).collect();
            serde_json::json!({
                "at_ms": millis(line.at), "level": line.level.as_str(), "message": line.message, "fields": fields,
                "request_id": request_id, "version": version,
            })
        };
        let mut entries: Vec<_> = lines.into_iter().map(entry).collect();
        if dropped > 0 {
            let message = format!("{dropped} lines were dropped: log_bytes was reached");
            entries.push(serde_json::json!({
                "at_ms": millis(SystemTime::now()), "level": "warn", "message": message, "fields": {},
                "request_id": request_id, "version": version,
            }));
        }
        let mut kept = self.kept();
        kept.lines.extend(entries);
        let surplus = kept.lines.len().saturating_sub(self.most);
        kept.lines.drain(..surplus);
        kept.first += surplus as u64;
        drop(kept);
        self.changed.notify_waiters();
    }

    /// The newest lines kept, at most `most`, oldest first.
    pub(super) fn newest(&self, most: u64) -> LogPart {
        let kept = self.kept();
        let from = kept.lines.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        kept.part(from, usize::MAX, 0)
    }

    /// At most `most` lines from the one of a number on.
    pub(super) fn after(&self, next: u64, most: usize) -> LogPart {
        let kept = self.kept();
        let from = usize::try_from(next.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        kept.part(from, most, kept.first.saturating_sub(next))
    }

    /// Ready when lines came, or the end, after this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Tells followers that the function is gone.
    pub(super) fn close(&self) {
        self.kept().closed = true;
        self.changed.notify_waiters();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn part(&self, from: usize, most: usize, missed: u64) -> LogPart {
        let from = from.min(self.lines.len());
        let to = from.saturating_add(most).min(self.lines.len());
        let lines = self.lines.range(from..to).cloned().collect();
        LogPart { lines, missed, next: self.first + to as u64, closed: self.closed && to == self.lines.len() }
    }
}
