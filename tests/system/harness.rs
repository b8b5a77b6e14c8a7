//! Servers for the tests, in this process or in their own, and the components and models from set-up. It never tests anything.

use crate::client::{Client, Reply};
use hearth::config::RawConfig;
use hearth::http::Server;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::task::JoinHandle;

/// A server in this process, on a free port, with its own data folder.
pub(crate) struct TestServer {
    pub(crate) client: Client,
    _data: tempfile::TempDir,
    task: JoinHandle<()>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl TestServer {
    pub(crate) async fn start() -> TestServer {
        TestServer::with_limits(&[]).await
    }

    /// With limits as `--limit` takes them.
    pub(crate) async fn with_limits(limits: &[&str]) -> TestServer {
        TestServer::with(limits, false).await
    }

    /// With limits, and optionally with functions that get only what their settings grant.
    pub(crate) async fn with(limits: &[&str], require_grants: bool) -> TestServer {
        let data = tempfile::tempdir().unwrap();
        let raw = RawConfig {
            listen: Some("127.0.0.1:0".to_owned()),
            data: Some(data.path().join("data")),
            ort_lib: ort_library(),
            require_grants,
            // The program of the tests has no command for a child.
            program: Some(env!("CARGO_BIN_EXE_hearth").into()),
            // Enough for these tests, and many servers run at once.
            limits: ["concurrent_invocations=32"].iter().chain(limits).map(|limit| (*limit).to_owned()).collect(),
            // Tests use this device, also on machines with a GPU.
            device: Some("cpu".to_owned()),
            ..RawConfig::default()
        };
        let server = Server::bind(raw.resolve().unwrap()).await.unwrap();
        let client = Client::new(server.address());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            server.serve(async { drop(stopped.await) }).await.unwrap();
        });
        TestServer { client, _data: data, task, stop: Some(stop) }
    }

    /// Ends the server as a signal would, and waits for it.
    pub(crate) async fn shut_down(mut self) {
        self.stop.take();
        (&mut self.task).await.unwrap();
    }

    /// Uploads a component that set-up built, and gives the reply's JSON.
    pub(crate) async fn deploy(&self, name: &str, component: &str) -> serde_json::Value {
        self.client.put(&format!("/v1/functions/{name}"), self::component(component)).await.expect(201).json()
    }

    /// Uploads a model folder that set-up made.
    pub(crate) async fn add_model(&self, name: &str) -> serde_json::Value {
        self.client.put(&format!("/v1/models/{name}"), model_tar(name)).await.expect(201).json()
    }
}

/// As many endless calls of the function `probe` as there are cores.
pub(crate) fn take_all_cores(client: &Client) -> Vec<JoinHandle<Reply>> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let call = |client: Client| async move { client.get("/fn/probe/hostile/loop").await };
    (0..cores).map(|_| tokio::spawn(call(client.clone()))).collect()
}

/// A server in its own process, killed when dropped.
pub(crate) struct Process {
    pub(crate) client: Client,
    child: Child,
}

impl Process {
    pub(crate) fn start(data: &Path) -> Process {
        Process::start_as(command(), data)
    }

    /// With the environment and the log of `command`.
    pub(crate) fn start_as(command: Command, data: &Path) -> Process {
        Process::launch(command, data, &[])
    }

    /// With further arguments of `serve`.
    pub(crate) fn with(data: &Path, arguments: &[&str]) -> Process {
        Process::launch(command(), data, arguments)
    }

    fn launch(mut command: Command, data: &Path, arguments: &[&str]) -> Process {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().parse().unwrap_or_else(|_| panic!("said: {line}"));
        Process { client: Client::new(address), child }
    }

    /// The process's ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The binary under test.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command.envs(ort_library().map(|library| ("HEARTH_ORT_LIB", library)));
    command
}

/// The onnxruntime library that is configured, or the one from set-up.
pub(crate) fn ort_library() -> Option<PathBuf> {
    let named = std::env::var_os("HEARTH_ORT_LIB").map(PathBuf::from);
    named.or_else(|| std::fs::read_dir(setup("lib")).ok()?.find_map(|entry| Some(entry.ok()?.path())))
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The path of something that set-up made.
pub(crate) fn setup(name: &str) -> PathBuf {
    root().join("target/setup").join(name)
}

/// Set-up's Python with the reference packages; if there is none, `None` and a printed line, or a failure if references are
/// required.
pub(crate) fn python() -> Option<Command> {
    match std::env::var_os("HEARTH_TEST_PYTHON") {
        Some(program) => Some(Command::new(program)),
        None => {
            assert!(std::env::var_os("HEARTH_REQUIRE_REFERENCES").is_none(), "HEARTH_TEST_PYTHON is not set");
            println!("not compared with the reference: HEARTH_TEST_PYTHON is not set; `cargo xtask test` sets it");
            None
        }
    }
}

/// A component that set-up built.
pub(crate) fn component(name: &str) -> Vec<u8> {
    let path = root().join("target/guests/components").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask setup`", path.display()))
}

/// The folder of a model that set-up made.
pub(crate) fn model_folder(name: &str) -> PathBuf {
    setup("models").join(name)
}

/// The same as an archive.
pub(crate) fn model_tar(name: &str) -> Vec<u8> {
    let folder = model_folder(name);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", &folder).unwrap_or_else(|error| {
        panic!("{}: {error}; run `cargo xtask setup`", folder.display());
    });
    archive.into_inner().unwrap()
}
