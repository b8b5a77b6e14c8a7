//! The program's allocator, and how long it keeps memory that is free; it counts nothing.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

/// Bodies and tensors of some hundred KB come and go with every request. The system's allocator gives such blocks back to the
/// kernel each time, and most of a request's time went into getting their pages anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `mi_option_purge_delay`, which its Rust crate gives no name: milliseconds from when memory is free until the kernel
/// gets it back, ten times as many for large blocks (`mi_option_arena_purge_mult`).
const PURGE_DELAY: c_int = 15;

/// By default it is 10, so that a handler that makes large tensors one after another has the pages of each brought in anew: zeroed by
/// the kernel, and on a virtual machine often found by its host first, which stops all its cores. Beside such a handler others
/// waited twice as long.
const KEPT_MS: c_long = 200;

/// Keeps free memory for 0.2 s, and large blocks for 2 s, unless `MIMALLOC_PURGE_DELAY` says otherwise. Before there are other
/// threads.
pub(crate) fn keep_for_a_while() {
    // SAFETY: it writes a number into a table of mimalloc's; no other thread is there to read it meanwhile.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT_MS) };
}
