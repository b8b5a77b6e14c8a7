//! The catalog's schema and the migrations to it; it never reads or writes the catalog's rows.

use super::database;
use crate::error::{Error, Result};
use sqlx::SqlitePool;

/// Each entry migrates from the previous version to its own, counted from 1. A released entry never changes.
///
/// Keys begin with the tenant. `kind` is 'function' or 'model': both have names, versions, aliases and blobs, and `detail` is the
/// JSON specific to the kind. Times are milliseconds since 1970. A row of `names` outlives the deletion of its versions, so that
/// a version number is never used twice.
///
/// Settings belong to a function, not to a version, and are deleted with it. A secret's value is sealed (see vault.rs). A pin
/// belongs to one version of a model.
const STEPS: &[&str] = &[
    "
    CREATE TABLE names (
        tenant       TEXT    NOT NULL,
        kind         TEXT    NOT NULL CHECK (kind IN ('function', 'model')),
        name         TEXT    NOT NULL,
        next_version INTEGER NOT NULL DEFAULT 1,
        live         INTEGER,
        PRIMARY KEY (tenant, kind, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE versions (
        tenant     TEXT    NOT NULL,
        kind       TEXT    NOT NULL,
        name       TEXT    NOT NULL,
        version    INTEGER NOT NULL CHECK (version > 0),
        digest     TEXT    NOT NULL,
        bytes      INTEGER NOT NULL,
        detail     TEXT    NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, kind, name, version),
        UNIQUE (tenant, kind, name, digest),
        FOREIGN KEY (tenant, kind, name) REFERENCES names (tenant, kind, name)
    ) STRICT;
    CREATE INDEX versions_by_digest ON versions (digest);

    CREATE TABLE aliases (
        tenant  TEXT    NOT NULL,
        kind    TEXT    NOT NULL,
        name    TEXT    NOT NULL,
        alias   TEXT    NOT NULL,
        version INTEGER NOT NULL,
        PRIMARY KEY (tenant, kind, name, alias),
        FOREIGN KEY (tenant, kind, name, version) REFERENCES versions (tenant, kind, name, version) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX aliases_by_version ON aliases (tenant, kind, name, version);

    CREATE TABLE version_blobs (
        tenant  TEXT    NOT NULL,
        kind    TEXT    NOT NULL,
        name    TEXT    NOT NULL,
        version INTEGER NOT NULL,
        digest  TEXT    NOT NULL,
        PRIMARY KEY (tenant, kind, name, version, digest),
        FOREIGN KEY (tenant, kind, name, version) REFERENCES versions (tenant, kind, name, version) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX version_blobs_by_digest ON version_blobs (digest);
",
    "
    CREATE TABLE settings (
        tenant TEXT NOT NULL,
        name   TEXT NOT NULL,
        detail TEXT NOT NULL,
        PRIMARY KEY (tenant, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE secrets (
        tenant TEXT NOT NULL,
        name   TEXT NOT NULL,
        secret TEXT NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (tenant, name, secret)
    ) STRICT, WITHOUT ROWID;
",
    // What the check of a model found on each engine. Older models were loaded by onnxruntime.
    r#"
    UPDATE versions SET detail = json_set(detail, '$.checked', json('{
        "engine": "auto",
        "engines": [
            {"engine": "onnxruntime", "version": "", "passed": true, "runs": 0, "samples": 0, "compared": 0}
        ]
    }')) WHERE kind = 'model';
"#,
    "
    CREATE TABLE pins (
        tenant   TEXT    NOT NULL,
        kind     TEXT    NOT NULL CHECK (kind = 'model'),
        name     TEXT    NOT NULL,
        version  INTEGER NOT NULL,
        pinned   INTEGER NOT NULL CHECK (pinned IN (0, 1)),
        priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 255),
        PRIMARY KEY (tenant, kind, name, version),
        FOREIGN KEY (tenant, kind, name, version) REFERENCES versions (tenant, kind, name, version) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
",
];

/// Migrates the schema to the newest version, each step in its own transaction.
///
/// Errors: `conflict` if a newer hearth made the catalog.
pub(super) async fn migrate(pool: &SqlitePool) -> Result<()> {
    let failed = |error| database("preparing the catalog", error);
    sqlx::query("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL PRIMARY KEY) STRICT")
        .execute(pool)
        .await
        .map_err(failed)?;
    let found: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM schema_version")
        .fetch_one(pool)
        .await
        .map_err(failed)?;
    let newest = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if found > newest {
        return Err(Error::conflict(format!(
            "the catalog has schema version {found} and this hearth knows up to {newest}; run the newer hearth, or name \
             another folder with --data"
        )));
    }
    for (version, step) in (1_i64..).zip(STEPS).skip(usize::try_from(found).unwrap_or(0)) {
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        sqlx::raw_sql(*step).execute(&mut *transaction).await.map_err(failed)?;
        sqlx::query("INSERT INTO schema_version (version) VALUES (?)")
            .bind(version)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
    }
    Ok(())
}
