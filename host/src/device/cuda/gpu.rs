//! The real driver: libcuda through cudarc, loaded at run time, NVRTC for kernels and cuBLAS for products; it never panics
//! where one of them is missing.

use super::cublas::Cublas;
use super::driver::{Driver, Failure, Multiplication, Outcome, Pinned, Stream, THREADS};
use super::machine_code::MachineCode;
use super::nvrtc::Nvrtc;
use super::units::Unit;
use crate::config::Config;
use crate::node_key::NodeKey;
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};

/// A GPU's context and queues.
pub(super) struct Gpu {
    device: sys::CUdevice,
    context: Handle<sys::CUcontext>,
    streams: [Handle<sys::CUstream>; 3],
    /// Compute capability as one number: 90 for 9.0.
    architecture: u32,
    nvrtc: Nvrtc,
    cublas: Option<Cublas>,
    /// The compiled units.
    machine_code: MachineCode,
}

/// A pointer that belongs to the driver.
struct Handle<T>(T);

// SAFETY: CUDA's driver takes its contexts and streams from any thread, several at once.
#[allow(unsafe_code)]
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T> Sync for Handle<T> {}

/// A description of a GPU, for messages.
pub(super) struct Described {
    /// Its name, such as NVIDIA H100.
    pub(super) name: String,
    /// Its memory.
    pub(super) total_bytes: u64,
    /// The free part of it.
    pub(super) free_bytes: u64,
    /// Compute capability as one number.
    pub(super) architecture: u32,
    /// The compiler's version.
    pub(super) nvrtc: (i32, i32),
    /// Whether cuBLAS computes products.
    pub(super) has_cublas: bool,
}

/// What a failed call means for the device.
fn failure(error: result::DriverError) -> Failure {
    use sys::cudaError_enum as E;
    let text = || format!("{error:?}");
    match error.0 {
        E::CUDA_ERROR_OUT_OF_MEMORY => Failure::OutOfMemory,
        // After these, a context answers every call with the same error.
        E::CUDA_ERROR_ILLEGAL_ADDRESS
        | E::CUDA_ERROR_LAUNCH_FAILED
        | E::CUDA_ERROR_LAUNCH_TIMEOUT
        | E::CUDA_ERROR_ECC_UNCORRECTABLE
        | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | E::CUDA_ERROR_HARDWARE_STACK_ERROR
        | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | E::CUDA_ERROR_MISALIGNED_ADDRESS
        | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | E::CUDA_ERROR_INVALID_PC
        | E::CUDA_ERROR_ASSERT
        | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | E::CUDA_ERROR_INVALID_CONTEXT
        | E::CUDA_ERROR_DEINITIALIZED
        | E::CUDA_ERROR_NO_DEVICE
        | E::CUDA_ERROR_DEVICE_UNAVAILABLE
        | E::CUDA_ERROR_UNKNOWN => Failure::Lost(text()),
        _ => Failure::Failed(text()),
    }
}

fn done<T>(result: Result<T, result::DriverError>) -> Outcome<T> {
    result.map_err(failure)
}

impl Gpu {
    /// Opens GPU number `ordinal`. Compiled kernels are kept in the data folder, signed with its `key`.
    ///
    /// Errors: a message that says what is missing.
    pub(super) fn open(ordinal: u32, config: &Config, key: &NodeKey) -> Result<Gpu, String> {
        // SAFETY: it only tries to load the library, and running the initialisers of NVIDIA's driver is intended.
        #[allow(unsafe_code)]
        if !unsafe { sys::is_culib_present() } {
            return Err("NVIDIA's driver is not installed: there is no libcuda.so.1 in the loader's path".to_owned());
        }
        let told = |what: &str, error: result::DriverError| format!("{what}: {error:?}");
        result::init().map_err(|error| {
            told("NVIDIA's driver is there but finds no GPU that it can use (does nvidia-smi list one?)", error)
        })?;
        let count = result::device::get_count().map_err(|error| told("counting the GPUs", error))?;
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        if number >= count {
            return Err(format!("there is no GPU of this number; the machine has {count}, counted from 0"));
        }
        let libraries = config.data.join("lib");
        let nvrtc = Nvrtc::load(config.nvrtc_lib.as_deref(), Some(&libraries))?;
        let device = result::device::get(number).map_err(|error| told("opening the GPU", error))?;
        let attribute = |attribute| {
            // SAFETY: `device` was just opened.
            #[allow(unsafe_code)]
            let value = unsafe { result::device::get_attribute(device, attribute) };
            value.map_err(|error| told("asking for the GPU's compute capability", error))
        };
        use sys::CUdevice_attribute_enum as A;
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let architecture = (major * 10 + minor).unsigned_abs();
        if architecture < 80 {
            return Err(format!("the GPU has compute capability {major}.{minor}; the kernels take 8.0 and later"));
        }
        // SAFETY: as above; the context is given back when the result is dropped.
        #[allow(unsafe_code)]
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(|error| told("taking a context", error))?;
        // SAFETY: the context was just taken.
        #[allow(unsafe_code)]
        unsafe { result::ctx::set_current(context) }.map_err(|error| told("taking a context", error))?;
        let stream = || {
            let made = result::stream::create(result::stream::StreamKind::NonBlocking);
            made.map(Handle).map_err(|error| told("making a stream", error))
        };
        let streams = [stream()?, stream()?, stream()?];
        let cublas = match Cublas::load(&libraries, streams[0].0.cast()) {
            Ok(cublas) => Some(cublas),
            Err(why) => {
                tracing::warn!("cuBLAS cannot be loaded ({why}); matmul takes hearth's own kernel, which is slower");
                None
            }
        };
        let machine_code = MachineCode::open(config.data.join("kernels"), key, architecture, nvrtc.version())
            .map_err(|error| error.chain())?;
        Ok(Gpu { device, context: Handle(context), streams, architecture, nvrtc, cublas, machine_code })
    }

