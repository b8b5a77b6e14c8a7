//! Removes blobs and packages that nothing refers to; it never touches what an upload holds.

use super::blobs::{BlobStore, blocking};
use super::versions::referenced;
use crate::error::{Error, Result};
use sqlx::SqlitePool;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// Digests that are looked up in one batch, before any of them is removed.
const AT_ONCE: usize = 256;

/// First removes what an earlier process left unreferenced, then what loses its last reference. Waits `grace` before each
/// removal, so that invocations that resolved a name before it was deleted still find its blobs. Runs until the sender of
/// `stopped` is dropped.
pub(super) async fn keep_collecting(
    blobs: Arc<BlobStore>,
    pool: SqlitePool,
    grace: Duration,
    mut stopped: oneshot::Receiver<()>,
) {
    let all = {
        let blobs = Arc::clone(&blobs);
        blocking(move || everything(&blobs)).await
    };
    let mut candidates = all.unwrap_or_else(|error| {
        tracing::warn!(error = error.chain(), "cannot list the data folder");
        Vec::new()
    });
    loop {
        let mut removed = 0;
        for some in candidates.chunks(AT_ONCE) {
            if !matches!(stopped.try_recv(), Err(TryRecvError::Empty)) {
                return;
            }
            match collect(&blobs, &pool, some.to_vec()).await {
                Ok(count) => removed += count,
                Err(error) => tracing::warn!(error = error.chain(), "cannot remove blobs that nothing refers to"),
            }
        }
        if removed > 0 {
            tracing::info!(removed, "removed blobs and packages that nothing refers to");
        }
        let batch = async {
            blobs.released.notified().await;
            let batch = blobs.take_loose();
            tokio::time::sleep(grace).await;
            batch
        };
        candidates = tokio::select! {
            _ = &mut stopped => return,
            batch = batch => batch,
        };
    }
}

/// Removes those of `candidates` that no version refers to and no upload holds. Gives the number of removed ones. Only one
/// collection runs at a time.
pub(super) async fn collect(blobs: &Arc<BlobStore>, pool: &SqlitePool, candidates: Vec<String>) -> Result<u64> {
    let doomed = blobs.doom(candidates);
    let mut loose = Vec::new();
    for digest in &doomed {
        match referenced(pool, digest).await {
            Ok(false) => loose.push(digest.clone()),
            Ok(true) => {}
            Err(error) => {
                blobs.spare(&doomed);
                return Err(error);
            }
        }
    }
    let blobs = Arc::clone(blobs);
    blocking(move || {
        let mut removed = 0;
        let mut first_error = None;
        for digest in &loose {
            match blobs.remove_doomed(digest) {
                Ok(true) => removed += 1,
                Ok(false) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        blobs.spare(&doomed);
        first_error.map_or(Ok(removed), Err)
    })
    .await
}

/// The digests of all blobs and packages.
pub(super) fn everything(blobs: &BlobStore) -> Result<Vec<String>> {
    let failed = |error| Error::storage("listing the data folder", error);
    let mut digests = Vec::new();
    let mut list = |folder: &Path| -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string()
                && is_digest(&name)
            {
                digests.push(name);
            }
        }
        Ok(())
    };
    for first in 0..=u8::MAX {
        list(&blobs.folder.blobs().join(format!("{first:02x}"))).map_err(failed)?;
    }
    list(&blobs.folder.packages()).map_err(failed)?;
    Ok(digests)
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
