//! Reads a model's declarations directly from its ONNX file (onnx.proto3, fields by number): inputs, outputs and operators. It
//! never reads weights or checks whether the graph is valid, which the engines do.

use super::protobuf::{Message, Value, wrong};
use super::signature::{Dim, Signature, TensorSignature};
use crate::device::DType;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind};
use std::path::Path;

/// Depth of nested graphs. Exporters nest a few.
const MOST_DEPTH: u32 = 16;
/// Values and operators that are remembered. Large language models have some ten thousand nodes of a few dozen operators.
const MOST_ENTRIES: usize = 100_000;
/// `TensorProto.DataType` of booleans.
const BOOLEAN: u64 = 9;
/// Operators whose result is boolean.
const ASKING: [&str; 11] =
    ["And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"];
/// Operators that move the elements of their first input.
const MOVING: [&str; 15] = [
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// What a model file declares.
#[derive(Debug, Default)]
pub(super) struct Header {
    inputs: Vec<Declared>,
    outputs: Vec<Declared>,
    /// Names of constants. Old models list them among the inputs, too.
    initializers: BTreeSet<String>,
    /// Every operator, in subgraphs too, once: its name, after its domain and a dot if it is not a standard ONNX operator.
    pub(super) operators: BTreeSet<String>,
    /// Nodes, including those of subgraphs.
    pub(super) nodes: u64,
    /// The version of ONNX's operators that the model uses; 1 if it declares none.
    pub(super) opset: u64,
    /// Nodes that normalise along an axis, in the main graph and in subgraphs.
    pub(super) softmaxes: Vec<Softmax>,
    /// Whether a node resizes by cubic interpolation.
    pub(super) resizes_cubically: bool,
    /// Names of values that are known to be boolean.
    booleans: BTreeSet<String>,
    /// Nodes that make further values boolean, or reduce them, in the file's order.
    followed: Vec<Followed>,
}

/// A node whose first input may be boolean.
#[derive(Debug)]
enum Followed {
    /// Its outputs are then boolean, too.
    Moved { input: String, outputs: Vec<String> },
    /// The input is reduced to its largest element.
    Reduced { input: String },
}

/// The parts of an attribute that are kept.
#[derive(Debug, Default)]
struct Attribute {
    name: String,
    number: Option<i64>,
    text: Option<String>,
}

/// A node `Softmax`, `LogSoftmax` or `Hardmax`.
#[derive(Debug)]
pub(super) struct Softmax {
    /// The name of its output.
    pub(super) output: String,
    /// The attribute, where it is given.
    pub(super) axis: Option<i64>,
}

/// An input or output as it is declared.
#[derive(Debug, Default)]
struct Declared {
    name: String,
    /// `TensorProto.DataType`; none where it is no tensor.
    element: Option<u64>,
    dims: Option<Vec<Dim>>,
}

impl Header {
    /// Reads the header of the model file at a path.
    ///
    /// Errors: `invalid-argument` where it is not ONNX, or unreasonably large.
    pub(super) fn read(path: &Path) -> Result<Header> {
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::invalid_argument("there is no model.onnx"),
            _ => Error::storage("reading a model", error),
        })?;
        let length = file.metadata().map_err(|error| Error::storage("reading a model", error))?.len();
        let mut header = Header { opset: 1, ..Header::default() };
        header.model(&mut Message::whole(&mut BufReader::new(file), length)).map_err(|error| {
            let message = format!("model.onnx cannot be read as ONNX: {error}; export it again");
            Error::invalid_argument(message).with_source(error)
        })?;
        Ok(header)
    }

    /// The signature that it declares.
    ///
    /// Errors: `unsupported` where an input or output is no tensor, has no dimensions declared or elements that hearth has no
    /// tensors of; those of [`Signature::new`].
    pub(super) fn signature(&self) -> Result<Signature> {
        let is_constant = |declared: &&Declared| !self.initializers.contains(&declared.name);
        let inputs: Vec<&Declared> = self.inputs.iter().filter(is_constant).collect();
        let outputs: Vec<&Declared> = self.outputs.iter().collect();
        let described = |what: &str, all: Vec<&Declared>| -> Result<Vec<TensorSignature>> {
            Signature::check_count(&format!("{what}s"), all.len())?;
            all.into_iter().map(|declared| declared.described(what)).collect()
        };
        Signature::new(described("input", inputs)?, described("output", outputs)?)
    }

    fn model(&mut self, message: &mut Message<'_>) -> io::Result<()> {
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (7, Value::Message(length)) => self.graph(&mut message.within(length)?, 0)?,
                (8, Value::Message(length)) => self.opset(&mut message.within(length)?)?,
                (_, value) => message.skip(value)?,
            }
        }
        Ok(())
    }

    fn opset(&mut self, message: &mut Message<'_>) -> io::Result<()> {
        let (mut domain, mut version) = (String::new(), 1);
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Message(length)) => domain = message.text(length)?,
                (2, Value::Number(number)) => version = number,
                (_, value) => message.skip(value)?,
            }
        }
        if matches!(domain.as_str(), "" | "ai.onnx") {
            self.opset = version;
        }
        Ok(())
    }

    /// A graph; its inputs and outputs count only at the top.
    fn graph(&mut self, message: &mut Message<'_>, depth: u32) -> io::Result<()> {
        if depth > MOST_DEPTH {
            return Err(wrong("its graphs are nested too deeply"));
        }
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Message(length)) => self.node(&mut message.within(length)?, depth)?,
                (5, Value::Message(length)) if depth == 0 => {
                    self.bound()?;
                    let name = name_within(&mut message.within(length)?, 8)?;
                    self.initializers.insert(name);
                }
                (15, Value::Message(length)) if depth == 0 => {
                    let mut sparse = message.within(length)?;
                    while let Some((field, value)) = sparse.next()? {
                        match (field, value) {
                            (1, Value::Message(length)) => {
                                self.bound()?;
                                let name = name_within(&mut sparse.within(length)?, 8)?;
                                self.initializers.insert(name);
                            }
                            (_, value) => sparse.skip(value)?,
                        }
                    }
                }
                (11..=13, Value::Message(length)) => {
                    self.bound()?;
                    let declared = Declared::read(&mut message.within(length)?)?;
                    if declared.element == Some(BOOLEAN) {
                        self.booleans.insert(declared.name.clone());
                    }
                    match field {
                        11 if depth == 0 => self.inputs.push(declared),
                        12 if depth == 0 => self.outputs.push(declared),
                        _ => {}
                    }
                }
                (_, value) => message.skip(value)?,
            }
        }
        Ok(())
    }

    fn node(&mut self, message: &mut Message<'_>, depth: u32) -> io::Result<()> {
        let (mut operator, mut domain, mut input) = (String::new(), String::new(), None);
        let (mut outputs, mut attributes) = (Vec::new(), Vec::new());
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Message(length)) if input.is_none() => input = Some(message.text(length)?),
                (2, Value::Message(length)) if outputs.len() < MOST_ENTRIES => outputs.push(message.text(length)?),
                (4, Value::Message(length)) => operator = message.text(length)?,
                (7, Value::Message(length)) => domain = message.text(length)?,
                (5, Value::Message(length)) if attributes.len() < MOST_ENTRIES => {
                    attributes.push(self.attribute(&mut message.within(length)?, depth)?);
                }
                (_, value) => message.skip(value)?,
            }
        }
        self.bound()?;
        self.nodes += 1;
        let attribute = |name| attributes.iter().find(|attribute: &&Attribute| attribute.name == name);
        let number = |name| attribute(name).and_then(|attribute| attribute.number);
        let input = input.unwrap_or_default();
        match operator.as_str() {
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                let output = outputs.pop().unwrap_or_default();
                self.softmaxes.push(Softmax { output, axis: number("axis") });
            }
            "Resize" => {
                let cubic = attribute("mode").is_some_and(|mode| mode.text.as_deref() == Some("cubic"));
                self.resizes_cubically |= cubic;
            }
            "ReduceMax" => self.followed.push(Followed::Reduced { input }),
            "Cast" if number("to") == Some(BOOLEAN as i64) => self.booleans.extend(outputs),
            name if ASKING.contains(&name) => self.booleans.extend(outputs),
            name if MOVING.contains(&name) => self.followed.push(Followed::Moved { input, outputs }),
            _ => {}
        }
        self.operators.insert(match domain.as_str() {
            "" | "ai.onnx" => operator,
            _ => format!("{domain}.{operator}"),
        });
        Ok(())
    }

    fn attribute(&mut self, message: &mut Message<'_>, depth: u32) -> io::Result<Attribute> {
        let mut found = Attribute::default();
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Message(length)) => found.name = message.text(length)?,
                (3, Value::Number(bits)) => found.number = Some(bits.cast_signed()),
                (4, Value::Message(length)) if found.name == "mode" => found.text = Some(message.text(length)?),
                (6 | 11, Value::Message(length)) => self.graph(&mut message.within(length)?, depth + 1)?,
                (_, value) => message.skip(value)?,
            }
        }
        Ok(found)
    }

    /// Whether a node reduces values that are known to be boolean to the largest of them.
    pub(super) fn reduces_booleans(&self) -> bool {
        let mut moved: BTreeSet<&str> = BTreeSet::new();
        for node in &self.followed {
            let boolean = |name: &str| self.booleans.contains(name) || moved.contains(name);
            match node {
                Followed::Reduced { input } if boolean(input) => return true,
                Followed::Moved { input, outputs } if boolean(input) => {
                    moved.extend(outputs.iter().map(String::as_str));
                }
                Followed::Reduced { .. } | Followed::Moved { .. } => {}
            }
        }
        false
    }

    /// Checks the bound on kept entries before one is added.
    fn bound(&self) -> io::Result<()> {
        let kept = self.inputs.len() + self.outputs.len() + self.initializers.len();
        let kept = kept + self.operators.len() + self.softmaxes.len() + self.booleans.len() + self.followed.len();
        if kept >= MOST_ENTRIES {
            return Err(wrong("it declares too much"));
        }
        Ok(())
    }
}

