//! Uploads that come in parts, over connections that break, and the bodies of models; it never knows what is in one.
//!
//! The core of tus 1.0 (https://tus.io/protocols/resumable-upload): `POST` makes an upload, `HEAD` tells its `Upload-Offset`,
//! `PATCH` goes on from there, `DELETE` gives it up. It becomes a model by `PUT /v1/models/{name}?upload={id}`.

use super::routes::{Refusal, Reply, limited, ok};
use super::{App, Tenant};
use crate::catalog::{ModelUpload, UploadStatus, WholeUpload, check_name};
use crate::error::{Error, Result};
use axum::extract::{Extension, FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const OFFSET: &str = "upload-offset";
const LENGTH: &str = "upload-length";
/// By these clients of tus know their server.
const TUS: (&str, &str) = ("tus-resumable", "1.0.0");

/// An upload that a path names, or all of them.
pub(super) struct Target {
    tenant: String,
    id: String,
}

impl FromRequestParts<Arc<App>> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut http::request::Parts, app: &Arc<App>) -> Result<Target, Refusal> {
        let tenant = Extension::from_request_parts(parts, app).await;
        let Extension(Tenant(tenant)) = tenant.map_err(|error| Error::host("reading a request", error))?;
        check_name("tenant", &tenant, &app.config.limits)?;
        let id = Option::<Path<String>>::from_request_parts(parts, app).await;
        let id = id.map_err(|error| Error::invalid_argument(format!("the path has no valid id: {error}")))?;
        Ok(Target { tenant, id: id.map_or_else(String::new, |Path(id)| id) })
    }
}

/// Begins an upload: 201 with its place in `Location`. `Upload-Length` says how many bytes it will have, where that is known.
pub(super) async fn begin(State(app): State<Arc<App>>, Target { tenant, .. }: Target, request: Request) -> Reply {
    let length = number(request.headers(), LENGTH)?;
    if request.body().size_hint().lower() > 0 {
        return Err(Error::invalid_argument(
            "beginning an upload takes no body; send it with PATCH to what this gives",
        )
        .into());
    }
    let status = app.catalog.begin_upload(&tenant, length).await?;
    let below = if tenant == "default" { String::new() } else { format!("/t/{tenant}") };
    let location = format!("{below}/v1/uploads/{}", status.id);
    let body = json!(status).to_string();
    let headers = [(header::LOCATION, location), (header::CONTENT_TYPE, "application/json".to_owned())];
    Ok(told(&status, (StatusCode::CREATED, headers, body)))
}

/// The tenant's open uploads.
pub(super) async fn list(State(app): State<Arc<App>>, Target { tenant, .. }: Target) -> Reply {
    ok(&json!({ "uploads": app.catalog.uploads(&tenant).await? }))
}

/// Where an upload stands; `HEAD` has it in the headers.
pub(super) async fn get(State(app): State<Arc<App>>, Target { tenant, id }: Target) -> Reply {
    let status = app.catalog.upload(&tenant, &id).await?;
    let mut response = told(&status, ok(&json!(status))?);
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Goes on at `Upload-Offset`. Whatever came before the connection broke is kept.
pub(super) async fn append(State(app): State<Arc<App>>, Target { tenant, id }: Target, request: Request) -> Reply {
    let limits = &app.config.limits;
    let offset = number(request.headers(), OFFSET)?.ok_or_else(|| {
        Error::invalid_argument("PATCH needs the header Upload-Offset: where the part begins, as HEAD tells it")
    })?;
    let mut body = limited(request, limits, "model_bytes", limits.model_bytes.saturating_sub(offset))?;
    let mut part = app.catalog.continue_upload(&tenant, &id, offset).await?;
    let failed = loop {
        let next = tokio::select! {
            next = body.next() => next,
            () = part.taken_over() => Err(Error::conflict("another request goes on with this upload")),
        };
        match next {
            Ok(Some(data)) => part.write(&data).await?,
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let status = part.finish().await?;
    match failed {
        None => Ok(told(&status, StatusCode::NO_CONTENT)),
        Some(error) => Err(error.into()),
    }
}

/// Gives an upload up.
pub(super) async fn delete(State(app): State<Arc<App>>, Target { tenant, id }: Target) -> Reply {
    app.catalog.delete_upload(&tenant, &id).await?;
    Ok(([TUS], StatusCode::NO_CONTENT).into_response())
}

/// A response that tells where an upload stands.
fn told(status: &UploadStatus, response: impl IntoResponse) -> Response {
    let length = status.length.map(|length| [(LENGTH, length.to_string())]);
    match length {
        Some(length) => {
            ([TUS], [(OFFSET, status.offset.to_string())], length, response.into_response()).into_response()
        }
        None => ([TUS], [(OFFSET, status.offset.to_string())], response.into_response()).into_response(),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| Error::invalid_argument(format!("the header {name} is no count of bytes")))
}

/// Takes a model out of a request: its body, or the upload of that id, which is to be removed once the model is stored. Its
/// bytes are compared with the digest, where one is given.
///
/// Errors: those of [`crate::catalog::ModelWriter`] and of uploads; `invalid-argument` where the digest is another.
pub(super) async fn model(
    app: &App,
    tenant: &str,
    upload: Option<String>,
    digest: Option<String>,
    request: Request,
) -> Result<(ModelUpload, Option<WholeUpload>)> {
    let limits = &app.config.limits;
    let wanted = digest.as_deref().map(sha256_of).transpose()?;
    let mut hasher = wanted.as_ref().map(|_| Sha256::new());
    let mut writer = app.catalog.begin_model();
    let Some(id) = upload else {
        let mut body = limited(request, limits, "model_bytes", limits.model_bytes)?;
        while let Some(part) = body.next().await? {
            if let Some(hasher) = &mut hasher {
                hasher.update(&part);
            }
            writer.write(&part).await?;
        }
        same(wanted, hasher)?;
        return Ok((writer.finish().await?, None));
    };
    if request.body().size_hint().exact() != Some(0) {
        return Err(Error::invalid_argument("the query names an upload, so the request takes no body"));
    }
    let mut whole = app.catalog.whole_upload(tenant, &id, hasher).await?;
    while let Some(part) = whole.next().await? {
        writer.write(part).await?;
    }
    if let Err(error) = same(wanted, whole.take_hasher()) {
        whole.remove().await;
        return Err(error);
    }
    Ok((writer.finish().await?, Some(whole)))
}

/// The digest in `sha256:HEX`.
fn sha256_of(text: &str) -> Result<String> {
    let hex = text.strip_prefix("sha256:").map(str::to_ascii_lowercase);
    hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).ok_or_else(|| {
        Error::invalid_argument("the digest is not sha256: and 64 hexadecimal digits, as sha256sum prints them")
    })
}

fn same(wanted: Option<String>, hasher: Option<Sha256>) -> Result<()> {
    let (Some(wanted), Some(hasher)) = (wanted, hasher) else { return Ok(()) };
    let found = hex::encode(hasher.finalize());
    if found == wanted {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "the SHA-256 of what came is {found}, and was said to be {wanted}: it was damaged on the way; send it again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_told_from_other_words() {
        let hex = "0F".repeat(32);
        assert_eq!(sha256_of(&format!("sha256:{hex}")).unwrap(), hex.to_lowercase());
        for wrong in ["", &hex, "sha256:0f", "md5:00", &format!("sha256:{hex}0"), &format!("sha256:{}", "x".repeat(64))]
        {
            assert!(sha256_of(wrong).unwrap_err().message().contains("sha256sum"), "{wrong}");
        }
    }
}
