//! Measures copies and operators on a GPU and compares them with its hardware: pinned copies, and copies within the device. It
//! prints a table, and fails only on results that it checks.

mod baseline;

use anyhow::{Result, ensure};
use hearth::config::{Limits, RawConfig};
use hearth::device::{
    Account, Arithmetic, Coordinates, Cuda, DType, Device, ImageLayout, Interpolation, Op, Owner, Reduction, Resize,
    Shape, Stop, Tensor, Unary,
};
use hearth::node_key::NodeKey;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Runs of each operator between two reads.
const RUNS: u32 = 20;

struct Bench {
    device: Arc<Cuda>,
    account: Arc<Account>,
    limits: Limits,
    /// Bytes a second within the device.
    within: f64,
}

/// Measures GPU number `ordinal`, with tensors of `megabytes`. Compiled kernels are kept in `folder`,
/// signed with a key that is made there.
pub(crate) fn run(ordinal: u32, megabytes: u64, folder: &Path) -> Result<()> {
    ensure!((8..=1_024).contains(&megabytes), "--megabytes takes 8 to 1024");
    let bytes = megabytes << 20;
    let limits = vec![format!("device_bytes={}", 16 * bytes + (1 << 30)), format!("operator_operations={}", u64::MAX)];
    let nvrtc_lib = std::env::var_os("HEARTH_NVRTC_LIB").map(Into::into);
    let raw = RawConfig { data: Some(folder.to_owned()), nvrtc_lib, limits, ..RawConfig::default() };
    let config = raw.resolve()?;
    let device = Cuda::open(ordinal, &config, &NodeKey::open(folder)?)?;
    let account = device.ledger().account(Owner::Workspace, u64::MAX, 1_000);
    let baseline = baseline::measure(ordinal, bytes)?;
    let giga = |rate: f64| rate / 1e9;
    println!("tensors of {megabytes} MiB, GB/s (10^9 bytes)");
    println!("{:34} {:>8} {:>9} {:>8}", "copy", "hearth", "hardware", "ratio");

    let host = vec![7u8; bytes as usize];
    let shape = Shape::new(&[bytes], 8)?;
    let mut best = [f64::INFINITY; 2];
    for _ in 0..4 {
        let started = Instant::now();
        let tensor = device.create(&account, DType::U8, shape.clone(), &host)?;
        // When the last byte has arrived, all have.
        ensure!(tensor.read(bytes - 1..bytes)? == [7], "an upload came out wrong");
        best[0] = best[0].min(started.elapsed().as_secs_f64());
        let started = Instant::now();
        ensure!(tensor.read(0..bytes)? == host, "a download came out wrong");
        best[1] = best[1].min(started.elapsed().as_secs_f64());
    }
    for (name, seconds, hardware) in
        [("host to device", best[0], baseline.upload), ("device to host", best[1], baseline.download)]
    {
        let rate = bytes as f64 / seconds;
        println!("{name:34} {:8.1} {:9.1} {:8.2}", giga(rate), giga(hardware), rate / hardware);
    }

    println!("\n{:34} {:>8} {:>9} {:>8}", "operator", "moved", "copy", "ratio");
    let bench = Bench { device, account, limits: config.limits.clone(), within: baseline.within };
    bench.operators(bytes)?;
    bench.products()
}

impl Bench {
    fn filled(&self, dtype: DType, dims: &[u64]) -> Result<Tensor> {
        let shape = Shape::new(dims, 8)?;
        let bytes = shape.bytes(dtype).unwrap_or(0);
        // Small floats of every type, or small integers.
        let pattern: Vec<u8> = match dtype {
            DType::F32 => (0..64).flat_map(|index| (index as f32 / 64.0).to_le_bytes()).collect(),
            _ => (0..64).collect(),
        };
        let data: Vec<u8> = pattern.iter().copied().cycle().take(bytes as usize).collect();
        Ok(self.device.create(&self.account, dtype, shape, &data)?)
    }

    fn once(&self, op: &Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(self.device.run(&self.account, op, inputs, &self.limits, &Stop::default())?)
    }

    /// The last result of operators that each take the previous result; all work is queued.
    fn chain(&self, ops: &[Op], inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let [first, rest @ ..] = ops else { return Ok(Vec::new()) };
        let mut outputs = self.once(first, inputs)?;
        for op in rest {
            outputs = self.once(op, &[&outputs[0]])?;
        }
        Cuda::address(&outputs[0])?;
        Ok(outputs)
    }

