//! Called by the code that the attributes generate: runs a handler and reports a panic. Not for direct use.

use crate::bindings;
use crate::{Call, Error, Kept, Outcome, Outputs, Request, Response, Result};

/// The result types of a handler.
#[diagnostic::on_unimplemented(message = "a handler gives a `Response` or a `Result<Response>`, not `{Self}`")]
pub trait Answer {
    /// The response or the error.
    fn into_answer(self) -> Result<Response>;
}

impl Answer for Response {
    fn into_answer(self) -> Result<Response> {
        Ok(self)
    }
}

impl<A: Answer, E: Into<Error>> Answer for Result<A, E> {
    fn into_answer(self) -> Result<Response> {
        self.map_err(Into::into).and_then(A::into_answer)
    }
}

/// The result types of the first half of a pipeline.
#[diagnostic::on_unimplemented(
    message = "`preprocess` gives an `Outcome`, a `Call` or a `Response`, or a `Result` of one, not `{Self}`"
)]
pub trait Preprocessed {
    /// The outcome or the error.
    fn into_outcome(self) -> Result<Outcome>;
}

impl Preprocessed for Outcome {
    fn into_outcome(self) -> Result<Outcome> {
        Ok(self)
    }
}

impl Preprocessed for Call {
    fn into_outcome(self) -> Result<Outcome> {
        Ok(self.into())
    }
}

impl Preprocessed for Response {
    fn into_outcome(self) -> Result<Outcome> {
        Ok(self.into())
    }
}

impl<P: Preprocessed, E: Into<Error>> Preprocessed for Result<P, E> {
    fn into_outcome(self) -> Result<Outcome> {
        self.map_err(Into::into).and_then(P::into_outcome)
    }
}

/// The result types of `#[init]`.
#[diagnostic::on_unimplemented(message = "`#[init]` gives nothing or a `Result<()>`, not `{Self}`")]
pub trait Initialised {
    /// Nothing or the error.
    fn into_result(self) -> Result<()>;
}

impl Initialised for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl<E: Into<Error>> Initialised for Result<(), E> {
    fn into_result(self) -> Result<()> {
        self.map_err(Into::into)
    }
}

/// Runs a handler once. A panic in it is logged as one line of level `error` that starts with `panicked at`, which the host
/// shows as the reason of the trap that follows.
pub fn answer<A: Answer>(
    handler: fn(Request) -> A,
    request: bindings::Request,
) -> Result<bindings::Response, bindings::Error> {
    std::panic::set_hook(Box::new(report_panic));
    bare(handler(Request(request)).into_answer().map(|response| response.0))
}

/// Runs `#[init]`; panics as in [`answer`].
pub fn initialise<I: Initialised>(init: fn() -> I) -> Result<(), bindings::Error> {
    std::panic::set_hook(Box::new(report_panic));
    bare(init().into_result())
}

/// An [`Outcome`] in the types of the contract. The types of `pipelines` themselves are generated where `#[pipeline]` is used.
#[cfg(target_arch = "wasm32")]
pub enum BareOutcome {
    /// The request is answered.
    Respond(bindings::Response),
    /// A model runs.
    Run(BareCall),
}

/// A [`Call`] in the types of the contract.
#[cfg(target_arch = "wasm32")]
#[allow(missing_docs, reason = "the contract has them")]
pub struct BareCall {
    pub model: String,
    pub inputs: Vec<bindings::hearth::inference::models::NamedTensor>,
    pub state: Vec<u8>,
    pub keep: Vec<bindings::hearth::inference::tensors::Tensor>,
}

/// Runs the first half of a pipeline; panics as in [`answer`].
#[cfg(target_arch = "wasm32")]
pub fn preprocess<P: Preprocessed>(
    half: fn(Request) -> P,
    request: bindings::Request,
) -> Result<BareOutcome, bindings::Error> {
    use bindings::hearth::inference::models::NamedTensor;

    std::panic::set_hook(Box::new(report_panic));
    let outcome = match bare(half(Request(request)).into_outcome())? {
        Outcome::Respond(response) => BareOutcome::Respond(response.0),
        Outcome::Run(call) => BareOutcome::Run(BareCall {
            model: call.model,
            inputs: call.inputs.into_iter().map(|(name, tensor)| NamedTensor { name, tensor: tensor.0 }).collect(),
            state: call.state,
            keep: call.keep.into_iter().map(|tensor| tensor.0).collect(),
        }),
    };
    Ok(outcome)
}

/// Runs the second half of a pipeline; panics as in [`answer`].
#[cfg(target_arch = "wasm32")]
pub fn postprocess<A: Answer>(
    half: fn(Outputs, Kept) -> A,
    outputs: Vec<bindings::hearth::inference::models::NamedTensor>,
    state: Vec<u8>,
    keep: Vec<bindings::hearth::inference::tensors::Tensor>,
) -> Result<bindings::Response, bindings::Error> {
    std::panic::set_hook(Box::new(report_panic));
    let kept = Kept { state, tensors: keep.into_iter().map(crate::Tensor).collect() };
    bare(half(Outputs(outputs), kept).into_answer().map(|response| response.0))
}

/// Outside of a component, the halves of a pipeline are only checked and marked as used.
#[cfg(not(target_arch = "wasm32"))]
pub fn check_halves<P: Preprocessed, A: Answer>(_: fn(Request) -> P, _: fn(Outputs, Kept) -> A) {}

fn bare<T>(result: Result<T>) -> Result<T, bindings::Error> {
    result.map_err(|error| error.0)
}

fn report_panic(info: &std::panic::PanicHookInfo<'_>) {
    use crate::context::{LogLevel, log};
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
