//! Measures how a hostile guest delays others: the 99th percentile of an echo's latency without and beside each attack, on every
//! core. It never fails on a time.

use crate::attacks::{ATTACKS, Attacker, Material};
use crate::load::Server;
use crate::median;
use crate::paced::{self, Found};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Seconds of each measurement.
const SECONDS: u64 = 2;
/// Requests a second, and seconds, of a caller that does not occupy a core: so few that no answer is late because the previous
/// one was.
const RATE: u32 = 100;
const PACED_SECONDS: u64 = 10;
const HEAD: &str = " without   beside   ratio left out";
/// How long an attack runs before anything is measured: by then a virtual machine has its memory from its host.
const BEFORE: Duration = Duration::from_secs(3);

/// Prints a table for each of the programs, whose runs alternate, with the attacks whose names contain one of `only`; with all if
/// it is empty.
pub(crate) fn print(
    programs: &[PathBuf],
    components: &Path,
    folder: &Path,
    only: &[String],
    runs: usize,
) -> Result<()> {
    let file = |name: &str| components.join(name).with_extension("wasm");
    let table = folder.join("table.wasm");
    std::fs::write(&table, Material::table())?;
    let echo = std::fs::read(file("echo")).context("`cargo xtask guests` makes the components")?;
    let material = Arc::new(Material::new(echo)?);
    let mut servers = Vec::new();
    for (index, program) in programs.iter().enumerate() {
        let server = Server::everywhere(program, &folder.join(format!("neighbours-{index}")))?;
        for (name, component) in [("echo", file("echo")), ("probe", file("probe")), ("table", table.clone())] {
            server.deploy(program, &component, name)?;
        }
        servers.push(server);
    }
    let first = if paced::goes_first() { "before everybody" } else { "like everybody" };
    println!(
        "\nThe 99th percentile of an echo's latency in microseconds, without and beside attacks that are repeated without \
         pause,\nmedians of {runs} runs, server and load on all cores. Left a caller who asks {RATE} times a second for \
         {PACED_SECONDS} s and gets cores\n{first}, right one who asks without pause for {SECONDS} s, and takes a core with \
         the server. A request's time\nends when its answer is in the caller's socket, by the kernel's clock. Requests during which \
         a core stood still, also for\na thread that goes before all others, are left out, but for uploads; the last of each three \
         columns tells how many beside\nthe attack.\n"
    );
    println!("{:>28} {:>8} | {HEAD} | {HEAD}", "attack", "at once");
    let measure = |server: &Server, watched: bool| -> Result<[Found; 2]> {
        let measure = |rate, seconds| paced::measure(server.address(), "/fn/echo", rate, seconds, watched);
        Ok([measure(RATE, PACED_SECONDS)?, measure(0, SECONDS)?])
    };
    let wanted = |path: &str| only.is_empty() || only.iter().any(|part| path.contains(part.as_str()));
    let mut failed = Vec::new();
    for attack in ATTACKS.iter().filter(|attack| wanted(attack.name)) {
        let watched = !attack.starts_children();
        let mut measured: Vec<_> = servers.iter().map(|_| (Vec::new(), Vec::new())).collect();
        for _ in 0..runs {
            for (server, (without, beside)) in servers.iter().zip(&mut measured) {
                without.push(measure(server, watched)?);
                let attackers = 0..attack.at_once;
                let attackers: Vec<_> =
                    attackers.map(|_| Attacker::start(server.address(), attack, material.clone())).collect();
                std::thread::sleep(BEFORE);
                beside.push(measure(server, watched)?);
                let ended: Vec<_> = attackers.into_iter().map(Attacker::end).collect();
                failed.extend(ended.into_iter().filter_map(Result::err));
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
            println!("{:>28} {:>8} | {}{of}", attack.name, attack.at_once, columns.join(" | "));
        }
    }
    match failed.pop() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
