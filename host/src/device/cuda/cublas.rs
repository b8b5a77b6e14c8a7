//! cuBLAS, loaded at run time, for products of float matrices; it never takes device memory of its own once it was given
//! some.

use super::driver::{Failure, Multiplication, Outcome};
use super::libraries;
use libloading::Library;
use parking_lot::Mutex;
use std::ffi::{c_int, c_longlong, c_void};
use std::path::Path;

/// Names of the library in the loader's path, newest first.
const NAMES: [&str; 3] = ["libcublas.so.13", "libcublas.so.12", "libcublas.so"];
/// The size that NVIDIA's documentation recommends for Hopper; older GPUs need less.
const WORKSPACE_BYTES: u64 = 32 << 20;

// Constants from cuBLAS' headers (cublas_api.h, library_types.h).
const OP_N: c_int = 0;
const R_32F: c_int = 0;
const R_64F: c_int = 1;
const R_16F: c_int = 2;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const COMPUTE_64F: c_int = 70;
const GEMM_DEFAULT: c_int = -1;
const MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: c_int = 16;
const STATUS_ALLOC_FAILED: c_int = 3;
const STATUS_EXECUTION_FAILED: c_int = 13;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
type Destroy = unsafe extern "C" fn(Handle) -> c_int;
type SetStream = unsafe extern "C" fn(Handle, *mut c_void) -> c_int;
type SetMathMode = unsafe extern "C" fn(Handle, c_int) -> c_int;
type SetWorkspace = unsafe extern "C" fn(Handle, *mut c_void, usize) -> c_int;
type Gemm = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    c_longlong,
    *const c_void,
    c_int,
    c_int,
    c_longlong,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_longlong,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// The library and one handle of it, which one thread uses at a time.
pub(super) struct Cublas {
    handle: Mutex<Owned>,
    destroy: Destroy,
    set_workspace: SetWorkspace,
    gemm: Gemm,
    _library: Library,
}

struct Owned(Handle);

// SAFETY: a handle may move between threads; the lock ensures that one thread uses it at a time.
#[allow(unsafe_code)]
unsafe impl Send for Owned {}

impl Cublas {
    /// Loads the library, from `folder`, the loader's path or CUDA's installation, for work on one stream of the current
    /// context.
    ///
    /// Errors: why the first place that was tried failed.
    pub(super) fn load(folder: &Path, stream: *mut c_void) -> Result<Cublas, String> {
        libraries::first(&libraries::places(&[folder], &NAMES), |path| Cublas::open(path, stream))
    }

    fn open(path: &Path, stream: *mut c_void) -> Result<Cublas, String> {
        // SAFETY: this is NVIDIA's library, and running its initialisers is intended.
        #[allow(unsafe_code)]
        let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
        macro_rules! symbol {
            ($name:literal as $type:ty) => {{
                // SAFETY: cuBLAS' header declares the function with this signature, in versions 11 to 13.
                #[allow(unsafe_code)]
                let symbol = unsafe { library.get::<$type>($name) };
                *symbol.map_err(|error| error.to_string())?
            }};
        }
        let (create, destroy) = (symbol!("cublasCreate_v2" as Create), symbol!("cublasDestroy_v2" as Destroy));
        let set_stream = symbol!("cublasSetStream_v2" as SetStream);
        let set_math_mode = symbol!("cublasSetMathMode" as SetMathMode);
        let set_workspace = symbol!("cublasSetWorkspace_v2" as SetWorkspace);
        let gemm = symbol!("cublasGemmStridedBatchedEx" as Gemm);
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: a context is current; `handle` is a place for the handle, which is destroyed on drop.
        #[allow(unsafe_code)]
        let code = unsafe { create(&raw mut handle) };
        if code != 0 {
            return Err(format!("cublasCreate failed with {code}"));
        }
        let cublas = Cublas { handle: Mutex::new(Owned(handle)), destroy, set_workspace, gemm, _library: library };
        // SAFETY: the handle was just made; the stream lives longer than it.
        #[allow(unsafe_code)]
        let codes =
            unsafe { [set_stream(handle, stream), set_math_mode(handle, MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)] };
        match codes {
            [0, 0] => Ok(cublas),
            _ => Err(format!("setting cuBLAS up failed with {codes:?}")),
        }
    }

