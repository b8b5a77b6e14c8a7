//! Tests that untrusted input is first read by a child process: bombs, crashes and slow senders are errors, and do not affect
//! other requests.

use crate::harness::{Process, component, model_tar, take_all_cores};
use hearth_crafted::{compile_bomb, custom_section, endless_compilation, many_exports};
use std::path::Path;
use std::time::{Duration, Instant};

async fn still_fine(server: &Process) {
    server.client.put("/v1/functions/echo", component("echo")).await;
    assert_eq!(server.client.post("/fn/echo", "still here").await.expect(200).text(), "still here");
    server.client.get("/readyz").await.expect(200);
}

/// The server's child processes.
fn children(server: &Process) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.id())).unwrap();
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let list = std::fs::read_to_string(task.ok()?.path().join("children")).ok()?;
        Some(list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>())
    };
    tasks.filter_map(of_task).flatten().collect()
}

/// Waits until the server has this many children, and gives them.
async fn until_children(server: &Process, count: usize) -> Vec<u32> {
    for _ in 0..1_000 {
        let found = children(server);
        if found.len() == count {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let left: Vec<_> = children(server).into_iter().map(|child| about(child, "stat")).collect();
    panic!("never {count} children, but {left:?}");
}

fn about(process: u32, what: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/{what}")).unwrap_or_default()
}

/// Waits until a child has confined itself.
async fn until_confined(child: u32) {
    for _ in 0..1_000 {
        // The second filter is the last step.
        if about(child, "status").contains("Seccomp_filters:\t2") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never confined: {}", about(child, "status"));
}

fn signal(process: u32, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_raw(process as i32).unwrap();
    // It may have ended already.
    rustix::process::kill_process(process, signal).ok();
}

fn data() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_compilation_is_422_and_others_go_on() {
    let folder = data();
    let server = Process::with(folder.path(), &["--limit", "compile_ms=3000"]);
    server.client.put("/v1/functions/echo", component("echo")).await.expect(201);
    let client = server.client.clone();
    let started = Instant::now();
    let put = tokio::spawn(async move { client.put("/v1/functions/bomb", endless_compilation()).await });
    let child = until_children(&server, 1).await[0];
    while !put.is_finished() {
        assert_eq!(server.client.post("/fn/echo", "x").await.expect(200).text(), "x");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    put.await.unwrap().expect_error(422, "invalid-argument", "compile_ms");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "the child keeps running");
    server.client.get("/v1/functions/bomb").await.expect_error(404, "not-found", "bomb");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_that_eats_memory_is_422() {
    let folder = data();
    let server = Process::with(folder.path(), &["--limit", "compile_memory_bytes=192MiB"]);
    let reply = server.client.put("/v1/functions/bomb", compile_bomb(20_000, 20_000)).await;
    reply.expect_error(422, "invalid-argument", "compile_memory_bytes");
    let leftover: Vec<_> = std::fs::read_dir(folder.path().join("compiled")).unwrap().flatten().collect();
    assert!(leftover.is_empty(), "{leftover:?}");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_many_exports_or_much_code_is_refused() {
    let folder = data();
    let server = Process::with(folder.path(), &["--limit", "compiled_bytes=1MiB"]);
    let reply = server.client.put("/v1/functions/wide", many_exports(10_000)).await;
    reply.expect_error(422, "invalid-argument", "component_exports");
    let functions = "(func (param i32) (result i32) local.get 0 i32.const 1 i32.add)".repeat(60_000);
    let large = wat::parse_str(format!("(component (core module {functions}))")).unwrap();
    server.client.put("/v1/functions/large", large).await.expect_error(413, "too-large", "compiled_bytes");
    still_fine(&server).await;
}

/// The server never loads the custom sections of a component into memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_section_of_100_mb_is_taken_and_costs_the_server_nothing() {
    let folder = data();
    let server = Process::start(folder.path());
    let padded = [component("echo"), custom_section("junk", &vec![7; 100_000_000])].concat();
    server.client.put("/v1/functions/padded", padded).await.expect(201);
    assert_eq!(server.client.post("/fn/padded", "x").await.expect(200).text(), "x");
    let status = about(server.id(), "status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 150 << 10, "{peak_kib} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_has_no_privileges_and_nothing_of_the_servers_environment() {
    let folder = data();
    let server = Process::start(folder.path());
    let client = server.client.clone();
    let put = tokio::spawn(async move { client.put("/v1/functions/bomb", endless_compilation()).await });
    let child = until_children(&server, 1).await[0];
    until_confined(child).await;
    let status = about(child, "status");
    for part in ["NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t2"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let limits = about(child, "limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max data size"), ["2147483648"; 2]);
    assert_eq!(limit("Max core file size"), ["0"; 2]);
    assert_eq!(limit("Max file size"), ["1073741824"; 2]);
    assert!(limit("Max cpu time")[0].parse::<u64>().is_ok(), "{limits}");
    let environment = about(child, "environ");
    let names: Vec<_> = environment.split('\0').filter_map(|one| Some(one.split_once('=')?.0)).collect();
    assert!(!names.is_empty());
    let known = [
        "HEARTH_LOG",
        "RAYON_NUM_THREADS",
        "LD_LIBRARY_PATH",
        "LOCPATH",
        "MIMALLOC_ARENA_EAGER_COMMIT",
        "MIMALLOC_EAGER_COMMIT",
    ];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    assert_eq!(about(child, "oom_score_adj").trim(), "1000");
    for entry in std::fs::read_dir(format!("/proc/{child}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        assert!(!target.to_string_lossy().starts_with("socket:"), "an open socket");
    }
    put.abort();
    until_children(&server, 0).await;
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_crashes_is_422_and_says_how() {
    use rustix::process::Signal;
    let folder = data();
    let server = Process::start(folder.path());
    for (kill, part) in [(Signal::SEGV, "signal 11"), (Signal::KILL, "out of memory"), (Signal::XCPU, "compile_ms")] {
        let client = server.client.clone();
        let put = tokio::spawn(async move { client.put("/v1/functions/bomb", endless_compilation()).await });
        let child = until_children(&server, 1).await[0];
        until_confined(child).await;
        // A handler of the child returns once from a signal that no instruction caused, so the signal is repeated.
        while !put.is_finished() {
            signal(child, kill);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        put.await.unwrap().expect_error(422, "invalid-argument", part);
    }
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_end_with_their_client_and_with_their_server() {
    let folder = data();
    let server = Process::start(folder.path());
    let upload = || {
        let client = server.client.clone();
        tokio::spawn(async move { client.put("/v1/functions/bomb", endless_compilation()).await })
    };
    let put = upload();
    until_children(&server, 1).await;
    put.abort();
    until_children(&server, 0).await;
    let put = upload();
    let child = until_children(&server, 1).await[0];
    until_confined(child).await;
    server.kill();
    put.abort();
    for _ in 0..500 {
        if !about(child, "cmdline").contains("confined") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the child outlived its server");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_uploads_than_places_wait_for_one_another() {
    let folder = data();
    let limits = "confined_processes=1,unpacking_processes=1,checking_processes=1";
    let server = Process::with(folder.path(), &["--limit", limits]);
    let uploads: Vec<_> = ["echo", "file-type", "probe"]
        .into_iter()
        .flat_map(|name| [("functions", name, component(name)), ("models", name, model_tar("magika"))])
        .map(|(kind, name, body)| {
            let client = server.client.clone();
            tokio::spawn(async move { client.put(&format!("/v1/{kind}/{name}"), body).await })
        })
        .collect();
    while uploads.iter().any(|upload| !upload.is_finished()) {
        assert!(children(&server).len() <= 3);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for upload in uploads {
        upload.await.unwrap().expect(201);
    }
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_and_delays_no_other() {
    let folder = data();
    let server = Process::with(folder.path(), &["--limit", "confined_processes=1,queued_processes=0"]);
    let client = server.client.clone();
    let put = tokio::spawn(async move { client.put("/v1/functions/bomb", endless_compilation()).await });
    until_children(&server, 1).await;
    let refused = server.client.put("/v1/functions/echo", component("echo")).await;
    refused.expect_error(429, "overloaded", "queued_processes");
    // Models are unpacked and checked all the same.
    server.client.put("/v1/models/m", model_tar("magika")).await.expect(201);
    put.abort();
    until_children(&server, 0).await;
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_whether_reading_is_confined() {
    let folder = data();
    let server = Process::start(folder.path());
    let status = server.client.get("/v1/status").await.expect(200).json();
    assert_eq!(status["reading_is_confined"], hearth::confined::reading_is_confined());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_needs_no_child_for_what_was_compiled() {
    let folder = data();
    let server = Process::start(folder.path());
    let put = server.client.put("/v1/functions/file-type", component("file-type")).await.expect(201).json();
    server.client.put("/v1/functions/echo", component("echo")).await.expect(201);
    server.kill();
    let server = Process::with(folder.path(), &["--program", "/nowhere/hearth"]);
    assert_eq!(server.client.post("/fn/echo", "again").await.expect(200).text(), "again");
    let again = server.client.put("/v1/functions/file-type", component("file-type")).await.expect(200).json();
    assert_eq!(again["grants_requested"], put["grants_requested"]);
    // New components are refused, with an error that blames the server.
    let reply = server.client.put("/v1/functions/probe", component("probe")).await;
    reply.expect_error(500, "internal", "starting a child process");
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_needs_too_much_is_422() {
    for (limit, part) in [("check_ms=10", "check_ms"), ("check_memory_bytes=64MiB", "check_memory_bytes")] {
        let folder = data();
        let server = Process::with(folder.path(), &["--limit", limit]);
        let put = server.client.put("/v1/models/m", model_tar("minilm")).await;
        put.expect_error(422, "invalid-argument", part);
        server.client.get("/v1/models/m").await.expect_error(404, "not-found", "m");
        still_fine(&server).await;
    }
}

/// Children run at idle priority, but guests that take all cores do not prevent a deployment.
#[tokio::test(flavor = "multi_thread")]
async fn components_are_compiled_while_guests_take_all_cores() {
    let folder = data();
    let server = Process::with(folder.path(), &["--limit", "invocation_ms=120000"]);
    server.client.put("/v1/functions/probe", component("probe")).await.expect(201);
    let loops = take_all_cores(&server.client);
    let begun = Instant::now();
    server.client.put("/v1/functions/echo", component("echo")).await.expect(201);
    println!("deployed within {:?} during {} loops", begun.elapsed(), loops.len());
    assert!(loops.iter().all(|running| !running.is_finished()));
    loops.iter().for_each(tokio::task::JoinHandle::abort);
    still_fine(&server).await;
}

/// A header of a tar for a file.
fn header(name: &str, kind: tar::EntryType, bytes: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_mode(0o644);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_traps_are_refused_and_leave_nothing() {
    use tar::EntryType::{Link, Regular, Symlink};
    let folder = data();
    let server = Process::with(folder.path(), &["--limit", "model_files=100", "--limit", "model_bytes=64MiB"]);
    let put = |body: Vec<u8>| server.client.put("/v1/models/trap", body);
    let end = vec![0; 1024];
    let huge = [header("model.onnx", Regular, 1 << 42), vec![0; 1 << 20]].concat();
    put(huge).await.expect_error(413, "too-large", "model_bytes");
    let many: Vec<u8> = (0..200).flat_map(|index| header(&format!("f{index}"), Regular, 0)).collect();
    put([many, end.clone()].concat()).await.expect_error(413, "too-large", "model_files");
    let zeros = [header("model.onnx", Regular, 63 << 20), vec![0; 63 << 20], header("b", Regular, 2 << 20)].concat();
    let mut squeezed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut squeezed, &zeros).unwrap();
    put(squeezed.finish().unwrap()).await.expect_error(413, "too-large", "model_bytes");
    let model = header("model.onnx", Regular, 0);
    for (entry, part) in [
        (header("../evil", Regular, 0), "'..'"),
        (header("/etc/evil", Regular, 0), "absolute"),
        (header("link", Symlink, 0), "symbolic link"),
        (header("link", Link, 0), "hard link"),
    ] {
        let body = [model.clone(), entry, end.clone()].concat();
        put(body).await.expect_error(422, "invalid-argument", part);
    }
    let tar = model_tar("magika");
    put(tar[..tar.len() / 2].to_vec()).await.expect_error(400, "malformed", "cut off");
    assert_eq!(std::fs::read_dir(folder.path().join("incoming")).unwrap().count(), 0);
    assert!(children(&server).is_empty());
    server.client.put("/v1/models/magika", tar).await.expect(201);
    still_fine(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_takes_too_long_hears_so() {
    use std::io::{Read, Write};
    let folder = data();
    let server = Process::with(folder.path(), &["--limit", "unpack_ms=1000"]);
    let address = server.client.address();
    let exchange = move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head =
            "PUT /v1/models/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&header("model.onnx", tar::EntryType::Regular, 900_000)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
        for _ in 0..400 {
            // The server may have closed its side by now.
            stream.write_all(b"slowly").ok();
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => answer.extend(&buffer[..count]),
                Err(_) if answer.is_empty() => {}
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 422") && answer.contains("unpack_ms"), "{answer}");
    until_children(&server, 0).await;
    still_fine(&server).await;
}

/// The command is only for servers: it does nothing without a running one.
#[test]
fn the_hidden_command_needs_its_server() {
    let help = crate::harness::command().arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("confined"));
    use std::io::Write;
    let envelope =
        br#"{"parent":1,"request":null,"output":null,"reads":[],"memory_bytes":1000000000,"file_bytes":0,"cpu_s":9}"#;
    let mut child = crate::harness::command()
        .args(["confined", "compile"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&(envelope.len() as u64).to_le_bytes()).unwrap();
    input.write_all(envelope).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("unavailable") && said.contains("the server is gone"), "{said}");
}
