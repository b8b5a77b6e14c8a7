//! `hearth settings`: shows and changes what a function may use and how much; it never shows or takes a secret as an argument.

use super::Target;
use super::client::{Client, encode, full};
use super::output::{field, items, print, print_json, printable, table, word};
use crate::config::Limits;
use anyhow::{Context, Result, bail};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Map, Value, json};
use std::io::Read;

/// Arguments of `hearth settings`.
#[derive(Debug, clap::Args)]
pub struct Settings {
    /// The function
    name: String,
    /// Let it use a model: NAME covers all its versions, NAME@ALIAS only itself
    #[arg(long, value_name = "MODEL")]
    grant_model: Vec<String>,
    /// Let it send requests to a host
    #[arg(long, value_name = "HOST")]
    grant_host: Vec<String>,
    /// Set a key of its configuration
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Set a secret: to the environment variable of this name, or, where there is none, to what stdin says
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// Lower a limit, as in tensor_bytes=64MiB; `hearth status --json` marks those that a function may have
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
    /// Take back the grant of a model
    #[arg(long, value_name = "MODEL")]
    revoke_model: Vec<String>,
    /// Take back the grant of a host
    #[arg(long, value_name = "HOST")]
    revoke_host: Vec<String>,
    /// Remove a key of its configuration
    #[arg(long, value_name = "KEY")]
    remove_config: Vec<String>,
    /// Remove a secret
    #[arg(long, value_name = "NAME")]
    remove_secret: Vec<String>,
    /// Go back to the server's value of a limit
    #[arg(long, value_name = "NAME")]
    remove_limit: Vec<String>,
    #[command(flatten)]
    target: Target,
}

impl Settings {
    pub(super) async fn run(self) -> Result<()> {
        let client = Client::new(&self.target)?;
        let path = format!("/v1/functions/{}/settings", encode(&self.name));
        let patch = self.patch(|name| std::env::var(name).ok(), std::io::stdin())?;
        let value = match patch.is_empty() {
            true => client.get(&path).await?,
            false => {
                let mut headers = HeaderMap::new();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                client.call(Method::PATCH, &path, headers, full(Value::Object(patch).to_string())).await?
            }
        };
        match self.target.json {
            true => print_json(&value),
            false => print(&shown(&value)),
        }
    }

    /// The body of the change; empty where nothing is to be changed.
    fn patch(&self, environment: impl Fn(&str) -> Option<String>, mut stdin: impl Read) -> Result<Map<String, Value>> {
        let mut patch = Map::new();
        let mut lists = |member: &str, models: &[String], hosts: &[String]| {
            if !models.is_empty() || !hosts.is_empty() {
                patch.insert(member.to_owned(), json!({ "models": models, "hosts": hosts }));
            }
        };
        lists("grants", &self.grant_model, &self.grant_host);
        lists("revoke", &self.revoke_model, &self.revoke_host);
        let mut values = |member: &str, set: Vec<(String, Value)>, removed: &[String]| {
            let removed = removed.iter().map(|key| (key.clone(), Value::Null));
            let all: Map<String, Value> = removed.chain(set).collect();
            if !all.is_empty() {
                patch.insert(member.to_owned(), Value::Object(all));
            }
        };
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), json!(value))),
            None => bail!("--config '{text}' is not KEY=VALUE"),
        };
        values("config", self.config.iter().map(pair).collect::<Result<_>>()?, &self.remove_config);
        let limit = |text: &String| Limits::parse(text).map(|(name, value)| (name, json!(value)));
        values("limits", self.limits.iter().map(limit).collect::<Result<_, _>>()?, &self.remove_limit);
        let mut secrets = Vec::new();
        let mut from_stdin: Option<&str> = None;
        for name in &self.secret {
            let value = match (environment(name), from_stdin.replace(name)) {
                (Some(value), before) => {
                    from_stdin = before;
                    value
                }
                (None, Some(before)) => {
                    bail!("stdin has one value, for '{before}'; put that of '{name}' into an environment variable")
                }
                (None, None) => {
                    let mut text = String::new();
                    stdin.read_to_string(&mut text).with_context(|| format!("reading the secret '{name}'"))?;
                    // What `echo` and editors add is not part of it.
                    text.strip_suffix('\n')
                        .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
                        .unwrap_or(text)
                }
            };
            secrets.push((name.clone(), json!(value)));
        }
        values("secrets", secrets, &self.remove_secret);
        Ok(patch)
    }
}

