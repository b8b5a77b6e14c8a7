//! What control-plane handlers take out of requests: tenants and names from paths, JSON from bodies, each checked; it never acts
//! on them.

use super::app::{App, Refusal, Tenant};
use super::body::Limited;
use crate::catalog::{Selector, check_name};
use crate::error::{Error, Kind, Result};
use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, RawPathParams, Request};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::request::Parts;
use std::sync::Arc;

/// The tenant of a request, by a valid name.
pub(super) struct OfTenant(pub(super) String);

/// A function or model that the path names, and perhaps an alias of it.
pub(super) struct Named {
    pub(super) tenant: String,
    pub(super) name: String,
    pub(super) alias: String,
}

/// A model that the path names as NAME, NAME@VERSION or NAME@ALIAS.
pub(super) struct Selected {
    pub(super) tenant: String,
    pub(super) selector: String,
}

/// An upload in parts that the path names.
pub(super) struct OfUpload {
    pub(super) tenant: String,
    pub(super) id: String,
}

impl FromRequestParts<Arc<App>> for OfTenant {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<OfTenant, Refusal> {
        let tenant = Extension::from_request_parts(parts, app).await;
        let Extension(Tenant(tenant)) = tenant.map_err(|error| Error::host("reading a request", error))?;
        check_name("tenant", &tenant, app.limits())?;
        Ok(OfTenant(tenant.to_string()))
    }
}

impl FromRequestParts<Arc<App>> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Named, Refusal> {
        let OfTenant(tenant) = OfTenant::from_request_parts(parts, app).await?;
        let mut named = Named { tenant, name: String::new(), alias: String::new() };
        for (key, value) in &path_parameters(parts, app).await? {
            if key == "name" {
                check_name("name", value, app.limits())?;
                named.name = value.to_owned();
            } else {
                named.alias = value.to_owned();
            }
        }
        Ok(named)
    }
}

impl FromRequestParts<Arc<App>> for Selected {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Selected, Refusal> {
        let OfTenant(tenant) = OfTenant::from_request_parts(parts, app).await?;
        let parameters = path_parameters(parts, app).await?;
        let selector = parameters.iter().map(|(_, value)| value.to_owned()).next().unwrap_or_default();
        Selector::parse(&selector, app.limits())?;
        Ok(Selected { tenant, selector })
    }
}

impl FromRequestParts<Arc<App>> for OfUpload {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<OfUpload, Refusal> {
        let OfTenant(tenant) = OfTenant::from_request_parts(parts, app).await?;
        let parameters = path_parameters(parts, app).await?;
        let id = parameters.iter().map(|(_, value)| value.to_owned()).next().unwrap_or_default();
        Ok(OfUpload { tenant, id })
    }
}

async fn path_parameters(parts: &mut Parts, app: &Arc<App>) -> Result<RawPathParams> {
    let path = RawPathParams::from_request_parts(parts, app).await;
    path.map_err(|error| Error::invalid_argument(format!("the path has no valid name: {error}")))
}

/// The body of a request, under the limit of that name.
pub(super) fn limited(request: Request, app: &App, name: &'static str, bytes: u64) -> Result<Limited<Body>> {
    Limited::new(request.into_body(), name, bytes, app.limits().body_idle_ms)
}

/// The parts of a body as they come.
pub(super) fn parts(body: Limited<Body>) -> impl Stream<Item = Result<Bytes>> + Send {
    stream::try_unfold(body, async |mut body| Ok(body.next().await?.map(|part| (part, body))))
}

/// The bytes of a body of JSON.
pub(super) async fn json_bytes(request: Request, app: &App) -> Result<Vec<u8>> {
    limited(request, app, "json_bytes", app.limits().json_bytes)?.collect().await
}

/// JSON that has a form like `form`.
pub(super) fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8], form: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let kind = if error.is_data() { Kind::InvalidArgument } else { Kind::Malformed };
        Error::new(kind, format!("the body is not {form}: {error}"))
    })
}
