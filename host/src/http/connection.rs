//! Ends connections whose clients send nothing, or do not read their answers, so that they hold neither connections nor memory;
//! it never looks into a request.
//!
//! A connection whose socket accepts no bytes is stuck. Over HTTP/2 a client can also read one answer and leave another. So each
//! answer there records which side it waits for: the server while there is nothing to send, else the client.

use crate::gate::Share;
use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Bytes of an answer that HTTP/2 gets in one piece.
const PART_BYTES: usize = 64 << 10;
/// Stands for a time: the answer does not wait for the client.
const NEVER: u64 = u64::MAX;

/// An answer to a client.
pub(super) type Answer = http::Response<Content>;

/// What an answer carries.
pub(super) enum Content {
    /// Bytes, and their share of the budget.
    Bytes(Bytes, Option<Share>),
    /// A stream of the control plane.
    Stream(axum::body::Body),
}

/// The state of one connection. Times are milliseconds since it was opened.
#[derive(Debug)]
pub(super) struct Connection {
    opened: Instant,
    /// When a byte was last read or written.
    moved: AtomicU64,
    /// Since when its socket accepts no bytes.
    stuck: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Requests that are being answered, and streams that are being made.
    working: usize,
    /// For each answer over HTTP/2 that is not completely read: since when it waits for the client.
    turns: Vec<(u64, Arc<AtomicU64>)>,
    next: u64,
}

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stalled {
    /// The client sent no request.
    Silent,
    /// The client did not read an answer.
    Untaken,
}

impl Connection {
    /// A connection that was opened just now.
    pub(super) fn new() -> Arc<Connection> {
        let stuck = AtomicU64::new(NEVER);
        Arc::new(Connection { opened: Instant::now(), moved: AtomicU64::new(0), stuck, state: Mutex::default() })
    }

    /// The stream of this connection, watched.
    pub(super) fn watch<S>(self: &Arc<Connection>, stream: S) -> Watched<S> {
        Watched { stream, connection: self.clone() }
    }

    /// The server works for this connection until the returned value is dropped.
    pub(super) fn work(self: &Arc<Connection>) -> Working {
        self.lock().working += 1;
        Working(self.clone())
    }

    /// The body of an answer on this connection.
    pub(super) fn answer(self: &Arc<Connection>, version: Version, content: Content) -> Answering {
        let turn = (version == Version::HTTP_2).then(|| self.turn());
        let content = match content {
            Content::Bytes(bytes, share) => {
                Held::Bytes(Bytes::from_owner(Owner { bytes, _turn: turn.clone(), _share: share }))
            }
            Content::Stream(body) => Held::Stream(body, self.work()),
        };
        Answering { content, turn }
    }

    fn turn(self: &Arc<Connection>) -> Arc<Turn> {
        let since = Arc::new(AtomicU64::new(NEVER));
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.turns.push((id, since.clone()));
        Arc::new(Turn { connection: self.clone(), id, since })
    }

    /// Waits until this connection should be ended: it waited for the client for `patience`, or no byte moved for `silence` while
    /// the server had nothing to do for it.
    pub(super) async fn stalled(&self, silence: Duration, patience: Duration) -> Stalled {
        let [silence, patience] = [silence, patience].map(|time| time.as_millis() as u64);
        loop {
            let now = self.now();
            let (mut waiting, busy) = {
                let state = self.lock();
                let since = state.turns.iter().map(|(_, since)| since.load(Ordering::Relaxed));
                (since.min().unwrap_or(NEVER), state.working > 0 || !state.turns.is_empty())
            };
            waiting = waiting.min(self.stuck.load(Ordering::Relaxed));
            let mut due = waiting.saturating_add(patience);
            if due <= now {
                return Stalled::Untaken;
            }
            if !busy {
                let silent = self.moved.load(Ordering::Relaxed).saturating_add(silence);
                if silent <= now {
                    return Stalled::Silent;
                }
                due = due.min(silent);
            }
            // Whatever begins meanwhile is not due before that.
            let pause = (due - now).min(silence).min(patience).max(1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn now(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    fn moved(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    /// Records how a write ended.
    fn wrote<T>(&self, polled: Poll<T>) -> Poll<T> {
        if polled.is_ready() {
            self.stuck.store(NEVER, Ordering::Relaxed);
            self.moved();
        } else if self.stuck.load(Ordering::Relaxed) == NEVER {
            self.stuck.store(self.now(), Ordering::Relaxed);
        }
        polled
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The server works for a connection.
pub(super) struct Working(Arc<Connection>);

impl Drop for Working {
    fn drop(&mut self) {
        // Silence begins here.
        self.0.moved();
        self.0.lock().working -= 1;
    }
}

/// An answer over HTTP/2, until the client has read all of it.
struct Turn {
    connection: Arc<Connection>,
    id: u64,
    since: Arc<AtomicU64>,
}

impl Turn {
    fn is_the_clients(&self, whether: bool) {
        let since = if whether { self.connection.now() } else { NEVER };
        self.since.store(since, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.connection.moved();
        self.connection.lock().turns.retain(|(id, _)| *id != self.id);
    }
}

/// The bytes of an answer, until the client has read the last of them.
struct Owner {
    bytes: Bytes,
    _turn: Option<Arc<Turn>>,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer's body, which records whether it waits for the server or the client.
pub(super) struct Answering {
    content: Held,
    turn: Option<Arc<Turn>>,
}

enum Held {
    Bytes(Bytes),
    Stream(axum::body::Body, #[expect(dead_code, reason = "it lives as long as the stream")] Working),
}

impl Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Answering { content, turn } = self.get_mut();
        if let Some(turn) = turn {
            turn.is_the_clients(false);
        }
        let frame = ready!(match content {
            Held::Bytes(rest) if rest.is_empty() => Poll::Ready(None),
            Held::Bytes(rest) => {
                let part = if turn.is_some() { rest.len().min(PART_BYTES) } else { rest.len() };
                Poll::Ready(Some(Ok(Frame::data(rest.split_to(part)))))
            }
            Held::Stream(body, _) => Pin::new(body).poll_frame(context),
        });
        if let Some(turn) = turn {
            turn.is_the_clients(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Held::Bytes(rest) => rest.is_empty(),
            Held::Stream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Held::Bytes(rest) => SizeHint::with_exact(rest.len() as u64),
            Held::Stream(body, _) => body.size_hint(),
        }
    }
}

/// A connection's stream, which records when bytes are read and written.
pub(super) struct Watched<S> {
    stream: S,
    connection: Arc<Connection>,
}

impl<S: Read + Unpin> Read for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.connection.moved();
        }
        polled
    }
}

impl<S: Write + Unpin> Write for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.connection.wrote(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.connection.wrote(polled)
    }
}
