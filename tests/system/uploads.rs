//! Tests uploads in parts: offsets, broken connections, restarts, limits; and large models from the command line, with bounded
//! memory.

use crate::client::Client;
use crate::harness::{Process, TestServer, command, component, model_folder, model_tar};
use crate::onnx_file::{Embedding, Row};
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Begins an upload, and gives its path.
async fn begin(client: &Client, length: Option<usize>) -> String {
    let length = length.map(|length| length.to_string());
    let headers: Vec<_> = length.iter().map(|length| ("upload-length", length.as_str())).collect();
    let reply = client.send(Method::POST, "/v1/uploads", &headers, "").await.expect(201);
    assert_eq!(reply.headers["upload-offset"], "0");
    let path = reply.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(path, format!("/v1/uploads/{}", reply.json()["id"].as_str().unwrap()));
    path
}

async fn offset(client: &Client, path: &str) -> u64 {
    let reply = client.send(Method::HEAD, path, &[], "").await.expect(200);
    assert!(reply.body.is_empty() && reply.headers["cache-control"] == "no-store", "{reply:?}");
    reply.headers["upload-offset"].to_str().unwrap().parse().unwrap()
}

async fn send(client: &Client, path: &str, offset: usize, part: &[u8]) -> crate::client::Reply {
    let offset = offset.to_string();
    client.send(Method::PATCH, path, &[("upload-offset", &offset)], part.to_vec()).await
}

