//! The front door: listeners, routes, bodies, statuses and metrics; it never runs a model or touches a tensor.

mod body;
mod connection;
mod deployed;
mod front_door;
mod function_log;
mod invoke;
mod logs;
mod metrics;
mod preparing;
mod routes;
mod settings;
mod status;
mod uploads;

use crate::catalog::{Catalog, PinnedModel};
use crate::config::Config;
use crate::confined::Confined;
use crate::error::{Error, Result};
use crate::interface::Services;
use crate::model::Models;
use crate::sandbox::Runtime;
use body::Lingering;
use connection::{Connection, Content};
use deployed::DeployedFunctions;
use http::{HeaderValue, Uri};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

type Answer = http::Response<Content>;

/// What every request needs.
struct App {
    config: Config,
    catalog: Arc<Catalog>,
    models: Arc<Models>,
    runtime: Arc<Runtime>,
    deployed: DeployedFunctions,
    followers: logs::Followers,
    metrics: metrics::Metrics,
    bodies: Arc<body::BodyBudget>,
    started: Instant,
    /// Held while what counts of all pins of a digest is read and told, so that nothing older is told last.
    telling_pins: tokio::sync::Mutex<()>,
    /// Loads what is pinned, after the start.
    _pinned: AbortOnDropHandle<()>,
}

/// A server that listens, ready to serve.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
}

/// The tenant that a request is for: `default`, or the one in `/t/{tenant}/…`.
#[derive(Clone)]
struct Tenant(String);

impl Server {
    /// Opens the data folder, sets up device, models and sandbox, and starts to listen.
    ///
    /// Errors: a data folder that cannot be used, an address that is taken; the message says what to change.
    pub async fn bind(config: Config) -> Result<Server> {
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            let reason = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another program listens there",
                std::io::ErrorKind::PermissionDenied => "this user may not listen there; ports below 1024 need root",
                std::io::ErrorKind::AddrNotAvailable => "this machine has no such address",
                _ => "the system refuses",
            };
            let message = format!("cannot listen on {}: {reason}; choose another with --listen", config.listen);
            Error::conflict(message).with_source(error)
        })?;
        let address = listener.local_addr().map_err(|error| Error::host("asking for the own address", error))?;
        let confined = Arc::new(Confined::new(&config)?);
        let catalog = Arc::new(Catalog::open(&config.data, &config.limits, confined.clone()).await?);
        let limits = Arc::new(config.limits.clone());
        let device = crate::device::open(&config)?;
        let (blobs, directory) = (catalog.clone(), catalog.clone());
        let models = Arc::new(Models::new(&config, device.clone(), blobs, directory, confined.clone())?);
        for digest in models.prepared()? {
            // Deleted just before the end, or loaded while it was deleted.
            if !catalog.has_model(&digest).await? {
                models.forget(&digest).await;
            }
        }
        let pins = catalog.pins().await?;
        for PinnedModel { digest, pin, .. } in &pins {
            models.keep(digest, *pin);
        }
        let pinned = AbortOnDropHandle::new(tokio::spawn(load_pinned(models.clone(), pins)));
        let services = Arc::new(Services { device, models: models.clone(), limits });
        let runtime = Arc::new(Runtime::new(&config, services, confined)?);
        for digest in runtime.compiled()? {
            // Of an upload that was refused while its client went away, or deleted just before the end.
            if !catalog.has_function(&digest).await? {
                runtime.forget_code(&digest);
            }
        }
        let metrics = metrics::Metrics::new();
        let deployed = DeployedFunctions::new(config.limits.function_log_bytes);
        let followers = logs::Followers::new(&config.limits);
        let bodies = body::BodyBudget::new(config.limits.all_bodies_bytes);
        let started = Instant::now();
        let app = App {
            config,
            catalog,
            models,
            runtime,
            deployed,
            followers,
            metrics,
            bodies,
            started,
            telling_pins: tokio::sync::Mutex::default(),
            _pinned: pinned,
        };
        Ok(Server { listener, address, app: Arc::new(app) })
    }

    /// The address it listens on, with the port that was free where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready, then lets running requests finish for `shutdown_ms`.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Server { listener, app, .. } = self;
        let limits = app.config.limits.clone();
        let control = routes::router(app.clone());
        let places = Arc::new(Semaphore::new(limits.connections as usize));
        let graceful = hyper_util::server::graceful::GracefulShutdown::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let next = async {
                // The semaphore is never closed, so this only waits.
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                accepted = next => accepted,
                () = &mut shutdown => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, usually: connections that end make room.
                    tracing::warn!("a connection was not accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Small answers go out at once.
            stream.set_nodelay(true).ok();
            let connection = Connection::new();
            let (app, control, on) = (app.clone(), control.clone(), connection.clone());
            let service = hyper::service::service_fn(move |request| {
                let working = on.work();
                let (on, version) = (on.clone(), request.version());
                let answer = route(app.clone(), control.clone(), request);
                async move {
                    let answer = answer.await.map(|content| on.answer(version, content));
                    drop(working);
                    Ok::<_, Infallible>(answer)
                }
            });
            let [silence, patience] = [limits.connection_idle_ms, limits.body_idle_ms].map(Duration::from_millis);
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http1().timer(TokioTimer::new()).header_read_timeout(silence);
            builder.http2().timer(TokioTimer::new()).max_concurrent_streams(200);
            let stream = connection.watch(TokioIo::new(stream));
            let served = graceful.watch(builder.serve_connection(stream, service).into_owned());
            tokio::spawn(async move {
                tokio::select! {
                    served = served => if let Err(error) = served {
                        tracing::debug!("a connection ended: {error}");
                    },
                    stalled = connection.stalled(silence, patience) => {
                        tracing::debug!("a connection was ended, because its client did nothing: {stalled:?}");
                    }
                }
                drop(place);
            });
        }
        drop(listener);
        app.followers.end();
        let patience = Duration::from_millis(limits.shutdown_ms);
        if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests still ran after {} ms (shutdown_ms) and were ended", limits.shutdown_ms);
        }
        Catalog::clone(&app.catalog).close().await;
        Ok(())
    }
}

