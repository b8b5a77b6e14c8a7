//! Functions as requests find them: a version with its compiled code, its grants and its log; never a truth of its own,
//! which is the catalog's.

use super::App;
use crate::catalog::Selector;
use crate::error::Result;
use crate::interface::{Grant, LogLine};
use crate::model::Blobs;
use crate::sandbox::Function;
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
        let key = (tenant.to_owned(), name.to_owned());
        if let Some(log) = self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(&key) {
            log.close();
        }
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
