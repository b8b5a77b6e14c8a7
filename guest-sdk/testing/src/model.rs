//! Models for tests: a signature, assets, and a closure for a run. It never loads a model.

use std::collections::BTreeMap;

use hearth::model as host;
use hearth_guest::{DType, Dim, Error, Result, Signature, Tensor, TensorSignature, testing};

use crate::device::to_host;
use crate::to_guest;

type Run = Box<dyn Fn(&Inputs) -> Result<Vec<Tensor>>>;

/// A model for a test. Inputs are checked against the signature, as on the server.
pub struct TestModel {
    pub(crate) name: String,
    pub(crate) signature: Signature,
    pub(crate) assets: BTreeMap<String, Vec<u8>>,
    run: Run,
}

impl TestModel {
    /// A model without inputs, outputs and assets, whose runs fail with `unavailable`.
    pub fn new(name: &str) -> TestModel {
        let refusal = format!("the test model `{name}` does not run: give it a closure with TestModel::runs");
        TestModel {
            name: name.to_owned(),
            signature: Signature { inputs: Vec::new(), outputs: Vec::new() },
            assets: BTreeMap::new(),
            run: Box::new(move |_| Err(Error::unavailable(&refusal))),
        }
    }

    /// One more input. `shape` has its dimensions separated by spaces: a number, `?` for any length, or a name for the same
    /// length wherever it is used: `"batch 3 224 224"`.
    #[must_use]
    pub fn input(mut self, name: &str, dtype: DType, shape: &str) -> TestModel {
        self.signature.inputs.push(tensor_signature(name, dtype, shape));
        self
    }

    /// One more output.
    #[must_use]
    pub fn output(mut self, name: &str, dtype: DType, shape: &str) -> TestModel {
        self.signature.outputs.push(tensor_signature(name, dtype, shape));
        self
    }

    /// A file below the model's `assets/`.
    #[must_use]
    pub fn asset(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> TestModel {
        self.assets.insert(name.to_owned(), bytes.into());
        self
    }

    /// The closure for a run: it gives all outputs, in the signature's order. It runs on the host's side, where every operator
    /// works.
    #[must_use]
    pub fn runs(mut self, run: impl Fn(&Inputs) -> Result<Vec<Tensor>> + 'static) -> TestModel {
        self.run = Box::new(run);
        self
    }

    pub(crate) fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
        check(&self.signature.inputs, inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
        let outputs = (self.run)(&Inputs(inputs))?;
        let names = self.signature.outputs.iter().map(|output| output.name.clone());
        assert_eq!(
            names.len(),
            outputs.len(),
            "test model `{}`: its closure gave a wrong number of outputs",
            self.name
        );
        let outputs: Vec<(String, Tensor)> = names.zip(outputs).collect();
        let fits = check(&self.signature.outputs, outputs.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        if let Err(error) = fits {
            panic!("test model `{}`: an output of its closure does not match its signature: {error}", self.name);
        }
        Ok(outputs)
    }
}

/// The inputs of a run of a [`TestModel`].
pub struct Inputs(Vec<(String, Tensor)>);

impl Inputs {
    /// An input by its name; `not-found` if the signature has no such input.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, tensor)| tensor).ok_or_else(|| Error::not_found(format!("the test model has no input `{name}`")))
    }
}

fn tensor_signature(name: &str, dtype: DType, shape: &str) -> TensorSignature {
    let dim = |word: &str| match (word, word.parse()) {
        ("?", _) => Dim::Dynamic,
        (_, Ok(length)) => Dim::Fixed(length),
        (_, Err(_)) => Dim::Symbol(word.to_owned()),
    };
    TensorSignature {
        name: name.to_owned(),
        dtype,
        shape: shape.split_whitespace().map(dim).collect(),
        batch_axis: None,
    }
}

/// Whether tensors are exactly those of a signature, by the server's own rule and with its messages.
fn check<'a>(signature: &[TensorSignature], given: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(length) => host::Dim::Fixed(*length),
        Dim::Symbol(name) => host::Dim::Symbol(name.clone()),
        Dim::Dynamic => host::Dim::Dynamic,
    };
    let inputs = signature.iter().map(|tensor| host::TensorSignature {
        name: tensor.name.clone(),
        dtype: to_host(tensor.dtype),
        shape: tensor.shape.iter().map(dim).collect(),
        batch_axis: None,
    });
    let signature = host::Signature { inputs: inputs.collect(), outputs: Vec::new() };
    let given: Vec<_> =
        given.map(|(name, tensor)| (name, crate::host::device_tensor(testing::object(tensor)))).collect();
    signature.check(&given).map_err(to_guest)
}
