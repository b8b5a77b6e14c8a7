//! The newest log lines of one function, as the JSON that readers get; it never makes an invocation wait for a reader.

use crate::interface::{LogLevel, LogLine};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The most bytes of one line's JSON, so that parts of a reply stay small. A log that keeps little keeps shorter lines.
const LINE_BYTES: u64 = 256 << 10;
/// What a line costs beside its JSON.
const HANDLE_BYTES: u64 = 64;

/// The newest log lines of a function, numbered from 0 since the server started.
pub struct FunctionLog {
    kept: Mutex<Kept>,
    most_lines: usize,
    most_bytes: u64,
    changed: Notify,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<Line>,
    /// What the lines cost together.
    bytes: u64,
    /// The number of the oldest line kept.
    first: u64,
    /// The function was deleted.
    closed: bool,
}

/// One line. A clone is a handle on the same text.
#[derive(Clone)]
pub struct Line {
    /// When it was written, in milliseconds after 1970.
    pub at_ms: u64,
    /// A JSON object without line breaks.
    pub json: Bytes,
}

/// Lines of a log from some number on.
pub struct LogPart {
    /// The lines, oldest first.
    pub lines: Vec<Line>,
    /// Lines that came before these and are kept no longer.
    pub missed: u64,
    /// The number of the line that will follow.
    pub next: u64,
    /// No line will follow.
    pub closed: bool,
}

/// What readers see of a line.
#[derive(serde::Serialize)]
struct Shown<'a> {
    at_ms: u64,
    fields: BTreeMap<&'a str, &'a str>,
    level: &'static str,
    message: &'a str,
    request_id: &'a str,
    version: u64,
}

impl FunctionLog {
    /// An empty log that keeps so many lines, of so many bytes.
    pub fn new(most_lines: u64, most_bytes: u64) -> FunctionLog {
        let most_lines = usize::try_from(most_lines).unwrap_or(usize::MAX);
        FunctionLog { kept: Mutex::default(), most_lines, most_bytes, changed: Notify::new() }
    }

    /// Adds what one invocation logged.
    pub fn extend(&self, request_id: &str, version: u64, lines: Vec<LogLine>, dropped: u64) {
        let note = (dropped > 0).then(|| LogLine {
            at: SystemTime::now(),
            level: LogLevel::Warn,
            message: format!("{dropped} lines were dropped: log_bytes was reached"),
            fields: Vec::new(),
        });
        // From the newest on: what has no room is not even made.
        let mut newest_first = lines.into_iter().rev();
        let mut note = note.into_iter();
        let mut entries = VecDeque::new();
        let mut bytes = 0;
        let skipped = loop {
            let Some(line) = note.next().or_else(|| newest_first.next()) else { break 0 };
            let line = self.line(request_id, version, &line);
            if entries.len() == self.most_lines || bytes + line.cost() > self.most_bytes {
                break 1 + newest_first.len() as u64;
            }
            bytes += line.cost();
            entries.push_front(line);
        };
        let mut kept = self.kept();
        let gone = kept.add(entries, bytes, skipped, self.most_lines, self.most_bytes);
        drop(kept);
        drop(gone);
        self.changed.notify_waiters();
    }

    fn line(&self, request_id: &str, version: u64, line: &LogLine) -> Line {
        let at_ms = line.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let json = |message: &str, fields: &[(String, String)]| {
            let fields = fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let shown = Shown { at_ms, fields, level: line.level.as_str(), message, request_id, version };
            // Text, numbers and a map with keys of text always have a JSON form.
            serde_json::to_vec(&shown).unwrap_or_else(|_| b"{}".to_vec())
        };
        let most = LINE_BYTES.min(self.most_bytes / 4) as usize;
        let fields: usize = line.fields.iter().map(|(key, value)| key.len() + value.len()).sum();
        let whole = line.message.len() + fields;
        let text = (whole <= most).then(|| json(&line.message, &line.fields)).filter(|text| text.len() <= most);
        let text = text.unwrap_or_else(|| {
            // A byte has six in JSON at most.
            let start = &line.message[..line.message.floor_char_boundary(most / 8)];
            json(&format!("{start}… (cut: the line and its fields have {whole} bytes, too many to keep)"), &[])
        });
        Line { at_ms, json: text.into_boxed_slice().into() }
    }

    /// The newest lines kept, at most `most`, oldest first.
    pub fn newest(&self, most: u64) -> LogPart {
        let kept = self.kept();
        let from = kept.lines.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        kept.part(from, u64::MAX, 0)
    }

