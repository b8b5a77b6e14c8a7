//! A caller that sends one request after the other, at fixed times or without pause, and leaves out requests during which the
//! machine itself stood still. It never fails on a time.

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::io::{IoSliceMut, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread::{available_parallelism, scope, sleep};
use std::time::{Duration, Instant};

/// How often a watcher wakes, and how late it must wake for its core to count as stopped: on a running machine, a real-time
/// thread is woken within microseconds.
const LOOK: Duration = Duration::from_millis(2);
const LATE: Duration = Duration::from_millis(1);

/// Arguments of a caller, which runs in its own process; [`measure`] starts it.
#[derive(clap::Args)]
pub(crate) struct Caller {
    address: SocketAddr,
    /// The path that it requests
    path: String,
    /// Requests a second; without pause where it is 0
    rate: u32,
    /// How long it sends requests
    seconds: u64,
}

/// Arguments of a watcher, which runs in its own process with real-time priority.
#[derive(clap::Args)]
pub(crate) struct Watcher {
    /// How long it watches
    seconds: u64,
}

/// The results of a caller.
pub(crate) struct Found {
    /// Microseconds within which 99 of 100 answers came.
    pub(crate) p99_us: f64,
    /// The share of requests that do not count, because a core stood still meanwhile: for example, a virtual machine that waits
    /// until its host has found memory for pages that were never used before.
    pub(crate) left_out: f64,
}

/// Begin and end, in microseconds of the system's monotonic clock, which all processes share.
type Span = [f64; 2];

/// Whether this user may run the caller with real-time priority (`chrt` of Debian's util-linux).
pub(crate) fn goes_first() -> bool {
    Command::new("chrt").args(["--fifo", "1", "true"]).output().is_ok_and(|output| output.status.success())
}

/// Runs a caller in its own process and gives its results. A caller with fixed times has real-time priority where that is
/// allowed, because it represents one on another machine. If it is not `watched`, all of its requests count.
pub(crate) fn measure(address: SocketAddr, path: &str, rate: u32, seconds: u64, watched: bool) -> Result<Found> {
    let first = goes_first();
    let watcher = (first && watched).then(|| {
        let mut command = itself(true)?;
        command.args(["watch", &seconds.to_string()]).stdout(Stdio::piped());
        command.spawn().context("cannot start the watcher")
    });
    let mut caller = itself(first && rate > 0)?;
    let caller =
        caller.args(["paced", &address.to_string(), path, &rate.to_string(), &seconds.to_string()]).output()?;
    ensure!(caller.status.success(), "the caller failed: {}", String::from_utf8_lossy(&caller.stderr));
    let asked = spans(&caller.stdout)?;
    let still = match watcher.transpose()? {
        Some(watcher) => spans(&watcher.wait_with_output()?.stdout)?,
        None => Vec::new(),
    };
    Found::of(&asked, &still)
}

impl Found {
    /// The results from the spans of requests, without those that overlap times at which cores stood still.
    fn of(asked: &[Span], still: &[Span]) -> Result<Found> {
        let disturbed = |[from, to]: &Span| still.iter().any(|[start, end]| from < end && start < to);
        let mut took: Vec<f64> = asked.iter().filter(|span| !disturbed(span)).map(|[from, to]| to - from).collect();
        took.sort_by(f64::total_cmp);
        let p99_us = *took.get(took.len() * 99 / 100).context("no request was made while the machine ran")?;
        Ok(Found { p99_us, left_out: 1.0 - took.len() as f64 / asked.len() as f64 })
    }
}

/// This program again, with real-time priority or without.
fn itself(first: bool) -> Result<Command> {
    let itself = std::env::current_exe()?;
    let mut command = Command::new(if first { "chrt".as_ref() } else { itself.as_os_str() });
    if first {
        command.args(["--fifo", "1"]).arg(&itself);
    }
    Ok(command)
}

/// Sends the requests, and prints the span of each.
pub(crate) fn ask(caller: &Caller) -> Result<()> {
    let mut stream = TcpStream::connect(caller.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    setsockopt(&stream, ReceiveTimestampns, &true)?;
    let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", caller.path, caller.address);
    let pause = Duration::from_secs(1).checked_div(caller.rate).unwrap_or_default().as_secs_f64() * 1e6;
    let mut ask = || {
        stream.write_all(request.as_bytes())?;
        answer(&mut stream)
    };
    // Linux begins to record times a little after it is asked to.
    for _ in 0..1_000 {
        if ask()?.is_some() {
            break;
        }
        sleep(Duration::from_millis(1));
    }
    let mut asked: Vec<Span> = Vec::new();
    let started = now_us();
    let mut due = started;
    let mut answered = started;
    while due - started < caller.seconds as f64 * 1e6 {
        sleep(Duration::from_secs_f64((due - now_us()).max(0.0) / 1e6));
        // A late wake-up is not the server's fault; the delay by a late previous answer is.
        let late = (answered - due).max(0.0);
        let from = now_us() - late;
        answered = ask()?.context("the system does not say when an answer came")?;
        asked.push([from, answered]);
        due = if caller.rate > 0 { due + pause } else { now_us() };
    }
    print(&asked);
    Ok(())
}

/// Prints when a core stood still: times in which a real-time thread on it did not run.
pub(crate) fn watch(watcher: &Watcher) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(watcher.seconds);
    let still = scope(|scope| {
        let cores = 0..available_parallelism()?.get();
        let watchers: Vec<_> = cores.map(|core| scope.spawn(move || standstills(core, until))).collect();
        let ended = watchers.into_iter().map(|watcher| watcher.join().expect("a watcher does not panic"));
        ended.collect::<Result<Vec<_>>>()
    })?;
    print(&still.concat());
    Ok(())
}

fn standstills(core: usize, until: Instant) -> Result<Vec<Span>> {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only)?;
    let mut still = Vec::new();
    while Instant::now() < until {
        let due = now_us() + LOOK.as_secs_f64() * 1e6;
        sleep(LOOK);
        let woke = now_us();
        if woke - due > LATE.as_secs_f64() * 1e6 {
            still.push([due, woke]);
        }
    }
    Ok(still)
}

