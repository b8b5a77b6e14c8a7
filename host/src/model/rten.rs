//! The engine rten, which runs on the CPU and is part of this program: loads models and runs them on tensors in host memory. It
//! never calls code outside Rust. Only this module knows `rten`.
//!
//! rten has tensors of f32, s32, s8 and u8. It computes with s32 where a model declares s64 or boolean, and with f32 where it
//! declares f16 (https://docs.rs/rten, "Data types"). So s64 inputs outside the range of s32 are refused here, f64 is not
//! supported, and the check of uploads finds the models that need more (see `check`).
//!
//! A run cannot be interrupted. [`Execution::terminate`] only prevents one from starting. The request that waits for the run
//! continues at once, but the run keeps its place in `running` and its tensors until it is over. rten does not bound its memory
//! either: an allocation that the system refuses ends the process, as everywhere in Rust. The invocation's `tensor_bytes` bounds
//! the inputs.

use super::engine::{Engine, Execution, Session};
use super::header::{Header, Softmax};
use super::package::Package;
use super::signature::{Signature, TensorSignature};
use crate::config::Config;
use crate::device::{Account, Charge, DType, Device, HostMemory, Shape, Tensor};
use crate::error::{Error, Kind, Result};
use bytemuck::Pod;
use half::f16;
use rten::{Dimension, LoadErrorKind, Model, ModelOptions, NodeId, RunError, RunErrorKind, RunOptions, ThreadPool};
use rten::{Value, ValueOrView, ValueView};
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The version in use, as Cargo.lock has it; a test compares the two.
pub(super) const VERSION: &str = "0.27.0";

/// Nodes of a graph. rten visits them by calls that nest as deep as the graph is long: 2 MiB of stack are too few for 6,000.
const MOST_NODES: u64 = 50_000;
const STACK_BYTES: usize = 2 << 20;
const STACK_BYTES_A_NODE: usize = 2 << 10;
/// Characters of rten's text that a message quotes.
const MOST_CHARS: usize = 400;

/// The engine. Its threads are shared by all models.
pub(super) struct Rten {
    threads: Arc<ThreadPool>,
}

impl Rten {
    /// The engine with `config`'s number of threads.
    pub(super) fn new(config: &Config) -> Rten {
        Rten { threads: Arc::new(ThreadPool::with_num_threads(config.model_threads)) }
    }
}

impl Engine for Rten {
    fn version(&self) -> Result<String> {
        Ok(VERSION.to_owned())
    }

    fn load(&self, folder: &Path, _: u64) -> Result<Arc<dyn Session>> {
        let path = folder.join(Package::MODEL);
        let header = Header::read(&path)?;
        let signature = header.signature()?;
        if header.nodes > MOST_NODES {
            let message = format!("the graph has {} nodes; rten takes {MOST_NODES}", header.nodes);
            return Err(Error::unsupported(message));
        }
        if signature.outputs.is_empty() {
            return Err(Error::invalid_argument("the model has no outputs"));
        }
        for (what, tensors) in [("input", &signature.inputs), ("output", &signature.outputs)] {
            if let Some(tensor) = tensors.iter().find(|tensor| !takes(tensor.dtype)) {
                let message = format!("rten has no tensors of {}, which {what} '{}' is", tensor.dtype, tensor.name);
                return Err(Error::unsupported(message));
            }
        }
        let loaded = caught("loading", header.nodes, || ModelOptions::with_all_ops().load_file(&path))?;
        let model = loaded.map_err(|error| {
            let kind = match error.kind() {
                LoadErrorKind::OperatorInvalid => Kind::Unsupported,
                _ => Kind::InvalidArgument,
            };
            Error::new(kind, format!("rten cannot load the model: {}", shortened(&error.to_string(), folder)))
                .with_source(error.to_string())
        })?;
        if let Some(what) = misread(&header, &model) {
            return Err(Error::unsupported(what));
        }
        let ids = |tensors: &[TensorSignature]| -> Result<Vec<NodeId>> {
            let id = |tensor: &TensorSignature| {
                model
                    .find_node(&tensor.name)
                    .ok_or_else(|| Error::unsupported(format!("rten lost '{}' while it loaded the model", tensor.name)))
            };
            tensors.iter().map(id).collect()
        };
        let (inputs, outputs) = (ids(&signature.inputs)?, ids(&signature.outputs)?);
        let (nodes, threads) = (header.nodes, self.threads.clone());
        Ok(Arc::new(RtenSession { model, signature, nodes, inputs, outputs, threads }))
    }
}

