//! Converts errors to and from those of guests; it never knows status codes.

use super::Ctx;
use super::bindings::hearth::inference::errors;
use crate::error::{Error, Kind};
use wasmtime::component::ResourceTableError;

/// How a host call can fail: with an error for the guest, or with a trap.
#[derive(Debug)]
pub enum Fault {
    /// A guest's mistake or a host's refusal; the guest gets it as a value.
    Error(Error),
    /// A forged or dropped handle; the invocation ends.
    Trap(wasmtime::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Error(error)
    }
}

/// The error of a full table of handles.
pub(super) fn too_many_handles() -> Error {
    Error::limit_exceeded("too many handles; drop some first (handles)")
}

impl From<ResourceTableError> for Fault {
    fn from(error: ResourceTableError) -> Fault {
        match error {
            ResourceTableError::Full => too_many_handles().into(),
            ResourceTableError::NotPresent | ResourceTableError::WrongType | ResourceTableError::HasChildren => {
                Fault::Trap(error.into())
            }
        }
    }
}

impl errors::Host for Ctx {
    fn convert_error(&mut self, fault: Fault) -> wasmtime::Result<errors::Error> {
        match fault {
            Fault::Trap(error) => Err(error),
            Fault::Error(error) => {
                if error.kind() == Kind::Internal {
                    tracing::error!(request = %self.call.request_id, "host call failed: {}", error.chain());
                }
                Ok(errors::Error { kind: error.kind().as_str().to_owned(), message: error.message().to_owned() })
            }
        }
    }
}

/// The error that a handler answered with.
pub(super) fn of_guest(error: errors::Error) -> Error {
    let kind = Kind::of_guest(&error.kind);
    let mut message = error.message;
    if kind == Kind::HandlerFailed && error.kind != "internal" {
        message = format!("{}: {message}", error.kind.chars().take(64).collect::<String>());
    }
    const SHOWN_BYTES: usize = 4096;
    if message.len() > SHOWN_BYTES {
        message.truncate(message.floor_char_boundary(SHOWN_BYTES));
        message.push('…');
    }
    Error::new(kind, message)
}
