//! `hearth functions` and `hearth status`: print the server's answers as tables; they never change anything.

use super::Target;
use super::client::Client;
use super::output::{bytes, print, print_json, printable, short_digest, table};
use crate::api::{self, EngineState, FunctionItem, FunctionList, LimitValue, ModelState};
use anyhow::Result;

/// Arguments of `hearth functions`.
#[derive(Debug, clap::Args)]
pub struct Functions {
    #[command(flatten)]
    target: Target,
}

/// Arguments of `hearth status`.
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    target: Target,
}

impl Functions {
    pub(super) async fn run(self) -> Result<()> {
        let value: FunctionList = Client::new(&self.target)?.get("/v1/functions").await?;
        if self.target.json {
            return print_json(&value);
        }
        let row = |FunctionItem { summary, .. }: &FunctionItem| {
            vec![
                summary.name.clone(),
                summary.version.to_string(),
                summary.world.clone(),
                bytes(summary.bytes),
                short_digest(&summary.digest),
                summary.created_at.clone(),
            ]
        };
        let rows: Vec<_> = value.functions.iter().map(row).collect();
        let mut text = table(&["NAME", "VERSION", "WORLD", "SIZE", "DIGEST", "CREATED"], &rows);
        for FunctionItem { summary, without_snapshot } in &value.functions {
            if let Some(reason) = without_snapshot {
                let (name, reason) = (printable(&summary.name), printable(reason));
                text.push_str(&format!(
                    "\n{name}: init runs for every request, because no snapshot can be taken: {reason}\n"
                ));
            }
        }
        print(&text)
    }
}

impl Status {
    pub(super) async fn run(self) -> Result<()> {
        // A server has one status for all tenants.
        let target = Target { tenant: super::client::DEFAULT_TENANT.to_owned(), ..self.target };
        let client = Client::new(&target)?;
        let status: api::Status = client.get("/v1/status").await?;
        if target.json {
            return print_json(&status);
        }
        let mut text = format!("hearth {} at {}\n\n", printable(&status.version), client.url(""));
        text.push_str(&table(&["", ""], &facts(&status)).split_off(1));
        let row = |EngineState { name, version, reason, .. }: &EngineState| {
            vec![name.to_string(), version.clone().unwrap_or_default(), reason.clone().unwrap_or_default()]
        };
        let engines: Vec<_> = status.engines.iter().map(row).collect();
        if !engines.is_empty() {
            text.push('\n');
            text.push_str(&table(&["ENGINE", "VERSION", "UNAVAILABLE BECAUSE"], &engines));
        }
        let row = |model: &ModelState| {
            vec![
                model.name.clone(),
                model.engine.to_string(),
                model.state.as_str().to_owned(),
                bytes(model.bytes),
                model.runs.to_string(),
                model.leases.to_string(),
                short_digest(&model.digest),
            ]
        };
        let models: Vec<_> = status.models.iter().map(row).collect();
        if !models.is_empty() {
            text.push('\n');
            text.push_str(&table(&["MODEL", "ENGINE", "STATE", "SIZE", "RUNS", "LEASES", "DIGEST"], &models));
        }
        let row = |limit: &LimitValue| {
            let default = match limit.value == limit.default {
                true => String::new(),
                false => as_limit(&limit.name, limit.default),
            };
            let reason = limit.reason.split_whitespace().collect::<Vec<_>>().join(" ");
            vec![limit.name.clone(), as_limit(&limit.name, limit.value), default, reason]
        };
        let limits: Vec<_> = status.limits.iter().map(row).collect();
        if !limits.is_empty() {
            text.push('\n');
            text.push_str(&table(&["LIMIT", "VALUE", "DEFAULT", "MEANING"], &limits));
        }
        print(&text)
    }
}

/// Everything except the lists, one line each.
fn facts(status: &api::Status) -> Vec<Vec<String>> {
    let api::Status { uptime_s, device, reading_is_confined, invocations, uploads, .. } = status;
    let mut rows = vec![
        ("uptime s".to_owned(), uptime_s.to_string()),
        ("device name".to_owned(), device.name.clone()),
        ("device budget".to_owned(), bytes(device.budget_bytes)),
        ("device used".to_owned(), bytes(device.used_bytes)),
        ("device peak".to_owned(), bytes(device.peak_bytes)),
    ];
    rows.extend(device.used_by.iter().map(|(kind, used)| (format!("device used by {kind}"), bytes(*used))));
    rows.extend([
        ("invocations running".to_owned(), invocations.running.to_string()),
        ("invocations waiting".to_owned(), invocations.waiting.to_string()),
        ("uploads open".to_owned(), uploads.open.to_string()),
        ("uploads".to_owned(), bytes(uploads.bytes)),
        ("reading is confined".to_owned(), reading_is_confined.to_string()),
    ]);
    rows.into_iter().map(|(name, value)| vec![name, value]).collect()
}

/// A limit's value in the form for `--limit`.
fn as_limit(name: &str, count: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let exact = units.iter().find(|(_, unit)| count >= *unit && count.is_multiple_of(*unit));
    match exact {
        Some((unit, size)) if name.ends_with("_bytes") => format!("{}{unit}", count / size),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_printed_as_they_can_be_set() {
        for (name, value, text) in [
            ("body_bytes", 64_u64 << 20, "64MiB"),
            ("body_bytes", 3072, "3KiB"),
            ("body_bytes", 1537, "1537"),
            ("device_bytes", 4096 << 30, "4096GiB"),
            ("yield_ms", 1024, "1024"),
        ] {
            assert_eq!(as_limit(name, value), text);
        }
    }
}
