//! A model's inputs and outputs, and the check whether given tensors fit; it never reads elements.

use crate::device::{DType, Tensor};
use crate::error::{Error, Result};
use std::fmt;

/// Inputs, or outputs, of one model: the largest language models have some 200.
const MOST_TENSORS: usize = 1_024;
/// Dimensions of one input or output.
const MOST_DIMS: usize = 32;
/// Bytes of an input's, output's or symbol's name.
const MOST_NAME_BYTES: usize = 512;
/// Names that one message lists.
const MOST_LISTED: usize = 16;

/// One dimension of an input or output. In JSON: a number, a string or null.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Dim {
    /// Always this long.
    Fixed(u64),
    /// Any length, but the same wherever the model uses this name.
    Symbol(String),
    /// Any length.
    Dynamic,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TensorSignature {
    /// The name by which it is passed.
    pub name: String,
    /// The type of its elements.
    #[serde(with = "word")]
    #[cfg_attr(feature = "server", schema(value_type = String))]
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Vec<Dim>,
    /// The axis along which several calls can be joined into one, where the model has one: it is the same for all inputs
    /// and outputs.
    pub batch_axis: Option<u32>,
}

impl Dim {
    /// A free dimension with the name that the model gives it. A name that only says "unknown", or that an exporter generated, is
    /// ignored: Paddle writes `?` for different lengths of one shape, and tf2onnx and paddle2onnx give every dimension a new
    /// number.
    pub(super) fn free(name: String) -> Dim {
        let numbered = |prefix| name.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let unknown = matches!(name.as_str(), "" | "?" | "-1" | "None" | "none" | "unk" | "unknown" | "dynamic");
        match unknown || numbered("unk__") || numbered("p2o.DynamicDimension.") {
            true => Dim::Dynamic,
            false => Dim::Symbol(name),
        }
    }
}

impl fmt::Display for TensorSignature {
    /// As in messages: `f32 [batch, 3, 224, ?]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.dtype.as_str())?;
        for (axis, dim) in self.shape.iter().enumerate() {
            let comma = if axis == 0 { "" } else { ", " };
            match dim {
                Dim::Fixed(length) => write!(f, "{comma}{length}")?,
                Dim::Symbol(symbol) => write!(f, "{comma}{symbol}")?,
                Dim::Dynamic => write!(f, "{comma}?")?,
            }
        }
        f.write_str("]")
    }
}

/// The inputs and outputs of a model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Signature {
    /// The inputs, in the model's order. All are required.
    pub inputs: Vec<TensorSignature>,
    /// The outputs, in the model's order.
    pub outputs: Vec<TensorSignature>,
}

impl Signature {
    /// A signature of these inputs and outputs; finds the batch axis. It is axis 0 if that axis of every input and output is
    /// dynamic or the same symbol; otherwise there is none.
    ///
    /// Errors: `invalid-argument` where two inputs share a name, or a name, a shape or the signature is unreasonably large.
    pub(super) fn new(mut inputs: Vec<TensorSignature>, mut outputs: Vec<TensorSignature>) -> Result<Signature> {
        for (what, tensors) in [("inputs", &inputs), ("outputs", &outputs)] {
            Signature::check_count(what, tensors.len())?;
            for (index, tensor) in tensors.iter().enumerate() {
                bounded(tensor)?;
                if tensors[..index].iter().any(|other| other.name == tensor.name) {
                    return Err(Error::invalid_argument(format!("the model has two {what} '{}'", tensor.name)));
                }
            }
        }
        let batch_axis = batch_axis(inputs.iter().chain(&outputs));
        for tensor in inputs.iter_mut().chain(&mut outputs) {
            tensor.batch_axis = batch_axis;
        }
        Ok(Signature { inputs, outputs })
    }

