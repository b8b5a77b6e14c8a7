//! onnxruntime's CUDA provider: whether it is available, its options, and runs on tensors on the GPU, where the outputs stay. It
//! never allocates device memory itself: the device lends it.
#![allow(unsafe_code)]

use super::external::{self, External, Told};
use super::glue::{
    Borrowed, Left, LeftOnGpu, Output, RawSession, add_cuda, add_initializer, lend_memory, skip_destructors,
};
use super::library::Library;
use super::plans::{Make, Planning, Plans};
use super::reason::Reason;
use super::{OrtSession, SETTING_UP, borrowed_text, copied_text, dims_of, element_of, shape_of};
use crate::config::Config;
use crate::device::{Account, Charge, Claimed, Cuda, DType, Device, DeviceWeights, Lent, Owner, Tensor, preload};
use crate::error::{Error, Kind, Result};
use crate::model::engine::{GRAPH, WEIGHTS, graph_digest};
use crate::model::signature::TensorSignature;
use ort::session::RunOptions;
use ort::session::builder::SessionBuilder;
use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The provider's file, which is next to the library.
const PROVIDER: &str = "libonnxruntime_providers_cuda.so";

/// Libraries that the provider and cuDNN load by name, in an order in which each finds its dependencies; names of CUDA 13 before
/// those of 12.
const LIBRARIES: [&[&str]; 7] = [
    &["libcudart.so.13", "libcudart.so.12"],
    &["libcublasLt.so.13", "libcublasLt.so.12"],
    &["libcublas.so.13", "libcublas.so.12"],
    &["libcurand.so.10"],
    &["libcufft.so.12", "libcufft.so.11"],
    &["libnvrtc.so.13", "libnvrtc.so.12"],
    &["libcudnn.so.9"],
];

/// A model's weights that hearth loaded.
struct Weights {
    tensors: Vec<(CString, Borrowed<'static>)>,
    _memory: DeviceWeights,
}

impl Weights {
    fn add_to(&self, builder: &mut SessionBuilder) -> ort::Result<()> {
        for (name, tensor) in &self.tensors {
            // SAFETY: sessions that are made with these options are kept together with the weights.
            unsafe { add_initializer(builder, name, tensor) }?;
        }
        Ok(())
    }
}

/// The GPU side of a session that was loaded on a GPU.
pub(super) struct Placed {
    pub(super) gpu: Arc<Gpu>,
    pub(super) plans: Plans,
    /// Dropped after all sessions that use them.
    _weights: Option<Arc<Weights>>,
}

fn unread(error: std::io::Error) -> Error {
    Error::storage("reading a prepared form", error)
}

/// The GPU that models run on, if the provider supports it.
pub(super) struct Gpu {
    device: Arc<dyn Device>,
    data: PathBuf,
    /// Why it does not, after the first attempt.
    refusal: OnceLock<Option<String>>,
}

impl Gpu {
    /// The GPU of a device; none for another device.
    pub(super) fn of(config: &Config, device: &Arc<dyn Device>) -> Option<Gpu> {
        device.cuda()?;
        Some(Gpu { device: Arc::clone(device), data: config.data.join("lib"), refusal: OnceLock::new() })
    }

    pub(super) fn name(&self) -> &str {
        self.device.name()
    }

    pub(super) fn cuda(&self) -> Result<&Cuda> {
        self.device.cuda().ok_or_else(|| Error::unavailable("the device is no GPU"))
    }

    /// Why models run on the CPU instead, and what to do; none where they run on the GPU.
    pub(super) fn refusal(&self, library: &Library) -> Option<&str> {
        let told = self.refusal.get_or_init(|| {
            let why = self.try_provider(library).err()?;
            let what = format!(
                "models run on the CPU, not on {}: {why}; take ONNX Runtime with its CUDA provider (the files \
                 libonnxruntime*.so of the Python package onnxruntime-gpu, version 1.24 or later, all in one folder, \
                 named by HEARTH_ORT_LIB) and CUDA's libraries with cuDNN 9 (the packages nvidia-cuda-runtime, \
                 nvidia-cublas, nvidia-curand, nvidia-cufft and nvidia-cudnn-cu13) in the loader's path or DATA/lib",
                self.name()
            );
            tracing::warn!("{what}");
            Some(what)
        });
        told.as_deref()
    }

    fn try_provider(&self, library: &Library) -> Result<(), String> {
        let beside = library.folder();
        if let Some(folder) = beside
            && !folder.join(PROVIDER).exists()
        {
            return Err(format!("there is no {PROVIDER} next to the onnxruntime library"));
        }
        for names in LIBRARIES {
            let folders: Vec<&Path> = [Some(self.data.as_path()), beside].into_iter().flatten().collect();
            if let Err(why) = preload(&folders, names) {
                tracing::debug!("{}: {why}", names[0]);
            }
        }
        let ordinal = self.device.cuda().map_or(0, Cuda::ordinal);
        lend_memory(&library.environment, ordinal, Cuda::engine_allocate, Cuda::engine_free)?;
        skip_destructors();
        let builder = SessionBuilder::new(&library.environment).map_err(|error| error.to_string())?;
        self.add_to(builder, Planning::Fast).map(drop).map_err(|error| error.message().to_owned())
    }

