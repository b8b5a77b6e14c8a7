//! Turns flags, environment and a file into one valid `Config`; it never starts anything.

mod limits;

pub use limits::{LIMITS, Limit, Limits};

use crate::error::{Error, Result};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// Settings as written: flags, environment variables, and a file for what neither sets.
#[derive(Clone, Debug, Default, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawConfig {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "HEARTH_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// Folder for everything that lasts: catalog, uploads, compiled code [default: ./hearth-data]
    #[arg(long, env = "HEARTH_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The onnxruntime library (libonnxruntime.so) [default: DATA/lib, then the loader's path]
    #[arg(long, env = "HEARTH_ORT_LIB", value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Threads that one model run may use [default: the machine's cores]
    #[arg(long, env = "HEARTH_MODEL_THREADS", value_name = "N")]
    pub model_threads: Option<usize>,
    /// Where tensors are stored and operators run: cpu, cuda:N (the N-th GPU), or auto (cuda:0 where it works, else cpu)
    /// [default: auto]
    #[arg(long, env = "HEARTH_DEVICE", value_name = "DEVICE")]
    pub device: Option<String>,
    /// The library that compiles kernels (libnvrtc.so) [default: DATA/lib, the loader's path, then CUDA's installation]
    #[arg(long, env = "HEARTH_NVRTC_LIB", value_name = "FILE")]
    pub nvrtc_lib: Option<PathBuf>,
    /// Serve on an address that other machines reach, without authentication
    #[arg(long, env = "HEARTH_INSECURE")]
    pub insecure: bool,
    /// Run functions only with what their settings grant, even if only this machine can reach the server
    #[arg(long, env = "HEARTH_REQUIRE_GRANTS")]
    pub require_grants: bool,
    /// Set a limit; repeat for several. `hearth status` lists them all
    #[arg(long = "limit", env = "HEARTH_LIMITS", value_name = "NAME=VALUE", value_delimiter = ',')]
    pub limits: Vec<String>,
    /// The program that is started for work on untrusted input [default: this one]. Tests need it that run the server inside the
    /// test program.
    #[arg(hide = true, long, env = "HEARTH_PROGRAM", value_name = "FILE")]
    #[serde(skip)]
    pub program: Option<PathBuf>,
    /// A TOML file with the same settings, used for what flags and environment do not set
    #[arg(long, env = "HEARTH_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// Which device a server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where there is one that works, else the CPU.
    Auto,
    /// Host memory and the CPU.
    Cpu,
    /// The GPU of this number, from 0.
    Cuda(u32),
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceChoice> {
        let wrong = || {
            Error::invalid_argument(format!(
                "--device '{text}' is no device; it takes auto, cpu or cuda:N, such as cuda:0"
            ))
        };
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => {
                let number =
                    text.strip_prefix("cuda:").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
                number.and_then(|digits| digits.parse().ok()).map(DeviceChoice::Cuda).ok_or_else(wrong)
            }
        }
    }
}

/// Valid settings; below this point nothing is optional that is known.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The data folder; made absolute.
    pub data: PathBuf,
    /// The onnxruntime library, where one was named.
    pub ort_lib: Option<PathBuf>,
    /// Threads of one model run.
    pub model_threads: usize,
    /// Where tensors are stored and operators run.
    pub device: DeviceChoice,
    /// The NVRTC library, where one was named.
    pub nvrtc_lib: Option<PathBuf>,
    /// Whether functions get only what their settings grant, even if only this machine can reach the server.
    pub require_grants: bool,
    /// The program that is started for work on untrusted input.
    pub program: PathBuf,
    /// Every limit.
    pub limits: Limits,
}

impl Config {
    /// Whether functions are granted what they ask for. This is so where only users of this machine can upload functions and
    /// `require_grants` is not set.
    pub fn grants_are_automatic(&self) -> bool {
        self.listen.ip().is_loopback() && !self.require_grants
    }
}
/// This program, even if its file was replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";

