//! One run of a model: its turn, its end, its times; it never changes which models are in memory.
//!
//! Runs happen on blocking threads, at most one for each core at once, whatever models they are of. A run ends early when
//! its deadline passes, when it is stopped, or when nobody waits for it any more.

use super::engine::Execution;
use super::residency::{Counts, Lease};
use crate::device::{Account, DType, Stop, Tensor};
use crate::error::{Error, Result};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a waiting caller looks whether it was stopped. Looking costs a microsecond.
const LOOK: Duration = Duration::from_millis(5);

/// What a run gave.
pub struct Run {
    /// Every output, in the signature's order.
    pub outputs: Vec<(String, Tensor)>,
    /// Microseconds that the engine worked; on a GPU, until all was queued.
    pub model_us: u64,
    /// Microseconds that the run waited for its turn.
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
        let asked = Instant::now();
        let inputs = self.in_order(inputs)?;
        stop.check()?;
        let (loads, loaded) = (self.loads().clone(), self.loaded().clone());
        let turn = match loads.runs.clone().try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let _waiting = self.waiting(loads.queued_model_runs)?;
                let turn = unless_stopped(stop, loads.runs.clone().acquire_owned()).await?;
                turn.map_err(|error| Error::host("waiting for a model", error))?
            }
        };
        let execution = loaded.session.clone().begin()?;
        let abandoned = Terminate(execution.clone());
        let account = account.clone();
        let work = tokio::task::spawn_blocking(move || {
            let (begun, device) = (Instant::now(), &loads.room.device);
            let placed = |tensor| match loaded.session.takes_host_memory() {
                true => device.on_host(&account, tensor),
                false => Ok(Tensor::clone(tensor)),
            };
            let inputs: Result<Vec<Tensor>> = inputs.iter().map(placed).collect();
            let outputs = inputs.and_then(|inputs| execution.run(device, &account, &inputs));
            loaded.counts.runs.fetch_add(1, Ordering::Relaxed);
            drop(turn);
            (outputs, begun.duration_since(asked), begun.elapsed())
        });
        let (outputs, queued, worked) =
            unless_stopped(stop, work).await?.map_err(|error| Error::host("running a model", error))?;
        drop(abandoned);
        let outputs = outputs.map_err(|error| error.context(format_args!("model '{}'", self.name())))?;
        let names = self.signature().outputs.iter().map(|output| output.name.clone());
        Ok(Run {
            outputs: names.zip(outputs).collect(),
            model_us: worked.as_micros() as u64,
            queue_us: queued.as_micros() as u64,
        })
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

    fn waiting(&self, most: u64) -> Result<Waiting<'_>> {
        let waiting = Waiting(&self.loaded().counts);
        let before = waiting.0.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= most {
            let message =
                format!("{before} runs wait for model '{}' already (queued_model_runs); try again", self.name());
            return Err(Error::overloaded(message));
        }
        Ok(waiting)
    }
}

/// A run in the queue.
struct Waiting<'a>(&'a Counts);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
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