impl Declared {
    fn read(message: &mut Message<'_>) -> io::Result<Declared> {
        let mut declared = Declared::default();
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Message(length)) => declared.name = message.text(length)?,
                (2, Value::Message(length)) => declared.kind(&mut message.within(length)?)?,
                (_, value) => message.skip(value)?,
            }
        }
        Ok(declared)
    }

    fn kind(&mut self, message: &mut Message<'_>) -> io::Result<()> {
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Message(length)) => {
                    self.element = Some(0);
                    self.tensor(&mut message.within(length)?)?;
                }
                (_, value) => message.skip(value)?,
            }
        }
        Ok(())
    }

    fn tensor(&mut self, message: &mut Message<'_>) -> io::Result<()> {
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Number(element)) => self.element = Some(element),
                (2, Value::Message(length)) => {
                    let mut shape = message.within(length)?;
                    let mut dims = Vec::new();
                    while let Some((field, value)) = shape.next()? {
                        match (field, value) {
                            (1, Value::Message(length)) if dims.len() < MOST_ENTRIES => {
                                dims.push(dim(&mut shape.within(length)?)?);
                            }
                            (_, value) => shape.skip(value)?,
                        }
                    }
                    self.dims = Some(dims);
                }
                (_, value) => message.skip(value)?,
            }
        }
        Ok(())
    }

    fn described(&self, what: &str) -> Result<TensorSignature> {
        let name: String = self.name.chars().take(64).collect();
        let Some(element) = self.element else {
            return Err(Error::unsupported(format!("{what} '{name}' is no tensor; hearth passes tensors only")));
        };
        let Some(dtype) = dtype_of(element) else {
            let message =
                format!("{what} '{name}' has an element type that hearth has no tensors of; export it as f32");
            return Err(Error::unsupported(message));
        };
        let Some(dims) = &self.dims else {
            let message =
                format!("{what} '{name}' does not declare how many dimensions it has; export it with a shape");
            return Err(Error::unsupported(message));
        };
        Ok(TensorSignature { name: self.name.clone(), dtype, shape: dims.clone(), batch_axis: None })
    }
}

fn dim(message: &mut Message<'_>) -> io::Result<Dim> {
    let mut found = Dim::Dynamic;
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            // Negative lengths, which some exporters write, mean "unknown".
            (1, Value::Number(length)) => {
                found = i64::try_from(length).map_or(Dim::Dynamic, |_| Dim::Fixed(length));
            }
            (2, Value::Message(length)) => found = Dim::free(message.text(length)?),
            (_, value) => message.skip(value)?,
        }
    }
    Ok(found)
}

fn name_within(message: &mut Message<'_>, wanted: u64) -> io::Result<String> {
    let mut name = String::new();
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (field, Value::Message(length)) if field == wanted => name = message.text(length)?,
            (_, value) => message.skip(value)?,
        }
    }
    Ok(name)
}

/// The dtype of a `TensorProto.DataType`.
pub(super) fn dtype_of(element: u64) -> Option<DType> {
    Some(match element {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::S8,
        4 => DType::U16,
        5 => DType::S16,
        6 => DType::S32,
        7 => DType::S64,
        8 => DType::Text,
        9 => DType::Boolean,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        _ => return None,
    })
}
