//! Runs a component's `init` once and writes a component that starts from the memory that `init` left; it never runs for a
//! request.
//!
//! The request carries what `init` may see: the configuration, and the signatures and assets of the function's models. `init`
//! gets no secrets, tensors, operators or model runs. The work is done in a child process, because it reads the component with
//! another parser than the compiler's and runs the guest. The guest has the limits of an invocation.

use super::State;
use super::compile;
use super::invocation::{store, trapped};
use crate::bulk;
use crate::config::Limits;
use crate::confined::{Cap, Caps, Confined, Job, Work};
use crate::device::{Cpu, Device, Ledger, Stop};
use crate::error::{Error, Result};
use crate::interface::{self, Call, Grant, Log, LogLine, Phase, Services, causes};
use crate::model::{Blobs, Directory, Models, Package, Resolved};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::component::{Component, ComponentNamedList, Instance, Lift, Linker, WasmList};
use wasmtime::{Engine, Store};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

/// The inputs of a snapshot besides the component. Another value of any of them needs another snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InitInputs {
    /// The function's tenant. Snapshots are never shared between tenants.
    pub tenant: String,
    /// The function's name, for its log.
    pub function: String,
    /// The configuration that was granted.
    pub config: BTreeMap<String, String>,
    /// The models that were granted, by the names under which the function opens them.
    pub models: BTreeMap<String, Resolved>,
    /// The limits that the function's settings lower.
    pub limits: BTreeMap<String, u64>,
}

impl InitInputs {
    /// The name of the snapshot of a component: the component's digest, and a digest over everything else that the snapshot
    /// depends on.
    pub(super) fn key(&self, digest: &str) -> String {
        let models: BTreeMap<&str, &str> =
            self.models.iter().map(|(name, model)| (name.as_str(), model.digest.as_str())).collect();
        let parts = serde_json::json!([self.tenant, self.config, models, self.limits]);
        let parts = Sha256::digest(parts.to_string());
        format!("{digest}-{}", hex::encode(&parts[..16]))
    }
}

/// Why no snapshot can be made of a component that exports `init`, so that `init` would run in every instance; `None` where one
/// can be made. The component is parsed in this process and not run, so this is only for a user's own file.
pub fn snapshot_obstacle(wasm: &[u8]) -> Option<String> {
    wizer().instrument_component(wasm).err().map(|error| causes(&error))
}

/// The snapshotter, for the contract's `init`, which stays in the resulting component.
fn wizer() -> Wizer {
    let mut wizer = Wizer::new();
    wizer.init_func("init").keep_init_func(true);
    wizer
}

/// The job of the child.
pub const SNAPSHOT: Job = Job { name: "snapshot", work };

/// Everything that making a snapshot needs.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) component: PathBuf,
    pub(super) inputs: InitInputs,
    /// The file of each asset of those models, by its digest.
    pub(super) assets: BTreeMap<String, PathBuf>,
    pub(super) limits: Limits,
}

/// The result.
pub(super) struct Made {
    pub(super) ending: Ending,
    /// What init logged.
    pub(super) log: Vec<LogLine>,
}

/// How making a snapshot ended, where init succeeded.
pub(super) enum Ending {
    /// The file of a component whose memory is what init left; removed when dropped.
    Snapshot(tempfile::TempPath),
    /// No snapshot can be made of this component, for this reason; `init` runs in each instance instead.
    Without(String),
}

/// The child's reply; where there is a snapshot, it is in the output file.
#[derive(Serialize, Deserialize)]
struct Reply {
    without: Option<String>,
    log: Vec<LogLine>,
}

/// Runs `init` of a component in a child, and writes a component that starts from the memory that `init` left into a file of
/// `folder`.
///
/// Errors: `invalid-argument` where `init` fails, does not end, traps, or exceeds a limit.
pub(super) async fn make(confined: &Confined, request: &Request, folder: &Path) -> Result<Made> {
    const KEEPING: &str = "keeping a snapshot";
    let output = tempfile::NamedTempFile::new_in(folder).map_err(|error| Error::storage(KEEPING, error))?;
    let output = output.into_temp_path();
    let limits = &request.limits;
    // The time of `init` is bounded in the child, which can distinguish it from the compiler's.
    let wall_ms = limits.compile_ms.saturating_add(limits.invocation_ms);
    let caps = Caps {
        what: "the function's inputs",
        wall_ms: Cap { value: wall_ms, limit: "compile_ms" },
        reads: request.assets.values().chain([&request.component]).cloned().collect(),
        ..compile::caps(limits)
    };
    let reply = confined.run(&SNAPSHOT, request, Some(&output), caps).await?;
    let Reply { without, log } = serde_json::from_value(reply).map_err(|error| Error::host(KEEPING, error))?;
    let ending = without.map_or(Ending::Snapshot(output), Ending::Without);
    Ok(Made { ending, log })
}

