//! What this node is doing: status, readiness, metrics.

use super::Deployments;
use crate::api::{DeviceStatus, Invocations, LimitValue, OpenUploads, Status};
use crate::device::OwnerKind;
use crate::error::{Error, Result};

impl Deployments {
    /// What this node is doing.
    ///
    /// Errors: `internal`.
    pub async fn status(&self) -> Result<Status> {
        let (models, _) = self.model_states().await?;
        let device = &self.0.runtime.services().device;
        let ledger = device.ledger();
        let (running, waiting) = self.0.runtime.load_now();
        let (open, bytes) = self.uploads().used();
        let limits = self.limits().values().into_iter().map(|(limit, value)| LimitValue {
            name: limit.name.to_owned(),
            value,
            default: limit.default,
            per_function: limit.per_function,
            reason: limit.reason.trim().to_owned(),
        });
        let used_by = OwnerKind::ALL.map(|kind| (kind.as_str().to_owned(), ledger.used_by(kind)));
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.0.clock.now().duration_since(self.0.started).unwrap_or_default().as_secs(),
            device: DeviceStatus {
                name: device.name().to_owned(),
                budget_bytes: ledger.budget_bytes(),
                used_bytes: ledger.used_bytes(),
                peak_bytes: ledger.peak_bytes(),
                used_by: used_by.into_iter().collect(),
            },
            engines: self.0.models.engines(),
            reading_is_confined: crate::confined::reading_is_confined(),
            invocations: Invocations { running, waiting },
            models,
            uploads: OpenUploads { open: open as u64, bytes },
            limits: limits.collect(),
        })
    }

    /// Whether requests can be served.
    ///
    /// Errors: `unavailable` where the catalog or the device cannot be used.
    pub async fn ready(&self) -> Result<()> {
        self.0.catalog.check().await.map_err(|error| {
            Error::unavailable("the catalog does not answer; the server's log has the cause").with_source(error)
        })?;
        self.0.runtime.services().device.health()
    }

    /// Numbers in Prometheus' text format.
    ///
    /// Errors: `internal`.
    pub async fn metrics(&self) -> Result<String> {
        let (running, waiting) = self.0.runtime.load_now();
        let (states, _) = self.model_states().await?;
        let used = self.0.runtime.services().device.ledger().used_bytes();
        Ok(self.0.metrics.render(used, running, waiting, &states))
    }
}
