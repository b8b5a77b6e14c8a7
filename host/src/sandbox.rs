//! Runs untrusted components: one wasmtime `Runtime` a process, a compiled `Function` an upload, a fresh instance an
//! invocation; it never knows names, versions or HTTP.

mod artefacts;
mod invocation;
mod places;

pub use invocation::{Invocation, Outcome, Receipt};
pub use places::{Places, Slot};

use crate::config::{Config, Limits};
use crate::error::{Error, Kind, Result};
use crate::interface::{self, Handler, Services};
use artefacts::Artefacts;
use invocation::State;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::OnceCell;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// The parts of the process that all functions share: compiler settings, the pool of instances, the linked contract.
pub struct Runtime {
    engine: Engine,
    linker: Linker<State>,
    services: Arc<Services>,
    artefacts: Artefacts,
    functions: Mutex<HashMap<String, Arc<OnceCell<Arc<Function>>>>>,
    slots: Places,
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
    /// makes running guests yield.
    pub fn new(config: &Config, services: Arc<Services>) -> Result<Runtime> {
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
            slots: Places::new(limits.concurrent_invocations),
            functions: Mutex::default(),
            engine,
            linker,
            services,
            artefacts,
            ticker,
        })
    }

    /// The function of a component by its digest: from memory, from compiled code on disk, or compiled from `path` now.
    /// Callers that ask at the same time wait for one compilation.
    ///
    /// Errors: `InvalidArgument` where the bytes are no component of this contract; the message says what to change.
    pub async fn function(self: &Arc<Self>, digest: &str, path: PathBuf) -> Result<Arc<Function>> {
        let cell = self.functions().entry(digest.to_owned()).or_default().clone();
        let found = cell
            .get_or_try_init(async || {
                let (runtime, digest) = (self.clone(), digest.to_owned());
                let task = tokio::task::spawn_blocking(move || runtime.load(&digest, &path));
                task.await.map_err(|error| Error::host("compiling a component", error))?.map(Arc::new)
            })
            .await
            .cloned();
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
        let limits = &self.services.limits;
        let full = |waiting| {
            let running = limits.concurrent_invocations;
            Error::overloaded(format!("{running} invocations run and {waiting} wait already; try again later"))
        };
        self.slots.take(limits.queued_invocations, full).await
    }

    /// Invocations that run, and that wait for a place, right now.
    pub fn load_now(&self) -> (u64, u64) {
        self.slots.load_now()
    }

    /// What every invocation shares.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    fn functions(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<OnceCell<Arc<Function>>>>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, digest: &str, path: &Path) -> Result<Function> {
        let wasm = std::fs::read(path).map_err(|error| Error::storage("reading a component", error))?;
        let manifest = manifest(&wasm)?;
        let component = match self.artefacts.load(&self.engine, digest) {
            Some(component) => component,
            None => {
                let component = compile(&self.engine, &wasm)?;
                self.artefacts.store(digest, &component);
                component
            }
        };
        let handler = Handler::new(&self.linker, &component)?;
        Ok(Function { handler, world: "handler", manifest })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.ticker.store(false, Ordering::Relaxed);
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

const CORE_MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

fn compile(engine: &Engine, wasm: &[u8]) -> Result<Component> {
    if wasm.starts_with(&CORE_MODULE) {
        return Err(Error::invalid_argument(
            "this is a core WebAssembly module, not a component; build it with `cargo build --target wasm32-wasip2`, or \
             turn it into a component with `wasm-tools component new`",
        ));
    }
    if !wasm.starts_with(&COMPONENT) {
        let shown: Vec<String> = wasm.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return Err(Error::invalid_argument(format!(
            "this is no WebAssembly component: it starts with the bytes [{}] instead of [00 61 73 6d 0d 00 01 00]",
            shown.join(" ")
        )));
    }
    Component::from_binary(engine, wasm).map_err(|error| {
        Error::invalid_argument(format!("the component does not compile: {}", interface::causes(&error)))
    })
}

/// The JSON of the custom section `hearth:manifest`, wherever in the component it lies; `null` without one.
fn manifest(wasm: &[u8]) -> Result<serde_json::Value> {
    const LARGEST_BYTES: usize = 1 << 20;
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        // Bytes that do not parse are refused by the compiler, with its reason.
        let Ok(payload) = payload else { break };
        if let wasmparser::Payload::CustomSection(section) = payload
            && section.name() == "hearth:manifest"
        {
            if section.data().len() > LARGEST_BYTES {
                return Err(Error::new(Kind::TooLarge, "the section hearth:manifest is larger than 1 MiB"));
            }
            return serde_json::from_slice(section.data()).map_err(|error| {
                Error::invalid_argument(format!("the section hearth:manifest is not the JSON it should be: {error}"))
            });
        }
    }
    Ok(serde_json::Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_told_apart() {
        let engine = Engine::default();
        let message = |bytes: &[u8]| match compile(&engine, bytes) {
            Ok(_) => String::new(),
            Err(error) => error.message().to_owned(),
        };
        assert!(message(b"").contains("no WebAssembly component"));
        assert!(message(b"hello").contains("68 65 6c 6c 6f"));
        assert!(message(&CORE_MODULE).contains("core WebAssembly module"));
        assert!(message(&[&COMPONENT[..], &[0xff; 20]].concat()).contains("does not compile"));
        assert_eq!(message(&COMPONENT), "");
    }
}
