//! Models that stay loaded and are shared by every function that may use them; it never knows who may use which (the
//! catalog and the grants do), nor wasmtime or HTTP.
//!
//! [`Models`] says which models are in memory. A [`Lease`] keeps one there and runs it; where all lanes are taken, a run waits in
//! the model's queue. An engine does the work behind a trait of its own; which of them a model runs on, its upload's check and
//! its owner's wish decide.

mod check;
mod engine;
mod engines;
mod header;
mod onnxruntime;
mod package;
mod prepared;
pub(crate) mod protobuf;
mod queue;
mod residency;
mod rten;
mod running;
mod signature;
#[cfg(test)]
mod tests;

pub use check::CHECK;
pub use engines::{Checked, EngineChoice, EngineName, EngineState, Verdict};
pub use package::{Blobs, Directory, Package, PackageFile, Resolved};
pub use prepared::Staged;
pub use queue::WaitingRun;
pub use residency::{Description, Lease, ModelState, Models, Pin, Residency};
pub use running::Run;
pub use signature::{Dim, Signature, TensorSignature};
