//! Work that several callers want at the same time and that is done once: all of them wait for the same work and get the same
//! outcome. It never knows what the work is, and remembers no outcome after the last of its callers has gone.
//!
//! [`Flight::new`] begins a flight. Each [`Flight`] is a share of one caller; the work goes on as long as there is a share, so a
//! table that keeps one has it done to the end. A table that keeps a [`WeakFlight`] lets callers join, and the work ends with the
//! last of them. [`Work`] belongs to the task that does the work.

mod flight;
#[cfg(test)]
mod tests;

/// What `flight` is made of. Its tests compile the same source with loom's types in place of these.
mod sync {
    pub(super) use std::sync::{Arc, Mutex};
}

pub(crate) use flight::{Flight, WeakFlight, Work};

use crate::error::{Error, Kind};

/// What several callers are told of one error. The cause of the error is not in it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    /// A failure with the kind and the message of an error.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    /// The kind of the error.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence for a person.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::new(failure.kind, failure.message)
    }
}
