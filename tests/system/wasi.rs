//! Tests components that import WASI 0.2, as ordinary programs of `wasm32-wasip2` do: what they get, and what they do not get.

use crate::harness::TestServer;
use hearth_crafted::{self as crafted, wasi_handler};

const IMPORTS: &str = r#"
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (global $environment_at i32 (i32.const 4096))
"#;

/// A handler that answers with `length` bytes at 4096 after `code` ran.
fn answering(code: &str, length: &str) -> Vec<u8> {
    let (data, answer) = crafted::answer("");
    let items = format!("{IMPORTS} {data}");
    let code =
        format!("{code} (i32.store (i32.const 1040) (i32.const 4096)) (i32.store (i32.const 1044) {length}) {answer}");
    wasi_handler(&items, &code)
}

async fn answer_of(server: &TestServer, name: &str, component: Vec<u8>) -> crate::client::Reply {
    server.client.put(&format!("/v1/functions/{name}"), component).await.expect(201);
    server.client.get(&format!("/fn/{name}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn output_goes_to_the_log() {
    let server = TestServer::start().await;
    // An iovec at 512 for the text at 4096.
    let code = r#"
        (i64.store (i32.const 4096) (i64.const 0x0a6f6c6c6568))
        (i32.store (i32.const 512) (i32.const 4096)) (i32.store (i32.const 516) (i32.const 6))
        (drop (call $write (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 520)))
        (drop (call $write (i32.const 2) (i32.const 512) (i32.const 1) (i32.const 520)))"#;
    let reply = answer_of(&server, "output", answering(code, "(i32.const 5)")).await;
    assert_eq!(reply.expect(200).text(), "hello");
    let lines = server.client.get("/v1/functions/output/logs").await.expect(200).json();
    let lines: Vec<_> = lines["lines"].as_array().unwrap().iter().collect();
    assert_eq!((lines.len(), &lines[0]["message"], &lines[0]["level"]), (2, &"hello".into(), &"stdout".into()));
    assert_eq!((&lines[1]["message"], &lines[1]["level"]), (&"hello".into(), &"stderr".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_past_the_logs_volume_is_dropped_and_the_handler_goes_on() {
    let server = TestServer::with_limits(&["log_bytes=1KiB"]).await;
    // 64 bytes, the last of them the end of a line, 16,384 times: 1 MiB. An errno or a short write is the answer.
    let code = r#"
        (memory.fill (i32.const 8192) (i32.const 120) (i32.const 63))
        (i32.store8 (i32.const 8255) (i32.const 10))
        (i32.store (i32.const 512) (i32.const 8192)) (i32.store (i32.const 516) (i32.const 64))
        (i32.store (i32.const 528) (i32.const 16384))
        (loop $again
            (i32.store8 (i32.const 4096) (i32.or (i32.load8_u (i32.const 4096))
                (call $write (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 520))))
            (i32.store8 (i32.const 4097) (i32.or (i32.load8_u (i32.const 4097))
                (i32.ne (i32.load (i32.const 520)) (i32.const 64))))
            (i32.store (i32.const 528) (i32.sub (i32.load (i32.const 528)) (i32.const 1)))
            (br_if $again (i32.load (i32.const 528))))
        (drop (call $write (i32.const 2) (i32.const 512) (i32.const 1) (i32.const 520)))"#;
    let reply = answer_of(&server, "flood", answering(code, "(i32.const 2)")).await;
    assert_eq!(reply.expect(200).body, [0, 0]);
    let log = server.client.get("/v1/functions/flood/logs").await.expect(200).json();
    let lines: Vec<_> = log["lines"].as_array().unwrap().iter().collect();
    let (note, kept) = lines.split_last().unwrap();
    assert!((4..16).contains(&kept.len()), "{}", kept.len());
    assert!(kept.iter().all(|line| line["message"] == "x".repeat(63)), "a line was cut: {log}");
    // The line on standard error found no room either.
    let dropped = 16_384 + 1 - kept.len();
    assert_eq!(
        (note["level"].as_str(), note["message"].as_str()),
        (Some("warn"), Some(format!("{dropped} lines were dropped: log_bytes was reached").as_str()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_empty_and_nothing_of_the_host_is_in_the_environment() {
    let server = TestServer::start().await;
    let environment = r#"
        (drop (call $environ_sizes (i32.const 4096) (i32.const 4100)))
        (i32.store (i32.const 512) (i32.const 4104)) (i32.store (i32.const 516) (i32.const 100))
        (drop (call $read (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 520)))
        (i32.store (i32.const 4104) (i32.load (i32.const 520)))"#;
    let reply = answer_of(&server, "environment", answering(environment, "(i32.const 12)")).await;
    assert_eq!(reply.expect(200).body, [0; 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_folder_to_open() {
    let server = TestServer::start().await;
    // errno 8 is EBADF (WASI preview 1): there is no preopened folder, and a guest cannot forge one.
    let code = r#"
        (i32.store8 (i32.const 4096) (call $prestat (i32.const 3) (i32.const 512)))
        (i32.store8 (i32.const 4097) (call $open (i32.const 3) (i32.const 0) (i32.const 600) (i32.const 1) (i32.const 0)
            (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 512)))
        (i32.store8 (i32.const 4098) (call $open (i32.const 0) (i32.const 0) (i32.const 600) (i32.const 1) (i32.const 0)
            (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 512)))"#;
    let body = answer_of(&server, "folder", answering(code, "(i32.const 3)")).await.expect(200).body;
    assert_eq!(body[..2], [8, 8]);
    assert_ne!(body[2], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_and_random_numbers_are_lent() {
    let server = TestServer::start().await;
    let code = r#"
        (drop (call $random (i32.const 4096) (i32.const 32)))
        (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 4128)))"#;
    let first = answer_of(&server, "random", answering(code, "(i32.const 40)")).await.expect(200).body;
    let second = server.client.get("/fn/random").await.expect(200).body;
    assert_ne!(first[..32], second[..32]);
    let told = u64::from_le_bytes(first[32..].try_into().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(now.abs_diff(told) < 60_000_000_000, "{told} at {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_ends_the_invocation() {
    let server = TestServer::start().await;
    let reply = answer_of(&server, "exit", answering("(call $exit (i32.const 3))", "(i32.const 0)")).await;
    reply.expect_error(502, "handler-failed", "exited");
    server.client.get("/v1/functions/exit").await.expect(200);
}