fn now_us() -> f64 {
    clock_us(ClockId::Monotonic)
}

fn clock_us(clock: ClockId) -> f64 {
    let now = clock_gettime(clock);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

fn print(spans: &[Span]) {
    for [from, to] in spans {
        println!("{from} {to}");
    }
}

/// Parses what [`print`] printed.
fn spans(text: &[u8]) -> Result<Vec<Span>> {
    let lines = std::str::from_utf8(text)?.lines();
    let spans = lines.map(|line| {
        let (from, to) = line.split_once(' ').context("a span is not two numbers")?;
        Ok([from.parse()?, to.parse()?])
    });
    spans.collect()
}

/// Reads one answer, which must be a 200 with a length, and gives the time of its arrival, if the system reports it: when the
/// kernel had the answer for this caller, which represents one on another machine and may wake later.
fn answer(stream: &mut TcpStream) -> Result<Option<f64>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
        let came = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(at.tv_sec() as f64 * 1e6 + at.tv_nsec() as f64 / 1e3),
            _ => None,
        });
        let read = received.bytes;
        ensure!(read > 0, "the server ended the connection");
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "the answer is not 200: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        if bytes.len() >= end + 4 + length {
            return Ok(came.map(|came| now_us() - (clock_us(ClockId::Realtime) - came)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_while_a_core_stood_still_do_not_count() {
        // Of 200 requests of a microsecond each, the last five take 100; a core stood still during three of these.
        let spans_of =
            |count: usize, long: usize| (0..count).map(move |at| (at, if at >= count - long { 100.0 } else { 1.0 }));
        let asked: Vec<Span> = spans_of(200, 5).map(|(at, took)| [at as f64 * 1e3, at as f64 * 1e3 + took]).collect();
        let all = Found::of(&asked, &[]).unwrap();
        assert_eq!((all.p99_us, all.left_out), (100.0, 0.0));
        let still = [[195_099.0, 195_200.0], [196_050.0, 196_060.0], [197_500.0, 198_001.0]];
        let some = Found::of(&asked, &still).unwrap();
        assert!((some.left_out - 3.0 / 200.0).abs() < 1e-9);
        // Two long ones are left, which are more than one percent of 197.
        assert_eq!(some.p99_us, 100.0);
        let most = Found::of(&asked, &[[195_000.0, 198_500.0]]).unwrap();
        assert_eq!(most.p99_us, 1.0);
        assert!(Found::of(&asked, &[[0.0, 1e9]]).is_err());
    }

    #[test]
    fn spans_are_read_as_they_are_printed() {
        assert_eq!(spans(b"1.5 2\n3 4.25\n").unwrap(), [[1.5, 2.0], [3.0, 4.25]]);
        assert!(spans(b"1\n").is_err() && spans(b"a b\n").is_err() && spans(b"").unwrap().is_empty());
    }
}
