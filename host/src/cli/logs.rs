//! `hearth logs`: prints and follows a function's log; it never changes the log.

use super::Target;
use super::client::{Client, encode, full, refusal};
use super::output::{print, print_json, printable};
use crate::api::{LogLines, LoggedLine};
use anyhow::{Context, Result, anyhow, bail};
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of one line. A server lets an invocation log 64 MiB at most.
const LINE_BYTES: usize = 256 << 20;

/// Arguments of `hearth logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The function's name
    name: String,
    /// Follow: print new lines until ctrl-c
    #[arg(short, long)]
    follow: bool,
    /// Only the newest lines [default: all that the server keeps]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only lines of this time before now, like 30s, 10m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    #[command(flatten)]
    target: Target,
}

impl Logs {
    pub(super) async fn run(self) -> Result<()> {
        let client = Client::new(&self.target)?;
        let mut query = Vec::new();
        query.extend(self.limit.map(|limit| format!("limit={limit}")));
        if let Some(since) = self.since {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(since);
            query.push(format!("since_ms={}", at.as_millis()));
        }
        if !self.follow {
            let value: LogLines = client.get(&format!("{}?{}", path(&self.name), query.join("&"))).await?;
            if self.target.json {
                return print_json(&value);
            }
            return print(&value.lines.iter().map(|line| text(line) + "\n").collect::<String>());
        }
        let json = self.target.json;
        let stream = Stream::open(&client, &self.name, query).await?;
        let each = |line: &LoggedLine| {
            let text = if json { serde_json::to_string(line)? } else { text(line) };
            let mut out = std::io::stdout().lock();
            match writeln!(out, "{text}").and_then(|()| out.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
                done => done.map(ControlFlow::Continue).context("writing to stdout"),
            }
        };
        stream.each(each).await
    }
}

fn path(name: &str) -> String {
    format!("/v1/functions/{}/logs", encode(name))
}

/// The lines of a function's log: the stored ones, then new ones.
pub(super) struct Stream(Incoming);

impl Stream {
    /// Asks for the lines; the server sends new ones from when this completes.
    pub(super) async fn open(client: &Client, name: &str, mut query: Vec<String>) -> Result<Stream> {
        query.push("follow=1".to_owned());
        let path = format!("{}?{}", path(name), query.join("&"));
        let response = client.send(Method::GET, &path, HeaderMap::new(), full("")).await?;
        let status = response.status();
        let body = response.into_body();
        if status.as_u16() >= 400 {
            let bytes = body.collect().await.context("the answer broke off")?.to_bytes();
            bail!(refusal(&bytes).unwrap_or_else(|| format!("the server answered with status {status}")));
        }
        Ok(Stream(body))
    }

    /// Gives each line until the server or `each` ends it.
    pub(super) async fn each(mut self, mut each: impl FnMut(&LoggedLine) -> Result<ControlFlow<()>>) -> Result<()> {
        let mut rest = Vec::new();
        while let Some(frame) = self.0.frame().await {
            let frame = frame.map_err(|error| anyhow!("the stream of log lines broke off: {error}"))?;
            let Ok(data) = frame.into_data() else { continue };
            if rest.len() + data.len() > LINE_BYTES {
                bail!("the server sent a log line longer than {LINE_BYTES} bytes; is it hearth?");
            }
            rest.extend_from_slice(&data);
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line = serde_json::from_slice(line).context("the server sent a log line that is no JSON")?;
                if each(&line)?.is_break() {
                    return Ok(());
                }
            }
            rest.drain(..whole);
        }
        Ok(())
    }
}

/// `21:26:34.123 info   a text of 4 words  key=value`; the time is UTC.
pub(super) fn text(line: &LoggedLine) -> String {
    let time = line.at_ms.map(time).unwrap_or_default();
    let mut text = format!("{time:12} {:6} {}", line.level, line.message);
    for (key, value) in &line.fields {
        text.push_str(&format!("  {key}={value}"));
    }
    printable(&text)
}

fn time(at_ms: u64) -> String {
    let (seconds, millis) = (at_ms / 1000 % 86_400, at_ms % 1000);
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time; write it like 30s, 10m, 2h or 1d");
    let digits = text.trim_end_matches(|at: char| at.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_for_people_and_command_no_terminal() {
        let line =
            json!({"at_ms": 1_000_000_123_456_u64, "level": "info", "message": "a\u{1b}[2J", "fields": {"k": "v"}});
        let text = |line| text(&serde_json::from_value(line).unwrap());
        assert_eq!(text(line), "01:48:43.456 info   a\u{fffd}[2J  k=v");
        let note = json!({"level": "warn", "message": "missed"});
        assert_eq!(text(note), "             warn   missed");
    }

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds);
        }
        for text in ["", "5", "m", "5w", "-1s", "99999999999999999999d", "999999999999999999d", "1.5h"] {
            assert!(duration(text).unwrap_err().contains("30s"), "{text}");
        }
    }
}