    /// Lets a session run on the GPU: in the device's queue, with memory that the device lends.
    pub(super) fn add_to(&self, mut builder: SessionBuilder, planning: Planning) -> ort::Result<SessionBuilder> {
        let (ordinal, queue) = self.device.cuda().map_or((0, 0), |cuda| (cuda.ordinal(), cuda.queue()));
        let options = [
            ("device_id", ordinal.to_string()),
            ("has_user_compute_stream", "1".to_owned()),
            ("user_compute_stream", queue.to_string()),
            // cuDNN's heuristic mode A, and its fallback. `EXHAUSTIVE`, its mode B, took four times as long to plan (H200).
            ("cudnn_conv_algo_search", if planning == Planning::Fast { "HEURISTIC" } else { "DEFAULT" }.to_owned()),
            // f32 means f32, as for hearth's operators.
            ("use_tf32", "0".to_owned()),
        ];
        add_cuda(&mut builder, &options)?;
        Ok(builder.with_config_entry("session.use_env_allocators", "1")?)
    }

    /// Loads a session with the weights charged already; further memory is charged to the workspace.
    pub(super) fn load(
        self: &Arc<Gpu>,
        weights_bytes: u64,
        load: impl FnOnce() -> Result<OrtSession>,
    ) -> Result<OrtSession> {
        let lent = self.cuda()?.lend(&self.workspace(), weights_bytes)?;
        let session = load().map_err(|error| lent.refusal().unwrap_or(error))?;
        let plans = Plans::new(Arc::clone(&session.raw), 1, None);
        Ok(OrtSession { placed: Some(Placed { gpu: Arc::clone(self), plans, _weights: None }), ..session })
    }

    /// Loads a session from a prepared form. Each weight is copied to the device once, from the disk through pinned memory; the
    /// weights are charged already, as in [`Gpu::load`]. `options` gives the options of one session.
    pub(super) fn load_form(
        self: &Arc<Gpu>,
        library: &Library,
        (form, weights_bytes): (&Path, u64),
        most_plans: u64,
        options: impl Fn() -> ort::Result<SessionBuilder> + Send + Sync + 'static,
    ) -> Result<OrtSession> {
        let graph = form.join(GRAPH);
        let Told { externals, convolves } = external::read(&graph).map_err(unread)?;
        let copied_bytes: u64 = externals.iter().map(|external| external.range.end - external.range.start).sum();
        let weights = Arc::new(self.load_weights(form, externals, weights_bytes)?);
        let environment = library.environment.clone();
        let made_of = graph_digest(&graph).map_err(unread)?;
        let (path, of) = (graph.clone(), (Arc::clone(self), Arc::clone(&weights)));
        let load = move |covered_bytes, planning| {
            let (gpu, weights) = &of;
            let lent = gpu.cuda()?.lend(&gpu.workspace(), covered_bytes)?;
            let setting_up = |error| Error::host(SETTING_UP, error);
            let mut builder = options().and_then(|options| gpu.add_to(options, planning)).map_err(setting_up)?;
            weights.add_to(&mut builder).map_err(setting_up)?;
            let loaded = RawSession::load(&environment, &builder, &path);
            loaded.map_err(|error| lent.refusal().unwrap_or_else(|| Error::host("loading a prepared form", error)))
        };
        // onnxruntime loads weights within branches and loops by itself.
        let session =
            OrtSession::of(load(weights_bytes.saturating_sub(copied_bytes), Planning::Fast)?, Reason::without(form))?;
        let make: Make = Box::new(move |planning| match graph_digest(&graph).map_err(unread)? == made_of {
            true => load(0, planning),
            false => Err(Error::new(Kind::Internal, "the graph is not the one that was loaded")),
        });
        let plans = Plans::new(Arc::clone(&session.raw), most_plans, convolves.then_some(make));
        Ok(OrtSession { placed: Some(Placed { gpu: Arc::clone(self), plans, _weights: Some(weights) }), ..session })
    }

    fn load_weights(&self, form: &Path, externals: Vec<External>, weights_bytes: u64) -> Result<Weights> {
        let file = File::open(form.join(WEIGHTS)).map_err(unread)?;
        let cuda = self.cuda()?;
        let lent = cuda.lend(&self.workspace(), weights_bytes)?;
        let ranges: Vec<_> = externals.iter().map(|external| external.range.clone()).collect();
        let memory = lent.load(&file, &ranges)?;
        let placed = externals.into_iter().zip(&memory.addresses).map(|(external, address)| {
            let bytes = (external.range.end - external.range.start) as usize;
            // SAFETY: this many bytes were just written there, and do not change as long as `memory` lives, which is as long as
            // the tensor.
            let tensor = unsafe { Borrowed::on_gpu(cuda.ordinal(), *address, bytes, &external.dims, external.element) };
            Ok((external.name, tensor.map_err(|error| Error::host("passing weights to onnxruntime", error))?))
        });
        let tensors = placed.collect::<Result<_>>()?;
        Ok(Weights { tensors, _memory: memory })
    }

