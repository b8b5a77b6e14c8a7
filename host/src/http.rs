//! The front door: listeners, routes, bodies, statuses and metrics; it never runs a model or touches a tensor.

mod app;
mod body;
mod connection;
mod extract;
mod followers;
mod functions;
mod invoke;
mod layers;
mod logs;
mod models;
mod origin;
#[cfg(test)]
mod reference;
mod routes;
mod settings;
mod status;
mod system;
mod uploads;

use crate::clock::Clock;
use crate::config::Config;
use crate::deploy::Deployments;
use crate::error::{Error, Result};
use crate::gate::Gate;
use app::{App, Refusal};
use body::DrainOnDrop;
use connection::{Answer, Connection, Content};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tower::{Service, ServiceExt, service_fn};

/// A server that listens, ready to serve.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// Whether it was told to listen on an address that only this machine reaches.
    is_loopback: bool,
    app: Arc<App>,
}

impl Server {
    /// Starts to listen, and opens what is deployed.
    ///
    /// Errors: an address that is taken; those of [`Deployments::open`]; the message says what to change.
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
        let is_loopback = config.listen.ip().is_loopback();
        let deployments = Deployments::open(config, Clock::system()).await?;
        Ok(Server { listener, address, is_loopback, app: Arc::new(App::new(deployments)) })
    }

    /// The address it listens on, with the port that was free where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready, then lets running requests finish for `shutdown_ms`.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let Server { listener, app, is_loopback, .. } = self;
        let limits = app.limits().clone();
        let requests = requests(app.clone(), is_loopback);
        let gate = Gate::new(limits.connections);
        let graceful = hyper_util::server::graceful::GracefulShutdown::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let next = async {
                let pass = gate.wait().await;
                (listener.accept().await, pass)
            };
            let (accepted, pass) = tokio::select! {
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
            let (requests, on) = (requests.clone(), connection.clone());
            let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let working = on.work();
                let (on, version) = (on.clone(), request.version());
                let (parts, body) = request.into_parts();
                let body = DrainOnDrop::new(&parts.headers, body);
                let answer = requests.clone().call(http::Request::from_parts(parts, body));
                async move {
                    let answer = answer.await?.map(|content| on.answer(version, content));
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
                drop(pass);
            });
        }
        drop(listener);
        app.followers.end();
        let patience = Duration::from_millis(limits.shutdown_ms);
        if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests still ran after {} ms (shutdown_ms) and were ended", limits.shutdown_ms);
        }
        app.deployments.close().await;
        Ok(())
    }
}

/// Everything that answers requests: layers, then the functions or the router of the control plane.
fn requests(
    app: Arc<App>,
    is_loopback: bool,
) -> impl Service<http::Request<DrainOnDrop>, Response = Answer, Error = Infallible, Future: Send> + Clone + Send {
    let control = routes::router(app.clone());
    let answer = service_fn(move |request| answer(app.clone(), control.clone(), request));
    layers::identify(layers::check_origin(is_loopback, layers::read_tenant(layers::trace(answer))))
}

/// Sends a request to a function or to the control plane.
async fn answer(app: Arc<App>, control: axum::Router, request: layers::Request) -> Result<Answer, Refusal> {
    let layers::Request { mut http, id, tenant } = request;
    if let Some(path) = http.uri().path().strip_prefix("/fn/") {
        let path = path.to_owned();
        return Ok(invoke::invoke(&app, &tenant, &id, &path, http).await?);
    }
    http.extensions_mut().insert(tenant);
    let Ok(mut answer) = control.oneshot(http.map(axum::body::Body::new)).await;
    match answer.extensions_mut().remove::<Refusal>() {
        Some(refusal) => Err(refusal),
        None => Ok(answer.map(Content::Stream)),
    }
}
