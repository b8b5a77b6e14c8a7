//! Requests and responses. It never checks what the host forbids in them (hop-by-hop headers, some statuses), because the host
//! does.

use std::fmt::Display;
use std::str::FromStr;

use crate::bindings;
use crate::bindings::hearth::inference::http_types::Header;
use crate::{Error, Result};

/// The client's request.
pub struct Request(pub(crate) bindings::Request);

impl Request {
    /// A request as a client would send it, for tests: a method and a path below the function's own, with a query after `?`.
    pub fn new(method: &str, target: &str) -> Request {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request(bindings::Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        })
    }

    /// The same request with one more header line.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Request {
        self.0.headers.push(Header { name: name.to_ascii_lowercase(), value: value.into() });
        self
    }

    /// The same request with another body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.0.body = body.into();
        self
    }

    /// `GET`, `POST`, …
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// The path below the function's own, percent-encoded as sent: `/` and what follows, or empty.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The decoded parts of the path between slashes: `/users/7` has `users` and `7`. Empty parts do not count. For routes:
    /// `match segments.iter().map(String::as_str).collect::<Vec<_>>()[..] { ["users", id] => …, _ => … }`.
    pub fn segments(&self) -> Vec<String> {
        self.path().split('/').filter(|part| !part.is_empty()).map(|part| decode(part, false)).collect()
    }

    /// The query without `?`, percent-encoded as sent; empty where there is none.
    pub fn query(&self) -> &str {
        &self.0.query
    }

    /// The decoded value of the first `name=value` of the query (`+` is a space); empty for a bare `name`.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query()
            .split('&')
            .map(split_pair)
            .find(|(key, _)| decode(key, true) == name)
            .map(|(_, value)| decode(value, true))
    }

    /// The same as a number or another type that is read from text.
    ///
    /// Errors: `invalid-argument` naming the parameter if its value cannot be read as this type.
    pub fn parameter_as<T>(&self, name: &str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        let parsed = text.parse().map_err(|error| {
            let shown: String = text.chars().take(64).collect();
            Error::invalid_argument(format!("the parameter `{name}` is `{shown}`: {error}"))
        });
        parsed.map(Some)
    }

    /// All decoded names and values of the query, in the order sent.
    pub fn parameters(&self) -> impl Iterator<Item = (String, String)> {
        pairs(self.query())
    }

    /// The decoded names and values of a body that an HTML form sent (`application/x-www-form-urlencoded`), in its order.
    ///
    /// Errors: `invalid-argument` where the body is of another content type or not text.
    pub fn form(&self) -> Result<Vec<(String, String)>> {
        let content_type = self.header("content-type").unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(Error::invalid_argument("the body is no form (application/x-www-form-urlencoded)"));
        }
        Ok(pairs(self.text()?).collect())
    }

    /// The value of the first header of a name, in any case, if it is UTF-8.
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

/// Names and values of header lines.
type HeaderLines = Vec<(String, Vec<u8>)>;

/// The response to the client.
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

    /// 200 with UTF-8 HTML. Browsers treat it as a separate origin: the host sends `content-security-policy: sandbox`.
    pub fn html(text: impl Into<String>) -> Response {
        Response::bytes("text/html; charset=utf-8", text.into().into_bytes())
    }

    /// 303, which sends the client to another address with `GET`.
    pub fn redirect(location: &str) -> Response {
        Response::new(303).header("location", location)
    }

    /// 200 with bytes of a content type.
    pub fn bytes(content_type: &str, body: Vec<u8>) -> Response {
        Response::new(200).header("content-type", content_type).body(body)
    }

    /// 200 with JSON. Fails only if `value` cannot be written as JSON, such as a map whose keys are not strings.
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
        self.0.headers.push(Header { name: name.to_owned(), value: value.into() });
        self
    }

    /// The same response with another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.0.body = body.into();
        self
    }

    /// Status, header lines and body.
    pub fn into_parts(self) -> (u16, HeaderLines, Vec<u8>) {
        let headers = self.0.headers.into_iter().map(|header| (header.name, header.value)).collect();
        (self.0.status, headers, self.0.body)
    }
}

/// The decoded pairs of a query or form.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(split_pair);
    pairs.map(|(name, value)| (decode(name, true), decode(value, true)))
}

fn split_pair(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// Percent-decodes a part of a path or, where `+` is a space, of a query. Invalid escapes stay unchanged; bytes that are not
/// UTF-8 become U+FFFD.
fn decode(part: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match (first, tail) {
            (b'+', _) if plus_is_space => b' ',
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
        let request = Request::new("GET", "/a%20b//c+d/?a=1&b=x+y%20z&b=2&%C3%A9=%e2%82%ac&bad=%zz%4&flag");
        for (name, value) in [("a", "1"), ("b", "x y z"), ("é", "€"), ("bad", "%zz%4"), ("flag", "")] {
            assert_eq!(request.parameter(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(request.parameter("c"), None);
        assert_eq!(request.parameter_as::<u8>("a").unwrap(), Some(1));
        assert_eq!(request.parameter_as::<u8>("c").unwrap(), None);
        assert!(request.parameter_as::<u8>("flag").unwrap_err().message().contains("`flag`"));
        assert_eq!(request.parameters().count(), 6);
        assert_eq!(request.segments(), ["a b", "c+d"]);
    }

    #[test]
    fn forms_are_read_where_they_are_forms() {
        let sent = Request::new("POST", "").with_body("name=J%C3%BCrgen+K&&age=3");
        assert_eq!(sent.form().unwrap_err().kind(), "invalid-argument");
        let sent = sent.with_header("Content-Type", "application/x-www-form-urlencoded; charset=utf-8");
        let wanted = [("name", "Jürgen K"), ("age", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(sent.form().unwrap(), wanted);
    }
}
