//! Reads messages of protocol buffers field by field, for whoever wants a few of a large file's; it knows no message, and passes
//! over what is of no interest by its length, so that a model of gigabytes costs a few reads.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};

/// Bytes of one field that is read whole: names, types. Longer ones are no ONNX.
const MOST_FIELD_BYTES: u64 = 1 << 20;

/// A message of protocol buffers that is being read: <https://protobuf.dev/programming-guides/encoding/>.
pub(crate) struct Message<'a> {
    reader: &'a mut BufReader<File>,
    /// Bytes of it that are left; those of messages within it are taken away when they begin.
    left: u64,
}

pub(crate) enum Value {
    Number(u64),
    /// Of so many bytes, still to be read: a message, a string or packed numbers.
    Message(u64),
    /// Four or eight bytes, still to be read.
    Fixed(u64),
}

impl<'a> Message<'a> {
    /// A whole file of so many bytes.
    pub(crate) fn whole(reader: &'a mut BufReader<File>, bytes: u64) -> Message<'a> {
        Message { reader, left: bytes }
    }

    /// The next field, or none at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<(u64, Value)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Fixed(8),
            2 => Value::Message(self.varint()?),
            5 => Value::Fixed(4),
            _ => return Err(wrong("it has a field of no known form")),
        };
        Ok(Some((key >> 3, value)))
    }

    /// Passes over a value without reading it.
    pub(crate) fn skip(&mut self, value: Value) -> io::Result<()> {
        let length = match value {
            Value::Number(_) => return Ok(()),
            Value::Message(length) | Value::Fixed(length) => length,
        };
        self.take(length)?;
        let step = i64::try_from(length).map_err(|_| wrong("a field is too long"))?;
        self.reader.seek_relative(step)
    }

    /// A message within this one, whose length was just read.
    pub(crate) fn within(&mut self, length: u64) -> io::Result<Message<'_>> {
        self.take(length)?;
        Ok(Message { reader: &mut *self.reader, left: length })
    }

    /// A string whose length was just read.
    pub(crate) fn text(&mut self, length: u64) -> io::Result<String> {
        if length > MOST_FIELD_BYTES {
            return Err(wrong("a name is too long"));
        }
        self.take(length)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.reader.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| wrong("a name is no UTF-8"))
    }

    /// Reads this message to its end as a pair of texts, key and value (ONNX's `StringStringEntryProto`).
    pub(crate) fn entry(mut self) -> io::Result<(String, String)> {
        let (mut key, mut text) = (String::new(), String::new());
        while let Some((field, value)) = self.next()? {
            match (field, value) {
                (1, Value::Message(length)) => key = self.text(length)?,
                (2, Value::Message(length)) => text = self.text(length)?,
                (_, value) => self.skip(value)?,
            }
        }
        Ok((key, text))
    }

    /// The numbers of a packed field, whose length was just read.
    pub(crate) fn numbers(&mut self, length: u64) -> io::Result<Vec<u64>> {
        if length > MOST_FIELD_BYTES {
            return Err(wrong("a list of numbers is too long"));
        }
        let mut packed = self.within(length)?;
        let mut numbers = Vec::new();
        while packed.left > 0 {
            numbers.push(packed.varint()?);
        }
        Ok(numbers)
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            self.take(1)?;
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(wrong("it has a number that does not end"))
    }

    fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| wrong("it ends early"))?;
        Ok(())
    }
}

/// What is no message of protocol buffers, or none that is taken.
pub(crate) fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}
