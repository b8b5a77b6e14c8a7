//! Starts child processes from threads that stand behind the server's own, so that children do from their first instruction on;
//! it never knows what they are for.

use crate::bulk;
use crate::error::{Error, Result};
use std::io;
use std::sync::mpsc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// How far children stand behind, as `nice(1)` counts: with a tenth of a core that somebody else wants too, and all of one that
/// nobody wants.
const NICE: i32 = 10;
/// How long a child that goes last may wait, again and again, before it is looked at whether it gets anything.
pub(super) const LOOK: Duration = Duration::from_secs(4);

/// What a child gets of cores that others want, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Next to nothing: a thread that wakes gets its core at once (Linux's `SCHED_IDLE`). Where all cores are taken for long, it
    /// starves.
    Last,
    /// A share, for which a thread that wakes may have to wait some milliseconds.
    Share,
}

/// Threads that start children.
#[derive(Debug)]
pub(super) struct Launchers {
    last: mpsc::Sender<Order>,
    share: mpsc::Sender<Order>,
}

/// A child to be started, and where to send it.
#[derive(Debug)]
struct Order {
    command: Command,
    runtime: tokio::runtime::Handle,
    started: oneshot::Sender<io::Result<Mortal>>,
}

impl Launchers {
    /// Errors: `internal` where no thread can be had.
    pub(super) fn new() -> Result<Launchers> {
        Ok(Launchers { last: launcher(Standing::Last)?, share: launcher(Standing::Share)? })
    }

    /// Starts a child of that standing.
    pub(super) async fn launch(&self, command: Command, standing: Standing) -> io::Result<Mortal> {
        let (started, child) = oneshot::channel();
        let order = Order { command, runtime: tokio::runtime::Handle::current(), started };
        let to = match standing {
            Standing::Last => &self.last,
            Standing::Share => &self.share,
        };
        to.send(order).map_err(|error| io::Error::other(error.to_string()))?;
        child.await.map_err(io::Error::other)?
    }
}

/// Linux kills a child when the thread that started it ends, and threads of a runtime come and go.
fn launcher(standing: Standing) -> Result<mpsc::Sender<Order>> {
    let (orders, received) = mpsc::channel::<Order>();
    let work = move || {
        // Where a system refuses, children stand beside the server.
        match standing {
            Standing::Last => {
                if let Err(error) = bulk::go_last() {
                    tracing::warn!("children do not go last: {error}");
                }
            }
            Standing::Share => {
                if let Err(error) = rustix::process::nice(NICE) {
                    tracing::warn!("children do not stand behind the server: {error}");
                }
            }
        }
        for Order { mut command, runtime, started } in received {
            if started.is_closed() {
                continue;
            }
            let _entered = runtime.enter();
            // A child that nobody waits for any more is dropped here, which kills it.
            drop(started.send(command.spawn().map(|child| Mortal(Some(child)))));
        }
    };
    let thread = std::thread::Builder::new().name("confined".to_owned()).spawn(work);
    thread.map_err(|error| Error::host("starting a thread", error))?;
    Ok(orders)
}

/// A child that is killed and reaped when this is dropped.
#[derive(Debug)]
pub(super) struct Mortal(pub(super) Option<Child>);

impl Drop for Mortal {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // It does nothing more from here on, and may have ended already.
        child.start_kill().ok();
        // Dropping it reaps too, but may leave a zombie until another child ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { child.kill().await });
        }
    }
}

/// Whether a process got next to nothing of the time that it wanted cores, less than others who go last would leave it; also where
/// that cannot be told, or it was not started yet.
pub(super) fn starves(process: Option<u32>) -> bool {
    let Some([had, waited]) = process.and_then(shares) else { return true };
    waited / 8 > had
}

/// Nanoseconds that the threads of a process had a core, and that they waited for one (Linux's `schedstat`).
fn shares(process: u32) -> Option<[u64; 2]> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let mut sum = None;
    for thread in threads.flatten() {
        // A thread may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(had)), Some(Ok(waited))) = (numbers.next(), numbers.next()) else { continue };
        let [all_had, all_waited] = sum.unwrap_or_default();
        sum = Some([all_had + had, all_waited + waited]);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn children_stand_behind_and_hear_of_nobody() {
        let launchers = Launchers::new().unwrap();
        for (standing, wanted) in [(Standing::Last, ("0", "5")), (Standing::Share, ("10", "0"))] {
            let mut command = Command::new("cat");
            command.arg("/proc/self/stat").stdout(std::process::Stdio::piped());
            let mut child = launchers.launch(command, standing).await.unwrap();
            let output = child.0.take().unwrap().wait_with_output().await.unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            // Fields 19 and 41 of proc_pid_stat(5): the nice value, and the policy.
            let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
            assert_eq!((fields[19 - 3], fields[41 - 3]), wanted, "{standing:?}: {text}");
        }
    }

    #[test]
    fn who_starves_is_told() {
        let [had, _] = shares(std::process::id()).unwrap();
        assert!(had > 0);
        assert!(starves(None) && starves(Some(u32::MAX)));
    }
}
