//! The control plane's routes; invocations do not pass through here.

use super::body::Limited;
use super::preparing::Changed;
use super::{App, Tenant, to_the_end};
use crate::catalog::{At, Selector, check_name};
use crate::config::Limits;
use crate::error::{Error, Kind, Result};
use crate::model::{Blobs, EngineChoice, ModelState, Pin, Residency, Resolved, Staged};
use crate::sandbox::Making;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, FromRequestParts, MatchedPath, Query, RawPathParams, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use http::{StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;

const LOAD: &str = "/v1/models/{name}/load";
const UNLOAD: &str = "/v1/models/{name}/unload";
const PIN: &str = "/v1/models/{name}/pin";

/// Every route but those of functions.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(server_status))
        .route("/v1/functions", get(functions))
        .route("/v1/functions/{name}", put(put_function).get(function).delete(delete_function))
        .route(
            "/v1/functions/{name}/settings",
            put(super::settings::put).patch(super::settings::patch).get(super::settings::get),
        )
        .route("/v1/functions/{name}/versions", get(function_versions))
        .route("/v1/functions/{name}/aliases/{alias}", put(put_function_alias).delete(delete_function_alias))
        .route("/v1/functions/{name}/logs", get(super::logs::function_logs))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", put(put_model).get(model).delete(delete_model))
        .route("/v1/models/{name}/versions", get(model_versions))
        .route("/v1/models/{name}/aliases/{alias}", put(put_model_alias).delete(delete_model_alias))
        .route(LOAD, axum::routing::post(load_model))
        .route(UNLOAD, axum::routing::post(unload_model))
        .route(PIN, axum::routing::post(pin_model))
        .route("/v1/uploads", get(super::uploads::list).post(super::uploads::begin))
        .route(
            "/v1/uploads/{id}",
            get(super::uploads::get).patch(super::uploads::append).delete(super::uploads::delete),
        )
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// An error on its way out; the listener makes it the client's answer, since it knows the request's identity.
#[derive(Clone)]
pub(super) struct Refusal(pub(super) Arc<Error>);

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal(Arc::new(error))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        *response.status_mut() = super::status::of(self.0.kind());
        response.extensions_mut().insert(self);
        response
    }
}

pub(super) type Reply = Result<Response, Refusal>;

/// What a path names: a function or model of a tenant, with valid names, and perhaps an alias.
pub(super) struct Target {
    pub(super) tenant: String,
    pub(super) name: String,
    alias: String,
}

impl FromRequestParts<Arc<App>> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut http::request::Parts, app: &Arc<App>) -> Result<Target, Refusal> {
        let Extension(Tenant(tenant)) = Extension::from_request_parts(parts, app).await.map_err(unreachable_part)?;
        check_name("tenant", &tenant, &app.config.limits)?;
        let mut target = Target { tenant, name: String::new(), alias: String::new() };
        let matched = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        let chooses = matched.is_some_and(|path| [LOAD, UNLOAD, PIN].contains(&path));
        let path = RawPathParams::from_request_parts(parts, app).await;
        let path = path.map_err(|error| Error::invalid_argument(format!("the path has no valid name: {error}")))?;
        for (key, value) in &path {
            if key == "name" {
                // Models are loaded and pinned by NAME@VERSION and NAME@ALIAS, too.
                match chooses {
                    true => drop(Selector::parse(value, &app.config.limits)?),
                    false => check_name("name", value, &app.config.limits)?,
                }
                target.name = value.to_owned();
            } else {
                target.alias = value.to_owned();
            }
        }
        Ok(target)
    }
}

fn unreachable_part(rejection: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::host("reading a request", rejection)
}

async fn unknown(request: axum::extract::Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    let hint = "the control plane is /v1/functions, /v1/models and /v1/status; functions are called at /fn/NAME";
    Error::not_found(format!("there is nothing at {path}; {hint}")).into()
}

async fn wrong_method(request: axum::extract::Request) -> Response {
    let error = Error::invalid_argument(format!("{} is not something to do here", request.method()));
    (StatusCode::METHOD_NOT_ALLOWED, Refusal::from(error)).into_response()
}

