//! Says what the end of a child means for whoever sent the input; it never waits or kills.

use super::Caps;
use super::frame::Failure;
use crate::error::{Error, Kind, Result};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Characters of a child's message that are passed on.
const MESSAGE_CHARS: usize = 4_000;

/// The child took longer than it may.
pub(super) fn too_long(caps: &Caps) -> Error {
    let (what, cap) = (caps.what, caps.wall_ms);
    Error::invalid_argument(format!("{what} took longer than {} ms (limit {})", cap.value, cap.limit))
}

/// The child took more memory than it may.
pub(super) fn out_of_memory(caps: &Caps) -> Error {
    let (what, cap) = (caps.what, caps.memory_bytes);
    Error::invalid_argument(format!("{what} needs more than {} bytes of memory (limit {})", cap.value, cap.limit))
}

/// The child failed in a way that only a mistake in it can explain.
pub(super) fn crash(caps: &Caps, how: &str) -> Error {
    Error::invalid_argument(format!("{} crashed ({how}); the server goes on, and its log has more", caps.what))
}

/// What the job itself reports.
pub(super) fn of_job(failure: Failure) -> Error {
    let Failure { kind, message, chain } = failure;
    let message: String = message.chars().take(MESSAGE_CHARS).collect();
    match Kind::ALL.into_iter().find(|known| known.as_str() == kind) {
        Some(kind) if chain == message => Error::new(kind, message),
        Some(kind) => Error::new(kind, message).with_source(chain),
        None => Error::host("reading a child's reply", format!("it has the kind '{kind}': {message}")),
    }
}

/// Whether a child ended as it should.
pub(super) fn of_end(status: ExitStatus, last_words: &str, caps: &Caps) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    // What Rust and C++ say before they give up.
    let memory = ["memory allocation of", "std::bad_alloc", "Cannot allocate memory"];
    let failed_to_allocate = memory.iter().any(|words| last_words.contains(words));
    let Some(signal) = status.signal() else {
        let code = status.code().unwrap_or_default();
        return Err(match failed_to_allocate {
            true => out_of_memory(caps),
            false => crash(caps, &format!("exit code {code}")),
        });
    };
    Err(match signal {
        libc::SIGXCPU => too_long(caps),
        libc::SIGXFSZ => {
            let (what, cap) = (caps.what, caps.file_bytes);
            Error::too_large(format!("{what} gives more than {} bytes (limit {})", cap.value, cap.limit))
        }
        libc::SIGKILL => {
            let how = "the system ended it, as it does when the machine runs out of memory";
            crash(caps, how)
        }
        libc::SIGABRT if failed_to_allocate => out_of_memory(caps),
        signal => crash(caps, &format!("signal {signal}{}", name(signal))),
    })
}

fn name(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => ", a wrong address or a full stack",
        libc::SIGBUS => ", a wrong address",
        libc::SIGILL => ", a wrong instruction",
        libc::SIGFPE => ", a wrong calculation",
        libc::SIGABRT => ", it gave up",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cap, Queue};
    use super::*;

    const CAPS: Caps = Caps {
        what: "the component's compilation",
        queue: Queue::Heavy,
        wall_ms: Cap { value: 500, limit: "compile_ms" },
        memory_bytes: Cap { value: 1000, limit: "compile_memory_bytes" },
        file_bytes: Cap { value: 10, limit: "compiled_bytes" },
        threads: 2,
        reads: Vec::new(),
    };

    #[test]
    fn each_end_has_its_error() {
        let table = [
            (libc::SIGSEGV, "", Kind::InvalidArgument, "signal 11"),
            (libc::SIGABRT, "terminate called", Kind::InvalidArgument, "signal 6"),
            (libc::SIGABRT, "memory allocation of 9 bytes failed", Kind::InvalidArgument, "compile_memory_bytes"),
            (libc::SIGKILL, "", Kind::InvalidArgument, "out of memory"),
            (libc::SIGXCPU, "", Kind::InvalidArgument, "500 ms (limit compile_ms)"),
            (libc::SIGXFSZ, "", Kind::TooLarge, "compiled_bytes"),
            (101 << 8, "panicked", Kind::InvalidArgument, "exit code 101"),
        ];
        for (raw, said, kind, part) in table {
            let error = of_end(ExitStatus::from_raw(raw), said, &CAPS).unwrap_err();
            assert!(error.kind() == kind && error.message().contains(part), "{raw}: {error}");
            assert!(error.message().starts_with("the component's compilation"), "{error}");
        }
        assert!(of_end(ExitStatus::from_raw(0), "", &CAPS).is_ok());
    }

    #[test]
    fn a_jobs_own_error_keeps_its_kind_and_loses_no_cause() {
        let failure = |kind: &str| Failure { kind: kind.into(), message: "m".into(), chain: "m: c".into() };
        let error = of_job(failure("unsupported"));
        assert_eq!((error.kind(), error.message()), (Kind::Unsupported, "m"));
        assert!(error.chain().contains("m: c"));
        // Being overloaded is no lack of memory, which a job says otherwise.
        assert_eq!(
            (of_job(failure("overloaded")).kind(), of_job(failure("overloaded")).message()),
            (Kind::Overloaded, "m")
        );
        assert_eq!(of_job(failure("nonsense")).kind(), Kind::Internal);
        let long = Failure { kind: "malformed".into(), message: "x".repeat(1 << 20), chain: String::new() };
        assert!(of_job(long).message().len() < 5_000);
    }
}