/// Loads the models that are pinned, one after the other, those of the highest priority first. One that cannot be loaded is
/// told in the log, and stays pinned for whoever opens it.
async fn load_pinned(models: Arc<Models>, pins: Vec<PinnedModel>) {
    for PinnedModel { tenant, name, version, pin, .. } in pins.into_iter().filter(|model| model.pin.pinned) {
        if let Err(error) = models.open(&tenant, &format!("{name}@{version}")).await {
            tracing::warn!(tenant, name, version, pin.priority, "a pinned model is not loaded: {}", error.chain());
        }
    }
}

/// Sends a request to a function or to the control plane, after the tenant was taken from its path.
async fn route(app: Arc<App>, control: axum::Router, request: http::Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let let_in = match app.config.listen.ip().is_loopback() {
        true => front_door::check(&parts.headers, &parts.uri),
        false => Ok(()),
    };
    let body = Lingering::new(&parts.headers, body);
    let mut request = http::Request::from_parts(parts, body);
    let request_id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
    let mut tenant = None;
    if let Some(below) = request.uri().path().strip_prefix("/t/") {
        let (name, rest) = below.split_once('/').unwrap_or((below, ""));
        tenant = Some(name.to_owned());
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let inner = format!("/{rest}{query}").parse::<Uri>().unwrap_or_default();
        *request.uri_mut() = inner;
    }
    let tenant = tenant.as_deref().unwrap_or("default");
    let path = request.uri().path();
    let mut answer = if let Err(error) = let_in {
        refuse(&error, &request_id)
    } else if let Some(path) = path.strip_prefix("/fn/") {
        let path = path.to_owned();
        let answer = invoke::invoke(&app, tenant, &path, &request_id, request).await;
        answer.unwrap_or_else(|error| refuse(&error, &request_id))
    } else {
        request.extensions_mut().insert(Tenant(tenant.to_owned()));
        let Ok(answer) = control.oneshot(request.map(axum::body::Body::new)).await;
        match answer.extensions().get::<routes::Refusal>() {
            Some(routes::Refusal(error)) => {
                let mut refusal = refuse(error, &request_id);
                *refusal.status_mut() = answer.status();
                refusal
            }
            None => answer.map(Content::Stream),
        }
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        answer.headers_mut().insert("hearth-request-id", value);
    }
    answer
}

/// Finishes a change even where its client goes away, so that what is served always follows what is stored.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::host("changing what is deployed", error)),
    }
}

/// The answer that tells an error; failures of the host go to its log with their causes.
fn refuse(error: &Error, request_id: &str) -> Answer {
    if error.kind() == crate::error::Kind::Internal {
        tracing::error!(request = request_id, "{}", error.chain());
    } else {
        tracing::debug!(request = request_id, kind = %error.kind(), "{}", error.chain());
    }
    status::answer(error, request_id)
}
