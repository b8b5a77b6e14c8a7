//! Tests `hearth model add` with folders as users have them, and the output of `hearth model list`.

use crate::examples::check_embeddings;
use crate::harness::{TestServer, command, model_folder, setup};
use serde_json::Value;
use std::path::Path;

/// Runs `hearth model …`: whether it succeeds, and its output on both streams.
async fn model(server: &TestServer, arguments: &[&str]) -> (bool, String, String) {
    let mut command = command();
    command.arg("model").args(arguments).args(["--server", &format!("http://{}", server.client.address())]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

async fn added(server: &TestServer, arguments: &[&str]) -> String {
    let (success, told, said) = model(server, arguments).await;
    assert!(success, "{told}{said}");
    println!("{told}{said}");
    told + &said
}

/// Copies files into a folder: each name there, and the source file.
fn lay_out(folder: &Path, files: &[(&str, &Path)]) {
    for (name, from) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(from, path).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

/// The cells of a table's row that begins with a name, by their titles; none is empty.
fn row<'a>(table: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    fn cells(line: &str) -> Vec<&str> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }
    let (titles, rows) = table.split_once('\n').unwrap();
    let (titles, row) = (cells(titles), rows.lines().map(cells).find(|cells| cells.first() == Some(&name)));
    let row = row.unwrap_or_else(|| panic!("{name} is not in: {table}"));
    assert_eq!(titles.len(), row.len(), "{table}");
    titles.into_iter().zip(row).collect()
}

fn cell<'a>(row: &[(&'a str, &'a str)], title: &str) -> &'a str {
    row.iter().find(|(found, _)| *found == title).unwrap_or_else(|| panic!("no {title} in {row:?}")).1
}

/// Both engines passed, and the second differs by a tiny number.
fn passed_on_both(told: &str) {
    let difference = told.strip_prefix("onnxruntime, rten (differs by ").and_then(|rest| rest.strip_suffix(')'));
    let difference: f64 = difference.unwrap_or_else(|| panic!("{told}")).parse().unwrap();
    assert!((0.0..1e-3).contains(&difference), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_hugging_face_is_added_and_serves_with_its_assets() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("MiniLM");
    let source = setup("sources/minilm");
    let of = |name: &str| source.join(name);
    let names = [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ];
    let mut files: Vec<_> = names.iter().map(|name| (*name, of(name))).collect();
    files.push(("onnx/model.onnx", model_folder("minilm").join("model.onnx")));
    // Another export, a model card, and git's files.
    files.push(("onnx/model_other.onnx", model_folder("magika").join("model.onnx")));
    let files: Vec<_> = files.iter().map(|(name, path)| (*name, path.as_path())).collect();
    lay_out(&folder, &files);
    std::fs::write(folder.join("README.md"), "# A card").unwrap();
    std::fs::create_dir(folder.join(".git")).unwrap();
    std::fs::write(folder.join(".git/config"), "[core]").unwrap();

    let server = TestServer::start().await;
    let told = added(&server, &["add", folder.to_str().unwrap()]).await;
    assert!(told.contains("minilm@1 is live (onnxruntime, rten (differs by "), "{told}");
    let left_out = told.lines().find_map(|line| line.strip_prefix("hearth: left out: ")).unwrap_or_default();
    assert_eq!(left_out, "README.md, model.safetensors, onnx/model_other.onnx");
    for part in ["input   input_ids", "s64 [batch, tokens]", "output  last_hidden_state", "f32 [batch, tokens, 384]"] {
        assert!(told.contains(part), "'{part}' is not in: {told}");
    }

    let (success, table, _) = model(&server, &["list"]).await;
    assert!(success, "{table}");
    println!("{table}");
    let listed = row(&table, "minilm");
    passed_on_both(cell(&listed, "PASSED ON"));
    assert_eq!((cell(&listed, "VERSION"), cell(&listed, "RUNS ON")), ("1", "onnxruntime"), "{table}");
    let (_, json, _) = model(&server, &["list", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["models"][0]["engines"].as_array().unwrap().len(), 2, "{json}");

    // The function reads tokenizer.json and sentence_bert_config.json of the model's assets.
    server.deploy("embed", "embed").await;
    check_embeddings(&server, "embed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_and_the_engine_of_an_upload_are_chosen_by_flags() {
    let place = tempfile::tempdir().unwrap();
    let (magika, classifier) =
        (model_folder("magika").join("model.onnx"), model_folder("ocr-classify").join("model.onnx"));
    lay_out(place.path(), &[("several/first.onnx", &magika), ("several/more/second.onnx", &classifier)]);
    let several = place.path().join("several");
    let several = several.to_str().unwrap();
    let server = TestServer::start().await;
    let refused = async |arguments: &[&str], part: &str| {
        let (success, told, said) = model(&server, arguments).await;
        assert!(!success && said.contains(part), "'{part}' is not in: {told}{said}");
    };
    refused(&["add", several], "first.onnx, more/second.onnx; name one with --onnx FILE").await;
    refused(&["add", several, "--onnx", "third.onnx"], "third.onnx").await;
    refused(&["add", magika.to_str().unwrap(), "--onnx", "first.onnx"], "--onnx chooses among the files of a folder")
        .await;
    refused(&["add", several, "--onnx", "first.onnx", "--engine", "tract"], "rten").await;
    assert_eq!(server.client.get("/v1/models").await.expect(200).json()["models"], serde_json::json!([]));

    let told = added(&server, &["add", several, "--onnx", "first.onnx", "--engine", "rten"]).await;
    assert!(told.contains("several@1 is live") && told.contains("left out: more/second.onnx"), "{told}");
    assert!(told.contains("input   bytes "), "{told}");
    let told = added(&server, &["add", several, "--onnx", "more/second.onnx", "--name", "turned"]).await;
    assert!(told.contains("turned@1 is live") && told.contains("left out: first.onnx"), "{told}");
    // A file, whose name is the model's.
    let told = added(&server, &["add", place.path().join("several/first.onnx").to_str().unwrap()]).await;
    assert!(told.contains("first@1 is live"), "{told}");

    let (_, table, _) = model(&server, &["list"]).await;
    println!("{table}");
    for (name, engine) in [("several", "rten"), ("turned", "onnxruntime"), ("first", "onnxruntime")] {
        let listed = row(&table, name);
        passed_on_both(cell(&listed, "PASSED ON"));
        assert_eq!((cell(&listed, "RUNS ON"), cell(&listed, "STATE")), (engine, "stored"), "{table}");
    }
    let digests = ["several", "first", "turned"].map(|name| cell(&row(&table, name), "DIGEST").to_owned());
    assert!(digests[0] == digests[1] && digests[1] != digests[2], "{table}");
    added(&server, &["load", "several"]).await;
    let (_, table, _) = model(&server, &["list"]).await;
    assert_eq!(cell(&row(&table, "several"), "STATE"), "resident", "{table}");
    let status = server.client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["models"][0]["engine"], "rten", "{status}");
}
