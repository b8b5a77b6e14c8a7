//! Whole-system tests: a real server, real components, real models, real HTTP.

mod client;
mod developing;
mod examples;
mod functions;
mod harness;
mod lifecycle;
mod wrong_input;
