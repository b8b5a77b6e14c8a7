//! Runs untrusted components: one wasmtime `Runtime` a process, a compiled `Function` an upload, a fresh instance an
//! invocation; it never knows names, versions or HTTP.

mod artefacts;
mod builds;
mod compile;
mod invocation;
mod lookout;
mod output;
mod snapshot;

pub use builds::Lifetime;
pub use compile::COMPILE;
pub use invocation::{Invocation, Outcome, Receipt};
pub use snapshot::{InitInputs, SNAPSHOT, snapshot_obstacle};

use crate::config::{Config, Limits};
use crate::confined::Confined;
use crate::error::{Error, Result};
use crate::gate::{Full, Gate, Pass};
use crate::interface::{self, LogLine, Program, Services};
use artefacts::Artefacts;
use builds::Builds;
use invocation::State;
use lookout::Lookout;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// The parts of the process that all functions share: compiler settings, the pool of instances, the linked contract.
pub struct Runtime {
    engine: Engine,
    linker: Linker<State>,
    services: Arc<Services>,
    artefacts: Artefacts,
    confined: Arc<Confined>,
    functions: Arc<Builds>,
    gate: Gate,
    _ticker: Ticker,
}

/// A compiled, checked component, ready for fresh instances.
pub struct Function {
    program: Program<State>,
    component: Component,
    init: Init,
    lookout: Lookout,
    /// What it wishes to be granted: the JSON of its `hearth:manifest` section, or `null`.
    pub manifest: serde_json::Value,
}

/// How instances of a function come to be initialised.
enum Init {
    /// The component has no `init`.
    Absent,
    /// They start from the memory that it left.
    Snapshot,
    /// It runs in each of them, for a reason.
    EachTime(String),
}

impl Function {
    /// The world it is of, as `wit/worlds.wit` names it.
    pub fn world(&self) -> &'static str {
        self.program.world().as_str()
    }

    /// Whether it exports `init`.
    pub fn has_init(&self) -> bool {
        self.program.world().has_init()
    }

    /// Why its `init` runs in every instance instead of once, where it does.
    pub fn without_snapshot(&self) -> Option<&str> {
        match &self.init {
            Init::EachTime(reason) => Some(reason),
            Init::Absent | Init::Snapshot => None,
        }
    }

    fn init_first(&self) -> bool {
        matches!(self.init, Init::EachTime(_))
    }
}

/// wasmtime's settings, which the floor program of `cargo xtask bench` uses too.
///
/// The pool keeps 2 MiB of each memory resident and finds the pages that an instance wrote with `PAGEMAP_SCAN`, where the
/// kernel has it, so that resetting an instance costs what it touched.
pub fn engine_config(limits: &Limits) -> wasmtime::Config {
    let count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let slots = count(limits.concurrent_invocations);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(count(limits.guest_core_instances)))
        .total_memories(slots.saturating_mul(count(limits.guest_memories)))
        .total_tables(slots.saturating_mul(count(limits.guest_memories)))
        .total_stacks(slots)
        .max_core_instances_per_component(count(limits.guest_core_instances))
        .max_memories_per_component(count(limits.guest_memories))
        .max_tables_per_component(count(limits.guest_memories))
        .max_component_instance_size(16 << 20)
        .max_core_instance_size(4 << 20)
        .table_elements(limits.guest_table_elements as usize)
        .max_memory_size(limits.guest_memory_bytes as usize)
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(wasmtime::Enabled::Auto);
    let mut config = wasmtime::Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .wasm_component_model(true)
        // No interface of the contract is asynchronous in the guest's sense, and the bookkeeping costs every call.
        .concurrency_support(false)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(limits.guest_stack_bytes as usize)
        .async_stack_size(limits.guest_stack_bytes as usize + (512 << 10))
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20))
        .native_unwind_info(false)
        .cranelift_opt_level(wasmtime::OptLevel::Speed);
    config
}

