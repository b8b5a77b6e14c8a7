//! Refuses requests from web pages of other sites to a server without authentication on loopback; it never authenticates anyone.
//!
//! A browser lets any page send requests to 127.0.0.1. If the page's own name was changed to point there (DNS rebinding), `Host`
//! shows it; a page of another site shows in `Origin`. Programs that send no `Origin` are not affected.

use crate::error::{Error, Result};
use http::header::{HOST, ORIGIN};
use http::uri::{Authority, Uri};
use http::{HeaderMap, HeaderValue};
use std::net::IpAddr;

/// Refuses a request to a loopback listener whose `Host` or `Origin` names anything but this machine.
pub(super) fn check(headers: &HeaderMap, uri: &Uri) -> Result<()> {
    let host = headers.get(HOST).map(parse::<Authority>).or_else(|| uri.authority().cloned().map(Some));
    if let Some(host) = host
        && !host.as_ref().is_some_and(|authority| is_this_machine(authority.host()))
    {
        return Err(refusal("Host", headers.get(HOST)));
    }
    if let Some(origin) = headers.get(ORIGIN)
        && !parse::<Uri>(origin).is_some_and(|origin| origin.host().is_some_and(is_this_machine))
    {
        return Err(refusal("Origin", Some(origin)));
    }
    Ok(())
}

fn parse<T: std::str::FromStr>(value: &HeaderValue) -> Option<T> {
    value.to_str().ok()?.parse().ok()
}

/// `localhost`, a name below it, or a loopback address.
fn is_this_machine(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn refusal(header: &str, value: Option<&HeaderValue>) -> Error {
    let shown: String =
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect()).unwrap_or_default();
    Error::permission_denied(format!(
        "the header {header} is '{shown}', and this server, which has no authentication, accepts requests for \
         127.0.0.1 or localhost only, and none from pages of other sites"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: Option<&'static str>, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.extend(host.map(|host| (HOST, HeaderValue::from_static(host))));
        headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_static(origin))));
        check(&headers, &Uri::from_static("/")).is_ok()
    }

    #[test]
    fn only_this_machine_is_let_in() {
        for host in
            ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "LOCALHOST", "a.localhost", "[::1]:8080", "127.8.8.8"]
        {
            assert!(allowed(Some(host), None), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "a b",
        ] {
            assert!(!allowed(Some(host), None), "{host}");
        }
        for origin in ["http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]"] {
            assert!(allowed(Some("localhost"), Some(origin)), "{origin}");
        }
        for origin in ["null", "", "https://evil.example", "http://localhost.evil.example", "file://"] {
            assert!(!allowed(Some("localhost"), Some(origin)), "{origin}");
        }
        assert!(allowed(None, None), "programs that say nothing");
    }
}
