//! Runs one request in a fresh instance, under its limits; it never outlives its deadline or its caller.

use super::output::Output;
use super::{Function, Runtime};
use crate::error::{Error, Kind, Result};
use crate::gate::Pass;
use crate::interface::{Answer, Call, Ctx, Log, LogLevel, Request, Response, Turn, Usage};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use wasmtime::{Engine, ResourceLimiter, Store, Trap, UpdateDeadline};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

/// The data of a store: the host's side of the contract, WASI for guests that import it, and the memory limits.
pub(super) struct State {
    pub(super) ctx: Ctx,
    wasi: Option<Box<Wasi>>,
    limiter: Limiter,
}

/// WASI of one invocation: no files, no network, output to the log.
struct Wasi {
    ctx: WasiCtx,
    stdout: Output,
    stderr: Output,
    log: Log,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let State { ctx, wasi, .. } = self;
        // Made at the first use: it costs more than the rest of an invocation, and most guests do not use it.
        let wasi = wasi.get_or_insert_with(|| Box::new(Wasi::new(ctx)));
        WasiCtxView { ctx: &mut wasi.ctx, table: ctx.table() }
    }
}

impl Wasi {
    fn new(ctx: &Ctx) -> Wasi {
        let capacity = usize::try_from(ctx.call().log.room_bytes()).unwrap_or(usize::MAX);
        let (stdout, stderr) = (Output::new(capacity), Output::new(capacity));
        let mut builder = WasiCtx::builder();
        builder.stdout(stdout.clone()).stderr(stderr.clone());
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        for (key, value) in &ctx.call().grant.config {
            builder.env(key, value);
        }
        Wasi { ctx: builder.build(), stdout, stderr, log: ctx.call().log.clone() }
    }
}

impl Drop for Wasi {
    /// However the instance ends, also by cancellation, its output is in the log.
    fn drop(&mut self) {
        self.stdout.log_to(&self.log, LogLevel::Stdout);
        self.stderr.log_to(&self.log, LogLevel::Stderr);
    }
}

/// Counts a guest's memory over all of its linear memories.
#[derive(Default)]
pub(super) struct Limiter {
    memory_bytes: usize,
    largest_bytes: usize,
    largest_table: usize,
    refused: Option<String>,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.largest_bytes {
            self.refused =
                Some(format!("it asked for {total} bytes of memory; guest_memory_bytes allows {}", self.largest_bytes));
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.largest_table {
            self.refused = Some(format!(
                "it asked for a table of {desired} elements; guest_table_elements allows {}",
                self.largest_table
            ));
            return Ok(false);
        }
        Ok(true)
    }
}

/// What one invocation used. Times are in microseconds of wall time.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Receipt {
    /// From the start of the invocation to its answer, without the transfer of bodies.
    pub wall_us: u64,
    /// Running the guest's own code, including making its instance.
    pub guest_us: u64,
    /// In operators and image decoding.
    pub operators_us: u64,
    /// In model runs.
    pub model_us: u64,
    /// Waiting: for a place in the pool, in models' queues and for models to load.
    pub queue_us: u64,
    /// Model runs.
    pub model_runs: u64,
    /// The most linear memory the guest had, in bytes.
    pub guest_memory_bytes: u64,
    /// The most tensor bytes alive at once.
    pub tensor_bytes: u64,
    /// Bytes copied from guest and host to the device.
    pub uploaded_bytes: u64,
    /// Bytes copied from the device to the guest.
    pub downloaded_bytes: u64,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

/// One request for a function.
pub struct Invocation {
    /// The call's tenant, function and deadline.
    pub call: Call,
    /// The client's request.
    pub request: Request,
    /// The place it runs in.
    pub pass: Pass,
    /// How long it waited for that place.
    pub waited: Duration,
}

/// How an invocation ended.
pub struct Outcome {
    /// The handler's response, or why there is none.
    pub result: Result<Response>,
    /// What it used.
    pub receipt: Receipt,
}

/// What an invocation has used so far, over all its instances.
struct Progress {
    ctx: Ctx,
    /// Time inside polls of guests' instances.
    polled: Duration,
    /// Waiting for places in the pool.
    waited: Duration,
    /// The most linear memory of an instance.
    memory_bytes: usize,
}

