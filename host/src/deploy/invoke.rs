//! Invocations: from a name to a version that is ready, a place, a run, and what it leaves in log and metrics.

use super::{Deployed, Deployments};
use crate::device::Stop;
use crate::error::{Error, Result};
use crate::interface::{Call, Log, Phase, Request, Response};
use crate::sandbox::{Invocation, Outcome, Receipt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// An invocation that ran.
pub struct Invoked<T> {
    /// What was made of the handler's response, or why there is none.
    pub answer: Result<T>,
    /// What it used.
    pub receipt: Receipt,
}

impl Deployments {
    /// The version that `name[@version|@alias]` of a tenant means now, ready to be invoked; its models begin to load.
    ///
    /// Errors: `not-found`; `conflict` where grants are missing; `unavailable` where getting ready takes longer than
    /// `compile_ms`; those of compiling and of `init`.
    pub async fn ready_function(&self, tenant: &str, selector: &str) -> Result<Arc<Deployed>> {
        let patience = Duration::from_millis(self.limits().compile_ms);
        // Getting ready goes on after the timeout.
        let deployed = tokio::time::timeout(patience, self.deployed(tenant, selector)).await;
        let deployed = deployed
            .map_err(|_| Error::unavailable("the function is still being made ready; try again in a moment"))??;
        deployed.check()?;
        self.fetch_models(&deployed);
        Ok(deployed)
    }

    /// Runs one request to its end, its deadline, or until the future is dropped. `answer` makes the client's answer of the
    /// handler's response; its error is the invocation's.
    ///
    /// Errors: `overloaded` where the request found no place; then nothing ran.
    pub async fn invoke<T>(
        &self,
        deployed: &Deployed,
        request_id: &Arc<str>,
        request: Request,
        answer: impl FnOnce(Response) -> Result<T>,
    ) -> Result<Invoked<T>> {
        let limits = &*deployed.limits;
        let arrived = Instant::now();
        let deadline = arrived + Duration::from_millis(limits.invocation_ms);
        let passes = async { Ok((deployed.enter().await?, self.0.runtime.enter().await?)) };
        let passes: Result<Result<_>, _> = tokio::time::timeout_at(deadline.into(), passes).await;
        let (_of_function, pass) =
            passes.map_err(|_| Error::overloaded("no place became free within the deadline; try again later"))??;
        let waited = arrived.elapsed();
        let call = Call {
            request_id: request_id.clone(),
            tenant: deployed.tenant.clone(),
            function: deployed.name.clone(),
            grant: deployed.grant.clone(),
            phase: Phase::Serving,
            limits: deployed.limits.clone(),
            deadline,
            stop: Stop::new(Some(deadline)),
            log: Log::new(limits.log_bytes),
        };
        let mut running = Running {
            deployments: self,
            deployed,
            log: call.log.clone(),
            request_id,
            began: Instant::now(),
            ended: false,
        };
        let invocation = Invocation { call, request, pass, waited };
        let (function, version) = (&*deployed.name, deployed.version);
        let span = tracing::debug_span!("invocation", function, version);
        let Outcome { result, receipt } = self.0.runtime.invoke(&deployed.function, invocation).instrument(span).await;
        running.ended = true;
        drop(running);
        let answer = result.and_then(answer);
        self.0.metrics.invocation(&deployed.metrics, answer.as_ref().err(), &receipt);
        Ok(Invoked { answer, receipt })
    }
}

/// An invocation that runs. What it logged is kept when this is dropped; dropped before the end, because the client left, it
/// counts as cancelled.
struct Running<'a> {
    deployments: &'a Deployments,
    deployed: &'a Deployed,
    log: Log,
    request_id: &'a str,
    began: Instant,
    ended: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let (lines, dropped) = self.log.take();
        if !lines.is_empty() || dropped > 0 {
            self.deployed.log.extend(self.request_id, self.deployed.version, lines, dropped);
        }
        if !self.ended {
            self.deployments.0.metrics.cancelled(&self.deployed.metrics, self.began.elapsed());
        }
    }
}
