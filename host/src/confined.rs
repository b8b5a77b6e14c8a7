//! Runs work on untrusted input in a child process of this program, under limits and without network, so that a crash or an
//! endless loop there is an error value here; it never knows what the work is.
//!
//! The layers above describe work as a [`Job`]: a name and a function. [`Confined`] starts the program with the hidden
//! command `confined NAME`, whose `main` calls [`enter`]; that confines the process before it reads anything untrusted and
//! then calls the function of that name. A job reads its request and perhaps a stream, and gives back parts and one reply.
//!
//! ```text
//! stdin    the length (8 bytes, little-endian) and the JSON of an envelope, then whatever the server streams
//! stdout   frames: a kind (1 byte), a length (4 bytes, little-endian), bytes; the last one is the reply's JSON
//! stderr   for the server's log
//! ```

mod child;
mod filter;
mod frame;
mod launchers;
mod reading;
mod verdict;

pub use child::{Job, PartSender, Work, enter, out_of_memory};
pub use reading::reading_is_confined;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::gate::{Gate, Pass};
use frame::{Envelope, Frame, Reply};
use launchers::{LOOK, Launchers, Mortal, Standing, starves};
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Bytes of a child's last words that are kept for the log.
const LAST_WORDS_BYTES: usize = 4 << 10;
/// Bytes that a pipe holds, so that a stream does not change threads for every 64 KiB.
const PIPE_BYTES: usize = 1 << 20;
/// Variables that a child gets from the server's environment, and whose folders it may read (`reading`): where the loader looks
/// for libraries, and the C library for locales, which engines normalise text by.
const PASSED_ON: [&str; 2] = ["LD_LIBRARY_PATH", "LOCPATH"];

/// Which children wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Work on components, which takes cores and memory: `confined_processes` of it at once.
    Heavy,
    /// Loads of models, which may take minutes: `checking_processes` of them at once.
    Checks,
    /// Work that waits for a client most of the time: `unpacking_processes` of it at once.
    Streaming,
}

/// A number that a child may not exceed, and the limit that sets it.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    /// The number.
    pub value: u64,
    /// The name in the table of limits.
    pub limit: &'static str,
}

/// What a child may take and read, and the words for its failures.
#[derive(Clone, Debug)]
pub struct Caps {
    /// What it works on and at: `the component's compilation`.
    pub what: &'static str,
    /// Whom it waits for.
    pub queue: Queue,
    /// Milliseconds from its start to its end.
    pub wall_ms: Cap,
    /// Bytes of its memory.
    pub memory_bytes: Cap,
    /// Bytes of the file it writes.
    pub file_bytes: Cap,
    /// Threads that its libraries may start.
    pub threads: usize,
    /// The files it may read, and the folders it may read all of. Beside them there are the system's libraries only. A name
    /// that is a link stands for what it leads to.
    pub reads: Vec<PathBuf>,
}

/// Starts children. One for the process; they end with it.
#[derive(Debug)]
pub struct Confined {
    how: How,
    heavy: Gate,
    checks: Gate,
    streaming: Gate,
    /// How many may wait for each of these.
    queue: u64,
}

#[derive(Debug)]
enum How {
    Program(PathBuf, Launchers),
    /// In a thread of this process, unconfined: unit tests have no program to start.
    #[cfg(test)]
    Here,
}

impl Confined {
    /// Children of the configured program.
    ///
    /// Errors: `internal` where no thread can be had.
    pub fn new(config: &Config) -> Result<Confined> {
        if !reading_is_confined() {
            tracing::warn!(
                "this kernel has no Landlock (Linux 5.13 and later have, where it is enabled): processes that read untrusted \
                 input are confined otherwise, but can read this user's files"
            );
        }
        let limits = &config.limits;
        Ok(Confined {
            how: How::Program(config.program.clone(), Launchers::new()?),
            heavy: Gate::new(limits.confined_processes),
            checks: Gate::new(limits.checking_processes),
            streaming: Gate::new(limits.unpacking_processes),
            queue: limits.queued_processes,
        })
    }

