//! `hearth deploy`: uploads a component; it never reads its contents.

use super::client::{Client, encode};
use super::component::wishes;
use super::output::{print, print_json, printable, short_digest};
use super::{Target, upload};
use crate::api::FunctionPut;
use anyhow::Result;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Arguments of `hearth deploy`.
#[derive(Debug, clap::Args)]
pub struct Deploy {
    /// The component, a .wasm file
    file: PathBuf,
    /// The function's name [default: the file's, without .wasm and with - for _]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Deploy {
    pub(super) async fn run(self) -> Result<()> {
        let name = self.name.map_or_else(|| upload::suggested_name(&self.file), Ok)?;
        let client = Client::new(&self.target)?;
        let upload = upload::file(&self.file, "the server is compiling").await?;
        let value: FunctionPut =
            put(&client, &format!("/v1/functions/{}", encode(&name)), upload, "application/wasm").await?;
        if self.target.json {
            return print_json(&value);
        }
        let mut text = format!(
            "{}@{} is live ({}, {})\n",
            printable(&value.name),
            value.version,
            printable(&value.world),
            short_digest(&value.digest)
        );
        let asks = wishes(&value.grants_requested);
        if !asks.is_empty() {
            text.push_str(&format!("it asks for {asks}\n"));
        }
        let missing = wishes(&value.missing_grants);
        if !missing.is_empty() {
            text.push_str(&format!("it cannot run before it is granted {missing}; grant it with `hearth settings`\n"));
        }
        text.push_str(&format!("call it at {}\n", client.url(&format!("/fn/{}", encode(&name)))));
        print(&text)
    }
}

/// Sends an upload by PUT to a path.
pub(super) async fn put<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    upload: upload::Upload,
    content_type: &'static str,
) -> Result<T> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(bytes) = upload.bytes {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    let answer = client.call(Method::PUT, path, headers, upload.body).await;
    upload.progress.finish_and_clear();
    answer
}
