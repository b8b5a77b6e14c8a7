//! Tests functions: upload, call, list, aliases, deletion.

use crate::harness::{TestServer, command, component};
use hearth_crafted as crafted;
use http::Method;

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_echo_answers_at_once() {
    let server = TestServer::start().await;
    let put = server.deploy("echo", "echo").await;
    assert_eq!((put["name"].as_str(), put["version"].as_u64()), (Some("echo"), Some(1)));
    // It uses no device, so its world is the smaller one.
    assert_eq!(put["world"], "pure");
    assert_eq!(put["digest"].as_str().unwrap().len(), 64);

    let body: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let reply =
        server.client.send(Method::POST, "/fn/echo", &[("content-type", "a/b")], body.clone()).await.expect(200);
    assert_eq!(reply.body, body);
    assert_eq!(reply.headers["content-type"], "a/b");
    assert_eq!(reply.headers["hearth-version"], "1");
    assert_eq!(reply.headers["content-security-policy"], "sandbox");
    assert!(!reply.headers.contains_key("hearth-receipt"));
    assert_eq!(server.client.get("/fn/echo/any/path?and=query").await.expect(200).text(), "hello from hearth\n");
    assert!(server.client.post("/fn/echo", "").await.expect(200).body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_comes_when_asked_for() {
    let server = TestServer::start().await;
    server.deploy("echo", "echo").await;
    let reply = server.client.send(Method::POST, "/fn/echo", &[("hearth-receipt", "1")], "12345").await.expect(200);
    let receipt: serde_json::Value = serde_json::from_slice(reply.headers["hearth-receipt"].as_bytes()).unwrap();
    assert_eq!((receipt["request_bytes"].as_u64(), receipt["response_bytes"].as_u64()), (Some(5), Some(5)));
    let (wall, guest) = (receipt["wall_us"].as_u64().unwrap(), receipt["guest_us"].as_u64().unwrap());
    assert!(guest > 0 && guest <= wall, "{receipt}");
    assert!(receipt["guest_memory_bytes"].as_u64().unwrap() >= 65_536, "{receipt}");
    assert_eq!(receipt["model_runs"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_count_by_digest_and_the_newest_put_is_live() {
    let server = TestServer::start().await;
    let client = &server.client;
    assert_eq!(server.deploy("f", "echo").await["version"], 1);
    assert_eq!(server.deploy("f", "probe").await["version"], 2);
    let again = client.put("/v1/functions/f", component("echo")).await.expect(200).json();
    assert_eq!(again["version"], 1);
    assert_eq!(client.post("/fn/f", "x").await.expect(200).headers["hearth-version"], "1");
    assert_eq!(client.post("/fn/f@1", "x").await.expect(200).text(), "x");

    client.put("/v1/functions/f/aliases/stable", r#"{"version": 1}"#).await.expect(200);
    client.put("/v1/functions/f", component("probe")).await.expect(200);
    assert_eq!(client.post("/fn/f@stable", "y").await.expect(200).text(), "y");
    assert_eq!(client.get("/fn/f/nothing").await.headers["hearth-version"], "2");
    let detail = client.get("/v1/functions/f").await.expect(200).json();
    assert_eq!((detail["live"].as_u64(), detail["aliases"]["stable"].as_u64()), (Some(2), Some(1)));
    assert_eq!(
        client.get("/v1/functions/f/versions").await.expect(200).json()["versions"].as_array().unwrap().len(),
        2
    );

    client.put("/v1/functions/f/aliases/next", r#"{"version": 9}"#).await.expect_error(404, "not-found", "9");
    client.put("/v1/functions/f/aliases/7", r#"{"version": 1}"#).await.expect_error(422, "invalid-argument", "alias");
    client.put("/v1/functions/f/aliases/next", "{").await.expect_error(400, "malformed", "version");
    client.put("/v1/functions/f/aliases/next", r#"{"version": "1"}"#).await.expect_error(
        422,
        "invalid-argument",
        "version",
    );
    client.delete("/v1/functions/f/aliases/stable").await.expect(200);
    client.post("/fn/f@stable", "y").await.expect_error(404, "not-found", "stable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_function_is_gone_and_its_twin_stays() {
    let server = TestServer::start().await;
    server.deploy("one", "echo").await;
    let twin = server.client.put("/v1/functions/two", component("echo")).await.expect(201).json();
    assert_eq!(twin["version"], 1);
    server.client.delete("/v1/functions/one").await.expect(200);
    server.client.post("/fn/one", "x").await.expect_error(404, "not-found", "one");
    server.client.delete("/v1/functions/one").await.expect_error(404, "not-found", "one");
    assert_eq!(server.client.post("/fn/two", "x").await.expect(200).text(), "x");
    let names: Vec<_> = server.client.get("/v1/functions").await.expect(200).json()["functions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|function| function["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_see_each_other() {
    let server = TestServer::start().await;
    server.client.put("/t/acme/v1/functions/echo", component("echo")).await.expect(201);
    assert_eq!(server.client.post("/t/acme/fn/echo", "x").await.expect(200).text(), "x");
    server.client.post("/fn/echo", "x").await.expect_error(404, "not-found", "echo");
    server.client.post("/t/other/fn/echo", "x").await.expect_error(404, "not-found", "echo");
    assert_eq!(server.client.get("/v1/functions").await.expect(200).json()["functions"].as_array().unwrap().len(), 0);
    server.client.get("/t/A..B/v1/functions").await.expect_error(422, "invalid-argument", "tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_tells_about_itself() {
    let server = TestServer::with_limits(&["body_bytes=1234"]).await;
    let client = &server.client;
    server.deploy("echo", "echo").await;
    client.post("/fn/echo", "x").await.expect(200);
    assert_eq!(client.get("/livez").await.expect(200).text(), "ok\n");
    client.get("/readyz").await.expect(200);
    let status = client.get("/v1/status").await.expect(200).json();
    let limits = status["limits"].as_array().unwrap();
    let body = limits.iter().find(|limit| limit["name"] == "body_bytes").unwrap();
    assert_eq!(body["value"], 1234);
    assert!(limits.iter().all(|limit| !limit["reason"].as_str().unwrap().is_empty()));
    assert_eq!(status["device"]["name"], "cpu");
    let metrics = client.get("/metrics").await.expect(200).text();
    assert!(metrics.contains(r#"hearth_invocations_total{function="echo",outcome="ok"} 1"#), "{metrics}");
    server.deploy("probe", "probe").await;
    client.get("/fn/probe/status/42").await.expect_error(502, "handler-failed", "status 42");
    let metrics = client.get("/metrics").await.expect(200).text();
    let counted = r#"hearth_invocations_total{function="probe",outcome="handler-failed"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    client.get("/nowhere").await.expect_error(404, "not-found", "/v1/functions");
    client.send(Method::PATCH, "/v1/functions/echo", &[], "").await.expect_error(405, "invalid-argument", "PATCH");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_init_runs_for_every_request_is_shown() {
    let (items, code) = crafted::answer("prepared each time");
    let wasm = crafted::handler_without_snapshot(&items, code);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("each.wasm");
    std::fs::write(&file, &wasm).unwrap();
    let said = |arguments: &[&str]| {
        let output = command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let inspected: serde_json::Value =
        serde_json::from_str(&said(&["inspect", "--json", file.to_str().unwrap()])).unwrap();
    let reason = inspected["without_snapshot"].as_str().unwrap();
    assert!(said(&["inspect", file.to_str().unwrap()]).contains(&format!("no snapshot can be taken: {reason}")));

    let server = TestServer::start().await;
    let put = server.client.put("/v1/functions/each", wasm).await.expect(201).json();
    assert_eq!((put["world"].as_str(), put["without_snapshot"].as_str()), (Some("pure-with-init"), Some(reason)));
    // Before a call it is not in use, so nothing is known about it.
    assert!(server.client.get("/v1/functions/each").await.expect(200).json().get("without_snapshot").is_none());
    assert_eq!(server.client.get("/fn/each").await.expect(200).text(), "prepared each time");
    let detail = server.client.get("/v1/functions/each").await.expect(200).json();
    assert_eq!(detail["without_snapshot"].as_str(), Some(reason));

    server.deploy("echo", "echo").await;
    server.client.get("/fn/echo").await.expect(200);
    let list = server.client.get("/v1/functions").await.expect(200).json();
    let shown =
        |name: &str| list["functions"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!(shown("each")["without_snapshot"].as_str(), Some(reason));
    assert!(shown("echo")["without_snapshot"].is_null());
    let address = format!("http://{}", server.client.address());
    let table = tokio::task::spawn_blocking(move || {
        let output = command().args(["functions", "--server", &address]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    let table = table.await.unwrap();
    assert!(table.contains(&format!("each: init runs for every request, because no snapshot can be taken: {reason}")));
    assert!(!table.contains("echo: init"), "{table}");
}
