//! What happens to every request before it is answered, as layers in front of the router and of functions: it gets an identity,
//! its origin is checked, its tenant is read from the path, and a span covers it.

use super::app::{Refusal, RequestId, Tenant};
use super::body::DrainOnDrop;
use super::connection::Answer;
use super::origin;
use http::{HeaderValue, Uri};
use std::convert::Infallible;
use std::sync::Arc;
use tower::{Service, service_fn};
use tracing::Instrument;

/// A request, and what the layers found out about it. Not in its extensions: these are a map, which costs every request some
/// allocations.
pub(super) struct Request {
    pub(super) http: http::Request<DrainOnDrop>,
    pub(super) id: RequestId,
    pub(super) tenant: Tenant,
}

/// What answers requests, or refuses them.
pub(super) trait Answers:
    Service<Request, Response = Answer, Error = Refusal, Future: Send> + Clone + Send
{
}

impl<S> Answers for S where S: Service<Request, Response = Answer, Error = Refusal, Future: Send> + Clone + Send {}

/// Gives each request an identity, and makes the answers of refusals with it.
pub(super) fn identify(
    inner: impl Answers,
) -> impl Service<http::Request<DrainOnDrop>, Response = Answer, Error = Infallible, Future: Send> + Clone + Send {
    let default: Arc<str> = "default".into();
    service_fn(move |http| {
        let mut inner = inner.clone();
        let tenant = Tenant(default.clone());
        async move {
            let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
            let answer = inner.call(Request { http, id: RequestId(id.clone()), tenant }).await;
            let mut answer = answer.unwrap_or_else(|refusal| refusal.answer(&id));
            if let Ok(value) = HeaderValue::from_str(&id) {
                answer.headers_mut().insert("hearth-request-id", value);
            }
            Ok(answer)
        }
    })
}

/// On a loopback listener, refuses requests that pages of other sites send; see [`origin`].
pub(super) fn check_origin(is_loopback: bool, inner: impl Answers) -> impl Answers {
    service_fn(move |request: Request| {
        let mut inner = inner.clone();
        async move {
            if is_loopback {
                origin::check(request.http.headers(), request.http.uri())?;
            }
            inner.call(request).await
        }
    })
}

/// Takes `/t/{tenant}` off the path; without it, the tenant is `default`.
pub(super) fn read_tenant(inner: impl Answers) -> impl Answers {
    service_fn(move |mut request: Request| {
        let mut inner = inner.clone();
        if let Some(below) = request.http.uri().path().strip_prefix("/t/") {
            let (name, rest) = below.split_once('/').unwrap_or((below, ""));
            request.tenant = Tenant(name.into());
            let query = request.http.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            *request.http.uri_mut() = format!("/{rest}{query}").parse::<Uri>().unwrap_or_default();
        }
        inner.call(request)
    })
}

/// Covers the work for each request with a span, which the spans of invocation and model runs lie in.
pub(super) fn trace(inner: impl Answers) -> impl Answers {
    service_fn(move |request: Request| {
        let Request { http, id, tenant } = &request;
        let span = tracing::debug_span!(
            "request",
            id = &*id.0,
            tenant = &*tenant.0,
            method = %http.method(),
            path = http.uri().path(),
        );
        inner.clone().call(request).instrument(span)
    })
}
