//! Tests many tenants on one server: they share a model's only copy in memory, and no tenant can read what another one left in
//! memory.

use crate::density::{computed, function};
use crate::harness::{Process, TestServer, model_folder, model_tar};
use hearth_crafted as crafted;
use http::Method;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const TENANTS: u32 = 20;
const EACH: u32 = 5;
const CLIENTS: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_functions_of_twenty_tenants_share_one_copy_of_a_model() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    let client = &server.client;
    let weights = std::fs::metadata(model_folder("magika").join("model.onnx")).unwrap().len();
    let most = weights + weights / 50;
    for tenant in 0..TENANTS {
        client.put(&format!("/t/t{tenant}/v1/models/magika"), model_tar("magika")).await.expect(201);
        for number in tenant * EACH..(tenant + 1) * EACH {
            client.put(&format!("/t/t{tenant}/v1/functions/f{number}"), function(number)).await.expect(201);
        }
    }
    let status = client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["device"]["used_bytes"], 0, "nothing is loaded before it is used: {status}");

    let (next, activations, over) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let watch = tokio::spawn({
        let (client, over) = (client.clone(), over.clone());
        async move {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                let status = client.get("/v1/status").await.expect(200).json();
                let used = &status["device"]["used_by"];
                let bytes = |kind: &str| used[kind].as_u64().unwrap();
                assert!(bytes("model") + bytes("workspace") <= most, "{status}");
                looks += 1;
            }
            looks
        }
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (client, next, activations) = (client.clone(), next.clone(), activations.clone());
            tokio::spawn(async move {
                loop {
                    // Each tenant four times, neighbours in parallel.
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 4 * TENANTS * EACH {
                        return;
                    }
                    let number = number % (TENANTS * EACH);
                    let path = format!("/t/t{}/fn/f{number}", number / EACH);
                    let reply = client.send(Method::GET, &path, &[("hearth-receipt", "1")], "").await.expect(200);
                    assert_eq!(reply.body[..4], computed(number).to_le_bytes(), "function {number}");
                    let receipt: Value = serde_json::from_slice(reply.headers["hearth-receipt"].as_bytes()).unwrap();
                    activations.fetch_max(receipt["tensor_bytes"].as_u64().unwrap(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let looks = watch.await.unwrap();
    let status = client.get("/v1/status").await.expect(200).json();
    let device = &status["device"];
    let activations = activations.load(Ordering::Relaxed);
    println!(
        "weights {weights} bytes; used {}, at most {} at once; at most {activations} for one call; {looks} looks",
        device["used_bytes"], device["peak_bytes"]
    );
    let used = device["used_bytes"].as_u64().unwrap();
    assert!((weights..=most).contains(&used), "{device}");
    assert!(device["peak_bytes"].as_u64().unwrap() <= most + CLIENTS * activations, "{device}");
    let models = status["models"].as_array().unwrap();
    assert_eq!((models.len(), &models[0]["loads"], &models[0]["runs"]), (1, &1.into(), &(4 * TENANTS * EACH).into()));
    // A tenant sees only its own functions.
    client.get("/t/t1/fn/f0").await.expect_error(404, "not-found", "f0");
    client.get("/t/t20/v1/models/magika").await.expect_error(404, "not-found", "magika");
}

/// A byte that occurs nowhere else.
const SECRET: u32 = 0xc7;
/// Pages that both guests use: 16 MiB, more than stays resident.
const PAGES: u32 = 256;

/// Fills memory and tensors of many sizes with the secret.
fn keeper() -> Vec<u8> {
    let (data, answer) = crafted::answer("kept");
    let items = format!(
        r#"(import "hearth:inference/tensors@0.2.0" "[static]tensor.create" (func $create (param i32 i32 i32 i32 i32 i32)))
        {data}"#
    );
    let code = format!(
        r#"(local $size i32)
        (if (i32.eq (memory.grow (i32.const {PAGES})) (i32.const -1)) (then unreachable))
        (memory.fill (i32.const 4096) (i32.const {SECRET}) (i32.const 57344))
        (memory.fill (i32.const 131072) (i32.const {SECRET}) (i32.const {bytes}))
        (local.set $size (i32.const 1))
        (loop $sizes
            (i64.store (i32.const 0) (i64.extend_i32_u (local.get $size)))
            (call $create (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 131072) (local.get $size) (i32.const 96))
            (if (i32.load8_u (i32.const 96)) (then unreachable))
            (local.set $size (i32.add (i32.const 3) (i32.mul (local.get $size) (i32.const 2))))
            (br_if $sizes (i32.lt_u (local.get $size) (i32.const 8000000))))
        {answer}"#,
        bytes = PAGES * 65_536
    );
    crafted::handler(&items, &code)
}

/// Looks for the secret in all of its memory, before and after it grows.
fn searcher() -> Vec<u8> {
    let (data, answer) = crafted::answer("clean");
    let code = format!(
        r#"(local $at i32)
        (if (i32.eq (memory.grow (i32.const {PAGES})) (i32.const -1)) (then unreachable))
        (loop $words
            (if (i32.eq (i32.load (local.get $at)) (i32.mul (i32.const {SECRET}) (i32.const 0x01010101))) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 4)))
            (br_if $words (i32.lt_u (local.get $at) (i32.const {end}))))
        {answer}"#,
        end = (PAGES + 2) * 65_536
    );
    crafted::handler(&data, &code)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_tenant_leaves_in_memory_no_other_finds() {
    // Few places, so that instances reuse them.
    let server = TestServer::with_limits(&["concurrent_invocations=2"]).await;
    let client = &server.client;
    client.put("/t/a/v1/functions/keeper", keeper()).await.expect(201);
    client.put("/t/b/v1/functions/searcher", searcher()).await.expect(201);
    // The searcher does find a secret that is there.
    let found = searcher_of_its_own();
    client.put("/t/b/v1/functions/finds", found).await.expect(201);
    client.get("/t/b/fn/finds").await.expect_error(502, "handler-failed", "unreachable");
    let rounds = (0..4).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                assert_eq!(client.get("/t/a/fn/keeper").await.expect(200).text(), "kept");
                assert_eq!(client.get("/t/b/fn/searcher").await.expect(200).text(), "clean");
            }
        })
    });
    for round in rounds.collect::<Vec<_>>() {
        round.await.unwrap();
    }
}

/// The searcher with the secret in its own memory.
fn searcher_of_its_own() -> Vec<u8> {
    let (data, _) = crafted::answer("clean");
    let secret = crafted::escaped(&[SECRET as u8; 8]);
    let code = format!(
        r#"(local $at i32)
        (loop $words
            (if (i32.eq (i32.load (local.get $at)) (i32.mul (i32.const {SECRET}) (i32.const 0x01010101))) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 4)))
            (br_if $words (i32.lt_u (local.get $at) (i32.const 131072))))
        (i32.const 1024)"#
    );
    crafted::handler(&format!(r#"{data} (data (i32.const 100000) "{secret}")"#), &code)
}
