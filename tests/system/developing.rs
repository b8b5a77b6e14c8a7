//! Tests developing a function: a new project, its build, its component, `hearth dev`, and logs.

use crate::harness::{TestServer, command, component, model_folder, root};
use http_body_util::BodyExt;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The binary in a folder, with cargo's output in one place, so that the SDK is built once for all tests.
fn hearth(folder: &Path) -> Command {
    let mut command = command();
    command.current_dir(folder).env("CARGO_TARGET_DIR", target());
    for name in ["HEARTH_SERVER", "HEARTH_DATA", "HEARTH_LISTEN", "HEARTH_CONFIG", "HEARTH_LIMITS"] {
        command.env_remove(name);
    }
    command
}

fn target() -> PathBuf {
    root().join("target/developing")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command to its end, and gives its output.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// Runs a command that must fail with this exit status and a message that contains `part`.
fn fail(command: &mut Command, code: i32, part: &str) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    assert!(said(&output).contains(part), "'{part}' is not in: {}", said(&output));
}

/// A program whose output lines, of both streams, can be awaited.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// All lines so far.
    seen: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Running { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with these words, and gives it.
    fn line(&mut self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("'{part}' is not in the output:\n{}", self.seen.join("\n"));
    }

    /// Ends it like ctrl-c, and gives the exit status.
    fn interrupt(mut self) -> Option<i32> {
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap().success());
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not end:\n{}", self.seen.join("\n"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_function_is_built_inspected_and_live_at_every_edit() {
    let place = tempfile::tempdir().unwrap();
    // A project in the folder of another workspace does not belong to it.
    std::fs::write(place.path().join("Cargo.toml"), "[workspace]\nmembers = []\n").unwrap();
    run(hearth(place.path()).args(["new", "demo"]));
    let project = place.path().join("demo");
    fail(hearth(place.path()).args(["new", "demo"]), 1, "not empty");

    let text = run(hearth(&project).arg("build"));
    assert!(text.contains("demo.wasm") && text.contains("KiB, world pure"), "{text}");
    let wasm = target().join("demo.wasm");
    let facts: serde_json::Value =
        serde_json::from_str(&run(hearth(&project).args(["inspect", "--json"]).arg(&wasm))).unwrap();
    assert_eq!((facts["world"].as_str(), facts["init"].as_bool()), (Some("pure"), Some(false)), "{facts}");
    assert_eq!(facts["exports"], serde_json::json!(["handle"]));

    let source = project.join("src/lib.rs");
    let first = std::fs::read_to_string(&source).unwrap();
    let mut dev = Running::start(hearth(place.path()).args(["dev", "demo", "--listen", "127.0.0.1:0"]));
    let live = dev.line("is live in");
    let url = live.rsplit(' ').next().unwrap();
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/fn/demo").unwrap();
    let client = crate::client::Client::new(address.parse().unwrap());
    dev.line("ctrl-c ends");
    let question = r#"{"text": "the quick brown fox"}"#;
    let json = [("content-type", "application/json")];
    let ask = async || client.send(http::Method::POST, "/fn/demo", &json, question).await;
    let answer = ask().await.expect(200).json();
    assert_eq!(answer, serde_json::json!({"words": 4, "longest": "brown"}));
    let logged = dev.line("a text of 4 words");
    assert!(logged.contains("info"), "{logged}");
    assert!(project.join(".hearth").is_dir());

    std::fs::write(&source, first.replace("words: words.len()", "words: words.len() + 100")).unwrap();
    dev.line("live again as version 2 in");
    assert_eq!(ask().await.expect(200).json()["words"], 104);

    std::fs::write(&source, format!("{first}\nfn broken() -> u32 {{ \"text\" }}\n")).unwrap();
    dev.line("mismatched types");
    dev.line("version 2 stays live; waiting for a change");
    assert_eq!(ask().await.expect(200).json()["words"], 104);

    // Like many editors save: a new file replaces the old one.
    let saved = project.join("src/lib.rs.new");
    std::fs::write(&saved, first.replace("words: words.len()", "words: words.len() + 200")).unwrap();
    std::fs::rename(&saved, &source).unwrap();
    dev.line("live again as version 3 in");
    assert_eq!(ask().await.expect(200).json()["words"], 204);
    dev.line("a text of 204 words");

    // A request that follows the log does not prevent it from ending.
    let server = format!("http://{address}");
    let mut following = Running::start(hearth(&project).args(["logs", "demo", "-f", "--server", &server]));
    following.line("a text of 104 words");
    assert_eq!(dev.interrupt(), Some(0));
}

