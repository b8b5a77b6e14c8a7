//! The control layer: one owner of catalog, models and runtime, through which every change of what is deployed and every
//! invocation goes; it never parses a request and knows no statuses.
//!
//! A change is stored first and then takes effect, in one piece of work that goes on when its caller leaves. Decisions that
//! take effect later (what expires, what a schedule begins) go by one [`Clock`].

mod deployed;
mod function_log;
mod functions;
mod init;
mod invoke;
mod metrics;
mod models;
mod status;

pub use deployed::Deployed;
pub use function_log::{FunctionLog, Line, LogPart};
pub use invoke::Invoked;
pub use models::ModelSource;

use crate::catalog::{Catalog, Uploads};
use crate::clock::Clock;
use crate::config::{Config, Limits};
use crate::confined::Confined;
use crate::detached::detached;
use crate::error::Result;
use crate::interface::Services;
use crate::model::Models;
use crate::sandbox::Runtime;
use deployed::DeployedFunctions;
use std::sync::Arc;
use std::time::SystemTime;
use tokio_util::task::AbortOnDropHandle;

/// Everything that is deployed on this node. Clones are the same deployments.
#[derive(Clone)]
pub struct Deployments(Arc<Inner>);

struct Inner {
    config: Config,
    catalog: Arc<Catalog>,
    models: Arc<Models>,
    runtime: Arc<Runtime>,
    functions: DeployedFunctions,
    metrics: metrics::Metrics,
    clock: Clock,
    started: SystemTime,
    /// Held while all pins of a digest are read and applied, so that an older answer is never applied last.
    applying_pins: tokio::sync::Mutex<()>,
    /// Loads pinned models after the start.
    _loading_pinned: AbortOnDropHandle<()>,
}

impl Deployments {
    /// Opens the data folder, sets up device, models and sandbox, and begins to load what is pinned. Needs tokio's runtime.
    ///
    /// Errors: a data folder or a device that cannot be used; the message says what to change.
    pub async fn open(config: Config, clock: Clock) -> Result<Deployments> {
        let confined = Arc::new(Confined::new(&config)?);
        let catalog = Catalog::open(&config.data, &config.limits, confined.clone(), clock.clone()).await?;
        let catalog = Arc::new(catalog);
        let device = crate::device::open(&config, &crate::node_key::NodeKey::open(&config.data)?)?;
        let (blobs, directory) = (catalog.clone(), catalog.clone());
        let models = Arc::new(Models::new(&config, device.clone(), blobs, directory, confined.clone())?);
        models::remove_leftovers(&catalog, &models).await?;
        let pinned = models::apply_all_pins(&catalog, &models).await?;
        let services = Arc::new(Services { device, models: models.clone(), limits: Arc::new(config.limits.clone()) });
        let runtime = Arc::new(Runtime::new(&config, services, confined)?);
        functions::remove_leftovers(&catalog, &runtime).await?;
        let loading_pinned = AbortOnDropHandle::new(tokio::spawn(models::load_pinned(models.clone(), pinned)));
        Ok(Deployments(Arc::new(Inner {
            functions: DeployedFunctions::new(config.limits.function_log_bytes),
            config,
            catalog,
            models,
            runtime,
            metrics: metrics::Metrics::new(),
            started: clock.now(),
            clock,
            applying_pins: tokio::sync::Mutex::default(),
            _loading_pinned: loading_pinned,
        })))
    }

    /// Finishes what is being written and closes the catalog.
    pub async fn close(&self) {
        Catalog::clone(&self.0.catalog).close().await;
    }

    /// The server's limits.
    pub fn limits(&self) -> &Limits {
        &self.0.config.limits
    }

    /// Uploads of models that come in parts.
    pub fn uploads(&self) -> &Uploads {
        self.0.catalog.uploads()
    }

    /// Makes a change with these deployments, to its end even where the caller leaves, so that what is served always follows
    /// what is stored.
    async fn change<T, F>(&self, change: impl FnOnce(Deployments) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        detached("changing what is deployed", change(self.clone())).await
    }
}
