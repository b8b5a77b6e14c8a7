//! An HTTP client for one server: paths of a tenant, streaming bodies, readable errors; it never prints.

use super::Target;
use crate::api::ErrorBody;
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error as _;
use std::io;
use std::time::Duration;

/// The tenant if none is named.
pub(super) const DEFAULT_TENANT: &str = "default";
const CONNECT: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged by the server's machine before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(30);
/// Most bytes of an answer of the control plane. Lists of functions are the longest.
const ANSWER_BYTES: usize = 64 << 20;

/// A request's body: bytes in memory, or a stream.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body of bytes in memory.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// One server and tenant.
#[derive(Clone)]
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Body>,
    /// Scheme, host, port and optionally a path, without a slash at the end.
    server: String,
    /// The prefix of this tenant's paths.
    tenant: String,
}

impl Client {
    /// A client for the named server and tenant.
    pub(super) fn new(target: &Target) -> Result<Client> {
        let server = server(&target.server)?;
        let tenant = match target.tenant.as_str() {
            DEFAULT_TENANT => String::new(),
            tenant => format!("/t/{}", encode(tenant)),
        };
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.set_tcp_user_timeout(Some(SILENCE));
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Client { http, server, tenant })
    }

    /// The URL of a path below the tenant.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{}{path}", self.server, self.tenant)
    }

    /// Sends a request and waits for the head of its answer, whatever its status. `path` is encoded already.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let url = self.url(path);
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.http.request(request).await.map_err(|error| self.unreached(&error))
    }

    /// Sends a request to the control plane and gives its answer.
    ///
    /// Errors: those of the server too, as `kind: message` in a [`Refused`].
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<T> {
        let (_, bytes) = self.exchange(method, path, headers, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| match error.is_data() {
            true => {
                anyhow!("{} gave an answer of unknown form: {error}; is it an older hearth?", self.server)
            }
            false => anyhow!("{} gave an answer that is not JSON; is it hearth?", self.server),
        })
    }

    /// [`Client::call`] with a body of JSON.
    pub(super) async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        self.call(method, path, headers, full(serde_json::to_vec(body)?)).await
    }

    /// Sends a request to the control plane and gives the headers and the bytes of its answer. Errors as [`Client::call`].
    pub(super) async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<(HeaderMap, Bytes)> {
        let (head, body) = self.send(method, path, headers, body).await?.into_parts();
        let bytes = http_body_util::Limited::new(body, ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| anyhow!("the answer of {} broke off: {error}", self.server))?
            .to_bytes();
        let status = head.status;
        if status.as_u16() >= 400 {
            let words = refusal(&bytes).unwrap_or_else(|| format!("{} answered with status {status}", self.server));
            bail!(Refused { status: status.as_u16(), words });
        }
        Ok((head.headers, bytes))
    }

    /// Gets an answer of the control plane.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, HeaderMap::new(), full("")).await
    }

    fn unreached(&self, error: &hyper_util::client::legacy::Error) -> anyhow::Error {
        let server = &self.server;
        let mut cause = error.to_string();
        let mut next = error.source();
        while let Some(inner) = next {
            cause = inner.to_string();
            if let Some(inner) = inner.downcast_ref::<io::Error>()
                && inner.kind() == io::ErrorKind::ConnectionRefused
            {
                return anyhow!(
                    "nothing listens at {server}; start the server with `hearth serve`, or name another with --server"
                );
            }
            next = inner.source();
        }
        match error.is_connect() {
            true => anyhow!("cannot connect to {server}: {cause}; is --server right?"),
            false => anyhow!("the connection to {server} broke off: {cause}"),
        }
    }
}

/// An error answer of a server.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(super) struct Refused {
    /// The answer's status.
    pub(super) status: u16,
    words: String,
}

/// The text of the server's error, if the bytes are one: `not-found: no function is called 'x' (request 7)`.
pub(super) fn refusal(bytes: &[u8]) -> Option<String> {
    let ErrorBody { error } = serde_json::from_slice(bytes).ok()?;
    let words = format!("{}: {}", error.kind, error.message);
    Some(match error.request_id {
        Some(request) => format!("{words} (request {request})"),
        None => words,
    })
}

fn server(text: &str) -> Result<String> {
    let text = text.trim();
    let text = if text.ends_with("://") { text } else { text.trim_end_matches('/') };
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = with_scheme.parse().map_err(|error| anyhow!("--server '{text}' is no URL: {error}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            bail!("--server '{text}': this command speaks plain HTTP only; name an http:// address of the server")
        }
        _ => bail!("--server '{text}' is no http:// URL; write it like http://127.0.0.1:8080"),
    }
    if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        bail!("--server '{text}' is no address of a server; write it like http://127.0.0.1:8080");
    }
    Ok(with_scheme)
}

/// One segment of a path. All characters with a meaning in URLs are encoded, except `@`, which hearth's paths use.
pub(super) fn encode(segment: &str) -> String {
    percent(segment, |byte| byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte))
}

/// Path and query from the command line, unchanged except for bytes that no URL may have, which are encoded.
pub(super) fn encode_path(path: &str) -> String {
    percent(path, |byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte))
}

fn percent(text: &str, keep: impl Fn(u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match keep(byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(server: &str, tenant: &str) -> Target {
        Target { server: server.to_owned(), tenant: tenant.to_owned(), json: false }
    }

    #[test]
    fn servers_are_named_by_plain_http_urls() {
        for (text, url) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/status"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1/status"),
            ("localhost:9", "http://localhost:9/v1/status"),
            ("http://[::1]:8080/below", "http://[::1]:8080/below/v1/status"),
        ] {
            assert_eq!(Client::new(&target(text, "default")).unwrap().url("/v1/status"), url);
        }
        assert_eq!(Client::new(&target("h:1", "me")).unwrap().url("/fn/echo"), "http://h:1/t/me/fn/echo");
        for (text, part) in [
            ("https://hearth.test", "plain HTTP only"),
            ("ftp://hearth.test", "no http:// URL"),
            ("", "--server"),
            ("http://", "--server"),
            ("a b", "no URL"),
        ] {
            let error = Client::new(&target(text, "default")).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn errors_of_the_server_are_told_from_other_json() {
        let error = br#"{"error":{"kind":"not-found","message":"no model","request_id":"7"}}"#;
        assert_eq!(refusal(error).unwrap(), "not-found: no model (request 7)");
        for other in [&b"{}"[..], b"", b"[1]", br#"{"error":"x"}"#, br#"{"error":{"kind":1}}"#] {
            assert_eq!(refusal(other), None);
        }
    }

    #[test]
    fn names_cannot_leave_their_place_in_the_url() {
        assert_eq!(encode("echo@stable"), "echo@stable");
        assert_eq!(encode("../a b?c#ä"), "..%2Fa%20b%3Fc%23%C3%A4");
        assert_eq!(encode_path("/a b?q=ä&x=%20#f"), "/a%20b?q=%C3%A4&x=%20%23f");
    }
}
