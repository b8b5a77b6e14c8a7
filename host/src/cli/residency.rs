//! `hearth model load|unload|pin`: asks for a model's place in memory; it never decides one.

use super::Target;
use super::client::{Client, encode, full};
use super::output::{field, print, print_json, printable};
use anyhow::Result;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

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
    /// Let it make room for others again
    #[arg(long)]
    off: bool,
    /// From 0 to 255: models of a lower priority make room first
    #[arg(long, default_value_t = 0)]
    priority: u8,
    #[command(flatten)]
    target: Target,
}

impl Named {
    pub(super) async fn load(self) -> Result<()> {
        let value = self.post("load").await?;
        self.tell(&value, &format!("is {}", printable(&field(&value, "state"))))
    }

    pub(super) async fn unload(self) -> Result<()> {
        let value = self.post("unload").await?;
        let is = |key: &str| value.get(key) == Some(&Value::Bool(true));
        let what = match (is("unloaded"), is("pinned")) {
            (true, _) => "is unloaded",
            (false, true) => "stays in memory: a model with the same bytes, of another name or tenant, is pinned",
            (false, false) => "is unloaded as soon as the calls that use it have ended",
        };
        self.tell(&value, what)
    }

    async fn post(&self, what: &str) -> Result<Value> {
        let path = format!("/v1/models/{}/{what}", encode(&self.name));
        Client::new(&self.target)?.call(Method::POST, &path, HeaderMap::new(), full(Vec::new())).await
    }

    fn tell(&self, value: &Value, what: &str) -> Result<()> {
        if self.target.json {
            return print_json(value);
        }
        print(&format!("{}@{} {what}\n", printable(&field(value, "name")), field(value, "version")))
    }
}

impl Pin {
    pub(super) async fn run(self) -> Result<()> {
        let body = json!({ "pinned": !self.off, "priority": self.priority }).to_string();
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let path = format!("/v1/models/{}/pin", encode(&self.name));
        let value = Client::new(&self.target)?.call(Method::POST, &path, headers, full(body)).await?;
        let what = if self.off { "makes room for others again" } else { "stays in memory" };
        Named { name: self.name, target: self.target }.tell(&value, what)
    }
}
