//! Streams of log lines to clients: those kept, and those to come; a slow client never makes an invocation wait.

use crate::config::Limits;
use crate::deploy::{FunctionLog, Line, LogPart};
use crate::error::{Error, Result};
use crate::gate::{Budget, Over, Share};
use axum::body::Body;
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An empty line is sent after this silence, so that a client that vanished without a word is noticed.
const SILENCE: Duration = Duration::from_secs(15);
/// Bytes that one part of a reply carries; a line that is longer is a part of its own.
const PART_BYTES: u64 = 64 << 10;

/// Places for the clients that read and follow logs, and the followers' common end.
pub(super) struct Followers {
    places: Budget,
    readers: Budget,
    end: CancellationToken,
    /// How long a client may leave a part untaken.
    idle: Duration,
}

impl Followers {
    /// With the places that the limits say.
    pub(super) fn new(limits: &Limits) -> Followers {
        Followers {
            places: Budget::new(limits.log_followers),
            readers: Budget::new(limits.log_readers),
            end: CancellationToken::new(),
            idle: Duration::from_millis(limits.body_idle_ms),
        }
    }

    /// Ends the streams of all of them: they would keep the server from shutting down.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    fn place(&self) -> Result<Share> {
        self.places.take(1).map_err(|Over { most, .. }| {
            Error::overloaded(format!(
                "{most} clients follow logs already (log_followers); ask without follow, or later"
            ))
        })
    }

    fn place_to_read(&self) -> Result<Share> {
        self.readers.take(1).map_err(|Over { most, .. }| {
            Error::overloaded(format!("{most} clients read logs already (log_readers); try again later"))
        })
    }

    /// The body of a reply with the newest `most` lines of a log, of those from `since_ms` milliseconds after 1970 on, and its
    /// length in bytes.
    ///
    /// Errors: `overloaded` beyond `log_readers`.
    pub(super) fn read(&self, log: &FunctionLog, most: u64, since_ms: u64) -> Result<(usize, Body)> {
        let place = self.place_to_read()?;
        let mut lines = log.newest(most).lines;
        lines.retain(|line| line.at_ms >= since_ms);
        let length = array_bytes(&lines);
        let (parts, body) = Parts::new(self.idle);
        tokio::spawn(async move {
            send_array(&parts, lines).await;
            drop(place);
        });
        Ok((length, body))
    }

    /// The body of a reply with the same lines, and then each new one.
    ///
    /// Errors: `overloaded` beyond `log_followers`.
    pub(super) fn follow(&self, log: Arc<FunctionLog>, most: u64, since_ms: u64) -> Result<Body> {
        let place = self.place()?;
        let follower = Follower::new(log, most, since_ms, self.end.clone());
        let (parts, body) = Parts::new(self.idle);
        tokio::spawn(async move {
            follower.feed(&parts).await;
            // Free before the client can see the end.
            drop(place);
        });
        Ok(body)
    }
}

/// The way of a reply's parts to the client. The body that it feeds may lie unread: only the time between two parts counts.
struct Parts {
    to: mpsc::Sender<Bytes>,
    idle: Duration,
    given_up: Arc<AtomicBool>,
}

impl Parts {
    /// A way and the body at its end.
    fn new(idle: Duration) -> (Parts, Body) {
        let (to, parts) = mpsc::channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let stream = futures_util::stream::unfold((parts, given_up.clone()), async |(mut parts, given_up)| {
            let part = match parts.recv().await {
                Some(part) => Ok(part),
                // The connection breaks, so that the client does not take this for the end.
                None if given_up.swap(false, Ordering::AcqRel) => Err(std::io::ErrorKind::TimedOut),
                None => return None,
            };
            Some((part.map_err(std::io::Error::from), (parts, given_up)))
        });
        (Parts { to, idle, given_up }, Body::from_stream(stream))
    }

    /// Sends a part as soon as the one before it was taken. False when the client is gone or took too long.
    async fn send(&self, part: Bytes) -> bool {
        match tokio::time::timeout(self.idle, self.to.send(part)).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                tracing::debug!("a reader of a log took no part for {} ms (body_idle_ms)", self.idle.as_millis());
                self.given_up.store(true, Ordering::Release);
                false
            }
        }
    }
}

