//! Write hearth handlers in Rust: the contract of `wit/` as convenient types. It never holds policy or limits, which are the
//! host's.
//!
//! The crate of a handler is a `cdylib`, built either for `wasm32-unknown-unknown` and then made a component, or for
//! `wasm32-wasip2`.
//!
//! # Handlers
//!
//! A handler is a function from a [`Request`] to a [`Response`]. The attribute lists its requested grants.
//!
//! ```ignore
//! use hearth_guest::{Model, Request, Response, Result, Tensor, handler};
//!
//! #[handler(models = ["resnet50"])]
//! fn classify(request: Request) -> Result<Response> {
//!     let image = Tensor::decode_image(request.body())?;
//!     let input = image.resize(224, 224)?.normalize(&MEAN, &DEVIATION)?.permute(&[2, 0, 1])?;
//!     let logits = Model::open("resnet50")?.infer([("input", &input)])?.take("logits")?;
//!     let (scores, classes) = logits.softmax(-1)?.top_k(5)?;
//!     Response::json(&Top5::new(scores.to_vec()?, classes.to_vec()?))
//! }
//! ```
//!
//! A handler that uses no tensors or models does not import them, so the host knows that it cannot use them.
//!
//! # Pipelines
//!
//! A handler in two halves, between which the host runs one model. No instance is held while the device works. Each half runs in
//! its own instance: only the contents of the [`Call`] pass from the first to the second. The attribute
//! [`pipeline`](macro@pipeline) is put on a module with two functions.
//!
//! ```
//! use hearth_guest::pipeline;
//!
//! #[pipeline(models = ["magika"])]
//! mod file_type {
//!     use hearth_guest::{Call, Kept, Outcome, Outputs, Request, Response, Result, Tensor};
//!
//!     pub fn preprocess(request: Request) -> Result<Outcome> {
//!         if request.body().is_empty() {
//!             return Ok(Response::text("empty").into());
//!         }
//!         let tokens: Vec<i32> = request.body().iter().map(|byte| i32::from(*byte)).collect();
//!         let tokens = Tensor::from_slice(&[1, tokens.len()], &tokens)?;
//!         Ok(Call::new("magika").input("bytes", tokens).state_json(&request.body().len())?.into())
//!     }
//!
//!     pub fn postprocess(mut outputs: Outputs, kept: Kept) -> Result<Response> {
//!         let (_, best) = outputs.take("target_label")?.top_k(1)?;
//!         let length: usize = kept.state_json()?;
//!         Ok(Response::text(format!("{length} bytes of type {:?}", best.to_vec::<i64>()?)))
//!     }
//! }
//! ```
//!
//! # What is done once
//!
//! A function with [`init`](macro@init) runs once for each deployment. Every instance starts from the memory that it left, so a
//! vocabulary, for example, is not parsed for each request. A [`Prepared`] static holds the value that it made.
//!
//! ```
//! use hearth_guest::{Model, Prepared, Request, Response, Result, handler, init};
//!
//! static LABELS: Prepared<Vec<String>> = Prepared::new();
//!
//! #[init]
//! fn prepare() -> Result<()> {
//!     let labels = Model::open("resnet50")?.asset("labels.txt")?;
//!     LABELS.set(String::from_utf8(labels)?.lines().map(str::to_owned).collect())
//! }
//!
//! #[handler(models = ["resnet50"])]
//! fn count(_request: Request) -> Result<Response> {
//!     Ok(Response::text(LABELS.get()?.len().to_string()))
//! }
//! ```
//!
//! In `init`, [`context::config`], [`context::log`], [`Model::open`], [`Model::signature`] and [`Model::asset`] work. Secrets,
//! tensors, operators and model runs are refused with `permission-denied`. Handles are not valid after it. If `init` gives an
//! error, the deployment is refused.
//!
//! Random numbers drawn in `init` are the same in every instance. So are the seeds of `HashMap`; on `wasm32-unknown-unknown`,
//! which has no source of randomness, they are fixed in any case. Use a `BTreeMap` for keys from clients, because an attacker can
//! choose keys that collide in a `HashMap`. Never derive a secret from a generator that was seeded in `init`.
//!
//! # Errors and logs
//!
//! An [`Error`] has a kind, which decides the status of the answer. `?` works on the errors of other libraries. The macros
//! [`trace!`], [`debug!`], [`info!`], [`warn!`] and [`error!`] write to the function's log.
//!
//! # Tests on the development machine
//!
//! Code that makes no calls to the host is tested as in any crate. For calls to the host, the crate `hearth-guest-testing`
//! (`guest-sdk/testing` in hearth's repository) provides one, with the operators of the real CPU device, models that are
//! closures, and no server.
//!
//! # Features
//!
//! - `json` (default): JSON bodies and the state of pipelines, with `serde`.
//! - `half`: `half::f16` and `half::bf16` as elements of tensors.
//! - `ndarray`: tensors from and to arrays of `ndarray`.

// The generated code names this crate by its own name, as it does in the handler's crate.
extern crate self as hearth_guest;

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, clippy::undocumented_unsafe_blocks)]
#[doc(hidden)]
pub mod bindings {
    //! The bindings that are generated from `wit/`; only code from the attributes needs them. Handlers and `init` each have an
    //! `export!` and share their imports, so that a component exports exactly what its attributes say.
    //!
    //! The bindings of pipelines are generated where `#[pipeline]` is used: types of a world are imports of every component that
    //! links its bindings, and only a pipeline may import those.
    wit_bindgen::generate!({
        path: "../../wit",
        world: "handler",
        ownership: Borrowing { duplicate_if_necessary: false },
        pub_export_macro: true,
        default_bindings_module: "::hearth_guest::bindings",
        runtime_path: "::hearth_guest::bindings::rt",
    });
    pub use wit_bindgen::{generate, rt};

    pub mod init {
        //! `init`, which the worlds whose names end in `-with-init` export besides the rest.
        wit_bindgen::generate!({
            path: "../../wit",
            inline: "
                package hearth:guest;
                world init {
                    use hearth:inference/errors@0.2.0.{error};
                    export init: func() -> result<_, error>;
                }
            ",
            world: "hearth:guest/init",
            with: { "hearth:inference/errors@0.2.0": crate::bindings::hearth::inference::errors },
            pub_export_macro: true,
            default_bindings_module: "::hearth_guest::bindings::init",
            runtime_path: "::hearth_guest::bindings::rt",
        });
    }
}

#[cfg(feature = "ndarray")]
mod array;
pub mod context;
mod contract;
mod error;
#[doc(hidden)]
pub mod export;
mod http;
mod model;
mod operators;
mod pipeline;
mod prepared;
mod tensor;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod text;
mod typed;

pub use error::{Error, Result};
pub use hearth_guest_macros::{handler, init, pipeline};
pub use http::{Request, Response};
pub use model::{Dim, Model, Outputs, Pending, Signature, TensorSignature};
pub use operators::{Coordinates, ImageLayout, Interpolation, PadMode, Resize, Rounding};
pub use pipeline::{Call, Kept, Outcome};
pub use prepared::Prepared;
pub use tensor::{DType, Element, SliceRange, Tensor};
pub use typed::Typed;