    /// Runs jobs in this process, for unit tests.
    #[cfg(test)]
    pub(crate) fn here() -> std::sync::Arc<Confined> {
        Confined { how: How::Here, heavy: Gate::new(4), checks: Gate::new(4), streaming: Gate::new(4), queue: 64 }
            .into()
    }

    /// Runs a job to its end and gives its reply. `output` is a file that the job may write; it is there and empty. The
    /// child is killed when the future is dropped.
    ///
    /// Errors: the job's own; `invalid-argument` where it crashes, takes too long or too much memory; `too-large` where its
    /// file grows beyond its limit, or the request is beyond 16 MiB; `overloaded` where too many wait; `internal` where it
    /// cannot be started.
    pub async fn run(&self, job: &Job, request: &impl Serialize, output: Option<&Path>, caps: Caps) -> Result<Value> {
        let place = self.place(&caps).await?;
        let started = AtomicU32::new(0);
        let attempt = |standing| self.attempt(job, request, output, caps.clone(), &place, standing, &started);
        let mut last = Box::pin(attempt(Standing::Last));
        loop {
            tokio::select! {
                outcome = &mut last => return outcome,
                () = tokio::time::sleep(LOOK) => {
                    let child = started.load(Ordering::Relaxed);
                    if starves((child > 0).then_some(child)) {
                        break;
                    }
                }
            }
        }
        tracing::debug!("{} is started again: other work takes all cores", caps.what);
        drop(last);
        attempt(Standing::Share).await
    }

    /// One start of a job, to its end; tells the child's process.
    #[allow(clippy::too_many_arguments, reason = "all of a job, and how it is to be run")]
    async fn attempt(
        &self,
        job: &Job,
        request: &impl Serialize,
        output: Option<&Path>,
        caps: Caps,
        place: &Place,
        standing: Standing,
        started: &AtomicU32,
    ) -> Result<Value> {
        let (feed, mut parts) = self.start(job, request, output, caps, place.clone(), standing).await?;
        started.store(parts.child().and_then(|child| child.id()).unwrap_or_default(), Ordering::Relaxed);
        drop(feed);
        match parts.next().await? {
            Some(_) => Err(Error::host("reading a child's reply", format!("{} sent parts", job.name))),
            None => Ok(parts.reply()),
        }
    }

    /// Starts a job that reads a stream and sends parts.
    ///
    /// Errors: `internal` where it cannot be started, `overloaded` where too many wait. Those of [`Confined::run`] come from [`Parts::next`].
    pub async fn stream(&self, job: &Job, request: &impl Serialize, caps: Caps) -> Result<(Feed, Parts)> {
        let place = self.place(&caps).await?;
        // What came of a stream is gone, so that it cannot be started again.
        self.start(job, request, None, caps, place, Standing::Share).await
    }

    async fn place(&self, caps: &Caps) -> Result<Place> {
        let gate = match caps.queue {
            Queue::Heavy => &self.heavy,
            Queue::Checks => &self.checks,
            Queue::Streaming => &self.streaming,
        };
        let (what, most) = (caps.what, self.queue);
        let pass = gate.enter(most).await.map_err(|_| {
            Error::overloaded(format!(
                "{what} cannot wait: {most} others do already (limit queued_processes); try again later"
            ))
        })?;
        Ok(Arc::new(pass))
    }