/// Operators that rten interprets differently from ONNX, and what it does. The inputs of a check may not show it.
const MISREAD: [(&str, &str); 4] = [
    ("ArgMax", "gives the last of equal elements, and not the first"),
    ("ArgMin", "gives the last of equal elements, and not the first"),
    ("NonMaxSuppression", "keeps one class of each box, drops boxes for those of other classes and flips no corners"),
    ("Sign", "gives 1 for 0"),
];

/// An operator of the model that rten interprets differently from ONNX.
fn misread(header: &Header, model: &Model) -> Option<String> {
    let told = |operator: &str, what: &str| {
        format!("rten's {operator} {what}; run the model on onnxruntime, or export it without {operator}")
    };
    let found = MISREAD.iter().find(|(operator, _)| header.operators.contains(*operator));
    if let Some((operator, what)) = found {
        return Some(told(operator, what));
    }
    if header.resizes_cubically {
        return Some(told("Resize", "interpolates linearly where mode is cubic"));
    }
    if header.reduces_booleans() {
        return Some(told("ReduceMax", "of no booleans is true"));
    }
    misread_softmax(header, model)
}

/// Operators whose results rten rounds differently from ONNX, and what it does. Samples may not show it.
const ROUNDED: [(&str, &str); 2] = [("DynamicQuantizeLinear", RECIPROCAL), ("QuantizeLinear", RECIPROCAL)];
const RECIPROCAL: &str =
    "multiplies by 1 / scale where ONNX divides, so that numbers halfway between two steps may be rounded differently";

/// Why the model in a folder must not run on rten unless samples or another engine confirm its outputs: rten rounds one of its
/// operators differently.
///
/// Errors: those of [`Header::read`].
pub(super) fn doubt(folder: &Path) -> Result<Option<String>> {
    let header = Header::read(&folder.join(Package::MODEL))?;
    let found = ROUNDED.iter().find(|(operator, _)| header.operators.contains(*operator));
    Ok(found.map(|(operator, what)| format!("rten's {operator} {what}")))
}

/// A softmax of the model that rten interprets differently: before opset 13, a softmax normalises over the axis and all after it,
/// by default from axis 1 on (<https://onnx.ai/onnx/operators/onnx__Softmax.html>); rten normalises over the axis alone, by
/// default the last.
fn misread_softmax(header: &Header, model: &Model) -> Option<String> {
    let opset = header.opset;
    let wrong = |softmax: &&Softmax| {
        let shape = model.find_node(&softmax.output).and_then(|id| model.node_info(id)?.shape());
        match (shape, softmax.axis) {
            (_, Some(-1)) => false,
            // Only the comparison with another engine could show whether the axis is the last one.
            (None, _) => true,
            (Some(shape), axis) => {
                let rank = shape.len() as i64;
                let from = axis.map_or(1, |axis| if axis < 0 { axis + rank } else { axis });
                let after = usize::try_from(from + 1).ok().and_then(|from| shape.get(from..)).unwrap_or_default();
                let last = after.is_empty();
                !last && (axis.is_none() || after.iter().any(|dim| !matches!(dim, Dimension::Fixed(1))))
            }
        }
    };
    let found = header.softmaxes.iter().find(wrong).filter(|_| opset < 13)?;
    let output: String = found.output.chars().take(64).collect();
    Some(format!(
        "rten reads the softmax '{output}' of opset {opset} as one of opset 13; export the model with a newer one"
    ))
}

/// Whether rten computes with tensors of this dtype, or with ones that hold the same values.
fn takes(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::F16 | DType::S32 | DType::S64 | DType::Boolean | DType::U8 | DType::S8 => true,
        DType::F64 | DType::BF16 | DType::U16 | DType::S16 | DType::U32 | DType::U64 | DType::Text => false,
    }
}

struct RtenSession {
    model: Model,
    signature: Signature,
    nodes: u64,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    threads: Arc<ThreadPool>,
}