fn id(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// Sends the head of a request that continues an upload, over its own connection.
fn patch(address: SocketAddr, path: &str, offset: usize, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nhost: {address}\r\nupload-offset: {offset}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Waits until an upload has an offset.
async fn until_offset(client: &Client, path: &str, wanted: u64) {
    for _ in 0..500 {
        if offset(client, path).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the upload has {} bytes, and never {wanted}", offset(client, path).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_becomes_a_model() {
    let server = TestServer::start().await;
    let client = &server.client;
    let tar = model_tar("magika");
    let path = begin(client, Some(tar.len())).await;
    let middle = tar.len() / 3;
    let first = send(client, &path, 0, &tar[..middle]).await.expect(204);
    assert_eq!(first.headers["upload-offset"].to_str().unwrap(), middle.to_string());
    assert_eq!(offset(client, &path).await, middle as u64);

    // Wrong parts change nothing.
    for wrong in [0, middle - 1, middle + 1] {
        let stands = format!("stands at {middle}, not at {wrong}");
        send(client, &path, wrong, b"x").await.expect_error(409, "conflict", &stands);
    }
    client.patch(&path, "x").await.expect_error(422, "invalid-argument", "Upload-Offset");
    let odd = client.send(Method::PATCH, &path, &[("upload-offset", "-1")], "x").await;
    odd.expect_error(422, "invalid-argument", "upload-offset");
    let put = format!("/v1/models/magika?upload={}", id(&path));
    let missing = format!("{middle} of {} bytes", tar.len());
    client.put(&put, "").await.expect_error(409, "conflict", &missing);
    let long = [&tar[middle..], b"more"].concat();
    send(client, &path, middle, &long).await.expect_error(422, "invalid-argument", "announced");

    // Bytes before the refusal may be kept or not; HEAD shows which.
    let there = offset(client, &path).await as usize;
    assert!((middle..=tar.len()).contains(&there), "{there}");
    send(client, &path, there, &tar[there..]).await.expect(204);
    let listed = client.get("/v1/uploads").await.expect(200).json();
    assert_eq!(listed["uploads"][0]["offset"], tar.len(), "{listed}");
    assert_eq!(client.get("/t/other/v1/uploads").await.expect(200).json()["uploads"], json!([]));
    client.get(&format!("/t/other{path}")).await.expect_error(404, "not-found", "no upload");
    client.put(&put, "body").await.expect_error(422, "invalid-argument", "takes no body");

    let digest = hex::encode(Sha256::digest(&tar));
    let stored = client.put(&format!("{put}&digest=sha256:{digest}"), "").await.expect(201).json();
    let direct = client.put(&format!("/v1/models/direct?digest=sha256:{digest}"), tar).await.expect(201).json();
    assert_eq!(stored["digest"], direct["digest"]);
    server.deploy("file-type", "file-type").await;
    let answer = client.post("/fn/file-type", "#!/bin/sh\necho hello\n").await.expect(200).json();
    assert_eq!(answer["label"], "shell");

    // It is removed without a trace.
    client.put(&put, "").await.expect_error(404, "not-found", "finished");
    let status = client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["uploads"], json!({ "open": 0, "bytes": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_refused_uploads_are_no_models() {
    let server = TestServer::start().await;
    let client = &server.client;
    let digest = "0".repeat(64);
    let direct = client.put(&format!("/v1/models/m?digest=sha256:{digest}"), model_tar("magika")).await;
    direct.expect_error(422, "invalid-argument", "damaged on the way");
    let path = begin(client, None).await;
    send(client, &path, 0, &model_tar("magika")).await.expect(204);
    let put = format!("/v1/models/m?upload={}", id(&path));
    client.put(&format!("{put}&digest=md5:1"), "").await.expect_error(422, "invalid-argument", "sha256sum");
    client.put(&format!("{put}&digset=1"), "").await.expect_error(422, "invalid-argument", "the query takes");
    client.put(&format!("{put}&digest=sha256:{digest}"), "").await.expect_error(422, "invalid-argument", "damaged");
    client.get(&path).await.expect_error(404, "not-found", "no upload");

    // An upload that is no model stays until its client deletes it.
    let path = begin(client, None).await;
    send(client, &path, 0, b"no model").await.expect(204);
    let put = format!("/v1/models/m?upload={}", id(&path));
    assert_eq!(client.put(&put, "").await.status, 422);
    assert_eq!(offset(client, &path).await, 8);
    client.delete(&path).await.expect(204);
    client.delete(&path).await.expect_error(404, "not-found", "no upload");
    client.get("/v1/models/m").await.expect_error(404, "not-found", "no model");
    let begun = client.post("/v1/uploads", "body").await;
    begun.expect_error(422, "invalid-argument", "PATCH");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_connection_broke_is_kept() {
    let server = TestServer::start().await;
    let client = &server.client;
    let tar = model_tar("magika");
    let path = begin(client, Some(tar.len())).await;
    // It ends in the middle.
    let mut stream = patch(client.address(), &path, 0, tar.len());
    stream.write_all(&tar[..1_500_000]).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    until_offset(client, &path, 1_500_000).await;
    // It stops sending, as if a cable was pulled: the next request does not wait for it.
    let mut silent = patch(client.address(), &path, 1_500_000, tar.len() - 1_500_000);
    silent.write_all(&tar[1_500_000..2_000_000]).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    let there = match send(client, &path, 1_500_000, &tar[1_500_000..]).await {
        // Nothing of the silent one was written yet, or all of it.
        reply if reply.status == 204 => tar.len(),
        reply => {
            reply.expect_error(409, "conflict", "go on from there");
            let there = offset(client, &path).await as usize;
            send(client, &path, there, &tar[there..]).await.expect(204);
            there
        }
    };
    assert!(there > 1_500_000 && started.elapsed() < Duration::from_secs(5), "{there}, {:?}", started.elapsed());
    silent.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = [0; 12];
    silent.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 409", "the silent request is told");
    let digest = hex::encode(Sha256::digest(&tar));
    let put = format!("/v1/models/magika?upload={}&digest=sha256:{digest}", id(&path));
    client.put(&put, "").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_outlive_the_server_and_not_their_time() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    let tar = model_tar("magika");
    let path = begin(&server.client, Some(tar.len())).await;
    send(&server.client, &path, 0, &tar[..1_000_000]).await.expect(204);
    server.kill();
    // Files that are no uploads are removed too.
    for stray in ["0123456789abcdef0123456789abcdef", "x.partial", "0123456789abcdef0123456789abcde0.json"] {
        std::fs::write(data.path().join("uploads").join(stray), b"{}").unwrap();
    }
    let server = Process::start(data.path());
    assert_eq!(std::fs::read_dir(data.path().join("uploads")).unwrap().count(), 2);
    let status = server.client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["uploads"], json!({ "open": 1, "bytes": tar.len() }));
    assert_eq!(offset(&server.client, &path).await, 1_000_000);
    send(&server.client, &path, 1_000_000, &tar[1_000_000..]).await.expect(204);
    server.client.put(&format!("/v1/models/magika?upload={}", id(&path)), "").await.expect(201);

    let path = begin(&server.client, None).await;
    send(&server.client, &path, 0, b"some").await.expect(204);
    server.kill();
    let server = Process::with(data.path(), &["--limit", "upload_idle_ms=1500"]);
    assert_eq!(offset(&server.client, &path).await, 4);
    for _ in 0..500 {
        if server.client.get(&path).await.status == 404 {
            assert_eq!(std::fs::read_dir(data.path().join("uploads")).unwrap().count(), 0);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("an idle upload stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_uploads_are_bounded() {
    let limits = ["open_uploads=2", "open_uploads_bytes=10KiB", "model_bytes=8KiB"];
    let server = TestServer::with_limits(&limits).await;
    let client = &server.client;
    let announce = async |length: usize| {
        let length = length.to_string();
        client.send(Method::POST, "/v1/uploads", &[("upload-length", &length)], "").await
    };
    announce(9 << 10).await.expect_error(413, "too-large", "model_bytes");
    announce(usize::MAX).await.expect_error(413, "too-large", "model_bytes");
    let odd = client.send(Method::POST, "/v1/uploads", &[("upload-length", "much")], "").await;
    odd.expect_error(422, "invalid-argument", "upload-length");
    let first = begin(client, Some(6 << 10)).await;
    announce(5 << 10).await.expect_error(429, "overloaded", "open_uploads_bytes");
    // Bytes that were not announced count when they arrive.
    let second = begin(client, None).await;
    announce(1).await.expect_error(429, "overloaded", "2 uploads are open already (open_uploads)");
    send(client, &second, 0, &[0; 3 << 10]).await.expect(204);
    send(client, &second, 3 << 10, &[0; 2 << 10]).await.expect_error(429, "overloaded", "open_uploads_bytes");
    send(client, &first, 0, &[0; 6 << 10]).await.expect(204);
    client.delete(&first).await.expect(204);
    let there = offset(client, &second).await as usize;
    send(client, &second, there, &vec![0; (8 << 10) - there]).await.expect(204);
    send(client, &second, 8 << 10, b"x").await.expect_error(413, "too-large", "model_bytes");
    client.delete(&second).await.expect(204);
    let status = client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["uploads"], json!({ "open": 0, "bytes": 0 }));
}

/// A proxy in front of the server: after some numbers of bytes towards it, it cuts connections and runs an action.
struct Proxy {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    /// Bytes that came from clients.
    carried: Arc<AtomicU64>,
}

impl Proxy {
    /// Cuts whatever is open once the bytes carried pass one of `cuts`, and then calls `cut` with its number.
    fn start(server: SocketAddr, cuts: Vec<u64>, cut: impl Fn(usize) + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            server: Arc::new(Mutex::new(server)),
            carried: Arc::default(),
        };
        let (server, carried) = (proxy.server.clone(), proxy.carried.clone());
        let (cuts, cut) = (Arc::new(cuts), Arc::new(cut));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let address = *server.lock().unwrap();
                // A server that is down refuses; so does this.
                let Ok(to) = TcpStream::connect(address) else { continue };
                let (mut back, mut front) = (to.try_clone().unwrap(), stream.try_clone().unwrap());
                std::thread::spawn(move || {
                    std::io::copy(&mut back, &mut front).ok();
                    // If the server has closed, its client must notice.
                    front.shutdown(Shutdown::Both).ok();
                });
                let (carried, cuts, cut) = (carried.clone(), cuts.clone(), cut.clone());
                std::thread::spawn(move || carry(stream, to, &carried, &cuts, &*cut));
            }
        });
        proxy
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, carried: &AtomicU64, cuts: &[u64], cut: &dyn Fn(usize)) {
    let mut part = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut part) {
        let before = carried.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&part[..count]).is_err() {
            break;
        }
        let passed = cuts.iter().position(|at| (before..before + count as u64).contains(at));
        if let Some(number) = passed {
            cut(number);
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

/// The peak of a process's private resident memory, in bytes.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Uploads a model of `megabytes` with external data through a connection that breaks twice, the second time because the
/// server is killed; then runs it. The server's memory stays flat.
async fn a_large_model(megabytes: u64) {
    /// The memory that a server may take above its idle use, for any size of the model: parts in flight, code, and compared
    /// outputs. Measured are 23 MiB for 100 MB and 53 MiB for 3 GB.
    const MOST_MORE: u64 = 96 << 20;
    // Outputs of the check are kept for comparison; they have their own limit.
    const FEW_OUTPUTS: [&str; 2] = ["--limit", "check_output_bytes=4MiB"];
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = Embedding::of(megabytes << 20);
    let started = Instant::now();
    model.write(folder.path());
    let total = model.bytes();
    println!("{total} bytes of external data written in {:.1?}", started.elapsed());

    let server = Arc::new(Mutex::new(Some(Process::with(data.path(), &FEW_OUTPUTS))));
    let id = || server.lock().unwrap().as_ref().unwrap().id();
    let address = || server.lock().unwrap().as_ref().unwrap().client.address();
    let idle = peak(id());
    let peaks = Arc::new(Mutex::new(Vec::new()));
    let proxy = {
        // The proxy's thread outlives the test; the server does not.
        let (server, peaks, place) = (Arc::downgrade(&server), peaks.clone(), data.path().to_owned());
        // Bound later: the proxy's own server is replaced by the restart.
        let moved: Arc<Mutex<Option<Arc<Mutex<SocketAddr>>>>> = Arc::default();
        let to = moved.clone();
        let proxy = Proxy::start(address(), vec![total / 3, total * 2 / 3], move |number| {
            if number == 1 {
                let server = server.upgrade().unwrap();
                let mut server = server.lock().unwrap();
                let old = server.take().unwrap();
                peaks.lock().unwrap().push(peak(old.id()));
                old.kill();
                let new = Process::with(&place, &FEW_OUTPUTS);
                *to.lock().unwrap().as_ref().unwrap().lock().unwrap() = new.client.address();
                *server = Some(new);
            }
        });
        *moved.lock().unwrap() = Some(proxy.server.clone());
        proxy
    };
    let started = Instant::now();
    let output = add(&proxy, folder.path(), &[]).await;
    let taken = started.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.matches("continuing the upload").count() >= 2, "it broke twice: {said}");
    let carried = proxy.carried.load(Ordering::SeqCst);
    assert!(carried < total + total / 3, "{carried} bytes were sent for {total}");
    peaks.lock().unwrap().push(peak(id()));
    let most = peaks.lock().unwrap().iter().copied().max().unwrap();
    println!(
        "uploaded and checked in {taken:.1?}, {carried} bytes sent; the server's peak: {} MiB idle, {} MiB then",
        idle >> 20,
        most >> 20
    );
    assert!(most < idle + MOST_MORE, "{most} bytes of memory, {idle} when idle");

    let client = server.lock().unwrap().as_ref().unwrap().client.clone();
    let status = client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["uploads"], json!({ "open": 0, "bytes": 0 }));
    client.put("/v1/functions/run-any", component("run-any")).await.expect(201);
    let started = Instant::now();
    let rows: Vec<Row> = (0..200).map(|n| n * 7_919 * 104_729 % model.rows()).chain([0, model.rows() - 1]).collect();
    let data = hex::encode(rows.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<_>>());
    let body = json!({ "ids": { "dtype": "s64", "shape": [rows.len()], "data": data } }).to_string();
    let answer = client.post("/fn/run-any", body).await.expect(200).json();
    println!("loaded and run for the first time in {:.1?}", started.elapsed());
    let found = hex::decode(answer["sums"]["data"].as_str().unwrap()).unwrap();
    let found: Vec<f32> = found.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(answer["sums"]["shape"], json!([rows.len(), Embedding::COLUMNS]));
    let wanted: Vec<f32> = rows.iter().flat_map(|row| model.sums(*row)).collect();
    assert_eq!(found, wanted);
}

/// `hearth model add FOLDER --name any` through the proxy.
async fn add(proxy: &Proxy, folder: &Path, more: &[&str]) -> std::process::Output {
    let mut command = command();
    command.args(["model", "add", "--name", "any", "--server", &format!("http://{}", proxy.address)]);
    command.args(more).arg(folder);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_100_mb_uploads_over_a_broken_connection_with_flat_memory() {
    a_large_model(100).await;
}

/// By `cargo xtask soak`: needs 12 GB of disk.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "3 GB: cargo xtask soak"]
async fn a_model_of_3_gb_uploads_over_a_broken_connection_with_flat_memory() {
    a_large_model(3_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_given_up_goes_on_by_its_id() {
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(data.path());
    let tar = model_tar("magika");
    let folder = model_folder("magika");
    let proxy = Proxy::start(server.client.address(), Vec::new(), |_| ());
    let unknown = add(&proxy, &folder, &["--resume", "0123"]).await;
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("no upload '0123'"), "{said}");
    // An upload of something else.
    let other = begin(&server.client, Some(tar.len() + 1)).await;
    let output = add(&proxy, &folder, &["--resume", id(&other)]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("it is another"), "{said}");
    let path = begin(&server.client, None).await;
    let output = add(&proxy, &folder, &["--resume", id(&path), "--json"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stored: Value = serde_json::from_slice(&output.stdout).unwrap();
    let direct = server.client.put("/v1/models/direct", tar).await.expect(201).json();
    assert_eq!(stored["digest"], direct["digest"]);
}
