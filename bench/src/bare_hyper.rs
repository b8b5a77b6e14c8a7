//! An echo with hyper alone, on one thread: shows the cost of HTTP itself on this machine. It never uses code of hearth.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::Ipv4Addr;

/// Serves until the process is ended.
pub(crate) fn serve(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                // A client that leaves ends its connection with an error, which is ignored.
                let _ = connection.serve_connection(TokioIo::new(stream), service_fn(echo)).await;
            });
        }
    })
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let body = if body.is_empty() { Bytes::from_static(b"hello\n") } else { body };
    Ok(Response::new(Full::new(body)))
}
