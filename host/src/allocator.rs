//! The program's allocator, and how long it keeps free memory; it counts nothing.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

/// Bodies and tensors of some hundred KB come and go with every request. The system's allocator gives such blocks back to the
/// kernel each time, and most of a request's time went into getting their pages again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `mi_option_purge_delay`, which has no name in its Rust crate: milliseconds until freed memory is given back to the
/// kernel, ten times as many for large blocks (`mi_option_arena_purge_mult`).
const PURGE_DELAY: c_int = 15;

/// By default it is 10. Then a handler that makes large tensors one after another gets new pages for each. The kernel zeroes
/// them, and on a virtual machine its host often has to find them first, which stops all its cores. Other handlers waited twice
/// as long beside such a handler.
const KEPT_MS: c_long = 200;

/// Keeps free memory for 0.2 s, and large blocks for 2 s, unless `MIMALLOC_PURGE_DELAY` says otherwise. It must be called before
/// other threads start.
pub(crate) fn keep_for_a_while() {
    // SAFETY: the call writes a number into a table of mimalloc; no other thread exists yet that could read it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT_MS) };
}
