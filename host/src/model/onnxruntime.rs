//! The engine onnxruntime, on the CPU or on a GPU: finds its library, loads models, and runs them on tensors in place. It never
//! copies a tensor, except text, whose strings onnxruntime stores in its own form. Only this module knows `ort`.

mod external;
mod glue;
mod gpu;
mod library;
mod plans;
mod reason;

use super::engine::{Engine, Execution, GRAPH, Place, Preparing, Session, WEIGHTS};
use super::engines::alike;
use super::package::Package;
use super::signature::{Dim, Signature, TensorSignature};
use crate::config::Config;
use crate::device::{Account, Charge, DType, Device, HostMemory, Shape, Tensor, charge_strings};
use crate::error::{Error, Kind, Result};
use glue::{Borrowed, Outlet, Output, RawSession, Side};
use gpu::{Gpu, Placed};
use library::Library;
use ort::session::RunOptions;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::sys::ONNXTensorElementDataType as Element;
use plans::Planning;
use reason::Reason;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SETTING_UP: &str = "setting up onnxruntime";

/// What another process needs to load the same library.
pub(super) struct LibraryFiles {
    /// The library; none if the loader finds it by its name.
    pub(super) path: Option<PathBuf>,
    /// The library and those next to it, which it may load.
    pub(super) files: Vec<PathBuf>,
}

/// The engine. The process has one library; see [`Library`].
pub(super) struct OnnxRuntime {
    config: Config,
    gpu: Option<Arc<Gpu>>,
}

impl OnnxRuntime {
    /// The engine with the library and the number of threads from `config`. If `device` is a GPU, models run there if the library
    /// supports it.
    pub(super) fn new(config: &Config, device: Option<&Arc<dyn Device>>) -> OnnxRuntime {
        let gpu = device.and_then(|device| Gpu::of(config, device)).map(Arc::new);
        OnnxRuntime { config: config.clone(), gpu }
    }

    /// The GPU, if models run on it.
    fn gpu(&self, library: &Library) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref().filter(|gpu| gpu.refusal(library).is_none())
    }

    /// The library's files. Loads the library if necessary.
    ///
    /// Errors: `unavailable` where there is none that works.
    pub(super) fn library(&self) -> Result<LibraryFiles> {
        Library::get(&self.config).map(|library| library.files())
    }

    /// Whether onnxruntime makes packed copies of weights, in private memory, as large as the weights. Matrix products with few
    /// rows run faster with them, but making them takes a second for each gigabyte at every load, and they are not shared. Sums
    /// are rounded differently with them, so this depends on the model alone.
    fn packs(&self, weights_bytes: u64) -> bool {
        weights_bytes <= self.config.limits.packed_model_bytes
    }

    fn options(
        &self,
        library: &Library,
        level: GraphOptimizationLevel,
        weights_bytes: u64,
    ) -> ort::Result<SessionBuilder> {
        let builder = SessionBuilder::new(&library.environment)?
            .with_optimization_level(level)?
            .with_intra_threads(self.config.model_threads)?
            .with_inter_threads(1)?
            // Threads that wait for work must not take cores from guests.
            .with_config_entry("session.intra_op.allow_spinning", "0")?
            .with_config_entry("session.disable_prepacking", if self.packs(weights_bytes) { "0" } else { "1" })?
            // onnxruntime would keep a pattern for every shape it has seen, and guests choose the shapes.
            .with_memory_pattern(false)?;
        Ok(builder)
    }

    /// Loads the model of a package, on the GPU where models run there.
    fn load_package(
        &self,
        library: &Library,
        options: ort::Result<SessionBuilder>,
        folder: &Path,
        weights_bytes: u64,
    ) -> Result<OrtSession> {
        let Some(gpu) = self.gpu(library) else { return OrtSession::load(library, options, folder, Package::MODEL) };
        let options = options.and_then(|options| gpu.add_to(options, Planning::Fast));
        gpu.load(weights_bytes, || OrtSession::load(library, options, folder, Package::MODEL))
    }

    /// The options that make onnxruntime write the optimised graph and weights of a model into a folder.
    fn saving_options(&self, library: &Library, weights_bytes: u64, into: &Path) -> ort::Result<SessionBuilder> {
        let builder = self
            .options(library, GraphOptimizationLevel::All, weights_bytes)?
            .with_optimized_model_path(into.join(GRAPH))?
            .with_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)?
            .with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")?;
        // The GPU has no packed copies.
        match self.packs(weights_bytes) && self.gpu(library).is_none() {
            true => Ok(builder.with_config_entry("session.save_external_prepacked_constant_initializers", "1")?),
            false => Ok(builder),
        }
    }
}

