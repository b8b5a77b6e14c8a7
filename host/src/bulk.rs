//! Bulk I/O in 128 KiB pieces at idle priority, so that it never delays a request; it never knows what the bytes are.
//!
//! Without preemption, Linux finishes a system call before it gives the core to another thread, and a call on 100 MiB takes tens
//! of milliseconds.

use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::oneshot;

/// Bytes of one call: tens of microseconds.
const PIECE_BYTES: usize = 128 << 10;

/// How long a piece of work waits for the idle-priority thread, which gets next to no time where all cores are busy.
const WAITS: Duration = Duration::from_millis(10);
/// How long work goes to ordinary threads after that.
const NORMAL_FOR: Duration = Duration::from_secs(10);

/// Runs this thread, and all processes that it starts, at idle priority (Linux's `SCHED_IDLE`): they run on cores that are
/// otherwise idle, and lose the core as soon as another thread needs it.
///
/// Errors: the system's, where it refuses.
pub(crate) fn go_last() -> io::Result<()> {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle)
        .map_err(|error| io::Error::other(format!("{error:?}")))
}

/// Does a piece of work on the idle-priority thread; where that takes long, on ordinary threads for a while.
///
/// Errors: it panicked.
pub(crate) async fn last<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    static LAST: LazyLock<Last> = LazyLock::new(|| Last::new(WAITS));
    LAST.run(work).await
}

type Piece = Box<dyn FnOnce() + Send>;

/// A thread at idle priority. There is only one: where two of them share a core, Linux may continue with the other one before it
/// runs an ordinary thread that wakes.
struct Last {
    /// `None` where the system refused a thread.
    pieces: Option<mpsc::Sender<Piece>>,
    waits: Duration,
    /// Until then, all work goes to ordinary threads.
    normal_until: Mutex<Option<Instant>>,
}

impl Last {
    /// The thread; a piece of work that has waited this long for it is done by an ordinary thread.
    fn new(waits: Duration) -> Last {
        let (pieces, received) = mpsc::channel::<Piece>();
        let work = move || {
            if let Err(error) = go_last() {
                tracing::warn!("work on uploads does not run at idle priority: {error}");
            }
            received.into_iter().for_each(|piece| piece());
        };
        let thread = std::thread::Builder::new().name("last".to_owned()).spawn(work);
        Last { pieces: thread.ok().map(|_| pieces), waits, normal_until: Mutex::default() }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let normal = self.normal_until.lock().is_some_and(|until| Instant::now() < until);
        let Some(pieces) = self.pieces.as_ref().filter(|_| !normal) else {
            return tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
        };
        let work = Arc::new(Mutex::new(Some(work)));
        let (done, mut outcome) = oneshot::channel();
        let piece = {
            let work = work.clone();
            move || {
                let work = work.lock().take();
                work.map(|work| done.send(work()));
            }
        };
        // Where the thread is gone, the piece is dropped and the receiver gets nothing.
        pieces.send(Box::new(piece)).ok();
        let waited = tokio::time::timeout(self.waits, &mut outcome).await;
        if let Ok(Ok(outcome)) = waited {
            return Ok(outcome);
        }
        *self.normal_until.lock() = Some(Instant::now() + NORMAL_FOR);
        let left = work.lock().take();
        match left {
            Some(work) => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
            None if waited.is_err() => outcome.await.map_err(io::Error::other),
            None => Err(io::Error::other("a piece of work panicked")),
        }
    }
}

/// The bytes of a file.
///
/// Errors: those of the file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    // One piece more, to notice the end of the file.
    let mut bytes = Vec::with_capacity(length.saturating_add(PIECE_BYTES));
    loop {
        let whole = bytes.len();
        // Zeroing makes the kernel provide the pages here, where other threads can get the core, and not in the read.
        bytes.resize(whole + PIECE_BYTES, 0);
        let read = loop {
            match file.read(&mut bytes[whole..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        bytes.truncate(whole + read);
        if read == 0 {
            return Ok(bytes);
        }
    }
}

/// Writes all bytes.
///
/// Errors: those of the writer.
pub(crate) fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(PIECE_BYTES).try_for_each(|piece| to.write_all(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread() -> Option<String> {
        std::thread::current().name().map(str::to_owned)
    }

    #[tokio::test]
    async fn work_goes_last() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // The 41st field of proc_pid_stat(5).
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(41 - 3).unwrap().to_owned()
        };
        let last = Last::new(Duration::from_secs(60));
        let outcome = last.run(move || (thread(), policy())).await.unwrap();
        assert_eq!(outcome, (Some("last".to_owned()), "5".to_owned()));
    }

    #[tokio::test]
    async fn work_that_would_wait_long_is_done_elsewhere() {
        let last = Arc::new(Last::new(Duration::from_millis(100)));
        // The first holds the thread until the second is done.
        let ((begins, begun), (over, waits)) = (mpsc::channel(), mpsc::channel());
        let first = {
            let last = last.clone();
            let work = move || {
                begins.send(()).unwrap();
                waits.recv().unwrap()
            };
            tokio::spawn(async move { last.run(work).await })
        };
        while begun.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        last.run(move || over.send(thread()).unwrap()).await.unwrap();
        assert!(first.await.unwrap().unwrap().as_deref() != Some("last"));
        assert!(last.run(thread).await.unwrap().as_deref() != Some("last"));
    }

    #[tokio::test]
    async fn work_goes_on_after_a_panic() {
        let last = Last::new(Duration::from_secs(60));
        assert!(last.run(|| panic!("on purpose")).await.is_err());
        last.normal_until.lock().take();
        assert_eq!(last.run(|| 7).await.unwrap(), 7);
    }

    #[test]
    fn what_is_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(read(file.path()).unwrap(), b"");
        for length in [1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 17] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            write(&mut File::create(file.path()).unwrap(), &bytes).unwrap();
            assert!(read(file.path()).unwrap() == bytes, "{length}");
        }
        assert_eq!(read(Path::new("/nowhere")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
