//! Tests models of 16-bit floats and 8-bit integers, made by common tools: on each engine that they pass on, their outputs are
//! those in Python.

use crate::harness::{TestServer, python, root};
use serde_json::Value;

/// The numbers of a tensor in JSON, and the largest difference that counts as equal.
fn numbers(tensor: &Value) -> (Vec<f64>, f64) {
    let bytes = hex::decode(tensor["data"].as_str().unwrap()).unwrap();
    match tensor["dtype"].as_str().unwrap() {
        "f32" => (bytes.as_chunks().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect(), 1e-6),
        // One step between 0.5 and 1 is 2^-11.
        "f16" => (bytes.as_chunks().0.iter().map(|two| half::f16::from_le_bytes(*two).to_f64()).collect(), 1e-3),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_f16_and_int8_give_what_they_give_in_python() {
    let Some(mut make) = python() else { return };
    let seed = rand::random::<u32>();
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    make.arg(root().join("tests/python/small_dtypes.py")).arg(seed.to_string()).arg(folder.path());
    let output = tokio::task::spawn_blocking(move || make.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cases: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(cases.len(), 7);

    let server = TestServer::start().await;
    server.deploy("run-any", "run-any").await;
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let model = std::fs::read(folder.path().join(format!("{name}.onnx"))).unwrap();
        let put = server.client.put("/v1/models/any", model.clone()).await.expect(201).json();
        assert_eq!(put["runs_on"], "onnxruntime", "{name}: {put}");
        check(&server, case, "onnxruntime").await;
        println!("{name} on rten: {}", put["engines"][1]);
        if passes_on_rten(name, &put["engines"][1]) {
            let put = server.client.put("/v1/models/any?engine=rten", model).await.expect(200).json();
            assert_eq!(put["runs_on"], "rten", "{name}: {put}");
            check(&server, case, "rten").await;
        }
    }
}

/// Whether the model passes on rten, and checks that this is as expected.
fn passes_on_rten(name: &str, verdict: &Value) -> bool {
    assert_eq!(verdict["engine"], "rten", "{verdict}");
    let reason = verdict["reason"].as_str();
    match name {
        "f32" | "f16" | "f16-inside" => assert!(verdict["passed"] == true, "{name}: {verdict}"),
        // Values that are quantised between layers may differ by a step, and then the check says so: hardly ever if only MatMul
        // is quantised, and nearly always if every layer is.
        "int8-dynamic" | "int8-qdq" | "uint8-qdq" => {
            assert!(reason.is_none_or(|told| told.contains("differs from onnxruntime's")), "{name}: {verdict}");
        }
        "int8-operators" => assert!(reason.is_some_and(|told| told.contains("QLinearConv")), "{name}: {verdict}"),
        other => panic!("{other}"),
    }
    verdict["passed"] == true
}

/// Runs a case, and compares its outputs with those of Python's onnxruntime.
async fn check(server: &TestServer, case: &Value, engine: &str) {
    let answer = server.client.post("/fn/run-any", case["inputs"].to_string()).await.expect(200).json();
    let (ours, theirs) = (&answer["scores"], &case["outputs"]["scores"]);
    let name = format!("{} on {engine}", case["name"]);
    assert_eq!((&ours["dtype"], &ours["shape"]), (&theirs["dtype"], &theirs["shape"]), "{name}");
    let ((ours, tolerance), (theirs, _)) = (numbers(ours), numbers(theirs));
    // There an inner step is about 1/255 in the scores.
    let quantised = engine == "rten" && name.contains("int8");
    let tolerance = if quantised { 1.01 / 255.0 } else { tolerance };
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("{name}: {worst:e}");
    assert!(ours.len() == 30 && worst <= tolerance, "{name}: {worst}");
}
