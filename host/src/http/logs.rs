//! `GET /v1/functions/{name}/logs`: what is asked for, and the reply's form.

use super::app::{App, Refusal};
use super::extract::Named;
use crate::api::{ErrorBody, LogLines};
use crate::error::Error;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::{Uri, header};
use std::sync::Arc;

/// Which lines are asked for.
#[derive(Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    /// 1: after the lines kept come the new ones, a JSON object a line, until the client leaves.
    follow: Option<String>,
    /// The newest so many lines.
    limit: Option<u64>,
    /// Lines from so many milliseconds after 1970 on.
    since_ms: Option<u64>,
}

/// Shows the log of a function.
///
/// The lines kept, oldest first. With `follow=1` the same lines and then each new one, a JSON object a line
/// (`application/x-ndjson`), until the client leaves, the function is deleted or the server ends.
#[utoipa::path(
    get, path = "/v1/functions/{name}/logs", tag = "functions",
    params(("name" = String, Path, description = "the function"), Asked),
    responses(
        (status = 200, body = LogLines),
        (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody, description = "`log_readers` or `log_followers` is reached"),
    ),
)]
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Named { tenant, name, .. }: Named,
    uri: Uri,
) -> Result<Response, Refusal> {
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
    let log = app.deployments.function_log(&tenant, &name).await?;
    let (most, since_ms) = (asked.limit.unwrap_or(u64::MAX), asked.since_ms.unwrap_or(0));
    if follow {
        let body = app.followers.follow(log, most, since_ms)?;
        return Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response());
    }
    let (length, body) = app.followers.read(&log, most, since_ms)?;
    let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, body).into_response())
}
