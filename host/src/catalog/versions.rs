//! The catalog's tables that functions and models share: names, versions, aliases; it never interprets the column `detail`.

use super::names::{At, Selector};
use super::{Put, database};
use crate::error::{Error, Result};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _, SqlitePool};
use std::collections::BTreeMap;

/// The kinds of things that have names, versions and aliases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Kind {
    Function,
    Model,
}

impl Kind {
    /// The word in the schema and in messages.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One version as it is stored.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) version: u64,
    pub(super) digest: String,
    pub(super) bytes: u64,
    pub(super) detail: String,
    /// As in `2026-01-31T12:00:00Z`.
    pub(super) created_at: String,
}

impl FromRow<'_, SqliteRow> for Row {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Row> {
        let number = |column| {
            let value: i64 = row.try_get(column)?;
            u64::try_from(value).map_err(|error| sqlx::Error::Decode(error.into()))
        };
        Ok(Row {
            name: row.try_get("name")?,
            version: number("version")?,
            digest: row.try_get("digest")?,
            bytes: number("bytes")?,
            detail: row.try_get("detail")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// A version to store.
pub(super) struct New {
    pub(super) digest: String,
    pub(super) bytes: u64,
    pub(super) detail: String,
    /// Every blob that it needs.
    pub(super) blobs: Vec<String>,
}

/// Names of one kind in the database.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    pub(super) pool: SqlitePool,
    pub(super) kind: Kind,
}

impl Versions {
    /// Whether any tenant has a version of this digest.
    pub(super) async fn has(&self, digest: &str) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM versions WHERE digest = ? AND kind = ?)")
            .bind(digest)
            .bind(self.kind.as_str())
            .fetch_one(&self.pool)
            .await
            .map_err(|error| database("looking a version up", error))
    }

    /// Stores a version and makes it live. If a version with this digest exists, it becomes live, and its detail is replaced. On
    /// return the change is durable.
    pub(super) async fn put(&self, tenant: &str, name: &str, new: &New) -> Result<Put> {
        let failed = |error| database("storing a version", error);
        let kind = self.kind.as_str();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        sqlx::query("INSERT INTO names (tenant, kind, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(tenant)
            .bind(kind)
            .bind(name)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let there: Option<i64> = sqlx::query_scalar(
            "UPDATE versions SET detail = ? WHERE tenant = ? AND kind = ? AND name = ? AND digest = ? RETURNING version",
        )
        .bind(&new.detail)
        .bind(tenant)
        .bind(kind)
        .bind(name)
        .bind(&new.digest)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
        let version = match there {
            Some(version) => version,
            None => {
                let version: i64 = sqlx::query_scalar(
                    "UPDATE names SET next_version = next_version + 1 WHERE tenant = ? AND kind = ? AND name = ? \
                     RETURNING next_version - 1",
                )
                .bind(tenant)
                .bind(kind)
                .bind(name)
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed)?;
                sqlx::query(
                    "INSERT INTO versions (tenant, kind, name, version, digest, bytes, detail, created_at) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
                )
                .bind(tenant)
                .bind(kind)
                .bind(name)
                .bind(version)
                .bind(&new.digest)
                .bind(stored(new.bytes)?)
                .bind(&new.detail)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
                for blob in &new.blobs {
                    sqlx::query(
                        "INSERT INTO version_blobs (tenant, kind, name, version, digest) VALUES (?, ?, ?, ?, ?) \
                         ON CONFLICT DO NOTHING",
                    )
                    .bind(tenant)
                    .bind(kind)
                    .bind(name)
                    .bind(version)
                    .bind(blob)
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed)?;
                }
                version
            }
        };
        sqlx::query("UPDATE names SET live = ? WHERE tenant = ? AND kind = ? AND name = ?")
            .bind(version)
            .bind(tenant)
            .bind(kind)
            .bind(name)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        let version = u64::try_from(version).map_err(|error| Error::host("storing a version", error))?;
        Ok(Put { version, created: there.is_none() })
    }

    /// The live version of every name of a tenant, by name.
    pub(super) async fn list(&self, tenant: &str) -> Result<Vec<Row>> {
        sqlx::query_as(
            "SELECT v.name, v.version, v.digest, v.bytes, v.detail, \
                    strftime('%Y-%m-%dT%H:%M:%SZ', v.created_at / 1000, 'unixepoch') AS created_at \
             FROM names n JOIN versions v \
                  ON v.tenant = n.tenant AND v.kind = n.kind AND v.name = n.name AND v.version = n.live \
             WHERE n.tenant = ? AND n.kind = ? ORDER BY n.name",
        )
        .bind(tenant)
        .bind(self.kind.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(|error| database("listing the catalog", error))
    }

    /// Every version of a name, oldest first, which of them is live, and the aliases.
    pub(super) async fn detail(&self, tenant: &str, name: &str) -> Result<(Vec<Row>, u64, BTreeMap<String, u64>)> {
        let failed = |error| database("reading the catalog", error);
        let kind = self.kind.as_str();
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        let live: Option<i64> = sqlx::query_scalar(
            "SELECT live FROM names WHERE tenant = ? AND kind = ? AND name = ? AND live IS NOT NULL",
        )
        .bind(tenant)
        .bind(kind)
        .bind(name)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
        let live = live.and_then(|live| u64::try_from(live).ok()).ok_or_else(|| self.unknown(name))?;
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT name, version, digest, bytes, detail, \
                    strftime('%Y-%m-%dT%H:%M:%SZ', created_at / 1000, 'unixepoch') AS created_at \
             FROM versions WHERE tenant = ? AND kind = ? AND name = ? ORDER BY version",
        )
        .bind(tenant)
        .bind(kind)
        .bind(name)
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed)?;
        let aliases: Vec<(String, i64)> =
            sqlx::query_as("SELECT alias, version FROM aliases WHERE tenant = ? AND kind = ? AND name = ?")
                .bind(tenant)
                .bind(kind)
                .bind(name)
                .fetch_all(&mut *transaction)
                .await
                .map_err(failed)?;
        let aliases = aliases.into_iter().filter_map(|(alias, version)| Some((alias, u64::try_from(version).ok()?)));
        Ok((rows, live, aliases.collect()))
    }

    /// Removes all versions and aliases of a name. Gives the digests that may have lost their last reference.
    pub(super) async fn delete(&self, tenant: &str, name: &str) -> Result<Vec<String>> {
        let failed = |error| database("deleting from the catalog", error);
        let kind = self.kind.as_str();
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let mut digests: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT digest FROM version_blobs WHERE tenant = ? AND kind = ? AND name = ?")
                .bind(tenant)
                .bind(kind)
                .bind(name)
                .fetch_all(&mut *transaction)
                .await
                .map_err(failed)?;
        let versions: Vec<String> =
            sqlx::query_scalar("DELETE FROM versions WHERE tenant = ? AND kind = ? AND name = ? RETURNING digest")
                .bind(tenant)
                .bind(kind)
                .bind(name)
                .fetch_all(&mut *transaction)
                .await
                .map_err(failed)?;
        if versions.is_empty() {
            return Err(self.unknown(name));
        }
        match self.kind {
            Kind::Function => super::settings::delete(&mut transaction, tenant, name).await.map_err(failed)?,
            Kind::Model => {}
        }
        sqlx::query("UPDATE names SET live = NULL WHERE tenant = ? AND kind = ? AND name = ?")
            .bind(tenant)
            .bind(kind)
            .bind(name)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        digests.extend(versions);
        Ok(digests)
    }

    /// Points an alias to a version.
    pub(super) async fn set_alias(&self, tenant: &str, name: &str, alias: &str, version: u64) -> Result<()> {
        let failed = |error| database("setting an alias", error);
        let done = sqlx::query(
            "INSERT INTO aliases (tenant, kind, name, alias, version) \
             SELECT tenant, kind, name, ?, version FROM versions \
             WHERE tenant = ? AND kind = ? AND name = ? AND version = ? \
             ON CONFLICT (tenant, kind, name, alias) DO UPDATE SET version = excluded.version",
        )
        .bind(alias)
        .bind(tenant)
        .bind(self.kind.as_str())
        .bind(name)
        .bind(i64::try_from(version).unwrap_or(-1))
        .execute(&self.pool)
        .await
        .map_err(failed)?;
        if done.rows_affected() == 0 {
            return Err(self.missing(tenant, name, &At::Version(version)).await);
        }
        Ok(())
    }

    /// Removes an alias.
    pub(super) async fn delete_alias(&self, tenant: &str, name: &str, alias: &str) -> Result<()> {
        let done = sqlx::query("DELETE FROM aliases WHERE tenant = ? AND kind = ? AND name = ? AND alias = ?")
            .bind(tenant)
            .bind(self.kind.as_str())
            .bind(name)
            .bind(alias)
            .execute(&self.pool)
            .await
            .map_err(|error| database("deleting an alias", error))?;
        if done.rows_affected() == 0 {
            return Err(self.missing(tenant, name, &At::Alias(alias.to_owned())).await);
        }
        Ok(())
    }

    /// The version that a selector currently means.
    pub(super) async fn resolve(&self, tenant: &str, selector: &Selector) -> Result<Row> {
        let kind = self.kind.as_str();
        let name = selector.name.as_str();
        let query = match &selector.at {
            At::Live => sqlx::query_as(
                "SELECT v.name, v.version, v.digest, v.bytes, v.detail, '' AS created_at FROM names n JOIN versions v \
                      ON v.tenant = n.tenant AND v.kind = n.kind AND v.name = n.name AND v.version = n.live \
                 WHERE n.tenant = ? AND n.kind = ? AND n.name = ?",
            )
            .bind(tenant)
            .bind(kind)
            .bind(name),
            At::Version(version) => sqlx::query_as(
                "SELECT name, version, digest, bytes, detail, '' AS created_at FROM versions \
                 WHERE tenant = ? AND kind = ? AND name = ? AND version = ?",
            )
            .bind(tenant)
            .bind(kind)
            .bind(name)
            .bind(i64::try_from(*version).unwrap_or(-1)),
            At::Alias(alias) => sqlx::query_as(
                "SELECT v.name, v.version, v.digest, v.bytes, v.detail, '' AS created_at FROM aliases a JOIN versions v \
                      ON v.tenant = a.tenant AND v.kind = a.kind AND v.name = a.name AND v.version = a.version \
                 WHERE a.tenant = ? AND a.kind = ? AND a.name = ? AND a.alias = ?",
            )
            .bind(tenant)
            .bind(kind)
            .bind(name)
            .bind(alias.as_str()),
        };
        let row = query.fetch_optional(&self.pool).await.map_err(|error| database("reading the catalog", error))?;
        match row {
            Some(row) => Ok(row),
            None => Err(self.missing(tenant, name, &selector.at).await),
        }
    }

    pub(super) fn unknown(&self, name: &str) -> Error {
        Error::not_found(format!("no {} is called '{name}'", self.kind.as_str()))
    }

    /// Why nothing was found: the name, or the part after '@'.
    async fn missing(&self, tenant: &str, name: &str, at: &At) -> Error {
        const SHOWN: usize = 20;
        let (rows, _, aliases) = match self.detail(tenant, name).await {
            Ok(detail) => detail,
            Err(error) => return error,
        };
        let kind = self.kind.as_str();
        match at {
            At::Live => self.unknown(name),
            At::Version(version) => {
                let newest: Vec<_> = rows.iter().rev().take(SHOWN).map(|row| row.version.to_string()).collect();
                Error::not_found(format!("{kind} '{name}' has no version {version}; it has {}", newest.join(", ")))
            }
            At::Alias(alias) if aliases.is_empty() => {
                Error::not_found(format!("{kind} '{name}' has no alias '{alias}', and no other"))
            }
            At::Alias(alias) => {
                let some: Vec<_> = aliases.keys().take(SHOWN).map(String::as_str).collect();
                Error::not_found(format!("{kind} '{name}' has no alias '{alias}'; it has {}", some.join(", ")))
            }
        }
    }
}

/// Whether a version needs this blob, or is this package.
pub(super) async fn referenced(pool: &SqlitePool, digest: &str) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM version_blobs WHERE digest = ?1) \
             OR EXISTS (SELECT 1 FROM versions WHERE digest = ?1)",
    )
    .bind(digest)
    .fetch_one(pool)
    .await
    .map_err(|error| database("looking for what nothing refers to", error))
}

fn stored(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::too_large(format!("{number} bytes are more than the catalog can count")))
}
