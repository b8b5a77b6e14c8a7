//! hearth: a WebAssembly-sandboxed function runtime with GPU host calls. `ARCHITECTURE.md` has the map.
//!
//! Without the feature `server` the library is the device layer and what it needs: enough to test guests on.

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
mod bulk;
#[cfg(feature = "server")]
pub mod catalog;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod confined;
#[cfg(feature = "server")]
pub mod deploy;
#[cfg(feature = "server")]
mod detached;
pub mod device;
pub mod error;
#[cfg(feature = "server")]
pub mod gate;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod interface;
#[cfg(all(test, feature = "server"))]
mod interleaving;
#[cfg(feature = "server")]
pub mod model;
#[cfg(feature = "server")]
pub mod node_key;
#[cfg(feature = "server")]
pub mod sandbox;
#[cfg(feature = "server")]
mod signed_cache;
#[cfg(feature = "server")]
mod single_flight;

/// The limits alone.
#[cfg(not(feature = "server"))]
pub mod config {
    mod limits;

    pub use limits::{LIMITS, Limit, Limits};
}

/// The signatures alone.
#[cfg(not(feature = "server"))]
pub mod model {
    #[allow(dead_code, reason = "engines, which make signatures, are not here")]
    mod signature;

    pub use signature::{Dim, Signature, TensorSignature};
}
