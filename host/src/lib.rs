//! hearth: a WebAssembly-sandboxed function runtime with GPU host calls. `ARCHITECTURE.md` has the map.

pub mod catalog;
pub mod cli;
pub mod config;
pub mod confined;
pub mod device;
pub mod error;
pub mod http;
pub mod interface;
pub mod model;
pub mod node_key;
pub mod sandbox;
