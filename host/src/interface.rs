//! The host side of `wit/`: what a guest asks for is checked and carried out here; it never knows the catalog or HTTP.
//!
//! A guest's mistake is an error value, a forged or dropped handle a trap. The generated types stay within this module:
//! the rest of the host speaks `device`, `model` and the types below.

mod context;
mod errors;
mod grants;
mod http_types;
mod models;
mod operators;
mod pipelines;
mod tensors;
mod worlds;

pub use context::{Log, LogLevel, LogLine};
pub use errors::Fault;
pub use grants::{Grant, GrantNames, Secret};
pub use http_types::{Request, Response};
pub use worlds::{Answer, Finished, ModelCall, Program, Turn, World, init};

use crate::config::Limits;
use crate::device::{Account, Device, Owner, Stop, Tensor};
use crate::error::{Error, Result};
use crate::model::Models;
use errors::of_guest;
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};

mod bindings {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "pipeline",
        imports: {
            "hearth:inference/operators": async | trappable,
            "hearth:inference/tensors.[method]tensor.read": async | trappable,
            "hearth:inference/tensors.[method]tensor.read-range": async | trappable,
            "hearth:inference/tensors.[method]tensor.slice": async | trappable,
            "hearth:inference/models.[static]model.open": async | trappable,
            "hearth:inference/models.[method]model.infer": async | trappable,
            "hearth:inference/models.[method]model.asset": async | trappable,
            "hearth:inference/models.[method]pending.wait": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "hearth:inference/tensors.tensor": crate::device::Tensor,
            "hearth:inference/models.model": super::models::Opened,
            "hearth:inference/models.pending": super::models::Pending,
        },
        trappable_error_type: {
            "hearth:inference/errors.error" => super::Fault,
        },
        require_store_data_send: true,
    });
}

/// What every invocation of this process shares.
pub struct Services {
    /// The device of guests' tensors.
    pub device: Arc<dyn Device>,
    /// The models.
    pub models: Arc<Models>,
    /// The server's limits. Those of one invocation are its [`Call`]'s.
    pub limits: Arc<Limits>,
}

/// What a guest is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// To answer a request.
    Serving,
    /// For its `init`, whose memory is kept: no secrets, tensors, operators or model runs.
    Init,
}

/// Who calls what, until when.
#[derive(Clone)]
pub struct Call {
    /// The identity of the request.
    pub request_id: Arc<str>,
    /// Whose function this is.
    pub tenant: Arc<str>,
    /// The function's name.
    pub function: Arc<str>,
    /// What the function may use.
    pub grant: Arc<Grant>,
    /// Whether it answers requests or prepares for them.
    pub phase: Phase,
    /// The function's limits: the server's, some of them perhaps lowered.
    pub limits: Arc<Limits>,
    /// When the invocation must be over.
    pub deadline: Instant,
    /// Ends host work when the invocation ends.
    pub stop: Stop,
    /// What the guest logs.
    pub log: Log,
}

/// What an invocation used of the host; times in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Time in operators and image decoding.
    pub operators_us: u64,
    /// The part of `operators_us` that ran on the guest's own thread.
    pub inline_us: u64,
    /// Time in model runs.
    pub model_us: u64,
    /// Time that model runs waited for their turn, and that models took to load.
    pub queue_us: u64,
    /// Model runs.
    pub model_runs: u64,
    /// Bytes copied from the guest or host to the device.
    pub uploaded_bytes: u64,
    /// Bytes copied from the device to the guest.
    pub downloaded_bytes: u64,
}

/// What an invocation occupies while it works; it is given up when the last clone is dropped.
pub type Place = Arc<dyn Any + Send + Sync>;

/// The host's side of one invocation: its handles, budgets, log and usage.
pub struct Ctx {
    services: Arc<Services>,
    call: Call,
    account: Arc<Account>,
    table: ResourceTable,
    /// None until a run is submitted.
    submitted: Option<models::Submitted>,
    place: Option<Place>,
    /// What was used so far.
    pub usage: Usage,
}

impl Ctx {
    /// The side of one invocation, with nothing used yet.
    pub fn new(services: Arc<Services>, call: Call) -> Ctx {
        let limits = &call.limits;
        let owner = Owner::Invocation { tenant: call.tenant.clone() };
        let account = services.device.ledger().account(owner, limits.tensor_bytes, limits.tensor_count);
        let table = new_table(limits);
        Ctx { call, account, table, submitted: None, place: None, usage: Usage::default(), services }
    }

    /// Everything that was used, submitted runs that are over included.
    pub fn take_usage(&mut self) -> Usage {
        let (model_us, queue_us) = self.submitted.as_ref().map_or((0, 0), models::Submitted::used_us);
        let mut usage = std::mem::take(&mut self.usage);
        usage.model_us += model_us;
        usage.queue_us += queue_us;
        usage
    }

    /// Holds a place, and lets go of the one before. Work that this side has handed to another thread keeps its place until
    /// it has ended, even where the invocation has ended earlier.
    pub fn hold(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// Forgets every handle, for another instance of the same invocation.
    pub fn drop_handles(&mut self) {
        self.table = new_table(&self.call.limits);
    }

    /// Runs the model of a pipeline; what it used is counted.
    ///
    /// Errors: those of opening and running the model.
    pub async fn run(&mut self, call: ModelCall) -> Result<Finished> {
        let ModelCall { model, inputs, state, keep } = call;
        self.call.grant.check_model(&model)?;
        self.usage.model_runs += 1;
        let started = Instant::now();
        let lease = self.services.models.open(&self.call.tenant, &model).await;
        self.usage.queue_us += micros_since(started);
        let run = lease?.infer(&self.account, inputs, &self.call.stop).await?;
        self.usage.model_us += run.model_us;
        self.usage.queue_us += run.queue_us;
        Ok(Finished { outputs: run.outputs, state, keep })
    }

    /// An error in `init`, where a guest has no `what`.
    fn refused_in_init(&self, what: &str) -> Result<()> {
        match self.call.phase {
            Phase::Serving => Ok(()),
            Phase::Init => Err(Error::permission_denied(format!(
                "init runs without {what}, because its memory is kept for every request; use them while answering one"
            ))),
        }
    }

    /// Gives the guest a handle on a tensor.
    fn give(&mut self, tensor: Tensor) -> Result<Resource<Tensor>> {
        self.table.push(tensor).map_err(|_| errors::too_many_handles())
    }

    /// Who owns the invocation's tensors, and how many bytes they have.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The handles of this invocation; WASI's live beside hearth's.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Who calls what.
    pub fn call(&self) -> &Call {
        &self.call
    }
}

/// Adds every interface of the contract to a linker whose stores carry a [`Ctx`].
pub fn add_to_linker<T: Send + 'static>(linker: &mut Linker<T>, ctx: fn(&mut T) -> &mut Ctx) -> wasmtime::Result<()> {
    bindings::Pipeline::add_to_linker::<_, HasSelf<Ctx>>(linker, ctx)
}

fn new_table(limits: &Limits) -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(usize::try_from(limits.handles).unwrap_or(usize::MAX));
    table
}

fn micros_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// An error of wasmtime with its causes, on one line.
pub fn causes(error: &wasmtime::Error) -> String {
    error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect::<Vec<_>>().join(": ")
}
