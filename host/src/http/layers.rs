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

pub(super) type Request = http::Request<DrainOnDrop>;

/// What answers requests, or refuses them.
pub(super) trait Answers:
    Service<Request, Response = Answer, Error = Refusal, Future: Send> + Clone + Send
{
}

impl<S> Answers for S where S: Service<Request, Response = Answer, Error = Refusal, Future: Send> + Clone + Send {}

/// Gives each request an identity, and makes the answers of refusals with it.
pub(super) fn identify(
    inner: impl Answers,
) -> impl Service<Request, Response = Answer, Error = Infallible, Future: Send> + Clone + Send {
    service_fn(move |mut request: Request| {
        let mut inner = inner.clone();
        async move {
            let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
            request.extensions_mut().insert(RequestId(id.clone()));
            let mut answer = inner.call(request).await.unwrap_or_else(|refusal| refusal.answer(&id));
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
                origin::check(request.headers(), request.uri())?;
            }
            inner.call(request).await
        }
    })
}

/// Takes `/t/{tenant}` off the path.
pub(super) fn read_tenant(inner: impl Answers) -> impl Answers {
    let default: Arc<str> = "default".into();
    service_fn(move |mut request: Request| {
        let mut inner = inner.clone();
        let mut tenant = default.clone();
        if let Some(below) = request.uri().path().strip_prefix("/t/") {
            let (name, rest) = below.split_once('/').unwrap_or((below, ""));
            tenant = name.into();
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            *request.uri_mut() = format!("/{rest}{query}").parse::<Uri>().unwrap_or_default();
        }
        request.extensions_mut().insert(Tenant(tenant));
        async move { inner.call(request).await }
    })
}

/// Covers the work for each request with a span, which the spans of invocation and model runs lie in.
pub(super) fn trace(inner: impl Answers) -> impl Answers {
    service_fn(move |request: Request| {
        let mut inner = inner.clone();
        let extensions = request.extensions();
        let span = tracing::debug_span!(
            "request",
            id = extensions.get::<RequestId>().map(|id| &*id.0),
            tenant = extensions.get::<Tenant>().map(|tenant| &*tenant.0),
            method = %request.method(),
            path = request.uri().path(),
        );
        async move { inner.call(request).await }.instrument(span)
    })
}
