//! Requests to handlers and their responses, as plain data; it never sees a connection.

use super::Ctx;
use super::bindings::hearth::inference::http_types;

/// A client's request, as `http-types.request`.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path below the function's own, percent-encoded.
    pub path: String,
    /// The query without `?`.
    pub query: String,
    /// Header lines in the order sent.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What the handler answered, as `http-types.response`; not yet checked.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status the handler gave.
    pub status: u16,
    /// Header lines.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

impl From<Request> for http_types::Request {
    fn from(request: Request) -> http_types::Request {
        let headers = request.headers.into_iter().map(|(name, value)| http_types::Header { name, value });
        http_types::Request {
            method: request.method,
            path: request.path,
            query: request.query,
            headers: headers.collect(),
            body: request.body,
        }
    }
}

impl From<http_types::Response> for Response {
    fn from(response: http_types::Response) -> Response {
        let headers = response.headers.into_iter().map(|header| (header.name, header.value));
        Response { status: response.status, headers: headers.collect(), body: response.body }
    }
}

impl http_types::Host for Ctx {}