impl Runtime {
    /// Runs one invocation to its end, its deadline, or until the future is dropped, which ends the work of guest and host.
    pub async fn invoke(&self, function: &Function, invocation: Invocation) -> Outcome {
        let started = Instant::now();
        let Invocation { call, request, pass, waited } = invocation;
        let ending = EndOnDrop(call.stop.clone());
        let request_bytes = request.body.len() as u64;
        let mut ctx = Ctx::new(self.services.clone(), call);
        ctx.hold(Some(Arc::new(pass)));
        let progress = Progress { ctx, polled: Duration::ZERO, waited, memory_bytes: 0 };
        let (mut progress, result) = self.answer(function, progress, request).await;
        progress.ctx.hold(None);
        drop(ending);
        let usage = progress.ctx.take_usage();
        let receipt = Receipt {
            wall_us: micros(started.elapsed()),
            guest_memory_bytes: progress.memory_bytes as u64,
            tensor_bytes: progress.ctx.account().peak_bytes(),
            request_bytes,
            response_bytes: result.as_ref().map_or(0, |response| response.body.len() as u64),
            ..receipt(&usage, progress.polled, progress.waited)
        };
        Outcome { result, receipt }
    }

    async fn answer(&self, function: &Function, progress: Progress, request: Request) -> (Progress, Result<Response>) {
        let (mut progress, answer) = self.turn(function, progress, Turn::Begin(request)).await;
        let call = match answer {
            Ok(Answer::Respond(response)) => return (progress, Ok(response)),
            Ok(Answer::Run(call)) => call,
            Err(error) => return (progress, Err(error)),
        };
        // While the device works, other requests can use the place.
        progress.ctx.hold(None);
        let (deadline, limit_ms) = (progress.ctx.call().deadline, progress.ctx.call().limits.invocation_ms);
        let between = async {
            let finished = progress.ctx.run(call).await?;
            let asked = Instant::now();
            let pass = self.enter_again().await;
            progress.waited += asked.elapsed();
            Ok((finished, pass))
        };
        let (finished, pass) = match tokio::time::timeout_at(deadline.into(), between).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return (progress, Err(error)),
            Err(_) => return (progress, Err(too_late(limit_ms))),
        };
        progress.ctx.hold(Some(Arc::new(pass)));
        let (progress, answer) = self.turn(function, progress, Turn::Finish(finished)).await;
        let answer = answer.and_then(|answer| match answer {
            Answer::Respond(response) => Ok(response),
            Answer::Run(_) => Err(Error::new(Kind::Internal, "the second half of a pipeline asked for another run")),
        });
        (progress, answer)
    }

    /// Runs a fresh instance, until the deadline.
    async fn turn(&self, function: &Function, progress: Progress, turn: Turn) -> (Progress, Result<Answer>) {
        let Progress { ctx, mut polled, waited, memory_bytes } = progress;
        let (deadline, limit_ms) = (ctx.call().deadline, ctx.call().limits.invocation_ms);
        let mut store = self.store(ctx);
        let before = polled;
        function.lookout.begins();
        let answer = {
            let turn = function.program.turn(&mut store, function.init_first(), turn);
            let run = Metered { inner: pin!(turn), polled: &mut polled };
            tokio::time::timeout_at(deadline.into(), run).await
        };
        function.lookout.ended(polled - before);
        let (mut ctx, limiter) = taken_apart(store);
        let answer = match answer {
            Err(_) => Err(too_late(limit_ms)),
            Ok(Err(trap)) => Err(trapped(&trap, &ctx, &limiter)),
            Ok(Ok(answer)) => answer,
        };
        ctx.drop_handles();
        (Progress { ctx, polled, waited, memory_bytes: memory_bytes.max(limiter.memory_bytes) }, answer)
    }

    /// A store for one instance, under its limits.
    fn store(&self, ctx: Ctx) -> Store<State> {
        store(&self.engine, ctx)
    }
}

/// Drops an instance and so returns its pages to the kernel. For a large one that takes many milliseconds; meanwhile this
/// thread's other tasks move to another thread.
fn taken_apart(store: Store<State>) -> (Ctx, Limiter) {
    const LARGE: usize = 16 << 20;
    let large = store.data().limiter.memory_bytes > LARGE;
    let elsewhere = large && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    let end = || store.into_data().into_parts();
    if elsewhere { tokio::task::block_in_place(end) } else { end() }
}