impl RawConfig {
    /// Reads the file named by `--config`, if any, and gives valid settings. Flags and environment win over the file.
    pub fn resolve(self) -> Result<Config> {
        let file = match &self.config {
            None => RawConfig::default(),
            Some(path) => read(path)?,
        };
        let listen = self.listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
        let listen = address(&listen)?;
        let insecure = self.insecure || file.insecure;
        if !listen.ip().is_loopback() && !insecure {
            return Err(Error::invalid_argument(format!(
                "{listen} can be reached from other machines and hearth has no authentication there; \
                 listen on 127.0.0.1, or pass --insecure if the network is trusted"
            )));
        }
        let require_grants = self.require_grants || file.require_grants;
        let data = self.data.or(file.data).unwrap_or_else(|| PathBuf::from("hearth-data"));
        let data = std::path::absolute(&data)
            .map_err(|error| Error::invalid_argument(format!("--data {}: {error}", data.display())))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let model_threads = self.model_threads.or(file.model_threads).unwrap_or(cores);
        if !(1..=1024).contains(&model_threads) {
            return Err(Error::invalid_argument(format!("--model-threads is {model_threads}, but takes 1 to 1024")));
        }
        let mut limits = Limits::default();
        for assignment in file.limits.iter().chain(&self.limits) {
            limits.set(assignment)?;
        }
        let ort_lib = self.ort_lib.or(file.ort_lib);
        let nvrtc_lib = self.nvrtc_lib.or(file.nvrtc_lib);
        let device = self.device.or(file.device).as_deref().unwrap_or("auto").parse()?;
        let program = self.program.unwrap_or_else(|| PathBuf::from(THIS_PROGRAM));
        Ok(Config { listen, data, ort_lib, model_threads, device, nvrtc_lib, require_grants, program, limits })
    }
}

fn read(path: &Path) -> Result<RawConfig> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::invalid_argument(format!("--config {}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| Error::malformed(format!("{}: {error}", path.display())))
}

fn address(text: &str) -> Result<SocketAddr> {
    let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.ok_or_else(|| {
        Error::invalid_argument(format!("--listen '{text}' is no address and port; write it like 127.0.0.1:8080"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(listen: &str) -> RawConfig {
        RawConfig { listen: Some(listen.to_owned()), ..RawConfig::default() }
    }

    #[test]
    fn an_open_listener_needs_insecure() {
        let refused = raw("0.0.0.0:80").resolve().unwrap_err();
        assert!(refused.message().contains("--insecure"), "{refused}");
        assert!(RawConfig { insecure: true, ..raw("0.0.0.0:80") }.resolve().is_ok());
        assert!(raw("localhost:0").resolve().unwrap().listen.ip().is_loopback());
    }

    #[test]
    fn grants_are_automatic_on_loopback_alone() {
        assert!(raw("127.0.0.1:0").resolve().unwrap().grants_are_automatic());
        let careful = RawConfig { require_grants: true, ..raw("127.0.0.1:0") };
        assert!(!careful.resolve().unwrap().grants_are_automatic());
        let open = RawConfig { insecure: true, ..raw("0.0.0.0:80") };
        assert!(!open.resolve().unwrap().grants_are_automatic());
    }

    #[test]
    fn wrong_settings_name_the_flag() {
        assert!(raw("nowhere").resolve().unwrap_err().message().contains("--listen"));
        let threads = RawConfig { model_threads: Some(0), ..RawConfig::default() };
        assert!(threads.resolve().unwrap_err().message().contains("--model-threads"));
        for text in ["gpu", "cuda", "cuda:", "cuda:-1", "cuda:+1", "cuda:99999999999", "CPU"] {
            let device = RawConfig { device: Some(text.to_owned()), ..RawConfig::default() };
            assert!(device.resolve().unwrap_err().message().contains("--device"), "{text}");
        }
    }

    #[test]
    fn devices_have_names() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:12", DeviceChoice::Cuda(12)),
        ] {
            let device = RawConfig { device: Some(text.to_owned()), ..RawConfig::default() };
            assert_eq!(device.resolve().unwrap().device, choice);
        }
        assert_eq!(RawConfig::default().resolve().unwrap().device, DeviceChoice::Auto);
    }
}
