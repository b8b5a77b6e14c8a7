//! `hearth model load|unload|pin`: asks the server to load, unload or pin a model; it never decides what is evicted.

use super::Target;
use super::client::{Client, encode, full};
use super::output::{print, print_json, printable};
use crate::api::{ModelLoaded, ModelPinned, ModelUnloaded, PinModel};
use anyhow::Result;
use http::{HeaderMap, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Arguments of `hearth model load` and `unload`.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The model: NAME, NAME@VERSION or NAME@ALIAS
    name: String,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `hearth model pin`.
#[derive(Debug, clap::Args)]
pub struct Pin {
    /// The model: NAME, NAME@VERSION or NAME@ALIAS
    name: String,
    /// Unpin it: it may be evicted again
    #[arg(long)]
    off: bool,
    /// From 0 to 255: models of a lower priority are evicted first
    #[arg(long, default_value_t = 0)]
    priority: u8,
    #[command(flatten)]
    target: Target,
}

impl Named {
    pub(super) async fn load(self) -> Result<()> {
        let value: ModelLoaded = self.post("load").await?;
        self.tell(&value, value.version, &format!("is {}", value.state.as_str()))
    }

    pub(super) async fn unload(self) -> Result<()> {
        let value: ModelUnloaded = self.post("unload").await?;
        let what = match (value.unloaded, value.pinned) {
            (true, _) => "is unloaded",
            (false, true) => "stays in memory: a model with the same bytes, of another name or tenant, is pinned",
            (false, false) => "is unloaded as soon as the calls that use it have ended",
        };
        self.tell(&value, value.version, what)
    }

    async fn post<T: DeserializeOwned>(&self, what: &str) -> Result<T> {
        let path = format!("/v1/models/{}/{what}", encode(&self.name));
        Client::new(&self.target)?.call(Method::POST, &path, HeaderMap::new(), full(Vec::new())).await
    }

    fn tell(&self, value: &impl Serialize, version: u64, what: &str) -> Result<()> {
        if self.target.json {
            return print_json(value);
        }
        let name = self.name.split('@').next().unwrap_or(&self.name);
        print(&format!("{}@{version} {what}\n", printable(name)))
    }
}

impl Pin {
    pub(super) async fn run(self) -> Result<()> {
        let body = PinModel { pinned: !self.off, priority: self.priority };
        let path = format!("/v1/models/{}/pin", encode(&self.name));
        let value: ModelPinned = Client::new(&self.target)?.send_json(Method::POST, &path, &body).await?;
        let what = if self.off { "may be evicted again" } else { "stays in memory" };
        Named { name: self.name, target: self.target }.tell(&value, value.version, what)
    }
}
