//! The floor: one component in bare wasmtime, a fresh instance for each call; it never uses code of hearth, except the engine's
//! settings, so that both sides have the same pool.

use anyhow::{Result, anyhow, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

mod bindings {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    wasmtime::component::bindgen!({ path: "../wit", world: "handler" });
}

use bindings::HandlerPre;
use bindings::hearth::inference::http_types::{Header, Request};

const WARM_UP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_millis(1_000);

/// The mean microseconds to instantiate, call and drop, with a body of `bytes` each way.
pub(crate) fn microseconds(component: &Path, bytes: usize) -> Result<f64> {
    let limits = hearth::config::Limits::default();
    let engine = Engine::new(&hearth::sandbox::engine_config(&limits)).map_err(wasm)?;
    let component = Component::from_file(&engine, component).map_err(wasm)?;
    let mut linker = Linker::<()>::new(&engine);
    // The echo makes no calls to the host; its imports for a panic only have to exist.
    linker.define_unknown_imports_as_traps(&component).map_err(wasm)?;
    let handler = HandlerPre::new(linker.instantiate_pre(&component).map_err(wasm)?).map_err(wasm)?;
    let request = self::request(bytes);
    let request = Request {
        method: request.method,
        path: request.path,
        query: request.query,
        headers: request.headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
        body: request.body,
    };
    let call = || -> Result<()> {
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let response = handler.instantiate(&mut store).and_then(|instance| instance.call_handle(&mut store, &request));
        let response = response.map_err(wasm)?.map_err(|error| anyhow!("the handler failed: {}", error.message))?;
        ensure!(response.status == 200 && (bytes == 0 || response.body.len() == bytes), "the handler does not echo");
        Ok(())
    };
    mean(WARM_UP, call)?;
    Ok(mean(MEASURED, call)?.as_secs_f64() * 1e6)
}

/// The request that every row sends.
pub(crate) fn request(bytes: usize) -> hearth::interface::Request {
    hearth::interface::Request {
        method: if bytes == 0 { "GET" } else { "POST" }.to_owned(),
        path: String::new(),
        query: String::new(),
        headers: ["host", "content-type"].map(|name| (name.to_owned(), b"text/plain".to_vec())).into(),
        body: vec![b'x'; bytes],
    }
}

/// The mean of the times that `work` returns, after a warm-up.
pub(crate) async fn mean_told(work: impl AsyncFn() -> Result<Duration>) -> Result<Duration> {
    let mut mean = Duration::ZERO;
    for at_least in [WARM_UP, MEASURED] {
        let (mut told, mut calls) = (Duration::ZERO, 0);
        while told < at_least {
            told += work().await?;
            calls += 1;
        }
        mean = told / calls;
    }
    Ok(mean)
}

fn mean(at_least: Duration, work: impl Fn() -> Result<()>) -> Result<Duration> {
    let started = Instant::now();
    let mut calls = 0;
    while started.elapsed() < at_least {
        for _ in 0..50 {
            work()?;
        }
        calls += 50;
    }
    Ok(started.elapsed() / calls)
}

fn wasm(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("{error:#}")
}
