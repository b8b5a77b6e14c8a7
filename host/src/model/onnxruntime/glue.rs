//! The calls to onnxruntime's C API for which `ort` has no safe form: sessions shared by threads, and tensors over memory that
//! the caller owns; it never decides anything.
//!
//! Its types are safe to use. Every pointer they hold comes from the API, is not null, and is released once.
#![allow(unsafe_code)]

use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, builder::SessionBuilder};
use ort::sys::{
    ONNXTensorElementDataType, OrtAllocator, OrtApiBase, OrtSession, OrtStatusPtr, OrtTensorTypeAndShapeInfo,
    OrtTypeInfo, OrtValue,
};
use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// The code of the API for tensors, as opposed to sequences, maps and others.
const TYPE_TENSOR: i32 = ort::sys::ONNXType::ONNX_TYPE_TENSOR as i32;
/// The code of the API for elements that are strings, which have no plain bytes.
const ELEMENT_STRING: i32 = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING as i32;

/// Calls a function of the API and turns its status into a result.
macro_rules! call {
    ($name:ident($($argument:expr),* $(,)?)) => {
        checked((ort::api().$name)($($argument),*))
    };
}

mod allocator;
mod binding;
mod ending;

pub(super) use allocator::lend_memory;
pub(super) use binding::{Left, LeftOnGpu, add_cuda, add_initializer};
pub(super) use ending::skip_destructors;

/// # Safety
/// `status` was returned by the API and not released.
unsafe fn checked(status: OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: by this function's contract.
    unsafe { ort::Error::result_from_status(status) }
}

fn not_null<T>(pointer: *mut T, what: &str) -> ort::Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(|| ort::Error::new(format!("onnxruntime gave no {what}")))
}

/// The version of an onnxruntime library, such as `1.32.0`. Loads it, and the libraries it needs, for the life of the process.
pub(super) fn version(path: &Path) -> Result<String, String> {
    // SAFETY: the operator of the server chooses the libraries, by configuration or installation; a library's initialisers run
    // like those of the process.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })?;
    // The same library is loaded again by `ort`; unloading it in between is not safe for all versions.
    let library = std::mem::ManuallyDrop::new(library);
    // SAFETY: a symbol of this name has this type in every version of the C API.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase") };
    let base = base.map_err(|_| "it is not onnxruntime: it has no OrtGetApiBase".to_owned())?;
    // SAFETY: the function takes nothing and gives a static table or null, whose first two entries never changed; the
    // version is a static string that ends in NUL.
    unsafe {
        let table = base().as_ref().ok_or("its OrtGetApiBase gives nothing")?;
        let version = (table.GetVersionString)();
        if version.is_null() {
            return Err("it has no version".to_owned());
        }
        Ok(CStr::from_ptr(version).to_string_lossy().into_owned())
    }
}

/// The inputs or the outputs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Inputs,
    Outputs,
}

/// An input or output as the model declares it.
pub(super) struct Outlet {
    pub(super) name: String,
    /// The type and dimensions of a tensor; none for other values.
    pub(super) tensor: Option<OutletTensor>,
}

/// The type and dimensions of an input or output.
pub(super) struct OutletTensor {
    /// An `ONNXTensorElementDataType`; newer libraries have values that this build does not know.
    pub(super) element: i32,
    /// Each dimension, negative where it is free, and its symbol, empty where it has none. None if not even the number of
    /// dimensions is declared.
    pub(super) dims: Option<Vec<(i64, String)>>,
}

/// A model loaded by onnxruntime.
pub(super) struct RawSession {
    pointer: NonNull<OrtSession>,
    /// The environment must outlive its sessions.
    _environment: Environment,
}

// SAFETY: the C API lets a session be used and released by any thread, and lets many threads call Run and the queries on
// one session at once ("OrtApi::Run … is thread-safe"); nothing else is called on it.
unsafe impl Send for RawSession {}
// SAFETY: as above.
unsafe impl Sync for RawSession {}

