//! One run of a model: its lane, its end, its times; it never changes which models are in memory.
//!
//! Runs happen on blocking threads, each on a lane for which it waits in its model's [queue](super::queue). A run ends early when
//! its deadline passes, when it is stopped, or when nobody waits for it any more.

use super::engine::Execution;
use super::queue::{Full, Lane, WaitingRun};
use super::residency::Lease;
use super::signature::TensorSignature;
use crate::device::{Account, DType, Stop, Tensor};
use crate::error::{Error, Result};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// How often a waiting caller looks whether it was stopped. Looking costs a microsecond.
const LOOK: Duration = Duration::from_millis(5);

/// What a run gave.
pub struct Run {
    /// Every output, in the signature's order.
    pub outputs: Vec<(String, Tensor)>,
    /// Microseconds that the engine worked; on a GPU, until all was queued.
    pub model_us: u64,
    /// Microseconds that the run waited: for a lane, and for a thread.
    pub queue_us: u64,
}

impl Lease {
    /// Runs the model once: every input of the signature exactly once, in any order. The outputs belong to `account`.
    ///
    /// The run ends when `stop` says so, when its deadline passes, or when the future is dropped; the inputs stay alive
    /// until it has ended, which may be a little later.
    ///
    /// Errors: `invalid-argument` naming the input, the dimension and what was expected, or with the engine's reason where
    /// the graph refuses the inputs; `overloaded` where more than `queued_model_runs` wait for this model; `cancelled` and
    /// `deadline-exceeded` by `stop`; those of `account`; `internal`.
    pub async fn infer(&self, account: &Arc<Account>, inputs: Vec<(String, Tensor)>, stop: &Stop) -> Result<Run> {
        let span = tracing::debug_span!("model_run", model = self.name(), version = self.version());
        self.run(account, inputs, stop).instrument(span).await
    }

    async fn run(&self, account: &Arc<Account>, inputs: Vec<(String, Tensor)>, stop: &Stop) -> Result<Run> {
        let asked = Instant::now();
        let inputs = self.in_order(inputs)?;
        stop.check()?;
        let lane = self.lane(&inputs, stop).await?;
        let (device, loaded) = (self.device().clone(), self.loaded().clone());
        let execution = loaded.session.clone().begin()?;
        let abandoned = Terminate(execution.clone());
        let account = account.clone();
        let work = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let placed = |tensor| match loaded.session.takes_host_memory() {
                true => device.on_host(&account, tensor),
                false => Ok(Tensor::clone(tensor)),
            };
            let inputs: Result<Vec<Tensor>> = inputs.iter().map(placed).collect();
            let outputs = inputs.and_then(|inputs| execution.run(&device, &account, &inputs));
            loaded.counts.runs.fetch_add(1, Ordering::Relaxed);
            drop(lane);
            (outputs, begun.duration_since(asked), begun.elapsed())
        });
        let (outputs, queued, worked) =
            unless_stopped(stop, work).await?.map_err(|error| Error::host("running a model", error))?;
        drop(abandoned);
        let outputs = outputs.map_err(|error| error.context(format_args!("model '{}'", self.name())))?;
        let names = self.signature().outputs.iter().map(|output| output.name.clone());
        let (model_us, queue_us) = (worked.as_micros() as u64, queued.as_micros() as u64);
        tracing::debug!(model_us, queue_us, "ran");
        Ok(Run { outputs: names.zip(outputs).collect(), model_us, queue_us })
    }

    /// Whether these are the inputs that a run takes.
    ///
    /// Errors: `invalid-argument` naming the input, the dimension and what was expected.
    pub fn check(&self, inputs: &[(String, Tensor)]) -> Result<()> {
        self.order(inputs).map(drop)
    }

    fn in_order(&self, inputs: Vec<(String, Tensor)>) -> Result<Vec<Tensor>> {
        let order = self.order(&inputs)?;
        Ok(order.into_iter().filter_map(|index| inputs.get(index)).map(|(_, tensor)| tensor.clone()).collect())
    }

    /// Where each input of the signature stands among those given.
    fn order(&self, inputs: &[(String, Tensor)]) -> Result<Vec<usize>> {
        let given: Vec<(&str, DType, &[u64])> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype(), tensor.shape().dims())).collect();
        self.signature().order(&given)
    }

    /// A lane for a run on these inputs, which are in the signature's order.
    async fn lane(&self, inputs: &[Tensor], stop: &Stop) -> Result<Lane> {
        let queue = &self.loaded().counts.queue;
        if let Some(lane) = queue.try_lane() {
            return Ok(lane);
        }
        let (tenant, rows) = (self.tenant().clone(), rows(&self.signature().inputs, inputs));
        let run = WaitingRun { deadline: stop.deadline(), tenant, rows, since: Instant::now() };
        let place = queue.join(run).map_err(|Full(waiting)| {
            let name = self.name();
            Error::overloaded(format!("{waiting} runs wait for model '{name}' already (queued_model_runs); try again"))
        })?;
        let lane = unless_stopped(stop, place).await?;
        // Its deadline may have passed just before its turn came.
        stop.check()?;
        Ok(lane)
    }
}

/// How many rows a run has: the length of its first input along the batch axis, or 1 where the model has none.
fn rows(signatures: &[TensorSignature], inputs: &[Tensor]) -> u64 {
    let batch = |signature: &TensorSignature, tensor: &Tensor| {
        let axis = signature.batch_axis?;
        tensor.shape().dims().get(axis as usize).copied()
    };
    signatures.iter().zip(inputs).find_map(|(signature, tensor)| batch(signature, tensor)).unwrap_or(1)
}

/// Terminates the run when dropped; nothing happens if it is over.
struct Terminate(Arc<dyn Execution>);

impl Drop for Terminate {
    fn drop(&mut self) {
        self.0.terminate();
    }
}

async fn unless_stopped<T>(stop: &Stop, work: impl Future<Output = T>) -> Result<T> {
    let mut work = pin!(work);
    loop {
        match tokio::time::timeout(LOOK, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => stop.check()?,
        }
    }
}
