//! `hearth dev`: builds and deploys a crate, again at every change of its sources, and prints the function's log; it uses the
//! server only through its URL.

mod watch;

use super::Target;
use super::build::{Built, Project, Source};
use super::client::{Client, encode, full};
use super::output::{print, printable};
use super::{logs, upload};
use crate::api::{FunctionPut, LoggedLine, ModelList};
use crate::config::RawConfig;
use anyhow::Result;
use hearth_guest_build::Toolchain;
use http::{HeaderMap, HeaderValue, Method, header};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use watch::Watch;

/// Arguments of `hearth dev`.
#[derive(Debug, clap::Args)]
pub struct Dev {
    #[command(flatten)]
    source: Source,
    /// The function's name [default: the package's, with - for _]
    #[arg(long)]
    name: Option<String>,
    /// Deploy to a running server instead of starting one; the server's flags are then ignored
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The settings of the server that it starts. Its data folder is .hearth in the crate's folder if none is named
    #[command(flatten)]
    settings: RawConfig,
}

/// A server that was started for `hearth dev`: its address, and the task that runs it.
pub type Started = (SocketAddr, JoinHandle<Result<()>>);

impl Dev {
    /// Runs until `stop` is ready. `start` starts a server that serves until its token is cancelled.
    ///
    /// Errors: a folder without a function, no toolchain, a server that cannot be started. If a later build fails, the error is
    /// shown and the next change awaited.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        start: impl AsyncFnOnce(RawConfig, CancellationToken) -> Result<Started>,
    ) -> Result<()> {
        let Dev { source, name, server, mut settings } = self;
        let toolchain = source.toolchain().await?;
        let project = source.project(&toolchain).await?;
        let name = name.map_or_else(|| upload::suggested_name(Path::new(&project.name)), Ok)?;
        if settings.data.is_none() && settings.config.is_none() {
            settings.data = Some(project.folder.join(".hearth"));
        }
        let data = settings.data.clone();
        let end = CancellationToken::new();
        let (url, task) = match server {
            Some(url) => (url, None),
            None => {
                let (address, task) = start(settings, end.clone()).await?;
                (format!("http://{}", reachable(address)), Some(task))
            }
        };
        let client = Client::new(&Target::of(url))?;
        let session = Session { source, toolchain, name, client, version: None, hinted: BTreeSet::new() };
        let result = tokio::select! {
            () = stop => Ok(()),
            result = session.run(project, data) => result,
        };
        end.cancel();
        if let Some(task) = task {
            task.await??;
        }
        result
    }
}

/// An address at which this machine can reach a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

struct Session {
    source: Source,
    toolchain: Toolchain,
    name: String,
    client: Client,
    /// The version that is live.
    version: Option<u64>,
    /// The models that were reported missing.
    hinted: BTreeSet<String>,
}

impl Session {
    async fn run(mut self, project: Project, data: Option<PathBuf>) -> Result<()> {
        let data = data.and_then(|data| std::path::absolute(data).ok());
        let left_out = [Some(project.target.clone()), data];
        let mut watch = Watch::new(left_out.into_iter().flatten().collect())?;
        watch.add(&project.folder)?;
        if let Err(error) = watch.add_alone(&project.workspace) {
            eprintln!("hearth: {error:#}");
        }
        let mut follower: Option<Follower> = None;
        let lock = project.workspace.join("Cargo.lock");
        let (mut project, mut began) = (Some(project), Instant::now());
        loop {
            let renewed = self.renew(&mut project).await;
            watch.settle(&lock);
            match renewed {
                Ok((built, deployed)) => {
                    for folder in &built.folders {
                        if let Err(error) = watch.add(folder) {
                            eprintln!("hearth: {error:#}");
                        }
                    }
                    if follower.is_none() {
                        follower = Some(Follower::start(&self.client, &self.name).await);
                    }
                    self.tell(&deployed, began.elapsed())?;
                    self.hint_at_models(&deployed).await;
                }
                Err(error) => {
                    let stays =
                        self.version.map_or_else(String::new, |version| format!("version {version} stays live; "));
                    eprintln!("hearth: {}; {stays}waiting for a change", printable(&format!("{error:#}")));
                }
            }
            let change = watch.change().await?;
            began = change.began;
            if change.manifests {
                project = None;
            }
        }
    }

    /// Builds the current sources and deploys the component. Asks cargo for the project if it is not known.
    async fn renew(&self, project: &mut Option<Project>) -> Result<(Built, FunctionPut)> {
        let project = match project {
            Some(project) => project,
            None => project.insert(self.source.project(&self.toolchain).await?),
        };
        let built = project.build(&self.toolchain).await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
        let path = format!("/v1/functions/{}", encode(&self.name));
        let deployed = self.client.call(Method::PUT, &path, headers, full(built.wasm.clone())).await?;
        Ok((built, deployed))
    }

    fn tell(&mut self, deployed: &FunctionPut, took: Duration) -> Result<()> {
        let version = deployed.version;
        let seconds = took.as_secs_f64();
        let url = self.client.url(&format!("/fn/{}", encode(&self.name)));
        let folder = self.source.folder().display();
        let text = match self.version.replace(version) {
            None => format!(
                "{}@{version} is live in {seconds:.1} s: {url}\n  curl {url} -d 'hello'\nwatching {folder} for changes; \
                 ctrl-c ends\n",
                self.name
            ),
            Some(before) if before == version => {
                format!("the component is the same as before; version {version} stays live\n")
            }
            Some(_) => format!("live again as version {version} in {seconds:.1} s\n"),
        };
        print(&text)
    }

    /// Prints, once for each, how to add a model that the function requests and the server lacks.
    async fn hint_at_models(&mut self, deployed: &FunctionPut) {
        let wanted = deployed.grants_requested.models.iter();
        let wanted: Vec<&str> = wanted.map(|model| model.split('@').next().unwrap_or(model)).collect();
        if wanted.is_empty() {
            return;
        }
        // A hint must not cause a failure.
        let Ok(ModelList { models }) = self.client.get("/v1/models").await else { return };
        let has: BTreeSet<String> = models.into_iter().map(|model| model.summary.name).collect();
        for model in wanted {
            if !has.contains(model) && self.hinted.insert(model.to_owned()) {
                let (model, server) = (printable(model), self.client.url(""));
                eprintln!(
                    "hearth: the function asks for the model {model}, which the server lacks: hearth model add PATH \
                     --name {model} --server {server}"
                );
            }
        }
    }
}

/// The task that prints the function's log; it ends with this value.
struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    /// Follows the log from now on; completes when the server is sending lines.
    async fn start(client: &Client, name: &str) -> Follower {
        const AGAIN: Duration = Duration::from_secs(1);
        let (client, name) = (client.clone(), name.to_owned());
        let (connected, ready) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let mut connected = Some(connected);
            loop {
                let newest = vec!["limit=0".to_owned()];
                let stream = logs::Stream::open(&client, &name, newest).await;
                // The caller waits for the first answer, whether it succeeds or not.
                drop(connected.take());
                if let Ok(stream) = stream {
                    let show = |line: &LoggedLine| print(&(logs::text(line) + "\n")).map(ControlFlow::Continue);
                    // After the server restarted, its log is followed again.
                    stream.each(show).await.ok();
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        ready.await.ok();
        Follower(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_at_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("10.0.0.1:9", "10.0.0.1:9"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