fn too_late(most_ms: u64) -> Error {
    Error::deadline_exceeded(format!(
        "the handler did not answer within {most_ms} ms; make it faster or raise invocation_ms"
    ))
}

/// A store for one instance, under its limits.
pub(super) fn store(engine: &Engine, ctx: Ctx) -> Store<State> {
    let limits = ctx.call().limits.clone();
    let limiter = Limiter {
        largest_bytes: limits.guest_memory_bytes as usize,
        largest_table: limits.guest_table_elements as usize,
        ..Limiter::default()
    };
    let mut store = Store::new(engine, State { ctx, wasi: None, limiter });
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(limits.hostcall_bytes as usize);
    store.set_epoch_deadline(1);
    // tokio's own yield runs waiting tasks and polls the network first. A future that only wakes itself would keep its thread
    // from polling the network for some 60 rounds.
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
    store
}

impl State {
    /// The host's side and the guest's use of memory, after adding its output to the log.
    pub(super) fn into_parts(self) -> (Ctx, Limiter) {
        let State { ctx, wasi, limiter } = self;
        drop(wasi);
        (ctx, limiter)
    }
}

fn receipt(usage: &Usage, polled: Duration, waited: Duration) -> Receipt {
    Receipt {
        guest_us: micros(polled).saturating_sub(usage.inline_us),
        operators_us: usage.operators_us,
        model_us: usage.model_us,
        queue_us: usage.queue_us + micros(waited),
        model_runs: usage.model_runs,
        uploaded_bytes: usage.uploaded_bytes,
        downloaded_bytes: usage.downloaded_bytes,
        ..Receipt::default()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Why a guest trapped, as a message for its author: a panic's own message, the limit that was hit, or wasmtime's reason.
pub(super) fn trapped(trap: &wasmtime::Error, ctx: &Ctx, limiter: &Limiter) -> Error {
    if let Some(exit) = trap.downcast_ref::<I32Exit>() {
        return Error::handler_failed(format!("the handler exited with status {} instead of answering", exit.0));
    }
    let said = ctx.call().log.last_with("panicked at");
    let reason = match (&limiter.refused, said, trap.downcast_ref::<Trap>()) {
        (Some(refused), _, Some(Trap::UnreachableCodeReached)) => format!("the handler ran out of memory: {refused}"),
        (_, Some(said), _) => format!("the handler panicked: {said}"),
        (_, None, Some(Trap::StackOverflow)) => {
            "the handler's stack overflowed: its calls nest too deep; guest_stack_bytes bounds it".to_owned()
        }
        (_, None, Some(Trap::MemoryOutOfBounds)) => {
            "the handler trapped: memory access out of bounds; in Rust and C that is usually a stack that overflowed, \
             by calls that nest too deep or by large local arrays"
                .to_owned()
        }
        (_, None, Some(other)) => format!("the handler trapped: {other}"),
        (refused, None, None) => match (trap.root_cause().to_string(), refused) {
            // wasmtime has no error type for this.
            (cause, Some(refused)) if cause.contains("minimum size") => {
                format!("the handler's instance does not fit: {refused}")
            }
            (cause, _) if cause.contains("hostcalls") => {
                format!("the handler trapped: {cause}; hostcall_bytes bounds it")
            }
            (cause, _) => format!("the handler trapped: {cause}"),
        },
    };
    let backtrace = trap.downcast_ref::<wasmtime::WasmBacktrace>().map(|frames| frames.to_string());
    tracing::debug!(request = %ctx.call().request_id, "{reason}\n{}", backtrace.unwrap_or_default());
    Error::new(Kind::HandlerFailed, reason)
}

/// Stops the host's work when the invocation is over, however it ended.
struct EndOnDrop(crate::device::Stop);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Measures the time spent inside a future's polls.
struct Metered<'a, F> {
    inner: Pin<&'a mut F>,
    polled: &'a mut Duration,
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let started = Instant::now();
        let poll = self.inner.as_mut().poll(context);
        *self.polled += started.elapsed();
        poll
    }
}
