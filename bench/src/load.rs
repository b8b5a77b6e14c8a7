//! Servers on one core and `wrk` on another; it never counts a run in which a request failed.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; ended when dropped.
pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
    path: &'static str,
}

impl Server {
    /// hearth with the component deployed as `echo`.
    pub(crate) fn hearth(program: &Path, component: &Path, data: &Path, core: usize) -> Result<Server> {
        let server = Server::serve(on_core(core, program), data)?;
        server.deploy(program, component, "echo")?;
        Ok(server)
    }

    /// hearth on every core, with nothing deployed; load goes to the function `echo`.
    pub(crate) fn everywhere(program: &Path, data: &Path) -> Result<Server> {
        Server::serve(Command::new(program), data)
    }

    fn serve(mut hearth: Command, data: &Path) -> Result<Server> {
        let address = free_address()?;
        hearth.args(["serve", "--listen", &address.to_string(), "--data"]).arg(data).env("HEARTH_LOG", "error");
        Server::start(hearth, address, "/fn/echo")
    }

    /// Deploys a component.
    pub(crate) fn deploy(&self, program: &Path, component: &Path, name: &str) -> Result<()> {
        let mut deploy = Command::new(program);
        deploy.arg("deploy").arg(component).args(["--name", name, "--server", &format!("http://{}", self.address)]);
        let output = deploy.output().with_context(|| format!("cannot start {}", program.display()))?;
        ensure!(output.status.success(), "hearth deploy failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// This program's own echo with hyper alone.
    pub(crate) fn bare_hyper(itself: &Path, core: usize) -> Result<Server> {
        let address = free_address()?;
        let mut command = on_core(core, itself);
        command.args(["hyper", &address.port().to_string()]);
        Server::start(command, address, "/")
    }

    fn start(mut command: Command, address: SocketAddr, path: &'static str) -> Result<Server> {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start a server")?;
        let mut server = Server { process, address, path };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.process.try_wait()? {
                bail!("a server ended by itself ({status})");
            }
            ensure!(started.elapsed() < Duration::from_secs(60), "a server did not listen within 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The load generator.
pub(crate) struct Load {
    folder: PathBuf,
    core: usize,
    seconds: u64,
}

impl Load {
    /// Scripts go to `folder`. Runs on one core.
    pub(crate) fn new(folder: &Path, core: usize, seconds: u64) -> Load {
        Load { folder: folder.to_owned(), core, seconds }
    }

    /// Microseconds a request: GET without a body, or POST of `bytes`, on 16 connections.
    pub(crate) fn microseconds(&self, server: &Server, bytes: usize) -> Result<f64> {
        let mut script = Vec::new();
        if bytes > 0 {
            let path = self.folder.join(format!("post-{bytes}.lua"));
            let text = format!(
                "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {bytes})\nwrk.headers[\"content-type\"] = \"text/plain\"\n"
            );
            fs::write(&path, text)?;
            script = vec!["-s".into(), path.into_os_string()];
        }
        Ok(1e6 / requests_per_second(&self.wrk(server, &script)?)?)
    }

    fn wrk(&self, server: &Server, more: &[OsString]) -> Result<String> {
        let mut command = on_core(self.core, Path::new("wrk"));
        command.args(["-t1", "-c16", &format!("-d{}s", self.seconds)]).args(more);
        let output =
            command.arg(format!("http://{}{}", server.address, server.path)).output().context("cannot start wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        for fault in ["Non-2xx", "Socket errors"] {
            ensure!(!text.contains(fault), "requests failed under load:\n{text}");
        }
        Ok(text.into_owned())
    }
}

fn requests_per_second(text: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate: f64 = line.context("wrk printed no rate")?.trim().parse().context("wrk printed no rate")?;
    ensure!(rate > 0.0, "no request was answered under load:\n{text}");
    Ok(rate)
}

fn on_core(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_wrk_prints() {
        assert_eq!(requests_per_second("  2 threads\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n").unwrap(), 12345.67);
        assert!(requests_per_second("Requests/sec:  0.00\n").is_err());
        assert!(requests_per_second("nothing").is_err());
    }
}