fn work(work: &mut Work) -> Result<serde_json::Value> {
    const KEEPING: &str = "keeping a snapshot";
    let request: Request = work.request()?;
    let wasm = bulk::read(&request.component).map_err(|error| Error::storage("reading a component", error))?;
    let threads = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let threads = threads.map_err(|error| Error::host("starting a runtime", error))?;
    let engine = compile::compiler(&request.limits)?;
    let (snapshot, log) = threads.block_on(run(&request, &engine, &wasm))?;
    let without = match snapshot {
        Ok(wasm) => {
            let mut output = work.output.take().ok_or_else(|| Error::host(KEEPING, "no file to write to"))?;
            bulk::write(&mut output, &wasm).map_err(|error| Error::storage(KEEPING, error))?;
            None
        }
        Err(reason) => Some(reason),
    };
    serde_json::to_value(Reply { without, log }).map_err(|error| Error::host(KEEPING, error))
}

/// The component with the memory that init left, or why there is none; and what init logged.
type Snapshot = (Result<Vec<u8>, String>, Vec<LogLine>);

async fn run(request: &Request, engine: &Engine, wasm: &[u8]) -> Result<Snapshot> {
    let limits = &request.limits;
    // A component that the snapshotter cannot instrument is run as it is: `init` must still succeed.
    let wizer = wizer();
    let parts = wizer.instrument_component(wasm);
    let (bytes, reason) = match &parts {
        Ok((_, instrumented)) => (instrumented.as_slice(), None),
        Err(error) => (wasm, Some(causes(error))),
    };
    let component = Component::from_binary(engine, bytes)
        .map_err(|error| Error::invalid_argument(format!("the component does not compile: {}", causes(&error))))?;
    let mut linker = Linker::new(engine);
    super::link(&mut linker)?;
    // The time of `init` begins when it can run.
    let deadline = Instant::now() + Duration::from_millis(limits.invocation_ms);
    let ticking = super::Ticker::start(engine, Duration::from_millis(limits.yield_ms), || true)?;
    let ctx = interface::Ctx::new(services(request), call(request, deadline));
    let mut store = store(engine, ctx);
    let begun = async {
        let instance = linker.instantiate_async(&mut store, &component).await?;
        Ok::<_, wasmtime::Error>((instance, interface::init(&mut store, &instance).await?))
    };
    let begun = tokio::time::timeout_at(deadline.into(), begun).await;
    let mut snapshot = None;
    let outcome = match begun {
        Ok(Ok((instance, Ok(())))) => {
            if let Ok((parts, _)) = &parts {
                // The host reads the memory, and its size is bounded by the limits already.
                store.set_hostcall_fuel(usize::MAX);
                let mut state = InstanceState { store: &mut store, instance, failed: None };
                let taken = wizer.snapshot_component(parts, &mut state).await;
                snapshot = Some(match state.failed.take() {
                    None => taken.map_err(|error| causes(&error)),
                    Some(error) => Err(causes(&error)),
                });
            }
            Ok(())
        }
        Ok(Ok((_, Err(error)))) => Err(Ok(error)),
        Ok(Err(trap)) => Err(Err(Some(trap))),
        Err(_) => Err(Err(None)),
    };
    drop(ticking);
    let (ctx, limiter) = store.into_data().into_parts();
    match outcome {
        Ok(()) => {
            let log = ctx.call().log.take().0;
            let reason = || reason.unwrap_or_else(|| "no snapshot was taken".to_owned());
            Ok((snapshot.unwrap_or_else(|| Err(reason())), log))
        }
        // Whatever kind `init` names, the component is at fault.
        Err(Ok(error)) => Err(Error::invalid_argument(error.message())),
        Err(Err(Some(trap))) => Err(Error::invalid_argument(trapped(&trap, &ctx, &limiter).message()).context("init")),
        Err(Err(None)) => {
            let most = limits.invocation_ms;
            Err(Error::invalid_argument(format!("init did not end within {most} ms (invocation_ms)")))
        }
    }
}

