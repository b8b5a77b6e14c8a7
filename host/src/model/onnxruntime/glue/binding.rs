//! The calls to onnxruntime's C API for sessions on a GPU: the CUDA provider's options, tensors over device memory, and runs
//! whose outputs stay there; it never decides anything.

use super::{Borrowed, Output, RawSession, Value, checked, not_null};
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, builder::SessionBuilder};
use ort::sys::{
    ONNXTensorElementDataType, OrtAllocator, OrtCUDAProviderOptionsV2, OrtIoBinding, OrtMemoryInfo, OrtValue,
};
use std::ffi::{CString, c_char, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// `OrtMemoryInfoDeviceType_GPU`.
const DEVICE_GPU: i32 = 1;

/// Lets a session run on a GPU, with the provider's options by name.
pub(in super::super) fn add_cuda(builder: &mut SessionBuilder, options: &[(&str, String)]) -> ort::Result<()> {
    let texts = |text: &str| CString::new(text).map_err(|error| ort::Error::new(error.to_string()));
    let keys: Vec<CString> = options.iter().map(|(key, _)| texts(key)).collect::<Result<_, _>>()?;
    let values: Vec<CString> = options.iter().map(|(_, value)| texts(value)).collect::<Result<_, _>>()?;
    let pointers = |texts: &[CString]| -> Vec<*const c_char> { texts.iter().map(|text| text.as_ptr()).collect() };
    let (keys, values) = (pointers(&keys), pointers(&values));
    let mut raw: *mut OrtCUDAProviderOptionsV2 = null_mut();
    // SAFETY: `raw` is written before it is read, and released by `Options`; the texts outlive the call that reads them, and the
    // call gets their number.
    unsafe {
        call!(CreateCUDAProviderOptions(&raw mut raw))?;
        let raw = Options(not_null(raw, "CUDA options")?);
        call!(UpdateCUDAProviderOptions(raw.0.as_ptr(), keys.as_ptr(), values.as_ptr(), keys.len()))?;
        call!(SessionOptionsAppendExecutionProvider_CUDA_V2(builder.ptr_mut(), raw.0.as_ptr()))
    }
}

/// Lets a session use a tensor as an initialiser of this name, without a copy if its memory is where the session wants it;
/// otherwise the session reads the initialiser from the file.
///
/// # Safety
/// The tensor outlives the sessions that are made with these options.
pub(in super::super) unsafe fn add_initializer(
    builder: &mut SessionBuilder,
    name: &CString,
    tensor: &Borrowed<'_>,
) -> ort::Result<()> {
    // SAFETY: options, name and value are alive; the name is copied, and the caller keeps the value.
    unsafe { call!(AddInitializer(builder.ptr_mut(), name.as_ptr(), tensor.value.0.as_ptr())) }
}

struct Options(NonNull<OrtCUDAProviderOptionsV2>);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: owned, released only here.
        unsafe { (ort::api().ReleaseCUDAProviderOptions)(self.0.as_ptr()) };
    }
}

fn on_gpu(ordinal: u32) -> ort::Result<MemoryInfo<'static>> {
    let ordinal = i32::try_from(ordinal).map_err(|error| ort::Error::new(error.to_string()))?;
    MemoryInfo::new(AllocationDevice::CUDA, ordinal, AllocatorType::Device, MemoryType::Default)
}

impl<'a> Borrowed<'a> {
    /// A tensor over memory of a GPU that stays the caller's for `'a`: the address of as many bytes as `dims` say.
    ///
    /// # Safety
    /// This many bytes exist at the address, and only queued work writes them for `'a`.
    pub(in super::super) unsafe fn on_gpu(
        ordinal: u32,
        address: u64,
        bytes: usize,
        dims: &[i64],
        element: ONNXTensorElementDataType,
    ) -> ort::Result<Borrowed<'a>> {
        let data = address as usize as *mut c_void;
        // SAFETY: by this function's contract.
        unsafe { Borrowed::over(&on_gpu(ordinal)?, data, bytes, dims, element) }
    }
}

/// An output of a run, on a GPU, or in host memory if that was requested.
pub(in super::super) enum Left {
    /// Text.
    OnHost(Output),
    /// Anything else.
    OnGpu(LeftOnGpu),
}

/// An output of a run that is on a GPU.
pub(in super::super) struct LeftOnGpu {
    /// An `ONNXTensorElementDataType`.
    pub(in super::super) element: i32,
    /// The dimensions.
    pub(in super::super) dims: Vec<i64>,
    /// The first byte's address.
    pub(in super::super) address: u64,
    /// The number of bytes.
    pub(in super::super) bytes: u64,
    _value: Value,
}