    /// The size of the device memory that it needs to work in.
    pub(super) fn workspace_bytes(&self) -> u64 {
        WORKSPACE_BYTES
    }

    /// Gives it device memory to work in.
    ///
    /// # Safety
    /// The memory stays allocated as long as products are queued.
    #[allow(unsafe_code)]
    pub(super) unsafe fn use_workspace(&self, address: u64, bytes: u64) -> Outcome<()> {
        let handle = self.handle.lock();
        // SAFETY: the handle is there, and the caller vouches for the memory.
        done(unsafe { (self.set_workspace)(handle.0, address as usize as *mut c_void, bytes as usize) })
    }

    /// Queues products; `false` for element types and sizes that it does not support.
    ///
    /// # Safety
    /// The addresses are those of matrices of these sizes, which stay allocated until the work is done.
    #[allow(unsafe_code)]
    pub(super) unsafe fn multiply(&self, product: &Multiplication) -> Outcome<bool> {
        let (kind, compute) = match product.element {
            "f32" => (R_32F, COMPUTE_32F),
            "f64" => (R_64F, COMPUTE_64F),
            "f16" => (R_16F, COMPUTE_32F),
            "bf16" => (R_16BF, COMPUTE_32F),
            _ => return Ok(false),
        };
        let [a, b, c] = product.addresses.map(|address| address as usize as *mut c_void);
        let sizes = [product.sizes[0], product.sizes[1], product.sizes[2], product.matrices];
        let Ok([rows, length, columns, matrices]) = numbers(sizes) else { return Ok(false) };
        let [a_stride, b_stride, c_stride] = product.strides.map(|stride| stride.cast_signed());
        let (double, single) = ([1f64, 0.0], [1f32, 0.0]);
        let (alpha, beta): (*const c_void, *const c_void) = match compute {
            COMPUTE_64F => ((&raw const double[0]).cast(), (&raw const double[1]).cast()),
            _ => ((&raw const single[0]).cast(), (&raw const single[1]).cast()),
        };
        let handle = self.handle.lock();
        // cuBLAS' matrices are column-major: ours appear transposed to it, and c' = b' a'.
        // SAFETY: the handle is valid, alpha and beta have the type of the computation, and the caller vouches for the rest.
        let code = unsafe {
            (self.gemm)(
                handle.0,
                OP_N,
                OP_N,
                columns,
                rows,
                length,
                alpha,
                b,
                kind,
                columns,
                b_stride,
                a,
                kind,
                length,
                a_stride,
                beta,
                c,
                kind,
                columns,
                c_stride,
                matrices,
                compute,
                GEMM_DEFAULT,
            )
        };
        done(code).map(|()| true)
    }
}

fn numbers<const N: usize>(sizes: [u64; N]) -> Result<[c_int; N], std::num::TryFromIntError> {
    let mut numbers = [0; N];
    for (to, size) in numbers.iter_mut().zip(sizes) {
        *to = c_int::try_from(size)?;
    }
    Ok(numbers)
}

fn done(code: c_int) -> Outcome<()> {
    match code {
        0 => Ok(()),
        STATUS_ALLOC_FAILED => Err(Failure::OutOfMemory),
        STATUS_EXECUTION_FAILED => Err(Failure::Lost("cuBLAS could not run on the GPU".to_owned())),
        code => Err(Failure::Failed(format!("cuBLAS failed with {code}"))),
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        let handle = self.handle.get_mut();
        // SAFETY: the handle was made by this library, which is still loaded, and is not used again.
        #[allow(unsafe_code)]
        let code = unsafe { (self.destroy)(handle.0) };
        if code != 0 {
            tracing::warn!("cuBLAS was not given back: {code}");
        }
    }
}
