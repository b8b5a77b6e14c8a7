//! `models` over the host of this thread.

use super::tensors::{Tensor, given};
use crate::bindings::Error;
pub use crate::bindings::hearth::inference::models::{Dim, Signature, TensorSignature};
use crate::testing::{Object, host};

/// A tensor passed to a model.
pub(crate) struct Argument<'a> {
    pub(crate) name: &'a str,
    pub(crate) tensor: &'a Tensor,
}

/// An output of a model run.
pub(crate) struct NamedTensor {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
}

/// A handle on a model.
pub(crate) struct Model(Object);

/// A started run.
pub(crate) struct Pending(Object);

fn objects<'a>(inputs: &[Argument<'a>]) -> Vec<(&'a str, &'a Object)> {
    inputs.iter().map(|input| (input.name, &input.tensor.0)).collect()
}

fn outputs(result: crate::Result<Vec<(String, Object)>>) -> Result<Vec<NamedTensor>, Error> {
    let named = |(name, object)| NamedTensor { name, tensor: Tensor(object) };
    Ok(given(result)?.into_iter().map(named).collect())
}

impl Model {
    pub(crate) fn open(name: &str) -> Result<Model, Error> {
        given(host().open(name)).map(Model)
    }

    pub(crate) fn signature(&self) -> Signature {
        host().signature(&self.0)
    }

    pub(crate) fn asset(&self, name: &str) -> Result<Vec<u8>, Error> {
        given(host().asset(&self.0, name))
    }

    pub(crate) fn infer(&self, inputs: &[Argument<'_>]) -> Result<Vec<NamedTensor>, Error> {
        outputs(host().infer(&self.0, &objects(inputs)))
    }

    pub(crate) fn submit(&self, inputs: &[Argument<'_>]) -> Result<Pending, Error> {
        given(host().submit(&self.0, &objects(inputs))).map(Pending)
    }
}

impl Pending {
    pub(crate) fn ready(&self) -> bool {
        host().ready(&self.0)
    }

    pub(crate) fn wait(&self) -> Result<Vec<NamedTensor>, Error> {
        outputs(host().wait(&self.0))
    }

    pub(crate) fn cancel(&self) {
        host().cancel(&self.0);
    }
}