    /// Checks the number of `what`, inputs or outputs, before they are even read.
    pub(super) fn check_count(what: &str, count: usize) -> Result<()> {
        if count > MOST_TENSORS {
            return Err(Error::invalid_argument(format!(
                "the model has {count} {what}; at most {MOST_TENSORS} are taken"
            )));
        }
        Ok(())
    }

    /// Checks that `inputs` are exactly the model's, in any order: each once, with its dtype and dimensions, equal symbols
    /// being equally long.
    ///
    /// Errors: `invalid-argument` naming the input, the dimension, and what was expected.
    pub fn check(&self, inputs: &[(&str, &Tensor)]) -> Result<()> {
        let given: Vec<_> =
            inputs.iter().map(|(name, tensor)| (*name, tensor.dtype(), tensor.shape().dims())).collect();
        self.order(&given).map(drop)
    }

    /// Checks like [`Signature::check`] and gives, for each input of the signature, its index in `given`.
    pub(super) fn order(&self, given: &[(&str, DType, &[u64])]) -> Result<Vec<usize>> {
        for (index, (name, ..)) in given.iter().enumerate() {
            if !self.inputs.iter().any(|input| input.name == *name) {
                let message =
                    format!("the model has no input '{}'; it takes {}", shortened(name), self.listed_inputs());
                return Err(Error::invalid_argument(message));
            }
            if given[..index].iter().any(|(other, ..)| other == name) {
                let message =
                    format!("input '{name}' is given twice; the model takes each of {} once", self.listed_inputs());
                return Err(Error::invalid_argument(message));
            }
        }
        let mut symbols: Vec<(&str, u64, &str)> = Vec::new();
        let mut order = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let Some(index) = given.iter().position(|(name, ..)| *name == input.name) else {
                let message = format!("input '{}' is missing; the model takes {}", input.name, self.listed_inputs());
                return Err(Error::invalid_argument(message));
            };
            let (_, dtype, dims) = given[index];
            input.fits(dtype, dims, &mut symbols)?;
            order.push(index);
        }
        Ok(order)
    }

    fn listed_inputs(&self) -> String {
        if self.inputs.is_empty() {
            return "no inputs".to_owned();
        }
        let listed: Vec<_> =
            self.inputs.iter().take(MOST_LISTED).map(|input| format!("'{}' ({input})", input.name)).collect();
        let more = self.inputs.len() - listed.len();
        let listed = listed.join(", ");
        if more == 0 { listed } else { format!("{listed} and {more} more") }
    }
}

impl TensorSignature {
    fn fits<'a>(&'a self, dtype: DType, dims: &[u64], symbols: &mut Vec<(&'a str, u64, &'a str)>) -> Result<()> {
        let name = &self.name;
        if dtype != self.dtype {
            let message = format!("input '{name}' is {}, but the model takes {self}; cast it", dtype.as_str());
            return Err(Error::invalid_argument(message));
        }
        if dims.len() != self.shape.len() {
            let message = format!("input '{name}' has {} dimensions {dims:?}, but the model takes {self}", dims.len());
            return Err(Error::invalid_argument(message));
        }
        for (axis, (&length, dim)) in dims.iter().zip(&self.shape).enumerate() {
            match dim {
                Dim::Dynamic => {}
                Dim::Fixed(expected) if *expected == length => {}
                Dim::Fixed(expected) => {
                    let message = format!(
                        "input '{name}': dimension {axis} is {length}, but must be {expected}; the model takes {self}, \
                         the tensor is {dims:?}"
                    );
                    return Err(Error::invalid_argument(message));
                }
                Dim::Symbol(symbol) => match symbols.iter().find(|(known, ..)| known == symbol) {
                    None => symbols.push((symbol, length, name)),
                    Some((_, expected, _)) if *expected == length => {}
                    Some((_, expected, first)) => {
                        let message = format!(
                            "input '{name}': dimension {axis} ('{symbol}') is {length}, but must be {expected} as in \
                             input '{first}'; the model takes {self}, the tensor is {dims:?}"
                        );
                        return Err(Error::invalid_argument(message));
                    }
                },
            }
        }
        Ok(())
    }
}