    /// The description of this GPU.
    pub(super) fn describe(&self) -> Outcome<Described> {
        self.enter()?;
        let name = done(result::device::get_name(self.device))?;
        let (free, total) = done(result::mem_get_info())?;
        Ok(Described {
            name,
            total_bytes: total as u64,
            free_bytes: free as u64,
            architecture: self.architecture,
            nvrtc: self.nvrtc.version(),
            has_cublas: self.cublas.is_some(),
        })
    }

    /// Makes the context current for the calling thread; this costs next to nothing where it is already.
    fn enter(&self) -> Outcome<()> {
        // SAFETY: the context is held as long as `self`.
        #[allow(unsafe_code)]
        done(unsafe { result::ctx::set_current(self.context.0) })
    }

    fn stream(&self, stream: Stream) -> sys::CUstream {
        match stream {
            Stream::Compute => self.streams[0].0,
            Stream::In => self.streams[1].0,
            Stream::Out => self.streams[2].0,
        }
    }

    fn compile(&self, unit: Unit) -> Outcome<Vec<u8>> {
        let started = std::time::Instant::now();
        let compiled = self.nvrtc.compile(unit, self.architecture, false).map_err(Failure::Failed)?;
        tracing::info!(unit = unit.name(), ms = started.elapsed().as_millis(), "compiled kernels");
        if !compiled.log.is_empty() {
            tracing::debug!("NVRTC on {}: {}", unit.name(), compiled.log);
        }
        Ok(compiled.code)
    }
}

#[allow(unsafe_code)]
impl Driver for Gpu {
    fn allocate(&self, bytes: u64) -> Outcome<u64> {
        self.enter()?;
        // SAFETY: the context is current.
        done(unsafe { result::malloc_sync(bytes as usize) })
    }

    unsafe fn free(&self, address: u64) -> Outcome<()> {
        self.enter()?;
        // SAFETY: the context is current, and the caller vouches for the address.
        done(unsafe { result::free_sync(address) })
    }

    fn allocate_pinned(&self, bytes: usize) -> Outcome<Pinned> {
        self.enter()?;
        // SAFETY: the context is current.
        let pointer = done(unsafe { result::malloc_host(bytes, 0) })?;
        Ok(Pinned { address: pointer.addr() })
    }

    unsafe fn free_pinned(&self, pinned: Pinned) -> Outcome<()> {
        self.enter()?;
        // SAFETY: as for `free`.
        done(unsafe { result::free_host(pinned.address as *mut c_void) })
    }

    fn load(&self, unit: Unit) -> Outcome<u64> {
        let code = self.machine_code.of(unit, || self.compile(unit))?;
        self.enter()?;
        // SAFETY: the context is current, and `code` is a whole cubin from NVRTC: it was compiled now, or this node signed it.
        let module = done(unsafe { result::module::load_data(code.as_ptr().cast()) })?;
        Ok(module.addr() as u64)
    }

    fn function(&self, module: u64, name: &str) -> Outcome<u64> {
        self.enter()?;
        let name = CString::new(name).map_err(|error| Failure::Failed(error.to_string()))?;
        // SAFETY: `module` came from `load`, and modules are never unloaded.
        let function = done(unsafe { result::module::get_function(module as usize as sys::CUmodule, name) })?;
        Ok(function.addr() as u64)
    }

