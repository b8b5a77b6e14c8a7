//! Models that stay loaded and are shared by every function that may use them; it never knows who may use which (the
//! catalog and the grants do), nor wasmtime or HTTP.
//!
//! [`Models`] says which models are in memory. A [`Lease`] keeps one there and runs it. An engine does the work behind a
//! trait of its own, so that nothing outside this module knows which one it is.

mod check;
mod engine;
mod onnxruntime;
mod package;
mod residency;
mod running;
mod signature;
#[cfg(test)]
mod tests;

pub use check::CHECK;
pub use package::{Blobs, Directory, Package, PackageFile, Resolved};
pub use residency::{Description, Lease, ModelState, Models, Residency};
pub use running::Run;
pub use signature::{Dim, Signature, TensorSignature};
