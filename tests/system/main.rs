//! Whole-system tests: a real server, real components, real models, real HTTP.

mod client;
mod examples;
mod functions;
mod harness;
mod lifecycle;
mod settings;
mod wrong_input;
