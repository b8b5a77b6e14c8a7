//! Tests of hearth handlers on the development machine: a [`TestHost`] answers a handler's calls to its host. Tensors and
//! operators are those of hearth's own CPU device, under its default limits; models are closures. It never starts a server, and
//! never loads a model.
//!
//! ```
//! use hearth_guest::{DType, Model, Request, Response, Result, Tensor, handler};
//! use hearth_guest_testing::{TestHost, TestModel};
//!
//! #[handler(models = ["scores"])]
//! fn best(request: Request) -> Result<Response> {
//!     let input = Tensor::from_slice(&[1, request.body().len()], request.body())?;
//!     let scores = Model::open("scores")?.infer([("bytes", &input)])?.take("scores")?;
//!     Ok(Response::text(format!("{:?}", scores.argmax(-1, false)?.to_vec::<i64>()?)))
//! }
//!
//! // The model is shown bytes and gives each of them as a score.
//! let model = TestModel::new("scores")
//!     .input("bytes", DType::U8, "batch length")
//!     .output("scores", DType::F32, "batch length")
//!     .runs(|inputs| Ok(vec![inputs.get("bytes")?.cast(DType::F32)?]));
//! let host = TestHost::new().model(model).config("threshold", "0.5");
//! let reply = host.call(best, Request::new("POST", "/").with_body("hello")).unwrap();
//! assert_eq!((reply.status, reply.text()), (200, "[4]"));
//! ```
//!
//! The crate needs hearth's repository, because the device is the host's own. Take `hearth-guest` from the same place: the types
//! of two copies do not match.

#![cfg(not(target_family = "wasm"))]

mod device;
mod host;
mod model;

pub use host::{LogLine, Reply, TestHost};
pub use model::{Inputs, TestModel};

/// The page about writing functions. Its code is tested here, where both crates are available.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/functions.md")]
mod page {}

/// An error of the host as guests get it.
fn to_guest(error: hearth::error::Error) -> hearth_guest::Error {
    hearth_guest::Error::new(error.kind().as_str(), error.message())
}