/// What stands around the lines of a whole log.
const ARRAY: (&str, &str) = (r#"{"lines":["#, "]}");

fn array_bytes(lines: &[Line]) -> usize {
    let texts: usize = lines.iter().map(|line| line.json.len()).sum();
    ARRAY.0.len() + texts + lines.len().saturating_sub(1) + ARRAY.1.len()
}

async fn send_array(parts: &Parts, lines: Vec<Line>) {
    let mut part = ARRAY.0.as_bytes().to_vec();
    for (number, line) in lines.into_iter().enumerate() {
        if part.len() as u64 >= PART_BYTES && !parts.send(std::mem::take(&mut part).into()).await {
            return;
        }
        if number > 0 {
            part.push(b',');
        }
        part.extend_from_slice(&line.json);
    }
    part.extend_from_slice(ARRAY.1.as_bytes());
    parts.send(part.into()).await;
}

/// One client that follows a log. It reads from the lines kept, so that one that is slow costs nobody anything.
struct Follower {
    log: Arc<FunctionLog>,
    /// The number of the line that it gets next.
    next: u64,
    /// The number of the first line that came after it did; of those before, it gets the ones from `since_ms` on.
    came: u64,
    since_ms: u64,
    end: CancellationToken,
}

impl Follower {
    /// One that gets the newest `most` lines first, of those from `since_ms` milliseconds after 1970 on.
    fn new(log: Arc<FunctionLog>, most: u64, since_ms: u64, end: CancellationToken) -> Follower {
        let kept = log.newest(most);
        let next = kept.next - kept.lines.len() as u64;
        Follower { log, next, came: kept.next, since_ms, end }
    }

    /// Sends parts until the end, or until the client is gone or takes too long.
    async fn feed(mut self, parts: &Parts) {
        loop {
            let part = tokio::select! {
                part = self.part() => part,
                () = parts.to.closed() => None,
            };
            let Some(part) = part else { return };
            if !parts.send(part).await {
                return;
            }
        }
    }

    /// The next part of the stream, or `None` at its end.
    async fn part(&mut self) -> Option<Bytes> {
        loop {
            if self.end.is_cancelled() {
                return None;
            }
            // Made before the log is looked at, so that no line falls between the two.
            let changed = self.log.changed();
            let LogPart { lines, missed, next, closed } = self.log.after(self.next, PART_BYTES);
            let first = next - lines.len() as u64;
            self.next = next;
            let mut text = Vec::new();
            if missed > 0 {
                let message = format!(
                    "{missed} lines were missed: they came faster than they were read (log_lines, function_log_bytes)"
                );
                let note = json!({ "level": "warn", "message": message, "fields": {} });
                text.extend_from_slice(note.to_string().as_bytes());
                text.push(b'\n');
            }
            for (number, line) in (first..).zip(&lines) {
                if number >= self.came || line.at_ms >= self.since_ms {
                    text.extend_from_slice(&line.json);
                    text.push(b'\n');
                }
            }
            if !text.is_empty() {
                return Some(text.into());
            }
            if closed {
                return None;
            }
            if !lines.is_empty() {
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = self.end.cancelled() => return None,
                () = tokio::time::sleep(SILENCE) => return Some(Bytes::from_static(b"\n")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::{LogLevel, LogLine};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use std::time::{Instant, SystemTime};

    fn write(log: &FunctionLog, messages: &[&str]) {
        let line = |message: &&str| LogLine {
            at: SystemTime::now(),
            level: LogLevel::Info,
            message: (*message).to_owned(),
            fields: Vec::new(),
        };
        log.extend("7", 1, messages.iter().map(line).collect(), 0);
    }

    fn followers(log_followers: u64) -> Followers {
        Followers::new(&Limits { log_followers, body_idle_ms: 100, ..Limits::default() })
    }

    fn log(lines: u64) -> Arc<FunctionLog> {
        Arc::new(FunctionLog::new(lines, 1 << 20))
    }

    fn follower(log: &Arc<FunctionLog>, followers: &Followers, newest: u64) -> Follower {
        Follower::new(log.clone(), newest, 0, followers.end.clone())
    }

    async fn messages(follower: &mut Follower) -> Vec<String> {
        let part = follower.part().await.expect("not the end");
        let lines = part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let message = |line| serde_json::from_slice::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned();
        lines.map(message).collect()
    }

    #[tokio::test]
    async fn a_follower_gets_what_was_kept_and_then_what_comes() {
        let (log, followers) = (log(10), followers(2));
        write(&log, &["1", "2", "3"]);
        let mut all = follower(&log, &followers, u64::MAX);
        let mut newest = follower(&log, &followers, 1);
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
    }

    #[tokio::test]
    async fn followers_have_places_and_so_have_readers() {
        let followers = Followers::new(&Limits { log_followers: 1, log_readers: 1, ..Limits::default() });
        let (place, reader) = (followers.place().unwrap(), followers.place_to_read().unwrap());
        assert_eq!(followers.place().unwrap_err().kind(), crate::error::Kind::Overloaded);
        assert_eq!(followers.place_to_read().unwrap_err().kind(), crate::error::Kind::Overloaded);
        drop((place, reader));
        assert!(followers.place().is_ok() && followers.place_to_read().is_ok());
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (log, followers) = (log(10_000), followers(1));
        let long = "x".repeat(10_000);
        write(&log, &[long.as_str(); 50]);
        let mut reader = follower(&log, &followers, u64::MAX);
        assert!(reader.part().await.unwrap().len() as u64 <= PART_BYTES);
        let (parts, body) = Parts::new(followers.idle);
        let started = Instant::now();
        follower(&log, &followers, u64::MAX).feed(&parts).await;
        assert!(started.elapsed() >= followers.idle);
        drop(parts);
        assert!(body.collect().await.is_err());
        // One that goes away is noticed without a line.
        let (parts, body) = Parts::new(followers.idle);
        let waiting = follower(&log, &followers, 0);
        let fed = tokio::spawn(async move { waiting.feed(&parts).await });
        tokio::task::yield_now().await;
        drop(body);
        fed.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_kept_is_picked_by_time_and_what_comes_is_not() {
        let (log, followers) = (log(10), followers(1));
        write(&log, &["1", "2"]);
        let mut late = Follower::new(log.clone(), u64::MAX, u64::MAX, followers.end.clone());
        let waiting = tokio::spawn(async move { messages(&mut late).await });
        tokio::task::yield_now().await;
        write(&log, &["3"]);
        assert_eq!(waiting.await.unwrap(), ["3"]);
    }

    #[tokio::test]
    async fn a_whole_log_is_one_json_object() {
        let (log, followers) = (log(1000), followers(1));
        for count in [0, 1, 2, 30] {
            let long = "x".repeat(10_000);
            write(&log, &vec![long.as_str(); count]);
            let lines = log.newest(count as u64).lines;
            let length = array_bytes(&lines);
            let (parts, body) = Parts::new(followers.idle);
            let sent = tokio::spawn(async move { send_array(&parts, lines).await });
            let bytes = body.collect().await.unwrap().to_bytes();
            sent.await.unwrap();
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((bytes.len(), value["lines"].as_array().unwrap().len()), (length, count));
        }
    }

    #[tokio::test]
    async fn a_slow_follower_misses_lines_and_hears_how_many() {
        let (log, followers) = (log(2), followers(1));
        let mut slow = follower(&log, &followers, 0);
        write(&log, &["1", "2", "3", "4", "5"]);
        let got = messages(&mut slow).await;
        assert!(got[0].starts_with("3 lines were missed"), "{got:?}");
        assert_eq!(got[1..], ["4", "5"]);
    }

    #[tokio::test]
    async fn the_end_of_the_server_ends_followers() {
        let (log, followers) = (log(2), followers(1));
        let mut waiting = follower(&log, &followers, 0);
        let waiting = tokio::spawn(async move { waiting.part().await });
        tokio::task::yield_now().await;
        followers.end();
        assert!(waiting.await.unwrap().is_none());
    }
}
