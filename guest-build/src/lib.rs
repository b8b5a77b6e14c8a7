//! Finds a Rust that builds for wasm32 and makes what it builds components. It never runs a guest and installs no packages.

mod artefacts;
mod toolchain;

pub use artefacts::{Artefact, artefacts, componentise};
pub use toolchain::{Accept, CHOICE, DEBIAN_PACKAGES, TARGET, Toolchain, WASIP2_TARGET, cargo, toolchain};
