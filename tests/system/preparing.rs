//! Tests `init`, which runs once, is kept as a snapshot, and runs again when its inputs change; and the two halves of a pipeline.

use crate::harness::{Process, TestServer, component, model_tar};
use std::time::Instant;

/// Deploys the init-probe with settings that select what its `init` does, and gives the reply.
async fn told(server: &TestServer, case: &str) -> crate::client::Reply {
    let config = serde_json::json!({ "config": { "init": case } });
    server.client.patch("/v1/functions/init-probe/settings", config.to_string()).await.expect(200);
    server.client.get("/fn/init-probe").await
}

async fn server(limits: &[&str]) -> TestServer {
    let server = TestServer::with_limits(limits).await;
    server.add_model("magika").await;
    let put = server.deploy("init-probe", "init-probe").await;
    assert_eq!(put["world"], "handler-with-init");
    assert!(put["without_snapshot"].is_null(), "{put}");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_starts_from_what_init_left() {
    let server = server(&[]).await;
    assert_eq!(server.client.get("/fn/init-probe").await.expect(200).text(), "ok");
    for _ in 0..3 {
        // `init` counted to 1 once; each request continues in its own memory.
        assert_eq!(server.client.get("/fn/init-probe/count").await.expect(200).text(), "2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_has_config_and_assets_and_neither_secrets_nor_devices() {
    let server = server(&[]).await;
    let secret = r#"{"secrets": {"token": "hidden"}, "config": {"greeting": "hello"}}"#;
    server.client.patch("/v1/functions/init-probe/settings", secret).await.expect(200);
    for (case, wanted) in [
        ("config", "greeting Some(\"hello\")"),
        ("signature", "1 inputs"),
        ("log", "logged"),
        ("secret", "permission-denied: init runs without secrets"),
        ("tensor", "permission-denied: init runs without tensors"),
        ("text", "permission-denied: init runs without tensors"),
        ("operator", "permission-denied: init runs without operators"),
        ("infer", "permission-denied: init runs without model runs"),
        ("submit", "permission-denied: init runs without model runs"),
    ] {
        let answer = told(&server, case).await.expect(200).text();
        assert!(answer.starts_with(wanted), "{case}: {answer}");
    }
    let asset = told(&server, "asset").await.expect(200).text();
    let bytes = std::fs::metadata(crate::harness::model_folder("magika").join("assets/config.min.json")).unwrap().len();
    assert_eq!(asset, format!("{bytes} bytes"));
    assert_eq!(server.client.get("/fn/init-probe/secret").await.expect(200).text(), "Some(\"hidden\")");
    let lines = server.client.get("/v1/functions/init-probe/logs").await.expect(200).json();
    let lines = lines["lines"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["message"] == "init was here" && line["request_id"] == "init"), "{lines:?}");
    assert!(lines.iter().all(|line| line["version"].as_u64() >= Some(1)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_fails_is_told_and_refuses_the_upload() {
    let server = server(&["invocation_ms=500"]).await;
    for (case, part) in [
        ("error", "init was told to fail"),
        ("panic", "init was told to panic"),
        ("loop", "init did not end within 500 ms"),
        ("nonsense", "no `nonsense`"),
    ] {
        told(&server, case).await.expect_error(502, "handler-failed", part);
        let again = server.client.put("/v1/functions/init-probe", component("init-probe")).await;
        again.expect_error(422, "invalid-argument", part);
    }
    assert_eq!(told(&server, "ok").await.expect(200).text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_follows_the_models_that_init_saw() {
    let server = server(&[]).await;
    let before = told(&server, "asset").await.expect(200).text();
    // The same model with another asset: a new version, which init must have seen before it is live.
    let folder = tempfile::tempdir().unwrap();
    let mut archive = tar::Archive::new(&*Box::leak(model_tar("magika").into_boxed_slice()));
    archive.unpack(folder.path()).unwrap();
    std::fs::write(folder.path().join("assets/config.min.json"), "short").unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all("", folder.path()).unwrap();
    server.client.put("/v1/models/magika", builder.into_inner().unwrap()).await.expect(201);
    assert_eq!(server.client.get("/fn/init-probe").await.expect(200).text(), "5 bytes");
    // And back: the old version is live again.
    server.client.put("/v1/models/magika", model_tar("magika")).await.expect(200);
    assert_eq!(server.client.get("/fn/init-probe").await.expect(200).text(), before);
    // Without its asset, `init` fails with the model; nothing changes.
    std::fs::remove_file(folder.path().join("assets/config.min.json")).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all("", folder.path()).unwrap();
    server.client.put("/v1/models/magika", builder.into_inner().unwrap()).await.expect(201);
    let answer = server.client.get("/fn/init-probe").await.expect(200).text();
    assert!(answer.starts_with("not-found"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_survives_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    server.client.put("/v1/functions/vocabulary", component("vocabulary")).await.expect(201);
    let before = server.client.get("/fn/vocabulary?word=w1").await.expect(200).text();
    server.kill();
    let server = Process::start(data.path());
    let started = Instant::now();
    assert_eq!(server.client.get("/fn/vocabulary?word=w1").await.expect(200).text(), before);
    println!("first answer {:?} after a restart", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_vocabulary_answers_as_one_parsed_each_time() {
    let server = TestServer::start().await;
    server.deploy("once", "vocabulary").await;
    server.deploy("each", "vocabulary-each-time").await;
    let mut spent = [Vec::new(), Vec::new()];
    for index in 0..30 {
        let path = format!("?word=word{}&id={index}", index * 37);
        let mut answers = Vec::new();
        for (name, spent) in ["once", "each"].into_iter().zip(&mut spent) {
            let headers = [("hearth-receipt", "1")];
            let reply =
                server.client.send(http::Method::GET, &format!("/fn/{name}{path}"), &headers, "").await.expect(200);
            let receipt: serde_json::Value =
                serde_json::from_slice(reply.headers["hearth-receipt"].as_bytes()).unwrap();
            spent.push(receipt["guest_us"].as_u64().unwrap());
            answers.push(reply.text());
        }
        assert_eq!(answers[0], answers[1], "{path}");
    }
    spent.iter_mut().for_each(|spent| spent.sort_unstable());
    println!("median microseconds in the guest: {} prepared, {} parsing", spent[0][15], spent[1][15]);
    // Parsing takes milliseconds; starting from memory is an order of magnitude faster, even on a busy machine.
    assert!(spent[0][15] * 4 < spent[1][15], "{spent:?}");
}
