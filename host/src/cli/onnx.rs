//! Finds the files beside an .onnx file that hold its weights; it never takes the model into memory, nor judges it.
//!
//! Fields are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), by number. What is of no interest
//! is skipped by its length, so that a model of 2 GB costs a few reads.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

/// Graphs within graphs, and the messages between them.
const DEPTH: usize = 64;
/// Bytes of a key or value that names external data.
const TEXT_BYTES: u64 = 4 << 10;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// The names of the files with external data, relative to the model's folder, sorted.
pub(super) fn external_data(path: &Path) -> Result<BTreeSet<String>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    let mut reader = Wire { source: BufReader::with_capacity(64 << 10, file), at: 0, found: BTreeSet::new() };
    let read = reader.message(Message::Model, bytes, 0);
    read.with_context(|| format!("{} is no ONNX model, or is cut off", path.display()))?;
    Ok(reader.found)
}

/// The messages that lead to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Training,
    Graph,
    Function,
    Node,
    Attribute,
    Sparse,
    Tensor,
}

impl Message {
    /// What a field of this message holds, where it leads on.
    fn field(self, number: u64) -> Option<Message> {
        match (self, number) {
            (Message::Model, 7) | (Message::Training, 1 | 2) | (Message::Attribute, 6 | 11) => Some(Message::Graph),
            (Message::Model, 20) => Some(Message::Training),
            (Message::Model, 25) => Some(Message::Function),
            (Message::Graph, 1) | (Message::Function, 7) => Some(Message::Node),
            (Message::Function, 11) | (Message::Node, 5) => Some(Message::Attribute),
            (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Some(Message::Sparse),
            (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::Sparse, 1 | 2) => Some(Message::Tensor),
            _ => None,
        }
    }
}

/// A reader of protocol buffers.
struct Wire<R> {
    source: BufReader<R>,
    at: u64,
    found: BTreeSet<String>,
}

/// What stands before a field's value: its number, and how long the value is or, for a number, what it is.
enum Field {
    Number(u64, u64),
    Bytes(u64, u64),
}

impl<R: Read + Seek> Wire<R> {
    /// Reads a message that ends at `end`.
    fn message(&mut self, kind: Message, end: u64, depth: usize) -> Result<()> {
        ensure!(depth < DEPTH, "its graphs are nested more than {DEPTH} deep");
        let (mut location, mut external) = (None, false);
        while self.at < end {
            match self.field(end)? {
                Field::Number(14, value) if kind == Message::Tensor => external = value == EXTERNAL,
                Field::Number(..) => {}
                Field::Bytes(13, length) if kind == Message::Tensor => {
                    let until = self.at + length;
                    location = self.entry(until)?.or(location);
                }
                Field::Bytes(number, length) => match kind.field(number) {
                    Some(inner) => {
                        let until = self.at + length;
                        self.message(inner, until, depth + 1)?;
                    }
                    None => self.skip(length)?,
                },
            }
        }
        if external {
            let location = location.context("a tensor is said to be in another file, and no file is named")?;
            self.found.insert(location);
        }
        Ok(())
    }

    /// The value of an entry whose key is `location`.
    fn entry(&mut self, end: u64) -> Result<Option<String>> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            match self.field(end)? {
                Field::Bytes(1, length) => key = self.text(length)?,
                Field::Bytes(2, length) => value = self.text(length)?,
                Field::Bytes(_, length) => self.skip(length)?,
                Field::Number(..) => {}
            }
        }
        Ok((key == "location").then_some(value))
    }

    fn field(&mut self, end: u64) -> Result<Field> {
        let tag = self.varint()?;
        let number = tag >> 3;
        ensure!(number > 0, "a field has no number");
        let field = match tag & 7 {
            0 => Field::Number(number, self.varint()?),
            1 => {
                self.skip(8)?;
                Field::Number(number, 0)
            }
            2 => Field::Bytes(number, self.varint()?),
            5 => {
                self.skip(4)?;
                Field::Number(number, 0)
            }
            other => bail!("a field is of wire type {other}"),
        };
        let length = if let Field::Bytes(_, length) = field { length } else { 0 };
        ensure!(self.at.checked_add(length).is_some_and(|at| at <= end), "a field is longer than what it is in");
        Ok(field)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.source.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(value);
            }
        }
        bail!("a number is too long")
    }

    fn text(&mut self, length: u64) -> Result<String> {
        ensure!(length <= TEXT_BYTES, "the name of a file has {length} bytes");
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).context("the name of a file is not UTF-8")
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        self.source.seek_relative(i64::try_from(length)?)?;
        self.at += length;
        Ok(())
    }
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
        // An entry that names a file, in a tensor that is not said to be there.
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
