//! `models`: opening models by name and running them; never loading or scheduling, which is the model layer's.

use super::bindings::hearth::inference::models;
use super::tensors::dtype_to_guest;
use super::{Ctx, Fault};
use crate::device::Tensor;
use crate::error::Error;
use crate::model::{Dim, Lease, Signature, TensorSignature};
use std::time::Instant;
use wasmtime::component::Resource;

impl models::Host for Ctx {}

impl models::HostModel for Ctx {
    async fn open(&mut self, name: String) -> Result<Resource<Lease>, Fault> {
        let started = Instant::now();
        let lease = self.services.models.open(&self.call.tenant, &name).await;
        self.usage.queue_us += super::micros_since(started);
        Ok(self.table.push(lease?)?)
    }

    fn signature(&mut self, model: Resource<Lease>) -> wasmtime::Result<models::Signature> {
        let lease = self.table.get(&model)?;
        let Signature { inputs, outputs } = lease.signature();
        Ok(models::Signature {
            inputs: inputs.iter().map(signature_to_guest).collect(),
            outputs: outputs.iter().map(signature_to_guest).collect(),
        })
    }

    async fn asset(&mut self, model: Resource<Lease>, name: String) -> Result<Vec<u8>, Fault> {
        let lease = self.table.get(&model)?.clone();
        let read = tokio::task::spawn_blocking(move || lease.asset(&name)).await;
        Ok(read.map_err(|error| Error::host("reading an asset", error))??)
    }

    async fn infer(
        &mut self,
        model: Resource<Lease>,
        inputs: Vec<models::Argument>,
    ) -> Result<Vec<models::NamedTensor>, Fault> {
        if self.usage.model_runs >= self.services.limits.model_runs {
            let most = self.services.limits.model_runs;
            return Err(Error::limit_exceeded(format!(
                "this invocation ran models {most} times; model_runs allows no more"
            ))
            .into());
        }
        self.usage.model_runs += 1;
        let lease = self.table.get(&model)?.clone();
        let mut arguments: Vec<(String, Tensor)> = Vec::with_capacity(inputs.len());
        for models::Argument { name, tensor } in inputs {
            arguments.push((name, self.table.get(&tensor)?.clone()));
        }
        let run = lease.infer(&self.account, arguments, &self.call.stop).await?;
        self.usage.model_us += run.model_us;
        self.usage.queue_us += run.queue_us;
        let mut outputs = Vec::with_capacity(run.outputs.len());
        for (name, tensor) in run.outputs {
            outputs.push(models::NamedTensor { name, tensor: self.table.push(tensor)? });
        }
        Ok(outputs)
    }

    fn drop(&mut self, model: Resource<Lease>) -> wasmtime::Result<()> {
        self.table.delete(model)?;
        Ok(())
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