#[test]
fn the_pure_part_of_a_new_function_is_tested_on_this_machine() {
    let place = tempfile::tempdir().unwrap();
    run(hearth(place.path()).args(["new", "tested"]));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.arg("test").current_dir(place.path().join("tested")).env("CARGO_TARGET_DIR", target());
    cargo.env("CARGO_INCREMENTAL", "0").env("CARGO_PROFILE_DEV_DEBUG", "0");
    let text = run(&mut cargo);
    assert!(text.contains("words_are_counted ... ok"), "{text}");
}

#[test]
fn what_cannot_be_made_or_built_is_refused_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    fail(hearth(folder).args(["new", "../demo"]), 1, "no name for a function");
    fail(hearth(folder).args(["new", "fn"]), 1, "choose another name");
    fail(hearth(folder).args(["new", "demo", "--lang", "python"]), 1, "come later");
    fail(hearth(folder).args(["new", "demo", "--lang", "cobol"]), 1, "no language");
    assert!(!folder.join("demo").exists());
    std::fs::create_dir(folder.join("full")).unwrap();
    std::fs::write(folder.join("full/file"), "mine").unwrap();
    fail(hearth(folder).args(["new", "full"]), 1, "not empty");
    assert_eq!(std::fs::read_to_string(folder.join("full/file")).unwrap(), "mine");

    fail(hearth(folder).args(["build", "nowhere"]), 1, "no folder");
    // Cargo's own message is shown, and its exit status is passed on.
    fail(hearth(folder).args(["build", "full"]), 101, "Cargo.toml");
    fail(hearth(folder).args(["dev", "full", "--listen", "127.0.0.1:0"]), 101, "Cargo.toml");
    std::fs::create_dir(folder.join("full/src")).unwrap();
    std::fs::write(folder.join("full/src/lib.rs"), "").unwrap();
    let manifest = "[package]\nname = \"full\"\nedition = \"2024\"\n[workspace]\n";
    std::fs::write(folder.join("full/Cargo.toml"), manifest).unwrap();
    fail(hearth(folder).args(["build", "full"]), 1, "crate-type");
    std::fs::write(folder.join("full/Cargo.toml"), format!("{manifest}[lib]\ncrate-type = [\"cdylib\"]\n")).unwrap();
    std::fs::write(folder.join("full/src/lib.rs"), "broken").unwrap();
    fail(hearth(folder).args(["build", "full"]), 101, "the build failed");
    fail(hearth(folder).args(["build", "full", "-p", "other"]), 1, "no package other");
    fail(hearth(folder).args(["build", "full"]).env("HEARTH_GUEST_TOOLCHAIN", "gcc"), 1, "not `gcc`");
}

#[test]
fn examples_of_a_workspace_are_built_by_name() {
    let place = tempfile::tempdir().unwrap();
    let examples = root().join("examples");
    fail(hearth(place.path()).arg("build").arg(&examples), 1, "choose one with -p");
    let text = run(hearth(place.path()).args(["build", "-p", "echo"]).arg(&examples));
    assert!(text.contains("echo.wasm"), "{text}");
    // A server would accept it.
    let text = run(hearth(place.path()).arg("inspect").arg(target().join("echo.wasm")));
    assert!(text.contains("world") && text.contains("handle"), "{text}");
}

#[test]
fn files_are_inspected_without_a_server() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let file = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    file("file-type.wasm", &component("file-type"));
    let text = run(hearth(folder).args(["inspect", "file-type.wasm"]));
    for part in ["models magika", "world", "handler", "hearth:inference/models@0.2.0", "handle", "hearth:manifest ("] {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    let json = run(hearth(folder).args(["inspect", "--json", "file-type.wasm"]));
    let facts: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(facts["grants_requested"]["models"], serde_json::json!(["magika"]));
    assert_eq!((facts["kind"].as_str(), facts["world"].as_str()), (Some("component"), Some("handler")));

    file("core.wasm", b"\0asm\x01\0\0\0");
    fail(hearth(folder).args(["inspect", "core.wasm"]), 1, "core WebAssembly module");
    file("text.wasm", b"hello");
    fail(hearth(folder).args(["inspect", "text.wasm"]), 1, "68 65 6c 6c 6f");
    let half = component("echo");
    file("half.wasm", &half[..half.len() / 2]);
    fail(hearth(folder).args(["inspect", "half.wasm"]), 1, "damaged");
    fail(hearth(folder).args(["inspect", "missing.wasm"]), 1, "cannot read missing.wasm");
    fail(hearth(folder).args(["inspect", "."]), 1, "without model.onnx");
    let text = run(hearth(folder).arg("inspect").arg(model_folder("magika")));
    assert!(text.contains("is a model") && text.contains("hearth model add"), "{text}");
    let text = run(hearth(folder).args(["inspect", "--json"]).arg(model_folder("magika").join("model.onnx")));
    assert!(text.contains("model"), "{text}");
}