impl Session for RtenSession {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn begin(self: Arc<Self>) -> Result<Arc<dyn Execution>> {
        Ok(Arc::new(RtenExecution { session: self, terminated: AtomicBool::new(false) }))
    }
}

struct RtenExecution {
    session: Arc<RtenSession>,
    terminated: AtomicBool,
}

impl Execution for RtenExecution {
    fn run(&self, device: &Arc<dyn Device>, account: &Arc<Account>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let RtenSession { model, signature, nodes, inputs: ids, outputs, threads } = &*self.session;
        // Copies of tensors that rten stores in another form are charged until the run is over.
        let mut copies = Vec::new();
        let mut values = Vec::with_capacity(inputs.len());
        for ((tensor, declared), id) in inputs.iter().zip(&signature.inputs).zip(ids) {
            let value = passed(tensor, account, &mut copies);
            values.push((*id, value.map_err(|error| error.context(format_args!("input '{}'", declared.name)))?));
        }
        if self.terminated.load(Ordering::Relaxed) {
            return Err(Error::cancelled("the run was ended before it began"));
        }
        let options = RunOptions::default().with_thread_pool(Some(threads.clone()));
        let results = caught("running", *nodes, || model.run(values, outputs, Some(options)))?.map_err(refused)?;
        drop(copies);
        let outputs = results.into_iter().zip(&signature.outputs);
        outputs.map(|(value, declared)| adopted(device, account, declared, value)).collect()
    }

    fn terminate(&self) {
        self.terminated.store(true, Ordering::Relaxed);
    }
}

/// A tensor as rten takes it: borrowed if rten stores its elements in the same form.
fn passed<'a>(tensor: &'a Tensor, account: &Arc<Account>, copies: &mut Vec<Charge>) -> Result<ValueOrView<'a>> {
    let Some(bytes) = tensor.host_bytes() else {
        return Err(Error::unsupported(format!("rten runs on the CPU and takes no {tensor:?}")));
    };
    let dims: Vec<usize> =
        tensor.shape().dims().iter().map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect();
    let mut charge = |size: u64| -> Result<()> {
        copies.push(account.charge(tensor.shape().elements().saturating_mul(size))?);
        Ok(())
    };
    match tensor.dtype() {
        DType::F32 => lent::<f32>(&dims, bytes),
        DType::S32 => lent::<i32>(&dims, bytes),
        DType::U8 => lent::<u8>(&dims, bytes),
        DType::S8 => lent::<i8>(&dims, bytes),
        DType::Boolean => {
            charge(4)?;
            owned(&dims, bytes.iter().map(|&byte| i32::from(byte)).collect())
        }
        DType::S64 => {
            charge(4)?;
            let values: Option<Vec<i32>> =
                bytes.as_chunks().0.iter().map(|&bytes| i32::try_from(i64::from_le_bytes(bytes)).ok()).collect();
            owned(
                &dims,
                values.ok_or_else(|| {
                    Error::invalid_argument(
                        "rten computes s64 as s32, and a value does not fit; run the model on onnxruntime",
                    )
                })?,
            )
        }
        DType::F16 => {
            charge(4)?;
            owned(&dims, bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect())
        }
        DType::F64 | DType::BF16 | DType::U16 | DType::S16 | DType::U32 | DType::U64 | DType::Text => {
            Err(Error::unsupported(format!("rten takes no {}", tensor.dtype())))
        }
    }
}

fn lent<'a, T: Pod>(dims: &[usize], bytes: &'a [u8]) -> Result<ValueOrView<'a>>
where
    ValueView<'a>: From<rten_tensor::TensorView<'a, T>>,
{
    // An empty tensor's bytes may be at any address.
    let elements: &[T] = if bytes.is_empty() {
        &[]
    } else {
        bytemuck::try_cast_slice(bytes).map_err(|error| Error::host(PASSING, error.to_string()))?
    };
    let view = ValueView::from_shape(dims, elements).map_err(|error| Error::host(PASSING, error.to_string()))?;
    Ok(view.into())
}

fn owned<'a, T>(dims: &[usize], elements: Vec<T>) -> Result<ValueOrView<'a>>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    let value = Value::from_shape(dims, elements).map_err(|error| Error::host(PASSING, error.to_string()))?;
    Ok(value.into())
}

const PASSING: &str = "passing a tensor to rten";