fn bounded(tensor: &TensorSignature) -> Result<()> {
    let symbols = tensor.shape.iter().filter_map(|dim| match dim {
        Dim::Symbol(symbol) => Some(symbol),
        Dim::Fixed(_) | Dim::Dynamic => None,
    });
    for name in symbols.chain([&tensor.name]) {
        if name.is_empty() || name.len() > MOST_NAME_BYTES {
            let message = format!("a name in the model has {} bytes; 1 to {MOST_NAME_BYTES} are taken", name.len());
            return Err(Error::invalid_argument(message));
        }
    }
    if tensor.shape.len() > MOST_DIMS {
        let message = format!("'{}' has {} dimensions; at most {MOST_DIMS} are taken", tensor.name, tensor.shape.len());
        return Err(Error::invalid_argument(message));
    }
    Ok(())
}

fn batch_axis<'a>(tensors: impl Iterator<Item = &'a TensorSignature>) -> Option<u32> {
    let mut symbol: Option<&str> = None;
    for tensor in tensors {
        match tensor.shape.first()? {
            Dim::Dynamic => {}
            Dim::Fixed(_) => return None,
            Dim::Symbol(name) if symbol.is_none_or(|known| known == name) => symbol = Some(name),
            Dim::Symbol(_) => return None,
        }
    }
    Some(0)
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(64) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

mod word {
    use crate::device::DType;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(super) fn serialize<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(dtype.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
        let word = String::deserialize(deserializer)?;
        DType::from_word(&word).ok_or_else(|| D::Error::custom(format!("no dtype is called '{word}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(text: &str) -> Dim {
        match (text, text.parse()) {
            ("?", _) => Dim::Dynamic,
            (_, Ok(length)) => Dim::Fixed(length),
            (symbol, Err(_)) => Dim::Symbol(symbol.to_owned()),
        }
    }

    fn tensor(name: &str, dtype: DType, shape: &str) -> TensorSignature {
        let shape = shape.split_whitespace().map(dim).collect();
        TensorSignature { name: name.to_owned(), dtype, shape, batch_axis: None }
    }

    fn embedder() -> Signature {
        let inputs = vec![tensor("ids", DType::S64, "batch tokens"), tensor("mask", DType::S64, "batch tokens")];
        Signature::new(inputs, vec![tensor("hidden", DType::F32, "batch tokens 384")]).unwrap()
    }

    #[test]
    fn wrong_inputs_are_named_with_what_was_expected() {
        let embedder = embedder();
        let image = Signature::new(vec![tensor("image", DType::F32, "? 3 h w")], vec![]).unwrap();
        let long = "x".repeat(10_000);
        type Given<'a> = Vec<(&'a str, DType, &'a [u64])>;
        let table: Vec<(&Signature, Given<'_>, &[&str])> = vec![
            (&image, vec![("image", DType::F32, &[1, 3, 8, 9])], &[]),
            (&image, vec![("image", DType::F32, &[0, 3, 8, 8])], &[]),
            (&image, vec![("image", DType::U8, &[1, 3, 8, 9])], &["'image' is u8", "f32 [?, 3, h, w]"]),
            (&image, vec![("image", DType::F32, &[3, 8, 9])], &["3 dimensions [3, 8, 9]", "f32 [?, 3, h, w]"]),
            (&image, vec![("image", DType::F32, &[1, 4, 8, 9])], &["'image': dimension 1 is 4", "must be 3"]),
            (&image, vec![("pixels", DType::F32, &[1, 3, 8, 9])], &["no input 'pixels'", "'image' (f32 [?, 3, h, w])"]),
            (&image, vec![(&long, DType::F32, &[1])], &["no input 'xxx", "…'"]),
            (&image, vec![], &["'image' is missing"]),
            (&embedder, vec![("mask", DType::S64, &[2, 5]), ("ids", DType::S64, &[2, 5])], &[]),
            (
                &embedder,
                vec![("mask", DType::S64, &[2, 6]), ("ids", DType::S64, &[2, 5])],
                &["'mask': dimension 1 ('tokens') is 6", "must be 5 as in input 'ids'"],
            ),
            (
                &embedder,
                vec![("ids", DType::S64, &[2, 5]), ("ids", DType::S64, &[2, 5])],
                &["'ids' is given twice", "'mask'"],
            ),
        ];
        for (signature, given, parts) in table {
            match signature.order(&given) {
                Ok(_) => assert!(parts.is_empty(), "{given:?} must be refused"),
                Err(error) => {
                    assert!(!parts.is_empty(), "{given:?}: {error}");
                    assert!(error.message().len() < 1_000, "{error}");
                    for part in parts {
                        assert!(error.message().contains(part), "{part}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn inputs_come_out_in_the_models_order() {
        let given: [(&str, DType, &[u64]); 2] = [("mask", DType::S64, &[1, 2]), ("ids", DType::S64, &[1, 2])];
        assert_eq!(embedder().order(&given).unwrap(), [1, 0]);
    }

    #[test]
    fn batching_needs_one_free_first_axis_everywhere() {
        let table = [
            (vec!["n 3", "n"], vec!["n 5"], Some(0)),
            (vec!["? 3"], vec!["n 5"], Some(0)),
            (vec!["n 3"], vec!["m 5"], None),
            (vec!["1 3"], vec!["n 5"], None),
            (vec!["n 3", ""], vec!["n"], None),
        ];
        for (inputs, outputs, expected) in table {
            let named = |shapes: &[&str]| {
                let tensors = shapes.iter().enumerate().map(|(i, shape)| tensor(&i.to_string(), DType::F32, shape));
                tensors.collect()
            };
            let signature = Signature::new(named(&inputs), named(&outputs)).unwrap();
            for tensor in signature.inputs.iter().chain(&signature.outputs) {
                assert_eq!(tensor.batch_axis, expected, "{inputs:?} {outputs:?}");
            }
        }
    }

    #[test]
    fn unreasonable_signatures_are_refused() {
        let many = (0..=MOST_TENSORS).map(|i| tensor(&i.to_string(), DType::F32, "1")).collect::<Vec<_>>();
        let table = [
            many,
            vec![tensor(&"x".repeat(MOST_NAME_BYTES + 1), DType::F32, "1")],
            vec![tensor("", DType::F32, "1")],
            vec![tensor("x", DType::F32, &"1 ".repeat(MOST_DIMS + 1))],
            vec![tensor("x", DType::F32, &"s".repeat(MOST_NAME_BYTES + 1))],
            vec![tensor("x", DType::F32, "1"), tensor("x", DType::F32, "1")],
        ];
        for inputs in table {
            assert!(Signature::new(inputs.clone(), vec![]).is_err());
            assert!(Signature::new(vec![], inputs).is_err());
        }
    }

    #[test]
    fn names_that_mean_nothing_are_no_symbols() {
        for name in ["", "?", "unk__214", "p2o.DynamicDimension.3"] {
            assert_eq!(Dim::free(name.to_owned()), Dim::Dynamic, "{name}");
        }
        for name in ["batch", "unk__x", "s0", "unknown_length"] {
            assert_eq!(Dim::free(name.to_owned()), Dim::Symbol(name.to_owned()));
        }
    }

    #[test]
    fn json_writes_dims_as_number_string_or_null() {
        let signature = Signature::new(vec![tensor("x", DType::BF16, "n 3 ?")], vec![]).unwrap();
        let json = serde_json::to_string(&signature).unwrap();
        let expected = r#"{"inputs":[{"name":"x","dtype":"bf16","shape":["n",3,null],"batch_axis":0}],"outputs":[]}"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature);
        assert!(serde_json::from_str::<Signature>(&json.replace("bf16", "f99")).is_err());
    }
}
