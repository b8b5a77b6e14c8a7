//! Ends a process that ran models on a GPU without running the destructors of libraries; it never ends one early.

use std::ffi::{c_int, c_void};
use std::sync::Once;

/// When the process exits, ends it before the destructors of libraries run: onnxruntime's free pinned memory through a CUDA
/// library that may be finalised by then, and abort (seen with 1.31.1). The caller must not need what such destructors do.
pub(in super::super) fn skip_destructors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(target_env = "gnu")]
        // SAFETY: glibc calls the function with the status and the pointer that is given here; the function does not read the
        // pointer.
        unsafe {
            on_exit(end, std::ptr::null_mut());
        }
    });
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

#[cfg(target_env = "gnu")]
extern "C" fn end(status: c_int, _: *mut c_void) {
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(status) }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;
    use std::process::Command;

    extern "C" fn abort() {
        std::process::abort();
    }

    const HERE: &str = "HEARTH_TEST_ENDS_HERE";

    /// Does nothing except in the process that the test below starts.
    #[test]
    fn the_process_that_ends() {
        if std::env::var_os(HERE).is_none() {
            return;
        }
        // Like a library's destructor, which is registered when the library is loaded. SAFETY: the function takes nothing and
        // gives nothing.
        assert_eq!(unsafe { libc::atexit(abort) }, 0);
        skip_destructors();
        std::process::exit(7);
    }

    #[test]
    fn destructors_of_libraries_do_not_run_and_the_status_stays() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "model::onnxruntime::glue::ending::tests::the_process_that_ends"]);
        let output = command.env(HERE, "1").output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
