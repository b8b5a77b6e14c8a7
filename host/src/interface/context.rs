//! `context`: the current request and the invocation's log; it never gives anything that was not granted.

use super::bindings::hearth::inference::context;
use super::{Ctx, Fault};
use crate::error::Error;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// How much a log line matters, as `context.log-level`; `Stdout` and `Stderr` are lines that a guest wrote to these streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// For finding faults.
    Debug,
    /// Normal events.
    Info,
    /// Something is wrong, but the request continues.
    Warn,
    /// The request fails.
    Error,
    /// A line on standard output.
    Stdout,
    /// A line on standard error.
    Stderr,
}

impl LogLevel {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One line of an invocation's log.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub at: SystemTime,
    /// How much it matters.
    pub level: LogLevel,
    /// The text.
    pub message: String,
    /// Fields, in the guest's order.
    pub fields: Vec<(String, String)>,
}

/// The bytes that a line counts besides its text, and a field besides its name and value. That is the least they take in memory,
/// so empty lines and fields are bounded too.
const LINE_BYTES: usize = 64;
const FIELD_BYTES: usize = 64;

/// The log of one invocation, up to a number of bytes. Clones share the log, so it can be read after the invocation has ended,
/// however it ended.
#[derive(Clone, Debug)]
pub struct Log(Arc<Mutex<Logged>>);

#[derive(Debug)]
struct Logged {
    lines: Vec<LogLine>,
    room_bytes: u64,
    dropped: u64,
}

impl Log {
    /// An empty log that takes `limit_bytes` bytes.
    pub fn new(limit_bytes: u64) -> Log {
        Log(Arc::new(Mutex::new(Logged { lines: Vec::new(), room_bytes: limit_bytes, dropped: 0 })))
    }

    /// Adds a line, or counts it as dropped when there is no room.
    pub fn push(&self, level: LogLevel, message: String, fields: Vec<(String, String)>) {
        let text: usize = fields.iter().map(|(key, value)| key.len() + value.len() + FIELD_BYTES).sum();
        let bytes = (message.len() + text + LINE_BYTES) as u64;
        let mut log = self.logged();
        match log.room_bytes.checked_sub(bytes) {
            None => log.dropped += 1,
            Some(room) => {
                log.room_bytes = room;
                log.lines.push(LogLine { at: SystemTime::now(), level, message, fields });
            }
        }
    }

    /// Counts lines that were dropped before they reached the log.
    pub fn count_dropped(&self, lines: u64) {
        self.logged().dropped += lines;
    }

    /// The bytes that are left.
    pub fn room_bytes(&self) -> u64 {
        self.logged().room_bytes
    }

    /// The newest message that contains `part`.
    pub fn last_with(&self, part: &str) -> Option<String> {
        self.logged().lines.iter().rev().map(|line| &line.message).find(|message| message.contains(part)).cloned()
    }

    /// Takes the lines so far, and the number of dropped ones. This frees no room for further lines.
    pub fn take(&self) -> (Vec<LogLine>, u64) {
        let mut log = self.logged();
        (std::mem::take(&mut log.lines), std::mem::take(&mut log.dropped))
    }

    fn logged(&self) -> MutexGuard<'_, Logged> {
        self.0.lock()
    }
}

impl context::Host for Ctx {
    fn request_id(&mut self) -> wasmtime::Result<String> {
        Ok(self.call.request_id.to_string())
    }

    fn tenant(&mut self) -> wasmtime::Result<String> {
        Ok(self.call.tenant.to_string())
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.call.deadline.saturating_duration_since(Instant::now()).as_millis() as u64)
    }

    fn config(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.call.grant.config.get(&key).cloned())
    }

    fn secret(&mut self, name: String) -> Result<Option<String>, Fault> {
        self.refused_in_init("secrets")?;
        let secret = self.call.grant.secrets.get(&name);
        let value = secret.map(|secret| secret.as_ref().map(|value| value.expose().to_owned()));
        value.ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            let message = format!(
                "the function was not granted the secret '{name}'; name it in the handler's attribute, \
                 as in #[handler(secrets = [\"{name}\"])], and give it a value in the function's settings"
            );
            Error::permission_denied(message).into()
        })
    }

    fn log(
        &mut self,
        level: context::LogLevel,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        let level = match level {
            context::LogLevel::Trace => LogLevel::Trace,
            context::LogLevel::Debug => LogLevel::Debug,
            context::LogLevel::Info => LogLevel::Info,
            context::LogLevel::Warn => LogLevel::Warn,
            context::LogLevel::Error => LogLevel::Error,
        };
        self.call.log.push(level, message, fields);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_takes_its_bytes_and_counts_the_rest() {
        let log = Log::new(150);
        for _ in 0..10 {
            log.push(LogLevel::Info, "12345678".to_owned(), Vec::new());
        }
        log.count_dropped(3);
        let (lines, dropped) = log.take();
        assert_eq!((lines.len(), dropped), (2, 11));
        log.push(LogLevel::Info, "12345678".to_owned(), Vec::new());
        let (lines, dropped) = log.take();
        assert_eq!((lines.len(), dropped), (0, 1), "what was taken leaves no room");
    }

    #[test]
    fn empty_fields_take_room_too() {
        let log = Log::new(64 << 10);
        log.push(LogLevel::Info, String::new(), vec![(String::new(), String::new()); 1_000_000]);
        assert_eq!(log.room_bytes(), 64 << 10);
        log.push(LogLevel::Info, String::new(), vec![(String::new(), String::new()); 1_000]);
        assert_eq!(log.room_bytes(), (64 << 10) - 64_000 - 64);
        let (lines, dropped) = log.take();
        assert_eq!((lines.len(), dropped), (1, 1));
    }
}
