//! Uploads in parts, over connections that break; it never knows what is in one.
//!
//! The core of tus 1.0 (https://tus.io/protocols/resumable-upload): `POST` makes an upload, `HEAD` tells its `Upload-Offset`,
//! `PATCH` goes on from there, `DELETE` gives it up. It becomes a model by `PUT /v1/models/{name}?upload={id}`.

use super::app::{App, Refusal, Reply};
use super::extract::{OfTenant, OfUpload, limited};
use crate::api::{ErrorBody, UploadList, UploadStatus};
use crate::error::{Error, Result};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use std::sync::Arc;

const OFFSET: &str = "upload-offset";
const LENGTH: &str = "upload-length";
/// Clients of tus recognise their server by this header.
const TUS: (&str, &str) = ("tus-resumable", "1.0.0");

/// Begins an upload.
///
/// 201 with its place in `Location`. `Upload-Length` says how many bytes it will have, where that is known.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "uploads",
    params(("upload-length" = Option<u64>, Header, description = "how many bytes it will have")),
    responses(
        (status = 201, body = UploadStatus, headers(("location" = String), ("upload-offset" = u64))),
        (status = 413, body = ErrorBody, description = "more than `model_bytes`"),
        (status = 429, body = ErrorBody, description = "`open_uploads` or `open_uploads_bytes` is reached"),
    ),
)]
pub(super) async fn begin(
    State(app): State<Arc<App>>,
    OfTenant(tenant): OfTenant,
    request: Request,
) -> Result<Response, Refusal> {
    let length = number(request.headers(), LENGTH)?;
    if request.body().size_hint().lower() > 0 {
        let message = "beginning an upload takes no body; send it with PATCH to what this gives";
        return Err(Error::invalid_argument(message).into());
    }
    let status = app.deployments.uploads().begin(&tenant, length).await?;
    let below = if tenant == "default" { String::new() } else { format!("/t/{tenant}") };
    let location = [(header::LOCATION, format!("{below}/v1/uploads/{}", status.id))];
    Ok(with_offset(&status, (StatusCode::CREATED, location, Json(&status))))
}

/// Lists the open uploads.
#[utoipa::path(get, path = "/v1/uploads", tag = "uploads", responses((status = 200, body = UploadList)))]
pub(super) async fn list(State(app): State<Arc<App>>, OfTenant(tenant): OfTenant) -> Reply<UploadList> {
    Ok(Json(UploadList { uploads: app.deployments.uploads().list(&tenant).await? }))
}

/// Shows where an upload stands; `HEAD` has it in the headers.
#[utoipa::path(
    get, path = "/v1/uploads/{id}", tag = "uploads", params(("id" = String, Path, description = "the upload")),
    responses(
        (status = 200, body = UploadStatus, headers(("upload-offset" = u64), ("upload-length" = u64))),
        (status = 404, body = ErrorBody),
    ),
)]
pub(super) async fn get(State(app): State<Arc<App>>, OfUpload { tenant, id }: OfUpload) -> Result<Response, Refusal> {
    let status = app.deployments.uploads().status(&tenant, &id).await?;
    Ok(with_offset(&status, ([(header::CACHE_CONTROL, "no-store")], Json(&status))))
}

/// Appends to an upload at `Upload-Offset`.
///
/// What came before the connection broke is kept. A request that still writes to the upload is ended.
#[utoipa::path(
    patch, path = "/v1/uploads/{id}", tag = "uploads",
    params(
        ("id" = String, Path, description = "the upload"),
        ("upload-offset" = u64, Header, description = "where the part begins, as HEAD tells it"),
    ),
    request_body(content = Vec<u8>, content_type = "application/offset+octet-stream"),
    responses(
        (status = 204, headers(("upload-offset" = u64))),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the upload stands elsewhere, is being stored, or was taken over"),
    ),
)]
pub(super) async fn append(
    State(app): State<Arc<App>>,
    OfUpload { tenant, id }: OfUpload,
    request: Request,
) -> Result<Response, Refusal> {
    let offset = number(request.headers(), OFFSET)?.ok_or_else(|| {
        Error::invalid_argument("PATCH needs the header Upload-Offset: where the part begins, as HEAD tells it")
    })?;
    let mut body = limited(request, &app, "model_bytes", app.limits().model_bytes.saturating_sub(offset))?;
    let mut part = app.deployments.uploads().append(&tenant, &id, offset).await?;
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
        None => Ok(with_offset(&status, StatusCode::NO_CONTENT)),
        Some(error) => Err(error.into()),
    }
}

/// Gives an upload up.
#[utoipa::path(
    delete, path = "/v1/uploads/{id}", tag = "uploads", params(("id" = String, Path, description = "the upload")),
    responses((status = 204), (status = 404, body = ErrorBody)),
)]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    OfUpload { tenant, id }: OfUpload,
) -> Result<Response, Refusal> {
    app.deployments.uploads().delete(&tenant, &id).await?;
    Ok(([TUS], StatusCode::NO_CONTENT).into_response())
}

/// A response with the headers of where an upload stands.
fn with_offset(status: &UploadStatus, response: impl IntoResponse) -> Response {
    let length = status.length.map(|length| [(LENGTH, length.to_string())]);
    ([TUS], [(OFFSET, status.offset.to_string())], length, response).into_response()
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| Error::invalid_argument(format!("the header {name} is no count of bytes")))
}