/// The settings as a table, and what is missing below it.
fn shown(value: &Value) -> String {
    let mut rows = Vec::new();
    let grants = value.get("grants").unwrap_or(&Value::Null);
    for (kind, list) in [("model", "models"), ("host", "hosts"), ("config", "config"), ("secret", "secrets")] {
        rows.extend(items(grants, list).iter().map(|name| vec![format!("{kind} granted"), word(name), String::new()]));
    }
    for (kind, member) in [("config", "config"), ("limit", "limits")] {
        for (key, value) in value.get(member).and_then(Value::as_object).into_iter().flatten() {
            rows.push(vec![kind.to_owned(), key.clone(), word(value)]);
        }
    }
    let unreadable: Vec<String> = items(value, "unreadable_secrets").iter().map(word).collect();
    for name in items(value, "secrets").iter().map(word) {
        let note = if unreadable.contains(&name) { "cannot be read; set it again" } else { "set" };
        rows.push(vec!["secret".to_owned(), name, note.to_owned()]);
    }
    let mut text = match rows.is_empty() {
        true => "nothing is set\n".to_owned(),
        false => table(&["KIND", "NAME", "VALUE"], &rows),
    };
    let missing = value.get("missing_grants").unwrap_or(&Value::Null);
    for kind in ["models", "config", "secrets", "hosts"] {
        if !items(missing, kind).is_empty() {
            text.push_str(&format!("it cannot run before it is granted {kind} {}\n", printable(&field(missing, kind))));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    fn patch(arguments: &str, stdin: &str) -> Result<Value> {
        let all = ["settings", "f"].into_iter().chain(arguments.split_whitespace());
        let environment = |name: &str| (name == "IN_ENV").then(|| "from env".to_owned());
        Program::parse_from(all).settings.patch(environment, stdin.as_bytes()).map(Value::Object)
    }

    #[test]
    fn arguments_become_one_change() {
        assert_eq!(patch("", "").unwrap(), json!({}));
        let all = "--grant-model m --grant-host h --revoke-host g --config a=b=c --limit tensor-bytes=2KiB \
                   --remove-config d --remove-limit log_bytes --secret IN_ENV --secret KEY --remove-secret OLD";
        let expected = json!({
            "grants": {"models": ["m"], "hosts": ["h"]}, "revoke": {"models": [], "hosts": ["g"]},
            "config": {"a": "b=c", "d": null}, "limits": {"tensor_bytes": 2048, "log_bytes": null},
            "secrets": {"IN_ENV": "from env", "KEY": "from stdin", "OLD": null},
        });
        assert_eq!(patch(all, "from stdin\r\n").unwrap(), expected);
        for (arguments, part) in [
            ("--config a", "KEY=VALUE"),
            ("--limit a=b", "no number"),
            ("--secret A --secret B", "stdin has one value"),
        ] {
            let error = patch(arguments, "").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn settings_are_shown_without_secrets() {
        let value = json!({
            "grants": {"models": ["m"]}, "config": {"a": "b"}, "limits": {"log_bytes": 5}, "secrets": ["K", "L"],
            "unreadable_secrets": ["L"], "missing_grants": {"models": [], "hosts": ["h"]},
        });
        let text = shown(&value);
        assert!(text.contains("L          cannot be read; set it again\n"), "{text}");
        assert!(text.ends_with("it cannot run before it is granted hosts h\n"), "{text}");
        assert_eq!(shown(&json!({})), "nothing is set\n");
    }
}
