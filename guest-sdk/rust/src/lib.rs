//! Write hearth handlers in Rust: the contract of `wit/` as pleasant types. It holds no policy and no limits; those are the
//! host's.
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
//! The crate is a `cdylib`, built for `wasm32-unknown-unknown` and made a component, or for `wasm32-wasip2`. Built for the
//! machine it is developed on, everything compiles but every call to the host panics: pure parts of a handler can be tested
//! there.

// The generated code names this crate by its own name, as it does in the handler's crate.
extern crate self as hearth_guest;

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, clippy::undocumented_unsafe_blocks)]
#[doc(hidden)]
pub mod bindings {
    //! The bindings that `wit/` generates; `#[handler]` names them, people need not.
    wit_bindgen::generate!({
        path: "../../wit",
        world: "handler",
        ownership: Borrowing { duplicate_if_necessary: false },
        pub_export_macro: true,
        default_bindings_module: "::hearth_guest::bindings",
        runtime_path: "::hearth_guest::bindings::rt",
    });
    pub use wit_bindgen::rt;
}

pub mod context;
mod error;
#[doc(hidden)]
pub mod export;
mod http;
mod model;
mod operators;
mod tensor;

pub use error::{Error, Result};
pub use hearth_guest_macros::handler;
pub use http::{Request, Response};
pub use model::{Dim, Model, Outputs, Signature, TensorSignature};
pub use operators::{Coordinates, ImageLayout, Interpolation, PadMode, Resize};
pub use tensor::{DType, Element, SliceRange, Tensor};
