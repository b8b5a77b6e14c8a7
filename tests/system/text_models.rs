//! Tests models of text: through a handler, they give the same strings as in Python.

use crate::harness::{TestServer, python, root};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_text_gives_what_it_gives_in_python() {
    let Some(mut make) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    make.arg(root().join("tests/python/text_model.py")).arg(folder.path());
    let output = tokio::task::spawn_blocking(move || make.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cases: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(cases.len(), 5);

    let server = TestServer::start().await;
    server.deploy("run-any", "run-any").await;
    let model = std::fs::read(folder.path().join("text.onnx")).unwrap();
    let put = server.client.put("/v1/models/any", model).await.expect(201).json();
    assert_eq!(put["signature"]["inputs"][0]["dtype"], "text", "{put}");
    for verdict in put["engines"].as_array().unwrap() {
        println!("{verdict}");
        let passes = verdict["engine"] == "onnxruntime";
        assert!(verdict["passed"] == passes && verdict["reason"].is_string() != passes, "{verdict}");
    }
    for case in &cases {
        let answer = server.client.post("/fn/run-any", case["inputs"].to_string()).await.expect(200).json();
        let outputs = case["outputs"].as_object().unwrap();
        assert_eq!(answer.as_object().unwrap().len(), outputs.len());
        for (name, expected) in outputs {
            assert_eq!(&answer[name], expected, "{name} of {}", case["inputs"]);
        }
    }
    let numbers = cases[0]["outputs"]["numbers"].clone();
    let wrong = serde_json::json!({ "words": numbers, "suffix": cases[0]["inputs"]["suffix"] });
    let wrong = server.client.post("/fn/run-any", wrong.to_string()).await;
    wrong.expect_error(422, "invalid-argument", "'words' is s64");
    let few = serde_json::json!({ "words": cases[0]["inputs"]["words"] });
    server.client.post("/fn/run-any", few.to_string()).await.expect_error(422, "invalid-argument", "suffix");
}
