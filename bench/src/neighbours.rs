//! What others notice while a hostile guest runs: the 99th percentile of an echo's latency without and beside each attack, on
//! every core. It judges nothing.

use crate::load::Server;
use crate::median;
use crate::paced::{self, Found};
use anyhow::Result;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is called again and again, and how many do it at once. The first is well-behaved: what many calls cost a neighbour
/// without any hostility.
const ATTACKS: [(&str, usize); 15] = [
    ("echo", 1),
    ("probe/hostile/loop", 1),
    ("probe/hostile/loop", 2),
    ("probe/hostile/host-loop", 1),
    ("probe/hostile/log-loop", 1),
    ("probe/hostile/open-loop", 1),
    ("probe/hostile/tensor-loop", 1),
    ("probe/hostile/memory", 1),
    ("probe/hostile/recursion", 1),
    ("probe/hostile/panic", 1),
    ("probe/hostile/forged-handle", 1),
    ("probe/tensor/matmul-bomb", 1),
    ("probe/tensor/sort-bomb", 1),
    ("probe/tensor/resize-bomb", 1),
    ("probe/tensor/image-bomb", 1),
];

/// Seconds of each measurement.
const SECONDS: u64 = 2;
/// How often a second, and for how long, a neighbour asks that does not take a core of its own: seldom enough that no answer is
/// late because the one before was.
const RATE: u32 = 100;
const PACED_SECONDS: u64 = 10;
const HEAD: &str = " without   beside   ratio left out";
/// How long an attack lasts before anything is measured: a virtual machine has got its memory from its host by then.
const BEFORE: Duration = Duration::from_secs(3);

/// Prints a table for each of the programs, whose runs take turns, of the attacks whose names hold one of `only`; of all where it
/// is empty.
pub(crate) fn print(
    programs: &[PathBuf],
    components: &Path,
    folder: &Path,
    only: &[String],
    runs: usize,
) -> Result<()> {
    let mut servers = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        let server = Server::everywhere(program, &folder.join(format!("neighbours-{index}")))?;
        for name in ["echo", "probe"] {
            server.deploy(program, &components.join(name).with_extension("wasm"), name)?;
        }
        servers.push(server);
    }
    let first = if paced::goes_first() { "before everybody" } else { "like everybody" };
    println!(
        "\nThe 99th percentile of an echo's latency in microseconds, without and beside attacks that are repeated without \
         pause,\nmedians of {runs} runs, server and load on all cores. Left a caller who asks {RATE} times a second for \
         {PACED_SECONDS} s and gets cores\n{first}, right one who asks without pause for {SECONDS} s, and takes a core with \
         the server. Requests during which a\ncore stood still, also for a thread that goes before all others, are left out; \
         the last of each three columns\ntells how many beside the attack.\n"
    );
    println!("{:>24} {:>8} | {HEAD} | {HEAD}", "attack", "at once");
    let measure = |server: &Server| -> Result<[Found; 2]> {
        let measure = |rate, seconds| paced::measure(server.address(), "/fn/echo", rate, seconds);
        Ok([measure(RATE, PACED_SECONDS)?, measure(0, SECONDS)?])
    };
    let wanted = |path: &str| only.is_empty() || only.iter().any(|part| path.contains(part.as_str()));
    for (path, at_once) in ATTACKS.into_iter().filter(|(path, _)| wanted(path)) {
        let mut measured: Vec<_> = servers.iter().map(|_| (Vec::new(), Vec::new())).collect();
        for _ in 0..runs {
            for (server, (without, beside)) in servers.iter().zip(&mut measured) {
                without.push(measure(server)?);
                let attackers: Vec<Attacker> =
                    (0..at_once).map(|_| Attacker::start(server.address(), format!("/fn/{path}"))).collect();
                std::thread::sleep(BEFORE);
                beside.push(measure(server)?);
                drop(attackers);
            }
        }
        for (program, (without, beside)) in programs.iter().zip(&measured) {
            let of = if programs.len() > 1 { format!("  {}", program.display()) } else { String::new() };
            let columns = [0, 1].map(|which| {
                let middle = |all: &[[Found; 2]], of: fn(&Found) -> f64| {
                    median(&all.iter().map(|found| of(&found[which])).collect::<Vec<_>>())
                };
                let left_out = middle(beside, |found| found.left_out * 100.0);
                let [without, beside] = [without, beside].map(|all| middle(all, |found| found.p99_us));
                format!("{without:>8.0} {beside:>8.0} {:>6.1}x {left_out:>6.1} %", beside / without)
            });
            println!("{path:>24} {at_once:>8} | {}{of}", columns.join(" | "));
        }
    }
    Ok(())
}

/// Asks for the same again and again until it is dropped.
struct Attacker {
    over: Arc<AtomicBool>,
    connection: Arc<Mutex<Option<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Attacker {
    fn start(address: SocketAddr, path: String) -> Attacker {
        let (over, connection) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let thread = {
            let (over, connection) = (over.clone(), connection.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::Acquire) {
                    // A connection that ends early is the end of the attack.
                    let _ = ask(address, &path, &connection);
                }
            })
        };
        Attacker { over, connection, thread: Some(thread) }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(stream) = self.connection.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn ask(address: SocketAddr, path: &str, connection: &Mutex<Option<TcpStream>>) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    *connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.try_clone()?);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(())
}