impl Runtime {
    /// A runtime with its pool allocated and its folder for compiled code below the data folder. Starts the thread that
    /// makes running guests yield. Components are compiled by children that `confined` starts.
    pub fn new(config: &Config, services: Arc<Services>, confined: Arc<Confined>) -> Result<Runtime> {
        let limits = &config.limits;
        let engine = Engine::new(&engine_config(limits)).map_err(|error| {
            let message = format!(
                "the instance pool cannot be set up: {}; lower concurrent_invocations, guest_memories or guest_memory_bytes",
                interface::causes(&error)
            );
            Error::invalid_argument(message)
        })?;
        let mut linker = Linker::new(&engine);
        link(&mut linker)?;
        let artefacts = Artefacts::open(&config.data, &engine)?;
        let gate = Gate::new(limits.concurrent_invocations);
        let busy = {
            let gate = gate.clone();
            move || gate.load().0 > 0
        };
        let ticker = Ticker::start(&engine, Duration::from_millis(limits.yield_ms), busy)?;
        Ok(Runtime { gate, functions: Arc::default(), engine, linker, services, artefacts, confined, _ticker: ticker })
    }

    /// The function of a component by its digest: from memory, from compiled code on disk, or compiled from `path` now.
    /// Callers that ask at the same time wait for one compilation.
    ///
    /// Errors: `InvalidArgument` where the bytes are no component of this contract; the message says what to change.
    pub async fn function(self: &Arc<Self>, digest: &str, path: PathBuf, lifetime: Lifetime) -> Result<Arc<Function>> {
        let (runtime, of) = (self.clone(), digest.to_owned());
        self.functions.get_or_build(digest, lifetime, async move { runtime.load(&of, path).await }).await
    }

    /// The function of a component, with `init` run and its memory kept, where it has one. What ran with the same inputs before
    /// comes from memory or disk. `log` gets what init logged, where it ran now.
    ///
    /// Errors: those of [`Runtime::function`]; `InvalidArgument` where init fails.
    pub async fn initialised(
        self: &Arc<Self>,
        digest: &str,
        path: PathBuf,
        inputs: InitInputs,
        lifetime: Lifetime,
        log: impl FnOnce(Vec<LogLine>) + Send + 'static,
    ) -> Result<Arc<Function>> {
        let plain = self.function(digest, path.clone(), lifetime).await?;
        if !plain.has_init() {
            return Ok(plain);
        }
        let key = inputs.key(digest);
        let make = {
            let (runtime, key) = (self.clone(), key.clone());
            async move { runtime.initialise(&key, path, inputs, &plain, log).await }
        };
        let function = self.functions.get_or_build(&key, lifetime, make).await?;
        self.functions.sweep(&key);
        Ok(function)
    }

    async fn initialise(
        self: &Arc<Self>,
        key: &str,
        path: PathBuf,
        inputs: InitInputs,
        plain: &Function,
        log: impl FnOnce(Vec<LogLine>),
    ) -> Result<Function> {
        let kept = self.blocking(key, |runtime, key| Ok(runtime.artefacts.load(&runtime.engine, key))).await?;
        if let Some((component, manifest)) = kept {
            let check = move |runtime: &Runtime, _: &str| runtime.checked(&component, Init::Snapshot, manifest);
            return self.blocking(key, check).await;
        }
        let models = &self.services.models;
        let assets = inputs.models.values().flat_map(|model| model.package.assets());
        let assets = assets.map(|file| (file.digest.clone(), models.blob(&file.digest))).collect();
        let limits = self.services.limits.lowered(&inputs.limits);
        let request = snapshot::Request { component: path, inputs, assets, limits };
        let folder = self.artefacts.folder();
        let snapshot::Made { ending, log: lines } = snapshot::make(&self.confined, &request, folder).await?;
        log(lines);
        match ending {
            snapshot::Ending::Snapshot(wasm) => {
                // Another child, which no guest ran in: the server trusts what it wrote.
                let limits = &self.services.limits;
                let mut compiled = compile::compile(&self.confined, limits, wasm.to_path_buf(), folder).await?;
                compiled.manifest = plain.manifest.clone();
                let keep = move |runtime: &Runtime, key: &str| {
                    let component = runtime.artefacts.keep(&runtime.engine, key, &compiled)?;
                    runtime.checked(&component, Init::Snapshot, compiled.manifest)
                };
                self.blocking(key, keep).await
            }
            snapshot::Ending::Without(reason) => {
                tracing::warn!("init runs in every instance, because no snapshot can be taken: {reason}");
                self.checked(&plain.component, Init::EachTime(reason), plain.manifest.clone())
            }
        }
    }

    fn checked(&self, component: &Component, init: Init, manifest: serde_json::Value) -> Result<Function> {
        let program = Program::new(&self.linker, component, |state| &mut state.ctx)?;
        Ok(Function { program, component: component.clone(), init, lookout: Lookout::new(), manifest })
    }

