//! Settings of functions over HTTP: read, replaced, changed; it never shows the value of a secret.

use super::app::{App, Reply};
use super::extract::{Named, json_bytes};
use crate::api::{ErrorBody, Settings, SettingsPatch};
use crate::catalog::SettingsChange;
use crate::error::{Error, Kind, Result};
use crate::interface::Secret;
use axum::Json;
use axum::extract::{Request, State};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Shows the settings of a function.
#[utoipa::path(
    get, path = "/v1/functions/{name}/settings", tag = "functions",
    params(("name" = String, Path, description = "the function")),
    responses((status = 200, body = Settings), (status = 404, body = ErrorBody)),
)]
pub(super) async fn get(State(app): State<Arc<App>>, Named { tenant, name, .. }: Named) -> Reply<Settings> {
    Ok(Json(app.deployments.settings(&tenant, &name).await?))
}

/// Replaces grants, config and limits of a function, and adds secrets.
#[utoipa::path(
    put, path = "/v1/functions/{name}/settings", tag = "functions", request_body = SettingsPatch,
    params(("name" = String, Path, description = "the function")),
    responses((status = 200, body = Settings), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)),
)]
pub(super) async fn put(state: State<Arc<App>>, named: Named, request: Request) -> Reply<Settings> {
    change(state, named, request, true).await
}

/// Adds to the settings of a function; null and `revoke` remove.
#[utoipa::path(
    patch, path = "/v1/functions/{name}/settings", tag = "functions", request_body = SettingsPatch,
    params(("name" = String, Path, description = "the function")),
    responses((status = 200, body = Settings), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)),
)]
pub(super) async fn patch(state: State<Arc<App>>, named: Named, request: Request) -> Reply<Settings> {
    change(state, named, request, false).await
}

async fn change(
    State(app): State<Arc<App>>,
    Named { tenant, name, .. }: Named,
    request: Request,
    replace: bool,
) -> Reply<Settings> {
    let change = parse(&json_bytes(request, &app).await?, replace)?;
    Ok(Json(app.deployments.change_settings(&tenant, &name, change).await?))
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
