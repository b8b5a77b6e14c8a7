//! Functions over HTTP: uploads, lists, aliases; what a change takes is `deploy`'s.

use super::app::{App, Refusal, Reply};
use super::extract::{Named, OfTenant, json_bytes, limited, parsed, parts};
use crate::api::{
    AliasPut, AliasRemoved, Deleted, ErrorBody, Function, FunctionList, FunctionPut, FunctionVersions, PutAlias,
};
use crate::error::Result;
use axum::Json;
use axum::extract::{Request, State};
use http::StatusCode;
use std::sync::Arc;

/// Lists the functions, each with its live version.
#[utoipa::path(get, path = "/v1/functions", tag = "functions", responses((status = 200, body = FunctionList)))]
pub(super) async fn list(State(app): State<Arc<App>>, OfTenant(tenant): OfTenant) -> Reply<FunctionList> {
    Ok(Json(app.deployments.functions(&tenant).await?))
}

/// Shows a function: its versions, aliases, and the grants that it asks for and lacks.
#[utoipa::path(
    get, path = "/v1/functions/{name}", tag = "functions", params(("name" = String, Path, description = "the function")),
    responses((status = 200, body = Function), (status = 404, body = ErrorBody)),
)]
pub(super) async fn get(State(app): State<Arc<App>>, Named { tenant, name, .. }: Named) -> Reply<Function> {
    Ok(Json(app.deployments.function(&tenant, &name).await?))
}

/// Deploys a component.
///
/// The body is a WebAssembly component. It is compiled and checked in a child process, its `init` runs where it has one, and it
/// is live when this answers: 201 for a new version, 200 where the same component was stored before.
#[utoipa::path(
    put, path = "/v1/functions/{name}", tag = "functions", params(("name" = String, Path, description = "the function")),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses(
        (status = 201, body = FunctionPut, description = "a new version is live"),
        (status = 200, body = FunctionPut, description = "the version with these bytes is live again"),
        (status = 413, body = ErrorBody, description = "more than `component_bytes`"),
        (status = 422, body = ErrorBody, description = "the component is wrong, or its `init` fails"),
    ),
)]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    Named { tenant, name, .. }: Named,
    request: Request,
) -> Result<(StatusCode, Json<FunctionPut>), Refusal> {
    let body = limited(request, &app, "component_bytes", app.limits().component_bytes)?;
    let put = app.deployments.put_function(&tenant, &name, parts(body)).await?;
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(put)))
}

/// Deletes a function with all its versions.
#[utoipa::path(
    delete, path = "/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "the function")),
    responses((status = 200, body = Deleted), (status = 404, body = ErrorBody)),
)]
pub(super) async fn delete(State(app): State<Arc<App>>, Named { tenant, name, .. }: Named) -> Reply<Deleted> {
    app.deployments.delete_function(&tenant, &name).await?;
    Ok(Json(Deleted { name, deleted: true }))
}

/// Lists the versions of a function.
#[utoipa::path(
    get, path = "/v1/functions/{name}/versions", tag = "functions",
    params(("name" = String, Path, description = "the function")),
    responses((status = 200, body = FunctionVersions), (status = 404, body = ErrorBody)),
)]
pub(super) async fn versions(
    State(app): State<Arc<App>>,
    Named { tenant, name, .. }: Named,
) -> Reply<FunctionVersions> {
    Ok(Json(app.deployments.function_versions(&tenant, &name).await?))
}

/// Lets an alias of a function mean a version.
#[utoipa::path(
    put, path = "/v1/functions/{name}/aliases/{alias}", tag = "functions", request_body = PutAlias,
    params(("name" = String, Path, description = "the function"), ("alias" = String, Path, description = "the alias")),
    responses((status = 200, body = AliasPut), (status = 404, body = ErrorBody)),
)]
pub(super) async fn put_alias(
    State(app): State<Arc<App>>,
    Named { tenant, name, alias }: Named,
    request: Request,
) -> Reply<AliasPut> {
    let version = alias_version(&app, request).await?;
    app.deployments.set_function_alias(&tenant, &name, &alias, version).await?;
    Ok(Json(AliasPut { name, alias, version }))
}

/// Removes an alias of a function.
#[utoipa::path(
    delete, path = "/v1/functions/{name}/aliases/{alias}", tag = "functions",
    params(("name" = String, Path, description = "the function"), ("alias" = String, Path, description = "the alias")),
    responses((status = 200, body = AliasRemoved), (status = 404, body = ErrorBody)),
)]
pub(super) async fn delete_alias(
    State(app): State<Arc<App>>,
    Named { tenant, name, alias }: Named,
) -> Reply<AliasRemoved> {
    app.deployments.delete_function_alias(&tenant, &name, &alias).await?;
    Ok(Json(AliasRemoved { name, alias, deleted: true }))
}

/// The version in the body of an alias.
pub(super) async fn alias_version(app: &App, request: Request) -> Result<u64> {
    let bytes = json_bytes(request, app).await?;
    Ok(parsed::<PutAlias>(&bytes, r#"{"version": NUMBER}"#)?.version)
}
