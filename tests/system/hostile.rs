//! Tests hostile guests: each gets its error or trap, and neither the host nor a neighbour is affected.

use crate::harness::{TestServer, take_all_cores};
use hearth_crafted as crafted;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A server with the probe, and an echo as the neighbour.
async fn server(limits: &[&str]) -> TestServer {
    let server = TestServer::with_limits(limits).await;
    server.deploy("probe", "probe").await;
    server.deploy("echo", "echo").await;
    server
}

/// Runs an attack while a neighbour is called repeatedly. The neighbour must get its own answer every time; its latencies are
/// printed, and `cargo xtask bench` has the judged ones.
async fn beside<T>(server: &TestServer, attack: impl Future<Output = T>) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let neighbour = {
        let (client, over) = (server.client.clone(), over.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) || took.is_empty() {
                let started = Instant::now();
                assert_eq!(client.post("/fn/echo", "neighbour").await.expect(200).text(), "neighbour");
                took.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took.sort();
            took[took.len() * 99 / 100]
        })
    };
    let result = attack.await;
    over.store(true, Ordering::Relaxed);
    println!("the neighbour's p99: {:?}", neighbour.await.unwrap());
    nothing_is_left(server).await;
    result
}

/// Cancelled work ends at its next check, some milliseconds later.
async fn nothing_is_left(server: &TestServer) {
    let begun = Instant::now();
    loop {
        let status = server.client.get("/v1/status").await.expect(200).json();
        let left = (&status["device"]["used_by"]["invocation"], &status["invocations"]["running"]);
        if left == (&0.into(), &0.into()) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{status}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The probe's answer to a hostile case.
async fn probe(server: &TestServer, path: &str) -> (u16, String, String) {
    let reply = beside(server, server.client.get(&format!("/fn/probe/{path}"))).await;
    let error = if reply.status == 200 { serde_json::Value::Null } else { reply.json()["error"].clone() };
    let word = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    (reply.status.as_u16(), word("kind"), word("message"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_cannot_grow_past_their_limit() {
    let server = server(&["guest_table_elements=10000"]).await;
    let (data, answer) = crafted::answer("refused at the limit");
    let polite = crafted::handler(
        &format!("{data} (table $t 1 funcref)"),
        &format!(
            "(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) {answer}"
        ),
    );
    server.client.put("/v1/functions/table", polite).await.expect(201);
    let reply = beside(&server, server.client.get("/fn/table")).await;
    assert_eq!(reply.expect(200).text(), "refused at the limit");
    let large = crafted::handler(&format!("{data} (table $t 20000 funcref)"), answer);
    let put = server.client.put("/v1/functions/large", large).await;
    assert!(put.status == 422 || put.status == 201, "{}", put.text());
    if put.status == 201 {
        server.client.get("/fn/large").await.expect_error(502, "handler-failed", "guest_table_elements");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_that_never_ends_is_504() {
    let server = server(&["invocation_ms=300"]).await;
    let (data, answer) = crafted::answer("never");
    let looping = crafted::handler(&format!("{data} (start $s) (func $s (loop $more (br $more)))"), answer);
    server.client.put("/v1/functions/start", looping).await.expect(201);
    let reply = beside(&server, server.client.get("/fn/start")).await;
    reply.expect_error(504, "deadline-exceeded", "invocation_ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_lie_outside_the_memory_trap() {
    let server = server(&[]).await;
    let cases = [
        ("far", String::new(), "(i32.const -4)"),
        ("unaligned", String::new(), "(i32.const 1021)"),
        // A body of 4 GiB.
        (
            "long",
            r#"(data (i32.const 1024) "\00\00\00\00\c8\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\ff\ff\ff\ff")"#.to_owned(),
            "(i32.const 1024)",
        ),
        // A header list of 2^31 entries.
        (
            "headers",
            r#"(data (i32.const 1024) "\00\00\00\00\c8\00\00\00\00\00\00\00\00\00\00\80")"#.to_owned(),
            "(i32.const 1024)",
        ),
        // A result that is neither ok nor error.
        ("variant", r#"(data (i32.const 1024) "\07")"#.to_owned(), "(i32.const 1024)"),
        // An error whose kind is not UTF-8.
        (
            "utf8",
            r#"(data (i32.const 1024) "\01\00\00\00\00\08\00\00\02\00\00\00\00\08\00\00\00\00\00\00") (data (i32.const 2048) "\ff\fe")"#.to_owned(),
            "(i32.const 1024)",
        ),
    ];
    for (name, items, code) in cases {
        server.client.put(&format!("/v1/functions/{name}"), crafted::handler(&items, code)).await.expect(201);
        let reply = beside(&server, server.client.get(&format!("/fn/{name}"))).await;
        reply.expect_error(502, "handler-failed", "trapped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_allocator_traps() {
    let server = server(&[]).await;
    for (name, at) in [("high", "-16"), ("odd", "3")] {
        let module = format!(
            r#"(module (memory (export "memory") 2)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const {at}))
                (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable))"#
        );
        let component = crafted::component("handler", &module);
        server.client.put(&format!("/v1/functions/{name}"), component).await.expect(201);
        let reply = beside(&server, server.client.post(&format!("/fn/{name}"), "body")).await;
        reply.expect_error(502, "handler-failed", "trapped");
    }
}

/// Imports of the tensors and models interfaces, by their canonical names.
const IMPORTS: &str = r#"
    (import "hearth:inference/tensors@0.2.0" "[static]tensor.create" (func $create (param i32 i32 i32 i32 i32 i32)))
    (import "hearth:inference/tensors@0.2.0" "[method]tensor.byte-length" (func $length (param i32) (result i64)))
    (import "hearth:inference/tensors@0.2.0" "[method]tensor.reshape" (func $reshape (param i32 i32 i32 i32)))
    (import "hearth:inference/tensors@0.2.0" "[resource-drop]tensor" (func $drop (param i32)))
    (import "hearth:inference/models@0.2.0" "[static]model.open" (func $open (param i32 i32 i32)))
    (import "hearth:inference/models@0.2.0" "[resource-drop]model" (func $drop_model (param i32)))
    (import "hearth:inference/context@0.2.0" "config" (func $config (param i32 i32 i32)))
    (import "hearth:inference/context@0.2.0" "log" (func $log (param i32 i32 i32 i32 i32)))
    (import "hearth:inference/operators@0.2.0" "decode-image" (func $decode (param i32 i32 i32)))
"#;

/// A handler that does something with handles and then answers.
async fn with_handles(server: &TestServer, name: &str, code: &str) -> crate::client::Reply {
    let (data, answer) = crafted::answer("survived");
    // A u8 tensor [2] of "ab"; its handle is at 16 afterwards (the result's tag at 12).
    let items = format!(
        r#"{IMPORTS} {data} (data (i32.const 0) "\02\00\00\00\00\00\00\00") (data (i32.const 64) "ab")
           (func $tensor (result i32)
               (call $create (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 2) (i32.const 12))
               (if (i32.load8_u (i32.const 12)) (then unreachable))
               (i32.load (i32.const 16)))"#
    );
    let component = crafted::handler(&items, &format!("(local $t i32) {code} {answer}"));
    server.client.put(&format!("/v1/functions/{name}"), component).await.expect(201);
    beside(server, server.client.get(&format!("/fn/{name}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_handles_trap() {
    let server = server(&[]).await;
    let used = "(local.set $t (call $tensor)) (drop (call $length (local.get $t)))";
    with_handles(&server, "right", used).await.expect(200);
    let cases = [
        (
            "after-drop",
            "(local.set $t (call $tensor)) (call $drop (local.get $t)) (drop (call $length (local.get $t)))",
        ),
        ("twice-dropped", "(local.set $t (call $tensor)) (call $drop (local.get $t)) (call $drop (local.get $t))"),
        ("another-type", "(local.set $t (call $tensor)) (call $drop_model (local.get $t))"),
        ("made-up", "(drop (call $length (i32.const 12345)))"),
        ("zero", "(drop (call $length (i32.const 0)))"),
        ("highest", "(drop (call $length (i32.const -1)))"),
        ("neighbour", "(local.set $t (call $tensor)) (drop (call $length (i32.add (local.get $t) (i32.const 1))))"),
    ];
    for (name, code) in cases {
        with_handles(&server, name, code).await.expect_error(502, "handler-failed", "handle");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_reach_out_of_the_memory_trap_at_every_import() {
    let server = server(&[]).await;
    let huge = "(i32.const 1024) (i32.const -16)";
    let cases = [
        ("shape", format!("(call $create (i32.const 1) {huge} (i32.const 64) (i32.const 2) (i32.const 12))")),
        ("data", format!("(call $create (i32.const 1) (i32.const 0) (i32.const 1) {huge} (i32.const 12))")),
        (
            "dtype",
            "(call $create (i32.const 99) (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 2) (i32.const 12))"
                .to_owned(),
        ),
        ("reshape", format!("(call $reshape (call $tensor) {huge} (i32.const 12))")),
        ("model", format!("(call $open {huge} (i32.const 12))")),
        ("config", format!("(call $config {huge} (i32.const 12))")),
        ("log", format!("(call $log (i32.const 0) {huge} (i32.const 0) (i32.const 0))")),
        ("fields", format!("(call $log (i32.const 0) (i32.const 0) (i32.const 0) {huge})")),
        ("image", format!("(call $decode {huge} (i32.const 12))")),
        ("answer", "(call $open (i32.const 64) (i32.const 2) (i32.const -8))".to_owned()),
    ];
    for (name, code) in cases {
        with_handles(&server, name, &code).await.expect_error(502, "handler-failed", "trapped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_the_host_would_copy_are_bounded() {
    let server = server(&["hostcall_bytes=1MiB", "guest_memory_bytes=64MiB"]).await;
    // 32 MiB of the guest's memory as a name, as a configuration's key, as pixels, as a log line's fields.
    let grow = "(drop (memory.grow (i32.const 600)))";
    let all = "(i32.const 65536) (i32.const 33554432)";
    for (name, call) in [
        ("model", format!("(call $open {all} (i32.const 12))")),
        ("config", format!("(call $config {all} (i32.const 12))")),
        ("image", format!("(call $decode {all} (i32.const 12))")),
        ("log", format!("(call $log (i32.const 0) {all} (i32.const 0) (i32.const 0))")),
        (
            "fields",
            "(call $log (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 2000000))".to_owned(),
        ),
    ] {
        let reply = with_handles(&server, name, &format!("{grow} {call}")).await;
        reply.expect_error(502, "handler-failed", "hostcall_bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_are_bounded_in_number() {
    let server = server(&["handles=500", "tensor_count=100000"]).await;
    let (status, kind, message) = probe(&server, "tensor/many?count=1000").await;
    assert_eq!((status, kind.as_str()), (429, "limit-exceeded"), "{message}");
    assert!(message.contains("handles"), "{message}");
    let views = probe(&server, "tensor/views?count=1000").await;
    assert!(views.2.contains("handles"), "{views:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_are_bounded_in_number_size_and_cost() {
    let limits = ["tensor_count=1000", "tensor_bytes=64MiB", "operator_operations=100000000", "image_pixels=1000000"];
    let server = server(&limits).await;
    for (case, part) in [
        ("tensor/many?count=10000", "tensor_count"),
        ("tensor/views?count=10000", "tensor_count"),
        ("tensor/overflow", "elements"),
        ("tensor/huge", "operator_operations"),
        ("tensor/resize-huge", "resize"),
        ("tensor/pad-huge", "pad"),
        ("tensor/double", "tensor_bytes"),
        ("tensor/range", "are not within"),
        ("tensor/range-overflow", "are not within"),
        ("tensor/matmul-bomb", "operator_operations"),
        ("tensor/sort-bomb", "operator_operations"),
        ("tensor/resize-bomb", "operator_operations"),
        ("tensor/image-bomb", "image_pixels"),
    ] {
        let (status, kind, message) = probe(&server, case).await;
        assert!(matches!(status, 413 | 422 | 429), "{case}: {status} {message}");
        assert!(
            matches!(kind.as_str(), "limit-exceeded" | "too-large" | "invalid-argument"),
            "{case}: {kind} {message}"
        );
        assert!(message.contains(part), "{case}: '{part}' is not in: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn costly_operators_end_with_the_deadline() {
    let server = server(&["invocation_ms=300", "operator_operations=18000000000000000000"]).await;
    for case in ["tensor/matmul-bomb", "tensor/sort-bomb", "tensor/resize-bomb"] {
        let started = Instant::now();
        let (status, kind, message) = probe(&server, case).await;
        assert_eq!((status, kind.as_str()), (504, "deadline-exceeded"), "{case}: {message}");
        assert!(started.elapsed() < Duration::from_secs(5), "{case}: {:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_lines_and_loops_of_calls_end() {
    let server = server(&["invocation_ms=300", "log_bytes=64KiB"]).await;
    for case in ["hostile/loop", "hostile/host-loop", "hostile/log-loop", "hostile/open-loop", "hostile/tensor-loop"] {
        let (status, kind, message) = probe(&server, case).await;
        assert_eq!((status, kind.as_str()), (504, "deadline-exceeded"), "{case}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_stack_end() {
    let server = server(&["guest_memory_bytes=64MiB"]).await;
    for (case, part) in [("memory", "guest_memory_bytes"), ("recursion", "stack")] {
        let (status, kind, message) = probe(&server, &format!("hostile/{case}")).await;
        assert_eq!((status, kind.as_str()), (502, "handler-failed"), "{case}: {message}");
        assert!(message.contains(part), "{case}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_loops_as_cores_leave_room_for_others() {
    let server = server(&["invocation_ms=3000"]).await;
    let loops = take_all_cores(&server.client);
    let begun = Instant::now();
    let mut answered = 0;
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(server.client.post("/fn/echo", "x").await.expect(200).text(), "x");
        answered += 1;
    }
    println!("{answered} answers in 1.5 s during {} loops", loops.len());
    assert!(answered >= 10, "only {answered} answers in 1.5 s");
    for ended in loops {
        ended.await.unwrap().expect_error(504, "deadline-exceeded", "invocation_ms");
    }
}
