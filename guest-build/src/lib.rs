//! Finds a Rust that builds for wasm32, and makes components from what it builds; it never runs a guest or installs packages.

mod artefacts;
mod toolchain;

pub use artefacts::{Artefact, artefacts, componentise};
pub use toolchain::{Accept, CHOICE, DEBIAN_PACKAGES, TARGET, Toolchain, WASIP2_TARGET, cargo, toolchain};
