//! Stores which versions of models are pinned, and the priority by which others are evicted; it never loads a model.

use super::{Catalog, database};
use crate::error::{Error, Result};
use crate::model::Pin;
use sqlx::SqlitePool;

/// A version of a model with a stored pin or priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedModel {
    /// The model's tenant.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// The version.
    pub version: u64,
    /// The digest of its package.
    pub digest: String,
    /// The pin for all models of this digest together; see [`Catalog::pin_of`].
    pub pin: Pin,
}

impl Catalog {
    /// Stores the pin of a version of a model, until it is changed or the model is deleted; the default removes the row. On
    /// return it is durable.
    ///
    /// Errors: `not-found` where there is no such version (any more).
    pub async fn set_pin(&self, tenant: &str, name: &str, version: u64, pin: Pin) -> Result<()> {
        let (inner, tenant, name) = self.owned(tenant, name);
        self.change(async move { set(&inner.models.pool, &tenant, &name, version, pin).await }).await
    }

    /// The pin for all models of a digest, over all tenants: pinned if any of them is pinned, and the highest priority. They
    /// share one copy in memory.
    pub async fn pin_of(&self, digest: &str) -> Result<Pin> {
        let asked: (Option<bool>, Option<u8>) = sqlx::query_as(
            "SELECT max(p.pinned), max(p.priority) FROM pins p JOIN versions v \
                  ON v.tenant = p.tenant AND v.kind = p.kind AND v.name = p.name AND v.version = p.version \
             WHERE v.digest = ?",
        )
        .bind(digest)
        .fetch_one(&self.inner.models.pool)
        .await
        .map_err(|error| database("reading the pins of models", error))?;
        Ok(Pin { pinned: asked.0.unwrap_or_default(), priority: asked.1.unwrap_or_default() })
    }

    /// Every version with a stored pin or priority.
    pub async fn pins(&self) -> Result<Vec<PinnedModel>> {
        let rows: Vec<(String, String, i64, String)> = sqlx::query_as(
            "SELECT p.tenant, p.name, p.version, v.digest FROM pins p JOIN versions v \
                  ON v.tenant = p.tenant AND v.kind = p.kind AND v.name = p.name AND v.version = p.version \
             ORDER BY p.priority DESC, p.tenant, p.name, p.version",
        )
        .fetch_all(&self.inner.models.pool)
        .await
        .map_err(|error| database("reading the pins of models", error))?;
        let mut pins = Vec::with_capacity(rows.len());
        for (tenant, name, version, digest) in rows {
            let version = u64::try_from(version).map_err(|error| Error::host("reading the pins of models", error))?;
            let pin = self.pin_of(&digest).await?;
            pins.push(PinnedModel { tenant, name, version, digest, pin });
        }
        Ok(pins)
    }
}

async fn set(pool: &SqlitePool, tenant: &str, name: &str, version: u64, pin: Pin) -> Result<()> {
    let failed = |error| database("storing a model's pin", error);
    let number = i64::try_from(version).unwrap_or(-1);
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    sqlx::query("DELETE FROM pins WHERE tenant = ? AND name = ? AND version = ?")
        .bind(tenant)
        .bind(name)
        .bind(number)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    if pin != Pin::default() {
        let stored = sqlx::query(
            "INSERT INTO pins (tenant, kind, name, version, pinned, priority) \
             SELECT tenant, kind, name, version, ?, ? FROM versions \
             WHERE tenant = ? AND kind = 'model' AND name = ? AND version = ?",
        )
        .bind(pin.pinned)
        .bind(pin.priority)
        .bind(tenant)
        .bind(name)
        .bind(number)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        if stored.rows_affected() == 0 {
            return Err(Error::not_found(format!("model '{name}' has no version {version}")));
        }
    }
    transaction.commit().await.map_err(failed)
}