    /// Lines from the one of a number on, one at least where there is one, and more up to `most_bytes` bytes.
    pub fn after(&self, next: u64, most_bytes: u64) -> LogPart {
        let kept = self.kept();
        let from = usize::try_from(next.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        kept.part(from, most_bytes, kept.first.saturating_sub(next))
    }

    /// Ready when lines came, or the end, after this was called.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Tells followers that the function is gone.
    pub fn close(&self) {
        self.kept().closed = true;
        self.changed.notify_waiters();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }
}

impl Line {
    fn cost(&self) -> u64 {
        self.json.len() as u64 + HANDLE_BYTES
    }
}

impl Kept {
    /// Adds lines that came after `skipped` others, and gives those that go, to be freed without the lock.
    fn add(
        &mut self,
        entries: VecDeque<Line>,
        bytes: u64,
        skipped: u64,
        most_lines: usize,
        most_bytes: u64,
    ) -> Vec<Line> {
        // A line that was skipped had no room, so older ones have none.
        let mut surplus = if skipped > 0 { self.lines.len() } else { 0 };
        let mut left = self.bytes - self.lines.range(..surplus).map(Line::cost).sum::<u64>();
        while surplus < self.lines.len()
            && (self.lines.len() - surplus + entries.len() > most_lines || left + bytes > most_bytes)
        {
            left -= self.lines[surplus].cost();
            surplus += 1;
        }
        let gone = self.lines.drain(..surplus).collect();
        self.first += surplus as u64 + skipped;
        self.bytes = left + bytes;
        self.lines.extend(entries);
        gone
    }

    fn part(&self, from: usize, most_bytes: u64, missed: u64) -> LogPart {
        let from = from.min(self.lines.len());
        let mut bytes = 0_u64;
        let fit = self.lines.range(from..).take_while(|line| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(line.cost());
            first || bytes <= most_bytes
        });
        let lines: Vec<_> = fit.cloned().collect();
        let to = from + lines.len();
        LogPart { lines, missed, next: self.first + to as u64, closed: self.closed && to == self.lines.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn line(message: impl Into<String>, fields: &[(&str, &str)]) -> LogLine {
        let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        LogLine { at: SystemTime::now(), level: LogLevel::Info, message: message.into(), fields }
    }

    fn shown(part: &LogPart) -> Vec<Value> {
        part.lines.iter().map(|line| serde_json::from_slice(&line.json).unwrap()).collect()
    }

    #[test]
    fn a_line_is_a_json_object() {
        let log = FunctionLog::new(10, 1 << 20);
        log.extend("7", 3, vec![line("a\n\"b\"", &[("k", "v"), ("a", "1"), ("k", "w")])], 2);
        let part = log.newest(10);
        let mut lines = shown(&part);
        assert_eq!(lines[0]["at_ms"].take(), json!(part.lines[0].at_ms));
        let fields = json!({"k": "w", "a": "1"});
        let whole = json!({
            "at_ms": null, "level": "info", "message": "a\n\"b\"", "fields": fields, "request_id": "7", "version": 3,
        });
        assert_eq!(lines[0], whole);
        assert_eq!(
            (&lines[1]["level"], &lines[1]["message"]),
            (&json!("warn"), &json!("2 lines were dropped: log_bytes was reached"))
        );
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_lines_go_first() {
        let log = FunctionLog::new(100_000, 16 << 10);
        let cost = || log.kept().lines.iter().map(Line::cost).sum::<u64>();
        for number in 0..100 {
            log.extend("7", 1, vec![line(format!("{number} {}", "x".repeat(1000)), &[])], 0);
            assert!(cost() <= 16 << 10 && cost() == log.kept().bytes);
        }
        let part = log.after(0, u64::MAX);
        assert!((10..16).contains(&part.lines.len()), "{}", part.lines.len());
        assert_eq!((part.missed + part.lines.len() as u64, part.next), (100, 100));
        assert!(shown(&part).last().unwrap()["message"].as_str().unwrap().starts_with("99 "));

        // Many lines at once, of which the oldest never get in.
        log.extend("7", 1, (0..1000).map(|number| line(format!("{number} {}", "y".repeat(1000)), &[])).collect(), 0);
        let part = log.after(100, u64::MAX);
        assert!((10..16).contains(&part.lines.len()) && cost() == log.kept().bytes);
        assert_eq!((part.missed + part.lines.len() as u64, part.next), (1000, 1100));
        assert!(shown(&part).last().unwrap()["message"].as_str().unwrap().starts_with("999 y"));
        let few = log.after(1000, 3000);
        assert!(few.lines.len() < 3 && !few.lines.is_empty());
        assert_eq!(log.after(1090, 1).lines.len(), 1);
    }

    #[test]
    fn long_lines_are_cut_and_say_so() {
        let log = FunctionLog::new(100, 16 << 10);
        let fields: Vec<_> = (0..1000).map(|number| (number.to_string(), "v".to_owned())).collect();
        let many = LogLine { fields, ..line("fields", &[]) };
        log.extend("7", 1, vec![line("\u{1}".repeat(4000), &[]), line("ä".repeat(1 << 20), &[]), many], 0);
        let part = log.newest(10);
        for (line, start) in shown(&part).iter().zip(["\u{1}\u{1}", "ää", "fields…"]) {
            let message = line["message"].as_str().unwrap();
            assert!(message.starts_with(start) && message.contains("(cut: the line"), "{message}");
        }
        assert!(part.lines.len() == 3 && part.lines.iter().all(|line| line.json.len() <= 4 << 10));
    }
}
