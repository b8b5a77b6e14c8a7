//! Goes from a clean clone to the text of a page, only through what a user has: the `hearth` program and HTTP. It never uses the
//! server's internals.

use crate::client::{self, Response};
use crate::process::{self, Running};
use crate::progress::say;
use crate::{guest, setup};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The share of the page's characters that must be correct.
const REQUIRED_SHARE: f64 = 0.98;

/// The page, its exact text, and the function's component.
const PAGE: &str = "examples/04-ocr/page.png";
const TRUTH: &str = "examples/04-ocr/page.txt";
const COMPONENT: &str = "target/guests/components/ocr.wasm";
const MODELS: [&str; 2] = ["ocr-detect", "ocr-recognize"];
const DATA: &str = "target/demo";
/// The server tries only the library that is named; this file does not exist.
const NO_LIBRARY: &str = "target/setup/lib/none";

#[derive(clap::Args)]
pub(crate) struct Demo {
    /// Leave the server running in the foreground afterwards
    #[arg(long)]
    keep: bool,
    /// The port to serve on; if it is taken, another one is used
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Behave as on a machine without ONNX Runtime: the models run on rten
    #[arg(long)]
    without_onnxruntime: bool,
}

impl Demo {
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let mut stages = Stages(Vec::new());
        stages.time("set-up", || setup::run(root, setup::Need::Demo))?;
        stages.time("build", || build(root))?;

        let address = SocketAddr::from(([127, 0, 0, 1], client::free_port(self.port)?));
        let library = match self.without_onnxruntime {
            true => NO_LIBRARY.to_owned(),
            false => below(root, &setup::ort_library(root)),
        };
        let serve = format!("--listen {address} --data {DATA} --ort-lib {library}");
        let mut server = stages.time("start", || start(root, &serve, address))?;
        stages.time("upload", || upload(root, address))?;

        let page = fs::read(root.join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
        let truth = fs::read_to_string(root.join(TRUTH)).with_context(|| format!("cannot read {TRUTH}"))?;
        let first = stages.time("first call", || read_page(address, &page))?;
        let second = stages.time("second call", || read_page(address, &page))?;
        server.alive()?;

        let text = page_text(&first)?;
        say(format!("\nThe page ({PAGE}) reads:\n"));
        for line in text.lines() {
            say(format!("    {line}"));
        }
        say("\nReceipt of the second call:");
        for line in receipt(&second)? {
            say(format!("    {line}"));
        }
        let (right, all) = characters_right(&truth, &text);
        let share = right as f64 / all.max(1) as f64;
        say(format!("\n{right} of {all} characters right ({:.2} %)\n", share * 100.0));
        stages.print();
        print_lines(&serve, address);
        if share < REQUIRED_SHARE {
            bail!(
                "only {:.2} % of the characters are right; at least {} % should be",
                share * 100.0,
                REQUIRED_SHARE * 100.0
            );
        }
        if self.keep {
            say(format!("\nThe server keeps running at http://{address}; ctrl-c ends it."));
            return server.wait();
        }
        Ok(())
    }
}

/// The program as cargo's dev profile builds it: its dependencies, which do most of the work, are optimised in that profile too,
/// and `cargo xtask test` needs the same artefacts. The release profile would make a call milliseconds faster and building
/// everything again would take minutes. The whole workspace is selected because cargo resolves features for the selection: for
/// `--package hearth` alone it would build wasmtime and 50 other crates a second time.
fn build(root: &Path) -> Result<()> {
    say("building hearth (minutes at first, seconds later)");
    process::show(process::cargo(root).args(["build", "--workspace", "--bins"]))?;
    say("building the guests");
    guest::build_all(root)?;
    Ok(())
}

fn program(root: &Path) -> PathBuf {
    root.join("target/debug/hearth")
}

