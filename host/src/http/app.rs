//! What every request needs, and what it is answered with; it answers none itself.

use super::connection::Answer;
use super::followers::Followers;
use super::status;
use crate::config::Limits;
use crate::deploy::Deployments;
use crate::error::{Error, Kind};
use crate::gate::Budget;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use std::sync::Arc;

/// What every request needs.
pub(super) struct App {
    pub(super) deployments: Deployments,
    pub(super) followers: Followers,
    /// The bytes of all bodies that are being read or answered, and of answers that are being taken.
    pub(super) bodies: Budget,
}

impl App {
    pub(super) fn new(deployments: Deployments) -> App {
        let limits = deployments.limits();
        App { followers: Followers::new(limits), bodies: Budget::new(limits.all_bodies_bytes), deployments }
    }

    pub(super) fn limits(&self) -> &Limits {
        self.deployments.limits()
    }
}

/// What a handler of the control plane answers with.
pub(super) type Reply<T> = Result<Json<T>, Refusal>;

/// The identity of a request.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// The tenant that a request is for: `default`, or the one in `/t/{tenant}/…`. Handlers of the control plane find it in the
/// request's extensions.
#[derive(Clone)]
pub(super) struct Tenant(pub(super) Arc<str>);

/// An error on its way to the client. Its answer is made where the request's identity is known.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    error: Arc<Error>,
    status: StatusCode,
}

impl Refusal {
    /// A refusal with another status than that of the error's kind.
    pub(super) fn with_status(error: Error, status: StatusCode) -> Refusal {
        Refusal { error: Arc::new(error), status }
    }

    /// The answer. Failures of the host go to its log with their causes.
    pub(super) fn answer(&self, request_id: &str) -> Answer {
        let error = &*self.error;
        if error.kind() == Kind::Internal {
            tracing::error!(request = request_id, "{}", error.chain());
        } else {
            tracing::debug!(request = request_id, kind = %error.kind(), "{}", error.chain());
        }
        status::answer(error, self.status, request_id)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = status::of(error.kind());
        Refusal::with_status(error, status)
    }
}

/// Through axum's router a refusal goes as an extension of an empty response.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        response.extensions_mut().insert(self);
        response
    }
}
