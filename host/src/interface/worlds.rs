//! The worlds that a component can be of, told by what it imports and exports, and the calls of each; it never compiles
//! or limits anything.

use super::bindings::{self, hearth::inference::errors, hearth::inference::pipelines};
use super::{Ctx, Phase, Request, Response, causes, of_guest};
use crate::device::Tensor;
use crate::error::Error;
use std::collections::BTreeSet;
use wasmtime::component::{Component, Instance, Linker};
use wasmtime::{Engine, Store};

mod handler {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    // The types are those of `bindings`; only the export is made anew.
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "handler",
        exports: { default: async },
        with: {
            "hearth:inference/errors": crate::interface::bindings::hearth::inference::errors,
            "hearth:inference/tensors": crate::interface::bindings::hearth::inference::tensors,
            "hearth:inference/operators": crate::interface::bindings::hearth::inference::operators,
            "hearth:inference/models": crate::interface::bindings::hearth::inference::models,
            "hearth:inference/context": crate::interface::bindings::hearth::inference::context,
            "hearth:inference/http-types": crate::interface::bindings::hearth::inference::http_types,
        },
        require_store_data_send: true,
    });
}

/// A world of `wit/worlds.wit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    kind: WorldKind,
    init: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorldKind {
    Handler,
    Pure,
    Pipeline,
}

impl World {
    /// Its name in `wit/worlds.wit`.
    pub const fn as_str(self) -> &'static str {
        match (self.kind, self.init) {
            (WorldKind::Handler, false) => "handler",
            (WorldKind::Handler, true) => "handler-with-init",
            (WorldKind::Pure, false) => "pure",
            (WorldKind::Pure, true) => "pure-with-init",
            (WorldKind::Pipeline, false) => "pipeline",
            (WorldKind::Pipeline, true) => "pipeline-with-init",
        }
    }

    /// Whether it exports `init`.
    pub const fn has_init(self) -> bool {
        self.init
    }

    fn of(engine: &Engine, component: &Component) -> Result<World, Error> {
        let shape = component.component_type();
        let exports: BTreeSet<&str> = shape.exports(engine).map(|(name, _)| name).collect();
        let halves = exports.contains("preprocess") || exports.contains("postprocess");
        let kind = match (exports.contains("handle"), halves) {
            (true, true) => {
                let message = "the component exports `handle` and halves of a pipeline; it can be one of them only";
                return Err(Error::invalid_argument(message));
            }
            (false, false) => {
                return Err(Error::invalid_argument(format!(
                    "the component exports neither `handle` (world hearth:inference/handler; the SDK's #[handler] does) nor \
                     `preprocess` and `postprocess` (world hearth:inference/pipeline; #[pipeline] does){}",
                    listed(&exports)
                )));
            }
            (false, true) => WorldKind::Pipeline,
            (true, false) => {
                let devices = ["tensors", "operators", "models"].map(|name| format!("hearth:inference/{name}@"));
                let touches = |name: &str| devices.iter().any(|device| name.starts_with(device.as_str()));
                let pure = !shape.imports(engine).any(|(name, _)| touches(name));
                if pure { WorldKind::Pure } else { WorldKind::Handler }
            }
        };
        Ok(World { kind, init: exports.contains("init") })
    }
}

fn listed(exports: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 8;
    match exports.len() {
        0 => "; it exports nothing".to_owned(),
        count => {
            let names: Vec<String> = exports.iter().take(SHOWN).map(|name| name.chars().take(64).collect()).collect();
            let more = if count > SHOWN { ", …" } else { "" };
            format!("; it exports {}{more}", names.join(", "))
        }
    }
}

/// A component that was checked against its world: every import is linked, every export the world wants is there.
pub struct Program<T: 'static> {
    world: World,
    entry: Entry<T>,
    ctx: fn(&mut T) -> &mut Ctx,
}

enum Entry<T: 'static> {
    Handler(handler::HandlerPre<T>),
    Pipeline(bindings::PipelinePre<T>),
}

/// What a fresh instance is to do.
pub enum Turn {
    /// Answer a request, or prepare the model's run.
    Begin(Request),
    /// Answer with what the model gave; pipelines only.
    Finish(Finished),
}

/// What a fresh instance gave.
pub enum Answer {
    /// The response.
    Respond(Response),
    /// The model to run before the second half; pipelines only.
    Run(ModelCall),
}

/// A model's run between the halves of a pipeline, as `pipelines.call`.
pub struct ModelCall {
    /// The model's name, perhaps with a version or an alias.
    pub model: String,
    /// Its inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// Bytes for the second half.
    pub state: Vec<u8>,
    /// Tensors for the second half.
    pub keep: Vec<Tensor>,
}

/// What the second half of a pipeline starts from.
pub struct Finished {
    /// The model's outputs, in the signature's order.
    pub outputs: Vec<(String, Tensor)>,
    /// Bytes of the first half.
    pub state: Vec<u8>,
    /// Tensors of the first half.
    pub keep: Vec<Tensor>,
}

