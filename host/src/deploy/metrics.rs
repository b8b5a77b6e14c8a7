//! Numbers for Prometheus; never a decision.

use crate::error::{Error, Kind};
use crate::model::{ModelState, Residency};
use crate::sandbox::Receipt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::time::Duration;

/// Upper bounds of the histogram of invocations, from a warm echo to a long batch.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// The recorder of one server; servers in one process have one each.
pub(super) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// The numbers of one function.
pub(super) struct FunctionMetrics {
    function: metrics::SharedString,
    ok: metrics::Counter,
    seconds: metrics::Histogram,
    model_runs: metrics::Counter,
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        // Without buckets the exporter keeps every sample until it is scraped.
        let recorder = match PrometheusBuilder::new().set_buckets(SECONDS) {
            Ok(builder) => builder.build_recorder(),
            Err(_) => PrometheusBuilder::new().build_recorder(),
        };
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::describe_counter!("hearth_invocations_total", "Invocations by function and how they ended");
            metrics::describe_counter!("hearth_model_runs_total", "Model runs by function");
            metrics::describe_histogram!(
                "hearth_invocation_seconds",
                metrics::Unit::Seconds,
                "Time from the start of an invocation to its answer"
            );
            metrics::describe_gauge!("hearth_device_bytes", metrics::Unit::Bytes, "Bytes in use on the device");
            metrics::describe_gauge!(
                "hearth_models_staged",
                "Models not loaded whose prepared forms lie in host memory"
            );
            metrics::describe_gauge!("hearth_models_resident", "Models in the device's memory");
            metrics::describe_counter!("hearth_model_loads_total", "Loads of models into the device's memory");
            metrics::describe_counter!("hearth_model_evictions_total", "Models that made room for others");
            metrics::describe_gauge!("hearth_invocations_running", "Invocations that run now");
            metrics::describe_gauge!("hearth_invocations_waiting", "Invocations that wait for an instance now");
        });
        Metrics { recorder, handle }
    }

    /// The numbers of one function, to be kept with it: looking them up costs more than counting.
    pub(super) fn function(&self, tenant: &str, name: &str) -> FunctionMetrics {
        let function = if tenant == "default" { name.to_owned() } else { format!("{tenant}/{name}") };
        let function = metrics::SharedString::from(function);
        metrics::with_local_recorder(&self.recorder, || FunctionMetrics {
            ok: metrics::counter!("hearth_invocations_total", "function" => function.clone(), "outcome" => "ok"),
            seconds: metrics::histogram!("hearth_invocation_seconds", "function" => function.clone()),
            model_runs: metrics::counter!("hearth_model_runs_total", "function" => function.clone()),
            function,
        })
    }

    /// Counts one invocation, by the error that was answered, if any.
    pub(super) fn invocation(&self, of: &FunctionMetrics, error: Option<&Error>, receipt: &Receipt) {
        match error {
            None => of.ok.increment(1),
            Some(error) => self.ended(of, error.kind().as_str()),
        }
        of.seconds.record(receipt.wall_us as f64 / 1e6);
        if receipt.model_runs > 0 {
            of.model_runs.increment(receipt.model_runs);
        }
    }

    /// Counts one invocation whose client went away before it was answered, after this time.
    pub(super) fn cancelled(&self, of: &FunctionMetrics, after: Duration) {
        self.ended(of, Kind::Cancelled.as_str());
        of.seconds.record(after.as_secs_f64());
    }

    fn ended(&self, of: &FunctionMetrics, outcome: &'static str) {
        metrics::with_local_recorder(&self.recorder, || {
            let function = of.function.clone();
            metrics::counter!("hearth_invocations_total", "function" => function, "outcome" => outcome).increment(1);
        });
    }

    /// Everything in Prometheus' text format.
    pub(super) fn render(&self, device_bytes: u64, running: u64, waiting: u64, models: &[ModelState]) -> String {
        metrics::with_local_recorder(&self.recorder, || {
            metrics::gauge!("hearth_device_bytes").set(device_bytes as f64);
            metrics::gauge!("hearth_invocations_running").set(running as f64);
            metrics::gauge!("hearth_invocations_waiting").set(waiting as f64);
            let count = |of: fn(&ModelState) -> u64| models.iter().map(of).sum::<u64>();
            let are = |wanted| models.iter().filter(|state| state.state == wanted).count() as f64;
            metrics::gauge!("hearth_models_staged").set(are(Residency::Staged));
            metrics::gauge!("hearth_models_resident").set(are(Residency::Resident));
            metrics::counter!("hearth_model_loads_total").absolute(count(|state| state.loads));
            metrics::counter!("hearth_model_evictions_total").absolute(count(|state| state.evictions));
        });
        self.handle.run_upkeep();
        self.handle.render()
    }
}
