//! `hearth model add|list|load|unload|pin`: uploads and lists models; it never loads one itself.

use super::client::{Client, encode};
use super::deploy::put;
use super::model_files::{ModelFiles, listed};
use super::output::{field, items, print, print_json, printable, short_digest, size, table, word};
use super::residency::{Named, Pin};
use super::resume::Resumable;
use super::source::Source;
use super::{Target, upload};
use anyhow::{Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Uploads of this size and more go on after a broken connection; a smaller one is sent again as fast.
const IN_PARTS_BYTES: u64 = 64 << 20;

/// The commands below `hearth model`.
#[derive(Debug, clap::Subcommand)]
pub enum Model {
    /// Upload a model: a folder with model.onnx and assets/, one of Hugging Face with an ONNX export, an .onnx file with the
    /// external data beside it, a .tar or .tar.gz
    Add(Add),
    /// List the models
    List(List),
    /// Load a model, so that the first call need not wait for it
    Load(Named),
    /// Take a model out of memory; calls that use it end undisturbed
    Unload(Named),
    /// Load a model and keep it from making room for others
    Pin(Pin),
}

/// Arguments of `hearth model add`.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// A folder (names beginning with a dot are left out), an .onnx file, a .tar or .tar.gz
    path: PathBuf,
    /// Which .onnx file of the folder [default: model.onnx, onnx/model.onnx, or the only one]
    #[arg(long, value_name = "FILE")]
    onnx: Option<PathBuf>,
    /// The model's name [default: the path's last part, without its extension and with - for _]
    #[arg(long)]
    name: Option<String>,
    /// Go on with an upload that was given up, of the same files
    #[arg(long, value_name = "ID")]
    resume: Option<String>,
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
            Model::Load(named) => named.load().await,
            Model::Unload(named) => named.unload().await,
            Model::Pin(pin) => pin.run().await,
        }
    }
}

impl Add {
    async fn run(self) -> Result<()> {
        const CHECKING: &str = "the server is loading and checking the model";
        let path = &self.path;
        let name = self.name.map_or_else(|| upload::suggested_name(path), Ok)?;
        let client = Client::new(&self.target)?;
        let query = self.engine.map_or_else(String::new, |engine| format!("engine={}", encode(&engine)));
        let (path, onnx) = (path.clone(), self.onnx);
        let source = Arc::new(tokio::task::spawn_blocking(move || source(&path, onnx.as_deref())).await??);
        let progress = upload::bar(source.bytes());
        let value = if source.bytes() >= IN_PARTS_BYTES || self.resume.is_some() {
            let resumable = Resumable::begin(&client, source, &progress, self.resume).await?;
            let stored = resumable.store_as(&name, &query, CHECKING).await;
            progress.finish_and_clear();
            stored?
        } else {
            let (bytes, body) = (source.bytes(), upload::rest(&source, 0, &progress, Some(CHECKING)));
            let upload = upload::Upload { body, bytes: Some(bytes), progress };
            put(&client, &format!("/v1/models/{}?{query}", encode(&name)), upload, "application/octet-stream").await?
        };
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

/// What is sent of a folder or file.
fn source(path: &Path, onnx: Option<&Path>) -> Result<Source> {
    let ending = |ending| path.extension().is_some_and(|extension| extension == ending);
    let ModelFiles { files, left_out } = match (path.is_dir(), onnx) {
        (true, onnx) => ModelFiles::of_folder(path, onnx)?,
        (false, Some(_)) => bail!("--onnx chooses among the files of a folder, and {} is none", path.display()),
        (false, None) if ending("onnx") => ModelFiles::of_file(path)?,
        (false, None) => return Source::file(path),
    };
    if !left_out.is_empty() {
        eprintln!("hearth: left out: {}", listed(left_out.iter().map(String::as_str)));
    }
    match &files[..] {
        // As it is: nothing else belongs to it.
        [file] => Source::file(&file.path),
        files => Source::tar(files),
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

/// Why the other engines are refused, and what the passed ones fail of, one line each.
fn refusals(model: &Value) -> String {
    let told = items(model, "engines").iter().filter_map(|verdict| {
        let of = |key| printable(&field(verdict, key));
        let (name, engine) = (printable(&field(model, "name")), of("engine"));
        match (verdict.get("passed").and_then(Value::as_bool), verdict.get("failure")) {
            (Some(false), _) => Some(format!("\n{name} cannot run on {engine}: {}\n", of("reason"))),
            (_, Some(_)) => Some(format!("\n{name} on {engine}: {}\n", of("failure"))),
            (_, None) => None,
        }
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
            {"engine": "rten", "passed": true, "difference": 1.24e-6},
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
        let value = json!({"name": "m", "engines": [{"engine": "rten", "passed": true, "fails": 1, "failure": "odd"}]});
        assert_eq!((engines(&value).as_str(), refusals(&value).as_str()), ("rten", "\nm on rten: odd\n"));
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
