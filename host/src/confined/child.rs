//! The child's side: confines its own process, then does one job and replies; it never starts another process.

use super::frame::{Envelope, Failure, Frame, Reply};
use super::{filter, reading};
use crate::error::{Error, Result};
use rustix::process::{Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// Files that a job may have open at once: a model's external data, libraries, pipes.
const OPEN_FILES: u64 = 512;

/// Work on untrusted input. Its function is called in a process of its own.
///
/// Errors of the function reach the server as they are, but for those of [`out_of_memory`].
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The name by which the child is told what to do.
    pub name: &'static str,
    /// What it does; what it gives is the reply.
    pub work: fn(&mut Work) -> Result<Value>,
}

/// What a job has to work with.
pub struct Work {
    request: Value,
    /// The stream that the server sends.
    pub input: Box<dyn Read>,
    /// The one file it may write, where the server named one.
    pub output: Option<File>,
    /// Where parts go.
    pub parts: PartSender,
}

/// What a job gives where the memory that its process may take does not suffice. The server's clients then see
/// `invalid-argument`, with the limit; `cause` is for the log.
pub fn out_of_memory(cause: impl Into<String>) -> Error {
    Error::overloaded("memory ran out").with_source(OutOfMemory(cause.into()))
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OutOfMemory(String);

/// Sends parts to the server.
pub struct PartSender(Box<dyn Write>);

impl Work {
    /// The server's request.
    ///
    /// Errors: `internal` where server and child do not understand one another.
    pub fn request<T: DeserializeOwned>(&mut self) -> Result<T> {
        serde_json::from_value(self.request.take()).map_err(|error| Error::host("reading a request", error))
    }
}

impl PartSender {
    /// Bytes of one part.
    pub const MOST_BYTES: usize = 128 << 10;

    /// Sends one part, of at most [`PartSender::MOST_BYTES`]. Waits while the server is busy.
    ///
    /// Errors: `cancelled` where the server listens no more.
    pub fn send(&mut self, part: &[u8]) -> Result<()> {
        let sent = Frame::write_part(&mut self.0, part);
        sent.map_err(|error| Error::cancelled("the server reads no more").with_source(error))
    }
}

/// The whole life of a child process: confines it, does the job of that name, and gives its exit code. Must be called by
/// `main` before there are other threads.
pub fn enter(jobs: &[Job], name: &str) -> ExitCode {
    let mut input = io::stdin().lock();
    // Not through the buffer of `Stdout`, which looks for ends of lines.
    let Ok(mut output) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else { return ExitCode::FAILURE };
    let confined = Envelope::read(&mut input).map_err(|error| error.to_string()).and_then(|envelope| {
        let file = confine(&envelope)?;
        Ok((envelope.request, file))
    });
    let (request, file) = match confined {
        Ok(confined) => confined,
        Err(reason) => {
            let message = "this machine cannot confine the process that reads untrusted input, so nothing is taken";
            return reply(&mut output, Err(Error::unavailable(message).with_source(reason)));
        }
    };
    let Some(job) = jobs.iter().find(|job| job.name == name) else {
        return reply(&mut output, Err(Error::host("starting a child process", format!("no job '{name}'"))));
    };
    let mut work = Work { request, input: Box::new(input), output: file, parts: PartSender(Box::new(output)) };
    let outcome = (job.work)(&mut work);
    reply(&mut work.parts.0, outcome)
}

fn reply(output: &mut impl Write, outcome: Result<Value>) -> ExitCode {
    let reply = match outcome {
        Ok(value) => Reply::Done(value),
        Err(error) if std::error::Error::source(&error).is_some_and(|cause| cause.is::<OutOfMemory>()) => {
            Reply::OutOfMemory(error.chain())
        }
        Err(error) => Reply::Failed(Failure {
            kind: error.kind().as_str().to_owned(),
            message: error.message().to_owned(),
            chain: error.chain(),
        }),
    };
    match Frame::write_reply(output, &reply) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Takes away what the job does not need. Opens the one file that it may write before nothing can be written any more.
fn confine(envelope: &Envelope) -> Result<Option<File>, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed("prctl", &error))?;
    let parent = getppid().map(|parent| parent.as_raw_nonzero().get());
    if parent != i32::try_from(envelope.parent).ok() {
        return Err("the server is gone".to_owned());
    }
    // The first to go where memory runs out. Where this is not allowed, the kernel chooses by size.
    std::fs::write("/proc/self/oom_score_adj", "1000").ok();
    let output = envelope.output.as_ref().map(|path| File::options().write(true).truncate(true).open(path));
    let output = output.transpose().map_err(|error| failed("opening the output", &error))?;
    reading::restrict(&envelope.reads).map_err(|error| failed("restricting what is read", &error))?;
    for (resource, most) in [
        // RLIMIT_AS would count address space that is only reserved.
        (Resource::Data, envelope.memory_bytes),
        (Resource::Fsize, envelope.file_bytes),
        (Resource::Cpu, envelope.cpu_s),
        (Resource::Nofile, OPEN_FILES),
        (Resource::Core, 0),
    ] {
        let most = Some(getrlimit(resource).maximum.map_or(most, |there| there.min(most)));
        let limit = Rlimit { current: most, maximum: most };
        setrlimit(resource, limit).map_err(|error| failed("setrlimit", &error))?;
    }
    filter::apply()?;
    Ok(output)
}

/// The server's ends of the pipes of a job that runs in a thread of this process.
#[cfg(test)]
pub(super) fn here(job: Job) -> Result<(super::Input, super::Output, Option<super::Process>)> {
    use tokio::net::unix::pipe::{Receiver, Sender};
    let failed = |error: io::Error| Error::host("starting a job", error);
    let (mut input, feed) = io::pipe().map_err(failed)?;
    let (parts, output) = io::pipe().map_err(failed)?;
    std::thread::spawn(move || {
        let Ok(Envelope { request, output: path, .. }) = Envelope::read(&mut input) else { return };
        let file = path.map(|path| File::options().write(true).open(path).unwrap());
        let parts = PartSender(Box::new(output));
        let mut work = Work { request, input: Box::new(input), output: file, parts };
        let outcome = (job.work)(&mut work);
        reply(&mut work.parts.0, outcome);
    });
    let feed = Sender::from_owned_fd(feed.into()).map_err(failed)?;
    let parts = Receiver::from_owned_fd(parts.into()).map_err(failed)?;
    Ok((Box::new(feed), Box::new(parts), None))
}