impl Engine for OnnxRuntime {
    fn version(&self) -> Result<String> {
        Library::get(&self.config).map(|library| library.version)
    }

    fn load(&self, folder: &Path, weights_bytes: u64) -> Result<Arc<dyn Session>> {
        let library = Library::get(&self.config)?;
        let options = self.options(&library, GraphOptimizationLevel::All, weights_bytes);
        self.load_package(&library, options, folder, weights_bytes).map(|session| Arc::new(session) as Arc<dyn Session>)
    }

    fn preparing(&self) -> Option<&dyn Preparing> {
        Some(self)
    }

    fn place(&self) -> Place {
        let (Some(gpu), Ok(library)) = (&self.gpu, Library::get(&self.config)) else { return Place::cpu() };
        match gpu.refusal(&library) {
            None => Place { device: gpu.name().to_owned(), why: None },
            Some(why) => Place { why: Some(why.to_owned()), ..Place::cpu() },
        }
    }
}

impl Preparing for OnnxRuntime {
    fn depends_on(&self, weights_bytes: u64) -> Result<String> {
        let library = Library::get(&self.config)?;
        let version = &library.version;
        if let Some(gpu) = self.gpu(&library) {
            let architecture = gpu.cuda()?.architecture();
            return Ok(format!("onnxruntime {version} cuda {architecture}"));
        }
        // The optimiser arranges weights for the processor's vector instructions.
        let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let features = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
        let features = processor.lines().find(features).unwrap_or_default();
        Ok(format!("onnxruntime {version} cpu packs={} {features}", self.packs(weights_bytes)))
    }

    fn spared_bytes(&self, folder: &Path, weights_bytes: u64) -> u64 {
        if Library::get(&self.config).is_ok_and(|library| self.gpu(&library).is_some()) {
            // However small the model is: sessions for several shapes share the weights of a form.
            return u64::MAX;
        }
        // External data is mapped unchanged, unless it is packed.
        match self.packs(weights_bytes) {
            true => weights_bytes,
            false => std::fs::metadata(folder.join(Package::MODEL)).map_or(0, |file| file.len()),
        }
    }

    fn prepare(&self, folder: &Path, weights_bytes: u64, into: &Path) -> Result<Signature> {
        let library = Library::get(&self.config)?;
        let options = self.saving_options(&library, weights_bytes, into);
        Ok(self.load_package(&library, options, folder, weights_bytes)?.signature)
    }

    fn load_prepared(&self, form: &Path, weights_bytes: u64, signature: Signature) -> Result<Arc<dyn Session>> {
        let library = Library::get(&self.config)?;
        // It was optimised when it was written.
        let level = GraphOptimizationLevel::Disable;
        let session = match self.gpu(&library) {
            None => OrtSession::load(&library, self.options(&library, level, weights_bytes), form, GRAPH)?,
            Some(gpu) => {
                let (engine, of) = (OnnxRuntime { config: self.config.clone(), gpu: None }, library.clone());
                let options = move || engine.options(&of, level, weights_bytes);
                gpu.load_form(&library, (form, weights_bytes), self.config.limits.model_plans, options)?
            }
        };
        if !alike(&session.signature, &signature) {
            return Err(Error::new(Kind::Internal, "the graph has other inputs or outputs than the model"));
        }
        Ok(Arc::new(OrtSession { signature, ..session }))
    }
}

struct OrtSession {
    raw: Arc<RawSession>,
    signature: Signature,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    reason: Reason,
    /// Present if it was loaded on a GPU; dropped after `raw`.
    placed: Option<Placed>,
}

impl OrtSession {
    /// Loads a model from a file of a folder.
    fn load(library: &Library, options: ort::Result<SessionBuilder>, folder: &Path, file: &str) -> Result<OrtSession> {
        let options = options.map_err(|error| Error::host(SETTING_UP, error))?;
        let reason = Reason::without(folder);
        let raw = RawSession::load(&library.environment, &options, &folder.join(file));
        OrtSession::of(raw.map_err(|error| reason.of_load(error))?, reason)
    }

