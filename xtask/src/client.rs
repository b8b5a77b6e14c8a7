//! The HTTP calls of demo and bench, each over its own connection; it never follows redirects, retries or pools connections.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A complete response.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first header of a name; `name` must be in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request and reads the response to its end.
pub(crate) fn call(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    // Version 1.0: the server ends the body by closing the connection, so there are no chunks to decode.
    let mut head = format!("{method} {path} HTTP/1.0\r\nhost: {to}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).with_context(|| format!("{method} {path} was answered with what is no response"))
}

fn parse(bytes: &[u8]) -> Result<Response> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n").context("its head has no end")?;
    let (head, rest) = bytes.split_at(end);
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("it has no status")?.parse()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Response { status, headers, body: rest.get(4..).unwrap_or_default().to_vec() })
}

/// A free port: `preferred` if it is free, else any.
pub(crate) fn free_port(preferred: u16) -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", preferred)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}

/// Waits until a server answers 200 to a path; `check` fails when waiting has become pointless.
pub(crate) fn wait_until_ready(to: SocketAddr, path: &str, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    loop {
        check()?;
        if call(to, "GET", path, &[], b"").is_ok_and(|response| response.status == 200) {
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(60) {
            bail!("the server at {to} was not ready within 60 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_its_status_headers_and_body() {
        let response = parse(b"HTTP/1.1 201 Created\r\nHearth-Receipt: {\"a\":1}\r\n\r\nab\r\n\r\nc").unwrap();
        assert_eq!(response.status, 201);
        assert_eq!(response.header("hearth-receipt"), Some("{\"a\":1}"));
        assert_eq!(response.body, b"ab\r\n\r\nc");
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
