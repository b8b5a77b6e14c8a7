//! Tests that wrong input gets its status and a typed error, and does not affect other requests.

use crate::harness::{TestServer, component, model_folder};
use http::Method;
use std::time::{Duration, Instant};

/// A server with the probe and the magika model, and a check that it still works.
async fn server(limits: &[&str]) -> TestServer {
    let server = TestServer::with_limits(limits).await;
    server.deploy("probe", "probe").await;
    server.deploy("echo", "echo").await;
    server
}

async fn still_fine(server: &TestServer) {
    assert_eq!(server.client.post("/fn/echo", "still here").await.expect(200).text(), "still here");
    let status = server.client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["device"]["used_by"]["invocation"], 0, "{}", status["device"]);
    assert_eq!(status["invocations"]["running"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_component_is_refused_with_the_reason() {
    let server = server(&["component_bytes=1MiB"]).await;
    let put = |body: Vec<u8>| server.client.put("/v1/functions/wrong", body);
    put(Vec::new()).await.expect_error(422, "invalid-argument", "no WebAssembly component");
    put(b"#!/bin/sh\n".to_vec()).await.expect_error(422, "invalid-argument", "23 21 2f");
    put(b"\0asm\x01\0\0\0".to_vec()).await.expect_error(422, "invalid-argument", "core WebAssembly module");
    put(b"\0asm\x0d\0\x01\0".to_vec()).await.expect_error(422, "invalid-argument", "handle");
    let echo = component("echo");
    put(echo[..echo.len() / 2].to_vec()).await.expect_error(422, "invalid-argument", "does not compile");
    put(vec![0; 2 << 20]).await.expect_error(413, "too-large", "component_bytes");
    server.client.get("/v1/functions/wrong").await.expect_error(404, "not-found", "wrong");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_model_is_refused_with_the_reason() {
    let server = server(&["model_bytes=64MiB"]).await;
    let put = |body: Vec<u8>| server.client.put("/v1/models/wrong", body);
    put(b"no model at all".to_vec()).await.expect_error(422, "invalid-argument", "onnxruntime");
    put(Vec::new()).await.expect_error(400, "malformed", "empty");
    let model = std::fs::read(model_folder("magika").join("model.onnx")).unwrap();
    put(model[..model.len() / 2].to_vec()).await.expect_error(422, "invalid-argument", "onnxruntime");
    put(vec![b'x'; 65 << 20]).await.expect_error(413, "too-large", "model_bytes");
    server.client.get("/v1/models/wrong").await.expect_error(404, "not-found", "wrong");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_are_refused_everywhere() {
    let server = server(&[]).await;
    let long = "a".repeat(10_000);
    for name in ["..", "a..b", ".a", "-a", "A", "%2e%2e", "a%2fb", "a%00b", "a%20b", "%ff", "", &long] {
        for kind in ["functions", "models"] {
            let reply = server.client.put(&format!("/v1/{kind}/{name}"), component("echo")).await;
            assert!(matches!(reply.status.as_u16(), 404 | 422), "{name}: {}", reply.status);
            let error = &reply.json()["error"];
            assert!(matches!(error["kind"].as_str(), Some("not-found" | "invalid-argument")), "{name}: {error}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("name") || message.contains("nothing at"), "{name}: {message}");
        }
        let reply = server.client.post(&format!("/fn/{name}"), "x").await;
        assert!(matches!(reply.status.as_u16(), 404 | 422), "{name}: {}", reply.status);
    }
    server.client.post("/fn/unknown", "x").await.expect_error(404, "not-found", "unknown");
    server.client.post("/fn/echo@9", "x").await.expect_error(404, "not-found", "9");
    server.client.post("/fn/echo@stable", "x").await.expect_error(404, "not-found", "stable");
    server.client.post("/fn/echo@", "x").await.expect_error(422, "invalid-argument", "alias");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_are_403() {
    let server = server(&[]).await;
    for path in ["/fn/echo", "/v1/functions", "/t/acme/fn/echo", "/v1/status", "/nowhere"] {
        for header in [("origin", "https://evil.example"), ("origin", "null"), ("host", "evil.example")] {
            let reply = server.client.send(Method::POST, path, &[header], "x").await;
            reply.expect_error(403, "permission-denied", header.1);
        }
    }
    server.client.send(Method::POST, "/fn/echo", &[("origin", "http://localhost:3000")], "x").await.expect(200);
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_limit_are_413() {
    let server = server(&["body_bytes=1000", "response_bytes=1000"]).await;
    server.client.post("/fn/echo", vec![1; 1000]).await.expect(200);
    server.client.post("/fn/echo", vec![1; 1001]).await.expect_error(413, "too-large", "body_bytes");
    server.client.get("/fn/probe/big?bytes=1001").await.expect_error(502, "handler-failed", "response_bytes");
    still_fine(&server).await;
}

/// A client that sends all of its body before it reads still gets the refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_sends_first() {
    use std::io::{Read, Write};
    let server = server(&["body_bytes=1000"]).await;
    let address = server.client.address();
    for (path, status) in [("/fn/echo", "413"), ("/fn/unknown", "404"), ("/v1/functions/A", "422")] {
        let exchange = move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let method = if path.starts_with("/v1") { "PUT" } else { "POST" };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 20000000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            for _ in 0..20 {
                stream.write_all(&[b'x'; 1_000_000]).unwrap();
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_504_and_others_go_on() {
    let server = server(&["invocation_ms=500"]).await;
    for case in ["loop", "host-loop"] {
        let client = server.client.clone();
        let looping = tokio::spawn(async move { client.get(&format!("/fn/probe/hostile/{case}")).await });
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(300) {
            assert_eq!(server.client.post("/fn/echo", "x").await.expect(200).text(), "x");
        }
        looping.await.unwrap().expect_error(504, "deadline-exceeded", "invocation_ms");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_invocation() {
    let server = server(&["invocation_ms=60000"]).await;
    let client = server.client.clone();
    let looping = tokio::spawn(async move { client.get("/fn/probe/hostile/loop").await });
    let running = async |wanted: u64| {
        for _ in 0..200 {
            if server.client.get("/v1/status").await.json()["invocations"]["running"] == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {wanted} running");
    };
    running(1).await;
    looping.abort();
    running(0).await;
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded() {
    let server = server(&["guest_memory_bytes=32MiB"]).await;
    server.client.get("/fn/probe/hostile/memory").await.expect_error(502, "handler-failed", "guest_memory_bytes");
    let taken: u64 = server.client.get("/fn/probe/hostile/memory-polite").await.expect(200).text().parse().unwrap();
    assert!((20..32).contains(&taken), "{taken} MiB");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_are_502_with_the_handlers_words() {
    let server = server(&[]).await;
    let get = |path: &'static str| server.client.get(path);
    get("/fn/probe/hostile/panic?message=oh%20no").await.expect_error(502, "handler-failed", "oh no");
    get("/fn/probe/hostile/panic").await.expect_error(502, "handler-failed", "hostile.rs");
    get("/fn/probe/hostile/recursion").await.expect_error(502, "handler-failed", "stack");
    get("/fn/probe/hostile/abort").await.expect_error(502, "handler-failed", "trapped");
    get("/fn/probe/hostile/forged-handle").await.expect_error(502, "handler-failed", "handle");
    get("/fn/probe/hostile/dropped-handle").await.expect_error(502, "handler-failed", "handle");
    let lines = get("/v1/functions/probe/logs").await.expect(200).json();
    let lines = lines["lines"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["message"].as_str().unwrap().contains("oh no")), "{lines:?}");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_errors_have_their_status() {
    let server = server(&[]).await;
    for (kind, status, shown) in [
        ("invalid-argument", 422, "invalid-argument"),
        ("unsupported", 422, "unsupported"),
        ("not-found", 404, "not-found"),
        ("permission-denied", 403, "permission-denied"),
        ("conflict", 409, "conflict"),
        ("too-large", 413, "too-large"),
        ("limit-exceeded", 429, "limit-exceeded"),
        ("overloaded", 429, "overloaded"),
        ("deadline-exceeded", 504, "deadline-exceeded"),
        ("unavailable", 503, "unavailable"),
        ("internal", 502, "handler-failed"),
        ("storage-full", 502, "handler-failed"),
        ("teapot", 502, "handler-failed"),
    ] {
        let reply = server.client.get(&format!("/fn/probe/error/{kind}?message=because")).await;
        reply.expect_error(status, shown, "because");
    }
    for (path, part) in [
        ("/fn/probe/status/42", "status 42"),
        ("/fn/probe/status/600", "status 600"),
        ("/fn/probe/header?name=connection&value=close", "connection"),
        ("/fn/probe/header?name=hearth-version&value=9", "hearth-version"),
        ("/fn/probe/header?name=a%20b&value=9", "no header name"),
    ] {
        server.client.get(path).await.expect_error(502, "handler-failed", part);
    }
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operator_gives_its_own_answer() {
    let server = server(&[]).await;
    server.client.get("/fn/probe/operators").await.expect(200);
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tensors_are_typed_errors() {
    let server = server(&["tensor_bytes=64MiB", "tensor_count=1000"]).await;
    server.client.get("/fn/probe/tensor/roundtrip").await.expect(200);
    server.client.get("/fn/probe/tensor/text-roundtrip").await.expect(200);
    for case in ["text-as-bytes", "text-as-byte-range"] {
        let reply = server.client.get(&format!("/fn/probe/tensor/{case}")).await;
        reply.expect_error(422, "unsupported", "tensor of text");
    }
    for (case, part) in [
        ("length", "20"),
        ("boolean", "boolean"),
        ("text", "text"),
        ("text-count", "3 strings"),
        ("text-operator", "text tensors take no operators"),
        ("text-slice", "text tensors take no operators"),
        ("numbers-as-text", "tensor of f32"),
        ("overflow", "elements"),
        ("overflow-empty", "elements"),
        ("rank", "1000"),
        ("range", "24"),
        ("range-overflow", "24"),
        ("reshape", "6"),
        ("reshape-two-inferred", "-1"),
        ("slice-axis", "axis"),
        ("slice-step", "step"),
        ("slice-twice", "axis"),
        ("permute", "axes"),
        ("softmax-integers", "s32"),
        ("add-dtypes", "f64"),
        ("add-shapes", "[2, 3]"),
        ("normalize-channels", "scale"),
        ("top-k", "k"),
        ("gather-range", "element 0 is 3"),
        ("one-hot-range", "element 0 is -5"),
        ("split-sum", "their sum is 2"),
        ("matmul-shapes", "rows for"),
        ("select-numbers", "condition"),
        ("clamp-reversed", "low"),
        ("reduce-axis", "axes[0]"),
        ("concat-none", "least one"),
    ] {
        let reply = server.client.get(&format!("/fn/probe/tensor/{case}")).await;
        let (status, text) = (reply.status.as_u16(), reply.text());
        assert!(matches!(status, 413 | 422), "{case}: {status} {text}");
        let error = &reply.json()["error"];
        assert!(matches!(error["kind"].as_str(), Some("invalid-argument" | "too-large")), "{case}: {error}");
        assert!(error["message"].as_str().unwrap().contains(part), "{case}: '{part}' is not in {error}");
    }
    for (case, part) in
        [("resize-huge", "resize"), ("pad-huge", "pad"), ("double", "tensor_bytes"), ("many", "tensor_count")]
    {
        let reply = server.client.get(&format!("/fn/probe/tensor/{case}")).await;
        let error = reply.json()["error"].clone();
        assert!(
            matches!(error["kind"].as_str(), Some("limit-exceeded" | "too-large" | "invalid-argument")),
            "{case}: {error}"
        );
        assert!(error["message"].as_str().unwrap().contains(part), "{case}: '{part}' is not in {error}");
    }
    server.client.get("/fn/probe/tensor/churn?count=5000").await.expect(200);
    for image in [&b""[..], b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 no jpeg"] {
        let reply = server.client.send(Method::POST, "/fn/probe/tensor/image", &[], image.to_vec()).await;
        reply.expect_error(422, "invalid-argument", "image");
    }
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_model_inputs_name_what_was_expected() {
    let server = server(&["model_runs=20"]).await;
    server.add_model("magika").await;
    let right = server.client.get("/fn/probe/model/right").await.expect(200).text();
    assert!(right.contains("[1, 214]"), "{right}");
    let batch = server.client.get("/fn/probe/model/batch").await.expect(200).text();
    assert!(batch.contains("[3, 214]"), "{batch}");
    for (case, parts) in [
        ("dtype", &["bytes", "f32", "s32"][..]),
        ("shape", &["bytes", "100", "2048"]),
        ("rank", &["bytes", "2048"]),
        ("name", &["letters", "bytes"]),
        ("missing", &["bytes"]),
        ("extra", &["more", "bytes"]),
        ("twice", &["bytes", "twice"]),
    ] {
        for part in parts {
            let reply = server.client.get(&format!("/fn/probe/model/{case}")).await;
            reply.expect_error(422, "invalid-argument", part);
        }
    }
    for name in ["nope", "ma/gika"] {
        let open = format!("/fn/probe/model/open?name={name}");
        server.client.get(&open).await.expect_error(403, "permission-denied", name);
    }
    let grant = r#"{"grants": {"models": ["nope"]}}"#;
    server.client.patch("/v1/functions/probe/settings", grant).await.expect(200);
    server.client.get("/fn/probe/model/submit-shape").await.expect_error(422, "invalid-argument", "2048");
    server.client.get("/fn/probe/model/open?name=nope").await.expect_error(404, "not-found", "nope");
    server.client.get("/fn/probe/model/open?name=magika@7").await.expect_error(404, "not-found", "7");
    server.client.get("/fn/probe/model/asset?asset=../model.onnx").await.expect_error(404, "not-found", "there are");
    server.client.get("/fn/probe/model/again?count=21").await.expect_error(429, "limit-exceeded", "model_runs");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submitted_runs_overlap_and_can_be_withdrawn() {
    let server = server(&[]).await;
    server.add_model("magika").await;
    assert_eq!(server.client.get("/fn/probe/model/submit?count=8").await.expect(200).text(), "8");
    server.client.get("/fn/probe/model/cancel").await.expect_error(499, "cancelled", "withdrawn");
    server.client.get("/fn/probe/model/abandon?count=10").await.expect(200);
    settled(&server).await;
    let flood = server.client.get("/fn/probe/model/submit?count=40").await;
    flood.expect_error(429, "limit-exceeded", "submitted_runs");
    settled(&server).await;
    still_fine(&server).await;
}

/// Waits until nothing runs and no invocation owns anything; gives how long that took.
async fn settled(server: &TestServer) -> Duration {
    let begun = Instant::now();
    loop {
        let status = server.client.get("/v1/status").await.expect(200).json();
        if status["invocations"]["running"] == 0 && status["device"]["used_by"]["invocation"] == 0 {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{status}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_withdraws_operators_and_model_runs() {
    let server = server(&["invocation_ms=60000", "operator_operations=18000000000000000000"]).await;
    server.add_model("magika").await;
    server.client.get("/fn/probe/model/right").await.expect(200);
    // Guests that loop, operators that take long, runs and runs in a queue.
    for path in ["hostile/log-and-loop", "tensor/matmul-bomb", "tensor/sort-bomb", "model/again?count=10000"] {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let client = server.client.clone();
                tokio::spawn(async move { client.get(&format!("/fn/probe/{path}")).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        clients.iter().for_each(tokio::task::JoinHandle::abort);
        for client in clients {
            assert!(client.await.is_err(), "{path} was answered");
        }
        println!("{path}: all withdrawn after {:?}", settled(&server).await);
    }
    let numbers = server.client.get("/metrics").await.expect(200).text();
    let counted = r#"hearth_invocations_total{function="probe",outcome="cancelled"}"#;
    assert!(numbers.contains(counted), "{numbers}");
    // The log lines of a call are kept, even if its client left.
    let lines = server.client.get("/v1/functions/probe/logs").await.expect(200).json();
    let lines = lines["lines"].as_array().unwrap();
    let said = lines.iter().filter(|line| line["message"] == "before the loop");
    assert_eq!(said.count(), 6, "{lines:?}");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_bounded() {
    let server = server(&["log_bytes=1KiB", "log_lines=50"]).await;
    for _ in 0..5 {
        server.client.get("/fn/probe/log?count=1000&length=20").await.expect(200);
    }
    let lines = server.client.get("/v1/functions/probe/logs").await.expect(200).json();
    let lines = lines["lines"].as_array().unwrap();
    assert!(lines.len() <= 50, "{}", lines.len());
    assert!(lines.last().unwrap()["message"].as_str().unwrap().contains("dropped"), "{:?}", lines.last());
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_at_once_are_429_and_the_rest_is_served() {
    let server = server(&["concurrent_invocations=2", "queued_invocations=2", "invocation_ms=2000"]).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = server.client.clone();
            tokio::spawn(async move { client.get("/fn/probe/hostile/loop").await.status.as_u16() })
        })
        .collect();
    let mut statuses = Vec::new();
    for call in calls {
        statuses.push(call.await.unwrap());
    }
    assert!(statuses.contains(&429) && statuses.contains(&504), "{statuses:?}");
    still_fine(&server).await;
}