    fn of(raw: RawSession, reason: Reason) -> Result<OrtSession> {
        let raw = Arc::new(raw);
        let inputs = outlets(&raw, Side::Inputs)?;
        let outputs = outlets(&raw, Side::Outputs)?;
        let signature = Signature::new(inputs, outputs)?;
        let names = |tensors: &[TensorSignature]| -> Result<Vec<CString>> {
            let names = tensors.iter().map(|tensor| CString::new(tensor.name.as_str())).collect::<Result<_, _>>();
            names.map_err(|error| Error::host("reading the names of a model", error))
        };
        let (input_names, output_names) = (names(&signature.inputs)?, names(&signature.outputs)?);
        Ok(OrtSession { raw, signature, input_names, output_names, reason, placed: None })
    }
}

impl Session for OrtSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn begin(self: Arc<Self>) -> Result<Arc<dyn Execution>> {
        let options = if self.placed.is_some() { Gpu::run_options() } else { RunOptions::new() };
        let options = options.map_err(|error| Error::host("preparing a model run", error))?;
        Ok(Arc::new(OrtExecution { session: self, options }))
    }

    fn takes_host_memory(&self) -> bool {
        self.placed.is_none()
    }
}

struct OrtExecution {
    session: Arc<OrtSession>,
    options: RunOptions,
}

impl Execution for OrtExecution {
    fn run(&self, device: &Arc<dyn Device>, account: &Arc<Account>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        if let Some(Placed { gpu, plans, .. }) = &self.session.placed {
            return gpu.run(&self.session, plans, &self.options, account, inputs);
        }
        let OrtSession { raw, signature, input_names, output_names, reason, .. } = &*self.session;
        let mut borrowed = Vec::with_capacity(inputs.len());
        // Strings are copied, and the copies are charged until the run is over.
        let mut copies = Vec::new();
        for tensor in inputs {
            borrowed.push(borrow(tensor, account, &mut copies)?);
        }
        let outputs =
            raw.run(&self.options, input_names, &borrowed, output_names).map_err(|error| reason.of_run(error))?;
        drop((borrowed, copies));
        let adopt = |(output, declared)| adopt(device, account, inputs, declared, output);
        outputs.into_iter().zip(&signature.outputs).map(adopt).collect()
    }

    fn terminate(&self) {
        if let Err(error) = self.options.terminate() {
            tracing::warn!("a model run could not be terminated: {error}");
        }
    }
}

fn borrow<'a>(tensor: &'a Tensor, account: &Arc<Account>, copies: &mut Vec<Charge>) -> Result<Borrowed<'a>> {
    if tensor.dtype() == DType::Text {
        return borrowed_text(tensor, account, copies);
    }
    let (Some(bytes), Some(element)) = (tensor.host_bytes(), element_of(tensor.dtype())) else {
        let message = format!("onnxruntime runs on the CPU and takes no {tensor:?}");
        return Err(Error::unsupported(message));
    };
    Borrowed::new(bytes, &dims_of(tensor), element)
        .map_err(|error| Error::host("passing a tensor to onnxruntime", error))
}

/// A tensor's dimensions as the API has them. Its number of elements fits in isize, but a dimension next to an empty one may not.
fn dims_of(tensor: &Tensor) -> Vec<i64> {
    tensor.shape().dims().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect()
}

/// A copy of a text tensor, which is charged before it is made.
fn borrowed_text(tensor: &Tensor, account: &Arc<Account>, copies: &mut Vec<Charge>) -> Result<Borrowed<'static>> {
    let strings = tensor.strings()?;
    copies.push(charge_strings(account, tensor.byte_length(), strings.len() as u64)?);
    Borrowed::text(strings, &dims_of(tensor)).map_err(|error| Error::host("passing a tensor to onnxruntime", error))
}

fn adopt(
    device: &Arc<dyn Device>,
    account: &Arc<Account>,
    inputs: &[Tensor],
    declared: &TensorSignature,
    output: Output,
) -> Result<Tensor> {
    if declared.dtype == DType::Text {
        return copied_text(device, account, declared, &output);
    }
    let shape = shape_of(device, declared, output.element, &output.dims)?;
    // A graph may return an input as an output; the memory is then that of the input.
    let memory = output.bytes().as_ptr_range();
    let overlaps = |tensor: &&Tensor| {
        let range = tensor.host_bytes().unwrap_or_default().as_ptr_range();
        range.start < memory.end && memory.start < range.end
    };
    let passed_through = inputs.iter().find(overlaps).cloned();
    device.adopt(account, declared.dtype, shape, Box::new(Adopted { output, _passed_through: passed_through }))
}

