//! Collects a guest's standard output for the log, in whole lines, as far as there is room; it never fails a write.

use crate::interface::{Log, LogLevel};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes of one write. The host allocates this many when a guest asks for zeroes.
const WRITE_BYTES: usize = 64 << 10;

/// Standard output or standard error of one instance. Clones are the same stream.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Written>>);

/// What was written so far.
struct Written {
    kept: Vec<u8>,
    room_bytes: usize,
    /// The room is used up: further output is counted and not kept.
    full: bool,
    /// Line ends in the output that was not kept.
    ends: u64,
    /// Whether the output that was not kept ends within a line.
    within: bool,
}

impl Output {
    /// Output of which `room_bytes` bytes are kept at most.
    pub(super) fn new(room_bytes: usize) -> Output {
        let written = Written { kept: Vec::new(), room_bytes, full: false, ends: 0, within: false };
        Output(Arc::new(Mutex::new(written)))
    }

    /// Moves the lines to a log, and the number of those that were dropped. A line that had room only in part is dropped.
    pub(super) fn log_to(&self, log: &Log, level: LogLevel) {
        let mut written = self.written();
        let kept = std::mem::take(&mut written.kept);
        for line in kept.strip_suffix(b"\n").unwrap_or(&kept).split(|byte| *byte == b'\n') {
            if kept.is_empty() {
                break;
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            log.push(level, String::from_utf8_lossy(line).into_owned(), Vec::new());
        }
        log.count_dropped(written.ends + u64::from(written.within));
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock()
    }
}

impl Written {
    fn add(&mut self, bytes: &[u8]) {
        if !self.full && bytes.len() <= self.room_bytes - self.kept.len() {
            self.kept.extend_from_slice(bytes);
            return;
        }
        if !self.full {
            self.full = true;
            let (fits, rest) = bytes.split_at(self.room_bytes - self.kept.len());
            self.kept.extend_from_slice(fits);
            let whole = self.kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            self.within = whole < self.kept.len();
            self.kept.truncate(whole);
            return self.drop_lines(rest);
        }
        self.drop_lines(bytes);
    }

    fn drop_lines(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.ends += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.within = *last != b'\n';
        }
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.written().add(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.written().add(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(room_bytes: usize, writes: &[&str]) -> (Vec<String>, u64) {
        let mut output = Output::new(room_bytes);
        for text in writes {
            assert!(output.check_write().unwrap() > 0);
            output.write(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        }
        let log = Log::new(10_000);
        output.log_to(&log, LogLevel::Stdout);
        let (lines, dropped) = log.take();
        (lines.into_iter().map(|line| line.message).collect(), dropped)
    }

    #[test]
    fn whole_lines_are_kept_and_the_rest_is_counted() {
        let cases: &[(usize, &[&str], &[&str], u64)] = &[
            (100, &[], &[], 0),
            (100, &["\n"], &[""], 0),
            (100, &["a\r\n\nb", "c"], &["a", "", "bc"], 0),
            (4, &["ab\nc"], &["ab", "c"], 0),
            (4, &["ab\nc", "d"], &["ab"], 1),
            (4, &["ab\ncd\nef\n", "gh", "i\n", "j"], &["ab"], 4),
            (3, &["ab\n", "cd\n"], &["ab"], 1),
            (3, &["abcdef", "", "g"], &[], 1),
            (0, &["a\n", "b\n"], &[], 2),
        ];
        for (room_bytes, writes, lines, dropped) in cases {
            let got = logged(*room_bytes, writes);
            assert_eq!(
                (got.0.iter().map(String::as_str).collect::<Vec<_>>(), got.1),
                (lines.to_vec(), *dropped),
                "{writes:?}"
            );
        }
    }
}
