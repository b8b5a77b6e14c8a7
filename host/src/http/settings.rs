//! Settings of functions over HTTP: read, replaced, changed; it never shows the value of a secret.

use super::deployed::granted;
use super::routes::{Reply, Target, limited, ok};
use super::{App, to_the_end};
use crate::catalog::{Settings, SettingsChange};
use crate::error::{Error, Kind, Result};
use crate::interface::{GrantNames, Secret};
use axum::extract::State;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `GET /v1/functions/{name}/settings`
pub(super) async fn get(State(app): State<Arc<App>>, Target { tenant, name, .. }: Target) -> Reply {
    let settings = app.catalog.settings(&tenant, &name).await?;
    answer(&app, &tenant, &name, &settings).await
}

/// `PUT …/settings`: `grants`, `config` and `limits` replace what was there, `secrets` are added to it.
pub(super) async fn put(state: State<Arc<App>>, target: Target, request: axum::extract::Request) -> Reply {
    change(state, target, request, true).await
}

/// `PATCH …/settings`: everything is added to what was there; `null` and `revoke` remove.
pub(super) async fn patch(state: State<Arc<App>>, target: Target, request: axum::extract::Request) -> Reply {
    change(state, target, request, false).await
}

async fn change(
    State(app): State<Arc<App>>,
    Target { tenant, name, .. }: Target,
    request: axum::extract::Request,
    replace: bool,
) -> Reply {
    let limits = &app.config.limits;
    let bytes = limited(request, limits, "json_bytes", limits.json_bytes)?.collect().await?;
    let change = parse(&bytes, replace)?;
    let (worker, of, function) = (app.clone(), tenant.clone(), name.clone());
    let settings = to_the_end(async move {
        let settings = worker.catalog.change_settings(&of, &function, change).await?;
        let versions = worker.deployed.of(&of, |deployed| *deployed.name == *function);
        // From here on nothing that was taken back is granted.
        worker.deployed.renew(&of, &function);
        tracing::info!(tenant = of, name = function, "settings changed");
        worker.prepare_for_settings(versions, &settings).await;
        Ok(settings)
    })
    .await?;
    answer(&app, &tenant, &name, &settings).await
}

async fn answer(app: &App, tenant: &str, name: &str, settings: &Settings) -> Reply {
    let requested = app.catalog.function(tenant, name).await?.grants_requested;
    ok(&json!({
        "grants": settings.grants,
        "config": settings.config,
        "secrets": settings.secrets.keys().collect::<Vec<_>>(),
        "unreadable_secrets": settings.unreadable_secrets(),
        "limits": settings.limits,
        "missing_grants": requested.missing_from(&granted(&app.config, settings, &requested)),
        "grants_requested": requested,
    }))
}

/// What a function lacks of what one of its versions asks for.
pub(super) async fn missing_grants(app: &App, tenant: &str, name: &str, requested: &GrantNames) -> Result<GrantNames> {
    let settings = app.catalog.settings(tenant, name).await?;
    Ok(requested.missing_from(&granted(&app.config, &settings, requested)))
}

/// Reads the body. Its messages never quote a value, which may be a secret in the wrong place.
fn parse(bytes: &[u8], replace: bool) -> Result<SettingsChange> {
    let wrong = |what: &str| Error::invalid_argument(format!("the body's {what}"));
    let body: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Kind::Malformed, format!("the body is not the JSON of settings: {error}")))?;
    let Value::Object(members) = body else {
        return Err(Error::invalid_argument(
            "the body is no JSON object; write it like {\"config\": {\"key\": \"value\"}}",
        ));
    };
    let mut change = SettingsChange { replace, ..SettingsChange::default() };
    for (member, value) in members {
        const LISTS: &str = "holds lists of strings: models, config, secrets, hosts, and nothing else";
        match member.as_str() {
            "grants" => change.grants = Some(typed(value).ok_or_else(|| wrong(&format!("'grants' {LISTS}")))?),
            "revoke" if !replace => change.revoke = typed(value).ok_or_else(|| wrong(&format!("'revoke' {LISTS}")))?,
            "config" => {
                let values = typed(value);
                change.config =
                    Some(values.ok_or_else(|| wrong("'config' holds strings by key, or null to remove one"))?);
            }
            "limits" => {
                let values = typed(value);
                let what = "'limits' holds whole numbers by name, or null to remove one";
                change.limits = Some(values.ok_or_else(|| wrong(what))?);
            }
            "secrets" => {
                let values: Option<BTreeMap<String, Option<String>>> = typed(value);
                let values = values.ok_or_else(|| wrong("'secrets' holds strings by name, or null to remove one"))?;
                change.secrets = values.into_iter().map(|(name, value)| (name, value.map(Secret::new))).collect();
            }
            _ => {
                let member: String = member.chars().take(64).collect();
                let members = if replace { "" } else { "revoke, " };
                let message = format!("has '{member}', but settings are {members}grants, config, secrets and limits");
                return Err(Error::invalid_argument(format!("the body {message}")));
            }
        }
    }
    Ok(change)
}

fn typed<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_wrong_is_told_without_its_values() {
        for (body, part) in [
            (r#"["hunter2"]"#, "no JSON object"),
            (r#"{"secret": {"KEY": "hunter2"}}"#, "has 'secret'"),
            (r#"{"secrets": "hunter2"}"#, "'secrets' holds"),
            (r#"{"secrets": {"KEY": ["hunter2"]}}"#, "'secrets' holds"),
            (r#"{"config": {"KEY": 5}}"#, "'config' holds"),
            (r#"{"limits": {"tensor_bytes": "hunter2"}}"#, "'limits' holds"),
            (r#"{"limits": {"tensor_bytes": -1}}"#, "'limits' holds"),
            (r#"{"grants": {"hunter2": []}}"#, "'grants' holds"),
            (r#"{"revoke": {}}"#, "has 'revoke'"),
            (r#"{"secrets": {"KEY": "hunter2"}"#, "not the JSON"),
        ] {
            let message = parse(body.as_bytes(), true).unwrap_err().message().to_owned();
            assert!(message.contains(part) && !message.contains("hunter2"), "{body}: {message}");
        }
        let change =
            parse(br#"{"secrets": {"KEY": "hunter2", "OLD": null}, "revoke": {"models": ["m"]}}"#, false).unwrap();
        assert_eq!((change.secrets.len(), change.revoke.count(), change.config), (2, 1, None));
        assert!(!format!("{:?}", change.secrets).contains("hunter2"));
    }
}
