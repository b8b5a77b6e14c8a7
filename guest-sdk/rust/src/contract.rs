//! The contract's interfaces for the rest of the crate: in a component the generated bindings, elsewhere the same functions over
//! a [`Host`](crate::testing::Host). It never decides anything.

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::hearth::inference::{context, models, operators, tensors};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod context;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod models;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod operators;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod tensors;