    unsafe fn launch(&self, function: u64, blocks: u32, parameters: &[u8]) -> Outcome<()> {
        self.enter()?;
        let mut pointers = [parameters.as_ptr().cast_mut().cast::<c_void>()];
        let (function, stream) = (function as usize as sys::CUfunction, self.stream(Stream::Compute));
        let threads = (THREADS as u32, 1, 1);
        // SAFETY: `function` came from `function`; the caller vouches for the parameters, which the call copies.
        done(unsafe { result::launch_kernel(function, (blocks, 1, 1), threads, 0, stream, &mut pointers) })
    }

    unsafe fn fill(&self, address: u64, byte: u8, bytes: u64) -> Outcome<()> {
        self.enter()?;
        // SAFETY: the caller vouches for the memory.
        done(unsafe { result::memset_d8_async(address, byte, bytes as usize, self.stream(Stream::Compute)) })
    }

    unsafe fn copy_within(&self, from: u64, to: u64, bytes: u64) -> Outcome<()> {
        self.enter()?;
        // SAFETY: the caller vouches for both sides.
        done(unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream(Stream::Compute)) })
    }

    unsafe fn copy_in(&self, to: u64, from: usize, bytes: usize) -> Outcome<()> {
        self.enter()?;
        // SAFETY: the caller vouches for this many bytes there.
        let from = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
        // SAFETY: the caller vouches for both sides until the copy is done.
        done(unsafe { result::memcpy_htod_async(to, from, self.stream(Stream::In)) })
    }

    unsafe fn copy_out(&self, from: u64, to: usize, bytes: usize) -> Outcome<()> {
        self.enter()?;
        // SAFETY: the caller vouches for this many bytes there, which nothing else touches.
        let to = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
        // SAFETY: the caller vouches for both sides until the copy is done.
        done(unsafe { result::memcpy_dtoh_async(to, from, self.stream(Stream::Out)) })
    }

    fn record(&self, stream: Stream) -> Outcome<u64> {
        self.enter()?;
        let event = done(result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        // SAFETY: the event was just made, and the stream lives as long as `self`.
        if let Err(failure) = done(unsafe { result::event::record(event, self.stream(stream)) }) {
            self.forget(event.addr() as u64);
            return Err(failure);
        }
        Ok(event.addr() as u64)
    }

    fn wait(&self, stream: Stream, event: u64) -> Outcome<()> {
        self.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the event came from `record` and was not dropped: its owner calls.
        done(unsafe { result::stream::wait_event(self.stream(stream), event as usize as sys::CUevent, flags) })
    }

    fn is_done(&self, event: u64) -> Outcome<bool> {
        self.enter()?;
        // SAFETY: as for `wait`.
        match unsafe { result::event::query(event as usize as sys::CUevent) } {
            Ok(()) => Ok(true),
            Err(error) if error.0 == sys::cudaError_enum::CUDA_ERROR_NOT_READY => Ok(false),
            Err(error) => Err(failure(error)),
        }
    }

    fn synchronize(&self, event: u64) -> Outcome<()> {
        self.enter()?;
        // SAFETY: as for `wait`.
        done(unsafe { result::event::synchronize(event as usize as sys::CUevent) })
    }

    fn forget(&self, event: u64) {
        if self.enter().is_ok() {
            // A lost device's events are gone with it.
            // SAFETY: its owner drops it, once.
            let _ = unsafe { result::event::destroy(event as usize as sys::CUevent) };
        }
    }

    fn queue(&self) -> u64 {
        self.streams[0].0.addr() as u64
    }

    fn workspace_bytes(&self) -> u64 {
        self.cublas.as_ref().map_or(0, Cublas::workspace_bytes)
    }

    unsafe fn use_workspace(&self, address: u64, bytes: u64) -> Outcome<()> {
        self.enter()?;
        match &self.cublas {
            // SAFETY: as this method's contract.
            Some(cublas) => unsafe { cublas.use_workspace(address, bytes) },
            None => Ok(()),
        }
    }

    unsafe fn multiply(&self, product: &Multiplication) -> Outcome<bool> {
        self.enter()?;
        match &self.cublas {
            // SAFETY: as this method's contract.
            Some(cublas) => unsafe { cublas.multiply(product) },
            None => Ok(false),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // The context's resources are freed with it; errors of a lost device do not matter here.
        if self.enter().is_ok() {
            drop(self.cublas.take());
            for stream in &self.streams {
                // SAFETY: the stream was made with this context and no thread queues work any more.
                #[allow(unsafe_code)]
                let _ = unsafe { result::stream::destroy(stream.0) };
            }
        }
        // SAFETY: the context was retained once.
        #[allow(unsafe_code)]
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
