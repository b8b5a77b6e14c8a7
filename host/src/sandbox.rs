//! Runs untrusted components: one wasmtime `Runtime` a process, a compiled `Function` an upload, a fresh instance an
//! invocation; it never knows names, versions or HTTP.

mod artefacts;
mod compile;
mod invocation;

pub use compile::COMPILE;
pub use invocation::{Invocation, Outcome, Receipt};

use crate::config::{Config, Limits};
use crate::confined::Confined;
use crate::error::{Error, Result};
use crate::interface::{self, Handler, Services};
use artefacts::Artefacts;
use invocation::State;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// The parts of the process that all functions share: compiler settings, the pool of instances, the linked contract.
pub struct Runtime {
    engine: Engine,
    linker: Linker<State>,
    services: Arc<Services>,
    artefacts: Artefacts,
    confined: Arc<Confined>,
    functions: Mutex<HashMap<String, Arc<OnceCell<Arc<Function>>>>>,
    slots: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    ticker: Arc<AtomicBool>,
}

/// A compiled, checked component, ready for fresh instances.
pub struct Function {
    handler: Handler<State>,
    /// The world it implements.
    pub world: &'static str,
    /// What it wishes to be granted: the JSON of its `hearth:manifest` section, or `null`.
    pub manifest: serde_json::Value,
}

/// A place in the pool of instances; given back when dropped.
pub struct Slot(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

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
        let link = |error: wasmtime::Error| Error::host("linking the guest contract", error.to_string());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(link)?;
        interface::add_to_linker(&mut linker, |state: &mut State| &mut state.ctx).map_err(link)?;
        let artefacts = Artefacts::open(&config.data, &engine)?;
        let ticker = Arc::new(AtomicBool::new(true));
        start_ticker(&engine, Duration::from_millis(limits.yield_ms), &ticker)?;
        Ok(Runtime {
            slots: Arc::new(Semaphore::new(limits.concurrent_invocations as usize)),
            waiting: Arc::default(),
            functions: Mutex::default(),
            engine,
            linker,
            services,
            artefacts,
            confined,
            ticker,
        })
    }

    /// The function of a component by its digest: from memory, from compiled code on disk, or compiled from `path` now.
    /// Callers that ask at the same time wait for one compilation.
    ///
    /// Errors: `InvalidArgument` where the bytes are no component of this contract; the message says what to change.
    pub async fn function(self: &Arc<Self>, digest: &str, path: PathBuf) -> Result<Arc<Function>> {
        let cell = self.functions().entry(digest.to_owned()).or_default().clone();
        let found = cell.get_or_try_init(async || self.load(digest, path).await.map(Arc::new)).await.cloned();
        if found.is_err() {
            // Only a cell that is still empty is forgotten: another caller may have succeeded meanwhile.
            let mut functions = self.functions();
            if functions.get(digest).is_some_and(|cell| !cell.initialized()) {
                functions.remove(digest);
            }
        }
        found
    }

    /// Forgets a function and its compiled code; running invocations end undisturbed.
    pub fn forget(&self, digest: &str) {
        self.functions().remove(digest);
        self.artefacts.remove(digest);
    }

    /// A place for one invocation. Waits while all are taken.
    ///
    /// Errors: `Overloaded` when too many wait already.
    pub async fn slot(&self) -> Result<Slot> {
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            return Ok(Slot(permit));
        }
        let limits = &self.services.limits;
        let waiting = Waiting::new(&self.waiting);
        if waiting.before as u64 >= limits.queued_invocations {
            return Err(Error::overloaded(format!(
                "{} invocations run and {} wait already; try again later",
                limits.concurrent_invocations, waiting.before
            )));
        }
        let permit = self.slots.clone().acquire_owned().await;
        permit.map(Slot).map_err(|error| Error::host("waiting for an instance", error))
    }

    /// Invocations that run, and that wait for a place, right now.
    pub fn load_now(&self) -> (u64, u64) {
        let all = self.services.limits.concurrent_invocations;
        (all - self.slots.available_permits() as u64, self.waiting.load(Ordering::Relaxed) as u64)
    }

    /// What every invocation shares.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    fn functions(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<OnceCell<Arc<Function>>>>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load(self: &Arc<Self>, digest: &str, path: PathBuf) -> Result<Function> {
        let kept = self.blocking(digest, |runtime, digest| Ok(runtime.artefacts.load(&runtime.engine, digest))).await?;
        if let Some((component, manifest)) = kept {
            return self.blocking(digest, move |runtime, _| runtime.link(&component, manifest)).await;
        }
        let limits = &self.services.limits;
        let compiled = compile::compile(&self.confined, limits, path, self.artefacts.folder()).await?;
        let link = move |runtime: &Runtime, digest: &str| {
            let component = runtime.artefacts.keep(&runtime.engine, digest, &compiled)?;
            runtime.link(&component, compiled.manifest)
        };
        self.blocking(digest, link).await
    }

    fn link(&self, component: &Component, manifest: serde_json::Value) -> Result<Function> {
        let handler = Handler::new(&self.linker, component)?;
        Ok(Function { handler, world: "handler", manifest })
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

impl Drop for Runtime {
    fn drop(&mut self) {
        self.ticker.store(false, Ordering::Relaxed);
    }
}

struct Waiting {
    count: Arc<AtomicUsize>,
    before: usize,
}

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Waiting {
        Waiting { before: count.fetch_add(1, Ordering::Relaxed), count: count.clone() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start_ticker(engine: &Engine, period: Duration, running: &Arc<AtomicBool>) -> Result<()> {
    let engine = engine.weak();
    let running: Weak<AtomicBool> = Arc::downgrade(running);
    let body = move || {
        while running.upgrade().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            std::thread::sleep(period);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    };
    let started = std::thread::Builder::new().name("epoch".to_owned()).spawn(body);
    started.map(drop).map_err(|error| Error::host("starting a thread", error))
}
