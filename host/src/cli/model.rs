//! `hearth model add|list`: uploads and lists models; it never reads one.

use super::client::{Client, encode};
use super::deploy::put;
use super::output::{field, items, print, print_json, printable, short_digest, size, table, word};
use super::{Target, upload};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;

/// The commands below `hearth model`.
#[derive(Debug, clap::Subcommand)]
pub enum Model {
    /// Upload a model: an .onnx file, a .tar or .tar.gz, or a folder with model.onnx and assets/
    Add(Add),
    /// List the models
    List(List),
}

/// Arguments of `hearth model add`.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// An .onnx file, a .tar or .tar.gz, or a folder (names beginning with a dot are left out)
    path: PathBuf,
    /// The model's name [default: the path's last part, without its extension and with - for _]
    #[arg(long)]
    name: Option<String>,
    /// The engine that it is to run on: auto, onnxruntime or rten [default: what its model.toml says, else auto]
    #[arg(long)]
    engine: Option<String>,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `hearth model list`.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    target: Target,
}

impl Model {
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Model::Add(add) => add.run().await,
            Model::List(list) => list.run().await,
        }
    }
}

impl Add {
    async fn run(self) -> Result<()> {
        const CHECKING: &str = "the server is loading and checking the model";
        let path = &self.path;
        let name = self.name.map_or_else(|| upload::suggested_name(path), Ok)?;
        let client = Client::new(&self.target)?;
        let found = tokio::fs::metadata(path).await.with_context(|| format!("cannot read {}", path.display()))?;
        let upload = match found.is_dir() {
            true => upload::folder(path, CHECKING).await?,
            false => upload::file(path, CHECKING).await?,
        };
        let query = self.engine.map_or_else(String::new, |engine| format!("?engine={}", encode(&engine)));
        let path = format!("/v1/models/{}{query}", encode(&name));
        let value = put(&client, &path, upload, "application/octet-stream").await?;
        if self.target.json {
            return print_json(&value);
        }
        let head = format!(
            "{}@{} is live ({}, {})\n",
            printable(&field(&value, "name")),
            field(&value, "version"),
            engines(&value),
            short_digest(&value)
        );
        let signature = signature(value.get("signature").unwrap_or(&Value::Null));
        print(&(head + &signature + &refusals(&value)))
    }
}

impl List {
    async fn run(self) -> Result<()> {
        let value = Client::new(&self.target)?.get("/v1/models").await?;
        if self.target.json {
            return print_json(&value);
        }
        let row = |model: &Value| {
            let of = |key| field(model, key);
            vec![
                of("name"),
                of("version"),
                of("state"),
                size(model, "bytes"),
                of("runs_on"),
                engines(model),
                short_digest(model),
                of("created_at"),
            ]
        };
        let models = items(&value, "models");
        let rows: Vec<_> = models.iter().map(row).collect();
        let titles = ["NAME", "VERSION", "STATE", "SIZE", "RUNS ON", "PASSED ON", "DIGEST", "CREATED"];
        print(&(table(&titles, &rows) + &models.iter().map(refusals).collect::<String>()))
    }
}

/// The engines whose check a model passed, and by how much they differ: `onnxruntime, rten (differs by 1.2e-6)`.
fn engines(model: &Value) -> String {
    let passed = items(model, "engines").iter().filter(|verdict| verdict.get("passed") == Some(&Value::Bool(true)));
    let told = passed.map(|verdict| {
        let name = printable(&field(verdict, "engine"));
        match verdict.get("difference").and_then(Value::as_f64) {
            Some(difference) => format!("{name} (differs by {difference:.1e})"),
            None => name,
        }
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Why the other engines are refused, one line each.
fn refusals(model: &Value) -> String {
    let refused = items(model, "engines").iter().filter(|verdict| verdict.get("passed") == Some(&Value::Bool(false)));
    let told = refused.map(|verdict| {
        let of = |key| printable(&field(verdict, key));
        format!("\n{} cannot run on {}: {}\n", printable(&field(model, "name")), of("engine"), of("reason"))
    });
    told.collect()
}

/// What a model takes and gives, one line each: `input  image  f32 [batch, 3, ?]`.
fn signature(signature: &Value) -> String {
    let line = |way: &'static str| {
        move |tensor: &Value| {
            let dims = items(tensor, "shape").iter().map(|dim| if dim.is_null() { "?".to_owned() } else { word(dim) });
            let shape = format!("{} [{}]", field(tensor, "dtype"), dims.collect::<Vec<_>>().join(", "));
            vec![way.to_owned(), field(tensor, "name"), shape]
        }
    };
    let inputs = items(signature, "inputs").iter().map(line("input"));
    let rows: Vec<_> = inputs.chain(items(signature, "outputs").iter().map(line("output"))).collect();
    if rows.is_empty() { String::new() } else { table(&["", "NAME", "TENSOR"], &rows) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn engines_are_told_with_their_difference_and_the_reason_against_them() {
        let value = json!({"name": "m", "engines": [
            {"engine": "onnxruntime", "passed": true},
            {"engine": "rten", "passed": true, "difference": 1.25e-6},
        ]});
        assert_eq!(engines(&value), "onnxruntime, rten (differs by 1.2e-6)");
        assert_eq!(refusals(&value), "");
        let value = json!({"name": "m", "engines": [
            {"engine": "onnxruntime", "passed": true},
            {"engine": "rten", "passed": false, "reason": "no LRN"},
        ]});
        assert_eq!(
            (engines(&value).as_str(), refusals(&value).as_str()),
            ("onnxruntime", "\nm cannot run on rten: no LRN\n")
        );
    }

    #[test]
    fn signatures_are_printed_as_in_messages() {
        let value = json!({
            "inputs": [{"name": "image", "dtype": "f32", "shape": ["batch", 3, null], "batch_axis": 0}],
            "outputs": [{"name": "y", "dtype": "s64", "shape": [], "batch_axis": null}],
        });
        let text = signature(&value);
        assert_eq!(text, "        NAME   TENSOR\ninput   image  f32 [batch, 3, ?]\noutput  y      s64 []\n");
        assert_eq!(signature(&Value::Null), "");
    }
}
