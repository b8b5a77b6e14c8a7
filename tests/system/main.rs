//! Whole-system tests: a real server, real components, real models, real HTTP.

mod client;
mod confined;
mod crafted;
mod density;
mod developing;
mod engines;
mod examples;
mod functions;
mod harness;
mod hostile;
mod lifecycle;
mod preparing;
mod settings;
mod wasi;
mod wrong_input;
