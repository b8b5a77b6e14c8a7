//! Settings of functions: grants, configuration, secrets, limits; it never grants anything by itself.

use super::names::{Selector, check_host, check_key};
use super::vault::Place;
use super::versions::Versions;
use super::{Catalog, Inner, database, decode, encode};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::interface::{GrantNames, Secret};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use std::collections::BTreeMap;

/// The settings of a function, for all its versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Its grants, besides the keys and secrets that have a value below.
    pub grants: GrantNames,
    /// Its configuration.
    pub config: BTreeMap<String, String>,
    /// Its secrets. `None` where the value does not open: it was sealed with another node key, or is damaged.
    pub secrets: BTreeMap<String, Option<Secret>>,
    /// The limits that it lowers.
    pub limits: BTreeMap<String, u64>,
}

/// A change of settings. In maps, `None` removes a key.
#[derive(Clone, Debug, Default)]
pub struct SettingsChange {
    /// Whether `grants`, `config` and `limits`, where given, replace the stored ones. Otherwise they are added to them.
    pub replace: bool,
    /// Grants to add.
    pub grants: Option<GrantNames>,
    /// Grants to remove.
    pub revoke: GrantNames,
    /// Configuration to set.
    pub config: Option<BTreeMap<String, Option<String>>>,
    /// Secrets to set; the others are always kept.
    pub secrets: BTreeMap<String, Option<Secret>>,
    /// Limits to lower.
    pub limits: Option<BTreeMap<String, Option<u64>>>,
}

/// The JSON in the column `detail`.
#[derive(Serialize, Deserialize)]
struct Detail {
    grants: GrantNames,
    config: BTreeMap<String, String>,
    limits: BTreeMap<String, u64>,
}

impl Settings {
    /// Everything that these settings grant: a key or secret with a value is granted by it.
    pub fn granted(&self) -> GrantNames {
        let mut granted = self.grants.clone();
        granted.config.extend(self.config.keys().cloned());
        granted.secrets.extend(self.secrets.keys().cloned());
        granted
    }

    /// Secrets that must be set again, since their value does not open.
    pub fn unreadable_secrets(&self) -> Vec<&str> {
        self.secrets.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect()
    }

    fn apply(&mut self, change: SettingsChange) {
        let SettingsChange { replace, grants, revoke, config, secrets, limits } = change;
        if let Some(grants) = grants {
            if replace {
                self.grants = GrantNames::default();
            }
            self.grants.add(&grants);
        }
        self.grants.remove(&revoke);
        // A value implies a grant, so revoking the grant removes the value.
        self.config.retain(|key, _| !revoke.config.contains(key));
        self.secrets.retain(|name, _| !revoke.secrets.contains(name));
        merge(&mut self.config, config, replace);
        merge(&mut self.limits, limits, replace);
        for (name, value) in secrets {
            match value {
                Some(value) => drop(self.secrets.insert(name, Some(value))),
                None => drop(self.secrets.remove(&name)),
            }
        }
    }

    fn check_size(&self, limits: &Limits) -> Result<()> {
        let count = (self.grants.count() + self.config.len() + self.secrets.len()) as u64;
        let most = limits.settings_entries;
        if count > most {
            let message =
                format!("the function would have {count} grants, keys and secrets; settings_entries is {most}");
            return Err(Error::too_large(message));
        }
        Ok(())
    }
}

fn merge<V>(there: &mut BTreeMap<String, V>, change: Option<BTreeMap<String, Option<V>>>, replace: bool) {
    let Some(change) = change else { return };
    if replace {
        there.clear();
    }
    for (key, value) in change {
        match value {
            Some(value) => drop(there.insert(key, value)),
            None => drop(there.remove(&key)),
        }
    }
}

impl SettingsChange {
    /// Checks names, sizes and limits against the server's.
    fn check(&self, limits: &Limits) -> Result<()> {
        for (what, grants) in [("grants", self.grants.as_ref()), ("revoke", Some(&self.revoke))] {
            if let Some(grants) = grants {
                check_grants(what, grants, limits)?;
            }
        }
        let fits = |what: &str, value: &str| {
            if value.len() as u64 > limits.setting_bytes {
                let message =
                    format!("{what} has {} bytes; setting_bytes allows {}", value.len(), limits.setting_bytes);
                return Err(Error::too_large(message));
            }
            if value.contains('\0') {
                return Err(Error::invalid_argument(format!("{what} has a NUL character, which no value may have")));
            }
            Ok(())
        };
        for (key, value) in self.config.iter().flatten() {
            check_key("configuration key", key, limits)?;
            fits(&format!("the value of '{key}'"), value.as_deref().unwrap_or_default())?;
        }
        for (name, value) in &self.secrets {
            check_key("name of a secret", name, limits)?;
            fits(&format!("the secret '{name}'"), value.as_ref().map_or("", Secret::expose))?;
        }
        for (name, value) in self.limits.iter().flatten() {
            if let Some(value) = value {
                limits.check_lowered(name, *value)?;
            }
        }
        Ok(())
    }
}