struct Binding(NonNull<OrtIoBinding>);

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: owned, released only here.
        unsafe { (ort::api().ReleaseIoBinding)(self.0.as_ptr()) };
    }
}

impl RawSession {
    /// Runs the model on a GPU: outputs stay there, except those for which `on_host` is true. With `options` that say so, it
    /// returns as soon as all work is queued. Any number of threads may do so at once, each with options of its own.
    pub(in super::super) fn run_on_gpu(
        self: &Arc<Self>,
        ordinal: u32,
        options: &RunOptions,
        inputs: &[(&CString, Borrowed<'_>)],
        outputs: &[(&CString, bool)],
    ) -> ort::Result<Vec<Left>> {
        let gpu = on_gpu(ordinal)?;
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        let mut binding: *mut OrtIoBinding = null_mut();
        let session = self.pointer.as_ptr();
        // SAFETY: the session is alive; `binding` is written before it is read.
        unsafe { call!(CreateIoBinding(session, &raw mut binding))? };
        let binding = Binding(not_null(binding, "binding")?);
        for (name, input) in inputs {
            // SAFETY: binding, name and value are alive; the binding takes a reference of its own to the value.
            unsafe { call!(BindInput(binding.0.as_ptr(), name.as_ptr(), input.value.0.as_ptr()))? };
        }
        for (name, on_host) in outputs {
            let place = if *on_host { host.ptr() } else { gpu.ptr() };
            // SAFETY: binding, name and place are alive; the place is copied.
            unsafe { call!(BindOutputToDevice(binding.0.as_ptr(), name.as_ptr(), place))? };
        }
        // SAFETY: session, options and binding are alive, and so are the values that the binding refers to. Run may be called by
        // many threads at once, and does not write to its inputs.
        unsafe { call!(RunWithBinding(session, options.ptr(), binding.0.as_ptr()))? };
        let values = bound(&binding)?;
        if values.len() != outputs.len() {
            return Err(ort::Error::new("onnxruntime gave fewer outputs than the model has"));
        }
        let left = |(value, (_, on_host)): (Value, &(&CString, bool))| match on_host {
            true => Output::new(value, Arc::clone(self)).map(Left::OnHost),
            false => LeftOnGpu::new(value).map(Left::OnGpu),
        };
        values.into_iter().zip(outputs).map(left).collect()
    }
}

/// The values of a binding's outputs, in the order in which these were bound.
fn bound(binding: &Binding) -> ort::Result<Vec<Value>> {
    let mut allocator: *mut OrtAllocator = null_mut();
    let mut values: *mut *mut OrtValue = null_mut();
    let mut count = 0usize;
    // SAFETY: the default allocator is never released; the list has the given length, each value in it is the caller's, and the
    // list itself is given back to the allocator that made it.
    unsafe {
        call!(GetAllocatorWithDefaultOptions(&raw mut allocator))?;
        call!(GetBoundOutputValues(binding.0.as_ptr(), allocator, &raw mut values, &raw mut count))?;
        if values.is_null() {
            return Ok(Vec::new());
        }
        let list = std::slice::from_raw_parts(values, count).iter().map(|value| NonNull::new(*value).map(Value));
        let list: Vec<Option<Value>> = list.collect();
        call!(AllocatorFree(allocator, values.cast()))?;
        let missing = || ort::Error::new("onnxruntime gave no value for an output");
        list.into_iter().map(|value| value.ok_or_else(missing)).collect()
    }
}

impl LeftOnGpu {
    fn new(value: Value) -> ort::Result<LeftOnGpu> {
        let (element, dims) = value.element_and_dims()?;
        let (data, bytes) = value.data()?;
        let mut place = 0i32;
        let mut memory: *const OrtMemoryInfo = null_mut();
        // SAFETY: the value is alive and a tensor; both variables are written before they are read; the enum is a 32-bit
        // integer in C.
        unsafe {
            call!(GetTensorMemoryInfo(value.0.as_ptr(), &raw mut memory))?;
            (ort::api().MemoryInfoGetDeviceType)(memory, (&raw mut place).cast());
        }
        if place != DEVICE_GPU {
            return Err(ort::Error::new("onnxruntime left an output elsewhere than on the GPU"));
        }
        Ok(LeftOnGpu { element, dims, address: data.addr().get() as u64, bytes: bytes as u64, _value: value })
    }
}