fn start(root: &Path, serve: &str, address: SocketAddr) -> Result<Running> {
    let mut command = Command::new(program(root));
    if std::env::var_os("HEARTH_LOG").is_none() {
        command.env("HEARTH_LOG", "warn");
    }
    let mut server = Running::start(command.current_dir(root).arg("serve").args(serve.split(' ')))?;
    client::wait_until_ready(address, "/readyz", || server.alive())?;
    Ok(server)
}

fn upload(root: &Path, address: SocketAddr) -> Result<()> {
    let server = format!("http://{address}");
    let hearth = |arguments: &[&str]| {
        say(format!("hearth {}", arguments.join(" ")));
        process::run(Command::new(program(root)).current_dir(root).args(arguments).args(["--server", &server]))
    };
    for model in MODELS {
        hearth(&["model", "add", &format!("target/setup/models/{model}"), "--name", model])?;
    }
    hearth(&["deploy", COMPONENT, "--name", "ocr"])?;
    Ok(())
}

fn read_page(address: SocketAddr, page: &[u8]) -> Result<Response> {
    let headers = [("content-type", "image/png"), ("hearth-receipt", "1")];
    let response = client::call(address, "POST", "/fn/ocr", &headers, page)?;
    if response.status != 200 {
        bail!("the function answered {}: {}", response.status, String::from_utf8_lossy(&response.body));
    }
    Ok(response)
}

fn page_text(response: &Response) -> Result<String> {
    let answer: serde_json::Value =
        serde_json::from_slice(&response.body).context("the function's answer is no JSON")?;
    Ok(answer["text"].as_str().context("the function's answer has no text")?.to_owned())
}

fn receipt(response: &Response) -> Result<Vec<String>> {
    let header = response.header("hearth-receipt").context("the response has no receipt")?;
    Ok(match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(header) {
        Ok(fields) => fields.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
        Err(_) => vec![header.to_owned()],
    })
}

fn print_lines(serve: &str, address: SocketAddr) {
    say(format!(
        "\nTo call it again, from the repository's folder:\n\
         \n    target/debug/hearth serve {serve}\n\
         \n    curl --data-binary @{PAGE} -H 'content-type: image/png' http://{address}/fn/ocr\
         \n    curl -sD- -o /dev/null --data-binary @{PAGE} -H 'content-type: image/png' -H 'hearth-receipt: 1' http://{address}/fn/ocr\
         \n    curl http://{address}/v1/status"
    ));
}

fn below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// How long each stage took.
struct Stages(Vec<(&'static str, Duration)>);

impl Stages {
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let result = work().with_context(|| format!("the demo's stage \"{name}\" failed"))?;
        self.0.push((name, started.elapsed()));
        Ok(result)
    }

    fn print(&self) {
        for (name, time) in &self.0 {
            say(format!("{name:12} {:9.2} s", time.as_secs_f64()));
        }
        let total: Duration = self.0.iter().map(|(_, time)| *time).sum();
        say(format!("{:12} {:9.2} s", "total", total.as_secs_f64()));
    }
}

/// How many characters of the exact text are correct: its length minus the edit distance, with all white space replaced by single
/// spaces. `tests/python/ocr_accuracy.py` counts the same way.
fn characters_right(truth: &str, text: &str) -> (usize, usize) {
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").chars().collect::<Vec<char>>();
    let (truth, text) = (spaced(truth), spaced(text));
    let mut row: Vec<usize> = (0..=text.len()).collect();
    for (index, expected) in truth.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, found) in text.iter().enumerate() {
            let replaced = diagonal + usize::from(expected != found);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    (truth.len().saturating_sub(row[text.len()]), truth.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_right_counts_each_edit_once() {
        for (truth, text, right) in [
            ("", "", 0),
            ("abc", "abc", 3),
            ("abc", "", 0),
            ("kitten", "sitting", 3),
            ("a  b\nc", " a b c ", 5),
            ("äöü", "äöu", 2),
            ("a", "bcdef", 0),
        ] {
            assert_eq!(characters_right(truth, text).0, right, "{truth} {text}");
        }
    }
}
