//! Measures what hearth itself adds to the floor, without HTTP: the same component is deployed and invoked as by the server, with
//! its limits, places, deadline, receipt, log and metrics. It never fails on a time.

use crate::floor::{self, mean_told};
use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hearth::clock::Clock;
use hearth::config::RawConfig;
use hearth::deploy::Deployments;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The mean microseconds of one invocation, with a body of `bytes` each way; `init`, if there is one, has run before. `program`
/// is hearth, whose child process compiles the component.
pub(crate) fn microseconds(program: &Path, component: &Path, bytes: usize) -> Result<f64> {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    threads.block_on(async {
        let folder = tempfile::tempdir()?;
        let (data, program) = (Some(folder.path().join("data")), Some(std::path::absolute(program)?));
        let raw = RawConfig { data, program, device: Some("cpu".to_owned()), ..RawConfig::default() };
        let deployments = Deployments::open(raw.resolve()?, Clock::system()).await?;
        let component = std::fs::read(component)?;
        deployments.put_function("default", "echo", stream::iter([Ok(component.into())])).await?;
        let request_id: Arc<str> = "0".repeat(32).into();
        let invoke = async || -> Result<Duration> {
            // The body is complete when an invocation starts, because the listener reads it.
            let request = floor::request(bytes);
            let started = Instant::now();
            let function = deployments.ready_function("default", "echo").await?;
            let invoked = deployments.invoke(&function, &request_id, request, Ok).await?;
            let response = invoked.answer.context("the handler failed")?;
            let took = started.elapsed();
            ensure!(
                response.status == 200 && (bytes == 0 || response.body.len() == bytes),
                "the handler does not echo"
            );
            Ok(took)
        };
        let mean = mean_told(invoke).await?.as_secs_f64() * 1e6;
        deployments.close().await;
        Ok(mean)
    })
}
