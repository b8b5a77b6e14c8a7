//! `context`: the request at hand and the invocation's log; never anything that was not granted.

use super::bindings::hearth::inference::context;
use super::{Ctx, Fault};
use crate::error::Error;
use std::time::{Instant, SystemTime};

/// How much a log line matters, as `context.log-level`; `Stdout` and `Stderr` are what a guest wrote there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// For finding faults.
    Debug,
    /// Normal events.
    Info,
    /// Something is off, the request goes on.
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
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Stdout => "stdout",
            LogLevel::Stderr => "stderr",
        }
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

/// What a line costs beside its text, and a field of it: what they take in memory at least, so that empty ones are bounded.
const LINE_BYTES: usize = 64;
const FIELD_BYTES: usize = 64;

/// The log of one invocation, up to a number of bytes.
#[derive(Debug)]
pub struct LogBuffer {
    lines: Vec<LogLine>,
    room_bytes: u64,
    dropped: u64,
}

impl LogBuffer {
    /// An empty log that takes `limit_bytes` bytes.
    pub fn new(limit_bytes: u64) -> LogBuffer {
        LogBuffer { lines: Vec::new(), room_bytes: limit_bytes, dropped: 0 }
    }

    /// Adds a line, or counts it as dropped when there is no room.
    pub fn push(&mut self, level: LogLevel, message: String, fields: Vec<(String, String)>) {
        let text: usize = fields.iter().map(|(key, value)| key.len() + value.len() + FIELD_BYTES).sum();
        let bytes = (message.len() + text + LINE_BYTES) as u64;
        match self.room_bytes.checked_sub(bytes) {
            None => self.dropped += 1,
            Some(room) => {
                self.room_bytes = room;
                self.lines.push(LogLine { at: SystemTime::now(), level, message, fields });
            }
        }
    }

    /// Counts lines that were dropped before they came here.
    pub fn count_dropped(&mut self, lines: u64) {
        self.dropped += lines;
    }

    /// The bytes that still have room.
    pub fn room_bytes(&self) -> u64 {
        self.room_bytes
    }

    /// The lines so far.
    pub fn lines(&self) -> &[LogLine] {
        &self.lines
    }

    /// The lines, and how many were dropped.
    pub fn into_lines(self) -> (Vec<LogLine>, u64) {
        (self.lines, self.dropped)
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
        self.log.push(level, message, fields);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_takes_its_bytes_and_counts_the_rest() {
        let mut log = LogBuffer::new(150);
        for _ in 0..10 {
            log.push(LogLevel::Info, "12345678".to_owned(), Vec::new());
        }
        log.count_dropped(3);
        let (lines, dropped) = log.into_lines();
        assert_eq!((lines.len(), dropped), (2, 11));
    }

    #[test]
    fn empty_fields_take_room_too() {
        let mut log = LogBuffer::new(64 << 10);
        log.push(LogLevel::Info, String::new(), vec![(String::new(), String::new()); 1_000_000]);
        assert_eq!((log.lines().len(), log.room_bytes()), (0, 64 << 10));
        log.push(LogLevel::Info, String::new(), vec![(String::new(), String::new()); 1_000]);
        assert_eq!((log.lines().len(), log.room_bytes()), (1, (64 << 10) - 64_000 - 64));
        let (_, dropped) = log.into_lines();
        assert_eq!(dropped, 1);
    }
}