    /// Forgets a function and its compiled code; running invocations end undisturbed.
    pub fn forget(&self, digest: &str) {
        self.functions.forget(digest);
        self.artefacts.remove(digest);
    }

    /// Forgets the compiled code of a component that was refused; its failure is told again for a moment.
    pub fn forget_code(&self, digest: &str) {
        self.functions.sweep("");
        self.artefacts.remove(digest);
    }

    /// The digests of the components whose compiled code is on disk.
    ///
    /// Errors: those of the disk.
    pub fn compiled(&self) -> Result<BTreeSet<String>> {
        self.artefacts.digests().map_err(|error| Error::storage("listing compiled code", error))
    }

    /// Forgets functions that nobody uses any more; their compiled code stays on disk.
    pub fn sweep(&self) {
        self.functions.sweep("");
    }

    /// A place for one invocation. Waits while all are taken.
    ///
    /// Errors: `Overloaded` when too many wait already.
    pub async fn enter(&self) -> Result<Pass> {
        let full = |Full { most, waiting }| {
            Error::overloaded(format!("{most} invocations run and {waiting} wait already; try again later"))
        };
        self.gate.enter(self.services.limits.queued_invocations).await.map_err(full)
    }

    /// A place for the second half of a pipeline: it is never refused, since its request was
    /// let in before.
    async fn enter_again(&self) -> Pass {
        self.gate.wait().await
    }

    /// Invocations that run, and that wait for a place, right now.
    pub fn load_now(&self) -> (u64, u64) {
        self.gate.load()
    }

    /// What every invocation shares.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    async fn load(self: &Arc<Self>, digest: &str, path: PathBuf) -> Result<Function> {
        let kept = self.blocking(digest, |runtime, digest| Ok(runtime.artefacts.load(&runtime.engine, digest))).await?;
        if let Some((component, manifest)) = kept {
            return self.blocking(digest, move |runtime, _| runtime.plain(&component, manifest)).await;
        }
        let limits = &self.services.limits;
        let compiled = compile::compile(&self.confined, limits, path, self.artefacts.folder()).await?;
        let link = move |runtime: &Runtime, digest: &str| {
            let component = runtime.artefacts.keep(&runtime.engine, digest, &compiled)?;
            runtime.plain(&component, compiled.manifest)
        };
        self.blocking(digest, link).await
    }

    /// A component as it was uploaded: its `init`, if it has one, runs in every instance.
    fn plain(&self, component: &Component, manifest: serde_json::Value) -> Result<Function> {
        let function = self.checked(component, Init::Absent, manifest)?;
        let init = match function.program.world().has_init() {
            true => Init::EachTime("it has no snapshot yet".to_owned()),
            false => Init::Absent,
        };
        Ok(Function { init, ..function })
    }

    /// Does what waits for the disk where that holds nobody up.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        digest: &str,
        work: impl FnOnce(&Runtime, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (runtime, digest) = (self.clone(), digest.to_owned());
        let task = tokio::task::spawn_blocking(move || work(&runtime, &digest));
        task.await.map_err(|error| Error::host("loading a component", error))?
    }
}

/// How many times longer the ticker sleeps where no guest runs: an idle server wakes a hundred times a second at most.
const WHEN_IDLE: u32 = 5;

/// Makes running guests look whether they must yield, until it is dropped; it sleeps longer where none runs.
struct Ticker(Arc<AtomicBool>);

impl Ticker {
    fn start(engine: &Engine, period: Duration, busy: impl Fn() -> bool + Send + 'static) -> Result<Ticker> {
        let engine = engine.weak();
        let running = Arc::new(AtomicBool::new(true));
        let ticker = Ticker(running.clone());
        let body = move || {
            while running.load(Ordering::Relaxed) {
                std::thread::sleep(if busy() { period } else { period * WHEN_IDLE });
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        };
        let started = std::thread::Builder::new().name("epoch".to_owned()).spawn(body);
        started.map(|_| ticker).map_err(|error| Error::host("starting a thread", error))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Adds the contract and WASI to a linker.
fn link(linker: &mut Linker<State>) -> Result<()> {
    let failed = |error: wasmtime::Error| Error::host("linking the guest contract", error.to_string());
    wasmtime_wasi::p2::add_to_linker_async(linker).map_err(failed)?;
    interface::add_to_linker(linker, |state: &mut State| &mut state.ctx).map_err(failed)
}
