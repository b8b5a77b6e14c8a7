//! Starting, stopping and dying.

use crate::harness::{Process, TestServer, command, component, model_tar};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    server.client.put("/v1/models/magika", model_tar("magika")).await.expect(201);
    server.client.put("/v1/functions/file-type", component("file-type")).await.expect(201);
    server.client.put("/v1/functions/echo", component("echo")).await.expect(201);
    let before = server.client.post("/fn/file-type", "#!/bin/sh\necho hello\n").await.expect(200).json();
    server.kill();

    let server = Process::start(data.path());
    let after = server.client.post("/fn/file-type", "#!/bin/sh\necho hello\n").await.expect(200).json();
    assert_eq!(before, after);
    assert_eq!(server.client.post("/fn/echo", "hi").await.expect(200).text(), "hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_lets_running_requests_finish() {
    let server = TestServer::with_limits(&["invocation_ms=1000"]).await;
    server.deploy("probe", "probe").await;
    let client = server.client.clone();
    client.get("/fn/probe").await.expect(200);
    let running = tokio::spawn(async move { client.get("/fn/probe/hostile/loop").await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    server.shut_down().await;
    // Its own answer, not a broken connection.
    running.await.unwrap().expect_error(504, "deadline-exceeded", "invocation_ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let output = command().args(["serve", "--listen", &address, "--data"]).arg(data.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&address) && said.contains("--listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_is_none_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = command().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let name = file.path().to_str().unwrap();
    assert!(!output.status.success() && said.contains(name), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_serves_one_server_at_a_time() {
    let data = tempfile::tempdir().unwrap();
    let first = Process::start(data.path());
    let output = command().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("another"), "{said}");
    first.client.get("/livez").await.expect(200);
}
