//! Models over HTTP: uploads, lists, aliases, places in memory; what a change takes is `deploy`'s.

use super::app::{App, Refusal, Reply};
use super::extract::{Named, OfTenant, Selected, json_bytes, limited, parsed, parts};
use super::functions::alias_version;
use crate::api::{
    AliasPut, AliasRemoved, Deleted, ErrorBody, ModelDetail, ModelList, ModelLoaded, ModelPinned, ModelPut,
    ModelUnloaded, ModelVersions, PinModel, PutAlias,
};
use crate::deploy::ModelSource;
use crate::error::{Error, Result};
use crate::model::{EngineChoice, Pin};
use axum::Json;
use axum::extract::{Query, Request, State};
use http::StatusCode;
use http_body::Body;
use std::sync::Arc;

/// Lists the models, each with its live version and where it is.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = ModelList)))]
pub(super) async fn list(State(app): State<Arc<App>>, OfTenant(tenant): OfTenant) -> Reply<ModelList> {
    Ok(Json(app.deployments.models(&tenant).await?))
}

/// Shows a model: its versions, with files, signature and what the check found on each engine.
#[utoipa::path(
    get, path = "/v1/models/{name}", tag = "models", params(("name" = String, Path, description = "the model")),
    responses((status = 200, body = ModelDetail), (status = 404, body = ErrorBody)),
)]
pub(super) async fn get(State(app): State<Arc<App>>, Named { tenant, name, .. }: Named) -> Reply<ModelDetail> {
    Ok(Json(app.deployments.model(&tenant, &name).await?))
}

/// Lists the versions of a model.
#[utoipa::path(
    get, path = "/v1/models/{name}/versions", tag = "models", params(("name" = String, Path, description = "the model")),
    responses((status = 200, body = ModelVersions), (status = 404, body = ErrorBody)),
)]
pub(super) async fn versions(State(app): State<Arc<App>>, Named { tenant, name, .. }: Named) -> Reply<ModelVersions> {
    Ok(Json(app.deployments.model_versions(&tenant, &name).await?))
}

/// The query of a model's upload.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PutModel {
    /// The engine that it is to run on, whatever its `model.toml` says: `auto`, `onnxruntime` or `rten`.
    engine: Option<String>,
    /// The upload in parts that it is, instead of the body.
    upload: Option<String>,
    /// What its bytes must have, as `sha256:HEX`.
    digest: Option<String>,
}

/// Stores a model.
///
/// The body is an `.onnx` file or a tar (also gzip) with `model.onnx`, external data, `assets/`, `samples/`, `model.toml`; or
/// there is none, and `upload` names an upload in parts. The model is tried on each engine in a child process, and is live
/// when this answers: 201 for a new version, 200 where the same package was stored before.
#[utoipa::path(
    put, path = "/v1/models/{name}", tag = "models", params(("name" = String, Path, description = "the model"), PutModel),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = ModelPut, description = "a new version is live"),
        (status = 200, body = ModelPut, description = "the version with these files is live again"),
        (status = 409, body = ErrorBody, description = "`init` of a function fails with it"),
        (status = 413, body = ErrorBody, description = "more than `model_bytes`"),
        (status = 422, body = ErrorBody, description = "the model is wrong, or no engine runs it"),
    ),
)]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    Named { tenant, name, .. }: Named,
    request: Request,
) -> Result<(StatusCode, Json<ModelPut>), Refusal> {
    let Query(PutModel { engine, upload, digest }) = Query::try_from_uri(request.uri()).map_err(|error| {
        let takes = "engine=auto|onnxruntime|rten, upload=ID and digest=sha256:HEX";
        Error::invalid_argument(format!("the query takes {takes}: {error}"))
    })?;
    let engine = engine.as_deref().map(EngineChoice::parse).transpose()?;
    let sha256 = digest.as_deref().map(sha256_of).transpose()?;
    let source = match upload {
        Some(_) if request.body().size_hint().exact() != Some(0) => {
            let message = "the query names an upload, so the request takes no body";
            return Err(Error::invalid_argument(message).into());
        }
        Some(id) => ModelSource::Upload(id),
        None => ModelSource::Parts(parts(limited(request, &app, "model_bytes", app.limits().model_bytes)?)),
    };
    let put = app.deployments.put_model(&tenant, &name, source, engine, sha256).await?;
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(put)))
}

/// The digest in `sha256:HEX`, in lower case.
fn sha256_of(text: &str) -> Result<String> {
    let hex = text.strip_prefix("sha256:").map(str::to_ascii_lowercase);
    hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).ok_or_else(|| {
        Error::invalid_argument("the digest is not sha256: and 64 hexadecimal digits, as sha256sum prints them")
    })
}

