//! Models on the host. Only assets and tensors that are read are ever copied to the guest.

use crate::contract::models as host;
use crate::{Error, Result, Tensor};

#[doc(inline)]
pub use host::{Dim, Signature, TensorSignature};

/// A handle on a model, which stays loaded at least as long as the handle.
pub struct Model(host::Model);

impl Model {
    /// Opens a model by name: `name`, `name@3` (a version) or `name@stable` (an alias). Without either, the live version. Waits
    /// if the model must be loaded first.
    ///
    /// Errors: `not-found`; `permission-denied` where the function was not granted the model (name it in
    /// `#[handler(models = […])]`); `unavailable` where it cannot be loaded.
    pub fn open(name: &str) -> Result<Model> {
        host::Model::open(name).map(Model).map_err(Error)
    }

    /// The model's inputs and outputs.
    pub fn signature(&self) -> Signature {
        self.0.signature()
    }

    /// A file that was uploaded with the model under `assets/`, by its path below that folder.
    ///
    /// Errors: `not-found` (the message lists the existing names); `too-large`.
    pub fn asset(&self, name: &str) -> Result<Vec<u8>> {
        self.0.asset(name).map_err(Error)
    }

    /// Runs the model once, with every input of the signature exactly once, in any order.
    ///
    /// Errors: `invalid-argument` naming the input, the dimension and what was expected; `deadline-exceeded`, `cancelled`,
    /// `overloaded`, `unavailable`.
    pub fn infer<'a>(&self, inputs: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Outputs> {
        self.0.infer(&arguments(inputs)).map(Outputs).map_err(Error)
    }

    /// Starts a run and returns at once, so that a handler can overlap models:
    ///
    /// ```
    /// # use hearth_guest::{Model, Result, Tensor};
    /// # fn both(image: &Tensor) -> Result<(Tensor, Tensor)> {
    /// let (faces, text) = (Model::open("faces")?, Model::open("text")?);
    /// let (faces, text) = (faces.submit([("image", image)])?, text.submit([("image", image)])?);
    /// Ok((faces.wait()?.take_first()?, text.wait()?.take_first()?))
    /// # }
    /// ```
    ///
    /// Inputs and errors are those of [`Model::infer`]; errors of the run itself are returned by [`Pending::wait`].
    pub fn submit<'a>(&self, inputs: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Pending> {
        self.0.submit(&arguments(inputs)).map(Pending).map_err(Error)
    }
}

fn arguments<'a>(inputs: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Vec<host::Argument<'a>> {
    inputs.into_iter().map(|(name, tensor)| host::Argument { name, tensor: &tensor.0 }).collect()
}

/// A started run. Dropping it cancels the run.
#[must_use = "dropping it cancels the run"]
pub struct Pending(host::Pending);

impl Pending {
    /// Whether the run is over, so that [`Pending::wait`] returns at once.
    pub fn ready(&self) -> bool {
        self.0.ready()
    }

    /// Waits for the run and gives its outputs.
    ///
    /// Errors: those of [`Model::infer`]; `cancelled` if it was cancelled; `conflict` if the outputs were taken already.
    pub fn wait(&self) -> Result<Outputs> {
        self.0.wait().map(Outputs).map_err(Error)
    }

    /// Cancels the run. Does nothing if it is over.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// The outputs of a model run.
pub struct Outputs(pub(crate) Vec<host::NamedTensor>);

impl Outputs {
    /// Takes an output by its name; `not-found` if there is none (the message lists the existing names).
    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        match self.0.iter().position(|output| output.name == name) {
            Some(index) => Ok(Tensor(self.0.remove(index).tensor)),
            None => {
                let names: Vec<&str> = self.names().collect();
                Err(Error::not_found(format!("the model has no output `{name}` left; there is {}", names.join(", "))))
            }
        }
    }

    /// Takes the first output that was not taken yet; `not-found` where none is left.
    pub fn take_first(&mut self) -> Result<Tensor> {
        if self.0.is_empty() {
            return Err(Error::not_found("the model has no output left"));
        }
        Ok(Tensor(self.0.remove(0).tensor))
    }

    /// The names of the outputs that were not taken yet, in the signature's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|output| output.name.as_str())
    }
}
