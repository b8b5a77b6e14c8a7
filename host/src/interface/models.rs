//! `models`: opening models by name and running them; never loading or scheduling, which is the model layer's.

use super::bindings::hearth::inference::models;
use super::tensors::dtype_to_guest;
use super::{Ctx, Fault, Phase};
use crate::device::{Stop, Tensor};
use crate::error::Error;
use crate::gate::{Budget, Over, Share};
use crate::model::{Description, Dim, Lease, Run, Signature, TensorSignature};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::task::JoinHandle;
use wasmtime::component::Resource;

impl models::Host for Ctx {}

impl models::HostModel for Ctx {
    async fn open(&mut self, name: String) -> Result<Resource<Opened>, Fault> {
        self.call.grant.check_model(&name)?;
        let started = Instant::now();
        let opened = match self.call.phase {
            Phase::Serving => self.services.models.open(&self.call.tenant, &name).await.map(Opened::Leased),
            Phase::Init => self.services.models.describe(&self.call.tenant, &name).await.map(Opened::Described),
        };
        self.usage.queue_us += super::micros_since(started);
        Ok(self.table.push(opened?)?)
    }

    fn signature(&mut self, model: Resource<Opened>) -> wasmtime::Result<models::Signature> {
        let Signature { inputs, outputs } = self.table.get(&model)?.description().signature();
        Ok(models::Signature {
            inputs: inputs.iter().map(signature_to_guest).collect(),
            outputs: outputs.iter().map(signature_to_guest).collect(),
        })
    }

    async fn asset(&mut self, model: Resource<Opened>, name: String) -> Result<Vec<u8>, Fault> {
        let description = self.table.get(&model)?.description().clone();
        let most_bytes = self.call.limits.asset_bytes;
        let read = tokio::task::spawn_blocking(move || description.asset(&name, most_bytes)).await;
        Ok(read.map_err(|error| Error::host("reading an asset", error))??)
    }

    async fn infer(
        &mut self,
        model: Resource<Opened>,
        inputs: Vec<models::Argument>,
    ) -> Result<Vec<models::NamedTensor>, Fault> {
        let (lease, arguments) = self.begin_run(&model, inputs)?;
        let run = lease.infer(&self.account, arguments, &self.call.stop).await?;
        self.finish_run(run)
    }

    fn submit(&mut self, model: Resource<Opened>, inputs: Vec<models::Argument>) -> Result<Resource<Pending>, Fault> {
        let (lease, arguments) = self.begin_run(&model, inputs)?;
        lease.check(&arguments)?;
        let most = self.call.limits.submitted_runs;
        let submitted = self.submitted.get_or_insert_with(|| Submitted::new(most));
        let (unfinished, times) = (submitted.begin()?, submitted.times.clone());
        let (account, stop) = (self.account.clone(), self.call.stop.child());
        let run = {
            let stop = stop.clone();
            tokio::spawn(async move {
                let run = lease.infer(&account, arguments, &stop).await;
                if let Ok(run) = &run {
                    times.model_us.fetch_add(run.model_us, Ordering::Relaxed);
                    times.queue_us.fetch_add(run.queue_us, Ordering::Relaxed);
                }
                drop(unfinished);
                run
            })
        };
        Ok(self.table.push(Pending { run: Some(run), stop })?)
    }

    fn drop(&mut self, model: Resource<Opened>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        Ok(())
    }
}

impl models::HostPending for Ctx {
    fn ready(&mut self, pending: Resource<Pending>) -> wasmtime::Result<bool> {
        Ok(self.table.get(&pending)?.run.as_ref().is_none_or(JoinHandle::is_finished))
    }

    async fn wait(&mut self, pending: Resource<Pending>) -> Result<Vec<models::NamedTensor>, Fault> {
        let found = self.table.get_mut(&pending)?;
        let stop = found.stop.clone();
        let Some(run) = found.run.take() else {
            return Err(Error::conflict("the outputs of this run were taken already").into());
        };
        let run = run.await.map_err(|error| Error::host("running a model", error))?;
        // A run that ended while it was withdrawn is withdrawn all the same.
        stop.check()?;
        Ok(self.give_outputs(run?.outputs)?)
    }

    fn cancel(&mut self, pending: Resource<Pending>) -> wasmtime::Result<()> {
        self.table.get(&pending)?.stop.cancel();
        Ok(())
    }