pub(super) fn ok(value: &Value) -> Reply {
    Ok(json_of(StatusCode::OK, value))
}

fn json_of(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Refusal> {
    let answer = app.catalog.check().await.map_err(|error| {
        Error::unavailable("the catalog does not answer; the server's log has the cause").with_source(error)
    });
    answer?;
    app.runtime.services().device.health()?;
    Ok("ready\n")
}

/// What is told of models, found out on a thread that may wait for the disk.
async fn model_states(app: &Arc<App>) -> Result<(Vec<ModelState>, Staged)> {
    let app = app.clone();
    let states = tokio::task::spawn_blocking(move || app.models.states_and_staged());
    states.await.map_err(|error| Error::host("asking where models are", error))
}

async fn metrics(State(app): State<Arc<App>>) -> Reply {
    let (running, waiting) = app.runtime.load_now();
    let (states, _) = model_states(&app).await?;
    let text = app.metrics.render(app.runtime.services().device.ledger().used_bytes(), running, waiting, &states);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

async fn server_status(State(app): State<Arc<App>>) -> Reply {
    let (states, _) = model_states(&app).await?;
    let services = app.runtime.services();
    let ledger = services.device.ledger();
    let (running, waiting) = app.runtime.load_now();
    let uploads = app.catalog.open_uploads();
    let limits = app.config.limits.values().into_iter().map(|(limit, value)| {
        json!({
            "name": limit.name, "value": value, "default": limit.default, "per_function": limit.per_function,
            "reason": limit.reason.trim(),
        })
    });
    let used = crate::device::OwnerKind::ALL.map(|kind| (kind.as_str().to_owned(), json!(ledger.used_by(kind))));
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": app.started.elapsed().as_secs(),
        "device": {
            "name": services.device.name(),
            "budget_bytes": ledger.budget_bytes(),
            "used_bytes": ledger.used_bytes(),
            "peak_bytes": ledger.peak_bytes(),
            "used_by": used.into_iter().collect::<serde_json::Map<_, _>>(),
        },
        "engines": app.models.engines(),
        "reading_is_confined": crate::confined::reading_is_confined(),
        "invocations": { "running": running, "waiting": waiting },
        "models": states,
        "uploads": { "open": uploads.0, "bytes": uploads.1 },
        "limits": limits.collect::<Vec<_>>(),
    });
    ok(&status)
}

async fn functions(State(app): State<Arc<App>>, Target { tenant, .. }: Target) -> Reply {
    let functions = app.catalog.functions(&tenant).await?;
    let one = |function: crate::catalog::FunctionSummary| {
        let mut value = json!(function);
        tell_snapshot(&app, &tenant, &function.name, function.version, &mut value);
        value
    };
    ok(&json!({ "functions": functions.into_iter().map(one).collect::<Vec<_>>() }))
}

/// Adds `without_snapshot` to what is told of a version in use: why its `init` runs in every instance, or null. Of others it
/// is not known before they are called.
fn tell_snapshot(app: &App, tenant: &str, name: &str, version: u64, value: &mut Value) {
    if let Some(deployed) = app.deployed.version(tenant, name, version) {
        value["without_snapshot"] = json!(deployed.function.without_snapshot());
    }
}

async fn function(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    let detail = app.catalog.function(&tenant, &name).await?;
    let mut value = json!(detail);
    value["missing_grants"] =
        json!(super::settings::missing_grants(&app, &tenant, &name, &detail.grants_requested).await?);
    tell_snapshot(&app, &tenant, &name, detail.live, &mut value);
    ok(&value)
}

async fn function_versions(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    ok(&json!({ "versions": app.catalog.function(&tenant, &name).await?.versions }))
}

