//! What hearth itself adds to the floor, without HTTP: the same component through `sandbox::Runtime`, with its limits,
//! deadline, receipt and log.

use crate::floor::{self, mean_told};
use anyhow::{Context, Result, ensure};
use hearth::catalog::Catalog;
use hearth::config::RawConfig;
use hearth::confined::Confined;
use hearth::device::{Cpu, Device, Ledger, Stop};
use hearth::interface::{Call, Grant, Log, Phase, Services};
use hearth::model::Models;
use hearth::sandbox::{Invocation, Making, Preparation, Runtime};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The mean microseconds of one invocation, `init` done before where there is one, with a body of `bytes` each way.
/// `program` is hearth's, whose child compiles the component.
pub(crate) fn microseconds(program: &Path, component: &Path, bytes: usize) -> Result<f64> {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    threads.block_on(async {
        let folder = tempfile::tempdir()?;
        let (data, program) = (Some(folder.path().join("data")), Some(std::path::absolute(program)?));
        let raw = RawConfig { data, program, ..RawConfig::default() };
        let config = raw.resolve()?;
        let limits = Arc::new(config.limits.clone());
        let device: Arc<dyn Device> = Cpu::new(Ledger::new(limits.device_bytes), config.limits.clone());
        let confined = Arc::new(Confined::new(&config)?);
        let catalog = Arc::new(Catalog::open(&config.data, &config.limits, confined.clone()).await?);
        let models = Arc::new(Models::new(&config, device.clone(), catalog.clone(), catalog, confined.clone())?);
        let services = Arc::new(Services { device, models, limits: limits.clone() });
        let runtime = Arc::new(Runtime::new(&config, services, confined)?);
        let function = {
            let (path, preparation) = (std::path::absolute(component)?, Preparation::default());
            runtime.prepared("bench", path, preparation, Making::ToTheEnd, |_| ()).await?
        };
        let (name, tenant, request_id): (Arc<str>, Arc<str>, Arc<str>) =
            ("echo".into(), "default".into(), "0".repeat(32).into());
        let grant = Arc::new(Grant::default());
        let invoke = async || -> Result<Duration> {
            // The body is there when an invocation starts: reading it is the listener's work.
            let request = floor::request(bytes);
            let started = Instant::now();
            let deadline = Instant::now() + Duration::from_millis(limits.invocation_ms);
            let call = Call {
                request_id: request_id.clone(),
                tenant: tenant.clone(),
                function: name.clone(),
                grant: grant.clone(),
                phase: Phase::Serving,
                limits: limits.clone(),
                deadline,
                stop: Stop::new(Some(deadline)),
                log: Log::new(limits.log_bytes),
            };
            let slot = runtime.slot().await?;
            let invocation = Invocation { call, request, slot, waited: Duration::ZERO };
            let response = runtime.invoke(&function, invocation).await.result.context("the handler failed")?;
            let took = started.elapsed();
            ensure!(
                response.status == 200 && (bytes == 0 || response.body.len() == bytes),
                "the handler does not echo"
            );
            Ok(took)
        };
        Ok(mean_told(invoke).await?.as_secs_f64() * 1e6)
    })
}