    async fn start(
        &self,
        job: &Job,
        request: &impl Serialize,
        output: Option<&Path>,
        caps: Caps,
        place: Place,
        standing: Standing,
    ) -> Result<(Feed, Parts)> {
        let deadline = Instant::now() + Duration::from_millis(caps.wall_ms.value);
        let envelope = Envelope {
            parent: std::process::id(),
            request: serde_json::to_value(request).map_err(|error| Error::host(STARTING, error))?,
            output: output.map(Path::to_owned),
            reads: caps.reads.clone(),
            memory_bytes: caps.memory_bytes.value,
            file_bytes: caps.file_bytes.value,
            cpu_s: caps.wall_ms.value.div_ceil(1_000).saturating_add(1).saturating_mul(caps.threads.max(1) as u64),
        };
        let envelope = envelope.encoded(caps.what)?;
        let (input, output, process) = match &self.how {
            How::Program(program, launchers) => launch(program, launchers, job, caps.threads, standing).await?,
            #[cfg(test)]
            How::Here => child::here(*job)?,
        };
        let mut feed = Feed(input);
        let parts = Parts { output, process, buffer: Vec::new(), reply: Value::Null, caps, deadline, _place: place };
        // A child that is gone already says why through `parts`.
        drop(timeout_at(deadline, feed.write(&envelope)).await);
        Ok((feed, parts))
    }
}

/// A place among those of a queue. A child that is started again keeps it.
type Place = Arc<Pass>;

const STARTING: &str = "starting a child process";

type Input = Box<dyn AsyncWrite + Send + Unpin>;
type Output = Box<dyn AsyncRead + Send + Unpin>;

async fn launch(
    program: &Path,
    launchers: &Launchers,
    job: &Job,
    threads: usize,
    standing: Standing,
) -> Result<(Input, Output, Option<Process>)> {
    let mut command = Command::new(program);
    command
        .args(["confined", job.name])
        .env_clear()
        .env("HEARTH_LOG", "warn")
        // The allocator takes memory as it is needed, so that the limit counts what is used.
        .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        .env("MIMALLOC_EAGER_COMMIT", "0")
        .env("RAYON_NUM_THREADS", threads.max(1).to_string())
        .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-c in a terminal is for the server, which lets its requests finish.
        .process_group(0)
        .kill_on_drop(true);
    let mut child = launchers.launch(command, standing).await.map_err(|error| Error::host(STARTING, error))?;
    let pipes = child.0.as_mut().map(|child| (child.stdin.take(), child.stdout.take(), child.stderr.take()));
    let Some((Some(input), Some(output), Some(errors))) = pipes else {
        return Err(Error::host(STARTING, "it has no pipes"));
    };
    // The default size works too.
    rustix::pipe::fcntl_setpipe_size(&input, PIPE_BYTES).ok();
    rustix::pipe::fcntl_setpipe_size(&output, PIPE_BYTES).ok();
    let last_words = Some(tokio::spawn(last_words(errors)));
    Ok((Box::new(input), Box::new(output), Some(Process { child, last_words })))
}

/// A child that runs.
#[derive(Debug)]
struct Process {
    child: Mortal,
    /// None once they were heard.
    last_words: Option<JoinHandle<String>>,
}

/// The end of what a child writes to stderr. All of it is read, so that the child never waits for that.
async fn last_words(mut errors: ChildStderr) -> String {
    let (mut kept, mut buffer) = (VecDeque::new(), [0; 1 << 10]);
    while let Ok(count @ 1..) = errors.read(&mut buffer).await {
        kept.extend(&buffer[..count]);
        kept.drain(..kept.len().saturating_sub(LAST_WORDS_BYTES));
    }
    String::from_utf8_lossy(kept.make_contiguous()).trim().to_owned()
}

/// Where the stream for a job goes. Its end is the stream's end.
pub struct Feed(Input);

impl Feed {
    /// Sends a part of the stream; waits while the child is busy. An error means that the child reads no more, or is gone:
    /// [`Parts::next`] says why.
    pub async fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all(data).await
    }
}

/// What a job sends. The child is killed when this is dropped.
pub struct Parts {
    output: Output,
    /// None for a job in this process.
    process: Option<Process>,
    buffer: Vec<u8>,
    reply: Value,
    caps: Caps,
    deadline: Instant,
    _place: Place,
}

