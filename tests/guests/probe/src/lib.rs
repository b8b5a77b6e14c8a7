//! A guest for tests: the request's path chooses what it does. Errors are handed through, so the answer's status is that of
//! the error's kind; what goes well answers 200 with a line of text.

use hearth_guest::{Error, Request, Response, Result, context, handler};

mod expect;
mod hostile;
mod models;
mod operators;
mod tensors;

#[handler(models = ["magika"], config = ["greeting"], secrets = ["TOKEN"])]
fn probe(request: Request) -> Result<Response> {
    let path = request.path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (group, case) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match group {
        "" => Ok(Response::text("fine")),
        // What was received.
        "request" => Ok(Response::text(describe(&request))),
        "context" => Ok(Response::text(format!(
            "request-id {}\ntenant {}\nremaining-ms {}\ngreeting {:?}\nunset {:?}\n",
            context::request_id(),
            context::tenant(),
            context::remaining().as_millis(),
            context::config("greeting"),
            context::config("unset"),
        ))),
        // `/secret/TOKEN`
        "secret" => Ok(Response::text(format!("{:?}", context::secret(case)?))),
        // `/log?count=3&length=20`: lines of each level in turn.
        "log" => log(number(&request, "count", 5)?, number(&request, "length", 20)?),
        // `/status/42`
        "status" => Ok(Response::new(case.parse().map_err(Error::invalid_argument)?).body("status")),
        // `/header?name=connection&value=close`
        "header" => {
            let name = request.parameter("name").unwrap_or_default();
            Ok(Response::text("header").header(&name, request.parameter("value").unwrap_or_default()))
        }
        // `/error/not-found?message=text`
        "error" => Err(Error::new(case, request.parameter("message").unwrap_or_else(|| format!("a guest's {case}")))),
        // `/big?bytes=1000000`
        "big" => Ok(Response::bytes("application/octet-stream", vec![b'x'; number(&request, "bytes", 1 << 20)?])),
        "operators" => operators::all(),
        "tensor" => tensors::run(case, &request),
        "model" => models::run(case, &request),
        "hostile" => hostile::run(case, &request),
        _ => Err(Error::not_found(format!("the probe has no `{path}`"))),
    }
}

/// A number of the query.
fn number(request: &Request, name: &str, default: usize) -> Result<usize> {
    request.parameter(name).map_or(Ok(default), |text| text.parse().map_err(Error::invalid_argument))
}

fn describe(request: &Request) -> String {
    let mut text = format!("method {}\npath {}\nquery {}\n", request.method(), request.path(), request.query());
    for (name, value) in request.headers() {
        text.push_str(&format!("header {name}: {}\n", String::from_utf8_lossy(value)));
    }
    text + &format!("body {} bytes\n", request.body().len())
}

fn log(count: usize, length: usize) -> Result<Response> {
    use context::LogLevel::{Debug, Error, Info, Trace, Warn};
    let line = "l".repeat(length);
    for (index, level) in [Trace, Debug, Info, Warn, Error].into_iter().cycle().take(count).enumerate() {
        context::log(level, &line, &[("index", &index.to_string()), ("of", &count.to_string())]);
    }
    Ok(Response::text("logged"))
}
