//! What server and child say to one another, as bytes; it never acts on any of it.

use super::child::PartSender;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a reply. The signature of a model with 1,024 inputs and outputs and the longest names fits.
const REPLY_BYTES: u64 = 64 << 20;
/// Bytes of an envelope, which the server writes. A function's configuration is most of a large one.
const ENVELOPE_BYTES: u64 = 16 << 20;

const PART: u8 = 0;
const REPLY: u8 = 1;

/// What the server sends first.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// The server's process, without which the child has nothing to live for.
    pub(super) parent: u32,
    /// The job's request.
    pub(super) request: Value,
    /// The one file that the job may write.
    pub(super) output: Option<PathBuf>,
    /// The files and folders that the job may read.
    pub(super) reads: Vec<PathBuf>,
    pub(super) memory_bytes: u64,
    pub(super) file_bytes: u64,
    pub(super) cpu_s: u64,
}

impl Envelope {
    /// The bytes, for a child that does `what`.
    ///
    /// Errors: `too-large` where no child would take so many.
    pub(super) fn encoded(&self, what: &str) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self).map_err(|error| Error::host("writing to a child process", error))?;
        let bytes = json.len() as u64;
        if bytes > ENVELOPE_BYTES {
            return Err(Error::too_large(format!(
                "{what} takes {bytes} bytes of settings and names, but at most {ENVELOPE_BYTES}; make the function's \
                 configuration smaller"
            )));
        }
        Ok([&(json.len() as u64).to_le_bytes(), json.as_slice()].concat())
    }

    pub(super) fn read(input: &mut impl Read) -> io::Result<Envelope> {
        let mut length = [0; 8];
        input.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > ENVELOPE_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("an envelope of {length} bytes")));
        }
        let mut json = Vec::new();
        input.take(length).read_to_end(&mut json)?;
        Ok(serde_json::from_slice(&json)?)
    }
}

/// What the child says last.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done(Value),
    Failed(Failure),
    /// The job says that the memory it may take did not suffice; why, for the log.
    OutOfMemory(String),
}

/// An error on its way from the child to the server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) kind: String,
    pub(super) message: String,
    /// For the log.
    pub(super) chain: String,
}

/// One of the things that a child sends; a part's bytes lie in the reader's buffer.
pub(super) enum Frame {
    Part,
    Reply(Reply),
}

impl Frame {
    /// Reads the next frame. Errors: the child is gone, or it says what no child says.
    pub(super) async fn read(output: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<Frame> {
        let mut head = [0; 5];
        output.read_exact(&mut head).await?;
        let [kind, length @ ..] = head;
        let length = u64::from(u32::from_le_bytes(length));
        let most = if kind == PART { PartSender::MOST_BYTES as u64 } else { REPLY_BYTES };
        if kind > REPLY || length > most {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("a frame of kind {kind} with {length} bytes")));
        }
        buffer.clear();
        if output.take(length).read_to_end(buffer).await? as u64 != length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if kind == PART { Ok(Frame::Part) } else { Ok(Frame::Reply(serde_json::from_slice(buffer)?)) }
    }

    pub(super) fn write_part(output: &mut impl Write, part: &[u8]) -> io::Result<()> {
        Frame::write(output, PART, part)
    }

    pub(super) fn write_reply(output: &mut impl Write, reply: &Reply) -> io::Result<()> {
        Frame::write(output, REPLY, &serde_json::to_vec(reply)?)
    }

    fn write(output: &mut impl Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let [a, b, c, d] = length.to_le_bytes();
        output.write_all(&[kind, a, b, c, d])?;
        output.write_all(bytes)?;
        output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    async fn read(bytes: &[u8]) -> io::Result<(Frame, Vec<u8>)> {
        let (mut bytes, mut buffer) = (bytes, Vec::new());
        Ok((Frame::read(&mut bytes, &mut buffer).await?, buffer))
    }

    #[tokio::test]
    async fn frames_come_back_and_wrong_ones_are_refused() {
        let mut bytes = Vec::new();
        Frame::write_part(&mut bytes, b"abc").unwrap();
        let (frame, part) = read(&bytes).await.unwrap();
        assert!(matches!(frame, Frame::Part) && part == b"abc");
        bytes.clear();
        Frame::write_reply(&mut bytes, &Reply::Done(Value::Bool(true))).unwrap();
        let (frame, _) = read(&bytes).await.unwrap();
        assert!(matches!(frame, Frame::Reply(Reply::Done(Value::Bool(true)))));

        for wrong in [
            &b""[..],
            b"\0\x03\0\0\0ab",
            b"\0\xff\xff\xff\xff",
            b"\x01\xff\xff\xff\xff",
            b"\x02\x01\0\0\0a",
            b"\x01\x01\0\0\0a",
            b"hello",
        ] {
            assert!(read(wrong).await.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_envelope_comes_back_and_what_follows_it_stays() {
        let envelope = Envelope {
            parent: 7,
            request: Value::from("work"),
            output: Some("file".into()),
            reads: vec!["component".into()],
            memory_bytes: 1,
            file_bytes: u64::MAX,
            cpu_s: 3,
        };
        let bytes = [envelope.encoded("work").unwrap(), b"stream".to_vec()].concat();
        let mut rest = bytes.as_slice();
        let read = Envelope::read(&mut rest).unwrap();
        assert_eq!((read.parent, read.file_bytes, read.reads), (7, u64::MAX, envelope.reads.clone()));
        assert_eq!(read.request, envelope.request);
        assert_eq!(rest, b"stream");
        assert!(Envelope::read(&mut &bytes[..20]).is_err());
        // One that a child would not take is not sent.
        let request = Value::from("x".repeat(ENVELOPE_BYTES as usize));
        let error = Envelope { request, ..envelope }.encoded("the function's preparation").unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge);
        assert!(error.message().starts_with("the function's preparation") && error.message().contains("configuration"));
        let length = (ENVELOPE_BYTES + 1).to_le_bytes();
        assert_eq!(Envelope::read(&mut length.as_slice()).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
