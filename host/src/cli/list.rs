//! `hearth functions` and `hearth status`: tables of what the server says; they never change anything.

use super::Target;
use super::client::Client;
use super::output::{bytes, field, items, print, print_json, printable, short_digest, size, table, word};
use anyhow::Result;
use serde_json::Value;

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
        let value = Client::new(&self.target)?.get("/v1/functions").await?;
        if self.target.json {
            return print_json(&value);
        }
        let row = |function: &Value| {
            let of = |key| field(function, key);
            vec![
                of("name"),
                of("version"),
                of("world"),
                size(function, "bytes"),
                short_digest(function),
                of("created_at"),
            ]
        };
        let functions = items(&value, "functions");
        let rows: Vec<_> = functions.iter().map(row).collect();
        let mut text = table(&["NAME", "VERSION", "WORLD", "SIZE", "DIGEST", "CREATED"], &rows);
        for (name, reason) in functions.iter().filter_map(without_snapshot) {
            text.push_str(&format!(
                "\n{name}: init runs for every request, because no snapshot can be taken: {reason}\n"
            ));
        }
        print(&text)
    }
}

/// A function's name, and why its init has no snapshot, where it is in use and has none.
fn without_snapshot(function: &Value) -> Option<(String, String)> {
    let reason = function.get("without_snapshot")?.as_str()?;
    Some((printable(&field(function, "name")), printable(reason)))
}

impl Status {
    pub(super) async fn run(self) -> Result<()> {
        // A server has one status, whatever tenants it has.
        let target = Target { tenant: super::client::DEFAULT_TENANT.to_owned(), ..self.target };
        let client = Client::new(&target)?;
        let value = client.get("/v1/status").await?;
        if target.json {
            return print_json(&value);
        }
        let mut text = format!("hearth {} at {}\n\n", printable(&field(&value, "version")), client.url(""));
        text.push_str(&table(&["", ""], &facts(&value)).split_off(1));
        let row = |engine: &Value| {
            let of = |key| printable(&field(engine, key));
            vec![of("name"), of("version"), of("reason")]
        };
        let engines: Vec<_> = items(&value, "engines").iter().map(row).collect();
        if !engines.is_empty() {
            text.push('\n');
            text.push_str(&table(&["ENGINE", "VERSION", "NOT THERE BECAUSE"], &engines));
        }
        let row = |model: &Value| {
            let of = |key| field(model, key);
            vec![
                of("name"),
                of("engine"),
                of("state"),
                size(model, "bytes"),
                of("runs"),
                of("leases"),
                short_digest(model),
            ]
        };
        let models: Vec<_> = items(&value, "models").iter().map(row).collect();
        if !models.is_empty() {
            text.push('\n');
            text.push_str(&table(&["MODEL", "ENGINE", "STATE", "SIZE", "RUNS", "LEASES", "DIGEST"], &models));
        }
        let row = |limit: &Value| {
            let (name, number) = (field(limit, "name"), |key| limit_value(limit, key));
            let reason = field(limit, "reason").split_whitespace().collect::<Vec<_>>().join(" ");
            let default = if limit.get("value") == limit.get("default") { String::new() } else { number("default") };
            vec![name, number("value"), default, reason]
        };
        let limits: Vec<_> = items(&value, "limits").iter().map(row).collect();
        if !limits.is_empty() {
            text.push('\n');
            text.push_str(&table(&["LIMIT", "VALUE", "DEFAULT", "MEANING"], &limits));
        }
        print(&text)
    }
}

/// Everything but the lists, one line each; what is nested has its path as name.
fn facts(value: &Value) -> Vec<Vec<String>> {
    fn add(name: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
        match value {
            Value::Object(fields) => {
                for (key, inner) in fields {
                    add(&format!("{name} {key}"), inner, rows);
                }
            }
            Value::Array(_) | Value::Null => {}
            _ => {
                let shown = match value.as_u64() {
                    Some(count) if is_bytes(name) => bytes(count),
                    _ => word(value),
                };
                rows.push(vec![name.trim_end_matches("_bytes").replace('_', " "), shown]);
            }
        }
    }
    let mut rows = Vec::new();
    for (key, inner) in value.as_object().into_iter().flatten() {
        if key != "version" {
            add(key, inner, &mut rows);
        }
    }
    rows
}

fn is_bytes(name: &str) -> bool {
    name.ends_with("_bytes") || name.contains(" used_by ")
}

/// A limit's number as `--limit` takes it.
fn limit_value(limit: &Value, key: &str) -> String {
    let Some(count) = limit.get(key).and_then(Value::as_u64) else { return String::new() };
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let exact = units.iter().find(|(_, unit)| count >= *unit && count.is_multiple_of(*unit));
    match exact {
        Some((unit, size)) if field(limit, "name").ends_with("_bytes") => format!("{}{unit}", count / size),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_are_what_is_no_list() {
        let value = json!({
            "version": "1", "uptime_s": 5, "limits": [], "device": {"name": "cpu", "used_bytes": 2048, "used_by": {"model": 1024}},
        });
        let mut facts = facts(&value);
        facts.sort();
        let expected = [
            ["device name", "cpu"],
            ["device used", "2.0 KiB"],
            ["device used by model", "1.0 KiB"],
            ["uptime s", "5"],
        ];
        assert_eq!(facts, expected);
    }

    #[test]
    fn limits_are_printed_as_they_can_be_set() {
        for (name, value, text) in [
            ("body_bytes", 64_u64 << 20, "64MiB"),
            ("body_bytes", 3072, "3KiB"),
            ("body_bytes", 1537, "1537"),
            ("device_bytes", 4096 << 30, "4096GiB"),
            ("yield_ms", 1024, "1024"),
        ] {
            let shown = limit_value(&json!({"name": name, "value": value}), "value");
            assert_eq!(shown, text);
        }
    }
}