impl Parts {
    /// The next part, or none after a successful reply. A part is at most [`PartSender::MOST_BYTES`] long.
    ///
    /// Errors: those of [`Confined::run`]. After one, nothing more comes.
    pub async fn next(&mut self) -> Result<Option<&[u8]>> {
        let deadline = self.deadline;
        match timeout_at(deadline, Frame::read(&mut self.output, &mut self.buffer)).await {
            Err(_) => {
                self.kill().await;
                Err(verdict::too_long(&self.caps))
            }
            Ok(Ok(Frame::Part)) => Ok(Some(&self.buffer)),
            Ok(Ok(Frame::Reply(reply))) => {
                self.end().await?;
                match reply {
                    Reply::Done(value) => {
                        self.reply = value;
                        Ok(None)
                    }
                    Reply::Failed(failure) => Err(verdict::of_job(failure)),
                    Reply::OutOfMemory(cause) => Err(verdict::out_of_memory(&self.caps).with_source(cause)),
                }
            }
            // No reply, or none that makes sense: how it ended tells why.
            Ok(Err(error)) => {
                self.end().await?;
                Err(verdict::crash(&self.caps, "without a reply").with_source(error))
            }
        }
    }

    /// The job's reply, once after the last part; null before that.
    pub fn reply(&mut self) -> Value {
        self.reply.take()
    }

    /// Waits for the child to end. Errors: it did not end well.
    async fn end(&mut self) -> Result<()> {
        let deadline = self.deadline;
        let Some(child) = self.child() else { return Ok(()) };
        let Ok(ended) = timeout_at(deadline, child.wait()).await else {
            self.kill().await;
            return Err(verdict::too_long(&self.caps));
        };
        let status = ended.map_err(|error| Error::host("waiting for a child process", error))?;
        let last_words = self.last_words().await;
        verdict::of_end(status, &last_words, &self.caps)
    }

    fn child(&mut self) -> Option<&mut Child> {
        self.process.as_mut()?.child.0.as_mut()
    }

    async fn kill(&mut self) {
        if let Some(child) = self.child()
            && let Err(error) = child.kill().await
        {
            tracing::warn!("a child process could not be killed: {error}");
        }
        self.last_words().await;
    }

    async fn last_words(&mut self) -> String {
        let last_words = self.process.as_mut().and_then(|process| process.last_words.take());
        let Some(last_words) = last_words else { return String::new() };
        let said = last_words.await.unwrap_or_default();
        if !said.is_empty() {
            tracing::warn!(what = self.caps.what, "a child process said: {said}");
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use futures_util::FutureExt;

    fn caps(what: &'static str, queue: Queue) -> Caps {
        let cap = Cap { value: 1, limit: "" };
        Caps { what, queue, wall_ms: cap, memory_bytes: cap, file_bytes: cap, threads: 1, reads: Vec::new() }
    }

    #[tokio::test]
    async fn so_many_run_so_many_wait_and_more_are_overloaded() {
        let gate = || Gate::new(1);
        let confined = Confined { how: How::Here, heavy: gate(), checks: gate(), streaming: gate(), queue: 1 };
        let (check, other) = (caps("the model's check", Queue::Checks), caps("another", Queue::Heavy));
        let first = confined.place(&check).await.unwrap();
        let mut second = Box::pin(confined.place(&check));
        assert!((&mut second).now_or_never().is_none());
        let error = confined.place(&check).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Overloaded);
        assert_eq!(
            error.message(),
            "the model's check cannot wait: 1 others do already (limit queued_processes); try again later"
        );
        // Another queue has places of its own.
        drop(confined.place(&other).await.unwrap());
        drop(first);
        let second = second.await.unwrap();
        // No job waits any more, so one may.
        let mut third = Box::pin(confined.place(&check));
        assert!((&mut third).now_or_never().is_none());
        // A job that gives up waiting leaves its place to the next.
        drop(third);
        assert!(confined.place(&check).now_or_never().is_none());
        drop(second);
        drop(confined.place(&check).await.unwrap());
    }
}
