//! Tests what a handler that works on the device copies: the picture in and the best classes out, and nothing else.

use crate::harness::{TestServer, python, root};
use crate::onnx_file::classifier;
use http::Method;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_operators_and_a_model_copies_the_picture_in_and_the_best_classes_out() {
    if python().is_none() {
        return;
    }
    let server = TestServer::start().await;
    server.deploy("chain", "chain").await;
    let folder = tempfile::tempdir().unwrap();
    let (file, picture) = (folder.path().join("model.onnx"), folder.path().join("picture.png"));
    for round in 0..4 {
        let seed = rand::random::<u32>();
        println!("seed {seed}");
        let model = classifier(u64::from(seed));
        std::fs::write(&file, &model).unwrap();
        server.client.put("/v1/models/pictures", model).await.expect(201);
        let mut reference = python().unwrap();
        reference.env("PYTHONDONTWRITEBYTECODE", "1").arg(root().join("tests/python/chain_reference.py"));
        reference.arg(&file).arg(seed.to_string()).arg(&picture);
        let output = tokio::task::spawn_blocking(move || reference.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let expected: Value = serde_json::from_slice(&output.stdout).unwrap();

        let body = std::fs::read(&picture).unwrap();
        let reply = server.client.send(Method::POST, "/fn/chain", &[("hearth-receipt", "1")], body.clone()).await;
        let reply = reply.expect(200);
        let receipt: Value = serde_json::from_slice(reply.headers["hearth-receipt"].as_bytes()).unwrap();
        let pixels = expected["height"].as_u64().unwrap() * expected["width"].as_u64().unwrap();
        assert_eq!(receipt["uploaded_bytes"], pixels * 3, "{receipt}");
        // Five numbers of f32 and five of s64.
        assert_eq!(receipt["downloaded_bytes"], 5 * 4 + 5 * 8, "{receipt}");
        assert_eq!((&receipt["model_runs"], &receipt["request_bytes"]), (&1.into(), &body.len().into()), "{receipt}");

        let answer = reply.json();
        assert_eq!(answer["classes"], expected["classes"], "round {round}");
        let numbers = |value: &Value| -> Vec<f64> {
            value["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect()
        };
        let (ours, theirs) = (numbers(&answer), numbers(&expected));
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{pixels} pixels; largest difference {worst:e}");
        assert!(ours.len() == 5 && worst < 1e-4, "{ours:?} {theirs:?}");
    }
}