impl Drop for RawSession {
    fn drop(&mut self) {
        // SAFETY: created by CreateSession, released only here; all runs are over, because they borrow the session.
        unsafe { (ort::api().ReleaseSession)(self.pointer.as_ptr()) };
        // glibc would otherwise keep most of the freed memory of the weights.
        #[cfg(target_env = "gnu")]
        // SAFETY: it takes a number and locks what it touches.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

impl RawSession {
    /// Loads the model in a file.
    pub(super) fn load(environment: &Environment, options: &SessionBuilder, path: &Path) -> ort::Result<RawSession> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut session: *mut OrtSession = null_mut();
        // SAFETY: environment and options are alive, the path ends in NUL, `session` is written before it is read.
        unsafe { call!(CreateSession(environment.ptr(), path.as_ptr(), options.ptr(), &raw mut session))? };
        Ok(RawSession { pointer: not_null(session, "session")?, _environment: environment.clone() })
    }

    /// How many inputs or outputs there are.
    pub(super) fn count(&self, side: Side) -> ort::Result<usize> {
        let mut count = 0;
        let session = self.pointer.as_ptr();
        // SAFETY: the session is alive; `count` is written.
        unsafe {
            match side {
                Side::Inputs => call!(SessionGetInputCount(session, &raw mut count))?,
                Side::Outputs => call!(SessionGetOutputCount(session, &raw mut count))?,
            }
        }
        Ok(count)
    }

    /// One of the inputs or outputs. `index` must be less than [`RawSession::count`].
    pub(super) fn outlet(&self, side: Side, index: usize) -> ort::Result<Outlet> {
        let mut info: *mut OrtTypeInfo = null_mut();
        let session = self.pointer.as_ptr();
        // SAFETY: the session is alive; `info` is written, and released by `TypeInfo`.
        unsafe {
            match side {
                Side::Inputs => call!(SessionGetInputTypeInfo(session, index, &raw mut info))?,
                Side::Outputs => call!(SessionGetOutputTypeInfo(session, index, &raw mut info))?,
            }
        }
        let info = TypeInfo(not_null(info, "type")?);
        Ok(Outlet { name: self.name(side, index)?, tensor: info.tensor()? })
    }

    fn name(&self, side: Side, index: usize) -> ort::Result<String> {
        let mut allocator: *mut OrtAllocator = null_mut();
        let mut name: *mut c_char = null_mut();
        let session = self.pointer.as_ptr();
        // SAFETY: the session is alive and the default allocator is never released; the name is a string that ends in NUL,
        // which is copied before it is freed by the allocator that made it.
        unsafe {
            call!(GetAllocatorWithDefaultOptions(&raw mut allocator))?;
            match side {
                Side::Inputs => call!(SessionGetInputName(session, index, allocator, &raw mut name))?,
                Side::Outputs => call!(SessionGetOutputName(session, index, allocator, &raw mut name))?,
            }
            let name = not_null(name, "name")?;
            let text = CStr::from_ptr(name.as_ptr()).to_str().map(str::to_owned);
            call!(AllocatorFree(allocator, name.as_ptr().cast()))?;
            Ok(text?)
        }
    }

    /// Runs the model. Any number of threads may do so at once, each with options of its own.
    pub(super) fn run(
        self: &Arc<Self>,
        options: &RunOptions,
        input_names: &[CString],
        inputs: &[Borrowed<'_>],
        output_names: &[CString],
    ) -> ort::Result<Vec<Output>> {
        if input_names.len() != inputs.len() {
            return Err(ort::Error::new("a run needs one name for each input"));
        }
        let input_names: Vec<_> = input_names.iter().map(|name| name.as_ptr()).collect();
        let output_names: Vec<_> = output_names.iter().map(|name| name.as_ptr()).collect();
        let values: Vec<*const OrtValue> = inputs.iter().map(|input| input.value.0.as_ptr().cast_const()).collect();
        let mut outputs: Vec<*mut OrtValue> = vec![null_mut(); output_names.len()];
        // SAFETY: session, options, names and input values are alive and borrowed until the call returns; there are as many
        // of each as the lengths say; null outputs ask onnxruntime to allocate. Run may be called by many threads at once,
        // and does not write to its inputs.
        let status = unsafe {
            call!(Run(
                self.pointer.as_ptr(),
                options.ptr(),
                input_names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            ))
        };
        let outputs: Vec<_> = outputs.into_iter().map(|output| NonNull::new(output).map(Value)).collect();
        status?;
        let missing = || ort::Error::new("onnxruntime gave fewer outputs than the model has");
        outputs.into_iter().map(|value| Output::new(value.ok_or_else(missing)?, self.clone())).collect()
    }
}

struct TypeInfo(NonNull<OrtTypeInfo>);

impl Drop for TypeInfo {
    fn drop(&mut self) {
        // SAFETY: owned, released only here.
        unsafe { (ort::api().ReleaseTypeInfo)(self.0.as_ptr()) };
    }
}

impl TypeInfo {
    fn tensor(&self) -> ort::Result<Option<OutletTensor>> {
        // Enums of the API are read as integers: a newer library may write values that this build's enums lack.
        let (mut kind, mut element, mut rank) = (0i32, 0i32, 0usize);
        let mut info: *const OrtTensorTypeAndShapeInfo = null_mut();
        // SAFETY: the type is alive, and the pointer that it is cast to lives as long; both enums are 32-bit integers in C; all
        // variables are written before they are read.
        unsafe {
            call!(GetOnnxTypeFromTypeInfo(self.0.as_ptr(), (&raw mut kind).cast()))?;
            if kind != TYPE_TENSOR {
                return Ok(None);
            }
            call!(CastTypeInfoToTensorInfo(self.0.as_ptr(), &raw mut info))?;
            let info = not_null(info.cast_mut(), "tensor type")?.as_ptr();
            call!(GetTensorElementType(info, (&raw mut element).cast()))?;
            if !(ort::api().TensorTypeAndShape_HasShape)(info) {
                return Ok(Some(OutletTensor { element, dims: None }));
            }
            call!(GetDimensionsCount(info, &raw mut rank))?;
            let mut lengths = vec![0i64; rank];
            let mut symbols: Vec<*const c_char> = vec![null_mut(); rank];
            call!(GetDimensions(info, lengths.as_mut_ptr(), rank))?;
            call!(GetSymbolicDimensions(info, symbols.as_mut_ptr(), rank))?;
            let symbol = |pointer: *const c_char| match pointer.is_null() {
                true => String::new(),
                false => CStr::from_ptr(pointer).to_string_lossy().into_owned(),
            };
            let dims = lengths.into_iter().zip(symbols.into_iter().map(symbol)).collect();
            Ok(Some(OutletTensor { element, dims: Some(dims) }))
        }
    }
}

struct Value(NonNull<OrtValue>);

// SAFETY: a value is reference-counted memory; any thread may read and release it.
unsafe impl Send for Value {}
// SAFETY: as above; nothing writes to it.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: owned, released only here.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}

impl Value {
    /// The `ONNXTensorElementDataType` and the dimensions of a tensor.
    fn element_and_dims(&self) -> ort::Result<(i32, Vec<i64>)> {
        let (mut element, mut rank) = (0i32, 0usize);
        let mut dims: *const i64 = null_mut();
        let kind = (&raw mut element).cast();
        // SAFETY: the value is alive; the call fails unless it is a tensor; the enum is a 32-bit integer in C; the dimensions are
        // stored in the value and are copied.
        unsafe {
            call!(GetTensorElementTypeAndShapeDataReference(self.0.as_ptr(), kind, &raw mut dims, &raw mut rank))?;
            let none = rank == 0 || dims.is_null();
            Ok((element, if none { Vec::new() } else { std::slice::from_raw_parts(dims, rank).to_vec() }))
        }
    }

    /// The address and number of bytes of the elements of a tensor that holds no strings. They may be in a GPU's memory.
    fn data(&self) -> ort::Result<(NonNull<u8>, usize)> {
        let mut bytes = 0;
        let mut data: *mut c_void = null_mut();
        // SAFETY: the value is alive and a tensor of plain elements; both are written.
        unsafe {
            call!(GetTensorSizeInBytes(self.0.as_ptr(), &raw mut bytes))?;
            call!(GetTensorMutableData(self.0.as_ptr(), &raw mut data))?;
        }
        match NonNull::new(data.cast::<u8>()) {
            Some(data) => Ok((data, bytes)),
            None if bytes == 0 => Ok((NonNull::dangling(), 0)),
            None => Err(ort::Error::new("onnxruntime gave an output without data")),
        }
    }
}

/// A tensor over memory that the caller owns.
pub(super) struct Borrowed<'a> {
    value: Value,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Borrowed<'a> {
    /// A tensor over `bytes`, which hold as many elements as `dims` say.
    pub(super) fn new(bytes: &'a [u8], dims: &[i64], element: ONNXTensorElementDataType) -> ort::Result<Borrowed<'a>> {
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        // SAFETY: the bytes outlive the value by its lifetime parameter.
        unsafe { Borrowed::over(&host, bytes.as_ptr().cast_mut().cast(), bytes.len(), dims, element) }
    }

    /// # Safety
    /// This many bytes exist at `data`, in memory of `place`, and only queued work writes to them for `'a`.
    unsafe fn over(
        place: &MemoryInfo<'_>,
        data: *mut c_void,
        bytes: usize,
        dims: &[i64],
        element: ONNXTensorElementDataType,
    ) -> ort::Result<Borrowed<'a>> {
        let mut value: *mut OrtValue = null_mut();
        let (place, lengths, rank) = (place.ptr(), dims.as_ptr(), dims.len());
        // SAFETY: this function's contract; the call checks that the bytes suffice for the dimensions, and nothing writes
        // through the pointer: inputs of a run are only read.
        unsafe { call!(CreateTensorWithDataAsOrtValue(place, data, bytes, lengths, rank, element, &raw mut value))? };
        Ok(Borrowed { value: Value(not_null(value, "value")?), bytes: PhantomData })
    }

    /// A tensor of copies of `strings`, which are as many as `dims` say.
    pub(super) fn text(strings: &[String], dims: &[i64]) -> ort::Result<Borrowed<'static>> {
        let mut allocator: *mut OrtAllocator = null_mut();
        let mut value: *mut OrtValue = null_mut();
        let element = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING;
        // SAFETY: the default allocator is never released; the number of dimensions is correct; `value` is written.
        unsafe {
            call!(GetAllocatorWithDefaultOptions(&raw mut allocator))?;
            call!(CreateTensorAsOrtValue(allocator, dims.as_ptr(), dims.len(), element, &raw mut value))?;
        }
        let value = Value(not_null(value, "value")?);
        for (index, string) in strings.iter().enumerate().filter(|(_, string)| !string.is_empty()) {
            let mut buffer: *mut c_char = null_mut();
            // SAFETY: the value is alive and not shared yet; the call checks the index and gives room for the requested number of
            // bytes, which are written at once. Unlike FillStringTensor it takes strings that contain a NUL.
            unsafe {
                let pointer = value.0.as_ptr();
                call!(GetResizedStringTensorElementBuffer(pointer, index, string.len(), &raw mut buffer))?;
                let buffer = not_null(buffer, "room for a string")?.as_ptr().cast::<u8>();
                std::ptr::copy_nonoverlapping(string.as_ptr(), buffer, string.len());
            }
        }
        Ok(Borrowed { value, bytes: PhantomData })
    }
}