    fn workspace(&self) -> Arc<Account> {
        self.device.ledger().account(Owner::Workspace, u64::MAX, u64::MAX)
    }

    /// Options of a run that returns as soon as all work is queued.
    pub(super) fn run_options() -> ort::Result<RunOptions> {
        let mut options = RunOptions::new()?;
        options.disable_device_sync()?;
        Ok(options)
    }

    /// Queues a run. Its temporary memory is charged to the workspace; the outputs belong to `account`.
    pub(super) fn run(
        &self,
        session: &OrtSession,
        plans: &Plans,
        options: &RunOptions,
        account: &Arc<Account>,
        inputs: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        let cuda = self.cuda()?;
        let lent = cuda.lend(&self.workspace(), 0)?;
        let mut copies = Vec::new();
        let mut bound = Vec::with_capacity(inputs.len());
        for (name, tensor) in session.input_names.iter().zip(inputs) {
            bound.push((name, borrow(cuda.ordinal(), tensor, account, &mut copies)?));
        }
        let declared = &session.signature.outputs;
        let outputs: Vec<_> =
            session.output_names.iter().zip(declared).map(|(name, one)| (name, one.dtype == DType::Text)).collect();
        let shapes: Vec<&[u64]> = inputs.iter().map(|tensor| tensor.shape().dims()).collect();
        let run = |raw: &Arc<RawSession>| raw.run_on_gpu(cuda.ordinal(), options, &bound, &outputs);
        let mut ran = plans.run(&shapes, run);
        if ran.is_err()
            && let Some(refusal) = lent.refusal()
        {
            // An algorithm may have needed more memory than there is.
            ran = plans.run_frugally(run).ok_or(refusal)?;
        }
        drop((bound, copies));
        let left = ran.map_err(|error| lent.refusal().unwrap_or_else(|| session.reason.of_run(error)))?;
        // All are claimed before any is given back, and all are given back before one can be dropped: two outputs may be one
        // piece of memory.
        let claims: Vec<_> = left.iter().map(|left| claim(&lent, left)).collect();
        let kept: Vec<Kept> = left.into_iter().zip(claims).map(Kept::new).collect();
        let tensor = |(kept, declared): (Kept, &TensorSignature)| match kept {
            Kept::Text(output) => copied_text(&self.device, account, declared, &output),
            Kept::OnGpu { element, dims, claimed } => {
                let shape = shape_of(&self.device, declared, element, &dims)?;
                lent.tensor(account, declared.dtype, shape, claimed?, inputs)
            }
        };
        kept.into_iter().zip(declared).map(tensor).collect()
    }
}

/// An output that the engine has released.
enum Kept {
    Text(Output),
    OnGpu { element: i32, dims: Vec<i64>, claimed: Result<Claimed> },
}

impl Kept {
    fn new((left, claimed): (Left, Option<Result<Claimed>>)) -> Kept {
        match (left, claimed) {
            (Left::OnHost(output), _) => Kept::Text(output),
            (Left::OnGpu(LeftOnGpu { element, dims, .. }), claimed) => {
                let none = || Err(Error::new(Kind::Internal, "an output was not claimed"));
                Kept::OnGpu { element, dims, claimed: claimed.unwrap_or_else(none) }
            }
        }
    }
}

fn claim(lent: &Lent<'_>, left: &Left) -> Option<Result<Claimed>> {
    match left {
        Left::OnHost(_) => None,
        // SAFETY: the value holds this memory, which the run's queued work writes, and lives until this returns.
        Left::OnGpu(left) => Some(unsafe { lent.claim(left.address, left.bytes) }),
    }
}

fn borrow<'a>(
    ordinal: u32,
    tensor: &'a Tensor,
    account: &Arc<Account>,
    copies: &mut Vec<Charge>,
) -> Result<Borrowed<'a>> {
    if tensor.dtype() == DType::Text {
        return borrowed_text(tensor, account, copies);
    }
    let element =
        element_of(tensor.dtype()).ok_or_else(|| Error::unsupported(format!("no engine takes {tensor:?}")))?;
    let (address, bytes) = (Cuda::address(tensor)?, tensor.byte_length() as usize);
    // SAFETY: the tensor's memory is this long and lives for `'a`; work that is queued to read it by then is done before its
    // block is used again, because that happens in the same queue.
    let borrowed = unsafe { Borrowed::on_gpu(ordinal, address, bytes, &dims_of(tensor), element) };
    borrowed.map_err(|error| Error::host("passing a tensor to onnxruntime", error))
}