impl<T: Send + 'static> Program<T> {
    /// Checks a component against the world that its exports tell. The error says what is missing or unknown.
    pub fn new(linker: &Linker<T>, component: &Component, ctx: fn(&mut T) -> &mut Ctx) -> Result<Program<T>, Error> {
        let world = World::of(linker.engine(), component)?;
        let pre = linker.instantiate_pre(component).map_err(|error| {
            let message = format!("the component asks for something hearth does not have: {}", causes(&error));
            Error::invalid_argument(message)
        })?;
        let entry = match world.kind {
            WorldKind::Handler | WorldKind::Pure => handler::HandlerPre::new(pre).map(Entry::Handler),
            WorldKind::Pipeline => bindings::PipelinePre::new(pre).map(Entry::Pipeline),
        };
        let entry = entry.map_err(|error| {
            let (name, causes) = (world.as_str(), causes(&error));
            Error::invalid_argument(format!(
                "the component does not implement world hearth:inference/{name} as wit/worlds.wit has it: {causes}"
            ))
        })?;
        Ok(Program { world, entry, ctx })
    }

    /// The world it is of.
    pub fn world(&self) -> World {
        self.world
    }

    /// Lets a fresh instance take its turn; `init_first` runs `init` in it before, for components without a snapshot. The
    /// outer error is a trap, the inner one the guest's own.
    pub async fn turn(
        &self,
        store: &mut Store<T>,
        init_first: bool,
        turn: Turn,
    ) -> wasmtime::Result<Result<Answer, Error>> {
        match (&self.entry, turn) {
            (Entry::Handler(pre), Turn::Begin(request)) => {
                let instance = if init_first {
                    let instance = pre.instance_pre().instantiate_async(&mut *store).await?;
                    if let Err(error) = self.init_instance(store, &instance).await? {
                        return Ok(Err(error));
                    }
                    handler::Handler::new(&mut *store, &instance)?
                } else {
                    pre.instantiate_async(&mut *store).await?
                };
                let answer = instance.call_handle(&mut *store, &request.into()).await?;
                Ok(answer.map(|response| Answer::Respond(response.into())).map_err(of_guest))
            }
            (Entry::Pipeline(pre), turn) => {
                let instance = if init_first {
                    let instance = pre.instance_pre().instantiate_async(&mut *store).await?;
                    if let Err(error) = self.init_instance(store, &instance).await? {
                        return Ok(Err(error));
                    }
                    bindings::Pipeline::new(&mut *store, &instance)?
                } else {
                    pre.instantiate_async(&mut *store).await?
                };
                self.half(store, &instance, turn).await
            }
            (Entry::Handler(_), Turn::Finish(_)) => Err(wasmtime::Error::msg("a handler has no second half")),
        }
    }

    async fn half(
        &self,
        store: &mut Store<T>,
        instance: &bindings::Pipeline,
        turn: Turn,
    ) -> wasmtime::Result<Result<Answer, Error>> {
        match turn {
            Turn::Begin(request) => {
                let outcome = match instance.call_preprocess(&mut *store, &request.into()).await? {
                    Ok(outcome) => outcome,
                    Err(error) => return Ok(Err(of_guest(error))),
                };
                match outcome {
                    pipelines::Outcome::Respond(response) => Ok(Ok(Answer::Respond(response.into()))),
                    pipelines::Outcome::Run(call) => Ok((self.ctx)(store.data_mut()).take_call(call)?.map(Answer::Run)),
                }
            }
            Turn::Finish(Finished { outputs, state, keep }) => {
                let ctx = (self.ctx)(store.data_mut());
                let outputs = match ctx.give_outputs(outputs) {
                    Ok(outputs) => outputs,
                    Err(error) => return Ok(Err(error)),
                };
                let kept = keep.into_iter().map(|tensor| ctx.give(tensor)).collect::<Result<Vec<_>, _>>();
                let keep = match kept {
                    Ok(keep) => keep,
                    Err(error) => return Ok(Err(error)),
                };
                let answer = instance.call_postprocess(&mut *store, &outputs, &state, &keep).await?;
                Ok(answer.map(|response| Answer::Respond(response.into())).map_err(of_guest))
            }
        }
    }

    /// Runs `init` in an instance that then serves.
    async fn init_instance(&self, store: &mut Store<T>, instance: &Instance) -> wasmtime::Result<Result<(), Error>> {
        (self.ctx)(store.data_mut()).call.phase = Phase::Init;
        let done = init(store, instance).await;
        (self.ctx)(store.data_mut()).call.phase = Phase::Serving;
        done
    }
}

/// Runs `init` in an instance whose component exports it. The outer error is a trap, the inner one the guest's own.
pub async fn init<T: Send>(store: &mut Store<T>, instance: &Instance) -> wasmtime::Result<Result<(), Error>> {
    let init = match instance.get_typed_func::<(), (Result<(), errors::Error>,)>(&mut *store, "init") {
        Ok(init) => init,
        Err(error) => {
            let message = format!("`init` is not `func() -> result<_, error>`: {}", causes(&error));
            return Ok(Err(Error::invalid_argument(message)));
        }
    };
    let (answer,) = init.call_async(&mut *store, ()).await?;
    Ok(answer.map_err(|error| of_guest(error).context("init")))
}
