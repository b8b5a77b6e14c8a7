//! `ANY /fn/{function}…`: from hyper's request to an invocation and back; it never passes through the control plane.

use super::app::{App, Refusal, RequestId, Tenant};
use super::body::{DrainOnDrop, Limited, no_room};
use super::connection::{Answer, Content};
use crate::config::Limits;
use crate::deploy::Invoked;
use crate::error::{Error, Result};
use crate::gate::Share;
use crate::interface::{Request, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Answers one request to a function. `path` is what follows `/fn/`.
pub(super) async fn invoke(
    app: &App,
    Tenant(tenant): &Tenant,
    RequestId(request_id): &RequestId,
    path: &str,
    request: http::Request<DrainOnDrop>,
) -> Result<Answer> {
    let (selector, below) = match path.find('/') {
        Some(slash) => path.split_at(slash),
        None => (path, ""),
    };
    let function = app.deployments.ready_function(tenant, selector).await?;
    let limits = function.limits();
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, "body_bytes", limits.body_bytes, limits.body_idle_ms)?;
    // Held until there is an answer: the body is in the guest's memory as long.
    let mut share = app.bodies.share();
    let body = body.collect_within(&mut share).await?;
    let wants_receipt = parts.headers.get("hearth-receipt").is_some_and(|value| value == "1");
    let request = Request {
        method: parts.method.as_str().to_owned(),
        path: below.to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: request_headers(&parts.headers),
        body,
    };
    let answer = |response: Response| {
        drop(share);
        let share = app.bodies.take(response.body.len() as u64).map_err(no_room)?;
        answer(limits, response, share)
    };
    let Invoked { answer, receipt } = app.deployments.invoke(&function, request_id, request, answer).await?;
    let mut answer = answer.unwrap_or_else(|error| Refusal::from(error).answer(request_id));
    let headers = answer.headers_mut();
    headers.insert("hearth-version", HeaderValue::from(function.version()));
    // Pages of a guest get an opaque origin, so that they cannot act as the dashboard of the same listener.
    headers.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    if wants_receipt
        && let Ok(json) = serde_json::to_string(&receipt)
        && let Ok(value) = HeaderValue::from_str(&json)
    {
        headers.insert("hearth-receipt", value);
    }
    Ok(answer)
}

fn request_headers(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let shown = headers.iter().filter(|(name, _)| !hop_by_hop(name));
    shown.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// Headers that belong to one connection and not to the message (RFC 9110, 7.6.1).
fn hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade"
    )
}

/// Checks what a handler answered and makes it a response, which holds its share of the budget until it was taken.
fn answer(limits: &Limits, response: Response, share: Share) -> Result<Answer> {
    let wrong = |what: String| Error::handler_failed(format!("the handler's response {what}"));
    let status = StatusCode::from_u16(response.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
    let status = status.ok_or_else(|| wrong(format!("has status {}; it takes 200 to 599", response.status)))?;
    let (bytes, most) = (response.body.len() as u64, limits.response_bytes);
    if bytes > most {
        return Err(wrong(format!("has a body of {bytes} bytes; response_bytes allows {most}")));
    }
    let (count, most) = (response.headers.len() as u64, limits.response_headers);
    if count > most {
        return Err(wrong(format!("has {count} header lines; response_headers allows {most}")));
    }
    let bytes: usize = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes as u64 > limits.response_header_bytes {
        let most = limits.response_header_bytes;
        return Err(wrong(format!("has headers of {bytes} bytes; response_header_bytes allows {most}")));
    }
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 4);
    for (name, value) in response.headers {
        let shown: String = name.chars().take(64).collect();
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong(format!("has a header named '{shown}', which is no header name")))?;
        if hop_by_hop(&name) || name == header::CONTENT_LENGTH || name.as_str().starts_with("hearth-") {
            return Err(wrong(format!("sets the header '{name}', which belongs to the host")));
        }
        let value = HeaderValue::from_bytes(&value)
            .map_err(|_| wrong(format!("has a value of the header '{name}' with control characters")))?;
        headers.append(name, value);
    }
    let mut answer = Answer::new(Content::Bytes(Bytes::from(response.body), Some(share)));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Budget;

    fn response(status: u16, headers: &[(&str, &[u8])]) -> Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec()));
        Response { status, headers: headers.collect(), body: b"hello".to_vec() }
    }

    #[test]
    fn a_response_that_is_none_says_what_is_wrong() {
        let limits = Limits { response_headers: 2, response_header_bytes: 64, ..Limits::default() };
        let share = || Budget::new(100).share();
        let long = [b'x'; 100];
        type Case<'a> = (u16, &'a [(&'a str, &'a [u8])], &'a str);
        let cases: &[Case<'_>] = &[
            (42, &[], "status 42"),
            (600, &[], "status 600"),
            (101, &[], "status 101"),
            (200, &[("hearth-version", b"9")], "belongs to the host"),
            (200, &[("Content-Length", b"9")], "belongs to the host"),
            (200, &[("transfer-encoding", b"chunked")], "belongs to the host"),
            (200, &[("a b", b"9")], "no header name"),
            (200, &[("a", b"9\r\nb: 1")], "control characters"),
            (200, &[("a", b"1"), ("a", b"2"), ("a", b"3")], "3 header lines"),
            (200, &[("a", &long)], "101 bytes"),
        ];
        for (status, headers, part) in cases {
            let error =
                answer(&limits, response(*status, headers), share()).err().map(|error| error.message().to_owned());
            assert!(error.as_ref().is_some_and(|message| message.contains(part)), "{part}: {error:?}");
        }
        assert!(answer(&limits, response(200, &[("a", b"1"), ("a", b"2")]), share()).is_ok());
    }
}
