//! The one table from error kinds to HTTP statuses, and the JSON of an error; it never chooses an error's kind.

use super::connection::{Answer, Content};
use crate::api::{ErrorBody, ErrorDetail};
use crate::error::{Error, Kind};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

/// The status of each kind of error.
pub(super) fn of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Malformed => StatusCode::BAD_REQUEST,
        Kind::PermissionDenied => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::InvalidArgument | Kind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::LimitExceeded | Kind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        // No client reads it: the client has left. The number is nginx's and appears in the log.
        Kind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::HandlerFailed => StatusCode::BAD_GATEWAY,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Kind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The answer of an error.
pub(super) fn answer(error: &Error, status: StatusCode, request_id: &str) -> Answer {
    let detail = ErrorDetail {
        kind: error.kind().as_str().to_owned(),
        message: error.message().to_owned(),
        request_id: Some(request_id.to_owned()),
    };
    // Text always has a JSON form.
    let body = serde_json::to_vec(&ErrorBody { error: detail }).unwrap_or_default();
    let mut response = Answer::new(Content::Bytes(Bytes::from(body), None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(error.kind(), Kind::Overloaded) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_an_error_status() {
        for kind in Kind::ALL {
            assert!(of(kind).as_u16() >= 400, "{kind}");
        }
    }
}
