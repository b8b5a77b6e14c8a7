//! What `#[handler]` expands to calls: runs the handler and reports a panic. Not for people.

use crate::bindings;
use crate::{Error, Request, Response};

/// What a handler may give.
#[diagnostic::on_unimplemented(message = "a handler gives a `Response` or a `Result<Response>`, not `{Self}`")]
pub trait Answer {
    /// As the contract has it.
    fn into_contract(self) -> Result<bindings::Response, bindings::Error>;
}

impl Answer for Response {
    fn into_contract(self) -> Result<bindings::Response, bindings::Error> {
        Ok(self.0)
    }
}

impl<A: Answer, E: Into<Error>> Answer for Result<A, E> {
    fn into_contract(self) -> Result<bindings::Response, bindings::Error> {
        self.map_err(|error| error.into().0).and_then(A::into_contract)
    }
}

/// Runs a handler once. A panic in it is logged as one line of level `error` that starts with `panicked at`, which the host
/// shows as the reason of the trap that follows.
pub fn answer<A: Answer>(
    handler: fn(Request) -> A,
    request: bindings::Request,
) -> Result<bindings::Response, bindings::Error> {
    std::panic::set_hook(Box::new(report_panic));
    handler(Request(request)).into_contract()
}

fn report_panic(info: &std::panic::PanicHookInfo<'_>) {
    use bindings::hearth::inference::context::{LogLevel, log};
    let mut line = String::from("panicked at ");
    if let Some(place) = info.location() {
        line.push_str(place.file());
        line.push(':');
        line.push_str(&place.line().to_string());
        line.push_str(": ");
    }
    line.push_str(info.payload_as_str().unwrap_or("(no message)"));
    log(LogLevel::Error, &line, &[]);
}
