//! Tests starting, stopping and killing the server.

use crate::harness::{Process, TestServer, command, component, model_tar, ort_library};
use std::os::unix::fs::MetadataExt;

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
    // The request gets an answer, not a broken connection.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_form_outlives_kill_9_serves_all_tenants_and_goes_with_the_last_name() {
    if ort_library().is_none() {
        println!("skipped: onnxruntime is not here");
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    let form = |data: &std::path::Path| {
        let mut forms = std::fs::read_dir(data.join("prepared")).unwrap().map(|entry| entry.unwrap().path());
        let form = forms.next();
        assert!(forms.next().is_none());
        form
    };
    // The inode distinguishes a file from another one of the same name.
    let inode = |form: &std::path::Path| std::fs::metadata(form.join("weights.bin")).unwrap().ino();
    let put = server.client.put("/v1/models/minilm", model_tar("minilm")).await.expect(201).json();
    assert!(form(data.path()).is_none(), "the check keeps nothing");
    server.client.post("/v1/models/minilm/load", "").await.expect(200);
    let kept = form(data.path()).unwrap();
    assert!(kept.to_str().unwrap().contains(put["digest"].as_str().unwrap().trim_start_matches("sha256:")));
    let first = inode(&kept);
    server.kill();

    let server = Process::start(data.path());
    assert_eq!(form(data.path()).as_ref(), Some(&kept));
    server.client.put("/t/acme/v1/models/theirs", model_tar("minilm")).await.expect(201);
    server.client.post("/t/acme/v1/models/theirs/load", "").await.expect(200);
    assert_eq!((form(data.path()), inode(&kept)), (Some(kept.clone()), first), "nothing was made again");
    server.client.delete("/v1/models/minilm").await.expect(200);
    assert_eq!(form(data.path()), Some(kept.clone()), "another tenant has the same model");
    // Leftovers of a process that died before it removed the form of a deleted model, and of one that died while it made a form.
    let gone = kept.with_file_name(format!("{}-0123456789abcdef", "0".repeat(64)));
    let half = kept.with_file_name(".making-0000-0123456789abcdef");
    server.kill();
    std::fs::create_dir(&gone).unwrap();
    std::fs::create_dir(&half).unwrap();

    let server = Process::start(data.path());
    assert_eq!(form(data.path()), Some(kept));
    server.client.delete("/t/acme/v1/models/theirs").await.expect(200);
    assert_eq!(form(data.path()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_priorities_outlive_kill_9_and_go_with_the_model() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Process::start(data.path());
    let pin =
        async |server: &Process, path: &str, body: &str| server.client.post(path, body.to_owned()).await.expect(200);
    // The list's entry of the default tenant's model.
    let told = async |server: &Process| {
        let list = server.client.get("/v1/models").await.expect(200).json();
        let model = list["models"][0].clone();
        (model["pinned"].as_bool().unwrap(), model["priority"].as_u64().unwrap(), model["state"].clone())
    };
    server.client.put("/v1/models/magika", model_tar("magika")).await.expect(201);
    server.client.put("/t/acme/v1/models/theirs", model_tar("magika")).await.expect(201);
    assert_eq!(told(&server).await, (false, 0, "stored".into()));
    let answer = pin(&server, "/v1/models/magika/pin", r#"{"priority": 7}"#).await.json();
    assert_eq!(
        (&answer["state"], &answer["pinned"], &answer["priority"]),
        (&"resident".into(), &true.into(), &7.into())
    );
    pin(&server, "/t/acme/v1/models/theirs/pin", r#"{"pinned": false, "priority": 9}"#).await;
    assert_eq!(
        told(&server).await,
        (true, 9, "resident".into()),
        "one copy serves both: the most that was asked counts"
    );
    server.kill();

    // It is loaded although no function opens it.
    server = Process::start(data.path());
    let begun = std::time::Instant::now();
    while told(&server).await != (true, 9, "resident".into()) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", told(&server).await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    pin(&server, "/v1/models/magika/pin", r#"{"pinned": false}"#).await;
    assert_eq!(told(&server).await, (false, 9, "resident".into()));
    pin(&server, "/v1/models/magika/pin", "").await;
    // One tenant cannot unload what another one has pinned.
    let answer = server.client.post("/t/acme/v1/models/theirs/unload", "").await.expect(200).json();
    assert_eq!((&answer["unloaded"], &answer["pinned"]), (&false.into(), &true.into()));
    assert_eq!(told(&server).await, (true, 0, "resident".into()));
    pin(&server, "/t/acme/v1/models/theirs/pin", r#"{"priority": 9}"#).await;
    server.client.delete("/t/acme/v1/models/theirs").await.expect(200);
    assert_eq!(told(&server).await, (true, 0, "resident".into()), "acme's pin was deleted with its model");
    // It is unloaded on request, because no tenant has pinned it.
    server.client.post("/v1/models/magika/unload", "").await.expect(200);
    assert_eq!(told(&server).await, (false, 0, "stored".into()));
    server.client.post("/v1/models/missing/pin", "").await.expect_error(404, "not-found", "missing");
    server.client.post("/v1/models/magika@2/pin", "").await.expect_error(404, "not-found", "2");
    server.client.post("/v1/models/magika@x@y/pin", "").await.expect_error(422, "invalid-argument", "x@y");
    pin(&server, "/v1/models/magika@1/pin", r#"{"priority": 3}"#).await;
    assert_eq!(told(&server).await, (true, 3, "resident".into()));
    server.client.delete("/v1/models/magika").await.expect(200);
    server.client.put("/v1/models/magika", model_tar("magika")).await.expect(201);
    assert_eq!(told(&server).await, (false, 0, "stored".into()), "a model that was deleted is a new one");
    server.kill();

    server = Process::start(data.path());
    assert_eq!(told(&server).await, (false, 0, "stored".into()));
    assert!(server.client.get("/v1/status").await.expect(200).json()["models"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_run_is_traced_within_its_invocation_and_request() {
    let data = tempfile::tempdir().unwrap();
    let log = data.path().join("log");
    let mut command = command();
    command.env("HEARTH_LOG", "hearth=debug").stderr(std::fs::File::create(&log).unwrap());
    let server = Process::start_as(command, &data.path().join("data"));
    server.client.put("/t/acme/v1/models/magika", model_tar("magika")).await.expect(201);
    server.client.put("/t/acme/v1/functions/file-type", component("file-type")).await.expect(201);
    let reply = server.client.post("/t/acme/fn/file-type", "#!/bin/sh\n").await.expect(200);
    let id = reply.headers["hearth-request-id"].to_str().unwrap().to_owned();
    drop(server);
    let log = std::fs::read_to_string(log).unwrap();
    let line = log.lines().find(|line| line.contains("model_us=")).unwrap_or_else(|| panic!("no run in {log}"));
    let places = [
        format!("request{{id=\"{id}\" tenant=\"acme\" method=POST path=\"/fn/file-type\"}}"),
        "invocation{function=\"file-type\" version=1}".to_owned(),
        "model_run{model=\"magika\" version=1}".to_owned(),
    ];
    let at: Vec<_> =
        places.iter().map(|part| line.find(part).unwrap_or_else(|| panic!("{part} is not in {line}"))).collect();
    assert!(at.is_sorted(), "{line}");
}