/// Stores, compiles and checks a component; it is live when this answers.
async fn put_function(
    State(app): State<Arc<App>>,
    Target { tenant, name, .. }: Target,
    request: axum::extract::Request,
) -> Reply {
    let limits = &app.config.limits;
    let mut body = limited(request, limits, "component_bytes", limits.component_bytes)?;
    let mut writer = app.catalog.begin_blob().await?;
    while let Some(part) = body.next().await? {
        writer.write(&part).await?;
    }
    let blob = writer.finish().await?;
    // It is given up when the client leaves: nothing refers to it yet.
    let ready = async {
        let path = app.catalog.path(&blob.digest);
        let function = app.runtime.function(&blob.digest, path, Making::WhileAwaited).await?;
        let requested = super::deployed::requested(&function.manifest, limits)?;
        let (function, logged) = app.prepare_upload(&tenant, &name, &blob.digest, &function).await?;
        Ok::<_, Error>((function, requested, logged))
    };
    let (function, requested, logged) = match ready.await {
        Ok(ready) => ready,
        Err(error) => {
            if !app.catalog.has_function(&blob.digest).await? {
                app.runtime.forget_code(&blob.digest);
            }
            return Err(Refusal::from(error));
        }
    };
    let put = app.catalog.put_function(&tenant, &name, &blob, function.world(), &function.manifest).await?;
    app.init_log(&tenant, &name, put.version)(logged);
    let missing = super::settings::missing_grants(&app, &tenant, &name, &requested).await?;
    tracing::info!(tenant, name, version = put.version, "function {}", if put.created { "added" } else { "is live" });
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    let value = json!({
        "name": name, "version": put.version, "digest": blob.digest, "world": function.world(),
        "grants_requested": requested, "missing_grants": missing, "without_snapshot": function.without_snapshot(),
    });
    Ok(json_of(status, &value))
}

async fn delete_function(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    let versions = app.catalog.function(&tenant, &name).await?.versions;
    let (worker, of, function) = (app.clone(), tenant, name.clone());
    to_the_end(async move {
        worker.catalog.delete_function(&of, &function).await?;
        worker.deployed.forget(&of, &function);
        for version in versions {
            // Compiled code is a cache: another function of the same digest compiles it anew.
            worker.runtime.forget(&version.digest);
        }
        Ok(())
    })
    .await?;
    ok(&json!({ "name": name, "deleted": true }))
}

/// The body `{"version": 3}` of an alias.
async fn alias_version(app: &App, request: axum::extract::Request) -> Result<u64> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Alias {
        version: u64,
    }
    let limits = &app.config.limits;
    let bytes = limited(request, limits, "json_bytes", limits.json_bytes)?.collect().await?;
    Ok(parsed::<Alias>(&bytes, r#"{"version": NUMBER}"#)?.version)
}

/// A body of JSON, which has a form like `form`.
fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8], form: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        let kind = if error.is_data() { Kind::InvalidArgument } else { Kind::Malformed };
        Error::new(kind, format!("the body is not {form}: {error}"))
    })
}

async fn put_function_alias(
    State(app): State<Arc<App>>,
    Target { tenant, name, alias }: Target,
    request: axum::extract::Request,
) -> Reply {
    let version = alias_version(&app, request).await?;
    app.catalog.set_function_alias(&tenant, &name, &alias, version).await?;
    ok(&json!({ "name": name, "alias": alias, "version": version }))
}

async fn delete_function_alias(State(app): State<Arc<App>>, Target { tenant, name, alias }: Target) -> Reply {
    app.catalog.delete_function_alias(&tenant, &name, &alias).await?;
    ok(&json!({ "name": name, "alias": alias, "deleted": true }))
}

async fn models(State(app): State<Arc<App>>, Target { tenant, .. }: Target) -> Reply {
    let (states, staged) = model_states(&app).await?;
    let models = app.catalog.models(&tenant).await?;
    let one = |model: crate::catalog::ModelSummary| {
        let runs_on = app.models.engine_of(&model.checked).ok();
        let state = states.iter().find(|state| state.digest == model.digest && Some(state.engine) == runs_on);
        let mut value = json!(model);
        let unopened = || staged.unloaded(&model.digest, runs_on);
        value["state"] = json!(state.map_or_else(unopened, |state| state.state).as_str());
        value["reason"] = json!(state.map_or("not opened yet", |state| state.reason.as_str()));
        let Pin { pinned, priority } = app.models.pin(&model.digest);
        (value["pinned"], value["priority"]) = (json!(pinned), json!(priority));
        value["runs_on"] = json!(runs_on);
        value
    };
    ok(&json!({ "models": models.into_iter().map(one).collect::<Vec<_>>() }))
}

