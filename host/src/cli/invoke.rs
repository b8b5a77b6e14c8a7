//! `hearth invoke`: calls a function and prints its answer unchanged; it never interprets a body.

use super::client::{Body, Client, encode, encode_path, full, refusal};
use super::output::{print_json, printable, table};
use super::{Target, upload};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use tokio::sync::mpsc;

const RECEIPT: &str = "hearth-receipt";
/// Bytes of an error's body that are read to see whether it is the server's own.
const REFUSAL_BYTES: usize = 64 << 10;

/// Arguments of `hearth invoke`.
#[derive(Debug, clap::Args)]
pub struct Invoke {
    /// The function: NAME, NAME@VERSION or NAME@ALIAS
    function: String,
    /// Send the bytes of a file, or of stdin for -
    #[arg(long, value_name = "FILE|-", conflicts_with = "text")]
    data: Option<String>,
    /// Send a text
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// The HTTP method [default: POST with a body, else GET]
    #[arg(long)]
    method: Option<String>,
    /// A header of the request; repeat for several
    #[arg(long, value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// Path and query that the handler sees
    #[arg(long, default_value = "")]
    path: String,
    /// Print the receipt to stderr: what the invocation used
    #[arg(long)]
    receipt: bool,
    #[command(flatten)]
    target: Target,
}

impl Invoke {
    pub(super) async fn run(self) -> Result<()> {
        let client = Client::new(&self.target)?;
        let method = method(self.method.as_deref(), self.data.is_some() || self.text.is_some())?;
        let path = path(&self.function, &self.path);
        let mut headers = headers(&self.header)?;
        if self.receipt {
            headers.insert(RECEIPT, HeaderValue::from_static("1"));
        }
        let body = match (self.text, self.data.as_deref()) {
            (Some(text), _) => {
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                headers.entry(header::CONTENT_TYPE).or_insert(plain);
                full(text)
            }
            (None, Some("-")) => stdin(),
            (None, Some(file)) => {
                let upload = upload::file(Path::new(file), "the function is running").await?;
                upload.progress.finish_and_clear();
                if let Some(bytes) = upload.bytes {
                    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
                }
                upload.body
            }
            (None, None) => full(""),
        };
        let response = client.send(method, &path, headers, body).await?;
        let (parts, body) = response.into_parts();
        let receipt = parts.headers.get(RECEIPT).and_then(|value| serde_json::from_slice(value.as_bytes()).ok());
        if self.target.json {
            as_json(parts.status, &parts.headers, receipt, body).await?;
        } else {
            pass_on(parts.status, body).await?;
            if let Some(receipt) = receipt {
                eprint!("{}", receipt_table(&receipt));
            }
        }
        if parts.status.as_u16() >= 400 {
            bail!("the function answered with status {}", parts.status);
        }
        Ok(())
    }
}

/// Writes the body to stdout as it arrives. An error of the server itself becomes this command's error.
async fn pass_on(status: StatusCode, mut body: Incoming) -> Result<()> {
    let mut out = std::io::stdout();
    let mut held = status.as_u16() >= 400;
    let mut start = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the answer broke off")?;
        let Some(data) = frame.data_ref() else { continue };
        if held && start.len() + data.len() <= REFUSAL_BYTES {
            start.extend_from_slice(data);
            continue;
        }
        held = false;
        if !(written(out.write_all(&std::mem::take(&mut start)))? && written(out.write_all(data))?) {
            return Ok(());
        }
    }
    if held && let Some(words) = refusal(&start) {
        return Err(anyhow!("{}", printable(&words)));
    }
    written(out.write_all(&start).and_then(|()| out.flush()))?;
    Ok(())
}

/// Whether stdout still has a reader.
fn written(done: std::io::Result<()>) -> Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("writing to stdout"),
    }
}

/// Prints everything about the answer as one JSON object. A body that is not UTF-8 is in `body_hex`.
async fn as_json(status: StatusCode, headers: &HeaderMap, receipt: Option<Value>, body: Incoming) -> Result<()> {
    let bytes = body.collect().await.context("the answer broke off")?.to_bytes();
    let headers: Vec<Value> =
        headers.iter().map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])).collect();
    let mut answer = json!({ "status": status.as_u16(), "headers": headers, "receipt": receipt });
    match String::from_utf8(bytes.into()) {
        Ok(text) => answer["body"] = json!(text),
        Err(error) => answer["body_hex"] = json!(hex::encode(error.as_bytes())),
    }
    print_json(&answer)
}

fn receipt_table(receipt: &Value) -> String {
    let fields = receipt.as_object().into_iter().flatten();
    let rows: Vec<_> = fields.map(|(name, value)| vec![name.clone(), value.to_string()]).collect();
    table(&["RECEIPT", ""], &rows)
}

fn method(named: Option<&str>, body: bool) -> Result<Method> {
    match named {
        Some(name) => name.to_uppercase().parse().map_err(|_| anyhow!("--method '{name}' is no HTTP method")),
        None if body => Ok(Method::POST),
        None => Ok(Method::GET),
    }
}

fn path(function: &str, below: &str) -> String {
    let slash = if below.is_empty() || below.starts_with(['/', '?']) { "" } else { "/" };
    format!("/fn/{}{slash}{}", encode(function), encode_path(below))
}

fn headers(lines: &[String]) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let wrong = || anyhow!("--header '{}' is not NAME:VALUE", printable(line));
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
    }
    Ok(headers)
}

fn stdin() -> Body {
    let (sender, receiver) = mpsc::channel(4);
    // An ordinary thread: if it waits for a terminal, the command can still end.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut chunk = vec![0; 64 << 10];
            let chunk = match input.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(Frame::data(Bytes::from(chunk)))
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            if sender.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    let chunks = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    StreamBody::new(chunks).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_below_the_function() {
        for (function, below, expected) in [
            ("echo", "", "/fn/echo"),
            ("echo@2", "/a/b?c=d", "/fn/echo@2/a/b?c=d"),
            ("echo", "a b", "/fn/echo/a%20b"),
            ("echo", "?q=1", "/fn/echo?q=1"),
            ("../v1/status", "", "/fn/..%2Fv1%2Fstatus"),
        ] {
            assert_eq!(path(function, below), expected);
        }
    }

    #[test]
    fn methods_follow_the_body_unless_named() {
        assert_eq!(method(None, true).unwrap(), Method::POST);
        assert_eq!(method(None, false).unwrap(), Method::GET);
        assert_eq!(method(Some("put"), false).unwrap(), Method::PUT);
        assert!(method(Some("a b"), false).unwrap_err().to_string().contains("--method"));
    }

    #[test]
    fn headers_have_a_name_and_a_value() {
        let lines = ["Accept: a, b", "x-time:12:30"].map(str::to_owned);
        let headers = headers(&lines).unwrap();
        assert_eq!((headers["accept"].as_bytes(), headers["x-time"].as_bytes()), (&b"a, b"[..], &b"12:30"[..]));
        for line in ["accept", "a b: c", "a: b\nc"] {
            assert!(super::headers(&[line.to_owned()]).is_err(), "{line}");
        }
    }
}
