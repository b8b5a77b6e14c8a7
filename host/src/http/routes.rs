//! The control plane's routes, and their description as OpenAPI; invocations do not pass through here.

use super::app::{App, Refusal};
use super::{functions, logs, models, settings, system, uploads};
use crate::api::ErrorBody;
use crate::error::Error;
use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{StatusCode, header};
use std::sync::Arc;
use utoipa::OpenApi;
use utoipa::openapi::{ServerBuilder, ServerVariableBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the description says beside the routes.
#[derive(OpenApi)]
#[openapi(
    info(title = "hearth", description = "The control plane of hearth, and the functions and models that it serves."),
    paths(invoke, openapi),
    components(schemas(ErrorBody)),
    tags(
        (name = "functions", description = "Components: versions, aliases, settings, logs, invocations."),
        (name = "models", description = "Models: versions, aliases, places in memory."),
        (name = "uploads", description = "Uploads of large models in parts, by the core of tus 1.0."),
        (name = "system", description = "The server itself."),
    ),
)]
struct Described;

/// Every route but those of functions, each with its description.
fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(system::livez))
        .routes(routes!(system::readyz))
        .routes(routes!(system::metrics))
        .routes(routes!(system::status))
        .routes(routes!(functions::list))
        .routes(routes!(functions::get, functions::put, functions::delete))
        .routes(routes!(settings::get, settings::put, settings::patch))
        .routes(routes!(functions::versions))
        .routes(routes!(functions::put_alias, functions::delete_alias))
        .routes(routes!(logs::get))
        .routes(routes!(models::list))
        .routes(routes!(models::get, models::put, models::delete))
        .routes(routes!(models::versions))
        .routes(routes!(models::put_alias, models::delete_alias))
        .routes(routes!(models::load))
        .routes(routes!(models::unload))
        .routes(routes!(models::pin))
        .routes(routes!(uploads::list, uploads::begin))
        .routes(routes!(uploads::get, uploads::append, uploads::delete))
}

/// Every route but those of functions.
pub(super) fn router(app: Arc<App>) -> Router {
    let (router, _) = described().split_for_parts();
    let description = description();
    router
        .route("/openapi.json", get(async move || ([(header::CONTENT_TYPE, "application/json")], description.clone())))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// The description of every route, as the JSON of OpenAPI 3.1.
pub(super) fn description() -> String {
    let (_, mut description) = described().split_for_parts();
    let tenant = ServerVariableBuilder::new().default_value("default").description(Some("whose functions and models"));
    description.servers = Some(vec![
        ServerBuilder::new().url("/").description(Some("the tenant `default`")).build(),
        ServerBuilder::new().url("/t/{tenant}").description(Some("any tenant")).parameter("tenant", tenant).build(),
    ]);
    // Text, numbers and maps with keys of text always have a JSON form.
    description.to_pretty_json().unwrap_or_default()
}

/// Invokes a function.
///
/// Any method, and any path below it. The answer is the handler's own, with `hearth-version`, `hearth-request-id` and, where the
/// request has `hearth-receipt: 1`, `hearth-receipt`: what the invocation used, as JSON.
#[utoipa::path(
    post, path = "/fn/{function}", tag = "functions",
    params(
        ("function" = String, Path, description = "NAME, NAME@VERSION or NAME@ALIAS"),
        ("hearth-receipt" = Option<String>, Header, description = "1 asks for a receipt"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = "2XX", description = "what the handler answers"),
        (status = 404, body = ErrorBody, description = "there is no such function"),
        (status = 409, body = ErrorBody, description = "grants are missing"),
        (status = 413, body = ErrorBody, description = "more than `body_bytes`"),
        (status = 429, body = ErrorBody, description = "overloaded, or a budget of the invocation is spent"),
        (status = 502, body = ErrorBody, description = "the handler failed"),
        (status = 503, body = ErrorBody, description = "a model cannot be loaded"),
        (status = 504, body = ErrorBody, description = "the deadline passed"),
    ),
)]
#[expect(dead_code, reason = "the description of what invoke.rs answers")]
fn invoke() {}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "system",
    responses((status = 200, content_type = "application/json", description = "OpenAPI 3.1")),
)]
#[expect(dead_code, reason = "the description of a route that serves a string")]
fn openapi() {}

async fn unknown(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    let hint = "the control plane is /v1/functions, /v1/models and /v1/status; functions are called at /fn/NAME";
    Error::not_found(format!("there is nothing at {path}; {hint}")).into()
}

async fn wrong_method(request: Request) -> impl IntoResponse {
    let error = Error::invalid_argument(format!("{} is not something to do here", request.method()));
    Refusal::with_status(error, StatusCode::METHOD_NOT_ALLOWED)
}
