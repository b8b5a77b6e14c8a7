//! The child's part of a model's check: loads it on one engine, runs it on generated inputs and on its samples, and sends the
//! outputs. It never compares engines, which the server does.

use super::compare::{Output, compare};
use super::inputs::{self, Trial, Values};
use super::samples::{Array, Sample};
use crate::config::{Config, Limits, RawConfig};
use crate::confined::{self, PartSender, Work};
use crate::device::{Account, Cpu, DType, Device, Ledger, Owner, Shape, Tensor};
use crate::error::{Error, Kind, Result};
use crate::model::engine::Session;
use crate::model::engines::{EngineChoice, EngineName, Engines};
use crate::model::header::Header;
use crate::model::package::Package;
use crate::model::rten;
use crate::model::signature::Signature;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of `model.toml`.
const SETTINGS_BYTES: u64 = 64 << 10;
/// Characters of a message that is sent.
const MESSAGE_CHARS: usize = 600;
/// A model that has not run once is given up after this many times the time for runs.
const PATIENCE: u32 = 5;
/// Operators whose number of elements or iterations is an integer input. Their models are not tried with large integers.
const SIZED_BY_VALUES: [&str; 24] = [
    "BlackmanWindow",
    "CenterCropPad",
    "Col2Im",
    "ConstantOfShape",
    "Expand",
    "HammingWindow",
    "HannWindow",
    "If",
    "ImageDecoder",
    "Loop",
    "MaxUnpool",
    "MelWeightMatrix",
    "OneHot",
    "Pad",
    "RandomNormal",
    "RandomUniform",
    "Range",
    "Resize",
    "STFT",
    "Scan",
    "SequenceMap",
    "SplitToSequence",
    "Tile",
    "Upsample",
];

/// The server's request.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    /// The engine to check on.
    pub(super) engine: EngineName,
    /// The folder of the package.
    pub(super) folder: PathBuf,
    /// The bytes of its weights.
    pub(super) weights_bytes: u64,
    /// onnxruntime's library; none if the loader finds it by name.
    pub(super) library: Option<PathBuf>,
    pub(super) model_threads: usize,
    pub(super) limits: Limits,
}

/// One part that is sent, as JSON.
#[derive(Serialize, Deserialize)]
pub(super) enum Told {
    /// What `model.toml` says about the engine, or what is wrong with that file or with the samples. This part is sent first.
    Setting(Result<Option<EngineChoice>, String>),
    /// Why the engine must not run the model unless samples or the reference confirm its outputs.
    Doubt(String),
    /// A run on generated inputs. The bytes of its outputs follow, one after another, in parts of any size.
    Trial(Tried),
    /// A run on a sample, and its fault, if any.
    Sample(Option<String>),
}

/// One run on generated inputs.
#[derive(Serialize, Deserialize)]
pub(super) struct Tried {
    pub(super) trial: Trial,
    /// The inputs' shapes, for messages.
    pub(super) shapes: String,
    pub(super) outcome: Outcome,
}

/// How a run ended.
#[derive(Serialize, Deserialize)]
pub(super) enum Outcome {
    /// With these outputs.
    Done(Vec<Made>),
    /// With outputs that are too large to be compared.
    Unsent,
    /// With this error.
    Failed(String),
}

/// An output that follows.
#[derive(Serialize, Deserialize)]
pub(super) struct Made {
    /// The dtype's word.
    pub(super) dtype: String,
    pub(super) dims: Vec<u64>,
    /// Bytes that follow.
    pub(super) bytes: u64,
}

/// `model.toml`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    engine: Option<EngineChoice>,
}

/// The job. Its reply is the signature.
pub(super) fn work(work: &mut Work) -> Result<Value> {
    let Request { engine, folder, weights_bytes, library, model_threads, limits } = work.request()?;
    let told = |error: Error| error.message().to_owned();
    let samples = Sample::all(&folder, limits.sample_bytes);
    let (setting, samples) = match (setting(&folder), samples) {
        (Ok(setting), Ok(samples)) => (Ok(setting), samples),
        (Err(error), _) | (_, Err(error)) => (Err(told(error)), Vec::new()),
    };
    let wrong = setting.is_err();
    send(&mut work.parts, &Told::Setting(setting))?;
    if wrong {
        return Ok(Value::Null);
    }
    let raw = RawConfig { ort_lib: library, model_threads: Some(model_threads), ..RawConfig::default() };
    let config = Config { limits: limits.clone(), ..raw.resolve()? };
    let engines = Engines::new(&config, None);
    let session = engines.get(engine).load(&folder, weights_bytes).map_err(|error| {
        // Only the engine used memory in this process.
        if error.kind() == Kind::Overloaded { confined::out_of_memory(error.chain()) } else { error }
    })?;
    if engine == EngineName::Rten
        && let Some(doubt) = rten::doubt(&folder)?
    {
        send(&mut work.parts, &Told::Doubt(doubt))?;
    }
    let device: Arc<dyn Device> = Cpu::new(Ledger::new(limits.check_memory_bytes), limits.clone());
    let bench = Bench { session, device, limits };
    for sample in &samples {
        let fault = bench.sample(sample).map(|fault| format!("sample '{}': {fault}", sample.name));
        send(&mut work.parts, &Told::Sample(fault))?;
    }
    bench.trials(&folder, !samples.is_empty(), &mut work.parts)?;
    serde_json::to_value(bench.session.signature()).map_err(|error| Error::host("checking a model", error))
}

