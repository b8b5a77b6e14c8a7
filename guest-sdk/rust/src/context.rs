//! The current request, and the function's configuration, secrets and log.

use std::time::Duration;

use crate::contract::context as host;
use crate::{Error, Result};

#[doc(inline)]
pub use host::LogLevel;

/// The identity of the request, as in the response header `hearth-request-id`.
pub fn request_id() -> String {
    host::request_id()
}

/// The tenant whose function this is.
pub fn tenant() -> String {
    host::tenant()
}

/// A value of the function's configuration, or `None` if the key is not set.
pub fn config(key: &str) -> Option<String> {
    host::config(key)
}

/// A secret that was granted to the function, or `None` where it has no value. Never log a secret or keep it beyond the request.
///
/// Errors: `permission-denied` where the function was not granted it (name it in `#[handler(secrets = […])]`), and in
/// `#[init]`, whose memory is kept.
pub fn secret(name: &str) -> Result<Option<String>> {
    host::secret(name).map_err(Error)
}

/// The time left until the invocation's deadline, in steps of a millisecond.
pub fn remaining() -> Duration {
    Duration::from_millis(host::remaining_ms())
}

/// Writes one line with fields to the function's log. The macros [`trace!`](crate::trace!) to [`error!`](crate::error!) take
/// a format string instead.
pub fn log(level: LogLevel, message: &str, fields: &[(&str, &str)]) {
    host::log(level, message, fields);
}

macro_rules! level_macros {
    ($dollar:tt $($(#[$doc:meta])* $name:ident => $level:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[macro_export]
            macro_rules! $name {
                ($dollar($dollar part:tt)+) => {
                    $crate::context::log(
                        $crate::context::LogLevel::$level,
                        &::std::format!($dollar($dollar part)+),
                        &[],
                    )
                };
            }
        )*
    };
}

level_macros! { $
    /// Logs a formatted line of level trace.
    trace => Trace,
    /// Logs a formatted line of level debug.
    debug => Debug,
    /// Logs a formatted line of level info.
    info => Info,
    /// Logs a formatted line of level warn.
    warn => Warn,
    /// Logs a formatted line of level error.
    error => Error,
}
