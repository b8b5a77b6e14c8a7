//! Requests and responses. What the host forbids in them (hop-by-hop headers, odd statuses) it refuses itself.

use crate::bindings;
use crate::{Error, Result};

/// What the client sent.
pub struct Request(pub(crate) bindings::Request);

impl Request {
    /// `GET`, `POST`, …
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// The path below the function's own, percent-encoded as sent: `/` and what follows, or empty.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The query without `?`, percent-encoded as sent; empty where there is none.
    pub fn query(&self) -> &str {
        &self.0.query
    }

    /// The decoded value of the first `name=value` of the query (`+` is a space); empty for a bare `name`.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query().split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }

    /// The value of the first header of a name, in any case, where it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The value of the first header of a name, in any case, as sent.
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The header lines in the order sent, names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.headers.iter().map(|header| (header.name.as_str(), header.value.as_slice()))
    }

    /// The whole body.
    pub fn body(&self) -> &[u8] {
        &self.0.body
    }

    /// The whole body, without a copy.
    pub fn into_body(self) -> Vec<u8> {
        self.0.body
    }

    /// The body as text; `invalid-argument` where it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.body()).map_err(|_| Error::invalid_argument("the body is not UTF-8 text"))
    }

    /// The body as JSON; `invalid-argument` where it is not JSON of this type.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(self.body())
            .map_err(|error| Error::invalid_argument(error).context("the body is not the JSON that was expected"))
    }
}

/// What the client gets.
pub struct Response(pub(crate) bindings::Response);

impl Response {
    /// An empty response with a status, 200 to 599.
    pub fn new(status: u16) -> Response {
        Response(bindings::Response { status, headers: Vec::new(), body: Vec::new() })
    }

    /// 200 with UTF-8 text.
    pub fn text(text: impl Into<String>) -> Response {
        Response::bytes("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// 200 with bytes of a content type.
    pub fn bytes(content_type: &str, body: Vec<u8>) -> Response {
        Response::new(200).header("content-type", content_type).body(body)
    }

    /// 200 with JSON. Fails only where `value` cannot be written as JSON, as a map whose keys are not strings.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Response> {
        Ok(Response::bytes("application/json", serde_json::to_vec(value)?))
    }

    /// The same response with another status, 200 to 599.
    #[must_use]
    pub fn status(mut self, status: u16) -> Response {
        self.0.status = status;
        self
    }

    /// The same response with one more header line. The host refuses hop-by-hop headers, `content-length` and `hearth-*`.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Response {
        self.0
            .headers
            .push(bindings::hearth::inference::http_types::Header { name: name.to_owned(), value: value.into() });
        self
    }

    /// The same response with another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.0.body = body.into();
        self
    }
}

/// Percent-decodes a part of a query. What is not a valid escape stays as it is; bytes that are not UTF-8 become U+FFFD.
fn decode(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match (first, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => b'%',
            },
            (other, _) => *other,
        });
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let request = Request(bindings::Request {
            method: "GET".into(),
            path: String::new(),
            query: "a=1&b=x+y%20z&b=2&%C3%A9=%e2%82%ac&bad=%zz%4&flag".into(),
            headers: Vec::new(),
            body: Vec::new(),
        });
        for (name, value) in [("a", "1"), ("b", "x y z"), ("é", "€"), ("bad", "%zz%4"), ("flag", "")] {
            assert_eq!(request.parameter(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(request.parameter("c"), None);
    }
}