/// Checks names that are granted or requested. `what` says where they are from.
///
/// Errors: `invalid-argument` for an invalid name, `too-large` for too many names.
pub fn check_grants(what: &str, names: &GrantNames, limits: &Limits) -> Result<()> {
    let (count, most) = (names.count() as u64, limits.settings_entries);
    if count > most {
        return Err(Error::too_large(format!("{what} names {count} things; settings_entries allows {most}")));
    }
    let check = || {
        names.models.iter().try_for_each(|model| Selector::parse(model, limits).map(drop))?;
        names.config.iter().try_for_each(|key| check_key("configuration key", key, limits))?;
        names.secrets.iter().try_for_each(|name| check_key("name of a secret", name, limits))?;
        names.hosts.iter().try_for_each(|host| check_host(host))
    };
    check().map_err(|error| error.context(what))
}

impl Catalog {
    /// The settings of a function; empty if none were stored. Reads the database.
    ///
    /// Errors: `not-found` where there is no such function.
    pub async fn settings(&self, tenant: &str, name: &str) -> Result<Settings> {
        let failed = |error| database("reading settings", error);
        let mut transaction = self.inner.functions.pool.begin().await.map_err(failed)?;
        read(&self.inner, &mut transaction, tenant, name).await
    }

    /// Changes the settings of a function and gives the new ones. On return they are durable.
    ///
    /// Errors: `not-found` where there is no such function; `invalid-argument` and `too-large` for what is set.
    pub async fn change_settings(&self, tenant: &str, name: &str, change: SettingsChange) -> Result<Settings> {
        change.check(&self.inner.limits)?;
        let (inner, tenant, name) = self.owned(tenant, name);
        self.change(async move {
            let failed = |error| database("storing settings", error);
            let mut transaction = inner.functions.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
            let mut settings = read(&inner, &mut transaction, &tenant, &name).await?;
            let revoked = change.revoke.secrets.iter().map(|name| (name.clone(), None));
            let mut secrets: BTreeMap<_, _> = revoked.collect();
            secrets.extend(change.secrets.clone());
            settings.apply(change);
            settings.check_size(&inner.limits)?;
            let Settings { grants, config, limits, .. } = settings.clone();
            sqlx::query(
                "INSERT INTO settings (tenant, name, detail) VALUES (?, ?, ?) \
                 ON CONFLICT (tenant, name) DO UPDATE SET detail = excluded.detail",
            )
            .bind(&tenant)
            .bind(&name)
            .bind(encode(&Detail { grants, config, limits })?)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
            for (secret, value) in &secrets {
                store(&inner, &mut transaction, Place { tenant: &tenant, function: &name, secret }, value).await?;
            }
            transaction.commit().await.map_err(failed)?;
            Ok(settings)
        })
        .await
    }
}

async fn read(inner: &Inner, connection: &mut SqliteConnection, tenant: &str, name: &str) -> Result<Settings> {
    let failed = |error| database("reading settings", error);
    let Versions { kind, .. } = &inner.functions;
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM names WHERE tenant = ? AND kind = ? AND name = ? AND live IS NOT NULL)",
    )
    .bind(tenant)
    .bind(kind.as_str())
    .bind(name)
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    if !there {
        return Err(inner.functions.unknown(name));
    }
    let detail: Option<String> = sqlx::query_scalar("SELECT detail FROM settings WHERE tenant = ? AND name = ?")
        .bind(tenant)
        .bind(name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    let Some(detail) = detail else { return Ok(Settings::default()) };
    let Detail { grants, config, limits } = decode(&detail)?;
    let sealed: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT secret, sealed FROM secrets WHERE tenant = ? AND name = ?")
            .bind(tenant)
            .bind(name)
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    let open = |(secret, sealed): (String, Vec<u8>)| {
        let value = inner.vault.open(Place { tenant, function: name, secret: &secret }, &sealed);
        (secret, value)
    };
    Ok(Settings { grants, config, limits, secrets: sealed.into_iter().map(open).collect() })
}

async fn store(
    inner: &Inner,
    connection: &mut SqliteConnection,
    place: Place<'_>,
    value: &Option<Secret>,
) -> Result<()> {
    let Place { tenant, function, secret } = place;
    let done = match value {
        None => {
            sqlx::query("DELETE FROM secrets WHERE tenant = ? AND name = ? AND secret = ?")
                .bind(tenant)
                .bind(function)
                .bind(secret)
                .execute(connection)
                .await
        }
        Some(value) => {
            sqlx::query(
                "INSERT INTO secrets (tenant, name, secret, sealed) VALUES (?, ?, ?, ?) \
                 ON CONFLICT (tenant, name, secret) DO UPDATE SET sealed = excluded.sealed",
            )
            .bind(tenant)
            .bind(function)
            .bind(secret)
            .bind(inner.vault.seal(place, value)?)
            .execute(connection)
            .await
        }
    };
    done.map(drop).map_err(|error| database("storing a secret", error))
}

/// Removes the settings of a deleted function.
pub(super) async fn delete(connection: &mut SqliteConnection, tenant: &str, name: &str) -> sqlx::Result<()> {
    for statement in
        ["DELETE FROM settings WHERE tenant = ? AND name = ?", "DELETE FROM secrets WHERE tenant = ? AND name = ?"]
    {
        sqlx::query(statement).bind(tenant).bind(name).execute(&mut *connection).await?;
    }
    Ok(())
}