async fn model(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    ok(&json!(app.catalog.model(&tenant, &name).await?))
}

async fn model_versions(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    ok(&json!({ "versions": app.catalog.model(&tenant, &name).await?.versions }))
}

/// The query of a model's upload.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PutModel {
    /// The engine that it is to run on, whatever its `model.toml` says.
    engine: Option<String>,
    /// The upload in parts that it is, instead of the body.
    upload: Option<String>,
    /// What its bytes are to have, as `sha256:HEX`.
    digest: Option<String>,
}

/// Stores a model, tries it on the engines, and makes it live.
async fn put_model(
    State(app): State<Arc<App>>,
    Target { tenant, name, .. }: Target,
    request: axum::extract::Request,
) -> Reply {
    let Query(PutModel { engine, upload, digest }) = Query::try_from_uri(request.uri()).map_err(|error| {
        let takes = "engine=auto|onnxruntime|rten, upload=ID and digest=sha256:HEX";
        Error::invalid_argument(format!("the query takes {takes}: {error}"))
    })?;
    let engine = engine.as_deref().map(EngineChoice::parse).transpose()?;
    let (upload, whole) = super::uploads::model(&app, &tenant, upload, digest, request).await?;
    let (signature, checked) = app.models.inspect(&upload.package, &upload.digest, engine).await?;
    let model = Resolved {
        name: name.clone(),
        version: 0,
        digest: upload.digest.clone(),
        package: upload.package.clone(),
        signature: signature.clone(),
        checked: checked.clone(),
    };
    let (worker, of, digest) = (app.clone(), tenant.clone(), upload.digest.clone());
    let put = to_the_end(async move {
        worker.prepare_dependents(&of, Changed { selector: &model.name, model: &model }).await?;
        let Resolved { name, signature, checked, .. } = &model;
        let put = worker.catalog.put_model(&of, name, &upload, &json!(signature), checked).await?;
        worker.renew_dependents(&of, &model.name);
        if let Some(whole) = whole {
            whole.remove().await;
        }
        Ok(put)
    })
    .await?;
    tracing::info!(tenant, name, version = put.version, "model {}", if put.created { "added" } else { "is live" });
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    let value = json!({
        "name": name, "version": put.version, "digest": digest, "signature": signature, "engine": checked.engine,
        "engines": checked.engines, "runs_on": app.models.engine_of(&checked).ok(),
    });
    Ok(json_of(status, &value))
}

async fn delete_model(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    let versions = app.catalog.model(&tenant, &name).await?.versions;
    let (worker, of, model) = (app.clone(), tenant, name.clone());
    to_the_end(async move {
        worker.catalog.delete_model(&of, &model).await?;
        worker.renew_dependents(&of, &model);
        for version in versions {
            let elsewhere = worker.catalog.has_model(&version.digest).await.unwrap_or_else(|error| {
                tracing::warn!(
                    digest = version.digest,
                    "the prepared form of a deleted model stays until the next start: {}",
                    error.chain()
                );
                true
            });
            if let Err(error) = tell_pin(&worker, &version.digest).await {
                tracing::warn!("who else pins a deleted model is not known: {}", error.chain());
            }
            if !elsewhere {
                worker.models.forget(&version.digest).await;
            }
        }
        Ok(())
    })
    .await?;
    ok(&json!({ "name": name, "deleted": true }))
}

async fn put_model_alias(
    State(app): State<Arc<App>>,
    Target { tenant, name, alias }: Target,
    request: axum::extract::Request,
) -> Reply {
    let version = alias_version(&app, request).await?;
    let to = Selector { name: name.clone(), at: At::Version(version) };
    let model = app.catalog.resolve_model(&tenant, &to).await?;
    let (worker, to) = (app.clone(), alias.clone());
    to_the_end(async move {
        let selector = format!("{}@{to}", model.name);
        worker.prepare_dependents(&tenant, Changed { selector: &selector, model: &model }).await?;
        worker.catalog.set_model_alias(&tenant, &model.name, &to, version).await?;
        worker.renew_dependents(&tenant, &model.name);
        Ok(())
    })
    .await?;
    ok(&json!({ "name": name, "alias": alias, "version": version }))
}