fn setting(folder: &Path) -> Result<Option<EngineChoice>> {
    const NAME: &str = "model.toml";
    let file = match std::fs::File::open(folder.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::storage("reading model.toml", error)),
    };
    let mut text = String::new();
    let read = file.take(SETTINGS_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| Error::invalid_argument(format!("{NAME} is no text: {}", error.kind())))?;
    if text.len() as u64 > SETTINGS_BYTES {
        return Err(Error::too_large(format!("{NAME} has more than {SETTINGS_BYTES} bytes")));
    }
    let settings: Settings = toml::from_str(&text).map_err(|error| {
        let error = error.message().chars().take(200).collect::<String>();
        Error::invalid_argument(format!("{NAME}: {error}; it takes engine = \"auto\", \"onnxruntime\" or \"rten\""))
    })?;
    Ok(settings.engine)
}

fn send(parts: &mut PartSender, told: &Told) -> Result<()> {
    let json = serde_json::to_vec(told).map_err(|error| Error::host("checking a model", error))?;
    parts.send(&json)
}

/// A loaded model that is being checked.
struct Bench {
    session: Arc<dyn Session>,
    device: Arc<dyn Device>,
    limits: Limits,
}

impl Bench {
    /// Runs the model on generated inputs until enough runs have succeeded or the time is over.
    fn trials(&self, folder: &Path, has_samples: bool, parts: &mut PartSender) -> Result<()> {
        let signature = self.session.signature();
        let sizes = inputs::sizes(signature);
        let begun = Instant::now();
        let time = Duration::from_millis(self.limits.check_runs_ms);
        let mut room = self.limits.check_output_bytes;
        let kinds = [Values::Small, Values::Ones, Values::Zeros, Values::Few];
        let mut ran = None;
        // If sizes can be chosen, one success at each is enough, and the kinds of values alternate. Otherwise only the values
        // differ.
        let has_free = inputs::has_free(signature);
        'sizes: for (size, shapes) in sizes.iter().enumerate() {
            for turn in 0..kinds.len() {
                let elapsed = begun.elapsed();
                if elapsed > time && (ran.is_some() || has_samples || elapsed > time * PATIENCE) {
                    break 'sizes;
                }
                let trial = Trial { size, values: kinds[(size + turn) % kinds.len()] };
                let done = self.trial(trial, shapes, &mut room, parts)?;
                if done {
                    ran = Some((size, shapes));
                    if has_free {
                        break;
                    }
                }
            }
        }
        if let Some((size, shapes)) = ran
            && takes_large_integers(signature, folder)
        {
            self.trial(Trial { size, values: Values::Wide }, shapes, &mut room, parts)?;
        }
        if ran.is_some()
            && let Some(shapes) = inputs::empty(signature)
        {
            self.trial(Trial { size: sizes.len(), values: Values::Empty }, &shapes, &mut room, parts)?;
        }
        Ok(())
    }

    /// Runs the model once and sends the result. True if it succeeded.
    fn trial(&self, trial: Trial, shapes: &[Vec<u64>], room: &mut u64, parts: &mut PartSender) -> Result<bool> {
        let listed: Vec<_> = shapes.iter().take(4).map(|dims| format!("{dims:?}")).collect();
        let more = if shapes.len() > listed.len() { ", …" } else { "" };
        let tried = |outcome| Told::Trial(Tried { trial, shapes: format!("{}{more}", listed.join(", ")), outcome });
        let outputs = match self.generated(trial, shapes) {
            Ok(outputs) => outputs,
            Err(error) => {
                let message = error.message().chars().take(MESSAGE_CHARS).collect();
                send(parts, &tried(Outcome::Failed(message)))?;
                return Ok(false);
            }
        };
        let outputs: Vec<(&Tensor, Vec<u8>)> = outputs.iter().map(|tensor| (tensor, text_of(tensor))).collect();
        let bytes_of = |(tensor, text): &(&Tensor, Vec<u8>)| match tensor.dtype() {
            DType::Text => text.len() as u64,
            _ => tensor.byte_length(),
        };
        let bytes: u64 = outputs.iter().map(bytes_of).sum();
        if bytes > *room {
            send(parts, &tried(Outcome::Unsent))?;
            return Ok(true);
        }
        *room -= bytes;
        let made = outputs.iter().map(|output| Made {
            dtype: output.0.dtype().as_str().to_owned(),
            dims: output.0.shape().dims().to_vec(),
            bytes: bytes_of(output),
        });
        send(parts, &tried(Outcome::Done(made.collect())))?;
        for (tensor, text) in &outputs {
            let bytes = if tensor.dtype() == DType::Text { text } else { tensor.host_bytes().unwrap_or_default() };
            for chunk in bytes.chunks(PartSender::MOST_BYTES) {
                parts.send(chunk)?;
            }
        }
        Ok(true)
    }

    fn generated(&self, trial: Trial, shapes: &[Vec<u64>]) -> Result<Vec<Tensor>> {
        let account = self.account();
        let declared = self.session.signature().inputs.iter().zip(shapes).enumerate();
        let tensors = declared.map(|(index, (input, dims))| -> Result<Tensor> {
            let shape = Shape::new(dims, self.limits.tensor_rank)?;
            let (elements, most) = (shape.elements(), self.limits.tensor_bytes);
            if input.dtype.size_bytes().unwrap_or(32).saturating_mul(elements) > most {
                let message = format!(
                    "input '{}' takes {dims:?}, which is more than {most} bytes (limit tensor_bytes)",
                    input.name
                );
                return Err(Error::too_large(message));
            }
            self.tensor(&account, input.dtype, shape, &inputs::bytes(input.dtype, elements, trial, index), || {
                inputs::strings(elements, trial, index)
            })
        });
        let tensors: Vec<Tensor> = tensors.collect::<Result<_>>()?;
        self.run(&account, &tensors)
    }

    /// Runs the model on a sample. Gives the fault, if any.
    fn sample(&self, sample: &Sample) -> Option<String> {
        self.sampled(sample).unwrap_or_else(|error| Some(error.message().chars().take(MESSAGE_CHARS).collect()))
    }

    fn sampled(&self, sample: &Sample) -> Result<Option<String>> {
        let account = self.account();
        let signature = self.session.signature();
        let given = sample.inputs.iter().map(|(name, Array { dtype, dims, bytes, strings })| -> Result<_> {
            let shape = Shape::new(dims, self.limits.tensor_rank)?;
            Ok((name, self.tensor(&account, *dtype, shape, bytes, || strings.clone())?))
        });
        let given: Vec<_> = given.collect::<Result<_>>()?;
        let described: Vec<_> =
            given.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype(), tensor.shape().dims())).collect();
        let order = signature.order(&described)?;
        let ordered: Vec<Tensor> = order.into_iter().map(|index| given[index].1.clone()).collect();
        if let Some(name) =
            sample.outputs.keys().find(|name| signature.outputs.iter().all(|output| output.name != **name))
        {
            return Ok(Some(format!("the model has no output '{}'", name.chars().take(64).collect::<String>())));
        }
        let outputs = self.run(&account, &ordered)?;
        for (declared, tensor) in signature.outputs.iter().zip(&outputs) {
            let Some(expected) = sample.outputs.get(&declared.name) else { continue };
            let (found, reference) = (text_of(tensor), serde_json::to_vec(&expected.strings).unwrap_or_default());
            let text = tensor.dtype() == DType::Text;
            let found = Output {
                dtype: tensor.dtype(),
                dims: tensor.shape().dims(),
                bytes: if text { &found } else { tensor.host_bytes().unwrap_or_default() },
            };
            let reference = Output {
                dtype: expected.dtype,
                dims: &expected.dims,
                bytes: if expected.dtype == DType::Text { &reference } else { &expected.bytes },
            };
            if let Some(fault) = compare(found, reference, sample.tolerance(tensor.dtype())).fault {
                return Ok(Some(format!("output '{}': {fault}", declared.name)));
            }
        }
        Ok(None)
    }

    fn run(&self, account: &Arc<Account>, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        Arc::clone(&self.session).begin()?.run(&self.device, account, inputs)
    }

    fn tensor(
        &self,
        account: &Arc<Account>,
        dtype: DType,
        shape: Shape,
        bytes: &[u8],
        strings: impl FnOnce() -> Vec<String>,
    ) -> Result<Tensor> {
        match dtype {
            DType::Text => Tensor::text(&self.device, account, shape, strings()),
            _ => self.device.create(account, dtype, shape, bytes),
        }
    }

    fn account(&self) -> Arc<Account> {
        self.device.ledger().account(Owner::Workspace, u64::MAX, u64::MAX)
    }
}

/// The strings of a text tensor as they are sent.
fn text_of(tensor: &Tensor) -> Vec<u8> {
    match tensor.dtype() {
        DType::Text => serde_json::to_vec(tensor.strings().unwrap_or_default()).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Whether large integers are valid inputs of a model, because none is an index or a size. They show when an engine computes in
/// another width than the model declares.
fn takes_large_integers(signature: &Signature, folder: &Path) -> bool {
    let wide = |dtype| matches!(dtype, DType::S32 | DType::S64 | DType::U32 | DType::U64);
    signature.inputs.iter().any(|input| wide(input.dtype))
        && Header::read(&folder.join(Package::MODEL))
            .is_ok_and(|header| SIZED_BY_VALUES.iter().all(|operator| !header.operators.contains(*operator)))
}
