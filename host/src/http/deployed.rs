//! Functions as requests find them: a version with its compiled code, its grants and its log; never a truth of its own,
//! which is the catalog's.

use super::App;
use crate::catalog::Selector;
use crate::error::Result;
use crate::interface::{Grant, LogLine};
use crate::model::Blobs;
use crate::sandbox::Function;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// One version of a function, ready to be called.
pub(super) struct Deployed {
    pub(super) tenant: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    pub(super) function: Arc<Function>,
    pub(super) grant: Arc<Grant>,
    pub(super) log: Arc<FunctionLog>,
}

/// A tenant and a function's name.
type Key = (String, String);
type Versions = HashMap<u64, Arc<Deployed>>;

/// The versions that were called so far, by tenant, then name: a look-up allocates nothing. Version numbers are never used
/// twice.
#[derive(Default)]
pub(super) struct DeployedFunctions {
    ready: RwLock<HashMap<String, HashMap<String, Versions>>>,
    logs: Mutex<HashMap<Key, Arc<FunctionLog>>>,
}

impl DeployedFunctions {
    /// The log of a function; it outlives its versions.
    pub(super) fn log(&self, tenant: &str, name: &str, lines: u64) -> Arc<FunctionLog> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = logs.entry((tenant.to_owned(), name.to_owned()));
        log.or_insert_with(|| Arc::new(FunctionLog::new(lines))).clone()
    }

    /// Forgets a deleted function.
    pub(super) fn forget(&self, tenant: &str, name: &str) {
        if let Some(names) = self.ready.write().unwrap_or_else(PoisonError::into_inner).get_mut(tenant) {
            names.remove(name);
        }
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(&(tenant.to_owned(), name.to_owned()));
    }
}

impl App {
    /// The function that `name[@version|@alias]` of a tenant means now.
    pub(super) async fn deployed(&self, tenant: &str, selector: &str) -> Result<Arc<Deployed>> {
        let selector = Selector::parse(selector, &self.config.limits)?;
        let found = self.catalog.resolve_function(tenant, &selector).await?;
        {
            let ready = self.deployed.ready.read().unwrap_or_else(PoisonError::into_inner);
            let versions = ready.get(tenant).and_then(|names| names.get(&selector.name));
            if let Some(deployed) = versions.and_then(|versions| versions.get(&found.version)) {
                return Ok(deployed.clone());
            }
        }
        let function = self.runtime.function(&found.digest, self.catalog.path(&found.digest)).await?;
        let deployed = Arc::new(Deployed {
            log: self.deployed.log(tenant, &found.name, self.config.limits.log_lines),
            tenant: tenant.into(),
            name: found.name.as_str().into(),
            version: found.version,
            function,
            grant: Arc::default(),
        });
        let mut ready = self.deployed.ready.write().unwrap_or_else(PoisonError::into_inner);
        let names = ready.entry(tenant.to_owned()).or_default();
        names.entry(selector.name).or_default().insert(found.version, deployed.clone());
        Ok(deployed)
    }
}

/// The newest log lines of a function.
pub(super) struct FunctionLog {
    lines: Mutex<VecDeque<serde_json::Value>>,
    most: usize,
}

impl FunctionLog {
    fn new(most: u64) -> FunctionLog {
        FunctionLog { lines: Mutex::default(), most: most as usize }
    }

    /// Adds what one invocation logged.
    pub(super) fn extend(&self, request_id: &str, version: u64, lines: Vec<LogLine>, dropped: u64) {
        let entry = |line: LogLine| {
            let at = line.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let fields: serde_json::Map<_, _> = line.fields.into_iter().map(|(k, v)| (k, v.into())).collect();
            serde_json::json!({
                "at_ms": at, "level": line.level.as_str(), "message": line.message, "fields": fields,
                "request_id": request_id, "version": version,
            })
        };
        let mut entries: Vec<_> = lines.into_iter().map(entry).collect();
        if dropped > 0 {
            let message = format!("{dropped} lines were dropped: log_bytes was reached");
            entries.push(serde_json::json!({
                "level": "warn", "message": message, "fields": {}, "request_id": request_id, "version": version,
            }));
        }
        let mut kept = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(entries);
        let surplus = kept.len().saturating_sub(self.most);
        kept.drain(..surplus);
    }

    /// The lines kept, oldest first.
    pub(super) fn lines(&self) -> Vec<serde_json::Value> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
