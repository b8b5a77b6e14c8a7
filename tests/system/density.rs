//! Tests many functions on one model: each has its own code and answer, and the model is in memory once.

use crate::harness::{Process, model_tar};
use hearth_crafted as crafted;
use std::fmt::Write;
use std::time::Instant;

const FUNCTIONS: u32 = 1000;
/// Instructions that differ between functions.
const STEPS: u32 = 200;

/// The result of a function's own code: `STEPS` steps whose operations and constants depend on its number.
pub(crate) fn computed(number: u32) -> u32 {
    (0..STEPS).fold(number, |value, step| {
        let constant = number.wrapping_mul(2_654_435_761).wrapping_add(step * 40_503);
        match (number >> (step % 10)) & 1 {
            0 => value.wrapping_add(constant),
            _ => value.wrapping_mul(constant | 1),
        }
    })
}

/// A handler that computes that, runs magika on 2048 times its number modulo 256, and answers with both: 4 bytes, then the
/// model's output.
pub(crate) fn function(number: u32) -> Vec<u8> {
    let mut steps = format!("(i32.const {})", number as i32);
    for step in 0..STEPS {
        let constant = number.wrapping_mul(2_654_435_761).wrapping_add(step * 40_503);
        let (operation, constant) = match (number >> (step % 10)) & 1 {
            0 => ("add", constant),
            _ => ("mul", constant | 1),
        };
        steps = format!("(i32.{operation} {steps} (i32.const {}))", constant as i32);
    }
    let (data, answer) = crafted::answer("");
    let mut items = String::new();
    write!(
        items,
        r#"(import "hearth:inference/tensors@0.2.0" "[static]tensor.create" (func $create (param i32 i32 i32 i32 i32 i32)))
        (import "hearth:inference/tensors@0.2.0" "[method]tensor.read" (func $read (param i32 i32)))
        (import "hearth:inference/models@0.2.0" "[static]model.open" (func $open (param i32 i32 i32)))
        (import "hearth:inference/models@0.2.0" "[method]model.infer" (func $infer (param i32 i32 i32 i32)))
        (@custom "hearth:manifest" "{{\"models\":[\"magika\"]}}")
        {data} (data (i32.const 0) "\01\00\00\00\00\00\00\00\00\08\00\00\00\00\00\00") (data (i32.const 32) "magikabytes")
        (func $own (result i32) {steps})"#
    )
    .unwrap();
    // 8 KiB of elements at 16384; the infer's argument at 64: name, length, handle.
    let code = format!(
        r#"(local $i i32) (local $model i32) (local $output i32)
        (loop $fill
            (i32.store (i32.add (i32.const 16384) (local.get $i)) (i32.const {value}))
            (br_if $fill (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 4))) (i32.const 8192))))
        (call $create (i32.const 6) (i32.const 0) (i32.const 2) (i32.const 16384) (i32.const 8192) (i32.const 96))
        (if (i32.load8_u (i32.const 96)) (then unreachable))
        (call $open (i32.const 32) (i32.const 6) (i32.const 112))
        (if (i32.load8_u (i32.const 112)) (then unreachable))
        (local.set $model (i32.load (i32.const 116)))
        (i32.store (i32.const 64) (i32.const 38)) (i32.store (i32.const 68) (i32.const 5))
        (i32.store (i32.const 72) (i32.load (i32.const 100)))
        (call $infer (local.get $model) (i32.const 64) (i32.const 1) (i32.const 128))
        (if (i32.load8_u (i32.const 128)) (then unreachable))
        (call $read (i32.load offset=8 (i32.load (i32.const 132))) (i32.const 144))
        (if (i32.load8_u (i32.const 144)) (then unreachable))
        (i32.store (i32.const 4096) (call $own))
        (memory.copy (i32.const 4100) (i32.load (i32.const 148)) (i32.load (i32.const 152)))
        (i32.store (i32.const 1040) (i32.const 4096))
        (i32.store (i32.const 1044) (i32.add (i32.const 4) (i32.load (i32.const 152))))
        {answer}"#,
        value = number % 256
    );
    crafted::handler(&items, &code)
}

/// A line of `/proc/PID/status` in bytes.
fn memory(process: &Process, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_functions_share_one_model() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    let client = &server.client;
    client.put("/v1/models/magika", model_tar("magika")).await.expect(201);
    client.put("/v1/functions/first", function(FUNCTIONS)).await.expect(201);
    let first = client.get("/fn/first").await.expect(200).body;
    let status = client.get("/v1/status").await.expect(200).json();
    let model_bytes = status["device"]["used_by"]["model"].as_u64().unwrap();
    assert!(model_bytes > 0, "{status}");
    let before = memory(&server, "VmRSS");

    let started = Instant::now();
    for number in 0..FUNCTIONS {
        client.put(&format!("/v1/functions/f{number}"), function(number)).await.expect(201);
    }
    let deployed = started.elapsed();
    let mut scores = std::collections::HashMap::new();
    for number in 0..FUNCTIONS {
        let body = client.get(&format!("/fn/f{number}")).await.expect(200).body;
        assert_eq!(body[..4], computed(number).to_le_bytes(), "function {number}");
        assert_eq!(body.len(), first.len());
        // The same input gives the same output, whichever function runs.
        let known = scores.entry(number % 256).or_insert_with(|| body[4..].to_vec());
        assert_eq!(*known, body[4..], "function {number}");
    }
    let distinct: std::collections::HashSet<_> = scores.values().collect();
    assert!(distinct.len() > 200, "only {} outputs for 256 inputs", distinct.len());

    let status = client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["device"]["used_by"]["model"], model_bytes, "the model is in memory once");
    assert_eq!(status["models"].as_array().unwrap().len(), 1);
    let each = memory(&server, "VmRSS").saturating_sub(before) / u64::from(FUNCTIONS);
    println!("{FUNCTIONS} functions deployed in {deployed:?}; {each} bytes of resident memory each");
    assert!(each < 1 << 20, "{each} bytes of resident memory a function");
}
