//! A caller that means to ask at fixed times, one request after the other: where an answer comes too late for the next, what that
//! one waits counts from when it should have been sent. It judges nothing.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a caller is: printed by the process that it runs in, and asked for with [`p99_us`].
#[derive(clap::Args)]
pub(crate) struct Caller {
    address: SocketAddr,
    /// The path that it asks for
    path: String,
    /// Requests a second
    rate: u32,
    /// How long it asks
    seconds: u64,
}

/// Whether this user may have the caller go before everything else on the machine (`chrt` of Debian's util-linux).
pub(crate) fn goes_first() -> bool {
    Command::new("chrt").args(["--fifo", "1", "true"]).output().is_ok_and(|output| output.status.success())
}

/// Microseconds within which 99 of 100 answers came to a caller in a process of its own. Where it may it goes first, because it
/// stands for one on another machine.
pub(crate) fn p99_us(address: SocketAddr, path: &str, rate: u32, seconds: u64) -> Result<f64> {
    let itself = std::env::current_exe()?;
    let mut command = Command::new(&itself);
    if goes_first() {
        command = Command::new("chrt");
        command.args(["--fifo", "1"]).arg(&itself);
    }
    command.args(["paced", &address.to_string(), path, &rate.to_string(), &seconds.to_string()]);
    let output = command.output()?;
    ensure!(output.status.success(), "the caller failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.trim().parse().context("the caller printed no number")
}

/// Asks, and prints the 99th percentile in microseconds.
pub(crate) fn ask(caller: &Caller) -> Result<()> {
    let mut stream = TcpStream::connect(caller.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", caller.path, caller.address);
    let pause = Duration::from_secs(1) / caller.rate;
    let count = u64::from(caller.rate) * caller.seconds;
    let mut took = Vec::new();
    let mut due = Instant::now();
    for _ in 0..count {
        due += pause;
        let ahead = due.saturating_duration_since(Instant::now());
        sleep(ahead);
        // What the clock wakes late is not the server's; what the last answer was late is.
        let from = if ahead.is_zero() { due } else { Instant::now() };
        stream.write_all(request.as_bytes())?;
        answer(&mut stream)?;
        took.push(from.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    let p99 = took.get(took.len() * 99 / 100).context("nothing was asked")?;
    println!("{p99}");
    Ok(())
}

/// Reads one answer, which must be a 200 with a length.
fn answer(stream: &mut TcpStream) -> Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the server ended the connection");
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "an answer other than 200: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        if bytes.len() >= end + 4 + length {
            return Ok(());
        }
    }
}