    /// Seconds of one run, as the mean of many that are queued one after the other.
    fn seconds(&self, ops: &[Op], inputs: &[&Tensor]) -> Result<f64> {
        // The first run compiles.
        self.chain(ops, inputs)?[0].read(0..1)?;
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let started = Instant::now();
            let mut last = None;
            for _ in 0..RUNS {
                last = Some(self.chain(ops, inputs)?);
            }
            if let Some(outputs) = last {
                outputs[0].read(0..1)?;
            }
            best = best.min(started.elapsed().as_secs_f64() / f64::from(RUNS));
        }
        Ok(best)
    }

    /// Prints the bytes that are read and written in a second, and their ratio to a plain copy, which reads and writes too. For a
    /// chain, only the first inputs and the last results count.
    fn row(&self, name: &str, ops: &[Op], inputs: &[&Tensor]) -> Result<()> {
        let outputs = self.chain(ops, inputs)?;
        let moved: u64 = inputs.iter().copied().chain(&outputs).map(Tensor::byte_length).sum();
        drop(outputs);
        let rate = moved as f64 / self.seconds(ops, inputs)?;
        let copy = 2.0 * self.within;
        println!("{name:34} {:8.1} {:9.1} {:8.2}", rate / 1e9, copy / 1e9, rate / copy);
        Ok(())
    }

    fn operators(&self, bytes: u64) -> Result<()> {
        let floats = bytes / 4;
        let line = self.filled(DType::F32, &[floats])?;
        let rows = self.filled(DType::F32, &[floats / 1_024, 1_024])?;
        let pixels = self.filled(DType::U8, &[bytes / (1_024 * 1_024 * 4), 1_024, 1_024, 3])?;
        let square = self.filled(DType::F32, &[floats / 4_096, 4_096])?;
        let scalar = self.filled(DType::F32, &[])?;
        let resize = Resize {
            height: 512,
            width: 512,
            layout: ImageLayout::Hwc,
            interpolation: Interpolation::Bilinear,
            coordinates: Coordinates::HalfPixel,
            antialias: true,
        };
        let normalize = Op::Normalize { axis: -1, scale: vec![0.01; 3], offset: vec![-1.0; 3] };
        let sum = |axes| Op::Reduce { reduction: Reduction::Sum, axes, keep_axes: false };
        self.row("add f32", &[Op::Arithmetic(Arithmetic::Add)], &[&line, &line])?;
        self.row("multiply f32 by a scalar", &[Op::Arithmetic(Arithmetic::Multiply)], &[&line, &scalar])?;
        self.row("exp f32", &[Op::Unary(Unary::Exp)], &[&line])?;
        self.row("cast f32 to f16", &[Op::Cast { dtype: DType::F16 }], &[&line])?;
        self.row("normalize u8 to f32", std::slice::from_ref(&normalize), &[&pixels])?;
        let moved = Op::Permute { axes: vec![0, 3, 1, 2] };
        let half = Op::Cast { dtype: DType::F16 };
        self.row("normalize and permute, one kernel", &[normalize.clone(), moved.clone()], &[&pixels])?;
        self.row("the same and a cast to f16", &[normalize, moved.clone(), half], &[&pixels])?;
        self.row("permute HWC to CHW u8", &[moved], &[&pixels])?;
        self.row("transpose f32", &[Op::Permute { axes: vec![1, 0] }], &[&square])?;
        self.row("softmax f32, rows of 1024", &[Op::Softmax { axis: -1 }], &[&rows])?;
        self.row("softmax f32, columns", &[Op::Softmax { axis: 0 }], &[&rows])?;
        self.row("sum of all f32", &[sum(vec![0])], &[&line])?;
        self.row("sum of rows f32", &[sum(vec![1])], &[&rows])?;
        self.row("sum of columns f32", &[sum(vec![0])], &[&rows])?;
        self.row("argmax f32, rows of 1024", &[Op::Argmax { axis: -1, keep_axis: false }], &[&rows])?;
        self.row("resize u8 1024 to 512, antialiased", &[Op::Resize(resize)], &[&pixels])?;
        self.row("top-k 5 f32, rows of 1024", &[Op::TopK { k: 5, axis: -1, largest: true }], &[&rows])?;
        self.row("sort f32", &[Op::Sort { axis: 0, descending: false }], &[&line])
    }

    fn products(&self) -> Result<()> {
        println!("\n{:34} {:>8}", "matmul", "TFLOP/s");
        for (dtype, side) in [(DType::F32, 4_096u64), (DType::F16, 8_192), (DType::BF16, 8_192), (DType::S32, 1_024)] {
            let a = self.once(&Op::Cast { dtype }, &[&self.filled(DType::F32, &[side, side])?])?.remove(0);
            let seconds = self.seconds(&[Op::Matmul], &[&a, &a])?;
            let operations = 2.0 * (side * side * side) as f64;
            println!("{:34} {:8.1}", format!("{dtype} {side} cubed"), operations / seconds / 1e12);
        }
        Ok(())
    }
}
