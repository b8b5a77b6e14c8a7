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
mod tensors;

pub use context::{LogBuffer, LogLevel, LogLine};
pub use errors::Fault;
pub use grants::{Grant, GrantNames, Secret};
pub use http_types::{Request, Response};

use crate::config::Limits;
use crate::device::{Account, Device, Owner, Stop};
use crate::error::Error;
use crate::model::Models;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};

mod bindings {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "handler",
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
            "hearth:inference/models.model": crate::model::Lease,
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
    /// The function's limits: the server's, some of them perhaps lowered.
    pub limits: Arc<Limits>,
    /// When the invocation must be over.
    pub deadline: Instant,
    /// Ends host work when the invocation ends.
    pub stop: Stop,
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

/// The host's side of one invocation: its handles, budgets, log and usage.
pub struct Ctx {
    services: Arc<Services>,
    call: Call,
    account: Arc<Account>,
    table: ResourceTable,
    /// The lines logged so far.
    pub log: LogBuffer,
    /// What was used so far.
    pub usage: Usage,
}

impl Ctx {
    /// The side of one invocation, with nothing used yet.
    pub fn new(services: Arc<Services>, call: Call) -> Ctx {
        let limits = &call.limits;
        let owner = Owner::Invocation { tenant: call.tenant.clone() };
        let account = services.device.ledger().account(owner, limits.tensor_bytes, limits.tensor_count);
        let log = LogBuffer::new(limits.log_bytes);
        Ctx { call, account, table: ResourceTable::new(), log, usage: Usage::default(), services }
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
    bindings::Handler::add_to_linker::<_, HasSelf<Ctx>>(linker, ctx)
}

/// A component that was checked against the contract: every import is linked, every export the world wants is there.
pub struct Handler<T: 'static>(bindings::HandlerPre<T>);

impl<T: Send + 'static> Handler<T> {
    /// Checks a component against world `handler`. The error says what is missing or unknown.
    pub fn new(linker: &Linker<T>, component: &Component) -> Result<Handler<T>, Error> {
        let pre = linker.instantiate_pre(component).map_err(|error| {
            let message = format!("the component asks for something hearth does not have: {}", causes(&error));
            Error::invalid_argument(message)
        })?;
        let pre = bindings::HandlerPre::new(pre).map_err(|error| {
            let message = format!(
                "the component does not implement world hearth:inference/handler: {}; export `handle: func(request) -> \
                 result<response, error>` (the SDK's #[handler] does)",
                causes(&error)
            );
            Error::invalid_argument(message)
        })?;
        Ok(Handler(pre))
    }

    /// Answers one request in a fresh instance. The outer error is a trap, the inner one the handler's own.
    pub async fn handle(
        &self,
        store: &mut wasmtime::Store<T>,
        request: Request,
    ) -> wasmtime::Result<Result<Response, Error>> {
        let instance = self.0.instantiate_async(&mut *store).await?;
        let answer = instance.call_handle(&mut *store, &request.into()).await?;
        Ok(answer.map(Response::from).map_err(errors::of_guest))
    }
}

fn micros_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// An error of wasmtime with its causes, on one line.
pub fn causes(error: &wasmtime::Error) -> String {
    error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect::<Vec<_>>().join(": ")
}
