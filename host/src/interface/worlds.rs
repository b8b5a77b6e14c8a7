//! Determines a component's world from its imports and exports, and makes the calls of each world; it never compiles or limits
//! anything.

use super::bindings::{self, hearth::inference::errors, hearth::inference::pipelines};
use super::{Ctx, Phase, Request, Response, causes, of_guest};
use crate::device::Tensor;
use crate::error::Error;
use std::collections::BTreeSet;
use wasmtime::component::{Component, Instance, InstancePre, Linker};
use wasmtime::{Engine, Store};

mod handler {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    // The types are those of `bindings`; only the export is generated here.
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

    /// The world of a component that imports and exports these names: its exports determine how it is called, and a handler that
    /// imports no tensors, operators or models is pure.
    ///
    /// Errors: `invalid-argument` where no world has such exports, saying what is missing.
    pub fn of_names<'a>(
        imports: impl IntoIterator<Item = &'a str>,
        exports: impl IntoIterator<Item = &'a str>,
    ) -> Result<World, Error> {
        let exports: BTreeSet<&str> = exports.into_iter().collect();
        let has = |name: &str| exports.contains(name);
        let kind = match (has("handle"), has("preprocess"), has("postprocess")) {
            (true, false, false) => {
                let devices = ["tensors", "operators", "models"].map(|name| format!("hearth:inference/{name}@"));
                let touches = |name: &str| devices.iter().any(|device| name.starts_with(device.as_str()));
                if imports.into_iter().any(touches) { WorldKind::Handler } else { WorldKind::Pure }
            }
            (false, true, true) => WorldKind::Pipeline,
            (true, ..) => {
                let message = "the component exports `handle` and halves of a pipeline; it can be one of them only";
                return Err(Error::invalid_argument(message));
            }
            (false, true, false) => return Err(half("preprocess", "postprocess")),
            (false, false, true) => return Err(half("postprocess", "preprocess")),
            (false, false, false) => {
                return Err(Error::invalid_argument(format!(
                    "the component exports neither `handle` (world hearth:inference/handler; the SDK's #[handler] does) nor \
                     `preprocess` and `postprocess` (world hearth:inference/pipeline; #[pipeline] does){}",
                    listed(&exports)
                )));
            }
        };
        Ok(World { kind, init: has("init") })
    }

    fn of(engine: &Engine, component: &Component) -> Result<World, Error> {
        let shape = component.component_type();
        World::of_names(shape.imports(engine).map(|(name, _)| name), shape.exports(engine).map(|(name, _)| name))
    }
}

fn half(there: &str, missing: &str) -> Error {
    Error::invalid_argument(format!("the component exports `{there}` and not `{missing}`; a pipeline has both"))
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

/// A component that was checked against its world: every import is linked, and every export that the world requires is there.
pub struct Program<T: 'static> {
    world: World,
    entry: Entry<T>,
    ctx: fn(&mut T) -> &mut Ctx,
}

enum Entry<T: 'static> {
    Handler(handler::HandlerPre<T>),
    Pipeline(bindings::PipelinePre<T>),
}

/// What a fresh instance has to do.
pub enum Turn {
    /// Answer a request, or prepare the model's run.
    Begin(Request),
    /// Answer with the model's outputs; pipelines only.
    Finish(Finished),
}

/// The result of a fresh instance.
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
    /// Checks a component against the world that its exports determine. The error says what is missing or unknown.
    pub fn new(linker: &Linker<T>, component: &Component, ctx: fn(&mut T) -> &mut Ctx) -> Result<Program<T>, Error> {
        let world = World::of(linker.engine(), component)?;
        let pre = linker.instantiate_pre(component).map_err(|error| {
            let message = format!("the component imports something that hearth does not have: {}", causes(&error));
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

    /// Its world.
    pub fn world(&self) -> World {
        self.world
    }

    /// Runs a fresh instance; `init_first` runs `init` in it first, for components without a snapshot. The outer error is a trap,
    /// the inner one the guest's own.
    pub async fn turn(
        &self,
        store: &mut Store<T>,
        init_first: bool,
        turn: Turn,
    ) -> wasmtime::Result<Result<Answer, Error>> {
        match (&self.entry, turn) {
            (Entry::Handler(pre), Turn::Begin(request)) => {
                let instance = if init_first {
                    match self.initialised(store, pre.instance_pre()).await? {
                        Ok(instance) => handler::Handler::new(&mut *store, &instance)?,
                        Err(error) => return Ok(Err(error)),
                    }
                } else {
                    pre.instantiate_async(&mut *store).await?
                };
                let answer = instance.call_handle(&mut *store, &request.into()).await?;
                Ok(answer.map(|response| Answer::Respond(response.into())).map_err(of_guest))
            }
            (Entry::Pipeline(pre), turn) => {
                let instance = if init_first {
                    match self.initialised(store, pre.instance_pre()).await? {
                        Ok(instance) => bindings::Pipeline::new(&mut *store, &instance)?,
                        Err(error) => return Ok(Err(error)),
                    }
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

    /// A fresh instance in which `init` has run, ready to serve.
    async fn initialised(
        &self,
        store: &mut Store<T>,
        pre: &InstancePre<T>,
    ) -> wasmtime::Result<Result<Instance, Error>> {
        let instance = pre.instantiate_async(&mut *store).await?;
        (self.ctx)(store.data_mut()).call.phase = Phase::Init;
        let done = init(store, &instance).await;
        (self.ctx)(store.data_mut()).call.phase = Phase::Serving;
        Ok(done?.map(|()| instance))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_told_by_imports_and_exports() {
        let (tensors, context) = ("hearth:inference/tensors@0.2.0", "hearth:inference/context@0.2.0");
        let check = |imports: &[&str], exports: &[&str], wanted: Result<&str, &str>| match (
            World::of_names(imports.iter().copied(), exports.iter().copied()),
            wanted,
        ) {
            (Ok(world), Ok(name)) => assert_eq!((world.as_str(), world.has_init()), (name, exports.contains(&"init"))),
            (Err(error), Err(part)) => assert!(error.message().contains(part), "{exports:?}: {}", error.message()),
            (told, wanted) => panic!("{imports:?} {exports:?}: {told:?}, not {wanted:?}"),
        };
        check(&[context], &["handle"], Ok("pure"));
        check(&[], &["handle", "init"], Ok("pure-with-init"));
        check(&[tensors], &["handle"], Ok("handler"));
        check(&["hearth:inference/operators@0.2.0"], &["handle"], Ok("handler"));
        check(&[context, "hearth:inference/models@0.2.0"], &["init", "handle"], Ok("handler-with-init"));
        check(&["hearth:inference/tensors-of-mine@0.2.0"], &["handle"], Ok("pure"));
        check(&[tensors], &["preprocess", "postprocess"], Ok("pipeline"));
        check(&[], &["preprocess", "postprocess", "init"], Ok("pipeline-with-init"));
        check(&[], &["preprocess"], Err("`preprocess` and not `postprocess`"));
        check(&[], &["postprocess", "init"], Err("`postprocess` and not `preprocess`"));
        check(&[], &["handle", "postprocess"], Err("one of them only"));
        check(&[], &["handle", "preprocess", "postprocess"], Err("one of them only"));
        check(&[], &[], Err("it exports nothing"));
        check(&[], &["wasi:http/incoming-handler@0.2.0"], Err("it exports wasi:http/incoming-handler@0.2.0"));
    }
}
