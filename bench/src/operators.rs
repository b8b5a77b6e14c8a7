//! Measures operators on the CPU device, side by side with NumPy, OpenCV and Pillow on one thread each. It prints a table and
//! never fails on a time.
//!
//! `tests/python/operator_bench.py` makes the inputs and has the same rows. Both processes alternate; the table shows medians.

use anyhow::{Context, Result, ensure};
use hearth::config::Limits;
use hearth::device::{
    Arithmetic, Coordinates, Cpu, DType, Device, ImageLayout, Interpolation, Ledger, Op, Owner, Reduction, Resize,
    Shape, Stop, Tensor, Unary, decode_image,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Measurements of each row in one process, of which the median counts.
const REPEATS: usize = 15;

/// The rows with a target: name, and the largest ratio that is wanted.
const BARS: [(&str, f64); 2] = [("decode, resize, normalize", 1.3), ("matmul 1024", 1.2)];

/// Prints the microseconds of every row in this process.
pub(crate) fn here(folder: &Path) -> Result<()> {
    let device = Cpu::new(Ledger::new(8 << 30), Limits::default());
    let account = device.ledger().account(Owner::Invocation { tenant: "default".into() }, 8 << 30, 1_000);
    let stop = Stop::default();
    let run = |op: &Op, inputs: &[&Tensor]| -> Result<Vec<Tensor>> {
        Ok(device.run(&account, op, inputs, device.limits(), &stop)?)
    };
    let input = |dtype: DType, dims: &[u64]| -> Result<Tensor> {
        let shape = Shape::new(dims, 8)?;
        let count = shape.elements();
        let random = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let bytes: Vec<u8> = match dtype {
            DType::F32 => (0..count).flat_map(|at| (random(at) as f32 / (1 << 24) as f32).to_le_bytes()).collect(),
            DType::S64 => (0..count).flat_map(|at| (random(at) as i64 % 4_096).to_le_bytes()).collect(),
            _ => (0..count).map(|at| random(at) as u8).collect(),
        };
        Ok(device.create(&account, dtype, shape, &bytes)?)
    };
    let jpeg = std::fs::read(folder.join("image.jpg")).context("the image that the Python program makes")?;
    let decode = || -> Result<Tensor> {
        let (shape, pixels) = decode_image(&jpeg, &account, device.limits(), &stop)?;
        Ok(device.adopt(&account, DType::U8, shape, Box::new(pixels))?)
    };
    let resized = |interpolation, antialias| {
        let (layout, coordinates) = (ImageLayout::Hwc, Coordinates::HalfPixel);
        Op::Resize(Resize { height: 640, width: 640, layout, interpolation, coordinates, antialias })
    };
    let resize = |interpolation| resized(interpolation, false);
    let normalize =
        Op::Normalize { axis: 2, scale: vec![0.0171, 0.0175, 0.0174], offset: vec![-2.118, -2.036, -1.804] };
    let image = decode()?;
    let small = run(&resize(Interpolation::Bilinear), &[&image])?.remove(0);
    let floats = run(&normalize, &[&small])?.remove(0);
    let million = input(DType::F32, &[1 << 20])?;
    let (many, square) = (input(DType::F32, &[1 << 22])?, input(DType::F32, &[1_024, 1_024])?);
    let (rows, table) = (input(DType::S64, &[4_096])?, input(DType::F32, &[4_096, 256])?);
    let one = |name: &str, op: Op, inputs: Vec<&Tensor>| row(name, || run(&op, &inputs).map(drop));
    row("decode, resize, normalize", || {
        let small = run(&resize(Interpolation::Bilinear), &[&decode()?])?.remove(0);
        run(&normalize, &[&small]).map(drop)
    })?;
    row("decode", || decode().map(drop))?;
    one("resize bilinear", resize(Interpolation::Bilinear), vec![&image])?;
    one("resize area", resize(Interpolation::Area), vec![&image])?;
    one("resize antialiased", resized(Interpolation::Bilinear, true), vec![&image])?;
    one("bicubic antialiased", resized(Interpolation::Bicubic, true), vec![&image])?;
    one("normalize", normalize.clone(), vec![&small])?;
    one("permute hwc to chw", Op::Permute { axes: vec![2, 0, 1] }, vec![&floats])?;
    one("cast u8 to f32", Op::Cast { dtype: DType::F32 }, vec![&image])?;
    one("matmul 1024", Op::Matmul, vec![&square, &square])?;
    one("add", Op::Arithmetic(Arithmetic::Add), vec![&many, &many])?;
    one("exp", Op::Unary(Unary::Exp), vec![&many])?;
    one("softmax", Op::Softmax { axis: 1 }, vec![&square])?;
    let sum = Op::Reduce { reduction: Reduction::Sum, axes: vec![1], keep_axes: false };
    one("reduce-sum", sum, vec![&square])?;
    one("sort", Op::Sort { axis: 0, descending: false }, vec![&million])?;
    one("top-k 5", Op::TopK { k: 5, axis: 1, largest: true }, vec![&square])?;
    one("gather rows", Op::Gather { axis: 0 }, vec![&table, &rows])
}

fn row(name: &str, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    work()?;
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let started = Instant::now();
        work()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    println!("{name}\t{}", median(&mut times));
    Ok(())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Alternates both programs and prints the table.
pub(crate) fn compare(python: &Path, script: &Path, runs: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let theirs = |make: bool| {
        let mut command = Command::new(python);
        command.arg(script).arg(folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"].map(|name| (name, "1")));
        if make {
            command.arg("--make");
        }
        lines(command)
    };
    theirs(true)?;
    let own = std::env::current_exe()?;
    let mut times: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..runs {
        let mut command = Command::new(&own);
        command.arg("operators-here").arg(folder.path());
        for (side, rows) in [lines(command)?, theirs(false)?].into_iter().enumerate() {
            for (name, time) in rows {
                if side == 0 && !order.contains(&name) {
                    order.push(name.clone());
                }
                times.entry(name).or_default()[side].push(time);
            }
        }
    }
    println!("{:28} {:>10} {:>10} {:>6}  {:>5}", "", "hearth us", "theirs us", "ratio", "bar");
    for name in order {
        let Some([ours, theirs]) = times.get_mut(&name) else { continue };
        ensure!(!theirs.is_empty(), "{} has no row \"{name}\"", script.display());
        let (ours, theirs) = (median(ours), median(theirs));
        let bar = BARS.iter().find(|(row, _)| *row == name).map_or(String::new(), |(_, bar)| bar.to_string());
        println!("{name:28} {ours:10.0} {theirs:10.0} {:6.2}  {bar:>5}", ours / theirs);
    }
    Ok(())
}

fn lines(mut command: Command) -> Result<Vec<(String, f64)>> {
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start a program")?;
    ensure!(output.status.success(), "{command:?} failed ({})", output.status);
    let text = String::from_utf8(output.stdout)?;
    let row = |line: &str| -> Result<(String, f64)> {
        let (name, time) = line.split_once('\t').with_context(|| format!("no row: {line}"))?;
        Ok((name.to_owned(), time.parse()?))
    };
    text.lines().map(row).collect()
}
