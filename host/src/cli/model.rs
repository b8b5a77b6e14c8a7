//! `hearth model add|list|load|unload|pin`: uploads and lists models; it never loads one itself.

use super::client::{Client, encode};
use super::deploy::put;
use super::model_files::{ModelFiles, listed};
use super::output::{bytes, print, print_json, printable, short_digest, table};
use super::residency::{Named, Pin};
use super::resume::Resumable;
use super::source::Source;
use super::{Target, upload};
use crate::api::{Dim, ModelItem, ModelList, ModelPut, Signature, TensorSignature, Verdict};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Uploads of this size and more are resumed after a broken connection; a smaller one is sent again as quickly.
const IN_PARTS_BYTES: u64 = 64 << 20;

/// The commands below `hearth model`.
#[derive(Debug, clap::Subcommand)]
pub enum Model {
    /// Upload a model: a folder with model.onnx and assets/, one of Hugging Face with an ONNX export, an .onnx file with external
    /// data next to it, a .tar or .tar.gz
    Add(Add),
    /// List the models
    List(List),
    /// Load a model, so that the first call need not wait for it
    Load(Named),
    /// Unload a model from memory, as soon as the calls that use it have ended
    Unload(Named),
    /// Load a model and keep it in memory: it is never evicted
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
    /// Continue an interrupted upload of the same files
    #[arg(long, value_name = "ID")]
    resume: Option<String>,
    /// The engine to run it on: auto, onnxruntime or rten [default: the one in its model.toml, else auto]
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
        let value: ModelPut = if source.bytes() >= IN_PARTS_BYTES || self.resume.is_some() {
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
            printable(&value.name),
            value.version,
            engines(&value.engines),
            short_digest(&value.digest)
        );
        print(&(head + &signature(&value.signature) + &refusals(&value.name, &value.engines)))
    }
}

impl List {
    async fn run(self) -> Result<()> {
        let value: ModelList = Client::new(&self.target)?.get("/v1/models").await?;
        if self.target.json {
            return print_json(&value);
        }
        let row = |model: &ModelItem| {
            let ModelItem { summary, state, runs_on, .. } = model;
            vec![
                summary.name.clone(),
                summary.version.to_string(),
                state.as_str().to_owned(),
                bytes(summary.bytes),
                runs_on.map(|engine| engine.to_string()).unwrap_or_default(),
                engines(&summary.checked.engines),
                short_digest(&summary.digest),
                summary.created_at.clone(),
            ]
        };
        let rows: Vec<_> = value.models.iter().map(row).collect();
        let titles = ["NAME", "VERSION", "STATE", "SIZE", "RUNS ON", "PASSED ON", "DIGEST", "CREATED"];
        let refused = value.models.iter().map(|model| refusals(&model.summary.name, &model.summary.checked.engines));
        print(&(table(&titles, &rows) + &refused.collect::<String>()))
    }
}

/// The source to upload for a folder or file.
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
        // A single file is sent unchanged.
        [file] => Source::file(&file.path),
        files => Source::tar(files),
    }
}

/// The engines on which a model passed its check, and by how much they differ: `onnxruntime, rten (differs by 1.2e-6)`.
fn engines(verdicts: &[Verdict]) -> String {
    let passed = verdicts.iter().filter(|verdict| verdict.passed).map(|verdict| match verdict.difference {
        Some(difference) => format!("{} (differs by {difference:.1e})", verdict.engine),
        None => verdict.engine.to_string(),
    });
    passed.collect::<Vec<_>>().join(", ")
}

/// Why the other engines are refused, and on which inputs the passed ones fail, one line each.
fn refusals(name: &str, verdicts: &[Verdict]) -> String {
    let name = printable(name);
    let lines = verdicts.iter().filter_map(|Verdict { engine, passed, reason, failure, .. }| match (passed, failure) {
        (false, _) => {
            let reason = printable(reason.as_deref().unwrap_or_default());
            Some(format!("\n{name} cannot run on {engine}: {reason}\n"))
        }
        (true, Some(failure)) => Some(format!("\n{name} on {engine}: {}\n", printable(failure))),
        (true, None) => None,
    });
    lines.collect()
}

/// A model's inputs and outputs, one line each: `input  image  f32 [batch, 3, ?]`.
fn signature(Signature { inputs, outputs }: &Signature) -> String {
    let line = |way: &'static str| {
        move |tensor: &TensorSignature| {
            let dims = tensor.shape.iter().map(|dim| match dim {
                Dim::Fixed(length) => length.to_string(),
                Dim::Symbol(name) => name.clone(),
                Dim::Dynamic => "?".to_owned(),
            });
            let shape = format!("{} [{}]", tensor.dtype.as_str(), dims.collect::<Vec<_>>().join(", "));
            vec![way.to_owned(), tensor.name.clone(), shape]
        }
    };
    let rows: Vec<_> = inputs.iter().map(line("input")).chain(outputs.iter().map(line("output"))).collect();
    if rows.is_empty() { String::new() } else { table(&["", "NAME", "TENSOR"], &rows) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::EngineName;
    use crate::device::DType;

    fn verdict(engine: EngineName, passed: bool) -> Verdict {
        let version = String::new();
        Verdict {
            engine,
            version,
            passed,
            reason: None,
            runs: 1,
            samples: 0,
            compared: 0,
            difference: None,
            fails: 0,
            failure: None,
        }
    }

    #[test]
    fn engines_are_told_with_their_difference_and_the_reason_against_them() {
        let onnxruntime = verdict(EngineName::Onnxruntime, true);
        let rten = verdict(EngineName::Rten, true);
        let differs = [onnxruntime.clone(), Verdict { difference: Some(1.24e-6), ..rten.clone() }];
        assert_eq!(engines(&differs), "onnxruntime, rten (differs by 1.2e-6)");
        assert_eq!(refusals("m", &differs), "");
        let refused = [onnxruntime, Verdict { passed: false, reason: Some("no LRN".to_owned()), ..rten.clone() }];
        assert_eq!(engines(&refused), "onnxruntime");
        assert_eq!(refusals("m", &refused), "\nm cannot run on rten: no LRN\n");
        let fails = [Verdict { fails: 1, failure: Some("odd".to_owned()), ..rten }];
        assert_eq!((engines(&fails).as_str(), refusals("m", &fails).as_str()), ("rten", "\nm on rten: odd\n"));
    }

    #[test]
    fn signatures_are_printed_as_in_messages() {
        let shape = vec![Dim::Symbol("batch".to_owned()), Dim::Fixed(3), Dim::Dynamic];
        let image = TensorSignature { name: "image".to_owned(), dtype: DType::F32, shape, batch_axis: Some(0) };
        let y = TensorSignature { name: "y".to_owned(), dtype: DType::S64, shape: Vec::new(), batch_axis: None };
        let text = signature(&Signature { inputs: vec![image], outputs: vec![y] });
        assert_eq!(text, "        NAME   TENSOR\ninput   image  f32 [batch, 3, ?]\noutput  y      s64 []\n");
        assert_eq!(signature(&Signature { inputs: Vec::new(), outputs: Vec::new() }), "");
    }
}
