//! The values that the two halves of a pipeline exchange with the host.

use crate::{Response, Tensor};

/// What happens after the first half of a pipeline. Made from a [`Call`] or a [`Response`] with `into`.
pub enum Outcome {
    /// The request is answered, and no model runs.
    Respond(Response),
    /// The host runs a model, then calls the second half.
    Run(Call),
}

impl Outcome {
    /// The request is answered, and no model runs.
    pub fn respond(response: Response) -> Outcome {
        Outcome::Respond(response)
    }
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Outcome {
        Outcome::Respond(response)
    }
}

impl From<Call> for Outcome {
    fn from(call: Call) -> Outcome {
        Outcome::Run(call)
    }
}

/// One run of a model, between the two halves of a pipeline.
///
/// ```
/// # fn preprocess(bytes: hearth_guest::Tensor, mask: hearth_guest::Tensor) -> hearth_guest::Call {
/// use hearth_guest::Call;
///
/// Call::new("minilm").input("input_ids", bytes).keep(mask).state(b"one")
/// # }
/// ```
#[must_use = "a call runs when the first half gives it to the host"]
pub struct Call {
    pub(crate) model: String,
    pub(crate) inputs: Vec<(String, Tensor)>,
    pub(crate) state: Vec<u8>,
    pub(crate) keep: Vec<Tensor>,
}

impl Call {
    /// A run of a model: `name`, `name@3` (a version) or `name@stable` (an alias), as [`Model::open`](crate::Model::open)
    /// takes it.
    pub fn new(model: impl Into<String>) -> Call {
        Call { model: model.into(), inputs: Vec::new(), state: Vec::new(), keep: Vec::new() }
    }

    /// The same with one more input. Every input of the model's signature is given exactly once, in any order.
    pub fn input(mut self, name: impl Into<String>, tensor: Tensor) -> Call {
        self.inputs.push((name.into(), tensor));
        self
    }

    /// The same with these bytes for the second half: whatever it needs to know about the request. The host's limit
    /// `pipeline_state_bytes` bounds them.
    pub fn state(mut self, state: impl Into<Vec<u8>>) -> Call {
        self.state = state.into();
        self
    }

    /// The same with a value for the second half, as JSON, instead of [`Call::state`].
    ///
    /// Errors: `internal` where it cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn state_json<T: serde::Serialize + ?Sized>(self, value: &T) -> crate::Result<Call> {
        Ok(self.state(serde_json::to_vec(value)?))
    }

    /// The same with one more tensor for the second half, which gets them in the order given.
    pub fn keep(mut self, tensor: Tensor) -> Call {
        self.keep.push(tensor);
        self
    }
}

/// The data from the first half of a pipeline, besides the model's outputs.
#[derive(Default)]
pub struct Kept {
    /// The bytes of [`Call::state`].
    pub state: Vec<u8>,
    /// The tensors of [`Call::keep`], in the same order.
    pub tensors: Vec<Tensor>,
}

impl Kept {
    /// The value of [`Call::state_json`].
    ///
    /// Errors: `internal` where the state is not the JSON of such a value.
    #[cfg(feature = "json")]
    pub fn state_json<'a, T: serde::Deserialize<'a>>(&'a self) -> crate::Result<T> {
        serde_json::from_slice(&self.state).map_err(|error| {
            crate::Error::internal(error).context("the state is not what this half of the pipeline expects")
        })
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::*;

    #[test]
    fn state_comes_over_as_json() {
        let call = Call::new("m").state_json(&("a", 3)).unwrap();
        let kept = Kept { state: call.state, tensors: Vec::new() };
        assert_eq!(kept.state_json::<(&str, u8)>().unwrap(), ("a", 3));
        assert_eq!(kept.state_json::<u8>().unwrap_err().kind(), "internal");
    }
}