/// An output of a run, in onnxruntime's memory.
pub(super) struct Output {
    /// An `ONNXTensorElementDataType`.
    pub(super) element: i32,
    /// The dimensions.
    pub(super) dims: Vec<i64>,
    data: NonNull<u8>,
    bytes: usize,
    value: Value,
    /// An output may be one of the model's constants, which the session owns.
    _session: Arc<RawSession>,
}

// SAFETY: `data` points into `value`, which any thread may read.
unsafe impl Send for Output {}
// SAFETY: as above; nothing writes to it.
unsafe impl Sync for Output {}

impl Output {
    fn new(value: Value, session: Arc<RawSession>) -> ort::Result<Output> {
        let (element, dims) = value.element_and_dims()?;
        let (data, bytes) = match element == ELEMENT_STRING {
            true => (NonNull::dangling(), 0),
            false => value.data()?,
        };
        Ok(Output { element, dims, data, bytes, value, _session: session })
    }

    /// The bytes of all strings together of an output of strings.
    pub(super) fn text_bytes(&self) -> ort::Result<usize> {
        let mut bytes = 0;
        // SAFETY: the value is alive; the call fails unless it holds strings; `bytes` is written.
        unsafe { call!(GetStringTensorDataLength(self.value.0.as_ptr(), &raw mut bytes))? };
        Ok(bytes)
    }

    /// The bytes of each string of an output of `count` strings.
    pub(super) fn strings(&self, count: usize) -> ort::Result<Vec<Vec<u8>>> {
        let mut content = vec![0u8; self.text_bytes()?];
        let mut starts = vec![0usize; count];
        if count > 0 {
            let (data, length) = (content.as_mut_ptr().cast(), content.len());
            // SAFETY: the value is alive; both buffers have the given lengths, and the call fails unless they suffice.
            unsafe {
                call!(GetStringTensorContent(self.value.0.as_ptr(), data, length, starts.as_mut_ptr(), starts.len()))?;
            }
        }
        let ends = starts.iter().skip(1).copied().chain([content.len()]);
        let string = |(start, end): (&usize, usize)| content.get(*start..end).map(<[u8]>::to_vec);
        let strings: Option<Vec<_>> = starts.iter().zip(ends).map(string).collect();
        strings.ok_or_else(|| ort::Error::new("onnxruntime gave strings beyond their end"))
    }

    /// The elements, of an output that does not hold strings.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the value holds this many initialised bytes at `data` for as long as it lives, and nothing writes to them.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }
}
