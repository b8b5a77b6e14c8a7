//! Measures real models on each engine, on one thread. It prints a table, and fails only if the engines' outputs differ. Both
//! engines are in one process; their runs alternate.

use crate::median;
use crate::shelf::{self, noise};
use anyhow::{Context, Result, ensure};
use hearth::config::RawConfig;
use hearth::device::{DType, Device, Owner, Shape, Stop, Tensor};
use hearth::model::{EngineName, Lease};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An engine's runs are repeated for this time, and the fastest counts.
const ROUND: Duration = Duration::from_millis(300);

/// Elements of two engines' outputs may differ by this part of the largest.
const NEAR: f64 = 1e-3;

/// A model of set-up, and the shapes of its inputs in a common use.
type Row = (&'static str, &'static [(&'static str, &'static [u64])]);

const ROWS: [Row; 6] = [
    ("magika", &[("bytes", &[1, 2048])]),
    ("minilm", &[("input_ids", &[1, 33]), ("attention_mask", &[1, 33]), ("token_type_ids", &[1, 33])]),
    ("ocr-detect", &[("x", &[1, 3, 640, 640])]),
    ("ocr-recognize", &[("x", &[1, 3, 48, 320])]),
    ("ocr-classify", &[("x", &[1, 3, 48, 192])]),
    ("silero-vad", &[("input", &[1, 576]), ("state", &[2, 1, 128]), ("sr", &[])]),
];

/// Prints the table.
pub(crate) fn compare(library: &Path, models: &Path, runs: usize) -> Result<()> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    threads.block_on(async {
        let data = tempfile::tempdir()?;
        println!("milliseconds a run on one thread, medians of {runs} rounds\n");
        println!("{:>14} {:>12} {:>9} {:>7}", "model", "onnxruntime", "rten", "ratio");
        for (name, shapes) in ROWS {
            let mut benches = Vec::new();
            for engine in EngineName::ALL {
                benches.push(Bench::new(library, data.path(), models, engine, (name, shapes)).await?);
            }
            let mut took: Vec<Vec<f64>> = benches.iter().map(|_| Vec::new()).collect();
            for _ in 0..runs {
                for (bench, took) in benches.iter().zip(&mut took) {
                    took.push(bench.round().await?);
                }
            }
            let (reference, other) = (benches[0].run().await?, benches[1].run().await?);
            near(&reference, &other).with_context(|| format!("{name} gives other outputs on rten"))?;
            let (reference, other) = (median(&took[0]), median(&took[1]));
            println!("{name:>14} {reference:>12.2} {other:>9.2} {:>7.2}", other / reference);
        }
        Ok(())
    })
}

/// A model loaded on one engine, with its inputs.
struct Bench {
    lease: Lease,
    device: Arc<dyn Device>,
    inputs: Vec<(String, Tensor)>,
}

impl Bench {
    async fn new(library: &Path, data: &Path, models: &Path, engine: EngineName, (name, shapes): Row) -> Result<Bench> {
        let raw = RawConfig {
            data: Some(data.join(format!("{name}-{engine}"))),
            ort_lib: Some(library.to_owned()),
            model_threads: Some(1),
            ..RawConfig::default()
        };
        let config = raw.resolve()?;
        std::fs::create_dir_all(&config.data)?;
        let (models, device) = shelf::models(&config, models, engine, None)?;
        let lease = models.open("default", name).await?;
        let account = device.ledger().account(Owner::Workspace, u64::MAX, u64::MAX);
        let mut inputs = Vec::new();
        for input in &lease.signature().inputs {
            let (_, dims) =
                shapes.iter().find(|(name, _)| *name == input.name).context("an input of no known shape")?;
            let shape = Shape::new(dims, 8)?;
            let bytes = elements(&input.name, input.dtype, shape.elements())?;
            inputs.push((input.name.clone(), device.create(&account, input.dtype, shape, &bytes)?));
        }
        Ok(Bench { lease, device, inputs })
    }

    async fn run(&self) -> Result<Vec<Tensor>> {
        let account = self.device.ledger().account(Owner::Workspace, u64::MAX, u64::MAX);
        let run = self.lease.infer(&account, self.inputs.clone(), &Stop::default()).await?;
        Ok(run.outputs.into_iter().map(|(_, output)| output).collect())
    }

    /// The milliseconds of the fastest of some runs.
    async fn round(&self) -> Result<f64> {
        let (begun, mut fastest) = (Instant::now(), f64::INFINITY);
        while begun.elapsed() < ROUND {
            let started = Instant::now();
            self.run().await?;
            fastest = fastest.min(started.elapsed().as_secs_f64() * 1e3);
        }
        Ok(fastest)
    }
}

/// Valid elements for an input: tokens and bytes below 256, masks of ones, the sample rate of speech.
fn elements(name: &str, dtype: DType, count: u64) -> Result<Vec<u8>> {
    let whole = |at: u64| match name {
        "sr" => 16_000,
        "attention_mask" => 1,
        "token_type_ids" => 0,
        _ => ((noise(at) + 1.0) * 128.0) as i64,
    };
    Ok(match dtype {
        DType::F32 => (0..count).flat_map(|at| (noise(at) as f32).to_le_bytes()).collect(),
        DType::S32 => (0..count).flat_map(|at| (whole(at) as i32).to_le_bytes()).collect(),
        DType::S64 => (0..count).flat_map(|at| whole(at).to_le_bytes()).collect(),
        _ => anyhow::bail!("no elements of {dtype} are made here"),
    })
}

/// Fails if the engines differ by more than the rounding of sums.
fn near(reference: &[Tensor], other: &[Tensor]) -> Result<()> {
    ensure!(reference.len() == other.len(), "other outputs");
    for (a, b) in reference.iter().zip(other) {
        let floats = |tensor: &Tensor| -> Result<Vec<f32>> {
            ensure!(tensor.dtype() == DType::F32, "an output of {}", tensor.dtype());
            let bytes = tensor.read(0..tensor.byte_length())?;
            Ok(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
        };
        let (a, b) = (floats(a)?, floats(b)?);
        ensure!(a.len() == b.len(), "another shape");
        let largest = a.iter().fold(0.0, |largest: f64, value| largest.max(f64::from(value.abs())));
        let difference = a.iter().zip(&b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        ensure!(difference <= NEAR * largest, "elements differ by {difference:e} of {largest:e}");
    }
    Ok(())
}
