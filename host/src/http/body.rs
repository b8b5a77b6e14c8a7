//! Reads request bodies under their limits; it never buffers more than the caller allows.

use crate::error::{Error, Result};
use crate::gate::{Over, Share};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// What is read and thrown away of a body that nobody wanted to the end.
const DISCARDED_BYTES: u64 = 256 << 20;
const DISCARDED_WITHIN: Duration = Duration::from_secs(5);

/// A request's body that is read to its end even where it is dropped before, within bounds. A client that sends all of it
/// before it listens then still hears why it was refused; else its connection is reset and the answer lost.
pub(super) struct DrainOnDrop {
    body: Option<Incoming>,
    /// The client waits for leave to send, and was not asked yet: nothing will come.
    unasked: bool,
}

impl DrainOnDrop {
    /// Takes the body of a request with these headers.
    pub(super) fn new(headers: &HeaderMap, body: Incoming) -> DrainOnDrop {
        DrainOnDrop { body: Some(body), unasked: headers.contains_key(header::EXPECT) }
    }
}

impl Body for DrainOnDrop {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.unasked = false;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !self.unasked && !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(DISCARDED_WITHIN, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = DISCARDED_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// Why a body or an answer has no room among the bytes of all of them, which are bounded so that many clients together cannot
/// fill the memory.
pub(super) fn no_room(over: Over) -> Error {
    let Over { used, most } = over;
    Error::overloaded(format!(
        "{used} bytes of bodies and answers are under way; all_bodies_bytes allows {most} at once; try again later"
    ))
}

/// A body read part by part, with a limit on all its bytes and on the time between two parts.
pub(super) struct Limited<B> {
    body: B,
    left_bytes: u64,
    limit_bytes: u64,
    limit_name: &'static str,
    idle: Duration,
}

impl<B> Limited<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Takes a body whose bytes `limit_name` limits to `limit_bytes`. A body that announces more is refused at once.
    pub(super) fn new(body: B, limit_name: &'static str, limit_bytes: u64, idle_ms: u64) -> Result<Limited<B>> {
        let idle = Duration::from_millis(idle_ms);
        let limited = Limited { body, left_bytes: limit_bytes, limit_bytes, limit_name, idle };
        if limited.body.size_hint().lower() > limit_bytes {
            return Err(limited.too_large());
        }
        Ok(limited)
    }

    /// The bytes that the client announced, where it did.
    pub(super) fn announced_bytes(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next part, or `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
            let frame = frame.map_err(|_| {
                let message = format!("no part of the body came for {} ms (body_idle_ms)", self.idle.as_millis());
                Error::malformed(message)
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Error::malformed("the body ended before it was whole").with_source(error));
                }
                Some(Ok(frame)) => {
                    // Trailers carry nothing that hearth reads.
                    let Ok(data) = frame.into_data() else { continue };
                    self.left_bytes = self.left_bytes.checked_sub(data.len() as u64).ok_or_else(|| self.too_large())?;
                    return Ok(Some(data));
                }
            }
        }
    }

    /// The whole body, out of a budget that many share.
    ///
    /// Errors: also `overloaded` where the budget has no room.
    pub(super) async fn collect_within(self, share: &mut Share) -> Result<Vec<u8>> {
        self.read(|bytes| share.try_grow(bytes).map_err(no_room)).await
    }

    /// The whole body.
    pub(super) async fn collect(self) -> Result<Vec<u8>> {
        self.read(|_| Ok(())).await
    }

    async fn read(mut self, mut claim: impl FnMut(u64) -> Result<()>) -> Result<Vec<u8>> {
        // An announced length is a claim: memory is taken as bytes arrive beyond the first MiB.
        let announced = self.announced_bytes().unwrap_or(0).min(1 << 20);
        let mut bytes = Vec::with_capacity(announced as usize);
        while let Some(part) = self.next().await? {
            claim(part.len() as u64)?;
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    fn too_large(&self) -> Error {
        let (name, limit) = (self.limit_name, self.limit_bytes);
        Error::too_large(format!("the body is larger than {limit} bytes; {name} sets that"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::gate::Budget;
    use http_body_util::{Full, StreamBody};

    #[tokio::test]
    async fn a_body_over_its_limit_is_too_large_announced_or_not() {
        let announced = Limited::new(Full::new(Bytes::from_static(b"12345")), "body_bytes", 4, 1000);
        assert_eq!(announced.err().unwrap().kind(), Kind::TooLarge);
        let parts = (0..5).map(|_| Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"1"))));
        let streamed = StreamBody::new(futures_util::stream::iter(parts));
        let streamed = Limited::new(streamed, "body_bytes", 4, 1000).unwrap();
        assert_eq!(streamed.collect().await.unwrap_err().kind(), Kind::TooLarge);
        let exact = Limited::new(Full::new(Bytes::from_static(b"1234")), "body_bytes", 4, 1000).unwrap();
        assert_eq!(exact.collect().await.unwrap(), b"1234");
    }

    #[tokio::test]
    async fn many_bodies_share_a_budget() {
        let budget = Budget::new(10);
        let body = |text: &'static str| {
            Limited::new(Full::new(Bytes::from_static(text.as_bytes())), "body_bytes", 100, 1000).unwrap()
        };
        let (mut first, mut second) = (budget.share(), budget.share());
        assert_eq!(body("123456").collect_within(&mut first).await.unwrap(), b"123456");
        let refused = body("12345").collect_within(&mut second).await.unwrap_err();
        assert!(refused.kind() == Kind::Overloaded && refused.message().contains("all_bodies_bytes"), "{refused}");
        drop(first);
        assert_eq!(body("12345").collect_within(&mut second).await.unwrap(), b"12345");
    }

    #[tokio::test]
    async fn a_body_that_stalls_is_given_up() {
        let stalled =
            StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>());
        let error = Limited::new(stalled, "body_bytes", 4, 20).unwrap().collect().await.unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
    }
}
