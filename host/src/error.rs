//! One error with a closed kind, for every layer; it never knows HTTP statuses (`http` has that table).

use std::fmt;

/// The result of everything that can fail in hearth.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong. Closed: matches on it are exhaustive, so the compiler finds every place that a new kind
/// concerns.
///
/// The first twelve are the guest contract's (`wit/errors.wit`); the others arise only on the host.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::EnumCount,
)]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// A value, shape, dtype or name is wrong.
    InvalidArgument,
    /// Valid, but not available on this device, engine or build.
    Unsupported,
    /// No such thing, or not the caller's.
    NotFound,
    /// It exists, but the caller was not granted it.
    PermissionDenied,
    /// It conflicts with what is there.
    Conflict,
    /// One value exceeds its limit.
    TooLarge,
    /// A budget of the invocation is spent.
    LimitExceeded,
    /// Too much at once; the same request may succeed later.
    Overloaded,
    /// The deadline passed.
    DeadlineExceeded,
    /// The caller left or withdrew the work.
    Cancelled,
    /// A model or device cannot serve now.
    Unavailable,
    /// A failure of the host.
    Internal,
    /// The request could not be parsed at all.
    Malformed,
    /// The handler trapped, or answered with something that is no response.
    HandlerFailed,
    /// The disk or store has no room.
    StorageFull,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Kind; <Kind as strum::EnumCount>::COUNT] =
        *<Kind as strum::VariantArray>::VARIANTS.first_chunk().unwrap();

    /// The word for this kind in WIT, JSON and logs.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The kind that a guest's own error names. A guest cannot use a kind that is reserved for the host: such kinds and unknown
    /// words become `HandlerFailed`. So does `internal`, since an internal failure of the handler is the handler's.
    pub fn of_guest(word: &str) -> Kind {
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
        // Without `_`, so that each new kind is decided here.
        match known.unwrap_or(Kind::HandlerFailed) {
            Kind::Internal | Kind::Malformed | Kind::HandlerFailed | Kind::StorageFull => Kind::HandlerFailed,
            kind @ (Kind::InvalidArgument
            | Kind::Unsupported
            | Kind::NotFound
            | Kind::PermissionDenied
            | Kind::Conflict
            | Kind::TooLarge
            | Kind::LimitExceeded
            | Kind::Overloaded
            | Kind::DeadlineExceeded
            | Kind::Cancelled
            | Kind::Unavailable) => kind,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error: its kind, a sentence that says what to do, and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Error { Error::new(Kind::$kind, message) })*
    };
}

impl Error {
    /// An error of a kind. The message is shown to clients and guests: no secrets, no paths of the host.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    /// The same error with its cause, which goes to the host's log only.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// The same error with `context: ` before its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// A failure of the host while it did `what`; the cause is kept for the log and not shown to clients.
    pub fn host(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(Kind::Internal, format!("the server failed while {what}; its log has the cause")).with_source(source)
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence for a person.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message and all causes, for the host's log.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    constructors! {
        /// `Kind::InvalidArgument`.
        invalid_argument => InvalidArgument,
        /// `Kind::Unsupported`.
        unsupported => Unsupported,
        /// `Kind::NotFound`.
        not_found => NotFound,
        /// `Kind::PermissionDenied`.
        permission_denied => PermissionDenied,
        /// `Kind::Conflict`.
        conflict => Conflict,
        /// `Kind::TooLarge`.
        too_large => TooLarge,
        /// `Kind::LimitExceeded`.
        limit_exceeded => LimitExceeded,
        /// `Kind::Overloaded`.
        overloaded => Overloaded,
        /// `Kind::DeadlineExceeded`.
        deadline_exceeded => DeadlineExceeded,
        /// `Kind::Cancelled`.
        cancelled => Cancelled,
        /// `Kind::Unavailable`.
        unavailable => Unavailable,
        /// `Kind::Malformed`.
        malformed => Malformed,
        /// `Kind::HandlerFailed`.
        handler_failed => HandlerFailed,
    }

    /// A failed write or read of hearth's own files: a full disk is `StorageFull`, everything else is a failure of the host.
    pub fn storage(what: &str, source: std::io::Error) -> Error {
        if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
            let message = format!("no room left while {what}; free space in the data folder and try again");
            return Error::new(Kind::StorageFull, message).with_source(source);
        }
        Error::host(what, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_claim_a_kind_of_the_host() {
        for word in ["internal", "malformed", "handler-failed", "storage-full", "", "Not-Found"] {
            assert_eq!(Kind::of_guest(word), Kind::HandlerFailed, "{word}");
        }
        for kind in &Kind::ALL[..11] {
            assert_eq!(Kind::of_guest(kind.as_str()), *kind);
        }
    }

    #[test]
    fn a_full_disk_is_storage_full() {
        let full = Error::storage("writing", std::io::ErrorKind::StorageFull.into());
        assert_eq!(full.kind(), Kind::StorageFull);
        assert_eq!(Error::storage("writing", std::io::ErrorKind::NotFound.into()).kind(), Kind::Internal);
    }
}
