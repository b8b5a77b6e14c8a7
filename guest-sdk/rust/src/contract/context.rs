//! `context` over the host of this thread. Without one, log lines go to standard error and the rest panics.

use crate::bindings::Error;
pub use crate::bindings::hearth::inference::context::LogLevel;
use crate::testing::{current, host};

pub(crate) fn request_id() -> String {
    host().request_id()
}

pub(crate) fn tenant() -> String {
    host().tenant()
}

pub(crate) fn remaining_ms() -> u64 {
    host().remaining_ms()
}

pub(crate) fn config(key: &str) -> Option<String> {
    host().config(key)
}

pub(crate) fn secret(name: &str) -> Result<Option<String>, Error> {
    host().secret(name).map_err(|error| error.0)
}

pub(crate) fn log(level: LogLevel, message: &str, fields: &[(&str, &str)]) {
    match current() {
        Some(host) => host.log(level, message, fields),
        None => eprintln!("{level:?}: {message} {fields:?}"),
    }
}
