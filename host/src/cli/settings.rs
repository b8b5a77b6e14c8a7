//! `hearth settings`: shows and changes a function's grants, configuration, secrets and limits; it never shows a secret or takes
//! one as an argument.

use super::Target;
use super::client::{Client, encode};
use super::output::{print, print_json, printable, table};
use crate::api::{self, GrantNames, SettingsPatch};
use crate::config::Limits;
use anyhow::{Context, Result, bail};
use http::Method;
use std::collections::BTreeMap;
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
    /// Set a secret, to the value of the environment variable of this name or, without one, to the text from stdin
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// Lower a limit, as in tensor_bytes=64MiB; `hearth status --json` marks the limits that a function may lower
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
    /// Revoke the grant of a model
    #[arg(long, value_name = "MODEL")]
    revoke_model: Vec<String>,
    /// Revoke the grant of a host
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
        let value: api::Settings = match patch == SettingsPatch::default() {
            true => client.get(&path).await?,
            false => client.send_json(Method::PATCH, &path, &patch).await?,
        };
        match self.target.json {
            true => print_json(&value),
            false => print(&shown(&value)),
        }
    }

    /// The body of the change; the default if nothing changes.
    fn patch(&self, environment: impl Fn(&str) -> Option<String>, mut stdin: impl Read) -> Result<SettingsPatch> {
        let names = |models: &[String], hosts: &[String]| {
            let [models, hosts] = [models, hosts].map(|names| names.iter().cloned().collect());
            let names = GrantNames { models, hosts, ..GrantNames::default() };
            (!names.is_empty()).then_some(names)
        };
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => bail!("--config '{text}' is not KEY=VALUE"),
        };
        let config = self.config.iter().map(pair).collect::<Result<Vec<_>>>()?;
        let limits = self.limits.iter().map(|text| Limits::parse(text));
        let limits = limits.map(|limit| limit.map(|(name, value)| (name.to_string(), value)));
        let limits = limits.collect::<Result<Vec<_>, _>>()?;
        let secrets = self.secrets(environment, &mut stdin)?;
        Ok(SettingsPatch {
            grants: names(&self.grant_model, &self.grant_host),
            revoke: names(&self.revoke_model, &self.revoke_host),
            config: values(config, &self.remove_config),
            secrets: values(secrets, &self.remove_secret),
            limits: values(limits, &self.remove_limit),
        })
    }

    /// The secrets to set, by name.
    fn secrets(
        &self,
        environment: impl Fn(&str) -> Option<String>,
        stdin: &mut impl Read,
    ) -> Result<Vec<(String, String)>> {
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
                    // The newline that `echo` and editors add is not part of it.
                    text.strip_suffix('\n')
                        .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
                        .unwrap_or(text)
                }
            };
            secrets.push((name.clone(), value));
        }
        Ok(secrets)
    }
}

/// The values to set and remove, if there are any.
fn values<V>(set: Vec<(String, V)>, removed: &[String]) -> Option<BTreeMap<String, Option<V>>> {
    let removed = removed.iter().map(|key| (key.clone(), None));
    let all: BTreeMap<_, _> = removed.chain(set.into_iter().map(|(key, value)| (key, Some(value)))).collect();
    (!all.is_empty()).then_some(all)
}

/// The settings as a table, followed by the missing grants.
fn shown(settings: &api::Settings) -> String {
    let api::Settings { grants, config, secrets, unreadable_secrets, limits, missing_grants, .. } = settings;
    let mut rows = Vec::new();
    let granted =
        [("model", &grants.models), ("host", &grants.hosts), ("config", &grants.config), ("secret", &grants.secrets)];
    for (kind, names) in granted {
        rows.extend(names.iter().map(|name| vec![format!("{kind} granted"), name.clone(), String::new()]));
    }
    rows.extend(config.iter().map(|(key, value)| vec!["config".to_owned(), key.clone(), value.clone()]));
    rows.extend(limits.iter().map(|(name, value)| vec!["limit".to_owned(), name.clone(), value.to_string()]));
    for name in secrets {
        let note = if unreadable_secrets.contains(name) { "cannot be read; set it again" } else { "set" };
        rows.push(vec!["secret".to_owned(), name.clone(), note.to_owned()]);
    }
    let mut text = match rows.is_empty() {
        true => "nothing is set\n".to_owned(),
        false => table(&["KIND", "NAME", "VALUE"], &rows),
    };
    for (kind, names) in missing_grants.lists().into_iter().filter(|(_, names)| !names.is_empty()) {
        let names = names.iter().cloned().collect::<Vec<_>>().join(", ");
        text.push_str(&format!("it cannot run before it is granted {kind} {}\n", printable(&names)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::{Value, json};

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        settings: Settings,
    }

    fn patch(arguments: &str, stdin: &str) -> Result<Value> {
        let all = ["settings", "f"].into_iter().chain(arguments.split_whitespace());
        let environment = |name: &str| (name == "IN_ENV").then(|| "from env".to_owned());
        Ok(serde_json::to_value(Program::parse_from(all).settings.patch(environment, stdin.as_bytes())?)?)
    }

    #[test]
    fn arguments_become_one_change() {
        assert_eq!(patch("", "").unwrap(), json!({}));
        let all = "--grant-model m --grant-host h --revoke-host g --config a=b=c --limit tensor-bytes=2KiB \
                   --remove-config d --remove-limit log_bytes --secret IN_ENV --secret KEY --remove-secret OLD";
        let expected = json!({
            "grants": {"models": ["m"], "hosts": ["h"], "config": [], "secrets": []},
            "revoke": {"models": [], "hosts": ["g"], "config": [], "secrets": []},
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
        let settings = serde_json::from_value(json!({
            "grants": {"models": ["m"]}, "config": {"a": "b"}, "limits": {"log_bytes": 5}, "secrets": ["K", "L"],
            "unreadable_secrets": ["L"], "grants_requested": {}, "missing_grants": {"models": [], "hosts": ["h"]},
        }));
        let text = shown(&settings.unwrap());
        assert!(text.contains("L          cannot be read; set it again\n"), "{text}");
        assert!(text.ends_with("it cannot run before it is granted hosts h\n"), "{text}");
        assert_eq!(shown(&api::Settings::default()), "nothing is set\n");
    }
}
