//! Runs a component's `init` once and keeps the memory it leaves in a new component; it never runs for a request.
//!
//! What init may see is given with the request: configuration, and the models that the function asks for, by signature and
//! assets. It gets no secrets, tensors, operators or model runs. The work is meant for the child process: it parses the
//! component with another parser than the compiler's, and runs the guest under the limits of an invocation.

use super::State;
use super::invocation::{store, trapped};
use crate::config::Limits;
use crate::device::{Cpu, Device, Ledger, Stop};
use crate::error::{Error, Kind, Result};
use crate::interface::{self, Call, Grant, LogLine, Phase, Services, causes};
use crate::model::{Blobs, Directory, Models, Package, Resolved};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::component::{Component, ComponentNamedList, Instance, Lift, Linker, WasmList};
use wasmtime::{Engine, Store};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

/// What a snapshot is made of, and so what it is a snapshot for: with anything else it would be another one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preparation {
    /// Whose function it is. Snapshots are never shared between tenants.
    pub tenant: String,
    /// The function's name, for its log.
    pub function: String,
    /// The configuration that was granted.
    pub config: BTreeMap<String, String>,
    /// The models that were granted, by the names under which the function opens them.
    pub models: BTreeMap<String, Resolved>,
}

impl Preparation {
    /// The name of the snapshot of a component: a digest over everything that it depends on.
    pub(super) fn key(&self, digest: &str) -> String {
        let models: BTreeMap<&str, &str> =
            self.models.iter().map(|(name, model)| (name.as_str(), model.digest.as_str())).collect();
        let parts = serde_json::json!([digest, self.tenant, self.config, models]);
        hex::encode(Sha256::digest(parts.to_string()))
    }
}

/// Everything that making a snapshot takes.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) preparation: Preparation,
    /// The file of each asset of those models, by its digest.
    pub(super) assets: BTreeMap<String, PathBuf>,
    /// The values of the limits, by name.
    pub(super) limits: Limits,
}

/// How it went.
#[derive(Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) ending: Ending,
    /// What init logged.
    pub(super) log: Vec<LogLine>,
}

/// What making a snapshot ended with.
#[derive(Serialize, Deserialize)]
pub(super) enum Ending {
    /// The component whose memory is what init left.
    Snapshot(#[serde(skip)] Vec<u8>),
    /// The component is of a kind that no snapshot can be made of; init works in each instance all the same.
    Without(String),
    /// Init failed.
    Failed(Kind, String),
}

/// Runs `init` of a component and gives a component that starts from what it left. Blocks until it is done.
pub(super) fn snapshot(request: &Request, wasm: &[u8]) -> Result<Reply> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.map_err(|error| Error::host("starting a runtime", error))?.block_on(run(request, wasm))
}

async fn run(request: &Request, wasm: &[u8]) -> Result<Reply> {
    let limits = &request.limits;
    let deadline = Instant::now() + Duration::from_millis(limits.invocation_ms);
    let engine = engine(limits)?;
    let ticking = super::Ticker::start(&engine, Duration::from_millis(limits.yield_ms))?;
    let ctx = interface::Ctx::new(services(request), call(request, deadline));
    let mut store = store(&engine, ctx);

    // A component that the snapshotter cannot take apart is run as it is: init must still succeed.
    let mut wizer = Wizer::new();
    wizer.init_func("init").keep_init_func(true);
    let parts = wizer.instrument_component(wasm);
    let (bytes, reason) = match &parts {
        Ok((_, instrumented)) => (instrumented.as_slice(), None),
        Err(error) => (wasm, Some(causes(error))),
    };
    let component = Component::from_binary(&engine, bytes)
        .map_err(|error| Error::invalid_argument(format!("the component does not compile: {}", causes(&error))))?;
    let mut linker = Linker::new(&engine);
    super::link(&mut linker)?;
    let begun = async {
        let instance = linker.instantiate_async(&mut store, &component).await?;
        Ok::<_, wasmtime::Error>((instance, interface::init(&mut store, &instance).await?))
    };
    let begun = tokio::time::timeout_at(deadline.into(), begun).await;
    let mut snapshot = None;
    let outcome = match begun {
        Ok(Ok((instance, Ok(())))) => {
            if let Ok((parts, _)) = &parts {
                // Reading the memory is the host's work and copies what the limits bound already.
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
    let (mut ctx, limiter) = store.into_data().into_parts();
    let ending = match outcome {
        Err(Ok(error)) => Ending::Failed(error.kind(), error.message().to_owned()),
        Err(Err(Some(trap))) => {
            let error = trapped(&trap, &ctx, &limiter);
            Ending::Failed(Kind::InvalidArgument, format!("init: {}", error.message()))
        }
        Err(Err(None)) => {
            let message = format!("init did not end within {} ms (invocation_ms)", limits.invocation_ms);
            Ending::Failed(Kind::InvalidArgument, message)
        }
        Ok(()) => match (snapshot, reason) {
            (Some(Ok(wasm)), _) => Ending::Snapshot(wasm),
            (Some(Err(reason)), _) | (None, Some(reason)) => Ending::Without(reason),
            (None, None) => Ending::Without("no snapshot was taken".to_owned()),
        },
    };
    Ok(Reply { ending, log: ctx.take_log().into_lines().0 })
}

/// The settings under which init runs: as serving ones, but with memory taken when it is needed.
fn engine(limits: &Limits) -> Result<Engine> {
    let mut config = super::engine_config(limits);
    config.allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand);
    Engine::new(&config).map_err(|error| Error::host("setting up the compiler", error.to_string()))
}

fn services(request: &Request) -> Arc<Services> {
    let limits = Arc::new(request.limits.clone());
    let device: Arc<dyn Device> = Cpu::new(Ledger::new(0), request.limits.clone());
    let given = Arc::new(Given {
        models: request
            .preparation
            .models
            .iter()
            .map(|(name, model)| (name.clone(), Arc::new(model.clone())))
            .collect(),
        assets: request.assets.clone(),
    });
    let models = Arc::new(Models::without_engine(&request.limits, device.clone(), given.clone(), given));
    Arc::new(Services { device, models, limits })
}

fn call(request: &Request, deadline: Instant) -> Call {
    let preparation = &request.preparation;
    let models = preparation.models.keys().cloned().collect();
    let grant = Grant { config: preparation.config.clone(), models, ..Grant::default() };
    Call {
        request_id: "init".into(),
        tenant: preparation.tenant.as_str().into(),
        function: preparation.function.as_str().into(),
        grant: Arc::new(grant),
        limits: Arc::new(request.limits.clone()),
        phase: Phase::Init,
        deadline,
        stop: Stop::new(Some(deadline)),
    }
}

/// The models that the request came with.
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
                "init knows no model '{name}'; there is {}: name it in #[handler(models = […])] just so, and add it before \
                 the function",
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

/// How the snapshotter reads an instance: by functions that it added to the component.
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

    /// A number, or 0 and a failure to remember: the trait has no place for one.
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
