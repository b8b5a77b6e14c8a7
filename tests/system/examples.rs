//! Tests each example, deployed and called, against a reference in Python.

use crate::harness::{TestServer, python, root, setup};
use http::Method;
use serde_json::Value;
use std::path::PathBuf;

/// The output of a reference for an input, or `None` (and a printed line) if set-up made no Python.
fn reference(script: &str, arguments: &[String], input: &str) -> Option<String> {
    use std::io::Write;
    let mut command = python()?;
    let script = root().join("tests/python").join(script);
    let mut child = command
        .arg(script)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn file_type_answers_as_magika_does() {
    let server = TestServer::start().await;
    server.add_model("magika").await;
    server.deploy("file-type", "file-type").await;

    let folder = tempfile::tempdir().unwrap();
    let mut paths: Vec<PathBuf> = [
        "README.md",
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        ".gitignore",
        "host/src/main.rs",
        "wit/tensors.wit",
        "tests/python/operators.py",
        "examples/04-ocr/page.png",
        "target/guests/components/echo.wasm",
    ]
    .map(|path| root().join(path))
    .to_vec();
    let noise: Vec<u8> = (0u32..5000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let generated: [(&str, &[u8]); 18] = [
        ("empty", b""),
        ("one-byte", b"x"),
        ("few-bytes", b"hello"),
        ("blank", b"  \n\t \n          "),
        ("padded", b"\n\n\n   #!/bin/bash\nset -eu\nfor f in *; do echo \"$f\"; done\n   \n\n"),
        ("html", b"<!DOCTYPE html><html><head><title>x</title></head><body><p>hello</p></body></html>"),
        ("json", br#"{"name": "x", "items": [1, 2, 3], "nested": {"a": true, "b": null}}"#),
        ("csv", b"id,name,price\n1,apple,0.5\n2,pear,0.7\n3,plum,0.9\n4,fig,1.2\n"),
        ("c", b"#include <stdio.h>\nint main(void) {\n    printf(\"hello\\n\");\n    return 0;\n}\n"),
        ("sql", b"CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT);\nSELECT * FROM t WHERE id > 3 ORDER BY name;\n"),
        ("latin", "Größe und Maß sind übel: ÄÖÜ äöü ß, déjà vu, señor.".as_bytes()),
        ("cjk", "这是一个测试文件，里面有一些中文字符。これは日本語の文章です。".as_bytes()),
        ("noise", &noise),
        ("zeros", &[0; 4096]),
        ("elf-start", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0"),
        ("gzip-start", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\x07\0\x86\xa6\x10\x36\x05\0\0\0"),
        ("pdf-start", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"),
        ("not-utf8", b"text \xff\xfe\xfa\xfb with bytes \x80\x81 that are no UTF-8"),
    ];
    for (name, bytes) in generated {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        paths.push(path);
    }
    let arguments: Vec<String> = paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    let expected = reference("file_type_reference.py", &arguments, "");
    let expected: Option<Vec<Value>> =
        expected.map(|lines| lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
    let mut labels = std::collections::BTreeSet::new();
    for (index, path) in paths.iter().enumerate() {
        let answer = server.client.post("/fn/file-type", std::fs::read(path).unwrap()).await.expect(200).json();
        labels.insert(answer["label"].as_str().unwrap().to_owned());
        if let Some(expected) = &expected {
            for field in ["label", "mime_type", "group", "description", "is_text"] {
                assert_eq!(answer[field], expected[index][field], "{field} of {}", path.display());
            }
            let (ours, theirs) = (answer["score"].as_f64().unwrap(), expected[index]["score"].as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-4, "{}: {ours}, not {theirs}", path.display());
        }
    }
    assert!(labels.len() >= 10, "{labels:?}");
}

/// 100 sentences: plain ones, accents, CJK, emoji, odd spaces, controls, and some longer than the model takes.
fn sentences() -> Vec<String> {
    let words = [
        "resident",
        "naïve",
        "façade",
        "Straße",
        "ÅNGSTRÖM",
        "İstanbul",
        "crème brûlée",
        "don't",
        "e-mail",
        "3.14159",
        "東京",
        "北京大学",
        "안녕하세요",
        "ありがとう",
        "😀",
        "👩‍👩‍👧‍👦",
        "🇩🇪",
        "ﬁancé",
        "Ω≈ç√",
        "שלום",
        "مرحبا",
        "Привет",
        "ไทย",
        "\u{200b}zero",
        "a\u{301}ccent",
        "tab\there",
        "nul\u{0}byte",
        "\u{fffd}",
        "antidisestablishmentarianism",
        "[CLS]",
        "[MASK]",
        "##ing",
        "http://example.org/?q=1",
        "C++",
        "snake_case",
        "…",
        "“quotes”",
        "½",
        "①",
        "Ⅷ",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut sentences = vec![
        String::new(),
        " ".to_owned(),
        "The quick brown fox jumps over the lazy dog.".to_owned(),
        "word ".repeat(600),
        "漢".repeat(700),
        "x".repeat(300),
        "😀 ".repeat(400),
    ];
    while sentences.len() < 100 {
        let count = 1 + next(30);
        let chosen: Vec<&str> = (0..count).map(|_| words[next(words.len())]).collect();
        sentences.push(chosen.join(if next(4) == 0 { "  " } else { " " }));
    }
    sentences
}

/// Deploys a function that embeds sentences as `name`, and compares its vectors with the reference's.
async fn compare_embeddings(server: &TestServer, name: &str) {
    server.add_model("minilm").await;
    server.deploy(name, name).await;
    check_embeddings(server, name).await;
}

/// Compares the vectors of a function that embeds sentences with the reference's.
pub(crate) async fn check_embeddings(server: &TestServer, name: &str) {
    let sentences = sentences();
    let folder = setup("models/minilm").to_str().unwrap().to_owned();
    let expected = reference("embed_reference.py", &[folder], &serde_json::to_string(&sentences).unwrap());
    let mut vectors: Vec<Vec<f64>> = Vec::new();
    // Several at a time, so that padding and masks matter.
    for group in sentences.chunks(9) {
        let body = serde_json::json!({ "sentences": group }).to_string();
        let headers = [("content-type", "application/json")];
        let answer = server.client.send(Method::POST, &format!("/fn/{name}"), &headers, body).await.expect(200).json();
        let embeddings: Vec<Vec<f64>> = serde_json::from_value(answer["embeddings"].clone()).unwrap();
        assert_eq!(embeddings.len(), group.len());
        vectors.extend(embeddings);
    }
    for vector in &vectors {
        let length = vector.iter().map(|number| number * number).sum::<f64>().sqrt();
        assert!(vector.len() == 384 && (length - 1.0).abs() < 1e-4, "{} numbers of length {length}", vector.len());
    }
    if let Some(expected) = expected {
        let expected: Vec<Vec<f64>> = serde_json::from_str(&expected).unwrap();
        for ((ours, theirs), sentence) in vectors.iter().zip(&expected).zip(&sentences) {
            let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 1e-4, "{worst} for {sentence:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_pipeline_answers_as_sentence_transformers_do() {
    // One place in the pool: while the model runs for one request, the halves of others use the place.
    let server = TestServer::with_limits(&["concurrent_invocations=1"]).await;
    compare_embeddings(&server, "embed-pipeline").await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = server.client.clone();
            tokio::spawn(async move { client.post("/fn/embed-pipeline", "A sentence.").await.expect(200).body })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let headers = [("content-type", "application/json")];
    let wrong = server.client.send(Method::POST, "/fn/embed-pipeline", &headers, "{\"sentences\": 3}").await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    // Without its model, the request is answered with an error, and nothing is left behind.
    server.client.delete("/v1/models/minilm").await.expect(200);
    let gone = server.client.post("/fn/embed-pipeline", "A sentence.").await;
    assert!(gone.status == 404 || gone.status == 502, "{}", gone.text());
    let status = server.client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["device"]["used_by"]["invocation"], 0, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_answers_as_sentence_transformers_do() {
    let server = TestServer::start().await;
    compare_embeddings(&server, "embed").await;
    server.client.post("/fn/embed", "{").await.expect(200);
    let headers = [("content-type", "application/json")];
    let wrong = server.client.send(Method::POST, "/fn/embed", &headers, "{\"sentences\": 3}").await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
}

/// The share of correct characters of a text, without white space: the exact text's length minus the edit distance.
pub(crate) fn characters_right(truth: &str, text: &str) -> f64 {
    let plain = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
    let (truth, text) = (plain(truth), plain(text));
    let mut row: Vec<usize> = (0..=text.len()).collect();
    for (i, wanted) in truth.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, found) in text.iter().enumerate() {
            let replaced = before + usize::from(wanted != found);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    1.0 - row[text.len()] as f64 / truth.len() as f64
}

async fn ocr_server() -> TestServer {
    let server = TestServer::start().await;
    for model in ["ocr-detect", "ocr-recognize"] {
        server.add_model(model).await;
    }
    server.deploy("ocr", "ocr").await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn all_models_of_a_function_are_fetched_at_its_first_call() {
    let server = ocr_server().await;
    // It opens none of its models.
    server.client.post("/fn/ocr", "").await.expect(422);
    for _ in 0..600 {
        let status = server.client.get("/v1/status").await.expect(200).json();
        let models = status["models"].as_array().unwrap();
        assert!(models.iter().all(|model| model["reason"] == "expected by a function that was called"), "{status}");
        if models.len() == 2 && models.iter().all(|model| model["state"] == "resident") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the models are not in memory after a minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn ocr_reads_the_demo_page() {
    let server = ocr_server().await;
    let folder = root().join("examples/04-ocr");
    let page = std::fs::read(folder.join("page.png")).unwrap();
    let truth = std::fs::read_to_string(folder.join("page.txt")).unwrap();
    let answer = server.client.post("/fn/ocr", page).await.expect(200).json();
    let right = characters_right(&truth, answer["text"].as_str().unwrap());
    assert!(right >= 0.98, "{right}: {}", answer["text"]);
    for line in answer["lines"].as_array().unwrap() {
        assert!(line["box"].as_array().unwrap().len() == 4 && line["score"].as_f64().unwrap() > 0.5, "{line}");
    }
    for body in [&b""[..], b"no image"] {
        server.client.post("/fn/ocr", body).await.expect_error(422, "invalid-argument", "image");
    }
}

/// Pages of different fonts, sizes, backgrounds, rotations and noise: at least as many correct characters as rapidocr.
#[tokio::test(flavor = "multi_thread")]
async fn ocr_reads_pages_at_least_as_well_as_rapidocr() {
    let Some(mut compare) = python() else { return };
    let server = ocr_server().await;
    compare.arg(root().join("tests/python/ocr_accuracy.py")).arg("--pages").arg(setup("pages"));
    compare.arg("--demo").arg(root().join("examples/04-ocr"));
    compare.args(["--server", &format!("http://{}/fn/ocr", server.client.address())]);
    let status = tokio::task::spawn_blocking(move || compare.status()).await.unwrap().unwrap();
    assert!(status.success(), "rapidocr reads better; the table is above");
}

/// The samples of the conversation that set-up took: PCM of 16 bits, mono, 16 kHz.
fn conversation() -> Vec<i16> {
    let file = std::fs::read(setup("sources/speech/sample.wav")).unwrap();
    let data = 8 + file.windows(4).position(|four| four == b"data").unwrap();
    file[data..].as_chunks().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect()
}

fn wav(samples: &[i16]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut file = b"RIFF".to_vec();
    file.extend(36u32.wrapping_add(data.len() as u32).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data");
    file.extend((data.len() as u32).to_le_bytes());
    file.extend(data);
    file
}

/// Real speech, quieter speech, silence, noise and music-like tones, nearly two minutes of them.
fn long_recording() -> Vec<i16> {
    let speech = conversation();
    let mut recording = vec![0; 20_000];
    recording.extend(&speech);
    recording.extend((0u32..48_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 20) as i16 - 2_048));
    recording.extend(speech.iter().map(|sample| sample / 10));
    recording.extend((0..80_000).map(|n| ((n as f32 * 0.1).sin() * (n as f32 * 0.0003).cos() * 9_000.0) as i16));
    recording.extend(speech[100_000..].iter().rev());
    recording.extend(&speech[..333_333]);
    recording
}

/// The answer to a recording, in seconds and samples as silero-vad's package gives them.
fn check_speech(answer: &Value, expected: &Value) {
    let numbers = |value: &Value| -> Vec<f64> { serde_json::from_value(value["probabilities"].clone()).unwrap() };
    let (ours, theirs) = (numbers(answer), numbers(expected));
    assert_eq!(ours.len(), theirs.len());
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-4, "{worst}");
    let segments = |value: &Value, rate: f64| -> Vec<(f64, f64)> {
        let sample = |segment: &Value, key: &str| (segment[key].as_f64().unwrap() * rate).round();
        let all = value["segments"].as_array().unwrap().iter();
        all.map(|segment| (sample(segment, "start"), sample(segment, "end"))).collect()
    };
    assert_eq!(segments(answer, 16_000.0), segments(expected, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_is_found_as_silero_vad_finds_it() {
    let server = TestServer::start().await;
    server.add_model("silero-vad").await;
    server.deploy("speech", "speech").await;
    let send = async |query: &str, state: Option<&str>, body: Vec<u8>| {
        let headers: Vec<_> = state.map(|state| ("speech-state", state)).into_iter().collect();
        server.client.send(Method::POST, &format!("/fn/speech{query}"), &headers, body).await
    };

    // Compared with human labels: nine tenths of all hundredths of a second agree on speech or silence.
    let conversation = conversation();
    let answer = send("", None, wav(&conversation)).await.expect(200).json();
    let within = |segments: &[(f64, f64)], at: f64| segments.iter().any(|(start, end)| (*start..*end).contains(&at));
    let found: Vec<(f64, f64)> = answer["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|segment| (segment["start"].as_f64().unwrap(), segment["end"].as_f64().unwrap()))
        .collect();
    let rttm = std::fs::read_to_string(setup("sources/speech/sample.rttm")).unwrap();
    let heard: Vec<(f64, f64)> = rttm
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let (start, length): (f64, f64) = (words[3].parse().unwrap(), words[4].parse().unwrap());
            (start, start + length)
        })
        .collect();
    let alike = (0..3_000).map(f64::from).filter(|at| within(&found, at / 100.0) == within(&heard, at / 100.0)).count();
    assert!(alike > 2_700, "{alike} of 3000: {answer}");

    // Compared with the package, on a long clip, whole and in parts between which the client keeps the state.
    let recording = long_recording();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.wav");
    std::fs::write(&path, wav(&recording)).unwrap();
    let arguments = [setup("models/silero-vad/model.onnx"), setup("sources/speech/utils_vad.py"), path];
    let arguments = arguments.map(|path| path.to_str().unwrap().to_owned());
    let expected = reference("speech_reference.py", &arguments, "");
    let expected: Option<Value> = expected.map(|text| serde_json::from_str(&text).unwrap());
    let whole = send("?probabilities=1", None, wav(&recording)).await.expect(200).json();
    if let Some(expected) = &expected {
        check_speech(&whole, expected);
    }
    let mut joined = serde_json::json!({ "probabilities": [], "segments": [] });
    let (mut from, mut state) = (0, None::<String>);
    for to in [100_000, 100_001, 700_123, recording.len()] {
        let more = if to < recording.len() { "?probabilities=1&more=1" } else { "?probabilities=1" };
        let answer = send(more, state.as_deref(), wav(&recording[from..to])).await.expect(200).json();
        for key in ["probabilities", "segments"] {
            joined[key].as_array_mut().unwrap().extend(answer[key].as_array().unwrap().clone());
        }
        (from, state) = (to, answer["state"].as_str().map(str::to_owned));
    }
    assert_eq!((&joined["segments"], &joined["probabilities"]), (&whole["segments"], &whole["probabilities"]));
    assert!(whole["segments"].as_array().unwrap().len() >= 8, "{}", whole["segments"]);

    let mut stereo = wav(&recording[..2_000]);
    stereo[22] = 2;
    send("", None, stereo).await.expect_error(422, "invalid-argument", "2 channels at 16000 Hz; send a WAV");
    send("", None, b"words".to_vec()).await.expect_error(422, "invalid-argument", "ffmpeg");
    send("", Some("AAAA"), wav(&[])).await.expect_error(422, "invalid-argument", "speech-state");
}
