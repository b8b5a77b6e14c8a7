//! Tests settings of functions: grants, secrets, a function's own limits.

use crate::client::Client;
use crate::harness::{Process, TestServer, command, component, model_tar};
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const SETTINGS: &str = "/v1/functions/probe/settings";

async fn set(client: &Client, settings: Value) -> Value {
    client.put(SETTINGS, settings.to_string()).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_runs_once_it_is_granted_what_it_asks_for() {
    let server = TestServer::with(&[], true).await;
    let client = &server.client;
    server.add_model("magika").await;
    let put = server.deploy("probe", "probe").await;
    let asked = json!({"models": ["magika"], "config": ["greeting"], "secrets": ["TOKEN"], "hosts": []});
    assert_eq!((&put["grants_requested"], &put["missing_grants"]), (&asked, &asked));
    for part in ["models magika", "config greeting", "secrets TOKEN", "PATCH /v1/functions/probe/settings"] {
        client.get("/fn/probe").await.expect_error(409, "conflict", part);
    }

    // Values grant their keys. What is granted under another name is still missing.
    let set_one = json!({
        "grants": {"models": ["magika@stable", "other"]}, "config": {"greeting": "hello"}, "secrets": {"TOKEN": "t0ken"},
    });
    let now = set(client, set_one).await;
    assert_eq!(now["missing_grants"], json!({"models": ["magika"], "config": [], "secrets": [], "hosts": []}));
    client.get("/fn/probe").await.expect_error(409, "conflict", "models magika");
    let body = json!({"grants": {"models": ["magika"]}}).to_string();
    assert_eq!(client.patch(SETTINGS, body).await.expect(200).json()["missing_grants"]["models"], json!([]));

    client.get("/fn/probe").await.expect(200);
    assert_eq!(client.get("/fn/probe/secret/TOKEN").await.expect(200).text(), r#"Some("t0ken")"#);
    client.get("/fn/probe/secret/OTHER").await.expect_error(403, "permission-denied", "OTHER");
    let context = client.get("/fn/probe/context").await.expect(200).text();
    assert!(context.contains(r#"greeting Some("hello")"#) && context.contains("unset None"), "{context}");
    client.get("/fn/probe/model/open").await.expect(200);
    client.get("/fn/probe/model/open?name=magika@1").await.expect(200);
    client.get("/fn/probe/model/open?name=nope").await.expect_error(403, "permission-denied", "--grant-model");
    client.get("/fn/probe/model/open?name=other").await.expect_error(404, "not-found", "other");
    let detail = client.get("/v1/functions/probe").await.expect(200).json();
    assert_eq!(detail["grants_requested"], asked);
    assert_eq!(detail["missing_grants"]["models"], json!([]));
    assert_eq!(detail["versions"].as_array().unwrap().len(), 1);

    // Revoked, and replaced.
    client.patch(SETTINGS, r#"{"revoke": {"models": ["magika"]}}"#).await.expect(200);
    client.get("/fn/probe").await.expect_error(409, "conflict", "models magika");
    let all = json!({"grants": asked, "config": {}, "secrets": {"TOKEN": null}});
    let now = set(client, all).await;
    assert_eq!((&now["grants"], &now["config"], &now["secrets"]), (&asked, &json!({}), &json!([])));
    // Granted without a value.
    assert_eq!(client.get("/fn/probe/secret/TOKEN").await.expect(200).text(), "None");
    client.get("/fn/probe/model/open?name=other").await.expect_error(403, "permission-denied", "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_a_function_is_granted_what_it_asks_for_and_no_more() {
    let server = TestServer::start().await;
    let put = server.deploy("probe", "probe").await;
    assert_eq!(put["missing_grants"], json!({"models": [], "config": [], "secrets": [], "hosts": []}));
    assert_eq!(server.client.get("/fn/probe/secret/TOKEN").await.expect(200).text(), "None");
    server.client.get("/fn/probe/secret/OTHER").await.expect_error(403, "permission-denied", "secrets = [");
    set(&server.client, json!({"secrets": {"OTHER": "value"}})).await;
    assert_eq!(server.client.get("/fn/probe/secret/OTHER").await.expect(200).text(), r#"Some("value")"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_wrong_are_told_without_their_values() {
    let server = TestServer::with_limits(&["settings_entries=4", "setting_bytes=32", "invocation_ms=5000"]).await;
    let client = &server.client;
    server.deploy("probe", "probe").await;
    client.put("/v1/functions/none/settings", "{}").await.expect_error(404, "not-found", "none");
    client.get("/v1/functions/none/settings").await.expect_error(404, "not-found", "none");
    client.get("/t/other/v1/functions/probe/settings").await.expect_error(404, "not-found", "probe");
    let long = "hunter2".repeat(5);
    for (body, status, kind, part) in [
        ("{".to_owned(), 400, "malformed", "JSON"),
        (json!({"secret": {}}).to_string(), 422, "invalid-argument", "'secret'"),
        (json!({"secrets": "hunter2"}).to_string(), 422, "invalid-argument", "'secrets'"),
        (json!({"secrets": {"KEY": &long}}).to_string(), 413, "too-large", "setting_bytes"),
        (json!({"secrets": {"a/b": "hunter2"}}).to_string(), 422, "invalid-argument", "a/b"),
        (json!({"config": {"A=B": ""}}).to_string(), 422, "invalid-argument", "A=B"),
        (json!({"config": {"A": "a\0b"}}).to_string(), 422, "invalid-argument", "NUL"),
        (
            json!({"config": {"a": "", "b": "", "c": "", "d": "", "e": ""}}).to_string(),
            413,
            "too-large",
            "settings_entries",
        ),
        (json!({"grants": {"models": ["M"]}}).to_string(), 422, "invalid-argument", "'M'"),
        (json!({"grants": {"hosts": ["http://a"]}}).to_string(), 422, "invalid-argument", "http://a"),
        (json!({"grants": {"gpus": []}}).to_string(), 422, "invalid-argument", "'grants'"),
        (json!({"limits": {"invocation_ms": 5001}}).to_string(), 422, "invalid-argument", "is 5000 on this server"),
        (json!({"limits": {"yield_ms": 1}}).to_string(), 422, "invalid-argument", "there are body_bytes"),
        (json!({"limits": {"tensor_bytes": 1}}).to_string(), 422, "invalid-argument", "takes 1024 to"),
    ] {
        let reply = client.put(SETTINGS, body.clone()).await;
        assert!(!reply.text().contains("hunter2"), "{body}: {}", reply.text());
        reply.expect_error(status, kind, part);
    }
    // None of these changes was stored.
    let now = client.get(SETTINGS).await.expect(200).json();
    let nothing = json!({"models": [], "config": [], "secrets": [], "hosts": []});
    assert_eq!(
        (&now["grants"], &now["config"], &now["secrets"], &now["limits"]),
        (&nothing, &json!({}), &json!([]), &json!({}))
    );
    let manifest = component_asking_for(br#"{"models": "magika"}"#);
    client.put("/v1/functions/wrong", manifest).await.expect_error(422, "invalid-argument", "hearth:manifest");
    let manifest = component_asking_for(br#"{"models": ["a", "b", "c", "d", "e"]}"#);
    client.put("/v1/functions/wrong", manifest).await.expect_error(413, "too-large", "settings_entries");
}

/// The echo with another manifest before its own: the first one counts.
fn component_asking_for(manifest: &[u8]) -> Vec<u8> {
    let name = b"hearth:manifest";
    let echo = component("echo");
    let mut section = vec![name.len() as u8];
    section.extend_from_slice(name);
    section.extend_from_slice(manifest);
    let length = u8::try_from(section.len()).ok().filter(|length| *length < 128).unwrap();
    [&echo[..8], &[0, length], &section, &echo[8..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_on_no_disk_and_in_no_log() {
    const VALUE: &str = "correct-horse-battery-staple";
    let data = tempfile::tempdir().unwrap();
    let logs = tempfile::NamedTempFile::new().unwrap();
    let start = |logs: &std::fs::File| {
        let mut command = command();
        command
            .env(
                "HEARTH_LOG",
                "debug,hearth=trace,sqlx=trace,hyper=trace,tower=trace,cranelift=warn,wasmtime=warn,regalloc2=warn",
            )
            .env("HEARTH_REQUIRE_GRANTS", "true");
        command.stderr(logs.try_clone().unwrap());
        Process::start_as(command, data.path())
    };
    let server = start(logs.as_file());
    let client = &server.client;
    client.put("/v1/models/magika", model_tar("magika")).await.expect(201);
    client.put("/v1/functions/probe", component("probe")).await.expect(201);
    client.get("/fn/probe").await.expect_error(409, "conflict", "secrets TOKEN");
    let settings = json!({
        "grants": {"models": ["magika"], "config": ["greeting"]}, "config": {"plain": "in-the-clear"},
        "secrets": {"TOKEN": VALUE, "OTHER": VALUE}, "limits": {"log_bytes": 1000},
    });
    let put = client.put(SETTINGS, settings.to_string()).await.expect(200);
    assert!(!put.text().contains(VALUE) && put.json()["secrets"] == json!(["OTHER", "TOKEN"]), "{}", put.text());
    client.put(SETTINGS, json!({"secrets": VALUE}).to_string()).await.expect_error(
        422,
        "invalid-argument",
        "'secrets'",
    );
    for path in [SETTINGS, "/v1/functions/probe", "/v1/functions", "/v1/status", "/metrics", "/v1/functions/probe/logs"]
    {
        let shown = client.get(path).await.expect(200).text();
        assert!(!shown.contains(VALUE), "{path}: {shown}");
    }
    let shown = format!("Some({VALUE:?})");
    assert_eq!(client.get("/fn/probe/secret/TOKEN").await.expect(200).text(), shown);
    assert!(found_in(data.path(), b"in-the-clear"), "the search finds what is there");
    assert!(!found_in(data.path(), VALUE.as_bytes()));
    let address = client.address();
    let status = command().args(["settings", "probe", "--server", &address.to_string(), "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.status.success() && said.contains("TOKEN") && !said.contains(VALUE), "{said}");
    server.kill();

    // Everything is stored after a restart.
    let server = start(logs.as_file());
    let client = &server.client;
    assert_eq!(client.get("/fn/probe/secret/TOKEN").await.expect(200).text(), shown);
    let now = client.get(SETTINGS).await.expect(200).json();
    assert_eq!((&now["config"]["plain"], &now["limits"]["log_bytes"]), (&json!("in-the-clear"), &json!(1000)));
    server.kill();

    // Under another node key the server starts, and says which secrets to set again.
    std::fs::remove_file(data.path().join("node.key")).unwrap();
    let server = start(logs.as_file());
    let client = &server.client;
    client.get("/fn/probe").await.expect_error(409, "conflict", "the secrets OTHER, TOKEN");
    assert_eq!(client.get(SETTINGS).await.expect(200).json()["unreadable_secrets"], json!(["OTHER", "TOKEN"]));
    client.patch(SETTINGS, json!({"secrets": {"TOKEN": VALUE, "OTHER": null}}).to_string()).await.expect(200);
    assert_eq!(client.get("/fn/probe/secret/TOKEN").await.expect(200).text(), shown);

    // A function of the same name inherits nothing.
    client.delete("/v1/functions/probe").await.expect(200);
    client.put("/v1/functions/probe", component("probe")).await.expect(201);
    assert_eq!(client.get(SETTINGS).await.expect(200).json()["secrets"], json!([]));
    client.get("/fn/probe").await.expect_error(409, "conflict", "secrets TOKEN");
    server.kill();
    assert!(!found_in(data.path(), VALUE.as_bytes()));
    let log = std::fs::read_to_string(logs.path()).unwrap();
    assert!(log.contains("settings changed") && log.len() > 1000 && !log.contains(VALUE));
}

/// Whether any file below a folder has these bytes.
fn found_in(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found_in(&path, bytes),
            false => std::fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_grants_and_sets() {
    let server = TestServer::with(&[], true).await;
    server.deploy("probe", "probe").await;
    let address = server.client.address().to_string();
    let run = |arguments: &[&str]| {
        let mut command = command();
        command.args(["settings", "probe", "--server", &address]).args(arguments).env("TOKEN", "from-env");
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let said = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
        (output.status.success(), said.into_owned())
    };
    let (_, said) = run(&[]);
    assert!(said.contains("before it is granted models magika"), "{said}");
    let arguments =
        ["--grant-model", "magika", "--config", "greeting=hi=ho", "--secret", "TOKEN", "--limit", "log_bytes=1KiB"];
    let (ok, said) = run(&arguments);
    assert!(ok && !said.contains("before") && !said.contains("from-env"), "{said}");
    assert_eq!(server.client.get("/fn/probe/secret/TOKEN").await.expect(200).text(), r#"Some("from-env")"#);
    let now = server.client.get(SETTINGS).await.expect(200).json();
    assert_eq!((&now["config"]["greeting"], &now["limits"]["log_bytes"]), (&json!("hi=ho"), &json!(1024)));
    let (ok, said) = run(&["--remove-limit", "log_bytes", "--limit", "tensor_bytes=4096GiB"]);
    assert!(!ok && said.contains("on this server"), "{said}");
    let (ok, said) = run(&["--revoke-model", "magika", "--remove-limit", "log_bytes"]);
    assert!(ok && said.contains("models magika") && !said.contains("log_bytes"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_functions_own_limits_hold_for_it_alone() {
    let server = TestServer::start().await;
    let client = &server.client;
    server.add_model("magika").await;
    server.deploy("probe", "probe").await;
    client.put("/v1/functions/free", component("probe")).await.expect(201);
    let limits = json!({
        "invocation_ms": 400, "guest_memory_bytes": 8 << 20, "log_bytes": 200, "tensor_bytes": 4096, "tensor_count": 5,
        "body_bytes": 10, "response_bytes": 2000, "model_runs": 2, "operator_operations": 1000, "asset_bytes": 1024,
    });
    set(client, json!({ "limits": limits })).await;

    let started = Instant::now();
    client.get("/fn/probe/hostile/loop").await.expect_error(504, "deadline-exceeded", "400 ms");
    assert!(started.elapsed() < Duration::from_secs(5));
    client.get("/fn/probe/hostile/memory").await.expect_error(502, "handler-failed", "guest_memory_bytes");
    let taken = |text: String| text.parse::<u64>().unwrap();
    assert!(taken(client.get("/fn/probe/hostile/memory-polite").await.expect(200).text()) < 8);
    assert!(taken(client.get("/fn/free/hostile/memory-polite").await.expect(200).text()) > 100);
    for function in ["probe", "free"] {
        client.get(&format!("/fn/{function}/log?count=20")).await.expect(200);
        let log = client.get(&format!("/v1/functions/{function}/logs")).await.expect(200).text();
        assert_eq!(log.contains("log_bytes was reached"), function == "probe", "{log}");
    }
    client.get("/fn/probe/tensor/double?times=12").await.expect_error(429, "limit-exceeded", "");
    client.get("/fn/free/tensor/double?times=12").await.expect(200);
    client.get("/fn/probe/tensor/many?count=6").await.expect_error(429, "limit-exceeded", "");
    client.get("/fn/free/tensor/many?count=6").await.expect(200);
    client.post("/fn/probe", "12345678901").await.expect_error(413, "too-large", "body_bytes");
    client.get("/fn/probe/big?bytes=2001").await.expect_error(502, "handler-failed", "response_bytes");
    client.patch(SETTINGS, r#"{"limits": {"tensor_bytes": null, "operator_operations": null}}"#).await.expect(200);
    client.get("/fn/probe/model/again?count=2").await.expect(200);
    client.get("/fn/probe/model/again?count=3").await.expect_error(429, "limit-exceeded", "model_runs");
    let asset = "asset?asset=config.min.json";
    client.get(&format!("/fn/probe/model/{asset}")).await.expect_error(413, "too-large", "asset_bytes is 1024");

    client.patch(SETTINGS, r#"{"limits": {"guest_memory_bytes": 65536}}"#).await.expect(200);
    client.get("/fn/probe").await.expect_error(502, "handler-failed", "guest_memory_bytes allows 65536");

    // Without limits of its own, the server's apply again.
    set(client, json!({"limits": {}})).await;
    client.get("/fn/probe/model/again?count=3").await.expect(200);
    client.post("/fn/probe", "12345678901").await.expect(200);
    let status = client.get("/v1/status").await.expect(200).json();
    let per_function = |name: &str| {
        let limits = status["limits"].as_array().unwrap();
        limits.iter().find(|limit| limit["name"] == name).unwrap()["per_function"].clone()
    };
    assert_eq!((per_function("invocation_ms"), per_function("yield_ms")), (json!(true), json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_functions_own_places_leave_room_for_others() {
    let server = TestServer::start().await;
    let client = &server.client;
    server.deploy("probe", "probe").await;
    server.deploy("echo", "echo").await;
    client.get("/fn/probe").await.expect(200);
    set(client, json!({"limits": {"function_concurrency": 2, "function_queue": 1, "invocation_ms": 1500}})).await;
    let call = || {
        let client = client.clone();
        tokio::spawn(async move { client.send(Method::GET, "/fn/probe/hostile/loop", &[], "").await })
    };
    let running = [call(), call()];
    tokio::time::sleep(Duration::from_millis(300)).await;
    let waiting = call();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = client.get("/fn/probe").await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect_error(429, "overloaded", "function_concurrency");
    assert_eq!(client.post("/fn/echo", "x").await.expect(200).text(), "x");
    for call in running {
        call.await.unwrap().expect_error(504, "deadline-exceeded", "invocation_ms");
    }
    // It started after those two, with the rest of its time.
    waiting.await.unwrap().expect_error(504, "deadline-exceeded", "invocation_ms");
    client.get("/fn/probe").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_places_count_the_invocations_that_run_already() {
    let server = TestServer::start().await;
    let client = &server.client;
    server.deploy("probe", "probe").await;
    set(client, json!({"limits": {"invocation_ms": 3000}})).await;
    let call = || {
        let client = client.clone();
        tokio::spawn(async move { client.send(Method::GET, "/fn/probe/hostile/loop", &[], "").await })
    };
    let running = [call(), call()];
    tokio::time::sleep(Duration::from_millis(300)).await;
    set(client, json!({"limits": {"function_concurrency": 2, "function_queue": 0}})).await;
    client.get("/fn/probe").await.expect_error(429, "overloaded", "function_concurrency");
    set(client, json!({"limits": {"function_concurrency": 3, "function_queue": 0}})).await;
    client.get("/fn/probe").await.expect(200);
    set(client, json!({"limits": {"function_concurrency": 1, "function_queue": 0}})).await;
    client.get("/fn/probe").await.expect_error(429, "overloaded", "function_concurrency");
    for call in running {
        call.await.unwrap().expect_error(504, "deadline-exceeded", "invocation_ms");
    }
    client.get("/fn/probe").await.expect(200);
}
