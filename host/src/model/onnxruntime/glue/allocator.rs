//! An allocator through which onnxruntime takes a device's memory from hearth. It is registered for the process through the C
//! API, implemented by two functions, and used by sessions with `session.use_env_allocators`. It never decides anything.

use super::checked;
use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::sys::{OrtAllocator, OrtMemoryInfo};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ffi::c_void;

/// Allocates this many bytes; null if there is no room.
type Allocate = fn(usize) -> *mut c_void;
/// Gives back what [`Allocate`] gave.
type Free = fn(*mut c_void);
/// Throws `std::bad_alloc`.
type Throw = unsafe extern "C-unwind" fn() -> !;

/// libstdc++'s `std::__throw_bad_alloc()`, and the library.
const THROW: &[u8] = b"_ZSt17__throw_bad_allocv";
const LIBRARY: &str = "libstdc++.so.6";

/// The allocator as the API gets it: the API's table first.
#[repr(C)]
struct Lender {
    table: OrtAllocator,
    place: MemoryInfo<'static>,
    allocate: Allocate,
    free: Free,
    throw: Throw,
}

/// Makes sessions of the process take memory of GPU number `ordinal` from `allocate`; only the first call for a GPU has an
/// effect.
///
/// Errors: why it is not possible.
pub(in super::super) fn lend_memory(
    environment: &Environment,
    ordinal: u32,
    allocate: Allocate,
    free: Free,
) -> Result<(), String> {
    static LENT: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    let mut lent = LENT.lock();
    if !lent.contains(&ordinal) {
        let number = i32::try_from(ordinal).map_err(|error| error.to_string())?;
        let place = MemoryInfo::new(AllocationDevice::CUDA, number, AllocatorType::Device, MemoryType::Default);
        register(environment, place.map_err(|error| error.to_string())?, allocate, free)?;
        lent.insert(ordinal);
    }
    Ok(())
}

fn register(
    environment: &Environment,
    place: MemoryInfo<'static>,
    allocate: Allocate,
    free: Free,
) -> Result<(), String> {
    // SAFETY: the library is loaded already, because onnxruntime is C++; a symbol of this name has this type in all its versions.
    let throw = unsafe {
        let library = libloading::Library::new(LIBRARY).map_err(|error| error.to_string())?;
        let throw = *library.get::<Throw>(THROW).map_err(|error| error.to_string())?;
        std::mem::forget(library);
        throw
    };
    // SAFETY: all that the API requires of the table is set below.
    let mut table = unsafe { OrtAllocator::default() };
    // SAFETY: the two types differ only in that the first may unwind, which the calling C++ code expects.
    table.Alloc = Some(unsafe {
        std::mem::transmute::<
            unsafe extern "C-unwind" fn(*mut OrtAllocator, usize) -> *mut c_void,
            unsafe extern "system" fn(*mut OrtAllocator, usize) -> *mut c_void,
        >(take)
    });
    table.Free = Some(give_back);
    table.Info = Some(tell_place);
    // Sessions may keep it for any time.
    let lender = Box::leak(Box::new(Lender { table, place, allocate, free, throw }));
    // SAFETY: environment and table are alive, the table forever.
    let status =
        unsafe { checked((ort::api().RegisterAllocator)(environment.ptr().cast_mut(), &raw mut lender.table)) };
    status.map_err(|error| error.message().to_owned())
}

/// # Safety
/// `this` is the table of a [`Lender`].
unsafe extern "C-unwind" fn take(this: *mut OrtAllocator, bytes: usize) -> *mut c_void {
    // SAFETY: by this function's contract; the lender is never freed or written.
    let lender = unsafe { &*this.cast::<Lender>() };
    let address = (lender.allocate)(bytes);
    if address.is_null() && bytes > 0 {
        // onnxruntime does not check that the tensors it makes have memory, but it catches the exception of C++'s own allocator.
        // SAFETY: the frames between here and its handler are this one, which owns nothing, and C++'s.
        unsafe { (lender.throw)() }
    }
    address
}

/// # Safety
/// As for [`take`].
unsafe extern "system" fn give_back(this: *mut OrtAllocator, address: *mut c_void) {
    // SAFETY: by this function's contract.
    let lender = unsafe { &*this.cast::<Lender>() };
    (lender.free)(address);
}

/// # Safety
/// As for [`take`].
unsafe extern "system" fn tell_place(this: *const OrtAllocator) -> *const OrtMemoryInfo {
    // SAFETY: by this function's contract.
    let lender = unsafe { &*this.cast::<Lender>() };
    lender.place.ptr()
}

#[cfg(test)]
mod tests {
    use super::super::{Borrowed, RawSession};
    use super::*;
    use crate::config::RawConfig;
    use crate::model::onnxruntime::library::Library;
    use crate::model::tests::{gelu_graph, wanted};
    use ort::session::RunOptions;
    use ort::session::builder::SessionBuilder;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    /// How many requests are still granted, and how many blocks are allocated.
    static LEFT: AtomicI64 = AtomicI64::new(i64::MAX);
    static OUT: AtomicI64 = AtomicI64::new(0);

    fn from_host(bytes: usize) -> *mut c_void {
        if LEFT.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return std::ptr::null_mut();
        }
        OUT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the size is a multiple of the alignment.
        unsafe { libc::aligned_alloc(64, bytes.next_multiple_of(64)) }
    }

    fn to_host(address: *mut c_void) {
        if !address.is_null() {
            OUT.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: it came from `aligned_alloc`.
            unsafe { libc::free(address) }
        }
    }

    #[test]
    fn a_refused_request_fails_a_load_or_a_run_and_nothing_else() {
        let Some(path) = wanted("HEARTH_ORT_LIB") else { return };
        let folder = tempfile::tempdir().unwrap();
        let raw = RawConfig { data: Some(folder.path().to_owned()), ort_lib: Some(path), ..RawConfig::default() };
        let library = Library::get(&raw.resolve().unwrap()).unwrap();
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default).unwrap();
        register(&library.environment, host, from_host, to_host).unwrap();
        let model = folder.path().join("model.onnx");
        std::fs::write(&model, gelu_graph()).unwrap();
        let options = || {
            let builder = SessionBuilder::new(&library.environment).unwrap().with_memory_pattern(false).unwrap();
            builder.with_config_entry("session.use_env_allocators", "1").unwrap()
        };
        let element = ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        let names = |name: &str| [std::ffi::CString::new(name).unwrap()];
        let bytes: Vec<u8> = 1f32.to_le_bytes().repeat(2 * 64);
        let mut refused = [0; 2];
        for granted in 0.. {
            LEFT.store(granted, Ordering::Relaxed);
            let session = match RawSession::load(&library.environment, &options(), &model) {
                Ok(session) => Arc::new(session),
                Err(error) => {
                    assert!(error.message().contains("bad_alloc"), "{error}");
                    refused[0] += 1;
                    continue;
                }
            };
            let run = || {
                let input = Borrowed::new(&bytes, &[2, 64], element).unwrap();
                session.run(&RunOptions::new().unwrap(), &names("x"), &[input], &names("y"))
            };
            let first = run();
            LEFT.store(i64::MAX, Ordering::Relaxed);
            let again = run().unwrap();
            match first {
                Ok(outputs) => {
                    assert_eq!(outputs[0].bytes(), again[0].bytes());
                    break;
                }
                Err(error) => {
                    assert!(error.message().contains("bad_alloc"), "{error}");
                    refused[1] += 1;
                }
            }
        }
        assert!(refused[0] > 0 && refused[1] > 1, "{refused:?}");
        assert_eq!(OUT.load(Ordering::Relaxed), 0);
    }
}