/// Deletes a model with all its versions. Runs that have begun end undisturbed.
#[utoipa::path(
    delete, path = "/v1/models/{name}", tag = "models", params(("name" = String, Path, description = "the model")),
    responses((status = 200, body = Deleted), (status = 404, body = ErrorBody)),
)]
pub(super) async fn delete(State(app): State<Arc<App>>, Named { tenant, name, .. }: Named) -> Reply<Deleted> {
    app.deployments.delete_model(&tenant, &name).await?;
    Ok(Json(Deleted { name, deleted: true }))
}

/// Lets an alias of a model mean a version, after `init` of the functions that may see it ran with that.
#[utoipa::path(
    put, path = "/v1/models/{name}/aliases/{alias}", tag = "models", request_body = PutAlias,
    params(("name" = String, Path, description = "the model"), ("alias" = String, Path, description = "the alias")),
    responses(
        (status = 200, body = AliasPut),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "`init` of a function fails with it"),
    ),
)]
pub(super) async fn put_alias(
    State(app): State<Arc<App>>,
    Named { tenant, name, alias }: Named,
    request: Request,
) -> Reply<AliasPut> {
    let version = alias_version(&app, request).await?;
    app.deployments.set_model_alias(&tenant, &name, &alias, version).await?;
    Ok(Json(AliasPut { name, alias, version }))
}

/// Removes an alias of a model.
#[utoipa::path(
    delete, path = "/v1/models/{name}/aliases/{alias}", tag = "models",
    params(("name" = String, Path, description = "the model"), ("alias" = String, Path, description = "the alias")),
    responses((status = 200, body = AliasRemoved), (status = 404, body = ErrorBody)),
)]
pub(super) async fn delete_alias(
    State(app): State<Arc<App>>,
    Named { tenant, name, alias }: Named,
) -> Reply<AliasRemoved> {
    app.deployments.delete_model_alias(&tenant, &name, &alias).await?;
    Ok(Json(AliasRemoved { name, alias, deleted: true }))
}

/// Loads a model, so that the first call need not wait for it.
#[utoipa::path(
    post, path = "/v1/models/{name}/load", tag = "models",
    params(("name" = String, Path, description = "NAME, NAME@VERSION or NAME@ALIAS")),
    responses(
        (status = 200, body = ModelLoaded),
        (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody, description = "the device has no room for it"),
    ),
)]
pub(super) async fn load(State(app): State<Arc<App>>, Selected { tenant, selector }: Selected) -> Reply<ModelLoaded> {
    Ok(Json(app.deployments.load(&tenant, &selector).await?))
}

/// Takes a model out of memory, and removes its pin. Runs that have begun end undisturbed.
#[utoipa::path(
    post, path = "/v1/models/{name}/unload", tag = "models",
    params(("name" = String, Path, description = "NAME, NAME@VERSION or NAME@ALIAS")),
    responses((status = 200, body = ModelUnloaded), (status = 404, body = ErrorBody)),
)]
pub(super) async fn unload(
    State(app): State<Arc<App>>,
    Selected { tenant, selector }: Selected,
) -> Reply<ModelUnloaded> {
    Ok(Json(app.deployments.unload(&tenant, &selector).await?))
}

/// Loads a model and keeps it from making room for others, after a restart too.
///
/// Without a body, it is pinned. The pin counts for the version that the name means now, until it is set otherwise, unloaded or
/// deleted.
#[utoipa::path(
    post, path = "/v1/models/{name}/pin", tag = "models", request_body = Option<PinModel>,
    params(("name" = String, Path, description = "NAME, NAME@VERSION or NAME@ALIAS")),
    responses(
        (status = 200, body = ModelPinned),
        (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody, description = "the device has no room for it"),
    ),
)]
pub(super) async fn pin(
    State(app): State<Arc<App>>,
    Selected { tenant, selector }: Selected,
    request: Request,
) -> Reply<ModelPinned> {
    let bytes = json_bytes(request, &app).await?;
    let form = r#"{"pinned": true, "priority": 0 to 255}"#;
    let PinModel { pinned, priority } = if bytes.is_empty() { PinModel::default() } else { parsed(&bytes, form)? };
    Ok(Json(app.deployments.pin(&tenant, &selector, Pin { pinned, priority }).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_told_from_other_words() {
        let hex = "0F".repeat(32);
        assert_eq!(sha256_of(&format!("sha256:{hex}")).unwrap(), hex.to_lowercase());
        for wrong in ["", &hex, "sha256:0f", "md5:00", &format!("sha256:{hex}0"), &format!("sha256:{}", "x".repeat(64))]
        {
            assert!(sha256_of(wrong).unwrap_err().message().contains("sha256sum"), "{wrong}");
        }
    }
}