/// Asks for the stream of a function's log.
async fn follow(server: &TestServer, query: &str) -> http::Response<hyper::body::Incoming> {
    let http = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let url = format!("http://{}/v1/functions/probe/logs?follow=1&{query}", server.client.address());
    let request = http::Request::get(url).body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    http.request(request).await.unwrap()
}

/// The log messages in the next part of a stream, or `None` at its end.
async fn messages(response: &mut http::Response<hyper::body::Incoming>) -> Option<Vec<String>> {
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/x-ndjson".parse().unwrap())
    );
    let frame =
        tokio::time::timeout(Duration::from_secs(20), response.body_mut().frame()).await.expect("a part in time")?;
    let part = String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap();
    Some(part.lines().map(|line| text_of(&serde_json::from_str(line).unwrap())).collect())
}

fn text_of(line: &serde_json::Value) -> String {
    line["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_and_followers_hold_nothing_up() {
    let server = TestServer::with_limits(&["log_followers=2", "log_lines=10"]).await;
    server.deploy("probe", "probe").await;
    let client = &server.client;
    // The probe logs lines of a length.
    let log = async |length: usize| client.get(&format!("/fn/probe/log?count=1&length={length}")).await.expect(200);
    log(1).await;
    log(2).await;
    let lines = async |query: &str| {
        let answer = client.get(&format!("/v1/functions/probe/logs{query}")).await.expect(200).json();
        answer["lines"].as_array().unwrap().iter().map(text_of).collect::<Vec<_>>()
    };
    assert_eq!(lines("").await, ["l", "ll"]);
    assert_eq!(lines("?limit=1").await, ["ll"]);
    assert_eq!(lines("?limit=0&follow=0").await.len(), 0);
    assert_eq!(lines("?since_ms=1").await.len(), 2);
    assert_eq!(lines("?since_ms=99999999999999").await.len(), 0);
    for query in ["follow=maybe", "limit=x", "limit=-1", "since_ms=", "other=1"] {
        let reply = client.get(&format!("/v1/functions/probe/logs?{query}")).await;
        reply.expect_error(422, "invalid-argument", "follow");
    }
    client.get("/v1/functions/nothing/logs?follow=1").await.expect_error(404, "not-found", "nothing");

    let mut one = follow(&server, "limit=1").await;
    assert_eq!(messages(&mut one).await.unwrap(), ["ll"]);
    let mut two = follow(&server, "limit=0").await;
    client.get("/v1/functions/probe/logs?follow=1").await.expect_error(429, "overloaded", "log_followers");
    log(3).await;
    assert_eq!(messages(&mut one).await.unwrap(), ["lll"]);
    assert_eq!(messages(&mut two).await.unwrap(), ["lll"]);

    // When a follower leaves, its place is free again.
    drop(two);
    let start = Instant::now();
    let mut three = loop {
        match follow(&server, "limit=0").await {
            found if found.status() == 200 => break found,
            refused => assert_eq!(refused.status(), 429),
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the place stays taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // A deleted function has no more lines; its followers end.
    client.delete("/v1/functions/probe").await.expect(200);
    assert_eq!((messages(&mut one).await, messages(&mut three).await), (None, None));

    // They also end when the server ends.
    server.deploy("probe", "probe").await;
    let mut last = follow(&server, "").await;
    log(4).await;
    assert_eq!(messages(&mut last).await.unwrap(), ["llll"]);
    let start = Instant::now();
    server.shut_down().await;
    assert!(start.elapsed() < Duration::from_secs(5), "followers held the end up for {:?}", start.elapsed());
    assert_eq!(messages(&mut last).await, None);
}
