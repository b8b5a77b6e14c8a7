//! The server itself over HTTP: whether it lives, is ready, what it does; it changes nothing.

use super::app::{App, Refusal, Reply};
use crate::api::{ErrorBody, Status};
use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::header;
use std::sync::Arc;

/// Answers as long as the process serves at all.
#[utoipa::path(get, path = "/livez", tag = "system", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Answers 200 while requests can be served, else 503.
#[utoipa::path(
    get, path = "/readyz", tag = "system",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 503, body = ErrorBody, description = "the catalog or the device cannot be used"),
    ),
)]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, Refusal> {
    app.deployments.ready().await?;
    Ok("ready\n")
}

/// Numbers in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, Refusal> {
    let text = app.deployments.metrics().await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}

/// What the server is doing, and its limits.
#[utoipa::path(get, path = "/v1/status", tag = "system", responses((status = 200, body = Status)))]
pub(super) async fn status(State(app): State<Arc<App>>) -> Reply<Status> {
    Ok(Json(app.deployments.status().await?))
}
