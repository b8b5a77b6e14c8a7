//! Work that goes on when its caller leaves: what is stored and what is served must not part because a client hung up. It
//! never knows what the work is.

use crate::error::{Error, Result};
use std::future::Future;

/// Does `work` to its end, even where the caller stops waiting for it. `what` names it in the error of a panic.
pub(crate) async fn detached<T: Send + 'static>(
    what: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::host(what, error)),
    }
}
