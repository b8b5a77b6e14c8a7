//! `GET /v1/functions/{name}/logs`: the lines kept, and a stream of those to come; it never makes an invocation wait.

use super::App;
use super::deployed::{FunctionLog, LogPart};
use super::routes::{Reply, Target, ok};
use crate::error::{Error, Result};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use http::{Uri, header};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// An empty line is sent after this silence, so that a client that vanished without a word is noticed.
const SILENCE: Duration = Duration::from_secs(15);
/// Lines that one part of the stream carries.
const PART_LINES: usize = 100;

/// Places for the clients that follow logs, and their common end.
pub(super) struct Followers {
    most: u64,
    places: Arc<Semaphore>,
    end: CancellationToken,
}

impl Followers {
    /// With places for `most` clients.
    pub(super) fn new(most: u64) -> Followers {
        Followers { most, places: Arc::new(Semaphore::new(most as usize)), end: CancellationToken::new() }
    }

    /// Ends the streams of all of them: they would keep the server from shutting down.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    fn place(&self) -> Result<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            let most = self.most;
            Error::overloaded(format!(
                "{most} clients follow logs already (log_followers); ask without follow, or later"
            ))
        })
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    follow: Option<String>,
    limit: Option<u64>,
    since_ms: Option<u64>,
}

/// `{"lines": […]}`, oldest first; with `follow=1` the same lines and then each new one, a JSON object a line, until the
/// client goes, the function is deleted or the server ends. `limit=N` gives the newest N of the lines kept, `since_ms=T`
/// those from T milliseconds after 1970 on.
pub(super) async fn function_logs(State(app): State<Arc<App>>, target: Target, uri: Uri) -> Reply {
    let Target { tenant, name, .. } = target;
    let Query(asked) = Query::<Asked>::try_from_uri(&uri).map_err(|error| {
        let message = format!("the query takes follow=1, limit=NUMBER and since_ms=NUMBER: {error}");
        Error::invalid_argument(message)
    })?;
    let follow = match asked.follow.as_deref() {
        None | Some("0" | "false") => false,
        Some("" | "1" | "true") => true,
        Some(other) => {
            let other: String = other.chars().take(20).collect();
            return Err(Error::invalid_argument(format!("follow is 1 or 0, not '{other}'")).into());
        }
    };
    app.catalog.function(&tenant, &name).await?;
    let log = app.deployed.log(&tenant, &name, app.config.limits.log_lines);
    let mut kept = log.newest(asked.limit.unwrap_or(u64::MAX));
    if let Some(since_ms) = asked.since_ms {
        kept.lines.retain(|line| line["at_ms"].as_u64().is_some_and(|at_ms| at_ms >= since_ms));
    }
    if !follow {
        return ok(&json!({ "lines": kept.lines }));
    }
    let place = app.followers.place()?;
    let follower = Follower { log, kept: Some(kept), next: 0, end: app.followers.end.clone(), _place: place };
    let parts = futures_util::stream::unfold(follower, async |mut follower| {
        let part = follower.part().await?;
        Some((Ok::<_, Infallible>(part), follower))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(parts)).into_response())
}

/// One client that follows a log. It reads from the lines kept, so that one that is slow costs nobody anything.
struct Follower {
    log: Arc<FunctionLog>,
    /// What it gets first.
    kept: Option<LogPart>,
    /// The number of the line that it gets next.
    next: u64,
    end: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next part of the stream, or `None` at its end.
    async fn part(&mut self) -> Option<Bytes> {
        loop {
            if self.end.is_cancelled() {
                return None;
            }
            if let Some(kept) = self.kept.take() {
                self.next = kept.next;
                if !kept.lines.is_empty() {
                    return Some(text(&kept.lines));
                }
            }
            // Made before the log is looked at, so that no line falls between the two.
            let changed = self.log.changed();
            let LogPart { mut lines, missed, next, closed } = self.log.after(self.next, PART_LINES);
            self.next = next;
            if missed > 0 {
                let message = format!("{missed} lines were missed: they came faster than they were read (log_lines)");
                lines.insert(0, json!({ "level": "warn", "message": message, "fields": {} }));
            }
            if !lines.is_empty() {
                return Some(text(&lines));
            }
            if closed {
                return None;
            }
            tokio::select! {
                () = changed => {}
                () = self.end.cancelled() => return None,
                () = tokio::time::sleep(SILENCE) => return Some(Bytes::from_static(b"\n")),
            }
        }
    }
}

fn text(lines: &[Value]) -> Bytes {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::{LogLevel, LogLine};
    use std::time::SystemTime;

    fn write(log: &FunctionLog, messages: &[&str]) {
        let line = |message: &&str| LogLine {
            at: SystemTime::now(),
            level: LogLevel::Info,
            message: (*message).to_owned(),
            fields: Vec::new(),
        };
        log.extend("7", 1, messages.iter().map(line).collect(), 0);
    }

    fn follower(log: &Arc<FunctionLog>, followers: &Followers, newest: u64) -> Follower {
        let kept = Some(log.newest(newest));
        Follower { log: log.clone(), kept, next: 0, end: followers.end.clone(), _place: followers.place().unwrap() }
    }

    async fn messages(follower: &mut Follower) -> Vec<String> {
        let part = follower.part().await.expect("not the end");
        let lines = part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let message = |line| serde_json::from_slice::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned();
        lines.map(message).collect()
    }

    #[tokio::test]
    async fn a_follower_gets_what_was_kept_and_then_what_comes() {
        let (log, followers) = (Arc::new(FunctionLog::new(10)), Followers::new(2));
        write(&log, &["1", "2", "3"]);
        let mut all = follower(&log, &followers, u64::MAX);
        let mut newest = follower(&log, &followers, 1);
        assert_eq!(followers.place().unwrap_err().kind(), crate::error::Kind::Overloaded);
        assert_eq!(messages(&mut all).await, ["1", "2", "3"]);
        assert_eq!(messages(&mut newest).await, ["3"]);
        let waiting = tokio::spawn(async move { (messages(&mut all).await, all) });
        tokio::task::yield_now().await;
        write(&log, &["4"]);
        let (got, mut all) = waiting.await.unwrap();
        assert_eq!(got, ["4"]);
        write(&log, &["5"]);
        log.close();
        assert_eq!(messages(&mut all).await, ["5"]);
        assert!(all.part().await.is_none());
        drop((all, newest));
        assert!(followers.place().is_ok());
    }

    #[tokio::test]
    async fn a_slow_follower_misses_lines_and_hears_how_many() {
        let (log, followers) = (Arc::new(FunctionLog::new(2)), Followers::new(1));
        let mut slow = follower(&log, &followers, 0);
        write(&log, &["1", "2", "3", "4", "5"]);
        let got = messages(&mut slow).await;
        assert!(got[0].starts_with("3 lines were missed"), "{got:?}");
        assert_eq!(got[1..], ["4", "5"]);
    }

    #[tokio::test]
    async fn the_end_of_the_server_ends_followers() {
        let (log, followers) = (Arc::new(FunctionLog::new(2)), Followers::new(1));
        let mut waiting = follower(&log, &followers, 0);
        let waiting = tokio::spawn(async move { waiting.part().await });
        tokio::task::yield_now().await;
        followers.end();
        assert!(waiting.await.unwrap().is_none());
    }
}
