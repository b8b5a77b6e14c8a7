//! Finds the files next to an .onnx file that hold its weights; it never reads the model into memory or checks it.
//!
//! Fields are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), by number.

use crate::model::protobuf::{Message, Value, wrong};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

/// Depth of nested graphs and the messages between them.
const DEPTH: usize = 64;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// The names of the files with external data, relative to the model's folder, sorted.
pub(super) fn external_data(path: &Path) -> Result<BTreeSet<String>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    let (mut reader, mut found) = (BufReader::with_capacity(64 << 10, file), BTreeSet::new());
    let read = search(&mut Message::whole(&mut reader, bytes), Kind::Model, 0, &mut found);
    read.with_context(|| format!("{} is no ONNX model, or is cut off", path.display()))?;
    Ok(found)
}

/// The messages that lead to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Training,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Tensor,
}

impl Kind {
    /// The kind of message in a field of this message, if it can contain tensors.
    fn field(self, number: u64) -> Option<Kind> {
        match (self, number) {
            (Kind::Model, 7) | (Kind::Training, 1 | 2) | (Kind::Attribute, 6 | 11) => Some(Kind::Graph),
            (Kind::Model, 20) => Some(Kind::Training),
            (Kind::Model, 25) => Some(Kind::Function),
            (Kind::Graph, 1) | (Kind::Function, 7) => Some(Kind::Node),
            (Kind::Function, 11) | (Kind::Node, 5) => Some(Kind::Attribute),
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Some(Kind::Sparse),
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) | (Kind::Sparse, 1 | 2) => Some(Kind::Tensor),
            _ => None,
        }
    }
}

/// Adds the files that the tensors in a message are in.
fn search(message: &mut Message<'_>, kind: Kind, depth: usize, found: &mut BTreeSet<String>) -> io::Result<()> {
    if depth >= DEPTH {
        return Err(wrong(&format!("its graphs are nested more than {DEPTH} deep")));
    }
    let (mut location, mut external) = (None, false);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (14, Value::Number(value)) if kind == Kind::Tensor => external = value == EXTERNAL,
            (13, Value::Message(length)) if kind == Kind::Tensor => {
                let (key, text) = message.within(length)?.entry()?;
                location = if key == "location" { Some(text) } else { location };
            }
            (field, Value::Message(length)) => match kind.field(field) {
                Some(inner) => search(&mut message.within(length)?, inner, depth + 1, found)?,
                None => message.skip(Value::Message(length))?,
            },
            (_, value) => message.skip(value)?,
        }
    }
    if external {
        let none = || wrong("a tensor is in another file, but no file is named");
        found.insert(location.ok_or_else(none)?);
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field with bytes.
    pub(in super::super) fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = value.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend_from_slice(value);
        field
    }

    /// A tensor whose data is in a file.
    fn external(location: &str) -> Vec<u8> {
        let entry =
            |key: &str, value: &str| bytes(13, &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat());
        [entry("offset", "0"), entry("location", location), entry("length", "4"), vec![14 << 3, 1]].concat()
    }

    /// A model with initialisers.
    pub(in super::super) fn model(locations: &[&str]) -> Vec<u8> {
        let tensors: Vec<u8> = locations.iter().flat_map(|location| bytes(5, &external(location))).collect();
        [vec![8, 10], bytes(7, &tensors)].concat()
    }

    fn check(model: &[u8]) -> Result<Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), model).unwrap();
        Ok(external_data(file.path())?.into_iter().collect())
    }

    #[test]
    fn external_data_is_found_wherever_a_tensor_may_be() {
        assert_eq!(check(&model(&["b", "a", "b"])).unwrap(), ["a", "b"]);
        assert_eq!(check(&[8, 10]).unwrap(), [""; 0]);
        let inline = bytes(7, &bytes(5, &bytes(9, &vec![0; 300_000])));
        assert_eq!(check(&inline).unwrap(), [""; 0]);
        // An entry that names a file, in a tensor that is not declared external.
        let unused = bytes(13, &[bytes(1, b"location"), bytes(2, b"unused")].concat());
        assert_eq!(check(&bytes(7, &bytes(5, &unused))).unwrap(), [""; 0]);
        // A constant's tensor, in the branch of an If, after a large initialiser.
        let branch = bytes(1, &bytes(5, &bytes(5, &external("deep/w.bin"))));
        let branch =
            bytes(7, &[bytes(5, &bytes(9, &vec![0; 300_000])), bytes(1, &bytes(5, &bytes(6, &branch)))].concat());
        assert_eq!(check(&branch).unwrap(), ["deep/w.bin"]);
        let function = [&[0xca, 0x01, 0x02][..], &[7 << 3 | 2, 0]].concat();
        assert_eq!(check(&function).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_model_is_an_error_and_never_a_panic() {
        let whole = model(&["weights.bin"]);
        for length in 3..whole.len() {
            check(&whole[..length]).unwrap_err();
        }
        for wrong in [&[7; 100][..], b"PK\x03\x04", &[0xff; 20], b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"] {
            let error = format!("{:#}", check(wrong).unwrap_err());
            assert!(error.contains("no ONNX model"), "{error}");
        }
        let mut deep = Vec::new();
        for _ in 0..DEPTH {
            deep = bytes(1, &bytes(5, &bytes(6, &deep)));
        }
        assert!(format!("{:#}", check(&bytes(7, &deep)).unwrap_err()).contains("nested"));
    }
}
