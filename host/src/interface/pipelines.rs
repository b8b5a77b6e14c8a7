//! `pipelines`: the model call that the first half of a pipeline asks for; it never runs the model.

use super::bindings::hearth::inference::pipelines;
use super::{Ctx, ModelCall};
use crate::error::{Error, Kind, Result};

impl pipelines::Host for Ctx {}

impl Ctx {
    /// The model call that a guest asks for; its tensors are taken from the guest. An invalid handle is a trap.
    pub(super) fn take_call(&mut self, call: pipelines::Call) -> wasmtime::Result<Result<ModelCall>> {
        let pipelines::Call { model, inputs, state, keep } = call;
        let most = self.call.limits.pipeline_state_bytes;
        if state.len() as u64 > most {
            let message = format!("the state has {} bytes; pipeline_state_bytes allows {most}", state.len());
            return Ok(Err(Error::new(Kind::TooLarge, message)));
        }
        let mut taken = Vec::with_capacity(inputs.len());
        for input in inputs {
            taken.push((input.name, self.table.delete(input.tensor)?));
        }
        let keep = keep.into_iter().map(|tensor| self.table.delete(tensor)).collect::<Result<_, _>>()?;
        Ok(Ok(ModelCall { model, inputs: taken, state, keep }))
    }
}
