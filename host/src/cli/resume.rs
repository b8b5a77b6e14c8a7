//! Uploads in parts, which continue after a connection broke or a server restarted; it never chooses what is sent.

use super::client::{Client, Refused, encode, full};
use super::source::Source;
use super::upload::{rest, waiting};
use crate::api::{ModelPut, UploadStatus};
use anyhow::{Context, Result, anyhow, bail};
use http::{HeaderMap, HeaderValue, Method, header};
use indicatif::ProgressBar;
use std::sync::Arc;
use std::time::Duration;

/// Successive failures without any progress. With the waits between them they take a minute.
const TRIES: u32 = 12;
const SHORTEST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
const OFFSET: &str = "upload-offset";
const LENGTH: &str = "upload-length";

/// An upload of a source to one server.
pub(super) struct Resumable<'a> {
    client: &'a Client,
    source: Arc<Source>,
    progress: &'a ProgressBar,
    id: String,
}

impl<'a> Resumable<'a> {
    /// Begins an upload, or resumes an earlier one.
    ///
    /// Errors: the server's; `id` is of an upload of another length.
    pub(super) async fn begin(
        client: &'a Client,
        source: Arc<Source>,
        progress: &'a ProgressBar,
        id: Option<String>,
    ) -> Result<Resumable<'a>> {
        if let Some(id) = id {
            let this = Resumable { client, source, progress, id };
            let (offset, length) = this.status().await?;
            let (length, bytes) = (length.unwrap_or(this.source.bytes()), this.source.bytes());
            if length != bytes || offset > length {
                bail!("upload {} has {length} bytes, but these files have {bytes}: it is another upload", this.id);
            }
            return Ok(this);
        }
        let mut headers = HeaderMap::new();
        headers.insert(LENGTH, HeaderValue::from(source.bytes()));
        let begun: UploadStatus = client.call(Method::POST, "/v1/uploads", headers, full("")).await?;
        Ok(Resumable { client, source, progress, id: begun.id })
    }

    /// Sends everything, then stores it as a model, with further query parameters, and gives the server's answer. An upload that
    /// cannot succeed is removed from the server.
    pub(super) async fn store_as(self, model: &str, query: &str, working: &'static str) -> Result<ModelPut> {
        let source = self.source.clone();
        let digest = tokio::task::spawn_blocking(move || source.sha256());
        self.send().await?;
        waiting(self.progress, working);
        let digest = digest.await?.context("reading what was uploaded")?;
        let path = format!("/v1/models/{}?upload={}&digest=sha256:{digest}&{query}", encode(model), encode(&self.id));
        let answer = self.client.call(Method::PUT, &path, HeaderMap::new(), full("")).await;
        let Err(error) = answer else { return answer };
        if is_final(&error) {
            // If this fails, the server removes it when it was idle for long enough.
            drop(self.client.exchange(Method::DELETE, &self.path(), HeaderMap::new(), full("")).await);
            return Err(error);
        }
        Err(error.context(format!(
            "everything was sent, but the server did not confirm that it is stored; `hearth model list` shows whether \
             it is, and the same command with --resume {} tries again",
            self.id
        )))
    }

    async fn send(&self) -> Result<()> {
        let total = self.source.bytes();
        let (mut offset, _) = self.status().await?;
        let mut failures = 0;
        while offset < total {
            let Err(error) = self.part(offset).await else { return Ok(()) };
            self.source.check()?;
            // A body that arrived too slowly is also a 400.
            if is_final(&error) && error.downcast_ref::<Refused>().is_none_or(|refused| refused.status != 400) {
                return Err(error);
            }
            let before = offset;
            loop {
                failures += 1;
                if failures > TRIES {
                    let resume = format!("the same command with --resume {} continues", self.id);
                    return Err(error.context(format!("the upload has {offset} of {total} bytes; {resume}")));
                }
                self.progress.suspend(|| {
                    if failures == 1 {
                        eprintln!("hearth: {error:#}; continuing the upload");
                    }
                });
                tokio::time::sleep(LONGEST_WAIT.min(SHORTEST_WAIT * 2u32.saturating_pow(failures - 1))).await;
                match self.status().await {
                    Ok((now, _)) => {
                        offset = now;
                        break;
                    }
                    Err(error) if is_final(&error) => return Err(error),
                    Err(_) => {}
                }
            }
            if offset > before {
                failures = 0;
            }
        }
        Ok(())
    }

    /// Sends everything after an offset.
    async fn part(&self, offset: u64) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert(OFFSET, HeaderValue::from(offset));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.source.bytes() - offset));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/offset+octet-stream"));
        let body = rest(&self.source, offset, self.progress, None);
        let (headers, _) = self.client.exchange(Method::PATCH, &self.path(), headers, body).await?;
        match count(&headers, OFFSET) {
            Some(there) if there == self.source.bytes() => Ok(()),
            there => Err(anyhow!("the server has {there:?} bytes of {}", self.source.bytes())),
        }
    }

    /// The upload's offset on the server, and its final length.
    async fn status(&self) -> Result<(u64, Option<u64>)> {
        let UploadStatus { offset, length, .. } = self.client.get(&self.path()).await?;
        Ok((offset, length))
    }

    fn path(&self) -> String {
        format!("/v1/uploads/{}", encode(&self.id))
    }
}

/// Whether the same request cannot succeed later either: the server is not busy or restarting, and is not still writing what it
/// received over an earlier connection.
fn is_final(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(|refused| !matches!(refused.status, 408 | 409 | 429 | 500 | 502 | 503 | 504))
}

fn count(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
