//! The one error of a handler and of every call to the host.

use std::fmt;

use crate::bindings;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: a kind, which decides the answer's status, and a sentence for the reader.
///
/// A handler that gives an error answers the request with the status of its kind. `?` on an error of another library makes it
/// `internal` (the handler's own failure, 502). If it is the client's mistake, choose another kind:
/// `text.parse::<f32>().map_err(Error::invalid_argument)?`.
///
/// As with `anyhow`, it does not implement `std::error::Error` itself, so that it can be made from any type that does.
#[derive(Clone)]
pub struct Error(pub(crate) bindings::Error);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $kind:literal),* $(,)?) => {
        $(
            $(#[$doc])*
            pub fn $name(message: impl ToString) -> Error {
                Error::new($kind, message)
            }
        )*
    };
}

impl Error {
    /// An error of a kind of `wit/errors.wit`; the host treats a word that it does not know as `internal`.
    pub fn new(kind: &str, message: impl ToString) -> Error {
        Error(bindings::Error { kind: kind.to_owned(), message: message.to_string() })
    }

    kinds! {
        /// A value, shape, dtype or name is wrong: 422.
        invalid_argument => "invalid-argument",
        /// Valid, but not available here: 422.
        unsupported => "unsupported",
        /// No such thing: 404.
        not_found => "not-found",
        /// It exists, but is not granted: 403.
        permission_denied => "permission-denied",
        /// It conflicts with what is there: 409.
        conflict => "conflict",
        /// One value exceeds its limit: 413.
        too_large => "too-large",
        /// A budget is spent: 429.
        limit_exceeded => "limit-exceeded",
        /// Too much at once, the same request may succeed later: 429.
        overloaded => "overloaded",
        /// The time was not enough: 504.
        deadline_exceeded => "deadline-exceeded",
        /// The work was withdrawn: 499.
        cancelled => "cancelled",
        /// Something that is needed cannot serve now: 503.
        unavailable => "unavailable",
        /// The handler's own failure: 502.
        internal => "internal",
    }

    /// The kind, one of the words of `wit/errors.wit` or one that a later host added.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The sentence for the reader.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The same error with `context: ` before its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            message.push_str(": ");
            message.push_str(&next.to_string());
            cause = next.source();
        }
        Error::internal(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_another_library_is_internal_and_keeps_its_text() {
        fn parse(text: &str) -> Result<i32> {
            Ok(text.parse::<i32>()?)
        }
        let error = parse("x").unwrap_err().context("count");
        assert_eq!(error.kind(), "internal");
        assert_eq!(error.message(), "count: invalid digit found in string");
        let error = "x".parse::<i32>().map_err(Error::invalid_argument).unwrap_err();
        assert_eq!(format!("{error:?}"), "invalid-argument: invalid digit found in string");
    }
}