fn services(request: &Request) -> Arc<Services> {
    let limits = Arc::new(request.limits.clone());
    let device: Arc<dyn Device> = Cpu::new(Ledger::new(0), request.limits.clone());
    let given = Arc::new(Given {
        models: request.inputs.models.iter().map(|(name, model)| (name.clone(), Arc::new(model.clone()))).collect(),
        assets: request.assets.clone(),
    });
    let models = Arc::new(Models::without_engine(&request.limits, device.clone(), given.clone(), given));
    Arc::new(Services { device, models, limits })
}

fn call(request: &Request, deadline: Instant) -> Call {
    let inputs = &request.inputs;
    let models = inputs.models.keys().cloned().collect();
    let grant = Grant { config: inputs.config.clone(), models, ..Grant::default() };
    Call {
        request_id: "init".into(),
        tenant: inputs.tenant.as_str().into(),
        function: inputs.function.as_str().into(),
        grant: Arc::new(grant),
        limits: Arc::new(request.limits.clone()),
        phase: Phase::Init,
        deadline,
        stop: Stop::new(Some(deadline)),
        log: Log::new(request.limits.log_bytes),
    }
}

/// The models of the request.
struct Given {
    models: BTreeMap<String, Arc<Resolved>>,
    assets: BTreeMap<String, PathBuf>,
}

#[async_trait]
impl Directory for Given {
    async fn resolve(&self, _: &str, name: &str) -> Result<Arc<Resolved>> {
        self.models.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = self.models.keys().map(String::as_str).collect();
            let name: String = name.chars().take(64).collect();
            Error::not_found(format!(
                "init knows no model '{name}'; there is {}: name it in #[handler(models = […])] exactly like that, and add \
                 it before the function",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            ))
        })
    }
}

impl Blobs for Given {
    fn path(&self, digest: &str) -> PathBuf {
        self.assets.get(digest).cloned().unwrap_or_default()
    }

    fn package_folder(&self, _: &str, _: &Package) -> Result<PathBuf> {
        Err(Error::unavailable("no model is loaded in init"))
    }
}

/// Reads an instance for the snapshotter, through functions that it added to the component.
struct InstanceState<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    failed: Option<wasmtime::Error>,
}

impl InstanceState<'_> {
    async fn read<R: Lift + Send + Sync + 'static>(&mut self, instance: &str, name: &str) -> wasmtime::Result<R>
    where
        (R,): ComponentNamedList + Lift,
    {
        let missing = || wasmtime::Error::msg("the instrumented component lacks an accessor");
        let (_, group) = self.instance.get_export(&mut *self.store, None, instance).ok_or_else(missing)?;
        let (_, index) = self.instance.get_export(&mut *self.store, Some(&group), name).ok_or_else(missing)?;
        let accessor = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, index)?;
        Ok(accessor.call_async(&mut *self.store, ()).await?.0)
    }

    /// A number, or 0 and a stored failure, because the trait cannot return one.
    async fn number<R: Lift + Send + Sync + Default + 'static>(&mut self, instance: &str, name: &str) -> R
    where
        (R,): ComponentNamedList + Lift,
    {
        self.read(instance, name).await.unwrap_or_else(|error| {
            self.failed = Some(error);
            R::default()
        })
    }
}

impl ComponentInstanceState for InstanceState<'_> {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.read::<WasmList<u8>>(instance, func).await {
            Ok(list) => contents(list.as_le_slice(&*self.store)),
            Err(error) => {
                self.failed = Some(error);
                contents(&[]);
            }
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.number(instance, func).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.number(instance, func).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.number::<f32>(instance, func).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.number::<f64>(instance, func).await.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_snapshotted_is_told_without_running_it() {
        let component = |instances: &str| {
            wat::parse_str(format!(
                r#"(component (core module $m (memory (export "memory") 1) (func (export "init"))) {instances}
                    (func $init (canon lift (core func $i "init"))) (export "init" (func $init)))"#
            ))
            .unwrap()
        };
        assert_eq!(snapshot_obstacle(&component("(core instance $i (instantiate $m))")), None);
        let twice = "(core instance $i (instantiate $m)) (core instance $j (instantiate $m))";
        let reason = snapshot_obstacle(&component(twice)).unwrap();
        assert!(reason.contains("instantiated at most once"), "{reason}");
    }
}