/// The shape of an output, which is of the dtype that the model declares.
fn shape_of(device: &Arc<dyn Device>, declared: &TensorSignature, element: i32, dims: &[i64]) -> Result<Shape> {
    let wrong = || Error::new(Kind::Internal, format!("output '{}' is not what the model declares", declared.name));
    if dtype_of(element) != Some(declared.dtype) {
        return Err(wrong());
    }
    let dims: Vec<u64> = dims.iter().map(|&dim| u64::try_from(dim)).collect::<Result<_, _>>().map_err(|_| wrong())?;
    Shape::new(&dims, device.limits().tensor_rank)
        .map_err(|error| error.context(format_args!("output '{}'", declared.name)))
}

/// A text tensor of an output's strings, which are charged before they are copied.
fn copied_text(
    device: &Arc<dyn Device>,
    account: &Arc<Account>,
    declared: &TensorSignature,
    output: &Output,
) -> Result<Tensor> {
    let (shape, name) = (shape_of(device, declared, output.element, &output.dims)?, &declared.name);
    let failed = |error| Error::host("reading text of a model", error);
    let count = shape.elements() as usize;
    let bytes = output.text_bytes().map_err(failed)? as u64;
    let charge = charge_strings(account, bytes, shape.elements())?;
    // They are copied twice: out of onnxruntime in one piece, with the offset of each, and then one by one.
    let piece = account.charge(bytes.saturating_add(shape.elements().saturating_mul(8)))?;
    let strings = output.strings(count).map_err(failed)?;
    drop(piece);
    let strings: Result<Vec<String>, _> = strings.into_iter().map(String::from_utf8).collect();
    let strings = strings.map_err(|_| {
        Error::invalid_argument(format!("output '{name}' holds a string that is no UTF-8, which text tensors must be"))
    })?;
    Tensor::charged_text(device, charge, shape, strings)
}

struct Adopted {
    output: Output,
    _passed_through: Option<Tensor>,
}

impl HostMemory for Adopted {
    fn bytes(&self) -> &[u8] {
        self.output.bytes()
    }
}

fn outlets(raw: &RawSession, side: Side) -> Result<Vec<TensorSignature>> {
    let read = |error| Error::host("reading a model's signature", error);
    let count = raw.count(side).map_err(read)?;
    let what = match side {
        Side::Inputs => "inputs",
        Side::Outputs => "outputs",
    };
    Signature::check_count(what, count)?;
    (0..count).map(|index| described(side, raw.outlet(side, index).map_err(read)?)).collect()
}

fn described(side: Side, outlet: Outlet) -> Result<TensorSignature> {
    let what = match side {
        Side::Inputs => "input",
        Side::Outputs => "output",
    };
    let name: String = outlet.name.chars().take(64).collect();
    let Some(tensor) = outlet.tensor else {
        let message =
            format!("{what} '{name}' is no tensor (a sequence, map or optional); export the model without it");
        return Err(Error::unsupported(message));
    };
    let Some(dtype) = dtype_of(tensor.element) else {
        let message = format!("{what} '{name}' has an element type that hearth has no tensors of; export it as f32");
        return Err(Error::unsupported(message));
    };
    let Some(dims) = tensor.dims else {
        let message = format!("{what} '{name}' does not declare how many dimensions it has; export it with a shape");
        return Err(Error::unsupported(message));
    };
    let dim = |(length, symbol): (i64, String)| match u64::try_from(length) {
        Ok(length) => Dim::Fixed(length),
        Err(_) => Dim::free(symbol),
    };
    let shape = dims.into_iter().map(dim).collect();
    Ok(TensorSignature { name: outlet.name, dtype, shape, batch_axis: None })
}

fn element_of(dtype: DType) -> Option<Element> {
    Some(match dtype {
        DType::Boolean => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DType::U8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DType::S8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DType::U16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DType::S16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DType::U32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DType::S32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::U64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DType::S64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DType::F16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::BF16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DType::F32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::F64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DType::Text => return None,
    })
}

fn dtype_of(element: i32) -> Option<DType> {
    if element == Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING as i32 {
        return Some(DType::Text);
    }
    DType::ALL.into_iter().find(|dtype| element_of(*dtype).is_some_and(|known| known as i32 == element))
}
