//! Whole-system tests: a real server, real components, real models, real HTTP.

mod chain;
mod client;
mod confined;
mod connections;
mod density;
mod developing;
mod engines;
mod examples;
mod functions;
mod harness;
mod hostile;
mod images;
mod lifecycle;
mod model_folders;
mod onnx_file;
mod openapi;
mod preparing;
mod settings;
mod small_dtypes;
mod tenants;
mod text_models;
mod uploads;
mod wasi;
mod wrong_input;