async fn delete_model_alias(State(app): State<Arc<App>>, Target { tenant, name, alias }: Target) -> Reply {
    let (worker, model, from) = (app.clone(), name.clone(), alias.clone());
    to_the_end(async move {
        worker.catalog.delete_model_alias(&tenant, &model, &from).await?;
        worker.renew_dependents(&tenant, &model);
        Ok(())
    })
    .await?;
    ok(&json!({ "name": name, "alias": alias, "deleted": true }))
}

async fn load_model(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    let lease = app.models.open(&tenant, &name).await?;
    ok(&json!({ "name": name, "version": lease.version(), "state": "resident" }))
}

/// Loads a model and keeps it from making room for others, after a restart too; `{"pinned": false}` lets it. `priority` from 0
/// to 255: models of a lower one make room first. Without a body, it is pinned. It counts for the version that the name means
/// now, until it is asked otherwise, unloaded or deleted.
async fn pin_model(
    State(app): State<Arc<App>>,
    Target { tenant, name, .. }: Target,
    request: axum::extract::Request,
) -> Reply {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Asked {
        pinned: bool,
        priority: u8,
    }
    impl Default for Asked {
        fn default() -> Asked {
            Asked { pinned: true, priority: 0 }
        }
    }
    let limits = &app.config.limits;
    let bytes = limited(request, limits, "json_bytes", limits.json_bytes)?.collect().await?;
    let form = r#"{"pinned": true, "priority": 0 to 255}"#;
    let Asked { pinned, priority } = if bytes.is_empty() { Asked::default() } else { parsed(&bytes, form)? };
    let found = app.catalog.resolve_model(&tenant, &Selector::parse(&name, limits)?).await?;
    let lease = match pinned {
        true => Some(app.models.open(&tenant, &format!("{}@{}", found.name, found.version)).await?),
        false => None,
    };
    set_pin(&app, tenant, found.clone(), Pin { pinned, priority }).await?;
    drop(lease);
    let (states, _) = model_states(&app).await?;
    let state = states.iter().filter(|state| state.digest == found.digest).map(|state| state.state);
    let state = state.max_by_key(|state| *state == Residency::Resident).unwrap_or(Residency::Stored);
    ok(&json!({
        "name": name, "version": found.version, "state": state.as_str(), "pinned": pinned, "priority": priority,
    }))
}

/// Stores what is asked for a version of a model, and has it count.
async fn set_pin(app: &Arc<App>, tenant: String, model: Arc<Resolved>, pin: Pin) -> Result<()> {
    let worker = app.clone();
    to_the_end(async move {
        worker.catalog.set_pin(&tenant, &model.name, model.version, pin).await?;
        tell_pin(&worker, &model.digest).await
    })
    .await
}

/// Has count what all who have a model of this digest ask for now.
async fn tell_pin(app: &App, digest: &str) -> Result<()> {
    let _telling = app.telling_pins.lock().await;
    app.models.keep(digest, app.catalog.pin_of(digest).await?);
    Ok(())
}

async fn unload_model(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    let selector = Selector::parse(&name, &app.config.limits)?;
    let found = app.catalog.resolve_model(&tenant, &selector).await?;
    set_pin(&app, tenant, found.clone(), Pin::default()).await?;
    // One copy serves every name of the same bytes, and another's pin holds.
    let pinned = app.models.pin(&found.digest).pinned;
    let unloaded = !pinned && app.models.unload(&found.digest).await;
    ok(&json!({ "name": name, "version": found.version, "unloaded": unloaded, "pinned": pinned }))
}

pub(super) fn limited(
    request: axum::extract::Request,
    limits: &Limits,
    name: &'static str,
    bytes: u64,
) -> Result<Limited<Body>> {
    Limited::new(request.into_body(), name, bytes, limits.body_idle_ms)
}