    fn drop(&mut self, pending: Resource<Pending>) -> wasmtime::Result<()> {
        self.table.delete(pending)?;
        Ok(())
    }
}

impl Ctx {
    /// The model and inputs of a run, which counts from here on.
    fn begin_run(
        &mut self,
        model: &Resource<Opened>,
        inputs: Vec<models::Argument>,
    ) -> Result<(Lease, Vec<(String, Tensor)>), Fault> {
        self.refused_in_init("model runs")?;
        let most = self.call.limits.model_runs;
        if self.usage.model_runs >= most {
            let message = format!("this invocation ran models {most} times; model_runs allows no more");
            return Err(Error::limit_exceeded(message).into());
        }
        self.usage.model_runs += 1;
        let Opened::Leased(lease) = self.table.get(model)? else {
            return Err(Fault::Trap(wasmtime::Error::msg("a model that was opened in init came into a request")));
        };
        let lease = lease.clone();
        let mut arguments: Vec<(String, Tensor)> = Vec::with_capacity(inputs.len());
        for models::Argument { name, tensor } in inputs {
            arguments.push((name, self.table.get(&tensor)?.clone()));
        }
        Ok((lease, arguments))
    }

    fn finish_run(&mut self, run: Run) -> Result<Vec<models::NamedTensor>, Fault> {
        self.usage.model_us += run.model_us;
        self.usage.queue_us += run.queue_us;
        Ok(self.give_outputs(run.outputs)?)
    }

    /// Gives the guest handles on a model's outputs.
    pub(super) fn give_outputs(&mut self, outputs: Vec<(String, Tensor)>) -> Result<Vec<models::NamedTensor>, Error> {
        let give = |(name, tensor)| Ok(models::NamedTensor { name, tensor: self.give(tensor)? });
        outputs.into_iter().map(give).collect()
    }
}

/// A model that a guest opened.
#[expect(unreachable_pub, reason = "the generated bindings name it again")]
pub enum Opened {
    /// Loaded, and kept so.
    Leased(Lease),
    /// Known by its signature and assets only: in `init`.
    Described(Description),
}

impl Opened {
    fn description(&self) -> &Description {
        match self {
            Opened::Leased(lease) => lease.description(),
            Opened::Described(description) => description,
        }
    }
}

/// The submitted runs of an invocation.
pub(super) struct Submitted {
    /// Those that are not over yet.
    unfinished: Budget,
    times: Arc<Times>,
}

/// Microseconds that engines worked, and that runs waited.
#[derive(Default)]
struct Times {
    model_us: AtomicU64,
    queue_us: AtomicU64,
}

impl Submitted {
    fn new(most: u64) -> Submitted {
        Submitted { unfinished: Budget::new(most), times: Arc::default() }
    }

    /// One more run, which is over when this is dropped.
    fn begin(&self) -> Result<Share, Error> {
        self.unfinished.take(1).map_err(|Over { most, .. }| {
            let message = format!("{most} submitted runs are not over yet (submitted_runs); wait for one first");
            Error::limit_exceeded(message)
        })
    }

    /// Microseconds that engines worked, and that runs waited.
    pub(super) fn used_us(&self) -> (u64, u64) {
        (self.times.model_us.load(Ordering::Relaxed), self.times.queue_us.load(Ordering::Relaxed))
    }
}

/// A run that a guest submitted. Dropping it withdraws the run.
#[expect(unreachable_pub, reason = "the generated bindings name it again")]
pub struct Pending {
    /// Gone once its outputs were taken.
    run: Option<JoinHandle<crate::error::Result<Run>>>,
    stop: Stop,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn signature_to_guest(signature: &TensorSignature) -> models::TensorSignature {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(length) => models::Dim::Fixed(*length),
        Dim::Symbol(name) => models::Dim::Symbol(name.clone()),
        Dim::Dynamic => models::Dim::Dynamic,
    };
    models::TensorSignature {
        name: signature.name.clone(),
        dtype: dtype_to_guest(signature.dtype),
        shape: signature.shape.iter().map(dim).collect(),
        batch_axis: signature.batch_axis,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DType;
    use crate::interface::tensors::dtype_of_guest;

    #[test]
    fn dtypes_go_to_the_guest_and_back() {
        for dtype in DType::ALL {
            assert_eq!(dtype_of_guest(dtype_to_guest(dtype)), dtype);
        }
    }
}