/// The tensor of an output; it uses rten's memory if the elements are stored in the same form.
fn adopted(
    device: &Arc<dyn Device>,
    account: &Arc<Account>,
    declared: &TensorSignature,
    value: Value,
) -> Result<Tensor> {
    use rten_tensor::Layout;
    let wrong = |what: &str| {
        let message = format!("output '{}' is {what}, and not what the model declares ({declared})", declared.name);
        Error::new(Kind::Unavailable, message)
    };
    let dims: Vec<u64> = value.shape().iter().map(|&dim| dim as u64).collect();
    if dims.len() != declared.shape.len() {
        return Err(wrong(&format!("of shape {dims:?}")));
    }
    let shape = Shape::new(&dims, device.limits().tensor_rank)
        .map_err(|error| error.context(format_args!("output '{}'", declared.name)))?;
    let adopt = |memory| device.adopt(account, declared.dtype, shape, memory);
    match (declared.dtype, value) {
        (DType::F32, Value::FloatTensor(tensor)) => adopt(elements(tensor.into_data())),
        (DType::S32, Value::Int32Tensor(tensor)) => adopt(elements(tensor.into_data())),
        (DType::U8, Value::UInt8Tensor(tensor)) => adopt(elements(tensor.into_data())),
        (DType::S8, Value::Int8Tensor(tensor)) => adopt(elements(tensor.into_data())),
        (DType::S64, Value::Int32Tensor(tensor)) => {
            adopt(elements(tensor.into_data().into_iter().map(i64::from).collect()))
        }
        (DType::Boolean, Value::Int32Tensor(tensor)) => {
            adopt(elements(tensor.into_data().into_iter().map(|value| u8::from(value != 0)).collect()))
        }
        (DType::F16, Value::FloatTensor(tensor)) => {
            adopt(elements(tensor.into_data().into_iter().map(f16::from_f32).collect()))
        }
        (_, value) => Err(wrong(&value.dtype().to_string())),
    }
}

fn elements<T: Pod + Send + Sync>(elements: Vec<T>) -> Box<dyn HostMemory> {
    Box::new(Elements(elements))
}

/// An output's elements where rten put them.
struct Elements<T>(Vec<T>);

impl<T: Pod + Send + Sync> HostMemory for Elements<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The result of a call of rten; a panic in it is an error. The call has its own thread, with a stack for a graph of this many
/// nodes.
fn caught<T: Send>(doing: &str, nodes: u64, work: impl FnOnce() -> T + Send) -> Result<T> {
    let stack = STACK_BYTES + nodes.min(MOST_NODES) as usize * STACK_BYTES_A_NODE;
    // A panic in a run does not damage the model: runs share only its constants and the plan, which is complete.
    let outcome = std::thread::scope(|scope| -> Result<_> {
        let thread = std::thread::Builder::new().name("rten".to_owned()).stack_size(stack);
        Ok(thread.spawn_scoped(scope, work).map_err(|error| Error::host("starting a thread", error))?.join())
    });
    outcome?.map_err(|panic| {
        Error::unsupported(format!("rten failed while {doing} the model; run it on onnxruntime"))
            .with_source(said(&*panic))
    })
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}

/// Why a run failed. The signature has been checked, but the graph may still refuse shapes or values.
fn refused(error: RunError) -> Error {
    let text: String = error.to_string().chars().take(MOST_CHARS).collect();
    let (kind, what) = match error.kind() {
        RunErrorKind::InvalidInput | RunErrorKind::OperatorError => {
            (Kind::InvalidArgument, "the model refuses these inputs")
        }
        RunErrorKind::PlanningError => (Kind::Unsupported, "rten cannot run the model"),
        _ => (Kind::Internal, "the model run failed"),
    };
    Error::new(kind, format!("{what}: {text}")).with_source(error)
}

/// rten's text without the model's path.
fn shortened(text: &str, folder: &Path) -> String {
    let mut text = text.to_owned();
    for folder in [Some(folder.to_path_buf()), folder.canonicalize().ok()].into_iter().flatten() {
        text = text.replace(&format!("{}/", folder.display()), "");
    }
    text.chars().take(MOST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        let version = format!("name = \"rten\"\nversion = \"{}\"", super::VERSION);
        assert!(lock.contains(&version), "{version} is not in Cargo.lock");
    }
}
