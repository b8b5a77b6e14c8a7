//! Tests clients that open connections and then send nothing, or do not read their answers.

use crate::harness::TestServer;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Milliseconds that the servers of these tests wait for their clients.
const PATIENCE: &str = "300";
/// A connection that the server ends is ended by then; one that is open then stays open.
const SOON: Duration = Duration::from_secs(10);
const BIG: &str = "/fn/probe/big?bytes=60000000";

async fn server(more: &[&str]) -> TestServer {
    let (silence, patience) = (format!("connection_idle_ms={PATIENCE}"), format!("body_idle_ms={PATIENCE}"));
    let server = TestServer::with_limits(&[&[silence.as_str(), patience.as_str()], more].concat()).await;
    server.deploy("probe", "probe").await;
    server
}

fn open(address: SocketAddr, say: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(say.as_bytes()).unwrap();
    stream
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// Everything that arrives until the server ends the connection, which must be soon.
fn until_ended(stream: &mut TcpStream) -> Vec<u8> {
    let (begun, mut all) = (Instant::now(), Vec::new());
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error} after {:?}", begun.elapsed())
        }
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    all
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_for_others() {
    let server = server(&["connections=3"]).await;
    let address = server.client.address();
    blocking(move || {
        // No bytes, the beginning of an HTTP/2 preface, and half a head.
        let mut silent = ["", "PRI * HT", "GET /livez HTTP/1.1\r\nho"].map(|said| open(address, said));
        let mut waits = open(address, &get("/livez"));
        let mut start = [0; 12];
        waits.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        for stream in &mut silent {
            assert_eq!(until_ended(stream), b"");
        }
        // A connection that was answered is also ended when it sends no further request.
        assert!(!until_ended(&mut waits).is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lives_while_its_request_is_worked_on() {
    let server = server(&["invocation_ms=1500"]).await;
    let slow = server.client.get("/fn/probe/hostile/loop").await;
    slow.expect_error(504, "deadline-exceeded", "invocation_ms");
    // A connection that follows a log gets nothing while nothing is logged, and is not ended.
    let address = server.client.address();
    let followed = blocking(move || {
        let mut stream = open(address, &get("/v1/functions/probe/logs?follow=1&limit=0"));
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        stream
    });
    let mut stream = followed.await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.client.get("/fn/probe/log?count=1&length=7").await.expect(200);
    blocking(move || {
        let (begun, mut heard, mut part) = (Instant::now(), Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&heard).contains("lllllll") {
            let count = stream.read(&mut part).unwrap();
            assert!(count > 0 && begun.elapsed() < SOON, "the stream ended");
            heard.extend(&part[..count]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_taken_is_given_up() {
    let server = server(&["all_bodies_bytes=100MiB"]).await;
    let address = server.client.address();
    let mut stream = blocking(move || {
        let mut stream = open(address, &get(BIG));
        stream.read_exact(&mut [0; 12]).unwrap();
        stream
    })
    .await;
    // Its bytes count while they wait.
    server.client.get(BIG).await.expect_error(429, "overloaded", "all_bodies_bytes");
    let begun = Instant::now();
    while server.client.get(BIG).await.status != 200 {
        assert!(begun.elapsed() < SOON, "the bytes are never given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rest = blocking(move || until_ended(&mut stream)).await;
    assert!(rest.len() < 60_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_taken_slowly_comes_whole() {
    let server = server(&[]).await;
    let address = server.client.address();
    let all = blocking(move || {
        let mut stream = open(address, &get(BIG));
        let (mut all, mut part) = (0, vec![0; 4_000_000]);
        while all < 60_000_000 {
            let count = stream.read(&mut part).unwrap();
            assert!(count > 0, "ended after {all} bytes");
            all += count;
            std::thread::sleep(Duration::from_millis(60));
        }
        all
    })
    .await;
    assert!(all > 60_000_000);
}

/// An HTTP/2 client has a window for each answer, and can keep its connection busy while it does not read one of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_http_2_that_is_not_taken_is_given_up_though_others_are() {
    let server = server(&["all_bodies_bytes=100MiB"]).await;
    let stream = tokio::net::TcpStream::connect(server.client.address()).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = async |path: &str| {
        let request = http::Request::get(format!("http://localhost{path}")).body(Empty::<Bytes>::new()).unwrap();
        sender.clone().send_request(request).await
    };
    // An answer that is read at once is complete.
    let taken = ask(BIG).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(taken.len(), 60_000_000);
    let begun = Instant::now();
    let untaken = ask(BIG).await.unwrap();
    assert_eq!(untaken.status(), 200);
    server.client.get(BIG).await.expect_error(429, "overloaded", "all_bodies_bytes");
    while let Ok(answer) = ask("/fn/probe").await {
        assert_eq!(answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default(), "fine");
        assert!(begun.elapsed() < SOON, "the connection is never ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(250), "{:?}", begun.elapsed());
    drop(connection.await);
    server.client.get(BIG).await.expect(200);
    assert!(untaken.into_body().collect().await.is_err());
}
